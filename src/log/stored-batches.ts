// Reads the files of a log batch by batch: what the members of a cluster are sent, what a start replays, where a time is.
import { assert } from '../core/assert.js';
import type { GomqError } from '../core/errors.js';
import { decodeHeader, decodePayload, recordPositions } from './batch-codec.js';
import { BatchFlag, RECORD_LENGTH_BYTES } from './batch-format.js';
import type { RecordSlice } from './log.js';
import type { LogReads } from './log-reads.js';
import { damageError } from './recovery.js';
import type { IndexSummary, SegmentIndex } from './segment-index.js';
import type { Segments } from './segments.js';
import type { Zstd } from './zstd.js';

/** A replay lets others have their turn after this long. */
const REPLAY_TURN_MS = 10;
const REPLAY_READ_BYTES = 1024 * 1024;

const NOTHING = Buffer.alloc(0);

/** Topics that records are about; undefined: any. */
export type BatchTopics = ReadonlySet<string> | undefined;

/** A whole batch as it lies in a file. */
export interface EncodedBatch {
  readonly baseOffset: number;
  /** One past its last record. */
  readonly endOffset: number;
  readonly bytes: Buffer;
  readonly topics: BatchTopics;
}

export interface StoredBatchesOptions {
  readonly segments: Segments;
  readonly reads: LogReads;
  readonly zstd: Zstd;
}

export class StoredBatches {
  readonly #segments: Segments;
  readonly #reads: LogReads;
  readonly #zstd: Zstd;

  constructor({ segments, reads, zstd }: StoredBatchesOptions) {
    this.#segments = segments;
    this.#reads = reads;
    this.#zstd = zstd;
  }

