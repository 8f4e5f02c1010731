// One leadership, from the election to its end: the links to the members, what follows from what they say (leader.ts), and the log that moves on with
// it. Nothing of it outlives its epoch.
import type { Clock } from '../core/clock.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { DiskLog } from '../log/disk-log.js';
import type { EpochHistory } from '../log/epoch-history.js';
import { type Node, ReplicationLeader } from './leader.js';
import type { LinkToMember } from './peer-link.js';
import { RecentBatches } from './recent-batches.js';
import { ReplicaSender } from './replica-sender.js';
import type { SnapshotToSend } from './snapshot-transfer.js';
import { StateHashes } from './state-hashes.js';

/** Batches that are kept in memory for members that keep up. */
const RECENT_BYTES_MAX = 32 * 1024 * 1024;
const HEARTBEAT_MS = 100;
/** Every so many heartbeats tell how the cluster is. */
const STATUS_HEARTBEATS = 5;
/** A turn of this process that took so long says nothing about the members. */
const PAUSE_MS = 500;
const NOTHING = Buffer.alloc(0);

/** How far a node is. */
export interface NodeProgress {
  readonly node: string;
  readonly isInSync: boolean;
  /** One past what it has on disk; undefined where it is not connected. */
  readonly logEnd: number | undefined;
  readonly applied: number | undefined;
}

export interface LeadershipOptions {
  readonly self: Node;
  readonly epoch: number;
  readonly inSync: readonly Node[];
  /** Nodes that are known not to be there. */
  readonly gone: readonly string[];
  readonly minInSync: number;
  /** A member that is silent for so long is not in sync. */
  readonly silenceMs: number;
  /** A member that is so far behind is not either, and this node has to lead no more where its own disk stands still for so long. */
  readonly lagMs: number;
  readonly log: DiskLog;
  readonly history: EpochHistory;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The in-sync set should be this one; answers whether that is on its way: `confirm` or `abandon` follows. */
  propose(inSync: readonly Node[]): boolean;
  /** The newest snapshot of what is committed. */
  newestSnapshot(): SnapshotToSend | undefined;
  /** What this node has on disk is damaged. */
  onDamaged(error: GomqError): void;
  /** The disk of this node does not answer. */
  onStuck(): void;
  /** Calls `work` every so often until what it answers is called; timers of the process where absent. */
  repeat?(work: () => void, intervalMs: number): () => void;
  /** Batches that are kept in memory for members that keep up; RECENT_BYTES_MAX where absent. */
  readonly recentBytesMax?: number;
  /** What the members are told about the cluster, JSON. */
  status(): object;
}

function repeat(work: () => void, intervalMs: number): () => void {
  const timer = setInterval(work, intervalMs);
  return () => clearInterval(timer);
}

export class Leadership {
  readonly epoch: number;
  readonly #options: LeadershipOptions;
  readonly #core: ReplicationLeader;
  readonly #recent: RecentBatches;
  readonly #senders = new Map<string, ReplicaSender>();
  readonly #hashes: StateHashes;
  readonly #stopBeating: () => void;
  #sequence = 0;
  #beatMs: number;
  /** What this node's log had at `#aimMs`, and does not have on disk yet. */
  #aim: number;
  #aimMs: number;
  #isClosed = false;

