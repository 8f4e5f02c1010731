import assert from 'node:assert/strict';
import { after, afterEach, beforeEach, test } from 'node:test';
import { createProducer, type Producer, type ProducerOptions } from '../../client/src/index.js';
import { FakeBroker } from './fake-broker.js';
import { Events, settle, unique, withCode } from './support.js';

let broker: FakeBroker;
const producers: Producer[] = [];

beforeEach(async () => {
  broker = await FakeBroker.start();
});

afterEach(async () => {
  await Promise.all(producers.splice(0).map((producer) => producer.close({ timeoutMs: 0 })));
  await broker.stop();
});

after(() => {
  assert.deepEqual(warnings, []);
});

const warnings: string[] = [];
process.on('warning', (warning) => warnings.push(warning.message));

function make(options: Partial<ProducerOptions> = {}): Producer {
  const producer = createProducer({
    brokers: [broker.address],
    topic: 'A',
    retryDelayMs: 1,
    retryDelayMsMax: 2,
    ...options,
  });
  producers.push(producer);
  return producer;
}

test('a publish is one PUBLISH with the topic, QoS and retain flag of the call', async () => {
  const producer = make();
  const sent = Promise.all([
    producer.publish('zero', { qos: 0 }),
    producer.publish('one', { qos: 1, retain: true }),
    producer.publish({ topic: 'B', payload: new Uint8Array([1, 2]) }, { qos: 2 }),
    producer.publish({ topic: 'B', payload: 'text' }, { topic: 'C', qos: 0 }),
  ]);
  const connection = await broker.accept();
  const packets = [
    await connection.next('publish'),
    await connection.next('publish'),
    await connection.next('publish'),
    await connection.next('publish'),
  ];
  assert.deepEqual(
    packets.map(({ topic, payload, qos, retain, dup }) => [topic, payload.toString('hex'), qos, retain, dup]),
    [
      ['A', '7a65726f', 0, false, false],
      ['A', '6f6e65', 1, true, false],
      ['B', '0102', 2, false, false],
      ['C', '74657874', 0, false, false],
    ],
  );
  connection.puback(packets[1]!.messageId);
  connection.send({ cmd: 'pubrec', messageId: packets[2]!.messageId! });
  assert.equal((await connection.next('pubrel')).messageId, packets[2]!.messageId);
  connection.send({ cmd: 'pubcomp', messageId: packets[2]!.messageId! });
  assert.deepEqual(await sent, [
    { topic: 'A', qos: 0, reasonCode: 0 },
    { topic: 'A', qos: 1, reasonCode: 0 },
    { topic: 'B', qos: 2, reasonCode: 0 },
    { topic: 'C', qos: 0, reasonCode: 0 },
  ]);
});

test('QoS 1 without a word, and the properties of message and call together', async () => {
  const producer = make();
  const sent = producer.publish(
    {
      payload: 'x',
      properties: { contentType: 'text/plain', payloadFormat: 'utf8', messageExpirySeconds: 60 },
    },
    {
      properties: {
        responseTopic: 'answers',
        correlationData: new Uint8Array([7]),
        userProperties: { one: '1', many: ['2', '3'] },
      },
    },
  );
  const connection = await broker.accept();
  const packet = await connection.next('publish');
  assert.equal(packet.qos, 1);
  assert.deepEqual(
    { ...packet.properties, userProperties: { ...packet.properties?.userProperties } },
    {
      contentType: 'text/plain',
      payloadFormatIndicator: true,
      messageExpiryInterval: 60,
      responseTopic: 'answers',
      correlationData: Buffer.from([7]),
      userProperties: { one: '1', many: ['2', '3'] },
    },
  );
  connection.puback(packet.messageId, 0x10);
  assert.deepEqual(await sent, { topic: 'A', qos: 1, reasonCode: 0x10 });
});

