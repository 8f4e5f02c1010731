// The main thread's side of the thread that writes: sends requests, hands out answers. Also a writer without a thread, for a disk that lives in
// this one.
import { MessageChannel, type MessagePort, receiveMessageOnPort, type Worker } from 'node:worker_threads';
import { startWorker } from '../core/worker.js';
import type { Disk } from './disk.js';
import { LogWriter, type WriterAnswer, type WriterRequest, type WriterSettings } from './log-writer.js';
import { allocateStaging, Signal, Staging } from './staging.js';
import type { WorkerAnswer, WorkerData } from './writer-worker.js';
import type { Zstd } from './zstd.js';

export interface WriterEvents {
  onAnswer(answer: WriterAnswer): void;
  /** The thread died, which it never should. */
  onDeath(error: Error): void;
}

export interface WriterLink {
  /** Of write requests, one at a time; of no more batches than STAGED_BATCHES_MAX and STAGING_BYTES, unless it is one that is larger by itself. */
  send(request: WriterRequest): void;
  /** Resolves when nothing of the writer is left: it was told to close, or died. */
  ended(): Promise<void>;
}

export class WriterThread implements WriterLink {
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #staging: Staging;
  /** Requests that were sent as messages, modulo 2^32. */
  #posted = 0;
  readonly #exit: Promise<void>;

  constructor(settings: WriterSettings, events: WriterEvents) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const memory = allocateStaging();
    const staging = new Staging(memory);
    this.#staging = staging;
    const workerData: WorkerData = { settings, port: port2, staging: memory };
    this.#worker = startWorker(new URL('./writer-worker.js', import.meta.url), {
      name: 'gomq log',
      workerData,
      transferList: [workerData.port],
    });
    let isClosed = false;
    const onAnswer = (answer: WorkerAnswer): void => {
      if (typeof answer === 'number') {
        events.onAnswer({ kind: 'written', kept: staging.takeAnswer(answer) });
        return;
      }
      isClosed ||= answer.kind === 'closed';
      events.onAnswer(answer);
    };
    port1.on('message', onAnswer);
    this.#worker.on('error', (error) => events.onDeath(error));
    this.#exit = new Promise((resolve) => {
      this.#worker.on('exit', (code) => {
        // The news of the end may overtake what the thread said last.
        for (let last = receiveMessageOnPort(port1); last !== undefined; last = receiveMessageOnPort(port1)) {
          onAnswer((last as { message: WorkerAnswer }).message);
        }
        port1.close();
        if (!isClosed) events.onDeath(new Error(`the thread ended with code ${code}`));
        resolve();
      });
    });
  }

  send(request: WriterRequest): void {
    const { signal } = this.#staging;
    if (request.kind === 'write' && this.#staging.putRequest(request.batches)) {
      signal[Signal.IsMirrored] = request.isMirrored ? 1 : 0;
      signal[Signal.Posted] = this.#posted;
      Atomics.store(signal, Signal.Staged, request.batches.length);
    } else {
      this.#posted = (this.#posted + 1) | 0;
      this.#port.postMessage(sendable(request));
    }
    Atomics.add(signal, Signal.Requests, 1);
    Atomics.notify(signal, Signal.Requests);
  }

  ended(): Promise<void> {
    return this.#exit;
  }
}

/** Without what the sender knows of its batches besides. */
function sendable(request: WriterRequest): WriterRequest {
  if (request.kind !== 'write') return request;
  const batches = request.batches.map(
    ({ baseOffset, recordCount, flags, epoch, timestampMs, payload, isEncoded }) => {
      return { baseOffset, recordCount, flags, epoch, timestampMs, payload, isEncoded };
    },
  );
  return { ...request, batches };
}

/** Answers as late as a thread would: never while it is being asked. */
export class InlineWriter implements WriterLink {
  #writer: LogWriter | undefined = undefined;
  #timer: NodeJS.Timeout | undefined = undefined;
  readonly #end: Promise<void>;
  #resolveEnd: () => void = () => undefined;

  constructor(settings: WriterSettings, disk: Disk, zstd: Zstd, events: WriterEvents) {
    this.#end = new Promise((resolve) => {
      this.#resolveEnd = resolve;
    });
    const answer = (one: WriterAnswer): void => events.onAnswer(one);
    this.#soon(() => {
      try {
        this.#writer = new LogWriter(settings, disk, zstd, () => performance.now(), answer);
      } catch (error) {
        this.#resolveEnd();
        events.onDeath(error as Error);
      }
    });
  }

  send(request: WriterRequest): void {
    this.#soon(() => {
      this.#writer?.handle(request);
      if (request.kind !== 'close') return;
      this.#writer = undefined;
      this.#resolveEnd();
    });
  }

  ended(): Promise<void> {
    return this.#end;
  }

  #soon(work: () => void): void {
    setImmediate(() => {
      work();
      this.#rest();
    });
  }

  #rest(): void {
    clearTimeout(this.#timer);
    const waitMs = this.#writer?.rest() ?? Number.POSITIVE_INFINITY;
    if (waitMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#rest(), waitMs);
    this.#timer.unref();
  }
}
