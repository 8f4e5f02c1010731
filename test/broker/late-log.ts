// A log as a disk makes it, for tests, driven by a seed: records are committed some turns after the flush, in parts and outside the broker's
// turn; whatever is not in the newest batch has to be waited for by each reader; a read may say Later. It keeps every promise of the Log
// interface and no more than that, so whoever relies on how the log in memory happens to behave is found out.
import assert from 'node:assert/strict';
import { type Log, type LogReader, ReadResult, type RecordSlice } from '../../src/log/log.js';
import type { MemoryLogOptions } from '../../src/log/memory-log.js';

export interface LateBehaviour {
  seed: number;
  /** Turns between two commits, at most. */
  commitTurnsMax: number;
  /** Records that become committed at once, at most; chosen anew for every commit. */
  batchRecordsMax: number;
  /** Turns until a pending read can go on, at most. */
  readTurnsMax: number;
  /** One in so many calls that may pass records over says Later; 0 for none. */
  laterOneIn: number;
  /** A record is in memory only while its commit is told of. */
  isForgetful: boolean;
  /** Nothing is committed but by `commit`, nothing becomes readable but by `load`. */
  isManual: boolean;
}

const DEFAULTS: LateBehaviour = {
  seed: 1,
  commitTurnsMax: 3,
  batchRecordsMax: 6,
  readTurnsMax: 3,
  laterOneIn: 8,
  isForgetful: false,
  isManual: false,
};

/** Records of which the topics are known without reading them. */
const BLOCK_RECORDS = 4;

interface LateRecord {
  readonly topicName: string;
  readonly bytes: Buffer;
}

export class LateLog implements Log {
  readonly behaviour: LateBehaviour;
  /** Grows as long as something is under way. */
  activity = 0;
  /** Calls that came after `close`. */
  flushesAfterClose = 0;
  /** How often a read had to be waited for, one said Later, and a commit was of a part of what was there. */
  readonly counters = { pending: 0, later: 0, inParts: 0 };
  readonly #options: MemoryLogOptions;
  readonly #records: LateRecord[] = [];
  startOffset = 0;
  highWatermark = 0;
  uncommittedBytes = 0;
  storedBytes = 0;
  isFull = false;
  isReserveSpent = false;
  /** Records below may become committed. */
  #flushed = 0;
  /** The newest batch starts here. */
  #inMemoryFrom = 0;
  /** The last offset, exclusive, of each sealed segment with its bytes. */
  readonly #sealed: { end: number; bytes: number }[] = [];
  #activeBytes = 0;
  #isCommitScheduled = false;
  #isClosed = false;
  #listener: (from: number, to: number) => void = () => undefined;
  readonly #loads = new Set<() => void>();
  #random: number;

  constructor(options: MemoryLogOptions, behaviour: Partial<LateBehaviour> = {}) {
    this.#options = options;
    this.behaviour = { ...DEFAULTS, ...behaviour };
    this.#random = this.behaviour.seed | 0;
  }

  /**
   * What a process finds after this one has died: the records before `end`, all of them committed, none of them in memory. What is committed
   * here is among them.
   */
  successor(options: MemoryLogOptions, end: number): LateLog {
    assert.ok(end >= this.highWatermark && end <= this.endOffset, 'what is committed is kept');
    const log = new LateLog(options, { ...this.behaviour, seed: this.draw(0x7fff_ffff) });
    for (const { topicName, bytes } of this.#records.slice(0, end)) {
      log.append(topicName, bytes.length, true).buffer.set(bytes);
    }
    log.startOffset = this.startOffset;
    log.highWatermark = end;
    log.uncommittedBytes = 0;
    log.#flushed = end;
    log.#inMemoryFrom = end;
    return log;
  }

  get endOffset(): number {
    return this.#records.length;
  }

  /** From 1 to `max`. */
  draw(max: number): number {
    this.#random = (this.#random + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#random ^ (this.#random >>> 15), this.#random | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return 1 + (((t ^ (t >>> 14)) >>> 0) % max);
  }

