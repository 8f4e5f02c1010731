// What a leader knows of its members, and what follows from it: how far the log is committed, and who belongs into the in-sync set. Pure: told what
// happened and what time it is, it answers; it knows no network, no disk and no clock.
import { assert } from '../core/assert.js';
import { committedOffset } from './commit-rule.js';

export interface Node {
  readonly node: string;
  readonly incarnation: string;
}

export interface LeaderOptions {
  /** This node. */
  readonly self: Node;
  readonly epoch: number;
  /** Where the epoch begins in the log. */
  readonly epochStart: number;
  /** As it was when this node was elected, which is in it. */
  readonly inSync: readonly Node[];
  /** Nodes that are known not to be there: nobody waits for them. */
  readonly gone: readonly string[];
  readonly minInSync: number;
  /** Whoever is silent for so long is not in sync. */
  readonly silenceMs: number;
  /** Nor is whoever does not have on disk what this node had there so long ago. */
  readonly lagMs: number;
  readonly nowMs: number;
}

/** A node that has found its place in this epoch. */
interface Member {
  readonly incarnation: string;
  keptOffset: number;
  heardMs: number;
  /** There is hardly room on its disk. */
  isFull: boolean;
  /** When it last had all that this node had; see `#lags`. */
  abreastMs: number;
  /** What this node had at `aimMs`, when it was last looked at. */
  aim: number;
  aimMs: number;
}

export class ReplicationLeader {
  readonly #options: LeaderOptions;
  readonly #members = new Map<string, Member>();
  #confirmed: readonly Node[];
  #proposed: readonly Node[] | undefined = undefined;
  #keptOffset = 0;
  #highWatermark = 0;
  /** Asked for each message, so that it is not found out then. */
  #isFull = false;
  /** Nodes that were here and are gone. */
  readonly #left: Set<string>;
  /** Until then nobody is found silent: they may be on their way. */
  #patientUntilMs: number;

