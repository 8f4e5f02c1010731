// What the log asks of a disk, all of it synchronous: it is called from the log's own threads, from tools, and at the start. Tests put a
// simulated disk behind it that loses, tears and rots what a real one may.
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from 'node:fs';

/** An open file. Positions and lengths are bytes. Every method throws what the operating system answers, with its `code`. */
export interface DiskFile {
  readonly bytes: number;
  /** Writes all of `buffer` at `position`. After a failure some of it may be there. */
  write(buffer: Uint8Array, position: number): void;
  /** Reads up to `buffer.length` bytes, fewer only at the end of the file; answers how many. */
  read(buffer: Uint8Array, position: number): number;
  /** Makes what was written last: fdatasync. A failure is final; it must not be called again. */
  sync(): void;
  truncate(bytes: number): void;
  close(): void;
}

export interface Disk {
  /** 'create' is for a file that must not be there yet. */
  open(path: string, mode: 'read' | 'write' | 'create'): DiskFile;
  /** Names in a directory, in no order. */
  list(directory: string): string[];
  rename(from: string, to: string): void;
  remove(path: string): void;
  /** Makes creations, renames and removals in a directory last. */
  syncDirectory(directory: string): void;
  /** Bytes that an ordinary user may still write to the file system of `directory`. */
  freeBytes(directory: string): number;
}

const FLAGS = { read: 'r', write: 'r+', create: 'wx+' } as const;

class NodeFile implements DiskFile {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  get bytes(): number {
    return fstatSync(this.#fd).size;
  }

  write(buffer: Uint8Array, position: number): void {
    for (let written = 0; written < buffer.length; ) {
      written += writeSync(this.#fd, buffer, written, buffer.length - written, position + written);
    }
  }

  read(buffer: Uint8Array, position: number): number {
    let total = 0;
    while (total < buffer.length) {
      const count = readSync(this.#fd, buffer, total, buffer.length - total, position + total);
      if (count === 0) break;
      total += count;
    }
    return total;
  }

  sync(): void {
    fdatasyncSync(this.#fd);
  }

  truncate(bytes: number): void {
    ftruncateSync(this.#fd, bytes);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

export const nodeDisk: Disk = {
  open: (path, mode) => new NodeFile(openSync(path, FLAGS[mode], 0o600)),
  list: (directory) => readdirSync(directory),
  rename: (from, to) => renameSync(from, to),
  remove: (path) => unlinkSync(path),
  syncDirectory(directory) {
    const fd = openSync(directory, 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  },
  freeBytes(directory) {
    const { bavail, bsize } = statfsSync(directory);
    return bavail * bsize;
  },
};
