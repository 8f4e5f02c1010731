// Owns subscribing: which filters the broker should know, which loop gets a message, and when reading has to pause.
// Invariants: one filter is one subscription at the broker, however many loops use it; nothing is buffered beyond the window
// (QoS 1 and 2) and bufferMessages (QoS 0); the first message that does not fit stops the reading, not the process.
import type { IPublishPacket, MqttClient } from 'mqtt';
import { onAbort } from './abort.js';
import type { BrokerLimits, Packet } from './connection.js';
import { reasonText } from './connection-errors.js';
import { Acknowledgements, type Delivery } from './delivery.js';
import { GomqClientError } from './errors.js';
import { GOODBYE_MS, Link } from './link.js';
import {
  assertKnownKeys,
  assertQos,
  type ConnectionOptions,
  integerOption,
  type Qos,
  resolveConnectionOptions,
} from './options.js';
import type { CloseOptions } from './producer.js';
import { asBuffer, fromPacketProperties } from './properties.js';
import { Subscription } from './subscription.js';
import { assertTopicFilter, matchingPart, subscriptionIdentifier, topicMatches } from './topics.js';

export interface ConsumerOptions extends ConnectionOptions {
  /** Messages of QoS 1 and 2 that may be unacknowledged at once: MQTT's Receive Maximum. */
  receiveMaximum?: number;
  /** QoS 0 messages that one subscription keeps while its loop is busy. */
  bufferMessages?: number;
}

export interface SubscribeOptions {
  /** The most the broker may use for these filters; 1. */
  qos?: Qos;
  /** Acknowledge a message when the loop asks for the next one. */
  auto?: boolean;
  /** Not what this consumer's own client id published (MQTT 5). */
  noLocal?: boolean;
  /** Leave the retain flag as the publisher set it (MQTT 5). */
  retainAsPublished?: boolean;
  /** Which retained messages the subscription begins with (MQTT 5): all, only if the subscription is new, none. */
  retained?: 'always' | 'if-new' | 'never';
  /** Aborting unsubscribes and rejects the loop with ABORTED. */
  signal?: AbortSignal;
}

interface SubscriptionWish {
  qos: Qos;
  noLocal: boolean;
  retainAsPublished: boolean;
  retainHandling: 0 | 1 | 2;
}

interface Filter {
  readonly text: string;
  readonly matching: string;
  readonly identifier: number;
  wish: SubscriptionWish;
  /** The session of the present connection has the subscription. */
  granted: boolean;
  readonly subscriptions: Set<Subscription>;
  /** Those that wait for SUBACK. */
  readonly waiting: Map<Subscription, { resolve: () => void; reject: (error: GomqClientError) => void }>;
}

interface Held {
  accept: () => boolean;
  done: () => void;
  timer: NodeJS.Timeout | undefined;
}

const OWN_KEYS = ['receiveMaximum', 'bufferMessages'] as const;
const SUBSCRIBE_KEYS = ['qos', 'auto', 'noLocal', 'retainAsPublished', 'retained', 'signal'] as const;
const RETAIN_HANDLING = { always: 0, 'if-new': 1, never: 2 } as const;
/** A QoS 0 message waits this long for room before it is dropped; all others wait behind it. */
const QOS_0_PATIENCE_MS = 1_000;

/** Receives messages. Made by `createConsumer`; connects at the first subscribe() or connect(). */
export class Consumer implements AsyncDisposable {
  readonly #link: Link;
  readonly #acknowledgements: Acknowledgements;
  readonly #bufferMessages: number;
  readonly #filters = new Map<string, Filter>();
  /** Subscriptions of the session that no loop wants, to be ended when connected. */
  readonly #unwanted = new Set<string>();
  readonly #subscriptions = new Set<Subscription>();
  /** Whose buffer was full for longer than the patience: their QoS 0 messages are dropped until there is room. */
  readonly #overflowing = new Set<Subscription>();
  #held: Held | undefined;
  #identifiers = false;
  #discarded = 0;
  #closing: Promise<void> | undefined;
  #onProcessed: (() => void) | undefined;

