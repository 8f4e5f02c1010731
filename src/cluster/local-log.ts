// What a node has on its disk: the log and the state that it makes, the epochs that are in it, and what is known about both (cluster.json). Opens,
// cuts and replaces it; whether and when is for whoever asks.
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { cutLog } from '../log/cut-log.js';
import type { DataDirectory } from '../log/data-directory.js';
import { nodeDisk } from '../log/disk.js';
import { EpochHistory, type EpochStart } from '../log/epoch-history.js';
import { beginAnew, isBeginningAnew, putAside } from '../log/install-snapshot.js';
import { type Membership, readCommitted, readMembership, writeMembership } from '../log/membership.js';
import { listSnapshots } from '../log/snapshot-file.js';
import type { SnapshotToSend } from '../replication/snapshot-transfer.js';
import type { Storage } from '../state/storage.js';

export interface LocalLogOptions {
  readonly directory: DataDirectory;
  readonly logger: Logger;
  /** Opens the log: everything below `committed` is committed. `beforeCut` is called before a torn end is cut off. */
  openStorage(committed: number, beforeCut: () => void): Promise<Storage>;
}

/** Whoever has a log. */
export interface LogOwner {
  /** What the state before an offset hashes to. */
  onStateHash(offset: number, hash: Buffer): void;
  /** Of a member: where the leader's log begins. */
  leaderLogStart(): number;
}

/** How far a log is, as others are told of it. */
export interface LogShape {
  readonly logEnd: number;
  readonly logEpoch: number;
  /** Its end was torn or is missing, and it has not been compared with that of a leader since. */
  readonly isSuspect: boolean;
}

export class LocalLog {
  readonly #options: LocalLogOptions;
  #history: EpochHistory;
  #clusterId: string;
  #epoch: number;
  #isSuspect: boolean;
  #storage: Storage | undefined = undefined;
  #owner: LogOwner | undefined = undefined;

  /** @throws {GomqError} DATA_VERSION, DATA_UNREADABLE, DISK_FAILED; a log that is damaged is not opened */
  static async open(options: LocalLogOptions): Promise<LocalLog> {
    const { directory, logger } = options;
    const { path } = directory;
    if (isBeginningAnew(path)) {
      logger.warn('the last process ended while it began the log anew: it begins with nothing', {
        data: path,
      });
      directory.renewIncarnation();
      const former = readMembership(path);
      beginAnew(path, () => {
        if (former !== undefined) writeMembership(path, { ...former, starts: [], isSuspect: false });
      });
    }
    const membership = readMembership(path);
    let isSuspect = membership?.isSuspect ?? false;
    const storage = await openOrNot(options, () => {
      // Before anything is cut: from then on nobody could tell.
      if (membership === undefined) return;
      isSuspect = true;
      writeMembership(path, { ...membership, isSuspect });
    });
    // What is noted as committed is never too much, so a log that ends before it has lost something without leaving a trace.
    const isShort = storage !== undefined && readCommitted(path) > storage.log.endOffset;
    if (isShort && membership !== undefined && !isSuspect) {
      isSuspect = true;
      writeMembership(path, { ...membership, isSuspect });
      logger.error(
        'the log ends before what was known to be committed: this node leads only where all others are no better',
        {
          end: storage.log.endOffset,
          committed: readCommitted(path),
        },
      );
    }
    return new LocalLog(options, membership, storage, isSuspect);
  }

  private constructor(
    options: LocalLogOptions,
    membership: Membership | undefined,
    storage: Storage | undefined,
    isSuspect: boolean,
  ) {
    this.#options = options;
    this.#isSuspect = isSuspect;
    this.#clusterId = membership?.clusterId ?? '';
    this.#epoch = Math.max(membership?.epoch ?? 0, storage?.log.epoch ?? 0);
    this.#history = new EpochHistory(membership?.starts ?? []);
    if (storage === undefined) return;
    const { log } = storage;
    // The log of a broker that stood alone.
    if (membership === undefined && log.endOffset > log.startOffset)
      this.#history.begin(log.epoch, log.startOffset);
    this.#take(storage);
  }

  /** To be called before anything is appended. */
  setOwner(owner: LogOwner): void {
    this.#owner = owner;
  }

  /** The open log; undefined where it is damaged, and while it is closed. */
  get storage(): Storage | undefined {
    return this.#storage;
  }

  get history(): EpochHistory {
    return this.#history;
  }

  /** '' where the directory has not been in a cluster. */
  get clusterId(): string {
    return this.#clusterId;
  }

  /** The highest that is known here (R3). */
  get epoch(): number {
    return this.#epoch;
  }

  get incarnation(): string {
    return this.#options.directory.incarnation;
  }

  get isSuspect(): boolean {
    return this.#isSuspect;
  }

