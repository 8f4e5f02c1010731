// Subscriptions to history, over the log in memory and over one that commits late, in parts, and makes readers wait.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type FakeClient,
  publishBytes,
  type Received,
  type Sections,
  TestBroker,
  tick,
  until,
} from './harness.js';
import { type LateBehaviour, LateLog } from './late-log.js';

const LOGS: Record<string, Partial<LateBehaviour> | undefined> = {
  'the log in memory': undefined,
  'a late log': { seed: 7, commitTurnsMax: 4, batchRecordsMax: 5, readTurnsMax: 4, laterOneIn: 3 },
  'a late log that keeps nothing in memory': {
    seed: 11,
    commitTurnsMax: 2,
    isForgetful: true,
    laterOneIn: 2,
  },
};

/** The same test over each log. */
function replayTest(title: string, body: (test: TestBroker) => Promise<void>, sections: Sections = {}): void {
  for (const [log, behaviour] of Object.entries(LOGS)) {
    test(`${title}, over ${log}`, async () => {
      const broker = new TestBroker(
        sections,
        behaviour === undefined ? {} : { createLog: (options) => new LateLog(options, behaviour) },
      );
      try {
        await body(broker);
      } finally {
        await broker.stop();
      }
    });
  }
}

interface Published {
  qos?: 0 | 1 | 2;
  retain?: boolean;
}

/** Publishes and waits for the acknowledgements. */
class Publisher {
  readonly client: FakeClient;
  #lastId = 0;
  #acknowledged = 0;
  #expected = 0;

  private constructor(client: FakeClient) {
    this.client = client;
    client.onPacket = ({ cmd, messageId }) => {
      if (cmd === 'pubrec') client.send({ cmd: 'pubrel', messageId });
      if (cmd === 'puback' || cmd === 'pubcomp') this.#acknowledged++;
    };
  }

  static async open(broker: TestBroker, clientId = 'publisher'): Promise<Publisher> {
    return new Publisher(await broker.open({ version: 5, clientId }));
  }

  send(topic: string, payload: string, { qos = 1, retain = false }: Published = {}): void {
    this.#lastId = (this.#lastId % 60_000) + 1;
    if (qos > 0) this.#expected++;
    this.client.send(publishBytes(5, topic, payload, { qos, retain, messageId: this.#lastId }));
  }

  async settled(): Promise<void> {
    await until(() => this.#acknowledged === this.#expected, 'every publish is acknowledged');
  }

  async publish(topic: string, payloads: readonly string[], how: Published = {}): Promise<void> {
    for (const payload of payloads) this.send(topic, payload, how);
    await this.settled();
  }
}

/** `from` to `to`, both included. */
function range(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);
}

async function received(client: FakeClient, expected: readonly string[], what = 'messages'): Promise<void> {
  await until(
    () => client.payloads.length >= expected.length,
    `${what}: ${client.payloads} of ${expected}`,
    30_000,
  ).catch((error: Error) => {
    assert.deepEqual(client.payloads, expected, error.message);
  });
  for (let turn = 0; turn < 20; turn++) await tick();
  assert.deepEqual(client.payloads, expected, what);
}

/** The user properties of a message, by name. */
function userProperties(packet: Received): Record<string, string> {
  return { ...(packet.properties?.userProperties as Record<string, string> | undefined) };
}

/** Where a SUBACK says that history ended. */
function endOffsetOf(suback: Received): number {
  const offset = userProperties(suback)['gomq-end-offset'];
  assert.ok(offset !== undefined, 'SUBACK says where history ends');
  return Number(offset);
}

function offsetOf(packet: Received): number {
  const offset = userProperties(packet)['gomq-offset'];
  assert.ok(offset !== undefined, 'a message of history says its offset');
  return Number(offset);
}

async function subscribe(client: FakeClient, filter: string, options: object = {}): Promise<Received> {
  const before = client.all('suback').length;
  const { properties, ...subscription } = { properties: undefined, ...options } as Record<string, unknown>;
  client.send({
    cmd: 'subscribe',
    messageId: 60_001,
    subscriptions: [{ topic: filter, qos: 1, ...subscription }],
    ...(properties === undefined ? {} : { properties }),
  });
  await until(() => client.all('suback').length > before, `SUBACK for ${filter}`);
  return client.all('suback').at(-1)!;
}

replayTest('history comes from its start, in every version, then what is published', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 40));
  await publisher.publish('b', ['x']);
  const clients: FakeClient[] = [];
  for (const version of [3, 4, 5] as const) {
    const client = (await broker.open({ version })).acknowledgeAll();
    clients.push(client);
    await subscribe(client, '$replay/earliest/a');
    await received(client, range(1, 40), `version ${version}`);
  }
  await publisher.publish('a', range(41, 45));
  for (const client of clients) await received(client, range(1, 45));
});

