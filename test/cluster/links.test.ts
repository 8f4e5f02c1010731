// Links between brokers, and of brokers to etcd, that are cut under load: in one direction, in both, after a request and before its answer. Nothing
// that was acknowledged is lost, nothing of QoS 2 comes twice, and once all is mended writes go on.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { CuttableLink, type Direction } from './cuttable-link.js';
import { hasKey, startEtcd } from './etcd-process.js';
import type { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';
import { type OwnFault, runFaults } from './rounds.js';

after(killAllBrokers);

/** The first bytes of a link hold the name of who dials, and nothing else like it. */
const NAMES = ['north', 'south', 'west'];
/** Longer than a lease of a second. */
const BEYOND_LEASE_MS = 1500;
const BOTH: readonly Direction[] = ['there', 'back'];

/** How often a node has said that it does not lead any more, since its lease is over. */
function endsForWantOfLease(nodes: Nodes, node: string): number {
  const lines = nodes.broker(node)!.lines();
  return lines.filter(({ message }) => /stands down .* the lease was not renewed in time/.test(message))
    .length;
}

type Links = ReadonlyMap<string, CuttableLink>;

/** @param peers in front of each broker, where its members dial @param etcds from each broker to etcd */
function faults(peers: Links, etcds: Links): OwnFault[] {
  /** The link from one member to the leader is cut; the others go on without it. */
  const member = (what: string, directions: readonly Direction[], breaks: boolean): OwnFault => ({
    what,
    async breaks({ nodes, leader, members: [one, other], progress, moveOne }) {
      peers.get(leader)!.cut(directions, one);
      // Clients of the member wait until it is mended, and all publishers may be there.
      moveOne();
      await nodes.waitForInSync(2);
      assert.deepEqual([...nodes.inSync].sort(), [leader, other].sort());
      await progress();
      assert.equal(nodes.leader, leader);
      peers.get(leader)!.mend(breaks);
    },
  });
  /** The leader keeps its lease, so nobody takes its place, and it acknowledges nothing. */
  const leader = (what: string, directions: readonly Direction[], breaks: boolean): OwnFault => ({
    what,
    async breaks({ nodes, leader: former, standsStill }) {
      peers.get(former)!.cut(directions);
      await nodes.waitForInSync(2);
      await standsStill(BEYOND_LEASE_MS);
      assert.equal(nodes.leader, former);
      peers.get(former)!.mend(breaks);
    },
  });
  /** Another one leads as soon as the lease is over. */
  const replaced = (what: string, directions: readonly Direction[], isAlone: boolean): OwnFault => ({
    what,
    async breaks({ nodes, leader: former, progress }) {
      const client = await PlainClient.connect(nodes.broker(former)!.port, 'stays with the former leader');
      const toldBefore = endsForWantOfLease(nodes, former);
      etcds.get(former)!.cut(directions);
      if (isAlone) peers.get(former)!.cut(directions);
      await nodes.until('another one leads', () => nodes.leader !== former);
      await progress();
      // By itself, for nobody can tell it (R10).
      if (isAlone) await nodes.until('it stands down', () => endsForWantOfLease(nodes, former) > toldBefore);
      assert.equal(await client.next('pingresp'), undefined, 'its clients are closed');
      client.close();
      if (isAlone) peers.get(former)!.mend();
      etcds.get(former)!.mend();
    },
  });
  return [
    member('a member does not hear the leader', ['back'], false),
    member('the leader does not hear a member', ['there'], false),
    member('a member and the leader do not hear each other', BOTH, true),
    leader('the members do not hear the leader', ['back'], true),
    leader('the leader does not hear its members', ['there'], false),
    leader('the leader and its members do not hear each other', BOTH, false),
    replaced('the leader and etcd do not hear each other', BOTH, false),
    replaced('the leader does not hear etcd', ['back'], false),
    replaced('etcd does not hear the leader', ['there'], false),
    replaced('nobody hears the leader, and it hears nobody', BOTH, true),
    {
      what: 'a member and etcd do not hear each other',
      async breaks({ nodes, etcd, leader: former, members: [one], progress }) {
        const isKnown = () => hasKey(etcd, `members/${one}`);
        assert.ok(await isKnown());
        etcds.get(one)!.cut(BOTH);
        await nodes.until(`${one} is not known any more`, async () => !(await isKnown()));
        await progress();
        assert.equal(nodes.leader, former);
        etcds.get(one)!.mend(true);
        await nodes.until(`${one} is known again`, isKnown);
      },
    },
    {
      what: 'links end where a request came through and its answer has not',
      async breaks({ leader: former, nodes, progress }) {
        const link = peers.get(former)!;
        for (const count of [1, 2, 3, 5, 8]) {
          link.loseAnswers(count);
          await nodes.until('answers are lost', () => link.answersToLose === 0);
          await progress(100);
        }
      },
    },
  ];
}

test('nothing acknowledged is lost, whichever links are cut', { timeout: 120_000 }, async (context) => {
  const etcd = await startEtcd(context);
  const peers = new Map<string, CuttableLink>();
  const etcds = new Map<string, CuttableLink>();
  context.after(() => Promise.all([...peers.values(), ...etcds.values()].map((link) => link.close())));
  for (const name of NAMES) {
    peers.set(name, await CuttableLink.open());
    etcds.set(name, await CuttableLink.open(Number(new URL(etcd.endpoint).port)));
  }
  await runFaults(
    context,
    faults(peers, etcds),
    {
      etcd: (name) => `http://127.0.0.1:${etcds.get(name)!.port}`,
      names: NAMES,
      settingsOf(name) {
        const { host, port } = peers.get(name)!;
        return [`cluster.peer=127.0.0.1:${port}`, `cluster.advertise=${host}`];
      },
    },
    etcd,
  );
});
