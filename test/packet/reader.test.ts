import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PacketReader } from '../../src/packet/reader.js';
import { PacketType } from '../../src/packet/types.js';
import { bytes, frame } from '../vectors/bytes.js';
import { refuses } from './oracle.js';

const open = (packet: Buffer) => new PacketReader(packet, PacketType.Subscribe, 'SUBSCRIBE');

test('it opens at the first byte after the remaining length, however long that is', () => {
  for (const size of [0, 1, 127, 128, 16_383, 16_384, 2_097_152]) {
    const reader = open(frame(0x82, Buffer.alloc(size)));
    assert.equal(reader.remaining, size);
    reader.checkFixedHeader(5, 2);
  }
});

test('a remaining length that is not what follows is malformed', () => {
  for (const packet of [
    '82',
    '82 01',
    '82 00 00',
    '82 80',
    '82 80 80 80 80',
    '82 81 80 80 80 00 00',
    '82 ff ff ff 7f',
  ]) {
    refuses(() => open(bytes(packet)), 0x81);
  }
  refuses(() => open(Buffer.alloc(0)), 0x81);
});

test('another packet type is a protocol error', () => {
  refuses(() => open(bytes('c0 00')), 0x82);
});

test('[MQTT-1.5.5-1] a long remaining length is malformed in 5.0 only', () => {
  const padded = bytes('82 81 80 80 00 07');
  open(padded).checkFixedHeader(3, 2);
  open(padded).checkFixedHeader(4, 2);
  refuses(() => open(padded).checkFixedHeader(5, 2), 0x81);
  assert.equal(open(padded).byte('a byte'), 7);
});

test('fields come in order and end with the packet', () => {
  const reader = open(frame(0x82, '01 0203 0002 "hi" 0001 ff 02 aabb'));
  assert.equal(reader.byte('byte'), 1);
  assert.equal(reader.uint16('number'), 0x0203);
  assert.equal(reader.string('text'), 'hi');
  assert.deepEqual(reader.binary('bytes'), bytes('ff'));
  refuses(() => reader.end(), 0x81);
  assert.equal(reader.propertyBlock(), reader.position - 2);
  reader.end();
  refuses(() => reader.byte('one more'), 0x81);
  refuses(() => reader.propertyBlock(), 0x81);
});

test('the message says which packet, which field and how much was missing', () => {
  const reader = open(frame(0x82, '0005 "abc"'));
  const error = refuses(() => reader.string('topic filter'), 0x81);
  assert.equal(error.message, 'SUBSCRIBE ends within its topic filter: 5 bytes needed, 3 left');
});
