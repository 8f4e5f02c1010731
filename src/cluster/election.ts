// Who leads. Pure: told what the coordinator shows, what became of transactions and what time it is, it answers with effects; it knows no network, no
// disk and no clock. The rules R1 to R11 are in docs/REPLICATION.md, each with the argument why it is needed.
//
//                 the leader is another one
//     waiting <------------------------------> member
//        |  ^                                    |
//        |  | another one was faster             | the leader's key is gone, or its process is (R9)
//        v  |                                    v
//     campaigning <------------------------------+
//        |  won
//        v
//     elected: the epoch is made to last -> leading -> stood down -> waiting
//
// A transaction is one at a time, and nothing is decided while one is under way, but to stand down.
import { crc32 } from 'node:zlib';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import type {
  ClusterState,
  ClusterView,
  InSyncMember,
  LeaderKey,
  MemberKey,
  Outcome,
  Transaction,
} from './coordinator.js';

export interface ElectionOptions {
  readonly node: string;
  /** For the log lines. */
  readonly cluster: string;
  /** How many nodes a new cluster begins with. */
  readonly replicas: number;
  readonly minInSync: number;
  /** How long a lease holds after the keepalive was sent, less what clocks and the way may take. */
  readonly leaseMs: number;
  /** Draws what must never be drawn twice. */
  readonly draw: () => string;
}

/** What the data directory says. */
export interface Standing {
  readonly incarnation: string;
  /** '' where it has never been in a cluster. */
  readonly clusterId: string;
  /** The highest epoch that is on disk (R3). */
  readonly epoch: number;
  readonly logEnd: number;
  /** Of the last record. */
  readonly logEpoch: number;
  /** The end of the log was torn, and nobody has been asked since what was there. */
  readonly isSuspect: boolean;
}

export type Effect =
  /** The answer goes to `onOutcome`. */
  | { readonly kind: 'commit'; readonly transaction: Transaction }
  /** To be on disk before anything else is done; then `onPersisted`. */
  | { readonly kind: 'persist'; readonly clusterId: string; readonly epoch: number }
  /** It is the leader: what it appends from now on is of `epoch`. */
  | {
      readonly kind: 'lead';
      readonly epoch: number;
      readonly inSync: readonly InSyncMember[];
      /** Nodes whose processes have ended. */
      readonly gone: readonly string[];
    }
  /** The change of the in-sync set is in force, or certainly is not and will not be. */
  | { readonly kind: 'confirmed' | 'abandoned' }
  | { readonly kind: 'follow'; readonly leader: string; readonly epoch: number }
  /** There is nobody to follow, and this node does not lead. */
  | { readonly kind: 'wait' }
  | { readonly kind: 'stand-down'; readonly why: string }
  | { readonly kind: 'warn'; readonly message: string }
  /** This directory and this cluster do not belong together. */
  | { readonly kind: 'fail'; readonly error: GomqError };

type Role =
  | { readonly kind: 'waiting' }
  | {
      readonly kind: 'member';
      readonly leader: string;
      readonly epoch: number;
      readonly leaderRevision: number;
    }
  | { readonly kind: 'elected'; readonly epoch: number }
  | { readonly kind: 'leading'; readonly epoch: number };

type Pending = {
  readonly kind: 'found' | 'restore' | 'resign' | 'campaign' | 'in-sync';
  readonly state: ClusterState;
  /** Of the view that it was decided upon. */
  readonly viewRevision: number;
  /** etcd went back since: its revisions say nothing about those of now. */
  readonly isOfBefore: boolean;
};

/** What a leader leads with. */
interface Own {
  readonly state: ClusterState;
  readonly stateRevision: number;
  readonly leader: LeaderKey;
  readonly leaderRevision: number;
}

/** A leader whose key has gone, although it is there, has so long to write it again before a member takes its place. */
const GRACE_MS = 500;
/** A forced epoch is this much later than any that is known, and as much again drawn: one who is not there may have led in a later one. */
const FORCED_EPOCHS = 1_000_000;
/** A view that is older than what this node did comes up to date within this time, or never. */
const OLD_VIEW_MS = 3000;

