// The broker over a log that commits late and in parts, and whose reads have to be waited for. See late-log.ts.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import type { SharedGroup } from '../../src/session/shared-group.js';
import {
  checkAsync,
  encode,
  type FakeClient,
  publishBytes,
  type Received,
  type Sections,
  tick,
  until,
} from './harness.js';
import { crash, LateBroker, settle, stateOf } from './late-broker.js';
import type { LateBehaviour } from './late-log.js';
import { type Step, World } from './qos-model.js';

async function withLate(
  behaviour: Partial<LateBehaviour>,
  sections: Sections,
  body: (test: LateBroker) => Promise<void>,
): Promise<void> {
  const test = new LateBroker(sections, behaviour);
  try {
    await body(test);
  } finally {
    await test.stopAll();
  }
}

// ---- the model ------------------------------------------------------------------------------------------------------------------------

const WEIGHTS: Record<Step['kind'], number> = {
  publish: 14,
  turn: 12,
  acknowledge: 10,
  acknowledgeEarly: 2,
  subscribe: 4,
  join: 3,
  release: 4,
  connect: 6,
  cut: 5,
  repeat: 3,
  unsubscribe: 1,
  disconnect: 2,
  stall: 3,
  unstall: 2,
  cutPublisher: 1,
  connectPublisher: 2,
  progress: 3,
  crash: 2,
};
const kindsWithCrash = Object.entries(WEIGHTS).flatMap(([kind, weight]) =>
  Array<Step['kind']>(weight).fill(kind as Step['kind']),
);
async function checkModel(
  context: TestContext,
  kinds: readonly Step['kind'][],
  runs: number,
): Promise<Record<'pending' | 'later' | 'inParts' | 'crashes', number>> {
  const seen = { pending: 0, later: 0, inParts: 0, crashes: 0 };
  await checkAsync(
    context,
    fc.asyncProperty(
      fc.array(
        fc.record({
          kind: fc.constantFrom(...kinds),
          who: fc.nat(5),
          a: fc.nat(60),
          b: fc.nat(20),
          c: fc.nat(20),
        }),
        { minLength: 40, maxLength: 150, size: 'max' },
      ),
      fc.record({
        outboxBytes: fc.constantFrom(4096, 50_000),
        highWaterBytes: fc.constantFrom(1000, 20_000, 65_536),
        drainsBeforeWritten: fc.boolean(),
        inflightMaximum: fc.integer({ min: 1, max: 4 }),
      }),
      fc.record({
        seed: fc.nat(),
        commitTurnsMax: fc.constantFrom(1, 3, 10),
        batchRecordsMax: fc.constantFrom(1, 4, 30),
        readTurnsMax: fc.constantFrom(1, 3, 10),
        laterOneIn: fc.constantFrom(1, 2, 8),
        isForgetful: fc.boolean(),
      }),
      async (steps, options, behaviour) => {
        const { outboxBytes, inflightMaximum } = options;
        await withLate(behaviour, { limits: { outboxBytes }, mqtt: { inflightMaximum } }, async (broker) => {
          const world = new World(broker, options, crash);
          await world.run(steps);
          const { pending, later, inParts } = broker.counted;
          seen.pending += pending;
          seen.later += later;
          seen.inParts += inParts;
          seen.crashes += world.crashes;
        });
      },
    ),
    runs,
  );
  return seen;
}

test('the QoS model holds over a log that commits late, in parts, and makes readers wait', async (context) => {
  const kinds = kindsWithCrash.filter((kind) => kind !== 'crash');
  const { crashes, ...seen } = await checkModel(context, kinds, 300);
  assert.equal(crashes, 0);
  for (const [what, count] of Object.entries(seen)) assert.ok(count > 50, `${what}: ${count} times`);
});

test('the QoS model holds when the broker dies and another one goes on with what the log kept', async (context) => {
  const { crashes } = await checkModel(context, kindsWithCrash, 300);
  assert.ok(crashes > 50, `${crashes} crashes`);
});

// ---- by hand: nothing is committed or read in but when the test says so ------------------------------------------------------------------

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await tick();
}

/** A broker whose log does nothing by itself; what is left is committed at its stop. */
function byHand(body: (test: LateBroker) => Promise<void>, sections: Sections = {}): Promise<void> {
  return withLate({ isManual: true, laterOneIn: 0 }, sections, body);
}

/** Commits so many messages, with the records about sessions that lie between them, and lets what follows from it arrive. */
async function commit(test: LateBroker, messages: number): Promise<void> {
  await turns(1);
  test.log.commitPublishes(messages);
  await turns(3);
}

/** Ends pending reads until there is none. */
async function load(test: LateBroker): Promise<void> {
  await turns(2);
  while (test.log.loading > 0) {
    test.log.load();
    await turns(3);
  }
}

function subscribeBytes(version: 4 | 5, filter: string, qos: 0 | 1 | 2, options: object = {}): Buffer {
  return encode(
    { cmd: 'subscribe', messageId: 7, subscriptions: [{ topic: filter, qos, ...options }] },
    version,
  );
}

function unsubscribeBytes(version: 4 | 5, filter: string): Buffer {
  return encode({ cmd: 'unsubscribe', messageId: 8, unsubscriptions: [filter] }, version);
}

function keep(topic: string, payload: string, qos: 0 | 1 | 2, messageId = 1): Buffer {
  return publishBytes(5, topic, payload, { qos, messageId, retain: true });
}

/** What arrived, in a line each. */
function story(client: FakeClient): string[] {
  return client.packets.map((packet: Received) => {
    if (packet.cmd === 'publish') {
      return `${packet.topic}=${packet.payload}${packet.retain ? ' retained' : ''}${packet.dup ? ' dup' : ''}`;
    }
    const isAck = packet.cmd.startsWith('pub');
    return isAck ? `${packet.cmd} ${packet.messageId}` : packet.cmd;
  });
}