  constructor(options: ConsumerOptions) {
    const receiveMaximum = integerOption('receiveMaximum', options?.receiveMaximum, 100, 1, 65_535);
    const resolved = resolveConnectionOptions(options, OWN_KEYS, receiveMaximum);
    this.#bufferMessages = integerOption('bufferMessages', options.bufferMessages, 1_000, 1, 10_000_000);
    this.#acknowledgements = new Acknowledgements(receiveMaximum, {
      write: (kind, packetId) => this.#link.writeAck(kind, packetId),
      discarded: (delivery) => this.#discard(delivery, 'not claimed'),
    });
    // The session is taken over from an earlier process: that is what a fixed client id is for. See Link on producers.
    this.#link = new Link(resolved, false, undefined, {
      // A consumer that hears nothing may be one for whom there is nothing: the keep alive tells.
      awaitsAnswer: () => false,
      onConnack: (sessionPresent, limits) => this.#onConnack(sessionPresent, limits),
      onUp: (client) => this.#onUp(client),
      onPacket: (packet) => this.#onPacket(packet),
      onPublish: (packet, qos, done) => this.#onPublish(packet, qos, done),
      onDown: () => this.#onDown(),
      onFailed: (error) => this.#onFailed(error),
    });
  }

  /** The id of the session at the broker. */
  get clientId(): string {
    return this.#link.options.clientId;
  }

  get connected(): boolean {
    return this.#link.client !== undefined;
  }

  /** Messages dropped: QoS 0 that found the buffer full, QoS 1 and 2 that no subscription of this consumer wanted. */
  get discarded(): number {
    return this.#discarded;
  }

  /** Connects ahead of the first subscription. Rejects once every broker was tried in vain; trying goes on all the same. */
  connect(): Promise<void> {
    return this.#closing ? Promise.reject(closedError()) : this.#link.connected();
  }

  /**
   * Subscribes, and returns the messages for one `for await` loop. Leaving the loop unsubscribes. The loop throws a
   * GomqClientError where the broker refuses (SUBSCRIBE_REFUSED) or no broker will have this client.
   * Throws FILTER_INVALID, OPTIONS_INVALID, UNSUPPORTED and CLOSED at once.
   */
  subscribe(filters: string | readonly string[], options: SubscribeOptions = {}): Subscription {
    if (this.#closing) {
      throw closedError();
    }
    assertKnownKeys('subscribe()', options, SUBSCRIBE_KEYS);
    const texts = [...new Set(typeof filters === 'string' ? [filters] : filters)];
    if (texts.length === 0) {
      throw new GomqClientError('FILTER_INVALID', 'subscribe() needs at least one topic filter.');
    }
    const wish = this.#readWish(options);
    for (const text of texts) {
      assertTopicFilter(text);
      if (wish.noLocal && text.startsWith('$share/')) {
        // [MQTT-3.8.3-4] v5
        throw new GomqClientError('OPTIONS_INVALID', `noLocal does not go with the shared filter ${text}.`);
      }
    }
    if (options.signal?.aborted) {
      throw new GomqClientError('ABORTED', 'The subscription was aborted.', { cause: options.signal.reason });
    }
    const waits: Promise<void>[] = [];
    const settlers: { resolve: () => void; reject: (error: GomqClientError) => void }[] = [];
    for (const _text of texts) {
      waits.push(new Promise((resolve, reject) => settlers.push({ resolve, reject })));
    }
    const subscription = new Subscription(
      { filters: texts, auto: options.auto ?? false, bufferMessages: this.#bufferMessages },
      Promise.all(waits).then(() => undefined),
      {
        acknowledge: (holder, delivery) => this.#acknowledge(holder, delivery),
        wake: () => this.#wake(),
        leave: (leaving, left) => {
          unlisten();
          return this.#leave(leaving, left);
        },
      },
    );
    const unlisten = onAbort(options.signal, () => {
      const error = new GomqClientError('ABORTED', 'The subscription was aborted.', {
        cause: options.signal?.reason,
      });
      this.#park(subscription, subscription.stop(error));
      void subscription.close();
    });
    this.#subscriptions.add(subscription);
    for (const [index, text] of texts.entries()) {
      this.#want(text, wish, subscription, settlers[index]!);
    }
    for (const delivery of this.#acknowledgements.claim((topic) => this.#wants(subscription, topic))) {
      delivery.holders.add(subscription);
      subscription.push(delivery);
    }
    this.#link.start();
    return subscription;
  }

  /**
   * Ends the loops without unsubscribing, waits until the messages in the application's hands are acknowledged, and says
   * goodbye. With a client id, the session and what was not acknowledged stay at the broker for the next consumer.
   */
  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(integerOption('timeoutMs', options.timeoutMs, 10_000, 0, 2_147_483_647));
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    for (const subscription of this.#subscriptions) {
      this.#park(subscription, subscription.stop());
    }
    if (this.#processing > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        this.#onProcessed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    await this.#link.stop(GOODBYE_MS);
    const error = new GomqClientError(
      'CLOSED',
      'The consumer was closed before the broker had granted this.',
    );
    for (const filter of this.#filters.values()) {
      this.#settle(filter, error);
    }
    this.#filters.clear();
    this.#subscriptions.clear();
    this.#release();
  }

  get #processing(): number {
    let processing = 0;
    for (const subscription of this.#subscriptions) {
      processing += subscription.processing;
    }
    return processing;
  }

  #readWish(options: SubscribeOptions): SubscriptionWish {
    const qos = options.qos ?? 1;
    assertQos(qos);
    const { noLocal, retainAsPublished, retained } = options;
    if (
      this.#link.options.protocolVersion < 5 &&
      (noLocal !== undefined || retainAsPublished !== undefined || retained !== undefined)
    ) {
      throw new GomqClientError('UNSUPPORTED', 'noLocal, retainAsPublished and retained need MQTT 5.');
    }
    const retainHandling = RETAIN_HANDLING[retained ?? 'always'];
    if (retainHandling === undefined) {
      throw new GomqClientError('OPTIONS_INVALID', `retained must be "always", "if-new" or "never".`);
    }
    return { qos, noLocal: noLocal ?? false, retainAsPublished: retainAsPublished ?? false, retainHandling };
  }

  #want(
    text: string,
    wish: SubscriptionWish,
    subscription: Subscription,
    settler: { resolve: () => void; reject: (error: GomqClientError) => void },
  ): void {
    this.#unwanted.delete(text);
    let filter = this.#filters.get(text);
    if (filter === undefined) {
      filter = {
        text,
        matching: matchingPart(text),
        identifier: subscriptionIdentifier(text),
        wish,
        granted: false,
        subscriptions: new Set(),
        waiting: new Map(),
      };
      this.#filters.set(text, filter);
    } else {
      // The broker has one subscription per filter, so the latest options hold for all loops over it, the highest QoS excepted.
      filter.wish = { ...wish, qos: Math.max(wish.qos, filter.wish.qos) as Qos };
    }
    filter.subscriptions.add(subscription);
    filter.waiting.set(subscription, settler);
    const { client } = this.#link;
    if (client) {
      this.#request(client, filter);
    }
  }

  /** Sends SUBSCRIBE: one for each filter, because a subscription identifier belongs to a packet. */
  #request(client: MqttClient, filter: Filter): void {
    const { qos, noLocal, retainAsPublished, retainHandling } = filter.wish;
    const version5 = this.#link.options.protocolVersion === 5;
    client.subscribe(
      [filter.text],
      {
        qos,
        ...(version5 ? { nl: noLocal, rap: retainAsPublished, rh: retainHandling } : {}),
        ...(version5 && this.#identifiers
          ? { properties: { subscriptionIdentifier: filter.identifier } }
          : {}),
      },
      (error, _granted, suback) => {
        if (this.#link.client !== client || this.#filters.get(filter.text) !== filter) {
          // The connection ended, and the next one asks again; or no loop wants the filter any more.
          return;
        }
        const code = suback?.granted?.[0] as number | undefined;
        if (error === null || error === undefined) {
          filter.granted = true;
          this.#settle(filter, undefined);
        } else if (code !== undefined) {
          this.#refused(filter, code, suback?.properties?.reasonString);
        }
      },
    );
  }

  #refused(filter: Filter, code: number, reasonString: string | undefined): void {
    const error = new GomqClientError(
      'SUBSCRIBE_REFUSED',
      `The broker refused ${filter.text}, ${reasonText(code, reasonString)}.`,
      { reasonCode: code, retriable: code === 0x97 || code === 0x83 },
    );
    for (const subscription of [...filter.subscriptions]) {
      this.#park(subscription, subscription.stop(error));
      this.#settle(filter, error);
      void subscription.close();
    }
  }

  #settle(filter: Filter, error: GomqClientError | undefined): void {
    const waiting = [...filter.waiting.values()];
    filter.waiting.clear();
    for (const { resolve, reject } of waiting) {
      if (error === undefined) {
        resolve();
      } else {
        reject(error);
      }
    }
  }

  /** A loop was left: filters that nobody else uses are unsubscribed, and what it did not acknowledge is parked. */
  async #leave(subscription: Subscription, left: Delivery[]): Promise<void> {
    this.#subscriptions.delete(subscription);
    this.#overflowing.delete(subscription);
    this.#park(subscription, left);
    const { client } = this.#link;
    const unsubscribes: Promise<void>[] = [];
    const error = new GomqClientError(
      'CLOSED',
      'The subscription was closed before the broker had granted it.',
    );
    for (const text of subscription.filters) {
      const filter = this.#filters.get(text);
      if (filter === undefined) {
        continue;
      }
      filter.waiting.get(subscription)?.reject(error);
      filter.waiting.delete(subscription);
      filter.subscriptions.delete(subscription);
      if (filter.subscriptions.size > 0) {
        continue;
      }
      this.#filters.delete(text);
      this.#unwanted.add(text);
      if (client) {
        unsubscribes.push(this.#unsubscribe(client, text));
      }
    }
    this.#wake();
    await Promise.all(unsubscribes);
  }

  /** Resolves with UNSUBACK or the end of the connection; then the next connection unsubscribes. */
  #unsubscribe(client: MqttClient, text: string): Promise<void> {
    return new Promise((resolve) => {
      client.unsubscribe([text], (error) => {
        if (!error) {
          this.#unwanted.delete(text);
        }
        resolve();
      });
    });
  }

  #onConnack(sessionPresent: boolean, limits: BrokerLimits): void {
    this.#identifiers = limits.subscriptionIdentifiers;
    this.#acknowledgements.connected(sessionPresent);
    if (!sessionPresent) {
      this.#unwanted.clear();
      for (const filter of this.#filters.values()) {
        filter.granted = false;
      }
    }
  }

  #onUp(client: MqttClient): void {
    for (const text of this.#unwanted) {
      void this.#unsubscribe(client, text);
    }
    for (const filter of this.#filters.values()) {
      // A resumed session knows what was granted; to ask again would bring all retained messages again.
      if (!filter.granted || filter.waiting.size > 0) {
        this.#request(client, filter);
      }
    }
  }

  #onDown(): void {
    this.#acknowledgements.disconnected();
    this.#release();
  }

  #onFailed(error: GomqClientError): void {
    for (const subscription of [...this.#subscriptions]) {
      this.#park(subscription, subscription.stop(error));
      for (const text of subscription.filters) {
        const filter = this.#filters.get(text);
        filter?.waiting.get(subscription)?.reject(error);
        filter?.waiting.delete(subscription);
        filter?.subscriptions.delete(subscription);
        if (filter?.subscriptions.size === 0) {
          // Nothing is unsubscribed: the session, if there is one, still belongs to the application.
          this.#filters.delete(text);
        }
      }
      this.#subscriptions.delete(subscription);
    }
    this.#onProcessed?.();
  }

  #onPacket(packet: Packet): void {
    if (packet.cmd === 'pubrel') {
      this.#acknowledgements.released(packet.messageId ?? 0);
    }
  }

  #onPublish(packet: IPublishPacket, qos: Qos, done: () => void): void {
    if (this.#closing) {
      // Not acknowledged, so the broker keeps it for the next consumer.
      done();
      return;
    }
    const topic = packet.topic;
    const payload =
      typeof packet.payload === 'string' ? Buffer.from(packet.payload) : asBuffer(packet.payload);
    const packetId = packet.messageId ?? 0;
    if (qos > 0 && this.#acknowledgements.isKnown(packetId, qos === 2 ? 2 : 1, packet.dup, topic, payload)) {
      done();
      return;
    }
    const delivery: Delivery = {
      packetId,
      qos,
      topic,
      payload,
      retained: packet.retain,
      duplicate: packet.dup,
      properties: fromPacketProperties(packet.properties),
      holders: new Set(),
      processed: false,
      parked: false,
      attached: false,
    };
    const identifiers = [packet.properties?.subscriptionIdentifier ?? []].flat();
    const accept = (): boolean =>
      qos === 0 ? this.#acceptQos0(delivery, identifiers) : this.#acceptAcknowledged(delivery, identifiers);
    if (accept()) {
      done();
      return;
    }
    const timer =
      qos === 0
        ? setTimeout(() => {
            for (const subscription of this.#route(topic, identifiers)) {
              if (subscription.full) {
                this.#overflowing.add(subscription);
              }
            }
            this.#wake();
          }, QOS_0_PATIENCE_MS)
        : undefined;
    this.#held = { accept, done, timer };
  }

  #acceptQos0(delivery: Delivery, identifiers: number[]): boolean {
    const subscriptions = this.#route(delivery.topic, identifiers);
    for (const subscription of subscriptions) {
      if (!subscription.full) {
        this.#overflowing.delete(subscription);
      } else if (!this.#overflowing.has(subscription)) {
        return false;
      }
    }
    for (const subscription of subscriptions) {
      if (this.#overflowing.has(subscription)) {
        this.#discard(delivery, 'buffer full');
      } else {
        subscription.push(delivery);
      }
    }
    return true;
  }

  #acceptAcknowledged(delivery: Delivery, identifiers: number[]): boolean {
    if (this.#acknowledgements.full) {
      return false;
    }
    this.#acknowledgements.add(delivery);
    const subscriptions = this.#route(delivery.topic, identifiers);
    if (subscriptions.size === 0) {
      // A resumed session may send before the application has subscribed.
      this.#acknowledgements.park(delivery, true);
    }
    for (const subscription of subscriptions) {
      delivery.holders.add(subscription);
    }
    for (const subscription of subscriptions) {
      subscription.push(delivery);
    }
    return true;
  }

  /** By subscription identifier where the broker sent one that fits; otherwise by comparing the topic with the filters. */
  #route(topic: string, identifiers: number[]): Set<Subscription> {
    const named = new Set<Subscription>();
    const matching = new Set<Subscription>();
    for (const filter of this.#filters.values()) {
      if (topicMatches(filter.matching, topic)) {
        const target = identifiers.includes(filter.identifier) ? named : matching;
        for (const subscription of filter.subscriptions) {
          target.add(subscription);
        }
      }
    }
    return named.size > 0 ? named : matching;
  }

  #wants(subscription: Subscription, topic: string): boolean {
    return subscription.filters.some((text) => topicMatches(matchingPart(text), topic));
  }

  #acknowledge(subscription: Subscription, delivery: Delivery): void {
    delivery.holders.delete(subscription);
    if (delivery.holders.size === 0) {
      this.#acknowledgements.processed(delivery);
      this.#wake();
    }
    if (this.#onProcessed && this.#processing === 0) {
      this.#onProcessed();
    }
  }

  #park(subscription: Subscription, left: Delivery[]): void {
    for (const delivery of left) {
      delivery.holders.delete(subscription);
      if (delivery.holders.size === 0) {
        this.#acknowledgements.park(delivery, this.#closing === undefined);
      }
    }
  }

  #discard(delivery: Delivery, reason: 'buffer full' | 'not claimed'): void {
    this.#discarded += 1;
    this.#link.options.onEvent({ type: 'discarded', topic: delivery.topic, qos: delivery.qos, reason });
  }

  /** Reads on, if what stopped the reading fits now. */
  #wake(): void {
    if (this.#held?.accept()) {
      this.#release();
    }
  }

  #release(): void {
    const held = this.#held;
    this.#held = undefined;
    clearTimeout(held?.timer);
    held?.done();
  }
}

function closedError(): GomqClientError {
  return new GomqClientError('CLOSED', 'The consumer is closed.');
}

/** Makes a consumer. Throws OPTIONS_INVALID; connects at the first subscription. */
export function createConsumer(options: ConsumerOptions): Consumer {
  return new Consumer(options);
}
