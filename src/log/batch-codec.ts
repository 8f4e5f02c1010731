// Turns records into batches and back, in the layout of batch-format.ts. Nothing is taken from a batch before its checksums hold, and what
// is wrong with it is said in words, as a value: whoever reads a file decides what damage there means.
import { crc32 } from 'node:zlib';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import {
  BATCH_HEADER_BYTES,
  BATCH_MAGIC,
  BATCH_VERSION,
  BatchAt,
  BatchFlag,
  Codec,
  PAYLOAD_BYTES_MAX,
  RECORD_LENGTH_BYTES,
  RECORD_OFFSET_BYTES,
} from './batch-format.js';
import { CONTENT_BYTES_MAX, type Zstd } from './zstd.js';

export interface BatchHeader {
  codec: Codec;
  /** See BatchFlag. */
  flags: number;
  epoch: number;
  baseOffset: number;
  lastOffset: number;
  timestampMs: number;
  recordCount: number;
  uncompressedBytes: number;
  storedBytes: number;
}

export interface HeaderDamage {
  /** What is wrong: 'no magic', 'header CRC', 'version 2'. */
  damage: string;
  /** The checksum is right: no accident of the disk made these bytes, so they are nothing that a crash left behind. */
  isIntended: boolean;
}

export type HeaderResult = BatchHeader | HeaderDamage;

/** Below it, what is gained on disk is not worth the time before the acknowledgement. */
export const COMPRESS_BYTES_MIN = 512;
const FLAGS_KNOWN = BatchFlag.State | BatchFlag.Snapshot | BatchFlag.SnapshotEnd | BatchFlag.AfterSync;
const UINT32 = 2 ** 32;
/** 2^53 - 1 has this in its upper half. */
const UPPER_MAX = 0x1f_ffff;

/**
 * A whole batch in one buffer.
 * @param zstd undefined where payloads are stored as they are
 * @param payload the records, each behind its length (and its offset, in a snapshot); may lie in shared memory
 */
export function encodeBatch(
  zstd: Zstd | undefined,
  header: Omit<BatchHeader, 'codec' | 'uncompressedBytes' | 'storedBytes'>,
  payload: Uint8Array,
): Buffer {
  assert(payload.length <= PAYLOAD_BYTES_MAX, `a batch of ${payload.length} bytes`);
  const compressed = compress(zstd, payload);
  const stored = compressed ?? payload;
  const bytes = Buffer.allocUnsafe(BATCH_HEADER_BYTES + stored.length);
  bytes.writeUInt32LE(BATCH_MAGIC, BatchAt.magic);
  bytes[BatchAt.version] = BATCH_VERSION;
  bytes[BatchAt.codec] = compressed === undefined ? Codec.None : Codec.Zstd;
  bytes.writeUInt16LE(header.flags, BatchAt.flags);
  writeUint64(bytes, header.epoch, BatchAt.epoch);
  writeUint64(bytes, header.baseOffset, BatchAt.baseOffset);
  writeUint64(bytes, header.lastOffset, BatchAt.lastOffset);
  writeUint64(bytes, header.timestampMs, BatchAt.timestamp);
  bytes.writeUInt32LE(header.recordCount, BatchAt.recordCount);
  bytes.writeUInt32LE(payload.length, BatchAt.uncompressedBytes);
  bytes.writeUInt32LE(stored.length, BatchAt.storedBytes);
  bytes.writeUInt32LE(0, BatchAt.reserved);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, BatchAt.headerCrc)), BatchAt.headerCrc);
  bytes.set(stored, BATCH_HEADER_BYTES);
  bytes.writeUInt32LE(batchCrc(bytes), BatchAt.crc);
  return bytes;
}

/** A copy of a whole batch that differs in its flags, and in the checksums over them. */
export function withFlags(batch: Uint8Array, flags: number): Buffer {
  const bytes = Buffer.allocUnsafe(batch.length);
  bytes.set(batch);
  bytes.writeUInt16LE(flags, BatchAt.flags);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, BatchAt.headerCrc)), BatchAt.headerCrc);
  bytes.writeUInt32LE(batchCrc(bytes), BatchAt.crc);
  return bytes;
}

