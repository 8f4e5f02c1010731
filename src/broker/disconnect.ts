// DISCONNECT and AUTH from a client.
import { decodeAuth, decodeDisconnect } from '../packet/disconnect.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { protocolError } from '../packet/types.js';
import type { Connection } from './connection.js';

export function handleDisconnect(connection: Connection, frame: Buffer): void {
  const packet = decodeDisconnect(frame, connection.version);
  if (packet.sessionExpirySeconds !== undefined) {
    if (!connection.hadSessionExpiry && packet.sessionExpirySeconds > 0) {
      throw protocolError('DISCONNECT gives a session an expiry that CONNECT did not'); // [MQTT-3.14.2-2]
    }
    const { sessionExpirySecondsMax } = connection.broker.config.mqtt;
    connection.session!.expirySeconds = Math.min(packet.sessionExpirySeconds, sessionExpirySecondsMax);
  }
  // [MQTT-3.14.4-3] v5, [MQTT-3.14.4-3] v3.1.1: a clean goodbye discards the will. Any other reason publishes it.
  if (packet.reasonCode === ReasonCode.NormalDisconnection) connection.session!.will = undefined;
  connection.finish();
}

export function handleAuth(connection: Connection, frame: Buffer): void {
  if (connection.version !== 5) throw protocolError('AUTH is of MQTT 5.0');
  decodeAuth(frame);
  // CONNECT with an authentication method was refused, so no exchange can be going on [MQTT-4.12.0-6].
  throw protocolError('AUTH without an authentication method in CONNECT');
}
