// The thread that makes one snapshot: from the one before and the sealed segments after it, by the same rules as a restart. The thread that serves
// clients pays nothing, and the outcome depends on the log alone.
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { nodeDisk } from '../log/disk.js';
import { SnapshotWriter } from '../log/snapshot-file.js';
import { loadZstd, type Zstd } from '../log/zstd.js';
import { restoreSealed } from './restore.js';
import { writeSnapshot } from './snapshot.js';

export interface SnapshotOrder {
  readonly directory: string;
  /** The snapshot is of the state before this offset, which is the end of a sealed segment. */
  readonly endOffset: number;
  readonly isCompressed: boolean;
}

export interface SnapshotDone {
  readonly endOffset: number;
  readonly bytes: number;
  /** Over all records in their order: SHA-256. Equal logs make it equal, on whatever machine (DESIGN R12). */
  readonly hash: Uint8Array;
  /** Where older snapshots end that could not be read. */
  readonly unusable: readonly number[];
  /** What is wrong with them. */
  readonly warnings: readonly string[];
}

/** Offset and length of a record, before its bytes. */
const HASHED_HEAD_BYTES = 16;

function make({ directory, endOffset, isCompressed }: SnapshotOrder, zstd: Zstd): SnapshotDone {
  const warnings: string[] = [];
  const { state, timestampMs, unusable } = restoreSealed(nodeDisk, directory, endOffset, zstd, (warning) =>
    warnings.push(warning),
  );
  let bytes = 0;
  const hash = createHash('sha256');
  const head = Buffer.alloc(HASHED_HEAD_BYTES);
  const writer = new SnapshotWriter(nodeDisk, directory, endOffset, isCompressed ? zstd : undefined);
  try {
    writeSnapshot(state, timestampMs, (offset, record) => {
      bytes += record.length;
      head.writeDoubleLE(offset, 0);
      head.writeDoubleLE(record.length, 8);
      hash.update(head).update(record);
      writer.add(offset, record);
    });
    writer.commit(timestampMs);
  } catch (error) {
    writer.abort();
    throw error;
  }
  return { endOffset, bytes, hash: hash.digest(), unusable, warnings };
}

// What is thrown ends the thread, and the main thread is told.
void loadZstd().then((zstd) => parentPort!.postMessage(make(workerData as SnapshotOrder, zstd)));
