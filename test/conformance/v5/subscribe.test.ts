// SUBSCRIBE and SUBACK: sections 3.8 and 3.9. Options, identifiers and shared subscriptions have files of their own.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, hex, prefixed, uint16 } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import {
  block,
  expectFilterRefused,
  P,
  propertiesOf,
  property,
  subscribe,
  subscribeFrame,
  useBroker,
} from './support.js';

const broker = useBroker();

/** Table 3-8: what a SUBACK may say. */
const SUBACK_CODES = new Set([0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]);

test('[MQTT-3.8.1-1] [MQTT-2.1.3-1] any other flags than 0010 are malformed', async () => {
  for (let flags = 0; flags < 16; flags++) {
    if (flags === 2) continue;
    const client = await broker.open();
    client.send(frame(0x80 | flags, uint16(1), block(), prefixed('a'), [0]));
    await client.expectDisconnect(0x81);
  }
});

describe('the payload', () => {
  test('[MQTT-3.8.3-1] a filter that is not UTF-8 is malformed', async () => {
    for (const bytes of [[0xff], [0xed, 0xa0, 0x80], [0x61, 0x00], [0xc0, 0xaf]]) {
      const client = await broker.open();
      client.send(subscribeFrame(1, [[Buffer.from(bytes), 0]]));
      await client.expectDisconnect(0x81);
    }
  });

  test('[MQTT-3.8.3-2] none at all is a protocol error', async () => {
    const client = await broker.open();
    client.send(subscribeFrame(1, []));
    await client.expectDisconnect(0x82);
  });

  test('[MQTT-3.8.3-2] a filter without options, and half a filter, are malformed', async () => {
    for (const tail of [prefixed('a'), Buffer.from([0x00]), Buffer.from([0x00, 0x05, 0x61])]) {
      const client = await broker.open();
      client.send(frame(0x82, uint16(1), block(), tail));
      await client.expectDisconnect(0x81);
    }
  });

  for (const bits of [0x40, 0x80, 0xc0]) {
    test(`[MQTT-3.8.3-5] the reserved bits 0x${bits.toString(16)} of the options are malformed`, async () => {
      const client = await broker.open();
      client.send(subscribeFrame(1, [['a', bits]]));
      await client.expectDisconnect(0x81);
    });
  }

  test('[MQTT-3.8.3-5] QoS 3 and Retain Handling 3 are protocol errors', async () => {
    for (const options of [0x03, 0x30, 0x31]) {
      const client = await broker.open();
      client.send(subscribeFrame(1, [['a', options]]));
      await client.expectDisconnect(0x82, 0x81);
    }
  });

  test('[MQTT-2.2.1-3] packet identifier 0 is refused', async () => {
    const client = await broker.open();
    client.send(subscribeFrame(0, [['a', 0]]));
    await client.expectDisconnect(0x81, 0x82);
  });

  test('[MQTT-2.2.2-1] without a property length it is malformed', async () => {
    const client = await broker.open();
    client.send(frame(0x82, uint16(1)));
    await client.expectDisconnect(0x81, 0x82);
  });
});

describe('SUBACK', () => {
  test('[MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.2.1-6] has the packet identifier of the SUBSCRIBE', async () => {
    const client = await broker.open();
    for (const packetId of [1, 256, 65_535]) {
      client.send(subscribeFrame(packetId, [[uniqueTopic(), 0]]));
      const suback = await client.expect('suback');
      assert.equal(suback.messageId, packetId);
      assert.equal(suback.raw[0], 0x90);
      assert.deepEqual(propertiesOf(suback), []);
    }
  });

  test('[MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] one code for each filter, in their order', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    const qos = [2, 0, 1, 1, 0, 2] as const;
    client.send(
      subscribeFrame(
        9,
        qos.map((value, index) => [`${topic}/${index}`, value]),
      ),
    );
    const suback = await client.expect('suback');
    assert.deepEqual([suback.messageId, suback.granted], [9, [...qos]]);
    for (const [index, value] of qos.entries()) {
      await client.publish(`${topic}/${index}`, 'x', { qos: 2 });
      assert.equal((await client.expectMessage(`${topic}/${index}`, 'x')).qos, value);
    }
  });

  test('[MQTT-3.8.4-5] the same filter twice in one packet is the later one', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(
      subscribeFrame(9, [
        [topic, 2],
        [topic, 0],
      ]),
    );
    assert.deepEqual((await client.expect('suback')).granted, [2, 0]);
    await client.publish(topic, 'x', { qos: 2 });
    const message = await client.expectMessage(topic, 'x');
    assert.equal(message.qos, 0);
    await client.expectQuiet();
  });

  test('[MQTT-3.8.4-7] [MQTT-3.9.3-2] [MQTT-3.9.3-1] a filter that fails does not cost the others, and says so with a code of the table', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(
      subscribeFrame(9, [
        [`${topic}/1`, 1],
        [`${topic}/a#`, 0],
        [`${topic}/2`, 0],
      ]),
    );
    const { granted, raw } = await client.expect('suback');
    assert.deepEqual([granted[0], granted[2], granted.length], [1, 0, 3], hex(raw));
    assert.ok(granted[1]! >= 0x80);
    for (const code of granted) assert.ok(SUBACK_CODES.has(code), hex(raw));
    await client.publish(`${topic}/2`, 'x');
    await client.expectMessage(`${topic}/2`, 'x');
  });

  test('[MQTT-3.8.4-5] SUBACK packets of two SUBSCRIBE packets come in their order', async () => {
    const client = await broker.open();
    client.send(subscribeFrame(7, [[uniqueTopic(), 0]]), subscribeFrame(3, [[uniqueTopic(), 0]]));
    assert.equal((await client.expect('suback')).messageId, 7);
    assert.equal((await client.expect('suback')).messageId, 3);
  });

  const refused: [string, string][] = [
    ...['a#', '#/b', 'a/#/b', 'a/b#', '##'].map((filter): [string, string] => ['[MQTT-4.7.1-1]', filter]),
    ...['a+', '+a/b', 'a/+b/c', '++'].map((filter): [string, string] => ['[MQTT-4.7.1-2]', filter]),
    ['[MQTT-4.7.3-1]', ''],
  ];
  for (const [id, filter] of refused) {
    test(`${id} the filter ${JSON.stringify(filter)} is refused`, async () => {
      const client = await broker.open();
      client.send(subscribeFrame(1, [[filter, 0]]));
      await expectFilterRefused(client, 0x8f, 0x81, 0x82);
    });
  }
});

