// CONNECT and CONNACK of MQTT 3.1.1: what is refused, how, and what an accepted connection looks like.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  prefixed,
  type RawClient,
  uniqueClientId,
  type WrongConnect,
  wrongConnect,
} from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

const ACCEPTED = [0x20, 0x02, 0x00, 0x00];

/** A CONNECT that breaks a rule for which 3.1.1 has no return code: the broker closes and says nothing. */
async function refusedSilently(wrong: WrongConnect): Promise<void> {
  const client = await broker.connect();
  client.send(wrongConnect(wrong));
  await client.expectClosed();
}

async function assertConnack(client: RawClient, bytes: number[]): Promise<void> {
  const connack = await client.expect('connack');
  assert.deepEqual([...connack.raw], bytes);
}

for (const [name, bytes] of [
  ['PINGREQ', [0xc0, 0x00]],
  ['PUBLISH', [0x30, 0x04, 0x00, 0x01, 0x61, 0x62]],
  ['SUBSCRIBE', [0x82, 0x06, 0x00, 0x01, 0x00, 0x01, 0x61, 0x00]],
  ['DISCONNECT', [0xe0, 0x00]],
  ['PUBACK', [0x40, 0x02, 0x00, 0x01]],
] as const) {
  test(`[MQTT-3.1.0-1] ${name} as the first packet ends the connection unanswered`, async () => {
    const client = await broker.connect();
    client.send(bytes);
    await client.expectClosed();
  });
}

test('[MQTT-3.1.0-2] a second CONNECT ends the connection, and its will is published', async () => {
  const topic = uniqueTopic();
  const watcher = await broker.open();
  await watcher.subscribe(topic);
  const client = await broker.open({ will: { topic, payload: 'second connect' } });
  client.sendConnect();
  await client.expectClosed();
  await watcher.expectMessage(topic, 'second connect');
});

test('[MQTT-3.1.0-2] a second CONNECT in the same segment as the first is no better', async () => {
  const client = await broker.connect();
  client.send(wrongConnect(), wrongConnect());
  await client.closed();
  for (const packet of client.queue) assert.deepEqual([...packet.raw], ACCEPTED);
});

for (const protocolName of ['MQTX', 'mqtt', 'MQTTT', 'MQT', '', 'HTTP']) {
  test(`[MQTT-3.1.2-1] [MQTT-3.2.2-6] protocol name '${protocolName}' is not handled as MQTT`, async () => {
    await refusedSilently({ protocolName });
  });
}

for (const level of [0, 1, 2, 3]) {
  test(`[MQTT-3.1.2-2] [MQTT-3.2.2-4] [MQTT-3.2.2-5] level ${level} of MQTT gets CONNACK 0x01 and a close`, async () => {
    const client = await broker.connect();
    client.send(wrongConnect({ level }));
    await assertConnack(client, [0x20, 0x02, 0x00, 0x01]);
    await client.expectClosed();
  });
}

for (const level of [6, 0x7f]) {
  // 3.1.1 asks for 0x01 and 5.0, which such a client is closer to, for 0x84: both mean the same to whoever reads only the first bytes.
  test(`[MQTT-3.1.2-2] level ${level} gets CONNACK 'unsupported' and a close`, async () => {
    const client = await broker.connect();
    client.send(wrongConnect({ level, properties: [0x00] }));
    const connack = await client.expect('connack');
    assert.equal(connack.raw[2], 0, 'session present');
    assert.ok([0x01, 0x84].includes(connack.raw[3]!), `return code ${connack.raw[3]}`);
    await client.expectClosed();
  });
}

test('[MQTT-3.1.2-3] the reserved connect flag ends the connection', async () => {
  await refusedSilently({ flags: 0x03 });
});

const willFields = [prefixed('will/topic'), prefixed('will message')];

test('[MQTT-3.1.2-9] the will flag without will fields is refused', async () => {
  await refusedSilently({ flags: 0x06 });
});

