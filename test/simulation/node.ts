// What src/cluster/node.ts does, step by step, in simulated time: the same election, the same receiver, the same order of what is put on disk and
// what is said.

import type { ClusterView } from '../../src/cluster/coordinator.js';
import { type Effect, Election, type Standing } from '../../src/cluster/election.js';
import { assert } from '../../src/core/assert.js';
import type { DiskLog } from '../../src/log/disk-log.js';
import { EpochHistory, type EpochStart } from '../../src/log/epoch-history.js';
import type { Refusal } from '../../src/replication/frames.js';
import type { LinkToLeader } from '../../src/replication/peer-link.js';
import { ReplicaReceiver, type ReplicaReceiverOptions } from '../../src/replication/replica-receiver.js';
import type { Replica } from '../../src/state/replica.js';
import type { Checker } from './checker.js';
import { SimulatedCoordinator } from './coordinator.js';
import type { Directory, LogRecord } from './directory.js';
import { ETCD, type SimulatedEtcd } from './etcd.js';
import { SimulatedLeadership } from './leadership.js';
import { SimulatedLog } from './log.js';
import type { Hello, Network } from './network.js';
import { NO_FILE, type OutgoingSnapshot, SNAPSHOT_RECORDS, snapshotOf, takeWith } from './snapshots.js';
import type { Life, World } from './world.js';

const TICK_MS = 100;
const FOLLOWED_MS = 500;
const HEARD_MS = 400;
const DIAL_MS = 1000;
const DIAL_AGAIN_MS = 50;
const PROBE_MS = 300;
const HANDOVER_MS = 2000;
const COMMITTED_MS = 1000;
const REST_MS = 3000;
const PERSIST_AGAIN_MS = 1000;
const NAMESAKE_MS = 3000;
/** Less than anywhere else, since faults come as often as they do here. */
const DAMAGED_REST_MS = 5000;
/** How the most frequent note begins. */
export const COMMITS = 'commits up to';

export interface NodeOptions {
  readonly world: World;
  readonly network: Network;
  readonly etcd: SimulatedEtcd;
  readonly checker: Checker;
  readonly directory: Directory;
  readonly life: Life;
  readonly replicas: number;
  readonly minInSync: number;
  /** Upper bound of what its disk takes. */
  readonly diskMs: () => number;
  /** The disk takes no note of an epoch, as when it is full. */
  readonly refusesNotes: () => boolean;
  /** Its log goes as soon as it may. */
  readonly keepsLittle: boolean;
  /** Puts an empty directory with another incarnation in the place of what is there. */
  renewDirectory(): Directory;
  /** It cannot go on, which is nobody's defect. */
  onFailure(why: string): void;
  /** It has ended as it was told to. */
  onStopped(): void;
}

interface Following {
  readonly leader: string;
  readonly epoch: number;
}

export class SimulatedNode {
  readonly #options: NodeOptions;
  readonly life: Life;
  readonly name: string;
  #directory: Directory;
  readonly #coordinator: SimulatedCoordinator;
  readonly #election: Election;
  #history: EpochHistory;
  #clusterId: string;
  #epoch: number;
  #log: SimulatedLog | undefined = undefined;
  #view: ClusterView | undefined = undefined;
  #leadership: SimulatedLeadership | undefined = undefined;
  #isServing = false;
  #following: Following | undefined = undefined;
  #receiver: ReplicaReceiver | undefined = undefined;
  #work: ((done: () => void) => void)[] = [];
  #isWorking = false;
  #isRunning = false;
  #isStopping = false;
  #isDamaged = false;
  #isMakingSnapshot = false;
  /** What is coming from the leader. */
  #incoming: OutgoingSnapshot | undefined = undefined;
  #isSuspect: boolean;
  #isGrowing = false;
  #isRegistered = false;
  #namesakeSinceMs: number | undefined = undefined;
  #resignDone: (() => void) | undefined = undefined;
  /** Of clients that wait for their acknowledgements. */
  #published: { readonly record: LogRecord; readonly acknowledge: () => void }[] = [];

