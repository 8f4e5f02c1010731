// A cluster beside three etcds with certificates: one of these goes, whichever, and nobody notices; without the right certificate nobody gets in.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { Authority } from '../net/certificate-files.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { EtcdTrio } from './etcd-trio.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

const NAMES = ['a', 'b', 'c'];
const LEASE_SECONDS = 1;
/** Longer than a lease that is not kept. */
const AWAY_MS = 2500;

after(killAllBrokers);

test('one of three etcds may be away, whichever it is, and leaders change all the same', {
  skip: Authority.isAvailable ? false : 'openssl is not installed',
  timeout: 110_000,
}, async (context) => {
  const authority = new Authority();
  context.after(() => authority.remove());
  const etcds = await EtcdTrio.start(context, authority);
  const { cert, key } = authority.sign('gomq', '/CN=gomq');
  const common = [`cluster.leaseSeconds=${LEASE_SECONDS}`, `cluster.etcd.tls.ca=${authority.ca}`];
  const shown = [`cluster.etcd.tls.cert=${cert}`, `cluster.etcd.tls.key=${key}`];
  const etcd = etcds.endpoints.join(',');
  const folder = temporaryFolder();
  const nodes = new Nodes({ etcd, folder, names: NAMES, settings: [...common, ...shown] });
  await nodes.startAll();
  const leader = await nodes.waitForLeader();
  await nodes.waitForInSync(3);

  const client = await PlainClient.connect(nodes.broker(leader)!.port, 'publishes');
  for (const at of [0, 1, 2]) {
    await etcds.kill(at);
    const endMs = performance.now() + AWAY_MS;
    while (performance.now() < endMs) {
      assert.ok(await client.publish('a', 'while one is away'), nodes.diagnostics());
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(nodes.leader, leader, `etcd ${at} is away:\n${nodes.diagnostics()}`);
    assert.equal(nodes.inSync.length, 3);
    await etcds.start(at);
  }
  client.close();

  for (const at of [0, 1, 2]) {
    await etcds.kill(at);
    const former = nodes.leader!;
    await nodes.kill(former);
    await nodes.until('another one leads', () => nodes.leader !== undefined && nodes.leader !== former);
    const other = await PlainClient.connect(nodes.broker(nodes.leader!)!.port, `publishes-${at}`);
    assert.ok(await other.publish('a', 'to the next leader'), nodes.diagnostics());
    other.close();
    await etcds.start(at);
    await nodes.start(former);
    await nodes.waitForInSync(3);
  }

  const strangers = new Nodes({ etcd, folder, names: ['d'], settings: common });
  const stranger = strangers.double('d', strangers.data('d'));
  await nodes.until('the stranger says why', () => /etcd at https:.*certificate/i.test(stranger.stderr));
  assert.equal(stranger.hasEnded, false, 'it may still be let in');
  await stranger.kill();
  await nodes.killAll();
});
