// Retained messages: section 3.3.1.3. The subscription options about them are in subscription-options.test.ts.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { RawClient } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import { P, property, propertyOf, publishFrame, useBroker, valuesOf } from './support.js';

const broker = useBroker();

/** What a new subscriber is sent at once. */
async function retainedUnder(filter: string, qos: 0 | 1 | 2 = 2): Promise<RawClient> {
  const client = await broker.open();
  await client.subscribe(filter, qos);
  return client;
}

test('[MQTT-3.3.1-5] is kept with its QoS, for later subscribers', async () => {
  for (const qos of [0, 1, 2] as const) {
    const topic = uniqueTopic();
    const publisher = await broker.open();
    await publisher.publish(topic, 'kept', { qos, retain: true });
    await publisher.disconnect();
    const client = await retainedUnder(topic);
    const message = await client.expectMessage(topic, 'kept');
    assert.deepEqual([message.qos, message.retain, message.dup], [qos, true, false]);
  }
});

test('[MQTT-3.3.1-5] takes the place of the one before', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  for (const [payload, qos] of [
    ['1', 2],
    ['2', 0],
    ['3', 1],
  ] as const) {
    await publisher.publish(topic, payload, { qos, retain: true });
    const client = await retainedUnder(topic);
    assert.equal((await client.expectMessage(topic, payload)).qos, qos);
    await client.expectQuiet();
  }
});

test('[MQTT-3.3.1-6] [MQTT-3.3.1-7] an empty one removes it, is forwarded, and is not kept itself', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  const watching = await retainedUnder(topic, 1);
  await watching.expectMessage(topic, 'kept');
  await publisher.publish(topic, '', { qos: 1, retain: true });
  const message = await watching.expectMessage(topic, '');
  assert.equal(message.retain, false);
  await (await retainedUnder(topic)).expectQuiet();
  await (await retainedUnder(`${topic}/#`)).expectQuiet();
});

test('[MQTT-3.3.1-8] a message with RETAIN 0 changes nothing, an empty one neither', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'not kept', { qos: 1 });
  await (await retainedUnder(topic)).expectQuiet();
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  await publisher.publish(topic, 'not kept', { qos: 1 });
  await publisher.publish(topic, '', { qos: 1 });
  const client = await retainedUnder(topic);
  await client.expectMessage(topic, 'kept');
  await client.expectQuiet();
});

test('[MQTT-3.3.1-12] forwarded to a subscription there was, it has RETAIN 0', async () => {
  const topic = uniqueTopic();
  const client = await retainedUnder(topic, 1);
  await client.publish(topic, 'kept', { qos: 1, retain: true });
  assert.equal((await client.expectMessage(topic, 'kept')).retain, false);
});

describe('for wildcards', () => {
  test('[MQTT-3.3.1-9] all that match are sent, each once, and no other', async () => {
    const topic = uniqueTopic();
    const publisher = await broker.open();
    const names = ['a', 'a/b', 'a/b/c', 'a/x', 'b', '', 'a/'].map((name) => `${topic}/${name}`);
    for (const name of names) await publisher.publish(name, name, { qos: 1, retain: true });
    const cases: [string, string[]][] = [
      [`${topic}/#`, names],
      [`${topic}/+`, [`${topic}/a`, `${topic}/b`, `${topic}/`]],
      [`${topic}/a/#`, [`${topic}/a`, `${topic}/a/b`, `${topic}/a/b/c`, `${topic}/a/x`, `${topic}/a/`]],
      [`${topic}/+/+`, [`${topic}/a/b`, `${topic}/a/x`, `${topic}/a/`]],
      [`${topic}/+/b/#`, [`${topic}/a/b`, `${topic}/a/b/c`]],
      [`${topic}/c/#`, []],
    ];
    for (const [filter, expected] of cases) {
      const client = await retainedUnder(filter, 1);
      const got: string[] = [];
      for (const _ of expected) {
        const message = await client.expect('publish');
        await client.acknowledge(message);
        assert.equal(message.topic, message.payload.toString());
        got.push(message.topic);
      }
      assert.deepEqual(got.sort(), [...expected].sort(), filter);
      await client.expectQuiet();
    }
  });

  test('[MQTT-4.7.2-1] topics that begin with $ are not sent for a wildcard at the beginning', async () => {
    const topic = `$${uniqueTopic()}`;
    const publisher = await broker.open();
    await publisher.publish(`${topic}/a`, 'kept', { qos: 1, retain: true });
    for (const filter of ['+/a', '#']) {
      const client = await retainedUnder(filter, 1);
      await client.barrier();
      assert.ok(client.queue.every((packet) => packet.cmd !== 'publish' || !packet.topic.startsWith('$')));
    }
    const client = await retainedUnder(`${topic}/+`, 1);
    await client.expectMessage(`${topic}/a`, 'kept');
  });
});

test('[MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-4] it is kept with its properties', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  const users = [
    ['b', '1'],
    ['a', '2'],
    ['b', '1'],
  ] as const;
  const properties = [
    property(P.payloadFormat, 1),
    ...users.map((user) => property(P.userProperty, user)),
    property(P.contentType, 'text'),
    property(P.responseTopic, 'an/answer'),
    property(P.correlationData, Buffer.from([1, 2])),
    property(P.topicAlias, 1),
  ];
  publisher.send(publishFrame(topic, { qos: 1, retain: true, properties, payload: 'kept' }));
  await publisher.expect('puback');
  const message = await (await retainedUnder(topic)).expectMessage(topic, 'kept');
  assert.deepEqual(valuesOf(message, P.userProperty), users);
  assert.equal(propertyOf(message, P.payloadFormat), 1);
  assert.equal(propertyOf(message, P.contentType), 'text');
  assert.equal(propertyOf(message, P.responseTopic), 'an/answer');
  assert.deepEqual(propertyOf(message, P.correlationData), Buffer.from([1, 2]));
  assert.equal(propertyOf(message, P.topicAlias), undefined);
});

test('[MQTT-3.8.4-8] it is delivered with the lower of its QoS and the granted one', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  for (const [granted, expected] of [
    [0, 0],
    [1, 1],
    [2, 1],
  ] as const) {
    const message = await (await retainedUnder(topic, granted)).expectMessage(topic, 'kept');
    assert.equal(message.qos, expected);
  }
});