export class Election {
  readonly #options: ElectionOptions;
  #standing: Standing;
  #view: ClusterView | undefined = undefined;
  #role: Role = { kind: 'waiting' };
  #pending: Pending | undefined = undefined;
  /** What it waits for before it goes on: the disk. */
  #isPersisting = false;
  /** What it wrote last as the leader; views of before it say nothing about it. */
  #own: Own | undefined = undefined;
  /** What it led with and still has to give back. */
  #resigning: Own | undefined = undefined;
  /** Views from before this revision do not show what it did, or why it failed. */
  #revisionMin = 0;
  /** Since when there is no view but an older one. */
  #oldSinceMs: number | undefined = undefined;
  /** What it proposed last for the in-sync set may be in force, or may have been. */
  #isUndecided = false;
  /** The log can be appended to and read. */
  #isReady = true;
  /** As the leader: all others in sync were heard of just now. */
  #isFollowed = false;
  /** The leader that it follows was heard of just now. */
  #isLeaderHeard = false;
  /** When a member stops waiting for a leader whose key is gone and that is heard of. */
  #graceUntilMs = Number.POSITIVE_INFINITY;
  #nowMs = Number.NEGATIVE_INFINITY;
  /** It leaves the lead to others. */
  #restUntilMs = Number.NEGATIVE_INFINITY;
  /** Revision of a leader key whose process is known to be gone. */
  #goneRevision = 0;
  /** Of those in sync the ones that were not there when it campaigned. */
  #gone: readonly string[] = [];
  #leaseUntilMs = Number.NEGATIVE_INFINITY;
  /** It leads for as long as it must, and then no more. */
  #isLeaving = false;
  #effects: Effect[] = [];
  #warned = '';

  constructor(options: ElectionOptions, standing: Standing) {
    this.#options = options;
    this.#standing = standing;
  }

  /** What is to be done, in this order; asked for after each call of the methods below. */
  takeEffects(): readonly Effect[] {
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }

  get isLeading(): boolean {
    return this.#role.kind === 'leading';
  }

  get clusterId(): string {
    return this.#standing.clusterId;
  }

  /** The epoch it leads or follows in; that on disk otherwise. */
  get epoch(): number {
    return 'epoch' in this.#role ? this.#role.epoch : this.#standing.epoch;
  }

