// A publisher as the standard asks for one: what was not acknowledged is sent again on the next connection, in the same order and with the same
// packet ids; at QoS 2 PUBLISH until PUBREC, then PUBREL until PUBCOMP. It is answered in the order in which it sends. Its session is durable, so that the broker knows what it has.
import type { Packet } from 'mqtt-packet';
import type { Ledger, Message } from './ledger.js';
import { type Link, openLink, type Version } from './link.js';
import type { Random } from './random.js';

export interface PublisherOptions {
  readonly ledger: Ledger;
  readonly random: Random;
  readonly name: string;
  readonly version: Version;
  readonly qos: 1 | 2;
  readonly topics: readonly string[];
  /** Topics that are retained; on those that begin with `d/` every second message takes the retained one away. */
  readonly retainedTopics: readonly string[];
  /** Messages that may be unacknowledged. */
  readonly window: number;
  readonly paddingBytesMax: number;
}

interface Flight {
  readonly message: Message;
  readonly payload: string;
  /** PUBREC has come. */
  isReceived: boolean;
  /** It was sent on the connection before or on this one. */
  wasSent: boolean;
}

const PACKET_IDS = 65_535;

export class Publisher {
  readonly #options: PublisherOptions;
  /** By packet id, oldest first. */
  readonly #flights = new Map<number, Flight>();
  #link: Link | undefined;
  #isReady = false;
  #quota = 0;
  #lastPacketId = 0;
  #wasAnswered = false;
  #emptyNext = false;
  readonly #idle = new Set<() => void>();

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  /** Lets it publish more messages; it begins where it can. */
  allow(count: number): void {
    this.#quota += count;
    this.#fill();
  }

  /** What it has not begun yet is forgotten. */
  halt(): void {
    this.#quota = 0;
  }

