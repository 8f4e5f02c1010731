// The records that are not publishes, each as an object and as bytes. Whoever changes one changes docs/LOG_FORMAT.md and, where old logs could be
// read wrongly, the format number of the data directory.
import type { RecordSlice } from '../log/log.js';
import type { WillPacket } from '../packet/connect.js';
import type { QoS } from '../packet/types.js';
import type { Phase } from '../session/inflight.js';
import { RecordType } from '../session/message.js';
import type { SubscriptionOptions } from '../session/subscription.js';
import { RecordReader, type RecordWriter } from './record-codec.js';

/** A client has connected to a new session or to one that is there. */
export interface SessionOpened {
  /** Of the session. */
  number: number;
  clientId: string;
  userName: string | undefined;
  /** As in MQTT: 0 ends with the connection, 0xffffffff never. */
  expirySeconds: number;
  will: WillPacket | undefined;
}

/** Its connection has ended, and the session goes on. */
export interface SessionClosed {
  number: number;
  /** Milliseconds since the Unix epoch. */
  closedAtMs: number;
  expirySeconds: number;
  /** Its will waits for its delay; else it is discarded or has been published. */
  keepsWill: boolean;
  /** Messages below this offset may have been sent, although no record says so: a process died while the session was connected. */
  duplicateBefore: number;
}

export interface SubscribedFilter extends SubscriptionOptions {
  /** As the client wrote it. */
  text: string;
  /** Retained messages are owed to it; decided when it was made. */
  isRetainedOwed: boolean;
  /** Where `$replay/` begins to read, or -1. */
  replayFrom: number;
}

export interface Subscribed {
  number: number;
  subscriptionId: number;
  filters: SubscribedFilter[];
}

export interface Unsubscribed {
  number: number;
  texts: string[];
}

/** What a message in flight came from: the session's cursor, a retained message, a shared group, a replay. */
export type RecordedOrigin =
  | { kind: 'cursor' }
  | { kind: 'retained'; topicName: string }
  | { kind: 'group'; name: string; filter: string }
  | { kind: 'replay'; text: string };

export interface RecordedInflight {
  packetId: number;
  offset: number;
  phase: Phase;
  origin: RecordedOrigin;
  /** At QoS 2: its connection ended before it was sent. */
  isUnsent: boolean;
}

/** How far a session has come. */
export interface Progress {
  number: number;
  /** The next offset to look at. */
  cursor: number;
  /** True: `inflight` is all there is; false: it is added to what there is, less what is over. */
  isWhole: boolean;
  /** Packet ids of exchanges that are over; none where `isWhole`. */
  ended: number[];
  inflight: RecordedInflight[];
  /** Subscriptions that are owed no more retained messages. */
  scansDone: string[];
  replays: RecordedReplay[];
}

/** How far the replay of a subscription to history has come. */
export interface RecordedReplay {
  text: string;
  /** The next offset it looks at. */
  cursor: number;
  /** It has caught up with its session: from `cursor` on it is a subscription like any other. */
  isMerged: boolean;
}

/** A subscriber has a message of QoS 2, or a publisher lets go of one. */
export interface PacketIdRecord {
  number: number;
  packetId: number;
}

/** How far a shared group has come. */
export interface GroupProgress {
  name: string;
  filter: string;
  /** The offset at which the group came to be. */
  since: number;
  cursor: number;
  /** Offsets below the cursor that nobody has acknowledged at QoS 1. */
  open: number[];
  /** Offsets from the cursor on that a member has at QoS 2. */
  taken: number[];
}

/** A node has become the leader. */
export interface EpochBegun {
  epoch: number;
  node: string;
}

const ORIGINS = ['cursor', 'retained', 'group', 'replay'] as const;
/** Bits of a message in flight; its phase is in bits 0 and 1, its kind of origin in bits 2 and 3. */
const SAME_ORIGIN = 16;
const UNSENT = 32;
/** Bits of a subscribed filter; the QoS is in bits 0 and 1, Retain Handling in bits 4 and 5. */
const NO_LOCAL = 4;
const RETAIN_AS_PUBLISHED = 8;
const RETAINED_OWED = 64;
const REPLAY = 128;

// ---- writing ------------------------------------------------------------------------------------------------------------------------------

export function writeSessionOpened(to: RecordWriter, record: SessionOpened): void {
  to.begin(RecordType.SessionOpened).varint(record.number).text(record.clientId);
  to.optionalText(record.userName).varint(record.expirySeconds);
  const { will } = record;
  if (will === undefined) {
    to.byte(0);
    return;
  }
  to.byte(1).text(will.topicName).bytes(will.payload);
  to.byte(will.qos | (will.retain ? 4 : 0) | (will.payloadIsUtf8 ? 8 : 0));
  to.varint(will.delaySeconds).signed(will.messageExpirySeconds).bytes(will.properties);
}

export function writeSessionClosed(to: RecordWriter, record: SessionClosed): void {
  to.begin(RecordType.SessionClosed)
    .varint(record.number)
    .varint(Math.max(0, Math.round(record.closedAtMs)));
  to.varint(record.expirySeconds)
    .byte(record.keepsWill ? 1 : 0)
    .varint(record.duplicateBefore);
}

