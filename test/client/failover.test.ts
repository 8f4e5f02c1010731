// From one broker to the next, with brokers that do what a test tells them to.
import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import {
  type Consumer,
  type ConsumerOptions,
  createConsumer,
  createProducer,
  type Producer,
  type ProducerOptions,
} from '../../client/src/index.js';
import { FakeBroker, type FakeConnection } from './fake-broker.js';
import { Events, settle, withCode } from './support.js';

const cleanups: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup();
  }
});

async function fakeBrokers<const Count extends number>(count: Count): Promise<FakeBroker[]> {
  const brokers = await Promise.all(Array.from({ length: count }, () => FakeBroker.start()));
  cleanups.push(...brokers.map((broker) => () => broker.stop()));
  return brokers;
}

function makeProducer(options: ProducerOptions): Producer {
  const producer = createProducer({ topic: 'A', ...options });
  cleanups.push(() => producer.close({ timeoutMs: 0 }));
  return producer;
}

function makeConsumer(options: ConsumerOptions): Consumer {
  const consumer = createConsumer(options);
  cleanups.push(() => consumer.close({ timeoutMs: 0 }));
  return consumer;
}

const addresses = (brokers: readonly FakeBroker[]): string[] => brokers.map(({ address }) => address);

/** The moment at which the broker dies, and what the next one must get to hear of the message. */
const DEATHS: {
  when: string;
  qos: 1 | 2;
  die(connection: FakeConnection): Promise<void>;
  /** With the session there: what comes, and what the client is to be told so that the publish is done. */
  resumed: 'publish' | 'publish again' | 'pubrel';
  /** Without: a message that was taken is published, and nothing is said of it. */
  anew: 'publish' | 'nothing';
}[] = [];
for (const qos of [1, 2] as const) {
  DEATHS.push({
    when: 'before CONNACK',
    qos,
    die: async (connection) => {
      await connection.next('connect');
      connection.cut();
    },
    resumed: 'publish',
    anew: 'publish',
  });
  DEATHS.push({
    when: 'after PUBLISH',
    qos,
    die: async (connection) => {
      await connection.accept();
      await connection.next('publish');
      connection.cut();
    },
    resumed: 'publish again',
    anew: 'publish',
  });
}
DEATHS.push({
  when: 'after PUBREC',
  qos: 2,
  die: async (connection) => {
    await connection.accept();
    const { messageId } = await connection.next('publish');
    connection.send({ cmd: 'pubrec', messageId: messageId! });
    await connection.next('pubrel');
    connection.cut();
  },
  resumed: 'pubrel',
  anew: 'nothing',
});

for (const { when, qos, die, resumed, anew } of DEATHS) {
  for (const sessionPresent of [true, false]) {
    const session = sessionPresent ? 'a broker that has the session' : 'one that has not';
    test(`QoS ${qos}: a broker that dies ${when} is followed by ${session}`, async () => {
      const brokers = await fakeBrokers(2);
      const producer = makeProducer({ brokers: addresses(brokers), qos });
      const sent = producer.publish('x');
      await die(await brokers[0]!.connection());
      const next = await brokers[1]!.connection();
      const connect = await next.accept({ sessionPresent });
      // A session that this process never had is not asked for.
      assert.equal(connect.clean, resumed === 'publish');
      const expected = sessionPresent ? resumed : anew;
      if (expected === 'nothing') {
        await sent;
        await settle();
        assert.deepEqual(
          next.received.map(({ cmd }) => cmd),
          ['connect'],
        );
        return;
      }
      if (expected !== 'pubrel') {
        const packet = await next.next('publish');
        assert.deepEqual([packet.messageId, packet.dup, packet.qos], [1, expected === 'publish again', qos]);
        if (qos === 1) {
          next.puback(packet.messageId);
          await sent;
          return;
        }
        next.send({ cmd: 'pubrec', messageId: packet.messageId! });
      }
      const { messageId } = await next.next('pubrel');
      assert.equal(messageId, 1);
      next.send({ cmd: 'pubcomp', messageId: messageId! });
      await sent;
    });
  }
}

test('many in flight are sent again in their order, before anything newer', async () => {
  const brokers = await fakeBrokers(3);
  const producer = makeProducer({ brokers: addresses(brokers), qos: 1 });
  const sent = Array.from({ length: 20 }, (_, index) => producer.publish(String(index)));
  const first = await brokers[0]!.accept();
  for (let index = 0; index < 20; index += 1) {
    await first.next('publish');
  }
  first.puback(1);
  await sent[0];
  await brokers[0]!.stop();
  sent.push(producer.publish('20'));
  // The second takes the client, and dies as well.
  (await brokers[1]!.accept({ sessionPresent: true })).cut();
  await brokers[1]!.stop();
  const third = await brokers[2]!.accept({ sessionPresent: true });
  const seen: string[] = [];
  for (let index = 1; index <= 20; index += 1) {
    const packet = await third.next('publish');
    seen.push(`${packet.messageId} ${packet.payload.toString()}`);
    third.puback(packet.messageId);
  }
  assert.deepEqual(
    seen,
    Array.from({ length: 20 }, (_, index) => `${index + 2} ${index + 1}`),
  );
  await Promise.all(sent);
});

