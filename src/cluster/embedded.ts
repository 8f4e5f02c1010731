// The judge of a broker that stands alone: itself. Nobody competes, so that a transaction fails only where it expects something else than there is. The
// state lasts as long as the store given; leader and member go with the process, as with a lease. Revisions are counted anew in each process:
// whoever holds a view of an earlier one is gone too.
import { GomqError } from '../core/errors.js';
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
} from './coordinator.js';

/** Where the state lasts. `save` returns when it is kept; what it throws, the transaction rejects with. */
export interface StateStore {
  load(): ClusterState | undefined;
  save(state: ClusterState): void;
}

export interface EmbeddedCoordinatorOptions {
  readonly store: StateStore;
  readonly clock: { monotonicMs(): number };
}

const LEASE_MS = 1000;

export class EmbeddedCoordinator implements Coordinator {
  readonly #store: StateStore;
  readonly #clock: { monotonicMs(): number };
  readonly #members = new Map<string, Versioned<MemberKey>>();
  #state: Versioned<ClusterState> | undefined;
  #leader: Versioned<LeaderKey> | undefined;
  #revision = 1;
  #events: CoordinatorEvents | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** There is a view that has not been handed out. */
  #isViewDue = false;
  #isClosed = false;

  constructor({ store, clock }: EmbeddedCoordinatorOptions) {
    this.#store = store;
    this.#clock = clock;
    const state = store.load();
    if (state !== undefined) this.#state = { value: state, revision: this.#revision };
  }

  start(events: CoordinatorEvents): void {
    this.#events = events;
    setImmediate(() => {
      if (this.#isClosed) return;
      events.onReachable(true, undefined);
      this.#holdLease();
    });
    this.#timer = setInterval(() => this.#holdLease(), LEASE_MS);
    this.#timer.unref();
    this.#tellView();
  }

  register(member: MemberKey): void {
    if (this.#isClosed) return;
    this.#revision += 1;
    this.#members.set(member.node, { value: member, revision: this.#revision });
    this.#tellView();
  }

  async commit(transaction: Transaction): Promise<Outcome> {
    // From here on it is no longer inside the call.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#isClosed)
      throw new GomqError('NOT_READY', 'The broker stops, and what it decides now has no effect.');
    const { stateRevision, leaderRevision, state, leader } = transaction;
    if ((this.#state?.revision ?? 0) !== stateRevision) return { kind: 'refused' };
    if ((this.#leader?.revision ?? 0) !== leaderRevision) return { kind: 'refused' };
    if (state !== undefined) this.#store.save(state);
    this.#revision += 1;
    const revision = this.#revision;
    if (state !== undefined) this.#state = { value: state, revision };
    if (leader === 'delete') this.#leader = undefined;
    else if (leader !== undefined) this.#leader = { value: leader, revision };
    this.#tellView();
    return { kind: 'done', revision };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#timer);
  }

  #holdLease(): void {
    if (!this.#isClosed) this.#events!.onLease(this.#clock.monotonicMs());
  }

  /** Several changes at once are one view. */
  #tellView(): void {
    if (this.#isViewDue || this.#events === undefined) return;
    this.#isViewDue = true;
    setImmediate(() => {
      this.#isViewDue = false;
      if (!this.#isClosed) this.#events!.onView(this.#viewNow());
    });
  }

  #viewNow(): ClusterView {
    return {
      revision: this.#revision,
      state: this.#state,
      leader: this.#leader,
      members: new Map(this.#members),
    };
  }
}
