import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Disk, nodeDisk } from '../../src/log/disk.js';
import { fileName } from '../../src/log/file-names.js';
import { SnapshotWriter } from '../../src/log/snapshot-file.js';
import { type Restored, restoreSealed, restoreSnapshot } from '../../src/state/restore.js';
import { batchOf, failingReads, logName, makeDirectory, zstd } from '../log/batches.js';

/** Two segments of ten records each that change no state, and empty snapshots up to 10 and 20. */
function makeData(): string {
  const directory = makeDirectory();
  for (const base of [0, 10, 20]) writeFileSync(join(directory, logName(base)), batchOf(base, 10));
  for (const end of [10, 20]) new SnapshotWriter(nodeDisk, directory, end, zstd).commit(1);
  return directory;
}

function restore(disk: Disk, directory: string): Restored & { warnings: string[] } {
  const warnings: string[] = [];
  const options = { internedTopics: 10, mayRead: undefined };
  const restored = restoreSnapshot(disk, directory, 30, zstd, options, (warning) => warnings.push(warning));
  return { ...restored, warnings };
}

test('the newest snapshot is the one', () => {
  const { offset, unusable, warnings } = restore(nodeDisk, makeData());
  assert.deepEqual([offset, unusable, warnings], [20, [], []]);
});

for (const operation of ['open', 'read'] as const) {
  test(`a snapshot where ${operation} fails gives way to the one before, with a warning that names it and the error`, () => {
    const directory = makeData();
    const path = join(directory, fileName(20, 'snapshot'));
    const { offset, unusable, warnings } = restore(failingReads(path, operation), directory);
    assert.deepEqual([offset, unusable, warnings.length], [10, [20], 1]);
    assert.ok(warnings[0]!.startsWith(`cannot read ${path}: EIO: i/o error`), warnings[0]);
  });
}

test('a segment that cannot be read does not give way', () => {
  const directory = makeData();
  const disk = failingReads(join(directory, logName(20)), 'read');
  assert.throws(() => restoreSealed(disk, directory, 30, zstd, () => undefined), /EIO/);
});
