// Rounds of load and faults on a whole cluster: publishers and subscribers that go to any broker, something that breaks in each round and is mended
// again; at the end everything is drained and the ledger is closed. The schedule comes from a seed, and the timing from the machine.
import type { TestContext } from 'node:test';
import type { EtcdProcess } from '../../scripts/etcd.js';
import { Ledger } from '../crash/ledger.js';
import { Publisher } from '../crash/publisher.js';
import { Random, seedOf } from '../crash/random.js';
import { checkRetained } from '../crash/retained.js';
import { Subscriber } from '../crash/subscriber.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes, type NodesOptions } from './nodes.js';

export const FAULTS = [
  'kill the leader',
  'kill a member',
  'stop the leader',
  'kill all',
  'freeze the leader',
  'wipe a member',
  'kill the leader and a member',
  'kill etcd',
  'kill etcd and the leader',
  'restart all, one after the other',
] as const;
export type Fault = (typeof FAULTS)[number] | OwnFault;

/** One that only the test knows which has it. */
export interface OwnFault {
  readonly what: string;
  /** Breaks something, and resolves when that is mended: within a bound new messages are acknowledged again, and all nodes are in sync. */
  breaks(round: Round): Promise<void>;
}

/** What a fault of a test finds. */
export interface Round {
  readonly nodes: Nodes;
  readonly etcd: EtcdProcess;
  readonly leader: string;
  /** The others, in an order that is drawn. */
  readonly members: readonly [string, string];
  /** Fails where anything that is published from now on is acknowledged within `forMs`; STANDSTILL_MS where absent. */
  standsStill(forMs?: number): Promise<void>;
  /** Resolves when so many things have happened to messages; drawn where absent. */
  progress(count?: number): Promise<void>;
  /** One publisher is taken away from the node that it is connected to, and goes to any that takes it. */
  moveOne(): void;
}

export interface ClusterRoundsOptions {
  readonly random: Random;
  readonly nodes: Nodes;
  readonly etcd: EtcdProcess;
  readonly faults: readonly Fault[];
  /** Some hundred messages a second, rather than as many as there can be. */
  readonly isLight?: boolean;
  readonly onRound?: (round: number, fault: string) => void;
}

export interface ClusterRoundsResult {
  acknowledged: number;
  delivered: number;
  again: number;
  /** The longest time without any acknowledgement or delivery. */
  gapMs: number;
}

/** Each of the faults once, in an order that is drawn, on a cluster of three of its own under a light load. */
export async function runFaults(
  context: TestContext,
  faults: readonly OwnFault[],
  options: Partial<NodesOptions> = {},
  etcd?: EtcdProcess,
): Promise<void> {
  const seed = seedOf(process.env);
  context.diagnostic(`SEED=${seed}`);
  const random = new Random(seed);
  const judge = etcd ?? (await startEtcd(context));
  const result = await new ClusterRounds({
    random,
    etcd: judge,
    nodes: new Nodes({
      etcd: judge.endpoint,
      folder: temporaryFolder(),
      names: ['a', 'b', 'c'],
      settings: ['cluster.leaseSeconds=1'],
      ...options,
    }),
    isLight: true,
    faults: random.shuffle(faults),
    onRound: (round, fault) => context.diagnostic(`${round + 1}: ${fault}`),
  }).run();
  context.diagnostic(JSON.stringify(result));
}

/** Nothing comes for so long: it is lost, or hangs. */
const SILENCE_MS = 30_000;
const RETRY_MS = 20;
/** How long it takes at most, once everything works again, until what is published is acknowledged: some leases of a second, on a machine with much to do. */
const RESUME_MS_MAX = 10_000;
/** In this time far more is acknowledged than was under way at its begin, where nothing is broken. */
const STANDSTILL_MS = 500;
/** How many messages of a publisher may be unacknowledged. */
const WINDOWS = [1, 10, 40];
/** A light load: those of another one, and how often each publisher is allowed one more. */
const LIGHT_WINDOWS = [1, 10];
const LIGHT_EVERY_MS = 10;
/** What a broker without a leader answers. */
const REFUSED = /refused with (136|3)$/;

type Client = Publisher | Subscriber;

export class ClusterRounds {
  readonly #options: ClusterRoundsOptions;
  readonly #ledger = new Ledger();
  readonly #publishers: Publisher[] = [];
  readonly #subscribers: Subscriber[] = [];
  #isOver = false;
  #pace: NodeJS.Timeout | undefined = undefined;
  #lastEntryMs = performance.now();
  #gapMs = 0;
  #entries = 0;
  #onEntries: { readonly at: number; readonly resolve: () => void } | undefined = undefined;

