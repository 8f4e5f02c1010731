// Owns the cases of three replicas: what they cost beside brokers that have one copy or none, how long nobody answers when the leader goes, and how fast
// a node catches up.
import { randomBytes } from 'node:crypto';
import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchResult } from '../cli/bench/run.js';
import { startBroker } from './brokers.js';
import { ChunkPublisher, makeChunk } from './clients.js';
import { GomqCluster, NODES, type NodeName } from './cluster.js';
import { demandSpace, readStoredLog } from './disk.js';
import { KEEP_ALL, whole } from './log-cases.js';
import { type Measured, measure } from './measure.js';
import { startNats } from './nats.js';
import { median } from './statistics.js';
import { type Ack, SteadyPublisher } from './steady-publisher.js';
import { integer } from './table.js';

export const CLUSTER = [
  'cluster',
  'cluster-ack',
  'cluster-member',
  'cluster-kill',
  'cluster-handover',
  'cluster-catch-up',
] as const;
export type ClusterCase = (typeof CLUSTER)[number];

export interface ClusterReport {
  /** Of the brokers that it was compared with. */
  versions: Partial<Record<'mosquitto' | 'nats', string>>;
  throughput: ThroughputResult[];
  ack: LatencyPair | undefined;
  member: LatencyPair | undefined;
  kill: FailoverResult | undefined;
  handover: FailoverResult | undefined;
  catchUp: CatchUpResult | undefined;
  /** The load average of the machine (over a minute) before each case and at the end. */
  loads: number[];
}

export function noClusterReport(): ClusterReport {
  return {
    ...{ versions: {}, throughput: [], ack: undefined, member: undefined },
    ...{ kill: undefined, handover: undefined, catchUp: undefined, loads: [] },
  };
}

export interface ClusterOptions {
  seconds: number;
  rounds: number;
  cores: number;
  kills: number;
  handovers: number;
  /** Of the log that a node has to catch up with, about. */
  catchUpBytes: number;
  catchUpRounds: number;
}

/** How the cases are told of: run.ts prints and notes. */
export interface Telling {
  /** Does the work of one case, prints its line, and notes why where it fails. */
  attempt(name: string, work: () => Promise<string>): Promise<void>;
  note(text: string): void;
}

export async function measureCluster(
  report: ClusterReport,
  isChosen: (name: ClusterCase) => boolean,
  options: ClusterOptions,
  telling: Telling,
): Promise<void> {
  const on = async (name: ClusterCase, work: () => Promise<string>) => {
    if (!isChosen(name)) return;
    report.loads.push(loadavg()[0]!);
    await telling.attempt(name, work);
  };
  await on('cluster', async () => {
    await measureThroughput(report, options, telling);
    const shares = report.throughput.map(({ title, perSecond }) => `${title} ${rateText(perSecond.cluster)}`);
    return shares.join('; ');
  });
  await on('cluster-ack', async () => {
    report.ack = await compareAcks('alone', options);
    return pairText(report.ack);
  });
  await on('cluster-member', async () => {
    report.member = await compareAcks('leader', options);
    return pairText(report.member);
  });
  await on('cluster-kill', async () => {
    report.kill = await measureFailover('kill', options.kills);
    return failoverText(report.kill);
  });
  await on('cluster-handover', async () => {
    report.handover = await measureFailover('stop', options.handovers);
    return failoverText(report.handover);
  });
  await on('cluster-catch-up', async () => {
    report.catchUp = await measureCatchUp(options.catchUpBytes, options.catchUpRounds);
    const { megabytesPerSecond, storedBytes } = report.catchUp;
    return `${(storedBytes / 1e6).toFixed(0)} MB at ${megabytesPerSecond.map((rate) => rate.toFixed(0)).join(', ')} MB/s`;
  });
  if (report.loads.length > 0) report.loads.push(loadavg()[0]!);
}

// ---- throughput -------------------------------------------------------------------------------------------------------------------------

/** Three gomq, one gomq, Mosquitto in memory, three NATS. */
const CONTENDERS = ['cluster', 'alone', 'mosquitto', 'nats'] as const;
export type Contender = (typeof CONTENDERS)[number];

export interface ThroughputResult {
  title: string;
  /** The cluster to another broker, at least. */
  targets: Partial<Record<Contender, number>>;
  /** Messages delivered, one number a round; undefined where that round failed. */
  perSecond: Partial<Record<Contender, (number | undefined)[]>>;
}

interface Shape extends Pick<ThroughputResult, 'title' | 'targets'> {
  qos: 1 | 2;
  window: number;
  contenders: readonly Contender[];
}

