// Owns the cases of the log on disk that need one broker and no restart: what an acknowledgement takes beside what the disk takes, what a
// backlog costs whom, what compression saves, what each setting costs.
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchResult } from '../cli/bench/run.js';
import type { BacklogRead } from './backlog-reader.js';
import { type Broker, startBroker } from './brokers.js';
import { type Chunk, ChunkPublisher, makeChunk, makeSessions } from './clients.js';
import { measureWrites, newDataFolder, readStoredLog, removeDataFolder } from './disk.js';
import type { LiveEnd, LiveSample } from './live-traffic.js';
import { measure } from './measure.js';
import { collect, residentBytes, start, stop } from './processes.js';
import { median, sum } from './statistics.js';

/** Nothing of the log goes while a case lasts. */
export const KEEP_ALL = ['log.retentionBytes=1000000000000', 'log.hardLimitBytes=1000000000000'];

// ---- acknowledgements -------------------------------------------------------------------------------------------------------------------

export interface AckResult {
  /** Of one batch, which here holds one message. */
  storedBytes: number;
  /** Medians over the rounds, in milliseconds. */
  ackMs: number;
  appendMs: number;
  overwriteMs: number;
  /** Median over the rounds of acknowledgement to append, and to overwriting zeros, in the same round. */
  appendRatio: number;
  overwriteRatio: number;
}

/** One publisher with one message in flight, beside a plain write and fdatasync of the same bytes on the same file system. */
export async function measureAck(seconds: number, rounds: number, cores: number): Promise<AckResult> {
  const storedBytes = await batchBytes(cores);
  const broker = await startBroker('gomq');
  const acks: number[] = [];
  const appends: number[] = [];
  const overwrites: number[] = [];
  const args = [...ALONE, '--duration', `${seconds}`, '--warmup', '0.5'];
  const works = [
    async () => {
      const { result } = await measure(broker, args, cores);
      acks.push(whole(result).ackMs.p50);
    },
    async () => {
      appends.push(await measureWrites(storedBytes, seconds, false));
    },
    async () => {
      overwrites.push(await measureWrites(storedBytes, seconds, true));
    },
  ];
  try {
    for (let round = 0; round < rounds; round++) {
      // The order changes, so that a drift of the disk falls on all alike.
      for (let turn = 0; turn < works.length; turn++) await works[(round + turn) % works.length]!();
    }
  } finally {
    await broker.stop();
  }
  return {
    storedBytes,
    ackMs: median(acks),
    appendMs: median(appends),
    overwriteMs: median(overwrites),
    appendRatio: median(acks.map((ms, round) => ms / appends[round]!)),
    overwriteRatio: median(acks.map((ms, round) => ms / overwrites[round]!)),
  };
}

const ALONE = ['--qos', '1', '--pubs', '1', '--subs', '0', '--window', '1', '--size', '64'];

/** What one message of that case takes in the log. */
async function batchBytes(cores: number): Promise<number> {
  const data = newDataFolder();
  try {
    const broker = await startBroker('gomq', { data });
    try {
      whole((await measure(broker, [...ALONE, '--count', '200'], cores)).result);
    } finally {
      await broker.stop();
    }
    const log = readStoredLog(data);
    return Math.round(log.storedBytes / log.batches);
  } finally {
    removeDataFolder(data);
  }
}

// ---- a returning session ----------------------------------------------------------------------------------------------------------------

export interface BacklogResult {
  messages: number;
  /** Messages a second that the returning session read, alone and beside live traffic. */
  alonePerSecond: number;
  /** Live traffic as fast as it goes, and at a fixed rate; medians over the rounds. */
  saturated: BesideLive;
  paced: BesideLive;
}

export interface BesideLive {
  readPerSecond: number;
  livePerSecondWithout: number;
  livePerSecondWith: number;
  /** Median of the ratios in each run. */
  liveRatio: number;
}

const PACED_PER_SECOND = 50_000;
const LIVE_WARMUP_MS = 1500;
/** How long live traffic is looked at before and after the session is back. */
const LIVE_ALONE_MS = 2000;

