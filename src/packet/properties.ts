// Owns the walks over properties of MQTT 5.0 (section 2.2.2): the check of a block in place, and the two ways to read one: in full
// for packets that come once (`decodeProperties`), in one walk without decoding for PUBLISH. The rules are in property-table.ts.
//
// A block, everywhere here, is the bytes after the length that precedes it:
//
//   +----------------------+----+----------+----+----------+
//   | length (varint)      | id | value    | id | value    | ...
//   +----------------------+----+----------+----+----------+
//                          ^ start                         ^ end
import {
  holderName,
  PROPERTY_RULES,
  type PropertyHolder,
  PropertyId,
  type PropertyRule,
} from './property-table.js';
import { malformed, PacketType, protocolError } from './types.js';
import { isValidUtf8String } from './utf8.js';
import { readVarint, varintSize } from './varint.js';

/** The identifiers seen so far in one block, a bit each. Two words, because identifiers reach 0x2a. */
interface Seen {
  low: number;
  high: number;
}

/** The rule of the property at the position, checked against where it stands and what came before it. */
function ruleAt(buffer: Buffer, position: number, holder: PropertyHolder, seen: Seen): PropertyRule {
  // The identifier is a variable byte integer, but every one assigned is a single byte: 0x80 and above are unknown ids.
  const id = buffer[position];
  const rule = PROPERTY_RULES[id];
  if (rule === undefined) throw malformed(`unknown property 0x${id.toString(16)} in ${holderName(holder)}`);
  if ((rule.client & (1 << holder)) === 0) {
    // [MQTT-3.3.4-6] for a subscription identifier in a PUBLISH.
    if ((rule.server & (1 << holder)) !== 0) {
      throw protocolError(`${rule.name} in ${holderName(holder)} comes from a server only`);
    } // Section 2.2.2.2: an identifier that is not valid for its packet type makes the packet malformed.
    throw malformed(`${rule.name} does not belong in ${holderName(holder)}`);
  }
  if (!rule.repeatable) {
    // Each property's section says that it is a protocol error to include it more than once.
    const bit = 1 << (id & 31);
    if (((id < 32 ? seen.low : seen.high) & bit) !== 0)
      throw protocolError(`${rule.name} twice in ${holderName(holder)}`);
    if (id < 32) seen.low |= bit;
    else seen.high |= bit;
  }
  return rule;
}

/** Where the value that begins at the position ends; a value that leaves the block is malformed. */
function valueEnd(buffer: Buffer, position: number, end: number, rule: PropertyRule): number {
  let valueEnds: number;
  switch (rule.type) {
    case 'flag':
      valueEnds = position + 1;
      break;
    case 'uint16':
      valueEnds = position + 2;
      break;
    case 'uint32':
      valueEnds = position + 4;
      break;
    case 'varint': {
      const value = readVarint(buffer, position, end);
      valueEnds = value < 0 ? end + 1 : position + varintSize(value);
      break;
    }
    case 'string':
    case 'binary':
      valueEnds = countedEnd(buffer, position, end);
      break;
    case 'pair':
      valueEnds = countedEnd(buffer, countedEnd(buffer, position, end), end);
      break;
  }
  if (valueEnds > end) throw malformed(`${rule.name} ends outside its property block`);
  return valueEnds;
}

/** The end of bytes with a two-byte length before them; beyond `end` when the length itself is not there. */
function countedEnd(buffer: Buffer, position: number, end: number): number {
  if (position + 2 > end) return end + 1;
  return position + 2 + uint16(buffer, position);
}

function uint16(buffer: Buffer, position: number): number {
  return (buffer[position] << 8) | buffer[position + 1];
}

function uint32(buffer: Buffer, position: number): number {
  return buffer[position] * 0x100_0000 + ((buffer[position + 1] << 16) | uint16(buffer, position + 2));
}

