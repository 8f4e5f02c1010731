// PINGREQ, PINGRESP and the keep alive: sections 3.12, 3.13 and 3.1.2.10.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { frame, type RawClient } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import { P, propertyOf, useBroker } from './support.js';

const broker = useBroker();
/** Allows no keep alive of more than a second. */
const strict = useBroker({ mqtt: { keepAliveSecondsMax: 1 } });

test('[MQTT-3.12.4-1] each PINGREQ gets a PINGRESP of two bytes', async () => {
  const client = await broker.open();
  client.send([0xc0, 0x00], [0xc0, 0x00], [0xc0, 0x00]);
  for (let index = 0; index < 3; index++)
    assert.deepEqual([...(await client.expect('pingresp')).raw], [0xd0, 0x00]);
  await client.expectQuiet();
});

test('[MQTT-2.1.3-1] a PINGREQ with flags is malformed', async () => {
  for (const flags of [1, 2, 4, 8]) {
    const client = await broker.open();
    client.send([0xc0 | flags, 0x00]);
    await client.expectDisconnect(0x81);
  }
});

test('[MQTT-4.13.1-1] a PINGREQ with a body is malformed', async () => {
  const client = await broker.open();
  client.send(frame(0xc0, [0x00]));
  await client.expectDisconnect(0x81, 0x82);
});

describe('the keep alive', { concurrency: true }, () => {
  /** How long a client that keeps silent is left alone. */
  async function silence(client: RawClient): Promise<number> {
    const from = performance.now();
    await client.expectDisconnect(0x8d);
    return performance.now() - from;
  }

  test('[MQTT-3.1.2-22] [MQTT-3.2.2-22] one and a half times the keep alive without a packet: DISCONNECT 0x8D', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    assert.equal(propertyOf(client.connack!, P.serverKeepAlive), undefined);
    const waited = await silence(client);
    assert.ok(waited >= 1450 && waited < 2900, `after ${waited} ms`);
  });

  test('[MQTT-3.1.2-22] any packet counts, and PINGREQ is one of them', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    const topic = uniqueTopic();
    // Three packets 800 ms apart: longer in total than the keep alive allows, each within it.
    for (const packet of [
      () => client.barrier(),
      () => client.sendPublish(topic, 'x'),
      () => client.barrier(),
    ]) {
      await setTimeout(800);
      await packet();
    }
    assert.ok((await silence(client)) >= 1450);
  });

  test('[MQTT-3.1.2-22] what the server sends does not count', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ keepAliveSeconds: 1 });
    await client.subscribe(topic);
    const publisher = await broker.open();
    const closed = client.closed().then(() => true);
    let isClosed = false;
    for (let index = 0; index < 15 && !isClosed; index++) {
      publisher.sendPublish(topic, `${index}`);
      isClosed = await Promise.race([closed, setTimeout(200, false)]);
    }
    assert.ok(isClosed, 'still open after 3 s');
  });

  test('[MQTT-3.1.2-22] a packet that is never finished does not count', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    client.send([0x30, 0x7f]);
    await setTimeout(700);
    client.send([0x00]);
    const disconnect = await client.find('disconnect');
    assert.equal(disconnect.reasonCode, 0x8d);
  });

  test('a keep alive of 0 turns it off', async () => {
    const client = await broker.open({ keepAliveSeconds: 0 });
    await client.expectNothing(2000);
    await client.barrier();
  });

  for (const keepAliveSeconds of [2, 600]) {
    test(`[MQTT-3.2.2-21] [MQTT-3.1.2-21] a Server Keep Alive below ${keepAliveSeconds} s is told, and is what counts`, async () => {
      const client = await strict.open({ keepAliveSeconds });
      assert.equal(propertyOf(client.connack!, P.serverKeepAlive), 1);
      const waited = await silence(client);
      assert.ok(waited >= 1450 && waited < 2900, `after ${waited} ms`);
    });
  }

  test('[MQTT-3.2.2-22] a keep alive within the limit of the server is left alone', async () => {
    const client = await strict.open({ keepAliveSeconds: 1 });
    assert.equal(propertyOf(client.connack!, P.serverKeepAlive), undefined);
  });
});
