// Clients that follow the letter of the protocol and mean no good: what they cost is bounded, and nobody else pays for it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encode, type FakeClient, publishBytes, tick, until, withBroker } from '../broker/harness.js';

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await tick();
}

/** `count` publishes in one chunk. */
function burst(count: number, topic: string, bytes: number, qos: 0 | 1 | 2, firstId = 1): Buffer {
  const payload = Buffer.alloc(bytes, 'x');
  const packets = Array.from({ length: count }, (_, i) =>
    publishBytes(4, topic, payload, { qos, messageId: ((firstId + i - 1) % 65_535) + 1 }),
  );
  return Buffer.concat(packets);
}

test('a subscriber that stops reading costs its outbox, and the others lose nothing', () =>
  withBroker({ limits: { outboxBytes: 65_536 } }, async (broker) => {
    const publisher = await broker.open();
    const stuck = await broker.open({ clientId: 'stuck', clean: false });
    const reading = (await broker.open()).acknowledgeAll();
    for (const client of [stuck, reading]) {
      await broker.subscribe(client, 'zero', 0);
      await broker.subscribe(client, 'one', 1);
    }
    stuck.transport.isStalled = true;
    const session = broker.broker.state.session('stuck')!;
    for (let round = 0; round < 200; round++) {
      publisher.send(burst(20, 'zero', 1000, 0));
      publisher.send(burst(20, 'one', 1000, 1, round * 20 + 1));
      await tick();
      const { queuedBytes } = session.outbox!;
      // One packet, or one run of packets that arrived together, may go over the bound.
      assert.ok(queuedBytes < 65_536 + 25_000, `${queuedBytes} bytes are queued`);
      assert.ok(stuck.transport.pendingBytes <= queuedBytes);
    }
    await until(() => reading.payloads.length === 8000, 'every message to the one that reads');
    assert.ok(
      broker.broker.delivery.counters.droppedOutboxFull > 3000,
      'QoS 0 messages were dropped, and counted',
    );
    // QoS 1 waits in the log and comes as soon as somebody reads.
    stuck.acknowledgeAll();
    for (const packet of stuck.packets)
      if (packet.qos === 1) stuck.send({ cmd: 'puback', messageId: packet.messageId });
    stuck.transport.unstall();
    await until(
      () => stuck.all('publish').filter(({ topic }) => topic === 'one').length === 4000,
      'the backlog',
    );
  }));

test('a client that does not take its answers is not read from', () =>
  withBroker({ limits: { outboxBytes: 4096 } }, async (broker) => {
    const client = await broker.open();
    client.transport.isStalled = true;
    const pings = Buffer.alloc(2000, Buffer.from([0xc0, 0]));
    let chunks = 0;
    for (; chunks < 100 && !client.transport.isPaused; chunks++) {
      client.transport.receive(pings);
      await tick();
    }
    assert.ok(chunks < 10, `${chunks} chunks were read`);
    client.transport.unstall();
    await until(() => !client.transport.isPaused, 'reading goes on');
    assert.equal(client.all('pingresp').length, chunks * 1000);
  }));

test('a 5.0 publisher that ignores Receive Maximum is closed with 0x93, and not before', () =>
  withBroker({ mqtt: { receiveMaximum: 10 } }, async (broker) => {
    const client = await broker.open({ version: 5 });
    const publish = (messageId: number): void =>
      client.send(publishBytes(5, 't', 'x', { qos: 2, messageId }));
    for (let id = 1; id <= 10; id++) publish(id);
    await until(() => client.all('pubrec').length === 10, 'ten answers');
    // PUBREC gives nothing back; PUBCOMP does [MQTT-4.9.0-2].
    client.send({ cmd: 'pubrel', messageId: 1 });
    await until(() => client.all('pubcomp').length === 1, 'PUBCOMP');
    publish(11);
    await until(() => client.all('pubrec').length === 11, 'the eleventh answer');
    publish(12);
    await until(() => client.transport.isClosed, 'the connection is closed');
    assert.equal(client.all('disconnect')[0]!.reasonCode, 0x93);
  }));

test('all 65,535 QoS 2 publishes without PUBREL cost a bit each, and end with the session', () =>
  withBroker({}, async (broker) => {
    const client = await broker.open({ clientId: 'forgetful' });
    const watcher = await broker.open();
    await broker.subscribe(watcher, 't', 0);
    for (let id = 1; id <= 65_535; id += 4095) client.send(burst(4095, 't', 1, 2, id));
    await until(() => client.all('pubrec').length >= 65_535, 'every PUBREC');
    const session = broker.broker.state.session('forgetful')!;
    assert.equal(session.receivedCount, 65_535);
    const { endOffset } = broker.broker.log;
    client.send(burst(100, 't', 1, 2));
    assert.equal(broker.broker.log.endOffset, endOffset, 'what is repeated is not kept again');
    assert.equal(watcher.payloads.length, endOffset);
    client.transport.cut(0);
    assert.equal(broker.broker.state.session('forgetful'), undefined);
  }));

