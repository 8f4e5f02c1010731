// CONNECT: sections 3.1.0 to 3.1.4. What a refusal looks like is in connack.test.ts, sessions and wills have files of their own.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  frame,
  hex,
  prefixed,
  type RawClient,
  uint16,
  uniqueClientId,
  wrongConnect,
} from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import {
  block,
  CLEAN_START,
  connectFrame,
  expectRefused,
  P,
  PASSWORD,
  property,
  propertyOf,
  publishFrame,
  subscribe,
  subscribeFrame,
  USER_NAME,
  useBroker,
  WILL,
  WILL_RETAIN,
} from './support.js';

const broker = useBroker();

/** The connection ends; before that the broker may, but need not, answer with this CONNACK and nothing else. */
async function expectClosedAfterConnack(client: RawClient, reasonCode: number): Promise<void> {
  await client.closed();
  const codes = client.queue.map((packet) => (packet.cmd === 'connack' ? packet.reasonCode : packet.cmd));
  assert.deepEqual(codes, codes.length === 0 ? [] : [reasonCode]);
}

describe('before CONNECT', () => {
  const packets: [string, Uint8Array][] = [
    ['PINGREQ', frame(0xc0)],
    ['PUBLISH', publishFrame(uniqueTopic(), { payload: 'x' })],
    ['SUBSCRIBE', subscribeFrame(1, [[uniqueTopic(), 0]])],
    ['PUBACK', frame(0x40, uint16(1))],
    ['DISCONNECT', frame(0xe0)],
    ['AUTH', frame(0xf0, [0x18], block(property(P.authMethod, 'x')))],
    ['CONNACK', frame(0x20, [0, 0, 0])],
  ];
  for (const [name, bytes] of packets) {
    test(`[MQTT-3.1.0-1] [MQTT-3.14.0-1] a first packet that is ${name} ends the connection without a word`, async () => {
      const client = await broker.dial();
      client.send(bytes);
      await client.expectClosed();
    });
  }
});

test('[MQTT-3.1.0-2] a second CONNECT gets DISCONNECT 0x82', async () => {
  const client = await broker.open();
  client.sendConnect({ version: 5 });
  await client.expectDisconnect(0x82);
});

for (const name of ['mqtt', 'MQTX', 'MQTTT', '', 'HTTP']) {
  test(`[MQTT-3.1.2-1] the protocol name ${JSON.stringify(name)} ends the connection`, async () => {
    const client = await broker.dial();
    client.send(wrongConnect({ protocolName: name, level: 5 }));
    await expectClosedAfterConnack(client, 0x84);
  });
}

for (const level of [6, 127, 255]) {
  test(`[MQTT-3.1.2-2] protocol version ${level} is answered by CONNACK 0x84 and the end of the connection`, async () => {
    const client = await broker.dial();
    client.send(wrongConnect({ level }));
    await expectClosedAfterConnack(client, 0x84);
  });
}

test('[MQTT-3.1.2-3] the reserved connect flag makes CONNECT malformed', async () => {
  const client = await broker.dial();
  client.send(connectFrame({ flags: CLEAN_START | 0x01 }));
  await expectRefused(client, 0x81);
});

