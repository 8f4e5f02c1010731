// What a load balancer asks the nodes of a cluster: where may clients come? At the leader and at who follows it, and nowhere else.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd, storedUnder } from './etcd-process.js';
import { Nodes } from './nodes.js';

const NAMES = ['a', 'b', 'c'];

after(killAllBrokers);

test('the leader and its members are ready, and a node with nobody to follow is not', {
  timeout: 110_000,
}, async (context) => {
  const etcd = await startEtcd(context);
  const nodes = new Nodes({
    etcd: etcd.endpoint,
    folder: temporaryFolder(),
    names: NAMES,
    settings: ['cluster.leaseSeconds=1'],
    // The last --http counts.
    underOf: () => ['sh', '-c', 'exec "$@" --http 127.0.0.1:0', 'sh'],
  });
  context.after(() => nodes.killAll());
  const isReady = async (name: string): Promise<boolean> => {
    const { http } = JSON.parse((await storedUnder(etcd, `members/${name}`))!) as { http: string };
    const { status } = await fetch(`http://${http}/health/ready`);
    assert.ok(status === 200 || status === 503, `${name} answers ${status}`);
    return status === 200;
  };

  await nodes.start('a');
  await nodes.until('a is known', async () => (await storedUnder(etcd, 'members/a')) !== undefined);
  assert.equal(await isReady('a'), false, 'there is no cluster yet');

  await nodes.startAll();
  const leader = await nodes.waitForLeader();
  await nodes.waitForInSync(NAMES.length);
  for (const name of NAMES) assert.equal(await isReady(name), true, `${name}, where ${leader} leads`);

  const [left, ...others] = NAMES.filter((name) => name !== leader) as [string, string];
  await Promise.all([leader, ...others].map((name) => nodes.kill(name)));
  await nodes.until(`${left} is not ready any more`, async () => !(await isReady(left)));
  await nodes.startAll();
  await nodes.until(`${left} is ready again`, () => isReady(left));
});
