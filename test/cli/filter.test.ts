import assert from 'node:assert/strict';
import { test } from 'node:test';
import { matchesFilter } from '../../cli/filter.js';

test('filters match as in section 4.7', () => {
  const matching = [
    'a a',
    '# a/b',
    'a/# a',
    'a/# a/b/c',
    '+ a',
    '+/+ a/b',
    'a/+/c a//c',
    '/+ /a',
    '$SYS/# $SYS/x',
    '+/# a',
  ];
  for (const pair of matching) {
    const [filter, topic] = pair.split(' ');
    assert.ok(matchesFilter(filter!, topic!), pair);
  }
  const different = ['a b', 'a a/b', 'a/b a', 'a/+ a', '+ a/b', '+ /a', '# $SYS/x', '+/x $SYS/x', 'a/#  a/b'];
  for (const pair of different) {
    const [filter, topic] = pair.split(' ');
    assert.ok(!matchesFilter(filter!, topic!), pair);
  }
});
