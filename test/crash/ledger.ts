// What was promised against what came. Clients enter every message they publish, every acknowledgement they get and every message they are
// delivered; the ledger knows the rules and fails at the first entry that breaks one, with everything that it knows about the message in question.
//
// All entries are in one order, that of the test process: "before" means that one was entered before the other. A publish that was sent after the
// SUBACK had come is the subscription's; one whose acknowledgement had come before SUBSCRIBE was sent is not; what lies between may be either.
import { matchesNaively } from '../router/naive.js';

export interface Message {
  readonly id: number;
  readonly publisher: string;
  readonly topic: string;
  /** Counts the messages of one publisher to one topic. */
  readonly sequence: number;
  readonly qos: 1 | 2;
  readonly isRetained: boolean;
  /** It takes the retained message of its topic away. */
  readonly isEmpty: boolean;
  /** When it was first sent. */
  readonly sent: number;
  /** When it was first acknowledged: the broker must deliver it from then on. */
  acknowledged: number;
  /** How often it was sent. */
  attempts: number;
  /** A will that must not be published, and why. */
  forbidden: string | undefined;
}

/** The life of one subscription. */
export interface Subscribed {
  readonly filter: string;
  readonly asked: number;
  granted: number;
  /** UNSUBSCRIBE was sent. */
  leaving: number;
  /** UNSUBACK has come. */
  left: number;
}

export interface Delivery {
  readonly qos: number;
  readonly isDuplicate: boolean;
  readonly isRetained: boolean;
  readonly packetId: number;
}

/** Not yet. */
const NEVER = Number.POSITIVE_INFINITY;
/** Lines of a history that are shown. */
const LINES_SHOWN = 200;

/** What one session, or one shared group, has been delivered. */
export class Inbox {
  readonly name: string;
  readonly qos: 1 | 2;
  /** Of a shared group: its members take what they get at the same time, so nothing is said about the order. */
  readonly isShared: boolean;
  readonly subscribed: Subscribed[] = [];
  readonly counts = new Map<number, number>();
  /** The last sequence by publisher and topic. */
  readonly last = new Map<string, Message>();
  /** What has to come yet, once somebody waits for it. */
  awaited: Set<number> | undefined = undefined;

  constructor(name: string, qos: 1 | 2, isShared: boolean) {
    this.name = name;
    this.qos = qos;
    this.isShared = isShared;
  }
}

interface Entry {
  readonly ms: number;
  readonly who: string;
  /** Id of a message, or -1 for what concerns all. */
  readonly about: number;
  readonly what: string;
}

export class Ledger {
  /** Those that are not forgotten, by id from `#base`. */
  #messages: Message[] = [];
  #base = 0;
  readonly #inboxes: Inbox[] = [];
  readonly #sequences = new Map<string, number>();
  #history: Entry[] = [];
  readonly #startedMs = performance.now();
  #now = 0;
  /** What was sent before has come to its end everywhere. */
  #sealed = 0;
  #failure: Error | undefined;
  readonly #waiting = new Set<() => void>();
  /** Called at each entry about a message. */
  onEntry: () => void = () => undefined;

  readonly counters = { acknowledged: 0, delivered: 0, again: 0, wills: 0 };

  get messageCount(): number {
    return this.#base + this.#messages.length;
  }

  // ---- entries ----------------------------------------------------------------------------------------------------------------------

  /** Something that is about no message: of one client, or of all. */
  note(what: string, who = ''): void {
    this.#enter(who, -1, what);
  }

  inbox(name: string, qos: 1 | 2, isShared = false): Inbox {
    const inbox = new Inbox(name, qos, isShared);
    this.#inboxes.push(inbox);
    return inbox;
  }