test('a publish is not resolved before PUBACK', async () => {
  const producer = make();
  let resolved = false;
  const sent = producer.publish('x').then(() => {
    resolved = true;
  });
  const connection = await broker.accept();
  const { messageId } = await connection.next('publish');
  await settle();
  assert.equal(resolved, false);
  assert.equal(producer.outstanding, 1);
  connection.puback(messageId);
  await sent;
  assert.equal(producer.outstanding, 0);
});

test('what was not acknowledged is sent again: same ids, same order, DUP set, before anything newer', async () => {
  const events = new Events();
  const producer = make({ onEvent: events.put });
  const sent = ['a', 'b', 'c'].map((payload, index) =>
    producer.publish(payload, { qos: index === 1 ? 2 : 1 }),
  );
  const first = await broker.accept();
  const ids = [];
  for (const _ of sent) {
    ids.push((await first.next('publish')).messageId);
  }
  first.puback(ids[0]);
  await sent[0];
  first.cut();
  await events.next('disconnected');
  const later = producer.publish('d');
  const second = await broker.accept({ sessionPresent: true });
  const again = [await second.next('publish'), await second.next('publish'), await second.next('publish')];
  assert.deepEqual(
    again.map(({ payload, messageId, dup }) => [payload.toString(), messageId, dup]),
    [
      ['b', ids[1], true],
      ['c', ids[2], true],
      ['d', again[2]!.messageId, false],
    ],
  );
  second.send({ cmd: 'pubrec', messageId: ids[1]! });
  await second.next('pubrel');
  second.send({ cmd: 'pubcomp', messageId: ids[1]! });
  second.puback(ids[2]);
  second.puback(again[2]!.messageId);
  await Promise.all([...sent, later]);
});

test('[MQTT-4.3.3-7] after PUBREC only PUBREL is sent again, and "packet id not found" completes it', async () => {
  const producer = make();
  const sent = producer.publish('x', { qos: 2 });
  const first = await broker.accept();
  const { messageId } = await first.next('publish');
  first.send({ cmd: 'pubrec', messageId: messageId! });
  await first.next('pubrel');
  first.cut();
  const second = await broker.accept({ sessionPresent: true });
  assert.equal((await second.next('pubrel')).messageId, messageId);
  second.send({ cmd: 'pubcomp', messageId: messageId!, reasonCode: 0x92 });
  assert.deepEqual(await sent, { topic: 'A', qos: 2, reasonCode: 0 });
  assert.deepEqual(
    second.received.map(({ cmd }) => cmd),
    ['connect', 'pubrel'],
  );
});

test('with the session gone, a message after PUBREC counts as published, one before it is sent as new', async () => {
  const producer = make();
  const taken = producer.publish('taken', { qos: 2 });
  const open = producer.publish('open', { qos: 2 });
  const first = await broker.accept();
  const { messageId } = await first.next('publish');
  await first.next('publish');
  first.send({ cmd: 'pubrec', messageId: messageId! });
  await first.next('pubrel');
  first.cut();
  const second = await broker.accept({ sessionPresent: false });
  await taken;
  const packet = await second.next('publish');
  assert.deepEqual([packet.payload.toString(), packet.dup], ['open', false]);
  second.send({ cmd: 'pubrec', messageId: packet.messageId! });
  await second.next('pubrel');
  second.send({ cmd: 'pubcomp', messageId: packet.messageId! });
  await open;
});

test('[MQTT-3.2.2-4] a new producer takes over no session of an earlier one; it resumes its own', async () => {
  const clientId = unique('producer');
  const producer = make({ clientId });
  await Promise.all([
    producer.connect(),
    (async () => {
      const connection = await broker.connection();
      const connect = await connection.accept();
      assert.deepEqual([connect.clientId, connect.clean], [clientId, true]);
      assert.equal(connect.properties?.sessionExpiryInterval, 86_400);
      connection.cut();
    })(),
  ]);
  const again = await broker.connection();
  assert.equal((await again.accept({ sessionPresent: true })).clean, false);
});

