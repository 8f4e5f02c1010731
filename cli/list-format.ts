// Owns how `gomqctl list` shows a message of the log: as a line in columns for a person, or as one JSON object a line.
import { isUtf8 } from 'node:buffer';

export interface ListedMessage {
  /** Where it stands in the log. */
  offset: number;
  /** When the broker took it, RFC 3339 in UTC. */
  time: string;
  topic: string;
  qos: number;
  retain: boolean;
  payload: Buffer;
}

/** What is shown of a payload in columns, unless all of it is asked for. */
const TEXT_CHARACTERS = 100;
const HEX_BYTES = 32;
/** The topic's column grows with what comes, and no further than this. */
const TOPIC_COLUMN_MAX = 40;
const TIME_COLUMN = '2026-01-31T12:00:00.000Z'.length;

const CONTROL = /\p{Cc}/u;
const CONTROLS = /\p{Cc}/gu;
const ESCAPES: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** The shape of a line of `list --json`; docs/GOMQCTL.md describes it. */
export function formatJson({ offset, time, topic, qos, retain, payload }: ListedMessage): string {
  const content = isUtf8(payload)
    ? { payload: payload.toString() }
    : { payloadBase64: payload.toString('base64') };
  return `${JSON.stringify({ offset, time, topic, qos, retain, ...content })}\n`;
}

export class Columns {
  readonly #offsetWidth: number;
  #topicWidth: number;
  readonly #isFull: boolean;
  #hasHeader = false;

  /**
   * @param endOffset no offset is as high
   * @param topic what all topics are, or undefined where they may differ
   * @param isFull payloads are shown whole
   */
  constructor(endOffset: number, topic: string | undefined, isFull: boolean) {
    this.#offsetWidth = Math.max('OFFSET'.length, `${endOffset}`.length);
    this.#topicWidth = Math.max('TOPIC'.length, topic === undefined ? 0 : printable(topic).length);
    this.#isFull = isFull;
  }

  /** A line for the message; before the first one, those that say what the columns are. */
  format(message: ListedMessage): string {
    const { offset, time, qos, retain, payload } = message;
    const topic = printable(message.topic);
    this.#topicWidth = Math.max(this.#topicWidth, Math.min(topic.length, TOPIC_COLUMN_MAX));
    const line = this.#line(`${offset}`, time, `${qos}`, retain ? 'yes' : '-', topic, this.#payload(payload));
    if (this.#hasHeader) return line;
    this.#hasHeader = true;
    return this.#line('OFFSET', 'TIME', 'QOS', 'RETAIN', 'TOPIC', 'PAYLOAD') + line;
  }

  #line(offset: string, time: string, qos: string, retain: string, topic: string, payload: string): string {
    const columns = [
      offset.padStart(this.#offsetWidth),
      time.padEnd(TIME_COLUMN),
      qos.padEnd('QOS'.length),
      retain.padEnd('RETAIN'.length),
      topic.padEnd(this.#topicWidth),
      payload,
    ];
    return `${columns.join('  ')}\n`;
  }

  #payload(payload: Buffer): string {
    if (payload.length === 0) return '(empty)';
    const text = isUtf8(payload) ? payload.toString().replace(/[\n\r\t]/g, (found) => ESCAPES[found]!) : '';
    if (text === '' || CONTROL.test(text)) return this.#hex(payload);
    if (this.#isFull || text.length <= TEXT_CHARACTERS) return text;
    // Half of a surrogate pair is no character.
    const shown = text.slice(0, TEXT_CHARACTERS).replace(/[\ud800-\udbff]$/, '');
    return `${shown}... (${payload.length} bytes)`;
  }

  #hex(payload: Buffer): string {
    if (this.#isFull || payload.length <= HEX_BYTES) return `0x${payload.toString('hex')}`;
    return `0x${payload.toString('hex', 0, HEX_BYTES)}... (${payload.length} bytes)`;
  }
}

/** Without what a terminal would obey. */
function printable(topic: string): string {
  return topic.replace(CONTROLS, (found) => `\\x${found.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
