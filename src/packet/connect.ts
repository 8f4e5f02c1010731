// Owns CONNECT: the only packet of which the version is not known before it is read. Everything wrong in it is a ConnectError,
// which says in which version the client can be answered.
//
// The bytes are decoded by a walk of our own. mqtt-packet, which encodes for us, would have to run after the same walk had
// checked every length, flag, string and property, and would then lose the order of user properties and answer with text
// where a reason code is due. In the tests it is the oracle.
import { GomqError } from '../core/errors.js';
import { decodeProperties, forwardableProperties, PropertyValues } from './properties.js';
import { PropertyId, WILL } from './property-table.js';
import { PacketReader } from './reader.js';
import { ReasonCode } from './reason-codes.js';
import { malformed, PacketType, type ProtocolVersion, protocolError, type QoS } from './types.js';
import { isWellFormedUtf8 } from './utf8.js';
import { VARINT_MAX } from './varint.js';

/** Session expiry that never comes (section 3.1.2.11.2), and what clean session 0 means to an older client. */
export const SESSION_NEVER_EXPIRES = 0xffff_ffff;

/** The largest packet there is: one byte, four bytes of remaining length, and what those can count. */
export const LARGEST_PACKET_BYTES = VARINT_MAX + 5;

export interface WillPacket {
  topicName: string;
  payload: Buffer;
  qos: QoS;
  retain: boolean;
  delaySeconds: number;
  /** -1 for none. */
  messageExpirySeconds: number;
  payloadIsUtf8: boolean;
  /** The property block as subscribers get it, without will delay, message expiry and the length before it. */
  properties: Buffer;
}

export interface ConnectPacket {
  version: ProtocolVersion;
  /** Empty when the server is to assign one, which only a clean session or a 5.0 client may ask for. */
  clientId: string;
  cleanStart: boolean;
  /** 0 for none. */
  keepAliveSeconds: number;
  userName: string | undefined;
  password: Buffer | undefined;
  will: WillPacket | undefined;
  /** For older clients 0 with clean session, SESSION_NEVER_EXPIRES without. */
  sessionExpirySeconds: number;
  /** 1 to 65535: how many QoS 1 and 2 messages the client takes at once. */
  receiveMaximum: number;
  /** LARGEST_PACKET_BYTES when the client sets no limit. */
  maximumPacketBytes: number;
  /** 0: the client takes no topic aliases. */
  topicAliasMaximum: number;
  requestResponseInformation: boolean;
  requestProblemInformation: boolean;
  authenticationMethod: string | undefined;
  authenticationData: Buffer | undefined;
  userProperties: [name: string, value: string][];
}

/** A CONNECT that is refused. */
export class ConnectError extends GomqError {
  override readonly reasonCode: number;
  /** The version to answer in; undefined when it is not known, and the connection is closed without a word. */
  readonly version: ProtocolVersion | undefined;

  constructor(message: string, reasonCode: number, version: ProtocolVersion | undefined, cause?: unknown) {
    super('PROTOCOL', message, { reasonCode, cause });
    this.name = 'ConnectError';
    this.reasonCode = reasonCode;
    this.version = version;
  }
}

const USER_NAME_FLAG = 0x80;
const PASSWORD_FLAG = 0x40;
const WILL_RETAIN_FLAG = 0x20;
const WILL_QOS_SHIFT = 3;
const WILL_QOS_MASK = 0x03;
const WILL_FLAG = 0x04;
const CLEAN_START_FLAG = 0x02;
const RESERVED_FLAG = 0x01;

/** Set by Mosquitto on the level byte to say that the client is a bridge; on a refusal it tries again without. */
const BRIDGE_BIT = 0x80;

/**
 * Decodes a complete CONNECT, fixed header included. The packet holds no reference to the frame.
 * @throws {ConnectError} with the reason code for CONNACK
 */
export function decodeConnect(frame: Buffer): ConnectPacket {
  let version: ProtocolVersion | undefined;
  try {
    const reader = new PacketReader(frame, PacketType.Connect, 'CONNECT');
    version = readVersion(reader);
    reader.checkFixedHeader(version, 0);
    return readBody(reader, version);
  } catch (error) {
    if (error instanceof ConnectError || !(error instanceof GomqError) || error.reasonCode === undefined) {
      throw error;
    }
    // [MQTT-3.1.4-1]
    throw new ConnectError(error.message, error.reasonCode, version, error);
  }
}

