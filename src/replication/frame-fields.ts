// Owns the walk over the fields of one frame between brokers, in both directions. The reader never leaves the frame: a length or a count that
// promises more than there is ends as PEER_PROTOCOL in one place, before anything of that size is made. Nothing it answers is a copy but text.
import { isUtf8 } from 'node:buffer';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import { readUint64, writeUint64 } from '../log/batch-codec.js';

/** Before the body: what follows as u32, the type, the epoch. */
export const FRAME_HEADER_BYTES = 13;
export const FRAME_LENGTH_BYTES = 4;
const TYPE_AT = 4;
const EPOCH_AT = 5;

/** What cannot be meant by a broker that speaks the same protocol. */
export function peerProtocolError(message: string): GomqError {
  return new GomqError('PEER_PROTOCOL', message);
}

/** The number of the type of a frame. */
export function frameNumber(buffer: Buffer, start: number): number {
  return buffer[start + TYPE_AT]!;
}

export class FieldReader {
  readonly #buffer: Buffer;
  readonly #end: number;
  /** The name of the frame, for messages. */
  readonly #name: string;
  #at: number;

  /**
   * Opens the whole frame buffer[start, end).
   * @throws {GomqError} PEER_PROTOCOL when it is shorter than a header, or its length is another one
   */
  constructor(buffer: Buffer, start: number, end: number, name: string) {
    this.#buffer = buffer;
    this.#at = start + EPOCH_AT;
    this.#end = end;
    this.#name = name;
    if (end - start < FRAME_HEADER_BYTES) throw peerProtocolError(`a frame of ${end - start} bytes`);
    const announced = buffer.readUInt32LE(start) + FRAME_LENGTH_BYTES;
    if (announced !== end - start) {
      throw peerProtocolError(`${name} announces ${announced} bytes and has ${end - start}`);
    }
  }

  get remaining(): number {
    return this.#end - this.#at;
  }

  byte(field: string): number {
    return this.#buffer[this.#step(1, field)]!;
  }

  uint16(field: string): number {
    return this.#buffer.readUInt16LE(this.#step(2, field));
  }

  uint32(field: string): number {
    return this.#buffer.readUInt32LE(this.#step(4, field));
  }

  uint64(field: string): number {
    const value = readUint64(this.#buffer, this.#step(8, field));
    if (Number.isNaN(value)) throw this.wrong(field, 'is above 2^53 - 1');
    return value;
  }

  /** Part of the frame itself. */
  bytes(length: number, field: string): Buffer {
    const start = this.#step(length, field);
    return this.#buffer.subarray(start, start + length);
  }

  /** Text behind its length as one byte. */
  shortText(field: string): string {
    return this.#text(this.byte(`length of the ${field}`), field);
  }

  /** Text behind its length as two bytes. */
  text(field: string, bytesMax: number): string {
    const length = this.uint16(`length of the ${field}`);
    if (length > bytesMax) throw this.wrong(field, `of ${length} bytes is longer than ${bytesMax}`);
    return this.#text(length, field);
  }

  /** Both sides disagree about what comes before where something is left over. */
  end(): void {
    if (this.remaining > 0) {
      throw peerProtocolError(`${this.#name} has ${this.remaining} bytes after its last field`);
    }
  }

  wrong(field: string, why: string): GomqError {
    return peerProtocolError(`${this.#name}: ${field} ${why}`);
  }

  #text(length: number, field: string): string {
    const start = this.#step(length, field);
    if (!isUtf8(this.#buffer.subarray(start, start + length))) throw this.wrong(field, 'is not UTF-8');
    return this.#buffer.toString('utf8', start, start + length);
  }

  #step(bytes: number, field: string): number {
    const start = this.#at;
    if (this.#end - start < bytes) {
      throw peerProtocolError(
        `${this.#name} ends within its ${field}: ${bytes} bytes needed, ${this.#end - start} left`,
      );
    }
    this.#at = start + bytes;
    return start;
  }
}

const INITIAL_BYTES = 4096;

/** Collects one frame, or the beginning of one whose last bytes are sent from where they are; used again and again. */
export class FieldWriter {
  #buffer = Buffer.allocUnsafeSlow(INITIAL_BYTES);
  #length = 0;

  begin(frameNumber: number, epoch: number): this {
    this.#length = FRAME_LENGTH_BYTES;
    return this.byte(frameNumber).uint64(epoch);
  }

  get length(): number {
    return this.#length;
  }

  byte(value: number): this {
    assert(value >= 0 && value <= 0xff, `${value} as a byte`);
    // The buffer may be another one afterwards.
    const at = this.#reserve(1);
    this.#buffer[at] = value;
    return this;
  }

  uint16(value: number): this {
    assert(value >= 0 && value <= 0xffff, `${value} as a 16-bit number`);
    const at = this.#reserve(2);
    this.#buffer.writeUInt16LE(value, at);
    return this;
  }

  uint32(value: number): this {
    assert(value >= 0 && value <= 0xffff_ffff, `${value} as a 32-bit number`);
    const at = this.#reserve(4);
    this.#buffer.writeUInt32LE(value, at);
    return this;
  }

  uint64(value: number): this {
    const at = this.#reserve(8);
    writeUint64(this.#buffer, value, at);
    return this;
  }

  bytes(value: Uint8Array): this {
    const at = this.#reserve(value.length);
    this.#buffer.set(value, at);
    return this;
  }

  shortText(value: string): this {
    const length = Buffer.byteLength(value);
    this.byte(length);
    const at = this.#reserve(length);
    this.#buffer.write(value, at, 'utf8');
    return this;
  }

  text(value: string): this {
    const length = Buffer.byteLength(value);
    this.uint16(length);
    const at = this.#reserve(length);
    this.#buffer.write(value, at, 'utf8');
    return this;
  }

  /**
   * A copy of what was written, with the length before it.
   * @param bytesBehind that belong to the frame and are sent behind the copy
   */
  end(bytesBehind: number): Buffer {
    this.#buffer.writeUInt32LE(this.#length - FRAME_LENGTH_BYTES + bytesBehind, 0);
    return Buffer.from(this.#buffer.subarray(0, this.#length));
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
