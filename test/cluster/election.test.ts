// The election by itself: what it is told, and what it has done about it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type {
  ClusterState,
  ClusterView,
  InSyncMember,
  LeaderKey,
  MemberKey,
  Transaction,
} from '../../src/cluster/coordinator.js';
import { type Effect, Election } from '../../src/cluster/election.js';

const [A, B, C] = ['a', 'b', 'c'].map((node) => ({ node, incarnation: `${node}1` })) as [
  InSyncMember,
  InSyncMember,
  InSyncMember,
];
const FOUND: ClusterState = { clusterId: 'id', epoch: 1, leader: '', inSync: [A, B, C], nonce: 'found' };

/** Node a, in a cluster of a, b and c, and an etcd that shows what the test has it show. */
class Leader {
  readonly election: Election;
  /** What it leads with. */
  readonly own: { readonly state: ClusterState; readonly leader: LeaderKey };
  #drawn = 0;
  #revision = 10;

  /** It is elected in epoch 2, and sees that in etcd. */
  constructor() {
    this.election = new Election(
      {
        node: 'a',
        cluster: 'c',
        replicas: 3,
        minInSync: 2,
        leaseMs: 3000,
        draw: () => `drawn ${++this.#drawn}`,
      },
      { incarnation: 'a1', clusterId: 'id', epoch: 1, logEnd: 3, logEpoch: 1, isSuspect: false },
    );
    this.election.onTick(0, false, false);
    this.election.onLease(0);
    this.show(FOUND, undefined);
    const { state, leader } = this.transaction(this.effects());
    this.done();
    this.election.onPersisted();
    assert.equal(this.effects().at(-1)?.kind, 'lead');
    this.own = { state: state!, leader: leader as LeaderKey };
    this.show(this.own.state, this.own.leader);
    assert.deepEqual(this.effects(), []);
  }

  effects(): readonly Effect[] {
    return this.election.takeEffects();
  }

  kinds(): string[] {
    return this.effects().map(({ kind }) => kind);
  }

  /** The one that it wants carried out. */
  transaction(effects: readonly Effect[]): Transaction {
    const commits = effects.flatMap((effect) => (effect.kind === 'commit' ? [effect.transaction] : []));
    assert.equal(commits.length, 1);
    return commits[0]!;
  }

  /** Asks for another in-sync set. @returns what etcd is sent */
  propose(inSync: readonly InSyncMember[]): ClusterState {
    assert.ok(this.election.proposeInSync(inSync));
    return this.transaction(this.effects()).state!;
  }

  done(): void {
    this.election.onOutcome({ kind: 'done', revision: ++this.#revision });
  }

  refused(): void {
    this.election.onOutcome({ kind: 'refused' });
  }

  /** etcd has this, as of a revision of its own, or of that of the view before. */
  show(state: ClusterState, leader: LeaderKey | undefined, isOld = false): void {
    if (!isOld) this.#revision++;
    const revision = this.#revision;
    const view: ClusterView = {
      revision,
      state: { value: state, revision },
      leader: leader && { value: leader, revision },
      members: new Map([A, B, C].map((one) => [one.node, { value: memberKey(one), revision }])),
    };
    this.election.onView(view);
  }
}

function memberKey({ node, incarnation }: InSyncMember): MemberKey {
  const addresses = { peer: '', mqtt: '', http: '', version: '' };
  const log = { logEnd: 3, logEpoch: 1, epoch: 1, isSuspect: false };
  return { node, incarnation, clusterId: 'id', ...log, ...addresses };
}

test('a change of the in-sync set that etcd refuses counts until a view shows that it is not in force (R4)', () => {
  const leader = new Leader();
  leader.propose([A, B]);
  leader.refused();
  assert.deepEqual(leader.kinds(), [], 'it may have been carried out before, and its answer lost');
  leader.election.onTick(100, true, false);
  assert.deepEqual(leader.kinds(), []);
  // Nothing else is proposed meanwhile: only two sets at a time may be in force.
  assert.equal(leader.election.proposeInSync([A, C]), false);
  // One from before the refusal says nothing about it.
  leader.show(leader.own.state, leader.own.leader, true);
  assert.deepEqual(leader.kinds(), []);
  leader.show(leader.own.state, leader.own.leader);
  assert.deepEqual(leader.kinds(), ['abandoned']);
  assert.deepEqual(leader.propose([A, C]).inSync, [A, C]);
});

test('a change of the in-sync set that etcd refuses, and that is in force, counts until it is undone (R4)', () => {
  const leader = new Leader();
  const proposed = leader.propose([A, B]);
  leader.refused();
  leader.show(proposed, leader.own.leader);
  const effects = leader.effects();
  assert.deepEqual(
    effects.map(({ kind }) => kind),
    ['commit'],
  );
  assert.deepEqual(leader.transaction(effects).state?.inSync, [A, B, C]);
  leader.done();
  assert.deepEqual(leader.kinds(), ['abandoned']);
});

test('a change of the in-sync set that etcd refuses is not given up by a leader that is replaced (R4)', () => {
  const leader = new Leader();
  leader.propose([A, B]);
  leader.refused();
  const nonce = 'of b';
  leader.show({ ...FOUND, epoch: 3, leader: 'b', nonce }, { node: 'b', epoch: 3, nonce });
  const kinds = leader.kinds();
  assert.equal(kinds[0], 'stand-down');
  assert.equal(kinds.includes('abandoned'), false);
});

test('a change of the in-sync set is in force when etcd says so', () => {
  const leader = new Leader();
  leader.propose([A, B]);
  leader.done();
  assert.deepEqual(leader.kinds(), ['confirmed']);
  assert.ok(leader.election.proposeInSync([A, B, C]));
});