  /** False where the connection ended before CONNACK. */
  async connect(port: number): Promise<boolean> {
    const { ledger, name, version } = this.#options;
    const { link, connack } = openLink(
      port,
      version,
      { clientId: name, clean: false, expirySeconds: 86_400 },
      {
        onPacket: (packet) => {
          if (this.#link === link) this.#onPacket(packet);
        },
        onClose: () => {
          if (this.#link === link) this.#isReady = false;
        },
      },
    );
    this.#link = link;
    this.#isReady = false;
    const answer = await connack;
    if (answer === undefined || this.#link !== link) return false;
    ledger.note(`connected, session present ${answer.sessionPresent}`, name);
    if (!answer.sessionPresent && this.#wasAnswered) {
      ledger.fail(`the session of ${name} is gone, in which it was acknowledged something`);
    }
    this.#resend(answer.sessionPresent);
    this.#isReady = true;
    this.#fill();
    return true;
  }

  drop(): void {
    this.#link?.destroy();
  }

  /** Resolves when the connection is over. */
  async closed(): Promise<void> {
    await this.#link?.closed;
  }

  /** All that was allowed is published and acknowledged to the end. */
  get isIdle(): boolean {
    return this.#quota === 0 && this.#flights.size === 0;
  }

  /** Resolves when all that was allowed is published and acknowledged to the end. */
  async idle(): Promise<void> {
    while (!this.isIdle) {
      await new Promise<void>((resolve) => {
        this.#idle.add(resolve);
      });
    }
  }

  #resend(isPresent: boolean): void {
    for (const [packetId, flight] of this.#flights) {
      if (!isPresent) {
        // Nobody knows of it: it begins anew.
        flight.isReceived = false;
        flight.wasSent = false;
      }
      if (flight.isReceived) this.#sendPubrel(packetId, flight);
      else this.#sendPublish(packetId, flight);
    }
  }

  #fill(): void {
    const { ledger, random, name, qos, window, topics, retainedTopics, paddingBytesMax } = this.#options;
    while (this.#isReady && this.#quota > 0 && this.#flights.size < window) {
      this.#quota--;
      const isRetained = retainedTopics.length > 0 && random.chance(0.2);
      const topic = random.pick(isRetained ? retainedTopics : topics);
      const isEmpty = topic.startsWith('d/') && this.#emptyNext;
      if (topic.startsWith('d/')) this.#emptyNext = !this.#emptyNext;
      const message = ledger.publish(name, topic, qos, isRetained, isEmpty);
      const padding = noise(random, random.integer(0, paddingBytesMax));
      const payload = isEmpty ? '' : `${message.id} ${padding}`;
      const flight: Flight = { message, payload, isReceived: false, wasSent: false };
      const packetId = this.#nextPacketId();
      this.#flights.set(packetId, flight);
      this.#sendPublish(packetId, flight);
    }
  }

  /** Of those whose PUBLISH was sent on this connection, in this order. */
  #oldestUnanswered(): number | undefined {
    for (const [packetId, { isReceived }] of this.#flights) if (!isReceived) return packetId;
    return undefined;
  }

  #nextPacketId(): number {
    do this.#lastPacketId = (this.#lastPacketId % PACKET_IDS) + 1;
    while (this.#flights.has(this.#lastPacketId));
    return this.#lastPacketId;
  }

  #sendPublish(packetId: number, flight: Flight): void {
    const { ledger } = this.#options;
    const { message, payload, wasSent } = flight;
    message.attempts++;
    flight.wasSent = true;
    const { topic, qos, isRetained } = message;
    ledger.sent(message, `PUBLISH QoS ${qos}, packet id ${packetId}${wasSent ? ', DUP' : ''}`);
    this.#link!.send({
      cmd: 'publish',
      topic,
      payload,
      qos,
      retain: isRetained,
      dup: wasSent,
      messageId: packetId,
    });
  }

  #sendPubrel(packetId: number, { message }: Flight): void {
    this.#options.ledger.sent(message, `PUBREL ${packetId}`);
    this.#link!.send({ cmd: 'pubrel', messageId: packetId });
  }

  #onPacket(packet: Packet): void {
    const { ledger, name } = this.#options;
    if (packet.cmd === 'disconnect') return;
    if (packet.cmd !== 'puback' && packet.cmd !== 'pubrec' && packet.cmd !== 'pubcomp') {
      ledger.fail(`${name} got a ${packet.cmd}`);
      return;
    }
    const packetId = packet.messageId!;
    const flight = this.#flights.get(packetId);
    if (flight === undefined) {
      ledger.fail(`${name} got a ${packet.cmd} for packet id ${packetId}, under which it has sent nothing`);
      return;
    }
    const { message } = flight;
    const code = packet.reasonCode ?? 0;
    ledger.acknowledged(
      message,
      `${packet.cmd.toUpperCase()} ${packetId}${code === 0 ? '' : `, reason ${code}`}`,
    );
    this.#wasAnswered = true;
    const isExpected =
      packet.cmd === 'puback'
        ? message.qos === 1
        : message.qos === 2 && (packet.cmd === 'pubrec') !== flight.isReceived;
    // A PUBCOMP that got lost leaves a packet id that the broker does not know any more.
    const isUnknown = packet.cmd === 'pubcomp' && code === 0x92;
    if (!isExpected || (code >= 0x80 && !isUnknown)) {
      ledger.fail(`${name} got a ${packet.cmd} with reason ${code}`, message.id);
      return;
    }
    // [MQTT-4.6.0-2] PUBACK, [MQTT-4.6.0-3] PUBREC: in the order of the PUBLISH packets
    const oldest = this.#oldestUnanswered();
    if (packet.cmd !== 'pubcomp' && packetId !== oldest) {
      ledger.fail(
        `${name} got a ${packet.cmd} for packet id ${packetId}, and sent ${oldest} before it`,
        message.id,
      );
      return;
    }
    if (packet.cmd === 'pubrec') {
      flight.isReceived = true;
      this.#sendPubrel(packetId, flight);
      return;
    }
    this.#flights.delete(packetId);
    this.#fill();
    if (!this.isIdle) return;
    for (const resolve of this.#idle) resolve();
    this.#idle.clear();
  }
}

/** Text that hardly compresses, so that segments fill. */
function noise(random: Random, length: number): string {
  let text = '';
  while (text.length < length) text += random.next().toString(36).slice(2);
  return text.slice(0, length);
}
