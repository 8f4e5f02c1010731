// An etcd that forgets under load: emptied, or restored to what it was before, while brokers run and while none does. It never makes a cluster begin
// anew (R11): a leader writes its keys again, and where nobody leads nobody is elected, until the keys are back.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { EtcdProcess } from '../../scripts/etcd.js';
import type { ClusterState } from '../../src/cluster/coordinator.js';
import { killAllBrokers } from '../crash/broker-process.js';
import { storedUnder } from './etcd-process.js';
import type { Nodes } from './nodes.js';
import { type OwnFault, runFaults } from './rounds.js';

after(killAllBrokers);

const FORGOTTEN = /etcd knows nothing of cluster 'gomq', and this directory belongs to it/;
const OLD =
  /etcd knows epoch \d+ of cluster 'gomq', and .* has seen epoch \d+: etcd was restored from an old copy/;

const FAULTS: readonly OwnFault[] = [
  {
    what: 'etcd is emptied while a leader runs',
    async breaks({ nodes, etcd, leader }) {
      const before = await stateOf(etcd);
      await etcd.wipe();
      await nodes.until('its keys are written again', async () => (await stateOf(etcd)) !== undefined);
      assert.equal(nodes.leader, leader);
      await isSame(etcd, before);
    },
  },
  {
    what: 'etcd is restored to an older copy while a leader runs',
    async breaks({ nodes, etcd, leader: former, progress }) {
      const copy = await etcd.snapshot();
      await changeLeader(nodes, former);
      await progress();
      const leader = nodes.leader;
      const before = await stateOf(etcd);
      await etcd.restore(copy);
      await nodes.until(
        'its keys are written again',
        async () => (await stateOf(etcd))!.epoch >= before!.epoch,
      );
      assert.equal(nodes.leader, leader);
      await isSame(etcd, before);
    },
  },
  {
    what: 'etcd is emptied while all brokers are down',
    async breaks({ nodes, etcd }) {
      await killAll(nodes);
      const copy = await etcd.snapshot();
      const before = await stateOf(etcd);
      await etcd.wipe();
      await nobodyIsElected(nodes, FORGOTTEN);
      assert.equal(await stateOf(etcd), undefined);
      await etcd.restore(copy);
      await nodes.waitForLeader();
      await isSame(etcd, before);
    },
  },
  {
    what: 'etcd is restored to an older copy while all brokers are down',
    async breaks({ nodes, etcd, leader: former }) {
      const old = await etcd.snapshot();
      await changeLeader(nodes, former);
      await killAll(nodes);
      const copy = await etcd.snapshot();
      const before = await stateOf(etcd);
      await etcd.restore(old);
      const atFirst = await stateOf(etcd);
      assert.ok(atFirst!.epoch < before!.epoch);
      await nobodyIsElected(nodes, OLD);
      assert.deepEqual(await stateOf(etcd), atFirst);
      await etcd.restore(copy);
      await nodes.waitForLeader();
      await isSame(etcd, before);
    },
  },
];

test('nothing acknowledged is lost when etcd forgets', { timeout: 120_000 }, (context) =>
  runFaults(context, FAULTS),
);

async function stateOf(etcd: EtcdProcess): Promise<ClusterState | undefined> {
  const value = await storedUnder(etcd, 'state');
  return value === undefined ? undefined : (JSON.parse(value) as ClusterState);
}

/** It is the cluster that was there, and no earlier. */
async function isSame(etcd: EtcdProcess, before: ClusterState | undefined): Promise<void> {
  const state = await stateOf(etcd);
  assert.equal(state?.clusterId, before?.clusterId);
  assert.ok(state!.epoch >= before!.epoch, `epoch ${state!.epoch} after ${before!.epoch}`);
}

/** A later epoch, that all have seen. */
async function changeLeader(nodes: Nodes, former: string): Promise<void> {
  await nodes.kill(former);
  await nodes.until('another one leads', () => nodes.leader !== undefined && nodes.leader !== former);
  await nodes.start(former);
  await nodes.waitForInSync(nodes.names.length);
}

async function killAll(nodes: Nodes): Promise<void> {
  await Promise.all(nodes.names.map((name) => nodes.kill(name)));
}

async function nobodyIsElected(nodes: Nodes, said: RegExp): Promise<void> {
  await nodes.startAll();
  await Promise.all(nodes.names.map((name) => nodes.broker(name)!.said(said)));
  assert.equal(nodes.leader, undefined);
}
