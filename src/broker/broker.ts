// The broker: what connections share. It owns the turn of the event loop in which records are committed, acknowledgements and deliveries leave,
// and outboxes are flushed, and the sweep that notices silence, delays and expiry.
//
//     sockets are read --> packets are handled --> records are appended, outboxes filled
//     turn: log.flush -> commit (apply, deliver, ack, in the order of offsets) -> pumps -> one write per socket
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '../core/assert.js';
import type { Clock } from '../core/clock.js';
import type { Config } from '../core/config.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { Transport } from '../core/transport.js';
import { type Log, type LogReader, ReadResult, type RecordSlice, type RetentionEvents } from '../log/log.js';
import type { WillPacket } from '../packet/connect.js';
import { shortReason } from '../packet/encode.js';
import { ReasonCode, reasonName } from '../packet/reason-codes.js';
import type { QoS } from '../packet/types.js';
import type { Router } from '../router/router.js';
import { validateTopicName } from '../router/topic-name.js';
import type { Topic } from '../router/topic-table.js';
import type { AccessControl } from '../security/access-control.js';
import type { Authenticator } from '../security/authenticator.js';
import { CursorWalk } from '../session/cursor-walk.js';
import { Delivery } from '../session/delivery.js';
import { Message, NO_OFFSET, publishRecordBytes } from '../session/message.js';
import type { Outbox } from '../session/outbox.js';
import { Pump } from '../session/pump.js';
import type { Session } from '../session/session.js';
import type { SharedGroup } from '../session/shared-group.js';
import type { Route, Subscription } from '../session/subscription.js';
import { State, VOLATILE_NUMBERS } from '../state/state.js';
import { CommitQueue } from './commit-queue.js';
import { Connection } from './connection.js';
import { Journal } from './journal.js';
import { Presence } from './presence.js';
import { PublishRun } from './run.js';

export interface BrokerOptions {
  config: Config;
  logger: Logger;
  clock: Clock;
  /** Makes the log, which asks and tells the broker what retention needs. */
  createLog: (retention: RetentionEvents) => Log;
  /** What the log's records make, all of them applied; absent for a log without any. */
  state?: State;
  authenticator: Authenticator;
  /** Undefined: everything is allowed. */
  accessControl: AccessControl | undefined;
  /** In a cluster: enough nodes are in sync for anything to be committed. */
  hasEnough?: () => boolean;
  /** In a cluster: the disks of other nodes that what is kept has to be on have hardly room. */
  areOthersFull?: () => boolean;
  /** Called with an error that cannot be: the process should say so and end. */
  onDefect: (error: unknown) => void;
}

/** What somebody other than an MQTT client publishes. */
export interface OutsideMessage {
  topicName: string;
  payload: Buffer;
  qos: QoS;
  retain: boolean;
}

/** How long stopping waits for the log. */
const STOP_COMMIT_MS = 5000;

/** A connection that goes on doing what is refused is told of once in this time. */
const REFUSAL_LOG_MS = 1000;

/** Retained messages looked at for their expiry in one sweep. */
const EXPIRY_BUDGET = 10_000;

/** How old what is recorded about a session's progress may be. */
const PROGRESS_MS = 100;
/** Sessions and groups whose progress is recorded before others get their turn. */
const PROGRESS_BUDGET = 2048;
/** Messages between two turns from which on what comes in goes before what is read from the log, and for how many turns. */
const BUSY_MESSAGES = 16;
const BUSY_TURNS = 16;

/** As much as so many publishers may have uncommitted; beyond it nothing more is taken from anybody. */
const UNCOMMITTED_MAX = 32;

/** So long publishers wait for enough nodes to be in sync; then they are told. */
const TOO_FEW_MS = 10_000;

/** How often silence, delays and expiry are looked for. */
const SWEEP_MS = 250;
/** What a sweep counts at most of the time since the one before: the process may have stood still. */
const SWEEP_MS_MAX = 1000;

