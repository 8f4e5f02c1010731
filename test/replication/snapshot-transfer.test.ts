// What a member does with the pieces of a snapshot, and what is left of one that it gives up.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { SnapshotIntake } from '../../src/replication/snapshot-transfer.js';
import { emptySnapshot } from '../log/snapshots.js';
import { temporaryFolder } from '../support/temporary-folder.js';

/** Takes all, and writes nothing: there is never room. */
const FULL_DISK = '/dev/full';
const ENOUGH = (): number => Number.MAX_SAFE_INTEGER;
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
  const path = join(temporaryFolder(), 'incoming');
  // What is removed in the end is the link.
  symlinkSync(FULL_DISK, path);
  const intake = new SnapshotIntake(path, 10, 1000, ENOUGH);
  await assert.rejects(intake.write(Buffer.alloc(100)), { code: 'ENOSPC' });
  assert.equal(openCount(FULL_DISK), 1);
  await intake.abort();
  assert.equal(openCount(FULL_DISK), 0);
});

test('nothing is left on the disk of an intake that is given up', async () => {
  const folder = temporaryFolder();
  const intake = new SnapshotIntake(join(folder, 'incoming'), 10, 1000, ENOUGH);
  await intake.write(Buffer.alloc(100));
  assert.deepEqual(readdirSync(folder), ['incoming']);
  await intake.abort();
  assert.deepEqual(readdirSync(folder), []);
});

test('what stands where an intake was to write is left alone', async () => {
  const folder = temporaryFolder();
  const path = join(folder, 'incoming');
  mkdirSync(path);
  const intake = new SnapshotIntake(path, 10, 1000, ENOUGH);
  await assert.rejects(intake.write(Buffer.alloc(100)), { code: 'EISDIR' });
  await intake.abort();
  assert.deepEqual(readdirSync(folder), ['incoming']);
});

test('an intake that has all of it is done when it has found it whole, and keeps it', async () => {
  const folder = temporaryFolder();
  const path = join(folder, 'incoming');
  const bytes = emptySnapshot(10);
  const intake = new SnapshotIntake(path, 10, bytes.length, ENOUGH);
  void intake.write(bytes.subarray(0, 10));
  void intake.write(bytes.subarray(10));
  await intake.end();
  assert.deepEqual(readFileSync(path), bytes);
});

test('an intake does not end with what is no whole snapshot', async () => {
  const folder = temporaryFolder();
  const whole = emptySnapshot(10);
  const rotten = Buffer.from(whole);
  rotten[50]! ^= 1;
  for (const { bytes, endOffset, why } of [
    { bytes: rotten, endOffset: 10, why: /damaged at position 0: header CRC$/ },
    { bytes: whole.subarray(0, -1), endOffset: 10, why: /damaged at position 0: header cut short$/ },
    { bytes: whole, endOffset: 11, why: /damaged at position 0: it ends before offset 10$/ },
  ]) {
    const intake = new SnapshotIntake(join(folder, 'incoming'), endOffset, bytes.length, ENOUGH);
    void intake.write(bytes);
    await assert.rejects(intake.end(), { code: 'PEER_PROTOCOL', message: why });
    await intake.abort();
    assert.deepEqual(readdirSync(folder), []);
  }
});

test('a snapshot that there is no room for is refused before anything is written', async () => {
  const folder = temporaryFolder();
  const intake = new SnapshotIntake(join(folder, 'incoming'), 10, 1001, () => 1000);
  await assert.rejects(intake.write(Buffer.alloc(100)), {
    code: 'DISK_FULL',
    message: `the leader's snapshot takes 1001 bytes, and in ${folder} there is room for 1000`,
  });
  assert.deepEqual(readdirSync(folder), []);
  await intake.abort();
});

test('an intake takes no piece with nothing in it', async () => {
  const intake = new SnapshotIntake(join(temporaryFolder(), 'incoming'), 10, 1000, ENOUGH);
  assert.throws(() => intake.write(Buffer.alloc(0)), { code: 'PEER_PROTOCOL', message: /nothing in it/ });
  await intake.abort();
});