test('MQTT 3.1.1: a foreign session is wiped by a connection of its own', async () => {
  const producer = make({ clientId: unique('producer'), protocolVersion: 4 });
  const connected = producer.connect();
  const first = await broker.connection();
  assert.equal((await first.accept({ sessionPresent: true })).clean, false);
  await first.next('disconnect');
  const second = await broker.connection();
  assert.equal((await second.accept()).clean, true);
  await second.next('disconnect');
  const third = await broker.connection();
  assert.equal((await third.accept()).clean, false);
  await connected;
});

test('[MQTT-3.3.4-9] no more is in flight than the broker can receive, after a reconnect too', async () => {
  const producer = make();
  const sent = ['a', 'b', 'c', 'd'].map((payload) => producer.publish(payload));
  const first = await broker.accept({ properties: { receiveMaximum: 2 } });
  await first.next('publish');
  const second = await first.next('publish');
  await settle();
  assert.equal(first.received.filter(({ cmd }) => cmd === 'publish').length, 2);
  first.puback(second.messageId);
  await first.next('publish');
  first.cut();
  const next = await broker.accept({ sessionPresent: true, properties: { receiveMaximum: 1 } });
  const seen = [];
  for (let count = 0; count < 3; count += 1) {
    const packet = await next.next('publish');
    seen.push([packet.payload.toString(), packet.dup]);
    await settle();
    assert.equal(next.received.filter(({ cmd }) => cmd === 'publish').length, count + 1);
    next.puback(packet.messageId);
  }
  assert.deepEqual(seen, [
    ['a', true],
    ['c', true],
    ['d', false],
  ]);
  await Promise.all(sent);
});

test('maxInflight bounds what is sent, maxWaiting what waits; one more is BUFFER_FULL', async () => {
  const producer = make({ maxInflight: 2, maxWaiting: 1 });
  const sent = [producer.publish('a'), producer.publish('b'), producer.publish('c')];
  await assert.rejects(producer.publish('d'), withCode('BUFFER_FULL', { retriable: true }));
  const connection = await broker.accept();
  const a = await connection.next('publish');
  const b = await connection.next('publish');
  await settle();
  assert.equal(connection.received.filter(({ cmd }) => cmd === 'publish').length, 2);
  connection.puback(a.messageId);
  await sent[0];
  const d = producer.publish('d');
  connection.puback(b.messageId);
  for (const payload of ['c', 'd']) {
    const packet = await connection.next('publish');
    assert.equal(packet.payload.toString(), payload);
    connection.puback(packet.messageId);
  }
  await Promise.all([...sent, d]);
});

test('maxBufferedBytes bounds payload bytes, and lets one large message through', async () => {
  const producer = make({ maxBufferedBytes: 10 });
  const large = producer.publish('x'.repeat(20));
  await assert.rejects(producer.publish('y'), withCode('BUFFER_FULL'));
  const connection = await broker.accept();
  connection.puback((await connection.next('publish')).messageId);
  await large;
  const small = [producer.publish('12345'), producer.publish('67890')];
  await assert.rejects(producer.publish('1'), withCode('BUFFER_FULL'));
  connection.puback((await connection.next('publish')).messageId);
  connection.puback((await connection.next('publish')).messageId);
  await Promise.all(small);
});

test('a refused message is rejected with the reason of the broker', async () => {
  const producer = make();
  const refused = assert.rejects(
    producer.publish('x'),
    withCode('PUBLISH_REFUSED', { reasonCode: 0x87, retriable: false }),
  );
  const full = assert.rejects(
    producer.publish('y', { qos: 2 }),
    withCode('PUBLISH_REFUSED', { reasonCode: 0x97, retriable: true }),
  );
  const connection = await broker.accept();
  connection.puback((await connection.next('publish')).messageId, 0x87);
  connection.send({
    cmd: 'pubrec',
    messageId: (await connection.next('publish')).messageId!,
    reasonCode: 0x97,
  });
  await Promise.all([refused, full]);
});

