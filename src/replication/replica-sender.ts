// The leader's side of one link: finds out how far the member's log is the leader's, has the rest cut, and sends everything from there on, verbatim,
// from memory where it is new and from the disk where it is not. So much may be under way and no more; what the member says is believed only as
// far as it can be true.
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { checkBatch } from '../log/batch-codec.js';
import type { DiskLog } from '../log/disk-log.js';
import { commonEnd, type EpochHistory } from '../log/epoch-history.js';
import type { EncodedBatch } from '../log/stored-batches.js';
import { APPEND_BATCHES_MAX, type FrameToLeader, type PositionFrame, type RefusalCode } from './frames.js';
import type { LinkToMember, PeerLinkHandler } from './peer-link.js';
import type { RecentBatches } from './recent-batches.js';
import { SnapshotSender, type SnapshotToSend } from './snapshot-transfer.js';

/** Bytes of batches in one frame, but for a batch that is larger by itself. */
const FRAME_BATCH_BYTES = 1024 * 1024;
/** Bytes that a member has been sent and has not on disk. */
const WINDOW_BYTES = 32 * 1024 * 1024;

export interface ReplicaSenderOptions {
  readonly link: LinkToMember;
  readonly incarnation: string;
  readonly epoch: number;
  readonly log: DiskLog;
  readonly history: EpochHistory;
  readonly recent: RecentBatches;
  readonly logger: Logger;
  highWatermark(): number;
  /** The newest one that is committed. */
  newestSnapshot(): SnapshotToSend | undefined;
  /** What this node has of its log on disk is damaged there. */
  onDamaged(error: GomqError): void;
  /** The disk does not give out a part of the log that is there; `why` says which. The link is closed after this. */
  onUnreadable(why: string): void;
  /** The member's log is a part of this one up to `keptOffset`. */
  onJoined(sender: ReplicaSender, keptOffset: number): void;
  onAck(sender: ReplicaSender, keptOffset: number, isFull: boolean): void;
  /** The member is in sync, or about to be. */
  isWaitedFor(sender: ReplicaSender): boolean;
  /** What the member's state before an offset hashes to. */
  onStateHash(sender: ReplicaSender, offset: number, hash: Buffer): void;
  onClosed(sender: ReplicaSender, error: Error | undefined): void;
}

export class ReplicaSender implements PeerLinkHandler<FrameToLeader> {
  readonly #options: ReplicaSenderOptions;
  /** The next offset to send; undefined until the member's place is known. */
  #next: number | undefined = undefined;
  #keptOffset = 0;
  applied = 0;
  /** Ends of the frames that are under way, and their bytes. */
  readonly #sent: { readonly endOffset: number; readonly bytes: number }[] = [];
  #sentBytes = 0;
  #isBlocked = false;
  /** There is hardly room on the member's disk. */
  #isFull = false;
  #isReading = false;
  #isClosed = false;
  #snapshot: SnapshotSender | undefined = undefined;

  constructor(options: ReplicaSenderOptions) {
    this.#options = options;
  }

  get node(): string {
    return this.#options.link.node;
  }

  get incarnation(): string {
    return this.#options.incarnation;
  }

  /** One past what the member has on disk; undefined until its place is known. */
  get keptOffset(): number | undefined {
    return this.#next === undefined ? undefined : this.#keptOffset;
  }

