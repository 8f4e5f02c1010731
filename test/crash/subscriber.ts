// A subscriber with a durable session, which keeps the QoS 2 state that the standard asks of a receiver: a packet id whose message it has stands
// until its PUBREL, also when the connection is another one by then. It acknowledges at once or slowly, always in the order of arrival.
import type { Packet } from 'mqtt-packet';
import type { Inbox, Ledger, Subscribed } from './ledger.js';
import { idOf, type Link, openLink, type Version } from './link.js';
import type { Random } from './random.js';

export interface SubscriberOptions {
  readonly ledger: Ledger;
  readonly random: Random;
  readonly name: string;
  readonly version: Version;
  readonly qos: 1 | 2;
  /** As in SUBSCRIBE. */
  readonly filters: readonly string[];
  /** Its own, or that of its group. */
  readonly inbox: Inbox;
  /** The longest time to the next acknowledgement; 0: at once. */
  readonly ackDelayMsMax: number;
  readonly receiveMaximum?: number;
}

/** SUBSCRIBE or UNSUBSCRIBE that is not answered. */
interface Request {
  readonly kind: 'subscribe' | 'unsubscribe';
  readonly packetId: number;
  readonly filters: readonly string[];
  readonly subscribed: Subscribed[];
}

export class Subscriber {
  readonly name: string;
  readonly #options: SubscriberOptions;
  #link: Link | undefined;
  #isReady = false;
  /** Packet ids of QoS 2 whose message it has. */
  readonly #received = new Set<number>();
  /** Acknowledgements that wait for their time, and the timer for the next one. */
  #acks: Packet[] = [];
  #ackTimer: NodeJS.Timeout | undefined;
  #lastPacketId = 0;
  #wasAnswered = false;
  #request: Request | undefined;
  #onAnswer: () => void = () => undefined;
  #onAcked: () => void = () => undefined;
  #onPong: () => void = () => undefined;
  /** The subscription that comes and goes. */
  #toggled: { filter: string; subscribed: Subscribed } | undefined;

  constructor(options: SubscriberOptions) {
    this.#options = options;
    this.name = options.name;
  }

  get isConnected(): boolean {
    return this.#isReady;
  }

