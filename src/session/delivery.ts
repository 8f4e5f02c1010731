// Messages to subscribers, as they are committed (QoS 0: as they arrive). A session or a shared group that can take no more falls behind at the
// offset it cannot take; src/session/pump.ts serves it from there.
//
//     deliver() --> keeps up, has room --> outbox
//               \-> has no room: falls behind at this offset
import type { Clock } from '../core/clock.js';
import { lowerQos, type QoS } from '../packet/types.js';
import type { Router } from '../router/router.js';
import { type Origin, Phase } from './inflight.js';
import { type Message, RetainedMessage } from './message.js';
import { positionProperties } from './outbox.js';
import type { Session } from './session.js';
import type { SharedGroup } from './shared-group.js';
import { narrowEntry, type Route, type RouteEntry, type Subscription } from './subscription.js';

export interface DeliveryCounters {
  /** Publishes written to subscribers. */
  delivered: number;
  /** QoS 0 messages not sent because the subscriber's outbox was full. */
  droppedOutboxFull: number;
  /** Messages not sent because they exceed the client's Maximum Packet Size. */
  droppedTooLarge: number;
  /** Messages not sent because they had expired. */
  expired: number;
  /** Records that the log let go of although somebody needed them. */
  lostByRetention: number;
}

export interface DeliveryOptions {
  router: Router<Subscription | SharedGroup, Route>;
  clock: Clock;
  /** Whether a session may be sent messages of a topic; undefined where there are no rules. */
  mayRead: ((session: Session, topicName: string) => boolean) | undefined;
}

export class Delivery {
  readonly counters: DeliveryCounters = {
    delivered: 0,
    droppedOutboxFull: 0,
    droppedTooLarge: 0,
    expired: 0,
    lostByRetention: 0,
  };
  readonly #router: Router<Subscription | SharedGroup, Route>;
  readonly #clock: Clock;
  readonly #mayRead: DeliveryOptions['mayRead'];

  /** Sessions with claims that are in no record yet. */
  #claiming: Session[] = [];

  constructor(options: DeliveryOptions) {
    this.#router = options.router;
    this.#clock = options.clock;
    this.#mayRead = options.mayRead;
  }

  /** Delivers a message that was just committed, or a QoS 0 message that was just published. */
  deliver(message: Message): void {
    const route = this.#router.route(message.topic);
    const entries = route.entries;
    for (let i = 0; i < entries.length; i++) this.deliverTo(entries[i]!, message);
    const groups = route.groups;
    for (let i = 0; i < groups.length; i++) this.deliverToGroup(groups[i]!, message);
  }

  /** Delivers to one subscriber of the topic. */
  deliverTo(entry: RouteEntry, message: Message): void {
    const session = entry.session;
    const outbox = session.outbox;
    if (outbox === undefined) return;
    let narrowed: RouteEntry = entry;
    if (entry.hasNoLocal || message.offset < entry.since) {
      const rest = narrowEntry(entry, message.offset, message.publisher);
      if (rest === undefined) return;
      narrowed = rest;
    }
    const qos = lowerQos(message.qos, narrowed.qos); // [MQTT-3.8.4-8]
    // [MQTT-3.3.1-12], [MQTT-3.3.1-13] v5; [MQTT-3.3.1-9] v3.1.1
    const isRetained = message.isRetained && narrowed.retainAsPublished;
    if (qos === 0) {
      this.sendQos0(session, message, isRetained, narrowed.subscriptionIds, narrowed.isReplay);
      return;
    }
    if (!session.isLive) return;
    if (session.outstanding >= session.window || !outbox.hasRoom) {
      session.fallBehind(message.offset);
      return;
    }
    this.send(session, message, qos, isRetained, narrowed.subscriptionIds, undefined, narrowed.isReplay);
  }

