// UNSUBSCRIBE and UNSUBACK: sections 3.10 and 3.11.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, hex, prefixed, type Received, uint16 } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import { block, P, propertiesOf, property, publishFrame, unsubscribeFrame, useBroker } from './support.js';

const broker = useBroker();

/** The reason codes of an UNSUBACK, which are all there is behind its properties. */
function codesOf(unsuback: Received<'unsuback'>, count: number): number[] {
  return [...unsuback.raw.subarray(-count)];
}

test('[MQTT-3.10.1-1] [MQTT-2.1.3-1] any other flags than 0010 are malformed', async () => {
  for (let flags = 0; flags < 16; flags++) {
    if (flags === 2) continue;
    const client = await broker.open();
    client.send(frame(0xa0 | flags, uint16(1), block(), prefixed('a')));
    await client.expectDisconnect(0x81);
  }
});

test('[MQTT-3.10.3-1] a filter that is not UTF-8 is malformed', async () => {
  for (const bytes of [[0xff], [0xed, 0xa0, 0x80], [0x61, 0x00]]) {
    const client = await broker.open();
    client.send(unsubscribeFrame(1, [Buffer.from(bytes)]));
    await client.expectDisconnect(0x81);
  }
});

test('[MQTT-3.10.3-2] none at all is a protocol error', async () => {
  const client = await broker.open();
  client.send(unsubscribeFrame(1, []));
  await client.expectDisconnect(0x82);
});

test('half a filter is malformed', async () => {
  for (const tail of [[0x00], [0x00, 0x05, 0x61]]) {
    const client = await broker.open();
    client.send(frame(0xa2, uint16(1), block(), tail));
    await client.expectDisconnect(0x81);
  }
});

test('[MQTT-2.2.1-3] packet identifier 0 is refused', async () => {
  const client = await broker.open();
  client.send(unsubscribeFrame(0, ['a']));
  await client.expectDisconnect(0x81, 0x82);
});

describe('UNSUBACK', () => {
  test('[MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-2.2.1-6] has the packet identifier, where nothing was subscribed too', async () => {
    const client = await broker.open();
    for (const packetId of [1, 256, 65_535]) {
      client.send(unsubscribeFrame(packetId, [uniqueTopic()]));
      const unsuback = await client.expect('unsuback');
      assert.equal(unsuback.messageId, packetId);
      assert.deepEqual(codesOf(unsuback, 1), [0x11]);
      assert.equal(unsuback.raw[0], 0xb0);
    }
  });

  test('[MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] has a code for each filter, in their order', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe([`${topic}/a`, `${topic}/b`, `${topic}/+`], 1);
    const filters = [`${topic}/none`, `${topic}/b`, `${topic}/#`, `${topic}/+`];
    client.send(unsubscribeFrame(4, filters));
    const unsuback = await client.expect('unsuback');
    assert.deepEqual(codesOf(unsuback, 4), [0x11, 0x00, 0x11, 0x00], hex(unsuback.raw));
    await client.publish(`${topic}/b`, 'to nobody', { qos: 1 });
    await client.publish(`${topic}/a`, 'still', { qos: 1 });
    await client.expectMessage(`${topic}/a`, 'still');
  });

  test('[MQTT-3.10.4-6] the same filter twice in one packet ends one subscription', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(topic);
    client.send(unsubscribeFrame(4, [topic, topic]));
    assert.deepEqual(codesOf(await client.expect('unsuback'), 2), [0x00, 0x11]);
  });

  test('user properties of UNSUBSCRIBE are accepted', async () => {
    const client = await broker.open();
    const user = property(P.userProperty, ['name', 'value']);
    client.send(unsubscribeFrame(4, [uniqueTopic()], [user, user]));
    assert.equal((await client.expect('unsuback')).messageId, 4);
  });

  test('[MQTT-3.11.3-2] without properties it says so', async () => {
    const client = await broker.open({ properties: { requestProblemInformation: false } });
    client.send(unsubscribeFrame(4, [uniqueTopic()]));
    const unsuback = await client.expect('unsuback');
    assert.deepEqual(propertiesOf(unsuback), []);
    assert.deepEqual(unsuback.raw, frame(0xb0, uint16(4), [0x00, 0x11]));
  });
});

describe('what ends', () => {
  test('[MQTT-3.10.4-1] the subscription of exactly these characters, wildcards included', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe([`${topic}/+`, `${topic}/A`], 1);
    // None of them is a subscription, though each matches or resembles one.
    const others = [`${topic}/#`, `${topic}/a`, `${topic}/A/`, `${topic}/x`];
    client.send(unsubscribeFrame(4, others));
    assert.deepEqual(codesOf(await client.expect('unsuback'), 4), [0x11, 0x11, 0x11, 0x11]);
    client.send(unsubscribeFrame(5, [`${topic}/+`]));
    assert.deepEqual(codesOf(await client.expect('unsuback'), 1), [0x00]);
    await client.publish(`${topic}/x`, 'to nobody', { qos: 1 });
    await client.publish(`${topic}/A`, 'last', { qos: 1 });
    await client.expectMessage(`${topic}/A`, 'last');
  });

  test('[MQTT-3.10.4-2] no message is added afterwards', async () => {
    for (const qos of [0, 1, 2] as const) {
      const topic = uniqueTopic();
      const client = await broker.open();
      await client.subscribe(`${topic}/a`, qos);
      await client.subscribe(`${topic}/last`, qos);
      await client.unsubscribe(`${topic}/a`);
      await client.publish(`${topic}/a`, 'x', { qos });
      await client.publish(`${topic}/last`, 'last', { qos });
      await client.expectMessage(`${topic}/last`, 'last');
    }
  });

  test('[MQTT-3.10.4-3] QoS 2 deliveries that have begun are completed', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(topic, 2);
    client.send(publishFrame(topic, { qos: 1, packetId: 1, payload: 'one' }));
    await client.find('puback');
    const first = await client.expect('publish');
    await client.publish(topic, 'two', { qos: 2 });
    const second = await client.expect('publish');
    await client.unsubscribe(topic);
    client.send({ cmd: 'puback', messageId: first.messageId! });
    client.send({ cmd: 'pubrec', messageId: second.messageId! });
    assert.equal((await client.expect('pubrel')).messageId, second.messageId);
    client.send({ cmd: 'pubcomp', messageId: second.messageId! });
    await client.expectQuiet();
  });

  test('[MQTT-3.10.4-3] one that was sent is sent again on a new connection', async () => {
    const topic = uniqueTopic();
    const clientId = `${uniqueTopic()}-client`;
    const properties = { sessionExpiryInterval: 60 };
    const client = await broker.open({ clientId, properties });
    await client.subscribe(topic, 1);
    await client.publish(topic, 'x', { qos: 1 });
    const { messageId } = await client.expect('publish');
    await client.unsubscribe(topic);
    client.destroy();
    const again = await broker.open({ clientId, clean: false, properties });
    const message = await again.expectMessage(topic, 'x');
    assert.deepEqual([message.messageId, message.dup], [messageId, true]);
  });
});
