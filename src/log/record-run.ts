// Records that lie one behind the other in memory, in the layout of a batch's payload, whatever batches they belong to. The newest run grows as
// records are appended; the others were read from the disk and stay as they are.
import { RECORD_LENGTH_BYTES } from './batch-format.js';

const INITIAL_RECORDS = 1024;
const NOTHING = Buffer.alloc(0);

export class RecordRun {
  readonly baseOffset: number;
  readonly buffer: Buffer;
  /** Where each record begins, behind its length. The entry after the last says where the next one would. */
  starts: Uint32Array;
  count: number;
  /** The records are there no more; there is nothing but their number. */
  readonly isDamaged: boolean;

  constructor(baseOffset: number, buffer: Buffer, starts: Uint32Array, count: number, isDamaged = false) {
    this.baseOffset = baseOffset;
    this.buffer = buffer;
    this.starts = starts;
    this.count = count;
    this.isDamaged = isDamaged;
  }

  /** An empty run with room for records of `bytes` together, lengths included. */
  static open(baseOffset: number, bytes: number): RecordRun {
    const starts = new Uint32Array(INITIAL_RECORDS);
    starts[0] = RECORD_LENGTH_BYTES;
    // Not from the pool and not zeroed: pages are only touched as they fill.
    return new RecordRun(baseOffset, Buffer.allocUnsafeSlow(bytes), starts, 0);
  }

  static damaged(baseOffset: number, count: number): RecordRun {
    return new RecordRun(baseOffset, NOTHING, new Uint32Array(0), count, true);
  }

  get endOffset(): number {
    return this.baseOffset + this.count;
  }

  get memoryBytes(): number {
    return this.buffer.length + this.starts.byteLength;
  }

  /** Whether there is room for a record of `length` bytes. */
  hasRoom(length: number): boolean {
    return this.starts[this.count]! + length <= this.buffer.length;
  }

  /** Adds a record, for which there must be room, and answers where its bytes go. */
  push(length: number): number {
    const { count } = this;
    const start = this.starts[count]!;
    if (count + 2 > this.starts.length) {
      const grown = new Uint32Array(this.starts.length * 2);
      grown.set(this.starts);
      this.starts = grown;
    }
    this.starts[count + 1] = start + length + RECORD_LENGTH_BYTES;
    this.count = count + 1;
    this.buffer.writeUInt32LE(length, start - RECORD_LENGTH_BYTES);
    return start;
  }

  /** Length of what `payload` answers. */
  payloadBytes(from: number, to: number): number {
    return this.starts[to]! - this.starts[from]!;
  }

  /** The bytes of records [from, to), counted from the first of the run, with their lengths: the payload of a batch. */
  payload(from: number, to: number): Buffer {
    return this.buffer.subarray(
      this.starts[from]! - RECORD_LENGTH_BYTES,
      this.starts[to]! - RECORD_LENGTH_BYTES,
    );
  }
}
