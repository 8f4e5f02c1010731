// Whole clusters under faults, seed by seed; see cluster.ts for what happens and checker.ts for what must hold. SEED=… runs one again and prints its
// history, NOTES=… says how much of it; SEEDS=… and SECONDS=… say how many are drawn, BEYOND=1 adds faults that are known to be too much.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runSeed } from './cluster.js';
import { bringOldEtcdBack, replaceKilledLeader, silenceLeader, takeEtcdAway } from './scenarios.js';
import { runSeeds } from './seeds.js';
import { Violation } from './world.js';

const SEEDS = 2000;
/** The same ones each time: what they find is mended once and for all. `npm run test:long` draws others. */
const FIRST_SEED = 1_000_000;
/** On a machine that has other things to do it is fewer. */
const SECONDS_MAX = 45;
/** When a cluster has seen a few things. */
const FAILS_AT_MS = 6000;
const HISTORY_LINES_MIN = 20;
/** They failed once. What they do changes with everything around them, so that they only stand for themselves as long as nothing else has changed. */
const ONCE_FAILED = [
  12, 33, 58, 65, 76, 109, 139, 184, 225, 396, 549, 600, 913, 1079, 1165, 1696, 2302, 2416, 2423, 3639, 10466,
  11582, 106, 135, 241, 321, 322, 1824, 1874, 1001063, 1000002689,
];

test('a cluster keeps what it acknowledged and goes on, whatever goes wrong: seeds that failed once', () => {
  for (const seed of ONCE_FAILED) runSeed({ seed });
});

test('a cluster keeps what it acknowledged and goes on, whatever goes wrong: thousands of seeds', (context) => {
  const { SEED, SEEDS: count = SEEDS, SECONDS } = process.env;
  const total = runSeeds({
    first: SEED === undefined ? FIRST_SEED : Number(SEED),
    seeds: SEED !== undefined && process.env.SEEDS === undefined ? 1 : Number(count),
    seconds: Number(SECONDS ?? SECONDS_MAX),
  });
  context.diagnostic(total.text);
  // Enough has happened for that to mean something.
  assert.ok(total.seeds === 1 || total.acknowledged > total.seeds * 20, total.text);
});

test('a leader that is killed is replaced at once, one that nobody hears stops serving, and nobody needs etcd to go on', () => {
  for (let seed = 1; seed <= 20; seed++) {
    replaceKilledLeader(seed);
    silenceLeader(seed);
    takeEtcdAway(seed);
  }
});

test('an etcd that has forgotten an epoch has nobody elected', () => {
  for (let seed = 1; seed <= 20; seed++) bringOldEtcdBack(seed);
});

test('a seed that fails tells which it is and its history, and does so the same way again', () => {
  const failure = (): string => {
    try {
      runSeed({
        seed: 1,
        prepare: ({ world, checker }) =>
          world.after(FAILS_AT_MS, undefined, () => checker.fail('it was to fail')),
      });
    } catch (error) {
      assert.ok(error instanceof Violation);
      return error.message;
    }
    throw new Error('the seed does not fail');
  };
  const message = failure();
  const [first, ...history] = message.split('\n');
  assert.equal(first, `SEED=1: it was to fail (at ${FAILS_AT_MS} ms)`);
  assert.ok(history.length > HISTORY_LINES_MIN, message);
  for (const line of history) assert.match(line, /^ *\d+\.\d ms {2}\S+ +\S/);
  assert.match(history.at(-1)!, /FAILED: it was to fail/);
  assert.ok(
    history.some((line) => /commits up to/.test(line)),
    message,
  );
  assert.equal(failure(), message);
});
