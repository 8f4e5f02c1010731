import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  assertTopicFilter,
  assertTopicName,
  matchingPart,
  subscriptionIdentifier,
  topicMatches,
} from '../../client/src/topics.js';

test('[MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1] filters match as the standard says', () => {
  const cases: [string, string, boolean][] = [
    ['a', 'a', true],
    ['a', 'b', false],
    ['a', 'A', false],
    ['a/b', 'a', false],
    ['a', 'a/b', false],
    ['a/#', 'a', true],
    ['a/#', 'a/b/c', true],
    ['a/#', 'ab', false],
    ['#', 'a/b', true],
    ['#', '/', true],
    ['+', 'a', true],
    ['+', '/a', false],
    ['/+', '/a', true],
    ['+/+', '/a', true],
    ['a/+/c', 'a/b/c', true],
    ['a/+/c', 'a//c', true],
    ['a/+', 'a', false],
    ['a/+', 'a/', true],
    ['#', '$SYS/x', false],
    ['+/x', '$SYS/x', false],
    ['$SYS/#', '$SYS/x', true],
  ];
  for (const [filter, topic, expected] of cases) {
    assert.equal(topicMatches(filter, topic), expected, `${filter} and ${topic}`);
  }
});

test('the matching part of a filter is what follows the share and the replay', () => {
  assert.equal(matchingPart('a/b'), 'a/b');
  assert.equal(matchingPart('$share/g/a/#'), 'a/#');
  assert.equal(matchingPart('$replay/-1h/a'), 'a');
  assert.equal(matchingPart('$share/g/$replay/earliest//a'), '/a');
  assert.equal(matchingPart('$SYS/a'), '$SYS/a');
});

test('valid names and filters pass, at the limits too', () => {
  for (const topic of ['a', '/', ' ', 'a/b', '$SYS/x', 'x'.repeat(65_535), '日本/😀']) {
    assertTopicName(topic);
    assertTopicFilter(topic);
  }
  for (const filter of [
    '#',
    '+',
    'a/#',
    '+/+/#',
    '$share/g/a',
    '$share/g/#',
    '$share/g//',
    '$replay/earliest/a',
  ]) {
    assertTopicFilter(filter);
  }
  assert.throws(() => assertTopicName('日'.repeat(21_846)));
  assert.throws(() => assertTopicName(7));
});

test('subscription identifiers are stable and in the range of MQTT 5', () => {
  assert.equal(subscriptionIdentifier('A'), subscriptionIdentifier('A'));
  for (const filter of ['A', 'A/#', '', '日本', 'x'.repeat(1_000)]) {
    const identifier = subscriptionIdentifier(filter);
    assert.ok(Number.isInteger(identifier) && identifier >= 1 && identifier <= 268_435_455);
  }
});
