// The state of a leader on its way to a member that is behind the beginning of the log: the newest snapshot, as the file that it is. It is read and
// written piece by piece, so that neither side holds more than a few of them.
import { type FileHandle, open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { GomqError } from '../core/errors.js';
import type { EpochStart } from '../log/epoch-history.js';
import { damageError } from '../log/recovery.js';
import { verifyInTurns } from '../log/snapshot-file.js';
import { loadZstd } from '../log/zstd.js';
import type { LinkToMember } from './peer-link.js';

const CHUNK_BYTES = 256 * 1024;

export interface SnapshotToSend {
  readonly path: string;
  readonly endOffset: number;
}

export class SnapshotSender {
  readonly #link: LinkToMember;
  readonly #epoch: number;
  readonly #abort = new AbortController();
  #drained: (() => void) | undefined = undefined;
  #isClosed = false;

  constructor(link: LinkToMember, epoch: number) {
    this.#link = link;
    this.#epoch = epoch;
  }

  /** Resolves when all is sent. @throws {GomqError} DATA_DAMAGED; what the operating system answers */
  async send({ path, endOffset }: SnapshotToSend, history: readonly EpochStart[]): Promise<void> {
    const link = this.#link;
    const epoch = this.#epoch;
    // Nobody has read it since it was written, and a member would find out only when it has all of it.
    const found = await verifyInTurns(path, endOffset, await loadZstd(), this.#abort.signal);
    if ('damage' in found) throw damageError(path, found.position, 'a batch of a snapshot', found.damage);
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      link.send({ type: 'snapshotBegin', epoch, endOffset, bytes: size, history });
      for (let position = 0; position < size && !this.#isClosed; ) {
        const bytes = Buffer.allocUnsafeSlow(Math.min(CHUNK_BYTES, size - position));
        const { bytesRead } = await file.read(bytes, 0, bytes.length, position);
        if (bytesRead === 0) throw new Error(`${path} ends at ${position} of ${size}`);
        position += bytesRead;
        const hasRoom = link.send({ type: 'snapshotChunk', epoch, bytes: bytes.subarray(0, bytesRead) });
        if (!hasRoom && !this.#isClosed) await new Promise<void>((resolve) => (this.#drained = resolve));
      }
      if (!this.#isClosed) link.send({ type: 'snapshotEnd', epoch });
    } finally {
      await file.close();
    }
  }

  onDrain(): void {
    this.#drained?.();
    this.#drained = undefined;
  }

  close(): void {
    this.#isClosed = true;
    this.#abort.abort();
    this.onDrain();
  }
}

/** Writes what arrives into a file. Pieces are taken in order, one after the other. */
export class SnapshotIntake {
  readonly endOffset: number;
  readonly #path: string;
  readonly #bytesMax: number;
  readonly #file: Promise<FileHandle>;
  readonly #abort = new AbortController();
  #work: Promise<void> = Promise.resolve();
  #position = 0;
  #waitingBytes = 0;
  #isEnding = false;

  /**
   * @param bytesMax what the sender has announced
   * @param roomBytes asked for how much there is room: where it is less nothing is begun, and the first piece fails
   */
  constructor(path: string, endOffset: number, bytesMax: number, roomBytes: () => number) {
    this.endOffset = endOffset;
    this.#path = path;
    this.#bytesMax = bytesMax;
    this.#file = openWithRoom(path, bytesMax, roomBytes);
    this.#work = this.#file.then(() => undefined);
    // Whoever waits for a piece or for the end is told; until then nobody is there to be.
    this.#work.catch(() => undefined);
  }

  /** Bytes that are not written yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** Resolves when it is written. @throws {GomqError} PEER_PROTOCOL; rejects with DISK_FULL, or what the operating system answers */
  write(bytes: Buffer): Promise<void> {
    // It would count nowhere, and cost as much as any other piece.
    if (bytes.length === 0) throw new GomqError('PEER_PROTOCOL', 'a piece of a snapshot with nothing in it');
    const position = this.#position;
    this.#position += bytes.length;
    if (this.#position > this.#bytesMax) {
      throw new GomqError('PEER_PROTOCOL', `a snapshot of ${this.#bytesMax} bytes that goes on`);
    }
    this.#waitingBytes += bytes.length;
    this.#work = this.#work.then(async () => {
      await (await this.#file).write(bytes, 0, bytes.length, position);
      this.#waitingBytes -= bytes.length;
    });
    this.#work.catch(() => undefined);
    return this.#work;
  }

  /**
   * All is there; resolves when it is on disk, and was read again and found to be whole: for it everything is given up that the member has.
   * @throws {GomqError} PEER_PROTOCOL; what the operating system answers
   */
  async end(): Promise<void> {
    if (this.#isEnding) throw new GomqError('PEER_PROTOCOL', 'a snapshot that ends twice');
    this.#isEnding = true;
    if (this.#position !== this.#bytesMax) {
      throw new GomqError(
        'PEER_PROTOCOL',
        `a snapshot of ${this.#bytesMax} bytes that ends after ${this.#position}`,
      );
    }
    await this.#work;
    const file = await this.#file;
    await file.sync();
    await file.close();
    const found = await verifyInTurns(this.#path, this.endOffset, await loadZstd(), this.#abort.signal);
    if (!('damage' in found)) return;
    const { position, damage } = found;
    throw new GomqError(
      'PEER_PROTOCOL',
      `the leader's snapshot is damaged at position ${position}: ${damage}`,
    );
  }

  /** Gives up what has come, and leaves nothing of it behind: each try has a file of its own, and many of them would fill the disk. */
  async abort(): Promise<void> {
    this.#abort.abort();
    // Whoever waited for a piece that could not be written was told. The file is open all the same.
    await this.#work.catch(() => undefined);
    let file: FileHandle;
    try {
      file = await this.#file;
    } catch {
      // Nothing was begun, so whatever has that name is somebody else's.
      return;
    }
    // What the disk does not let go of goes at the next start, like all that is not complete.
    await Promise.allSettled([file.close(), rm(this.#path, { force: true })]);
  }
}

async function openWithRoom(path: string, bytes: number, roomBytes: () => number): Promise<FileHandle> {
  const room = roomBytes();
  if (bytes > room) {
    const message = `the leader's snapshot takes ${bytes} bytes, and in ${dirname(path)} there is room for ${room}`;
    throw new GomqError('DISK_FULL', message);
  }
  return open(path, 'w', 0o600);
}
