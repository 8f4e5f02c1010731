// Disks that fail under load, a member's and the leader's: that process says so and ends, the others go on without it, and it comes back with what it
// had kept and gets the rest.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { attachSkip, failFromNowOn } from '../faults/failing-disks.js';
import { type OwnFault, type Round, runFaults } from './rounds.js';

after(killAllBrokers);

const EXIT_DISK_FAILED = 74;
/** There is one, which everything goes to. */
const SEGMENT = '00000000000000000000.log';

/** @param injection as after strace's `-e inject=`; each thread counts for itself */
function fails(what: string, who: (round: Round) => string, injection: string, said: RegExp): OwnFault {
  return {
    what,
    async breaks(round) {
      const { nodes, leader, progress } = round;
      const name = who(round);
      await failFromNowOn(nodes.broker(name)!.pid, join(nodes.data(name), SEGMENT), injection);
      const { code, stderr } = await nodes.ended(name);
      assert.equal(code, EXIT_DISK_FAILED, stderr);
      assert.match(stderr, said);
      await nodes.until('the others go on', () => nodes.leader !== undefined);
      await progress();
      assert.equal(nodes.leader === leader, name !== leader);
      await nodes.start(name);
    },
  };
}

const leader = ({ leader }: Round) => leader;
const member = ({ members }: Round) => members[0];
const NOT_SYNCED = /"level":"error".*fdatasync of .*\.log failed: EIO/;
const NO_ROOM = /"level":"error".*write of .*\.log failed: ENOSPC/;

test(
  'nothing acknowledged is lost when disks fail',
  {
    skip: attachSkip(),
    timeout: 120_000,
  },
  (context) =>
    runFaults(context, [
      fails('fdatasync fails at the leader', leader, 'fdatasync:error=EIO:when=7', NOT_SYNCED),
      fails('fdatasync fails at a member', member, 'fdatasync:error=EIO:when=7', NOT_SYNCED),
      fails('no write finds room at the leader', leader, 'pwrite64:error=ENOSPC:when=7+', NO_ROOM),
      fails('no write finds room at a member', member, 'pwrite64:error=ENOSPC:when=7+', NO_ROOM),
    ]),
);
