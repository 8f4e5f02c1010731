// Maximum Packet Size both ways: sections 3.1.2.11.4 and 3.2.2.3.6.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, hex, RawClient, type Received, uint16, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic, withBroker } from '../../support/suite.js';
import {
  block,
  connectFrame,
  expectRefused,
  nextPacket,
  P,
  property,
  propertyOf,
  publishFrame,
  subscribeFrame,
  useBroker,
} from './support.js';

const broker = useBroker();

describe('towards a client', () => {
  test('[MQTT-3.1.2-24] [MQTT-3.1.2-25] a message one byte too large is dropped, one that just fits is delivered', async () => {
    for (const qos of [0, 1, 2] as const) {
      const topic = uniqueTopic();
      const limit = 100;
      // What a delivery takes besides its payload: fixed header, topic, packet identifier, property length.
      const overhead = 2 + 2 + topic.length + (qos === 0 ? 0 : 2) + 1;
      const client = await broker.open({ properties: { maximumPacketSize: limit, receiveMaximum: 1 } });
      await client.subscribe(topic, qos);
      const publisher = await broker.open();
      // More that are too large than Receive Maximum: each must count as delivered, or the last would never come.
      for (let index = 0; index < 3; index++)
        await publisher.publish(topic, 'x'.repeat(limit - overhead + 1), { qos });
      const fits = 'y'.repeat(limit - overhead);
      await publisher.publish(topic, fits, { qos });
      const message = await client.expectMessage(topic, fits);
      assert.equal(message.raw.length, limit);
      await client.expectQuiet();
    }
  });

  test('[MQTT-3.1.2-25] others get the message that is too large for one', async () => {
    const topic = uniqueTopic();
    const small = await broker.open({ properties: { maximumPacketSize: 60 } });
    const large = await broker.open();
    for (const client of [small, large]) await client.subscribe(topic, 1);
    const payload = 'x'.repeat(100);
    await large.publish(topic, payload, { qos: 1 });
    await large.publish(topic, 'last', { qos: 1 });
    await large.expectMessage(topic, payload);
    await large.expectMessage(topic, 'last');
    await small.expectMessage(topic, 'last');
  });

  test('[MQTT-3.1.2-24] retained messages and those of a session are measured too', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const publisher = await broker.open();
    const properties = { maximumPacketSize: 60, sessionExpiryInterval: 60 };
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 1);
    await first.disconnect();
    await publisher.publish(topic, 'x'.repeat(100), { qos: 1, retain: true });
    await publisher.publish(topic, 'small', { qos: 1 });
    const second = await broker.open({ clientId, clean: false, properties });
    await second.expectMessage(topic, 'small');
    await second.subscribe(topic, 1);
    await second.expectQuiet();
  });

  test('[MQTT-3.1.2-24] properties count', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ properties: { maximumPacketSize: 100 } });
    await client.subscribe(topic);
    const publisher = await broker.open();
    const properties = [property(P.userProperty, ['name', 'x'.repeat(100)])];
    publisher.send(publishFrame(topic, { properties, payload: 'too large' }));
    await publisher.publish(topic, 'last');
    await client.expectMessage(topic, 'last');
  });

  test('[MQTT-3.1.2-24] [MQTT-3.1.2-25] a topic alias makes no message too large that would fit without', async () => {
    const topic = uniqueTopic();
    const limit = 100;
    const overhead = 2 + 2 + topic.length + 1;
    const properties = { maximumPacketSize: limit, topicAliasMaximum: 5 };
    const client = await broker.open({ properties });
    await client.subscribe(topic);
    const publisher = await broker.open();
    for (let less = 0; less <= 4; less++) {
      for (let round = 0; round < 2; round++) {
        const payload = `${less}`.repeat(limit - overhead - less);
        await publisher.publish(topic, payload);
        const message = await client.expect('publish');
        assert.ok(message.raw.length <= limit, hex(message.raw));
        assert.equal(message.payload.toString(), payload);
      }
    }
  });

  test('[MQTT-3.1.2-24] a limit too small for CONNACK is kept as well', async () => {
    for (const limit of [1, 4, 5, 10]) {
      const client = await broker.dial();
      // Whether it serves such a client or closes is its choice; the PINGRESP or the close is the end of its answers.
      client.send(connectFrame({}, property(P.maximumPacketSize, limit)), frame(0xc0));
      const answers: Received[] = [];
      while (answers.at(-1)?.cmd !== 'pingresp' && (!client.isClosed || client.queue.length > 0)) {
        const answer = await nextPacket(client).catch(() => undefined);
        if (answer === undefined) break;
        answers.push(answer);
      }
      assert.ok(answers.at(-1)?.cmd === 'pingresp' || client.isClosed, 'neither served nor closed');
      for (const { raw } of answers) assert.ok(raw.length <= limit, `${hex(raw)} for a limit of ${limit}`);
    }
  });

  test('[MQTT-3.9.2-1] [MQTT-3.9.2-2] SUBACK leaves out what would not fit', async () => {
    const filters = Array.from({ length: 3 }, (): [string, number] => ['a#', 0]);
    const bytes = subscribeFrame(3, filters);
    const free = await broker.open();
    free.send(bytes);
    const whole = await free.expect('suback');
    const limit = Math.max(whole.raw.length - 1, 24);
    const client = await broker.open({ properties: { maximumPacketSize: limit } });
    client.send(bytes);
    const suback = await client.expect('suback');
    assert.ok(suback.raw.length <= limit, hex(suback.raw));
    assert.deepEqual(suback.granted, whole.granted);
  });

  test('[MQTT-3.11.2-1] [MQTT-3.11.2-2] UNSUBACK leaves out what would not fit', async () => {
    const free = await broker.open();
    const whole = await free.unsubscribe(uniqueTopic());
    const limit = Math.max(whole.raw.length - 1, 24);
    const client = await broker.open({ properties: { maximumPacketSize: limit } });
    const unsuback = await client.unsubscribe(uniqueTopic());
    assert.ok(unsuback.raw.length <= limit, hex(unsuback.raw));
    assert.equal(unsuback.raw.at(-1), 0x11);
  });

  test('[MQTT-3.14.2-3] [MQTT-3.14.2-4] DISCONNECT leaves out what would not fit', async () => {
    const wrong = frame(0x82, uint16(0), block(), [0x00, 0x01, 0x61, 0x00]);
    const free = await broker.open();
    free.send(wrong);
    const whole = await free.expectDisconnect(0x81, 0x82);
    assert.equal(typeof propertyOf(whole, P.reasonString), 'string', `says not why: ${hex(whole.raw)}`);
    const limit = Math.max(whole.raw.length - 1, 24);
    const client = await broker.open({ properties: { maximumPacketSize: limit } });
    client.send(wrong);
    const disconnect = await client.expectDisconnect(0x81, 0x82);
    assert.ok(disconnect.raw.length <= limit, hex(disconnect.raw));
    assert.equal(disconnect.reasonCode, whole.reasonCode);
  });
});

