// Owns every configuration key: its type, its default, what it means and what a right value looks like. The types that the rooms compile
// against, `print-config`, the error messages and docs/CONFIGURATION.md all come from the one schema below.
import { z } from 'zod';
import { parseAddress } from './address.js';

/** How a value is written as text, in an environment variable or after --set. */
type KeyKind = 'text' | 'integer' | 'boolean' | 'choice' | 'list';

interface KeyMeta {
  kind: KeyKind;
  /** What the key means, one or two sentences. */
  description: string;
  /** Completes the sentence "expected ..."; for a list it describes one item. */
  expected: string;
  /** Never printed or logged. */
  secret: boolean;
  [other: string]: unknown;
}

function key<T extends z.ZodType>(schema: T, kind: KeyKind, expected: string, description: string): T {
  return schema.meta({ kind, expected, description, secret: false } satisfies KeyMeta);
}

function integer(from: number, to: number, byDefault: number, description: string) {
  const schema = z.number().int().min(from).max(to).default(byDefault);
  return key(schema, 'integer', `a whole number from ${from} to ${to}`, description);
}

function boolean(byDefault: boolean, description: string) {
  return key(z.boolean().default(byDefault), 'boolean', 'true or false', description);
}

function text(byDefault: string, expected: string, description: string) {
  return key(z.string().default(byDefault), 'text', expected, description);
}

function secret(description: string) {
  const meta: KeyMeta = { kind: 'text', expected: 'text', description, secret: true };
  return z.string().default('').meta(meta);
}

function choice<const T extends readonly [string | number, ...(string | number)[]]>(
  values: T,
  byDefault: NoInfer<T[number]>,
  description: string,
) {
  const schema = z.literal(values).default(byDefault as never);
  return key(schema, 'choice', `one of ${values.join(', ')}`, description);
}

function isAddress(value: string): boolean {
  try {
    parseAddress(value);
    return true;
  } catch {
    return false;
  }
}

function addresses(byDefault: string[], description: string) {
  const schema = z.array(z.string().refine(isAddress)).default(byDefault);
  return key(schema, 'list', 'HOST:PORT', description);
}

const MEBIBYTE = 1024 * 1024;
const GIBIBYTE = 1024 * MEBIBYTE;
/** The largest MQTT packet: a fixed header of 5 bytes and the largest remaining length. */
const PACKET_BYTES_MAX = 268_435_455 + 5;
const UINT32_MAX = 4_294_967_295;
const DAY_SECONDS = 86_400;

