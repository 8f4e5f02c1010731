// Owns one publisher of `gomqctl verify`: two numbered flows, one of QoS 1 and one of QoS 2, through one session. Every number is published until it is
// acknowledged, in order, with its own packet id and DUP after a connection was lost, as the standard has it.
import type { IConnackPacket, Packet } from 'mqtt-packet';
import type { Histogram } from './bench/histogram.js';
import type { Failure } from './failure.js';
import type { Published } from './verify-flow.js';
import { Gap } from './verify-gap.js';
import { type LinkListener, type LinkSettings, VerifyLink } from './verify-link.js';

const PACKET_IDS = 65_535;
/** After a refusal: the broker has no room, or its cluster cannot commit. */
const REFUSED_AGAIN_MS = 200;
/** What is remembered of the past to judge what comes again. */
const REMEMBERED_MAX = 100_000;

/** What all publishers add to. */
export interface PublishTotals {
  /** The broker has taken responsibility: PUBACK, PUBREC. */
  acknowledged: number;
  refused: number;
  refusedWhy: string;
  connectionsLost: number;
  /** Sessions that were acknowledged something, and were gone later. */
  sessionsLost: number;
  /** Messages waiting to be acknowledged to the end. */
  awaited: number;
  /** Of all publishers together. */
  readonly gap: Gap;
  readonly ackMicros: Histogram;
  onFailed(failure: Failure): void;
}

interface Entry {
  readonly flow: 0 | 1;
  readonly number: number;
  /** When it was due. */
  readonly dueMs: number;
  state: 'publish' | 'release';
  wasSent: boolean;
}

export class VerifyPublisher implements LinkListener {
  readonly link: VerifyLink;
  readonly gap = new Gap();
  /** By flow: how many numbers there are. */
  readonly published: [number, number] = [0, 0];
  readonly #totals: PublishTotals;
  readonly #topics: readonly [string, string];
  readonly #windowMax: number;
  #window: number;
  /** By packet id, in the order of publishing. */
  readonly #inflight = new Map<number, Entry>();
  /** Refused, to be published again. */
  #again: Entry[] = [];
  #againMs = 0;
  #lastId = 0;
  #wasAnswered = false;
  readonly #refused: [Set<number>, Set<number>] = [new Set(), new Set()];
  readonly #resent: [Set<number>, Set<number>] = [new Set(), new Set()];

  /** @param topics of the flow of QoS 1 and of QoS 2 */
  constructor(
    settings: LinkSettings,
    topics: readonly [string, string],
    window: number,
    totals: PublishTotals,
  ) {
    this.#topics = topics;
    this.#window = window;
    this.#windowMax = window;
    this.#totals = totals;
    this.link = new VerifyLink(settings, this);
  }

  /** How many of its messages are not acknowledged to the end. */
  get awaited(): number {
    return this.#inflight.size + this.#again.length;
  }

