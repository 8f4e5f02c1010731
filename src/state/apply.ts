// Record in, state out. What this file makes of the records of a log, from its start or from a snapshot, is the state, on whatever machine and
// whenever it runs: it asks no clock, draws no number and reads no configuration, and it takes every record, also one that no longer means
// anything because its session is gone.
import type { RecordSlice } from '../log/log.js';
import { parseFilter } from '../router/topic-name.js';
import type { Origin } from '../session/inflight.js';
import { Phase } from '../session/inflight.js';
import { Message, RecordType, readPublisher, topicNameOf } from '../session/message.js';
import type { Session } from '../session/session.js';
import { SharedGroup } from '../session/shared-group.js';
import {
  type Progress,
  type RecordedOrigin,
  readCounters,
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
import { type State, VOLATILE_NUMBERS } from './state.js';

const message = new Message();
const nobody = (): void => undefined;

/** Applies one committed record. Records must come in the order of their offsets. */
export function applyRecord(state: State, record: RecordSlice): void {
  switch (record.buffer[record.start]) {
    case RecordType.Publish:
      applyPublish(state, record);
      break;
    case RecordType.SessionOpened:
      applySessionOpened(state, record);
      break;
    case RecordType.SessionClosed:
      applySessionClosed(state, record);
      break;
    case RecordType.SessionEnded: {
      const session = state.sessionByNumber(readSessionEnded(record));
      if (session === undefined) break;
      giveBack(session);
      state.endSession(session, nobody);
      break;
    }
    case RecordType.Subscribed:
      applySubscribed(state, record);
      break;
    case RecordType.Unsubscribed: {
      const { number, texts } = readUnsubscribed(record);
      const session = state.sessionByNumber(number);
      if (session === undefined) break;
      for (const text of texts) state.unsubscribe(session, text, nobody);
      state.settleRoutes();
      break;
    }
    case RecordType.Progress:
      applyProgress(state, readProgress(record));
      break;
    case RecordType.Pubrec: {
      const { number, packetId } = readPacketId(record);
      const session = state.sessionByNumber(number);
      const slot = session?.inflight.slotOf(packetId) ?? -1;
      if (session !== undefined && slot !== -1) session.inflight.setPhaseAt(slot, Phase.Pubcomp);
      break;
    }
    case RecordType.Pubrel: {
      const { number, packetId } = readPacketId(record);
      state.sessionByNumber(number)?.received.delete(packetId);
      break;
    }
    case RecordType.GroupProgress: {
      const { name, filter, since, cursor, open, taken } = readGroupProgress(record);
      const group = state.group(name, filter);
      // Written about an earlier group of that name, after this one began. In a snapshot it says when that was.
      if (group === undefined || (since < group.since && record.offset > group.since)) break;
      group.since = since;
      group.recordedSince = since;
      group.cursor = cursor;
      group.returned = open;
      group.taken = new Set(taken);
      break;
    }
    case RecordType.EpochBegun:
      // It says who leads from here on, which is nothing that sessions know of.
      break;
    case RecordType.Counters:
      state.skipSessionNumbers(readCounters(record));
      break;
    case RecordType.Received: {
      const { number, packetIds, given } = readReceived(record);
      const session = state.sessionByNumber(number);
      if (session === undefined) break;
      for (const packetId of packetIds) session.received.add(packetId);
      if (given.length > 0) session.retainedGiven = new Set(given);
      break;
    }
    default:
    // A record of a type that this version does not know would come with a newer format of the directory, which is refused.
  }
}

function applyPublish(state: State, record: RecordSlice): void {
  const { publisher, qos, packetId, isWill, isRetained } = readPublisher(record);
  if (isRetained) {
    message.readRecord(record);
    message.topic = state.router.internTopic(topicNameOf(record));
    state.applyRetained(message);
  }
  if (publisher === 0 || publisher >= VOLATILE_NUMBERS) return;
  const session = state.sessionByNumber(publisher);
  if (session === undefined) return;
  if (isWill) session.will = undefined;
  else if (qos === 2) session.received.add(packetId);
}

function applySessionOpened(state: State, record: RecordSlice): void {
  const { number, clientId, userName, expirySeconds, will } = readSessionOpened(record);
  let session = state.sessionByNumber(number);
  if (session === undefined) {
    // The leader ends a session before it makes another one for the same client id.
    const other = state.session(clientId);
    if (other !== undefined) state.endSession(other, nobody);
    session = state.createSession(number, clientId, record.offset + 1);
  }
  session.userName = userName;
  session.expirySeconds = expirySeconds;
  session.will = will;
  session.isOpen = true;
  if (session.hasInflight) session.inflight.markAllKnown();
}

function applySessionClosed(state: State, record: RecordSlice): void {
  const { number, closedAtMs, expirySeconds, keepsWill, duplicateBefore } = readSessionClosed(record);
  const session = state.sessionByNumber(number);
  if (session === undefined) return;
  session.isOpen = false;
  session.closedAtMs = closedAtMs;
  session.expirySeconds = expirySeconds;
  if (!keepsWill) session.will = undefined;
  session.duplicateBefore = duplicateBefore;
}

function applySubscribed(state: State, record: RecordSlice): void {
  const { number, subscriptionId, filters } = readSubscribed(record);
  const session = state.sessionByNumber(number);
  if (session === undefined) return;
  for (const request of filters) {
    const parsed = parseFilter(request.text);
    if (typeof parsed === 'string') continue;
    const { subscription, isNew } = state.subscribe(
      session,
      request.text,
      parsed,
      request,
      subscriptionId,
      record.offset,
      request.replayFrom,
    );
    subscription.isRetainedOwed ||= request.isRetainedOwed && (request.retainHandling === 0 || isNew);
    const { group } = subscription;
    // Nothing is delivered here, so a new group stands where it began.
    if (group !== undefined && group.since === record.offset) {
      group.isLive = false;
      group.cursor = record.offset;
    }
  }
  state.settleRoutes();
}

function applyProgress(state: State, progress: Progress): void {
  const session = state.sessionByNumber(progress.number);
  if (session === undefined) return;
  session.cursor = progress.cursor;
  if (progress.isWhole && session.hasInflight) {
    session.retainedInflightBytes = 0;
    session.inflight.clear();
  }
  for (const packetId of progress.ended) {
    const slot = session.inflight.slotOf(packetId);
    if (slot !== -1) session.inflight.forgetAt(slot);
  }
  for (const { packetId, offset, phase, origin, isUnsent } of progress.inflight) {
    const from = originOf(state, session, offset, origin);
    if (from instanceof SharedGroup) take(from, offset);
    if (phase === Phase.Puback && from instanceof SharedGroup) {
      session.inflight.restore(packetId, offset, phase, from.former, isUnsent);
      // A member has this recorded when it leaves; one that has joined again since gives it back at the next restart.
      const membership = session.groups?.get(from);
      if (membership !== undefined) membership.isLeaving = true;
      continue;
    }
    session.inflight.restore(packetId, offset, phase, from, isUnsent);
    if (phase === Phase.Puback) continue;
    if (origin.kind === 'retained') {
      session.retainedGiven ??= new Set();
      session.retainedGiven.add(offset);
    }
  }
  for (const text of progress.scansDone) {
    const subscription = session.subscriptions.get(text);
    if (subscription !== undefined) subscription.isRetainedOwed = false;
  }
  for (const { text, cursor, isMerged } of progress.replays) {
    const subscription = session.subscriptions.get(text);
    if (subscription === undefined || subscription.replayCursor < 0) continue;
    if (isMerged) state.mergeReplay(subscription, cursor);
    else subscription.replayCursor = cursor;
  }
  if (session.retainedGiven !== undefined && !owesRetained(session)) session.retainedGiven = undefined;
}

/** What a session that ends owes to groups is theirs again. */
function giveBack(session: Session): void {
  if (!session.hasInflight) return;
  const { inflight } = session;
  for (const packetId of inflight.idsInOrder()) {
    const slot = inflight.slotOf(packetId);
    session.owedTo(slot)?.takeBack(inflight.offsetAt(slot));
  }
}

function owesRetained(session: Session): boolean {
  for (const { isRetainedOwed } of session.subscriptions.values()) if (isRetainedOwed) return true;
  return false;
}

/** The exchange belongs to the session from here on, whatever becomes of the group's cursor. */
function take(group: SharedGroup, offset: number): void {
  group.returned = group.returned.filter((one) => one !== offset);
  if (offset >= group.cursor) group.taken.add(offset);
}

/** Where it is not there any more the message is read from the log, if that still has it. */
function originOf(
  state: State,
  session: Session,
  offset: number,
  origin: RecordedOrigin,
): Origin | undefined {
  if (origin.kind === 'group') {
    const group = state.group(origin.name, origin.filter);
    // A later group of that name has not given it.
    return group !== undefined && group.since <= offset ? group : undefined;
  }
  if (origin.kind === 'replay') return session.subscriptions.get(origin.text);
  if (origin.kind === 'retained') {
    const retained = state.retained.get(origin.topicName.split('/'));
    return retained?.record.offset === offset ? retained : undefined;
  }
  return undefined;
}
