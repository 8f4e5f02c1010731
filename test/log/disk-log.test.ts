import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import type { GomqError } from '../../src/core/errors.js';
import type { DiskLog, DiskLogOptions } from '../../src/log/disk-log.js';
import { openDiskLog } from '../../src/log/disk-log.js';
import { fileName, offsetsOf } from '../../src/log/file-names.js';
import { ReadResult, type RecordSlice } from '../../src/log/log.js';
import {
  append,
  checkRecord,
  committed,
  type LogLine,
  listeningLogger,
  logOptions,
  nextTurn,
  openRealLog,
  range,
  readAll,
  SimulatedDirectory,
} from './disk-logs.js';
import { SimulatedDisk } from './simulated-disk.js';

const MEBIBYTE = 1024 * 1024;

interface Simulated {
  readonly disk: SimulatedDisk;
  readonly directory: SimulatedDirectory;
  readonly lines: LogLine[];
  open(options?: Partial<DiskLogOptions>): Promise<DiskLog>;
}

function simulate(context: TestContext): Simulated {
  const disk = new SimulatedDisk({ seed: 1 });
  const directory = new SimulatedDirectory();
  const lines: LogLine[] = [];
  const open: DiskLog[] = [];
  context.after(async () => {
    for (const log of open) await log.close();
  });
  return {
    disk,
    directory,
    lines,
    async open(options = {}) {
      const all = logOptions(directory, disk, { logger: listeningLogger(lines), ...options });
      const log = await openDiskLog(all);
      open.push(log);
      return log;
    },
  };
}

/** Appends records to topics a, b, c in turn, each batch with `perBatch` of them. */
async function fill(log: DiskLog, records: number, perBatch: number, length = 100): Promise<void> {
  for (let i = 0; i < records; i++) {
    append(log, 'abc'[i % 3]!, length);
    if ((i + 1) % perBatch === 0) await committed(log);
  }
  await committed(log);
}

test('records are committed some time after the flush, in order, and gather while the disk is busy', async (context) => {
  const { log } = await openRealLog(context);
  const commits: [number, number][] = [];
  let onAll: () => void = () => undefined;
  log.onCommit((from, to) => {
    commits.push([from, to]);
    if (to === 8) onAll();
  });
  append(log, 'a', 10);
  log.flush();
  assert.deepEqual([log.endOffset, log.highWatermark, log.uncommittedBytes], [1, 0, 10]);
  for (let i = 1; i < 8; i++) {
    append(log, 'a', 10);
    // Only what is at hand when the disk becomes idle counts.
    log.flush();
  }
  assert.deepEqual(commits, [], 'nothing is committed in the turn of the flush');
  await new Promise<void>((resolve) => {
    onAll = resolve;
  });
  assert.deepEqual(commits, [
    [0, 1],
    [1, 8],
  ]);
  assert.deepEqual([log.highWatermark, log.uncommittedBytes], [8, 0]);
});

test('what is not committed is not read', async (context) => {
  const log = await simulate(context).open();
  const reader = log.createReader(() => undefined);
  append(log, 'a');
  log.flush();
  assert.equal(reader.next(), ReadResult.End);
  assert.equal(
    reader.next(() => true),
    ReadResult.End,
  );
  await committed(log);
  append(log, 'a');
  assert.equal(reader.next(), ReadResult.Record);
  assert.equal(reader.next(), ReadResult.End);
});

test('whoever is told of a commit reads it at once, however small the cache', async (context) => {
  const log = await simulate(context).open({ cacheBytes: 1 });
  const reader = log.createReader(() => assert.fail('it has to wait'));
  let seen = 0;
  log.onCommit((from, to) => {
    reader.seek(from);
    for (let offset = from; offset < to; offset++) {
      assert.equal(reader.next(), ReadResult.Record);
      assert.equal(reader.record.offset, offset);
      checkRecord(reader);
      seen++;
    }
  });
  for (let i = 0; i < 50; i++) append(log, 'a', 50_000);
  await committed(log);
  assert.equal(seen, 50);
});

test('everything is there after it was closed and opened again', async (context) => {
  const { log, reopen } = await openRealLog(context, { segmentBytes: 100_000 });
  await fill(log, 3000, 100);
  append(log, 'a', 300_000);
  append(log, '', 0);
  append(log, 'a', 6 * MEBIBYTE);
  append(log, 'a');
  const { endOffset } = log;
  const next = await reopen();
  assert.deepEqual([next.startOffset, next.highWatermark, next.endOffset], [0, endOffset, endOffset]);
  assert.deepEqual((await readAll(next)).offsets, range(0, endOffset));
  assert.equal(append(next, 'b'), endOffset);
  await committed(next);
  const last = await reopen();
  assert.deepEqual((await readAll(last, endOffset - 1)).offsets, [endOffset - 1, endOffset]);
});

