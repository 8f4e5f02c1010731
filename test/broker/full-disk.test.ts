// The broker over a log that says it is full: what is refused, and what goes on.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { statusOf } from '../../src/http/problem.js';
import { LateBroker } from './late-broker.js';

async function withLate(body: (test: LateBroker) => Promise<void>): Promise<void> {
  const late = new LateBroker({}, {});
  try {
    await body(late);
  } finally {
    await late.stopAll();
  }
}

test('POST /pub to a full disk is told to try again later; QoS 0 goes through', () =>
  withLate(async (late) => {
    late.log.isFull = true;
    const outside = { topicName: 'a', payload: Buffer.from('x'), qos: 0 as const, retain: false };
    await late.broker.publish(outside);
    for (const kept of [
      { ...outside, qos: 1 as const },
      { ...outside, retain: true },
    ]) {
      await assert.rejects(late.broker.publish(kept), (error) => {
        assert.ok(error instanceof GomqError);
        assert.deepEqual([error.code, statusOf(error)], ['DISK_FULL', 503]);
        assert.match(error.hint, /room/);
        return true;
      });
    }
    assert.equal(late.log.endOffset, 0);
  }));
