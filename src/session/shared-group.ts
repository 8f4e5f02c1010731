// A shared subscription group (section 4.8.2 of 5.0): one cursor for all its members, each message to one of them.
import type { LogReader } from '../log/log.js';
import type { Interest } from './interest.js';
import type { Recorder } from './session.js';
import type { Subscription } from './subscription.js';

/** The group of a message that its session took as a member, and has kept while it left [MQTT-3.10.4-3]. When the session ends, it goes back. */
export class FormerGroup {
  readonly group: SharedGroup;

  constructor(group: SharedGroup) {
    this.group = group;
  }
}

export class SharedGroup {
  readonly name: string;
  readonly filter: string;
  /** The offset at which the group came to be. */
  since: number;
  /** The same for those members alone that are recorded: what the log knows of the group began with them. */
  recordedSince: number;
  readonly members: Subscription[] = [];
  /** True while it takes messages at commit; false while it reads from its cursor. */
  isLive = true;
  /** The next offset to read, while not live. */
  cursor = 0;
  /** While a read is pending. */
  reader: LogReader | undefined = undefined;
  interest: Interest | undefined = undefined;
  isPumpQueued = false;
  /**
   * Offsets that a member took and did not acknowledge before it went: they go to another. Bounded by the windows of the members
   * that went.
   */
  returned: number[] = [];
  /**
   * Offsets from the cursor on that are somebody's since before a restart: a member was given them at QoS 2, or took them along when it
   * left. Empty but while the cursor has not passed them.
   */
  taken = new Set<number>();
  /** Who is told that the progress has changed; undefined for a group of which no member is recorded. */
  recorder: Recorder | undefined = undefined;
  isTouched = false;
  /** Where a message came from that a session took as a member and still has after it has left. */
  readonly former = new FormerGroup(this);
  #next = 0;

  constructor(name: string, filter: string, since: number) {
    this.name = name;
    this.filter = filter;
    this.since = since;
    this.recordedSince = since;
  }

  /** Its first member that is recorded has come. */
  beginRecord(recorder: Recorder, offset: number): void {
    this.recorder = recorder;
    this.recordedSince = offset;
  }

  /** Its last member that was recorded has gone. */
  endRecord(): void {
    this.recorder = undefined;
    this.isTouched = false;
  }

  /** Has the progress recorded soon. */
  touch(): void {
    if (this.isTouched || this.recorder === undefined) return;
    this.isTouched = true;
    this.recorder.touched.push(this);
  }

  /**
   * A member took it and goes without having acknowledged it. What the cursor has not passed is given again anyhow: after a restart that may
   * stand before what was given.
   */
  takeBack(offset: number): void {
    this.taken.delete(offset);
    if (this.isLive || offset < this.cursor) this.returned.push(offset);
  }

  /** The member whose turn it is among those that `accepts`, or undefined when there is none. */
  pick(accepts: (member: Subscription) => boolean): Subscription | undefined {
    const count = this.members.length;
    for (let i = 0; i < count; i++) {
      const member = this.members[(this.#next + i) % count]!;
      if (!accepts(member)) continue;
      this.#next = (this.#next + i + 1) % count;
      return member;
    }
    return undefined;
  }

  get hasOnlineMember(): boolean {
    return this.members.some((member) => member.session.outbox !== undefined);
  }
}