test('a log without threads and one with them, without compression, hold the same', async (context) => {
  const { log, reopen } = await openRealLog(context, { compression: 'none', segmentBytes: 65_536 });
  await fill(log, 2000, 7);
  assert.deepEqual((await readAll(await reopen())).offsets, range(0, 2000));
});

test('closing commits what is left, and leaves no zeros behind', async (context) => {
  const simulated = simulate(context);
  const log = await simulated.open();
  await fill(log, 10, 1);
  const path = `/data/${fileName(0, 'log')}`;
  await nextTurn();
  assert.ok(simulated.disk.content(path).length > log.storedBytes, 'zeros lie ahead');
  for (let i = 0; i < 10; i++) append(log, 'a');
  const { endOffset } = log;
  await log.close();
  assert.equal(log.highWatermark, endOffset);
  assert.equal(simulated.disk.content(path).length, log.storedBytes);
  log.flush();
  assert.throws(() => append(log, 'a'), { code: 'INTERNAL' });
  assert.deepEqual((await readAll(await simulated.open())).offsets, range(0, endOffset));
});

test('any sequence of appends, flushes and reads from anywhere is what an array would give', async (context) => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fff_ffff));
  context.diagnostic(`seed ${seed}`);
  const topic = fc.constantFrom('a', 'b', 'c', 'd');
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant('append' as const), topic, length: fc.nat(40_000) }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('many' as const), topic, length: fc.nat(300) }) },
    { weight: 3, arbitrary: fc.constant({ kind: 'flush' as const }) },
    { weight: 2, arbitrary: fc.constant({ kind: 'commit' as const }) },
    { weight: 1, arbitrary: fc.constant({ kind: 'reopen' as const }) },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('read' as const),
        from: fc.double({ min: 0, max: 1, noNaN: true }),
        wanted: fc.subarray(['a', 'b', 'c', 'd']),
      }),
    },
  );
  const property = fc.asyncProperty(
    fc.array(step, { maxLength: 40, size: 'max' }),
    fc.integer({ min: 1000, max: 300_000 }),
    fc.integer({ min: 1, max: 300_000 }),
    async (steps, segmentBytes, cacheBytes) => {
      const disk = new SimulatedDisk({ seed: 1 });
      const directory = new SimulatedDirectory();
      const open = () => openDiskLog(logOptions(directory, disk, { segmentBytes, cacheBytes }));
      let log = await open();
      const topics: string[] = [];
      for (const one of steps) {
        if (one.kind === 'append' || one.kind === 'many') {
          for (let i = 0; i < (one.kind === 'append' ? 1 : 200); i++) {
            assert.equal(append(log, one.topic, one.length), topics.length);
            topics.push(one.topic);
          }
        } else if (one.kind === 'flush') {
          log.flush();
        } else if (one.kind === 'commit') {
          await committed(log);
        } else if (one.kind === 'reopen') {
          await log.close();
          log = await open();
          assert.deepEqual([log.highWatermark, log.endOffset], [topics.length, topics.length]);
        } else {
          const from = Math.floor(one.from * (topics.length + 1));
          const wants = (name: string): boolean => one.wanted.includes(name);
          const before = log.highWatermark;
          const { offsets } = await readAll(log, from, wants);
          const wanted = offsets.filter((offset) => wants(topics[offset]!));
          const expected = range(from, Math.max(from, log.highWatermark)).filter((offset) =>
            wants(topics[offset]!),
          );
          assert.deepEqual(wanted, expected.slice(0, wanted.length));
          assert.ok(
            wanted.length >= expected.filter((offset) => offset < before).length,
            'it stopped at the end',
          );
        }
        assert.equal(log.endOffset, topics.length);
      }
      await log.close();
    },
  );
  await fc.assert(property, { seed, numRuns: 60 });
});

// ---- passing over ------------------------------------------------------------------------------------------------------------------

test('batches without a wanted topic are passed over unread, and each topic is asked about once', async (context) => {
  const { disk, open } = simulate(context);
  const first = await open({ segmentBytes: 300_000, compression: 'none' });
  for (let i = 0; i < 3000; i++) {
    append(first, i < 2990 ? `a${i % 10}` : 'b', 1000);
    if (i % 50 === 49) await committed(first);
  }
  await first.close();
  const log = await open({ segmentBytes: 300_000, compression: 'none' });
  const asked: string[] = [];
  let readBytes = 0;
  const wants = (topic: string): boolean => {
    asked.push(topic);
    return topic === 'b';
  };
  disk.onRead = (path, bytes) => {
    if (path.endsWith('.log')) readBytes += bytes;
  };
  const { offsets } = await readAll(log, 0, wants);
  assert.deepEqual(offsets, range(2950, 3000), 'the batch with the wanted topic');
  assert.ok(readBytes < 200_000, `${readBytes} of 3 MB were read`);
  const segments = log.segments.sealed.length + 1;
  assert.ok(asked.length <= 11 * segments, `asked ${asked.length} times about ${segments} segments`);
});

