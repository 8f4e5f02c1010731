// PUBLISH: section 3.3, its flags, topic name and properties, and what of them reaches a subscriber.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, hex, prefixed, type RawClient, uint16 } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import {
  block,
  P,
  type PublishFrame,
  propertiesOf,
  property,
  propertyOf,
  publishFrame,
  reasonOf,
  subscribe,
  subscribeFrame,
  useBroker,
  valuesOf,
} from './support.js';

const broker = useBroker();

async function subscriberOf(topic: string, qos: 0 | 1 | 2 = 0): Promise<RawClient> {
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, qos);
  return subscriber;
}

/** Sends a PUBLISH with properties of its own and sees its flow through. */
async function publishWhole(publisher: RawClient, topic: string, options: PublishFrame): Promise<void> {
  const packetId = publisher.nextMessageId();
  publisher.send(publishFrame(topic, { ...options, packetId }));
  if (options.qos === 1) await publisher.find('puback');
  if (options.qos === 2) {
    await publisher.find('pubrec');
    publisher.send({ cmd: 'pubrel', messageId: packetId });
    await publisher.find('pubcomp');
  }
}

describe('flags', () => {
  test('[MQTT-3.3.1-2] DUP is 0 when QoS is 0', async () => {
    const client = await broker.open();
    client.send(publishFrame(uniqueTopic(), { dup: true, payload: 'x' }));
    await client.expectDisconnect(0x81, 0x82);
  });

  test('[MQTT-3.3.1-2] [MQTT-4.3.1-1] [MQTT-2.2.1-2] a QoS 0 message is delivered with QoS 0, DUP 0 and no packet identifier', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic, 2);
    const publisher = await broker.open();
    publisher.sendPublish(topic, 'hello');
    const message = await subscriber.expectMessage(topic, 'hello');
    assert.deepEqual(message.raw, frame(0x30, prefixed(topic), [0x00], Buffer.from('hello')));
  });

  test('[MQTT-3.3.1-3] DUP of the publisher is not passed on', async () => {
    for (const qos of [1, 2] as const) {
      const topic = uniqueTopic();
      const subscriber = await subscriberOf(topic, qos);
      const publisher = await broker.open();
      await publisher.publish(topic, 'again', { qos, dup: true });
      assert.equal((await subscriber.expectMessage(topic, 'again')).dup, false);
    }
  });

  for (const flags of [0x06, 0x07, 0x0e, 0x0f]) {
    test(`[MQTT-3.3.1-4] QoS 3 is malformed: flags 0x${flags.toString(16)}`, async () => {
      const client = await broker.open();
      client.send(frame(0x30 | flags, prefixed(uniqueTopic()), uint16(1), block()));
      await client.expectDisconnect(0x81);
    });
  }

  test('[MQTT-2.2.1-3] packet identifier 0 is refused', async () => {
    for (const qos of [1, 2]) {
      const client = await broker.open();
      client.send(publishFrame(uniqueTopic(), { qos, packetId: 0 }));
      await client.expectDisconnect(0x81, 0x82);
    }
  });

  test('[MQTT-2.2.1-3] a PUBLISH of QoS 1 that ends before its packet identifier is malformed', async () => {
    const client = await broker.open();
    client.send(frame(0x32, prefixed(uniqueTopic())));
    await client.expectDisconnect(0x81);
  });
});

