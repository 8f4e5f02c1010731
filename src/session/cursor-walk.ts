// Finds the lowest offset that somebody still needs, below the end of the segment that is to go. Cursors in the way are moved over what is not for
// them first; that reads the log, so the walk is done in portions, one a turn, however many sessions there are.
import type { Reading } from './interest.js';
import type { Pump } from './pump.js';
import { SharedGroup } from './shared-group.js';

/** Sessions, topics and records looked at in one turn. */
const WALK_BUDGET = 8192;

export class CursorWalk {
  readonly #pump: Pump;
  readonly #readings: () => Iterable<Reading>;
  #before = -1;
  #iterator: Iterator<Reading> | undefined = undefined;
  /** Whose cursor is being moved. */
  #current: Reading | undefined = undefined;
  #lowest = Number.POSITIVE_INFINITY;

  /** @param readings everybody with a cursor */
  constructor(pump: Pump, readings: () => Iterable<Reading>) {
    this.#pump = pump;
    this.#readings = readings;
  }

  /**
   * The lowest offset needed, where it is below `before`; undefined while the walk is not at its end. Whoever comes to need something
   * meanwhile needs it from the high watermark on, so what was found stays true.
   */
  neededFrom(before: number): number | undefined {
    if (this.#iterator === undefined || before !== this.#before) {
      this.#before = before;
      this.#iterator = this.#readings()[Symbol.iterator]();
      this.#current = undefined;
      this.#lowest = Number.POSITIVE_INFINITY;
    }
    let budget = WALK_BUDGET;
    while (budget > 0) {
      if (this.#current === undefined) {
        const next = this.#iterator.next();
        if (next.done === true) {
          this.#iterator = undefined;
          return this.#lowest;
        }
        this.#current = next.value;
        budget--;
      }
      const reading = this.#current;
      if (!reading.isLive && reading.cursor < before) {
        budget = this.#pump.advance(reading, before, budget);
        if (budget === 0) return undefined;
      }
      this.#lowest = Math.min(this.#lowest, lowestOf(reading));
      this.#current = undefined;
    }
    return undefined;
  }
}

function lowestOf(reading: Reading): number {
  if (!(reading instanceof SharedGroup)) return reading.neededFrom();
  let lowest = reading.isLive ? Number.POSITIVE_INFINITY : reading.cursor;
  for (const offset of reading.returned) lowest = Math.min(lowest, offset);
  return lowest;
}