describe('flags and payload of CONNECT', () => {
  const willFields = [block(), prefixed('a/will'), prefixed('gone')];
  const malformed: [string, Uint8Array][] = [
    [
      '[MQTT-3.1.2-9] a will flag without any will in the payload',
      connectFrame({ flags: CLEAN_START | WILL }),
    ],
    [
      '[MQTT-3.1.2-9] a will flag without a will payload',
      connectFrame({ flags: CLEAN_START | WILL, payload: [block(), prefixed('a/will')] }),
    ],
    [
      '[MQTT-3.1.2-9] a will in the payload without will properties',
      connectFrame({ flags: CLEAN_START | WILL, payload: [prefixed('a/will'), prefixed('gone')] }),
    ],
    ['[MQTT-3.1.2-9] a will in the payload without its flag', connectFrame({ payload: willFields })],
    [
      '[MQTT-3.1.2-12] will QoS 3',
      connectFrame({ flags: CLEAN_START | WILL | (3 << 3), payload: willFields }),
    ],
    ['[MQTT-3.1.2-16] a user name without its flag', connectFrame({ payload: [prefixed('user')] })],
    ['[MQTT-3.1.2-17] a user name flag without user name', connectFrame({ flags: CLEAN_START | USER_NAME })],
    [
      '[MQTT-3.1.2-18] a password without its flag',
      connectFrame({ flags: CLEAN_START | USER_NAME, payload: [prefixed('user'), prefixed('secret')] }),
    ],
    ['[MQTT-3.1.2-19] a password flag without password', connectFrame({ flags: CLEAN_START | PASSWORD })],
    [
      '[MQTT-3.1.2-19] both flags with a user name only',
      connectFrame({ flags: CLEAN_START | USER_NAME | PASSWORD, payload: [prefixed('user')] }),
    ],
    ['[MQTT-3.1.3-3] no client identifier', wrongConnect({ level: 5, payload: [] })],
    ['[MQTT-3.1.3-3] half a client identifier', wrongConnect({ level: 5, payload: [[0x00, 0x05, 0x61]] })],
    [
      '[MQTT-3.1.3-11] a will topic that is not UTF-8',
      connectFrame({
        flags: CLEAN_START | WILL,
        payload: [block(), prefixed([0x61, 0xff]), prefixed('gone')],
      }),
    ],
    [
      '[MQTT-3.1.3-12] a user name that is not UTF-8',
      connectFrame({ flags: CLEAN_START | USER_NAME, payload: [prefixed([0xc3, 0x28])] }),
    ],
    ['[MQTT-3.1.4-1] [MQTT-2.1.3-1] fixed header flags', wrongConnect({ level: 5, firstByte: 0x11 })],
    ['[MQTT-3.1.4-1] an end before the connect flags', frame(0x10, prefixed('MQTT'), [5])],
    ['[MQTT-3.1.4-1] an end before the keep alive', frame(0x10, prefixed('MQTT'), [5, CLEAN_START, 0])],
    ['[MQTT-3.1.4-1] an end before the properties', frame(0x10, prefixed('MQTT'), [5, CLEAN_START, 0, 60])],
    [
      '[MQTT-3.1.4-1] a property length beyond the packet',
      wrongConnect({ level: 5, properties: [0x7f], payload: [prefixed('id')] }),
    ],
    [
      '[MQTT-3.1.4-1] a property length of five bytes',
      wrongConnect({ level: 5, properties: [0xff, 0xff, 0xff, 0xff, 0x01] }),
    ],
    ['[MQTT-3.1.4-1] bytes behind the payload', connectFrame({ payload: [[0x00]] })],
  ];
  for (const [title, bytes] of malformed) {
    test(`${title}: CONNACK 0x81`, async () => {
      const client = await broker.dial();
      client.send(bytes);
      await expectRefused(client, 0x81);
    });
  }

  test('[MQTT-3.1.2-11] will QoS without a will is refused', async () => {
    for (const qos of [1, 2, 3]) {
      const client = await broker.dial();
      client.send(connectFrame({ flags: CLEAN_START | (qos << 3) }));
      await expectRefused(client, 0x81, 0x82);
    }
  });

  test('[MQTT-3.1.2-13] will retain without a will is refused', async () => {
    const client = await broker.dial();
    client.send(connectFrame({ flags: CLEAN_START | WILL_RETAIN }));
    await expectRefused(client, 0x81, 0x82);
  });

  test('[MQTT-3.1.2-12] will QoS 0, 1 and 2 are accepted', async () => {
    for (const qos of [0, 1, 2]) {
      const client = await broker.dial();
      client.send(connectFrame({ flags: CLEAN_START | WILL | (qos << 3), payload: willFields }));
      assert.equal((await client.expect('connack')).reasonCode, 0);
      await client.disconnect();
    }
  });

  test('[MQTT-3.1.2-19] a password without a user name is well formed', async () => {
    const client = await broker.dial();
    client.send(connectFrame({ flags: CLEAN_START | PASSWORD, payload: [prefixed('token')] }));
    // Whether it lets anyone in is for the authentication to say, but it may not be called malformed as in 3.1.1.
    const { reasonCode } = await client.expect('connack');
    assert.ok([0x00, 0x86, 0x87].includes(reasonCode ?? -1), `reason code ${reasonCode}`);
  });

  test('[MQTT-3.1.3-1] client identifier, will properties, will topic, will payload, user name, password', async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    await subscriber.subscribe(topic);
    const client = await broker.dial();
    client.send(
      connectFrame({
        flags: CLEAN_START | WILL,
        payload: [block(property(P.contentType, 'text')), prefixed(topic), prefixed('the will')],
      }),
    );
    assert.equal((await client.expect('connack')).reasonCode, 0);
    client.destroy();
    const will = await subscriber.expectMessage(topic, 'the will');
    assert.equal(propertyOf(will, P.contentType), 'text');
  });

  test('[MQTT-3.1.3-11] a will topic that is no topic name is refused', async () => {
    for (const topic of ['', 'a/+', '#']) {
      const client = await broker.dial();
      client.send(
        connectFrame({ flags: CLEAN_START | WILL, payload: [block(), prefixed(topic), prefixed('gone')] }),
      );
      await expectRefused(client, 0x90, 0x81, 0x82);
    }
  });

  test('a will payload that is not the UTF-8 it promises to be is refused with 0x99', async () => {
    const client = await broker.dial();
    const properties = block(property(P.payloadFormat, 1));
    client.send(
      connectFrame({
        flags: CLEAN_START | WILL,
        payload: [properties, prefixed('a/will'), prefixed([0xff, 0xfe])],
      }),
    );
    await expectRefused(client, 0x99);
  });
});

