// SUBSCRIBE and SUBACK of MQTT 3.1.1.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, uint16 } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

for (const flags of [0, 1, 3, 6, 10, 15]) {
  test(`[MQTT-3.8.1-1] SUBSCRIBE with flags ${flags} ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(0x80 | flags, uint16(1), prefixed('a'), [0]));
    await client.expectClosed();
  });
}

test('[MQTT-3.8.3-2] a filter with wildcards is granted and works', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  assert.deepEqual(await client.subscribe([`${root}/+/x/#`], 1), [1]);
  await client.publish(`${root}/a/x/b`, 'wild', { qos: 1 });
  await client.expectMessage(`${root}/a/x/b`, 'wild');
});

test('[MQTT-3.8.3-3] SUBSCRIBE without a filter ends the connection', async () => {
  const client = await broker.open();
  client.send(frame(0x82, uint16(1)));
  await client.expectClosed();
});

test('[MQTT-3.8.3-3] SUBSCRIBE without the QoS of its filter ends the connection', async () => {
  const client = await broker.open();
  client.send(frame(0x82, uint16(1), prefixed('a'), [0], prefixed('b')));
  await client.expectClosed();
});

for (const byte of [0x03, 0x04, 0x08, 0x10, 0x41, 0x80, 0xfc]) {
  test(`[MQTT-3.8.3-4] the requested QoS byte 0x${byte.toString(16).padStart(2, '0')} ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(0x82, uint16(1), prefixed(uniqueTopic()), [byte]));
    await client.expectClosed();
  });
}

test('[MQTT-3.8.3-4] a wrong byte behind a right one ends the connection without SUBACK', async () => {
  const client = await broker.open();
  client.send(frame(0x82, uint16(1), prefixed(uniqueTopic()), [1], prefixed(uniqueTopic()), [3]));
  await client.expectClosed();
});

test('[MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.3.1-7] SUBACK answers SUBSCRIBE with its identifier', async () => {
  const client = await broker.open();
  for (const id of [1, 255, 256, 65_535]) {
    client.send(frame(0x82, uint16(id), prefixed(uniqueTopic()), [1]));
    assert.deepEqual((await client.expect('suback')).raw, frame(0x90, uint16(id), [1]));
  }
});

test('[MQTT-3.8.4-3] the same filter again replaces the subscription: one copy, at the new QoS', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 0);
  await client.subscribe(topic, 2);
  const publisher = await broker.open();
  await publisher.publish(topic, 'up', { qos: 2 });
  await publisher.publish(topic, 'last', { qos: 2 });
  assert.deepEqual(
    (await messagesBefore(client, 'last')).map((message) => message.qos),
    [2],
  );
  await client.subscribe(topic, 0);
  await publisher.publish(topic, 'down', { qos: 2 });
  await publisher.publish(topic, 'last', { qos: 2 });
  assert.deepEqual(
    (await messagesBefore(client, 'last')).map((message) => message.qos),
    [0],
  );
  await client.unsubscribe(topic);
  await publisher.publish(topic, 'gone', { qos: 1 });
  await client.expectQuiet();
});

test('[MQTT-3.8.4-3] the same filter again sends the retained messages again', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.publish(topic, 'kept', { qos: 1, retain: true });
  for (let round = 0; round < 2; round++) {
    await client.subscribe(topic, 1);
    const message = await client.find('publish');
    assert.equal(message.payload.toString(), 'kept');
    assert.equal(message.retain, true);
    await client.acknowledge(message);
  }
});

test('[MQTT-3.8.4-3] the same filter again leaves no gap in a stream of messages', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  const publisher = await broker.open();
  const payloads = Array.from({ length: 80 }, (_, index) => `${index}`);
  const publishing = (async () => {
    for (const payload of payloads) await publisher.publish(topic, payload, { qos: 1 });
  })();
  const seen: string[] = [];
  for (const payload of payloads) {
    const message = await client.find('publish');
    seen.push(message.payload.toString());
    await client.acknowledge(message);
    if (seen.length % 10 === 0) client.send(frame(0x82, uint16(seen.length), prefixed(topic), [1]));
    assert.equal(seen.at(-1), payload);
  }
  await publishing;
});

test('[MQTT-3.8.4-4] [MQTT-3.8.4-5] several filters get one SUBACK with a code for each', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  const filters = [`${root}/a`, `${root}/b/#`, `${root}/+/c`, `${root}/a`];
  client.send({
    cmd: 'subscribe',
    messageId: 21,
    subscriptions: filters.map((topic, index) => ({ topic, qos: (index % 3) as 0 | 1 | 2 })),
  });
  const suback = await client.expect('suback');
  assert.equal(suback.granted.length, 4);
  for (const topic of ['a', 'b/x/y', 'q/c']) {
    await client.publish(`${root}/${topic}`, topic);
    await client.expectMessage(`${root}/${topic}`, topic);
  }
  await client.expectQuiet();
});

test('[MQTT-3.8.4-5] a SUBACK of 100 codes', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  const granted = await client.subscribe(
    Array.from({ length: 100 }, (_, index) => ({ topic: `${root}/${index}`, qos: (index % 3) as 0 | 1 | 2 })),
  );
  assert.deepEqual(
    granted,
    Array.from({ length: 100 }, (_, index) => index % 3),
  );
});

for (const subscribed of [0, 1, 2] as const) {
  test(`[MQTT-3.8.4-6] a subscription of QoS ${subscribed} gets each message at the lower of the two QoS`, async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    const [granted] = await subscriber.subscribe(topic, subscribed);
    const publisher = await broker.open();
    for (const qos of [0, 1, 2] as const) {
      await publisher.publish(topic, `at ${qos}`, { qos });
      const message = await subscriber.expectMessage(topic, `at ${qos}`);
      assert.equal(message.qos, Math.min(qos, granted!));
    }
  });
}

test('[MQTT-3.9.3-1] the codes of SUBACK are in the order of the filters', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  const wanted = [2, 0, 1, 1, 0, 2, 2] as const;
  const granted = await client.subscribe(wanted.map((qos, index) => ({ topic: `${root}/${index}`, qos })));
  assert.deepEqual(granted, [...wanted]);
});

test('[MQTT-3.9.3-2] a filter the broker refuses gets 0x80 or a close, never another code', async () => {
  const root = uniqueTopic();
  for (const filter of [`${root}#`, '$share//x', '$share/group/', '$share/g+/x']) {
    const client = await broker.open();
    client.send(frame(0x82, uint16(3), prefixed(`${root}/fine`), [1], prefixed(filter), [1]));
    const suback = await client.find('suback').catch(() => undefined);
    if (suback === undefined) await client.expectClosed();
    else assert.deepEqual(suback.granted, [1, 0x80], filter);
  }
});
