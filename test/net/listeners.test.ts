import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import test from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { bytesUntilClose, type LogLine, openEdge, recordingLogger } from './support.js';

test('port 0 takes a free port and addresses tells which', async (context) => {
  const edge = await openEdge(context, { listeners: { mqtt: ['127.0.0.1:0', '[::1]:0'] } });
  const [four, six] = edge.listeners.addresses;
  assert.equal(four?.kind, 'mqtt');
  assert.equal(four?.host, '127.0.0.1');
  assert.equal(six?.host, '::1');
  assert.notEqual(six?.port, 0);
});

test('an address that is taken is ADDRESS_IN_USE and named, and what was opened before is closed', async (context) => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  context.after(() => other.close());
  const taken = (other.address() as { port: number }).port;
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const free = (probe.address() as { port: number }).port;
  probe.close();
  await once(probe, 'close');

  const attempt = openEdge(context, { listeners: { mqtt: [`127.0.0.1:${free}`, `127.0.0.1:${taken}`] } });
  await assert.rejects(attempt, (error: GomqError) => {
    assert.ok(error instanceof GomqError);
    assert.equal(error.code, 'ADDRESS_IN_USE');
    assert.match(error.message, new RegExp(`127\\.0\\.0\\.1:${taken}`));
    return true;
  });
  const client = connect(free, '127.0.0.1');
  const [error] = await once(client, 'error');
  assert.equal((error as NodeJS.ErrnoException).code, 'ECONNREFUSED');
});

test('an address that is not of this machine is ADDRESS_INVALID', async (context) => {
  await assert.rejects(openEdge(context, { listeners: { mqtt: ['192.0.2.1:0'] } }), {
    code: 'ADDRESS_INVALID',
  });
});

test('an IPv4 client of a dual-stack listener is shown with its IPv4 address', async (context) => {
  const edge = await openEdge(context, { listeners: { mqtt: [':0'] } });
  const { server } = await edge.pair();
  assert.equal(server.transport.remoteAddress, '127.0.0.1');
});

test('limits.connections: one more is closed at once, and a place that becomes free is given again', async (context) => {
  const lines: LogLine[] = [];
  const edge = await openEdge(context, { limits: { connections: 2 }, logger: recordingLogger(lines) });
  const first = await edge.pair();
  await edge.pair();
  const refused = connect(edge.port, '127.0.0.1');
  refused.on('error', () => {});
  await bytesUntilClose(refused);
  assert.equal(edge.accepted.length, 2);
  assert.equal(edge.listeners.connectionCount, 2);
  assert.deepEqual(
    lines.map((line) => [line.fields.limit, line.fields.count]),
    [['limits.connections', 1]],
  );

  first.client.destroy();
  await first.server.until((it) => it.closes === 1);
  await edge.pair();
  assert.equal(edge.listeners.connectionCount, 2);
});

test('limits.connectionsPerAddress counts each address for itself', async (context) => {
  const lines: LogLine[] = [];
  const edge = await openEdge(context, {
    limits: { connectionsPerAddress: 1 },
    logger: recordingLogger(lines),
  });
  await edge.pair();
  const refused = connect({ host: '127.0.0.1', port: edge.port });
  refused.on('error', () => {});
  await bytesUntilClose(refused);
  const elsewhere = connect({ host: '127.0.0.1', port: edge.port, localAddress: '127.0.0.2' });
  context.after(() => elsewhere.destroy());
  const second = await edge.connection(1);
  assert.equal(second.transport.remoteAddress, '127.0.0.2');
  assert.equal(lines[0]?.fields.address, '127.0.0.1');
});

test('a storm of refusals is one log line a second, with the number', async (context) => {
  const lines: LogLine[] = [];
  const edge = await openEdge(context, { limits: { connections: 1 }, logger: recordingLogger(lines) });
  await edge.pair();
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const refuse = async () => {
    const client = connect(edge.port, '127.0.0.1');
    client.on('error', () => {});
    await bytesUntilClose(client);
  };
  await refuse();
  const alone = lines.length;
  for (let i = 0; i < 5; i++) await refuse();
  assert.equal(lines.length, alone);
  context.mock.timers.tick(1_000);
  assert.equal(lines.length, alone + 1);
  assert.equal(lines.at(-1)?.fields.count, 5);
});

test('close refuses new connections and leaves the open ones alone', async (context) => {
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  await edge.listeners.close();
  const late = connect(edge.port, '127.0.0.1');
  const [error] = await once(late, 'error');
  assert.equal((error as NodeJS.ErrnoException).code, 'ECONNREFUSED');
  client.write('still here');
  await server.until((it) => it.bytes.toString() === 'still here');
});
