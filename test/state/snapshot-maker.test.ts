import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { nodeDisk } from '../../src/log/disk.js';
import { fileName, offsetsOf } from '../../src/log/file-names.js';
import { SnapshotWriter } from '../../src/log/snapshot-file.js';
import { restoreSnapshot } from '../../src/state/restore.js';
import { SnapshotMaker } from '../../src/state/snapshot-maker.js';
import { batchOf, logName, makeDirectory, rememberingLogger, zstd } from '../log/batches.js';

/** Segments of ten records each that change no state, four of them sealed, and empty snapshots up to these offsets. */
function makeData(...snapshots: number[]): string {
  const directory = makeDirectory();
  for (const base of [0, 10, 20, 30, 40]) writeFileSync(join(directory, logName(base)), batchOf(base, 10));
  for (const end of snapshots) new SnapshotWriter(nodeDisk, directory, end, zstd).commit(1);
  return directory;
}

function damage(directory: string, snapshot: number): void {
  const path = join(directory, fileName(snapshot, 'snapshot'));
  const bytes = readFileSync(path);
  bytes[20]! ^= 1;
  writeFileSync(path, bytes);
}

const snapshotsIn = (directory: string): number[] => offsetsOf(readdirSync(directory), 'snapshot');

/** As the start of a broker makes it. */
function makerOf(directory: string): { maker: SnapshotMaker; warnings: string[] } {
  const warnings: string[] = [];
  const stateOptions = { internedTopics: 10, mayRead: undefined };
  const { unusable } = restoreSnapshot(nodeDisk, directory, 50, zstd, stateOptions, (warning) =>
    warnings.push(warning),
  );
  const logger = { ...rememberingLogger(), warn: (message: string) => void warnings.push(message) };
  return { maker: new SnapshotMaker({ directory, isCompressed: true, logger, unusable }), warnings };
}

async function seal(maker: SnapshotMaker, endOffset: number): Promise<void> {
  maker.onSeal(endOffset, 1_000_000);
  await maker.settled();
}

test('the two newest snapshots are kept, and the log from the older one on', async () => {
  const directory = makeData(10, 20);
  const { maker, warnings } = makerOf(directory);
  assert.equal(maker.floor, 10);
  await seal(maker, 30);
  assert.deepEqual([snapshotsIn(directory), maker.floor, warnings], [[20, 30], 20, []]);
});

test('a snapshot that was damaged at the start is none of the two, and goes when the next one is there', async () => {
  const directory = makeData(10, 20);
  damage(directory, 20);
  const { maker, warnings } = makerOf(directory);
  assert.match(warnings.join(), /00020\.snapshot is damaged/);
  assert.deepEqual([snapshotsIn(directory), maker.floor], [[10, 20], 0]);
  await seal(maker, 30);
  assert.deepEqual([snapshotsIn(directory), maker.floor], [[10, 30], 10]);
  await seal(maker, 40);
  assert.deepEqual([snapshotsIn(directory), maker.floor], [[30, 40], 30]);
});

test('a snapshot that turns out to be damaged when the next one is made is none of the two', async () => {
  const directory = makeData(10, 20);
  const { maker, warnings } = makerOf(directory);
  damage(directory, 20);
  await seal(maker, 30);
  assert.match(warnings.join(), /00020\.snapshot is damaged/);
  assert.deepEqual([snapshotsIn(directory), maker.floor], [[10, 30], 10]);
});
