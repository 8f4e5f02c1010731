// Owns one network connection to one broker: one MQTT.js client, from CONNECT to the end of the socket, never reconnected.
// Invariant: the owner hears of its end exactly once, and of nothing after it.
//
// What MQTT.js would decide by itself is taken out of its hands here, through its public surface only:
// - A message of QoS 1 or 2 is shown to MQTT.js as QoS 0, in `packetreceive`, which runs before MQTT.js handles the packet.
//   So MQTT.js acknowledges nothing, and the acknowledgement is written when the application has done its work. (The
//   callback of `handleMessage` would delay an acknowledgement too, but all later packets with it, pings included.)
// - What was not acknowledged is sent again by the producer, in order, with DUP and its packet id, all of it at once.
//   MQTT.js would send it without DUP, one message per round trip, and without regard for the Receive Maximum.
// - Brokers are chosen, and pauses made, by the link: MQTT.js knows neither backoff nor a refusal that is final.
import mqtt, { type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt';
import { connackError, connectionError, disconnectError } from './connection-errors.js';
import { GomqClientError } from './errors.js';
import { type BrokerAddress, payloadBytes, type Qos, type ResolvedConnectionOptions } from './options.js';
import { toPacketProperties } from './properties.js';

type PacketReceived = Parameters<Parameters<MqttClient['on']>[1]>[0];
export type Packet = Extract<PacketReceived, { cmd: string }>;
export type ConnackProperties = NonNullable<Extract<Packet, { cmd: 'connack' }>['properties']>;

/** What the broker said it allows, MQTT 5 section 3.2.2.3; the widest values where it said nothing. */
export interface BrokerLimits {
  receiveMaximum: number;
  maximumQos: Qos;
  retainAvailable: boolean;
  maximumPacketBytes: number;
  subscriptionIdentifiers: boolean;
}

/** What differs from one connection of a link to the next. */
export interface Attempt {
  cleanStart: boolean;
  /** Until CONNACK. */
  timeoutMs: number;
  /** There are others: a broker that falls silent while it owes an answer is left sooner than the keep alive would. */
  hasAlternatives: boolean;
}

/** A broker that is silent for so many ticks while it owes an answer is asked whether it is there; for as many more, it is left. */
const SILENT_TICKS_MAX = 4;
const TICK_MS = 500;

export interface ConnectionOwner {
  /** An answer to what was sent is outstanding. */
  awaitsAnswer(): boolean;
  /** CONNACK with success. Messages of a resumed session may follow before `onUp`. */
  onConnack(sessionPresent: boolean, limits: BrokerLimits): void;
  /** MQTT.js takes publishes and subscriptions now. */
  onUp(): void;
  /** A PUBACK, PUBREC, PUBREL, PUBCOMP, and any other packet that is not a PUBLISH. */
  onPacket(packet: Packet): void;
  /** A message. No other packet is handled before `done` is called; the connection is kept alive meanwhile. */
  onPublish(packet: IPublishPacket, qos: Qos, done: () => void): void;
  onClosed(error: GomqClientError, redirect: string | undefined): void;
}

/** The first bytes of the acknowledgements, MQTT 5 section 2.1.2; PUBREL has flag bits of its own. */
const ACK_BYTES = { puback: 0x40, pubrec: 0x50, pubrel: 0x62 } as const;

export class Connection {
  readonly broker: BrokerAddress;
  readonly client: MqttClient;
  readonly #owner: ConnectionOwner;
  readonly #options: ResolvedConnectionOptions;
  readonly #originalQos = new WeakMap<IPublishPacket, Qos>();
  readonly #connectTimer: NodeJS.Timeout;
  #holdTimer: NodeJS.Timeout | undefined;
  #silenceTimer: NodeJS.Timeout | undefined;
  /** Ticks rather than time: while this process itself is held up, none passes. */
  #silentTicks = 0;
  #reason: GomqClientError | undefined;
  #redirect: string | undefined;
  #up = false;
  #closed = false;
  #ending = false;

  /** Throws CONNECT_FAILED where MQTT.js does not even try. */
  constructor(
    broker: BrokerAddress,
    options: ResolvedConnectionOptions,
    { cleanStart, timeoutMs, hasAlternatives }: Attempt,
    messageIdProvider: IClientOptions['messageIdProvider'],
    owner: ConnectionOwner,
  ) {
    this.broker = broker;
    this.#owner = owner;
    this.#options = options;
    try {
      this.client = mqtt.connect(mqttOptions(broker, options, cleanStart, messageIdProvider));
    } catch (cause) {
      throw connectionError(broker.label, cause);
    }
    this.client.handleMessage = (packet, done) => this.#handleMessage(packet, done);
    this.client.on('packetreceive', this.#onPacketReceive);
    this.client.on('connect', this.#onConnect);
    this.client.on('error', this.#onError);
    this.client.on('close', this.#onClose);
    // MQTT.js passes on only those errors of the stream that have a code; the WebSocket's refusals have none.
    this.client.stream.on('error', this.#onStreamError);
    this.#connectTimer = setTimeout(() => {
      this.close(
        new GomqClientError('TIMEOUT', `Broker ${broker.label} did not answer within ${timeoutMs} ms.`, {
          retriable: true,
        }),
      );
    }, timeoutMs);
    if (hasAlternatives) {
      this.#silenceTimer = setInterval(() => this.#onTick(), TICK_MS);
    }
  }

  /** Writes an acknowledgement with reason code 0, which has the same four bytes in every protocol version. */
  writeAck(kind: keyof typeof ACK_BYTES, packetId: number): void {
    if (!this.#closed) {
      this.client.stream.write(Buffer.from([ACK_BYTES[kind], 2, packetId >> 8, packetId & 0xff]));
    }
  }

  /** Cuts the connection and reports the reason. */
  close(reason: GomqClientError): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    clearTimeout(this.#connectTimer);
    clearInterval(this.#holdTimer);
    clearInterval(this.#silenceTimer);
    this.client.off('connect', this.#onConnect);
    this.client.off('error', this.#onError);
    this.client.off('close', this.#onClose);
    // A destroyed stream may still report errors; MQTT.js keeps listeners for them on both, so none is unhandled.
    this.client.stream.off('error', this.#onStreamError);
    this.client.end(true);
    this.client.stream.destroy();
    this.#owner.onClosed(reason, this.#redirect);
  }

  /** Says goodbye and waits until the broker has closed, at most `timeoutMs`. The owner hears `onClosed` as well. */
  async end(timeoutMs: number, endSession: boolean): Promise<void> {
    if (this.#closed || this.#ending) {
      return;
    }
    this.#ending = true;
    const closed = new GomqClientError('CLOSED', 'The connection was closed by this client.');
    if (this.#up) {
      const goodbye =
        this.#options.protocolVersion === 5 && endSession
          ? { reasonCode: 0, properties: { sessionExpiryInterval: 0 } }
          : {};
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        // MQTT.js would wait for answers to what it sent; the producer and the consumer have done their waiting.
        this.client.outgoing = {};
        this.client.end(false, goodbye, () => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
    this.close(closed);
  }

  #onTick(): void {
    if (!this.#up || this.#ending || !this.#owner.awaitsAnswer()) {
      this.#silentTicks = 0;
      return;
    }
    this.#silentTicks += 1;
    if (this.#silentTicks === SILENT_TICKS_MAX) {
      // A broker that waits for its disk, or for others, still answers this.
      this.client.sendPing();
    } else if (this.#silentTicks === 2 * SILENT_TICKS_MAX) {
      const ms = 2 * SILENT_TICKS_MAX * TICK_MS;
      const text = `Broker ${this.broker.label} has said nothing for ${ms} ms.`;
      this.close(new GomqClientError('CONNECTION_LOST', text, { retriable: true }));
    }
  }

  readonly #onPacketReceive = (received: PacketReceived): void => {
    const packet = received as Packet;
    this.#silentTicks = 0;
    if (packet.cmd === 'publish') {
      this.#originalQos.set(packet, packet.qos);
      packet.qos = 0;
      return;
    }
    if (this.#closed) {
      // MQTT.js still works through what it had read; it must not acknowledge messages, so only those are of interest.
      return;
    }
    if (packet.cmd === 'connack') {
      const code = packet.reasonCode ?? packet.returnCode ?? 0;
      const properties = packet.properties ?? {};
      if (code !== 0) {
        this.#redirect = properties.serverReference;
        this.#reason = connackError(this.broker.label, code, properties.reasonString);
      } else if (!this.client.connected) {
        this.#owner.onConnack(packet.sessionPresent, brokerLimits(properties));
      }
      return;
    }
    if (packet.cmd === 'disconnect') {
      this.#redirect = packet.properties?.serverReference;
      // [MQTT-3.14.4-1] The broker sends nothing after it, so there is no reason to wait for the end of the socket.
      const { reasonCode = 0, properties } = packet;
      this.close(disconnectError(this.broker.label, reasonCode, properties?.reasonString));
      return;
    }
    this.#owner.onPacket(packet);
  };

  readonly #onConnect = (): void => {
    clearTimeout(this.#connectTimer);
    this.#up = true;
    this.#owner.onUp();
  };

  readonly #onError = (error: Error): void => {
    if (!this.#ending) {
      this.close(this.#reason ?? connectionError(this.broker.label, error, this.#up));
    }
  };

  readonly #onStreamError = (error: Error): void => {
    this.#reason ??= connectionError(this.broker.label, error, this.#up);
  };

  readonly #onClose = (): void => {
    if (!this.#ending) {
      const text = this.#up ? 'ended' : 'was closed before the broker answered';
      this.close(
        this.#reason ??
          new GomqClientError(
            this.#up ? 'CONNECTION_LOST' : 'CONNECT_FAILED',
            `The connection to ${this.broker.label} ${text}.`,
            { retriable: true },
          ),
      );
    }
  };

  #handleMessage(packet: IPublishPacket, done: () => void): void {
    if (this.#closed || this.#ending) {
      done();
      return;
    }
    let released = false;
    this.#owner.onPublish(packet, this.#originalQos.get(packet) ?? 0, () => {
      if (!released) {
        released = true;
        clearInterval(this.#holdTimer);
        this.#holdTimer = undefined;
        done();
      }
    });
    if (!released && !this.#closed) {
      // While the reading is held up, the broker's PINGRESP is not seen, so the silence must not be taken for a dead broker.
      this.#holdTimer = setInterval(
        () => {
          this.client.sendPing();
          this.client.reschedulePing(true);
        },
        (this.client.keepalive * 1000) / 2,
      );
    }
  }
}

function brokerLimits(properties: ConnackProperties): BrokerLimits {
  return {
    receiveMaximum: properties.receiveMaximum ?? 65_535,
    maximumQos: properties.maximumQoS === 0 || properties.maximumQoS === 1 ? properties.maximumQoS : 2,
    retainAvailable: properties.retainAvailable ?? true,
    maximumPacketBytes: properties.maximumPacketSize ?? 268_435_460,
    subscriptionIdentifiers: properties.subscriptionIdentifiersAvailable ?? true,
  };
}

function mqttOptions(
  broker: BrokerAddress,
  options: ResolvedConnectionOptions,
  cleanStart: boolean,
  messageIdProvider: IClientOptions['messageIdProvider'],
): IClientOptions {
  const secure = broker.protocol === 'mqtts' || broker.protocol === 'wss';
  const { alpnProtocols, ...tls } = (secure ? options.tls : undefined) ?? {};
  const tlsOptions = { ...tls, ...(alpnProtocols === undefined ? {} : { ALPNProtocols: alpnProtocols }) };
  const username = broker.username ?? options.username;
  const password = broker.password ?? options.password;
  const mqttOptions: IClientOptions = {
    // Certificates may be Uint8Arrays here as in node:tls; the types of MQTT.js say Buffer.
    ...(tlsOptions as object),
    protocol: broker.protocol,
    host: broker.host,
    hostname: broker.host.includes(':') && broker.path !== undefined ? `[${broker.host}]` : broker.host,
    port: broker.port,
    clientId: options.clientId,
    clean: cleanStart,
    keepalive: options.keepAliveSeconds,
    protocolVersion: options.protocolVersion,
    protocolId: options.protocolVersion === 3 ? 'MQIsdp' : 'MQTT',
    // Longer than the timer of this file, which covers the same time and gives the typed error.
    connectTimeout: 2 * options.connectTimeoutMs,
    reconnectPeriod: 0,
    resubscribe: false,
    queueQoSZero: false,
    wsOptions: {
      ...tlsOptions,
      ...(options.webSocket.headers ? { headers: options.webSocket.headers } : {}),
    },
    ...(broker.path === undefined ? {} : { path: broker.path }),
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(messageIdProvider === undefined ? {} : { messageIdProvider }),
  };
  if (options.protocolVersion === 5) {
    const userProperties = {
      ...options.userProperties,
      ...(options.followRedirects ? { 'gomq-redirect': '1' } : {}),
    };
    mqttOptions.properties = {
      sessionExpiryInterval: options.sessionExpirySeconds,
      maximumPacketSize: options.maxPacketBytes,
      ...(options.receiveMaximum === undefined ? {} : { receiveMaximum: options.receiveMaximum }),
      ...(Object.keys(userProperties).length === 0 ? {} : { userProperties }),
    };
  }
  if (options.will !== undefined) {
    const { topic, payload, qos = 0, retain = false, delaySeconds, properties } = options.will;
    mqttOptions.will = { topic, payload: payloadBytes(payload), qos, retain };
    if (options.protocolVersion === 5) {
      mqttOptions.will.properties = {
        ...toPacketProperties(properties ?? {}),
        ...(delaySeconds === undefined ? {} : { willDelayInterval: delaySeconds }),
      };
    }
  }
  return mqttOptions;
}
