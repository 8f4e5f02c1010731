// In a file of its own, because the clock is turned before anything else in the process closes.
import assert from 'node:assert/strict';
import test from 'node:test';
import { Sweep } from '../../src/net/sweep.js';
import { openEdge } from './support.js';

test('end destroys after a bounded time where the client neither reads nor closes', async (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const edge = await openEdge(context);
  const { client, server } = await edge.pair();
  client.pause();
  server.transport.write(Buffer.alloc(32 * 1024 * 1024), () => {});
  server.transport.end();
  context.mock.timers.tick(5_000);
  assert.equal(server.closes, 0);
  context.mock.timers.tick(5_000);
  await server.until((it) => it.closes === 1);
});

test('a sweep expires what stayed for one to two intervals, and nothing that was taken out', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const sweep = new Sweep(100);
  const expired: string[] = [];
  const item = (name: string) => ({ expire: () => expired.push(name) });
  const left = item('left');
  sweep.add(item('early'));
  sweep.add(left);
  context.mock.timers.tick(100);
  sweep.add(item('late'));
  sweep.delete(left);
  assert.deepEqual(expired, []);
  context.mock.timers.tick(100);
  assert.deepEqual(expired, ['early']);
  context.mock.timers.tick(100);
  assert.deepEqual(expired, ['early', 'late']);
  assert.equal(sweep.size, 0);
});

test('expireAll ends everything now', () => {
  const sweep = new Sweep(100);
  let expired = 0;
  sweep.add({ expire: () => (expired += 1) });
  sweep.expireAll();
  assert.equal(expired, 1);
  assert.equal(sweep.size, 0);
});
