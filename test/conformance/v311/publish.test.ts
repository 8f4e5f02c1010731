// PUBLISH of MQTT 3.1.1: its flags, its topic name, its packet identifier, and who gets it at which QoS.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, hex, prefixed, uint16, uniqueClientId } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

test('[MQTT-3.3.1-2] [MQTT-4.3.1-1] DUP is 0 on a QoS 0 delivery', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  const publisher = await broker.open();
  publisher.sendPublish(topic, 'x', { qos: 0 });
  const message = await subscriber.expect('publish');
  assert.equal(message.raw[0], 0x30, hex(message.raw));
});

test('[MQTT-3.3.1-2] a QoS 0 PUBLISH with DUP ends the connection', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  client.send(frame(0x38, prefixed(topic), Buffer.from('x')));
  await client.expectClosed();
});

for (const [qos, firstByte] of [
  [1, 0x3a],
  [2, 0x3c],
] as const) {
  test(`[MQTT-3.3.1-3] DUP of an incoming QoS ${qos} PUBLISH does not reach the subscriber`, async () => {
    const topic = uniqueTopic();
    const subscriber = await broker.open();
    await subscriber.subscribe(topic, qos);
    const publisher = await broker.open();
    publisher.send(frame(firstByte, prefixed(topic), uint16(77), Buffer.from('x')));
    if (qos === 2) {
      await publisher.expect('pubrec');
      publisher.send({ cmd: 'pubrel', messageId: 77 });
    }
    const message = await subscriber.expect('publish');
    assert.equal(message.dup, false);
    assert.equal(message.qos, qos);
  });
}

for (const firstByte of [0x36, 0x37, 0x3e, 0x3f]) {
  test(`[MQTT-3.3.1-4] QoS 3 (first byte 0x${firstByte.toString(16)}) ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(firstByte, prefixed(uniqueTopic()), uint16(1), Buffer.from('x')));
    await client.expectClosed();
  });
}

test('[MQTT-3.3.2-1] the topic name is the first field, and arrives as it was sent', async () => {
  const topic = `${uniqueTopic()}/é/日本/🙂`;
  const client = await broker.open();
  await client.subscribe(topic);
  client.send(frame(0x30, prefixed(topic), Buffer.from('payload')));
  const message = await client.expect('publish');
  assert.deepEqual(message.raw, frame(0x30, prefixed(topic), Buffer.from('payload')));
});

test('[MQTT-3.3.2-1] a topic name longer than its packet ends the connection', async () => {
  const client = await broker.open();
  client.send(frame(0x30, [0x00, 0x09], Buffer.from('short')));
  await client.expectClosed();
});

for (const topic of ['#', '+', 'a/#', 'a/+/b', 'a#', 'a+b', '+/#']) {
  test(`[MQTT-3.3.2-2] [MQTT-4.7.1-1] PUBLISH to ${topic} ends the connection and reaches nobody`, async () => {
    const root = uniqueTopic();
    const watcher = await broker.open();
    await watcher.subscribe(`${root}/#`);
    const client = await broker.open();
    client.send(frame(0x30, prefixed(`${root}/${topic}`), Buffer.from('x')));
    await client.expectClosed();
    await watcher.publish(`${root}/end`, 'last');
    assert.deepEqual(await messagesBefore(watcher, 'last'), []);
  });
}

test('[MQTT-3.3.2-3] a subscriber gets the topics its filters match, under their own names, and no others', async () => {
  const root = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe([`${root}/+/b`, `${root}/last`]);
  const publisher = await broker.open();
  for (const topic of ['a/b', 'a/c', 'x/b', 'a/b/c', 'b', 'last'])
    publisher.sendPublish(`${root}/${topic}`, topic);
  const got = await messagesBefore(subscriber, 'last');
  assert.deepEqual(
    got.map((message) => message.topic),
    [`${root}/a/b`, `${root}/x/b`],
  );
});

test('[MQTT-3.3.4-1] QoS 0 is not answered, QoS 1 by PUBACK, QoS 2 by PUBREC', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  client.sendPublish(topic, 'zero');
  await client.expectQuiet();
  client.sendPublish(topic, 'one', { qos: 1, messageId: 11 });
  assert.deepEqual([...(await client.expect('puback')).raw], [0x40, 0x02, 0, 11]);
  client.sendPublish(topic, 'two', { qos: 2, messageId: 12 });
  assert.deepEqual([...(await client.expect('pubrec')).raw], [0x50, 0x02, 0, 12]);
  client.send({ cmd: 'pubrel', messageId: 12 });
  assert.deepEqual([...(await client.expect('pubcomp')).raw], [0x70, 0x02, 0, 12]);
});

