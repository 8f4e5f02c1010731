// The log in memory: a queue of segments of bounded size. A record is committed at the first flush after its append. It keeps the promises
// of the Log interface but one: nothing survives the process.
//
// Each segment is cut into blocks of about 64 KiB, with the set of topics in each, so that a reader can pass over what it does not want.
import { assert } from '../core/assert.js';
import type { Clock } from '../core/clock.js';
import { type Log, type LogReader, ReadResult, type RecordSlice, type RetentionEvents } from './log.js';

/** A block is closed when it holds this much: the granularity at which readers skip. */
const BLOCK_BYTES = 65_536;
const INITIAL_RECORDS = 1024;
/** Topics that one call of `next` asks about at most, but for the rest of a block. */
const ASKED_MAX = 4096;

class Block {
  /** Index in the segment of the first record. */
  readonly first: number;
  /** When it was begun. */
  readonly timestampMs: number;
  /** Of its records; '' for those that are about none. */
  readonly topics = new Set<string>();

  constructor(first: number, timestampMs: number) {
    this.first = first;
    this.timestampMs = timestampMs;
  }
}

class Segment {
  readonly baseOffset: number;
  readonly buffer: Buffer;
  /** Byte position of each record; the entry after the last is where the next one will start. */
  positions = new Uint32Array(INITIAL_RECORDS);
  count = 0;
  readonly blocks: Block[] = [];

  constructor(baseOffset: number, bytes: number) {
    this.baseOffset = baseOffset;
    // Not from the pool and not zeroed: pages are only touched as they fill.
    this.buffer = Buffer.allocUnsafeSlow(bytes);
  }

  get endOffset(): number {
    return this.baseOffset + this.count;
  }

  get usedBytes(): number {
    return this.positions[this.count]!;
  }

  /** The block that holds the record with this index. */
  blockOf(index: number): number {
    let low = 0;
    let high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.blocks[middle]!.first <= index) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

export interface MemoryLogOptions extends RetentionEvents {
  clock: Clock;
  /** Records beyond this many bytes go once nobody needs them. */
  retentionBytes: number;
  /** Records beyond this many bytes go even if somebody needs them. */
  hardLimitBytes: number;
  segmentBytes: number;
}

export class MemoryLog implements Log {
  readonly #options: MemoryLogOptions;
  #segments: Segment[] = [];
  #endOffset = 0;
  #highWatermark = 0;
  #uncommittedBytes = 0;
  /** Bytes in all segments but the active one. */
  #sealedBytes = 0;
  #lastTopic: string | undefined = undefined;
  #listener: (from: number, to: number) => void = () => undefined;
  readonly #slice: RecordSlice;

  constructor(options: MemoryLogOptions) {
    this.#options = options;
    const segment = this.#newSegment(options.segmentBytes);
    this.#slice = { offset: 0, buffer: segment.buffer, start: 0, end: 0 };
  }

  get startOffset(): number {
    return this.#segments[0]!.baseOffset;
  }

  get endOffset(): number {
    return this.#endOffset;
  }

  get highWatermark(): number {
    return this.#highWatermark;
  }

  get uncommittedBytes(): number {
    return this.#uncommittedBytes;
  }

  get isFull(): boolean {
    return false;
  }

  get isReserveSpent(): boolean {
    return false;
  }

  get storedBytes(): number {
    return this.#sealedBytes + this.#segments.at(-1)!.usedBytes;
  }

