// Directories and names under load: nodes that come back in every order after one was left alone, emptied directories under their old names, two
// processes on one directory, two nodes with one name.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { hasKey } from './etcd-process.js';
import { type OwnFault, type Round, runFaults } from './rounds.js';

after(killAllBrokers);

/** Of three nodes, the leader first: which are killed and in which order they come back; the third stays. */
const ORDERS = [
  [0, 1],
  [1, 0],
  [0, 2],
  [2, 0],
  [1, 2],
  [2, 1],
] as const;
const WHO = ['the leader', 'a member', 'the other member'] as const;

function leftAlone([first, second]: (typeof ORDERS)[number]): OwnFault {
  return {
    what: `two are killed, ${WHO[first]} comes back, then ${WHO[second]}`,
    async breaks({ nodes, leader, members, standsStill, progress }) {
      const names = [leader, ...members];
      await Promise.all([nodes.kill(names[first]!), nodes.kill(names[second]!)]);
      await standsStill();
      await nodes.start(names[first]!);
      await progress();
      await nodes.start(names[second]!);
    },
  };
}

function isKilledAndEmptied(what: string, who: (round: Round) => string): OwnFault {
  return {
    what,
    async breaks(round) {
      const { nodes, progress } = round;
      const name = who(round);
      await nodes.kill(name);
      nodes.wipe(name);
      await nodes.start(name);
      await progress();
    },
  };
}

/** @param another where it is not the directory of the node */
function isDoubled(what: string, who: (round: Round) => string, said: RegExp, another?: string): OwnFault {
  return {
    what,
    async breaks(round) {
      const { nodes, leader, progress } = round;
      const name = who(round);
      const double = nodes.double(name, another ?? nodes.data(name));
      const { code } = await double.ended();
      assert.notEqual(code, 0, double.stderr);
      assert.match(double.stderr, said);
      await progress();
      assert.equal(nodes.leader, leader);
      assert.equal(nodes.inSync.length, 3);
    },
  };
}

const isLeader = ({ leader }: Round) => leader;
const isMember = ({ members }: Round) => members[0];

const ALL_BUT_ONE_EMPTIED: OwnFault = {
  what: 'all are killed, and all but one emptied: nobody leads before that one',
  async breaks({ nodes, etcd, leader, members, standsStill }) {
    const whole = members[0];
    const emptied = [leader, members[1]];
    await Promise.all(nodes.names.map((name) => nodes.kill(name)));
    for (const name of emptied) nodes.wipe(name);
    await Promise.all(emptied.map((name) => nodes.start(name)));
    await nodes.until('the lease of the former leader is over', async () => !(await hasKey(etcd, 'leader')));
    // Nobody stands in their way any more.
    await standsStill();
    assert.equal(nodes.leader, undefined);
    await nodes.start(whole);
    assert.equal(await nodes.waitForLeader(), whole);
  },
};

test('nothing acknowledged is lost, whichever directories come back', {
  timeout: 120_000,
}, async (context) => {
  const folder = temporaryFolder();
  const locked = /is held by process \d+/;
  const namesake = /another node called '[abc]' is in the cluster/;
  await runFaults(
    context,
    [
      ...ORDERS.map(leftAlone),
      isKilledAndEmptied('the directory of the leader is emptied', isLeader),
      ALL_BUT_ONE_EMPTIED,
      isDoubled('a second process on the directory of the leader', isLeader, locked),
      isDoubled('a second process on the directory of a member', isMember, locked),
      isDoubled('a second node with the name of the leader', isLeader, namesake, join(folder, 'x')),
    ],
    { folder, settings: ['cluster.leaseSeconds=1', 'log.segmentBytes=262144'] },
  );
});
