// The grammar of topic names and topic filters (section 4.7 of 3.1.1 and 5.0), in one place. Everything here works on strings that are
// already known to be well-formed UTF-8 without U+0000; the packet room sees to that for clients, `validateTopicName` for other callers.

import { parseReplayFrom, type ReplayFrom } from './replay-filter.js';

export interface TopicLimits {
  /** Longest topic name or filter, bytes of UTF-8. */
  topicBytes: number;
  /** Most levels, that is one more than slashes. */
  topicLevels: number;
}

const NO_LIMITS: TopicLimits = { topicBytes: 65_535, topicLevels: 65_536 };

/** Why `name` cannot be published to, in a few words, or undefined when it can. */
export function validateTopicName(name: string, limits: TopicLimits = NO_LIMITS): string | undefined {
  if (name.length === 0) return 'the topic name is empty'; // [MQTT-4.7.3-1]
  if (name.includes('+') || name.includes('#')) return 'the topic name contains a wildcard'; // [MQTT-3.3.2-2]
  return validateText(name, 'topic name', limits);
}

/** Why `filter` (without its `$share/<group>/`) cannot be subscribed to, in a few words, or undefined when it can. */
export function validateTopicFilter(filter: string, limits: TopicLimits = NO_LIMITS): string | undefined {
  if (filter.length === 0) return 'the topic filter is empty'; // [MQTT-4.7.3-1]
  const levels = filter.split('/');
  for (let i = 0; i < levels.length; i++) {
    const level = levels[i]!;
    if (level.length === 1) {
      // [MQTT-4.7.1-1] v5, [MQTT-4.7.1-2] v3.1.1
      if (level === '#' && i !== levels.length - 1) return '# is not the last level of the topic filter';
    } else if (level.includes('#')) {
      return '# does not stand alone in its level of the topic filter';
    } else if (level.includes('+')) {
      return '+ does not stand alone in its level of the topic filter'; // [MQTT-4.7.1-2] v5, [MQTT-4.7.1-3] v3.1.1
    }
  }
  return validateText(filter, 'topic filter', limits);
}

function validateText(text: string, kind: string, limits: TopicLimits): string | undefined {
  if (text.includes('\0')) return `the ${kind} contains U+0000`; // [MQTT-4.7.3-2]
  if (!text.isWellFormed()) return `the ${kind} contains a lone surrogate`; // [MQTT-1.5.4-1]
  const bytes = Buffer.byteLength(text);
  if (bytes > limits.topicBytes) return `the ${kind} has ${bytes} bytes, more than ${limits.topicBytes}`;
  let levels = 1;
  for (let at = text.indexOf('/'); at !== -1; at = text.indexOf('/', at + 1)) levels++;
  if (levels > limits.topicLevels) return `the ${kind} has ${levels} levels, more than ${limits.topicLevels}`;
  return undefined;
}

/** Topics that clients may not publish to: what the broker says itself, and what only means something in a filter (section 4.7.2). */
export function isReservedTopic(topicName: string): boolean {
  return topicName.startsWith('$') && /^\$(SYS|share|replay)(\/|$)/.test(topicName);
}

export interface ParsedFilter {
  /** The group of a shared subscription, or undefined for an ordinary one. */
  group: string | undefined;
  /** What is matched, without `$share/<group>/` or `$replay/<from>/`. */
  filter: string;
  /** Where history begins, of a subscription to that. */
  replay?: ReplayFrom;
}

/**
 * Takes `$share/<group>/<filter>` (section 4.8.2 of 5.0; 3.1.1 clients may use it as well) and `$replay/<from>/<filter>` apart.
 * @returns the parts, or a few words that say what is wrong
 */
export function parseFilter(text: string, limits: TopicLimits = NO_LIMITS): ParsedFilter | string {
  if (text === '$replay' || text.startsWith('$replay/')) return parseReplayFilter(text, limits);
  if (text !== '$share' && !text.startsWith('$share/')) {
    return validateTopicFilter(text, limits) ?? { group: undefined, filter: text };
  }
  const end = text.indexOf('/', 7);
  const group = end === -1 ? text.slice(7) : text.slice(7, end);
  if (group.length === 0) return 'the share name is empty'; // [MQTT-4.8.2-1]
  if (/[+#]/.test(group)) return 'the share name contains a wildcard'; // [MQTT-4.8.2-2]
  if (end === -1 || end === text.length - 1) return 'no topic filter follows the share name'; // [MQTT-4.8.2-2]
  const filter = text.slice(end + 1);
  return validateTopicFilter(filter, limits) ?? { group, filter };
}

function parseReplayFilter(text: string, limits: TopicLimits): ParsedFilter | string {
  const end = text.indexOf('/', 8);
  const replay = parseReplayFrom(end === -1 ? text.slice(8) : text.slice(8, end));
  if (typeof replay === 'string') return replay;
  if (end === -1 || end === text.length - 1) return 'no topic filter follows where history begins';
  const filter = text.slice(end + 1);
  if (/^\$(share|replay)(\/|$)/.test(filter)) return `history of ${filter} cannot be subscribed to`;
  return validateTopicFilter(filter, limits) ?? { group: undefined, filter, replay };
}

/** True when a filter can match more than the one topic name it spells. */
export function hasWildcard(filter: string): boolean {
  return filter.includes('+') || filter.includes('#');
}
