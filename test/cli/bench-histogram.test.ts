import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Histogram } from '../../cli/bench/histogram.js';

test('an empty histogram answers 0', () => {
  const histogram = new Histogram();
  assert.equal(histogram.percentile(0.5), 0);
  assert.equal(histogram.mean, 0);
  assert.equal(histogram.max, 0);
});

test('small values are exact', () => {
  const histogram = new Histogram();
  for (let value = 1; value <= 1000; value++) histogram.record(value);
  assert.equal(histogram.percentile(0.5), 500);
  assert.equal(histogram.percentile(0.9), 900);
  assert.equal(histogram.percentile(0.99), 990);
  assert.equal(histogram.percentile(0.999), 999);
  assert.equal(histogram.percentile(1), 1000);
  assert.equal(histogram.percentile(0), 1);
  assert.equal(histogram.mean, 500.5);
});

test('percentiles agree with sorting, within a thousandth', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(0xffffffff), { minLength: 1, maxLength: 200 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (values, fraction) => {
        const histogram = new Histogram();
        for (const value of values) histogram.record(value);
        const sorted = [...values].sort((a, b) => a - b);
        const exact = sorted[Math.max(1, Math.ceil(fraction * values.length)) - 1]!;
        const answer = histogram.percentile(fraction);
        assert.ok(answer >= exact && answer <= exact * 1.001 + 1, `${answer} for ${exact}`);
        assert.equal(histogram.percentile(1), sorted.at(-1));
        assert.equal(histogram.total, values.length);
      },
    ),
  );
});

test('reset forgets', () => {
  const histogram = new Histogram();
  histogram.record(9);
  histogram.reset();
  assert.equal(histogram.total, 0);
  assert.equal(histogram.percentile(1), 0);
});
