// Writes batches into segments, on whichever thread it is put. It knows the disk only through Disk, so that tests can give it one that fails.
//
// What `write` answers is kept as `fsync` promises: with 'always' it is on disk. A segment is on disk as a whole, whatever the policy, before
// the next one is begun; so only the last segment can ever be torn. A failure of the disk is final: after it nothing is written, since an
// fsync that failed once tells nothing when it succeeds later.
//
// Ahead of the last batch the file holds zeros that are on disk already: overwriting them is one write of the disk, where making the file
// longer is several. They are cut off when the segment ends.
import { join } from 'node:path';
import { assert } from '../core/assert.js';
import { encodeBatch, withFlags } from './batch-codec.js';
import { BatchFlag } from './batch-format.js';
import type { Disk, DiskFile } from './disk.js';
import { fileName } from './file-names.js';
import { type DiskSpace, isNoSpace } from './reserve.js';
import type { Zstd } from './zstd.js';

/** How far ahead the file is filled with zeros. */
const AHEAD_BYTES = 1024 * 1024;
/** When fewer zeros are left, there will be more. */
const AHEAD_BYTES_MIN = 128 * 1024;
/** Larger writes gain nothing from zeros, and would have to write everything twice. */
const AHEAD_WRITE_BYTES_MAX = 64 * 1024;

export type FsyncPolicy = 'always' | 'interval' | 'never';

/** Records that go into the log together. */
export interface SealedBatch {
  readonly baseOffset: number;
  readonly recordCount: number;
  readonly flags: number;
  readonly epoch: number;
  readonly timestampMs: number;
  /** The records as batch-format.ts has them, not compressed; or the whole batch, header and all, where `isEncoded`. */
  readonly payload: Uint8Array;
  /** It comes from another broker, as it is on the disk there: checked already, and kept as it is but for the flag AfterSync. */
  readonly isEncoded: boolean;
}

/** Where a batch is. */
export interface KeptBatch {
  /** Base offset of its segment. */
  readonly segmentBase: number;
  readonly position: number;
  /** Header and payload. */
  readonly storedBytes: number;
  /** As they were written: see BatchFlag.AfterSync. */
  readonly flags: number;
}

/** The segment to go on with, whose file is there. */
export interface ActiveSegment {
  readonly baseOffset: number;
  /** Where its last batch ends. */
  readonly bytes: number;
  /** Of its first batch; of no meaning where there is none. */
  readonly firstTimestampMs: number;
}

export interface SegmentWriterOptions {
  readonly disk: Disk;
  readonly directory: string;
  /** Undefined where batches are not compressed. */
  readonly zstd: Zstd | undefined;
  readonly fsync: FsyncPolicy;
  readonly segmentBytes: number;
  readonly segmentMs: number;
  readonly space: DiskSpace;
  readonly active: ActiveSegment;
}

/** The disk failed, once and for all. */
export class DiskFailure extends Error {
  /** What could not be done: `fdatasync`. */
  readonly operation: string;
  readonly path: string;
  /** As the operating system calls it: `EIO`. */
  readonly code: string | undefined;
  /** Base offset of the segment that was written to, and how much of it is known to be on disk. */
  readonly segmentBase: number;
  readonly position: number;

  constructor(operation: string, path: string, segmentBase: number, position: number, cause: unknown) {
    super(
      `${operation} of ${path} failed: ${(cause as Error).message}; what lies below position ${position} of segment ${segmentBase} is kept`,
      {
        cause,
      },
    );
    this.code = (cause as NodeJS.ErrnoException).code;
    this.operation = operation;
    this.path = path;
    this.segmentBase = segmentBase;
    this.position = position;
  }
}

export class SegmentWriter {
  readonly #options: SegmentWriterOptions;
  #file: DiskFile;
  #path: string;
  #baseOffset: number;
  /** Of the first batch of the segment, where it has one. */
  #firstTimestampMs: number;
  /** Where the next batch goes. */
  #position: number;
  /** Everything below is on disk. */
  #syncedPosition: number;
  /** Length of the file: from #position on it is zeros. */
  #fileBytes: number;
  /** Zeros are worth their while: the last write was a small one and had room. */
  #wantsAhead: boolean;
  #failure: DiskFailure | undefined = undefined;