describe('topic name', () => {
  test('[MQTT-3.3.2-1] one that is not UTF-8 is malformed', async () => {
    const bad: [string, number[]][] = [
      ['a stray byte', [0x61, 0xff]],
      ['a surrogate', [0xed, 0xa0, 0x80]],
      ['an overlong form', [0xc0, 0xaf]],
      ['U+0000', [0x61, 0x00]],
      ['a cut character', [0x61, 0xe2, 0x82]],
    ];
    for (const [what, bytes] of bad) {
      const client = await broker.open();
      client.send(publishFrame(Buffer.from(bytes)));
      assert.ok(await client.expectDisconnect(0x81), what);
    }
  });

  test('[MQTT-3.3.2-1] a PUBLISH that ends inside its topic name is malformed', async () => {
    for (const bytes of [
      [0x30, 0x00],
      [0x30, 0x01, 0x00],
      [0x30, 0x04, 0x00, 0x05, 0x61, 0x62],
    ]) {
      const client = await broker.open();
      client.send(bytes);
      await client.expectDisconnect(0x81);
    }
  });

  for (const topic of ['a/+', '+', '#', 'a/#', 'a/b+c', 'a#b']) {
    test(`[MQTT-3.3.2-2] [MQTT-4.7.0-1] ${topic} is not a topic name`, async () => {
      const client = await broker.open();
      client.send(publishFrame(topic, { payload: 'x' }));
      await client.expectDisconnect(0x90, 0x81, 0x82);
    });
  }

  test('[MQTT-4.7.3-1] an empty one without an alias is a protocol error', async () => {
    const client = await broker.open();
    client.send(publishFrame(''));
    await client.expectDisconnect(0x82);
  });

  test('[MQTT-3.3.2-3] a delivery names the topic published to, not the filter', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(`${topic}/+/#`);
    const publisher = await broker.open();
    await publisher.publish(`${topic}/a/b`, 'hello');
    await subscriber.expectMessage(`${topic}/a/b`, 'hello');
    await publisher.publish(topic, 'not matched');
    await subscriber.expectQuiet();
  });
});

