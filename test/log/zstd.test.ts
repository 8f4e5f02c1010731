import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as zlib from 'node:zlib';
import fc from 'fast-check';
import { GomqError } from '../../src/core/errors.js';
import { CONTENT_BYTES_MAX, loadZstd, type Zstd } from '../../src/log/zstd.js';
import { check } from '../packet/oracle.js';

const hasNative = 'zstdCompressSync' in zlib;
const codecs: [string, Zstd][] = [['wasm', await loadZstd('wasm')]];
if (hasNative) codecs.push(['native', await loadZstd('native')]);

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

/** A frame by hand: descriptor, what follows it, and blocks. */
const frame = (...bytes: number[]): Buffer => Buffer.from([...MAGIC, ...bytes]);

/** The last block: `size` times one byte. */
const rle = (size: number, isLast = true): number[] => {
  const header = (size << 3) | (1 << 1) | Number(isLast);
  return [header & 0xff, (header >> 8) & 0xff, header >> 16, 0x61];
};

const damage = (pattern: RegExp) => (error: unknown) => {
  assert.ok(error instanceof GomqError, String(error));
  assert.equal(error.code, 'DATA_DAMAGED');
  assert.match(error.message, pattern);
  return true;
};

it('is what the runtime has, else WebAssembly', async () => {
  const bytes = Buffer.from('a'.repeat(1000));
  const chosen = await loadZstd();
  assert.deepEqual(Buffer.from(chosen.decompress(chosen.compress(bytes), 1000)), bytes);
  if (!hasNative) {
    await assert.rejects(loadZstd('native'), { code: 'INTERNAL' });
  }
});

for (const [writer, { compress }] of codecs) {
  for (const [reader, { decompress }] of codecs) {
    it(`${reader} reads the frames of ${writer}`, (context) => {
      const content = fc.oneof(
        fc.uint8Array({ minLength: 1, maxLength: 70_000 }),
        fc
          .tuple(fc.string({ minLength: 1 }), fc.integer({ min: 1, max: 5000 }))
          .map(([text, times]) => Buffer.from(text.repeat(times))),
      );
      check(
        context,
        fc.property(content, (bytes) => {
          assert.ok(Buffer.from(decompress(compress(bytes), bytes.length)).equals(bytes));
        }),
        200,
      );
    });

    it(`${reader} reads the largest frames of ${writer}, time and again`, () => {
      const noise = Buffer.alloc(CONTENT_BYTES_MAX);
      for (let i = 0, state = 1; i < noise.length; i++) {
        state = (state * 1103515245 + 12345) & 0x7fffffff;
        noise[i] = state >> 16;
      }
      for (let i = 0; i < 12; i++) {
        for (const bytes of [
          noise,
          noise.subarray(0, (i * 104_729) % noise.length || 1),
          Buffer.alloc(CONTENT_BYTES_MAX),
        ]) {
          assert.ok(Buffer.from(decompress(compress(bytes), CONTENT_BYTES_MAX)).equals(bytes));
        }
      }
    });
  }
}

for (const [name, zstd] of codecs) {
  describe(`zstd (${name})`, () => {
    const content = Buffer.from('telemetry '.repeat(100));
    const good = Buffer.from(zstd.compress(content));

    it('compresses shared memory', () => {
      const shared = Buffer.from(new SharedArrayBuffer(content.length));
      shared.set(content);
      assert.deepEqual(Buffer.from(zstd.decompress(zstd.compress(shared), content.length)), content);
    });

    it('takes no more than a frame may hold, and not nothing', () => {
      assert.throws(() => zstd.compress(Buffer.alloc(CONTENT_BYTES_MAX + 1)), { code: 'INTERNAL' });
      assert.throws(() => zstd.compress(Buffer.alloc(0)), { code: 'INTERNAL' });
    });

    const refused: [string, Buffer, RegExp][] = [
      ['nothing', Buffer.alloc(0), /not a zstd frame/],
      ['garbage', Buffer.from('this is no frame at all'), /not a zstd frame/],
      // 2^29: exponent 19.
      [
        'nine bytes that declare a window of 512 MiB',
        frame(0x00, 19 << 3, 0x01, 0x00, 0x00),
        /window of 536870912 bytes/,
      ],
      [
        'a window of 512 MiB and a small content',
        frame(0x40, 19 << 3, 0x00, 0x01, ...rle(512)),
        /window of 536870912 bytes/,
      ],
      ['no declared content size', frame(0x00, 0x00, ...rle(100)), /does not declare its content size/],
      ['no content', frame(0x20, 0x00, ...rle(0)), /declares no content/],
      [
        'a content size above the bound',
        frame(0x20, 101, ...rle(101)),
        /declares 101 bytes, and 100 are allowed/,
      ],
      [
        'a content size of 2^63',
        frame(0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80, ...rle(100)),
        /declares 9223372036854776000 bytes, and 100/,
      ],
      ['more content than declared', frame(0x20, 50, ...rle(90)), /cannot be decompressed|holds/],
      ['less content than declared', frame(0x20, 50, ...rle(10)), /cannot be decompressed|holds/],
      ['a dictionary', frame(0x21, 7, 50, ...rle(50)), /wants a dictionary/],
      ['a reserved bit', frame(0x28, 50, ...rle(50)), /reserved bit/],
      ['a reserved block type', frame(0x20, 50, 0x07, 0x00, 0x00), /a block that cannot be/],
      ['a block above 128 KiB', frame(0x20, 50, ...rle(200_000)), /a block that cannot be/],
      ['no last block', frame(0x20, 50, ...rle(50, false)), /cut short/],
      [
        'a second frame behind it',
        Buffer.concat([frame(0x20, 50, ...rle(50)), frame(0x20, 50, ...rle(50))]),
        /11 bytes follow|10 bytes follow/,
      ],
      ['a byte behind it', Buffer.concat([frame(0x20, 50, ...rle(50)), Buffer.alloc(1)]), /1 bytes follow/],
    ];
    for (const [what, bytes, pattern] of refused) {
      it(`refuses ${what}`, () => assert.throws(() => zstd.decompress(bytes, 100), damage(pattern)));
    }

    it('refuses 25 kB that inflate to 800 MiB', () => {
      const blocks = Array.from({ length: 6400 }, (_, i) => rle(131_072, i === 6399)).flat();
      const size = 6400 * 131_072;
      const declared = [size & 0xff, (size >> 8) & 0xff, (size >> 16) & 0xff, (size >>> 24) & 0xff];
      const bomb = frame(0x80, 10 << 3, ...declared, ...blocks);
      assert.ok(bomb.length < 26_000);
      assert.throws(() => zstd.decompress(bomb, 320 * 1024 * 1024), damage(/declares 838860800 bytes/));
      const liar = frame(0x20, 100, ...blocks);
      assert.throws(() => zstd.decompress(liar, 100), damage(/cannot be decompressed|holds/));
    });

    it('refuses a frame cut at every byte', () => {
      for (let length = 0; length < good.length; length++) {
        assert.throws(() => zstd.decompress(good.subarray(0, length), content.length), damage(/./));
      }
    });

    it('answers something of the declared size or refuses, whatever bit is flipped, and works afterwards', () => {
      for (let bit = 0; bit < good.length * 8; bit++) {
        const bytes = Buffer.from(good);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        try {
          assert.ok(zstd.decompress(bytes, content.length).length <= content.length);
        } catch (error) {
          damage(/./)(error);
        }
      }
      assert.deepEqual(Buffer.from(zstd.decompress(good, content.length)), content);
    });
  });
}