export const configSchema = z.strictObject({
  node: z.strictObject({
    id: key(
      z
        .string()
        .regex(/^[A-Za-z0-9_.-]{1,64}$/)
        .default('gomq'),
      'text',
      '1 to 64 letters, digits, dots, dashes or underscores',
      'The name of this broker in logs.',
    ),
    data: text(
      './data',
      'a path',
      "The directory with the log and the state; '' keeps everything in memory and nothing after the end.",
    ),
  }),
  listeners: z.strictObject({
    mqtt: addresses(['127.0.0.1:9000'], 'Where MQTT over TCP is served.'),
    mqtts: addresses([], 'Where MQTT over TLS is served.'),
    ws: addresses([], 'Where MQTT over WebSocket is served.'),
    wss: addresses([], 'Where MQTT over WebSocket and TLS is served.'),
    tls: z.strictObject({
      cert: text('', 'a path', 'PEM file with the certificate chain that the mqtts and wss listeners show.'),
      key: text('', 'a path', 'PEM file with the private key of that certificate.'),
      ca: text('', 'a path', 'PEM file with the authorities that client certificates are checked against.'),
      requireClientCert: boolean(false, 'Refuse TLS clients without a certificate signed by one of `ca`.'),
    }),
  }),
  http: z.strictObject({
    listen: key(
      z
        .string()
        .refine((value) => value === '' || isAddress(value))
        .default('127.0.0.1:8000'),
      'text',
      "HOST:PORT, or '' for none",
      "Where the HTTP API is served; '' turns it off.",
    ),
    token: secret(
      'What `POST /pub` and `GET /messages` must carry as `Authorization: Bearer ...`. Empty: callers are anonymous, see `auth.anonymous`.',
    ),
  }),
  auth: z.strictObject({
    anonymous: choice(
      ['loopback', 'always', 'never'],
      'loopback',
      'Who may connect without a user name, and use `POST /pub` and `GET /messages` without a token: clients on this machine, everyone, no one.',
    ),
    passwordFile: text('', 'a path', 'File with users and the hashes of their passwords.'),
    aclFile: text(
      '',
      'a path',
      'File that says who may publish and subscribe to what. Empty: everyone to everything.',
    ),
  }),
  mqtt: z.strictObject({
    maximumQos: choice([0, 1, 2], 2, 'The highest QoS that a client may publish with.'),
    retain: boolean(true, 'Whether retained messages are kept.'),
    sharedSubscriptions: boolean(true, 'Whether `$share/<group>/<filter>` is served.'),
    wildcardSubscriptions: boolean(true, 'Whether filters may contain `+` and `#`.'),
    keepAliveSecondsMax: integer(1, 65535, 65535, 'The longest keep alive a client may ask for.'),
    sessionExpirySecondsMax: integer(
      0,
      UINT32_MAX,
      604_800,
      'How long a session outlives its connection at most, whatever the client asked for.',
    ),
    receiveMaximum: integer(
      1,
      65535,
      65535,
      'Messages of QoS 1 and 2 a client may have unacknowledged towards gomq.',
    ),
    inflightMaximum: integer(
      1,
      65535,
      1000,
      'Messages of QoS 1 and 2 that gomq sends unacknowledged to a client that set no Receive Maximum.',
    ),
    topicAliasMaximum: integer(0, 65535, 64, 'Topic aliases that a client may use in one connection.'),
    topicAliasMaximumOutgoing: integer(
      0,
      65535,
      64,
      'Topic aliases that gomq uses at most towards one client.',
    ),
    responseInformation: text(
      '',
      'a topic',
      'What 5.0 clients that ask for Response Information are told: where to make their response topics.',
    ),
    willDelaySecondsMax: integer(
      0,
      UINT32_MAX,
      DAY_SECONDS,
      'The longest delay of a will, whatever the client asked for.',
    ),
    reconnectGraceSeconds: integer(
      0,
      DAY_SECONDS,
      10,
      'After a start, how long clients that were connected when gomq ended may take to come back before their wills are published.',
    ),
  }),
  limits: z.strictObject({
    connections: integer(1, 1_000_000, 50_000, 'Client connections in total.'),
    connectionsPerAddress: integer(1, 1_000_000, 20_000, 'Client connections from one IP address.'),
    connectTimeoutSeconds: integer(1, 600, 10, 'Time from opening a connection to a complete CONNECT.'),
    connectBytes: integer(
      64,
      PACKET_BYTES_MAX,
      131_072,
      'The largest CONNECT: what a client nobody knows yet can make gomq hold.',
    ),
    packetBytes: integer(
      64,
      PACKET_BYTES_MAX,
      MEBIBYTE,
      'The largest MQTT packet, and the largest body of `POST /pub`.',
    ),
    topicBytes: integer(1, 65535, 1024, 'The longest topic name or topic filter.'),
    topicLevels: integer(1, 1024, 64, 'Levels (separated by `/`) in a topic name or topic filter.'),
    subscriptionsPerSession: integer(1, 10_000_000, 10_000, 'Subscriptions of one session.'),
    sessions: integer(1, 10_000_000, 100_000, 'Sessions in total, connected or not.'),
    retainedMessages: integer(0, 100_000_000, 1_000_000, 'Retained messages in total.'),
    retainedBytes: integer(
      0,
      Number.MAX_SAFE_INTEGER,
      GIBIBYTE,
      'Bytes of topic names and payloads in retained messages.',
    ),
    outboxBytes: integer(
      4096,
      GIBIBYTE,
      MEBIBYTE,
      'Bytes waiting to be sent to one client. Beyond it QoS 0 messages are dropped for that client and others wait in the log.',
    ),
    internedTopics: integer(1, 100_000_000, 200_000, 'Topic names kept in memory with their subscribers.'),
  }),
  log: z.strictObject({
    segmentBytes: integer(
      65_536,
      GIBIBYTE,
      64 * MEBIBYTE,
      'Size of one segment of the log, which is what retention removes at a time.',
    ),
    compression: choice(['zstd', 'none'], 'zstd', 'How batches are compressed.'),
    fsync: choice(
      ['always', 'interval', 'never'],
      'always',
      'When the disk is made to keep what was written: before each acknowledgement; every `log.fsyncIntervalMs`, so that a crash of the machine costs at most that much; whenever the operating system likes.',
    ),
    fsyncIntervalMs: integer(
      1,
      60_000,
      100,
      'Milliseconds between two fsyncs where `log.fsync` is interval.',
    ),
    retentionBytes: integer(
      65_536,
      Number.MAX_SAFE_INTEGER,
      GIBIBYTE,
      'Size of the log beyond which segments that no session needs are removed.',
    ),
    retentionHours: integer(
      0,
      1_000_000,
      0,
      'Age beyond which segments that no session needs are removed; 0 for no limit. A segment also ends at this age, as soon as something more is written: records go between once and twice this age.',
    ),
    hardLimitBytes: integer(
      65_536,
      Number.MAX_SAFE_INTEGER,
      10 * GIBIBYTE,
      'Size of the log beyond which the oldest segment is removed even where a session has not read it yet.',
    ),
    cacheBytes: integer(
      MEBIBYTE,
      64 * GIBIBYTE,
      64 * MEBIBYTE,
      'Memory for the newest records and those read from disk, shared by all who read.',
    ),
    reserveBytes: integer(
      MEBIBYTE,
      GIBIBYTE,
      16 * MEBIBYTE,
      'Disk space kept free: when only this much is left, new messages, sessions and subscriptions are refused with 0x97 and everything else goes on.',
    ),
    uncommittedBytes: integer(
      65_536,
      GIBIBYTE,
      4 * MEBIBYTE,
      'Bytes that one publisher may have in the log and not on disk: it is not read from while there are more.',
    ),
  }),
  cluster: z.strictObject({
    name: key(
      z
        .string()
        .regex(/^[A-Za-z0-9_.-]{1,64}$/)
        .default('gomq'),
      'text',
      '1 to 64 letters, digits, dots, dashes or underscores',
      'The name of the cluster: brokers with the same name and the same etcd are one.',
    ),
    etcd: z.strictObject({
      endpoints: key(
        z.array(z.string().regex(/^https?:\/\/[^/\s]+$/)).default([]),
        'list',
        'http://HOST:PORT or https://HOST:PORT',
        'The members of the etcd cluster; with at least one, gomq is a node of a cluster, with none it stands alone.',
      ),
      user: text('', 'a name', 'Who gomq is in etcd, where that asks.'),
      password: secret('The password of that user.'),
      tls: z.strictObject({
        ca: text(
          '',
          'a path',
          'PEM file with the authorities that the certificate of etcd is checked against.',
        ),
        cert: text('', 'a path', 'PEM file with the certificate that gomq shows to etcd.'),
        key: text('', 'a path', 'PEM file with the private key of that certificate.'),
      }),
    }),
    peer: key(
      z.string().refine(isAddress).default('127.0.0.1:9001'),
      'text',
      'HOST:PORT',
      'Where other brokers of the cluster are served.',
    ),
    advertise: text(
      '',
      'a host name or an IP address',
      "The host at which other brokers and clients reach this node; '' for that of `cluster.peer`.",
    ),
    replicas: integer(1, 7, 3, 'How many nodes the cluster has, each with a copy of the log.'),
    minInSync: integer(
      0,
      7,
      0,
      'On how many nodes a message must be before it is acknowledged; 0 for more than half of `cluster.replicas`.',
    ),
    leaseSeconds: integer(
      1,
      60,
      3,
      'After how many seconds without a sign of life a leader that is frozen or cut off is replaced. One whose process ends is replaced at once.',
    ),
    lagSeconds: integer(
      1,
      3600,
      10,
      'After how many seconds a member whose disk no longer keeps up is not waited for any more, if enough others are in sync. A leader whose own disk stands still so long has another one lead.',
    ),
    secret: secret(
      'What brokers prove to each other that they belong together: at least 16 characters, the same on all. Needed where `cluster.peer` is not a loopback address, unless `cluster.tls` is set.',
    ),
    tls: z.strictObject({
      cert: text('', 'a path', 'PEM file with the certificate that this broker shows to others.'),
      key: text('', 'a path', 'PEM file with the private key of that certificate.'),
      ca: text('', 'a path', 'PEM file with the authority that signs the certificates of all brokers.'),
    }),
  }),
  logger: z.strictObject({
    level: choice(
      ['debug', 'info', 'warn', 'error'],
      'info',
      'The least severe diagnostics that are written.',
    ),
    format: choice(
      ['auto', 'json', 'pretty'],
      'auto',
      'How they are written to stderr; auto is pretty on a terminal and json elsewhere.',
    ),
  }),
});

