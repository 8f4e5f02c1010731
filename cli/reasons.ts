// Owns the words for what a broker or a network refuses: what happened and what to do about it, one line for each.
import { reasonName } from '../src/packet/reason-codes.js';

/** CONNACK return codes of MQTT 3.1 and 3.1.1, table 3.1. */
const RETURN_CODES: Record<number, string> = {
  1: 'unacceptable protocol version',
  2: 'client id rejected',
  3: 'server unavailable',
  4: 'bad user name or password',
  5: 'not authorized',
};

const ADVICE: Record<number, string> = {
  1: 'try another version with -V',
  2: 'choose another --id',
  3: 'try again later',
  4: 'check --username and --password',
  5: 'check --username and --password, and the rights of this user',
  128: 'the log of the broker may say more',
  132: 'try -V 311',
  133: 'choose another --id',
  134: 'check --username and --password',
  135: 'check --username and --password, and the rights of this user',
  136: 'try again later',
  137: 'try again later',
  139: 'try again later',
  142: 'another client connected with the same --id',
  147: 'lower the receive maximum',
  149: 'the message is larger than the broker accepts',
  151: 'a limit of the broker is reached; try again later',
  153: 'the payload is not the UTF-8 that its payload format indicator promises',
  154: 'leave out --retain',
  155: 'use a lower --qos',
  156: 'connect to the server it names',
  157: 'connect to the server it names',
  158: 'subscribe without $share',
  159: 'connect less often',
};

/** `not authorized (0x87): check --username ...`, with the words the broker sent along, if any. */
export function describeReason(
  code: number,
  properties?: { reasonString?: string; serverReference?: string },
): string {
  // reasonName() answers `0x87 not authorized`; a person wants the words first.
  const name = reasonName(code);
  const space = name.indexOf(' ');
  const words = code < 0x80 ? (RETURN_CODES[code] ?? `code ${code}`) : name.slice(space + 1);
  const number = code < 0x80 ? `code ${code}` : name.slice(0, space);
  const said = properties?.reasonString ? `, the broker says "${oneLine(properties.reasonString)}"` : '';
  const server = properties?.serverReference ? `, server ${oneLine(properties.serverReference)}` : '';
  const advice = ADVICE[code];
  return `${words} (${number})${said}${server}${advice === undefined ? '' : `; ${advice}`}`;
}

/** Text from the network on a line of ours: no line breaks, and no escape sequences for the terminal. */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ').trim();
}

const NETWORK: Record<string, string> = {
  ECONNREFUSED:
    'connection refused; is the broker running there? `gomq start` starts one, --connect HOST:PORT names another',
  ENOTFOUND: 'unknown host; check the name in --connect',
  EAI_AGAIN: 'unknown host, the name server did not answer; check the name in --connect',
  ETIMEDOUT: 'no answer; check the address and the firewall',
  EHOSTUNREACH: 'the host cannot be reached; check the address and the network',
  ENETUNREACH: 'the network cannot be reached; check the address and the network',
  ECONNRESET: 'the broker reset the connection',
  EPIPE: 'the broker closed the connection',
  EPROTO: 'TLS failed; is this the port for TLS?',
  ERR_SSL_WRONG_VERSION_NUMBER:
    'the broker does not speak TLS on this port; use mqtt:// or ws://, or the port for TLS',
  ERR_SSL_PACKET_LENGTH_TOO_LONG:
    'the broker does not speak TLS on this port; use mqtt:// or ws://, or the port for TLS',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'the certificate of the broker is self-signed; name it with --cafile',
  SELF_SIGNED_CERT_IN_CHAIN: 'the certificate of the broker is not trusted; name its authority with --cafile',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    'the certificate of the broker is not trusted; name its authority with --cafile',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    'the certificate of the broker is not trusted; name its authority with --cafile',
  CERT_HAS_EXPIRED: 'the certificate of the broker has expired',
  ERR_TLS_CERT_ALTNAME_INVALID:
    'the certificate of the broker is for another host; check the name in --connect',
  ERR_OSSL_PEM_NO_START_LINE: 'a file given with --cafile, --cert or --key is not PEM',
};

/** The reason of a failed or lost connection in words. */
export function describeNetworkError(error: unknown): string {
  if (!(error instanceof Error)) return oneLine(String(error));
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined;
  if (code !== undefined && Object.hasOwn(NETWORK, code)) return NETWORK[code]!;
  if (error.message === 'connack timeout') return 'no CONNACK in time; is this the MQTT port of a broker?';
  if (error.message === 'Keepalive timeout') return 'the broker did not answer within the keep alive';
  if (error.message.startsWith('Unexpected server response')) {
    return `${error.message}; is this the WebSocket address of the broker? A path goes after the port, as in ws://HOST:PORT/mqtt`;
  }
  return oneLine(error.message || code || 'connection failed');
}