replayTest('history comes from an offset, and one outside the log is moved into it', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 10));
  const at = broker.publishOffsets[6]!;
  for (const [from, expected] of [
    [`${at}`, range(7, 10)],
    [`${at + 1}`, range(8, 10)],
    ['0', range(1, 10)],
    ['9007199254740991', []],
  ] as const) {
    const client = (await broker.open({ version: 5 })).acknowledgeAll();
    await subscribe(client, `$replay/${from}/a`);
    await received(client, expected, from);
    await publisher.publish('a', []);
  }
});

test('history comes from a time, and from so long ago', async () => {
  const broker = new TestBroker();
  try {
    const publisher = await Publisher.open(broker);
    const large = 'x'.repeat(70_000);
    // The log in memory knows the time of a block of 64 KiB, so each has its own.
    for (const payload of ['1', '2', '3']) {
      await publisher.publish('a', [`${payload}${large}`]);
      broker.clock.now += 60_000;
    }
    const minute = (ago: number) => new Date(broker.clock.wallMs() - ago * 60_000).toISOString();
    for (const [from, expected] of [
      ['-2m', '23'],
      ['-1m30s', '23'],
      ['-60500ms', '3'],
      ['-1w2d', '123'],
      ['-0s', ''],
      [minute(2), '23'],
      [minute(1000), '123'],
      [minute(-5), ''],
    ] as const) {
      const client = (await broker.open({ version: 5 })).acknowledgeAll();
      await subscribe(client, `$replay/${from}/a`);
      const first = () => client.payloads.map((payload) => payload[0]).join('');
      for (let turn = 0; turn < 30; turn++) await tick();
      // As exactly as the log knows: up to one block earlier.
      assert.ok(first().endsWith(expected) && first().length <= expected.length + 1, `${from}: ${first()}`);
    }
  } finally {
    await broker.stop();
  }
});

test('what a client sends behind a subscription by time waits for its turn', async () => {
  const broker = new TestBroker();
  try {
    const client = await broker.open({ version: 5 });
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '$replay/-1h/a', qos: 0 }] });
    client.send({ cmd: 'subscribe', messageId: 2, subscriptions: [{ topic: 'b', qos: 0 }] });
    client.send({ cmd: 'unsubscribe', messageId: 3, unsubscriptions: ['$replay/-1h/a'] });
    client.send(publishBytes(5, 'a', 'nobody'));
    client.send(publishBytes(5, 'b', 'mine'));
    await until(() => client.all('publish').length > 0, 'the message');
    assert.deepEqual(
      client.packets.map(({ cmd, messageId }) => `${cmd} ${messageId}`),
      ['suback 1', 'suback 2', 'unsuback 3', 'publish undefined'],
    );
    assert.equal(client.transport.isPaused, false);
  } finally {
    await broker.stop();
  }
});