/** The whole configuration, checked. '' in a text key means "not set". */
export type Config = z.infer<typeof configSchema>;

/** One key as the schema has it. */
export interface ConfigKey extends KeyMeta {
  /** `listeners.tls.cert` */
  path: string;
  byDefault: unknown;
  schema: z.ZodType;
}

/** Every key, in the order of the schema. */
export const configKeys: readonly ConfigKey[] = collectKeys(configSchema, '');

function collectKeys(schema: z.ZodObject, prefix: string): ConfigKey[] {
  return Object.entries(schema.shape).flatMap(([name, child]) => {
    const path = prefix + name;
    if (child instanceof z.ZodObject) return collectKeys(child, `${path}.`);
    const leaf = child as z.ZodType;
    return [{ ...(leaf.meta() as KeyMeta), path, byDefault: leaf.parse(undefined), schema: leaf }];
  });
}

/** Puts values by path into the nested shape of Config; keys without a value get their default. */
export function assembleConfig(values: ReadonlyMap<string, unknown>): Config {
  const root: Record<string, unknown> = {};
  for (const { path, byDefault } of configKeys) {
    const names = path.split('.');
    const last = names.pop() as string;
    let section = root;
    for (const name of names) {
      section[name] ??= {};
      section = section[name] as Record<string, unknown>;
    }
    section[last] = values.has(path) ? values.get(path) : byDefault;
  }
  return configSchema.parse(root);
}

/** A fresh configuration in which nothing was set. */
export function defaultConfig(): Config {
  return assembleConfig(new Map());
}