test('PUBACK, PUBREC and PUBCOMP leave with their own record, not before and not with a later one', () =>
  byHand(async (broker) => {
    const client = await broker.open({ version: 5 });
    client.send(
      Buffer.concat([
        publishBytes(5, 'a', '1', { qos: 1, messageId: 1 }),
        publishBytes(5, 'a', '2', { qos: 2, messageId: 2 }),
        publishBytes(5, 'a', '3', { qos: 1, messageId: 3 }),
        encode({ cmd: 'pubrel', messageId: 2 }, 5),
      ]),
    );
    await turns(5);
    assert.deepEqual(story(client), []);
    await commit(broker, 1);
    assert.deepEqual(story(client), ['puback 1']);
    await commit(broker, 1);
    assert.deepEqual(story(client), ['puback 1', 'pubrec 2']);
    await commit(broker, 1);
    assert.deepEqual(story(client), ['puback 1', 'pubrec 2', 'puback 3', 'pubcomp 2']);
  }));

test('acknowledgements keep the order of their packets, those of refused publishes and unknown PUBRELs included', () =>
  byHand(async (broker) => {
    const client = await broker.open({ version: 5 });
    client.send(
      Buffer.concat([
        publishBytes(5, '$SYS/x', 'no', { qos: 1, messageId: 1 }),
        publishBytes(5, 'a', '2', { qos: 1, messageId: 2 }),
        publishBytes(5, '$SYS/x', 'no', { qos: 1, messageId: 3 }),
        publishBytes(5, 'a', '4', { qos: 1, messageId: 4 }),
        encode({ cmd: 'pubrel', messageId: 99 }, 5),
        publishBytes(5, '$SYS/x', 'no', { qos: 2, messageId: 5 }),
      ]),
    );
    await turns(3);
    assert.deepEqual(story(client), ['puback 1'], 'nothing is before the first');
    await commit(broker, 1);
    assert.deepEqual(story(client).slice(1), ['puback 2', 'puback 3']);
    await commit(broker, 1);
    assert.deepEqual(story(client).slice(3), ['puback 4', 'pubcomp 99', 'pubrec 5']);
    assert.deepEqual(
      client.packets.map(({ reasonCode = 0 }) => (reasonCode < 0x80 ? 'success' : reasonCode)),
      [0x87, 'success', 0x87, 'success', 0x92, 0x87],
    );
  }));

test('a QoS 2 PUBLISH that is repeated before its commit is one record, and is answered twice after it', () =>
  byHand(async (broker) => {
    const subscriber = await broker.open();
    await broker.subscribe(subscriber, 'a', 2);
    const client = await broker.open();
    const first = publishBytes(4, 'a', 'x', { qos: 2, messageId: 1 });
    client.send(first);
    await turns(2);
    client.send(publishBytes(4, 'a', 'x', { qos: 2, messageId: 1, dup: true }));
    await turns(2);
    assert.equal(broker.log.endOffset, 1);
    assert.deepEqual(story(client), []);
    await commit(broker, 1);
    assert.deepEqual(story(client), ['pubrec 1', 'pubrec 1']);
    assert.deepEqual(subscriber.payloads, ['x']);
  }));

test('a QoS 2 PUBLISH whose connection broke before the commit is not taken again by the next one', () =>
  byHand(async (broker) => {
    const first = await broker.open({ clientId: 'p', clean: false });
    first.send(publishBytes(4, 'a', 'x', { qos: 2, messageId: 1 }));
    await turns(2);
    first.transport.cut(0);
    const second = broker.connecting({ clientId: 'p', clean: false });
    second.send(publishBytes(4, 'a', 'x', { qos: 2, messageId: 1, dup: true }));
    second.send({ cmd: 'pubrel', messageId: 1 });
    await turns(3);
    assert.equal(broker.publishOffsets.length, 1);
    assert.deepEqual(story(second), []);
    // Its own record, and then that of the PUBREL.
    await commit(broker, 1);
    assert.deepEqual(story(second), ['connack', 'pubrec 1', 'pubcomp 1']);
    assert.deepEqual(story(first), []);
    assert.equal(broker.broker.state.session('p')!.receivedCount, 0);
  }));

test('a packet id that is released before its commit is free for another message at once', () =>
  byHand(async (broker) => {
    const subscriber = (await broker.open()).acknowledgeAll();
    await broker.subscribe(subscriber, 'a', 2);
    const client = await broker.open();
    for (const payload of ['one', 'two']) {
      client.send(publishBytes(4, 'a', payload, { qos: 2, messageId: 1 }));
      client.send({ cmd: 'pubrel', messageId: 1 });
    }
    await commit(broker, 1);
    assert.deepEqual(story(client), ['pubrec 1', 'pubcomp 1']);
    await commit(broker, 1);
    assert.deepEqual(story(client).slice(2), ['pubrec 1', 'pubcomp 1']);
    assert.deepEqual(subscriber.payloads, ['one', 'two']);
  }));

test('SUBSCRIBE takes effect at its place in the log, SUBACK comes before what follows it', () =>
  byHand(async (broker) => {
    const client = await broker.open({ version: 5 });
    client.send(
      Buffer.concat([
        publishBytes(5, 'a', 'before', { qos: 1, messageId: 1 }),
        subscribeBytes(5, 'a', 1),
        publishBytes(5, 'a', 'after', { qos: 1, messageId: 2 }),
      ]),
    );
    await turns(3);
    assert.deepEqual(story(client), []);
    await commit(broker, 1);
    assert.deepEqual(story(client), ['puback 1', 'suback']);
    await commit(broker, 1);
    assert.deepEqual(story(client).slice(2).sort(), ['a=after', 'puback 2']);
  }));

