// Receive Maximum both ways: sections 3.3.4 and 4.9.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, RawClient, type Received, uint16, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic, withBroker } from '../../support/suite.js';
import { publishFrame, reasonOf, useBroker } from './support.js';

const broker = useBroker();

/** A subscriber with this Receive Maximum for whom ten messages were published; the first of them have arrived. */
async function stalled(qos: 1 | 2, receiveMaximum: number) {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const properties = { receiveMaximum, sessionExpiryInterval: 60 };
  const client = await broker.open({ clientId, properties });
  await client.subscribe(topic, qos);
  const publisher = await broker.open();
  for (let index = 0; index < 10; index++) await publisher.publish(topic, `${index}`, { qos });
  const first: Received<'publish'>[] = [];
  for (let index = 0; index < receiveMaximum; index++) first.push(await client.expect('publish'));
  return { topic, clientId, properties, client, publisher, first };
}

describe('the broker keeps to the Receive Maximum of a client', () => {
  test('[MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2] QoS 1: no more than that many, one more for each PUBACK', async () => {
    const { client, first } = await stalled(1, 3);
    await client.expectNothing(100);
    let open = first.map(({ messageId }) => messageId!);
    let next = 3;
    while (next < 10) {
      client.send({ cmd: 'puback', messageId: open[0]! });
      const message = await client.expect('publish');
      assert.equal(message.payload.toString(), `${next}`);
      await client.expectQuiet();
      open = [...open.slice(1), message.messageId!];
      next += 1;
    }
  });

  test('[MQTT-3.3.4-9] [MQTT-4.9.0-2] QoS 2: PUBCOMP gives room, PUBREC does not', async () => {
    const { client, first } = await stalled(2, 2);
    client.send({ cmd: 'pubrec', messageId: first[0]!.messageId! });
    await client.expect('pubrel');
    await client.expectNothing(100);
    client.send({ cmd: 'pubcomp', messageId: first[0]!.messageId! });
    assert.equal((await client.expect('publish')).payload.toString(), '2');
    await client.expectQuiet();
  });

  test('[MQTT-3.3.4-9] a PUBREC of 0x80 or more gives room', async () => {
    const { client, first } = await stalled(2, 2);
    client.send(frame(0x50, uint16(first[0]!.messageId!), [0x80]));
    assert.equal((await client.expect('publish')).payload.toString(), '2');
    await client.expectQuiet();
  });

  test('[MQTT-3.3.4-9] a PUBACK of 0x80 or more gives room', async () => {
    const { client, first } = await stalled(1, 1);
    client.send(frame(0x40, uint16(first[0]!.messageId!), [0x80]));
    assert.equal((await client.expect('publish')).payload.toString(), '1');
    await client.expectQuiet();
  });

  test('[MQTT-3.3.4-9] an ack that answers nothing gives no room', async () => {
    const { client } = await stalled(1, 1);
    client.send({ cmd: 'puback', messageId: 60_000 });
    await client.expectNothing(100);
  });

  test('[MQTT-3.3.4-10] [MQTT-4.9.0-3] with the quota used up, other packets are answered and QoS 0 goes on', async () => {
    const { topic, client, publisher } = await stalled(1, 1);
    await client.barrier();
    const other = uniqueTopic();
    assert.deepEqual(await client.subscribe(other), [0]);
    await publisher.publish(topic, 'QoS 0', { qos: 0 });
    await publisher.publish(other, 'also QoS 0', { qos: 0 });
    await client.expectMessage(topic, 'QoS 0');
    await client.expectMessage(other, 'also QoS 0');
    await client.publish(uniqueTopic(), 'out', { qos: 1 });
    await client.publish(uniqueTopic(), 'out', { qos: 2 });
    assert.equal(reasonOf(await client.unsubscribe(other)), 0);
  });

  test('[MQTT-3.3.4-9] [MQTT-4.4.0-1] what is sent again on a new connection counts', async () => {
    const { clientId, properties, client, first } = await stalled(1, 2);
    client.destroy();
    const again = await broker.open({ clientId, clean: false, properties });
    for (const { messageId } of first) {
      const message = await again.expect('publish');
      assert.deepEqual([message.messageId, message.dup], [messageId, true]);
    }
    await again.expectNothing(100);
    again.send({ cmd: 'puback', messageId: first[0]!.messageId! });
    assert.equal((await again.expect('publish')).payload.toString(), '2');
  });

  test('[MQTT-3.3.4-9] a smaller maximum on the new connection holds from the first packet', async () => {
    const { clientId, client } = await stalled(1, 4);
    client.destroy();
    const properties = { receiveMaximum: 1, sessionExpiryInterval: 60 };
    const again = await broker.open({ clientId, clean: false, properties });
    for (let index = 0; index < 10; index++) {
      const message = await again.expect('publish');
      assert.equal(message.payload.toString(), `${index}`);
      await again.expectQuiet();
      again.send({ cmd: 'puback', messageId: message.messageId! });
    }
  });

  test('[MQTT-3.3.4-9] PUBREL packets that are open count against it too', async () => {
    const { clientId, properties, client, first } = await stalled(2, 1);
    client.send({ cmd: 'pubrec', messageId: first[0]!.messageId! });
    await client.expect('pubrel');
    client.destroy();
    const again = await broker.open({ clientId, clean: false, properties });
    assert.equal((await again.expect('pubrel')).messageId, first[0]!.messageId);
    await again.expectNothing(100);
    again.send({ cmd: 'pubcomp', messageId: first[0]!.messageId! });
    assert.equal((await again.expect('publish')).payload.toString(), '1');
  });
});