/** NATS 2.9 has no QoS 2, and as much in flight as it is given makes no difference to it. */
const SHAPES: readonly Shape[] = [
  {
    ...{ title: 'QoS 1, window 500', qos: 1, window: 500, targets: { mosquitto: 2 } },
    contenders: ['cluster', 'alone', 'mosquitto'],
  },
  {
    ...{ title: 'QoS 1, window 100', qos: 1, window: 100, targets: { mosquitto: 1, nats: 20 } },
    contenders: CONTENDERS,
  },
  {
    ...{ title: 'QoS 2, window 500', qos: 2, window: 500, targets: {} },
    contenders: ['cluster', 'alone', 'mosquitto'],
  },
  {
    ...{ title: 'QoS 2, window 100', qos: 2, window: 100, targets: {} },
    contenders: ['cluster', 'alone', 'mosquitto'],
  },
];

interface Running {
  name: Contender;
  /** Asked before each run: who leads may change. */
  target(): Promise<Measured>;
  /** What must stay the same during a run. */
  changes(): number;
  stop(): Promise<void>;
}

async function measureThroughput(
  report: ClusterReport,
  { seconds, rounds, cores }: ClusterOptions,
  { note }: Telling,
): Promise<void> {
  const running: Running[] = [];
  try {
    for (const name of CONTENDERS) {
      try {
        running.push(await startContender(name, report));
      } catch (error) {
        if (name === 'cluster') throw error;
        note(`the cluster is not compared with ${name}: ${(error as Error).message}`);
      }
    }
    report.throughput = SHAPES.map(({ title, targets }) => ({ title, targets, perSecond: {} }));
    const bounds = ['--duration', `${seconds}`, '--warmup', '1'];
    for (let round = 0; round < rounds; round++) {
      for (const [at, { title, qos, window, contenders }] of SHAPES.entries()) {
        const shape = [
          '--qos',
          `${qos}`,
          '--pubs',
          '4',
          '--subs',
          '4',
          '--size',
          '64',
          '--window',
          `${window}`,
        ];
        for (let turn = 0; turn < running.length; turn++) {
          const one = running[(round + turn) % running.length]!;
          if (!contenders.includes(one.name)) continue;
          const label = `round ${round + 1}/${rounds}  ${title}  ${one.name.padEnd(9)}`;
          const { perSecond } = report.throughput[at]!;
          const all = perSecond[one.name] ?? [];
          perSecond[one.name] = all;
          all[round] = undefined;
          try {
            const { result } = await undisturbed(one, (target) =>
              measure(target, [...shape, ...bounds], cores),
            );
            all[round] = result.deliveredPerSecond;
            console.log(`${label} ${deliveryText(result)}`);
          } catch (error) {
            note(`${one.name}, ${title}, round ${round + 1}: ${(error as Error).message}`);
          }
        }
      }
    }
  } finally {
    await Promise.all(running.map((one) => one.stop()));
  }
}

async function startContender(name: Contender, report: ClusterReport): Promise<Running> {
  switch (name) {
    case 'cluster': {
      const cluster = await GomqCluster.start();
      return {
        name,
        target: async () => cluster.through(await cluster.whole()),
        changes: () => cluster.changes,
        stop: () => cluster.close(),
      };
    }
    case 'alone':
    case 'mosquitto': {
      const broker = await startBroker(name === 'alone' ? 'gomq' : name);
      if (name === 'mosquitto') report.versions.mosquitto = broker.version;
      return { name, target: async () => broker, changes: () => 0, stop: () => broker.stop() };
    }
    case 'nats': {
      const nats = await startNats();
      report.versions.nats = nats.version;
      return { name, target: async () => nats.leader, changes: () => 0, stop: () => nats.stop() };
    }
  }
}

/** @throws {Error} where something was lost, or a node was not in sync all the time: then the number is of fewer replicas */
async function undisturbed(
  one: Pick<Running, 'target' | 'changes'>,
  work: (target: Measured) => Promise<{ result: BenchResult }>,
): Promise<{ result: BenchResult }> {
  const target = await one.target();
  const before = one.changes();
  const measurement = await work(target);
  whole(measurement.result);
  if (one.changes() !== before) throw new Error('leader or in-sync set changed while it was measured');
  return measurement;
}

function deliveryText({ deliveredPerSecond, latencyMs }: BenchResult): string {
  return `${integer(deliveredPerSecond).padStart(10)}/s  p50 ${latencyMs.p50.toFixed(3)} ms  p99 ${latencyMs.p99.toFixed(3)} ms`;
}

function rateText(rates: readonly (number | undefined)[] = []): string {
  const known = rates.filter((one) => one !== undefined);
  return known.length === 0 ? 'failed' : `${integer(median(known))}/s`;
}