test('UNSUBSCRIBE takes effect at its place in the log: before it is delivered, after it is not', () =>
  byHand(async (broker) => {
    const client = await broker.open({ version: 5 });
    await broker.subscribe(client, 'a', 1);
    client.packets.length = 0;
    client.send(
      Buffer.concat([
        publishBytes(5, 'a', 'before', { qos: 1, messageId: 1 }),
        unsubscribeBytes(5, 'a'),
        publishBytes(5, 'a', 'after', { qos: 1, messageId: 2 }),
        subscribeBytes(5, 'a', 1),
        publishBytes(5, 'a', 'again', { qos: 1, messageId: 3 }),
      ]),
    );
    await turns(3);
    await commit(broker, 1);
    assert.deepEqual(story(client).sort(), ['a=before', 'puback 1', 'unsuback']);
    await commit(broker, 1);
    assert.deepEqual(story(client).slice(3), ['puback 2', 'suback']);
    await commit(broker, 1);
    assert.deepEqual(story(client).slice(5).sort(), ['a=again', 'puback 3']);
  }));

for (const parts of [[1, 1, 1, 1, 1, 1], [2, 4], [3, 3], [1, 5], [5, 1], [6]]) {
  test(`retained messages around a SUBSCRIBE in one chunk, each once, committed as ${parts.join(' + ')}`, () =>
    byHand(async (broker) => {
      const client = (await broker.open({ version: 5 })).acknowledgeAll();
      client.send(
        Buffer.concat([
          keep('r/0before', 'x', 0),
          keep('r/1before', 'x', 1, 1),
          keep('r/replaced', 'old', 1, 2),
          subscribeBytes(5, 'r/#', 1, { rap: true }),
          keep('r/0after', 'x', 0),
          keep('r/1after', 'x', 1, 3),
          keep('r/replaced', 'new', 1, 4),
        ]),
      );
      await turns(2);
      for (const records of parts) await commit(broker, records);
      await turns(5);
      const arrived = client.all('publish').map(({ topic, payload }) => `${topic}=${payload}`);
      const expected = ['r/0before=x', 'r/1before=x', 'r/0after=x', 'r/1after=x', 'r/replaced=new'];
      // The old one may be sent where it still was the retained one; never after the new one.
      const old = arrived.indexOf('r/replaced=old');
      assert.ok(old < arrived.indexOf('r/replaced=new'), `${arrived}`);
      assert.deepEqual(arrived.filter((one) => one !== 'r/replaced=old').sort(), expected.sort());
      assert.equal(client.all('suback').length, 1);
    }));
}

test('SUBSCRIBE, UNSUBSCRIBE and the end of a session while they wait for a commit', () =>
  byHand(async (broker) => {
    const publisher = await broker.open({ version: 5 });
    publisher.send(Buffer.concat([keep('r', 'x', 1, 1), keep('r', 'y', 1, 2)]));
    await turns(2);
    const passing = await broker.open({ version: 5, clientId: 'passing' });
    passing.send(subscribeBytes(5, 'r', 1));
    const group = await broker.open({ version: 5, clientId: 'group' });
    group.send(subscribeBytes(5, '$share/g/r', 1));
    await commit(broker, 1);
    passing.transport.cut(0);
    group.transport.cut(0);
    await turns(3);
    const next = await broker.open({ version: 5, clientId: 'passing' });
    await commit(broker, 5);
    assert.deepEqual(story(passing), []);
    assert.deepEqual(story(next), []);
    assert.equal(broker.broker.router.subscriptionCount, 0);
    assert.deepEqual(story(publisher), ['puback 1', 'puback 2']);
  }));

test('a durable session whose connection broke before its SUBSCRIBE took effect has the subscription', () =>
  byHand(async (broker) => {
    const publisher = await broker.open();
    publisher.send(publishBytes(4, 'x', '1', { qos: 1, messageId: 1 }));
    const first = broker.connecting({ clientId: 's', clean: false });
    first.send(subscribeBytes(4, 'a', 1));
    publisher.send(publishBytes(4, 'a', 'missed', { qos: 1, messageId: 2 }));
    first.transport.cut(0);
    await commit(broker, 1);
    await commit(broker, 1);
    publisher.send(publishBytes(4, 'x', '1', { qos: 1, messageId: 3 }));
    await commit(broker, 1);
    const second = await broker.open({ clientId: 's', clean: false });
    await load(broker);
    assert.deepEqual(story(second), ['a=missed']);
    second.send({ cmd: 'puback', messageId: second.packets[0]!.messageId });
    await turns(2);
    assert.equal(broker.broker.state.session('s')!.isLive, true);
  }));

/** A durable session 's' with `count` unacknowledged messages of QoS `qos`, away, and nothing of the log in memory. */
async function sessionAway(broker: LateBroker, count: number, qos: 1 | 2, filter = 'a'): Promise<FakeClient> {
  const publisher = await broker.open({ clientId: 'publisher' });
  const first = await broker.open({ clientId: 's', clean: false });
  await broker.subscribe(first, filter, qos);
  for (let i = 1; i <= count; i++) publisher.send(publishBytes(4, 'a', `${i}`, { qos: 1, messageId: i }));
  if (qos === 2)
    for (let i = 1; i <= count; i++)
      publisher.send(publishBytes(4, 'a', `two ${i}`, { qos: 2, messageId: 100 + i }));
  await settle(broker);
  // What had to wait for its packet id to be committed is read again.
  await load(broker);
  assert.equal(first.all('publish').length, qos === 2 ? 2 * count : count);
  first.transport.cut(0);
  await turns(2);
  publisher.send(publishBytes(4, 'else', 'x', { qos: 1, messageId: 99 }));
  await commit(broker, 1);
  return publisher;
}

test('a session that returns is sent again what was in flight, in order, when the reads are pending', () =>
  byHand(async (broker) => {
    const publisher = await sessionAway(broker, 3, 2);
    publisher.send(publishBytes(4, 'a', 'missed', { qos: 1, messageId: 4 }));
    await commit(broker, 1);
    const second = broker.connecting({ clientId: 's', clean: false });
    await turns(3);
    assert.equal(
      broker.log.loading,
      0,
      'nothing is sent again before it is in the log that the client is back',
    );
    await commit(broker, 0);
    assert.equal(broker.log.loading, 1);
    assert.deepEqual(story(second), ['connack']);
    second.packets.length = 0;
    // Committed while the resend waits: behind everything that is older.
    publisher.send(publishBytes(4, 'a', 'new', { qos: 1, messageId: 5 }));
    await commit(broker, 1);
    await load(broker);
    assert.deepEqual(story(second), [
      'a=1 dup',
      'a=2 dup',
      'a=3 dup',
      'a=two 1 dup',
      'a=two 2 dup',
      'a=two 3 dup',
      'a=missed',
      'a=new',
    ]);
    const session = broker.broker.state.session('s')!;
    assert.equal(session.isLive, true);
    assert.equal(session.reader, undefined);
    assert.equal(session.outstanding, 8);
  }));