  heartbeat(sequence: number, status: Buffer): void {
    const { link, epoch, log, highWatermark } = this.#options;
    if (this.#isClosed) return;
    link.send({
      type: 'heartbeat',
      epoch,
      highWatermark: highWatermark(),
      logStart: log.startOffset,
      sequence,
      status,
    });
  }

  /** There may be something new to send. */
  stream(): void {
    const { log, recent } = this.#options;
    while (this.#next !== undefined && !this.#isClosed && !this.#isBlocked && !this.#isReading) {
      if (this.#sentBytes >= WINDOW_BYTES) return;
      // It would end when nothing is left. Once there is room again it says so.
      if (this.#isFull && !this.#options.isWaitedFor(this)) return;
      const batches = recent.from(this.#next, FRAME_BATCH_BYTES, APPEND_BATCHES_MAX);
      if (batches === undefined) {
        if (this.#next < log.keptOffset) this.#read(this.#next);
        return;
      }
      this.#send(batches);
    }
  }

  /** Tells the member why this is the end. */
  refuse(code: RefusalCode, message: string): void {
    const { link, epoch } = this.#options;
    link.send({ type: 'refused', epoch, code, message });
    link.end();
  }

  close(error: Error | undefined): void {
    this.#options.link.destroy(error);
  }

  // ---- PeerLinkHandler --------------------------------------------------------------------------------------------------------------

  onFrame(frame: FrameToLeader): void {
    const { epoch, log } = this.#options;
    if (frame.epoch !== epoch) {
      throw new GomqError('PEER_PROTOCOL', `${frame.type} of epoch ${frame.epoch} in epoch ${epoch}`);
    }
    if (frame.type === 'position') this.#settle(frame);
    if (frame.type === 'stateHash') this.#options.onStateHash(this, frame.offset, frame.hash);
    if (frame.type !== 'ack') return;
    const { durableEnd, applied, isFull } = frame;
    const isPossible =
      this.#next !== undefined &&
      durableEnd >= this.#keptOffset &&
      durableEnd <= this.#next &&
      applied <= log.endOffset;
    if (!isPossible) {
      throw new GomqError(
        'PEER_PROTOCOL',
        `ack of ${durableEnd} after ${this.#keptOffset}, where ${this.#next ?? 'nothing'} is the next to send`,
      );
    }
    this.#keptOffset = durableEnd;
    this.#isFull = isFull;
    this.applied = applied;
    let count = 0;
    for (; count < this.#sent.length && this.#sent[count]!.endOffset <= durableEnd; count++) {
      this.#sentBytes -= this.#sent[count]!.bytes;
    }
    this.#sent.splice(0, count);
    this.#options.onAck(this, durableEnd, isFull);
    this.stream();
  }

  onDrain(): void {
    this.#isBlocked = false;
    this.#snapshot?.onDrain();
    this.stream();
  }

  onClose(error: Error | undefined): void {
    this.#isClosed = true;
    this.#snapshot?.close();
    this.#options.onClosed(this, error);
  }

  // ---- what it does -----------------------------------------------------------------------------------------------------------------

  /** Where the member's log departs from this one (R7). It asks again once it has cut what is beyond. */
  #settle({ logEnd, committed, history: starts }: PositionFrame): void {
    const { link, epoch, log, history, highWatermark, logger } = this.#options;
    if (this.#next !== undefined) throw new GomqError('PEER_PROTOCOL', 'position, when it is known already');
    const cut = commonEnd({ starts: history.starts, end: log.endOffset }, { starts, end: logEnd });
    // Of epochs that are not remembered any more nobody can say where they end.
    const isForgotten = logEnd > 0 && history.hasForgotten && cut === 0;
    if (cut < log.startOffset || isForgotten) {
      this.#sendSnapshot(cut, isForgotten ? committed : log.startOffset);
      return;
    }
    link.send({
      type: 'resume',
      epoch,
      cut,
      highWatermark: highWatermark(),
      logStart: log.startOffset,
      history: history.starts,
    });
    logger.info('a member joins', { node: this.node, from: cut, logEnd: log.endOffset, cuts: logEnd - cut });
    if (cut < logEnd) return;
    this.#next = cut;
    this.#keptOffset = cut;
    this.#options.onJoined(this, cut);
    this.stream();
  }

  /** The member is behind the beginning of the log: it begins anew, with the state from before, and dials again when it has that. */
  #sendSnapshot(cut: number, endMin: number): void {
    const { link, epoch, log, history, logger, newestSnapshot } = this.#options;
    if (this.#snapshot !== undefined)
      throw new GomqError('PEER_PROTOCOL', 'position, while a snapshot is sent');
    const snapshot = newestSnapshot();
    if (snapshot === undefined || snapshot.endOffset < Math.max(endMin, log.startOffset)) {
      const message = `${this.node} has the log up to ${cut}, it begins at ${log.startOffset}, and there is no snapshot of ${endMin} or later yet`;
      this.close(new GomqError('PEER_UNREACHABLE', message));
      return;
    }
    const { endOffset } = snapshot;
    logger.info('sends a snapshot to a member', { node: this.node, endOffset, logStart: log.startOffset });
    this.#snapshot = new SnapshotSender(link, epoch);
    const starts = history.starts.filter(({ start }) => start < endOffset);
    this.#snapshot
      .send(snapshot, starts)
      .catch((error: unknown) => this.#onFileFailed(snapshot.path, error as Error));
  }

  #read(from: number): void {
    this.#isReading = true;
    this.#options.log.readBatches(from, FRAME_BATCH_BYTES, APPEND_BATCHES_MAX).then(
      (batches) => {
        this.#isReading = false;
        if (this.#isClosed) return;
        if (batches === undefined) {
          this.close(new GomqError('PEER_UNREACHABLE', `${this.node} is behind the beginning of the log`));
          return;
        }
        const damage = damageOf(batches);
        if (damage !== undefined) {
          this.#options.onDamaged(damage);
          return;
        }
        this.#send(batches);
        this.stream();
      },
      (error: unknown) => this.#onReadFailed(from, error as Error),
    );
  }

  #onReadFailed(from: number, error: Error): void {
    if (this.#isClosed) return;
    const { log } = this.#options;
    // What retention has removed in the meantime is not missing.
    if (from < log.startOffset) this.close(error);
    else this.#onFileFailed(log.segments.path(log.segments.find(from).baseOffset), error);
  }

  #onFileFailed(path: string, error: Error): void {
    if (this.#isClosed) return;
    const isDefect = error instanceof GomqError && error.code === 'INTERNAL';
    if (!isDefect) this.#options.onUnreadable(`cannot read ${path}: ${error.message}`);
    this.close(error);
  }

  #send(batches: readonly EncodedBatch[]): void {
    const { link, epoch, log, highWatermark } = this.#options;
    const bytes = batches.reduce((sum, batch) => sum + batch.bytes.length, 0);
    const endOffset = batches.at(-1)!.endOffset;
    this.#next = endOffset;
    this.#sent.push({ endOffset, bytes });
    this.#sentBytes += bytes;
    const hasRoom = link.send({
      type: 'append',
      epoch,
      highWatermark: highWatermark(),
      logStart: log.startOffset,
      batches,
    });
    if (!hasRoom) this.#isBlocked = true;
  }
}

/** What is wrong with batches that were read from this node's own disk. */
function damageOf(batches: readonly EncodedBatch[]): GomqError | undefined {
  for (const { baseOffset, endOffset, bytes } of batches) {
    const header = checkBatch(bytes);
    const damage =
      'damage' in header
        ? header.damage
        : header.baseOffset === baseOffset && header.lastOffset === endOffset - 1
          ? undefined
          : `records from ${header.baseOffset} to ${header.lastOffset}`;
    if (damage === undefined) continue;
    return new GomqError(
      'DATA_DAMAGED',
      `the batch of offsets ${baseOffset} to ${endOffset - 1} is damaged: ${damage}`,
    );
  }
  return undefined;
}
