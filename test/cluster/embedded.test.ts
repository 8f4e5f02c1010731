import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import type { ClusterState, LeaderKey, MemberKey } from '../../src/cluster/coordinator.js';
import { EmbeddedCoordinator, type StateStore } from '../../src/cluster/embedded.js';
import { systemClock } from '../../src/core/clock.js';
import { GomqError } from '../../src/core/errors.js';
import { RecordedEvents } from './recorded-events.js';

class KeptState implements StateStore {
  kept: ClusterState | undefined;
  failure: Error | undefined;

  load(): ClusterState | undefined {
    return this.kept;
  }

  save(state: ClusterState): void {
    if (this.failure !== undefined) throw this.failure;
    this.kept = state;
  }
}

function start(t: TestContext, store: StateStore = new KeptState()) {
  const events = new RecordedEvents();
  const coordinator = new EmbeddedCoordinator({ store, clock: systemClock });
  coordinator.start(events);
  t.after(() => coordinator.close());
  return { coordinator, events };
}

const state: ClusterState = {
  clusterId: 'c',
  epoch: 1,
  leader: 'a',
  inSync: [{ node: 'a', incarnation: '1' }],
  nonce: 'n',
};
const leader: LeaderKey = { node: 'a', epoch: 1, nonce: 'n' };
const member: MemberKey = {
  node: 'a',
  incarnation: '1',
  clusterId: 'c',
  logEnd: 0,
  logEpoch: 0,
  isSuspect: false,
  peer: '',
  mqtt: '',
  http: '',
  version: '0.1.0',
};

describe('a broker that is its own judge', () => {
  it('begins with a lease, a view and nothing in it, and not from inside the call', async (t) => {
    const { coordinator, events } = start(t);
    coordinator.register(member);
    assert.deepEqual([events.views.length, events.leases.length, events.reachable.length], [0, 0, 0]);
    await events.until(() => events.views.length > 0 && events.leases.length > 0, 'the start');
    assert.equal(events.isReachable, true);
    assert.equal(events.view.state, undefined);
    assert.equal(events.view.leader, undefined);
    assert.deepEqual(events.view.members.get('a')?.value, member);
  });

  it('holds its lease again and again', async (t) => {
    const { events } = start(t);
    // The timer of the lease keeps nothing alive.
    const alive = setInterval(() => {}, 1000);
    t.after(() => clearInterval(alive));
    await events.until(() => events.leases.length >= 3, 'three of them');
    assert.ok(events.leases[2]! - events.leases[0]! < 10_000);
    assert.equal(events.lost, 0);
  });

  it('carries out what expects what there is, tells it, and refuses the rest', async (t) => {
    const { coordinator, events } = start(t);
    const done = await coordinator.commit({ stateRevision: 0, leaderRevision: 0, state, leader });
    assert.ok(done.kind === 'done');
    const view = await events.untilView(({ leader }) => leader !== undefined, 'the leader');
    assert.deepEqual(view.state, { value: state, revision: done.revision });
    assert.deepEqual(view.leader, { value: leader, revision: done.revision });
    for (const [stateRevision, leaderRevision] of [
      [0, done.revision],
      [done.revision, 0],
    ] as const)
      assert.deepEqual(await coordinator.commit({ stateRevision, leaderRevision, state }), {
        kind: 'refused',
      });
    const left = await coordinator.commit({
      stateRevision: done.revision,
      leaderRevision: done.revision,
      leader: 'delete',
    });
    assert.ok(left.kind === 'done' && left.revision > done.revision);
    const after = await events.untilView(({ leader }) => leader === undefined, 'no leader');
    assert.deepEqual(after.state, view.state);
    const revisions = events.views.map(({ revision }) => revision);
    assert.deepEqual(
      revisions,
      [...new Set(revisions)].sort((a, b) => a - b),
    );
  });

  it('of two transactions at once carries out one', async (t) => {
    const { coordinator } = start(t);
    const outcomes = await Promise.all(
      ['x', 'y'].map((nonce) =>
        coordinator.commit({ stateRevision: 0, leaderRevision: 0, state: { ...state, nonce } }),
      ),
    );
    assert.deepEqual(
      outcomes.map(({ kind }) => kind),
      ['done', 'refused'],
    );
  });

  it('knows the state after it was started again, and no leader', async (t) => {
    const store = new KeptState();
    const before = start(t, store);
    await before.coordinator.commit({ stateRevision: 0, leaderRevision: 0, state, leader });
    await before.coordinator.close();
    const { events } = start(t, store);
    const view = await events.untilView(() => true, 'the first view');
    assert.deepEqual(view.state?.value, state);
    assert.equal(view.leader, undefined);
  });

  it('changes nothing that could not be kept', async (t) => {
    const store = new KeptState();
    const { coordinator, events } = start(t, store);
    store.failure = new Error('no room');
    await assert.rejects(coordinator.commit({ stateRevision: 0, leaderRevision: 0, state, leader }), {
      message: 'no room',
    });
    store.failure = undefined;
    assert.equal(
      (await coordinator.commit({ stateRevision: 0, leaderRevision: 0, state, leader })).kind,
      'done',
    );
    await events.untilView((view) => view.leader !== undefined, 'the leader');
  });

  it('says nothing after it was closed', async (t) => {
    const { coordinator, events } = start(t);
    const commit = coordinator.commit({ stateRevision: 0, leaderRevision: 0, state });
    const rejected = assert.rejects(
      commit,
      (error) => error instanceof GomqError && error.code === 'NOT_READY',
    );
    await coordinator.close();
    await rejected;
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual([events.views.length, events.leases.length, events.reachable.length], [0, 0, 0]);
  });
});
