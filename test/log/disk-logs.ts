// Logs on a disk for tests: on a simulated one, which is fast and fails on demand, or in a directory of its own.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/core/clock.js';
import type { LogFields, Logger } from '../../src/core/logger.js';
import { openDataDirectory, type Suspect, type SuspectMarker } from '../../src/log/data-directory.js';
import { type DiskLog, type DiskLogOptions, openDiskLog } from '../../src/log/disk-log.js';
import { type LogReader, ReadResult } from '../../src/log/log.js';
import type { SimulatedDisk } from './simulated-disk.js';

const MEBIBYTE = 1024 * 1024;
const HUGE_BYTES = Number.MAX_SAFE_INTEGER;

/** Of a simulated disk. */
export class SimulatedDirectory implements SuspectMarker {
  readonly path = '/data';
  suspect: Suspect | undefined = undefined;

  markSuspect(suspect: Suspect): boolean {
    this.suspect = suspect;
    return true;
  }

  readSuspect(): Suspect | undefined {
    return this.suspect;
  }

  clearSuspect(): void {
    this.suspect = undefined;
  }
}

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: LogFields | undefined;
}

export function listeningLogger(lines: LogLine[]): Logger {
  const at =
    (level: string) =>
    (message: string, fields?: LogFields): void => {
      lines.push({ level, message, fields });
    };
  const logger: Logger = {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: () => logger,
  };
  return logger;
}

/** A log that nothing may happen to, unless the options say so. */
export function logOptions(
  directory: DiskLogOptions['directory'],
  disk: SimulatedDisk | undefined,
  options: Partial<DiskLogOptions>,
): DiskLogOptions {
  const logger = listeningLogger([]);
  return {
    directory,
    ...(disk === undefined ? {} : { disk }),
    clock: systemClock,
    logger,
    epoch: 1,
    compression: 'zstd',
    fsync: 'always',
    fsyncIntervalMs: 10,
    segmentBytes: MEBIBYTE,
    retentionBytes: HUGE_BYTES,
    retentionHours: 0,
    hardLimitBytes: HUGE_BYTES,
    cacheBytes: MEBIBYTE,
    reserveBytes: 4096,
    onFailure: (error) => assert.fail(error),
    onDamaged: (from, to) => assert.fail(`records ${from} to ${to} are damaged`),
    snapshotFloor: () => HUGE_BYTES,
    topicOf: topicOf,
    neededFrom: () => Number.POSITIVE_INFINITY,
    onLost: () => assert.fail('nothing is lost'),
    ...options,
  };
}

/** Opens a log in a directory of its own that goes with the test. */
export async function openRealLog(
  context: { after(hook: () => Promise<void>): void },
  options: Partial<DiskLogOptions> = {},
): Promise<{ log: DiskLog; reopen(): Promise<DiskLog> }> {
  const path = mkdtempSync(join(tmpdir(), 'gomq-log-'));
  const directory = openDataDirectory(path, { nodeId: 'gomq' });
  let log = await openDiskLog(logOptions(directory, undefined, options));
  context.after(async () => {
    await log.close();
    directory.release();
    rmSync(path, { recursive: true });
  });
  return {
    log,
    async reopen() {
      await log.close();
      log = await openDiskLog(logOptions(directory, undefined, options));
      return log;
    },
  };
}

/** As recordings of topics: a record begins with the length of its topic and the topic, if there is room for them. */
export function topicOf(buffer: Buffer, start: number, end: number): string {
  const length = start < end ? buffer[start]! : 0;
  return buffer.toString('latin1', start + 1, Math.min(start + 1 + length, end));
}

/** Appends a record that names its topic and its offset, and answers the offset. */
export function append(log: DiskLog, topic: string, length = 100, changesState = false): number {
  const slice = log.append(topic, Math.max(length, topic.length + 1), changesState);
  const { buffer, start, end, offset } = slice;
  buffer[start] = topic.length;
  buffer.write(topic, start + 1, 'latin1');
  buffer.fill(offset & 0xff, start + 1 + topic.length, end);
  return offset;
}

/** What `append` wrote at this offset. */
export function checkRecord({ record }: LogReader): void {
  const { offset, buffer, start, end } = record;
  const bytes = buffer.subarray(start, end);
  assert.ok(
    bytes.subarray(1 + bytes[0]!).every((byte) => byte === (offset & 0xff)),
    `bytes of record ${offset}`,
  );
}

/** Resolves when all that was appended is committed. */
export async function committed(log: DiskLog): Promise<void> {
  log.flush();
  while (log.highWatermark < log.endOffset) await nextTurn();
}

export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export interface Reading {
  readonly offsets: number[];
  pending: number;
  later: number;
}

/** Reads from an offset to the end, checking each record, and waits wherever the log says so. */
export async function readAll(log: DiskLog, from = 0, wants?: (topic: string) => boolean): Promise<Reading> {
  const reading: Reading = { offsets: [], pending: 0, later: 0 };
  let onReadable: () => void = () => undefined;
  const reader = log.createReader(() => onReadable());
  reader.seek(from);
  for (;;) {
    const result = reader.next(wants);
    if (result === ReadResult.Pending) {
      reading.pending++;
      await new Promise<void>((resolve) => {
        onReadable = resolve;
      });
    } else if (result === ReadResult.Later) {
      reading.later++;
      await nextTurn();
    } else if (result === ReadResult.Record) {
      checkRecord(reader);
      assert.equal(reader.position, reader.record.offset + 1);
      reading.offsets.push(reader.record.offset);
    } else {
      reader.close();
      return reading;
    }
  }
}

export const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from }, (_, i) => from + i);