test('a session that goes again while its resend is pending, as often as it likes, loses nothing', () =>
  byHand(async (broker) => {
    await sessionAway(broker, 4, 1);
    for (let round = 0; round < 4; round++) {
      const again = await broker.open({ clientId: 's', clean: false });
      assert.equal(broker.log.loading, 1);
      if (round > 1) broker.log.load();
      if (round > 2) await turns(2);
      again.transport.cut(0);
      if (round === 1) broker.log.load();
      await turns(1);
      assert.equal(broker.broker.state.session('s')!.reader, undefined);
    }
    const last = await broker.open({ clientId: 's', clean: false });
    // An acknowledgement that was on its way comes before the message is sent again.
    last.send({ cmd: 'puback', messageId: 2 });
    await load(broker);
    assert.deepEqual(story(last), ['a=1 dup', 'a=3 dup', 'a=4 dup']);
    for (const { messageId } of last.all('publish')) last.send({ cmd: 'puback', messageId });
    await turns(3);
    const session = broker.broker.state.session('s')!;
    assert.equal(session.hasInflight, false);
    assert.equal(session.outstanding, 0);
    assert.equal(broker.log.loading, 0);
  }));

test('a session that is taken over or ends while its resend or its backlog is pending leaves nothing behind', () =>
  byHand(async (broker) => {
    const publisher = await sessionAway(broker, 3, 1);
    const away = broker.broker.state.session('s')!;
    await broker.open({ clientId: 's', clean: false });
    assert.equal(broker.log.loading, 1);
    const fresh = await broker.open({ clientId: 's', clean: true });
    assert.notEqual(broker.broker.state.session('s'), away);
    assert.equal(broker.log.loading, 0);
    await broker.subscribe(fresh, 'a', 1);
    broker.log.load();
    publisher.send(publishBytes(4, 'a', 'new', { qos: 1, messageId: 5 }));
    await commit(broker, 1);
    await load(broker);
    assert.deepEqual(fresh.payloads, ['new']);
    assert.equal(away.outbox, undefined);
    assert.equal(away.reader, undefined);
  }));

test('what a member of a group left unacknowledged goes to another, when the reads are pending', () =>
  byHand(async (broker) => {
    await sessionAway(broker, 4, 1, '$share/g/a');
    const other = await broker.open({ version: 5, receiveMaximum: 2 });
    await broker.subscribe(other, '$share/g/a', 1);
    await turns(2);
    assert.equal(broker.log.loading, 1);
    // The first member is back before the read has ended; what it gave back is the group's.
    const back = await broker.open({ clientId: 's', clean: false });
    await load(broker);
    const given = [...other.payloads, ...back.payloads].sort();
    assert.deepEqual(given, ['1', '2', '3', '4'], `${other.payloads} and ${back.payloads}`);
    other.acknowledgeAll();
    for (const client of [other, back])
      for (const { messageId } of client.all('publish')) client.send({ cmd: 'puback', messageId });
    await load(broker);
    assert.equal(broker.broker.state.session('s')!.hasInflight, false);
  }));

test('a group that ends while its reads are pending, and comes to be again, does not get what the old one was owed', () =>
  byHand(async (broker) => {
    const publisher = await sessionAway(broker, 3, 1, '$share/g/a');
    const other = await broker.open();
    await broker.subscribe(other, '$share/g/a', 1);
    await turns(2);
    assert.equal(broker.log.loading, 1);
    other.send(unsubscribeBytes(4, '$share/g/a'));
    // The session that was away ends, and the group with its last member.
    await broker.open({ clientId: 's', clean: true });
    await turns(2);
    const fresh = await broker.open();
    await broker.subscribe(fresh, '$share/g/a', 1);
    broker.log.load();
    await load(broker);
    publisher.send(publishBytes(4, 'a', 'new', { qos: 1, messageId: 5 }));
    await commit(broker, 1);
    assert.deepEqual(story(fresh), ['suback', 'a=new']);
    assert.equal(broker.log.loading, 0);
  }));

test('a member that goes while what was given back is pending loses nothing', () =>
  byHand(async (broker) => {
    await sessionAway(broker, 3, 1, '$share/g/a');
    const other = await broker.open();
    await broker.subscribe(other, '$share/g/a', 1);
    await turns(2);
    other.transport.cut(0);
    await load(broker);
    const last = await broker.open({ clientId: 's', clean: false });
    await load(broker);
    assert.deepEqual(last.payloads, ['1', '2', '3']);
  }));

/** A member is to be given it. */
function isOwedBy({ returned, cursor, taken }: SharedGroup, offset: number): boolean {
  return returned.includes(offset) || (cursor <= offset && !taken.has(offset));
}

test('what a session took along from a group that it left goes back when it ends, wherever the broker dies', () =>
  byHand(async (broker) => {
    const publisher = await broker.open();
    const leaver = await broker.open({ clientId: 'leaver', clean: false });
    await broker.subscribe(leaver, '$share/g/a', 1);
    for (const [i, text] of ['1', '2'].entries())
      publisher.send(publishBytes(4, 'a', text, { qos: 1, messageId: i + 1 }));
    await commit(broker, 2);
    const other = await broker.open({ clientId: 'other', clean: false });
    await broker.subscribe(other, '$share/g/a', 1);
    leaver.send(unsubscribeBytes(4, '$share/g/a'));
    await settle(broker);
    // It has left, and takes its connection with it: they are still its own.
    leaver.transport.cut(0);
    await settle(broker);
    assert.deepEqual(other.payloads, []);
    assert.equal(broker.broker.state.session('leaver')!.inflight.size, 2);
    const left = broker.log.endOffset;
    const again = await broker.open({ clientId: 'leaver', clean: true });
    await settle(broker);
    broker.broker.journal.recordTouched();
    await settle(broker);
    await load(broker);
    assert.deepEqual(other.payloads, ['1', '2']);
    again.transport.cut(0);
    for (let end = left; end <= broker.log.endOffset; end++) {
      const state = stateOf(broker.log, end);
      const kept = state.session('leaver')?.inflight.size ?? 0;
      const isOwed = broker.publishOffsets.every((offset) => isOwedBy(state.group('g', 'a')!, offset));
      assert.ok(kept === 2 || isOwed, `a crash that leaves ${end} records loses nothing`);
    }
  }));

