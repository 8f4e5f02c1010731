// Takes records off the end of a log that nobody has open: what a member has that its leader has not (DESIGN R7). A crash in between leaves a log
// that ends at a later place, or between two segments: it is opened as ever, compared again, and cut again.
import { join } from 'node:path';
import { assert } from '../core/assert.js';
import { BatchReader } from './batch-reader.js';
import type { Disk } from './disk.js';
import { fileName, offsetsOf } from './file-names.js';
import { damageError, removeIfThere } from './recovery.js';

/**
 * Cuts the log so that it ends at `end`, which is where a batch begins or the log ends.
 * @returns how many bytes went
 * @throws {GomqError} DATA_DAMAGED; what the operating system answers
 */
export function cutLog(disk: Disk, directory: string, end: number): number {
  const bases = offsetsOf(disk.list(directory), 'log');
  assert(bases.length > 0 && bases[0]! <= end, `a log that begins at ${bases[0]} is cut at ${end}`);
  let bytesCut = 0;
  // The last one first, each gone for good before the next: a crash leaves no gap.
  while (bases.length > 1 && bases.at(-1)! >= end) {
    const base = bases.pop()!;
    const path = join(directory, fileName(base, 'log'));
    bytesCut += bytesOf(disk, path);
    removeIfThere(disk, join(directory, fileName(base, 'index')));
    disk.remove(path);
    disk.syncDirectory(directory);
  }
  const base = bases.at(-1)!;
  // It is to be written to, and an index of a segment that is written to does not stay true.
  removeIfThere(disk, join(directory, fileName(base, 'index')));
  disk.syncDirectory(directory);
  const path = join(directory, fileName(base, 'log'));
  const file = disk.open(path, 'write');
  try {
    const position = positionOf(new BatchReader(file, file.bytes), path, base, end);
    bytesCut += file.bytes - position;
    file.truncate(position);
    file.sync();
  } finally {
    file.close();
  }
  return bytesCut;
}

function bytesOf(disk: Disk, path: string): number {
  const file = disk.open(path, 'read');
  try {
    return file.bytes;
  } finally {
    file.close();
  }
}

/** Where in its segment the batch with the offset `end` would lie. */
function positionOf(reader: BatchReader, path: string, base: number, end: number): number {
  let position = 0;
  let reached = base;
  while (reached < end) {
    const batch = reader.read(position);
    if ('damage' in batch) throw damageError(path, position, `offsets from ${reached}`, batch.damage);
    reached = batch.header.lastOffset + 1;
    position += batch.bytes.length;
  }
  assert(reached === end, `the log is cut at ${end}, where no batch begins`);
  return position;
}
