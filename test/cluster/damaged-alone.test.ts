// A damaged log is put aside once there is a leader to copy from (docs/REPLICATION.md, Damage), not while only the key of one that is gone is there.
import assert from 'node:assert/strict';
import { existsSync, openSync, readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

after(killAllBrokers);

test('a damaged log stays where it is while nobody leads', { timeout: 60_000 }, async (context) => {
  const etcd = await startEtcd(context);
  // Long enough that the key of the leader is still there when the member comes back.
  const settings = ['cluster.leaseSeconds=20', 'log.compression=none'];
  const nodes = new Nodes({
    etcd: etcd.endpoint,
    folder: temporaryFolder(),
    names: ['a', 'b', 'c'],
    settings,
  });
  context.after(() => nodes.killAll());
  await nodes.startAll();
  const leader = await nodes.waitForLeader();
  await nodes.waitForInSync(3);
  const client = await PlainClient.connect(nodes.broker(leader)!.port, 'publishes');
  for (let i = 0; i < 20; i++) assert.ok(await client.publish('a', 'b'.repeat(1000)));
  client.close();
  await Promise.all(nodes.names.map((name) => nodes.kill(name)));
  const member = nodes.names.find((name) => name !== leader)!;
  const data = nodes.data(member);
  writeSync(openSync(join(data, readdirSync(data).find((name) => name.endsWith('.log'))!), 'r+'), 'x', 5000);
  const broker = await nodes.start(member);
  await broker.said(/the log is damaged; it is replaced by a copy as soon as another node leads/);
  const endMs = performance.now() + 3000;
  while (performance.now() < endMs && !existsSync(join(data, 'damaged'))) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(existsSync(join(data, 'damaged')), false, broker.stderr);
});
