// Owns what a topic name and a topic filter may look like, and whether a filter matches a name.
import { GomqClientError } from './errors.js';

const TOPIC_BYTES_MAX = 65_535;

/** Throws TOPIC_INVALID unless the value may be published to. */
export function assertTopicName(topic: unknown): asserts topic is string {
  const fault = textFault(topic);
  if (fault !== undefined) {
    throw new GomqClientError('TOPIC_INVALID', `Topic name ${quote(topic)} ${fault}.`);
  }
  if (/[#+]/.test(topic as string)) {
    // [MQTT-3.3.2-2] A topic name holds no wildcard.
    throw new GomqClientError('TOPIC_INVALID', `Topic name ${quote(topic)} holds a wildcard.`);
  }
}

/** Throws FILTER_INVALID unless the value may be subscribed to. */
export function assertTopicFilter(filter: unknown): asserts filter is string {
  const fault = textFault(filter);
  if (fault !== undefined) {
    throw new GomqClientError('FILTER_INVALID', `Topic filter ${quote(filter)} ${fault}.`);
  }
  const levels = (filter as string).split('/');
  if (levels[0] === '$share') {
    // [MQTT-4.8.2-1] [MQTT-4.8.2-2] A share name has at least one character and no wildcard, and a filter follows it.
    const rest = levels.slice(2).join('/');
    if (levels[1] === undefined || levels[1] === '' || /[#+]/.test(levels[1]) || rest === '') {
      throw new GomqClientError(
        'FILTER_INVALID',
        `Topic filter ${quote(filter)} is not $share/GROUP/FILTER with a group and a filter.`,
      );
    }
  }
  for (const [index, level] of levels.entries()) {
    // [MQTT-4.7.1-1] [MQTT-4.7.1-2] # is the last level, and both wildcards fill their level.
    const hashMisplaced = level.includes('#') && (level !== '#' || index !== levels.length - 1);
    if (hashMisplaced || (level.includes('+') && level !== '+')) {
      throw new GomqClientError('FILTER_INVALID', `Topic filter ${quote(filter)} has a misplaced wildcard.`);
    }
  }
}

function textFault(text: unknown): string | undefined {
  if (typeof text !== 'string') {
    return 'is not a string';
  }
  if (text === '') {
    return 'is empty';
  }
  if (text.includes('\u0000')) {
    return 'holds a NUL character';
  }
  if (/\p{Surrogate}/u.test(text)) {
    // [MQTT-1.5.4-1] A lone surrogate has no UTF-8 form.
    return 'is not well-formed Unicode';
  }
  if (Buffer.byteLength(text) > TOPIC_BYTES_MAX) {
    return `is longer than ${TOPIC_BYTES_MAX} bytes`;
  }
  return undefined;
}

function quote(text: unknown): string {
  const shown = typeof text === 'string' ? text : String(text);
  return `"${shown.length > 80 ? `${shown.slice(0, 77)}...` : shown}"`;
}

/** The part of a filter that topics are matched against: without the share and without gomq's replay prefix. */
export function matchingPart(filter: string): string {
  let part = filter;
  for (const prefix of ['$share/', '$replay/']) {
    if (part.startsWith(prefix)) {
      part = part.slice(part.indexOf('/', prefix.length) + 1);
    }
  }
  return part;
}

/** Whether a topic name matches a filter, or the matching part of a shared one. */
export function topicMatches(filter: string, topic: string): boolean {
  const filterLevels = filter.split('/');
  const topicLevels = topic.split('/');
  // [MQTT-4.7.2-1] A filter that starts with a wildcard does not match topics that start with $.
  if (topic.startsWith('$') && (filterLevels[0] === '#' || filterLevels[0] === '+')) {
    return false;
  }
  for (const [index, level] of filterLevels.entries()) {
    if (level === '#') {
      return true;
    }
    const name = topicLevels[index];
    if (name === undefined || (level !== '+' && level !== name)) {
      return false;
    }
  }
  return filterLevels.length === topicLevels.length;
}

/**
 * The subscription identifier of a filter: the same in every process, because a session that outlives a process still names
 * its messages by the identifiers that the earlier process gave. FNV-1a folded to 1 .. 268,435,455, the range MQTT 5 allows.
 */
export function subscriptionIdentifier(filter: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(filter)) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return (hash % 268_435_455) + 1;
}
