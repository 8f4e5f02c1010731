// The log as a cluster uses it: kept is not committed, batches are handed from one log to another, and the end can be cut.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { checkBatch } from '../../src/log/batch-codec.js';
import { BatchFlag } from '../../src/log/batch-format.js';
import { cutLog } from '../../src/log/cut-log.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { nodeDisk } from '../../src/log/disk.js';
import { type DiskLog, type DiskLogOptions, openDiskLog } from '../../src/log/disk-log.js';
import { readCommitted, readMembership, writeCommitted, writeMembership } from '../../src/log/membership.js';
import type { EncodedBatch } from '../../src/log/stored-batches.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { batchOf } from './batches.js';
import { append, logOptions, range, readAll, SimulatedDirectory } from './disk-logs.js';
import { SimulatedDisk } from './simulated-disk.js';

async function open(
  context: TestContext,
  path: string,
  options: Partial<DiskLogOptions> = {},
): Promise<DiskLog> {
  const directory = openDataDirectory(path, { nodeId: 'gomq' });
  const log = await openDiskLog(
    logOptions(directory, undefined, { committed: 0, segmentBytes: 65_536, ...options }),
  );
  context.after(async () => {
    await log.close();
    directory.release();
  });
  return log;
}

test('what is kept is read when it is committed, and not before', async (context) => {
  const log = await open(context, join(temporaryFolder(), 'a'));
  const commits: [number, number][] = [];
  log.onCommit((from, to) => commits.push([from, to]));
  for (let i = 0; i < 10; i++) append(log, 't');
  await log.settled();
  assert.equal(log.keptOffset, 10);
  assert.equal(log.highWatermark, 0);
  assert.deepEqual((await readAll(log)).offsets, []);
  assert.equal(log.uncommittedBytes, 1000);
  log.advance(10);
  assert.deepEqual(commits, [[0, 10]]);
  assert.deepEqual((await readAll(log)).offsets, range(0, 10));
  assert.equal(log.uncommittedBytes, 0);
  append(log, 't');
  log.advance(1000);
  assert.equal(log.highWatermark, 10, 'never beyond what is kept here');
  await log.settled();
});

test('a member keeps the batches of its leader, whatever their size, and reads the same records', async (context) => {
  const folder = temporaryFolder();
  const leader = await open(context, join(folder, 'a'));
  const member = await open(context, join(folder, 'b'));
  const batches: EncodedBatch[] = [];
  leader.mirror((mirrored) => batches.push(...mirrored));
  leader.setEpoch(7);
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < 1 + (round % 7) * 9; i++) append(leader, `t/${i % 3}`, 20 + ((round * 37) % 900));
    await leader.settled();
  }
  for (const { bytes, topics, baseOffset, endOffset } of batches) {
    const header = checkBatch(bytes);
    assert.ok(!('damage' in header));
    assert.deepEqual([header.epoch, header.baseOffset, header.lastOffset + 1], [7, baseOffset, endOffset]);
    member.appendBatch(bytes, header, topics);
  }
  await member.settled();
  assert.equal(member.endOffset, leader.endOffset);
  assert.equal(member.epoch, 7);
  member.advance(member.endOffset);
  assert.deepEqual((await readAll(member)).offsets, range(0, leader.endOffset));
  const one = await readAll(member, 0, (topic) => topic === 't/2');
  assert.ok(
    one.offsets.length > 0 && one.offsets.length < leader.endOffset,
    'topics are known without opening batches',
  );
});

test('batches that are read from the disk are those that were handed out, but for one flag', async (context) => {
  const log = await open(context, join(temporaryFolder(), 'a'));
  const handedOut: EncodedBatch[] = [];
  log.mirror((batches) => handedOut.push(...batches));
  for (let round = 0; round < 40; round++) {
    for (let i = 0; i < 20; i++) append(log, 't', 300);
    await log.settled();
  }
  const read: EncodedBatch[] = [];
  while (true) {
    const batches = await log.readBatches(read.at(-1)?.endOffset ?? 0, 20_000, 4);
    assert.ok(batches !== undefined && batches.length <= 4);
    if (batches.length === 0) break;
    read.push(...batches);
  }
  assert.equal(read.length, handedOut.length);
  read.forEach(({ bytes, baseOffset, endOffset }, i) => {
    const there = checkBatch(bytes);
    const here = checkBatch(handedOut[i]!.bytes);
    assert.ok(!('damage' in there) && !('damage' in here));
    const { AfterSync } = BatchFlag;
    assert.deepEqual(
      { ...there, flags: there.flags | AfterSync },
      { ...here, flags: here.flags | AfterSync },
    );
    assert.deepEqual([baseOffset, endOffset], [handedOut[i]!.baseOffset, handedOut[i]!.endOffset]);
  });
});

