// Writer and recovery together on a disk that loses what it may: whatever the seed, what was said to be kept is there, in order, and nothing else.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Logger, silentLogger } from '../../src/core/logger.js';
import { decodeHeader, decodePayload, recordPositions } from '../../src/log/batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag } from '../../src/log/batch-format.js';
import { fileName, offsetsOf } from '../../src/log/file-names.js';
import { LogWriter, type WriterAnswer } from '../../src/log/log-writer.js';
import { type RecoveredLog, recoverLog } from '../../src/log/recovery.js';
import { encodeIndex, SegmentIndexBuilder } from '../../src/log/segment-index.js';
import type { SealedBatch } from '../../src/log/segment-writer.js';
import { loadZstd } from '../../src/log/zstd.js';
import { Crash, SimulatedDisk } from './simulated-disk.js';

const DIRECTORY = '/data';
const zstd = await loadZstd();
const POLICIES = ['always', 'interval', 'never'] as const;
const MANY_SEEDS = 3000;

/** Runs a scenario for many seeds, or for the one in the environment; a seed that fails names itself. */
function forSeeds(count: number, scenario: (seed: number) => void): void {
  const only = process.env.SEED;
  const seeds = only === undefined ? Array.from({ length: count }, (_, i) => i + 1) : [Number(only)];
  for (const seed of seeds) {
    try {
      scenario(seed);
    } catch (error) {
      throw new Error(`SEED=${seed} reruns it: ${(error as Error).message}`, { cause: error });
    }
  }
}

/** A process that writes to a log: begins with recovery, ends when it is told to or when the disk crashes. */
class Writing {
  readonly disk: SimulatedDisk;
  readonly recovered: RecoveredLog;
  readonly answers: WriterAnswer[] = [];
  nowMs = 0;
  #writer: LogWriter;
  #index: SegmentIndexBuilder;
  #nextOffset: number;

