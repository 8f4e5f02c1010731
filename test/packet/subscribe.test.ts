import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeSubscribe, decodeUnsubscribe } from '../../src/packet/subscribe.js';
import { frame } from '../vectors/bytes.js';
import {
  SUBSCRIBE_REFUSALS,
  SUBSCRIBE_VECTORS,
  UNSUBSCRIBE_REFUSALS,
  UNSUBSCRIBE_VECTORS,
} from '../vectors/subscribe.js';
import {
  check,
  decodesOrRefuses,
  encodeByOracle,
  mqttString,
  mutated,
  pairsForOracle,
  positiveUint16,
  record,
  refuses,
  truncations,
  userProperties,
} from './oracle.js';

for (const vector of SUBSCRIBE_VECTORS) {
  test(`SUBSCRIBE ${vector.title}`, () => {
    assert.deepEqual(decodeSubscribe(vector.bytes, vector.version), vector.packet);
  });
}

for (const vector of UNSUBSCRIBE_VECTORS) {
  test(`UNSUBSCRIBE ${vector.title}`, () => {
    assert.deepEqual(decodeUnsubscribe(vector.bytes, vector.version), vector.packet);
  });
}

for (const refusal of SUBSCRIBE_REFUSALS) {
  test(`SUBSCRIBE refused: ${refusal.title}`, () => {
    refuses(() => decodeSubscribe(refusal.bytes, refusal.version), refusal.reasonCode);
  });
}

for (const refusal of UNSUBSCRIBE_REFUSALS) {
  test(`UNSUBSCRIBE refused: ${refusal.title}`, () => {
    refuses(() => decodeUnsubscribe(refusal.bytes, refusal.version), refusal.reasonCode);
  });
}

test('a packet cut at any byte is refused', () => {
  for (const vector of SUBSCRIBE_VECTORS) {
    for (const cut of truncations(vector.bytes)) refuses(() => decodeSubscribe(cut, vector.version));
  }
  for (const vector of UNSUBSCRIBE_VECTORS) {
    for (const cut of truncations(vector.bytes)) refuses(() => decodeUnsubscribe(cut, vector.version));
  }
});

test('a packet of one filter cut at any byte, with a remaining length that agrees, is refused', () => {
  for (const vector of SUBSCRIBE_VECTORS.filter(({ packet }) => packet.filters.length === 1)) {
    for (let end = 2; end < vector.bytes.length; end++) {
      const cut = frame(vector.bytes[0]!, vector.bytes.subarray(2, end));
      refuses(() => decodeSubscribe(cut, vector.version));
    }
  }
});

test('random and changed bytes are decoded or refused', (context) => {
  const version = fc.constantFrom(3 as const, 4 as const, 5 as const);
  const random = fc.uint8Array({ maxLength: 60 }).map((bytes) => frame(0x82, Buffer.from(bytes)));
  const changed = mutated(SUBSCRIBE_VECTORS.map((vector) => vector.bytes));
  check(
    context,
    fc.property(fc.oneof(random, changed), version, (bytes, v) =>
      decodesOrRefuses(() => decodeSubscribe(bytes, v)),
    ),
    2000,
  );
  const randomUnsubscribe = fc.uint8Array({ maxLength: 60 }).map((bytes) => frame(0xa2, Buffer.from(bytes)));
  const changedUnsubscribe = mutated(UNSUBSCRIBE_VECTORS.map((vector) => vector.bytes));
  check(
    context,
    fc.property(fc.oneof(randomUnsubscribe, changedUnsubscribe), version, (bytes, v) =>
      decodesOrRefuses(() => decodeUnsubscribe(bytes, v)),
    ),
    2000,
  );
});

const filter = mqttString().filter((text) => text !== '' && !text.startsWith('$share/'));
const qos = fc.constantFrom(0 as const, 1 as const, 2 as const);

test('what mqtt-packet encodes for 3.1 and 3.1.1 is decoded', (context) => {
  const filters = fc.array(record({ filter, qos }), { minLength: 1, maxLength: 6 });
  check(
    context,
    fc.property(
      positiveUint16,
      filters,
      fc.constantFrom(3 as const, 4 as const),
      (packetId, wanted, version) => {
        const subscriptions = wanted.map((one) => ({ topic: one.filter, qos: one.qos }));
        const subscribe = encodeByOracle({ cmd: 'subscribe', messageId: packetId, subscriptions }, version);
        assert.deepEqual(decodeSubscribe(subscribe, version), {
          packetId,
          subscriptionId: 0,
          userProperties: [],
          filters: wanted.map((one) => ({
            ...one,
            noLocal: false,
            retainAsPublished: false,
            retainHandling: 0,
          })),
        });
        const unsubscriptions = wanted.map((one) => one.filter);
        const unsubscribe = encodeByOracle(
          { cmd: 'unsubscribe', messageId: packetId, unsubscriptions },
          version,
        );
        assert.deepEqual(decodeUnsubscribe(unsubscribe, version), { packetId, filters: unsubscriptions });
      },
    ),
  );
});

test('what mqtt-packet encodes for 5.0 is decoded', (context) => {
  const request = record({
    filter,
    qos,
    noLocal: fc.boolean(),
    retainAsPublished: fc.boolean(),
    retainHandling: fc.constantFrom(0 as const, 1 as const, 2 as const),
  });
  const filters = fc.array(request, { minLength: 1, maxLength: 6 });
  const subscriptionId = fc.integer({ min: 0, max: 268_435_455 });
  check(
    context,
    fc.property(positiveUint16, filters, subscriptionId, userProperties, (packetId, wanted, id, pairs) => {
      const properties = { userProperties: pairsForOracle(pairs) };
      const subscriptions = wanted.map((one) => ({
        topic: one.filter,
        qos: one.qos,
        nl: one.noLocal,
        rap: one.retainAsPublished,
        rh: one.retainHandling,
      }));
      const subscribe = encodeByOracle(
        {
          cmd: 'subscribe',
          messageId: packetId,
          subscriptions,
          properties: id === 0 ? properties : { ...properties, subscriptionIdentifier: id },
        },
        5,
      );
      assert.deepEqual(decodeSubscribe(subscribe, 5), {
        packetId,
        subscriptionId: id,
        userProperties: pairs,
        filters: wanted,
      });
      const unsubscriptions = wanted.map((one) => one.filter);
      const unsubscribe = encodeByOracle(
        { cmd: 'unsubscribe', messageId: packetId, unsubscriptions, properties },
        5,
      );
      assert.deepEqual(decodeUnsubscribe(unsubscribe, 5), { packetId, filters: unsubscriptions });
    }),
  );
});
