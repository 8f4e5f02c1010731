import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Router } from '../../src/router/router.js';
import { SubscriptionTrie } from '../../src/router/subscription-trie.js';
import { check } from '../packet/oracle.js';
import { filter, matchesNaively, name } from './naive.js';

for (const [pattern, topic, isMatch] of [
  ['a/#', 'a', true],
  ['a/#', 'a/b/c', true],
  ['#', 'a', true],
  ['#', '/', true],
  ['#', '$SYS/x', false],
  ['+/x', '$SYS/x', false],
  ['$SYS/#', '$SYS', true],
  ['$SYS/+', '$SYS/x', true],
  ['a/+/$b', 'a/x/$b', true],
  ['+', 'a', true],
  ['+', 'a/', false],
  ['+/+', '/', true],
  ['/+', '/a', true],
  ['+', '/a', false],
  ['a/+', 'a', false],
  ['a/+', 'a/', true],
  ['a/+/#', 'a', false],
  ['a/+/#', 'a/b', true],
  ['a//b', 'a/b', false],
  ['A', 'a', false],
] as const) {
  test(`${pattern} ${isMatch ? 'matches' : 'does not match'} ${topic}`, () => {
    assert.equal(matchesNaively(pattern, topic), isMatch, 'the naive matcher');
    const trie = new SubscriptionTrie<string>();
    trie.add(pattern.split('/'), 'it');
    assert.deepEqual(trie.match(topic.split('/')), isMatch ? ['it'] : []);
  });
}

type Change =
  | { kind: 'subscribe' | 'unsubscribe'; filter: string; who: number }
  | { kind: 'route'; name: string };

const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ kind: fc.constant('subscribe' as const), filter, who: fc.nat(3) }),
  fc.record({ kind: fc.constant('unsubscribe' as const), filter, who: fc.nat(3) }),
  fc.record({ kind: fc.constant('route' as const), name }),
);

test('a route after any change is what a naive matcher finds, from the cache or not', (context) => {
  check(
    context,
    fc.property(
      fc.array(change, { maxLength: 80, size: 'max' }),
      fc.array(name, { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 6 }),
      (changes, names, topicsMax) => {
        // So few topics fit that the table starts over again and again.
        const router = new Router<string, readonly string[]>(topicsMax, (_topic, matching) =>
          [...matching].sort(),
        );
        const held = new Set<string>();
        const expected = (topic: string): string[] =>
          [...held].filter((one) => matchesNaively(one.slice(2), topic)).sort();
        // Topics as a connection keeps them: they outlive their place in the table.
        const kept = names.map((one) => router.internTopic(one));
        for (const one of changes) {
          if (one.kind === 'route') {
            assert.deepEqual(router.route(router.internTopic(one.name)), expected(one.name));
            continue;
          }
          const subscription = `${one.who}:${one.filter}`;
          if (one.kind === 'subscribe') {
            router.subscribe(one.filter, subscription);
            router.invalidate(new Set([one.filter]));
            held.add(subscription);
          } else {
            assert.equal(router.unsubscribe(one.filter, subscription), held.delete(subscription));
            router.invalidate(new Set([one.filter]));
          }
          assert.equal(router.subscriptionCount, held.size);
          for (const topic of kept) assert.deepEqual(router.route(topic), expected(topic.name), topic.name);
        }
      },
    ),
    400,
  );
});

test('a change of a wildcard that touches more topics than are named one by one drops every route', () => {
  const router = new Router<string, readonly string[]>(10_000, (_topic, matching) => [...matching].sort());
  const topics = Array.from({ length: 1000 }, (_, i) => router.internTopic(`many/${i}`));
  for (const topic of topics) assert.deepEqual(router.route(topic), []);
  router.subscribe('many/+', 'all');
  router.invalidate(new Set(['many/+']));
  for (const topic of topics) assert.deepEqual(router.route(topic), ['all']);
  router.unsubscribe('many/+', 'all');
  router.invalidate(new Set(['many/+']));
  for (const topic of topics) assert.deepEqual(router.route(topic), []);
});

test('a cached route is used until something changes it', () => {
  let made = 0;
  const router = new Router<string, number>(100, () => ++made);
  const topic = router.internTopic('a/b');
  assert.equal(router.route(topic), 1);
  router.subscribe('x/#', 'other');
  router.subscribe('a', 'other');
  router.subscribe('$SYS/#', 'other');
  router.invalidate(new Set(['x/#', 'a', '$SYS/#']));
  assert.equal(router.route(topic), 1, 'changes elsewhere leave it alone');
  router.subscribe('a/+', 'one');
  router.invalidate(new Set(['a/+']));
  assert.equal(router.route(topic), 2);
  router.invalidateAll();
  assert.equal(router.route(topic), 3);
});

test('a trie that was emptied holds nothing', (context) => {
  check(
    context,
    fc.property(fc.array(filter, { maxLength: 30 }), fc.array(name, { maxLength: 5 }), (filters, names) => {
      const trie = new SubscriptionTrie<number>();
      for (const [i, one] of filters.entries()) trie.add(one.split('/'), i);
      for (const [i, one] of filters.entries()) {
        assert.equal(trie.remove(one.split('/'), i), true);
        assert.equal(trie.remove(one.split('/'), i), false);
      }
      assert.equal(trie.size, 0);
      for (const one of names) assert.deepEqual(trie.match(one.split('/')), []);
    }),
  );
});
