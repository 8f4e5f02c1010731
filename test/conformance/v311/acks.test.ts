// The QoS flows of MQTT 3.1.1 while a connection lasts, with the broker on either side of them, and the order of messages and of acks.
// What happens to them when the connection ends is in sessions.test.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, uint16 } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

test('[MQTT-4.3.1-1] a QoS 0 message is delivered once, whatever the subscription allows', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  publisher.sendPublish(topic, 'once');
  publisher.sendPublish(topic, 'last');
  const got = await messagesBefore(subscriber, 'last');
  assert.deepEqual(
    got.map((message) => message.raw),
    [frame(0x30, prefixed(topic), Buffer.from('once'))],
  );
});

for (const [qos, title] of [
  [1, '[MQTT-2.3.1-4] [MQTT-4.3.2-1] QoS 1 deliveries in flight have identifiers of their own and DUP 0'],
  [2, '[MQTT-2.3.1-4] [MQTT-4.3.3-1] QoS 2 deliveries in flight have identifiers of their own and DUP 0'],
] as const) {
  test(title, async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    await subscriber.subscribe(topic, qos);
    const publisher = await broker.open();
    const ids = new Set<number>();
    for (let index = 0; index < 10; index++) {
      await publisher.publish(topic, `${index}`, { qos });
      const message = await subscriber.expect('publish');
      assert.equal(message.qos, qos);
      assert.equal(message.dup, false);
      ids.add(message.messageId!);
    }
    assert.equal(ids.size, 10);
  });
}

test('[MQTT-2.3.1-4] identifiers become free again: more messages than there are identifiers in flight at a time', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 1);
  const publisher = await broker.open();
  const inFlight = new Set<number>();
  for (let index = 0; index < 300; index++) publisher.sendPublish(topic, `${index}`, { qos: 1 });
  for (let index = 0; index < 300; index++) {
    const message = await subscriber.expect('publish');
    assert.ok(!inFlight.has(message.messageId!), `identifier ${message.messageId} is still in flight`);
    inFlight.add(message.messageId!);
    if (inFlight.size === 8) {
      for (const messageId of inFlight) subscriber.send({ cmd: 'puback', messageId });
      inFlight.clear();
    }
  }
});

test('[MQTT-4.3.2-2] PUBACK has the identifier of the PUBLISH, and the message has reached its subscriber', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 1);
  const publisher = await broker.open();
  publisher.sendPublish(topic, 'taken', { qos: 1, messageId: 4711 });
  assert.equal((await publisher.expect('puback')).messageId, 4711);
  await subscriber.expectMessage(topic, 'taken');
});

test('[MQTT-4.3.2-2] after PUBACK the same identifier announces a new message, DUP or not', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 1);
  const publisher = await broker.open();
  for (const [payload, dup] of [
    ['first', false],
    ['second', true],
    ['third', false],
  ] as const) {
    await publisher.publish(topic, payload, { qos: 1, messageId: 9, dup });
    await subscriber.expectMessage(topic, payload);
  }
});

test('[MQTT-4.3.3-1] the broker answers PUBREC with PUBREL under the same identifier, and sends the PUBLISH no more', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  await publisher.publish(topic, 'two', { qos: 2 });
  const message = await subscriber.expect('publish');
  const messageId = message.messageId!;
  subscriber.send({ cmd: 'pubrec', messageId });
  assert.equal((await subscriber.expect('pubrel')).messageId, messageId);
  // PUBREC again, as a client that missed PUBREL might: PUBREL again, and still no PUBLISH.
  subscriber.send({ cmd: 'pubrec', messageId });
  assert.equal((await subscriber.expect('pubrel')).messageId, messageId);
  subscriber.send({ cmd: 'pubcomp', messageId });
  await publisher.publish(topic, 'last', { qos: 2 });
  assert.deepEqual(await messagesBefore(subscriber, 'last'), []);
});

test('[MQTT-4.3.3-2] PUBREC has the identifier of the PUBLISH, PUBCOMP that of the PUBREL', async () => {
  const client = await broker.open();
  client.sendPublish(uniqueTopic(), 'x', { qos: 2, messageId: 321 });
  assert.equal((await client.expect('pubrec')).messageId, 321);
  client.send({ cmd: 'pubrel', messageId: 321 });
  assert.equal((await client.expect('pubcomp')).messageId, 321);
});

test('[MQTT-4.3.3-2] a PUBLISH repeated before PUBREL gets PUBREC each time and is delivered once', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  for (const dup of [false, true, true]) {
    publisher.sendPublish(topic, 'once', { qos: 2, messageId: 5, dup });
    assert.equal((await publisher.expect('pubrec')).messageId, 5);
  }
  publisher.send({ cmd: 'pubrel', messageId: 5 });
  await publisher.expect('pubcomp');
  await publisher.publish(topic, 'last', { qos: 2 });
  const got = await messagesBefore(subscriber, 'last');
  assert.deepEqual(
    got.map((message) => message.payload.toString()),
    ['once'],
  );
});

test('[MQTT-4.3.3-2] after PUBCOMP the same identifier announces a new message', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  for (const payload of ['first', 'second']) {
    await publisher.publish(topic, payload, { qos: 2, messageId: 5 });
    await subscriber.expectMessage(topic, payload);
  }
});

