// The vocabulary of the wire shared by every file that handles packets.
import { GomqError } from '../core/errors.js';
import { ReasonCode } from './reason-codes.js';

/** MQTT control packet types, section 2.1.2 of 5.0. */
export const PacketType = {
  Connect: 1,
  Connack: 2,
  Publish: 3,
  Puback: 4,
  Pubrec: 5,
  Pubrel: 6,
  Pubcomp: 7,
  Subscribe: 8,
  Suback: 9,
  Unsubscribe: 10,
  Unsuback: 11,
  Pingreq: 12,
  Pingresp: 13,
  Disconnect: 14,
  Auth: 15,
} as const;

/** 3 is MQTT 3.1 (`MQIsdp`), 4 is 3.1.1, 5 is 5.0. */
export type ProtocolVersion = 3 | 4 | 5;

export type QoS = 0 | 1 | 2;

/** What is granted and what was published, whichever is less [MQTT-3.8.4-8]. */
export function lowerQos(a: QoS, b: QoS): QoS {
  return Math.min(a, b) as QoS;
}

/** Bytes break the structure the standard gives them: 0x81 to a 5.0 client, a silent close to an older one. */
export function malformed(what: string): GomqError {
  return new GomqError('PROTOCOL', what, { reasonCode: ReasonCode.MalformedPacket });
}

/** Well-formed bytes break a rule of the standard. */
export function protocolError(what: string, reasonCode: number = ReasonCode.ProtocolError): GomqError {
  return new GomqError('PROTOCOL', what, { reasonCode });
}
