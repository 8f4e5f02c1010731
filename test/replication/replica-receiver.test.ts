// What a member refuses of its leader, over a real link and with a real log.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { GomqError } from '../../src/core/errors.js';
import { encodeBatch } from '../../src/log/batch-codec.js';
import { BatchFlag } from '../../src/log/batch-format.js';
import type { DiskLog } from '../../src/log/disk-log.js';
import type { EpochStart } from '../../src/log/epoch-history.js';
import type { FrameToLeader, FrameToMember } from '../../src/replication/frames.js';
import type { LinkToMember } from '../../src/replication/peer-link.js';
import { ReplicaReceiver } from '../../src/replication/replica-receiver.js';
import type { Replica } from '../../src/state/replica.js';
import { append, openRealLog } from '../log/disk-logs.js';
import { emptySnapshot } from '../log/snapshots.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { Arrivals, linkPair } from './peers.js';

const EPOCH = 2;
const RECORDS = 3;
const COMMITTED = 1;
const SNAPSHOT_END = 2;

interface Member {
  /** At its leader. */
  readonly leader: LinkToMember;
  readonly log: DiskLog;
  /** What it has sent. */
  readonly sent: Arrivals<FrameToLeader>;
  /** Why the link is over. */
  readonly closes: Arrivals<Error | undefined>;
  /** What the leader lacks. */
  readonly aheads: Arrivals<string>;
  readonly snapshots: number[];
  /** Which it has noted. */
  readonly histories: (readonly EpochStart[])[];
  /** Where a snapshot comes. */
  readonly folder: string;
}

/** A member with three records of epoch 1, the first of which is committed, has told where it is. */
async function follow(context: TestContext, mayBeginAnew: () => boolean = () => true): Promise<Member> {
  const { log } = await openRealLog(context, { committed: 0 });
  for (let i = 0; i < RECORDS; i++) append(log, 'a');
  await log.settled();
  log.advance(COMMITTED);
  const { leader, member } = await linkPair(context);
  const folder = temporaryFolder();
  const sent = new Arrivals<FrameToLeader>();
  const closes = new Arrivals<Error | undefined>();
  const aheads = new Arrivals<string>();
  const snapshots: number[] = [];
  const histories: (readonly EpochStart[])[] = [];
  leader.start({
    onFrame: (frame) => sent.add(frame),
    onDrain: () => undefined,
    onClose: () => undefined,
  });
  const receiver = new ReplicaReceiver({
    link: member,
    epoch: EPOCH,
    log,
    replica: { applied: 0, hold: () => undefined } as unknown as Replica,
    starts: [{ epoch: 1, start: 0 }],
    mayBeginAnew,
    incomingPath: join(folder, 'incoming'),
    nowMs: () => 0,
    onHistory: (starts) => histories.push(starts),
    onCaughtUp: () => undefined,
    onCut: () => assert.fail('nothing is cut'),
    onSnapshot: (endOffset) => snapshots.push(endOffset),
    onDiverged: (why) => assert.fail(why),
    onAhead: (why) => aheads.add(why),
    onStatus: () => undefined,
    onClosed: (error) => closes.add(error),
  });
  context.after(() => receiver.close());
  receiver.start();
  assert.equal((await sent.next()).type, 'position');
  return { leader, log, sent, closes, aheads, snapshots, histories, folder };
}

const SNAPSHOT = emptySnapshot(SNAPSHOT_END);
const BEGIN = {
  type: 'snapshotBegin',
  epoch: EPOCH,
  endOffset: SNAPSHOT_END,
  bytes: SNAPSHOT.length,
  history: [{ epoch: 1, start: 0 }],
} as const;
const CHUNK: FrameToMember = { type: 'snapshotChunk', epoch: EPOCH, bytes: SNAPSHOT };
const END: FrameToMember = { type: 'snapshotEnd', epoch: EPOCH };
const RESUME = {
  type: 'resume',
  epoch: EPOCH,
  cut: RECORDS,
  highWatermark: RECORDS,
  logStart: 0,
  history: [{ epoch: 1, start: 0 }],
} as const;

/** The link is over, with these words. */
async function isRefused({ closes }: Member, why: RegExp): Promise<void> {
  const { code, message } = ((await closes.next()) ?? {}) as GomqError;
  assert.equal(code, 'PEER_PROTOCOL');
  assert.match(message, why);
}

