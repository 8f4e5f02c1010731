// What a leader does for a member that lacks much: where its disk does not give that out another node leads if one is there, and nothing is tried
// without end; where it does not remember the epochs the member begins with a snapshot.
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { systemClock } from '../../src/core/clock.js';
import type { GomqError } from '../../src/core/errors.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { type Disk, nodeDisk } from '../../src/log/disk.js';
import { openDiskLog } from '../../src/log/disk-log.js';
import { EPOCHS_MAX, EpochHistory, type EpochStart } from '../../src/log/epoch-history.js';
import { fileName } from '../../src/log/file-names.js';
import type { FrameToLeader, FrameToMember } from '../../src/replication/frames.js';
import { Leadership } from '../../src/replication/leadership.js';
import type { LinkToMember, PeerLinkHandler } from '../../src/replication/peer-link.js';
import { append, type LogLine, listeningLogger, logOptions } from '../log/disk-logs.js';
import { emptySnapshot } from '../log/snapshots.js';
import { temporaryFolder } from '../support/temporary-folder.js';

const RECORDS = 1100;
const RECORD_BYTES = 250;
/** Long enough for what is done without end to be done many times. */
const QUIET_MS = 300;
const WAIT_MS_MAX = 20_000;

interface Setting {
  /** Names of files that the disk does not give out; none: the segment is gone. */
  readonly unreadable?: readonly string[];
  readonly isOtherThere?: boolean;
  readonly history?: EpochHistory;
  readonly snapshotEnd?: number;
  readonly snapshotBytes?: Buffer;
}

/** A leader of epoch 2 with a sealed segment that only the disk has. */
async function lead(context: TestContext, setting: Setting) {
  const { unreadable = ['nothing'], isOtherThere = false, snapshotEnd } = setting;
  const path = join(temporaryFolder(), 'a');
  const directory = openDataDirectory(path, { nodeId: 'a' });
  const lines: LogLine[] = [];
  let refuses = false;
  const disk: Disk = {
    ...nodeDisk,
    open(file, how) {
      if (refuses && how === 'read' && unreadable.some((name) => file.endsWith(name))) {
        throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
      }
      return nodeDisk.open(file, how);
    },
  };
  const logger = listeningLogger(lines);
  const options = { committed: 0, segmentBytes: 65_536, compression: 'none' as const, disk, logger };
  const written = await openDiskLog(logOptions(directory, undefined, options));
  for (let i = 0; i < RECORDS; i++) {
    append(written, 't', RECORD_BYTES);
    if (i % 10 === 0) await written.settled();
  }
  await written.settled();
  await written.close();
  // No index of a sealed segment is in memory now.
  const log = await openDiskLog(logOptions(directory, undefined, options));
  const snapshot = join(path, fileName(snapshotEnd ?? 0, 'snapshot'));
  if (snapshotEnd !== undefined) writeFileSync(snapshot, setting.snapshotBytes ?? emptySnapshot(snapshotEnd));
  const damages: GomqError[] = [];
  const ownHistory = [
    { epoch: 1, start: 0 },
    { epoch: 2, start: log.endOffset },
  ];
  const history = setting.history ?? new EpochHistory(ownHistory);
  const leadership = new Leadership({
    self: { node: 'a', incarnation: 'a1' },
    epoch: 2,
    inSync: ['a', 'b'].map((node) => ({ node, incarnation: `${node}1` })),
    gone: [],
    minInSync: 2,
    silenceMs: 1500,
    lagMs: 10_000,
    log,
    history,
    clock: systemClock,
    logger,
    propose: () => false,
    newestSnapshot: () =>
      snapshotEnd === undefined ? undefined : { path: snapshot, endOffset: snapshotEnd },
    onDamaged: (error) => damages.push(error),
    onStuck: () => undefined,
    status: () => ({}),
  });
  context.after(async () => {
    leadership.close();
    await log.close();
    directory.release();
  });
  if (isOtherThere) new ScriptedMember(leadership, 'b').tellPosition(log.endOffset, 0, history.starts);
  refuses = true;
  if (unreadable.length === 0) rmSync(join(path, fileName(0, 'log')));
  return { leadership, log, damages, lines };
}

/** A member without anything asks for all. */
async function ask(context: TestContext, unreadable: readonly string[], isOtherThere: boolean) {
  const { leadership, damages, lines } = await lead(context, { unreadable, isOtherThere });
  const member = new ScriptedMember(leadership, 'c');
  member.tellPosition(0);
  await member.until(({ closedWith }) => closedWith !== undefined);
  await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
  const errors = lines.filter(({ level }) => level === 'error').length;
  return { damages, closedWith: member.closedWith, errors };
}

class ScriptedMember {
  closedWith: Error | undefined = undefined;
  readonly sent: FrameToMember[] = [];
  #handler: PeerLinkHandler<FrameToLeader> | undefined = undefined;