  publish(publisher: string, topic: string, qos: 1 | 2, isRetained: boolean, isEmpty = false): Message {
    const key = `${publisher} ${topic}`;
    const sequence = (this.#sequences.get(key) ?? 0) + 1;
    this.#sequences.set(key, sequence);
    const message: Message = {
      id: this.messageCount,
      publisher,
      topic,
      sequence,
      qos,
      isRetained,
      isEmpty,
      sent: ++this.#now,
      acknowledged: NEVER,
      attempts: 0,
      forbidden: undefined,
    };
    this.#messages.push(message);
    return message;
  }

  /** A message, or what follows it, was sent. */
  sent(message: Message, what: string): void {
    this.#enter(message.publisher, message.id, what);
  }

  /** Something about a message that is of use to whoever looks for a mistake. */
  saw(who: string, id: number, what: string): void {
    this.#enter(who, id, what);
  }

  acknowledged(message: Message, what: string): void {
    this.#enter(message.publisher, message.id, what);
    if (message.acknowledged !== NEVER) return;
    message.acknowledged = this.#now;
    this.counters.acknowledged++;
  }

  subscribing(inbox: Inbox, filter: string): Subscribed {
    this.#enter(inbox.name, -1, `SUBSCRIBE ${filter}`);
    const subscribed: Subscribed = { filter, asked: this.#now, granted: NEVER, leaving: NEVER, left: NEVER };
    inbox.subscribed.push(subscribed);
    return subscribed;
  }

  granted(inbox: Inbox, subscribed: Subscribed): void {
    this.#enter(inbox.name, -1, `SUBACK ${subscribed.filter}`);
    subscribed.granted = Math.min(subscribed.granted, this.#now);
  }

  leaving(inbox: Inbox, subscribed: Subscribed): void {
    this.#enter(inbox.name, -1, `UNSUBSCRIBE ${subscribed.filter}`);
    subscribed.leaving = Math.min(subscribed.leaving, this.#now);
  }

  left(inbox: Inbox, subscribed: Subscribed): void {
    this.#enter(inbox.name, -1, `UNSUBACK ${subscribed.filter}`);
    subscribed.left = Math.min(subscribed.left, this.#now);
  }

  /** The application of `who` was given a message. */
  delivered(inbox: Inbox, who: string, id: number, delivery: Delivery): void {
    const message = this.#messages[id - this.#base];
    const flags = `${delivery.isDuplicate ? ' DUP' : ''}${delivery.isRetained ? ' RETAIN' : ''}`;
    this.#enter(who, id, `delivered at QoS ${delivery.qos}, packet id ${delivery.packetId}${flags}`);
    if (message === undefined) {
      this.fail(`${who} was delivered message ${id}, which nobody published`, id);
      return;
    }
    // What was retained at SUBSCRIBE comes beside what is published from then on.
    if (delivery.isRetained) return;
    const broken = this.#broken(inbox, message, delivery);
    const count = (inbox.counts.get(id) ?? 0) + 1;
    inbox.counts.set(id, count);
    if (count === 1) this.counters.delivered++;
    else this.counters.again++;
    if (broken !== undefined) this.fail(`${who}: ${broken}`, id);
    if (inbox.awaited?.delete(id)) this.#wake();
  }

  /** The rule that a delivery breaks. */
  #broken(inbox: Inbox, message: Message, delivery: Delivery): string | undefined {
    const { id, topic, forbidden } = message;
    if (forbidden !== undefined) return `the will ${id} was published: ${forbidden}`;
    if (!this.#mayCome(inbox, message)) return `message ${id} on ${topic}, to which it is not subscribed`;
    const qos = Math.min(message.qos, inbox.qos);
    if (delivery.qos !== qos) return `message ${id} at QoS ${delivery.qos}, not ${qos}`;
    const count = inbox.counts.get(id) ?? 0;
    if (count > 0) {
      if (qos === 2) return `message ${id} was delivered twice at QoS 2`;
      if (message.sent < this.#sealed)
        return `message ${id} was delivered again after everybody had acknowledged it`;
      const isResent = message.attempts > 1 || inbox.isShared;
      return delivery.isDuplicate || isResent ? undefined : `message ${id} was sent again without DUP`;
    }
    if (inbox.isShared || !this.#mustCome(inbox, message)) return undefined;
    const key = `${message.publisher} ${topic}`;
    const before = inbox.last.get(key);
    if (before === undefined || before.sequence < message.sequence) {
      inbox.last.set(key, message);
      return undefined;
    }
    return `message ${id} (number ${message.sequence} of ${key}) came behind message ${before.id} (number ${before.sequence})`;
  }

  #mayCome(inbox: Inbox, message: Message): boolean {
    return inbox.subscribed.some(
      ({ filter, asked, left }) =>
        matchesNaively(filter, message.topic) && message.acknowledged > asked && message.sent < left,
    );
  }

  /** Whoever leaves a subscription gives up what it was not sent yet. */
  #mustCome(inbox: Inbox, message: Message): boolean {
    return inbox.subscribed.some(
      ({ filter, granted, leaving }) =>
        matchesNaively(filter, message.topic) && granted < message.sent && leaving === NEVER,
    );
  }

  // ---- the end ----------------------------------------------------------------------------------------------------------------------

  /** Resolves once every acknowledged message has come to everybody who is owed it; fails when nothing comes for `silenceMs`. */
  async settled(silenceMs: number): Promise<void> {
    for (const inbox of this.#inboxes) inbox.awaited = new Set(this.#missing(inbox).map(({ id }) => id));
    const open = () => this.#inboxes.reduce((sum, { awaited }) => sum + (awaited?.size ?? 0), 0);
    while (open() > 0) {
      const before = open();
      await this.#silence(silenceMs, () => open() === 0 || this.#failure !== undefined);
      this.check();
      if (open() === before) this.#failLost();
    }
  }

  #silence(ms: number, isOver: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => finish(), ms);
      const finish = () => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve();
      };
      const look = () => {
        if (isOver()) finish();
        else timer.refresh();
      };
      this.#waiting.add(look);
      if (isOver()) finish();
    });
  }

  #failLost(): never {
    const lost = this.#inboxes.flatMap(({ name, awaited }) =>
      [...(awaited ?? [])].map((id) => ({ name, id })),
    );
    const list = lost.map(({ name, id }) => `${name} ${id}`);
    const first = lost[0]!;
    this.fail(
      `${lost.length} acknowledged messages were not delivered: ${list.slice(0, 20).join(', ')}${list.length > 20 ? ', ...' : ''}`,
      first.id,
    );
    throw this.#failure!;
  }

