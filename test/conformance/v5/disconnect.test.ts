// DISCONNECT, of either side: section 3.14. Its effect on wills is in will.test.ts, that of a session expiry in session-expiry.test.ts.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, hex, prefixed, type RawClient, uint16, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import {
  block,
  P,
  propertiesOf,
  property,
  propertyOf,
  publishFrame,
  subscribeFrame,
  useBroker,
} from './support.js';

const broker = useBroker();

/** Table 3-10: what a server's DISCONNECT may say. */
const SERVER_CODES = new Set([
  0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
  0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
]);

describe('from a client', () => {
  const forms: [string, Uint8Array][] = [
    ['two bytes', frame(0xe0)],
    ['with a reason code', frame(0xe0, [0x00])],
    ['with a property length', frame(0xe0, [0x00], block())],
    ['with a reason string', frame(0xe0, [0x00], block(property(P.reasonString, 'bye')))],
    [
      'with user properties',
      frame(0xe0, [0x04], block(property(P.userProperty, ['a', 'b']), property(P.userProperty, ['a', 'b']))),
    ],
  ];
  for (const [name, bytes] of forms) {
    test(`[MQTT-3.14.4-2] DISCONNECT ${name} ends the connection without an answer`, async () => {
      const client = await broker.open();
      client.send(bytes);
      await client.expectClosed();
    });
  }

  test('every reason code a client may give is accepted', async () => {
    const codes = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    for (const code of codes) {
      const client = await broker.open();
      client.send(frame(0xe0, [code]));
      await client.expectClosed();
    }
  });

  for (const flags of [1, 2, 4, 8, 15]) {
    test(`[MQTT-3.14.1-1] flags ${flags} get DISCONNECT 0x81`, async () => {
      const client = await broker.open();
      client.send([0xe0 | flags, 0x00]);
      await client.expectDisconnect(0x81);
    });
  }

  test('[MQTT-3.14.2-1] a reason code that is not of its table is refused', async () => {
    for (const code of [0x01, 0x05, 0x7f, 0xff]) {
      const client = await broker.open();
      client.send(frame(0xe0, [code]));
      await client.expectDisconnect(0x81, 0x82);
    }
  });

  test('[MQTT-3.14.4-1] what follows it in the same write is not processed', async () => {
    const topic = uniqueTopic();
    const witness = await broker.open();
    await witness.subscribe(topic, 1);
    const client = await broker.open();
    client.send(frame(0xe0), publishFrame(topic, { qos: 1, payload: 'too late' }));
    await client.expectClosed();
    await witness.publish(topic, 'in time', { qos: 1 });
    await witness.expectMessage(topic, 'in time');
  });

  test('what precedes it in the same write is', async () => {
    const topic = uniqueTopic();
    const witness = await broker.open();
    await witness.subscribe(topic, 1);
    const client = await broker.open();
    client.send(publishFrame(topic, { qos: 0, payload: 'in time' }), frame(0xe0));
    await witness.expectMessage(topic, 'in time');
  });

  test('the connection ends with what was acknowledged on the way', async () => {
    const topic = uniqueTopic();
    const witness = await broker.open();
    await witness.subscribe(topic, 1);
    const client = await broker.open();
    client.send(publishFrame(topic, { qos: 1, packetId: 3, payload: 'in time' }), frame(0xe0));
    await witness.expectMessage(topic, 'in time');
    await client.closed();
  });
});

describe('from the broker', () => {
  const causes: [string, (client: RawClient) => void][] = [
    ['a malformed packet', (client) => client.send([0x00, 0x00])],
    ['a protocol error', (client) => client.send(subscribeFrame(1, []))],
    [
      'a topic alias',
      (client) => client.send(publishFrame('a', { properties: [property(P.topicAlias, 0)] })),
    ],
    [
      'a payload format',
      (client) =>
        client.send(publishFrame('a', { properties: [property(P.payloadFormat, 1)], payload: [0xff] })),
    ],
    ['a second CONNECT', (client) => client.sendConnect({ version: 5 })],
  ];
  for (const [name, cause] of causes) {
    test(`[MQTT-3.14.2-1] [MQTT-3.14.2-2] [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.2-1] for ${name}: a code of the table, no session expiry, nothing behind it, closed`, async () => {
      const client = await broker.open();
      cause(client);
      // Whatever else the client sends must not be answered any more.
      client.send([0xc0, 0x00]);
      await client.closed();
      assert.equal(client.queue.length, 1, client.queue.map(({ cmd }) => cmd).join());
      const [packet] = client.queue;
      assert.ok(packet?.cmd === 'disconnect');
      const code = packet.reasonCode ?? 0;
      assert.ok(code >= 0x80 && SERVER_CODES.has(code), hex(packet.raw));
      assert.equal(packet.raw[0], 0xe0);
      assert.equal(propertyOf(packet, P.sessionExpiry), undefined);
    });
  }

  test('it says why in a reason string, with Request Problem Information too', async () => {
    const client = await broker.open();
    client.send(frame(0x82, uint16(0), block(), prefixed('a'), [0]));
    const disconnect = await client.expectDisconnect(0x81, 0x82);
    assert.equal(typeof propertyOf(disconnect, P.reasonString), 'string');
  });

  test('[MQTT-3.14.2-2] a take-over is DISCONNECT 0x8E with no session expiry', async () => {
    const clientId = uniqueClientId();
    const properties = { sessionExpiryInterval: 60 };
    const client = await broker.open({ clientId, properties });
    await broker.open({ clientId, properties });
    const disconnect = await client.expectDisconnect(0x8e);
    assert.ok(!propertiesOf(disconnect).some(([id]) => id === P.sessionExpiry));
  });

  test('an older client is closed without a word', async () => {
    const client = await broker.open({ version: 4 });
    client.send([0x00, 0x00]);
    await client.expectClosed();
  });
});
