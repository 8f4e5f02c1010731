// What a node has on disk: the log, the epoch it has promised to, how far it knew the log to be committed. It keeps no more than it promised: what
// was written outlives the process, what was synced outlives the machine, and of the rest the seed says what is left.
import { encodeBatch } from '../../src/log/batch-codec.js';
import type { Membership } from '../../src/log/membership.js';
import type { EncodedBatch } from '../../src/log/stored-batches.js';
import type { Snapshot } from './snapshots.js';
import type { World } from './world.js';

/** A record, which is a batch by itself. There is one object of each, wherever it is copied to. */
export interface LogRecord {
  readonly epoch: number;
  readonly offset: number;
  /** What a client published, or 'begin' of an epoch. */
  readonly content: string;
  /** The one before it in the log of the leader that made it. */
  readonly previous: LogRecord | undefined;
  readonly batch: EncodedBatch;
}

/** By the bytes of their batches. */
const records = new WeakMap<Buffer, LogRecord>();
const PAYLOAD = Buffer.from([1, 0, 0, 0, 0]);

const SNAPSHOTS_KEPT = 2;

export function makeRecord(
  epoch: number,
  offset: number,
  content: string,
  previous: LogRecord | undefined,
): LogRecord {
  const header = { flags: 0, epoch, baseOffset: offset, lastOffset: offset, timestampMs: 1, recordCount: 1 };
  const bytes = encodeBatch(undefined, header, PAYLOAD);
  const batch = { baseOffset: offset, endOffset: offset + 1, bytes, topics: undefined };
  const record = { epoch, offset, content, previous, batch };
  records.set(bytes, record);
  return record;
}

export function recordOf(bytes: Buffer): LogRecord {
  return records.get(bytes)!;
}

export class Directory {
  readonly node: string;
  readonly incarnation: string;
  readonly #world: World;
  membership: Membership | undefined = undefined;
  /** Where its log begins: what is before has been let go of, and stands in `file` for the state that the snapshots have of it. */
  start = 0;
  /** The two newest, the newest at the end. */
  snapshots: Snapshot[] = [];
  /** Of each snapshot that is made from now on. */
  flaw = '';
  /** The log is being begun anew: nothing that is here is to be believed. */
  isBeginningAnew = false;
  /** As the operating system shows it; the index is the offset. */
  file: LogRecord[] = [];
  /** As much of it is on the platter. */
  syncedEnd = 0;
  committed = 0;
  #committedOnDisk = 0;
  /** Behind the last whole record there is a part of one, and nobody can say of what. */
  isTorn = false;
  /** It lacks what was synced. */
  hasRotted = false;
  /** In the middle of the log there is something that nobody can read. */
  isDamaged = false;
  /** Not where its machine looks for it. */
  isAway = false;
  /** Gone for good. */
  isLost = false;

  constructor(world: World, node: string) {
    this.#world = world;
    this.node = node;
    this.incarnation = world.draw(`${node}.`);
  }

  get isThere(): boolean {
    return !this.isLost && !this.isAway && !this.isDamaged;
  }

  get isSuspect(): boolean {
    return this.membership?.isSuspect ?? false;
  }

  /** Records of which there is more than the state. */
  get length(): number {
    return this.file.length - this.start;
  }

  /** Whether this very record is on the platter. */
  hasSynced(record: LogRecord): boolean {
    return record.offset < this.syncedEnd && this.file[record.offset] === record;
  }

  sync(end: number): void {
    this.syncedEnd = Math.max(this.syncedEnd, Math.min(end, this.file.length));
  }

  truncate(end: number): void {
    this.file.length = Math.min(this.file.length, end);
    this.syncedEnd = Math.min(this.syncedEnd, end);
  }

  /** The newest snapshot that the log reaches. */
  get newestSnapshot(): Snapshot | undefined {
    return this.snapshots.findLast(({ endOffset }) => endOffset <= this.file.length);
  }

  /** What is before may be let go of. */
  get snapshotFloor(): number {
    return this.snapshots.at(-SNAPSHOTS_KEPT)?.endOffset ?? 0;
  }

  /** Its state is not what the log makes, or will not be. */
  get hasErred(): boolean {
    return this.flaw !== '' || this.snapshots.some(({ flaw }) => flaw !== '');
  }

  addSnapshot(snapshot: Snapshot): void {
    this.snapshots = [...this.snapshots, snapshot].slice(-SNAPSHOTS_KEPT);
  }

  /** The same directory under another name. */
  takeOver(former: Directory): void {
    this.start = former.start;
    this.snapshots = former.snapshots;
    this.flaw = former.flaw;
    this.file = former.file;
    this.syncedEnd = former.syncedEnd;
    this.committed = former.committed;
    this.#committedOnDisk = former.#committedOnDisk;
    former.file = [];
    former.syncedEnd = 0;
  }

  /** A log of which there is nothing but a snapshot, or not even that. */
  beginAnew(snapshot?: Snapshot & { readonly records: readonly LogRecord[] }): void {
    this.file = [...(snapshot?.records ?? [])];
    this.start = this.file.length;
    this.syncedEnd = this.start;
    this.committed = this.start;
    this.#committedOnDisk = this.start;
    this.snapshots = snapshot === undefined ? [] : [{ endOffset: snapshot.endOffset, flaw: snapshot.flaw }];
    this.flaw = snapshot?.flaw ?? '';
  }

  /** What an operating system does by itself now and then. */
  writeBack(): void {
    this.#committedOnDisk = this.committed;
  }

  /** @param writing what was about to be written */
  onKilled(writing: readonly LogRecord[], mayTear: boolean): void {
    const written = this.#world.random.integer(0, writing.length);
    this.file.push(...writing.slice(0, written));
    this.isTorn ||= written < writing.length && mayTear && this.#world.random.chance(0.3);
  }

  onPowerLoss(writing: readonly LogRecord[], mayTear: boolean): void {
    const { random } = this.#world;
    const unsynced = this.file.length - this.syncedEnd + writing.length;
    this.file.push(...writing);
    this.file.length = this.syncedEnd + random.integer(0, unsynced);
    this.isTorn ||= unsynced > 0 && mayTear && random.chance(0.5);
    this.syncedEnd = this.file.length;
    if (random.chance(0.5)) this.committed = this.#committedOnDisk;
  }

  /** The last records can no longer be read. */
  rotEnd(count: number): void {
    this.truncate(this.file.length - count);
    this.isTorn = true;
    this.hasRotted = true;
    // The state before the log is in no snapshot that is as old as what is left of it.
    this.isDamaged ||= (this.newestSnapshot?.endOffset ?? 0) < this.start;
  }
}