test('a beginning that is none is refused with 0x8F, and the text says why', async () => {
  const broker = new TestBroker();
  try {
    const client = await broker.open({ version: 5 });
    const old = await broker.open({ version: 4 });
    for (const [filter, why] of [
      ['$replay', /history begins at ''/],
      ['$replay/', /history begins at ''/],
      ['$replay/earliest', /no topic filter follows/],
      ['$replay/earliest/', /no topic filter follows/],
      ['$replay/latest/a', /history begins at 'latest': expected earliest, /],
      ['$replay/+/a', /history begins at '\+'/],
      ['$replay/-/a', /history begins at '-'/],
      ['$replay/-1y/a', /history begins at '-1y'/],
      ['$replay/-1/a', /history begins at '-1'/],
      ['$replay/1.5/a', /history begins at '1.5'/],
      ['$replay/2026-13-01T00:00:00Z/a', /history begins at '2026-13/],
      ['$replay/2026-01-01/a', /history begins at '2026-01-01'/],
      ['$replay/9999999999999999/a', /there is no offset/],
      ['$replay/earliest/a#', /# does not stand alone/],
      ['$replay/earliest/#/a', /# is not the last level/],
      ['$replay/earliest/$share/g/a', /cannot be subscribed to/],
      ['$replay/earliest/$replay/0/a', /cannot be subscribed to/],
    ] as const) {
      const { granted, properties } = await subscribe(client, filter);
      assert.deepEqual([filter, granted], [filter, [0x8f]]);
      assert.match(String(properties?.reasonString), why);
      assert.equal(properties?.userProperties, undefined);
      assert.deepEqual((await subscribe(old, filter)).granted, [0x80]);
    }
  } finally {
    await broker.stop();
  }
});

replayTest(
  'SUBACK says where history ends, and messages where they stand and when they came',
  async (broker) => {
    const publisher = await Publisher.open(broker);
    await publisher.publish('a', range(1, 5));
    const client = (await broker.open({ version: 5 })).acknowledgeAll();
    const end = endOffsetOf(await subscribe(client, '$replay/earliest/a'));
    assert.ok(end > broker.publishOffsets[4]!);
    await publisher.publish('a', ['6']);
    await received(client, range(1, 6));
    publisher.send('a', 'live', { qos: 0 });
    await received(client, [...range(1, 6), 'live']);
    const publishes = client.all('publish');
    assert.deepEqual(publishes.slice(0, 6).map(offsetOf), broker.publishOffsets.slice(0, 6));
    assert.ok(broker.publishOffsets[5]! >= end, 'what came later is behind the end');
    const time = new Date(broker.clock.wallMs()).toISOString();
    for (const packet of publishes.slice(0, 6)) assert.equal(userProperties(packet)['gomq-timestamp'], time);
    // It is not in the log.
    assert.deepEqual(userProperties(publishes[6]!), {});
  },
);

replayTest('user properties of the publisher come first, and others are not told offsets', async (broker) => {
  const client = await broker.open({ version: 5 });
  client.send({
    cmd: 'publish',
    topic: 'a',
    payload: 'x',
    qos: 1,
    messageId: 1,
    dup: false,
    retain: false,
    properties: { userProperties: { own: '1' }, contentType: 'text/plain' },
  });
  await until(() => client.all('puback').length === 1, 'PUBACK');
  const replaying = (await broker.open({ version: 5 })).acknowledgeAll();
  const ordinary = (await broker.open({ version: 5 })).acknowledgeAll();
  await subscribe(replaying, '$replay/0/a');
  const { properties } = await subscribe(ordinary, 'a');
  assert.equal(properties?.userProperties, undefined);
  await received(replaying, ['x']);
  const packet = replaying.all('publish')[0]!;
  assert.equal(packet.properties?.contentType, 'text/plain');
  assert.deepEqual(Object.keys(userProperties(packet)), ['own', 'gomq-offset', 'gomq-timestamp']);
});

replayTest('QoS is the lower of the two, and history of QoS 0 is what was retained', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', ['kept at 0'], { qos: 0, retain: true });
  await publisher.publish('a', ['lost at 0'], { qos: 0 });
  await publisher.publish('a', ['1'], { qos: 1 });
  await publisher.publish('a', ['2'], { qos: 2 });
  for (const qos of [0, 1, 2] as const) {
    const client = (await broker.open({ version: 5 })).acknowledgeAll();
    await subscribe(client, '$replay/earliest/a', { qos });
    await received(client, ['kept at 0', '1', '2']);
    assert.deepEqual(
      client.all('publish').map((packet) => [packet.qos, packet.retain]),
      [0, 1, 2].map((own) => [Math.min(own, qos), false]),
    );
  }
  const published = (await broker.open({ version: 5 })).acknowledgeAll();
  await subscribe(published, '$replay/earliest/a', { rap: true });
  await received(published, ['kept at 0', '1', '2']);
  assert.deepEqual(
    published.all('publish').map(({ retain }) => retain),
    [true, false, false],
  );
});

replayTest('wildcards, and topics that begin with $', async (broker) => {
  const publisher = await Publisher.open(broker);
  for (const topic of ['a', 'a/b', 'a/b/c', 'b', '$own/x']) await publisher.publish(topic, [topic]);
  for (const [filter, expected] of [
    ['#', ['a', 'a/b', 'a/b/c', 'b']],
    ['a/#', ['a', 'a/b', 'a/b/c']],
    ['+', ['a', 'b']],
    ['+/b/+', ['a/b/c']],
    ['$own/#', ['$own/x']],
    ['$SYS/#', []],
    ['/', []],
    ['no/such', []],
  ] as const) {
    const client = (await broker.open({ version: 5 })).acknowledgeAll();
    assert.deepEqual((await subscribe(client, `$replay/-1h/${filter}`)).granted, [1]);
    await received(client, expected, filter);
  }
});

replayTest(
  'nothing is left out and nothing repeated where history meets what is published',
  async (broker) => {
    const publisher = await Publisher.open(broker);
    await publisher.publish('a', range(1, 60));
    const clients: FakeClient[] = [];
    let next = 61;
    const flood = (count: number): void => {
      for (let i = 0; i < count; i++) publisher.send('a', `${next++}`, { qos: next % 2 === 0 ? 1 : 2 });
    };
    // One in each turn, while it goes on.
    for (let i = 0; i < 12; i++) {
      flood(3);
      const version = i % 2 === 0 ? 5 : 4;
      const client = broker.client(version);
      client.connect({ version, ...(version === 5 && i % 4 === 0 ? { receiveMaximum: 1 + (i % 3) } : {}) });
      client.acknowledgeAll();
      client.send({
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: [{ topic: `$replay/earliest/a`, qos: i % 3 === 0 ? 1 : 2 }],
      });
      clients.push(client);
      await tick();
    }
    for (let i = 0; i < 30; i++) {
      flood(2);
      await tick();
    }
    await publisher.settled();
    for (const client of clients) await received(client, range(1, next - 1));
  },
);

replayTest('retained QoS 0 that is not committed yet is neither missed nor repeated', async (broker) => {
  const publisher = await Publisher.open(broker);
  const clients: FakeClient[] = [];
  let next = 1;
  for (let i = 0; i < 40; i++) {
    publisher.send('a', `${next++}`, { qos: 0, retain: true });
    if (i % 5 === 0) {
      const client = broker.client(5);
      client.connect({ version: 5 });
      client.send({
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: [{ topic: '$replay/earliest/a', qos: 0 }],
      });
      clients.push(client);
    }
    await tick();
  }
  for (const client of clients) await received(client, range(1, 40));
});

replayTest('receive maximum 1', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 10), { qos: 2 });
  await publisher.publish('a', range(11, 20), { qos: 1 });
  const client = await broker.open({ version: 5, receiveMaximum: 1 });
  await subscribe(client, '$replay/earliest/a', { qos: 2 });
  let outstanding = 0;
  let highest = 0;
  client.onPacket = ({ cmd, qos, messageId }) => {
    if (cmd === 'publish' && qos > 0) highest = Math.max(highest, ++outstanding);
    if (cmd === 'publish' && qos === 2) client.send({ cmd: 'pubrec', messageId });
    if (cmd !== 'pubrel' && !(cmd === 'publish' && qos === 1)) return;
    outstanding--;
    client.send({ cmd: cmd === 'pubrel' ? 'pubcomp' : 'puback', messageId });
  };
  const [first] = client.all('publish');
  if (first !== undefined) client.onPacket(first);
  await received(client, range(1, 20));
  assert.equal(highest, 1);
});

