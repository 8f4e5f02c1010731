import assert from 'node:assert/strict';
import { after, afterEach, beforeEach, test } from 'node:test';
import {
  type Consumer,
  type ConsumerOptions,
  createConsumer,
  type ReceivedMessage,
  type Subscription,
} from '../../client/src/index.js';
import { subscriptionIdentifier } from '../../client/src/topics.js';
import { FakeBroker, type FakeConnection } from './fake-broker.js';
import { Events, settle, unique, withCode } from './support.js';

let broker: FakeBroker;
const consumers: Consumer[] = [];
const warnings: string[] = [];
process.on('warning', (warning) => warnings.push(warning.message));

beforeEach(async () => {
  broker = await FakeBroker.start();
});

afterEach(async () => {
  await Promise.all(consumers.splice(0).map((consumer) => consumer.close({ timeoutMs: 0 })));
  await broker.stop();
});

after(() => {
  assert.deepEqual(warnings, []);
});

function make(options: Partial<ConsumerOptions> = {}): Consumer {
  const consumer = createConsumer({
    brokers: [broker.address],
    clientId: unique('consumer'),
    retryDelayMs: 1,
    retryDelayMsMax: 2,
    ...options,
  });
  consumers.push(consumer);
  return consumer;
}

async function take(subscription: Subscription): Promise<ReceivedMessage> {
  const { value, done } = await subscription.next();
  assert.ok(!done && value);
  return value;
}

function sentBy(connection: FakeConnection, ...kinds: string[]): [string, number | undefined][] {
  return connection.received
    .filter(({ cmd }) => kinds.includes(cmd))
    .map(({ cmd, messageId }) => [cmd, messageId]);
}

/** A round trip: what the consumer had to say before it has arrived then. */
async function roundTrip(consumer: Consumer, connection: FakeConnection): Promise<void> {
  const probe = consumer.subscribe([unique('probe')]);
  await connection.grant();
  await probe.ready();
  const left = probe.close();
  connection.send({
    cmd: 'unsuback',
    messageId: (await connection.next('unsubscribe')).messageId!,
    granted: [0],
  });
  await left;
}

test('a consumer resumes its session and says how much it takes', async () => {
  const consumer = make({ clientId: 'me', receiveMaximum: 7, maxPacketBytes: 1_000 });
  const connected = consumer.connect();
  const connection = await broker.connection();
  const connect = await connection.accept({ sessionPresent: true });
  await connected;
  assert.deepEqual([connect.clientId, connect.clean, connect.keepalive], ['me', false, 15]);
  assert.deepEqual(
    { ...connect.properties },
    { sessionExpiryInterval: 86_400, receiveMaximum: 7, maximumPacketSize: 1_000 },
  );
});

test('PUBACK leaves when the application acknowledges, not before', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A'], { qos: 1 });
  const connection = await broker.accept();
  await connection.grant();
  connection.publish('A', 'one', { qos: 1, messageId: 5 });
  connection.publish('A', 'zero');
  const one = await take(messages);
  assert.equal((await take(messages)).text(), 'zero');
  await roundTrip(consumer, connection);
  assert.deepEqual(sentBy(connection, 'puback'), []);
  one.ack();
  one.ack();
  assert.equal((await connection.next('puback')).messageId, 5);
  await roundTrip(consumer, connection);
  assert.deepEqual(sentBy(connection, 'puback'), [['puback', 5]]);
});

