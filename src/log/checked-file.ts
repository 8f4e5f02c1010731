// Small files with a checksum over their fields, one line of JSON each: there as a whole or not at all, and believed only where they are whole.
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { GomqError } from '../core/errors.js';
import { nodeDisk } from './disk.js';
import { DRAFT_SUFFIX } from './file-names.js';

/** Of the data directory. */
export const FORMAT = 2;
export const FILE_MODE = 0o600;
/** Nobody writes so much into one. */
export const CHECKED_FILE_BYTES_MAX = 64 * 1024;
/** What the operating system means. */
const REASONS = new Map([
  ['ENOENT', 'there is no such directory'],
  ['ENOTDIR', 'it is not a directory'],
  ['EEXIST', 'it is not a directory'],
  ['EACCES', 'permission denied'],
  ['EPERM', 'permission denied'],
  ['EROFS', 'the file system is read-only'],
]);

/** Puts the file in the directory `path`, on disk when it returns. @throws what the operating system answers */
export function writeChecked(path: string, name: string, fields: Record<string, unknown>): void {
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

/**
 * The fields of a file, or undefined where there is none.
 * @throws {GomqError} DATA_DAMAGED, DATA_VERSION; and what the operating system answers
 */
export function readChecked(path: string, name: string): Record<string, unknown> | undefined {
  const file = join(path, name);
  const stats = statSync(file, { throwIfNoEntry: false });
  if (stats === undefined) return undefined;
  if (stats.size > CHECKED_FILE_BYTES_MAX) throw damagedFile(path, name, `it has ${stats.size} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw damagedFile(path, name, 'it is not JSON');
  }
  if (typeof value !== 'object' || value === null) throw damagedFile(path, name, 'it is not an object');
  const { checksum: expected, ...fields } = value as Record<string, unknown>;
  const { format } = fields;
  // Other versions may compute the checksum over other things.
  if (isCount(format) && format !== FORMAT) {
    throw new GomqError('DATA_VERSION', `${path} has format ${format}, and this gomq knows format ${FORMAT}`);
  }
  if (expected !== checksum(fields)) throw damagedFile(path, name, 'its checksum is wrong');
  return fields;
}

/** CRC-32 of the fields as JSON without blanks, as eight hexadecimal digits. */
function checksum(fields: Record<string, unknown>): string {
  return crc32(JSON.stringify(fields)).toString(16).padStart(8, '0');
}

export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function damagedFile(path: string, name: string, what: string): GomqError {
  const hint = 'Bring the file back from a copy of the directory; docs/LOG_FORMAT.md says what is in it.';
  return new GomqError('DATA_DAMAGED', `${join(path, name)} is damaged: ${what}`, { hint });
}

/** Says what the operating system answered in the words of the project. */
export function readable<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof GomqError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const why = REASONS.get(code ?? '') ?? code ?? message;
    throw new GomqError('DATA_UNREADABLE', `cannot use the data directory ${path}: ${why}`, { cause: error });
  }
}
