// A message on its way: what was published, as positions into bytes that somebody else owns (a chunk from a socket, a segment of the log, a
// retained copy), and the log record that keeps it.
import { assert } from '../core/assert.js';
import type { RecordSlice } from '../log/log.js';
import type { QoS } from '../packet/types.js';
import type { Topic } from '../router/topic-table.js';
import type { Route } from './subscription.js';

/** The first byte of a record says what it is. docs/LOG_FORMAT.md describes the bytes of each. */
export const RecordType = {
  Publish: 1,
  SessionOpened: 2,
  SessionClosed: 3,
  SessionEnded: 4,
  Subscribed: 5,
  Unsubscribed: 6,
  Progress: 7,
  Pubrec: 8,
  Pubrel: 9,
  GroupProgress: 10,
  /** Only in a snapshot. */
  Counters: 11,
  /** Only in a snapshot: packet ids that a publisher has not released. */
  Received: 12,
  /** A leader has begun to lead: what lies before it in its log is committed with it. */
  EpochBegun: 13,
} as const;
export type RecordType = (typeof RecordType)[keyof typeof RecordType];

/** The offset of a message that is not in the log. Later than every subscription. */
export const NO_OFFSET = Number.MAX_SAFE_INTEGER;

/** Flags of a record. */
const RETAIN_FLAG = 4;
const EXPIRY_FLAG = 8;
/** The publisher's will: publishing it deletes it. */
const WILL_FLAG = 16;
const SOURCE_FLAG = 32;

/** The publisher of a message that no session sent: HTTP, the broker itself. */
export const NO_PUBLISHER = 0;

/**
 * A publish record. Its body is a PUBLISH of MQTT 3.1.1 without the fixed header, so that a delivery is one copy and a packet id:
 *
 *      0  type            u8    1
 *      1  flags           u8    bits 0-1 QoS, bit 2 RETAIN, bit 3 has an expiry, bit 4 is the publisher's will, bit 5 has a source
 *      2  reserved        u16   0
 *      4  publisher       u32   session number, 0 for none
 *      8  timestamp       f64   milliseconds since the Unix epoch
 *     16  expiry          u32   seconds after the timestamp, 0 without bit 3
 *     20  properties      u32   length in bytes
 *     24  source                only with bit 5: its length, u32, and who published, as `encodeSource` has it
 *         properties            as in a PUBLISH of 5.0, without length, topic alias and message expiry
 *         topic length    u16   big-endian, as on the wire
 *         topic
 *         packet id       u16   the publisher's
 *         payload
 *
 * Numbers of the header are little-endian.
 */
const HEADER_BYTES = 24;

/** Bytes of a record, for the log to make room. */
export function publishRecordBytes(message: Message): number {
  const sourceBytes = message.sourceEnd - message.sourceStart;
  return (
    HEADER_BYTES +
    (sourceBytes === 0 ? 0 : SOURCE_LENGTH_BYTES + sourceBytes) +
    (message.propertiesEnd - message.propertiesStart) +
    2 +
    message.topic.bytes.length +
    2 +
    message.payloadBytes
  );
}

const SOURCE_LENGTH_BYTES = 4;

/** Copies short runs in a loop, where a native call would cost more than the bytes (measured: 40). */
export function copyBytes(source: Buffer, target: Buffer, at: number, start: number, end: number): void {
  if (end - start > 40) {
    source.copy(target, at, start, end);
    return;
  }
  let to = at;
  for (let from = start; from < end; from++) target[to++] = source[from]!;
}

const EMPTY = Buffer.alloc(0);

/** Used again and again; only the positions change. */
export class Message {
  topic!: Topic<Route>;
  qos: QoS = 0;
  isRetained = false;
  /** The session that published it, or NO_PUBLISHER. */
  publisher = NO_PUBLISHER;
  offset = NO_OFFSET;
  timestampMs = 0;
  /** Seconds after the timestamp, or -1 when it does not expire. */
  expirySeconds = -1;

  /** Holds topic name and payload. */
  buffer: Buffer = EMPTY;
  /** True when nobody overwrites `buffer`, so that a payload can be sent from where it is. */
  isBufferStable = false;
  /** The topic name in `buffer`, or an empty range where it is only in `topic` (a publisher's topic alias). */
  topicStart = 0;
  topicEnd = 0;
  payloadStart = 0;
  payloadEnd = 0;
  /** The publisher's packet id. */
  packetId = 0;

  /** It is the will of its publisher. */
  isWill = false;
  /** Who published it, as `encodeSource` has it: kept with what is retained. */
  source: Buffer = EMPTY;
  sourceStart = 0;
  sourceEnd = 0;

  /** Properties to forward as they are. */
  properties: Buffer = EMPTY;
  propertiesStart = 0;
  propertiesEnd = 0;

