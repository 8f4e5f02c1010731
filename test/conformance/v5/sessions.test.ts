// Sessions and when they end: sections 3.1.2.4, 3.1.2.11.2, 3.14.2.2.2 and 4.1.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { frame, type RawClient, uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic } from '../../support/suite.js';
import { block, P, property, publishFrame, reasonOf, useBroker } from './support.js';

const broker = useBroker();

/** The session expiry as the client asked for it in CONNECT; absent is not the same as 0 on the wire. */
function open(clientId: string, clean: boolean, seconds?: number): Promise<RawClient> {
  const properties = seconds === undefined ? {} : { properties: { sessionExpiryInterval: seconds } };
  return broker.open({ clientId, clean, ...properties });
}

async function hasSession(clientId: string): Promise<boolean> {
  const client = await open(clientId, false, 0);
  const { sessionPresent } = client.connack!;
  await client.disconnect();
  return sessionPresent;
}

function leave(client: RawClient, ...properties: Uint8Array[]): Promise<void> {
  client.send(frame(0xe0, [0x00], block(...properties)));
  return client.expectClosed();
}

const expiry = (seconds: number) => property(P.sessionExpiry, seconds);

describe('what a session holds', () => {
  test('[MQTT-3.1.2-5] [MQTT-4.5.0-1] [MQTT-3.1.2-23] messages above QoS 0 published meanwhile, in order', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const first = await open(clientId, true, 60);
    await first.subscribe(topic, 2);
    await first.disconnect();
    const publisher = await broker.open();
    for (const [payload, qos] of [
      ['1', 1],
      ['2', 2],
      ['3', 1],
    ] as const) {
      await publisher.publish(topic, payload, { qos });
    }
    const second = await open(clientId, false, 60);
    for (const [payload, qos] of [
      ['1', 1],
      ['2', 2],
      ['3', 1],
    ] as const) {
      const message = await second.expectMessage(topic, payload);
      assert.deepEqual([message.qos, message.dup], [qos, false]);
    }
  });

  test('[MQTT-3.1.2-5] subscriptions with their options', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const first = await open(clientId, true, 60);
    // No Local and Retain As Published at QoS 1.
    await first.subscribe([{ topic, qos: 1, nl: true, rap: true }]);
    await first.disconnect();
    const second = await open(clientId, false, 60);
    await second.publish(topic, 'mine', { qos: 1 });
    const publisher = await broker.open();
    await publisher.publish(topic, 'theirs', { qos: 2, retain: true });
    const message = await second.expectMessage(topic, 'theirs');
    assert.deepEqual([message.qos, message.retain], [1, true]);
  });

  test('[MQTT-3.1.2-5] QoS 2 identifiers of the client that wait for PUBREL', async () => {
    const clientId = uniqueClientId();
    const first = await open(clientId, true, 60);
    first.send(publishFrame(uniqueTopic(), { qos: 2, packetId: 12 }));
    await first.expect('pubrec');
    first.destroy();
    const second = await open(clientId, false, 60);
    second.send({ cmd: 'pubrel', messageId: 12 });
    assert.equal(reasonOf(await second.expect('pubcomp')), 0);
    second.send({ cmd: 'pubrel', messageId: 12 });
    assert.equal(reasonOf(await second.expect('pubcomp')), 0x92);
  });

  test('[MQTT-4.1.0-1] all of it while the connection lasts, with session expiry 0 too', async () => {
    const topic = uniqueTopic();
    const client = await open(uniqueClientId(), true, 0);
    await client.subscribe(topic, 1);
    await setTimeout(1200);
    await client.publish(topic, 'still here', { qos: 1 });
    await client.expectMessage(topic, 'still here');
  });

  test('[MQTT-3.1.2-4] nothing of it after Clean Start', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const publisher = await broker.open();
    const first = await open(clientId, true, 60);
    await first.subscribe(topic, 1);
    await publisher.publish(topic, 'in flight', { qos: 1 });
    await first.expect('publish');
    first.send(publishFrame(uniqueTopic(), { qos: 2, packetId: 12 }));
    await first.expect('pubrec');
    first.destroy();
    await publisher.publish(topic, 'meanwhile', { qos: 1 });
    const second = await open(clientId, true, 60);
    await publisher.publish(topic, 'later', { qos: 1 });
    await second.subscribe(topic, 1);
    await publisher.publish(topic, 'last', { qos: 1 });
    assert.deepEqual(await messagesBefore(second, 'last'), []);
    second.send({ cmd: 'pubrel', messageId: 12 });
    assert.equal(reasonOf(await second.expect('pubcomp')), 0x92);
  });

  test('retained messages are not part of it', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const first = await open(clientId, true, 0);
    await first.publish(topic, 'kept', { qos: 1, retain: true });
    await first.disconnect();
    const other = await broker.open();
    await other.subscribe(topic);
    await other.expectMessage(topic, 'kept');
  });
});