async function until(isThere: () => boolean): Promise<void> {
  while (!isThere()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test('a member goes on with its log in the middle of no snapshot', async (context) => {
  const member = await follow(context);
  for (const frame of [BEGIN, RESUME, CHUNK, END]) member.leader.send(frame);
  await isRefused(member, /resume in the middle of a snapshot/);
  assert.equal(member.log.highWatermark, COMMITTED);
  assert.equal(member.sent.all.length, 1, 'nothing is acknowledged');
  await until(() => readdirSync(member.folder).length === 0);
  assert.deepEqual(member.snapshots, []);
});

test('a member that has committed more while a snapshot came does not give that up for it', async (context) => {
  const member = await follow(context);
  member.leader.send(BEGIN);
  member.leader.send(CHUNK);
  await until(() => readdirSync(member.folder).length === 1);
  member.log.advance(RECORDS);
  member.leader.send(END);
  assert.equal(
    await member.aheads.next(),
    `the leader's snapshot ends at ${SNAPSHOT_END}, and up to ${RECORDS} all is committed`,
  );
  await until(() => readdirSync(member.folder).length === 0);
  assert.deepEqual(member.snapshots, []);
});

test('a member that is in sync by the time that a snapshot has come keeps what it has', async (context) => {
  let mayBeginAnew = true;
  const member = await follow(context, () => mayBeginAnew);
  member.leader.send(BEGIN);
  member.leader.send(CHUNK);
  await until(() => readdirSync(member.folder).length === 1);
  mayBeginAnew = false;
  member.leader.send(END);
  await isRefused(member, /a snapshot, for a node that is in sync as far as it knows/);
  await until(() => readdirSync(member.folder).length === 0);
  assert.deepEqual(member.snapshots, []);
});

test('a snapshot ends once', async (context) => {
  const member = await follow(context);
  for (const frame of [BEGIN, CHUNK, END, END]) member.leader.send(frame);
  await isRefused(member, /a snapshot that ends twice/);
  assert.deepEqual(member.snapshots, []);
});

test('a member begins with a snapshot that ends where it may', async (context) => {
  const member = await follow(context);
  for (const frame of [BEGIN, CHUNK, END]) member.leader.send(frame);
  await until(() => member.snapshots.length > 0);
  assert.deepEqual(member.snapshots, [SNAPSHOT_END]);
  assert.deepEqual(readdirSync(member.folder), ['incoming']);
});

const HEADER = {
  flags: 0,
  epoch: EPOCH,
  baseOffset: RECORDS,
  lastOffset: RECORDS,
  timestampMs: 1,
  recordCount: 1,
};

function appending(changes: Partial<typeof HEADER>, payload: Buffer): FrameToMember {
  const batches = [{ bytes: encodeBatch(undefined, { ...HEADER, ...changes }, payload), topics: undefined }];
  return { type: 'append', epoch: EPOCH, highWatermark: RECORDS, logStart: 0, batches };
}

/** Empty records, each behind its length, and its offset in a snapshot. */
const emptyRecords = (count: number, prefixBytes: number) => Buffer.alloc(count * prefixBytes);

for (const { what, frame, why } of [
  {
    what: 'a batch of a snapshot, whose offsets may be any',
    frame: appending({ flags: BatchFlag.Snapshot, lastOffset: RECORDS + 5 }, emptyRecords(1, 12)),
    why: /a batch of a snapshot, where the log ends at 3/,
  },
  {
    what: 'the end of a snapshot',
    frame: appending({ flags: BatchFlag.Snapshot | BatchFlag.SnapshotEnd, recordCount: 0 }, Buffer.alloc(0)),
    why: /a batch of a snapshot, where the log ends at 3/,
  },
  {
    what: 'a batch with more records than offsets',
    frame: appending({ recordCount: 2 }, emptyRecords(2, 4)),
    why: /is damaged: 2 records from 3 to 3/,
  },
  {
    what: 'a batch with fewer records than offsets',
    frame: appending({ lastOffset: RECORDS + 1 }, emptyRecords(1, 4)),
    why: /is damaged: 1 records from 3 to 4/,
  },
]) {
  test(`a member does not keep ${what}`, async (context) => {
    const member = await follow(context);
    member.leader.send(RESUME);
    member.leader.send(frame);
    await isRefused(member, why);
    assert.equal(member.log.endOffset, RECORDS);
  });
}

test('a member keeps a batch that says of itself what is true', async (context) => {
  const member = await follow(context);
  member.leader.send(RESUME);
  member.leader.send(appending({ lastOffset: RECORDS + 1, recordCount: 2 }, emptyRecords(2, 4)));
  await until(() => member.log.keptOffset === RECORDS + 2);
});

for (const frame of [RESUME, BEGIN]) {
  test(`a member does not believe a history of epochs that have not begun, with ${frame.type}`, async (context) => {
    const member = await follow(context);
    const history = [
      { epoch: 1, start: 0 },
      { epoch: EPOCH + 1, start: 2 },
    ];
    member.leader.send({ ...frame, history });
    await isRefused(member, /a history with epoch 3 in epoch 2/);
    assert.deepEqual(member.histories, []);
  });
}
