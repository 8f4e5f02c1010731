// Owns what makes a directory the data directory of one broker: the lock, which dies with the process; `node.json`, which says whose it is;
// and `suspect`, which says after a failed fsync how much of the log is known to be kept. Nobody writes to the directory without the lock.
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { v7 as uuid } from 'uuid';
import { GomqError } from '../core/errors.js';
import {
  damagedFile,
  FILE_MODE,
  FORMAT,
  isCount,
  readable,
  readChecked,
  writeChecked,
} from './checked-file.js';
import { nodeDisk } from './disk.js';
import { offsetsOf } from './file-names.js';

const LOCK_NAME = 'lock';
const NODE_NAME = 'node.json';
const SUSPECT_NAME = 'suspect';
/** What a broker is called that nobody gave a name. */
const UNNAMED = 'gomq';
const DIRECTORY_MODE = 0o700;
/** What is read of a lock. */
const HOLDER_BYTES_MAX = 4096;

/** How much of the log is kept for certain: what lies in the segment with this base offset below this position, and all before it. */
export interface Suspect {
  readonly segment: number;
  readonly position: number;
}

export interface SuspectMarker {
  /**
   * Remembers that an fsync failed. The disk may refuse this too.
   * @returns whether it is written
   */
  markSuspect(suspect: Suspect): boolean;
  /** @throws {GomqError} DATA_DAMAGED, DATA_UNREADABLE */
  readSuspect(): Suspect | undefined;
  /** @throws {GomqError} DATA_UNREADABLE */
  clearSuspect(): void;
}

export interface DataDirectory extends SuspectMarker {
  readonly path: string;
  /** Drawn when the directory was made. */
  readonly clusterId: string;
  readonly nodeId: string;
  /** Drawn when the directory was made, or what was in it was given up: another one says that what was here is gone. */
  readonly incarnation: string;
  /** Draws another one, on disk when it returns. @throws {GomqError} DATA_UNREADABLE */
  renewIncarnation(): void;
  /** Lets another process have the directory. */
  release(): void;
}

export interface DataDirectoryOptions {
  /** What the broker is called. */
  nodeId: string;
  /** 'read' takes no lock and changes nothing; `nodeId` is not looked at. */
  mode?: 'own' | 'read';
}

/**
 * Opens a data directory, and makes one where there is none.
 * @throws {GomqError} DATA_IN_USE, DATA_UNREADABLE, DATA_VERSION, DATA_DAMAGED
 */
export function openDataDirectory(path: string, options: DataDirectoryOptions): DataDirectory {
  if (options.mode === 'read') {
    const node = readable(path, () => {
      readdirSync(path);
      return readNode(path);
    });
    if (node === undefined) {
      throw new GomqError('DATA_UNREADABLE', `${path} is not a data directory: it has no ${NODE_NAME}`);
    }
    return new OpenDirectory(path, node, undefined);
  }
  const lock = readable(path, () => {
    mkdirSync(path, { recursive: true, mode: DIRECTORY_MODE });
    return takeLock(path);
  });
  try {
    return new OpenDirectory(
      path,
      readable(path, () => settleNode(path, options.nodeId)),
      lock,
    );
  } catch (error) {
    closeSync(lock);
    throw error;
  }
}

interface Node {
  readonly clusterId: string;
  readonly nodeId: string;
  readonly incarnation: string;
}

class OpenDirectory implements DataDirectory {
  readonly path: string;
  readonly clusterId: string;
  readonly nodeId: string;
  incarnation: string;
  #lock: number | undefined;

  constructor(path: string, node: Node, lock: number | undefined) {
    this.path = path;
    this.clusterId = node.clusterId;
    this.nodeId = node.nodeId;
    this.incarnation = node.incarnation;
    this.#lock = lock;
  }

  renewIncarnation(): void {
    const { clusterId, nodeId } = this;
    const incarnation = uuid();
    readable(this.path, () => writeNode(this.path, { clusterId, nodeId, incarnation }));
    this.incarnation = incarnation;
  }