replayTest('beside ordinary subscriptions of the same session', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 50));
  await publisher.publish('b', range(1, 5));
  const client = (await broker.open({ version: 5, receiveMaximum: 4 })).acknowledgeAll();
  await subscribe(client, 'b', { properties: { subscriptionIdentifier: 7 } });
  await subscribe(client, '$replay/earliest/a', { properties: { subscriptionIdentifier: 8 } });
  await publisher.publish('b', range(6, 20));
  await publisher.publish('a', range(51, 60));
  const on = (topic: string): Received[] => client.all('publish').filter((packet) => packet.topic === topic);
  await until(() => on('a').length >= 60 && on('b').length >= 15, 'both');
  for (let turn = 0; turn < 20; turn++) await tick();
  assert.deepEqual(
    on('a').map(({ payload }) => `${payload}`),
    range(1, 60),
  );
  assert.deepEqual(
    on('b').map(({ payload }) => `${payload}`),
    range(6, 20),
  );
  for (const packet of on('a')) assert.equal(packet.properties?.subscriptionIdentifier, 8);
  for (const packet of on('b')) {
    assert.equal(packet.properties?.subscriptionIdentifier, 7);
    assert.deepEqual(userProperties(packet), {});
  }
});

replayTest('once it has caught up, overlapping subscriptions are one delivery', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 3));
  const client = (await broker.open({ version: 5 })).acknowledgeAll();
  await subscribe(client, 'a', { properties: { subscriptionIdentifier: 1 } });
  await subscribe(client, '$replay/earliest/a', { qos: 2, properties: { subscriptionIdentifier: 2 } });
  await received(client, range(1, 3));
  await publisher.publish('a', ['4'], { qos: 2 });
  await received(client, range(1, 4));
  const last = client.all('publish').at(-1)!;
  assert.equal(last.qos, 2);
  assert.deepEqual([last.properties?.subscriptionIdentifier].flat(), [1, 2]);
  assert.ok(offsetOf(last) > 0);
});