  /** Sends at QoS 0 to a connected session, unless its outbox is full. */
  sendQos0(
    session: Session,
    message: Message,
    isRetained: boolean,
    ids: readonly number[] | undefined,
    isReplay = false,
  ): void {
    const outbox = session.outbox!;
    const now = message.expirySeconds >= 0 ? this.#clock.wallMs() : 0;
    if (message.isExpired(now)) {
      this.counters.expired++; // [MQTT-3.3.2-5]
    } else if (!outbox.hasRoom) {
      this.counters.droppedOutboxFull++;
    } else if (
      outbox.publish(
        message,
        0,
        0,
        isRetained,
        false,
        ids,
        now,
        isReplay ? positionProperties(message) : undefined,
      )
    ) {
      this.counters.delivered++;
    } else {
      this.counters.droppedTooLarge++;
    }
  }

  /** Sends at QoS 1 or 2 to a session that can take it. */
  send(
    session: Session,
    message: Message,
    qos: QoS,
    isRetained: boolean,
    ids: readonly number[] | undefined,
    origin: Origin | undefined,
    isReplay = false,
  ): void {
    const now = message.expirySeconds >= 0 ? this.#clock.wallMs() : 0;
    if (message.isExpired(now)) {
      this.counters.expired++; // [MQTT-3.3.2-5]
      return;
    }
    const inflight = session.inflight;
    const phase = qos === 1 ? Phase.Puback : Phase.Pubrec;
    session.outstanding++;
    if (origin instanceof RetainedMessage) session.retainedInflightBytes += origin.bytes;
    session.touch();
    if (session.isRecorded && (qos === 2 || session.claims !== undefined)) {
      session.claims ??= [];
      session.claims.push(inflight.claim(message.offset, phase, origin));
      this.#noteClaim(session);
      return;
    }
    const packetId = inflight.add(message.offset, phase, origin);
    // Only QoS 1 gets here: what the process before sent at QoS 2 is recorded.
    const isDuplicate = session.mayHaveBeenSent(message.offset, origin);
    const position = isReplay ? positionProperties(message) : undefined;
    if (session.outbox!.publish(message, qos, packetId, isRetained, isDuplicate, ids, now, position)) {
      this.counters.delivered++;
    } else {
      session.release(inflight.slotOf(packetId));
      this.counters.droppedTooLarge++;
    }
  }

  #noteClaim(session: Session): void {
    if (session.hasNewClaims) return;
    session.hasNewClaims = true;
    this.#claiming.push(session);
  }

  /** Those with claims since the last call. */
  takeClaiming(): Session[] {
    const claiming = this.#claiming;
    if (claiming.length > 0) this.#claiming = [];
    for (const session of claiming) session.hasNewClaims = false;
    return claiming;
  }

  /** Delivers to one member of a shared group. */
  deliverToGroup(group: SharedGroup, message: Message): void {
    if (message.offset < group.since) return;
    if (message.qos > 0 && !group.isLive) return;
    const isGiven = this.offerToGroup(group, message);
    if (message.qos === 0) return;
    group.touch();
    if (!isGiven) {
      group.isLive = false;
      group.cursor = message.offset;
    }
  }

  /** Sends to a member that can take it; false when there is none now. */
  offerToGroup(group: SharedGroup, message: Message): boolean {
    const mayRead = this.#mayRead;
    let isReadable = mayRead === undefined;
    let tried: Set<Subscription> | undefined;
    for (;;) {
      const member = group.pick((one) => {
        if (tried?.has(one)) return false;
        if (mayRead !== undefined && !mayRead(one.session, message.topic.name)) return false;
        isReadable = true;
        if (one.isLeaving) return false;
        return message.qos === 0 || one.qos === 0
          ? one.session.outbox?.hasRoom === true
          : one.session.canTake;
      });
      // Nobody in the group has the right to it, or it is too large for all that could take it: waiting would not help.
      if (member === undefined) return !isReadable || tried !== undefined;
      const { droppedTooLarge } = this.counters;
      this.#sendToMember(member, group, message);
      if (this.counters.droppedTooLarge === droppedTooLarge) return true;
      tried ??= new Set();
      tried.add(member);
    }
  }

  #sendToMember(member: Subscription, group: SharedGroup, message: Message): void {
    const qos = lowerQos(message.qos, member.qos);
    const isRetained = message.isRetained && member.retainAsPublished;
    const ids = member.id > 0 ? [member.id] : undefined;
    if (qos === 0) this.sendQos0(member.session, message, isRetained, ids);
    else this.send(member.session, message, qos, isRetained, ids, group);
  }
}
