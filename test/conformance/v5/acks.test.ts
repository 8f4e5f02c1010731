// The QoS flows: sections 3.4 to 3.7, 4.3, 4.4 and 4.6, with the broker on either side of them.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  frame,
  hex,
  type RawClient,
  type Received,
  uint16,
  uniqueClientId,
} from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import { block, P, property, propertyOf, publishFrame, reasonOf, useBroker } from './support.js';

const broker = useBroker();

async function pair(topic: string, qos: 0 | 1 | 2): Promise<{ subscriber: RawClient; publisher: RawClient }> {
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, qos);
  return { subscriber, publisher: await broker.open() };
}

function payloads(messages: Received<'publish'>[]): string[] {
  return messages.map(({ payload }) => payload.toString());
}

describe('QoS 1 from a client', () => {
  test('[MQTT-4.3.2-4] [MQTT-2.2.1-5] PUBACK has the packet identifier of its PUBLISH', async () => {
    const client = await broker.open();
    for (const packetId of [1, 256, 65_535]) {
      client.send(publishFrame(uniqueTopic(), { qos: 1, packetId }));
      assert.equal((await client.expect('puback')).messageId, packetId);
    }
  });

  test('[MQTT-4.3.2-5] after PUBACK the same identifier is a new message, with DUP too', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 1);
    for (const [payload, dup] of [
      ['first', false],
      ['second', true],
      ['third', false],
    ] as const) {
      publisher.send(publishFrame(topic, { qos: 1, packetId: 77, dup, payload }));
      assert.equal((await publisher.expect('puback')).messageId, 77);
      await subscriber.expectMessage(topic, payload);
    }
  });

  test('PUBACK packets come in the order of their PUBLISH packets', async () => {
    const client = await broker.open();
    const topic = uniqueTopic();
    const ids = [9, 3, 65_535, 1, 4];
    client.send(...ids.map((packetId) => publishFrame(topic, { qos: 1, packetId })));
    for (const packetId of ids) assert.equal((await client.expect('puback')).messageId, packetId);
  });
});

