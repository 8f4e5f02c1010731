// etcd as far as a cluster of brokers sees it: three kinds of keys, leases, revisions, transactions. It can be away, lose requests or their answers,
// carry out what was given up long ago, be wiped, or be brought back from an older copy.
import type {
  ClusterState,
  ClusterView,
  LeaderKey,
  MemberKey,
  Transaction,
  Versioned,
} from '../../src/cluster/coordinator.js';
import type { Network } from './network.js';
import type { Life, World } from './world.js';

export const ETCD = 'etcd';

interface Leased<T> extends Versioned<T> {
  readonly lease: string;
}

interface Lease {
  expiresMs: number;
}

/** What a copy of its data holds. */
export interface Copy {
  readonly revision: number;
  readonly state: Versioned<ClusterState> | undefined;
  readonly leader: Leased<LeaderKey> | undefined;
  readonly members: ReadonlyMap<string, Leased<MemberKey>>;
  readonly leases: readonly string[];
}

export type Answer =
  | { readonly kind: 'done'; readonly revision: number }
  | { readonly kind: 'lease-gone' }
  | {
      readonly kind: 'failed';
      readonly revision: number;
      readonly state: Versioned<ClusterState> | undefined;
      readonly leader: Versioned<LeaderKey> | undefined;
    };

export class SimulatedEtcd {
  readonly #world: World;
  readonly #network: Network;
  readonly leaseMs: number;
  #revision = 1;
  /** Of what comes next, where etcd went back: no two changes have the same one, or the guard of an old transaction would let it through. */
  #revisionMin = 0;
  /** No precaution is taken against that. */
  reusesRevisions = false;
  #state: Versioned<ClusterState> | undefined = undefined;
  #leader: Leased<LeaderKey> | undefined = undefined;
  #members = new Map<string, Leased<MemberKey>>();
  readonly #leases = new Map<string, Lease>();
  #view: ClusterView | undefined = undefined;
  readonly #watchers = new Set<() => void>();
  isDown = false;
  /** Of a request, or of its answer, to be lost. */
  lossChance = 0;
  /** Upper bound of what either takes. */
  slowMs = 8;
  /** Told of each change that somebody asked for, before anybody else hears of it. */
  onTransaction: (before: ClusterState | undefined, transaction: Transaction) => void = () => undefined;

  /** Counts how often its data were exchanged. */
  #process = 0;

  constructor(world: World, network: Network, leaseMs: number) {
    this.#world = world;
    this.#network = network;
    this.leaseMs = leaseMs;
  }

  get state(): ClusterState | undefined {
    return this.#state?.value;
  }

  get leader(): LeaderKey | undefined {
    return this.#leader?.value;
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
    this.#view ??= {
      revision: this.#revision,
      state: this.#state,
      leader: this.#leader,
      members: new Map(this.#members),
    };
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
    const isLeader = this.#leader?.lease === id;
    const members = [...this.#members].filter(([, { lease }]) => lease === id);
    if (!isLeader && members.length === 0) return;
    this.#change(() => {
      if (isLeader) {
        this.#world.note(ETCD, () => `the key of the leader ${this.#leader!.value.node} is gone`);
        this.#leader = undefined;
      }
      for (const [node] of members) this.#members.delete(node);
    });
  }

  putMember(value: MemberKey, lease: string): number | undefined {
    if (!this.#leases.has(lease)) return undefined;
    this.#change((revision) => this.#members.set(value.node, { value, revision, lease }));
    return this.#revision;
  }

  transact(transaction: Transaction, lease: string | undefined): Answer {
    const { stateRevision, leaderRevision, state, leader } = transaction;
    const isAsExpected =
      (this.#state?.revision ?? 0) === stateRevision && (this.#leader?.revision ?? 0) === leaderRevision;
    if (!isAsExpected) {
      return { kind: 'failed', revision: this.#revision, state: this.#state, leader: this.#leader };
    }
    if (lease !== undefined && !this.#leases.has(lease)) return { kind: 'lease-gone' };
    this.onTransaction(this.#state?.value, transaction);
    this.#change((revision) => {
      if (state !== undefined) this.#state = { value: state, revision };
      if (leader === 'delete') this.#leader = undefined;
      else if (leader !== undefined) this.#leader = { value: leader, revision, lease: lease! };
    });
    this.#world.note(ETCD, () => `revision ${this.#revision}: ${describe(transaction)}`);
    return { kind: 'done', revision: this.#revision };
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
    return {
      revision: this.#revision,
      state: this.#state,
      leader: this.#leader,
      members: new Map(this.#members),
      leases: [...this.#leases.keys()],
    };
  }

  /** Undefined wipes it. Leases of a copy have all their time before them. */
  restore(copy: Copy | undefined): void {
    this.#process++;
    if (!this.reusesRevisions) this.#revisionMin = Math.max(this.#revisionMin, this.#revision + 1);
    this.#revision = copy?.revision ?? 1;
    this.#state = copy?.state;
    this.#leader = copy?.leader;
    this.#members = new Map(copy?.members ?? []);
    this.#leases.clear();
    for (const id of copy?.leases ?? []) {
      this.#leases.set(id, { expiresMs: this.#world.nowMs + this.leaseMs });
      this.#expireLater(id, this.leaseMs);
    }
    this.#view = undefined;
    for (const ring of this.#watchers) ring();
  }

  /** An operator puts the state key there, when nobody else can. */
  putState(value: ClusterState): void {
    this.#change((revision) => {
      this.#state = { value, revision };
    });
  }

  #change(change: (revision: number) => void): void {
    this.#revision = Math.max(this.#revision + 1, this.#revisionMin);
    this.#view = undefined;
    change(this.#revision);
    for (const ring of this.#watchers) ring();
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
