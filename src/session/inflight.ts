// The messages sent to one client at QoS 1 or 2 and not acknowledged yet: packet id, log offset, and how far the exchange has come. Arrays
// indexed by the low bits of the packet id; ids are given in sequence, so a slot is almost always free when its turn comes.
import { assert } from '../core/assert.js';
import type { RetainedMessage } from './message.js';
import type { FormerGroup, SharedGroup } from './shared-group.js';
import type { Subscription } from './subscription.js';

/** How far the delivery of one message has come. */
export const Phase = {
  /** QoS 1: PUBLISH sent, PUBACK missing. */
  Puback: 1,
  /** QoS 2: PUBLISH sent, PUBREC missing. */
  Pubrec: 2,
  /** QoS 2: PUBREL sent, PUBCOMP missing. */
  Pubcomp: 3,
} as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

/** What has become of a message in flight on the present connection. */
const Sent = {
  /** Sent on a connection before, and not on this one. */
  No: 0,
  /** Sent on this one. */
  Yes: 1,
  /** Claimed for this one: it has its packet id, and is sent once that is committed. */
  Claimed: 2,
  /** Claimed for a connection before, which ended first: never sent. */
  Never: 3,
} as const;

/** Where a message came from when it was not the session's own cursor: it is needed to send it again, or to somebody else. */
export type Origin = RetainedMessage | SharedGroup | FormerGroup | Subscription;

const PACKET_IDS = 65_536;
const INITIAL_CAPACITY = 16;

export class Inflight {
  #capacity = INITIAL_CAPACITY;
  /** Packet id by slot, 0 where free. */
  #ids = new Uint16Array(INITIAL_CAPACITY);
  #phases = new Uint8Array(INITIAL_CAPACITY);
  /** `Sent`: whether the last packet of the exchange was sent on the present connection. */
  #sent = new Uint8Array(INITIAL_CAPACITY);
  #offsets = new Float64Array(INITIAL_CAPACITY);
  /** Counts what was ever sent: packet ids start over, this does not. */
  #sequences = new Float64Array(INITIAL_CAPACITY);
  /** The high watermark that must be reached before the next packet of the exchange may be sent. */
  #readyAt = new Float64Array(INITIAL_CAPACITY);
  #lastSequence = 0;
  /** Messages up to this sequence are in a record. */
  #recordedSequence = 0;
  /** Packet ids of those that are over since the last record. */
  #ended: number[] = [];
  /** Made when the first message with an origin comes. */
  #origins: (Origin | undefined)[] | undefined = undefined;
  #size = 0;
  #nextId = 1;

  get size(): number {
    return this.#size;
  }