  /** A process begins, with the directory as it is. */
  constructor(options: NodeOptions) {
    const { world, network, etcd, life, minInSync } = options;
    this.#options = options;
    this.life = life;
    this.name = life.node;
    this.#directory = options.directory;
    if (this.#directory.isBeginningAnew) this.#beginWithNothing();
    const directory = this.#directory;
    const log = directory.isDamaged ? undefined : this.#openLog(directory.committed);
    const { membership } = directory;
    this.#isSuspect = membership?.isSuspect ?? false;
    this.#clusterId = membership?.clusterId ?? '';
    this.#epoch = Math.max(membership?.epoch ?? 0, log?.epoch ?? 0);
    this.#history = new EpochHistory(membership?.starts ?? []);
    if (log !== undefined) this.#take(log);
    world.note(
      this.name,
      () =>
        `starts ${directory.incarnation}: ${log === undefined ? 'the log is damaged' : `log up to ${log.endOffset}, committed ${log.highWatermark}`}, epoch ${this.#epoch}`,
    );
    this.#election = new Election(
      {
        node: this.name,
        cluster: 'cluster',
        replicas: options.replicas,
        minInSync,
        leaseMs: etcd.leaseMs - Math.min(500, etcd.leaseMs / 10),
        draw: () => world.draw('n'),
      },
      {
        incarnation: directory.incarnation,
        clusterId: this.#clusterId,
        epoch: this.#epoch,
        ...this.#logShape(log),
      },
    );
    if (log === undefined) this.#election.onLogClosed();
    this.#coordinator = new SimulatedCoordinator(world, etcd, life, () => network.isCut(ETCD, this.name));
    this.#every(TICK_MS, () => this.#tick());
    this.#every(COMMITTED_MS, () => this.#noteCommitted());
    network.listen(this.name, {
      life,
      mayAccept: (hello) => this.#refusalOf(hello),
      onReplica: (link, hello) => {
        if (this.#leadership === undefined) link.destroy(undefined);
        else this.#leadership.accept(link, hello.incarnation);
      },
    });
    this.#join();
  }

  get isServing(): boolean {
    return this.#isServing;
  }

  get leadership(): SimulatedLeadership | undefined {
    return this.#leadership;
  }

  get log(): SimulatedLog | undefined {
    return this.#log;
  }

  get directory(): Directory {
    return this.#directory;
  }

  /** A client sends a message. @returns whether it is taken; `acknowledge` is called when it is committed */
  publish(content: string, acknowledge: () => void): boolean {
    if (!this.#isServing) return false;
    const record = this.#log!.append(content);
    this.#published.push({ record, acknowledge });
    this.#log!.flush();
    return true;
  }

  /** Retention: what is in the older of two snapshots, and kept by nobody's wish. A member keeps what its leader has. */
  letGo(): void {
    if (this.#log === undefined) return;
    const { snapshotFloor } = this.#directory;
    const end =
      this.#leadership === undefined ? Math.min(this.#receiver?.logStart ?? 0, snapshotFloor) : snapshotFloor;
    if (end <= this.#directory.start) return;
    this.#directory.start = this.#options.world.random.integer(this.#directory.start, end);
    this.#options.world.note(this.name, () => `lets go of its log before ${this.#directory.start}`);
  }

  /** A planned end. */
  stop(): void {
    if (this.#isStopping) return;
    const { world, onStopped } = this.#options;
    world.note(this.name, () => 'is asked to stop');
    this.#isStopping = true;
    let isOver = false;
    const leave = (): void => {
      if (isOver) return;
      isOver = true;
      this.#stopFollowing();
      this.#leadership?.close();
      this.#do((done) => {
        this.#coordinator.close();
        const log = this.#log;
        if (log === undefined) onStopped();
        else
          log.close(() => {
            this.#noteCommitted();
            onStopped();
          });
        done();
      });
    };
    if (!this.#election.isLeading) {
      this.#run(() => this.#election.resign());
      leave();
      return;
    }
    this.#resignDone = leave;
    this.#run(() => this.#election.resign());
    world.after(HANDOVER_MS, this.life, leave);
  }

  /** An operator has another node lead. */
  stepDown(): void {
    if (this.#leadership === undefined || this.#leadership.inSync.length < 2) return;
    this.#run(() => this.#election.yieldLead('an operator asked for it', REST_MS));
  }

  /** The process is over. */
  forget(): void {
    this.#coordinator.forget();
  }

  #clearSuspicion(): void {
    if (!this.#isSuspect) return;
    this.#isSuspect = false;
    this.#isGrowing = false;
    this.#options.world.note(this.name, () => 'is not suspect any more');
    this.#opened(this.#log!);
    this.#register();
  }

  #logShape(log: SimulatedLog | undefined): Pick<Standing, 'logEnd' | 'logEpoch' | 'isSuspect'> {
    const logEnd = log?.endOffset ?? 0;
    return { logEnd, logEpoch: this.#history.epochAt(logEnd - 1) ?? 0, isSuspect: this.#isSuspect };
  }

  #every(intervalMs: number, work: () => void): void {
    const { world } = this.#options;
    world.after(intervalMs, this.life, () => {
      this.#every(intervalMs, work);
      work();
    });
  }

  #register(): void {
    this.#coordinator.register({
      node: this.name,
      incarnation: this.#directory.incarnation,
      clusterId: this.#clusterId,
      ...this.#logShape(this.#log),
      isSuspect: this.#isSuspect && !this.#isGrowing,
      epoch: this.#epoch,
      peer: this.name,
      mqtt: '',
      http: '',
      version: '',
    });
  }