/** Checks a value that lies whole in the block: the range of numbers, the characters of strings. */
function checkValue(buffer: Buffer, position: number, valueEnds: number, rule: PropertyRule): void {
  switch (rule.type) {
    case 'flag':
      if (buffer[position] > 1) throw protocolError(`${rule.name} is ${buffer[position]}, neither 0 nor 1`);
      break;
    case 'uint16':
    case 'uint32':
    case 'varint':
      if (rule.zeroRefusedWith !== undefined && isZero(buffer, position, valueEnds)) {
        throw protocolError(`${rule.name} is 0`, rule.zeroRefusedWith);
      }
      break;
    case 'string':
      checkString(buffer, position + 2, valueEnds, rule);
      if (rule.id === PropertyId.ResponseTopic) checkResponseTopic(buffer, position + 2, valueEnds);
      break;
    case 'pair': {
      // [MQTT-1.5.7-1]
      const nameEnds = position + 2 + uint16(buffer, position);
      checkString(buffer, position + 2, nameEnds, rule);
      checkString(buffer, nameEnds + 2, valueEnds, rule);
      break;
    }
    case 'binary':
      break;
  }
}

function isZero(buffer: Buffer, start: number, end: number): boolean {
  for (let position = start; position < end; position++) if (buffer[position] !== 0) return false;
  return true;
}

function checkString(buffer: Buffer, start: number, end: number, rule: PropertyRule): void {
  // [MQTT-1.5.4-1] [MQTT-1.5.4-2]; [MQTT-3.3.2-13] and [MQTT-3.3.2-19] for response topic and content type.
  if (!isValidUtf8String(buffer, start, end)) throw malformed(`${rule.name} is not a valid UTF-8 string`);
}

const PLUS = 0x2b;
const HASH = 0x23;

function checkResponseTopic(buffer: Buffer, start: number, end: number): void {
  // [MQTT-4.7.3-1]: a topic name has at least one character.
  if (start === end) throw protocolError('response topic is empty');
  for (let position = start; position < end; position++) {
    // [MQTT-3.3.2-14]
    if (buffer[position] === PLUS || buffer[position] === HASH) {
      throw protocolError('response topic contains a wildcard');
    }
  }
}

/**
 * Checks a property block that a client sent: identifiers known, allowed there and not repeated, values whole and in range.
 * @throws {GomqError} 0x81 for what the structure forbids, 0x82 or 0x94 for what a rule forbids
 */
export function checkProperties(buffer: Buffer, start: number, end: number, holder: PropertyHolder): void {
  if (start === end) return;
  const seen: Seen = { low: 0, high: 0 };
  let position = start;
  while (position < end) {
    const rule = ruleAt(buffer, position, holder, seen);
    const valueEnds = valueEnd(buffer, position + 1, end, rule);
    checkValue(buffer, position + 1, valueEnds, rule);
    position = valueEnds;
  }
}

/** The values of one block, by identifier. Everything in it is a copy. */
export class PropertyValues {
  /** In the order sent; a name may occur several times [MQTT-3.1.3-10]. */
  readonly userProperties: [name: string, value: string][] = [];
  readonly #values = new Map<number, number | string | Buffer>();

  set(id: number, value: number | string | Buffer): void {
    this.#values.set(id, value);
  }

  number(id: number): number | undefined {
    const value = this.#values.get(id);
    return typeof value === 'number' ? value : undefined;
  }

  text(id: number): string | undefined {
    const value = this.#values.get(id);
    return typeof value === 'string' ? value : undefined;
  }

  bytes(id: number): Buffer | undefined {
    const value = this.#values.get(id);
    return Buffer.isBuffer(value) ? value : undefined;
  }
}

/**
 * Checks a block and reads all of it. For packets that come once per connection.
 * @throws {GomqError} as checkProperties
 */
