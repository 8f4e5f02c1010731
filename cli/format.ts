// Owns how a received message is printed: the payload alone, with its topic (-v), as JSON, or by a format of mosquitto_sub (-F).
import { isUtf8 } from 'node:buffer';
import type { IPublishPacket, UserProperties } from 'mqtt-packet';
import { Failure } from './failure.js';
import {
  convert,
  isConversion,
  isoMicroseconds,
  isoSeconds,
  type Moment,
  now,
  unixNanoseconds,
} from './strftime.js';

export interface Message {
  topic: string;
  payload: Buffer;
  qos: number;
  retain: boolean;
  dup: boolean;
  /** Absent at QoS 0. */
  packetId?: number;
  properties?: NonNullable<IPublishPacket['properties']>;
}

/** Where the pieces of a message go. */
export interface Sink {
  text(text: string): void;
  bytes(bytes: Uint8Array): void;
}

export type Formatter = (message: Message, sink: Sink) => void;

export interface FormatOptions {
  /** A format of -F, which overrides `verbose`. */
  format?: string | undefined;
  verbose?: boolean;
  json?: boolean;
  /** False with -N. */
  newline: boolean;
  /** Spread the JSON of %j and %J over several lines. */
  pretty?: boolean;
  /** A message that the format cannot show, in words. */
  warn: (line: string) => void;
  /** The clock, for tests. */
  clock?: () => Moment;
}

/** @throws {Failure} where the format has a code that does not exist */
export function createFormatter(options: FormatOptions): Formatter {
  const end = options.newline ? '\n' : '';
  if (options.json) {
    const clock = options.clock ?? now;
    return (message, sink) => sink.text(`${JSON.stringify(jsonMessage(message, clock()))}\n`);
  }
  if (options.format !== undefined) {
    const pieces = compile(options.format, options);
    const clock = options.clock ?? now;
    return (message, sink) => {
      const moment = clock();
      for (const piece of pieces) piece(message, sink, moment);
      if (end !== '') sink.text(end);
    };
  }
  // As mosquitto_sub: without a topic before it, an empty message prints nothing, not even the end of its line.
  return (message, sink) => {
    if (message.payload.length > 0) {
      if (options.verbose) sink.text(`${message.topic} `);
      sink.bytes(message.payload);
      if (end !== '') sink.text(end);
    } else if (options.verbose && options.newline) {
      sink.text(`${message.topic} (null)\n`);
    }
  };
}

/** The shape of a line of `sub --json`; docs/GOMQCTL.md describes it. */
export function jsonMessage(message: Message, moment: Moment): Record<string, unknown> {
  const properties = jsonProperties(message.properties);
  return {
    topic: message.topic,
    ...(isUtf8(message.payload)
      ? { payload: message.payload.toString() }
      : { payloadBase64: message.payload.toString('base64') }),
    qos: message.qos,
    retain: message.retain,
    dup: message.dup,
    time: new Date(moment.seconds * 1000 + Math.floor(moment.nanoseconds / 1e6)).toISOString(),
    ...(properties === undefined ? {} : { properties }),
  };
}

function jsonProperties(properties: Message['properties']): Record<string, unknown> | undefined {
  if (properties === undefined || Object.keys(properties).length === 0) return undefined;
  const { correlationData, payloadFormatIndicator, ...rest } = properties;
  const result: Record<string, unknown> = { ...rest };
  if (payloadFormatIndicator !== undefined) result.payloadFormatIndicator = Number(payloadFormatIndicator);
  if (correlationData !== undefined) {
    if (isUtf8(correlationData)) result.correlationData = correlationData.toString();
    else result.correlationDataBase64 = correlationData.toString('base64');
  }
  return result;
}

type Piece = (message: Message, sink: Sink, moment: Moment) => void;

/** What stands between `%` and its code: `%-8.4t`. */
interface Field {
  left: boolean;
  zeros: boolean;
  width: number;
  /** -1 where none is given. */
  precision: number;
}

