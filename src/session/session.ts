// A session is a cursor: its subscriptions, the offset up to which it has been served, and the few messages in flight. Nothing is queued in it.
import type { LogReader } from '../log/log.js';
import type { WillPacket } from '../packet/connect.js';
import type { TopicTreeScan } from '../router/topic-tree.js';
import { Inflight, type Origin, Phase } from './inflight.js';
import type { Interest } from './interest.js';
import { encodeSource, RetainedMessage } from './message.js';
import type { Outbox } from './outbox.js';
import { PacketIdSet } from './packet-id-set.js';
import { FormerGroup, SharedGroup } from './shared-group.js';
import type { Subscription } from './subscription.js';

/** Retained messages that a new subscription is still to be sent. */
export interface RetainedScan {
  readonly scan: TopicTreeScan<RetainedMessage>;
  /** Of the subscription, which may be replaced while the scan goes on. */
  readonly text: string;
  /** Retained messages of QoS 1 and 2 from this offset on are not for the scan: they are delivered at their commit. */
  readonly before: number;
  /** The same for QoS 0, which is delivered when it arrives: what had been appended when the subscription was made. */
  readonly beforeQos0: number;
  /** Found, and waiting for room in the window or the outbox. */
  waiting: RetainedMessage | undefined;
}

/** A session that never ends by itself. */
export const NEVER_EXPIRES = 0xffff_ffff;

/** What has to be recorded soon. */
export interface Recorder {
  /** Sessions and groups whose progress has changed since it was recorded. */
  touched: (Session | SharedGroup)[];
  /** Records how far the session has come, and once more all that is in flight. */
  progressWhole(session: Session): void;
}

export class Session {
  /** Names the session in records; never given twice. */
  readonly number: number;
  readonly clientId: string;
  /** Of the last connection: for the right to read. */
  #userName: string | undefined = undefined;
  readonly subscriptions = new Map<string, Subscription>();
  /** Filters that are granted and whose subscriptions are not made yet. */
  subscriptionsUncommitted = 0;
  /** Shared groups it is a member of, and by which subscription. */
  groups: Map<SharedGroup, Subscription> | undefined = undefined;

  /** Where packets to the client go while it is connected. */
  outbox: Outbox | undefined = undefined;
  /** How many QoS 1 and 2 messages may be unacknowledged on the present connection. */
  window = 0;
  /** How many are. */
  outstanding = 0;

  /** True while it is served at commit; then everything below the high watermark has been looked at. */
  isLive = false;
  /** The next offset to look at, while not live. */
  cursor = 0;
  /** While a read is pending. */
  reader: LogReader | undefined = undefined;
  isPumpQueued = false;
  /** Subscriptions to history that have not caught up with the session yet, each with what it wants of the log. */
  replays: Map<Subscription, Interest> | undefined = undefined;
  /** Packet ids to send again, in order, after a reconnect. */
  resend: number[] | undefined = undefined;
  /** They may be sent again once the high watermark is at least this: what they depend on was appended before. */
  resendFrom = 0;
  /** Packet ids that are given and not sent yet, in order: a QoS 2 message leaves once its packet id is committed, and nothing overtakes it. */
  claims: number[] | undefined = undefined;
  /** By the text of the subscription; the first one goes first. */
  scans: Map<string, RetainedScan> | undefined = undefined;
  /** What it wants of the log; undefined once its subscriptions change. */
  interest: Interest | undefined = undefined;
  /** Bytes of retained messages in flight: they are kept for it, replaced or not, until they are acknowledged. */
  retainedInflightBytes = 0;
  /** It has room again, and what waits for that is not looked at yet. */
  isRoomQueued = false;

  /** What is recorded about it changes: who to tell. Undefined for a session that the log knows nothing of. */
  recorder: Recorder | undefined = undefined;
  /** Its progress has changed since it was recorded. */
  isTouched = false;
  /**
   * Subscriptions that a record makes anew, with the offset behind it. Until that is applied, nothing is recorded about how far the one
   * before has come: read after that record, it would be taken for the progress of the new one.
   */
  resubscribed: Map<string, number> | undefined = undefined;
  /** Some of its claims are in no record yet. */
  hasNewClaims = false;
  /** Subscriptions whose retained messages are all on their way, and of which that is not recorded yet. */
  scansDone: string[] | undefined = undefined;
  /**
   * Retained messages that were given out at QoS 2 before a restart, while more of them were owed: the scan begins anew, and they are not
   * sent twice.
   */
  retainedGiven: Set<number> | undefined = undefined;
  /** Messages below this offset may have been sent by a process before this one, although no record says so. */
  duplicateBefore = 0;