function readVersion(reader: PacketReader): ProtocolVersion {
  const name = reader.string('protocol name');
  if (name !== 'MQTT' && name !== 'MQIsdp') {
    // [MQTT-3.1.2-1]: whoever this is may not understand a CONNACK of any version, so it gets none.
    throw new ConnectError(
      `protocol name is ${JSON.stringify(name.slice(0, 32))}, not "MQTT"`,
      ReasonCode.UnsupportedProtocolVersion,
      undefined,
    );
  }
  const level = reader.byte('protocol level');
  if (name === 'MQIsdp') {
    if (level === 3) return 3;
    throw unsupportedLevel(name, level, 3);
  }
  if (level === 4 || level === 5) return level;
  // [MQTT-3.1.2-2]: a client newer than 5.0 knows 5.0's CONNACK; all others know 3.1.1's, bridges of Mosquitto included.
  const isBridge = level === (BRIDGE_BIT | 3) || level === (BRIDGE_BIT | 4);
  throw unsupportedLevel(name, level, level > 5 && !isBridge ? 5 : 4);
}

function unsupportedLevel(name: string, level: number, answerIn: ProtocolVersion): ConnectError {
  return new ConnectError(
    `protocol ${name} level ${level} is not supported`,
    ReasonCode.UnsupportedProtocolVersion,
    answerIn,
  );
}

function readBody(reader: PacketReader, version: ProtocolVersion): ConnectPacket {
  const flags = reader.byte('connect flags');
  checkFlags(flags, version);
  const cleanStart = (flags & CLEAN_START_FLAG) !== 0;
  const keepAliveSeconds = reader.uint16('keep alive');
  const properties = version === 5 ? readConnectProperties(reader) : new PropertyValues();

  // [MQTT-3.1.3-1]: client identifier, will, user name, password, in this order. [MQTT-3.1.3-3] [MQTT-3.1.3-4]
  const clientId = reader.string('client identifier');
  const will = (flags & WILL_FLAG) !== 0 ? readWill(reader, version, flags) : undefined;
  // [MQTT-3.1.2-17 v5] [MQTT-3.1.2-19 v3.1.1], [MQTT-3.1.3-12 v5] [MQTT-3.1.3-11 v3.1.1] for its characters
  const userName = isPresent(reader, version, flags, USER_NAME_FLAG) ? reader.string('user name') : undefined;
  // [MQTT-3.1.2-19 v5] [MQTT-3.1.2-21 v3.1.1]
  const password = isPresent(reader, version, flags, PASSWORD_FLAG) ? reader.binary('password') : undefined;
  // [MQTT-3.1.2-16 v5] [MQTT-3.1.2-18 v5] [MQTT-3.1.2-18 v3.1.1] [MQTT-3.1.2-20 v3.1.1]: a field whose flag is 0 is too many.
  reader.end();
  // After the structure: a packet that is malformed as well is answered as such.
  checkClientId(clientId, cleanStart, version);

  const sessionExpirySeconds =
    version === 5
      ? (properties.number(PropertyId.SessionExpiryInterval) ?? 0)
      : cleanStart
        ? 0
        : SESSION_NEVER_EXPIRES;
  return {
    version,
    clientId,
    cleanStart,
    keepAliveSeconds,
    userName,
    password,
    will,
    sessionExpirySeconds,
    receiveMaximum: properties.number(PropertyId.ReceiveMaximum) ?? 65_535,
    maximumPacketBytes: Math.min(
      properties.number(PropertyId.MaximumPacketSize) ?? LARGEST_PACKET_BYTES,
      LARGEST_PACKET_BYTES,
    ),
    topicAliasMaximum: properties.number(PropertyId.TopicAliasMaximum) ?? 0,
    requestResponseInformation: properties.number(PropertyId.RequestResponseInformation) === 1,
    requestProblemInformation: properties.number(PropertyId.RequestProblemInformation) !== 0,
    authenticationMethod: properties.text(PropertyId.AuthenticationMethod),
    authenticationData: properties.bytes(PropertyId.AuthenticationData),
    userProperties: properties.userProperties,
  };
}

