import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import {
  type BatchHeader,
  decodeHeader,
  decodePayload,
  encodeBatch,
  prefixBytes,
  recordOffset,
  recordPositions,
} from '../../src/log/batch-codec.js';
import { BATCH_HEADER_BYTES, BatchAt, BatchFlag, Codec } from '../../src/log/batch-format.js';
import { check } from '../packet/oracle.js';
import { batchOf, payloadOf, without, zstd } from './batches.js';

/** Makes the checksums right again after a field was changed. */
function sealed(batch: Buffer): Buffer {
  batch.writeUInt32LE(crc32(batch.subarray(0, BatchAt.headerCrc)), BatchAt.headerCrc);
  const crc = crc32(batch.subarray(BATCH_HEADER_BYTES), crc32(batch.subarray(0, BatchAt.crc)));
  batch.writeUInt32LE(crc, BatchAt.crc);
  return batch;
}

const headerOf = (batch: Buffer): BatchHeader => without(decodeHeader(batch, 0));

describe('a batch', () => {
  it('comes out as it went in', (context) => {
    const records = fc.array(
      fc.oneof(fc.string({ maxLength: 20 }), fc.string({ minLength: 300, maxLength: 900 })),
      { minLength: 1, maxLength: 30 },
    );
    const number = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER - 100 });
    const property = fc.property(
      records,
      number,
      number,
      number,
      fc.boolean(),
      (texts, baseOffset, epoch, timestampMs, isCompressed) => {
        const payload = payloadOf(texts);
        const lastOffset = baseOffset + texts.length - 1;
        const fields = {
          flags: BatchFlag.State,
          epoch,
          baseOffset,
          lastOffset,
          timestampMs,
          recordCount: texts.length,
        };
        const batch = encodeBatch(isCompressed ? zstd : undefined, fields, payload);
        const header = headerOf(batch);
        const storedBytes = batch.length - BATCH_HEADER_BYTES;
        const { codec } = header;
        assert.deepEqual(header, { ...fields, codec, uncompressedBytes: payload.length, storedBytes });
        assert.ok(isCompressed || codec === Codec.None);
        const decoded = without(decodePayload(zstd, header, batch));
        assert.ok(decoded.equals(payload));
        const positions = recordPositions(header, decoded);
        const out = texts.map((_, i) =>
          decoded.toString('utf8', positions[i]!, positions[i + 1]! - prefixBytes(header.flags)),
        );
        assert.deepEqual(out, texts);
      },
    );
    check(context, property);
  });

  it('is found anywhere in a buffer', () => {
    const batch = batchOf(7, 3);
    const bytes = Buffer.concat([Buffer.alloc(13), batch]);
    assert.deepEqual(decodeHeader(bytes, 13), headerOf(batch));
  });

  it('is compressed where that pays', () => {
    assert.equal(headerOf(batchOf(0, 1)).codec, Codec.None);
    assert.equal(headerOf(batchOf(0, 100, { padding: 50 })).codec, Codec.Zstd);
    const noise = Buffer.from(Array.from({ length: 2000 }, (_, i) => (i * i * 7919) >> 3));
    const payload = Buffer.concat([Buffer.from([0xd0, 0x07, 0, 0]), noise]);
    const fields = { flags: 0, epoch: 1, baseOffset: 0, lastOffset: 0, timestampMs: 0, recordCount: 1 };
    assert.ok(headerOf(encodeBatch(zstd, fields, payload)).storedBytes <= payload.length);
    // Larger than a frame may be.
    const large = payloadOf(['x'.repeat(3 * 1024 * 1024)]);
    assert.equal(headerOf(encodeBatch(zstd, fields, large)).codec, Codec.None);
  });

  it('of a snapshot brings the offset of each record', () => {
    const record = Buffer.from('hello');
    const payload = Buffer.alloc(12 + record.length);
    payload.writeUInt32LE(record.length);
    payload.writeBigUInt64LE(2n ** 53n - 1n, 4);
    payload.set(record, 12);
    const offset = Number.MAX_SAFE_INTEGER;
    const batch = encodeBatch(
      zstd,
      {
        flags: BatchFlag.Snapshot,
        epoch: 0,
        baseOffset: 3,
        lastOffset: offset,
        timestampMs: 0,
        recordCount: 1,
      },
      payload,
    );
    const header = headerOf(batch);
    const decoded = without(decodePayload(zstd, header, batch));
    const [position] = recordPositions(header, decoded);
    assert.deepEqual([position, recordOffset(decoded, position!)], [12, offset]);
    payload.writeBigUInt64LE(2n ** 53n, 4);
    assert.ok(Number.isNaN(recordOffset(payload, 12)));
  });

  it('is never written with numbers that are none', () => {
    const fields = { flags: 0, epoch: 1, baseOffset: 0, lastOffset: 0, timestampMs: -1, recordCount: 1 };
    assert.throws(() => encodeBatch(zstd, fields, payloadOf(['a'])), { code: 'INTERNAL' });
  });
});

