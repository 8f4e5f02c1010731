// Shared subscriptions: section 4.8.2.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, type RawClient, type Received, uint16, uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import {
  expectFilterRefused,
  nextPacket,
  P,
  reasonOf,
  subscribe,
  subscribeFrame,
  useBroker,
  valuesOf,
} from './support.js';

const broker = useBroker();

/** Everything each client got up to the message `last`, which is published to a topic of their own. */
async function collect(clients: RawClient[], qos: 0 | 1 | 2 = 1): Promise<Received<'publish'>[][]> {
  const topic = uniqueTopic();
  for (const client of clients) await client.subscribe(topic, qos);
  const publisher = await broker.open();
  await publisher.publish(topic, 'last', { qos });
  return Promise.all(clients.map((client) => messagesBefore(client, 'last')));
}

function payloads(messages: Received<'publish'>[]): string[] {
  return messages.map(({ payload }) => payload.toString());
}

describe('the filter', () => {
  for (const filter of ['$share//x', '$share/g/', '$share/g', '$share/', '$share/g//#/a']) {
    test(`[MQTT-4.8.2-1] [MQTT-4.8.2-2] ${filter} is refused`, async () => {
      const client = await broker.open();
      client.send(subscribeFrame(1, [[filter, 0]]));
      await expectFilterRefused(client, 0x8f, 0x81, 0x82);
    });
  }

  for (const filter of ['$share/g+/x', '$share/+/x', '$share/#/x', '$share/a#b/x', '$share/#']) {
    test(`[MQTT-4.8.2-2] ${filter}: no wildcard in a share name`, async () => {
      const client = await broker.open();
      client.send(subscribeFrame(1, [[filter, 0]]));
      await expectFilterRefused(client, 0x8f, 0x81, 0x82);
    });
  }

  test('[MQTT-4.8.2-1] $share is a share only at the beginning and with exactly these letters', async () => {
    const client = await broker.open();
    const topic = uniqueTopic();
    for (const filter of [`a/$share/g/${topic}`, `$SHARE/g/${topic}`]) {
      await subscribe(client, filter);
      await client.publish(topic, 'x');
      await client.expectQuiet();
      await client.publish(filter, 'to itself');
      await client.expectMessage(filter, 'to itself');
    }
  });

  test('[MQTT-4.8.2-2] the filter behind the share name may begin with a slash', async () => {
    const client = await broker.open();
    const topic = uniqueTopic();
    await subscribe(client, `$share/g//${topic}/+`);
    await client.publish(`/${topic}/a`, 'x');
    await client.expectMessage(`/${topic}/a`, 'x');
  });

  test('[MQTT-3.8.3-4] No Local on a share is a protocol error', async () => {
    const client = await broker.open();
    client.send(
      subscribeFrame(1, [
        [uniqueTopic(), 4],
        [`$share/g/${uniqueTopic()}`, 4],
      ]),
    );
    await client.expectDisconnect(0x82);
  });
});

