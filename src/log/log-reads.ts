// How readers get at the files of the log: without holding up the thread they are on.
import { open } from 'node:fs/promises';
import type { Disk } from './disk.js';

/** Too many files are open, or there is too little memory: that says nothing about the file, and passes. */
const PASSING_CODES: ReadonlySet<string | undefined> = new Set(['EMFILE', 'ENFILE', 'ENOMEM']);
const RETRY_MS = 100;

/** Both throw what the operating system answers, with its `code`. */
export interface LogReads {
  /** Up to `bytes` bytes from `position`, fewer only at the end of the file. */
  read(path: string, position: number, bytes: number): Promise<Buffer>;
  whole(path: string): Promise<Buffer>;
}

async function readAt(path: string, position: number, bytes: number | undefined): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const length = bytes ?? (await file.stat()).size;
    const buffer = Buffer.allocUnsafeSlow(length);
    let total = 0;
    while (total < length) {
      const { bytesRead } = await file.read(buffer, total, length - total, position + total);
      if (bytesRead === 0) break;
      total += bytesRead;
    }
    return buffer.subarray(0, total);
  } finally {
    await file.close();
  }
}

export const nodeReads: LogReads = {
  read: readAt,
  whole: (path) => readAt(path, 0, undefined),
};

/** Reads that wait for as long as it is only the machine that has no room for them. They give up when the log is closed. */
export function patientReads(reads: LogReads, isClosed: () => boolean): LogReads {
  const retry = async (read: () => Promise<Buffer>): Promise<Buffer> => {
    for (;;) {
      try {
        return await read();
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (!PASSING_CODES.has(code) || isClosed()) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  };
  return {
    read: (path, position, bytes) => retry(() => reads.read(path, position, bytes)),
    whole: (path) => retry(() => reads.whole(path)),
  };
}

/** Reads of a disk that has only synchronous ones, which answer late all the same. */
export function readsOf(disk: Disk): LogReads {
  const readSoon = async (path: string, position: number, bytes: number | undefined): Promise<Buffer> => {
    await new Promise((resolve) => setImmediate(resolve));
    const file = disk.open(path, 'read');
    try {
      const buffer = Buffer.alloc(bytes ?? file.bytes);
      return buffer.subarray(0, file.read(buffer, position));
    } finally {
      file.close();
    }
  };
  return { read: readSoon, whole: (path) => readSoon(path, 0, undefined) };
}
