// Owns the packets that the broker answers with, hot acks aside: CONNACK, SUBACK, UNSUBACK, DISCONNECT. mqtt-packet writes the
// bytes; the rules of what may be said to whom are here.
import { generate, type Packet, writeToStream } from 'mqtt-packet';
import { assert } from '../core/assert.js';
import { connectReturnCode, ReasonCode } from './reason-codes.js';
import type { ProtocolVersion } from './types.js';

// By default mqtt-packet makes a buffer of each of the 65,536 two-byte numbers at first use, and keeps them.
writeToStream.cacheNumbers = false;

export type UserProperties = readonly (readonly [name: string, value: string])[];

/** What every answer may carry to a 5.0 client. */
export interface AnswerProperties {
  reasonString?: string | undefined;
  userProperties?: UserProperties | undefined;
  /**
   * The client's Maximum Packet Size. An answer that would be larger goes without reason string and user properties
   * [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4].
   */
  maximumPacketBytes?: number | undefined;
}

/** CONNACK properties of section 3.2.2.3 besides those of every answer. An absent one means what the standard says it means. */
export interface ConnackProperties extends AnswerProperties {
  sessionExpirySeconds?: number | undefined;
  receiveMaximum?: number | undefined;
  /** Send it only to say 0 or 1: 2 is what its absence means, and not a value it may have [MQTT-3.2.2-9]. */
  maximumQos?: 0 | 1 | undefined;
  retainAvailable?: boolean | undefined;
  /** The largest packet the server takes, in bytes. */
  maximumPacketSize?: number | undefined;
  assignedClientId?: string | undefined;
  topicAliasMaximum?: number | undefined;
  wildcardSubscriptionAvailable?: boolean | undefined;
  subscriptionIdentifiersAvailable?: boolean | undefined;
  sharedSubscriptionAvailable?: boolean | undefined;
  serverKeepAliveSeconds?: number | undefined;
  responseInformation?: string | undefined;
  serverReference?: string | undefined;
  authenticationMethod?: string | undefined;
  authenticationData?: Buffer | undefined;
}

export interface Connack {
  sessionPresent: boolean;
  /** An MQTT 5.0 reason code; older clients get the return code that stands for it. */
  reasonCode: number;
  /** For 5.0 clients. */
  properties?: ConnackProperties | undefined;
}

/**
 * CONNACK, or undefined when the client's version has no code for the reason: then the connection is closed without one
 * [MQTT-3.2.2-6 v3.1.1].
 */
export function encodeConnack(version: ProtocolVersion, connack: Connack): Buffer | undefined {
  const { reasonCode } = connack;
  // [MQTT-3.2.2-6 v5] [MQTT-3.2.2-4 v3.1.1]: no session is present for a connection that is refused. MQTT 3.1 reserves the byte.
  const sessionPresent = connack.sessionPresent && reasonCode === ReasonCode.Success && version !== 3;
  if (version !== 5) {
    const returnCode = connectReturnCode(reasonCode);
    return returnCode === undefined
      ? undefined
      : bytesOf({ cmd: 'connack', sessionPresent, returnCode }, version);
  }
  const { reasonString, userProperties, maximumPacketBytes, ...rest } = connack.properties ?? {};
  const properties = {
    sessionExpiryInterval: rest.sessionExpirySeconds,
    receiveMaximum: rest.receiveMaximum,
    maximumQoS: rest.maximumQos,
    retainAvailable: rest.retainAvailable,
    maximumPacketSize: rest.maximumPacketSize,
    assignedClientIdentifier: rest.assignedClientId,
    topicAliasMaximum: rest.topicAliasMaximum,
    wildcardSubscriptionAvailable: rest.wildcardSubscriptionAvailable,
    subscriptionIdentifiersAvailable: rest.subscriptionIdentifiersAvailable,
    sharedSubscriptionAvailable: rest.sharedSubscriptionAvailable,
    serverKeepAlive: rest.serverKeepAliveSeconds,
    responseInformation: rest.responseInformation,
    serverReference: rest.serverReference,
    authenticationMethod: rest.authenticationMethod,
    authenticationData: rest.authenticationData,
  };
  return answer({ cmd: 'connack', sessionPresent, reasonCode }, properties, {
    reasonString,
    userProperties,
    maximumPacketBytes,
  });
}