export async function measureBacklog(
  messages: number,
  rounds: number,
  cores: number,
): Promise<BacklogResult> {
  const broker = await startBroker('gomq', { settings: KEEP_ALL });
  try {
    // All sessions wait for the same messages; each reads them once.
    const sessions = Array.from({ length: 1 + 2 * rounds }, (_, at) => `returning-${at}`);
    await makeSessions(broker.port, sessions, ['backlog/#'], 1);
    await fillBacklog(broker, 'backlog', messages, cores);
    const alone = await (await openReader(broker, sessions.pop()!, messages)).read();
    const saturated: LiveRun[] = [];
    const paced: LiveRun[] = [];
    for (let round = 0; round < rounds; round++) {
      saturated.push(await readBesideLive(broker, sessions.pop()!, messages, 0));
      paced.push(await readBesideLive(broker, sessions.pop()!, messages, PACED_PER_SECOND));
    }
    return {
      messages,
      alonePerSecond: perSecond(messages, alone),
      saturated: besideLive(saturated),
      paced: besideLive(paced),
    };
  } finally {
    await broker.stop();
  }
}

interface LiveRun {
  readPerSecond: number;
  without: number;
  with: number;
}

function besideLive(runs: readonly LiveRun[]): BesideLive {
  return {
    readPerSecond: median(runs.map((run) => run.readPerSecond)),
    livePerSecondWithout: median(runs.map((run) => run.without)),
    livePerSecondWith: median(runs.map((run) => run.with)),
    liveRatio: median(runs.map((run) => run.with / run.without)),
  };
}

async function fillBacklog(broker: Broker, topic: string, messages: number, cores: number): Promise<void> {
  const shape = ['--qos', '1', '--pubs', '4', '--subs', '0', '--size', '64', '--window', '500'];
  const { result } = await measure(
    broker,
    [...shape, '--topic', topic, '--count', `${messages / 4}`, '--timeout', '30'],
    cores,
  );
  whole(result);
}

interface Reader {
  /** Comes back to the session, and resolves when all is read. */
  read(): Promise<BacklogRead>;
}

/** The process is up before it is needed, so that its own start is no part of what is measured. */
async function openReader(broker: Broker, clientId: string, messages: number): Promise<Reader> {
  const child = start(
    process.execPath,
    ['--import', 'tsx', 'bench/backlog-reader.ts', `${broker.port}`, clientId, `${messages}`],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  );
  const output = collect(child);
  const closed = new Promise<number | null>((resolve) => child.once('close', resolve));
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('close', () => reject(new Error(`the returning session: ${output.err.trim()}`)));
  });
  return {
    async read() {
      child.stdin?.write('go\n');
      if ((await closed) !== 0) throw new Error(`the returning session: ${output.err.trim()}`);
      const read = JSON.parse(output.out.trim().split('\n').at(-1)!) as BacklogRead;
      if (read.disordered > 0) throw new Error(`${read.disordered} messages came out of order`);
      return read;
    },
  };
}

function perSecond(messages: number, read: BacklogRead): number {
  return (messages * 1000) / (read.toMs - read.fromMs);
}

async function readBesideLive(
  broker: Broker,
  clientId: string,
  messages: number,
  rate: number,
): Promise<LiveRun> {
  const reader = await openReader(broker, clientId, messages);
  const live = startLive(broker, rate);
  await sleep(LIVE_WARMUP_MS + LIVE_ALONE_MS);
  const read = await reader.read();
  await sleep(LIVE_ALONE_MS);
  const samples = await live.stop();
  const first = samples[0];
  const last = samples.at(-1);
  if (first === undefined || last === undefined || first.atMs > read.fromMs - LIVE_ALONE_MS / 2) {
    throw new Error('live traffic began too late');
  }
  const before = rateBetween(samples, Math.max(first.atMs, read.fromMs - LIVE_ALONE_MS), read.fromMs);
  const after = rateBetween(samples, read.toMs, last.atMs);
  return {
    readPerSecond: perSecond(messages, read),
    without: (before + after) / 2,
    with: rateBetween(samples, read.fromMs, read.toMs),
  };
}

function startLive(broker: Broker, rate: number): { stop(): Promise<LiveSample[]> } {
  const args = ['--import', 'tsx', 'bench/live-traffic.ts', `${broker.port}`, `${rate}`];
  const child = start(process.execPath, args);
  const output = collect(child);
  const closed = new Promise((resolve) => child.once('close', resolve));
  return {
    async stop() {
      await Promise.all([stop(child), closed]);
      const lines = output.out.trim().split('\n');
      const end = lines.pop()!;
      if (!end.startsWith('{"result"')) throw new Error(`live traffic: ${output.err.trim() || end}`);
      whole((JSON.parse(end) as LiveEnd).result);
      return lines.map((line) => JSON.parse(line) as LiveSample);
    },
  };
}

