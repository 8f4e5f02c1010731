// An etcd of one member on this machine, for tests and for trying out a cluster: finds the program, starts it on free ports of 127.0.0.1, and does to it
// what can happen to an etcd. It is started without waiting for anything but itself: each method resolves when what it says is true.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
const CACHE = 'node_modules/.cache/gomq-etcd';
const PACKAGE = 'etcd-server';
const READY_MS_MAX = 30_000;
const OUTPUT_CHARACTERS_MAX = 64 * 1024;
const HEALTH_EVERY_MS = 20;
const HEALTH_MS = 1000;
/** Another process can take a port between its being found free and etcd's opening it. */
const STARTS_MAX = 5;

/**
 * Where the program is: $ETCD_BIN, on PATH, or in the package of Debian, which is unpacked into the cache of the project where there is none.
 * @throws {Error} of one line that says what to install
 */
export async function findEtcd(): Promise<string> {
  const named = process.env.ETCD_BIN;
  if (named !== undefined && named !== '') {
    if (existsSync(named)) return named;
    throw new Error(`ETCD_BIN is ${named}, and there is no such file`);
  }
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, 'etcd');
    if (folder !== '' && existsSync(path)) return path;
  }
  const cached = join(CACHE, 'usr/bin/etcd');
  if (existsSync(cached)) return cached;
  try {
    await unpackPackage();
  } catch {
    throw new Error(
      `there is no etcd: install it (apt-get install ${PACKAGE}, or https://etcd.io), or set ETCD_BIN to the program`,
    );
  }
  return cached;
}

