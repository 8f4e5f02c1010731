// Brokers that are found: by the HTTP API of brokers, and in etcd, both played here.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, test } from 'node:test';
import {
  type Brokers,
  type ClientEvent,
  createProducer,
  type Producer,
  type ProducerOptions,
} from '../../client/src/index.js';
import { FakeBroker, Inbox } from './fake-broker.js';
import { freePort, settle, withCode } from './support.js';

const cleanups: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup();
  }
});

interface Asked {
  path: string;
  authorization: string | undefined;
  body: unknown;
}

class FakeApi {
  readonly asked = new Inbox<Asked>();
  readonly url: string;
  answer: (asked: Asked) => { status?: number; body: unknown } | undefined = () => undefined;

  private constructor(server: http.Server) {
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('request', (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const body: unknown = text === '' ? undefined : JSON.parse(text);
        const asked = { path: request.url!, authorization: request.headers.authorization, body };
        this.asked.put(asked);
        const answer = this.answer(asked);
        if (answer === undefined) {
          return;
        }
        response.statusCode = answer.status ?? 200;
        response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body));
      });
    });
    cleanups.push(() => {
      server.closeAllConnections();
      server.close();
    });
  }

  static async start(port = 0): Promise<FakeApi> {
    const server = http.createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    return new FakeApi(server);
  }
}

const member = (node: string, mqtt: string) => ({ node, role: 'member', inSync: true, mqtt, http: '' });

function cluster(leader: string | null, members: Record<string, string>): { body: unknown } {
  const list = Object.entries(members).map(([node, mqtt]) => member(node, mqtt));
  return { body: { cluster: 'gomq', leader, epoch: 1, highWatermark: 0, inSync: [], members: list } };
}

const encode = (text: string) => Buffer.from(text).toString('base64');
const decode = (text: unknown) => Buffer.from(String(text), 'base64').toString();

function etcdRange(pairs: Record<string, unknown>): { body: unknown } {
  const kvs = Object.entries(pairs).map(([key, value]) => ({
    key: encode(key),
    value: encode(JSON.stringify(value)),
  }));
  return { body: { header: {}, kvs, count: String(kvs.length) } };
}

async function fakeBroker(): Promise<FakeBroker> {
  const broker = await FakeBroker.start();
  cleanups.push(() => broker.stop());
  return broker;
}

function make(brokers: Brokers, options: Partial<ProducerOptions> = {}): Producer {
  const producer = createProducer({ topic: 'A', retryDelayMs: 1, retryDelayMsMax: 4, ...options, brokers });
  cleanups.push(() => producer.close({ timeoutMs: 0 }));
  return producer;
}

test('HTTP: the leader comes first, then the others; one that takes no MQTT is left out', async () => {
  const [api, leader, other] = [await FakeApi.start(), await fakeBroker(), await fakeBroker()];
  api.answer = () => cluster('b', { a: other.address, b: leader.address, c: '' });
  const producer = make({ http: [api.url], token: 'secret' });
  const connected = producer.connect();
  (await leader.accept()).cut();
  await connected;
  await other.accept({ sessionPresent: true });
  const asked = await api.asked.take();
  assert.deepEqual([asked.path, asked.authorization], ['/api/v1/cluster', 'Bearer secret']);
});

test('HTTP: whoever answers first is believed: refusals, errors, silence and nonsense are passed over', async () => {
  const [broken, silent, absurd, well] = [
    await FakeApi.start(),
    await FakeApi.start(),
    await FakeApi.start(),
    await FakeApi.start(),
  ];
  const broker = await fakeBroker();
  broken.answer = () => ({ status: 500, body: 'no' });
  absurd.answer = () => ({ body: '<html>' });
  well.answer = () => cluster('a', { a: broker.address });
  const gone = `http://127.0.0.1:${await freePort()}`;
  const producer = make({ http: [gone, broken.url, silent.url, absurd.url, well.url] });
  const connected = producer.connect();
  await broker.accept();
  await connected;
});

test('nobody who answers: connect() says who said what, and the search goes on', async () => {
  const port = await freePort();
  const [refusing, empty] = [await FakeApi.start(), await FakeApi.start()];
  refusing.answer = () => ({ status: 401, body: {} });
  empty.answer = () => cluster(null, {});
  const producer = make({ http: [`http://127.0.0.1:${port}`, refusing.url, empty.url] });
  await assert.rejects(producer.connect(), (error: Error) => {
    assert.ok(withCode('DISCOVERY_FAILED', { retriable: true })(error));
    assert.match(error.message, /ECONNREFUSED.*answers 401 to \/api\/v1\/cluster.*knows no broker/);
    return true;
  });
  const broker = await fakeBroker();
  const late = await FakeApi.start(port);
  late.answer = () => cluster('a', { a: broker.address });
  const sent = producer.publish('x');
  const connection = await broker.accept();
  connection.puback((await connection.next('publish')).messageId);
  await sent;
});

