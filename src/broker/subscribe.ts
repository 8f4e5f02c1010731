// SUBSCRIBE and UNSUBSCRIBE. Both take effect at an offset of the log: when everything before it is committed and delivered, and nothing after it.
// So a subscription's retained messages are those of that moment, and what was published before an UNSUBSCRIBE still arrives.
import { encodeSuback, encodeUnsuback } from '../packet/encode.js';
import { ReasonCode } from '../packet/reason-codes.js';
import {
  decodeSubscribe,
  decodeUnsubscribe,
  type SubscribePacket,
  type SubscriptionRequest,
} from '../packet/subscribe.js';
import { lowerQos, type QoS } from '../packet/types.js';
import type { ReplayFrom } from '../router/replay-filter.js';
import { hasWildcard, type ParsedFilter, parseFilter } from '../router/topic-name.js';
import type { Session } from '../session/session.js';
import type { Subscription } from '../session/subscription.js';
import type { SubscribedFilter } from '../state/records.js';
import type { Broker } from './broker.js';
import { WORK_BYTES } from './commit-queue.js';
import type { Connection } from './connection.js';

/** As many refusals as a SUBACK explains. */
const REASONS_MAX = 4;

/** A 5.0 client that says this in SUBSCRIBE is told, by an empty message under the text of the subscription, when it has all history. */
const REPLAY_END_PROPERTY = 'gomq-replay-end';

/** What is granted, once the rights and limits have been looked at. */
interface Grant {
  readonly parsed: ParsedFilter;
  /** As it goes into the log. */
  readonly filter: SubscribedFilter;
}

interface Refused {
  readonly reasonCode: number;
  readonly why: string;
}

export function handleSubscribe(connection: Connection, frame: Buffer): void {
  const { broker, splitter, transport } = connection;
  const packet = decodeSubscribe(frame, connection.version);
  const times = packet.filters.map(({ filter }) => timeOf(broker, filter));
  if (times.every((time) => time === undefined)) {
    carryOut(connection, packet, frame.length, []);
    return;
  }
  const frameBytes = frame.length;
  // The log is asked where these times are; what the client sends meanwhile waits.
  splitter.pause();
  transport.pause();
  const asked = times.map(async (time) => (time === undefined ? undefined : broker.log.offsetAt(time)));
  Promise.all(asked)
    .then((offsets) => {
      if (connection.isClosed) return;
      carryOut(connection, packet, frameBytes, offsets);
      transport.resume();
      try {
        splitter.resume();
      } catch (error) {
        connection.fail(error);
      }
    })
    .catch(broker.onDefect);
}

/** The wall clock that a subscription to history begins at, where it says so by time. */
function timeOf({ clock }: Broker, text: string): number | undefined {
  if (!text.startsWith('$replay/')) return undefined;
  const parsed = parseFilter(text);
  if (typeof parsed === 'string') return undefined;
  if (parsed.replay?.kind === 'time') return parsed.replay.timestampMs;
  return parsed.replay?.kind === 'ago' ? clock.wallMs() - parsed.replay.ms : undefined;
}

/** @param offsets where in the log the times are that the filters name, in the order of the filters */
function carryOut(
  connection: Connection,
  packet: SubscribePacket,
  frameBytes: number,
  offsets: readonly (number | undefined)[],
): void {
  const { broker } = connection;
  const session = connection.session!;
  const reasons: string[] = [];
  const grants: Grant[] = [];
  const uncommittedBefore = session.subscriptionsUncommitted;
  const codes = packet.filters.map((request, i) => {
    const outcome = decide(connection, session, request, offsets[i]);
    if ('why' in outcome) {
      if (reasons.length < REASONS_MAX) reasons.push(`${request.filter}: ${outcome.why}`);
      broker.logRefused(connection, outcome.reasonCode, `SUBSCRIBE ${request.filter}: ${outcome.why}`);
      return outcome.reasonCode;
    }
    grants.push(outcome);
    if (!session.subscriptions.has(request.filter)) session.subscriptionsUncommitted++;
    return outcome.filter.qos;
  });
  const added = session.subscriptionsUncommitted - uncommittedBefore;
  const { subscriptionId } = packet;
  const filters = grants.map(({ filter }) => filter);
  const isReplay = filters.some(({ replayFrom }) => replayFrom >= 0);
  const wantsNotice = packet.userProperties.some(
    ([name, value]) => name === REPLAY_END_PROPERTY && value === '1',
  );
  const isRecorded = session.isRecorded && filters.length > 0;
  // It takes effect where its record stands; without one, at the end of what there is.
  const target = isRecorded
    ? broker.journal.subscribed(session, subscriptionId, filters)
    : broker.log.endOffset;
  const offset = isRecorded ? target - 1 : target;
  connection.countUncommitted(frameBytes + WORK_BYTES);
  broker.whenCommitted(target, () => {
    session.subscriptionsUncommitted -= added;
    // The connection may be gone by now; the subscription counts for as long as the session lasts.
    if (broker.state.session(session.clientId) !== session) return;
    const granted = grants.map((grant) => {
      const subscription = subscribe(broker, session, grant, subscriptionId, offset);
      if (wantsNotice && subscription.isReplay) subscription.replayNoticeAt = offset;
      return subscription;
    });
    broker.state.settleRoutes();
    if (!connection.isClosed) {
      const suback = encodeSuback(connection.version, packet.packetId, codes, {
        reasonString:
          connection.wantsProblemInformation && reasons.length > 0 ? reasons.join('; ') : undefined,
        userProperties: isReplay ? [['gomq-end-offset', `${offset}`]] : undefined,
        maximumPacketBytes: connection.outbox!.maximumPacketBytes,
      });
      connection.sendPacket(suback);
    }
    // What is retained at QoS 0 may be in the log and not committed: it is waited for, since it was delivered before there was a subscription.
    const end = broker.log.endOffset;
    broker.whenCommitted(end, () => {
      for (const subscription of granted) {
        if (subscription.isRetainedOwed) broker.pump.startRetained(subscription, offset, end);
      }
    });
  });
}

