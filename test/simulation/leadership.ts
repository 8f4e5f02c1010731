// The leadership of src/replication, in simulated time. Its members get copies of the whole log where others get snapshots.
import type { InSyncMember } from '../../src/cluster/coordinator.js';
import { silentLogger } from '../../src/core/logger.js';
import type { DiskLog } from '../../src/log/disk-log.js';
import { commonEnd, type EpochHistory } from '../../src/log/epoch-history.js';
import type { FrameToLeader } from '../../src/replication/frames.js';
import { Leadership, type LeadershipOptions } from '../../src/replication/leadership.js';
import type { LinkToMember } from '../../src/replication/peer-link.js';
import type { Leading } from './checker.js';
import type { LogRecord } from './directory.js';
import type { SimulatedLog } from './log.js';
import type { Life, World } from './world.js';

/** Little, so that members that are behind are sent what is read from the disk. */
const RECENT_BYTES_MAX = 2000;

/** Stands for the transfer of a snapshot: everything that is committed, at once. */
export interface CopyFrame {
  readonly type: 'copy';
  readonly epoch: number;
  readonly records: readonly LogRecord[];
  readonly start: number;
  readonly starts: EpochHistory['starts'];
}

export interface SimulatedLeadershipOptions
  extends Pick<
    LeadershipOptions,
    | 'self'
    | 'epoch'
    | 'inSync'
    | 'gone'
    | 'minInSync'
    | 'silenceMs'
    | 'lagMs'
    | 'history'
    | 'propose'
    | 'onStuck'
  > {
  readonly world: World;
  readonly life: Life;
  readonly log: SimulatedLog;
  readonly recordAt: (offset: number) => LogRecord;
  /** The set it waits for may be another one. */
  onInSync(): void;
}

export class SimulatedLeadership extends Leadership implements Leading {
  readonly life: Life;
  readonly #options: SimulatedLeadershipOptions;
  proposed: readonly InSyncMember[] | undefined = undefined;

  constructor(options: SimulatedLeadershipOptions) {
    const { world, life, log, propose } = options;
    super({
      ...options,
      log: log as unknown as DiskLog,
      clock: { monotonicMs: () => world.nowMs, wallMs: () => world.nowMs },
      logger: silentLogger,
      recentBytesMax: RECENT_BYTES_MAX,
      repeat(work, intervalMs) {
        let isOver = false;
        const next = (): void =>
          world.after(intervalMs, life, () => {
            if (isOver) return;
            next();
            work();
          });
        next();
        return () => {
          isOver = true;
        };
      },
      newestSnapshot: () => undefined,
      onDamaged(error) {
        throw error;
      },
      propose: (wanted) => {
        const isSent = propose(wanted);
        if (isSent) this.proposed = wanted;
        return isSent;
      },
      status: () => ({}),
    });
    this.#options = options;
    this.life = life;
  }

  override accept(link: LinkToMember, incarnation: string): void {
    const start = link.start.bind(link);
    link.start = (handler) =>
      start({
        onFrame: (frame) => {
          if (!this.#sendsCopy(link, frame)) handler.onFrame(frame);
        },
        onDrain: () => handler.onDrain(),
        onClose: (error) => handler.onClose(error),
      });
    super.accept(link, incarnation);
  }

  override confirm(): void {
    this.proposed = undefined;
    super.confirm();
    this.#options.onInSync();
  }

  override abandon(): void {
    this.proposed = undefined;
    super.abandon();
    this.#options.onInSync();
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
}
