// Reads batches from the disk for all readers. The unit is the page: the batches whose headers begin in the same 64 KiB of a segment, decoded
// together into one run, so that a backlog of tiny batches is no crowd of tiny reads. Rules: whoever waits for the same page shares one read
// and one decoding; a page is decoded in a turn of its own; so many reads at once and no more; what is damaged is told of once and passed over.
import type { Logger } from '../core/logger.js';
import type { BatchCache } from './batch-cache.js';
import { type BatchHeader, decodeHeader, decodePayload, recordPositions } from './batch-codec.js';
import { Codec } from './batch-format.js';
import type { LogReads } from './log-reads.js';
import { RecordRun } from './record-run.js';
import type { SegmentIndex } from './segment-index.js';
import type { Zstd } from './zstd.js';

const PAGE_BYTES = 64 * 1024;
/** Pages that are read ahead together. */
const AHEAD_BYTES = 1024 * 1024;
/** A page is cut short when its records are more than this: compression knows no bound. */
const RUN_BYTES_MAX = 1024 * 1024;
const READS_MAX = 4;
/** Damaged batches that are remembered, so that each is told of once. */
const DAMAGED_MAX = 4096;

/** Is told, once, that its page has come: `run` holds some of it. */
export interface PageWaiter {
  wake(run: RecordRun): void;
}

export interface PageReadsOptions {
  readonly directory: string;
  readonly reads: LogReads;
  readonly cache: BatchCache;
  readonly zstd: Zstd;
  readonly logger: Logger;
  /** Nothing below is there any more. */
  startOffset(): number;
  /** Records before it may be let go of by the cache. */
  committed(): number;
  onDamaged(from: number, to: number): void;
}

/** Batches [from, to) of a segment, which are of one page: all of it, or what is there so far, or the rest. */
interface Page {
  readonly key: number;
  readonly path: string;
  readonly index: SegmentIndex;
  readonly from: number;
  readonly to: number;
  readonly waiters: Set<PageWaiter>;
}

export class PageReads {
  readonly #options: PageReadsOptions;
  readonly #pages = new Map<number, Page>();
  /** Pages that follow one another in a file. */
  readonly #queue: Page[][] = [];
  readonly #damaged = new Set<number>();
  #running = 0;
  #isClosed = false;

  constructor(options: PageReadsOptions) {
    this.#options = options;
  }

  /** Names the page of a batch, in the whole log. */
  pageOf(index: SegmentIndex, batch: number): number {
    return index.base(firstOfPage(index, batch));
  }

  /**
   * Has the page of a batch read, and pages behind it that are wanted too, and wakes the waiter when the first one is there.
   * @param path of the segment
   * @param end offset up to which batches are wanted
   */
  request(
    path: string,
    index: SegmentIndex,
    batch: number,
    end: number,
    wants: (batch: number) => boolean,
    waiter: PageWaiter,
  ): void {
    const key = this.pageOf(index, batch);
    const known = this.#pages.get(key);
    if (known !== undefined) {
      known.waiters.add(waiter);
      return;
    }
    const pages: Page[] = [];
    let bytes = 0;
    for (let from = batch; from < index.batchCount && index.base(from) < end; ) {
      const to = endOfPage(index, from);
      const page = { key: this.pageOf(index, from), path, index, from, to, waiters: new Set<PageWaiter>() };
      bytes += pageBytes(page);
      const isAhead = pages.length > 0;
      if (isAhead && (bytes > AHEAD_BYTES || !this.#isMissing(page) || !some(from, to, wants))) break;
      pages.push(page);
      from = to;
    }
    pages[0]!.waiters.add(waiter);
    for (const page of pages) this.#pages.set(page.key, page);
    this.#queue.push(pages);
    this.#next();
  }

  /** The waiter is not woken any more. */
  cancel(page: number, waiter: PageWaiter): void {
    this.#pages.get(page)?.waiters.delete(waiter);
  }

  close(): void {
    this.#isClosed = true;
    this.#queue.length = 0;
    this.#pages.clear();
  }

  #isMissing(page: Page): boolean {
    if (this.#pages.has(page.key)) return false;
    const run = this.#options.cache.findRead(page.key);
    return run === undefined || run.endOffset <= page.index.base(page.from);
  }

  #next(): void {
    while (this.#running < READS_MAX) {
      const pages = this.#queue.shift();
      if (pages === undefined) return;
      if (pages.every(({ waiters }) => waiters.size === 0)) {
        for (const { key } of pages) this.#pages.delete(key);
        continue;
      }
      this.#running++;
      void this.#read(pages).then(() => {
        this.#running--;
        if (!this.#isClosed) this.#next();
      });
    }
  }

