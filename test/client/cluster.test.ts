// The client with three broker processes and an etcd: the leader is killed while messages are on their way in both directions.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  type ConnectionOptions,
  type Consumer,
  createConsumer,
  createProducer,
  type Producer,
  type ReceivedMessage,
} from '../../client/src/index.js';
import { ClusterProcess } from './cluster-process.js';
import { unique } from './support.js';

/** Messages of each producer: so many that the leader dies in the midst of them. */
const MESSAGES = 2_000;
/** Acknowledged by then. */
const KILL_AFTER = 500;
const OUTSTANDING_MAX = 100;
/** Far above what it takes (150 to 300 ms), for machines under load. What it took is told. */
const GAP_MS_MAX = 10_000;

let cluster: ClusterProcess;

before(async () => {
  cluster = await ClusterProcess.start();
});

after(async () => {
  await cluster.stop();
});

/** The longest time between two things that happened, from the first on. */
class Pace {
  #lastMs: number | undefined;
  gapMs = 0;

  beat(): void {
    const now = performance.now();
    this.gapMs = Math.max(this.gapMs, now - (this.#lastMs ?? now));
    this.#lastMs = now;
  }
}

/** Publishes MESSAGES numbers, a window of them at a time; `onAcknowledged` gets how many are done. */
async function publishAll(
  producer: Producer,
  pace: Pace,
  onAcknowledged: (count: number) => void,
): Promise<void> {
  let acknowledged = 0;
  const outstanding = new Set<Promise<void>>();
  for (let index = 0; index < MESSAGES; index += 1) {
    const sent = producer.publish(String(index)).then(() => {
      outstanding.delete(sent);
      pace.beat();
      acknowledged += 1;
      onAcknowledged(acknowledged);
    });
    outstanding.add(sent);
    if (outstanding.size >= OUTSTANDING_MAX) {
      await Promise.race(outstanding);
    }
  }
  await Promise.all(outstanding);
}

/** Reads until the last number of every topic is there. */
async function receiveAll(
  messages: AsyncIterable<ReceivedMessage>,
  topics: readonly string[],
  pace: Pace,
): Promise<Map<string, number[]>> {
  const received = new Map(topics.map((topic): [string, number[]] => [topic, []]));
  const unfinished = new Set(topics);
  for await (const message of messages) {
    const number = Number(message.text());
    received.get(message.topic)!.push(number);
    message.ack();
    pace.beat();
    if (number === MESSAGES - 1) {
      unfinished.delete(message.topic);
    }
    if (unfinished.size === 0) {
      break;
    }
  }
  return received;
}

const numbers = Array.from({ length: MESSAGES }, (_, index) => index);

test('kill -9 of the leader: nothing acknowledged is lost, QoS 2 comes exactly once, the order is kept', async (t) => {
  const stem = unique('failover');
  const topics = [`${stem}/1`, `${stem}/2`, `${stem}/2-of-311`];
  const leader = await cluster.leader();
  const others = cluster.brokers.filter((broker) => broker !== leader).map(({ mqtt }) => mqtt);
  const clients: (Producer | Consumer)[] = [];
  const producer = (topic: string, options: ConnectionOptions): Producer => {
    const made = createProducer({ topic, qos: topic.endsWith('/1') ? 1 : 2, ...options });
    clients.push(made);
    return made;
  };
  try {
    // Some are connected to the leader, one through a member, and all have to find the next leader, by what they were told or by asking.
    const consumer = createConsumer({
      brokers: { http: cluster.brokers.map(({ http }) => http) },
      clientId: `${stem}-c`,
    });
    clients.push(consumer);
    const producers = [
      producer(topics[0]!, { brokers: { etcd: [cluster.etcdUrl] } }),
      producer(topics[1]!, { brokers: [leader.mqtt, ...others] }),
      // 3.1.1 keeps a session only under a client id.
      producer(topics[2]!, { brokers: [...others, leader.mqtt], protocolVersion: 4, clientId: `${stem}-p` }),
    ];
    const messages = consumer.subscribe(topics, { qos: 2 });
    await messages.ready();
    const receiving = new Pace();
    const received = receiveAll(messages, topics, receiving);
    const paces = producers.map(() => new Pace());
    let killed: Promise<void> | undefined;
    const published = producers.map((one, index) =>
      publishAll(one, paces[index]!, (count) => {
        if (count === KILL_AFTER) {
          killed ??= cluster.kill(leader);
        }
      }),
    );
    await Promise.all(published);
    await killed;
    const all = await received;
    // At QoS 1 a message may come twice; the first of each come in order.
    assert.deepEqual([...new Set(all.get(topics[0]!))], numbers);
    assert.deepEqual(all.get(topics[1]!), numbers);
    assert.deepEqual(all.get(topics[2]!), numbers);
    const gaps = [...paces, receiving].map(({ gapMs }) => gapMs);
    t.diagnostic(`longest gaps: ${gaps.map((gapMs) => `${gapMs.toFixed(0)} ms`).join(', ')}`);
    assert.ok(Math.max(...gaps) < GAP_MS_MAX, `${gaps}`);
    assert.notEqual((await cluster.leader()).node, leader.node);
  } catch (error) {
    t.diagnostic(cluster.said);
    throw error;
  } finally {
    await Promise.all(clients.map((client) => client.close({ timeoutMs: 1_000 })));
  }
});
