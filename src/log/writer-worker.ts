// The thread that writes. It never returns to its event loop while it lives: it sleeps in Atomics.wait and takes its requests by itself, which
// saves two turns of an event loop on each side of every fdatasync.
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { nodeDisk } from './disk.js';
import { LogWriter, type WriterAnswer, type WriterRequest, type WriterSettings } from './log-writer.js';
import { Signal, StagedInbox, Staging, type StagingMemory } from './staging.js';
import { loadZstd, type Zstd } from './zstd.js';

export interface WorkerData {
  readonly settings: WriterSettings;
  readonly port: MessagePort;
  readonly staging: StagingMemory;
}

/** A number: so many batches are kept, as `takeAnswer` says. */
export type WorkerAnswer = WriterAnswer | number;

/** Atomics.wait takes no more than this for granted. */
const WAIT_MS_MAX = 60_000;

function run({ settings, port, staging: memory }: WorkerData, zstd: Zstd): void {
  const staging = new Staging(memory);
  const { signal } = staging;
  let isClosed = false;
  const inbox = new StagedInbox(
    staging,
    () => (receiveMessageOnPort(port) as { message: WriterRequest } | undefined)?.message,
  );

  const answer = (one: WriterAnswer): void => {
    isClosed ||= one.kind === 'closed';
    if (one.kind === 'written' && inbox.isStaged) {
      staging.putAnswer(one.kept);
      port.postMessage(one.kept.length);
      return;
    }
    // What is large moves, it is not copied.
    port.postMessage(one, one.kind === 'encoded' ? [one.bytes.buffer] : []);
  };

  const writer = new LogWriter(settings, nodeDisk, zstd, () => performance.now(), answer);
  while (!isClosed) {
    const seen = Atomics.load(signal, Signal.Requests);
    const request = inbox.next();
    if (request === undefined)
      Atomics.wait(signal, Signal.Requests, seen, Math.min(writer.rest(), WAIT_MS_MAX));
    else writer.handle(request);
  }
  port.close();
}

// What is thrown ends the thread, and the main thread is told.
void loadZstd().then((zstd) => run(workerData as WorkerData, zstd));
