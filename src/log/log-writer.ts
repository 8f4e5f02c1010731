// Everything the log does to its directory after the start, in the order it was asked for: writes batches, adds the index to a segment that has
// ended, removes segments, keeps an eye on how much room is left. It runs in a thread of its own (writer-thread.ts); this file knows nothing
// of threads, only of requests and answers that can travel between them.
//
// After a failure of the disk it answers 'failed' once and does nothing more.
import { join } from 'node:path';
import type { Disk } from './disk.js';
import { fileName } from './file-names.js';
import { DiskSpace, tryWithRoom } from './reserve.js';
import {
  type ActiveSegment,
  DiskFailure,
  type FsyncPolicy,
  type KeptBatch,
  type SealedBatch,
  SegmentWriter,
} from './segment-writer.js';
import type { Zstd } from './zstd.js';

const SPACE_CHECK_MS = 1000;

/** What the writer has to know; it can be sent to a thread. */
export interface WriterSettings {
  readonly directory: string;
  readonly isCompressed: boolean;
  readonly fsync: FsyncPolicy;
  readonly fsyncIntervalMs: number;
  readonly segmentBytes: number;
  /** A batch that is so much younger than the first one of its segment begins another; 0 for no limit. */
  readonly segmentMs: number;
  readonly reserveBytes: number;
  readonly active: ActiveSegment;
}

export type WriterRequest =
  /** `isMirrored`: the bytes of the batches are to be answered as soon as they are written. */
  | { readonly kind: 'write'; readonly batches: readonly SealedBatch[]; readonly isMirrored: boolean }
  /** Of the segment that is written to. */
  | { readonly kind: 'cut'; readonly position: number }
  | { readonly kind: 'index'; readonly baseOffset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'remove'; readonly baseOffsets: readonly number[] }
  | { readonly kind: 'close' };

/** How much room there is: see DiskSpace. */
export interface Space {
  readonly isFull: boolean;
  readonly isReserveSpent: boolean;
}

export type WriterAnswer =
  /** It has begun. */
  | ({ readonly kind: 'ready' } & Space)
  /** The batches of a request as they are in their files, in a buffer that is the receiver's alone; they are not kept yet. */
  | { readonly kind: 'encoded'; readonly bytes: Uint8Array<ArrayBuffer>; readonly lengths: readonly number[] }
  /** All batches of a request are kept. */
  | { readonly kind: 'written'; readonly kept: readonly KeptBatch[] }
  /** What was to go is gone for good. */
  | { readonly kind: 'cut' }
  /** The segment has its index on disk, or will get it at the next start where there was no room. */
  | { readonly kind: 'indexed'; readonly baseOffset: number }
  | { readonly kind: 'removed'; readonly baseOffsets: readonly number[] }
  /** Whether there is room has changed. */
  | ({ readonly kind: 'space' } & Space)
  | {
      readonly kind: 'failed';
      readonly message: string;
      /** What is kept for certain, where something else may only seem to be: base offset of a segment, position in it. */
      readonly suspect: { readonly segment: number; readonly position: number } | undefined;
    }
  | { readonly kind: 'closed' };

function spaceOf({ isFull, isReserveSpent }: DiskSpace): Space {
  return { isFull, isReserveSpent };
}

export class LogWriter {
  readonly #settings: WriterSettings;
  readonly #disk: Disk;
  readonly #answer: (answer: WriterAnswer) => void;
  readonly #now: () => number;
  readonly #space: DiskSpace;
  readonly #segment: SegmentWriter;
  /** What was told last. */
  #told: Space;
  #hasFailed = false;
  /** When to look again, on the clock of `now`. */
  #spaceCheckMs: number;
  /** When the oldest thing that is not on disk was written, where that matters. */
  #dirtySinceMs: number | undefined = undefined;