  constructor(options: ClusterRoundsOptions) {
    this.#options = options;
    const { random } = options;
    const ledger = this.#ledger;
    ledger.onEntry = () => this.#onEntry();
    for (const qos of [1, 2] as const) {
      for (const version of [4, 5] as const) {
        const publisher = `pub${qos}v${version}`;
        this.#publishers.push(
          new Publisher({
            ledger,
            random,
            name: publisher,
            version,
            qos,
            topics: [`c/${publisher}/0`, `c/${publisher}/1`],
            retainedTopics: [`r/${publisher}/0`],
            window: random.pick(this.#windows),
            paddingBytesMax: 300,
          }),
        );
        const name = `all${qos}v${version}`;
        const inbox = ledger.inbox(name, qos);
        const filters = ['c/#', 'r/#'];
        this.#subscribers.push(
          new Subscriber({ ledger, random, name, version, qos, filters, inbox, ackDelayMsMax: 0 }),
        );
      }
      const inbox = ledger.inbox(`group${qos}`, qos, true);
      for (const member of ['a', 'b']) {
        const name = `member${qos}${member}`;
        const filters = [`$share/g${qos}/c/#`];
        this.#subscribers.push(
          new Subscriber({ ledger, random, name, version: 5, qos, filters, inbox, ackDelayMsMax: 3 }),
        );
      }
    }
  }

  async run(): Promise<ClusterRoundsResult> {
    const { faults, nodes, onRound } = this.#options;
    const ledger = this.#ledger;
    try {
      await nodes.startAll();
      await nodes.waitForLeader();
      for (const subscriber of this.#subscribers) this.#keep(subscriber);
      await ledger.whileRight(this.#until(() => this.#subscribers.every((one) => one.hasSubscribed)));
      for (const publisher of this.#publishers) this.#keep(publisher);
      this.#lastEntryMs = performance.now();
      this.#gapMs = 0;
      this.#allow();
      for (const [round, fault] of faults.entries()) {
        await ledger.whileRight(this.#progress(this.#some()));
        const what = typeof fault === 'string' ? fault : fault.what;
        ledger.note(`round ${round}: ${what}`);
        if (typeof fault === 'string') await this.#break(fault);
        else await this.#breakOwn(fault);
        await ledger.whileRight(this.#progress(this.#some()));
        ledger.check();
        await nodes.check();
        onRound?.(round, what);
      }
      clearInterval(this.#pace);
      for (const publisher of this.#publishers) publisher.halt();
      await ledger.whileRight(Promise.all(this.#publishers.map((publisher) => publisher.idle())));
      await ledger.settled(SILENCE_MS);
      await ledger.whileRight(this.#checkRetained());
      ledger.check();
      await nodes.check();
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${nodes.diagnostics()}`, { cause: error });
    } finally {
      this.#isOver = true;
      clearInterval(this.#pace);
      for (const client of [...this.#publishers, ...this.#subscribers]) client.drop();
      await nodes.killAll();
    }
    const { acknowledged, delivered, again } = ledger.counters;
    return { acknowledged, delivered, again, gapMs: this.#gapMs };
  }

  /** What is retained has outlived all that broke, at whichever node one asks. */
  async #checkRetained(): Promise<void> {
    const { random, nodes } = this.#options;
    const ledger = this.#ledger;
    await nodes.waitForInSync(nodes.names.length);
    const late = new Promise<never>((_resolve, reject) => {
      const error = new Error(`waited for retained messages for ${SILENCE_MS} ms`);
      setTimeout(reject, SILENCE_MS, error).unref();
    });
    await Promise.race([checkRetained(ledger, random.pick(nodes.ports())), late]);
  }

  get #windows(): readonly number[] {
    return this.#options.isLight === true ? LIGHT_WINDOWS : WINDOWS;
  }

  #some(): number {
    const { random, isLight } = this.#options;
    return isLight === true ? random.integer(50, 300) : random.integer(200, 2000);
  }

  /** Has all publish until they are halted. */
  #allow(): void {
    const allow = (count: number): void => {
      for (const publisher of this.#publishers) publisher.allow(count);
    };
    if (this.#options.isLight === true) this.#pace = setInterval(() => allow(1), LIGHT_EVERY_MS);
    else allow(Number.MAX_SAFE_INTEGER);
  }

  /** Has a client connected to any broker until all is over. */
  #keep(client: Client): void {
    const keep = async (): Promise<void> => {
      while (!this.#isOver) {
        const ports = this.#options.nodes.ports();
        if (ports.length > 0 && (await this.#connect(client, this.#options.random.pick(ports)))) {
          await client.closed();
        }
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    };
    keep().catch((error: Error) => {
      if (!this.#isOver) this.#ledger.fail(error.stack ?? error.message);
    });
  }

  async #connect(client: Client, port: number): Promise<boolean> {
    try {
      return await client.connect(port);
    } catch (error) {
      if (REFUSED.test((error as Error).message)) return false;
      throw error;
    }
  }

  async #breakOwn(fault: OwnFault): Promise<void> {
    const { nodes, etcd, random } = this.#options;
    const ledger = this.#ledger;
    await ledger.whileRight(nodes.waitForInSync(nodes.names.length));
    const leader = nodes.leader!;
    const members = random.shuffle(nodes.names.filter((name) => name !== leader)) as [string, string];
    const acknowledged = () => ledger.counters.acknowledged;
    const progress = (count = this.#some()) => this.#progress(count);
    const standsStill = async (forMs = STANDSTILL_MS): Promise<void> => {
      const newer = this.#newer();
      await new Promise((resolve) => setTimeout(resolve, forMs));
      if (acknowledged() >= newer)
        throw new Error('messages are acknowledged while the cluster should stand still');
    };
    const moveOne = () => this.#publishers[0]!.drop();
    const work = fault.breaks({ nodes, etcd, leader, members, standsStill, progress, moveOne });
    await ledger.whileRight(work);
    const mendedMs = performance.now();
    const newer = this.#newer();
    await ledger.whileRight(nodes.until('messages are acknowledged again', () => acknowledged() >= newer));
    const resumedMs = performance.now() - mendedMs;
    if (resumedMs > RESUME_MS_MAX)
      throw new Error(`writes only went on ${resumedMs} ms after all was mended`);
    await ledger.whileRight(nodes.waitForInSync(nodes.names.length));
  }

  /** When so many are acknowledged, one of them was published after this was asked. */
  #newer(): number {
    const underWay = this.#publishers.length * Math.max(...this.#windows);
    return this.#ledger.counters.acknowledged + underWay + 1;
  }

  async #break(fault: (typeof FAULTS)[number]): Promise<void> {
    const { nodes, etcd, random } = this.#options;
    const leader = await nodes.waitForLeader();
    const member = random.pick(nodes.names.filter((name) => name !== leader));
    switch (fault) {
      case 'kill the leader':
        await nodes.kill(leader);
        await this.#progress(random.integer(100, 1000));
        await nodes.startAll();
        break;
      case 'kill a member':
        await nodes.kill(member);
        await this.#progress(random.integer(100, 1000));
        await nodes.startAll();
        break;
      case 'stop the leader':
        await nodes.stop(leader);
        await this.#progress(random.integer(100, 1000));
        await nodes.startAll();
        break;
      case 'kill all':
        await Promise.all(nodes.names.map((name) => nodes.kill(name)));
        await nodes.startAll();
        break;
      case 'freeze the leader':
        nodes.freeze(leader);
        // Its clients notice nothing: they are taken away from it.
        for (const client of [...this.#publishers, ...this.#subscribers]) client.drop();
        await this.#progress(random.integer(100, 1000));
        nodes.thaw(leader);
        break;
      case 'wipe a member':
        await nodes.kill(member);
        nodes.wipe(member);
        await this.#progress(random.integer(100, 1000));
        await nodes.startAll();
        break;
      case 'kill the leader and a member':
        await Promise.all([nodes.kill(leader), nodes.kill(member)]);
        await new Promise((resolve) => setTimeout(resolve, random.integer(0, 1000)));
        await nodes.startAll();
        break;
      case 'kill etcd':
        await etcd.kill();
        await this.#progress(random.integer(100, 1000));
        await etcd.restart();
        break;
      case 'restart all, one after the other':
        for (const name of nodes.names) {
          await nodes.stop(name);
          await nodes.start(name);
          await nodes.waitForInSync(nodes.names.length);
        }
        break;
      case 'kill etcd and the leader':
        await etcd.kill();
        await nodes.kill(leader);
        await etcd.restart();
        await nodes.startAll();
        break;
    }
  }

  /** Resolves when so many things have happened to messages. */
  #progress(count: number): Promise<void> {
    const endMs = performance.now() + SILENCE_MS;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`too little has happened in ${SILENCE_MS} ms (${Math.round(endMs)})`));
      }, SILENCE_MS);
      this.#onEntries = {
        at: this.#entries + count,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      };
    });
  }

  async #until(isThere: () => boolean): Promise<void> {
    while (!isThere()) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }

  #onEntry(): void {
    const nowMs = performance.now();
    this.#gapMs = Math.max(this.#gapMs, nowMs - this.#lastEntryMs);
    this.#lastEntryMs = nowMs;
    this.#entries++;
    const waiting = this.#onEntries;
    if (waiting === undefined || this.#entries < waiting.at) return;
    this.#onEntries = undefined;
    waiting.resolve();
  }
}
