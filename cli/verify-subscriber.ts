// Owns one subscriber of `gomqctl verify`: a durable session that gets every flow of every publisher, acknowledges at once, and keeps the packet ids of
// QoS 2 between PUBLISH and PUBREL, also over connections: only so is what comes twice the broker's doing.
import type { IConnackPacket, IPublishPacket, Packet } from 'mqtt-packet';
import type { Histogram } from './bench/histogram.js';
import { Failure } from './failure.js';
import { describeReason } from './reasons.js';
import type { Flow } from './verify-flow.js';
import { type LinkListener, type LinkSettings, VerifyLink } from './verify-link.js';

/** What all subscribers add to. */
export interface SubscribeTotals {
  connectionsLost: number;
  sessionsLost: number;
  /** Messages that nobody of this run published. */
  foreign: number;
  readonly deliveryMicros: Histogram;
  onFailed(failure: Failure): void;
}

const SUBSCRIBE_ID = 1;

export class VerifySubscriber implements LinkListener {
  readonly link: VerifyLink;
  readonly #totals: SubscribeTotals;
  readonly #filter: string;
  /** By topic name. */
  readonly #flows: ReadonlyMap<string, Flow>;
  /** Packet ids of QoS 2 whose message has come and whose PUBREL has not. */
  readonly #held = new Set<number>();
  #isSubscribed = false;

  constructor(
    settings: LinkSettings,
    filter: string,
    flows: ReadonlyMap<string, Flow>,
    totals: SubscribeTotals,
  ) {
    this.#filter = filter;
    this.#flows = flows;
    this.#totals = totals;
    this.link = new VerifyLink(settings, this);
  }

  /** SUBACK has come: from here on nothing may be missed. */
  get isSubscribed(): boolean {
    return this.#isSubscribed;
  }

  get flows(): ReadonlyMap<string, Flow> {
    return this.#flows;
  }

  onUp({ sessionPresent }: IConnackPacket): void {
    if (!sessionPresent) {
      this.#held.clear();
      if (this.#isSubscribed) this.#totals.sessionsLost++;
      this.#isSubscribed = false;
    }
    if (this.#isSubscribed) return;
    this.link.send({
      cmd: 'subscribe',
      messageId: SUBSCRIBE_ID,
      subscriptions: [{ topic: this.#filter, qos: 2, nl: false, rap: true, rh: 2 }],
    });
  }

  onDown(): void {
    this.#totals.connectionsLost++;
  }

  onFailed(failure: Failure): void {
    this.#totals.onFailed(failure);
  }

  onPacket(packet: Packet): void {
    switch (packet.cmd) {
      case 'suback': {
        const code = Number(packet.granted[0]);
        if (code === 2) this.#isSubscribed = true;
        else if (code > 2) {
          const why = describeReason(code, packet.properties);
          this.#totals.onFailed(new Failure(`the broker refused to subscribe to "${this.#filter}": ${why}`));
        } else this.#totals.onFailed(new Failure(`the broker grants QoS ${code}; verify needs QoS 2`));
        break;
      }
      case 'publish':
        this.#onPublish(packet);
        break;
      case 'pubrel':
        this.#held.delete(packet.messageId!);
        this.link.send({ cmd: 'pubcomp', messageId: packet.messageId! });
        break;
    }
  }

  #onPublish(packet: IPublishPacket): void {
    const id = packet.messageId!;
    if (packet.qos === 2) {
      // The same PUBLISH again, not the message a second time.
      if (!this.#held.has(id)) this.#take(packet);
      this.#held.add(id);
      this.link.send({ cmd: 'pubrec', messageId: id });
      return;
    }
    this.#take(packet);
    if (packet.qos === 1) this.link.send({ cmd: 'puback', messageId: id });
  }

  #take({ topic, payload, dup }: IPublishPacket): void {
    const flow = this.#flows.get(topic);
    const match = /^(\d{1,15}) (\d+\.\d+)$/.exec(payload.toString());
    if (flow === undefined || match === null) {
      this.#totals.foreign++;
      return;
    }
    const number = Number(match[1]);
    if (!flow.has(number)) {
      const micros = Math.floor((performance.now() - Number(match[2])) * 1000);
      this.#totals.deliveryMicros.record(Math.max(0, micros));
    }
    flow.record(number, dup);
  }
}