  markSuspect({ segment, position }: Suspect): boolean {
    try {
      writeChecked(this.path, SUSPECT_NAME, { segment, position });
      return true;
    } catch {
      // The disk has failed already, and the process ends for it: there is nobody to tell who does not know.
      return false;
    }
  }

  readSuspect(): Suspect | undefined {
    const fields = readable(this.path, () => readChecked(this.path, SUSPECT_NAME));
    if (fields === undefined) return undefined;
    const { segment, position } = fields;
    if (!isCount(segment) || !isCount(position))
      throw damagedFile(this.path, SUSPECT_NAME, 'a field is missing');
    return { segment, position };
  }

  clearSuspect(): void {
    readable(this.path, () => {
      rmSync(join(this.path, SUSPECT_NAME), { force: true });
      nodeDisk.syncDirectory(this.path);
    });
  }

  release(): void {
    if (this.#lock === undefined) return;
    // The file stays: whoever removed it could remove the lock of the one who came next.
    closeSync(this.#lock);
    this.#lock = undefined;
  }
}

/** Only whoever owns a directory needs the native code: a platform that has none can do everything else. */
function loadLocks(): typeof import('fs-native-extensions') {
  try {
    return createRequire(import.meta.url)('fs-native-extensions');
  } catch (error) {
    const platform = `${process.platform} on ${process.arch}`;
    throw new GomqError('DATA_UNREADABLE', `cannot lock a data directory: no file locks for ${platform}`, {
      cause: error,
      hint: "Keep everything in memory with --data '', or run gomq where fs-native-extensions has a binary (Linux with glibc, macOS, Windows).",
    });
  }
}

/** The descriptor that holds the lock. */
function takeLock(path: string): number {
  const { tryLock } = loadLocks();
  const file = join(path, LOCK_NAME);
  const fd = openSync(file, 'a+', FILE_MODE);
  try {
    if (!tryLock(fd)) throw new GomqError('DATA_IN_USE', `${path} is held by ${readHolder(file)}`);
    ftruncateSync(fd);
    writeSync(fd, `process ${process.pid} since ${new Date().toISOString()}\n`);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function readHolder(file: string): string {
  const holder = readFileSync(file, 'utf8').slice(0, HOLDER_BYTES_MAX);
  // It may have taken the lock this very moment and not said who it is.
  return /^process \d+ since [\d.:TZ-]+\n$/.test(holder) ? holder.trim() : 'another process';
}

/** Reads `node.json`, and writes it where the directory is new or has been given a name. */
function settleNode(path: string, nodeId: string): Node {
  const node = readNode(path);
  if (node?.nodeId === nodeId) return node;
  if (node !== undefined && node.nodeId !== UNNAMED) {
    const message = `${path} belongs to node '${node.nodeId}', and this is node '${nodeId}'`;
    const hint = `Start it with --node-id ${node.nodeId}, or give this node a directory of its own with --data.`;
    throw new GomqError('DATA_UNREADABLE', message, { hint });
  }
  const settled: Node =
    node === undefined
      ? { clusterId: uuid(), nodeId, incarnation: uuid() }
      : { clusterId: node.clusterId, nodeId, incarnation: node.incarnation };
  writeNode(path, settled);
  return settled;
}

function writeNode(path: string, node: Node): void {
  writeChecked(path, NODE_NAME, { format: FORMAT, ...node });
}

function readNode(path: string): Node | undefined {
  const fields = readChecked(path, NODE_NAME);
  if (fields === undefined) {
    if (offsetsOf(readdirSync(path), 'log').length === 0) return undefined;
    throw damagedFile(path, NODE_NAME, 'it is missing, and there are segments');
  }
  const { clusterId, nodeId, incarnation } = fields;
  if (typeof clusterId !== 'string' || typeof nodeId !== 'string' || typeof incarnation !== 'string') {
    throw damagedFile(path, NODE_NAME, 'a field is missing');
  }
  return { clusterId, nodeId, incarnation };
}
