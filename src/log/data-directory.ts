// Owns what makes a directory the data directory of one broker: the lock, which dies with the process; `node.json`, which says whose it is;
// and `suspect`, which says after a failed fsync how much of the log is known to be kept. Nobody writes to the directory without the lock.
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { v7 as uuid } from 'uuid';
import { GomqError } from '../core/errors.js';
import { nodeDisk } from './disk.js';
import { DRAFT_SUFFIX, offsetsOf } from './file-names.js';

const FORMAT = 2;
const LOCK_NAME = 'lock';
const NODE_NAME = 'node.json';
const SUSPECT_NAME = 'suspect';
/** What a broker is called that nobody gave a name. */
const UNNAMED = 'gomq';
const DIRECTORY_MODE = 0o700;
const FILE_MODE = 0o600;
const SMALL_FILE_BYTES_MAX = 4096;
/** What the operating system means. */
const REASONS = new Map([
  ['ENOENT', 'there is no such directory'],
  ['ENOTDIR', 'it is not a directory'],
  ['EEXIST', 'it is not a directory'],
  ['EACCES', 'permission denied'],
  ['EPERM', 'permission denied'],
  ['EROFS', 'the file system is read-only'],
]);

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
  /** Drawn when the directory was made: another one says that what was here is gone. */
  readonly incarnation: string;
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
  readonly incarnation: string;
  #lock: number | undefined;

  constructor(path: string, node: Node, lock: number | undefined) {
    this.path = path;
    this.clusterId = node.clusterId;
    this.nodeId = node.nodeId;
    this.incarnation = node.incarnation;
    this.#lock = lock;
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
    if (!isCount(segment) || !isCount(position)) throw damaged(this.path, SUSPECT_NAME, 'a field is missing');
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
  const holder = readFileSync(file, 'utf8').slice(0, SMALL_FILE_BYTES_MAX);
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
  writeChecked(path, NODE_NAME, { format: FORMAT, ...settled });
  return settled;
}

function readNode(path: string): Node | undefined {
  const fields = readChecked(path, NODE_NAME);
  if (fields === undefined) {
    if (offsetsOf(readdirSync(path), 'log').length === 0) return undefined;
    throw damaged(path, NODE_NAME, 'it is missing, and there are segments');
  }
  const { clusterId, nodeId, incarnation } = fields;
  if (typeof clusterId !== 'string' || typeof nodeId !== 'string' || typeof incarnation !== 'string') {
    throw damaged(path, NODE_NAME, 'a field is missing');
  }
  return { clusterId, nodeId, incarnation };
}

/** Writes a small file that is there as a whole or not at all, with a checksum over its fields. */
function writeChecked(path: string, name: string, fields: Record<string, string | number>): void {
  const file = join(path, name);
  const draft = `${file}${DRAFT_SUFFIX}`;
  const fd = openSync(draft, 'w', FILE_MODE);
  try {
    writeSync(fd, `${JSON.stringify({ ...fields, checksum: checksum(fields) })}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(draft, file);
  nodeDisk.syncDirectory(path);
}

/** The fields of a small file, or undefined where there is none. */
function readChecked(path: string, name: string): Record<string, unknown> | undefined {
  const file = join(path, name);
  const stats = statSync(file, { throwIfNoEntry: false });
  if (stats === undefined) return undefined;
  if (stats.size > SMALL_FILE_BYTES_MAX) throw damaged(path, name, `it has ${stats.size} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw damaged(path, name, 'it is not JSON');
  }
  if (typeof value !== 'object' || value === null) throw damaged(path, name, 'it is not an object');
  const { checksum: expected, ...fields } = value as Record<string, unknown>;
  const { format } = fields;
  // Other versions may compute the checksum over other things.
  if (isCount(format) && format !== FORMAT) {
    throw new GomqError('DATA_VERSION', `${path} has format ${format}, and this gomq knows format ${FORMAT}`);
  }
  if (expected !== checksum(fields)) throw damaged(path, name, 'its checksum is wrong');
  return fields;
}

/** CRC-32 of the fields as JSON without blanks, as eight hexadecimal digits. */
function checksum(fields: Record<string, unknown>): string {
  return crc32(JSON.stringify(fields)).toString(16).padStart(8, '0');
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function damaged(path: string, name: string, what: string): GomqError {
  const hint = 'Bring the file back from a copy of the directory; docs/LOG_FORMAT.md says what is in it.';
  return new GomqError('DATA_DAMAGED', `${join(path, name)} is damaged: ${what}`, { hint });
}

/** Says what the operating system answered in the words of the project. */
function readable<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof GomqError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const why = REASONS.get(code ?? '') ?? code ?? message;
    throw new GomqError('DATA_UNREADABLE', `cannot use the data directory ${path}: ${why}`, { cause: error });
  }
}