describe('a client that goes beyond the Receive Maximum of the broker', () => {
  // PUBACK comes as soon as a message is kept, so only QoS 2 without PUBREL can be held open from outside.
  test('[MQTT-3.3.4-7] gets DISCONNECT 0x93 for one message too many', async () => {
    await withBroker({ mqtt: { receiveMaximum: 3 } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      const topic = uniqueTopic();
      for (let packetId = 1; packetId <= 3; packetId++) {
        client.send(publishFrame(topic, { qos: 2, packetId }));
        await client.expect('pubrec');
      }
      client.send(publishFrame(topic, { qos: 2, packetId: 4 }));
      await client.expectDisconnect(0x93);
    });
  });

  test('[MQTT-3.3.4-7] [MQTT-4.9.0-1] may go on for ever within it', async () => {
    await withBroker({ mqtt: { receiveMaximum: 3 } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      const topic = uniqueTopic();
      for (let round = 0; round < 5; round++) {
        for (let packetId = 1; packetId <= 3; packetId++)
          client.send(publishFrame(topic, { qos: 2, packetId }));
        for (let packetId = 1; packetId <= 3; packetId++) await client.expect('pubrec');
        for (let packetId = 1; packetId <= 3; packetId++) client.send({ cmd: 'pubrel', messageId: packetId });
        for (let packetId = 1; packetId <= 3; packetId++) await client.expect('pubcomp');
        await client.publish(topic, 'x', { qos: 1 });
      }
    });
  });

  test('[MQTT-4.3.3-10] a PUBLISH repeated on a new connection of the session is not one too many', async () => {
    await withBroker({ mqtt: { receiveMaximum: 1 } }, async ({ port }) => {
      const clientId = uniqueClientId();
      const properties = { sessionExpiryInterval: 60 };
      const first = await RawClient.open(port, { version: 5, clientId, properties });
      const topic = uniqueTopic();
      first.send(publishFrame(topic, { qos: 2, packetId: 1 }));
      await first.expect('pubrec');
      first.destroy();
      const second = await RawClient.open(port, { version: 5, clientId, clean: false, properties });
      second.send(publishFrame(topic, { qos: 2, packetId: 1, dup: true }));
      assert.ok(reasonOf(await second.expect('pubrec')) < 0x80);
      second.send({ cmd: 'pubrel', messageId: 1 });
      assert.equal(reasonOf(await second.expect('pubcomp')), 0);
    });
  });

  test('[MQTT-4.3.3-10] a repeated PUBLISH of an open identifier is not one too many', async () => {
    await withBroker({ mqtt: { receiveMaximum: 1 } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      const topic = uniqueTopic();
      for (const dup of [false, true]) {
        client.send(publishFrame(topic, { qos: 2, packetId: 1, dup }));
        assert.ok(reasonOf(await client.expect('pubrec')) < 0x80);
      }
      // QoS 0 never counts.
      await client.publish(topic, 'QoS 0');
    });
  });
});
