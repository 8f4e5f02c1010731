import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeAuth, decodeDisconnect } from '../../src/packet/disconnect.js';
import { frame } from '../vectors/bytes.js';
import {
  AUTH_REFUSALS,
  AUTH_VECTORS,
  DISCONNECT_CODES_OF_CLIENT,
  DISCONNECT_REFUSALS,
  DISCONNECT_VECTORS,
} from '../vectors/disconnect.js';
import {
  binary,
  check,
  decodesOrRefuses,
  encodeByOracle,
  mqttString,
  mutated,
  pairsForOracle,
  record,
  refuses,
  truncations,
  uint32,
  userProperties,
} from './oracle.js';

for (const vector of DISCONNECT_VECTORS) {
  test(`DISCONNECT ${vector.title}`, () => {
    assert.deepEqual(decodeDisconnect(vector.bytes, vector.version), vector.packet);
  });
}

for (const vector of AUTH_VECTORS) {
  test(`AUTH ${vector.title}`, () => {
    assert.deepEqual(decodeAuth(vector.bytes), vector.packet);
  });
}

test('[MQTT-3.14.2-1] every reason code that a client has', () => {
  for (const reasonCode of DISCONNECT_CODES_OF_CLIENT) {
    assert.equal(decodeDisconnect(Buffer.from([0xe0, 1, reasonCode]), 5).reasonCode, reasonCode);
  }
});

for (const refusal of DISCONNECT_REFUSALS) {
  test(`DISCONNECT refused: ${refusal.title}`, () => {
    refuses(() => decodeDisconnect(refusal.bytes, refusal.version), refusal.reasonCode);
  });
}

for (const refusal of AUTH_REFUSALS) {
  test(`AUTH refused: ${refusal.title}`, () => {
    refuses(() => decodeAuth(refusal.bytes), refusal.reasonCode);
  });
}

test('a packet cut at any byte is refused', () => {
  for (const vector of DISCONNECT_VECTORS) {
    for (const cut of truncations(vector.bytes)) refuses(() => decodeDisconnect(cut, vector.version));
  }
  for (const vector of AUTH_VECTORS) {
    for (const cut of truncations(vector.bytes)) refuses(() => decodeAuth(cut));
  }
});

test('properties cut at any byte, with a remaining length that agrees, are refused', () => {
  for (const vector of DISCONNECT_VECTORS) {
    for (let end = 4; end < vector.bytes.length; end++) {
      const cut = frame(0xe0, vector.bytes.subarray(2, end));
      refuses(() => decodeDisconnect(cut, vector.version));
    }
  }
});

test('random and changed bytes are decoded or refused', (context) => {
  const version = fc.constantFrom(3 as const, 4 as const, 5 as const);
  const random = (firstByte: number) =>
    fc.uint8Array({ maxLength: 40 }).map((bytes) => frame(firstByte, Buffer.from(bytes)));
  const changed = mutated(DISCONNECT_VECTORS.map((vector) => vector.bytes));
  check(
    context,
    fc.property(fc.oneof(random(0xe0), changed), version, (bytes, v) =>
      decodesOrRefuses(() => decodeDisconnect(bytes, v)),
    ),
    2000,
  );
  const changedAuth = mutated(AUTH_VECTORS.map((vector) => vector.bytes));
  check(
    context,
    fc.property(fc.oneof(random(0xf0), changedAuth), (bytes) => decodesOrRefuses(() => decodeAuth(bytes))),
    2000,
  );
});

test('what mqtt-packet encodes is decoded', (context) => {
  const disconnect = record({
    reasonCode: fc.constantFrom(...DISCONNECT_CODES_OF_CLIENT),
    sessionExpirySeconds: uint32,
    reasonString: mqttString(),
    userProperties,
  });
  check(
    context,
    fc.property(disconnect, (made) => {
      const properties = {
        sessionExpiryInterval: made.sessionExpirySeconds,
        reasonString: made.reasonString,
        userProperties: pairsForOracle(made.userProperties),
      };
      const encoded = encodeByOracle({ cmd: 'disconnect', reasonCode: made.reasonCode, properties }, 5);
      assert.deepEqual(decodeDisconnect(encoded, 5), made);
    }),
  );
  const auth = record({
    reasonCode: fc.constantFrom(0x18, 0x19),
    authenticationMethod: mqttString(),
    authenticationData: binary,
  });
  check(
    context,
    fc.property(auth, ({ reasonCode, ...properties }) => {
      const encoded = encodeByOracle({ cmd: 'auth', reasonCode, properties }, 5);
      assert.deepEqual(decodeAuth(encoded), { reasonCode, ...properties });
    }),
  );
});
