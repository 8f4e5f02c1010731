import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runCommandLine } from '../../src/command-line.js';
import { BATCH_HEADER_BYTES, BatchFlag } from '../../src/log/batch-format.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { type Disk, nodeDisk } from '../../src/log/disk.js';
import { fileName } from '../../src/log/file-names.js';
import { runLogDump, runLogVerify } from '../../src/log/log-command.js';
import { rebuildIndex, recoverLog } from '../../src/log/recovery.js';
import { decodeIndex, encodeIndex, SegmentIndexBuilder } from '../../src/log/segment-index.js';
import { SnapshotWriter } from '../../src/log/snapshot-file.js';
import { type Finding, verifyLog } from '../../src/log/verify.js';
import {
  batchOf,
  failingReads,
  logName,
  makeDirectory,
  recordText,
  rememberingLogger,
  topicOf,
  without,
  zstd,
} from './batches.js';

/** Of the files with these base offsets. */
const segmentBytes = (...bases: number[]): number =>
  bases.reduce((sum, base) => sum + batchOf(base, 5).length + batchOf(base + 5, 5).length, 0);

/** Three segments of two batches of five records, two of them sealed, and a snapshot up to 20. */
function makeData(): string {
  const directory = makeDirectory();
  openDataDirectory(directory, { nodeId: 'a' }).release();
  for (const base of [0, 10, 20]) {
    writeFileSync(join(directory, logName(base)), Buffer.concat([batchOf(base, 5), batchOf(base + 5, 5)]));
  }
  for (const base of [0, 10])
    rebuildIndex(nodeDisk, directory, base, zstd, { logger: rememberingLogger(), topicOf });
  const snapshot = new SnapshotWriter(nodeDisk, directory, 20, zstd);
  for (let offset = 0; offset < 8; offset++) snapshot.add(offset, Buffer.from(recordText(offset)));
  snapshot.commit(5);
  return directory;
}

interface Outcome {
  exitCode: number;
  lines: string[];
  stderr: string;
}

async function gomq(...argv: string[]): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  const exitCode = await runCommandLine(argv, {
    env: {},
    start: async () => assert.fail('nothing is started'),
    stdout: (text) => {
      stdout += text;
    },
    stderr: (text) => {
      stderr += text;
    },
  });
  return { exitCode, lines: stdout.split('\n').slice(0, -1), stderr };
}

function flip(path: string, position: number): void {
  const bytes = readFileSync(path);
  bytes[position]! ^= 4;
  writeFileSync(path, bytes);
}

/** What is found, without the directory. */
function findings(directory: string, disk: Disk = nodeDisk): Finding[] {
  const found: Finding[] = [];
  const onFinding = (finding: Finding): void => {
    found.push({ ...finding, file: finding.file.slice(directory.length + 1) });
  };
  const report = verifyLog(directory, { disk, zstd, topicOf, onFinding });
  assert.equal(report.damaged, found.filter(({ kind }) => kind === 'damage').length);
  return found;
}

