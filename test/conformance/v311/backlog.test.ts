// Sessions that are behind: more waits for the client than it has acknowledged room for. What the standard says of sessions, retained
// messages and subscriptions holds for them as for any other.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, type RawClient, uint16, uniqueClientId } from '../../support/raw-client.js';
import { uniqueTopic, useBroker } from '../../support/suite.js';

/** A window that a few messages fill. */
const WINDOW = 20;
const broker = useBroker({ mqtt: { inflightMaximum: WINDOW } });

const publish = (topic: string, payload: string, messageId = 1) =>
  frame(0x32, prefixed(topic), uint16(messageId), Buffer.from(payload));

/** Publishes all at once at QoS 1 and waits until the broker has taken all. */
async function publishAll(
  publisher: RawClient,
  messages: readonly (readonly [string, string])[],
): Promise<void> {
  publisher.send(...messages.map(([topic, payload], index) => publish(topic, payload, index + 1)));
  for (const _ of messages) await publisher.expect('puback');
}

const numbered = (topic: string, count: number) =>
  Array.from({ length: count }, (_, index) => [topic, `${index}`] as const);

test('[MQTT-3.3.1-6] more retained messages than fit in flight are all sent, also when the connection breaks in between', async () => {
  const root = uniqueTopic();
  const publisher = await broker.open();
  const total = 5 * WINDOW;
  for (let index = 0; index < total; index++) {
    await publisher.publish(`${root}/${index}`, `${index}`, { qos: 1, retain: true });
  }
  const clientId = uniqueClientId();
  const client = await broker.open({ clientId, clean: false });
  await client.subscribe(`${root}/#`, 1);
  const seen = new Set<string>();
  for (let index = 0; index < WINDOW; index++) {
    const message = await client.expect('publish');
    assert.equal(message.retain, true);
    if (index < 5) {
      seen.add(message.topic);
      await client.acknowledge(message);
    }
  }
  await client.barrier();
  client.destroy();
  const back = await broker.open({ clientId, clean: false });
  while (seen.size < total) {
    const message = await back.expect('publish');
    assert.ok(!seen.has(message.topic), `${message.topic} was acknowledged already`);
    seen.add(message.topic);
    await back.acknowledge(message);
  }
  await back.expectQuiet();
});

test('[MQTT-4.5.0-1] a session that is behind and subscribes to more is not sent what was published before that', async () => {
  const root = uniqueTopic();
  const clientId = uniqueClientId();
  const client = await broker.open({ clientId, clean: false });
  await client.subscribe(`${root}/a`, 1);
  const publisher = await broker.open();
  const both = numbered(`${root}/a`, 3 * WINDOW).flatMap((message) => [
    message,
    [`${root}/b`, 'early'] as const,
  ]);
  await publishAll(publisher, both);
  await client.subscribe(`${root}/b`, 1);
  await publishAll(publisher, [[`${root}/b`, 'late']]);
  for (let index = 0; index < 3 * WINDOW; index++) await client.expectMessage(`${root}/a`, `${index}`);
  await client.expectMessage(`${root}/b`, 'late');
  await client.expectQuiet();
});

test('[MQTT-4.5.0-1] a filter dropped and taken again while the session is behind: only what was published under either is sent', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const client = await broker.open({ clientId, clean: false });
  const filler = uniqueTopic('filler');
  await client.subscribe([filler, topic], 1);
  const publisher = await broker.open();
  await publishAll(publisher, numbered(filler, 2 * WINDOW));
  await client.unsubscribe(topic);
  await publishAll(publisher, [[topic, 'in between']]);
  await client.subscribe(topic, 1);
  await publishAll(publisher, [[topic, 'after']]);
  for (let index = 0; index < 2 * WINDOW; index++) await client.expectMessage(filler, `${index}`);
  await client.expectMessage(topic, 'after');
  await client.expectQuiet();
});

test('[MQTT-3.8.4-3] subscribing again while the session is behind loses nothing and repeats nothing', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  const publisher = await broker.open();
  await publishAll(publisher, numbered(topic, 3 * WINDOW));
  await client.subscribe(topic, 1);
  await publishAll(publisher, [[topic, 'new']]);
  for (let index = 0; index < 3 * WINDOW; index++) await client.expectMessage(topic, `${index}`);
  await client.expectMessage(topic, 'new');
  await client.expectQuiet();
});

test('[MQTT-3.8.4-6] what waits behind the window keeps its QoS, with subscriptions of each', async () => {
  const root = uniqueTopic();
  const client = await broker.open({ clean: false });
  await client.subscribe([
    { topic: `${root}/1`, qos: 1 },
    { topic: `${root}/2`, qos: 2 },
  ]);
  const publisher = await broker.open();
  const total = 2 * WINDOW;
  for (let index = 0; index < total; index++) {
    await publisher.publish(`${root}/${1 + (index % 2)}`, `${index}`, { qos: 2 });
  }
  for (let index = 0; index < total; index++) {
    const message = await client.find('publish');
    assert.equal(message.payload.toString(), `${index}`);
    assert.equal(message.qos, 1 + (index % 2));
    await client.acknowledge(message);
  }
  await client.expectQuiet();
});

test('[MQTT-4.3.1-1] QoS 0 messages reach a client whose window is full', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe([
    { topic, qos: 1 },
    { topic: `${topic}/now`, qos: 0 },
  ]);
  const publisher = await broker.open();
  await publishAll(publisher, numbered(topic, 2 * WINDOW));
  for (let index = 0; index < WINDOW; index++) await client.expect('publish');
  publisher.sendPublish(`${topic}/now`, 'now');
  assert.equal((await client.expect('publish')).payload.toString(), 'now');
});

test('[MQTT-4.6.0-1] a QoS 2 backlog through broken connections at every stage: everything once, in order', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  let client = await broker.open({ clientId, clean: false });
  await client.subscribe(topic, 2);
  const publisher = await broker.open();
  const total = 2 * WINDOW;
  for (let index = 0; index < total; index++) await publisher.publish(topic, `${index}`, { qos: 2 });
  // The client remembers which identifiers it has answered PUBREC for: a receiver has to, for a message to count once.
  const received: string[] = [];
  const open = new Set<number>();
  for (let breaks = 0; received.length < total || open.size > 0; breaks++) {
    // Each connection gets a little further before it breaks: after so many packets, at a different stage each time.
    for (let steps = 3 + (breaks % 7); steps > 0 && (received.length < total || open.size > 0); steps--) {
      await client.barrier();
      const packet = client.queue.shift();
      if (packet === undefined) break;
      const messageId = packet.messageId!;
      if (packet.cmd === 'publish') {
        if (!open.has(messageId)) received.push((packet as { payload: Buffer }).payload.toString());
        open.add(messageId);
        client.send({ cmd: 'pubrec', messageId });
      } else {
        assert.equal(packet.cmd, 'pubrel');
        open.delete(messageId);
        client.send({ cmd: 'pubcomp', messageId });
      }
    }
    await client.barrier();
    client.destroy();
    client = await broker.open({ clientId, clean: false });
    assert.ok(breaks < 200, 'no progress');
  }
  assert.equal(
    received.join(),
    numbered(topic, total)
      .map(([, payload]) => payload)
      .join(),
  );
});
