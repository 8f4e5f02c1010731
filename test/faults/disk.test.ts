// The log on disks of the real operating system that fail: what it said it keeps is there at the next start, and nothing that was never appended.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, describe, it } from 'node:test';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { type DiskLog, type DiskLogOptions, openDiskLog } from '../../src/log/disk-log.js';
import {
  append,
  committed,
  type LogLine,
  listeningLogger,
  logOptions,
  range,
  readAll,
} from '../log/disk-logs.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { mountSkip, mountSmall, straceSkip, Tracing } from './failing-disks.js';

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const RECORDS = 600;
const EXIT_DISK_FAILED = 74;
/** Several in a run. */
const SEGMENT_BYTES = 32 * KIBIBYTE;
const BASE: Partial<DiskLogOptions> = { segmentBytes: SEGMENT_BYTES, compression: 'none' };

interface Fault {
  readonly what: string;
  /** As after strace's `-e inject=`. The calls of each thread are counted from its begin. */
  readonly injection: string;
  readonly options?: Partial<DiskLogOptions>;
  /** What the log says that failed. */
  readonly failed: RegExp;
  /** The same fault keeps it from being remembered. */
  readonly isForgotten?: boolean;
}

const FINAL: readonly Fault[] = [
  {
    what: 'fdatasync, from early on',
    injection: 'fdatasync:error=EIO:when=8+',
    failed: /^fdatasync of .*\.log failed: EIO/,
  },
  {
    what: 'fdatasync once, amid segments',
    injection: 'fdatasync:error=EIO:when=45',
    // How many of them are for zeros ahead depends on the time, so it may meet an index as well.
    failed: /^(fdatasync of .*\.log|upkeep of .*) failed: EIO/,
  },
  { what: 'a write', injection: 'pwrite64:error=EIO:when=20', failed: /^write of .*\.log failed: EIO/ },
  {
    what: 'fsync of the directory, for a new segment',
    injection: 'fsync:error=EIO:when=2',
    failed: /^fsync of the directory .* failed: EIO/,
    isForgotten: true,
  },
  {
    what: 'the end of a segment',
    injection: 'ftruncate:error=EIO:when=2+',
    failed: /^truncate of .*\.log failed: EIO/,
  },
  {
    what: 'the name of an index',
    injection: '/^rename:error=EIO:when=1',
    failed: /^upkeep of .* failed: EIO/,
    isForgotten: true,
  },
  {
    what: 'retention',
    injection: '/^unlink:error=EIO:when=1',
    options: { retentionBytes: 2 * SEGMENT_BYTES },
    failed: /^upkeep of .* failed: EIO/,
  },
  {
    what: 'every write, for want of room',
    injection: 'pwrite64:error=ENOSPC:when=20+',
    failed: /^write of .*\.log failed: ENOSPC/,
  },
];

