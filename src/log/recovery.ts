// Opens the log of a data directory: finds out what of it is kept, mends what a crash may leave behind, and refuses what only damage explains.
// Indexes of sealed segments are taken as they are, so that the time it takes depends on the active segment alone.
//
// A crash leaves the end of the active segment as it likes: every batch that was not on disk may be there, or not, or in part, in any order.
// Whatever was on disk before is whole. So invalid bytes are the torn tail of the log, and are cut, unless something proves that more was on
// disk behind them: a later segment, or a valid batch with the flag AfterSync. docs/LOG_FORMAT.md has the rules.
import { join } from 'node:path';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { type BatchHeader, decodePayload, prefixBytes, recordPositions } from './batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag } from './batch-format.js';
import { BatchReader } from './batch-reader.js';
import type { SuspectMarker } from './data-directory.js';
import type { Disk, DiskFile } from './disk.js';
import { DRAFT_SUFFIX, fileName, offsetsOf } from './file-names.js';
import {
  decodeIndexSummary,
  encodeIndex,
  INDEX_HEADER_BYTES,
  type IndexSummary,
  type SegmentIndex,
  SegmentIndexBuilder,
} from './segment-index.js';
import type { Zstd } from './zstd.js';

/** The topic name that a record is about, '' for none. The record is the bytes of `buffer` from `start` up to, and without, `end`. */
export type TopicOf = (buffer: Buffer, start: number, end: number) => string;

export interface RecoveryOptions {
  logger: Logger;
  topicOf: TopicOf;
  /** Tells what a failed fsync left uncertain; cleared once that is cut off. */
  suspect?: Pick<SuspectMarker, 'readSuspect' | 'clearSuspect'>;
  /** Something is about to be cut off that is no zeros: nobody who stands alone can miss it, a node of a cluster may have acknowledged it. */
  beforeCut?: () => void;
}

export interface RecoveredLog {
  /** Sealed ones, oldest first. */
  readonly segments: readonly IndexSummary[];
  /** The segment to go on with: its file is there and ends after `bytes`. */
  readonly active: {
    readonly baseOffset: number;
    readonly bytes: number;
    readonly index: SegmentIndexBuilder;
  };
  readonly startOffset: number;
  /** One past the last record. */
  readonly endOffset: number;
  /** Of the last batch; 0 where there is none. */
  readonly lastEpoch: number;
}

/**
 * Opens the log. Whoever calls it has the lock of the directory.
 * @throws {GomqError} DATA_DAMAGED, DATA_UNREADABLE
 */
export function recoverLog(
  disk: Disk,
  directory: string,
  zstd: Zstd,
  options: RecoveryOptions,
): RecoveredLog {
  return new Recovery(disk, directory, zstd, options).run();
}

/**
 * Makes the index of a sealed segment again, in place of one that is missing or damaged. Where it cannot be written it is in memory at least.
 * @throws {GomqError} DATA_DAMAGED where the segment is damaged, DATA_UNREADABLE
 */
export function rebuildIndex(
  disk: Disk,
  directory: string,
  baseOffset: number,
  zstd: Zstd,
  options: Pick<RecoveryOptions, 'logger' | 'topicOf'>,
): SegmentIndex {
  return new Recovery(disk, directory, zstd, options).rebuild(baseOffset).build();
}

/** What the error of damage says everywhere: the file, the position, the offsets that should be there, and what is wrong. */
export function damageError(path: string, position: number, offsets: string, what: string): GomqError {
  return new GomqError('DATA_DAMAGED', `${path} is damaged at position ${position}, at ${offsets}: ${what}`, {
    hint: `Run \`gomq log verify ${join(path, '..')}\` to see all that is damaged, and bring the file back from a copy.`,
  });
}

/** Reads the topics of the records in a decoded payload into `topics`. */
export function collectTopics(
  header: BatchHeader,
  payload: Buffer,
  topicOf: TopicOf,
  topics: Set<string>,
): void {
  const positions = recordPositions(header, payload);
  const prefix = prefixBytes(header.flags);
  topics.clear();
  for (let i = 0; i < header.recordCount; i++) {
    topics.add(topicOf(payload, positions[i]!, positions[i + 1]! - prefix));
  }
}

/** What is wrong with a valid header for the place it is in, apart from its offset. */
export function misplaced(header: BatchHeader, lastEpoch: number): string | undefined {
  if ((header.flags & BatchFlag.Snapshot) !== 0) return 'a batch of a snapshot';
  if (header.epoch < lastEpoch) return `epoch ${header.epoch} after ${lastEpoch}`;
  return undefined;
}

