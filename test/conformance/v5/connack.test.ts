// CONNACK: section 3.2. What it says of the session and of the server's limits, and what a refusal looks like.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hex, prefixed, RawClient, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic, withBroker } from '../../support/suite.js';
import {
  block,
  CLEAN_START,
  connectFrame,
  expectFilterRefused,
  expectRefused,
  P,
  property,
  propertyOf,
  publishFrame,
  subscribeFrame,
  useBroker,
  WILL,
  WILL_RETAIN,
} from './support.js';

const broker = useBroker();

/** Table 3-1: what a CONNACK may say. */
const CONNACK_CODES = new Set([
  0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a,
  0x9b, 0x9c, 0x9d, 0x9f,
]);

test('[MQTT-3.2.0-1] CONNACK comes before what waits in the session', async () => {
  const clientId = uniqueClientId();
  const properties = { sessionExpiryInterval: 60 };
  const topic = uniqueTopic();
  const client = await broker.open({ clientId, properties });
  await client.subscribe(topic, 1);
  await client.disconnect();
  const publisher = await broker.open();
  for (const payload of ['1', '2', '3']) await publisher.publish(topic, payload, { qos: 1 });

  // mqttConnect fails where anything but a CONNACK comes first.
  const again = await broker.open({ clientId, clean: false, properties });
  for (const payload of ['1', '2', '3']) await again.expectMessage(topic, payload);
});

test('[MQTT-3.2.0-2] one CONNACK for a connection, even after a second CONNECT', async () => {
  const client = await broker.open();
  await client.expectQuiet();
  client.sendConnect({ version: 5 });
  await client.closed();
  const more = client.queue.filter((packet) => packet.cmd === 'connack');
  assert.equal(more.length, 0);
});

test('[MQTT-3.2.2-1] [MQTT-2.1.3-1] bits 7 to 1 of the connect acknowledge flags are 0, and the flags of the fixed header', async () => {
  const clientId = uniqueClientId();
  const properties = { sessionExpiryInterval: 60 };
  for (const [clean, flags] of [
    [true, 0],
    [false, 1],
  ] as const) {
    const client = await broker.open({ clientId, clean, properties });
    assert.equal(client.connack?.raw[0], 0x20);
    assert.equal(client.connack?.raw[2], flags, hex(client.connack!.raw));
    await client.disconnect();
  }
});

describe('Session Present', () => {
  const properties = { sessionExpiryInterval: 60 };

  test('[MQTT-3.2.2-2] [MQTT-3.1.2-4] is 0 with Clean Start 1, and the session there was is gone', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic);
    await first.disconnect();
    const second = await broker.open({ clientId, clean: true, properties });
    assert.equal(second.connack?.sessionPresent, false);
    await second.publish(topic, 'to nobody');
    await second.expectQuiet();
  });

  test('[MQTT-3.2.2-3] [MQTT-3.1.2-5] is 1 with Clean Start 0 where there is a session', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic);
    await first.disconnect();
    const second = await broker.open({ clientId, clean: false, properties });
    assert.equal(second.connack?.sessionPresent, true);
    assert.equal(second.connack?.reasonCode, 0);
    await second.publish(topic, 'still subscribed');
    await second.expectMessage(topic, 'still subscribed');
  });

  test('[MQTT-3.2.2-3] [MQTT-3.1.2-6] is 0 with Clean Start 0 where there is none, and one is made', async () => {
    const clientId = uniqueClientId();
    const first = await broker.open({ clientId, clean: false, properties });
    assert.equal(first.connack?.sessionPresent, false);
    await first.disconnect();
    const second = await broker.open({ clientId, clean: false, properties });
    assert.equal(second.connack?.sessionPresent, true);
  });

  test('[MQTT-3.2.2-6] is 0 in a refusal, also where there is a session', async () => {
    const clientId = uniqueClientId();
    await (await broker.open({ clientId, properties })).disconnect();
    const refused = await broker.dial();
    refused.send(connectFrame({ clientId, flags: 0 }, property(P.authMethod, 'none-such')));
    const connack = await expectRefused(refused, 0x8c);
    assert.equal(connack.raw[2], 0);
    // The refusal cost the session nothing.
    const again = await broker.open({ clientId, clean: false, properties });
    assert.equal(again.connack?.sessionPresent, true);
  });
});

