// Delivery where room, order and limits meet: each of these was wrong once, and each test is the smallest program that shows it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encode, publishBytes, tick, until, withBroker } from './harness.js';

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await tick();
}

for (const drainsBeforeWritten of [true, false]) {
  test(`retained QoS 0 messages larger together than the outbox all arrive (drain ${drainsBeforeWritten ? 'before' : 'after'} the write callbacks)`, () =>
    withBroker({}, async (broker) => {
      const publisher = await broker.open();
      for (let i = 0; i < 6; i++)
        publisher.send(publishBytes(4, `r/${i}`, Buffer.alloc(600_000, i), { retain: true }));
      await turns(3);
      const subscriber = await broker.open({}, { drainsBeforeWritten });
      await broker.subscribe(subscriber, 'r/#', 0);
      await turns(50);
      assert.equal(subscriber.all('publish').length, 6);
    }));
}

test('a session that fell behind because of its outbox is served again although the transport never was full', () =>
  withBroker({ limits: { outboxBytes: 4096 } }, async (broker) => {
    const publisher = await broker.open();
    const subscriber = await broker.open();
    await broker.subscribe(subscriber, 't/0', 0);
    await broker.subscribe(subscriber, 't/1', 1);
    // One chunk, so one turn: 5,000 bytes of QoS 0 fill the outbox, the QoS 1 message does not fit.
    publisher.send(
      Buffer.concat([
        publishBytes(4, 't/0', Buffer.alloc(5000)),
        publishBytes(4, 't/1', 'important', { qos: 1, messageId: 1 }),
      ]),
    );
    await turns(50);
    assert.deepEqual(subscriber.payloads.slice(1), ['important']);
  }));

test('a client whose answers passed the bound for reading is read again although the transport never was full', () =>
  withBroker({ limits: { outboxBytes: 4096 } }, async (broker) => {
    const client = await broker.open();
    client.send(Buffer.concat(Array.from({ length: 5000 }, () => Buffer.from([0xc0, 0]))));
    await turns(20);
    assert.equal(client.all('pingresp').length, 5000);
    assert.equal(client.transport.isPaused, false);
  }));

test('a retained message that waited for room does not follow a newer message of its topic', () =>
  withBroker({}, async (broker) => {
    const publisher = await broker.open();
    publisher.send(publishBytes(4, 'r/1', 'old 1', { qos: 1, messageId: 1, retain: true }));
    publisher.send(publishBytes(4, 'r/2', 'old 2', { qos: 1, messageId: 2, retain: true }));
    await turns(3);
    const subscriber = await broker.open({ version: 5, receiveMaximum: 1 });
    await broker.subscribe(subscriber, 'r/#', 1);
    await until(() => subscriber.payloads.length === 1, 'the first retained message');
    const [first] = subscriber.all('publish');
    const waiting = first!.topic === 'r/1' ? 'r/2' : 'r/1';
    // The acknowledgement makes room in the same turn in which a new message of the waiting topic is committed.
    publisher.send(publishBytes(4, waiting, 'new', { qos: 1, messageId: 3, retain: true }));
    subscriber.send({ cmd: 'puback', messageId: first!.messageId });
    subscriber.acknowledgeAll();
    await turns(2);
    for (const packet of subscriber.all('publish').slice(1))
      subscriber.send({ cmd: 'puback', messageId: packet.messageId });
    await turns(20);
    const ofTopic = subscriber.all('publish').filter(({ topic }) => topic === waiting);
    assert.equal(ofTopic.at(-1)!.payload.toString(), 'new', `${ofTopic.map(({ payload }) => payload)}`);
  }));

test('retained messages that arrive together keep to the limit', () =>
  withBroker({ limits: { retainedMessages: 10 } }, async (broker) => {
    const publisher = await broker.open({ version: 5 });
    publisher.send(
      Buffer.concat(
        Array.from({ length: 100 }, (_, i) =>
          publishBytes(5, `r/${i}`, 'x', { qos: 1, messageId: i + 1, retain: true }),
        ),
      ),
    );
    await until(() => publisher.all('puback').length === 100, 'every answer');
    assert.equal(broker.broker.state.retained.size, 10);
  }));

