// UNSUBSCRIBE and UNSUBACK of MQTT 3.1.1.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, uint16 } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

for (const flags of [0, 1, 3, 10, 15]) {
  test(`[MQTT-3.10.1-1] UNSUBSCRIBE with flags ${flags} ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(0xa0 | flags, uint16(1), prefixed('a')));
    await client.expectClosed();
  });
}

test('[MQTT-3.10.3-1] a filter longer than the packet ends the connection', async () => {
  const client = await broker.open();
  client.send(frame(0xa2, uint16(1), prefixed('a'), [0x00, 0x05, 0x61]));
  await client.expectClosed();
});

test('[MQTT-3.10.3-2] UNSUBSCRIBE without a filter ends the connection', async () => {
  const client = await broker.open();
  client.send(frame(0xa2, uint16(1)));
  await client.expectClosed();
});

test('[MQTT-3.10.4-1] filters are compared as they are written: a filter that merely covers another leaves it alone', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  await client.subscribe([`${root}/a`, `${root}/+`], 1);
  await client.unsubscribe(`${root}/#`, `${root}/A`, `${root}/a/`, `/${root}/a`, root);
  await client.publish(`${root}/a`, 'still', { qos: 1 });
  await client.expectMessage(`${root}/a`, 'still');
});

test('[MQTT-3.10.4-1] unsubscribing a wildcard ends the subscription with that very filter only', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  await client.subscribe([`${root}/+`, `${root}/a`], 1);
  await client.unsubscribe(`${root}/+`);
  const publisher = await broker.open();
  await publisher.publish(`${root}/b`, 'no longer', { qos: 1 });
  await publisher.publish(`${root}/a`, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(client, 'last'), []);
});

test('[MQTT-3.10.4-2] nothing published after UNSUBACK is delivered', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  const marker = uniqueTopic();
  await client.subscribe([topic, marker], 1);
  const publisher = await broker.open();
  await publisher.publish(topic, 'before', { qos: 1 });
  await client.expectMessage(topic, 'before');
  await client.unsubscribe(topic);
  for (const qos of [0, 1, 2] as const) await publisher.publish(topic, 'after', { qos });
  await publisher.publish(marker, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(client, 'last'), []);
});

test('[MQTT-3.10.4-2] another client with the same filter is not affected', async () => {
  const topic = uniqueTopic();
  const [leaving, staying] = [await broker.open(), await broker.open()];
  await leaving.subscribe(topic, 1);
  await staying.subscribe(topic, 1);
  await leaving.unsubscribe(topic);
  await leaving.publish(topic, 'for one', { qos: 1 });
  await staying.expectMessage(topic, 'for one');
  await leaving.expectQuiet();
});

test('[MQTT-3.10.4-3] a QoS 2 delivery begun before UNSUBSCRIBE is completed after it', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 2);
  const publisher = await broker.open();
  await publisher.publish(topic, 'begun', { qos: 2 });
  const message = await client.expect('publish');
  await client.unsubscribe(topic);
  client.send({ cmd: 'pubrec', messageId: message.messageId! });
  assert.equal((await client.expect('pubrel')).messageId, message.messageId);
  client.send({ cmd: 'pubcomp', messageId: message.messageId! });
  await client.expectQuiet();
});

test('[MQTT-3.10.4-3] a QoS 1 delivery begun before UNSUBSCRIBE is repeated until acknowledged', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueTopic('client');
  const client = await broker.open({ clientId, clean: false });
  await client.subscribe(topic, 1);
  const publisher = await broker.open();
  await publisher.publish(topic, 'begun', { qos: 1 });
  const first = await client.expect('publish');
  await client.unsubscribe(topic);
  await client.disconnect();
  const back = await broker.open({ clientId, clean: false });
  const again = await back.expect('publish');
  assert.equal(again.messageId, first.messageId);
  assert.equal(again.dup, true);
  assert.equal(again.payload.toString(), 'begun');
});

test('[MQTT-3.10.4-4] [MQTT-2.3.1-7] UNSUBACK answers with the identifier of UNSUBSCRIBE', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic);
  for (const id of [1, 255, 256, 65_535]) {
    client.send(frame(0xa2, uint16(id), prefixed(topic)));
    assert.deepEqual((await client.expect('unsuback')).raw, frame(0xb0, uint16(id)));
  }
});

test('[MQTT-3.10.4-5] UNSUBACK comes where there was nothing to unsubscribe', async () => {
  const client = await broker.open();
  client.send(frame(0xa2, uint16(77), prefixed(uniqueTopic()), prefixed(`${uniqueTopic()}/#`)));
  assert.deepEqual((await client.expect('unsuback')).raw, frame(0xb0, uint16(77)));
});

test('[MQTT-3.10.4-6] several filters get one UNSUBACK, and each is unsubscribed', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  await client.subscribe([`${root}/a`, `${root}/b/#`, `${root}/+/c`, `${root}/last`], 1);
  client.send(
    frame(0xa2, uint16(5), prefixed(`${root}/a`), prefixed(`${root}/b/#`), prefixed(`${root}/+/c`)),
  );
  assert.deepEqual((await client.expect('unsuback')).raw, frame(0xb0, uint16(5)));
  const publisher = await broker.open();
  for (const topic of ['a', 'b', 'b/x', 'x/c'])
    await publisher.publish(`${root}/${topic}`, topic, { qos: 1 });
  await publisher.publish(`${root}/last`, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(client, 'last'), []);
});
