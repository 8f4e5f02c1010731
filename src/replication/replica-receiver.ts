// The member's side of the link to its leader: tells where its log is, cuts what the leader has not, and keeps what it is sent, each batch checked.
// What is on its disk it acknowledges, in this epoch and in no other (R3).
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import { checkBatch } from '../log/batch-codec.js';
import { BatchFlag } from '../log/batch-format.js';
import type { DiskLog } from '../log/disk-log.js';
import type { EpochStart } from '../log/epoch-history.js';
import type { Replica } from '../state/replica.js';
import type { AppendFrame, FrameToMember, ResumeFrame, SnapshotBeginFrame } from './frames.js';
import type { LinkToLeader, PeerLinkHandler } from './peer-link.js';
import { SnapshotIntake } from './snapshot-transfer.js';

/** Bytes of a snapshot that wait to be written. */
const INTAKE_BYTES_MAX = 4 * 1024 * 1024;

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
  /** The log has everything that was committed when the link began, and reaches into the last epoch: called once. */
  onCaughtUp(): void;
  /** The log is to end at `cut`. The link is over: another one tells the new position. */
  onCut(cut: number): void;
  /** What is here may be given up for a snapshot: nothing of it was promised. */
  mayBeginAnew(): boolean;
  /** Where a snapshot is to be written that the leader sends. */
  readonly incomingPath: string;
  /** It has come, and is on disk: the log is to begin with it. The link is over: another one tells the new position. */
  onSnapshot(endOffset: number, starts: readonly EpochStart[]): void;
  /** The leader found that this state is another one than its own. */
  onDiverged(why: string): void;
  /** What is committed here the leader lacks. The link is over, and there should be no other one. */
  onAhead(why: string): void;
  /** What the leader tells about the cluster. */
  onStatus(status: Buffer): void;
  onClosed(error: Error | undefined): void;
}

export class ReplicaReceiver implements PeerLinkHandler<FrameToMember> {
  readonly #options: ReplicaReceiverOptions;
  #hasResumed = false;
  /** Where it has caught up; infinite until that is known and once it is told. */
  #caughtUpAt = Number.POSITIVE_INFINITY;
  #isClosed = false;
  #sequence = 0;
  /** As the leader told it. */
  #highWatermark = 0;
  #intake: SnapshotIntake | undefined = undefined;
  #intakeStarts: readonly EpochStart[] = [];
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

