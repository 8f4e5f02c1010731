// Begins a log anew: from the snapshot of another broker, or from nothing. What was in the directory goes, or is put aside where it is damaged, since it
// may still be of use to a person. A marker says that this is under way; whoever finds it at the start begins with nothing.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GomqError } from '../core/errors.js';
import { FILE_MODE, readable } from './checked-file.js';
import { nodeDisk } from './disk.js';
import { DRAFT_SUFFIX, fileName } from './file-names.js';
import { COMMITTED_NAME, writeCommitted } from './membership.js';

const MARKER_NAME = 'beginning-anew';
const ASIDE_NAME = 'damaged';

/** Under such a name the snapshot of another broker arrives: each time under another one, since one that was given up may still be written to. */
export function incomingName(number: number): string {
  return `incoming-${number}${DRAFT_SUFFIX}`;
}
const LOG_FILE = /^\d{20}\.(log|index|snapshot)$/;
const SUSPECT_NAME = 'suspect';

/** A log was being begun anew when the process ended: nothing in the directory is to be believed. */
export function isBeginningAnew(path: string): boolean {
  return existsSync(join(path, MARKER_NAME));
}

/**
 * Takes everything of the log away and begins with the snapshot of another broker, or with nothing. The log is closed.
 * @param snapshot where it lies, in the directory, and the offset that it ends before
 * @param finish what belongs to the new log as much as its files: the marker is there until it returns
 * @throws {GomqError} DATA_UNREADABLE
 */
export function beginAnew(
  path: string,
  finish: () => void,
  snapshot?: { readonly file: string; readonly endOffset: number },
): void {
  readable(path, () => {
    writeFileSync(join(path, MARKER_NAME), '', { mode: FILE_MODE });
    nodeDisk.syncDirectory(path);
    for (const name of logFiles(path)) rmSync(join(path, name));
    rmSync(join(path, COMMITTED_NAME), { force: true });
    if (snapshot !== undefined) {
      const { file, endOffset } = snapshot;
      renameSync(file, join(path, fileName(endOffset, 'snapshot')));
      nodeDisk.open(join(path, fileName(endOffset, 'log')), 'create').close();
      writeCommitted(path, endOffset);
    }
    nodeDisk.syncDirectory(path);
    finish();
    rmSync(join(path, MARKER_NAME));
    nodeDisk.syncDirectory(path);
  });
}

/**
 * Moves everything of the log into a folder of the directory: it is damaged, and a copy from another broker takes its place.
 * @returns the folder
 * @throws {GomqError} DATA_UNREADABLE; DATA_DAMAGED where there is such a folder already: somebody should look at it first
 */
export function putAside(path: string): string {
  return readable(path, () => {
    const aside = join(path, ASIDE_NAME);
    if (existsSync(aside)) {
      throw new GomqError(
        'DATA_DAMAGED',
        `the log in ${path} is damaged, and ${aside} is there from the last time`,
        {
          hint: 'A disk that damages files more than once should be replaced. Remove the folder, and gomq copies the log from the leader again.',
        },
      );
    }
    writeFileSync(join(path, MARKER_NAME), '', { mode: FILE_MODE });
    mkdirSync(aside, { mode: 0o700 });
    for (const name of logFiles(path)) renameSync(join(path, name), join(aside, name));
    rmSync(join(path, COMMITTED_NAME), { force: true });
    nodeDisk.syncDirectory(path);
    rmSync(join(path, MARKER_NAME));
    nodeDisk.syncDirectory(path);
    return aside;
  });
}

function logFiles(path: string): string[] {
  return readdirSync(path).filter((name) => LOG_FILE.test(name) || name === SUSPECT_NAME);
}
