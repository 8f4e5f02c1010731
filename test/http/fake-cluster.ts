// A cluster for the HTTP API to show and to ask, which a test arranges as it likes.
import type { GomqError } from '../../src/core/errors.js';
import type { HttpCluster, HttpClusterStatus } from '../../src/http/cluster.js';

export class FakeCluster implements HttpCluster {
  node = 'a';
  serving = true;
  leader: string | undefined = undefined;
  failure: GomqError | undefined = undefined;
  /** What it was asked to do. */
  asked: string[] = [];

  status(): HttpClusterStatus {
    const member = { logEnd: 7, lagRecords: 0, inSync: true, mqtt: '127.0.0.1:9000', http: '127.0.0.1:8000' };
    return {
      cluster: 'gomq',
      leader: this.serving ? this.node : null,
      epoch: 3,
      highWatermark: 7,
      inSync: [this.node],
      members: [{ node: this.node, role: 'leader', ...member }],
      replicas: 1,
      minInSync: 1,
    };
  }

  isServing(): boolean {
    return this.serving;
  }

  leaderHttp(): string | undefined {
    return this.leader;
  }

  async stepDown(): Promise<void> {
    this.#note('step-down');
  }

  async removeNode(node: string): Promise<void> {
    this.#note(`remove ${node}`);
  }

  #note(what: string): void {
    if (this.failure !== undefined) throw this.failure;
    this.asked.push(what);
  }
}