replayTest('No Local leaves out what the session itself published', async (broker) => {
  const publisher = await Publisher.open(broker, 'one');
  await publisher.publish('a', ['1']);
  const other = await Publisher.open(broker, 'two');
  await other.publish('a', ['2']);
  await publisher.publish('a', ['3']);
  const { client } = publisher;
  const answer = client.onPacket!;
  client.onPacket = (packet) => {
    answer(packet);
    if (packet.cmd === 'publish' && packet.qos > 0)
      client.send({ cmd: 'puback', messageId: packet.messageId });
  };
  await subscribe(client, '$replay/earliest/a', { nl: true });
  await received(client, ['2']);
  await publisher.publish('a', ['4']);
  await other.publish('a', ['5']);
  await received(client, ['2', '5']);
  await subscribe(client, '$replay/0/a');
  await received(client, ['2', '5', ...range(1, 5)]);
});

replayTest('unsubscribing ends it, in the middle as well', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 50));
  const client = await broker.open({ version: 5, receiveMaximum: 5 });
  await subscribe(client, '$replay/earliest/a');
  await received(client, range(1, 5));
  client.send({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['$replay/earliest/a'] });
  await until(() => client.all('unsuback').length === 1, 'UNSUBACK');
  assert.deepEqual(client.all('unsuback')[0]!.granted, [0]);
  const given = client.payloads.length;
  client.acknowledgeAll();
  for (const { messageId } of client.all('publish')) client.send({ cmd: 'puback', messageId });
  await publisher.publish('a', ['51']);
  for (let turn = 0; turn < 30; turn++) await tick();
  assert.deepEqual(client.payloads, range(1, given));
  client.send({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['$replay/earliest/a'] });
  await until(() => client.all('unsuback').length === 2, 'UNSUBACK');
  assert.deepEqual(client.all('unsuback')[1]!.granted, [0x11]);
  // And at its end.
  await subscribe(client, '$replay/51/a');
  await subscribe(client, '$replay/99999/a');
  client.send({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['$replay/99999/a', '$replay/51/a'] });
  await until(() => client.all('unsuback').length === 3, 'UNSUBACK');
  const before = client.payloads.length;
  await publisher.publish('a', ['52']);
  for (let turn = 0; turn < 30; turn++) await tick();
  assert.equal(client.payloads.length, before);
});

