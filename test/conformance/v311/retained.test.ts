// Retained messages of MQTT 3.1.1.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

/** What a new subscriber to `filter` is sent as retained: everything before a message that is not. */
async function retainedFor(filter: string, liveTopic: string, qos: 0 | 1 | 2 = 2) {
  const client = await broker.open();
  await client.subscribe([
    { topic: filter, qos },
    { topic: liveTopic, qos },
  ]);
  const publisher = await broker.open();
  await publisher.publish(liveTopic, 'last', { qos });
  return messagesBefore(client, 'last');
}

for (const qos of [0, 1, 2] as const) {
  test(`[MQTT-3.3.1-5] [MQTT-3.3.1-8] a QoS ${qos} message with RETAIN is stored with its QoS, and sent with RETAIN to later subscribers`, async () => {
    const topic = uniqueTopic();
    const publisher = await broker.open();
    await publisher.publish(topic, 'kept', { qos, retain: true });
    for (let round = 0; round < 2; round++) {
      const client = await broker.open();
      await client.subscribe(topic, 2);
      const message = await client.expectMessage(topic, 'kept');
      assert.equal(message.qos, qos);
      assert.equal(message.retain, true);
      assert.equal(message.dup, false);
    }
  });
}

test('[MQTT-3.3.1-5] a retained message is sent at no more than the QoS of the subscription', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'kept', { qos: 2, retain: true });
  for (const qos of [0, 1, 2] as const) {
    const client = await broker.open();
    await client.subscribe(topic, qos);
    assert.equal((await client.expectMessage(topic, 'kept')).qos, qos);
  }
});

test('[MQTT-3.3.1-6] only the last retained message of a topic is sent', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  for (const payload of ['first', 'second', 'third'])
    await publisher.publish(topic, payload, { qos: 1, retain: true });
  const got = await retainedFor(topic, uniqueTopic());
  assert.deepEqual(
    got.map((message) => message.payload.toString()),
    ['third'],
  );
});

test('[MQTT-3.3.1-6] a filter with wildcards is sent the retained messages of all topics it matches, and of no other', async () => {
  const root = uniqueTopic();
  const publisher = await broker.open();
  for (const tail of ['', '/a', '/a/b', '/c', '/c/b', '/c/d', '/c/d/b']) {
    await publisher.publish(`${root}${tail}`, 'kept', { qos: 1, retain: true });
  }
  const expected: Record<string, string[]> = {
    [`${root}/#`]: ['', '/a', '/a/b', '/c', '/c/b', '/c/d', '/c/d/b'],
    [`${root}/+`]: ['/a', '/c'],
    [`${root}/+/b`]: ['/a/b', '/c/b'],
    [`${root}/c/#`]: ['/c', '/c/b', '/c/d', '/c/d/b'],
    '+/c/d': ['/c/d'],
    [`${root}/a`]: ['/a'],
    [`${root}/nothing`]: [],
  };
  for (const [filter, tails] of Object.entries(expected)) {
    const got = await retainedFor(filter, uniqueTopic());
    assert.deepEqual(got.map((message) => message.topic.slice(root.length)).sort(), tails, filter);
    assert.ok(
      got.every((message) => message.retain),
      filter,
    );
  }
});

test('[MQTT-3.3.1-6] each filter of one SUBSCRIBE is sent its retained messages', async () => {
  const root = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(`${root}/a`, 'a', { qos: 1, retain: true });
  await publisher.publish(`${root}/b`, 'b', { qos: 1, retain: true });
  const client = await broker.open();
  await client.subscribe([`${root}/a`, `${root}/b`], 1);
  const got = [await client.expect('publish'), await client.expect('publish')];
  assert.deepEqual(got.map((message) => message.topic).sort(), [`${root}/a`, `${root}/b`]);
});

test('[MQTT-3.3.1-7] a QoS 0 message with RETAIN removes what was retained before', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'old', { qos: 2, retain: true });
  await publisher.publish(topic, 'new', { qos: 0, retain: true });
  const got = await retainedFor(topic, uniqueTopic());
  // Keeping the new one is the broker's choice; the old one is gone either way.
  assert.ok(got.every((message) => message.payload.toString() === 'new') && got.length <= 1);
});

for (const qos of [0, 1, 2] as const) {
  test(`[MQTT-3.3.1-9] RETAIN is 0 on a QoS ${qos} delivery to a subscription that existed`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe([topic, `${topic}/#`], 2);
    const publisher = await broker.open();
    await publisher.publish(topic, 'live', { qos, retain: true });
    const message = await client.expectMessage(topic, 'live');
    assert.equal(message.retain, false);
  });
}

test('[MQTT-3.3.1-9] RETAIN is 0 on what was kept for an absent subscriber', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const client = await broker.open({ clientId, clean: false });
  await client.subscribe(topic, 1);
  await client.disconnect();
  const publisher = await broker.open();
  await publisher.publish(topic, 'while away', { qos: 1, retain: true });
  const back = await broker.open({ clientId, clean: false });
  assert.equal((await back.expectMessage(topic, 'while away')).retain, false);
});

test('[MQTT-3.3.1-10] an empty message with RETAIN is delivered, and removes what was retained', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  const live = await broker.open();
  await live.subscribe(topic, 1);
  await live.expectMessage(topic, 'kept');
  await publisher.publish(topic, '', { qos: 1, retain: true });
  const message = await live.expectMessage(topic, '');
  assert.equal(message.retain, false);
  assert.deepEqual(await retainedFor(topic, uniqueTopic()), []);
});

test('[MQTT-3.3.1-10] removing one retained message leaves those above and below it', async () => {
  const root = uniqueTopic();
  const publisher = await broker.open();
  for (const topic of [root, `${root}/a`, `${root}/a/b`])
    await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  await publisher.publish(`${root}/a`, '', { qos: 1, retain: true });
  const got = await retainedFor(`${root}/#`, uniqueTopic());
  assert.deepEqual(got.map((message) => message.topic).sort(), [root, `${root}/a/b`]);
});

test('[MQTT-3.3.1-11] an empty message is not stored as a retained message', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  for (const qos of [0, 1, 2] as const) await publisher.publish(topic, '', { qos, retain: true });
  assert.deepEqual(await retainedFor(topic, uniqueTopic()), []);
});

test('[MQTT-3.3.1-12] a message without RETAIN is not stored', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  for (const qos of [0, 1, 2] as const) await publisher.publish(topic, 'passing', { qos });
  assert.deepEqual(await retainedFor(topic, uniqueTopic()), []);
});

test('[MQTT-3.3.1-12] a message without RETAIN, empty or not, leaves the retained one alone', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  await publisher.publish(topic, 'passing', { qos: 1 });
  await publisher.publish(topic, '', { qos: 1 });
  const got = await retainedFor(topic, uniqueTopic());
  assert.deepEqual(
    got.map((message) => message.payload.toString()),
    ['kept'],
  );
});

test('[MQTT-3.1.2-7] a retained message survives the session and the connection that published it', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const publisher = await broker.open({ clientId, clean: true });
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  await publisher.disconnect();
  const again = await broker.open({ clientId, clean: true });
  await again.disconnect();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  await client.expectMessage(topic, 'kept');
});
