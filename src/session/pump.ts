// Serves those who are not served at commit: a session that fell behind, one that returns, a new subscription that is owed retained messages, a
// shared group with messages that a member gave back. Each gets its turns, bounded, until it has caught up and is live again. What a turn of a
// shared group does is in `group-pump.ts`; the turns and their budget are here, for all.
//
//     ack, drain, reconnect, subscribe --> queuePump() --> runPumps(): resend, retained, cursor --> outbox ... --> live
import { assert } from '../core/assert.js';
import type { Clock } from '../core/clock.js';
import { type Log, type LogReader, ReadResult } from '../log/log.js';
import { lowerQos, PacketType, type QoS } from '../packet/types.js';
import type { Router } from '../router/router.js';
import { hasWildcard } from '../router/topic-name.js';
import { Topic } from '../router/topic-table.js';
import { SCAN_BUDGET_SPENT, SCAN_DONE, type TopicTree } from '../router/topic-tree.js';
import type { Delivery } from './delivery.js';
import { GroupPump } from './group-pump.js';
import { type Origin, Phase } from './inflight.js';
import { type Interest, interestOf } from './interest.js';
import { isPublish, Message, RetainedMessage, type RetainedSource } from './message.js';
import { positionProperties } from './outbox.js';
import { closeReader, type Progress, type Reading } from './reading.js';
import { RecordLoader } from './record-loader.js';
import type { RetainedScan, Session } from './session.js';
import { FormerGroup, SharedGroup } from './shared-group.js';
import { narrowEntry, type Route, type RouteEntry, type Subscription } from './subscription.js';

/** Records or tree nodes looked at for all that wait, before what comes in gets its turn. */
const PUMP_BUDGET = 2048;
/** The same while others publish: whoever waits for an acknowledgement waits for this too. */
const BUSY_BUDGET = 128;

export interface PumpOptions {
  log: Log;
  router: Router<Subscription | SharedGroup, Route>;
  retained: TopicTree<RetainedMessage>;
  delivery: Delivery;
  clock: Clock;
  /** Bytes of retained messages that may be unacknowledged in one session. */
  retainedInflightBytesMax: number;
  /** One past the last record that has been delivered. While a batch is committed, that is before the high watermark. */
  appliedOffset: () => number;
  /** Something waits for `runPumps`. */
  onPumpQueued: () => void;
  /** A replay has caught up: from `offset` on the subscription is served like any other. */
  onCaughtUp: (subscription: Subscription, offset: number) => void;
  /** Runs `work` once everything before `offset` is committed. */
  whenCommitted: (offset: number, work: () => void) => void;
  /** Whether a newer message than a topic's retained one was delivered already, although it is not committed yet (QoS 0). */
  isSuperseded: (topicName: string) => boolean;
  /** Whether messages are in the log and not committed that were delivered already, as they came (QoS 0). */
  hasUncommittedQos0: () => boolean;
  /** Whether a session may be sent messages of a topic; undefined where there are no rules. */
  mayRead: ((session: Session, topicName: string) => boolean) | undefined;
  /** Whether whoever published a retained message still may (CVE-2018-12546). */
  mayHavePublished: ((source: RetainedSource, topicName: string) => boolean) | undefined;
}

export class Pump {
  /** What shared groups need, members that come and go included. */
  readonly groups: GroupPump;
  readonly #log: Log;
  readonly #router: Router<Subscription | SharedGroup, Route>;
  readonly #retained: TopicTree<RetainedMessage>;
  readonly #delivery: Delivery;
  readonly #clock: Clock;
  readonly #retainedInflightBytesMax: number;
  readonly #appliedOffset: PumpOptions['appliedOffset'];
  readonly #onPumpQueued: () => void;
  readonly #whenCommitted: PumpOptions['whenCommitted'];
  readonly #onCaughtUp: PumpOptions['onCaughtUp'];
  readonly #isSuperseded: PumpOptions['isSuperseded'];
  readonly #hasUncommittedQos0: PumpOptions['hasUncommittedQos0'];
  readonly #mayRead: PumpOptions['mayRead'];
  readonly #mayHavePublished: PumpOptions['mayHavePublished'];
  #pumps: Reading[] = [];
  /** What is left of this turn's budget. */
  #budget = 0;
  /** Sessions that have room again. */
  #roomy: Session[] = [];
  /** Sessions with a replay that waits for a commit. */
  readonly #awaitingCommit = new Set<Session>();
  readonly #loader: RecordLoader;
  /** Records below were appended by processes before this one. */
  readonly #firstOffset: number;

