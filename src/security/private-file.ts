// Reads the files that say who may do what: password and ACL file. They are small, read at start and on reload only, and never in part.
import { readFileSync, statSync } from 'node:fs';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';

const READABLE_BY_OTHERS = 0o004;
const WRITABLE_BY_OTHERS = 0o002;

export interface Line {
  text: string;
  /** Counted from 1. */
  number: number;
}

/**
 * The lines of `path` that say something: not blank, not a comment (`#` in the first column).
 * @throws {GomqError} CONFIG_UNREADABLE
 */
export function readLines(path: string): Line[] {
  let text: string;
  try {
    // A file that is not text is refused, not guessed at: a rule that was misread is a rule that is not there.
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new GomqError('CONFIG_UNREADABLE', `cannot read ${path}: ${reason}`, { cause: error });
  }
  return text
    .split(/\r?\n/)
    .map((line, index) => ({ text: line, number: index + 1 }))
    .filter((line) => line.text.trim() !== '' && !line.text.startsWith('#'));
}

/** Answers a CONFIG_INVALID that names file and line, and never what the line holds, which may be a secret. */
export function lineError(path: string, line: Line, what: string): GomqError {
  return new GomqError('CONFIG_INVALID', `${path}:${line.number}: ${what}`, {
    hint: 'docs/SECURITY.md describes the password and the ACL file.',
  });
}

/** Warns where everyone on the machine may read or change the file (CVE-2017-9868). A file that is not there is somebody else's error. */
export function warnOfOpenFile(path: string, logger: Logger): void {
  const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0;
  // Windows has no such bits and shows invented ones.
  if (process.platform === 'win32') return;
  if ((mode & WRITABLE_BY_OTHERS) !== 0)
    logger.warn('a security file can be changed by every user', { path });
  else if ((mode & READABLE_BY_OTHERS) !== 0)
    logger.warn('a security file can be read by every user', { path });
}