test('what is wrong with a call is told before anything is sent', async () => {
  const producer = make();
  const bare = createProducer({ brokers: [broker.address] });
  producers.push(bare);
  await assert.rejects(bare.publish('x'), withCode('TOPIC_INVALID'));
  for (const topic of ['', 'a/#', '+', 'a\u0000b', 'x'.repeat(65_536), '\ud800']) {
    await assert.rejects(producer.publish('x', { topic }), withCode('TOPIC_INVALID'));
  }
  for (const payload of [1, null, undefined, [1]]) {
    await assert.rejects(
      producer.publish({ payload: payload as unknown as string }),
      withCode('PAYLOAD_INVALID'),
    );
  }
  await assert.rejects(producer.publish('x', { qos: 3 as 2 }), withCode('OPTIONS_INVALID'));
  await assert.rejects(producer.publish('x', { qoss: 1 } as object), withCode('OPTIONS_INVALID'));
  await assert.rejects(
    producer.publish({ payload: 'x', tpic: 'A' } as { payload: string }),
    withCode('OPTIONS_INVALID'),
  );
  const wrong = [
    { contentType: 1 as unknown as string },
    { payloadFormat: 'json' as 'utf8' },
    { messageExpirySeconds: -1 },
    { responseTopic: 'a/+' },
    { correlationData: 'text' as unknown as Uint8Array },
    { userProperties: { a: 1 as unknown as string } },
  ];
  for (const properties of wrong) {
    await assert.rejects(producer.publish('x', { properties }), withCode('OPTIONS_INVALID'));
  }
  const older = make({ protocolVersion: 4 });
  await assert.rejects(older.publish('x', { properties: { contentType: 'a' } }), withCode('UNSUPPORTED'));
  assert.equal(broker.connections.length, 0);
});

test('what the broker does not offer is refused here, without costing the connection', async () => {
  const producer = make();
  const connected = producer.connect();
  const connection = await broker.accept({
    properties: { maximumQoS: 1, retainAvailable: false, maximumPacketSize: 100 },
  });
  await connected;
  await assert.rejects(producer.publish('x', { qos: 2 }), withCode('UNSUPPORTED'));
  await assert.rejects(producer.publish('x', { retain: true }), withCode('UNSUPPORTED'));
  // Fixed header 2, topic 3, packet id 2, property length 1: 92 bytes of payload make 100.
  await assert.rejects(producer.publish('x'.repeat(93)), withCode('PACKET_TOO_LARGE'));
  const fits = producer.publish('x'.repeat(92));
  const packet = await connection.next('publish');
  assert.equal(packet.length! + 2, 100);
  connection.puback(packet.messageId);
  await fits;
});

test('a publish that takes too long is rejected, with what kept the connection down as the cause', async () => {
  await broker.stop();
  const producer = make();
  await assert.rejects(producer.publish('x', { timeoutMs: 50 }), (error) => {
    withCode('TIMEOUT', { retriable: true })(error);
    return withCode('CONNECT_FAILED')((error as Error).cause);
  });
  assert.equal(producer.outstanding, 0);
});

test('an aborted publish that waits is never sent; one that was sent keeps its packet id until the exchange ends', async () => {
  const producer = make({ maxInflight: 1 });
  const controller = new AbortController();
  const sent = producer.publish('sent', { qos: 2, signal: controller.signal });
  const waiting = producer.publish('waiting', { signal: controller.signal });
  const connection = await broker.accept();
  const packet = await connection.next('publish');
  controller.abort(new Error('enough'));
  await assert.rejects(sent, withCode('ABORTED'));
  await assert.rejects(waiting, withCode('ABORTED'));
  await assert.rejects(producer.publish('late', { signal: controller.signal }), withCode('ABORTED'));
  connection.cut();
  const next = producer.publish('next');
  const second = await broker.accept({ sessionPresent: true });
  // The message is given up, not sent again; PUBREL ends its exchange at the broker.
  assert.equal((await second.next('pubrel')).messageId, packet.messageId);
  second.send({ cmd: 'pubcomp', messageId: packet.messageId!, reasonCode: 0x92 });
  const fresh = await second.next('publish');
  assert.equal(fresh.payload.toString(), 'next');
  second.puback(fresh.messageId);
  await next;
});