  constructor(
    disk: SimulatedDisk,
    settings: {
      fsync: (typeof POLICIES)[number];
      segmentBytes: number;
      segmentMs: number;
      reserveBytes: number;
      isCompressed: boolean;
    },
    suspect?: { segment: number; position: number },
    logger: Logger = silentLogger,
  ) {
    this.disk = disk;
    this.recovered = recoverLog(disk, DIRECTORY, zstd, {
      logger,
      topicOf: (buffer, start, end) => buffer.toString('latin1', start, Math.min(start + 2, end)),
      suspect: { readSuspect: () => suspect, clearSuspect: () => undefined },
    });
    this.#nextOffset = this.recovered.endOffset;
    this.#index = this.recovered.active.index;
    const { baseOffset, bytes, index } = this.recovered.active;
    const active = { baseOffset, bytes, firstTimestampMs: index.firstTimestampMs };
    this.#writer = new LogWriter(
      { directory: DIRECTORY, fsyncIntervalMs: 10, active, ...settings },
      disk,
      zstd,
      () => this.nowMs,
      (answer) => this.answers.push(answer),
    );
  }

  /** Writes records in batches, as one request. Answers how many were kept, none where it failed. */
  write(batches: readonly (readonly Buffer[])[]): boolean {
    const sealed = batches.map((records): SealedBatch => {
      const baseOffset = this.#nextOffset;
      this.#nextOffset += records.length;
      const payload = Buffer.concat(records.flatMap((record) => [uint32(record.length), record]));
      return {
        baseOffset,
        recordCount: records.length,
        flags: BatchFlag.State,
        epoch: 1,
        // A clock that goes on with each record, so that segments end by their age too.
        timestampMs: 1 + baseOffset,
        payload,
        isEncoded: false,
      };
    });
    this.answers.length = 0;
    this.#writer.handle({ kind: 'write', batches: sealed, isMirrored: false });
    const written = this.answers.find(({ kind }) => kind === 'written');
    if (written?.kind !== 'written') return false;
    written.kept.forEach(({ segmentBase, position, storedBytes, flags }, i) => {
      if (segmentBase !== this.#index.baseOffset) {
        this.#writer.handle({
          kind: 'index',
          baseOffset: this.#index.baseOffset,
          bytes: encodeIndex(this.#index),
        });
        this.#index = new SegmentIndexBuilder(segmentBase);
      }
      const { baseOffset, recordCount, payload, ...rest } = sealed[i]!;
      const header = {
        ...rest,
        codec: 0 as const,
        flags,
        baseOffset,
        recordCount,
        lastOffset: baseOffset + recordCount - 1,
        uncompressedBytes: payload.length,
        storedBytes: storedBytes - BATCH_HEADER_BYTES,
      };
      this.#index.add({ position, header, topics: undefined });
    });
    return true;
  }

  /** Where the log may be cut: the ends of batches of the segment that is written to, its beginning and its end among them. */
  cutAt(batch: number): { readonly end: number; cut(): void } {
    const index = this.#index;
    const end = batch === index.batchCount ? index.endOffset : index.base(batch);
    const cut = (): void => {
      this.answers.length = 0;
      this.#writer.handle({ kind: 'cut', position: index.position(batch) });
      if (this.answers.at(-1)?.kind !== 'cut') return;
      index.cut(batch);
      this.#nextOffset = end;
    };
    return { end, cut };
  }

  get batchCount(): number {
    return this.#index.batchCount;
  }

  get activeBase(): number {
    return this.#index.baseOffset;
  }

  rest(): number {
    return this.#writer.rest();
  }

  remove(baseOffsets: number[]): void {
    this.#writer.handle({ kind: 'remove', baseOffsets });
  }

  close(): void {
    this.#writer.handle({ kind: 'close' });
  }

  get failure(): Extract<WriterAnswer, { kind: 'failed' }> | undefined {
    return this.answers.find((answer) => answer.kind === 'failed');
  }
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** Every record of the log, read as it lies there. */
function readAll(disk: SimulatedDisk): { start: number; records: Buffer[] } {
  const bases = offsetsOf(disk.list(DIRECTORY), 'log');
  const records: Buffer[] = [];
  let offset = bases[0] ?? 0;
  for (const base of bases) {
    assert.equal(base, offset, 'segments follow one another');
    const content = disk.content(`${DIRECTORY}/${fileName(base, 'log')}`);
    for (let at = 0; at < content.length; ) {
      const header = decodeHeader(content, at);
      if ('damage' in header) {
        assert.ok(
          content.subarray(at).every((byte) => byte === 0),
          `nothing but zeros follows, ${header.damage}`,
        );
        break;
      }
      assert.equal(header.baseOffset, offset);
      const end = at + BATCH_HEADER_BYTES + header.storedBytes;
      const payload = decodePayload(zstd, header, content.subarray(at, end));
      assert.ok(!('damage' in payload), 'payload');
      const positions = recordPositions(header, payload);
      for (let i = 0; i < header.recordCount; i++)
        records.push(Buffer.from(payload.subarray(positions[i]!, positions[i + 1]! - 4)));
      offset = header.lastOffset + 1;
      at = end;
    }
  }
  return { start: bases[0] ?? 0, records };
}

/** `found` are the first records of `appended`, and not fewer than `kept`. */
function checkPrefix(found: readonly Buffer[], appended: readonly Buffer[], kept: number): void {
  assert.ok(found.length >= kept, `${found.length} records are there, ${kept} were kept`);
  assert.ok(
    found.length <= appended.length,
    `${found.length} records are there, ${appended.length} were appended`,
  );
  found.forEach((record, i) => {
    assert.ok(record.equals(appended[i]!), `record ${i}`);
  });
}

function drawSettings(disk: SimulatedDisk) {
  return {
    fsync: POLICIES[disk.draw(3)]!,
    segmentBytes: 400 + disk.draw(6000),
    segmentMs: disk.draw(2) === 0 ? 0 : 1 + disk.draw(40),
    reserveBytes: 1000,
    isCompressed: disk.draw(2) === 0,
  };
}

