import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import { bytesUntilClose, openEdge } from './support.js';

test('bytes pass in both directions', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.write('ping');
  await server.until((it) => it.bytes.toString() === 'ping');
  const answer = once(client, 'data');
  await server.write(Buffer.from('pong'));
  assert.equal(String((await answer)[0]), 'pong');
  assert.equal(server.transport.remoteAddress, '127.0.0.1');
  assert.equal(server.transport.remotePort, client.localPort);
  assert.equal(server.transport.isSecure, false);
  assert.equal(server.transport.clientCertificateName, undefined);
});

test('a handler sees the bytes of its own connection, whoever reads before and after it', async (context) => {
  const edge = await openEdge(context);
  const first = await edge.pair();
  first.client.write('aaaa');
  await first.server.until((it) => it.chunks.length === 1);
  const second = await edge.pair();
  second.client.write('bbbb');
  await second.server.until((it) => it.chunks.length === 1);
  first.client.write('cccc');
  await first.server.until((it) => it.chunks.length === 2);
  assert.equal(first.server.chunks[0]!.toString(), 'aaaa');
  assert.equal(second.server.chunks[0]!.toString(), 'bbbb');
});

test('a megabyte arrives whole, in order', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  const sent = Buffer.alloc(1024 * 1024);
  for (let at = 0; at < sent.length; at += 4) sent.writeUInt32BE(at, at);
  let received = 0;
  server.onBytes = (chunk) => {
    received += chunk.length;
  };
  client.write(sent);
  await server.until(() => received === sent.length);
  assert.deepEqual(server.bytes, sent);
});

test('a paused connection reads nothing more, a resumed one reads on', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  server.onBytes = () => server.transport.pause();
  client.write('one');
  await server.until((it) => it.chunks.length === 1);
  client.write('two');
  // The second connection makes a round trip, so what was sent before it has had the time to be read.
  const other = await edge.pair();
  other.client.write('x');
  await other.server.until((it) => it.chunks.length === 1);
  assert.equal(server.bytes.toString(), 'one');
  server.onBytes = () => {};
  server.transport.resume();
  await server.until((it) => it.bytes.toString() === 'onetwo');
});

test('a client that does not read: write answers false, pendingBytes tells how much, onDrain tells when it left', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.pause();
  const block = Buffer.alloc(256 * 1024, 1);
  let written = 0;
  let handed = 0;
  while (server.transport.pendingBytes < 2 * block.length) {
    handed += 1;
    server.transport.write(block, () => {
      written += 1;
    });
  }
  assert.ok(written < handed);
  assert.equal(
    server.transport.write(Buffer.from('end'), () => {}),
    false,
  );
  const drainsBefore = server.drains;
  client.resume();
  client.on('data', () => {});
  await server.until((it) => it.drains > drainsBefore && it.transport.pendingBytes === 0);
  assert.equal(written, handed);
});

test('end sends what was written, then closes', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  const received = bytesUntilClose(client);
  const block = Buffer.alloc(3 * 1024 * 1024, 7);
  server.transport.write(block, () => {});
  server.transport.end();
  server.transport.end();
  assert.deepEqual(await received, block);
  await server.until((it) => it.closes === 1);
  assert.equal(server.error, undefined);
});

test('what arrives after end is dropped, also where the connection was paused', async (context) => {
  const edge = await openEdge(context, { paused: true });
  const { client, server } = await edge.pair();
  client.write('late');
  const received = bytesUntilClose(client);
  server.transport.write(Buffer.from('bye'), () => {});
  server.transport.end();
  assert.equal((await received).toString(), 'bye');
  await server.until((it) => it.closes === 1);
  assert.equal(server.chunks.length, 0);
});

test('a client that closes ends the connection once, without an error', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.end('last');
  await server.until((it) => it.closes === 1);
  assert.equal(server.bytes.toString(), 'last');
  assert.equal(server.error, undefined);
  server.transport.destroy();
  assert.equal(server.closes, 1);
});

test('a reset connection closes once and brings its error', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.resetAndDestroy();
  await server.until((it) => it.closes === 1);
  assert.equal((server.error as NodeJS.ErrnoException).code, 'ECONNRESET');
});

test('a write after the close is nothing, but onWritten is still called', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.destroy();
  await server.until((it) => it.closes === 1);
  await server.write(Buffer.from('late'));
  assert.equal(server.closes, 1);
});

test('onWritten is called for writes that a broken connection lost', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.pause();
  const lost = server.write(Buffer.alloc(32 * 1024 * 1024));
  client.resetAndDestroy();
  await lost;
  await server.until((it) => it.closes === 1);
});

test('destroy is never re-entrant: onClose comes later', async (context) => {
  const edge = await openEdge(context);
  const { server } = await edge.pair();
  server.transport.destroy();
  assert.equal(server.closes, 0);
  await server.until((it) => it.closes === 1);
});