test('one signal serves many publishes without a warning about listeners', async () => {
  const producer = make();
  const { signal } = new AbortController();
  const sent = Array.from({ length: 30 }, (_, index) => producer.publish(`${index}`, { signal }));
  const connection = await broker.accept();
  for (const _ of sent) {
    connection.puback((await connection.next('publish')).messageId);
  }
  await Promise.all(sent);
});

test('a QoS 0 message that the socket had not taken is rejected when the connection ends, not sent twice', async () => {
  const producer = make();
  await Promise.all([producer.connect(), broker.accept()]);
  const connection = broker.connections[0]!;
  connection.pause();
  const sent = producer.publish(new Uint8Array(32 * 1024 * 1024), { qos: 0 });
  const rejected = assert.rejects(sent, withCode('CONNECTION_LOST', { retriable: true }));
  await settle();
  connection.cut();
  await rejected;
  const again = await broker.accept({ sessionPresent: true });
  const next = producer.publish('next', { qos: 0 });
  assert.equal((await again.next('publish')).payload.toString(), 'next');
  await next;
});

test('close() waits for what is in flight, takes nothing new, and says goodbye', async () => {
  const producer = make();
  const sent = producer.publish('x');
  const connection = await broker.accept();
  const { messageId } = await connection.next('publish');
  const closed = producer.close();
  assert.equal(producer.close(), closed);
  await assert.rejects(producer.publish('y'), withCode('CLOSED'));
  await assert.rejects(producer.connect(), withCode('CLOSED'));
  await settle();
  assert.ok(connection.received.every(({ cmd }) => cmd !== 'disconnect'));
  connection.puback(messageId);
  await sent;
  // A generated client id means nobody will come back for the session.
  assert.equal((await connection.next('disconnect')).properties?.sessionExpiryInterval, 0);
  connection.cut();
  await closed;
});

test('close() goes on through a reconnect, and leaves the session of a fixed client id', async () => {
  const producer = make({ clientId: unique('producer') });
  const sent = producer.publish('x');
  const first = await broker.accept();
  await first.next('publish');
  const closed = producer.close();
  first.cut();
  const second = await broker.accept({ sessionPresent: true });
  second.puback((await second.next('publish')).messageId);
  await sent;
  assert.equal((await second.next('disconnect')).properties?.sessionExpiryInterval, undefined);
  second.cut();
  await closed;
});

test('close() rejects what is not acknowledged in time', async () => {
  const producer = make();
  const sent = assert.rejects(producer.publish('x'), withCode('CLOSED'));
  const connection = await broker.accept();
  await connection.next('publish');
  const closed = producer.close({ timeoutMs: 10 });
  await sent;
  connection.cut();
  await closed;
});

test('a producer that was never used closes without connecting, and by `await using`', async () => {
  const producer = make();
  await producer[Symbol.asyncDispose]();
  assert.equal(broker.connections.length, 0);
});

test('a hundred reconnects leave no listeners and no messages behind', async () => {
  const events = new Events();
  const producer = make({ onEvent: events.put });
  for (let round = 0; round < 100; round += 1) {
    const sent = producer.publish(`${round}`);
    const connection = await broker.accept({ sessionPresent: round > 0 });
    connection.puback((await connection.next('publish')).messageId);
    await sent;
    connection.cut();
    await events.next('disconnected');
  }
  assert.equal(producer.outstanding, 0);
});