export function writeSessionEnded(to: RecordWriter, number: number): void {
  to.begin(RecordType.SessionEnded).varint(number);
}

export function writeSubscribed(to: RecordWriter, record: Subscribed): void {
  to.begin(RecordType.Subscribed).varint(record.number).varint(record.subscriptionId);
  to.varint(record.filters.length);
  for (const filter of record.filters) {
    to.text(filter.text);
    to.byte(
      filter.qos |
        (filter.noLocal ? NO_LOCAL : 0) |
        (filter.retainAsPublished ? RETAIN_AS_PUBLISHED : 0) |
        (filter.retainHandling << 4) |
        (filter.isRetainedOwed ? RETAINED_OWED : 0) |
        (filter.replayFrom >= 0 ? REPLAY : 0),
    );
    if (filter.replayFrom >= 0) to.varint(filter.replayFrom);
  }
}

export function writeUnsubscribed(to: RecordWriter, record: Unsubscribed): void {
  to.begin(RecordType.Unsubscribed).varint(record.number).varint(record.texts.length);
  for (const text of record.texts) to.text(text);
}

export function writeProgress(to: RecordWriter, record: Progress): void {
  to.begin(RecordType.Progress)
    .varint(record.number)
    .varint(record.cursor)
    .byte(record.isWhole ? 1 : 0);
  to.varint(record.ended.length);
  for (const packetId of record.ended) to.varint(packetId);
  to.varint(record.inflight.length);
  let offset = record.cursor;
  let packetId = 0;
  const before = new Map<RecordedOrigin['kind'], RecordedOrigin>();
  for (const one of record.inflight) {
    const { origin } = one;
    const isSame = isSameOrigin(origin, before.get(origin.kind));
    to.byte(
      one.phase |
        (ORIGINS.indexOf(origin.kind) << 2) |
        (isSame ? SAME_ORIGIN : 0) |
        (one.isUnsent ? UNSENT : 0),
    );
    // Neighbours are close together.
    to.signed(one.offset - offset).signed(one.packetId - packetId);
    offset = one.offset;
    packetId = one.packetId;
    before.set(origin.kind, origin);
    if (isSame) continue;
    if (origin.kind === 'retained') to.text(origin.topicName);
    else if (origin.kind === 'group') to.text(origin.name).text(origin.filter);
    else if (origin.kind === 'replay') to.text(origin.text);
  }
  to.varint(record.scansDone.length);
  for (const text of record.scansDone) to.text(text);
  to.varint(record.replays.length);
  for (const { text, cursor, isMerged } of record.replays)
    to.text(text)
      .varint(cursor)
      .byte(isMerged ? 1 : 0);
}

function isSameOrigin(one: RecordedOrigin, other: RecordedOrigin | undefined): boolean {
  if (one.kind === 'group')
    return other?.kind === 'group' && one.name === other.name && one.filter === other.filter;
  if (one.kind === 'replay') return other?.kind === 'replay' && one.text === other.text;
  return false;
}

export function writePacketId(
  to: RecordWriter,
  type: typeof RecordType.Pubrec | typeof RecordType.Pubrel,
  record: PacketIdRecord,
): void {
  to.begin(type).varint(record.number).varint(record.packetId);
}

export function writeGroupProgress(to: RecordWriter, record: GroupProgress): void {
  to.begin(RecordType.GroupProgress).text(record.name).text(record.filter);
  to.varint(record.since).varint(record.cursor);
  for (const offsets of [record.open, record.taken]) {
    to.varint(offsets.length);
    let offset = record.cursor;
    for (const one of offsets) {
      to.signed(one - offset);
      offset = one;
    }
  }
}

/** Only in a snapshot: the last session number that was given. */
export function writeCounters(to: RecordWriter, lastSessionNumber: number): void {
  to.begin(RecordType.Counters).varint(lastSessionNumber);
}

/**
 * Only in a snapshot: packet ids of QoS 2 messages that the session's client published and has not released, and retained messages given
 * to it at QoS 2 while more are owed.
 */
export function writeReceived(to: RecordWriter, number: number, packetIds: number[], given: number[]): void {
  to.begin(RecordType.Received).varint(number).varint(packetIds.length);
  for (const id of packetIds) to.varint(id);
  to.varint(given.length);
  for (const offset of given) to.varint(offset);
}

/** The first record of an epoch. */
export function writeEpochBegun(to: RecordWriter, record: EpochBegun): void {
  to.begin(RecordType.EpochBegun).varint(record.epoch).text(record.node);
}

// ---- reading ------------------------------------------------------------------------------------------------------------------------------

function readerOf({ buffer, start, end }: RecordSlice): RecordReader {
  return new RecordReader(buffer, start + 1, end);
}

