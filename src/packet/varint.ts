// Owns the variable byte integer (section 1.5.5 of 5.0, 2.2.3 of 3.1.1): seven bits a byte, lowest first, the high bit says that
// another byte follows, four bytes at most.
import { assert } from '../core/assert.js';
import { malformed } from './types.js';

/** The largest value four bytes hold: 256 MiB - 1. */
export const VARINT_MAX = 268_435_455;

/** How many bytes the shortest encoding of a value takes: 1 to 4. */
export function varintSize(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x20_0000) return 3;
  return 4;
}

/** Writes a value of 0 to VARINT_MAX and returns the position after it. */
export function writeVarint(buffer: Buffer, position: number, value: number): number {
  assert(value >= 0 && value <= VARINT_MAX, `${value} does not fit in a variable byte integer`);
  let at = position;
  let rest = value;
  while (rest >= 0x80) {
    buffer[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  buffer[at++] = rest;
  return at;
}

/**
 * The value at buffer[start, end), or -1 when its last byte is not there yet. Only the shortest encoding is taken, so the
 * size follows from the value: `varintSize(value)`.
 * @throws {GomqError} 0x81 after four bytes that all announce another, or when a shorter encoding exists
 */
export function readVarint(buffer: Buffer, start: number, end: number): number {
  let value = 0;
  for (let index = 0; index < 4; index++) {
    if (start + index >= end) return -1;
    const byte = buffer[start + index];
    value |= (byte & 0x7f) << (7 * index);
    if (byte < 0x80) {
      // [MQTT-1.5.5-1]
      if (byte === 0 && index > 0) throw malformed('variable byte integer is longer than it has to be');
      return value;
    }
  }
  throw malformed('variable byte integer is longer than four bytes');
}
