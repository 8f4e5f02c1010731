// Owns where the brokers under test keep their data: one folder of this run on a real disk, removed at the end however the run ends; what
// lies in it; and what the disk itself takes for a write.
import {
  closeSync,
  fdatasyncSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { decodeHeader } from '../src/log/batch-codec.js';
import { BATCH_HEADER_BYTES } from '../src/log/batch-format.js';
import { median } from './statistics.js';

/** Nothing that is kept there survives a crash of the machine, so an fsync costs nothing. */
const IN_MEMORY = new Set(['tmpfs', 'ramfs']);

let parent = '.cache/bench';
let root: string | undefined;

/** Where the folder of this run will be made. */
export function useDataFolder(folder: string): void {
  parent = folder;
}

/**
 * A new folder for one broker.
 * @throws {Error} where it would lie in memory
 */
export function newDataFolder(): string {
  root ??= makeRoot();
  return mkdtempSync(join(root, 'data-'));
}

export function removeDataFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
}

/** Removes all that this run has left on disk. No process may use it any more. */
export function removeAllData(): void {
  if (root !== undefined) rmSync(root, { recursive: true, force: true });
}

function makeRoot(): string {
  mkdirSync(parent, { recursive: true });
  removeOrphans();
  const type = fileSystem();
  if (type !== undefined && IN_MEMORY.has(type)) {
    throw new Error(`${parent} lies in memory (${type}), which is no disk: name another folder with --data`);
  }
  const folder = join(realpathSync(parent), `run-${process.pid}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  return folder;
}

/** What runs left that were killed. */
function removeOrphans(): void {
  for (const name of readdirSync(parent)) {
    const match = /^run-(\d+)$/.exec(name);
    if (match !== null && !isAlive(Number(match[1]))) {
      rmSync(join(parent, name), { recursive: true, force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** The type of the file system that the data lies on, `ext4`; undefined where /proc does not tell. */
export function fileSystem(): string | undefined {
  try {
    const path = `${realpathSync(parent)}/`;
    const mounts = readFileSync('/proc/mounts', 'utf8')
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .filter(([, point = '']) => path.startsWith(point.endsWith('/') ? point : `${point}/`));
    // The longest that matches; of two on one point the later one, which hides the other.
    const found = mounts.reduce<string[] | undefined>(
      (best, one) => (best === undefined || one[1]!.length >= best[1]!.length ? one : best),
      undefined,
    );
    return found?.[2];
  } catch {
    return undefined;
  }
}

/** @throws {Error} where fewer bytes are free */
export function demandSpace(bytes: number): void {
  mkdirSync(parent, { recursive: true });
  const { bavail, bsize } = statfsSync(parent);
  const free = bavail * bsize;
  if (free >= bytes) return;
  const gb = (value: number) => (value / 1e9).toFixed(1);
  throw new Error(`it needs ${gb(bytes)} GB of disk and ${gb(free)} GB are free`);
}

export interface StoredLog {
  segments: number;
  batches: number;
  records: number;
  /** Of the batches, header and payload. */
  storedBytes: number;
  /** Of the payloads before they were compressed. */
  uncompressedBytes: number;
  snapshots: number;
  snapshotBytes: number;
}

/** What a data folder holds, from the headers of the batches. Exact where nothing is being written. */
export function readStoredLog(folder: string): StoredLog {
  const log: StoredLog = {
    segments: 0,
    batches: 0,
    records: 0,
    storedBytes: 0,
    uncompressedBytes: 0,
    snapshots: 0,
    snapshotBytes: 0,
  };
  const header = Buffer.alloc(BATCH_HEADER_BYTES);
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (name.endsWith('.snapshot')) {
      log.snapshots++;
      log.snapshotBytes += statSync(path).size;
    }
    if (!name.endsWith('.log')) continue;
    log.segments++;
    const file = openSync(path, 'r');
    try {
      for (let position = 0; readSync(file, header, 0, header.length, position) === header.length; ) {
        const batch = decodeHeader(header, 0);
        // Zeros that the next batch will be written over.
        if ('damage' in batch) break;
        const bytes = BATCH_HEADER_BYTES + batch.storedBytes;
        position += bytes;
        log.batches++;
        log.records += batch.recordCount;
        log.storedBytes += bytes;
        log.uncompressedBytes += batch.uncompressedBytes;
      }
    } finally {
      closeSync(file);
    }
  }
  return log;
}

/** How far ahead gomq fills the file with zeros, src/log/segment-writer.ts. */
const AHEAD_BYTES = 1024 * 1024;
const BASELINE_WARMUP_WRITES = 50;

/**
 * Median milliseconds of one write of `bytes` and an fdatasync, for `seconds`.
 * @param isAhead the file is as long as it will be before it is written to, as gomq does it; else each write makes it longer
 */
export async function measureWrites(bytes: number, seconds: number, isAhead: boolean): Promise<number> {
  const folder = newDataFolder();
  const file = openSync(join(folder, 'writes'), 'w');
  const block = Buffer.alloc(bytes, 0xa5);
  const times: number[] = [];
  try {
    if (isAhead) {
      writeSync(file, Buffer.alloc(AHEAD_BYTES));
      fsyncSync(file);
    }
    const until = performance.now() + seconds * 1000;
    let position = 0;
    for (let count = 0; count < 2 * BASELINE_WARMUP_WRITES || performance.now() < until; count++) {
      if (isAhead && position + bytes > AHEAD_BYTES) position = 0;
      const from = performance.now();
      writeSync(file, block, 0, bytes, position);
      fdatasyncSync(file);
      if (count >= BASELINE_WARMUP_WRITES) times.push(performance.now() - from);
      position += bytes;
      // An interrupt is noticed.
      if (count % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    closeSync(file);
    removeDataFolder(folder);
  }
  return median(times);
}
