// The leadership of src/replication, in simulated time.
import type { InSyncMember } from '../../src/cluster/coordinator.js';
import { silentLogger } from '../../src/core/logger.js';
import type { DiskLog } from '../../src/log/disk-log.js';
import { Leadership, type LeadershipOptions } from '../../src/replication/leadership.js';
import type { LinkToMember } from '../../src/replication/peer-link.js';
import type { Leading } from './checker.js';
import type { Directory } from './directory.js';
import type { SimulatedLog } from './log.js';
import { NO_FILE, type OutgoingSnapshot, type Snapshot } from './snapshots.js';
import type { Life, World } from './world.js';

/** Little, so that members that are behind are sent what is read from the disk. */
const RECENT_BYTES_MAX = 2000;

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
    | 'onDamaged'
  > {
  readonly world: World;
  readonly life: Life;
  readonly log: SimulatedLog;
  readonly directory: Directory;
  readonly diskMs: () => number;
  newestSnapshot(): Snapshot | undefined;
  /** The set it waits for may be another one. */
  onInSync(): void;
}

export class SimulatedLeadership extends Leadership implements Leading {
  readonly life: Life;
  readonly #options: SimulatedLeadershipOptions;
  proposed: readonly InSyncMember[] | undefined = undefined;
  /** Whose position is looked at. */
  #asking: LinkToMember | undefined = undefined;

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
      newestSnapshot: () => this.#outgoing(),
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
          this.#asking = link;
          handler.onFrame(frame);
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

  #outgoing(): OutgoingSnapshot | undefined {
    const { world, life, directory, diskMs, newestSnapshot } = this.#options;
    const newest = newestSnapshot();
    if (newest === undefined) return undefined;
    const records = directory.file.slice(0, newest.endOffset);
    return {
      ...newest,
      path: NO_FILE,
      records,
      world,
      life,
      slowMs: diskMs,
      link: this.#asking!,
      epoch: this.epoch,
    };
  }
}