for (const qos of [0, 1, 2] as const) {
  test(`[MQTT-3.3.5-1] overlapping subscriptions: a QoS ${qos} message arrives at the highest QoS they allow`, async () => {
    const root = uniqueTopic();
    const subscriber = await broker.open();
    await subscriber.subscribe([
      { topic: `${root}/#`, qos: 1 },
      { topic: `${root}/+`, qos: 2 },
      { topic: `${root}/a`, qos: 0 },
    ]);
    const publisher = await broker.open();
    await publisher.publish(`${root}/a`, 'message', { qos });
    await publisher.publish(`${root}/a`, 'last', { qos });
    const copies = await messagesBefore(subscriber, 'last');
    // The standard allows a copy for each subscription; the best of them has the QoS of the message here.
    assert.ok(copies.length >= 1 && copies.length <= 3, `${copies.length} copies`);
    assert.equal(Math.max(...copies.map((copy) => copy.qos)), qos);
  });
}

test('[MQTT-3.3.5-2] a PUBLISH to $SYS, which no client may make, is acknowledged or ends the connection, and reaches nobody', async () => {
  const topic = `$SYS/${uniqueTopic('forged')}`;
  const watcher = await broker.open();
  await watcher.subscribe(topic, 1);
  const client = await broker.open();
  client.sendPublish(topic, 'forged', { qos: 1, retain: true, messageId: 5 });
  const puback = await client.find('puback').catch(() => undefined);
  if (puback === undefined) await client.closed();
  else assert.equal(puback.messageId, 5);
  await watcher.expectQuiet();
  const later = await broker.open();
  await later.subscribe(topic, 1);
  await later.expectQuiet();
});

for (const [qos, firstByte] of [
  [1, 0x32],
  [2, 0x34],
] as const) {
  test(`[MQTT-2.3.1-1] a QoS ${qos} PUBLISH with packet identifier 0 ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(firstByte, prefixed(uniqueTopic()), uint16(0), Buffer.from('x')));
    await client.expectClosed();
  });

  test(`[MQTT-2.3.1-1] a QoS ${qos} PUBLISH that ends before its packet identifier ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(firstByte, prefixed(uniqueTopic())));
    await client.expectClosed();
  });

  test(`[MQTT-2.3.1-1] a QoS ${qos} delivery has a packet identifier that is not 0`, async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(topic, qos);
    await client.publish(topic, 'x', { qos });
    const message = await client.find('publish');
    assert.ok(message.messageId! > 0, hex(message.raw));
  });
}

for (const [name, bytes] of [
  ['SUBSCRIBE', frame(0x82, uint16(0), prefixed('a'), [0])],
  ['UNSUBSCRIBE', frame(0xa2, uint16(0), prefixed('a'))],
] as const) {
  test(`[MQTT-2.3.1-1] ${name} with packet identifier 0 ends the connection`, async () => {
    const client = await broker.open();
    client.send(bytes);
    await client.expectClosed();
  });
}

test('[MQTT-2.3.1-5] a QoS 0 delivery has no packet identifier, also when it was published at QoS 2', async () => {
  const topic = uniqueTopic();
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 0);
  const publisher = await broker.open();
  await publisher.publish(topic, 'x', { qos: 2 });
  assert.deepEqual((await subscriber.expect('publish')).raw, frame(0x30, prefixed(topic), Buffer.from('x')));
});

test('[MQTT-2.3.1-5] the bytes behind the topic of a QoS 0 PUBLISH are its payload', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic);
  client.send(frame(0x30, prefixed(topic), uint16(0)));
  assert.deepEqual((await client.expect('publish')).payload, Buffer.from([0, 0]));
});

test('[MQTT-2.3.1-6] PUBACK, PUBREC, PUBREL and PUBCOMP carry the identifier of the PUBLISH, up to 65535', async () => {
  const topic = uniqueTopic();
  const publisher = await broker.open();
  for (const messageId of [1, 0x00ff, 0x0100, 0x7fff, 0xffff]) {
    await publisher.publish(topic, 'x', { qos: 1, messageId });
    await publisher.publish(topic, 'x', { qos: 2, messageId });
  }
  const subscriber = await broker.open();
  await subscriber.subscribe(topic, 2);
  await publisher.publish(topic, 'y', { qos: 2 });
  const message = await subscriber.expect('publish');
  subscriber.send({ cmd: 'pubrec', messageId: message.messageId! });
  const pubrel = await subscriber.expect('pubrel');
  assert.deepEqual(pubrel.raw, frame(0x62, uint16(message.messageId!)));
});