async function unpackPackage(): Promise<void> {
  mkdirSync(CACHE, { recursive: true });
  // Two test files may do this at once: each in a folder of its own, and the first to finish names the result.
  const folder = mkdtempSync(join(CACHE, 'unpack-'));
  try {
    await run('apt-get', ['download', PACKAGE], { cwd: folder });
    const archive = readdirSync(folder).find((name) => name.endsWith('.deb'));
    if (archive === undefined) throw new Error('apt-get has downloaded nothing');
    await run('dpkg', ['-x', archive, 'root'], { cwd: folder });
    if (!existsSync(join(CACHE, 'usr'))) renameSync(join(folder, 'root/usr'), join(CACHE, 'usr'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Ports {
  readonly client: number;
  readonly peer: number;
}

interface Running {
  readonly child: ChildProcess;
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>;
  hasEnded: boolean;
  output: string;
}

const processes = new Set<EtcdProcess>();
process.once('exit', () => {
  for (const etcd of processes) etcd.abandon();
});

/** Ends what was started and not stopped, and removes its data. */
export async function removeAllEtcds(): Promise<void> {
  await Promise.all([...processes].map((etcd) => etcd.remove()));
}

export class EtcdProcess {
  readonly #program: string;
  readonly #folder: string;
  readonly #data: string;
  #ports: Ports;
  #running: Running | undefined;

  private constructor(program: string, ports: Ports) {
    this.#program = program;
    this.#ports = ports;
    this.#folder = mkdtempSync(join(tmpdir(), 'gomq-etcd-'));
    this.#data = join(this.#folder, 'data');
    processes.add(this);
  }

  /** Starts one with nothing in it, and waits until it serves. */
  static async start(): Promise<EtcdProcess> {
    const etcd = new EtcdProcess(resolve(await findEtcd()), await freePair());
    for (let attempt = 1; ; attempt++) {
      try {
        await etcd.#start();
        return etcd;
      } catch (error) {
        if (attempt === STARTS_MAX || !String(error).includes('address already in use')) throw error;
        rmSync(etcd.#data, { recursive: true, force: true });
        etcd.#ports = await freePair();
      }
    }
  }

  /** Its URL, which stays the same. */
  get endpoint(): string {
    return `http://127.0.0.1:${this.#ports.client}`;
  }

  /** Ends it as a power switch would, but for what the operating system has taken over already. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async stop(): Promise<void> {
    await this.#end('SIGTERM');
  }

  /** Starts it again on its data, killing it before where it still runs. */
  async restart(): Promise<void> {
    await this.kill();
    await this.#start();
  }

  /** It stops without ending: whoever asks it gets no answer. */
  pause(): void {
    this.#running?.child.kill('SIGSTOP');
  }

  resume(): void {
    this.#running?.child.kill('SIGCONT');
  }

  /** Starts it again with nothing in it. */
  async wipe(): Promise<void> {
    await this.stop();
    rmSync(this.#data, { recursive: true });
    await this.#start();
  }

  /** Keeps a copy of its data, and has it go on. Answers where the copy is. */
  async snapshot(): Promise<string> {
    await this.stop();
    const copy = mkdtempSync(join(this.#folder, 'snapshot-'));
    cpSync(this.#data, copy, { recursive: true });
    await this.#start();
    return copy;
  }

  /** Starts it again on a copy that was kept. */
  async restore(copy: string): Promise<void> {
    await this.stop();
    rmSync(this.#data, { recursive: true });
    cpSync(copy, this.#data, { recursive: true });
    await this.#start();
  }

  /** Ends it for good. */
  async remove(): Promise<void> {
    processes.delete(this);
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** The same at once, for a process that ends and can wait for nothing. */
  abandon(): void {
    this.#running?.child.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Its gRPC gateway: for what only an operator does. An etcd with users wants a token. */
  async ask(path: string, body: object, token?: string): Promise<Record<string, unknown>> {
    const answer = await fetch(`${this.endpoint}/v3/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: token === undefined ? {} : { authorization: token },
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`etcd answers ${answer.status} to ${path}: ${text}`);
    return JSON.parse(text) as Record<string, unknown>;
  }

  async #start(): Promise<void> {
    const peerUrl = `http://127.0.0.1:${this.#ports.peer}`;
    const child = spawn(
      this.#program,
      [
        ...['--data-dir', this.#data],
        ...['--listen-client-urls', this.endpoint, '--advertise-client-urls', this.endpoint],
        ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
        ...['--initial-cluster', `default=${peerUrl}`],
        // A lease of one second: etcd grants none that is shorter than one and a half elections.
        ...['--heartbeat-interval', '50', '--election-timeout', '500'],
      ],
      // Not what the shell has set for another etcd.
      { stdio: ['ignore', 'ignore', 'pipe'], env: { PATH: process.env.PATH } },
    );
    const running: Running = {
      child,
      hasEnded: false,
      output: '',
      ended: new Promise((resolve) => {
        const end = () => {
          running.hasEnded = true;
          resolve();
        };
        child.once('close', end);
        child.once('error', (error) => {
          running.output += error.message;
          end();
        });
      }),
    };
    child.stderr.on('data', (chunk: Buffer) => {
      running.output = `${running.output}${chunk}`.slice(-OUTPUT_CHARACTERS_MAX);
    });
    this.#running = running;
    const endMs = performance.now() + READY_MS_MAX;
    while (!(await isHealthy(this.endpoint))) {
      if (running.hasEnded) throw new Error(`etcd ended while it started:\n${running.output}`);
      if (performance.now() > endMs)
        throw new Error(`etcd did not serve within ${READY_MS_MAX} ms:\n${running.output}`);
      await Promise.race([delay(HEALTH_EVERY_MS), running.ended]);
    }
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    if (running === undefined || running.hasEnded) return;
    running.child.kill(signal);
    // It may have been paused.
    running.child.kill('SIGCONT');
    await running.ended;
  }
}

function isHealthy(endpoint: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = get(`${endpoint}/health`, { agent: false, timeout: HEALTH_MS }, (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode === 200));
      response.once('error', () => resolve(false));
    });
    request.once('timeout', () => request.destroy());
    request.once('error', () => resolve(false));
  });
}

async function freePair(): Promise<Ports> {
  const [client, peer] = await freePorts(2);
  return { client: client!, peer: peer! };
}

/** So many that are free now; they are held together, so that no two are the same. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(Array.from({ length: count }, listen));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

function listen(): Promise<ReturnType<typeof createServer>> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server));
  });
}
