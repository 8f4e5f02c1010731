// PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7): a packet id and, in 5.0, a reason code and properties.
import { shortReason } from './encode.js';
import { checkProperties } from './properties.js';
import { ReasonCode } from './reason-codes.js';
import { malformed, PacketType, type ProtocolVersion, protocolError } from './types.js';
import { readVarint, varintSize, writeVarint } from './varint.js';

/** What an acknowledgement said. Used again for the next one. */
export class AckFrame {
  packetId = 0;
  reasonCode: number = ReasonCode.Success;

  /** @throws {GomqError} PROTOCOL */
  parse(buffer: Buffer, start: number, bodyStart: number, end: number, version: ProtocolVersion): void {
    const type = buffer[start]! >> 4;
    const flags = buffer[start]! & 0x0f;
    // [MQTT-3.6.1-1], [MQTT-2.1.3-1] v5, [MQTT-2.2.2-2] v3.1.1. MQTT 3.1 allowed DUP on PUBREL, so bit 3 is let pass there.
    const expected = type === PacketType.Pubrel ? 2 : 0;
    if (flags !== expected && !(version === 3 && type === PacketType.Pubrel && (flags & 7) === 2)) {
      throw malformed(`reserved flags ${flags} on an acknowledgement`);
    }
    const length = end - bodyStart;
    if (length < 2) throw malformed('an acknowledgement ends before its packet id');
    this.packetId = (buffer[bodyStart]! << 8) | buffer[bodyStart + 1]!;
    this.reasonCode = ReasonCode.Success;
    if (this.packetId === 0) throw protocolError('an acknowledgement with packet id 0');
    if (length === 2) return;
    if (version !== 5) throw malformed('an acknowledgement is longer than its packet id');
    this.#parseReason(buffer, type, bodyStart + 2, end);
  }

  #parseReason(buffer: Buffer, type: number, at: number, end: number): void {
    const reasonCode = buffer[at]!;
    const allowed =
      type === PacketType.Puback || type === PacketType.Pubrec ? PUBLISH_REASONS : RELEASE_REASONS;
    // [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]
    if (!allowed.has(reasonCode)) throw protocolError(`reason code ${reasonCode} on an acknowledgement`);
    this.reasonCode = reasonCode;
    if (at + 1 === end) return;
    const length = readVarint(buffer, at + 1, end);
    const propertiesStart = at + 1 + varintSize(length);
    if (length === -1 || propertiesStart + length !== end)
      throw malformed('the properties of an acknowledgement do not end with it');
    checkProperties(buffer, propertiesStart, end, type);
  }
}

const REASON_STRING = 0x1f;

/** An acknowledgement with a reason string, for a 5.0 client. */
export function encodeReasonedAck(type: number, packetId: number, reasonCode: number, why: string): Buffer {
  const text = Buffer.from(shortReason(why));
  const propertyBytes = 3 + text.length;
  const remaining = 3 + varintSize(propertyBytes) + propertyBytes;
  const bytes = Buffer.allocUnsafe(1 + varintSize(remaining) + remaining);
  bytes[0] = (type << 4) | (type === PacketType.Pubrel ? 2 : 0); // [MQTT-3.6.1-1]
  let at = writeVarint(bytes, 1, remaining);
  at = bytes.writeUInt16BE(packetId, at);
  at = bytes.writeUInt8(reasonCode, at);
  at = writeVarint(bytes, at, propertyBytes);
  at = bytes.writeUInt8(REASON_STRING, at);
  at = bytes.writeUInt16BE(text.length, at);
  text.copy(bytes, at);
  return bytes;
}

const PUBLISH_REASONS: ReadonlySet<number> = new Set([
  ReasonCode.Success,
  ReasonCode.NoMatchingSubscribers,
  ReasonCode.UnspecifiedError,
  ReasonCode.ImplementationSpecificError,
  ReasonCode.NotAuthorized,
  ReasonCode.TopicNameInvalid,
  ReasonCode.PacketIdentifierInUse,
  ReasonCode.QuotaExceeded,
  ReasonCode.PayloadFormatInvalid,
]);

const RELEASE_REASONS: ReadonlySet<number> = new Set([
  ReasonCode.Success,
  ReasonCode.PacketIdentifierNotFound,
]);