test('[MQTT-2.2.2-1] the flags of every packet the broker sends are those of the standard', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  const firstBytes = new Map<string, number>([['connack', client.connack!.raw[0]!]]);
  client.send(
    { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 2 }] },
    { cmd: 'unsubscribe', messageId: 2, unsubscriptions: [`${topic}/not`] },
    { cmd: 'pingreq' },
  );
  for (const name of ['suback', 'unsuback', 'pingresp'] as const) {
    firstBytes.set(name, (await client.find(name)).raw[0]!);
  }
  client.sendPublish(topic, 'one', { qos: 1 });
  firstBytes.set('puback', (await client.find('puback')).raw[0]!);
  await client.acknowledge(await client.find('publish'));
  const messageId = client.sendPublish(topic, 'two', { qos: 2 });
  firstBytes.set('pubrec', (await client.find('pubrec')).raw[0]!);
  client.send({ cmd: 'pubrel', messageId });
  firstBytes.set('pubcomp', (await client.find('pubcomp')).raw[0]!);
  const message = await client.find('publish');
  client.send({ cmd: 'pubrec', messageId: message.messageId! });
  firstBytes.set('pubrel', (await client.find('pubrel')).raw[0]!);
  assert.deepEqual(Object.fromEntries(firstBytes), {
    connack: 0x20,
    suback: 0x90,
    unsuback: 0xb0,
    pingresp: 0xd0,
    puback: 0x40,
    pubrec: 0x50,
    pubcomp: 0x70,
    pubrel: 0x62,
  });
});

for (const flags of [0, 1, 3, 6, 10, 15]) {
  test(`[MQTT-3.6.1-1] PUBREL with flags ${flags} ends the connection`, async () => {
    const client = await broker.open();
    client.sendPublish(uniqueTopic(), 'x', { qos: 2, messageId: 1 });
    await client.expect('pubrec');
    client.send(frame(0x60 | flags, uint16(1)));
    await client.expectClosed();
  });
}

const withId = uint16(1);
for (const [name, packet] of [
  ['PUBACK', frame(0x42, withId)],
  ['PUBREC', frame(0x52, withId)],
  ['PUBREL', frame(0x60, withId)],
  ['PUBCOMP', frame(0x78, withId)],
  ['SUBSCRIBE', frame(0x80, withId, prefixed('a'), [0])],
  ['UNSUBSCRIBE', frame(0xa1, withId, prefixed('a'))],
  ['PINGREQ', frame(0xc4)],
  ['DISCONNECT', frame(0xe8)],
] as const) {
  test(`[MQTT-2.2.2-2] ${name} with flags ${packet[0]! & 0x0f} ends the connection`, async () => {
    const client = await broker.open();
    client.send(packet);
    await client.expectClosed();
  });
}

// Packets that only a broker sends, and the two types that 3.1.1 does not use.
for (const [name, packet] of [
  ['CONNACK', frame(0x20, [0, 0])],
  ['SUBACK', frame(0x90, withId, [0])],
  ['UNSUBACK', frame(0xb0, withId)],
  ['PINGRESP', frame(0xd0)],
  ['type 0', frame(0x00)],
  ['type 15', frame(0xf0)],
] as const) {
  test(`[MQTT-4.8.0-1] ${name} from a client ends the connection`, async () => {
    const client = await broker.open();
    client.send(packet);
    await client.expectClosed();
  });
}

for (const [name, packet] of [
  ['PUBACK without a packet identifier', frame(0x40)],
  ['PUBACK of three bytes', frame(0x40, withId, [0])],
  ['PUBREL of one byte', frame(0x62, [0])],
  ['PINGREQ with a body', frame(0xc0, [0])],
  ['DISCONNECT with a body', frame(0xe0, [0])],
  ['a remaining length of five bytes', Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x7f])],
] as const) {
  test(`[MQTT-4.8.0-1] ${name} ends the connection`, async () => {
    const client = await broker.open();
    client.send(packet);
    await client.expectClosed();
  });
}

test('[MQTT-4.8.0-1] a violation ends the connection it came on and no other', async () => {
  const topic = uniqueTopic();
  const bystander = await broker.open();
  await bystander.subscribe(topic, 1);
  const violator = await broker.open({ clientId: uniqueClientId('violator') });
  violator.send(frame(0x36, prefixed(topic), uint16(1)));
  await violator.expectClosed();
  await bystander.publish(topic, 'unharmed', { qos: 1 });
  await bystander.expectMessage(topic, 'unharmed');
});

test('[MQTT-4.8.0-1] what came before the violation in the same segment still counts', async () => {
  const topic = uniqueTopic();
  const watcher = await broker.open();
  await watcher.subscribe(topic, 1);
  const violator = await broker.open();
  violator.send(
    frame(0x32, prefixed(topic), uint16(9), Buffer.from('before')),
    frame(0x36, prefixed(topic), uint16(1)),
  );
  await watcher.expectMessage(topic, 'before');
  await violator.closed();
});