replayTest('asking again begins again', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 30));
  const client = (await broker.open({ version: 5, receiveMaximum: 3 })).acknowledgeAll();
  await subscribe(client, '$replay/earliest/a');
  await received(client, range(1, 30));
  await subscribe(client, '$replay/earliest/a');
  await received(client, [...range(1, 30), ...range(1, 30)]);
  await publisher.publish('a', ['31']);
  await received(client, [...range(1, 30), ...range(1, 30), '31']);
  // In the middle: what was on its way arrives, then everything.
  const hasty = await broker.open({ version: 5, receiveMaximum: 3 });
  await subscribe(hasty, '$replay/earliest/a');
  await received(hasty, range(1, 3));
  await subscribe(hasty, '$replay/earliest/a');
  hasty.acknowledgeAll();
  for (const { messageId } of hasty.all('publish')) hasty.send({ cmd: 'puback', messageId });
  await received(hasty, [...range(1, 3), ...range(1, 31)]);
});

replayTest('two histories in one session', async (broker) => {
  const publisher = await Publisher.open(broker);
  for (const n of range(1, 20)) await publisher.publish(Number(n) % 2 === 0 ? 'even' : 'odd', [n]);
  const client = (await broker.open({ version: 5, receiveMaximum: 2 })).acknowledgeAll();
  client.send({
    cmd: 'subscribe',
    messageId: 1,
    subscriptions: [
      { topic: '$replay/earliest/even', qos: 1 },
      { topic: `$replay/${broker.publishOffsets[10]}/odd`, qos: 1 },
      { topic: '$replay/x/odd', qos: 1 },
    ],
  });
  await until(() => client.payloads.length >= 15, 'both');
  const on = (topic: string): string[] =>
    client
      .all('publish')
      .filter((packet) => packet.topic === topic)
      .map(({ payload }) => `${payload}`);
  assert.deepEqual(client.all('suback')[0]!.granted, [1, 1, 0x8f]);
  assert.deepEqual(
    on('even'),
    range(1, 20).filter((n) => Number(n) % 2 === 0),
  );
  assert.deepEqual(on('odd'), ['11', '13', '15', '17', '19']);
});

for (const qos of [1, 2] as const) {
  replayTest(
    `a durable session that goes in the middle goes on where it was, at QoS ${qos}`,
    async (broker) => {
      const publisher = await Publisher.open(broker);
      await publisher.publish('a', range(1, 60), { qos });
      const durable = { version: 5, clientId: 'durable', expirySeconds: 3600, receiveMaximum: 4 } as const;
      const seen: string[] = [];
      const taken = new Set<string>();
      let published = 60;
      for (let visit = 0; ; visit++) {
        const client = await broker.open({ ...durable, clean: visit === 0 });
        let toAcknowledge = 5 + visit;
        const finish = (packet: Received): void => {
          const { cmd, messageId } = packet;
          if (cmd === 'pubrel') client.send({ cmd: 'pubcomp', messageId });
          if (cmd !== 'publish' || toAcknowledge === 0) return;
          toAcknowledge--;
          const text = `${packet.payload}`;
          // Of QoS 1, what is given out and not acknowledged comes again.
          if (!taken.has(text)) seen.push(text);
          else assert.equal(qos === 1 || packet.dup, true, `${text} comes once`);
          taken.add(text);
          client.send({ cmd: qos === 1 ? 'puback' : 'pubrec', messageId });
        };
        for (const packet of [...client.packets]) finish(packet);
        client.onPacket = finish;
        if (visit === 0) await subscribe(client, '$replay/earliest/a', { qos });
        await until(() => toAcknowledge === 0 || seen.length === published, 'some');
        for (let turn = 0; turn < 5; turn++) await tick();
        client.transport.cut(visit % 2 === 0 ? 0 : 10_000);
        if (visit < 5) await publisher.publish('a', [`${++published}`], { qos });
        if (seen.length === published) break;
        assert.ok(visit < 100, 'it comes to an end');
      }
      assert.deepEqual(seen, range(1, published));
    },
  );
}

