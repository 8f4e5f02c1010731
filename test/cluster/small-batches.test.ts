// A member is sent what the leader reads from disk, up to a mebibyte at a time, and no frame may have more than 4096 batches: small ones are more.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

after(killAllBrokers);

test('a member that lacks thousands of small batches is sent them', { timeout: 120_000 }, async (context) => {
  const etcd = await startEtcd(context);
  const nodes = new Nodes({
    etcd: etcd.endpoint,
    folder: temporaryFolder(),
    names: ['a', 'b'],
    settings: ['cluster.leaseSeconds=1', 'cluster.minInSync=1'],
  });
  await nodes.startAll();
  const leader = await nodes.waitForLeader();
  const member = nodes.names.find((name) => name !== leader)!;
  await nodes.kill(member);
  await nodes.waitForInSync(1);
  const client = await PlainClient.connect(nodes.broker(leader)!.port, 'publishes');
  // Each is a batch of its own.
  for (let i = 0; i < 4500; i++) assert.ok(await client.publish('a', 'b'));
  client.close();
  // What it has appended is not in its memory any more.
  await nodes.kill(leader);
  nodes.wipe(member);
  await nodes.start(leader);
  await nodes.waitForLeader();
  await nodes.start(member);
  await nodes.until(
    'the leader has ended, or both are in sync',
    () => nodes.broker(leader)!.hasEnded || nodes.inSync.length === 2,
  );
  await nodes.check();
  await nodes.killAll();
});
