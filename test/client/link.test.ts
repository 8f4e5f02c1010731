import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import tls from 'node:tls';
import { createWebSocketStream, WebSocketServer } from 'ws';
import {
  createConsumer,
  createProducer,
  type Producer,
  type ProducerOptions,
} from '../../client/src/index.js';
import { FakeBroker, FakeConnection } from './fake-broker.js';
import { Events, freePort, settle, withCode } from './support.js';

const cleanups: (() => Promise<unknown> | unknown)[] = [];
const warnings: string[] = [];
process.on('warning', (warning) => warnings.push(warning.message));

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup();
  }
});

after(() => {
  assert.deepEqual(warnings, []);
});

async function fakeBroker(port?: number): Promise<FakeBroker> {
  const broker = await FakeBroker.start(port);
  cleanups.push(() => broker.stop());
  return broker;
}

function make(options: ProducerOptions): Producer {
  const producer = createProducer({ topic: 'A', retryDelayMs: 1, retryDelayMsMax: 4, ...options });
  cleanups.push(() => producer.close({ timeoutMs: 0 }));
  return producer;
}

test('refused credentials reject connect(), the publishes that wait, and are not tried again', async () => {
  for (const [version, code] of [
    [5, 0x86],
    [5, 0x87],
    [4, 4],
    [4, 5],
    [3, 5],
  ] as const) {
    const broker = await fakeBroker();
    const producer = make({
      brokers: [broker.address],
      protocolVersion: version,
      username: 'u',
      password: 'wrong',
    });
    const refused = assert.rejects(
      producer.publish('x'),
      withCode('AUTH_REFUSED', { reasonCode: code, retriable: false }),
    );
    const connecting = assert.rejects(producer.connect(), withCode('AUTH_REFUSED'));
    const connection = await broker.connection();
    const connect = await connection.accept({ reasonCode: code });
    assert.deepEqual([connect.username, connect.password?.toString()], ['u', 'wrong']);
    await Promise.all([refused, connecting]);
    await settle();
    assert.equal(broker.connections.length, 1);
    // The next publish asks again: the password may be right by then.
    const next = producer.publish('y');
    const again = await broker.accept();
    again.puback((await again.next('publish')).messageId);
    await next;
  }
});

test('a consumer hears of refused credentials in its loop', async () => {
  const broker = await fakeBroker();
  const consumer = createConsumer({ brokers: [broker.address] });
  cleanups.push(() => consumer.close());
  const messages = consumer.subscribe(['A']);
  const rejected = Promise.all([
    assert.rejects(messages.ready(), withCode('AUTH_REFUSED')),
    assert.rejects(messages.next(), withCode('AUTH_REFUSED')),
  ]);
  await (await broker.connection()).accept({ reasonCode: 0x87 });
  await rejected;
});

test('a broker that is busy is tried again', async () => {
  const broker = await fakeBroker();
  const events = new Events();
  const producer = make({ brokers: [broker.address], onEvent: events.put });
  const sent = producer.publish('x');
  await (await broker.connection()).accept({ reasonCode: 0x89 });
  const { error } = await events.next('retrying');
  assert.ok(withCode('CONNECTION_REFUSED', { reasonCode: 0x89, retriable: true })(error));
  const connection = await broker.accept();
  connection.puback((await connection.next('publish')).messageId);
  await sent;
});

test('an unknown host is told at the first publish; a known one that refuses is tried until it is there', async () => {
  const unknown = make({ brokers: ['no-such-host.invalid:1883'] });
  await assert.rejects(unknown.publish('x'), withCode('UNKNOWN_HOST', { retriable: true }));
  const port = await freePort();
  const late = make({ brokers: ['no-such-host.invalid:1883', `127.0.0.1:${port}`] });
  const sent = late.publish('x');
  await assert.rejects(late.connect(), withCode('CONNECT_FAILED', { retriable: true }));
  const broker = await fakeBroker(port);
  const connection = await broker.accept();
  connection.puback((await connection.next('publish')).messageId);
  await sent;
});

test('a broker that accepts and says nothing times out; one that hangs up is told apart', async () => {
  const broker = await fakeBroker();
  const silent = make({ brokers: [broker.address], connectTimeoutMs: 20 });
  await assert.rejects(silent.connect(), withCode('TIMEOUT', { retriable: true }));
  const hangup = make({ brokers: [broker.address] });
  const connecting = assert.rejects(hangup.connect(), withCode('CONNECT_FAILED', { retriable: true }));
  for (;;) {
    const connection = await broker.connection();
    const connect = await connection.next('connect');
    connection.cut();
    if (connect.clientId === hangup.clientId) {
      break;
    }
  }
  await connecting;
});

