// Owns the translation of what a network, a TLS stack or a broker reports into the errors of this package, by code, never by text.
import { ReasonCodes } from 'mqtt';
import { type ClientErrorCode, GomqClientError } from './errors.js';

/** The codes of node:tls that say who the other side is not; they do not go away by trying again. */
const CERTIFICATE_CODES = new Set([
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_REVOKED',
  'CERT_REJECTED',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'EPROTO',
  'HOSTNAME_MISMATCH',
  'INVALID_CA',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

/**
 * CONNACK reason codes (MQTT 5 section 3.2.2.2) and return codes (3.1.1 section 3.2.2.3) that are not about a passing state
 * of the broker, and so are not tried again.
 */
const FINAL_CONNACK: ReadonlyMap<number, ClientErrorCode> = new Map([
  [0x01, 'PROTOCOL'],
  [0x02, 'CONNECTION_REFUSED'],
  [0x04, 'AUTH_REFUSED'],
  [0x05, 'AUTH_REFUSED'],
  [0x81, 'PROTOCOL'],
  [0x82, 'PROTOCOL'],
  [0x84, 'PROTOCOL'],
  [0x85, 'CONNECTION_REFUSED'],
  [0x86, 'AUTH_REFUSED'],
  [0x87, 'AUTH_REFUSED'],
  [0x8a, 'AUTH_REFUSED'],
  [0x8c, 'AUTH_REFUSED'],
  [0x90, 'CONNECTION_REFUSED'],
  [0x95, 'CONNECTION_REFUSED'],
  [0x99, 'CONNECTION_REFUSED'],
  [0x9a, 'CONNECTION_REFUSED'],
  [0x9b, 'CONNECTION_REFUSED'],
]);

/** `0x87 Not authorized: the reason string of the broker`. */
export function reasonText(code: number, reasonString?: string): string {
  const name = (ReasonCodes as Record<number, string | undefined>)[code];
  const number = `0x${code.toString(16).padStart(2, '0')}`;
  return `${number}${name ? ` ${name}` : ''}${reasonString ? `: ${reasonString}` : ''}`;
}

export function connackError(broker: string, reasonCode: number, reasonString?: string): GomqClientError {
  const final = FINAL_CONNACK.get(reasonCode);
  return new GomqClientError(
    final ?? 'CONNECTION_REFUSED',
    `Broker ${broker} refused the connection, ${reasonText(reasonCode, reasonString)}.`,
    { reasonCode, retriable: final === undefined },
  );
}

/** A DISCONNECT from the broker, MQTT 5 section 3.14. */
export function disconnectError(broker: string, reasonCode: number, reasonString?: string): GomqClientError {
  const takenOver = reasonCode === 0x8e;
  return new GomqClientError(
    takenOver ? 'SESSION_TAKEN_OVER' : 'CONNECTION_LOST',
    `Broker ${broker} ended the connection, ${reasonText(reasonCode, reasonString)}.`,
    { reasonCode, retriable: !takenOver },
  );
}

/** The code that Node.js gives an error, as `ECONNREFUSED`. */
export function systemCode(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** An error of the socket, of TLS, of the WebSocket or of MQTT.js. */
export function connectionError(broker: string, cause: unknown, wasUp = false): GomqClientError {
  const text =
    cause instanceof Error && cause.message !== '' ? cause.message : String(systemCode(cause) ?? cause);
  const code = systemCode(cause);
  if (wasUp) {
    return new GomqClientError('CONNECTION_LOST', `The connection to ${broker} was lost: ${text}.`, {
      retriable: true,
      cause,
    });
  }
  if (code === 'ENOTFOUND') {
    return new GomqClientError('UNKNOWN_HOST', `The host of ${broker} is unknown: ${text}.`, {
      retriable: true,
      cause,
    });
  }
  if (code !== undefined && (CERTIFICATE_CODES.has(code) || code.startsWith('ERR_SSL_'))) {
    return new GomqClientError('TLS_FAILED', `TLS with ${broker} failed: ${text}.`, { cause });
  }
  return new GomqClientError('CONNECT_FAILED', `No connection to ${broker}: ${text}.`, {
    retriable: true,
    cause,
  });
}
