// The lease of this node: asks for one, keeps it alive, notices that it is over, asks for another. etcd counts a lease from when a keepalive arrives
// there; whoever holds it may only count from when it was sent, on the monotonic clock, which is what `onHeld` tells.
import { Alarm } from './alarm.js';
import type { EtcdLine, EtcdStream } from './etcd-client.js';

export interface EtcdLeaseOptions {
  readonly line: EtcdLine;
  readonly seconds: number;
  readonly monotonicMs: () => number;
  /** How long to wait after a failure. */
  readonly retryMs: number;
  /** There is another lease than before. */
  onGranted(): void;
  /** It lasts at least until `sentAtMs` + its length. */
  onHeld(sentAtMs: number): void;
  /** Once for each one that was granted. */
  onGone(): void;
  /** Undefined: it works. */
  onProblem(error: Error | undefined): void;
}

/** One of six may get lost together with the next three, and the lease still holds. */
const KEEPALIVES_PER_LEASE = 6;
const KEEPALIVE_MS_MIN = 200;
const ANSWER_MS_MIN = 1000;
const GRANT_MS = 2000;

export class EtcdLease {
  readonly #options: EtcdLeaseOptions;
  readonly #everyMs: number;
  readonly #answerMs: number;
  readonly #alarm = new Alarm();
  readonly #waiting = new Set<{ resolve(id: string | undefined): void }>();
  #id: string | undefined;
  #stream: EtcdStream<string> | undefined;
  /** Of the one keepalive that waits for its answer. */
  #answer: { resolve(seconds: number): void; reject(error: Error): void } | undefined;
  #isStopped = false;

  constructor(options: EtcdLeaseOptions) {
    this.#options = options;
    this.#everyMs = Math.max(KEEPALIVE_MS_MIN, (options.seconds * 1000) / KEEPALIVES_PER_LEASE);
    // As long as two of them fit into a lease, an etcd that is slow is given the time.
    this.#answerMs = Math.max(ANSWER_MS_MIN, (options.seconds * 1000) / 3);
  }

  /** As far as is known. */
  get id(): string | undefined {
    return this.#id;
  }

  /** The lease, as soon as there is one; undefined once it was stopped. */
  held(): Promise<string | undefined> {
    if (this.#id !== undefined || this.#isStopped) return Promise.resolve(this.#id);
    return new Promise((resolve) => this.#waiting.add({ resolve }));
  }

  /** Runs until it is stopped, on the main loop: while that makes no progress the lease is not kept (R10). */
  async run(): Promise<void> {
    const { retryMs } = this.#options;
    while (!this.#isStopped) {
      const beganMs = this.#options.monotonicMs();
      const error = await (this.#id === undefined ? this.#grant() : this.#keepAlive(this.#id));
      if (this.#isStopped) break;
      this.#options.onProblem(error);
      if (error !== undefined) await this.#alarm.wait(retryMs);
      // Without a lease another one is asked for at once.
      else if (this.#id !== undefined)
        await this.#alarm.wait(Math.max(0, beganMs + this.#everyMs - this.#options.monotonicMs()));
    }
  }

  /** Somebody else was told by etcd that it is over. */
  gone(id: string): void {
    if (this.#id !== id) return;
    this.#id = undefined;
    if (!this.#isStopped) this.#options.onGone();
    this.#alarm.ring();
  }

  stop(): void {
    this.#isStopped = true;
    this.#alarm.ring();
    this.#stream?.close();
    this.#answer?.reject(new Error('the lease is not kept any longer'));
    this.#tellWaiting();
  }

  /** Answers what went wrong. */
  async #grant(): Promise<Error | undefined> {
    const { line, seconds, monotonicMs, onGranted, onHeld } = this.#options;
    const sentAtMs = monotonicMs();
    let id: string;
    try {
      id = await line.grant(seconds, GRANT_MS);
    } catch (error) {
      return error as Error;
    }
    this.#id = id;
    if (this.#isStopped) return undefined;
    onGranted();
    onHeld(sentAtMs);
    this.#tellWaiting();
    return undefined;
  }

  async #keepAlive(id: string): Promise<Error | undefined> {
    let sentAtMs: number;
    let seconds: number;
    try {
      this.#stream ??= await this.#open();
      sentAtMs = this.#options.monotonicMs();
      seconds = await this.#ask(this.#stream, id);
    } catch (error) {
      this.#stream?.close();
      this.#stream = undefined;
      // Whoever stops it still has to give it back.
      if (!this.#isStopped) this.#options.line.reset();
      return error as Error;
    }
    if (seconds <= 0) this.gone(id);
    // It may have been said to be gone in between, by an etcd that has been wiped.
    else if (this.#id === id && !this.#isStopped) this.#options.onHeld(sentAtMs);
    return undefined;
  }

  async #open(): Promise<EtcdStream<string>> {
    const stream = await this.#options.line.keepAlive({
      onAnswer: (seconds) => this.#answer?.resolve(seconds),
      onEnd: (error) => {
        // What has ended while nobody asked is opened again with the next keepalive.
        if (this.#stream === stream) this.#stream = undefined;
        this.#answer?.reject(error);
      },
    });
    if (this.#isStopped) stream.close();
    return stream;
  }

  /** Only one keepalive is under way at a time, so that it is clear which one an answer belongs to. */
  async #ask(stream: EtcdStream<string>, id: string): Promise<number> {
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<number>((resolve, reject) => {
        this.#answer = { resolve, reject };
        timer = setTimeout(
          () => reject(new Error(`no keepalive was answered within ${Math.round(this.#answerMs)} ms`)),
          this.#answerMs,
        );
        stream.send(id);
      });
    } finally {
      clearTimeout(timer);
      this.#answer = undefined;
    }
  }

  #tellWaiting(): void {
    for (const one of this.#waiting) one.resolve(this.#id);
    this.#waiting.clear();
  }
}
