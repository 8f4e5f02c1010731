// An open log, as much of DiskLog as replication uses: records are appended, written and synced in turns by a thread of its own, and committed when
// somebody says so.
import { assert } from '../../src/core/assert.js';
import type { BatchHeader } from '../../src/log/batch-codec.js';
import type { EncodedBatch } from '../../src/log/stored-batches.js';
import { type Directory, type LogRecord, makeRecord, recordOf } from './directory.js';
import type { Life, World } from './world.js';

/** Few, so that it takes a while to catch up. */
const READ_RECORDS = 6;

export interface LogWatcher {
  onCreated(record: LogRecord): void;
  onAppended(record: LogRecord, last: LogRecord | undefined): void;
  onCommitted(from: number, to: number): void;
}

export interface LogOptions {
  readonly world: World;
  readonly life: Life;
  readonly directory: Directory;
  readonly epoch: number;
  readonly committed: number;
  /** Upper bound of what a write, and what a sync takes. */
  readonly slowMs: () => number;
  readonly watcher: LogWatcher;
}

export class SimulatedLog {
  readonly #options: LogOptions;
  #epoch: number;
  #last: LogRecord | undefined;
  #keptOffset: number;
  #highWatermark: number;
  #queue: LogRecord[] = [];
  #inFlight: LogRecord[] = [];
  #isWritten = false;
  #isClosed = false;
  #keptListener: (keptOffset: number) => void = () => undefined;
  #mirrorListener: (batches: readonly EncodedBatch[]) => void = () => undefined;
  #commitListeners: ((highWatermark: number) => void)[] = [];
  #settling: (() => void)[] = [];

  constructor(options: LogOptions) {
    this.#options = options;
    const { directory, epoch, committed } = options;
    this.#last = directory.file.at(-1);
    this.#epoch = Math.max(epoch, this.#last?.epoch ?? 0);
    this.#keptOffset = directory.file.length;
    this.#highWatermark = 0;
    this.#commitTo(Math.min(committed, this.#keptOffset));
  }

  get epoch(): number {
    return this.#epoch;
  }

  get startOffset(): number {
    return this.#options.directory.start;
  }

  get endOffset(): number {
    return this.#last === undefined ? 0 : this.#last.offset + 1;
  }

  get keptOffset(): number {
    return this.#keptOffset;
  }

  get highWatermark(): number {
    return this.#highWatermark;
  }

  /** Disks fail here, and are slow, but are never full. */
  roomBytes(): number {
    return Number.POSITIVE_INFINITY;
  }

  /** What is on its way to the disk. */
  get writing(): readonly LogRecord[] {
    return this.#isWritten ? [] : this.#inFlight;
  }

  append(content: string): LogRecord {
    assert(!this.#isClosed, 'append to a log that is open');
    const record = makeRecord(this.#epoch, this.endOffset, content, this.#last);
    this.#options.watcher.onCreated(record);
    this.#push(record);
    return record;
  }

  /** @param header of which the record knows all */
  appendBatch(bytes: Buffer, header: BatchHeader): void {
    assert(!this.#isClosed, 'a batch for a log that is open');
    assert(header.baseOffset === this.endOffset && header.epoch >= this.#epoch, 'the next batch');
    this.#epoch = header.epoch;
    this.#push(recordOf(bytes));
  }

  flush(): void {
    this.#handOver();
  }

  setEpoch(epoch: number): void {
    assert(epoch >= this.#epoch, `epoch ${epoch} after ${this.#epoch}`);
    this.#epoch = epoch;
  }

  onKept(listener: (keptOffset: number) => void): void {
    this.#keptListener = listener;
  }

  mirror(listener: (batches: readonly EncodedBatch[]) => void): void {
    this.#mirrorListener = listener;
  }

  onCommit(listener: (highWatermark: number) => void): void {
    this.#commitListeners.push(listener);
  }

  advance(offset: number): void {
    this.#commitTo(Math.min(offset, this.#keptOffset));
  }

  /** Calls back when all that was appended is kept. */
  settled(settled: () => void): void {
    this.#handOver();
    if (this.#keptOffset === this.endOffset) settled();
    else this.#settling.push(settled);
  }

  /** Goes on from where the directory ends by now. Nothing is on its way to the disk. */
  cut(): void {
    const { directory, epoch } = this.#options;
    assert(this.#keptOffset === this.endOffset, 'nothing is on its way');
    this.#last = directory.file.at(-1);
    this.#epoch = Math.max(epoch, this.#last?.epoch ?? 0);
    this.#keptOffset = directory.file.length;
  }

  close(closed: () => void): void {
    this.settled(() => {
      this.#isClosed = true;
      closed();
    });
  }

  /** Answers like a promise, when the disk has had its time. */
  readBatches(from: number): { then(found: (batches: EncodedBatch[] | undefined) => void): void } {
    const { world, life, directory, slowMs } = this.#options;
    return {
      // Time is simulated, and a promise would wait for the real one.
      // biome-ignore lint/suspicious/noThenProperty: it is one on purpose
      then: (found) =>
        world.after(world.delay(0.1, slowMs()), life, () => {
          if (from < directory.start) found(undefined);
          else
            found(
              directory.file
                .slice(from, Math.min(this.#keptOffset, from + READ_RECORDS))
                .map(({ batch }) => batch),
            );
        }),
    };
  }

  #push(record: LogRecord): void {
    this.#options.watcher.onAppended(record, this.#last);
    this.#last = record;
    this.#queue.push(record);
  }

  #commitTo(to: number): void {
    const from = this.#highWatermark;
    if (to <= from) return;
    this.#highWatermark = to;
    this.#options.watcher.onCommitted(from, to);
    for (const listener of this.#commitListeners) listener(to);
  }

  /** One write at a time, of everything there is. */
  #handOver(): void {
    if (this.#inFlight.length > 0 || this.#queue.length === 0 || this.#isClosed) return;
    const { world, life, directory, slowMs } = this.#options;
    const written = this.#queue;
    this.#queue = [];
    this.#inFlight = written;
    this.#isWritten = false;
    world.after(world.delay(0.02, slowMs() / 4), life, () => {
      directory.file.push(...written);
      this.#isWritten = true;
      const end = directory.file.length;
      // The platter does its part whether the process is there to hear of it or not; the machine has to be.
      const file = directory.file;
      world.after(world.delay(0.1, slowMs()), undefined, () => {
        if (directory.file !== file || file.length < end || file[end - 1] !== written.at(-1)) return;
        if (life.isAlive || world.random.chance(0.5)) directory.sync(end);
        world.reach(life, () => this.#onWritten(end));
      });
      this.#mirrorListener(written.map(({ batch }) => batch));
    });
  }

  #onWritten(end: number): void {
    this.#inFlight = [];
    this.#keptOffset = end;
    this.#handOver();
    this.#keptListener(end);
    this.#handOver();
    if (this.#keptOffset !== this.endOffset) return;
    for (const settled of this.#settling.splice(0)) settled();
  }
}
