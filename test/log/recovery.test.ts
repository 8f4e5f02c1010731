import assert from 'node:assert/strict';
import {
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { encodeBatch } from '../../src/log/batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag } from '../../src/log/batch-format.js';
import { BatchReader } from '../../src/log/batch-reader.js';
import type { Suspect } from '../../src/log/data-directory.js';
import { type Disk, nodeDisk } from '../../src/log/disk.js';
import { fileName } from '../../src/log/file-names.js';
import { type RecoveredLog, rebuildIndex, recoverLog } from '../../src/log/recovery.js';
import { decodeIndex, encodeIndex, SegmentIndexBuilder } from '../../src/log/segment-index.js';
import { walkSegment } from '../../src/log/segment-walk.js';
import {
  type BatchOptions,
  batchOf,
  failingReads,
  type LoggedLine,
  logName,
  makeDirectory,
  payloadOf,
  recordText,
  rememberingLogger,
  topicOf,
  without,
  zstd,
} from './batches.js';

interface Outcome {
  log: RecoveredLog;
  lines: LoggedLine[];
}

function recover(
  directory: string,
  suspect?: Suspect,
  disk: Disk = nodeDisk,
): Outcome & { isCleared: boolean } {
  const logger = rememberingLogger();
  let isCleared = false;
  const marker = {
    readSuspect: () => suspect,
    clearSuspect: () => {
      isCleared = true;
    },
  };
  const log = recoverLog(disk, directory, zstd, { logger, topicOf, suspect: marker });
  return { log, lines: logger.lines, isCleared };
}

/** The DATA_DAMAGED that recovery throws: it always names what to run. */
function refusal(directory: string, suspect?: Suspect): GomqError {
  try {
    recover(directory, suspect);
  } catch (error) {
    assert.ok(error instanceof GomqError, String((error as Error).stack));
    assert.equal(error.code, 'DATA_DAMAGED');
    assert.ok(error.hint.includes(`gomq log verify ${directory}`), error.hint);
    return error;
  }
  assert.fail('it was not refused');
}

/** The records of a segment, as far as they can be read. */
function recordsIn(path: string, baseOffset: number): string[] {
  const file = nodeDisk.open(path, 'read');
  try {
    const reader = new BatchReader(file, file.bytes);
    const records: string[] = [];
    for (const step of walkSegment({ reader, zstd, baseOffset, nextOffset: undefined, epochBefore: 0 })) {
      assert.equal(step.kind, 'batch');
      if (step.kind !== 'batch') continue;
      const { payload } = step;
      for (let at = 0; at < payload.length; ) {
        const end = at + 4 + payload.readUInt32LE(at);
        records.push(payload.toString('utf8', at + 4, end));
        at = end;
      }
    }
    return records;
  } finally {
    file.close();
  }
}

/** Segments of two batches of five records each, sealed but for the last, with their indexes. */
function makeLog(segments: number, options: BatchOptions = {}): string {
  const directory = makeDirectory();
  for (let i = 0; i < segments; i++) {
    const base = i * 10;
    writeFileSync(
      join(directory, logName(base)),
      Buffer.concat([batchOf(base, 5, options), batchOf(base + 5, 5, options)]),
    );
  }
  for (let i = 0; i < segments - 1; i++)
    rebuildIndex(nodeDisk, directory, i * 10, zstd, { logger: rememberingLogger(), topicOf });
  return directory;
}

describe('recovery', () => {
  it('begins a log where there is none', () => {
    const directory = makeDirectory();
    const { log, lines } = recover(directory);
    assert.deepEqual([log.segments, log.startOffset, log.endOffset, log.lastEpoch], [[], 0, 0, 0]);
    assert.deepEqual([log.active.baseOffset, log.active.bytes, lines], [0, 0, []]);
    assert.deepEqual(readdirSync(directory), [logName(0)]);
  });

  it('takes a whole log as it is', () => {
    const directory = makeLog(3);
    const { log, lines } = recover(directory);
    assert.deepEqual([log.startOffset, log.endOffset, log.lastEpoch, lines], [0, 30, 1, []]);
    assert.deepEqual(
      log.segments.map(({ baseOffset, endOffset, batchCount, lastTimestampMs }) => [
        baseOffset,
        endOffset,
        batchCount,
        lastTimestampMs,
      ]),
      [
        [0, 10, 2, 1005],
        [10, 20, 2, 1015],
      ],
    );
    const { index, bytes, baseOffset } = log.active;
    assert.deepEqual(
      [baseOffset, bytes, index.batchCount],
      [20, statSync(join(directory, logName(20))).size, 2],
    );
    const topics = [...index.topicIds(1)!].map((id) => index.dictionary[id]);
    assert.deepEqual(topics.sort(), ['sensors/0', 'sensors/1', 'sensors/2']);
  });

  it('reads nothing but the header of the index of a sealed segment', () => {
    const directory = makeLog(3);
    const read: string[] = [];
    const disk: Disk = {
      ...nodeDisk,
      open: (path, mode) => {
        const file = nodeDisk.open(path, mode);
        return new Proxy(file, {
          get: (target, name) => {
            if (name === 'read') read.push(path);
            const value = Reflect.get(target, name, target) as unknown;
            return typeof value === 'function' ? value.bind(target) : value;
          },
        });
      },
    };
    recover(directory, undefined, disk);
    assert.deepEqual(
      [...new Set(read)],
      [fileName(0, 'index'), fileName(10, 'index'), logName(20)].map((name) => join(directory, name)),
    );
  });

  it('goes on in an empty last segment', () => {
    const directory = makeLog(2);
    writeFileSync(join(directory, logName(10)), '');
    const { log, lines } = recover(directory);
    assert.deepEqual([log.endOffset, log.active.bytes, log.lastEpoch, lines], [10, 0, 1, []]);
  });

  it('removes drafts and the indexes that retention or a crash left, and nothing else', () => {
    const directory = makeLog(2);
    const index = readFileSync(join(directory, fileName(0, 'index')));
    writeFileSync(join(directory, fileName(10, 'index')), index);
    for (const name of [logName(0), logName(10)]) rmSync(join(directory, name));
    writeFileSync(join(directory, logName(10)), batchOf(10, 1));
    const kept = ['notes.txt', '00000000000000000000.snapshot', 'reserve'];
    for (const name of [...kept, '00000000000000000007.snapshot.tmp'])
      writeFileSync(join(directory, name), 'x');
    assert.equal(recover(directory).log.startOffset, 10);
    assert.deepEqual(readdirSync(directory).sort(), [...kept, logName(10)].sort());
  });

  it('makes a missing index again', () => {
    const directory = makeLog(2);
    const path = join(directory, fileName(0, 'index'));
    const before = readFileSync(path);
    rmSync(path);
    const { log, lines } = recover(directory);
    assert.equal(log.segments[0]!.endOffset, 10);
    assert.deepEqual(
      lines.map(({ level, fields }) => [level, fields.file]),
      [['warn', path]],
    );
    assert.deepEqual(readFileSync(path), before);
  });

  it('makes an index again that is damaged or of something else, whatever bit of its header is flipped', () => {
    const directory = makeLog(2);
    const path = join(directory, fileName(0, 'index'));
    const good = readFileSync(path);
    const other = new SegmentIndexBuilder(10);
    const damaged = [encodeIndex(other), good.subarray(0, 50), Buffer.alloc(0), Buffer.concat([good, good])];
    for (let bit = 0; bit < 80 * 8; bit++) {
      const bytes = Buffer.from(good);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      // The checksum of the body is looked at with the body.
      damaged.push(bytes);
    }
    for (const bytes of damaged) {
      writeFileSync(path, bytes);
      const { log, lines } = recover(directory);
      assert.equal(log.segments[0]!.endOffset, 10);
      assert.deepEqual([lines.length, lines[0]!.level], [1, 'warn']);
      assert.deepEqual(readFileSync(path), good);
    }
  });

  it('makes an index again that cannot be opened or read, and says what the operating system answered', () => {
    for (const operation of ['open', 'read'] as const) {
      const directory = makeLog(2);
      const path = join(directory, fileName(0, 'index'));
      const before = readFileSync(path);
      const { log, lines } = recover(directory, undefined, failingReads(path, operation));
      assert.deepEqual([log.segments[0]!.endOffset, log.endOffset], [10, 20]);
      assert.deepEqual(
        lines.map(({ level, fields }) => [level, fields.file, fields.damage]),
        [['warn', path, 'it cannot be read: EIO: i/o error']],
      );
      assert.deepEqual(readFileSync(path), before);
    }
  });

  it('does not go on where a segment cannot be read', () => {
    const directory = makeLog(2);
    for (const base of [0, 10]) {
      rmSync(join(directory, fileName(0, 'index')), { force: true });
      const disk = failingReads(join(directory, logName(base)), 'read');
      assert.throws(() => recover(directory, undefined, disk), { code: 'DATA_UNREADABLE' });
    }
  });

  it('makes an index again whose segment has another length, and cuts zeros off a sealed segment', () => {
    const directory = makeLog(2);
    const path = join(directory, logName(0));
    const { size } = statSync(path);
    truncateSync(path, size + 5000);
    assert.equal(recover(directory).log.endOffset, 20);
    assert.equal(statSync(path).size, size);
    assert.deepEqual(recover(directory).lines, []);
  });

  it('starts although an index cannot be written', () => {
    const directory = makeLog(2);
    rmSync(join(directory, fileName(0, 'index')));
    const full: Disk = {
      ...nodeDisk,
      open: (path, mode) => {
        if (mode === 'create') throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
        return nodeDisk.open(path, mode);
      },
    };
    const { log, lines } = recover(directory, undefined, full);
    assert.equal(log.endOffset, 20);
    assert.match(lines.at(-1)!.message, /cannot be written/);
  });

  it('says what the operating system answered', () => {
    const failing: Disk = {
      ...nodeDisk,
      list: () => {
        throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
      },
    };
    assert.throws(() => recover(makeDirectory(), undefined, failing), { code: 'DATA_UNREADABLE' });
  });
});

describe('a torn tail', () => {
  const last = batchOf(20, 6);
  const before = [batchOf(0, 10), batchOf(10, 10)];
  const whole = Buffer.concat([...before, last]);
  const start = whole.length - last.length;

  it('is cut wherever the file was cut, with a warning', () => {
    const { length } = batchOf(0, 10);
    for (let bytes = 0; bytes <= whole.length; bytes++) {
      const directory = makeDirectory({ [logName(0)]: whole.subarray(0, bytes) });
      const path = join(directory, logName(0));
      const { log, lines } = recover(directory);
      const kept = [0, length, start, whole.length].findLast((end) => end <= bytes)!;
      assert.deepEqual([log.active.bytes, statSync(path).size], [kept, kept], `${bytes} bytes`);
      assert.equal(log.endOffset, [0, 10, 20, 26][[0, length, start, whole.length].indexOf(kept)]);
      if (kept === bytes) {
        assert.deepEqual(lines, []);
      } else {
        assert.equal(lines.length, 1);
        const { level, fields } = lines[0]!;
        assert.deepEqual([level, fields.file, fields.position], ['warn', path, kept]);
        assert.ok((fields.bytesCut as number) <= bytes - kept);
      }
      assert.deepEqual(
        recordsIn(path, 0),
        Array.from({ length: log.endOffset }, (_, i) => recordText(i)),
      );
      rmSync(directory, { recursive: true });
    }
  });

  it('is cut wherever zeros begin that were written ahead', () => {
    for (let bytes = start; bytes <= whole.length; bytes++) {
      const ahead = Buffer.concat([whole.subarray(0, bytes), Buffer.alloc(3000)]);
      const directory = makeDirectory({ [logName(0)]: ahead });
      const { log, lines } = recover(directory);
      // A batch may end in zeros of its own, and is whole then.
      const isWhole = whole.subarray(bytes).every((byte) => byte === 0);
      assert.equal(log.endOffset, isWhole ? 26 : 20);
      assert.deepEqual([lines.length, lines[0]!.level], [1, bytes === start || isWhole ? 'info' : 'warn']);
      assert.equal(statSync(join(directory, logName(0))).size, log.active.bytes);
    }
  });

  it('is a last batch whose payload is wrong', () => {
    const bytes = Buffer.from(whole);
    bytes[bytes.length - 1]! ^= 1;
    const directory = makeDirectory({ [logName(0)]: bytes });
    const { log, lines } = recover(directory);
    assert.equal(log.endOffset, 20);
    const { fields } = lines[0]!;
    assert.deepEqual(fields, {
      file: join(directory, logName(0)),
      position: start,
      bytesCut: last.length,
      fromOffset: 20,
      toOffset: 25,
      damage: 'payload CRC',
    });
  });

  it('may have batches behind it that did not wait for it', () => {
    const unsynced = batchOf(26, 5, { flags: BatchFlag.State });
    for (let at = start; at < whole.length; at++) {
      const bytes = Buffer.concat([whole, unsynced]);
      bytes[at]! ^= 0x10;
      const { log, lines } = recover(makeDirectory({ [logName(0)]: bytes }));
      assert.deepEqual([log.endOffset, lines.length, lines[0]?.fields.position], [20, 1, start]);
    }
  });

  it('may hold what looks like a batch in the payload of one', () => {
    const inner = batchOf(900, 2);
    const payload = Buffer.concat([Buffer.alloc(4), Buffer.from('sensors/0|'), inner]);
    payload.writeUInt32LE(payload.length - 4);
    const fields = {
      flags: BatchFlag.AfterSync,
      epoch: 1,
      baseOffset: 20,
      lastOffset: 20,
      timestampMs: 0,
      recordCount: 1,
    };
    const batch = encodeBatch(undefined, fields, payload);
    batch[batch.length - 1]! ^= 1;
    const { log } = recover(makeDirectory({ [logName(0)]: Buffer.concat([...before, batch]) }));
    assert.equal(log.endOffset, 20);
  });

  it('of half a batch larger than a piece of the file is cut', () => {
    const fields = { flags: 0, epoch: 1, baseOffset: 20, lastOffset: 20, timestampMs: 0, recordCount: 1 };
    const large = encodeBatch(undefined, fields, payloadOf([`a|${'x'.repeat(9_000_000)}`]));
    assert.equal(
      recover(makeDirectory({ [logName(0)]: Buffer.concat([...before, large]) })).log.endOffset,
      21,
    );
    const cut = Buffer.concat([...before, large.subarray(0, 8_000_000)]);
    assert.equal(recover(makeDirectory({ [logName(0)]: cut })).log.endOffset, 20);
  });
});

describe('damage', () => {
  const batches = [batchOf(0, 4), batchOf(4, 1), batchOf(5, 3)];
  const whole = Buffer.concat(batches);
  const starts = [0, batches[0]!.length, batches[0]!.length + batches[1]!.length];

  it('of any bit of a segment is cut where it may be the tail, refused elsewhere, and never believed', () => {
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const bytes = Buffer.from(whole);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      const directory = makeDirectory({ [logName(0)]: bytes });
      const path = join(directory, logName(0));
      const hit = starts.findLastIndex((start) => start <= bit >> 3);
      if (hit < 2) {
        const { message } = refusal(directory);
        assert.ok(message.startsWith(`${path} is damaged at position ${starts[hit]!}, at offset`), message);
        assert.match(message, hit === 0 ? /offsets 0 to 3/ : /offset 4:/);
        assert.deepEqual(readFileSync(path), bytes, 'nothing is changed');
      } else {
        const { log, lines } = recover(directory);
        assert.deepEqual([log.endOffset, log.active.bytes], [5, starts[2]]);
        assert.deepEqual(
          lines.map(({ level, fields }) => [level, fields.position]),
          [['warn', starts[2]]],
        );
        assert.deepEqual(
          recordsIn(path, 0),
          Array.from({ length: 5 }, (_, i) => recordText(i)),
        );
      }
      rmSync(directory, { recursive: true });
    }
  });

  it('is a batch overwritten with zeros, and one after it', () => {
    const bytes = Buffer.from(whole);
    bytes.fill(0, starts[1], starts[2]);
    assert.match(
      refusal(makeDirectory({ [logName(0)]: bytes })).message,
      /position \d+, at offset 4: no magic; a batch follows/,
    );
  });

  it('is a batch behind a piece of the file full of rubbish', () => {
    const rubbish = Buffer.alloc(9_000_000, 'GMQB');
    const bytes = Buffer.concat([batches[0]!, rubbish, batches[2]!]);
    assert.match(
      refusal(makeDirectory({ [logName(0)]: bytes })).message,
      /offset 4: header CRC; a batch follows/,
    );
    // So that a header lies across the border of two pieces.
    for (let i = 0; i < 70; i++) {
      const across = Buffer.concat([batches[0]!, Buffer.alloc(4 * 1024 * 1024 - 60 + i, 1), batches[2]!]);
      refusal(makeDirectory({ [logName(0)]: across }));
    }
  });

  it('is a torn batch in a segment that is not the last', () => {
    const directory = makeLog(2);
    const path = join(directory, logName(0));
    truncateSync(path, statSync(path).size - 1);
    const { message } = refusal(directory);
    assert.ok(message.startsWith(`${path} is damaged at position`), message);
    assert.match(message, /offsets 5 to 9: payload cut short/);
  });

  it('is a segment that lacks its last batch', () => {
    const directory = makeLog(2);
    truncateSync(join(directory, logName(0)), batchOf(0, 5).length);
    assert.match(refusal(directory).message, /offsets 5 to 9 are missing/);
  });

  it('is a missing segment', () => {
    const directory = makeLog(4);
    rmSync(join(directory, logName(10)));
    assert.match(
      refusal(directory).message,
      /offsets 10 to 19 are missing: 00000000000000000000\.log ends before them/,
    );
    const last = makeLog(3);
    writeFileSync(join(last, fileName(20, 'index')), readFileSync(join(last, fileName(10, 'index'))));
    rmSync(join(last, logName(20)));
    assert.match(
      refusal(last).message,
      /there is 00000000000000000020\.index, and no 00000000000000000020\.log/,
    );
  });

  it('is a segment that begins before the one before it ends', () => {
    const directory = makeLog(2);
    writeFileSync(join(directory, logName(7)), Buffer.concat([batchOf(7, 3)]));
    rmSync(join(directory, logName(10)));
    assert.match(refusal(directory).message, /ends before offset 10, and 00000000000000000007\.log follows/);
  });

  it('is a log that ends before its snapshot', () => {
    const directory = makeDirectory({
      [logName(0)]: batchOf(0, 4),
      [fileName(5, 'snapshot')]: Buffer.alloc(0),
    });
    assert.match(refusal(directory).message, /ends before offset 4, and there is a snapshot up to 5/);
    rmSync(join(directory, logName(0)));
    assert.match(refusal(directory).message, /snapshots up to offset 5, and no segment/);
    assert.ok(!existsSync(join(directory, logName(0))));
  });

  const intended: [string, Buffer, RegExp][] = [
    ['of other offsets', batchOf(9, 2), /a batch from offset 9/],
    ['of offsets that were there', batchOf(7, 2), /a batch from offset 7/],
    ['of an earlier epoch', batchOf(8, 2, { epoch: 0 }), /epoch 0 after 1/],
    [
      'of a snapshot',
      encodeBatch(
        zstd,
        { flags: 6, epoch: 1, baseOffset: 8, lastOffset: 8, timestampMs: 0, recordCount: 0 },
        Buffer.alloc(0),
      ),
      /a batch of a snapshot/,
    ],
  ];
  for (const [what, batch, pattern] of intended) {
    it(`is a last batch ${what}: no crash writes one`, () => {
      const directory = makeDirectory({ [logName(0)]: Buffer.concat([whole, batch]) });
      assert.match(refusal(directory).message, pattern);
      assert.equal(statSync(join(directory, logName(0))).size, whole.length + batch.length);
    });
  }

  it('of the body of an index is mended by making it again', () => {
    const directory = makeLog(2);
    const path = join(directory, fileName(0, 'index'));
    const good = readFileSync(path);
    const bytes = Buffer.from(good);
    bytes[100]! ^= 1;
    writeFileSync(path, bytes);
    assert.ok('damage' in decodeIndex(readFileSync(path)));
    const index = rebuildIndex(nodeDisk, directory, 0, zstd, { logger: rememberingLogger(), topicOf });
    assert.deepEqual([index.endOffset, encodeIndex(index)], [10, good]);
    assert.deepEqual(readFileSync(path), good);
    assert.deepEqual(encodeIndex(without(decodeIndex(good))), good);
  });
});