  #join(): void {
    const { world } = this.#options;
    this.#coordinator.start({
      onView: (view) => {
        this.#view = view;
        if (!this.#introduce(view)) return;
        this.#run(() => this.#election.onView(view));
      },
      onLease: (sentAtMs) => this.#run(() => this.#election.onLease(sentAtMs)),
      onLeaseLost: () => {
        world.note(this.name, () => 'has lost its lease');
        this.#run(() => this.#election.onLeaseLost());
      },
      onReachable: () => undefined,
    });
  }

  /** Registers, unless another node has this name: what it has from a former self of this one goes with its lease. */
  #introduce({ members }: ClusterView): boolean {
    if (this.#isRegistered) return true;
    const { world, etcd, onFailure } = this.#options;
    const namesake = members.get(this.name)?.value;
    if (namesake === undefined || namesake.incarnation === this.#directory.incarnation) {
      this.#isRegistered = true;
      this.#register();
      return true;
    }
    this.#namesakeSinceMs ??= world.nowMs;
    if (world.nowMs - this.#namesakeSinceMs < etcd.leaseMs + NAMESAKE_MS || this.#isStopping) return false;
    onFailure(`another node called '${this.name}' is in the cluster`);
    return false;
  }

  // ---- the election -----------------------------------------------------------------------------------------------------------------

  #run(happening: () => void): void {
    happening();
    if (this.#isRunning) return;
    this.#isRunning = true;
    for (let effects = this.#election.takeEffects(); effects.length > 0; ) {
      for (const effect of effects) this.#carryOut(effect);
      effects = this.#election.takeEffects();
    }
    this.#isRunning = false;
  }

  #carryOut(effect: Effect): void {
    const { world, onFailure } = this.#options;
    switch (effect.kind) {
      case 'commit':
        this.#coordinator.commit(effect.transaction, (outcome) => {
          world.note(this.name, () => `hears that its transaction is ${outcome.kind}`);
          this.#run(() => this.#election.onOutcome(outcome));
          if (effect.transaction.leader === 'delete') this.#resignDone?.();
        });
        break;
      case 'persist':
        this.#persist(effect);
        break;
      case 'confirmed':
        this.#leadership?.confirm();
        break;
      case 'abandoned':
        this.#leadership?.abandon();
        break;
      case 'lead':
        this.#stopFollowing();
        this.#do((done) => {
          this.#lead(effect);
          done();
        });
        break;
      case 'follow':
        this.#stopFollowing();
        this.#do((done) => {
          this.#follow(effect.leader, effect.epoch);
          done();
        });
        break;
      case 'wait':
        this.#stopFollowing();
        break;
      case 'stand-down':
        world.note(this.name, () => `stands down: ${effect.why}`);
        this.#endLeadership();
        this.#do((done) => this.#reopen(done));
        break;
      case 'warn':
        world.note(this.name, () => effect.message);
        break;
      case 'fail':
        onFailure(effect.error.message);
        break;
    }
  }

  #tick(): void {
    const { nowMs } = this.#options.world;
    if (this.#view === undefined || !this.#introduce(this.#view)) return;
    const isFollowed = this.#leadership?.isFollowed(FOLLOWED_MS) ?? false;
    const isLeaderHeard = this.#receiver !== undefined && nowMs - this.#receiver.heardMs <= HEARD_MS;
    this.#run(() => this.#election.onTick(nowMs, isFollowed, isLeaderHeard));
  }

  #do(work: (done: () => void) => void): void {
    this.#work.push(work);
    if (!this.#isWorking) this.#next();
  }

  #next(): void {
    const work = this.#work.shift();
    this.#isWorking = work !== undefined;
    if (work === undefined) return;
    // A turn of its own, as after a promise.
    this.#options.world.after(0, this.life, () => work(() => this.#next()));
  }

  #persist(effect: Extract<Effect, { kind: 'persist' }>): void {
    const { world, refusesNotes } = this.#options;
    this.#clusterId = effect.clusterId;
    this.#epoch = effect.epoch;
    if (refusesNotes()) {
      world.note(this.name, () => `cannot persist epoch ${effect.epoch}`);
      this.#run(() => this.#election.onPersistRefused(REST_MS));
      world.after(PERSIST_AGAIN_MS, this.life, () => this.#persist(effect));
      return;
    }
    world.note(this.name, () => `persists epoch ${effect.epoch}`);
    this.#writeMembership();
    this.#run(() => this.#election.onPersisted());
    this.#register();
  }

  #writeMembership(): void {
    const { world, checker } = this.#options;
    world.crashPoint(this.life, 'before its membership is on disk');
    checker.onPersist(this.#directory, this.#epoch);
    this.#directory.membership = {
      clusterId: this.#clusterId,
      epoch: this.#epoch,
      starts: [...this.#history.starts],
      isSuspect: this.#isSuspect,
    };
    world.crashPoint(this.life, 'after its membership is on disk');
  }

  // ---- the log ----------------------------------------------------------------------------------------------------------------------

  #openLog(committed: number): SimulatedLog {
    const { world, life, checker, diskMs, etcd } = this.#options;
    const directory = this.#directory;
    if (directory.isTorn) {
      // Before anything is cut: from then on nobody could tell.
      const { membership } = directory;
      if (membership !== undefined) directory.membership = { ...membership, isSuspect: true };
      this.#isSuspect = membership !== undefined;
      world.note(this.name, () => `finds the end of its log torn at ${directory.file.length}`);
      world.crashPoint(life, 'before the torn end of its log is cut off');
      directory.isTorn = false;
    }
    const snapshotEnd = directory.newestSnapshot?.endOffset ?? 0;
    assert(snapshotEnd >= directory.start, 'the state before the log is in a snapshot');
    // Recovery has to do that: what the process before it wrote may be on no platter.
    directory.sync(directory.file.length);
    return new SimulatedLog({
      world,
      life,
      directory,
      epoch: 1,
      // A snapshot is made of what is committed.
      committed: Math.max(committed, snapshotEnd),
      slowMs: diskMs,
      watcher: {
        onCreated: (record) => checker.onCreated(life, record),
        onAppended: (record, last) => checker.onAppended(directory, record, last),
        onCommitted: (from, to) => {
          const leadership = this.#leadership;
          if (leadership !== undefined) {
            world.note(this.name, () => `${COMMITS} ${to}`);
            checker.onLeaderCommitted(leadership, directory.file.slice(from, to), etcd.state);
          }
          checker.onApplied(directory, from, to);
          this.#makeSnapshot(to);
        },
      },
    });
  }

  /** As when a segment is sealed. */
  #makeSnapshot(committed: number): void {
    const { world, life, diskMs, checker, keepsLittle } = this.#options;
    const directory = this.#directory;
    const log = this.#log;
    const endOffset = committed - (committed % SNAPSHOT_RECORDS);
    const isThere = endOffset <= (directory.snapshots.at(-1)?.endOffset ?? 0);
    if (log === undefined || isThere || this.#isMakingSnapshot) return;
    this.#isMakingSnapshot = true;
    world.after(world.delay(1, diskMs() * 4), life, () => {
      this.#isMakingSnapshot = false;
      if (this.#log !== log) return;
      checker.onSnapshot(directory, endOffset);
      const { flaw } = directory;
      directory.addSnapshot({ endOffset, flaw });
      const hash = Buffer.from(`${directory.file[endOffset - 1]!.epoch} ${flaw}`);
      this.#leadership?.onStateHash(this.name, endOffset, hash);
      this.#receiver?.tellStateHash(endOffset, hash);
      if (keepsLittle) this.letGo();
    });
  }

  #take(log: SimulatedLog): void {
    this.#log = log;
  }

  #noteCommitted(): void {
    if (this.#log !== undefined) this.#directory.committed = this.#log.highWatermark;
  }

  #reopen(done: () => void, change?: (committed: number) => void): void {
    const { world, diskMs } = this.#options;
    const log = this.#log;
    if (log === undefined || this.#isDamaged) {
      done();
      return;
    }
    const committed = log.highWatermark;
    this.#noteCommitted();
    this.#log = undefined;
    log.close(() => {
      world.crashPoint(this.life, 'before its log is cut');
      change?.(committed);
      world.crashPoint(this.life, 'after its log is cut');
      world.after(world.delay(0.5, diskMs() * 2), this.life, () => {
        const opened = this.#openLog(committed);
        this.#take(opened);
        this.#opened(opened);
        done();
      });
    });
  }

  #cutOpen(end: number, done: () => void): void {
    const { world, diskMs } = this.#options;
    const log = this.#log;
    if (log === undefined || this.#isDamaged) {
      done();
      return;
    }
    world.crashPoint(this.life, 'before its log is cut');
    world.after(world.delay(0.1, diskMs()), this.life, () => {
      this.#cut(end, log.highWatermark);
      world.crashPoint(this.life, 'after its log is cut');
      log.cut();
      if (!this.#isDamaged) this.#opened(log);
      done();
    });
  }

  #opened(log: SimulatedLog): void {
    const { incarnation } = this.#directory;
    this.#run(() => this.#election.onLogOpened({ ...this.#logShape(log), incarnation }));
  }

  /** What is on the disk is damaged, and another node leads: a copy of what that has takes its place. */
  #replaceDamaged(done: () => void): void {
    const { world, renewDirectory } = this.#options;
    if (this.#log !== undefined || this.#isStopping) {
      done();
      return;
    }
    // Not a moment may come at which the log is empty and has the name of the one that was there.
    this.#directory = renewDirectory();
    world.crashPoint(this.life, 'before the directory with a new name belongs to the cluster');
    this.#history = new EpochHistory();
    this.#isSuspect = false;
    this.#writeMembership();
    const opened = this.#openLog(0);
    this.#take(opened);
    this.#opened(opened);
    this.#register();
    done();
  }

  #cut(end: number, committed: number): void {
    const { world, checker } = this.#options;
    const directory = this.#directory;
    assert(end >= committed, `the log is cut at ${end}, and committed up to ${committed}`);
    checker.onCut(directory, end);
    world.note(this.name, () => `cuts its log from ${directory.file.length} to ${end}`);
    directory.truncate(end);
  }

  /** A snapshot of the leader has come: it takes the place of everything that is here. */
  #install(snapshot: OutgoingSnapshot, starts: readonly EpochStart[], done: () => void): void {
    const { checker, world, etcd, diskMs, renewDirectory } = this.#options;
    const log = this.#log;
    if (log === undefined || this.#isStopping) {
      done();
      return;
    }
    const { incarnation } = this.#directory;
    // The view of this node may be older than that.
    const isInSync = etcd.state?.inSync.some((one) => one.incarnation === incarnation);
    assert(isInSync !== true || this.#isSuspect, 'a node that is in sync, and whole, needs no snapshot');
    log.close(() => {
      this.#log = undefined;
      const former = this.#directory;
      const directory = renewDirectory();
      this.#directory = directory;
      directory.takeOver(former);
      world.crashPoint(this.life, 'before its log begins anew');
      checker.onBegunAnew(directory, etcd.state);
      directory.isBeginningAnew = true;
      world.after(world.delay(0.5, diskMs() * 4), this.life, () => {
        directory.beginAnew(snapshot);
        this.#history = new EpochHistory(starts);
        this.#isSuspect = false;
        this.#writeMembership();
        directory.isBeginningAnew = false;
        world.note(this.name, () => `begins with a snapshot up to ${snapshot.endOffset}`);
        const opened = this.#openLog(snapshot.endOffset);
        this.#take(opened);
        this.#opened(opened);
        this.#register();
        done();
      });
    });
  }

  /** The process before it ended while it began the log anew. */
  #beginWithNothing(): void {
    const { world, renewDirectory } = this.#options;
    const directory = renewDirectory();
    this.#directory = directory;
    directory.beginAnew();
    const { membership } = directory;
    if (membership !== undefined) directory.membership = { ...membership, starts: [], isSuspect: false };
    world.note(this.name, () => 'begins with nothing');
  }

  /** Its state is not what the log makes: another node leads, from whom it gets a copy. */
  #onDamaged(why: string): void {
    if (this.#isDamaged) return;
    this.#isDamaged = true;
    const { world, onFailure } = this.#options;
    world.note(this.name, () => why);
    const leadership = this.#leadership;
    if (leadership !== undefined && leadership.inSync.length < 2) {
      onFailure(why);
      return;
    }
    this.#stopFollowing();
    this.#run(() => this.#election.yieldLead('its log is damaged', DAMAGED_REST_MS));
    this.#election.onLogClosed();
    this.#do((done) => {
      const log = this.#log;
      this.#log = undefined;
      if (log === undefined) done();
      else log.close(done);
    });
    this.#do((done) => {
      this.#waitForLeader();
      done();
    });
  }

  #waitForLeader(): void {
    const { leader, epoch } = this.#election;
    if (leader === undefined || leader === this.name) return;
    this.#isDamaged = false;
    this.#do((done) => this.#replaceDamaged(done));
    this.#do((done) => {
      this.#follow(leader, epoch);
      done();
    });
  }

  // ---- leading ----------------------------------------------------------------------------------------------------------------------

  #lead({ epoch, inSync, gone }: Extract<Effect, { kind: 'lead' }>): void {
    const { world, life, minInSync, checker, etcd, diskMs } = this.#options;
    const directory = this.#directory;
    if (!this.#election.isLeading || this.#election.epoch !== epoch || this.#isStopping) return;
    const log = this.#log;
    if (log === undefined) {
      this.#run(() => this.#election.yieldLead('its log is damaged', DAMAGED_REST_MS));
      return;
    }
    // As a member it was told all of its leader's history, and may not have got what belongs to it.
    this.#history.cut(log.endOffset);
    this.#history.begin(epoch, log.endOffset);
    this.#clearSuspicion();
    this.#writeMembership();
    const leadership = new SimulatedLeadership({
      world,
      life,
      self: { node: this.name, incarnation: directory.incarnation },
      epoch,
      inSync,
      gone,
      minInSync,
      silenceMs: etcd.leaseMs / 2,
      lagMs: 2 * etcd.leaseMs,
      onStuck: () => this.#run(() => this.#election.yieldLead('its disk does not answer', etcd.leaseMs)),
      onDamaged: (error) => this.#onDamaged(error.message),
      log,
      directory,
      diskMs,
      newestSnapshot: () => directory.snapshots.findLast(({ endOffset }) => endOffset <= log.highWatermark),
      history: this.#history,
      propose: (wanted) => {
        let isSent = false;
        this.#run(() => {
          isSent = this.#election.proposeInSync(wanted);
        });
        return isSent;
      },
      onInSync: () => checker.checkMaximal(etcd.state),
    });
    world.note(
      this.name,
      () =>
        `leads in epoch ${epoch} from ${log.endOffset} with {${inSync.map((one) => one.incarnation).join(' ')}}`,
    );
    this.#leadership = leadership;
    checker.onLead(leadership);
    const barrier = log.append(`begin ${epoch}`);
    let isServed = false;
    log.onCommit((highWatermark) => {
      if (this.#leadership !== leadership) return;
      if (!isServed && highWatermark > barrier.offset) {
        isServed = true;
        this.#serve(leadership, barrier);
      }
      this.#acknowledge(highWatermark);
    });
    log.flush();
  }

  #serve(leadership: SimulatedLeadership, barrier: LogRecord): void {
    const { world, checker } = this.#options;
    this.#isServing = true;
    world.note(this.name, () => `serves in epoch ${leadership.epoch}`);
    checker.onServe(leadership, barrier, (offset) => this.#directory.file[offset]);
  }

  #acknowledge(highWatermark: number): void {
    const { checker } = this.#options;
    let count = 0;
    for (; count < this.#published.length && this.#published[count]!.record.offset < highWatermark; count++) {
      const { record, acknowledge } = this.#published[count]!;
      checker.onAcknowledged(record);
      acknowledge();
    }
    this.#published.splice(0, count);
  }

  #endLeadership(): void {
    this.#leadership?.close();
    this.#leadership = undefined;
    this.#isServing = false;
    this.#published = [];
  }

  // ---- following --------------------------------------------------------------------------------------------------------------------

  #stopFollowing(): void {
    this.#following = undefined;
    this.#receiver?.close();
    this.#receiver = undefined;
    this.#stopGrowing();
  }

  /** Whoever is suspect and gets nothing more can be compared with again, as it is now. */
  #stopGrowing(): void {
    if (!this.#isGrowing || this.#log === undefined) return;
    this.#isGrowing = false;
    this.#log.settled(() => this.#register());
  }

  #follow(leader: string, epoch: number): void {
    if (this.#election.leader !== leader || this.#election.epoch !== epoch || this.#isStopping) return;
    if (this.#log === undefined) {
      this.#waitForLeader();
      return;
    }
    const following = { leader, epoch };
    this.#following = following;
    this.#dial(following);
  }

  /** Before a suspect log grows, everybody has to know that it is not to be compared with. */
  #mayGrow(): boolean {
    if (!this.#isSuspect) return true;
    if (!this.#isGrowing) {
      this.#isGrowing = true;
      this.#register();
    }
    const own = this.#view?.members.get(this.name)?.value;
    return own?.incarnation === this.#directory.incarnation && !own.isSuspect;
  }

  #dial(following: Following): void {
    const { world, network } = this.#options;
    const { leader } = following;
    if (this.#following !== following) return;
    const again = (): void => world.after(DIAL_AGAIN_MS, this.life, () => this.#dial(following));
    if (this.#view?.members.get(leader) === undefined) {
      again();
      return;
    }
    this.#log!.settled(() => {
      const hello = {
        node: this.name,
        incarnation: this.#directory.incarnation,
        epoch: this.#election.epoch,
        clusterId: this.#clusterId,
      };
      network.dial(this.life, leader, hello, DIAL_MS, (link, why) => {
        if (this.#following !== following) link?.destroy(undefined);
        else if (link !== undefined && this.#mayGrow()) this.#receive(following, link);
        else if (link !== undefined) {
          link.destroy(undefined);
          again();
        } else {
          world.note(this.name, () => `cannot follow ${leader}: ${why}`);
          this.#probe(following, again);
        }
      });
    });
  }

  #receive(following: Following, link: LinkToLeader): void {
    const { world } = this.#options;
    const { leader, epoch } = following;
    const log = this.#log!;
    const receiver = new ReplicaReceiver({
      link: this.#intercepting(link),
      epoch,
      log: log as unknown as DiskLog,
      replica: {
        hold: () => undefined,
        get applied() {
          return log.highWatermark;
        },
      } as unknown as Replica,
      starts: this.#history.starts,
      nowMs: () => world.nowMs,
      onHistory: (starts: readonly EpochStart[]) => {
        this.#history = new EpochHistory(starts);
        this.#writeMembership();
        world.note(this.name, () => `follows ${leader} in epoch ${epoch} from ${log.endOffset}`);
      },
      onCaughtUp: () => {
        this.#clearSuspicion();
        this.#writeMembership();
      },
      onCut: (cut: number) => {
        // Within the segment that is written to the log goes on; elsewhere it is opened anew.
        const isWithin = world.random.chance(0.5);
        this.#followAfter(following, (done) => {
          if (isWithin) this.#cutOpen(cut, done);
          else this.#reopen(done, (committed) => this.#cut(cut, committed));
        });
      },
      onDiverged: (why: string) => this.#onDamaged(why),
      // Nobody is forced to lead here, so a leader that lacks something has lost it.
      onAhead: (why: string) => assert(false, why),
      // As src/cluster/node.ts asks: its view may be older than the link.
      mayBeginAnew: () => {
        const inSync = this.#view?.state?.value.inSync ?? [];
        const { incarnation } = this.#directory;
        return this.#isSuspect || !inSync.some((one) => one.incarnation === incarnation);
      },
      incomingPath: NO_FILE,
      onSnapshot: (endOffset: number, starts: readonly EpochStart[]) => {
        const incoming = this.#incoming!;
        assert(incoming.endOffset === endOffset, 'what has come is what was announced');
        this.#followAfter(following, (done) => this.#install(incoming, starts, done));
      },
      onStatus: () => undefined,
      onClosed: () => {
        this.#receiver = undefined;
        if (this.#following !== following) return;
        this.#stopGrowing();
        world.note(this.name, () => `has lost the link to ${leader}`);
        this.#probe(following, () => {
          if (this.#following === following) this.#dial(following);
        });
      },
    } as unknown as ReplicaReceiverOptions);
    this.#receiver = receiver;
    receiver.start();
  }

  #followAfter({ leader, epoch }: Following, work: (done: () => void) => void): void {
    this.#receiver = undefined;
    this.#following = undefined;
    this.#election.onLogClosed();
    this.#do(work);
    this.#do((done) => {
      this.#follow(leader, epoch);
      done();
    });
  }

  /** What goes over the link is looked at, and what is written of a snapshot takes its time. */
  #intercepting(link: LinkToLeader): LinkToLeader {
    const { world, checker, diskMs } = this.#options;
    const directory = this.#directory;
    const disk = { world, life: this.life, slowMs: diskMs };
    const start = link.start.bind(link);
    link.start = (handler) =>
      start({
        onFrame: (frame) => {
          if (frame.type === 'snapshotChunk') this.#incoming = snapshotOf(frame.bytes);
          takeWith(disk, () => handler.onFrame(frame));
        },
        onDrain: () => handler.onDrain(),
        onClose: (error) => handler.onClose(error),
      });
    const send = link.send.bind(link);
    link.send = (frame) => {
      if (frame.type === 'ack') checker.onAck(directory, frame.epoch);
      return send(frame);
    };
    return link;
  }

  #probe(following: Following, done: () => void): void {
    const { network } = this.#options;
    network.probe(this.life, following.leader, PROBE_MS, (found) => {
      if (found === 'gone' && this.#following === following) {
        this.#run(() => this.#election.onLeaderGone(following.leader));
      }
      done();
    });
  }

  #refusalOf({ node, incarnation, epoch, clusterId }: Hello): Refusal | undefined {
    const leadership = this.#leadership;
    if (clusterId !== '' && clusterId !== this.#clusterId) return { code: 'cluster-id', message: '' };
    if (this.#isStopping) return { code: 'stopping', message: '' };
    if (leadership === undefined) return { code: 'not-leader', message: '' };
    if (epoch !== leadership.epoch) return { code: 'epoch', message: '' };
    const known = this.#view?.members.get(node)?.value.incarnation;
    return known === incarnation ? undefined : { code: 'incarnation', message: '' };
  }
}