function drawBatches(disk: SimulatedDisk): Buffer[][] {
  return Array.from({ length: 1 + disk.draw(3) }, () =>
    Array.from({ length: 1 + disk.draw(4) }, () => {
      const record = Buffer.alloc(2 + disk.draw(disk.draw(5) === 0 ? 2000 : 100), disk.draw(256));
      if (record.length > 40) for (let i = 0; i < 20; i++) record[i] = disk.draw(256);
      return record;
    }),
  );
}

test('a machine that crashes again and again loses nothing that was kept, invents nothing, and brings nothing back that was cut', () => {
  forSeeds(MANY_SEEDS, (seed) => {
    const disk = new SimulatedDisk({ seed });
    const settings = drawSettings(disk);
    const appended: Buffer[] = [];
    let kept = 0;
    for (let life = 0; life < 4; life++) {
      disk.crashAt = disk.operations + 1 + disk.draw(60);
      try {
        const writing = new Writing(disk, settings);
        // What is there when the writer begins stays: state was built from it.
        const { records } = readAll(disk);
        checkPrefix(records, appended, kept);
        appended.length = records.length;
        kept = records.length;
        for (let i = 0; i < 12; i++) {
          const batches = drawBatches(disk);
          appended.push(...batches.flat());
          const isKept = writing.write(batches);
          if (disk.hasCrashed) throw new Crash();
          assert.ok(isKept, 'the disk did not fail');
          if (settings.fsync === 'always') kept = appended.length;
          writing.nowMs += disk.draw(8);
          if (disk.draw(2) === 0) writing.rest();
          if (disk.hasCrashed) throw new Crash();
          if (disk.draw(6) > 0) continue;
          const { end, cut } = writing.cutAt(disk.draw(writing.batchCount + 1));
          // Until it is done any of it may be there.
          kept = Math.min(kept, end);
          cut();
          if (disk.hasCrashed) throw new Crash();
          appended.length = end;
          kept = end;
        }
        if (disk.draw(2) === 0) {
          writing.close();
          if (disk.hasCrashed) throw new Crash();
          kept = appended.length;
        }
      } catch (error) {
        if (!disk.hasCrashed || error instanceof assert.AssertionError) throw error;
      }
      if (disk.draw(4) === 0) disk.kill();
      else disk.crash();
    }
    disk.crashAt = Number.POSITIVE_INFINITY;
    new Writing(disk, settings);
    checkPrefix(readAll(disk).records, appended, kept);
  });
});

test('after a sync or a write that failed nothing is kept any more, and what was kept is there at the next start', () => {
  forSeeds(1000, (seed) => {
    const disk = new SimulatedDisk({ seed });
    const settings = { ...drawSettings(disk), fsync: 'always' as const };
    const appended: Buffer[] = [];
    let kept = 0;
    const writing = new Writing(disk, settings);
    const operation = disk.draw(3) === 0 ? 'write' : 'sync';
    let left = 1 + disk.draw(15);
    disk.fault = (one) => (one === operation && --left === 0 ? 'EIO' : undefined);
    while (writing.failure === undefined) {
      const batches = drawBatches(disk);
      appended.push(...batches.flat());
      if (writing.write(batches)) kept = appended.length;
      if (disk.draw(3) === 0) writing.rest();
    }
    const { message, suspect } = writing.failure;
    assert.match(message, /EIO/);
    const before = disk.operations;
    assert.equal(writing.write(drawBatches(disk)), false);
    assert.equal(writing.rest(), Number.POSITIVE_INFINITY);
    assert.equal(disk.operations, before, 'the disk is not asked for anything any more');
    if (disk.draw(2) === 0) disk.crash();
    else disk.kill();
    new Writing(disk, settings, suspect);
    const { records } = readAll(disk);
    checkPrefix(records, appended, kept);
    // Now it holds whatever comes.
    disk.crash();
    new Writing(disk, settings);
    checkPrefix(readAll(disk).records, records, records.length);
  });
});

