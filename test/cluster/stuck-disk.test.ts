// A disk that neither answers nor fails: nobody waits for it longer than `cluster.lagSeconds`, and what is on it is used again once it answers.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { killAllBrokers } from '../crash/broker-process.js';
import { straceSkip } from '../faults/failing-disks.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

after(killAllBrokers);

const OPTIONS = { timeout: 120_000, skip: straceSkip() };
const LAG_SECONDS = 1;
/** Longer than any test waits for a PUBACK. */
const STUCK_MICROSECONDS = 90_000_000;

async function cluster(context: TestContext): Promise<{ nodes: Nodes; leader: string; member: string }> {
  const etcd = await startEtcd(context);
  const nodes = new Nodes({
    etcd: etcd.endpoint,
    folder: temporaryFolder(),
    names: ['a', 'b', 'c'],
    settings: [`cluster.lagSeconds=${LAG_SECONDS}`],
  });
  context.after(() => nodes.killAll());
  await nodes.startAll();
  await nodes.waitForInSync(3);
  const leader = await nodes.waitForLeader();
  return { nodes, leader, member: nodes.names.find((name) => name !== leader)! };
}

/** Every fdatasync of a process takes without end, until what this answers is killed. */
async function stick(context: TestContext, pid: number): Promise<ChildProcess> {
  const injection = ['-e', 'trace=fdatasync', '-e', `inject=fdatasync:delay_enter=${STUCK_MICROSECONDS}`];
  const strace = spawn('strace', ['-f', '-p', `${pid}`, '-e', 'signal=none', ...injection], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  context.after(() => strace.kill('SIGKILL'));
  let told = '';
  while (!/attached/.test(told)) told += String((await once(strace.stderr!, 'data'))[0]);
  return strace;
}

async function release(strace: ChildProcess): Promise<void> {
  const ended = once(strace, 'exit');
  strace.kill('SIGTERM');
  await ended;
}

test('a member whose disk stands still is not waited for, and joins again', OPTIONS, async (context) => {
  const { nodes, leader, member } = await cluster(context);
  const client = await PlainClient.connect(nodes.broker(leader)!.port, 'publishes');
  assert.ok(await client.publish('a', 'before'));
  const strace = await stick(context, nodes.broker(member)!.pid);
  const sentMs = performance.now();
  assert.ok(await client.publish('a', 'meanwhile'));
  const waitedMs = performance.now() - sentMs;
  assert.ok(waitedMs > LAG_SECONDS * 1000, `it was in sync: ${waitedMs} ms`);
  await nodes.waitForInSync(2);
  assert.ok(await client.publish('a', 'with two'));
  assert.equal(nodes.leader, leader);
  await release(strace);
  await nodes.waitForInSync(3);
  assert.ok(await client.publish('a', 'with three'));
  client.close();
});

test(
  'a leader whose disk stands still has another one lead, and follows it later',
  OPTIONS,
  async (context) => {
    const { nodes, leader, member } = await cluster(context);
    const client = await PlainClient.connect(nodes.broker(leader)!.port, 'publishes');
    assert.ok(await client.publish('kept', 'before', true));
    const strace = await stick(context, nodes.broker(leader)!.pid);
    assert.equal(
      await client.publish('kept', 'meanwhile', true),
      false,
      'it is not acknowledged where the disk is stuck',
    );
    while (nodes.leader === leader) await sleep(10);
    const next = await PlainClient.connect(nodes.broker(member)!.port, 'publishes on');
    assert.ok(await next.publish('kept', 'after', true));
    await release(strace);
    await nodes.waitForInSync(3);
    // What it has by now is what the others have: it may lead again.
    await nodes.kill(nodes.leader!);
    const reader = await PlainClient.connect(nodes.broker(leader)!.port, 'reads');
    await reader.subscribe('kept');
    assert.deepEqual(await reader.message(), { topic: 'kept', payload: 'after' });
    for (const one of [next, reader]) one.close();
  },
);