describe('deliveries', () => {
  for (const granted of [0, 1, 2] as const) {
    for (const published of [0, 1, 2] as const) {
      const expected = Math.min(granted, published);
      test(`[MQTT-3.8.4-8] granted ${granted}, published ${published}: delivered ${expected}`, async () => {
        const topic = uniqueTopic();
        const client = await broker.open();
        await client.subscribe(topic, granted);
        const publisher = await broker.open();
        await publisher.publish(topic, 'x', { qos: published });
        assert.equal((await client.expectMessage(topic, 'x')).qos, expected);
        await client.expectQuiet();
      });
    }
  }

  test('[MQTT-3.8.4-3] subscribing again replaces QoS, options and identifier, and delivers once', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, topic, { qos: 0, id: 7 });
    await subscribe(client, topic, { qos: 2 });
    await client.publish(topic, 'x', { qos: 2 });
    const message = await client.expectMessage(topic, 'x');
    assert.equal(message.qos, 2);
    assert.deepEqual(propertiesOf(message), []);
    await subscribe(client, topic, { qos: 1, id: 8 });
    await client.publish(topic, 'y', { qos: 2 });
    const next = await client.expectMessage(topic, 'y');
    assert.deepEqual([next.qos, propertiesOf(next)], [1, [[P.subscriptionId, 8]]]);
    await client.expectQuiet();
  });

  test('[MQTT-3.8.4-3] a filter that matches the same is another subscription', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await subscribe(client, `${topic}/a`, { qos: 1, id: 1 });
    await subscribe(client, `${topic}/+`, { qos: 1, id: 2 });
    await client.publish(`${topic}/a`, 'x', { qos: 1 });
    await client.publish(`${topic}/a`, 'last', { qos: 1 });
    const messages = await messagesBefore(client, 'last');
    const ids = messages.flatMap((message) => propertiesOf(message).map(([, value]) => value as number));
    assert.deepEqual(ids.sort(), [1, 2]);
  });

  test('[MQTT-3.8.4-4] replacing a subscription loses and repeats no message', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(topic, 1);
    const publisher = await broker.open();
    const count = 200;
    for (let index = 0; index < count; index++) {
      publisher.sendPublish(topic, `${index}`, { qos: 1 });
      if (index % 20 === 0) client.send(subscribeFrame(1000 + index, [[topic, 1]]));
    }
    for (let index = 0; index < count; index++) {
      const message = await client.find('publish');
      assert.equal(message.payload.toString(), `${index}`);
      client.send({ cmd: 'puback', messageId: message.messageId! });
    }
    for (let index = 0; index < count; index += 20) await client.find('suback');
    await client.expectQuiet();
  });

  test('user properties of SUBSCRIBE are accepted and concern nobody else', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    const user = property(P.userProperty, ['name', 'value']);
    client.send(subscribeFrame(1, [[topic, 0]], [user, user]));
    assert.deepEqual((await client.expect('suback')).granted, [0]);
    await client.publish(topic, 'x');
    assert.deepEqual(propertiesOf(await client.expectMessage(topic, 'x')), []);
  });
});