  /** Notes a message as sent, and answers the packet id for it. The caller keeps the size within the client's Receive Maximum. */
  add(offset: number, phase: Phase, origin: Origin | undefined): number {
    assert(this.#size < PACKET_IDS - 1, 'fewer than 65,535 messages in flight');
    if (this.#size === this.#capacity) this.#grow();
    let id = this.#nextId;
    while (id === 0 || this.#ids[id & (this.#capacity - 1)] !== 0) id = (id + 1) % PACKET_IDS;
    this.#put(id, offset, phase, Sent.Yes, origin);
    return id;
  }

  /** The same, for a message that is sent later, once `readyAt` says so. */
  claim(offset: number, phase: Phase, origin: Origin | undefined): number {
    const id = this.add(offset, phase, origin);
    const slot = this.slotOf(id);
    this.#sent[slot] = Sent.Claimed;
    this.#readyAt[slot] = Number.POSITIVE_INFINITY;
    return id;
  }

  /**
   * Puts back what a record says was in flight; what had the packet id before is over.
   * @param isUnsent it only got its packet id
   */
  restore(id: number, offset: number, phase: Phase, origin: Origin | undefined, isUnsent: boolean): void {
    // One slot for each id: an id in the way is that of an exchange that a record not kept has ended.
    while (this.#ids[id & (this.#capacity - 1)] !== 0 && this.slotOf(id) === -1) this.#grow();
    const slot = this.slotOf(id);
    if (slot !== -1) this.forgetAt(slot);
    this.#put(id, offset, phase, isUnsent ? Sent.Never : Sent.No, origin);
    this.#recordedSequence = this.#lastSequence;
  }

  #put(id: number, offset: number, phase: Phase, sent: number, origin: Origin | undefined): void {
    const slot = id & (this.#capacity - 1);
    this.#nextId = (id + 1) % PACKET_IDS;
    this.#ids[slot] = id;
    this.#phases[slot] = phase;
    this.#sent[slot] = sent;
    this.#offsets[slot] = offset;
    this.#sequences[slot] = ++this.#lastSequence;
    this.#readyAt[slot] = 0;
    if (origin !== undefined) {
      this.#origins ??= [];
      this.#origins[slot] = origin;
    }
    this.#size++;
  }

  clear(): void {
    for (let slot = 0; slot < this.#capacity; slot++) if (this.#ids[slot] !== 0) this.forgetAt(slot);
  }

  /** The slot of a packet id, or -1 when nothing is in flight under it. */
  slotOf(packetId: number): number {
    const slot = packetId & (this.#capacity - 1);
    return this.#ids[slot] === packetId && packetId !== 0 ? slot : -1;
  }

  phaseAt(slot: number): Phase {
    return this.#phases[slot] as Phase;
  }

  setPhaseAt(slot: number, phase: Phase): void {
    this.#phases[slot] = phase;
  }

  offsetAt(slot: number): number {
    return this.#offsets[slot]!;
  }

  originAt(slot: number): Origin | undefined {
    return this.#origins?.[slot];
  }

  setOriginAt(slot: number, origin: Origin): void {
    this.#origins ??= [];
    this.#origins[slot] = origin;
  }

  wasSentAt(slot: number): boolean {
    return this.#sent[slot] === Sent.Yes;
  }

  /** It counts against the window of the present connection: it was sent, or will be. */
  isCountedAt(slot: number): boolean {
    const sent = this.#sent[slot];
    return sent === Sent.Yes || sent === Sent.Claimed;
  }

  /** It may have reached the client already. */
  mayBeKnownAt(slot: number): boolean {
    const sent = this.#sent[slot];
    return sent === Sent.Yes || sent === Sent.No;
  }

  markSentAt(slot: number): void {
    this.#sent[slot] = Sent.Yes;
  }

  /** A process that is no more may have sent everything. */
  markAllKnown(): void {
    this.#sent.fill(Sent.No);
  }

  /** A new connection: everything has to be sent again. */
  markAllUnsent(): void {
    for (let slot = 0; slot < this.#capacity; slot++) {
      const sent = this.#sent[slot];
      this.#sent[slot] = sent === Sent.Claimed || sent === Sent.Never ? Sent.Never : Sent.No;
    }
  }

  readyAt(slot: number): number {
    return this.#readyAt[slot]!;
  }

  /** What was claimed since the last call is in a record that ends at `offset`. */
  markRecorded(offset: number): void {
    for (let slot = 0; slot < this.#capacity; slot++) {
      if (this.#readyAt[slot] === Number.POSITIVE_INFINITY) this.#readyAt[slot] = offset;
    }
    this.#recordedSequence = this.#lastSequence;
  }

  /** No record tells of it yet. */
  isUnrecordedAt(slot: number): boolean {
    return this.#sequences[slot]! > this.#recordedSequence;
  }

  /** Packet ids of what no record tells of yet, in the order in which they were given. */
  unrecordedIds(): number[] {
    return this.#idsAfter(this.#recordedSequence);
  }

  /** Packet ids whose end no record tells of yet: those since the last call. */
  takeEnded(): number[] {
    const ended = this.#ended;
    if (ended.length > 0) this.#ended = [];
    return ended;
  }

  /** The exchange is over. */
  removeAt(slot: number): void {
    if (!this.isUnrecordedAt(slot)) this.#ended.push(this.#ids[slot]!);
    this.forgetAt(slot);
  }

  /** The same where a record says so. */
  forgetAt(slot: number): void {
    this.#ids[slot] = 0;
    if (this.#origins !== undefined) this.#origins[slot] = undefined;
    this.#size--;
  }

  /** Packet ids in the order in which they were first sent [MQTT-4.6.0-1]. */
  idsInOrder(): number[] {
    return this.#idsAfter(0);
  }

  #idsAfter(sequence: number): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.#capacity; slot++) {
      if (this.#ids[slot] !== 0 && this.#sequences[slot]! > sequence) slots.push(slot);
    }
    slots.sort((a, b) => this.#sequences[a]! - this.#sequences[b]!);
    return slots.map((slot) => this.#ids[slot]!);
  }

  /** The lowest log offset that may have to be read again, or Infinity. */
  lowestOffset(): number {
    let lowest = Number.POSITIVE_INFINITY;
    for (let slot = 0; slot < this.#capacity; slot++) {
      if (this.#ids[slot] !== 0 && this.#phases[slot] !== Phase.Pubcomp && this.#offsets[slot]! < lowest) {
        lowest = this.#offsets[slot]!;
      }
    }
    return lowest;
  }

  #grow(): void {
    const ids = this.#ids;
    const phases = this.#phases;
    const sent = this.#sent;
    const offsets = this.#offsets;
    const sequences = this.#sequences;
    const readyAt = this.#readyAt;
    const origins = this.#origins;
    this.#capacity *= 2;
    this.#ids = new Uint16Array(this.#capacity);
    this.#phases = new Uint8Array(this.#capacity);
    this.#sent = new Uint8Array(this.#capacity);
    this.#offsets = new Float64Array(this.#capacity);
    this.#sequences = new Float64Array(this.#capacity);
    this.#readyAt = new Float64Array(this.#capacity);
    this.#origins = origins === undefined ? undefined : [];
    for (let slot = 0; slot < ids.length; slot++) {
      const id = ids[slot]!;
      if (id === 0) continue;
      // Two ids that differ in the old slot differ in the new one, so nothing collides.
      const to = id & (this.#capacity - 1);
      this.#ids[to] = id;
      this.#phases[to] = phases[slot]!;
      this.#sent[to] = sent[slot]!;
      this.#offsets[to] = offsets[slot]!;
      this.#sequences[to] = sequences[slot]!;
      this.#readyAt[to] = readyAt[slot]!;
      if (this.#origins !== undefined) this.#origins[to] = origins![slot];
    }
  }
}
