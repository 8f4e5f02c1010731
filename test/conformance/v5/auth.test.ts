// Enhanced authentication: sections 3.15 and 4.12. gomq knows no method, so what is tested is that each is refused properly.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame } from '../../support/raw-client.js';
import { block, connectFrame, expectRefused, P, property, propertyOf, useBroker } from './support.js';

const broker = useBroker();
const METHOD = property(P.authMethod, 'SCRAM-SHA-1');

test('[MQTT-4.12.0-1] [MQTT-4.12.0-4] a method is refused with 0x8C, and the connection closed', async () => {
  const authData = property(P.authData, Buffer.from('client-first'));
  for (const properties of [[METHOD], [METHOD, authData], [property(P.authMethod, '')]]) {
    const client = await broker.dial();
    client.send(connectFrame({}, ...properties));
    const connack = await expectRefused(client, 0x8c);
    assert.equal(propertyOf(connack, P.authData), undefined);
  }
});

test('[MQTT-3.1.4-6] an AUTH behind a refused CONNECT is not answered', async () => {
  const client = await broker.dial();
  client.send(connectFrame({}, METHOD), frame(0xf0, [0x18], block(METHOD)));
  await expectRefused(client, 0x8c);
});

test('authentication data without a method is a protocol error', async () => {
  const client = await broker.dial();
  client.send(connectFrame({}, property(P.authData, Buffer.from('x'))));
  await expectRefused(client, 0x82);
});

test('a method that is not UTF-8 is malformed', async () => {
  const client = await broker.dial();
  client.send(connectFrame({}, property(P.authMethod, Buffer.from([0xff]))));
  await expectRefused(client, 0x81);
});

describe('AUTH on a connection without a method', () => {
  test('[MQTT-4.12.0-7] [MQTT-4.12.1-1] [MQTT-4.12.1-2] asks for what was never agreed: DISCONNECT 0x82', async () => {
    for (const reasonCode of [0x18, 0x19]) {
      const client = await broker.open();
      client.send(frame(0xf0, [reasonCode], block(METHOD)));
      await client.expectDisconnect(0x82);
    }
  });

  test('[MQTT-4.12.0-7] in its shortest form too', async () => {
    const client = await broker.open();
    client.send(frame(0xf0));
    await client.expectDisconnect(0x82);
  });

  test('[MQTT-3.15.1-1] with flags it is malformed', async () => {
    for (const flags of [1, 2, 4, 8, 15]) {
      const client = await broker.open();
      client.send(frame(0xf0 | flags, [0x18], block(METHOD)));
      await client.expectDisconnect(0x81);
    }
  });

  test('[MQTT-3.15.2-1] with a reason code that is not of its table it is refused', async () => {
    for (const reasonCode of [0x01, 0x17, 0x80, 0xff]) {
      const client = await broker.open();
      client.send(frame(0xf0, [reasonCode], block(METHOD)));
      await client.expectDisconnect(0x81, 0x82);
    }
  });
});

test('AUTH from a 3.1.1 client ends the connection', async () => {
  const client = await broker.open({ version: 4 });
  client.send(frame(0xf0, [0x18, 0x00]));
  await client.expectClosed();
});