test('another question is asked anew', async (context) => {
  const log = await simulate(context).open();
  await fill(log, 30, 1);
  const reader = log.createReader(() => undefined);
  reader.seek(0);
  assert.equal(
    reader.next((topic) => topic === 'c'),
    ReadResult.Record,
  );
  assert.equal(reader.record.offset, 2);
  assert.equal(
    reader.next((topic) => topic === 'a'),
    ReadResult.Record,
  );
  assert.equal(reader.record.offset, 3);
});

test('records about no topic interest nobody, and one batch about very many topics everybody', async (context) => {
  const log = await simulate(context).open();
  append(log, '');
  await committed(log);
  for (let i = 0; i < 2000; i++) append(log, `t${i}`);
  await committed(log);
  assert.deepEqual((await readAll(log, 0, () => false)).offsets, range(1, 2001));
});

test('a reader that passes over very much lets others have their turn', async (context) => {
  const log = await simulate(context).open({ segmentBytes: 16 * MEBIBYTE });
  for (let i = 0; i < 20_000; i++) {
    append(log, `t${i}`, 10);
    if (i % 1000 === 999) await committed(log);
  }
  const { offsets, later } = await readAll(log, 0, () => false);
  assert.deepEqual(offsets, []);
  assert.ok(later >= 3, `${later} times`);
});

// ---- reading from the disk -----------------------------------------------------------------------------------------------------------

test('readers that want the same at the same time share one read', async (context) => {
  const { disk, open } = simulate(context);
  const first = await open();
  await fill(first, 1000, 10);
  await first.close();
  const log = await open();
  let reads = 0;
  disk.onRead = () => reads++;
  const readings = await Promise.all(range(0, 100).map(() => readAll(log)));
  for (const { offsets } of readings) assert.deepEqual(offsets, range(0, 1000));
  assert.ok(reads <= 3, `${reads} reads`);
});

test('what readers leave in memory has a bound', async (context) => {
  const { open } = simulate(context);
  const cacheBytes = 200_000;
  const first = await open({ segmentBytes: 400_000, compression: 'none' });
  await fill(first, 3000, 100, 1000);
  await first.close();
  const log = await open({ segmentBytes: 400_000, compression: 'none', cacheBytes });
  let most = 0;
  const readings = range(0, 20).map(async (i) => {
    const { offsets } = await readAll(log, i * 150);
    most = Math.max(most, log.cache.memoryBytes);
    return offsets;
  });
  for (const [i, offsets] of (await Promise.all(readings)).entries())
    assert.deepEqual(offsets, range(i * 150, 3000));
  assert.ok(most <= cacheBytes, `${most} bytes`);
});

test('a reader that is closed while it waits is not called', async (context) => {
  const { open } = simulate(context);
  const first = await open({ segmentBytes: 20_000 });
  await fill(first, 1000, 10);
  await first.close();
  const log = await open({ segmentBytes: 20_000 });
  for (const offset of [0, 999]) {
    const reader = log.createReader(() => assert.fail('it is called'));
    reader.seek(offset);
    assert.equal(reader.next(), ReadResult.Pending);
    assert.equal(reader.next(), ReadResult.Pending);
    reader.close();
    assert.throws(() => reader.next(), { code: 'INTERNAL' });
  }
  await readAll(log);
});

test('a reader that goes elsewhere while it waits gets what is there', async (context) => {
  const { open } = simulate(context);
  const first = await open({ segmentBytes: 20_000 });
  await fill(first, 1000, 10);
  await first.close();
  const log = await open({ segmentBytes: 20_000 });
  let calls = 0;
  const reader = log.createReader(() => calls++);
  for (const offset of [0, 500, 999, 0, 700]) {
    reader.seek(offset);
    assert.equal(reader.next(), ReadResult.Pending);
  }
  for (;;) {
    const before = calls;
    while (calls === before) await nextTurn();
    assert.equal(calls, before + 1, 'once for each time it had to wait');
    if (reader.next() === ReadResult.Record) break;
  }
  assert.equal(reader.record.offset, 700);
});