describe('after a failed fsync', () => {
  it('what it left uncertain is cut off, and the marker with it', () => {
    const directory = makeLog(2);
    const position = batchOf(10, 5).length;
    const { log, lines, isCleared } = recover(directory, { segment: 10, position });
    assert.deepEqual([log.endOffset, log.active.bytes, isCleared], [15, position, true]);
    assert.equal(statSync(join(directory, logName(10))).size, position);
    assert.deepEqual(
      lines.map(({ level, fields }) => [level, fields.position]),
      [['warn', position]],
    );
  });

  it('a segment that had just been begun goes too', () => {
    const directory = makeLog(2);
    writeFileSync(join(directory, logName(20)), '');
    const { log } = recover(directory, { segment: 10, position: batchOf(10, 5).length });
    assert.deepEqual([log.endOffset, existsSync(join(directory, logName(20)))], [15, false]);
  });

  it('nothing is cut where the file is shorter already', () => {
    const { log, isCleared } = recover(makeLog(2), { segment: 10, position: 1_000_000 });
    assert.deepEqual([log.endOffset, isCleared], [20, true]);
  });

  it('a marker that contradicts the log is no reason to cut', () => {
    assert.match(
      refusal(makeLog(2), { segment: 0, position: 0 }).message,
      /yet 00000000000000000010\.log follows/,
    );
    assert.match(refusal(makeLog(2), { segment: 99, position: 0 }).message, /yet|is not there/);
  });
});

it('fifty thousand small batches are recovered in well under two seconds', () => {
  const parts: Buffer[] = [];
  for (let offset = 0; offset < 50_000; offset++) parts.push(batchOf(offset, 1));
  const bytes = Buffer.concat(parts);
  assert.ok(bytes.length > 50_000 * BATCH_HEADER_BYTES);
  const begun = performance.now();
  assert.equal(recover(makeDirectory({ [logName(0)]: bytes })).log.endOffset, 50_000);
  assert.ok(performance.now() - begun < 2000);
});
