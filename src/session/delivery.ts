// Messages to subscribers. Live at commit, while a session keeps up; from its cursor in the log, when it fell behind or returns. A session
// falls behind when its window or its outbox is full, and is pumped from the log as acknowledgements and drained sockets make room.
//
//     commit --> deliver() --> is live, has room --> outbox
//                          \-> has no room: fall behind at this offset
//     ack, drain, reconnect --> queuePump() --> runPumps(): resend, retained, cursor --> outbox ... --> live again
import { assert } from '../core/assert.js';
import type { Clock } from '../core/clock.js';
import { type Log, type LogReader, ReadResult } from '../log/log.js';
import { lowerQos, PacketType, type QoS } from '../packet/types.js';
import type { Router } from '../router/router.js';
import { hasWildcard } from '../router/topic-name.js';
import type { Topic } from '../router/topic-table.js';
import { SCAN_BUDGET_SPENT, SCAN_DONE, type TopicTree } from '../router/topic-tree.js';
import { Phase } from './inflight.js';
import { Message, RetainedMessage } from './message.js';
import type { RetainedScan, Session } from './session.js';
import { SharedGroup } from './shared-group.js';
import { narrowEntry, type Route, type RouteEntry, type Subscription } from './subscription.js';

/** Records or tree nodes looked at for one session before others get their turn. */
const PUMP_BUDGET = 2048;

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
  log: Log;
  router: Router<Subscription | SharedGroup, Route>;
  retained: TopicTree<RetainedMessage>;
  clock: Clock;
  /** Something waits for `runPumps`. */
  onPumpQueued: () => void;
  /** Whether a session may be sent messages of a topic; undefined where there are no rules. */
  mayRead: ((session: Session, topicName: string) => boolean) | undefined;
  /** Whether whoever published a retained message still may (CVE-2018-12546). */
  mayHavePublished:
    | ((source: NonNullable<RetainedMessage['source']>, topicName: string) => boolean)
    | undefined;
}

type Pumped = Session | SharedGroup;

export class Delivery {
  readonly counters: DeliveryCounters = {
    delivered: 0,
    droppedOutboxFull: 0,
    droppedTooLarge: 0,
    expired: 0,
    lostByRetention: 0,
  };
  readonly #log: Log;
  readonly #router: Router<Subscription | SharedGroup, Route>;
  readonly #retained: TopicTree<RetainedMessage>;
  readonly #clock: Clock;
  readonly #onPumpQueued: () => void;
  readonly #mayRead: DeliveryOptions['mayRead'];
  readonly #mayHavePublished: DeliveryOptions['mayHavePublished'];
  #pumps: Pumped[] = [];
  /** What pumps read records into. Live delivery has its own, since a pump never runs inside it. */
  readonly #message = new Message();

  constructor(options: DeliveryOptions) {
    this.#log = options.log;
    this.#router = options.router;
    this.#retained = options.retained;
    this.#clock = options.clock;
    this.#onPumpQueued = options.onPumpQueued;
    this.#mayRead = options.mayRead;
    this.#mayHavePublished = options.mayHavePublished;
  }

  /** True while sessions or groups wait for their turn. */
  get hasPumps(): boolean {
    return this.#pumps.length > 0;
  }

