// How much room the file system has left, and the reserve: a file of zeros that is removed when a write finds no room, so that what lets go
// of records (acknowledgements, ends of sessions) can still be written while new messages are refused. Rules: the log is full from the moment
// hardly anything is left until there is room for the reserve and as much again. The reserve counts as spent once less than a quarter of it is
// left, until it is half of it again: that quarter is for the sessions that are connected, and for their ends.
import { join } from 'node:path';
import type { Disk, DiskFile } from './disk.js';

export const RESERVE_NAME = 'reserve';
const CHUNK_BYTES = 1024 * 1024;

export interface DiskSpaceOptions {
  disk: Disk;
  directory: string;
  reserveBytes: number;
}

export class DiskSpace {
  readonly #options: DiskSpaceOptions;
  readonly #path: string;
  #hasReserve: boolean;
  #isFull = false;
  #isReserveSpent = false;

  constructor(options: DiskSpaceOptions) {
    this.#options = options;
    this.#path = join(options.directory, RESERVE_NAME);
    this.#hasReserve = this.#findReserve();
    this.check();
  }

  /** Only what lets go of records may be written. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** The log is full, and hardly anything is left of the reserve. */
  get isReserveSpent(): boolean {
    return this.#isReserveSpent;
  }

  /** Looks again at how much room there is, and makes the reserve when there is enough for it. */
  check(): void {
    const { disk, directory, reserveBytes } = this.#options;
    const free = disk.freeBytes(directory);
    if (this.#hasReserve) this.#isFull = free < (this.#isFull ? 2 * reserveBytes : reserveBytes);
    else this.#isFull = free < 2 * reserveBytes || !this.#makeReserve();
    this.checkReserve();
  }

  /** Looks again at what is left of the reserve, and at nothing else: cheap enough to be done at each write. */
  checkReserve(): void {
    const { disk, directory, reserveBytes } = this.#options;
    const leftMin = this.#isReserveSpent ? reserveBytes / 2 : reserveBytes / 4;
    this.#isReserveSpent = this.#isFull && !this.#hasReserve && disk.freeBytes(directory) < leftMin;
  }

  /** A write found no room. Answers whether letting go of the reserve made some. */
  release(): boolean {
    this.#isFull = true;
    if (!this.#hasReserve) return false;
    this.#hasReserve = false;
    this.#options.disk.remove(this.#path);
    return true;
  }

  /** A reserve of another size is of no use: it was cut short by a crash, or the configuration has changed. */
  #findReserve(): boolean {
    const { disk, directory, reserveBytes } = this.#options;
    if (!disk.list(directory).includes(RESERVE_NAME)) return false;
    const file = disk.open(this.#path, 'read');
    const bytes = file.bytes;
    file.close();
    if (bytes === reserveBytes) return true;
    disk.remove(this.#path);
    return false;
  }

  #makeReserve(): boolean {
    const { disk, reserveBytes } = this.#options;
    const zeros = Buffer.alloc(Math.min(CHUNK_BYTES, reserveBytes));
    this.#hasReserve = tryWithRoom(disk, this.#path, (file) => {
      for (let at = 0; at < reserveBytes; at += zeros.length) {
        file.write(zeros.subarray(0, Math.min(zeros.length, reserveBytes - at)), at);
      }
      file.sync();
    });
    return this.#hasReserve;
  }
}

/** Makes a file, unless there is no room for it: neither for its bytes nor, which is another thing, for one file more. Then it is not there. */
export function tryWithRoom(disk: Disk, path: string, fill: (file: DiskFile) => void): boolean {
  let file: DiskFile | undefined;
  try {
    file = disk.open(path, 'create');
    fill(file);
    return true;
  } catch (error) {
    if (!isNoSpace(error)) throw error;
    if (file !== undefined) disk.remove(path);
    return false;
  } finally {
    file?.close();
  }
}

/** Whether the operating system said that there is no room, or no more for this user. */
export function isNoSpace(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOSPC' || code === 'EDQUOT';
}