test('a message carries topic, payload, flags and properties', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A/+'], {
    retainAsPublished: true,
    retained: 'if-new',
    noLocal: true,
  });
  const connection = await broker.accept();
  const { subscriptions } = await connection.grant();
  assert.deepEqual(
    subscriptions.map(({ topic, qos, nl, rap, rh }) => ({ topic, qos, nl, rap, rh })),
    [{ topic: 'A/+', qos: 1, nl: true, rap: true, rh: 1 }],
  );
  connection.publish('A/b', '{"x":1}', {
    qos: 1,
    messageId: 1,
    retain: true,
    dup: true,
    properties: {
      contentType: 'application/json',
      payloadFormatIndicator: true,
      messageExpiryInterval: 9,
      responseTopic: 'r',
      correlationData: Buffer.from('c'),
      userProperties: { a: ['1', '2'] },
    },
  });
  const message = await take(messages);
  assert.deepEqual(message.json(), { x: 1 });
  assert.deepEqual(
    [message.topic, message.text(), message.qos, message.retained, message.duplicate],
    ['A/b', '{"x":1}', 1, true, true],
  );
  assert.deepEqual(message.properties, {
    contentType: 'application/json',
    payloadFormat: 'utf8',
    messageExpirySeconds: 9,
    responseTopic: 'r',
    correlationData: Buffer.from('c'),
    userProperties: { a: ['1', '2'] },
  });
});

test('[MQTT-4.6.0-2] acknowledgements leave in the order of arrival, whatever the order of the application', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A']);
  const connection = await broker.accept();
  await connection.grant();
  for (const messageId of [11, 12, 13]) {
    connection.publish('A', `${messageId}`, { qos: 1, messageId });
  }
  const [first, second, third] = [await take(messages), await take(messages), await take(messages)];
  third.ack();
  second.ack();
  await roundTrip(consumer, connection);
  assert.deepEqual(sentBy(connection, 'puback'), []);
  first.ack();
  await roundTrip(consumer, connection);
  assert.deepEqual(sentBy(connection, 'puback'), [
    ['puback', 11],
    ['puback', 12],
    ['puback', 13],
  ]);
});

test('QoS 2: PUBREC after ack(), PUBCOMP after PUBREL, and a repeated PUBLISH is not handed out again', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A'], { qos: 2 });
  const first = await broker.accept();
  await first.grant();
  first.publish('A', 'x', { qos: 2, messageId: 3 });
  const message = await take(messages);
  first.cut();
  // Not acknowledged: the broker sends it again, and the application has it already.
  const second = await broker.accept({ sessionPresent: true });
  second.publish('A', 'x', { qos: 2, messageId: 3, dup: true });
  await roundTrip(consumer, second);
  assert.deepEqual(sentBy(second, 'pubrec'), []);
  message.ack();
  assert.equal((await second.next('pubrec')).messageId, 3);
  second.cut();
  // PUBREC was lost: the same answer again, and no second message.
  const third = await broker.accept({ sessionPresent: true });
  third.publish('A', 'x', { qos: 2, messageId: 3, dup: true });
  assert.equal((await third.next('pubrec')).messageId, 3);
  third.send({ cmd: 'pubrel', messageId: 3 });
  assert.equal((await third.next('pubcomp')).messageId, 3);
  // After PUBREL the packet id may name another message.
  third.publish('A', 'y', { qos: 2, messageId: 3 });
  assert.equal((await take(messages)).text(), 'y');
});

test('an acknowledgement made while offline is given when the broker sends the message again', async () => {
  const events = new Events();
  const consumer = make({ onEvent: events.put });
  const messages = consumer.subscribe(['A']);
  const first = await broker.accept();
  await first.grant();
  first.publish('A', 'x', { qos: 1, messageId: 8 });
  const message = await take(messages);
  first.cut();
  await events.next('disconnected');
  message.ack();
  const second = await broker.accept({ sessionPresent: true });
  second.publish('A', 'x', { qos: 1, messageId: 8, dup: true });
  assert.equal((await second.next('puback')).messageId, 8);
  // A packet id given to another message is another message.
  second.publish('A', 'y', { qos: 1, messageId: 8 });
  assert.equal((await take(messages)).text(), 'y');
});

