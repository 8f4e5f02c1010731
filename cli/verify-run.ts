// Owns one run of `gomqctl verify`: lets everybody in, keeps to the rate, waits until all that was acknowledged has arrived or nothing moves any more, has the
// broker forget the sessions, and sums up. What was published and not delivered is a number here, never a list.
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Address } from './address.js';
import { Histogram } from './bench/histogram.js';
import { EXIT, Failure } from './failure.js';
import type { Tls } from './options.js';
import { Findings, Flow } from './verify-flow.js';
import { Gap } from './verify-gap.js';
import type { LinkSettings } from './verify-link.js';
import { type PublishTotals, VerifyPublisher } from './verify-publisher.js';
import { type SubscribeTotals, VerifySubscriber } from './verify-subscriber.js';

export interface VerifyOptions {
  brokers: readonly Address[];
  tls: Tls;
  username: string | undefined;
  password: string | undefined;
  seconds: number;
  /** Messages per second of all publishers together. */
  rate: number;
  publishers: number;
  subscribers: number;
  /** Messages of one publisher that are not acknowledged to the end. */
  window: number;
  topic: string;
  /** Nothing came for so long: what is missing is lost. */
  patienceSeconds: number;
}

export interface Latency {
  p50: number;
  p99: number;
  max: number;
}

export interface VerifyResult {
  brokers: number;
  publishers: number;
  subscribers: number;
  rate: number;
  seconds: number;
  published: number;
  /** At least PUBACK or PUBREC. */
  acknowledged: number;
  /** Never acknowledged, though published until the end. */
  unacknowledged: number;
  /** Refused with a reason code, and published again. */
  refused: number;
  refusedWhy: string | undefined;
  /** First arrivals at all subscribers together. */
  delivered: number;
  /** Acknowledged, and not there at the end. */
  undelivered: number;
  /** The same, but for a run that was interrupted, where they may be on their way. */
  lost: number;
  repeatedQos2: number;
  reordered: number;
  /** QoS 1, again: with DUP; without, and published again because its acknowledgement was lost; without any reason. */
  redeliveredQos1: number;
  resentQos1: number;
  repeatedQos1: number;
  sessionsLost: number;
  foreign: number;
  connectionsLost: number;
  /** The longest time without any acknowledgement while some were waited for. */
  longestGapMs: number;
  /** The same by publisher. */
  publisherGapsMs: number[];
  /** From when a message was due to its acknowledgement, and to its arrivals, in milliseconds. */
  ackMs: Latency;
  deliveryMs: Latency;
  /** Sessions that no broker could be told to forget; they expire after an hour. */
  sessionsLeft: number;
  interrupted: boolean;
  /** The first few of what should not be. */
  examples: string[];
}

export interface VerifyProgress {
  seconds: number;
  published: number;
  acknowledged: number;
  delivered: number;
  repeatedQos2: number;
  reordered: number;
  connectionsLost: number;
  /** How long there has been no acknowledgement now, and at most. */
  gapMs: number;
  longestGapMs: number;
}

export interface VerifyObserver {
  /** Ends the publishing early; what is on its way may arrive for a moment. */
  signal: AbortSignal;
  progressEveryMs: number;
  onProgress: ((progress: VerifyProgress) => void) | undefined;
}

const TICK_MS = 10;
const OPEN_MS = 15_000;
const FORGET_MS = 10_000;
/** After the last expected message: a repeated one would come now. */
const LINGER_MS = 300;
const INTERRUPTED_PATIENCE_MS = 5_000;
/** What could not be published in time is made up for by at most so much. */
const BEHIND_MS_MAX = 1_000;

/** @throws {Failure} where the run cannot begin */
export async function runVerify(options: VerifyOptions, observer: VerifyObserver): Promise<VerifyResult> {
  const run = new VerifyRun(options, observer);
  let result: VerifyResult | undefined;
  try {
    await run.open();
    await run.publish();
    await run.settle();
    result = run.result();
  } finally {
    const sessionsLeft = await run.close();
    if (result !== undefined) result.sessionsLeft = sessionsLeft;
  }
  return result;
}

class VerifyRun implements PublishTotals, SubscribeTotals {
  acknowledged = 0;
  refused = 0;
  refusedWhy = '';
  connectionsLost = 0;
  sessionsLost = 0;
  foreign = 0;
  awaited = 0;
  readonly gap = new Gap();
  readonly ackMicros = new Histogram();
  readonly deliveryMicros = new Histogram();
  readonly #options: VerifyOptions;
  readonly #observer: VerifyObserver;
  readonly #findings = new Findings();
  readonly #publishers: VerifyPublisher[] = [];
  readonly #subscribers: VerifySubscriber[] = [];
  #failure: Failure | undefined;
  #startMs = 0;
  #publishedMs = 0;
  #nextProgressMs = 0;

