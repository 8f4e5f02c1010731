// A cluster as users run it: an etcd and three brokers, each a process, on free ports, ended by their ids. What is awaited is what they say themselves,
// or what is in etcd.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { EtcdProcess } from '../../scripts/etcd.js';
import { temporaryFolder } from '../support/temporary-folder.js';

const GOMQ = 'dist/src/main.js';
const NODES = ['a', 'b', 'c'];
const READY_MS_MAX = 60_000;

export interface ClusterBroker {
  readonly node: string;
  /** HOST:PORT */
  readonly mqtt: string;
  /** http://HOST:PORT */
  readonly http: string;
}

interface Running extends ClusterBroker {
  readonly child: ChildProcess;
  readonly stderr: string[];
}

export class ClusterProcess {
  readonly #etcd: EtcdProcess;
  readonly #running: Running[];

  private constructor(etcd: EtcdProcess, running: Running[]) {
    this.#etcd = etcd;
    this.#running = running;
  }

  /** Starts one, and waits until all three brokers are in sync: from then on any one of them may die. */
  static async start(): Promise<ClusterProcess> {
    const etcd = await EtcdProcess.start();
    const folder = temporaryFolder();
    const brokers = NODES.map((node) => startBroker(node, etcd.endpoint, join(folder, node)));
    const started = await Promise.allSettled(brokers);
    const running = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const cluster = new ClusterProcess(etcd, running);
    try {
      for (const one of started) {
        if (one.status === 'rejected') throw one.reason;
      }
      await cluster.#until('state', (state) => (state.inSync as unknown[]).length === NODES.length);
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  get brokers(): readonly ClusterBroker[] {
    return this.#running;
  }

  get etcdUrl(): string {
    return this.#etcd.endpoint;
  }

  /** The broker that leads now. */
  async leader(): Promise<ClusterBroker> {
    const { node } = await this.#until('leader', () => true);
    const leader = this.#running.find((broker) => broker.node === node);
    assert.ok(leader, `no broker is called ${String(node)}`);
    return leader;
  }

  /** Ends a broker as a power switch would: by its process id. */
  async kill(broker: ClusterBroker): Promise<void> {
    const { child } = this.#running.find(({ node }) => node === broker.node)!;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#running.map((broker) => this.kill(broker)));
    await this.#etcd.remove();
  }

  /** What the brokers said, for a test that failed. */
  get said(): string {
    return this.#running.map(({ node, stderr }) => `--- ${node}\n${stderr.join('\n')}`).join('\n');
  }

  /** Follows a key of the cluster from its first value on, until one fits. */
  async #until(
    key: string,
    fits: (value: Record<string, unknown>) => boolean,
  ): Promise<Record<string, unknown>> {
    const encoded = Buffer.from(`/gomq/gomq/${key}`).toString('base64');
    const ending = new AbortController();
    const timer = setTimeout(() => ending.abort(), READY_MS_MAX);
    try {
      for (;;) {
        const { header, kvs } = (await this.#etcd.ask('kv/range', { key: encoded })) as {
          header: { revision: string };
          kvs?: { value: string }[];
        };
        const value = kvs?.[0] && decode(kvs[0].value);
        if (value !== undefined && fits(value)) return value;
        const next = Number(header.revision) + 1;
        const answer = await fetch(`${this.#etcd.endpoint}/v3/watch`, {
          method: 'POST',
          body: JSON.stringify({ create_request: { key: encoded, start_revision: next } }),
          signal: ending.signal,
        });
        await untilEvent(answer);
      }
    } catch (error) {
      throw new Error(`the key ${key} did not become what it should:\n${this.said}`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

function decode(text: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(text, 'base64').toString()) as Record<string, unknown>;
}

/** Reads the lines of a watch until one has events; the first only says that the watch is there. */
async function untilEvent(answer: Response): Promise<void> {
  let text = '';
  for await (const chunk of answer.body!) {
    text += Buffer.from(chunk as Uint8Array).toString();
    if (text.includes('"events"')) return;
  }
}

async function startBroker(node: string, etcd: string, data: string): Promise<Running> {
  const any = '127.0.0.1:0';
  const child = spawn(
    process.execPath,
    [
      GOMQ,
      'start',
      ...['--etcd', etcd, '--node-id', node, '--data', data],
      ...['--peer', any, '--mqtt', any, '--http', any],
      ...['--set', 'log.reserveBytes=1048576', '--set', 'logger.format=json'],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  // A test process that ends without having stopped it takes it along.
  process.once('exit', () => child.kill('SIGKILL'));
  const stderr: string[] = [];
  createInterface({ input: child.stderr! }).on('line', (line) => stderr.push(line));
  const timer = setTimeout(() => child.kill('SIGKILL'), READY_MS_MAX);
  try {
    for await (const line of createInterface({ input: child.stdout! })) {
      const ready = /^gomq ready: .*?\bmqtt (\S+).*?\bhttp (\S+)/.exec(line);
      if (ready !== null) return { node, mqtt: ready[1]!, http: `http://${ready[2]}`, child, stderr };
    }
  } finally {
    clearTimeout(timer);
  }
  throw new Error(`broker ${node} ended before it was ready:\n${stderr.join('\n')}`);
}