describe('sharing', () => {
  for (const qos of [0, 1, 2] as const) {
    test(`QoS ${qos}: each message goes to one member, and every member gets some`, async () => {
      const topic = uniqueTopic();
      const members = await Promise.all([broker.open(), broker.open(), broker.open()]);
      for (const member of members) await subscribe(member, `$share/g/${topic}`, { qos });
      const publisher = await broker.open();
      const sent = Array.from({ length: 60 }, (_, index) => `${index}`);
      for (const payload of sent) await publisher.publish(topic, payload, { qos });
      const got = (await collect(members, qos)).map(payloads);
      assert.deepEqual(got.flat().sort(), sent.sort());
      for (const messages of got) assert.ok(messages.length > 0, `${got.map(({ length }) => length)}`);
    });
  }

  test('groups with different names each get every message, and so does a subscription of one’s own', async () => {
    const topic = uniqueTopic();
    const clients = await Promise.all([broker.open(), broker.open(), broker.open()]);
    await subscribe(clients[0], `$share/one/${topic}`, { qos: 1 });
    await subscribe(clients[1], `$share/two/${topic}`, { qos: 1 });
    await subscribe(clients[2], topic, { qos: 1 });
    const publisher = await broker.open();
    for (const payload of ['a', 'b', 'c']) await publisher.publish(topic, payload, { qos: 1 });
    for (const messages of await collect(clients)) assert.deepEqual(payloads(messages), ['a', 'b', 'c']);
  });

  test('a share and a subscription of the same client are two subscriptions', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, `$share/g/${topic}`, { qos: 1, id: 1 });
    await subscribe(client, topic, { qos: 1, id: 2 });
    await client.publish(topic, 'x', { qos: 1 });
    const [messages] = await collect([client]);
    const ids = messages!.flatMap((message) => valuesOf(message, P.subscriptionId) as number[]);
    assert.deepEqual(ids.sort(), [1, 2]);
  });

  test('[MQTT-4.8.2-3] each member gets messages with its own granted QoS', async () => {
    const topic = uniqueTopic();
    const members = await Promise.all([broker.open(), broker.open()]);
    await subscribe(members[0], `$share/g/${topic}`, { qos: 0 });
    await subscribe(members[1], `$share/g/${topic}`, { qos: 2 });
    const publisher = await broker.open();
    for (let index = 0; index < 20; index++) await publisher.publish(topic, `${index}`, { qos: 1 });
    const [low, high] = await collect(members);
    assert.ok(low!.length > 0 && high!.length > 0);
    assert.equal(low!.length + high!.length, 20);
    for (const { qos } of low!) assert.equal(qos, 0);
    for (const { qos } of high!) assert.equal(qos, 1);
  });

  test('subscribing to a share sends no retained messages', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.publish(topic, 'kept', { qos: 1, retain: true });
    await subscribe(client, `$share/g/${topic}`, { qos: 1 });
    await client.publish(topic, 'live', { qos: 1 });
    await client.expectMessage(topic, 'live');
    await client.expectQuiet();
  });

  test('a share comes with its subscription identifier', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, `$share/g/${topic}`, { qos: 1, id: 77 });
    await client.publish(topic, 'x', { qos: 1 });
    assert.deepEqual(valuesOf(await client.expectMessage(topic, 'x'), P.subscriptionId), [77]);
  });

  test('UNSUBSCRIBE takes one member out, the others get everything', async () => {
    const topic = uniqueTopic();
    const members = await Promise.all([broker.open(), broker.open()]);
    for (const member of members) await subscribe(member, `$share/g/${topic}`, { qos: 1 });
    assert.equal((await members[0].unsubscribe(`$share/g/${topic}`)).raw.at(-1), 0x00);
    assert.equal((await members[0].unsubscribe(`$share/g/${topic}`)).raw.at(-1), 0x11);
    const publisher = await broker.open();
    for (const payload of ['a', 'b', 'c', 'd']) await publisher.publish(topic, payload, { qos: 1 });
    const [left, stayed] = await collect(members);
    assert.deepEqual([payloads(left!), payloads(stayed!)], [[], ['a', 'b', 'c', 'd']]);
  });

  test('3.1.1 clients share with 5.0 clients', async () => {
    const topic = uniqueTopic();
    const older = await broker.open({ version: 4 });
    const newer = await broker.open();
    assert.deepEqual(await older.subscribe(`$share/g/${topic}`, 1), [1]);
    await subscribe(newer, `$share/g/${topic}`, { qos: 1 });
    const publisher = await broker.open();
    for (let index = 0; index < 20; index++) await publisher.publish(topic, `${index}`, { qos: 1 });
    const got = await collect([older, newer]);
    assert.equal(got.flat().length, 20);
    for (const messages of got) assert.ok(messages.length > 0);
  });
});

