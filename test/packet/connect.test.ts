import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ConnectError, type ConnectPacket, decodeConnect } from '../../src/packet/connect.js';
import { encodeConnack } from '../../src/packet/encode.js';
import { frame } from '../vectors/bytes.js';
import { CONNECT_REFUSALS, CONNECT_VECTORS } from '../vectors/connect.js';
import {
  binary,
  check,
  decodesOrRefuses,
  encodeByOracle,
  mqttString,
  mutated,
  pairsForOracle,
  positiveUint16,
  record,
  refuses,
  topicName,
  truncations,
  uint16,
  uint32,
  userProperties,
} from './oracle.js';

for (const vector of CONNECT_VECTORS) {
  test(vector.title, () => {
    assert.deepEqual(decodeConnect(vector.bytes), vector.packet);
  });
}

for (const refusal of CONNECT_REFUSALS) {
  test(`refused: ${refusal.title}`, () => {
    const error = refuses(() => decodeConnect(refusal.bytes), refusal.reasonCode);
    assert.ok(error instanceof ConnectError);
    assert.equal(error.version, refusal.version);
  });
}

test('every refusal has a CONNACK in 5.0', () => {
  // Table 3-1 of 5.0.
  const connackCodes = [
    0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a,
    0x9b, 0x9c, 0x9d, 0x9f,
  ];
  for (const refusal of CONNECT_REFUSALS) assert.ok(connackCodes.includes(refusal.reasonCode), refusal.title);
});

test('[MQTT-3.1.2-2] [MQTT-3.1.3-8 v3.1.1] what older clients are answered', () => {
  const answers = CONNECT_REFUSALS.filter(({ version }) => version === 3 || version === 4).map((refusal) => [
    refusal.reasonCode,
    encodeConnack(refusal.version!, { sessionPresent: false, reasonCode: refusal.reasonCode })?.[3],
  ]);
  for (const [reasonCode, returnCode] of answers) {
    const expected = reasonCode === 0x84 ? 1 : reasonCode === 0x85 ? 2 : undefined;
    assert.equal(returnCode, expected);
  }
});

test('the packet keeps nothing of the bytes, which the socket reuses', () => {
  for (const vector of CONNECT_VECTORS) {
    const reused = Buffer.from(vector.bytes);
    const packet = decodeConnect(reused);
    reused.fill(0xff);
    assert.deepEqual(packet, vector.packet);
  }
});

test('a packet cut at any byte is refused', () => {
  for (const vector of CONNECT_VECTORS) {
    for (const cut of truncations(vector.bytes)) refuses(() => decodeConnect(cut));
  }
});

test('a packet cut at any byte, with a remaining length that agrees, is refused', () => {
  for (const vector of CONNECT_VECTORS) {
    // A 3.1 packet may end before the user name and the password.
    if (vector.packet.version === 3) continue;
    const header = vector.bytes.findIndex((byte, index) => index > 0 && byte < 0x80) + 1;
    for (let end = header; end < vector.bytes.length; end++) {
      const cut = frame(0x10, vector.bytes.subarray(header, end));
      assert.throws(() => decodeConnect(cut), ConnectError, `${vector.title}, cut at ${end}`);
    }
  }
});

test('random bytes are decoded or refused', (context) => {
  const body = fc.uint8Array({ maxLength: 100 }).map((bytes) => frame(0x10, Buffer.from(bytes)));
  check(
    context,
    fc.property(body, (bytes) => decodesOrRefuses(() => decodeConnect(bytes))),
    500,
  );
  const raw = fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes));
  check(
    context,
    fc.property(raw, (bytes) => decodesOrRefuses(() => decodeConnect(bytes))),
    500,
  );
});

test('a packet with some bytes changed is decoded or refused, with the version where it is known', (context) => {
  const packets = CONNECT_VECTORS.map((vector) => vector.bytes);
  check(
    context,
    fc.property(mutated(packets), (bytes) => {
      try {
        const packet = decodeConnect(bytes);
        assert.ok([3, 4, 5].includes(packet.version));
        assert.ok(!packet.clientId.includes('\0'));
        assert.ok(packet.receiveMaximum > 0 && packet.maximumPacketBytes > 0);
      } catch (error) {
        assert.ok(error instanceof ConnectError, String(error));
      }
    }),
    3000,
  );
});

interface Wish {
  clientId: string;
  cleanStart: boolean;
  keepAliveSeconds: number;
  userName: string | undefined;
  password: Buffer | undefined;
  will: { topicName: string; payload: Buffer; qos: 0 | 1 | 2; retain: boolean } | undefined;
}