for (const [what, version, reasonCode] of [
  ['unavailable', 5, 0x88],
  ['unavailable', 4, 3],
  ['moved, without a reference', 5, 0x9d],
  ['to be left for another, without a reference', 5, 0x9c],
] as const) {
  test(`a server that is ${what} (version ${version}) is left for the next at once`, async () => {
    const brokers = await fakeBrokers(3);
    const events = new Events();
    const producer = makeProducer({
      brokers: addresses(brokers),
      protocolVersion: version,
      onEvent: events.put,
    });
    const sent = producer.publish('x');
    for (const broker of brokers.slice(0, 2)) {
      await (await broker.connection()).accept({ reasonCode });
      assert.equal((await events.next('retrying')).delayMs, 0);
    }
    const connection = await brokers[2]!.accept();
    connection.puback((await connection.next('publish')).messageId);
    await sent;
  });
}

test('a reference to one of the brokers is followed, past others of the list', async () => {
  const brokers = await fakeBrokers(3);
  const producer = makeProducer({ brokers: addresses(brokers) });
  const connected = producer.connect();
  const refusing = await brokers[0]!.connection();
  const properties = { serverReference: brokers[2]!.address };
  await refusing.accept({ reasonCode: 0x9c, properties });
  const leader = await brokers[2]!.accept();
  await connected;
  assert.equal(brokers[1]!.connections.length, 0);
  // Also when the broker ends a connection with it.
  leader.send({
    cmd: 'disconnect',
    reasonCode: 0x9c,
    properties: { serverReference: brokers[1]!.address },
  });
  await brokers[1]!.accept();
});

test('a reference to a stranger, or with followRedirects false to anybody, is not followed', async () => {
  const [stranger] = await fakeBrokers(1);
  const brokers = await fakeBrokers(2);
  const properties = { serverReference: stranger!.address };
  const careful = makeProducer({ brokers: addresses(brokers) });
  const connected = careful.connect();
  await (await brokers[0]!.connection()).accept({ reasonCode: 0x9c, properties });
  await brokers[1]!.accept();
  await connected;
  const [first, second, third] = await fakeBrokers(3);
  const staying = makeProducer({ brokers: addresses([first!, second!, third!]), followRedirects: false });
  const stayed = staying.connect();
  const refusing = await first!.connection();
  await refusing.accept({ reasonCode: 0x9c, properties: { serverReference: third!.address } });
  await second!.accept();
  await stayed;
  assert.equal(stranger!.connections.length + third!.connections.length, 0);
});

test('brokers that take connections and say nothing cost a second each, and the list is gone through', async () => {
  const brokers = await fakeBrokers(3);
  const producer = makeProducer({ brokers: addresses(brokers) });
  const startedMs = performance.now();
  const connected = producer.connect();
  await brokers[2]!.accept();
  await connected;
  const ms = performance.now() - startedMs;
  assert.ok(ms >= 1_900 && ms < 5_000, `${ms} ms`);
});

test('a broker that falls silent while it owes an answer is left within some seconds', async () => {
  const brokers = await fakeBrokers(2);
  const events = new Events();
  const producer = makeProducer({
    brokers: addresses(brokers),
    keepAliveSeconds: 600,
    onEvent: events.put,
  });
  const sent = producer.publish('x');
  const frozen = await brokers[0]!.accept();
  await frozen.next('publish');
  frozen.pause();
  const next = await brokers[1]!.accept({ sessionPresent: true });
  const packet = await next.next('publish');
  assert.equal(packet.dup, true);
  next.puback(packet.messageId);
  await sent;
  assert.match((await events.next('disconnected')).error.message, /has said nothing for 4000 ms/);
});

test('a broker that is slow to acknowledge and answers pings is not left', async () => {
  const brokers = await fakeBrokers(2);
  const producer = makeProducer({ brokers: addresses(brokers), keepAliveSeconds: 600 });
  const sent = producer.publish('x');
  const slow = await brokers[0]!.accept();
  const { messageId } = await slow.next('publish');
  await slow.next('pingreq');
  await slow.next('pingreq');
  slow.puback(messageId);
  await sent;
  assert.equal(brokers[1]!.connections.length, 0);
});

