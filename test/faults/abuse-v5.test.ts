// Bad input and abuse by MQTT 5.0 clients: what a broker open to the world is sent, and must answer, bound or cut off without harm to others.
// What breaks a numbered statement is tested in test/conformance/v5; here are the attacks and the limits.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import {
  block,
  CLEAN_START,
  connectFrame,
  expectFilterRefused,
  expectRefused,
  nextPacket,
  P,
  property,
  publishFrame,
  reasonOf,
  subscribeFrame,
  useBroker,
  WILL,
} from '../conformance/v5/support.js';
import { frame, prefixed, RawClient, type Received, uint16, uniqueClientId } from '../support/raw-client.js';
import { uniqueTopic, withBroker } from '../support/suite.js';

const broker = useBroker({ limits: { connectTimeoutSeconds: 1 } });

/** The broker serves others. */
async function expectHealthy(): Promise<void> {
  const topic = uniqueTopic();
  const client = await broker.open();
  await client.subscribe(topic, 1);
  await client.publish(topic, 'healthy', { qos: 1 });
  await client.expectMessage(topic, 'healthy');
  await client.disconnect();
}

describe('before CONNECT', () => {
  const inputs: [string, number[]][] = [
    ['PUBACK', [0x40, 0x02, 0x00, 0x01]],
    ['a remaining length without end', [0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]],
    ['a CONNECT with a remaining length without end', [0x10, 0xff, 0xff, 0xff, 0xff, 0x7f]],
    ['a CONNECT larger than any', [0x10, 0xff, 0xff, 0xff, 0x7f]],
    ['a PUBLISH larger than any (CVE-2017-7651)', [0x30, 0xff, 0xff, 0xff, 0x7f]],
    ['HTTP', [...Buffer.from('GET / HTTP/1.1\r\nHost: broker\r\n\r\n')]],
    ['a TLS handshake', [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]],
    ['packet type 0', [0x00, 0x00]],
  ];
  for (const [what, bytes] of inputs) {
    test(`${what} ends the connection at once`, async () => {
      const client = await broker.dial();
      const from = performance.now();
      client.send(bytes);
      await client.closed();
      assert.ok(performance.now() - from < 900, 'only the timeout ended it');
      for (const packet of client.queue) assert.equal(packet.cmd, 'connack');
    });
  }

  test('a property length without end in CONNECT (CVE-2026-21888)', async () => {
    const client = await broker.dial();
    client.send(frame(0x10, prefixed('MQTT'), [5, CLEAN_START, 0, 60], [0xff, 0xff, 0xff, 0xff, 0x7f]));
    await expectRefused(client, 0x81);
  });

  test('silence, and a CONNECT that comes a byte at a time for ever, are cut off', async () => {
    const silent = await broker.dial();
    const trickling = await broker.dial();
    const bytes = connectFrame({ clientId: 'x'.repeat(200) });
    const from = performance.now();
    let position = 0;
    while (!trickling.isClosed && performance.now() - from < 2800) {
      trickling.send([bytes[position++]!]);
      await setTimeout(100);
    }
    await trickling.expectClosed();
    await silent.expectClosed();
  });
});

describe('CONNECT', () => {
  test('will properties that are wrong in every way (CVE-2023-3592)', async () => {
    const wrong = [
      block(property(P.topicAlias, 1)),
      block([0x18, 0x00]),
      Buffer.from([0x7f]),
      Buffer.from([0xff, 0xff, 0xff, 0x7f]),
      block(property(P.willDelay, 1), property(P.willDelay, 1)),
    ];
    for (const properties of wrong) {
      const client = await broker.dial();
      const payload = [properties, prefixed('a/will'), prefixed('gone')];
      client.send(connectFrame({ flags: CLEAN_START | WILL, payload }));
      await expectRefused(client, 0x81, 0x82);
    }
    await expectHealthy();
  });

  test('one client id from many sockets, racing, with clean and unclean starts: one is left', async () => {
    const clientId = uniqueClientId();
    const clients = await Promise.all(Array.from({ length: 20 }, () => broker.dial()));
    for (const [index, client] of clients.entries()) {
      client.sendConnect({
        version: 5,
        clientId,
        clean: index % 2 === 0,
        properties: { sessionExpiryInterval: 5 },
      });
    }
    // Each is accepted and taken over, in whatever order they arrived.
    const last = await broker.open({ clientId, clean: false });
    for (const client of clients) await client.closed();
    for (const client of clients) {
      const names = client.queue.map(({ cmd }) => cmd);
      assert.deepEqual(names, ['connack', 'disconnect']);
    }
    assert.equal(last.connack?.sessionPresent, true);
    await last.barrier();
  });

  test('a client id of 65,535 bytes is taken or refused, and no more', async () => {
    const client = await broker.dial();
    client.send(connectFrame({ clientId: 'x'.repeat(65_535) }));
    const connack = await client.expect('connack');
    assert.ok([0x00, 0x85, 0x97].includes(connack.reasonCode ?? -1));
    await expectHealthy();
  });
});