// ---- acknowledgements -------------------------------------------------------------------------------------------------------------------

/** Median milliseconds from a publish to its PUBACK, one publisher with one message in flight; one number a round. */
export interface LatencyPair {
  ackMs: number[];
  /** Of what it is compared with. */
  otherMs: number[];
}

const ALONE = ['--qos', '1', '--pubs', '1', '--subs', '0', '--window', '1', '--size', '64'];

/** The leader beside a gomq that stands alone, or a member beside the leader. */
async function compareAcks(
  other: 'alone' | 'leader',
  { seconds, rounds, cores }: ClusterOptions,
): Promise<LatencyPair> {
  const cluster = await GomqCluster.start();
  try {
    const broker = other === 'alone' ? await startBroker('gomq') : undefined;
    const pair: LatencyPair = { ackMs: [], otherMs: [] };
    const args = [...ALONE, '--duration', `${seconds}`, '--warmup', '0.5'];
    const changes = () => cluster.changes;
    const ack = async (target: () => Promise<Measured>) => {
      const { result } = await undisturbed({ target, changes }, (one) => measure(one, args, cores));
      return result.ackMs.p50;
    };
    const leader = async () => cluster.through(await cluster.whole());
    const member = async () => {
      await cluster.whole();
      return cluster.through(cluster.members()[0]!);
    };
    const works = [
      async () => pair.ackMs.push(await ack(broker === undefined ? member : leader)),
      async () => pair.otherMs.push(await ack(broker === undefined ? leader : async () => broker)),
    ];
    try {
      // One message at a time warms no compiler up in half a second, so one round counts for nothing.
      for (const work of works) await work();
      pair.ackMs.length = 0;
      pair.otherMs.length = 0;
      for (let round = 0; round < rounds; round++) {
        for (let turn = 0; turn < works.length; turn++) await works[(round + turn) % works.length]!();
      }
    } finally {
      await broker?.stop();
    }
    return pair;
  } finally {
    await cluster.close();
  }
}

function pairText({ ackMs, otherMs }: LatencyPair): string {
  const ratio = median(ackMs.map((ms, round) => ms / otherMs[round]!));
  return `${median(ackMs).toFixed(3)} ms to ${median(otherMs).toFixed(3)} ms: ${ratio.toFixed(2)}x`;
}

// ---- a leader that goes -----------------------------------------------------------------------------------------------------------------

/** In milliseconds from when the leader was sent its signal; one number a time. */
export interface FailoverResult {
  /** To the first PUBACK that the next leader sent. */
  firstAckMs: number[];
  /** To when the next leader said that it serves. */
  servesMs: number[];
  /** The longest time that a publisher had no PUBACK, from the signal until the node that went is in sync again. */
  gapMs: number[];
  /** From starting that node to when it was in sync. */
  backMs: number[];
}

/** So many acknowledgements of each publisher are there before the leader goes, after, and once it is back. */
const ACKS_MIN = 100;
/** The leader goes at any moment of its heartbeat. */
const REST_MS_MAX = 200;

async function measureFailover(how: 'kill' | 'stop', times: number): Promise<FailoverResult> {
  const cluster = await GomqCluster.start();
  const all: FailoverResult = { firstAckMs: [], servesMs: [], gapMs: [], backMs: [] };
  try {
    for (let time = 0; time < times; time++) {
      const one = await failOver(cluster, how, time);
      for (const key of ['firstAckMs', 'servesMs', 'gapMs', 'backMs'] as const) all[key].push(one[key]);
      console.log(
        `${how} ${time + 1}/${times}  first PUBACK ${one.firstAckMs.toFixed(0)} ms  serves ${one.servesMs.toFixed(0)} ms  ` +
          `longest gap ${one.gapMs.toFixed(0)} ms  in sync again ${one.backMs.toFixed(0)} ms`,
      );
    }
    return all;
  } finally {
    await cluster.close();
  }
}

