// One reader of the log on disk. What is in memory it hands out at once; for anything else it waits, together with all others that wait for the
// same. It holds on to no more than the run of records it is in, and to that only until it is at the end, has to wait, or is closed.
import { assert } from '../core/assert.js';
import type { BatchCache } from './batch-cache.js';
import { type LogReader, ReadResult, type RecordSlice } from './log.js';
import type { PageReads } from './page-reads.js';
import { RecordRun } from './record-run.js';
import type { SegmentIndex } from './segment-index.js';
import type { Segments } from './segments.js';

/** Topics that one call of `next` asks about at most, but for the rest of a batch. */
const ASKED_MAX = 4096;
/** Batches that one call passes over at most. */
const PASSED_MAX = 8192;
const NOTHING = Buffer.alloc(0);
const NO_ANSWERS = new Uint8Array(0);

const Answer = { Unknown: 0, Wanted: 1, Unwanted: 2 } as const;

/** What a reader sees of the log. */
export interface ReadableLog {
  readonly startOffset: number;
  readonly highWatermark: number;
  readonly cache: BatchCache;
  readonly segments: Segments;
  readonly pages: PageReads;
  /** Records that their segment's index has lost. */
  reportMissing(segmentBase: number, from: number, to: number): void;
}

type Wants = (topicName: string) => boolean;

export class DiskLogReader implements LogReader {
  readonly record: RecordSlice = { offset: 0, buffer: NOTHING, start: 0, end: 0 };
  position: number;
  readonly #log: ReadableLog;
  readonly #onReadable: () => void;
  #isClosed = false;
  /** Where the last record was, or what was waited for. */
  #run: RecordRun | undefined = undefined;
  /** What is waited for: the segment whose index it is, or the page. */
  #waitsForIndex: number | undefined = undefined;
  #waitsForPage: number | undefined = undefined;
  /** Of the segment it is in, where that index ends too early to be kept for all. */
  #shortIndex: SegmentIndex | undefined = undefined;
  /** Whom the answers below are from. */
  #wants: Wants | undefined = undefined;
  /** By topic id of the segment with this base offset. */
  #answers: Uint8Array = NO_ANSWERS;
  #answersOf = -1;
  /** Offsets that are in a batch which is wanted. */
  #wantedFrom = 0;
  #wantedTo = 0;
  /** In this call. */
  #asked = 0;
  #passed = 0;

  constructor(log: ReadableLog, onReadable: () => void) {
    this.#log = log;
    this.#onReadable = onReadable;
    this.position = log.highWatermark;
  }

  seek(offset: number): void {
    assert(Number.isSafeInteger(offset) && offset >= 0, `seek to offset ${offset}`);
    this.position = offset;
  }

  next(wants?: Wants): ReadResult {
    const log = this.#log;
    assert(!this.#isClosed, 'a closed reader is not read from');
    if (this.position < log.startOffset) this.position = log.startOffset;
    if (wants !== undefined && wants !== this.#wants) this.#changeWants(wants);
    this.#asked = 0;
    this.#passed = 0;
    while (this.position < log.highWatermark) {
      const { position } = this;
      if (wants !== undefined && (position < this.#wantedFrom || position >= this.#wantedTo)) {
        const result = this.#passOver(wants);
        if (result !== undefined) return this.#leave(result);
        continue;
      }
      let run = this.#run;
      if (run === undefined || position < run.baseOffset || position >= run.endOffset) {
        run = log.cache.findNewest(position) ?? this.#findRead(wants);
        if (run === undefined) return this.#leave(ReadResult.Pending);
        this.#run = run;
      }
      if (run.isDamaged) {
        this.position = run.endOffset;
        continue;
      }
      const index = position - run.baseOffset;
      const { record } = this;
      record.offset = position;
      record.buffer = run.buffer;
      record.start = run.starts[index]!;
      record.end = run.starts[index + 1]! - 4;
      this.position = position + 1;
      return ReadResult.Record;
    }
    return this.#leave(ReadResult.End);
  }

  close(): void {
    this.#isClosed = true;
    this.#stopWaiting();
    this.#leave(ReadResult.End);
    this.#answers = NO_ANSWERS;
    this.#wants = undefined;
  }

  /** The page that was waited for is there. */
  wake(run: RecordRun): void {
    this.#waitsForPage = undefined;
    // Held until the next call, so that it cannot have been pushed out of the cache again by then.
    this.#run = run;
    this.#onReadable();
  }

  /** The index that was waited for is there. */
  onIndex(index: SegmentIndex): void {
    this.#waitsForIndex = undefined;
    this.#shortIndex = this.#log.segments.index(index.baseOffset) === undefined ? index : undefined;
    this.#onReadable();
  }

  /** Lets go of memory on the way out. */
  #leave(result: ReadResult): ReadResult {
    this.#run = undefined;
    if (result === ReadResult.End) this.#shortIndex = undefined;
    this.record.buffer = NOTHING;
    return result;
  }

  #changeWants(wants: Wants): void {
    this.#wants = wants;
    this.#answersOf = -1;
    this.#wantedTo = 0;
  }

  /**
   * Moves to the next batch that is wanted, of this segment, and remembers where it ends; or to the end of the segment. A result where
   * it can go no further in this call.
   */
  #passOver(wants: Wants): ReadResult | undefined {
    const log = this.#log;
    const index = this.#index();
    if (index === undefined) return ReadResult.Pending;
    if (this.position >= index.endOffset) {
      this.position = this.#missing().endOffset;
      return undefined;
    }
    // The last batch of the active segment is followed by others only once they are committed.
    let batch = index.batchOf(this.position);
    for (; batch < index.batchCount && index.base(batch) < log.highWatermark; batch++) {
      if (this.#isWanted(index, batch, wants)) {
        this.position = Math.max(this.position, index.base(batch));
        this.#wantedFrom = index.base(batch);
        this.#wantedTo = index.end(batch);
        return undefined;
      }
      this.#passed++;
      if (this.#asked >= ASKED_MAX || this.#passed >= PASSED_MAX) {
        this.position = Math.min(index.end(batch), log.highWatermark);
        return ReadResult.Later;
      }
    }
    this.position = Math.min(index.end(batch - 1), log.highWatermark);
    return undefined;
  }