test('a log that is cut at the end of any batch is the log up to there, and goes on', async () => {
  const folder = temporaryFolder();
  for (const share of [0, 0.1, 0.35, 0.5, 0.75, 0.99, 1]) {
    const path = join(folder, `${share}`);
    const directory = openDataDirectory(path, { nodeId: 'gomq' });
    const ends = [0];
    const options = (committed: number): DiskLogOptions =>
      logOptions(directory, undefined, { committed, segmentBytes: 65_536, compression: 'none' });
    const log = await openDiskLog(options(0));
    for (let round = 0; round < 50; round++) {
      for (let i = 0; i < 10; i++) append(log, 't', 700);
      await log.settled();
      ends.push(log.endOffset);
    }
    await log.close();
    const cut = ends[Math.floor(share * (ends.length - 1))]!;
    cutLog(nodeDisk, path, cut);
    const again = await openDiskLog(options(cut));
    assert.equal(again.endOffset, cut);
    assert.deepEqual((await readAll(again)).offsets, range(0, cut));
    append(again, 't', 700);
    await again.settled();
    again.advance(cut + 1);
    assert.deepEqual((await readAll(again)).offsets, range(0, cut + 1));
    await again.close();
    directory.release();
  }
});

const LAST_OF_FOUR = 46;

test('a member whose log is cut while it is open goes on with what another leader has, now and when it is opened again', async (context) => {
  const folder = temporaryFolder();
  const settings = { compression: 'none' } as const;
  const former = await open(context, join(folder, 'former'), settings);
  const batches = await lead(former, 'former', [
    { epoch: 4, rounds: LAST_OF_FOUR },
    { epoch: 5, rounds: 4 },
  ]);
  const outcomes = new Set<string>();
  // In an earlier segment, at the first batch of the last one, in the middle of an epoch, where one begins, before the last batch, nothing at all.
  for (const place of [3, ...range(batches.length - 25, batches.length + 1)]) {
    const cut = batches[place]?.baseOffset ?? former.endOffset;
    const path = join(folder, `at-${place}`);
    const directory = openDataDirectory(path, { nodeId: 'gomq' });
    const options = logOptions(directory, undefined, { committed: 0, segmentBytes: 65_536, ...settings });
    let member = await openDiskLog(options);
    take(member, batches);
    await member.settled();
    member.advance(cut - 5);
    const { baseOffset } = member.segments.active;
    const { storedBytes } = member;
    const bytesCut = await member.cut(cut);
    if (cut < baseOffset) {
      assert.equal(bytesCut, undefined);
      assert.deepEqual([member.endOffset, member.storedBytes], [former.endOffset, storedBytes]);
      outcomes.add('left alone');
    } else {
      assert.equal(bytesCut, storedBytes - member.storedBytes);
      assert.deepEqual(
        [member.endOffset, member.keptOffset, member.epoch],
        [cut, cut, place > LAST_OF_FOUR ? 5 : 4],
      );
      const next = await open(context, join(folder, `next-${place}`), settings);
      take(next, batches.slice(0, place));
      const after = await lead(next, 'next', [{ epoch: 6, rounds: 20 }]);
      take(member, after);
      await member.settled();
      member.advance(next.endOffset);
      assert.equal(member.uncommittedBytes, 0);
      const expected = { all: range(0, next.endOffset), next: range(cut, next.endOffset) };
      const read = async () => ({
        all: (await readAll(member)).offsets,
        next: (await readAll(member, 0, (topic) => topic === 'next')).offsets,
      });
      assert.deepEqual(await read(), expected);
      await member.close();
      member = await openDiskLog({ ...options, committed: next.endOffset });
      assert.equal(member.epoch, 6);
      assert.deepEqual(await read(), expected);
      outcomes.add(cut === baseOffset ? 'the whole segment' : 'a part of it');
    }
    await member.close();
    directory.release();
  }
  assert.deepEqual([...outcomes].sort(), ['a part of it', 'left alone', 'the whole segment']);
  assert.ok(
    former.segments.active.baseOffset < batches[LAST_OF_FOUR - 3]!.baseOffset,
    'both epochs are in the last segment',
  );
});

/** A leader appends in these epochs, a batch each round. */
async function lead(
  log: DiskLog,
  topic: string,
  epochs: readonly { readonly epoch: number; readonly rounds: number }[],
): Promise<EncodedBatch[]> {
  const batches: EncodedBatch[] = [];
  await log.settled();
  log.mirror((mirrored) => batches.push(...mirrored));
  for (const { epoch, rounds } of epochs) {
    log.setEpoch(epoch);
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < 10; i++) append(log, topic, 300);
      await log.settled();
    }
  }
  return batches;
}

