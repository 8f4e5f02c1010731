// Whatever happens to the files of a log, what comes out of it is what went in, or nothing: by seed, over all files and kinds of damage.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { GomqError } from '../../src/core/errors.js';
import { BatchFlag } from '../../src/log/batch-format.js';
import { BatchReader } from '../../src/log/batch-reader.js';
import { nodeDisk } from '../../src/log/disk.js';
import { dumpLog } from '../../src/log/dump.js';
import { type RecoveredLog, rebuildIndex, recoverLog } from '../../src/log/recovery.js';
import { walkSegment } from '../../src/log/segment-walk.js';
import { listSnapshots, readSnapshot, SnapshotWriter } from '../../src/log/snapshot-file.js';
import { verifyLog } from '../../src/log/verify.js';
import { check } from '../packet/oracle.js';
import { batchOf, logName, makeDirectory, recordText, rememberingLogger, topicOf, zstd } from './batches.js';

const RECORDS = 60;

/** Three segments of batches of one to eight records, some of which did not wait for those before them. */
function makeFiles(): Map<string, Buffer> {
  const directory = makeDirectory();
  let offset = 0;
  for (let segment = 0; segment < 3; segment++) {
    const base = offset;
    const batches: Buffer[] = [];
    while (offset < base + RECORDS / 3) {
      const count = Math.min(1 + (offset % 8), base + RECORDS / 3 - offset);
      const flags = batches.length === 0 || offset % 3 === 0 ? BatchFlag.AfterSync : BatchFlag.State;
      batches.push(
        batchOf(offset, count, { flags, epoch: 1 + segment, padding: offset % 5 === 0 ? 300 : 0 }),
      );
      offset += count;
    }
    writeFileSync(join(directory, logName(base)), Buffer.concat(batches));
    if (segment < 2) rebuildIndex(nodeDisk, directory, base, zstd, { logger: rememberingLogger(), topicOf });
  }
  const snapshot = new SnapshotWriter(nodeDisk, directory, 40, zstd);
  for (let i = 0; i < 40; i++) snapshot.add(i, Buffer.from(textOf(i)));
  snapshot.commit(1);
  return new Map(readdirSync(directory).map((name) => [name, readFileSync(join(directory, name))]));
}

/** What a record begins with: some are padded behind it. */
const textOf = (offset: number): string => recordText(offset);

type Damage = (bytes: Buffer) => Buffer | undefined;

const at = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const damage: fc.Arbitrary<Damage> = fc.oneof(
  fc.tuple(at, fc.nat(7)).map(([where, bit]) => (bytes: Buffer) => {
    if (bytes.length > 0) bytes[Math.floor(where * bytes.length)]! ^= 1 << bit;
    return bytes;
  }),
  fc
    .tuple(at, fc.nat(300), fc.constantFrom(0, 0, 0x47, 0xff))
    .map(([where, length, byte]) => (bytes: Buffer) => {
      const start = Math.floor(where * bytes.length);
      return bytes.fill(byte, start, Math.min(bytes.length, start + length));
    }),
  at.map((where) => (bytes: Buffer) => bytes.subarray(0, Math.floor(where * bytes.length))),
  fc.uint8Array({ maxLength: 200 }).map((tail) => (bytes: Buffer) => Buffer.concat([bytes, tail])),
  // Part of the file again, in another place: valid batches where they do not belong.
  fc.tuple(at, at, at).map(([from, to, where]) => (bytes: Buffer) => {
    const part = bytes.subarray(Math.floor(from * bytes.length), Math.floor(to * bytes.length));
    const start = Math.floor(where * bytes.length);
    return Buffer.concat([bytes.subarray(0, start), part, bytes.subarray(start)]);
  }),
  fc.tuple(at, fc.nat(400)).map(([where, length]) => (bytes: Buffer) => {
    const start = Math.floor(where * bytes.length);
    return Buffer.concat([bytes.subarray(0, start), bytes.subarray(start + length)]);
  }),
  fc.constant(() => undefined),
);

function recover(directory: string): { log: RecoveredLog; warnings: number } | undefined {
  const logger = rememberingLogger();
  try {
    const log = recoverLog(nodeDisk, directory, zstd, { logger, topicOf });
    return { log, warnings: logger.lines.filter(({ level }) => level === 'warn').length };
  } catch (error) {
    assert.ok(error instanceof GomqError, String((error as Error).stack));
    assert.equal(error.code, 'DATA_DAMAGED');
    return undefined;
  }
}

