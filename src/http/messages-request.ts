// Reads the query of GET /messages. Every check says which parameter is wrong and shows what it held.
import { GomqError } from '../core/errors.js';
import { parseReplayFrom, type ReplayFrom } from '../router/replay-filter.js';
import { type TopicLimits, validateTopicName } from '../router/topic-name.js';
import { show } from './show.js';

/** What an HTTP caller wants to see. */
export interface MessagesQuery {
  topicName: string;
  from: ReplayFrom;
  limit: number;
  /** Payloads as text, or each as Base64. */
  encoding: 'text' | 'base64';
}

const KEYS: readonly string[] = ['from', 'limit', 'encoding'];
const LIMIT_DEFAULT = 1000;
const LIMIT_MAX = 10_000;

/**
 * @param pathTopic of `/messages/TOPIC`; undefined for `/messages?topic=TOPIC`
 * @param query decoded
 * @throws {GomqError} REQUEST_INVALID, TOPIC_INVALID
 */
export function readMessagesQuery(
  pathTopic: string | undefined,
  query: Readonly<Record<string, unknown>>,
  limits: TopicLimits,
): MessagesQuery {
  const keys = pathTopic === undefined ? ['topic', ...KEYS] : KEYS;
  const unknown = Object.keys(query).find((key) => !keys.includes(key));
  if (unknown !== undefined) {
    throw wrong(`unknown parameter ${show(unknown)}; expected ${keys.join(', ')}`);
  }
  return {
    topicName: readTopic(pathTopic ?? query.topic, limits),
    from: readFrom(query.from),
    limit: readLimit(query.limit),
    encoding: readEncoding(query.encoding),
  };
}

function readTopic(topic: unknown, limits: TopicLimits): string {
  if (typeof topic !== 'string') {
    throw wrong(`topic is ${show(topic)}; expected /messages?topic=TOPIC or /messages/TOPIC`);
  }
  const reason = validateTopicName(topic, limits);
  if (reason === undefined) return topic;
  throw new GomqError('TOPIC_INVALID', `topic is ${show(topic)}: ${reason}`, {
    hint: 'One topic at a time, its name without wildcards; `gomqctl list` takes filters.',
  });
}

function readFrom(from: unknown): ReplayFrom {
  if (from === undefined) return { kind: 'earliest' };
  const expected = 'expected earliest, an offset, a duration like -1h30m or a time like 2026-01-31T12:00:00Z';
  const parsed = typeof from === 'string' ? parseReplayFrom(from) : undefined;
  if (parsed === undefined || typeof parsed === 'string' || parsed.kind === 'retained') {
    throw wrong(`from is ${show(from)}; ${expected}`);
  }
  return parsed;
}

function readLimit(limit: unknown): number {
  if (limit === undefined) return LIMIT_DEFAULT;
  const number = typeof limit === 'string' && /^\d{1,9}$/.test(limit) ? Number(limit) : 0;
  if (number >= 1 && number <= LIMIT_MAX) return number;
  throw wrong(`limit is ${show(limit)}; expected a number from 1 to ${LIMIT_MAX}`);
}

function readEncoding(encoding: unknown): 'text' | 'base64' {
  if (encoding === undefined) return 'text';
  if (encoding === 'text' || encoding === 'base64') return encoding;
  throw wrong(`encoding is ${show(encoding)}; expected text or base64`);
}

function wrong(message: string): GomqError {
  return new GomqError('REQUEST_INVALID', message);
}