test('a full disk is told of, written to from the reserve, and free again when there is room', () => {
  forSeeds(500, (seed) => {
    const capacityBytes = 20_000;
    const disk = new SimulatedDisk({ seed, capacityBytes });
    const settings = { ...drawSettings(disk), fsync: 'always' as const, reserveBytes: 2500 };
    const appended: Buffer[] = [];
    let kept = 0;
    let isFull = false;
    let keptWhileFull = 0;
    const writing = new Writing(disk, settings);
    while (writing.failure === undefined) {
      const batches = drawBatches(disk);
      appended.push(...batches.flat());
      if (writing.write(batches)) {
        kept = appended.length;
        if (isFull) keptWhileFull += batches.flat().length;
      }
      for (const answer of writing.answers) if (answer.kind === 'space') isFull = answer.isFull;
      writing.nowMs += 2000;
      if (writing.failure === undefined) writing.rest();
      for (const answer of writing.answers) if (answer.kind === 'space') isFull = answer.isFull;
    }
    assert.match(writing.failure.message, /ENOSPC/);
    assert.ok(isFull, 'it was told');
    const { suspect } = writing.failure;
    if (disk.draw(2) === 0) disk.crash();
    else disk.kill();
    const next = new Writing(disk, settings, suspect);
    checkPrefix(readAll(disk).records, appended, kept);
    const ready = next.answers[0];
    assert.ok(ready?.kind === 'ready' && ready.isFull);
    disk.capacityBytes *= 2;
    next.nowMs += 2000;
    next.rest();
    assert.deepEqual(next.answers.at(-1), { kind: 'space', isFull: false, isReserveSpent: false });
    assert.equal(disk.content(`${DIRECTORY}/reserve`).length, settings.reserveBytes);
    assert.ok(next.write(drawBatches(disk)));
    assert.ok(keptWhileFull > 0 || kept < appended.length);
  });
});

test('segments that go one after the other leave no gap, wherever the machine crashes', () => {
  forSeeds(1000, (seed) => {
    const disk = new SimulatedDisk({ seed });
    const settings = { ...drawSettings(disk), fsync: 'always' as const };
    const appended: Buffer[] = [];
    const writing = new Writing(disk, settings);
    for (let i = 0; i < 20; i++) {
      const batches = drawBatches(disk);
      appended.push(...batches.flat());
      assert.ok(writing.write(batches));
    }
    const bases = offsetsOf(disk.list(DIRECTORY), 'log');
    const removed = bases.slice(0, disk.draw(bases.length));
    const next = bases[removed.length]!;
    disk.crashAt = disk.operations + 1 + disk.draw(3 * removed.length + 2);
    writing.remove(removed);
    const isDone = !disk.hasCrashed;
    disk.crash();
    new Writing(disk, settings);
    const { start, records } = readAll(disk);
    assert.ok(bases.includes(start) && start <= next, `begins at ${start} of ${bases}, not after ${next}`);
    if (isDone) assert.equal(start, next);
    checkPrefix(records, appended.slice(start), appended.length - start);
  });
});

test('a bit that turned is cut off with a warning or refused, and never read', () => {
  forSeeds(1000, (seed) => {
    const disk = new SimulatedDisk({ seed });
    const settings = { ...drawSettings(disk), fsync: 'always' as const };
    const appended: Buffer[] = [];
    const writing = new Writing(disk, settings);
    let keptBeforeLast = 0;
    for (let i = 0; i < 10; i++) {
      const batches = drawBatches(disk);
      keptBeforeLast = appended.length;
      appended.push(...batches.flat());
      assert.ok(writing.write(batches));
    }
    writing.close();
    const active = fileName(writing.activeBase, 'log');
    disk.kill();
    disk.rot(`${DIRECTORY}/${active}`);
    const warnings: string[] = [];
    const logger: Logger = { ...silentLogger, warn: (message) => warnings.push(message) };
    try {
      new Writing(disk, settings, undefined, logger);
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'DATA_DAMAGED', String(error));
      return;
    }
    const { records } = readAll(disk);
    // Only what was written last can be taken for torn.
    checkPrefix(records, appended, keptBeforeLast);
    if (records.length < appended.length) assert.ok(warnings.length > 0, 'it is said what was cut');
  });
});
