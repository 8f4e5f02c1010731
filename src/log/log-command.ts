// Owns `gomq log verify` and `gomq log dump`: what they print, how far along they are, and how they end. They read beside a running broker.
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { GomqError } from '../core/errors.js';
import { openDataDirectory } from './data-directory.js';
import { nodeDisk } from './disk.js';
import { dumpLog } from './dump.js';
import type { RecordSlice } from './log.js';
import type { TopicOf } from './recovery.js';
import { type Finding, type VerifyReport, verifyLog, verifySuspect } from './verify.js';
import { loadZstd } from './zstd.js';

const EXIT_FINE = 0;
const EXIT_DAMAGED = 1;
const DRAW_FIRST_MS = 500;
const DRAW_EVERY_MS = 100;
const BAR_CELLS = 30;
/** Lines are written together when they are this long: one system call each would take longer than everything else. */
const CHUNK_CHARACTERS = 32_768;
/** The largest time that has a date. */
const DATE_MS_MAX = 8.64e15;

type Terminal = Writable & { isTTY?: boolean; columns?: number };

/** Where a command writes, and what the log room does not know itself. */
export interface LogCommandHost {
  readonly stdout: Terminal;
  readonly stderr: Terminal;
  /** Milliseconds of a monotonic clock. */
  readonly monotonicMs: () => number;
}

/**
 * Checks all of a data directory: a line for each damaged place, and one that sums up; with `json` an object a line.
 * @returns the exit code: 1 where there is damage
 * @throws {GomqError} DATA_UNREADABLE, DATA_VERSION
 */
export async function runLogVerify(
  directory: string,
  flags: { json?: boolean; topicOf?: TopicOf | undefined },
  host: LogCommandHost,
): Promise<number> {
  const zstd = await loadZstd();
  const output = new LineOutput(host.stdout);
  const progress = new ProgressLine(host);
  let damaged = 0;
  const onFinding = (finding: Finding): void => {
    if (finding.kind === 'damage') damaged++;
    progress.clear();
    output.line(flags.json === true ? JSON.stringify(finding) : describeFinding(finding));
    output.flush();
  };
  checkIdentity(directory, onFinding);
  const report = verifyLog(directory, {
    disk: nodeDisk,
    zstd,
    topicOf: flags.topicOf,
    onFinding,
    onProgress: (done, total) => progress.show(done, total),
  });
  progress.clear();
  const summary = { ...report, damaged };
  output.line(
    flags.json === true ? JSON.stringify({ kind: 'summary', ...summary }) : describeReport(summary),
  );
  await output.end();
  return damaged === 0 ? EXIT_FINE : EXIT_DAMAGED;
}

/**
 * Prints records as JSON, one a line.
 * @returns the exit code: 1 where there is damage, which is told on stderr and passed over
 * @throws {GomqError} DATA_UNREADABLE, DATA_VERSION
 */
export async function runLogDump(
  directory: string,
  flags: { from?: number; limit?: number; describeRecord?: ((record: RecordSlice) => object) | undefined },
  host: LogCommandHost,
): Promise<number> {
  const { from = 0, limit = Number.POSITIVE_INFINITY, describeRecord = describeBytes } = flags;
  const zstd = await loadZstd();
  const output = new LineOutput(host.stdout);
  // A bar between the records would be in the way of both.
  const progress = host.stdout.isTTY === true ? undefined : new ProgressLine(host);
  let exitCode = EXIT_FINE;
  const onFinding = (finding: Finding): void => {
    if (finding.kind === 'damage') exitCode = EXIT_DAMAGED;
    progress?.clear();
    host.stderr.write(`gomq: ${describeFinding(finding)}\n`);
  };
  checkIdentity(directory, onFinding);
  let left = limit;
  const batches = dumpLog(directory, {
    disk: nodeDisk,
    zstd,
    fromOffset: from,
    onFinding,
    onProgress: (done, total) => progress?.show(done, total),
  });
  if (left > 0) {
    for (const { epoch, timestampMs, records } of batches) {
      const time = timestampMs <= DATE_MS_MAX ? new Date(timestampMs).toISOString() : timestampMs;
      for (const record of records) {
        output.line(JSON.stringify({ offset: record.offset, time, epoch, ...describeRecord(record) }));
        if (output.isBlocked) await output.drained();
        if (--left === 0 || output.isBroken) break;
      }
      // Only then is it told that nobody reads any more.
      await nextTurn();
      if (left === 0 || output.isBroken) break;
    }
  }
  progress?.clear();
  await output.end();
  return exitCode;
}

