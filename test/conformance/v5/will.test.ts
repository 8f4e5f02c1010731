// Wills: sections 3.1.2.5, 3.1.3.2 and what ends them. A will that must not come is shown by a message published afterwards that comes first.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type ConnectOptions,
  frame,
  prefixed,
  type RawClient,
  uniqueClientId,
} from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import {
  block,
  CLEAN_START,
  connectFrame,
  P,
  propertiesOf,
  property,
  propertyOf,
  subscribe,
  useBroker,
  valuesOf,
  WILL,
} from './support.js';

const broker = useBroker();

interface Watched {
  topic: string;
  subscriber: RawClient;
}

async function watch(qos: 0 | 1 | 2 = 1): Promise<Watched> {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscribe(subscriber, topic, { qos, rap: true });
  return { topic, subscriber };
}

/** A client with the will 'gone' at QoS 1. */
function withWill(
  topic: string,
  options: ConnectOptions & { delaySeconds?: number } = {},
): Promise<RawClient> {
  const { delaySeconds, ...rest } = options;
  const properties = delaySeconds === undefined ? {} : { properties: { willDelayInterval: delaySeconds } };
  return broker.open({
    will: { topic, payload: Buffer.from('gone'), qos: 1, retain: false, ...properties },
    ...rest,
  });
}

/** Ends a connection so that its will, if there is one, is published, and waits until the broker has seen it. */
async function leaveWithWill(client: RawClient): Promise<void> {
  client.send([0xe0, 0x01, 0x04]);
  await client.expectClosed();
}

/** Nothing was published to the topic so far. */
async function expectNoWill({ topic, subscriber }: Watched): Promise<void> {
  const publisher = await broker.open();
  await publisher.publish(topic, 'no will', { qos: 1 });
  await subscriber.expectMessage(topic, 'no will');
}

describe('the will is published', () => {
  test('[MQTT-3.1.2-7] [MQTT-3.1.2-8] when the connection is lost', async () => {
    const { topic, subscriber } = await watch();
    const client = await withWill(topic);
    client.destroy();
    await subscriber.expectMessage(topic, 'gone');
  });

  test('[MQTT-3.1.2-8] when the client ends the connection without DISCONNECT', async () => {
    const { topic, subscriber } = await watch();
    const client = await withWill(topic);
    client.end();
    await subscriber.expectMessage(topic, 'gone');
  });

  test('[MQTT-3.1.2-8] when the client breaks the protocol', async () => {
    const { topic, subscriber } = await watch();
    const client = await withWill(topic);
    client.send([0x36, 0x00]);
    await client.expectDisconnect(0x81);
    await subscriber.expectMessage(topic, 'gone');
  });

  for (const reasonCode of [0x04, 0x80, 0x81, 0x98]) {
    test(`[MQTT-3.1.2-8] after DISCONNECT 0x${reasonCode.toString(16).padStart(2, '0')}`, async () => {
      const { topic, subscriber } = await watch();
      const client = await withWill(topic);
      client.send([0xe0, 0x01, reasonCode]);
      await client.expectClosed();
      await subscriber.expectMessage(topic, 'gone');
    });
  }

  test('[MQTT-3.1.2-8] when another connection takes the client identifier over', async () => {
    const { topic, subscriber } = await watch();
    const clientId = uniqueClientId();
    const older = await withWill(topic, { clientId });
    await broker.open({ clientId });
    await older.expectDisconnect(0x8e);
    await subscriber.expectMessage(topic, 'gone');
  });

  test('[MQTT-3.1.2-8] at once where its delay is longer than the session, which ends with the connection', async () => {
    const { topic, subscriber } = await watch();
    const client = await withWill(topic, { delaySeconds: 3600 });
    client.destroy();
    await subscriber.expectMessage(topic, 'gone');
  });

  test('[MQTT-3.1.2-8] at once when Clean Start ends the session that its delay runs in', async () => {
    const { topic, subscriber } = await watch();
    const clientId = uniqueClientId();
    const client = await withWill(topic, {
      clientId,
      delaySeconds: 3600,
      properties: { sessionExpiryInterval: 3600 },
    });
    client.destroy();
    await broker.open({ clientId, clean: true });
    await subscriber.expectMessage(topic, 'gone');
  });
});