describe('properties on their way to subscribers', () => {
  const users = [
    ['z', '1'],
    ['a', '2'],
    ['z', '1'],
    ['', 'empty name'],
    ['empty value', ''],
    ['z', '0'],
  ] as const;

  test('[MQTT-3.3.2-17] [MQTT-3.3.2-18] all user properties, in order, repeated ones too', async () => {
    const topic = uniqueTopic();
    const subscribers = await Promise.all([
      subscriberOf(topic),
      subscriberOf(topic, 1),
      subscriberOf(topic, 2),
    ]);
    const publisher = await broker.open();
    for (const qos of [0, 1, 2]) {
      const properties = users.map((user) => property(P.userProperty, user));
      await publishWhole(publisher, topic, { qos, properties, payload: `${qos}` });
      for (const subscriber of subscribers) {
        const message = await subscriber.expectMessage(topic, `${qos}`);
        assert.deepEqual(
          propertiesOf(message),
          users.map((user) => [P.userProperty, user]),
        );
      }
    }
  });

  const unaltered: [string, number, (string | Buffer)[]][] = [
    ['[MQTT-3.3.2-15] [MQTT-3.3.2-13] response topic', P.responseTopic, ['an/answer', '/', 'ä/ﻱ/😀']],
    [
      '[MQTT-3.3.2-16] correlation data',
      P.correlationData,
      [Buffer.from([0x00, 0xff, 0x80]), Buffer.alloc(0)],
    ],
    ['[MQTT-3.3.2-20] [MQTT-3.3.2-19] content type', P.contentType, ['text/plain', '', '\ufeffbom']],
  ];
  for (const [title, id, values] of unaltered) {
    test(`${title} as published`, async () => {
      const topic = uniqueTopic();
      const subscriber = await subscriberOf(topic, 1);
      const publisher = await broker.open();
      for (const value of values) {
        publisher.send(publishFrame(topic, { qos: 1, properties: [property(id, value)], payload: 'x' }));
        const message = await subscriber.expectMessage(topic, 'x');
        assert.deepEqual(propertiesOf(message), [[id, value]]);
      }
    });
  }

  test('[MQTT-3.3.2-15] response topic and correlation data reach two subscribers', async () => {
    const topic = uniqueTopic();
    const subscribers = [await subscriberOf(topic), await subscriberOf(`${topic}/#`)];
    const publisher = await broker.open();
    const properties = [
      property(P.responseTopic, 'an/answer'),
      property(P.correlationData, Buffer.from('id 1')),
    ];
    publisher.send(publishFrame(topic, { properties, payload: 'x' }));
    for (const subscriber of subscribers) {
      const message = await subscriber.expectMessage(topic, 'x');
      assert.equal(propertyOf(message, P.responseTopic), 'an/answer');
      assert.deepEqual(propertyOf(message, P.correlationData), Buffer.from('id 1'));
    }
  });

  test('[MQTT-3.3.2-4] the payload format indicator as published: 0, 1 or none', async () => {
    const topic = uniqueTopic();
    const subscribers = [await subscriberOf(topic, 1), await subscriberOf(`${topic}/#`)];
    const publisher = await broker.open();
    for (const value of [0, 1, undefined]) {
      const properties = value === undefined ? [] : [property(P.payloadFormat, value)];
      publisher.send(publishFrame(topic, { qos: 1, properties, payload: `${value}` }));
      for (const subscriber of subscribers) {
        const message = await subscriber.expectMessage(topic, `${value}`);
        assert.equal(propertyOf(message, P.payloadFormat), value);
      }
    }
  });

  test('[MQTT-2.2.2-1] no properties are a property length of 0', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic);
    const publisher = await broker.open();
    publisher.send(publishFrame(topic));
    const message = await subscriber.expectMessage(topic, '');
    assert.equal(message.raw.at(-1), 0x00, hex(message.raw));
    assert.equal(message.raw.length, 2 + 2 + Buffer.byteLength(topic) + 1);
  });

  test('[MQTT-2.2.2-1] a PUBLISH without a property length is malformed', async () => {
    const client = await broker.open();
    client.send(frame(0x30, prefixed(uniqueTopic())));
    await client.expectDisconnect(0x81);
  });

  test('an older client gets the message without any property', async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open({ version: 4 });
    await subscriber.subscribe(topic);
    const publisher = await broker.open();
    publisher.send(publishFrame(topic, { properties: [property(P.contentType, 'text')], payload: 'x' }));
    const message = await subscriber.expectMessage(topic, 'x');
    assert.deepEqual(message.raw, frame(0x30, prefixed(topic), Buffer.from('x')));
  });

  for (const topic of ['a/+', '#', '+/b']) {
    test(`[MQTT-3.3.2-14] the response topic ${topic} is refused`, async () => {
      const client = await broker.open();
      client.send(publishFrame(uniqueTopic(), { properties: [property(P.responseTopic, topic)] }));
      await client.expectDisconnect(0x82, 0x81, 0x90);
    });
  }

  test('[MQTT-3.3.2-13] a response topic that is not UTF-8 is malformed', async () => {
    const client = await broker.open();
    const properties = [property(P.responseTopic, Buffer.from([0x61, 0xff]))];
    client.send(publishFrame(uniqueTopic(), { properties }));
    await client.expectDisconnect(0x81);
  });

  test('[MQTT-3.3.2-19] a content type that is not UTF-8 is malformed', async () => {
    const client = await broker.open();
    const properties = [property(P.contentType, Buffer.from([0xc3, 0x28]))];
    client.send(publishFrame(uniqueTopic(), { properties }));
    await client.expectDisconnect(0x81);
  });

  test('[MQTT-3.3.4-6] a subscription identifier from a client is a protocol error', async () => {
    const client = await broker.open();
    client.send(publishFrame(uniqueTopic(), { properties: [property(P.subscriptionId, 1)] }));
    await client.expectDisconnect(0x82);
  });
});