describe('gomq log verify', () => {
  it('says that nothing is damaged, beside the owner of the directory, and changes nothing', async () => {
    const directory = makeData();
    const owner = openDataDirectory(directory, { nodeId: 'a' });
    const { exitCode, lines, stderr } = await gomq('log', 'verify', directory);
    owner.release();
    const bytes = segmentBytes(0, 10, 20) + readFileSync(join(directory, fileName(20, 'snapshot'))).length;
    assert.deepEqual(lines, [
      `3 segments, 2 indexes, 1 snapshot, 8 batches, 38 records, ${bytes} bytes: no damage`,
    ]);
    assert.deepEqual([exitCode, stderr], [0, '']);
  });

  it('names each damaged batch with file, position and offsets, and goes on behind it', async () => {
    const directory = makeData();
    const [first, second] = [join(directory, logName(0)), join(directory, logName(10))];
    const half = batchOf(10, 5).length;
    flip(first, BATCH_HEADER_BYTES);
    flip(second, half + 20);
    const { exitCode, lines } = await gomq('log', 'verify', directory);
    assert.equal(exitCode, 1);
    assert.deepEqual(lines.slice(0, -1), [
      `${first}: damaged at position 0, offsets 0 to 4: payload CRC`,
      `${second}: damaged at position ${half}, offsets 15 to 19: header CRC`,
    ]);
    assert.match(
      lines.at(-1)!,
      /^3 segments, 2 indexes, 1 snapshot, 6 batches, 28 records, .*: 2 damaged places$/,
    );
  });

  it('prints JSON, one object a line', async () => {
    const directory = makeData();
    flip(join(directory, logName(0)), BATCH_HEADER_BYTES);
    const { lines } = await gomq('log', 'verify', '--json', directory);
    const objects = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    assert.deepEqual(objects[0], {
      kind: 'damage',
      file: join(directory, logName(0)),
      position: 0,
      what: 'payload CRC',
      fromOffset: 0,
      toOffset: 4,
    });
    const bytes = segmentBytes(0, 10, 20) + readFileSync(join(directory, fileName(20, 'snapshot'))).length;
    assert.deepEqual(objects[1], {
      kind: 'summary',
      segments: 3,
      indexes: 2,
      snapshots: 1,
      batches: 7,
      records: 33,
      bytes,
      damaged: 1,
    });
  });

  it('finds a flip of any bit of a segment, an index or a snapshot', () => {
    const directory = makeData();
    const half = batchOf(20, 5).length;
    for (const name of [logName(10), logName(20), fileName(0, 'index'), fileName(20, 'snapshot')]) {
      const path = join(directory, name);
      const good = readFileSync(path);
      for (let bit = 0; bit < good.length * 8; bit += 3) {
        const bytes = Buffer.from(good);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        writeFileSync(path, bytes);
        const found = findings(directory);
        // Only the last batch of all may be one that is being written.
        const kind = name === logName(20) && bit >> 3 >= half ? 'note' : 'damage';
        assert.deepEqual(
          found.map((finding) => [finding.kind, finding.file]),
          [[kind, name]],
          `bit ${bit} of ${name}`,
        );
      }
      writeFileSync(path, good);
    }
    assert.deepEqual(findings(directory), []);
  });

  it('takes the end of the last segment for what is being written, wherever it is cut', () => {
    const directory = makeData();
    const path = join(directory, logName(20));
    const good = readFileSync(path);
    const half = batchOf(20, 5).length;
    for (let bytes = good.length - 1; bytes >= 0; bytes--) {
      truncateSync(path, bytes);
      const found = findings(directory);
      const position = bytes >= half ? half : 0;
      if (bytes === position) {
        assert.deepEqual(found, []);
      } else {
        assert.equal(found.length, 1);
        assert.deepEqual(
          [found[0]!.kind, found[0]!.position, found[0]!.fromOffset],
          ['note', position, position === half ? 25 : 20],
        );
        assert.match(found[0]!.what, /^being written, or torn by a crash: /);
      }
    }
    writeFileSync(path, Buffer.concat([good, Buffer.alloc(100_000)]));
    assert.deepEqual(findings(directory), []);
  });

  it('looks twice at what looks torn while it is being written', () => {
    const directory = makeData();
    const path = join(directory, logName(20));
    const good = readFileSync(path);
    writeFileSync(path, Buffer.concat([good.subarray(0, 70), Buffer.alloc(good.length - 70)]));
    let reads = 0;
    const disk: Disk = {
      ...nodeDisk,
      open: (name, mode) => {
        const file = nodeDisk.open(name, mode);
        if (name !== path) return file;
        return {
          ...{ write: () => assert.fail(), sync: () => assert.fail(), truncate: () => assert.fail() },
          bytes: file.bytes,
          close: () => file.close(),
          read: (buffer, position) => {
            const count = file.read(buffer, position);
            // The broker finishes its batches right after the first look.
            if (reads++ === 0) writeFileSync(path, good);
            return count;
          },
        };
      },
    };
    assert.deepEqual(findings(directory, disk), []);
    assert.equal(reads, 2);
  });

  it('is not troubled by files that go while it looks', () => {
    const directory = makeData();
    const names = nodeDisk.list(directory);
    for (const name of [logName(0), fileName(0, 'index'), fileName(20, 'snapshot')])
      rmSync(join(directory, name));
    assert.deepEqual(findings(directory, { ...nodeDisk, list: () => names }), []);
  });

  const damages: [string, (directory: string) => void, Partial<Finding>][] = [
    [
      'a missing segment',
      (d) => rmSync(join(d, logName(10))),
      {
        file: logName(0),
        position: segmentBytes(0),
        what: 'the segment ends too early',
        fromOffset: 10,
        toOffset: 19,
      },
    ],
    [
      'a segment that lost its last batch',
      (d) => truncateSync(join(d, logName(10)), batchOf(10, 5).length),
      { file: logName(10), what: 'the segment ends too early', fromOffset: 15, toOffset: 19 },
    ],
    [
      'a segment that lost all',
      (d) => truncateSync(join(d, logName(10)), 0),
      { file: logName(10), position: 0, fromOffset: 10, toOffset: 19 },
    ],
    [
      'a segment torn before its end',
      (d) => truncateSync(join(d, logName(10)), segmentBytes(0) - 1),
      { file: logName(10), what: 'payload cut short', fromOffset: 15, toOffset: 19 },
    ],
    [
      'rubbish behind a segment',
      (d) => writeFileSync(join(d, logName(10)), 'x', { flag: 'a' }),
      { file: logName(10), position: segmentBytes(10), what: 'header cut short' },
    ],
    [
      'batches that are missing in the middle',
      (d) => writeFileSync(join(d, logName(10)), batchOf(15, 5)),
      { file: logName(10), position: 0, what: 'offsets are missing', fromOffset: 10, toOffset: 14 },
    ],
    [
      'a batch that is there twice',
      (d) =>
        writeFileSync(join(d, logName(10)), Buffer.concat([batchOf(10, 5), batchOf(10, 5), batchOf(15, 5)])),
      { file: logName(10), position: batchOf(10, 5).length, what: 'a batch from offset 10' },
    ],
    [
      'a segment that goes on too long',
      (d) => writeFileSync(join(d, logName(10)), batchOf(20, 2), { flag: 'a' }),
      { file: logName(10), what: 'the next segment begins at offset 20 already' },
    ],
    [
      'an earlier epoch',
      (d) =>
        writeFileSync(join(d, logName(20)), Buffer.concat([batchOf(20, 5, { epoch: 0 }), batchOf(25, 5)])),
      { file: logName(20), position: 0, what: 'epoch 0 after 1' },
    ],
  ];
  for (const [what, change, expected] of damages) {
    it(`finds ${what}`, () => {
      const directory = makeData();
      change(directory);
      const found = findings(directory).filter(({ file }) => file.endsWith('.log'));
      const { file, position, what: words, fromOffset, toOffset } = found[0]!;
      const seen: Partial<Finding> = {
        file,
        position,
        what: words,
        fromOffset,
        toOffset,
      } as Partial<Finding>;
      for (const [name, value] of Object.entries(expected))
        assert.equal(seen[name as keyof Finding], value, JSON.stringify(found));
    });
  }

  it('tells of every file that cannot be read, once, and reads the others', () => {
    const directory = makeData();
    flip(join(directory, logName(20)), BATCH_HEADER_BYTES + 3);
    const known = findings(directory);
    assert.equal(known.length, 1);
    const names = [logName(0), logName(10), fileName(0, 'index'), fileName(20, 'snapshot')];
    for (const name of names) {
      for (const operation of ['open', 'read'] as const) {
        const disk = failingReads(join(directory, name), operation);
        const found = findings(directory, disk);
        assert.deepEqual(
          found.filter(({ file }) => file !== name),
          known,
          `${operation} of ${name}`,
        );
        const own = found.filter(({ file }) => file === name);
        assert.deepEqual(
          own.map(({ kind, position }) => [kind, position]),
          [['damage', 0]],
        );
        assert.match(own[0]!.what, /EIO: i\/o error/);
      }
    }
  });

  it('finds a snapshot that ends behind the log, and an index without its segment', () => {
    const directory = makeData();
    writeFileSync(
      join(directory, fileName(30, 'index')),
      readFileSync(join(directory, fileName(10, 'index'))),
    );
    rmSync(join(directory, logName(20)));
    rmSync(join(directory, logName(10)));
    const found = findings(directory);
    assert.deepEqual(
      found.map(({ file, what }) => [file, what]),
      [
        [fileName(10, 'index'), 'its segment is missing'],
        [fileName(30, 'index'), 'its segment is missing'],
        [fileName(20, 'snapshot'), 'the log ends before offset 10 already'],
      ],
    );
  });

  it('finds a log that does not begin at 0 where no snapshot has the state before it', async () => {
    const directory = makeData();
    for (const name of [logName(0), fileName(0, 'index'), fileName(10, 'index')])
      rmSync(join(directory, name));
    rebuildIndex(nodeDisk, directory, 10, zstd, { logger: rememberingLogger(), topicOf });
    assert.deepEqual(findings(directory), [], 'a snapshot up to 20 is there');
    const lost = {
      kind: 'damage',
      file: logName(10),
      position: 0,
      what: 'the log begins here, and no snapshot of offset 10 or later can be used: the state before it is lost',
      fromOffset: 0,
      toOffset: 9,
    };
    const snapshot = join(directory, fileName(20, 'snapshot'));
    flip(snapshot, 20);
    assert.deepEqual(findings(directory).slice(1), [lost]);
    const names = nodeDisk.list(directory);
    rmSync(snapshot);
    assert.deepEqual(findings(directory), [lost]);
    const { exitCode, lines } = await gomq('log', 'verify', directory);
    assert.equal(exitCode, 1);
    assert.equal(
      lines[0],
      `${join(directory, logName(10))}: damaged at position 0, offsets 0 to 9: ${lost.what}`,
    );
    assert.deepEqual(findings(directory, { ...nodeDisk, list: () => names }), [], 'it has just gone');
    new SnapshotWriter(nodeDisk, directory, 9, zstd).commit(5);
    assert.deepEqual(findings(directory), [lost], 'a snapshot up to 9 is too early');
    new SnapshotWriter(nodeDisk, directory, 10, zstd).commit(5);
    assert.deepEqual(findings(directory), []);
  });

  it('finds an index that is of something else or wrong about a batch, and notes one that is missing', () => {
    const directory = makeData();
    const path = join(directory, fileName(10, 'index'));
    const good = without(decodeIndex(readFileSync(path)));
    writeFileSync(path, readFileSync(join(directory, fileName(0, 'index'))));
    assert.match(findings(directory)[0]!.what, /it is about 2 batches from offset 0 to 10/);
    const wrong = new SegmentIndexBuilder(10);
    for (let i = 0; i < good.batchCount; i++) {
      const storedBytes = good.batchBytes(i) - BATCH_HEADER_BYTES;
      const header = {
        codec: 0,
        flags: good.flags(i),
        epoch: 1,
        baseOffset: good.base(i),
        lastOffset: good.end(i) - 1,
        timestampMs: good.timestampMs(i),
        recordCount: 5,
        uncompressedBytes: storedBytes,
        storedBytes,
      } as const;
      wrong.add({ position: good.position(i), header, topics: ['sensors/1'] });
    }
    writeFileSync(path, encodeIndex(wrong));
    assert.match(findings(directory)[0]!.what, /it is wrong about the batch at position 0/);
    rmSync(path);
    assert.deepEqual(
      findings(directory).map(({ kind, file }) => [kind, file]),
      [['note', fileName(10, 'index')]],
    );
  });

  it('tells of node.json and of a failed fsync, and reads the rest', async () => {
    const directory = makeData();
    const owner = openDataDirectory(directory, { nodeId: 'a' });
    owner.markSuspect({ segment: 20, position: 77 });
    owner.release();
    const noted = await gomq('log', 'verify', directory);
    assert.equal(noted.exitCode, 0);
    assert.equal(
      noted.lines[0],
      `${join(directory, logName(20))}: at position 77: an fsync failed here; the next start cuts off what follows`,
    );
    flip(join(directory, 'node.json'), 30);
    const damaged = await gomq('log', 'verify', directory);
    assert.equal(damaged.exitCode, 1);
    assert.match(damaged.lines[0]!, /node\.json is damaged: its checksum is wrong/);
    assert.match(damaged.lines[1]!, /^3 segments.*: 1 damaged place$/);
  });

  it('finds damage in whatever recovery refuses', () => {
    const directory = makeData();
    const path = join(directory, logName(20));
    const good = readFileSync(path);
    for (let position = 0; position < good.length; position++) {
      flip(path, position);
      let isRefused = false;
      const copy = readFileSync(path);
      try {
        recoverLog(nodeDisk, directory, zstd, { logger: rememberingLogger(), topicOf });
      } catch {
        isRefused = true;
      }
      writeFileSync(path, copy);
      assert.equal(
        findings(directory).some(({ kind }) => kind === 'damage'),
        isRefused,
        `position ${position}`,
      );
      writeFileSync(path, good);
    }
  });

  it('finds damage in a last batch that no crash can have written', () => {
    const directory = makeData();
    const path = join(directory, logName(20));
    for (const batch of [batchOf(30, 1, { epoch: 0 }), batchOf(25, 1), batchOf(31, 1)]) {
      const good = readFileSync(path);
      writeFileSync(path, batch, { flag: 'a' });
      assert.throws(() => recoverLog(nodeDisk, directory, zstd, { logger: rememberingLogger(), topicOf }));
      assert.deepEqual(
        findings(directory).map(({ kind, position }) => [kind, position]),
        [['damage', good.length]],
      );
      writeFileSync(path, good);
    }
  });

  it('says what is wrong with the command', async () => {
    const missing = await gomq('log', 'verify', '/nowhere/at/all');
    assert.equal(missing.exitCode, 1);
    assert.match(
      missing.stderr,
      /^gomq: cannot use the data directory \/nowhere\/at\/all: there is no such directory\n/,
    );
    const empty = await gomq('log', 'verify', makeDirectory());
    assert.equal(empty.exitCode, 1);
    assert.match(empty.stderr, /is not a data directory: it has no node\.json/);
    for (const argv of [
      ['log', 'verify'],
      ['log', 'what'],
      ['log', 'dump', 'x', '--from', '-1'],
      ['log', 'dump', 'x', '--limit', '1.5'],
    ]) {
      assert.equal((await gomq(...argv)).exitCode, 2, argv.join(' '));
    }
  });
});