test('[MQTT-3.1.2-8] DISCONNECT 0x04 that ends the session publishes the will at once, whatever its delay', async () => {
  const { topic, subscriber } = await watch();
  const properties = { sessionExpiryInterval: 3600 };
  const client = await withWill(topic, { delaySeconds: 3600, properties });
  client.send(frame(0xe0, [0x04], block(property(P.sessionExpiry, 0))));
  await client.expectClosed();
  await subscriber.expectMessage(topic, 'gone');
});

describe('the will is not published', () => {
  test('[MQTT-3.14.4-3] [MQTT-3.1.2-10] after DISCONNECT 0x00', async () => {
    for (const bytes of [
      [0xe0, 0x00],
      [0xe0, 0x01, 0x00],
      [0xe0, 0x02, 0x00, 0x00],
    ]) {
      const watched = await watch();
      const client = await withWill(watched.topic);
      client.send(bytes);
      await client.expectClosed();
      await expectNoWill(watched);
    }
  });

  test('[MQTT-3.1.2-8] as long as the connection lasts', async () => {
    const watched = await watch();
    const client = await withWill(watched.topic);
    await client.barrier();
    await expectNoWill(watched);
  });

  test('[MQTT-3.1.3-9] when the client is back before the delay has passed', async () => {
    const watched = await watch();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 3600 };
    const client = await withWill(watched.topic, { clientId, delaySeconds: 3600, properties });
    client.destroy();
    const again = await broker.open({ clientId, clean: false, properties });
    assert.equal(again.connack?.sessionPresent, true);
    // Its own end has no will either: a will belongs to one connection.
    await leaveWithWill(again);
    await expectNoWill(watched);
  });

  test('[MQTT-3.1.3-9] when the client takes its own session over within the delay', async () => {
    const watched = await watch();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 3600 };
    const older = await withWill(watched.topic, { clientId, delaySeconds: 3600, properties });
    await broker.open({ clientId, clean: false, properties });
    await older.expectDisconnect(0x8e);
    await expectNoWill(watched);
  });

  test('[MQTT-3.1.2-10] a second time', async () => {
    const watched = await watch();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const client = await withWill(watched.topic, { clientId, properties });
    client.destroy();
    await watched.subscriber.expectMessage(watched.topic, 'gone');
    const again = await broker.open({ clientId, clean: false, properties });
    await leaveWithWill(again);
    await expectNoWill(watched);
  });

  test('[MQTT-3.1.2-7] with the content of an earlier connection, which the new one replaced', async () => {
    const { topic, subscriber } = await watch();
    const clientId = uniqueClientId();
    await (await withWill(topic, { clientId })).disconnect();
    const second = await broker.open({
      clientId,
      will: { topic, payload: Buffer.from('the second'), qos: 1, retain: false },
    });
    second.destroy();
    await subscriber.expectMessage(topic, 'the second');
  });
});

