// Owns the options that producers and consumers share, their defaults, their checks, and the reading of broker addresses.
import { randomBytes } from 'node:crypto';
import type { DiscoverySource } from './discovery.js';
import { GomqClientError } from './errors.js';
import { asBuffer, type MessageProperties, toPacketProperties } from './properties.js';
import { assertTopicName } from './topics.js';

export type Qos = 0 | 1 | 2;
export type Payload = string | Uint8Array;
type Pem = string | Uint8Array | (string | Uint8Array)[];

/** For `mqtts://` and `wss://` brokers, and for brokers written without a protocol once it is given. As in node:tls. */
export interface TlsOptions {
  ca?: Pem;
  cert?: Pem;
  key?: Pem;
  pfx?: string | Uint8Array;
  passphrase?: string;
  servername?: string;
  /** False accepts any certificate, and with it anybody in between. */
  rejectUnauthorized?: boolean;
  alpnProtocols?: string[];
}

export interface WebSocketOptions {
  /** Used where the address of the broker has no path. */
  path?: string;
  headers?: Record<string, string>;
}

/** What the broker publishes when the connection ends without a clean close. */
export interface Will {
  topic: string;
  payload: Payload;
  qos?: Qos;
  retain?: boolean;
  /** MQTT 5: how long the broker waits for the client to come back first. */
  delaySeconds?: number;
  properties?: MessageProperties;
}

/** What happens to the connection, for logs. Nothing in it needs an answer: reconnecting is automatic. */
export type ClientEvent =
  | { type: 'connected'; broker: string; sessionPresent: boolean }
  | { type: 'disconnected'; broker: string; error: GomqClientError }
  | { type: 'retrying'; broker: string; delayMs: number; error: GomqClientError }
  | { type: 'discarded'; topic: string; qos: Qos; reason: 'buffer full' | 'not claimed' };

/** Any broker of a gomq cluster is asked over HTTP which brokers there are: `http://host:port` or `https://host:port`. */
export interface BrokersByHttp {
  /** One is enough while it is there; asked all at once. */
  http: string[];
  /** `http.token` of the brokers, where they have one. */
  token?: string;
}

/** etcd is asked which brokers a gomq cluster has: `http://host:port` or `https://host:port`. */
export interface BrokersByEtcd {
  etcd: string[];
  /** The name of the cluster; `gomq`. */
  cluster?: string;
  username?: string;
  password?: string;
}

/** `host:port`, `mqtt://`, `mqtts://`, `ws://` or `wss://` addresses, or where to learn them. */
export type Brokers = string[] | BrokersByHttp | BrokersByEtcd;

export interface ConnectionOptions {
  /** Tried in turn. Where they are asked for, they are asked for again whenever a connection is lost or cannot be made. */
  brokers: Brokers;
  /** Names the session at the broker. Without one a random id is used and the session ends with close(). */
  clientId?: string;
  username?: string;
  password?: string | Uint8Array;
  /** 5 (the default), 4 for MQTT 3.1.1, 3 for MQTT 3.1. */
  protocolVersion?: 3 | 4 | 5;
  /** How long the broker keeps the session without a connection (MQTT 5). A day with a client id, 300 s without. */
  sessionExpirySeconds?: number;
  /** A dead link is noticed after one and a half times this. 15, or 5 where there may be several brokers. */
  keepAliveSeconds?: number;
  /** For one attempt at one broker, from the first packet to CONNACK. While there are others, the first round takes 1 s each at most, the next 2 s. */
  connectTimeoutMs?: number;
  /** The first and the longest pause between rounds through the list; pauses double in between and are jittered. */
  retryDelayMs?: number;
  retryDelayMsMax?: number;
  /**
   * Follow a broker that answers "use another server" (MQTT 5) to the server it names, with the same credentials. True: ask gomq
   * to name the leader, and go to any server. False: stay. By default only to a server that is one of `brokers`.
   */
  followRedirects?: boolean;
  /** Larger packets are not accepted from the broker (MQTT 5). */
  maxPacketBytes?: number;
  tls?: TlsOptions;
  webSocket?: WebSocketOptions;
  will?: Will;
  /** MQTT 5 user properties of CONNECT. */
  userProperties?: Record<string, string | string[]>;
  onEvent?: (event: ClientEvent) => void;
}

