// A session is a cursor: its subscriptions, the offset up to which it has been served, and the few messages in flight. Nothing is queued in it.
import type { LogReader } from '../log/log.js';
import type { TopicTreeScan } from '../router/topic-tree.js';
import { Inflight } from './inflight.js';
import type { Interest } from './interest.js';
import { RetainedMessage } from './message.js';
import type { Outbox } from './outbox.js';
import { PacketIdSet } from './packet-id-set.js';
import type { SharedGroup } from './shared-group.js';
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

export class Session {
  /** Names the session in records; never given twice. */
  readonly number: number;
  readonly clientId: string;
  /** Of the last connection: for the right to read. */
  userName: string | undefined = undefined;
  readonly subscriptions = new Map<string, Subscription>();
  /** Shared groups it is a member of. */
  groups: Set<SharedGroup> | undefined = undefined;

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
  /** Packet ids to send again, in order, after a reconnect. */
  resend: number[] | undefined = undefined;
  /** By the text of the subscription; the first one goes first. */
  scans: Map<string, RetainedScan> | undefined = undefined;
  /** What it wants of the log; undefined once its subscriptions change. */
  interest: Interest | undefined = undefined;
  /** Bytes of retained messages in flight: they are kept for it, replaced or not, until they are acknowledged. */
  retainedInflightBytes = 0;
  /** It has room again, and what waits for that is not looked at yet. */
  isRoomQueued = false;

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

  /** Messages to the client. Made when the first comes. */
  get inflight(): Inflight {
    this.#inflight ??= new Inflight();
    return this.#inflight;
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
    if (this.inflight.wasSentAt(slot)) this.outstanding--;
    this.inflight.removeAt(slot);
  }

  /** Stops being served at commit: `offset` is the first record it has not seen. */
  fallBehind(offset: number): void {
    this.isLive = false;
    this.cursor = offset;
  }

  /** The lowest offset it may still have to read. */
  neededFrom(): number {
    const inflight = this.hasInflight ? this.inflight.lowestOffset() : Number.POSITIVE_INFINITY;
    return this.isLive ? inflight : Math.min(inflight, this.cursor);
  }
}