describe('the client identifier', () => {
  test('[MQTT-3.1.3-4] [MQTT-3.1.3-8] one that is not UTF-8 is refused', async () => {
    for (const bytes of [[0x61, 0xff], [0xed, 0xa0, 0x80], [0x00]]) {
      const client = await broker.dial();
      client.send(wrongConnect({ level: 5, payload: [prefixed(bytes)] }));
      await expectRefused(client, 0x81, 0x85);
    }
  });

  test('[MQTT-3.1.3-5] 1 to 23 of all digits and letters are accepted', async () => {
    const ids = ['0', '0123456789abcdefghijklm', 'nopqrstuvwxyzABCDEFGHIJ', 'KLMNOPQRSTUVWXYZ'];
    for (const clientId of ids) {
      const client = await broker.open({ clientId });
      await client.disconnect();
    }
  });

  test('[MQTT-3.1.3-6] [MQTT-3.2.2-16] an empty one is replaced by a unique one', async () => {
    const first = await broker.open({ clientId: '' });
    const second = await broker.open({ clientId: '' });
    const ids = [first, second].map((client) => propertyOf(client.connack!, P.assignedClientId));
    for (const id of ids) assert.ok(typeof id === 'string' && id.length > 0, `assigned ${id}`);
    assert.notEqual(ids[0], ids[1]);
    await first.expectQuiet();
  });

  test('[MQTT-3.1.3-6] [MQTT-3.2.2-16] an empty one without Clean Start is replaced too, and finds no session', async () => {
    const client = await broker.dial();
    client.send(connectFrame({ clientId: '', flags: 0 }));
    const connack = await client.expect('connack');
    assert.deepEqual([connack.reasonCode, connack.sessionPresent], [0, false]);
    assert.ok(propertyOf(connack, P.assignedClientId));
  });

  test('[MQTT-3.1.3-7] an assigned one is the name of the session', async () => {
    const properties = { sessionExpiryInterval: 60 };
    const client = await broker.open({ clientId: '', properties });
    const clientId = propertyOf(client.connack!, P.assignedClientId) as string;
    const topic = uniqueTopic();
    await client.subscribe(topic, 1);
    await client.disconnect();

    const again = await broker.open({ clientId, clean: false, properties });
    assert.equal(again.connack?.sessionPresent, true);
    assert.equal(propertyOf(again.connack!, P.assignedClientId), undefined);
    await again.publish(topic, 'hello', { qos: 1 });
    await again.expectMessage(topic, 'hello');
  });

  test('[MQTT-3.1.3-2] sessions of different identifiers are different sessions', async () => {
    const properties = { sessionExpiryInterval: 60 };
    const clientId = uniqueClientId('Case');
    await (await broker.open({ clientId, properties })).disconnect();
    const other = await broker.open({ clientId: clientId.toLowerCase(), clean: false, properties });
    assert.equal(other.connack?.sessionPresent, false);
    const same = await broker.open({ clientId, clean: false, properties });
    assert.equal(same.connack?.sessionPresent, true);
    await other.expectQuiet();
  });
});

