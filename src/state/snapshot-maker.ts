// Has snapshots made as the log grows, one at a time, each by a thread of its own; keeps two, so that a damaged one costs nothing.
// One that is known to be damaged is none of the two; its file goes when the next one is there.
import type { Worker } from 'node:worker_threads';
import type { Logger } from '../core/logger.js';
import { startWorker } from '../core/worker.js';
import { nodeDisk } from '../log/disk.js';
import { listSnapshots } from '../log/snapshot-file.js';
import type { SnapshotDone, SnapshotOrder } from './snapshot-worker.js';

const KEPT = 2;

export interface SnapshotMakerOptions {
  readonly directory: string;
  readonly isCompressed: boolean;
  readonly logger: Logger;
  /** Where snapshots end that the start could not use. */
  readonly unusable: readonly number[];
  /** A snapshot was made; the hash is that of the state before `endOffset`. */
  onMade?(endOffset: number, hash: Buffer): void;
}

export class SnapshotMaker {
  readonly #options: SnapshotMakerOptions;
  /** Of the snapshots that there are and that nothing is known to be wrong with, newest first. */
  #offsets: number[];
  /** A snapshot as large as the last one is not worth making for less log than that. */
  #lastBytes = 0;
  #sealedBytes = 0;
  #running: Promise<void> | undefined = undefined;
  #worker: Worker | undefined = undefined;
  #next: number | undefined = undefined;
  #isStopped = false;

  constructor(options: SnapshotMakerOptions) {
    this.#options = options;
    const { directory, unusable } = options;
    this.#offsets = listSnapshots(nodeDisk, directory)
      .map(({ endOffset }) => endOffset)
      .filter((endOffset) => !unusable.includes(endOffset));
  }

  /** The log from here on is needed to make the state anew, also if the newest snapshot turns out to be damaged. */
  get floor(): number {
    return this.#offsets[KEPT - 1] ?? 0;
  }

  /** A segment of so many bytes was sealed; the log before `endOffset` will not change any more. */
  onSeal(endOffset: number, bytes: number): void {
    this.#sealedBytes += bytes;
    if (this.#isStopped || this.#sealedBytes < this.#lastBytes) return;
    this.#next = endOffset;
    this.#running ??= this.#run();
  }

  /** Resolves once nothing is being made. */
  async settled(): Promise<void> {
    await this.#running;
  }

  /** What is being made is given up. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#worker?.terminate();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#next !== undefined && !this.#isStopped) {
      const endOffset = this.#next;
      this.#next = undefined;
      this.#sealedBytes = 0;
      try {
        await this.#make(endOffset);
      } catch (error) {
        if (this.#isStopped) break;
        this.#options.logger.error('a snapshot could not be made; the log is kept instead', {
          endOffset,
          error,
        });
      }
    }
    this.#running = undefined;
  }

  async #make(endOffset: number): Promise<void> {
    const { directory, isCompressed, logger } = this.#options;
    const order: SnapshotOrder = { directory, endOffset, isCompressed };
    const { bytes, hash, unusable, warnings } = await this.#work(order);
    for (const warning of warnings) logger.warn(warning);
    logger.debug('made a snapshot', { endOffset, bytes });
    this.#options.onMade?.(endOffset, Buffer.from(hash));
    this.#lastBytes = bytes;
    const usable = this.#offsets.filter((old) => !unusable.includes(old));
    this.#offsets = [endOffset, ...usable].slice(0, KEPT);
    for (const { path, endOffset: old } of listSnapshots(nodeDisk, directory)) {
      if (!this.#offsets.includes(old)) nodeDisk.remove(path);
    }
  }

  #work(order: SnapshotOrder): Promise<SnapshotDone> {
    return new Promise((resolve, reject) => {
      const worker = startWorker(new URL('./snapshot-worker.js', import.meta.url), {
        name: 'gomq snapshot',
        workerData: order,
      });
      this.#worker = worker;
      worker.on('message', resolve);
      worker.on('error', reject);
      worker.on('exit', (code) => {
        this.#worker = undefined;
        reject(new Error(`the thread ended with ${code}`));
      });
    });
  }
}
