// The package against a real broker, through a link that can be cut. What needs exact packets is in the other files.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  type Consumer,
  type ConsumerOptions,
  createConsumer,
  createProducer,
  type Producer,
  type ProducerOptions,
  type Qos,
  type ReceivedMessage,
  type Subscription,
} from '../../client/src/index.js';
import { CuttableLink, Events, startBroker, type TestBroker, unique, withCode } from './support.js';

let broker: TestBroker;
let address: string;
const cleanups: (() => Promise<unknown>)[] = [];

before(async () => {
  broker = await startBroker();
  address = `127.0.0.1:${broker.port}`;
});

after(() => broker.stop());

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup();
  }
});

function producerOf(options: Partial<ProducerOptions> = {}): Producer {
  const producer = createProducer({ brokers: [address], retryDelayMs: 5, retryDelayMsMax: 20, ...options });
  cleanups.push(() => producer.close({ timeoutMs: 0 }));
  return producer;
}

function consumerOf(options: Partial<ConsumerOptions> = {}): Consumer {
  const consumer = createConsumer({ brokers: [address], retryDelayMs: 5, retryDelayMsMax: 20, ...options });
  cleanups.push(() => consumer.close({ timeoutMs: 0 }));
  return consumer;
}

async function linkTo(port: number): Promise<CuttableLink> {
  const link = await CuttableLink.start(port);
  cleanups.push(() => link.stop());
  return link;
}

async function take(subscription: Subscription): Promise<ReceivedMessage> {
  const { value, done } = await subscription.next();
  assert.ok(!done && value);
  return value;
}

async function texts(subscription: Subscription, count: number): Promise<string[]> {
  const received: string[] = [];
  for (let taken = 0; taken < count; taken += 1) {
    const message = await take(subscription);
    received.push(message.text());
    message.ack();
  }
  return received;
}

for (const protocolVersion of [5, 4, 3] as const) {
  test(`MQTT ${protocolVersion}: QoS 0, 1 and 2 arrive as published`, async () => {
    const topic = unique('plain');
    const messages = consumerOf({ protocolVersion }).subscribe([topic], { qos: 2 });
    await messages.ready();
    const producer = producerOf({ protocolVersion, topic });
    for (const qos of [0, 1, 2] as const) {
      await producer.publish(`qos ${qos}`, { qos });
      const message = await take(messages);
      assert.deepEqual(
        [message.topic, message.text(), message.qos, message.retained],
        [topic, `qos ${qos}`, qos, false],
      );
      message.ack();
    }
    await producer.publish(new Uint8Array([0, 255]));
    assert.deepEqual([...(await take(messages)).payload], [0, 255]);
  });
}

test('MQTT 5 properties arrive as sent', async () => {
  const topic = unique('properties');
  const messages = consumerOf().subscribe([topic]);
  await messages.ready();
  const properties = {
    contentType: 'text/plain',
    payloadFormat: 'utf8' as const,
    responseTopic: 'answers',
    correlationData: Buffer.from([1, 2]),
    userProperties: { a: '1', b: ['2', '3'] },
  };
  await producerOf().publish({ topic, payload: 'x', properties });
  const message = await take(messages);
  assert.deepEqual(message.properties, properties);
});

test('a retained message is kept, marked as such, and removed by an empty one', async () => {
  const topic = unique('retained');
  const producer = producerOf({ topic });
  await producer.publish('kept', { retain: true });
  const consumer = consumerOf();
  const first = consumer.subscribe([topic]);
  const message = await take(first);
  assert.deepEqual([message.text(), message.retained], ['kept', true]);
  message.ack();
  const without = consumerOf().subscribe([topic], { retained: 'never' });
  await without.ready();
  await producer.publish('', { retain: true });
  assert.equal((await take(without)).text(), '');
});