describe('a client identifier that is connected already', () => {
  test('[MQTT-3.1.4-3] the older connection gets DISCONNECT 0x8E', async () => {
    const clientId = uniqueClientId();
    const older = await broker.open({ clientId });
    const newer = await broker.open({ clientId });
    await older.expectDisconnect(0x8e);
    await newer.expectQuiet();
  });

  test('[MQTT-3.1.4-3] the newer connection takes the subscriptions over', async () => {
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const topic = uniqueTopic();
    const older = await broker.open({ clientId, properties });
    await older.subscribe(topic, 1);
    const newer = await broker.open({ clientId, clean: false, properties });
    await older.expectDisconnect(0x8e);
    assert.equal(newer.connack?.sessionPresent, true);
    await newer.publish(topic, 'to the newer', { qos: 1 });
    await newer.expectMessage(topic, 'to the newer');
  });

  test('[MQTT-3.1.4-3] ten connections of one identifier at once leave one', async () => {
    const clientId = uniqueClientId();
    const clients = await Promise.all(Array.from({ length: 10 }, () => broker.dial()));
    for (const client of clients) client.sendConnect({ version: 5, clientId });
    for (const client of clients) await client.find('connack');
    const last = await broker.open({ clientId });
    for (const client of clients) await client.expectDisconnect(0x8e);
    await last.expectQuiet();
  });

  test('[MQTT-3.1.4-4] Clean Start of the newer connection ends the session of the older', async () => {
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const topic = uniqueTopic();
    const older = await broker.open({ clientId, properties });
    await older.subscribe(topic);
    const newer = await broker.open({ clientId, clean: true, properties });
    await older.expectDisconnect(0x8e);
    assert.equal(newer.connack?.sessionPresent, false);
    await newer.publish(topic, 'to nobody');
    await newer.expectQuiet();
  });
});

test('[MQTT-3.1.4-5] a CONNECT that is accepted is answered by CONNACK 0x00', async () => {
  const client = await broker.dial();
  const connack = await client.mqttConnect({ version: 5 });
  assert.equal(connack.reasonCode, 0, hex(connack.raw));
});

test('[MQTT-3.1.4-6] what follows a refused CONNECT is not processed', async () => {
  const topic = uniqueTopic();
  const witness = await broker.open();
  await witness.subscribe(topic);
  const client = await broker.dial();
  client.send(
    connectFrame({}, property(P.authMethod, 'none-such')),
    publishFrame(topic, { retain: true, payload: 'not to be seen' }),
  );
  await expectRefused(client, 0x8c);
  await subscribe(witness, topic, { rh: 0 });
  await witness.expectQuiet();
});

test('[MQTT-3.2.0-1] packets in the same write as CONNECT are answered, after CONNACK', async () => {
  const client = await broker.dial();
  const topic = uniqueTopic();
  client.send(
    connectFrame({}),
    subscribeFrame(7, [[topic, 0]]),
    publishFrame(topic, { payload: 'early' }),
    frame(0xc0),
  );
  assert.equal((await client.expect('connack')).reasonCode, 0);
  // SUBACK waits until the subscription is safe; what need not wait may come before it.
  assert.equal((await client.find('suback')).messageId, 7);
  await client.find('pingresp');
  await client.expectMessage(topic, 'early');
});

test('a CONNECT that arrives byte by byte is a CONNECT', async () => {
  const client = await broker.dial();
  for (const byte of connectFrame({}, property(P.userProperty, ['name', 'value']))) client.send([byte]);
  assert.equal((await client.expect('connack')).reasonCode, 0);
});