describe('a log whose disk fails', { skip: straceSkip() }, () => {
  for (const { what, injection, options = {}, failed, isForgotten } of FINAL) {
    it(`${what}: it ends there, and what it kept is all there is`, async () => {
      const run = await runChild({ ...BASE, ...options }, injection);
      assert.equal(run.code, EXIT_DISK_FAILED, run.stderr);
      // It says so once, at its end: nothing is kept after the failure.
      const [why] = run.lines.filter((line) => line.startsWith('failed '));
      assert.equal(run.lines.at(-1), why);
      assert.match(why!.slice('failed '.length), failed);
      assert.ok(run.kept > 0 && run.kept < RECORDS, `${run.kept} records were kept`);
      const { offsets, lines } = await reopen(run.path);
      assert.deepEqual(offsets, range(offsets[0]!, run.kept));
      assert.ok(offsets[0] === 0 || options.retentionBytes !== undefined);
      // What may only seem to be on disk is cut, and that is said once.
      const cuts = lines.filter(({ message }) => message.startsWith('an fsync failed when gomq last ran'));
      assert.equal(cuts.length, isForgotten ? 0 : 1, run.stderr);
      const again = await reopen(run.path);
      assert.deepEqual(again.offsets, offsets);
      assert.deepEqual(again.lines, []);
    });
  }

  it('fdatasync with fsync by interval: what was not synced when it failed is not trusted', async () => {
    const options: Partial<DiskLogOptions> = { ...BASE, fsync: 'interval', fsyncIntervalMs: 1 };
    const run = await runChild(options, 'fdatasync:error=EIO:when=6+');
    assert.equal(run.code, EXIT_DISK_FAILED, run.stderr);
    // It meets the segment, or the one that is being prepared.
    assert.match(run.lines.at(-1)!, /^failed (fdatasync of .*\.log|upkeep of .*) failed: EIO/);
    const { offsets } = await reopen(run.path);
    assert.ok(offsets.length <= run.kept);
    assert.deepEqual(offsets, range(0, offsets.length));
  });

  for (const [what, injection] of [
    ['a write', 'pwrite64:error=ENOSPC:when=20'],
    ['the reserve at the start', 'pwrite64:error=ENOSPC:when=1'],
  ] as const) {
    it(`${what} finds no room once: the log goes on, is full for a while, and loses nothing`, async () => {
      const run = await runChild(BASE, injection);
      assert.equal(run.code, 0, run.stderr);
      assert.deepEqual(
        run.lines.filter((line) => !line.startsWith('kept ')),
        ['full', 'room', 'closed'],
      );
      const { offsets, lines } = await reopen(run.path);
      assert.deepEqual(offsets, range(0, run.kept));
      assert.deepEqual(lines, []);
    });
  }
});