describe('a refusal', () => {
  const wrong: [string, Uint8Array][] = [
    ['malformed', connectFrame({ payload: [[0x00]] })],
    ['a protocol error', connectFrame({}, property(P.receiveMaximum, 0))],
    ['an authentication method', connectFrame({}, property(P.authMethod, 'none-such'))],
    [
      'a will topic with a wildcard',
      connectFrame({ flags: CLEAN_START | WILL, payload: [block(), prefixed('#'), prefixed('')] }),
    ],
  ];
  for (const [what, bytes] of wrong) {
    test(`[MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT-4.13.2-1] [MQTT-3.14.0-1] ${what}: a code of the table, no DISCONNECT, closed`, async () => {
      const client = await broker.dial();
      client.send(bytes);
      const connack = await client.expect('connack');
      const code = connack.reasonCode ?? -1;
      assert.ok(code >= 0x80 && CONNACK_CODES.has(code), hex(connack.raw));
      await client.expectClosed();
    });
  }

  test('[MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.1.2-24] leaves out what does not fit into Maximum Packet Size', async () => {
    const method = property(P.authMethod, 'none-such');
    const free = await broker.dial();
    free.send(connectFrame({}, method));
    const whole = await expectRefused(free, 0x8c);

    const limits = [whole.raw.length - 1, 5].filter((limit) => limit >= 5);
    for (const limit of limits) {
      const client = await broker.dial();
      client.send(connectFrame({}, method, property(P.maximumPacketSize, limit)));
      const connack = await expectRefused(client, 0x8c);
      assert.ok(connack.raw.length <= limit, `${connack.raw.length} bytes, allowed ${limit}`);
      assert.equal(propertyOf(connack, P.reasonString), undefined);
      assert.equal(propertyOf(connack, P.userProperty), undefined);
    }
  });

  test('a refusal says why in a reason string', async () => {
    const client = await broker.dial();
    client.send(connectFrame({}, property(P.receiveMaximum, 0)));
    const connack = await expectRefused(client, 0x82);
    assert.equal(typeof propertyOf(connack, P.reasonString), 'string');
  });
});

describe('response information', () => {
  test('[MQTT-3.1.2-28] is not sent where it was not asked for, or asked not to be', async () => {
    for (const properties of [[], [property(P.requestResponseInformation, 0)]]) {
      const client = await broker.dial();
      client.send(connectFrame({}, ...properties));
      const connack = await client.expect('connack');
      assert.equal(connack.reasonCode, 0);
      assert.equal(propertyOf(connack, P.responseInformation), undefined);
    }
  });

  test('asking for it is no error', async () => {
    const client = await broker.dial();
    client.send(connectFrame({}, property(P.requestResponseInformation, 1)));
    const connack = await client.expect('connack');
    assert.equal(connack.reasonCode, 0);
    assert.notEqual(propertyOf(connack, P.responseInformation), '');
  });
});

test('[MQTT-4.12.0-6] without an authentication method there is none in CONNACK, and no AUTH', async () => {
  const client = await broker.open();
  assert.equal(propertyOf(client.connack!, P.authMethod), undefined);
  assert.equal(propertyOf(client.connack!, P.authData), undefined);
  await client.expectQuiet();
});

test('a property that says no more than its absence would say is never wrong', async () => {
  const { connack } = await broker.open();
  // Maximum QoS 2 is a protocol error, and so is every zero below.
  assert.ok([undefined, 0, 1].includes(propertyOf(connack!, P.maximumQos) as number | undefined));
  assert.notEqual(propertyOf(connack!, P.receiveMaximum), 0);
  assert.notEqual(propertyOf(connack!, P.maximumPacketSize), 0);
  assert.equal(propertyOf(connack!, P.assignedClientId), undefined);
  for (const available of [
    P.retainAvailable,
    P.wildcardAvailable,
    P.subscriptionIdAvailable,
    P.sharedAvailable,
  ]) {
    assert.ok([undefined, 1].includes(propertyOf(connack!, available) as number | undefined));
  }
});

test('a session expiry beyond the configured one is told as shortened, one within is not changed', async () => {
  await withBroker({ mqtt: { sessionExpirySecondsMax: 100 } }, async ({ port }) => {
    const asked = async (sessionExpiryInterval: number) => {
      const client = await RawClient.open(port, { version: 5, properties: { sessionExpiryInterval } });
      return propertyOf(client.connack!, P.sessionExpiry) ?? sessionExpiryInterval;
    };
    assert.equal(await asked(101), 100);
    assert.equal(await asked(0xffff_ffff), 100);
    assert.equal(await asked(100), 100);
    assert.equal(await asked(7), 7);
  });
});

