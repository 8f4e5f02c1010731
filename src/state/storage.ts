// What a broker keeps on disk, opened and closed as a whole: the log of a data directory, the snapshots, and the state that they make. A broker that
// stands alone has all of the log in its state; one of a cluster what is known to be committed, and a replica that follows.
import type { Clock } from '../core/clock.js';
import type { Config } from '../core/config.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { DataDirectory } from '../log/data-directory.js';
import { nodeDisk } from '../log/disk.js';
import { type DiskLog, openDiskLog } from '../log/disk-log.js';
import type { RetentionEvents } from '../log/log.js';
import { readCommitted, writeCommitted } from '../log/membership.js';
import { loadZstd } from '../log/zstd.js';
import { topicNameIn } from '../session/message.js';
import { applyRecord } from './apply.js';
import { Replica } from './replica.js';
import { type Restored, restoreSnapshot } from './restore.js';
import { SnapshotMaker } from './snapshot-maker.js';
import type { State, StateOptions } from './state.js';

/** A replay says how far it is when it takes longer than this, and then again. */
const PROGRESS_MS = 2000;

/** How old what is known to be committed may be on disk. */
const COMMITTED_MS = 1000;

export interface StorageOptions {
  readonly config: Config;
  /** Stays open when the storage is closed. */
  readonly directory: DataDirectory;
  /** In a cluster: everything below is known to be committed. */
  readonly committed?: number;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly state: StateOptions;
  /** See RecoveryOptions. */
  beforeCut?(): void;
  /** The disk failed, or a file turned out to be damaged: nothing is committed any more. */
  onFailure(error: GomqError): void;
  /** In a cluster: something of the log is damaged on the disk, as the words say. */
  onDamaged?(why: string): void;
  /** What cannot be was found in the log. */
  onDefect(error: unknown): void;
}

export class Storage {
  readonly log: DiskLog;
  readonly state: State;
  /** In a cluster: makes the state follow the log, until somebody else does. */
  readonly replica: Replica | undefined;
  readonly #maker: SnapshotMaker;
  readonly #path: string;
  readonly #logger: Logger;
  readonly #timer: NodeJS.Timeout;
  #committed = 0;
  #isNoteFailing = false;
  #hashListener: (offset: number, hash: Buffer) => void = () => undefined;
  readonly #bind: (retention: RetentionEvents) => void;

  constructor(
    log: DiskLog,
    state: State,
    replica: Replica | undefined,
    maker: SnapshotMaker,
    path: string,
    logger: Logger,
    bind: (retention: RetentionEvents) => void,
  ) {
    this.log = log;
    this.state = state;
    this.replica = replica;
    this.#maker = maker;
    this.#path = path;
    this.#logger = logger;
    this.#bind = bind;
    this.#timer = setInterval(() => this.#noteCommitted(), COMMITTED_MS);
    this.#timer.unref();
  }

  /** Who is asked before records go, from now on. Until then none go. */
  bind(retention: RetentionEvents): void {
    this.#bind(retention);
  }

  /** The one to call with a hash of the state before an offset, whenever a snapshot was made. */
  onStateHash(listener: (offset: number, hash: Buffer) => void): void {
    this.#hashListener = listener;
  }

  noteStateHash(offset: number, hash: Buffer): void {
    this.#hashListener(offset, hash);
  }

