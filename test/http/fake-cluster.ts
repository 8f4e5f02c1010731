// A cluster for the HTTP API to show and to ask, which a test arranges as it likes.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { GomqError } from '../../src/core/errors.js';
import type { HttpCluster, HttpClusterStatus } from '../../src/http/cluster.js';

export class FakeCluster implements HttpCluster {
  node = 'a';
  serving = true;
  /** It leads, and serves nobody yet. */
  isWaiting = false;
  /** Where another node that leads takes what is passed on; undefined where nobody does. */
  leaderPort: number | undefined = undefined;
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

  isLeading(): boolean {
    return this.serving || this.isWaiting;
  }

  leader(): string | undefined {
    return this.leaderPort === undefined ? undefined : 'the other';
  }

  async openLeader(): Promise<Socket> {
    const socket = connect(this.leaderPort!, '127.0.0.1');
    await once(socket, 'connect').catch((cause: unknown) => {
      throw new GomqError('PEER_UNREACHABLE', 'cannot connect to the leader', { retriable: true, cause });
    });
    // As a connection between brokers is.
    return socket.pause();
  }

  async stepDown(): Promise<void> {
    this.#note('step-down');
  }

  async removeNode(node: string): Promise<void> {
    this.#note(`remove ${node}`);
  }

  async forceLead(): Promise<void> {
    this.#note('force-lead');
  }

  #note(what: string): void {
    if (this.failure !== undefined) throw this.failure;
    this.asked.push(what);
  }
}