describe('the message that a will is', () => {
  for (const qos of [0, 1, 2] as const) {
    test(`[MQTT-3.1.2-9] has the will QoS, ${qos}`, async () => {
      const { topic, subscriber } = await watch(2);
      const client = await broker.open({ will: { topic, payload: Buffer.from('gone'), qos, retain: false } });
      client.destroy();
      const message = await subscriber.expectMessage(topic, 'gone');
      assert.equal(message.qos, qos);
    });
  }

  test('[MQTT-3.1.2-14] is not retained with will retain 0', async () => {
    const { topic, subscriber } = await watch();
    const client = await withWill(topic);
    client.destroy();
    const message = await subscriber.expectMessage(topic, 'gone');
    assert.equal(message.retain, false);
    const later = await broker.open();
    await later.subscribe(topic);
    await later.expectQuiet();
  });

  test('[MQTT-3.1.2-15] is retained with will retain 1', async () => {
    const { topic, subscriber } = await watch();
    const will = { topic, payload: Buffer.from('gone'), qos: 1, retain: true } as const;
    const client = await broker.open({ will });
    client.destroy();
    // The subscription keeps RETAIN as published.
    assert.equal((await subscriber.expectMessage(topic, 'gone')).retain, true);
    const later = await broker.open();
    await later.subscribe(topic);
    assert.equal((await later.expectMessage(topic, 'gone')).retain, true);
  });

  test('[MQTT-3.1.2-15] [MQTT-3.3.1-6] removes the retained message of its topic where it is empty', async () => {
    const { topic, subscriber } = await watch();
    await subscriber.publish(topic, 'kept', { qos: 1, retain: true });
    await subscriber.expectMessage(topic, 'kept');
    const client = await broker.open({ will: { topic, payload: Buffer.alloc(0), qos: 1, retain: true } });
    client.destroy();
    await subscriber.expectMessage(topic, '');
    const later = await broker.open();
    await later.subscribe(topic);
    await later.expectQuiet();
  });

  test('may be empty', async () => {
    const { topic, subscriber } = await watch();
    const client = await broker.open({ will: { topic, payload: Buffer.alloc(0), qos: 1, retain: false } });
    client.destroy();
    await subscriber.expectMessage(topic, '');
  });

  test('[MQTT-3.1.3-10] has the properties of the will, the user properties in their order', async () => {
    const { topic, subscriber } = await watch();
    const client = await broker.dial();
    const users = [
      ['b', '1'],
      ['a', '2'],
      ['b', '3'],
      ['', ''],
      ['a', '2'],
    ] as const;
    const properties = block(
      property(P.userProperty, users[0]),
      property(P.payloadFormat, 1),
      property(P.userProperty, users[1]),
      property(P.contentType, 'text/plain'),
      property(P.responseTopic, 'an/answer'),
      property(P.correlationData, Buffer.from([0, 1, 0xff])),
      property(P.willDelay, 0),
      ...users.slice(2).map((user) => property(P.userProperty, user)),
    );
    client.send(
      connectFrame({
        flags: CLEAN_START | WILL | (1 << 3),
        payload: [properties, prefixed(topic), prefixed('gone')],
      }),
    );
    await client.expect('connack');
    client.destroy();
    const message = await subscriber.expectMessage(topic, 'gone');
    assert.deepEqual(valuesOf(message, P.userProperty), users);
    assert.equal(propertyOf(message, P.payloadFormat), 1);
    assert.equal(propertyOf(message, P.contentType), 'text/plain');
    assert.equal(propertyOf(message, P.responseTopic), 'an/answer');
    assert.deepEqual(propertyOf(message, P.correlationData), Buffer.from([0, 1, 0xff]));
    // The delay is between the client and the server.
    assert.ok(!propertiesOf(message).some(([id]) => id === P.willDelay));
  });

  test('expires from the moment it is published', async () => {
    const { topic, subscriber } = await watch();
    const will = {
      topic,
      payload: Buffer.from('gone'),
      qos: 1,
      retain: false,
      properties: { messageExpiryInterval: 100 },
    } as const;
    const client = await broker.open({ will });
    client.destroy();
    const message = await subscriber.expectMessage(topic, 'gone');
    assert.ok([99, 100].includes(propertyOf(message, P.messageExpiry) as number));
  });
});

describe('time', { concurrency: true }, () => {
  test('[MQTT-3.1.2-8] a will comes when its delay has passed, and not before', async () => {
    const watched = await watch();
    const client = await withWill(watched.topic, {
      delaySeconds: 1,
      properties: { sessionExpiryInterval: 60 },
    });
    const from = performance.now();
    client.destroy();
    await expectNoWill(watched);
    await watched.subscriber.expectMessage(watched.topic, 'gone');
    const waited = performance.now() - from;
    assert.ok(waited > 900, `after ${waited} ms`);
  });

  test('[MQTT-3.1.2-8] a will comes when its session expires, where that is before its delay has passed', async () => {
    const watched = await watch();
    const client = await withWill(watched.topic, {
      delaySeconds: 3600,
      properties: { sessionExpiryInterval: 1 },
    });
    const from = performance.now();
    client.destroy();
    await expectNoWill(watched);
    await watched.subscriber.expectMessage(watched.topic, 'gone');
    const waited = performance.now() - from;
    assert.ok(waited > 900, `after ${waited} ms`);
  });

  test('[MQTT-3.1.2-22] [MQTT-3.1.2-8] a will comes when the keep alive has run out', async () => {
    const { topic, subscriber } = await watch();
    const client = await withWill(topic, { keepAliveSeconds: 1 });
    await client.expectDisconnect(0x8d);
    await subscriber.expectMessage(topic, 'gone');
  });

  test('[MQTT-3.1.3-9] a will does not come later either, when the client was back in time', async () => {
    const watched = await watch();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const client = await withWill(watched.topic, { clientId, delaySeconds: 1, properties });
    client.destroy();
    await broker.open({ clientId, clean: false, properties });
    await watched.subscriber.expectNothing(1500);
  });
});
