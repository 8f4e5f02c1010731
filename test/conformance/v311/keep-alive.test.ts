// Keep alive of MQTT 3.1.1. The only tests that take their time: they run side by side, at the shortest keep alive there is.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { frame, prefixed, uint16 } from '../../support/raw-client.js';
import { uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

/** One and a half times the keep alive, less what clocks and timers may differ by. */
const EARLIEST_MS = 1400;
/** The standard gives no upper bound. A broker that looks at its connections once a second is still in time. */
const LATEST_MS = 3500;

describe('keep alive of one second', { concurrency: true }, () => {
  test('[MQTT-3.1.2-24] a client that falls silent is disconnected, not before its time, and its will is published', async () => {
    const topic = uniqueTopic();
    const watcher = await broker.open();
    await watcher.subscribe(topic, 1);
    const client = await broker.open({ keepAliveSeconds: 1, will: { topic, payload: 'silent', qos: 1 } });
    const start = performance.now();
    await client.expectClosed(LATEST_MS);
    const elapsedMs = performance.now() - start;
    assert.ok(elapsedMs >= EARLIEST_MS, `closed after ${elapsedMs} ms`);
    await watcher.expectMessage(topic, 'silent');
  });

  test('[MQTT-3.1.2-24] silence counts from the last packet', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    await delay(1000);
    await client.barrier();
    const start = performance.now();
    await client.expectClosed(LATEST_MS);
    const elapsedMs = performance.now() - start;
    assert.ok(elapsedMs >= EARLIEST_MS, `closed after ${elapsedMs} ms`);
  });

  test('[MQTT-3.1.2-24] PINGREQ keeps the connection', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    for (let round = 0; round < 4; round++) {
      await delay(900);
      await client.barrier();
    }
  });

  test('[MQTT-3.1.2-24] any other packet keeps the connection as well', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    for (let round = 0; round < 4; round++) {
      await delay(900);
      client.sendPublish(uniqueTopic(), 'alive');
    }
    await client.barrier();
  });

  test('[MQTT-3.1.2-24] what the broker sends does not keep the connection', async () => {
    const topic = uniqueTopic();
    const client = await broker.open({ keepAliveSeconds: 1 });
    await client.subscribe(topic);
    const publisher = await broker.open();
    const sending = setInterval(() => publisher.sendPublish(topic, 'are you there'), 300);
    try {
      await client.closed(LATEST_MS);
    } finally {
      clearInterval(sending);
    }
  });

  test('[MQTT-3.1.2-24] a packet that never becomes whole does not keep the connection', async () => {
    const client = await broker.open({ keepAliveSeconds: 1 });
    const packet = frame(0x30, prefixed(uniqueTopic()), Buffer.alloc(200));
    let sent = 0;
    const trickle = setInterval(() => {
      client.send(packet.subarray(sent, sent + 1));
      sent += 1;
    }, 400);
    try {
      await client.expectClosed(LATEST_MS);
    } finally {
      clearInterval(trickle);
    }
  });

  test('[MQTT-3.1.2-24] keep alive 0 turns it off', async () => {
    const client = await broker.open({ keepAliveSeconds: 0 });
    await client.expectNothing(3600);
    await client.barrier();
  });

  test('[MQTT-3.1.2-24] the session of a client disconnected for its silence goes on', async () => {
    const topic = uniqueTopic();
    const clientId = uniqueTopic('client');
    const client = await broker.open({ clientId, clean: false, keepAliveSeconds: 1 });
    await client.subscribe(topic, 1);
    const publisher = await broker.open();
    await publisher.publish(topic, 'unacknowledged', { qos: 1 });
    const first = await client.expect('publish');
    await client.expectClosed(LATEST_MS);
    const back = await broker.open({ clientId, clean: false });
    const again = await back.expect('publish');
    assert.deepEqual(
      again.raw,
      frame(0x3a, prefixed(topic), uint16(first.messageId!), Buffer.from('unacknowledged')),
    );
  });
});
