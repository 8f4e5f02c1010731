// The invariants of /docs/REPLICATION.md, held against everything that happens, by somebody who sees all disks at once. Each check stands where its
// fact changes, so that it costs little and fails at the event that breaks it.
import type { ClusterState, ClusterView, InSyncMember, Transaction } from '../../src/cluster/coordinator.js';
import type { Directory, LogRecord } from './directory.js';
import { type Life, Violation, type World } from './world.js';

/** Faults that are known to be too much are there as well. */
export const GOES_BEYOND = process.env.BEYOND === '1';

/** A leader as it sees itself. */
export interface Leading {
  readonly life: Life;
  readonly epoch: number;
  /** In force, as far as it knows. */
  readonly inSync: readonly InSyncMember[];
  /** On its way to etcd. */
  readonly proposed: readonly InSyncMember[] | undefined;
}

export class Checker {
  readonly #world: World;
  readonly #minInSync: number;
  readonly #directories = new Map<string, Directory>();
  /** Whatever any leader has committed, by offset. */
  readonly committed: LogRecord[] = [];
  readonly acknowledged: LogRecord[] = [];
  /** By epoch: the process that leads in it. */
  readonly #leaders = new Map<number, Leading>();
  /** The epochs in which something was committed, or served. */
  readonly #servedEpochs = new Set<number>();
  /** What etcd has does not say who is in sync: it was wiped, or brought back from a copy, and nobody has put it right. */
  isStateForeign = false;

  constructor(world: World, minInSync: number) {
    this.#world = world;
    this.#minInSync = minInSync;
  }

  addDirectory(directory: Directory): void {
    this.#directories.set(directory.incarnation, directory);
  }

  directoryOf({ incarnation }: InSyncMember): Directory | undefined {
    return this.#directories.get(incarnation);
  }

  get epochsServed(): number {
    return this.#servedEpochs.size;
  }

  // ---- epochs -----------------------------------------------------------------------------------------------------------------------

  /** 1 and 5: in etcd. Who changes the state, knows it, and the key of the leader (R1). */
  onTransaction({ state: there, leader }: ClusterView, transaction: Transaction): void {
    const { stateRevision, leaderRevision, state } = transaction;
    const revisions = [there?.revision ?? 0, leader?.revision ?? 0];
    check(
      revisions[0] === stateRevision && revisions[1] === leaderRevision,
      () =>
        `a transaction for state ${stateRevision} and leader key ${leaderRevision} is carried out where they are ${revisions.join(' and ')}`,
    );
    if (state === undefined) return;
    const before = there?.value;
    if (before !== undefined && !this.isStateForeign) {
      check(
        state.clusterId === before.clusterId,
        () => `cluster ${before.clusterId} becomes ${state.clusterId}`,
      );
      check(state.epoch >= before.epoch, () => `etcd goes from epoch ${before.epoch} back to ${state.epoch}`);
      this.#checkSize(before, state);
    }
    this.isStateForeign = false;
    this.checkMaximal(state);
  }

  /** 5: enough may be elected, or as many as before: a cluster begins with one. */
  #checkSize({ inSync: before }: ClusterState, { inSync, epoch }: ClusterState): void {
    const sizeMin = Math.min(this.#minInSync, before.length);
    check(
      inSync.length >= sizeMin,
      () =>
        `in epoch ${epoch} ${inSync.length} are in sync, where ${before.length} were: ${sizeMin} have to be`,
    );
  }

  /** 1: on disks. */
  onPersist(directory: Directory, epoch: number): void {
    const before = directory.membership?.epoch ?? 0;
    check(epoch >= before, () => `${directory.incarnation} goes from epoch ${before} back to ${epoch}`);
  }

  /** 1: a member that has promised itself to a later epoch helps nobody in the one before (R1), and has that on disk which it helps in (R3). */
  onAck({ incarnation, membership }: Directory, epoch: number): void {
    const promised = membership?.epoch ?? 0;
    check(
      promised === epoch,
      () => `${incarnation} acknowledges in epoch ${epoch}, and its disk says epoch ${promised}`,
    );
  }