describe('QoS 2 from a client', () => {
  test('[MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-2.2.1-5] PUBREC and PUBCOMP have the packet identifier of the PUBLISH', async () => {
    const client = await broker.open();
    for (const packetId of [1, 256, 65_535]) {
      client.send(publishFrame(uniqueTopic(), { qos: 2, packetId }));
      assert.equal((await client.expect('pubrec')).messageId, packetId);
      client.send({ cmd: 'pubrel', messageId: packetId });
      const pubcomp = await client.expect('pubcomp');
      assert.deepEqual([pubcomp.messageId, reasonOf(pubcomp)], [packetId, 0]);
    }
  });

  test('[MQTT-4.3.3-10] until PUBREL a repeated PUBLISH gets PUBREC again and is delivered once', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 2);
    for (const dup of [false, true, true]) {
      publisher.send(publishFrame(topic, { qos: 2, packetId: 5, dup, payload: 'once' }));
      const pubrec = await publisher.expect('pubrec');
      assert.equal(pubrec.messageId, 5);
      assert.ok(reasonOf(pubrec) < 0x80, hex(pubrec.raw));
    }
    publisher.send({ cmd: 'pubrel', messageId: 5 });
    await publisher.expect('pubcomp');
    await publisher.publish(topic, 'last', { qos: 2 });
    assert.deepEqual(payloads(await messagesBefore(subscriber, 'last')), ['once']);
  });

  test('[MQTT-4.3.3-10] also over a new connection of the same session', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const subscriber = await broker.open();
    await subscriber.subscribe(topic, 2);
    const first = await broker.open({ clientId, properties });
    first.send(publishFrame(topic, { qos: 2, packetId: 5, payload: 'once' }));
    await first.expect('pubrec');
    first.destroy();
    const second = await broker.open({ clientId, clean: false, properties });
    second.send(publishFrame(topic, { qos: 2, packetId: 5, dup: true, payload: 'once' }));
    assert.ok(reasonOf(await second.expect('pubrec')) < 0x80);
    second.send({ cmd: 'pubrel', messageId: 5 });
    assert.equal(reasonOf(await second.expect('pubcomp')), 0);
    await second.publish(topic, 'last', { qos: 2 });
    assert.deepEqual(payloads(await messagesBefore(subscriber, 'last')), ['once']);
  });

  test('[MQTT-4.3.3-12] after PUBCOMP the same identifier is a new message', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 2);
    for (const payload of ['first', 'second']) {
      await publisher.publish(topic, payload, { qos: 2, messageId: 5, dup: payload === 'second' });
      await subscriber.expectMessage(topic, payload);
    }
  });

  test('[MQTT-4.3.3-11] [MQTT-3.7.2-1] a PUBREL nobody waits for is answered with PUBCOMP 0x92', async () => {
    const client = await broker.open();
    client.send({ cmd: 'pubrel', messageId: 1234 });
    const pubcomp = await client.expect('pubcomp');
    assert.deepEqual([pubcomp.messageId, reasonOf(pubcomp)], [1234, 0x92]);
    await client.expectQuiet();
  });

  test('[MQTT-4.3.3-13] an expired message ends its exchange as usual', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    const properties = [property(P.messageExpiry, 0)];
    client.send(publishFrame(topic, { qos: 2, packetId: 8, properties, payload: 'expired' }));
    assert.ok(reasonOf(await client.expect('pubrec')) < 0x80);
    client.send({ cmd: 'pubrel', messageId: 8 });
    const pubcomp = await client.expect('pubcomp');
    assert.deepEqual([pubcomp.messageId, reasonOf(pubcomp)], [8, 0]);
  });

  test('a PUBREL with reason code 0x92 ends the exchange too', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(publishFrame(topic, { qos: 2, packetId: 8, payload: 'x' }));
    await client.expect('pubrec');
    client.send(frame(0x62, uint16(8), [0x92]));
    assert.equal((await client.expect('pubcomp')).messageId, 8);
    client.send({ cmd: 'pubrel', messageId: 8 });
    assert.equal(reasonOf(await client.expect('pubcomp')), 0x92);
  });

  test('a QoS 2 message waits for no PUBREL of another', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    client.send(publishFrame(topic, { qos: 2, packetId: 1 }), publishFrame(topic, { qos: 2, packetId: 2 }));
    await client.expect('pubrec');
    await client.expect('pubrec');
    client.send({ cmd: 'pubrel', messageId: 2 }, { cmd: 'pubrel', messageId: 1 });
    assert.equal((await client.expect('pubcomp')).messageId, 2);
    assert.equal((await client.expect('pubcomp')).messageId, 1);
  });
});

