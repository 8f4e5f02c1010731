// Message expiry: section 3.3.2.3.3.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { type RawClient, uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import { P, property, propertyOf, publishFrame, useBroker } from './support.js';

const broker = useBroker();
const SESSION = { sessionExpiryInterval: 60 };

async function publish(client: RawClient, topic: string, payload: string, seconds?: number, retain = false) {
  const properties = seconds === undefined ? [] : [property(P.messageExpiry, seconds)];
  client.send(publishFrame(topic, { qos: 1, packetId: client.nextMessageId(), properties, payload, retain }));
  await client.find('puback');
}

test('[MQTT-3.3.2-6] a message that does not wait keeps its expiry', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  for (const seconds of [100, 0xffff_ffff]) {
    await publish(client, topic, `${seconds}`, seconds);
    const left = propertyOf(await client.expectMessage(topic, `${seconds}`), P.messageExpiry) as number;
    assert.ok(left === seconds || left === seconds - 1, `${left} of ${seconds}`);
  }
});

test('[MQTT-3.3.2-6] a message without expiry gets none', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  await publish(client, topic, 'x');
  assert.equal(propertyOf(await client.expectMessage(topic, 'x'), P.messageExpiry), undefined);
});

describe('time', { concurrency: true }, () => {
  test('[MQTT-3.3.2-6] the time a message waited in a session is taken off', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const first = await broker.open({ clientId, properties: SESSION });
    await first.subscribe(topic, 1);
    await first.disconnect();
    const publisher = await broker.open();
    await publish(publisher, topic, 'x', 100);
    await setTimeout(1300);
    const second = await broker.open({ clientId, clean: false, properties: SESSION });
    const left = propertyOf(await second.expectMessage(topic, 'x'), P.messageExpiry) as number;
    assert.ok(left === 98 || left === 99, `${left} left`);
  });

  test('[MQTT-3.3.2-6] and what a retained message waited', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await publish(client, topic, 'x', 100, true);
    await setTimeout(1300);
    await client.subscribe(topic);
    const left = propertyOf(await client.expectMessage(topic, 'x'), P.messageExpiry) as number;
    assert.ok(left === 98 || left === 99, `${left} left`);
  });

  test('[MQTT-3.3.2-5] a message that expired in a session is not delivered, others are', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const first = await broker.open({ clientId, properties: SESSION });
    await first.subscribe(topic, 1);
    await first.disconnect();
    const publisher = await broker.open();
    await publish(publisher, topic, 'expires', 1);
    await publish(publisher, topic, 'stays', 100);
    await publish(publisher, topic, 'expires too', 1);
    await publish(publisher, topic, 'last');
    await setTimeout(1500);
    const second = await broker.open({ clientId, clean: false, properties: SESSION });
    const messages = await messagesBefore(second, 'last');
    assert.deepEqual(
      messages.map(({ payload }) => payload.toString()),
      ['stays'],
    );
  });

  test('[MQTT-3.3.2-5] nor one that expired behind Receive Maximum', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ properties: { receiveMaximum: 1 } });
    await client.subscribe(topic, 1);
    const publisher = await broker.open();
    await publish(publisher, topic, 'in flight');
    await publish(publisher, topic, 'expires', 1);
    await publish(publisher, topic, 'last');
    const first = await client.expect('publish');
    await setTimeout(1500);
    await client.acknowledge(first);
    await client.expectMessage(topic, 'last');
  });

  test('[MQTT-3.3.2-5] nor a retained one', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await publish(client, topic, 'x', 1, true);
    await setTimeout(1500);
    await client.subscribe([topic, `${topic}/#`]);
    await client.expectQuiet();
  });

  test('[MQTT-4.3.3-7] [MQTT-4.4.0-1] a message that was sent already is sent again though it has expired', async () => {
    for (const qos of [2, 1] as const) {
      const topic = uniqueTopic();
      const clientId = uniqueClientId();
      const first = await broker.open({ clientId, properties: SESSION });
      await first.subscribe(topic, qos);
      const publisher = await broker.open();
      const properties = { messageExpiryInterval: 1 };
      await publisher.publish(topic, 'sent', { qos, properties });
      const { messageId } = await first.expect('publish');
      first.destroy();
      await setTimeout(1500);
      const second = await broker.open({ clientId, clean: false, properties: SESSION });
      const message = await second.expectMessage(topic, 'sent');
      assert.deepEqual([message.messageId, message.dup, message.qos], [messageId, true, qos]);
    }
  });
});