/** The header of a whole batch whose checksums both hold. Its payload is not decompressed, so its records are still to be doubted. */
export function checkBatch(bytes: Buffer): HeaderResult {
  const header = decodeHeader(bytes, 0);
  if ('damage' in header) return header;
  if (bytes.length !== BATCH_HEADER_BYTES + header.storedBytes) return unintended('payload cut short');
  return batchCrc(bytes) === bytes.readUInt32LE(BatchAt.crc) ? header : unintended('payload CRC');
}

function compress(zstd: Zstd | undefined, payload: Uint8Array): Uint8Array | undefined {
  const { length } = payload;
  if (zstd === undefined || length < COMPRESS_BYTES_MIN || length > CONTENT_BYTES_MAX) return undefined;
  const compressed = zstd.compress(payload);
  // Every reader pays for decompression, so it has to be worth something.
  return compressed.length < length - (length >> 4) ? compressed : undefined;
}

/** Reads and checks the header at `at`; less than BATCH_HEADER_BYTES from there on is damage too. */
export function decodeHeader(bytes: Uint8Array, at: number): HeaderResult {
  if (bytes.length - at < BATCH_HEADER_BYTES) return unintended('header cut short');
  if (readUint32(bytes, at + BatchAt.magic) !== BATCH_MAGIC) return unintended('no magic');
  const crc = crc32(bytes.subarray(at, at + BatchAt.headerCrc));
  if (crc !== readUint32(bytes, at + BatchAt.headerCrc)) return unintended('header CRC');
  const version = bytes[at + BatchAt.version]!;
  if (version !== BATCH_VERSION) return intended(`version ${version}`);
  const codec = bytes[at + BatchAt.codec]!;
  if (codec !== Codec.None && codec !== Codec.Zstd) return intended(`codec ${codec}`);
  const reserved = readUint32(bytes, at + BatchAt.reserved);
  if (reserved !== 0) return intended(`reserved field ${reserved}`);
  const header: BatchHeader = {
    codec,
    flags: bytes[at + BatchAt.flags]! | (bytes[at + BatchAt.flags + 1]! << 8),
    epoch: readUint64(bytes, at + BatchAt.epoch),
    baseOffset: readUint64(bytes, at + BatchAt.baseOffset),
    lastOffset: readUint64(bytes, at + BatchAt.lastOffset),
    timestampMs: readUint64(bytes, at + BatchAt.timestamp),
    recordCount: readUint32(bytes, at + BatchAt.recordCount),
    uncompressedBytes: readUint32(bytes, at + BatchAt.uncompressedBytes),
    storedBytes: readUint32(bytes, at + BatchAt.storedBytes),
  };
  const damage = contradiction(header);
  return damage === undefined ? header : intended(damage);
}

function unintended(damage: string): HeaderDamage {
  return { damage, isIntended: false };
}

function intended(damage: string): HeaderDamage {
  return { damage, isIntended: true };
}

/** What cannot be, even though the checksum is right. */
function contradiction(header: BatchHeader): string | undefined {
  const { codec, flags, epoch, baseOffset, lastOffset, timestampMs } = header;
  const { recordCount, uncompressedBytes, storedBytes } = header;
  const isSnapshot = (flags & BatchFlag.Snapshot) !== 0;
  const isEnd = (flags & BatchFlag.SnapshotEnd) !== 0;
  if ((flags & ~FLAGS_KNOWN) !== 0 || (isEnd && !isSnapshot)) return `flags ${flags}`;
  if (Number.isNaN(epoch + baseOffset + lastOffset + timestampMs)) return 'a number above 2^53 - 1';
  // The end of a snapshot is an empty batch; records of a snapshot bring their offsets, the lowest and highest of which the header names.
  const isCountRight = isEnd
    ? recordCount === 0 && lastOffset === baseOffset
    : recordCount >= 1 &&
      (isSnapshot ? lastOffset >= baseOffset : recordCount === lastOffset - baseOffset + 1);
  if (!isCountRight) return `${recordCount} records from ${baseOffset} to ${lastOffset}`;
  const uncompressedMax = codec === Codec.Zstd ? CONTENT_BYTES_MAX : PAYLOAD_BYTES_MAX;
  const isLengthRight =
    uncompressedBytes <= uncompressedMax &&
    uncompressedBytes >= recordCount * prefixBytes(flags) &&
    (codec === Codec.Zstd ? storedBytes <= uncompressedBytes : storedBytes === uncompressedBytes);
  if (!isLengthRight) return `${storedBytes} stored bytes for ${uncompressedBytes}`;
  return undefined;
}