test('a crash after an UNSUBSCRIBE of a group loses nothing of what was committed with it', () =>
  byHand(async (broker) => {
    const publisher = await broker.open();
    const client = await broker.open({ clientId: 's', clean: false });
    await broker.subscribe(client, '$share/g/b', 1);
    await broker.subscribe(client, 'a', 1);
    publisher.send(publishBytes(4, 'b', 'of the group', { qos: 1, messageId: 1 }));
    await commit(broker, 1);
    client.send(unsubscribeBytes(4, '$share/g/b'));
    publisher.send(publishBytes(4, 'a', 'own', { qos: 1, messageId: 2 }));
    await settle(broker);
    assert.deepEqual(client.payloads, ['of the group', 'own']);
    assert.ok(publisher.all('puback').length === 2, 'both are acknowledged');
    const next = broker.restart(broker.log.endOffset);
    const back = await next.open({ clientId: 's', clean: false });
    await settle(next);
    await load(next);
    assert.deepEqual(back.payloads.sort(), ['of the group', 'own']);
  }));

test('a QoS 2 message of a group that its member was never sent is owed by the group again, wherever the broker dies', () =>
  byHand(async (broker) => {
    const publisher = await broker.open();
    const away = await broker.open({ clientId: 'away', clean: false });
    await broker.subscribe(away, '$share/g/a', 2);
    away.transport.cut(0);
    await settle(broker);
    const will = { topic: 'w', payload: Buffer.from('gone'), qos: 0 as const, retain: false };
    const member = await broker.open({ clientId: 'member', clean: true, will });
    await broker.subscribe(member, '$share/g/a', 2);
    publisher.send(publishBytes(4, 'a', 'x', { qos: 2, messageId: 1 }));
    await commit(broker, 1);
    assert.deepEqual(member.payloads, [], 'its packet id is not committed');
    member.transport.cut(0);
    await turns(2);
    const [offset] = broker.publishOffsets;
    let isEnded = false;
    for (let end = offset! + 1; end <= broker.log.endOffset; end++) {
      const state = stateOf(broker.log, end);
      isEnded = state.session('member') === undefined;
      const isMembers = state.session('member')?.inflight.size === 1;
      const isGroups = isOwedBy(state.group('g', 'a')!, offset!);
      assert.ok(isMembers || isGroups, `somebody has it after ${end} records`);
    }
    assert.ok(isEnded, 'the end of the session is in the log');
    const next = broker.restart(broker.log.endOffset);
    const back = await next.open({ clientId: 'away', clean: false });
    // The message, its packet id, and the message once more, to send it.
    await load(next);
    await settle(next);
    await load(next);
    assert.deepEqual(back.payloads, ['x']);
  }));

/** Bytes of the records that were appended meanwhile. */
async function appendedBy(broker: LateBroker, work: () => Promise<void>): Promise<number> {
  const from = broker.log.endOffset;
  await work();
  let bytes = 0;
  for (let offset = from; offset < broker.log.endOffset; offset++) bytes += broker.log.bytes(offset).length;
  return bytes;
}

test('what is recorded of progress is what has changed, however much is in flight', () =>
  byHand(
    async (broker) => {
      const topic = 'a/'.padEnd(500, 'a');
      const publisher = await broker.open();
      const client = await broker.open({ clientId: 's', clean: false });
      await broker.subscribe(client, `$share/g/${topic}`, 1);
      await broker.subscribe(client, topic, 1);
      for (let i = 1; i <= 300; i++) publisher.send(publishBytes(4, topic, 'x', { qos: 1, messageId: i }));
      await settle(broker);
      const again = await broker.open({ clientId: 'history', clean: false });
      await broker.subscribe(again, `$replay/earliest/${topic}`, 1);
      await settle(broker);
      await load(broker);
      assert.equal(client.all('publish').length, 600);
      assert.equal(again.all('publish').length, 300);
      broker.broker.journal.recordTouched();
      const acknowledged = await appendedBy(broker, async () => {
        for (const one of [client, again]) {
          const { messageId } = one.all('publish')[0]!;
          one.send({ cmd: 'puback', messageId });
        }
        await settle(broker);
        broker.broker.journal.recordTouched();
      });
      assert.ok(acknowledged > 0 && acknowledged < 2500, `${acknowledged} bytes for two PUBACKs`);
      const left = await appendedBy(broker, async () => {
        for (let i = 0; i < 100; i++) client.send(unsubscribeBytes(4, `$share/g/${topic}`));
        await turns(2);
      });
      assert.ok(left < 100_000, `${left} bytes for UNSUBSCRIBEs of 50,000`);
      await settle(broker);
    },
    { mqtt: { inflightMaximum: 1000 } },
  ));

test('a client whose SUBSCRIBEs and UNSUBSCRIBEs come faster than the disk takes them is not read from for a while', () =>
  byHand(
    async (broker) => {
      const client = await broker.open({ clientId: 's', clean: false });
      for (let i = 0; i < 60; i++) client.send(subscribeBytes(4, `a/${i}`, 1));
      for (let i = 0; i < 40; i++) client.send(unsubscribeBytes(4, `a/${i}`));
      assert.equal(client.transport.isPaused, false);
      for (let i = 0; i < 40; i++) client.send(unsubscribeBytes(4, `a/${i}`));
      assert.equal(client.transport.isPaused, true);
      await settle(broker);
      assert.equal(client.transport.isPaused, false);
      assert.equal(client.all('suback').length + client.all('unsuback').length, 140);
    },
    { log: { uncommittedBytes: 65_536 } },
  ));

