// From files to state: the newest snapshot that is whole, and the records of the log after it. A snapshot that is damaged or cannot be read gives
// way to the one before it; a log does not.
import { join } from 'node:path';
import { GomqError } from '../core/errors.js';
import { decodePayload, prefixBytes, recordPositions } from '../log/batch-codec.js';
import { BatchFlag } from '../log/batch-format.js';
import { BatchReader } from '../log/batch-reader.js';
import type { Disk } from '../log/disk.js';
import { fileName, offsetsOf } from '../log/file-names.js';
import type { RecordSlice } from '../log/log.js';
import { damageError } from '../log/recovery.js';
import { listSnapshots, readSnapshot } from '../log/snapshot-file.js';
import type { Zstd } from '../log/zstd.js';
import { applyRecord } from './apply.js';
import { State, type StateOptions } from './state.js';

/** Topics that a restore keeps at hand: hardly any comes twice. */
const INTERNED_TOPICS = 1000;

export interface Restored {
  readonly state: State;
  /** Everything below is applied. */
  readonly offset: number;
  /** Where the newer snapshots end, which cannot be used. */
  readonly unusable: readonly number[];
}

/**
 * The newest whole snapshot that ends at or before `offsetMax`, or an empty state at offset 0.
 * @param onWarning told of each snapshot that is damaged or cannot be read
 */
export function restoreSnapshot(
  disk: Disk,
  directory: string,
  offsetMax: number,
  zstd: Zstd,
  options: StateOptions,
  onWarning: (warning: string) => void,
): Restored {
  const unusable: number[] = [];
  for (const { path, endOffset } of listSnapshots(disk, directory)) {
    if (endOffset > offsetMax) {
      onWarning(`${path} is of offset ${endOffset}, and the log ends at ${offsetMax}: it is left out`);
      continue;
    }
    const state = new State(options);
    try {
      // The whole file is checked before the first record comes out.
      readSnapshot(disk, path, zstd, (record) => applyRecord(state, record));
      return { state, offset: endOffset, unusable };
    } catch (error) {
      const isOfFile =
        error instanceof GomqError && (error.code === 'DATA_DAMAGED' || error.code === 'DATA_UNREADABLE');
      if (!isOfFile) throw error;
      onWarning(`${error.message}; an older snapshot or the log itself is used instead`);
      unusable.push(endOffset);
    }
  }
  return { state: new State(options), offset: 0, unusable };
}

/**
 * The state before `endOffset`, the end of a sealed segment, from files alone.
 * @returns with the time of the last batch, milliseconds since the Unix epoch, and where snapshots end that cannot be used
 * @throws {GomqError} DATA_DAMAGED, DATA_UNREADABLE
 */
export function restoreSealed(
  disk: Disk,
  directory: string,
  endOffset: number,
  zstd: Zstd,
  onWarning: (warning: string) => void,
): { state: State; timestampMs: number; unusable: readonly number[] } {
  const options = { internedTopics: INTERNED_TOPICS, mayRead: undefined };
  const { state, offset, unusable } = restoreSnapshot(disk, directory, endOffset, zstd, options, onWarning);
  const segments = offsetsOf(disk.list(directory), 'log').filter((base) => base < endOffset);
  let timestampMs = 0;
  let reached = offset;
  for (let i = 0; i < segments.length; i++) {
    const base = segments[i]!;
    const next = segments[i + 1];
    if (next !== undefined && next <= reached) continue;
    const path = join(directory, fileName(base, 'log'));
    if (base > reached) {
      throw damageError(path, 0, `offsets ${reached} to ${base - 1}`, 'the segment before it is missing');
    }
    const file = disk.open(path, 'read');
    try {
      const reader = new BatchReader(file, file.bytes);
      ({ reached, timestampMs } = applySegment(reader, path, reached, endOffset, zstd, state, timestampMs));
    } finally {
      file.close();
    }
  }
  if (reached !== endOffset) {
    const path = join(directory, fileName(segments.at(-1) ?? 0, 'log'));
    throw damageError(path, 0, `offsets ${reached} to ${endOffset - 1}`, 'they are missing');
  }
  return { state, timestampMs, unusable };
}

function applySegment(
  reader: BatchReader,
  path: string,
  from: number,
  endOffset: number,
  zstd: Zstd,
  state: State,
  timestampBefore: number,
): { reached: number; timestampMs: number } {
  let reached = from;
  let timestampMs = timestampBefore;
  for (let position = 0; position < reader.fileBytes && reached < endOffset; ) {
    const batch = reader.read(position);
    if ('damage' in batch) {
      // Behind the last batch of a segment nothing follows but what was made room for.
      if (reader.endOfData(position) === position) break;
      throw damageError(path, position, `offsets from ${reached}`, batch.damage);
    }
    const { header, bytes } = batch;
    position += bytes.length;
    if (header.lastOffset < reached) continue;
    timestampMs = header.timestampMs;
    reached = header.lastOffset + 1;
    if ((header.flags & BatchFlag.State) === 0) continue;
    const payload = decodePayload(zstd, header, bytes);
    if ('damage' in payload) {
      const offsets = `offsets ${header.baseOffset} to ${header.lastOffset}`;
      throw damageError(path, position - bytes.length, offsets, payload.damage);
    }
    applyBatch(state, payload, recordPositions(header, payload), header.baseOffset, from);
  }
  return { reached, timestampMs };
}

const slice: RecordSlice = { offset: 0, buffer: Buffer.alloc(0), start: 0, end: 0 };

function applyBatch(
  state: State,
  payload: Buffer,
  positions: Uint32Array,
  baseOffset: number,
  from: number,
): void {
  const prefix = prefixBytes(0);
  slice.buffer = payload;
  for (let i = 0; i + 1 < positions.length; i++) {
    slice.offset = baseOffset + i;
    if (slice.offset < from) continue;
    slice.start = positions[i]!;
    slice.end = positions[i + 1]! - prefix;
    applyRecord(state, slice);
  }
}