  constructor(leadership: Leadership, node: string) {
    const link = {
      node,
      start: (handler: PeerLinkHandler<FrameToLeader>) => {
        this.#handler = handler;
      },
      send: (frame: FrameToMember) => this.sent.push(frame) > 0,
      end: () => undefined,
      destroy: (error: Error | undefined) => {
        if (this.closedWith !== undefined) return;
        this.closedWith = error ?? new Error('closed without a reason');
        setImmediate(() => this.#handler!.onClose(error));
      },
    };
    leadership.accept(link as unknown as LinkToMember, `${node}1`);
  }

  async until(isSo: (member: this) => boolean): Promise<void> {
    const endMs = performance.now() + WAIT_MS_MAX;
    while (!isSo(this)) {
      if (performance.now() > endMs) throw new Error(`waited for ${isSo}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  tellPosition(
    logEnd: number,
    committed = 0,
    history: readonly EpochStart[] = [{ epoch: 1, start: 0 }],
  ): void {
    this.#handler!.onFrame({ type: 'position', epoch: 2, logStart: 0, logEnd, committed, history });
  }
}

const SEGMENT = fileName(0, 'log');
const INDEX = fileName(0, 'index');

for (const [what, unreadable] of [
  ['a segment', [SEGMENT]],
  ['a segment and its index', [SEGMENT, INDEX]],
  ['a segment that is gone', []],
] as const) {
  test(`${what} that cannot be read: the lead is handed over where another node in sync is there`, async (context) => {
    const { damages, closedWith, errors } = await ask(context, unreadable, true);
    assert.equal(damages.length, 1);
    assert.match(damages[0]!.message, /cannot read .*0\.log/);
    assert.ok(closedWith !== undefined);
    assert.ok(errors < 5, `${errors} lines`);
  });

  test(`${what} that cannot be read: the member is told, once, where nobody else could lead`, async (context) => {
    const { damages, closedWith, errors } = await ask(context, unreadable, false);
    assert.deepEqual(damages, []);
    assert.ok(closedWith !== undefined);
    assert.ok(errors < 5, `${errors} lines`);
  });
}

/** One epoch to a record. The first of them are not remembered. */
function longHistory(): EpochHistory {
  const history = new EpochHistory();
  for (let start = 0; start < EPOCHS_MAX + 5; start++) history.begin(start + 1, start);
  return history;
}

const typesOf = ({ sent }: ScriptedMember) =>
  sent.map(({ type }) => type).filter((type) => type !== 'heartbeat');

test('a member that was away for more epochs than are remembered begins with a snapshot', async (context) => {
  const { leadership } = await lead(context, { history: longHistory(), snapshotEnd: 200 });
  const member = new ScriptedMember(leadership, 'c');
  member.tellPosition(1, 1);
  await member.until(({ sent }) => sent.some(({ type }) => type === 'snapshotEnd'));
  assert.deepEqual(typesOf(member), ['snapshotBegin', 'snapshotChunk', 'snapshotEnd']);
});

for (const isOtherThere of [true, false]) {
  test(`a damaged snapshot is not sent; ${isOtherThere ? 'another node leads' : 'nobody else could lead'}`, async (context) => {
    const snapshotBytes = emptySnapshot(200);
    snapshotBytes[20]! ^= 1;
    const { leadership, damages } = await lead(context, {
      isOtherThere,
      history: longHistory(),
      snapshotEnd: 200,
      snapshotBytes,
    });
    const member = new ScriptedMember(leadership, 'c');
    member.tellPosition(1, 1);
    await member.until(({ closedWith }) => closedWith !== undefined);
    assert.match(String(member.closedWith), /200\.snapshot is damaged at position 0/);
    assert.deepEqual(typesOf(member), []);
    assert.equal(damages.length, isOtherThere ? 1 : 0);
  });
}

test('such a member waits for a snapshot that has all that it knows to be committed', async (context) => {
  const { leadership } = await lead(context, { history: longHistory(), snapshotEnd: 200 });
  const member = new ScriptedMember(leadership, 'c');
  member.tellPosition(250, 220);
  await member.until(({ closedWith }) => closedWith !== undefined);
  assert.match(String(member.closedWith), /there is no snapshot of 220 or later yet/);
  assert.deepEqual(typesOf(member), []);
});

test('a member whose last epoch is remembered goes on where it is', async (context) => {
  const { leadership, log } = await lead(context, { history: longHistory(), snapshotEnd: 200 });
  const [, second] = (await log.readBatches(0, 65_536, 2))!;
  const logEnd = second!.endOffset;
  const member = new ScriptedMember(leadership, 'c');
  member.tellPosition(logEnd, logEnd, [{ epoch: logEnd, start: logEnd - 1 }]);
  await member.until(({ sent }) => sent.some(({ type }) => type === 'append'));
  assert.deepEqual([...new Set(typesOf(member))], ['resume', 'append']);
  const [resume] = member.sent;
  assert.ok(resume?.type === 'resume' && resume.cut === logEnd);
});