test('a client with 60,000 messages in flight and a shared subscription does not end the process', () =>
  withBroker({}, async (broker) => {
    const publisher = await broker.open();
    const first = await broker.open({
      version: 5,
      clientId: 'greedy',
      clean: true,
      expirySeconds: 1000,
      receiveMaximum: 65_534,
    });
    await broker.subscribe(first, 't', 1);
    for (let i = 0; i < 60; i++) {
      publisher.send(
        Buffer.concat(
          Array.from({ length: 1000 }, (_, k) =>
            publishBytes(4, 't', Buffer.alloc(30), { qos: 1, messageId: i * 1000 + k + 1 }),
          ),
        ),
      );
      await turns(4);
    }
    await until(() => first.all('publish').length === 60_000, '60,000 deliveries');
    first.transport.cut(0);
    await turns(3);
    const second = await broker.open({
      version: 5,
      clientId: 'greedy',
      clean: false,
      expirySeconds: 1000,
      receiveMaximum: 65_534,
    });
    second.transport.isStalled = true;
    second.send(
      encode({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '$share/g/u', qos: 1 }] }, 5),
    );
    await turns(3);
    // As soon as the client takes a little, and before the rest is sent again, messages of the group get ahead of it.
    const burst = Buffer.concat(
      Array.from({ length: 6000 }, (_, i) => publishBytes(4, 'u', 'x', { qos: 1, messageId: i + 1 })),
    );
    let isSent = false;
    second.onPacket = () => {
      if (!isSent) publisher.send(burst);
      isSent = true;
    };
    second.transport.unstall();
    await turns(10);
    const session = broker.broker.state.session('greedy')!;
    assert.ok(session.inflight.size < 65_535, `${session.inflight.size}`);
  }));

test('a durable session that is subscribed to nothing does not keep the log', () =>
  withBroker(
    { log: { segmentBytes: 65_536, retentionBytes: 131_072, hardLimitBytes: 1_048_576 } },
    async (broker) => {
      const idle = await broker.open({ clientId: 'idle', clean: false });
      idle.send({ cmd: 'disconnect' });
      const publisher = await broker.open();
      for (let i = 1; i <= 400; i++) {
        publisher.send(publishBytes(4, 't', Buffer.alloc(8000), { qos: 1, messageId: i }));
        await tick();
      }
      assert.ok(broker.broker.log.storedBytes < 300_000, `${broker.broker.log.storedBytes} bytes are kept`);
      assert.deepEqual(
        broker.logger.lines.filter(({ level }) => level === 'error'),
        [],
      );
    },
  ));

test('a backlog survives the replacement of its subscription by one of QoS 0 [MQTT-3.8.4-4]', () =>
  withBroker({}, async (broker) => {
    const publisher = await broker.open();
    const subscriber = await broker.open({ version: 5, receiveMaximum: 1 });
    await broker.subscribe(subscriber, 't', 1);
    for (let i = 1; i <= 3; i++) publisher.send(publishBytes(4, 't', `${i}`, { qos: 1, messageId: i }));
    await turns(3);
    await broker.subscribe(subscriber, 't', 0);
    // The backlog keeps the QoS under which it was subscribed to.
    for (let i = 0; i < 3; i++) {
      subscriber.send({ cmd: 'puback', messageId: subscriber.all('publish')[i]!.messageId! });
      await turns(10);
    }
    assert.deepEqual(subscriber.payloads, ['1', '2', '3']);
  }));

test('many subscriptions to one filter leave one scan of retained messages', () =>
  withBroker({}, async (broker) => {
    const publisher = await broker.open();
    for (let i = 0; i < 20; i++)
      publisher.send(publishBytes(4, `r/${i}`, Buffer.alloc(100_000), { retain: true }));
    await turns(5);
    const subscriber = await broker.open();
    subscriber.transport.isStalled = true;
    const one = encode({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'r/#', qos: 0 }] }, 4);
    const other = encode({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'r/+', qos: 0 }] }, 4);
    subscriber.send(one);
    await turns(5);
    for (let i = 0; i < 50; i++) {
      subscriber.send(Buffer.concat(Array.from({ length: 100 }, () => other)));
      await turns(2);
    }
    const session = [...broker.broker.state.sessions()].find((one) => one.subscriptions.size === 2)!;
    assert.ok(session.scans!.size <= 2, `${session.scans!.size} scans for 2 subscriptions`);
  }));
