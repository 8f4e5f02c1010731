// Packets sent without waiting for the answers, in one segment: a broker that handles some of them later than others must still behave as
// if it had handled them in turn.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, uint16, uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

const publish = (firstByte: number, topic: string, payload: string, messageId = 1) =>
  frame(firstByte, prefixed(topic), (firstByte & 0x06) === 0 ? [] : uint16(messageId), Buffer.from(payload));
const subscribe = (topic: string, qos: number) => frame(0x82, uint16(100), prefixed(topic), [qos]);
const unsubscribe = (topic: string) => frame(0xa2, uint16(101), prefixed(topic));

const payloadsOf = (messages: { payload: Buffer }[]) => messages.map(({ payload }) => payload.toString());

for (const [what, flags] of [
  ['QoS 0, every second one retained', [0x31, 0x30]],
  ['QoS 0, every second one not retained', [0x30, 0x31]],
  ['QoS 1, every second one retained', [0x33, 0x32]],
  ['QoS 1, every second one not retained', [0x32, 0x33]],
] as const) {
  test(`[MQTT-4.6.0-6] messages of one topic and QoS arrive in order: ${what}`, async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    await subscriber.subscribe(topic, 1);
    const publisher = await broker.open();
    publisher.send(
      ...Array.from({ length: 6 }, (_, index) => publish(flags[index % 2]!, topic, `${index}`, index + 1)),
    );
    for (let index = 0; index < 6; index++) await subscriber.expectMessage(topic, `${index}`);
  });
}

for (const [qos, firstByte] of [
  [0, 0x30],
  [1, 0x32],
] as const) {
  test(`[MQTT-3.8.4-4] [MQTT-4.5.0-1] SUBSCRIBE, then a QoS ${qos} PUBLISH behind it: delivered`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(subscribe(topic, 1), publish(firstByte, topic, 'behind'));
    assert.equal((await client.find('publish')).payload.toString(), 'behind');
  });

  test(`[MQTT-4.5.0-1] a QoS ${qos} PUBLISH, then SUBSCRIBE behind it: not delivered`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(publish(firstByte, topic, 'before'), subscribe(topic, 1));
    await client.find('suback');
    if (qos === 1) await client.find('puback');
    await client.publish(topic, 'last', { qos });
    assert.deepEqual(payloadsOf(await messagesBefore(client, 'last')), []);
  });

  test(`[MQTT-3.10.4-2] [MQTT-4.5.0-1] a QoS ${qos} PUBLISH, then UNSUBSCRIBE, then the PUBLISH of another: only the first is delivered`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    const marker = uniqueTopic('marker');
    await client.subscribe([topic, marker], 1);
    client.send(
      publish(firstByte, topic, 'before'),
      unsubscribe(topic),
      publish(firstByte, topic, 'after', 2),
    );
    await client.find('unsuback');
    client.send(publish(firstByte, marker, 'last', 3));
    const got: string[] = [];
    while (got.at(-1) !== 'last') {
      const message = await client.find('publish');
      got.push(message.payload.toString());
      await client.acknowledge(message);
    }
    assert.deepEqual(got, ['before', 'last']);
  });
}

for (const [qos, firstByte] of [
  [0, 0x31],
  [1, 0x33],
] as const) {
  test(`[MQTT-3.3.1-6] [MQTT-3.3.1-8] a retained QoS ${qos} PUBLISH, then SUBSCRIBE behind it: sent once, with RETAIN`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(publish(firstByte, topic, 'kept'), subscribe(topic, 1));
    const message = await client.find('publish');
    assert.equal(message.payload.toString(), 'kept');
    assert.equal(message.retain, true);
    await client.acknowledge(message);
    client.sendPublish(topic, 'last', { qos, messageId: 9 });
    const next = await client.find('publish');
    assert.equal(next.payload.toString(), 'last');
  });

  test(`[MQTT-3.3.1-9] SUBSCRIBE, then a retained QoS ${qos} PUBLISH behind it: sent once, without RETAIN`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(subscribe(topic, 1), publish(firstByte, topic, 'live'));
    const message = await client.find('publish');
    assert.equal(message.payload.toString(), 'live');
    assert.equal(message.retain, false);
    await client.acknowledge(message);
    client.sendPublish(topic, 'last', { qos, messageId: 9 });
    const next = await client.find('publish');
    assert.equal(next.payload.toString(), 'last');
  });

  test(`[MQTT-3.3.1-10] a retained QoS ${qos} PUBLISH, one that removes it, then SUBSCRIBE: nothing is retained`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(publish(firstByte, topic, 'kept', 1), publish(firstByte, topic, '', 2), subscribe(topic, 1));
    await client.find('suback');
    client.sendPublish(topic, 'last', { qos, messageId: 9 });
    const message = await client.find('publish');
    assert.equal(message.payload.toString(), 'last');
  });
}

