// What a state is, as text that can be compared: whatever a restart has to find again, in an order of its own. What only this process knows is
// left out: sessions that are in no record, readers, outboxes, what was sent on which connection.
import type { RecordSlice } from '../../src/log/log.js';
import { type Origin, Phase } from '../../src/session/inflight.js';
import { isPublish, Message, RetainedMessage, topicNameOf } from '../../src/session/message.js';
import type { Session } from '../../src/session/session.js';
import { FormerGroup, SharedGroup } from '../../src/session/shared-group.js';
import { narrowEntry, type Subscription } from '../../src/session/subscription.js';
import { type State, VOLATILE_NUMBERS } from '../../src/state/state.js';

export interface DescribeOptions {
  /**
   * The records before which everything is applied. Where they are given, a cursor counts as the first of them from there on that its owner
   * wants: what lies before is for others, and whether a cursor has passed that is nobody's business.
   */
  records?: readonly RecordSlice[];
  /** Client ids of sessions and keys of groups whose cursors are not looked at: they are served at commit. */
  live?: ReadonlySet<string>;
}

/** Whose cursor says nothing, because they are served at commit. */
export function liveOf(state: State): Set<string> {
  const live = new Set<string>();
  for (const { clientId, isLive } of state.sessions()) if (isLive) live.add(clientId);
  for (const group of state.groups()) if (group.isLive) live.add(keyOf(group));
  return live;
}

export function describeState(state: State, options: DescribeOptions = {}): object {
  const sessions = [...state.sessions()].filter(isInLog).sort((a, b) => a.number - b.number);
  return {
    lastSessionNumber: state.lastSessionNumber,
    sessions: sessions.map((session) => describeSession(state, session, options)),
    groups: [...state.groups()]
      .filter((group) => group.members.some(({ session }) => isInLog(session)))
      .sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
      .map((group) => describeGroup(state, group, options)),
    retained: [...state.retained.values()]
      .map(({ topic, qos, record }) => ({
        topic: topic.name,
        qos,
        offset: record.offset,
        record: record.buffer.toString('hex', record.start, record.end),
      }))
      .sort((a, b) => (a.topic < b.topic ? -1 : 1)),
    retainedBytes: state.retainedBytes,
  };
}

function isInLog(session: Session): boolean {
  return session.number < VOLATILE_NUMBERS;
}

function keyOf(group: SharedGroup): string {
  return `${group.name}/${group.filter}`;
}

function describeSession(state: State, session: Session, options: DescribeOptions): object {
  const { number, clientId, userName, expirySeconds, isOpen, closedAtMs, will } = session;
  return {
    number,
    clientId,
    userName,
    expirySeconds,
    presence: isOpen ? 'open' : `closed at ${closedAtMs}`,
    will:
      will === undefined
        ? undefined
        : { ...will, payload: hex(will.payload), properties: hex(will.properties) },
    subscriptions: [...session.subscriptions.values()]
      .map(describeSubscription)
      .sort((a, b) => (a.text < b.text ? -1 : 1)),
    cursor:
      options.live?.has(clientId) === true
        ? 'live'
        : wantedFrom(session.cursor, options.records, (record) => isForSession(state, session, record)),
    inflight: inflightOf(session)
      .filter((one) => !isOfItsGroup(session, one))
      .map(({ packetId, offset, phase, origin }) => ({
        packetId,
        offset,
        phase,
        origin: describeOrigin(origin, offset),
      })),
    received: [...session.received.values()],
  };
}

function describeSubscription(subscription: Subscription): { text: string; [key: string]: unknown } {
  const { text, filter, qos, noLocal, retainAsPublished, retainHandling, id, since, group } = subscription;
  const { replayCursor, isReplay, earlier, isRetainedOwed } = subscription;
  const options = { qos, noLocal, retainAsPublished, retainHandling, id };
  return {
    text,
    filter,
    ...options,
    since,
    group: group === undefined ? undefined : keyOf(group),
    replay: isReplay ? replayCursor : undefined,
    earlier: earlier === undefined ? undefined : { ...earlier },
    isRetainedOwed,
  };
}

interface InFlight {
  packetId: number;
  offset: number;
  phase: Phase;
  origin: Origin | undefined;
}

function inflightOf(session: Session): InFlight[] {
  const { inflight } = session;
  return inflight.idsInOrder().map((packetId) => {
    const slot = inflight.slotOf(packetId);
    const [offset, phase, origin] = [
      inflight.offsetAt(slot),
      inflight.phaseAt(slot),
      inflight.originAt(slot),
    ];
    return { packetId, offset, phase, origin };
  });
}

/** What a member has of its group at QoS 1 is the group's: after a restart another may have it. */
function isOfItsGroup(session: Session, { origin, phase }: InFlight): boolean {
  return origin instanceof SharedGroup && phase === Phase.Puback && session.groups?.has(origin) === true;
}

function describeOrigin(from: Origin | undefined, offset: number): string {
  const origin = from instanceof FormerGroup ? from.group : from;
  if (origin === undefined) return 'cursor';
  if (origin instanceof RetainedMessage) return `retained ${origin.topic.name}`;
  if (!(origin instanceof SharedGroup)) return `replay ${origin.text}`;
  const isKnown = offset >= origin.since && origin.members.some(({ session }) => isInLog(session));
  return !isKnown ? 'cursor' : `group ${keyOf(origin)}`;
}

function describeGroup(state: State, group: SharedGroup, options: DescribeOptions): object {
  const open = new Set(group.returned);
  const members = group.members.filter(({ session }) => isInLog(session));
  for (const { session } of group.members) {
    for (const one of inflightOf(session))
      if (one.origin === group && one.phase === Phase.Puback) open.add(one.offset);
  }
  const isLive = options.live?.has(keyOf(group)) === true;
  // What a member has taken at QoS 2 the group does not look at again: a cursor before it and one behind it are the same.
  const cursor = wantedFrom(
    group.cursor,
    options.records,
    (record) => !group.taken.has(record.offset) && isForGroup(state, group, record),
  );
  return {
    key: keyOf(group),
    since: group.recordedSince,
    members: members.map(({ session }) => session.number),
    open: [...open].sort((a, b) => a - b),
    taken: isLive
      ? 'live'
      : [...group.taken].filter((offset) => cursor !== 'end' && offset >= cursor).sort((a, b) => a - b),
    cursor: isLive ? 'live' : cursor,
  };
}

function wantedFrom(
  cursor: number,
  records: readonly RecordSlice[] | undefined,
  wants: (record: RecordSlice) => boolean,
): number | 'end' {
  if (records === undefined) return cursor;
  return records.find((record) => record.offset >= cursor && wants(record))?.offset ?? 'end';
}

function load(state: State, record: RecordSlice): Message {
  const message = new Message();
  message.readRecord(record);
  message.topic = state.router.internTopic(topicNameOf(record));
  return message;
}

function isForSession(state: State, session: Session, record: RecordSlice): boolean {
  if (!isPublish(record)) return false;
  const message = load(state, record);
  const entry = state.router.route(message.topic).entryOf(session);
  if (message.qos === 0 || entry === undefined) return false;
  return (narrowEntry(entry, message.offset, message.publisher)?.qos ?? 0) > 0;
}

function isForGroup(state: State, group: SharedGroup, record: RecordSlice): boolean {
  if (!isPublish(record)) return false;
  const message = load(state, record);
  return (
    message.qos > 0 &&
    record.offset >= group.recordedSince &&
    state.router.route(message.topic).groups.includes(group)
  );
}

function hex(bytes: Buffer): string {
  return bytes.toString('hex');
}