describe('packets', () => {
  test('a PUBLISH to $SYS reaches nobody, or is refused (CVE-2018-12543)', async () => {
    const client = await broker.open();
    await client.subscribe('$SYS/#', 1);
    await client.barrier();
    client.send(
      publishFrame('$SYS/broker/version', { qos: 1, packetId: 9, payload: 'forged', retain: true }),
    );
    const answer = await client.find('puback');
    assert.equal(answer.messageId, 9);
    assert.ok([0x00, 0x10, 0x87, 0x90].includes(reasonOf(answer)));
    await client.barrier();
    const got = client.queue.filter((packet): packet is Received<'publish'> => packet.cmd === 'publish');
    assert.ok(got.every((packet) => packet.payload.toString() !== 'forged'));
    await expectHealthy();
  });

  test('a SUBSCRIBE that announces 1024 bytes and sends none is waited for, and costs nothing', async () => {
    const client = await broker.open();
    client.send([0x82, 0x80, 0x08]);
    await expectHealthy();
    client.destroy();
  });

  test('topics with more levels, or longer, than the limit', async () => {
    await withBroker({ limits: { topicLevels: 8, topicBytes: 64 } }, async ({ port }) => {
      for (const topic of ['a/b/c/d/e/f/g/h/i', 'x'.repeat(65)]) {
        const client = await RawClient.open(port, { version: 5 });
        client.send(publishFrame(topic, { qos: 1, packetId: 9 }));
        const answer = await nextPacket(client);
        assert.ok([0x90, 0x97].includes(reasonOf(answer)), `${answer.cmd} ${reasonOf(answer)}`);
        const subscribing = await RawClient.open(port, { version: 5 });
        subscribing.send(subscribeFrame(1, [[topic, 0]]));
        await expectFilterRefused(subscribing, 0x8f, 0x97);
      }
      const client = await RawClient.open(port, { version: 5 });
      await client.subscribe('a/b/c/d/e/f/g/+');
      await client.publish('a/b/c/d/e/f/g/h', 'x');
      await client.expectMessage('a/b/c/d/e/f/g/h', 'x');
    });
  });

  test('subscriptions beyond the limit of a session get 0x97, those there were go on', async () => {
    await withBroker({ limits: { subscriptionsPerSession: 3 } }, async ({ port }) => {
      const client = await RawClient.open(port, { version: 5 });
      const topic = uniqueTopic();
      assert.deepEqual(
        await client.subscribe([1, 2, 3, 4].map((level) => `${topic}/${level}`)),
        [0, 0, 0, 0x97],
      );
      // Replacing one is not one more; leaving one makes room.
      assert.deepEqual(await client.subscribe(`${topic}/3`, 1), [1]);
      await client.unsubscribe(`${topic}/1`);
      assert.deepEqual(await client.subscribe(`${topic}/4`), [0]);
      await client.publish(`${topic}/2`, 'x');
      await client.expectMessage(`${topic}/2`, 'x');
    });
  });

  test('connections beyond the limit are refused, and there is room again', async () => {
    await withBroker({ limits: { connections: 3 } }, async ({ port }) => {
      const clients: RawClient[] = [];
      for (let index = 0; index < 3; index++) clients.push(await RawClient.open(port, { version: 5 }));
      const refused = await RawClient.connect(port, { version: 5 });
      refused.sendConnect({ version: 5 });
      await refused.closed();
      for (const packet of refused.queue) {
        assert.ok(packet.cmd === 'connack' && [0x88, 0x89, 0x97].includes(packet.reasonCode ?? 0));
      }
      await clients[0]!.disconnect();
      // Its place is free when the broker has seen the end of it, which is not ours to wait for.
      for (let attempt = 1; ; attempt++) {
        const next = await RawClient.connect(port, { version: 5 });
        next.sendConnect({ version: 5 });
        const answer = await nextPacket(next).catch(() => undefined);
        if (answer?.cmd === 'connack' && answer.reasonCode === 0) break;
        assert.ok(attempt < 20, 'no room after twenty attempts');
        await setTimeout(50);
      }
    });
  });

  test('acks for deliveries that never were, thousands of them', async () => {
    const client = await broker.open();
    const acks: Buffer[] = [];
    for (let packetId = 1; packetId <= 2000; packetId++) {
      acks.push(frame(0x40, uint16(packetId)), frame(0x70, uint16(packetId)));
    }
    client.send(Buffer.concat(acks));
    await client.barrier();
    await expectHealthy();
  });

  test('PINGREQ by the thousand from a client that does not read', async () => {
    const client = await broker.open();
    client.pause();
    for (let index = 0; index < 50; index++) client.send(Buffer.alloc(20_000, Buffer.from([0xc0, 0x00])));
    await expectHealthy();
    client.destroy();
  });
});

