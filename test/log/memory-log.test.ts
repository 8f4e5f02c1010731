import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { systemClock } from '../../src/core/clock.js';
import { type LogReader, ReadResult } from '../../src/log/log.js';
import { MemoryLog, type MemoryLogOptions } from '../../src/log/memory-log.js';
import { check } from '../packet/oracle.js';

function makeLog(options: Partial<MemoryLogOptions> = {}): MemoryLog {
  return new MemoryLog({
    clock: systemClock,
    segmentBytes: 1000,
    retentionBytes: Number.MAX_SAFE_INTEGER,
    hardLimitBytes: Number.MAX_SAFE_INTEGER,
    neededFrom: () => Number.POSITIVE_INFINITY,
    onLost: () => assert.fail('nothing is lost'),
    ...options,
  });
}

/** Appends a record whose bytes say which it is, and answers its offset. */
function append(log: MemoryLog, topic: string, length: number): number {
  const slice = log.append(topic, length, false);
  assert.equal(slice.end - slice.start, length);
  slice.buffer.fill(slice.offset & 0xff, slice.start, slice.end);
  return slice.offset;
}

/** Every record from the reader's position to the end, checked byte by byte. */
function readAll(reader: LogReader, wants?: (topic: string) => boolean): number[] {
  const offsets: number[] = [];
  for (;;) {
    const result = reader.next(wants);
    if (result === ReadResult.End) return offsets;
    assert.equal(result, ReadResult.Record);
    const { offset, buffer, start, end } = reader.record;
    assert.equal(reader.position, offset + 1);
    assert.ok(
      buffer.subarray(start, end).every((byte) => byte === (offset & 0xff)),
      `bytes of record ${offset}`,
    );
    offsets.push(offset);
  }
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

test('offsets are consecutive, and the high watermark follows at the flush', () => {
  const log = makeLog();
  const commits: [number, number][] = [];
  log.onCommit((from, to) => commits.push([from, to]));
  log.flush();
  assert.deepEqual(
    range(0, 3).map(() => append(log, 'a', 10)),
    [0, 1, 2],
  );
  assert.deepEqual([log.endOffset, log.highWatermark, log.uncommittedBytes], [3, 0, 30]);
  log.flush();
  log.flush();
  assert.deepEqual([log.endOffset, log.highWatermark, log.uncommittedBytes], [3, 3, 0]);
  append(log, 'a', 10);
  log.flush();
  assert.deepEqual(commits, [
    [0, 3],
    [3, 4],
  ]);
});

test('what is not committed is not read', () => {
  const log = makeLog();
  const reader = log.createReader(() => undefined);
  append(log, 'a', 10);
  assert.equal(reader.next(), ReadResult.End);
  assert.equal(
    reader.next(() => false),
    ReadResult.End,
  );
  log.flush();
  append(log, 'a', 10);
  assert.deepEqual(readAll(reader), [0]);
  log.flush();
  assert.deepEqual(readAll(reader), [1]);
});

test('a record larger than a segment has one of its own', () => {
  const log = makeLog();
  for (const length of [10, 5000, 10, 1000, 1001, 0, 10]) append(log, 'a', length);
  log.flush();
  const reader = log.createReader(() => undefined);
  reader.seek(0);
  assert.deepEqual(readAll(reader), range(0, 7));
  assert.equal(log.storedBytes, 10 + 5000 + 10 + 1000 + 1001 + 10);
});

test('a new reader starts at the high watermark', () => {
  const log = makeLog();
  append(log, 'a', 10);
  log.flush();
  append(log, 'a', 10);
  const reader = log.createReader(() => undefined);
  log.flush();
  assert.deepEqual(readAll(reader), [1]);
});

test('any sequence of appends, flushes and reads from anywhere is what an array would give', (context) => {
  const topic = fc.constantFrom('a', 'b', 'c', 'd');
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant('append' as const), topic, length: fc.nat(40_000) }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('many' as const), topic, length: fc.nat(300) }) },
    { weight: 3, arbitrary: fc.constant({ kind: 'flush' as const }) },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('read' as const),
        from: fc.double({ min: 0, max: 1, noNaN: true }),
        wanted: fc.subarray(['a', 'b', 'c', 'd']),
        records: fc.nat(40),
      }),
    },
  );
  check(
    context,
    fc.property(
      fc.array(step, { maxLength: 60, size: 'max' }),
      fc.integer({ min: 1000, max: 300_000 }),
      (steps, segmentBytes) => {
        const log = makeLog({ segmentBytes });
        const topics: string[] = [];
        let committed = 0;
        // One reader for every read, so that what it remembers of the last one is put to the test.
        const reader = log.createReader(() => undefined);
        for (const one of steps) {
          if (one.kind === 'append' || one.kind === 'many') {
            for (let i = 0; i < (one.kind === 'append' ? 1 : 200); i++) {
              assert.equal(append(log, one.topic, one.length), topics.length);
              topics.push(one.topic);
            }
          } else if (one.kind === 'flush') {
            log.flush();
            committed = topics.length;
          } else {
            const from = Math.floor(one.from * (topics.length + 1));
            const wants = (name: string): boolean => one.wanted.includes(name);
            reader.seek(from);
            const found: number[] = [];
            while (found.length < one.records && reader.next(wants) === ReadResult.Record) {
              const { offset, buffer, start } = reader.record;
              if (start < reader.record.end) assert.equal(buffer[start], offset & 0xff);
              if (wants(topics[offset]!)) found.push(offset);
              assert.ok(offset >= from && offset < committed);
            }
            const expected = range(from, committed).filter((offset) => wants(topics[offset]!));
            assert.deepEqual(found, expected.slice(0, found.length));
            if (found.length < one.records)
              assert.equal(found.length, expected.length, 'it stopped at the end');
          }
          assert.deepEqual(
            [log.endOffset, log.highWatermark, log.startOffset],
            [topics.length, committed, 0],
          );
        }
      },
    ),
    200,
  );
});