export class Broker {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Log;
  readonly state: State;
  readonly delivery: Delivery;
  readonly pump: Pump;
  readonly #cursorWalk: CursorWalk;
  readonly commits = new CommitQueue();
  readonly run: PublishRun;
  readonly authenticator: Authenticator;
  readonly accessControl: AccessControl | undefined;
  readonly onDefect: (error: unknown) => void;
  readonly counters = { received: 0 };
  /** How many there were at the turn before. */
  #receivedBefore = 0;
  /** For so many more turns what comes in goes before what is read from the log. */
  #busyTurns = 0;
  readonly #logger: Logger;

  readonly #connections = new Set<Connection>();
  readonly #bySession = new Map<Session, Connection>();
  /** Client ids of sessions whose end is in the log and not committed, with the offset behind it. */
  readonly #endings = new Map<string, number>();
  readonly journal: Journal;
  readonly #presence: Presence;

  /** Topics of the records that are appended and not committed, by offset from `#topicsBase`; undefined for those about none. */
  #topics: (Topic<Route> | undefined)[] = [];
  #topicsBase = 0;
  /** Records below are committed, applied and delivered. */
  #applied = 0;
  /** Retained messages among them, for the limits to count. */
  readonly #uncommittedRetained = { messages: 0, bytes: 0 };
  /** Topics with a retained QoS 0 message that was delivered as it came and is not committed yet: its offset. */
  readonly #newerQos0 = new Map<string, number>();
  #dirty: Outbox[] = [];
  #isTurnScheduled = false;
  #isStopped = false;
  #isClosed = false;
  /** Told when nothing is committed here any more. */
  readonly #abandoned = new Set<() => void>();
  readonly #hasEnough: () => boolean;
  readonly #areOthersFull: () => boolean;
  /** For how long too few nodes have been in sync, as far as it was looked at. */
  #tooFewMs = 0;
  #sweptMs: number;
  readonly #message = new Message();
  readonly #commitReader: LogReader;
  readonly #sweepTimer: NodeJS.Timeout;
  readonly #progressTimer: NodeJS.Timeout;