export function decodeProperties(
  buffer: Buffer,
  start: number,
  end: number,
  holder: PropertyHolder,
): PropertyValues {
  checkProperties(buffer, start, end, holder);
  const values = new PropertyValues();
  let position = start;
  while (position < end) {
    const rule = PROPERTY_RULES[buffer[position]]!;
    const from = position + 1;
    position = valueEnd(buffer, from, end, rule);
    switch (rule.type) {
      case 'flag':
        values.set(rule.id, buffer[from]);
        break;
      case 'uint16':
        values.set(rule.id, uint16(buffer, from));
        break;
      case 'uint32':
        values.set(rule.id, uint32(buffer, from));
        break;
      case 'varint':
        values.set(rule.id, readVarint(buffer, from, end));
        break;
      case 'string':
        values.set(rule.id, buffer.toString('utf8', from + 2, position));
        break;
      case 'binary':
        values.set(rule.id, Buffer.from(buffer.subarray(from + 2, position)));
        break;
      case 'pair': {
        const nameEnds = from + 2 + uint16(buffer, from);
        values.userProperties.push([
          buffer.toString('utf8', from + 2, nameEnds),
          buffer.toString('utf8', nameEnds + 2, position),
        ]);
        break;
      }
    }
  }
  return values;
}

export interface PublishProperties {
  /** 1 to 65535, or 0 for none. */
  topicAlias: number;
  /** -1 for none; 0 is a message that has expired as it arrives. */
  messageExpirySeconds: number;
  /** Payload format indicator 1: the payload promises to be UTF-8. */
  payloadIsUtf8: boolean;
  /**
   * The block as subscribers get it, without the length before it. It may lie in the input: copy it to keep it.
   */
  forward: Buffer;
}

const EMPTY = Buffer.alloc(0);

const NO_PUBLISH_PROPERTIES: PublishProperties = Object.freeze({
  topicAlias: 0,
  messageExpirySeconds: -1,
  payloadIsUtf8: false,
  forward: EMPTY,
});

/**
 * Checks the block of a client's PUBLISH and finds what the broker needs of it in one walk, decoding no string.
 * @throws {GomqError} as checkProperties; 0x94 for topic alias 0
 */
export function scanPublishProperties(buffer: Buffer, start: number, end: number): PublishProperties {
  if (start === end) return NO_PUBLISH_PROPERTIES;
  const seen: Seen = { low: 0, high: 0 };
  let topicAlias = 0;
  let messageExpirySeconds = -1;
  let payloadIsUtf8 = false;
  let position = start;
  while (position < end) {
    const rule = ruleAt(buffer, position, PacketType.Publish, seen);
    const from = position + 1;
    position = valueEnd(buffer, from, end, rule);
    checkValue(buffer, from, position, rule);
    if (rule.id === PropertyId.TopicAlias) topicAlias = uint16(buffer, from);
    else if (rule.id === PropertyId.MessageExpiryInterval) messageExpirySeconds = uint32(buffer, from);
    else if (rule.id === PropertyId.PayloadFormatIndicator) payloadIsUtf8 = buffer[from] === 1;
  }
  const forward =
    topicAlias === 0 && messageExpirySeconds < 0
      ? buffer.subarray(start, end)
      : forwardableProperties(buffer, start, end);
  return { topicAlias, messageExpirySeconds, payloadIsUtf8, forward };
}

/**
 * The part of a checked PUBLISH or will block that belongs to the message, in the order sent, as a fresh buffer. Left out is
 * what belongs to one connection (topic alias), to one point in time (message expiry, which the broker counts down and
 * writes anew) or to the will itself (will delay).
 * Everything else goes on unaltered [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20].
 */
export function forwardableProperties(buffer: Buffer, start: number, end: number): Buffer {
  const kept = Buffer.allocUnsafe(end - start);
  let keptBytes = 0;
  let position = start;
  while (position < end) {
    const rule = PROPERTY_RULES[buffer[position]]!;
    const valueEnds = valueEnd(buffer, position + 1, end, rule);
    if (
      rule.id !== PropertyId.TopicAlias &&
      rule.id !== PropertyId.MessageExpiryInterval &&
      rule.id !== PropertyId.WillDelayInterval
    ) {
      keptBytes += buffer.copy(kept, keptBytes, position, valueEnds);
    }
    position = valueEnds;
  }
  return keptBytes === 0 ? EMPTY : kept.subarray(0, keptBytes);
}
