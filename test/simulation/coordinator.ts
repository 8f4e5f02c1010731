// What src/cluster/etcd.ts does, in simulated time: reads when the watch rings and once a second, keeps the lease, writes the key of its node, puts
// transactions until it is known what became of them.
import type {
  ClusterView,
  CoordinatorEvents,
  MemberKey,
  Outcome,
  Transaction,
} from '../../src/cluster/coordinator.js';
import { EtcdKeys, revisionOf } from '../../src/cluster/etcd-keys.js';
import { ETCD, type SimulatedEtcd } from './etcd.js';
import type { Life, World } from './world.js';

const POLL_MS = 1000;
const READ_MS = 1000;
const WRITE_MS = 2000;
const RETRY_MS = 100;
const GRANT_MS = 2000;
const KEEPALIVES_PER_LEASE = 6;
const ANSWER_MS_MIN = 1000;
const keys = new EtcdKeys('cluster');

export class SimulatedCoordinator {
  readonly #world: World;
  readonly #etcd: SimulatedEtcd;
  readonly #life: Life;
  readonly #isCut: () => boolean;
  #events: CoordinatorEvents | undefined = undefined;
  #unwatch: () => void = () => undefined;
  #isClosed = false;

  #view: ClusterView | undefined = undefined;
  #revision = 0;
  #wentBackTo: number | undefined = undefined;
  #isReading = false;
  #isRung = false;
  /** Grows with each read, so that a poll that was planned before it is not made. */
  #reads = 0;

  #lease: string | undefined = undefined;
  #waitingForLease: (() => void)[] = [];
  #member: MemberKey | undefined = undefined;
  #memberRevision = 0;
  #isWritingMember = false;

  constructor(world: World, etcd: SimulatedEtcd, life: Life, isCut: () => boolean) {
    this.#world = world;
    this.#etcd = etcd;
    this.#life = life;
    this.#isCut = isCut;
  }

