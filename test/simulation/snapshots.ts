// Snapshots in simulated time. They go through the sender and the receiver of src/replication, which ask files for pieces of them: here they ask this
// file, which knows what the pieces are of and when a disk has had its time. Nothing of it touches a real file.
import type { EpochStart } from '../../src/log/epoch-history.js';
import type { LinkToMember } from '../../src/replication/peer-link.js';
import {
  SnapshotIntake,
  SnapshotSender,
  type SnapshotToSend,
} from '../../src/replication/snapshot-transfer.js';
import type { LogRecord } from './directory.js';
import type { Life, World } from './world.js';

/** Made at the offsets that it divides, on whatever machine, as segments are sealed at the same ones. */
export const SNAPSHOT_RECORDS = 16;
/** Pieces of each, so that what ends a link ends it in the middle of one as well. */
const CHUNKS = 3;
/** No file has that name: what asks for it is refused before it comes to a disk. */
export const NO_FILE = '\0';

/** The state that the records before an offset make. */
export interface Snapshot {
  readonly endOffset: number;
  /** Names how it is not what they make; '' where it is. */
  readonly flaw: string;
}

/** Whose disk takes its time. */
export interface Disk {
  readonly world: World;
  readonly life: Life;
  readonly slowMs: () => number;
}

/** One that is to be sent. */
export interface OutgoingSnapshot extends SnapshotToSend, Snapshot, Disk {
  readonly records: readonly LogRecord[];
  readonly link: LinkToMember;
  readonly epoch: number;
}

/** By the bytes of their pieces. */
const contents = new WeakMap<Buffer, OutgoingSnapshot>();
const DONE = Promise.resolve();
let taking: Disk | undefined;

export function snapshotOf(bytes: Buffer): OutgoingSnapshot {
  return contents.get(bytes)!;
}

/** What an intake writes while `work` runs goes to this disk. */
export function takeWith(disk: Disk, work: () => void): void {
  taking = disk;
  try {
    work();
  } finally {
    taking = undefined;
  }
}

SnapshotSender.prototype.send = (snapshot: SnapshotToSend, history: readonly EpochStart[]) => {
  const { world, life, slowMs, link, epoch, endOffset } = snapshot as OutgoingSnapshot;
  let chunks = 0;
  link.send({ type: 'snapshotBegin', epoch, endOffset, bytes: CHUNKS, history });
  const next = (): void =>
    world.after(world.delay(0.5, slowMs()), life, () => {
      if (chunks++ === CHUNKS) {
        link.send({ type: 'snapshotEnd', epoch });
        return;
      }
      const bytes = Buffer.alloc(1);
      contents.set(bytes, snapshot as OutgoingSnapshot);
      if (link.send({ type: 'snapshotChunk', epoch, bytes })) next();
    });
  next();
  return DONE;
};

SnapshotIntake.prototype.write = () => later(() => undefined);

SnapshotIntake.prototype.end = () => {
  const { world, life, slowMs } = taking!;
  return later((done) => world.after(world.delay(0.1, slowMs()), life, done));
};

SnapshotIntake.prototype.abort = () => DONE;

/** Answers like a promise, as SimulatedLog does. */
function later(then: (done: () => void) => void): Promise<void> {
  return { then } as unknown as Promise<void>;
}