  constructor(options: SegmentWriterOptions) {
    const { disk, directory, active } = options;
    this.#options = options;
    this.#baseOffset = active.baseOffset;
    this.#firstTimestampMs = active.firstTimestampMs;
    this.#position = active.bytes;
    this.#syncedPosition = active.bytes;
    this.#path = join(directory, fileName(active.baseOffset, 'log'));
    this.#file = disk.open(this.#path, 'write');
    this.#fileBytes = this.#file.bytes;
    assert(this.#fileBytes >= active.bytes, `${this.#path} has ${active.bytes} bytes`);
    this.#wantsAhead = options.fsync === 'always';
    // A process that was killed may have left to the operating system what recovery then found: the bytes, and the file itself.
    this.#syncAll();
    disk.syncDirectory(directory);
  }

  /** There is something that only the operating system has. */
  get isDirty(): boolean {
    return this.#syncedPosition < this.#position;
  }

  /**
   * @param onWritten the bytes of all batches, before they are on disk
   * @throws {DiskFailure} and from then on always
   */
  write(batches: readonly SealedBatch[], onWritten?: (batches: readonly Buffer[]) => void): KeptBatch[] {
    const { fsync, segmentBytes, segmentMs } = this.#options;
    const kept: KeptBatch[] = [];
    const written: Buffer[] = [];
    for (const batch of batches) {
      const { baseOffset, timestampMs } = batch;
      const flags = (batch.flags & ~BatchFlag.AfterSync) | (this.isDirty ? 0 : BatchFlag.AfterSync);
      const bytes = this.#encode(batch, flags);
      // Retention by age takes whole segments that have ended: without this, one that hardly anything is written to would never go.
      const isOld = segmentMs > 0 && timestampMs > this.#firstTimestampMs + segmentMs;
      const isLong = this.#position + bytes.length > segmentBytes;
      if (this.#position > 0 && (isOld || isLong)) this.#roll(baseOffset);
      if (this.#position === 0) this.#firstTimestampMs = timestampMs;
      this.#append(bytes);
      kept.push({
        segmentBase: this.#baseOffset,
        position: this.#position - bytes.length,
        storedBytes: bytes.length,
        flags,
      });
      if (onWritten !== undefined) written.push(bytes);
      this.#wantsAhead = fsync === 'always' && bytes.length <= AHEAD_WRITE_BYTES_MAX;
    }
    onWritten?.(written);
    if (fsync === 'always') this.sync();
    return kept;
  }

  #encode(batch: SealedBatch, flags: number): Buffer {
    const { baseOffset, recordCount, epoch, timestampMs, payload } = batch;
    if (batch.isEncoded) return withFlags(payload, flags);
    const lastOffset = baseOffset + recordCount - 1;
    const header = { flags, epoch, baseOffset, lastOffset, timestampMs, recordCount };
    return encodeBatch(this.#options.zstd, header, payload);
  }

  /** Puts on disk what is not yet. */
  sync(): void {
    if (!this.isDirty) return;
    this.#do('fdatasync', () => this.#file.sync());
    this.#syncedPosition = this.#position;
  }

  /** To be called when there is nothing else to do: makes zeros for the next batches. */
  prepare(): void {
    const { segmentBytes, space } = this.#options;
    if (!this.#wantsAhead || this.#failure !== undefined || space.isFull) return;
    if (this.#fileBytes - this.#position >= AHEAD_BYTES_MIN || this.isDirty) return;
    const end = Math.min(this.#position + AHEAD_BYTES, segmentBytes);
    const count = end - this.#fileBytes;
    if (count <= 0) return;
    const isDone = this.#do('write', () => {
      try {
        this.#file.write(Buffer.alloc(count), this.#fileBytes);
        return true;
      } catch (error) {
        if (!isNoSpace(error)) throw error;
        this.#file.truncate(this.#fileBytes);
        return false;
      }
    });
    // The next write will find out for itself whether there is room.
    this.#wantsAhead = isDone;
    if (!isDone) return;
    this.#do('fdatasync', () => this.#file.sync());
    this.#fileBytes = end;
  }

  /** Takes off the end of the segment, for good when this returns. @param position where a batch ends that stays, or the segment begins */
  cut(position: number): void {
    assert(position <= this.#position, `a segment of ${this.#position} bytes is cut at ${position}`);
    this.#do('truncate', () => this.#file.truncate(position));
    this.#position = position;
    this.#fileBytes = position;
    this.#syncAll();
  }

  /** Puts everything on disk and lets go of the file. After a failure it only lets go. */
  close(): void {
    if (this.#failure === undefined) {
      this.#cutAhead();
      this.#syncAll();
    }
    this.#file.close();
  }

  /** What is to be said when something else of the log failed; from then on nothing is written here either. */
  failure(operation: string, path: string, cause: unknown): DiskFailure {
    this.#failure ??= new DiskFailure(operation, path, this.#baseOffset, this.#syncedPosition, cause);
    return this.#failure;
  }

  /** Ends the segment and begins the one of `baseOffset`. */
  #roll(baseOffset: number): void {
    const { disk, directory } = this.#options;
    this.#cutAhead();
    this.#syncAll();
    const path = join(directory, fileName(baseOffset, 'log'));
    const next = this.#withRoom('create', path, () => disk.open(path, 'create'));
    this.#file.close();
    this.#file = next;
    this.#path = path;
    this.#baseOffset = baseOffset;
    this.#position = 0;
    this.#syncedPosition = 0;
    this.#fileBytes = 0;
    this.#do('fsync of the directory', () => disk.syncDirectory(directory));
  }

  #append(bytes: Buffer): void {
    const position = this.#position;
    this.#withRoom('write', this.#path, () => {
      try {
        this.#file.write(bytes, position);
      } catch (error) {
        if (isNoSpace(error)) {
          // What was written in part is taken back, and the zeros with it.
          this.#file.truncate(position);
          this.#fileBytes = position;
        }
        throw error;
      }
    });
    this.#position = position + bytes.length;
    this.#fileBytes = Math.max(this.#fileBytes, this.#position);
  }

  #cutAhead(): void {
    if (this.#fileBytes === this.#position) return;
    this.#do('truncate', () => this.#file.truncate(this.#position));
    this.#fileBytes = this.#position;
  }

  /** As `sync`, and what is known of the file's length with it. */
  #syncAll(): void {
    this.#do('fdatasync', () => this.#file.sync());
    this.#syncedPosition = this.#position;
  }

  /** Does something that may need room, a second time without the reserve if there was none. */
  #withRoom<T>(operation: string, path: string, work: () => T): T {
    return this.#do(
      operation,
      () => {
        try {
          return work();
        } catch (error) {
          if (!isNoSpace(error) || !this.#options.space.release()) throw error;
          return work();
        }
      },
      path,
    );
  }

  #do<T>(operation: string, work: () => T, path = this.#path): T {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return work();
    } catch (error) {
      throw this.failure(operation, path, error);
    }
  }
}
