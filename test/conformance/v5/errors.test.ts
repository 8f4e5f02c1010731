// Malformed packets and protocol errors that belong to no packet of their own: sections 2.1 and 4.13.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { frame, prefixed, uint16 } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import { block, publishFrame, useBroker } from './support.js';

const broker = useBroker();

test('[MQTT-4.13.1-1] packet type 0 is refused', async () => {
  for (const bytes of [
    [0x00, 0x00],
    [0x0f, 0x00],
    [0x00, 0x02, 0x00, 0x01],
  ]) {
    const client = await broker.open();
    client.send(bytes);
    await client.expectDisconnect(0x81, 0x82);
  }
});

describe('packets that only a server sends', () => {
  const packets: [string, Buffer][] = [
    ['CONNACK', frame(0x20, [0x00, 0x00], block())],
    ['SUBACK', frame(0x90, uint16(1), block(), [0x00])],
    ['UNSUBACK', frame(0xb0, uint16(1), block(), [0x00])],
    ['PINGRESP', frame(0xd0)],
  ];
  for (const [name, bytes] of packets) {
    test(`[MQTT-4.13.1-1] ${name} from a client is a protocol error`, async () => {
      const client = await broker.open();
      client.send(bytes);
      await client.expectDisconnect(0x82, 0x81);
    });
  }
});

describe('packets that end too early', () => {
  const packets: [string, number[]][] = [
    ['PUBACK', [0x40, 0x00]],
    ['PUBACK', [0x40, 0x01, 0x00]],
    ['PUBREC', [0x50, 0x01, 0x00]],
    ['PUBREL', [0x62, 0x00]],
    ['PUBCOMP', [0x70, 0x00]],
    ['SUBSCRIBE', [0x82, 0x00]],
    ['SUBSCRIBE', [0x82, 0x01, 0x00]],
    ['UNSUBSCRIBE', [0xa2, 0x01, 0x00]],
    ['PUBLISH', [0x30, 0x00]],
  ];
  for (const [name, bytes] of packets) {
    test(`[MQTT-4.13.1-1] ${name} of ${bytes.length - 2} bytes is malformed`, async () => {
      const client = await broker.open();
      client.send(bytes);
      await client.expectDisconnect(0x81, 0x82);
    });
  }
});

describe('packets that go on for too long', () => {
  const packets: [string, Buffer][] = [
    ['PUBACK', frame(0x40, uint16(1), [0x00], block(), [0x00])],
    ['PUBREL', frame(0x62, uint16(1), [0x00], block(), [0x00])],
    ['UNSUBSCRIBE', frame(0xa2, uint16(1), block(), prefixed('a'), [0x00])],
    ['SUBSCRIBE', frame(0x82, uint16(1), block(), prefixed('a'), [0x00, 0x00])],
    ['DISCONNECT', frame(0xe0, [0x00], block(), [0x00])],
  ];
  for (const [name, bytes] of packets) {
    test(`[MQTT-4.13.1-1] ${name} with bytes behind its end is malformed`, async () => {
      const client = await broker.open();
      client.send(bytes);
      await client.expectDisconnect(0x81);
    });
  }
});

test('[MQTT-2.2.1-3] packet identifier 0 in an acknowledgement is refused', async () => {
  for (const first of [0x40, 0x50, 0x62, 0x70]) {
    const client = await broker.open();
    client.send(frame(first, uint16(0)));
    await client.expectDisconnect(0x81, 0x82);
  }
});

test('[MQTT-4.13.1-1] what precedes a malformed packet was processed, what follows is not', async () => {
  const topic = uniqueTopic();
  const witness = await broker.open();
  await witness.subscribe(topic, 0);
  const client = await broker.open();
  client.send(
    publishFrame(topic, { payload: 'before' }),
    frame(0x36, prefixed(topic)),
    publishFrame(topic, { payload: 'behind' }),
  );
  await client.expectDisconnect(0x81);
  await witness.expectMessage(topic, 'before');
  await witness.expectQuiet();
});

test('[MQTT-4.13.1-1] one connection that breaks the rules costs no other anything', async () => {
  const topic = uniqueTopic();
  const witness = await broker.open();
  await witness.subscribe(topic, 1);
  for (let index = 0; index < 20; index++) {
    const client = await broker.open();
    client.send([0x30, 0xff, 0xff, 0xff, 0xff]);
    await client.closed();
  }
  await witness.publish(topic, 'still here', { qos: 1 });
  await witness.expectMessage(topic, 'still here');
});

test('[MQTT-4.2.0-1] packets cut and joined anywhere by the transport are the same packets', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic);
  const stream = Buffer.concat([
    publishFrame(topic, { payload: 'first' }),
    publishFrame(topic, { payload: 'x'.repeat(200) }),
    publishFrame(topic, { payload: 'last' }),
  ]);
  for (const step of [1, 2, 3, 7, 64, stream.length]) {
    for (let position = 0; position < stream.length; position += step) {
      client.send(stream.subarray(position, position + step));
      // Without a turn of the loop the pieces would be joined again before they are sent.
      await setImmediate();
    }
    for (const payload of ['first', 'x'.repeat(200), 'last']) await client.expectMessage(topic, payload);
  }
  assert.equal(client.isClosed, false);
});