test('a damaged batch is told of once and passed over', async (context) => {
  const { disk, lines, open } = simulate(context);
  const first = await open({ segmentBytes: 50_000, compression: 'none' });
  await fill(first, 1000, 10);
  await first.close();
  const damaged: [number, number][] = [];
  const log = await open({
    segmentBytes: 50_000,
    compression: 'none',
    onDamaged: (from, to) => damaged.push([from, to]),
  });
  const [base] = offsetsOf(disk.list('/data'), 'log');
  disk.spoil(`/data/${fileName(base!, 'log')}`, 3000);
  const readings = await Promise.all([readAll(log), readAll(log), readAll(log, 5)]);
  assert.equal(damaged.length, 1);
  const [[from, to]] = damaged as [[number, number]];
  assert.equal(to - from, 10);
  const rest = [...range(0, from), ...range(to, 1000)];
  assert.deepEqual(readings[0].offsets, rest);
  assert.deepEqual(readings[1].offsets, rest);
  assert.deepEqual(readings[2].offsets, rest.slice(5));
  const errors = lines.filter(({ level }) => level === 'error');
  assert.equal(errors.length, 1);
  const { fields } = errors[0]!;
  assert.equal(fields?.file, `/data/${fileName(0, 'log')}`);
  assert.equal(fields?.offsets, `${from} to ${to - 1}`);
  assert.equal(fields?.command, 'gomq log verify /data');
  assert.ok((fields?.position as number) > 0);
});

test('an index that was damaged at run time costs time and no records', async (context) => {
  const { disk, lines, open } = simulate(context);
  const first = await open({ segmentBytes: 20_000, compression: 'none' });
  await fill(first, 1000, 10);
  await first.close();
  const log = await open({ segmentBytes: 20_000, compression: 'none' });
  disk.spoil(`/data/${fileName(0, 'index')}`, 100);
  assert.deepEqual((await readAll(log)).offsets, range(0, 1000));
  assert.equal(lines.filter(({ level }) => level === 'error').length, 1);
});

/** Opening one of these files for reading fails for a while. */
function failReads(disk: SimulatedDisk, code: string, times: number, ...names: string[]): { failed: number } {
  const open = disk.open.bind(disk);
  const count = { failed: 0 };
  disk.open = (path, mode) => {
    if (mode !== 'read' || count.failed >= times || !names.some((name) => path.endsWith(name)))
      return open(path, mode);
    count.failed++;
    throw Object.assign(new Error(`${code}: simulated`), { code });
  };
  return count;
}

for (const code of ['EMFILE', 'ENFILE', 'ENOMEM']) {
  test(`${code} for a while is waited for, be it for an index or for a segment`, async (context) => {
    const { disk, lines, open } = simulate(context);
    const first = await open({ segmentBytes: 20_000, compression: 'none' });
    await fill(first, 1000, 10);
    await first.close();
    const log = await open({ segmentBytes: 20_000, compression: 'none' });
    const count = failReads(disk, code, 3, '.index', '.log');
    assert.deepEqual((await readAll(log)).offsets, range(0, 1000));
    assert.equal(count.failed, 3);
    assert.deepEqual(
      lines.filter(({ level }) => level === 'error'),
      [],
    );
  });

  test(`${code} for a while is waited for where a segment is read in place of its index`, async (context) => {
    const { disk, open } = simulate(context);
    const first = await open({ segmentBytes: 20_000, compression: 'none' });
    await fill(first, 1000, 10);
    await first.close();
    const log = await open({ segmentBytes: 20_000, compression: 'none' });
    disk.remove(`/data/${fileName(0, 'index')}`);
    const count = failReads(disk, code, 2, '.log');
    assert.deepEqual((await readAll(log)).offsets, range(0, 1000));
    assert.equal(count.failed, 2);
  });
}

test('an index that cannot be read costs time and no records, and it is said why', async (context) => {
  const { disk, lines, open } = simulate(context);
  const first = await open({ segmentBytes: 20_000, compression: 'none' });
  await fill(first, 1000, 10);
  await first.close();
  const log = await open({ segmentBytes: 20_000, compression: 'none' });
  failReads(disk, 'EIO', 1, fileName(0, 'index'));
  assert.deepEqual((await readAll(log)).offsets, range(0, 1000));
  const errors = lines.filter(({ level }) => level === 'error');
  assert.equal(errors.length, 1);
  assert.equal(errors[0]!.fields?.file, `/data/${fileName(0, 'index')}`);
  assert.match(String(errors[0]!.fields?.error), /EIO/);
});

