import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { WebSocket } from 'ws';
import { GomqError } from '../../src/core/errors.js';
import { type Accepted, bytesUntilClose, type Edge, type EdgeSettings, openEdge } from './support.js';

const OPCODE = { continuation: 0x0, text: 0x1, binary: 0x2, close: 0x8, ping: 0x9, pong: 0xa };

function openDoor(context: TestContext, settings: EdgeSettings = {}): Promise<Edge> {
  return openEdge(context, { ...settings, listeners: { mqtt: [], ws: ['127.0.0.1:0'] } });
}

/** A client frame, masked; `announced` lies about its length. */
function frame(opcode: number, payload: Buffer, isLast = true, announced = payload.length): Buffer {
  const mask = randomBytes(4);
  const masked = payload.map((byte, index) => byte ^ mask[index % 4]!);
  let length: Buffer;
  if (announced < 126) {
    length = Buffer.from([0x80 | announced]);
  } else if (announced < 65536) {
    length = Buffer.alloc(3, 0xfe);
    length.writeUInt16BE(announced, 1);
  } else {
    length = Buffer.alloc(9, 0xff);
    length.writeBigUInt64BE(BigInt(announced), 1);
  }
  return Buffer.concat([Buffer.from([(isLast ? 0x80 : 0) | opcode]), length, mask, masked]);
}

function upgradeRequest(path = '/mqtt', headers: Record<string, string> = {}): string {
  const all = {
    Host: 'localhost',
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
    'Sec-WebSocket-Protocol': 'mqtt',
    ...headers,
  };
  const lines = Object.entries(all).map(([name, value]) => (value === '' ? '' : `${name}: ${value}\r\n`));
  return `GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

/** Opens a WebSocket by hand, so that wrong frames can follow. */
async function rawPair(edge: Edge): Promise<{ client: Socket; server: Accepted }> {
  const index = edge.accepted.length;
  const client = connect(edge.port, '127.0.0.1');
  client.on('error', () => {});
  client.write(upgradeRequest());
  const [answer] = await once(client, 'data');
  assert.match(String(answer), /^HTTP\/1\.1 101 /);
  assert.match(String(answer), /Sec-WebSocket-Protocol: mqtt\r\n/);
  return { client, server: await edge.connection(index) };
}

async function answerTo(edge: Edge, request: string): Promise<string> {
  const client = connect(edge.port, '127.0.0.1');
  client.on('error', () => {});
  client.write(request);
  return (await bytesUntilClose(client)).toString();
}

function open(edge: Edge, path: string, protocols: string[], options = {}): Promise<WebSocket> {
  const client = new WebSocket(`ws://127.0.0.1:${edge.port}${path}`, protocols, options);
  return new Promise((resolve, reject) => {
    client.once('open', () => resolve(client));
    client.once('error', reject);
  });
}

test('[MQTT-6.0.0-4] the subprotocol mqtt is chosen, mqttv3.1 where only that is offered', async (context) => {
  const edge = await openDoor(context);
  assert.equal((await open(edge, '/mqtt', ['mqttv3.1', 'mqtt'])).protocol, 'mqtt');
  assert.equal((await open(edge, '/', ['mqttv3.1'])).protocol, 'mqttv3.1');
  assert.equal((await open(edge, '/mqtt?token=1', ['mqtt'])).protocol, 'mqtt');
});

test('[MQTT-6.0.0-3] a client that does not offer the subprotocol is refused', async (context) => {
  const edge = await openDoor(context);
  assert.match(
    await answerTo(edge, upgradeRequest('/mqtt', { 'Sec-WebSocket-Protocol': 'chat' })),
    /^HTTP\/1\.1 400 /,
  );
  assert.match(
    await answerTo(edge, upgradeRequest('/mqtt', { 'Sec-WebSocket-Protocol': '' })),
    /^HTTP\/1\.1 400 /,
  );
  assert.equal(edge.accepted.length, 0);
  await edge.untilNoConnections();
});

