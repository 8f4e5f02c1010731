// A disk in memory, driven by a seed, that keeps no more than it promised: what was written is there after a crash only where it was synced,
// else it may be there, or not, or in part; likewise names in a directory. It can also run out of room, fail, and rot.
import type { Disk, DiskFile } from '../../src/log/disk.js';

const SECTOR_BYTES = 512;

type Operation = 'open' | 'write' | 'sync' | 'truncate' | 'rename' | 'remove' | 'syncDirectory';

/** The process ended in the middle of something. */
export class Crash extends Error {}

interface Change {
  /** Undefined for a truncation to `position`. */
  readonly bytes: Buffer | undefined;
  readonly position: number;
}

class Inode {
  /** What is on the platter. */
  durable = Buffer.alloc(0);
  /** What the process sees. */
  current = Buffer.alloc(0);
  /** What lies between the two, oldest first. */
  changes: Change[] = [];
}

type NameChange =
  | { readonly kind: 'link'; readonly name: string; readonly inode: Inode }
  | { readonly kind: 'unlink'; readonly name: string }
  | { readonly kind: 'rename'; readonly from: string; readonly to: string; readonly inode: Inode };

export interface SimulatedDiskOptions {
  seed: number;
  /** Bytes that all files together may have. */
  capacityBytes?: number;
}

export class SimulatedDisk implements Disk {
  capacityBytes: number;
  /** Operations that may change something, so far. */
  operations = 0;
  /** The process ends in the middle of this operation. */
  crashAt = Number.POSITIVE_INFINITY;
  /** Asked before each operation; answers an error code or nothing. */
  fault: (operation: Operation, path: string) => string | undefined = () => undefined;
  /** Told of each read. */
  onRead: (path: string, bytes: number) => void = () => undefined;
  #names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  #nameChanges: NameChange[] = [];
  /** Grows with every crash: files that were open before are of no use. */
  #life = 0;
  #random: number;

  constructor({ seed, capacityBytes = Number.POSITIVE_INFINITY }: SimulatedDiskOptions) {
    this.#random = seed | 0;
    this.capacityBytes = capacityBytes;
  }

