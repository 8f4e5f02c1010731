import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SCAN_BUDGET_SPENT, SCAN_DONE, TopicTree, type TopicTreeScan } from '../../src/router/topic-tree.js';
import { check } from '../packet/oracle.js';
import { filter, matchesNaively, name } from './naive.js';

interface Named {
  readonly name: string;
}

/** The next name, however small the budget. */
function step(scan: TopicTreeScan<Named>, budget: number): Named | undefined {
  for (;;) {
    const next = scan.next(budget);
    if (next === SCAN_DONE) return undefined;
    if (next !== SCAN_BUDGET_SPENT) return next;
  }
}

test('a scan finds what a naive matcher finds', (context) => {
  check(
    context,
    fc.property(
      fc.array(name, { maxLength: 30 }),
      filter,
      fc.integer({ min: 1, max: 5 }),
      (names, wanted, budget) => {
        const tree = new TopicTree<Named>();
        for (const one of names) tree.set(one.split('/'), { name: one });
        assert.equal(tree.size, new Set(names).size);
        const scan = tree.scan(wanted.split('/'));
        const found: string[] = [];
        for (let next = step(scan, budget); next !== undefined; next = step(scan, budget))
          found.push(next.name);
        const expected = [...new Set(names)].filter((one) => matchesNaively(wanted, one));
        assert.deepEqual(found.sort(), expected.sort());
      },
    ),
    600,
  );
});

test('a tree that changes between two steps of a scan: what stays is found once, what is gone is not found later', (context) => {
  const change = fc.record({ kind: fc.constantFrom('set', 'delete', 'step'), name });
  check(
    context,
    fc.property(
      fc.array(name, { maxLength: 20 }),
      filter,
      fc.array(change, { maxLength: 40 }),
      (names, wanted, changes) => {
        const tree = new TopicTree<Named>();
        for (const one of names) tree.set(one.split('/'), { name: one });
        const stays = new Set(names);
        const there = new Set(names);
        const scan = tree.scan(wanted.split('/'));
        const found: string[] = [];
        for (const one of changes) {
          if (one.kind === 'set') {
            tree.set(one.name.split('/'), { name: one.name });
            there.add(one.name);
          } else if (one.kind === 'delete') {
            assert.equal(tree.delete(one.name.split('/')) !== undefined, there.delete(one.name));
            stays.delete(one.name);
          } else {
            const next = step(scan, 3);
            if (next !== undefined) found.push(next.name);
          }
          assert.equal(tree.size, there.size);
        }
        for (let next = step(scan, 3); next !== undefined; next = step(scan, 3)) found.push(next.name);
        for (const one of stays) {
          const times = found.filter((other) => other === one).length;
          assert.equal(times, matchesNaively(wanted, one) ? 1 : 0, `${one} was found ${times} times`);
        }
        for (const one of found) assert.ok(matchesNaively(wanted, one), one);
      },
    ),
    600,
  );
});

test('a scan visits what matches and not its neighbours', () => {
  const tree = new TopicTree<Named>();
  for (let i = 0; i < 10_000; i++) tree.set(['other', `${i}`], { name: `other/${i}` });
  tree.set(['mine', 'a'], { name: 'mine/a' });
  const scan = tree.scan(['mine', '#']);
  assert.equal((scan.next(2) as Named).name, 'mine/a');
  assert.equal(scan.next(2), SCAN_DONE);
});

test('a budget that is spent is said, and the scan goes on from there', () => {
  const tree = new TopicTree<Named>();
  for (let i = 0; i < 100; i++) tree.set([`${i}`, 'x'], { name: `${i}/x` });
  const scan = tree.scan(['+', 'y']);
  let spent = 0;
  while (scan.next(10) === SCAN_BUDGET_SPENT) spent++;
  assert.equal(spent, 10);
});
