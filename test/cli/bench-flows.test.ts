import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Flows, WINDOW } from '../../cli/bench/flows.js';

function record(sequences: Iterable<number>): { distinct: number; duplicates: number; late: number } {
  const flows = new Flows(2);
  for (const sequence of sequences) flows.record(1, sequence);
  assert.equal(flows.distinct(0), 0, 'the other flow is untouched');
  return { distinct: flows.distinct(1), duplicates: flows.duplicates, late: flows.late };
}

function* range(from: number, until: number): Generator<number> {
  for (let sequence = from; sequence < until; sequence++) yield sequence;
}

test('everything in order: nothing to report', () => {
  assert.deepEqual(record(range(0, 100_000)), { distinct: 100_000, duplicates: 0, late: 0 });
});

test('a lost message leaves one less', () => {
  assert.deepEqual(record([0, 1, 3, 4]), { distinct: 4, duplicates: 0, late: 0 });
  assert.deepEqual(record([1, 2]), { distinct: 2, duplicates: 0, late: 0 }, 'the very first one is lost');
});

test('a late message is disorder, no loss', () => {
  assert.deepEqual(record([0, 2, 1, 3]), { distinct: 4, duplicates: 0, late: 1 });
});

test('a repeated message is a duplicate, at once or later, before or after a gap', () => {
  assert.deepEqual(record([0, 0, 1]), { distinct: 2, duplicates: 1, late: 0 });
  assert.deepEqual(record([0, 1, 2, 0]), { distinct: 3, duplicates: 1, late: 0 });
  assert.deepEqual(record([0, 2, 2, 0, 1, 1]), { distinct: 3, duplicates: 3, late: 1 });
});

test('a gap as wide as the window, and one wider', () => {
  for (const gap of [WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW]) {
    assert.deepEqual(record([0, gap, gap + 1]), { distinct: 3, duplicates: 0, late: 0 }, `gap ${gap}`);
    assert.deepEqual(record([0, gap, gap - 1]), { distinct: 3, duplicates: 0, late: 1 }, `gap ${gap}`);
  }
});

test('later than the window counts as lost and repeated', () => {
  assert.deepEqual(record([...range(1, WINDOW + 10), 0]), { distinct: WINDOW + 9, duplicates: 1, late: 0 });
});

test('the window forgets what it leaves behind: a round later a number is missing again', () => {
  const sequences = [0, 2, ...range(3, WINDOW + 1), ...range(WINDOW + 2, 2 * WINDOW)];
  assert.deepEqual(record(sequences), { distinct: 2 * WINDOW - 2, duplicates: 0, late: 0 });
});

test('any order within the window is counted exactly', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(300), { maxLength: 600 }), (sequences) => {
      const seen = new Set<number>();
      let next = 0;
      let late = 0;
      let duplicates = 0;
      for (const sequence of sequences) {
        if (seen.has(sequence)) duplicates++;
        else if (sequence < next) late++;
        seen.add(sequence);
        next = Math.max(next, sequence + 1);
      }
      assert.deepEqual(record(sequences), { distinct: seen.size, duplicates, late });
    }),
  );
});
