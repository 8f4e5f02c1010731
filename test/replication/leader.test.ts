// The commit rule and the in-sync set, case by case (R4, R5, R6).
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { committedOffset } from '../../src/replication/commit-rule.js';
import { type Node, ReplicationLeader } from '../../src/replication/leader.js';

const A: Node = { node: 'a', incarnation: 'a1' };
const B: Node = { node: 'b', incarnation: 'b1' };
const C: Node = { node: 'c', incarnation: 'c1' };
const D: Node = { node: 'd', incarnation: 'd1' };
const E: Node = { node: 'e', incarnation: 'e1' };
const SILENCE_MS = 1000;
const LAG_MS = 5000;

function leading(inSync: readonly Node[], gone: readonly string[] = [], minInSync = 2): ReplicationLeader {
  return new ReplicationLeader({
    self: A,
    epoch: 5,
    epochStart: 100,
    inSync,
    gone,
    minInSync,
    silenceMs: SILENCE_MS,
    lagMs: LAG_MS,
    nowMs: 0,
  });
}

describe('the commit rule', () => {
  const kept = (offsets: Record<string, number>) => (node: string) => offsets[node] ?? 0;

  it('takes the lowest of all that are in sync', () => {
    assert.equal(committedOffset(['a', 'b', 'c'], undefined, 2, kept({ a: 9, b: 7, c: 8 })), 7);
  });

  it('commits nothing while too few are in sync', () => {
    assert.equal(committedOffset(['a'], undefined, 2, kept({ a: 9 })), 0);
  });

  it('counts a node that is being removed until that is confirmed', () => {
    assert.equal(committedOffset(['a', 'b', 'c'], ['a', 'b'], 2, kept({ a: 9, b: 8, c: 3 })), 3);
  });

  it('counts a node that is being added from the moment the change is sent', () => {
    assert.equal(committedOffset(['a', 'b'], ['a', 'b', 'c'], 2, kept({ a: 9, b: 8, c: 3 })), 3);
  });

  it('commits nothing while the smaller of the two sets is too small', () => {
    assert.equal(committedOffset(['a'], ['a', 'b'], 2, kept({ a: 9, b: 9 })), 0);
    assert.equal(committedOffset(['a', 'b'], ['a'], 2, kept({ a: 9, b: 9 })), 0);
  });
});

