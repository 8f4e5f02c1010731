// Owns the deadlines of the client edge: one timer for any number of sockets, where a timer per socket would cost memory and time for
// something that almost never happens. Time is coarse on purpose: what was added is swept after one to two intervals.

interface Sweepable {
  /** Called when the time is over and nobody has taken the item out. */
  expire(): void;
}

export class Sweep {
  readonly #intervalMs: number;
  #young = new Set<Sweepable>();
  #old = new Set<Sweepable>();
  #timer: NodeJS.Timeout | undefined = undefined;

  constructor(intervalMs: number) {
    this.#intervalMs = intervalMs;
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  add(item: Sweepable): void {
    this.#young.add(item);
    // The timer runs only while there is something to sweep, and never keeps the process alive.
    this.#timer ??= setInterval(() => this.#tick(), this.#intervalMs).unref();
  }

  delete(item: Sweepable): void {
    if (!this.#young.delete(item)) this.#old.delete(item);
  }

  /** Ends everything at once, without waiting for its time. */
  expireAll(): void {
    const items = [...this.#young, ...this.#old];
    this.#young.clear();
    this.#old.clear();
    this.#stopWhenEmpty();
    for (const item of items) item.expire();
  }

  #tick(): void {
    const due = this.#old;
    this.#old = this.#young;
    this.#young = new Set();
    this.#stopWhenEmpty();
    for (const item of due) item.expire();
  }

  #stopWhenEmpty(): void {
    if (this.size > 0 || this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