describe('QoS 1 and 2 towards a client', () => {
  for (const [qos, title] of [
    [1, '[MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.2-2] QoS 1: free identifiers, not zero, DUP 0'],
    [2, '[MQTT-2.2.1-4] [MQTT-4.3.3-1] [MQTT-4.3.3-2] QoS 2: free identifiers, not zero, DUP 0'],
  ] as const) {
    test(title, async () => {
      const topic = uniqueTopic();
      const { subscriber, publisher } = await pair(topic, qos);
      const ids = new Set<number>();
      for (let index = 0; index < 20; index++) {
        await publisher.publish(topic, `${index}`, { qos });
        const message = await subscriber.expect('publish');
        assert.deepEqual([message.qos, message.dup, message.payload.toString()], [qos, false, `${index}`]);
        assert.ok(message.messageId! > 0);
        ids.add(message.messageId!);
      }
      assert.equal(ids.size, 20);
    });
  }

  test('[MQTT-2.2.1-4] an identifier in flight is not given away, after more messages than there are identifiers', async () => {
    // The other end is held open by one message; 65,536 more go round the whole space of identifiers.
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 1);
    await publisher.publish(topic, 'held', { qos: 1 });
    const held = await subscriber.expect('publish');
    const rounds = 66;
    const perRound = 1000;
    for (let round = 0; round < rounds; round++) {
      const messages = Array.from({ length: perRound }, (_, index) =>
        publishFrame(topic, { qos: 1, packetId: index + 1 }),
      );
      publisher.send(Buffer.concat(messages));
      for (let index = 0; index < perRound; index++) {
        const message = await subscriber.expect('publish');
        assert.notEqual(message.messageId, held.messageId);
        assert.notEqual(message.messageId, 0);
        subscriber.send({ cmd: 'puback', messageId: message.messageId! });
      }
      for (let index = 0; index < perRound; index++) await publisher.expect('puback');
    }
  });

  test('[MQTT-4.3.3-4] [MQTT-3.6.1-1] PUBREC is answered by PUBREL of the same identifier, with flags 0010', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 2);
    await publisher.publish(topic, 'x', { qos: 2 });
    const message = await subscriber.expect('publish');
    subscriber.send({ cmd: 'pubrec', messageId: message.messageId! });
    const pubrel = await subscriber.expect('pubrel');
    assert.deepEqual([pubrel.messageId, reasonOf(pubrel), pubrel.raw[0]], [message.messageId, 0, 0x62]);
    subscriber.send({ cmd: 'pubcomp', messageId: message.messageId! });
    await subscriber.expectQuiet();
  });

  test('[MQTT-4.3.3-4] [MQTT-4.4.0-2] a PUBREC of 0x80 or more gets no PUBREL', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 2);
    await publisher.publish(topic, 'x', { qos: 2 });
    const message = await subscriber.expect('publish');
    subscriber.send(frame(0x50, uint16(message.messageId!), [0x83]));
    await subscriber.expectQuiet();
  });

  test('[MQTT-3.6.2-1] a PUBREC nobody waits for gets PUBREL 0x92', async () => {
    const client = await broker.open();
    client.send({ cmd: 'pubrec', messageId: 999 });
    const pubrel = await client.expect('pubrel');
    assert.deepEqual([pubrel.messageId, reasonOf(pubrel)], [999, 0x92]);
  });

  test('a PUBACK and a PUBCOMP nobody waits for cost nothing', async () => {
    const client = await broker.open();
    client.send({ cmd: 'puback', messageId: 999 }, { cmd: 'pubcomp', messageId: 998 });
    await client.expectQuiet();
  });

  test('[MQTT-4.3.3-5] a PUBCOMP with reason code 0x92 ends the exchange too', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 2);
    await first.publish(topic, 'x', { qos: 2 });
    const { messageId } = await first.expect('publish');
    first.send({ cmd: 'pubrec', messageId: messageId! });
    await first.expect('pubrel');
    first.send(frame(0x70, uint16(messageId!), [0x92]));
    await first.expectQuiet();
    first.destroy();
    const second = await broker.open({ clientId, clean: false, properties });
    await second.publish(topic, 'last', { qos: 2 });
    assert.deepEqual(payloads(await messagesBefore(second, 'last')), []);
  });

  test('an ack of the wrong kind does not end the flow of its identifier', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const subscriber = await broker.open({ clientId, properties });
    await subscriber.subscribe(topic, 2);
    await subscriber.publish(topic, 'kept', { qos: 2 });
    const { messageId } = await subscriber.expect('publish');
    // PUBACK is for QoS 1, PUBCOMP comes after PUBREL: the broker may close on them, but not take them for a PUBREC.
    subscriber.send({ cmd: 'puback', messageId: messageId! }, { cmd: 'pubcomp', messageId: messageId! });
    subscriber.end();
    await subscriber.closed();
    const again = await broker.open({ clientId, clean: false, properties });
    const message = await again.expectMessage(topic, 'kept');
    assert.deepEqual([message.messageId, message.dup], [messageId, true]);
  });

  test('[MQTT-3.4.2-1] acks with their reason code, with and without a property length, are taken', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 1);
    const tails = [[], [0x00], [0x10], [0x00, 0x00], [0x10, ...block(property(P.reasonString, 'none'))]];
    for (const tail of tails) {
      await publisher.publish(topic, 'x', { qos: 1 });
      const { messageId } = await subscriber.expect('publish');
      subscriber.send(frame(0x40, uint16(messageId!), tail));
      await subscriber.expectQuiet();
    }
  });

  for (const [name, firstByte] of [
    ['[MQTT-3.4.2-1] PUBACK', 0x40],
    ['[MQTT-3.5.2-1] PUBREC', 0x50],
    ['[MQTT-3.6.2-1] PUBREL', 0x62],
    ['[MQTT-3.7.2-1] PUBCOMP', 0x70],
  ] as const) {
    test(`${name} with a reason code that is not of its table is refused`, async () => {
      for (const code of [0x01, 0x7f, 0xff]) {
        const client = await broker.open();
        client.send(frame(firstByte, uint16(1), [code]));
        await client.expectDisconnect(0x81, 0x82);
      }
    });
  }
});

