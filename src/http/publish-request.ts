// Reads the body of POST /pub. Every check says which key is wrong and shows what it held.
import { GomqError } from '../core/errors.js';
import { type TopicLimits, validateTopicName } from '../router/topic-name.js';
import { show } from './show.js';

/** What an HTTP caller publishes. */
export interface HttpMessage {
  topicName: string;
  payload: Buffer;
  qos: 0 | 1 | 2;
  retain: boolean;
}

const KEYS: readonly string[] = ['topic', 'body', 'qos', 'retain'];
const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * @throws {GomqError} REQUEST_INVALID
 */
export function parseJson(bytes: Buffer): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (error) {
    throw new GomqError('REQUEST_INVALID', 'the body is not UTF-8', { cause: error });
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const { message } = error as SyntaxError;
    throw new GomqError('REQUEST_INVALID', `the body is not JSON: ${message}`, { cause: error });
  }
}

/** What MQTT clients are held to as well. */
export interface MessageLimits extends TopicLimits {
  /** Largest topic name and payload together. */
  packetBytes: number;
  maximumQos: 0 | 1 | 2;
  /** False where the broker keeps no retained messages. */
  retain: boolean;
}

/**
 * @throws {GomqError} REQUEST_INVALID, TOPIC_INVALID, BODY_TOO_LARGE, REFUSED
 */
export function readMessage(body: unknown, limits: MessageLimits): HttpMessage {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw wrong(`the body is ${show(body)}; expected a JSON object`);
  }
  const unknown = Object.keys(body).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) throw wrong(`unknown key ${show(unknown)}; expected ${KEYS.join(', ')}`);
  const request = body as Record<string, unknown>;
  const topicName = readTopic(request.topic, limits);
  const payload = readPayload(request.body);
  const bytes = Buffer.byteLength(topicName) + payload.length;
  if (bytes > limits.packetBytes) {
    throw new GomqError('BODY_TOO_LARGE', `the message has ${bytes} bytes, more than ${limits.packetBytes}`);
  }
  const qos = readQos(request.qos);
  const retain = readRetain(request.retain);
  if (qos > limits.maximumQos)
    throw new GomqError('REFUSED', `qos is ${qos}, above mqtt.maximumQos = ${limits.maximumQos}`);
  if (retain && !limits.retain) throw new GomqError('REFUSED', 'retain is true, and mqtt.retain is false');
  return { topicName, payload, qos, retain };
}

function readTopic(topic: unknown, limits: TopicLimits): string {
  if (typeof topic !== 'string') throw wrong(`topic is ${show(topic)}; expected text`);
  const reason = topic.startsWith('$')
    ? 'topics that begin with $ belong to the broker'
    : validateTopicName(topic, limits);
  if (reason !== undefined) throw new GomqError('TOPIC_INVALID', `topic is ${show(topic)}: ${reason}`);
  return topic;
}

/** Text is published as it is, in UTF-8; any other JSON value as its JSON text. */
function readPayload(body: unknown): Buffer {
  if (body === undefined)
    throw wrong("body is missing; expected text or any JSON value ('' for an empty message)");
  if (typeof body !== 'string') {
    try {
      return Buffer.from(JSON.stringify(body));
    } catch (error) {
      // V8 reads any depth but writes with a recursion of its own.
      throw new GomqError('REQUEST_INVALID', 'body is nested too deeply', { cause: error });
    }
  }
  if (!body.isWellFormed()) throw wrong('body holds half of a surrogate pair, which UTF-8 cannot express');
  return Buffer.from(body);
}

function readQos(qos: unknown): 0 | 1 | 2 {
  if (qos === undefined) return 0;
  if (qos === 0 || qos === 1 || qos === 2) return qos;
  throw wrong(`qos is ${show(qos)}; expected 0, 1 or 2`);
}

function readRetain(retain: unknown): boolean {
  if (retain === undefined) return false;
  if (typeof retain === 'boolean') return retain;
  if (retain === 0 || retain === 1) return retain === 1;
  throw wrong(`retain is ${show(retain)}; expected true or false`);
}

function wrong(message: string): GomqError {
  return new GomqError('REQUEST_INVALID', message);
}