  /** By the records it has a connection; after a restart that may be one of the process before. */
  isOpen = false;
  /** When that ended, milliseconds since the Unix epoch. */
  closedAtMs = 0;
  /** Fires when the connection ends without a goodbye; after that, when its delay is over. */
  will: WillPacket | undefined = undefined;
  /** `encodeSource` of it, for retained messages; made when it is first asked for. */
  #source: Buffer | undefined = undefined;

  /** Seconds that it outlives its connection, or NEVER_EXPIRES. */
  expirySeconds = 0;
  /** Monotonic time at which it ends, while not connected. */
  expiresAtMs = Number.POSITIVE_INFINITY;

  #inflight: Inflight | undefined = undefined;
  #received: PacketIdSet | undefined = undefined;

  constructor(number: number, clientId: string) {
    this.number = number;
    this.clientId = clientId;
  }

  get userName(): string | undefined {
    return this.#userName;
  }

  set userName(userName: string | undefined) {
    this.#userName = userName;
    this.#source = undefined;
  }

  get source(): Buffer {
    this.#source ??= encodeSource(this);
    return this.#source;
  }

  /** The log knows it: it outlives its connection, or has a will. */
  get isRecorded(): boolean {
    return this.recorder !== undefined;
  }

  /** Has the progress recorded soon. */
  touch(): void {
    if (this.isTouched || this.recorder === undefined) return;
    this.isTouched = true;
    this.recorder.touched.push(this);
  }

  /** Messages to the client. Made when the first comes. */
  get inflight(): Inflight {
    this.#inflight ??= new Inflight();
    return this.#inflight;
  }

  /** Packet ids whose end no record tells of yet. */
  takeEnded(): number[] {
    return this.#inflight?.takeEnded() ?? [];
  }

  get hasInflight(): boolean {
    return this.#inflight !== undefined && this.#inflight.size > 0;
  }

  /** Packet ids of QoS 2 messages that the client published and has not released. */
  get received(): PacketIdSet {
    this.#received ??= new PacketIdSet();
    return this.#received;
  }

  get receivedCount(): number {
    return this.#received === undefined ? 0 : this.#received.size;
  }

  /** True while another QoS 1 or 2 message may be sent: not before what was in flight at the last connection has been sent again. */
  get canTake(): boolean {
    return (
      this.outbox !== undefined &&
      this.resend === undefined &&
      this.outstanding < this.window &&
      this.outbox.hasRoom
    );
  }

  /** Nothing is in flight under this packet id any more. */
  release(slot: number): void {
    const origin = this.inflight.originAt(slot);
    if (origin instanceof RetainedMessage) this.retainedInflightBytes -= origin.bytes;
    else if (origin instanceof SharedGroup) origin.touch();
    if (this.inflight.isCountedAt(slot)) this.outstanding--;
    this.inflight.removeAt(slot);
    this.touch();
  }

  /** The group that gets a message in flight back if the session ends [MQTT-4.8.2-5]: what it was sent at QoS 2 ends with it. */
  owedTo(slot: number): SharedGroup | undefined {
    const origin = this.inflight.originAt(slot);
    const group = origin instanceof FormerGroup ? origin.group : origin;
    if (!(group instanceof SharedGroup) || group.since > this.inflight.offsetAt(slot)) return undefined;
    const isOpen = this.inflight.phaseAt(slot) === Phase.Puback || !this.inflight.mayBeKnownAt(slot);
    return isOpen ? group : undefined;
  }

  /** Stops being served at commit: `offset` is the first record it has not seen. */
  fallBehind(offset: number): void {
    this.isLive = false;
    this.cursor = offset;
  }

  /** At QoS 1, by the process before, which may have died before that was recorded. */
  mayHaveBeenSent(offset: number, origin: Origin | undefined): boolean {
    if (offset >= this.duplicateBefore) return false;
    // Which member of its group was sent it is in no record.
    if (origin === undefined || origin instanceof SharedGroup || origin instanceof FormerGroup) return true;
    return 'isReplay' in origin && origin.isReplay && origin.since < this.duplicateBefore;
  }

  /** The lowest offset it may still have to read. */
  neededFrom(): number {
    let lowest = this.hasInflight ? this.inflight.lowestOffset() : Number.POSITIVE_INFINITY;
    if (!this.isLive) lowest = Math.min(lowest, this.cursor);
    if (this.replays !== undefined)
      for (const { replayCursor } of this.replays.keys()) lowest = Math.min(lowest, replayCursor);
    return lowest;
  }
}