test('auto: a message is acknowledged when the loop asks for the next', async () => {
  const consumer = make();
  const messages = consumer.subscribe('A', { auto: true });
  const connection = await broker.accept();
  await connection.grant();
  connection.publish('A', 'a', { qos: 1, messageId: 1 });
  connection.publish('A', 'b', { qos: 1, messageId: 2 });
  await take(messages);
  await roundTrip(consumer, connection);
  assert.deepEqual(sentBy(connection, 'puback'), []);
  await take(messages);
  assert.equal((await connection.next('puback')).messageId, 1);
});

test('leaving the loop unsubscribes; what it did not acknowledge waits for the next subscription', async () => {
  const consumer = make();
  const other = consumer.subscribe(['B']);
  const connection = await broker.accept();
  await connection.grant();
  const messages = consumer.subscribe(['A']);
  await connection.grant();
  connection.publish('A', 'a', { qos: 1, messageId: 1 });
  connection.publish('A', 'b', { qos: 1, messageId: 2 });
  connection.publish('B', 'c', { qos: 1, messageId: 3 });
  const left = (async () => {
    for await (const message of messages) {
      assert.equal(message.text(), 'a');
      break;
    }
  })();
  const unsubscribe = await connection.next('unsubscribe');
  assert.deepEqual(unsubscribe.unsubscriptions, ['A']);
  connection.send({ cmd: 'unsuback', messageId: unsubscribe.messageId!, granted: [0] });
  await left;
  assert.deepEqual(await messages.next(), { done: true, value: undefined });
  // What nobody works on does not hold back the acknowledgements of others.
  (await take(other)).ack();
  assert.equal((await connection.next('puback')).messageId, 3);
  const again = consumer.subscribe(['A']);
  const [a, b] = [await take(again), await take(again)];
  assert.deepEqual([a.text(), b.text()], ['a', 'b']);
  b.ack();
  a.ack();
  assert.equal((await connection.next('puback')).messageId, 2);
  assert.equal((await connection.next('puback')).messageId, 1);
});

test('a loop that throws unsubscribes too, and passes the error on', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A']);
  const connection = await broker.accept();
  await connection.grant();
  connection.publish('A', 'a', { qos: 1, messageId: 1 });
  const loop = (async () => {
    for await (const message of messages) {
      throw new Error(`cannot process ${message.text()}`);
    }
  })();
  const failed = assert.rejects(loop, /cannot process a/);
  connection.send({
    cmd: 'unsuback',
    messageId: (await connection.next('unsubscribe')).messageId!,
    granted: [0],
  });
  await failed;
  assert.deepEqual(sentBy(connection, 'puback'), []);
});

test('close() ends the loops without unsubscribing and waits for the messages in hand', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A']);
  const connection = await broker.accept();
  await connection.grant();
  connection.publish('A', 'a', { qos: 1, messageId: 1 });
  connection.publish('A', 'b', { qos: 1, messageId: 2 });
  const message = await take(messages);
  await settle();
  const closed = consumer.close();
  assert.equal(consumer.close(), closed);
  assert.deepEqual(await messages.next(), { done: true, value: undefined });
  assert.throws(() => consumer.subscribe(['B']), withCode('CLOSED'));
  await assert.rejects(consumer.connect(), withCode('CLOSED'));
  connection.publish('A', 'c', { qos: 1, messageId: 3 });
  await settle();
  assert.deepEqual(sentBy(connection, 'disconnect', 'puback'), []);
  message.ack();
  await connection.next('disconnect');
  connection.cut();
  await closed;
  assert.deepEqual(sentBy(connection, 'unsubscribe', 'disconnect', 'puback'), [
    ['puback', 1],
    ['disconnect', undefined],
  ]);
});

test('close() does not wait longer than it may, and a waiting loop ends', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A']);
  const connection = await broker.accept();
  await connection.grant();
  connection.publish('A', 'a', { qos: 1, messageId: 1 });
  await take(messages);
  const waiting = messages.next();
  const closed = consumer.close({ timeoutMs: 10 });
  assert.deepEqual(await waiting, { done: true, value: undefined });
  await connection.next('disconnect');
  connection.cut();
  await closed;
  assert.deepEqual(sentBy(connection, 'puback'), []);
});

