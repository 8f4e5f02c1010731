// Owns the options that pub, sub and list share: their names, in the spelling of mosquitto_pub and mosquitto_sub, and what they mean
// together. Each command checks here, before a connection is opened, that its options make sense.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { QoS } from 'mqtt-packet';
import { parseFilter, validateTopicName } from '../src/router/topic-name.js';
import { type Address, DEFAULT_HOST, DEFAULT_PORT, parseAddress, parsePort } from './address.js';
import { type BrokerNames, parseBrokers } from './brokers.js';
import { Failure } from './failure.js';
import type { Io } from './io.js';
import { addProperty, emptyProperties, type PacketProperties } from './properties.js';

export type ProtocolVersion = 3 | 4 | 5;

/** What commander makes of the shared options. */
export interface SharedOptions {
  connect?: string;
  url?: string;
  host?: string;
  port?: number;
  topic: string[];
  qos: QoS;
  id?: string;
  idPrefix?: string;
  keepalive: number;
  username?: string;
  password?: string;
  protocolVersion: ProtocolVersion;
  disableCleanSession?: boolean;
  sessionExpiry?: number;
  property: string[][];
  willTopic?: string;
  willPayload?: string;
  willQos?: QoS;
  willRetain?: boolean;
  cafile?: string;
  cert?: string;
  key?: string;
  insecure?: boolean;
  timeout?: number;
  json?: boolean;
  quiet?: boolean;
  debug?: boolean;
}

export interface Will {
  topic: string;
  payload: Buffer;
  qos: QoS;
  retain: boolean;
}

export interface Tls {
  ca?: Buffer;
  cert?: Buffer;
  key?: Buffer;
  /** Accept any certificate, for tests. */
  insecure: boolean;
}

/** Everything a connection needs, checked. */
export interface ConnectionSettings {
  /** With the credentials and the TLS of the options. */
  brokers: BrokerNames;
  /** Gives these to the address of a broker that was found. */
  complete: (address: Address) => Address;
  clientId: string;
  version: ProtocolVersion;
  cleanStart: boolean;
  keepAliveSeconds: number;
  will: Will | undefined;
  properties: PacketProperties;
  tls: Tls;
  debug: boolean;
}

/** A session expiry interval that says the session never expires. */
const NEVER = 0xffff_ffff;

/** A session that outlives a connection by long enough to be resumed at another broker; DISCONNECT ends it. */
const RESUME_SECONDS = 120;

/** Asks for such a session, unless the options say what session there is to be. MQTT 5 only: before, a session cannot be asked for for a while. */
export function keepForResuming({ version, properties }: ConnectionSettings): void {
  const { connect, disconnect } = properties;
  if (version !== 5 || connect.sessionExpiryInterval !== undefined) return;
  connect.sessionExpiryInterval = RESUME_SECONDS;
  disconnect.sessionExpiryInterval ??= 0;
}

/** Whether there is more than one broker, or may be. */
export function areSeveral({ brokers }: ConnectionSettings): boolean {
  return brokers.discovery !== undefined || brokers.addresses.length > 1;
}

export function parseCount(text: string): number {
  const count = /^\d{1,15}$/.test(text) ? Number(text) : 0;
  if (count < 1) throw new InvalidArgumentError('It is a whole number from 1.');
  return count;
}

export function parseSeconds(text: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : -1;
  // Node's timers take 31 bits of milliseconds.
  if (seconds < 0 || seconds > 2_147_483) throw new InvalidArgumentError('It is a number of seconds.');
  return seconds;
}

export function parseQos(text: string): QoS {
  if (text === '0' || text === '1' || text === '2') return Number(text) as QoS;
  throw new InvalidArgumentError('The QoS is 0, 1 or 2.');
}

const VERSIONS: Record<string, ProtocolVersion> = {
  '3': 3,
  '31': 3,
  '3.1': 3,
  mqttv31: 3,
  '4': 4,
  '311': 4,
  '3.1.1': 4,
  mqttv311: 4,
  '5': 5,
  '50': 5,
  '5.0': 5,
  mqttv5: 5,
};

function parseVersion(text: string): ProtocolVersion {
  const name = text.toLowerCase();
  if (Object.hasOwn(VERSIONS, name)) return VERSIONS[name]!;
  throw new InvalidArgumentError('The protocol version is 31, 311 or 5.');
}