  /** Does not fail: what cannot be read counts as damaged. */
  async #read(pages: readonly Page[]): Promise<void> {
    const { reads } = this.#options;
    const first = pages[0]!;
    const start = first.index.position(first.from);
    const length = pages.reduce((sum, page) => sum + pageBytes(page), 0);
    let bytes: Buffer | undefined;
    let reason = '';
    try {
      bytes = await reads.read(first.path, start, length);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      reason = code ?? message;
    }
    for (const page of pages) {
      // Each in a turn of its own; others have theirs in between.
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#isClosed) return;
      const at = page.index.position(page.from) - start;
      const run = bytes === undefined ? this.#damage(page, reason) : this.#decode(page, bytes.subarray(at));
      this.#finish(page, run);
    }
  }

  #finish(page: Page, run: RecordRun): void {
    const { cache, committed } = this.#options;
    this.#pages.delete(page.key);
    cache.putRead(page.key, run);
    cache.trim(committed());
    for (const waiter of page.waiters) waiter.wake(run);
  }

  /** As many batches as are whole and not too much together; where already the first is damaged, that one. */
  #decode({ path, index, from, to }: Page, bytes: Buffer): RecordRun {
    const batches: Batch[] = [];
    const start = index.position(from);
    let total = 0;
    for (let i = from; i < to; i++) {
      const at = index.position(i) - start;
      const batch = decodeBatch(this.#options.zstd, index, i, bytes.subarray(at, at + index.batchBytes(i)));
      if ('damage' in batch) {
        if (batches.length === 0) return this.#damage({ path, index, from }, batch.damage);
        break;
      }
      total += batch.payload.length;
      if (batches.length > 0 && total > RUN_BYTES_MAX) break;
      batches.push(batch);
    }
    return runOf(index.base(from), batches);
  }

  /** The first batch of a page cannot be read. */
  #damage({ path, index, from }: Pick<Page, 'path' | 'index' | 'from'>, damage: string): RecordRun {
    const { directory, logger, startOffset, onDamaged } = this.#options;
    const base = index.base(from);
    const end = index.end(from);
    // What retention has removed in the meantime is not damaged: its readers move on by themselves.
    if (base >= startOffset() && !this.#damaged.has(base)) {
      if (this.#damaged.size >= DAMAGED_MAX) this.#damaged.clear();
      this.#damaged.add(base);
      logger.error('A batch of the log is damaged; its records are passed over.', {
        file: path,
        position: index.position(from),
        offsets: `${base} to ${end - 1}`,
        damage,
        command: `gomq log verify ${directory}`,
      });
      onDamaged(base, end);
    }
    return RecordRun.damaged(base, end - base);
  }
}

interface Batch {
  readonly header: BatchHeader;
  readonly payload: Buffer;
}

/** @param bytes of the batch, as its index has it */
function decodeBatch(
  zstd: Zstd,
  index: SegmentIndex,
  batch: number,
  bytes: Buffer,
): Batch | { damage: string } {
  const header = decodeHeader(bytes, 0);
  if ('damage' in header) return header;
  const isRight = header.baseOffset === index.base(batch) && header.lastOffset === index.end(batch) - 1;
  if (!isRight) return { damage: `records from ${header.baseOffset} to ${header.lastOffset}` };
  const payload = decodePayload(zstd, header, bytes);
  return 'damage' in payload ? payload : { header, payload };
}

/** The records of batches that follow one another. */
function runOf(baseOffset: number, batches: readonly Batch[]): RecordRun {
  const bytes = batches.reduce((sum, { payload }) => sum + payload.length, 0);
  const count = batches.reduce((sum, { header }) => sum + header.recordCount, 0);
  const { header, payload } = batches[0]!;
  if (batches.length === 1 && header.codec !== Codec.None) {
    return new RecordRun(baseOffset, payload, recordPositions(header, payload), count);
  }
  // A payload that was not compressed is a part of what was read, which is not to stay because of it.
  const buffer = Buffer.allocUnsafeSlow(bytes);
  const starts = new Uint32Array(count + 1);
  let at = 0;
  let record = 0;
  for (const one of batches) {
    one.payload.copy(buffer, at);
    const positions = recordPositions(one.header, one.payload);
    for (const position of positions) starts[record++] = at + position;
    // The last entry is where the next batch begins.
    record--;
    at += one.payload.length;
  }
  return new RecordRun(baseOffset, buffer, starts, count);
}

/** The first batch of the page that a batch is in. */
function firstOfPage(index: SegmentIndex, batch: number): number {
  return batchFrom(index, pageStart(index, batch), 0, batch);
}

/** One past the last batch of the page that a batch is in. */
function endOfPage(index: SegmentIndex, batch: number): number {
  return batchFrom(index, pageStart(index, batch) + PAGE_BYTES, batch + 1, index.batchCount);
}

function pageStart(index: SegmentIndex, batch: number): number {
  const position = index.position(batch);
  return position - (position % PAGE_BYTES);
}

/** The first batch of [low, high) that begins at `position` or later; `high` where there is none. */
function batchFrom(index: SegmentIndex, position: number, low: number, high: number): number {
  let from = low;
  let to = high;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (index.position(middle) >= position) to = middle;
    else from = middle + 1;
  }
  return from;
}

function pageBytes({ index, from, to }: Page): number {
  return index.position(to - 1) + index.batchBytes(to - 1) - index.position(from);
}

function some(from: number, to: number, wants: (batch: number) => boolean): boolean {
  for (let batch = from; batch < to; batch++) if (wants(batch)) return true;
  return false;
}
