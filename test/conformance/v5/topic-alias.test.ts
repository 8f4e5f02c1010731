// Topic aliases, section 3.3.2.3.4: those of clients, and those the broker uses itself.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RawClient, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic, withBroker } from '../../support/suite.js';
import { P, property, propertyOf, publishFrame, useBroker } from './support.js';

const broker = useBroker();

function alias(value: number): { properties: Buffer[] } {
  return { properties: [property(P.topicAlias, value)] };
}

describe('aliases of a client', () => {
  test('an alias stands for the topic it was given, for every QoS', async () => {
    const [a, b] = [uniqueTopic(), uniqueTopic()];
    const client = await broker.open();
    await client.subscribe([a, b], 0);
    client.send(publishFrame(a, { ...alias(1), payload: '1' }));
    client.send(publishFrame(b, { ...alias(2), payload: '2' }));
    client.send(publishFrame('', { ...alias(1), payload: '3' }));
    client.send(publishFrame('', { ...alias(2), payload: '4' }));
    for (const [topic, payload] of [
      [a, '1'],
      [b, '2'],
      [a, '3'],
      [b, '4'],
    ] as const) {
      await client.expectMessage(topic, payload);
    }
    client.send(publishFrame('', { ...alias(1), qos: 1, packetId: 1, payload: '5' }));
    await client.find('puback');
    client.send(publishFrame('', { ...alias(2), qos: 2, packetId: 2, payload: '6' }));
    await client.find('pubrec');
    client.send({ cmd: 'pubrel', messageId: 2 });
    await client.find('pubcomp');
    await client.expectMessage(a, '5');
    await client.expectMessage(b, '6');
  });

  test('an alias may be given another topic', async () => {
    const [a, b] = [uniqueTopic(), uniqueTopic()];
    const client = await broker.open();
    await client.subscribe([a, b], 0);
    client.send(publishFrame(a, { ...alias(1), payload: '1' }));
    client.send(publishFrame(b, { ...alias(1), payload: '2' }));
    client.send(publishFrame('', { ...alias(1), payload: '3' }));
    await client.expectMessage(a, '1');
    await client.expectMessage(b, '2');
    await client.expectMessage(b, '3');
  });

  test('an alias is not passed on to subscribers that allow none', async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    await subscriber.subscribe(topic);
    const client = await broker.open();
    client.send(
      publishFrame(topic, { ...alias(1), payload: '1' }),
      publishFrame('', { ...alias(1), payload: '2' }),
    );
    for (const payload of ['1', '2']) {
      const message = await subscriber.expectMessage(topic, payload);
      assert.equal(propertyOf(message, P.topicAlias), undefined);
    }
  });

  test('[MQTT-3.3.2-12] every alias from 1 to the announced maximum is accepted', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(`${topic}/+`);
    const maximum = propertyOf(client.connack!, P.topicAliasMaximum) as number;
    assert.ok(maximum > 0, 'the broker announces no aliases');
    for (let value = 1; value <= maximum; value++) {
      client.send(publishFrame(`${topic}/${value}`, { ...alias(value), payload: 'set' }));
      await client.expectMessage(`${topic}/${value}`, 'set');
    }
    for (let value = 1; value <= maximum; value++) {
      client.send(publishFrame('', { ...alias(value), payload: 'used' }));
      await client.expectMessage(`${topic}/${value}`, 'used');
    }
  });

  test('[MQTT-3.3.2-8] alias 0 gets DISCONNECT 0x94', async () => {
    for (const topic of [uniqueTopic(), '']) {
      const client = await broker.open();
      client.send(publishFrame(topic, alias(0)));
      await client.expectDisconnect(0x94);
    }
  });

  test('[MQTT-3.3.2-9] [MQTT-3.2.2-17] an alias above the announced maximum gets DISCONNECT 0x94', async () => {
    const { connack } = await broker.open();
    const maximum = propertyOf(connack!, P.topicAliasMaximum) as number;
    for (const value of [maximum + 1, 65_535]) {
      const client = await broker.open();
      client.send(publishFrame(uniqueTopic(), alias(value)));
      await client.expectDisconnect(0x94);
    }
  });

  test('[MQTT-3.2.2-18] without an announced maximum every alias gets DISCONNECT 0x94', async () => {
    await withBroker({ mqtt: { topicAliasMaximum: 0 } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      assert.ok(
        [undefined, 0].includes(propertyOf(client.connack!, P.topicAliasMaximum) as number | undefined),
      );
      client.send(publishFrame(uniqueTopic(), alias(1)));
      await client.expectDisconnect(0x94);
    });
  });

  test('an alias given by a message that was refused is given all the same', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(topic);
    const properties = [property(P.topicAlias, 1), property(P.payloadFormat, 1)];
    client.send(publishFrame(topic, { qos: 1, packetId: 1, properties, payload: [0xff] }));
    // The client knows no more than that this one message was refused.
    assert.equal((await client.expect('puback')).reasonCode, 0x99);
    client.send(publishFrame('', { ...alias(1), payload: 'fine' }));
    await client.expectMessage(topic, 'fine');
  });

  test('an alias that was given no topic is a protocol error', async () => {
    const client = await broker.open();
    client.send(publishFrame('', alias(3)));
    await client.expectDisconnect(0x82);
  });

  test('[MQTT-3.3.2-7] aliases are not carried over to another connection, though the session is', async () => {
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const topic = uniqueTopic();
    const first = await broker.open({ clientId, properties });
    first.send(publishFrame(topic, { ...alias(1), payload: 'x' }));
    await first.barrier();
    await first.disconnect();
    const second = await broker.open({ clientId, clean: false, properties });
    assert.equal(second.connack?.sessionPresent, true);
    second.send(publishFrame('', alias(1)));
    await second.expectDisconnect(0x82);
  });

  test('[MQTT-3.3.2-7] aliases of one client mean nothing to another', async () => {
    const first = await broker.open();
    first.send(publishFrame(uniqueTopic(), alias(1)));
    await first.barrier();
    const second = await broker.open();
    second.send(publishFrame('', alias(1)));
    await second.expectDisconnect(0x82);
  });
});

