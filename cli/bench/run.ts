// Owns one benchmark run: connects everybody, keeps every publisher's window full (or its schedule kept), counts what arrives, notices
// when nothing moves any more, and answers with the numbers.
//
// One turn of the event loop reads all sockets that have something (acknowledgements and credits gather), and then, in one setImmediate,
// writes once per connection. So the batches are as large as what the broker answered in the meantime, and nothing is done per message
// but patching it on the way out and checking it on the way in.
import { randomBytes } from 'node:crypto';
import { performance } from 'node:perf_hooks';
import { Failure } from '../failure.js';
import { BenchClient, type ClientOwner } from './client.js';
import { Flows } from './flows.js';
import {
  PAYLOAD_HEADER_BYTES,
  PUBLISHER_OFFSET,
  RUN_OFFSET,
  SEQUENCE_OFFSET,
  TIME_OFFSET,
} from './frames.js';
import { Histogram } from './histogram.js';
import { ReadBuffer } from './inbound.js';

export type BenchMode = 'pair' | 'fanout' | 'fanin' | 'share';

export interface BenchOptions {
  host: string;
  port: number;
  /** More brokers of the same cluster: connections are spread over all of them in turn. */
  others?: readonly { host: string; port: number }[];
  protocol: 4 | 5;
  username: string | undefined;
  password: string | undefined;
  mode: BenchMode;
  pubs: number;
  subs: number;
  qos: 0 | 1 | 2;
  payloadBytes: number;
  /** Messages per publisher; undefined when the run is bounded by `durationSeconds`. */
  count: number | undefined;
  durationSeconds: number | undefined;
  /** Not measured, at the start: compilers and caches settle. Counted for losses all the same. */
  warmupSeconds: number;
  /** QoS 1 and 2: unacknowledged publishes per publisher. QoS 0: messages per publisher not yet seen by every subscriber. */
  window: number;
  /** Messages per second of all publishers together; undefined: as fast as the window allows. */
  rate: number | undefined;
  topic: string;
  /** Fan-in: every topic by its name instead of one wildcard. */
  literalFilters: boolean;
  /** Subscribers have sessions that outlive their connections; they are ended after the run. */
  durable: boolean;
  /** Nothing moved for so long: what is missing is lost. */
  stallSeconds: number;
}

export interface LatencyResult {
  /** All in milliseconds. */
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  p999: number;
  max: number;
}

export interface BenchResult {
  mode: BenchMode;
  pubs: number;
  subs: number;
  qos: number;
  payloadBytes: number;
  window: number;
  rate: number | undefined;
  protocol: number;
  /** Of the measured part. */
  seconds: number;
  publishedPerSecond: number;
  deliveredPerSecond: number;
  /** Of the whole run, warm-up included. */
  published: number;
  expected: number;
  delivered: number;
  lost: number;
  duplicates: number;
  disordered: number;
  /** Published at QoS 1 or 2 and never acknowledged. */
  unacknowledged: number;
  /** Publishes that the broker refused with a reason code. */
  refused: number;
  refusedReason: number | undefined;
  /** Acknowledgements nobody waited for, and messages that are not of this run. */
  strayAcks: number;
  foreign: number;
  stalled: boolean;
  latencyMs: LatencyResult;
  /** From sending a publish to its last acknowledgement; all 0 at QoS 0. */
  ackMs: LatencyResult;
  /** With a rate: how late the generator itself was, at the 99th percentile. */
  sendLagMsP99: number;
  generatorCpuSeconds: number;
  /** Of this process since it started. */
  processCpuSeconds: number;
  generatorMicrosPerMessage: number;
  /** Set when the run ended early, because a connection broke. */
  failure: string | undefined;
}

export interface BenchProgress {
  published: number;
  delivered: number;
  /** 0 to 1. */
  done: number;
  seconds: number;
}

const BATCH_BYTES_MAX = 256 * 1024;
const READ_AREA_BYTES = 1024 * 1024;
const CONNECTS_AT_ONCE = 50;
const WATCH_INTERVAL_MS = 20;
const PING_INTERVAL_MS = 20_000;
/** After the last expected message: a repeated one would come now. */
const LINGER_MS = 50;
/** Below this distance to the next due message the process spins instead of sleeping: timers are a millisecond coarse. */
const SPIN_MICROS = 2500;