test('retention may take the start away meanwhile', async () => {
  for (const behaviour of Object.values(LOGS)) {
    const broker = new TestBroker(
      { log: { segmentBytes: 2000, retentionBytes: 4000, hardLimitBytes: 8000 } },
      behaviour === undefined ? {} : { createLog: (options) => new LateLog(options, behaviour) },
    );
    try {
      const publisher = await Publisher.open(broker);
      await publisher.publish('a', range(1, 50));
      const client = await broker.open({ version: 5, receiveMaximum: 1 });
      await subscribe(client, '$replay/earliest/a');
      await until(() => client.payloads.length === 1, 'the first');
      // It is needed until the hard limit, and no longer.
      await publisher.publish('a', range(51, 400));
      client.acknowledgeAll();
      client.send({ cmd: 'puback', messageId: client.all('publish')[0]!.messageId });
      await until(() => client.payloads.at(-1) === '400', 'the last');
      const numbers = client.payloads.map(Number);
      assert.ok(numbers.length < 300, 'some went');
      for (let i = 2; i < numbers.length; i++) assert.equal(numbers[i], numbers[i - 1]! + 1);
      assert.ok(broker.broker.delivery.counters.lostByRetention > 0);
      assert.ok(broker.logger.lines.some(({ message }) => message.includes('hard limit')));
    } finally {
      await broker.stop();
    }
  }
});

replayTest('a session without a connection keeps what its replay has yet to read', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 20));
  const durable = { version: 5, clientId: 'durable', expirySeconds: 3600, receiveMaximum: 1 } as const;
  const client = await broker.open(durable);
  await subscribe(client, '$replay/earliest/a');
  await until(() => client.payloads.length === 1, 'the first');
  client.transport.cut(0);
  await tick();
  const session = broker.broker.state.session('durable')!;
  assert.ok(session.neededFrom() <= broker.publishOffsets[1]!);
});

replayTest('whoever asks is told when it has everything', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('a', range(1, 30));
  const ask = { properties: { userProperties: { 'gomq-replay-end': '1' } } };
  const seen = async (client: FakeClient, filter: string): Promise<Received> => {
    await until(() => client.all('publish').some(({ topic }) => topic === filter), `the end of ${filter}`);
    return client.all('publish').find(({ topic }) => topic === filter)!;
  };
  for (const [filter, count] of [
    ['$replay/earliest/a', 30],
    ['$replay/earliest/#', 30],
    ['$replay/0/nothing', 0],
    ['$replay/99999/a', 0],
  ] as const) {
    for (const qos of [0, 1, 2] as const) {
      for (const expirySeconds of [0, 60]) {
        const client = (await broker.open({ version: 5, receiveMaximum: 3, expirySeconds })).acknowledgeAll();
        await subscribe(client, filter, { qos, ...ask });
        const notice = await seen(client, filter);
        assert.deepEqual([notice.qos, notice.retain, notice.payload.length], [0, false, 0]);
        const before = client.all('publish').indexOf(notice);
        assert.equal(before, count, `${filter} at QoS ${qos}`);
        await publisher.publish('b', []);
        assert.equal(client.all('publish').filter(({ topic }) => topic === filter).length, 1);
      }
    }
  }
  const silent = (await broker.open({ version: 5 })).acknowledgeAll();
  await subscribe(silent, '$replay/earliest/a');
  await received(silent, range(1, 30));
});