  constructor(options: PumpOptions) {
    this.#log = options.log;
    this.#router = options.router;
    this.#retained = options.retained;
    this.#delivery = options.delivery;
    this.#clock = options.clock;
    this.#retainedInflightBytesMax = options.retainedInflightBytesMax;
    this.#appliedOffset = options.appliedOffset;
    this.#onPumpQueued = options.onPumpQueued;
    this.#whenCommitted = options.whenCommitted;
    this.#onCaughtUp = options.onCaughtUp;
    this.#isSuperseded = options.isSuperseded;
    this.#hasUncommittedQos0 = options.hasUncommittedQos0;
    this.#firstOffset = options.log.endOffset;
    this.#loader = new RecordLoader(options.router);
    this.groups = new GroupPump({
      delivery: options.delivery,
      loader: this.#loader,
      queue: (group) => this.queuePump(group),
      readerOf: (group) => this.#readerOf(group),
    });
    this.#mayRead = options.mayRead;
    this.#mayHavePublished = options.mayHavePublished;
  }

  // ---- acknowledgements -------------------------------------------------------------------------------------------------------------

  /** True while sessions or groups wait for their turn. */
  get hasPumps(): boolean {
    return this.#pumps.length > 0 || this.#roomy.length > 0;
  }

  /** A slot of the window has become free, or the outbox has. What waits for it is looked at once a turn. */
  onRoom(session: Session): void {
    if (session.isRoomQueued) return;
    if (!isWaiting(session) && session.groups === undefined) return;
    session.isRoomQueued = true;
    this.#roomy.push(session);
    this.#onPumpQueued();
  }