describe('gomq log dump', () => {
  const offsets = (lines: string[]): number[] =>
    lines.map((line) => (JSON.parse(line) as { offset: number }).offset);

  it('prints each record as JSON', async () => {
    const directory = makeData();
    const { exitCode, lines, stderr } = await gomq('log', 'dump', directory);
    assert.deepEqual([exitCode, stderr, lines.length], [0, '', 30]);
    const { offset, time, epoch } = JSON.parse(lines[7]!) as Record<string, unknown>;
    assert.deepEqual([offset, time, epoch], [7, '1970-01-01T00:00:01.005Z', 1]);
    assert.deepEqual(
      offsets(lines),
      Array.from({ length: 30 }, (_, i) => i),
    );
  });

  it('begins at --from and ends after --limit', async () => {
    const directory = makeData();
    const dump = async (...flags: string[]): Promise<number[]> =>
      offsets((await gomq('log', 'dump', directory, ...flags)).lines);
    assert.deepEqual(await dump('--from', '13', '--limit', '4'), [13, 14, 15, 16]);
    assert.deepEqual(await dump('--from', '29'), [29]);
    assert.deepEqual(await dump('--from', '30'), []);
    assert.deepEqual(await dump('--limit', '0'), []);
    rmSync(join(directory, logName(0)));
    assert.deepEqual(await dump('--limit', '2'), [10, 11]);
  });

  it('tells damage on stderr, and goes on behind it', async () => {
    const directory = makeData();
    flip(join(directory, logName(10)), 70);
    const { exitCode, lines, stderr } = await gomq('log', 'dump', directory, '--from', '8');
    assert.equal(exitCode, 1);
    assert.deepEqual(offsets(lines), [8, 9, ...Array.from({ length: 15 }, (_, i) => 15 + i)]);
    assert.equal(
      stderr,
      `gomq: ${join(directory, logName(10))}: damaged at position 0, offsets 10 to 14: payload CRC\n`,
    );
    // Not looked at where nobody asks for it.
    assert.equal((await gomq('log', 'dump', directory, '--from', '15')).exitCode, 0);
  });

  it('prints a time that has no date as a number', async () => {
    const directory = makeData();
    writeFileSync(join(directory, logName(20)), batchOf(20, 1, { timestampMs: Number.MAX_SAFE_INTEGER }));
    const { lines } = await gomq('log', 'dump', directory, '--from', '20');
    assert.equal((JSON.parse(lines[0]!) as { time: unknown }).time, Number.MAX_SAFE_INTEGER);
  });

  it('shows what the record is to whoever knows, and its bytes to others', async () => {
    let text = '';
    const stdout = new Writable({
      write: (chunk, _encoding, done) => {
        text += String(chunk);
        done();
      },
    });
    const directory = makeData();
    const host = { stdout, stderr: stdout, monotonicMs: () => 0 };
    await runLogDump(directory, { limit: 1, describeRecord: () => ({ topic: 'a' }) }, host);
    await runLogDump(directory, { limit: 1 }, host);
    const record = recordText(0);
    const bytes = {
      type: record.charCodeAt(0),
      length: record.length,
      base64: Buffer.from(record).toString('base64'),
    };
    const place = { offset: 0, time: '1970-01-01T00:00:01.000Z', epoch: 1 };
    assert.deepEqual(
      text
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as unknown),
      [
        { ...place, topic: 'a' },
        { ...place, ...bytes },
      ],
    );
  });

  it('waits for a slow reader', async () => {
    const directory = makeData();
    const many = Buffer.concat(Array.from({ length: 400 }, (_, i) => batchOf(20 + i * 50, 50)));
    writeFileSync(join(directory, logName(20)), many);
    let waitingMax = 0;
    let text = '';
    const stdout = new Writable({
      highWaterMark: 200,
      write: (chunk, _encoding, done) => {
        text += String(chunk);
        waitingMax = Math.max(waitingMax, stdout.writableLength);
        setImmediate(done);
      },
    });
    assert.equal(await runLogDump(directory, {}, { stdout, stderr: stdout, monotonicMs: () => 0 }), 0);
    assert.deepEqual(
      offsets(text.split('\n').slice(0, -1)),
      Array.from({ length: 20_020 }, (_, i) => i),
    );
    assert.ok(waitingMax < 50_000, `${waitingMax} bytes waited`);
  });

  it('ends quietly when nobody reads any more', async () => {
    const directory = makeData();
    const many = Buffer.concat(
      Array.from({ length: 2000 }, (_, i) => batchOf(20 + i * 50, 50, { padding: 30 })),
    );
    writeFileSync(join(directory, logName(20)), many);
    const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
    const child = spawn(process.execPath, ['--import', 'tsx', main, 'log', 'dump', directory], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (chunk) => {
      stderr += String(chunk);
    });
    const exit = once(child, 'exit');
    for await (const line of createInterface({ input: child.stdout })) {
      assert.ok(line.startsWith('{"offset":0,'));
      break;
    }
    child.stdout.destroy();
    assert.deepEqual([(await exit)[0], stderr], [0, '']);
  });
});

