// Whole clusters under faults, seed by seed; see cluster.ts for what happens and checker.ts for what must hold. SEED=… runs one again and prints its
// history, NOTES=… says how much of it; SEEDS=… and SECONDS=… say how many are drawn, BEYOND=1 adds faults that are known to be too much.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runSeed } from './cluster.js';
import { bringOldEtcdBack, replaceKilledLeader, silenceLeader, takeEtcdAway } from './scenarios.js';
import { runSeeds } from './seeds.js';

const SEEDS = 2000;
/** The same ones each time: what they find is mended once and for all. `npm run test:long` draws others. */
const FIRST_SEED = 1_000_000;
/** On a machine that has other things to do it is fewer. */
const SECONDS_MAX = 45;
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

test('a seed that fails tells its history', () => {
  assert.equal(runSeed({ seed: 1 }).events, runSeed({ seed: 1 }).events);
});
