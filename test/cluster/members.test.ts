// What a cluster does with its members and their clients: joining with a snapshot, damage, redirects, too few in sync, planned ends, strangers.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, openSync, readdirSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { BrokerProcess, killAllBrokers } from '../crash/broker-process.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

after(killAllBrokers);

const TIMEOUT = { timeout: 120_000 };
const SMALL = ['log.segmentBytes=65536', 'log.retentionBytes=131072', 'log.compression=none'];

async function cluster(
  context: TestContext,
  settings: readonly string[] = [],
  names: readonly string[] = ['a', 'b', 'c'],
): Promise<{ nodes: Nodes; folder: string; leader: string; etcd: Awaited<ReturnType<typeof startEtcd>> }> {
  const etcd = await startEtcd(context);
  const folder = mkdtempSync(join(tmpdir(), 'gomq-members-'));
  const nodes = new Nodes({ etcd: etcd.endpoint, folder, names, settings });
  context.after(async () => {
    await nodes.killAll();
    rmSync(folder, { recursive: true, force: true });
  });
  await nodes.startAll();
  const leader = await nodes.waitForLeader();
  return { nodes, folder, leader, etcd };
}

function portOf(nodes: Nodes, name: string): number {
  return nodes.broker(name)!.port;
}

test('a wiped member begins with a snapshot where the log does not reach back', TIMEOUT, async (context) => {
  const { nodes, leader } = await cluster(context, SMALL);
  const [member] = nodes.names.filter((name) => name !== leader) as [string];
  const client = await PlainClient.connect(portOf(nodes, leader), 'fills');
  await client.publish('kept', 'from the beginning', true);
  // Several segments, so that retention takes the first, which the retained message was in.
  for (let i = 0; i < 40; i++) await client.publish('filler', randomBytes(20_000));
  await nodes.kill(member);
  for (let i = 0; i < 40; i++) await client.publish('filler', randomBytes(20_000));
  nodes.wipe(member);
  const broker = await nodes.start(member);
  await broker.said(/begins with a snapshot of the leader/, 60_000);
  await nodes.waitForInSync(3);
  client.close();
  // It has everything: it can lead alone with the third one.
  await nodes.kill(leader);
  const reader = await PlainClient.connect(broker.port, 'reads');
  await reader.subscribe('kept');
  assert.deepEqual(await reader.message(), { topic: 'kept', payload: 'from the beginning' });
  reader.close();
});

test(
  'a member whose log is damaged copies it from the leader, and keeps the damaged one aside',
  TIMEOUT,
  async (context) => {
    const { nodes, leader, folder } = await cluster(context, [
      'log.segmentBytes=65536',
      'log.compression=none',
    ]);
    const [member] = nodes.names.filter((name) => name !== leader) as [string];
    const client = await PlainClient.connect(portOf(nodes, leader), 'fills');
    for (let i = 0; i < 12; i++) await client.publish('kept', randomBytes(20_000), true);
    await nodes.kill(member);
    const data = join(folder, member);
    // In the middle of the newest segment, with whole batches behind it that were written when all before was on disk.
    flipByte(
      join(
        data,
        readdirSync(data)
          .filter((name) => name.endsWith('.log'))
          .sort()
          .at(-1)!,
      ),
      5_000,
    );
    const broker = await nodes.start(member);
    await broker.said(/put the damaged log aside/, 60_000);
    assert.ok(existsSync(join(data, 'damaged')));
    await nodes.waitForInSync(3);
    assert.ok(await client.publish('after', 'wards'));
    client.close();
  },
);

function flipByte(path: string, position: number): void {
  const file = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, position);
  byte[0]! ^= 0xff;
  writeSync(file, byte, 0, 1, position);
}

test('5.0 clients that ask are sent to the leader, others are carried there', TIMEOUT, async (context) => {
  const { nodes, leader } = await cluster(context);
  const [member] = nodes.names.filter((name) => name !== leader) as [string];
  await nodes.waitForInSync(3);
  const fields = { clientId: 'asks', clean: true, userProperties: { 'gomq-redirect': '1' } };
  const { client, connack } = await PlainClient.open(portOf(nodes, member), 5, fields);
  assert.equal(connack?.reasonCode, 0x9c);
  assert.equal(connack?.properties?.serverReference, `127.0.0.1:${portOf(nodes, leader)}`);
  client.close();
  const atLeader = await PlainClient.open(portOf(nodes, leader), 5, fields);
  assert.equal(atLeader.connack?.reasonCode, 0);
  atLeader.client.close();
  const carried = await PlainClient.open(portOf(nodes, member), 5, { clientId: 'is carried', clean: true });
  assert.equal(carried.connack?.reasonCode, 0);
  assert.ok(await carried.client.publish('a', 'b'));
  carried.client.close();
});