/** Deliveries a second between two moments, a straight line being drawn between samples. */
export function rateBetween(samples: readonly LiveSample[], fromMs: number, toMs: number): number {
  return ((deliveredAt(samples, toMs) - deliveredAt(samples, fromMs)) * 1000) / (toMs - fromMs);
}

function deliveredAt(samples: readonly LiveSample[], atMs: number): number {
  const next = samples.findIndex((one) => one.atMs >= atMs);
  if (next === -1) return samples.at(-1)?.delivered ?? 0;
  const after = samples[next]!;
  const before = samples[next - 1];
  if (before === undefined) return after.delivered;
  const share = (atMs - before.atMs) / (after.atMs - before.atMs);
  return before.delivered + share * (after.delivered - before.delivered);
}

// ---- offline sessions -------------------------------------------------------------------------------------------------------------------

export interface OfflineResult {
  messages: number;
  sessions: number;
  /** Resident memory with the backlog, medians over the rounds: for one session, for all. */
  bytesForOne: number;
  bytesForAll: number;
  /** Median of the differences in each round. */
  growthBytes: number;
}

const OFFLINE_SESSIONS = 1000;
/** What the broker lets settle before its memory is read. */
const SETTLE_MS = 5000;

export async function measureOffline(
  messages: number,
  rounds: number,
  cores: number,
): Promise<OfflineResult> {
  const one: number[] = [];
  const all: number[] = [];
  for (let round = 0; round < rounds; round++) {
    one.push(await residentWithBacklog(1, messages, cores));
    all.push(await residentWithBacklog(OFFLINE_SESSIONS, messages, cores));
  }
  return {
    messages,
    sessions: OFFLINE_SESSIONS,
    bytesForOne: median(one),
    bytesForAll: median(all),
    growthBytes: median(all.map((bytes, round) => bytes - one[round]!)),
  };
}

/** Every one of the sessions waits for every message. */
async function residentWithBacklog(sessions: number, messages: number, cores: number): Promise<number> {
  const broker = await startBroker('gomq', { settings: KEEP_ALL });
  try {
    const clientIds = Array.from({ length: sessions }, (_, at) => `offline-${at}`);
    await makeSessions(broker.port, clientIds, ['offline/#'], 1);
    await fillBacklog(broker, 'offline', messages, cores);
    await sleep(SETTLE_MS);
    const bytes = residentBytes(broker.pid);
    if (bytes === undefined) throw new Error('the resident memory of a process is not told here');
    // The backlog is there: the last of them gets all of it.
    await (await openReader(broker, clientIds.at(-1)!, messages)).read();
    return bytes;
  } finally {
    await broker.stop();
  }
}

// ---- compression ------------------------------------------------------------------------------------------------------------------------

export interface TelemetryResult {
  messages: number;
  /** Topic and payload. */
  publishedBytes: number;
  exampleTopic: string;
  examplePayload: string;
  byCodec: Record<'zstd' | 'none', TelemetryRun>;
}

export interface TelemetryRun {
  storedBytes: number;
  batchBytesMean: number;
  /** From the first message to the last acknowledgement. */
  seconds: number;
}

const TELEMETRY_PUBLISHERS = 4;
const TELEMETRY_CHUNK = 500;
const DEVICES = 1000;

export async function measureTelemetry(messages: number): Promise<TelemetryResult> {
  const all = Array.from({ length: messages }, (_, at) => telemetry(at));
  const publishedBytes = sum(all.map(({ topic, payload }) => topic.length + payload.length));
  const chunks: Chunk[][] = Array.from({ length: TELEMETRY_PUBLISHERS }, () => []);
  for (let at = 0; at < messages; at += TELEMETRY_CHUNK) {
    const chunk = makeChunk(all.slice(at, at + TELEMETRY_CHUNK));
    chunks[(at / TELEMETRY_CHUNK) % TELEMETRY_PUBLISHERS]!.push(chunk);
  }
  return {
    messages,
    publishedBytes,
    exampleTopic: all[0]!.topic,
    examplePayload: all[0]!.payload,
    byCodec: { zstd: await telemetryRun('zstd', chunks), none: await telemetryRun('none', chunks) },
  };
}