test('a client that repeats itself while nothing is committed is not read from for a while, whatever it repeats', () =>
  byHand(
    async (broker) => {
      const publish = {
        cmd: 'publish',
        topic: 'a',
        payload: 'x',
        qos: 2,
        messageId: 1,
        dup: true,
        retain: false,
      } as const;
      const unknown = { cmd: 'pubrel', messageId: 99 } as const;
      const settings = { ...{ clientId: 'p', clean: false }, version: 4 } as const;
      for (const repeated of [publish, unknown]) {
        const client = await broker.open(settings);
        client.send({ ...publish, dup: false });
        let sent = 0;
        for (; sent < 5000 && !client.transport.isPaused; sent++) client.send(repeated);
        assert.ok(sent > 100 && sent < 2000, `${repeated.cmd} was read ${sent} times`);
        await settle(broker);
        assert.equal(client.transport.isPaused, false, 'what is committed is answered, and more is read');
        assert.equal(
          client.all(repeated === publish ? 'pubrec' : 'pubcomp').length,
          sent + (repeated === publish ? 1 : 0),
        );
        client.send({ cmd: 'pubrel', messageId: 1 });
        await settle(broker);
        client.send({ cmd: 'disconnect' });
        await settle(broker);
      }
    },
    { log: { uncommittedBytes: 65_536 } },
  ));

test('publish() of HTTP resolves at its commit, not before', () =>
  byHand(async (broker) => {
    const events: string[] = [];
    const outside = { topicName: 'a', payload: Buffer.from('x'), qos: 1 as const, retain: false };
    const publishes = ['one', 'two'].map((name) =>
      broker.broker.publish(outside).then(() => events.push(`${name} at ${broker.log.highWatermark}`)),
    );
    await turns(4);
    assert.deepEqual(events, []);
    await commit(broker, 1);
    assert.deepEqual(events, ['one at 1']);
    await commit(broker, 1);
    await Promise.all(publishes);
    assert.deepEqual(events, ['one at 1', 'two at 2']);
  }));

test('stop() commits what is in the log before it is over; publish() of HTTP resolves', async () => {
  const broker = new LateBroker({}, { commitTurnsMax: 10, batchRecordsMax: 2 });
  const client = await broker.open({ version: 5 });
  for (let i = 1; i <= 5; i++) client.send(publishBytes(5, 'a', 'x', { qos: 1, messageId: i }));
  const outside = broker.broker.publish({ topicName: 'a', payload: Buffer.from('x'), qos: 1, retain: true });
  await turns(2);
  await broker.stop();
  await outside;
  assert.equal(broker.log.highWatermark, 6);
  await turns(5);
  assert.equal(broker.log.flushesAfterClose, 0);
});

test('a connection that is closed before its acknowledgement is committed disturbs nobody', () =>
  byHand(async (broker) => {
    const subscriber = await broker.open();
    await broker.subscribe(subscriber, 'a', 1);
    const gone = await broker.open({ version: 5 });
    const stays = await broker.open({ version: 5 });
    gone.send(publishBytes(5, 'a', 'gone', { qos: 1, messageId: 1 }));
    stays.send(publishBytes(5, 'a', 'stays', { qos: 1, messageId: 2 }));
    gone.send(publishBytes(5, '$SYS/a', 'no', { qos: 1, messageId: 3 }));
    gone.send(subscribeBytes(5, 'a', 1));
    gone.send({ cmd: 'pubrel', messageId: 77 });
    gone.transport.cut(0);
    stays.send(publishBytes(5, 'a', 'more', { qos: 1, messageId: 4 }));
    for (let i = 0; i < 3; i++) await commit(broker, 1);
    assert.deepEqual(story(gone), []);
    assert.deepEqual(story(stays), ['puback 2', 'puback 4']);
    assert.deepEqual(subscriber.payloads, ['gone', 'stays', 'more']);
    assert.equal(broker.broker.commits.size, 0);
  }));

const SMALL_LOG = { segmentBytes: 2000, retentionBytes: 4000, hardLimitBytes: 40_000 };

test('a backlog outlives retention while reads are pending and Later, and past the hard limit the rest is served', () =>
  withLate({ laterOneIn: 2, readTurnsMax: 6 }, { log: SMALL_LOG }, async (broker) => {
    const away = await broker.open({ clientId: 's', clean: false });
    await broker.subscribe(away, 'a', 1);
    away.send({ cmd: 'disconnect' });
    const publisher = await broker.open({ clientId: 'publisher' });
    const publish = async (from: number, to: number, topic: string): Promise<void> => {
      for (let i = from; i <= to; i++) {
        publisher.send(publishBytes(4, topic, `${i}`.padEnd(200, '.'), { qos: 1, messageId: i }));
        if (i % 3 === 0) await tick();
      }
      await until(() => publisher.all('puback').length === to, `PUBACK ${to}`);
    };
    await publish(1, 20, 'a');
    await publish(21, 60, 'b');
    assert.equal(broker.log.startOffset, 0, 'what a session needs stays');
    const back = (await broker.open({ clientId: 's', clean: false })).acknowledgeAll();
    await until(() => broker.broker.state.session('s')!.isLive, 'it has caught up');
    assert.deepEqual(
      back.payloads.map(Number.parseFloat),
      Array.from({ length: 20 }, (_, i) => i + 1),
    );
    back.send({ cmd: 'disconnect' });
    await turns(3);
    await publish(61, 80, 'a');
    await publish(81, 300, 'b');
    assert.equal(broker.broker.delivery.counters.lostByRetention > 0, true);
    await publish(301, 310, 'a');
    const last = (await broker.open({ clientId: 's', clean: false })).acknowledgeAll();
    await until(() => broker.broker.state.session('s')!.isLive, 'it has caught up again');
    await turns(10);
    assert.deepEqual(
      last.payloads.map(Number.parseFloat),
      Array.from({ length: 10 }, (_, i) => i + 301),
    );
  }));