test('a storm of connections of one client id leaves one connection, and every one before is told', () =>
  withBroker({}, async (broker) => {
    const clients: FakeClient[] = [];
    for (let i = 0; i < 1000; i++) {
      const client = broker.client(5);
      client.connect({ clientId: 'same', expirySeconds: 100, clean: i % 7 === 0 });
      client.send(
        encode({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: `t/${i % 5}`, qos: 1 }] }, 5),
      );
      clients.push(client);
      if (i % 10 === 0) await tick();
    }
    await until(
      () => clients.slice(0, -1).every(({ transport }) => transport.isClosed),
      'the others are closed',
    );
    assert.equal(broker.broker.connectionCount, 1);
    assert.equal(broker.broker.state.sessionCount, 1);
    for (const client of clients.slice(0, -1)) {
      assert.deepEqual(
        client.all('disconnect').map(({ reasonCode }) => reasonCode),
        [0x8e],
      );
    }
    assert.equal(clients.at(-1)!.transport.isEnded, false);
  }));

test('a storm of connections that say nothing is over when their time is', () =>
  withBroker({ limits: { connectTimeoutSeconds: 10 } }, async (broker) => {
    const clients = Array.from({ length: 2000 }, () => broker.client());
    assert.equal(broker.broker.connectionCount, 2000);
    broker.clock.now += 11_000;
    await new Promise<void>((resolve) => {
      // The sweep runs on a timer of its own; looked for in turns of the loop it would be missed.
      const look = setInterval(() => {
        if (!clients.every(({ transport }) => transport.isClosed)) return;
        clearInterval(look);
        resolve();
      }, 10);
    });
    assert.equal(broker.broker.connectionCount, 0);
  }));

test('durable sessions beyond the limit are refused, others are not, and ended ones make room', () =>
  withBroker({ limits: { sessions: 50 } }, async (broker) => {
    for (let i = 0; i < 50; i++)
      (await broker.open({ version: 5, clientId: `${i}`, expirySeconds: 100 })).transport.cut(0);
    const refused = broker.client(5);
    refused.connect({ clientId: 'one more', expirySeconds: 100 });
    await until(() => refused.transport.isClosed, 'the refusal');
    assert.equal(refused.packets[0]!.reasonCode, 0x97);
    // One that ends with its connection is bounded by the connections.
    const passing = await broker.open({ version: 5, clientId: 'passing' });
    passing.transport.cut(0);
    await broker.open({ version: 5, clientId: '7', clean: true });
    assert.equal(broker.broker.state.sessionCount, 50);
  }));

test('subscribing, unsubscribing and leaving at once leaves nothing behind (CVE-2025-59946)', () =>
  withBroker({}, async (broker) => {
    const publisher = await broker.open();
    const filters = ['a/#', '+/b', 'a/b', '$share/g/a/#', '$share/g/+/b'];
    for (let i = 0; i < 500; i++) {
      const client = broker.client(i % 2 === 0 ? 4 : 5);
      client.connect({ clientId: `race-${i % 9}` });
      const packet = (cmd: string): Buffer =>
        encode(
          cmd === 'subscribe'
            ? { cmd, messageId: 1, subscriptions: filters.map((topic) => ({ topic, qos: i % 3 })) }
            : { cmd, messageId: 2, unsubscriptions: filters.slice(0, 1 + (i % 4)) },
          client.version,
        );
      publisher.send(publishBytes(4, 'a/b', `${i}`, { qos: 1, messageId: i + 1 }));
      client.send(packet('subscribe'));
      publisher.send(publishBytes(4, 'a/b', `${i}`, { qos: 2, messageId: 1000 + i }));
      if (i % 3 === 0) client.send(packet('unsubscribe'));
      if (i % 5 === 0) await tick();
      if (i % 2 === 0) client.transport.cut(i % 40);
      else if (i % 3 === 0) client.send({ cmd: 'disconnect' });
    }
    await turns(5);
    for (let i = 0; i < 9; i++) (await broker.open({ clientId: `race-${i}` })).transport.cut(0);
    assert.equal(broker.broker.connectionCount, 1);
    assert.equal(broker.broker.router.subscriptionCount, 0);
    assert.equal(broker.broker.state.sessionCount, 1);
    assert.equal(broker.broker.commits.size, 0);
  }));

