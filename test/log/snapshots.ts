// Snapshots for tests, as the bytes of their files.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeDisk } from '../../src/log/disk.js';
import { fileName } from '../../src/log/file-names.js';
import { SnapshotWriter } from '../../src/log/snapshot-file.js';
import { temporaryFolder } from '../support/temporary-folder.js';

/** Of a state with nothing in it. */
export function emptySnapshot(endOffset: number): Buffer {
  const folder = temporaryFolder();
  new SnapshotWriter(nodeDisk, folder, endOffset, undefined).commit(1);
  return readFileSync(join(folder, fileName(endOffset, 'snapshot')));
}
