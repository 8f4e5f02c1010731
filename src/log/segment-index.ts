// Owns the index of a segment: where each batch lies, what it covers and which topics it is about, so that readers pass over batches they do
// not want without touching them. It grows beside the active segment and becomes a file beside a sealed one. A segment without its index has
// lost nothing: the index is made again from the segment.
//
// The file; numbers are little-endian, and a u64 is never above 2^53 - 1:
//
//      0  magic               u32   'GMQI'
//      4  version             u32   1
//      8  base offset         u64   of the segment
//     16  end offset          u64   one past its last record
//     24  segment bytes       u64   length of the segment's file
//     32  first timestamp     u64   of its first batch
//     40  last timestamp      u64   of its last batch
//     48  last epoch          u64
//     56  batch count         u32   n
//     60  topic id count      u32   t
//     64  dictionary count    u32
//     68  dictionary bytes    u32
//     72  body CRC-32         u32   over everything from 80
//     76  header CRC-32       u32   over bytes 0 to 75
//     80  timestamps          n u64
//         batch bytes         n u32   header and stored payload
//         record counts       n u32
//         flags               n u16   see BatchFlag
//         topic counts        n u16   0xffff: any topic
//         topic ids           t u16   of the first batch, then of the second, ...
//         dictionary                  per name its length as u16, then UTF-8
import { crc32 } from 'node:zlib';
import { assert } from '../core/assert.js';
import { type BatchHeader, readUint64, writeUint64 } from './batch-codec.js';
import { BATCH_HEADER_BYTES } from './batch-format.js';

const MAGIC = 0x49514d47;
const VERSION = 1;
export const INDEX_HEADER_BYTES = 80;
/** A batch about more topics than this is worth reading for everybody. */
const BATCH_TOPICS_MAX = 1024;
const DICTIONARY_NAMES_MAX = 65_536;
const DICTIONARY_BYTES_MAX = 16 * 1024 * 1024;
const NAME_BYTES_MAX = 0xffff;
/** In the file, instead of a number of topics. */
const ANY_TOPIC = 0xffff;
const UINT32_MAX = 0xffff_ffff;
/** What a name costs in memory beyond its characters, about. */
const NAME_MEMORY_BYTES = 32;

const At = {
  magic: 0,
  version: 4,
  baseOffset: 8,
  endOffset: 16,
  segmentBytes: 24,
  firstTimestamp: 32,
  lastTimestamp: 40,
  lastEpoch: 48,
  batchCount: 56,
  topicIdCount: 60,
  dictionaryCount: 64,
  dictionaryBytes: 68,
  bodyCrc: 72,
  headerCrc: 76,
} as const;

/** What is known of a segment without its batches: the header of the index. */
export interface IndexSummary {
  readonly baseOffset: number;
  /** One past the last record. */
  readonly endOffset: number;
  /** Length of the segment's file. */
  readonly storedBytes: number;
  readonly firstTimestampMs: number;
  readonly lastTimestampMs: number;
  readonly lastEpoch: number;
  readonly batchCount: number;
}

/** One entry per batch in each array; the two that say where a batch begins have one more, for where the last one ends. */
interface Columns {
  count: number;
  positions: Uint32Array;
  bases: Float64Array;
  timestamps: Float64Array;
  flags: Uint16Array;
  /** 1 where the batch may be about any topic. */
  any: Uint8Array;
  /** Where the topics of a batch begin in `ids`. */
  idStarts: Uint32Array;
  ids: Uint16Array;
  dictionary: string[];
  dictionaryBytes: number;
  lastEpoch: number;
}

/** A batch is named by its place in the segment, from 0. Only batches that are there may be asked about. */
export class SegmentIndex implements IndexSummary {
  readonly #columns: Columns;

  constructor(columns: Columns) {
    this.#columns = columns;
  }

  get baseOffset(): number {
    return this.#columns.bases[0]!;
  }

  get endOffset(): number {
    return this.#columns.bases[this.#columns.count]!;
  }

  get storedBytes(): number {
    return this.#columns.positions[this.#columns.count]!;
  }