  constructor(options: VerifyOptions, observer: VerifyObserver) {
    this.#options = options;
    this.#observer = observer;
    const id = randomBytes(4).toString('hex');
    const prefix = `${options.topic}/${id}`;
    const settings = (name: string, first: number): LinkSettings => ({
      ...options,
      clientId: `verify-${id}-${name}`,
      first,
      receiveMaximum: 1000,
    });
    const topicsOf = (publisher: number) =>
      [`${prefix}/${publisher}-qos1`, `${prefix}/${publisher}-qos2`] as const;
    for (let index = 0; index < options.publishers; index++) {
      const link = settings(`publisher-${index}`, index);
      this.#publishers.push(new VerifyPublisher(link, topicsOf(index), options.window, this));
    }
    for (let index = 0; index < options.subscribers; index++) {
      const flows = new Map<string, Flow>();
      for (const [number, publisher] of this.#publishers.entries()) {
        for (const flow of [0, 1] as const) {
          const qos = flow === 0 ? 1 : 2;
          const name = `subscriber ${index}, publisher ${number}, QoS ${qos}`;
          const history = publisher.historyOf(flow);
          flows.set(topicsOf(number)[flow], new Flow(name, qos, history, this.#findings));
        }
      }
      // Not the broker of the publisher of the same number, where there are several.
      const link = settings(`subscriber-${index}`, index + 1);
      this.#subscribers.push(new VerifySubscriber(link, `${prefix}/+`, flows, this));
    }
  }

  onFailed(failure: Failure): void {
    this.#failure ??= failure;
  }

  /** @throws {Failure} where not everybody is let in */
  async open(): Promise<void> {
    const { signal } = this.#observer;
    const links = [...this.#publishers, ...this.#subscribers].map(({ link }) => link);
    for (const link of links) link.open();
    const endMs = performance.now() + OPEN_MS;
    while (!links.every(({ isUp }) => isUp) || !this.#subscribers.every(({ isSubscribed }) => isSubscribed)) {
      if (this.#failure !== undefined) throw this.#failure;
      if (signal.aborted) throw new Failure('interrupted while connecting', EXIT.interrupted);
      if (performance.now() > endMs) {
        const why = links.find(({ isUp }) => !isUp)?.why || 'no SUBACK';
        throw new Failure(`not everybody could connect within ${OPEN_MS / 1000} s: ${why}`);
      }
      await delay(TICK_MS);
    }
    this.connectionsLost = 0;
  }

  /** Publishes for as long as was asked for, at the rate. */
  async publish(): Promise<void> {
    const { seconds, rate } = this.#options;
    const { signal } = this.#observer;
    const everyMs = 1000 / rate;
    this.#startMs = performance.now();
    let nextMs = this.#startMs;
    let turn = 0;
    const endMs = this.#startMs + seconds * 1000;
    for (let isOver = false; !isOver; ) {
      if (this.#failure !== undefined) throw this.#failure;
      const nowMs = Math.min(performance.now(), endMs);
      isOver = nowMs === endMs || signal.aborted;
      nextMs = Math.max(nextMs, nowMs - BEHIND_MS_MAX);
      for (const { link } of this.#publishers) link.cork();
      for (let isFull = false; nextMs <= nowMs && !isFull; ) {
        isFull = true;
        // Whoever's turn it is, or the next one that has room.
        for (let tried = 0; tried < this.#publishers.length && isFull; tried++) {
          isFull = !this.#publishers[turn++ % this.#publishers.length]!.publish(nowMs);
        }
        if (!isFull) nextMs += everyMs;
      }
      this.#tick(nowMs);
      await delay(TICK_MS);
    }
    this.#publishedMs = performance.now();
  }

  /** Waits for what is on its way, as long as something moves. */
  async settle(): Promise<void> {
    const { signal } = this.#observer;
    let seen = -1;
    let seenMs = performance.now();
    for (;;) {
      const nowMs = performance.now();
      this.#tick(nowMs);
      const moved = this.acknowledged + this.#findings.delivered - this.awaited;
      if (moved !== seen) {
        seen = moved;
        seenMs = nowMs;
      }
      if (this.awaited === 0 && this.#undelivered() === 0) break;
      const patienceMs = this.#options.patienceSeconds * 1000;
      if (nowMs - seenMs > (signal.aborted ? Math.min(INTERRUPTED_PATIENCE_MS, patienceMs) : patienceMs))
        return;
      await delay(TICK_MS);
    }
    await delay(LINGER_MS);
  }

  result(): VerifyResult {
    const { brokers, publishers, subscribers, rate } = this.#options;
    const nowMs = performance.now();
    const findings = this.#findings;
    const undelivered = this.#undelivered();
    const interrupted = this.#observer.signal.aborted;
    return {
      brokers: brokers.length,
      publishers,
      subscribers,
      rate,
      seconds: Number(((this.#publishedMs - this.#startMs) / 1000).toFixed(3)),
      published: this.#published(),
      acknowledged: this.acknowledged,
      unacknowledged: this.#published() - this.acknowledged,
      refused: this.refused,
      refusedWhy: this.refused === 0 ? undefined : this.refusedWhy,
      delivered: findings.delivered,
      undelivered,
      lost: interrupted ? 0 : undelivered,
      repeatedQos2: findings.repeatedQos2,
      reordered: findings.reordered,
      redeliveredQos1: findings.redelivered,
      resentQos1: findings.resent,
      repeatedQos1: findings.repeatedQos1,
      sessionsLost: this.sessionsLost,
      foreign: this.foreign,
      connectionsLost: this.connectionsLost,
      longestGapMs: Math.round(this.gap.longestMs(nowMs)),
      publisherGapsMs: this.#publishers.map(({ gap }) => Math.round(gap.longestMs(nowMs))),
      ackMs: latency(this.ackMicros),
      deliveryMs: latency(this.deliveryMicros),
      sessionsLeft: 0,
      interrupted,
      examples: [...findings.examples, ...(undelivered > 0 ? this.#missingExamples() : [])],
    };
  }

  /** Ends all sessions. @returns how many could not be ended */
  async close(): Promise<number> {
    const links = [...this.#publishers, ...this.#subscribers].map(({ link }) => link);
    const left = await Promise.all(
      links.map(async (link) => {
        const wasThere = link.isUp || this.#startMs > 0;
        await link.close();
        return wasThere && !(await link.forget(FORGET_MS));
      }),
    );
    return left.filter(Boolean).length;
  }

  #tick(nowMs: number): void {
    for (const publisher of this.#publishers) publisher.tick(nowMs);
    const { onProgress, progressEveryMs } = this.#observer;
    if (onProgress === undefined || nowMs < this.#nextProgressMs) return;
    this.#nextProgressMs = nowMs + progressEveryMs;
    const { delivered, repeatedQos2, reordered } = this.#findings;
    onProgress({
      seconds: Number(((nowMs - this.#startMs) / 1000).toFixed(1)),
      published: this.#published(),
      acknowledged: this.acknowledged,
      delivered,
      repeatedQos2,
      reordered,
      connectionsLost: this.connectionsLost,
      gapMs: Math.round(this.gap.currentMs(nowMs)),
      longestGapMs: Math.round(this.gap.longestMs(nowMs)),
    });
  }

  #published(): number {
    return this.#publishers.reduce((sum, { published }) => sum + published[0] + published[1], 0);
  }

  /** Acknowledged and not there, over all subscribers. */
  #undelivered(): number {
    let undelivered = 0;
    this.#eachFlow((flow, end, unacknowledged) => {
      const open = unacknowledged.filter((number) => !flow.has(number)).length;
      undelivered += flow.missingBelow(end) - open;
    });
    return undelivered;
  }

  #missingExamples(): string[] {
    const examples: string[] = [];
    this.#eachFlow((flow, end, unacknowledged) => {
      const numbers = flow.firstMissing(end, unacknowledged.length + 3);
      const lost = numbers.filter((number) => !unacknowledged.includes(number));
      if (lost.length > 0 && examples.length < 10)
        examples.push(`${flow.name}: ${lost.slice(0, 3).join(', ')} did not arrive`);
    });
    return examples;
  }

  #eachFlow(look: (flow: Flow, end: number, unacknowledged: readonly number[]) => void): void {
    const unacknowledged = this.#publishers.map((publisher) => [
      publisher.unacknowledged(0),
      publisher.unacknowledged(1),
    ]);
    for (const { flows } of this.#subscribers) {
      let at = 0;
      for (const flow of flows.values()) {
        const publisher = at >> 1;
        const which = (at & 1) as 0 | 1;
        look(flow, this.#publishers[publisher]!.published[which], unacknowledged[publisher]![which]!);
        at++;
      }
    }
  }
}

function latency(histogram: Histogram): Latency {
  const at = (micros: number) => Number((micros / 1000).toFixed(2));
  return { p50: at(histogram.percentile(0.5)), p99: at(histogram.percentile(0.99)), max: at(histogram.max) };
}