/**
 * The records of a batch, as one buffer: of `bytes` itself where they are not compressed, else of their own.
 * @param header what decodeHeader answered for `bytes`
 * @param bytes header and stored payload, and nothing else
 */
export function decodePayload(zstd: Zstd, header: BatchHeader, bytes: Buffer): Buffer | { damage: string } {
  const { uncompressedBytes, storedBytes } = header;
  if (bytes.length !== BATCH_HEADER_BYTES + storedBytes) return { damage: 'payload cut short' };
  if (batchCrc(bytes) !== bytes.readUInt32LE(BatchAt.crc)) return { damage: 'payload CRC' };
  const stored = bytes.subarray(BATCH_HEADER_BYTES);
  let payload = stored;
  if (header.codec === Codec.Zstd) {
    try {
      const content = zstd.decompress(stored, uncompressedBytes);
      payload = Buffer.from(content.buffer, content.byteOffset, content.length);
    } catch (error) {
      if (!(error instanceof GomqError) || error.code !== 'DATA_DAMAGED') throw error;
      return { damage: error.message };
    }
    if (payload.length !== uncompressedBytes)
      return { damage: `${payload.length} bytes after decompression` };
  }
  return isFilled(header, payload) ? payload : { damage: 'record lengths' };
}

/** Whether the lengths of exactly `recordCount` records fill the payload to its end. */
function isFilled(header: BatchHeader, payload: Buffer): boolean {
  const prefix = prefixBytes(header.flags);
  let at = 0;
  for (let i = 0; i < header.recordCount; i++) {
    if (at + prefix > payload.length) return false;
    at += prefix + payload.readUInt32LE(at);
  }
  return at === payload.length;
}

/** Bytes in front of each record. */
export function prefixBytes(flags: number): number {
  const isSnapshot = (flags & BatchFlag.Snapshot) !== 0;
  return isSnapshot ? RECORD_LENGTH_BYTES + RECORD_OFFSET_BYTES : RECORD_LENGTH_BYTES;
}

/**
 * Where the records lie in a payload that decodePayload answered: record i is the bytes from `positions[i]` up to, and without,
 * `positions[i + 1] - prefixBytes(header.flags)`. There is one entry more than there are records.
 */
export function recordPositions(header: BatchHeader, payload: Buffer): Uint32Array {
  const prefix = prefixBytes(header.flags);
  const positions = new Uint32Array(header.recordCount + 1);
  let at = prefix;
  for (let i = 0; i < header.recordCount; i++) {
    positions[i] = at;
    at += payload.readUInt32LE(at - prefix) + prefix;
  }
  positions[header.recordCount] = at;
  return positions;
}

/** The offset of the record at `position` in the payload of a batch of a snapshot; NaN where it is no safe integer. */
export function recordOffset(payload: Buffer, position: number): number {
  return readUint64(payload, position - RECORD_OFFSET_BYTES);
}

/** Over everything but the field itself. */
function batchCrc(bytes: Buffer): number {
  return crc32(bytes.subarray(BATCH_HEADER_BYTES), crc32(bytes.subarray(0, BatchAt.crc)));
}

function readUint32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/** NaN above 2^53 - 1: such a number cannot be meant, and must not be rounded. */
export function readUint64(bytes: Uint8Array, at: number): number {
  const upper = readUint32(bytes, at + 4);
  return upper > UPPER_MAX ? Number.NaN : upper * UINT32 + readUint32(bytes, at);
}

export function writeUint64(bytes: Buffer, value: number, at: number): void {
  // Not by way of a message that is made for each call.
  if (!Number.isSafeInteger(value) || value < 0) assert(false, `${value} as a 64-bit number`);
  bytes.writeUInt32LE(value % UINT32, at);
  bytes.writeUInt32LE(Math.floor(value / UINT32), at + 4);
}