replayTest(
  'the end is told to a client that was not reading, too',
  async (broker) => {
    const publisher = await Publisher.open(broker);
    await publisher.publish('a', Array<string>(40).fill('x'.repeat(500)), { retain: true });
    for (const filter of ['$replay/earliest/a', '$replay/retained/#']) {
      const client = await broker.open({ version: 5 }, { highWaterBytes: 1000 });
      client.transport.isStalled = true;
      client.send({
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: [{ topic: filter, qos: 0 }],
        properties: { userProperties: { 'gomq-replay-end': '1' } },
      });
      for (let turn = 0; turn < 30; turn++) await tick();
      client.transport.unstall();
      await until(() => client.all('publish').some(({ topic }) => topic === filter), 'the end');
      assert.equal(client.all('publish').length, filter.includes('retained') ? 2 : 41);
    }
  },
  { limits: { outboxBytes: 1000 } as never },
);

replayTest('of history only what is retained', async (broker) => {
  const publisher = await Publisher.open(broker);
  await publisher.publish('r/a', ['old', 'new'], { retain: true });
  await publisher.publish('r/b', ['at 2'], { qos: 2, retain: true });
  await publisher.publish('r/c', ['at 0'], { qos: 0, retain: true });
  await publisher.publish('r/d', ['gone', ''], { retain: true });
  await publisher.publish('r/e', ['not retained']);
  for (const [filter, expected] of [
    ['r/#', ['new', 'at 2', 'at 0']],
    ['r/a', ['new']],
    ['r/d', []],
    ['nothing', []],
  ] as const) {
    const client = (await broker.open({ version: 5, receiveMaximum: 1 })).acknowledgeAll();
    const text = `$replay/retained/${filter}`;
    const ask = { qos: 2, rh: 2, properties: { userProperties: { 'gomq-replay-end': '1' } } };
    const suback = await subscribe(client, text, ask);
    assert.deepEqual(suback.granted, [2]);
    assert.ok(endOffsetOf(suback) > broker.publishOffsets.at(-1)!);
    await until(() => client.all('publish').some(({ topic }) => topic === text), 'the end');
    const publishes = client.all('publish').slice(0, -1);
    assert.deepEqual(publishes.map(({ payload }) => `${payload}`).sort(), [...expected].sort());
    for (const packet of publishes) {
      assert.equal(packet.retain, true);
      assert.ok(broker.publishOffsets.includes(offsetOf(packet)));
      assert.ok(userProperties(packet)['gomq-timestamp'] !== undefined);
    }
  }
  const client = (await broker.open({ version: 4 })).acknowledgeAll();
  await subscribe(client, '$replay/retained/r/a');
  await received(client, ['new']);
  await publisher.publish('r/a', ['then'], { retain: true });
  await received(client, ['new', 'then']);
  await subscribe(client, '$replay/retained/r/a');
  await received(client, ['new', 'then', 'then']);
});

replayTest('a message that has expired is not sent', async (broker) => {
  const client = (await broker.open({ version: 5 })).acknowledgeAll();
  for (const [payload, seconds] of [
    ['short', 5],
    ['long', 500],
  ] as const) {
    client.send({
      cmd: 'publish',
      topic: 'a',
      payload,
      qos: 1,
      messageId: seconds,
      dup: false,
      retain: false,
      properties: { messageExpiryInterval: seconds },
    });
  }
  await until(() => client.all('puback').length === 2, 'PUBACK');
  broker.clock.now += 100_000;
  await subscribe(client, '$replay/earliest/a');
  await received(client, ['long']);
  assert.equal(client.all('publish')[0]!.properties?.messageExpiryInterval, 400);
});

test('a history of many topics does not push those in use out of the table', async () => {
  const broker = new TestBroker({ limits: { internedTopics: 50 } as never });
  try {
    const publisher = await Publisher.open(broker);
    for (const n of range(1, 200)) publisher.send(`many/${n}`, n);
    await publisher.settled();
    await publisher.publish('used', ['x']);
    const known = broker.broker.router.internTopic('used');
    const client = (await broker.open({ version: 5 })).acknowledgeAll();
    await subscribe(client, '$replay/earliest/many/#');
    await received(client, range(1, 200));
    assert.equal(known.isInterned, true);
  } finally {
    await broker.stop();
  }
});