function parsePortOption(text: string): number {
  const port = parsePort(text);
  if (port === undefined) throw new InvalidArgumentError('A port is a number from 1 to 65535.');
  return port;
}

function parseKeepAlive(text: string): number {
  const seconds = /^\d{1,5}$/.test(text) ? Number(text) : -1;
  if (seconds < 0 || seconds > 65_535)
    throw new InvalidArgumentError('It is a number of seconds from 0 to 65535.');
  return seconds;
}

function parseExpiry(text: string): number {
  if (text === '-1' || text === '∞') return NEVER;
  const seconds = /^\d{1,10}$/.test(text) ? Number(text) : -1;
  if (seconds < 0 || seconds > NEVER) {
    throw new InvalidArgumentError('It is a number of seconds from 0 to 4294967294, or -1 for never.');
  }
  return seconds;
}

export function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

/** Gives options that may be repeated an empty list to begin with, without a default in the help. */
export function startEmpty(command: Command, ...names: string[]): void {
  for (const name of names) command.setOptionValueWithSource(name, [], 'default');
}

function collectProperty(value: string, before: string[][]): string[][] {
  return [...before, JSON.parse(value) as string[]];
}

/** Adds the options that pub and sub share. */
export function addSharedOptions(command: Command): Command {
  addConnectionOptions(command);
  addSessionOptions(command);
  addTlsOptions(command);
  return addOutputOptions(command);
}

export function addConnectionOptions(command: Command): Command {
  startEmpty(command, 'property');
  return command
    .optionsGroup('Connection:')
    .option(
      '--connect <address>',
      `broker as HOST:PORT or mqtt, mqtts, ws or wss URL, several with commas, or where to learn them, as http://HOST:PORT of a broker or etcd://HOST:PORT/CLUSTER (default: ${DEFAULT_HOST}:${DEFAULT_PORT})`,
    )
    .option('-L, --url <url>', 'broker and topic in one: mqtt://[user[:password]@]host[:port]/topic')
    .option('-h, --host <host>', 'host of the broker')
    .addOption(new Option('-p, --port <port>', 'port of the broker').argParser(parsePortOption))
    .option('-u, --username <name>', 'user name')
    .option('-P, --password <password>', 'password')
    .option('-i, --id <client-id>', 'client id (default: gomqctl- and a random number)')
    .option('-I, --id-prefix <prefix>', 'client id made of this prefix and the process id')
    .addOption(new Option('-k, --keepalive <seconds>', 'keep alive').argParser(parseKeepAlive).default(60))
    .addOption(
      new Option('-V, --protocol-version <version>', '31, 311 or 5').argParser(parseVersion).default(5, '5'),
    );
}

function addSessionOptions(command: Command): void {
  command
    .optionsGroup('Session and will:')
    .option('-c, --disable-clean-session', 'keep the session when disconnected (needs --id)')
    .addOption(
      new Option('-x, --session-expiry <seconds>', 'keep the session this long (MQTT 5)').argParser(
        parseExpiry,
      ),
    )
    .option('--will-topic <topic>', 'publish a will to this topic if the connection is lost')
    .option('--will-payload <message>', 'message of the will')
    .addOption(new Option('--will-qos <qos>', 'QoS of the will').argParser(parseQos))
    .option('--will-retain', 'retain the will')
    .addOption(
      new Option(
        '-D, --property <command property value>',
        'MQTT 5 property: -D publish user-property NAME VALUE',
      ).argParser(collectProperty),
    );
}

export function addTlsOptions(command: Command): Command {
  return command
    .optionsGroup('TLS:')
    .option('--cafile <file>', 'trust the certificates in this PEM file; switches TLS on')
    .option('--cert <file>', 'certificate of this client, PEM; switches TLS on')
    .option('--key <file>', 'private key of this client, PEM')
    .option('--insecure', 'accept any certificate of the broker, for tests');
}

export function addOutputOptions(command: Command): Command {
  return command
    .optionsGroup('Output:')
    .option('--json', 'one JSON object a line on stdout')
    .option('--quiet', 'no errors or notices on stderr')
    .option('-d, --debug', 'show every packet on stderr');
}

