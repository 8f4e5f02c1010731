// Owns how a cluster is started and what is known of it: three gomq with an etcd, all processes of this machine. Who leads and who is in sync is read off
// what the brokers say. Three NATS servers with JetStream, for comparison, are in nats.ts.
import { EtcdProcess } from '../scripts/etcd.js';
import { type Broker, startBroker } from './brokers.js';
import { newDataFolder, removeDataFolder } from './disk.js';
import type { Measured } from './measure.js';

export const NODES = ['a', 'b', 'c'] as const;
export type NodeName = (typeof NODES)[number];

const WAIT_MS_MAX = 60_000;
/** For what tells of itself by no line. */
const LOOK_EVERY_MS = 100;

/** One line of a broker's diagnostics. */
interface Line {
  message: string;
  epoch?: number;
  inSync?: NodeName[];
}

export class GomqCluster {
  readonly #etcd: EtcdProcess;
  readonly #settings: readonly string[];
  readonly #data = new Map<NodeName, string>();
  readonly #running = new Map<NodeName, Broker>();
  readonly #followedAtMs = new Map<NodeName, number>();
  readonly #waiting = new Set<() => void>();
  #serving: { node: NodeName; epoch: number; atMs: number } | undefined;
  #inSync: { nodes: readonly NodeName[]; epoch: number; atMs: number } = { nodes: [], epoch: 0, atMs: 0 };
  #changes = 0;

  private constructor(etcd: EtcdProcess, settings: readonly string[]) {
    this.#etcd = etcd;
    this.#settings = settings;
  }

  /** Starts all, and waits until one leads and the others are in sync. */
  static async start(settings: readonly string[] = []): Promise<GomqCluster> {
    const cluster = new GomqCluster(await EtcdProcess.start(), settings);
    try {
      await Promise.all(NODES.map((name) => cluster.start(name)));
      await cluster.whole();
    } catch (error) {
      await cluster.close();
      throw error;
    }
    return cluster;
  }

  /** Resolves when it takes connections. */
  async start(name: NodeName): Promise<void> {
    const data = this.#data.get(name) ?? newDataFolder();
    this.#data.set(name, data);
    this.#followedAtMs.delete(name);
    let rest = '';
    const broker = await startBroker('gomq', {
      data,
      settings: [
        ...['logger.level=info', 'logger.format=json', `node.id=${name}`, `cluster.replicas=${NODES.length}`],
        ...[`cluster.etcd.endpoints=${this.#etcd.endpoint}`, 'cluster.peer=127.0.0.1:0', ...this.#settings],
      ],
      onDiagnostics: (text) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop()!;
        for (const line of lines) if (line.startsWith('{')) this.#onLine(name, JSON.parse(line) as Line);
      },
    });
    this.#running.set(name, broker);
    this.#wake();
  }

  #onLine(name: NodeName, { message, epoch = 0, inSync }: Line): void {
    const atMs = performance.now();
    if (message === 'serves clients') {
      if (epoch > (this.#serving?.epoch ?? 0)) this.#serving = { node: name, epoch, atMs };
    } else if (message === 'leads the cluster' || message === 'the in-sync set has changed') {
      if (inSync === undefined || epoch < this.#inSync.epoch) return;
      this.#inSync = { nodes: inSync, epoch, atMs };
      this.#changes++;
    } else if (message === 'follows the leader') {
      this.#followedAtMs.set(name, atMs);
    } else return;
    this.#wake();
  }

  #wake(): void {
    for (const one of this.#waiting) one();
  }

  /** Who serves clients; undefined while nobody that runs does. */
  get leader(): NodeName | undefined {
    const node = this.#serving?.node;
    return node !== undefined && this.#running.has(node) ? node : undefined;
  }

  /** When the one that serves said so, on the clock of `performance`. */
  get servesSinceMs(): number {
    return this.#serving?.atMs ?? Number.NaN;
  }

  get epoch(): number {
    return this.#serving?.epoch ?? 0;
  }

  get inSync(): readonly NodeName[] {
    return this.#inSync.nodes;
  }

  /** When the in-sync set became what it is. */
  get inSyncSinceMs(): number {
    return this.#inSync.atMs;
  }

  /** How often leader or in-sync set have changed: a number of three replicas is of three where it stays the same. */
  get changes(): number {
    return this.#changes;
  }

  /** When a node last said that it follows; undefined where it has not since it was started. */
  followsSinceMs(name: NodeName): number | undefined {
    return this.#followedAtMs.get(name);
  }

  members(): NodeName[] {
    const { leader } = this;
    return NODES.filter((name) => name !== leader && this.#running.has(name));
  }

  port(name: NodeName): number {
    return this.#running.get(name)!.port;
  }

  dataOf(name: NodeName): string {
    return this.#data.get(name)!;
  }

  /** Load through one node is load on all. */
  through(name: NodeName): Measured {
    const { port, pid } = this.#running.get(name)!;
    const pids = [...this.#running.values()].map((broker) => broker.pid);
    return { port, pid, pids, failure: () => this.#failure() };
  }

  /** Waits for a leader and all in sync. */
  async whole(): Promise<NodeName> {
    const isWhole = () =>
      this.leader !== undefined && this.epoch === this.#inSync.epoch && this.inSync.length === NODES.length;
    await this.until(isWhole, 'all are in sync');
    return this.leader!;
  }

  /** Ends a node as a crash does. */
  async kill(name: NodeName): Promise<void> {
    const broker = this.#leave(name);
    await broker.kill();
  }

  /** Ends a node as planned. */
  async stop(name: NodeName): Promise<void> {
    const broker = this.#leave(name);
    await broker.stop();
  }

  #leave(name: NodeName): Broker {
    const failure = this.#failure();
    if (failure !== undefined) throw new Error(failure);
    const broker = this.#running.get(name)!;
    this.#running.delete(name);
    return broker;
  }

  /** Ends all, and removes what they kept. */
  async close(): Promise<void> {
    const brokers = [...this.#running.values()];
    this.#running.clear();
    await Promise.all(brokers.map((broker) => broker.kill()));
    await this.#etcd.remove();
    for (const data of this.#data.values()) removeDataFolder(data);
  }

  async until(isThere: () => boolean, what: string): Promise<void> {
    const endMs = performance.now() + WAIT_MS_MAX;
    while (!isThere()) {
      const failure = this.#failure();
      if (failure !== undefined) throw new Error(failure);
      if (performance.now() > endMs) {
        const { leader = 'nobody', inSync } = this;
        throw new Error(
          `waited ${WAIT_MS_MAX / 1000} s until ${what}: ${leader} leads, ${inSync.join(', ')} are in sync`,
        );
      }
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, LOOK_EVERY_MS);
        this.#waiting.add(wake);
      });
    }
  }

  #failure(): string | undefined {
    for (const [name, broker] of this.#running) {
      const failure = broker.failure();
      if (failure !== undefined) return `node ${name}: ${failure}`;
    }
    return undefined;
  }
}