/**
 * SUBACK.
 * @param codes one for each filter in the order of the SUBSCRIBE [MQTT-3.8.4-6 v5] [MQTT-3.8.4-5 v3.1.1]: the QoS granted or a
 * reason code of 0x80 and above, which older clients get as 0x80
 */
export function encodeSuback(
  version: ProtocolVersion,
  packetId: number,
  codes: readonly number[],
  properties: AnswerProperties = {},
): Buffer {
  assert(codes.length > 0, 'a SUBACK answers at least one filter');
  if (version === 5)
    return answer({ cmd: 'suback', messageId: packetId, granted: [...codes] }, {}, properties);
  // [MQTT-3.9.3-2 v3.1.1]. MQTT 3.1 has no code for a failure; 0x80 is what 3.1.1 gave it and what its clients know best.
  const granted = codes.map((code) => Math.min(code, ReasonCode.UnspecifiedError));
  return bytesOf({ cmd: 'suback', messageId: packetId, granted }, version);
}

/**
 * UNSUBACK.
 * @param codes one for each filter in the order of the UNSUBSCRIBE [MQTT-3.11.3-1]; older versions have none on the wire
 */
export function encodeUnsuback(
  version: ProtocolVersion,
  packetId: number,
  codes: readonly number[],
  properties: AnswerProperties = {},
): Buffer {
  assert(codes.length > 0, 'an UNSUBACK answers at least one filter');
  const packet: Packet = { cmd: 'unsuback', messageId: packetId, granted: [...codes] };
  return version === 5 ? answer(packet, {}, properties) : bytesOf(packet, version);
}

export interface ServerDisconnect extends AnswerProperties {
  reasonCode: number;
  /** Where to go instead, with 0x9C and 0x9D. */
  serverReference?: string | undefined;
}

/** DISCONNECT to a 5.0 client; no other version has one from the server. It never carries a session expiry [MQTT-3.14.2-2]. */
export function encodeDisconnect(disconnect: ServerDisconnect): Buffer {
  const { reasonCode, serverReference } = disconnect;
  return answer({ cmd: 'disconnect', reasonCode }, { serverReference }, disconnect);
}

/** Encodes for 5.0, leaving out what the client's maximum packet size has no room for. */
function answer(packet: Packet, properties: object, extra: AnswerProperties): Buffer {
  const full = bytesOf({ ...packet, properties: { ...properties, ...wireExtra(extra) } }, 5);
  if (full.length <= (extra.maximumPacketBytes ?? Number.POSITIVE_INFINITY)) return full;
  return bytesOf({ ...packet, properties }, 5);
}

/** Reasons quote what clients sent, which may be as long as a client likes. */
const REASON_CHARACTERS_MAX = 256;

/** A reason that fits in a reason string, whatever it quotes. */
export function shortReason(why: string): string {
  return why.length <= REASON_CHARACTERS_MAX
    ? why
    : `${why.slice(0, REASON_CHARACTERS_MAX).toWellFormed()}...`;
}

function wireExtra({ reasonString, userProperties = [] }: AnswerProperties): object {
  // A list of objects of one name each is the only form in which mqtt-packet keeps order and repetition; an empty list makes it
  // write nothing at all.
  const pairs = userProperties.map(([name, value]) => ({ [name]: value }));
  return {
    reasonString: reasonString === undefined ? undefined : shortReason(reasonString),
    userProperties: pairs.length === 0 ? undefined : pairs,
  };
}

/** A packet with properties of a looser shape than mqtt-packet's types, which do not know lists of user properties. */
type LoosePacket = Packet | (Omit<Packet, 'properties'> & { properties: object });

function bytesOf(packet: LoosePacket, protocolVersion: ProtocolVersion): Buffer {
  // What mqtt-packet cannot encode, a string beyond 65,535 bytes for one, it throws or leaves out: a defect of the caller.
  const bytes = generate(packet as Packet, { protocolVersion });
  assert(bytes.length > 0, `${packet.cmd} can be encoded`);
  return bytes;
}