test('[MQTT-3.1.2-9] the will flag with a topic but no message is refused', async () => {
  await refusedSilently({ flags: 0x06, payload: [prefixed(uniqueClientId()), prefixed('will/topic')] });
});

test('[MQTT-3.1.2-11] will fields without the will flag are refused', async () => {
  await refusedSilently({ payload: [prefixed(uniqueClientId()), ...willFields] });
});

for (const [qos, flags] of [
  [1, 0x0a],
  [2, 0x12],
] as const) {
  test(`[MQTT-3.1.2-11] [MQTT-3.1.2-13] will QoS ${qos} without the will flag is refused`, async () => {
    await refusedSilently({ flags });
  });
}

test('[MQTT-3.1.2-14] will QoS 3 is refused', async () => {
  await refusedSilently({ flags: 0x1e, payload: [prefixed(uniqueClientId()), ...willFields] });
});

test('[MQTT-3.1.2-11] [MQTT-3.1.2-15] will retain without the will flag is refused', async () => {
  await refusedSilently({ flags: 0x22 });
});

test('[MQTT-3.1.2-18] a user name without its flag is refused', async () => {
  await refusedSilently({ payload: [prefixed(uniqueClientId()), prefixed('user')] });
});

test('[MQTT-3.1.2-19] the user name flag without a user name is refused', async () => {
  await refusedSilently({ flags: 0x82 });
});

test('[MQTT-3.1.2-20] a password without its flag is refused', async () => {
  await refusedSilently({
    flags: 0x82,
    payload: [prefixed(uniqueClientId()), prefixed('user'), prefixed('password')],
  });
});

test('[MQTT-3.1.2-21] the password flag without a password is refused', async () => {
  await refusedSilently({ flags: 0xc2, payload: [prefixed(uniqueClientId()), prefixed('user')] });
});

test('[MQTT-3.1.2-22] the password flag without the user name flag is refused', async () => {
  await refusedSilently({ flags: 0x42, payload: [prefixed(uniqueClientId()), prefixed('password')] });
});

test('[MQTT-3.1.3-3] a CONNECT without a client identifier is refused', async () => {
  await refusedSilently({ payload: [] });
});

test('[MQTT-3.1.3-1] [MQTT-3.1.3-3] the payload is read as client identifier, will topic, will message, user name, password', async () => {
  const topic = uniqueTopic('order');
  const clientId = uniqueClientId('order');
  const watcher = await broker.open();
  await watcher.subscribe(topic);
  const client = await broker.connect();
  client.send(
    wrongConnect({
      flags: 0xc6,
      payload: [
        prefixed(clientId),
        prefixed(topic),
        prefixed('the will'),
        prefixed('user'),
        prefixed('password'),
      ],
    }),
  );
  await assertConnack(client, ACCEPTED);
  // The identifier is what another connection takes over, and the will is published when that happens.
  const second = await broker.open({ clientId });
  await client.expectClosed();
  await watcher.expectMessage(topic, 'the will');
  await second.barrier();
});

for (const [what, bytes] of [
  ['a string longer than the packet', [0x10, 0x0d, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 9, 0x61]],
  ['a packet that ends in its variable header', [0x10, 0x08, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2]],
  ['an empty packet', [0x10, 0x00]],
  ['bytes behind the payload', [0x10, 0x0e, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 1, 0x61, 0x62]],
  ['flags in the fixed header', [0x11, 0x0d, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 1, 0x61]],
] as const) {
  test(`[MQTT-3.1.4-1] ${what} in CONNECT: closed without CONNACK`, async () => {
    const client = await broker.connect();
    // The announced length is set right, so that what is wrong is inside the packet.
    client.send([bytes[0]!, bytes.length - 2, ...bytes.slice(2)]);
    await client.expectClosed();
  });
}

const LETTERS = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';