test('a segment that cannot be read is told of, and whoever reads later finds all of it', async (context) => {
  const { disk, lines, open } = simulate(context);
  const options = { segmentBytes: 20_000, compression: 'none' as const };
  const first = await open(options);
  await fill(first, 1000, 10);
  await first.close();
  const damaged: [number, number][] = [];
  const log = await open({ ...options, onDamaged: (from, to) => damaged.push([from, to]) });
  const { endOffset } = log.segments.sealed[0]!;
  const segment = fileName(0, 'log');
  failReads(disk, 'EIO', 2, fileName(0, 'index'), segment);
  for (const wants of [undefined, () => true]) {
    assert.deepEqual((await readAll(log, 0, wants)).offsets, range(wants ? 0 : endOffset, 1000));
  }
  assert.deepEqual(damaged, [[0, endOffset]]);
  const told = lines.find(({ message }) => message === 'A segment of the log cannot be read.');
  assert.equal(told?.level, 'error');
  assert.equal(told.fields?.file, `/data/${segment}`);
  assert.match(String(told.fields?.error), /EIO/);
});

test('the end of a segment that lost its index and is damaged is passed over by each reader', async (context) => {
  const { disk, open } = simulate(context);
  const options = { segmentBytes: 20_000, compression: 'none' as const };
  const first = await open(options);
  await fill(first, 1000, 10);
  await first.close();
  const damaged: [number, number][] = [];
  const log = await open({ ...options, onDamaged: (from, to) => damaged.push([from, to]) });
  const { endOffset } = log.segments.sealed[0]!;
  disk.spoil(`/data/${fileName(0, 'index')}`, 100);
  disk.spoil(`/data/${fileName(0, 'log')}`, first.segments.index(0)!.position(2));
  const rest = [...range(0, 20), ...range(endOffset, 1000)];
  for (const wants of [undefined, () => true, undefined])
    assert.deepEqual((await readAll(log, 0, wants)).offsets, rest);
  assert.deepEqual(damaged, [
    [20, endOffset],
    [20, endOffset],
    [20, endOffset],
  ]);
  assert.equal(await log.offsetAt(Number.MAX_SAFE_INTEGER), 1000);
});

// ---- retention -------------------------------------------------------------------------------------------------------------------------

const SMALL = { segmentBytes: 2000, compression: 'none' as const, retentionBytes: 6000 };

/** Waits until the writer has done what it was asked for. */
async function settled(simulated: Simulated): Promise<void> {
  for (let before = -1; before !== simulated.disk.operations; ) {
    before = simulated.disk.operations;
    for (let i = 0; i < 10; i++) await nextTurn();
  }
}

test('retention removes whole segments that nobody needs, and keeps those that somebody does', async (context) => {
  const simulated = simulate(context);
  let needed = Number.POSITIVE_INFINITY;
  const log = await simulated.open({ ...SMALL, neededFrom: () => needed });
  await fill(log, 200, 1);
  await settled(simulated);
  assert.ok(log.startOffset > 100, `from ${log.startOffset}`);
  assert.ok(log.storedBytes <= 8000, `${log.storedBytes} bytes`);
  const bases = offsetsOf(simulated.disk.list('/data'), 'log');
  assert.equal(bases[0], log.startOffset, 'the files are gone');
  assert.deepEqual(offsetsOf(simulated.disk.list('/data'), 'index'), bases.slice(0, -1));
  const start = log.startOffset;
  needed = start;
  await fill(log, 100, 1);
  assert.equal(log.startOffset, start);
  needed = Number.POSITIVE_INFINITY;
  await fill(log, 30, 1);
  await settled(simulated);
  assert.ok(log.startOffset > start);
  const first = log.startOffset;
  await log.close();
  const next = await simulated.open(SMALL);
  assert.equal(next.startOffset, first);
  assert.deepEqual((await readAll(next)).offsets, range(first, 330));
});

test('whoever cannot say at once what is needed is asked again at the next flush', async (context) => {
  const simulated = simulate(context);
  let answer: number | undefined;
  const log = await simulated.open({ ...SMALL, neededFrom: () => answer });
  await fill(log, 200, 1);
  await settled(simulated);
  assert.equal(log.startOffset, 0);
  answer = Number.POSITIVE_INFINITY;
  log.flush();
  assert.ok(log.startOffset > 100);
});

test('the hard limit takes what is needed, and says which records went', async (context) => {
  const simulated = simulate(context);
  const lost: [number, number][] = [];
  let needed = 13;
  const log = await simulated.open({
    ...SMALL,
    hardLimitBytes: 12_000,
    neededFrom: () => needed,
    onLost(from, to) {
      lost.push([from, to]);
      needed = Math.max(needed, to);
    },
  });
  await fill(log, 200, 1);
  await settled(simulated);
  assert.equal(lost[0]![0], 13);
  for (let i = 1; i < lost.length; i++) assert.equal(lost[i]![0], lost[i - 1]![1]);
  assert.equal(lost.at(-1)![1], log.startOffset);
  assert.ok(log.storedBytes <= 14_000);
});

