// Whose state is the odd one out (R12).
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StateHashes } from '../../src/replication/state-hashes.js';

const ONE = Buffer.alloc(32, 1);
const OTHER = Buffer.alloc(32, 2);
const THIRD = Buffer.alloc(32, 3);

test('equal hashes say nothing, whoever tells first', () => {
  const hashes = new StateHashes('a');
  assert.equal(hashes.add('b', 10, ONE), undefined);
  assert.equal(hashes.add('a', 10, ONE), undefined);
  assert.equal(hashes.add('c', 10, ONE), undefined);
});

test('a member that differs is the odd one', () => {
  const hashes = new StateHashes('a');
  hashes.add('a', 10, ONE);
  hashes.add('b', 10, ONE);
  assert.deepEqual(hashes.add('c', 10, OTHER), { node: 'c', offset: 10 });
});

test('where two agree with each other and not with the leader, that is the odd one', () => {
  const hashes = new StateHashes('a');
  hashes.add('b', 10, OTHER);
  hashes.add('c', 10, OTHER);
  assert.deepEqual(hashes.add('a', 10, ONE), { node: 'a', offset: 10 });
});

test('three that all differ prove nothing against the leader', () => {
  const hashes = new StateHashes('a');
  hashes.add('a', 10, ONE);
  hashes.add('b', 10, OTHER);
  assert.deepEqual(hashes.add('c', 10, THIRD), { node: 'c', offset: 10 });
});

test('hashes of other offsets are not compared, and old ones are forgotten', () => {
  const hashes = new StateHashes('a');
  hashes.add('a', 10, ONE);
  assert.equal(hashes.add('b', 11, OTHER), undefined);
  for (let offset = 20; offset < 40; offset++) hashes.add('a', offset, ONE);
  assert.equal(hashes.add('b', 10, OTHER), undefined);
});
