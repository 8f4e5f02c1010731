// The log on disk, as the main thread has it: records are appended to memory, gather in batches while the disk is busy, and are handed to the
// writer as soon as it is idle. What the writer has kept is committed, and only that can be read.
//
//     append -> open batch -> closed (full, or the writer is idle) -> queue -> in flight -> kept -> committed -> read from memory, later from disk
//
// Alone, what is kept is committed. In a cluster that is said by whoever knows how far the members are (`advance`); the log of a member gets whole
// batches of its leader in place of records (`appendBatch`), and the leader's hands them out (`mirror`).
//
// A failure of the disk is final: it is told of once, and nothing is committed any more.
import { assert } from '../core/assert.js';
import type { Clock } from '../core/clock.js';
import { GomqError } from '../core/errors.js';
import type { LogFields, Logger } from '../core/logger.js';
import { BatchCache } from './batch-cache.js';
import { type BatchHeader, COMPRESS_BYTES_MIN, encodeBatch } from './batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag, Codec, RECORD_LENGTH_BYTES } from './batch-format.js';
import type { DataDirectory, SuspectMarker } from './data-directory.js';
import { type Disk, nodeDisk } from './disk.js';
import { DiskLogReader, type ReadableLog } from './disk-log-reader.js';
import type { Log, LogReader, RecordSlice, RetentionEvents } from './log.js';
import { nodeReads, patientReads, readsOf } from './log-reads.js';
import type { Space, WriterAnswer, WriterSettings } from './log-writer.js';
import { PageReads } from './page-reads.js';
import { RecordRun } from './record-run.js';
import { type RecoveredLog, recoverLog } from './recovery.js';
import { encodeIndex } from './segment-index.js';
import type { FsyncPolicy, KeptBatch, SealedBatch } from './segment-writer.js';
import { Segments } from './segments.js';
import { STAGED_BATCHES_MAX, STAGING_BYTES } from './staging.js';
import { type BatchTopics, type EncodedBatch, StoredBatches } from './stored-batches.js';
import { InlineWriter, type WriterEvents, type WriterLink, WriterThread } from './writer-thread.js';
import { loadZstd, type Zstd } from './zstd.js';

/** Memory that records are appended to, and so the largest batch of more than one record. */
const RUN_BYTES = 1024 * 1024;
const BATCH_RECORDS_MAX = 65_536;
/** A batch about more topics than this counts as about any. */
const BATCH_TOPICS_MAX = 1024;
const UPKEEP_MS = 1000;
const HOUR_MS = 3_600_000;

export interface DiskLogOptions extends RetentionEvents {
  readonly directory: SuspectMarker & Pick<DataDirectory, 'path'>;
  /** Another disk than that of the operating system: everything then happens in this thread. */
  readonly disk?: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Written into each batch; see `setEpoch`. */
  readonly epoch: number;
  /** In a cluster: everything below is known to be committed, as far as it is there; `advance` says what else is. Absent: what is kept is. */
  readonly committed?: number;
  readonly compression: 'zstd' | 'none';
  readonly fsync: FsyncPolicy;
  readonly fsyncIntervalMs: number;
  readonly segmentBytes: number;
  readonly retentionBytes: number;
  readonly retentionHours: number;
  readonly hardLimitBytes: number;
  readonly cacheBytes: number;
  readonly reserveBytes: number;
  /** See RecoveryOptions. */
  beforeCut?: () => void;
  /** The disk failed; called once. Nothing is committed from then on. */
  onFailure(error: GomqError): void;
  /** Records [from, to) cannot be read, and readers pass over them. */
  onDamaged(from: number, to: number): void;
  /** Records below this offset are not needed to build the state again. */
  snapshotFloor(): number;
  /** What a record in [start, end) of `buffer` is about; '' for no topic. */
  topicOf(buffer: Buffer, start: number, end: number): string;
}

/** A batch on its way to the disk. */
interface ClosedBatch extends SealedBatch {
  readonly topics: BatchTopics;
  /** Of its records, lengths included. */
  readonly uncompressedBytes: number;
  /** Of its records as they count among what is not committed. */
  readonly uncommittedBytes: number;
}

/**
 * Opens the log in a data directory: checks it, mends the end that a crash tore, starts the writer.
 * @throws {GomqError} DATA_DAMAGED, DATA_UNREADABLE, DISK_FAILED
 */
