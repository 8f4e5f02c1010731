import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { crc32 } from 'node:zlib';
import type { BatchHeader } from '../../src/log/batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag, Codec } from '../../src/log/batch-format.js';
import {
  decodeIndex,
  decodeIndexSummary,
  encodeIndex,
  INDEX_HEADER_BYTES,
  type SegmentIndex,
  SegmentIndexBuilder,
} from '../../src/log/segment-index.js';
import { without } from './batches.js';

function header(baseOffset: number, recordCount: number, fields: Partial<BatchHeader> = {}): BatchHeader {
  return {
    codec: Codec.None,
    flags: 0,
    epoch: 1,
    baseOffset,
    lastOffset: baseOffset + recordCount - 1,
    timestampMs: baseOffset * 10,
    recordCount,
    uncompressedBytes: 100,
    storedBytes: 100,
    ...fields,
  };
}

/** Adds a batch behind the last one. */
function add(
  builder: SegmentIndexBuilder,
  recordCount: number,
  topics: Iterable<string> | undefined,
  fields: Partial<BatchHeader> = {},
): void {
  builder.add({
    position: builder.storedBytes,
    header: header(builder.endOffset, recordCount, fields),
    topics,
  });
}

function topicsOf(index: SegmentIndex, batch: number): string[] | undefined {
  const ids = index.topicIds(batch);
  return ids === undefined ? undefined : [...ids].map((id) => index.dictionary[id]!);
}

/** Everything that can be asked. */
function contents(index: SegmentIndex): unknown {
  const {
    baseOffset,
    endOffset,
    storedBytes,
    firstTimestampMs,
    lastTimestampMs,
    lastEpoch,
    batchCount,
    dictionary,
  } = index;
  const batches = Array.from({ length: batchCount }, (_, i) => [
    index.position(i),
    index.batchBytes(i),
    index.base(i),
    index.end(i),
    index.timestampMs(i),
    index.flags(i),
    topicsOf(index, i),
  ]);
  return {
    baseOffset,
    endOffset,
    storedBytes,
    firstTimestampMs,
    lastTimestampMs,
    lastEpoch,
    batchCount,
    dictionary: [...dictionary],
    batches,
  };
}

function example(): SegmentIndexBuilder {
  const builder = new SegmentIndexBuilder(1000);
  add(builder, 2, ['a', 'b', '', 'a'], { flags: BatchFlag.State, timestampMs: 5000 });
  add(builder, 1, [''], { storedBytes: 7, uncompressedBytes: 7 });
  add(builder, 5, undefined, { timestampMs: 2 ** 53 - 1, epoch: 3 });
  add(builder, 1, ['b', 'größe/°C'], { timestampMs: 1, epoch: 4 });
  return builder;
}