/** Microseconds on this process's monotonic clock; fits a double for centuries, and its low 32 bits travel in the payload. */
function nowMicros(): number {
  return Math.floor(performance.now() * 1000);
}

export interface BenchObserver {
  /** Aborting it ends the run early: what was published is still waited for. */
  signal: AbortSignal;
  onProgress: ((progress: BenchProgress) => void) | undefined;
}

/** Runs to the end. Throws Failure when the run could not begin; a run that broke midway answers with `failure` set. */
export async function runBench(options: BenchOptions, observer: BenchObserver): Promise<BenchResult> {
  const run = new BenchRun(options);
  const interrupt = () => run.interrupt();
  observer.signal.addEventListener('abort', interrupt);
  try {
    await run.open();
    return await run.measure(observer.onProgress);
  } finally {
    observer.signal.removeEventListener('abort', interrupt);
    await run.close();
  }
}

class BenchRun implements ClientOwner {
  readonly #options: BenchOptions;
  readonly #runId = randomBytes(4).readUInt32BE();
  readonly #buffer: ReadBuffer;
  readonly #publishers: BenchClient[] = [];
  readonly #subscribers: BenchClient[] = [];
  readonly #window: number[] = [];
  /** By publisher: the fewest messages worth a write, a tenth of the window. */
  readonly #batch: number[] = [];
  readonly #flows: Flows;
  /** Shared subscriptions: which sequence number each member saw last of each publisher, plus one. Members may not see disorder. */
  readonly #memberNext: Uint32Array;
  readonly #latency = new Histogram();
  readonly #acks = new Histogram();
  readonly #lag = new Histogram();
  readonly #isPair: boolean;
  readonly #isShare: boolean;
  readonly #subs: number;
  readonly #pubs: number;
  readonly #qos: 0 | 1 | 2;
  readonly #limit: number;
  readonly #interval: number;
  /** QoS 0: the sequence number up to which a publisher's missing messages were given up, and when it last moved. */
  readonly #writtenOff: number[] = [];
  readonly #creditSeen: number[] = [];
  readonly #creditAt: number[] = [];
  #now = 0;
  #startedAt = 0;
  #measuredFrom = 0;
  #deadline = Number.POSITIVE_INFINITY;
  #published = 0;
  #acknowledged = 0;
  #received = 0;
  #memberLate = 0;
  #refused = 0;
  #refusedReason: number | undefined;
  #foreign = 0;
  /** When something was last published, acknowledged or received. */
  #lastMoveAt = 0;
  #lastMoveSum = 0;
  #isScheduled = false;
  #isRunning = false;
  #isStalled = false;
  #isInterrupted = false;
  #timer: NodeJS.Timeout | undefined;
  #finish: (() => void) | undefined;
  #failure: Failure | undefined;
  readonly #turn = () => this.#onLoopTurn();

  constructor(options: BenchOptions) {
    this.#options = options;
    this.#isPair = options.mode === 'pair';
    this.#isShare = options.mode === 'share';
    this.#pubs = options.pubs;
    this.#subs = options.subs;
    this.#qos = options.qos;
    this.#limit = options.count ?? Number.POSITIVE_INFINITY;
    this.#interval = options.rate === undefined ? 0 : 1e6 / options.rate;
    this.#flows = new Flows(this.#isPair || this.#isShare ? options.pubs : options.pubs * options.subs);
    this.#memberNext = new Uint32Array(this.#isShare ? options.pubs * options.subs : 0);
    this.#buffer = new ReadBuffer(options.payloadBytes + options.topic.length + 65536, READ_AREA_BYTES);
  }