test('overlapping filters: each loop gets what its filter is for, by subscription identifier', async () => {
  const consumer = make();
  const wide = consumer.subscribe(['A/#']);
  const narrow = consumer.subscribe(['A/b']);
  const connection = await broker.accept();
  for (const filter of ['A/#', 'A/b']) {
    const subscribe = await connection.grant();
    assert.equal(subscribe.subscriptions[0]?.topic, filter);
    assert.equal(subscribe.properties?.subscriptionIdentifier, subscriptionIdentifier(filter));
  }
  const identifiers = ['A/#', 'A/b'].map(subscriptionIdentifier);
  // One copy for both subscriptions: acknowledged when both loops have.
  connection.publish('A/b', 'both', {
    qos: 1,
    messageId: 1,
    properties: { subscriptionIdentifier: identifiers },
  });
  // One copy for each.
  connection.publish('A/b', 'wide', {
    qos: 1,
    messageId: 2,
    properties: { subscriptionIdentifier: identifiers[0]! },
  });
  connection.publish('A/b', 'narrow', {
    qos: 1,
    messageId: 3,
    properties: { subscriptionIdentifier: identifiers[1]! },
  });
  const wides = [await take(wide), await take(wide)];
  const narrows = [await take(narrow), await take(narrow)];
  assert.deepEqual(
    [wides, narrows].map((messages) => messages.map((message) => message.text())),
    [
      ['both', 'wide'],
      ['both', 'narrow'],
    ],
  );
  wides[0]!.ack();
  wides[0]!.ack();
  await roundTrip(consumer, connection);
  assert.deepEqual(sentBy(connection, 'puback'), []);
  narrows[0]!.ack();
  assert.equal((await connection.next('puback')).messageId, 1);
});

test('without subscription identifiers the topic decides, shares and replays included', async () => {
  const consumer = make({ protocolVersion: 4 });
  const filters = [['A/#'], ['$share/group/A/b'], ['$replay/earliest/A/+'], ['B']];
  const subscriptions = filters.map((filter) => consumer.subscribe(filter));
  const connection = await broker.accept();
  for (const _ of filters) {
    await connection.grant();
  }
  connection.publish('A/b', 'x');
  for (const subscription of subscriptions.slice(0, 3)) {
    assert.equal((await take(subscription)).text(), 'x');
  }
  connection.publish('B', 'y');
  assert.equal((await take(subscriptions[3]!)).text(), 'y');
});

test('two loops over one filter are one subscription at the broker, ended with the last of them', async () => {
  const consumer = make();
  const one = consumer.subscribe(['A']);
  const two = consumer.subscribe(['A'], { qos: 0 });
  const connection = await broker.accept();
  assert.equal((await connection.grant()).subscriptions[0]?.qos, 1);
  await Promise.all([one.ready(), two.ready()]);
  connection.publish('A', 'x', { qos: 1, messageId: 1 });
  assert.deepEqual([(await take(one)).text(), (await take(two)).text()], ['x', 'x']);
  await one.close();
  assert.deepEqual(sentBy(connection, 'unsubscribe'), []);
  const left = two.close();
  const { messageId } = await connection.next('unsubscribe');
  connection.send({ cmd: 'unsuback', messageId: messageId!, granted: [0] });
  await left;
});

test('a lost session is subscribed again; a resumed one is not, except for what changed meanwhile', async () => {
  const events = new Events();
  const consumer = make({ onEvent: events.put });
  const kept = consumer.subscribe(['A']);
  const dropped = consumer.subscribe(['B']);
  const first = await broker.accept();
  await first.grant();
  await first.grant();
  await Promise.all([kept.ready(), dropped.ready()]);
  first.cut();
  await events.next('disconnected');
  await dropped.close();
  const added = consumer.subscribe(['C']);
  const second = await broker.accept({ sessionPresent: true });
  assert.deepEqual((await second.next('unsubscribe')).unsubscriptions, ['B']);
  assert.equal((await second.grant()).subscriptions[0]?.topic, 'C');
  await added.ready();
  assert.equal(sentBy(second, 'subscribe').length, 1);
  second.cut();
  const third = await broker.accept({ sessionPresent: false });
  assert.deepEqual(
    [await third.grant(), await third.grant()].map(({ subscriptions }) => subscriptions[0]?.topic),
    ['A', 'C'],
  );
  third.publish('A', 'x');
  assert.equal((await take(kept)).text(), 'x');
});

