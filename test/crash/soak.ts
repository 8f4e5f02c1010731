// Hours in small: a mixed load on one broker for as long as is asked, in periods that each end with everything delivered. After each the process is
// measured while it rests: its memory, its open files and its directory must not grow with time.
import { strict as assert } from 'node:assert';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { BrokerProcess } from './broker-process.js';
import { Ledger } from './ledger.js';
import { type Link, openLink } from './link.js';
import { Publisher } from './publisher.js';
import type { Random } from './random.js';
import { Subscriber } from './subscriber.js';

export interface SoakOptions {
  readonly random: Random;
  readonly minutes: number;
  readonly data: string;
  readonly say: (line: string) => void;
}

export interface SoakSample {
  readonly rssBytes: number;
  readonly openFiles: number;
  readonly directoryBytes: number;
}

const MEBIBYTE = 1024 * 1024;
const SEGMENT_BYTES = MEBIBYTE;
const RETENTION_BYTES = 8 * MEBIBYTE;
const SETTINGS = [
  `log.segmentBytes=${SEGMENT_BYTES}`,
  `log.retentionBytes=${RETENTION_BYTES}`,
  'mqtt.reconnectGraceSeconds=1',
];
const PERIOD_MS = 15_000;
const SILENCE_MS = 30_000;
const CHURN_MS = 40;
/** Retention looks once a second, and had to wait for whoever was away. */
const RETENTION_MS = 2500;
/** Messages a publisher is allowed at a time, and how often. */
const PORTION = 25;
/** QoS 0 comes in bursts. */
const BURST = 50;
/** The part of the time in which caches fill and the heap finds its size. */
const WARM_UP = 0.3;
/** What the memory may do between two looks, from garbage that is not collected yet. */
const RSS_TOLERANCE = 1.2;
const RSS_SLACK_BYTES = 24 * MEBIBYTE;
/** Segments that are being read come and go. */
const FILES_SLACK = 12;
/** Retention works by segments, keeps what the snapshot before the last one needs, and has the reserve beside it. */
const DIRECTORY_BYTES_MAX = RETENTION_BYTES + 12 * SEGMENT_BYTES;

export async function soak(options: SoakOptions): Promise<SoakSample[]> {
  const run = new Soak(options);
  try {
    return await run.run();
  } finally {
    await run.end();
  }
}

class Soak {
  readonly #options: SoakOptions;
  readonly #ledger = new Ledger();
  readonly #publishers: Publisher[] = [];
  readonly #subscribers: Subscriber[] = [];
  readonly #samples: SoakSample[] = [];
  #broker: BrokerProcess | undefined;
  #qos0: Link | undefined;
  #qos0Received = 0;
  #visitors = 0;
  #away: Subscriber | undefined;