  // ---- writing ----------------------------------------------------------------------------------------------------------------------

  append(topicName: string, length: number, _changesState: boolean): RecordSlice {
    assert.ok(!this.#isClosed, 'append to a log that is closed');
    if (this.#activeBytes > 0 && this.#activeBytes + length > this.#options.segmentBytes) {
      this.#sealed.push({ end: this.endOffset, bytes: this.#activeBytes });
      this.#activeBytes = 0;
    }
    const bytes = Buffer.alloc(length);
    const offset = this.#records.push({ topicName, bytes }) - 1;
    this.#activeBytes += length;
    this.storedBytes += length;
    this.uncommittedBytes += length;
    return { offset, buffer: bytes, start: 0, end: length };
  }

  flush(): void {
    if (this.#isClosed) {
      this.flushesAfterClose++;
      return;
    }
    this.#flushed = this.endOffset;
    this.#scheduleCommit();
    this.#retain();
  }

  onCommit(listener: (from: number, to: number) => void): void {
    this.#listener = listener;
  }

  #scheduleCommit(): void {
    const isIdle = this.#flushed === this.highWatermark;
    if (isIdle || this.#isCommitScheduled || this.behaviour.isManual) return;
    this.#isCommitScheduled = true;
    this.#after(this.draw(this.behaviour.commitTurnsMax), () => {
      this.#isCommitScheduled = false;
      this.commit(this.draw(3) === 1 ? 1 : this.draw(this.behaviour.batchRecordsMax));
      this.#scheduleCommit();
    });
  }

  /** Commits up to so many records of those that were flushed. */
  commit(records: number): void {
    const from = this.highWatermark;
    const to = Math.min(from + records, this.#flushed);
    if (to === from) return;
    this.#inMemoryFrom = from;
    this.highWatermark = to;
    for (let offset = from; offset < to; offset++) this.uncommittedBytes -= this.length(offset);
    if (to < this.endOffset) this.counters.inParts++;
    this.#listener(from, to);
    if (this.behaviour.isForgetful) this.#inMemoryFrom = to;
  }

  /** Commits up to so many publishes of those that were flushed, and the other records before, between and behind them. */
  commitPublishes(publishes: number): void {
    let to = this.highWatermark;
    for (let left = publishes; to < this.#flushed; to++) {
      if (this.topicName(to) === '') continue;
      if (left === 0) break;
      left--;
    }
    this.commit(to - this.highWatermark);
  }

  /** It knows nothing of time, so everything is as late as may be. */
  async offsetAt(_timestampMs: number): Promise<number> {
    return this.startOffset;
  }

  /** Commits what is left, one record after the other. */
  async close(): Promise<void> {
    while (this.highWatermark < this.endOffset) {
      await new Promise((resolve) => setImmediate(resolve));
      this.#flushed = this.endOffset;
      this.commit(1);
    }
    this.#isClosed = true;
  }

  #retain(): void {
    const { retentionBytes, hardLimitBytes } = this.#options;
    const sealedBytes = (): number => this.#sealed.reduce((sum, { bytes }) => sum + bytes, 0);
    while (this.#sealed.length > 0 && sealedBytes() > retentionBytes) {
      const { end, bytes } = this.#sealed[0]!;
      if (end > this.highWatermark) return;
      const from = this.startOffset;
      const neededFrom = this.#options.neededFrom(end) ?? from;
      const isNeeded = neededFrom < end;
      if (isNeeded && sealedBytes() <= hardLimitBytes) return;
      this.#sealed.shift();
      this.storedBytes -= bytes;
      this.startOffset = end;
      // Whoever reads what is gone reads nonsense.
      for (let offset = from; offset < end; offset++) this.#records[offset]!.bytes.fill(0xee);
      if (isNeeded) this.#options.onLost(Math.max(neededFrom, from), end);
    }
  }

  // ---- reading ----------------------------------------------------------------------------------------------------------------------

  createReader(onReadable: () => void): LogReader {
    return new LateReader(this, onReadable);
  }

  isInMemory(offset: number): boolean {
    return offset >= this.#inMemoryFrom;
  }

  topicName(offset: number): string {
    return this.#records[offset]!.topicName;
  }

  bytes(offset: number): Buffer {
    return this.#records[offset]!.bytes;
  }

  length(offset: number): number {
    return this.#records[offset]!.bytes.length;
  }

  /** Has a read ended some turns later. */
  schedule(load: () => void): void {
    if (this.behaviour.isManual) this.#loads.add(load);
    else this.#after(this.draw(this.behaviour.readTurnsMax), load);
  }

  cancel(load: () => void): void {
    this.#loads.delete(load);
  }

  /** Reads that are waited for. */
  get loading(): number {
    return this.#loads.size;
  }

  /** Ends the reads that are waited for now, or the oldest of them. */
  load(count = this.#loads.size): void {
    for (const load of [...this.#loads].slice(0, count)) {
      this.#loads.delete(load);
      load();
    }
  }

  #after(turns: number, work: () => void): void {
    setImmediate(() => {
      this.activity++;
      if (turns > 1) this.#after(turns - 1, work);
      else work();
    });
  }
}

