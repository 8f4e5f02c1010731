import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { TopicTable } from '../../src/router/topic-table.js';
import { check } from '../packet/oracle.js';
import { name } from './naive.js';

test('what is interned is found by its bytes, and nothing else is', (context) => {
  check(
    context,
    fc.property(
      fc.array(name, { maxLength: 40 }),
      fc.integer({ min: 1, max: 20 }),
      name,
      (names, topicsMax, other) => {
        const table = new TopicTable<unknown>(topicsMax);
        let current = new Set<string>();
        for (const one of names) {
          if (!current.has(one) && current.size === topicsMax) current = new Set();
          current.add(one);
          const topic = table.intern(one);
          assert.equal(topic.name, one);
          assert.equal(topic.isInterned, true);
          assert.equal(table.intern(one), topic, 'the same object again');
          assert.equal(table.size, current.size);
          assert.ok(table.size <= topicsMax);
          assert.equal(table.tree.size, table.size);
          const padded = Buffer.from(`xx${one}yy`);
          assert.equal(table.find(padded, 2, padded.length - 2), topic);
        }
        const bytes = Buffer.from(other);
        assert.equal(table.find(bytes, 0, bytes.length)?.name, current.has(other) ? other : undefined);
      },
    ),
  );
});

test('a table that starts over lets its topics know', () => {
  const table = new TopicTable<string>(2);
  const first = table.intern('a');
  first.route = 'cached';
  table.intern('b');
  table.intern('c');
  assert.equal(first.isInterned, false);
  assert.equal(first.route, undefined);
  assert.equal(table.size, 1);
  assert.notEqual(table.intern('a'), first);
});

test('thousands of topics are all found', () => {
  const table = new TopicTable<unknown>(20_000);
  const topics = Array.from({ length: 10_000 }, (_, i) => table.intern(`t/${i}`));
  for (const topic of topics) assert.equal(table.find(topic.bytes, 0, topic.bytes.length), topic);
});