  isExpired(nowMs: number): boolean {
    return this.expirySeconds >= 0 && nowMs - this.timestampMs >= this.expirySeconds * 1000;
  }

  /** What is left of the expiry, whole seconds [MQTT-3.3.2-6]. */
  remainingExpirySeconds(nowMs: number): number {
    const waited = Math.floor(Math.max(0, nowMs - this.timestampMs) / 1000);
    return Math.max(0, this.expirySeconds - waited);
  }

  noSource(): void {
    this.source = EMPTY;
    this.sourceStart = 0;
    this.sourceEnd = 0;
  }

  noProperties(): void {
    this.properties = EMPTY;
    this.propertiesStart = 0;
    this.propertiesEnd = 0;
  }

  get payloadBytes(): number {
    return this.payloadEnd - this.payloadStart;
  }

  /** Writes the record of this message into the room the log has made for it. */
  writeRecord(slice: RecordSlice): void {
    const { buffer, start } = slice;
    buffer[start] = RecordType.Publish;
    const sourceBytes = this.sourceEnd - this.sourceStart;
    buffer[start + 1] =
      this.qos |
      (this.isRetained ? RETAIN_FLAG : 0) |
      (this.expirySeconds >= 0 ? EXPIRY_FLAG : 0) |
      (this.isWill ? WILL_FLAG : 0) |
      (sourceBytes > 0 ? SOURCE_FLAG : 0);
    buffer[start + 2] = 0;
    buffer[start + 3] = 0;
    writeUint32(buffer, start + 4, this.publisher);
    buffer.writeDoubleLE(this.timestampMs, start + 8);
    writeUint32(buffer, start + 16, Math.max(0, this.expirySeconds));
    const propertyBytes = this.propertiesEnd - this.propertiesStart;
    writeUint32(buffer, start + 20, propertyBytes);
    let at = start + HEADER_BYTES;
    if (sourceBytes > 0) {
      writeUint32(buffer, at, sourceBytes);
      at += SOURCE_LENGTH_BYTES;
      this.source.copy(buffer, at, this.sourceStart, this.sourceEnd);
      at += sourceBytes;
    }
    if (propertyBytes > 0) {
      this.properties.copy(buffer, at, this.propertiesStart, this.propertiesEnd);
      at += propertyBytes;
    }
    const topicBytes = this.topic.bytes;
    buffer[at] = topicBytes.length >> 8;
    buffer[at + 1] = topicBytes.length & 0xff;
    at += 2;
    copyBytes(topicBytes, buffer, at, 0, topicBytes.length);
    at += topicBytes.length;
    buffer[at] = this.packetId >> 8;
    buffer[at + 1] = this.packetId & 0xff;
    copyBytes(this.buffer, buffer, at + 2, this.payloadStart, this.payloadEnd);
  }

  /** Points this message at a publish record. `topic` is set by the caller, who may know it already. */
  readRecord(slice: RecordSlice): void {
    const { buffer, start } = slice;
    const flags = buffer[start + 1]!;
    this.offset = slice.offset;
    this.qos = (flags & 3) as QoS;
    this.isRetained = (flags & RETAIN_FLAG) !== 0;
    this.publisher = readUint32(buffer, start + 4);
    this.expirySeconds = (flags & EXPIRY_FLAG) === 0 ? -1 : readUint32(buffer, start + 16);
    this.timestampMs = buffer.readDoubleLE(start + 8);
    this.buffer = buffer;
    // Nobody overwrites it, but a payload sent from there would keep a whole segment of the log in memory.
    this.isBufferStable = false;
    this.isWill = (flags & WILL_FLAG) !== 0;
    let propertiesStart = start + HEADER_BYTES;
    if ((flags & SOURCE_FLAG) === 0) {
      this.sourceStart = this.sourceEnd;
    } else {
      this.source = buffer;
      this.sourceStart = propertiesStart + SOURCE_LENGTH_BYTES;
      this.sourceEnd = this.sourceStart + readUint32(buffer, propertiesStart);
      propertiesStart = this.sourceEnd;
    }
    const bodyStart = propertiesStart + readUint32(buffer, start + 20);
    this.properties = buffer;
    this.propertiesStart = propertiesStart;
    this.propertiesEnd = bodyStart;
    this.topicStart = bodyStart + 2;
    this.topicEnd = this.topicStart + ((buffer[bodyStart]! << 8) | buffer[bodyStart + 1]!);
    this.packetId = (buffer[this.topicEnd]! << 8) | buffer[this.topicEnd + 1]!;
    this.payloadStart = this.topicEnd + 2;
    this.payloadEnd = slice.end;
  }
}

