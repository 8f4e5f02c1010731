// No Local, Retain As Published and Retain Handling: sections 3.8.3.1 and 3.3.1.3.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import { subscribe, subscribeFrame, useBroker } from './support.js';

const broker = useBroker();

describe('No Local', () => {
  for (const qos of [0, 1, 2] as const) {
    test(`[MQTT-3.8.3-3] QoS ${qos}: the publisher does not get its own message, others do`, async () => {
      const topic = uniqueTopic();
      const client = await broker.open();
      const other = await broker.open();
      for (const subscriber of [client, other]) await subscribe(subscriber, topic, { qos, noLocal: true });
      await client.publish(topic, 'mine', { qos });
      await other.publish(topic, 'theirs', { qos });
      await client.expectMessage(topic, 'theirs');
      await other.expectMessage(topic, 'mine');
      await client.expectQuiet();
      await other.expectQuiet();
    });
  }

  test('[MQTT-3.8.3-3] without it the publisher gets its own message', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, topic, { qos: 1 });
    await client.publish(topic, 'mine', { qos: 1 });
    await client.expectMessage(topic, 'mine');
  });

  test('[MQTT-3.8.3-3] it is the client identifier that counts, also over a new connection', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const first = await broker.open({ clientId, properties });
    await subscribe(first, topic, { qos: 1, noLocal: true });
    await first.publish(topic, 'mine', { qos: 1 });
    await first.disconnect();
    const second = await broker.open({ clientId, clean: false, properties });
    await second.publish(topic, 'also mine', { qos: 1 });
    const other = await broker.open();
    await other.publish(topic, 'theirs', { qos: 1 });
    await second.expectMessage(topic, 'theirs');
    await second.expectQuiet();
  });

  test('[MQTT-3.8.3-3] it concerns its own subscription only', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, `${topic}/a`, { qos: 1, noLocal: true });
    await subscribe(client, `${topic}/+`, { qos: 0 });
    await client.publish(`${topic}/a`, 'mine', { qos: 1 });
    const message = await client.expectMessage(`${topic}/a`, 'mine');
    // The subscription that lets it through is the one whose QoS counts.
    assert.equal(message.qos, 0);
    await client.expectQuiet();
  });

  test('[MQTT-3.8.3-3] a will is a message of its client too', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const will = { topic, payload: Buffer.from('my will'), qos: 1, retain: false } as const;
    const first = await broker.open({ clientId, properties, will });
    await subscribe(first, topic, { qos: 1, noLocal: true });
    first.send([0xe0, 0x01, 0x04]);
    await first.expectClosed();
    const second = await broker.open({ clientId, clean: false, properties });
    const other = await broker.open();
    await other.publish(topic, 'theirs', { qos: 1 });
    await second.expectMessage(topic, 'theirs');
  });
});

describe('Retain As Published', () => {
  test('[MQTT-3.3.1-12] without it a forwarded message has RETAIN 0, however it was published', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, topic, { qos: 1, rap: false });
    for (const retain of [true, false]) {
      await client.publish(topic, `${retain}`, { qos: 1, retain });
      assert.equal((await client.expectMessage(topic, `${retain}`)).retain, false);
    }
  });

  test('[MQTT-3.3.1-13] with it a forwarded message has RETAIN as published', async () => {
    for (const qos of [0, 1, 2] as const) {
      const topic = uniqueTopic();
      const client = await broker.open();
      await subscribe(client, topic, { qos, rap: true });
      for (const retain of [true, false]) {
        await client.publish(topic, `${retain}`, { qos, retain });
        assert.equal((await client.expectMessage(topic, `${retain}`)).retain, retain);
      }
    }
  });

  test('[MQTT-3.3.1-12] [MQTT-3.3.1-13] two subscribers of one message each get it their way', async () => {
    const topic = uniqueTopic();
    const plain = await broker.open();
    const keeping = await broker.open();
    await subscribe(plain, topic, { rap: false });
    await subscribe(keeping, topic, { rap: true });
    await plain.publish(topic, 'x', { retain: true });
    assert.equal((await plain.expectMessage(topic, 'x')).retain, false);
    assert.equal((await keeping.expectMessage(topic, 'x')).retain, true);
  });

  test('[MQTT-3.3.1-9] a retained message sent for a new subscription has RETAIN 1 with and without it', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.publish(topic, 'kept', { qos: 1, retain: true });
    for (const rap of [false, true]) {
      await subscribe(client, topic, { qos: 1, rap });
      assert.equal((await client.expectMessage(topic, 'kept')).retain, true);
    }
  });
});

