// Puts what happens to sessions into the log: the records that are not publishes. What a record says has either happened already on this broker, or
// happens when the record is committed; which of the two stands at each method.
import type { RecordSlice } from '../log/log.js';
import { Phase } from '../session/inflight.js';
import { RecordType } from '../session/message.js';
import type { Recorder, Session } from '../session/session.js';
import { SharedGroup } from '../session/shared-group.js';
import { RecordWriter } from '../state/record-codec.js';
import {
  type SubscribedFilter,
  writeGroupProgress,
  writePacketId,
  writeProgress,
  writeSessionClosed,
  writeSessionEnded,
  writeSessionOpened,
  writeSubscribed,
  writeUnsubscribed,
} from '../state/records.js';
import { groupProgressOf, openOffsets, progressOf } from '../state/snapshot.js';

export interface JournalOptions {
  /** Makes room in the log for a record about no topic. */
  append: (length: number) => RecordSlice;
  /** One past the last record that has been committed and delivered. */
  appliedOffset: () => number;
}

/** The session has something of these groups at QoS 1. */
function hasTakenFrom({ inflight }: Session, groups: ReadonlySet<SharedGroup>): boolean {
  return inflight.idsInOrder().some((id) => {
    const slot = inflight.slotOf(id);
    const origin = inflight.originAt(slot);
    return origin instanceof SharedGroup && groups.has(origin) && inflight.phaseAt(slot) === Phase.Puback;
  });
}

/** Something was given to a session at QoS 2, and not sent before its connection was over. */
function hasUnsent({ inflight }: Session): boolean {
  return inflight.idsInOrder().some((id) => !inflight.mayBeKnownAt(inflight.slotOf(id)));
}

export class Journal implements Recorder {
  readonly #append: JournalOptions['append'];
  readonly #appliedOffset: JournalOptions['appliedOffset'];
  readonly #writer = new RecordWriter();
  touched: (Session | SharedGroup)[] = [];
  /** Those that are being recorded, and how far that has come. */
  #round: (Session | SharedGroup)[] | undefined = undefined;
  #roundAt = 0;

  constructor(options: JournalOptions) {
    this.#append = options.append;
    this.#appliedOffset = options.appliedOffset;
  }

