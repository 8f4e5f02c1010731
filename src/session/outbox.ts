// Everything that leaves on one connection. Packets are written into buffers as they arise and handed to the transport once per turn of the
// event loop; what a client does not take stays here, up to a bound that the callers ask for before they write.
import { assert } from '../core/assert.js';
import { LARGE_BYTES, releaseBuffer, takeBuffer } from '../core/buffer-pool.js';
import type { Transport } from '../core/transport.js';
import { PacketType, type ProtocolVersion, type QoS } from '../packet/types.js';
import { varintSize, writeVarint } from '../packet/varint.js';
import { copyBytes, type Message, NO_OFFSET } from './message.js';

/** Payloads from this size on are sent from where they are instead of being copied, where they stay long enough. */
const REFERENCE_BYTES = 16_384;

export interface OutboxOptions {
  transport: Transport;
  version: ProtocolVersion;
  /** Publishes stop, and reading stops, while more than this waits to leave. */
  outboxBytes: number;
  /** The client's Maximum Packet Size. */
  maximumPacketBytes: number;
  /** Topic aliases this side may give. */
  topicAliasMaximum: number;
  /** Called once when there is something to flush. */
  onDirty: (outbox: Outbox) => void;
  /** Called when there is room again after somebody was told that there is none. */
  onRoom: () => void;
}

/** Bytes on their way to the transport. */
interface Departure {
  readonly bytes: Buffer;
  /** The buffer from the pool that the bytes lie in, or undefined where somebody else owns them. */
  readonly own: Buffer | undefined;
}

/** Property identifiers that this file writes, section 2.2.2.2 of 5.0. */
const MESSAGE_EXPIRY = 0x02;
const SUBSCRIPTION_IDENTIFIER = 0x0b;
const TOPIC_ALIAS = 0x23;
const USER_PROPERTY = 0x26;

export class Outbox {
  readonly version: ProtocolVersion;
  readonly maximumPacketBytes: number;
  readonly #transport: Transport;
  readonly #outboxBytes: number;
  readonly #onDirty: (outbox: Outbox) => void;
  readonly #onRoom: () => void;
  readonly #topicAliasMaximum: number;
  #topicAliases: Map<string, number> | undefined = undefined;

  #buffer: Buffer | undefined = undefined;
  #length = 0;
  /** What goes before `#buffer`: full buffers, and payloads by reference. */
  #full: Departure[] | undefined = undefined;
  /** Bytes written here and not yet taken by the kernel. */
  #queuedBytes = 0;
  #lastFlushBytes = 0;
  #isDirty = false;
  #isCongested = false;
  #isRoomAwaited = false;
  #isClosed = false;
  #isHeld = false;

