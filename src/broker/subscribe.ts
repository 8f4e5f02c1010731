// SUBSCRIBE and UNSUBSCRIBE. A subscription takes effect at an offset of the log; the answer leaves when everything before it is committed, so
// that the retained messages that follow are those of that moment.
import { encodeSuback, encodeUnsuback } from '../packet/encode.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { decodeSubscribe, decodeUnsubscribe, type SubscriptionRequest } from '../packet/subscribe.js';
import { lowerQos, protocolError, type QoS } from '../packet/types.js';
import { hasWildcard, parseFilter } from '../router/topic-name.js';
import type { Subscription } from '../session/subscription.js';
import type { Connection } from './connection.js';

interface Granted {
  subscription: Subscription;
  sendRetained: boolean;
}

export function handleSubscribe(connection: Connection, frame: Buffer): void {
  const { broker } = connection;
  const packet = decodeSubscribe(frame, connection.version);
  const offset = broker.log.endOffset;
  const granted: Granted[] = [];
  const reasons: string[] = [];
  const codes = packet.filters.map((request) => {
    const outcome = subscribe(connection, request, packet.subscriptionId, offset);
    if ('why' in outcome) {
      reasons.push(`${request.filter}: ${outcome.why}`);
      broker.logRefused(connection, outcome.reasonCode, `SUBSCRIBE ${request.filter}: ${outcome.why}`);
      return outcome.reasonCode;
    }
    granted.push(outcome);
    return outcome.subscription.qos;
  });
  broker.commits.pushWork(offset, () => {
    if (connection.isClosed) return;
    const suback = encodeSuback(connection.version, packet.packetId, codes, {
      reasonString: connection.wantsProblemInformation && reasons.length > 0 ? reasons.join('; ') : undefined,
      maximumPacketBytes: connection.outbox!.maximumPacketBytes,
    });
    connection.sendPacket(suback);
    for (const { subscription, sendRetained } of granted) {
      if (sendRetained) broker.delivery.startRetained(subscription, offset);
    }
  });
  broker.scheduleTurn();
}

function subscribe(
  connection: Connection,
  request: SubscriptionRequest,
  id: number,
  offset: number,
): Granted | { reasonCode: number; why: string } {
  const { broker } = connection;
  const session = connection.session!;
  const { limits, mqtt } = broker.config;
  const parsed = parseFilter(request.filter, limits);
  if (typeof parsed === 'string') return { reasonCode: ReasonCode.TopicFilterInvalid, why: parsed };
  if (parsed.group !== undefined) {
    if (request.noLocal) throw protocolError('No Local on a shared subscription'); // [MQTT-3.8.3-4] v5
    if (!mqtt.sharedSubscriptions) {
      return {
        reasonCode: ReasonCode.SharedSubscriptionsNotSupported,
        why: 'shared subscriptions are turned off',
      };
    }
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
  if (parsed.group !== undefined) broker.delivery.onMember(subscription);
  return { subscription, sendRetained };
}

export function handleUnsubscribe(connection: Connection, frame: Buffer): void {
  const { broker } = connection;
  const packet = decodeUnsubscribe(frame, connection.version);
  const session = connection.session!;
  const codes = packet.filters.map((filter) =>
    broker.state.unsubscribe(session, filter, broker.onLeaveGroup)
      ? ReasonCode.Success
      : ReasonCode.NoSubscriptionExisted,
  );
  // Behind the acknowledgements and deliveries of what was published before it.
  broker.commits.pushWork(broker.log.endOffset, () => {
    if (connection.isClosed) return;
    connection.sendPacket(encodeUnsuback(connection.version, packet.packetId, codes)); // [MQTT-3.10.4-4]
  });
  broker.scheduleTurn();
}