describe('flags of the fixed header', () => {
  const rows: [string, number, number][] = [
    ['[MQTT-2.1.3-1] PUBACK', 0x40, 0],
    ['[MQTT-2.1.3-1] PUBREC', 0x50, 0],
    ['[MQTT-3.6.1-1] PUBREL', 0x60, 2],
    ['[MQTT-2.1.3-1] PUBCOMP', 0x70, 0],
  ];
  for (const [name, type, right] of rows) {
    test(`${name} with any other flags is malformed`, async () => {
      for (let flags = 0; flags < 16; flags++) {
        if (flags === right) continue;
        const client = await broker.open();
        client.send(frame(type | flags, uint16(1)));
        await client.expectDisconnect(0x81);
      }
    });
  }
});

describe('what is sent again', () => {
  const properties = { sessionExpiryInterval: 60 };

  test('[MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.2-3] QoS 1 without PUBACK: the same identifiers and order, DUP 1', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const publisher = await broker.open();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 1);
    const ids: number[] = [];
    for (const payload of ['0', '1', '2', '3', '4']) {
      await publisher.publish(topic, payload, { qos: 1 });
      ids.push((await first.expect('publish')).messageId!);
    }
    // One in the middle is acknowledged: the others are not.
    first.send({ cmd: 'puback', messageId: ids[2]! });
    await first.barrier();
    first.destroy();

    const second = await broker.open({ clientId, clean: false, properties });
    for (const index of [0, 1, 3, 4]) {
      const message = await second.expectMessage(topic, `${index}`);
      assert.deepEqual([message.messageId, message.dup, message.qos], [ids[index], true, 1]);
    }
    await publisher.publish(topic, 'new', { qos: 1 });
    assert.equal((await second.expectMessage(topic, 'new')).dup, false);
  });

  test('[MQTT-4.4.0-1] [MQTT-4.3.3-3] QoS 2 without PUBREC: PUBLISH again, the same identifier, DUP 1', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const publisher = await broker.open();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 2);
    await publisher.publish(topic, 'x', { qos: 2 });
    const { messageId } = await first.expect('publish');
    first.destroy();
    const second = await broker.open({ clientId, clean: false, properties });
    const again = await second.expectMessage(topic, 'x');
    assert.deepEqual([again.messageId, again.dup, again.qos], [messageId, true, 2]);
  });

  test('[MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1] QoS 2 after PUBREC: PUBREL again, and no PUBLISH', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const publisher = await broker.open();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 2);
    await publisher.publish(topic, 'x', { qos: 2 });
    const { messageId } = await first.expect('publish');
    first.send({ cmd: 'pubrec', messageId: messageId! });
    await first.expect('pubrel');
    first.destroy();
    const second = await broker.open({ clientId, clean: false, properties });
    assert.equal((await second.expect('pubrel')).messageId, messageId);
    second.send({ cmd: 'pubcomp', messageId: messageId! });
    await publisher.publish(topic, 'next', { qos: 2 });
    await second.expectMessage(topic, 'next');
  });

  test('[MQTT-4.4.0-1] nothing once it was acknowledged', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const publisher = await broker.open();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 2);
    for (const qos of [1, 2] as const) {
      await publisher.publish(topic, `${qos}`, { qos });
      await first.expectMessage(topic, `${qos}`);
    }
    await first.barrier();
    first.destroy();
    const second = await broker.open({ clientId, clean: false, properties });
    await publisher.publish(topic, 'last', { qos: 2 });
    assert.deepEqual(payloads(await messagesBefore(second, 'last')), []);
  });

  for (const [qos, type] of [
    [1, 0x40],
    [2, 0x50],
  ] as const) {
    test(`[MQTT-4.4.0-2] nothing after a QoS ${qos} acknowledgement of 0x80 or more`, async () => {
      const topic = uniqueTopic();
      const clientId = uniqueClientId();
      const publisher = await broker.open();
      const first = await broker.open({ clientId, properties });
      await first.subscribe(topic, qos);
      await publisher.publish(topic, 'refused', { qos });
      const { messageId } = await first.expect('publish');
      first.send(frame(type, uint16(messageId!), [0x97]));
      await first.expectQuiet();
      first.destroy();
      const second = await broker.open({ clientId, clean: false, properties });
      await publisher.publish(topic, 'last', { qos });
      assert.deepEqual(payloads(await messagesBefore(second, 'last')), []);
    });
  }

  test('[MQTT-4.4.0-1] [MQTT-2.2.1-4] the identifiers of a resend stay taken for new messages', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueClientId();
    const publisher = await broker.open();
    const first = await broker.open({ clientId, properties });
    await first.subscribe(topic, 1);
    await publisher.publish(topic, 'old', { qos: 1 });
    await first.expect('publish');
    first.destroy();
    const second = await broker.open({ clientId, clean: false, properties });
    const ids = [(await second.expect('publish')).messageId];
    for (const payload of ['1', '2', '3']) {
      await publisher.publish(topic, payload, { qos: 1 });
      ids.push((await second.expect('publish')).messageId);
    }
    assert.equal(new Set(ids).size, 4);
  });

  test('[MQTT-4.4.0-1] nothing is sent again while the connection lasts', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 2);
    await publisher.publish(topic, '1', { qos: 1 });
    await publisher.publish(topic, '2', { qos: 2 });
    await subscriber.expect('publish');
    await subscriber.expect('publish');
    await subscriber.expectNothing(1200);
  });
});

