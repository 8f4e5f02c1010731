// A member's way to its leader, for as long as that one leads: dials it, has the log here receive what it sends, and dials again when the link breaks.
// Knocks at the door of a leader that does not answer, to see whether its process is gone (R9).
import type { Clock } from '../core/clock.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { EpochStart } from '../log/epoch-history.js';
import { type DialOptions, dialReplica, type Probe, probePeer } from '../replication/peer-dialer.js';
import type { LinkToLeader } from '../replication/peer-link.js';
import { ReplicaReceiver } from '../replication/replica-receiver.js';
import type { LocalLog } from './local-log.js';

const DIAL_MS = 1000;
const DIAL_AGAIN_MS = 50;
/** What ends a dial so many times in a row is told: a leader that has just begun may not know yet who is there. */
const TOLD_AFTER = 3;
/** After a link broke: a process that is ending may still have taken the knock at its door. */
const LINK_AGAIN_MS = 10;
/** Each link that broke before the log had caught up makes it so much longer, up to the maximum. */
const LINK_AGAIN_FACTOR = 4;
const AGAIN_MS_MAX = 2000;
const PROBE_MS = 300;

export interface FollowerOptions {
  readonly leader: string;
  readonly epoch: number;
  /** Open, until this is stopped or says that it is over. */
  readonly local: LocalLog;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How to reach the leader; undefined where its address is not known. */
  dialing(): Pick<DialOptions, 'address' | 'identity' | 'secret' | 'tls'> | undefined;
  /** The log may get more than it has. */
  mayGrow(): boolean;
  /** The log may be given up for a snapshot. */
  mayBeginAnew(): boolean;
  /** Where a snapshot may be written that the leader sends. */
  nextIncomingPath(): string;
  /** There is a link, or none any more, or it follows. */
  onChange(): void;
  onCaughtUp(): void;
  /** The link broke: another one is tried. */
  onLost(): void;
  /** The leader's process has ended. */
  onGone(): void;
  /** It is over: the log is to end at `cut`. */
  onCut(cut: number): void;
  /** It is over: the log is to begin with a snapshot. */
  onSnapshot(snapshot: { file: string; endOffset: number }, starts: readonly EpochStart[]): void;
  /** The state here is another one than that of the leader. */
  onDiverged(why: string): void;
  /** It is over: what is committed here the leader lacks. */
  onAhead(why: string): void;
  /** What the leader tells about the cluster. */
  onStatus(status: Buffer): void;
  onDefect(error: unknown): void;
}

export class Follower {
  readonly #options: FollowerOptions;
  readonly #abort = new AbortController();
  #receiver: ReplicaReceiver | undefined = undefined;
  #againMs = LINK_AGAIN_MS;
  #isOver = false;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#dial().catch((error: unknown) => options.onDefect(error));
  }

  /** There is a link. */
  get isLinked(): boolean {
    return this.#receiver !== undefined;
  }

  /** The leader was heard of within this time. */
  isHeard(nowMs: number, withinMs: number): boolean {
    return this.#receiver !== undefined && nowMs - this.#receiver.heardMs <= withinMs;
  }

  /** Where the log of the leader begins; 0 where that is not known. */
  get logStart(): number {
    return this.#receiver?.logStart ?? 0;
  }

  tellStateHash(offset: number, hash: Buffer): void {
    this.#receiver?.tellStateHash(offset, hash);
  }

  stop(): void {
    this.#isOver = true;
    this.#abort.abort();
    this.#receiver?.close();
    this.#receiver = undefined;
  }

  /** Until there is a link, or another leader. */
  async #dial(): Promise<void> {
    const { local, leader, logger, mayGrow, dialing } = this.#options;
    let last = '';
    let times = 0;
    let againMs = DIAL_AGAIN_MS;
    while (!this.#isOver) {
      const to = dialing();
      if (to !== undefined) {
        try {
          await local.storage!.log.settled();
          const link = await dialReplica({ ...to, timeoutMs: DIAL_MS, signal: this.#abort.signal });
          if (!this.#isOver && mayGrow()) {
            this.#receive(link);
            return;
          }
          link.destroy(undefined);
        } catch (error) {
          if (this.#isOver) return;
          if (!(error instanceof GomqError)) throw error;
          const { code, message } = error;
          times = message === last ? times + 1 : 1;
          last = message;
          if (times === TOLD_AFTER) logger.warn('cannot follow the leader', { leader, why: message });
          // Whoever refuses is there; whoever does not answer may be gone, and that is to be seen soon.
          againMs = code === 'PEER_REFUSED' ? Math.min(2 * againMs, AGAIN_MS_MAX) : DIAL_AGAIN_MS;
          await this.#probe(to.address);
        }
      }
      await rest(againMs);
    }
  }

  #receive(link: LinkToLeader): void {
    const options = this.#options;
    const { leader, epoch, local, clock, logger } = options;
    const { log, replica } = local.storage!;
    const incomingPath = options.nextIncomingPath();
    const receiver = new ReplicaReceiver({
      link,
      epoch,
      log,
      replica: replica!,
      starts: local.history.starts,
      incomingPath,
      mayBeginAnew: options.mayBeginAnew,
      nowMs: () => clock.monotonicMs(),
      onHistory: (starts) => {
        try {
          local.adoptHistory(starts);
        } catch (error) {
          if (!(error instanceof GomqError)) throw error;
          throw new GomqError('PEER_PROTOCOL', `cannot note the epochs of the leader: ${error.message}`);
        }
        logger.info('follows the leader', { leader, epoch, logEnd: log.endOffset });
        options.onChange();
      },
      onCaughtUp: () => {
        this.#againMs = LINK_AGAIN_MS;
        options.onCaughtUp();
      },
      onCut: (cut) => {
        this.stop();
        options.onCut(cut);
      },
      onSnapshot: (endOffset, starts) => {
        this.stop();
        options.onSnapshot({ file: incomingPath, endOffset }, starts);
      },
      onDiverged: options.onDiverged,
      onAhead: (why) => {
        this.stop();
        options.onAhead(why);
      },
      onStatus: options.onStatus,
      onClosed: (error) => this.#onClosed(error),
    });
    this.#receiver = receiver;
    receiver.start();
    options.onChange();
  }

  #onClosed(error: Error | undefined): void {
    this.#receiver = undefined;
    if (this.#isOver) return;
    const { leader, logger, dialing, onLost, onChange, onDefect } = this.#options;
    logger.warn('lost the link to the leader', { leader, why: error?.message ?? 'it was closed' });
    onLost();
    onChange();
    const address = dialing()?.address;
    // What failed a moment ago is not tried again without end: it may be a whole snapshot, for which there is no room.
    const againMs = this.#againMs;
    this.#againMs = Math.min(LINK_AGAIN_FACTOR * againMs, AGAIN_MS_MAX);
    const again = async (): Promise<void> => {
      if (address !== undefined) await this.#probe(address);
      await rest(againMs);
      await this.#dial();
    };
    again().catch(onDefect);
  }

  async #probe(address: string): Promise<void> {
    let probe: Probe = 'silent';
    try {
      probe = await probePeer(address, PROBE_MS);
    } catch (error) {
      // Whoever registered that is no node of this program.
      if (!(error instanceof GomqError) || error.code !== 'ADDRESS_INVALID') throw error;
    }
    if (probe === 'gone' && !this.#isOver) this.#options.onGone();
  }
}

function rest(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
