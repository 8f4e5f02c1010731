// What the way to the leader does about a leader that answers slowly, or not at all, and about too many who ask.
import assert from 'node:assert/strict';
import { type ClientRequest, get, type IncomingMessage } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import Fastify from 'fastify';
import type { GomqError } from '../../src/core/errors.js';
import { LeaderLink, type LeaderLinkTimeouts } from '../../src/http/leader-link.js';
import { FakeCluster } from './fake-cluster.js';

const UNDER_WAY_MAX = 64;
const PATIENT = { idleMs: 60_000, totalMs: 60_000 };

interface Ways {
  /** Asks; resolves with status and the text that came until the end, however that came. */
  ask(): Promise<{ status: number; text: string; isWhole: boolean }>;
  /** Asks, and does not wait. */
  begin(): ClientRequest;
  readonly toLeader: Set<Socket>;
}

/** A node that has its leader answer everything; `onAsked` is the leader. */
async function node(
  context: TestContext,
  timeouts: LeaderLinkTimeouts,
  onAsked: (socket: Socket) => void,
): Promise<Ways> {
  const toLeader = new Set<Socket>();
  const leader = createServer((socket) => {
    toLeader.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => toLeader.delete(socket));
    socket.once('data', () => onAsked(socket));
  });
  await new Promise<void>((resolve) => leader.listen(0, '127.0.0.1', resolve));
  const cluster = new FakeCluster();
  cluster.leaderPort = (leader.address() as AddressInfo).port;
  const link = new LeaderLink(cluster, timeouts);
  const fastify = Fastify();
  fastify.setErrorHandler((error: GomqError, _request, reply) =>
    reply.code(500).send(`${error.code} ${error.message}`),
  );
  fastify.get('/', (request, reply) => link.forward(request, reply, undefined, false, 'operator'));
  await fastify.listen({ port: 0, host: '127.0.0.1' });
  const { port } = fastify.server.address() as AddressInfo;
  context.after(async () => {
    for (const socket of toLeader) socket.destroy();
    await fastify.close();
    await new Promise((resolve) => leader.close(resolve));
  });
  const begin = (onAnswer?: (answer: IncomingMessage) => void) => {
    const request = get({ port, host: '127.0.0.1', path: '/', agent: false }, onAnswer);
    request.on('error', () => undefined);
    return request;
  };
  return {
    toLeader,
    begin,
    ask: () =>
      new Promise((resolve) => {
        begin((answer) => {
          let text = '';
          answer.on('data', (chunk: Buffer) => {
            text += chunk;
          });
          answer.on('error', () => undefined);
          answer.once('close', () =>
            resolve({ status: answer.statusCode ?? 0, text, isWhole: answer.complete }),
          );
        });
      }),
  };
}

async function until(isThere: () => boolean): Promise<void> {
  const endMs = performance.now() + 10_000;
  while (!isThere()) {
    assert.ok(performance.now() < endMs, 'waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('a leader that says nothing is given up after the idle time, and told as such', async (context) => {
  const { ask, toLeader } = await node(context, { idleMs: 100, totalMs: 60_000 }, () => undefined);
  const { status, text } = await ask();
  assert.equal(status, 500);
  assert.match(text, /^PEER_UNREACHABLE the other, which leads, did not answer: no answer within 100 ms/);
  await until(() => toLeader.size === 0);
});

test('an answer that never ends is cut after the whole time, however often a byte of it comes', async (context) => {
  const { ask, toLeader } = await node(context, { idleMs: 60_000, totalMs: 300 }, (socket) => {
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n');
    const timer = setInterval(() => socket.write('x'), 20);
    socket.once('close', () => clearInterval(timer));
  });
  const { status, text, isWhole } = await ask();
  assert.equal(status, 200);
  assert.ok(text.length > 0 && !isWhole, `${text.length} bytes`);
  await until(() => toLeader.size === 0);
});

test('no more requests are under way than there may be, and those that end make room', async (context) => {
  const { ask, begin, toLeader } = await node(context, PATIENT, () => undefined);
  const first = Array.from({ length: UNDER_WAY_MAX }, () => begin());
  await until(() => toLeader.size === UNDER_WAY_MAX);
  for (let i = 0; i < 3; i++) {
    const { text } = await ask();
    assert.match(text, /^REFUSED 64 requests are being passed on to the leader already/);
  }
  for (const one of first) one.destroy();
  await until(() => toLeader.size === 0);
  // All of them: none that ended is still counted.
  const second = Array.from({ length: UNDER_WAY_MAX }, () => begin());
  await until(() => toLeader.size === UNDER_WAY_MAX);
  for (const socket of toLeader) socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
  await until(() => toLeader.size === 0);
  const third = ask();
  await until(() => toLeader.size === 1);
  for (const socket of toLeader) socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
  assert.deepEqual(await third, { status: 200, text: 'ok', isWhole: true });
  for (const one of second) one.destroy();
});
