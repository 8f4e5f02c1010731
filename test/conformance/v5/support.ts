// What the tests of MQTT 5.0 share beyond test/support/suite.ts: property blocks as bytes in both directions, and the few ways in which a
// broker may refuse something. Properties are read here and not by mqtt-packet, which loses their order and has no room for a second
// user property between two others.
import assert from 'node:assert/strict';
import { setTimeout } from 'node:timers/promises';
import {
  type ConnectOptions,
  frame,
  hex,
  prefixed,
  type RawClient,
  type Received,
  uint16,
  uint32,
  uniqueClientId,
  variableByteInteger,
  wrongConnect,
} from '../../support/raw-client.js';
import { useBroker as useSuiteBroker } from '../../support/suite.js';

type Bytes = Uint8Array | readonly number[];

/** The broker of one test file, with MQTT 5.0 clients. */
export interface Broker {
  readonly wsPort: number;
  /** A client that is connected. */
  open(options?: ConnectOptions): Promise<RawClient>;
  /** A connection on which nothing was sent yet. */
  dial(): Promise<RawClient>;
}

/** Starts a broker before the tests of the file and stops it after them. */
export function useBroker(config?: Parameters<typeof useSuiteBroker>[0]): Broker {
  const suite = useSuiteBroker(config);
  return {
    get wsPort() {
      return suite.wsPort;
    },
    open: (options) => suite.open({ version: 5, ...options }),
    dial: async () => {
      const client = await suite.connect();
      client.version = 5;
      return client;
    },
  };
}

// Property identifiers, table 2-4 of the standard: written down once more, so that the broker's own table is tested and not trusted.
export const P = {
  payloadFormat: 0x01,
  messageExpiry: 0x02,
  contentType: 0x03,
  responseTopic: 0x08,
  correlationData: 0x09,
  subscriptionId: 0x0b,
  sessionExpiry: 0x11,
  assignedClientId: 0x12,
  serverKeepAlive: 0x13,
  authMethod: 0x15,
  authData: 0x16,
  requestProblemInformation: 0x17,
  willDelay: 0x18,
  requestResponseInformation: 0x19,
  responseInformation: 0x1a,
  serverReference: 0x1c,
  reasonString: 0x1f,
  receiveMaximum: 0x21,
  topicAliasMaximum: 0x22,
  topicAlias: 0x23,
  maximumQos: 0x24,
  retainAvailable: 0x25,
  userProperty: 0x26,
  maximumPacketSize: 0x27,
  wildcardAvailable: 0x28,
  subscriptionIdAvailable: 0x29,
  sharedAvailable: 0x2a,
} as const;

type Kind = 'byte' | 'uint16' | 'uint32' | 'varint' | 'string' | 'binary' | 'pair';

const KINDS = new Map<number, Kind>([
  [P.payloadFormat, 'byte'],
  [P.messageExpiry, 'uint32'],
  [P.contentType, 'string'],
  [P.responseTopic, 'string'],
  [P.correlationData, 'binary'],
  [P.subscriptionId, 'varint'],
  [P.sessionExpiry, 'uint32'],
  [P.assignedClientId, 'string'],
  [P.serverKeepAlive, 'uint16'],
  [P.authMethod, 'string'],
  [P.authData, 'binary'],
  [P.requestProblemInformation, 'byte'],
  [P.willDelay, 'uint32'],
  [P.requestResponseInformation, 'byte'],
  [P.responseInformation, 'string'],
  [P.serverReference, 'string'],
  [P.reasonString, 'string'],
  [P.receiveMaximum, 'uint16'],
  [P.topicAliasMaximum, 'uint16'],
  [P.topicAlias, 'uint16'],
  [P.maximumQos, 'byte'],
  [P.retainAvailable, 'byte'],
  [P.userProperty, 'pair'],
  [P.maximumPacketSize, 'uint32'],
  [P.wildcardAvailable, 'byte'],
  [P.subscriptionIdAvailable, 'byte'],
  [P.sharedAvailable, 'byte'],
]);

type Value = number | string | Buffer | readonly [name: string, value: string];

/** One property as bytes, of the type its identifier has. */
export function property(id: number, value: Value): Buffer {
  return Buffer.concat([Buffer.from([id]), encodeValue(KINDS.get(id), value)]);
}

