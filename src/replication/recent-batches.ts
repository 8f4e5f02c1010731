// The newest batches of a leader's log, for members that keep up: they get them from memory, at the latest when the leader's own disk does.
import type { EncodedBatch } from '../log/stored-batches.js';

export class RecentBatches {
  readonly #bytesMax: number;
  /** Ascending, without gaps. */
  #batches: EncodedBatch[] = [];
  /** Those before it have been let go of; cut off when they are many. */
  #first = 0;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  push(batch: EncodedBatch): void {
    this.#batches.push(batch);
    this.#bytes += batch.bytes.length;
    while (this.#bytes > this.#bytesMax && this.#first < this.#batches.length - 1) {
      this.#bytes -= this.#batches[this.#first]!.bytes.length;
      this.#first++;
    }
    if (this.#first > 1024 && this.#first * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#first);
      this.#first = 0;
    }
  }

  /** Batches from the one that begins at `from` on, up to `bytesMax` but one at least; undefined where it is not there. */
  from(from: number, bytesMax: number, countMax: number): readonly EncodedBatch[] | undefined {
    const batches = this.#batches;
    let low = this.#first;
    let high = batches.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (batches[middle]!.baseOffset < from) low = middle + 1;
      else high = middle;
    }
    if (low === batches.length || batches[low]!.baseOffset !== from) return undefined;
    let end = low + 1;
    let bytes = batches[low]!.bytes.length;
    while (end < batches.length && end - low < countMax && bytes + batches[end]!.bytes.length <= bytesMax) {
      bytes += batches[end]!.bytes.length;
      end++;
    }
    return batches.slice(low, end);
  }
}
