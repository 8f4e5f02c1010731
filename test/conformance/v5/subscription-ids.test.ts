// Subscription identifiers: sections 3.8.2.1.2, 3.3.2.3.8 and 3.3.4.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, type Received, uint16, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import { block, P, property, propertyOf, subscribe, subscribeFrame, useBroker, valuesOf } from './support.js';

const broker = useBroker();

function idsOf(message: Received): number[] {
  return (valuesOf(message, P.subscriptionId) as number[]).sort((a, b) => a - b);
}

test('[MQTT-3.3.4-3] identifiers from 1 to the largest come back with the messages', async () => {
  for (const id of [1, 127, 128, 16_383, 16_384, 2_097_152, 268_435_455]) {
    const topic = uniqueTopic();
    const client = await broker.open();
    for (const qos of [0, 1, 2] as const) {
      await subscribe(client, topic, { qos, id });
      await client.publish(topic, 'x', { qos });
      assert.deepEqual(idsOf(await client.expectMessage(topic, 'x')), [id]);
    }
  }
});

test('[MQTT-3.3.4-3] [MQTT-3.3.4-4] the identifiers of all subscriptions that match, and of no other', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await subscribe(client, `${topic}/a/b`, { qos: 1, id: 10 });
  await subscribe(client, `${topic}/+/b`, { qos: 1, id: 20 });
  await subscribe(client, `${topic}/#`, { qos: 1, id: 30 });
  await subscribe(client, `${topic}/a/+`, { qos: 1 });
  await subscribe(client, `${topic}/a/c`, { qos: 1, id: 40 });
  await client.publish(`${topic}/a/b`, 'x', { qos: 1 });
  assert.deepEqual(idsOf(await client.expectMessage(`${topic}/a/b`, 'x')), [10, 20, 30]);
  await client.publish(`${topic}/a/c`, 'y', { qos: 1 });
  assert.deepEqual(idsOf(await client.expectMessage(`${topic}/a/c`, 'y')), [30, 40]);
  await client.expectQuiet();
});

test('[MQTT-3.3.4-3] one identifier for several filters', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  client.send(
    subscribeFrame(
      1,
      [
        [`${topic}/a`, 0],
        [`${topic}/b`, 0],
      ],
      [property(P.subscriptionId, 5)],
    ),
  );
  await client.expect('suback');
  for (const level of ['a', 'b']) {
    await client.publish(`${topic}/${level}`, 'x');
    assert.deepEqual(idsOf(await client.expectMessage(`${topic}/${level}`, 'x')), [5]);
  }
});

test('[MQTT-3.3.4-3] each client gets its own, and one that gave none gets none', async () => {
  const topic = uniqueTopic();
  const clients = await Promise.all([broker.open(), broker.open(), broker.open()]);
  await subscribe(clients[0], topic, { id: 1 });
  await subscribe(clients[1], topic, { id: 2 });
  await subscribe(clients[2], topic);
  await clients[0].publish(topic, 'x');
  const expected = [[1], [2], []];
  for (const [index, client] of clients.entries())
    assert.deepEqual(idsOf(await client.expectMessage(topic, 'x')), expected[index]);
});

test('[MQTT-3.3.4-3] retained messages have them too', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.publish(topic, 'kept', { qos: 1, retain: true });
  await subscribe(client, topic, { qos: 1, id: 9 });
  assert.deepEqual(idsOf(await client.expectMessage(topic, 'kept')), [9]);
});

test('[MQTT-3.3.4-3] they are part of the session', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const properties = { sessionExpiryInterval: 60 };
  const first = await broker.open({ clientId, properties });
  await subscribe(first, topic, { qos: 1, id: 9 });
  await first.disconnect();
  const publisher = await broker.open();
  await publisher.publish(topic, 'meanwhile', { qos: 1 });
  const second = await broker.open({ clientId, clean: false, properties });
  assert.deepEqual(idsOf(await second.expectMessage(topic, 'meanwhile')), [9]);
  await publisher.publish(topic, 'live', { qos: 1 });
  assert.deepEqual(idsOf(await second.expectMessage(topic, 'live')), [9]);
});

test('[MQTT-3.3.4-3] [MQTT-4.4.0-1] a message sent again has it again', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const properties = { sessionExpiryInterval: 60 };
  const first = await broker.open({ clientId, properties });
  await subscribe(first, topic, { qos: 1, id: 9 });
  await first.publish(topic, 'x', { qos: 1 });
  assert.deepEqual(idsOf(await first.expect('publish')), [9]);
  first.destroy();
  const second = await broker.open({ clientId, clean: false, properties });
  const again = await second.expectMessage(topic, 'x');
  assert.deepEqual([again.dup, idsOf(again)], [true, [9]]);
});

test('[MQTT-3.8.4-3] a new subscription to the same filter replaces the identifier', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await subscribe(client, topic, { id: 1 });
  await subscribe(client, topic, { id: 2 });
  await client.publish(topic, 'x');
  assert.deepEqual(idsOf(await client.expectMessage(topic, 'x')), [2]);
});

test('identifier 0 is a protocol error', async () => {
  const client = await broker.open();
  client.send(subscribeFrame(1, [[uniqueTopic(), 0]], [property(P.subscriptionId, 0)]));
  await client.expectDisconnect(0x82);
});

test('two identifiers in one SUBSCRIBE are a protocol error', async () => {
  const client = await broker.open();
  const ids = [property(P.subscriptionId, 1), property(P.subscriptionId, 2)];
  client.send(subscribeFrame(1, [[uniqueTopic(), 0]], ids));
  await client.expectDisconnect(0x82);
});

test('[MQTT-1.5.5-1] an identifier of five bytes is malformed', async () => {
  const client = await broker.open();
  const properties = block([P.subscriptionId, 0xff, 0xff, 0xff, 0xff, 0x01]);
  client.send(frame(0x82, uint16(1), properties, prefixed(uniqueTopic()), [0]));
  await client.expectDisconnect(0x81);
});

test('CONNACK does not say that they are unavailable', async () => {
  const client = await broker.open();
  assert.notEqual(propertyOf(client.connack!, P.subscriptionIdAvailable), 0);
});