function encodeValue(kind: Kind | undefined, value: Value): Buffer {
  if (typeof value === 'string' || Buffer.isBuffer(value)) return prefixed(value);
  if (typeof value !== 'number') return Buffer.concat(value.map((part) => prefixed(part)));
  if (kind === 'byte') return Buffer.from([value]);
  if (kind === 'uint16') return uint16(value);
  if (kind === 'uint32') return uint32(value);
  return variableByteInteger(value);
}

/** A property block with its length. */
export function block(...properties: Bytes[]): Buffer {
  const bytes = Buffer.concat(properties.map((part) => Buffer.from(part)));
  return Buffer.concat([variableByteInteger(bytes.length), bytes]);
}

/** All properties of a packet the broker sent, in the order it sent them. */
export function propertiesOf(packet: Received): [id: number, value: Value][] {
  const { raw } = packet;
  let position = 1;
  while ((raw[position]! & 0x80) !== 0) position += 1;
  position += 1;
  const { cmd } = packet;
  if (cmd === 'connack') position += 2;
  else if (cmd === 'publish')
    position += 2 + raw.readUInt16BE(position) + (((raw[0]! >> 1) & 3) === 0 ? 0 : 2);
  else if (cmd === 'suback' || cmd === 'unsuback') position += 2;
  else if (cmd === 'disconnect' || cmd === 'auth') position += 1;
  else position += 3;
  if (position >= raw.length) return [];

  const reader = { raw, position };
  const length = readVarint(reader);
  const end = reader.position + length;
  assert.ok(end <= raw.length, `a property block longer than its packet: ${hex(raw)}`);
  const found: [number, Value][] = [];
  while (reader.position < end) {
    const id = raw[reader.position++]!;
    found.push([id, readValue(reader, KINDS.get(id))]);
  }
  assert.equal(reader.position, end, `a property that leaves its block: ${hex(raw)}`);
  return found;
}

interface Reader {
  raw: Buffer;
  position: number;
}

function readVarint(reader: Reader): number {
  let value = 0;
  for (let factor = 1; ; factor *= 128) {
    const byte = reader.raw[reader.position++]!;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return value;
  }
}

function readValue(reader: Reader, kind: Kind | undefined): Value {
  switch (kind) {
    case 'byte':
      return reader.raw[reader.position++]!;
    case 'uint16':
      reader.position += 2;
      return reader.raw.readUInt16BE(reader.position - 2);
    case 'uint32':
      reader.position += 4;
      return reader.raw.readUInt32BE(reader.position - 4);
    case 'varint':
      return readVarint(reader);
    case 'binary':
      return readBytes(reader);
    case 'string':
      return readBytes(reader).toString();
    case 'pair':
      return [readBytes(reader).toString(), readBytes(reader).toString()];
    case undefined:
      return assert.fail(`an unknown property: ${hex(reader.raw)}`);
  }
}

function readBytes(reader: Reader): Buffer {
  const length = reader.raw.readUInt16BE(reader.position);
  reader.position += 2 + length;
  return reader.raw.subarray(reader.position - length, reader.position);
}

/** The values of one property, in order; empty where the packet does not have it. */
export function valuesOf(packet: Received, id: number): Value[] {
  return propertiesOf(packet)
    .filter(([found]) => found === id)
    .map(([, value]) => value);
}

/** The value of a property that a packet has at most once. */
export function propertyOf(packet: Received, id: number): Value | undefined {
  const values = valuesOf(packet, id);
  assert.ok(values.length <= 1, `property 0x${id.toString(16)} more than once: ${hex(packet.raw)}`);
  return values[0];
}

/** The reason code of an acknowledgement or DISCONNECT: a packet that ends before it means 0. */
export function reasonOf(packet: Received): number {
  return 'reasonCode' in packet ? (packet.reasonCode ?? 0) : 0;
}

export interface PublishFrame {
  qos?: number;
  retain?: boolean;
  dup?: boolean;
  packetId?: number;
  properties?: Bytes[];
  payload?: string | Bytes;
}

/** A PUBLISH in which every field can be wrong; the packet identifier is left out at QoS 0. */
export function publishFrame(topic: string | Uint8Array, options: PublishFrame = {}): Buffer {
  const { qos = 0, payload = '' } = options;
  const flags = (options.dup ? 8 : 0) | (qos << 1) | (options.retain ? 1 : 0);
  return frame(
    0x30 | flags,
    prefixed(topic),
    qos === 0 ? [] : uint16(options.packetId ?? 1),
    block(...(options.properties ?? [])),
    typeof payload === 'string' ? Buffer.from(payload) : payload,
  );
}