  /**
   * Batches as they lie on disk, from `from` on, which is where one begins and below the end of what is on disk: as many as both limits allow, one at
   * least. They are not looked at: whoever gets them checks them.
   * @returns undefined where the log begins later by now
   * @throws what the operating system answers; {GomqError} DATA_DAMAGED where neither the index nor the headers tell of them
   */
  async read(from: number, bytesMax: number, batchesMax: number): Promise<EncodedBatch[] | undefined> {
    if (from < this.#segments.startOffset) return undefined;
    const segment = this.#segments.find(from);
    const index = this.#segments.index(segment.baseOffset) ?? (await this.#load(segment));
    if (from < this.#segments.startOffset) return undefined;
    if (from >= index.endOffset) {
      const { baseOffset, endOffset } = segment;
      const offsets = `offsets ${index.endOffset} to ${endOffset - 1}`;
      throw damageError(this.#segments.path(baseOffset), index.storedBytes, offsets, 'no batch');
    }
    const first = index.batchOf(from);
    assert(index.base(first) === from, `a batch begins at ${from}`);
    const start = index.position(first);
    const end = endOfRead(index, first, bytesMax, (batch) => batch < first + batchesMax);
    const bytes = await this.#reads.read(
      this.#segments.path(segment.baseOffset),
      start,
      lengthOf(index, first, end),
    );
    const batches: EncodedBatch[] = [];
    for (let batch = first; batch < end; batch++) {
      const at = index.position(batch) - start;
      const ids = index.topicIds(batch);
      batches.push({
        baseOffset: index.base(batch),
        endOffset: index.end(batch),
        bytes: bytes.subarray(at, at + index.batchBytes(batch)),
        topics: ids === undefined ? undefined : new Set(Array.from(ids, (id) => index.dictionary[id]!)),
      });
    }
    return batches;
  }

  /** Of the first batch that is as late as that, `timestampMs` since 1970; the end of the log where none is. */
  async offsetAt(timestampMs: number): Promise<number> {
    const segment = this.#segments.sealed.find(({ lastTimestampMs }) => lastTimestampMs >= timestampMs);
    const { baseOffset } = segment ?? this.#segments.active;
    let index = this.#segments.index(baseOffset);
    if (index === undefined) {
      assert(segment !== undefined, 'the active segment has its index');
      index = await this.#load(segment);
      // It went in the meantime.
      if (baseOffset < this.#segments.startOffset) return this.#segments.startOffset;
    }
    for (let batch = 0; batch < index.batchCount; batch++) {
      if (index.timestampMs(batch) >= timestampMs) return index.base(batch);
    }
    return index.endOffset;
  }

  /**
   * Hands out the records [from, to), but for batches in which none changes state. The slice and its bytes are only there during the call.
   * @throws {GomqError} DATA_DAMAGED
   */
  async replay(
    from: number,
    to: number,
    onRecord: (slice: RecordSlice) => void,
    onProgress: (doneBytes: number, totalBytes: number) => void = () => undefined,
  ): Promise<void> {
    const segments = [...this.#segments.sealed, this.#segments.active].filter(
      ({ baseOffset, endOffset }) => endOffset > from && baseOffset < to,
    );
    const totalBytes = segments.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    const slice: RecordSlice = { offset: 0, buffer: NOTHING, start: 0, end: 0 };
    let doneBytes = 0;
    let turnStart = performance.now();
    for (const segment of segments) {
      const index = this.#segments.index(segment.baseOffset) ?? (await this.#load(segment));
      const path = this.#segments.path(segment.baseOffset);
      const damaged = (position: number, first: number, end: number, damage: string): GomqError =>
        damageError(path, position, `offsets ${first} to ${end - 1}`, damage);
      if (index.endOffset < segment.endOffset)
        throw damaged(index.storedBytes, index.endOffset, segment.endOffset, 'no batch');
      const isNeeded = (batch: number): boolean =>
        index.end(batch) > from && index.end(batch) <= to && (index.flags(batch) & BatchFlag.State) !== 0;
      for (let batch = 0; batch < index.batchCount; ) {
        if (!isNeeded(batch)) {
          batch++;
          continue;
        }
        const start = index.position(batch);
        const end = endOfRead(index, batch, REPLAY_READ_BYTES, isNeeded);
        const bytes = await this.#reads.read(path, start, lengthOf(index, batch, end));
        for (; batch < end; batch++) {
          const at = index.position(batch) - start;
          const header = decodeHeader(bytes, at);
          const payload =
            'damage' in header
              ? header
              : decodePayload(this.#zstd, header, bytes.subarray(at, at + index.batchBytes(batch)));
          if ('damage' in header || 'damage' in payload) {
            const { damage } = payload as { damage: string };
            throw damaged(index.position(batch), index.base(batch), index.end(batch), damage);
          }
          const positions = recordPositions(header, payload);
          slice.buffer = payload;
          for (let i = Math.max(0, from - header.baseOffset); i < header.recordCount; i++) {
            slice.offset = header.baseOffset + i;
            slice.start = positions[i]!;
            slice.end = positions[i + 1]! - RECORD_LENGTH_BYTES;
            onRecord(slice);
          }
          if (performance.now() - turnStart > REPLAY_TURN_MS) {
            onProgress(doneBytes + index.position(batch), totalBytes);
            await new Promise((resolve) => setImmediate(resolve));
            turnStart = performance.now();
          }
        }
      }
      doneBytes += segment.storedBytes;
      onProgress(doneBytes, totalBytes);
    }
  }

  #load(segment: IndexSummary): Promise<SegmentIndex> {
    return new Promise((resolve) => this.#segments.load(segment, { onIndex: resolve }));
  }
}

/** One past the last of the wanted batches from `first` on that one read of `bytesMax` takes, or one that is longer. */
function endOfRead(
  index: SegmentIndex,
  first: number,
  bytesMax: number,
  isWanted: (batch: number) => boolean,
): number {
  let end = first + 1;
  while (end < index.batchCount && isWanted(end) && lengthOf(index, first, end + 1) <= bytesMax) end++;
  return end;
}

/** Bytes of the batches [first, end). */
function lengthOf(index: SegmentIndex, first: number, end: number): number {
  return index.position(end - 1) + index.batchBytes(end - 1) - index.position(first);
}
