// Which segments there are, and the index of each: of the active one always, of the others as long as there is room, since a thousand sealed
// segments may have more index than memory.
import { join } from 'node:path';
import { assert } from '../core/assert.js';
import type { Logger } from '../core/logger.js';
import { type BatchHeader, decodeHeader } from './batch-codec.js';
import { BATCH_HEADER_BYTES } from './batch-format.js';
import { fileName } from './file-names.js';
import type { LogReads } from './log-reads.js';
import { decodeIndex, type IndexSummary, type SegmentIndex, SegmentIndexBuilder } from './segment-index.js';

const INDEX_CACHE_BYTES = 32 * 1024 * 1024;
const SCAN_BYTES = 1024 * 1024;

/** Is told, once, that the index it waits for has come. Where that ends before its segment does, nobody else keeps it. */
export interface IndexWaiter {
  onIndex(index: SegmentIndex): void;
}

export interface SegmentsOptions {
  readonly directory: string;
  readonly reads: LogReads;
  readonly logger: Logger;
  /** Oldest first, without gaps. */
  readonly sealed: readonly IndexSummary[];
  readonly active: SegmentIndexBuilder;
}

export class Segments {
  readonly #options: SegmentsOptions;
  /** Oldest first. */
  readonly #sealed: IndexSummary[];
  #sealedBytes = 0;
  #active: SegmentIndexBuilder;
  /** By base offset; the least recently used first. */
  readonly #cache = new Map<number, SegmentIndex>();
  #cacheBytes = 0;
  /** Of segments that have no index file yet. */
  readonly #unwritten = new Map<number, SegmentIndex>();
  readonly #loading = new Map<number, Set<IndexWaiter>>();

  constructor(options: SegmentsOptions) {
    this.#options = options;
    this.#sealed = [...options.sealed];
    for (const { storedBytes } of this.#sealed) this.#sealedBytes += storedBytes;
    this.#active = options.active;
  }

  get startOffset(): number {
    return (this.#sealed[0] ?? this.#active).baseOffset;
  }

  get active(): SegmentIndexBuilder {
    return this.#active;
  }

  /** Oldest first. */
  get sealed(): readonly IndexSummary[] {
    return this.#sealed;
  }

  get sealedBytes(): number {
    return this.#sealedBytes;
  }

  path(baseOffset: number): string {
    return join(this.#options.directory, fileName(baseOffset, 'log'));
  }

  /** The segment that holds an offset which can be read. */
  find(offset: number): IndexSummary {
    const sealed = this.#sealed;
    if (offset >= this.#active.baseOffset) return this.#active;
    let low = 0;
    let high = sealed.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (sealed[middle]!.baseOffset <= offset) low = middle;
      else high = middle - 1;
    }
    return sealed[low]!;
  }

  /** The active segment has ended. Answers its index, which stays in memory until `indexWritten`. */
  seal(nextBase: number): SegmentIndex {
    const index = this.#active.build();
    const { baseOffset, endOffset, storedBytes } = index;
    const { firstTimestampMs, lastTimestampMs, lastEpoch, batchCount } = index;
    assert(endOffset === nextBase, `segment ${nextBase} follows one that ends at ${endOffset}`);
    this.#sealed.push({
      baseOffset,
      endOffset,
      storedBytes,
      firstTimestampMs,
      lastTimestampMs,
      lastEpoch,
      batchCount,
    });
    this.#sealedBytes += storedBytes;
    this.#unwritten.set(baseOffset, index);
    this.#active = new SegmentIndexBuilder(nextBase);
    return index;
  }

  indexWritten(baseOffset: number): void {
    const index = this.#unwritten.get(baseOffset);
    this.#unwritten.delete(baseOffset);
    if (index !== undefined && baseOffset >= this.startOffset) this.#keep(index);
  }

  /** Forgets the oldest segment, which is a sealed one. */
  dropOldest(): IndexSummary {
    const oldest = this.#sealed.shift();
    assert(oldest !== undefined, 'there is a sealed segment');
    this.#sealedBytes -= oldest.storedBytes;
    this.#forget(oldest.baseOffset);
    return oldest;
  }

  /** Undefined where it has to be read first. */
  index(baseOffset: number): SegmentIndex | undefined {
    if (baseOffset === this.#active.baseOffset) return this.#active;
    const index = this.#cache.get(baseOffset);
    if (index === undefined) return this.#unwritten.get(baseOffset);
    this.#cache.delete(baseOffset);
    this.#cache.set(baseOffset, index);
    return index;
  }

  /** Has the index of a sealed segment read, and wakes the waiter with it. */
  load(segment: IndexSummary, waiter: IndexWaiter): void {
    const { baseOffset } = segment;
    const waiters = this.#loading.get(baseOffset);
    if (waiters !== undefined) {
      waiters.add(waiter);
      return;
    }
    this.#loading.set(baseOffset, new Set([waiter]));
    // It does not fail: what cannot be read is scanned, and the index ends where that cannot be done.
    void this.#read(segment).then((index) => {
      // The next reader may find the rest of one that is too short.
      if (baseOffset >= this.startOffset && index.endOffset === segment.endOffset) this.#keep(index);
      const woken = this.#loading.get(baseOffset) ?? [];
      this.#loading.delete(baseOffset);
      for (const one of woken) one.onIndex(index);
    });
  }