test('[MQTT-4.3.3-2] a repeated PUBREL, whose PUBCOMP was lost, gets PUBCOMP again', async () => {
  const client = await broker.open();
  await client.publish(uniqueTopic(), 'x', { qos: 2, messageId: 6 });
  client.send({ cmd: 'pubrel', messageId: 6 });
  assert.equal((await client.expect('pubcomp')).messageId, 6);
});

test('[MQTT-4.3.3-2] one identifier serves a QoS 2 message of the client and one of the broker at the same time', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 2);
  const other = await broker.open();
  await other.publish(topic, 'out', { qos: 2 });
  const message = await client.expect('publish');
  const messageId = message.messageId!;
  client.sendPublish(`${topic}/in`, 'in', { qos: 2, messageId });
  assert.equal((await client.expect('pubrec')).messageId, messageId);
  client.send({ cmd: 'pubrec', messageId });
  assert.equal((await client.expect('pubrel')).messageId, messageId);
  client.send({ cmd: 'pubrel', messageId });
  assert.equal((await client.expect('pubcomp')).messageId, messageId);
  client.send({ cmd: 'pubcomp', messageId });
  await client.expectQuiet();
});

test('[MQTT-2.3.1-6] acks for identifiers the broker never used are harmless', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  client.send({ cmd: 'puback', messageId: 999 }, { cmd: 'pubcomp', messageId: 998 });
  await client.publish(topic, 'still here', { qos: 1 });
  await client.expectMessage(topic, 'still here');
});

test('[MQTT-4.6.0-2] the broker sends PUBACK in the order of the PUBLISH packets', async () => {
  const client = await broker.open();
  const ids = [40, 7, 65_535, 1, 300, 2, 41];
  const topic = uniqueTopic();
  client.send(...ids.map((id) => frame(0x32, prefixed(topic), uint16(id), Buffer.from('x'))));
  for (const id of ids) assert.equal((await client.expect('puback')).messageId, id);
});

test('[MQTT-4.6.0-3] the broker sends PUBREC in the order of the PUBLISH packets', async () => {
  const client = await broker.open();
  const ids = [9, 3, 1000, 4];
  const topic = uniqueTopic();
  client.send(...ids.map((id) => frame(0x34, prefixed(topic), uint16(id), Buffer.from('x'))));
  for (const id of ids) assert.equal((await client.expect('pubrec')).messageId, id);
});

test('[MQTT-4.6.0-4] the broker sends PUBREL in the order of the PUBREC packets', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  for (let index = 0; index < 5; index++) await publisher.publish(topic, `${index}`, { qos: 2 });
  const ids: number[] = [];
  for (let index = 0; index < 5; index++) ids.push((await subscriber.expect('publish')).messageId!);
  const order = [ids[3]!, ids[0]!, ids[4]!, ids[1]!, ids[2]!];
  subscriber.send(...order.map((messageId) => frame(0x50, uint16(messageId))));
  for (const messageId of order) assert.equal((await subscriber.expect('pubrel')).messageId, messageId);
});

for (const qos of [0, 1, 2] as const) {
  test(`[MQTT-4.6.0-5] [MQTT-4.6.0-6] QoS ${qos} messages of a client on a topic arrive in the order it sent them`, async () => {
    const topic = uniqueTopic();
    const exact = await broker.open();
    await exact.subscribe(topic, qos);
    const wild = await broker.open();
    await wild.subscribe(`${topic}/#`, qos);
    const publisher = await broker.open();
    const payloads = Array.from({ length: 60 }, (_, index) => `${index}`);
    if (qos === 2) {
      for (const payload of payloads) await publisher.publish(topic, payload, { qos });
    } else {
      for (const payload of payloads) publisher.sendPublish(topic, payload, { qos });
    }
    for (const subscriber of [exact, wild]) {
      for (const payload of payloads) {
        const message = await subscriber.find('publish');
        assert.equal(message.payload.toString(), payload);
        await subscriber.acknowledge(message);
      }
    }
  });
}

test('[MQTT-4.6.0-6] QoS 2 messages sent without waiting keep their order, whatever the order of the PUBREL packets', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  for (const id of [1, 2, 3]) publisher.sendPublish(topic, `${id}`, { qos: 2, messageId: id });
  for (const id of [1, 2, 3]) assert.equal((await publisher.expect('pubrec')).messageId, id);
  for (const id of [1, 2, 3]) publisher.send({ cmd: 'pubrel', messageId: id });
  for (const id of [1, 2, 3]) assert.equal((await publisher.expect('pubcomp')).messageId, id);
  for (const id of [1, 2, 3]) {
    const message = await subscriber.find('publish');
    assert.equal(message.payload.toString(), `${id}`);
    await subscriber.acknowledge(message);
  }
});

test('[MQTT-4.6.0-6] a subscriber that acknowledges late gets everything in order, however many wait behind the window', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 1);
  const publisher = await broker.open();
  const total = 3000;
  publisher.send(
    ...Array.from({ length: total }, (_, index) =>
      frame(0x32, prefixed(topic), uint16(1 + (index % 65_535)), Buffer.from(`${index}`)),
    ),
  );
  for (let index = 0; index < total; index++) await publisher.expect('puback');
  // Nothing was acknowledged so far: what is in flight is as much as the broker sends ahead.
  await subscriber.barrier();
  for (let index = 0; index < total; index++) {
    const message = await subscriber.expect('publish');
    assert.equal(message.payload.toString(), `${index}`);
    assert.equal(message.dup, false);
    await subscriber.acknowledge(message);
  }
  await subscriber.expectQuiet();
});