test('what no snapshot covers stays, whatever the limits say', async (context) => {
  const simulated = simulate(context);
  let floor = 0;
  const log = await simulated.open({ ...SMALL, hardLimitBytes: 6000, snapshotFloor: () => floor });
  await fill(log, 200, 1);
  await settled(simulated);
  assert.equal(log.startOffset, 0);
  const sealed = log.segments.sealed[2]!;
  floor = sealed.endOffset + 1;
  await fill(log, 20, 1);
  await settled(simulated);
  assert.equal(log.startOffset, sealed.endOffset);
});

test('segments go when they are too old', async (context) => {
  const simulated = simulate(context);
  let nowMs = 1_000_000_000;
  const clock = { wallMs: () => nowMs, monotonicMs: () => nowMs };
  const log = await simulated.open({ ...SMALL, retentionBytes: MEBIBYTE, retentionHours: 2, clock });
  await fill(log, 100, 1);
  const end = log.segments.sealed.at(-1)!.endOffset;
  nowMs += 7_200_000;
  await fill(log, 20, 1);
  await settled(simulated);
  assert.equal(log.startOffset, 0, 'not older than two hours');
  nowMs += 1;
  await fill(log, 20, 1);
  await settled(simulated);
  assert.ok(log.startOffset >= end, `from ${log.startOffset}`);
});

test('a segment that is not full ends as well when its first batch is too old, so that it goes in time', async (context) => {
  const simulated = simulate(context);
  let nowMs = 1_000_000_000;
  const clock = { wallMs: () => nowMs, monotonicMs: () => nowMs };
  const options = { retentionHours: 2, clock };
  const log = await simulated.open(options);
  await fill(log, 3, 1);
  nowMs += 7_200_000;
  await fill(log, 1, 1);
  assert.equal(log.segments.sealed.length, 0, 'not older than two hours');
  await log.close();
  // The next process knows how old the segment is.
  const next = await simulated.open(options);
  nowMs += 1;
  await fill(next, 1, 1);
  await settled(simulated);
  assert.deepEqual([next.startOffset, next.segments.sealed[0]?.endOffset], [0, 4]);
  nowMs += 7_200_000;
  await fill(next, 1, 1);
  assert.equal(next.segments.sealed.length, 1, 'the age of the second segment is its own');
  nowMs += 1;
  await fill(next, 1, 1);
  await settled(simulated);
  assert.equal(next.startOffset, 4);
  assert.deepEqual((await readAll(next, 4)).offsets, [4, 5, 6]);
});

test('a reader whose records go while it waits for them moves up', async (context) => {
  const simulated = simulate(context);
  const keeping = await simulated.open({ ...SMALL, retentionBytes: MEBIBYTE });
  await fill(keeping, 100, 1);
  await keeping.close();
  // Its first retention comes with the first segment that ends.
  const log = await simulated.open(SMALL);
  const reading = readAll(log, 0);
  const late = log.createReader(() => undefined);
  late.seek(0);
  assert.equal(late.next(), ReadResult.Pending);
  await fill(log, 60, 1);
  await settled(simulated);
  assert.ok(log.startOffset > 60);
  const { offsets } = await reading;
  assert.deepEqual(
    offsets,
    [...offsets].sort((a, b) => a - b),
  );
  let result = late.next();
  while (result === ReadResult.Pending) {
    await nextTurn();
    result = late.next();
  }
  assert.equal(result, ReadResult.Record);
  assert.equal(late.record.offset, log.startOffset);
  assert.deepEqual(
    simulated.lines.filter(({ level }) => level === 'error'),
    [],
  );
});

// ---- a disk that fails -----------------------------------------------------------------------------------------------------------------

for (const operation of ['sync', 'write'] as const) {
  test(`after a ${operation} that failed nothing is committed any more, and it is said once`, async (context) => {
    const simulated = simulate(context);
    const failures: GomqError[] = [];
    const log = await simulated.open({ onFailure: (error) => failures.push(error) });
    await fill(log, 10, 1);
    await settled(simulated);
    const kept = log.storedBytes;
    simulated.disk.fault = (one) => (one === operation ? 'EIO' : undefined);
    append(log, 'a');
    log.flush();
    await settled(simulated);
    simulated.disk.fault = () => undefined;
    append(log, 'a');
    log.flush();
    await settled(simulated);
    assert.equal(log.highWatermark, 10);
    assert.equal(failures.length, 1);
    assert.equal(failures[0]!.code, 'DISK_FAILED');
    assert.match(failures[0]!.message, /EIO.*position/);
    assert.deepEqual(simulated.directory.suspect, { segment: 0, position: kept });
    assert.equal(simulated.lines.filter(({ level }) => level === 'error').length, 1);
    await log.close();
    const next = await simulated.open();
    assert.equal(simulated.directory.suspect, undefined);
    assert.deepEqual((await readAll(next)).offsets, range(0, 10));
  });
}