describe('Retain Handling', () => {
  test('[MQTT-3.3.1-9] 0 sends retained messages, each time', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.publish(topic, 'kept', { qos: 1, retain: true });
    for (let round = 0; round < 3; round++) {
      await subscribe(client, topic, { qos: 1, rh: 0 });
      await client.expectMessage(topic, 'kept');
    }
    await client.expectQuiet();
  });

  test('[MQTT-3.3.1-10] 1 sends them for a new subscription only', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.publish(topic, 'kept', { qos: 1, retain: true });
    await subscribe(client, topic, { qos: 1, rh: 1 });
    await client.expectMessage(topic, 'kept');
    await subscribe(client, topic, { qos: 0, rh: 1 });
    await client.expectQuiet();
    await client.unsubscribe(topic);
    await subscribe(client, topic, { qos: 0, rh: 1 });
    await client.expectMessage(topic, 'kept');
  });

  test('[MQTT-3.3.1-10] 1 in a session that goes on is not new', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const first = await broker.open({ clientId, properties });
    await first.publish(topic, 'kept', { qos: 1, retain: true });
    await subscribe(first, topic, { qos: 1, rh: 1 });
    await first.expectMessage(topic, 'kept');
    await first.disconnect();
    const second = await broker.open({ clientId, clean: false, properties });
    await subscribe(second, topic, { qos: 1, rh: 1 });
    await second.publish(topic, 'last', { qos: 1 });
    assert.deepEqual(await messagesBefore(second, 'last'), []);
  });

  test('[MQTT-3.3.1-11] 2 sends none, and live messages as usual', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.publish(topic, 'kept', { qos: 1, retain: true });
    await subscribe(client, topic, { qos: 1, rh: 2 });
    await client.publish(topic, 'live', { qos: 1 });
    await client.expectMessage(topic, 'live');
    await client.expectQuiet();
  });

  test('[MQTT-3.8.4-5] [MQTT-3.3.1-10] the same new filter twice in one SUBSCRIBE, with 1: they are sent once', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.publish(topic, 'kept', { qos: 1, retain: true });
    client.send(
      subscribeFrame(5, [
        [topic, 0x10],
        [topic, 0x10],
      ]),
    );
    await client.find('suback');
    await client.expectMessage(topic, 'kept');
    await client.expectQuiet();
  });

  test('[MQTT-3.3.1-9] [MQTT-3.8.4-3] what one SUBSCRIBE asked for, the next one right behind it does not take back', async () => {
    for (const options of [0x10, 0x20]) {
      const topic = uniqueTopic();
      const client = await broker.open();
      await client.publish(topic, 'kept', { qos: 1, retain: true });
      client.send(subscribeFrame(5, [[topic, 0x00]]), subscribeFrame(6, [[topic, options]]));
      await client.find('suback');
      await client.find('suback');
      await client.expectMessage(topic, 'kept');
      await client.expectQuiet();
    }
  });

  test('[MQTT-3.8.4-4] [MQTT-3.8.4-5] each filter of one SUBSCRIBE is handled its own way', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    for (const level of ['0', '1', '2'])
      await client.publish(`${topic}/${level}`, level, { qos: 1, retain: true });
    client.send(
      subscribeFrame(5, [
        [`${topic}/2`, 0x20],
        [`${topic}/1`, 0x10],
        [`${topic}/0`, 0x00],
      ]),
    );
    await client.find('suback');
    const first = await client.find('publish');
    const second = await client.find('publish');
    const got = [first, second].map(({ payload }) => payload.toString()).sort();
    assert.deepEqual(got, ['0', '1']);
    await client.expectQuiet();
  });
});
