// Owns the question whether bytes are the UTF-8 that MQTT asks for. It is asked for every topic of every publish, so it is
// answered in place by a loop: on the short ASCII names that topics are, a call into native code costs more than the loop.
import { isUtf8 } from 'node:buffer';

/** From this length on the native check wins over the loop, even with the subarray it needs. */
const NATIVE_FROM_BYTES = 64;

/**
 * True when buffer[start, end) may stand in an MQTT string: well-formed UTF-8 (no overlong form, no surrogate, nothing above
 * U+10FFFF) without U+0000. U+FEFF is a character like any other [MQTT-1.5.4-3 v5] [MQTT-1.5.3-3 v3.1.1]. The control
 * characters and non-characters that the standard advises against are allowed: refusing them is optional.
 * The range must lie within the buffer.
 */
export function isValidUtf8String(buffer: Buffer, start: number, end: number): boolean {
  // [MQTT-1.5.4-2 v5] [MQTT-1.5.3-2 v3.1.1]: U+0000 is refused, so the lowest byte allowed is 1.
  return isUtf8From(buffer, start, end, 1);
}

/** True when buffer[start, end) is well-formed UTF-8, U+0000 included: what payload format indicator 1 promises of a payload. */
export function isWellFormedUtf8(buffer: Buffer, start: number, end: number): boolean {
  if (end - start >= NATIVE_FROM_BYTES) return isUtf8(buffer.subarray(start, end));
  return isUtf8From(buffer, start, end, 0);
}

// [MQTT-1.5.4-1 v5] [MQTT-1.5.3-1 v3.1.1]. The ranges are table 3-7 of the Unicode standard, which leaves out overlong
// forms, surrogates (ed a0..bf) and everything above U+10FFFF by the range of the second byte alone:
//
//   first    second   third    fourth
//   00..7f
//   c2..df   80..bf
//   e0       a0..bf   80..bf
//   e1..ef   80..bf   80..bf            ed: second 80..9f
//   f0       90..bf   80..bf   80..bf
//   f1..f4   80..bf   80..bf   80..bf   f4: second 80..8f
function isUtf8From(buffer: Buffer, start: number, end: number, lowestByte: number): boolean {
  let position = start;
  while (position < end) {
    const first = buffer[position++];
    if (first < 0x80) {
      if (first < lowestByte) return false;
      continue;
    }
    let following: number;
    let lowest = 0x80;
    let highest = 0xbf;
    if (first < 0xc2) {
      return false;
    } else if (first < 0xe0) {
      following = 1;
    } else if (first < 0xf0) {
      following = 2;
      if (first === 0xe0) lowest = 0xa0;
      else if (first === 0xed) highest = 0x9f;
    } else if (first < 0xf5) {
      following = 3;
      if (first === 0xf0) lowest = 0x90;
      else if (first === 0xf4) highest = 0x8f;
    } else {
      return false;
    }
    if (end - position < following) return false;
    const second = buffer[position];
    if (second < lowest || second > highest) return false;
    for (let index = 1; index < following; index++) {
      if ((buffer[position + index] & 0xc0) !== 0x80) return false;
    }
    position += following;
  }
  return true;
}