it('a progress bar is drawn on a terminal, and gone at the end', async () => {
  const directory = makeData();
  writeFileSync(
    join(directory, logName(20)),
    Buffer.concat(Array.from({ length: 200 }, (_, i) => batchOf(20 + i, 1, { flags: BatchFlag.State }))),
  );
  let nowMs = 0;
  let drawn = '';
  let printed = '';
  const collect = (take: (text: string) => void): Writable =>
    new Writable({
      write: (chunk, _encoding, done) => {
        take(String(chunk));
        done();
      },
    });
  const terminal = Object.assign(
    collect((text) => {
      drawn += text;
    }),
    { isTTY: true, columns: 60 },
  );
  const stdout = collect((text) => {
    printed += text;
  });
  const monotonicMs = (): number => {
    nowMs += 10;
    return nowMs;
  };
  assert.equal(await runLogVerify(directory, {}, { stdout, stderr: terminal, monotonicMs }), 0);
  assert.ok(drawn.startsWith('\r\u001b[K'));
  assert.match(drawn, / +\d+% \[[#-]{30}\] 0 of 0 MB\r/);
  assert.ok(drawn.endsWith('\r\u001b[K'));
  assert.match(printed, /no damage/);
  drawn = '';
  nowMs = 0;
  await runLogDump(directory, {}, { stdout, stderr: terminal, monotonicMs });
  assert.match(drawn, /%/);
  drawn = '';
  await runLogDump(directory, {}, { stdout: terminal, stderr: terminal, monotonicMs });
  assert.doesNotMatch(drawn, /%/);
});
