// Owns one iterator over messages: what it has buffered, who waits for the next one, and how it ends.
// Invariant: a message is handed out at most once by one subscription, in the order of arrival.
import type { Delivery } from './delivery.js';
import type { GomqClientError } from './errors.js';
import type { Qos } from './options.js';
import type { MessageProperties } from './properties.js';

/** A message that arrived. */
export interface ReceivedMessage {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: Qos;
  /** True for a message the broker had kept and sent because the subscription began. */
  readonly retained: boolean;
  /** The broker sent it before and saw no acknowledgement; it may have been processed, or not. */
  readonly duplicate: boolean;
  readonly properties: MessageProperties;
  /** The payload as UTF-8. */
  text(): string;
  /** The payload parsed as JSON. Throws SyntaxError. */
  json(): unknown;
  /**
   * Says that the message is processed: only then does the broker hear so. More than once is once. Acknowledgements
   * leave in the order in which the messages arrived, so one message never acknowledged holds back the others.
   */
  ack(): void;
}

export interface SubscriptionOwner {
  /** A message of this subscription is processed. */
  acknowledge(subscription: Subscription, delivery: Delivery): void;
  /** The subscription has room again. */
  wake(): void;
  /** The loop is over; `left` is what it has not acknowledged, in the order of arrival. */
  leave(subscription: Subscription, left: Delivery[]): Promise<void>;
}

export class Message implements ReceivedMessage {
  readonly topic: string;
  readonly payload: Buffer;
  readonly qos: Qos;
  readonly retained: boolean;
  readonly duplicate: boolean;
  readonly properties: MessageProperties;
  readonly #onAck: () => void;

  constructor(delivery: Delivery, onAck: () => void) {
    this.topic = delivery.topic;
    this.payload = delivery.payload;
    this.qos = delivery.qos;
    this.retained = delivery.retained;
    this.duplicate = delivery.duplicate;
    this.properties = delivery.properties;
    this.#onAck = onAck;
  }

  text(): string {
    return this.payload.toString('utf8');
  }

  json(): unknown {
    return JSON.parse(this.text());
  }

  ack(): void {
    this.#onAck();
  }
}

interface Waiter {
  resolve: (result: IteratorResult<ReceivedMessage, undefined>) => void;
  reject: (error: GomqClientError) => void;
}

export interface SubscriptionSettings {
  filters: readonly string[];
  auto: boolean;
  /** QoS 0 messages kept while the loop is busy. */
  bufferMessages: number;
}

/**
 * The messages of one subscribe() call, for one `for await` loop. Leaving the loop unsubscribes; closing the consumer ends it
 * without unsubscribing.
 */
export class Subscription implements AsyncIterable<ReceivedMessage>, AsyncDisposable {
  readonly filters: readonly string[];
  readonly #auto: boolean;
  readonly #bufferMessages: number;
  readonly #owner: SubscriptionOwner;
  readonly #ready: Promise<void>;
  /** Taken by next(), oldest first. A queue with a head index: shift() of a long array costs its length. */
  #queue: Delivery[] = [];
  #head = 0;
  #queuedQos0 = 0;
  readonly #waiters: Waiter[] = [];
  /** Of QoS 1 and 2: in the queue, or handed out and not acknowledged by this loop. */
  readonly #unacknowledged = new Set<Delivery>();
  #previous: Delivery | undefined;
  #state: 'open' | 'stopped' | 'left' = 'open';
  #error: GomqClientError | undefined;
  #left: Promise<void> | undefined;

  constructor(settings: SubscriptionSettings, ready: Promise<void>, owner: SubscriptionOwner) {
    this.filters = settings.filters;
    this.#auto = settings.auto;
    this.#bufferMessages = settings.bufferMessages;
    this.#ready = ready;
    this.#owner = owner;
    // Whoever does not ask hears of a refusal in the loop.
    ready.catch(() => undefined);
  }

  /** Resolves when the broker has granted every filter; rejects with SUBSCRIBE_REFUSED and the errors of connecting. */
  ready(): Promise<void> {
    return this.#ready;
  }

  /** Handed to the application and not acknowledged by it yet. */
  get processing(): number {
    return this.#unacknowledged.size - (this.#queue.length - this.#head - this.#queuedQos0);
  }

  get full(): boolean {
    return this.#waiters.length === 0 && this.#queuedQos0 >= this.#bufferMessages;
  }

  next(): Promise<IteratorResult<ReceivedMessage, undefined>> {
    if (this.#auto && this.#previous !== undefined) {
      this.#acknowledge(this.#previous);
      this.#previous = undefined;
    }
    const error = this.#error;
    if (error !== undefined) {
      this.#error = undefined;
      return Promise.reject(error);
    }
    const delivery = this.#state === 'open' ? this.#queue[this.#head] : undefined;
    if (delivery !== undefined) {
      this.#head += 1;
      if (this.#head > 1_024 && this.#head * 2 > this.#queue.length) {
        this.#queue = this.#queue.slice(this.#head);
        this.#head = 0;
      }
      if (delivery.qos === 0) {
        this.#queuedQos0 -= 1;
        this.#owner.wake();
      }
      return Promise.resolve({ done: false, value: this.#handOut(delivery) });
    }
    if (this.#state !== 'open') {
      return Promise.resolve({ done: true, value: undefined });
    }
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** Leaves: unsubscribes, and gives back what was not acknowledged. `break` in a `for await` loop calls this. */
  async return(): Promise<IteratorResult<ReceivedMessage, undefined>> {
    await this.#leave();
    return { done: true, value: undefined };
  }

  /** Leaves: the same as return(). */
  async close(): Promise<void> {
    await this.#leave();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#leave();
  }

  /** For the consumer: a message arrived. */
  push(delivery: Delivery): void {
    if (delivery.qos > 0) {
      this.#unacknowledged.add(delivery);
    }
    const waiter = this.#waiters.shift();
    if (waiter) {
      waiter.resolve({ done: false, value: this.#handOut(delivery) });
      return;
    }
    if (delivery.qos === 0) {
      this.#queuedQos0 += 1;
    }
    this.#queue.push(delivery);
  }

  /** For the consumer: no message is handed out any more. Returns those of QoS 1 and 2 that never were. */
  stop(error?: GomqClientError): Delivery[] {
    if (this.#state !== 'open') {
      return [];
    }
    this.#state = 'stopped';
    this.#error = error;
    const queued = this.#queue.slice(this.#head).filter((delivery) => delivery.qos > 0);
    for (const delivery of queued) {
      this.#unacknowledged.delete(delivery);
    }
    this.#queue = [];
    this.#head = 0;
    this.#queuedQos0 = 0;
    for (const waiter of this.#waiters.splice(0)) {
      if (this.#error !== undefined) {
        waiter.reject(this.#error);
        this.#error = undefined;
      } else {
        waiter.resolve({ done: true, value: undefined });
      }
    }
    return queued;
  }

  #leave(): Promise<void> {
    if (this.#left === undefined) {
      this.#previous = undefined;
      const queued = this.stop();
      const left = [...this.#unacknowledged, ...queued];
      this.#unacknowledged.clear();
      this.#state = 'left';
      this.#left = this.#owner.leave(this, left);
    }
    return this.#left;
  }

  #handOut(delivery: Delivery): Message {
    if (this.#auto && delivery.qos > 0) {
      this.#previous = delivery;
    }
    return new Message(delivery, () => this.#acknowledge(delivery));
  }

  #acknowledge(delivery: Delivery): void {
    if (delivery.qos > 0) {
      this.#unacknowledged.delete(delivery);
      this.#owner.acknowledge(this, delivery);
    }
  }
}
