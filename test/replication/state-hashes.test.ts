// Whose state is the odd one out (R12).
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StateHashes } from '../../src/replication/state-hashes.js';

const ONE = Buffer.alloc(32, 1);
const OTHER = Buffer.alloc(32, 2);
const THIRD = Buffer.alloc(32, 3);
const NODES = 3;

test('equal hashes say nothing, whoever tells first', () => {
  const hashes = new StateHashes();
  for (const node of ['b', 'a', 'c']) assert.equal(hashes.add(node, 10, ONE, NODES), undefined);
});

test('whoever differs from two that agree is the odd one, whoever tells last', () => {
  const told = [
    ['a', ONE],
    ['b', OTHER],
    ['c', ONE],
  ] as const;
  for (const order of [
    [0, 1, 2],
    [1, 2, 0],
    [2, 0, 1],
  ]) {
    const hashes = new StateHashes();
    const verdicts = order.map((at) => hashes.add(told[at]![0], 10, told[at]![1], NODES));
    assert.deepEqual(verdicts.at(-1), { kind: 'odd', node: 'b', offset: 10 });
    assert.deepEqual(verdicts.slice(0, 2), [undefined, undefined], 'one against one proves nothing');
  }
});

test('where all that can tell have told, and no two agree, nobody is the odd one', () => {
  const two = new StateHashes();
  two.add('a', 10, ONE, 2);
  assert.deepEqual(two.add('b', 10, OTHER, 2), { kind: 'split', offset: 10 });
  const three = new StateHashes();
  three.add('a', 10, ONE, NODES);
  three.add('b', 10, OTHER, NODES);
  assert.deepEqual(three.add('c', 10, THIRD, NODES), { kind: 'split', offset: 10 });
});

test('what a node told before its state was made anew does not count', () => {
  const hashes = new StateHashes();
  hashes.add('a', 10, ONE, NODES);
  hashes.add('b', 10, OTHER, NODES);
  hashes.forget('b');
  assert.equal(hashes.add('c', 10, ONE, NODES), undefined);
  assert.equal(hashes.add('b', 10, ONE, NODES), undefined);
});

test('hashes of other offsets are not compared, and old ones are forgotten', () => {
  const hashes = new StateHashes();
  hashes.add('a', 10, ONE, 2);
  assert.equal(hashes.add('b', 11, OTHER, 2), undefined);
  for (let offset = 20; offset < 40; offset++) hashes.add('a', offset, ONE, 2);
  assert.equal(hashes.add('b', 10, OTHER, 2), undefined);
});
