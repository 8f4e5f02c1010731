// A cluster on this machine to try out: a real etcd and three brokers, each a process of its own, until Ctrl-C. What it says itself goes to stdout, what
// the brokers write to stderr, each line after the name of its node. No process outlives it, unless it is killed itself.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  createWriteStream,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { get } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { findEtcd } from './etcd.js';

const ROOT = resolve(fileURLToPath(import.meta.url), '../..');
const GOMQ = join(ROOT, 'dist/src/main.js');
const HOST = '127.0.0.1';
const NODES = ['a', 'b', 'c'] as const;
const PORTS_APART = 10;
/** The ports of etcd, above the first port for MQTT. */
const ETCD_ABOVE = 30;
const READY_MS_MAX = 60_000;
const HEALTH_EVERY_MS = 50;
const HEALTH_MS = 1000;
/** Longer than any orderly end takes. */
const STOP_MS_MAX = 15_000;
/** npm passes on a Ctrl-C that the terminal has given to everybody already: signals this close together are one. */
const SAME_SIGNAL_MS = 300;
const ENDED_WELL = 'with exit code 0';
const EXIT_FAILED = 1;
const EXIT_WRONG_USE = 2;

const EXAMPLES = `
Examples:
  npm run cluster                                  MQTT on 127.0.0.1:9000, :9010 and :9020
  npm run cluster -- --data ./data/cluster         goes on where it stopped
  npm run cluster -- --port 7000 --http 7100       a second cluster beside the first
  GOMQ_LOG__FSYNC=interval npm run cluster         any other key of the configuration, from the environment

The brokers come out of dist/, which npm makes anew before. etcd is $ETCD_BIN, or the one on PATH, or Debian's package etcd-server.
Exit codes: 0 stopped as asked, 1 something failed, 2 the command is wrong.`;

interface Flags {
  readonly data?: string;
  readonly port: number;
  readonly http: number;
  readonly logFiles?: boolean;
}

/** What the user should read, without a stack. */
class Failure extends Error {}

/** A process that ends when it is told to; `ended` never rejects. */
interface Child {
  readonly name: string;
  readonly process: ChildProcess;
  /** 'with exit code 70', 'by SIGKILL' */
  readonly ended: Promise<string>;
  how: string | undefined;
}

interface Broker {
  readonly name: string;
  readonly args: readonly string[];
  readonly child: Child;
  /** HOST:PORT, once it has said that it is ready. */
  mqtt: string;
  http: string;
  lastLine: string;
}

const children = new Set<Child>();
process.once('exit', killAll);

function killAll(): void {
  for (const { process } of children) process.kill('SIGKILL');
}

function start(name: string, program: string, args: readonly string[], stderr: number | 'pipe'): Child {
  const started = spawn(program, args, {
    stdio: ['ignore', 'pipe', stderr],
    // Ctrl-C goes to this process alone: it knows the order.
    detached: true,
    env: { ...process.env, GOMQ_LOGGER__LEVEL: undefined },
  });
  const child: Child = {
    name,
    process: started,
    how: undefined,
    ended: new Promise((done) => {
      const end = (how: string): void => {
        children.delete(child);
        child.how = how;
        done(how);
      };
      started.once('error', (error) => end(`before it began: ${error.message}`));
      // 'close' rather than 'exit': what it wrote has been read by then.
      started.once('close', (code, signal) => end(code === null ? `by ${signal}` : `with exit code ${code}`));
    }),
  };
  children.add(child);
  return child;
}

class Cluster {
  readonly #flags: Flags;
  readonly #folder: string;
  readonly #brokers: Broker[] = [];
  readonly #etcdLog: string;
  #etcd: Child | undefined;
  #endpoint = '';
  #leader: Broker | undefined;
  #epoch = 0;
  /** Who serves or follows in the current epoch. */
  readonly #atWork = new Set<Broker>();
  /** Has `start` look again. */
  #wake: () => void = () => undefined;
  #isServing = false;
  #stopping: Promise<void> | undefined;
  #stopAskedMs = 0;

