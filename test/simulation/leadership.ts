// What src/replication/leadership.ts does, in simulated time, around the same core and the same senders.
import type { InSyncMember } from '../../src/cluster/coordinator.js';
import type { Logger } from '../../src/core/logger.js';
import type { DiskLog } from '../../src/log/disk-log.js';
import { commonEnd, type EpochHistory } from '../../src/log/epoch-history.js';
import type { FrameToLeader } from '../../src/replication/frames.js';
import { ReplicationLeader } from '../../src/replication/leader.js';
import type { LinkToMember } from '../../src/replication/peer-link.js';
import { RecentBatches } from '../../src/replication/recent-batches.js';
import { ReplicaSender, type ReplicaSenderOptions } from '../../src/replication/replica-sender.js';
import type { Leading } from './checker.js';
import type { LogRecord } from './directory.js';
import type { SimulatedLog } from './log.js';
import type { Life, World } from './world.js';

const HEARTBEAT_MS = 100;
const PAUSE_MS = 500;
/** Little, so that members that are behind are sent what is read from the disk. */
const RECENT_BYTES_MAX = 2000;
const NOTHING = Buffer.alloc(0);

/** Stands for the transfer of a snapshot: everything that is committed, at once. */
export interface CopyFrame {
  readonly type: 'copy';
  readonly epoch: number;
  readonly records: readonly LogRecord[];
  readonly start: number;
  readonly starts: EpochHistory['starts'];
}

export interface LeadershipOptions {
  readonly world: World;
  readonly life: Life;
  readonly self: InSyncMember;
  readonly epoch: number;
  readonly inSync: readonly InSyncMember[];
  readonly gone: readonly string[];
  readonly minInSync: number;
  readonly silenceMs: number;
  readonly log: SimulatedLog;
  readonly recordAt: (offset: number) => LogRecord;
  readonly history: EpochHistory;
  readonly logger: Logger;
  propose(inSync: readonly InSyncMember[]): boolean;
  /** The set it waits for may be another one. */
  onInSync(): void;
}

export class SimulatedLeadership implements Leading {
  readonly life: Life;
  readonly epoch: number;
  readonly #options: LeadershipOptions;
  readonly #core: ReplicationLeader;
  readonly #recent = new RecentBatches(RECENT_BYTES_MAX);
  readonly #senders = new Map<string, ReplicaSender>();
  proposed: readonly InSyncMember[] | undefined = undefined;
  #sequence = 0;
  #beatMs: number;
  #isClosed = false;

  constructor(options: LeadershipOptions) {
    const { self, epoch, inSync, gone, minInSync, silenceMs, log, world, life } = options;
    this.#options = options;
    this.life = life;
    this.epoch = epoch;
    this.#beatMs = world.nowMs;
    this.#core = new ReplicationLeader({
      self,
      epoch,
      epochStart: log.endOffset,
      inSync,
      gone,
      minInSync,
      silenceMs,
      nowMs: world.nowMs,
    });
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
    world.after(HEARTBEAT_MS, life, () => this.#beat());
  }

  get highWatermark(): number {
    return this.#core.highWatermark;
  }

  get inSync(): readonly InSyncMember[] {
    return this.#core.inSync;
  }

  accept(link: LinkToMember, incarnation: string): void {
    if (this.#isClosed) {
      link.destroy(undefined);
      return;
    }
    this.#senders.get(link.node)?.close(undefined);
    const { epoch, log, history, logger, world } = this.#options;
    const sender: ReplicaSender = new ReplicaSender({
      link,
      incarnation,
      epoch,
      log: log as unknown as DiskLog,
      history,
      recent: this.#recent,
      logger,
      highWatermark: () => this.#core.highWatermark,
      newestSnapshot: () => undefined,
      onDamaged: (error: Error) => {
        throw error;
      },
      onJoined: (joined: ReplicaSender, keptOffset: number) => {
        world.note(this.life.node, () => `${joined.incarnation} joins at ${keptOffset}`);
        this.#core.onJoined(joined, keptOffset, world.nowMs);
        this.#advance();
        this.#settleInSync();
      },
      onAck: (acked: ReplicaSender, keptOffset: number) => {
        this.#core.onAck(acked.node, keptOffset, world.nowMs);
        this.#advance();
        this.#settleInSync();
      },
      onClosed: (closed: ReplicaSender, error: Error | undefined) => this.#onClosed(closed, error),
      // What is asked of the state, and not of the log, has no part in this.
    } as unknown as ReplicaSenderOptions);
    this.#senders.set(link.node, sender);
    link.start({
      onFrame: (frame) => {
        if (!this.#sendsCopy(link, frame)) sender.onFrame(frame);
      },
      onDrain: () => sender.onDrain(),
      onClose: (error) => sender.onClose(error),
    });
  }

  confirm(): void {
    this.#core.confirm();
    this.proposed = undefined;
    this.#options.onInSync();
    this.#advance();
    this.#settleInSync();
  }

  abandon(): void {
    this.#core.abandon();
    this.proposed = undefined;
    this.#options.onInSync();
    this.#advance();
  }

  isFollowed(withinMs: number): boolean {
    return this.#core.isFollowed(this.#options.world.nowMs, withinMs);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const sender of this.#senders.values()) sender.close(undefined);
    this.#senders.clear();
  }

  /** A member that lacks what this log has let go of. */
  #sendsCopy(link: LinkToMember, frame: FrameToLeader): boolean {
    if (frame.type !== 'position' || frame.epoch !== this.epoch) return false;
    const { log, history, recordAt } = this.#options;
    const cut = commonEnd(
      { starts: history.starts, end: log.endOffset },
      { starts: frame.history, end: frame.logEnd },
    );
    if (cut >= log.startOffset) return false;
    const end = log.highWatermark;
    const copy: CopyFrame = {
      type: 'copy',
      epoch: this.epoch,
      records: Array.from({ length: end }, (_, offset) => recordAt(offset)),
      start: end,
      starts: history.starts.filter(({ start }) => start < end),
    };
    link.send(copy as never);
    return true;
  }

  #advance(): void {
    if (!this.#isClosed) this.#options.log.advance(this.#core.highWatermark);
  }

  #onClosed(sender: ReplicaSender, error: Error | undefined): void {
    if (this.#senders.get(sender.node) !== sender) return;
    this.#senders.delete(sender.node);
    if (this.#isClosed) return;
    this.#core.onLeft(sender.node);
    this.#options.world.note(this.life.node, () => `${sender.node} is gone: ${error?.message ?? 'closed'}`);
    this.#settleInSync();
  }

  #settleInSync(): void {
    if (this.#isClosed) return;
    const wanted = this.#core.wanted(this.#options.world.nowMs);
    if (wanted === undefined || !this.#options.propose(wanted)) return;
    this.#core.propose(wanted);
    this.proposed = wanted;
  }

  #beat(): void {
    if (this.#isClosed) return;
    const { world } = this.#options;
    const { nowMs } = world;
    world.after(HEARTBEAT_MS, this.life, () => this.#beat());
    if (nowMs - this.#beatMs > PAUSE_MS) this.#core.onPaused(nowMs);
    this.#beatMs = nowMs;
    this.#sequence++;
    for (const sender of this.#senders.values()) sender.heartbeat(this.#sequence, NOTHING);
    this.#settleInSync();
  }
}