describe('aliases of the broker', () => {
  /** Reads messages as a client does that keeps its table of aliases, and answers the aliases that were seen. */
  async function receive(
    client: RawClient,
    expected: [string, string][],
    maximum: number,
  ): Promise<Set<number>> {
    const table = new Map<number, string>();
    const seen = new Set<number>();
    for (const [topic, payload] of expected) {
      const message = await client.expect('publish');
      await client.acknowledge(message);
      const value = propertyOf(message, P.topicAlias) as number | undefined;
      if (value !== undefined) {
        assert.ok(value >= 1 && value <= maximum, `alias ${value}, allowed 1 to ${maximum}`);
        seen.add(value);
        if (message.topic !== '') table.set(value, message.topic);
      }
      const name = message.topic === '' ? table.get(value ?? 0) : message.topic;
      assert.deepEqual([name, message.payload.toString()], [topic, payload]);
    }
    return seen;
  }

  for (const qos of [0, 1, 2] as const) {
    test(`[MQTT-3.1.2-26] [MQTT-3.3.2-11] QoS ${qos}: none above the maximum of the client, and each means what it was given`, async () => {
      const topic = uniqueTopic();
      const topicAliasMaximum = 3;
      const client = await broker.open({ properties: { topicAliasMaximum } });
      await client.subscribe(`${topic}/+`, qos);
      const publisher = await broker.open();
      const expected: [string, string][] = [];
      for (let round = 0; round < 3; round++) {
        for (let level = 0; level < 6; level++) {
          const payload = `${round}/${level}`;
          await publisher.publish(`${topic}/${level}`, payload, { qos });
          expected.push([`${topic}/${level}`, payload]);
        }
      }
      await receive(client, expected, topicAliasMaximum);
    });
  }

  test('[MQTT-3.1.2-26] a topic published over and over goes by its alias', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ properties: { topicAliasMaximum: 1 } });
    await client.subscribe(topic);
    const publisher = await broker.open();
    const expected = Array.from({ length: 20 }, (_, index): [string, string] => [topic, `${index}`]);
    for (const [, payload] of expected) await publisher.publish(topic, payload);
    assert.deepEqual(await receive(client, expected, 1), new Set([1]));
  });

  test('[MQTT-3.1.2-27] none without a maximum of the client, or with 0', async () => {
    const topic = uniqueTopic();
    const clients = [await broker.open(), await broker.open({ properties: { topicAliasMaximum: 0 } })];
    for (const client of clients) await client.subscribe(topic);
    const publisher = await broker.open();
    for (let index = 0; index < 20; index++) publisher.sendPublish(topic, `${index}`);
    for (const client of clients) {
      for (let index = 0; index < 20; index++) {
        const message = await client.expectMessage(topic, `${index}`);
        assert.equal(propertyOf(message, P.topicAlias), undefined);
      }
    }
  });

  test('[MQTT-3.3.2-7] a new connection begins without any, resent messages included', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const properties = { topicAliasMaximum: 2, sessionExpiryInterval: 60 };
    const publisher = await broker.open();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 1);
    for (const payload of ['1', '2', '3']) await publisher.publish(topic, payload, { qos: 1 });
    for (const _ of ['1', '2', '3']) await first.expect('publish');
    await first.disconnect();
    const second = await broker.open({ clientId, clean: false, properties });
    await receive(
      second,
      [
        [topic, '1'],
        [topic, '2'],
        [topic, '3'],
      ],
      2,
    );
  });
});