const ESCAPES: Record<string, string> = {
  '\\': '\\',
  '0': '\0',
  a: '\x07',
  e: '\x1b',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

function compile(format: string, options: FormatOptions): Piece[] {
  const pieces: Piece[] = [];
  let literal = '';
  const add = (piece: Piece) => {
    if (literal !== '') {
      const text = literal;
      pieces.push((_message, sink) => sink.text(text));
      literal = '';
    }
    pieces.push(piece);
  };
  // One alternative for each kind of sequence; whatever none of them matches stands for itself.
  const sequence = /%(-?)(0?)(\d*)(?:\.(\d*))?([^\d.-])?|@([\s\S])?|\\([\s\S])?|[^%@\\]+|[\s\S]/gu;
  for (const match of format.matchAll(sequence)) {
    const [whole, minus, zero, width, precision, code, date, escaped] = match;
    if (whole.startsWith('%')) {
      if (code === undefined)
        throw new Failure(`-F: the format code "${whole}" is incomplete; write %% for a %`);
      const field: Field = {
        left: minus === '-',
        zeros: zero === '0',
        width: Math.min(Number(width || 0), 10_000),
        precision: precision === undefined ? -1 : Number(precision || 0),
      };
      if (code === '%') literal += '%';
      else add(percent(code, field, options));
    } else if (whole.startsWith('@')) {
      if (date === '@') literal += '@';
      else if (date !== undefined && isConversion(date))
        add((_m, sink, moment) => sink.text(convert(date, moment)));
      else throw new Failure(`-F: there is no date code "${whole}"; write @@ for an @`);
    } else if (whole.startsWith('\\')) {
      if (escaped === undefined || !Object.hasOwn(ESCAPES, escaped)) {
        throw new Failure(`-F: there is no escape "${whole}"; write \\\\ for a \\`);
      }
      literal += ESCAPES[escaped]!;
    } else {
      literal += whole;
    }
  }
  if (literal !== '') {
    const text = literal;
    pieces.push((_message, sink) => sink.text(text));
  }
  return pieces;
}

function percent(code: string, field: Field, options: FormatOptions): Piece {
  switch (code) {
    case 'A':
      return (message, sink) => sink.text(number(message.properties?.topicAlias, field));
    case 'C':
      return (message, sink) => sink.text(string(message.properties?.contentType, field));
    case 'D':
      return (message, sink) => {
        const data = message.properties?.correlationData;
        if (data !== undefined) sink.bytes(data);
      };
    case 'E':
      return (message, sink) => sink.text(number(message.properties?.messageExpiryInterval, field));
    case 'F':
      return (message, sink) => {
        const indicator = message.properties?.payloadFormatIndicator;
        sink.text(number(indicator === undefined ? undefined : Number(indicator), field));
      };
    case 'I':
      return (_message, sink, moment) => sink.text(string(isoSeconds(moment), field));
    case 'j':
      return (message, sink, moment) => {
        sink.text(stringify(mosquittoJson(message, moment, textOrBytes(message.payload)), options));
      };
    case 'J':
      return (message, sink, moment) => {
        let payload: unknown = null;
        try {
          if (message.payload.length > 0) payload = JSON.parse(message.payload.toString());
        } catch {
          options.warn(`the message on "${message.topic}" is not valid JSON, which %J needs; use %j`);
          return;
        }
        sink.text(stringify(mosquittoJson(message, moment, payload), options));
      };
    case 'l':
      return (message, sink) => sink.text(number(message.payload.length, field));
    case 'm':
      return (message, sink) => sink.text(number(message.packetId ?? 0, field));
    case 'p':
      return (message, sink) => payload(message.payload, field, sink);
    case 'P':
      return (message, sink) => sink.text(userProperties(message.properties?.userProperties));
    case 'q':
      return (message, sink) => sink.text(String(message.qos));
    case 'R':
      return (message, sink) => sink.text(string(message.properties?.responseTopic, field));
    case 'r':
      return (message, sink) => sink.text(message.retain ? '1' : '0');
    case 'S':
      return (message, sink) => {
        const identifier = message.properties?.subscriptionIdentifier;
        sink.text(number(Array.isArray(identifier) ? identifier[0] : identifier, field));
      };
    case 't':
      return (message, sink) => sink.text(string(message.topic, field));
    case 'U':
      return (_message, sink, moment) => sink.text(unixNanoseconds(moment));
    case 'x':
      return (message, sink) => sink.text(hex(message.payload, field));
    case 'X':
      return (message, sink) => sink.text(hex(message.payload, field).toUpperCase());
    default:
      throw new Failure(
        `-F: there is no format code "%${code}"; docs/GOMQCTL.md lists them, write %% for a %`,
      );
  }
}

function pad(text: string, field: Field, filler: string): string {
  return field.left ? text.padEnd(field.width, ' ') : text.padStart(field.width, filler);
}

function number(value: number | undefined, field: Field): string {
  return pad(value === undefined ? '' : String(value), field, field.zeros ? '0' : ' ');
}

function string(value: string | undefined, field: Field): string {
  const text = value ?? '';
  return pad(field.precision === -1 ? text : [...text].slice(0, field.precision).join(''), field, ' ');
}

// To mosquitto_sub, the width of a payload is its greatest length as well as its least.
function payload(bytes: Buffer, field: Field, sink: Sink): void {
  if (field.width === 0) {
    sink.bytes(bytes);
    return;
  }
  const shown = bytes.subarray(0, field.width);
  const padding = field.width - shown.length;
  if (!field.left && padding > 0) sink.text((field.zeros ? '0' : ' ').repeat(padding));
  sink.bytes(shown);
  if (field.left && padding > 0) sink.text(' '.repeat(padding));
}

function hex(bytes: Buffer, field: Field): string {
  if (field.width === 0) return bytes.toString('hex');
  const text = bytes.subarray(0, Math.floor(field.width / 2)).toString('hex');
  return pad(text, field, field.zeros ? '0' : ' ');
}

function userProperties(properties: UserProperties | undefined): string {
  const pairs: string[] = [];
  for (const [name, values] of Object.entries(properties ?? {})) {
    for (const value of [values].flat()) pairs.push(`${name}:${value}`);
  }
  return pairs.join(' ');
}

function stringify(value: unknown, options: FormatOptions): string {
  return options.pretty ? JSON.stringify(value, undefined, 2) : JSON.stringify(value);
}

/** A payload that is not UTF-8 becomes an array of its bytes, so that the line stays valid JSON. */
function textOrBytes(payload: Buffer): string | number[] | null {
  if (payload.length === 0) return null;
  return isUtf8(payload) ? payload.toString() : [...payload];
}

/** The object of %j and %J, with the names that mosquitto_sub gives. */
function mosquittoJson(message: Message, moment: Moment, payload: unknown): Record<string, unknown> {
  const result: Record<string, unknown> = {
    tst: isoMicroseconds(moment),
    topic: message.topic,
    qos: message.qos,
    retain: message.retain ? 1 : 0,
    payloadlen: message.payload.length,
  };
  if (message.qos > 0) result.mid = message.packetId ?? 0;
  const properties = jsonProperties(message.properties);
  if (properties !== undefined) {
    const { correlationDataBase64, ...named } = properties;
    const kebab = Object.entries(named).map(([name, value]) => [
      name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`),
      value,
    ]);
    result.properties = Object.fromEntries(kebab);
    if (correlationDataBase64 !== undefined) {
      (result.properties as Record<string, unknown>)['correlation-data'] = [
        ...(message.properties?.correlationData ?? []),
      ];
    }
  }
  result.payload = payload;
  return result;
}
