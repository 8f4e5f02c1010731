// A few clients at QoS 1 and 2 with a ledger between them, for tests of one end of a broker.
import assert from 'node:assert/strict';
import type { BrokerProcess } from './broker-process.js';
import { Ledger } from './ledger.js';
import { Publisher } from './publisher.js';
import type { Random } from './random.js';
import { Subscriber } from './subscriber.js';

/** Nothing comes for so long: it is lost. */
const SILENCE_MS = 10_000;

export function makePublisher(
  ledger: Ledger,
  random: Random,
  { version, qos, window }: { version: 4 | 5; qos: 1 | 2; window: number },
): Publisher {
  const name = `pub${qos}`;
  return new Publisher({
    ledger,
    random,
    name,
    version,
    qos,
    topics: [`c/${name}`],
    retainedTopics: [`r/${name}`],
    window,
    paddingBytesMax: 500,
  });
}

/** Publishers and subscribers at QoS 1 and 2 with a ledger between them. */
export class Clients {
  readonly #ledger = new Ledger();
  readonly #publishers: Publisher[] = [];
  readonly #subscribers: Subscriber[] = [];

  constructor(random: Random) {
    const ledger = this.#ledger;
    for (const [version, qos] of [
      [4, 1],
      [5, 2],
    ] as const) {
      this.#publishers.push(makePublisher(ledger, random, { version, qos, window: 5 }));
      const name = `sub${qos}`;
      const inbox = ledger.inbox(name, qos);
      const filters = ['c/#', 'r/#'];
      this.#subscribers.push(
        new Subscriber({ ledger, random, name, version, qos, filters, inbox, ackDelayMsMax: 0 }),
      );
    }
  }

  /** Resolves when so many things have happened to messages. */
  async entries(count: number): Promise<void> {
    let left = count;
    const over = new Promise<void>((resolve) => {
      this.#ledger.onEntry = () => {
        left--;
        if (left === 0) resolve();
      };
    });
    await this.#ledger.whileRight(over);
  }

  /** Publishes until the broker is no more. */
  async load(broker: BrokerProcess): Promise<void> {
    const { port } = broker;
    await Promise.all(this.#subscribers.map((subscriber) => subscriber.connect(port)));
    for (const publisher of this.#publishers) publisher.allow(Number.MAX_SAFE_INTEGER);
    await Promise.all(this.#publishers.map((publisher) => publisher.connect(port)));
    const closed = [...this.#publishers, ...this.#subscribers].map((client) => client.closed());
    await this.#ledger.whileRight(Promise.all(closed));
    for (const publisher of this.#publishers) publisher.halt();
  }

  /** Everything comes to its end, and the books are right. */
  async settle(broker: BrokerProcess): Promise<void> {
    const clients = [...this.#publishers, ...this.#subscribers];
    const ledger = this.#ledger;
    await ledger.whileRight(Promise.all(clients.map((client) => client.connect(broker.port))));
    await ledger.whileRight(Promise.all(this.#publishers.map((publisher) => publisher.idle())));
    await ledger.settled(SILENCE_MS);
    ledger.check();
    assert.ok(ledger.counters.acknowledged > 0, 'something was acknowledged');
  }

  drop(): void {
    for (const client of [...this.#publishers, ...this.#subscribers]) client.drop();
  }
}