const wish: fc.Arbitrary<Wish> = record({
  clientId: mqttString().filter((text) => text !== ''),
  cleanStart: fc.boolean(),
  keepAliveSeconds: uint16,
  userName: fc.option(mqttString(), { nil: undefined }),
  password: fc.option(binary, { nil: undefined }),
  will: fc.option(
    record({
      topicName,
      payload: binary,
      qos: fc.constantFrom(0 as const, 1 as const, 2 as const),
      retain: fc.boolean(),
    }),
    { nil: undefined },
  ),
})
  // mqtt-packet writes no password without a user name, in any version.
  .map((made) => (made.userName === undefined ? { ...made, password: undefined } : made));

function forOracle(made: Wish, version: number, properties?: object, willProperties?: object): object {
  return {
    cmd: 'connect',
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    protocolVersion: version,
    clientId: made.clientId,
    clean: made.cleanStart,
    keepalive: made.keepAliveSeconds,
    ...(made.userName === undefined ? {} : { username: made.userName }),
    ...(made.password === undefined ? {} : { password: made.password }),
    ...(made.will === undefined
      ? {}
      : {
          will: {
            topic: made.will.topicName,
            payload: made.will.payload,
            qos: made.will.qos,
            retain: made.will.retain,
            ...(willProperties === undefined ? {} : { properties: willProperties }),
          },
        }),
    ...(properties === undefined ? {} : { properties }),
  };
}

function assertFields(packet: ConnectPacket, made: Wish): void {
  const { clientId, cleanStart, keepAliveSeconds, userName, password } = packet;
  const will = packet.will && {
    topicName: packet.will.topicName,
    payload: packet.will.payload,
    qos: packet.will.qos,
    retain: packet.will.retain,
  };
  assert.deepEqual({ clientId, cleanStart, keepAliveSeconds, userName, password, will }, made);
}

test('what mqtt-packet encodes for 3.1 and 3.1.1 is decoded', (context) => {
  check(
    context,
    fc.property(wish, fc.constantFrom(3 as const, 4 as const), (made, version) => {
      const packet = decodeConnect(encodeByOracle(forOracle(made, version), version));
      assert.equal(packet.version, version);
      assertFields(packet, made);
      assert.equal(packet.sessionExpirySeconds, made.cleanStart ? 0 : 0xffff_ffff);
    }),
  );
});

test('what mqtt-packet encodes for 5.0 is decoded, properties included', (context) => {
  const properties = record({
    sessionExpiryInterval: uint32,
    receiveMaximum: positiveUint16,
    maximumPacketSize: fc.integer({ min: 1, max: 268_435_460 }),
    topicAliasMaximum: uint16,
    requestResponseInformation: fc.boolean(),
    requestProblemInformation: fc.boolean(),
    authenticationMethod: mqttString(),
    authenticationData: binary,
    userProperties,
  });
  const willProperties = record({
    willDelayInterval: uint32,
    messageExpiryInterval: uint32,
    contentType: mqttString(),
    responseTopic: topicName,
    correlationData: binary,
    userProperties,
  });
  check(
    context,
    fc.property(wish, properties, willProperties, (made, connect, will) => {
      const packet = decodeConnect(
        encodeByOracle(
          forOracle(
            made,
            5,
            { ...connect, userProperties: pairsForOracle(connect.userProperties) },
            { ...will, userProperties: pairsForOracle(will.userProperties) },
          ),
          5,
        ),
      );
      assertFields(packet, made);
      assert.equal(packet.sessionExpirySeconds, connect.sessionExpiryInterval);
      assert.equal(packet.receiveMaximum, connect.receiveMaximum);
      assert.equal(packet.maximumPacketBytes, connect.maximumPacketSize);
      assert.equal(packet.topicAliasMaximum, connect.topicAliasMaximum);
      assert.equal(packet.requestResponseInformation, connect.requestResponseInformation);
      assert.equal(packet.requestProblemInformation, connect.requestProblemInformation);
      assert.equal(packet.authenticationMethod, connect.authenticationMethod);
      assert.deepEqual(packet.authenticationData, connect.authenticationData);
      assert.deepEqual(packet.userProperties, connect.userProperties);
      if (packet.will !== undefined) {
        assert.equal(packet.will.delaySeconds, will.willDelayInterval);
        assert.equal(packet.will.messageExpirySeconds, will.messageExpiryInterval);
        assert.equal(packet.will.payloadIsUtf8, false);
      }
    }),
  );
});