/** A SUBSCRIBE of filters and options bytes, both of which can be wrong. */
export function subscribeFrame(
  packetId: number,
  filters: [filter: string | Uint8Array, options: number][],
  properties: Bytes[] = [],
): Buffer {
  const payload = filters.flatMap(([filter, options]) => [prefixed(filter), [options]]);
  return frame(0x82, uint16(packetId), block(...properties), ...payload);
}

export function unsubscribeFrame(
  packetId: number,
  filters: (string | Uint8Array)[],
  properties: Bytes[] = [],
): Buffer {
  return frame(0xa2, uint16(packetId), block(...properties), ...filters.map((filter) => prefixed(filter)));
}

/** A CONNECT of version 5 with properties given as bytes. */
export function connectFrame(
  options: { clientId?: string; flags?: number; keepAliveSeconds?: number; payload?: Bytes[] },
  ...properties: Bytes[]
): Buffer {
  return wrongConnect({
    level: 5,
    flags: options.flags ?? 0x02,
    keepAliveSeconds: options.keepAliveSeconds ?? 60,
    properties: block(...properties),
    payload: [prefixed(options.clientId ?? uniqueClientId()), ...(options.payload ?? [])],
  });
}

/** Flags of a CONNECT. */
export const CLEAN_START = 0x02;
export const WILL = 0x04;
export const WILL_RETAIN = 0x20;
export const PASSWORD = 0x40;
export const USER_NAME = 0x80;

/**
 * The CONNECT sent before is refused: one CONNACK with one of the codes and Session Present 0, then the end of the connection
 * [MQTT-3.2.2-6] [MQTT-3.2.2-7].
 */
export async function expectRefused(
  client: RawClient,
  ...reasonCodes: number[]
): Promise<Received<'connack'>> {
  const connack = await client.expect('connack');
  const wanted = reasonCodes.map((code) => `0x${code.toString(16)}`).join(' or ');
  assert.ok(
    reasonCodes.includes(connack.reasonCode ?? -1),
    `expected CONNACK ${wanted}, got ${hex(connack.raw)}`,
  );
  assert.equal(connack.sessionPresent, false);
  await client.expectClosed();
  return connack;
}

/** The next packet, where the standard leaves open which it is. */
export async function nextPacket(client: RawClient): Promise<Received> {
  const deadline = Date.now() + 3000;
  while (client.queue.length === 0 && !client.isClosed && Date.now() < deadline) await setTimeout(2);
  return (
    client.queue.shift() ?? assert.fail(client.isClosed ? 'the connection was closed' : 'no answer came')
  );
}

/** The filters of the SUBSCRIBE sent before are refused: each in SUBACK with one of the codes, or all by a DISCONNECT with one. */
export async function expectFilterRefused(client: RawClient, ...reasonCodes: number[]): Promise<void> {
  const packet = await nextPacket(client);
  const codes = packet.cmd === 'suback' ? packet.granted : [reasonOf(packet)];
  assert.ok(packet.cmd === 'suback' || packet.cmd === 'disconnect', `got a ${packet.cmd}`);
  for (const code of codes) assert.ok(reasonCodes.includes(code), `refused with ${hex(packet.raw)}`);
  if (packet.cmd === 'disconnect') await client.closed();
  else await client.expectQuiet();
}

/** Subscribes with an options byte as it goes out, which must be granted. */
export async function subscribe(
  client: RawClient,
  filter: string,
  options: { qos?: 0 | 1 | 2; noLocal?: boolean; rap?: boolean; rh?: 0 | 1 | 2; id?: number } = {},
): Promise<void> {
  const { qos = 0, rh = 0 } = options;
  const packetId = client.nextMessageId();
  const bits = qos | (options.noLocal ? 4 : 0) | (options.rap ? 8 : 0) | (rh << 4);
  const properties = options.id === undefined ? [] : [property(P.subscriptionId, options.id)];
  client.send(subscribeFrame(packetId, [[filter, bits]], properties));
  const suback = await client.find('suback');
  assert.deepEqual([suback.messageId, suback.granted], [packetId, [qos]]);
}