describe('towards the broker', () => {
  test('[MQTT-3.2.2-15] a packet larger than announced gets DISCONNECT 0x95, one that just fits is taken', async () => {
    await withBroker({ limits: { packetBytes: 200 } }, async ({ port }) => {
      const topic = uniqueTopic();
      const payloadOf = (total: number) => 'x'.repeat(total - 3 - 2 - topic.length - 1);
      const client = await RawClient.open(port, { version: 5 });
      assert.equal(propertyOf(client.connack!, P.maximumPacketSize), 200);
      await client.subscribe(topic);
      const fits = publishFrame(topic, { payload: payloadOf(200) });
      assert.equal(fits.length, 200);
      client.send(fits);
      await client.expectMessage(topic, payloadOf(200));
      client.send(publishFrame(topic, { payload: payloadOf(201) }));
      await client.expectDisconnect(0x95);
    });
  });

  test('[MQTT-3.2.2-15] it is refused by its length, before its content has come', async () => {
    await withBroker({ limits: { packetBytes: 200 } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      client.send([0x30, 0xff, 0xff, 0xff, 0x7f]);
      await client.expectDisconnect(0x95);
    });
  });

  test('[MQTT-3.2.2-15] a CONNECT that is too large is refused with 0x95, or without a word', async () => {
    await withBroker({ limits: { packetBytes: 200 } }, async ({ port }) => {
      const client = await RawClient.connect(port, { version: 5 });
      client.send(connectFrame({ clientId: 'x'.repeat(200) }));
      await client.closed();
      const answers = client.queue.map((packet) =>
        packet.cmd === 'connack' ? packet.reasonCode : packet.cmd,
      );
      assert.ok(answers.length === 0 || (answers.length === 1 && answers[0] === 0x95), `${answers}`);
    });
  });

  test('Maximum Packet Size 0 is a protocol error', async () => {
    const client = await broker.dial();
    client.send(connectFrame({}, property(P.maximumPacketSize, 0)));
    await expectRefused(client, 0x82);
  });
});