/** @throws {Failure} where the options contradict each other or the environment */
export function connectionSettings(options: SharedOptions, io: Io): ConnectionSettings {
  const brokers = chooseBrokers(options, io);
  const version = options.protocolVersion;
  const properties = emptyProperties();
  for (const words of options.property) addProperty(properties, words);
  if (version !== 5 && options.property.length > 0) {
    throw new Failure('-D sets properties of MQTT 5; leave out -V or use -V 5');
  }
  if (version !== 5 && options.sessionExpiry !== undefined) {
    throw new Failure('-x needs MQTT 5; with -V 31 or 311 use -c, which keeps the session for good');
  }
  if (options.sessionExpiry !== undefined) {
    if (properties.connect.sessionExpiryInterval !== undefined) {
      throw new Failure(
        'the session expiry is given twice, with -x and with -D connect session-expiry-interval',
      );
    }
    properties.connect.sessionExpiryInterval = options.sessionExpiry;
  } else if (
    version === 5 &&
    options.disableCleanSession &&
    properties.connect.sessionExpiryInterval === undefined
  ) {
    properties.connect.sessionExpiryInterval = NEVER;
  }
  const expiry = properties.connect.sessionExpiryInterval ?? 0;
  if (options.id === undefined && (options.disableCleanSession || expiry === NEVER)) {
    throw new Failure('a session that is kept needs a client id to find it again; add --id NAME');
  }
  if (properties.connect.authenticationData && !properties.connect.authenticationMethod) {
    throw new Failure('-D connect authentication-data needs -D connect authentication-method as well');
  }
  const complete = (address: Address) => withCredentials(withTls(address, options), options, io);
  const { discovery } = brokers;
  if (discovery?.kind === 'http' && io.env.GOMQ_TOKEN) discovery.token = io.env.GOMQ_TOKEN;
  return {
    brokers: { ...brokers, addresses: brokers.addresses.map(complete) },
    complete,
    clientId: chooseClientId(options, version),
    version,
    cleanStart: !options.disableCleanSession,
    keepAliveSeconds: options.keepalive,
    will: chooseWill(options, properties),
    properties,
    tls: readTls(options),
    debug: options.debug === true,
  };
}

