import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PublishFrame } from '../../src/packet/publish.js';
import type { ProtocolVersion, QoS } from '../../src/packet/types.js';
import { bytes, frame } from '../vectors/bytes.js';
import {
  binary,
  check,
  decodesOrRefuses,
  encodeByOracle,
  mutated,
  positiveUint16,
  refuses,
  topicName,
} from './oracle.js';

/** Parses a packet that lies somewhere in a larger buffer. */
function parse(packet: Buffer, version: ProtocolVersion, headerBytes = 2): PublishFrame {
  const padded = Buffer.concat([Buffer.alloc(3, 0xff), packet, Buffer.alloc(3, 0xff)]);
  const parsed = new PublishFrame();
  parsed.parse(padded, 3, 3 + headerBytes, 3 + packet.length, version);
  return parsed;
}

function headerBytesOf(packet: Buffer): number {
  let at = 1;
  while (packet[at]! >= 0x80) at++;
  return at + 1;
}

test('what mqtt-packet encodes is taken apart', (context) => {
  const version = fc.constantFrom<ProtocolVersion>(3, 4, 5);
  const qos = fc.constantFrom<QoS>(0, 1, 2);
  check(
    context,
    fc.property(
      topicName,
      binary,
      qos,
      positiveUint16,
      fc.boolean(),
      fc.boolean(),
      version,
      (topic, payload, q, messageId, retain, dup, v) => {
        const isDuplicate = dup && q > 0;
        const packet = encodeByOracle(
          {
            cmd: 'publish',
            topic,
            payload,
            qos: q,
            messageId,
            retain,
            dup: isDuplicate,
            properties: { contentType: 'x' },
          },
          v,
        );
        const parsed = parse(packet, v, headerBytesOf(packet));
        const { buffer } = parsed;
        assert.equal(buffer.toString('utf8', parsed.topicStart, parsed.topicEnd), topic);
        assert.deepEqual(buffer.subarray(parsed.payloadStart, parsed.payloadEnd), payload);
        assert.deepEqual(
          [parsed.qos, parsed.packetId, parsed.isRetained, parsed.isDuplicate],
          [q, q === 0 ? 0 : messageId, retain, isDuplicate],
        );
        assert.equal(parsed.propertiesEnd - parsed.propertiesStart, v === 5 ? 4 : 0);
      },
    ),
    500,
  );
});

for (const [title, packet, version, reasonCode] of [
  ['QoS 3', '36 05 0001 "a" 0001', 4, 0x81],
  ['DUP with QoS 0', '38 03 0001 "a"', 4, 0x81],
  ['no topic length', '30 01 00', 4, 0x81],
  ['nothing at all', '30 00', 4, 0x81],
  ['a topic longer than the packet', '30 03 0002 "a"', 4, 0x81],
  ['no packet id', '32 03 0001 "a"', 4, 0x81],
  ['half a packet id', '32 04 0001 "a" 00', 4, 0x81],
  ['packet id 0', '32 05 0001 "a" 0000', 4, 0x82],
  ['no property length', '30 03 0001 "a"', 5, 0x81],
  ['properties longer than the packet', '30 05 0001 "a" 02 01', 5, 0x81],
  ['a property length of five bytes', '30 08 0001 "a" ffffffff7f', 5, 0x81],
  ['a property length longer than necessary', '30 05 0001 "a" 8000', 5, 0x81],
] as const) {
  test(`refused: ${title}`, () => {
    refuses(() => parse(bytes(packet), version), reasonCode);
  });
}

test('random and changed bytes are taken apart within the packet, or refused', (context) => {
  const changed = mutated([
    bytes('32 0a 0001 "a" 0001 00 "hello"'),
    bytes('34 0c 0003 "a/b" 1234 02 0101 "hi"'),
  ]);
  const random = fc.uint8Array({ maxLength: 40 }).map((body) => frame(0x30, Buffer.from(body)));
  const first = fc.constantFrom(0x30, 0x31, 0x32, 0x34, 0x3a, 0x36, 0x3f);
  check(
    context,
    fc.property(
      fc.oneof(changed, random),
      first,
      fc.constantFrom<ProtocolVersion>(3, 4, 5),
      (packet, flags, version) => {
        const copy = Buffer.from(packet);
        copy[0] = flags;
        decodesOrRefuses(() => {
          const parsed = parse(copy, version);
          const end = 3 + copy.length;
          const positions = [
            5,
            parsed.topicStart,
            parsed.topicEnd,
            parsed.propertiesStart,
            parsed.propertiesEnd,
            parsed.payloadStart,
            parsed.payloadEnd,
          ];
          for (let i = 1; i < positions.length; i++)
            assert.ok(positions[i]! >= positions[i - 1]!, `${positions}`);
          assert.equal(parsed.payloadEnd, end);
        });
      },
    ),
    2000,
  );
});