test('an attempt that was given up and is carried out late does not end the client; another client with its id does', async () => {
  const brokers = await fakeBrokers(2);
  const producer = makeProducer({ brokers: addresses(brokers), connectTimeoutMs: 100 });
  const connected = producer.connect();
  // The first keeps the CONNECT and does not answer it.
  const second = await brokers[1]!.accept();
  await connected;
  second.send({ cmd: 'disconnect', reasonCode: 0x8e });
  // Back at the first, which is well again.
  let again = await brokers[0]!.connection();
  await again.closed;
  again = await brokers[0]!.connection();
  await again.accept({ sessionPresent: true });
  const sent = producer.publish('x');
  await again.next('publish');
  again.send({ cmd: 'disconnect', reasonCode: 0x8e });
  await assert.rejects(sent, withCode('SESSION_TAKEN_OVER'));
});

test('when nobody is there, pauses stay between 10 ms and 1 s, and whoever comes first is found', async () => {
  const brokers = await fakeBrokers(3);
  const list = addresses(brokers);
  const ports = brokers.map(({ port }) => port);
  const events = new Events();
  const producer = makeProducer({ brokers: list, onEvent: events.put });
  await Promise.all(brokers.map((broker) => broker.stop()));
  const sent = producer.publish('x');
  const delays: number[] = [];
  for (let attempt = 0; attempt < 15; attempt += 1) {
    delays.push((await events.next('retrying')).delayMs);
  }
  const pauses = delays.filter((delayMs) => delayMs > 0);
  assert.deepEqual(
    pauses.map((delayMs, index) => delayMs >= 10 * 2 ** index && delayMs <= 20 * 2 ** index),
    [true, true, true, true],
  );
  const late = await FakeBroker.start(ports[1]);
  cleanups.push(() => late.stop());
  const connection = await late.accept();
  connection.puback((await connection.next('publish')).messageId);
  await sent;
});

test('a consumer resumes at the next broker: QoS 2 is handed out once wherever the first one died', async () => {
  const brokers = await fakeBrokers(3);
  const consumer = makeConsumer({ brokers: addresses(brokers), clientId: 'c' });
  const messages = consumer.subscribe(['A'], { qos: 2 });
  const first = await brokers[0]!.accept();
  await first.grant();
  await messages.ready();
  const qos2 = (messageId: number, dup: boolean) => ({ qos: 2 as const, messageId, dup });
  for (const id of [1, 2, 3]) {
    first.publish('A', String(id), qos2(id, false));
  }
  const held = [await messages.next(), await messages.next(), await messages.next()].map(
    ({ value }) => value!,
  );
  // 1: PUBREL came. 2: PUBREC left. 3: in the hands of the application.
  held[0]!.ack();
  assert.equal((await first.next('pubrec')).messageId, 1);
  first.send({ cmd: 'pubrel', messageId: 1 });
  assert.equal((await first.next('pubcomp')).messageId, 1);
  held[1]!.ack();
  assert.equal((await first.next('pubrec')).messageId, 2);
  await brokers[0]!.stop();
  const second = await brokers[1]!.connection();
  const connect = await second.accept({ sessionPresent: true });
  assert.deepEqual([connect.clean, connect.clientId], [false, 'c']);
  // What a broker knows that has seen neither PUBCOMP nor PUBREC.
  second.send({ cmd: 'pubrel', messageId: 1 });
  second.publish('A', '2', qos2(2, true));
  second.publish('A', '3', qos2(3, true));
  second.publish('A', '4', qos2(4, false));
  assert.equal((await second.next('pubcomp')).messageId, 1);
  assert.equal((await second.next('pubrec')).messageId, 2);
  held[2]!.ack();
  assert.equal((await second.next('pubrec')).messageId, 3);
  const fourth = (await messages.next()).value!;
  assert.deepEqual([fourth.text(), fourth.duplicate], ['4', false]);
  assert.deepEqual(
    second.received.filter(({ cmd }) => cmd === 'subscribe'),
    [],
  );
});

test('a consumer whose session is gone subscribes again', async () => {
  const brokers = await fakeBrokers(2);
  const consumer = makeConsumer({ brokers: addresses(brokers), clientId: 'c' });
  const messages = consumer.subscribe(['A'], { qos: 1 });
  const first = await brokers[0]!.accept();
  await first.grant();
  await messages.ready();
  await brokers[0]!.stop();
  const second = await brokers[1]!.accept();
  await second.grant();
  second.publish('A', 'x', { qos: 1, messageId: 1 });
  assert.equal((await messages.next()).value?.text(), 'x');
});
