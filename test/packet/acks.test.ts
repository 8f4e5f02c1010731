import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AckFrame } from '../../src/packet/acks.js';
import type { ProtocolVersion } from '../../src/packet/types.js';
import { bytes, frame } from '../vectors/bytes.js';
import { check, decodesOrRefuses, encodeByOracle, mutated, positiveUint16, refuses } from './oracle.js';

function parse(packet: Buffer, version: ProtocolVersion): AckFrame {
  const ack = new AckFrame();
  const padded = Buffer.concat([Buffer.alloc(2), packet, Buffer.alloc(2, 0xff)]);
  ack.parse(padded, 2, 4, 2 + packet.length, version);
  return ack;
}

const NAMES = ['puback', 'pubrec', 'pubrel', 'pubcomp'] as const;

test('what mqtt-packet encodes is read', (context) => {
  check(
    context,
    fc.property(
      fc.constantFrom(...NAMES),
      positiveUint16,
      fc.constantFrom<ProtocolVersion>(3, 4, 5),
      fc.boolean(),
      (cmd, messageId, version, fails) => {
        const codes = cmd === 'puback' || cmd === 'pubrec' ? [0, 0x10, 0x80, 0x97] : [0, 0x92];
        const reasonCode = fails ? codes.at(-1)! : 0;
        const packet = encodeByOracle(
          { cmd, messageId, reasonCode, properties: { reasonString: 'why' } },
          version,
        );
        const ack = parse(packet, version);
        assert.equal(ack.packetId, messageId);
        assert.equal(ack.reasonCode, version === 5 ? reasonCode : 0);
      },
    ),
  );
});

for (const [title, packet, version, isTaken] of [
  ['PUBREL without its flags', '60 02 0001', 4, false],
  ['PUBACK with flags', '42 02 0001', 4, false],
  ['PUBREL with DUP in 3.1', '6a 02 0001', 3, true],
  ['PUBREL with DUP in 3.1.1', '6a 02 0001', 4, false],
  ['no packet id', '40 00', 4, false],
  ['half a packet id', '40 01 00', 4, false],
  ['packet id 0', '40 02 0000', 4, false],
  ['a reason code in 3.1.1', '40 03 0001 00', 4, false],
  ['a reason code in 5.0', '40 03 0001 00', 5, true],
  ['an empty property block', '40 04 0001 00 00', 5, true],
  ['a reason code of another packet', '40 03 0001 92', 5, false],
  ['a reason code of a PUBACK on PUBREL', '62 03 0001 87', 5, false],
  ['properties longer than the packet', '40 04 0001 00 01', 5, false],
  ['bytes behind the properties', '40 05 0001 00 00 00', 5, false],
  ['a property that does not belong', '40 06 0001 00 02 0101', 5, false],
  ['a reason string twice', '40 0c 0001 00 08 1f 0001 "a" 1f 0001 "b"', 5, false],
] as const) {
  test(`${isTaken ? 'taken' : 'refused'}: ${title}`, () => {
    if (isTaken) assert.equal(parse(bytes(packet), version).packetId, 1);
    else refuses(() => parse(bytes(packet), version));
  });
}

test('random and changed bytes are read or refused', (context) => {
  const first = fc.constantFrom(0x40, 0x50, 0x62, 0x70);
  const random = fc
    .tuple(first, fc.uint8Array({ maxLength: 20 }))
    .map(([type, body]) => frame(type, Buffer.from(body)));
  const changed = mutated([bytes('40 0b 0001 00 07 1f 0004 "why?"'), bytes('62 04 0001 00 00')]);
  check(
    context,
    fc.property(fc.oneof(random, changed), fc.constantFrom<ProtocolVersion>(3, 4, 5), (packet, version) =>
      decodesOrRefuses(() => parse(packet, version)),
    ),
    2000,
  );
});