  /** Appends what was written; answers the offset behind it. */
  #commitTarget(): number {
    const slice = this.#append(this.#writer.length);
    this.#writer.copyTo(slice.buffer, slice.start);
    return slice.offset + 1;
  }

  /** A connection was given the session; in force already. */
  opened(session: Session): void {
    if (!session.isRecorded) return;
    const { number, clientId, userName, expirySeconds, will } = session;
    session.isOpen = true;
    writeSessionOpened(this.#writer, { number, clientId, userName, expirySeconds, will });
    this.#commitTarget();
  }

  /** Its connection is over; in force already. */
  closed(session: Session, closedAtMs: number): void {
    if (!session.isRecorded) return;
    session.isOpen = false;
    session.closedAtMs = closedAtMs;
    const { number, expirySeconds, will, duplicateBefore } = session;
    const keepsWill = will !== undefined;
    writeSessionClosed(this.#writer, { number, closedAtMs, expirySeconds, keepsWill, duplicateBefore });
    this.#commitTarget();
  }

  /** The session is over; in force already. */
  ended(session: Session): void {
    if (!session.isRecorded) return;
    writeSessionEnded(this.#writer, session.number);
    this.#commitTarget();
  }

  /** In force at its commit. @returns the offset at which it takes effect, and the one behind it */
  subscribed(session: Session, subscriptionId: number, filters: SubscribedFilter[]): number {
    writeSubscribed(this.#writer, { number: session.number, subscriptionId, filters });
    const target = this.#commitTarget();
    for (const { text } of filters) {
      if (!session.subscriptions.has(text)) continue;
      session.resubscribed ??= new Map();
      session.resubscribed.set(text, target);
    }
    return target;
  }

  /** In force at its commit. @returns the offset behind it */
  unsubscribed(session: Session, texts: string[]): number {
    const left = new Set<SharedGroup>();
    for (const text of texts) {
      const subscription = session.subscriptions.get(text);
      if (subscription?.group === undefined || subscription.isLeaving) continue;
      subscription.isLeaving = true;
      left.add(subscription.group);
    }
    // What it has of the groups that it leaves is its own, and no record says so yet.
    if (left.size > 0 && session.hasInflight && hasTakenFrom(session, left)) this.#progress(session, true);
    writeUnsubscribed(this.#writer, { number: session.number, texts });
    return this.#commitTarget();
  }

  /** The session's client has a message of QoS 2: it is not sent again, in force already. PUBREL waits for the commit. */
  pubrec(session: Session, packetId: number): void {
    writePacketId(this.#writer, RecordType.Pubrec, { number: session.number, packetId });
    this.#commitTarget();
  }

  /** The session's client lets go of a packet id: in force already. PUBCOMP waits for the commit. */
  pubrel(session: Session, packetId: number): void {
    writePacketId(this.#writer, RecordType.Pubrel, { number: session.number, packetId });
    this.#commitTarget();
  }

  /** Packet ids that were given since the last record. @returns the offset behind it */
  claims(session: Session): number {
    return this.#progress(session, false);
  }

  /** How far the session has come, where that has changed. */
  progress(session: Session): void {
    if (!session.isTouched) return;
    session.isTouched = false;
    this.#progress(session, false);
  }

  /** The same when its connection is over: what was not sent on it is still anybody's where it came from a group. */
  detached(session: Session): void {
    if (session.isRecorded && session.hasInflight && hasUnsent(session)) this.progressWhole(session);
    else this.progress(session);
  }

  progressWhole(session: Session): void {
    session.isTouched = false;
    this.#progress(session, true);
  }

  #progress(session: Session, isWhole: boolean): number {
    const cursor = session.isLive ? this.#appliedOffset() : session.cursor;
    this.#forgetResubscribed(session);
    writeProgress(this.#writer, progressOf(session, cursor, isWhole));
    const target = this.#commitTarget();
    session.scansDone = undefined;
    if (session.hasInflight) session.inflight.markRecorded(target);
    return target;
  }

  #forgetResubscribed(session: Session): void {
    if (session.resubscribed === undefined) return;
    for (const [text, target] of session.resubscribed) {
      if (target <= this.#appliedOffset()) session.resubscribed.delete(text);
    }
    if (session.resubscribed.size === 0) session.resubscribed = undefined;
  }

  #groupProgress(group: SharedGroup): void {
    group.isTouched = false;
    if (group.recorder === undefined) return;
    const cursor = group.isLive ? this.#appliedOffset() : group.cursor;
    writeGroupProgress(this.#writer, groupProgressOf(group, cursor, openOffsets(group)));
    this.#commitTarget();
  }

  /** Records how far everybody has come of whom that has changed. */
  recordTouched(): void {
    while (this.recordSome(Number.POSITIVE_INFINITY));
  }

  /** The same for `budget` of them at most; true while there are more of those that were there when the round began. */
  recordSome(budget: number): boolean {
    if (this.#round === undefined) {
      if (this.touched.length === 0) return false;
      const isGroup = (one: Session | SharedGroup): boolean => one instanceof SharedGroup;
      // Members before their groups: what a group has given out at QoS 2 is its member's by then.
      this.#round = [...this.touched.filter((one) => !isGroup(one)), ...this.touched.filter(isGroup)];
      this.#roundAt = 0;
      this.touched = [];
    }
    const end = Math.min(this.#roundAt + budget, this.#round.length);
    for (; this.#roundAt < end; this.#roundAt++) {
      const one = this.#round[this.#roundAt]!;
      if (one instanceof SharedGroup) this.#groupProgress(one);
      else this.progress(one);
    }
    if (end < this.#round.length) return true;
    this.#round = undefined;
    return false;
  }
}
