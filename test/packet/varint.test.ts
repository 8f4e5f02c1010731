import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { readVarint, VARINT_MAX, varintSize, writeVarint } from '../../src/packet/varint.js';
import { bytes } from '../vectors/bytes.js';
import { check, refuses } from './oracle.js';

// Table 1-1 of 5.0.
const BORDERS: readonly (readonly [value: number, encoded: string])[] = [
  [0, '00'],
  [127, '7f'],
  [128, '80 01'],
  [16_383, 'ff 7f'],
  [16_384, '80 80 01'],
  [2_097_151, 'ff ff 7f'],
  [2_097_152, '80 80 80 01'],
  [268_435_455, 'ff ff ff 7f'],
];

for (const [value, encoded] of BORDERS) {
  test(`${value} is ${encoded}`, () => {
    const expected = bytes(encoded);
    const buffer = Buffer.alloc(6, 0xee);
    assert.equal(writeVarint(buffer, 1, value), 1 + expected.length);
    assert.deepEqual(buffer.subarray(1, 1 + expected.length), expected);
    assert.equal(buffer[1 + expected.length], 0xee, 'nothing behind it is written');
    assert.equal(varintSize(value), expected.length);
    assert.equal(readVarint(buffer, 1, buffer.length), value);
    for (let end = 1; end < 1 + expected.length; end++) assert.equal(readVarint(buffer, 1, end), -1);
  });
}

test('[MQTT-1.5.5-1] a longer encoding than necessary is malformed', () => {
  for (const encoded of ['80 00', '81 00', 'ff 80 00', '80 80 80 00']) {
    const buffer = bytes(encoded);
    refuses(() => readVarint(buffer, 0, buffer.length), 0x81);
  }
});

test('a fifth byte is malformed as soon as the fourth announces it', () => {
  refuses(() => readVarint(bytes('ff ff ff ff 7f'), 0, 5), 0x81);
  refuses(() => readVarint(bytes('80 80 80 80'), 0, 4), 0x81);
});

test('a value beyond four bytes is a defect of the writer', () => {
  assert.throws(() => writeVarint(Buffer.alloc(8), 0, VARINT_MAX + 1), { code: 'INTERNAL' });
  assert.throws(() => writeVarint(Buffer.alloc(8), 0, -1), { code: 'INTERNAL' });
});

test('what is written is read', (context) => {
  const value = fc.integer({ min: 0, max: VARINT_MAX });
  check(
    context,
    fc.property(value, (n) => {
      const buffer = Buffer.alloc(4);
      assert.equal(writeVarint(buffer, 0, n), varintSize(n));
      assert.equal(readVarint(buffer, 0, 4), n);
    }),
  );
});
