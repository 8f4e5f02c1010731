// The will of MQTT 3.1.1: when it is published, how, and when it is not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, type RawClient, uint16, uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

async function watcherOf(topic: string, qos: 0 | 1 | 2 = 2): Promise<RawClient> {
  const watcher = await broker.open();
  await watcher.subscribe(topic, qos);
  return watcher;
}

const endings: [string, (client: RawClient, clientId: string) => void | Promise<void>][] = [
  ['the connection is reset', (client) => client.destroy()],
  ['the client closes without DISCONNECT', (client) => client.end()],
  ['the client breaks the protocol', (client) => client.send([0xf0, 0x00])],
  [
    'the client leaves in the middle of a packet',
    (client) => {
      client.send([0x30, 0x10, 0x00]);
      client.end();
    },
  ],
  [
    'another client takes over the identifier',
    async (_client, clientId) => {
      await broker.open({ clientId });
    },
  ],
];

for (const [when, end] of endings) {
  test(`[MQTT-3.1.2-8] the will is published when ${when}`, async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const watcher = await watcherOf(topic);
    const client = await broker.open({ clientId, will: { topic, payload: 'will', qos: 1 } });
    await end(client, clientId);
    await watcher.expectMessage(topic, 'will');
  });
}

test('[MQTT-3.1.2-8] the will of a refused CONNECT is not published', async () => {
  const topic = uniqueTopic();
  const watcher = await watcherOf(topic);
  const client = await broker.connect();
  client.send(
    frame(0x10, prefixed('MQTT'), [4, 0x0c], uint16(60), prefixed(''), prefixed(topic), prefixed('will')),
  );
  await client.expect('connack');
  await client.expectClosed();
  await watcher.publish(topic, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

test('[MQTT-3.1.2-8] the will is not published before its connection ends', async () => {
  const topic = uniqueTopic();
  const watcher = await watcherOf(topic);
  const client = await broker.open({ will: { topic, payload: 'will', qos: 1 } });
  await client.publish(topic, 'alive', { qos: 1 });
  await watcher.expectMessage(topic, 'alive');
  client.end();
  await watcher.expectMessage(topic, 'will');
});

for (const qos of [0, 1, 2] as const) {
  test(`[MQTT-3.1.2-9] [MQTT-3.1.2-14] a will of QoS ${qos} is published at that QoS, bytes unchanged`, async () => {
    const topic = uniqueTopic();
    const watcher = await watcherOf(topic);
    const payload = Buffer.from([0x00, 0xff, 0xed, 0xa0, 0x80, 0x0a]);
    const client = await broker.open({ will: { topic, payload, qos } });
    client.end();
    const message = await watcher.expect('publish');
    assert.equal(message.qos, qos);
    assert.deepEqual(message.payload, payload);
    await watcher.acknowledge(message);
  });
}

test('[MQTT-3.1.2-9] an empty will message is a message', async () => {
  const topic = uniqueTopic();
  const watcher = await watcherOf(topic);
  const client = await broker.connect();
  client.send(
    frame(
      0x10,
      prefixed('MQTT'),
      [4, 0x06],
      uint16(60),
      prefixed(uniqueClientId()),
      prefixed(topic),
      prefixed(''),
    ),
  );
  await client.expect('connack');
  client.end();
  await watcher.expectMessage(topic, '');
});

test('[MQTT-3.1.2-9] a will topic with a wildcard is not published to', async () => {
  const root = uniqueTopic();
  const watcher = await watcherOf(`${root}/#`, 1);
  const client = await broker.connect();
  client.sendConnect({ will: { topic: `${root}/+`, payload: 'will', qos: 1 } });
  await client.expectClosed();
  await watcher.publish(`${root}/live`, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

test('[MQTT-3.1.2-10] a will is published once: not again at the end of the next connection', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const watcher = await watcherOf(topic, 1);
  const first = await broker.open({ clientId, clean: false, will: { topic, payload: 'will', qos: 1 } });
  first.end();
  await watcher.expectMessage(topic, 'will');
  const second = await broker.open({ clientId, clean: false });
  second.end();
  const third = await broker.open({ clientId, clean: false });
  await third.publish(topic, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

test('[MQTT-3.1.2-10] after DISCONNECT the will is gone for good, also for the next connection of the session', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const watcher = await watcherOf(topic, 1);
  const first = await broker.open({ clientId, clean: false, will: { topic, payload: 'will', qos: 1 } });
  await first.disconnect();
  const second = await broker.open({ clientId, clean: false });
  const third = await broker.open({ clientId, clean: false });
  await second.expectClosed();
  await third.publish(topic, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

test('[MQTT-3.1.2-10] each connection has the will of its own CONNECT', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const watcher = await watcherOf(topic, 1);
  const first = await broker.open({ clientId, will: { topic, payload: 'first', qos: 1 } });
  const second = await broker.open({ clientId, will: { topic, payload: 'second', qos: 1 } });
  await first.expectClosed();
  await watcher.expectMessage(topic, 'first');
  second.end();
  await watcher.expectMessage(topic, 'second');
});

test('[MQTT-3.1.2-12] without a will nothing is published when the connection is lost', async () => {
  const root = uniqueTopic();
  const clientId = uniqueClientId();
  const watcher = await watcherOf('#', 1);
  const client = await broker.open({ clientId });
  client.destroy();
  // The takeover, or the new session, can only come after the broker is done with the old connection.
  const next = await broker.open({ clientId });
  await next.publish(`${root}/live`, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

for (const qos of [0, 1, 2] as const) {
  test(`[MQTT-3.1.2-16] a QoS ${qos} will without will retain is not retained`, async () => {
    const topic = uniqueTopic();
    const watcher = await watcherOf(topic);
    const client = await broker.open({ will: { topic, payload: 'will', qos, retain: false } });
    client.end();
    await watcher.expectMessage(topic, 'will');
    const later = await watcherOf(topic);
    await later.publish(topic, 'last', { qos: 1 });
    assert.deepEqual(await messagesBefore(later, 'last'), []);
  });

  test(`[MQTT-3.1.2-17] a QoS ${qos} will with will retain is retained`, async () => {
    const topic = uniqueTopic();
    const watcher = await watcherOf(topic);
    const client = await broker.open({ will: { topic, payload: 'will', qos, retain: true } });
    client.end();
    const live = await watcher.expectMessage(topic, 'will');
    assert.equal(live.retain, false);
    const later = await watcherOf(topic);
    const kept = await later.expectMessage(topic, 'will');
    assert.equal(kept.retain, true);
    assert.equal(kept.qos, qos);
  });
}
