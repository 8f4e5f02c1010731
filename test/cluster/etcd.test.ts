import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { EtcdProcess } from '../../scripts/etcd.js';
import type { ClusterState, LeaderKey, MemberKey, Transaction } from '../../src/cluster/coordinator.js';
import { EtcdCoordinator, type EtcdCoordinatorOptions } from '../../src/cluster/etcd.js';
import { systemClock } from '../../src/core/clock.js';
import { GomqError } from '../../src/core/errors.js';
import { type LogLine, recordingLogger } from '../net/support.js';
import { startEtcd, useEtcd } from './etcd-process.js';
import { LossyLink } from './lossy-link.js';
import { RecordedEvents } from './recorded-events.js';

const LEASE_SECONDS = 2;

interface Node {
  readonly coordinator: EtcdCoordinator;
  readonly events: RecordedEvents;
  readonly logged: LogLine[];
}

let lastCluster = 0;

function uniqueCluster(): string {
  lastCluster += 1;
  return `test-${lastCluster}`;
}

function start(
  t: TestContext,
  endpoint: string | string[],
  options: Partial<EtcdCoordinatorOptions> = {},
): Node {
  const events = new RecordedEvents();
  const logged: LogLine[] = [];
  const coordinator = new EtcdCoordinator({
    endpoints: [endpoint].flat(),
    user: '',
    password: '',
    tls: undefined,
    cluster: 'test',
    leaseSeconds: LEASE_SECONDS,
    clock: systemClock,
    logger: recordingLogger(logged),
    ...options,
  });
  coordinator.start(events);
  t.after(() => coordinator.close(1000));
  return { coordinator, events, logged };
}

function member(node: string, incarnation = '1'): MemberKey {
  return {
    node,
    incarnation,
    clusterId: 'c',
    logEnd: 0,
    logEpoch: 0,
    epoch: 0,
    isSuspect: false,
    peer: '',
    mqtt: '',
    http: '',
    version: '0.1.0',
  };
}

let lastNonce = 0;

function nonce(): string {
  lastNonce += 1;
  return `nonce-${process.pid}-${lastNonce}.`;
}

function state(node: string, epoch: number): ClusterState {
  return {
    clusterId: 'c',
    epoch,
    leader: node,
    inSync: [{ node, incarnation: '1' }],
    nonce: nonce(),
  };
}

function leader(node: string, epoch: number): LeaderKey {
  return { node, epoch, nonce: nonce() };
}

/** As a campaign of `node` that goes by the last view does it. */
function campaign({ events }: Node, node: string): Transaction {
  const view = events.views.at(-1);
  const epoch = (view?.state?.value.epoch ?? 0) + 1;
  return {
    stateRevision: view?.state?.revision ?? 0,
    leaderRevision: 0,
    state: state(node, epoch),
    leader: leader(node, epoch),
  };
}

/** How often the state key was written. */
async function stateVersion(etcd: EtcdProcess, cluster = 'test'): Promise<number> {
  const answer = await etcd.ask('kv/range', { key: base64(`/gomq/${cluster}/state`) });
  return Number((answer.kvs as { version: string }[] | undefined)?.[0]?.version ?? 0);
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}