describe('an index', () => {
  it('knows where each batch lies and what it is about', () => {
    const index = example();
    assert.deepEqual(contents(index), {
      baseOffset: 1000,
      endOffset: 1009,
      storedBytes: 4 * BATCH_HEADER_BYTES + 307,
      firstTimestampMs: 5000,
      lastTimestampMs: 1,
      lastEpoch: 4,
      batchCount: 4,
      dictionary: ['a', 'b', 'größe/°C'],
      batches: [
        [0, 164, 1000, 1002, 5000, BatchFlag.State, ['a', 'b']],
        [164, 71, 1002, 1003, 10_020, 0, []],
        [235, 164, 1003, 1008, 2 ** 53 - 1, 0, undefined],
        [399, 164, 1008, 1009, 1, 0, ['b', 'größe/°C']],
      ],
    });
    assert.ok(index.memoryBytes > 0);
  });

  it('finds the batch of each offset', () => {
    const index = example().build();
    const found = Array.from({ length: 9 }, (_, i) => index.batchOf(1000 + i));
    assert.deepEqual(found, [0, 0, 1, 2, 2, 2, 2, 2, 3]);
    for (const offset of [999, 1009]) assert.throws(() => index.batchOf(offset), { code: 'INTERNAL' });
  });

  it('is the same from its file', () => {
    for (const index of [example(), new SegmentIndexBuilder(7)]) {
      const bytes = encodeIndex(index);
      assert.deepEqual(contents(without(decodeIndex(bytes))), contents(index));
      const { baseOffset, endOffset, storedBytes, firstTimestampMs, lastTimestampMs, lastEpoch, batchCount } =
        index;
      const summary = {
        baseOffset,
        endOffset,
        storedBytes,
        firstTimestampMs,
        lastTimestampMs,
        lastEpoch,
        batchCount,
      };
      assert.deepEqual(decodeIndexSummary(bytes.subarray(0, INDEX_HEADER_BYTES), bytes.length), summary);
      assert.deepEqual(encodeIndex(without(decodeIndex(bytes))), bytes);
    }
  });

  it('goes on growing after a copy was taken, which does not', () => {
    const builder = example();
    const copy = builder.build();
    const before = contents(copy);
    for (let i = 0; i < 2000; i++) add(builder, 1, [`topic ${i}`]);
    assert.deepEqual(contents(copy), before);
    assert.equal(builder.batchCount, 2004);
    assert.deepEqual(topicsOf(builder, 2003), ['topic 1999']);
    assert.deepEqual(contents(without(decodeIndex(encodeIndex(builder)))), contents(builder));
  });

  it('takes only the batch that follows', () => {
    const builder = example();
    const { storedBytes, endOffset } = builder;
    const wrong = [
      { position: storedBytes + 1, header: header(endOffset, 1), topics: [] },
      { position: storedBytes, header: header(endOffset + 1, 1), topics: [] },
    ];
    for (const entry of wrong) assert.throws(() => builder.add(entry), { code: 'INTERNAL' });
  });

  it('says "any topic" for a batch with more than 1,024', () => {
    const builder = new SegmentIndexBuilder(0);
    const topics = Array.from({ length: 1025 }, (_, i) => `t${i}`);
    add(builder, 1025, topics.slice(0, 1024));
    add(builder, 1025, topics);
    assert.equal(topicsOf(builder, 0)?.length, 1024);
    assert.equal(topicsOf(builder, 1), undefined);
  });

  it('says "any topic" for what does not fit the dictionary, and goes on with what it knows', () => {
    const builder = new SegmentIndexBuilder(0);
    for (let i = 0; i < 64; i++) {
      add(
        builder,
        1,
        Array.from({ length: 1024 }, (_, k) => `t${i * 1024 + k}`),
      );
    }
    assert.equal(builder.dictionary.length, 65_536);
    add(builder, 1, ['one too many']);
    add(builder, 1, ['t65535']);
    assert.equal(topicsOf(builder, 64), undefined);
    assert.deepEqual(topicsOf(builder, 65), ['t65535']);
    assert.deepEqual(contents(without(decodeIndex(encodeIndex(builder)))), contents(builder));
  });

  it('does not let long names fill the memory', () => {
    const builder = new SegmentIndexBuilder(0);
    for (let i = 0; i < 300; i++) add(builder, 1, [`${i}`.padEnd(65_535, 'x')]);
    assert.ok(builder.memoryBytes < 18 * 1024 * 1024);
    assert.notEqual(topicsOf(builder, 0), undefined);
    assert.equal(topicsOf(builder, 299), undefined);
    add(builder, 1, ['y'.repeat(65_536)]);
    assert.equal(topicsOf(builder, 300), undefined);
  });

  it('of half a million batches is written and read in about a second of one processor', () => {
    const builder = new SegmentIndexBuilder(0);
    for (let i = 0; i < 500_000; i++) add(builder, 2, [`t${i % 1000}`]);
    const begun = process.cpuUsage();
    const index = without(decodeIndex(encodeIndex(builder)));
    // Time of this process, which does not pass while others have the processor.
    const { user, system } = process.cpuUsage(begun);
    assert.ok(user + system < 3_000_000);
    assert.equal(index.batchCount, 500_000);
    assert.equal(index.batchOf(999_999), 499_999);
  });
});

describe('damage in an index', () => {
  const good = encodeIndex(example());

  it('is noticed whatever bit is flipped', () => {
    for (let bit = 0; bit < good.length * 8; bit++) {
      const bytes = Buffer.from(good);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      assert.ok('damage' in decodeIndex(bytes), `bit ${bit}`);
    }
  });

  it('is noticed wherever it is cut, and whatever follows', () => {
    for (let length = 0; length < good.length; length++)
      assert.ok('damage' in decodeIndex(good.subarray(0, length)));
    assert.ok('damage' in decodeIndex(Buffer.concat([good, Buffer.alloc(1)])));
  });

  const changes: [string, (bytes: Buffer) => void, string][] = [
    ['a newer version', (b) => b.writeUInt32LE(2, 4), 'version 2'],
    ['an offset over 2^53', (b) => b.writeBigUInt64LE(2n ** 60n, 8), 'a number above 2^53 - 1'],
    ['offsets that do not add up', (b) => b.writeBigUInt64LE(1010n, 16), 'sums of batches'],
    ['bytes that do not add up', (b) => b.writeBigUInt64LE(9n, 24), 'sums of batches'],
    [
      'a topic that is not in the dictionary',
      (b) => b.writeUInt16LE(3, INDEX_HEADER_BYTES + 4 * 20),
      'topic id',
    ],
    ['topics that do not add up', (b) => b.writeUInt16LE(1, INDEX_HEADER_BYTES + 4 * 18), 'number of topics'],
    ['a name beyond the end', (b) => b.writeUInt16LE(500, INDEX_HEADER_BYTES + 4 * 20 + 4 * 2), 'dictionary'],
    ['a dictionary that ends too early', (b) => b.writeUInt32LE(4, 64), 'dictionary'],
  ];
  for (const [what, change, expected] of changes) {
    it(`is ${what}, though the checksums are right`, () => {
      const bytes = Buffer.from(good);
      change(bytes);
      bytes.writeUInt32LE(crc32(bytes.subarray(INDEX_HEADER_BYTES)), 72);
      bytes.writeUInt32LE(crc32(bytes.subarray(0, 76)), 76);
      assert.deepEqual(decodeIndex(bytes), { damage: expected });
    });
  }
});