test('when a broker of the list dies, the next takes over, with what was not acknowledged', async () => {
  const [one, two] = [await fakeBroker(), await fakeBroker()];
  const events = new Events();
  const producer = make({ brokers: [one.address, `mqtt://${two.address}`], onEvent: events.put });
  const sent = [producer.publish('a'), producer.publish('b')];
  const first = await one.accept();
  first.puback((await first.next('publish')).messageId);
  await first.next('publish');
  await sent[0];
  await one.stop();
  const second = await two.accept();
  const packet = await second.next('publish');
  assert.equal(packet.payload.toString(), 'b');
  second.puback(packet.messageId);
  await sent[1];
  assert.deepEqual(
    events.all.map((event) => event.type),
    ['connected', 'disconnected', 'retrying', 'connected'],
  );
  assert.ok((await events.next('retrying')).delayMs < 1);
});

test('pauses double from the shortest to the longest, jittered, for every round through the list', async () => {
  const port = await freePort();
  const events = new Events();
  const producer = make({
    brokers: [`127.0.0.1:${port}`],
    retryDelayMs: 2,
    retryDelayMsMax: 8,
    onEvent: events.put,
  });
  void producer.connect().catch(() => undefined);
  const bounds: [number, number][] = [
    [0, 1],
    [1, 2],
    [2, 4],
    [4, 8],
    [4, 8],
  ];
  for (const [least, most] of bounds) {
    const { delayMs } = await events.next('retrying');
    assert.ok(delayMs >= least && delayMs <= most, `${delayMs} is not between ${least} and ${most}`);
  }
});

test('a redirect is followed where the options say so, and only to a server as safe', async () => {
  const [from, to] = [await fakeBroker(), await fakeBroker()];
  const producer = make({ brokers: [from.address], followRedirects: true });
  const connected = producer.connect();
  const connection = await from.connection();
  const connect = await connection.accept({ reasonCode: 0x9c, properties: { serverReference: to.address } });
  assert.equal(connect.properties?.userProperties?.['gomq-redirect'], '1');
  await to.accept();
  await connected;
  const stays = make({ brokers: [from.address] });
  const rejected = assert.rejects(stays.connect(), withCode('CONNECTION_REFUSED', { reasonCode: 0x9c }));
  const refused = await from.connection();
  await refused.accept({ reasonCode: 0x9c, properties: { serverReference: to.address } });
  await rejected;
  assert.equal(to.connections.length, 1);
});

test('brokers that redirect in a circle do not make the client run in it', async () => {
  const broker = await fakeBroker();
  const producer = make({ brokers: [broker.address], followRedirects: true });
  const rejected = assert.rejects(producer.connect(), withCode('CONNECTION_REFUSED'));
  for (let hop = 0; hop < 4; hop += 1) {
    const connection = await broker.connection();
    await connection.accept({ reasonCode: 0x9d, properties: { serverReference: broker.address } });
  }
  await rejected;
});

test('bytes that are not MQTT end the attempt with a typed error', async () => {
  const server = net
    .createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
    .listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => server.close());
  const { port } = server.address() as net.AddressInfo;
  const producer = make({ brokers: [`127.0.0.1:${port}`] });
  await assert.rejects(producer.connect(), withCode('CONNECT_FAILED'));
});

test('the will travels in CONNECT', async () => {
  const broker = await fakeBroker();
  const producer = make({
    brokers: [broker.address],
    will: {
      topic: 'gone',
      payload: 'bye',
      qos: 1,
      retain: true,
      delaySeconds: 3,
      properties: { contentType: 'a/b' },
    },
    userProperties: { app: 'test' },
    keepAliveSeconds: 7,
  });
  const connected = producer.connect();
  const connection = await broker.connection();
  const connect = await connection.accept();
  await connected;
  assert.deepEqual(
    [connect.will?.topic, connect.will?.payload.toString(), connect.will?.qos, connect.will?.retain],
    ['gone', 'bye', 1, true],
  );
  assert.deepEqual({ ...connect.will?.properties }, { contentType: 'a/b', willDelayInterval: 3 });
  assert.deepEqual({ ...connect.properties?.userProperties }, { app: 'test' });
  assert.equal(connect.keepalive, 7);
});

