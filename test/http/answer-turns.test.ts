// Turns of answers, over real connections: few at a time, in order, given on by whoever is answered, goes, or takes nothing.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, test } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { type AnswerTurn, AnswerTurns } from '../../src/http/answer-turns.js';

interface Begun {
  url: string;
  response: ServerResponse;
  turn: AnswerTurn;
}

const LIMIT = { timeout: 20_000 };

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

/** A server whose requests wait for their turns. */
async function serve(idleMs = 60_000, totalMs = 60_000) {
  const turns = new AnswerTurns({ idleMs, totalMs });
  const asked: string[] = [];
  const begun: Begun[] = [];
  const refused: unknown[] = [];
  let wake = (): void => undefined;
  const server = createServer((request, response) => {
    asked.push(request.url!);
    wake();
    turns
      .begin(response, request.socket)
      .then((turn) => begun.push({ url: request.url!, response, turn }))
      .catch((error: unknown) => {
        refused.push(error);
        response.statusCode = 503;
        response.end();
      })
      .finally(() => wake());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sockets: Socket[] = [];
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    server.closeAllConnections();
    server.close();
  });
  return {
    asked,
    begun,
    refused,
    get urls() {
      return begun.map(({ url }) => url);
    },
    /** Asks for these on one connection, without waiting. */
    ask(...urls: string[]): Socket {
      const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.write(urls.map((url) => `GET ${url} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''));
      sockets.push(socket);
      return socket;
    },
    async until(isSo: () => boolean): Promise<void> {
      while (!isSo()) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}

const numbered = (from: number, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `/${from + i}`);

test(
  'eight at a time; the others follow in the order they came, when one is answered or gone',
  LIMIT,
  async () => {
    const server = await serve();
    const sockets: Socket[] = [];
    for (const url of numbered(1, 12)) {
      sockets.push(server.ask(url));
      await server.until(() => server.asked.includes(url));
    }
    await server.until(() => server.begun.length === 8);
    assert.deepEqual(server.urls, numbered(1, 8));
    server.begun[3]!.response.end('x');
    await server.until(() => server.begun.length === 9);
    sockets[0]!.destroy();
    await server.until(() => server.begun.length === 10);
    assert.equal(server.begun[0]!.turn.gone.aborted, true);
    assert.deepEqual(server.urls, numbered(1, 10));
    // One that has gone while it waited takes no turn from the others.
    sockets[10]!.destroy();
    await once(sockets[10]!, 'close');
    server.begun[1]!.response.end('x');
    await server.until(() => server.urls.includes('/12') || server.begun.length === 11);
    server.begun[2]!.response.end('x');
    await server.until(() => server.urls.includes('/12'));
  },
);

test('many on one connection end with it, those that were not answered yet as well', LIMIT, async () => {
  const server = await serve();
  const socket = server.ask(...numbered(1, 30));
  await server.until(() => server.asked.length === 30 && server.begun.length === 8);
  socket.destroy();
  await server.until(() => server.begun.length === 30);
  for (const { turn } of server.begun) assert.equal(turn.gone.aborted, true);
  server.ask('/next');
  await server.until(() => server.urls.includes('/next'));
});

test('no more wait than may', LIMIT, async () => {
  const server = await serve();
  const socket = server.ask(...numbered(1, 8 + 256 + 2));
  await server.until(() => server.refused.length === 2);
  for (const error of server.refused) {
    assert.ok(error instanceof GomqError);
    assert.deepEqual([error.code, error.retriable], ['REFUSED', true]);
  }
  socket.destroy();
  await server.until(() => server.begun.length === 8 + 256);
});

for (const [what, idleMs, totalMs] of [
  ['is not taken at all', 30, 60_000],
  ['is not taken in time', 60_000, 30],
] as const) {
  test(`an answer that ${what} is given up`, LIMIT, async () => {
    const server = await serve(idleMs, totalMs);
    const clients = new Map(numbered(1, 8).map((url) => [url, server.ask(url).pause()]));
    await server.until(() => server.begun.length === 8);
    server.ask('/next');
    await server.until(() => server.asked.includes('/next'));
    const large = Buffer.alloc(32 * 1024 * 1024);
    const [first] = server.begun;
    first!.response.end(large);
    first!.turn.send();
    await server.until(() => server.urls.includes('/next'));
    let bytes = 0;
    const client = clients.get(first!.url)!;
    client.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    client.resume();
    if (!client.closed) await once(client, 'close');
    assert.ok(bytes < large.length, `${bytes} bytes arrived`);
  });
}
