// Time, chance and processes of a simulation. Everything that happens is an event at a moment of one clock, drawn from one source: the same seed
// gives the same history, event by event. Nothing here waits for anything real.
import { Random } from '../crash/random.js';

/** One run of a program, from its start to its end: what is meant for it while it is stopped waits, and what comes after its end is lost. */
export class Life {
  readonly node: string;
  isAlive = true;
  isPaused = false;
  /** What has come while it was stopped. */
  readonly waiting: (() => void)[] = [];
  /** Of it ending by itself at a place where something is about to be on disk, or just was. */
  crashChance = 0;

  constructor(node: string) {
    this.node = node;
  }
}

/** Thrown where a process ends in the middle of something. */
export class Killed extends Error {}

/** What must never happen has happened. */
export class Violation extends Error {}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly life: Life | undefined;
  readonly work: () => void;
}

export interface Note {
  readonly atMs: number;
  readonly who: string;
  readonly text: string;
}

export class World {
  readonly random: Random;
  nowMs = 0;
  events = 0;
  /** What happened, where it is kept: a seed runs without it first, and again with it once it has failed. */
  readonly notes: Note[] | undefined;
  /** A process has ended at a crash point. */
  onKilled: (life: Life) => void = () => undefined;
  #order = 0;
  /** A binary heap, the earliest on top. */
  readonly #heap: Event[] = [];
  #drawn = 0;

  constructor(seed: number, keepsNotes: boolean) {
    this.random = new Random(seed);
    this.notes = keepsNotes ? [] : undefined;
  }

  note(who: string, text: () => string): void {
    this.notes?.push({ atMs: this.nowMs, who, text: text() });
  }

  /** What is never drawn twice. */
  draw(kind: string): string {
    this.#drawn++;
    return `${kind}${this.#drawn}`;
  }

  /** A duration between the two, most often near the lower one. */
  delay(fromMs: number, toMs: number): number {
    const drawn = this.random.next();
    return fromMs + (toMs - fromMs) * drawn * drawn * drawn;
  }

  /** @param life undefined for what happens whether a process sees it or not */
  after(delayMs: number, life: Life | undefined, work: () => void): void {
    const event = { atMs: this.nowMs + delayMs, order: this.#order++, life, work };
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (!isEarlier(event, heap[above]!)) break;
      heap[at] = heap[above]!;
      at = above;
    }
    heap[at] = event;
  }

  /** Something reaches a process: now, or when it goes on, or never. */
  reach(life: Life, work: () => void): void {
    if (!life.isAlive) return;
    if (life.isPaused) {
      life.waiting.push(work);
      return;
    }
    try {
      work();
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
      this.onKilled(life);
    }
  }

  /** SIGCONT: everything that has come meanwhile is there at once. */
  resume(life: Life): void {
    life.isPaused = false;
    for (const work of life.waiting.splice(0)) this.reach(life, work);
  }

  /** The process may end here. @throws {Killed} */
  crashPoint(life: Life, where: string): void {
    if (life.crashChance === 0 || !this.random.chance(life.crashChance)) return;
    this.note(life.node, () => `is killed ${where}`);
    throw new Killed(where);
  }

  runUntil(endMs: number): void {
    const heap = this.#heap;
    while (heap.length > 0 && heap[0]!.atMs <= endMs) {
      const { atMs, life, work } = this.#next();
      this.nowMs = atMs;
      this.events++;
      if (life === undefined) work();
      else this.reach(life, work);
    }
    this.nowMs = endMs;
  }

  #next(): Event {
    const heap = this.#heap;
    const first = heap[0]!;
    const last = heap.pop()!;
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= heap.length) break;
      if (below + 1 < heap.length && isEarlier(heap[below + 1]!, heap[below]!)) below++;
      if (!isEarlier(heap[below]!, last)) break;
      heap[at] = heap[below]!;
      at = below;
    }
    heap[at] = last;
    return first;
  }
}

function isEarlier(one: Event, other: Event): boolean {
  return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order);
}