for (const clientId of ['a', LETTERS.slice(0, 23), LETTERS.slice(23, 46), LETTERS.slice(39, 62)]) {
  test(`[MQTT-3.1.3-5] client identifier ${clientId} is accepted`, async () => {
    const client = await broker.connect();
    client.sendConnect({ clientId });
    await assertConnack(client, ACCEPTED);
    await client.barrier();
  });
}

test('[MQTT-3.1.3-6] clients with an empty identifier are given different ones and are served', async () => {
  const topic = uniqueTopic();
  const first = await broker.open({ clientId: '' });
  const second = await broker.open({ clientId: '' });
  await first.subscribe(topic, 1);
  await second.subscribe(topic, 1);
  await second.publish(topic, 'to both', { qos: 1 });
  await first.expectMessage(topic, 'to both');
  await second.expectMessage(topic, 'to both');
});

test('[MQTT-3.1.3-7] [MQTT-3.1.3-8] [MQTT-3.1.3-9] [MQTT-3.2.2-5] an empty identifier with clean session 0 gets CONNACK 0x02 and a close', async () => {
  const client = await broker.connect();
  client.send(wrongConnect({ flags: 0x00, payload: [prefixed('')] }));
  await assertConnack(client, [0x20, 0x02, 0x00, 0x02]);
  await client.expectClosed();
});

test('[MQTT-3.2.2-4] session present is 0 in a refusal, even where a session exists', async () => {
  const clientId = uniqueClientId();
  const client = await broker.open({ clientId, clean: false });
  await client.disconnect();
  const refused = await broker.connect();
  refused.send(wrongConnect({ level: 2, flags: 0x00, payload: [prefixed(clientId)] }));
  await assertConnack(refused, [0x20, 0x02, 0x00, 0x01]);
  await refused.expectClosed();
});

test('[MQTT-3.1.4-2] a second connection under an identifier ends the first', async () => {
  const clientId = uniqueClientId();
  const first = await broker.open({ clientId });
  const second = await broker.open({ clientId });
  await first.expectClosed();
  await second.barrier();
});

test('[MQTT-3.1.4-2] of many connections racing for one identifier none survives the next one', async () => {
  const clientId = uniqueClientId();
  const racers = await Promise.all(Array.from({ length: 8 }, () => broker.connect()));
  for (const racer of racers) racer.sendConnect({ clientId });
  const last = await broker.open({ clientId });
  await Promise.all(racers.map((racer) => racer.closed()));
  await last.barrier();
});

test('[MQTT-3.1.4-3] clean session 1 after 0 discards the session, clean session 0 after that finds none', async () => {
  const clientId = uniqueClientId();
  const first = await broker.open({ clientId, clean: false });
  await first.subscribe(uniqueTopic(), 1);
  await first.disconnect();
  const cleaned = await broker.open({ clientId, clean: true });
  await cleaned.disconnect();
  const third = await broker.connect();
  third.sendConnect({ clientId, clean: false });
  await assertConnack(third, ACCEPTED);
});

test('[MQTT-3.1.4-4] a valid CONNECT gets CONNACK 0x00', async () => {
  const client = await broker.connect();
  client.send(wrongConnect());
  await assertConnack(client, ACCEPTED);
});

test('[MQTT-3.1.4-5] nothing behind a refused CONNECT is acted upon', async () => {
  const root = uniqueTopic();
  const refused = await broker.connect();
  refused.send(wrongConnect({ flags: 0x00, payload: [prefixed('')] }), {
    cmd: 'publish',
    topic: `${root}/behind`,
    payload: 'never',
    qos: 0,
    dup: false,
    retain: true,
  });
  await assertConnack(refused, [0x20, 0x02, 0x00, 0x02]);
  await refused.expectClosed();
  const watcher = await broker.open();
  await watcher.subscribe(`${root}/#`);
  await watcher.publish(`${root}/live`, 'last');
  assert.deepEqual(await messagesBefore(watcher, 'last'), []);
});

