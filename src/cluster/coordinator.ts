// What the election asks of whoever judges it: etcd (etcd.ts), or a simulation. The judge
// sees every change of who leads and who is in sync, and none of the messages.
//
//     state     {clusterId, epoch, leader, inSync, nonce}   stays
//     leader    {node, epoch, nonce}                        goes with its writer's lease
//     member    {node, incarnation, addresses, ...}         one of each node, goes with its writer's lease

/** One directory of one node: a directory that is wiped or repaired is another one. */
export interface InSyncMember {
  readonly node: string;
  readonly incarnation: string;
}

export interface ClusterState {
  readonly clusterId: string;
  /** Of the last leader that was elected; 0 where none was yet. */
  readonly epoch: number;
  /** Who was elected in this epoch; '' in epoch 0. */
  readonly leader: string;
  /** Who has everything that was acknowledged. */
  readonly inSync: readonly InSyncMember[];
  /** Drawn for each change, so that whoever wrote it knows its own again. */
  readonly nonce: string;
}

export interface LeaderKey {
  readonly node: string;
  readonly epoch: number;
  readonly nonce: string;
}

export interface MemberKey {
  readonly node: string;
  readonly incarnation: string;
  /** The cluster that its directory belongs to; '' where it has not been in one. */
  readonly clusterId: string;
  /** One past the last record when it registered, and the epoch of that. */
  readonly logEnd: number;
  readonly logEpoch: number;
  /** The highest epoch that is on its disk. */
  readonly epoch: number;
  /** The end of its log was torn, and has not been compared with that of a leader since. */
  readonly isSuspect: boolean;
  /** HOST:PORT that others reach it at: other brokers, MQTT clients, HTTP; '' where it has none. */
  readonly peer: string;
  readonly mqtt: string;
  readonly http: string;
  /** Of the program. */
  readonly version: string;
}

/** What was written, and when: revisions only grow, over all keys. */
export interface Versioned<T> {
  readonly value: T;
  readonly revision: number;
}

/** All keys as they were at one moment. */
export interface ClusterView {
  /** Of the moment. */
  readonly revision: number;
  readonly state: Versioned<ClusterState> | undefined;
  readonly leader: Versioned<LeaderKey> | undefined;
  readonly members: ReadonlyMap<string, Versioned<MemberKey>>;
}

/** Puts what is given, all of it or nothing, if the keys still have the revisions that are expected. */
export interface Transaction {
  /** 0: the key must not be there. */
  readonly stateRevision: number;
  /** 0: the key must not be there. */
  readonly leaderRevision: number;
  readonly state?: ClusterState;
  /** With the lease of this node; 'delete' removes it. */
  readonly leader?: LeaderKey | 'delete';
}

/** What became of a transaction; `refused`: a key had another revision. */
export type Outcome = { readonly kind: 'done'; readonly revision: number } | { readonly kind: 'refused' };

export interface CoordinatorEvents {
  /** A view that is newer than the one before. May leave out moments, never goes back. */
  onView(view: ClusterView): void;
  /** The lease holds; the request that says so was sent at `sentAtMs` of the monotonic clock, so it lasts at least until then + its length. */
  onLease(sentAtMs: number): void;
  /** The lease is over, and what was written with it is gone: another one is asked for, and `register`ed keys are written again with it. */
  onLeaseLost(): void;
  /** It cannot be reached, or can again: for the operator to read. */
  onReachable(isReachable: boolean, error: Error | undefined): void;
}

export interface Coordinator {
  /** Begins to watch, and to ask for a lease until there is one. Never fails: what cannot be done is tried again. */
  start(events: CoordinatorEvents): void;
  /** Writes the key of this node with its lease, now and whenever there is another lease. */
  register(member: MemberKey): void;
  /** Resolves when it is known what became of it, however long that takes; rejects only when the coordinator was closed before. */
  commit(transaction: Transaction): Promise<Outcome>;
  /** Gives the lease back, so that everybody sees at once that this node is gone, as far as that can be done within `graceMs`. */
  close(graceMs: number): Promise<void>;
}