  tellStateHash(offset: number, hash: Buffer): void {
    const { link, epoch } = this.#options;
    if (this.#hasResumed && !this.#isClosed) link.send({ type: 'stateHash', epoch, offset, hash });
  }

  close(): void {
    this.#isClosed = true;
    void this.#intake?.abort();
    this.#intake = undefined;
    this.#options.log.onKept(() => undefined);
    this.#options.link.destroy(undefined);
  }

  // ---- PeerLinkHandler --------------------------------------------------------------------------------------------------------------

  onFrame(frame: FrameToMember): void {
    const { epoch, nowMs } = this.#options;
    if (this.#isClosed) return;
    if (frame.type === 'refused') {
      if (frame.code === 'state') this.#options.onDiverged(frame.message);
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
      case 'snapshotBegin':
        this.#beginSnapshot(frame);
        break;
      case 'snapshotChunk':
        this.#takeChunk(frame.bytes);
        break;
      case 'snapshotEnd':
        this.#endSnapshot();
        break;
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

  // ---- a snapshot -------------------------------------------------------------------------------------------------------------------

  #beginSnapshot({ endOffset, bytes, history }: SnapshotBeginFrame): void {
    const { log, incomingPath } = this.#options;
    if (this.#hasResumed || this.#intake !== undefined) {
      throw new GomqError('PEER_PROTOCOL', 'a snapshot, which was not asked for');
    }
    this.#checkHistory(history);
    if (!this.#mayBeginWith(endOffset)) return;
    this.#intake = new SnapshotIntake(incomingPath, endOffset, bytes, () => log.roomBytes());
    this.#intakeStarts = history;
  }

  /** What is here may be given up for a snapshot that ends there. Where not, the link is over. */
  #mayBeginWith(endOffset: number): boolean {
    const { log, mayBeginAnew } = this.#options;
    // What is committed here is not given up for less.
    if (endOffset < log.highWatermark) {
      this.#refuseToLose(`the leader's snapshot ends at ${endOffset}`);
      return false;
    }
    if (!mayBeginAnew()) {
      const message = 'a snapshot, for a node that is in sync as far as it knows';
      this.#giveUp(new GomqError('PEER_PROTOCOL', message));
      return false;
    }
    return true;
  }

  #takeChunk(bytes: Buffer): void {
    const intake = this.#intake;
    const { link } = this.#options;
    if (intake === undefined)
      throw new GomqError('PEER_PROTOCOL', 'a piece of a snapshot that has not begun');
    const written = intake.write(bytes);
    if (intake.waitingBytes > INTAKE_BYTES_MAX) link.pause();
    written.then(
      () => link.resume(),
      (error: unknown) => this.#giveUp(error),
    );
  }

  #endSnapshot(): void {
    const intake = this.#intake;
    if (intake === undefined)
      throw new GomqError('PEER_PROTOCOL', 'the end of a snapshot that has not begun');
    intake.end().then(
      () => {
        // What was true when it began may not be true any more.
        if (this.#isClosed || !this.#mayBeginWith(intake.endOffset)) return;
        this.#intake = undefined;
        this.close();
        this.#options.onSnapshot(intake.endOffset, this.#intakeStarts);
      },
      (error: unknown) => this.#giveUp(error),
    );
  }

  #giveUp(error: unknown): void {
    if (!this.#isClosed) this.#options.link.destroy(error as Error);
  }

  // ---- what it does -----------------------------------------------------------------------------------------------------------------

  #resume({ cut, highWatermark, logStart, history }: ResumeFrame): void {
    const { log, onHistory, onCut } = this.#options;
    // What is acknowledged from here on would go with the rest when the snapshot has come.
    if (this.#intake !== undefined)
      throw new GomqError('PEER_PROTOCOL', 'resume in the middle of a snapshot');
    if (this.#hasResumed || cut > log.endOffset) {
      throw new GomqError('PEER_PROTOCOL', `resume at ${cut}, where the log ends at ${log.endOffset}`);
    }
    this.#checkHistory(history);
    // R7: whoever asks for that has lost what was acknowledged.
    if (cut < log.highWatermark) {
      this.#refuseToLose(`the leader has nothing from ${cut} on`);
      return;
    }
    this.logStart = logStart;
    if (cut < log.endOffset) {
      this.close();
      onCut(cut);
      return;
    }
    onHistory(history);
    this.#hasResumed = true;
    this.#caughtUpAt = Math.max(highWatermark, history.at(-1)?.start ?? 0);
    this.#advance(highWatermark);
    this.#ack();
    this.#checkCaughtUp();
  }

  /** A member that notes an epoch which has not begun passes for one that has more than all others, and cannot begin its own when it is elected. */
  #checkHistory(history: readonly EpochStart[]): void {
    const { epoch } = this.#options;
    const last = history.at(-1)?.epoch ?? 0;
    if (last > epoch) throw new GomqError('PEER_PROTOCOL', `a history with epoch ${last} in epoch ${epoch}`);
  }

  #refuseToLose(what: string): void {
    const { log, onAhead } = this.#options;
    this.close();
    onAhead(`${what}, and up to ${log.highWatermark} all is committed`);
  }

  #checkCaughtUp(): void {
    const { log, onCaughtUp } = this.#options;
    if (log.keptOffset < this.#caughtUpAt) return;
    this.#caughtUpAt = Number.POSITIVE_INFINITY;
    onCaughtUp();
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
      // Checksums hold of a batch of a snapshot too. Its offsets may be any: in the log they would be counted wrongly, and damage at the next start.
      if ((header.flags & (BatchFlag.Snapshot | BatchFlag.SnapshotEnd)) !== 0) {
        throw new GomqError('PEER_PROTOCOL', `a batch of a snapshot, where the log ends at ${log.endOffset}`);
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
    this.#checkCaughtUp();
  }

  #ack(): void {
    const { link, epoch, log, replica } = this.#options;
    link.send({
      type: 'ack',
      epoch,
      durableEnd: log.keptOffset,
      applied: replica.applied,
      sequence: this.#sequence,
      isFull: log.isFull,
    });
  }
}
