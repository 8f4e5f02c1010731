// Bytes of the records that are not publishes: numbers of variable length, so that offsets and packet ids that lie close together take a byte
// or two, and strings with their length before them.
import { assert } from '../core/assert.js';

const INITIAL_BYTES = 4096;

/** Collects the bytes of one record; used again and again. */
export class RecordWriter {
  #buffer = Buffer.allocUnsafeSlow(INITIAL_BYTES);
  #length = 0;

  /** Starts a record of the type. */
  begin(type: number): this {
    this.#length = 0;
    return this.byte(type);
  }

  get length(): number {
    return this.#length;
  }

  copyTo(target: Buffer, at: number): void {
    this.#buffer.copy(target, at, 0, this.#length);
  }

  /** A copy of what was written. */
  toBuffer(): Buffer {
    return Buffer.from(this.#buffer.subarray(0, this.#length));
  }

  byte(value: number): this {
    const at = this.#reserve(1);
    this.#buffer[at] = value;
    return this;
  }

  /** A safe integer, not negative: seven bits a byte, the lowest first, the high bit set on all but the last. */
  varint(value: number): this {
    let rest = value;
    while (rest >= 0x80) {
      this.byte((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    return this.byte(rest);
  }

  /** A safe integer that may be negative: 0, -1, 1, -2 ... as 0, 1, 2, 3 ... */
  signed(value: number): this {
    return this.varint(value >= 0 ? value * 2 : -value * 2 - 1);
  }

  bytes(value: Uint8Array): this {
    this.varint(value.length);
    const at = this.#reserve(value.length);
    this.#buffer.set(value, at);
    return this;
  }

  text(value: string): this {
    const length = Buffer.byteLength(value);
    this.varint(length);
    const at = this.#reserve(length);
    this.#buffer.write(value, at, 'utf8');
    return this;
  }

  /** A byte 0 where it is undefined, else a byte 1 and the text. */
  optionalText(value: string | undefined): this {
    if (value === undefined) return this.byte(0);
    return this.byte(1).text(value);
  }

  #reserve(bytes: number): number {
    const at = this.#length;
    if (at + bytes > this.#buffer.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, at + bytes));
      this.#buffer.copy(grown, 0, 0, at);
      this.#buffer = grown;
    }
    this.#length = at + bytes;
    return at;
  }
}

/** Reads what RecordWriter wrote. Records are checksummed, so bytes that do not fit are a defect. */
export class RecordReader {
  readonly #buffer: Buffer;
  readonly #end: number;
  #at: number;

  /** @param start behind the type */
  constructor(buffer: Buffer, start: number, end: number) {
    this.#buffer = buffer;
    this.#at = start;
    this.#end = end;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#end;
  }

  byte(): number {
    assert(this.#at < this.#end, 'a record holds all its fields');
    return this.#buffer[this.#at++]!;
  }

  varint(): number {
    let value = 0;
    let factor = 1;
    for (;;) {
      const byte = this.byte();
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) break;
      factor *= 0x80;
    }
    assert(Number.isSafeInteger(value), 'numbers in records are safe integers');
    return value;
  }

  signed(): number {
    const value = this.varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  /** A copy: records lie in memory that is used again. */
  bytes(): Buffer {
    const length = this.varint();
    const start = this.#at;
    assert(start + length <= this.#end, 'a record holds all its fields');
    this.#at = start + length;
    return Buffer.from(this.#buffer.subarray(start, this.#at));
  }

  text(): string {
    const length = this.varint();
    const start = this.#at;
    assert(start + length <= this.#end, 'a record holds all its fields');
    this.#at = start + length;
    return this.#buffer.toString('utf8', start, this.#at);
  }

  optionalText(): string | undefined {
    return this.byte() === 0 ? undefined : this.text();
  }
}
