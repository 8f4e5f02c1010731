// The thread that writes. It never returns to its event loop while it lives: it sleeps in Atomics.wait and takes its requests by itself, which
// saves two turns of an event loop on each side of every fdatasync.
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { nodeDisk } from './disk.js';
import { LogWriter, type WriterAnswer, type WriterRequest, type WriterSettings } from './log-writer.js';
import { type BatchAnnouncement, takeBatches } from './staging.js';
import { loadZstd, type Zstd } from './zstd.js';

export interface WorkerData {
  readonly settings: WriterSettings;
  readonly port: MessagePort;
  /** Counts requests, so that none is slept through. */
  readonly signal: Int32Array;
  /** Where the payloads are. */
  readonly staging: Uint8Array;
}

/** As they come through the port: payloads lie in the staging buffer. */
export type WorkerRequest =
  | Exclude<WriterRequest, { kind: 'write' }>
  | { readonly kind: 'write'; readonly batches: readonly BatchAnnouncement[]; readonly isMirrored: boolean };

/** Atomics.wait takes no more than this for granted. */
const WAIT_MS_MAX = 60_000;

function run({ settings, port, signal, staging }: WorkerData, zstd: Zstd): void {
  let isClosed = false;
  const answer = (one: WriterAnswer): void => {
    isClosed ||= one.kind === 'closed';
    // What is large moves, it is not copied.
    port.postMessage(one, one.kind === 'encoded' ? [one.bytes.buffer] : []);
  };
  const writer = new LogWriter(settings, nodeDisk, zstd, () => performance.now(), answer);
  while (!isClosed) {
    const seen = Atomics.load(signal, 0);
    const received = receiveMessageOnPort(port) as { message: WorkerRequest } | undefined;
    if (received === undefined) {
      const waitMs = Math.min(writer.rest(), WAIT_MS_MAX);
      Atomics.wait(signal, 0, seen, waitMs);
      continue;
    }
    const { message } = received;
    if (message.kind === 'write')
      writer.handle({ ...message, batches: takeBatches(staging, message.batches) });
    else writer.handle(message);
  }
  port.close();
}

// What is thrown ends the thread, and the main thread is told.
void loadZstd().then((zstd) => run(workerData as WorkerData, zstd));
