// Reads what the log holds for one topic, for somebody who is no subscriber. It waits where the log makes it wait, lets others have their turn in
// between, and gathers no more than it was told to.
import { setImmediate as turn } from 'node:timers/promises';
import type { Clock } from '../core/clock.js';
import { type Log, ReadResult } from '../log/log.js';
import type { ReplayFrom } from '../router/replay-filter.js';
import { isPublish, Message } from '../session/message.js';

/** Records read before others get their turn. */
const TURN_RECORDS = 1024;

export interface HistoryQuery {
  topicName: string;
  from: ReplayFrom;
  /** Messages at most. */
  limit: number;
  /** No further message once the payloads have this many bytes together. */
  bytesMax: number;
}

export interface History {
  /** Oldest first. */
  payloads: Buffer[];
  /** Where to go on, where the limits have ended it; undefined where there was nothing more. */
  nextOffset: number | undefined;
}

/**
 * What was published to a topic up to now, as far as it has not expired.
 * @param signal ends the reading, with what was found so far
 */
export async function readHistory(
  { log, clock }: { log: Log; clock: Clock },
  { topicName, from, limit, bytesMax }: HistoryQuery,
  signal: AbortSignal,
): Promise<History> {
  // What comes while it reads is not waited for, or it would go on and on.
  const endOffset = log.highWatermark;
  const payloads: Buffer[] = [];
  let bytes = 0;
  let wake: () => void = () => undefined;
  const onAbort = (): void => wake();
  const fromMs = from.kind === 'time' ? from.timestampMs : from.kind === 'ago' ? clock.wallMs() - from.ms : 0;
  const start = from.kind === 'offset' ? from.offset : fromMs === 0 ? 0 : await log.offsetAt(fromMs);
  const reader = log.createReader(() => wake());
  signal.addEventListener('abort', onAbort);
  try {
    const wants = (name: string): boolean => name === topicName;
    const topic = Buffer.from(topicName);
    const message = new Message();
    reader.seek(start);
    for (let budget = TURN_RECORDS; !signal.aborted && reader.position < endOffset; budget--) {
      if (budget === 0) {
        await turn();
        budget = TURN_RECORDS;
      }
      const result = reader.next(wants);
      if (result === ReadResult.End) break;
      if (result === ReadResult.Later) await turn();
      if (result === ReadResult.Pending) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (result !== ReadResult.Record || !isPublish(reader.record)) continue;
      if (reader.record.offset >= endOffset) break;
      message.readRecord(reader.record);
      const { buffer, topicStart, topicEnd, payloadStart, payloadEnd } = message;
      if (topic.compare(buffer, topicStart, topicEnd) !== 0) continue;
      // The log knows the time of a batch, which may have begun before.
      if (message.timestampMs < fromMs || message.isExpired(clock.wallMs())) continue;
      // In bytes of its own, as the log's would keep a whole segment.
      payloads.push(Buffer.from(buffer.subarray(payloadStart, payloadEnd)));
      bytes += payloadEnd - payloadStart;
      if (payloads.length >= limit || bytes >= bytesMax) {
        const { position } = reader;
        return { payloads, nextOffset: position < endOffset ? position : undefined };
      }
    }
    return { payloads, nextOffset: undefined };
  } finally {
    signal.removeEventListener('abort', onAbort);
    reader.close();
  }
}
