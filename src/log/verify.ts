// Reads everything that a data directory holds and says what is damaged. It changes nothing and takes no lock, so it may run beside the
// broker that the directory belongs to: files may grow, appear and go while it looks.
import { join } from 'node:path';
import { GomqError } from '../core/errors.js';
import { BatchReader } from './batch-reader.js';
import type { DataDirectory } from './data-directory.js';
import type { Disk, DiskFile } from './disk.js';
import { fileName, offsetsOf } from './file-names.js';
import { collectTopics, type TopicOf } from './recovery.js';
import { decodeIndex, type SegmentIndex, SegmentIndexBuilder } from './segment-index.js';
import { walkSegment } from './segment-walk.js';
import { verifySnapshot } from './snapshot-file.js';
import type { Zstd } from './zstd.js';

export interface Finding {
  /** A note is nothing that needs mending. */
  readonly kind: 'damage' | 'note';
  readonly file: string;
  readonly position: number;
  readonly what: string;
  /** The offsets that are gone, both of them too, as far as they are known. */
  readonly fromOffset?: number;
  readonly toOffset?: number;
}

export interface VerifyReport {
  segments: number;
  indexes: number;
  snapshots: number;
  batches: number;
  records: number;
  /** Read from segments and snapshots. */
  bytes: number;
  damaged: number;
}

export interface VerifyOptions {
  readonly disk: Disk;
  readonly zstd: Zstd;
  /** Where absent, the topics in the indexes are not compared with those of the records. */
  readonly topicOf?: TopicOf | undefined;
  readonly onFinding: (finding: Finding) => void;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** @throws {GomqError} DATA_UNREADABLE */
export function verifyLog(directory: string, options: VerifyOptions): VerifyReport {
  return new Verification(directory, options).run();
}

/** What `suspect` says, which the next start acts on. */
export function verifySuspect(directory: DataDirectory, onFinding: (finding: Finding) => void): void {
  const suspect = directory.readSuspect();
  if (suspect === undefined) return;
  const file = join(directory.path, fileName(suspect.segment, 'log'));
  const what = 'an fsync failed here; the next start cuts off what follows';
  onFinding({ kind: 'note', file, position: suspect.position, what });
}

class Verification {
  readonly #directory: string;
  readonly #options: VerifyOptions;
  readonly #report: VerifyReport = {
    segments: 0,
    indexes: 0,
    snapshots: 0,
    batches: 0,
    records: 0,
    bytes: 0,
    damaged: 0,
  };
  #totalBytes = 0;
  #epoch = 0;
  readonly #topics = new Set<string>();
  readonly #unreadable = new Set<string>();
  /** How far the file is read that is being read. */
  #position = 0;

  constructor(directory: string, options: VerifyOptions) {
    this.#directory = directory;
    this.#options = options;
  }

  run(): VerifyReport {
    const names = readable(this.#directory, () => this.#options.disk.list(this.#directory));
    const bases = offsetsOf(names, 'log');
    const snapshots = offsetsOf(names, 'snapshot');
    const files = [
      ...bases.map((base) => fileName(base, 'log')),
      ...snapshots.map((end) => fileName(end, 'snapshot')),
    ];
    for (const name of files) this.#totalBytes += this.#withFile(name, (file) => file.bytes) ?? 0;
    let endOffset = 0;
    bases.forEach((base, i) => {
      endOffset = this.#segment(base, bases[i + 1]) ?? endOffset;
    });
    // Where the last one cannot be read, nobody knows where the log ends.
    if (bases.length > 0 && this.#unreadable.has(fileName(bases.at(-1)!, 'log'))) endOffset = Infinity;
    for (const base of offsetsOf(names, 'index')) {
      if (base > (bases.at(-1) ?? -1)) {
        this.#damage(fileName(base, 'index'), 0, 'its segment is missing', base);
      }
    }
    const base = bases[0] ?? 0;
    let isStateThere = base === 0;
    for (const end of snapshots) {
      const isUsable = this.#snapshot(end, endOffset);
      isStateThere ||= isUsable && end >= base;
    }
    if (!isStateThere) {
      const what = `the log begins here, and no snapshot of offset ${base} or later can be used: the state before it is lost`;
      this.#damage(fileName(base, 'log'), 0, what, 0, base - 1);
    }
    return this.#report;
  }

  /** One past its last record; undefined where the segment has gone meanwhile. */
  #segment(baseOffset: number, nextOffset: number | undefined): number | undefined {
    const name = fileName(baseOffset, 'log');
    return this.#withFile(name, (file) => {
      const report = this.#report;
      const { zstd, topicOf } = this.#options;
      const reader = new BatchReader(file, file.bytes);
      const doneBefore = report.bytes;
      let index: SegmentIndexBuilder | undefined = new SegmentIndexBuilder(baseOffset);
      let endOffset = baseOffset;
      report.segments++;
      for (const step of walkSegment({ reader, zstd, baseOffset, nextOffset, epochBefore: this.#epoch })) {
        if (step.kind === 'batch') {
          const { header, position, payload } = step;
          report.batches++;
          report.records += header.recordCount;
          endOffset = header.lastOffset + 1;
          this.#epoch = header.epoch;
          if (topicOf !== undefined) collectTopics(header, payload, topicOf, this.#topics);
          index?.add({ position, header, topics: topicOf === undefined ? undefined : this.#topics });
        } else if (step.kind === 'damage') {
          this.#damage(name, step.position, step.what, step.fromOffset, step.toOffset);
          index = undefined;
        } else if (step.kind === 'tail' && !step.isZeros) {
          const what = `being written, or torn by a crash: ${step.what}`;
          this.#find({ kind: 'note', file: name, position: step.position, what, fromOffset: endOffset });
        }
        report.bytes = doneBefore + step.position;
        this.#position = step.position;
        this.#options.onProgress?.(report.bytes, this.#totalBytes);
      }
      report.bytes = doneBefore + reader.fileBytes;
      if (nextOffset !== undefined) this.#index(baseOffset, index);
      return endOffset;
    });
  }

  /** @param made from the segment; undefined where that is damaged */
  #index(baseOffset: number, made: SegmentIndex | undefined): void {
    const name = fileName(baseOffset, 'index');
    const bytes = this.#withFile(name, (file) => {
      const content = Buffer.alloc(file.bytes);
      return content.subarray(0, file.read(content, 0));
    });
    if (bytes === undefined && this.#unreadable.has(name)) return;
    if (bytes === undefined) {
      // Beside a running broker it may be about to be written.
      this.#find({
        kind: 'note',
        file: name,
        position: 0,
        what: 'missing; it is made again when it is needed',
      });
      return;
    }
    this.#report.indexes++;
    const index = decodeIndex(bytes);
    const damage =
      'damage' in index ? index.damage : made === undefined ? undefined : this.#difference(index, made);
    if (damage !== undefined) this.#damage(name, 0, `${damage}; nothing is lost with an index`);
  }

