// The member's side of the link to its leader: tells where its log is, cuts what the leader has not, and keeps what it is sent, each batch checked.
// What is on its disk it acknowledges, in this epoch and in no other (R3).
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import { checkBatch } from '../log/batch-codec.js';
import type { DiskLog } from '../log/disk-log.js';
import type { EpochStart } from '../log/epoch-history.js';
import type { Replica } from '../state/replica.js';
import type { AppendFrame, FrameToMember, ResumeFrame } from './frames.js';
import type { LinkToLeader, PeerLinkHandler } from './peer-link.js';

export interface ReplicaReceiverOptions {
  readonly link: LinkToLeader;
  readonly epoch: number;
  readonly log: DiskLog;
  readonly replica: Replica;
  /** Of the log as it is. */
  readonly starts: readonly EpochStart[];
  nowMs(): number;
  /** The log is a part of the leader's: to be on disk when this returns. */
  onHistory(starts: readonly EpochStart[]): void;
  /** The log is to end at `cut`. The link is over: another one tells the new position. */
  onCut(cut: number): void;
  /** What the leader tells about the cluster. */
  onStatus(status: Buffer): void;
  onClosed(error: Error | undefined): void;
}

export class ReplicaReceiver implements PeerLinkHandler<FrameToMember> {
  readonly #options: ReplicaReceiverOptions;
  #hasResumed = false;
  #isClosed = false;
  #sequence = 0;
  /** As the leader told it. */
  #highWatermark = 0;
  /** Where the leader's log begins. */
  logStart = 0;
  heardMs: number;

  constructor(options: ReplicaReceiverOptions) {
    this.#options = options;
    this.heardMs = options.nowMs();
  }

  /** The log must have on disk what it has. */
  start(): void {
    const { link, epoch, log, starts } = this.#options;
    assert(log.keptOffset === log.endOffset, 'what a member says of its log is on its disk');
    log.onKept((keptOffset) => this.#onKept(keptOffset));
    link.start(this);
    link.send({
      type: 'position',
      epoch,
      logStart: log.startOffset,
      logEnd: log.endOffset,
      committed: log.highWatermark,
      history: starts.filter(({ start }) => start < log.endOffset),
    });
  }

  close(): void {
    this.#isClosed = true;
    this.#options.log.onKept(() => undefined);
    this.#options.link.destroy(undefined);
  }

  // ---- PeerLinkHandler --------------------------------------------------------------------------------------------------------------

  onFrame(frame: FrameToMember): void {
    const { epoch, nowMs } = this.#options;
    if (this.#isClosed) return;
    if (frame.type === 'refused') {
      throw new GomqError('PEER_REFUSED', `the leader ends the link: ${frame.message}`);
    }
    if (frame.epoch !== epoch) {
      throw new GomqError('PEER_PROTOCOL', `${frame.type} of epoch ${frame.epoch} in epoch ${epoch}`);
    }
    this.heardMs = nowMs();
    switch (frame.type) {
      case 'resume':
        this.#resume(frame);
        break;
      case 'append':
        this.#append(frame);
        break;
      case 'heartbeat':
        this.#sequence = frame.sequence;
        this.logStart = frame.logStart;
        this.#advance(frame.highWatermark);
        if (this.#hasResumed) this.#ack();
        if (frame.status.length > 0) this.#options.onStatus(frame.status);
        break;
      default:
        throw new GomqError('PEER_PROTOCOL', `${frame.type}, which was not asked for`);
    }
  }

  onDrain(): void {
    // A member sends little, and nothing waits for it.
  }

  onClose(error: Error | undefined): void {
    if (this.#isClosed) return;
    this.close();
    this.#options.onClosed(error);
  }

  // ---- what it does -----------------------------------------------------------------------------------------------------------------

  #resume({ cut, highWatermark, logStart, history }: ResumeFrame): void {
    const { log, onHistory, onCut } = this.#options;
    if (this.#hasResumed || cut > log.endOffset) {
      throw new GomqError('PEER_PROTOCOL', `resume at ${cut}, where the log ends at ${log.endOffset}`);
    }
    // R7: whoever asks for that has lost what was acknowledged. Better nobody goes on than that it is lost here as well.
    assert(
      cut >= log.highWatermark,
      `the leader has nothing from ${cut} on, and up to ${log.highWatermark} all is committed`,
    );
    this.logStart = logStart;
    if (cut < log.endOffset) {
      this.close();
      onCut(cut);
      return;
    }
    onHistory(history);
    this.#hasResumed = true;
    this.#advance(highWatermark);
    this.#ack();
  }

  #append({ batches, highWatermark, logStart }: AppendFrame): void {
    const { log, replica, epoch } = this.#options;
    if (!this.#hasResumed) throw new GomqError('PEER_PROTOCOL', 'append before resume');
    this.logStart = logStart;
    for (const { bytes, topics } of batches) {
      const header = checkBatch(bytes);
      if ('damage' in header) {
        throw new GomqError(
          'PEER_PROTOCOL',
          `a batch from offset ${log.endOffset} on is damaged: ${header.damage}`,
        );
      }
      if (header.baseOffset !== log.endOffset || header.epoch > epoch || header.epoch < log.epoch) {
        throw new GomqError(
          'PEER_PROTOCOL',
          `a batch of offset ${header.baseOffset} and epoch ${header.epoch}, where the log ends at ${log.endOffset} in epoch ${log.epoch}`,
        );
      }
      log.appendBatch(bytes, header, topics);
      replica.hold(header, bytes);
    }
    log.flush();
    this.#advance(highWatermark);
  }

  #advance(highWatermark: number): void {
    this.#highWatermark = Math.max(this.#highWatermark, highWatermark);
    // What this link has not settled yet may not be the leader's.
    if (this.#hasResumed) this.#options.log.advance(this.#highWatermark);
  }

  #onKept(keptOffset: number): void {
    if (!this.#hasResumed) return;
    this.#options.log.advance(Math.min(this.#highWatermark, keptOffset));
    this.#ack();
  }

  #ack(): void {
    const { link, epoch, log, replica } = this.#options;
    link.send({
      type: 'ack',
      epoch,
      durableEnd: log.keptOffset,
      applied: replica.applied,
      sequence: this.#sequence,
    });
  }
}