  /** 0 where there is no batch. */
  get firstTimestampMs(): number {
    return this.#columns.count === 0 ? 0 : this.#columns.timestamps[0]!;
  }

  /** Of the last batch; 0 where there is none. */
  get lastTimestampMs(): number {
    return this.#columns.count === 0 ? 0 : this.#columns.timestamps[this.#columns.count - 1]!;
  }

  /** Of the last batch; 0 where there is none. */
  get lastEpoch(): number {
    return this.#columns.lastEpoch;
  }

  get batchCount(): number {
    return this.#columns.count;
  }

  /** What it keeps in memory, about. */
  get memoryBytes(): number {
    const { positions, bases, timestamps, flags, any, idStarts, ids, dictionary, dictionaryBytes } =
      this.#columns;
    const arrays = [positions, bases, timestamps, flags, any, idStarts, ids];
    const names = dictionaryBytes + dictionary.length * NAME_MEMORY_BYTES;
    return arrays.reduce((sum, array) => sum + array.byteLength, names);
  }

  /** Every topic name of the segment that has an id, by id. A growing index appends to it. */
  get dictionary(): readonly string[] {
    return this.#columns.dictionary;
  }

  /** The batch that holds an offset of the segment. */
  batchOf(offset: number): number {
    const { bases, count } = this.#columns;
    assert(
      offset >= bases[0]! && offset < bases[count]!,
      `offset ${offset} in the segment from ${bases[0]} to ${bases[count]}`,
    );
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (bases[middle]! <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Where its header begins in the file of the segment. */
  position(batch: number): number {
    return this.#columns.positions[batch]!;
  }

  /** Header and stored payload. */
  batchBytes(batch: number): number {
    return this.#columns.positions[batch + 1]! - this.#columns.positions[batch]!;
  }

  /** Offset of its first record. */
  base(batch: number): number {
    return this.#columns.bases[batch]!;
  }

  /** One past the offset of its last record. */
  end(batch: number): number {
    return this.#columns.bases[batch + 1]!;
  }

  timestampMs(batch: number): number {
    return this.#columns.timestamps[batch]!;
  }

  /** See BatchFlag. */
  flags(batch: number): number {
    return this.#columns.flags[batch]!;
  }

  /** Places in the dictionary, each once; undefined where the batch may be about any topic. Empty: none of its records has a topic. */
  topicIds(batch: number): Uint16Array | undefined {
    const { any, ids, idStarts } = this.#columns;
    return any[batch] === 1 ? undefined : ids.subarray(idStarts[batch]!, idStarts[batch + 1]!);
  }
}

export interface IndexEntry {
  position: number;
  header: BatchHeader;
  /** Of its records, '' for those that are about none; undefined: any. */
  topics: Iterable<string> | undefined;
}

const INITIAL_BATCHES = 256;
const INITIAL_IDS = 1024;

/** An index that grows. It is itself a SegmentIndex that can be read at any time; `build` answers one that stays as it is. */
export class SegmentIndexBuilder extends SegmentIndex {
  readonly #columns: Columns;
  readonly #idOf = new Map<string, number>();
  /** Where epochs begin among the batches. */
  readonly #epochs: { readonly batch: number; readonly epoch: number }[] = [];
  /** Ids of the batch that is being added. */
  readonly #batchIds = new Set<number>();

  /** @param baseOffset of the segment */
  constructor(baseOffset: number) {
    const columns: Columns = {
      count: 0,
      positions: new Uint32Array(INITIAL_BATCHES + 1),
      bases: new Float64Array(INITIAL_BATCHES + 1),
      timestamps: new Float64Array(INITIAL_BATCHES),
      flags: new Uint16Array(INITIAL_BATCHES),
      any: new Uint8Array(INITIAL_BATCHES),
      idStarts: new Uint32Array(INITIAL_BATCHES + 1),
      ids: new Uint16Array(INITIAL_IDS),
      dictionary: [],
      dictionaryBytes: 0,
      lastEpoch: 0,
    };
    columns.bases[0] = baseOffset;
    super(columns);
    this.#columns = columns;
  }

  /** Adds the batch that follows the last one, both in the file and in offsets. */
  add({ position, header, topics }: IndexEntry): void {
    const columns = this.#columns;
    const { count } = columns;
    const end = position + BATCH_HEADER_BYTES + header.storedBytes;
    assert(position === this.storedBytes, `batch at ${position}, after one that ends at ${this.storedBytes}`);
    assert(
      header.baseOffset === this.endOffset,
      `batch from ${header.baseOffset}, after one that ends at ${this.endOffset}`,
    );
    assert(end <= UINT32_MAX, `a segment of ${end} bytes`);
    if (count === columns.flags.length) this.#grow();
    columns.positions[count + 1] = end;
    columns.bases[count + 1] = header.lastOffset + 1;
    columns.timestamps[count] = header.timestampMs;
    columns.flags[count] = header.flags;
    columns.lastEpoch = header.epoch;
    if (this.#epochs.at(-1)?.epoch !== header.epoch) this.#epochs.push({ batch: count, epoch: header.epoch });
    const isKnown = topics !== undefined && this.#collectIds(topics);
    columns.any[count] = isKnown ? 0 : 1;
    const start = columns.idStarts[count]!;
    columns.idStarts[count + 1] = isKnown ? this.#appendIds(start) : start;
    columns.count = count + 1;
  }

  /** Takes off the batches from the one with this place on. Names of topics stay, with their ids. */
  cut(batch: number): void {
    assert(batch <= this.#columns.count, `batch ${batch} of ${this.#columns.count}`);
    while (this.#epochs.length > 0 && this.#epochs.at(-1)!.batch >= batch) this.#epochs.pop();
    this.#columns.count = batch;
    this.#columns.lastEpoch = this.#epochs.at(-1)?.epoch ?? 0;
  }

  /** A copy of what there is so far. */
  build(): SegmentIndex {
    const { count, positions, bases, timestamps, flags, any, idStarts, ids, dictionary, ...rest } =
      this.#columns;
    return new SegmentIndex({
      ...rest,
      count,
      positions: positions.slice(0, count + 1),
      bases: bases.slice(0, count + 1),
      timestamps: timestamps.slice(0, count),
      flags: flags.slice(0, count),
      any: any.slice(0, count),
      idStarts: idStarts.slice(0, count + 1),
      ids: ids.slice(0, idStarts[count]),
      dictionary: dictionary.slice(),
    });
  }

  /** False where the batch has too many topics or the dictionary has no room for one. */
  #collectIds(topics: Iterable<string>): boolean {
    this.#batchIds.clear();
    for (const topic of topics) {
      if (topic === '') continue;
      const id = this.#idOf.get(topic) ?? this.#learn(topic);
      if (id === undefined) return false;
      this.#batchIds.add(id);
      if (this.#batchIds.size > BATCH_TOPICS_MAX) return false;
    }
    return true;
  }

  #learn(topic: string): number | undefined {
    const { dictionary } = this.#columns;
    const bytes = Buffer.byteLength(topic);
    const bytesAfter = this.#columns.dictionaryBytes + bytes + 2;
    if (dictionary.length === DICTIONARY_NAMES_MAX || bytesAfter > DICTIONARY_BYTES_MAX) return undefined;
    if (bytes > NAME_BYTES_MAX) return undefined;
    const id = dictionary.push(topic) - 1;
    this.#columns.dictionaryBytes = bytesAfter;
    this.#idOf.set(topic, id);
    return id;
  }

  #appendIds(start: number): number {
    const end = start + this.#batchIds.size;
    const columns = this.#columns;
    if (end > columns.ids.length) columns.ids = grown(columns.ids, Math.max(end, columns.ids.length * 2));
    let at = start;
    for (const id of this.#batchIds) columns.ids[at++] = id;
    return end;
  }

  #grow(): void {
    const columns = this.#columns;
    const length = columns.count * 2;
    columns.positions = grown(columns.positions, length + 1);
    columns.bases = grown(columns.bases, length + 1);
    columns.timestamps = grown(columns.timestamps, length);
    columns.flags = grown(columns.flags, length);
    columns.any = grown(columns.any, length);
    columns.idStarts = grown(columns.idStarts, length + 1);
  }
}

function grown<T extends Uint8Array | Uint16Array | Uint32Array | Float64Array>(array: T, length: number): T {
  const larger = new (array.constructor as new (length: number) => T)(length);
  larger.set(array);
  return larger;
}

/** The file of an index. */
export function encodeIndex(index: SegmentIndex): Buffer {
  const { batchCount: count, dictionary } = index;
  let idCount = 0;
  let dictionaryBytes = 0;
  for (let i = 0; i < count; i++) idCount += index.topicIds(i)?.length ?? 0;
  for (const name of dictionary) dictionaryBytes += 2 + Buffer.byteLength(name);
  const at = places(count, idCount);
  const bytes = Buffer.allocUnsafe(at.dictionary + dictionaryBytes);
  let idAt = at.ids;
  for (let i = 0; i < count; i++) {
    writeUint64(bytes, index.timestampMs(i), at.timestamps + i * 8);
    bytes.writeUInt32LE(index.batchBytes(i), at.batchBytes + i * 4);
    bytes.writeUInt32LE(index.end(i) - index.base(i), at.recordCounts + i * 4);
    bytes.writeUInt16LE(index.flags(i), at.flags + i * 2);
    const ids = index.topicIds(i);
    bytes.writeUInt16LE(ids === undefined ? ANY_TOPIC : ids.length, at.topicCounts + i * 2);
    if (ids !== undefined) for (const id of ids) idAt = bytes.writeUInt16LE(id, idAt);
  }
  let nameAt = at.dictionary;
  for (const name of dictionary) {
    const length = bytes.write(name, nameAt + 2);
    nameAt = bytes.writeUInt16LE(length, nameAt) + length;
  }
  bytes.writeUInt32LE(MAGIC, At.magic);
  bytes.writeUInt32LE(VERSION, At.version);
  writeUint64(bytes, index.baseOffset, At.baseOffset);
  writeUint64(bytes, index.endOffset, At.endOffset);
  writeUint64(bytes, index.storedBytes, At.segmentBytes);
  writeUint64(bytes, index.firstTimestampMs, At.firstTimestamp);
  writeUint64(bytes, index.lastTimestampMs, At.lastTimestamp);
  writeUint64(bytes, index.lastEpoch, At.lastEpoch);
  bytes.writeUInt32LE(count, At.batchCount);
  bytes.writeUInt32LE(idCount, At.topicIdCount);
  bytes.writeUInt32LE(dictionary.length, At.dictionaryCount);
  bytes.writeUInt32LE(dictionaryBytes, At.dictionaryBytes);
  bytes.writeUInt32LE(crc32(bytes.subarray(INDEX_HEADER_BYTES)), At.bodyCrc);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, At.headerCrc)), At.headerCrc);
  return bytes;
}