  constructor(options: SoakOptions) {
    this.#options = options;
    const { random } = options;
    const ledger = this.#ledger;
    for (const qos of [1, 2] as const) {
      const group = ledger.inbox(`group${qos}`, qos, true);
      for (const version of [4, 5] as const) {
        const publisher = `pub${qos}v${version}`;
        this.#publishers.push(
          new Publisher({
            ledger,
            random,
            name: publisher,
            version,
            qos,
            topics: [`c/${publisher}/0`, `c/${publisher}/1`],
            retainedTopics: [`r/${publisher}/0`, `r/${publisher}/1`],
            window: 20,
            paddingBytesMax: 2000,
          }),
        );
        for (const [kind, filters, ackDelayMsMax] of [
          ['all', ['c/#', 'r/#'], 0],
          ['slow', ['c/+/1'], 4],
          ['member', [`$share/g${qos}/c/#`], 0],
        ] as const) {
          const name = `${kind}${qos}v${version}`;
          const inbox = kind === 'member' ? group : ledger.inbox(name, qos);
          this.#subscribers.push(
            new Subscriber({ ledger, random, name, version, qos, filters, inbox, ackDelayMsMax }),
          );
        }
      }
    }
  }

  async run(): Promise<SoakSample[]> {
    const { minutes, data, say } = this.#options;
    const ledger = this.#ledger;
    this.#broker = await BrokerProcess.start({ data, settings: SETTINGS });
    const { port } = this.#broker;
    await this.#openQos0(port);
    const clients = [...this.#publishers, ...this.#subscribers];
    await ledger.whileRight(Promise.all(clients.map((client) => client.connect(port))));
    const beganMs = performance.now();
    while (performance.now() < beganMs + minutes * 60_000) {
      await this.#period(port);
      const sample = this.#measure();
      this.#samples.push(sample);
      const elapsed = Math.round((performance.now() - beganMs) / 1000);
      say(
        `soak ${elapsed} s: ${ledger.messageCount} messages, ${ledger.counters.delivered} delivered, ${this.#qos0Received} at QoS 0, ` +
          `${this.#visitors} visitors; rss ${mebibytes(sample.rssBytes)} MiB, ${sample.openFiles} open files, ` +
          `directory ${mebibytes(sample.directoryBytes)} MiB`,
      );
    }
    this.#qos0?.destroy();
    await this.#broker.stop();
    const errors = this.#broker.lines().filter(({ level }) => level === 'error');
    assert.equal(errors.length, 0, this.#broker.stderr);
    assertFlat(this.#samples);
    return this.#samples;
  }

  async end(): Promise<void> {
    for (const client of [...this.#publishers, ...this.#subscribers]) client.drop();
    this.#qos0?.destroy();
    await this.#broker?.kill();
  }

  /** Load with reconnects, then rest. One subscriber is away until the load is over, and gets its backlog then. */
  async #period(port: number): Promise<void> {
    const { random } = this.#options;
    const ledger = this.#ledger;
    this.#away = random.pick(this.#subscribers);
    this.#away.disconnect();
    await this.#away.closed();
    const endMs = performance.now() + PERIOD_MS;
    while (performance.now() < endMs) {
      await delay(CHURN_MS);
      ledger.check();
      for (const publisher of this.#publishers) if (publisher.isIdle) publisher.allow(PORTION);
      this.#burst();
      await this.#churn(port);
    }
    const idle = Promise.all(this.#publishers.map((publisher) => publisher.idle()));
    await ledger.whileRight(Promise.all([this.#away.connect(port), idle]));
    await ledger.settled(SILENCE_MS);
    // What is not acknowledged comes again, and would be of nobody then.
    await ledger.whileRight(Promise.all(this.#subscribers.map((subscriber) => subscriber.rest())));
    ledger.forget();
    await delay(RETENTION_MS);
  }

  async #churn(port: number): Promise<void> {
    const { random } = this.#options;
    const ledger = this.#ledger;
    if (random.chance(0.2)) {
      const subscriber = random.pick(this.#subscribers);
      if (subscriber === this.#away) return;
      if (random.chance(0.5)) subscriber.drop();
      await ledger.whileRight(subscriber.connect(port));
    } else if (random.chance(0.1)) {
      const publisher = random.pick(this.#publishers);
      publisher.drop();
      await ledger.whileRight(publisher.connect(port));
    } else if (random.chance(0.5)) {
      await ledger.whileRight(this.#visit(port));
    }
  }

  #burst(): void {
    for (let i = 0; i < BURST; i++) {
      this.#qos0?.send({
        cmd: 'publish',
        topic: `q/${i}`,
        payload: `${i} qos 0`,
        qos: 0,
        dup: false,
        retain: false,
      });
    }
  }

  async #openQos0(port: number): Promise<void> {
    const { link, connack } = openLink(
      port,
      4,
      { clientId: 'qos0', clean: true },
      {
        onPacket: ({ cmd }) => {
          if (cmd === 'publish') this.#qos0Received++;
        },
        onClose: () => undefined,
      },
    );
    await connack;
    this.#qos0 = link;
    link.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'q/#', qos: 0 }] });
  }

  /** Somebody with a session that ends with the connection, now and then a will, and topics that nobody used before. */
  async #visit(port: number): Promise<void> {
    const { random } = this.#options;
    const name = `visitor${++this.#visitors}`;
    const will = { topic: `visits/${name}`, payload: Buffer.from('gone'), qos: 1, retain: false } as const;
    let settle: () => void = () => undefined;
    const answered = new Promise<void>((resolve) => {
      settle = resolve;
    });
    const { link, connack } = openLink(
      port,
      random.pick([4, 5]),
      { clientId: name, clean: true, ...(random.chance(0.5) ? { will } : {}) },
      {
        onPacket: ({ cmd }) => {
          if (cmd === 'puback') settle();
        },
        onClose: () => settle(),
      },
    );
    await connack;
    link.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: `visits/${name}/#`, qos: 1 }] });
    link.send({
      cmd: 'publish',
      topic: `visits/${name}/a`,
      payload: name,
      qos: 1,
      messageId: 2,
      dup: false,
      retain: false,
    });
    await answered;
    if (random.chance(0.5)) link.send({ cmd: 'disconnect' });
    link.destroy();
  }

  #measure(): SoakSample {
    const { pid, data } = this.#broker!;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const rssBytes = Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) * 1024;
    const openFiles = readdirSync(`/proc/${pid}/fd`).length;
    let directoryBytes = 0;
    for (const name of readdirSync(data)) {
      // It may be removed this very moment.
      directoryBytes += statSync(join(data, name), { throwIfNoEntry: false })?.size ?? 0;
    }
    return { rssBytes, openFiles, directoryBytes };
  }
}

/** @throws where something grows after the warm-up */
function assertFlat(samples: readonly SoakSample[]): void {
  const warm = samples.slice(Math.floor(samples.length * WARM_UP));
  const half = Math.ceil(warm.length / 2);
  const before = Math.max(...warm.slice(0, half).map(({ rssBytes }) => rssBytes));
  const after = median(warm.slice(half).map(({ rssBytes }) => rssBytes));
  assert.ok(
    after <= before * RSS_TOLERANCE + RSS_SLACK_BYTES,
    `memory grows: ${mebibytes(before)} MiB at most in the first half after the warm-up, ${mebibytes(after)} MiB in the median of the second`,
  );
  const files = warm.map(({ openFiles }) => openFiles);
  assert.ok(
    Math.max(...files) <= Math.min(...files) + FILES_SLACK,
    `open files grow: ${Math.min(...files)} to ${Math.max(...files)}`,
  );
  const largest = Math.max(...warm.map(({ directoryBytes }) => directoryBytes));
  assert.ok(largest <= DIRECTORY_BYTES_MAX, `the directory grows: ${mebibytes(largest)} MiB`);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}

function mebibytes(bytes: number): string {
  return (bytes / MEBIBYTE).toFixed(1);
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