describe('order', () => {
  for (const qos of [0, 1, 2] as const) {
    test(`[MQTT-4.6.0-5] [MQTT-4.6.0-6] QoS ${qos}: messages arrive in the order they were published in`, async () => {
      const topic = uniqueTopic();
      const { subscriber, publisher } = await pair(topic, qos);
      const wanted = Array.from({ length: 200 }, (_, index) => `${index}`);
      if (qos === 2) for (const payload of wanted) await publisher.publish(topic, payload, { qos });
      else for (const payload of wanted) publisher.sendPublish(topic, payload, { qos });
      for (const payload of wanted) await subscriber.expectMessage(topic, payload);
    });
  }

  test('[MQTT-4.6.0-5] PUBREL packets come in the order of the PUBREC packets', async () => {
    const topic = uniqueTopic();
    const { subscriber, publisher } = await pair(topic, 2);
    const ids: number[] = [];
    for (const payload of ['a', 'b', 'c']) {
      await publisher.publish(topic, payload, { qos: 2 });
      ids.push((await subscriber.expect('publish')).messageId!);
    }
    for (const messageId of ids) subscriber.send({ cmd: 'pubrec', messageId });
    for (const messageId of ids) assert.equal((await subscriber.expect('pubrel')).messageId, messageId);
  });
});

/** What a CONNACK with the limits of a default configuration takes. */
const SMALLEST_LIMIT = 24;

