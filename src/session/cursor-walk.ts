// Finds the lowest offset that somebody still needs, below the end of the segment that is to go. Cursors in the way are moved over what is not for
// them first; that reads the log, so the walk is done in portions, one a turn, however many sessions there are.
import type { LogReader } from '../log/log.js';
import type { Pump } from './pump.js';
import type { Reading } from './reading.js';
import { SharedGroup } from './shared-group.js';

/** Sessions, topics and records looked at in one turn. */
const WALK_BUDGET = 8192;

export class CursorWalk {
  readonly #pump: Pump;
  readonly #readings: () => Iterable<Reading>;
  readonly #createReader: () => LogReader;
  #before = -1;
  #iterator: Iterator<Reading> | undefined = undefined;
  /** Whose cursor is being moved. */
  #current: Reading | undefined = undefined;
  /** Kept while the walk goes on, so that a read that is pending is not begun anew. */
  #reader: LogReader | undefined = undefined;

  /** @param readings everybody with a cursor */
  constructor(pump: Pump, readings: () => Iterable<Reading>, createReader: () => LogReader) {
    this.#pump = pump;
    this.#readings = readings;
    this.#createReader = createReader;
  }

  /**
   * The lowest offset needed, where it is below `before`; undefined while the walk is not at its end. It is read off all cursors at once, at
   * the end: groups and their members hand offsets to each other meanwhile.
   */
  neededFrom(before: number): number | undefined {
    if (this.#iterator === undefined || before !== this.#before) {
      this.#before = before;
      this.#iterator = this.#readings()[Symbol.iterator]();
      this.#current = undefined;
    }
    this.#reader ??= this.#createReader();
    let budget = WALK_BUDGET;
    while (budget > 0) {
      if (this.#current === undefined) {
        const next = this.#iterator.next();
        if (next.done === true) {
          return this.#finish();
        }
        this.#current = next.value;
        budget--;
      }
      const reading = this.#current;
      if (!reading.isLive && reading.cursor < before) {
        budget = this.#pump.advance(reading, before, budget, this.#reader);
        if (budget === 0) return undefined;
      }
      this.#current = undefined;
    }
    return undefined;
  }

  #finish(): number {
    this.#iterator = undefined;
    this.#reader?.close();
    this.#reader = undefined;
    let lowest = Number.POSITIVE_INFINITY;
    for (const reading of this.#readings()) lowest = Math.min(lowest, lowestOf(reading));
    return lowest;
  }
}

function lowestOf(reading: Reading): number {
  if (!(reading instanceof SharedGroup)) return reading.neededFrom();
  let lowest = reading.isLive ? Number.POSITIVE_INFINITY : reading.cursor;
  for (const offset of reading.returned) lowest = Math.min(lowest, offset);
  return lowest;
}