test('a message that was not acknowledged comes again, one that was does not: after a cut, and to the next process', async () => {
  const topic = unique('unacknowledged');
  const link = await linkTo(broker.port);
  const clientId = unique('consumer');
  const options = { brokers: [link.address], clientId };
  const consumer = consumerOf(options);
  const messages = consumer.subscribe([topic]);
  await messages.ready();
  const producer = producerOf({ topic });
  await producer.publish('done');
  await producer.publish('open');
  (await take(messages)).ack();
  const open = await take(messages);
  assert.equal(open.text(), 'open');
  await messages.ready();
  const gone = consumer.close({ timeoutMs: 0 });
  await gone;
  await producer.publish('meanwhile');
  const successor = consumerOf(options).subscribe([topic]);
  const again = await take(successor);
  assert.deepEqual([again.text(), again.duplicate], ['open', true]);
  again.ack();
  assert.deepEqual(await texts(successor, 1), ['meanwhile']);
});

for (const qos of [1, 2] as const) {
  test(`QoS ${qos}: a cut link does not repeat what the application has in hand, and loses nothing`, async () => {
    const topic = unique('cut');
    const link = await linkTo(broker.port);
    const events = new Events();
    const messages = consumerOf({ brokers: [link.address], onEvent: events.put }).subscribe([topic], { qos });
    await messages.ready();
    const producer = producerOf({ topic });
    await producer.publish('in hand', { qos });
    const message = await take(messages);
    link.cut();
    await events.next('disconnected');
    await producer.publish('meanwhile', { qos });
    message.ack();
    assert.deepEqual(await texts(messages, 1), ['meanwhile']);
  });
}

test('QoS 2: exactly once, with the link cut again and again before and after the answers', async () => {
  const topic = unique('exactly-once');
  const messages = consumerOf().subscribe([topic], { qos: 2 });
  await messages.ready();
  const link = await linkTo(broker.port);
  const producer = producerOf({ brokers: [link.address], topic, maxInflight: 5 });
  const count = 200;
  const sent: Promise<unknown>[] = [];
  for (let number = 0; number < count; number += 1) {
    sent.push(producer.publish(`${number}`, { qos: 2 }));
  }
  const allSent = Promise.all(sent);
  for (let cut = 0; cut < 8; cut += 1) {
    await link.connection();
    await Promise.race([link.answer(), allSent]);
    // In every other round a request arrives whose answer does not.
    link.loseAnswers = cut % 2 === 0;
    await Promise.race([link.answer(), allSent]);
    link.cut();
    link.restore();
  }
  await Promise.all(sent);
  await producer.publish('end', { qos: 2 });
  const expected = Array.from({ length: count }, (_, number) => `${number}`);
  assert.deepEqual(await texts(messages, count + 1), [...expected, 'end']);
});

test('publishes made during an outage arrive after it, all of them, in order', async () => {
  const topic = unique('outage');
  const messages = consumerOf().subscribe([topic], { qos: 1 });
  await messages.ready();
  const link = await linkTo(broker.port);
  const events = new Events();
  const producer = producerOf({ brokers: [link.address], topic, onEvent: events.put });
  await producer.publish('before');
  link.goDown();
  await events.next('disconnected');
  const sent = Array.from({ length: 100 }, (_, number) => producer.publish(`${number}`, { qos: 1 }));
  await events.next('retrying');
  link.restore();
  await Promise.all(sent);
  const expected = Array.from({ length: 100 }, (_, number) => `${number}`);
  assert.deepEqual(await texts(messages, 101), ['before', ...expected]);
});

test('acknowledgements lost on the way: nothing is lost, order is kept, DUP tells what may have come before', async () => {
  const topic = unique('lost-answers');
  const messages = consumerOf().subscribe([topic], { qos: 1 });
  await messages.ready();
  const link = await linkTo(broker.port);
  const producer = producerOf({ brokers: [link.address], topic });
  await producer.connect();
  link.loseAnswers = true;
  const sent = [producer.publish('a'), producer.publish('b')];
  assert.deepEqual(await texts(messages, 2), ['a', 'b']);
  assert.equal(producer.outstanding, 2);
  link.restore();
  link.cut();
  await Promise.all(sent);
  await producer.publish('c');
  assert.deepEqual(await texts(messages, 3), ['a', 'b', 'c']);
});