test('1,000 overlapping wildcards over 50,000 retained messages: others are served meanwhile, and all of it arrives', () =>
  withBroker({ limits: { outboxBytes: 65_536 } }, async (broker) => {
    const publisher = await broker.open();
    for (let i = 0; i < 50; i++) {
      publisher.send(
        Buffer.concat(
          Array.from({ length: 1000 }, (_, k) =>
            publishBytes(4, `r/${i}/${k % 10}/${k}`, 'retained', { retain: true }),
          ),
        ),
      );
      await tick();
    }
    assert.equal(broker.broker.state.retained.size, 50_000);
    const other = await broker.open();
    await broker.subscribe(other, 'other', 0);
    const greedy = await broker.open({ clientId: 'greedy' });
    // Everything, twenty groups of a thousand, and single messages among them: each filter gets all that it matches.
    const filters = [
      'r/#',
      ...Array.from({ length: 20 }, (_, i) => `r/${i}/#`),
      ...Array.from({ length: 979 }, (_, k) => `r/${k % 50}/+/${k}`),
    ];
    greedy.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: filters.map((topic) => ({ topic, qos: 0 })),
    });
    let slowest = 0;
    for (let i = 0; i < 30; i++) {
      const before = performance.now();
      publisher.send(publishBytes(4, 'other', `${i}`));
      await until(() => other.payloads.length === i + 1, 'the message of another', 500);
      slowest = Math.max(slowest, performance.now() - before);
      assert.ok(broker.broker.state.session('greedy')!.outbox!.queuedBytes < 65_536 + 1000);
    }
    assert.ok(slowest < 500, `another message took ${slowest} ms`);
    const expected = 50_000 + 20 * 1000 + 979;
    await until(() => greedy.all('publish').length >= expected, `${expected} retained messages`);
    await turns(20);
    assert.equal(greedy.all('publish').length, expected);
  }));

test('a storm of retained messages stops at the limits of count and bytes, and what is replaced or removed makes room', () =>
  withBroker({ limits: { retainedMessages: 100, retainedBytes: 20_000 } }, async (broker) => {
    const client = await broker.open({ version: 5 });
    let id = 0;
    const set = async (topic: string, bytes: number): Promise<number> => {
      const messageId = ++id;
      client.send(publishBytes(5, topic, Buffer.alloc(bytes), { qos: 1, messageId, retain: true }));
      await until(() => client.all('puback').length === messageId, 'the answer');
      return client.all('puback').at(-1)!.reasonCode ?? 0;
    };
    for (let i = 0; i < 100; i++) assert.ok((await set(`r/${i}`, 1)) < 0x80);
    assert.equal(await set('r/100', 1), 0x97);
    assert.ok((await set('r/7', 2)) < 0x80, 'one that is there may be replaced');
    assert.ok((await set('r/8', 0)) < 0x80, 'and removed');
    assert.ok((await set('r/100', 1)) < 0x80);
    assert.equal(await set('r/5', 20_000), 0x97, 'too many bytes');
    assert.ok(broker.broker.state.retainedBytes <= 20_000);
    for (let i = 0; i <= 100; i++) await set(`r/${i}`, 0);
    assert.deepEqual([broker.broker.state.retained.size, broker.broker.state.retainedBytes], [0, 0]);
  }));

test('sessions that never expire, with a backlog: the log stays within its hard limit, and says what it lets go of (CVE-2025-62723)', () =>
  withBroker(
    { log: { segmentBytes: 65_536, retentionBytes: 131_072, hardLimitBytes: 524_288 } },
    async (broker) => {
      for (let i = 0; i < 20; i++) {
        const client = await broker.open({ clientId: `gone-${i}`, clean: false });
        await broker.subscribe(client, 'backlog', 1);
        client.transport.cut(0);
      }
      const publisher = await broker.open();
      for (let i = 0; i < 100; i++) {
        publisher.send(burst(20, 'backlog', 1000, 1, i * 20 + 1));
        await tick();
        assert.ok(
          broker.broker.log.storedBytes <= 524_288 + 65_536,
          `${broker.broker.log.storedBytes} bytes are kept`,
        );
      }
      const lines = broker.logger.lines.filter(({ message }) => message.includes('hard limit'));
      assert.ok(lines.length > 0, 'it is logged');
      const { startOffset, endOffset } = broker.broker.log;
      assert.equal(lines.at(-1)!.fields?.to, startOffset);
      // What is still there comes, in order, from the first record that is.
      const back = await broker.open({ clientId: 'gone-3', clean: false });
      back.acknowledgeAll();
      for (const packet of back.packets) back.send({ cmd: 'puback', messageId: packet.messageId });
      await until(
        () => back.all('publish').length === endOffset - startOffset,
        'what is left of the backlog',
      );
      // Sessions cost a cursor each: nothing is queued for those that are away.
      const memory = [...broker.broker.state.sessions()].filter((session) => session.hasInflight);
      assert.deepEqual(memory, []);
    },
  ));
