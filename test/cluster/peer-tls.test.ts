// Brokers that know each other by their certificates, and by nothing else.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { Authority } from '../net/certificate-files.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

const NAMES = ['a', 'b', 'c'];

after(killAllBrokers);

/** What makes a broker show a certificate of this authority. */
function showing(authority: Authority): string[] {
  const { cert, key } = authority.sign('gomq', '/CN=gomq');
  return [`cluster.tls.ca=${authority.ca}`, `cluster.tls.cert=${cert}`, `cluster.tls.key=${key}`];
}

test('brokers without a secret are one by their certificates, and nobody gets a copy without one of theirs', {
  skip: Authority.isAvailable ? false : 'openssl is not installed',
  timeout: 110_000,
}, async (context) => {
  const [own, another] = [new Authority(), new Authority()];
  context.after(() => {
    for (const authority of [own, another]) authority.remove();
  });
  const etcd = (await startEtcd(context)).endpoint;
  const folder = temporaryFolder();
  const nodes = new Nodes({ etcd, folder, names: NAMES, settings: showing(own) });
  context.after(() => nodes.killAll());
  await nodes.startAll();
  const leader = await nodes.waitForLeader();
  await nodes.waitForInSync(NAMES.length);
  // Through a member: tunnels are between brokers, too.
  const member = NAMES.find((name) => name !== leader)!;
  const client = await PlainClient.connect(nodes.broker(member)!.port, 'is carried');
  assert.ok(await client.publish('a', 'b'), nodes.diagnostics());
  client.close();

  for (const [name, settings] of [
    ['plain', []],
    ['strange', showing(another)],
  ] as const) {
    const strangers = new Nodes({ etcd, folder, names: [name], settings });
    context.after(() => strangers.killAll());
    const stranger = await strangers.start(name);
    await stranger.said(/cannot follow the leader/);
    assert.doesNotMatch(stranger.stderr, /"follows the leader"/);
  }
  await nodes.check();
  assert.equal(nodes.inSync.length, NAMES.length);
});