/** Where the parts of the body begin. */
function places(count: number, idCount: number) {
  const timestamps = INDEX_HEADER_BYTES;
  const batchBytes = timestamps + count * 8;
  const recordCounts = batchBytes + count * 4;
  const flags = recordCounts + count * 4;
  const topicCounts = flags + count * 2;
  const ids = topicCounts + count * 2;
  return { timestamps, batchBytes, recordCounts, flags, topicCounts, ids, dictionary: ids + idCount * 2 };
}

/**
 * The header alone, which is all that has to be read of an index where no batch is looked for.
 * @param bytes at least INDEX_HEADER_BYTES of the file
 * @param fileBytes length of the file
 */
export function decodeIndexSummary(bytes: Buffer, fileBytes: number): IndexSummary | { damage: string } {
  if (bytes.length < INDEX_HEADER_BYTES) return { damage: 'header cut short' };
  if (bytes.readUInt32LE(At.magic) !== MAGIC) return { damage: 'no magic' };
  if (crc32(bytes.subarray(0, At.headerCrc)) !== bytes.readUInt32LE(At.headerCrc)) {
    return { damage: 'header CRC' };
  }
  const version = bytes.readUInt32LE(At.version);
  if (version !== VERSION) return { damage: `version ${version}` };
  const summary: IndexSummary = {
    baseOffset: readUint64(bytes, At.baseOffset),
    endOffset: readUint64(bytes, At.endOffset),
    storedBytes: readUint64(bytes, At.segmentBytes),
    firstTimestampMs: readUint64(bytes, At.firstTimestamp),
    lastTimestampMs: readUint64(bytes, At.lastTimestamp),
    lastEpoch: readUint64(bytes, At.lastEpoch),
    batchCount: bytes.readUInt32LE(At.batchCount),
  };
  if (Object.values(summary).some(Number.isNaN)) return { damage: 'a number above 2^53 - 1' };
  const at = places(summary.batchCount, bytes.readUInt32LE(At.topicIdCount));
  const expected = at.dictionary + bytes.readUInt32LE(At.dictionaryBytes);
  if (fileBytes !== expected) return { damage: `${fileBytes} bytes, not ${expected}` };
  if (summary.storedBytes > UINT32_MAX) return { damage: `a segment of ${summary.storedBytes} bytes` };
  return summary;
}

