// Owns publishing with a bound: no more than a window of messages is in flight, so that input of any size needs the memory of one
// window, and every message of QoS 1 and 2 is accounted for before the command ends.
import type { IClientPublishOptions } from 'mqtt';
import type { IConnackPacket, IPubackPacket, IPubcompPacket, IPubrecPacket, Packet, QoS } from 'mqtt-packet';
import { Connection } from './connection.js';
import { Failure } from './failure.js';
import { type ConnectionSettings, keepForResuming } from './options.js';
import { describeReason } from './reasons.js';

/** Messages in flight at QoS 1 and 2, where the broker does not ask for fewer. */
const WINDOW_MAX = 1_000;
/** How long a lost connection may take to come back and to acknowledge something. */
const RECONNECT_SECONDS_MAX = 30;
/** The broker forgot the packet id with the session; the PUBREC before had taken the message over. */
const PACKET_ID_NOT_FOUND = 0x92;
const NO_MATCHING_SUBSCRIBERS = 0x10;

export interface Publication {
  topic: string;
  qos: QoS;
  retain: boolean;
}

export class Publisher {
  readonly #publication: Publication;
  readonly #options: IClientPublishOptions;
  readonly #settings: ConnectionSettings;
  readonly #onFailure: () => void;
  #connection: Connection | undefined;
  #window = WINDOW_MAX;
  #packetBytesMax = Number.POSITIVE_INFINITY;
  #failure: Failure | undefined;
  #inflight = 0;
  /** Of QoS 0: a write that the socket has not taken yet. */
  #writing = false;
  #wake: (() => void) | undefined;
  /** Messages acknowledged, or written at QoS 0. */
  taken = 0;

  /** `onFailure` is called once, at the first failure, so that whoever waits for input stops waiting. */
  constructor(publication: Publication, settings: ConnectionSettings, onFailure: () => void) {
    this.#publication = publication;
    this.#options = { qos: publication.qos, retain: publication.retain };
    if (settings.version === 5) this.#options.properties = settings.properties.publish;
    this.#settings = settings;
    this.#onFailure = onFailure;
    // Lets a QoS 2 exchange continue on a new connection.
    if (publication.qos === 2) keepForResuming(settings);
  }

  /** @throws {Failure} where the broker cannot be reached or cannot take such messages */
  async open(signal: AbortSignal, notice: (line: string) => void): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const resume = (this.#settings.properties.connect.sessionExpiryInterval ?? 0) > 0;
    const policy = { reconnectSecondsMax: RECONNECT_SECONDS_MAX, resume };
    this.#connection = await Connection.open(
      this.#settings,
      policy,
      {
        onUp: (connack) => this.#onUp(connack),
        onDown: () => {
          this.#writing = false;
        },
        onFailed: (failure) => this.#fail(failure),
        onNotice: notice,
      },
      signal,
    );
    if (this.#failure !== undefined) throw this.#failure;
  }

  #onUp(connack: IConnackPacket): void {
    const { topic, qos, retain } = this.#publication;
    const limits = connack.properties ?? {};
    this.#window = Math.min(WINDOW_MAX, limits.receiveMaximum ?? WINDOW_MAX);
    this.#packetBytesMax = limits.maximumPacketSize ?? Number.POSITIVE_INFINITY;
    const alias = this.#options.properties?.topicAlias;
    if (limits.maximumQoS !== undefined && qos > limits.maximumQoS) {
      this.#fail(
        new Failure(`the broker takes QoS ${limits.maximumQoS} at most, not ${qos}; use a lower --qos`),
      );
    } else if (limits.retainAvailable === false && retain) {
      this.#fail(new Failure('the broker keeps no retained messages; leave out --retain'));
    } else if (alias !== undefined && alias > (limits.topicAliasMaximum ?? 0)) {
      const most = limits.topicAliasMaximum ?? 0;
      this.#fail(new Failure(`the broker takes topic aliases up to ${most}, not ${alias}, for "${topic}"`));
    }
    this.#wakeUp();
  }

  /** Publishes, or waits until there is room in the window, or throws what ended the publishing. */
  async publish(payload: Buffer): Promise<void> {
    while (!this.#hasRoom()) await this.#change();
    if (this.#failure !== undefined) throw this.#failure;
    this.#publishNow(payload);
  }

  /** Publishes where that needs no waiting; false where `publish` has to be awaited instead. */
  tryPublish(payload: Buffer): boolean {
    if (this.#failure !== undefined || !this.#hasRoom()) return false;
    this.#publishNow(payload);
    return true;
  }

  #hasRoom(): boolean {
    if (this.#failure !== undefined) return true;
    if (!this.#connection?.up || this.#writing) return false;
    return this.#publication.qos === 0 || this.#inflight < this.#window;
  }

  #publishNow(payload: Buffer): void {
    const { topic, qos } = this.#publication;
    const { client } = this.#connection!;
    // Type, length, topic, packet id and empty properties: close enough to name the limit before the broker hangs up over it.
    const bytes = payload.length + Buffer.byteLength(topic) + 5;
    if (bytes > this.#packetBytesMax) {
      this.#fail(
        new Failure(
          `a message of ${payload.length} bytes is larger than the broker accepts (${this.#packetBytesMax} bytes a packet)`,
        ),
      );
      throw this.#failure;
    }
    if (qos === 0) {
      let written = false;
      client.publish(topic, payload, this.#options, (error) => {
        written = true;
        this.#writing = false;
        if (error) this.#fail(new Failure(`cannot publish to "${topic}": ${error.message}`));
        else this.taken++;
        this.#wakeUp();
      });
      // The socket is full: wait for it, rather than let MQTT.js queue.
      if (!written) this.#writing = true;
      return;
    }
    this.#inflight++;
    client.publish(topic, payload, this.#options, (error, packet) => this.#onAck(error, packet));
  }

  #onAck(error: (Error & { code?: number }) | undefined | null, packet: Packet | undefined): void {
    this.#inflight--;
    this.#connection?.progress();
    const code = error?.code;
    if (!error || code === NO_MATCHING_SUBSCRIBERS || code === PACKET_ID_NOT_FOUND) {
      this.taken++;
    } else {
      const { topic } = this.#publication;
      const ack = packet as IPubackPacket | IPubrecPacket | IPubcompPacket | undefined;
      const why = code === undefined ? error.message : describeReason(code, ack?.properties);
      this.#fail(new Failure(`the broker refused a message to "${topic}": ${why}`));
    }
    this.#wakeUp();
  }

  /** Waits until everything published has been acknowledged. @throws {Failure} where that does not happen */
  async drain(): Promise<void> {
    while (this.#failure === undefined && (this.#inflight > 0 || this.#writing)) await this.#change();
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** What ended the publishing, if anything did. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Ends the publishing from outside: a timeout or a signal. */
  stop(failure: Failure): void {
    this.#fail(failure);
  }

  async close(): Promise<void> {
    await this.#connection?.close();
  }

  #fail(failure: Failure): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#onFailure();
    this.#wakeUp();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}