describe('etcd', { timeout: 110_000 }, () => {
  const shared = useEtcd();

  it('a registered member is seen by all, and gone when it is closed', async (t) => {
    const cluster = uniqueCluster();
    // No test waits until that has run out.
    const one = start(t, shared.etcd.endpoint, { cluster, leaseSeconds: 600 });
    const other = start(t, shared.etcd.endpoint, { cluster });
    one.coordinator.register(member('a'));
    const view = await other.events.untilView(({ members }) => members.has('a'), 'the member');
    assert.deepEqual(view.members.get('a')?.value, member('a'));
    await one.events.until(() => one.events.isReachable === true, 'etcd to be reachable');
    await one.coordinator.close(5000);
    await other.events.untilView(({ members }) => !members.has('a'), 'the member to be gone');
  });

  it('what is registered again replaces what was', async (t) => {
    const cluster = uniqueCluster();
    const one = start(t, shared.etcd.endpoint, { cluster });
    one.coordinator.register(member('a', '1'));
    await one.events.untilView(({ members }) => members.has('a'), 'the member');
    one.coordinator.register(member('a', '2'));
    await one.events.untilView(({ members }) => members.get('a')?.value.incarnation === '2', 'the other one');
  });

  it('a transaction is done where the revisions are those expected, and refused otherwise', async (t) => {
    const one = start(t, shared.etcd.endpoint, { cluster: uniqueCluster() });
    const first = campaign(one, 'a');
    const done = await one.coordinator.commit(first);
    assert.equal(done.kind, 'done');
    const view = await one.events.untilView(({ leader }) => leader !== undefined, 'the leader');
    assert.deepEqual(view.state?.value, first.state);
    assert.deepEqual(view.leader?.value, first.leader);
    assert.ok(done.kind === 'done' && view.state?.revision === done.revision);
    assert.equal(view.leader?.revision, done.revision);

    assert.deepEqual(
      await one.coordinator.commit({ ...first, state: state('b', 1), leader: leader('b', 1) }),
      {
        kind: 'refused',
      },
    );
    const wrongLeader = { stateRevision: done.revision, leaderRevision: 0, state: state('a', 2) };
    assert.deepEqual(await one.coordinator.commit(wrongLeader), { kind: 'refused' });

    const change = { stateRevision: done.revision, leaderRevision: done.revision, state: state('a', 2) };
    const changed = await one.coordinator.commit(change);
    assert.ok(changed.kind === 'done' && changed.revision > done.revision);
    assert.deepEqual(await one.coordinator.commit({ ...change, state: state('a', 3) }), { kind: 'refused' });

    const leave = {
      stateRevision: changed.revision,
      leaderRevision: done.revision,
      leader: 'delete',
    } as const;
    assert.equal((await one.coordinator.commit(leave)).kind, 'done');
    const after = await one.events.untilView(({ leader }) => leader === undefined, 'no leader');
    assert.deepEqual(after.state?.value, change.state);
    assert.equal((await one.coordinator.commit(leave)).kind, 'done', 'what is gone is gone');
  });

  it('the leader key can be fenced: taken over at the revision it has', async (t) => {
    const cluster = uniqueCluster();
    const one = start(t, shared.etcd.endpoint, { cluster });
    const other = start(t, shared.etcd.endpoint, { cluster });
    await one.coordinator.commit(campaign(one, 'a'));
    const { leader: dead } = await other.events.untilView(({ leader }) => leader !== undefined, 'the leader');
    const outcome = await other.coordinator.commit({
      ...campaign(other, 'b'),
      leaderRevision: dead!.revision,
    });
    assert.equal(outcome.kind, 'done');
    await one.coordinator.close(5000);
    const answer = await shared.etcd.ask('kv/range', { key: base64(`/gomq/${cluster}/leader`) });
    assert.equal(
      Number(answer.count),
      1,
      'the key went with the lease of who wrote it, not of who had it before',
    );
  });

  it('of two that race, exactly one wins each round', async (t) => {
    const cluster = uniqueCluster();
    const nodes = [start(t, shared.etcd.endpoint, { cluster }), start(t, shared.etcd.endpoint, { cluster })];
    let stateRevision = 0;
    let leaderRevision = 0;
    for (let epoch = 1; epoch <= 100; epoch++) {
      const outcomes = await Promise.all(
        nodes.map(({ coordinator }, index) =>
          coordinator.commit({
            stateRevision,
            leaderRevision,
            state: state(`node-${index}`, epoch),
            leader: leader(`node-${index}`, epoch),
          }),
        ),
      );
      const done = outcomes.filter(({ kind }) => kind === 'done');
      assert.equal(done.length, 1, `round ${epoch}`);
      assert.ok(done[0]?.kind === 'done');
      stateRevision = done[0].revision;
      leaderRevision = done[0].revision;
    }
    assert.equal(await stateVersion(shared.etcd, cluster), 100);
    for (const { events } of nodes) {
      const revisions = events.views.map(({ revision }) => revision);
      assert.deepEqual(
        revisions,
        [...new Set(revisions)].sort((a, b) => a - b),
        'views never go back',
      );
    }
  });

  it('a view comes at once after another has changed something', async (t) => {
    const cluster = uniqueCluster();
    const one = start(t, shared.etcd.endpoint, { cluster });
    const other = start(t, shared.etcd.endpoint, { cluster });
    await other.events.until(() => other.events.views.length > 0, 'the first view');
    // The watch has begun where a change came before the poll would have found it.
    const took: number[] = [];
    let stateRevision = 0;
    for (let epoch = 1; epoch <= 21; epoch++) {
      const outcome = await one.coordinator.commit({
        stateRevision,
        leaderRevision: 0,
        state: state('a', epoch),
      });
      const doneMs = performance.now();
      assert.ok(outcome.kind === 'done');
      stateRevision = outcome.revision;
      await other.events.untilView(({ state }) => state?.revision === stateRevision, 'the change');
      took.push(performance.now() - doneMs);
    }
    const median = took.sort((a, b) => a - b)[10]!;
    t.diagnostic(`median ${median.toFixed(1)} ms, max ${took.at(-1)!.toFixed(1)} ms`);
    assert.ok(median < 100, `half of the views came within ${median} ms`);
  });

  it('a lease that etcd does not have any more is lost, also where no member key tells so', async (t) => {
    const cluster = uniqueCluster();
    const one = start(t, shared.etcd.endpoint, { cluster });
    await one.coordinator.commit(campaign(one, 'a'));
    await one.events.untilView(({ leader }) => leader !== undefined, 'the leader');
    const answer = await shared.etcd.ask('kv/range', { key: base64(`/gomq/${cluster}/leader`) });
    const { lease } = (answer.kvs as { lease: string }[])[0]!;
    await shared.etcd.ask('lease/revoke', { ID: lease });
    await one.events.until(() => one.events.lost > 0, 'the loss to be told');
    await one.events.untilView(({ leader }) => leader === undefined, 'the leader key to be gone');
    const leases = one.events.leases.length;
    await one.events.until(() => one.events.leases.length > leases, 'another lease');
    assert.equal(one.events.lost, 1);
  });

  it('keeps a lease for longer than it lasts, and tells when it asked', async (t) => {
    const one = start(t, shared.etcd.endpoint, { cluster: uniqueCluster(), leaseSeconds: 1 });
    await one.events.until(() => one.events.leases.length >= 12, 'keepalives');
    assert.equal(one.events.lost, 0);
    const { leases } = one.events;
    assert.deepEqual(
      leases,
      [...leases].sort((a, b) => a - b),
    );
    assert.ok(leases.at(-1)! <= performance.now());
  });

  it('a value that is not what belongs there is told once, and changes nothing', async (t) => {
    const cluster = uniqueCluster();
    const one = start(t, shared.etcd.endpoint, { cluster });
    const first = campaign(one, 'a');
    await one.coordinator.commit(first);
    await one.events.untilView(({ state }) => state !== undefined, 'the state');
    const views = one.events.views.length;
    const key = base64(`/gomq/${cluster}/state`);
    const complaints = () =>
      one.logged.filter(({ message }) => message.includes('is not what belongs there'));
    await shared.etcd.ask('kv/put', { key, value: base64('{"epoch":-1}') });
    while (complaints().length === 0) await delay(10);
    assert.match(complaints()[0]!.message, new RegExp(`/gomq/${cluster}/state`));
    // Two polls.
    await delay(2500);
    assert.equal(complaints().length, 1);
    assert.equal(one.events.views.length, views);
    await shared.etcd.ask('kv/put', { key, value: base64('nonsense') });
    while (complaints().length === 1) await delay(10);
    await shared.etcd.ask('kv/put', { key, value: base64(JSON.stringify(first.state)) });
    await one.events.until(() => one.events.views.length > views, 'the view of the state that was mended');
    assert.deepEqual(one.events.view.state?.value, first.state);
  });

  it('a member key that somebody has removed is written again', async (t) => {
    const cluster = uniqueCluster();
    const one = start(t, shared.etcd.endpoint, { cluster });
    one.coordinator.register(member('a'));
    await one.events.untilView(({ members }) => members.has('a'), 'the member');
    await shared.etcd.ask('kv/deleterange', { key: base64(`/gomq/${cluster}/members/a`) });
    await one.events.untilView(({ members }) => !members.has('a'), 'the member to be gone');
    await one.events.untilView(({ members }) => members.has('a'), 'the member again');
    assert.equal(one.events.lost, 0);
  });

  it('a transaction whose answer got lost was done once', async (t) => {
    const cluster = uniqueCluster();
    const link = await LossyLink.open(t, shared.etcd.endpoint);
    const one = start(t, link.endpoint, { cluster });
    await one.events.until(() => one.events.leases.length > 0, 'the lease');
    const transaction = campaign(one, 'a');
    const lost = link.loseAnswerTo(transaction.state!.nonce);
    const outcome = await one.coordinator.commit(transaction);
    await lost;
    assert.equal(outcome.kind, 'done');
    assert.equal(await stateVersion(shared.etcd, cluster), 1);
    const view = await one.events.untilView(({ state }) => state !== undefined, 'the state');
    assert.ok(outcome.kind === 'done' && view.state?.revision === outcome.revision);

    const leave = { ...campaign(one, 'a'), leaderRevision: view.leader!.revision };
    const left = link.loseAnswerTo(leave.state!.nonce);
    const { state: after } = leave;
    const change = {
      stateRevision: leave.stateRevision,
      leaderRevision: leave.leaderRevision,
      state: after!,
    };
    assert.equal((await one.coordinator.commit({ ...change, leader: 'delete' })).kind, 'done');
    await left;
    assert.equal(await stateVersion(shared.etcd, cluster), 2);
  });

  it('a transaction whose answer got lost is refused where another came before', async (t) => {
    const cluster = uniqueCluster();
    const link = await LossyLink.open(t, shared.etcd.endpoint);
    const one = start(t, link.endpoint, { cluster });
    const other = start(t, shared.etcd.endpoint, { cluster });
    await one.events.until(() => one.events.leases.length > 0, 'the lease');
    const transaction = campaign(one, 'a');
    assert.equal((await other.coordinator.commit(campaign(other, 'b'))).kind, 'done');
    const lost = link.loseAnswerTo(transaction.state!.nonce);
    assert.deepEqual(await one.coordinator.commit(transaction), { kind: 'refused' });
    await lost;
    assert.equal(await stateVersion(shared.etcd, cluster), 1);
  });

  it('connections that have died in silence are replaced', async (t) => {
    const cluster = uniqueCluster();
    const link = await LossyLink.open(t, shared.etcd.endpoint);
    const one = start(t, link.endpoint, { cluster });
    const other = start(t, shared.etcd.endpoint, { cluster });
    await one.events.until(() => one.events.leases.length > 1 && one.events.views.length > 0, 'it to work');
    link.silence();
    let stateRevision = 0;
    const isRestarted = () => one.logged.some(({ message }) => message.includes('begins anew'));
    for (let epoch = 1; !isRestarted(); epoch++) {
      assert.ok(epoch < 100, 'the watch begins anew');
      const outcome = await other.coordinator.commit({
        stateRevision,
        leaderRevision: 0,
        state: state('b', epoch),
      });
      assert.ok(outcome.kind === 'done');
      stateRevision = outcome.revision;
      await one.events.untilView(({ state }) => state?.revision === stateRevision, 'the change, by the poll');
    }
    const leases = one.events.leases.length;
    await one.events.until(() => one.events.leases.length > leases, 'the lease to be kept');
    assert.equal((await one.coordinator.commit({ ...campaign(one, 'a'), stateRevision })).kind, 'done');
  });

  it('an endpoint that does not answer is passed over for one that does', async (t) => {
    const one = start(t, ['http://127.0.0.1:1', shared.etcd.endpoint, 'http://127.0.0.1:1'], {
      cluster: uniqueCluster(),
    });
    one.coordinator.register(member('a'));
    await one.events.untilView(({ members }) => members.has('a'), 'the member');
    assert.equal((await one.coordinator.commit(campaign(one, 'a'))).kind, 'done');
  });

  it('an endpoint that cannot be reached is told with its address', async (t) => {
    const one = start(t, 'http://127.0.0.1:1');
    await one.events.until(() => one.events.reachable.length > 0, 'it to be told');
    const { isReachable, error } = one.events.reachable[0]!;
    assert.equal(isReachable, false);
    assert.match(error!.message, /^etcd at http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/);
    await delay(1000);
    assert.equal(one.events.reachable.length, 1, 'once');
  });

  it('what was committed is rejected when it is closed before it is known what became of it', async (t) => {
    const one = start(t, 'http://127.0.0.1:1');
    const noLease = one.coordinator.commit(campaign(one, 'a'));
    const noAnswer = one.coordinator.commit({ stateRevision: 0, leaderRevision: 0, state: state('a', 1) });
    const rejected = Promise.all(
      [noLease, noAnswer].map((commit) =>
        assert.rejects(commit, (error) => error instanceof GomqError && error.code === 'NOT_READY'),
      ),
    );
    await one.coordinator.close(1000);
    await rejected;
  });
});