/** Offsets of all records that can be read, each of which is checked to be the one that was written. */
function readAll(directory: string): number[] {
  const offsets: number[] = [];
  for (const { records } of dumpLog(directory, {
    disk: nodeDisk,
    zstd,
    fromOffset: 0,
    onFinding: () => undefined,
  })) {
    for (const { offset, buffer, start, end } of records) {
      assert.ok(buffer.toString('utf8', start, end).startsWith(textOf(offset)), `record ${offset}`);
      assert.ok(offsets.length === 0 || offset > offsets.at(-1)!, `record ${offset} after ${offsets.at(-1)}`);
      offsets.push(offset);
    }
  }
  return offsets;
}

function countDamage(directory: string): number {
  return verifyLog(directory, { disk: nodeDisk, zstd, topicOf, onFinding: () => undefined }).damaged;
}

describe('a log whose files were damaged', () => {
  const files = makeFiles();

  it('is whole before', () => {
    const directory = makeDirectory(Object.fromEntries(files));
    assert.equal(countDamage(directory), 0);
    assert.equal(recover(directory)?.log.endOffset, RECORDS);
    assert.equal(readAll(directory).length, RECORDS);
  });

  it('gives what was written or nothing, and is the same at the next start', (context) => {
    const name = fc.constantFrom(...files.keys());
    const property = fc.property(
      fc.array(fc.tuple(name, damage), { minLength: 1, maxLength: 3 }),
      (damages) => {
        const damaged = new Map([...files].map(([file, bytes]) => [file, Buffer.from(bytes)]));
        for (const [file, change] of damages) {
          const bytes = damaged.get(file);
          if (bytes === undefined) continue;
          const after = change(bytes);
          if (after === undefined) damaged.delete(file);
          else damaged.set(file, Buffer.from(after));
        }
        const directory = makeDirectory(Object.fromEntries(damaged));
        readAll(directory);
        for (const { path } of listSnapshots(nodeDisk, directory)) {
          let next = 0;
          try {
            readSnapshot(nodeDisk, path, zstd, ({ offset, buffer, start, end }) => {
              assert.equal(offset, next++);
              assert.equal(buffer.toString('utf8', start, end), textOf(offset));
            });
            assert.equal(next, 40);
          } catch (error) {
            assert.ok(
              error instanceof GomqError && error.code === 'DATA_DAMAGED',
              String((error as Error).stack),
            );
            assert.equal(next, 0);
          }
        }
        const damageBefore = countDamage(directory);
        const first = recover(directory);
        if (first === undefined) {
          assert.ok(damageBefore > 0, 'what is refused is damage');
          assert.equal(recover(directory), undefined);
        } else {
          const offsets = readAll(directory);
          const { startOffset, endOffset } = first.log;
          // Damage inside a sealed segment is met by whoever reads it.
          if (countDamage(directory) === 0) {
            assert.deepEqual(
              offsets,
              Array.from({ length: endOffset - startOffset }, (_, i) => startOffset + i),
            );
          }
          const second = recover(directory);
          assert.equal(second?.log.endOffset, endOffset);
          assert.equal(second.warnings, 0);
        }
        rmSync(directory, { recursive: true });
      },
    );
    check(context, property, Number(process.env.RUNS ?? 300));
  });
});

it('a file that becomes shorter while it is read ends there', () => {
  const bytes = Buffer.concat([batchOf(0, 5), batchOf(5, 5)]);
  for (let shown = 0; shown <= bytes.length; shown++) {
    for (const later of [0, 30, batchOf(0, 5).length, shown]) {
      let reads = 0;
      const file = {
        write: () => assert.fail(),
        sync: () => assert.fail(),
        truncate: () => assert.fail(),
        close: () => undefined,
        bytes: bytes.length,
        read: (buffer: Uint8Array, position: number): number => {
          const end = reads++ === 0 ? shown : Math.min(shown, later);
          const part = bytes.subarray(Math.min(position, end), Math.min(end, position + buffer.length));
          buffer.set(part);
          return part.length;
        },
      };
      const reader = new BatchReader(file, bytes.length);
      const steps = [...walkSegment({ reader, zstd, baseOffset: 0, nextOffset: undefined, epochBefore: 0 })];
      assert.ok(steps.every(({ kind }) => kind !== 'damage'));
    }
  }
});
