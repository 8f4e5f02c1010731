// One node of a cluster: carries out what the election decides. It leads or follows, has the log opened and replaced, and says when this node serves clients
// and where those of others are to go. What it does about its role it does one after the other, in the order in which it was decided.
//
//     coordinator --views, leases--> election --effects--> node --> leadership (links to members)
//                                        ^                  |   +-> follower (link to the leader)
//                                        +---- outcomes ----+   +-> serve, stand down: whoever has the clients
import { join } from 'node:path';
import { formatAddress } from '../core/address.js';
import { assert } from '../core/assert.js';
import type { Clock } from '../core/clock.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { DataDirectory } from '../log/data-directory.js';
import type { EpochStart } from '../log/epoch-history.js';
import { incomingName } from '../log/install-snapshot.js';
import type { HelloFrame, Refusal, TunnelClient } from '../replication/frames.js';
import type { PeerIdentity } from '../replication/handshake.js';
import { Leadership } from '../replication/leadership.js';
import { type DialOptions, dialHttp, dialTunnel, type Tunnel } from '../replication/peer-dialer.js';
import {
  openPeerListener,
  type PeerListener,
  type PeerListenerOptions,
} from '../replication/peer-listener.js';
import type { PeerTls } from '../replication/peer-tls.js';
import { RecordWriter } from '../state/record-codec.js';
import { writeEpochBegun } from '../state/records.js';
import type { Storage } from '../state/storage.js';
import type { ClusterView, Coordinator } from './coordinator.js';
import { type Effect, Election } from './election.js';
import { Follower } from './follower.js';
import { LocalLog } from './local-log.js';
import { Registration, TELL_MS } from './registration.js';
import { type ClusterStatus, membersOf, readStatus } from './status.js';

const TICK_MS = 100;
/** A leader whose lease is not renewed goes on while all in sync were heard of within this time (R10). */
const FOLLOWED_MS = 500;
/** A leader that was heard of within this time is there. */
const HEARD_MS = 400;
const DIAL_MS = 1000;
const PERSIST_AGAIN_MS = 1000;
/** A planned end waits so long for what is under way. */
const HANDOVER_MS = 2000;
const SETTLE_MS = 500;
/** A node that has nothing looks so often whether the leader is there. */
const LOOK_AGAIN_MS = 100;
const FORCE_AFTER_MS = 3 * TELL_MS;
const FORCED_MS = 5000;
const LEASE_CLOSE_MS = 500;
/** A node that gave up the lead leaves it to others for so long. */
const REST_MS = 3000;
/** One whose log is damaged does not lead with it. */
const DAMAGED_REST_MS = 60_000;

export interface ClusterNodeOptions {
  readonly cluster: string;
  readonly nodeId: string;
  readonly replicas: number;
  readonly minInSync: number;
  readonly leaseSeconds: number;
  readonly lagSeconds: number;
  /** Where to listen for other brokers, HOST:PORT. */
  readonly peer: string;
  /** The host that others reach this node at. */
  readonly advertise: string;
  readonly secret: string;
  readonly tls: PeerTls | undefined;
  readonly directory: DataDirectory;
  readonly coordinator: Coordinator;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Draws what is never drawn twice. */
  readonly draw: () => string;
  /** Opens the log: everything below `committed` is committed. `beforeCut` is called before a torn end is cut off. */
  openStorage(committed: number, beforeCut: () => void): Promise<Storage>;
  /** Addresses of this node for clients, HOST:PORT, '' where there is none. */
  addresses(): { mqtt: string; http: string };
  /** This node leads, with all that was acknowledged in the storage: the state is the callee's from now on. */
  onServe(storage: Storage, epoch: number): void;
  /** It does not any more: clients must be gone, and nothing appended, when this returns. */
  onStandDown(): void;
  /** Clients may have another way to go. */
  onChange(): void;
  onTunnel: PeerListenerOptions['onTunnel'];
  /** Another node has a request for the leader. */
  onHttp: PeerListenerOptions['onHttp'];
  /** There is room for the client of another node. */
  hasRoom(): boolean;
  /** This node cannot go on, which is nobody's defect. */
  onFailure(error: GomqError): void;
  onDefect(error: unknown): void;
}