export interface BrokerAddress {
  protocol: 'mqtt' | 'mqtts' | 'ws' | 'wss';
  host: string;
  port: number;
  path: string | undefined;
  username: string | undefined;
  password: string | undefined;
  /** For messages: never holds the password. */
  label: string;
}

export interface ResolvedConnectionOptions {
  /** Empty where they are to be found. */
  brokers: BrokerAddress[];
  discovery: DiscoverySource | undefined;
  clientId: string;
  clientIdGenerated: boolean;
  username: string | undefined;
  password: string | Buffer | undefined;
  protocolVersion: 3 | 4 | 5;
  sessionExpirySeconds: number;
  keepAliveSeconds: number;
  connectTimeoutMs: number;
  retryDelayMs: number;
  retryDelayMsMax: number;
  followRedirects: boolean | undefined;
  maxPacketBytes: number;
  receiveMaximum: number | undefined;
  tls: TlsOptions | undefined;
  webSocket: WebSocketOptions;
  will: Will | undefined;
  userProperties: Record<string, string | string[]> | undefined;
  onEvent: (event: ClientEvent) => void;
}

const CONNECTION_KEYS = [
  'brokers',
  'clientId',
  'username',
  'password',
  'protocolVersion',
  'sessionExpirySeconds',
  'keepAliveSeconds',
  'connectTimeoutMs',
  'retryDelayMs',
  'retryDelayMsMax',
  'followRedirects',
  'maxPacketBytes',
  'tls',
  'webSocket',
  'will',
  'userProperties',
  'onEvent',
] as const satisfies (keyof ConnectionOptions)[];

const DEFAULT_PORTS = { mqtt: 1883, mqtts: 8883, ws: 80, wss: 443 } as const;

function invalid(message: string): GomqClientError {
  return new GomqClientError('OPTIONS_INVALID', message);
}

/** Throws OPTIONS_INVALID for a key that is not known: a misspelt option must not be ignored. */
export function assertKnownKeys(what: string, options: object, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) {
      throw invalid(`Unknown option ${key} in ${what}.`);
    }
  }
}

/** An integer option within its bounds, or its default. */
export function integerOption(
  name: string,
  value: number | undefined,
  fallback: number,
  min: number,
  max: number,
): number {
  if (value === undefined) {
    return fallback;
  }
  if (!Number.isInteger(value) || value < min || value > max) {
    throw invalid(`Option ${name} must be an integer from ${min} to ${max}, not ${String(value)}.`);
  }
  return value;
}

export function assertQos(value: unknown): asserts value is Qos {
  if (value !== 0 && value !== 1 && value !== 2) {
    throw invalid(`qos must be 0, 1 or 2, not ${String(value)}.`);
  }
}

/** The payload as bytes. Bytes are not copied: they must stay as they are until the publish is settled. */
export function payloadBytes(payload: unknown): Buffer {
  if (typeof payload === 'string') {
    return Buffer.from(payload);
  }
  if (payload instanceof Uint8Array) {
    return asBuffer(payload);
  }
  throw new GomqClientError(
    'PAYLOAD_INVALID',
    `A payload is a string or a Uint8Array, not ${payload === null ? 'null' : typeof payload}.`,
  );
}

