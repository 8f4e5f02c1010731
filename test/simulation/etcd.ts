// etcd as far as a cluster of brokers sees it: three kinds of keys, leases, revisions, transactions. It can be away, lose requests or their answers,
// carry out what was given up long ago, be wiped, or be brought back from an older copy.
import type { ClusterState, ClusterView, LeaderKey, Transaction } from '../../src/cluster/coordinator.js';
import type { IKeyValue, IRequestOp, ITxnRequest, ITxnResponse } from '../../src/cluster/etcd-client.js';
import { EtcdKeys } from '../../src/cluster/etcd-keys.js';
import { assert } from '../../src/core/assert.js';
import type { Network } from './network.js';
import type { Life, World } from './world.js';

export const ETCD = 'etcd';
const keys = new EtcdKeys('cluster');

interface Stored {
  readonly pair: IKeyValue;
  readonly revision: number;
  readonly lease: string | undefined;
}

interface Lease {
  expiresMs: number;
}

/** What a copy of its data holds. */
export interface Copy {
  readonly view: ClusterView;
  readonly pairs: ReadonlyMap<string, Stored>;
  readonly leases: readonly string[];
}

/** As EtcdLine answers it. */
export type Answer = ITxnResponse | 'lease-gone';

export class SimulatedEtcd {
  readonly #world: World;
  readonly #network: Network;
  readonly leaseMs: number;
  #revision = 1;
  /** Of what comes next, where etcd went back: no two changes have the same one, or the guard of an old transaction would let it through. */
  #revisionMin = 0;
  /** No precaution is taken against that. */
  reusesRevisions = false;
  #pairs = new Map<string, Stored>();
  readonly #leases = new Map<string, Lease>();
  /** What is in the pairs. */
  #view: ClusterView = { revision: 1, state: undefined, leader: undefined, members: new Map() };
  readonly #watchers = new Set<() => void>();
  isDown = false;
  /** Of a request, or of its answer, to be lost. */
  lossChance = 0;
  /** Upper bound of what either takes. */
  slowMs = 8;
  /** Told of each transaction that is carried out, before anybody else hears of it. */
  onTransaction: (before: ClusterView, transaction: Transaction) => void = () => undefined;

  /** Counts how often its data were exchanged. */
  #process = 0;

  constructor(world: World, network: Network, leaseMs: number) {
    this.#world = world;
    this.#network = network;
    this.leaseMs = leaseMs;
  }

  get state(): ClusterState | undefined {
    return this.#view.state?.value;
  }

  get leader(): LeaderKey | undefined {
    return this.#view.leader?.value;
  }

  /** Sends it something to do. What is lost is found out after `timeoutMs`, as is what takes longer; that may be done all the same. */
  request<T>(
    life: Life,
    timeoutMs: number,
    work: () => T,
    answer: (result: T) => void,
    failed: () => void,
  ): void {
    const world = this.#world;
    const { node } = life;
    const process = this.#process;
    let isOver = false;
    const fail = (): void => {
      if (isOver) return;
      isOver = true;
      failed();
    };
    const isLost = (): boolean => this.lossChance > 0 && world.random.chance(this.lossChance);
    const wayMs = world.delay(0.2, this.slowMs);
    const backMs = world.delay(0.2, this.slowMs);
    if (wayMs + backMs > timeoutMs) world.after(timeoutMs, life, fail);
    world.after(wayMs, undefined, () => {
      // What is on its way when its data are exchanged ends with the connections.
      if (this.isDown || process !== this.#process || this.#network.isCut(node, ETCD) || isLost()) {
        // A process that is not there is known at once.
        world.after(this.isDown && world.random.chance(0.5) ? 1 : Math.max(0, timeoutMs - wayMs), life, fail);
        return;
      }
      const result = work();
      const isLostOnTheWayBack = isLost();
      world.after(backMs, undefined, () => {
        if (this.isDown || this.#network.isCut(ETCD, node) || isLostOnTheWayBack) {
          world.after(Math.max(0, timeoutMs - wayMs - backMs), life, fail);
          return;
        }
        world.reach(life, () => {
          if (isOver) return;
          isOver = true;
          answer(result);
        });
      });
    });
  }

  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  // ---- what it does -----------------------------------------------------------------------------------------------------------------

  read(): ClusterView {
    return this.#view;
  }

  grant(): string {
    const id = this.#world.draw('lease');
    this.#leases.set(id, { expiresMs: this.#world.nowMs + this.leaseMs });
    this.#expireLater(id, this.leaseMs);
    return id;
  }

  /** Whether it is still there. */
  keepAlive(id: string): boolean {
    const lease = this.#leases.get(id);
    if (lease !== undefined) lease.expiresMs = this.#world.nowMs + this.leaseMs;
    return lease !== undefined;
  }

