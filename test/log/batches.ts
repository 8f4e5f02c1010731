// What the tests of files share: records that say which they are, batches of them, directories that go away, and a logger that remembers.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import type { LogFields, Logger } from '../../src/core/logger.js';
import { silentLogger } from '../../src/core/logger.js';
import { encodeBatch } from '../../src/log/batch-codec.js';
import { BatchFlag } from '../../src/log/batch-format.js';
import { type Disk, nodeDisk } from '../../src/log/disk.js';
import { fileName } from '../../src/log/file-names.js';
import { loadZstd } from '../../src/log/zstd.js';

export const zstd = await loadZstd();

/** `topic|text` */
export function topicOf(buffer: Buffer, start: number, end: number): string {
  const record = buffer.toString('utf8', start, end);
  return record.slice(0, record.indexOf('|'));
}

export function recordText(offset: number, padding = 0): string {
  return `sensors/${offset % 3}|${offset}:${'x'.repeat(padding)}`;
}

/** Records, each behind its length. */
export function payloadOf(records: readonly string[]): Buffer {
  return Buffer.concat(
    records.flatMap((record) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(Buffer.byteLength(record));
      return [length, Buffer.from(record)];
    }),
  );
}

export interface BatchOptions {
  flags?: number;
  epoch?: number;
  padding?: number;
  timestampMs?: number;
}

/** Written when all before it was on disk, unless `flags` say otherwise. */
export function batchOf(baseOffset: number, recordCount: number, options: BatchOptions = {}): Buffer {
  const { flags = BatchFlag.AfterSync, epoch = 1, padding = 0, timestampMs = 1000 + baseOffset } = options;
  const records = Array.from({ length: recordCount }, (_, i) => recordText(baseOffset + i, padding));
  const lastOffset = baseOffset + recordCount - 1;
  return encodeBatch(
    zstd,
    { flags, epoch, baseOffset, lastOffset, timestampMs, recordCount },
    payloadOf(records),
  );
}

const root = mkdtempSync(join(tmpdir(), 'gomq-log-'));
after(() => rmSync(root, { recursive: true }));
let directories = 0;

/** A new directory with these files. */
export function makeDirectory(files: Record<string, Uint8Array> = {}): string {
  const directory = join(root, String(directories++));
  mkdirSync(directory);
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(directory, name), bytes);
  return directory;
}

/** The disk of the operating system, which has lost one file: it is there, and opening or reading it fails with EIO. */
export function failingReads(failing: string, operation: 'open' | 'read'): Disk {
  const fail = (): never => {
    throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
  };
  return {
    ...nodeDisk,
    open: (path, mode) => {
      const isFailing = path === failing && mode !== 'create';
      if (isFailing && operation === 'open') fail();
      const file = nodeDisk.open(path, mode);
      if (!isFailing) return file;
      return {
        bytes: file.bytes,
        write: (buffer, position) => file.write(buffer, position),
        read: fail,
        sync: () => file.sync(),
        truncate: (bytes) => file.truncate(bytes),
        close: () => file.close(),
      };
    },
  };
}

export const logName = (offset: number): string => fileName(offset, 'log');

export interface LoggedLine {
  level: 'info' | 'warn' | 'error';
  message: string;
  fields: LogFields;
}

export function rememberingLogger(): Logger & { lines: LoggedLine[] } {
  const lines: LoggedLine[] = [];
  const at =
    (level: LoggedLine['level']) =>
    (message: string, fields: LogFields = {}): void => {
      lines.push({ level, message, fields });
    };
  return { ...silentLogger, lines, info: at('info'), warn: at('warn'), error: at('error') };
}

/** What was asked for, where nothing is wrong with it. */
export function without<T extends object>(value: T): Exclude<T, { damage: string }> {
  if ('damage' in value) assert.fail(String(value.damage));
  return value as Exclude<T, { damage: string }>;
}