  constructor(flags: Flags) {
    this.#flags = flags;
    if (flags.data === undefined) this.#folder = mkdtempSync(join(tmpdir(), 'gomq-local-cluster-'));
    else {
      this.#folder = resolve(flags.data);
      try {
        mkdirSync(this.#folder, { recursive: true });
      } catch (error) {
        throw new Failure(`cannot make ${flags.data}: ${(error as Error).message}`);
      }
    }
    this.#etcdLog = join(this.#folder, 'etcd.log');
  }

  get isStopping(): boolean {
    return this.#stopping !== undefined;
  }

  /** Resolves when the cluster serves; then it runs until `stop`. */
  async start(): Promise<void> {
    const { port } = this.#flags;
    await checkPorts(this.#flags);
    const program = await findEtcd().catch((error: Error) => {
      throw new Failure(error.message);
    });
    const ports = port === 0 ? await freePorts() : ([port + ETCD_ABOVE, port + ETCD_ABOVE + 1] as const);
    if (this.isStopping) return;
    await this.#startEtcd(resolve(program), ports);
    if (this.isStopping) return;
    for (const index of NODES.keys()) this.#brokers.push(this.#startBroker(index));
    await this.#allAtWork();
    if (this.isStopping) return;
    this.#isServing = true;
    this.#tellHowToUse();
  }

  /** Ends everything, the brokers first; asked a second time, at once. Without a reason it says nothing about it. */
  async stop(why?: string): Promise<void> {
    const nowMs = performance.now();
    if (this.#stopping !== undefined) {
      if (nowMs - this.#stopAskedMs > SAME_SIGNAL_MS) {
        killAll();
      }
    } else {
      this.#stopAskedMs = nowMs;
      this.#stopping = this.#end(why);
    }
    await this.#stopping;
  }

  async #end(why: string | undefined): Promise<void> {
    this.#wake();
    const running = this.#brokers.filter(({ child }) => child.how === undefined);
    if (why !== undefined) say(`${why}: stopping the brokers, then etcd; again to kill them`);
    const timer = setTimeout(() => {
      say(`killing what has not stopped in ${STOP_MS_MAX} ms`);
      killAll();
    }, STOP_MS_MAX);
    for (const { child } of running) child.process.kill('SIGTERM');
    for (const { name, child } of running) {
      const how = await child.ended;
      if (how === ENDED_WELL || why === undefined) continue;
      say(`${name} ended ${how}`);
      process.exitCode = EXIT_FAILED;
    }
    this.#etcd?.process.kill('SIGTERM');
    await this.#etcd?.ended;
    clearTimeout(timer);
    const isKept = this.#flags.data !== undefined;
    if (!isKept) rmSync(this.#folder, { recursive: true, force: true });
    if (why !== undefined) say(isKept ? `stopped; the data is in ${this.#folder}` : 'stopped');
  }

  async #startEtcd(program: string, [client, peer]: readonly [number, number]): Promise<void> {
    this.#endpoint = `http://${HOST}:${client}`;
    const peerUrl = `http://${HOST}:${peer}`;
    const log = openSync(this.#etcdLog, 'a');
    const etcd = start(
      'etcd',
      program,
      [
        ...['--data-dir', join(this.#folder, 'etcd')],
        ...['--listen-client-urls', this.#endpoint, '--advertise-client-urls', this.#endpoint],
        ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
        ...['--initial-cluster', `default=${peerUrl}`],
        ...['--auto-compaction-mode', 'periodic', '--auto-compaction-retention', '1h'],
      ],
      log,
    );
    closeSync(log);
    this.#etcd = etcd;
    // Nobody reads it; a full pipe would stop etcd.
    etcd.process.stdout?.resume();
    const endMs = performance.now() + READY_MS_MAX;
    while (!this.isStopping && !(await isHealthy(this.#endpoint))) {
      if (etcd.how !== undefined) throw new Failure(`etcd ended ${etcd.how}: ${this.#lastOfEtcd()}`);
      if (performance.now() > endMs) {
        throw new Failure(`etcd does not serve after ${READY_MS_MAX} ms: ${this.#lastOfEtcd()}`);
      }
      await Promise.race([delay(HEALTH_EVERY_MS), etcd.ended]);
    }
    void etcd.ended.then((how) => {
      if (this.isStopping) return;
      say(
        `etcd ended ${how}: the leader goes on while the others follow, and nobody can take over. Its log: ${this.#etcdLog}`,
      );
    });
  }

  #lastOfEtcd(): string {
    const lines = readFileSync(this.#etcdLog, 'utf8').trimEnd().split('\n');
    return lines.at(-1) || `nothing in ${this.#etcdLog}`;
  }

  #startBroker(index: number): Broker {
    const { port, http, logFiles } = this.#flags;
    const name = NODES[index]!;
    const at = (first: number, above: number): string =>
      `${HOST}:${first === 0 ? 0 : first + PORTS_APART * index + above}`;
    const args = [
      GOMQ,
      'start',
      ...['--node-id', name, '--data', join(this.#folder, name), '--etcd', this.#endpoint],
      ...['--mqtt', at(port, 0), '--peer', at(port, 1), '--http', at(http, 0)],
      // What this script reads, and people.
      ...['--set', 'logger.format=pretty'],
      ...['--set', `logger.level=${process.env.GOMQ_LOGGER__LEVEL === 'debug' ? 'debug' : 'info'}`],
    ];
    const child = start(name, process.execPath, args, 'pipe');
    const broker: Broker = { name, args, child, mqtt: '', http: '', lastLine: '' };
    const file =
      logFiles === true ? createWriteStream(join(this.#folder, `${name}.log`), { flags: 'a' }) : undefined;
    createInterface(child.process.stdout!).on('line', (line) => {
      const ready = /^gomq ready: mqtt (\S+) http (\S+) /.exec(line);
      broker.mqtt = ready?.[1] ?? '';
      broker.http = ready?.[2] ?? '';
      this.#wake();
    });
    createInterface(child.process.stderr!).on('line', (line) => {
      broker.lastLine = line;
      if (file === undefined) process.stderr.write(`${name} | ${line}\n`);
      else file.write(`${line}\n`);
      this.#read(broker, line);
    });
    void child.ended.then((how) => {
      file?.end();
      this.#atWork.delete(broker);
      this.#wake();
      if (this.#isServing && !this.isStopping) this.#tellOfEnd(broker, how);
    });
    return broker;
  }

  /** Who leads is in the lines of whoever leads; values are JSON there, so nothing that a client sends looks like one. */
  #read(broker: Broker, line: string): void {
    const match = /^\S+ INFO +(serves clients|follows the leader)(?= ).*? epoch=(\d+)/.exec(line);
    if (match === null) return;
    const epoch = Number(match[2]);
    if (epoch < this.#epoch) return;
    if (epoch > this.#epoch) this.#atWork.clear();
    this.#epoch = epoch;
    this.#atWork.add(broker);
    if (match[1] === 'serves clients') {
      this.#leader = broker;
      if (this.#isServing) say(`${broker.name} leads now: kill -9 ${broker.child.process.pid}`);
    }
    this.#wake();
  }

  /** Until one serves, the others follow it, and all have said where. */
  async #allAtWork(): Promise<void> {
    const timer = setTimeout(() => this.#wake(), READY_MS_MAX);
    const endMs = performance.now() + READY_MS_MAX;
    try {
      while (!this.isStopping) {
        for (const { name, child, lastLine } of this.#brokers) {
          if (child.how !== undefined) throw new Failure(`${name} ended ${child.how}: ${lastLine}`);
        }
        const isReady = this.#brokers.every((broker) => this.#atWork.has(broker) && broker.mqtt !== '');
        if (isReady && this.#leader !== undefined) return;
        if (performance.now() >= endMs) {
          const missing = this.#brokers.filter((broker) => !this.#atWork.has(broker));
          const names = missing.map(({ name }) => name).join(', ');
          throw new Failure(`no cluster after ${READY_MS_MAX} ms: ${names} neither serves nor follows`);
        }
        await new Promise<void>((wake) => {
          this.#wake = wake;
        });
      }
    } finally {
      clearTimeout(timer);
      this.#wake = () => undefined;
    }
  }

  #tellOfEnd(broker: Broker, how: string): void {
    say(`${broker.name} ended ${how}; start it again with`);
    say(`  npx gomq ${broker.args.slice(1).map(quoted).join(' ')}`);
    if (this.#brokers.some(({ child }) => child.how === undefined)) return;
    process.exitCode = EXIT_FAILED;
    void this.stop('no broker is left');
  }

  #tellHowToUse(): void {
    const leader = this.#leader!;
    const [first, second, third] = this.#brokers as [Broker, Broker, Broker];
    const rows = this.#brokers.map(
      (broker) =>
        `${broker.name.padEnd(6)}mqtt ${broker.mqtt.padEnd(17)}http ${broker.http.padEnd(17)}pid ${broker.child.process.pid}${broker === leader ? ', leads' : ''}`,
    );
    rows.push(`${'etcd'.padEnd(6)}${this.#endpoint.padEnd(44)}pid ${this.#etcd!.process.pid}`);
    const others = this.#brokers.filter((broker) => broker !== leader).map(({ name }) => name);
    const commands: readonly (readonly [string, string])[] = [
      [`npx gomqctl --topic A --connect ${third.mqtt} sub`, 'in a second terminal'],
      [
        `npx gomqctl --topic A --connect ${second.mqtt} pub hello world everyone`,
        'in a third; any broker will do',
      ],
      [`mosquitto_pub -p ${portOf(first.mqtt)} -t A -q 1 -m hello`, ''],
      [`curl http://${first.http}/api/v1/cluster`, 'who leads, who has everything'],
      [
        `kill -9 ${leader.child.process.pid}`,
        `${leader.name}, which leads: ${others.join(' or ')} takes over at once`,
      ],
    ];
    const width = Math.max(...commands.map(([command]) => command.length));
    say(
      [
        'gomq cluster ready',
        '',
        ...rows,
        '',
        ...commands.map(([command, why]) =>
          why === '' ? `  ${command}` : `  ${command.padEnd(width)}  # ${why}`,
        ),
        '',
        this.#flags.data === undefined
          ? `Ctrl-C stops all and removes the data in ${this.#folder}`
          : `Ctrl-C stops all; the data is in ${this.#folder}`,
        '',
      ].join('\n'),
    );
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function quoted(word: string): string {
  return /^[\w./:=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function portOf(address: string): string {
  return address.slice(address.lastIndexOf(':') + 1);
}

/** @throws {Failure} that names the first one that is taken, and what to do */
async function checkPorts({ port, http }: Flags): Promise<void> {
  const wanted: number[] = [];
  for (const index of NODES.keys()) {
    const above = PORTS_APART * index;
    if (port !== 0) wanted.push(port + above, port + above + 1);
    if (http !== 0) wanted.push(http + above);
  }
  if (port !== 0) wanted.push(port + ETCD_ABOVE, port + ETCD_ABOVE + 1);
  const twice = wanted.find((one, index) => wanted.indexOf(one) !== index);
  if (twice !== undefined) throw new Failure(`--port ${port} and --http ${http} both need port ${twice}`);
  for (const one of wanted) {
    try {
      const server = await listen(one);
      await new Promise((done) => server.close(done));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const why = code === 'EADDRINUSE' ? 'in use' : `not to be had (${code})`;
      throw new Failure(
        `${HOST}:${one} is ${why}; choose other ports with --port and --http, or 0 for free ones`,
      );
    }
  }
}

async function freePorts(): Promise<[number, number]> {
  // Held together, so that they are not the same.
  const servers = await Promise.all([listen(0), listen(0)]);
  const [client, peer] = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
  return [client!, peer!];
}

function listen(port: number): Promise<ReturnType<typeof createServer>> {
  return new Promise((done, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(port, HOST, () => done(server));
  });
}

function isHealthy(endpoint: string): Promise<boolean> {
  return new Promise((done) => {
    const request = get(`${endpoint}/health`, { agent: false, timeout: HEALTH_MS }, (response) => {
      response.resume();
      response.once('end', () => done(response.statusCode === 200));
      response.once('error', () => done(false));
    });
    request.once('timeout', () => request.destroy());
    request.once('error', () => done(false));
  });
}

function parsePort(value: string): number {
  const port = Number(value);
  // The last of the ports that are counted from it is 31 above.
  if (!/^\d{1,5}$/.test(value) || port > 65_504)
    throw new InvalidArgumentError('expected 0, or a port up to 65504.');
  return port;
}

async function run(flags: Flags): Promise<void> {
  const cluster = new Cluster(flags);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => void cluster.stop(signal));
  }
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', () => {
      // Whoever read has gone, and is not told of it twice.
      if (!cluster.isStopping) void cluster.stop('nobody reads what is written here');
    });
  }
  try {
    await cluster.start();
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}

const program = new Command('npm run cluster --')
  .description('A cluster of three brokers on this machine, with an etcd of its own, until Ctrl-C.')
  .option('--data <dir>', 'where to keep the data; without it, it is gone at the end')
  .option(
    '--port <n>',
    'the first port: MQTT there and 10 and 20 above, one above each for other brokers, etcd 30 above; 0 for free ones',
    parsePort,
    9000,
  )
  .option('--http <n>', 'the first port of the HTTP APIs, 10 apart; 0 for free ones', parsePort, 8000)
  .option('--log-files', 'the lines of the brokers go to files beside the data')
  .configureOutput({
    // Commander puts its suggestion on a second line.
    outputError: (text, write) =>
      write(
        `${text
          .trimEnd()
          .replace(/^error: /, 'cluster: ')
          .replaceAll('\n', ' ')}\n`,
      ),
  })
  .exitOverride()
  .addHelpText('after', EXAMPLES)
  .allowExcessArguments(false)
  .action(run);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : EXIT_WRONG_USE;
  else {
    console.error(`cluster: ${error instanceof Failure ? error.message : (error as Error).stack}`);
    process.exitCode = EXIT_FAILED;
  }
}
