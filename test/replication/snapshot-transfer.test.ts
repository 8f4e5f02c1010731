// What a member does with the pieces of a snapshot, and what is left of one that it gives up.
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { SnapshotIntake } from '../../src/replication/snapshot-transfer.js';

/** Takes all, and writes nothing: there is never room. */
const FULL_DISK = '/dev/full';
const IS_LINUX = process.platform === 'linux';

/** How often this process has a file open. */
function openCount(path: string): number {
  return readdirSync('/proc/self/fd').filter((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`) === path;
    } catch {
      // The folder itself, which is closed again.
      return false;
    }
  }).length;
}

test('an intake whose file cannot be written to has closed it when it is given up', {
  skip: !IS_LINUX && 'only Linux shows what is open',
}, async () => {
  const intake = new SnapshotIntake(FULL_DISK, 10, 1000);
  await assert.rejects(intake.write(Buffer.alloc(100)), { code: 'ENOSPC' });
  assert.equal(openCount(FULL_DISK), 1);
  await intake.abort();
  assert.equal(openCount(FULL_DISK), 0);
});