test('topics that the table forgets before their records are committed still reach their subscribers', () =>
  byHand(
    async (broker) => {
      const publisher = await broker.open();
      const subscriber = await broker.open();
      for (let i = 0; i < 12; i++)
        publisher.send(publishBytes(4, `t/${i}`, `${i}`, { qos: 1, messageId: i + 1, retain: i % 2 === 0 }));
      await turns(2);
      // Takes effect behind the first half, and must be seen by routes of topics that are not in the table any more.
      subscriber.send(subscribeBytes(4, 't/+', 1));
      for (let i = 12; i < 24; i++)
        publisher.send(publishBytes(4, `t/${i - 12}`, `${i}`, { qos: 1, messageId: i + 1 }));
      await turns(2);
      for (let i = 0; i < 24; i++) await commit(broker, 1);
      const live = subscriber.all('publish').filter(({ retain }) => !retain);
      assert.deepEqual(
        live.map(({ topic, payload }) => `${topic}=${payload}`),
        Array.from({ length: 12 }, (_, i) => `t/${i}=${i + 12}`),
      );
      assert.equal(subscriber.all('publish').length - live.length, 6);
    },
    { limits: { internedTopics: 3 } },
  ));

test('retained messages keep to their limit while they are committed one by one', () =>
  withLate({ batchRecordsMax: 2 }, { limits: { retainedMessages: 10 } }, async (broker) => {
    const publisher = await broker.open({ version: 5 });
    for (let i = 1; i <= 60; i++) {
      publisher.send(publishBytes(5, `r/${i}`, 'x', { qos: 1, messageId: i, retain: true }));
      if (i % 2 === 0) await tick();
      assert.ok(broker.broker.state.retained.size <= 10);
    }
    await until(() => publisher.all('puback').length === 60, 'every answer');
    assert.equal(broker.broker.state.retained.size, 10);
    assert.deepEqual(
      publisher.all('puback').map(({ messageId }) => messageId),
      Array.from({ length: 60 }, (_, i) => i + 1),
    );
  }));

test('a group that fell behind reads on when reads are pending and Later, each message to one member', () =>
  withLate({ laterOneIn: 2, readTurnsMax: 5 }, {}, async (broker) => {
    const members = await Promise.all([1, 2].map(() => broker.open({ version: 5, receiveMaximum: 2 })));
    for (const member of members) await broker.subscribe(member, '$share/g/a', 1);
    const publisher = await broker.open();
    for (let i = 1; i <= 60; i++)
      publisher.send(publishBytes(4, i % 3 === 0 ? 'a' : 'b', `${i}`, { qos: 1, messageId: i }));
    await until(() => publisher.all('puback').length === 60, 'every PUBACK');
    const arrived = (): string[] => members.flatMap(({ payloads }) => payloads);
    assert.equal(arrived().length, 4);
    for (const member of members) {
      for (const { messageId } of member.all('publish')) member.send({ cmd: 'puback', messageId });
      member.acknowledgeAll();
    }
    await until(() => arrived().length === 20, 'every message');
    await turns(20);
    assert.deepEqual(
      arrived()
        .map(Number)
        .sort((a, b) => a - b),
      Array.from({ length: 20 }, (_, i) => (i + 1) * 3),
    );
    assert.ok(broker.log.counters.pending > 0);
  }));

test('what a group gives to a member while retention looks for who needs what is needed by that member', () =>
  byHand(
    async (broker) => {
      broker.log.behaviour.isForgetful = true;
      const publisher = await broker.open({ clientId: 'publisher' });
      const member = await broker.open({ version: 5, clientId: 'm', expirySeconds: 1000, receiveMaximum: 1 });
      await broker.subscribe(member, '$share/g/a', 1);
      const away = await broker.open({ clientId: 'away', clean: false });
      await broker.subscribe(away, 'b', 1);
      away.transport.cut(0);
      const publish = (topic: string, bytes: number, qos: 0 | 1, retain = false): void =>
        publisher.send(publishBytes(4, topic, topic.padEnd(bytes, '.'), { qos, messageId: 1, retain }));
      publish('a', 1, 1);
      publish('a', 2, 1);
      publish('b', 1, 0, true);
      for (let i = 0; i < 3; i++) publish('c', 500, 1);
      await commit(broker, 100);
      assert.deepEqual(member.payloads, ['a']);
      // There is room for the second one, which has to be read.
      member.send({ cmd: 'puback', messageId: member.all('publish')[0]!.messageId });
      await turns(2);
      assert.equal(broker.log.loading, 1);
      // Retention has to read as well, to find that the record on b is not for the session that is away.
      for (let i = 0; i < 6; i++) publish('c', 500, 1);
      await commit(broker, 100);
      broker.log.load(1);
      await turns(3);
      assert.deepEqual(member.payloads, ['a', 'a.']);
      await load(broker);
      for (let i = 0; i < 6; i++) publish('c', 500, 1);
      await commit(broker, 100);
      await load(broker);
      member.transport.cut(0);
      await turns(2);
      const again = await broker.open({ version: 5, clientId: 'm', clean: false, expirySeconds: 1000 });
      await load(broker);
      assert.deepEqual(story(again), ['a=a. dup']);
      again.send({ cmd: 'puback', messageId: again.packets[0]!.messageId });
      publish('c', 500, 1);
      await commit(broker, 100);
      await load(broker);
      await commit(broker, 100);
      assert.ok(broker.log.startOffset > 5, 'nobody needs it any more');
      assert.deepEqual(
        broker.logger.lines.filter(({ level }) => level === 'error'),
        [],
      );
    },
    { log: { segmentBytes: 1000, retentionBytes: 3500, hardLimitBytes: 100_000 } },
  ));
