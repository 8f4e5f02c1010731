// Records as people read them, for `gomq log dump`: one object each, with the names that docs/LOG_FORMAT.md uses.
import { isUtf8 } from 'node:buffer';
import type { RecordSlice } from '../log/log.js';
import { Phase } from '../session/inflight.js';
import { decodeSource, Message, NO_PUBLISHER, RecordType, topicNameOf } from '../session/message.js';
import {
  readCounters,
  readEpochBegun,
  readGroupProgress,
  readPacketId,
  readProgress,
  readReceived,
  readSessionClosed,
  readSessionEnded,
  readSessionOpened,
  readSubscribed,
  readUnsubscribed,
} from './records.js';

const NAMES = new Map<number, string>(Object.entries(RecordType).map(([name, type]) => [type, name]));
const PHASES = new Map<number, string>(Object.entries(Phase).map(([name, phase]) => [phase, name]));

/** @throws what the bytes of a record that gomq did not write make of it */
export function describeRecord(record: RecordSlice): object {
  const code = record.buffer[record.start]!;
  const type = NAMES.get(code) ?? `unknown ${code}`;
  return { type, ...describeBody(code, record) };
}

function describeBody(code: number, record: RecordSlice): object {
  switch (code) {
    case RecordType.Publish:
      return describePublish(record);
    case RecordType.SessionOpened: {
      const { will, ...rest } = readSessionOpened(record);
      if (will === undefined) return rest;
      const { topicName, payload, qos, retain, delaySeconds, messageExpirySeconds } = will;
      const described = {
        topic: topicName,
        qos,
        retain,
        delaySeconds,
        messageExpirySeconds,
        ...text(payload),
      };
      return { ...rest, will: described };
    }
    case RecordType.SessionClosed: {
      const { closedAtMs, ...rest } = readSessionClosed(record);
      return { ...rest, closedAt: time(closedAtMs) };
    }
    case RecordType.SessionEnded:
      return { number: readSessionEnded(record) };
    case RecordType.Subscribed:
      return readSubscribed(record);
    case RecordType.Unsubscribed:
      return readUnsubscribed(record);
    case RecordType.Progress: {
      const { inflight, ...rest } = readProgress(record);
      return {
        ...rest,
        inflight: inflight.map((one) => ({ ...one, phase: PHASES.get(one.phase) ?? one.phase })),
      };
    }
    case RecordType.Pubrec:
    case RecordType.Pubrel:
      return readPacketId(record);
    case RecordType.GroupProgress:
      return readGroupProgress(record);
    case RecordType.EpochBegun:
      return readEpochBegun(record);
    case RecordType.Counters:
      return { lastSessionNumber: readCounters(record) };
    case RecordType.Received:
      return readReceived(record);
    default:
      return { base64: record.buffer.toString('base64', record.start, record.end) };
  }
}

const message = new Message();

function describePublish(record: RecordSlice): object {
  message.readRecord(record);
  const { qos, isRetained, isWill, publisher, packetId, timestampMs, expirySeconds } = message;
  return {
    topic: topicNameOf(record),
    qos,
    retain: isRetained,
    publishedAt: time(timestampMs),
    ...(publisher === NO_PUBLISHER ? {} : { publisher }),
    ...(qos === 0 ? {} : { packetId }),
    ...(expirySeconds < 0 ? {} : { expirySeconds }),
    ...(isWill ? { will: true } : {}),
    ...(message.sourceEnd > message.sourceStart
      ? { source: decodeSource(message.source, message.sourceStart, message.sourceEnd) }
      : {}),
    ...(message.propertiesEnd > message.propertiesStart
      ? {
          propertiesBase64: message.properties.toString(
            'base64',
            message.propertiesStart,
            message.propertiesEnd,
          ),
        }
      : {}),
    ...text(message.buffer.subarray(message.payloadStart, message.payloadEnd)),
  };
}

function text(payload: Buffer): object {
  return isUtf8(payload) ? { payload: payload.toString() } : { payloadBase64: payload.toString('base64') };
}

function time(timestampMs: number): string {
  const date = new Date(timestampMs);
  return Number.isNaN(date.getTime()) ? 'unknown' : date.toISOString();
}
