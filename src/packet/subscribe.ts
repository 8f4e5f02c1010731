// Owns SUBSCRIBE and UNSUBSCRIBE as they come from a client. Which filters are well written and who may have them is not
// decided here; a packet that leaves this file has at least one filter, and each is a non-empty UTF-8 string.
//
// Decoded by the same walk that validates, for the reasons at the head of connect.ts.
import { checkProperties, decodeProperties } from './properties.js';
import { PropertyId } from './property-table.js';
import { PacketReader } from './reader.js';
import { malformed, PacketType, type ProtocolVersion, protocolError, type QoS } from './types.js';

export interface SubscriptionRequest {
  filter: string;
  qos: QoS;
  noLocal: boolean;
  retainAsPublished: boolean;
  /** 0: send retained messages, 1: only for a new subscription, 2: never. */
  retainHandling: 0 | 1 | 2;
}

export interface SubscribePacket {
  packetId: number;
  /** 1 to 268,435,455, or 0 for none. */
  subscriptionId: number;
  userProperties: readonly [name: string, value: string][];
  /** In the order sent, which is the order SUBACK answers in; at least one. */
  filters: SubscriptionRequest[];
}

export interface UnsubscribePacket {
  packetId: number;
  /** In the order sent, which is the order UNSUBACK answers in; at least one. */
  filters: string[];
}

/** The fixed header flags of both packets, left over from the QoS 1 they had in MQTT 3.1. */
const FLAGS = 0b0010;

const QOS_MASK = 0x03;
const NO_LOCAL = 0x04;
const RETAIN_AS_PUBLISHED = 0x08;
const RETAIN_HANDLING_SHIFT = 4;
const RETAIN_HANDLING_MASK = 0x03;
const RESERVED_V5 = 0xc0;
const RESERVED_V3 = 0xfc;

/**
 * Decodes a complete SUBSCRIBE, fixed header included.
 * @throws {GomqError} 0x81 or 0x82
 */
export function decodeSubscribe(frame: Buffer, version: ProtocolVersion): SubscribePacket {
  const reader = new PacketReader(frame, PacketType.Subscribe, 'SUBSCRIBE');
  reader.checkFixedHeader(version, FLAGS); // [MQTT-3.8.1-1]
  const packetId = reader.packetId();
  let subscriptionId = 0;
  let userProperties: SubscribePacket['userProperties'] = [];
  if (version === 5) {
    const start = reader.propertyBlock();
    const properties = decodeProperties(frame, start, reader.position, PacketType.Subscribe);
    subscriptionId = properties.number(PropertyId.SubscriptionIdentifier) ?? 0;
    userProperties = properties.userProperties;
  }
  const filters: SubscriptionRequest[] = [];
  do {
    // [MQTT-3.8.3-2 v5] [MQTT-3.8.3-3 v3.1.1]: the first filter is read without asking whether there is one.
    const filter = readFilter(reader);
    filters.push(readOptions(filter, reader.byte('subscription options'), version));
  } while (reader.remaining > 0);
  return { packetId, subscriptionId, userProperties, filters };
}

/**
 * Decodes a complete UNSUBSCRIBE, fixed header included.
 * @throws {GomqError} 0x81 or 0x82
 */
export function decodeUnsubscribe(frame: Buffer, version: ProtocolVersion): UnsubscribePacket {
  const reader = new PacketReader(frame, PacketType.Unsubscribe, 'UNSUBSCRIBE');
  reader.checkFixedHeader(version, FLAGS); // [MQTT-3.10.1-1]
  const packetId = reader.packetId();
  if (version === 5) {
    const start = reader.propertyBlock();
    checkProperties(frame, start, reader.position, PacketType.Unsubscribe);
  }
  const filters: string[] = [];
  do {
    // [MQTT-3.10.3-2]: the first filter is read without asking whether there is one.
    filters.push(readFilter(reader));
  } while (reader.remaining > 0);
  return { packetId, filters };
}

function readFilter(reader: PacketReader): string {
  // Sections 3.8.3 and 3.10.3 of 5.0 make a packet without a payload a protocol error; the older versions only forbid it.
  if (reader.remaining === 0) throw protocolError(`${reader.name} has no topic filter`);
  const filter = reader.string('topic filter'); // [MQTT-3.8.3-1] [MQTT-3.10.3-1]
  if (filter === '') throw malformed(`${reader.name} has an empty topic filter`); // [MQTT-4.7.3-1]
  return filter;
}

function readOptions(filter: string, options: number, version: ProtocolVersion): SubscriptionRequest {
  // [MQTT-3.8.3-5 v5] [MQTT-3.8.3-4 v3.1.1]
  if ((options & (version === 5 ? RESERVED_V5 : RESERVED_V3)) !== 0) {
    throw malformed(`subscription options 0x${options.toString(16)} set a reserved bit`);
  }
  const qos = options & QOS_MASK;
  // [MQTT-3.8.3-4 v3.1.1]; section 3.8.3.1 of 5.0 calls it a protocol error.
  if (qos === 3) throw protocolError('subscription asks for QoS 3');
  const retainHandling = (options >> RETAIN_HANDLING_SHIFT) & RETAIN_HANDLING_MASK;
  // Section 3.8.3.1.
  if (retainHandling === 3) throw protocolError('subscription asks for retain handling 3');
  const noLocal = (options & NO_LOCAL) !== 0;
  // [MQTT-3.8.3-4 v5]
  if (noLocal && filter.startsWith('$share/')) throw protocolError('no local on a shared subscription');
  return {
    filter,
    qos: qos as QoS,
    noLocal,
    retainAsPublished: (options & RETAIN_AS_PUBLISHED) !== 0,
    retainHandling: retainHandling as 0 | 1 | 2,
  };
}
