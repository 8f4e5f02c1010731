import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeConnack, encodeDisconnect, encodeSuback, encodeUnsuback } from '../../src/packet/encode.js';
import { ReasonCode } from '../../src/packet/reason-codes.js';
import { CONNACK_VECTORS, DISCONNECT_ANSWERS } from '../vectors/answers.js';
import { bytes } from '../vectors/bytes.js';
import { check, decodeByOracle, mqttString, positiveUint16, userProperties } from './oracle.js';

for (const vector of CONNACK_VECTORS) {
  test(`CONNACK ${vector.title}`, () => {
    assert.deepEqual(encodeConnack(vector.version, vector.connack), vector.bytes);
  });
}

for (const vector of DISCONNECT_ANSWERS) {
  test(`DISCONNECT ${vector.title}`, () => {
    assert.deepEqual(encodeDisconnect(vector.disconnect), vector.bytes);
  });
}

test('[MQTT-3.2.2-6 v3.1.1] older clients get a return code or nothing, for every reason code', () => {
  for (const reasonCode of Object.values(ReasonCode)) {
    for (const version of [3, 4] as const) {
      const connack = encodeConnack(version, { sessionPresent: false, reasonCode });
      if (connack === undefined) assert.notEqual(reasonCode, 0);
      else assert.ok(connack.length === 4 && connack[3]! <= 5);
    }
  }
});

test('[MQTT-3.9.3-2] SUBACK carries the reason to 5.0 and 0x80 to older clients', () => {
  const codes = [0, 1, 2, 0x80, 0x87, 0x9e];
  assert.deepEqual(encodeSuback(3, 1, codes), bytes('90 08 0001 00 01 02 80 80 80'));
  assert.deepEqual(encodeSuback(4, 0xffff, codes), bytes('90 08 ffff 00 01 02 80 80 80'));
  assert.deepEqual(encodeSuback(5, 1, codes), bytes('90 09 0001 00 00 01 02 80 87 9e'));
  assert.deepEqual(
    encodeSuback(5, 1, [0], { reasonString: 'ok', userProperties: [['a', 'b']] }),
    bytes('90 10 0001 0c 1f 0002 "ok" 26 0001 "a" 0001 "b" 00'),
  );
});

test('[MQTT-3.11.3-1] UNSUBACK carries reasons to 5.0 and nothing to older clients', () => {
  assert.deepEqual(encodeUnsuback(3, 7, [0, 0x11]), bytes('b0 02 0007'));
  assert.deepEqual(encodeUnsuback(4, 7, [0, 0x11]), bytes('b0 02 0007'));
  assert.deepEqual(encodeUnsuback(5, 7, [0, 0x11]), bytes('b0 05 0007 00 00 11'));
  assert.deepEqual(encodeUnsuback(5, 7, [0], { reasonString: 'x' }), bytes('b0 08 0007 04 1f 0001 "x" 00'));
});

test('an answer to no filter at all is a defect', () => {
  assert.throws(() => encodeSuback(5, 1, []), { code: 'INTERNAL' });
  assert.throws(() => encodeUnsuback(4, 1, []), { code: 'INTERNAL' });
});

test('[MQTT-3.2.2-19] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3] what has no room in the packet is left out', () => {
  const extra = { reasonString: 'because', userProperties: [['k', 'v']] as const };
  const suback = encodeSuback(5, 1, [0], extra);
  assert.deepEqual(encodeSuback(5, 1, [0], { ...extra, maximumPacketBytes: suback.length }), suback);
  const bare = bytes('90 04 0001 00 00');
  assert.deepEqual(encodeSuback(5, 1, [0], { ...extra, maximumPacketBytes: suback.length - 1 }), bare);
  assert.deepEqual(
    encodeUnsuback(5, 1, [0], { ...extra, maximumPacketBytes: 10 }),
    bytes('b0 04 0001 00 00'),
  );
  assert.deepEqual(
    encodeDisconnect({ reasonCode: 0x9d, serverReference: 's', ...extra, maximumPacketBytes: 10 }),
    bytes('e0 06 9d 04 1c 0001 "s"'),
    'the server reference is no extra',
  );
  assert.deepEqual(
    encodeConnack(5, {
      sessionPresent: false,
      reasonCode: 0,
      properties: { ...extra, receiveMaximum: 9, maximumPacketBytes: 10 },
    }),
    bytes('20 06 00 00 03 21 0009'),
  );
});

test('mqtt-packet decodes what is encoded', (context) => {
  const codes = fc.array(fc.constantFrom(0, 1, 2, 0x80, 0x87, 0x8f), { minLength: 1, maxLength: 9 });
  check(
    context,
    fc.property(
      positiveUint16,
      codes,
      mqttString(),
      userProperties,
      (packetId, granted, reasonString, pairs) => {
        const suback = decodeByOracle(
          encodeSuback(5, packetId, granted, { reasonString, userProperties: pairs }),
          5,
        );
        assert.ok(suback.cmd === 'suback');
        assert.equal(suback.messageId, packetId);
        assert.deepEqual(suback.granted, granted);
        assert.equal(suback.properties?.reasonString, reasonString);
        for (const version of [3, 4] as const) {
          const older = decodeByOracle(encodeSuback(version, packetId, granted), version);
          assert.ok(older.cmd === 'suback');
          assert.deepEqual(
            older.granted,
            granted.map((code) => Math.min(code, 0x80)),
          );
        }
        const disconnect = decodeByOracle(
          encodeDisconnect({ reasonCode: 0x8b, reasonString, userProperties: pairs }),
          5,
        );
        assert.ok(disconnect.cmd === 'disconnect');
        assert.equal(disconnect.reasonCode, 0x8b);
        assert.equal(disconnect.properties?.reasonString, reasonString);
      },
    ),
  );
});
