// Owns what the standard says of each property (table 2-4 of MQTT 5.0): its type, who may send it where, and whether it may repeat.
import { ReasonCode } from './reason-codes.js';
import { PacketType } from './types.js';

/** Property identifiers, table 2-4. All are below 0x80, so each takes one byte. */
export const PropertyId = {
  PayloadFormatIndicator: 0x01,
  MessageExpiryInterval: 0x02,
  ContentType: 0x03,
  ResponseTopic: 0x08,
  CorrelationData: 0x09,
  SubscriptionIdentifier: 0x0b,
  SessionExpiryInterval: 0x11,
  AssignedClientIdentifier: 0x12,
  ServerKeepAlive: 0x13,
  AuthenticationMethod: 0x15,
  AuthenticationData: 0x16,
  RequestProblemInformation: 0x17,
  WillDelayInterval: 0x18,
  RequestResponseInformation: 0x19,
  ResponseInformation: 0x1a,
  ServerReference: 0x1c,
  ReasonString: 0x1f,
  ReceiveMaximum: 0x21,
  TopicAliasMaximum: 0x22,
  TopicAlias: 0x23,
  MaximumQos: 0x24,
  RetainAvailable: 0x25,
  UserProperty: 0x26,
  MaximumPacketSize: 0x27,
  WildcardSubscriptionAvailable: 0x28,
  SubscriptionIdentifierAvailable: 0x29,
  SharedSubscriptionAvailable: 0x2a,
} as const;

/** What a property block belongs to: the type of a packet (PacketType), or WILL for the one inside a CONNECT. */
export type PropertyHolder = number;

/** The holder of will properties; no packet has type 0. */
export const WILL = 0;

/** `flag` is a byte that is 0 or 1; `pair` is two strings. */
export type PropertyType = 'flag' | 'uint16' | 'uint32' | 'varint' | 'string' | 'binary' | 'pair';

export interface PropertyRule {
  readonly id: number;
  readonly name: string;
  readonly type: PropertyType;
  /** Where a client may send it: one bit for each holder, so that PUBLISH pays no search. */
  readonly client: number;
  /** Where a server may send it. */
  readonly server: number;
  readonly repeatable: boolean;
  /** The reason code with which the value 0 is refused; undefined where 0 has a meaning. */
  readonly zeroRefusedWith: number | undefined;
}

type Holders = readonly PropertyHolder[];
type Row = [
  id: number,
  name: string,
  type: PropertyType,
  client: Holders,
  server: Holders,
  zeroRefusedWith?: number,
];

const { Connect, Connack, Publish, Puback, Pubrec, Pubrel, Pubcomp } = PacketType;
const { Subscribe, Suback, Unsubscribe, Unsuback, Disconnect, Auth } = PacketType;
const { ProtocolError, TopicAliasInvalid } = ReasonCode;
const NOWHERE: Holders = [];
const MESSAGE: Holders = [Publish, WILL];
const ACKS: Holders = [Puback, Pubrec, Pubrel, Pubcomp];
const ALL_FROM_CLIENT: Holders = [Connect, ...MESSAGE, ...ACKS, Subscribe, Unsubscribe, Disconnect, Auth];
const ALL_FROM_SERVER: Holders = [Connack, Publish, ...ACKS, Suback, Unsuback, Disconnect, Auth];
const REASON_FROM_CLIENT: Holders = [...ACKS, Disconnect, Auth];
const REASON_FROM_SERVER: Holders = [Connack, ...ACKS, Suback, Unsuback, Disconnect, Auth];

