// Owns the acknowledgement of what arrives: which message may be acknowledged now, in which order, and what a broker that sends
// again after a reconnect is told. It knows neither sockets nor iterators.
// Invariants: [MQTT-4.6.0-2] [MQTT-4.6.0-3] acknowledgements leave in the order in which their messages arrived, those of parked
// messages excepted; a message that the application did not acknowledge is not acknowledged, unless it was parked and more than
// half of the window is; a QoS 2 message is handed out once per session.
import type { Qos } from './options.js';
import type { MessageProperties } from './properties.js';

/** One arrived message, whatever the number of loops that get it. */
export interface Delivery {
  readonly packetId: number;
  readonly qos: Qos;
  readonly topic: string;
  readonly payload: Buffer;
  readonly retained: boolean;
  readonly duplicate: boolean;
  readonly properties: MessageProperties;
  /** The subscriptions that have not acknowledged it yet. */
  readonly holders: Set<object>;
  /** The application is done with it. */
  processed: boolean;
  /** No loop has it: it waits, unacknowledged, for a subscription that wants it. */
  parked: boolean;
  /** Arrived, or arrived again, on the present connection, which waits for the acknowledgement. */
  attached: boolean;
}

export interface AcknowledgementsOwner {
  write(kind: 'puback' | 'pubrec', packetId: number): void;
  /** A message that no loop wanted was acknowledged to make room. */
  discarded(delivery: Delivery): void;
}

export class Acknowledgements {
  readonly #window: number;
  readonly #owner: AcknowledgementsOwner;
  /** On the present connection and not acknowledged to the broker, by packet id. */
  readonly #attached = new Map<number, Delivery>();
  /** From earlier connections of this session; the broker will send them again. */
  readonly #detached = new Map<number, Delivery>();
  readonly #order = { 1: new Set<Delivery>(), 2: new Set<Delivery>() };
  readonly #parked = new Set<Delivery>();
  /** QoS 2 packet ids after PUBREC and before PUBREL. */
  readonly #unreleased = new Set<number>();
  #connected = false;

  constructor(window: number, owner: AcknowledgementsOwner) {
    this.#window = window;
    this.#owner = owner;
  }

  /** As many messages wait for their acknowledgement as the broker may send. */
  get full(): boolean {
    return this.#attached.size >= this.#window;
  }

  connected(sessionPresent: boolean): void {
    this.#connected = true;
    for (const [packetId, delivery] of this.#attached) {
      delivery.attached = false;
      this.#detached.delete(packetId);
      this.#detached.set(packetId, delivery);
    }
    this.#attached.clear();
    this.#order[1].clear();
    this.#order[2].clear();
    if (!sessionPresent) {
      this.#detached.clear();
      this.#parked.clear();
      this.#unreleased.clear();
    }
    for (const [packetId, delivery] of this.#detached) {
      if (this.#detached.size <= 2 * this.#window) {
        break;
      }
      this.#detached.delete(packetId);
      this.#parked.delete(delivery);
    }
  }

  disconnected(): void {
    this.#connected = false;
  }

  /** Whether the broker sends what this side knows already; the right answer has been given then. */
  isKnown(packetId: number, qos: 1 | 2, duplicate: boolean, topic: string, payload: Buffer): boolean {
    if (qos === 2 && this.#unreleased.has(packetId)) {
      // [MQTT-4.3.3-10] Until PUBREL, the same packet id is the same message.
      this.#owner.write('pubrec', packetId);
      return true;
    }
    if (this.#attached.has(packetId)) {
      return true;
    }
    const earlier = this.#detached.get(packetId);
    if (earlier === undefined) {
      return false;
    }
    this.#detached.delete(packetId);
    if (duplicate && earlier.qos === qos && earlier.topic === topic && earlier.payload.equals(payload)) {
      // The application still has it, or is done with it: it is not handed out a second time.
      this.add(earlier);
      if (earlier.processed) {
        this.#flush(qos);
      }
      return true;
    }
    // The broker gave the packet id to another message, so it will not send the earlier one again.
    this.#parked.delete(earlier);
    return false;
  }

  add(delivery: Delivery): void {
    delivery.attached = true;
    this.#attached.set(delivery.packetId, delivery);
    if (!delivery.parked) {
      this.#order[delivery.qos === 2 ? 2 : 1].add(delivery);
    }
  }

  /** The application is done with the message. */
  processed(delivery: Delivery): void {
    if (delivery.processed) {
      return;
    }
    delivery.processed = true;
    delivery.parked = false;
    this.#parked.delete(delivery);
    if (!delivery.attached || !this.#connected) {
      return;
    }
    const qos = delivery.qos === 2 ? 2 : 1;
    if (this.#order[qos].has(delivery)) {
      this.#flush(qos);
    } else {
      this.#send(delivery);
    }
  }

  /** No loop has the message any more: it stays unacknowledged and does not hold back others. */
  park(delivery: Delivery, makeRoom: boolean): void {
    if (delivery.processed || delivery.parked) {
      return;
    }
    delivery.parked = true;
    this.#parked.add(delivery);
    const qos = delivery.qos === 2 ? 2 : 1;
    if (this.#order[qos].delete(delivery)) {
      this.#flush(qos);
    }
    for (const oldest of this.#parked) {
      if (!makeRoom || this.#parked.size <= this.#window / 2) {
        break;
      }
      this.#owner.discarded(oldest);
      this.processed(oldest);
    }
  }

  /** Takes out the parked messages that a new subscription wants. */
  claim(wants: (topic: string) => boolean): Delivery[] {
    const claimed = [...this.#parked].filter((delivery) => wants(delivery.topic));
    for (const delivery of claimed) {
      delivery.parked = false;
      this.#parked.delete(delivery);
    }
    return claimed;
  }

  /** PUBREL: the broker may use the packet id for another message. */
  released(packetId: number): void {
    this.#unreleased.delete(packetId);
  }

  #flush(qos: 1 | 2): void {
    if (!this.#connected) {
      return;
    }
    for (const delivery of this.#order[qos]) {
      if (!delivery.processed) {
        return;
      }
      this.#send(delivery);
    }
  }

  #send(delivery: Delivery): void {
    const { packetId, qos } = delivery;
    delivery.attached = false;
    this.#attached.delete(packetId);
    if (qos === 2) {
      this.#order[2].delete(delivery);
      this.#unreleased.add(packetId);
      this.#owner.write('pubrec', packetId);
    } else {
      this.#order[1].delete(delivery);
      this.#owner.write('puback', packetId);
    }
  }
}