test('what a resumed session sends before the application subscribes waits for it', async () => {
  const consumer = make();
  const connected = consumer.connect();
  const connection = await broker.connection();
  await connection.next('connect');
  connection.version = 5;
  connection.send({ cmd: 'connack', sessionPresent: true, reasonCode: 0 });
  connection.publish('A', 'early', { qos: 1, messageId: 1, properties: { subscriptionIdentifier: 77 } });
  await connected;
  await settle();
  const messages = consumer.subscribe(['A']);
  const early = await take(messages);
  assert.equal(early.text(), 'early');
  early.ack();
  assert.equal((await connection.next('puback')).messageId, 1);
});

test('messages that nobody wants take at most half of the window; the oldest are let go, counted and reported', async () => {
  const events = new Events();
  const consumer = make({ receiveMaximum: 4, onEvent: events.put });
  const connected = consumer.connect();
  const connection = await broker.accept({ sessionPresent: true });
  await connected;
  for (const messageId of [1, 2, 3, 4]) {
    connection.publish('stale', `${messageId}`, { qos: 1, messageId });
  }
  assert.equal((await connection.next('puback')).messageId, 1);
  assert.equal((await connection.next('puback')).messageId, 2);
  assert.equal(consumer.discarded, 2);
  assert.deepEqual(await events.next('discarded'), {
    type: 'discarded',
    topic: 'stale',
    qos: 1,
    reason: 'not claimed',
  });
});

test('a refused subscription rejects ready() and the loop', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A', 'secret']);
  const connection = await broker.accept();
  await connection.grant();
  const { messageId } = await connection.next('subscribe');
  connection.send({ cmd: 'suback', messageId: messageId!, granted: [0x87] });
  await assert.rejects(
    messages.ready(),
    withCode('SUBSCRIBE_REFUSED', { reasonCode: 0x87, retriable: false }),
  );
  await assert.rejects(messages.next(), withCode('SUBSCRIBE_REFUSED'));
  assert.deepEqual(await messages.next(), { done: true, value: undefined });
  assert.deepEqual((await connection.next('unsubscribe')).unsubscriptions, ['A']);
});

test('a refusal that nobody listens to is no unhandled rejection', async () => {
  const consumer = make({ protocolVersion: 4 });
  consumer.subscribe(['secret']);
  const connection = await broker.accept();
  const { messageId } = await connection.next('subscribe');
  connection.send({ cmd: 'suback', messageId: messageId!, granted: [0x80] });
  await settle();
});

test('an aborted subscription rejects the loop with ABORTED and unsubscribes', async () => {
  const consumer = make();
  const controller = new AbortController();
  const messages = consumer.subscribe(['A'], { signal: controller.signal });
  const connection = await broker.accept();
  await connection.grant();
  await messages.ready();
  const waiting = assert.rejects(messages.next(), withCode('ABORTED'));
  controller.abort();
  await waiting;
  assert.deepEqual((await connection.next('unsubscribe')).unsubscriptions, ['A']);
  assert.throws(() => consumer.subscribe(['A'], { signal: controller.signal }), withCode('ABORTED'));
});