describe('a member that goes away', () => {
  const properties = { sessionExpiryInterval: 60 };

  test('a QoS 1 message it did not acknowledge goes to another member when its session ends', async () => {
    const topic = uniqueTopic();
    const leaving = await broker.open();
    await subscribe(leaving, `$share/g/${topic}`, { qos: 1 });
    const publisher = await broker.open();
    await publisher.publish(topic, 'x', { qos: 1 });
    await leaving.expect('publish');
    const staying = await broker.open();
    await subscribe(staying, `$share/g/${topic}`, { qos: 1 });
    await leaving.disconnect();
    await staying.expectMessage(topic, 'x');
  });

  test('[MQTT-4.8.2-4] a QoS 2 delivery that has begun is completed with that member when it returns', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const member = await broker.open({ clientId, properties });
    await subscribe(member, `$share/g/${topic}`, { qos: 2 });
    const publisher = await broker.open();
    await publisher.publish(topic, 'x', { qos: 2 });
    const { messageId } = await member.expect('publish');
    const other = await broker.open();
    await subscribe(other, `$share/g/${topic}`, { qos: 2 });
    member.destroy();
    const back = await broker.open({ clientId, clean: false, properties });
    const message = await back.expectMessage(topic, 'x');
    assert.deepEqual([message.messageId, message.dup], [messageId, true]);
    const [messages] = await collect([other], 2);
    assert.deepEqual(payloads(messages!), []);
  });

  for (const answered of [false, true]) {
    test(`[MQTT-4.8.2-5] a QoS 2 delivery ${answered ? 'with' : 'without'} PUBREC goes to nobody else when its session ends`, async () => {
      const topic = uniqueTopic();
      const member = await broker.open();
      await subscribe(member, `$share/g/${topic}`, { qos: 2 });
      const publisher = await broker.open();
      await publisher.publish(topic, 'x', { qos: 2 });
      const { messageId } = await member.expect('publish');
      if (answered) {
        member.send({ cmd: 'pubrec', messageId: messageId! });
        await member.expect('pubrel');
      }
      const other = await broker.open();
      await subscribe(other, `$share/g/${topic}`, { qos: 2 });
      await member.disconnect();
      await publisher.publish(topic, 'next', { qos: 2 });
      await other.expectMessage(topic, 'next');
      await other.expectQuiet();
    });
  }

  for (const [qos, type] of [
    [1, 0x40],
    [2, 0x50],
  ] as const) {
    test(`[MQTT-4.8.2-6] a message refused by a QoS ${qos} ack of 0x80 or more goes to nobody else`, async () => {
      const topic = uniqueTopic();
      const refusing = await broker.open();
      await subscribe(refusing, `$share/g/${topic}`, { qos });
      const publisher = await broker.open();
      await publisher.publish(topic, 'refused', { qos });
      const { messageId } = await refusing.expect('publish');
      const other = await broker.open();
      await subscribe(other, `$share/g/${topic}`, { qos });
      refusing.send(frame(type, uint16(messageId!), [0x83]));
      await refusing.expectQuiet();
      await refusing.disconnect();
      await publisher.publish(topic, 'next', { qos });
      await other.expectMessage(topic, 'next');
      await other.expectQuiet();
    });
  }

  test('messages for a group of which nobody is connected wait for the first who returns', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const member = await broker.open({ clientId, properties });
    await subscribe(member, `$share/g/${topic}`, { qos: 1 });
    await member.disconnect();
    const publisher = await broker.open();
    for (const payload of ['a', 'b']) await publisher.publish(topic, payload, { qos: 1 });
    const back = await broker.open({ clientId, clean: false, properties });
    await back.expectMessage(topic, 'a');
    await back.expectMessage(topic, 'b');
  });
});

test('a shared subscription is announced as available', async () => {
  const client = await broker.open();
  client.send(subscribeFrame(1, [[`$share/g/${uniqueTopic()}`, 2]]));
  const suback = await nextPacket(client);
  assert.equal(suback.cmd, 'suback');
  assert.equal(reasonOf(suback), 0);
  assert.deepEqual((suback as Received<'suback'>).granted, [2]);
});