  async open(): Promise<void> {
    const { options, base } = { options: this.#options, base: this.#topicBase() };
    const brokers = [options, ...(options.others ?? [])].map(({ host, port }) => ({ host, port }));
    const identity = (title: string, index: number, clientId: string, isDurable: boolean) =>
      new BenchClient(
        {
          ...options,
          ...brokers[index % brokers.length]!,
          clientId,
          title: `${title} ${index}`,
          index,
          isDurable,
        },
        this.#buffer,
        this,
      );
    const run = this.#runId.toString(36);
    for (let index = 0; index < this.#subs; index++) {
      this.#subscribers.push(identity('subscriber', index, `bench-${run}-s${index}`, options.durable));
    }
    for (let index = 0; index < this.#pubs; index++) {
      this.#publishers.push(identity('publisher', index, `bench-${run}-p${index}`, false));
    }
    await inGroups(this.#subscribers, async (client) => {
      await client.connect();
      await client.subscribe(this.#filters(client.index, base), this.#qos);
    });
    await inGroups(this.#publishers, async (client) => {
      await client.connect();
      const window =
        this.#qos === 0 ? options.window : Math.min(options.window, client.receiveMaximum, 65535);
      this.#window[client.index] = window;
      const capacity = Math.max(
        1,
        Math.min(window, this.#limit, Math.floor(BATCH_BYTES_MAX / (options.payloadBytes + 32))),
      );
      this.#batch[client.index] = Math.min(capacity, Math.ceil(window / 10));
      client.prepare({
        topic: options.mode === 'fanout' ? base : `${base}/${client.index}`,
        qos: this.#qos,
        protocol: options.protocol,
        payloadBytes: options.payloadBytes,
        run: this.#runId,
        publisher: client.index,
        capacity,
        headBytes: this.#qos === 2 ? window * 4 + 64 : 64,
      });
    });
  }

  async measure(onProgress: ((progress: BenchProgress) => void) | undefined): Promise<BenchResult> {
    const options = this.#options;
    for (const client of [...this.#publishers, ...this.#subscribers]) client.start();
    const pings = setInterval(() => {
      for (const client of [...this.#publishers, ...this.#subscribers]) client.ping();
    }, PING_INTERVAL_MS);

    this.#startedAt = nowMicros();
    this.#now = this.#startedAt;
    this.#measuredFrom = this.#startedAt;
    this.#lastMoveAt = this.#startedAt;
    const warmupMicros = options.warmupSeconds * 1e6;
    if (options.durationSeconds !== undefined) {
      this.#deadline = this.#startedAt + warmupMicros + options.durationSeconds * 1e6;
    }
    if (this.#isInterrupted) this.#deadline = this.#startedAt;
    for (let index = 0; index < this.#pubs; index++) {
      this.#writtenOff.push(0);
      this.#creditSeen.push(0);
      this.#creditAt.push(this.#startedAt);
    }
    this.#isRunning = true;

    // What the measured part begins and ends with; a run bounded by time ends its measured part when publishing ends.
    let cpu = process.cpuUsage();
    let from = { published: 0, received: 0 };
    let until: { at: number; published: number; received: number; cpuMicros: number } | undefined;
    let isWarm = warmupMicros === 0;

    await new Promise<void>((resolve) => {
      this.#finish = resolve;
      let watches = 0;
      const watch = setInterval(() => {
        const now = nowMicros();
        this.#now = now;
        if (!isWarm && now >= this.#startedAt + warmupMicros) {
          isWarm = true;
          this.#measuredFrom = now;
          this.#latency.reset();
          this.#acks.reset();
          this.#lag.reset();
          cpu = process.cpuUsage();
          from = { published: this.#published, received: this.#received };
        }
        if (until === undefined && now >= this.#deadline) {
          const used = process.cpuUsage(cpu);
          until = {
            at: now,
            published: this.#published,
            received: this.#received,
            cpuMicros: used.user + used.system,
          };
        }
        this.#checkStall(now);
        this.#schedule();
        if (onProgress !== undefined && ++watches % 10 === 0) onProgress(this.#progress(now));
        if (!this.#isRunning) clearInterval(watch);
      }, WATCH_INTERVAL_MS);
      this.#schedule();
      this.#finish = () => {
        clearInterval(watch);
        resolve();
      };
      if (this.#failure !== undefined) this.#finish();
    });

    const used = process.cpuUsage(cpu);
    until ??= {
      at: this.#lastMoveAt,
      published: this.#published,
      received: this.#received,
      cpuMicros: used.user + used.system,
    };
    if (this.#failure === undefined) await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
    this.#isRunning = false;
    clearInterval(pings);
    return this.#result(from, until);
  }

  /** Publishes no more; what is on its way may arrive. */
  interrupt(): void {
    this.#isInterrupted = true;
    this.#deadline = Math.min(this.#deadline, nowMicros());
    this.#schedule();
  }

  /** Resolves when every connection is closed. */
  async close(): Promise<void> {
    this.#isRunning = false;
    clearTimeout(this.#timer);
    const clients = [...this.#publishers, ...this.#subscribers];
    await Promise.all(clients.map((client) => client.end()));
    if (this.#options.durable) await inGroups(this.#subscribers, (client) => client.forget());
  }

  onChunkStart(): void {
    this.#now = nowMicros();
  }

  onDelivery(client: BenchClient, payloadStart: number, payloadEnd: number): void {
    const view = this.#buffer.view;
    if (
      payloadEnd - payloadStart < PAYLOAD_HEADER_BYTES ||
      view.getUint32(payloadStart + RUN_OFFSET) !== this.#runId
    ) {
      this.#foreign++;
      return;
    }
    const publisher = view.getUint32(payloadStart + PUBLISHER_OFFSET);
    const sequence = view.getUint32(payloadStart + SEQUENCE_OFFSET);
    if (publisher >= this.#pubs || (this.#isPair && publisher !== client.index)) {
      this.#foreign++;
      return;
    }
    this.#received++;
    this.#latency.record((this.#now - view.getUint32(payloadStart + TIME_OFFSET)) >>> 0);
    if (this.#isPair) {
      this.#flows.record(publisher, sequence);
    } else if (this.#isShare) {
      this.#flows.record(publisher, sequence);
      const member = publisher * this.#subs + client.index;
      if (sequence < this.#memberNext[member]!) this.#memberLate++;
      else this.#memberNext[member] = sequence + 1;
    } else {
      this.#flows.record(publisher * this.#subs + client.index, sequence);
    }
  }

  onPublished(_client: BenchClient, reasonCode: number, timeMicros: number): void {
    this.#acknowledged++;
    this.#acks.record((this.#now - timeMicros) >>> 0);
    if (reasonCode >= 0x80) {
      this.#refused++;
      this.#refusedReason ??= reasonCode;
    }
  }

  onTurn(_client: BenchClient): void {
    this.#schedule();
  }

  onFailure(client: BenchClient, error: Failure): void {
    if (this.#failure !== undefined || !this.#isRunning) return;
    const sent = client.sent > 0 ? ` after ${client.sent} messages` : '';
    this.#failure = new Failure(`${error.message}${sent}`);
    this.#finish?.();
  }

  #schedule(): void {
    if (this.#isScheduled || !this.#isRunning) return;
    this.#isScheduled = true;
    setImmediate(this.#turn);
  }

  #onLoopTurn(): void {
    this.#isScheduled = false;
    if (!this.#isRunning) return;
    for (const subscriber of this.#subscribers) subscriber.flush(0);
    const now = nowMicros();
    this.#now = now;
    const mayPublish = now < this.#deadline;
    for (const publisher of this.#publishers) {
      if (publisher.isBusy) continue;
      publisher.flush(mayPublish ? this.#fill(publisher, now) : 0);
    }
    this.#noteMovement(now);
    if (this.#isComplete(now)) {
      this.#finish?.();
      return;
    }
    if (this.#interval > 0 && mayPublish) this.#sleepUntilDue(now);
  }

  /** Patches as many packets as the window, the schedule and the count allow; answers how many. */
  #fill(publisher: BenchClient, now: number): number {
    const allowed = Math.min(
      this.#room(publisher),
      this.#limit - publisher.sent,
      publisher.frames!.capacity,
      this.#interval > 0 ? this.#due(publisher, now) : Number.POSITIVE_INFINITY,
    );
    if (allowed <= 0) return 0;
    // A broker that answers one message at a time is not asked one message at a time: that would measure this process's writes.
    if (
      this.#interval === 0 &&
      allowed < this.#batch[publisher.index]! &&
      publisher.sent + allowed < this.#limit
    ) {
      return 0;
    }
    if (this.#interval > 0) {
      for (let slot = 0; slot < allowed; slot++) {
        // Counted from when it was due, not from when there was time for it: a stall of the broker delays the messages behind it too.
        const due = this.#dueAt(publisher.index, publisher.sent);
        this.#lag.record(Math.max(0, Math.floor(now - due)));
        publisher.patch(slot, Math.floor(due));
      }
    } else {
      for (let slot = 0; slot < allowed; slot++) publisher.patch(slot, now);
    }
    this.#published += allowed;
    return allowed;
  }

  /** How many more messages the window of this publisher admits now. */
  #room(publisher: BenchClient): number {
    const window = this.#window[publisher.index]!;
    if (this.#qos > 0) return window - publisher.inflight;
    if (this.#subs === 0) return window;
    return window - (publisher.sent - this.#credit(publisher.index));
  }

  /** QoS 0: the sequence number below which everybody has seen, or missed for good, this publisher's messages. */
  #credit(publisher: number): number {
    const next = this.#flows.next;
    let seen: number;
    if (this.#isPair) {
      seen = next[publisher]!;
    } else if (this.#isShare) {
      seen = this.#flows.distinct(publisher);
    } else {
      const first = publisher * this.#subs;
      seen = next[first]!;
      for (let flow = first + 1; flow < first + this.#subs; flow++) {
        if (next[flow]! < seen) seen = next[flow]!;
      }
    }
    return Math.max(seen, this.#writtenOff[publisher]!);
  }

  #dueAt(publisher: number, sequence: number): number {
    return this.#startedAt + (sequence * this.#pubs + publisher) * this.#interval;
  }

  #due(publisher: BenchClient, now: number): number {
    const slots = Math.floor((now - this.#startedAt) / this.#interval);
    return Math.floor((slots - publisher.index) / this.#pubs) + 1 - publisher.sent;
  }

  #sleepUntilDue(now: number): void {
    const slots = Math.floor((now - this.#startedAt) / this.#interval) + 1;
    const gap = this.#startedAt + slots * this.#interval - now;
    if (gap < SPIN_MICROS) {
      this.#schedule();
    } else if (this.#timer === undefined) {
      this.#timer = setTimeout(
        () => {
          this.#timer = undefined;
          this.#schedule();
        },
        Math.floor(gap / 1000) - 2,
      );
    }
  }

  #isComplete(now: number): boolean {
    const isPublishing = now < this.#deadline && this.#published < this.#limit * this.#pubs;
    if (isPublishing) return false;
    if (this.#qos > 0 && this.#acknowledged < this.#published) return false;
    if (this.#publishers.some((publisher) => publisher.isBusy)) return false;
    return this.#received >= this.#expected() && this.#distinct() === this.#expected();
  }

  #noteMovement(now: number): void {
    const sum = this.#published + this.#acknowledged + this.#received;
    if (sum === this.#lastMoveSum) return;
    this.#lastMoveSum = sum;
    this.#lastMoveAt = now;
  }

  /** Notices that nothing moves: gives up what is missing, and ends the run when all is published. */
  #checkStall(now: number): void {
    const stallMicros = this.#options.stallSeconds * 1e6;
    const isPublishing = now < this.#deadline && this.#published < this.#limit * this.#pubs;
    if (this.#qos === 0 && this.#subs > 0 && isPublishing) {
      for (const publisher of this.#publishers) {
        const index = publisher.index;
        const credit = this.#credit(index);
        if (credit !== this.#creditSeen[index] || publisher.sent === credit) {
          this.#creditSeen[index] = credit;
          this.#creditAt[index] = now;
        } else if (now - this.#creditAt[index]! > stallMicros && !publisher.isBusy) {
          this.#writtenOff[index] = publisher.sent;
          this.#isStalled = true;
        }
      }
      // Credits that will be given up keep the run alive; only a socket that takes nothing ends it below.
      if (!this.#publishers.every((publisher) => publisher.isBusy)) return;
    }
    const isIdleByRate =
      this.#interval > stallMicros && isPublishing && this.#distinct() === this.#expected();
    if (now - this.#lastMoveAt <= stallMicros || isIdleByRate) return;
    this.#isStalled = true;
    this.#finish?.();
  }

  #expected(): number {
    if (this.#subs === 0) return 0;
    return this.#isPair || this.#isShare ? this.#published : this.#published * this.#subs;
  }

  #distinct(): number {
    let distinct = 0;
    for (let flow = 0; flow < this.#flows.next.length; flow++) distinct += this.#flows.distinct(flow);
    return distinct;
  }

  #progress(now: number): BenchProgress {
    const byTime = (now - this.#startedAt) / (this.#deadline - this.#startedAt);
    const byCount = this.#published / (this.#limit * this.#pubs);
    return {
      published: this.#published,
      delivered: this.#received,
      done: Math.min(1, Math.max(byTime, byCount)),
      seconds: (now - this.#startedAt) / 1e6,
    };
  }

  #result(
    from: { published: number; received: number },
    until: { at: number; published: number; received: number; cpuMicros: number },
  ): BenchResult {
    const options = this.#options;
    const seconds = Math.max(until.at - this.#measuredFrom, 1) / 1e6;
    const published = until.published - from.published;
    const received = until.received - from.received;
    const expected = this.#expected();
    const cpu = process.cpuUsage();
    return {
      mode: options.mode,
      pubs: options.pubs,
      subs: options.subs,
      qos: options.qos,
      payloadBytes: options.payloadBytes,
      window: options.window,
      rate: options.rate,
      protocol: options.protocol,
      seconds,
      publishedPerSecond: published / seconds,
      deliveredPerSecond: received / seconds,
      published: this.#published,
      expected,
      delivered: this.#received,
      lost: expected - this.#distinct(),
      duplicates: this.#flows.duplicates,
      disordered: this.#isShare ? this.#memberLate : this.#flows.late,
      unacknowledged: this.#qos > 0 ? this.#published - this.#acknowledged : 0,
      refused: this.#refused,
      refusedReason: this.#refusedReason,
      strayAcks: this.#publishers.reduce((sum, client) => sum + client.strayAcks, 0),
      foreign: this.#foreign,
      stalled: this.#isStalled,
      latencyMs: milliseconds(this.#latency),
      ackMs: milliseconds(this.#acks),
      sendLagMsP99: this.#lag.percentile(0.99) / 1000,
      generatorCpuSeconds: until.cpuMicros / 1e6,
      processCpuSeconds: (cpu.user + cpu.system) / 1e6,
      generatorMicrosPerMessage: until.cpuMicros / Math.max(published + received, 1),
      failure: this.#failure?.message,
    };
  }

  #topicBase(): string {
    return `${this.#options.topic}/${this.#runId.toString(36)}`;
  }

  #filters(subscriber: number, base: string): string[] {
    switch (this.#options.mode) {
      case 'pair':
        return [`${base}/${subscriber}`];
      case 'fanout':
        return [base];
      case 'fanin':
        if (!this.#options.literalFilters) return [`${base}/+`];
        return Array.from({ length: this.#pubs }, (_, publisher) => `${base}/${publisher}`);
      case 'share':
        return [`$share/bench/${base}/+`];
    }
  }
}

function milliseconds(histogram: Histogram): LatencyResult {
  const at = (fraction: number) => histogram.percentile(fraction) / 1000;
  return {
    mean: histogram.mean / 1000,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    p999: at(0.999),
    max: histogram.max / 1000,
  };
}

/** A few at a time, in order: a broker's listen queue is short. */
async function inGroups<T>(all: readonly T[], work: (one: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < all.length; at += CONNECTS_AT_ONCE) {
    await Promise.all(all.slice(at, at + CONNECTS_AT_ONCE).map(work));
  }
}
