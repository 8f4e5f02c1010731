import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  hasWildcard,
  parseFilter,
  validateTopicFilter,
  validateTopicName,
} from '../../src/router/topic-name.js';

const TAKEN: readonly (readonly [text: string, group: string | undefined, filter: string])[] = [
  ['a', undefined, 'a'],
  ['/', undefined, '/'],
  ['+', undefined, '+'],
  ['#', undefined, '#'],
  ['+/#', undefined, '+/#'],
  ['a/+/b', undefined, 'a/+/b'],
  ['//#', undefined, '//#'],
  [' ', undefined, ' '],
  ['$shared/x', undefined, '$shared/x'],
  ['$SHARE/g/x', undefined, '$SHARE/g/x'],
  ['a/$share/g/x', undefined, 'a/$share/g/x'],
  ['$SYS/#', undefined, '$SYS/#'],
  ['$share/g/x', 'g', 'x'],
  ['$share/g//', 'g', '/'],
  ['$share/g/#', 'g', '#'],
  ['$share/g//x', 'g', '/x'],
  ['$share/$share/$share', '$share', '$share'],
];

for (const [text, group, filter] of TAKEN) {
  test(`${JSON.stringify(text)} is ${filter}${group === undefined ? '' : ` shared by ${group}`}`, () => {
    assert.deepEqual(parseFilter(text), { group, filter });
  });
}

for (const text of [
  '',
  'a#',
  '#a',
  '#/b',
  'a/#/b',
  'a/b#',
  '+a',
  'a+',
  'a/+b',
  'a/b+/c',
  '++',
  '##',
  '+#',
  '$share',
  '$share/',
  '$share//x',
  '$share/g',
  '$share/g/',
  '$share/+/x',
  '$share/#/x',
  '$share/a+b/x',
  '$share/g/a#',
  '$share/g/#/b',
  'a\0b',
  '\ud800',
]) {
  test(`${JSON.stringify(text)} is no filter`, () => {
    assert.equal(typeof parseFilter(text), 'string');
  });
}

test('topic names', () => {
  for (const name of ['a', '/', 'a//b', '$SYS/x', ' ', 'ä/漢'])
    assert.equal(validateTopicName(name), undefined);
  for (const name of ['', '+', '#', 'a/+/b', 'a#', 'a\0', 'a/\udc00'])
    assert.ok(validateTopicName(name) !== undefined);
});

test('limits of length are in bytes, and those of depth in levels', () => {
  const limits = { topicBytes: 6, topicLevels: 3 };
  assert.equal(validateTopicName('äää', limits), undefined);
  assert.match(validateTopicName('äääa', limits)!, /7 bytes, more than 6/);
  assert.equal(validateTopicFilter('a/+/#', limits), undefined);
  assert.match(validateTopicFilter('a/b/c/', limits)!, /4 levels, more than 3/);
  assert.match(validateTopicName('///', limits)!, /4 levels/);
  // The share name does not count: it is no part of what is matched.
  assert.deepEqual(parseFilter('$share/long-name/a', limits), { group: 'long-name', filter: 'a' });
});

test('what has a wildcard', () => {
  assert.deepEqual(['a', 'a/+', '#', '$SYS'].map(hasWildcard), [false, true, true, false]);
});
