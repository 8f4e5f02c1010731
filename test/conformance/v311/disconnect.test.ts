// DISCONNECT of MQTT 3.1.1.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

for (const flags of [1, 2, 4, 8, 15]) {
  test(`[MQTT-3.14.1-1] DISCONNECT with flags ${flags} ends the connection, and does not count as one: the will is published`, async () => {
    const topic = uniqueTopic();
    const watcher = await broker.open();
    await watcher.subscribe(topic);
    const client = await broker.open({ will: { topic, payload: 'unclean' } });
    client.send([0xe0 | flags, 0x00]);
    await client.expectClosed();
    await watcher.expectMessage(topic, 'unclean');
  });
}

test('[MQTT-3.14.4-1] the broker closes after DISCONNECT where the client leaves its side open', async () => {
  const client = await broker.open();
  client.send([0xe0, 0x00]);
  await client.expectClosed();
});

test('[MQTT-3.14.4-2] what comes behind DISCONNECT is not acted upon', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  client.send([0xe0, 0x00], frame(0x31, prefixed(`${root}/behind`), Buffer.from('never')));
  await client.expectClosed();
  const watcher = await broker.open();
  await watcher.subscribe(`${root}/#`);
  await watcher.publish(`${root}/live`, 'last');
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

for (const clean of [true, false]) {
  test(`[MQTT-3.14.4-3] DISCONNECT drops the will, clean session ${clean ? 1 : 0}`, async () => {
    const topic = uniqueTopic();
    const watcher = await broker.open();
    await watcher.subscribe(topic, 1);
    const client = await broker.open({ clean, will: { topic, payload: 'will', qos: 1 } });
    await client.disconnect();
    await watcher.publish(topic, 'last', { qos: 1 });
    assert.deepEqual(await messagesBefore(watcher, 'last'), []);
  });
}

test('[MQTT-3.14.4-3] a retained will is dropped as well, in the same segment as the rest of the connection', async () => {
  const topic = uniqueTopic();
  const client = await broker.connect();
  client.sendConnect({ will: { topic, payload: 'will', qos: 1, retain: true } });
  client.send([0xe0, 0x00]);
  await client.expect('connack');
  await client.expectClosed();
  const later = await broker.open();
  await later.subscribe(topic, 1);
  await later.publish(topic, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(later, 'last'), []);
});