/** Whether a subscription may be made, before anything is in the log. */
function decide(
  connection: Connection,
  session: Session,
  request: SubscriptionRequest,
  offsetOfTime: number | undefined,
): Grant | Refused {
  const { broker } = connection;
  const { limits, mqtt } = broker.config;
  const parsed = parseFilter(request.filter, limits);
  if (typeof parsed === 'string') return { reasonCode: ReasonCode.TopicFilterInvalid, why: parsed };
  if (parsed.group !== undefined && !mqtt.sharedSubscriptions) {
    return {
      reasonCode: ReasonCode.SharedSubscriptionsNotSupported,
      why: 'shared subscriptions are turned off',
    };
  }
  if (!mqtt.wildcardSubscriptions && hasWildcard(parsed.filter)) {
    return { reasonCode: ReasonCode.WildcardSubscriptionsNotSupported, why: 'wildcards are turned off' };
  }
  if (broker.accessControl?.maySubscribe(connection, parsed.filter) === false) {
    return { reasonCode: ReasonCode.NotAuthorized, why: 'no right to subscribe to it' };
  }
  // What is not committed yet counts as if every filter were another one: the limit errs on the safe side.
  const isNew = !session.subscriptions.has(request.filter);
  if (
    isNew &&
    session.subscriptions.size + session.subscriptionsUncommitted >= limits.subscriptionsPerSession
  ) {
    return {
      reasonCode: ReasonCode.QuotaExceeded,
      why: `the session has ${limits.subscriptionsPerSession} subscriptions already`,
    };
  }
  // What the session has already may be asked for again, as those do who come back.
  if (session.isRecorded && (isNew ? broker.isFull : broker.log.isReserveSpent)) {
    return { reasonCode: ReasonCode.QuotaExceeded, why: 'the disk is full' };
  }
  const qos = lowerQos(request.qos, mqtt.maximumQos as QoS);
  const { filter: text, noLocal, retainAsPublished, retainHandling } = request;
  // [MQTT-3.3.1-9] to [MQTT-3.3.1-11] v5; never for a shared subscription (section 4.8.2).
  // What is retained is in the history as well, unless it is all that is wanted of that.
  const isRetainedOwed =
    parsed.replay === undefined
      ? parsed.group === undefined && retainHandling !== 2
      : parsed.replay.kind === 'retained';
  const replayFrom = parsed.replay === undefined ? -1 : offsetOf(broker, parsed.replay, offsetOfTime);
  return {
    parsed,
    filter: { text, qos, noLocal, retainAsPublished, retainHandling, isRetainedOwed, replayFrom },
  };
}

/** Where a replay begins: within what the log holds. */
function offsetOf({ log }: Broker, from: ReplayFrom, offsetOfTime: number | undefined): number {
  if (from.kind === 'retained') return log.endOffset;
  const wanted = from.kind === 'offset' ? from.offset : (offsetOfTime ?? 0);
  return Math.min(Math.max(wanted, log.startOffset), log.endOffset);
}

/** Makes the subscription. */
function subscribe(
  broker: Broker,
  session: Session,
  { parsed, filter }: Grant,
  id: number,
  offset: number,
): Subscription {
  const { subscription, isNew } = broker.state.subscribe(
    session,
    filter.text,
    parsed,
    filter,
    id,
    offset,
    filter.replayFrom,
  );
  if (parsed.replay?.kind === 'retained') {
    // Nothing is to be read: it is a subscription like any other at once.
    broker.state.mergeReplay(subscription, offset);
    session.touch();
  } else if (subscription.isReplay) {
    broker.pump.queuePump(session);
  }
  const { group } = subscription;
  if (group !== undefined) {
    if (session.recorder !== undefined) {
      if (group.recorder === undefined) group.beginRecord(session.recorder, subscription.since);
      group.touch();
    }
    broker.pump.groups.onMember(subscription);
  }
  if (filter.isRetainedOwed && (filter.retainHandling === 0 || isNew)) {
    // The scan for the subscription that this one replaces must not pass for its own.
    broker.pump.stopRetained(session, filter.text);
    subscription.isRetainedOwed = true;
  }
  return subscription;
}

export function handleUnsubscribe(connection: Connection, frame: Buffer): void {
  const { broker } = connection;
  const session = connection.session!;
  const packet = decodeUnsubscribe(frame, connection.version);
  const target = session.isRecorded
    ? broker.journal.unsubscribed(session, packet.filters)
    : broker.log.endOffset;
  connection.countUncommitted(frame.length + WORK_BYTES);
  broker.whenCommitted(target, () => {
    if (broker.state.session(session.clientId) !== session) return;
    const unknown: string[] = [];
    const codes = packet.filters.map((filter) => {
      broker.pump.stopRetained(session, filter);
      if (broker.state.unsubscribe(session, filter, broker.onLeaveGroup)) return ReasonCode.Success;
      if (unknown.length < REASONS_MAX) unknown.push(filter);
      return ReasonCode.NoSubscriptionExisted;
    });
    broker.state.settleRoutes();
    if (connection.isClosed) return;
    const unsuback = encodeUnsuback(connection.version, packet.packetId, codes, {
      reasonString:
        connection.wantsProblemInformation && unknown.length > 0
          ? `not subscribed to ${unknown.join(', ')}`
          : undefined,
      maximumPacketBytes: connection.outbox!.maximumPacketBytes,
    });
    connection.sendPacket(unsuback); // [MQTT-3.10.4-4]
  });
}