  /** Publishes the next number at `dueMs`; false where the window is full. The flows take turns. */
  publish(dueMs: number): boolean {
    if (this.awaited >= this.#window) return false;
    const flow = this.published[0] > this.published[1] ? 1 : 0;
    const entry: Entry = { flow, number: this.published[flow]++, dueMs, state: 'publish', wasSent: false };
    this.#totals.awaited++;
    this.#totals.gap.wait(dueMs);
    this.gap.wait(dueMs);
    this.#add(entry);
    return true;
  }

  /** Publishes again what was refused, when its time has come. */
  tick(nowMs: number): void {
    if (this.#again.length === 0 || nowMs < this.#againMs || !this.link.isUp) return;
    const again = this.#again;
    this.#again = [];
    for (const entry of again) this.#add(entry);
  }

  /** By flow: the numbers that nobody has taken responsibility for. */
  unacknowledged(flow: 0 | 1): number[] {
    const inflight = [...this.#inflight.values()].filter(({ state }) => state === 'publish');
    return [...inflight, ...this.#again].filter((entry) => entry.flow === flow).map(({ number }) => number);
  }

  /** What a flow of a subscriber asks. */
  historyOf(flow: 0 | 1): Published {
    return {
      wasRefused: (number) => this.#refused[flow].has(number),
      wasResent: (number) => this.#resent[flow].has(number),
    };
  }

  onUp({ sessionPresent, properties }: IConnackPacket): void {
    this.#window = Math.min(this.#windowMax, properties?.receiveMaximum ?? PACKET_IDS);
    if (!sessionPresent && this.#wasAnswered) {
      this.#totals.sessionsLost++;
      this.#wasAnswered = false;
    }
    this.link.cork();
    for (const [id, entry] of [...this.#inflight]) {
      if (entry.state === 'publish') this.#send(id, entry);
      // The broker has the message, and no memory of its packet id that PUBREL could release.
      else if (!sessionPresent) this.#finish(id);
      else this.link.send({ cmd: 'pubrel', messageId: id });
    }
  }

  onDown(): void {
    this.#totals.connectionsLost++;
  }

  onFailed(failure: Failure): void {
    this.#totals.onFailed(failure);
  }

  onPacket(packet: Packet): void {
    if (packet.cmd !== 'puback' && packet.cmd !== 'pubrec' && packet.cmd !== 'pubcomp') return;
    const id = packet.messageId!;
    const entry = this.#inflight.get(id);
    if (entry === undefined) return;
    const code = packet.reasonCode ?? 0;
    if (packet.cmd !== 'pubcomp' && code >= 0x80) {
      this.#refuse(id, entry, packet.properties?.reasonString ?? `0x${code.toString(16)}`);
      return;
    }
    this.#wasAnswered = true;
    if (packet.cmd === 'pubcomp') {
      this.#finish(id);
    } else {
      if (entry.state === 'publish') {
        this.#totals.acknowledged++;
        this.#totals.ackMicros.record(Math.floor((performance.now() - entry.dueMs) * 1000));
      }
      if (packet.cmd === 'puback') this.#finish(id);
      else {
        entry.state = 'release';
        this.link.send({ cmd: 'pubrel', messageId: id });
      }
    }
    const nowMs = performance.now();
    this.gap.came(nowMs, this.awaited > 0);
    this.#totals.gap.came(nowMs, this.#totals.awaited > 0);
  }

  #add(entry: Entry): void {
    do this.#lastId = (this.#lastId % PACKET_IDS) + 1;
    while (this.#inflight.has(this.#lastId));
    this.#inflight.set(this.#lastId, entry);
    if (this.link.isUp) this.#send(this.#lastId, entry);
  }

  #send(id: number, entry: Entry): void {
    if (entry.wasSent) remember(this.#resent[entry.flow], entry.number);
    this.link.send({
      cmd: 'publish',
      topic: this.#topics[entry.flow],
      payload: `${entry.number} ${entry.dueMs.toFixed(3)}`,
      qos: entry.flow === 0 ? 1 : 2,
      dup: entry.wasSent,
      retain: false,
      messageId: id,
    });
    entry.wasSent = true;
  }

  #refuse(id: number, entry: Entry, why: string): void {
    this.#inflight.delete(id);
    this.#totals.refused++;
    this.#totals.refusedWhy = why;
    remember(this.#refused[entry.flow], entry.number);
    // A new packet id, so it is not the same PUBLISH again.
    entry.wasSent = false;
    this.#again.push(entry);
    this.#againMs = performance.now() + REFUSED_AGAIN_MS;
  }

  #finish(id: number): void {
    this.#inflight.delete(id);
    this.#totals.awaited--;
  }
}

function remember(numbers: Set<number>, number: number): void {
  numbers.add(number);
  if (numbers.size <= REMEMBERED_MAX) return;
  const [oldest] = numbers;
  numbers.delete(oldest!);
}