test('a disk that fails at the start is an error of the start', async (context) => {
  const { disk, open } = simulate(context);
  disk.fault = (operation) => (operation === 'sync' ? 'EIO' : undefined);
  await assert.rejects(open(), { code: 'DISK_FAILED' });
});

test('a full disk is told of, and that it has room again', async (context) => {
  const simulated = simulate(context);
  simulated.disk.capacityBytes = 200_000;
  const log = await simulated.open({ compression: 'none', reserveBytes: 20_000, segmentBytes: 100_000 });
  assert.equal(log.isFull, false);
  while (!log.isFull) await fill(log, 1, 1, 3000);
  await fill(log, 3, 1);
  assert.equal(log.highWatermark, log.endOffset, 'from the reserve');
  simulated.disk.capacityBytes = 1_000_000;
  while (log.isFull) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(simulated.disk.list('/data').includes('reserve'));
  const said = simulated.lines.filter(({ message }) => message.includes('room')).map(({ level }) => level);
  assert.deepEqual(said, ['error', 'info']);
});

test('a reserve that is nearly spent is told of, at once, also at the next start, and that it is not any more', async (context) => {
  const simulated = simulate(context);
  const { disk } = simulated;
  disk.capacityBytes = 200_000;
  const options = { compression: 'none', reserveBytes: 20_000, segmentBytes: 100_000 } as const;
  const log = await simulated.open(options);
  while (!log.isFull) await fill(log, 1, 1, 3000);
  assert.equal(log.isReserveSpent, false);
  while (!log.isReserveSpent) await fill(log, 1, 1, 200);
  const left = disk.freeBytes('/data');
  assert.ok(left < 5000 && left > 4000, `${left} bytes are left`);
  await fill(log, 10, 1, 200);
  await log.close();

  const next = await simulated.open(options);
  assert.deepEqual([next.isFull, next.isReserveSpent], [true, true]);
  const roomFor = (bytes: number): void => {
    disk.capacityBytes = disk.usedBytes + bytes;
  };
  roomFor(9000);
  await fill(next, 1, 1, 200);
  assert.equal(next.isReserveSpent, true);
  roomFor(11_000);
  await fill(next, 1, 1, 200);
  assert.deepEqual([next.isFull, next.isReserveSpent], [true, false]);
  const said = simulated.lines.filter(({ message }) => message.includes('nearly spent'));
  assert.deepEqual(
    said.map(({ level }) => level),
    ['error', 'error'],
  );
});

test('on a full disk segments that nobody needs go, one after the other until there is room, and no other', async (context) => {
  const simulated = simulate(context);
  let needed = 0;
  simulated.disk.capacityBytes = 200_000;
  const log = await simulated.open({
    compression: 'none',
    reserveBytes: 20_000,
    segmentBytes: 25_000,
    neededFrom: () => needed,
  });
  while (!log.isFull) await fill(log, 1, 1, 3000);
  const count = log.segments.sealed.length;
  const untilUpkeep = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1200));
  await untilUpkeep();
  assert.deepEqual([log.startOffset, log.isFull], [0, true]);
  needed = Number.POSITIVE_INFINITY;
  for (let upkeeps = 0; log.isFull; upkeeps++) {
    assert.ok(upkeeps < 4, 'there is room in time');
    await untilUpkeep();
  }
  await untilUpkeep();
  const left = log.segments.sealed.length;
  assert.ok(left < count && left >= count - 3, `${left} of ${count} segments are left`);
});

test('a disk with no room for the reserve is full from the start', async (context) => {
  const simulated = simulate(context);
  simulated.disk.capacityBytes = 10_000;
  const log = await simulated.open({ reserveBytes: 20_000 });
  assert.equal(log.isFull, true);
  assert.equal(simulated.lines.filter(({ level }) => level === 'error').length, 1);
  await fill(log, 3, 1);
});