// A payload that is not the UTF-8 that payload format indicator 1 promises: section 3.3.2.3.2 lets a receiver check it, and gomq does.
describe('payload format', () => {
  const wrong = { properties: [property(P.payloadFormat, 1)], payload: [0x61, 0xff, 0xfe] };

  test('a QoS 0 payload that is not UTF-8: DISCONNECT 0x99, and nobody gets it', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic);
    const client = await broker.open();
    client.send(publishFrame(topic, wrong));
    await client.expectDisconnect(0x99);
    await subscriber.expectQuiet();
  });

  test('[MQTT-3.4.2-1] a QoS 1 payload that is not UTF-8: PUBACK 0x99, and the connection goes on', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic, 1);
    const client = await broker.open();
    client.send(publishFrame(topic, { ...wrong, qos: 1, packetId: 9 }));
    const puback = await client.expect('puback');
    assert.deepEqual([puback.messageId, reasonOf(puback)], [9, 0x99]);
    await client.publish(topic, 'fine', { qos: 1, messageId: 9 });
    await subscriber.expectMessage(topic, 'fine');
  });

  test('[MQTT-3.5.2-1] [MQTT-4.3.3-9] a QoS 2 payload that is not UTF-8: PUBREC 0x99, and its identifier is free', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic, 2);
    const client = await broker.open();
    client.send(publishFrame(topic, { ...wrong, qos: 2, packetId: 9 }));
    const pubrec = await client.expect('pubrec');
    assert.deepEqual([pubrec.messageId, reasonOf(pubrec)], [9, 0x99]);
    await client.publish(topic, 'fine', { qos: 2, messageId: 9 });
    await subscriber.expectMessage(topic, 'fine');
  });

  test('UTF-8 of every length, and the empty payload, pass', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic);
    const client = await broker.open();
    for (const payload of ['', 'a', 'ä', '€', '😀', '\ufeff', 'end\u0000']) {
      client.send(publishFrame(topic, { properties: [property(P.payloadFormat, 1)], payload }));
      await subscriber.expectMessage(topic, payload);
    }
  });

  test('bytes of any kind pass without the indicator or with 0', async () => {
    const topic = uniqueTopic();
    const subscriber = await subscriberOf(topic);
    const client = await broker.open();
    for (const properties of [[], [property(P.payloadFormat, 0)]]) {
      client.send(publishFrame(topic, { properties, payload: wrong.payload }));
      const message = await subscriber.expect('publish');
      assert.deepEqual([...message.payload], wrong.payload);
    }
  });
});

describe('overlapping subscriptions', () => {
  test('[MQTT-3.3.4-2] [MQTT-3.3.4-4] one copy with the highest QoS and all subscription identifiers', async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    await subscribe(subscriber, `${topic}/#`, { qos: 0, id: 1 });
    await subscribe(subscriber, `${topic}/a`, { qos: 2, id: 2 });
    await subscribe(subscriber, `${topic}/+`, { qos: 1 });
    const publisher = await broker.open();
    await publisher.publish(`${topic}/a`, 'x', { qos: 2 });
    await publisher.publish(`${topic}/a`, 'last', { qos: 2 });
    const messages = await messagesBefore(subscriber, 'last');
    assert.equal(messages.length, 1);
    assert.equal(messages[0]?.qos, 2);
    const ids = valuesOf(messages[0]!, P.subscriptionId) as number[];
    assert.deepEqual(ids.sort(), [1, 2]);
  });

  test('[MQTT-3.3.4-2] the highest QoS is not above the published one', async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    subscriber.send(
      subscribeFrame(1, [
        [topic, 2],
        [`${topic}/#`, 0],
      ]),
    );
    await subscriber.expect('suback');
    const publisher = await broker.open();
    await publisher.publish(topic, 'x', { qos: 1 });
    assert.equal((await subscriber.expectMessage(topic, 'x')).qos, 1);
  });
});

test('[MQTT-3.3.4-1] QoS 0 is not answered, QoS 1 by PUBACK, QoS 2 by PUBREC', async () => {
  const client = await broker.open();
  const topic = uniqueTopic();
  client.send(publishFrame(topic));
  await client.expectQuiet();
  client.send(publishFrame(topic, { qos: 1, packetId: 5 }));
  assert.equal((await client.expect('puback')).messageId, 5);
  client.send(publishFrame(topic, { qos: 2, packetId: 6 }));
  assert.equal((await client.expect('pubrec')).messageId, 6);
});

test('a PUBLISH nobody subscribes to is answered with 0x00 or 0x10', async () => {
  const client = await broker.open();
  client.send(publishFrame(uniqueTopic(), { qos: 1, packetId: 5 }));
  assert.ok([0x00, 0x10].includes(reasonOf(await client.expect('puback'))));
  client.send(publishFrame(uniqueTopic(), { qos: 2, packetId: 6 }));
  assert.ok([0x00, 0x10].includes(reasonOf(await client.expect('pubrec'))));
});

test('[MQTT-4.5.0-1] a message goes to every client that subscribes to it, the publisher included', async () => {
  const topic = uniqueTopic();
  const clients = await Promise.all(Array.from({ length: 5 }, () => subscriberOf(topic, 1)));
  await clients[0]!.publish(topic, 'to all', { qos: 1 });
  for (const client of clients) await client.expectMessage(topic, 'to all');
});
