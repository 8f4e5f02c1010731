// The way of a write request to the thread that writes, and of its answer: memory that both threads see, used by one request at a time. Payloads lie in
// one part of it and what is said about batches in the other, as numbers: a message of objects is copied property by property on both sides, which was a
// tenth of the time of a publisher that waits for each message (ADR 8). Memory that is shared for good is not seen by the garbage collector of either
// side, so the batches themselves lie elsewhere and are copied through here.
import { assert } from '../core/assert.js';
import type { WriterRequest } from './log-writer.js';
import type { KeptBatch, SealedBatch } from './segment-writer.js';

/** Bytes of payloads in one request, but for a batch that is larger by itself. */
export const STAGING_BYTES = 4 * 1024 * 1024;
/** Batches in one request. */
export const STAGED_BATCHES_MAX = 256;
/** baseOffset, recordCount, flags, epoch, timestampMs, isEncoded, length of the payload */
const REQUEST_NUMBERS = 7;
/** segmentBase, position, storedBytes, flags */
const ANSWER_NUMBERS = 4;

/** Where in `signal` is what. */
export const Signal = {
  /** Counts requests of all kinds, so that none is slept through. */
  Requests: 0,
  /** Batches of the request that is staged; 0 for none. */
  Staged: 1,
  IsMirrored: 2,
  /** How many requests were sent as messages before it: they come first. */
  Posted: 3,
} as const;

/** What the threads share; it can be sent to one. */
export interface StagingMemory {
  readonly signal: SharedArrayBuffer;
  readonly payloads: SharedArrayBuffer;
  readonly request: SharedArrayBuffer;
  readonly answer: SharedArrayBuffer;
}

export function allocateStaging(): StagingMemory {
  const doubles = (count: number) => new SharedArrayBuffer(count * Float64Array.BYTES_PER_ELEMENT);
  return {
    signal: new SharedArrayBuffer(Object.keys(Signal).length * Int32Array.BYTES_PER_ELEMENT),
    payloads: new SharedArrayBuffer(STAGING_BYTES),
    request: doubles(STAGED_BATCHES_MAX * REQUEST_NUMBERS),
    answer: doubles(STAGED_BATCHES_MAX * ANSWER_NUMBERS),
  };
}

/** One thread's view of what they share. Whoever has put something there tells the other, by means that order memory. */
export class Staging {
  readonly signal: Int32Array;
  readonly #payloads: Uint8Array;
  readonly #request: Float64Array;
  readonly #answer: Float64Array;

  constructor({ signal, payloads, request, answer }: StagingMemory) {
    this.signal = new Int32Array(signal);
    this.#payloads = new Uint8Array(payloads);
    this.#request = new Float64Array(request);
    this.#answer = new Float64Array(answer);
  }

  /** Answers false where the batches have no room. */
  putRequest(batches: readonly SealedBatch[]): boolean {
    assert(batches.length <= STAGED_BATCHES_MAX, `${batches.length} batches in one request`);
    const numbers = this.#request;
    let start = 0;
    let at = 0;
    for (const { baseOffset, recordCount, flags, epoch, timestampMs, isEncoded, payload } of batches) {
      if (start + payload.length > STAGING_BYTES) return false;
      this.#payloads.set(payload, start);
      start += payload.length;
      numbers[at++] = baseOffset;
      numbers[at++] = recordCount;
      numbers[at++] = flags;
      numbers[at++] = epoch;
      numbers[at++] = timestampMs;
      numbers[at++] = isEncoded ? 1 : 0;
      numbers[at++] = payload.length;
    }
    return true;
  }

  /** The batches of a request; their payloads are good until it is answered. */
  takeRequest(count: number): SealedBatch[] {
    const numbers = this.#request;
    const batches: SealedBatch[] = [];
    let start = 0;
    for (let at = 0; batches.length < count; at += REQUEST_NUMBERS) {
      const end = start + numbers[at + 6]!;
      batches.push({
        baseOffset: numbers[at]!,
        recordCount: numbers[at + 1]!,
        flags: numbers[at + 2]!,
        epoch: numbers[at + 3]!,
        timestampMs: numbers[at + 4]!,
        isEncoded: numbers[at + 5] === 1,
        payload: this.#payloads.subarray(start, end),
      });
      start = end;
    }
    return batches;
  }

  /** @param kept one for each batch of a request that was put here */
  putAnswer(kept: readonly KeptBatch[]): void {
    const numbers = this.#answer;
    let at = 0;
    for (const { segmentBase, position, storedBytes, flags } of kept) {
      numbers[at++] = segmentBase;
      numbers[at++] = position;
      numbers[at++] = storedBytes;
      numbers[at++] = flags;
    }
  }

  takeAnswer(count: number): KeptBatch[] {
    const numbers = this.#answer;
    const kept: KeptBatch[] = [];
    for (let at = 0; kept.length < count; at += ANSWER_NUMBERS) {
      kept.push({
        segmentBase: numbers[at]!,
        position: numbers[at + 1]!,
        storedBytes: numbers[at + 2]!,
        flags: numbers[at + 3]!,
      });
    }
    return kept;
  }
}

/** The requests of one thread, as the other takes them: in the order in which they were sent, whichever way they travel. */
export class StagedInbox {
  readonly #staging: Staging;
  readonly #receive: () => WriterRequest | undefined;
  /** It has come as a message, and something that was staged may be older. */
  #held: WriterRequest | undefined = undefined;
  /** Requests that were taken as messages, modulo 2^32. */
  #taken = 0;
  #isStaged = false;

  /** @param receive the next message; undefined where there is none */
  constructor(staging: Staging, receive: () => WriterRequest | undefined) {
    this.#staging = staging;
    this.#receive = receive;
  }

  /** The request that was taken last was staged: so is its answer. */
  get isStaged(): boolean {
    return this.#isStaged;
  }

  /** The next request; undefined where there is none. */
  next(): WriterRequest | undefined {
    const staged = this.#takeStaged();
    if (staged !== undefined) return staged;
    if (this.#held === undefined) {
      this.#held = this.#receive();
      if (this.#held === undefined) return undefined;
      // Since the first look something may have been staged, and this message sent behind it: whoever has the message sees that now.
      const before = this.#takeStaged();
      if (before !== undefined) return before;
    }
    const message = this.#held;
    this.#held = undefined;
    this.#taken = (this.#taken + 1) | 0;
    return message;
  }

  #takeStaged(): WriterRequest | undefined {
    const { signal } = this.#staging;
    const count = Atomics.load(signal, Signal.Staged);
    const ahead = (signal[Signal.Posted]! - this.#taken) | 0;
    this.#isStaged = count > 0 && ahead === 0;
    if (!this.#isStaged) {
      assert(count === 0 || ahead > 0, 'nothing that was staged is passed over');
      return undefined;
    }
    Atomics.store(signal, Signal.Staged, 0);
    const isMirrored = signal[Signal.IsMirrored] === 1;
    return { kind: 'write', isMirrored, batches: this.#staging.takeRequest(count) };
  }
}
