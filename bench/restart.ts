// Owns the case of a broker that died and is started again on a log that is there: with a snapshot, and without one.
import { randomBytes } from 'node:crypto';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Broker, startBroker } from './brokers.js';
import { ChunkPublisher, makeChunk, makeSessions, publishOne } from './clients.js';
import { demandSpace, newDataFolder, readStoredLog, removeDataFolder, type StoredLog } from './disk.js';
import { KEEP_ALL, whole } from './log-cases.js';
import { measure } from './measure.js';
import { median } from './statistics.js';

/** What the log is full of: publishes that change no state, or records that all do. */
export type RestartKind = 'plain' | 'stateful';

export interface RestartResult {
  kind: RestartKind;
  log: StoredLog;
  sessions: number;
  retained: number;
  /** Medians, in milliseconds from starting the process. */
  emptyReadyMs: number;
  withSnapshot: Start;
  withoutSnapshot: Start;
  /** All records of the log over the time that the start took beyond that of an empty broker, 100 ms at least. */
  replayedPerSecond: number;
}

interface Start {
  readyMs: number;
  firstAckMs: number;
}

const SESSIONS = 1000;
const RETAINED = 10_000;
const PLAIN_PAYLOAD_BYTES = 4096;
const PLAIN_PUBLISHERS = 4;
/** Together larger than a batch, so that none holds the same random bytes twice. */
const PLAIN_CHUNK = 500;
/** Snapshots are made when a segment ends, and records that are small should fill several. */
const SEGMENT_BYTES = { plain: 64 * 1024 * 1024, stateful: 8 * 1024 * 1024 };
const READY_TIMEOUT_MS = 600_000;
const SNAPSHOT_TIMEOUT_MS = 120_000;
/** Two equal starts differ by so much. */
const REPLAY_MS_MIN = 100;

export interface RestartOptions {
  kind: RestartKind;
  /** Of the log, about; for the plain kind. */
  logBytes: number;
  /** Publishes, half of them retained and half of QoS 2; for the stateful kind. */
  messages: number;
  rounds: number;
  cores: number;
}

export async function measureRestart(options: RestartOptions): Promise<RestartResult> {
  const { kind, rounds } = options;
  const settings = [...KEEP_ALL, `log.segmentBytes=${SEGMENT_BYTES[kind]}`];
  demandSpace(1.3 * (kind === 'plain' ? options.logBytes : options.messages * 1000));
  const data = newDataFolder();
  try {
    const broker = await startBroker('gomq', { data, settings });
    try {
      await fill(broker, options);
      await untilSnapshot(data);
    } finally {
      await broker.kill();
    }
    const log = readStoredLog(data);
    const empty = await starts(undefined, settings, rounds);
    const withSnapshot = await starts(data, settings, rounds);
    removeSnapshots(data);
    const withoutSnapshot = await starts(data, settings, rounds);
    return {
      kind,
      log,
      sessions: SESSIONS,
      retained: RETAINED,
      emptyReadyMs: empty.readyMs,
      withSnapshot,
      withoutSnapshot,
      replayedPerSecond:
        (log.records * 1000) / Math.max(REPLAY_MS_MIN, withoutSnapshot.readyMs - empty.readyMs),
    };
  } finally {
    removeDataFolder(data);
  }
}

async function fill(broker: Broker, options: RestartOptions): Promise<void> {
  const clientIds = Array.from({ length: SESSIONS }, (_, at) => `session-${at}`);
  await makeSessions(broker.port, clientIds, ['nothing/here', 'nor/+/there'], 1);
  if (options.kind === 'plain') {
    await publishRetained(broker, RETAINED);
    await publishPlain(broker, Math.ceil(options.logBytes / PLAIN_PAYLOAD_BYTES));
  } else {
    await publishRetained(broker, options.messages / 2);
    const shape = ['--qos', '2', '--pubs', '4', '--subs', '4', '--durable', '--window', '500'];
    await generate(broker, [...shape, '--size', '64', '--count', `${options.messages / 8}`], options);
  }
}

async function generate(broker: Broker, args: string[], { cores }: RestartOptions): Promise<void> {
  whole((await measure(broker, [...args, '--timeout', '60'], cores)).result);
}

/** About so many messages of random bytes. */
async function publishPlain(broker: Broker, messages: number): Promise<void> {
  const publishing = Array.from({ length: PLAIN_PUBLISHERS }, async (_, at) => {
    const publisher = await ChunkPublisher.connect(broker.port, `plain-${at}`);
    const chunk = makeChunk(
      Array.from({ length: PLAIN_CHUNK }, () => ({
        topic: `plain/${at}`,
        payload: randomBytes(PLAIN_PAYLOAD_BYTES),
      })),
    );
    for (let sent = 0; sent < messages / PLAIN_PUBLISHERS; sent += PLAIN_CHUNK) await publisher.send(chunk);
    await publisher.end();
  });
  await Promise.all(publishing);
}

/** So many retained messages over RETAINED topics. */
async function publishRetained(broker: Broker, messages: number): Promise<void> {
  const publisher = await ChunkPublisher.connect(broker.port, 'retaining');
  const chunk = makeChunk(
    Array.from({ length: RETAINED }, (_, at) => ({
      topic: `retained/${at % 100}/${at}`,
      payload: String(Math.sin(at)).repeat(4).slice(0, 64),
      retain: true,
    })),
  );
  for (let sent = 0; sent < messages; sent += RETAINED) await publisher.send(chunk);
  await publisher.end();
}

/** Resolves when a snapshot is there and none is being made. */
async function untilSnapshot(data: string): Promise<void> {
  const deadline = performance.now() + SNAPSHOT_TIMEOUT_MS;
  for (let quiet = 0; quiet < 4; ) {
    if (performance.now() > deadline) throw new Error('no snapshot was made');
    await sleep(500);
    const names = readdirSync(data);
    const isDone =
      names.some((name) => name.endsWith('.snapshot')) && !names.some((name) => name.endsWith('.tmp'));
    quiet = isDone ? quiet + 1 : 0;
  }
}

function removeSnapshots(data: string): void {
  for (const name of readdirSync(data)) {
    if (name.endsWith('.snapshot')) rmSync(join(data, name));
  }
}

/** Starts it so often, and lets it die each time; undefined: on a folder with nothing in it. */
async function starts(data: string | undefined, settings: readonly string[], rounds: number): Promise<Start> {
  const readyMs: number[] = [];
  const firstAckMs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const broker = await startBroker('gomq', {
      ...(data === undefined ? {} : { data }),
      settings,
      readyTimeoutMs: READY_TIMEOUT_MS,
    });
    try {
      await publishOne(broker.port);
      firstAckMs.push(performance.now() - broker.startedAtMs);
      readyMs.push(broker.readyMs);
    } finally {
      await broker.kill();
      await broker.stop();
    }
  }
  return { readyMs: median(readyMs), firstAckMs: median(firstAckMs) };
}
