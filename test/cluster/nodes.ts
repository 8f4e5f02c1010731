// Three brokers and an etcd as users run them, each a process of its own on a directory that outlives it. A node can be killed, frozen, wiped and
// started again; who leads is read off what the brokers say.
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type BrokerExit, BrokerProcess } from '../crash/broker-process.js';

const WAIT_MS_MAX = 60_000;

export interface NodesOptions {
  /** URL, the same for all or of each. */
  readonly etcd: string | ((name: string) => string);
  /** A folder for the directories of all. */
  readonly folder: string;
  readonly names: readonly string[];
  readonly settings?: readonly string[];
  /** What one has beside those. */
  readonly settingsOf?: (name: string) => readonly string[];
  /** What runs the process of one, as in BrokerOptions. */
  readonly underOf?: (name: string) => readonly string[];
}

export class Nodes {
  readonly names: readonly string[];
  readonly #options: NodesOptions;
  readonly #running = new Map<string, BrokerProcess>();
  readonly #frozen = new Set<string>();

  constructor(options: NodesOptions) {
    this.#options = options;
    this.names = options.names;
  }

  /** Starts a node, and waits until clients can connect to it. */
  async start(name: string): Promise<BrokerProcess> {
    const broker = this.double(name, this.data(name));
    this.#running.set(name, broker);
    await broker.ready();
    return broker;
  }

  /** Starts a process as that of a node, which may run already. */
  double(name: string, data: string): BrokerProcess {
    const { etcd, names, settings = [], settingsOf, underOf } = this.#options;
    mkdirSync(data, { recursive: true });
    return new BrokerProcess({
      data,
      settings: [
        `node.id=${name}`,
        `cluster.etcd.endpoints=${typeof etcd === 'string' ? etcd : etcd(name)}`,
        'cluster.peer=127.0.0.1:0',
        `cluster.replicas=${names.length}`,
        ...settings,
        ...(settingsOf?.(name) ?? []),
      ],
      under: underOf?.(name) ?? [],
    });
  }

  async startAll(): Promise<void> {
    await Promise.all(this.names.filter((name) => !this.#running.has(name)).map((name) => this.start(name)));
  }

  /** The directory of a node. */
  data(name: string): string {
    return join(this.#options.folder, name);
  }

  broker(name: string): BrokerProcess | undefined {
    return this.#running.get(name);
  }

  /** Nodes whose process runs, frozen ones not. */
  get up(): string[] {
    return this.names.filter((name) => this.#running.has(name) && !this.#frozen.has(name));
  }

  get down(): string[] {
    return this.names.filter((name) => !this.#running.has(name));
  }

  ports(): number[] {
    return this.up.flatMap((name) => {
      const broker = this.#running.get(name)!;
      return broker.isReady ? [broker.port] : [];
    });
  }

  /** Who serves clients, as far as those that run have said. */
  get leader(): string | undefined {
    let leader: string | undefined;
    let epoch = -1;
    for (const name of this.up) {
      for (const line of this.#running.get(name)!.lines()) {
        if (line.message !== 'serves clients' || line.epoch === undefined || line.epoch <= epoch) continue;
        leader = name;
        ({ epoch } = line);
      }
    }
    return leader;
  }

  async waitForLeader(): Promise<string> {
    await this.until('somebody leads', () => this.leader !== undefined);
    return this.leader!;
  }

  /** Waits until something is so, looking again and again. */
  async until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
    const endMs = performance.now() + WAIT_MS_MAX;
    while (!(await isSo())) {
      if (performance.now() > endMs) throw new Error(`it is never so that ${what}:\n${this.diagnostics()}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Who is in sync, as far as the leader has said. */
  get inSync(): readonly string[] {
    const { leader } = this;
    const lines = leader === undefined ? [] : this.#running.get(leader)!.lines();
    return lines.flatMap(({ inSync }) => (inSync === undefined ? [] : [inSync])).at(-1) ?? [];
  }

  /** Waits until the leader has said that so many are in sync. */
  async waitForInSync(count: number): Promise<void> {
    await this.until(`${count} are in sync`, () => this.inSync.length === count);
  }

  async kill(name: string): Promise<void> {
    const broker = this.#running.get(name);
    if (broker === undefined) return;
    if (broker.hasEnded) {
      const { code, signal } = await broker.exit;
      throw new Error(`${name} ended by itself with ${code ?? signal}:\n${broker.stderr}`);
    }
    this.#running.delete(name);
    this.#frozen.delete(name);
    await broker.kill();
  }

  /** How a node ended that is expected to end by itself. */
  async ended(name: string): Promise<BrokerExit & { stderr: string }> {
    const broker = this.#running.get(name)!;
    const exit = await broker.ended();
    this.#running.delete(name);
    return { ...exit, stderr: broker.stderr };
  }

  /** A planned end. */
  async stop(name: string): Promise<void> {
    const broker = this.#running.get(name)!;
    this.#running.delete(name);
    await broker.stop();
  }

  freeze(name: string): void {
    process.kill(this.#running.get(name)!.pid, 'SIGSTOP');
    this.#frozen.add(name);
  }

  thaw(name: string): void {
    process.kill(this.#running.get(name)!.pid, 'SIGCONT');
    this.#frozen.delete(name);
  }

  /** Empties the directory of a node that does not run. */
  wipe(name: string): void {
    rmSync(this.data(name), { recursive: true, force: true });
  }

  /** No broker has ended by itself. */
  async check(): Promise<void> {
    for (const [name, broker] of this.#running) {
      if (!broker.hasEnded) continue;
      const { code, signal } = await broker.exit;
      throw new Error(`${name} ended by itself with ${code ?? signal}:\n${broker.stderr.slice(-6000)}`);
    }
  }

  async killAll(): Promise<void> {
    await Promise.all([...this.#running.values()].map((broker) => broker.kill()));
    this.#running.clear();
  }

  /** What the brokers that run have written, for the message of a failure. */
  diagnostics(): string {
    return [...this.#running]
      .map(([name, broker]) => `--- ${name}\n${broker.stderr.slice(-6000)}`)
      .join('\n');
  }
}