  // ---- live -------------------------------------------------------------------------------------------------------------------------

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
      this.#sendQos0(session, message, isRetained, narrowed.subscriptionIds);
      return;
    }
    if (!session.isLive) return;
    if (session.outstanding >= session.window || !outbox.hasRoom) {
      session.fallBehind(message.offset);
      return;
    }
    this.#send(session, message, qos, isRetained, narrowed.subscriptionIds, undefined);
  }

  #sendQos0(
    session: Session,
    message: Message,
    isRetained: boolean,
    ids: readonly number[] | undefined,
  ): void {
    const outbox = session.outbox!;
    if (!outbox.hasRoom) {
      this.counters.droppedOutboxFull++;
    } else if (outbox.publish(message, 0, 0, isRetained, false, ids, this.#clock.wallMs())) {
      this.counters.delivered++;
    } else {
      this.counters.droppedTooLarge++;
    }
  }

  /** Sends at QoS 1 or 2 to a session that can take it. */
  #send(
    session: Session,
    message: Message,
    qos: QoS,
    isRetained: boolean,
    ids: readonly number[] | undefined,
    origin: RetainedMessage | SharedGroup | undefined,
  ): void {
    const now = message.expirySeconds >= 0 ? this.#clock.wallMs() : 0;
    if (message.isExpired(now)) {
      this.counters.expired++; // [MQTT-3.3.2-5]
      return;
    }
    const inflight = session.inflight;
    const packetId = inflight.add(message.offset, qos === 1 ? Phase.Puback : Phase.Pubrec, origin);
    if (session.outbox!.publish(message, qos, packetId, isRetained, false, ids, now)) {
      session.outstanding++;
      this.counters.delivered++;
    } else {
      inflight.removeAt(inflight.slotOf(packetId));
      this.counters.droppedTooLarge++;
    }
  }

  /** Delivers to one member of a shared group. */
  deliverToGroup(group: SharedGroup, message: Message): void {
    if (message.offset < group.since) return;
    if (message.qos > 0 && !group.isLive) return;
    const member = this.#offerToGroup(group, message);
    if (!member && message.qos > 0) {
      group.isLive = false;
      group.cursor = message.offset;
    }
  }

  /** Sends to a member that can take it; false when there is none. */
  #offerToGroup(group: SharedGroup, message: Message): boolean {
    const mayRead = this.#mayRead;
    let isReadable = mayRead === undefined;
    const member = group.pick(({ session, qos }) => {
      if (mayRead !== undefined && !mayRead(session, message.topic.name)) return false;
      isReadable = true;
      return message.qos === 0 || qos === 0 ? session.outbox?.hasRoom === true : session.canTake;
    });
    // Nobody in the group has the right to it: waiting would not help.
    if (!isReadable) return true;
    if (member === undefined) return false;
    const qos = lowerQos(message.qos, member.qos);
    const isRetained = message.isRetained && member.retainAsPublished;
    const ids = member.id > 0 ? [member.id] : undefined;
    if (qos === 0) this.#sendQos0(member.session, message, isRetained, ids);
    else this.#send(member.session, message, qos, isRetained, ids, group);
    return true;
  }

  // ---- acknowledgements -------------------------------------------------------------------------------------------------------------

  /** A slot of the window has become free, or the socket has drained. */
  onRoom(session: Session): void {
    if (!session.isLive || session.scans !== undefined) this.queuePump(session);
    if (session.groups !== undefined) {
      for (const group of session.groups)
        if (!group.isLive || group.returned.length > 0) this.queuePump(group);
    }
  }

  // ---- connections come and go ------------------------------------------------------------------------------------------------------

  /** The session has an outbox now: what was in flight is sent again first, then retained messages, then the log from the cursor. */
  attach(session: Session): void {
    session.outstanding = 0;
    if (session.hasInflight) {
      session.inflight.markAllUnsent();
      session.resend = session.inflight.idsInOrder();
    }
    if (session.cursor >= this.#log.highWatermark && session.resend === undefined) session.isLive = true;
    else this.queuePump(session);
    if (session.scans !== undefined) this.queuePump(session);
    if (session.groups === undefined) return;
    for (const group of session.groups) this.#onOnline(session, group);
  }

  /** A connected session has joined a group. */
  onMember(subscription: Subscription): void {
    if (subscription.group !== undefined && subscription.session.outbox !== undefined)
      this.#onOnline(subscription.session, subscription.group);
  }

  #onOnline(session: Session, group: SharedGroup): void {
    // Members that are away give up what they hold: somebody is here who can take it.
    for (const member of group.members) {
      if (member.session !== session) this.#returnUnacknowledged(member.session, group);
    }
    if (!group.isLive || group.returned.length > 0) this.queuePump(group);
  }

  /** The session's connection is over. */
  detach(session: Session): void {
    if (session.isLive) session.fallBehind(this.#log.highWatermark);
    session.outbox = undefined;
    session.resend = undefined;
    session.outstanding = 0;
    session.reader?.close();
    session.reader = undefined;
    if (session.groups === undefined) return;
    for (const group of session.groups) if (group.hasOnlineMember) this.#returnUnacknowledged(session, group);
  }

  /** The session leaves the group for good; QoS 2 deliveries that have begun end with it [MQTT-4.8.2-5]. */
  leaveGroup(session: Session, group: SharedGroup): void {
    this.#returnUnacknowledged(session, group);
  }

  /** QoS 1 messages of the group that an absent member holds go back to the group. */
  #returnUnacknowledged(session: Session, group: SharedGroup): void {
    if (!session.hasInflight || session.outbox !== undefined) return;
    const inflight = session.inflight;
    for (const id of inflight.idsInOrder()) {
      const slot = inflight.slotOf(id);
      if (inflight.originAt(slot) !== group || inflight.phaseAt(slot) !== Phase.Puback) continue;
      group.returned.push(inflight.offsetAt(slot));
      inflight.removeAt(slot);
    }
    if (group.returned.length > 0) this.queuePump(group);
  }

  /**
   * Retained messages for a subscription that took effect at offset `before`, when the log ended at `beforeQos0`. Everything below
   * `beforeQos0` is committed.
   */
  startRetained(subscription: Subscription, before: number, beforeQos0: number): void {
    const session = subscription.session;
    const levels = subscription.filter.split('/');
    if (!hasWildcard(subscription.filter) && this.#retained.get(levels) === undefined) return;
    // A new scan replaces the one before it: there is at most one for each subscription.
    this.stopRetained(session, subscription.text);
    session.scans ??= [];
    session.scans.push({
      scan: this.#retained.scan(levels),
      text: subscription.text,
      before,
      beforeQos0,
      waiting: undefined,
    });
    this.queuePump(session);
  }

  /** Sends no more retained messages for a subscription: it is given up. */
  stopRetained(session: Session, text: string): void {
    const left = session.scans?.filter((scan) => scan.text !== text);
    session.scans = left === undefined || left.length === 0 ? undefined : left;
  }

  // ---- pumps ------------------------------------------------------------------------------------------------------------------------

  queuePump(pumped: Pumped): void {
    if (pumped.isPumpQueued) return;
    pumped.isPumpQueued = true;
    this.#pumps.push(pumped);
    this.#onPumpQueued();
  }

  /** Gives every waiting session and group one turn. */
  runPumps(): void {
    const pumps = this.#pumps;
    if (pumps.length === 0) return;
    this.#pumps = [];
    for (const pumped of pumps) {
      pumped.isPumpQueued = false;
      if (pumped instanceof SharedGroup) this.#pumpGroup(pumped);
      else this.#pumpSession(pumped);
    }
  }

  #pumpSession(session: Session): void {
    if (session.outbox === undefined) return;
    if (!this.#pumpResend(session)) return;
    this.#pumpRetained(session);
    if (!session.isLive) this.#pumpCursor(session);
  }

  /** Sends what was in flight before the reconnect again [MQTT-4.4.0-1]. True when that is done. */
  #pumpResend(session: Session): boolean {
    const ids = session.resend;
    if (ids === undefined) return true;
    const inflight = session.inflight;
    const reader = this.#readerOf(session);
    let sent = 0;
    for (const id of ids) {
      if (session.outstanding >= session.window || !session.outbox!.hasRoom) break;
      const slot = inflight.slotOf(id);
      // Acknowledged before its turn came: the acknowledgement had been on its way.
      if (slot !== -1 && !inflight.wasSentAt(slot) && !this.#resendOne(session, id, slot, reader)) break;
      sent++;
    }
    if (sent < ids.length) {
      session.resend = ids.slice(sent);
      return false;
    }
    session.resend = undefined;
    return true;
  }

  /** False when the record has to be waited for. */
  #resendOne(session: Session, id: number, slot: number, reader: LogReader): boolean {
    const inflight = session.inflight;
    const phase = inflight.phaseAt(slot);
    if (phase === Phase.Pubcomp) {
      session.outbox!.ack(PacketType.Pubrel, id, 0);
    } else {
      const message = this.#message;
      const origin = inflight.originAt(slot);
      const offset = inflight.offsetAt(slot);
      if (origin instanceof RetainedMessage) {
        message.topic = origin.topic;
        message.readRecord(origin.record);
      } else {
        reader.seek(offset);
        const result = reader.next();
        if (result === ReadResult.Pending) return false;
        if (result === ReadResult.End || reader.record.offset !== offset) {
          this.counters.lostByRetention++;
          inflight.removeAt(slot);
          return true;
        }
        this.#load(message, reader);
      }
      // Rights may have been taken away since it was first sent (CVE-2021-34434).
      if (this.#mayRead?.(session, message.topic.name) === false) {
        inflight.removeAt(slot);
        return true;
      }
      const qos = phase === Phase.Puback ? 1 : 2;
      const entry = this.#entryFor(session, message, origin);
      const isRetained =
        origin instanceof RetainedMessage || (message.isRetained && entry?.retainAsPublished === true);
      const ids = entry?.subscriptionIds;
      // [MQTT-3.3.1-1] A message that is sent again has DUP set.
      if (!session.outbox!.publish(message, qos, id, isRetained, true, ids, this.#clock.wallMs())) {
        this.counters.droppedTooLarge++;
        inflight.removeAt(slot);
        return true;
      }
    }
    inflight.markSentAt(slot);
    session.outstanding++;
    return true;
  }

  /** The subscriptions that a message is sent again for; they may be gone. */
  #entryFor(
    session: Session,
    message: Message,
    origin: unknown,
  ): Pick<RouteEntry, 'retainAsPublished' | 'subscriptionIds'> | undefined {
    if (!(origin instanceof SharedGroup)) return this.#router.route(message.topic).entryOf(session);
    const member = origin.members.find((one) => one.session === session);
    if (member === undefined) return undefined;
    return {
      retainAsPublished: member.retainAsPublished,
      subscriptionIds: member.id > 0 ? [member.id] : undefined,
    };
  }

  #pumpRetained(session: Session): void {
    let budget = PUMP_BUDGET;
    while (session.scans !== undefined) {
      const scan = session.scans[0]!;
      const step = this.#stepRetained(session, scan);
      if (step === 'blocked') return;
      if (step === 'done') {
        session.scans.shift();
        if (session.scans.length === 0) session.scans = undefined;
      } else if (step === 'budget' || --budget <= 0) {
        this.queuePump(session);
        return;
      }
    }
  }

  #stepRetained(session: Session, scan: RetainedScan): 'sent' | 'done' | 'blocked' | 'budget' {
    const subscription = session.subscriptions.get(scan.text);
    if (subscription === undefined) return 'done';
    let retained = scan.waiting;
    // One that was replaced while it waited is not sent: its successor is delivered as it was published.
    if (retained !== undefined && this.#retained.get(retained.topic.levels) !== retained) {
      scan.waiting = undefined;
      return 'sent';
    }
    if (retained === undefined) {
      const next = scan.scan.next(PUMP_BUDGET);
      if (next === SCAN_DONE) return 'done';
      if (next === SCAN_BUDGET_SPENT) return 'budget';
      retained = next;
    }
    scan.waiting = undefined;
    if (retained.record.offset >= (retained.qos === 0 ? scan.beforeQos0 : scan.before)) return 'sent';
    const qos = lowerQos(retained.qos, subscription.qos);
    const hasRoom = qos === 0 ? session.outbox!.hasRoom : session.canTake;
    if (!hasRoom) {
      scan.waiting = retained;
      return 'blocked';
    }
    if (!this.#mayDeliverRetained(session, retained)) return 'sent';
    const message = this.#message;
    message.topic = retained.topic;
    message.readRecord(retained.record);
    if (subscription.noLocal && message.publisher === session.number) return 'sent';
    if (message.isExpired(this.#clock.wallMs())) {
      this.counters.expired++;
      return 'sent';
    }
    const ids = subscription.id > 0 ? [subscription.id] : undefined;
    // [MQTT-3.3.1-8] v3.1.1: RETAIN is set on what is sent because of a new subscription.
    if (qos === 0) this.#sendQos0(session, message, true, ids);
    else this.#send(session, message, qos, true, ids, retained);
    return 'sent';
  }

  #mayDeliverRetained(session: Session, { topic, source }: RetainedMessage): boolean {
    if (this.#mayRead?.(session, topic.name) === false) return false;
    return source === undefined || this.#mayHavePublished?.(source, topic.name) !== false;
  }

  /**
   * Moves a cursor over the records below `before` that are not for its owner, so that it does not keep them from going. Stops at the
   * first one that is.
   */
  advance(behind: Pumped, before: number): void {
    const reader = this.#log.createReader(() => undefined);
    const wants = this.#wants(behind);
    reader.seek(behind.cursor);
    while (behind.cursor < before) {
      if (reader.next(wants) !== ReadResult.Record) {
        // What was passed over on the way to the end was for somebody else.
        behind.cursor = Math.max(behind.cursor, Math.min(reader.position, before));
        break;
      }
      const { offset } = reader.record;
      behind.cursor = Math.min(offset, before);
      if (offset >= before) break;
      this.#load(this.#message, reader);
      if (this.#isFor(behind, this.#message)) break;
      behind.cursor = offset + 1;
    }
    reader.close();
  }

  /** What a reader of the log may not pass over for somebody. */
  #wants(behind: Pumped): (topicName: string) => boolean {
    const router = this.#router;
    if (behind instanceof SharedGroup) {
      return (topicName) => router.route(router.internTopic(topicName)).groups.includes(behind);
    }
    return (topicName) => {
      const entry = router.route(router.internTopic(topicName)).entryOf(behind);
      return entry?.isReadFromLog === true;
    };
  }

  /** True for a record that has to be delivered to somebody at QoS 1 or 2. */
  #isFor(behind: Pumped, message: Message): boolean {
    if (message.qos === 0) return false;
    const route = this.#router.route(message.topic);
    if (behind instanceof SharedGroup) return message.offset >= behind.since && route.groups.includes(behind);
    const entry = route.entryOf(behind);
    if (entry === undefined) return false;
    const narrowed = narrowEntry(entry, message.offset, message.publisher);
    return narrowed !== undefined && narrowed.qos > 0;
  }

  /** Reads the log from the session's cursor until it has caught up or can take no more. */
  #pumpCursor(session: Session): void {
    const reader = this.#readerOf(session);
    const wants = this.#wants(session);
    const message = this.#message;
    reader.seek(session.cursor);
    for (let budget = PUMP_BUDGET; budget > 0; budget--) {
      if (!session.canTake) return;
      const result = reader.next(wants);
      if (result === ReadResult.Pending) return;
      if (result === ReadResult.End) {
        session.isLive = true;
        reader.close();
        session.reader = undefined;
        return;
      }
      session.cursor = reader.position;
      this.#load(message, reader);
      this.#sendFromLog(session, message);
    }
    this.queuePump(session);
  }

  #sendFromLog(session: Session, message: Message): void {
    if (message.qos === 0) return;
    const entry = this.#router.route(message.topic).entryOf(session);
    if (entry === undefined) return;
    const narrowed = narrowEntry(entry, message.offset, message.publisher);
    if (narrowed === undefined || narrowed.qos === 0) return;
    const qos = lowerQos(message.qos, narrowed.qos);
    const isRetained = message.isRetained && narrowed.retainAsPublished;
    this.#send(session, message, qos, isRetained, narrowed.subscriptionIds, undefined);
  }

  #pumpGroup(group: SharedGroup): void {
    const message = this.#message;
    const reader = this.#readerOf(group);
    while (group.returned.length > 0) {
      const offset = group.returned[0]!;
      reader.seek(offset);
      const result = reader.next();
      if (result === ReadResult.Pending) return;
      if (result === ReadResult.End || reader.record.offset !== offset) {
        this.counters.lostByRetention++;
      } else {
        this.#load(message, reader);
        if (!this.#offerToGroup(group, message)) return;
      }
      group.returned.shift();
    }
    if (group.isLive) return;
    const wants = this.#wants(group);
    reader.seek(group.cursor);
    for (let budget = PUMP_BUDGET; budget > 0; budget--) {
      const result = reader.next(wants);
      if (result === ReadResult.Pending) return;
      if (result === ReadResult.End) {
        group.isLive = true;
        reader.close();
        group.reader = undefined;
        return;
      }
      this.#load(message, reader);
      if (this.#isFor(group, message) && !this.#offerToGroup(group, message)) return;
      group.cursor = reader.position;
    }
    this.queuePump(group);
  }

  #load(message: Message, reader: LogReader): void {
    message.readRecord(reader.record);
    message.topic = this.#topicOf(message);
  }

  #topicOf(message: Message): Topic<Route> {
    const { buffer, topicStart, topicEnd } = message;
    return (
      this.#router.findTopic(buffer, topicStart, topicEnd) ??
      this.#router.internTopic(buffer.toString('utf8', topicStart, topicEnd))
    );
  }

  #readerOf(pumped: Pumped): LogReader {
    pumped.reader ??= this.#log.createReader(() => this.queuePump(pumped));
    assert(pumped.reader !== undefined, 'the reader was made');
    return pumped.reader;
  }
}