function chooseBrokers(options: SharedOptions, io: Io): BrokerNames {
  const hostGiven = options.host !== undefined || options.port !== undefined;
  const given = [options.connect !== undefined, options.url !== undefined, hostGiven].filter(Boolean).length;
  if (given > 1)
    throw new Failure('the address is given twice; use one of --connect, --url, or --host with --port');
  if (options.connect !== undefined) return parseBrokers(options.connect);
  if (options.url !== undefined) {
    const address = parseAddress(options.url, true);
    if (address.topic !== undefined) options.topic = [...options.topic, address.topic];
    return { addresses: [address] };
  }
  if (hostGiven) {
    const host = (options.host ?? DEFAULT_HOST).replace(/^\[(.*)\]$/, '$1');
    if (host === '' || /[\s/@?#]/.test(host)) {
      throw new Failure(
        `--host "${host}" is not a host name or address; a URL or HOST:PORT goes into --connect`,
      );
    }
    if (/^[^:]+:\d+$/.test(host)) {
      throw new Failure(`--host "${host}" has a port; use --connect ${host}, or --host and --port`);
    }
    const port = options.port ?? DEFAULT_PORT;
    return { addresses: [{ ...parseAddress(`${DEFAULT_HOST}:${DEFAULT_PORT}`), host, port }] };
  }
  const fromEnvironment = io.env.GOMQ_URL;
  if (fromEnvironment === undefined || fromEnvironment === '')
    return parseBrokers(`${DEFAULT_HOST}:${DEFAULT_PORT}`);
  try {
    return parseBrokers(fromEnvironment);
  } catch (error) {
    throw error instanceof Failure ? new Failure(`in GOMQ_URL: ${error.message}`) : error;
  }
}

function withTls(address: Address, options: SharedOptions): Address {
  const wanted = options.cafile !== undefined || options.cert !== undefined || options.key !== undefined;
  const encrypted = address.scheme === 'mqtts' || address.scheme === 'wss';
  if (options.insecure && !wanted && !encrypted) {
    throw new Failure(
      '--insecure needs TLS; write the address as mqtts://HOST:PORT or wss://HOST:PORT, or add --cafile',
    );
  }
  if (!wanted || encrypted) return address;
  return { ...address, scheme: address.scheme === 'ws' ? 'wss' : 'mqtts' };
}

function chooseClientId(options: SharedOptions, version: ProtocolVersion): string {
  if (options.id !== undefined && options.idPrefix !== undefined) {
    throw new Failure('the client id is given twice; use --id or --id-prefix');
  }
  const id = options.id ?? (options.idPrefix === undefined ? undefined : `${options.idPrefix}${process.pid}`);
  if (id === undefined) return `gomqctl-${randomBytes(6).toString('hex')}`;
  if (Buffer.byteLength(id) > 65_535) throw new Failure('the client id is longer than 65535 bytes');
  if (version === 3 && (id.length < 1 || Buffer.byteLength(id) > 23)) {
    throw new Failure(`MQTT 3.1 allows client ids of 1 to 23 bytes, not "${id}"; shorten it or use -V 311`);
  }
  return id;
}

function withCredentials(address: Address, options: SharedOptions, io: Io): Address {
  const { username: _, password: __, ...rest } = address;
  const username = options.username ?? address.username ?? (io.env.GOMQ_USER || undefined);
  // The user name of a URL comes with the password of the URL or with none, not with the one from the environment.
  const password =
    options.password ??
    (options.username === undefined && address.username !== undefined
      ? address.password
      : io.env.GOMQ_PASSWORD || undefined);
  if (options.password !== undefined && username === undefined) {
    throw new Failure('a password without a user name; add --username NAME or set GOMQ_USER');
  }
  if (username === undefined) return rest;
  return password === undefined ? { ...rest, username } : { ...rest, username, password };
}

function chooseWill(options: SharedOptions, properties: PacketProperties): Will | undefined {
  if (options.willTopic === undefined) {
    const parts = options.willPayload ?? options.willQos ?? options.willRetain;
    if (parts !== undefined || Object.keys(properties.will).length > 0) {
      throw new Failure('a will needs --will-topic TOPIC');
    }
    return undefined;
  }
  const reason = validateTopicName(options.willTopic);
  if (reason !== undefined) throw new Failure(`--will-topic "${options.willTopic}": ${reason}`);
  const payload = Buffer.from(options.willPayload ?? '');
  if (payload.length > 65_535) throw new Failure('the message of a will is at most 65535 bytes');
  return {
    topic: options.willTopic,
    payload,
    qos: options.willQos ?? 0,
    retain: options.willRetain === true,
  };
}

function readTls(options: SharedOptions): Tls {
  if ((options.cert === undefined) !== (options.key === undefined)) {
    throw new Failure('--cert and --key belong together; give both');
  }
  const tls: Tls = { insecure: options.insecure === true };
  if (options.cafile !== undefined) tls.ca = readFile('--cafile', options.cafile);
  if (options.cert !== undefined) tls.cert = readFile('--cert', options.cert);
  if (options.key !== undefined) tls.key = readFile('--key', options.key);
  return tls;
}

/** @throws {Failure} with the reason in words */
export function readFile(option: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Failure(`${option}: cannot read ${path}: ${fileReason(error)}`, undefined, error);
  }
}

export function fileReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT') return 'there is no such file';
  if (code === 'EACCES') return 'permission denied';
  if (code === 'EISDIR') return 'it is a directory';
  return error instanceof Error ? error.message : String(error);
}

/** @throws {Failure} unless exactly one topic name is given */
export function topicName(options: SharedOptions): string {
  const [topic, ...more] = options.topic;
  if (topic === undefined)
    throw new Failure('no topic; add --topic NAME, as in: gomqctl --topic A pub hello');
  if (more.length > 0) {
    throw new Failure(`pub takes one topic, not ${options.topic.map((name) => `"${name}"`).join(' and ')}`);
  }
  const reason = validateTopicName(topic);
  if (reason !== undefined) throw new Failure(`cannot publish to "${topic}": ${reason}`);
  return topic;
}

/** @throws {Failure} unless every filter is one */
export function checkFilters(option: string, filters: readonly string[]): void {
  for (const filter of filters) {
    const parsed = parseFilter(filter);
    if (typeof parsed === 'string') throw new Failure(`${option} "${filter}": ${parsed}`);
  }
}