test('another path is 404, a request that is no upgrade is 426, garbage is 400', async (context) => {
  const edge = await openDoor(context);
  assert.match(await answerTo(edge, upgradeRequest('/chat')), /^HTTP\/1\.1 404 /);
  const plain = await answerTo(edge, 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  assert.match(plain, /^HTTP\/1\.1 426 /);
  assert.match(plain, /\r\nUpgrade: websocket\r\n/);
  assert.match(await answerTo(edge, '\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00'), /^HTTP\/1\.1 400 /);
  assert.match(await answerTo(edge, `GET / HTTP/1.1\r\nX: ${'x'.repeat(9000)}\r\n\r\n`), /^HTTP\/1\.1 431 /);
});

test('a handshake that is not finished in time is closed', async (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const edge = await openDoor(context, { limits: { connectTimeoutSeconds: 10 } });
  const client = connect(edge.port, '127.0.0.1');
  client.on('error', () => {});
  client.write('GET /mqtt HTTP/1.1\r\nX-Slow: ');
  await once(client, 'connect');
  while (edge.listeners.connectionCount === 0) await new Promise((resolve) => setImmediate(resolve));
  context.mock.timers.tick(10_000);
  await bytesUntilClose(client);
  assert.equal(edge.accepted.length, 0);
});

test('bytes pass in both directions, with the address of the client', async (context) => {
  const edge = await openDoor(context);
  const client = await open(edge, '/mqtt', ['mqtt']);
  const server = await edge.connection(0);
  client.send(Buffer.from('ping'));
  await server.until((it) => it.bytes.toString() === 'ping');
  const answer = once(client, 'message');
  await server.write(Buffer.from('pong'));
  assert.equal(String((await answer)[0]), 'pong');
  assert.equal(server.transport.remoteAddress, '127.0.0.1');
  assert.equal(server.transport.isSecure, false);
});

test('[MQTT-6.0.0-2] packets may span frames, fragments and share them', async (context) => {
  const edge = await openDoor(context);
  const { client, server } = await rawPair(edge);
  const parts = [
    frame(OPCODE.binary, Buffer.from('a')),
    frame(OPCODE.binary, Buffer.from('b'), false),
    frame(OPCODE.ping, Buffer.from('?')),
    frame(OPCODE.continuation, Buffer.alloc(0), false),
    frame(OPCODE.continuation, Buffer.from('c')),
    frame(OPCODE.binary, Buffer.alloc(0)),
    frame(OPCODE.binary, Buffer.from('de')),
  ];
  for (const byte of Buffer.concat(parts)) client.write(Buffer.from([byte]));
  await server.until((it) => it.bytes.toString() === 'abcde');
});

test('[MQTT-6.0.0-1] a text frame closes the connection with status 1003', async (context) => {
  const edge = await openDoor(context);
  const client = await open(edge, '/mqtt', ['mqtt']);
  const server = await edge.connection(0);
  client.send('text');
  client.send(Buffer.from('after'));
  const [code] = await once(client, 'close');
  assert.equal(code, 1003);
  await server.until((it) => it.closes === 1);
  assert.ok(server.error instanceof GomqError);
  assert.equal(server.error.code, 'PROTOCOL');
  assert.equal(server.chunks.length, 0);
});

test('a frame that announces more than the largest packet is refused by its header (CVE-2026-25627)', async (context) => {
  const edge = await openDoor(context, { limits: { packetBytes: 1024 } });
  const { client, server } = await rawPair(edge);
  client.write(frame(OPCODE.binary, Buffer.from('x'), true, 512 * 1024 * 1024));
  await server.until((it) => it.closes === 1);
  assert.match(String(server.error), /Max payload size exceeded/);
});

test('frames that announce more than they hold cost what they hold (CVE-2026-25627)', async (context) => {
  const announced = 64 * 1024 * 1024;
  const edge = await openDoor(context, { limits: { packetBytes: announced } });
  const before = process.memoryUsage();
  for (let i = 0; i < 10; i++) {
    const { client } = await rawPair(edge);
    client.write(frame(OPCODE.binary, Buffer.from('x'), true, announced));
  }
  // A round trip over one more connection: what the others sent has been read by then.
  const { client, server } = await rawPair(edge);
  client.write(frame(OPCODE.binary, Buffer.from('x')));
  await server.until((it) => it.chunks.length === 1);
  const after = process.memoryUsage();
  assert.ok(after.arrayBuffers - before.arrayBuffers < announced / 8);
  assert.equal(edge.listeners.connectionCount, 11);
});

test('a frame without a mask closes the connection', async (context) => {
  const edge = await openDoor(context);
  const { client, server } = await rawPair(edge);
  client.write(Buffer.from([0x82, 0x01, 0x61]));
  await server.until((it) => it.closes === 1);
  assert.ok(server.error !== undefined);
});

test('pings that are never read cost a bounded amount: the connection is closed', async (context) => {
  const edge = await openDoor(context);
  const { client, server } = await rawPair(edge);
  client.pause();
  const pings = Buffer.concat(Array.from({ length: 1000 }, () => frame(OPCODE.ping, Buffer.alloc(125, 1))));
  const flood = () => {
    while (client.writable && client.write(pings));
  };
  client.on('drain', flood);
  flood();
  await server.until((it) => it.closes === 1);
});

test('backpressure: pendingBytes counts what has not left, onDrain comes when it has', async (context) => {
  const edge = await openDoor(context);
  const { client, server } = await rawPair(edge);
  client.pause();
  const block = Buffer.alloc(256 * 1024, 1);
  let written = 0;
  let handed = 0;
  while (server.transport.pendingBytes < 64 * block.length) {
    handed += 1;
    server.transport.write(block, () => {
      written += 1;
    });
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(written < handed);
  const drainsBefore = server.drains;
  client.on('data', () => {});
  client.resume();
  await server.until((it) => it.drains > drainsBefore);
  assert.equal(server.transport.pendingBytes, 0);
  assert.equal(written, handed);
});

test('a paused connection holds back what came in the same segment, and delivers it in order when resumed', async (context) => {
  const edge = await openDoor(context);
  const { client, server } = await rawPair(edge);
  server.onBytes = () => server.transport.pause();
  client.write(Buffer.concat(['a', 'b', 'c', 'd'].map((text) => frame(OPCODE.binary, Buffer.from(text)))));
  await server.until((it) => it.chunks.length === 1);
  const other = await rawPair(edge);
  other.client.write(frame(OPCODE.binary, Buffer.from('x')));
  await other.server.until((it) => it.chunks.length === 1);
  assert.equal(server.bytes.toString(), 'a');
  server.transport.resume();
  await server.until((it) => it.bytes.toString() === 'ab');
  server.onBytes = () => {};
  server.transport.resume();
  client.write(frame(OPCODE.binary, Buffer.from('e')));
  await server.until((it) => it.bytes.toString() === 'abcde');
});

test('end sends what was written and a close frame, and drops what still arrives', async (context) => {
  const edge = await openDoor(context);
  const client = await open(edge, '/mqtt', ['mqtt']);
  const server = await edge.connection(0);
  const messages: string[] = [];
  client.on('message', (data) => messages.push(String(data)));
  server.transport.write(Buffer.from('bye'), () => {});
  server.transport.end();
  const [code] = await once(client, 'close');
  assert.equal(code, 1000);
  assert.deepEqual(messages, ['bye']);
  await server.until((it) => it.closes === 1);
  assert.equal(server.error, undefined);
  await server.write(Buffer.from('late'));
  assert.equal(server.transport.pendingBytes, 0);
});

test('a reset connection closes once and brings its error', async (context) => {
  const edge = await openDoor(context);
  const { client, server } = await rawPair(edge);
  client.resetAndDestroy();
  await server.until((it) => it.closes === 1);
  assert.equal((server.error as NodeJS.ErrnoException).code, 'ECONNRESET');
});

test('destroy is never re-entrant, and frees the place', async (context) => {
  const edge = await openDoor(context);
  const { server } = await rawPair(edge);
  server.transport.destroy();
  assert.equal(server.closes, 0);
  await server.until((it) => it.closes === 1);
  await edge.untilNoConnections();
});

test('a web page from elsewhere may not use the browser of this machine to reach the broker', async (context) => {
  const edge = await openDoor(context);
  const from = (origin: string) => open(edge, '/mqtt', ['mqtt'], { origin });
  await assert.rejects(from('https://evil.example'), /403/);
  await assert.rejects(from('null'), /403/);
  await from('http://localhost:3000');
  await from('http://127.0.0.1');
  // A proxy on this machine that serves the page and the broker under one name.
  await open(edge, '/mqtt', ['mqtt'], {
    origin: 'https://app.example',
    headers: { host: 'app.example' },
  });
});

test('webSocketOrigins lists the web pages that may connect', async (context) => {
  const edge = await openDoor(context, { webSocketOrigins: ['https://app.example'] });
  await open(edge, '/mqtt', ['mqtt'], { origin: 'https://app.example' });
  await assert.rejects(open(edge, '/mqtt', ['mqtt'], { origin: 'http://localhost' }), /403/);
  // Clients that are no browsers send no Origin.
  await open(edge, '/mqtt', ['mqtt']);
});