export async function openDiskLog(options: DiskLogOptions): Promise<DiskLog> {
  const { directory, logger, topicOf } = options;
  const disk = options.disk ?? nodeDisk;
  const zstd = await loadZstd();
  const { beforeCut } = options;
  const recovered = recoverLog(disk, directory.path, zstd, {
    logger,
    topicOf,
    suspect: directory,
    ...(beforeCut === undefined ? {} : { beforeCut }),
  });
  const log = new DiskLog(options, zstd, recovered);
  await log.started();
  return log;
}

export class DiskLog implements Log, ReadableLog {
  readonly cache: BatchCache;
  readonly segments: Segments;
  readonly pages: PageReads;
  readonly #options: DiskLogOptions;
  readonly #stored: StoredBatches;
  readonly #writer: WriterLink;
  readonly #start: Promise<void>;
  #resolveStart: () => void = () => undefined;
  #rejectStart: (error: Error) => void = () => undefined;
  #hasStarted = false;

  /** What is appended to. */
  #run: RecordRun;
  /** The open batch: from this record of the run on. */
  #openFrom = 0;
  #openFlags = 0;
  #openTopics = new Set<string>();
  #lastTopic: string | undefined = undefined;
  #queue: ClosedBatch[] = [];
  #inFlight: ClosedBatch[] = [];

  /** Everything below is on disk, as far as `fsync` promises. */
  #keptOffset: number;
  #highWatermark: number;
  /** What is kept is committed. */
  readonly #isAlone: boolean;
  #epoch: number;
  /** End of the last batch of another broker. */
  #batchesEnd: number;
  #uncommittedBytes = 0;
  /** Batches that are kept and not committed: their ends, and the bytes of their records. */
  readonly #uncommitted: { readonly endOffset: number; readonly bytes: number }[] = [];
  /** Ends of segments that are on disk and not committed as a whole. */
  #sealedAhead: number[] = [];
  #space: Space = { isFull: false, isReserveSpent: false };
  #failure: GomqError | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;
  #isClosed = false;
  /** Waits for the writer to have cut the segment it writes to. */
  #cutting: { resolve(): void; reject(error: GomqError): void } | undefined = undefined;
  /** Called when all is committed, or never will be. */
  #onDrained: (() => void) | undefined = undefined;
  #settling: (() => void)[] = [];
  #commitListener: (from: number, to: number) => void = () => undefined;
  #keptListener: (keptOffset: number) => void = () => undefined;
  #mirrorListener: ((batches: readonly EncodedBatch[]) => void) | undefined = undefined;
  #sealListener: (endOffset: number) => void = () => undefined;
  /** Somebody could not say at once whether the oldest segment is needed. */
  #isRetentionOpen = false;
  /** The disk is full: the oldest segment is to go if nobody needs it, however little there is. */
  #wantsRoom = false;
  readonly #upkeepTimer: NodeJS.Timeout;
  readonly #slice: RecordSlice;