  /** False where the connection ended first. The first time it subscribes to its filters, and waits for SUBACK. */
  async connect(port: number): Promise<boolean> {
    const { ledger, name, version, receiveMaximum, filters } = this.#options;
    const { link, connack } = openLink(
      port,
      version,
      {
        clientId: name,
        clean: false,
        expirySeconds: 86_400,
        ...(receiveMaximum === undefined ? {} : { receiveMaximum }),
      },
      {
        onPacket: (packet) => {
          if (this.#link === link) this.#onPacket(packet);
        },
        onClose: () => {
          if (this.#link === link) this.#onClose();
        },
      },
    );
    this.#link = link;
    this.#isReady = false;
    this.#dropAcks();
    const answer = await connack;
    if (answer === undefined || this.#link !== link) return false;
    ledger.note(`connected, session present ${answer.sessionPresent}`, name);
    if (!answer.sessionPresent) {
      if (this.#wasAnswered)
        ledger.fail(`the session of ${name} is gone, in which it was acknowledged something`);
      this.#received.clear();
    }
    this.#isReady = true;
    if (this.#request !== undefined) this.#send(this.#request);
    else if (!this.#wasAnswered) this.#subscribe(filters);
    return this.#answered();
  }

  /** Its first subscriptions are granted. */
  get hasSubscribed(): boolean {
    return this.#wasAnswered;
  }

  /** Takes up a further subscription, or gives it up; does nothing while one of the two is going on. */
  toggle(filter: string): void {
    if (!this.#isReady || this.#request !== undefined) return;
    const toggled = this.#toggled;
    if (toggled === undefined) {
      const [subscribed] = this.#subscribe([filter]);
      this.#toggled = { filter, subscribed: subscribed! };
      return;
    }
    this.#toggled = undefined;
    const { ledger, inbox } = this.#options;
    ledger.leaving(inbox, toggled.subscribed);
    this.#begin('unsubscribe', [toggled.filter], [toggled.subscribed]);
  }

  /** Resolves when the broker has read all acknowledgements of what has come. */
  async rest(): Promise<void> {
    if (this.#acks.length > 0) {
      await new Promise<void>((resolve) => {
        this.#onAcked = resolve;
      });
    }
    const pong = new Promise<void>((resolve) => {
      this.#onPong = resolve;
    });
    this.#link!.send({ cmd: 'pingreq' });
    await pong;
  }

  /** Sends DISCONNECT: the session stays. */
  disconnect(): void {
    this.#isReady = false;
    this.#link?.send({ cmd: 'disconnect' });
  }

  drop(): void {
    this.#link?.destroy();
  }

  async closed(): Promise<void> {
    await this.#link?.closed;
  }

  #subscribe(filters: readonly string[]): Subscribed[] {
    const { ledger, inbox } = this.#options;
    const subscribed = filters.map((filter) => ledger.subscribing(inbox, withoutShare(filter)));
    this.#begin('subscribe', filters, subscribed);
    return subscribed;
  }

  #begin(kind: Request['kind'], filters: readonly string[], subscribed: Subscribed[]): void {
    this.#lastPacketId++;
    this.#request = { kind, packetId: this.#lastPacketId, filters, subscribed };
    this.#send(this.#request);
  }

  #send({ kind, packetId, filters }: Request): void {
    const { qos } = this.#options;
    if (kind === 'subscribe') {
      const subscriptions = filters.map((topic) => ({ topic, qos }));
      this.#link!.send({ cmd: 'subscribe', messageId: packetId, subscriptions });
    } else {
      this.#link!.send({ cmd: 'unsubscribe', messageId: packetId, unsubscriptions: [...filters] });
    }
  }

  /** True once nothing is asked for; false where the connection ends first. */
  async #answered(): Promise<boolean> {
    while (this.#request !== undefined && this.#isReady) {
      await new Promise<void>((resolve) => {
        this.#onAnswer = resolve;
      });
    }
    return this.#isReady;
  }

  #onClose(): void {
    this.#isReady = false;
    this.#dropAcks();
    this.#onAnswer();
  }

  #onPacket(packet: Packet): void {
    const { ledger, inbox, name, qos } = this.#options;
    if (packet.cmd === 'publish') {
      this.#onPublish(packet.messageId!, packet);
      return;
    }
    if (packet.cmd === 'pubrel') {
      this.#received.delete(packet.messageId!);
      this.#ack({ cmd: 'pubcomp', messageId: packet.messageId! });
      return;
    }
    if (packet.cmd === 'pingresp') {
      this.#onPong();
      return;
    }
    if (packet.cmd === 'disconnect') return;
    const request = this.#request;
    const isAnswer = packet.cmd === 'suback' || packet.cmd === 'unsuback';
    if (!isAnswer || request === undefined || request.packetId !== packet.messageId) {
      ledger.fail(`${name} got a ${packet.cmd} that it did not ask for`);
      return;
    }
    this.#wasAnswered = true;
    this.#request = undefined;
    if (packet.cmd === 'suback') {
      if (packet.granted.some((granted) => granted !== qos))
        ledger.fail(`${name} was granted ${packet.granted}`);
      for (const subscribed of request.subscribed) ledger.granted(inbox, subscribed);
    } else {
      for (const subscribed of request.subscribed) ledger.left(inbox, subscribed);
    }
    this.#onAnswer();
  }

  #onPublish(packetId: number, packet: Extract<Packet, { cmd: 'publish' }>): void {
    const { ledger, inbox, name } = this.#options;
    const id = idOf(packet);
    if (packet.qos === 2 && this.#received.has(packetId)) {
      ledger.saw(name, id, `PUBLISH again under packet id ${packetId}, which it has`);
    } else {
      if (packet.qos === 2) this.#received.add(packetId);
      const { qos, dup: isDuplicate, retain: isRetained } = packet;
      ledger.delivered(inbox, name, id, { qos, isDuplicate, isRetained, packetId });
    }
    this.#ack({ cmd: packet.qos === 2 ? 'pubrec' : 'puback', messageId: packetId });
  }

  /** [MQTT-4.6.0-2], [MQTT-4.6.0-3]: in the order of arrival. */
  #ack(packet: Packet): void {
    if (this.#options.ackDelayMsMax === 0) {
      this.#link!.send(packet);
      return;
    }
    this.#acks.push(packet);
    this.#ackTimer ??= this.#nextAck();
  }

  #nextAck(): NodeJS.Timeout {
    const { random, ackDelayMsMax } = this.#options;
    return setTimeout(
      () => {
        // Slow, and not so slow that the end of a run is spent waiting.
        const count = 1 + (this.#acks.length >> 2);
        for (const packet of this.#acks.splice(0, count)) this.#link!.send(packet);
        this.#ackTimer = this.#acks.length > 0 ? this.#nextAck() : undefined;
        if (this.#acks.length === 0) this.#onAcked();
      },
      random.integer(1, ackDelayMsMax),
    );
  }

  #dropAcks(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#acks = [];
  }
}

/** `c/#` of `$share/group/c/#`. */
function withoutShare(filter: string): string {
  return filter.startsWith('$share/') ? filter.split('/').slice(2).join('/') : filter;
}
