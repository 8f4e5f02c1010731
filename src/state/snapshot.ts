// The state as records: the shortest list that `applyRecord` makes the same state of. Each carries the offset at which it stood in the log, or one
// at which it has the same effect.
import { Phase } from '../session/inflight.js';
import { RetainedMessage } from '../session/message.js';
import type { Session } from '../session/session.js';
import { FormerGroup, SharedGroup } from '../session/shared-group.js';
import type { Subscription } from '../session/subscription.js';
import { RecordWriter } from './record-codec.js';
import {
  type GroupProgress,
  type Progress,
  type RecordedInflight,
  type RecordedOrigin,
  type RecordedReplay,
  writeCounters,
  writeGroupProgress,
  writeProgress,
  writeReceived,
  writeSessionClosed,
  writeSessionOpened,
  writeSubscribed,
} from './records.js';
import type { State } from './state.js';

/** Takes one record. Its bytes must be copied before the call ends. */
export type RecordSink = (offset: number, record: Buffer) => void;

/** Writes the state as it is at `endOffset`: everything below is applied. Messages that had expired by `nowMs` are left out. */
export function writeSnapshot(state: State, nowMs: number, sink: RecordSink): void {
  const writer = new RecordWriter();
  const emit = (offset: number): void => sink(offset, writer.toBuffer());
  writeCounters(writer, state.lastSessionNumber);
  emit(0);
  // Retained messages first: what is in flight may refer to them.
  for (const retained of state.retained.values()) {
    if (!retained.isExpired(nowMs)) sink(retained.record.offset, retained.record.buffer);
  }
  const sessions = [...state.sessions()];
  for (const session of sessions) {
    const { number, clientId, userName, expirySeconds, will, closedAtMs, duplicateBefore } = session;
    writeSessionOpened(writer, { number, clientId, userName, expirySeconds, will });
    emit(0);
    if (!session.isOpen) {
      const keepsWill = will !== undefined;
      writeSessionClosed(writer, { number, closedAtMs, expirySeconds, keepsWill, duplicateBefore });
      emit(0);
    }
  }
  // In the order in which they were made, so that members of a group stand in it as they did.
  for (const [offset, subscription, isEarlier] of inOrder(sessions)) {
    writeOneSubscribed(writer, subscription, isEarlier);
    emit(offset);
  }
  // In an order that does not depend on which members, gone by now, have made them: replicas make the same snapshot.
  for (const group of [...state.groups()].sort(byFilterAndName)) {
    writeGroupProgress(writer, groupProgressOf(group, group.cursor, group.returned));
    emit(0);
  }
  for (const session of sessions) {
    writeProgress(writer, progressOf(session, session.cursor, true));
    emit(0);
    const packetIds = session.receivedCount === 0 ? [] : [...session.received.values()];
    const given = [...(session.retainedGiven ?? [])];
    if (packetIds.length + given.length === 0) continue;
    writeReceived(writer, session.number, packetIds, given);
    emit(0);
  }
}

function byFilterAndName(a: SharedGroup, b: SharedGroup): number {
  if (a.filter !== b.filter) return a.filter < b.filter ? -1 : 1;
  return a.name < b.name ? -1 : 1;
}

/** Each subscription at its offset, and before it the one that it replaced as far as that still counts. */
function inOrder(sessions: readonly Session[]): [number, Subscription, boolean][] {
  const made: [number, Subscription, boolean][] = [];
  for (const session of sessions) {
    for (const subscription of session.subscriptions.values()) {
      const { since, earlier } = subscription;
      if (earlier === undefined) {
        made.push([since, subscription, false]);
      } else {
        made.push([since, subscription, true], [earlier.before, subscription, false]);
      }
    }
  }
  return made.sort((a, b) => a[0] - b[0]);
}

