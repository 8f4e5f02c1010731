// Which records belong to which epoch, as a list of where each epoch begins. Two logs are the same up to where their histories part: an epoch has
// one leader, which appends, and everybody else copies.
import { assert } from '../core/assert.js';

export interface EpochStart {
  readonly epoch: number;
  /** The offset of its first record. */
  readonly start: number;
}

/** Epochs that are remembered: whoever is further behind copies everything. */
export const EPOCHS_MAX = 1000;

export class EpochHistory {
  /** Ascending in both. */
  readonly #starts: EpochStart[];

  constructor(starts: readonly EpochStart[] = []) {
    this.#starts = [];
    for (const { epoch, start } of starts) this.begin(epoch, start);
  }

  get starts(): readonly EpochStart[] {
    return this.#starts;
  }

  /** There were epochs before those that are remembered. */
  get hasForgotten(): boolean {
    return this.#starts.length === EPOCHS_MAX;
  }

  /** 0 where there is none. */
  get lastEpoch(): number {
    return this.#starts.at(-1)?.epoch ?? 0;
  }

  /** Records from `start` on belong to `epoch`. An epoch in which nothing was appended is as if it had not been. */
  begin(epoch: number, start: number): void {
    const last = this.#starts.at(-1);
    assert(
      last === undefined || (epoch > last.epoch && start >= last.start),
      `epoch ${epoch} from ${start} after epoch ${last?.epoch} from ${last?.start}`,
    );
    if (last?.start === start) this.#starts.pop();
    this.#starts.push({ epoch, start });
    if (this.#starts.length > EPOCHS_MAX) this.#starts.shift();
  }

  /** Forgets what begins at `end` or later: the log ends there. */
  cut(end: number): void {
    while (this.#starts.length > 0 && this.#starts.at(-1)!.start >= end) this.#starts.pop();
  }

  /** The epoch of the record at `offset`, or undefined where that is not remembered. */
  epochAt(offset: number): number | undefined {
    let found: number | undefined;
    for (const { epoch, start } of this.#starts) {
      if (start > offset) break;
      found = epoch;
    }
    return found;
  }
}

/** A log, as far as it matters to whoever compares it with another. */
export interface LogShape {
  readonly starts: readonly EpochStart[];
  /** One past its last record. */
  readonly end: number;
}

/**
 * How far two logs are certainly the same: one past the last record that they have in common (Kafka KIP-101, KIP-279). 0 where they are known to
 * share nothing.
 */
export function commonEnd(one: LogShape, other: LogShape): number {
  const theirs = new Map(other.starts.map((entry, i) => [entry.epoch, i]));
  for (let i = one.starts.length - 1; i >= 0; i--) {
    const mine = one.starts[i]!;
    const j = theirs.get(mine.epoch);
    // The oldest entries may have lost their beginnings with the segments, never their ends.
    if (j === undefined) continue;
    return Math.min(endOf(one, i), endOf(other, j));
  }
  return 0;
}

function endOf({ starts, end }: LogShape, at: number): number {
  return Math.min(starts[at + 1]?.start ?? end, end);
}