  get shape(): LogShape {
    // Nobody may take a log that is damaged for one that is merely shorter.
    if (this.#storage === undefined) return { logEnd: 0, logEpoch: 0, isSuspect: false };
    const logEnd = this.#storage.log.endOffset;
    return { logEnd, logEpoch: this.#history.epochAt(logEnd - 1) ?? 0, isSuspect: this.#isSuspect };
  }

  /** The newest snapshot of what is committed. */
  newestSnapshot(): SnapshotToSend | undefined {
    const highWatermark = this.#storage?.log.highWatermark ?? 0;
    const all = listSnapshots(nodeDisk, this.#options.directory.path);
    return all.find(({ endOffset }) => endOffset <= highWatermark);
  }

  // ---- what is known about it: on disk when these return ----------------------------------------------------------------------------

  /** @throws {GomqError} DISK_FAILED, DATA_UNREADABLE: what was to be kept is, in memory; it is for `persist` to be called again */
  persist(clusterId = this.#clusterId, epoch = this.#epoch): void {
    this.#clusterId = clusterId;
    this.#epoch = epoch;
    const { starts } = this.#history;
    const isSuspect = this.#isSuspect;
    writeMembership(this.#options.directory.path, { clusterId, epoch, starts, isSuspect });
  }

  /** The log is a part of that of a leader, which has these epochs. @throws {GomqError} as `persist` does */
  adoptHistory(starts: readonly EpochStart[]): void {
    this.#history = new EpochHistory(starts);
    this.persist();
  }

  /** From the end of the log on everything belongs to this epoch. @throws {GomqError} as `persist` does */
  beginEpoch(epoch: number, endOffset: number): void {
    // The history may be that of a leader whose log this one has not copied to its end.
    this.#history.cut(endOffset);
    this.#history.begin(epoch, endOffset);
    this.persist();
  }

  /** The log has what it may have lacked. Answers whether that is noted: where not it stays suspect, which costs an election and nothing else. */
  trust(): boolean {
    this.#isSuspect = false;
    try {
      this.persist();
    } catch (error) {
      if (!(error instanceof GomqError)) throw error;
      this.#isSuspect = true;
      this.#options.logger.error('cannot note on disk that the log is complete', { why: error.message });
      return false;
    }
    return true;
  }

  #suspect(): void {
    this.#isSuspect = true;
    this.persist();
  }

  // ---- opening and closing ----------------------------------------------------------------------------------------------------------

  async close(): Promise<void> {
    const storage = this.#storage;
    this.#storage = undefined;
    await storage?.close();
  }

  /** Begins with the log and the state as they are on disk. */
  async reopen(): Promise<void> {
    await this.#reopen(() => undefined);
  }

  /**
   * Takes off the end of the log of a member what its leader has not. Nothing of that is committed, so nothing of it is in the state, which goes on. Where
   * it reaches into an earlier segment all is opened anew.
   */
  async cut(end: number): Promise<void> {
    const { directory, logger } = this.#options;
    const storage = this.#storage;
    assert(storage !== undefined, 'a log that is open');
    const { log, replica } = storage;
    await log.settled();
    let bytesCut = await log.cut(end);
    if (bytesCut !== undefined) {
      replica!.cut(end);
    } else {
      await this.#reopen(() => {
        bytesCut = cutLog(nodeDisk, directory.path, end);
      });
    }
    logger.warn('took off the end of the log what the leader has not', { end, bytesCut });
  }

  async #reopen(change: () => void): Promise<void> {
    const { openStorage } = this.#options;
    const storage = this.#storage;
    assert(storage !== undefined, 'a log that is open');
    const committed = storage.log.highWatermark;
    await this.close();
    change();
    const opened = await openStorage(committed, () => this.#suspect());
    if (opened.log.endOffset < committed) this.#suspect();
    this.#take(opened);
  }

  /** A snapshot of a leader takes the place of everything that is here, under another incarnation. */
  async install(
    snapshot: { readonly file: string; readonly endOffset: number },
    starts: readonly EpochStart[],
  ): Promise<void> {
    const { directory, openStorage, logger } = this.#options;
    const { endOffset } = snapshot;
    await this.close();
    // Whatever was promised of what is here is over with it.
    directory.renewIncarnation();
    beginAnew(
      directory.path,
      () => {
        this.#history = new EpochHistory(starts);
        this.#isSuspect = false;
        this.persist();
      },
      snapshot,
    );
    logger.info('begins with a snapshot of the leader', { endOffset });
    this.#take(await openStorage(endOffset, () => this.#suspect()));
  }

  /** What is here is damaged and not open: it is put aside, and an empty log begins under another incarnation. */
  async replace(): Promise<void> {
    const { directory, openStorage, logger } = this.#options;
    assert(this.#storage === undefined, 'a log that is damaged is not open');
    // First of all: an empty log must never go under the name of one that was in sync.
    directory.renewIncarnation();
    const aside = putAside(directory.path);
    this.#history = new EpochHistory();
    this.#isSuspect = false;
    this.persist();
    logger.warn('put the damaged log aside, and copies it from the leader', { aside });
    this.#take(await openStorage(0, () => this.#suspect()));
  }

  #take(storage: Storage): void {
    const { logger } = this.#options;
    this.#storage = storage;
    storage.onStateHash((offset, hash) => this.#owner?.onStateHash(offset, hash));
    storage.bind({
      // A member keeps what its leader has, and what its own state has not seen.
      neededFrom: () => Math.min(this.#owner?.leaderLogStart() ?? 0, storage.replica?.applied ?? 0),
      onLost: (from, to) =>
        logger.error('the log passed its hard limit and let go of records that the leader still has', {
          from,
          to,
        }),
    });
  }
}

/** The log of the directory, or none where it is damaged: other nodes have what is missing here. */
async function openOrNot(options: LocalLogOptions, beforeCut: () => void): Promise<Storage | undefined> {
  const { openStorage, directory, logger } = options;
  try {
    return await openStorage(readCommitted(directory.path), beforeCut);
  } catch (error) {
    if (!(error instanceof GomqError) || error.code !== 'DATA_DAMAGED') throw error;
    logger.error('the log is damaged; it is replaced by a copy as soon as another node leads', {
      why: error.message,
    });
    return undefined;
  }
}
