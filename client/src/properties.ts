// Owns the MQTT 5 properties of a message: their names here, their names in MQTT.js, their checks and their size.
import { GomqClientError } from './errors.js';

/** The MQTT 5 properties that travel with a message. */
export interface MessageProperties {
  /** A MIME type or whatever the applications agree on. */
  contentType?: string;
  /** `utf8` says the payload is text, which a broker may check; `bytes` says nothing about it. */
  payloadFormat?: 'utf8' | 'bytes';
  /** Seconds after which the broker forgets the message. */
  messageExpirySeconds?: number;
  /** Where an answer is expected. */
  responseTopic?: string;
  /** What the answer carries so that it can be told apart. */
  correlationData?: Uint8Array;
  userProperties?: Record<string, string | string[]>;
}

/**
 * The same under the names of MQTT.js. Its own type is not used because it would become part of this package's public types,
 * and with it the types of its dependencies, some of which only compile in a browser.
 */
export interface PacketProperties {
  contentType?: string;
  payloadFormatIndicator?: boolean;
  messageExpiryInterval?: number;
  responseTopic?: string;
  correlationData?: Buffer;
  userProperties?: Record<string, string | string[]>;
}

const SECONDS_MAX = 0xffff_ffff;

function invalid(name: string, expected: string): GomqClientError {
  return new GomqClientError('OPTIONS_INVALID', `properties.${name} must be ${expected}.`);
}

function checkText(name: string, value: unknown): asserts value is string {
  if (
    typeof value !== 'string' ||
    /\p{Surrogate}/u.test(value) ||
    value.includes('\u0000') ||
    Buffer.byteLength(value) > 65_535
  ) {
    throw invalid(name, 'a string of at most 65535 bytes without NUL');
  }
}

/** Checks the properties and names them as MQTT.js does. Throws OPTIONS_INVALID: MQTT.js would cut the connection instead. */
export function toPacketProperties(properties: MessageProperties): PacketProperties {
  const packet: PacketProperties = {};
  const { contentType, payloadFormat, messageExpirySeconds, responseTopic, correlationData, userProperties } =
    properties;
  if (contentType !== undefined) {
    checkText('contentType', contentType);
    packet.contentType = contentType;
  }
  if (payloadFormat !== undefined) {
    if (payloadFormat !== 'utf8' && payloadFormat !== 'bytes') {
      throw invalid('payloadFormat', '"utf8" or "bytes"');
    }
    packet.payloadFormatIndicator = payloadFormat === 'utf8';
  }
  if (messageExpirySeconds !== undefined) {
    if (
      !Number.isInteger(messageExpirySeconds) ||
      messageExpirySeconds < 0 ||
      messageExpirySeconds > SECONDS_MAX
    ) {
      throw invalid('messageExpirySeconds', `an integer from 0 to ${SECONDS_MAX}`);
    }
    packet.messageExpiryInterval = messageExpirySeconds;
  }
  if (responseTopic !== undefined) {
    checkText('responseTopic', responseTopic);
    if (responseTopic === '' || /[#+]/.test(responseTopic)) {
      throw invalid('responseTopic', 'a topic name');
    }
    packet.responseTopic = responseTopic;
  }
  if (correlationData !== undefined) {
    if (!(correlationData instanceof Uint8Array) || correlationData.byteLength > 65_535) {
      throw invalid('correlationData', 'at most 65535 bytes in a Uint8Array');
    }
    packet.correlationData = asBuffer(correlationData);
  }
  if (userProperties !== undefined) {
    for (const [name, values] of Object.entries(userProperties)) {
      checkText('userProperties', name);
      for (const value of Array.isArray(values) ? values : [values]) {
        checkText(`userProperties.${name}`, value);
      }
    }
    packet.userProperties = userProperties;
  }
  return packet;
}

/** The other direction; `undefined` where a message carries none. */
export function fromPacketProperties(packet: PacketProperties | undefined): MessageProperties {
  const properties: MessageProperties = {};
  if (packet === undefined) {
    return properties;
  }
  if (packet.contentType !== undefined) {
    properties.contentType = packet.contentType;
  }
  if (packet.payloadFormatIndicator !== undefined) {
    properties.payloadFormat = packet.payloadFormatIndicator ? 'utf8' : 'bytes';
  }
  if (packet.messageExpiryInterval !== undefined) {
    properties.messageExpirySeconds = packet.messageExpiryInterval;
  }
  if (packet.responseTopic !== undefined) {
    properties.responseTopic = packet.responseTopic;
  }
  if (packet.correlationData !== undefined) {
    properties.correlationData = packet.correlationData;
  }
  if (packet.userProperties !== undefined) {
    properties.userProperties = { ...packet.userProperties };
  }
  return properties;
}

/** The bytes without a copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function variableLengthBytes(value: number): number {
  if (value < 128) {
    return 1;
  }
  if (value < 16_384) {
    return 2;
  }
  return value < 2_097_152 ? 3 : 4;
}

/** The size of a PUBLISH on the wire, MQTT 5 section 3.3: what a broker's Maximum Packet Size is compared with. */
export function publishPacketBytes(
  topic: string,
  payloadBytes: number,
  qos: number,
  properties: PacketProperties,
): number {
  let propertyBytes = 0;
  if (properties.payloadFormatIndicator !== undefined) {
    propertyBytes += 2;
  }
  if (properties.messageExpiryInterval !== undefined) {
    propertyBytes += 5;
  }
  for (const text of [properties.contentType, properties.responseTopic]) {
    if (text !== undefined) {
      propertyBytes += 3 + Buffer.byteLength(text);
    }
  }
  if (properties.correlationData !== undefined) {
    propertyBytes += 3 + properties.correlationData.byteLength;
  }
  for (const [name, values] of Object.entries(properties.userProperties ?? {})) {
    for (const value of Array.isArray(values) ? values : [values]) {
      propertyBytes += 5 + Buffer.byteLength(name) + Buffer.byteLength(value);
    }
  }
  const remaining =
    2 +
    Buffer.byteLength(topic) +
    (qos > 0 ? 2 : 0) +
    variableLengthBytes(propertyBytes) +
    propertyBytes +
    payloadBytes;
  return 1 + variableLengthBytes(remaining) + remaining;
}
