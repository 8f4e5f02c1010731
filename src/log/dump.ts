// Reads the records of a log in order, for people: it changes nothing, takes no lock, and goes on behind damage.
import { join } from 'node:path';
import { prefixBytes, recordPositions } from './batch-codec.js';
import { BatchReader } from './batch-reader.js';
import type { Disk, DiskFile } from './disk.js';
import { fileName, offsetsOf } from './file-names.js';
import type { RecordSlice } from './log.js';
import { type WalkStep, walkSegment } from './segment-walk.js';
import { type Finding, readable } from './verify.js';
import type { Zstd } from './zstd.js';

export interface DumpedBatch {
  readonly epoch: number;
  readonly timestampMs: number;
  /** The same object for one record after the other. */
  readonly records: Iterable<RecordSlice>;
}

export interface DumpOptions {
  readonly disk: Disk;
  readonly zstd: Zstd;
  readonly fromOffset: number;
  readonly onFinding: (finding: Finding) => void;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/**
 * Batch after batch, from the one that holds `fromOffset` on, without the records before it.
 * @throws {GomqError} DATA_UNREADABLE
 */
export function* dumpLog(directory: string, options: DumpOptions): Generator<DumpedBatch, void, void> {
  const { disk, zstd, fromOffset, onFinding, onProgress } = options;
  const bases = offsetsOf(
    readable(directory, () => disk.list(directory)),
    'log',
  );
  const first = Math.max(
    0,
    bases.findLastIndex((base) => base <= fromOffset),
  );
  const paths = bases.map((base) => join(directory, fileName(base, 'log')));
  const sizes = paths.map((path) => openIfThere(disk, path, (file) => file.bytes) ?? 0);
  const totalBytes = sizes.slice(first).reduce((sum, bytes) => sum + bytes, 0);
  let doneBytes = 0;
  let epoch = 0;
  for (let i = first; i < bases.length; i++) {
    const path = paths[i]!;
    const file = readable(path, () => openFile(disk, path));
    // Retention has removed it meanwhile.
    if (file === undefined) continue;
    try {
      const reader = new BatchReader(file, file.bytes);
      const [baseOffset, nextOffset] = [bases[i]!, bases[i + 1]];
      for (const step of walkSegment({
        reader,
        zstd,
        baseOffset,
        nextOffset,
        epochBefore: epoch,
        fromOffset,
      })) {
        onProgress?.(doneBytes + step.position, totalBytes);
        if (step.kind === 'damage') {
          const { position, what, toOffset } = step;
          const offsets = { fromOffset: step.fromOffset, ...(toOffset === undefined ? {} : { toOffset }) };
          onFinding({ kind: 'damage', file: path, position, what, ...offsets });
        } else if (step.kind !== 'tail') {
          epoch = step.header.epoch;
          const { timestampMs } = step.header;
          if (step.kind === 'batch') yield { epoch, timestampMs, records: recordsOf(step, fromOffset) };
        }
      }
    } finally {
      file.close();
    }
    doneBytes += sizes[i]!;
  }
}

function* recordsOf(
  { header, payload }: Extract<WalkStep, { kind: 'batch' }>,
  fromOffset: number,
): Generator<RecordSlice, void, void> {
  const positions = recordPositions(header, payload);
  const prefix = prefixBytes(header.flags);
  const slice: RecordSlice = { offset: 0, buffer: payload, start: 0, end: 0 };
  for (let i = Math.max(0, fromOffset - header.baseOffset); i < header.recordCount; i++) {
    slice.offset = header.baseOffset + i;
    slice.start = positions[i]!;
    slice.end = positions[i + 1]! - prefix;
    yield slice;
  }
}

function openFile(disk: Disk, path: string): DiskFile | undefined {
  try {
    return disk.open(path, 'read');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function openIfThere<T>(disk: Disk, path: string, work: (file: DiskFile) => T): T | undefined {
  return readable(path, () => {
    const file = openFile(disk, path);
    if (file === undefined) return undefined;
    try {
      return work(file);
    } finally {
      file.close();
    }
  });
}