test('[MQTT-3.2.0-1] CONNACK comes before the answers to what was sent right behind CONNECT', async () => {
  const client = await broker.connect();
  client.send(
    wrongConnect(),
    { cmd: 'subscribe', messageId: 7, subscriptions: [{ topic: uniqueTopic(), qos: 1 }] },
    { cmd: 'pingreq' },
  );
  await assertConnack(client, ACCEPTED);
  const suback = await client.find('suback');
  assert.equal(suback.messageId, 7);
  await client.find('pingresp');
});

test('[MQTT-3.2.0-1] CONNACK comes before the messages a session was waiting with', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const away = await broker.open({ clientId, clean: false });
  await away.subscribe(topic, 1);
  await away.disconnect();
  const publisher = await broker.open();
  await publisher.publish(topic, 'waiting', { qos: 1 });
  const back = await broker.connect();
  back.sendConnect({ clientId, clean: false });
  await assertConnack(back, [0x20, 0x02, 0x01, 0x00]);
  await back.expectMessage(topic, 'waiting');
});

test('[MQTT-3.2.2-1] session present is 0 for clean session 1, even where a session existed', async () => {
  const clientId = uniqueClientId();
  const first = await broker.open({ clientId, clean: false });
  await first.disconnect();
  const second = await broker.connect();
  second.sendConnect({ clientId, clean: true });
  await assertConnack(second, ACCEPTED);
});

test('[MQTT-3.2.2-2] session present is 1 where a session exists, connected or not', async () => {
  const clientId = uniqueClientId();
  const first = await broker.open({ clientId, clean: false });
  const second = await broker.connect();
  second.sendConnect({ clientId, clean: false });
  await assertConnack(second, [0x20, 0x02, 0x01, 0x00]);
  await first.expectClosed();
  await second.disconnect();
  const third = await broker.connect();
  third.sendConnect({ clientId, clean: false });
  await assertConnack(third, [0x20, 0x02, 0x01, 0x00]);
});

test('[MQTT-3.2.2-3] session present is 0 for a client never seen', async () => {
  const client = await broker.connect();
  client.sendConnect({ clean: false });
  await assertConnack(client, ACCEPTED);
});

test('[MQTT-3.2.2-3] session present is 0 where the only session before was a clean one', async () => {
  const clientId = uniqueClientId();
  const first = await broker.open({ clientId, clean: true });
  await first.subscribe(uniqueTopic(), 1);
  await first.disconnect();
  const second = await broker.connect();
  second.sendConnect({ clientId, clean: false });
  await assertConnack(second, ACCEPTED);
});

test('[MQTT-7.0.0-2] a client that knows nothing but the standard connects, subscribes, publishes and leaves', async () => {
  const client = await broker.connect();
  client.send([0x10, 0x0d, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 1, 0x7a]);
  await assertConnack(client, ACCEPTED);
  client.send([0x82, 0x08, 0, 1, 0, 3, 0x7a, 0x2f, 0x7a, 0]);
  assert.deepEqual([...(await client.expect('suback')).raw], [0x90, 0x03, 0, 1, 0]);
  client.send([0x30, 0x06, 0, 3, 0x7a, 0x2f, 0x7a, 0x21]);
  assert.deepEqual([...(await client.expect('publish')).raw], [0x30, 0x06, 0, 3, 0x7a, 0x2f, 0x7a, 0x21]);
  client.send([0xe0, 0x00]);
  await client.expectClosed();
});

test('[MQTT-7.1.1-1] over TCP a long stream arrives complete, in order and unchanged in both directions', async () => {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  const payloads = Array.from({ length: 200 }, (_, index) => Buffer.alloc(1 + ((index * 97) % 4000), index));
  for (const payload of payloads) client.sendPublish(topic, payload, { qos: 1 });
  for (const payload of payloads) {
    const message = await client.find('publish');
    assert.ok(message.payload.equals(payload), `${payload.length} bytes of ${payload[0]}`);
    await client.acknowledge(message);
  }
});