  #missing(inbox: Inbox): Message[] {
    return this.#messages.filter(
      (message) =>
        message.acknowledged !== NEVER &&
        message.forbidden === undefined &&
        !inbox.counts.has(message.id) &&
        this.#mustCome(inbox, message),
    );
  }

  /** Everything is delivered, all acknowledgements have come, and the broker was stopped in good order: nothing may come again. */
  seal(): void {
    this.#sealed = ++this.#now;
  }

  /** Closes the books: all is settled and nobody sends anything that was sent before. What is retained cannot be told any more. */
  forget(): void {
    this.#base = this.messageCount;
    this.#messages = [];
    this.#history = [];
    for (const inbox of this.#inboxes) inbox.counts.clear();
  }

  /**
   * What may be retained on a topic: the last message that was acknowledged, or any that was sent after it.
   * @returns undefined where nothing may be, among the others
   */
  retainable(topic: string): (Message | undefined)[] {
    const all = this.#messages.filter((message) => message.isRetained && message.topic === topic);
    const last = all.findLastIndex(({ acknowledged }) => acknowledged !== NEVER);
    const possible = all.slice(Math.max(0, last));
    const values = possible.map((message) => (message.isEmpty ? undefined : message));
    return last === -1 ? [undefined, ...values] : values;
  }

  retainedTopics(): string[] {
    const topics = this.#messages.filter(({ isRetained }) => isRetained).map(({ topic }) => topic);
    return [...new Set(topics)];
  }

  // ---- failing ----------------------------------------------------------------------------------------------------------------------

  /** Remembers the first failure, with the history of a message; whoever waits for something finds out. */
  fail(why: string, id = -1): void {
    this.#failure ??= new Error(`${why}\n${this.historyOf(id)}`);
    this.#wake();
  }

  /** @throws what has failed */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Waits for `work`, or for a failure. */
  async whileRight<T>(work: Promise<T>): Promise<T> {
    let look: () => void = () => undefined;
    const failed = new Promise<never>((_resolve, reject) => {
      look = () => {
        if (this.#failure !== undefined) reject(this.#failure);
      };
    });
    this.#waiting.add(look);
    look();
    try {
      return await Promise.race([work, failed]);
    } finally {
      this.#waiting.delete(look);
    }
  }

  historyOf(id: number): string {
    const message = this.#messages[id - this.#base];
    const about = this.#history.filter((entry) => entry.about === id);
    const involved = new Set(['', ...about.map(({ who }) => who)]);
    const entries = this.#history.filter(
      (entry) => entry.about === id || (entry.about === -1 && involved.has(entry.who)),
    );
    const shown = entries.slice(-LINES_SHOWN).map(({ ms, who, what }) => {
      const seconds = ((ms - this.#startedMs) / 1000).toFixed(3);
      return `    ${seconds.padStart(9)} ${who.padEnd(8)} ${what}`;
    });
    const head =
      message === undefined
        ? []
        : [
            `    message ${id}: ${message.publisher} to ${message.topic}, number ${message.sequence}, QoS ${message.qos}, ` +
              `retain ${message.isRetained}, sent ${message.attempts} times`,
          ];
    return [...head, ...shown].join('\n');
  }

  #enter(who: string, about: number, what: string): void {
    this.#now++;
    this.#history.push({ ms: performance.now(), who, about, what });
    if (about !== -1) this.onEntry();
  }

  #wake(): void {
    for (const waiting of this.#waiting) waiting();
  }
}