test(
  'with too few nodes in sync nothing is acknowledged, and publishers are told',
  TIMEOUT,
  async (context) => {
    const { nodes, leader } = await cluster(context);
    await nodes.waitForInSync(3);
    const { client } = await PlainClient.open(portOf(nodes, leader), 5, { clientId: 'waits', clean: true });
    assert.ok(await client.publish('a', 'one'));
    for (const name of nodes.names) if (name !== leader) await nodes.kill(name);
    client.send('a', 'two');
    const goodbye = await client.next('disconnect');
    assert.ok(goodbye?.cmd === 'disconnect' && goodbye.reasonCode === 0x89, JSON.stringify(goodbye));
    const fields = { clientId: 'is late', clean: false, expirySeconds: 100 };
    const late = await PlainClient.open(portOf(nodes, leader), 5, fields);
    assert.equal(late.connack?.reasonCode, 0x88);
    late.client.close();
    for (let i = 0; i < 3; i++) {
      const again = await PlainClient.open(portOf(nodes, leader), 5, { clientId: 'waits', clean: true });
      again.client.send('a', 'again');
      const refused = await again.client.next('disconnect');
      assert.ok(refused?.cmd === 'disconnect' && refused.reasonCode === 0x89, JSON.stringify(refused));
    }
    await nodes.startAll();
    const back = await PlainClient.connect(portOf(nodes, leader), 'is back', false);
    assert.ok(await back.publish('a', 'three'));
    await back.subscribe('$replay/earliest/a');
    const payloads = [await back.message(), await back.message(), await back.message()];
    assert.deepEqual(
      payloads.map((message) => message?.payload),
      ['one', 'two', 'three'],
    );
    back.close();
  },
);

test('a planned end hands over at once and exits with 0', TIMEOUT, async (context) => {
  const { nodes, leader } = await cluster(context);
  await nodes.waitForInSync(3);
  const member = nodes.names.find((name) => name !== leader)!;
  const client = await PlainClient.connect(portOf(nodes, leader), 'publishes');
  assert.ok(await client.publish('a', 'one'));
  const stopped = nodes.stop(leader);
  const next = await PlainClient.connect(portOf(nodes, member), 'publishes on');
  assert.ok(await next.publish('a', 'two'));
  await stopped;
  next.close();
});

test('a cluster of one node works, also when it is killed', TIMEOUT, async (context) => {
  const { nodes, leader } = await cluster(context, [], ['a']);
  const client = await PlainClient.connect(portOf(nodes, leader), 'publishes');
  assert.ok(await client.publish('a', 'kept', true));
  await nodes.kill('a');
  const broker = await nodes.start('a');
  const reader = await PlainClient.connect(broker.port, 'reads');
  await reader.subscribe('a');
  assert.deepEqual(await reader.message(), { topic: 'a', payload: 'kept' });
  reader.close();
});

test('traffic goes on while etcd is away for longer than the lease', TIMEOUT, async (context) => {
  const { nodes, leader, etcd } = await cluster(context, ['cluster.leaseSeconds=1']);
  await nodes.waitForInSync(3);
  const client = await PlainClient.connect(portOf(nodes, leader), 'publishes');
  await etcd.kill();
  const endMs = performance.now() + 4000;
  while (performance.now() < endMs) {
    assert.ok(await client.publish('a', 'while etcd is away'));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await etcd.restart();
  const afterMs = performance.now() + 2000;
  while (performance.now() < afterMs) {
    assert.ok(await client.publish('a', 'when it is back'), 'the same connection goes on');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  client.close();
});

test('the data of a broker that stood alone becomes that of the cluster', TIMEOUT, async (context) => {
  const etcd = await startEtcd(context);
  const folder = mkdtempSync(join(tmpdir(), 'gomq-members-'));
  const alone = await BrokerProcess.start({ data: join(folder, 'a') });
  const client = await PlainClient.connect(alone.port, 'publishes');
  assert.ok(await client.publish('a', 'from before', true));
  await alone.stop();
  const nodes = new Nodes({ etcd: etcd.endpoint, folder, names: ['a', 'b', 'c'] });
  context.after(async () => {
    await nodes.killAll();
    rmSync(folder, { recursive: true, force: true });
  });
  await nodes.startAll();
  await nodes.waitForLeader();
  await nodes.waitForInSync(3);
  await nodes.kill('a');
  const reader = await PlainClient.connect(portOf(nodes, 'b'), 'reads');
  await reader.subscribe('a');
  assert.deepEqual(await reader.message(), { topic: 'a', payload: 'from before' });
  reader.close();
});

test('a second node with the name of another is turned away', TIMEOUT, async (context) => {
  const { nodes, folder, etcd } = await cluster(context, ['cluster.leaseSeconds=1']);
  const stranger = new Nodes({
    etcd: etcd.endpoint,
    folder: join(folder, 'other'),
    names: ['a', 'x', 'y'],
    settings: ['cluster.leaseSeconds=1'],
  });
  const broker = await stranger.start('a');
  assert.equal((await broker.ended(30_000)).code, 1);
  assert.match(broker.stderr, /another node called 'a' is in the cluster/);
  await nodes.waitForInSync(3);
});

test('a broker without the secret gets no copy', TIMEOUT, async (context) => {
  const { nodes, folder, etcd } = await cluster(context, ['cluster.secret=the secret of the cluster']);
  await nodes.waitForInSync(3);
  const stranger = new Nodes({
    etcd: etcd.endpoint,
    folder: join(folder, 'other'),
    names: ['x', 'y', 'z'],
    settings: ['cluster.secret=another one, as long'],
  });
  const broker = await stranger.start('x');
  context.after(() => stranger.killAll());
  await broker.said(/cannot follow the leader/);
  assert.match(broker.stderr, /secret/);
});
