// What clients see of a change in a cluster: their wills go on with the next leader, they wait for a leader and not for ever, and what they published
// outlives the members that had it, also when an operator puts others in their place.
import assert from 'node:assert/strict';
import { after, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { gomqctl, words } from '../cli/harness.js';
import { killAllBrokers } from '../crash/broker-process.js';
import type { ConnectFields, Version } from '../crash/link.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd, storedUnder } from './etcd-process.js';
import { Nodes, type NodesOptions } from './nodes.js';
import { PlainClient } from './plain-client.js';

const NAMES = ['a', 'b', 'c'];
/** The key of a node that is gone stays for as long as its lease. */
const OUT_ALREADY = /is not in sync, so nothing waits for it|there is no node /;
const TIMEOUT = { timeout: 110_000 };
const GRACE_SECONDS = 1;
/** A client waits 5 s for a leader. */
const REFUSED_MS_MIN = 4000;
const REFUSED_MS_MAX = 15_000;

after(killAllBrokers);

async function cluster(context: TestContext, options: Partial<NodesOptions> = {}) {
  const etcd = await startEtcd(context);
  const nodes = new Nodes({ etcd: etcd.endpoint, folder: temporaryFolder(), names: NAMES, ...options });
  context.after(() => nodes.killAll());
  return { nodes, etcd, portOf: (name: string) => nodes.broker(name)!.port };
}

/** A client with a will, which is committed. */
async function mortal(port: number, version: Version, clientId: string, clean: boolean) {
  const will = { topic: `wills/${clientId}`, payload: Buffer.from('gone'), qos: 1 as const, retain: false };
  const fields = { clientId, clean, will, ...(clean ? {} : { expirySeconds: 100 }) };
  let { client, connack } = await PlainClient.open(port, version, fields);
  // A connection that is on its way while the leader changes is closed without an answer.
  while (connack === undefined) ({ client, connack } = await PlainClient.open(port, version, fields));
  assert.equal(connack.returnCode ?? connack.reasonCode, 0);
  // SUBACK waits for everything that is in the log before it.
  await client.subscribe(`nothing/${clientId}`);
  return client;
}

test(
  'wills go on with the next leader: of who is back in time none, of the others one',
  TIMEOUT,
  async (context) => {
    const { nodes, portOf } = await cluster(context, {
      settings: [`mqtt.reconnectGraceSeconds=${GRACE_SECONDS}`],
    });
    await nodes.startAll();
    const first = await nodes.waitForLeader();
    await nodes.waitForInSync(3);
    const [near, far] = nodes.names.filter((name) => name !== first) as [string, string];
    const watcher = await PlainClient.connect(portOf(near), 'watches', false);
    await watcher.subscribe('wills/#');
    const lost = [
      await mortal(portOf(first), 4, 'lost-clean', true),
      await mortal(portOf(first), 5, 'lost-durable', false),
    ];
    const back = await mortal(portOf(first), 5, 'back', false);

    const killedMs = performance.now();
    await nodes.kill(first);
    const isBack = mortal(portOf(near), 5, 'back', false);
    const second = await nodes.waitForLeader();
    const backAgain = await isBack;
    // Through the node that does not lead.
    const watcherAgain = await PlainClient.connect(portOf(second === near ? far : near), 'watches', false);
    assert.deepEqual(await topics(watcherAgain, lost.length), ['wills/lost-clean', 'wills/lost-durable']);
    assert.ok(performance.now() - killedMs >= 1000 * GRACE_SECONDS, 'they come when the grace is over');
    await delay(1000 * GRACE_SECONDS);
    assert.ok(await watcherAgain.publish('wills/end', 'of the second'));
    assert.deepEqual(await topics(watcherAgain, 1), ['wills/end']);

    // The third leader knows which are published, and that one is not yet.
    await nodes.start(first);
    await nodes.waitForInSync(3);
    await nodes.kill(second);
    const watcherLast = await PlainClient.connect(portOf(second === near ? far : near), 'watches', false);
    assert.deepEqual(await topics(watcherLast, 1), ['wills/back']);
    await delay(1000 * GRACE_SECONDS);
    assert.ok(await watcherLast.publish('wills/end', 'of the third'));
    assert.deepEqual(await topics(watcherLast, 1), ['wills/end']);
    for (const client of [watcher, ...lost, back, backAgain, watcherAgain, watcherLast]) client.close();
  },
);

/** Of the next messages, sorted. */
async function topics(client: PlainClient, count: number): Promise<(string | undefined)[]> {
  const seen: (string | undefined)[] = [];
  while (seen.length < count) seen.push((await client.message())?.topic);
  return seen.sort();
}

test(
  'without a leader a client waits, and is let in when there is one or refused',
  TIMEOUT,
  async (context) => {
    const { nodes, portOf } = await cluster(context);
    await nodes.start('a');
    const refusal = async (version: Version) => {
      const startMs = performance.now();
      const fields: ConnectFields = { clientId: `refused-${version}`, clean: true };
      const { client, connack } = await PlainClient.open(portOf('a'), version, fields);
      const ms = performance.now() - startMs;
      assert.ok(ms > REFUSED_MS_MIN && ms < REFUSED_MS_MAX, `${version} is answered after ${ms} ms`);
      assert.equal(await client.next('pingresp'), undefined, 'the connection is closed');
      return version === 5 ? connack?.reasonCode : connack?.returnCode;
    };
    assert.deepEqual(await Promise.all([refusal(5), refusal(4)]), [0x88, 3]);

    await nodes.start('b');
    const opening = ([5, 4] as const).flatMap((version) =>
      ['a', 'b'].map((name) =>
        PlainClient.open(portOf(name), version, { clientId: `waits-${version}-${name}`, clean: true }),
      ),
    );
    assert.equal(nodes.leader, undefined);
    await nodes.start('c');
    for (const { client, connack } of await Promise.all(opening)) {
      assert.equal(connack?.returnCode ?? connack?.reasonCode, 0, nodes.diagnostics());
      assert.ok(await client.publish('a', 'let in'));
      client.close();
    }
  },
);

test('while a leader drains, the clients of a member wait for the next one', TIMEOUT, async (context) => {
  // A member that is silent is waited for half as long, and the leader drains for as long as that keeps it from committing. Where that one was not heard of
  // again in time the next leader waits as long for the former one, which has to be over before the client is refused.
  const { nodes, portOf } = await cluster(context, { settings: ['cluster.leaseSeconds=6'] });
  await nodes.startAll();
  const first = await nodes.waitForLeader();
  await nodes.waitForInSync(3);
  const [near, frozen] = nodes.names.filter((name) => name !== first) as [string, string];
  const writer = await PlainClient.connect(portOf(first), 'writes');
  nodes.freeze(frozen);
  writer.send('a', 'committed while the leader drains');
  await writer.ping();
  const leader = nodes.broker(first)!;
  leader.signal('SIGTERM');
  await leader.said(/stopping on SIGTERM/);
  const opening = PlainClient.open(portOf(near), 4, { clientId: 'waits', clean: true });
  await Promise.race([leader.said(/"reason":"stopping"/), opening]);
  nodes.thaw(frozen);
  assert.notEqual(await writer.next('puback'), undefined);
  const { client, connack } = await opening;
  assert.equal(connack?.returnCode, 0, nodes.diagnostics());
  const { code, stderr } = await nodes.ended(first);
  assert.equal(code, 0, stderr);
  for (const one of [writer, client]) one.close();
});

test('a new member takes the place of dead ones, and has all that was before', TIMEOUT, async (context) => {
  const { nodes, etcd, portOf } = await cluster(context, {
    names: [...NAMES, 'd'],
    settings: [`cluster.replicas=${NAMES.length}`],
    // The last --http counts.
    underOf: () => ['sh', '-c', 'exec "$@" --http 127.0.0.1:0', 'sh'],
  });
  await Promise.all(NAMES.map((name) => nodes.start(name)));
  const leader = await nodes.waitForLeader();
  await nodes.waitForInSync(3);
  const [wiped, stopped] = NAMES.filter((name) => name !== leader) as [string, string];
  const reader = await PlainClient.connect(portOf(leader), 'reads', false);
  await reader.subscribe('kept');
  reader.close();
  const writer = await PlainClient.connect(portOf(leader), 'writes');
  assert.ok(await writer.publish('kept', 'with the first three'));

  const { http } = JSON.parse((await storedUnder(etcd, `members/${leader}`))!) as { http: string };
  const remove = (node: string) => gomqctl(words(`cluster remove ${node} --yes --http ${http}`));
  await nodes.kill(wiped);
  nodes.wipe(wiped);
  await nodes.waitForInSync(2);
  assert.ok(await writer.publish('kept', 'with two'));
  const out = await remove(wiped);
  assert.match(`${out.stdout}${out.stderr}`, OUT_ALREADY);

  // One disk is too few for an acknowledgement, so this one counts until another is there.
  await nodes.kill(stopped);
  const refused = await remove(stopped);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /only 1 would be in sync, and 2 have to be; start a node in its place/);
  assert.deepEqual([...nodes.inSync].sort(), [leader, stopped].sort());
  await nodes.start('d');
  await nodes.until('the new one is in sync', () => nodes.inSync.includes('d'));
  await nodes.until('the dead one is not waited for', () => !nodes.inSync.includes(stopped));
  const writerAgain = await PlainClient.connect(portOf('d'), 'writes');
  assert.ok(await writerAgain.publish('kept', 'with the new one'));
  const gone = await remove(stopped);
  assert.match(`${gone.stdout}${gone.stderr}`, OUT_ALREADY);

  await nodes.start(stopped);
  await nodes.waitForInSync(3);
  // The key of the wiped one lasts as long as its lease.
  await nodes.until('all is well', async () => {
    const { stdout } = await gomqctl(words(`cluster --http ${http}`));
    return stdout.endsWith(`: ${leader} leads, 3 of 3 in sync\n`);
  });
  await nodes.kill(leader);
  const readerAgain = await PlainClient.connect(portOf('d'), 'reads', false);
  for (const payload of ['with the first three', 'with two', 'with the new one']) {
    assert.deepEqual(await readerAgain.message(), { topic: 'kept', payload });
  }
  for (const client of [writer, writerAgain, readerAgain]) client.close();
});