  append(topicName: string, length: number, _changesState: boolean): RecordSlice {
    let segment = this.#segments.at(-1)!;
    let start = segment.usedBytes;
    if (start + length > segment.buffer.length) {
      segment = this.#roll(length);
      start = 0;
    }
    const index = segment.count;
    let block = segment.blocks.at(-1);
    if (block === undefined || start - segment.positions[block.first]! >= BLOCK_BYTES) {
      block = new Block(index, this.#options.clock.wallMs());
      segment.blocks.push(block);
      this.#lastTopic = undefined;
    }
    if (topicName !== this.#lastTopic) {
      block.topics.add(topicName);
      this.#lastTopic = topicName;
    }
    if (index + 2 > segment.positions.length) {
      const grown = new Uint32Array(segment.positions.length * 2);
      grown.set(segment.positions);
      segment.positions = grown;
    }
    segment.positions[index + 1] = start + length;
    segment.count = index + 1;
    this.#uncommittedBytes += length;
    const slice = this.#slice;
    slice.offset = this.#endOffset++;
    slice.buffer = segment.buffer;
    slice.start = start;
    slice.end = start + length;
    return slice;
  }

  flush(): void {
    this.#commit();
    this.#retain();
  }

  #commit(): void {
    if (this.#highWatermark === this.#endOffset) return;
    const from = this.#highWatermark;
    this.#highWatermark = this.#endOffset;
    this.#uncommittedBytes = 0;
    this.#listener(from, this.#highWatermark);
  }

  onCommit(listener: (from: number, to: number) => void): void {
    this.#listener = listener;
  }

  createReader(_onReadable: () => void): LogReader {
    return new MemoryLogReader(this);
  }

  async offsetAt(timestampMs: number): Promise<number> {
    let offset = this.startOffset;
    for (const { baseOffset, blocks } of this.#segments) {
      for (const { first, timestampMs: begun } of blocks) {
        if (begun >= timestampMs) return Math.min(offset, this.#highWatermark);
        offset = baseOffset + first;
      }
    }
    // The last block was begun before, and may have grown since.
    return Math.min(offset, this.#highWatermark);
  }

  async close(): Promise<void> {
    this.#segments = [new Segment(this.#endOffset, 0)];
    this.#sealedBytes = 0;
  }

  /** The segment that holds the offset, which must be one that can be read. */
  segmentOf(offset: number): Segment {
    let low = 0;
    let high = this.#segments.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#segments[middle]!.baseOffset <= offset) low = middle;
      else high = middle - 1;
    }
    return this.#segments[low]!;
  }

  #newSegment(bytes: number): Segment {
    const segment = new Segment(this.#endOffset, bytes);
    this.#segments.push(segment);
    return segment;
  }

  /** Seals the active segment and starts one with room for `length` bytes. */
  #roll(length: number): Segment {
    this.#sealedBytes += this.#segments.at(-1)!.usedBytes;
    return this.#newSegment(Math.max(this.#options.segmentBytes, length));
  }

  #retain(): void {
    const { retentionBytes, hardLimitBytes } = this.#options;
    if (this.#sealedBytes <= retentionBytes) return;
    while (this.#segments.length > 1 && this.#sealedBytes > retentionBytes) {
      const oldest = this.#segments[0]!;
      // What is not committed is still on its way to subscribers and acks: it stays whatever the limits say.
      if (oldest.endOffset > this.#highWatermark) return;
      const neededFrom = this.#options.neededFrom(oldest.endOffset) ?? oldest.baseOffset;
      const isNeeded = neededFrom < oldest.endOffset;
      if (isNeeded && this.#sealedBytes <= hardLimitBytes) return;
      this.#segments.shift();
      this.#sealedBytes -= oldest.usedBytes;
      if (isNeeded) this.#options.onLost(Math.max(neededFrom, oldest.baseOffset), oldest.endOffset);
    }
  }
}

const NOTHING = Buffer.alloc(0);

class MemoryLogReader implements LogReader {
  readonly #log: MemoryLog;
  readonly record: RecordSlice;
  /** Where the last record was: it keeps that memory alive. */
  #segment: Segment | undefined = undefined;
  /** The last block that `wants` was asked about, and what it answered. */
  #askedBlock: Block | undefined;
  /** Topics that `wants` was asked about in this call. */
  #asked = 0;
  position: number;

  constructor(log: MemoryLog) {
    this.#log = log;
    this.position = log.highWatermark;
    this.record = { offset: 0, buffer: NOTHING, start: 0, end: 0 };
  }

  seek(offset: number): void {
    assert(Number.isSafeInteger(offset) && offset >= 0, `seek to offset ${offset}`);
    this.position = offset;
  }

  next(wants?: (topicName: string) => boolean): ReadResult {
    const log = this.#log;
    if (this.position < log.startOffset) this.position = log.startOffset;
    let segment = this.#segment;
    this.#asked = 0;
    while (this.position < log.highWatermark) {
      const position = this.position;
      // Segments that retention dropped are found out by the offset: this one may be gone, and its memory stays until we let go.
      if (segment === undefined || position < segment.baseOffset || position >= segment.endOffset) {
        segment = log.segmentOf(position);
        this.#segment = segment;
        this.#askedBlock = undefined;
      }
      const index = position - segment.baseOffset;
      if (wants !== undefined && this.#passOver(segment, index, wants)) {
        if (this.#asked >= ASKED_MAX) return ReadResult.Later;
        continue;
      }
      const record = this.record;
      record.offset = position;
      record.buffer = segment.buffer;
      record.start = segment.positions[index]!;
      record.end = segment.positions[index + 1]!;
      this.position = position + 1;
      return ReadResult.Record;
    }
    return ReadResult.End;
  }

  close(): void {
    this.#segment = undefined;
    this.record.buffer = NOTHING;
  }

  /** Moves beyond the block that holds `index` when nothing in it is wanted. */
  #passOver(segment: Segment, index: number, wants: (topicName: string) => boolean): boolean {
    const at = segment.blockOf(index);
    const block = segment.blocks[at]!;
    if (block === this.#askedBlock) return false;
    // The last block of the active segment still grows, so an answer about it would not last.
    const next = segment.blocks[at + 1];
    for (const topicName of block.topics) {
      if (topicName === '') continue;
      this.#asked++;
      if (wants(topicName)) {
        if (next !== undefined) this.#askedBlock = block;
        return false;
      }
    }
    const nextOffset = next === undefined ? segment.endOffset : segment.baseOffset + next.first;
    this.position = Math.min(nextOffset, this.#log.highWatermark);
    return true;
  }
}
