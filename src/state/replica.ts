// The state of a member: it follows the log as that is committed. Batches that change state are held in memory until they are; where that would be
// too much, or the process has just begun, they are read from the disk again.
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import { type BatchHeader, decodePayload, recordPositions } from '../log/batch-codec.js';
import { BatchFlag, RECORD_LENGTH_BYTES } from '../log/batch-format.js';
import type { DiskLog } from '../log/disk-log.js';
import type { RecordSlice } from '../log/log.js';
import type { Zstd } from '../log/zstd.js';
import { applyRecord } from './apply.js';
import type { State } from './state.js';

/** Bytes of batches that wait for their commit. */
const HELD_BYTES_MAX = 64 * 1024 * 1024;

interface HeldBatch {
  readonly header: BatchHeader;
  readonly bytes: Buffer;
}

export interface ReplicaOptions {
  readonly log: DiskLog;
  readonly state: State;
  /** Everything below is applied. */
  readonly applied: number;
  readonly zstd: Zstd;
  /** The log cannot be read, or says what cannot be. */
  onFailure(error: unknown): void;
}

export class Replica {
  readonly state: State;
  readonly #options: ReplicaOptions;
  #applied: number;
  #held: HeldBatch[] = [];
  #heldBytes = 0;
  /** All batches from here on that change state are held. */
  #heldFrom: number;
  #isReading = false;
  #isStopped = false;
  #waiting: { readonly offset: number; readonly resolve: () => void }[] = [];
  readonly #slice: RecordSlice = { offset: 0, buffer: Buffer.alloc(0), start: 0, end: 0 };

  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.state = options.state;
    this.#applied = options.applied;
    this.#heldFrom = options.log.endOffset;
    options.log.onCommit(() => this.#proceed());
    this.#proceed();
  }

  /** Everything below is in the state. */
  get applied(): number {
    return this.#applied;
  }

  /** A batch was appended to the log. */
  hold(header: BatchHeader, bytes: Buffer): void {
    if ((header.flags & BatchFlag.State) === 0) return;
    if (this.#heldBytes + bytes.length > HELD_BYTES_MAX) {
      this.#held = [];
      this.#heldBytes = 0;
      this.#heldFrom = header.lastOffset + 1;
      return;
    }
    this.#held.push({ header, bytes });
    this.#heldBytes += bytes.length;
  }

  /** The log was cut: what it had from `end` on, none of which was committed, will never be applied. */
  cut(end: number): void {
    assert(this.#applied <= end, `cut at ${end}, and applied up to ${this.#applied}`);
    while (this.#held.length > 0 && this.#held.at(-1)!.header.baseOffset >= end) {
      this.#heldBytes -= this.#held.pop()!.bytes.length;
    }
    this.#heldFrom = Math.min(this.#heldFrom, end);
  }

  /** Resolves when everything below `offset` is applied, which must be committed by then. */
  whenApplied(offset: number): Promise<void> {
    if (this.#applied >= offset) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ offset, resolve }));
  }

  /** Applies nothing more: the state is somebody else's from now on. */
  stop(): void {
    this.#isStopped = true;
    this.#held = [];
  }

  #proceed(): void {
    const { log } = this.#options;
    if (this.#isReading || this.#isStopped) return;
    if (this.#applied < Math.min(this.#heldFrom, log.highWatermark)) {
      this.#read();
      return;
    }
    const to = log.highWatermark;
    let count = 0;
    for (; count < this.#held.length; count++) {
      const { header, bytes } = this.#held[count]!;
      if (header.lastOffset >= to) break;
      this.#heldBytes -= bytes.length;
      if (header.lastOffset >= this.#applied && !this.#apply(header, bytes)) return;
    }
    this.#held.splice(0, count);
    this.#reach(to);
  }

  /** Answers false where the batch cannot be decoded: then nothing is applied any more. */
  #apply(header: BatchHeader, bytes: Buffer): boolean {
    const payload = decodePayload(this.#options.zstd, header, bytes);
    if ('damage' in payload) {
      this.#fail(header, payload.damage);
      return false;
    }
    const positions = recordPositions(header, payload);
    const slice = this.#slice;
    slice.buffer = payload;
    for (let i = 0; i < header.recordCount; i++) {
      slice.offset = header.baseOffset + i;
      slice.start = positions[i]!;
      slice.end = positions[i + 1]! - RECORD_LENGTH_BYTES;
      applyRecord(this.state, slice);
    }
    return true;
  }

  /** The checksums of a batch hold, so no disk has changed it: a leader made it so. What it was to do to the state nobody knows. */
  #fail({ baseOffset, lastOffset }: BatchHeader, damage: string): void {
    const { onFailure } = this.#options;
    const message = `offsets ${baseOffset} to ${lastOffset} cannot be decoded, although their checksums hold: ${damage}`;
    this.stop();
    // Not before whoever commits has done so: it does not expect the log to be closed under its hands.
    queueMicrotask(() => onFailure(new GomqError('DATA_DAMAGED', message)));
  }

  #read(): void {
    const { log, onFailure } = this.#options;
    const to = log.highWatermark;
    this.#isReading = true;
    const apply = (record: RecordSlice): void => {
      if (!this.#isStopped) applyRecord(this.state, record);
    };
    log.replay(this.#applied, apply).then(
      () => {
        this.#isReading = false;
        if (this.#isStopped) return;
        this.#reach(to);
        this.#proceed();
      },
      (error: unknown) => {
        if (!this.#isStopped) onFailure(error);
      },
    );
  }

  #reach(applied: number): void {
    this.#applied = Math.max(this.#applied, applied);
    if (this.#waiting.length === 0) return;
    const done = this.#waiting.filter(({ offset }) => offset <= this.#applied);
    this.#waiting = this.#waiting.filter(({ offset }) => offset > this.#applied);
    for (const { resolve } of done) resolve();
  }
}