/** Whose directory it is, and what is left of a failed fsync. A damaged file of these is one finding among others. */
function checkIdentity(path: string, onFinding: (finding: Finding) => void): void {
  try {
    const directory = openDataDirectory(path, { nodeId: '', mode: 'read' });
    verifySuspect(directory, onFinding);
  } catch (error) {
    if (!(error instanceof GomqError) || error.code !== 'DATA_DAMAGED') throw error;
    onFinding({ kind: 'damage', file: path, position: 0, what: error.message });
  }
}

/** Where nobody has said what is in a record. */
function describeBytes({ buffer, start, end }: RecordSlice): object {
  const type = end > start ? buffer[start]! : undefined;
  return { type, length: end - start, base64: buffer.toString('base64', start, end) };
}

function describeFinding({ kind, file, position, what, fromOffset, toOffset }: Finding): string {
  const isRange = toOffset !== undefined && toOffset !== fromOffset;
  const offsets =
    fromOffset === undefined
      ? ''
      : isRange
        ? `, offsets ${fromOffset} to ${toOffset}`
        : toOffset === undefined
          ? `, from offset ${fromOffset} on`
          : `, offset ${fromOffset}`;
  return `${file}: ${kind === 'damage' ? 'damaged ' : ''}at position ${position}${offsets}: ${what}`;
}

function describeReport(report: VerifyReport): string {
  const { segments, indexes, snapshots, batches, records, bytes, damaged } = report;
  const counts = [
    counted(segments, 'segment', 'segments'),
    counted(indexes, 'index', 'indexes'),
    counted(snapshots, 'snapshot', 'snapshots'),
    counted(batches, 'batch', 'batches'),
    counted(records, 'record', 'records'),
    counted(bytes, 'byte', 'bytes'),
  ];
  const result = damaged === 0 ? 'no damage' : counted(damaged, 'damaged place', 'damaged places');
  return `${counts.join(', ')}: ${result}`;
}

function counted(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** Lines to a reader that may be slow, and may go away (`| head`), which ends the command quietly. */
class LineOutput {
  readonly #stream: Writable;
  #chunk = '';
  #isBroken = false;
  #failure: Error | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
    // It stays to the end of the process: the error may come after the last line.
    stream.on('error', (error: NodeJS.ErrnoException) => {
      this.#isBroken = true;
      if (error.code !== 'EPIPE') this.#failure = error;
    });
  }

  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** No more should be written for now. */
  get isBlocked(): boolean {
    return this.#stream.writableNeedDrain && !this.#isBroken;
  }

  line(text: string): void {
    this.#chunk += `${text}\n`;
    if (this.#chunk.length >= CHUNK_CHARACTERS) this.flush();
  }

  flush(): void {
    if (!this.#isBroken) this.#stream.write(this.#chunk);
    this.#chunk = '';
  }

  async drained(): Promise<void> {
    try {
      await once(this.#stream, 'drain');
    } catch (error) {
      // The listener for errors has it too.
      if (!this.#isBroken) throw error;
    }
  }

  /** @throws {GomqError} DATA_UNREADABLE where what was printed did not arrive */
  async end(): Promise<void> {
    this.flush();
    if (this.isBlocked) await this.drained();
    await nextTurn();
    if (this.#failure !== undefined) {
      throw new GomqError('DATA_UNREADABLE', `cannot write to stdout: ${this.#failure.message}`, {
        cause: this.#failure,
        hint: 'Look at where stdout goes: the disk may be full.',
      });
    }
  }
}

/** How far the work is: one line on a terminal, once it takes longer than a blink. It is drawn from within the work, which has no turns. */
class ProgressLine {
  readonly #host: LogCommandHost;
  #nextMs: number;
  #isShown = false;

  constructor(host: LogCommandHost) {
    this.#host = host;
    this.#nextMs = host.stderr.isTTY === true ? host.monotonicMs() + DRAW_FIRST_MS : Number.POSITIVE_INFINITY;
  }

  show(done: number, total: number): void {
    if (this.#nextMs === Number.POSITIVE_INFINITY) return;
    const nowMs = this.#host.monotonicMs();
    if (nowMs < this.#nextMs) return;
    this.#nextMs = nowMs + DRAW_EVERY_MS;
    const share = total === 0 ? 1 : Math.min(1, done / total);
    const full = Math.floor(share * BAR_CELLS);
    const bar = '#'.repeat(full).padEnd(BAR_CELLS, '-');
    const text = `${String(Math.floor(share * 100)).padStart(3)}% [${bar}] ${(done / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`;
    this.#host.stderr.write(`\r\x1b[K${text.slice(0, (this.#host.stderr.columns ?? 80) - 1)}`);
    this.#isShown = true;
  }

  /** Takes it away, so that another line can be written. */
  clear(): void {
    if (this.#isShown) this.#host.stderr.write('\r\x1b[K');
    this.#isShown = false;
  }
}
