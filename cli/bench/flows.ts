// Owns the question "did every message arrive, once, in order?". A flow is one publisher as seen by one receiver (a subscriber, or a
// shared-subscription group); its sequence numbers start at 0 and rise by one.
//
// The invariant: everything below `next` is either received or counted in `missing`. A flow without a gap costs one comparison and one
// store per message. The first gap gives it a bitmap of the last WINDOW sequence numbers, which tells a late message (disorder) from a
// repeated one. A message later than WINDOW messages behind its successors counts as one lost and one duplicate: memory stays bounded.

/** Sequence numbers remembered behind the newest one, per flow. */
export const WINDOW = 1 << 16;
const MASK = WINDOW - 1;

/** All flows of a run, in arrays by flow number, so that recording allocates nothing. */
export class Flows {
  /** By flow: one more than the highest sequence number received. */
  readonly next: Uint32Array;
  readonly #missing: Float64Array;
  readonly #seen: (Uint32Array | undefined)[];
  #duplicates = 0;
  #late = 0;

  constructor(count: number) {
    this.next = new Uint32Array(count);
    this.#missing = new Float64Array(count);
    this.#seen = new Array<Uint32Array | undefined>(count).fill(undefined);
  }

  /** Messages that came again. */
  get duplicates(): number {
    return this.#duplicates;
  }

  /** Messages that came, for the first time, after one that was published later. */
  get late(): number {
    return this.#late;
  }

  record(flow: number, sequence: number): void {
    if (sequence === this.next[flow] && this.#seen[flow] === undefined) {
      this.next[flow] = sequence + 1;
      return;
    }
    this.#recordOutOfStep(flow, sequence);
  }

  /** Different messages received in this flow. */
  distinct(flow: number): number {
    return this.next[flow]! - this.#missing[flow]!;
  }

  #recordOutOfStep(flow: number, sequence: number): void {
    const next = this.next[flow]!;
    let seen = this.#seen[flow];
    if (sequence < next && (seen === undefined || sequence < next - WINDOW)) {
      this.#duplicates++;
      return;
    }
    if (seen === undefined) {
      seen = new Uint32Array(WINDOW >>> 5).fill(0xffffffff);
      this.#seen[flow] = seen;
    }
    const word = (sequence & MASK) >>> 5;
    const bit = 1 << (sequence & 31);
    if (sequence < next) {
      if ((seen[word]! & bit) !== 0) {
        this.#duplicates++;
        return;
      }
      seen[word]! |= bit;
      this.#missing[flow]!--;
      this.#late++;
      return;
    }
    const gap = sequence - next;
    if (gap >= WINDOW) {
      seen.fill(0);
    } else {
      for (let absent = next; absent < sequence; absent++) {
        seen[(absent & MASK) >>> 5]! &= ~(1 << (absent & 31));
      }
    }
    seen[word]! |= bit;
    this.#missing[flow]! += gap;
    this.next[flow] = sequence + 1;
  }
}