describe('damage in a batch', () => {
  const good = batchOf(10, 20, { padding: 40 });
  assert.equal(headerOf(good).codec, Codec.Zstd);

  it('is noticed whatever bit is flipped', () => {
    for (let bit = 0; bit < good.length * 8; bit++) {
      const batch = Buffer.from(good);
      batch[bit >> 3]! ^= 1 << (bit & 7);
      const header = decodeHeader(batch, 0);
      if (bit >= BatchAt.crc * 8) {
        assert.deepEqual(decodePayload(zstd, without(header), batch), { damage: 'payload CRC' });
      } else {
        assert.deepEqual(header, { damage: bit < 32 ? 'no magic' : 'header CRC', isIntended: false });
      }
    }
  });

  it('is noticed wherever it is cut', () => {
    for (let length = 0; length < good.length; length++) {
      const batch = good.subarray(0, length);
      if (length < BATCH_HEADER_BYTES) {
        assert.deepEqual(decodeHeader(batch, 0), { damage: 'header cut short', isIntended: false });
      } else {
        assert.deepEqual(decodePayload(zstd, headerOf(good), batch), { damage: 'payload cut short' });
      }
    }
  });

  const fields: [string, (batch: Buffer) => void, RegExp][] = [
    ['a newer version', (b) => b.writeUInt8(2, BatchAt.version), /version 2/],
    ['an unknown codec', (b) => b.writeUInt8(7, BatchAt.codec), /codec 7/],
    ['an unknown flag', (b) => b.writeUInt16LE(0x8000, BatchAt.flags), /flags 32768/],
    [
      'the end of a snapshot in the log',
      (b) => b.writeUInt16LE(BatchFlag.SnapshotEnd, BatchAt.flags),
      /flags 4/,
    ],
    [
      'an end of a snapshot with records',
      (b) => b.writeUInt16LE(6, BatchAt.flags),
      /20 records from 10 to 29/,
    ],
    ['an epoch over 2^53', (b) => b.writeBigUInt64LE(2n ** 53n, BatchAt.epoch), /above 2\^53/],
    ['an offset over 2^53', (b) => b.writeBigUInt64LE(2n ** 63n, BatchAt.baseOffset), /above 2\^53/],
    [
      'a last offset that is not base + count - 1',
      (b) => b.writeBigUInt64LE(30n, BatchAt.lastOffset),
      /20 records from 10 to 30/,
    ],
    ['no record', (b) => b.writeUInt32LE(0, BatchAt.recordCount), /0 records/],
    [
      'more uncompressed bytes than a frame holds',
      (b) => b.writeUInt32LE(2 ** 31, BatchAt.uncompressedBytes),
      /stored bytes for 2147483648/,
    ],
    [
      'fewer bytes than its records need',
      (b) => b.writeUInt32LE(79, BatchAt.uncompressedBytes),
      /stored bytes for 79/,
    ],
    [
      'more stored bytes than uncompressed ones',
      (b) => b.writeUInt32LE(2 ** 31, BatchAt.storedBytes),
      /2147483648 stored bytes/,
    ],
    ['something in the reserved field', (b) => b.writeUInt32LE(5, BatchAt.reserved), /reserved field 5/],
  ];
  for (const [what, change, pattern] of fields) {
    it(`is ${what}, though the checksums are right`, () => {
      const batch = Buffer.from(good);
      change(batch);
      const result = decodeHeader(sealed(batch), 0);
      assert.ok('damage' in result);
      assert.match(result.damage, pattern);
      assert.ok(result.isIntended);
    });
  }

  it('is an uncompressed payload of another length, though the checksums are right', () => {
    const batch = Buffer.from(batchOf(0, 2));
    batch.writeUInt32LE(headerOf(batch).uncompressedBytes + 1, BatchAt.uncompressedBytes);
    assert.ok('damage' in decodeHeader(sealed(batch), 0));
  });

  const lengths: [string, (batch: Buffer) => void][] = [
    ['beyond the payload', (b) => b.writeUInt32LE(0xffff_ffff, BATCH_HEADER_BYTES)],
    ['short of the payload', (b) => b.writeUInt32LE(0, BATCH_HEADER_BYTES)],
    [
      'for another number of records',
      (b) => {
        b.writeUInt32LE(1, BatchAt.recordCount);
        b.writeBigUInt64LE(0n, BatchAt.lastOffset);
      },
    ],
  ];
  for (const [what, change] of lengths) {
    it(`is record lengths ${what}, though the checksums are right`, () => {
      const batch = Buffer.from(batchOf(0, 2));
      change(batch);
      sealed(batch);
      assert.deepEqual(decodePayload(zstd, headerOf(batch), batch), { damage: 'record lengths' });
    });
  }

  it('is a frame that cannot be decompressed, or holds another length, though the checksums are right', () => {
    const broken = Buffer.from(good);
    broken.fill(0xff, BATCH_HEADER_BYTES + 12);
    const result = decodePayload(zstd, headerOf(sealed(broken)), broken);
    assert.ok('damage' in result);
    assert.match(result.damage, /zstd frame/);
    const other = Buffer.from(good);
    other.writeUInt32LE(headerOf(other).uncompressedBytes + 1, BatchAt.uncompressedBytes);
    const longer = decodePayload(zstd, headerOf(sealed(other)), other);
    assert.ok('damage' in longer);
    assert.match(longer.damage, /bytes after decompression/);
  });
});