  /** 1: in an epoch there is one leader. */
  onLead(leading: Leading): void {
    const { epoch, life } = leading;
    const former = this.#leaders.get(epoch);
    check(former === undefined, () => `${life.node} leads in epoch ${epoch}, as ${former?.life.node} did`);
    this.#leaders.set(epoch, leading);
  }

  /** 4: who has the epoch in etcd waits for everybody that may be elected after it. */
  checkMaximal(state: ClusterState | undefined): void {
    if (state === undefined || this.isStateForeign) return;
    const leading = this.#leaders.get(state.epoch);
    if (leading === undefined || !leading.life.isAlive) return;
    const maximal = [...leading.inSync, ...(leading.proposed ?? [])];
    for (const { node, incarnation } of state.inSync) {
      check(
        maximal.some((one) => one.incarnation === incarnation),
        () => `${leading.life.node} leads without ${incarnation} of ${node}, which is in sync in etcd`,
      );
    }
  }

  // ---- logs -------------------------------------------------------------------------------------------------------------------------

  onCreated(life: Life, record: LogRecord): void {
    const leading = this.#leaders.get(record.epoch);
    check(
      leading?.life === life,
      () => `${life.node} appends in epoch ${record.epoch}, which is ${leading?.life.node}'s`,
    );
  }

  /** 3: logs that agree at one record agree before it, for each has the records before it that its maker saw. */
  onAppended(directory: Directory, record: LogRecord, last: LogRecord | undefined): void {
    check(
      record.previous === last,
      () =>
        `${directory.incarnation} has ${show(record)} after ${show(last)}, made after ${show(record.previous)}`,
    );
  }

  /** 3: what is cut was never committed. */
  onCut(directory: Directory, end: number): void {
    for (let offset = end; offset < directory.file.length && offset < this.committed.length; offset++) {
      check(
        directory.file[offset] !== this.committed[offset],
        () => `${directory.incarnation} cuts ${show(directory.file[offset])}, which is committed`,
      );
    }
  }