/** The whole index, or what is wrong with it. */
export function decodeIndex(bytes: Buffer): SegmentIndex | { damage: string } {
  const summary = decodeIndexSummary(bytes, bytes.length);
  if ('damage' in summary) return summary;
  if (crc32(bytes.subarray(INDEX_HEADER_BYTES)) !== bytes.readUInt32LE(At.bodyCrc)) {
    return { damage: 'body CRC' };
  }
  const count = summary.batchCount;
  const idCount = bytes.readUInt32LE(At.topicIdCount);
  const at = places(count, idCount);
  const columns: Columns = {
    count,
    positions: new Uint32Array(count + 1),
    bases: new Float64Array(count + 1),
    timestamps: new Float64Array(count),
    flags: new Uint16Array(count),
    any: new Uint8Array(count),
    idStarts: new Uint32Array(count + 1),
    ids: new Uint16Array(idCount),
    dictionary: [],
    dictionaryBytes: bytes.readUInt32LE(At.dictionaryBytes),
    lastEpoch: summary.lastEpoch,
  };
  let position = 0;
  let offset = summary.baseOffset;
  let ids = 0;
  columns.bases[0] = offset;
  for (let i = 0; i < count; i++) {
    const topicCount = bytes.readUInt16LE(at.topicCounts + i * 2);
    columns.timestamps[i] = readUint64(bytes, at.timestamps + i * 8);
    columns.flags[i] = bytes.readUInt16LE(at.flags + i * 2);
    columns.any[i] = topicCount === ANY_TOPIC ? 1 : 0;
    position += bytes.readUInt32LE(at.batchBytes + i * 4);
    offset += bytes.readUInt32LE(at.recordCounts + i * 4);
    ids += topicCount === ANY_TOPIC ? 0 : topicCount;
    columns.positions[i + 1] = position;
    columns.bases[i + 1] = offset;
    columns.idStarts[i + 1] = ids;
  }
  // The checksums hold, so whoever wrote this was wrong: it must not lead a reader astray all the same.
  if (position !== summary.storedBytes || offset !== summary.endOffset) return { damage: 'sums of batches' };
  if (ids !== idCount) return { damage: 'number of topics' };
  const names = bytes.readUInt32LE(At.dictionaryCount);
  for (let i = 0; i < idCount; i++) {
    const id = bytes.readUInt16LE(at.ids + i * 2);
    if (id >= names) return { damage: 'topic id' };
    columns.ids[i] = id;
  }
  let nameAt = at.dictionary;
  for (let i = 0; i < names; i++) {
    if (nameAt + 2 > bytes.length) return { damage: 'dictionary' };
    const end = nameAt + 2 + bytes.readUInt16LE(nameAt);
    columns.dictionary.push(bytes.toString('utf8', nameAt + 2, end));
    nameAt = end;
  }
  if (nameAt !== bytes.length) return { damage: 'dictionary' };
  return new SegmentIndex(columns);
}
