import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CommitQueue } from '../../src/broker/commit-queue.js';
import { Connection } from '../../src/broker/connection.js';
import { check } from '../packet/oracle.js';

/** A connection of which only the acknowledgements are looked at. */
function connectionThat(onAck: (type: number, packetId: number, reasonCode: number) => void): Connection {
  return Object.assign(Object.create(Connection.prototype) as Connection, { sendAck: onAck });
}

test('everything leaves once, in order, when the high watermark is there and not before', (context) => {
  const step = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant('push' as const), rise: fc.nat(3), times: fc.nat(900) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('release' as const), back: fc.nat(6) }) },
  );
  check(
    context,
    fc.property(fc.array(step, { maxLength: 20, size: 'max' }), (steps) => {
      const queue = new CommitQueue();
      const left: number[] = [];
      const connection = connectionThat((type, packetId, reasonCode) => {
        const number = packetId + (reasonCode << 16);
        assert.equal(type, number % 16);
        left.push(number);
      });
      const targets: number[] = [];
      let target = 0;
      let released = -1;
      for (const one of steps) {
        if (one.kind === 'push') {
          target += one.rise;
          for (let i = 0; i < one.times; i++) {
            const number = targets.length;
            if (number % 5 === 0) queue.pushWork(target, () => left.push(number));
            else queue.pushAck(target, connection, number % 16, number & 0xffff, number >> 16);
            targets.push(target);
          }
        } else {
          released = Math.max(released, target - one.back);
          queue.release(released);
        }
        const expected = targets.filter((one) => one <= released).length;
        // What is pushed for an offset that is committed already waits for the next release, like everything else.
        assert.ok(left.length <= expected);
        if (one.kind === 'release') assert.equal(left.length, expected);
        assert.equal(queue.size, targets.length - left.length);
      }
      queue.release(Number.POSITIVE_INFINITY);
      assert.deepEqual(
        left,
        targets.map((_, i) => i),
      );
    }),
    100,
  );
});

test('work that leaves may bring new work, which keeps its place', () => {
  const queue = new CommitQueue();
  const order: string[] = [];
  queue.pushWork(1, () => {
    order.push('first');
    queue.pushWork(1, () => order.push('third'));
  });
  queue.pushWork(1, () => order.push('second'));
  queue.release(1);
  assert.deepEqual(order, ['first', 'second', 'third']);
  assert.equal(queue.size, 0);
});