function writeOneSubscribed(writer: RecordWriter, subscription: Subscription, isEarlier: boolean): void {
  const { session, text, id, noLocal, retainAsPublished, retainHandling, isRetainedOwed } = subscription;
  const qos = isEarlier ? subscription.earlier!.qos : subscription.qos;
  const { isReplay, replayCursor, since } = subscription;
  writeSubscribed(writer, {
    number: session.number,
    subscriptionId: id,
    filters: [
      {
        text,
        qos,
        noLocal,
        retainAsPublished,
        retainHandling,
        isRetainedOwed,
        replayFrom: isReplay ? (replayCursor >= 0 ? replayCursor : since) : -1,
      },
    ],
  });
}

/**
 * How far a session has come, for a record.
 * @param cursor the next offset it looks at
 * @param isWhole false: of what is in flight only what no record tells of yet, and what is over
 */
export function progressOf(session: Session, cursor: number, isWhole: boolean): Progress {
  const inflight: RecordedInflight[] = [];
  if (session.hasInflight) {
    const messages = session.inflight;
    for (const packetId of isWhole ? messages.idsInOrder() : messages.unrecordedIds()) {
      const slot = messages.slotOf(packetId);
      const phase = messages.phaseAt(slot);
      const origin = originOf(session, slot);
      // What a member has of its group at QoS 1 is the group's: after a restart it may go to another.
      if (
        origin === undefined ||
        (origin.kind === 'group' && phase === Phase.Puback && isMember(session, slot))
      )
        continue;
      // While it is connected it may be sent at any moment.
      const isUnsent = session.outbox === undefined && !messages.mayBeKnownAt(slot);
      inflight.push({ packetId, offset: messages.offsetAt(slot), phase, origin, isUnsent });
    }
  }
  const replays: RecordedReplay[] = [];
  for (const subscription of session.subscriptions.values()) {
    const { text, replayCursor, since } = subscription;
    if (!subscription.isReplay || session.resubscribed?.has(text)) continue;
    const isMerged = replayCursor < 0;
    replays.push({ text, cursor: isMerged ? since : replayCursor, isMerged });
  }
  const scansDone = (session.scansDone ?? []).filter((text) => !session.resubscribed?.has(text));
  const ended = session.takeEnded();
  return {
    number: session.number,
    cursor,
    isWhole,
    ended: isWhole ? [] : ended,
    inflight,
    scansDone,
    replays,
  };
}

function originOf(session: Session, slot: number): RecordedOrigin | undefined {
  const from = session.inflight.originAt(slot);
  const origin = from instanceof FormerGroup ? from.group : from;
  // A group without members is no more, and one that is younger has not given it: it is sent again like anything else.
  const isGone =
    origin instanceof SharedGroup &&
    (origin.members.length === 0 || origin.since > session.inflight.offsetAt(slot));
  if (origin === undefined || isGone) return { kind: 'cursor' };
  if (origin instanceof RetainedMessage) return { kind: 'retained', topicName: origin.topic.name };
  if (origin instanceof SharedGroup) return { kind: 'group', name: origin.name, filter: origin.filter };
  return { kind: 'replay', text: origin.text };
}

function isMember(session: Session, slot: number): boolean {
  const group = session.inflight.originAt(slot);
  return group instanceof SharedGroup && session.groups?.get(group)?.isLeaving === false;
}

/** How far a group has come, for a record. */
export function groupProgressOf(group: SharedGroup, cursor: number, open: number[]): GroupProgress {
  const { name, filter, recordedSince: since } = group;
  const taken = [...group.taken].filter((offset) => offset >= cursor);
  return { name, filter, since, cursor, open, taken };
}

/** Offsets that members of a group hold at QoS 1 and have not acknowledged, and those that wait for one. */
export function openOffsets(group: SharedGroup): number[] {
  const open = new Set(group.returned);
  for (const { session, isLeaving } of group.members) {
    // What a member that leaves has is in its own record already.
    if (isLeaving || !session.hasInflight) continue;
    const { inflight } = session;
    for (const id of inflight.idsInOrder()) {
      const slot = inflight.slotOf(id);
      if (inflight.originAt(slot) === group && inflight.phaseAt(slot) === Phase.Puback) {
        open.add(inflight.offsetAt(slot));
      }
    }
  }
  return [...open].sort((a, b) => a - b);
}
