// What MQTT 3.1.1 asks of a broker that an operator has limited. Each test starts a broker of its own.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, RawClient, uint16 } from '../../support/raw-client.js';
import { uniqueTopic, withBroker } from '../../support/suite.js';

test('[MQTT-3.8.3-2] a broker without wildcard subscriptions refuses them, and only them', () =>
  withBroker({ mqtt: { wildcardSubscriptions: false } }, async ({ port }) => {
    const root = uniqueTopic();
    const client = await RawClient.open(port);
    client.send(
      frame(
        0x82,
        uint16(1),
        prefixed(`${root}/#`),
        [1],
        prefixed(`${root}/a`),
        [1],
        prefixed(`${root}/+`),
        [0],
      ),
    );
    const suback = await client.expect('suback');
    assert.deepEqual(suback.granted, [0x80, 1, 0x80]);
    await client.publish(`${root}/b`, 'not subscribed', { qos: 1 });
    await client.publish(`${root}/a`, 'subscribed', { qos: 1 });
    await client.expectMessage(`${root}/a`, 'subscribed');
  }));

test('[MQTT-3.8.4-5] a subscription beyond the limit gets 0x80, those before it their QoS', () =>
  withBroker({ limits: { subscriptionsPerSession: 2 } }, async ({ port }) => {
    const root = uniqueTopic();
    const client = await RawClient.open(port);
    assert.deepEqual(await client.subscribe([`${root}/a`, `${root}/b`, `${root}/c`], 1), [1, 1, 0x80]);
    // Replacing one that exists takes no room.
    assert.deepEqual(await client.subscribe([`${root}/a`], 2), [2]);
    await client.unsubscribe(`${root}/b`);
    assert.deepEqual(await client.subscribe([`${root}/c`], 1), [1]);
  }));

test('[MQTT-4.8.0-2] a message that cannot be retained for want of room ends the connection instead of being acknowledged', () =>
  withBroker({ limits: { retainedMessages: 1 } }, async ({ port }) => {
    const root = uniqueTopic();
    const client = await RawClient.open(port);
    await client.publish(`${root}/a`, 'kept', { qos: 1, retain: true });
    client.sendPublish(`${root}/b`, 'one too many', { qos: 1, retain: true });
    await client.expectClosed();
    const other = await RawClient.open(port);
    await other.publish(`${root}/a`, 'replaced', { qos: 1, retain: true });
    await other.subscribe(`${root}/#`, 1);
    await other.expectMessage(`${root}/a`, 'replaced');
    await other.expectQuiet();
  }));

test('[MQTT-4.8.0-1] a packet larger than the limit ends the connection before it has arrived', () =>
  withBroker({ limits: { packetBytes: 1024 } }, async ({ port }) => {
    const client = await RawClient.open(port);
    const packet = frame(0x30, prefixed(uniqueTopic()), Buffer.alloc(4096));
    client.send(packet.subarray(0, 64));
    await client.expectClosed();
  }));