/** Where a scan stopped. */
interface Stop {
  readonly position: number;
  /** What is wrong there; undefined at the end of the file. */
  readonly damage: string | undefined;
  readonly isIntended: boolean;
  /** Of the batch at the position, where it is valid. */
  readonly header: BatchHeader | undefined;
}

class Recovery {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #zstd: Zstd;
  readonly #options: RecoveryOptions;
  readonly #topics = new Set<string>();

  constructor(disk: Disk, directory: string, zstd: Zstd, options: RecoveryOptions) {
    this.#disk = disk;
    this.#directory = directory;
    this.#zstd = zstd;
    this.#options = options;
  }

  run(): RecoveredLog {
    return this.#readable(this.#directory, () => {
      const names = this.#disk.list(this.#directory);
      for (const name of names) if (name.endsWith(DRAFT_SUFFIX)) this.#disk.remove(this.#path(name));
      const bases = offsetsOf(names, 'log');
      if (bases.length === 0) this.#createFirst(names, bases);
      const suspect = this.#options.suspect?.readSuspect();
      if (suspect !== undefined) this.#cutSuspect(suspect, bases);
      const segments = bases.slice(0, -1).map((base) => this.#summary(base));
      this.#checkFollowing(segments, bases);
      const index = this.#scanActive(bases.at(-1)!, segments.at(-1)?.lastEpoch ?? 0);
      this.#checkEnd(names, bases, index.endOffset);
      if (suspect !== undefined) this.#options.suspect?.clearSuspect();
      return {
        segments,
        active: { baseOffset: index.baseOffset, bytes: index.storedBytes, index },
        startOffset: bases[0]!,
        endOffset: index.endOffset,
        lastEpoch: index.batchCount > 0 ? index.lastEpoch : (segments.at(-1)?.lastEpoch ?? 0),
      };
    });
  }

  rebuild(baseOffset: number): SegmentIndexBuilder {
    const name = fileName(baseOffset, 'log');
    return this.#readable(this.#path(name), () => {
      const builder = new SegmentIndexBuilder(baseOffset);
      const file = this.#disk.open(this.#path(name), 'write');
      try {
        const reader = new BatchReader(file, file.bytes);
        const stop = this.#scan(reader, builder, 0);
        if (stop.damage !== undefined) {
          // Zeros that were there ahead of time are cut off with the seal, but nothing is lost with them.
          if (reader.endOfData(stop.position) > stop.position)
            throw this.#damage(name, stop, builder.endOffset);
          file.truncate(stop.position);
          file.sync();
        }
      } finally {
        file.close();
      }
      this.#writeIndex(builder);
      return builder;
    });
  }

  #createFirst(names: readonly string[], bases: number[]): void {
    const snapshot = offsetsOf(names, 'snapshot').at(-1);
    if (snapshot !== undefined) {
      throw this.#missing(`there are snapshots up to offset ${snapshot}, and no segment`);
    }
    this.#disk.open(this.#path(fileName(0, 'log')), 'create').close();
    this.#disk.syncDirectory(this.#directory);
    bases.push(0);
  }

  /** Nothing behind what is known to be kept was acknowledged, and what the disk shows of it now it may have forgotten after the next crash. */
  #cutSuspect(suspect: { segment: number; position: number }, bases: number[]): void {
    const at = bases.indexOf(suspect.segment);
    const name = fileName(suspect.segment, 'log');
    // A segment that was just begun when the disk failed.
    for (const base of bases.slice(at + 1)) {
      const file = this.#path(fileName(base, 'log'));
      if (at === -1 || this.#bytesOf(file) > 0) {
        const what = `an fsync failed at position ${suspect.position} of ${name}, yet ${fileName(base, 'log')} follows`;
        throw this.#missing(what);
      }
      this.#disk.remove(file);
      bases.pop();
    }
    if (at === -1) throw this.#missing(`an fsync failed in ${name}, which is not there`);
    this.#disk.syncDirectory(this.#directory);
    const path = this.#path(name);
    const bytes = this.#bytesOf(path);
    if (bytes > suspect.position) {
      this.#options.beforeCut?.();
      this.#cut(path, suspect.position);
    }
    this.#options.logger.warn(
      'an fsync failed when gomq last ran: what it left uncertain is cut off the log',
      {
        file: path,
        position: suspect.position,
        bytesCut: Math.max(0, bytes - suspect.position),
      },
    );
  }

  /** From the index where it is there and fits, else from the segment. */
  #summary(baseOffset: number): IndexSummary {
    const path = this.#path(fileName(baseOffset, 'index'));
    const segmentBytes = this.#bytesOf(this.#path(fileName(baseOffset, 'log')));
    const summary = this.#readSummary(path);
    const damage =
      'damage' in summary
        ? summary.damage
        : summary.baseOffset !== baseOffset || summary.storedBytes !== segmentBytes
          ? `it is about ${summary.storedBytes} bytes from offset ${summary.baseOffset}, and there are ${segmentBytes}`
          : undefined;
    if (damage === undefined) return summary as IndexSummary;
    this.#options.logger.warn('the index of a segment cannot be used and is made again', {
      file: path,
      damage,
    });
    return this.rebuild(baseOffset).build();
  }

  /** An index that cannot be read is as good as damaged: all that is in it is in the segment too. */
  #readSummary(path: string): IndexSummary | { damage: string } {
    let file: DiskFile | undefined;
    try {
      file = this.#disk.open(path, 'read');
      const header = Buffer.alloc(INDEX_HEADER_BYTES);
      const length = file.read(header, 0);
      return decodeIndexSummary(header.subarray(0, length), file.bytes);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // What has no code is a defect and not an answer of the operating system.
      if (code === undefined) throw error;
      return { damage: code === 'ENOENT' ? 'it is missing' : `it cannot be read: ${message}` };
    } finally {
      file?.close();
    }
  }

  #checkFollowing(segments: readonly IndexSummary[], bases: readonly number[]): void {
    segments.forEach(({ endOffset, lastEpoch }, i) => {
      const next = bases[i + 1]!;
      const name = fileName(bases[i]!, 'log');
      if (endOffset < next) {
        const what = `offsets ${endOffset} to ${next - 1} are missing: ${name} ends before them, and ${fileName(next, 'log')} follows`;
        throw this.#missing(what);
      }
      if (endOffset > next) {
        throw this.#missing(
          `${name} ends before offset ${endOffset}, and ${fileName(next, 'log')} follows, which begins before that`,
        );
      }
      const epochAfter = segments[i + 1]?.lastEpoch;
      if (epochAfter !== undefined && epochAfter < lastEpoch) {
        throw this.#missing(
          `${fileName(next, 'log')} ends in epoch ${epochAfter}, and ${name} in ${lastEpoch}`,
        );
      }
    });
  }

  /** Segments that are missing at the end leave traces: what was made from them. */
  #checkEnd(names: readonly string[], bases: readonly number[], endOffset: number): void {
    const snapshot = offsetsOf(names, 'snapshot').at(-1) ?? 0;
    if (snapshot > endOffset) {
      throw this.#missing(
        `the log ends before offset ${endOffset}, and there is a snapshot up to ${snapshot}`,
      );
    }
    const sealed = new Set(bases.slice(0, -1));
    for (const base of offsetsOf(names, 'index')) {
      if (sealed.has(base)) continue;
      if (base > bases.at(-1)!) {
        throw this.#missing(`there is ${fileName(base, 'index')}, and no ${fileName(base, 'log')}`);
      }
      // Retention removes a segment before its index; and the active one has none that stays true.
      this.#disk.remove(this.#path(fileName(base, 'index')));
    }
  }

  #scanActive(baseOffset: number, epochBefore: number): SegmentIndexBuilder {
    const name = fileName(baseOffset, 'log');
    const path = this.#path(name);
    const builder = new SegmentIndexBuilder(baseOffset);
    const file = this.#disk.open(path, 'write');
    try {
      const reader = new BatchReader(file, file.bytes);
      const stop = this.#scan(reader, builder, epochBefore);
      if (stop.damage !== undefined) {
        this.#judge(name, reader, stop, builder);
        file.truncate(stop.position);
        file.sync();
      }
      return builder;
    } finally {
      file.close();
    }
  }

  /** Throws where the bytes at `stop` are damage; says what is cut where a crash explains them. */
  #judge(name: string, reader: BatchReader, stop: Stop, { endOffset, lastEpoch }: SegmentIndex): void {
    if (stop.isIntended) throw this.#damage(name, stop, endOffset);
    // What looks like a batch inside the payload of one is none.
    const next = stop.header === undefined ? 1 : BATCH_HEADER_BYTES + stop.header.storedBytes;
    const offsetMin = stop.header === undefined ? endOffset : stop.header.lastOffset + 1;
    const follower = reader.find(
      stop.position + next,
      (header) =>
        header.baseOffset >= offsetMin &&
        (header.flags & BatchFlag.AfterSync) !== 0 &&
        misplaced(header, lastEpoch) === undefined,
    );
    if (follower !== undefined) {
      const header = reader.header(follower) as BatchHeader;
      throw this.#damage(
        name,
        stop,
        endOffset,
        `a batch follows at position ${follower} that was written when all before it was on disk`,
        header.baseOffset,
      );
    }
    const { logger } = this.#options;
    const end = reader.endOfData(stop.position);
    const fields = { file: this.#path(name), position: stop.position, bytesCut: end - stop.position };
    if (end === stop.position) {
      logger.info('the log ends in zeros, which are cut off', fields);
      return;
    }
    const offsets =
      stop.header === undefined
        ? { fromOffset: endOffset }
        : { fromOffset: endOffset, toOffset: stop.header.lastOffset };
    this.#options.beforeCut?.();
    logger.warn('the log ends in a batch that is not whole, which is cut off', {
      ...fields,
      ...offsets,
      damage: stop.damage,
    });
  }

  /** Adds batch after batch to the index until something is wrong or the file ends. */
  #scan(reader: BatchReader, builder: SegmentIndexBuilder, epochBefore: number): Stop {
    let position = 0;
    let epoch = epochBefore;
    while (position < reader.fileBytes) {
      const batch = reader.read(position);
      if ('damage' in batch) {
        return { position, damage: batch.damage, isIntended: batch.isIntended, header: batch.header };
      }
      const { header, bytes } = batch;
      const damage =
        header.baseOffset === builder.endOffset
          ? misplaced(header, epoch)
          : `a batch from offset ${header.baseOffset}`;
      if (damage !== undefined) return { position, damage, isIntended: true, header };
      const payload = decodePayload(this.#zstd, header, bytes);
      if ('damage' in payload) return { position, damage: payload.damage, isIntended: false, header };
      collectTopics(header, payload, this.#options.topicOf, this.#topics);
      builder.add({ position, header, topics: this.#topics });
      epoch = header.epoch;
      position += bytes.length;
    }
    return { position, damage: undefined, isIntended: false, header: undefined };
  }

  /** The segment is whole without its index, so a disk that refuses one is no reason not to start. */
  #writeIndex(index: SegmentIndex): void {
    const path = this.#path(fileName(index.baseOffset, 'index'));
    try {
      writeWhole(this.#disk, this.#directory, path, encodeIndex(index));
    } catch (error) {
      this.#options.logger.warn('the index of a segment cannot be written', { file: path, error });
    }
  }

  #cut(path: string, bytes: number): void {
    const file = this.#disk.open(path, 'write');
    try {
      file.truncate(bytes);
      file.sync();
    } finally {
      file.close();
    }
  }

  #bytesOf(path: string): number {
    const file = this.#disk.open(path, 'read');
    try {
      return file.bytes;
    } finally {
      file.close();
    }
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }

  #damage(name: string, stop: Stop, endOffset: number, follows?: string, nextOffset?: number): GomqError {
    const last = nextOffset === undefined ? stop.header?.lastOffset : nextOffset - 1;
    const offsets =
      last === undefined
        ? `offset ${endOffset} and on`
        : last > endOffset
          ? `offsets ${endOffset} to ${last}`
          : `offset ${endOffset}`;
    const what = follows === undefined ? stop.damage! : `${stop.damage}; ${follows}`;
    return damageError(this.#path(name), stop.position, offsets, what);
  }

  #missing(what: string): GomqError {
    return new GomqError('DATA_DAMAGED', `the log in ${this.#directory} is not whole: ${what}`, {
      hint: `Run \`gomq log verify ${this.#directory}\` to see all that is damaged, and bring the files back from a copy.`,
    });
  }

  #readable<T>(path: string, work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (error instanceof GomqError) throw error;
      const { code, message } = error as NodeJS.ErrnoException;
      // What has no code is a defect and not an answer of the operating system.
      if (code === undefined) throw error;
      throw new GomqError('DATA_UNREADABLE', `cannot read the log in ${path}: ${message}`, { cause: error });
    }
  }
}

/** Writes a file that is there as a whole or not at all. */
function writeWhole(disk: Disk, directory: string, path: string, bytes: Uint8Array): void {
  const draft = `${path}${DRAFT_SUFFIX}`;
  removeIfThere(disk, draft);
  const file = disk.open(draft, 'create');
  try {
    file.write(bytes, 0);
    file.sync();
  } finally {
    file.close();
  }
  disk.rename(draft, path);
  disk.syncDirectory(directory);
}

export function removeIfThere(disk: Disk, path: string): void {
  try {
    disk.remove(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