async function telemetryRun(
  codec: 'zstd' | 'none',
  chunks: readonly (readonly Chunk[])[],
): Promise<TelemetryRun> {
  const data = newDataFolder();
  try {
    const broker = await startBroker('gomq', { data, settings: [...KEEP_ALL, `log.compression=${codec}`] });
    let seconds: number;
    try {
      const publishers = await Promise.all(
        chunks.map((_, at) => ChunkPublisher.connect(broker.port, `telemetry-${at}`)),
      );
      const from = performance.now();
      await Promise.all(
        publishers.map(async (publisher, at) => {
          for (const chunk of chunks[at]!) await publisher.send(chunk);
        }),
      );
      seconds = (performance.now() - from) / 1000;
      await Promise.all(publishers.map((publisher) => publisher.end()));
    } finally {
      await broker.stop();
    }
    const log = readStoredLog(data);
    return { storedBytes: log.storedBytes, batchBytesMean: log.uncompressedBytes / log.batches, seconds };
  } finally {
    removeDataFolder(data);
  }
}

/** What a thousand devices say of themselves, one after the other, every ten seconds. */
function telemetry(at: number): { topic: string; payload: string } {
  const device = at % DEVICES;
  const round = Math.floor(at / DEVICES);
  // The same values in every run, and as little regular as readings are.
  const noise = (salt: number) => (Math.imul(at * 31 + salt, 0x9e3779b1) >>> 8) / 2 ** 24;
  const payload = JSON.stringify({
    device: `sensor-${String(device).padStart(4, '0')}`,
    time: new Date(1_767_225_600_000 + round * 10_000 + device * 10).toISOString(),
    temperature: Number((18 + 8 * noise(1)).toFixed(2)),
    humidity: Number((35 + 30 * noise(2)).toFixed(1)),
    pressure: Number((1013 + 20 * (noise(3) - 0.5)).toFixed(1)),
    battery: Number((3.7 - 0.0001 * round - 0.3 * noise(device)).toFixed(3)),
    status: noise(4) < 0.98 ? 'ok' : 'warning',
  });
  return { topic: `plant/${device % 10}/line/${device % 100}/sensor/${device}/telemetry`, payload };
}

// ---- settings ---------------------------------------------------------------------------------------------------------------------------

export interface SettingsResult {
  title: string;
  /** Messages delivered a second at QoS 1 with these windows, medians over the rounds. */
  window500PerSecond: number;
  window100PerSecond: number;
}

const VARIANTS: readonly { title: string; settings: readonly string[]; data?: '' }[] = [
  { title: 'fsync always, zstd (the defaults)', settings: [] },
  { title: 'fsync always, no compression', settings: ['log.compression=none'] },
  { title: 'fsync interval, zstd', settings: ['log.fsync=interval'] },
  { title: 'fsync never, zstd', settings: ['log.fsync=never'] },
  { title: 'in memory', settings: [], data: '' },
];

export async function measureSettings(
  seconds: number,
  rounds: number,
  cores: number,
): Promise<SettingsResult[]> {
  const brokers: Broker[] = [];
  const speeds = VARIANTS.map(() => ({ 500: [] as number[], 100: [] as number[] }));
  try {
    for (const { settings, data } of VARIANTS) {
      brokers.push(await startBroker('gomq', { settings, ...(data === undefined ? {} : { data }) }));
    }
    for (let round = 0; round < rounds; round++) {
      for (const window of [500, 100] as const) {
        const shape = ['--qos', '1', '--pubs', '4', '--size', '64', '--window', `${window}`];
        const args = [...shape, '--duration', `${seconds}`, '--warmup', '1'];
        for (let turn = 0; turn < brokers.length; turn++) {
          const at = (round + turn) % brokers.length;
          const { result } = await measure(brokers[at]!, args, cores);
          speeds[at]![window].push(whole(result).deliveredPerSecond);
        }
      }
    }
  } finally {
    await Promise.all(brokers.map((broker) => broker.stop()));
  }
  return VARIANTS.map(({ title }, at) => ({
    title,
    window500PerSecond: median(speeds[at]![500]),
    window100PerSecond: median(speeds[at]![100]),
  }));
}

/** @throws {Error} where something was lost or refused: then the numbers are of something else */
export function whole(result: BenchResult): BenchResult {
  if (result.failure !== undefined) throw new Error(result.failure);
  const { lost, unacknowledged, refused } = result;
  if (lost + unacknowledged + refused > 0) {
    throw new Error(`${lost} messages lost, ${unacknowledged} not acknowledged, ${refused} refused`);
  }
  return result;
}