// A subscription identifier in a PUBLISH is the server's alone [MQTT-3.3.4-6], a session expiry in a DISCONNECT the client's
// [MQTT-3.14.2-2]. Topic alias 0 has a reason code of its own [MQTT-3.3.2-8].
// biome-ignore format: a table is read by its columns
const ROWS: readonly Row[] = [
  // identifier                                name                                type      from a client           from a server
  [PropertyId.PayloadFormatIndicator,          'payload format indicator',          'flag',   MESSAGE,                [Publish]],
  [PropertyId.MessageExpiryInterval,           'message expiry interval',           'uint32', MESSAGE,                [Publish]],
  [PropertyId.ContentType,                     'content type',                      'string', MESSAGE,                [Publish]],
  [PropertyId.ResponseTopic,                   'response topic',                    'string', MESSAGE,                [Publish]],
  [PropertyId.CorrelationData,                 'correlation data',                  'binary', MESSAGE,                [Publish]],
  [PropertyId.SubscriptionIdentifier,          'subscription identifier',           'varint', [Subscribe],            [Publish], ProtocolError],
  [PropertyId.SessionExpiryInterval,           'session expiry interval',           'uint32', [Connect, Disconnect],  [Connack]],
  [PropertyId.AssignedClientIdentifier,        'assigned client identifier',        'string', NOWHERE,                [Connack]],
  [PropertyId.ServerKeepAlive,                 'server keep alive',                 'uint16', NOWHERE,                [Connack]],
  [PropertyId.AuthenticationMethod,            'authentication method',             'string', [Connect, Auth],        [Connack, Auth]],
  [PropertyId.AuthenticationData,              'authentication data',               'binary', [Connect, Auth],        [Connack, Auth]],
  [PropertyId.RequestProblemInformation,       'request problem information',       'flag',   [Connect],              NOWHERE],
  [PropertyId.WillDelayInterval,               'will delay interval',               'uint32', [WILL],                 NOWHERE],
  [PropertyId.RequestResponseInformation,      'request response information',      'flag',   [Connect],              NOWHERE],
  [PropertyId.ResponseInformation,             'response information',              'string', NOWHERE,                [Connack]],
  [PropertyId.ServerReference,                 'server reference',                  'string', NOWHERE,                [Connack, Disconnect]],
  [PropertyId.ReasonString,                    'reason string',                     'string', REASON_FROM_CLIENT,     REASON_FROM_SERVER],
  [PropertyId.ReceiveMaximum,                  'receive maximum',                   'uint16', [Connect],              [Connack], ProtocolError],
  [PropertyId.TopicAliasMaximum,               'topic alias maximum',               'uint16', [Connect],              [Connack]],
  [PropertyId.TopicAlias,                      'topic alias',                       'uint16', [Publish],              [Publish], TopicAliasInvalid],
  [PropertyId.MaximumQos,                      'maximum QoS',                       'flag',   NOWHERE,                [Connack]],
  [PropertyId.RetainAvailable,                 'retain available',                  'flag',   NOWHERE,                [Connack]],
  [PropertyId.UserProperty,                    'user property',                     'pair',   ALL_FROM_CLIENT,        ALL_FROM_SERVER],
  [PropertyId.MaximumPacketSize,               'maximum packet size',               'uint32', [Connect],              [Connack], ProtocolError],
  [PropertyId.WildcardSubscriptionAvailable,   'wildcard subscription available',   'flag',   NOWHERE,                [Connack]],
  [PropertyId.SubscriptionIdentifierAvailable, 'subscription identifier available', 'flag',   NOWHERE,                [Connack]],
  [PropertyId.SharedSubscriptionAvailable,     'shared subscription available',     'flag',   NOWHERE,                [Connack]],
];

/** Rules by identifier; undefined where no property has the identifier. */
export const PROPERTY_RULES: readonly (PropertyRule | undefined)[] = indexById(ROWS);

function indexById(rows: readonly Row[]): (PropertyRule | undefined)[] {
  const rules = new Array<PropertyRule | undefined>(0x2b).fill(undefined);
  for (const [id, name, type, client, server, zeroRefusedWith] of rows) {
    // Only user properties repeat in what a client sends: a subscription identifier repeats in a server's PUBLISH.
    const repeatable = id === PropertyId.UserProperty;
    rules[id] = {
      id,
      name,
      type,
      client: bitsOf(client),
      server: bitsOf(server),
      repeatable,
      zeroRefusedWith,
    };
  }
  return rules;
}

function bitsOf(holders: Holders): number {
  return holders.reduce((bits, holder) => bits | (1 << holder), 0);
}

/** The holder as the standard writes it, for messages. */
export function holderName(holder: PropertyHolder): string {
  if (holder === WILL) return 'the will';
  const name = Object.entries(PacketType).find(([, type]) => type === holder)?.[0];
  return name?.toUpperCase() ?? `packet type ${holder}`;
}
