// The tree against a matcher so simple that it is right: every topic over a small alphabet is tried.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { DENY, READ, RuleTree, WRITE } from '../../src/security/rule-tree.js';

const who = { clientId: 'a', userName: 'b' };
const LEVELS = ['a', 'b', '', '$s', 'other'];
const DEPTH_MAX = 4;
const ALL_TOPICS = topics(DEPTH_MAX);

function topics(depth: number): string[][] {
  if (depth === 1) return LEVELS.map((level) => [level]);
  const shorter = topics(depth - 1);
  const longest = shorter.filter((topic) => topic.length === depth - 1);
  return [...shorter, ...longest.flatMap((topic) => LEVELS.map((level) => [...topic, level]))];
}

function matches(filter: readonly string[], topic: readonly string[]): boolean {
  if (topic[0]!.startsWith('$') && (filter[0] === '+' || filter[0] === '#')) return false;
  for (const [index, level] of filter.entries()) {
    if (level === '#') return true;
    if (index >= topic.length || (level !== '+' && level !== topic[index])) return false;
  }
  return filter.length === topic.length;
}

const level = fc.constantFrom('a', 'b', '', '$s', '+');
const filter = fc
  .tuple(fc.array(level, { minLength: 1, maxLength: 3 }), fc.boolean())
  .map(([levels, hasRest]) => (hasRest ? [...levels, '#'] : levels));
const anyFilter = fc.oneof(
  { weight: 9, arbitrary: filter },
  { weight: 1, arbitrary: fc.constant<string[]>(['#']) },
);
const rule = fc.record({ filter: anyFilter, rights: fc.constantFrom(READ, WRITE, READ | WRITE, DENY) });
const rules = fc.array(rule, { maxLength: 8 });

function treeOf(list: readonly { filter: string[]; rights: number }[]): RuleTree {
  const tree = new RuleTree();
  for (const one of list) tree.add(one.filter.join('/'), one.rights, false);
  return tree;
}

test('rightsOn is what the matching rules give together', () => {
  fc.assert(
    fc.property(rules, fc.constantFrom(...ALL_TOPICS), (list, topic) => {
      let expected = 0;
      for (const one of list) if (matches(one.filter, topic)) expected |= one.rights;
      assert.equal(treeOf(list).rightsOn(topic, who), expected);
    }),
    { numRuns: 2000 },
  );
});

test('overlaps is true exactly where some topic is matched by the filter and by a rule with the right', () => {
  fc.assert(
    fc.property(rules, anyFilter, (list, asked) => {
      const readable = list.filter((one) => (one.rights & READ) !== 0);
      const expected = ALL_TOPICS.some(
        (topic) => matches(asked, topic) && readable.some((one) => matches(one.filter, topic)),
      );
      assert.equal(treeOf(list).overlaps(asked, READ, who), expected);
    }),
    { numRuns: 500 },
  );
});

test('covers is true only where one rule with the right matches all that the filter matches', () => {
  fc.assert(
    fc.property(rules, anyFilter, (list, asked) => {
      const denying = list.filter((one) => one.rights === DENY);
      const asking = ALL_TOPICS.filter((topic) => matches(asked, topic));
      const expected = denying.some((one) => asking.every((topic) => matches(one.filter, topic)));
      assert.equal(treeOf(list).covers(asked, DENY, who), expected);
    }),
    { numRuns: 500 },
  );
});

test('a pattern without names that need care is the rule with the names filled in', () => {
  const patternLevel = fc.constantFrom('a', 'b', '+', '%c', '%u');
  const pattern = fc.array(patternLevel, { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(
      fc.array(pattern, { maxLength: 5 }),
      fc.constantFrom(...ALL_TOPICS),
      anyFilter,
      (list, topic, asked) => {
        const tree = new RuleTree();
        for (const one of list) tree.add(one.join('/'), READ, true);
        const filled = list.map((one) => ({
          filter: one.map((text) => (text === '%c' ? who.clientId : text === '%u' ? who.userName : text)),
          rights: READ,
        }));
        assert.equal(tree.rightsOn(topic, who), treeOf(filled).rightsOn(topic, who));
        assert.equal(tree.overlaps(asked, READ, who), treeOf(filled).overlaps(asked, READ, who));
        assert.equal(tree.covers(asked, READ, who), treeOf(filled).covers(asked, READ, who));
      },
    ),
    { numRuns: 1000 },
  );
});
