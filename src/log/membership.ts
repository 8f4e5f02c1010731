// What a data directory knows of the cluster it belongs to: which one, the highest epoch it has promised to (DESIGN R3, R11), the epochs of its
// log; and, without any promise and also where there is no cluster, how far the log was known to be committed.
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { readUint64, writeUint64 } from './batch-codec.js';
import {
  damagedFile,
  FILE_MODE,
  FORMAT,
  isCount,
  readable,
  readChecked,
  writeChecked,
} from './checked-file.js';
import type { EpochStart } from './epoch-history.js';

export const MEMBERSHIP_NAME = 'cluster.json';
export const COMMITTED_NAME = 'committed';
const COMMITTED_BYTES = 12;

export interface Membership {
  readonly clusterId: string;
  /** The highest in which it has acknowledged, or may have. */
  readonly epoch: number;
  readonly starts: readonly EpochStart[];
  /** The end of its log was torn, and has not been compared with that of a leader since: something acknowledged may be missing. */
  readonly isSuspect: boolean;
}

/** @throws {GomqError} DATA_DAMAGED, DATA_VERSION, DATA_UNREADABLE */
export function readMembership(path: string): Membership | undefined {
  const fields = readable(path, () => readChecked(path, MEMBERSHIP_NAME));
  if (fields === undefined) return undefined;
  const { clusterId, epoch, starts, suspect } = fields;
  if (typeof clusterId !== 'string' || !isCount(epoch) || !Array.isArray(starts) || !starts.every(isPair)) {
    throw damagedFile(path, MEMBERSHIP_NAME, 'a field is missing');
  }
  return {
    clusterId,
    epoch,
    starts: starts.map(([first, start]) => ({ epoch: first, start })),
    isSuspect: suspect === true,
  };
}

/** On disk when it returns. @throws {GomqError} DATA_UNREADABLE */
export function writeMembership(path: string, membership: Membership): void {
  const { clusterId, epoch, starts, isSuspect } = membership;
  const pairs = starts.map(({ epoch: first, start }) => [first, start]);
  readable(path, () =>
    writeChecked(path, MEMBERSHIP_NAME, {
      format: FORMAT,
      clusterId,
      epoch,
      starts: pairs,
      suspect: isSuspect,
    }),
  );
}

function isPair(value: unknown): value is [number, number] {
  return Array.isArray(value) && value.length === 2 && value.every(isCount);
}

/** One past what was known to be committed, or 0: it is only ever too low, and what is too low costs time. */
export function readCommitted(path: string): number {
  let bytes: Buffer;
  try {
    bytes = readFileSync(join(path, COMMITTED_NAME));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
  if (bytes.length !== COMMITTED_BYTES || crc32(bytes.subarray(0, 8)) !== bytes.readUInt32LE(8)) return 0;
  const committed = readUint64(bytes, 0);
  return Number.isNaN(committed) ? 0 : committed;
}

/** Not on disk when it returns, but on its way. */
export function writeCommitted(path: string, committed: number): void {
  const bytes = Buffer.alloc(COMMITTED_BYTES);
  writeUint64(bytes, committed, 0);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 8)), 8);
  const fd = openSync(join(path, COMMITTED_NAME), 'a+', FILE_MODE);
  closeSync(fd);
  const file = openSync(join(path, COMMITTED_NAME), 'r+');
  try {
    writeSync(file, bytes, 0, bytes.length, 0);
  } finally {
    closeSync(file);
  }
}
