// Owns publishing: what waits, what is in flight, and what happens to it when a connection ends and the next one begins.
// Invariants: messages leave in the order of the publish() calls, and are sent again in that order; a packet id in use is not
// given to another message; nothing is kept for more messages or bytes than the options allow.
import type { MqttClient } from 'mqtt';
import { onAbort } from './abort.js';
import type { BrokerLimits, Packet } from './connection.js';
import { reasonText } from './connection-errors.js';
import { type ClientErrorCode, GomqClientError } from './errors.js';
import { GOODBYE_MS, Link } from './link.js';
import {
  assertKnownKeys,
  assertQos,
  type ConnectionOptions,
  integerOption,
  type Payload,
  payloadBytes,
  type Qos,
  resolveConnectionOptions,
} from './options.js';
import {
  type MessageProperties,
  type PacketProperties,
  publishPacketBytes,
  toPacketProperties,
} from './properties.js';
import { assertTopicName } from './topics.js';

export interface ProducerOptions extends ConnectionOptions {
  /** Where messages go that name no topic themselves. */
  topic?: string;
  /** For publishes that give none; 1. */
  qos?: Qos;
  /** Messages of QoS 1 and 2 sent and not yet acknowledged; a broker may allow fewer. */
  maxInflight?: number;
  /** Publishes that wait for room among those in flight, or for a connection; one more is rejected with BUFFER_FULL. */
  maxWaiting?: number;
  /** Payload bytes of all of them. One message is taken whatever its size. */
  maxBufferedBytes?: number;
  /** How long a publish may take, from the call to the acknowledgement; 0 for as long as it takes. */
  timeoutMs?: number;
}

export interface PublishOptions {
  /** Instead of the topic of the message or of the producer. */
  topic?: string;
  qos?: Qos;
  retain?: boolean;
  properties?: MessageProperties;
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface OutgoingMessage {
  topic?: string;
  payload: Payload;
  properties?: MessageProperties;
}

export interface PublishReceipt {
  topic: string;
  qos: Qos;
  /** 0, or 0x10 where the broker knows no subscriber for the topic (MQTT 5, QoS 1 and 2). */
  reasonCode: number;
}

export interface CloseOptions {
  /** How long to wait for what is in flight. */
  timeoutMs?: number;
}

interface Publish {
  readonly topic: string;
  readonly payload: Buffer;
  readonly qos: Qos;
  readonly retain: boolean;
  readonly properties: PacketProperties;
  packetId: number;
  /** After PUBREC the message is the broker's: only PUBREL is left to say. */
  released: boolean;
  /** Counts against the Receive Maximum of the connection now up. */
  onWire: boolean;
  /** The caller has been answered. */
  settled: boolean;
  settle: (error: GomqClientError | undefined, reasonCode: number) => void;
}

const OWN_KEYS = ['topic', 'qos', 'maxInflight', 'maxWaiting', 'maxBufferedBytes', 'timeoutMs'] as const;
const PUBLISH_KEYS = ['topic', 'qos', 'retain', 'properties', 'timeoutMs', 'signal'] as const;
const MESSAGE_KEYS = ['topic', 'payload', 'properties'] as const;
const TIMEOUT_MS_MAX = 2_147_483_647;

const WIDEST: BrokerLimits = {
  receiveMaximum: 65_535,
  maximumQos: 2,
  retainAvailable: true,
  maximumPacketBytes: 268_435_460,
  subscriptionIdentifiers: true,
};

/** Publishes messages. Made by `createProducer`; connects at the first publish() or connect(). */
export class Producer implements AsyncDisposable {
  readonly #link: Link;
  readonly #topic: string | undefined;
  readonly #qos: Qos;
  readonly #timeoutMs: number;
  readonly #maxInflight: number;
  readonly #maxWaiting: number;
  readonly #maxBufferedBytes: number;
  /** Not sent yet, in order. */
  readonly #waiting = new Set<Publish>();
  /** Sent with QoS 1 or 2 and not acknowledged, by packet id, in the order first sent. */
  readonly #inflight = new Map<number, Publish>();
  /** What the present connection has still to send again. */
  #resend: Publish[] = [];
  /** A QoS 0 message that the socket has not taken yet. */
  #writing: Publish | undefined;
  #bufferedBytes = 0;
  #unsettled = 0;
  #onWire = 0;
  #lastPacketId = 0;
  #limits = WIDEST;
  #sessionPresent = false;
  #pumpQueued = false;
  #closing: Promise<void> | undefined;
  #onIdle: (() => void) | undefined;