async function failOver(
  cluster: GomqCluster,
  how: 'kill' | 'stop',
  time: number,
): Promise<Record<keyof FailoverResult, number>> {
  const leader = await cluster.whole();
  const { epoch } = cluster;
  const survivors = cluster.members();
  const ports = survivors.map((name) => cluster.port(name));
  const publishers = survivors.map(
    (name, at) => new SteadyPublisher(`at-${name}-${time}`, [...ports.slice(at), ...ports.slice(0, at)]),
  );
  try {
    await untilAcks(cluster, publishers, () => true);
    await sleep(Math.random() * REST_MS_MAX);
    const goesAtMs = performance.now();
    const gone = how === 'kill' ? cluster.kill(leader) : cluster.stop(leader);
    await untilAcks(cluster, publishers, ({ openedMs }) => openedMs > goesAtMs);
    await gone;
    await cluster.until(() => cluster.epoch > epoch && !cluster.inSync.includes(leader), `${leader} is out`);
    const servesMs = cluster.servesSinceMs - goesAtMs;
    const startsAtMs = performance.now();
    await cluster.start(leader);
    await cluster.whole();
    const backMs = cluster.inSyncSinceMs - startsAtMs;
    const inSyncMs = performance.now();
    await untilAcks(cluster, publishers, ({ atMs }) => atMs > inSyncMs);
    const firstAckMs = Math.min(...publishers.map((one) => firstOf(one, goesAtMs))) - goesAtMs;
    const gapMs = Math.max(...publishers.map((one) => one.longestGapMs(goesAtMs)));
    return { firstAckMs, servesMs, gapMs, backMs };
  } finally {
    for (const one of publishers) one.end();
  }
}

/** Of the next leader: it came on a connection that was begun after the former one went. */
function firstOf(publisher: SteadyPublisher, goesAtMs: number): number {
  return publisher.acks.find(({ openedMs }) => openedMs > goesAtMs)?.atMs ?? Number.POSITIVE_INFINITY;
}

/** Until every publisher has had a number of such acknowledgements. */
async function untilAcks(
  cluster: GomqCluster,
  publishers: readonly SteadyPublisher[],
  isOne: (ack: Ack) => boolean,
): Promise<void> {
  const hasAcks = (one: SteadyPublisher) => {
    const ack = one.acks.at(-ACKS_MIN);
    return ack !== undefined && isOne(ack);
  };
  await cluster.until(() => publishers.every(hasAcks), 'publishers are acknowledged');
}

function failoverText({ firstAckMs, gapMs }: FailoverResult): string {
  return (
    `${firstAckMs.length} times; first PUBACK median ${median(firstAckMs).toFixed(0)} ms, max ${Math.max(...firstAckMs).toFixed(0)} ms; ` +
    `longest gap median ${median(gapMs).toFixed(0)} ms, max ${Math.max(...gapMs).toFixed(0)} ms`
  );
}

// ---- a node that was away ---------------------------------------------------------------------------------------------------------------

export interface CatchUpResult {
  /** Of the batches that the node did not have, median over the rounds. */
  storedBytes: number;
  /** From when the node says that it follows the leader until it is in sync; one number a round. */
  megabytesPerSecond: number[];
}

const PAYLOAD_BYTES = 10_000;
const PUBLISHERS = 4;
const CHUNK = 100;

async function measureCatchUp(bytes: number, rounds: number): Promise<CatchUpResult> {
  demandSpace(1.3 * NODES.length * rounds * bytes);
  const cluster = await GomqCluster.start(KEEP_ALL);
  const storedBytes: number[] = [];
  const megabytesPerSecond: number[] = [];
  try {
    for (let round = 0; round < rounds; round++) {
      const leader = await cluster.whole();
      const member = cluster.members()[0]!;
      await cluster.stop(member);
      await cluster.until(() => !cluster.inSync.includes(member), `${member} is out`);
      const before = storedIn(cluster, member);
      await publishRandom(cluster.port(leader), bytes);
      const stored = storedIn(cluster, leader) - before;
      await cluster.start(member);
      await cluster.whole();
      const followsMs = cluster.followsSinceMs(member);
      if (followsMs === undefined) throw new Error(`${member} did not say that it follows`);
      storedBytes.push(stored);
      megabytesPerSecond.push(stored / 1e6 / ((cluster.inSyncSinceMs - followsMs) / 1000));
    }
    return { storedBytes: median(storedBytes), megabytesPerSecond };
  } finally {
    await cluster.close();
  }
}

function storedIn(cluster: GomqCluster, name: NodeName): number {
  return readStoredLog(cluster.dataOf(name)).storedBytes;
}

/** What no codec makes smaller. */
async function publishRandom(port: number, bytes: number): Promise<void> {
  const publishing = Array.from({ length: PUBLISHERS }, async (_, at) => {
    const publisher = await ChunkPublisher.connect(port, `random-${at}`);
    const chunk = makeChunk(
      Array.from({ length: CHUNK }, () => ({ topic: `random/${at}`, payload: randomBytes(PAYLOAD_BYTES) })),
    );
    for (let sent = 0; sent < bytes / PUBLISHERS; sent += CHUNK * PAYLOAD_BYTES) await publisher.send(chunk);
    await publisher.end();
  });
  await Promise.all(publishing);
}