test('blocks without a wanted topic are passed over unread', () => {
  const log = makeLog({ segmentBytes: 1_000_000 });
  for (let i = 0; i < 3000; i++) append(log, i < 1000 ? 'a' : 'b', 200);
  log.flush();
  const reader = log.createReader(() => undefined);
  reader.seek(0);
  const read = readAll(reader, (topic) => topic === 'b');
  // Reading begins with the block in which the first wanted record is; one block is 64 KiB.
  assert.ok(read[0]! > 1000 - 65_536 / 200 - 2, `read from ${read[0]}`);
  assert.equal(read.at(-1), 2999);
  reader.seek(0);
  let asked = 0;
  readAll(reader, () => {
    asked++;
    return false;
  });
  assert.ok(asked <= 12, `asked ${asked} times about ten blocks`);
});

test('retention removes whole segments that nobody needs, and keeps those that somebody does', () => {
  let needed = Number.POSITIVE_INFINITY;
  const log = makeLog({ retentionBytes: 3000, neededFrom: () => needed });
  const fill = (records: number): void => {
    for (let i = 0; i < records; i++) {
      append(log, 'a', 100);
      log.flush();
    }
  };
  fill(100);
  assert.ok(log.storedBytes <= 4000, `${log.storedBytes}`);
  const start = log.startOffset;
  assert.ok(start >= 60 && start % 10 === 0);
  needed = start + 5;
  fill(100);
  assert.equal(log.startOffset, start, 'the segment with the needed record is there');
  needed = Number.POSITIVE_INFINITY;
  fill(11);
  assert.ok(log.startOffset > 170);
});

test('a reader below the start of the log moves up to it', () => {
  const log = makeLog({ retentionBytes: 1000 });
  const reader = log.createReader(() => undefined);
  reader.seek(0);
  append(log, 'a', 100);
  log.flush();
  assert.equal(reader.next(), ReadResult.Record);
  for (let i = 0; i < 100; i++) {
    append(log, 'a', 100);
    log.flush();
  }
  assert.ok(log.startOffset > 1);
  assert.deepEqual(readAll(reader), range(log.startOffset, 101));
});

test('the hard limit takes what is needed, and says which records went', () => {
  const lost: [number, number][] = [];
  let needed = 13;
  const log = makeLog({
    retentionBytes: 2000,
    hardLimitBytes: 5000,
    neededFrom: () => needed,
    onLost: (from, to) => {
      lost.push([from, to]);
      needed = Math.max(needed, to);
    },
  });
  for (let i = 0; i < 100; i++) {
    append(log, 'a', 100);
    log.flush();
  }
  assert.ok(log.storedBytes <= 6000, `${log.storedBytes}`);
  // Nobody needed records 0 to 12; from then on every record that went is reported, without a gap and without repetition.
  assert.equal(lost[0]![0], 13);
  for (let i = 1; i < lost.length; i++) assert.equal(lost[i]![0], lost[i - 1]![1]);
  assert.equal(lost.at(-1)![1], log.startOffset);
});

test('what is not committed stays, whatever the limits say', () => {
  const log = makeLog({ retentionBytes: 1000, hardLimitBytes: 1000 });
  for (let i = 0; i < 100; i++) append(log, 'a', 100);
  assert.equal(log.startOffset, 0);
  const seen: [number, number][] = [];
  log.onCommit((from, to) => {
    seen.push([from, to]);
    // Whoever is told of the commit still finds all of it.
    const reader = log.createReader(() => undefined);
    reader.seek(0);
    assert.deepEqual(readAll(reader), range(0, 100));
  });
  log.flush();
  assert.deepEqual(seen, [[0, 100]]);
  assert.ok(log.startOffset > 0, 'committed, it goes');
});

test('bytes that were read stay as they are after their segment is gone', () => {
  const log = makeLog({ retentionBytes: 1000 });
  append(log, 'a', 100);
  log.flush();
  const reader = log.createReader(() => undefined);
  reader.seek(0);
  reader.next();
  const { buffer, start, end } = reader.record;
  for (let i = 1; i < 100; i++) {
    append(log, 'a', 100);
    log.flush();
  }
  assert.ok(buffer.subarray(start, end).every((byte) => byte === 0));
});

test('an offset that is none is a defect', () => {
  const reader = makeLog().createReader(() => undefined);
  for (const offset of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY])
    assert.throws(() => reader.seek(offset), { code: 'INTERNAL' });
});