  /** From here on every record of the log is of this epoch. */
  constructor(options: LeadershipOptions) {
    const { self, epoch, inSync, gone, minInSync, silenceMs, lagMs, log, clock } = options;
    this.#options = options;
    this.#recent = new RecentBatches(options.recentBytesMax ?? RECENT_BYTES_MAX);
    this.epoch = epoch;
    this.#hashes = new StateHashes();
    const nowMs = clock.monotonicMs();
    this.#beatMs = nowMs;
    this.#core = new ReplicationLeader({
      self,
      epoch,
      epochStart: log.endOffset,
      inSync,
      gone,
      minInSync,
      silenceMs,
      lagMs,
      nowMs,
    });
    this.#aim = log.endOffset;
    this.#aimMs = nowMs;
    log.setEpoch(epoch);
    log.mirror((batches) => {
      for (const batch of batches) this.#recent.push(batch);
      for (const sender of this.#senders.values()) sender.stream();
    });
    log.onKept((keptOffset) => {
      this.#core.onKept(keptOffset);
      this.#advance();
    });
    this.#core.onKept(log.keptOffset);
    this.#stopBeating = (options.repeat ?? repeat)(() => this.#beat(), HEARTBEAT_MS);
  }

  get highWatermark(): number {
    return this.#core.highWatermark;
  }

  /** What is appended now can be committed: enough are in sync, and all of them are there. */
  get hasEnough(): boolean {
    return this.#core.hasEnough && this.#core.isFollowed(this.#nowMs(), this.#options.silenceMs);
  }

  /** So many of those in sync have hardly room on their disks that without them too few would be left. */
  get isFull(): boolean {
    return this.#core.isFull;
  }

  get inSync(): readonly Node[] {
    return this.#core.inSync;
  }

  /** Whether another node that is in sync is there, which could lead in the place of this one. */
  get isOtherThere(): boolean {
    const { node: self } = this.#options.self;
    return this.progress().some(
      ({ node, isInSync, logEnd }) => node !== self && isInSync && logEnd !== undefined,
    );
  }

  /** Of every member that is in sync or connected, and this node. */
  progress(): NodeProgress[] {
    const { self, log } = this.#options;
    const inSync = new Map(this.#core.inSync.map(({ node, incarnation }) => [node, incarnation]));
    const nodes = new Set([...inSync.keys(), ...this.#senders.keys()]);
    return [...nodes].map((node) => {
      if (node === self.node) {
        return { node, isInSync: true, logEnd: log.keptOffset, applied: log.highWatermark };
      }
      const sender = this.#senders.get(node);
      const isInSync = inSync.has(node) && (sender === undefined || sender.incarnation === inSync.get(node));
      return { node, isInSync, logEnd: sender?.keptOffset, applied: sender?.applied };
    });
  }

  /** A member has dialed. One that is here already makes place: it knows better. */
  accept(link: LinkToMember, incarnation: string): void {
    if (this.#isClosed) {
      link.destroy(undefined);
      return;
    }
    this.#senders.get(link.node)?.close(undefined);
    this.#hashes.forget(link.node);
    const { epoch, log, history, logger, newestSnapshot, onDamaged } = this.#options;
    const sender: ReplicaSender = new ReplicaSender({
      link,
      incarnation,
      epoch,
      log,
      history,
      recent: this.#recent,
      logger,
      highWatermark: () => this.#core.highWatermark,
      newestSnapshot,
      onDamaged,
      // Where nobody else could lead it goes on with what can be read, and the member tries again.
      onUnreadable: (why) => {
        if (this.isOtherThere) onDamaged(new GomqError('DATA_DAMAGED', why));
      },
      onJoined: (joined, keptOffset) => {
        this.#core.onJoined(joined, keptOffset, this.#nowMs());
        this.#advance();
        this.#settleInSync();
      },
      isWaitedFor: (one) => this.#core.isWaitedFor(one),
      onAck: (acked, keptOffset, isFull) => {
        this.#core.onAck(acked.node, keptOffset, this.#nowMs(), isFull);
        this.#advance();
        this.#settleInSync();
      },
      onStateHash: (told, offset, hash) => this.onStateHash(told.node, offset, hash),
      onClosed: (closed, error) => this.#onClosed(closed, error),
    });
    this.#senders.set(link.node, sender);
    link.start(sender);
  }

  /** What the state of a node hashes to before an offset (R12); its own too. */
  onStateHash(node: string, offset: number, hash: Buffer): void {
    const odd = this.#hashes.add(node, offset, hash, this.#senders.size + 1);
    if (odd === undefined) return;
    const { self, logger, onDamaged } = this.#options;
    if (odd.kind === 'split') {
      logger.error('the states of the nodes differ, and no two agree against the others', { offset });
      return;
    }
    this.#hashes.forget(odd.node);
    const why = `the state of ${odd.node} before offset ${odd.offset} is not what the others have`;
    logger.error(`${why}; it is made anew from a copy`, { node: odd.node });
    if (odd.node === self.node) onDamaged(new GomqError('DATA_DAMAGED', why));
    else this.#senders.get(odd.node)?.refuse('state', why);
  }

  /** What was proposed is in force. */
  confirm(): void {
    this.#core.confirm();
    this.#options.logger.info('the in-sync set has changed', {
      inSync: this.#core.inSync.map(({ node }) => node),
      epoch: this.epoch,
    });
    this.#advance();
    this.#settleInSync();
  }

  /** What was proposed never will be. */
  abandon(): void {
    this.#core.abandon();
    this.#advance();
  }

  /**
   * Takes a node out of the in-sync set that is not here, whatever it may still have.
   * @throws {GomqError} REFUSED
   */
  remove(node: string): void {
    const { self, minInSync, propose } = this.#options;
    const rest = this.#core.inSync.filter((one) => one.node !== node);
    const refuse = (why: string): never => {
      throw new GomqError('REFUSED', `${node} cannot be removed: ${why}`);
    };
    if (node === self.node) refuse('it leads; `gomqctl cluster step-down` has another node lead first');
    if (this.#senders.has(node)) refuse('it is connected; stop it first');
    if (rest.length === this.#core.inSync.length)
      refuse('it is not in sync, which is all that a node can be removed from');
    if (rest.length < minInSync) {
      refuse(
        `only ${rest.length} would be in sync, and ${minInSync} have to be; start a node in its place, which joins by itself`,
      );
    }
    if (!propose(rest)) refuse('the in-sync set is being changed; try again');
    this.#core.propose(rest);
  }

  /** Resolves when all in sync have everything, or after `withinMs`. */
  async settled(withinMs: number): Promise<void> {
    const { log } = this.#options;
    const endMs = this.#nowMs() + withinMs;
    while (!this.#isClosed && log.highWatermark < log.endOffset && this.#nowMs() < endMs) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  isFollowed(withinMs: number): boolean {
    return this.#core.isFollowed(this.#nowMs(), withinMs);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#stopBeating();
    for (const sender of this.#senders.values()) sender.close(undefined);
    this.#senders.clear();
  }

  #nowMs(): number {
    return this.#options.clock.monotonicMs();
  }

  #advance(): void {
    if (!this.#isClosed) this.#options.log.advance(this.#core.highWatermark);
  }

  #onClosed(sender: ReplicaSender, error: Error | undefined): void {
    if (this.#senders.get(sender.node) !== sender) return;
    this.#senders.delete(sender.node);
    if (this.#isClosed) return;
    this.#core.onLeft(sender.node);
    this.#options.logger.warn('a member is gone', {
      node: sender.node,
      why: error?.message ?? 'it closed the link',
    });
    this.#settleInSync();
  }

  #settleInSync(): void {
    if (this.#isClosed) return;
    const nowMs = this.#nowMs();
    const wanted = this.#core.wanted(nowMs);
    if (wanted === undefined || !this.#options.propose(wanted)) return;
    for (const one of this.#core.inSync.filter((before) => !wanted.includes(before))) {
      const why = this.#core.whyNotWaitedFor(one, nowMs);
      this.#options.logger.warn('a node is not waited for any more', { node: one.node, why });
    }
    this.#core.propose(wanted);
  }

  #beat(): void {
    const nowMs = this.#nowMs();
    const sinceMs = nowMs - this.#beatMs;
    this.#beatMs = nowMs;
    if (sinceMs > PAUSE_MS) {
      this.#core.onPaused(nowMs, sinceMs);
      this.#aimMs += sinceMs;
    }
    this.#checkDisk(nowMs);
    if (this.#isClosed) return;
    this.#sequence++;
    const tellsStatus = this.#sequence % STATUS_HEARTBEATS === 0;
    const status = tellsStatus ? Buffer.from(JSON.stringify(this.#options.status())) : NOTHING;
    for (const sender of this.#senders.values()) sender.heartbeat(this.#sequence, status);
    this.#settleInSync();
  }

  #checkDisk(nowMs: number): void {
    const { log, lagMs, onStuck } = this.#options;
    if (log.keptOffset >= this.#aim) {
      this.#aim = log.endOffset;
      this.#aimMs = nowMs;
    } else if (nowMs - this.#aimMs > lagMs) {
      // Said again after as long, where nobody else could lead.
      this.#aimMs = nowMs;
      onStuck();
    }
  }
}
