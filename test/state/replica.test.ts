// A member's state and what it does with a batch that its leader should not have sent.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { GomqError } from '../../src/core/errors.js';
import { checkBatch, encodeBatch } from '../../src/log/batch-codec.js';
import { BatchFlag } from '../../src/log/batch-format.js';
import type { DiskLog } from '../../src/log/disk-log.js';
import { loadZstd } from '../../src/log/zstd.js';
import { Replica } from '../../src/state/replica.js';
import { State } from '../../src/state/state.js';
import { openRealLog } from '../log/disk-logs.js';

interface Member {
  readonly log: DiskLog;
  readonly replica: Replica;
  readonly failures: GomqError[];
}

async function follow(context: TestContext): Promise<Member> {
  const { log } = await openRealLog(context, { committed: 0 });
  const failures: GomqError[] = [];
  const replica = new Replica({
    log,
    state: new State({ internedTopics: 1, mayRead: undefined }),
    applied: 0,
    zstd: await loadZstd(),
    onFailure: (error) => failures.push(error as GomqError),
  });
  return { log, replica, failures };
}

/** Appends one that changes state, as a receiver does. */
function take({ log, replica }: Member, payload: Buffer): void {
  const offset = log.endOffset;
  const header = { flags: BatchFlag.State, epoch: 1, baseOffset: offset, lastOffset: offset };
  const bytes = encodeBatch(undefined, { ...header, timestampMs: 1, recordCount: 1 }, payload);
  const checked = checkBatch(bytes);
  assert.ok(!('damage' in checked));
  log.appendBatch(bytes, checked, undefined);
  replica.hold(checked, bytes);
}

/** One record, of a type that means nothing. */
const RECORD = Buffer.from([1, 0, 0, 0, 250]);
/** Of another length than it says. */
const SHORT = Buffer.from([255, 255, 0, 0, 250]);

test('a batch whose records do not have the lengths that they say is damage, and nothing behind it is applied', async (context) => {
  const member = await follow(context);
  const { log, replica, failures } = member;
  for (const payload of [RECORD, SHORT, RECORD]) take(member, payload);
  await log.settled();
  log.advance(1);
  assert.equal(replica.applied, 1);
  log.advance(2);
  log.advance(3);
  assert.deepEqual(failures, [], 'whoever commits goes on first');
  await Promise.resolve();
  assert.equal(replica.applied, 1);
  assert.deepEqual(
    failures.map(({ code, message }) => [code, message]),
    [['DATA_DAMAGED', 'offsets 1 to 1 cannot be decoded, although their checksums hold: record lengths']],
  );
});