  start(events: CoordinatorEvents): void {
    this.#events = events;
    this.#unwatch = this.#etcd.watch(() => {
      // What is told while the way is cut is missed, and now and then something is anyway.
      if (!this.#life.isAlive || this.#isCut() || this.#world.random.chance(0.02)) return;
      this.#world.after(this.#world.delay(0.2, this.#etcd.slowMs), this.#life, () => this.#ring());
    });
    this.#read(false);
    this.#keepLease();
  }

  register(member: MemberKey): void {
    this.#member = member;
    this.#writeMember();
  }

  commit(transaction: Transaction, answer: (outcome: Outcome) => void): void {
    if (this.#isClosed) return;
    const again = (): void => this.commit(transaction, answer);
    const { leader } = transaction;
    const isLeased = leader !== undefined && leader !== 'delete';
    if (isLeased && this.#lease === undefined) {
      this.#waitingForLease.push(again);
      return;
    }
    const lease = isLeased ? this.#lease : undefined;
    this.#etcd.request(
      this.#life,
      WRITE_MS,
      () => this.#etcd.transact(keys.transaction(transaction, lease), transaction),
      (result) => {
        if (this.#isClosed) return;
        if (result !== 'lease-gone') {
          answer(keys.outcome(transaction, result));
          return;
        }
        this.#leaseGone(lease!);
        again();
      },
      () => this.#later(RETRY_MS, again),
    );
  }

  close(): void {
    this.#isClosed = true;
    this.#unwatch();
    const lease = this.#lease;
    if (lease === undefined) return;
    this.#etcd.request(this.#life, 500, () => this.#etcd.revoke(lease), ignore, ignore);
  }

  /** The process has ended. */
  forget(): void {
    this.#unwatch();
  }

  #later(delayMs: number, work: () => void): void {
    this.#world.after(delayMs, this.#life, () => {
      if (!this.#isClosed) work();
    });
  }

  // ---- views ------------------------------------------------------------------------------------------------------------------------

  #ring(): void {
    if (this.#isClosed) return;
    if (this.#isReading) this.#isRung = true;
    else this.#read(false);
  }

  #read(isPoll: boolean): void {
    this.#isReading = true;
    this.#isRung = false;
    const read = ++this.#reads;
    this.#etcd.request(
      this.#life,
      READ_MS,
      () => this.#etcd.read(),
      (view) => {
        this.#isReading = false;
        if (this.#isClosed) return;
        const isCertain = this.#take(view, isPoll);
        if (this.#isRung) this.#read(false);
        else
          this.#later(isCertain ? POLL_MS : RETRY_MS, () => {
            if (!this.#isReading && this.#reads === read) this.#read(isCertain);
          });
      },
      () => {
        this.#isReading = false;
        this.#later(RETRY_MS, () => {
          if (!this.#isReading && this.#reads === read) this.#read(false);
        });
      },
    );
  }

  #take(view: ClusterView, isPoll: boolean): boolean {
    const { revision } = view;
    if (revision < this.#revision && !this.#isBackFor(revision)) return false;
    this.#wentBackTo = undefined;
    this.#revision = revision;
    if (isPoll) this.#checkMember(view);
    // An etcd that was brought back may come to the very revision that was seen before, with another history.
    if (this.#view?.revision === revision && this.#view.state?.value.nonce === view.state?.value.nonce)
      return true;
    this.#view = view;
    this.#events!.onView(view);
    return true;
  }

  #isBackFor(revision: number): boolean {
    if (this.#wentBackTo === undefined || revision < this.#wentBackTo) {
      this.#wentBackTo = revision;
      return false;
    }
    this.#world.note(this.#life.node, () => `sees that ${ETCD} went back to revision ${revision}`);
    this.#writeMember();
    return true;
  }

  // ---- the lease, and the member key that goes with it ----------------------------------------------------------------------------------

  #keepLease(): void {
    if (this.#isClosed) return;
    const { leaseMs } = this.#etcd;
    const sentAtMs = this.#world.nowMs;
    const id = this.#lease;
    if (id === undefined) {
      this.#etcd.request(
        this.#life,
        GRANT_MS,
        () => this.#etcd.grant(),
        (granted) => {
          if (this.#isClosed) return;
          this.#lease = granted;
          this.#writeMember();
          this.#events!.onLease(sentAtMs);
          for (const go of this.#waitingForLease.splice(0)) go();
          this.#later(leaseMs / KEEPALIVES_PER_LEASE, () => this.#keepLease());
        },
        () => this.#later(RETRY_MS, () => this.#keepLease()),
      );
      return;
    }
    this.#etcd.request(
      this.#life,
      Math.max(ANSWER_MS_MIN, leaseMs / 3),
      () => this.#etcd.keepAlive(id),
      (isThere) => {
        if (this.#isClosed) return;
        if (!isThere) {
          this.#leaseGone(id);
          this.#keepLease();
          return;
        }
        if (this.#lease === id) this.#events!.onLease(sentAtMs);
        const nextMs = sentAtMs + leaseMs / KEEPALIVES_PER_LEASE - this.#world.nowMs;
        this.#later(Math.max(0, nextMs), () => this.#keepLease());
      },
      () => this.#later(RETRY_MS, () => this.#keepLease()),
    );
  }

  #leaseGone(id: string): void {
    if (this.#lease !== id) return;
    this.#lease = undefined;
    this.#events!.onLeaseLost();
  }

  #writeMember(): void {
    this.#memberRevision = 0;
    const member = this.#member;
    const lease = this.#lease;
    if (member === undefined || lease === undefined || this.#isClosed || this.#isWritingMember) return;
    this.#isWritingMember = true;
    this.#etcd.request(
      this.#life,
      WRITE_MS,
      () => this.#etcd.transact(keys.putMember(member, lease)),
      (result) => {
        this.#isWritingMember = false;
        if (result === 'lease-gone') this.#leaseGone(lease);
        else if (this.#member === member && this.#lease === lease) {
          this.#memberRevision = revisionOf(result.header.revision);
          return;
        }
        this.#writeMember();
      },
      () => {
        this.#isWritingMember = false;
        this.#later(RETRY_MS, () => this.#writeMember());
      },
    );
  }

  #checkMember({ revision, members }: ClusterView): void {
    if (this.#member === undefined || this.#memberRevision === 0 || revision < this.#memberRevision) return;
    if (members.get(this.#member.node)?.revision !== this.#memberRevision) this.#writeMember();
  }
}

function ignore(): void {}
