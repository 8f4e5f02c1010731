// Owns how the address of a broker is written: HOST:PORT, HOST, or a URL with mqtt, mqtts, ws or wss.
import { Failure } from './failure.js';

export type Scheme = 'mqtt' | 'mqtts' | 'ws' | 'wss';

export interface Address {
  scheme: Scheme;
  /** A name or an address; an IPv6 address without its brackets. */
  host: string;
  port: number;
  /** The path of the WebSocket endpoint; unused by mqtt and mqtts. */
  path: string;
  username?: string;
  password?: string;
  /** The topic at the end of a URL given with --url. */
  topic?: string;
}

/** Where gomq listens unless told otherwise. */
export const DEFAULT_HOST = '127.0.0.1';
export const DEFAULT_PORT = 9000;
const DEFAULT_WEBSOCKET_PATH = '/mqtt';

// A URL without a port means the registered port of its scheme; an address without a scheme means gomq's own default.
const URL_PORTS: Record<Scheme, number> = { mqtt: 1883, mqtts: 8883, ws: 80, wss: 443 };

const USAGE = 'write HOST:PORT (127.0.0.1:9000, [::1]:9000) or a URL (mqtt, mqtts, ws or wss)';

export function parsePort(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/**
 * Takes an address apart. `pathIsTopic` tells the two meanings of a URL's path apart: the topic for --url, as in mosquitto,
 * and the WebSocket endpoint for --connect.
 * @throws {Failure} where the text is neither HOST:PORT nor such a URL
 */
export function parseAddress(text: string, pathIsTopic = false): Address {
  const url = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/i.exec(text);
  if (url !== null) return parseUrl(text, url[1]!.toLowerCase(), url[2]!, pathIsTopic);
  if (pathIsTopic) throw new Failure(`"${text}" is not a URL; write it as mqtt://HOST:PORT/TOPIC`);
  const { host, port } = parseHostPort(text, text, DEFAULT_PORT);
  return { scheme: 'mqtt', host, port, path: DEFAULT_WEBSOCKET_PATH };
}

function parseUrl(text: string, scheme: string, rest: string, pathIsTopic: boolean): Address {
  if (!isScheme(scheme)) {
    throw new Failure(`unknown scheme "${scheme}://" in "${hidePassword(text)}"; use mqtt, mqtts, ws or wss`);
  }
  // Not the URL class: to it the `#` of a topic filter would begin a fragment.
  const slash = rest.indexOf('/');
  const authority = slash === -1 ? rest : rest.slice(0, slash);
  const path = slash === -1 ? '' : rest.slice(slash);
  const at = authority.lastIndexOf('@');
  const { host, port } = parseHostPort(authority.slice(at + 1), hidePassword(text), URL_PORTS[scheme]);
  const address: Address = { scheme, host, port, path: DEFAULT_WEBSOCKET_PATH };
  if (at !== -1) {
    const userInfo = authority.slice(0, at);
    const colon = userInfo.indexOf(':');
    address.username = decode(colon === -1 ? userInfo : userInfo.slice(0, colon), text);
    if (colon !== -1) address.password = decode(userInfo.slice(colon + 1), text);
  }
  if (pathIsTopic) {
    if (path.length > 1) address.topic = decode(path.slice(1), text);
  } else if (scheme === 'ws' || scheme === 'wss') {
    if (path.length > 0) address.path = path;
  } else if (path.length > 1) {
    throw new Failure(
      `"${hidePassword(text)}" has a path, which ${scheme} does not know; a topic goes into --topic`,
    );
  }
  return address;
}

function isScheme(scheme: string): scheme is Scheme {
  return Object.hasOwn(URL_PORTS, scheme);
}

function decode(part: string, text: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new Failure(
      `"${hidePassword(text)}" has a % that is not followed by two hexadecimal digits; write % as %25`,
    );
  }
}

function hidePassword(text: string): string {
  return text.replace(/:\/\/([^:@/]*):[^@/]*@/, '://$1:***@');
}

function parseHostPort(text: string, shown: string, defaultPort: number): { host: string; port: number } {
  const bracketed = /^\[([0-9a-f:.]+(?:%[\w.-]+)?)\](?::(.*))?$/i.exec(text);
  const plain = /^([^\s:[\]/@?#]+)(?::(.*))?$/.exec(text);
  const match = bracketed ?? plain;
  if (match === null) throw new Failure(`"${shown}" is not an address; ${USAGE}`);
  const port = match[2] === undefined ? defaultPort : parsePort(match[2]);
  if (port === undefined) {
    throw new Failure(`"${shown}" has no valid port; a port is a number from 1 to 65535`);
  }
  return { host: match[1]!, port };
}

/** HOST:PORT as in an error message, with the scheme where it is not plain MQTT. */
export function formatAddress(address: Address): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const prefix = address.scheme === 'mqtt' ? '' : `${address.scheme}://`;
  const path = address.scheme === 'ws' || address.scheme === 'wss' ? address.path : '';
  return `${prefix}${host}:${address.port}${path}`;
}