  #wakeWaiting(): void {
    const roomy = this.#roomy;
    if (roomy.length === 0) return;
    this.#roomy = [];
    for (const session of roomy) {
      session.isRoomQueued = false;
      if (isWaiting(session)) this.queuePump(session);
      this.groups.wake(session);
    }
  }

  // ---- connections come and go ------------------------------------------------------------------------------------------------------

  /** The session has an outbox now: what was in flight is sent again first, then retained messages, then the log from the cursor. */
  attach(session: Session): void {
    session.outstanding = 0;
    if (session.hasInflight) {
      session.inflight.markAllUnsent();
      session.resend = session.inflight.idsInOrder();
      // What is in the log about them may still be on its way to the disk; nothing is sent that it could contradict.
      session.resendFrom = session.isRecorded ? this.#log.endOffset : 0;
    }
    if (session.cursor >= this.#appliedOffset() && session.resend === undefined) session.isLive = true;
    else this.queuePump(session);
    if (session.scans !== undefined || session.replays !== undefined) this.queuePump(session);
    this.groups.attach(session);
  }

  /** The session's connection is over. */
  detach(session: Session): void {
    if (session.isLive) session.fallBehind(this.#appliedOffset());
    session.outbox = undefined;
    session.resend = undefined;
    session.claims = undefined;
    session.outstanding = 0;
    closeReader(session);
    session.interest = undefined;
    this.groups.detach(session);
  }

  /**
   * Retained messages for a subscription that took effect at offset `before`, when the log ended at `beforeQos0`. Everything below
   * `beforeQos0` is committed.
   */
  startRetained(subscription: Subscription, before: number, beforeQos0: number): void {
    const session = subscription.session;
    // Given up since; what follows it under the same text has its own say.
    if (session.subscriptions.get(subscription.text) !== subscription) return;
    const levels = subscription.filter.split('/');
    const isEmpty = !hasWildcard(subscription.filter) && this.#retained.get(levels) === undefined;
    if (isEmpty && subscription.replayNoticeAt < 0) {
      this.#noteScanDone(session, subscription.text);
      return;
    }
    // A new scan replaces the one before it: there is at most one for each subscription.
    session.scans ??= new Map();
    session.scans.set(subscription.text, {
      scan: this.#retained.scan(levels),
      text: subscription.text,
      before,
      beforeQos0,
      waiting: undefined,
    });
    this.queuePump(session);
  }

  /** Sends no more retained messages for a subscription: it is given up, or replaced. */
  stopRetained(session: Session, text: string): void {
    session.scansDone = session.scansDone?.filter((done) => done !== text);
    session.scans?.delete(text);
    if (session.scans?.size === 0) session.scans = undefined;
  }

  // ---- pumps ------------------------------------------------------------------------------------------------------------------------

  queuePump(reading: Reading): void {
    if (reading.isPumpQueued) return;
    reading.isPumpQueued = true;
    this.#pumps.push(reading);
    this.#onPumpQueued();
  }

  /**
   * Gives waiting sessions and groups their turns, as many as the budget is for.
   * @param isBusy messages have come in since the last call
   */
  runPumps(isBusy: boolean): void {
    this.#wakeWaiting();
    const pumps = this.#pumps;
    if (pumps.length === 0) return;
    this.#pumps = [];
    this.#budget = isBusy ? BUSY_BUDGET : PUMP_BUDGET;
    for (const [i, reading] of pumps.entries()) {
      if (this.#budget <= 0) {
        // The others first next time, before those that have had a part of theirs.
        this.#pumps = [...pumps.slice(i), ...this.#pumps];
        this.#onPumpQueued();
        return;
      }
      reading.isPumpQueued = false;
      if (reading instanceof SharedGroup) this.#budget = this.groups.pump(reading, this.#budget);
      else this.#pumpSession(reading);
    }
  }

  #pumpSession(session: Session): void {
    if (session.outbox === undefined) return;
    const isResent = this.#pumpResend(session);
    if (isResent === 'pending') return;
    if (isResent === 'done') {
      if (this.#sendClaims(session) === 'pending') return;
      this.#pumpRetained(session);
      if (!session.isLive && this.#pumpCursor(session) === 'pending') return;
      if (session.replays !== undefined && this.#pumpReplays(session) === 'pending') return;
    }
    closeReader(session);
  }

  /** Sends what was in flight before the reconnect again [MQTT-4.4.0-1]. */
  #pumpResend(session: Session): Progress {
    const ids = session.resend;
    if (ids === undefined) return 'done';
    if (this.#log.highWatermark < session.resendFrom) {
      this.#whenCommitted(session.resendFrom, () => this.queuePump(session));
      return 'blocked';
    }
    const { inflight } = session;
    let progress: Progress = 'done';
    let sent = 0;
    for (const id of ids) {
      const slot = inflight.slotOf(id);
      // Acknowledged before its turn came: the acknowledgement had been on its way.
      if (slot !== -1 && !inflight.wasSentAt(slot)) {
        if (session.outstanding >= session.window || !session.outbox!.hasRoom) progress = 'blocked';
        else if (!this.#resendOne(session, id, slot)) progress = 'pending';
        if (progress !== 'done') break;
      }
      sent++;
    }
    session.resend = progress === 'done' ? undefined : ids.slice(sent);
    // Its groups could not give it anything meanwhile, and no acknowledgement may be left that would wake them.
    if (progress === 'done') this.onRoom(session);
    return progress;
  }

  /** Sends what has its packet id, up to the first of which that is not committed yet. */
  #sendClaims(session: Session): Progress {
    const ids = session.claims;
    if (ids === undefined) return 'done';
    const { inflight } = session;
    let progress: Progress = 'done';
    let sent = 0;
    for (const id of ids) {
      const slot = inflight.slotOf(id);
      // Acknowledged before it was sent, by a client that knows the packet id from before.
      if (slot !== -1 && !inflight.wasSentAt(slot)) {
        const phase = inflight.phaseAt(slot);
        const isReady = phase === Phase.Puback || inflight.readyAt(slot) <= this.#log.highWatermark;
        if (!isReady || !session.outbox!.hasRoom) progress = 'blocked';
        else if (!this.#sendClaim(session, id, slot, phase)) progress = 'pending';
        if (progress !== 'done') break;
      }
      sent++;
    }
    if (progress === 'done') session.claims = undefined;
    else if (sent > 0) session.claims = ids.slice(sent);
    return progress;
  }

  /** False when the record has to be waited for. */
  #sendClaim(session: Session, id: number, slot: number, phase: Phase): boolean {
    const { inflight } = session;
    const loaded = this.#loadInflight(session, slot);
    if (loaded === 'pending') return false;
    const isDuplicate = this.#wasSentBefore(session, slot, phase);
    if (loaded === 'gone' || !this.#publishInflight(session, id, slot, phase, isDuplicate)) {
      session.release(slot);
      return true;
    }
    this.#delivery.counters.delivered++;
    inflight.markSentAt(slot);
    return true;
  }

  /** By the process before. At QoS 2 that is recorded; a QoS 1 message has no claim, it only waits behind one. */
  #wasSentBefore(session: Session, slot: number, phase: Phase): boolean {
    const { inflight } = session;
    return (
      phase === Phase.Puback && session.mayHaveBeenSent(inflight.offsetAt(slot), inflight.originAt(slot))
    );
  }

  /** False when the record has to be waited for. */
  #resendOne(session: Session, id: number, slot: number): boolean {
    const { inflight } = session;
    const phase = inflight.phaseAt(slot);
    if (phase === Phase.Pubcomp) {
      session.outbox!.ack(PacketType.Pubrel, id, 0);
    } else {
      const loaded = this.#loadInflight(session, slot);
      if (loaded === 'pending') return false;
      const isDuplicate = inflight.mayBeKnownAt(slot) || this.#wasSentBefore(session, slot, phase);
      if (loaded === 'gone' || !this.#publishInflight(session, id, slot, phase, isDuplicate)) {
        session.release(slot);
        return true;
      }
    }
    inflight.markSentAt(slot);
    session.outstanding++;
    return true;
  }

  /** Points the message at what is in flight. */
  #loadInflight(session: Session, slot: number): 'loaded' | 'pending' | 'gone' {
    const origin = session.inflight.originAt(slot);
    if (origin instanceof RetainedMessage) {
      this.#loader.loadRetained(origin);
      return 'loaded';
    }
    const offset = session.inflight.offsetAt(slot);
    const reader = this.#readerOf(session);
    reader.seek(offset);
    const result = reader.next();
    if (result === ReadResult.Pending) return 'pending';
    if (result !== ReadResult.Record || reader.record.offset !== offset) {
      this.#delivery.counters.lostByRetention++;
      return 'gone';
    }
    this.#loader.load(reader);
    return 'loaded';
  }

  /** Sends the loaded message with the packet id it has. False when it must not or cannot be. */
  #publishInflight(session: Session, id: number, slot: number, phase: Phase, isDuplicate: boolean): boolean {
    const { message } = this.#loader;
    // Rights may have been taken away since it was first sent (CVE-2021-34434).
    if (this.#mayRead?.(session, message.topic.name) === false) return false;
    const origin = session.inflight.originAt(slot);
    const entry = this.#entryFor(session, origin);
    const position = entry?.isReplay === true ? positionProperties(message) : undefined;
    const isRetained =
      origin instanceof RetainedMessage || (message.isRetained && entry?.retainAsPublished === true);
    const qos = phase === Phase.Puback ? 1 : 2;
    const now = this.#clock.wallMs();
    // [MQTT-3.3.1-1] A message that is sent again has DUP set.
    const isSent = session.outbox!.publish(
      message,
      qos,
      id,
      isRetained,
      isDuplicate,
      entry?.subscriptionIds,
      now,
      position,
    );
    if (!isSent) this.#delivery.counters.droppedTooLarge++;
    return isSent;
  }

  /** The subscriptions that a message in flight is sent for: those it was given for, as far as they are there yet. */
  #entryFor(
    session: Session,
    origin: Origin | undefined,
  ): Pick<RouteEntry, 'retainAsPublished' | 'subscriptionIds' | 'isReplay'> | undefined {
    if (origin === undefined || origin instanceof RetainedMessage) {
      const { message } = this.#loader;
      const entry = this.#router.route(message.topic).entryOf(session);
      // A retained message is older than the subscription it is sent for.
      if (entry === undefined || origin instanceof RetainedMessage) return entry;
      return narrowEntry(entry, message.offset, message.publisher);
    }
    const subscription =
      origin instanceof SharedGroup
        ? origin.members.find((one) => one.session === session)
        : origin instanceof FormerGroup
          ? undefined
          : origin;
    if (subscription === undefined) return undefined;
    const { retainAsPublished, id, isReplay } = subscription;
    return { retainAsPublished, subscriptionIds: id > 0 ? [id] : undefined, isReplay };
  }

  #pumpRetained(session: Session): void {
    while (session.scans !== undefined) {
      const [scan] = session.scans.values();
      assert(scan !== undefined, 'there are scans, or the map of them is not there');
      const visited = scan.scan.visited;
      const step = this.#stepRetained(session, scan);
      this.#budget -= scan.scan.visited - visited;
      if (step === 'blocked') return;
      if (step === 'done') {
        const subscription = session.subscriptions.get(scan.text);
        if (subscription !== undefined && !this.#noticeEnd(session, subscription)) return;
        this.stopRetained(session, scan.text);
        this.#noteScanDone(session, scan.text);
      } else if (step === 'budget' || --this.#budget <= 0) {
        this.queuePump(session);
        return;
      }
    }
  }

  /** Has it recorded that a subscription is owed no more retained messages. */
  #noteScanDone(session: Session, text: string): void {
    const subscription = session.subscriptions.get(text);
    if (subscription === undefined || !subscription.isRetainedOwed) return;
    subscription.isRetainedOwed = false;
    session.scansDone ??= [];
    session.scansDone.push(text);
    session.touch();
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
    if (this.#isSuperseded(retained.topic.name)) return 'sent';
    const qos = lowerQos(retained.qos, subscription.qos);
    if (qos === 2 && session.retainedGiven?.has(retained.record.offset)) return 'sent';
    if (!this.#hasRoomFor(session, qos, retained)) {
      scan.waiting = retained;
      return 'blocked';
    }
    if (!this.#mayDeliverRetained(session, retained)) return 'sent';
    const message = this.#loader.loadRetained(retained);
    if (subscription.noLocal && this.#isOwn(session, message)) return 'sent';
    if (message.isExpired(this.#clock.wallMs())) {
      this.#delivery.counters.expired++;
      return 'sent';
    }
    const ids = subscription.id > 0 ? [subscription.id] : undefined;
    // [MQTT-3.3.1-8] v3.1.1: RETAIN is set on what is sent because of a new subscription.
    if (qos === 0) this.#delivery.sendQos0(session, message, true, ids, subscription.isReplay);
    else this.#delivery.send(session, message, qos, true, ids, retained, subscription.isReplay);
    return 'sent';
  }

  #hasRoomFor(session: Session, qos: QoS, retained: RetainedMessage): boolean {
    if (qos === 0) return session.outbox!.hasRoom;
    if (!session.canTake) return false;
    // Each is kept for the session until it is acknowledged: no more of them than an outbox may hold, but always one.
    const held = session.retainedInflightBytes;
    return held === 0 || held + retained.bytes <= this.#retainedInflightBytesMax;
  }

  #mayDeliverRetained(session: Session, { topic, source }: RetainedMessage): boolean {
    if (this.#mayRead?.(session, topic.name) === false) return false;
    return source === undefined || this.#mayHavePublished?.(source, topic.name) !== false;
  }

  /**
   * Moves a cursor over the records below `before` that are not for its owner, so that it does not keep them from going. Stops at the
   * first one that is, or when `budget` topics and records have been looked at, or where a read has to be waited for.
   * @returns what is left of the budget; 0 means that there may be further to go
   */
  advance(reading: Reading, before: number, budget: number, reader: LogReader): number {
    const interest = interestOf(reading);
    let left = budget;
    const wants: Interest = (topicName) => {
      left--;
      return interest(topicName);
    };
    reader.seek(reading.cursor);
    while (left > 0 && reading.cursor < before) {
      left--;
      const result = reader.next(wants);
      if (result !== ReadResult.Record) {
        // What was passed over was for somebody else.
        reading.cursor = Math.max(reading.cursor, Math.min(reader.position, before));
        if (result === ReadResult.Later) continue;
        if (result === ReadResult.Pending) return 0;
        break;
      }
      const { offset } = reader.record;
      reading.cursor = Math.min(offset, before);
      if (offset >= before) break;
      if (isPublish(reader.record)) {
        this.#loader.load(reader);
        if (this.#loader.isFor(reading)) break;
      }
      reading.cursor = offset + 1;
    }
    return Math.max(0, left);
  }

  /** Reads the log from the session's cursor until it has caught up or can take no more. */
  #pumpCursor(session: Session): Progress {
    const reader = this.#readerOf(session);
    const interest = interestOf(session);
    reader.seek(session.cursor);
    for (; this.#budget > 0; this.#budget--) {
      if (!session.canTake) return 'blocked';
      const result = reader.next(interest);
      if (result === ReadResult.Pending) return 'pending';
      session.cursor = reader.position;
      if (result === ReadResult.Later) break;
      if (result === ReadResult.End) {
        session.isLive = true;
        session.interest = undefined;
        return 'done';
      }
      if (!this.#loader.loadWanted(reader, interest)) continue;
      this.#budget -= this.#sendFromLog(session);
    }
    this.queuePump(session);
    return 'blocked';
  }

  /** Sessions that the log does not know are numbered from the start by each process. */
  #isOwn(session: Session, { publisher, offset }: Message): boolean {
    return publisher === session.number && (session.isRecorded || offset >= this.#firstOffset);
  }

  /** Sends the loaded record to a session that can take it. Answers what it cost beyond the reading, in records. */
  #sendFromLog(session: Session): number {
    const { message } = this.#loader;
    if (message.qos === 0) return 0;
    const entry = this.#router.route(message.topic).entryOf(session);
    if (entry === undefined) return 0;
    const narrowed = narrowEntry(entry, message.offset, message.publisher);
    if (narrowed !== undefined && narrowed.qos > 0) {
      const qos = lowerQos(message.qos, narrowed.qos);
      const isRetained = message.isRetained && narrowed.retainAsPublished;
      this.#delivery.send(
        session,
        message,
        qos,
        isRetained,
        narrowed.subscriptionIds,
        undefined,
        narrowed.isReplay,
      );
    }
    return entry.subscriptions.length >> 4;
  }

  /** Has subscriptions to history read on, one after the other. */
  #pumpReplays(session: Session): Progress {
    for (const [subscription, interest] of session.replays ?? []) {
      const progress = this.#pumpReplay(session, subscription, interest);
      if (progress !== 'done') return progress;
    }
    return 'done';
  }

  /** Reads history up to the end, from where on its session delivers at commit, or from its own cursor. */
  #pumpReplay(session: Session, subscription: Subscription, interest: Interest): Progress {
    const reader = this.#readerOf(session);
    reader.seek(subscription.replayCursor);
    for (; this.#budget > 0; this.#budget--) {
      const { replayCursor, replayNoticeAt } = subscription;
      if (replayCursor >= replayNoticeAt && !this.#noticeEnd(session, subscription)) return 'blocked';
      const end = this.#log.highWatermark;
      if (replayCursor >= end) {
        // Who is delivered to as they come gets none of those that came before: they are read from the log once they are committed.
        if (this.#hasUncommittedQos0()) {
          this.#pumpAtCommit(session);
          return 'blocked';
        }
        this.#onCaughtUp(subscription, subscription.replayCursor);
        session.touch();
        return 'done';
      }
      if (!session.canTake) return 'blocked';
      const result = reader.next(interest);
      if (result === ReadResult.Pending) return 'pending';
      subscription.replayCursor = Math.min(reader.position, end);
      session.touch();
      if (result === ReadResult.Later) break;
      if (result === ReadResult.End || reader.record.offset >= end) continue;
      if (this.#loader.loadWanted(reader, interest, true)) this.#sendHistory(session, subscription, interest);
    }
    this.queuePump(session);
    return 'blocked';
  }

  /** Sends the loaded record to a session that can take it, because of a subscription to history. */
  #sendHistory(session: Session, subscription: Subscription, interest: Interest): void {
    const { message } = this.#loader;
    // One that is in the table of topics was not asked about.
    if (!interest(message.topic.name) || this.#mayRead?.(session, message.topic.name) === false) return;
    if (subscription.noLocal && this.#isOwn(session, message)) return;
    const ids = subscription.id > 0 ? [subscription.id] : undefined;
    const isRetained = message.isRetained && subscription.retainAsPublished;
    const qos = lowerQos(message.qos, subscription.qos);
    if (qos === 0) this.#delivery.sendQos0(session, message, isRetained, ids, true);
    else this.#delivery.send(session, message, qos, isRetained, ids, subscription, true);
  }

  #pumpAtCommit(session: Session): void {
    if (this.#awaitingCommit.has(session)) return;
    this.#awaitingCommit.add(session);
    this.#whenCommitted(this.#log.endOffset, () => {
      this.#awaitingCommit.delete(session);
      this.queuePump(session);
    });
  }

  /**
   * Tells a client that asked for it that it has all of the history there was when it subscribed. False where that has to wait: for room,
   * or for what was claimed and goes first. Both have the session pumped.
   */
  #noticeEnd(session: Session, subscription: Subscription): boolean {
    if (subscription.replayNoticeAt < 0) return true;
    if (session.claims !== undefined || !session.outbox!.hasRoom) return false;
    subscription.replayNoticeAt = -1;
    const message = new Message();
    message.topic = new Topic(subscription.text, Buffer.from(subscription.text), 0);
    this.#delivery.sendQos0(session, message, false, subscription.id > 0 ? [subscription.id] : undefined);
    return true;
  }

  #readerOf(reading: Reading): LogReader {
    reading.reader ??= this.#log.createReader(() => this.queuePump(reading));
    return reading.reader;
  }
}

/** Room is what it waits for. */
function isWaiting(session: Session): boolean {
  return (
    !session.isLive ||
    session.scans !== undefined ||
    session.claims !== undefined ||
    session.replays !== undefined
  );
}