test('an onEvent that throws becomes a warning, not a broken connection', async () => {
  const broker = await fakeBroker();
  const warned = once(process, 'warning');
  const producer = make({
    brokers: [broker.address],
    onEvent: () => {
      throw new Error('mine');
    },
  });
  const connected = producer.connect();
  await broker.accept();
  await connected;
  assert.match(((await warned) as [Error])[0].message, /onEvent.*mine/);
  assert.equal(warnings.pop()?.includes('mine'), true);
});

test('TLS: an unknown certificate is refused once, a known one is used, a client certificate is shown', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'gomq-client-tls-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const [keyFile, certFile] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
  execFileSync(
    'openssl',
    [
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
      ],
      ...[
        '-subj',
        '/CN=localhost',
        '-addext',
        'subjectAltName=DNS:localhost',
        '-keyout',
        keyFile,
        '-out',
        certFile,
      ],
    ],
    { stdio: 'ignore' },
  );
  const [key, cert] = [readFileSync(keyFile), readFileSync(certFile)];
  const connections: FakeConnection[] = [];
  const server = tls.createServer(
    { key, cert, ca: cert, requestCert: true, rejectUnauthorized: false },
    (socket) => {
      shown.push(socket.authorized);
      const connection = new FakeConnection(socket);
      connections.push(connection);
      void connection.accept();
    },
  );
  const shown: boolean[] = [];
  server.on('tlsClientError', () => undefined);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    for (const connection of connections) {
      connection.cut();
    }
    server.close();
  });
  const { port } = server.address() as net.AddressInfo;
  const distrusting = make({ brokers: [`mqtts://localhost:${port}`] });
  await assert.rejects(distrusting.connect(), withCode('TLS_FAILED', { retriable: false }));
  const misnamed = make({ brokers: [`mqtts://127.0.0.1:${port}`], tls: { ca: cert } });
  await assert.rejects(misnamed.connect(), withCode('TLS_FAILED'));
  shown.length = 0;
  const trusting = make({ brokers: [`localhost:${port}`], tls: { ca: cert, cert, key } });
  await trusting.connect();
  const careless = make({ brokers: [`mqtts://127.0.0.1:${port}`], tls: { rejectUnauthorized: false } });
  await careless.connect();
  assert.deepEqual(shown, [true, false]);
});

test('WebSocket: path, subprotocol and headers; a refusal of the HTTP server is a typed error', async () => {
  const server = http.createServer();
  const sockets = new WebSocketServer({ server, path: '/mqtt' });
  const seen: unknown[] = [];
  sockets.on('connection', (socket, request) => {
    seen.push([request.url, request.headers['sec-websocket-protocol'], request.headers['x-token']]);
    const connection = new FakeConnection(createWebSocketStream(socket) as unknown as net.Socket);
    void connection.accept();
    void connection.next('publish').then(({ messageId }) => connection.puback(messageId));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    for (const socket of sockets.clients) {
      socket.terminate();
    }
    server.close();
  });
  const { port } = server.address() as net.AddressInfo;
  const producer = make({
    brokers: [`ws://127.0.0.1:${port}`],
    webSocket: { path: '/mqtt', headers: { 'x-token': 'secret' } },
  });
  await producer.publish('x');
  assert.deepEqual(seen, [['/mqtt', 'mqtt', 'secret']]);
  const lost = make({ brokers: [`ws://127.0.0.1:${port}/elsewhere`] });
  await assert.rejects(lost.connect(), withCode('CONNECT_FAILED'));
});

test('close() during an attempt and during a pause ends both', async () => {
  const broker = await fakeBroker();
  const during = make({ brokers: [broker.address] });
  const attempt = assert.rejects(during.connect(), withCode('CLOSED'));
  const connection = await broker.connection();
  await during.close();
  await attempt;
  await connection.closed;
  const events = new Events();
  const port = await freePort();
  const pausing = make({ brokers: [`127.0.0.1:${port}`], retryDelayMs: 3_600_000, onEvent: events.put });
  await assert.rejects(pausing.connect(), withCode('CONNECT_FAILED'));
  await pausing.close();
  await assert.rejects(pausing.connect(), withCode('CLOSED'));
});