test('shared subscriptions divide the messages', async () => {
  const topic = unique('shared');
  const members = [consumerOf(), consumerOf()].map((consumer) =>
    consumer.subscribe([`$share/${topic}/${topic}`], { auto: true }),
  );
  await Promise.all(members.map((member) => member.ready()));
  const producer = producerOf({ topic });
  const count = 20;
  for (let number = 0; number < count; number += 1) {
    await producer.publish(`${number}`);
  }
  const seen = new Set<string>();
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const loops = members.map(async (member) => {
    for await (const message of member) {
      assert.equal(seen.has(message.text()), false);
      seen.add(message.text());
      if (seen.size === count) {
        finish();
      }
    }
  });
  await finished;
  await Promise.all(members.map((member) => member.close()));
  await Promise.all(loops);
});

test('overlapping filters on one consumer: every loop gets every message of its filter', async () => {
  const topic = unique('overlap');
  const consumer = consumerOf();
  const wide = consumer.subscribe([`${topic}/#`]);
  const narrow = consumer.subscribe([`${topic}/a`]);
  await Promise.all([wide.ready(), narrow.ready()]);
  const producer = producerOf();
  await producer.publish('a', { topic: `${topic}/a` });
  await producer.publish('b', { topic: `${topic}/b` });
  assert.deepEqual(await texts(wide, 2), ['a', 'b']);
  assert.deepEqual(await texts(narrow, 1), ['a']);
});

test('the will of a producer whose link is cut reaches a consumer; that of one that closes does not', async () => {
  const topic = unique('will');
  const messages = consumerOf().subscribe([topic]);
  await messages.ready();
  const link = await linkTo(broker.port);
  const will = { topic, payload: 'lost', qos: 1 as Qos };
  const closing = producerOf({ will: { ...will, payload: 'closed' } });
  await closing.connect();
  await closing.close();
  const cut = producerOf({ brokers: [link.address], will });
  await cut.connect();
  link.goDown();
  assert.deepEqual(await texts(messages, 1), ['lost']);
});

test('failover: the broker dies, the next of the list goes on', async () => {
  const doomed = await startBroker();
  const topic = unique('failover');
  const brokers = [`127.0.0.1:${doomed.port}`, address];
  const events = new Events();
  const consumer = consumerOf({ brokers, onEvent: events.put });
  const messages = consumer.subscribe([topic]);
  await messages.ready();
  const producer = producerOf({ brokers, topic });
  await producer.publish('before');
  assert.deepEqual(await texts(messages, 1), ['before']);
  await events.next('connected');
  await doomed.stop();
  await events.next('connected');
  // The second broker knows nothing of the session: the filter is granted anew before anything is published there.
  const probe = consumer.subscribe([unique('probe')]);
  await probe.ready();
  await producer.publish('after');
  assert.deepEqual(await texts(messages, 1), ['after']);
});

test('over WebSocket as over TCP', async () => {
  const topic = unique('websocket');
  const brokers = [`ws://127.0.0.1:${broker.wsPort}/mqtt`];
  const messages = consumerOf({ brokers }).subscribe([topic], { qos: 2, auto: true });
  await messages.ready();
  const producer = producerOf({ brokers, topic });
  for (const qos of [0, 1, 2] as const) {
    await producer.publish(`${qos}`, { qos });
    assert.equal((await take(messages)).text(), `${qos}`);
  }
});

test('a thousand publishes at once arrive once and in order, and close() waits for them', async () => {
  const topic = unique('many');
  const messages = consumerOf().subscribe([topic], { auto: true });
  await messages.ready();
  const producer = producerOf({ topic, maxInflight: 100 });
  const sent = Array.from({ length: 1_000 }, (_, number) => producer.publish(`${number}`));
  await producer.close();
  await Promise.all(sent);
  await assert.rejects(producer.publish('late'), withCode('CLOSED'));
  for (let number = 0; number < 1_000; number += 1) {
    assert.equal((await take(messages)).text(), `${number}`);
  }
});