test('a retained QoS 0 message after SUBACK and before the older ones are committed arrives once', () =>
  byHand(async (broker) => {
    const publisher = await broker.open({ version: 5 });
    const client = await broker.open({ version: 5 });
    publisher.send(Buffer.concat([keep('r/1', 'x', 1, 1), keep('r/2', 'x', 1, 2)]));
    await turns(2);
    client.send(subscribeBytes(5, 'r/#', 0, { rap: true }));
    publisher.send(keep('r/0', 'early', 0));
    publisher.send(keep('r/3', 'x', 1, 3));
    await commit(broker, 2);
    assert.deepEqual(story(client), ['suback']);
    // Delivered live, as it was published.
    publisher.send(keep('r/0', 'late', 0));
    await turns(3);
    assert.deepEqual(story(client), ['suback', 'r/0=late retained']);
    await commit(broker, 1);
    await commit(broker, 1);
    await commit(broker, 1);
    await turns(5);
    assert.deepEqual(client.payloads.filter((one) => one === 'late').length, 1, `${story(client)}`);
    // It was replaced by what has been delivered: sent after it, it would be an older message of the topic.
    const topic0 = client.all('publish').filter(({ topic }) => topic === 'r/0');
    assert.equal(topic0.at(-1)!.payload.toString(), 'late', `${story(client)}`);
    assert.deepEqual(
      client
        .all('publish')
        .filter(({ topic }) => topic !== 'r/0')
        .map(({ topic }) => topic)
        .sort(),
      ['r/1', 'r/2', 'r/3'],
    );
  }));

test('SUBSCRIBE with Retain Handling 2 after an UNSUBSCRIBE brings no retained message [MQTT-3.3.1-11]', () =>
  byHand(async (broker) => {
    const publisher = await broker.open({ version: 5 });
    publisher.send(keep('r', 'x', 1, 1));
    await commit(broker, 1);
    const client = await broker.open({ version: 5 });
    publisher.send(publishBytes(5, 'other', 'x', { qos: 1, messageId: 2 }));
    client.send(
      Buffer.concat([
        subscribeBytes(5, 'r', 1),
        unsubscribeBytes(5, 'r'),
        subscribeBytes(5, 'r', 1, { rh: 2 }),
      ]),
    );
    await commit(broker, 1);
    await turns(5);
    assert.equal(client.all('suback').length, 2);
    const lastSuback = client.packets.findLastIndex(({ cmd }) => cmd === 'suback');
    assert.deepEqual(
      client.packets.slice(lastSuback + 1).map(({ cmd }) => cmd),
      [],
    );
  }));

test('stop() acknowledges what is in the log before it says goodbye', async () => {
  const broker = new LateBroker({}, {});
  const client = await broker.open({ version: 5 });
  for (let i = 1; i <= 5; i++) client.send(publishBytes(5, 'a', 'x', { qos: 1, messageId: i }));
  await broker.stop();
  await turns(5);
  assert.deepEqual(story(client), ['puback 1', 'puback 2', 'puback 3', 'puback 4', 'puback 5', 'disconnect']);
});

test('a cursor moves over what is not for it when that has to be read: nothing is kept to the hard limit', () =>
  withLate({ laterOneIn: 3, isForgetful: true }, { log: SMALL_LOG }, async (broker) => {
    const own = await broker.open({ version: 5, clientId: 'own', expirySeconds: 1000 });
    await broker.subscribe(own, 'a', 1, { nl: true });
    const away = await broker.open({ clientId: 'away', clean: false });
    await broker.subscribe(away, 'status', 1);
    away.send({ cmd: 'disconnect' });
    // It goes before its own message is committed, so its cursor stays in front of it.
    own.send(publishBytes(5, 'a', Buffer.alloc(300), { qos: 1, messageId: 1 }));
    own.transport.cut(0);
    const publisher = await broker.open({ clientId: 'publisher' });
    for (let i = 1; i <= 300; i++) {
      if (i % 5 === 0) publisher.send(publishBytes(4, 'status', `${i}`, { retain: true }));
      publisher.send(publishBytes(4, 'b', Buffer.alloc(300), { qos: 1, messageId: i }));
      await turns(3);
    }
    await until(() => publisher.all('puback').length === 300, 'every PUBACK');
    for (let i = 1; i <= 10; i++) {
      publisher.send(publishBytes(4, 'b', 'x', { qos: 1, messageId: i }));
      await turns(10);
    }
    assert.deepEqual(
      broker.logger.lines.filter(({ level }) => level === 'error'),
      [],
    );
    assert.ok(broker.log.storedBytes < 20_000, `${broker.log.storedBytes} bytes are kept`);
  }));

test('a retained scan does not send what was retained before a newer QoS 0 message of the topic', () =>
  byHand(async (broker) => {
    const publisher = await broker.open({ version: 5 });
    publisher.send(keep('r/0', 'old', 0));
    await commit(broker, 1);
    const client = await broker.open({ version: 5 });
    client.send(subscribeBytes(5, 'r/#', 0));
    publisher.send(keep('r/0', 'new', 0));
    await turns(5);
    await commit(broker, 1);
    await turns(5);
    assert.equal(client.payloads.at(-1), 'new', `${story(client)}`);
  }));

test('what all publishers together have uncommitted has a bound, however many come and go', () =>
  byHand(
    async (broker) => {
      const boundBytes = 65_536 * 32;
      const packetBytes = 60_000;
      let refused = 0;
      for (let i = 1; i <= 60; i++) {
        const visitor = await broker.open({ version: 5, clientId: `visitor-${i}` });
        const before = broker.log.endOffset;
        visitor.send(publishBytes(5, 'a', Buffer.alloc(packetBytes), { qos: 1, messageId: 1 }));
        await turns(2);
        if (broker.log.endOffset === before) refused++;
        visitor.transport.cut(0);
        await turns(2);
      }
      assert.ok(
        broker.log.uncommittedBytes <= boundBytes + 2 * packetBytes,
        `${broker.log.uncommittedBytes} bytes wait`,
      );
      assert.ok(refused > 10, `${refused} were refused`);
      await settle(broker);
    },
    { log: { uncommittedBytes: 65_536 } },
  ));