  constructor(options: ProducerOptions) {
    const resolved = resolveConnectionOptions(options, OWN_KEYS, undefined);
    if (options.topic !== undefined) {
      assertTopicName(options.topic);
    }
    if (options.qos !== undefined) {
      assertQos(options.qos);
    }
    this.#topic = options.topic;
    this.#qos = options.qos ?? 1;
    this.#timeoutMs = integerOption('timeoutMs', options.timeoutMs, 30_000, 0, TIMEOUT_MS_MAX);
    this.#maxInflight = integerOption('maxInflight', options.maxInflight, 1_000, 1, 60_000);
    this.#maxWaiting = integerOption('maxWaiting', options.maxWaiting, 10_000, 0, 10_000_000);
    this.#maxBufferedBytes = integerOption(
      'maxBufferedBytes',
      options.maxBufferedBytes,
      64 * 1024 * 1024,
      1,
      Number.MAX_SAFE_INTEGER,
    );
    this.#link = new Link(
      resolved,
      true,
      {
        // MQTT.js asks for an id in the publish() call that #send makes, and gets the one the message has.
        allocate: () => this.#lastPacketId,
        getLastAllocated: () => this.#lastPacketId,
        register: () => true,
        deallocate: () => undefined,
        clear: () => undefined,
      },
      {
        awaitsAnswer: () => this.#onWire > 0,
        onConnack: (sessionPresent, limits) => {
          // MQTT 3.1 does not say. To send again as if it were there does no harm where it is not.
          this.#sessionPresent = sessionPresent || resolved.protocolVersion === 3;
          this.#limits = limits;
        },
        onUp: () => this.#onUp(),
        onPacket: (packet) => this.#onPacket(packet),
        // A resumed session may hold subscriptions of an earlier program: a producer has no use for their messages.
        onPublish: (_packet, _qos, done) => done(),
        onDown: (error) => this.#onDown(error),
        onFailed: (error) => this.#rejectAll(error),
      },
    );
  }

  /** The id of the session at the broker. */
  get clientId(): string {
    return this.#link.options.clientId;
  }

  get connected(): boolean {
    return this.#link.client !== undefined;
  }

  /** Publishes not yet settled, sent or not. */
  get outstanding(): number {
    return this.#unsettled;
  }

  /** Connects ahead of the first publish. Rejects once every broker was tried in vain; trying goes on all the same. */
  connect(): Promise<void> {
    return this.#closing ? Promise.reject(closedError()) : this.#link.connected();
  }

  /**
   * Publishes. Resolves when the broker has acknowledged (QoS 1: PUBACK, QoS 2: PUBCOMP), for QoS 0 when written.
   * Rejects with a GomqClientError: TOPIC_INVALID, PAYLOAD_INVALID, OPTIONS_INVALID, UNSUPPORTED, PACKET_TOO_LARGE and
   * BUFFER_FULL before anything is sent; PUBLISH_REFUSED, TIMEOUT, ABORTED, CLOSED, CONNECTION_LOST (QoS 0 only) and the
   * errors of connecting later.
   */
  async publish(message: Payload | OutgoingMessage, options: PublishOptions = {}): Promise<PublishReceipt> {
    if (this.#closing) {
      throw closedError();
    }
    assertKnownKeys('publish()', options, PUBLISH_KEYS);
    const { topic, payload, properties } = this.#read(message, options);
    const qos = options.qos ?? this.#qos;
    assertQos(qos);
    const retain = options.retain ?? false;
    const timeoutMs = integerOption('timeoutMs', options.timeoutMs, this.#timeoutMs, 0, TIMEOUT_MS_MAX);
    const { signal } = options;
    if (signal?.aborted) {
      throw new GomqClientError('ABORTED', `The publish to ${topic} was aborted.`, { cause: signal.reason });
    }
    const held = this.#waiting.size + this.#inflight.size;
    const bytes = payload.byteLength;
    if (held >= this.#maxInflight + this.#maxWaiting) {
      throw new GomqClientError('BUFFER_FULL', `${held} publishes are outstanding already.`, {
        retriable: true,
      });
    }
    if (this.#bufferedBytes > 0 && this.#bufferedBytes + bytes > this.#maxBufferedBytes) {
      throw new GomqClientError(
        'BUFFER_FULL',
        `${this.#bufferedBytes} bytes are outstanding; ${bytes} more would pass ${this.#maxBufferedBytes}.`,
        { retriable: true },
      );
    }
    return new Promise((resolve, reject) => {
      const giveUp = (code: ClientErrorCode, text: string, retriable: boolean, cause: unknown): void => {
        const error = new GomqClientError(code, text, {
          retriable,
          ...(cause === undefined ? {} : { cause }),
        });
        publish.settle(error, 0);
        this.#abandon(publish);
      };
      const unlisten = onAbort(signal, () => {
        giveUp('ABORTED', `The publish to ${topic} was aborted.`, false, signal?.reason);
      });
      const timer =
        timeoutMs === 0
          ? undefined
          : setTimeout(() => {
              const text = `The publish to ${topic} was not acknowledged within ${timeoutMs} ms.`;
              giveUp('TIMEOUT', text, true, this.#link.lastError);
            }, timeoutMs);
      const publish: Publish = {
        topic,
        payload,
        qos,
        retain,
        properties,
        packetId: 0,
        released: false,
        onWire: false,
        settled: false,
        settle: (error, reasonCode) => {
          if (publish.settled) {
            return;
          }
          publish.settled = true;
          this.#unsettled -= 1;
          clearTimeout(timer);
          unlisten();
          if (error === undefined) {
            resolve({ topic, qos, reasonCode });
          } else {
            reject(error);
          }
          if (this.#unsettled === 0) {
            this.#onIdle?.();
          }
        },
      };
      this.#waiting.add(publish);
      this.#unsettled += 1;
      this.#bufferedBytes += bytes;
      this.#link.start();
      this.#pump();
    });
  }

  /** Takes no more publishes, waits until those made are acknowledged, and says goodbye. Rejects what was not done in time. */
  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(integerOption('timeoutMs', options.timeoutMs, 10_000, 0, TIMEOUT_MS_MAX));
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    if (this.#unsettled > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        this.#onIdle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#rejectAll(new GomqClientError('CLOSED', 'The producer was closed before this was acknowledged.'));
    await this.#link.stop(GOODBYE_MS);
  }

  #read(
    message: Payload | OutgoingMessage,
    options: PublishOptions,
  ): { topic: string; payload: Buffer; properties: PacketProperties } {
    const isMessage = typeof message === 'object' && message !== null && !(message instanceof Uint8Array);
    const outgoing: OutgoingMessage = isMessage ? message : { payload: message };
    if (isMessage) {
      assertKnownKeys('the message', message, MESSAGE_KEYS);
    }
    const topic = options.topic ?? outgoing.topic ?? this.#topic;
    if (topic === undefined) {
      throw new GomqClientError(
        'TOPIC_INVALID',
        'Neither the message, the call nor the producer names a topic.',
      );
    }
    assertTopicName(topic);
    const properties = { ...outgoing.properties, ...options.properties };
    if (this.#link.options.protocolVersion < 5 && Object.keys(properties).length > 0) {
      throw new GomqClientError('UNSUPPORTED', 'Message properties need MQTT 5.');
    }
    return { topic, payload: payloadBytes(outgoing.payload), properties: toPacketProperties(properties) };
  }

  #onUp(): void {
    this.#onWire = 0;
    this.#resend = [];
    for (const publish of [...this.#inflight.values()]) {
      publish.onWire = false;
      if (this.#sessionPresent && (publish.released || (publish.settled && publish.qos === 2))) {
        // [MQTT-4.4.0-1] Of a message the broker has taken, PUBREL is what is sent again. A QoS 2 message that was given up is
        // ended in the same way, so that its packet id is free at both ends.
        publish.released = true;
        this.#link.writeAck('pubrel', publish.packetId);
      } else if (publish.released) {
        // The session is gone at the broker, which took the message over with PUBREC: it is published.
        this.#finish(publish, undefined, 0);
      } else if (publish.settled) {
        this.#forget(publish);
      } else {
        this.#resend.push(publish);
      }
    }
    this.#pump();
  }

  #onDown(error: GomqClientError): void {
    this.#resend = [];
    const publish = this.#writing;
    if (publish) {
      this.#finish(
        publish,
        new GomqClientError('CONNECTION_LOST', `The connection ended while ${publish.topic} was written.`, {
          retriable: true,
          cause: error,
        }),
        0,
      );
    }
  }

  #onPacket(packet: Packet): void {
    if (packet.cmd !== 'puback' && packet.cmd !== 'pubrec' && packet.cmd !== 'pubcomp') {
      return;
    }
    const publish = this.#inflight.get(packet.messageId ?? 0);
    const expectedQos = packet.cmd === 'puback' ? 1 : 2;
    if (publish === undefined || publish.qos !== expectedQos) {
      return;
    }
    const reasonCode = packet.reasonCode ?? 0;
    if (packet.cmd === 'pubrec' && reasonCode < 0x80) {
      // MQTT.js answers with PUBREL.
      publish.released = true;
      return;
    }
    if (packet.cmd === 'pubcomp' && publish.released) {
      // 0x92, packet identifier not found, means that the broker has completed the exchange before.
      this.#finish(publish, undefined, 0);
    } else if (reasonCode >= 0x80) {
      const text = reasonText(reasonCode, packet.properties?.reasonString);
      // Quota exceeded and "implementation specific" may pass; rights, topic and payload format do not.
      const retriable = reasonCode === 0x97 || reasonCode === 0x83 || reasonCode === 0x80;
      const error = new GomqClientError('PUBLISH_REFUSED', `The broker refused ${publish.topic}, ${text}.`, {
        reasonCode,
        retriable,
      });
      this.#finish(publish, error, reasonCode);
    } else {
      this.#finish(publish, undefined, reasonCode);
    }
  }

  /** Sends what may be sent, once MQTT.js has finished with the packet in hand. */
  #pump(): void {
    if (!this.#pumpQueued) {
      this.#pumpQueued = true;
      queueMicrotask(() => {
        this.#pumpQueued = false;
        this.#sendAll();
      });
    }
  }

  #sendAll(): void {
    let client = this.#link.client;
    while (client !== undefined && this.#resend.length > 0) {
      if (this.#onWire >= this.#limits.receiveMaximum) {
        return;
      }
      const publish = this.#resend.shift()!;
      if (this.#inflight.get(publish.packetId) === publish) {
        this.#send(client, publish, this.#sessionPresent);
      }
      client = this.#link.client;
    }
    for (const publish of this.#waiting) {
      client = this.#link.client;
      if (client === undefined || this.#writing !== undefined) {
        return;
      }
      const refusal = this.#refusal(publish);
      if (refusal !== undefined) {
        this.#finish(publish, refusal, 0);
        continue;
      }
      const window = Math.min(this.#maxInflight, this.#limits.receiveMaximum);
      if (publish.qos > 0 && (this.#inflight.size >= window || this.#onWire >= window)) {
        return;
      }
      this.#waiting.delete(publish);
      if (publish.qos === 0) {
        this.#write(client, publish);
      } else {
        publish.packetId = this.#freePacketId();
        this.#inflight.set(publish.packetId, publish);
        this.#send(client, publish, false);
      }
    }
  }

  #send(client: MqttClient, publish: Publish, dup: boolean): void {
    const { topic, payload, qos, retain, properties } = publish;
    publish.onWire = true;
    this.#onWire += 1;
    this.#lastPacketId = publish.packetId;
    // The acknowledgement is taken from the packet itself, in #onPacket, which outlives the connection.
    client.publish(topic, payload, { qos, retain, dup, properties }, () => undefined);
  }

  #write(client: MqttClient, publish: Publish): void {
    const { topic, payload, retain, properties } = publish;
    this.#writing = publish;
    client.publish(topic, payload, { qos: 0, retain, properties }, (error) => {
      if (this.#writing !== publish) {
        return;
      }
      this.#finish(
        publish,
        error
          ? new GomqClientError(
              'CONNECTION_LOST',
              `The publish to ${topic} was not written: ${error.message}.`,
              {
                retriable: true,
                cause: error,
              },
            )
          : undefined,
        0,
      );
    });
  }

  /** What this broker does not offer is refused here: sent, it would cost the connection. */
  #refusal(publish: Publish): GomqClientError | undefined {
    const { topic, payload, qos, retain, properties } = publish;
    if (qos > this.#limits.maximumQos) {
      return new GomqClientError(
        'UNSUPPORTED',
        `The broker takes QoS ${this.#limits.maximumQos} at most, not ${qos}.`,
      );
    }
    if (retain && !this.#limits.retainAvailable) {
      return new GomqClientError('UNSUPPORTED', 'The broker does not keep retained messages.');
    }
    const bytes = publishPacketBytes(topic, payload.byteLength, qos, properties);
    if (bytes > this.#limits.maximumPacketBytes) {
      return new GomqClientError(
        'PACKET_TOO_LARGE',
        `The message to ${topic} makes a packet of ${bytes} bytes; the broker takes ${this.#limits.maximumPacketBytes}.`,
      );
    }
    return undefined;
  }

  #freePacketId(): number {
    let packetId = this.#lastPacketId;
    do {
      packetId = (packetId % 65_535) + 1;
    } while (this.#inflight.has(packetId));
    return packetId;
  }

  /** The caller has been told; a message that was sent stays in flight until the exchange or the connection ends. */
  #abandon(publish: Publish): void {
    if (this.#waiting.has(publish)) {
      this.#forget(publish);
    }
  }

  #finish(publish: Publish, error: GomqClientError | undefined, reasonCode: number): void {
    this.#forget(publish);
    publish.settle(error, reasonCode);
  }

  #forget(publish: Publish): void {
    if (this.#inflight.get(publish.packetId) === publish) {
      this.#inflight.delete(publish.packetId);
    } else if (this.#writing === publish) {
      this.#writing = undefined;
    } else if (!this.#waiting.delete(publish)) {
      return;
    }
    if (publish.onWire) {
      publish.onWire = false;
      this.#onWire -= 1;
    }
    this.#bufferedBytes -= publish.payload.byteLength;
    this.#pump();
  }

  #rejectAll(error: GomqClientError): void {
    const written = this.#writing === undefined ? [] : [this.#writing];
    for (const publish of [...written, ...this.#inflight.values(), ...this.#waiting]) {
      if (publish.qos === 2 && publish.packetId !== 0) {
        // The session may remember its packet id: another message with that id would be taken for this one, and lost.
        publish.settle(error, 0);
      } else {
        this.#finish(publish, error, 0);
      }
    }
  }
}

function closedError(): GomqClientError {
  return new GomqClientError('CLOSED', 'The producer is closed.');
}

/** Makes a producer. Throws OPTIONS_INVALID and TOPIC_INVALID; connects when first used. */
export function createProducer(options: ProducerOptions): Producer {
  return new Producer(options);
}