  #isWanted(index: SegmentIndex, batch: number, wants: Wants): boolean {
    const ids = index.topicIds(batch);
    if (ids === undefined) return true;
    const answers = this.#answersFor(index);
    for (const id of ids) {
      if (answers[id] === Answer.Unknown) {
        this.#asked++;
        answers[id] = wants(index.dictionary[id]!) ? Answer.Wanted : Answer.Unwanted;
      }
      if (answers[id] === Answer.Wanted) return true;
    }
    return false;
  }

  #answersFor(index: SegmentIndex): Uint8Array {
    const { length } = index.dictionary;
    if (this.#answersOf !== index.baseOffset) {
      this.#answersOf = index.baseOffset;
      this.#answers = new Uint8Array(length);
    } else if (this.#answers.length < length) {
      // The active segment learns topics.
      const grown = new Uint8Array(length * 2);
      grown.set(this.#answers);
      this.#answers = grown;
    }
    return this.#answers;
  }

  /** The index of the segment that holds the position; undefined where it has to be waited for. */
  #index(): SegmentIndex | undefined {
    const { segments } = this.#log;
    const segment = segments.find(this.position);
    const index = segments.index(segment.baseOffset) ?? this.#shortIndex;
    if (index?.baseOffset === segment.baseOffset) return index;
    if (this.#waitsForIndex !== segment.baseOffset) {
      this.#stopWaiting();
      this.#waitsForIndex = segment.baseOffset;
      segments.load(segment, this);
    }
    return undefined;
  }

  /** The run with the record at the position, where it was read before; undefined where it has to be waited for. */
  #findRead(wants: Wants | undefined): RecordRun | undefined {
    const { cache, segments, pages, highWatermark } = this.#log;
    const index = this.#index();
    if (index === undefined) return undefined;
    const { position } = this;
    if (position >= index.endOffset) return this.#missing();
    const batch = index.batchOf(position);
    const page = pages.pageOf(index, batch);
    const run = cache.findRead(page);
    if (run !== undefined && position >= run.baseOffset && position < run.endOffset) return run;
    if (this.#waitsForPage === page) return undefined;
    this.#stopWaiting();
    this.#waitsForPage = page;
    const isWanted = (one: number): boolean => wants === undefined || this.#isWanted(index, one, wants);
    pages.request(segments.path(index.baseOffset), index, batch, highWatermark, isWanted, this);
    return undefined;
  }

  /** The segment goes on, its index does not: nothing of the rest can be found. */
  #missing(): RecordRun {
    const { baseOffset, endOffset } = this.#log.segments.find(this.position);
    this.#log.reportMissing(baseOffset, this.position, endOffset);
    return RecordRun.damaged(this.position, endOffset - this.position);
  }

  #stopWaiting(): void {
    if (this.#waitsForIndex !== undefined) this.#log.segments.cancel(this);
    if (this.#waitsForPage !== undefined) this.#log.pages.cancel(this.#waitsForPage, this);
    this.#waitsForIndex = undefined;
    this.#waitsForPage = undefined;
  }
}
