// What is known to be committed is noted in a file of its own, which is only ever too low and costs time where it is missing (log/membership.ts). A disk
// without room for it, or a process without a file descriptor to spare, must not end a node as a defect would.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { attachSkip, failFromNowOn } from '../faults/failing-disks.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

after(killAllBrokers);

test('a node goes on where it cannot note what is committed', { skip: attachSkip() }, async (context) => {
  const etcd = await startEtcd(context);
  const nodes = new Nodes({ etcd: etcd.endpoint, folder: temporaryFolder(), names: ['a'] });
  const broker = await nodes.start('a');
  await nodes.waitForLeader();
  const client = await PlainClient.connect(broker.port, 'publishes');
  assert.ok(await client.publish('a', 'before'));
  await failFromNowOn(broker.pid, join(nodes.data('a'), 'committed'), 'pwrite64:error=ENOSPC');
  // It is noted once a second.
  for (let i = 0; i < 30; i++) {
    assert.ok(await client.publish('a', 'after'), broker.stderr);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(broker.hasEnded, false, broker.stderr);
  client.close();
});