  constructor(options: BrokerOptions) {
    this.config = options.config;
    this.clock = options.clock;
    this.#logger = options.logger;
    this.authenticator = options.authenticator;
    this.accessControl = options.accessControl;
    this.onDefect = options.onDefect;
    this.#hasEnough = options.hasEnough ?? (() => true);
    this.#areOthersFull = options.areOthersFull ?? (() => false);
    this.#sweptMs = options.clock.monotonicMs();
    const { accessControl } = options;
    const mayRead =
      accessControl === undefined
        ? undefined
        : (session: Session, topicName: string) => accessControl.mayRead(session, topicName);
    this.state = options.state ?? new State({ internedTopics: this.config.limits.internedTopics, mayRead });
    accessControl?.onReload(() => this.state.router.invalidateAll());
    const log = options.createLog({
      neededFrom: (before) => this.#cursorWalk.neededFrom(before),
      onLost: (from, to) => this.#onLost(from, to),
    });
    this.log = log;
    const { router, retained } = this.state;
    this.delivery = new Delivery({ router, clock: this.clock, mayRead });
    this.pump = new Pump({
      log,
      router,
      retained,
      delivery: this.delivery,
      clock: this.clock,
      retainedInflightBytesMax: this.config.limits.outboxBytes,
      appliedOffset: () => this.#applied,
      onPumpQueued: () => this.scheduleTurn(),
      whenCommitted: (offset, work) => this.whenCommitted(offset, work),
      onCaughtUp: (subscription, offset) => this.state.mergeReplay(subscription, offset),
      isSuperseded: (topicName) => this.#newerQos0.has(topicName),
      hasUncommittedQos0: () => this.#newerQos0.size > 0,
      mayRead,
      mayHavePublished:
        accessControl === undefined
          ? undefined
          : (source, topicName) => accessControl.mayPublish(source, topicName),
    });
    this.#cursorWalk = new CursorWalk(
      this.pump,
      () => this.state.readings(),
      () => log.createReader(() => this.scheduleTurn()),
    );
    this.run = new PublishRun(this.delivery, (topic) => this.state.router.route(topic));
    this.#commitReader = log.createReader(() => undefined);
    log.onCommit((from, to) => this.#onCommit(from, to));
    this.#applied = log.highWatermark;
    this.#topicsBase = log.endOffset;
    this.journal = new Journal({
      append: (length) => this.#makeRecord(length),
      appliedOffset: () => this.#applied,
    });
    const { willDelaySecondsMax, reconnectGraceSeconds } = this.config.mqtt;
    this.#presence = new Presence({
      clock: this.clock,
      willDelaySecondsMax,
      reconnectGraceSeconds,
      publishWill: (session, will) => this.#publishWill(session, will),
      endSession: (session) => this.endSession(session),
      recordClosed: (session, closedAtMs) => this.journal.closed(session, closedAtMs),
    });
    this.#restore();
    this.#sweepTimer = setInterval(() => this.#sweep(), SWEEP_MS);
    this.#progressTimer = setInterval(this.#recordProgress, PROGRESS_MS);
  }

  /** In portions: a message to all of very many sessions touches every one of them. */
  readonly #recordProgress = (): void => {
    if (!this.#isStopped && this.journal.recordSome(PROGRESS_BUDGET)) setImmediate(this.#recordProgress);
  };

  /** Takes up the sessions and groups that the log knows. */
  #restore(): void {
    const end = this.log.endOffset;
    for (const session of this.state.sessions()) session.recorder = this.journal;
    for (const group of this.state.groups()) {
      group.recorder = this.journal;
      for (const member of group.members) if (member.isLeaving) this.pump.groups.keepMember(member);
    }
    for (const session of this.state.sessions()) {
      // What the process before sent last may not be recorded.
      if (session.isOpen) session.duplicateBefore = end;
      for (const subscription of session.subscriptions.values()) {
        if (!subscription.isRetainedOwed) continue;
        this.pump.startRetained(subscription, subscription.earlier?.before ?? subscription.since, end);
      }
    }
    this.#presence.restore(this.state.sessions());
  }

  get router(): Router<Subscription | SharedGroup, Route> {
    return this.state.router;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** What is to be said where for a while now too few nodes have been in sync for anything to be committed. */
  get tooFew(): string | undefined {
    return this.#tooFewMs <= TOO_FEW_MS
      ? undefined
      : 'too few nodes of the cluster are in sync: nothing can be acknowledged until more are';
  }

  /** There is hardly room on a disk: nothing new is taken that has to be kept. */
  get isFull(): boolean {
    return this.log.isFull || this.#areOthersFull();
  }

  get isReady(): boolean {
    return !this.#isStopped;
  }

  // ---- connections ------------------------------------------------------------------------------------------------------------------

  /** Takes a new connection over from a listener. */
  accept(transport: Transport): void {
    if (this.#isStopped) {
      transport.destroy();
      return;
    }
    const deadline = this.clock.monotonicMs() + this.config.limits.connectTimeoutSeconds * 1000;
    const connection = new Connection(this, transport, deadline);
    this.#connections.add(connection);
    transport.start(connection);
  }

  connectionOf(session: Session): Connection | undefined {
    return this.#bySession.get(session);
  }

  /** Says who a session belongs to; routes that were made with the rights of somebody else are made anew. */
  setUser(session: Session, userName: string | undefined): void {
    if (session.userName === userName) return;
    session.userName = userName;
    if (this.accessControl !== undefined) this.state.router.invalidateAll();
  }

  /** A session for a client that has none. One that ends with its connection and has no will is nothing that the log must know. */
  createSession(clientId: string, isRecorded: boolean): Session {
    const number = this.state.nextSessionNumber(isRecorded);
    const session = this.state.createSession(number, clientId, this.#applied);
    if (isRecorded) session.recorder = this.journal;
    return session;
  }

  /** The connection's CONNECT was accepted and CONNACK is written: the session is served from now on. */
  attach(connection: Connection, session: Session): void {
    session.outbox = connection.outbox;
    this.#presence.arrive(session);
    this.journal.opened(session);
    this.#bySession.set(session, connection);
    connection.deadlineMs = this.clock.monotonicMs() + connection.silenceMs;
    this.pump.attach(session);
    this.#logger.debug('client connected', describe(connection));
  }

  /** Takes the session off a connection that ends. Does nothing the second time. */
  detach(connection: Connection): void {
    const { session, outbox } = connection;
    if (session === undefined || this.#bySession.get(session) !== connection) return;
    this.#bySession.delete(session);
    this.pump.detach(session);
    outbox?.close();
    this.journal.detached(session);
    // A planned end is nobody's loss: to the log the client is connected, and after the restart it may come back.
    if (this.#isStopped && session.isRecorded) return;
    this.#presence.depart(session);
  }

  endSession(session: Session): void {
    this.#presence.end(session);
    this.journal.ended(session);
    if (session.isRecorded) this.#noteEnding(session.clientId);
    this.pump.groups.endSession(session);
    this.state.endSession(session, this.onLeaveGroup);
  }

  #noteEnding(clientId: string): void {
    const target = this.log.endOffset;
    this.#endings.set(clientId, target);
    this.whenCommitted(target, () => {
      if (this.#endings.get(clientId) === target) this.#endings.delete(clientId);
    });
  }

  /** A session of this client id has ended, and the log may lose that: after a restart the session would be there again. */
  isEnding(clientId: string): boolean {
    return this.#endings.has(clientId);
  }

  readonly onLeaveGroup = (session: Session, group: SharedGroup): void => {
    this.pump.groups.leave(session, group);
  };

  onConnectionClosed(connection: Connection, error: Error | undefined): void {
    this.#connections.delete(connection);
    if (connection.isClosed) return;
    connection.isClosed = true;
    connection.splitter.stop();
    this.detach(connection);
    this.#logger.debug('client gone', { ...describe(connection), ...(error === undefined ? {} : { error }) });
  }

  /** The one line about a connection that this side ends. */
  logClosed(connection: Connection, reasonCode: number, why: string): void {
    const isFault =
      reasonCode !== ReasonCode.ServerShuttingDown && reasonCode !== ReasonCode.SessionTakenOver;
    const level = isFault ? 'warn' : 'debug';
    this.#logger[level](`closed a connection: ${shortReason(why)}`, {
      ...describe(connection),
      reason: reasonName(reasonCode),
    });
  }

  /** The line about a request that was refused without closing: one a second for a connection, with the number of those in between. */
  logRefused(connection: Connection, reasonCode: number, why: string): void {
    const now = this.clock.monotonicMs();
    if (now < connection.refusalLoggedMs + REFUSAL_LOG_MS) {
      connection.refusalsUnlogged++;
      return;
    }
    this.#logger.warn(`refused: ${shortReason(why)}`, {
      ...describe(connection),
      reason: reasonName(reasonCode),
      ...(connection.refusalsUnlogged === 0 ? {} : { alsoRefused: connection.refusalsUnlogged }),
    });
    connection.refusalLoggedMs = now;
    connection.refusalsUnlogged = 0;
  }

  // ---- publishing -------------------------------------------------------------------------------------------------------------------

  /**
   * Appends a message to the log; its offset is known at once, everything else follows its commit.
   * @returns the bytes of its record
   */
  append(message: Message): number {
    const { topic } = message;
    if (message.isRetained) this.#setSource(message);
    const length = publishRecordBytes(message);
    // The packet id of a QoS 2 message matters only to a session that the log knows.
    const isReceived = message.qos === 2 && message.publisher < VOLATILE_NUMBERS;
    const changesState = message.isRetained || message.isWill || isReceived;
    const slice = this.log.append(topic.name, length, changesState);
    message.writeRecord(slice);
    this.#topics.push(topic);
    if (message.isRetained) {
      if (message.qos === 0 && !message.isWill) this.#newerQos0.set(topic.name, slice.offset);
      this.#uncommittedRetained.messages++;
      this.#uncommittedRetained.bytes += length;
    }
    this.scheduleTurn();
    return length;
  }

  /** Room in the log for a record about no topic. */
  #makeRecord(length: number): RecordSlice {
    const slice = this.log.append('', length, true);
    this.#topics.push(undefined);
    this.scheduleTurn();
    return slice;
  }

  /** Who published is kept with what is retained: the session may be gone when somebody asks. */
  #setSource(message: Message): void {
    const session = this.state.sessionByNumber(message.publisher);
    if (session === undefined) {
      message.noSource();
      return;
    }
    message.source = session.source;
    message.sourceStart = 0;
    message.sourceEnd = message.source.length;
  }

  /**
   * Publishes for somebody who is not an MQTT client; resolves once it is committed (QoS 0: handed to the subscribers).
   * @throws {GomqError} REFUSED for an invalid or reserved topic name, and beyond the limits of what is retained; DISK_FULL
   */
  async publish(outside: OutsideMessage): Promise<void> {
    const why =
      validateTopicName(outside.topicName, this.config.limits) ??
      (outside.topicName.startsWith('$') ? 'topics that begin with $ are reserved' : undefined);
    if (why !== undefined) throw new GomqError('REFUSED', why, { reasonCode: ReasonCode.TopicNameInvalid });
    const message = new Message();
    message.topic = this.router.internTopic(outside.topicName);
    message.qos = outside.qos;
    message.isRetained = outside.retain;
    message.timestampMs = this.clock.wallMs();
    message.buffer = outside.payload;
    message.isBufferStable = true;
    message.payloadEnd = outside.payload.length;
    const refusal = outside.qos > 0 || outside.retain ? this.keepRefusal(message) : undefined;
    if (refusal !== undefined) throw refusal;
    this.#publish(message);
    if (outside.qos === 0 && !outside.retain) return;
    await new Promise<void>((resolve, reject) => {
      const onAbandoned = (): void =>
        reject(
          new GomqError(
            'NOT_READY',
            'the message was not committed: too few nodes are in sync, or another one leads now',
          ),
        );
      this.#abandoned.add(onAbandoned);
      this.whenCommitted(this.log.endOffset, () => {
        this.#abandoned.delete(onAbandoned);
        resolve();
      });
    });
  }

  /** Why a message cannot go into the log, or undefined when it can. */
  keepRefusal(message: Message): GomqError | undefined {
    const reasonCode = ReasonCode.QuotaExceeded;
    if (this.log.uncommittedBytes > this.config.log.uncommittedBytes * UNCOMMITTED_MAX) {
      const why = 'too much waits for the disk, or for other nodes of the cluster';
      return new GomqError('NOT_READY', why, { reasonCode, retriable: true });
    }
    if (this.isFull && !this.#clearsRetained(message)) {
      const why = this.log.isFull ? 'the disk is full' : 'the disks of other nodes are full';
      return new GomqError('DISK_FULL', why, { reasonCode, retriable: true });
    }
    const why = message.isRetained ? this.retainedRefusal(message) : undefined;
    return why === undefined ? undefined : new GomqError('REFUSED', why, { reasonCode });
  }

  /** It lets go of another message. */
  #clearsRetained({ isRetained, payloadBytes, topic }: Message): boolean {
    return isRetained && payloadBytes === 0 && this.state.retained.get(topic.levels) !== undefined;
  }

  /**
   * Why a message cannot be kept as its topic's retained one, or undefined when it can. What is not committed yet counts as if every publish
   * were of a topic of its own: the limits err on the safe side.
   */
  retainedRefusal(message: Message): string | undefined {
    if (message.payloadBytes === 0) return undefined;
    const { retainedMessages, retainedBytes } = this.config.limits;
    const { retained, retainedBytes: kept } = this.state;
    const before = retained.get(message.topic.levels);
    if (before === undefined && retained.size + this.#uncommittedRetained.messages >= retainedMessages) {
      return `there are ${retainedMessages} retained messages already`;
    }
    const bytes = publishRecordBytes(message) - (before?.bytes ?? 0);
    if (kept + this.#uncommittedRetained.bytes + bytes > retainedBytes) {
      return `retained messages would take more than ${retainedBytes} bytes`;
    }
    return undefined;
  }

  /** Runs `work` once everything before `offset` is committed, behind the acknowledgements that wait for the same: at once when it is. */
  whenCommitted(offset: number, work: () => void): void {
    if (this.commits.size === 0 && this.#applied >= offset) {
      work();
      return;
    }
    this.commits.pushWork(offset, work);
    this.scheduleTurn();
  }

  #publish(message: Message): void {
    this.counters.received++;
    if (message.qos === 0) this.delivery.deliver(message);
    if (message.qos > 0 || message.isRetained) this.append(message);
  }

  #publishWill(session: Session, will: WillPacket): void {
    // Rights may have been taken away since CONNECT.
    if (this.accessControl?.mayPublish(session, will.topicName) === false) return;
    const message = new Message();
    message.topic = this.router.internTopic(will.topicName);
    message.qos = will.qos;
    message.isRetained = will.retain; // [MQTT-3.1.2-14], [MQTT-3.1.2-15] v5
    message.publisher = session.number;
    message.offset = NO_OFFSET;
    message.timestampMs = this.clock.wallMs();
    message.expirySeconds = will.messageExpirySeconds;
    message.buffer = will.payload;
    message.isBufferStable = true;
    message.payloadEnd = will.payload.length;
    message.properties = will.properties;
    message.propertiesEnd = will.properties.length;
    const refusal = message.isRetained ? this.retainedRefusal(message) : undefined;
    if (refusal !== undefined) {
      // Whoever is there is told; it is only not kept for those who come later.
      this.#logger.warn(`a will is not retained: ${refusal}`, { clientId: shortReason(session.clientId) });
      message.isRetained = false;
    }
    // One record publishes and deletes it, so that it fires once: at QoS 0 as well it is delivered at the commit.
    message.isWill = true;
    this.counters.received++;
    this.append(message);
  }

  // ---- the turn ---------------------------------------------------------------------------------------------------------------------

  readonly onDirty = (outbox: Outbox): void => {
    this.#dirty.push(outbox);
    this.scheduleTurn();
  };

  /** Has everything that arose looked after, once the sockets that are readable now have been read. */
  scheduleTurn(): void {
    if (this.#isTurnScheduled) return;
    this.#isTurnScheduled = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#isTurnScheduled = false;
    if (this.#isClosed) return;
    this.log.flush();
    this.commits.release(this.log.highWatermark);
    this.pump.runPumps(this.#isBusy());
    this.#recordClaims();
    const dirty = this.#dirty;
    if (dirty.length > 0) {
      this.#dirty = [];
      for (const outbox of dirty) outbox.flush();
    }
  };

  /** Messages have come in within the last turns. */
  #isBusy(): boolean {
    const { received } = this.counters;
    if (received - this.#receivedBefore >= BUSY_MESSAGES) this.#busyTurns = BUSY_TURNS;
    else if (this.#busyTurns > 0) this.#busyTurns--;
    this.#receivedBefore = received;
    return this.#busyTurns > 0;
  }

  /** Records the packet ids that were given; what has them is sent once that is committed. */
  #recordClaims(): void {
    for (const session of this.delivery.takeClaiming()) {
      // Gone meanwhile: its progress was recorded then.
      if (session.outbox === undefined) continue;
      const target = this.journal.claims(session);
      this.whenCommitted(target, () => this.pump.queuePump(session));
    }
  }

  /** Records [from, to) are committed: applied, delivered and acknowledged one after the other, in the order of the log. */
  #onCommit(from: number, to: number): void {
    const reader = this.#commitReader;
    const message = this.#message;
    const { commits, delivery } = this;
    reader.seek(from);
    for (let offset = from; offset < to; offset++) {
      this.#applied = offset;
      commits.release(offset);
      const result = reader.next();
      assert(
        result === ReadResult.Record && reader.record.offset === offset,
        `record ${offset} is there at its commit`,
      );
      const topic = this.#topics[offset - this.#topicsBase];
      // What other records say has happened, or is done by what was released.
      if (topic === undefined) continue;
      message.readRecord(reader.record);
      message.topic = topic;
      if (message.isRetained) {
        this.#uncommittedRetained.messages--;
        this.#uncommittedRetained.bytes -= reader.record.end - reader.record.start;
        this.state.applyRetained(message);
        if (this.#newerQos0.get(message.topic.name) === offset) this.#newerQos0.delete(message.topic.name);
      }
      // At QoS 0 it was delivered as it came; the record is for the retained set.
      if (message.qos > 0 || message.isWill) delivery.deliver(message);
    }
    this.#applied = to;
    commits.release(to);
    if (to === this.log.endOffset) this.#topics = [];
    else this.#topics.splice(0, to - this.#topicsBase);
    this.#topicsBase = to;
    this.#recordClaims();
  }

  #onLost(from: number, to: number): void {
    this.delivery.counters.lostByRetention += to - from;
    this.#logger.error(
      'the log passed its hard limit and let go of records that a session had not received',
      { from, to, hardLimitBytes: this.config.log.hardLimitBytes },
    );
  }

  // ---- time -------------------------------------------------------------------------------------------------------------------------

  #sweep(): void {
    const now = this.clock.monotonicMs();
    // While this process stood still nobody could be heard of: that says nothing about them.
    this.#tooFewMs = this.#hasEnough() ? 0 : this.#tooFewMs + Math.min(now - this.#sweptMs, SWEEP_MS_MAX);
    this.#sweptMs = now;
    if (this.tooFew !== undefined) this.#rejectWaiting();
    for (const connection of this.#connections) this.#sweepConnection(connection, now);
    this.#presence.sweep(now);
    this.state.dropExpiredRetained(this.clock.wallMs(), EXPIRY_BUDGET);
  }

  #sweepConnection(connection: Connection, now: number): void {
    if (connection.isClosed) return;
    if (connection.session === undefined) {
      if (now >= connection.deadlineMs) {
        connection.close(ReasonCode.UnspecifiedError, 'no CONNECT in time');
      }
      return;
    }
    const { tooFew } = this;
    if (tooFew !== undefined && connection.version === 5 && connection.waitsForLog) {
      // What it sent may yet be committed: its session knows that when it comes back.
      connection.close(ReasonCode.ServerBusy, tooFew);
      return;
    }
    if (connection.silenceMs === 0) return;
    if (connection.wasHeard) {
      connection.wasHeard = false;
      connection.deadlineMs = now + connection.silenceMs;
    } else if (now >= connection.deadlineMs) {
      connection.close(ReasonCode.KeepAliveTimeout, `silent for ${connection.silenceMs / 1000} s`);
    }
  }

  #committed(): Promise<void> {
    return new Promise((resolve) => {
      this.whenCommitted(this.log.endOffset, resolve);
    });
  }

  /**
   * This node leads no more: whatever is not committed may never be, and what is here is no longer true. Nothing is appended from here on; clients
   * find their connections closed, and what they get no answer to they send again elsewhere.
   */
  abandon(): void {
    this.#isStopped = true;
    this.#isClosed = true;
    clearInterval(this.#sweepTimer);
    clearInterval(this.#progressTimer);
    for (const connection of this.#connections) {
      connection.isClosed = true;
      connection.splitter.stop();
      connection.transport.destroy();
    }
    this.#rejectWaiting();
  }

  /** Whoever is not an MQTT client and waits for a commit is told that it may not come. */
  #rejectWaiting(): void {
    for (const onAbandoned of this.#abandoned) onAbandoned();
    this.#abandoned.clear();
  }

  /** Says goodbye to every client, commits what is left and closes the log. The listeners are closed already. */
  async stop(): Promise<void> {
    await this.drain();
    await this.log.close();
  }

  /** Says goodbye to every client and commits what is left, as far as that can be done in time; the log stays open. */
  async drain(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    clearInterval(this.#sweepTimer);
    clearInterval(this.#progressTimer);
    for (const connection of this.#connections) connection.transport.pause();
    // Whoever waits for an acknowledgement of what is in the log gets it before the goodbye.
    const timeout = new AbortController();
    await Promise.race([this.#committed(), delay(STOP_COMMIT_MS, undefined, { signal: timeout.signal })]);
    timeout.abort();
    for (const connection of this.#connections) {
      if (connection.session === undefined) connection.transport.destroy();
      else connection.close(ReasonCode.ServerShuttingDown, 'the broker is stopping');
    }
    this.journal.recordTouched();
    this.#turn();
    this.#isClosed = true;
  }
}

function describe(connection: Connection): { clientId: string; address: string } {
  return { clientId: shortReason(connection.clientId), address: connection.address };
}