  #difference(index: SegmentIndex, made: SegmentIndex): string | undefined {
    const isSame =
      index.baseOffset === made.baseOffset &&
      index.endOffset === made.endOffset &&
      index.storedBytes === made.storedBytes &&
      index.batchCount === made.batchCount;
    if (!isSame) {
      return `it is about ${index.batchCount} batches from offset ${index.baseOffset} to ${index.endOffset} in ${index.storedBytes} bytes`;
    }
    for (let i = 0; i < made.batchCount; i++) {
      const isRight =
        index.position(i) === made.position(i) &&
        index.base(i) === made.base(i) &&
        index.timestampMs(i) === made.timestampMs(i) &&
        index.flags(i) === made.flags(i) &&
        this.#hasTopics(index, made, i);
      if (!isRight) return `it is wrong about the batch at position ${made.position(i)}`;
    }
    return undefined;
  }

  /** An index may name more topics than there are: readers only look in vain. */
  #hasTopics(index: SegmentIndex, made: SegmentIndex, batch: number): boolean {
    const ids = index.topicIds(batch);
    if (ids === undefined || this.#options.topicOf === undefined) return true;
    const madeIds = made.topicIds(batch);
    if (madeIds === undefined) return false;
    const names = new Set([...ids].map((id) => index.dictionary[id]));
    return madeIds.every((id) => names.has(made.dictionary[id]));
  }

  /** Whether a start can use it. One that has gone meanwhile gave way to newer ones, so what it was for is there. */
  #snapshot(end: number, endOffset: number): boolean {
    const name = fileName(end, 'snapshot');
    const { disk, zstd, onProgress } = this.#options;
    const report = this.#report;
    const bytes = this.#withFile(name, (file) => file.bytes);
    if (bytes === undefined) return !this.#unreadable.has(name);
    const doneBefore = report.bytes;
    const result = this.#reading(name, () =>
      verifySnapshot(disk, join(this.#directory, name), zstd, ({ recordCount }, position) => {
        report.batches++;
        report.records += recordCount;
        this.#position = position;
        onProgress?.(doneBefore + position, this.#totalBytes);
      }),
    );
    report.snapshots++;
    report.bytes = doneBefore + bytes;
    if (result === undefined) return false;
    if ('damage' in result) this.#damage(name, result.position, result.damage);
    else if (end > endOffset) this.#damage(name, 0, `the log ends before offset ${endOffset} already`);
    else return true;
    return false;
  }

  /** Undefined where the file has gone since the directory was listed: retention and new snapshots remove what is old. */
  #withFile<T>(name: string, work: (file: DiskFile) => T): T | undefined {
    return this.#reading(name, () => {
      let file: DiskFile;
      try {
        file = this.#options.disk.open(join(this.#directory, name), 'read');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw error;
      }
      try {
        return work(file);
      } finally {
        file.close();
      }
    });
  }

  /** What cannot be read is told of, once for each file, and does not hide what else there is: undefined then. */
  #reading<T>(name: string, work: () => T): T | undefined {
    this.#position = 0;
    try {
      return readable(join(this.#directory, name), work);
    } catch (error) {
      if (!(error instanceof GomqError) || error.code !== 'DATA_UNREADABLE') throw error;
      if (!this.#unreadable.has(name)) {
        this.#unreadable.add(name);
        this.#damage(name, this.#position, `cannot be read from here on: ${(error.cause as Error).message}`);
      }
      return undefined;
    }
  }

  #damage(name: string, position: number, what: string, fromOffset?: number, toOffset?: number): void {
    this.#report.damaged++;
    this.#find({
      kind: 'damage',
      file: name,
      position,
      what,
      ...(fromOffset === undefined ? {} : { fromOffset }),
      ...(toOffset === undefined ? {} : { toOffset }),
    });
  }

  #find(finding: Finding): void {
    this.#options.onFinding({ ...finding, file: join(this.#directory, finding.file) });
  }
}

/** Says what the operating system answered in the words of the project. */
export function readable<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // What has no code is a defect and not an answer of the operating system.
    if (error instanceof GomqError || code === undefined) throw error;
    throw new GomqError('DATA_UNREADABLE', `cannot read ${path}: ${message}`, { cause: error });
  }
}
