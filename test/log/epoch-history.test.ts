// How far two logs are the same, found from where their epochs begin.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { commonEnd, EPOCHS_MAX, EpochHistory, type LogShape } from '../../src/log/epoch-history.js';

function shape(end: number, ...starts: [number, number][]): LogShape {
  return { end, starts: starts.map(([epoch, start]) => ({ epoch, start })) };
}

test('an epoch that only one of them has is where they part', () => {
  assert.equal(commonEnd(shape(80, [1, 0], [3, 50]), shape(60, [1, 0], [2, 40])), 40);
});

test('the shorter of two logs of one epoch is a part of the other', () => {
  assert.equal(commonEnd(shape(80, [1, 0], [2, 50]), shape(60, [1, 0], [2, 50])), 60);
});

test('a longer tail of an older epoch is cut where the newer one begins', () => {
  assert.equal(commonEnd(shape(60, [1, 0], [2, 50]), shape(90, [1, 0])), 50);
});

test('logs without a common epoch share nothing', () => {
  assert.equal(commonEnd(shape(60, [2, 0]), shape(90, [1, 0])), 0);
  assert.equal(commonEnd(shape(60, [2, 0]), shape(0)), 0);
});

test('an epoch of no records is forgotten, as is what is cut off', () => {
  const history = new EpochHistory();
  history.begin(1, 0);
  history.begin(2, 10);
  history.begin(3, 10);
  assert.deepEqual(history.starts, [
    { epoch: 1, start: 0 },
    { epoch: 3, start: 10 },
  ]);
  assert.equal(history.epochAt(9), 1);
  assert.equal(history.epochAt(10), 3);
  history.cut(10);
  assert.equal(history.lastEpoch, 1);
});

test('so many epochs are remembered and no more', () => {
  const history = new EpochHistory();
  for (let epoch = 1; epoch <= EPOCHS_MAX + 10; epoch++) history.begin(epoch, epoch * 10);
  assert.equal(history.starts.length, EPOCHS_MAX);
});

/** Logs as leaders write them: each epoch has one leader, whose log the others copied up to some point. */
test('whatever logs grew out of one another, the common end is where their records part', () => {
  const step = fc.record({
    from: fc.nat(3),
    keeps: fc.nat(20),
    appends: fc.integer({ min: 1, max: 5 }),
    to: fc.nat(3),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      /** Per log its records, each the epoch it was appended in. */
      const logs: number[][] = [[], [], [], []];
      let epoch = 0;
      for (const { from, keeps, appends, to } of steps) {
        epoch++;
        // `to` copies a part of `from`, and leads.
        const copy = logs[from]!.slice(0, from === to ? undefined : keeps);
        for (let i = 0; i < appends; i++) copy.push(epoch);
        logs[to] = copy;
      }
      const shapeOf = (log: number[]): LogShape => {
        const history = new EpochHistory();
        log.forEach((one, offset) => {
          if (log[offset - 1] !== one) history.begin(one, offset);
        });
        return { starts: history.starts, end: log.length };
      };
      for (const one of logs) {
        for (const other of logs) {
          const parts = one.findIndex((record, offset) => record !== other[offset]);
          const expected = parts === -1 ? Math.min(one.length, other.length) : parts;
          assert.equal(commonEnd(shapeOf(one), shapeOf(other)), expected);
        }
      }
    }),
  );
});