  /** The waiter is not woken any more. */
  cancel(waiter: IndexWaiter): void {
    for (const waiters of this.#loading.values()) waiters.delete(waiter);
  }

  async #read(segment: IndexSummary): Promise<SegmentIndex> {
    const { directory, reads, logger } = this.#options;
    const path = join(directory, fileName(segment.baseOffset, 'index'));
    try {
      const index = decodeIndex(await reads.whole(path));
      if ('damage' in index) throw new Error(index.damage);
      const isOfSegment =
        index.baseOffset === segment.baseOffset &&
        index.endOffset === segment.endOffset &&
        index.storedBytes === segment.storedBytes;
      if (!isOfSegment) throw new Error('it is of another segment');
      return index;
    } catch (error) {
      // Retention may have been faster.
      if (segment.baseOffset >= this.startOffset) {
        logger.error('The index of a segment cannot be used; its segment is read instead.', {
          file: path,
          error: error as Error,
        });
      }
      return this.#scan(segment);
    }
  }

  /** What the headers of the batches tell: where they are, and nothing of their topics. It ends where they do, or where they cannot be read. */
  async #scan(segment: IndexSummary): Promise<SegmentIndex> {
    const { reads, logger } = this.#options;
    const path = this.path(segment.baseOffset);
    const builder = new SegmentIndexBuilder(segment.baseOffset);
    let piece: Buffer = Buffer.alloc(0);
    let pieceAt = 0;
    while (builder.storedBytes < segment.storedBytes) {
      const position = builder.storedBytes;
      if (position + BATCH_HEADER_BYTES > pieceAt + piece.length) {
        try {
          piece = await reads.read(path, position, SCAN_BYTES);
        } catch (error) {
          if (segment.baseOffset >= this.startOffset) {
            logger.error('A segment of the log cannot be read.', {
              file: path,
              position,
              error: error as Error,
            });
          }
          break;
        }
        pieceAt = position;
      }
      const header = decodeHeader(piece, position - pieceAt);
      if (!isNext(header, builder, segment)) break;
      builder.add({ position, header, topics: undefined });
    }
    return builder;
  }

  #keep(index: SegmentIndex): void {
    const { baseOffset } = index;
    this.#forget(baseOffset);
    this.#cache.set(baseOffset, index);
    this.#cacheBytes += index.memoryBytes;
    for (const oldest of this.#cache.keys()) {
      if (this.#cacheBytes <= INDEX_CACHE_BYTES || oldest === baseOffset) break;
      this.#forget(oldest);
    }
  }

  #forget(baseOffset: number): void {
    const index = this.#cache.get(baseOffset);
    if (index === undefined) return;
    this.#cache.delete(baseOffset);
    this.#cacheBytes -= index.memoryBytes;
  }
}

/** Whether a header is one, and of the batch that has to follow. */
function isNext(
  header: BatchHeader | { damage: string },
  builder: SegmentIndexBuilder,
  segment: IndexSummary,
): header is BatchHeader {
  return (
    !('damage' in header) &&
    header.baseOffset === builder.endOffset &&
    header.lastOffset < segment.endOffset &&
    builder.storedBytes + BATCH_HEADER_BYTES + header.storedBytes <= segment.storedBytes
  );
}
