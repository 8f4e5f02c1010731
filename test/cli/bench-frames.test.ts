import assert from 'node:assert/strict';
import { test } from 'node:test';
import mqttPacket, { type Packet } from 'mqtt-packet';
import { encodeLength, PublishFrames } from '../../cli/bench/frames.js';

function parseAll(bytes: Buffer, protocolVersion: 4 | 5): Packet[] {
  const packets: Packet[] = [];
  const parser = mqttPacket.parser({ protocolVersion });
  parser.on('packet', (packet: Packet) => packets.push(packet));
  parser.on('error', (error: Error) => assert.fail(error));
  assert.equal(parser.parse(bytes), 0, 'bytes left over');
  return packets;
}

for (const protocol of [4, 5] as const) {
  for (const qos of [0, 1, 2] as const) {
    for (const payloadBytes of [16, 64, 200, 20_000]) {
      test(`patched frames are PUBLISH packets: protocol ${protocol}, QoS ${qos}, ${payloadBytes} bytes`, () => {
        const frames = new PublishFrames({
          topic: 'bench/é/0',
          qos,
          protocol,
          payloadBytes,
          run: 0xdeadbeef,
          publisher: 7,
          capacity: 3,
          headBytes: 16,
        });
        for (let slot = 0; slot < 3; slot++) {
          frames.patch(slot, 65_533 + slot, 0xfffffff0 + slot, 0x100000000 + slot);
        }
        const packets = parseAll(frames.range(Buffer.from([0x40, 2, 0, 9, 0xff]), 4, 3), protocol);
        assert.equal(packets.length, 4);
        assert.equal(packets[0]?.cmd, 'puback');
        packets.slice(1).forEach((packet, slot) => {
          assert.ok(packet.cmd === 'publish');
          assert.equal(packet.topic, 'bench/é/0');
          assert.equal(packet.qos, qos);
          assert.equal(packet.messageId, qos === 0 ? undefined : 65_533 + slot);
          const payload = packet.payload as Buffer;
          assert.equal(payload.length, payloadBytes);
          assert.equal(payload.readUInt32BE(0), 0xdeadbeef);
          assert.equal(payload.readUInt32BE(4), 7);
          assert.equal(payload.readUInt32BE(8), 0xfffffff0 + slot);
          assert.equal(payload.readUInt32BE(12), slot, 'the low 32 bits of the time');
        });
      });
    }
  }
}

test('variable byte integers at the borders of their lengths', () => {
  const borders: [number, number[]][] = [
    [0, [0]],
    [127, [0x7f]],
    [128, [0x80, 0x01]],
    [16_383, [0xff, 0x7f]],
    [16_384, [0x80, 0x80, 0x01]],
    [2_097_151, [0xff, 0xff, 0x7f]],
    [2_097_152, [0x80, 0x80, 0x80, 0x01]],
    [268_435_455, [0xff, 0xff, 0xff, 0x7f]],
  ];
  for (const [value, bytes] of borders) assert.deepEqual([...encodeLength(value)], bytes);
});
