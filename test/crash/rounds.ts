// Rounds of load and kill -9 on one data directory: publishers and subscribers of every kind, a kill at a random moment, a start, and so on; at the
// end everything is drained and the ledger is closed. The schedule comes from a seed, and the timing from the machine.
import { BrokerProcess } from './broker-process.js';
import { Ledger } from './ledger.js';
import { openLink } from './link.js';
import { Publisher } from './publisher.js';
import type { Random } from './random.js';
import { checkRetained } from './retained.js';
import { Subscriber } from './subscriber.js';
import { type Fate, WillClient } from './will-client.js';

export interface RoundsOptions {
  readonly random: Random;
  readonly rounds: number;
  readonly data: string;
  readonly settings: readonly string[];
  /** Of the largest messages. */
  readonly payloadBytesMax: number;
  readonly onRound?: (round: number) => void;
}

export interface RoundsResult {
  rounds: number;
  kills: number;
  messages: number;
  acknowledged: number;
  delivered: number;
  /** Delivered again at QoS 1, as may be. */
  again: number;
  wills: number;
  /** Where the log began at the last start: retention took what was before. */
  logFrom: number;
  /** Where it ended. */
  logEnd: number;
  /** The snapshot that the last start began from; 0: none. */
  snapshot: number;
}

/** The connections of the process before have this long to come back; wills follow. */
const GRACE = 'mqtt.reconnectGraceSeconds=1';
/** Nothing comes for so long: it is lost. */
const SILENCE_MS = 15_000;
/** Nothing moves for so long: something hangs. */
const STALL_MS = 60_000;
const FATES: readonly Fate[] = ['lost', 'dropped', 'back', 'goodbye'];

export async function runRounds(options: RoundsOptions): Promise<RoundsResult> {
  const run = new Rounds(options);
  try {
    return await run.run();
  } finally {
    await run.end();
  }
}

class Rounds {
  readonly #options: RoundsOptions;
  readonly #ledger = new Ledger();
  readonly #publishers: Publisher[] = [];
  readonly #subscribers: Subscriber[] = [];
  /** Subscribers with a subscription that comes and goes. */
  readonly #togglers: Subscriber[] = [];
  /** Rounds that a subscriber stays away. */
  readonly #away = new Map<Subscriber, number>();
  /** Were connected at the last kill and come back. */
  #returning: WillClient[] = [];
  #lastWill = 0;
  #lastWitness = 0;
  #isKilling = false;
  #kills = 0;
  #opened = { logFrom: 0, logEnd: 0, snapshot: 0 };
  #broker: BrokerProcess | undefined;

  constructor(options: RoundsOptions) {
    this.#options = options;
    this.#makePublishers();
    this.#makeSubscribers();
  }