  /** 3, 4: what begins anew is promised nowhere, neither to have what it had nor to be there. */
  onBegunAnew({ node, incarnation }: Directory, state: ClusterState | undefined): void {
    const leading = [...this.#leaders.values()].filter(({ life }) => life.isAlive);
    const promised = leading.flatMap(({ inSync, proposed }) => [...inSync, ...(proposed ?? [])]);
    check(
      [...promised, ...(state?.inSync ?? [])].every((one) => one.incarnation !== incarnation),
      () => `the log of ${node} begins anew as ${incarnation}, which is in sync`,
    );
  }

  /** 12: a snapshot is of what was committed; what is before its last record is what was before it in every log. */
  onSnapshot(directory: Directory, endOffset: number): void {
    this.onApplied(directory, endOffset - 1, endOffset);
  }

  // ---- commits ----------------------------------------------------------------------------------------------------------------------

  /** 1, 2, 5: a leader says that its records are committed. */
  onLeaderCommitted(leading: Leading, records: readonly LogRecord[], state: ClusterState | undefined): void {
    const sets = [leading.inSync];
    if (leading.proposed !== undefined) sets.push(leading.proposed);
    if (state?.epoch === leading.epoch && !this.isStateForeign) sets.push(state.inSync);
    for (const record of records) {
      const { offset } = record;
      const former = this.committed[offset];
      check(
        former === undefined || former === record,
        () => `${leading.life.node} commits ${show(record)}, where ${show(former)} is committed`,
      );
      check(
        former !== undefined || offset === this.committed.length,
        () => `${show(record)} is committed, and what is before it is not`,
      );
      this.committed[offset] = record;
      if (former !== undefined) continue;
      for (const set of sets) this.#checkKept(leading, record, set);
      for (const later of this.#leaders.values()) {
        check(
          later.epoch <= leading.epoch || !this.#servedEpochs.has(later.epoch),
          () =>
            `${leading.life.node} commits ${show(record)} in epoch ${leading.epoch}, and epoch ${later.epoch} has served`,
        );
      }
    }
    this.#servedEpochs.add(leading.epoch);
  }

  #checkKept({ life, epoch }: Leading, record: LogRecord, set: readonly InSyncMember[]): void {
    check(set.length >= this.#minInSync, () => `${show(record)} is committed with ${set.length} in sync`);
    for (const one of set) {
      const directory = this.#directories.get(one.incarnation);
      // What is gone for good cannot be asked, nor elected.
      if (directory === undefined || directory.isLost || directory.isDamaged || directory.hasRotted) continue;
      const promised = directory.membership?.epoch ?? 0;
      check(
        promised >= epoch,
        () =>
          `${life.node} commits in epoch ${epoch}, and the disk of ${one.incarnation} says epoch ${promised}`,
      );
      check(
        directory.hasSynced(record),
        () =>
          `${life.node} commits ${show(record)}, which is not on the disk of ${one.incarnation}: it has ${show(directory.file[record.offset])}, synced up to ${directory.syncedEnd}`,
      );
    }
  }

  /** 12 as far as it concerns logs: what anybody applies is what was committed. */
  onApplied(directory: Directory, from: number, to: number): void {
    for (let offset = from; offset < to; offset++) {
      check(
        directory.file[offset] === this.committed[offset] && this.committed[offset] !== undefined,
        () =>
          `${directory.incarnation} applies ${show(directory.file[offset])}, where ${show(this.committed[offset])} is committed`,
      );
    }
  }

  onAcknowledged(record: LogRecord): void {
    check(
      this.committed[record.offset] === record,
      () => `${show(record)} is acknowledged and not committed`,
    );
    this.acknowledged.push(record);
  }

  /** 2: before a leader serves it has everything that was ever committed, but for what came after its time: it may have been stopped for a while. */
  onServe(
    { life, epoch }: Leading,
    barrier: LogRecord,
    recordAt: (offset: number) => LogRecord | undefined,
  ): void {
    this.#servedEpochs.add(epoch);
    check(
      this.committed[barrier.offset] === barrier,
      () => `${life.node} serves in epoch ${epoch}, and ${show(barrier)} is not committed`,
    );
    for (const record of this.committed) {
      if (record.epoch > epoch) break;
      check(
        recordAt(record.offset) === record,
        () =>
          `${life.node} serves in epoch ${epoch} with ${show(recordAt(record.offset))} in the place of ${show(record)}`,
      );
    }
  }

  /** At the end: nothing is lost. */
  checkAcknowledged(directory: Directory): void {
    for (const record of this.acknowledged) {
      check(
        directory.file[record.offset] === record,
        () => `${show(record)} was acknowledged, and ${directory.incarnation} does not have it`,
      );
    }
  }

  /**
   * Whether one disk in sync may lose something now: all others have everything that was committed. One at a time is what a cluster promises to survive.
   * Others whose end was torn do not count: whether they lack anything is found out by comparing them with it.
   */
  isSpare(directory: Directory, state: ClusterState | undefined): boolean {
    if (state === undefined || this.isStateForeign) return false;
    const last = this.committed.at(-1);
    const proposed = [...this.#leaders.values()].flatMap((leading) =>
      leading.life.isAlive ? (leading.proposed ?? []) : [],
    );
    const others = [...state.inSync, ...proposed]
      .filter(({ incarnation }) => incarnation !== directory.incarnation)
      .map(({ incarnation }) => this.#directories.get(incarnation)!);
    const haveAll = others.every((other) => {
      if (!other.isThere || other.hasErred) return false;
      if ((other.isTorn || other.isSuspect) && !GOES_BEYOND) return false;
      const hasAll = last === undefined || other.hasSynced(last);
      if (hasAll) other.hasRotted = false;
      return hasAll;
    });
    return haveAll && state.inSync.some(({ incarnation }) => incarnation !== directory.incarnation);
  }

  /** Whether a log may be torn: with one that is not there it could never be compared. */
  mayTear(state: ClusterState | undefined): boolean {
    return (state?.inSync ?? []).every(({ incarnation }) => this.#directories.get(incarnation)!.isThere);
  }

  fail(what: string): never {
    throw new Violation(`${what} (at ${this.#world.nowMs.toFixed(0)} ms)`);
  }
}

function check(condition: boolean, what: () => string): void {
  if (!condition) throw new Violation(what());
}

export function show(record: LogRecord | undefined): string {
  return record === undefined ? 'nothing' : `${record.offset}@${record.epoch} '${record.content}'`;
}
