// Serves shared groups: what members that went gave back first, then the log from the group's cursor, each message to one member that has room. It
// also says whose a message is while members come and go.
//
//     member's connection ends   --> what it did not acknowledge (QoS 1) goes back --> another member
//     member leaves the group    --> what it has stays its own, until its session ends
//     member's session ends      --> all that it owes goes back --> another member
//
// Whatever the group gets back is given again: it is in `returned`, or the cursor has not passed it.
import { type LogReader, ReadResult } from '../log/log.js';
import type { Delivery } from './delivery.js';
import { Phase } from './inflight.js';
import { interestOf } from './interest.js';
import { closeReader, type Progress } from './reading.js';
import type { RecordLoader } from './record-loader.js';
import type { Session } from './session.js';
import type { SharedGroup } from './shared-group.js';
import type { Subscription } from './subscription.js';

export interface GroupPumpOptions {
  delivery: Delivery;
  loader: RecordLoader;
  /** Gives the group a turn: `pump` will be called. */
  queue: (group: SharedGroup) => void;
  /** The group's reader of the log, which queues it when a read that was pending is done. */
  readerOf: (group: SharedGroup) => LogReader;
}

export class GroupPump {
  readonly #delivery: Delivery;
  readonly #loader: RecordLoader;
  readonly #queue: GroupPumpOptions['queue'];
  readonly #readerOf: GroupPumpOptions['readerOf'];
  /** What is left of the turn's budget. */
  #budget = 0;

  constructor(options: GroupPumpOptions) {
    this.#delivery = options.delivery;
    this.#loader = options.loader;
    this.#queue = options.queue;
    this.#readerOf = options.readerOf;
  }

  // ---- members come and go ----------------------------------------------------------------------------------------------------------

  /** The session is connected: its groups have somebody again. */
  attach(session: Session): void {
    if (session.groups === undefined) return;
    for (const group of session.groups.keys()) this.#onOnline(session, group);
  }

  /** The session is not connected any more: somebody who is takes over what it holds. */
  detach(session: Session): void {
    for (const group of session.groups?.keys() ?? []) {
      if (group.hasOnlineMember) this.#returnUnacknowledged(session, group);
    }
  }

  /** A member has room again. */
  wake(session: Session): void {
    if (session.groups === undefined) return;
    for (const group of session.groups.keys()) this.#queueWaiting(group);
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
    this.#queueWaiting(group);
  }

  #queueWaiting(group: SharedGroup): void {
    if (!group.isLive || group.returned.length > 0) this.#queue(group);
  }

  /** The session has left the group: what it has from there is its own from here on. */
  leave(session: Session, group: SharedGroup): void {
    if (session.hasInflight) {
      const { inflight } = session;
      let hasTaken = false;
      for (const id of inflight.idsInOrder()) {
        const slot = inflight.slotOf(id);
        if (inflight.originAt(slot) !== group || inflight.phaseAt(slot) !== Phase.Puback) continue;
        inflight.setOriginAt(slot, group.former);
        hasTaken = true;
      }
      // Before anything that says that the group has come further.
      if (hasTaken) session.recorder?.progressWhole(session);
    }
    if (group.members.some((member) => member.session.isRecorded)) group.touch();
    else group.endRecord();
  }

  /** After a restart: its UNSUBSCRIBE is lost, and what was recorded as its own is the group's like before. */
  keepMember(member: Subscription): void {
    const { session } = member;
    const group = member.group!;
    member.isLeaving = false;
    for (const id of session.inflight.idsInOrder()) {
      const slot = session.inflight.slotOf(id);
      const offset = session.inflight.offsetAt(slot);
      if (session.inflight.originAt(slot) !== group.former) continue;
      if (!group.returned.includes(offset)) group.takeBack(offset);
      session.release(slot);
    }
    // Or else the next restart would take it for the member's own once more, acknowledged by then or not.
    session.touch();
    group.touch();
    if (group.returned.length > 0) this.#queue(group);
  }

  /** QoS 1 messages of the group that an absent member holds go back to the group. */
  #returnUnacknowledged(session: Session, group: SharedGroup): void {
    if (!session.hasInflight || session.outbox !== undefined) return;
    // To the log they are its own already.
    if (session.groups?.get(group)?.isLeaving === true) return;
    const inflight = session.inflight;
    for (const id of inflight.idsInOrder()) {
      const slot = inflight.slotOf(id);
      if (inflight.originAt(slot) === group && inflight.phaseAt(slot) === Phase.Puback)
        this.#giveBack(session, slot, group);
    }
  }

  /** The session ends: what it owes to groups goes back to them. */
  endSession(session: Session): void {
    if (!session.hasInflight) return;
    const { inflight } = session;
    for (const id of inflight.idsInOrder()) {
      const slot = inflight.slotOf(id);
      const group = session.owedTo(slot);
      if (group !== undefined) this.#giveBack(session, slot, group);
    }
  }

  #giveBack(session: Session, slot: number, group: SharedGroup): void {
    const offset = session.inflight.offsetAt(slot);
    session.release(slot);
    // Nobody is left of it.
    if (group.members.length === 0) return;
    group.takeBack(offset);
    group.touch();
    this.#queue(group);
  }

  // ---- turns ------------------------------------------------------------------------------------------------------------------------

  /**
   * Gives the group its turn: `budget` records at most.
   * @returns what is left of the budget
   */
  pump(group: SharedGroup, budget: number): number {
    this.#budget = budget;
    let progress = this.#pumpReturned(group);
    if (progress !== 'pending' && !group.isLive && group.returned.length === 0) {
      progress = this.#pumpCursor(group);
    }
    if (progress !== 'pending') closeReader(group);
    return this.#budget;
  }

  /** Gives what a member left unacknowledged to another. */
  #pumpReturned(group: SharedGroup): Progress {
    if (group.returned.length === 0) return 'done';
    const reader = this.#readerOf(group);
    let progress: Progress = 'done';
    let given = 0;
    for (const offset of group.returned) {
      reader.seek(offset);
      const result = reader.next();
      if (result === ReadResult.Pending) {
        progress = 'pending';
        break;
      }
      if (result !== ReadResult.Record || reader.record.offset !== offset) {
        this.#delivery.counters.lostByRetention++;
      } else {
        this.#loader.load(reader);
        if (!this.#delivery.offerToGroup(group, this.#loader.message)) {
          progress = 'blocked';
          break;
        }
      }
      given++;
    }
    if (given > 0) group.touch();
    group.returned = group.returned.slice(given);
    return progress;
  }

  #pumpCursor(group: SharedGroup): Progress {
    const reader = this.#readerOf(group);
    const interest = interestOf(group);
    const { message } = this.#loader;
    reader.seek(group.cursor);
    for (; this.#budget > 0; this.#budget--) {
      const result = reader.next(interest);
      if (result === ReadResult.Pending) return 'pending';
      if (result === ReadResult.Record) {
        const isForGroup =
          !group.taken.has(reader.record.offset) &&
          this.#loader.loadWanted(reader, interest) &&
          this.#loader.isFor(group);
        if (isForGroup) {
          if (!this.#delivery.offerToGroup(group, message)) return 'blocked';
          group.touch();
        }
      }
      group.cursor = reader.position;
      if (result === ReadResult.Later) break;
      if (result === ReadResult.End) {
        group.isLive = true;
        return 'done';
      }
    }
    this.#queue(group);
    return 'blocked';
  }
}
