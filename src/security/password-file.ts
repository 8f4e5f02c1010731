// Owns the password file: one `user:hash` a line, where the hash is an argon2 string as `gomq password` writes it. Blank lines and lines that
// begin with `#` are skipped; anything else that is not a user with a hash is an error, never an entry (CVE-2018-12551).
import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { hash } from '@node-rs/argon2';
import { GomqError } from '../core/errors.js';
import { lineError, readLines } from './private-file.js';

const ARGON2 = /^\$argon2(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$/;
/** OWASP's recommendation for argon2id: 19 MiB, two passes. About 20 ms. */
const HASH_COST = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };
const OWNER_ONLY = 0o600;
const PERMISSION_BITS = 0o777;

/** Hashes by user name. */
export type PasswordTable = ReadonlyMap<string, string>;

/**
 * Reads the whole file.
 * @throws {GomqError} CONFIG_UNREADABLE, CONFIG_INVALID with file and line
 */
export function readPasswordFile(path: string): PasswordTable {
  const table = new Map<string, string>();
  for (const line of readLines(path)) {
    // A user name may hold colons, a hash never does.
    const colon = line.text.lastIndexOf(':');
    const userName = line.text.slice(0, Math.max(colon, 0));
    const passwordHash = line.text.slice(colon + 1);
    if (userName === '') throw lineError(path, line, 'not a line of the form user:hash');
    if (!ARGON2.test(passwordHash)) {
      throw lineError(path, line, 'the hash is not an argon2 string; write it with `gomq password`');
    }
    if (table.has(userName)) throw lineError(path, line, 'this user has a line already');
    table.set(userName, passwordHash);
  }
  return table;
}

/** Answers the argon2id string for a password, with a salt of its own. */
export function hashPassword(password: string | Uint8Array): Promise<string> {
  return hash(password, HASH_COST);
}

/**
 * Writes the line of one user, in the place of an older one or at the end; makes the file where there is none. A reader sees the old file or
 * the new one, and comments stay.
 * @throws {GomqError} CONFIG_INVALID for a user name that cannot stand in the file, CONFIG_UNREADABLE
 */
export function setPasswordLine(path: string, userName: string, passwordHash: string): void {
  if (
    userName === '' ||
    userName.startsWith('#') ||
    userName.trim() !== userName ||
    /[\r\n\0]/.test(userName)
  ) {
    throw new GomqError('CONFIG_INVALID', `the user name '${userName}' cannot stand in a password file`, {
      hint: 'It must not be empty, begin with #, begin or end with a space, or hold a line break.',
    });
  }
  if (!ARGON2.test(passwordHash)) throw new GomqError('INTERNAL', 'not an argon2 string');
  const prior = readPrior(path);
  const lines = prior.text === '' ? [] : prior.text.replace(/\r?\n$/, '').split(/\r?\n/);
  const mine = `${userName}:${passwordHash}`;
  const index = lines.findIndex((line) => line.slice(0, Math.max(line.lastIndexOf(':'), 0)) === userName);
  if (index === -1) lines.push(mine);
  else lines[index] = mine;
  replaceFile(path, `${lines.join('\n')}\n`, prior.owner);
}

interface Owner {
  mode: number;
  uid: number;
  gid: number;
}

function readPrior(path: string): { text: string; owner: Owner | undefined } {
  const owner = statSync(path, { throwIfNoEntry: false });
  if (owner === undefined) return { text: '', owner: undefined };
  try {
    return { text: readFileSync(path, 'utf8'), owner };
  } catch (error) {
    throw new GomqError('CONFIG_UNREADABLE', `cannot read ${path}`, { cause: error });
  }
}

/** Puts a new file in the place of `path` in one step, with the rights of the old one, or for its owner alone. */
function replaceFile(path: string, text: string, owner: Owner | undefined): void {
  const draft = `${path}.${process.pid}.new`;
  try {
    const file = openSync(draft, 'wx', OWNER_ONLY);
    try {
      writeSync(file, text);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    if (owner !== undefined) {
      // Written by root, the file must stay readable for the user that the broker runs as.
      if (process.getuid?.() === 0) chownSync(draft, owner.uid, owner.gid);
      chmodSync(draft, owner.mode & PERMISSION_BITS);
    }
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    const reason = error instanceof Error ? error.message : String(error);
    throw new GomqError('CONFIG_UNREADABLE', `cannot write ${path}: ${reason}`, { cause: error });
  }
}