  /** Closes the log, where nobody has yet, and ends what runs beside it. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.replica?.stop();
    await this.log.close();
    this.#noteCommitted();
    await this.#maker.stop();
  }

  /** What is noted is only ever too low, and costs time after a start: where it cannot be noted everything else goes on. */
  #noteCommitted(): void {
    const { highWatermark } = this.log;
    if (highWatermark === this.#committed) return;
    try {
      writeCommitted(this.#path, highWatermark);
      this.#committed = highWatermark;
      this.#isNoteFailing = false;
    } catch (error) {
      if (!this.#isNoteFailing)
        this.#logger.warn('cannot note what is committed; it is tried again', { error });
      this.#isNoteFailing = true;
    }
  }
}

/**
 * Opens the log of a data directory and makes the state anew.
 * @throws {GomqError} DATA_UNREADABLE, DATA_VERSION, DATA_DAMAGED, DISK_FAILED
 */
export async function openStorage(options: StorageOptions): Promise<Storage> {
  const { config, directory, logger, clock, onFailure, committed } = options;
  const { path } = directory;
  let log: DiskLog | undefined;
  let opened: Storage | undefined;
  try {
    let retention: RetentionEvents | undefined;
    let maker: SnapshotMaker | undefined;
    log = await openDiskLog({
      ...config.log,
      directory,
      clock,
      logger,
      epoch: 1,
      ...(committed === undefined ? {} : { committed }),
      beforeCut: () => options.beforeCut?.(),
      onFailure,
      onDamaged(from, to) {
        if (options.onDamaged === undefined) retention?.onLost(from, to);
        else options.onDamaged(`offsets ${from} to ${to - 1} cannot be read`);
      },
      snapshotFloor: () => maker?.floor ?? 0,
      topicOf: topicNameIn,
      neededFrom: (before) => (retention === undefined ? 0 : retention.neededFrom(before)),
      onLost: (from, to) => retention?.onLost(from, to),
    });
    if (committed === undefined) tellWhatIsMissing(log, path, logger);
    const { state, offset, unusable } = await restoreState(log, path, options);
    const made = new SnapshotMaker({
      directory: path,
      isCompressed: config.log.compression === 'zstd',
      logger,
      unusable,
      onMade: (offset, hash) => opened?.noteStateHash(offset, hash),
    });
    maker = made;
    log.onSeal((endOffset) => made.onSeal(endOffset, config.log.segmentBytes));
    const onReplicaFailure = (error: unknown): void => {
      // What the operating system cannot read is as good as damaged: another node has it.
      const { code } = error as NodeJS.ErrnoException;
      const isUnreadable =
        error instanceof GomqError ? code === 'DATA_DAMAGED' : /^E[A-Z0-9]+$/.test(code ?? '');
      if (isUnreadable && options.onDamaged !== undefined) options.onDamaged((error as Error).message);
      else options.onDefect(error);
    };
    const replica =
      committed === undefined
        ? undefined
        : new Replica({ log, state, applied: offset, zstd: await loadZstd(), onFailure: onReplicaFailure });
    opened = new Storage(log, state, replica, made, path, logger, (bound) => {
      retention = bound;
    });
    return opened;
  } catch (error) {
    await log?.close();
    throw error;
  }
}

/**
 * What is noted as committed is never too much, so a log that ends before it has lost its end without leaving a trace: a segment was removed, the file
 * system forgot it, or, where not every write waits for the disk, so did the machine. (In a cluster that is for LocalLog: others may have it.)
 */
function tellWhatIsMissing({ endOffset }: DiskLog, path: string, logger: Logger): void {
  let committed: number;
  try {
    committed = readCommitted(path);
  } catch (error) {
    logger.warn('cannot read what was known to be committed', { data: path, error });
    return;
  }
  if (committed <= endOffset) return;
  logger.error('the log ends before what was known to be committed: what lay between is missing', {
    data: path,
    end: endOffset,
    committed,
    missing: committed - endOffset,
  });
}

async function restoreState(log: DiskLog, path: string, options: StorageOptions): Promise<Restored> {
  const { logger, clock } = options;
  const zstd = await loadZstd();
  const restored = restoreSnapshot(nodeDisk, path, log.endOffset, zstd, options.state, (warning) =>
    logger.warn(warning),
  );
  const { state, offset } = restored;
  if (offset < log.startOffset) {
    throw new GomqError(
      'DATA_DAMAGED',
      `${path}: no snapshot of offset ${log.startOffset} or later can be used, and the log begins there: without one the state before it is lost`,
      { hint: `\`gomq log verify ${path}\` shows what is damaged; bring the files back from a copy.` },
    );
  }
  const began = clock.monotonicMs();
  let toldMs = began;
  // A snapshot is made of what is committed.
  if (options.committed !== undefined) log.advance(offset);
  await log.replay(
    offset,
    (record) => applyRecord(state, record),
    (doneBytes, totalBytes) => {
      const now = clock.monotonicMs();
      if (now - toldMs < PROGRESS_MS) return;
      toldMs = now;
      logger.info('making the state anew from the log', { doneBytes, totalBytes });
    },
  );
  const tookMs = Math.round(clock.monotonicMs() - began);
  logger.info('opened the log', {
    data: path,
    from: log.startOffset,
    end: log.endOffset,
    snapshot: offset,
    sessions: state.sessionCount,
    retained: state.retained.size,
    tookMs,
  });
  return { ...restored, offset: log.highWatermark };
}
