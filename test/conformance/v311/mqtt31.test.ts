// MQTT 3.1 (`MQIsdp`, level 3). Its specification has no numbered statements; these are the points in which it differs from 3.1.1, and a
// pass through everything its clients do.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  frame,
  prefixed,
  type RawClient,
  uint16,
  uniqueClientId,
  wrongConnect,
} from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

const open = (
  options: {
    clientId?: string;
    clean?: boolean;
    will?: { topic: string; payload: string; qos?: 0 | 1 | 2 };
  } = {},
) => broker.open({ version: 3, ...options });

async function answer(client: RawClient): Promise<number[]> {
  return [...(await client.expect('connack')).raw];
}

test('MQTT 3.1: MQIsdp at level 3 is accepted', async () => {
  const client = await broker.connect();
  client.send(wrongConnect({ protocolName: 'MQIsdp', level: 3 }));
  assert.deepEqual(await answer(client), [0x20, 0x02, 0x00, 0x00]);
  await client.barrier();
});

for (const [protocolName, level] of [
  ['MQTT', 3],
  ['MQIsdp', 2],
] as const) {
  test(`MQTT 3.1: ${protocolName} at level ${level} gets CONNACK 0x01 and a close`, async () => {
    const client = await broker.connect();
    client.send(wrongConnect({ protocolName, level }));
    assert.deepEqual(await answer(client), [0x20, 0x02, 0x00, 0x01]);
    await client.expectClosed();
  });
}

for (const level of [4, 5]) {
  test(`MQTT 3.1: MQIsdp at level ${level} is not accepted`, async () => {
    const client = await broker.connect();
    client.send(wrongConnect({ protocolName: 'MQIsdp', level }));
    await client.closed();
    for (const packet of client.queue) {
      assert.equal(packet.cmd, 'connack');
      assert.equal(packet.raw[3], 0x01);
    }
  });
}

test('MQTT 3.1: an empty client identifier is rejected, clean session or not', async () => {
  for (const flags of [0x00, 0x02]) {
    const client = await broker.connect();
    client.send(wrongConnect({ protocolName: 'MQIsdp', level: 3, flags, payload: [prefixed('')] }));
    assert.deepEqual(await answer(client), [0x20, 0x02, 0x00, 0x02]);
    await client.expectClosed();
  }
});

test('MQTT 3.1: a client identifier of 23 characters is accepted', async () => {
  const client = await open({ clientId: 'abcdefghijklmnopqrstuvw' });
  await client.barrier();
});

test('MQTT 3.1: there is no session present in CONNACK, and the session is there all the same', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId('c');
  const first = await open({ clientId, clean: false });
  await first.subscribe(topic, 1);
  await first.disconnect();
  const publisher = await open();
  await publisher.publish(topic, 'waiting', { qos: 1 });
  const back = await broker.connect();
  back.sendConnect({ version: 3, clientId, clean: false });
  assert.deepEqual(await answer(back), [0x20, 0x02, 0x00, 0x00]);
  await back.expectMessage(topic, 'waiting');
});

test('MQTT 3.1: the user name flag without a user name is let through, for the clients of the first version 3', async () => {
  const client = await broker.connect();
  client.send(wrongConnect({ protocolName: 'MQIsdp', level: 3, flags: 0x82 }));
  assert.deepEqual(await answer(client), [0x20, 0x02, 0x00, 0x00]);
});

for (const qos of [0, 1, 2] as const) {
  test(`MQTT 3.1: publish, subscribe and unsubscribe at QoS ${qos}`, async () => {
    const topic = uniqueTopic();
    const client = await open();
    assert.deepEqual(await client.subscribe([topic, `${topic}/#`], qos), [qos, qos]);
    await client.publish(topic, 'message', { qos });
    const message = await client.find('publish');
    assert.equal(message.qos, qos);
    assert.equal(message.payload.toString(), 'message');
    await client.acknowledge(message);
    await client.unsubscribe(topic, `${topic}/#`);
    await client.publish(topic, 'nobody', { qos });
    await client.expectQuiet();
  });
}

test('MQTT 3.1: DUP on a repeated SUBSCRIBE, UNSUBSCRIBE and PUBREL is allowed', async () => {
  const topic = uniqueTopic();
  const client = await open();
  client.send(frame(0x8a, uint16(1), prefixed(topic), [1]));
  assert.equal((await client.expect('suback')).messageId, 1);
  client.send(frame(0xaa, uint16(2), prefixed(topic)));
  assert.equal((await client.expect('unsuback')).messageId, 2);
  client.sendPublish(topic, 'x', { qos: 2, messageId: 3 });
  await client.expect('pubrec');
  client.send(frame(0x6a, uint16(3)));
  assert.equal((await client.expect('pubcomp')).messageId, 3);
});

for (const qos of [1, 2] as const) {
  test(`MQTT 3.1: an unacknowledged QoS ${qos} message is sent again with DUP when the client returns`, async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId('c');
    const client = await open({ clientId, clean: false });
    await client.subscribe(topic, qos);
    const publisher = await open();
    await publisher.publish(topic, 'again', { qos });
    const first = await client.expect('publish');
    client.destroy();
    const back = await open({ clientId, clean: false });
    const second = await back.expectMessage(topic, 'again');
    assert.equal(second.messageId, first.messageId);
    assert.equal(second.dup, true);
  });
}

test('MQTT 3.1: the will is published when the connection is lost, and not after DISCONNECT', async () => {
  const topic = uniqueTopic();
  const watcher = await open();
  await watcher.subscribe(topic, 1);
  const lost = await open({ will: { topic, payload: 'will', qos: 1 } });
  lost.end();
  await watcher.expectMessage(topic, 'will');
  const left = await open({ will: { topic, payload: 'will', qos: 1 } });
  await left.disconnect();
  await watcher.publish(topic, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

test('MQTT 3.1: retained messages', async () => {
  const topic = uniqueTopic();
  const publisher = await open();
  await publisher.publish(topic, 'kept', { qos: 1, retain: true });
  const client = await open();
  await client.subscribe(topic, 1);
  const message = await client.expectMessage(topic, 'kept');
  assert.equal(message.retain, true);
});

test('MQTT 3.1: clients of 3.1, 3.1.1 and 5.0 exchange messages', async () => {
  const topic = uniqueTopic();
  const clients = [];
  for (const version of [3, 4, 5] as const) {
    const client = await broker.open({ version });
    await client.subscribe(topic, 2);
    clients.push(client);
  }
  for (const sender of clients) {
    const text = `from version ${sender.version}`;
    await sender.publish(topic, text, { qos: 2 });
    for (const receiver of clients) {
      const message = await receiver.find('publish');
      assert.equal(message.payload.toString(), text);
      await receiver.acknowledge(message);
    }
  }
});

test('MQTT 3.1: a violation ends the connection without a packet', async () => {
  const client = await open();
  client.send(frame(0x36, prefixed(uniqueTopic()), uint16(1)));
  await client.expectClosed();
});