  /** From 0 up to, and without, `limit`. */
  draw(limit: number): number {
    this.#random = (this.#random + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#random ^ (this.#random >>> 15), this.#random | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  }

  /** The process has ended, whether it noticed or not. */
  get hasCrashed(): boolean {
    return this.operations >= this.crashAt;
  }

  get usedBytes(): number {
    return [...this.#names.values()].reduce((sum, { current }) => sum + current.length, 0);
  }

  // ---- Disk -------------------------------------------------------------------------------------------------------------------------

  open(path: string, mode: 'read' | 'write' | 'create'): DiskFile {
    const known = this.#names.get(path);
    if (mode !== 'create') {
      if (known === undefined) throw systemError('ENOENT', 'open', path);
      return this.#file(path, known);
    }
    this.#begin('open', path);
    if (known !== undefined) throw systemError('EEXIST', 'open', path);
    const inode = new Inode();
    this.#names.set(path, inode);
    this.#nameChanges.push({ kind: 'link', name: path, inode });
    return this.#file(path, inode);
  }

  list(directory: string): string[] {
    return [...this.#names.keys()]
      .filter((path) => path.startsWith(`${directory}/`))
      .map((path) => path.slice(directory.length + 1));
  }

  rename(from: string, to: string): void {
    this.#begin('rename', from);
    const inode = this.#names.get(from);
    if (inode === undefined) throw systemError('ENOENT', 'rename', from);
    this.#names.delete(from);
    this.#names.set(to, inode);
    this.#nameChanges.push({ kind: 'rename', from, to, inode });
  }

  remove(path: string): void {
    this.#begin('remove', path);
    if (!this.#names.delete(path)) throw systemError('ENOENT', 'unlink', path);
    this.#nameChanges.push({ kind: 'unlink', name: path });
  }

  syncDirectory(directory: string): void {
    this.#begin('syncDirectory', directory);
    this.#durableNames = new Map(this.#names);
    this.#nameChanges = [];
  }

  freeBytes(_directory: string): number {
    return Math.max(0, this.capacityBytes - this.usedBytes);
  }

  // ---- what happens to it -----------------------------------------------------------------------------------------------------------

  /** The machine loses power: what was not synced is kept as the seed wills. Every open file is of no use any more. */
  crash(): void {
    this.#life++;
    this.crashAt = Number.POSITIVE_INFINITY;
    const inodes = new Set([...this.#names.values(), ...this.#durableNames.values()]);
    for (const inode of inodes) this.#tear(inode);
    // Most file systems keep the order of what happens to names; none has to.
    const inOrder = this.draw(2) === 0;
    const kept = this.draw(this.#nameChanges.length + 1);
    this.#nameChanges.forEach((change, i) => {
      if (inOrder ? i < kept : this.draw(2) === 0) applyName(this.#durableNames, change);
    });
    this.#names = new Map(this.#durableNames);
    this.#nameChanges = [];
  }

  /** The process ends and the machine goes on: the operating system keeps all. */
  kill(): void {
    this.#life++;
    this.crashAt = Number.POSITIVE_INFINITY;
  }

  /** Turns one bit of a file, at a place that the seed chooses. Answers where. */
  rot(path: string): number {
    const position = this.draw(this.#names.get(path)!.current.length);
    this.spoil(path, position, 1 << this.draw(8));
    return position;
  }

  /** Turns bits of the byte at a position. */
  spoil(path: string, position: number, bits = 0xff): void {
    const { current, durable } = this.#names.get(path)!;
    current[position]! ^= bits;
    if (position < durable.length) durable[position]! ^= bits;
  }

  /** The whole content of a file, as the process sees it. */
  content(path: string): Buffer {
    const inode = this.#names.get(path);
    if (inode === undefined) throw systemError('ENOENT', 'open', path);
    return Buffer.from(inode.current);
  }

  #begin(operation: Operation, path: string): void {
    this.operations++;
    if (this.hasCrashed) throw new Crash(`in ${operation} of ${path}`);
    const code = this.fault(operation, path);
    if (code !== undefined) throw systemError(code, operation, path);
  }

  #file(path: string, inode: Inode): DiskFile {
    const disk = this;
    const life = this.#life;
    let isOpen = true;
    const check = (): void => {
      if (!isOpen || life !== disk.#life) throw systemError('EBADF', 'use', path);
    };
    return {
      get bytes() {
        check();
        return inode.current.length;
      },
      write(buffer, position) {
        check();
        disk.#write(path, inode, Buffer.from(buffer), position);
      },
      read(buffer, position) {
        check();
        disk.onRead(path, buffer.length);
        return inode.current.copy(buffer, 0, position, position + buffer.length);
      },
      sync() {
        check();
        disk.#sync(path, inode);
      },
      truncate(bytes) {
        check();
        disk.#begin('truncate', path);
        change(inode, { bytes: undefined, position: bytes });
      },
      close() {
        check();
        isOpen = false;
      },
    };
  }

  #write(path: string, inode: Inode, bytes: Buffer, position: number): void {
    this.operations++;
    // Whatever ends a write may end it in the middle.
    const partial = this.draw(bytes.length + 1);
    if (this.hasCrashed) {
      change(inode, { bytes: bytes.subarray(0, partial), position });
      throw new Crash(`in write of ${path}`);
    }
    const code = this.fault('write', path);
    if (code !== undefined) {
      change(inode, { bytes: bytes.subarray(0, partial), position });
      throw systemError(code, 'write', path);
    }
    const growth = Math.max(0, position + bytes.length - inode.current.length);
    const room = this.capacityBytes - this.usedBytes;
    if (growth > room) {
      change(inode, { bytes: bytes.subarray(0, bytes.length - (growth - room)), position });
      throw systemError('ENOSPC', 'write', path);
    }
    change(inode, { bytes, position });
  }

  /** An fsync that fails leaves pages that count as clean and are on no platter: a later fsync passes them over. */
  #sync(path: string, inode: Inode): void {
    this.operations++;
    if (this.hasCrashed) throw new Crash(`in sync of ${path}`);
    const code = this.fault('sync', path);
    const { changes } = inode;
    inode.changes = [];
    if (code !== undefined) throw systemError(code, 'fdatasync', path);
    for (const one of changes) inode.durable = apply(inode.durable, one);
  }

  /** What is not synced reaches the platter as a whole, in sectors, up to some byte, or not. */
  #tear(inode: Inode): void {
    for (const one of inode.changes) {
      const fate = this.draw(4);
      if (fate === 0) continue;
      const { bytes, position } = one;
      if (bytes === undefined || fate === 1) {
        inode.durable = apply(inode.durable, one);
      } else if (fate === 2) {
        const part = bytes.subarray(0, this.draw(bytes.length + 1));
        inode.durable = apply(inode.durable, { bytes: part, position });
      } else {
        for (let at = 0; at < bytes.length; ) {
          const end = Math.min(bytes.length, at + SECTOR_BYTES - ((position + at) % SECTOR_BYTES));
          const sector = { bytes: bytes.subarray(at, end), position: position + at };
          if (this.draw(2) === 0) inode.durable = apply(inode.durable, sector);
          at = end;
        }
      }
    }
    inode.changes = [];
    inode.current = Buffer.from(inode.durable);
  }
}

function change(inode: Inode, one: Change): void {
  inode.current = apply(inode.current, one);
  inode.changes.push(one);
}

function apply(content: Buffer, { bytes, position }: Change): Buffer<ArrayBuffer> {
  const length = bytes === undefined ? position : Math.max(content.length, position + bytes.length);
  const result = Buffer.alloc(length);
  content.copy(result, 0, 0, Math.min(content.length, length));
  bytes?.copy(result, position);
  return result;
}

function applyName(names: Map<string, Inode>, one: NameChange): void {
  if (one.kind === 'link') names.set(one.name, one.inode);
  else if (one.kind === 'unlink') names.delete(one.name);
  else {
    names.delete(one.from);
    names.set(one.to, one.inode);
  }
}

function systemError(code: string, operation: string, path: string): NodeJS.ErrnoException {
  const error: NodeJS.ErrnoException = new Error(`${code}: simulated, ${operation} '${path}'`);
  error.code = code;
  return error;
}
