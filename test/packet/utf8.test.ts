import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isValidUtf8String, isWellFormedUtf8 } from '../../src/packet/utf8.js';
import { INVALID_UTF8 } from '../vectors/bytes.js';
import { check, mqttString } from './oracle.js';

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function oracleAccepts(bytes: Uint8Array): boolean {
  try {
    decoder.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

function agrees(bytes: Uint8Array): void {
  const buffer = Buffer.concat([Buffer.from([0xe2]), bytes, Buffer.from([0x80])]);
  const wellFormed = oracleAccepts(bytes);
  assert.equal(isWellFormedUtf8(buffer, 1, buffer.length - 1), wellFormed);
  assert.equal(isValidUtf8String(buffer, 1, buffer.length - 1), wellFormed && !bytes.includes(0));
}

for (const invalid of INVALID_UTF8) {
  test(`[MQTT-1.5.4-1] [MQTT-1.5.4-2] ${invalid.title} is no MQTT string`, () => {
    assert.equal(isValidUtf8String(invalid.bytes, 0, invalid.bytes.length), false);
    const isOnlyNul = invalid.title.startsWith('U+0000') && !invalid.bytes.includes(0xc0);
    assert.equal(isWellFormedUtf8(invalid.bytes, 0, invalid.bytes.length), isOnlyNul);
  });
}

test('the borders of every length are strings', () => {
  const borders = [0x01, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfeff, 0xffff, 0x10000, 0x10ffff];
  for (const codePoint of borders) {
    const bytes = Buffer.from(String.fromCodePoint(codePoint));
    assert.equal(isValidUtf8String(bytes, 0, bytes.length), true, codePoint.toString(16));
  }
});

test('the empty range is a string', () => {
  assert.equal(isValidUtf8String(Buffer.from([0xff]), 0, 0), true);
  assert.equal(isWellFormedUtf8(Buffer.from([0xff]), 1, 1), true);
});

test('every first and second byte, alone and followed, as TextDecoder has it', () => {
  for (let first = 0; first < 256; first++) {
    agrees(Uint8Array.of(first));
    for (let second = 0; second < 256; second++) {
      agrees(Uint8Array.of(first, second));
      agrees(Uint8Array.of(first, second, 0x80));
      agrees(Uint8Array.of(first, second, 0x80, 0xbf));
    }
  }
});

test('random bytes, as TextDecoder has it', (context) => {
  check(context, fc.property(fc.uint8Array({ maxLength: 200 }), agrees), 1000);
});

test('random text with one byte changed, as TextDecoder has it', (context) => {
  const changed = fc
    .tuple(mqttString(60), fc.nat(), fc.integer({ min: 0, max: 255 }))
    .map(([text, where, value]) => {
      const bytes = Buffer.from(text);
      if (bytes.length > 0) bytes[where % bytes.length] = value;
      return bytes;
    });
  check(context, fc.property(changed, agrees), 2000);
});

test('text longer than the loop is used for', () => {
  for (const length of [63, 64, 65, 1000]) {
    const text = Buffer.from('é'.repeat(length));
    assert.equal(isWellFormedUtf8(text, 0, text.length), true);
    assert.equal(isWellFormedUtf8(text, 1, text.length), false);
    assert.equal(isWellFormedUtf8(text, 0, text.length - 1), false);
    text[length] = 0;
    assert.equal(isWellFormedUtf8(text, 0, text.length), false);
  }
});