/** Reads `host:port`, `[::1]:9000`, `host` and the four kinds of URL. */
export function parseBroker(
  text: unknown,
  options: { tls: boolean; path: string | undefined },
): BrokerAddress {
  if (typeof text !== 'string' || text.trim() === '') {
    throw invalid(`A broker is written as host:port or as a URL, not ${JSON.stringify(text)}.`);
  }
  let url: URL;
  try {
    url = new URL(text.includes('://') ? text : `${options.tls ? 'mqtts' : 'mqtt'}://${text}`);
  } catch (cause) {
    // The text is not repeated where it may hold a password.
    const shown = text.includes('@') ? 'with credentials' : JSON.stringify(text);
    throw new GomqClientError('OPTIONS_INVALID', `Broker ${shown} is neither host:port nor a URL.`, {
      cause,
    });
  }
  const protocol = url.protocol.slice(0, -1);
  if (protocol !== 'mqtt' && protocol !== 'mqtts' && protocol !== 'ws' && protocol !== 'wss') {
    throw invalid(`Broker protocol ${protocol} is unknown: use mqtt, mqtts, ws or wss.`);
  }
  if (url.hostname === '') {
    throw invalid(`Broker ${JSON.stringify(url.protocol)} has no host.`);
  }
  const port = url.port === '' ? DEFAULT_PORTS[protocol] : Number(url.port);
  if (port === 0) {
    throw invalid(`Broker ${url.hostname} has port 0, which nothing listens on.`);
  }
  const webSocket = protocol === 'ws' || protocol === 'wss';
  if (!webSocket && url.pathname !== '' && url.pathname !== '/') {
    throw invalid(`Broker ${url.hostname} has a path, which only ws and wss addresses have.`);
  }
  const path = url.pathname === '/' || url.pathname === '' ? undefined : url.pathname;
  return {
    protocol,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port,
    path: webSocket ? `${path ?? options.path ?? '/'}${url.search}` : undefined,
    username: url.username === '' ? undefined : decodeURIComponent(url.username),
    password: url.password === '' ? undefined : decodeURIComponent(url.password),
    label: `${protocol}://${url.hostname}:${port}`,
  };
}

function checkWill(will: Will, protocolVersion: number): void {
  assertKnownKeys('will', will, ['topic', 'payload', 'qos', 'retain', 'delaySeconds', 'properties']);
  assertTopicName(will.topic);
  payloadBytes(will.payload);
  if (will.qos !== undefined) {
    assertQos(will.qos);
  }
  integerOption('will.delaySeconds', will.delaySeconds, 0, 0, 0xffff_ffff);
  if (will.properties !== undefined) {
    toPacketProperties(will.properties);
  }
  if (protocolVersion < 5 && (will.properties !== undefined || will.delaySeconds !== undefined)) {
    throw new GomqClientError('UNSUPPORTED', 'Will properties and will delay need MQTT 5.');
  }
}

function readBrokers(options: ConnectionOptions): Pick<ResolvedConnectionOptions, 'brokers' | 'discovery'> {
  const { brokers } = options;
  if (Array.isArray(brokers)) {
    if (brokers.length === 0) {
      throw invalid("Option brokers must be a list with at least one address, such as ['127.0.0.1:9000'].");
    }
    const how = { tls: options.tls !== undefined, path: options.webSocket?.path };
    return { brokers: brokers.map((broker) => parseBroker(broker, how)), discovery: undefined };
  }
  if (typeof brokers !== 'object' || brokers === null) {
    throw invalid(
      "Option brokers must be a list such as ['127.0.0.1:9000'], or { http: [...] } or { etcd: [...] }.",
    );
  }
  const none = { token: undefined, cluster: 'gomq', username: undefined, password: undefined };
  if ('http' in brokers) {
    assertKnownKeys('brokers', brokers, ['http', 'token']);
    const urls = readUrls('brokers.http', brokers.http);
    return { brokers: [], discovery: { ...none, kind: 'http', urls, token: brokers.token } };
  }
  assertKnownKeys('brokers', brokers, ['etcd', 'cluster', 'username', 'password']);
  const { cluster = 'gomq', username, password } = brokers;
  if (typeof cluster !== 'string' || cluster === '' || cluster.includes('/')) {
    throw invalid(`Option brokers.cluster must be the name of a cluster, not ${JSON.stringify(cluster)}.`);
  }
  const urls = readUrls('brokers.etcd', brokers.etcd);
  return { brokers: [], discovery: { ...none, kind: 'etcd', urls, cluster, username, password } };
}