  /**
   * @param now milliseconds, never going back
   * @throws what the disk answers
   */
  constructor(
    settings: WriterSettings,
    disk: Disk,
    zstd: Zstd,
    now: () => number,
    answer: (answer: WriterAnswer) => void,
  ) {
    const { directory, reserveBytes, isCompressed, fsync, segmentBytes, segmentMs, active } = settings;
    this.#settings = settings;
    this.#disk = disk;
    this.#answer = answer;
    this.#now = now;
    this.#space = new DiskSpace({ disk, directory, reserveBytes });
    this.#segment = new SegmentWriter({
      disk,
      directory,
      zstd: isCompressed ? zstd : undefined,
      fsync,
      segmentBytes,
      segmentMs,
      space: this.#space,
      active,
    });
    this.#told = spaceOf(this.#space);
    this.#spaceCheckMs = now() + SPACE_CHECK_MS;
    answer({ kind: 'ready', ...this.#told });
  }

  handle(request: WriterRequest): void {
    if (request.kind === 'close') this.#close();
    else if (!this.#hasFailed) this.#guard(() => this.#serve(request));
  }

  /** To be called when there is no request. Answers after how many milliseconds it wants to be called again at the latest. */
  rest(): number {
    if (this.#hasFailed) return Number.POSITIVE_INFINITY;
    this.#guard(() => {
      this.#segment.prepare();
      this.#syncIfDue();
      if (this.#now() >= this.#spaceCheckMs) {
        this.#space.check();
        this.#spaceCheckMs = this.#now() + SPACE_CHECK_MS;
      }
      this.#tellSpace();
    });
    const next = Math.min(this.#spaceCheckMs, this.#syncDueMs());
    return Math.max(0, next - this.#now());
  }

  #serve(request: Exclude<WriterRequest, { kind: 'close' }>): void {
    if (request.kind === 'write') {
      const kept = this.#segment.write(request.batches, request.isMirrored ? this.#mirror : undefined);
      if (this.#segment.isDirty) this.#dirtySinceMs ??= this.#now();
      // The reserve may be small, and a second long.
      if (this.#space.isFull) this.#space.checkReserve();
      this.#tellSpace();
      this.#answer({ kind: 'written', kept });
      // Under load there is no rest.
      this.#syncIfDue();
    } else if (request.kind === 'cut') {
      this.#segment.cut(request.position);
      this.#answer({ kind: 'cut' });
    } else if (request.kind === 'index') {
      this.#writeIndex(request.baseOffset, request.bytes);
      this.#answer({ kind: 'indexed', baseOffset: request.baseOffset });
    } else {
      this.#remove(request.baseOffsets);
      this.#space.check();
      this.#tellSpace();
      this.#answer({ kind: 'removed', baseOffsets: request.baseOffsets });
    }
  }

  readonly #mirror = (batches: readonly Buffer[]): void => {
    const bytes = new Uint8Array(batches.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const batch of batches) {
      bytes.set(batch, at);
      at += batch.length;
    }
    this.#answer({ kind: 'encoded', bytes, lengths: batches.map(({ length }) => length) });
  };

  #syncDueMs(): number {
    if (this.#dirtySinceMs === undefined || this.#settings.fsync !== 'interval')
      return Number.POSITIVE_INFINITY;
    return this.#dirtySinceMs + this.#settings.fsyncIntervalMs;
  }

  #syncIfDue(): void {
    if (this.#now() < this.#syncDueMs()) return;
    this.#segment.sync();
    this.#dirtySinceMs = undefined;
  }

  #tellSpace(): void {
    const { isFull, isReserveSpent } = this.#space;
    if (isFull === this.#told.isFull && isReserveSpent === this.#told.isReserveSpent) return;
    this.#told = spaceOf(this.#space);
    this.#answer({ kind: 'space', ...this.#told });
  }

  /** An index is made again at the next start if need be, so the reserve is not for it. */
  #writeIndex(baseOffset: number, bytes: Uint8Array): void {
    const { directory } = this.#settings;
    const path = join(directory, fileName(baseOffset, 'index'));
    const temporary = `${path}.tmp`;
    const isWritten = tryWithRoom(this.#disk, temporary, (file) => {
      file.write(bytes, 0);
      file.sync();
    });
    if (!isWritten) return;
    this.#disk.rename(temporary, path);
    this.#disk.syncDirectory(directory);
  }

  /** Oldest first, each on disk before the next: a crash leaves no gap between segments. */
  #remove(baseOffsets: readonly number[]): void {
    const { directory } = this.#settings;
    for (const baseOffset of baseOffsets) {
      const names = new Set(this.#disk.list(directory));
      for (const suffix of ['log', 'index'] as const) {
        const name = fileName(baseOffset, suffix);
        if (names.has(name)) this.#disk.remove(join(directory, name));
      }
      this.#disk.syncDirectory(directory);
    }
  }

  #close(): void {
    this.#guard(() => this.#segment.close());
    this.#answer({ kind: 'closed' });
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      if (this.#hasFailed) return;
      this.#hasFailed = true;
      const failure =
        error instanceof DiskFailure
          ? error
          : this.#segment.failure('upkeep', this.#settings.directory, error);
      const { message, operation, segmentBase, position } = failure;
      // A write that failed wrote nothing, or a part that is seen to be one; where acknowledgements wait for fsync nothing is lost by more care.
      const isUncertain = operation === 'fdatasync' || this.#settings.fsync === 'always';
      const suspect = isUncertain ? { segment: segmentBase, position } : undefined;
      this.#answer({ kind: 'failed', message, suspect });
    }
  }
}