test('CONNACK tells the configured limits', async () => {
  const config = { mqtt: { receiveMaximum: 7, topicAliasMaximum: 3 }, limits: { packetBytes: 2000 } };
  await withBroker(config, async ({ port }) => {
    const { connack } = await RawClient.open(port, { version: 5 });
    assert.equal(propertyOf(connack!, P.receiveMaximum), 7);
    assert.equal(propertyOf(connack!, P.topicAliasMaximum), 3);
    assert.equal(propertyOf(connack!, P.maximumPacketSize), 2000);
  });
});

test('[MQTT-3.1.4-2] a client that may not connect is refused with 0x86 or 0x87', async () => {
  await withBroker({ auth: { anonymous: 'never' } }, async ({ port }) => {
    const client = await RawClient.connect(port, { version: 5 });
    client.sendConnect({ version: 5 });
    await expectRefused(client, 0x86, 0x87);
  });
});

describe('a server that takes less than everything', () => {
  test('[MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-11] says its Maximum QoS, accepts subscriptions above it, and no PUBLISH', async () => {
    for (const maximumQos of [0, 1] as const) {
      await withBroker({ mqtt: { maximumQos } }, async ({ port }) => {
        const client = await RawClient.open(port, { version: 5 });
        assert.equal(propertyOf(client.connack!, P.maximumQos), maximumQos);
        const topic = uniqueTopic();
        for (const qos of [0, 1, 2] as const) {
          const [granted] = await client.subscribe(topic, qos);
          assert.ok(granted! <= qos, `granted ${granted}`);
        }
        await client.publish(topic, 'allowed', { qos: maximumQos });
        await client.expectMessage(topic, 'allowed');
        client.send(publishFrame(topic, { qos: maximumQos + 1, payload: 'too much' }));
        await client.expectDisconnect(0x9b);
      });
    }
  });

  test('[MQTT-3.2.2-12] refuses a will above its Maximum QoS with 0x9B', async () => {
    await withBroker({ mqtt: { maximumQos: 1 } }, async ({ port }) => {
      const payload = [block(), prefixed('a/will'), prefixed('gone')];
      const refused = await RawClient.connect(port, { version: 5 });
      refused.send(connectFrame({ flags: CLEAN_START | WILL | (2 << 3), payload }));
      await expectRefused(refused, 0x9b);
      const accepted = await RawClient.connect(port, { version: 5 });
      accepted.send(connectFrame({ flags: CLEAN_START | WILL | (1 << 3), payload }));
      assert.equal((await accepted.expect('connack')).reasonCode, 0);
    });
  });

  test('[MQTT-3.2.2-13] [MQTT-3.2.2-14] keeps no retained messages: 0x9A for a will that asks for it, and for a PUBLISH', async () => {
    await withBroker({ mqtt: { retain: false } }, async ({ port }) => {
      const refused = await RawClient.connect(port, { version: 5 });
      const payload = [block(), prefixed('a/will'), prefixed('gone')];
      refused.send(connectFrame({ flags: CLEAN_START | WILL | WILL_RETAIN, payload }));
      await expectRefused(refused, 0x9a);
      const client = await RawClient.open(port, { version: 5 });
      assert.equal(propertyOf(client.connack!, P.retainAvailable), 0);
      client.sendPublish('a/topic', 'kept?', { retain: true });
      await client.expectDisconnect(0x9a);
    });
  });

  test('no shared subscriptions: Shared Subscription Available 0, and 0x9E', async () => {
    await withBroker({ mqtt: { sharedSubscriptions: false } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      assert.equal(propertyOf(client.connack!, P.sharedAvailable), 0);
      client.send(subscribeFrame(1, [['$share/g/a/b', 0]]));
      await expectFilterRefused(client, 0x9e);
    });
  });

  test('no wildcards: Wildcard Subscription Available 0, and 0xA2', async () => {
    await withBroker({ mqtt: { wildcardSubscriptions: false } }, async ({ port }) => {
      for (const filter of ['a/+', '#']) {
        const client = await RawClient.open(port, { version: 5 });
        assert.equal(propertyOf(client.connack!, P.wildcardAvailable), 0);
        client.send(subscribeFrame(1, [[filter, 0]]));
        await expectFilterRefused(client, 0xa2);
      }
    });
  });
});
