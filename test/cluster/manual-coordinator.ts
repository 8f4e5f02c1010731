// An etcd in this process, for tests of one node: carries transactions out at once, or when it is told to.
import type {
  ClusterState,
  ClusterView,
  Coordinator,
  CoordinatorEvents,
  LeaderKey,
  MemberKey,
  Outcome,
  Transaction,
  Versioned,
} from '../../src/cluster/coordinator.js';

export class ManualCoordinator implements Coordinator {
  readonly #clock: { monotonicMs(): number };
  readonly #members = new Map<string, Versioned<MemberKey>>();
  #state: Versioned<ClusterState> | undefined = undefined;
  #leader: Versioned<LeaderKey> | undefined = undefined;
  #revision = 1;
  #events: CoordinatorEvents | undefined = undefined;
  /** Transactions wait for `release`. */
  isHolding = false;
  /** It cannot be reached: no lease is renewed, and no transaction is answered. */
  isAway = false;
  readonly #held: (() => void)[] = [];
  /** What was asked for. */
  readonly transactions: Transaction[] = [];
  /** What the node said of itself, the last at the end. */
  readonly registered: MemberKey[] = [];
  /** Called when the node gives its lease back. */
  onClose: () => void = () => undefined;

  constructor(clock: { monotonicMs(): number }) {
    this.#clock = clock;
  }

  get state(): ClusterState | undefined {
    return this.#state?.value;
  }

  /** Changes what stands here, by the hand of others, and tells of it. */
  put(change: {
    state?: ClusterState;
    leader?: LeaderKey | undefined;
    member?: MemberKey;
    gone?: string;
  }): void {
    const revision = ++this.#revision;
    if (change.state !== undefined) this.#state = { value: change.state, revision };
    if ('leader' in change) {
      this.#leader = change.leader === undefined ? undefined : { value: change.leader, revision };
    }
    if (change.member !== undefined)
      this.#members.set(change.member.node, { value: change.member, revision });
    if (change.gone !== undefined) this.#members.delete(change.gone);
    this.#tell();
  }

  /** Those who have tried to be elected. */
  get campaigns(): string[] {
    return this.transactions.flatMap(({ leader, state }) =>
      leader === undefined || leader === 'delete' ? [] : [`${leader.node} in epoch ${state?.epoch}`],
    );
  }

  release(): void {
    for (const work of this.#held.splice(0)) work();
  }

  // ---- Coordinator ------------------------------------------------------------------------------------------------------------------

  start(events: CoordinatorEvents): void {
    this.#events = events;
    const lease = (): void => {
      if (!this.isAway) events.onLease(this.#clock.monotonicMs());
    };
    lease();
    setInterval(lease, 200).unref();
    this.#tell();
  }

  register(member: MemberKey): void {
    this.registered.push(member);
    this.put({ member });
  }

  commit(transaction: Transaction): Promise<Outcome> {
    this.transactions.push(transaction);
    return new Promise((resolve) => {
      const work = (): void => resolve(this.#carryOut(transaction));
      if (this.isAway) return;
      if (this.isHolding) this.#held.push(work);
      else setImmediate(work);
    });
  }

  async close(): Promise<void> {
    this.onClose();
    // Whoever waits hears of it before this is over.
    await new Promise((resolve) => setImmediate(resolve));
  }

  #carryOut({ stateRevision, leaderRevision, state, leader }: Transaction): Outcome {
    const isExpected =
      (this.#state?.revision ?? 0) === stateRevision && (this.#leader?.revision ?? 0) === leaderRevision;
    if (!isExpected) return { kind: 'refused' };
    this.put({
      ...(state === undefined ? {} : { state }),
      ...(leader === undefined ? {} : { leader: leader === 'delete' ? undefined : leader }),
    });
    return { kind: 'done', revision: this.#revision };
  }

  #tell(): void {
    const view: ClusterView = {
      revision: this.#revision,
      state: this.#state,
      leader: this.#leader,
      members: new Map(this.#members),
    };
    setImmediate(() => this.#events?.onView(view));
  }
}