test('[MQTT-4.3.2-2] a PUBLISH of QoS 1, then DISCONNECT behind it: the message is taken', async () => {
  const topic = uniqueTopic();
  const watcher = await broker.open();
  await watcher.subscribe(topic, 1);
  const client = await broker.open({ will: { topic, payload: 'will' } });
  client.send(publish(0x32, topic, 'goodbye'), [0xe0, 0x00]);
  await watcher.expectMessage(topic, 'goodbye');
  await watcher.publish(topic, 'last', { qos: 1 });
  assert.deepEqual(payloadsOf(await messagesBefore(watcher, 'last')), []);
});

test('[MQTT-3.1.2-8] a PUBLISH of QoS 1, then the connection breaks: the message comes before the will', async () => {
  const topic = uniqueTopic();
  const watcher = await broker.open();
  await watcher.subscribe(topic, 1);
  const client = await broker.open({ will: { topic, payload: 'will', qos: 1 } });
  client.send(publish(0x32, topic, 'last words'));
  client.end();
  await watcher.expectMessage(topic, 'last words');
  await watcher.expectMessage(topic, 'will');
});

test('[MQTT-4.3.3-2] a whole QoS 2 exchange and the next under the same identifier, in one segment', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const client = await broker.open();
  const pubrel = frame(0x62, uint16(7));
  client.send(publish(0x34, topic, 'one', 7), pubrel, publish(0x34, topic, 'two', 7), pubrel);
  for (const name of ['pubrec', 'pubcomp', 'pubrec', 'pubcomp'] as const) {
    assert.equal((await client.expect(name)).messageId, 7);
  }
  await subscriber.expectMessage(topic, 'one');
  await subscriber.expectMessage(topic, 'two');
});

test('[MQTT-2.3.1-7] SUBACK and UNSUBACK of many requests in one segment, and the subscription that is left', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  client.send(
    subscribe(topic, 0),
    unsubscribe(topic),
    subscribe(topic, 1),
    unsubscribe(topic),
    subscribe(topic, 1),
  );
  for (const name of ['suback', 'unsuback', 'suback', 'unsuback', 'suback'] as const)
    await client.expect(name);
  client.sendPublish(topic, 'once', { qos: 1 });
  assert.equal((await client.find('publish')).payload.toString(), 'once');
  await client.find('puback');
  await client.expectQuiet();
});

test('[MQTT-3.1.2-6] SUBSCRIBE and an immediate takeover with clean session 1: nothing of it is left', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const first = await broker.open({ clientId, clean: false });
  const second = await broker.connect();
  first.send(subscribe(topic, 1));
  second.sendConnect({ clientId, clean: true });
  await second.find('connack');
  const publisher = await broker.open();
  await publisher.publish(topic, 'nobody', { qos: 1 });
  await second.expectQuiet();
});

test('[MQTT-2.3.1-4] [MQTT-4.6.0-1] a message held while the identifiers start over keeps its own, and is the first to be sent again', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const subscriber = await broker.open({ clientId, clean: false });
  await subscriber.subscribe(topic, 1);
  const publisher = await broker.open();
  await publisher.publish(topic, 'held', { qos: 1 });
  const held = (await subscriber.expect('publish')).messageId!;
  // As many as bring a broker that counts up near the end of its identifiers, so that those in flight at the end lie around it.
  const passing = 64_800;
  for (let passed = 0; passed < passing; ) {
    const count = Math.min(600, passing - passed);
    publisher.send(...Array.from({ length: count }, () => publish(0x32, topic, 'passing')));
    const ids: number[] = [];
    for (let index = 0; index < count; index++) ids.push((await subscriber.expect('publish')).messageId!);
    assert.ok(!ids.includes(held), `identifier ${held} is in flight`);
    assert.ok(!ids.includes(0) && new Set(ids).size === count, 'identifiers of their own, other than 0');
    subscriber.send(...ids.map((id) => frame(0x40, uint16(id))));
    for (let index = 0; index < count; index++) await publisher.expect('puback');
    passed += count;
  }
  await subscriber.barrier();
  const young = Array.from({ length: 900 }, (_, index) => `young ${index}`);
  publisher.send(...young.map((payload) => publish(0x32, topic, payload)));
  for (const _ of young) assert.notEqual((await subscriber.expect('publish')).messageId, held);
  subscriber.destroy();
  const back = await broker.open({ clientId, clean: false });
  const got: string[] = [];
  for (let index = 0; index < 1 + young.length; index++)
    got.push((await back.expect('publish')).payload.toString());
  assert.equal(got.indexOf('held'), 0, `'held' is message ${got.indexOf('held')}, behind '${got[0]}'`);
  assert.equal(got.slice(1).join(), young.join());
});