function readUrls(name: string, texts: unknown): URL[] {
  if (!Array.isArray(texts) || texts.length === 0) {
    throw invalid(
      `Option ${name} must be a list with at least one address, such as ['http://127.0.0.1:8000'].`,
    );
  }
  return texts.map((text: unknown) => {
    try {
      const url = new URL(String(text));
      if ((url.protocol === 'http:' || url.protocol === 'https:') && url.username === '') {
        return url;
      }
    } catch {
      // Told below, in the same words.
    }
    throw invalid(`Option ${name} has an address that is not http://HOST:PORT or https://HOST:PORT.`);
  });
}

/** Checks and completes the options that both kinds of client share. `ownKeys` are those of the caller. */
export function resolveConnectionOptions(
  options: ConnectionOptions,
  ownKeys: readonly string[],
  receiveMaximum: number | undefined,
): ResolvedConnectionOptions {
  if (typeof options !== 'object' || options === null) {
    throw invalid('Options must be an object with at least brokers.');
  }
  assertKnownKeys('the options', options, [...CONNECTION_KEYS, ...ownKeys]);
  const protocolVersion = options.protocolVersion ?? 5;
  if (protocolVersion !== 3 && protocolVersion !== 4 && protocolVersion !== 5) {
    throw invalid(`Option protocolVersion must be 3, 4 or 5, not ${String(protocolVersion)}.`);
  }
  if (options.clientId !== undefined && (typeof options.clientId !== 'string' || options.clientId === '')) {
    throw invalid('Option clientId must be a string that is not empty.');
  }
  if (options.tls !== undefined) {
    assertKnownKeys('tls', options.tls, [
      'ca',
      'cert',
      'key',
      'pfx',
      'passphrase',
      'servername',
      'rejectUnauthorized',
      'alpnProtocols',
    ]);
  }
  if (options.webSocket !== undefined) {
    assertKnownKeys('webSocket', options.webSocket, ['path', 'headers']);
  }
  if (options.will !== undefined) {
    checkWill(options.will, protocolVersion);
  }
  if (options.userProperties !== undefined) {
    toPacketProperties({ userProperties: options.userProperties });
  }
  const generated = options.clientId === undefined;
  const retryDelayMs = integerOption('retryDelayMs', options.retryDelayMs, 20, 1, 3_600_000);
  const known = readBrokers(options);
  return {
    ...known,
    // 23 characters: the most that every MQTT 3.1 broker accepts.
    clientId: options.clientId ?? `gomq-${randomBytes(9).toString('hex')}`,
    clientIdGenerated: generated,
    username: options.username,
    password: options.password instanceof Uint8Array ? asBuffer(options.password) : options.password,
    protocolVersion,
    sessionExpirySeconds: integerOption(
      'sessionExpirySeconds',
      options.sessionExpirySeconds,
      generated ? 300 : 86_400,
      0,
      0xffff_ffff,
    ),
    keepAliveSeconds: integerOption(
      'keepAliveSeconds',
      options.keepAliveSeconds,
      known.brokers.length === 1 ? 15 : 5,
      1,
      65_535,
    ),
    connectTimeoutMs: integerOption('connectTimeoutMs', options.connectTimeoutMs, 5_000, 1, 600_000),
    retryDelayMs,
    retryDelayMsMax: Math.max(
      retryDelayMs,
      integerOption('retryDelayMsMax', options.retryDelayMsMax, 1_000, 1, 3_600_000),
    ),
    followRedirects: options.followRedirects,
    maxPacketBytes: integerOption(
      'maxPacketBytes',
      options.maxPacketBytes,
      16 * 1024 * 1024,
      128,
      268_435_460,
    ),
    receiveMaximum,
    tls: options.tls,
    webSocket: options.webSocket ?? {},
    will: options.will,
    userProperties: options.userProperties,
    onEvent: guarded(options.onEvent),
  };
}

/** An application's callback that throws must not break the connection: its error is reported as a process warning. */
function guarded(onEvent: ((event: ClientEvent) => void) | undefined): (event: ClientEvent) => void {
  return (event) => {
    try {
      onEvent?.(event);
    } catch (error) {
      process.emitWarning(`onEvent of @gomq/client threw: ${String(error)}`);
    }
  };
}