  constructor(options: LeaderOptions) {
    this.#options = options;
    this.#confirmed = options.inSync;
    this.#left = new Set(options.gone);
    this.#patientUntilMs = options.nowMs + options.silenceMs;
    const { node } = options.self;
    assert(this.#isConfirmed(node), `${node} leads and is not in sync`);
  }

  get highWatermark(): number {
    return this.#highWatermark;
  }

  /** As the coordinator has confirmed it. */
  get inSync(): readonly Node[] {
    return this.#confirmed;
  }

  /** Whether what is published now could be committed. */
  get hasEnough(): boolean {
    return this.#confirmed.length >= this.#options.minInSync;
  }

  /**
   * What is published now would have to go on disks that have hardly room: without the nodes that say so, this one aside, too few would be left. Where
   * enough have room the others leave the in-sync set.
   */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** A commit waits for it, or may have to. */
  isWaitedFor({ node, incarnation }: Node): boolean {
    return this.#maximal().some((one) => one.node === node && one.incarnation === incarnation);
  }

  /** This node has so much of its own log on disk. */
  onKept(keptOffset: number): void {
    this.#keptOffset = keptOffset;
    this.#commit();
  }

  /** A member has made its log a part of this one, up to `keptOffset`, in this epoch (R3): what it says counts from now on. */
  onJoined({ node, incarnation }: Node, keptOffset: number, nowMs: number): void {
    const abreast = { abreastMs: nowMs, aim: this.#keptOffset, aimMs: nowMs };
    this.#members.set(node, { incarnation, keptOffset, heardMs: nowMs, isFull: false, ...abreast });
    this.#left.delete(node);
    this.#countFull();
    this.#commit();
  }

  onAck(node: string, keptOffset: number, nowMs: number, isFull = false): void {
    const member = this.#members.get(node);
    if (member === undefined) return;
    assert(keptOffset >= member.keptOffset, `${node} has ${keptOffset} after ${member.keptOffset}`);
    member.keptOffset = keptOffset;
    member.heardMs = nowMs;
    if (member.isFull !== isFull) {
      member.isFull = isFull;
      this.#countFull();
    }
    if (keptOffset >= member.aim) {
      member.abreastMs = member.aimMs;
      member.aim = this.#keptOffset;
      member.aimMs = nowMs;
    }
    this.#commit();
  }

  onLeft(node: string): void {
    if (!this.#members.delete(node)) return;
    this.#left.add(node);
    this.#countFull();
  }

  /** This node has not listened for `pausedMs`: that nobody was heard of says nothing about them. */
  onPaused(nowMs: number, pausedMs: number): void {
    this.#patientUntilMs = nowMs + this.#options.silenceMs;
    for (const member of this.#members.values()) {
      member.abreastMs += pausedMs;
      member.aimMs += pausedMs;
    }
  }

  /**
   * The in-sync set as it should be, where that is another one and nothing is under way: without those that are gone, silent, full or far behind as
   * long as enough are left (R5), and with those that have caught up (R6). One node at a time joins or leaves.
   */
  wanted(nowMs: number): readonly Node[] | undefined {
    if (this.#proposed !== undefined) return undefined;
    const { self, minInSync } = this.#options;
    const confirmed = this.#confirmed;
    for (const [node, member] of this.#members) {
      const { incarnation, keptOffset } = member;
      const known = confirmed.find((one) => one.node === node);
      if (known?.incarnation === incarnation || !this.#hasCaughtUp(keptOffset)) continue;
      // The high watermark alone may be low because another one lags.
      if (this.#isSilent(node, nowMs) || this.#lags(member, nowMs) || member.isFull) continue;
      // A node that comes back with another directory takes the place of its former self, which is gone for good.
      return [...confirmed.filter((one) => one.node !== node), { node, incarnation }];
    }
    if (confirmed.length <= minInSync) return undefined;
    const gone = confirmed.find(
      (one) => one.node !== self.node && this.whyNotWaitedFor(one, nowMs) !== undefined,
    );
    return gone === undefined ? undefined : confirmed.filter((one) => one !== gone);
  }

  /** Why a node that is in sync should not be any more; undefined where it should. */
  whyNotWaitedFor({ node, incarnation }: Node, nowMs: number): string | undefined {
    const member = this.#members.get(node);
    if (member !== undefined && member.incarnation !== incarnation)
      return 'it came back with another directory';
    if (member?.isFull) return 'its disk is full';
    if (member !== undefined && this.#lags(member, nowMs)) return 'its disk does not keep up';
    if (this.#left.has(node)) return 'it is gone';
    return this.#isSilent(node, nowMs) ? 'it is silent' : undefined;
  }

  /** A change of the in-sync set is about to be sent. */
  propose(inSync: readonly Node[]): void {
    assert(this.#proposed === undefined, 'one change of the in-sync set at a time');
    assert(inSync.length >= Math.min(this.#options.minInSync, this.#confirmed.length), 'enough stay in sync');
    this.#proposed = inSync;
  }

  /** The coordinator has taken it. */
  confirm(): void {
    assert(this.#proposed !== undefined, 'a change of the in-sync set was sent');
    this.#confirmed = this.#proposed;
    this.#proposed = undefined;
    this.#countFull();
    this.#commit();
  }

  /** It is certain that the change never comes about: another one did. */
  abandon(): void {
    assert(this.#proposed !== undefined, 'a change of the in-sync set was sent');
    this.#proposed = undefined;
    this.#commit();
  }

  /** Every other node in sync has said within `withinMs` that it is in this epoch (R10): nobody else can lead meanwhile. */
  isFollowed(nowMs: number, withinMs: number): boolean {
    const { self } = this.#options;
    return this.#maximal().every(({ node, incarnation }) => {
      if (node === self.node) return true;
      const member = this.#members.get(node);
      return member?.incarnation === incarnation && nowMs - member.heardMs <= withinMs;
    });
  }

  #countFull(): void {
    const full = this.#confirmed.filter(({ node, incarnation }) => {
      const member = this.#members.get(node);
      return member?.incarnation === incarnation && member.isFull;
    });
    this.#isFull = full.length > 0 && this.#confirmed.length - full.length < this.#options.minInSync;
  }

  #maximal(): Node[] {
    return [...this.#confirmed, ...(this.#proposed ?? [])];
  }

  #isConfirmed(node: string): boolean {
    return this.#confirmed.some((one) => one.node === node);
  }

  #isSilent(node: string, nowMs: number): boolean {
    if (this.#left.has(node)) return true;
    if (nowMs < this.#patientUntilMs) return false;
    const member = this.#members.get(node);
    return member === undefined || nowMs - member.heardMs > this.#options.silenceMs;
  }

  /**
   * It is here, and its disk is not: commits would wait for it without end. A member under load is always a little behind, so what counts is how long
   * ago it had all that this node had then, as with Kafka's replica.lag.time.max.ms.
   */
  #lags({ abreastMs }: Member, nowMs: number): boolean {
    return nowMs - abreastMs > this.#options.lagMs;
  }

  #hasCaughtUp(keptOffset: number): boolean {
    return keptOffset >= this.#highWatermark && keptOffset >= this.#options.epochStart;
  }

  #commit(): void {
    // By incarnation, since a node that takes the place of its former self is another one: until that is confirmed the former may be elected.
    const nameOf = ({ node, incarnation }: Node): string => `${node} ${incarnation}`;
    const { self, minInSync } = this.#options;
    const kept = new Map([[nameOf(self), this.#keptOffset]]);
    for (const [node, { incarnation, keptOffset }] of this.#members)
      kept.set(nameOf({ node, incarnation }), keptOffset);
    const committed = committedOffset(
      this.#confirmed.map(nameOf),
      this.#proposed?.map(nameOf),
      minInSync,
      (name) => kept.get(name) ?? 0,
    );
    this.#highWatermark = Math.max(this.#highWatermark, committed);
  }
}
