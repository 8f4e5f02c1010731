// What happens without luck: one cluster of three, one fault, and how long it takes until writes go on.
import { Cluster, LEASE_MS, type Machine } from './cluster.js';
import { ETCD } from './etcd.js';
import { Violation, World } from './world.js';

const START_MS = 5000;
const STEP_MS = 10;

class Scenario {
  readonly cluster: Cluster;
  readonly world: World;

  constructor(seed: number) {
    this.world = new World(seed, false);
    this.cluster = new Cluster(this.world, 3);
    this.world.runUntil(START_MS);
    if (this.serving === undefined) throw new Violation(`SEED=${seed}: nobody serves after ${START_MS} ms`);
  }

  get serving(): Machine | undefined {
    return this.cluster.machines.find(({ node }) => node?.isServing === true);
  }

  /** How long until it is so, at most `limitMs`. */
  until(limitMs: number, isSo: () => boolean): number {
    const fromMs = this.world.nowMs;
    while (!isSo() && this.world.nowMs - fromMs < limitMs) this.world.runUntil(this.world.nowMs + STEP_MS);
    return this.world.nowMs - fromMs;
  }
}

/** R9: a leader whose process is gone is replaced without waiting for its lease. @returns how long it took */
export function replaceKilledLeader(seed: number): number {
  const scenario = new Scenario(seed);
  const leader = scenario.serving!;
  const { node } = leader;
  scenario.cluster.kill(leader, false);
  const limitMs = LEASE_MS / 3;
  // It may be back within milliseconds, and be the one that is elected.
  const tookMs = scenario.until(LEASE_MS * 3, () => (scenario.serving?.node ?? node) !== node);
  if (tookMs > limitMs) throw new Violation(`SEED=${seed}: a killed leader is replaced after ${tookMs} ms`);
  return tookMs;
}

/** R10: a leader that nobody hears does not serve longer than its lease. @returns how long it did */
export function silenceLeader(seed: number): number {
  const { cluster, until } = bind(seed);
  const leader = cluster.machines.find(({ node }) => node?.isServing === true)!;
  for (const other of [...cluster.machines.map(({ name }) => name), ETCD]) {
    if (other === leader.name) continue;
    cluster.network.cut(leader.name, other);
    cluster.network.cut(other, leader.name);
  }
  const tookMs = until(LEASE_MS * 3, () => leader.node?.isServing !== true);
  if (tookMs > LEASE_MS)
    throw new Violation(`SEED=${seed}: a leader that is cut off serves for ${tookMs} ms`);
  return tookMs;
}

/** R10: a minute without etcd stops nobody who is followed. @returns the longest time without an acknowledgement */
export function takeEtcdAway(seed: number): number {
  const { world, cluster } = bind(seed);
  cluster.etcd.isDown = true;
  let longestMs = 0;
  for (const endMs = world.nowMs + 60_000; world.nowMs < endMs; ) {
    world.runUntil(world.nowMs + 100);
    const lastMs = Math.max(...cluster.clients.map(({ lastAcknowledgedMs }) => lastAcknowledgedMs));
    longestMs = Math.max(longestMs, world.nowMs - lastMs);
  }
  if (longestMs > 2000)
    throw new Violation(`SEED=${seed}: without etcd nothing is acknowledged for ${longestMs} ms`);
  return longestMs;
}

/**
 * R11: an etcd that was brought back as it was before the last epoch has nobody elected until somebody brings the last state back as well.
 * @returns how long it takes then
 */
export function bringOldEtcdBack(seed: number): number {
  const { world, cluster, until } = bind(seed);
  const { etcd, checker, machines } = cluster;
  const isServed = (): boolean => machines.some(({ node }) => node?.isServing === true);
  const copy = etcd.copy();
  cluster.kill(machines.find(({ node }) => node?.isServing === true)!, false);
  // Everybody has to know: whoever does not is elected if nobody is there who does.
  const isKnown = (): boolean => isServed() && etcd.state!.inSync.length === machines.length;
  if (until(START_MS * 3, isKnown) >= START_MS * 3)
    throw new Violation(`SEED=${seed}: not all are in sync again`);
  const last = etcd.state!;
  for (const machine of machines) cluster.kill(machine, false);
  checker.isStateForeign = true;
  etcd.restore(copy);
  world.runUntil(world.nowMs + START_MS * 3);
  if (isServed())
    throw new Violation(`SEED=${seed}: an etcd that has forgotten an epoch has somebody elected`);
  etcd.putState(last);
  checker.isStateForeign = false;
  const tookMs = until(LEASE_MS * 3, isServed);
  if (tookMs >= LEASE_MS * 3)
    throw new Violation(`SEED=${seed}: nobody is elected once the state is there again`);
  return tookMs;
}

function bind(seed: number): Pick<Scenario, 'world' | 'cluster' | 'until'> {
  const scenario = new Scenario(seed);
  return { world: scenario.world, cluster: scenario.cluster, until: scenario.until.bind(scenario) };
}