export type Role = 'leader' | 'member' | 'waiting';

export class ClusterNode {
  readonly #options: ClusterNodeOptions;
  readonly #election: Election;
  readonly #local: LocalLog;
  readonly #registration: Registration;
  #view: ClusterView | undefined = undefined;
  #listener: PeerListener | undefined = undefined;
  #leadership: Leadership | undefined = undefined;
  #isServing = false;
  #follower: Follower | undefined = undefined;
  /** What the leader told last. */
  #status: ClusterStatus | undefined = undefined;
  /** What is to be done about the role, in order. */
  #work: Promise<void> = Promise.resolve();
  #isRunning = false;
  #isStopping = false;
  #isDraining = false;
  #isDamaged = false;
  #isLookingForLeader = false;
  #lastIncoming = 0;
  readonly #timer: NodeJS.Timeout;
  #resignDone: (() => void) | undefined = undefined;

  /** @throws {GomqError} DATA_VERSION, DATA_UNREADABLE, DISK_FAILED, ADDRESS_IN_USE, ADDRESS_INVALID */
  static async start(options: ClusterNodeOptions): Promise<ClusterNode> {
    const { directory, logger } = options;
    const local = await LocalLog.open({
      directory,
      logger,
      openStorage: (committed, beforeCut) => options.openStorage(committed, beforeCut),
    });
    const node = new ClusterNode(options, local);
    try {
      await node.#listen();
    } catch (error) {
      clearInterval(node.#timer);
      await local.close();
      throw error;
    }
    return node;
  }

  private constructor(options: ClusterNodeOptions, local: LocalLog) {
    this.#options = options;
    this.#local = local;
    local.setOwner({
      onStateHash: (offset, hash) => this.#onStateHash(offset, hash),
      leaderLogStart: () => this.#follower?.logStart ?? 0,
    });
    const { nodeId, cluster, replicas, minInSync, leaseSeconds, draw } = options;
    const { incarnation, clusterId, epoch, shape } = local;
    const leaseMs = leaseSeconds * 1000 - Math.min(500, leaseSeconds * 100);
    this.#election = new Election(
      { node: nodeId, cluster, replicas, minInSync, leaseMs, draw },
      { incarnation, clusterId, epoch, ...shape },
    );
    if (local.storage === undefined) this.#election.onLogClosed();
    const { coordinator, clock, addresses, onFailure, onDefect } = options;
    this.#registration = new Registration({
      ...{ nodeId, leaseSeconds, coordinator, clock, local, addresses, onFailure, onDefect },
      onShape: (shape) => this.#election.onLogShape(shape),
    });
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Has everybody know this node, and takes part in what they decide. */
  join(): void {
    const { coordinator, logger } = this.#options;
    coordinator.start({
      onView: (view) => {
        this.#view = view;
        if (!this.#registration.introduce(view)) return;
        this.#run(() => this.#election.onView(view));
        this.#options.onChange();
      },
      onLease: (sentAtMs) => this.#run(() => this.#election.onLease(sentAtMs)),
      onLeaseLost: () => {
        logger.warn('the lease in etcd is over');
        this.#run(() => this.#election.onLeaseLost());
      },
      onReachable: (isReachable, error) => {
        if (isReachable) logger.info('etcd can be reached');
        else logger.warn('etcd cannot be reached; what is known goes on', { why: error?.message });
      },
    });
  }

  get role(): Role {
    if (this.#isServing) return 'leader';
    return this.#follower?.isLinked === true ? 'member' : 'waiting';
  }

  /** Where clients are to be sent through: the peer address of a leader that is followed. */
  get leaderPeer(): string | undefined {
    const leader = this.#election.leader;
    if (leader === undefined || leader === this.#options.nodeId) return undefined;
    return this.#view?.members.get(leader)?.value.peer;
  }

  /** This node leads, although it may not serve clients yet. */
  get isLeading(): boolean {
    return this.#leadership !== undefined;
  }

  /** What is appended now can be committed: enough nodes are in sync, and all of them are there. */
  get hasEnough(): boolean {
    return this.#leadership?.hasEnough ?? false;
  }

  /** There is hardly room on disks that what is published now would have to be on; this node's own is for its log to tell. */
  get isFull(): boolean {
    return this.#leadership?.isFull ?? false;
  }

  /** Names the leadership that clients are carried to: another one has another name. */
  get leadershipName(): string {
    return `${this.#election.leader ?? ''} ${this.#election.epoch}`;
  }

  /** Who leads, as far as it is known. */
  get leader(): string | undefined {
    return this.#election.leader;
  }

  /** The leader's address for MQTT clients, or for HTTP. */
  leaderAddress(kind: 'mqtt' | 'http'): string | undefined {
    const leader = this.#election.leader;
    const address = leader === undefined ? undefined : this.#view?.members.get(leader)?.value[kind];
    return address === '' ? undefined : address;
  }

  /** As the leader knows it, or told this node last. */
  get status(): ClusterStatus {
    const { cluster } = this.#options;
    if (this.#leadership !== undefined) return this.#ownStatus(this.#leadership);
    const leader = this.#election.leader ?? null;
    if (this.#status !== undefined) return { ...this.#status, leader };
    const inSync = this.#view?.state?.value.inSync.map(({ node }) => node) ?? [];
    const progress = inSync.map((node) => ({ node, isInSync: true, logEnd: undefined, applied: undefined }));
    return {
      cluster,
      leader,
      epoch: this.#election.epoch,
      highWatermark: this.#local.storage?.log.highWatermark ?? 0,
      inSync,
      members: membersOf(leader, progress, 0, this.#view?.members ?? new Map()),
    };
  }

  /** A way to the leader for the bytes of a client. @throws {GomqError} PEER_UNREACHABLE, PEER_REFUSED */
  async openTunnel(client: TunnelClient): Promise<Tunnel> {
    return dialTunnel({ ...this.#toLeader(), client });
  }

  /** A way to the leader for a request to its HTTP API. @throws {GomqError} PEER_UNREACHABLE, PEER_REFUSED */
  async openHttp(): Promise<Tunnel> {
    return dialHttp(this.#toLeader());
  }

  #toLeader(): DialOptions {
    const { leader } = this.#election;
    const to = leader === undefined || leader === this.#options.nodeId ? undefined : this.#dialing(leader);
    if (to === undefined) throw new GomqError('PEER_UNREACHABLE', 'there is no leader');
    return { ...to, timeoutMs: DIAL_MS };
  }

  /** How to reach another node; undefined where its address is not known. */
  #dialing(node: string): Omit<DialOptions, 'signal' | 'timeoutMs'> | undefined {
    const address = this.#view?.members.get(node)?.value.peer;
    const { secret, tls } = this.#options;
    return address === undefined ? undefined : { address, identity: this.#identity(), secret, tls };
  }

  /**
   * Has another node lead; resolves when this one does not any more.
   * @throws {GomqError} NOT_LEADER, REFUSED
   */
  async stepDown(): Promise<void> {
    const leadership = this.#needLeadership();
    if (leadership.inSync.length < 2) {
      throw new GomqError('REFUSED', 'no other node is in sync: nobody could lead');
    }
    await leadership.settled(HANDOVER_MS);
    this.#run(() => this.#election.yieldLead('an operator asked for it', REST_MS));
    await this.#work;
  }

  /**
   * Takes a node that is gone for good out of the in-sync set.
   * @throws {GomqError} NOT_LEADER, REFUSED
   */
  async removeNode(node: string): Promise<void> {
    const leadership = this.#needLeadership();
    leadership.remove(node);
    this.#options.logger.warn('an operator removes a node', { node });
  }

  /**
   * Has this node lead with what it has; resolves when it does.
   * @throws {GomqError} REFUSED
   */
  async forceLead(): Promise<void> {
    const { logger, nodeId, clock } = this.#options;
    const former = this.#view?.state?.value;
    // What the others have they tell when they have waited for a while, too.
    const { waitingSinceMs } = this.#registration;
    if (waitingSinceMs === undefined || clock.monotonicMs() - waitingSinceMs < FORCE_AFTER_MS) {
      const { leader } = this.#election;
      const why = leader === undefined ? 'there was a leader a moment ago; try again' : `${leader} leads`;
      throw new GomqError('REFUSED', `${nodeId} is not made the leader: ${why}`);
    }
    if (!(await this.#isSettledWithin(FORCED_MS))) {
      throw new GomqError('REFUSED', `${nodeId} is not made the leader: its disk does not answer`);
    }
    // What others have they have told; what this one has is compared with that.
    this.#registration.tell();
    this.#run(() => this.#election.forceLead());
    logger.error('an operator has this node lead, whatever others may have had: what only they had is lost', {
      logEnd: this.#local.storage?.log.endOffset,
      formerEpoch: former?.epoch,
      formerInSync: former?.inSync.map(({ node }) => node),
    });
    const endMs = performance.now() + FORCED_MS;
    while (this.#leadership === undefined) {
      if (performance.now() > endMs) {
        const message = `${nodeId} does not lead yet: it is not known whether etcd has made it the leader`;
        const hint = 'It may still happen: see who leads before another node is asked.';
        throw new GomqError('NOT_READY', message, { hint, retriable: true });
      }
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
  }

  /** All that was appended is on disk; false where that takes longer. */
  #isSettledWithin(ms: number): Promise<boolean> {
    const { storage } = this.#local;
    if (storage === undefined) return Promise.resolve(true);
    return new Promise((resolve, reject) => {
      setTimeout(resolve, ms, false).unref();
      storage.log.settled().then(() => resolve(true), reject);
    });
  }

  #needLeadership(): Leadership {
    if (this.#leadership !== undefined) return this.#leadership;
    const http = this.leaderAddress('http');
    throw new GomqError('NOT_LEADER', `${this.#options.nodeId} does not lead the cluster`, {
      hint: http === undefined ? 'Nobody does at the moment.' : `Ask the leader: http://${http}`,
      retriable: true,
    });
  }

  /**
   * This node is about to stop: clients of other nodes wait there for the next leader from now on. Members are still let in, for what is under way is
   * committed with them.
   */
  refuseTunnels(): void {
    this.#isDraining = true;
  }

  /** Hands over what it leads, and leaves. The clients are gone already, and the log is closed when this returns. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#registration.stop();
    const { coordinator } = this.#options;
    if (this.#election.isLeading) {
      await this.#leadership?.settled(SETTLE_MS);
      await Promise.race([
        new Promise<void>((resolve) => {
          this.#resignDone = resolve;
          this.#run(() => this.#election.resign());
        }),
        new Promise((resolve) => setTimeout(resolve, HANDOVER_MS).unref()),
      ]);
    } else this.#run(() => this.#election.resign());
    clearInterval(this.#timer);
    this.#stopFollowing();
    this.#leadership?.close();
    await this.#listener?.close();
    await this.#work;
    await coordinator.close(LEASE_CLOSE_MS);
    await this.#local.storage?.close();
  }

  // ---- the election -----------------------------------------------------------------------------------------------------------------

  #run(happening: () => void): void {
    happening();
    // Effects of effects are taken by the round that is under way.
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      for (let effects = this.#election.takeEffects(); effects.length > 0; ) {
        for (const effect of effects) this.#carryOut(effect);
        effects = this.#election.takeEffects();
      }
    } finally {
      this.#isRunning = false;
    }
  }

  #carryOut(effect: Effect): void {
    const { logger, coordinator, onFailure, onDefect, cluster } = this.#options;
    switch (effect.kind) {
      case 'commit':
        coordinator.commit(effect.transaction).then(
          (outcome) => {
            this.#run(() => this.#election.onOutcome(outcome));
            if (effect.transaction.leader === 'delete') this.#resignDone?.();
          },
          (error: unknown) => {
            if (!this.#isStopping) onDefect(error);
          },
        );
        break;
      case 'persist':
        this.#persist(effect.clusterId, effect.epoch);
        break;
      case 'confirmed':
        this.#leadership?.confirm();
        break;
      case 'abandoned':
        this.#leadership?.abandon();
        break;
      case 'lead':
        this.#stopFollowing();
        this.#do(() => this.#lead(effect));
        break;
      case 'follow':
        this.#stopFollowing();
        this.#do(async () => this.#follow(effect.leader, effect.epoch));
        break;
      case 'wait':
        this.#stopFollowing();
        break;
      case 'stand-down':
        logger.warn(`stands down as the leader: ${effect.why}`, { cluster });
        this.#endLeadership();
        this.#do(() => this.#change((local) => local.reopen()));
        break;
      case 'warn':
        logger.warn(effect.message, { cluster });
        break;
      case 'fail':
        onFailure(effect.error);
        break;
    }
    this.#options.onChange();
  }

  /** A disk that refuses it, for want of room, is asked again: until then this node takes part in nothing new, and leaves the lead to others. */
  #persist(clusterId: string, epoch: number): void {
    try {
      this.#local.persist(clusterId, epoch);
    } catch (error) {
      if (!(error instanceof GomqError)) throw error;
      this.#options.logger.error('cannot note the epoch on disk; it is tried again', { why: error.message });
      this.#run(() => this.#election.onPersistRefused(REST_MS));
      setTimeout(() => {
        if (!this.#isStopping) this.#persist(clusterId, epoch);
      }, PERSIST_AGAIN_MS);
      return;
    }
    this.#run(() => this.#election.onPersisted());
    this.#registration.renew();
  }

  #tick(): void {
    const nowMs = this.#options.clock.monotonicMs();
    const isFollowed = this.#leadership?.isFollowed(FOLLOWED_MS) ?? false;
    const view = this.#view;
    if (view === undefined || !this.#registration.introduce(view)) return;
    const isLeaderHeard = this.#follower?.isHeard(nowMs, HEARD_MS) ?? false;
    this.#run(() => this.#election.onTick(nowMs, isFollowed, isLeaderHeard));
    const isLed = this.#election.leader !== undefined || this.#leadership !== undefined;
    this.#registration.tellEnd(nowMs, isLed);
  }

  /** Does something about the role when everything before is done. */
  #do(work: () => Promise<void>): void {
    this.#work = this.#work.then(work).catch((error: unknown) => {
      if (error instanceof GomqError && error.code !== 'INTERNAL') this.#options.onFailure(error);
      else this.#options.onDefect(error);
    });
  }

  /** The log has what it may have lacked. */
  #clearSuspicion(): void {
    if (!this.#local.isSuspect || !this.#local.trust()) return;
    this.#election.onTrusted();
    this.#registration.trusted();
  }

  #onStateHash(offset: number, hash: Buffer): void {
    this.#leadership?.onStateHash(this.#options.nodeId, offset, hash);
    this.#follower?.tellStateHash(offset, hash);
  }

  // ---- the log ----------------------------------------------------------------------------------------------------------------------

  /** Does something to a log that is open, and tells of what it is then. */
  async #change(work: (local: LocalLog) => Promise<void>): Promise<void> {
    if (this.#local.storage === undefined || this.#isDamaged || this.#isStopping) return;
    try {
      await work(this.#local);
    } catch (error) {
      if (!(error instanceof GomqError) || error.code !== 'DATA_DAMAGED') throw error;
      this.onDamaged(error.message);
    }
    this.#tellOpened();
  }

  #tellOpened(): void {
    // Found damaged in the meantime: it is told of when it is replaced.
    if (this.#isDamaged) return;
    const { shape, incarnation } = this.#local;
    this.#run(() => this.#election.onLogOpened({ ...shape, incarnation }));
    this.#registration.renew();
  }

  /** A snapshot of the leader has come, and is whole: it takes the place of everything that is here. */
  #install(snapshot: { file: string; endOffset: number }, starts: readonly EpochStart[]): Promise<void> {
    // Found damaged in the meantime: there will be another snapshot.
    return this.#change((local) => local.install(snapshot, starts));
  }

  /**
   * A node that is in sync, and whole, needs no snapshot: whoever sends it one has lost what it has. Its view may be older than the link, and it is not in
   * sync any more; then the next link finds it so.
   */
  #mayBeginAnew(): boolean {
    const { nodeId } = this.#options;
    const { incarnation, isSuspect } = this.#local;
    const inSync = this.#view?.state?.value.inSync ?? [];
    return isSuspect || !inSync.some((one) => one.node === nodeId && one.incarnation === incarnation);
  }

  /** What is on the disk is damaged. Where another node leads, this one gets a copy of what that has; until then it waits. */
  async #replaceDamaged(): Promise<void> {
    // Asked for twice: what is there now is the new one.
    if (this.#local.storage !== undefined || this.#isStopping) return;
    await this.#local.replace();
    this.#tellOpened();
  }

  /** What this node leads with turns out to be damaged on its disk: another one leads, from whom it gets a copy. */
  onDamaged(why: string): void {
    if (this.#isDamaged) return;
    this.#isDamaged = true;
    const { logger, onFailure, directory } = this.#options;
    const error = new GomqError('DATA_DAMAGED', `the log in ${directory.path} is damaged: ${why}`, {
      hint: `Run \`gomq log verify ${directory.path}\` to see all that is damaged.`,
    });
    const leadership = this.#leadership;
    // Alone in sync, nobody has what is damaged here: better nobody serves it.
    if (leadership !== undefined && leadership.inSync.length < 2) {
      onFailure(error);
      return;
    }
    logger.error('what is on the disk is damaged; another node is to lead, and this one copies it', { why });
    this.#stopFollowing();
    this.#run(() => this.#election.yieldLead('its log is damaged', DAMAGED_REST_MS));
    this.#election.onLogClosed();
    this.#do(() => this.#local.close());
    this.#do(async () => this.#waitForLeader());
  }

  /** The leader lacks what is committed here: better nobody goes on than that it is lost here as well. */
  #onAhead(why: string): void {
    const { directory, onFailure } = this.#options;
    const hint =
      'Another node was forced to lead, or the disks of those in sync went back to what they were before. To give up what only this node has, keep a copy of the directory, empty it and start again.';
    onFailure(
      new GomqError('CLUSTER_MISMATCH', `${why}: ${directory.path} has what the leader lacks`, { hint }),
    );
  }

  /** A log that is damaged is replaced once there is somebody to copy from: whose key is there may be gone. */
  #waitForLeader(): void {
    const { leader, epoch } = this.#election;
    const isNobody = leader === undefined || leader === this.#options.nodeId;
    if (isNobody || this.#isStopping || this.#isLookingForLeader) return;
    this.#isLookingForLeader = true;
    this.#isLed().then((isLed) => {
      this.#isLookingForLeader = false;
      if (this.#election.leader !== leader || this.#election.epoch !== epoch) {
        this.#waitForLeader();
      } else if (!isLed) {
        setTimeout(() => this.#waitForLeader(), LOOK_AGAIN_MS).unref();
      } else {
        this.#isDamaged = false;
        this.#do(() => this.#replaceDamaged());
        this.#do(async () => this.#follow(leader, epoch));
      }
    }, this.#options.onDefect);
  }

  /** The leader answers as such, in its epoch. */
  async #isLed(): Promise<boolean> {
    try {
      const { socket } = await this.openHttp();
      socket.destroy();
      return true;
    } catch (error) {
      if (!(error instanceof GomqError)) throw error;
      return false;
    }
  }

  // ---- leading ----------------------------------------------------------------------------------------------------------------------

  async #lead({ epoch, inSync, gone }: Extract<Effect, { kind: 'lead' }>): Promise<void> {
    const { nodeId, minInSync, leaseSeconds, lagSeconds, clock, logger, onServe, onDefect } = this.#options;
    if (!this.#election.isLeading || this.#election.epoch !== epoch || this.#isStopping) return;
    const { storage, incarnation, history } = this.#local;
    if (storage === undefined) {
      this.#run(() => this.#election.yieldLead('its log is damaged', DAMAGED_REST_MS));
      return;
    }
    const { log, replica } = storage;
    assert(replica !== undefined, 'the storage of a cluster');
    this.#local.beginEpoch(epoch, log.endOffset);
    this.#clearSuspicion();
    const leadership: Leadership = new Leadership({
      self: { node: nodeId, incarnation },
      epoch,
      inSync,
      gone,
      minInSync,
      silenceMs: (leaseSeconds * 1000) / 2,
      lagMs: lagSeconds * 1000,
      log,
      history,
      clock,
      logger,
      newestSnapshot: () => this.#local.newestSnapshot(),
      onDamaged: (error) => this.onDamaged(error.message),
      onStuck: () => this.#onStuck(leadership),
      propose: (wanted) => {
        let isSent = false;
        this.#run(() => {
          isSent = this.#election.proposeInSync(wanted);
        });
        return isSent;
      },
      status: () => this.status,
    });
    this.#leadership = leadership;
    this.#status = undefined;
    const names = inSync.map(({ node }) => node);
    logger.info('leads the cluster', { epoch, inSync: names, logEnd: log.endOffset });
    // R7: with the first record of its epoch all before it is committed, and only then clients are served.
    const writer = new RecordWriter();
    writeEpochBegun(writer, { epoch, node: nodeId });
    const slice = log.append('', writer.length, false);
    writer.copyTo(slice.buffer, slice.start);
    const barrier = slice.offset + 1;
    log.flush();
    // Not awaited: what comes next about the role does not wait for members.
    replica.whenApplied(barrier).then(() => {
      if (this.#leadership !== leadership) return;
      replica.stop();
      this.#isServing = true;
      logger.info('serves clients', { epoch });
      onServe(storage, epoch);
      this.#options.onChange();
    }, onDefect);
  }

  /** Nothing is acknowledged while the disk does not answer: whoever has everything leads in its place. */
  #onStuck(leadership: Leadership): void {
    const { logger, lagSeconds } = this.#options;
    const why = `its disk has not answered for ${lagSeconds} s`;
    if (leadership.isOtherThere) this.#run(() => this.#election.yieldLead(why, REST_MS));
    else logger.error(`the disk has not answered for ${lagSeconds} s, and no other node in sync is there`);
  }

  #endLeadership(): void {
    this.#leadership?.close();
    this.#leadership = undefined;
    if (!this.#isServing) return;
    this.#isServing = false;
    this.#options.onStandDown();
  }

  // ---- following --------------------------------------------------------------------------------------------------------------------

  #stopFollowing(): void {
    this.#follower?.stop();
    this.#follower = undefined;
    this.#registration.stopGrowing();
  }

  #follow(leader: string, epoch: number): void {
    if (this.#election.leader !== leader || this.#election.epoch !== epoch || this.#isStopping) return;
    if (this.#local.storage === undefined || this.#isDamaged) {
      this.#waitForLeader();
      return;
    }
    // Of the same leader, where it was asked for twice.
    this.#stopFollowing();
    const { directory, clock, logger, onChange, onDefect } = this.#options;
    /** The log is not what it was: it is followed again when that is done. */
    const goOnAfter = (work: () => Promise<void>): void => {
      this.#follower = undefined;
      this.#election.onLogClosed();
      this.#do(work);
      this.#do(async () => this.#follow(leader, epoch));
    };
    this.#follower = new Follower({
      leader,
      epoch,
      local: this.#local,
      clock,
      logger,
      dialing: () => this.#dialing(leader),
      mayGrow: () => this.#registration.mayGrow(this.#view),
      mayBeginAnew: () => this.#mayBeginAnew(),
      nextIncomingPath: () => join(directory.path, incomingName(++this.#lastIncoming)),
      onChange,
      onCaughtUp: () => this.#clearSuspicion(),
      onLost: () => this.#registration.stopGrowing(),
      onGone: () => this.#run(() => this.#election.onLeaderGone(leader)),
      onCut: (cut) => goOnAfter(() => this.#change((local) => local.cut(cut))),
      onSnapshot: (snapshot, starts) => goOnAfter(() => this.#install(snapshot, starts)),
      onDiverged: (why) => this.onDamaged(why),
      onAhead: (why) => this.#onAhead(why),
      onStatus: (status) => {
        this.#status = readStatus(status);
      },
      onDefect,
    });
  }

  // ---- other brokers ----------------------------------------------------------------------------------------------------------------

  async #listen(): Promise<void> {
    const { peer, secret, tls, logger, onTunnel, onHttp } = this.#options;
    this.#listener = await openPeerListener({
      address: peer,
      secret,
      tls,
      logger,
      identity: () => this.#identity(),
      mayAccept: (hello) => this.#refusalOf(hello),
      onReplica: (link, hello) => {
        if (this.#leadership === undefined) link.destroy(undefined);
        else this.#leadership.accept(link, hello.incarnation);
      },
      onTunnel,
      onHttp,
    });
    this.#registration.peerAddress = formatAddress({
      host: this.#options.advertise,
      port: this.#listener.address.port,
    });
  }

  #refusalOf({ purpose, epoch, node, incarnation }: HelloFrame): Refusal | undefined {
    const leadership = this.#leadership;
    if (this.#isStopping || (this.#isDraining && purpose === 'tunnel')) {
      return { code: 'stopping', message: 'the broker is stopping' };
    }
    if (leadership === undefined || (purpose === 'tunnel' && !this.#isServing)) {
      return { code: 'not-leader', message: `${this.#options.nodeId} does not lead` };
    }
    if (epoch !== leadership.epoch) {
      return { code: 'epoch', message: `epoch ${epoch} of ${node}, and this is epoch ${leadership.epoch}` };
    }
    const known = this.#view?.members.get(node)?.value.incarnation;
    if (known !== incarnation) {
      return { code: 'incarnation', message: `the cluster does not know this directory of ${node}` };
    }
    if (purpose === 'tunnel' && !this.#options.hasRoom()) {
      return { code: 'limit', message: 'there are as many clients as limits.connections allows' };
    }
    return undefined;
  }

  #identity(): PeerIdentity {
    const { cluster, nodeId, directory } = this.#options;
    return {
      cluster,
      clusterId: this.#local.clusterId,
      node: nodeId,
      incarnation: directory.incarnation,
      epoch: this.#election.epoch,
    };
  }

  #ownStatus(leadership: Leadership): ClusterStatus {
    const { cluster, nodeId } = this.#options;
    const { epoch } = leadership;
    const highWatermark = Math.max(leadership.highWatermark, this.#local.storage?.log.highWatermark ?? 0);
    return {
      cluster,
      leader: nodeId,
      epoch,
      highWatermark,
      inSync: leadership.inSync.map(({ node }) => node),
      members: membersOf(
        nodeId,
        leadership.progress(),
        this.#local.storage?.log.endOffset ?? 0,
        this.#view?.members ?? new Map(),
      ),
    };
  }
}