/** What of a publish record changes the state of its publisher. */
export function readPublisher({ buffer, start, end }: RecordSlice): {
  publisher: number;
  qos: QoS;
  packetId: number;
  isWill: boolean;
  isRetained: boolean;
} {
  const flags = buffer[start + 1]!;
  let at = start + HEADER_BYTES;
  if ((flags & SOURCE_FLAG) !== 0) at += SOURCE_LENGTH_BYTES + readUint32(buffer, at);
  at += readUint32(buffer, start + 20);
  at += 2 + buffer.readUInt16BE(at);
  assert(at + 2 <= end, 'a publish record holds its topic and packet id');
  return {
    publisher: readUint32(buffer, start + 4),
    qos: (flags & 3) as QoS,
    packetId: buffer.readUInt16BE(at),
    isWill: (flags & WILL_FLAG) !== 0,
    isRetained: (flags & RETAIN_FLAG) !== 0,
  };
}

/** A record that may be for subscribers. */
export function isPublish({ buffer, start }: RecordSlice): boolean {
  return buffer[start] === RecordType.Publish;
}

/** The topic name of a record, or '' where it is about none. */
export function topicNameOf({ buffer, start }: RecordSlice): string {
  return topicNameIn(buffer, start);
}

/** The same, for a record that begins at `start`. */
export function topicNameIn(buffer: Buffer, start: number): string {
  if (buffer[start] !== RecordType.Publish) return '';
  let at = start + HEADER_BYTES;
  if ((buffer[start + 1]! & SOURCE_FLAG) !== 0) at += SOURCE_LENGTH_BYTES + readUint32(buffer, at);
  at += readUint32(buffer, start + 20);
  return buffer.toString('utf8', at + 2, at + 2 + buffer.readUInt16BE(at));
}

/** Who published a retained message. */
export interface RetainedSource {
  clientId: string;
  userName: string | undefined;
}

/**
 * Who published, for the record:
 *
 *      0  client id length  u16
 *      2  client id
 *         has a user name   u8    0 or 1
 *         user name               the rest
 */
export function encodeSource({ clientId, userName }: RetainedSource): Buffer {
  const id = Buffer.from(clientId);
  const user = Buffer.from(userName ?? '');
  const bytes = Buffer.alloc(2 + id.length + 1 + user.length);
  bytes.writeUInt16LE(id.length, 0);
  id.copy(bytes, 2);
  bytes[2 + id.length] = userName === undefined ? 0 : 1;
  user.copy(bytes, 3 + id.length);
  return bytes;
}

export function decodeSource(bytes: Buffer, start: number, end: number): RetainedSource {
  const idEnd = start + 2 + bytes.readUInt16LE(start);
  return {
    clientId: bytes.toString('utf8', start + 2, idEnd),
    userName: bytes[idEnd] === 1 ? bytes.toString('utf8', idEnd + 1, end) : undefined,
  };
}

/** The last message published to a topic with RETAIN, in bytes of its own. */
export class RetainedMessage {
  readonly topic: Topic<Route>;
  readonly record: RecordSlice;
  readonly qos: QoS;
  readonly #expiresAtMs: number = Number.POSITIVE_INFINITY;

  constructor(message: Message) {
    this.topic = message.topic;
    this.qos = message.qos;
    if (message.expirySeconds >= 0) this.#expiresAtMs = message.timestampMs + message.expirySeconds * 1000;
    const length = publishRecordBytes(message);
    const buffer = Buffer.allocUnsafeSlow(length);
    this.record = { offset: message.offset, buffer, start: 0, end: length };
    message.writeRecord(this.record);
  }

  get bytes(): number {
    return this.record.end;
  }

  /** Who published it: their right to do so is asked for again when it is sent (CVE-2018-12546). */
  get source(): RetainedSource | undefined {
    const { buffer } = this.record;
    if ((buffer[1]! & SOURCE_FLAG) === 0) return undefined;
    const start = HEADER_BYTES + SOURCE_LENGTH_BYTES;
    return decodeSource(buffer, start, start + readUint32(buffer, HEADER_BYTES));
  }

  get hasExpiry(): boolean {
    return this.#expiresAtMs !== Number.POSITIVE_INFINITY;
  }

  isExpired(nowMs: number): boolean {
    return nowMs >= this.#expiresAtMs;
  }
}

function writeUint32(buffer: Buffer, at: number, value: number): void {
  buffer[at] = value & 0xff;
  buffer[at + 1] = (value >>> 8) & 0xff;
  buffer[at + 2] = (value >>> 16) & 0xff;
  buffer[at + 3] = value >>> 24;
}

function readUint32(buffer: Buffer, at: number): number {
  return (buffer[at]! | (buffer[at + 1]! << 8) | (buffer[at + 2]! << 16) | (buffer[at + 3]! << 24)) >>> 0;
}
