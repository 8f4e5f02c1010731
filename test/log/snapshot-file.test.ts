import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { type Disk, nodeDisk } from '../../src/log/disk.js';
import { fileName } from '../../src/log/file-names.js';
import { listSnapshots, readSnapshot, SnapshotWriter, verifyInTurns } from '../../src/log/snapshot-file.js';
import { batchOf, makeDirectory, zstd } from './batches.js';

type Entry = [offset: number, text: string];

function write(
  directory: string,
  endOffset: number,
  entries: readonly Entry[],
  disk: Disk = nodeDisk,
): string {
  const writer = new SnapshotWriter(disk, directory, endOffset, zstd);
  for (const [offset, text] of entries) writer.add(offset, Buffer.from(text));
  writer.commit(1_764_040_000_000);
  return join(directory, fileName(endOffset, 'snapshot'));
}

function read(path: string): Entry[] {
  const entries: Entry[] = [];
  readSnapshot(nodeDisk, path, zstd, ({ offset, buffer, start, end }) => {
    entries.push([offset, buffer.toString('utf8', start, end)]);
  });
  return entries;
}

function refusal(path: string): GomqError {
  try {
    readSnapshot(nodeDisk, path, zstd, () => assert.fail('a record came out'));
  } catch (error) {
    assert.ok(error instanceof GomqError, String((error as Error).stack));
    assert.equal(error.code, 'DATA_DAMAGED');
    assert.ok(error.message.startsWith(`${path} is damaged at position `), error.message);
    return error;
  }
  assert.fail('it was not refused');
}

describe('a snapshot', () => {
  it('gives back its records in the order in which they were added', () => {
    const entries: Entry[] = Array.from({ length: 30_000 }, (_, i) => [
      (i * 7919) % 30_011,
      `record ${i} ${'x'.repeat(i % 50)}`,
    ]);
    entries.push([0, ''], [0, 'twice'], [30_011, 'at its end']);
    const directory = makeDirectory();
    const path = write(directory, 30_011, entries);
    assert.deepEqual(read(path), entries);
    assert.deepEqual(
      readSnapshot(nodeDisk, path, zstd, () => undefined),
      { endOffset: 30_011, timestampMs: 1_764_040_000_000 },
    );
    assert.deepEqual(readdirSync(directory), [fileName(30_011, 'snapshot')]);
  });

  it('may be empty', () => assert.deepEqual(read(write(makeDirectory(), 5, [])), []));

  it('takes a record larger than a batch, and small ones around it', () => {
    const entries: Entry[] = [
      [1, 'a'],
      [2, 'b'.repeat(5_000_000)],
      [3, 'c'],
    ];
    assert.deepEqual(read(write(makeDirectory(), 5, entries)), entries);
  });

  it('is listed once it is complete, newest first', () => {
    const directory = makeDirectory();
    const old = write(directory, 9, []);
    const draft = new SnapshotWriter(nodeDisk, directory, 30, zstd);
    const young = write(directory, 10, []);
    const listed = [
      { path: young, endOffset: 10 },
      { path: old, endOffset: 9 },
    ];
    assert.deepEqual(listSnapshots(nodeDisk, directory), listed);
    draft.abort();
    draft.abort();
    assert.deepEqual(readdirSync(directory).length, 2);
  });

  it('is begun anew where a draft was left', () => {
    const directory = makeDirectory({
      [`${fileName(5, 'snapshot')}.tmp`]: Buffer.from(
        'left behind, and longer than the whole snapshot'.repeat(99),
      ),
    });
    assert.deepEqual(read(write(directory, 5, [[1, 'a']])), [[1, 'a']]);
  });

  it('has its name only when it is on disk, and is put there bit by bit', () => {
    const events: string[] = [];
    const disk: Disk = {
      ...nodeDisk,
      open: (path, mode) => {
        const file = nodeDisk.open(path, mode);
        return new Proxy(file, {
          get: (target, name) => {
            if (name === 'write' || name === 'sync') events.push(name);
            const value = Reflect.get(target, name, target) as unknown;
            return typeof value === 'function' ? value.bind(target) : value;
          },
        });
      },
      rename: (from, to) => {
        events.push('rename');
        nodeDisk.rename(from, to);
      },
      syncDirectory: (path) => {
        events.push('syncDirectory');
        nodeDisk.syncDirectory(path);
      },
    };
    write(
      makeDirectory(),
      5,
      [
        [1, 'a'.repeat(9_000_000)],
        [2, 'b'],
      ],
      disk,
    );
    assert.deepEqual(events, ['write', 'sync', 'write', 'write', 'sync', 'rename', 'syncDirectory']);
  });

  it('cannot hold a record from behind its end', () => {
    const writer = new SnapshotWriter(nodeDisk, makeDirectory(), 5, zstd);
    assert.throws(() => writer.add(6, Buffer.alloc(1)), { code: 'INTERNAL' });
    writer.abort();
  });

  it('that has come from elsewhere is read in turns with others, until nobody wants to know', async () => {
    const entries = Array.from({ length: 40 }, (_, i): Entry => [i, `${i}`.repeat(100_000)]);
    const path = write(makeDirectory(), 300, entries);
    let turns = 0;
    let isDone = false;
    const take = (): void => {
      turns++;
      if (!isDone) setImmediate(take);
    };
    take();
    const verified = verifyInTurns(path, 300, zstd, new AbortController().signal);
    assert.deepEqual(await verified, { endOffset: 300, timestampMs: 1_764_040_000_000 });
    isDone = true;
    assert.ok(turns > entries.length, `${turns} turns`);
    const abort = new AbortController();
    const unwanted = verifyInTurns(path, 300, zstd, abort.signal);
    abort.abort();
    await assert.rejects(unwanted, { name: 'AbortError' });
  });

  it('that is not there is unreadable', () => {
    const path = join(makeDirectory(), fileName(1, 'snapshot'));
    assert.throws(() => read(path), { code: 'DATA_UNREADABLE' });
  });
});