test('filters and options are checked at once', () => {
  const consumer = make();
  for (const filter of [
    '',
    'a#',
    '#/b',
    'a/+b',
    '$share//x',
    '$share/g/',
    '$share/g',
    '$share/+/x',
    'a\u0000',
  ]) {
    assert.throws(() => consumer.subscribe([filter]), withCode('FILTER_INVALID'), filter);
  }
  assert.throws(() => consumer.subscribe([]), withCode('FILTER_INVALID'));
  assert.throws(() => consumer.subscribe(['A'], { qos: 4 as 1 }), withCode('OPTIONS_INVALID'));
  assert.throws(() => consumer.subscribe(['A'], { qs: 1 } as object), withCode('OPTIONS_INVALID'));
  assert.throws(() => consumer.subscribe(['A'], { retained: 'no' as 'never' }), withCode('OPTIONS_INVALID'));
  assert.throws(() => consumer.subscribe(['$share/g/A'], { noLocal: true }), withCode('OPTIONS_INVALID'));
  assert.throws(
    () => make({ protocolVersion: 4 }).subscribe(['A'], { noLocal: true }),
    withCode('UNSUPPORTED'),
  );
  assert.equal(broker.connections.length, 0);
});

test('a broker without Receive Maximum is held back by not reading, and pinged meanwhile', async () => {
  const consumer = make({ protocolVersion: 4, receiveMaximum: 2, keepAliveSeconds: 1 });
  const messages = consumer.subscribe(['A']);
  const connection = await broker.accept();
  await connection.grant();
  for (const messageId of [1, 2, 3]) {
    connection.publish('A', `${messageId}`, { qos: 1, messageId });
  }
  const first = await take(messages);
  await take(messages);
  const third = take(messages);
  let arrived = false;
  void third.then(() => {
    arrived = true;
  });
  // Four pings are two seconds: without them MQTT.js would have given the connection up after one and a half.
  for (let ping = 0; ping < 4; ping += 1) {
    await connection.next('pingreq');
  }
  assert.equal(arrived, false);
  first.ack();
  assert.equal((await third).text(), '3');
  assert.equal(broker.connections.length, 1);
});

test('QoS 0 beyond the buffer: waits a second for the loop, then is dropped, counted and reported', async () => {
  const events = new Events();
  const consumer = make({ bufferMessages: 2, onEvent: events.put });
  const messages = consumer.subscribe(['A'], { qos: 0 });
  const connection = await broker.accept();
  await connection.grant();
  for (const payload of ['1', '2', '3', '4']) {
    connection.publish('A', payload);
  }
  await messages.ready();
  assert.equal((await events.next('discarded')).reason, 'buffer full');
  await events.next('discarded');
  assert.equal(consumer.discarded, 2);
  connection.publish('A', '5');
  const texts = [(await take(messages)).text(), (await take(messages)).text()];
  assert.deepEqual(texts, ['1', '2']);
  connection.publish('A', '6');
  assert.ok(['5', '6'].includes((await take(messages)).text()));
});

test('a QoS 0 burst that the loop keeps up with loses nothing', async () => {
  const consumer = make({ bufferMessages: 10 });
  const messages = consumer.subscribe(['A'], { qos: 0 });
  const connection = await broker.accept();
  await connection.grant();
  for (let count = 0; count < 500; count += 1) {
    connection.publish('A', `${count}`);
  }
  for (let count = 0; count < 500; count += 1) {
    assert.equal((await take(messages)).text(), `${count}`);
  }
  assert.equal(consumer.discarded, 0);
});

test('a session taken over by another connection ends the loops, and is not fought for', async () => {
  const consumer = make();
  const messages = consumer.subscribe(['A']);
  const connection = await broker.accept();
  await connection.grant();
  const failed = assert.rejects(messages.next(), withCode('SESSION_TAKEN_OVER', { reasonCode: 0x8e }));
  connection.send({ cmd: 'disconnect', reasonCode: 0x8e });
  await failed;
  await settle();
  assert.equal(broker.connections.length, 1);
  // Asked again, it connects again.
  const again = consumer.subscribe(['A']);
  await (await broker.accept({ sessionPresent: true })).grant();
  await again.ready();
});