export function readSessionOpened(slice: RecordSlice): SessionOpened {
  const from = readerOf(slice);
  const number = from.varint();
  const clientId = from.text();
  const userName = from.optionalText();
  const expirySeconds = from.varint();
  if (from.byte() === 0) return { number, clientId, userName, expirySeconds, will: undefined };
  const topicName = from.text();
  const payload = from.bytes();
  const flags = from.byte();
  const will: WillPacket = {
    topicName,
    payload,
    qos: (flags & 3) as QoS,
    retain: (flags & 4) !== 0,
    payloadIsUtf8: (flags & 8) !== 0,
    delaySeconds: from.varint(),
    messageExpirySeconds: from.signed(),
    properties: from.bytes(),
  };
  return { number, clientId, userName, expirySeconds, will };
}

export function readSessionClosed(slice: RecordSlice): SessionClosed {
  const from = readerOf(slice);
  return {
    number: from.varint(),
    closedAtMs: from.varint(),
    expirySeconds: from.varint(),
    keepsWill: from.byte() === 1,
    duplicateBefore: from.varint(),
  };
}

export function readSessionEnded(slice: RecordSlice): number {
  return readerOf(slice).varint();
}

export function readSubscribed(slice: RecordSlice): Subscribed {
  const from = readerOf(slice);
  const number = from.varint();
  const subscriptionId = from.varint();
  const filters: SubscribedFilter[] = [];
  for (let count = from.varint(); count > 0; count--) {
    const text = from.text();
    const flags = from.byte();
    filters.push({
      text,
      qos: (flags & 3) as QoS,
      noLocal: (flags & NO_LOCAL) !== 0,
      retainAsPublished: (flags & RETAIN_AS_PUBLISHED) !== 0,
      retainHandling: ((flags >> 4) & 3) as 0 | 1 | 2,
      isRetainedOwed: (flags & RETAINED_OWED) !== 0,
      replayFrom: (flags & REPLAY) !== 0 ? from.varint() : -1,
    });
  }
  return { number, subscriptionId, filters };
}

export function readUnsubscribed(slice: RecordSlice): Unsubscribed {
  const from = readerOf(slice);
  const number = from.varint();
  const texts: string[] = [];
  for (let count = from.varint(); count > 0; count--) texts.push(from.text());
  return { number, texts };
}

export function readProgress(slice: RecordSlice): Progress {
  const from = readerOf(slice);
  const number = from.varint();
  const cursor = from.varint();
  const isWhole = from.byte() === 1;
  const ended: number[] = [];
  for (let count = from.varint(); count > 0; count--) ended.push(from.varint());
  const inflight: RecordedInflight[] = [];
  let offset = cursor;
  let packetId = 0;
  const before = new Map<RecordedOrigin['kind'], RecordedOrigin>();
  for (let count = from.varint(); count > 0; count--) {
    const head = from.byte();
    offset += from.signed();
    packetId += from.signed();
    const kind = ORIGINS[(head >> 2) & 3]!;
    const origin = (head & SAME_ORIGIN) === 0 ? readOrigin(from, kind) : before.get(kind)!;
    before.set(kind, origin);
    inflight.push({ packetId, offset, phase: (head & 3) as Phase, origin, isUnsent: (head & UNSENT) !== 0 });
  }
  const scansDone: string[] = [];
  for (let count = from.varint(); count > 0; count--) scansDone.push(from.text());
  const replays: RecordedReplay[] = [];
  for (let count = from.varint(); count > 0; count--) {
    replays.push({ text: from.text(), cursor: from.varint(), isMerged: from.byte() === 1 });
  }
  return { number, cursor, isWhole, ended, inflight, scansDone, replays };
}

function readOrigin(from: RecordReader, kind: RecordedOrigin['kind']): RecordedOrigin {
  if (kind === 'retained') return { kind, topicName: from.text() };
  if (kind === 'group') return { kind, name: from.text(), filter: from.text() };
  if (kind === 'replay') return { kind, text: from.text() };
  return { kind };
}

export function readPacketId(slice: RecordSlice): PacketIdRecord {
  const from = readerOf(slice);
  return { number: from.varint(), packetId: from.varint() };
}

export function readGroupProgress(slice: RecordSlice): GroupProgress {
  const from = readerOf(slice);
  const name = from.text();
  const filter = from.text();
  const since = from.varint();
  const cursor = from.varint();
  const [open, taken] = [0, 0].map(() => {
    const offsets: number[] = [];
    let offset = cursor;
    for (let count = from.varint(); count > 0; count--) {
      offset += from.signed();
      offsets.push(offset);
    }
    return offsets;
  }) as [number[], number[]];
  return { name, filter, since, cursor, open, taken };
}

export function readEpochBegun(slice: RecordSlice): EpochBegun {
  const from = readerOf(slice);
  return { epoch: from.varint(), node: from.text() };
}

export function readCounters(slice: RecordSlice): number {
  return readerOf(slice).varint();
}

export function readReceived(slice: RecordSlice): { number: number; packetIds: number[]; given: number[] } {
  const from = readerOf(slice);
  const number = from.varint();
  const packetIds: number[] = [];
  for (let count = from.varint(); count > 0; count--) packetIds.push(from.varint());
  const given: number[] = [];
  for (let count = from.varint(); count > 0; count--) given.push(from.varint());
  return { number, packetIds, given };
}