  #makePublishers(): void {
    const { random, payloadBytesMax } = this.#options;
    for (const qos of [1, 2] as const) {
      for (const version of [4, 5] as const) {
        const name = `pub${qos}v${version}`;
        this.#publishers.push(
          new Publisher({
            ledger: this.#ledger,
            random,
            name,
            version,
            qos,
            topics: [`c/${name}/0`, `c/${name}/1`, `c/${name}/2`],
            retainedTopics: [`r/${name}/0`, `r/${name}/1`, `d/${name}`],
            window: random.pick([1, 10, 40]),
            paddingBytesMax: random.pick([payloadBytesMax >> 3, payloadBytesMax]),
          }),
        );
      }
    }
  }

  #makeSubscribers(): void {
    const ledger = this.#ledger;
    const { random } = this.#options;
    for (const qos of [1, 2] as const) {
      const group = ledger.inbox(`group${qos}`, qos, true);
      for (const version of [4, 5] as const) {
        const add = (kind: string, filters: string[], ackDelayMsMax: number, inbox?: typeof group) => {
          const name = `${kind}${qos}v${version}`;
          const subscriber = new Subscriber({
            ledger,
            random,
            name,
            version,
            qos,
            filters,
            inbox: inbox ?? ledger.inbox(name, qos),
            ackDelayMsMax,
            receiveMaximum: ackDelayMsMax > 0 ? 10 : 200,
          });
          this.#subscribers.push(subscriber);
          return subscriber;
        };
        add('all', ['c/#', 'r/#', 'w/#'], 0);
        add('slow', ['c/+/1', 'r/#'], 8);
        add('member', [`$share/g${qos}/c/#`], version === 4 ? 0 : 8, group);
        this.#togglers.push(add('toggle', ['r/+/0'], 0));
      }
    }
  }

  async run(): Promise<RoundsResult> {
    const { rounds, random, onRound } = this.#options;
    const ledger = this.#ledger;
    for (let round = 1; round <= rounds; round++) {
      ledger.note(`round ${round}`);
      await this.#round(round);
      ledger.check();
      onRound?.(round);
      if (random.chance(0.2)) await this.#killWhileStarting();
    }
    await this.#drain();
    const { acknowledged, delivered, again } = ledger.counters;
    return {
      rounds,
      kills: this.#kills,
      messages: ledger.messageCount - this.#lastWill,
      acknowledged,
      delivered,
      again,
      wills: this.#lastWill,
      ...this.#opened,
    };
  }

  /** Lets go of everything, after a failure too. */
  async end(): Promise<void> {
    for (const client of [...this.#publishers, ...this.#subscribers, ...this.#returning]) client.drop();
    await this.#broker?.kill();
  }

  async #start(): Promise<{ port: number; readyMs: number }> {
    const { data, settings } = this.#options;
    const broker = await BrokerProcess.start({ data, settings: [GRACE, ...settings] });
    this.#broker = broker;
    this.#ledger.note(`started, process ${broker.pid}`);
    return { port: broker.port, readyMs: performance.now() };
  }

  async #killWhileStarting(): Promise<void> {
    const { data, settings, random } = this.#options;
    const broker = new BrokerProcess({ data, settings: [GRACE, ...settings] });
    this.#broker = broker;
    await delay(random.integer(20, 700));
    await this.#kill(broker, 'killed while it started');
  }

  async #kill(broker: BrokerProcess, what: string): Promise<void> {
    if (broker.hasEnded) {
      const { code, signal } = await broker.exit;
      this.#ledger.fail(`the broker ended by itself with ${code ?? signal}:\n${broker.stderr}`);
      this.#ledger.check();
    }
    this.#ledger.note(what);
    this.#kills++;
    this.#isKilling = true;
    await broker.kill();
    this.#isKilling = false;
    this.#checkDiagnostics(broker);
  }

  /** Nothing here is an error to the broker. */
  #checkDiagnostics(broker: BrokerProcess): void {
    const errors = broker.lines().filter(({ level }) => level === 'error' || level === 'fatal');
    if (errors.length > 0) this.#ledger.fail(`the broker reports errors:\n${broker.stderr}`);
  }

  async #round(round: number): Promise<void> {
    const { random } = this.#options;
    const ledger = this.#ledger;
    const { port } = await this.#begin();
    const willClients = await ledger.whileRight(this.#connectWills(port));
    const present = this.#subscribers.filter((subscriber) => this.#isPresent(subscriber, round));
    // Whoever subscribes before the first message is sent gets everything; later on any order will do.
    if (round === 1) {
      await ledger.whileRight(Promise.all(present.map((subscriber) => subscriber.connect(port))));
    }
    const killed = this.#killAtRandom(willClients);
    const clients = round === 1 ? this.#publishers : [...this.#publishers, ...present];
    for (const client of random.shuffle<Publisher | Subscriber>(clients)) this.#watch(client.connect(port));
    this.#watch(this.#mischief(port, round, willClients));
    await ledger.whileRight(limited(killed, 'the kill'));
    const all = [...this.#publishers, ...this.#subscribers, ...willClients];
    await ledger.whileRight(limited(Promise.all(all.map((client) => client.closed())), 'connections to end'));
    for (const publisher of this.#publishers) publisher.halt();
    this.#returning = willClients.filter(({ fate }) => fate === 'back');
  }

  /** Starts the broker; those that must not lose time are back when this resolves, and nothing is published yet. */
  async #begin(): Promise<{ port: number }> {
    const { port, readyMs } = await this.#start();
    const ledger = this.#ledger;
    await ledger.whileRight(Promise.all(this.#returning.map((client) => client.comeBack(port, readyMs))));
    this.#returning = [];
    await ledger.whileRight(limited(checkRetained(ledger, port), 'retained messages'));
    return { port };
  }

  #isPresent(subscriber: Subscriber, round: number): boolean {
    const { random } = this.#options;
    if ((this.#away.get(subscriber) ?? 0) >= round) return false;
    if (round > 1 && random.chance(0.15)) {
      this.#away.set(subscriber, round + random.integer(0, 2));
      return false;
    }
    return true;
  }

  async #connectWills(port: number): Promise<WillClient[]> {
    const { random } = this.#options;
    const clients = FATES.map(
      (fate) =>
        new WillClient({
          ledger: this.#ledger,
          name: `will${++this.#lastWill}`,
          version: random.pick([4, 5]),
          isClean: random.chance(0.5),
          delaySeconds: random.pick([0, 0, 1]),
          qos: random.pick([1, 2]),
          fate,
        }),
    );
    const connected = await Promise.all(clients.map((client) => client.connect(port)));
    if (connected.includes(false)) this.#ledger.fail('a client with a will could not connect');
    return clients;
  }

  /** Kills the broker somewhere in a load that begins here. */
  async #killAtRandom(willClients: WillClient[]): Promise<void> {
    const { random } = this.#options;
    const ledger = this.#ledger;
    const broker = this.#broker!;
    const quota = random.integer(20, 300);
    for (const publisher of this.#publishers) publisher.allow(quota);
    // Each message is sent, acknowledged and delivered to several, and each of these is an entry.
    let entries = random.integer(10, quota * this.#publishers.length * 10);
    const reached = new Promise<void>((resolve) => {
      ledger.onEntry = () => {
        entries--;
        if (entries === 0) resolve();
      };
    });
    await Promise.race([reached, Promise.all(this.#publishers.map((publisher) => publisher.idle()))]);
    ledger.onEntry = () => undefined;
    if (random.chance(0.5)) await delay(random.integer(1, 10));
    for (const client of willClients) client.beforeKill();
    await this.#kill(broker, 'killed');
  }

  /** What clients do while the broker lives: they break off, take over, come and go. */
  async #mischief(port: number, round: number, willClients: WillClient[]): Promise<void> {
    const { random } = this.#options;
    const broker = this.#broker!;
    const isOver = () => broker.hasEnded || this.#isKilling;
    for (;;) {
      await delay(random.integer(1, 40));
      if (isOver()) return;
      const subscriber = random.pick(this.#subscribers);
      switch (random.integer(0, 6)) {
        case 0:
          random.pick(this.#togglers).toggle('c/+/2');
          break;
        case 1:
          // Breaks off and is back at once, or takes its own session over.
          if (random.chance(0.5)) subscriber.drop();
          if (this.#isHere(subscriber, round)) this.#watch(subscriber.connect(port));
          break;
        case 2: {
          const publisher = random.pick(this.#publishers);
          if (random.chance(0.5)) publisher.drop();
          this.#watch(publisher.connect(port));
          break;
        }
        case 3:
          if (subscriber.isConnected && random.chance(0.3)) {
            this.#away.set(subscriber, round + random.integer(0, 1));
            if (random.chance(0.5)) subscriber.disconnect();
            else subscriber.drop();
          }
          break;
        default:
          this.#watch(this.#leave(port, random.pick(willClients)));
      }
    }
  }

  #isHere(subscriber: Subscriber, round: number): boolean {
    return (this.#away.get(subscriber) ?? 0) < round;
  }

  async #leave(port: number, client: WillClient): Promise<void> {
    if (client.fate !== 'goodbye' && client.fate !== 'dropped') return;
    await client.leave();
    if (client.fate === 'goodbye' && (await this.#isCommitted(port))) client.sealGoodbye();
  }

  /** Publishes something that concerns nobody; true when it is acknowledged, and so is everything that the broker did before. */
  async #isCommitted(port: number): Promise<boolean> {
    let settle: (isCommitted: boolean) => void = () => undefined;
    const answered = new Promise<boolean>((resolve) => {
      settle = resolve;
    });
    const { link, connack } = openLink(
      port,
      4,
      { clientId: `witness${++this.#lastWitness}`, clean: true },
      { onPacket: ({ cmd }) => settle(cmd === 'puback'), onClose: () => settle(false) },
    );
    if ((await connack) === undefined) return false;
    link.send({
      cmd: 'publish',
      topic: 'witness',
      payload: '',
      qos: 1,
      messageId: 1,
      dup: false,
      retain: false,
    });
    const isCommitted = await answered;
    link.destroy();
    return isCommitted;
  }

  /** No more kills: everything comes to its end, and a planned restart changes nothing. */
  async #drain(): Promise<void> {
    const ledger = this.#ledger;
    ledger.note('drain');
    const last = new Publisher({
      ledger,
      random: this.#options.random,
      name: 'last',
      version: 5,
      qos: 2,
      topics: ['c/last/1'],
      retainedTopics: [],
      window: 1,
      paddingBytesMax: 0,
    });
    for (let start = 1; start <= 2; start++) {
      const { port } = await this.#begin();
      const clients = [...this.#publishers, ...this.#subscribers];
      await ledger.whileRight(Promise.all([...clients, last].map((client) => client.connect(port))));
      const idle = Promise.all(this.#publishers.map((publisher) => publisher.idle()));
      await ledger.whileRight(limited(idle, 'publishers to end'));
      await ledger.settled(SILENCE_MS);
      // All get messages in the order of the log: whoever has this one has everything before it, and nothing twice.
      last.allow(1);
      await ledger.whileRight(limited(last.idle(), 'the last publish'));
      await ledger.settled(SILENCE_MS);
      const resting = this.#subscribers.map((subscriber) => subscriber.rest());
      await ledger.whileRight(limited(Promise.all(resting), 'acknowledgements'));
      await this.#broker!.stop();
      ledger.seal();
      this.#checkDiagnostics(this.#broker!);
      ledger.check();
    }
    const { port } = await this.#begin();
    ledger.note(`started for the last time, port ${port}`);
    const opened = this.#broker!.lines().find(({ message }) => message === 'opened the log');
    const { from = 0, end = 0, snapshot = 0 } = opened ?? {};
    this.#opened = { logFrom: from, logEnd: end, snapshot };
    await this.#broker!.stop();
    ledger.check();
  }

  /** What goes on beside everything else must not fail either. */
  #watch(work: Promise<unknown>): void {
    work.catch((error: Error) => this.#ledger.fail(error.stack ?? error.message));
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Fails where something takes so long that it will never come. */
async function limited<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`waited for ${what} for ${STALL_MS} ms`)), STALL_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
