// Owns DISCONNECT and AUTH as they come from a client. Decoded by the same walk that validates, for the reasons at the head of
// connect.ts.
import { decodeProperties, PropertyValues } from './properties.js';
import { PropertyId } from './property-table.js';
import { PacketReader } from './reader.js';
import { ReasonCode, reasonName } from './reason-codes.js';
import { malformed, PacketType, type ProtocolVersion, protocolError } from './types.js';

export interface DisconnectPacket {
  /** 0x00 drops the will; every other code, 0x04 first of all, has it published. */
  reasonCode: number;
  /** Replaces the session expiry of the CONNECT; undefined leaves it. */
  sessionExpirySeconds: number | undefined;
  reasonString: string | undefined;
  userProperties: [name: string, value: string][];
}

export interface AuthPacket {
  reasonCode: number;
  authenticationMethod: string;
  authenticationData: Buffer | undefined;
}

/** Table 3-10 of 5.0: the codes a client may send in DISCONNECT, and those that are a server's alone. */
const DISCONNECT_FROM_CLIENT: ReadonlySet<number> = new Set([
  ReasonCode.NormalDisconnection,
  ReasonCode.DisconnectWithWill,
  ReasonCode.UnspecifiedError,
  ReasonCode.MalformedPacket,
  ReasonCode.ProtocolError,
  ReasonCode.ImplementationSpecificError,
  ReasonCode.TopicNameInvalid,
  ReasonCode.ReceiveMaximumExceeded,
  ReasonCode.TopicAliasInvalid,
  ReasonCode.PacketTooLarge,
  ReasonCode.MessageRateTooHigh,
  ReasonCode.QuotaExceeded,
  ReasonCode.AdministrativeAction,
  ReasonCode.PayloadFormatInvalid,
]);
const DISCONNECT_FROM_SERVER: ReadonlySet<number> = new Set([
  ReasonCode.NotAuthorized,
  ReasonCode.ServerBusy,
  ReasonCode.ServerShuttingDown,
  ReasonCode.KeepAliveTimeout,
  ReasonCode.SessionTakenOver,
  ReasonCode.TopicFilterInvalid,
  ReasonCode.RetainNotSupported,
  ReasonCode.QosNotSupported,
  ReasonCode.UseAnotherServer,
  ReasonCode.ServerMoved,
  ReasonCode.SharedSubscriptionsNotSupported,
  ReasonCode.ConnectionRateExceeded,
  ReasonCode.MaximumConnectTime,
  ReasonCode.SubscriptionIdentifiersNotSupported,
  ReasonCode.WildcardSubscriptionsNotSupported,
]);

/** Table 3-11 of 5.0. */
const AUTH_FROM_CLIENT: ReadonlySet<number> = new Set([
  ReasonCode.ContinueAuthentication,
  ReasonCode.ReAuthenticate,
]);
const AUTH_FROM_SERVER: ReadonlySet<number> = new Set([ReasonCode.Success]);

/**
 * Decodes a complete DISCONNECT, fixed header included. Older versions have nothing after the header.
 * @throws {GomqError} 0x81 or 0x82
 */
export function decodeDisconnect(frame: Buffer, version: ProtocolVersion): DisconnectPacket {
  const reader = new PacketReader(frame, PacketType.Disconnect, 'DISCONNECT');
  reader.checkFixedHeader(version, 0); // [MQTT-3.14.1-1]
  let reasonCode: number = ReasonCode.NormalDisconnection;
  let properties = new PropertyValues();
  if (version === 5) {
    // Section 3.14.2.1: without bytes the code is 0x00, with one byte there are no properties.
    if (reader.remaining > 0) reasonCode = reader.byte('reason code');
    checkReasonCode(reasonCode, 'DISCONNECT', DISCONNECT_FROM_CLIENT, DISCONNECT_FROM_SERVER); // [MQTT-3.14.2-1]
    if (reader.remaining > 0) {
      const start = reader.propertyBlock();
      properties = decodeProperties(frame, start, reader.position, PacketType.Disconnect);
    }
  }
  reader.end();
  return {
    reasonCode,
    sessionExpirySeconds: properties.number(PropertyId.SessionExpiryInterval),
    reasonString: properties.text(PropertyId.ReasonString),
    userProperties: properties.userProperties,
  };
}

/**
 * Decodes a complete AUTH of a 5.0 client, fixed header included.
 * @throws {GomqError} 0x81 or 0x82
 */
export function decodeAuth(frame: Buffer): AuthPacket {
  const reader = new PacketReader(frame, PacketType.Auth, 'AUTH');
  reader.checkFixedHeader(5, 0); // [MQTT-3.15.1-1]
  // Section 3.15.2.1: a packet without bytes means success, which is the server's to say.
  const reasonCode = reader.remaining === 0 ? ReasonCode.Success : reader.byte('reason code');
  checkReasonCode(reasonCode, 'AUTH', AUTH_FROM_CLIENT, AUTH_FROM_SERVER); // [MQTT-3.15.2-1]
  const start = reader.propertyBlock();
  const properties = decodeProperties(frame, start, reader.position, PacketType.Auth);
  reader.end();
  const authenticationMethod = properties.text(PropertyId.AuthenticationMethod);
  // Section 3.15.2.2.2.
  if (authenticationMethod === undefined) throw protocolError('AUTH without an authentication method');
  return {
    reasonCode,
    authenticationMethod,
    authenticationData: properties.bytes(PropertyId.AuthenticationData),
  };
}

/** A code that does not exist makes the packet malformed; one that is the other side's to send breaks a rule. */
function checkReasonCode(
  reasonCode: number,
  name: string,
  fromClient: ReadonlySet<number>,
  fromServer: ReadonlySet<number>,
): void {
  if (fromClient.has(reasonCode)) return;
  if (fromServer.has(reasonCode))
    throw protocolError(`${name} with ${reasonName(reasonCode)}, a server's code`);
  throw malformed(`${name} with reason code 0x${reasonCode.toString(16)}, which it does not have`);
}