describe('how long it is kept', () => {
  test('[MQTT-4.1.0-2] not beyond the connection with session expiry 0, or without one', async () => {
    for (const seconds of [0, undefined]) {
      const clientId = uniqueClientId();
      await (await open(clientId, false, seconds)).disconnect();
      assert.equal(await hasSession(clientId), false);
    }
  });

  test('[MQTT-3.1.2-23] beyond it with a session expiry, however the connection ended', async () => {
    const endings: ((client: RawClient) => unknown)[] = [
      (client) => client.disconnect(),
      (client) => client.destroy(),
      (client) => {
        client.send([0x36, 0x00]);
        return client.expectDisconnect(0x81);
      },
    ];
    for (const end of endings) {
      const clientId = uniqueClientId();
      await end(await open(clientId, true, 60));
      assert.equal(await hasSession(clientId), true);
    }
  });

  test('[MQTT-3.1.2-23] 0xFFFFFFFF is the longest there is', async () => {
    const clientId = uniqueClientId();
    await (await open(clientId, true, 0xffff_ffff)).disconnect();
    assert.equal(await hasSession(clientId), true);
  });

  test('the session expiry of the last connection counts', async () => {
    const clientId = uniqueClientId();
    await (await open(clientId, true, 60)).disconnect();
    await (await open(clientId, false, 0)).disconnect();
    assert.equal(await hasSession(clientId), false);
  });

  test('DISCONNECT may end it at once', async () => {
    const clientId = uniqueClientId();
    await leave(await open(clientId, true, 60), expiry(0));
    assert.equal(await hasSession(clientId), false);
  });

  test('DISCONNECT may lengthen it', async () => {
    const clientId = uniqueClientId();
    await leave(await open(clientId, true, 1), expiry(60));
    await setTimeout(1500);
    assert.equal(await hasSession(clientId), true);
  });

  test('DISCONNECT without one leaves it as it is', async () => {
    const clientId = uniqueClientId();
    await leave(await open(clientId, true, 60));
    assert.equal(await hasSession(clientId), true);
  });

  test('DISCONNECT cannot give one to a session that had none: protocol error', async () => {
    for (const seconds of [0, undefined]) {
      const clientId = uniqueClientId();
      const client = await open(clientId, true, seconds);
      client.send(frame(0xe0, [0x00], block(expiry(60))));
      await client.expectDisconnect(0x82);
      assert.equal(await hasSession(clientId), false);
    }
  });

  test('DISCONNECT with 0 for a session that had none is in order', async () => {
    const client = await open(uniqueClientId(), true, 0);
    await leave(client, expiry(0));
  });
});

describe('time', { concurrency: true }, () => {
  test('[MQTT-4.1.0-2] a session is gone when its expiry has passed, and not before', async () => {
    const clientId = uniqueClientId();
    await (await open(clientId, true, 2)).disconnect();
    await setTimeout(800);
    const back = await open(clientId, false, 1);
    assert.equal(back.connack?.sessionPresent, true);
    await back.disconnect();
    await setTimeout(1700);
    assert.equal(await hasSession(clientId), false);
  });

  test('[MQTT-4.1.0-2] a session expiry given in DISCONNECT runs out too', async () => {
    const clientId = uniqueClientId();
    await leave(await open(clientId, true, 3600), expiry(1));
    await setTimeout(1700);
    assert.equal(await hasSession(clientId), false);
  });

  test('[MQTT-4.1.0-1] it does not run while the client is connected', async () => {
    const clientId = uniqueClientId();
    const client = await open(clientId, true, 1);
    await setTimeout(1700);
    await client.disconnect();
    assert.equal(await hasSession(clientId), true);
  });

  test('[MQTT-4.1.0-2] what was published for it is gone with it', async () => {
    const clientId = uniqueClientId();
    const topic = uniqueTopic();
    const first = await open(clientId, true, 1);
    await first.subscribe(topic, 1);
    await first.disconnect();
    const publisher = await broker.open();
    await publisher.publish(topic, 'meanwhile', { qos: 1 });
    await setTimeout(1700);
    const second = await open(clientId, false, 1);
    assert.equal(second.connack?.sessionPresent, false);
    await second.subscribe(topic, 1);
    await publisher.publish(topic, 'last', { qos: 1 });
    assert.deepEqual(await messagesBefore(second, 'last'), []);
  });
});