function checkFlags(flags: number, version: ProtocolVersion): void {
  const hasWill = (flags & WILL_FLAG) !== 0;
  const willQos = (flags >> WILL_QOS_SHIFT) & WILL_QOS_MASK;
  // [MQTT-3.1.2-12 v5] [MQTT-3.1.2-14 v3.1.1]
  if (hasWill && willQos === 3) throw malformed('will QoS is 3');
  // [MQTT-3.1.2-22 v3.1.1]; MQTT 3.1 says the same in prose, MQTT 5.0 allows a password alone.
  if (version < 5 && (flags & USER_NAME_FLAG) === 0 && (flags & PASSWORD_FLAG) !== 0) {
    throw malformed('password flag without user name flag');
  }
  // MQTT 3.1 calls the reserved bit unused, and has a server disregard will QoS and will retain without the will flag.
  if (version === 3) return;
  // [MQTT-3.1.2-3]
  if ((flags & RESERVED_FLAG) !== 0) throw malformed('reserved connect flag is set');
  // [MQTT-3.1.2-11 v5] [MQTT-3.1.2-13 v3.1.1]
  if (!hasWill && willQos !== 0) throw malformed(`will QoS is ${willQos} without a will`);
  // [MQTT-3.1.2-13 v5] [MQTT-3.1.2-15 v3.1.1]
  if (!hasWill && (flags & WILL_RETAIN_FLAG) !== 0) throw malformed('will retain is set without a will');
}

/**
 * In MQTT 3.1 the remaining length takes precedence over the flags of user name and password (its section on CONNECT says so
 * for clients of the version before it): a packet that ends before them is in order.
 */
function isPresent(reader: PacketReader, version: ProtocolVersion, flags: number, flag: number): boolean {
  return (flags & flag) !== 0 && !(version === 3 && reader.remaining === 0);
}

function readConnectProperties(reader: PacketReader): PropertyValues {
  const start = reader.propertyBlock();
  const properties = decodeProperties(reader.frame, start, reader.position, PacketType.Connect);
  if (
    properties.bytes(PropertyId.AuthenticationData) !== undefined &&
    properties.text(PropertyId.AuthenticationMethod) === undefined
  ) {
    // Section 3.1.2.11.10.
    throw protocolError('authentication data without an authentication method');
  }
  return properties;
}

function readWill(reader: PacketReader, version: ProtocolVersion, flags: number): WillPacket {
  // [MQTT-3.1.2-9]: with the will flag, will properties (5.0), topic and payload are there.
  let properties = new PropertyValues();
  let forward: Buffer = Buffer.alloc(0);
  if (version === 5) {
    const start = reader.propertyBlock('will properties');
    properties = decodeProperties(reader.frame, start, reader.position, WILL);
    forward = forwardableProperties(reader.frame, start, reader.position);
  }
  // [MQTT-3.1.3-11 v5] [MQTT-3.1.3-10 v3.1.1]
  const topicName = reader.string('will topic');
  checkWillTopic(topicName);
  const payload = reader.binary('will payload');
  const payloadIsUtf8 = properties.number(PropertyId.PayloadFormatIndicator) === 1;
  if (payloadIsUtf8 && !isWellFormedUtf8(payload, 0, payload.length)) {
    throw protocolError('will payload is not the UTF-8 it promises to be', ReasonCode.PayloadFormatInvalid);
  }
  return {
    topicName,
    payload,
    qos: ((flags >> WILL_QOS_SHIFT) & WILL_QOS_MASK) as QoS,
    retain: (flags & WILL_RETAIN_FLAG) !== 0,
    delaySeconds: properties.number(PropertyId.WillDelayInterval) ?? 0,
    messageExpirySeconds: properties.number(PropertyId.MessageExpiryInterval) ?? -1,
    payloadIsUtf8,
    properties: forward,
  };
}

/** A will is published later, when nobody can be told any more that its topic was wrong. */
function checkWillTopic(topicName: string): void {
  // [MQTT-4.7.3-1] [MQTT-4.7.1-1 v5] [MQTT-3.3.2-2]
  if (topicName === '' || topicName.includes('+') || topicName.includes('#')) {
    throw protocolError(
      topicName === '' ? 'will topic is empty' : 'will topic contains a wildcard',
      ReasonCode.TopicNameInvalid,
    );
  }
}

function checkClientId(clientId: string, cleanStart: boolean, version: ProtocolVersion): void {
  if (clientId !== '' || version === 5) return; // [MQTT-3.1.3-6 v5]: an empty one is assigned.
  // [MQTT-3.1.3-7 v3.1.1] [MQTT-3.1.3-8 v3.1.1]. MQTT 3.1 knows no empty identifier; its limit of 23 characters at the other
  // end is not kept by its clients, and not held against them.
  if (version === 3 || !cleanStart) {
    throw protocolError(
      version === 3 ? 'client identifier is empty' : 'client identifier is empty without clean session',
      ReasonCode.ClientIdentifierNotValid,
    );
  }
}
