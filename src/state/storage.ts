// What a broker keeps on disk, opened and closed as a whole: the data directory, the log in it, the snapshots, and the state that they make.
import type { Clock } from '../core/clock.js';
import type { Config } from '../core/config.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { openDataDirectory } from '../log/data-directory.js';
import { nodeDisk } from '../log/disk.js';
import { type DiskLog, openDiskLog } from '../log/disk-log.js';
import type { RetentionEvents } from '../log/log.js';
import { loadZstd } from '../log/zstd.js';
import { topicNameIn } from '../session/message.js';
import { applyRecord } from './apply.js';
import { type Restored, restoreSnapshot } from './restore.js';
import { SnapshotMaker } from './snapshot-maker.js';
import type { State, StateOptions } from './state.js';

/** A replay says how far it is when it takes longer than this, and then again. */
const PROGRESS_MS = 2000;

export interface StorageOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly state: StateOptions;
  /** The disk failed, or a file turned out to be damaged: nothing is committed any more. */
  onFailure(error: GomqError): void;
}

export class Storage {
  readonly log: DiskLog;
  readonly state: State;
  readonly #maker: SnapshotMaker;
  readonly #release: () => void;
  readonly #bind: (retention: RetentionEvents) => void;

  constructor(
    log: DiskLog,
    state: State,
    maker: SnapshotMaker,
    bind: (retention: RetentionEvents) => void,
    release: () => void,
  ) {
    this.log = log;
    this.state = state;
    this.#maker = maker;
    this.#bind = bind;
    this.#release = release;
  }

  /** Who is asked before records go, from now on. Until then none go. */
  bind(retention: RetentionEvents): void {
    this.#bind(retention);
  }

  /** Ends what runs beside the log, which is closed already, and lets go of the directory. */
  async close(): Promise<void> {
    await this.#maker.stop();
    this.#release();
  }
}

/**
 * Opens the data directory that the configuration names and makes the state anew.
 * @throws {GomqError} DATA_IN_USE, DATA_UNREADABLE, DATA_VERSION, DATA_DAMAGED, DISK_FAILED
 */
export async function openStorage(options: StorageOptions): Promise<Storage> {
  const { config, logger, clock, onFailure } = options;
  const path = config.node.data;
  const directory = openDataDirectory(path, { nodeId: config.node.id });
  let log: DiskLog | undefined;
  try {
    let retention: RetentionEvents | undefined;
    let maker: SnapshotMaker | undefined;
    log = await openDiskLog({
      ...config.log,
      directory,
      clock,
      logger,
      epoch: 1,
      onFailure,
      onDamaged: (from, to) => retention?.onLost(from, to),
      snapshotFloor: () => maker?.floor ?? 0,
      topicOf: topicNameIn,
      neededFrom: (before) => (retention === undefined ? 0 : retention.neededFrom(before)),
      onLost: (from, to) => retention?.onLost(from, to),
    });
    const { state, unusable } = await restoreState(log, path, options);
    const made = new SnapshotMaker({
      directory: path,
      isCompressed: config.log.compression === 'zstd',
      logger,
      unusable,
    });
    maker = made;
    log.onSeal((endOffset) => made.onSeal(endOffset, config.log.segmentBytes));
    return new Storage(
      log,
      state,
      made,
      (bound) => {
        retention = bound;
      },
      () => directory.release(),
    );
  } catch (error) {
    await log?.close();
    directory.release();
    throw error;
  }
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
  return restored;
}