  constructor(options: OutboxOptions) {
    this.version = options.version;
    this.maximumPacketBytes = options.maximumPacketBytes;
    this.#transport = options.transport;
    this.#outboxBytes = options.outboxBytes;
    this.#onDirty = options.onDirty;
    this.#onRoom = options.onRoom;
    this.#topicAliasMaximum = options.topicAliasMaximum;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** True while another publish may be written. Where it is false, `onRoom` follows. */
  get hasRoom(): boolean {
    if (this.#queuedBytes < this.#outboxBytes) return true;
    this.#isRoomAwaited = true;
    return false;
  }

  /**
   * True while the client should not be read: publishes stop at the bound, so what is queued beyond it are answers, which may take as
   * much again. Where it is true, `onRoom` follows.
   */
  get isOverfull(): boolean {
    return !this.hasRoom && this.#queuedBytes >= 2 * this.#outboxBytes;
  }

  /**
   * True when a message looks the same to every such client of the same version: nothing is left out for its size and no alias stands
   * for its topic.
   */
  get isPlain(): boolean {
    return this.#topicAliasMaximum === 0 && this.maximumPacketBytes >= PACKET_BYTES_MAX;
  }

  /** Writes bytes that are already a packet, or several. */
  bytes(source: Buffer, start: number, end: number): void {
    const length = end - start;
    const at = this.#reserve(length);
    copyBytes(source, this.#buffer!, at, start, end);
  }

  /** PUBACK, PUBREC, PUBREL or PUBCOMP. */
  ack(type: number, packetId: number, reasonCode: number): void {
    const hasReason = reasonCode !== 0 && this.version === 5;
    const at = this.#reserve(hasReason ? 5 : 4);
    const buffer = this.#buffer!;
    buffer[at] = (type << 4) | (type === PacketType.Pubrel ? 2 : 0); // [MQTT-3.6.1-1]
    buffer[at + 1] = hasReason ? 3 : 2;
    buffer[at + 2] = packetId >> 8;
    buffer[at + 3] = packetId & 0xff;
    if (hasReason) buffer[at + 4] = reasonCode;
  }

  /**
   * PUBLISH. `subscriptionIds` are those of the matching subscriptions [MQTT-3.3.4-3]; `position` is what `positionProperties` says.
   * @returns false when the packet would be larger than the client takes: then nothing is sent [MQTT-3.1.2-25]
   */
  publish(
    message: Message,
    qos: QoS,
    packetId: number,
    isRetained: boolean,
    isDuplicate: boolean,
    subscriptionIds: readonly number[] | undefined,
    nowMs: number,
    position?: Buffer,
  ): boolean {
    const topicBytes = message.topic.bytes;
    const payloadBytes = message.payloadEnd - message.payloadStart;
    const plainRemaining = 2 + topicBytes.length + (qos > 0 ? 2 : 0) + payloadBytes;
    let remaining = plainRemaining;
    const isV5 = this.version === 5;
    let propertyBytes = 0;
    let alias = 0;
    let isAliasNew = false;
    if (isV5) {
      if (this.#topicAliasMaximum > 0) {
        alias = this.#aliasOf(message.topic.name);
        isAliasNew = alias < 0;
        if (isAliasNew) alias = -alias;
        else if (alias > 0) remaining -= topicBytes.length;
      }
      propertyBytes = message.propertiesEnd - message.propertiesStart;
      if (message.expirySeconds >= 0) propertyBytes += 5;
      if (alias > 0) propertyBytes += 3;
      if (position !== undefined) propertyBytes += position.length;
      if (subscriptionIds !== undefined)
        for (const id of subscriptionIds) propertyBytes += 1 + varintSize(id);
      remaining += varintSize(propertyBytes) + propertyBytes;
    }
    let total = 1 + varintSize(remaining) + remaining;
    if (total > this.maximumPacketBytes && isAliasNew) {
      // A new alias makes the packet three bytes longer: that alone is no reason not to send it.
      alias = 0;
      isAliasNew = false;
      propertyBytes -= 3;
      remaining = plainRemaining + varintSize(propertyBytes) + propertyBytes;
      total = 1 + varintSize(remaining) + remaining;
    }
    if (total > this.maximumPacketBytes) return false;
    if (isAliasNew) this.#topicAliases!.set(message.topic.name, alias);

    const isReferenced = payloadBytes >= REFERENCE_BYTES && message.isBufferStable;
    let at = this.#reserve(isReferenced ? total - payloadBytes : total);
    const buffer = this.#buffer!;
    buffer[at++] = 0x30 | (isDuplicate ? 8 : 0) | (qos << 1) | (isRetained ? 1 : 0);
    if (remaining < 0x80) buffer[at++] = remaining;
    else at = writeVarint(buffer, at, remaining);

    const hasWholeBody =
      !isV5 &&
      !isReferenced &&
      message.topicEnd > message.topicStart &&
      message.payloadStart - message.topicEnd === (qos > 0 ? 2 : 0);
    if (hasWholeBody) {
      // The bytes lie as 3.1.1 wants them: one copy, then this client's packet id.
      copyBytes(message.buffer, buffer, at, message.topicStart - 2, message.payloadEnd);
      if (qos > 0) {
        const idAt = at + 2 + topicBytes.length;
        buffer[idAt] = packetId >> 8;
        buffer[idAt + 1] = packetId & 0xff;
      }
      return true;
    }

    const isTopicSent = alias === 0 || isAliasNew;
    const sentTopicBytes = isTopicSent ? topicBytes.length : 0;
    buffer[at] = sentTopicBytes >> 8;
    buffer[at + 1] = sentTopicBytes & 0xff;
    at += 2;
    if (isTopicSent) {
      copyBytes(topicBytes, buffer, at, 0, topicBytes.length);
      at += topicBytes.length;
    }
    if (qos > 0) {
      buffer[at] = packetId >> 8;
      buffer[at + 1] = packetId & 0xff;
      at += 2;
    }
    if (isV5) {
      at = writeVarint(buffer, at, propertyBytes);
      if (message.expirySeconds >= 0) {
        buffer[at] = MESSAGE_EXPIRY;
        at = buffer.writeUInt32BE(message.remainingExpirySeconds(nowMs), at + 1);
      }
      if (alias > 0) {
        buffer[at] = TOPIC_ALIAS;
        at = buffer.writeUInt16BE(alias, at + 1);
      }
      if (subscriptionIds !== undefined) {
        for (const id of subscriptionIds) {
          buffer[at] = SUBSCRIPTION_IDENTIFIER;
          at = writeVarint(buffer, at + 1, id);
        }
      }
      copyBytes(message.properties, buffer, at, message.propertiesStart, message.propertiesEnd);
      at += message.propertiesEnd - message.propertiesStart;
      if (position !== undefined) {
        copyBytes(position, buffer, at, 0, position.length);
        at += position.length;
      }
    }
    if (isReferenced) this.#reference(message.buffer.subarray(message.payloadStart, message.payloadEnd));
    else copyBytes(message.buffer, buffer, at, message.payloadStart, message.payloadEnd);
    return true;
  }

  /** Hands what was written to the transport, unless that is still busy with what it got before. */
  flush(): void {
    this.#isDirty = false;
    if (this.#isCongested || this.#isClosed || this.#isHeld) return;
    const full = this.#full;
    const buffer = this.#buffer;
    let flushed = this.#length;
    if (full !== undefined) {
      this.#full = undefined;
      // One system call for all of them.
      this.#transport.cork();
      for (const departure of full) {
        flushed += departure.bytes.length;
        this.#write(departure);
      }
    }
    if (buffer !== undefined) {
      const length = this.#length;
      this.#buffer = undefined;
      this.#length = 0;
      this.#write({ bytes: length === buffer.length ? buffer : buffer.subarray(0, length), own: buffer });
    }
    if (full !== undefined) this.#transport.uncork();
    this.#lastFlushBytes = flushed;
  }

  /** Lets nothing leave until `letGo`: what was written first promises what is not committed yet. */
  hold(): void {
    this.#isHeld = true;
  }

  /** What is held, for a connection that ends before it may leave; undefined where nothing is. */
  takeHeld(): Buffer | undefined {
    if (!this.#isHeld) return undefined;
    const parts = (this.#full ?? []).map(({ bytes }) => bytes);
    if (this.#buffer !== undefined) parts.push(this.#buffer.subarray(0, this.#length));
    return Buffer.concat(parts);
  }

  letGo(): void {
    this.#isHeld = false;
    if (this.#isClosed || this.#buffer === undefined || this.#isDirty) return;
    this.#isDirty = true;
    this.#onDirty(this);
  }

  /** The transport has room again. */
  onDrain(): void {
    this.#isCongested = false;
    this.flush();
  }

  /** The connection is over: nothing more is written, and what is left is forgotten. */
  close(): void {
    this.#isClosed = true;
    this.#buffer = undefined;
    this.#full = undefined;
    this.#length = 0;
  }

  /** A new alias comes out negative: it counts once the packet is really written. 0 when all are taken. */
  #aliasOf(topicName: string): number {
    this.#topicAliases ??= new Map();
    const known = this.#topicAliases.get(topicName);
    if (known !== undefined) return known;
    return this.#topicAliases.size < this.#topicAliasMaximum ? -(this.#topicAliases.size + 1) : 0;
  }

  /** Makes room for `length` bytes in `#buffer` and answers where they go. */
  #reserve(length: number): number {
    const at = this.#length;
    this.#queuedBytes += length;
    if (this.#buffer !== undefined && at + length <= this.#buffer.length) {
      this.#length = at + length;
      return at;
    }
    return this.#reserveMore(length);
  }

  #reserveMore(length: number): number {
    const before = this.#buffer;
    const used = this.#length;
    if (before === undefined) {
      // As much as last time is the best guess at how much this turn will bring.
      this.#buffer = takeBuffer(Math.max(length, Math.min(this.#lastFlushBytes, LARGE_BYTES)));
      if (!this.#isDirty && !this.#isClosed) {
        this.#isDirty = true;
        this.#onDirty(this);
      }
    } else if (used + length <= LARGE_BYTES) {
      this.#buffer = takeBuffer(Math.min(LARGE_BYTES, Math.max(used + length, before.length * 4)));
      before.copy(this.#buffer, 0, 0, used);
      releaseBuffer(before);
      this.#length = used + length;
      return used;
    } else {
      this.#full ??= [];
      this.#full.push({ bytes: used === before.length ? before : before.subarray(0, used), own: before });
      this.#buffer = takeBuffer(Math.max(length, LARGE_BYTES));
    }
    this.#length = length;
    return 0;
  }

  /** Sends `payload` from where it is, after what has been written so far. */
  #reference(payload: Buffer): void {
    assert(this.#buffer !== undefined, 'a payload follows its header');
    this.#full ??= [];
    this.#full.push({ bytes: this.#buffer.subarray(0, this.#length), own: this.#buffer });
    this.#full.push({ bytes: payload, own: undefined });
    this.#buffer = takeBuffer(1);
    this.#length = 0;
    this.#queuedBytes += payload.length;
  }

  #write(departure: Departure): void {
    if (departure.bytes.length === 0) {
      if (departure.own !== undefined) releaseBuffer(departure.own);
      return;
    }
    const isTaken = this.#transport.write(departure.bytes, (error) => this.#written(departure, error));
    if (!isTaken) this.#isCongested = true;
  }

  #written(departure: Departure, error: Error | null | undefined): void {
    this.#queuedBytes -= departure.bytes.length;
    // After an error the kernel may not have let go of the buffer: it is left to the garbage collector.
    if (departure.own !== undefined && !error) releaseBuffer(departure.own);
    // Half empty rather than just not full, so that what waits comes in portions worth a write.
    if (this.#isRoomAwaited && !this.#isClosed && this.#queuedBytes <= this.#outboxBytes / 2) {
      this.#isRoomAwaited = false;
      this.#onRoom();
    }
  }
}

/** User properties that say where in the log a message stands and when it was published, or undefined for one that is not in it. */
export function positionProperties(message: Message): Buffer | undefined {
  if (message.offset === NO_OFFSET) return undefined;
  return Buffer.concat([
    userProperty('gomq-offset', `${message.offset}`),
    userProperty('gomq-timestamp', new Date(message.timestampMs).toISOString()),
  ]);
}

function userProperty(name: string, value: string): Buffer {
  const bytes = Buffer.alloc(1 + 2 + name.length + 2 + value.length);
  bytes[0] = USER_PROPERTY;
  let at = bytes.writeUInt16BE(name.length, 1);
  at += bytes.write(name, at, 'latin1');
  at = bytes.writeUInt16BE(value.length, at);
  bytes.write(value, at, 'latin1');
  return bytes;
}

/** The largest packet MQTT knows: five bytes of header and 256 MiB less one. */
export const PACKET_BYTES_MAX = 268_435_460;
