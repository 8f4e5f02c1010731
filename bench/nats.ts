// Owns three NATS servers with JetStream as one cluster, each with an MQTT listener: what is published at QoS 1 is in a stream of three replicas.
import { existsSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePorts, lastLines, NotInstalled, untilListening } from './brokers.js';
import { publishOne } from './clients.js';
import { newDataFolder, removeDataFolder } from './disk.js';
import type { Measured } from './measure.js';
import { collect, run, start, stop } from './processes.js';

export interface NatsCluster {
  version: string;
  /** Through the server that leads the stream of MQTT messages, which is to its advantage. */
  leader: Measured;
  stop(): Promise<void>;
}

const SERVERS = 3;
const READY_TIMEOUT_MS = 60_000;
/** Before there is a leader a connection may wait for ever. */
const ANSWER_TIMEOUT_MS = 5000;
const RETRY_MS = 200;

/** The limit on messages in flight is lifted, as it is for Mosquitto; fsync is left at its default, which is every two minutes. */
export async function startNats(): Promise<NatsCluster> {
  const file = (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'nats-server'))
    .find((path) => existsSync(path));
  if (file === undefined) throw new NotInstalled('nats-server is not installed');
  const version = /: v(\S+)/.exec((await run(file, ['--version'])).out)?.[1] ?? 'unknown';
  const data = newDataFolder();
  const ports = await freePorts(SERVERS * 4);
  const servers = Array.from({ length: SERVERS }, (_, at) => {
    const [client, route, mqtt, monitor] = ports.slice(at * 4);
    return { name: `n${at}`, client: client!, route: route!, mqtt: mqtt!, monitor: monitor! };
  });
  const routes = servers.map(({ route }) => `nats-route://127.0.0.1:${route}`).join(', ');
  const children = servers.map(({ name, client, route, mqtt, monitor }) => {
    const config = join(data, `${name}.conf`);
    writeFileSync(
      config,
      [
        `server_name: ${name}`,
        `listen: 127.0.0.1:${client}`,
        `http: 127.0.0.1:${monitor}`,
        `jetstream { store_dir: "${join(data, name)}" }`,
        `cluster { name: bench, listen: 127.0.0.1:${route}, routes: [${routes}] }`,
        `mqtt { listen: 127.0.0.1:${mqtt}, stream_replicas: ${SERVERS}, max_ack_pending: 65535 }`,
        '',
      ].join('\n'),
    );
    const child = start(file, ['-c', config]);
    return { child, output: collect(child) };
  });
  const stopAll = async () => {
    await Promise.all(children.map(({ child }) => stop(child)));
    removeDataFolder(data);
  };
  const failure = () => {
    const gone = children.find(({ child }) => child.exitCode !== null || child.signalCode !== null);
    return gone === undefined ? undefined : `nats-server ended: ${lastLines(gone.output.err)}`;
  };
  try {
    await Promise.all(
      servers.map(({ mqtt }, at) => untilListening(children[at]!.child, children[at]!.output, mqtt)),
    );
    await untilPublished(servers[0]!.mqtt, failure);
    const leader = await streamLeader(servers[0]!.monitor);
    const at = servers.findIndex(({ name }) => name === leader);
    if (at < 0) throw new Error(`the stream of MQTT messages is led by ${leader ?? 'nobody'}`);
    const pids = children.map(({ child }) => child.pid!);
    return {
      version,
      leader: { port: servers[at]!.mqtt, pid: pids[at]!, pids, failure },
      stop: stopAll,
    };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

/** The servers first have to agree on who leads them. */
async function untilPublished(port: number, failure: () => string | undefined): Promise<void> {
  const endMs = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    try {
      const silence = sleep(ANSWER_TIMEOUT_MS, 'silent' as const, { ref: false });
      if ((await Promise.race([publishOne(port), silence])) !== 'silent') return;
      throw new Error('NATS does not answer');
    } catch (error) {
      const gone = failure();
      if (gone !== undefined) throw new Error(gone);
      if (performance.now() > endMs) throw error;
    }
    await sleep(RETRY_MS);
  }
}

interface JetStreamStatus {
  account_details?: {
    stream_detail?: { name: string; cluster?: { leader?: string; replicas?: unknown[] } }[];
  }[];
}

/** @throws {Error} where the stream has other than three replicas */
async function streamLeader(monitor: number): Promise<string | undefined> {
  const answer = await fetch(`http://127.0.0.1:${monitor}/jsz?accounts=true&streams=true`);
  const status = (await answer.json()) as JetStreamStatus;
  const streams = (status.account_details ?? []).flatMap(({ stream_detail = [] }) => stream_detail);
  const messages = streams.find(({ name }) => name === '$MQTT_msgs')?.cluster;
  const replicas = 1 + (messages?.replicas?.length ?? 0);
  if (replicas !== SERVERS) throw new Error(`the stream of MQTT messages has ${replicas} replicas`);
  return messages?.leader;
}
