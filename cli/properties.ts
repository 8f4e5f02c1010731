// Owns `-D COMMAND PROPERTY VALUE [VALUE2]`: which MQTT 5.0 properties each packet may carry, and the type of each (section 2.2.2.2).
import type {
  IConnectPacket,
  IDisconnectPacket,
  IPublishPacket,
  ISubscribePacket,
  UserProperties,
} from 'mqtt-packet';
import { Failure } from './failure.js';

type WillProperties = NonNullable<IConnectPacket['will']>['properties'];

/** What the `-D` options of one command line say, by packet, in the shape that MQTT.js takes. */
export interface PacketProperties {
  connect: NonNullable<IConnectPacket['properties']>;
  publish: NonNullable<IPublishPacket['properties']>;
  subscribe: NonNullable<ISubscribePacket['properties']>;
  unsubscribe: { userProperties?: UserProperties };
  disconnect: NonNullable<IDisconnectPacket['properties']>;
  will: NonNullable<WillProperties>;
}

type PacketName = keyof PacketProperties;
type PropertyType = 'flag' | 'u16' | 'u32' | 'varint' | 'text' | 'binary' | 'pair';

interface Property {
  key: string;
  type: PropertyType;
  /** The smallest value the standard allows, where it is not 0. */
  lowest?: number;
  packets: readonly PacketName[];
}

const MESSAGE: readonly PacketName[] = ['publish', 'will'];

const PROPERTIES: Record<string, Property> = {
  'authentication-data': { key: 'authenticationData', type: 'binary', packets: ['connect'] },
  'authentication-method': { key: 'authenticationMethod', type: 'text', packets: ['connect'] },
  'content-type': { key: 'contentType', type: 'text', packets: MESSAGE },
  'correlation-data': { key: 'correlationData', type: 'binary', packets: MESSAGE },
  'maximum-packet-size': { key: 'maximumPacketSize', type: 'u32', lowest: 1, packets: ['connect'] },
  'message-expiry-interval': { key: 'messageExpiryInterval', type: 'u32', packets: MESSAGE },
  'payload-format-indicator': { key: 'payloadFormatIndicator', type: 'flag', packets: MESSAGE },
  'receive-maximum': { key: 'receiveMaximum', type: 'u16', lowest: 1, packets: ['connect'] },
  'request-problem-information': { key: 'requestProblemInformation', type: 'flag', packets: ['connect'] },
  'request-response-information': { key: 'requestResponseInformation', type: 'flag', packets: ['connect'] },
  'response-topic': { key: 'responseTopic', type: 'text', packets: MESSAGE },
  'session-expiry-interval': {
    key: 'sessionExpiryInterval',
    type: 'u32',
    packets: ['connect', 'disconnect'],
  },
  'subscription-identifier': {
    key: 'subscriptionIdentifier',
    type: 'varint',
    lowest: 1,
    packets: ['subscribe'],
  },
  'topic-alias': { key: 'topicAlias', type: 'u16', lowest: 1, packets: ['publish'] },
  'topic-alias-maximum': { key: 'topicAliasMaximum', type: 'u16', packets: ['connect'] },
  'user-property': {
    key: 'userProperties',
    type: 'pair',
    packets: ['connect', 'publish', 'subscribe', 'unsubscribe', 'disconnect', 'will'],
  },
  'will-delay-interval': { key: 'willDelayInterval', type: 'u32', packets: ['will'] },
};

const PACKETS: readonly PacketName[] = [
  'connect',
  'publish',
  'subscribe',
  'unsubscribe',
  'disconnect',
  'will',
];
const HIGHEST = { u16: 0xffff, u32: 0xffff_ffff, varint: 268_435_455 } as const;

/** How many values follow `-D COMMAND PROPERTY`: two for a user property, its name and its value, otherwise one. */
export function valueCount(property: string): number {
  return property.toLowerCase() === 'user-property' ? 2 : 1;
}

export function emptyProperties(): PacketProperties {
  return { connect: {}, publish: {}, subscribe: {}, unsubscribe: {}, disconnect: {}, will: {} };
}

/**
 * Adds one `-D` option.
 * @param words COMMAND, PROPERTY and its one or two values
 * @throws {Failure} naming what the packet, the property or the value should have been
 */
export function addProperty(all: PacketProperties, words: readonly string[]): void {
  const [command = '', name = '', ...values] = words;
  const packet = PACKETS.find((candidate) => candidate === command.toLowerCase());
  if (packet === undefined) {
    throw new Failure(`-D: "${command}" is not one of ${PACKETS.join(', ')}`);
  }
  const property = Object.hasOwn(PROPERTIES, name.toLowerCase()) ? PROPERTIES[name.toLowerCase()] : undefined;
  if (property === undefined) {
    throw new Failure(`-D: unknown property "${name}"; ${packet} takes ${namesOf(packet)}`);
  }
  if (!property.packets.includes(packet)) {
    throw new Failure(`-D: ${name} does not belong in ${packet}; ${packet} takes ${namesOf(packet)}`);
  }
  if (values.length !== valueCount(name)) {
    throw new Failure(
      `-D ${command} ${name} needs ${property.type === 'pair' ? 'a name and a value' : 'a value'}`,
    );
  }
  const target = all[packet] as Record<string, unknown>;
  if (property.type === 'pair') {
    target[property.key] = withPair(
      target[property.key] as UserProperties | undefined,
      values[0]!,
      values[1]!,
    );
  } else if (property.key in target) {
    throw new Failure(`-D: ${name} is given twice for ${packet}`);
  } else {
    target[property.key] = parseValue(name, property, values[0]!);
  }
}

function namesOf(packet: PacketName): string {
  return Object.keys(PROPERTIES)
    .filter((name) => PROPERTIES[name]!.packets.includes(packet))
    .join(', ');
}

function withPair(pairs: UserProperties | undefined, name: string, value: string): UserProperties {
  const result: UserProperties = pairs ?? Object.create(null);
  const before = result[name];
  result[name] = before === undefined ? value : Array.isArray(before) ? [...before, value] : [before, value];
  return result;
}

function parseValue(name: string, property: Property, value: string): unknown {
  switch (property.type) {
    case 'text':
      return value;
    case 'binary':
      return Buffer.from(value);
    case 'flag':
      if (value !== '0' && value !== '1') throw new Failure(`-D: ${name} is 0 or 1, not "${value}"`);
      return value === '1';
    case 'u16':
    case 'u32':
    case 'varint': {
      const lowest = property.lowest ?? 0;
      const highest = HIGHEST[property.type];
      const number = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
      if (!(number >= lowest && number <= highest)) {
        throw new Failure(`-D: ${name} is a number from ${lowest} to ${highest}, not "${value}"`);
      }
      return number;
    }
    case 'pair':
      throw new Failure(`-D: ${name} needs a name and a value`);
  }
}
