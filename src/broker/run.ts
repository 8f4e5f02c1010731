// Runs of QoS 0 publishes: packets of one topic that arrived one behind the other leave one behind the other, so to subscribers of the same version
// they are copied as one piece, however many they are.
import { PublishFrame } from '../packet/publish.js';
import type { Topic } from '../router/topic-table.js';
import type { Delivery } from '../session/delivery.js';
import { Message, NO_OFFSET } from '../session/message.js';
import type { Route } from '../session/subscription.js';
import type { Connection } from './connection.js';

export class PublishRun {
  readonly #delivery: Delivery;
  readonly #routeOf: (topic: Topic<Route>) => Route;
  readonly #frame = new PublishFrame();
  readonly #message = new Message();

  buffer: Buffer = Buffer.alloc(0);
  start = 0;
  end = 0;
  count = 0;
  topic!: Topic<Route>;
  connection!: Connection;

  constructor(delivery: Delivery, routeOf: (topic: Topic<Route>) => Route) {
    this.#delivery = delivery;
    this.#routeOf = routeOf;
  }

  /** Begins a run with one packet. The run before has been delivered. */
  begin(connection: Connection, topic: Topic<Route>, buffer: Buffer, start: number, end: number): void {
    this.connection = connection;
    this.topic = topic;
    this.buffer = buffer;
    this.start = start;
    this.end = end;
    this.count = 1;
  }

  /** Sends the run to everybody who wants it. Must be called before anything else happens that its publishes come before. */
  deliver(): void {
    const count = this.count;
    if (count === 0) return;
    this.count = 0;
    const route = this.#routeOf(this.topic);
    const entries = route.entries;
    const isV5 = this.connection.version === 5;
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!;
      const outbox = entry.session.outbox;
      if (outbox === undefined) continue;
      const isVerbatim =
        (outbox.version === 5) === isV5 &&
        outbox.isPlain &&
        entry.subscriptionIds === undefined &&
        !entry.hasNoLocal;
      if (!isVerbatim) {
        this.#deliverEach((message) => this.#delivery.deliverTo(entry, message));
      } else if (outbox.hasRoom) {
        outbox.bytes(this.buffer, this.start, this.end);
        this.#delivery.counters.delivered += count;
      } else {
        this.#delivery.counters.droppedOutboxFull += count;
      }
    }
    for (const group of route.groups)
      this.#deliverEach((message) => this.#delivery.deliverToGroup(group, message));
  }

  #deliverEach(deliver: (message: Message) => void): void {
    const frame = this.#frame;
    const message = this.#message;
    const { buffer, connection } = this;
    message.topic = this.topic;
    message.qos = 0;
    message.isRetained = false;
    message.publisher = connection.session!.number;
    message.offset = NO_OFFSET;
    message.expirySeconds = -1;
    message.noProperties();
    message.noSource();
    message.isWill = false;
    message.buffer = buffer;
    message.isBufferStable = false;
    for (let start = this.start; start < this.end; ) {
      // The packets were split before, so their lengths are known to be good.
      let bodyStart = start + 1;
      let remaining = 0;
      for (let shift = 0; ; shift += 7) {
        const byte = buffer[bodyStart++]!;
        remaining |= (byte & 0x7f) << shift;
        if (byte < 0x80) break;
      }
      const end = bodyStart + remaining;
      frame.parse(buffer, start, bodyStart, end, connection.version);
      message.topicStart = frame.topicStart;
      message.topicEnd = frame.topicEnd;
      message.payloadStart = frame.payloadStart;
      message.payloadEnd = frame.payloadEnd;
      deliver(message);
      start = end;
    }
  }
}
