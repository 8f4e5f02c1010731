// SUBSCRIBE and UNSUBSCRIBE. Both take effect at an offset of the log: when everything before it is committed and delivered, and nothing after it.
// So a subscription's retained messages are those of that moment, and what was published before an UNSUBSCRIBE still arrives.
import { encodeSuback, encodeUnsuback } from '../packet/encode.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { decodeSubscribe, decodeUnsubscribe, type SubscriptionRequest } from '../packet/subscribe.js';
import { lowerQos, type QoS } from '../packet/types.js';
import { hasWildcard, parseFilter } from '../router/topic-name.js';
import type { Session } from '../session/session.js';
import type { Subscription } from '../session/subscription.js';
import type { Connection } from './connection.js';

/** As many refusals as a SUBACK explains. */
const REASONS_MAX = 4;

interface Granted {
  subscription: Subscription;
  sendRetained: boolean;
}

export function handleSubscribe(connection: Connection, frame: Buffer): void {
  const { broker } = connection;
  const session = connection.session!;
  const packet = decodeSubscribe(frame, connection.version);
  const offset = broker.log.endOffset;
  broker.whenCommitted(offset, () => {
    // The connection may be gone by now; the subscription counts for as long as the session lasts.
    if (broker.state.session(session.clientId) !== session) return;
    const granted: Granted[] = [];
    const reasons: string[] = [];
    const codes = packet.filters.map((request) => {
      const outcome = subscribe(connection, session, request, packet.subscriptionId, offset);
      if ('why' in outcome) {
        if (reasons.length < REASONS_MAX) reasons.push(`${request.filter}: ${outcome.why}`);
        broker.logRefused(connection, outcome.reasonCode, `SUBSCRIBE ${request.filter}: ${outcome.why}`);
        return outcome.reasonCode;
      }
      granted.push(outcome);
      return outcome.subscription.qos;
    });
    broker.state.settleRoutes();
    if (!connection.isClosed) {
      const suback = encodeSuback(connection.version, packet.packetId, codes, {
        reasonString:
          connection.wantsProblemInformation && reasons.length > 0 ? reasons.join('; ') : undefined,
        maximumPacketBytes: connection.outbox!.maximumPacketBytes,
      });
      connection.sendPacket(suback);
    }
    // What is retained at QoS 0 may be in the log and not committed: it is waited for, since it was delivered before there was a subscription.
    const end = broker.log.endOffset;
    broker.whenCommitted(end, () => {
      for (const { subscription, sendRetained } of granted) {
        if (sendRetained) broker.pump.startRetained(subscription, offset, end);
      }
    });
  });
}

function subscribe(
  connection: Connection,
  session: Session,
  request: SubscriptionRequest,
  id: number,
  offset: number,
): Granted | { reasonCode: number; why: string } {
  const { broker } = connection;
  const { limits, mqtt } = broker.config;
  if (request.filter.startsWith('$replay/')) {
    return { reasonCode: ReasonCode.TopicFilterInvalid, why: 'history cannot be subscribed to yet' };
  }
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
  if (
    !session.subscriptions.has(request.filter) &&
    session.subscriptions.size >= limits.subscriptionsPerSession
  ) {
    return {
      reasonCode: ReasonCode.QuotaExceeded,
      why: `the session has ${limits.subscriptionsPerSession} subscriptions already`,
    };
  }
  const qos = lowerQos(request.qos, mqtt.maximumQos as QoS);
  const { noLocal, retainAsPublished, retainHandling } = request;
  const { subscription, isNew } = broker.state.subscribe(
    session,
    request.filter,
    parsed,
    { qos, noLocal, retainAsPublished, retainHandling },
    id,
    offset,
  );
  // [MQTT-3.3.1-9] to [MQTT-3.3.1-11] v5; never for a shared subscription (section 4.8.2).
  const sendRetained =
    parsed.group === undefined && (retainHandling === 0 || (retainHandling === 1 && isNew));
  if (parsed.group !== undefined) broker.pump.onMember(subscription);
  return { subscription, sendRetained };
}

export function handleUnsubscribe(connection: Connection, frame: Buffer): void {
  const { broker } = connection;
  const session = connection.session!;
  const packet = decodeUnsubscribe(frame, connection.version);
  broker.whenCommitted(broker.log.endOffset, () => {
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