class LateReader implements LogReader {
  readonly record: RecordSlice = { offset: 0, buffer: Buffer.alloc(0), start: 0, end: 0 };
  position: number;
  readonly #log: LateLog;
  readonly #onReadable: () => void;
  /** What this reader has read in: [from, to). */
  #loaded = { from: 0, to: 0 };
  #load: (() => void) | undefined = undefined;
  #isClosed = false;

  constructor(log: LateLog, onReadable: () => void) {
    this.#log = log;
    this.#onReadable = onReadable;
    this.position = log.highWatermark;
  }

  seek(offset: number): void {
    assert.ok(Number.isSafeInteger(offset) && offset >= 0, `seek to offset ${offset}`);
    this.position = offset;
  }

  next(wants?: (topicName: string) => boolean): ReadResult {
    const log = this.#log;
    assert.ok(!this.#isClosed, 'a closed reader is not read from');
    if (this.position < log.startOffset) this.position = log.startOffset;
    const { laterOneIn } = log.behaviour;
    while (this.position < log.highWatermark) {
      if (wants !== undefined && this.#passOver(wants)) {
        if (laterOneIn > 0 && log.draw(laterOneIn) === 1) {
          log.counters.later++;
          return ReadResult.Later;
        }
        continue;
      }
      const offset = this.position;
      const isLoaded = offset >= this.#loaded.from && offset < this.#loaded.to;
      if (!isLoaded && !log.isInMemory(offset)) {
        this.#wait();
        return ReadResult.Pending;
      }
      this.record.offset = offset;
      this.record.buffer = log.bytes(offset);
      this.record.end = log.length(offset);
      this.position = offset + 1;
      return ReadResult.Record;
    }
    return ReadResult.End;
  }

  close(): void {
    this.#isClosed = true;
    if (this.#load !== undefined) this.#log.cancel(this.#load);
  }

  #wait(): void {
    this.#log.counters.pending++;
    if (this.#load !== undefined) return;
    const from = this.position;
    const to = Math.min(from + this.#log.draw(8), this.#log.highWatermark);
    const load = (): void => {
      this.#load = undefined;
      if (this.#isClosed) return;
      this.#loaded = { from, to };
      this.#onReadable();
    };
    this.#load = load;
    this.#log.schedule(load);
  }

  /** Moves beyond the block of the next record when nothing in it is wanted. */
  #passOver(wants: (topicName: string) => boolean): boolean {
    const log = this.#log;
    const end = Math.min(this.position - (this.position % BLOCK_RECORDS) + BLOCK_RECORDS, log.highWatermark);
    for (let offset = this.position; offset < end; offset++) {
      const topicName = log.topicName(offset);
      if (topicName !== '' && wants(topicName)) return false;
    }
    this.position = end;
    return true;
  }
}