// A Reason String or User Property that does not fit is left out. Each ack is first provoked without a limit, to see what it is like.
describe('Maximum Packet Size of the client', () => {
  const provoked: [string, (client: RawClient) => Promise<Received>][] = [
    [
      '[MQTT-3.4.2-2] [MQTT-3.4.2-3] PUBACK',
      (client) => {
        const properties = [property(P.payloadFormat, 1)];
        client.send(publishFrame(uniqueTopic(), { qos: 1, properties, payload: [0xff] }));
        return client.expect('puback');
      },
    ],
    [
      '[MQTT-3.5.2-2] [MQTT-3.5.2-3] PUBREC',
      (client) => {
        const properties = [property(P.payloadFormat, 1)];
        client.send(publishFrame(uniqueTopic(), { qos: 2, properties, payload: [0xff] }));
        return client.expect('pubrec');
      },
    ],
    [
      '[MQTT-3.6.2-2] [MQTT-3.6.2-3] PUBREL',
      (client) => {
        client.send({ cmd: 'pubrec', messageId: 999 });
        return client.expect('pubrel');
      },
    ],
    [
      '[MQTT-3.7.2-2] [MQTT-3.7.2-3] PUBCOMP',
      (client) => {
        client.send({ cmd: 'pubrel', messageId: 999 });
        return client.expect('pubcomp');
      },
    ],
  ];
  for (const [name, provoke] of provoked) {
    test(`${name} has no reason string or user property that would make it too large`, async () => {
      const free = await provoke(await broker.open());
      assert.ok(reasonOf(free) >= 0x80, hex(free.raw));
      // CONNACK has to fit as well, so the limit cannot be as small as the ack.
      const limit = Math.max(free.raw.length - 1, SMALLEST_LIMIT);
      const client = await broker.open({ properties: { maximumPacketSize: limit } });
      const ack = await provoke(client);
      assert.equal(reasonOf(ack), reasonOf(free));
      assert.ok(ack.raw.length <= limit, hex(ack.raw));
      if (free.raw.length > limit) assert.equal(propertyOf(ack, P.reasonString), undefined);
      assert.equal(propertyOf(ack, P.userProperty), undefined);
    });
  }

  test('without a limit, an ack that refuses says why in a reason string', async () => {
    const client = await broker.open();
    for (const [, provoke] of provoked) {
      const ack = await provoke(client);
      assert.equal(typeof propertyOf(ack, P.reasonString), 'string', `says not why: ${hex(ack.raw)}`);
    }
  });
});

describe('Request Problem Information 0', () => {
  test('[MQTT-3.1.2-29] acks carry their reason code and neither reason string nor user properties', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ properties: { requestProblemInformation: false } });
    const properties = [property(P.payloadFormat, 1)];
    client.send(publishFrame(topic, { qos: 1, properties, payload: [0xff] }));
    const acks: Received[] = [await client.expect('puback')];
    client.send(publishFrame(topic, { qos: 2, properties, payload: [0xff] }));
    acks.push(await client.expect('pubrec'));
    client.send({ cmd: 'pubrel', messageId: 999 });
    acks.push(await client.expect('pubcomp'));
    client.send({ cmd: 'pubrec', messageId: 999 });
    acks.push(await client.expect('pubrel'));
    acks.push(await client.unsubscribe(uniqueTopic()));
    client.send(frame(0x82, uint16(3), block(), [0x00, 0x01, 0x61, 0x00]));
    acks.push(await client.expect('suback'));
    for (const ack of acks) {
      assert.equal(propertyOf(ack, P.reasonString), undefined, hex(ack.raw));
      assert.equal(propertyOf(ack, P.userProperty), undefined, hex(ack.raw));
    }
    assert.deepEqual(acks.slice(0, 2).map(reasonOf), [0x99, 0x99]);
  });

  test('[MQTT-3.1.2-29] user properties of a message are not problem information', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ properties: { requestProblemInformation: false } });
    await client.subscribe(topic);
    client.send(publishFrame(topic, { properties: [property(P.userProperty, ['a', 'b'])], payload: 'x' }));
    const message = await client.expectMessage(topic, 'x');
    assert.deepEqual(propertyOf(message, P.userProperty), ['a', 'b']);
  });
});
