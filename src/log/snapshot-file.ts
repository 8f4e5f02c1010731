// Owns snapshot files: records in batches as the log has them, each with the offset that it had there, and an empty batch at the end that
// says which offset the snapshot ends before. A file is there under its name only when it is complete; it is valid only as a whole.
import { type FileHandle, open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import {
  type BatchHeader,
  decodeHeader,
  decodePayload,
  encodeBatch,
  prefixBytes,
  recordOffset,
  recordPositions,
  writeUint64,
} from './batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag, RECORD_LENGTH_BYTES } from './batch-format.js';
import { BatchReader, type BatchResult, type ReadBatch } from './batch-reader.js';
import type { Disk, DiskFile } from './disk.js';
import { DRAFT_SUFFIX, fileName, offsetsOf } from './file-names.js';
import type { RecordSlice } from './log.js';
import { removeIfThere } from './recovery.js';
import type { Zstd } from './zstd.js';

const BATCH_BYTES = 256 * 1024;
/** A long file is put on disk bit by bit, so that the log's own fsyncs do not wait for all of it at once. */
const SYNC_BYTES = 8 * 1024 * 1024;
const PREFIX_BYTES = prefixBytes(BatchFlag.Snapshot);

/** Writes one snapshot. After `commit` or `abort`, and after anything it throws, it is of no more use; `abort` is right then too. */
export class SnapshotWriter {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #endOffset: number;
  readonly #zstd: Zstd | undefined;
  readonly #path: string;
  readonly #file: DiskFile;
  #payload = Buffer.allocUnsafeSlow(BATCH_BYTES);
  #used = 0;
  #count = 0;
  #offsetMin = 0;
  #offsetMax = 0;
  #position = 0;
  #syncedBytes = 0;
  #isOpen = true;

  /**
   * @param endOffset all records of the log before it are in the snapshot, or no longer matter
   * @param zstd undefined where batches are not compressed
   */
  constructor(disk: Disk, directory: string, endOffset: number, zstd: Zstd | undefined) {
    this.#disk = disk;
    this.#directory = directory;
    this.#endOffset = endOffset;
    this.#zstd = zstd;
    this.#path = join(directory, fileName(endOffset, 'snapshot'));
    removeIfThere(disk, this.#draft);
    this.#file = disk.open(this.#draft, 'create');
  }

  /** @param offset where the record stood in the log, or has the same effect; not above the snapshot's end, in any order, more than once */
  add(offset: number, record: Uint8Array): void {
    if (offset > this.#endOffset) assert(false, `record ${offset} in a snapshot up to ${this.#endOffset}`);
    const length = PREFIX_BYTES + record.length;
    if (this.#count > 0 && this.#used + length > BATCH_BYTES) this.#flush();
    if (length > this.#payload.length) this.#payload = Buffer.allocUnsafeSlow(length);
    const at = this.#used;
    this.#payload.writeUInt32LE(record.length, at);
    writeUint64(this.#payload, offset, at + RECORD_LENGTH_BYTES);
    this.#payload.set(record, at + PREFIX_BYTES);
    this.#offsetMin = this.#count === 0 ? offset : Math.min(this.#offsetMin, offset);
    this.#offsetMax = this.#count === 0 ? offset : Math.max(this.#offsetMax, offset);
    this.#used += length;
    this.#count++;
  }

  /** Ends the file, makes it last and gives it its name. */
  commit(timestampMs: number): void {
    if (this.#count > 0) this.#flush();
    const { Snapshot, SnapshotEnd } = BatchFlag;
    const offset = this.#endOffset;
    this.#write(Snapshot | SnapshotEnd, offset, offset, timestampMs, 0, Buffer.alloc(0));
    this.#file.sync();
    this.#close();
    this.#disk.rename(this.#draft, this.#path);
    this.#disk.syncDirectory(this.#directory);
  }

  /** Leaves nothing behind. */
  abort(): void {
    this.#close();
    removeIfThere(this.#disk, this.#draft);
  }

  get #draft(): string {
    return `${this.#path}${DRAFT_SUFFIX}`;
  }

  #flush(): void {
    const payload = this.#payload.subarray(0, this.#used);
    this.#write(BatchFlag.Snapshot, this.#offsetMin, this.#offsetMax, 0, this.#count, payload);
    this.#used = 0;
    this.#count = 0;
    // What one large record needed is not kept.
    if (this.#payload.length > BATCH_BYTES) this.#payload = Buffer.allocUnsafeSlow(BATCH_BYTES);
    if (this.#position - this.#syncedBytes < SYNC_BYTES) return;
    this.#file.sync();
    this.#syncedBytes = this.#position;
  }

  #write(
    flags: number,
    baseOffset: number,
    lastOffset: number,
    timestampMs: number,
    recordCount: number,
    payload: Buffer,
  ): void {
    const header = { flags, epoch: this.#position, baseOffset, lastOffset, timestampMs, recordCount };
    const bytes = encodeBatch(this.#zstd, header, payload);
    this.#file.write(bytes, this.#position);
    this.#position += bytes.length;
  }

  #close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#file.close();
  }
}

export interface SnapshotEnd {
  readonly endOffset: number;
  /** When it was committed. */
  readonly timestampMs: number;
}

export interface SnapshotDamage {
  readonly damage: string;
  /** Of the batch where it is. */
  readonly position: number;
}

/**
 * Checks the whole file, and only then hands out its records.
 * @param onRecord gets the same object again and again; its bytes may change after the call
 * @throws {GomqError} DATA_DAMAGED, before the first record unless the disk changes its mind; DATA_UNREADABLE
 */
export function readSnapshot(
  disk: Disk,
  path: string,
  zstd: Zstd,
  onRecord: (slice: RecordSlice) => void,
): SnapshotEnd {
  const slice: RecordSlice = { offset: 0, buffer: Buffer.alloc(0), start: 0, end: 0 };
  return withSnapshot(disk, path, (reader) => {
    whole(path, checkSnapshot(reader, path, zstd));
    const result = checkSnapshot(reader, path, zstd, (header, payload) => {
      const positions = recordPositions(header, payload);
      slice.buffer = payload;
      for (let i = 0; i < header.recordCount; i++) {
        slice.start = positions[i]!;
        slice.end = positions[i + 1]! - PREFIX_BYTES;
        slice.offset = recordOffset(payload, slice.start);
        onRecord(slice);
      }
    });
    return whole(path, result);
  });
}

/**
 * Checks the whole file, and says what is wrong with it as a value.
 * @throws {GomqError} DATA_UNREADABLE
 */
export function verifySnapshot(
  disk: Disk,
  path: string,
  zstd: Zstd,
  onBatch: (header: BatchHeader, position: number) => void,
): SnapshotEnd | SnapshotDamage {
  return withSnapshot(disk, path, (reader) =>
    checkSnapshot(reader, path, zstd, (header, _payload, position) => onBatch(header, position)),
  );
}

/**
 * Checks the whole of a file that has come from elsewhere or is to go there, as verifySnapshot does, but others have their turn after each batch: nothing waits for it.
 * @param endOffset what the snapshot is to end before, whatever the file is called
 * @throws what the operating system answers; the signal's reason
 */
export async function verifyInTurns(
  path: string,
  endOffset: number,
  zstd: Zstd,
  signal: AbortSignal,
): Promise<SnapshotEnd | SnapshotDamage> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const name = fileName(endOffset, 'snapshot');
    for (let position = 0; ; ) {
      const batch = await readBatch(file, position, size);
      signal.throwIfAborted();
      if ('damage' in batch) return { position, damage: batch.damage };
      const payload = checkPayload(batch, position, zstd);
      if ('damage' in payload) return payload;
      const end = checkEnd(batch, position, size, name);
      if (end !== undefined) return end;
      position += batch.bytes.length;
    }
  } finally {
    await file.close();
  }
}

async function readBatch(file: FileHandle, position: number, fileBytes: number): Promise<BatchResult> {
  const header = decodeHeader(await readAt(file, position, BATCH_HEADER_BYTES), 0);
  if ('damage' in header) return header;
  const length = BATCH_HEADER_BYTES + header.storedBytes;
  // Before there is a buffer for what is not there.
  if (position + length > fileBytes) return { damage: 'payload cut short', isIntended: false };
  return { header, bytes: await readAt(file, position, length) };
}

/** Fewer than `length` only at the end of the file. */
async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  const { bytesRead } = await file.read(bytes, 0, length, position);
  return bytes.subarray(0, bytesRead);
}

/** Complete snapshots of a directory, newest first. */
export function listSnapshots(disk: Disk, directory: string): { path: string; endOffset: number }[] {
  return offsetsOf(disk.list(directory), 'snapshot')
    .reverse()
    .map((endOffset) => ({ path: join(directory, fileName(endOffset, 'snapshot')), endOffset }));
}

function withSnapshot<T>(disk: Disk, path: string, work: (reader: BatchReader) => T): T {
  let file: DiskFile | undefined;
  try {
    file = disk.open(path, 'read');
    return work(new BatchReader(file, file.bytes));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // What has no code is a defect and not an answer of the operating system.
    if (error instanceof GomqError || code === undefined) throw error;
    throw new GomqError('DATA_UNREADABLE', `cannot read ${path}: ${message}`, { cause: error });
  } finally {
    file?.close();
  }
}

function checkSnapshot(
  reader: BatchReader,
  path: string,
  zstd: Zstd,
  onBatch?: (header: BatchHeader, payload: Buffer, position: number) => void,
): SnapshotEnd | SnapshotDamage {
  for (let position = 0; ; ) {
    const batch = reader.read(position);
    if ('damage' in batch) return { position, damage: batch.damage };
    const payload = checkPayload(batch, position, zstd);
    if ('damage' in payload) return payload;
    onBatch?.(batch.header, payload, position);
    const end = checkEnd(batch, position, reader.fileBytes, basename(path));
    if (end !== undefined) return end;
    position += batch.bytes.length;
  }
}

/** The records of a batch, or what is wrong with it. */
function checkPayload({ header, bytes }: ReadBatch, position: number, zstd: Zstd): Buffer | SnapshotDamage {
  if ((header.flags & BatchFlag.Snapshot) === 0) return { position, damage: 'a batch of the log' };
  // Batches have no other order: without this one could be missing, and nobody would see it.
  if (header.epoch !== position) return { position, damage: `the batch of position ${header.epoch}` };
  const payload = decodePayload(zstd, header, bytes);
  if ('damage' in payload) return { position, damage: payload.damage };
  const offsets = checkOffsets(header, payload);
  return offsets === undefined ? payload : { position, damage: offsets };
}

/** Where the snapshot ends, or what is wrong with that; undefined where the batch is not the last one. */
function checkEnd(
  { header, bytes }: ReadBatch,
  position: number,
  fileBytes: number,
  name: string,
): SnapshotEnd | SnapshotDamage | undefined {
  if ((header.flags & BatchFlag.SnapshotEnd) === 0) return undefined;
  const { baseOffset: endOffset, timestampMs } = header;
  if (name !== fileName(endOffset, 'snapshot')) {
    return { position, damage: `it ends before offset ${endOffset}` };
  }
  const end = position + bytes.length;
  return end === fileBytes ? { endOffset, timestampMs } : { position: end, damage: 'more follows its end' };
}

/** What is wrong with the offsets of the records of a batch. */
function checkOffsets(header: BatchHeader, payload: Buffer): string | undefined {
  const { baseOffset, lastOffset, recordCount } = header;
  for (let i = 0, at = PREFIX_BYTES; i < recordCount; i++) {
    const offset = recordOffset(payload, at);
    if (!(offset >= baseOffset && offset <= lastOffset)) return `record offset ${offset}`;
    at += PREFIX_BYTES + payload.readUInt32LE(at - PREFIX_BYTES);
  }
  return undefined;
}

function whole(path: string, result: SnapshotEnd | SnapshotDamage): SnapshotEnd {
  if (!('damage' in result)) return result;
  const hint = `An older snapshot, or the log itself, gives the same state. \`gomq log verify ${join(path, '..')}\` shows all that is damaged.`;
  throw new GomqError('DATA_DAMAGED', `${path} is damaged at position ${result.position}: ${result.damage}`, {
    hint,
  });
}