  constructor(options: DiskLogOptions, zstd: Zstd, recovered: RecoveredLog) {
    const { directory, disk, logger, cacheBytes } = options;
    this.#options = options;
    const reads = patientReads(disk === undefined ? nodeReads : readsOf(disk), () => this.#isClosed);
    this.cache = new BatchCache(cacheBytes);
    const { segments, active } = recovered;
    this.segments = new Segments({
      directory: directory.path,
      reads,
      logger,
      sealed: segments,
      active: active.index,
    });
    this.#stored = new StoredBatches({ segments: this.segments, reads, zstd });
    const { endOffset } = active.index;
    const { committed } = options;
    this.#isAlone = committed === undefined;
    this.#epoch = Math.max(options.epoch, recovered.lastEpoch);
    this.#keptOffset = endOffset;
    this.#batchesEnd = endOffset;
    this.#highWatermark = committed === undefined ? endOffset : Math.min(committed, endOffset);
    this.pages = new PageReads({
      directory: directory.path,
      reads,
      cache: this.cache,
      zstd,
      logger,
      startOffset: () => this.startOffset,
      committed: () => this.#highWatermark,
      onDamaged: (from, to) => options.onDamaged(from, to),
    });
    // It has no room, so that a log nobody appends to costs nothing.
    this.#run = RecordRun.open(endOffset, 0);
    this.#slice = { offset: 0, buffer: this.#run.buffer, start: 0, end: 0 };
    this.#start = new Promise((resolve, reject) => {
      this.#resolveStart = resolve;
      this.#rejectStart = reject;
    });
    const settings: WriterSettings = {
      directory: directory.path,
      isCompressed: options.compression === 'zstd',
      fsync: options.fsync,
      fsyncIntervalMs: options.fsyncIntervalMs,
      segmentBytes: options.segmentBytes,
      segmentMs: options.retentionHours * HOUR_MS,
      reserveBytes: options.reserveBytes,
      active: {
        baseOffset: active.baseOffset,
        bytes: active.bytes,
        firstTimestampMs: active.index.firstTimestampMs,
      },
    };
    const events: WriterEvents = {
      onAnswer: (answer) => this.#onAnswer(answer),
      onDeath: (error) => this.#onDeath(error),
    };
    this.#writer =
      disk === undefined
        ? new WriterThread(settings, events)
        : new InlineWriter(settings, disk, zstd, events);
    this.#upkeepTimer = setInterval(() => this.#upkeep(), UPKEEP_MS);
    this.#upkeepTimer.unref();
  }

  /** Resolves when the writer has begun. */
  started(): Promise<void> {
    return this.#start;
  }

  /** Of the last batch, or of the one that comes next. */
  get epoch(): number {
    return this.#epoch;
  }

  get startOffset(): number {
    return this.segments.startOffset;
  }

  get endOffset(): number {
    return Math.max(this.#run.endOffset, this.#batchesEnd);
  }

  /** One past the last record that is on disk, as far as `fsync` promises. */
  get keptOffset(): number {
    return this.#keptOffset;
  }

  get highWatermark(): number {
    return this.#highWatermark;
  }

  get uncommittedBytes(): number {
    return this.#uncommittedBytes;
  }

  /** On disk, compressed. */
  get storedBytes(): number {
    return this.segments.sealedBytes + this.segments.active.storedBytes;
  }

  get isFull(): boolean {
    return this.#space.isFull;
  }

  get isReserveSpent(): boolean {
    return this.#space.isReserveSpent;
  }

  /** What else the disk has room for before the log is full. @throws what the operating system answers */
  roomBytes(): number {
    const { disk = nodeDisk, directory, reserveBytes } = this.#options;
    return Math.max(0, disk.freeBytes(directory.path) - reserveBytes);
  }

  // ---- writing ----------------------------------------------------------------------------------------------------------------------

  append(topicName: string, length: number, changesState: boolean): RecordSlice {
    let run = this.#run;
    if (!run.hasRoom(length)) run = this.#nextRun(length);
    else if (run.count - this.#openFrom === BATCH_RECORDS_MAX) this.#closeBatch();
    if (topicName !== this.#lastTopic) {
      this.#lastTopic = topicName;
      if (this.#openTopics.size <= BATCH_TOPICS_MAX) this.#openTopics.add(topicName);
    }
    if (changesState) this.#openFlags = BatchFlag.State;
    this.#uncommittedBytes += length;
    const slice = this.#slice;
    slice.offset = run.baseOffset + run.count;
    slice.buffer = run.buffer;
    slice.start = run.push(length);
    slice.end = slice.start + length;
    return slice;
  }

  flush(): void {
    this.#handOver();
    if (this.#isRetentionOpen) this.#retain();
  }

  onCommit(listener: (from: number, to: number) => void): void {
    this.#commitListener = listener;
  }

  /** The one to call when `keptOffset` has risen. */
  onKept(listener: (keptOffset: number) => void): void {
    this.#keptListener = listener;
  }

  /** From now on all batches are handed out as they are written, in order, before they are kept. */
  mirror(listener: (batches: readonly EncodedBatch[]) => void): void {
    this.#mirrorListener = listener;
  }

  /** Records that are appended from now on belong to this epoch. There must be no batch that is still open. */
  setEpoch(epoch: number): void {
    assert(epoch >= this.#epoch && this.#run.count === this.#openFrom, `epoch ${epoch} after ${this.#epoch}`);
    this.#epoch = epoch;
  }

  /**
   * Appends a batch of another broker, which the log keeps as it is.
   * @param bytes that nobody changes; the batch must be the next one
   * @param header what checkBatch answered for it
   */
  appendBatch(bytes: Buffer, header: BatchHeader, topics: BatchTopics): void {
    const { baseOffset, recordCount, flags, epoch, timestampMs, uncompressedBytes } = header;
    assert(!this.#isAlone && !this.#isClosed, 'a batch for a log that is open, of a cluster');
    assert(baseOffset === this.endOffset, `batch ${baseOffset} follows one that ends at ${this.endOffset}`);
    assert(epoch >= this.#epoch, `epoch ${epoch} after ${this.#epoch}`);
    this.#epoch = epoch;
    this.#batchesEnd = baseOffset + recordCount;
    this.#uncommittedBytes += uncompressedBytes;
    const isEncoded = true;
    const batch = { baseOffset, recordCount, flags, epoch, timestampMs, payload: bytes, isEncoded };
    this.#queue.push({ ...batch, topics, uncompressedBytes, uncommittedBytes: uncompressedBytes });
  }

  /** Resolves when all that was appended is kept, or never will be: it has failed, and said so. */
  settled(): Promise<void> {
    this.#handOver();
    if (this.#keptOffset === this.endOffset || this.#failure !== undefined) return Promise.resolve();
    return new Promise((resolve) => this.#settling.push(resolve));
  }

  /** Everything below `offset` is committed, as far as it is kept here. */
  advance(offset: number): void {
    assert(!this.#isAlone, 'a log of a cluster');
    const to = Math.min(offset, this.#keptOffset);
    if (to <= this.#highWatermark) return;
    this.#commitTo(to);
    const sealed = this.#sealedAhead.filter((endOffset) => endOffset <= to);
    if (sealed.length === 0) return;
    this.#sealedAhead = this.#sealedAhead.filter((endOffset) => endOffset > to);
    for (const endOffset of sealed) this.#sealListener(endOffset);
  }

  #commitTo(to: number): void {
    const from = this.#highWatermark;
    this.#highWatermark = to;
    let count = 0;
    for (; count < this.#uncommitted.length && this.#uncommitted[count]!.endOffset <= to; count++) {
      this.#uncommittedBytes -= this.#uncommitted[count]!.bytes;
    }
    this.#uncommitted.splice(0, count);
    this.#commitListener(from, to);
    this.cache.trim(to);
  }

  /**
   * Takes off the records from `end` on, for good when this resolves: none of them is committed, all are kept, and all came as batches. It is where one
   * of these begins, or the log ends.
   * @returns how many bytes went; undefined where `end` is in a segment before the last: nothing has changed then, and cutLog does it in a log that is closed
   * @throws {GomqError} DISK_FAILED
   */
  async cut(end: number): Promise<number | undefined> {
    assert(!this.#isAlone && this.#run.count === 0, 'the log of a member, which gets batches');
    if (this.#failure !== undefined) throw this.#failure;
    assert(this.#keptOffset === this.endOffset && this.#cutting === undefined, 'nothing is on its way');
    assert(end >= this.#highWatermark, `cut at ${end}, and committed up to ${this.#highWatermark}`);
    const { active } = this.segments;
    if (end < active.baseOffset) return undefined;
    const batch = end === this.endOffset ? active.batchCount : active.batchOf(end);
    assert(active.base(batch) === end, `the log is cut at ${end}, where no batch begins`);
    const bytes = active.storedBytes;
    await new Promise<void>((resolve, reject) => {
      this.#cutting = { resolve, reject };
      this.#writer.send({ kind: 'cut', position: active.position(batch) });
    });
    active.cut(batch);
    const last = batch > 0 ? active : this.segments.sealed.at(-1);
    this.#epoch = Math.max(this.#options.epoch, last?.lastEpoch ?? 0);
    this.#run = RecordRun.open(end, 0);
    this.#keptOffset = end;
    this.#batchesEnd = end;
    while (this.#uncommitted.length > 0 && this.#uncommitted.at(-1)!.endOffset > end) {
      this.#uncommittedBytes -= this.#uncommitted.pop()!.bytes;
    }
    return bytes - active.storedBytes;
  }

  /** The one to call when a segment has ended, is on disk and committed, with one past its last offset. */
  onSeal(listener: (endOffset: number) => void): void {
    this.#sealListener = listener;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#onDrained = resolve;
      this.#handOver();
      this.#checkDrained();
    });
    clearInterval(this.#upkeepTimer);
    this.#writer.send({ kind: 'close' });
    await this.#writer.ended();
    this.pages.close();
    this.cache.clear();
    // It has no room, so that an append finds out.
    this.#run = RecordRun.open(this.endOffset, 0);
    this.#openFrom = 0;
    this.#isClosed = true;
  }

  #checkDrained(): void {
    if (this.#keptOffset !== this.endOffset && this.#failure === undefined) return;
    this.#onDrained?.();
    for (const resolve of this.#settling) resolve();
    this.#settling = [];
  }

  /** Goes on in new memory, with a new batch, since a batch lies in one piece. */
  #nextRun(length: number): RecordRun {
    assert(!this.#isClosed, 'append to a log that is open');
    this.#closeBatch();
    const bytes = Math.max(RUN_BYTES, length + RECORD_LENGTH_BYTES);
    this.#run = RecordRun.open(this.endOffset, bytes);
    this.#openFrom = 0;
    this.cache.addNewest(this.#run);
    return this.#run;
  }

  #closeBatch(): void {
    const run = this.#run;
    const from = this.#openFrom;
    const { count } = run;
    if (count === from) return;
    const uncompressedBytes = run.payloadBytes(from, count);
    this.#queue.push({
      baseOffset: run.baseOffset + from,
      recordCount: count - from,
      flags: this.#openFlags,
      epoch: this.#epoch,
      timestampMs: this.#options.clock.wallMs(),
      payload: run.payload(from, count),
      isEncoded: false,
      topics: this.#openTopics.size > BATCH_TOPICS_MAX ? undefined : this.#openTopics,
      uncompressedBytes,
      uncommittedBytes: uncompressedBytes - (count - from) * RECORD_LENGTH_BYTES,
    });
    this.#openFrom = count;
    this.#openFlags = 0;
    this.#openTopics = new Set();
    this.#lastTopic = undefined;
  }

  /** Gives the writer what there is, unless it is busy. */
  #handOver(): void {
    if (this.#inFlight.length > 0 || this.#failure !== undefined || !this.#hasStarted || this.#isClosed)
      return;
    this.#closeBatch();
    if (this.#queue.length === 0) return;
    let bytes = 0;
    let count = 0;
    for (const { payload } of this.#queue) {
      bytes += payload.length;
      if (count > 0 && (bytes > STAGING_BYTES || count === STAGED_BATCHES_MAX)) break;
      count++;
    }
    this.#inFlight = this.#queue.splice(0, count);
    const isMirrored = this.#mirrorListener !== undefined && !this.#mirrorNow(bytes);
    this.#writer.send({ kind: 'write', isMirrored, batches: this.#inFlight });
  }

  /**
   * What is too little to be compressed is encoded here, and is on its way to the members before the writer has even heard of it: to whoever waits for
   * one message, the two ways between the threads are most of the time. Answers whether that was done.
   */
  #mirrorNow(bytes: number): boolean {
    if (bytes >= COMPRESS_BYTES_MIN) return false;
    this.#inFlight = this.#inFlight.map((batch) => {
      if (batch.isEncoded) return batch;
      const { baseOffset, recordCount, flags, epoch, timestampMs } = batch;
      const header = {
        baseOffset,
        lastOffset: baseOffset + recordCount - 1,
        recordCount,
        flags,
        epoch,
        timestampMs,
      };
      return { ...batch, payload: encodeBatch(undefined, header, batch.payload), isEncoded: true };
    });
    this.#mirrorListener?.(
      this.#inFlight.map(({ baseOffset, recordCount, topics, payload }) => ({
        baseOffset,
        endOffset: baseOffset + recordCount,
        bytes: payload as Buffer,
        topics,
      })),
    );
    return true;
  }

  #onAnswer(answer: WriterAnswer): void {
    switch (answer.kind) {
      case 'ready':
        this.#hasStarted = true;
        this.#onSpace(answer);
        this.#resolveStart();
        this.#handOver();
        break;
      case 'encoded':
        this.#onEncoded(answer);
        break;
      case 'written':
        this.#onWritten(answer.kept);
        break;
      case 'cut':
        this.#cutting?.resolve();
        this.#cutting = undefined;
        break;
      case 'indexed':
        this.#onIndexed(answer.baseOffset);
        break;
      case 'space':
        this.#onSpace(answer);
        break;
      case 'failed':
        this.#fail(answer);
        break;
      case 'removed':
      case 'closed':
        break;
    }
  }

  #onWritten(kept: readonly KeptBatch[]): void {
    const batches = this.#inFlight;
    this.#inFlight = [];
    assert(kept.length === batches.length, `${kept.length} of ${batches.length} batches are kept`);
    for (let i = 0; i < batches.length; i++) this.#enter(batches[i]!, kept[i]!);
    const last = batches.at(-1)!;
    this.#keptOffset = last.baseOffset + last.recordCount;
    // The disk is busy again before anyone looks at what it has kept.
    this.#handOver();
    if (this.#isAlone) this.#commitTo(this.#keptOffset);
    this.#keptListener(this.#keptOffset);
    if (this.#onDrained === undefined && this.#settling.length === 0) return;
    this.#handOver();
    this.#checkDrained();
  }

  /** Puts a batch that is kept into the index of its segment. */
  #enter(batch: ClosedBatch, kept: KeptBatch): void {
    const { segmentBase, position, storedBytes, flags } = kept;
    const { baseOffset, recordCount, epoch, timestampMs, topics, uncompressedBytes } = batch;
    if (segmentBase !== this.segments.active.baseOffset) this.#seal(segmentBase);
    const lastOffset = baseOffset + recordCount - 1;
    this.segments.active.add({
      position,
      header: {
        codec: Codec.None,
        flags,
        epoch,
        baseOffset,
        lastOffset,
        timestampMs,
        recordCount,
        uncompressedBytes,
        storedBytes: storedBytes - BATCH_HEADER_BYTES,
      },
      topics,
    });
    this.#uncommitted.push({ endOffset: lastOffset + 1, bytes: batch.uncommittedBytes });
  }

  #onEncoded({ bytes, lengths }: Extract<WriterAnswer, { kind: 'encoded' }>): void {
    const batches = this.#inFlight;
    assert(lengths.length === batches.length, `${lengths.length} of ${batches.length} batches are encoded`);
    let at = 0;
    const encoded = batches.map(({ baseOffset, recordCount, topics }, i): EncodedBatch => {
      const start = at;
      at += lengths[i]!;
      const buffer = Buffer.from(bytes.buffer, start, lengths[i]!);
      return { baseOffset, endOffset: baseOffset + recordCount, bytes: buffer, topics };
    });
    this.#mirrorListener?.(encoded);
  }

  /** The writer has gone on to another segment: the one before it is on disk, and gets its index. */
  #seal(nextBase: number): void {
    const index = this.segments.seal(nextBase);
    this.#writer.send({ kind: 'index', baseOffset: index.baseOffset, bytes: encodeIndex(index) });
  }

  #onIndexed(baseOffset: number): void {
    this.segments.indexWritten(baseOffset);
    const segment = this.segments.sealed.find((one) => one.baseOffset === baseOffset);
    if (segment !== undefined) {
      if (segment.endOffset <= this.#highWatermark) this.#sealListener(segment.endOffset);
      else this.#sealedAhead.push(segment.endOffset);
    }
    this.#retain();
  }

  #onSpace(space: Space): void {
    const { directory, reserveBytes, logger } = this.#options;
    const before = this.#space;
    this.#space = space;
    const fields = { directory: directory.path, reserveBytes };
    if (space.isFull && !before.isFull) {
      logger.error(
        'There is hardly room on the disk: new messages, sessions and subscriptions are refused until there is.',
        fields,
      );
    }
    if (space.isReserveSpent && !before.isReserveSpent) {
      logger.error(
        'The reserve on the disk is nearly spent: sessions that come back are refused as well.',
        fields,
      );
    }
    if (!space.isFull && before.isFull) {
      logger.info('There is room on the disk again: messages, sessions and subscriptions are taken.');
    }
  }

  #fail({ message, suspect }: Extract<WriterAnswer, { kind: 'failed' }>): void {
    // The disk may well refuse the marker too: then there is only the log line.
    const isMarked = suspect !== undefined && this.#options.directory.markSuspect(suspect);
    this.#end(new GomqError('DISK_FAILED', message), { suspect, isMarked });
  }

  #onDeath(cause: Error): void {
    // Before it has begun it is the directory that will not do.
    const isSystem = /^E[A-Z0-9]+$/.test((cause as NodeJS.ErrnoException).code ?? '');
    const message = `the writer of the log ended: ${cause.message}`;
    this.#end(new GomqError(isSystem ? 'DISK_FAILED' : 'INTERNAL', message, { cause }), {});
  }

  /** Nothing is committed any more. */
  #end(error: GomqError, fields: LogFields): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#options.logger.error('The log has failed: nothing is acknowledged any more.', { error, ...fields });
    this.#cutting?.reject(error);
    this.#cutting = undefined;
    if (!this.#hasStarted) this.#rejectStart(error);
    else this.#options.onFailure(error);
    this.#checkDrained();
  }

  // ---- retention --------------------------------------------------------------------------------------------------------------------

  /** On a full disk one segment more goes each time: by the next time the writer has told whether that was enough. */
  #upkeep(): void {
    this.#wantsRoom = this.isFull;
    this.#retain();
  }

  #retain(): void {
    this.#isRetentionOpen = false;
    const removed: number[] = [];
    while (this.#mayDropOldest()) {
      removed.push(this.segments.dropOldest().baseOffset);
      this.#wantsRoom = false;
    }
    if (removed.length > 0) this.#writer.send({ kind: 'remove', baseOffsets: removed });
  }

  /** Whether the oldest segment has to go and may; tells those who needed it. */
  #mayDropOldest(): boolean {
    const oldest = this.segments.sealed[0];
    if (oldest === undefined || this.#failure !== undefined || this.#closing !== undefined) return false;
    const { retentionBytes, retentionHours, hardLimitBytes, clock, neededFrom, onLost, snapshotFloor } =
      this.#options;
    const { sealedBytes } = this.segments;
    const isOld = retentionHours > 0 && oldest.lastTimestampMs < clock.wallMs() - retentionHours * HOUR_MS;
    if (sealedBytes <= retentionBytes && !isOld && !this.#wantsRoom) return false;
    if (oldest.endOffset > Math.min(snapshotFloor(), this.#highWatermark)) return false;
    const answer = neededFrom(oldest.endOffset);
    this.#isRetentionOpen = answer === undefined;
    const from = answer ?? oldest.baseOffset;
    const isNeeded = from < oldest.endOffset;
    if (isNeeded && sealedBytes <= hardLimitBytes) return false;
    if (isNeeded) onLost(Math.max(from, oldest.baseOffset), oldest.endOffset);
    return true;
  }

  // ---- reading ----------------------------------------------------------------------------------------------------------------------

  createReader(onReadable: () => void): LogReader {
    return new DiskLogReader(this, onReadable);
  }

  reportMissing(segmentBase: number, from: number, to: number): void {
    const { directory, logger, onDamaged } = this.#options;
    logger.error('Part of a segment cannot be found; its records are passed over.', {
      file: this.segments.path(segmentBase),
      offsets: `${from} to ${to - 1}`,
      command: `gomq log verify ${directory.path}`,
    });
    onDamaged(from, to);
  }

  /**
   * Batches as they lie on disk, see StoredBatches; none at the end of what is kept.
   * @throws what the operating system answers
   */
  async readBatches(from: number, bytesMax: number, batchesMax: number): Promise<EncodedBatch[] | undefined> {
    return from >= this.#keptOffset ? [] : this.#stored.read(from, bytesMax, batchesMax);
  }

  async offsetAt(timestampMs: number): Promise<number> {
    return Math.min(await this.#stored.offsetAt(timestampMs), this.#highWatermark);
  }

  /**
   * Hands out the committed records from an offset on, but for batches in which none changes state. The slice and its bytes are only there
   * during the call.
   * @throws {GomqError} DATA_DAMAGED
   */
  replay(
    from: number,
    onRecord: (slice: RecordSlice) => void,
    onProgress?: (doneBytes: number, totalBytes: number) => void,
  ): Promise<void> {
    return this.#stored.replay(from, this.#highWatermark, onRecord, onProgress);
  }
}