describe('a log on a file system that is too small', { skip: mountSkip() }, () => {
  const opened: DiskLog[] = [];
  after(() => Promise.all(opened.map((log) => log.close())));

  it('that has room for bytes but for no file more is full, writes what lets go of others, and opens again', {
    skip: mountSkip(),
  }, async () => {
    // The folder, what is kept of the directory besides segments, and three of those.
    const fileSystem = await mountSmall(64, 9);
    const path = join(fileSystem.path, 'data');
    let fail: (error: Error) => void = () => undefined;
    const failed = new Promise<never>((_resolve, reject) => {
      fail = reject;
    });
    const options: Partial<DiskLogOptions> = {
      ...BASE,
      reserveBytes: MEBIBYTE,
      segmentBytes: 256 * KIBIBYTE,
      neededFrom: () => 0,
      onFailure: (error) => fail(error),
    };
    try {
      const directory = openDataDirectory(path, { nodeId: 'gomq' });
      const log = await openDiskLog(logOptions(directory, undefined, options));
      opened.push(log);
      for (let i = 0; !log.isFull; i++) {
        assert.ok(i < 1000, 'it is told of');
        append(log, 'a', 20_000);
        await Promise.race([committed(log), failed]);
      }
      for (let i = 0; i < 100; i++) {
        append(log, '', 30);
        await Promise.race([committed(log), failed]);
      }
      // The reserve is wanted back each second.
      await Promise.race([new Promise((resolve) => setTimeout(resolve, 1500)), failed]);
      assert.equal(log.isFull, true);
      const kept = log.highWatermark;
      await log.close();
      for (let i = 0; i < 2; i++) {
        const again = await openDiskLog(logOptions(directory, undefined, options));
        opened.push(again);
        assert.equal(again.isFull, true);
        assert.deepEqual((await readAll(again)).offsets, range(0, kept));
        await again.close();
      }
      directory.release();
    } finally {
      await fileSystem.remove();
    }
  });

  it('is full in time, keeps what may still be written, and ends with what it kept when there is no room at all', async () => {
    const fileSystem = await mountSmall(8);
    const path = join(fileSystem.path, 'data');
    const filler = join(fileSystem.path, 'filler');
    const failures: string[] = [];
    const lines: LogLine[] = [];
    const options: Partial<DiskLogOptions> = {
      ...BASE,
      reserveBytes: MEBIBYTE,
      segmentBytes: MEBIBYTE,
      logger: listeningLogger(lines),
      neededFrom: () => 0,
      onFailure: (error) => failures.push(error.message),
    };
    try {
      writeFileSync(filler, Buffer.alloc(3 * MEBIBYTE));
      const directory = openDataDirectory(path, { nodeId: 'gomq' });
      const log = await openDiskLog(logOptions(directory, undefined, options));
      opened.push(log);
      assert.equal(log.isFull, false);
      while (!log.isFull) {
        append(log, 'a', 20_000);
        await committed(log);
      }
      assert.match(lines.at(-1)!.message, /hardly room on the disk/);
      // What lets go of others still has its room.
      for (let i = 0; i < 1000; i++) {
        append(log, '', 30);
        await committed(log);
      }
      assert.deepEqual(failures, []);
      assert.equal(log.isFull, true);

      rmSync(filler);
      while (log.isFull) await new Promise((resolve) => setTimeout(resolve, 20));
      assert.match(lines.at(-1)!.message, /room on the disk again/);

      // Nobody stops at the sign this time.
      while (failures.length === 0) {
        append(log, 'a', 20_000);
        log.flush();
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.match(failures[0]!, /ENOSPC/);
      const kept = log.highWatermark;
      await log.close();
      directory.release();
      assert.equal(log.highWatermark, kept);
      assert.equal(failures.length, 1);
      const again = await reopen(path, { reserveBytes: MEBIBYTE, segmentBytes: MEBIBYTE });
      // Some of what was never kept may be there; something that was kept may not be missing.
      assert.ok(again.offsets.length >= kept && again.offsets.length <= log.endOffset);
      assert.deepEqual(again.offsets, range(0, again.offsets.length));
      assert.ok(again.isFull);
    } finally {
      await fileSystem.remove();
    }
  });
});

interface ChildRun {
  readonly path: string;
  readonly code: number | null;
  readonly lines: readonly string[];
  /** One past the last record that it said it keeps. */
  readonly kept: number;
  readonly stderr: string;
}

async function runChild(options: Partial<DiskLogOptions>, injection: string): Promise<ChildRun> {
  const path = temporaryFolder();
  // What a new directory gets is not meant.
  openDataDirectory(path, { nodeId: 'gomq' }).release();
  const tracing = new Tracing();
  try {
    const command = [
      // Where the writer's thread makes few of the calls that are traced, strace may lose it, and with it the fault.
      ...tracing.command([injection], ['fdatasync']),
      ...[process.execPath, '--import', 'tsx', 'test/faults/log-child.ts'],
      ...[path, JSON.stringify(options), String(RECORDS)],
    ];
    const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
    const code = new Promise<number | null>((resolve) => child.once('exit', resolve));
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
    const lines = stdout.trim().split('\n');
    const last = lines.findLast((line) => line.startsWith('kept '));
    const kept = last === undefined ? 0 : Number(last.slice('kept '.length));
    return { path, code: await code, lines, kept, stderr: `${stderr}\n${tracing.lines().join('\n')}` };
  } finally {
    tracing.remove();
  }
}

/** What a log holds, and what is said when it is opened. */
async function reopen(
  path: string,
  options: Partial<DiskLogOptions> = {},
): Promise<{ offsets: number[]; lines: LogLine[]; isFull: boolean }> {
  const lines: LogLine[] = [];
  const directory = openDataDirectory(path, { nodeId: 'gomq' });
  const logger = listeningLogger(lines);
  const log = await openDiskLog(logOptions(directory, undefined, { ...BASE, ...options, logger }));
  const { offsets } = await readAll(log, log.startOffset);
  const { isFull } = log;
  await log.close();
  directory.release();
  return { offsets, lines: lines.filter(({ level }) => level !== 'info'), isFull };
}
