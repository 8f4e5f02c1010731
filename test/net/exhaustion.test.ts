import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const CHILD = fileURLToPath(new URL('./exhaustion-child.ts', import.meta.url));
const OPEN_FILES = 512;
const CLIENTS = 100;

interface State {
  connections: number;
  /** Turns of the event loop so far. */
  loopCount: number;
}

test('out of file descriptors (EMFILE): no crash, no spinning, and service again afterwards', async (context) => {
  if (process.platform === 'win32') return context.skip('no limit of open files here');
  const command = `ulimit -n ${OPEN_FILES} && exec "$0" --import tsx "$1"`;
  const child = spawn('sh', ['-c', command, process.execPath, CHILD], { stdio: ['pipe', 'pipe', 'inherit'] });
  context.after(() => child.stdin.end());
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const port = Number((await lines.next()).value);
  const ask = async (): Promise<State> => {
    child.stdin.write('?\n');
    return JSON.parse(String((await lines.next()).value)) as State;
  };

  const clients: Socket[] = [];
  let closed = 0;
  for (let i = 0; i < CLIENTS; i++) {
    const client = connect(port, '127.0.0.1');
    client.on('error', () => {});
    client.on('close', () => {
      closed += 1;
    });
    clients.push(client);
  }
  // Those beyond the descriptors are closed, not left waiting in the backlog.
  let { connections } = await ask();
  while (closed + connections < clients.length) ({ connections } = await ask());
  assert.ok(closed > 0);
  assert.ok(connections > 0);

  // Whether it spins shows only over time. Turns of the event loop are counted, since time says little on a busy machine: one that spins
  // turns ten thousand times in this while, one that still sees the last clients go some dozens of times.
  const before = await ask();
  await sleep(300);
  const after = await ask();
  assert.ok(
    after.loopCount - before.loopCount < 1000,
    `${after.loopCount - before.loopCount} turns of the loop`,
  );

  for (const client of clients) client.destroy();
  while ((await ask()).connections > 0);
  const client = connect(port, '127.0.0.1');
  client.write('again');
  const [answer] = await once(client, 'data');
  assert.equal(String(answer), 'again');
  client.destroy();
});