function take(log: DiskLog, batches: readonly EncodedBatch[]): void {
  for (const { bytes, topics } of batches) {
    const header = checkBatch(bytes);
    assert.ok(!('damage' in header));
    log.appendBatch(bytes, header, topics);
  }
}

test('a log is cut below where it ended when it was opened, twice, and then led with', async () => {
  const directory = openDataDirectory(join(temporaryFolder(), 'a'), { nodeId: 'gomq' });
  const options = logOptions(directory, undefined, { committed: 0, segmentBytes: 65_536 });
  let log = await openDiskLog(options);
  for (let offset = 0; offset < 10; offset++) takeOne(log, batchOf(offset, 1, { epoch: offset < 5 ? 4 : 5 }));
  await log.settled();
  await log.close();
  log = await openDiskLog({ ...options, committed: 3 });
  for (const [end, epoch] of [
    [7, 5],
    [4, 4],
  ] as const) {
    await log.cut(end);
    assert.deepEqual([log.endOffset, log.keptOffset, log.epoch], [end, end, epoch]);
  }
  await assert.rejects(log.cut(2), /cut at 2, and committed up to 3/);
  takeOne(log, batchOf(4, 1, { epoch: 6 }));
  await log.settled();
  log.advance(5);
  assert.equal(log.uncommittedBytes, 0);
  log.setEpoch(7);
  append(log, 't');
  await log.settled();
  assert.equal(log.endOffset, 6);
  await log.close();
  log = await openDiskLog({ ...options, committed: 5 });
  assert.deepEqual([log.endOffset, log.epoch], [6, 7]);
  await log.close();
  directory.release();
});

test('a log of which all is cut begins again, in an earlier epoch too', async () => {
  const directory = openDataDirectory(join(temporaryFolder(), 'a'), { nodeId: 'gomq' });
  const options = logOptions(directory, undefined, { committed: 0, segmentBytes: 65_536 });
  let log = await openDiskLog(options);
  for (let offset = 0; offset < 10; offset++) takeOne(log, batchOf(offset, 1, { epoch: 4 }));
  await log.settled();
  const uncommittedBefore = log.uncommittedBytes;
  const bytesCut = await log.cut(0);
  assert.ok(bytesCut !== undefined && bytesCut > 0 && uncommittedBefore > 0);
  assert.deepEqual([log.endOffset, log.epoch, log.uncommittedBytes], [0, 1, 0]);
  takeOne(log, batchOf(0, 3, { epoch: 2 }));
  await log.settled();
  await log.close();
  log = await openDiskLog(options);
  assert.deepEqual([log.endOffset, log.epoch], [3, 2]);
  await log.close();
  directory.release();
});

for (const operation of ['truncate', 'sync'] as const) {
  test(`a cut whose ${operation} fails is no cut, and the end of the log`, async () => {
    const disk = new SimulatedDisk({ seed: 1 });
    const failures: string[] = [];
    const onFailure = (error: Error) => failures.push(error.message);
    const options = { committed: 0, segmentBytes: 65_536, onFailure };
    const log = await openDiskLog(logOptions(new SimulatedDirectory(), disk, options));
    for (let offset = 0; offset < 4; offset++) takeOne(log, batchOf(offset, 1));
    await log.settled();
    disk.fault = (one, path) => (one === operation && path.endsWith('.log') ? 'EIO' : undefined);
    await assert.rejects(log.cut(2), /EIO/);
    assert.equal(failures.length, 1);
    assert.equal(log.endOffset, 4);
    // As one who asks later finds it.
    await assert.rejects(log.cut(2), /EIO/);
    await log.close();
  });
}

function takeOne(log: DiskLog, bytes: Buffer): void {
  const header = checkBatch(bytes);
  assert.ok(!('damage' in header));
  log.appendBatch(bytes, header, undefined);
}

test('a directory remembers its cluster, and how far it was committed', () => {
  const path = join(temporaryFolder(), 'a');
  const directory = openDataDirectory(path, { nodeId: 'gomq' });
  assert.equal(readMembership(path), undefined);
  assert.equal(readCommitted(path), 0);
  const membership = { clusterId: 'c', epoch: 9, starts: [{ epoch: 9, start: 4 }], isSuspect: true };
  writeMembership(path, membership);
  writeCommitted(path, 2 ** 40);
  assert.deepEqual(readMembership(path), membership);
  assert.equal(readCommitted(path), 2 ** 40);
  const { incarnation } = directory;
  directory.renewIncarnation();
  assert.notEqual(directory.incarnation, incarnation);
  directory.release();
});
