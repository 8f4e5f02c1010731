// The time of day jumps by an hour under load, ahead and back, at the leader and at a member: nothing that a cluster promises hangs on it.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import type { Nodes } from './nodes.js';
import { type OwnFault, type Round, runFaults } from './rounds.js';

after(killAllBrokers);

const HOUR_MS = 3_600_000;
/** Takes about as long as the lease, so that it is renewed meanwhile. */
const LONG = 3000;

test('nothing acknowledged is lost when clocks jump', { timeout: 120_000 }, async (context) => {
  const folder = temporaryFolder();
  const file = (name: string) => join(folder, `${name}.shift`);
  let jumps = 0;
  const shift = async (nodes: Nodes, name: string, hours: number): Promise<void> => {
    // No two the same, so that what is said is said of this one.
    const ms = hours * HOUR_MS + ++jumps;
    writeFileSync(file(name), String(ms));
    const broker = nodes.broker(name)!;
    broker.signal('SIGUSR2');
    await broker.said(new RegExp(`the clock is shifted by ${ms} ms`));
  };
  /** And back again. */
  const jump = (what: string, who: (round: Round) => string, hours: number): OwnFault => ({
    what,
    async breaks(round) {
      const { nodes, leader, progress } = round;
      for (const by of [hours, 0]) {
        await shift(nodes, who(round), by);
        await progress(LONG);
        assert.equal(nodes.leader, leader);
        assert.equal(nodes.inSync.length, 3);
      }
    },
  });
  await runFaults(
    context,
    [
      jump('the clock of the leader jumps ahead', ({ leader }) => leader, 1),
      jump('the clock of the leader jumps back', ({ leader }) => leader, -1),
      jump('the clock of a member jumps ahead', ({ members }) => members[0], 1),
      jump('the clock of a member jumps back', ({ members }) => members[0], -1),
      {
        what: 'the clock is an hour ahead, and another one leads whose clock is not',
        async breaks({ nodes, leader, progress }) {
          await shift(nodes, leader, 1);
          await progress();
          await nodes.kill(leader);
          await progress();
          await nodes.start(leader);
        },
      },
    ],
    {
      folder,
      // What was kept is an hour old at once: it may only go where no session needs it.
      settings: ['cluster.leaseSeconds=1', 'log.segmentBytes=524288', 'log.retentionHours=1'],
      underOf: (name) => [
        'env',
        `NODE_OPTIONS=--import=${new URL('shifted-clock.mjs', import.meta.url).href}`,
        `SHIFTED_CLOCK=${file(name)}`,
      ],
    },
  );
});