describe('a leader', () => {
  it('commits what all in sync have, and not what only it has', () => {
    const leader = leading([A, B, C]);
    leader.onKept(120);
    leader.onJoined(B, 110, 0);
    assert.equal(leader.highWatermark, 0);
    leader.onJoined(C, 105, 0);
    assert.equal(leader.highWatermark, 105);
    leader.onAck('c', 120, 1);
    assert.equal(leader.highWatermark, 110);
  });

  it('does not take the word of another directory for that of the one in sync', () => {
    const leader = leading([A, B]);
    leader.onKept(120);
    leader.onJoined({ node: 'b', incarnation: 'b2' }, 120, 0);
    assert.equal(leader.highWatermark, 0);
  });

  it('wants a member in once it has everything, and not before', () => {
    const leader = leading([A, B]);
    leader.onKept(120);
    leader.onJoined(B, 120, 0);
    leader.onJoined(C, 119, 0);
    assert.equal(leader.wanted(0), undefined);
    leader.onAck('c', 120, 1);
    assert.deepEqual(leader.wanted(1), [A, B, C]);
  });

  it('wants no member that has not reached the start of the epoch, although nothing is committed yet', () => {
    const leader = leading([A, B]);
    leader.onJoined(C, 99, 0);
    assert.equal(leader.wanted(0), undefined);
    leader.onAck('c', 100, 1);
    assert.deepEqual(leader.wanted(1), [A, B, C]);
  });

  it('lets go of a member whose link is gone at once, and of a silent one in time', () => {
    const leader = leading([A, B, C]);
    leader.onJoined(B, 100, 0);
    leader.onJoined(C, 100, 0);
    leader.onLeft('c');
    assert.deepEqual(leader.wanted(1), [A, B]);
    leader.onJoined(C, 100, 2);
    assert.equal(leader.wanted(SILENCE_MS), undefined);
    leader.onAck('b', 100, SILENCE_MS + 5);
    assert.deepEqual(leader.wanted(SILENCE_MS + 5), [A, B]);
  });

  it('never wants fewer than it takes', () => {
    const leader = leading([A, B]);
    leader.onJoined(B, 100, 0);
    leader.onLeft('b');
    assert.equal(leader.wanted(10 * SILENCE_MS), undefined);
  });

  it('does not wait for a node that was known to be gone when it was elected', () => {
    const leader = leading([A, B, C], ['b']);
    leader.onJoined(C, 100, 0);
    assert.deepEqual(leader.wanted(1), [A, C]);
  });

  it('lets go of a member that answers and whose disk does not, once it is late enough', () => {
    const leader = leading([A, B, C]);
    leader.onJoined(B, 100, 0);
    leader.onJoined(C, 100, 0);
    leader.onKept(100);
    for (let ms = 100; ms <= 1000; ms += 100) {
      leader.onAck('b', 100, ms);
      leader.onAck('c', 100, ms);
    }
    leader.onKept(200);
    // It had everything at 1,000 ms, and is not a moment behind what there was then.
    for (let ms = 1100; ms <= 1000 + LAG_MS; ms += 100) {
      leader.onAck('b', 200, ms);
      leader.onAck('c', 199, ms);
      assert.equal(leader.wanted(ms), undefined);
    }
    leader.onAck('b', 200, 1100 + LAG_MS);
    leader.onAck('c', 199, 1100 + LAG_MS);
    assert.deepEqual(leader.wanted(1100 + LAG_MS), [A, B]);
  });

  it('takes in nobody whose disk lags, although another one holds the high watermark down', () => {
    const leader = leading([A, B, C, D, E], [], 3);
    for (const one of [B, C, D, E]) leader.onJoined(one, 100, 0);
    leader.onKept(200);
    const sets: string[] = [];
    for (let ms = 100; ms <= 4 * LAG_MS; ms += 100) {
      for (const [node, kept] of [
        ['b', 200],
        ['c', 200],
        ['d', 100],
        ['e', 100],
      ] as const)
        leader.onAck(node, kept, ms);
      for (let wanted = leader.wanted(ms); wanted !== undefined; wanted = leader.wanted(ms)) {
        leader.propose(wanted);
        leader.confirm();
        sets.push(wanted.map(({ node }) => node).join(''));
      }
    }
    assert.deepEqual(sets, ['abce', 'abc']);
    assert.equal(leader.highWatermark, 200);
  });

  it('takes in a member that caught up for long once, and keeps it', () => {
    const leader = leading([A, B]);
    leader.onJoined(B, 100, 0);
    leader.onKept(100_000);
    leader.onJoined(C, 100, 0);
    const sets: string[] = [];
    for (let ms = 100; ms <= 4 * LAG_MS; ms += 100) {
      leader.onAck('b', 100_000, ms);
      leader.onAck('c', Math.min(100_000, 100 + (100_000 * ms) / (3 * LAG_MS)), ms);
      for (let wanted = leader.wanted(ms); wanted !== undefined; wanted = leader.wanted(ms)) {
        leader.propose(wanted);
        leader.confirm();
        sets.push(wanted.map(({ node }) => node).join(''));
      }
    }
    assert.deepEqual(sets, ['abc']);
  });

  it('keeps a member that is always a little behind', () => {
    const leader = leading([A, B, C]);
    leader.onJoined(B, 100, 0);
    leader.onJoined(C, 100, 0);
    for (let ms = 100; ms <= 4 * LAG_MS; ms += 100) {
      leader.onKept(100 + ms);
      leader.onAck('b', 100 + ms, ms);
      leader.onAck('c', 100 + ms - 90, ms);
      assert.equal(leader.wanted(ms), undefined);
    }
  });

  it('does not wait for one whose disk is full, and takes it in again when there is room', () => {
    const leader = leading([A, B, C]);
    leader.onKept(120);
    leader.onJoined(B, 120, 0);
    leader.onJoined(C, 120, 0);
    leader.onAck('c', 120, 1, true);
    assert.equal(leader.isFull, false);
    assert.deepEqual(leader.wanted(1), [A, B]);
    leader.propose([A, B]);
    leader.confirm();
    leader.onAck('c', 120, 2, true);
    assert.equal(leader.wanted(2), undefined);
    leader.onAck('c', 120, 3, false);
    assert.deepEqual(leader.wanted(3), [A, B, C]);
  });

  it('is full where without those whose disks are full too few would be left', () => {
    const leader = leading([A, B]);
    leader.onKept(120);
    leader.onJoined(B, 120, 0);
    leader.onAck('b', 120, 1, true);
    assert.equal(leader.isFull, true);
    assert.equal(leader.wanted(1), undefined);
    leader.onAck('b', 120, 2, false);
    assert.equal(leader.isFull, false);
  });

  it('keeps one that is far behind where too few would be left', () => {
    const leader = leading([A, B]);
    leader.onJoined(B, 100, 0);
    leader.onKept(200);
    leader.onAck('b', 101, 3 * LAG_MS);
    assert.equal(leader.wanted(3 * LAG_MS), undefined);
  });

  it('counts no time in which it was paused itself', () => {
    const leader = leading([A, B, C]);
    leader.onJoined(B, 100, 0);
    leader.onJoined(C, 100, 0);
    leader.onKept(200);
    leader.onPaused(2 * LAG_MS, 2 * LAG_MS);
    leader.onAck('b', 100, 2 * LAG_MS);
    leader.onAck('c', 100, 2 * LAG_MS);
    assert.equal(leader.wanted(2 * LAG_MS + 1), undefined);
  });

  it('finds nobody silent right after it was paused itself', () => {
    const leader = leading([A, B, C]);
    leader.onJoined(B, 100, 0);
    leader.onJoined(C, 100, 0);
    leader.onPaused(5 * SILENCE_MS, 5 * SILENCE_MS);
    assert.equal(leader.wanted(5 * SILENCE_MS), undefined);
    assert.deepEqual(leader.wanted(6 * SILENCE_MS + 1), [A, C]);
  });

  it('puts a directory in the place of its former self', () => {
    const leader = leading([A, B, C]);
    const another = { node: 'b', incarnation: 'b2' };
    leader.onKept(100);
    leader.onJoined(C, 100, 0);
    leader.onJoined(another, 100, 0);
    assert.deepEqual(leader.wanted(0), [A, C, another]);
  });

  it('has one change under way at a time; what was abandoned counts no more', () => {
    const leader = leading([A, B]);
    leader.onKept(120);
    leader.onJoined(B, 120, 0);
    assert.equal(leader.highWatermark, 120);
    leader.onJoined(C, 120, 0);
    leader.propose([A, B, C]);
    assert.equal(leader.wanted(0), undefined);
    leader.onKept(130);
    leader.onAck('b', 130, 1);
    assert.equal(leader.highWatermark, 120, 'the one that is being added counts');
    leader.abandon();
    assert.equal(leader.highWatermark, 130);
    assert.deepEqual(leader.inSync, [A, B]);
  });

  it('is followed while all others in sync were heard of', () => {
    const leader = leading([A, B, C]);
    leader.onJoined(B, 100, 0);
    assert.equal(leader.isFollowed(10, 100), false);
    leader.onJoined(C, 100, 10);
    assert.equal(leader.isFollowed(10, 100), true);
    assert.equal(leader.isFollowed(105, 100), false);
  });
});