/** What is wrong with a file that has come under another name, which is to end before 300. */
async function damageOf(bytes: Buffer): Promise<string | undefined> {
  const path = join(makeDirectory({ incoming: bytes }), 'incoming');
  const found = await verifyInTurns(path, 300, zstd, new AbortController().signal);
  return 'damage' in found ? `at position ${found.position}: ${found.damage}` : undefined;
}

describe('damage in a snapshot', () => {
  const directory = makeDirectory();
  const path = write(
    directory,
    300,
    Array.from({ length: 40 }, (_, i): Entry => [i, `record ${i}`]),
  );
  const good = readFileSync(path);

  it('is noticed whatever bit is flipped, before a record comes out', () => {
    for (let bit = 0; bit < good.length * 8; bit++) {
      const bytes = Buffer.from(good);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      writeFileSync(path, bytes);
      refusal(path);
    }
  });

  it('is noticed wherever it is cut', () => {
    for (let length = 0; length < good.length; length++) {
      writeFileSync(path, good.subarray(0, length));
      refusal(path);
    }
  });

  const others: [string, () => Buffer, RegExp][] = [
    ['something behind its end', () => Buffer.concat([good, Buffer.alloc(1)]), /more follows its end/],
    [
      'the end of another snapshot',
      () => readFileSync(write(directory, 200, [])),
      /it ends before offset 200/,
    ],
    ['a batch of the log', () => batchOf(0, 2), /a batch of the log/],
    [
      'what is left without a batch',
      () => {
        const length = readFileSync(write(directory, 200, [[1, 'lost']])).length;
        const end = readFileSync(write(directory, 100, [])).length;
        return readFileSync(write(directory, 100, [[1, 'lost']])).subarray(length - end);
      },
      /at position 0: the batch of position \d+$/,
    ],
  ];
  for (const [what, bytes, pattern] of others) {
    it(`is ${what}`, () => {
      writeFileSync(path, bytes());
      assert.match(refusal(path).message, pattern);
    });

    it(`is ${what}, in one that has come from elsewhere too`, async () => {
      assert.match((await damageOf(bytes())) ?? 'nothing', pattern);
    });
  }

  it('is noticed in whatever byte of one that has come from elsewhere', async () => {
    assert.equal(await damageOf(good), undefined);
    for (let at = 0; at < good.length; at++) {
      const bytes = Buffer.from(good);
      bytes[at]! ^= 1 << (at & 7);
      assert.notEqual(await damageOf(bytes), undefined, `byte ${at}`);
    }
  });

  it('is noticed wherever one is cut that has come from elsewhere', async () => {
    for (let length = 0; length < good.length; length++) {
      assert.notEqual(await damageOf(good.subarray(0, length)), undefined, `${length} bytes`);
    }
  });
});