describe('an etcd that fails', { timeout: 110_000 }, () => {
  it('killed and started again: what there was is there, and the work goes on', async (t) => {
    const etcd = await startEtcd(t);
    const one = start(t, etcd.endpoint);
    one.coordinator.register(member('a'));
    const first = campaign(one, 'a');
    assert.equal((await one.coordinator.commit(first)).kind, 'done');
    await one.events.untilView(({ leader, members }) => leader !== undefined && members.has('a'), 'all keys');
    await etcd.kill();
    await one.events.until(() => one.events.isReachable === false, 'the outage to be told');
    assert.match(one.events.reachable.at(-1)!.error!.message, /^etcd at http/);
    await etcd.restart();
    const leases = one.events.leases.length;
    await one.events.until(() => one.events.isReachable === true, 'the end of it to be told');
    await one.events.until(() => one.events.leases.length > leases, 'a lease');
    const view = await one.events.untilView(({ members }) => members.has('a'), 'the member');
    assert.deepEqual(view.state?.value, first.state);
    // Leases of an etcd that starts last their whole time again.
    if (one.events.lost === 0) assert.deepEqual(view.leader?.value, first.leader);
  });

  it('killed while transactions are under way: each is done once', async (t) => {
    const etcd = await startEtcd(t);
    const one = start(t, etcd.endpoint);
    let stateRevision = 0;
    for (let round = 1; round <= 8; round++) {
      const commit = one.coordinator.commit({ stateRevision, leaderRevision: 0, state: state('a', round) });
      await delay(round - 1);
      await etcd.restart();
      const outcome = await commit;
      assert.ok(outcome.kind === 'done', `round ${round}: nobody else writes`);
      assert.ok(outcome.revision > stateRevision);
      stateRevision = outcome.revision;
      assert.equal(await stateVersion(etcd), round);
    }
  });

  it('that stops and goes on: what was asked meanwhile is answered, and the loss of the lease is told', async (t) => {
    const etcd = await startEtcd(t);
    const one = start(t, etcd.endpoint, { leaseSeconds: 1 });
    one.coordinator.register(member('a'));
    assert.equal((await one.coordinator.commit(campaign(one, 'a'))).kind, 'done');
    const { state: there, leader: led } = await one.events.untilView(
      ({ leader, members }) => leader !== undefined && members.has('a'),
      'all keys',
    );
    etcd.pause();
    const commit = one.coordinator.commit({
      stateRevision: there!.revision,
      leaderRevision: led!.revision,
      state: state('a', 2),
    });
    await one.events.until(() => one.events.isReachable === false, 'the outage to be told');
    const silentMs = performance.now();
    const leases = one.events.leases.length;
    await delay(3000);
    assert.equal(one.events.leases.length, leases, 'no lease is told to hold');
    etcd.resume();
    // Whether the lease or the transaction is first is not for the test to say.
    await commit;
    await one.events.until(() => one.events.isReachable === true, 'the end of it to be told');
    await one.events.until(() => one.events.leases.at(-1)! > silentMs, 'a lease');
    await one.events.untilView(({ members }) => members.has('a'), 'the member');
  });

  it('that was wiped: the views begin anew, with a warning, and the member is there again', async (t) => {
    const etcd = await startEtcd(t);
    const one = start(t, etcd.endpoint);
    one.coordinator.register(member('a'));
    assert.equal((await one.coordinator.commit(campaign(one, 'a'))).kind, 'done');
    await one.events.untilView(({ leader, members }) => leader !== undefined && members.has('a'), 'all keys');
    for (let write = 0; write < 20; write++)
      await etcd.ask('kv/put', { key: base64('/elsewhere'), value: base64('x') });
    const { revision } = await one.events.untilView(({ revision }) => revision > 20, 'a later view');
    await etcd.wipe();
    const view = await one.events.untilView(
      (view) => view.revision < revision && view.members.has('a'),
      'the member in what is new',
    );
    assert.equal(view.state, undefined);
    assert.equal(view.leader, undefined);
    assert.equal(one.events.lost, 1);
    const warnings = one.logged.filter(({ message }) => message.includes('etcd has gone back from revision'));
    assert.equal(warnings.length, 1);
    assert.equal((await one.coordinator.commit(campaign(one, 'a'))).kind, 'done');
  });

  it('that was restored from a copy: the views go back to it', async (t) => {
    const etcd = await startEtcd(t);
    const one = start(t, etcd.endpoint, { leaseSeconds: 60 });
    await one.events.until(() => one.events.leases.length > 0, 'the lease');
    const first = { stateRevision: 0, leaderRevision: 0, state: state('a', 1) };
    const done = await one.coordinator.commit(first);
    assert.ok(done.kind === 'done');
    const copy = await etcd.snapshot();
    one.coordinator.register(member('a'));
    await one.coordinator.commit({ stateRevision: done.revision, leaderRevision: 0, state: state('a', 2) });
    await one.events.untilView(
      ({ state, members }) => state?.value.epoch === 2 && members.has('a'),
      'the later state',
    );
    for (let write = 0; write < 20; write++)
      await etcd.ask('kv/put', { key: base64('/elsewhere'), value: base64('x') });
    await one.events.untilView(({ revision }) => revision > 20, 'a later view');
    await etcd.restore(copy);
    const view = await one.events.untilView(
      ({ revision, members }) => revision <= 20 && members.has('a'),
      'the member in what was restored',
    );
    assert.deepEqual(view.state?.value, first.state);
    assert.equal(one.events.lost, 0, 'the lease is in the copy too');
  });

  it('for five seconds: within half a second after it is back, everything works', async (t) => {
    const etcd = await startEtcd(t);
    const one = start(t, etcd.endpoint, { leaseSeconds: 30 });
    const other = start(t, etcd.endpoint, { leaseSeconds: 30 });
    await other.events.until(
      () => other.events.leases.length > 0 && other.events.views.length > 0,
      'a start',
    );
    assert.equal((await one.coordinator.commit(campaign(one, 'a'))).kind, 'done');
    const { state: there, leader: led } = await one.events.untilView(
      ({ leader }) => leader !== undefined,
      'it',
    );
    await etcd.kill();
    await delay(5000);
    const change = { stateRevision: there!.revision, leaderRevision: led!.revision, state: state('a', 2) };
    const done = one.coordinator.commit(change).then(({ kind }) => {
      assert.equal(kind, 'done');
      return performance.now();
    });
    const seen = other.events
      .untilView(({ state }) => state?.value.epoch === 2, 'the change')
      .then(() => performance.now());
    await etcd.restart();
    const backMs = performance.now();
    const took = Math.max(await done, await seen) - backMs;
    t.diagnostic(`${took.toFixed(0)} ms`);
    assert.ok(took < 500, `it took ${took} ms`);
  });

  it('closing while it is down, or stopped, returns within the grace', async (t) => {
    const etcd = await startEtcd(t);
    const down = start(t, etcd.endpoint);
    const stopped = start(t, etcd.endpoint);
    for (const { events } of [down, stopped]) await events.until(() => events.leases.length > 0, 'a lease');
    for (const [node, fail] of [
      [stopped, () => etcd.pause()],
      [down, () => etcd.kill()],
    ] as const) {
      await fail();
      const beganMs = performance.now();
      await node.coordinator.close(200);
      // Half a second for a machine that is busy.
      const took = performance.now() - beganMs;
      assert.ok(took < 700, `it took ${took} ms`);
    }
  });

  it('nothing that is left keeps the process', async (t) => {
    const etcd = await startEtcd(t);
    const script = `
      import { EtcdCoordinator } from './src/cluster/etcd.ts';
      const clock = { monotonicMs: () => performance.now() };
      const logger = { debug() {}, info() {}, warn() {}, error() {} };
      const coordinator = new EtcdCoordinator({ endpoints: process.argv.slice(1), user: '', password: '', tls: undefined,
        cluster: 'test', leaseSeconds: 60, clock, logger });
      const isReady = new Promise((resolve) => {
        const events = { onView() {}, onLease: resolve, onLeaseLost() {}, onReachable: resolve };
        coordinator.start(events);
      });
      isReady.then(() => coordinator.close(1000)).then(() => console.log('closed'));`;
    for (const endpoint of [etcd.endpoint, 'http://127.0.0.1:1']) {
      const { stdout } = await promisify(execFile)(
        process.execPath,
        ['--import', 'tsx', '--input-type=module', '-e', script, endpoint],
        { timeout: 20_000 },
      );
      assert.equal(stdout, 'closed\n');
    }
  });

  it('with users: the right password works, also after etcd has forgotten who it was, and a wrong one is told', async (t) => {
    const etcd = await startEtcd(t);
    await etcd.ask('auth/user/add', { name: 'root', password: 'secret' });
    await etcd.ask('auth/role/add', { name: 'root' });
    await etcd.ask('auth/user/grant', { user: 'root', role: 'root' });
    await etcd.ask('auth/enable', {});
    const right = start(t, etcd.endpoint, { user: 'root', password: 'secret' });
    const wrong = start(t, etcd.endpoint, { user: 'root', password: 'public' });
    const nobody = start(t, etcd.endpoint);
    right.coordinator.register(member('a'));
    await right.events.untilView(({ members }) => members.has('a'), 'the member');
    assert.equal((await right.coordinator.commit(campaign(right, 'a'))).kind, 'done');
    for (const [{ events }, reason] of [
      [wrong, /^etcd at http.*invalid user ID or password/],
      [nobody, /^etcd at http.*user name is empty/],
    ] as const) {
      await events.until(() => events.reachable.length > 0, 'it to be told');
      assert.equal(events.isReachable, false);
      assert.match(events.reachable[0]!.error!.message, reason);
      assert.equal(events.views.length, 0);
    }
    const { token } = await etcd.ask('auth/authenticate', { name: 'root', password: 'secret' });
    // The same one again; what counts is that etcd forgets all tokens of the user with it.
    await etcd.ask('auth/user/changepw', { name: 'root', password: 'secret' }, token as string);
    const { state: there } = await right.events.untilView(({ state }) => state !== undefined, 'the state');
    const leases = right.events.leases.length;
    const change = {
      stateRevision: there!.revision,
      leaderRevision: right.events.view.leader?.revision ?? 0,
      state: state('a', 2),
    };
    assert.equal((await right.coordinator.commit(change)).kind, 'done');
    await right.events.until(() => right.events.leases.length > leases, 'the lease to be kept');
    await right.events.untilView(({ state }) => state?.value.epoch === 2, 'the change');
    await etcd.restart();
    right.coordinator.register(member('a', '2'));
    await right.events.untilView(
      ({ members }) => members.get('a')?.value.incarnation === '2',
      'the other one',
    );
  });
});
