// The messages sent to one client at QoS 1 or 2 and not acknowledged yet: packet id, log offset, and how far the exchange has come. Arrays
// indexed by the low bits of the packet id; ids are given in sequence, so a slot is almost always free when its turn comes.
import { assert } from '../core/assert.js';
import type { RetainedMessage } from './message.js';
import type { SharedGroup } from './shared-group.js';

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

/** Where a message came from when it was not the session's own cursor: it is needed to send it again, or to somebody else. */
export type Origin = RetainedMessage | SharedGroup;

const PACKET_IDS = 65_536;
const INITIAL_CAPACITY = 16;

export class Inflight {
  #capacity = INITIAL_CAPACITY;
  /** Packet id by slot, 0 where free. */
  #ids = new Uint16Array(INITIAL_CAPACITY);
  #phases = new Uint8Array(INITIAL_CAPACITY);
  /** 1 where the last packet of the exchange was sent on the present connection. */
  #sent = new Uint8Array(INITIAL_CAPACITY);
  #offsets = new Float64Array(INITIAL_CAPACITY);
  /** Counts what was ever sent: packet ids start over, this does not. */
  #sequences = new Float64Array(INITIAL_CAPACITY);
  #lastSequence = 0;
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
    this.#nextId = (id + 1) % PACKET_IDS;
    const slot = id & (this.#capacity - 1);
    this.#ids[slot] = id;
    this.#phases[slot] = phase;
    this.#sent[slot] = 1;
    this.#offsets[slot] = offset;
    this.#sequences[slot] = ++this.#lastSequence;
    if (origin !== undefined) {
      this.#origins ??= [];
      this.#origins[slot] = origin;
    }
    this.#size++;
    return id;
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

  wasSentAt(slot: number): boolean {
    return this.#sent[slot] === 1;
  }

  markSentAt(slot: number): void {
    this.#sent[slot] = 1;
  }

  /** A new connection: everything has to be sent again. */
  markAllUnsent(): void {
    this.#sent.fill(0);
  }

  removeAt(slot: number): void {
    this.#ids[slot] = 0;
    if (this.#origins !== undefined) this.#origins[slot] = undefined;
    this.#size--;
  }

  /** Packet ids in the order in which they were first sent [MQTT-4.6.0-1]. */
  idsInOrder(): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.#capacity; slot++) if (this.#ids[slot] !== 0) slots.push(slot);
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
    const origins = this.#origins;
    this.#capacity *= 2;
    this.#ids = new Uint16Array(this.#capacity);
    this.#phases = new Uint8Array(this.#capacity);
    this.#sent = new Uint8Array(this.#capacity);
    this.#offsets = new Float64Array(this.#capacity);
    this.#sequences = new Float64Array(this.#capacity);
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
      if (this.#origins !== undefined) this.#origins[to] = origins![slot];
    }
  }
}