describe('subscribers', () => {
  test('SUBSCRIBE and DISCONNECT in one write, over and over (CVE-2025-59946)', async () => {
    const topic = uniqueTopic();
    const publisher = await broker.open();
    for (let round = 0; round < 30; round++) {
      const client = await broker.dial();
      client.send(
        connectFrame({}),
        subscribeFrame(1, [
          [`${topic}/#`, 2],
          [`$share/g/${topic}`, 2],
        ]),
        frame(0xe0),
      );
      publisher.sendPublish(topic, `${round}`, { qos: 1 });
      await client.closed();
    }
    for (let round = 0; round < 30; round++) await publisher.find('puback');
    await expectHealthy();
  });

  test('a subscriber that stops reading holds nobody up', async () => {
    const topic = uniqueTopic();
    const stalled = await broker.open();
    await stalled.subscribe(topic);
    stalled.pause();
    const reading = await broker.open();
    await reading.subscribe(topic);
    const publisher = await broker.open();
    const payload = Buffer.alloc(10_000, 'x');
    // 20 MB for the one who does not read: far beyond its outbox and the buffers of the system.
    for (let index = 0; index < 2000; index += 50) {
      for (let batch = 0; batch < 50; batch++) publisher.sendPublish(topic, payload);
      for (let batch = 0; batch < 50; batch++) await reading.expect('publish');
    }
    await expectHealthy();
    stalled.destroy();
  });

  test('a hundred overlapping wildcards over a hundred retained messages, then a live one', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    const levels = Array.from({ length: 100 }, (_, index) => `${topic}/${index}/x`);
    for (const level of levels) client.sendPublish(level, 'kept', { retain: true });
    await client.barrier();
    // Half of the filters match everything, the others one message each.
    const filters = levels.map((level, index): [string, number] => [
      index % 2 === 0 ? `${topic}/+/${index === 0 ? '+' : 'x'}` : level,
      0x00,
    ]);
    client.send(subscribeFrame(1, filters));
    assert.equal((await client.find('suback')).granted.length, 100);
    // At least what the three kinds of filters have to be sent; the same filter many times in one packet may be answered once.
    for (let index = 0; index < 250; index++) assert.equal((await client.find('publish')).retain, true);
    await client.publish(levels[1]!, 'live');
    let last: Received<'publish'>;
    do last = await client.find('publish');
    while (last.retain);
    assert.equal(last.payload.toString(), 'live');
    await client.expectQuiet();
  });

  test('sessions that never expire are bounded', async () => {
    await withBroker({ limits: { sessions: 5 } }, async ({ port }) => {
      const properties = { sessionExpiryInterval: 0xffff_ffff };
      let refused = 0;
      for (let index = 0; index < 8; index++) {
        const client = await RawClient.connect(port, { version: 5 });
        client.sendConnect({ version: 5, clientId: uniqueClientId(), properties });
        const connack = await client.expect('connack');
        if (connack.reasonCode === 0) {
          await client.disconnect();
        } else {
          assert.equal(connack.reasonCode, 0x97);
          refused += 1;
        }
      }
      assert.equal(refused, 3);
    });
  });
});