test('fsync: never asks for nothing but at the end of a segment; interval after its time', async (context) => {
  const syncs = async (
    options: Partial<DiskLogOptions>,
  ): Promise<{ simulated: Simulated; log: DiskLog; count(): number }> => {
    const simulated = simulate(context);
    const log = await simulated.open({ compression: 'none', ...options });
    let count = 0;
    simulated.disk.fault = (operation) => {
      if (operation === 'sync') count++;
      return undefined;
    };
    return { simulated, log, count: () => count };
  };
  const never = await syncs({ fsync: 'never' });
  await fill(never.log, 100, 1);
  assert.equal(never.count(), 0);
  await never.log.close();
  assert.equal(never.count(), 1);

  const rolling = await syncs({ fsync: 'never', segmentBytes: 5000 });
  await fill(rolling.log, 100, 1);
  await settled(rolling.simulated);
  const { length } = rolling.log.segments.sealed;
  assert.ok(length >= 3);
  assert.equal(rolling.count(), 2 * length, 'a segment and its index');

  const interval = await syncs({ fsync: 'interval', fsyncIntervalMs: 30 });
  await fill(interval.log, 5, 1);
  const before = interval.count();
  assert.ok(before <= 1);
  // Without another write, too.
  while (interval.count() === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(interval.count(), 1);

  const always = await syncs({ fsync: 'always', segmentBytes: 20_000 });
  await fill(always.log, 50, 1);
  assert.ok(always.count() >= 50);
});

// ---- replay, times, seals ---------------------------------------------------------------------------------------------------------------

test('a replay hands out the batches in which something changes state', async (context) => {
  const simulated = simulate(context);
  const first = await simulated.open({ segmentBytes: 5000 });
  for (let batch = 0; batch < 100; batch++) {
    for (let i = 0; i < 10; i++) append(first, 'a', 50, batch % 10 === 0 && i === 5);
    await committed(first);
  }
  await first.close();
  const log = await simulated.open({ segmentBytes: 5000 });
  const replayed = async (from: number): Promise<number[]> => {
    const offsets: number[] = [];
    let done = 0;
    let total = -1;
    await log.replay(
      from,
      ({ offset, buffer, start, end }: RecordSlice) => {
        assert.ok(buffer.subarray(start + 2, end).every((byte) => byte === (offset & 0xff)));
        offsets.push(offset);
      },
      (doneBytes, totalBytes) => {
        assert.ok(doneBytes >= done && doneBytes <= totalBytes);
        done = doneBytes;
        total = totalBytes;
      },
    );
    assert.ok(total === -1 || done === total);
    return offsets;
  };
  const all = range(0, 10).flatMap((i) => range(i * 100, i * 100 + 10));
  assert.deepEqual(await replayed(0), all);
  assert.deepEqual(
    await replayed(405),
    all.filter((offset) => offset >= 405),
  );
  assert.deepEqual(await replayed(1000), []);
});

test('a replay over damage is refused with file, position and command', async (context) => {
  const simulated = simulate(context);
  const first = await simulated.open({ segmentBytes: 5000, compression: 'none' });
  for (let i = 0; i < 100; i++) {
    append(first, 'a', 100, true);
    await committed(first);
  }
  await first.close();
  const log = await simulated.open();
  simulated.disk.spoil(`/data/${fileName(0, 'log')}`, 1000);
  await assert.rejects(
    log.replay(0, () => undefined),
    (error: GomqError) => {
      assert.equal(error.code, 'DATA_DAMAGED');
      assert.match(
        `${error.message} ${error.hint}`,
        /00000000000000000000\.log.*position \d+.*gomq log verify \/data/,
      );
      return true;
    },
  );
});

test('the offset of a time', async (context) => {
  const simulated = simulate(context);
  let nowMs = 1000;
  const clock = { wallMs: () => nowMs, monotonicMs: () => nowMs };
  const options = { segmentBytes: 3000, compression: 'none' as const, clock };
  const first = await simulated.open(options);
  assert.equal(await first.offsetAt(0), 0);
  for (let i = 0; i < 100; i++) {
    append(first, 'a');
    append(first, 'a');
    await committed(first);
    nowMs += 10;
  }
  const check = async (log: DiskLog): Promise<void> => {
    assert.equal(await log.offsetAt(0), 0);
    assert.equal(await log.offsetAt(1000), 0);
    assert.equal(await log.offsetAt(1001), 2);
    assert.equal(await log.offsetAt(1500), 100);
    assert.equal(await log.offsetAt(1990), 198);
    assert.equal(await log.offsetAt(1991), 200);
  };
  await check(first);
  await first.close();
  await check(await simulated.open(options));
});

test('the end of a segment is told when all of it is on disk', async (context) => {
  const simulated = simulate(context);
  const log = await simulated.open(SMALL);
  const sealed: number[] = [];
  log.onSeal((endOffset) => {
    sealed.push(endOffset);
    const base = log.segments.sealed.find((one) => one.endOffset === endOffset)!.baseOffset;
    assert.ok(simulated.disk.list('/data').includes(fileName(base, 'index')));
  });
  await fill(log, 100, 1);
  await settled(simulated);
  assert.ok(sealed.length > 3);
  assert.equal(sealed.at(-1), log.segments.active.baseOffset);
});

test('an offset that is none is a defect', async (context) => {
  const log = await simulate(context).open();
  const reader = log.createReader(() => undefined);
  for (const offset of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY])
    assert.throws(() => reader.seek(offset), { code: 'INTERNAL' });
});
