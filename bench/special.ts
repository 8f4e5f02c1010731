// Owns the cases that are about gomq alone: idle connections, a million subscriptions, a subscriber that stops reading.
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import mqttPacket from 'mqtt-packet';
import { type Broker, type BrokerName, startBroker } from './brokers.js';
import { type Measurement, measure } from './measure.js';
import { collect, residentBytes, run, start, stop } from './processes.js';
import { median, sum } from './statistics.js';
import type { SubscriptionsResult } from './subscriptions.js';

export interface IdleResult {
  connections: number;
  bytesBefore: number;
  bytesAfter: number;
  bytesPerConnection: number;
}

/** What the broker lets settle before its memory is read: collections of what connecting left behind. */
const SETTLE_MS = 5000;

export async function measureIdle(name: BrokerName, connections: number): Promise<IdleResult> {
  const broker = await startBroker(name);
  try {
    // A few connections first, so that the cost of the first one (code, pools) is not counted as everyone's.
    await stop(await openIdle(broker.port, 200));
    await sleep(SETTLE_MS);
    const bytesBefore = residentBytes(broker.pid) ?? Number.NaN;
    const clients = await openIdle(broker.port, connections);
    await sleep(SETTLE_MS);
    const bytesAfter = residentBytes(broker.pid) ?? Number.NaN;
    await stop(clients);
    return {
      connections,
      bytesBefore,
      bytesAfter,
      bytesPerConnection: (bytesAfter - bytesBefore) / connections,
    };
  } finally {
    await broker.stop();
  }
}

async function openIdle(port: number, count: number) {
  const child = start(process.execPath, ['--import', 'tsx', 'bench/idle-clients.ts', `${port}`, `${count}`]);
  const output = collect(child);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on('data', () => {
      if (output.out.includes(`open ${count}`)) resolve();
    });
    child.once('exit', () => reject(new Error(`idle connections: ${output.err.trim()}`)));
  });
  return child;
}

export async function measureSubscriptions(): Promise<SubscriptionsResult> {
  const args = ['--expose-gc', '--max-old-space-size=4096', '--import', 'tsx', 'bench/subscriptions.ts'];
  const { code, out, err } = await run(process.execPath, args);
  if (code !== 0) throw new Error(err.trim());
  return JSON.parse(out) as SubscriptionsResult;
}

export interface StalledResult {
  qos: 0 | 1;
  /** Deliveries a second to the ten others at a fixed rate, without and with the subscriber that does not read. */
  pacedWithout: number;
  pacedWith: number;
  latencyP99MsWithout: number;
  latencyP99MsWith: number;
  lost: number;
  /** As fast as it goes: the median ratio with to without. */
  saturatedRatio: number;
  residentBytesWithout: number;
  residentBytesWith: number;
  /** How much of it the configuration allows the stalled subscriber. */
  boundBytes: number;
}

const STALLED_SUBSCRIBERS = 10;
const STALLED_PUBLISHES_PER_SECOND = 10_000;
const OUTBOX_BYTES = 1024 * 1024;
const LOG_HARD_LIMIT_BYTES = 96 * 1024 * 1024;
const LOG_SEGMENT_BYTES = 8 * 1024 * 1024;
/** What of the log is in memory, whoever reads it or does not. */
const LOG_CACHE_BYTES = 64 * 1024 * 1024;

export async function measureStalled(
  name: BrokerName,
  qos: 0 | 1,
  seconds: number,
  rounds: number,
  cores: number,
): Promise<StalledResult> {
  const broker = await startBroker(name, {
    settings: [
      `limits.outboxBytes=${OUTBOX_BYTES}`,
      `log.segmentBytes=${LOG_SEGMENT_BYTES}`,
      `log.cacheBytes=${LOG_CACHE_BYTES}`,
      `log.retentionBytes=${LOG_HARD_LIMIT_BYTES / 2}`,
      `log.hardLimitBytes=${LOG_HARD_LIMIT_BYTES}`,
    ],
  });
  const shape = ['--mode', 'fanout', '--pubs', '1', '--subs', `${STALLED_SUBSCRIBERS}`, '--size', '64'];
  const common = [
    ...shape,
    '--qos',
    `${qos}`,
    '--topic',
    'stall',
    '--warmup',
    '1',
    '--duration',
    `${seconds}`,
  ];
  const paced = [...common, '--rate', `${STALLED_PUBLISHES_PER_SECOND}`];
  try {
    // Code is compiled and the heap has its working size before anything is compared. A heap seldom shrinks, so memory without the stalled
    // subscriber is what was seen before there was one.
    const first = await measure(broker, common, cores);
    const without = await measure(broker, paced, cores);
    const withIt = await whileStalled(broker, qos, () => measure(broker, paced, cores));
    const plain: Measurement[] = [];
    const stalled: Measurement[] = [];
    for (let round = 0; round < rounds; round++) {
      // The order changes, so that neither always has the warmer broker.
      if (round % 2 === 0) plain.push(await measure(broker, common, cores));
      stalled.push(await whileStalled(broker, qos, () => measure(broker, common, cores)));
      if (round % 2 === 1) plain.push(await measure(broker, common, cores));
    }
    const speed = (measurement: Measurement) => measurement.result.deliveredPerSecond;
    const resident = (all: Measurement[]) =>
      Math.max(...all.map((one) => one.residentBytesMax ?? Number.NaN));
    return {
      qos,
      pacedWithout: without.result.deliveredPerSecond,
      pacedWith: withIt.result.deliveredPerSecond,
      latencyP99MsWithout: without.result.latencyMs.p99,
      latencyP99MsWith: withIt.result.latencyMs.p99,
      lost: sum([withIt, ...stalled].map((one) => one.result.lost)),
      saturatedRatio: median(stalled.map((one, round) => speed(one) / speed(plain[round]!))),
      residentBytesWithout: resident([first, without]),
      residentBytesWith: resident([withIt, ...stalled]),
      boundBytes: OUTBOX_BYTES + (qos === 0 ? 0 : LOG_CACHE_BYTES),
    };
  } finally {
    await broker.stop();
  }
}

/** Does `work` while a subscriber to everything has stopped reading. */
async function whileStalled<T>(broker: Broker, qos: 0 | 1, work: () => Promise<T>): Promise<T> {
  const socket = createConnection({ port: broker.port, host: '127.0.0.1' });
  // The broker may well throw it out; that is one right answer to a subscriber that does not read.
  socket.on('error', () => {});
  try {
    await stallAfterSubscribing(socket, qos);
    return await work();
  } finally {
    socket.destroy();
  }
}

async function stallAfterSubscribing(socket: Socket, qos: 0 | 1): Promise<void> {
  socket.write(
    mqttPacket.generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: true,
      keepalive: 3600,
      clientId: `stalled-${process.pid}-${Date.now()}`,
    }),
  );
  await once(socket, 'data');
  socket.write(
    mqttPacket.generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'stall/#', qos }] }),
  );
  await once(socket, 'data');
  socket.pause();
}