  revoke(id: string): void {
    if (!this.#leases.delete(id)) return;
    const leased = [...this.#pairs.values()].filter(({ lease }) => lease === id);
    if (leased.length === 0) return;
    const { leader } = this.#view;
    this.#change(() => {
      for (const { pair } of leased) this.#delete(pair.key);
    });
    if (leader !== undefined && this.#view.leader === undefined)
      this.#world.note(ETCD, () => `the key of the leader ${leader.value.node} is gone`);
  }

  /** @param transaction what the request was made of, where it is one of the election */
  transact({ compare = [], success = [], failure = [] }: ITxnRequest, transaction?: Transaction): Answer {
    const isAsExpected = compare.every(({ key, mod_revision: revision }) => {
      return (this.#pairs.get(textOf(key!))?.revision ?? 0) === Number(revision);
    });
    if (!isAsExpected) {
      const responses = failure.map(({ request_range: range }) => {
        const found = this.#pairs.get(textOf(range!.key!));
        return { response_range: { kvs: found === undefined ? [] : [found.pair] } };
      });
      return this.#answer(false, responses as ITxnResponse['responses']);
    }
    const isLeased = success.every(({ request_put: wanted }) => {
      return wanted?.lease === undefined || this.#leases.has(String(wanted.lease));
    });
    if (!isLeased) return 'lease-gone';
    if (transaction !== undefined) this.onTransaction(this.#view, transaction);
    this.#carryOut(success);
    if (transaction !== undefined)
      this.#world.note(ETCD, () => `revision ${this.#revision}: ${describe(transaction)}`);
    return this.#answer(true, []);
  }

  #answer(succeeded: boolean, responses: ITxnResponse['responses']): ITxnResponse {
    return { header: { revision: String(this.#revision) }, succeeded, responses } as ITxnResponse;
  }

  // ---- faults -----------------------------------------------------------------------------------------------------------------------

  /** It is there again, with its leases as they were, or with all their time before them. */
  comeBack(extendsLeases: boolean): void {
    this.isDown = false;
    for (const [id, lease] of this.#leases) {
      if (extendsLeases) lease.expiresMs = this.#world.nowMs + this.leaseMs;
      this.#expireLater(id, Math.max(0, lease.expiresMs - this.#world.nowMs));
    }
    for (const ring of this.#watchers) ring();
  }

  copy(): Copy {
    return { view: this.#view, pairs: new Map(this.#pairs), leases: [...this.#leases.keys()] };
  }

  /** Undefined wipes it. Leases of a copy have all their time before them. */
  restore(copy: Copy | undefined): void {
    this.#process++;
    if (!this.reusesRevisions) this.#revisionMin = Math.max(this.#revisionMin, this.#revision + 1);
    this.#view = copy?.view ?? { revision: 1, state: undefined, leader: undefined, members: new Map() };
    this.#revision = this.#view.revision;
    this.#pairs = new Map(copy?.pairs);
    this.#leases.clear();
    for (const id of copy?.leases ?? []) {
      this.#leases.set(id, { expiresMs: this.#world.nowMs + this.leaseMs });
      this.#expireLater(id, this.leaseMs);
    }
    for (const ring of this.#watchers) ring();
  }

  /** An operator puts the state key there, when nobody else can. */
  putState(state: ClusterState): void {
    this.#carryOut(keys.transaction({ stateRevision: 0, leaderRevision: 0, state }, undefined).success!);
  }

  #carryOut(operations: readonly IRequestOp[]): void {
    this.#change((revision) => {
      for (const { request_put: wanted, request_delete_range: unwanted } of operations) {
        if (wanted !== undefined) this.#put(wanted, revision);
        if (unwanted !== undefined) this.#delete(unwanted.key!);
      }
    });
  }

  #change(change: (revision: number) => void): void {
    this.#revision = Math.max(this.#revision + 1, this.#revisionMin);
    this.#view = { ...this.#view, revision: this.#revision };
    change(this.#revision);
    for (const ring of this.#watchers) ring();
  }

  /** Each value is read once, as EtcdKeys reads it. */
  #put({ key, value, lease }: NonNullable<IRequestOp['request_put']>, revision: number): void {
    const pair = { key, value, mod_revision: String(revision) } as IKeyValue;
    this.#pairs.set(textOf(key!), { pair, revision, lease: lease === undefined ? undefined : String(lease) });
    const put = keys.view(revision, [pair]);
    assert(!('problem' in put), 'what is put can be read');
    const { state, leader, members } = this.#view;
    this.#view = {
      revision,
      state: put.state ?? state,
      leader: put.leader ?? leader,
      members: put.members.size === 0 ? members : new Map([...members, ...put.members]),
    };
  }

  #delete(key: Buffer | string): void {
    const found = this.#pairs.get(textOf(key));
    if (found === undefined) return;
    this.#pairs.delete(textOf(key));
    const { leader, members } = keys.view(found.revision, [found.pair]) as ClusterView;
    const left = new Map(this.#view.members);
    for (const node of members.keys()) left.delete(node);
    this.#view = {
      ...this.#view,
      leader: leader === undefined ? this.#view.leader : undefined,
      members: left,
    };
  }

  #expireLater(id: string, afterMs: number): void {
    this.#world.after(afterMs, undefined, () => {
      const lease = this.#leases.get(id);
      // `comeBack` looks at them again.
      if (lease === undefined || this.isDown) return;
      const leftMs = lease.expiresMs - this.#world.nowMs;
      if (leftMs > 0) this.#expireLater(id, leftMs);
      else this.revoke(id);
    });
  }
}

function textOf(key: Buffer | string): string {
  return key.toString();
}

function describe({ state, leader }: Transaction): string {
  const parts: string[] = [];
  if (state !== undefined) {
    const inSync = state.inSync.map(({ incarnation }) => incarnation).join(' ');
    parts.push(
      `state epoch ${state.epoch} leader '${state.leader}' in sync {${inSync}} nonce ${state.nonce}`,
    );
  }
  if (leader === 'delete') parts.push('leader key deleted');
  else if (leader !== undefined) parts.push(`leader key ${leader.node} of epoch ${leader.epoch}`);
  return parts.join(', ');
}