test('when a broker is lost, the list is asked for again: one that is new to it is found', async () => {
  const [api, old, fresh] = [await FakeApi.start(), await fakeBroker(), await fakeBroker()];
  api.answer = () => cluster('a', { a: old.address });
  const producer = make({ http: [api.url] });
  const connected = producer.connect();
  await old.accept();
  await connected;
  api.answer = () => cluster('b', { a: old.address, b: fresh.address });
  await old.stop();
  await fresh.accept({ sessionPresent: true });
});

test('a list that cannot be had any more stays as it was', async () => {
  const [api, one, two] = [await FakeApi.start(), await fakeBroker(), await fakeBroker()];
  api.answer = () => cluster('a', { a: one.address, b: two.address });
  const producer = make({ http: [api.url] });
  const connected = producer.connect();
  await one.accept();
  await connected;
  api.answer = () => ({ status: 503, body: {} });
  await one.stop();
  await two.accept({ sessionPresent: true });
});

test('etcd: the members of the cluster named, the leader first', async () => {
  const [etcd, leader, other] = [await FakeApi.start(), await fakeBroker(), await fakeBroker()];
  etcd.answer = () =>
    etcdRange({
      '/gomq/shop/leader': { node: 'b', epoch: 3, nonce: '' },
      '/gomq/shop/members/a': { node: 'a', mqtt: other.address, http: '' },
      '/gomq/shop/members/b': { node: 'b', mqtt: leader.address, http: '' },
    });
  const producer = make({ etcd: [etcd.url], cluster: 'shop' });
  const connected = producer.connect();
  (await leader.accept()).cut();
  await connected;
  await other.accept({ sessionPresent: true });
  const { path, authorization, body } = await etcd.asked.take();
  assert.deepEqual([path, authorization], ['/v3/kv/range', undefined]);
  const { key, range_end: end } = body as Record<string, unknown>;
  assert.deepEqual([decode(key), decode(end)], ['/gomq/shop/leader', '/gomq/shop/members0']);
});

test('etcd: a user is authenticated, and the cluster is called gomq unless told otherwise', async () => {
  const [etcd, broker] = [await FakeApi.start(), await fakeBroker()];
  etcd.answer = ({ path }) =>
    path === '/v3/auth/authenticate'
      ? { body: { token: 'T.1' } }
      : etcdRange({ '/gomq/gomq/members/a': { node: 'a', mqtt: broker.address, http: '' } });
  const producer = make({ etcd: [etcd.url], username: 'root', password: 'pw' });
  const connected = producer.connect();
  await broker.accept();
  await connected;
  assert.deepEqual((await etcd.asked.take()).body, { name: 'root', password: 'pw' });
  assert.equal((await etcd.asked.take()).authorization, 'T.1');
});

test('close() ends a search, and one under way brings nobody back', async () => {
  const [api, broker] = [await FakeApi.start(), await fakeBroker()];
  const types: ClientEvent['type'][] = [];
  const producer = make({ http: [api.url] }, { onEvent: ({ type }) => types.push(type) });
  const connecting = assert.rejects(producer.connect(), withCode('CLOSED'));
  await api.asked.take();
  await producer.close();
  await connecting;
  api.answer = () => cluster('a', { a: broker.address });
  await settle();
  assert.deepEqual([types, broker.connections.length], [[], 0]);
});

test('with tls the brokers found are spoken to in TLS', async () => {
  const [api, broker] = [await FakeApi.start(), await fakeBroker()];
  api.answer = () => cluster('a', { a: broker.address });
  const errors = new Inbox<ClientEvent>();
  const producer = make({ http: [api.url] }, { tls: {}, onEvent: errors.put.bind(errors) });
  const failing = assert.rejects(producer.connect());
  const connection = await broker.connection();
  connection.cut();
  await failing;
  const event = (await errors.take()) as { broker: string };
  assert.equal(event.broker, `mqtts://${broker.address}`);
});

test('what is no way to find brokers is told', () => {
  const wrong: unknown[] = [
    { http: [] },
    { http: 'http://a' },
    { http: ['127.0.0.1:8000'] },
    { http: ['mqtt://a'] },
    { http: ['http://a'], tokens: 'x' },
    { http: ['http://me:secret@a'] },
    { etcd: ['http://a'], cluster: '' },
    { etcd: ['http://a'], cluster: 'a/b' },
    { etcd: ['etcd://a'] },
    {},
  ];
  for (const brokers of wrong) {
    assert.throws(
      () => createProducer({ brokers: brokers as Brokers }),
      withCode('OPTIONS_INVALID'),
      JSON.stringify(brokers),
    );
  }
});
