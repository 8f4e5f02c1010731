// Records in memory, for all who read: the newest, which were never read from anywhere, and what was read from the disk. Both have one bound
// together; neither pushes the other below half of it.
import type { RecordRun } from './record-run.js';

/** What an entry costs beyond its records, about. */
const ENTRY_BYTES = 200;

export class BatchCache {
  readonly #bytesMax: number;
  /** Ascending, without gaps; the last one grows. */
  readonly #newest: RecordRun[] = [];
  /** Of all of them but the last, which counts with the size it was made with. */
  #newestBytes = 0;
  /** By page (page-reads.ts); the least recently used first. */
  readonly #read = new Map<number, RecordRun>();
  #readBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get memoryBytes(): number {
    return this.#newestBytes + (this.#newest.at(-1)?.memoryBytes ?? 0) + this.#readBytes;
  }

  /** The run that is appended to from now on. */
  addNewest(run: RecordRun): void {
    const last = this.#newest.at(-1);
    if (last !== undefined) this.#newestBytes += last.memoryBytes;
    this.#newest.push(run);
  }

  /** The run with an offset that was appended not long ago. */
  findNewest(offset: number): RecordRun | undefined {
    const newest = this.#newest;
    let high = newest.length - 1;
    if (high < 0 || offset < newest[0]!.baseOffset) return undefined;
    if (offset >= newest[high]!.baseOffset) return newest[high]!;
    let low = 0;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (newest[middle]!.baseOffset <= offset) low = middle;
      else high = middle - 1;
    }
    return newest[low]!;
  }

  /** What was read of a page, which need not be all of it. */
  findRead(page: number): RecordRun | undefined {
    const run = this.#read.get(page);
    if (run !== undefined) {
      this.#read.delete(page);
      this.#read.set(page, run);
    }
    return run;
  }

  putRead(page: number, run: RecordRun): void {
    this.#deleteRead(page);
    this.#read.set(page, run);
    this.#readBytes += run.memoryBytes + ENTRY_BYTES;
  }

  /**
   * Lets go of what is too much.
   * @param committed records from here on stay, however many they are
   */
  trim(committed: number): void {
    const newest = this.#newest;
    while (this.memoryBytes > this.#bytesMax) {
      const mayDropNewest = newest.length > 1 && newest[0]!.endOffset <= committed;
      const isNewestMuch = this.#readBytes * 2 <= this.#bytesMax;
      // What was read last has somebody waiting for it.
      if (this.#read.size > 1 && !(mayDropNewest && isNewestMuch)) {
        for (const page of this.#read.keys()) {
          this.#deleteRead(page);
          break;
        }
      } else if (mayDropNewest) {
        this.#newestBytes -= newest.shift()!.memoryBytes;
      } else return;
    }
  }

  clear(): void {
    this.#newest.length = 0;
    this.#newestBytes = 0;
    this.#read.clear();
    this.#readBytes = 0;
  }

  #deleteRead(page: number): void {
    const run = this.#read.get(page);
    if (run === undefined) return;
    this.#read.delete(page);
    this.#readBytes -= run.memoryBytes + ENTRY_BYTES;
  }
}