  /** The leader that is known. */
  get leader(): string | undefined {
    if (this.#role.kind === 'leading') return this.#options.node;
    return this.#role.kind === 'member' ? this.#role.leader : undefined;
  }

  // ---- what happened ----------------------------------------------------------------------------------------------------------------

  onView(view: ClusterView): void {
    // Revisions only go back with etcd itself: it was wiped or restored, and nothing that was known of it holds.
    if (view.revision < (this.#view?.revision ?? 0)) {
      this.#revisionMin = 0;
      this.#goneRevision = 0;
      if (this.#pending !== undefined) this.#pending = { ...this.#pending, isOfBefore: true };
    }
    this.#view = view;
    this.#decide();
  }

  onLease(sentAtMs: number): void {
    this.#leaseUntilMs = Math.max(this.#leaseUntilMs, sentAtMs + this.#options.leaseMs);
    this.#decide();
  }

  onLeaseLost(): void {
    this.#leaseUntilMs = Number.NEGATIVE_INFINITY;
  }

  /** The process that holds the leader key of the view has ended (R9). */
  onLeaderGone(leader: string): void {
    const key = this.#view?.leader;
    if (key === undefined || key.value.node !== leader) return;
    this.#goneRevision = key.revision;
    this.#decide();
  }

  /** How far the log is, as others are told of it. */
  onLogShape({ logEnd, logEpoch }: Pick<Standing, 'logEnd' | 'logEpoch'>): void {
    this.#standing = { ...this.#standing, logEnd, logEpoch };
  }

  /** The log has all that it may have lacked. */
  onTrusted(): void {
    this.#standing = { ...this.#standing, isSuspect: false };
  }

  onPersisted(): void {
    assert(this.#isPersisting, 'something was to be persisted');
    this.#isPersisting = false;
    if (this.#role.kind === 'elected') {
      const { epoch } = this.#role;
      this.#role = { kind: 'leading', epoch };
      this.#effects.push({ kind: 'lead', epoch, inSync: this.#own!.state.inSync, gone: this.#gone });
    }
    this.#decide();
  }

  /**
   * The disk refuses to note what was to be persisted; it is tried again. A node that was elected gives the lead back, and leaves it to others for
   * `restMs`: while it holds the key nobody else is elected, and it serves nobody.
   */
  onPersistRefused(restMs: number): void {
    assert(this.#isPersisting, 'something was to be persisted');
    if (this.#role.kind !== 'elected') return;
    this.#restUntilMs = this.#nowMs + restMs;
    this.#role = { kind: 'waiting' };
    this.#resigning = this.#own;
    this.#own = undefined;
    this.#resign();
  }

  /** The log is closed: nothing can be led with it. It is so after each `stand-down`. */
  onLogClosed(): void {
    this.#isReady = false;
  }

  /** @param incarnation another one, where what was in the directory before was given up */
  onLogOpened(log: Pick<Standing, 'logEnd' | 'logEpoch' | 'isSuspect' | 'incarnation'>): void {
    // What it rested for went with the log before.
    if (log.incarnation !== this.#standing.incarnation) this.#restUntilMs = Number.NEGATIVE_INFINITY;
    this.#standing = { ...this.#standing, ...log };
    this.#isReady = true;
    this.#decide();
  }

  /**
   * To be called several times a second.
   * @param isFollowed as a leader: every other node in sync has acknowledged this epoch just now (R10)
   * @param isLeaderHeard as a member: the leader was heard of just now
   */
  onTick(nowMs: number, isFollowed: boolean, isLeaderHeard: boolean): void {
    this.#nowMs = nowMs;
    this.#isLeaderHeard = isLeaderHeard;
    this.#isFollowed = isFollowed;
    if (this.#role.kind === 'leading' && nowMs > this.#leaseUntilMs && !isFollowed) {
      this.#standDown('the lease was not renewed in time, and not all in sync answer');
    }
    this.#decide();
  }

  /** The in-sync set should be another one. @returns whether the change is sent; `confirmed` says that it is in force */
  proposeInSync(inSync: readonly InSyncMember[]): boolean {
    if (this.#role.kind !== 'leading' || this.#pending !== undefined || this.#isLeaving || this.#isUndecided)
      return false;
    const { state, stateRevision, leaderRevision } = this.#own!;
    const next = { ...state, inSync, nonce: this.#options.draw() };
    this.#commit({ kind: 'in-sync', state: next }, { stateRevision, leaderRevision, state: next });
    return true;
  }

  /** Hands the lead over: the key goes, and with it this node from the in-sync set if that leaves enough. Nothing is led any more after it. */
  resign(): void {
    this.#isLeaving = true;
    if (this.#role.kind === 'leading') this.#standDown('a planned end');
  }

  /** Has another node lead. This one stays, in sync if it can, and does not try again for `restMs`. */
  yieldLead(why: string, restMs: number): void {
    if (this.#role.kind !== 'leading') return;
    this.#restUntilMs = this.#nowMs + restMs;
    this.#standDown(why);
  }

  /**
   * Tries to lead with what this node has, although nobody can say that it is all that was acknowledged: the decision of an operator where etcd or the
   * disks of those in sync are lost. Of the nodes that are there it must be the one that has most.
   * @throws {GomqError} REFUSED
   */
  forceLead(): void {
    const { node, draw } = this.#options;
    const why = this.#whyNotForced();
    if (why !== undefined) throw new GomqError('REFUSED', `${node} is not made the leader: ${why}`);
    const { clusterId, epoch, incarnation } = this.#standing;
    const { state, leader } = this.#view!;
    const known = this.#fellows().map((one) => one.epoch);
    const next: ClusterState = {
      clusterId,
      epoch:
        Math.max(state?.value.epoch ?? 0, epoch, ...known) + FORCED_EPOCHS + (crc32(draw()) % FORCED_EPOCHS),
      leader: node,
      inSync: [{ node, incarnation }],
      nonce: draw(),
    };
    this.#gone = [];
    this.#setWaiting();
    const key = { node, epoch: next.epoch, nonce: next.nonce };
    const stateRevision = state?.revision ?? 0;
    const leaderRevision = leader?.revision ?? 0;
    this.#commit(
      { kind: 'campaign', state: next },
      { stateRevision, leaderRevision, state: next, leader: key },
    );
  }

  #whyNotForced(): string | undefined {
    const { clusterId } = this.#standing;
    const view = this.#view;
    if (view === undefined || this.#nowMs > this.#leaseUntilMs) return 'etcd cannot be reached';
    const { state, leader } = view;
    if (this.#role.kind === 'leading' || this.#role.kind === 'elected') return 'it leads';
    if (this.#role.kind === 'member') return `${this.#role.leader} leads`;
    if (leader !== undefined && !this.#isGone(leader.value, leader.revision))
      return `${leader.value.node} leads`;
    if (clusterId === '') return 'its directory has not been in a cluster yet';
    if (state !== undefined && state.value.clusterId !== clusterId) {
      return `its directory is of another cluster than '${this.#options.cluster}' in etcd`;
    }
    if (!this.#isReady) return 'its log is not open';
    if (this.#isLeaving) return 'it is stopping';
    if (this.#pending !== undefined || this.#isPersisting) return 'an election is under way; try again';
    const better = this.#fellows().find((one) => this.#isBehind(one));
    if (better === undefined) return undefined;
    const { logEnd, logEpoch } = better;
    return `${better.node} has more, up to offset ${logEnd} of epoch ${logEpoch}; have that one lead`;
  }

  /** What the other nodes of this cluster that are there have told of themselves. */
  #fellows(): MemberKey[] {
    const { clusterId } = this.#standing;
    return [...this.#view!.members.values()]
      .map(({ value }) => value)
      .filter((one) => one.node !== this.#options.node && one.clusterId === clusterId);
  }

  onOutcome(outcome: Outcome): void {
    const pending = this.#pending;
    assert(pending !== undefined, 'a transaction was sent');
    this.#pending = undefined;
    if (outcome.kind === 'done') {
      if (!pending.isOfBefore) this.#revisionMin = Math.max(this.#revisionMin, outcome.revision);
      this.#onDone(pending, outcome.revision);
      this.#resign();
    } else {
      // Something else was faster: the view that shows it is on its way.
      if (!pending.isOfBefore) this.#revisionMin = Math.max(this.#revisionMin, pending.viewRevision + 1);
      // It may have been carried out, its answer lost, and another node elected on the strength of it: until a view says otherwise it counts.
      if (pending.kind === 'in-sync' && this.#role.kind === 'leading') this.#isUndecided = true;
      this.#resigning = undefined;
    }
    this.#decide();
  }

  #onDone(pending: Pending, revision: number): void {
    if (pending.kind === 'campaign') {
      const { state } = pending;
      const leader = { node: state.leader, epoch: state.epoch, nonce: state.nonce };
      this.#own = { state, stateRevision: revision, leader, leaderRevision: revision };
      this.#role = { kind: 'elected', epoch: state.epoch };
      this.#persist(state.clusterId, state.epoch);
    } else if (pending.kind === 'in-sync' && this.#role.kind === 'leading') {
      this.#own = { ...this.#own!, state: pending.state, stateRevision: revision };
      this.#effects.push({ kind: 'confirmed' });
    } else if (this.#resigning !== undefined && pending.kind !== 'resign') {
      // It stood down while this was under way.
      const leaderRevision = pending.kind === 'restore' ? revision : this.#resigning.leaderRevision;
      this.#resigning = { ...this.#resigning, state: pending.state, stateRevision: revision, leaderRevision };
    } else if (pending.kind === 'restore' && this.#role.kind === 'leading') {
      this.#decideProposal();
      this.#own = { ...this.#own!, state: pending.state, stateRevision: revision, leaderRevision: revision };
    }
  }

  // ---- decisions --------------------------------------------------------------------------------------------------------------------

  #decide(): void {
    const view = this.#view;
    if (view === undefined || this.#isPersisting || this.#isOld(view)) return;
    if (this.#role.kind === 'leading') {
      this.#checkLead(view);
      return;
    }
    if (this.#pending !== undefined) return;
    const { state } = view;
    if (state === undefined) {
      this.#found(view);
      return;
    }
    if (!this.#belongs(state.value)) return;
    const { leader } = view;
    if (leader !== undefined && !this.#isGone(leader.value, leader.revision)) {
      this.#follow(leader.value, leader.revision);
      return;
    }
    if (leader === undefined && this.#isGraceful(state.value)) return;
    this.#setWaiting();
    this.#campaign(view, state.value, state.revision);
  }

  /** The leader's key is gone, the leader is not: the lease ran out while etcd was away. It writes its key again, unless it gave it up. */
  #isGraceful({ leader }: ClusterState): boolean {
    if (this.#role.kind !== 'member' || !this.#isLeaderHeard || leader === '') return false;
    if (this.#graceUntilMs === Number.POSITIVE_INFINITY) this.#graceUntilMs = this.#nowMs + GRACE_MS;
    return this.#nowMs < this.#graceUntilMs;
  }

  /**
   * Deciding upon a view from before what this node did itself is in vain: every transaction is guarded by what it expects. After a while it is done all
   * the same, since etcd may have gone back without a view that shows it.
   */
  #isOld({ revision }: ClusterView): boolean {
    if (revision >= this.#revisionMin) {
      this.#oldSinceMs = undefined;
      return false;
    }
    // Before the first tick it is not known what time it is.
    if (this.#nowMs === Number.NEGATIVE_INFINITY) return true;
    this.#oldSinceMs ??= this.#nowMs;
    if (this.#nowMs - this.#oldSinceMs < OLD_VIEW_MS) return true;
    this.#revisionMin = 0;
    return false;
  }

  /** Whether what it leads with is still there. */
  #checkLead(view: ClusterView): void {
    if (this.#pending !== undefined) return;
    const own = this.#own!;
    const { state, leader } = view;
    if (state !== undefined && state.value.clusterId !== own.state.clusterId) {
      this.#standDown('the cluster has another id');
      this.#belongs(state.value);
    } else if (state !== undefined && this.#isLaterThanOwn(state.value)) {
      this.#standDown(`epoch ${state.value.epoch} has begun, and ${state.value.leader} leads`);
    } else if (state?.value.nonce !== own.state.nonce || leader?.value.nonce !== own.leader.nonce) {
      this.#restore(view);
    } else this.#decideProposal();
  }

  /** Another node was elected: in a later epoch, or in the same one where etcd had forgotten this one's. */
  #isLaterThanOwn({ epoch, leader }: ClusterState): boolean {
    const own = this.#own!.state;
    return epoch > own.epoch || (epoch === own.epoch && leader !== own.leader);
  }

  /** Its own state is in force: what was proposed and refused is not. */
  #decideProposal(): void {
    if (!this.#isUndecided) return;
    this.#isUndecided = false;
    this.#effects.push({ kind: 'abandoned' });
  }

  /** Nothing is known of this cluster. The first node that may makes it; a cluster that was there before never begins anew (R11). */
  #found(view: ClusterView): void {
    const { node, replicas, cluster } = this.#options;
    const { incarnation, clusterId, logEnd } = this.#standing;
    this.#setWaiting();
    if (clusterId !== '') {
      this.#warn(
        `etcd knows nothing of cluster '${cluster}', and this directory belongs to it: etcd was wiped, or it is another one. A leader that still runs puts this right; else see \`gomqctl cluster force-lead\``,
      );
      return;
    }
    const members = [...view.members.values()].map(({ value }) => value);
    // All of them: one that is missing may have the data of a cluster that etcd has forgotten, or of a broker that stood alone.
    if (!members.some((one) => one.node === node) || members.length < replicas) {
      this.#warn(`a new cluster begins when all ${replicas} of its nodes are there (cluster.replicas)`);
      return;
    }
    const former = members.find((one) => one.clusterId !== '');
    if (former !== undefined) {
      this.#warn(
        `etcd knows nothing of cluster '${cluster}', and the directory of ${former.node} belongs to it: it does not begin anew`,
      );
      return;
    }
    // A broker that stood alone before brings its log along; nobody else may have one.
    const withLog = members.filter((one) => one.logEnd > 0);
    if (withLog.length > 1 || (withLog.length === 1 && logEnd === 0)) return;
    const inSync = [{ node, incarnation }];
    const draw = this.#options.draw;
    const state: ClusterState = {
      clusterId: draw(),
      epoch: this.#standing.epoch,
      leader: '',
      inSync,
      nonce: draw(),
    };
    const leaderRevision = view.leader?.revision ?? 0;
    this.#commit({ kind: 'found', state }, { stateRevision: 0, leaderRevision, state });
  }

  /**
   * Its keys are gone or old, and no later epoch has begun: the lease was over, or etcd was wiped or restored. It writes them again, since it knows
   * them and nobody else may (R11). Whoever is elected instead at the same moment has changed one of the revisions.
   */
  #restore(view: ClusterView): void {
    const { state: before, leader } = this.#own!;
    const state = { ...before, nonce: this.#options.draw() };
    const stateRevision = view.state?.revision ?? 0;
    const leaderRevision = view.leader?.revision ?? 0;
    this.#commit({ kind: 'restore', state }, { stateRevision, leaderRevision, state, leader });
  }

  /** Whether this directory is of the cluster; the first time it becomes so. */
  #belongs(state: ClusterState): boolean {
    const { incarnation, clusterId, epoch, logEnd } = this.#standing;
    const { node, cluster } = this.#options;
    if (clusterId === state.clusterId) return true;
    const isListed = state.inSync.some((one) => one.node === node && one.incarnation === incarnation);
    if (clusterId !== '') {
      const message = `this directory belongs to cluster ${clusterId}, and '${cluster}' in etcd is cluster ${state.clusterId}`;
      this.#fail(
        message,
        'Look whether it is the right etcd and the right --cluster; an empty directory joins any.',
      );
    } else if (logEnd > 0 && !isListed) {
      const message = `this directory has the messages of a broker that stood alone, and cluster '${cluster}' has its own`;
      this.#fail(message, 'Join with an empty directory.');
    } else this.#persist(state.clusterId, epoch);
    return false;
  }

  #isGone({ node, epoch }: LeaderKey, revision: number): boolean {
    // Its own, of a process that it is not any more: whoever has the directory knows that the one before is gone.
    if (node === this.#options.node) return epoch <= this.#standing.epoch;
    return revision === this.#goneRevision;
  }

  #follow({ node, epoch }: LeaderKey, leaderRevision: number): void {
    if (epoch < this.#standing.epoch) {
      this.#setWaiting();
      this.#warn(
        `${node} leads in epoch ${epoch}, and this node has seen epoch ${this.#standing.epoch}: what it has may be later, and it follows nobody. To give that up, empty its directory`,
      );
      return;
    }
    if (node === this.#options.node) return;
    const role = this.#role;
    if (role.kind === 'member' && role.leaderRevision === leaderRevision) return;
    if (epoch > this.#standing.epoch) {
      this.#setWaiting();
      this.#persist(this.#standing.clusterId, epoch);
      return;
    }
    this.#role = { kind: 'member', leader: node, epoch, leaderRevision };
    this.#graceUntilMs = Number.POSITIVE_INFINITY;
    this.#effects.push({ kind: 'follow', leader: node, epoch });
  }

  /** Tries to become the leader, if it has everything that was acknowledged (R2). */
  #campaign(view: ClusterView, state: ClusterState, stateRevision: number): void {
    const { node, draw } = this.#options;
    const { incarnation } = this.#standing;
    if (this.#isLeaving || !this.#isReady) return;
    if (this.#nowMs > this.#leaseUntilMs || this.#nowMs < this.#restUntilMs) return;
    if (!state.inSync.some((one) => one.node === node && one.incarnation === incarnation)) return;
    const later = this.#laterThan(view, state.epoch);
    if (later !== undefined) {
      this.#warn(
        `etcd knows epoch ${state.epoch} of cluster '${this.#options.cluster}', and ${later}: etcd was restored from an old copy. Nobody is elected, since it may name nodes in sync that are not. A leader that still runs puts this right; else see \`gomqctl cluster force-lead\``,
      );
      return;
    }
    if (this.#standing.isSuspect && !this.#isMostComplete(view, state.inSync)) return;
    const epoch = Math.max(state.epoch, this.#standing.epoch) + 1;
    const inSync = this.#present(view, state.inSync);
    const next: ClusterState = { clusterId: state.clusterId, epoch, leader: node, inSync, nonce: draw() };
    const leader = { node, epoch, nonce: next.nonce };
    const leaderRevision = view.leader?.revision ?? 0;
    this.#commit({ kind: 'campaign', state: next }, { stateRevision, leaderRevision, state: next, leader });
  }

  /** Says where a later epoch than etcd's is known: every epoch is in etcd before it is on any disk, so etcd has lost some (R11). */
  #laterThan(view: ClusterView, epoch: number): string | undefined {
    if (this.#standing.epoch > epoch) return `this node has seen epoch ${this.#standing.epoch}`;
    for (const { value } of view.members.values()) {
      if (value.epoch > epoch) return `${value.node} has seen epoch ${value.epoch}`;
    }
    return undefined;
  }

  /**
   * A log whose end was torn may lack what it acknowledged. It leads only where every other in sync was torn too, as when all lost power at once, and
   * where none of them has more: nothing that was acknowledged can be missing from the most complete of all. Whoever is whole leads before it.
   */
  #isMostComplete(view: ClusterView, inSync: readonly InSyncMember[]): boolean {
    const { node } = this.#options;
    return inSync.every((one) => {
      if (one.node === node) return true;
      const key = view.members.get(one.node)?.value;
      if (key === undefined || key.incarnation !== one.incarnation || !key.isSuspect) return false;
      return !this.#isBehind(key);
    });
  }

  /** Another log has more than this one, as far as both are known. */
  #isBehind(other: MemberKey): boolean {
    const { logEpoch, logEnd } = this.#standing;
    return other.logEpoch > logEpoch || (other.logEpoch === logEpoch && other.logEnd > logEnd);
  }

  /** Of those in sync the ones that are there, as far as enough stay (R5): it would have to wait for the others. */
  #present(view: ClusterView, inSync: readonly InSyncMember[]): InSyncMember[] {
    const { node, minInSync } = this.#options;
    const gone = inSync.filter((one) => {
      const isLeaderGone = view.leader?.value.node === one.node;
      const isRegistered = view.members.get(one.node)?.value.incarnation === one.incarnation;
      return one.node !== node && (isLeaderGone || !isRegistered);
    });
    this.#gone = gone.map((one) => one.node);
    const removed = gone.slice(0, Math.max(0, inSync.length - minInSync));
    return inSync.filter((one) => !removed.includes(one));
  }

  #standDown(why: string): void {
    const own = this.#own!;
    this.#role = { kind: 'waiting' };
    this.#own = undefined;
    this.#isUndecided = false;
    this.#isReady = false;
    this.#effects.push({ kind: 'stand-down', why });
    const { state } = this.#view!;
    const isOver =
      state !== undefined &&
      (state.value.epoch > own.state.epoch ||
        (state.value.epoch === own.state.epoch && state.value.leader !== own.state.leader));
    if (isOver) return;
    this.#resigning = own;
    // A change of the in-sync set may be under way: its outcome comes first.
    if (this.#pending === undefined) this.#resign();
  }

  /**
   * Gives back what it led with. From the in-sync set it goes too, if enough stay and are there: its log is closed for a while, and nobody should wait
   * for it. Where one of them may be gone for good, this node may be the last that has everything.
   * Nobody waits for a leader that has given up either: the state names none.
   */
  #resign(): void {
    const own = this.#resigning;
    if (own === undefined) return;
    this.#resigning = undefined;
    const { minInSync, node, draw } = this.#options;
    const others = own.state.inSync.filter((one) => one.node !== node);
    const inSync = this.#isFollowed && others.length >= minInSync ? others : own.state.inSync;
    const state = { ...own.state, leader: '', inSync, nonce: draw() };
    const { stateRevision, leaderRevision } = own;
    this.#commit({ kind: 'resign', state }, { stateRevision, leaderRevision, state, leader: 'delete' });
  }

  #setWaiting(): void {
    if (this.#role.kind === 'waiting') return;
    this.#role = { kind: 'waiting' };
    this.#effects.push({ kind: 'wait' });
  }

  #persist(clusterId: string, epoch: number): void {
    this.#isPersisting = true;
    this.#standing = { ...this.#standing, clusterId, epoch };
    this.#effects.push({ kind: 'persist', clusterId, epoch });
  }

  #commit(pending: Pick<Pending, 'kind' | 'state'>, transaction: Transaction): void {
    this.#pending = { ...pending, viewRevision: this.#view!.revision, isOfBefore: false };
    this.#effects.push({ kind: 'commit', transaction });
  }

  #warn(message: string): void {
    if (this.#warned === message) return;
    this.#warned = message;
    this.#effects.push({ kind: 'warn', message });
  }

  #fail(message: string, hint: string): void {
    this.#effects.push({ kind: 'fail', error: new GomqError('CLUSTER_MISMATCH', message, { hint }) });
  }
}
