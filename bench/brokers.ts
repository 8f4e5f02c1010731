// Owns how each broker is started and with which settings. Every broker is a process of its own on a loopback port; one that keeps its data
// on disk has a folder of its own, which goes with it.
import { type ChildProcess, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { newDataFolder, removeDataFolder } from './disk.js';
import { collect, kill, run, start, stop } from './processes.js';

/** `gomq before` is another version of gomq, which is named with --before. */
export type BrokerName = 'gomq' | 'gomq before' | 'mosquitto' | 'aedes';
export const BROKER_NAMES: readonly BrokerName[] = ['gomq', 'gomq before', 'mosquitto', 'aedes'];

export interface Broker {
  name: BrokerName;
  version: string;
  port: number;
  pid: number;
  /** From starting the process to when it said that it is ready. */
  readyMs: number;
  /** When the process was started, on the clock of `performance`. */
  startedAtMs: number;
  /** Where it keeps its data; '' where it keeps none. */
  data: string;
  /** Why it is gone, or undefined while it runs. */
  failure(): string | undefined;
  /** Ends it in good order, and removes its data unless they were there before. */
  stop(): Promise<void>;
  /** Ends it as a crash does; its data stay. */
  kill(): Promise<void>;
}

export interface BrokerOptions {
  /** For gomq: `key.path=value`. */
  settings?: readonly string[];
  /** For gomq: data that are there already, or will be wanted later; '' for the log in memory. */
  data?: string;
  readyTimeoutMs?: number;
  /** For gomq: is given what it writes to stderr, as it comes. */
  onDiagnostics?: (text: string) => void;
}

/** Why a broker cannot take part; told to the user, not an error. */
export class NotInstalled extends Error {}

const READY_TIMEOUT_MS = 20_000;
const MAIN = 'dist/src/main.js';

const gomqFolders: Partial<Record<BrokerName, string>> = { gomq: '.' };

/** Where a version of gomq lies that was built. */
export function useGomqFolder(name: 'gomq' | 'gomq before', folder: string): void {
  gomqFolders[name] = folder;
}

/**
 * Mosquitto as Debian ships it, in memory as the others. The two limits are lifted because the defaults (20 in flight, 1000 queued) make
 * it drop messages under load; unlimited is also its fastest setting.
 */
export const MOSQUITTO_SETTINGS = [
  'allow_anonymous true',
  'persistence false',
  'max_inflight_messages 0',
  'max_queued_messages 0',
  'log_type error',
];

export async function startBroker(name: BrokerName, options: BrokerOptions = {}): Promise<Broker> {
  switch (name) {
    case 'gomq':
    case 'gomq before':
      return startGomq(name, options);
    case 'mosquitto':
      return startMosquitto();
    case 'aedes':
      return startAedes();
  }
}

async function startGomq(name: BrokerName, options: BrokerOptions): Promise<Broker> {
  const folder = gomqFolders[name];
  if (folder === undefined) throw new NotInstalled('no folder was named with --before');
  const main = join(folder, MAIN);
  if (!existsSync(main)) throw new NotInstalled(`${name} is not built: npm run build`);
  const version = versionOf(folder);
  const args = [main, 'start', '--mqtt', '127.0.0.1:0', '--http', '', '--set', 'logger.level=warn'];
  for (const setting of options.settings ?? []) args.push('--set', setting);
  let data = '';
  if (await keepsData(main)) {
    data = options.data ?? newDataFolder();
    args.push('--data', data);
  }
  const ownsData = options.data === undefined && data !== '';
  const startedAtMs = performance.now();
  const child = start(process.execPath, args);
  const output = collect(child);
  const { onDiagnostics } = options;
  if (onDiagnostics !== undefined) child.stderr?.on('data', onDiagnostics);
  try {
    const timeoutMs = options.readyTimeoutMs ?? READY_TIMEOUT_MS;
    const found = () => /^gomq ready: mqtt \S+:(\d+)/m.exec(output.out);
    const ready = await until(child, output, found, timeoutMs);
    const started = broker(name, version, Number(ready[1]), child, output, startedAtMs);
    return {
      ...started,
      data,
      async stop() {
        await started.stop();
        if (ownsData) removeDataFolder(data);
      },
    };
  } catch (error) {
    await kill(child);
    if (ownsData) removeDataFolder(data);
    throw error;
  }
}

/** Of the gomq that is measured. */
export function gomqVersion(): string {
  return versionOf(gomqFolders.gomq ?? '.');
}

/** With the commit, where it is another checkout: versions of one number are told apart. */
function versionOf(folder: string): string {
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string };
  if (folder === '.') return version;
  const { status, stdout } = spawnSync('git', ['-C', folder, 'log', '-1', '--format=%h of %cs'], {
    encoding: 'utf8',
  });
  return status === 0 ? `${version}, commit ${stdout.trim()}` : version;
}

const keepers = new Map<string, boolean>();

/** gomq began with a log in memory, and a version that has no other knows no --data. */
async function keepsData(main: string): Promise<boolean> {
  const known = keepers.get(main);
  if (known !== undefined) return known;
  const { out } = await run(process.execPath, [main, 'start', '--help']);
  const keeps = out.includes('--data');
  keepers.set(main, keeps);
  return keeps;
}

async function startMosquitto(): Promise<Broker> {
  const file = findMosquitto();
  if (file === undefined) throw new NotInstalled('mosquitto is not installed');
  const help = await run(file, ['-h']);
  const version = /^mosquitto version (\S+)/m.exec(help.out)?.[1] ?? 'unknown';
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'gomq-bench-'));
  const config = join(folder, 'mosquitto.conf');
  writeFileSync(config, `${[`listener ${port} 127.0.0.1`, ...MOSQUITTO_SETTINGS].join('\n')}\n`);
  const startedAtMs = performance.now();
  const child = start(file, ['-c', config]);
  const output = collect(child);
  child.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  await untilListening(child, output, port);
  return broker('mosquitto', version, port, child, output, startedAtMs);
}

async function startAedes(): Promise<Broker> {
  const manifest = 'node_modules/aedes/package.json';
  if (!existsSync(manifest)) throw new NotInstalled('aedes is not installed: npm ci');
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  const port = await freePort();
  const startedAtMs = performance.now();
  const child = start(process.execPath, ['--import', 'tsx', 'bench/aedes-server.ts', String(port)]);
  const output = collect(child);
  await until(child, output, () => /^ready$/m.exec(output.out), READY_TIMEOUT_MS);
  return broker('aedes', version, port, child, output, startedAtMs);
}

function broker(
  name: BrokerName,
  version: string,
  port: number,
  child: ChildProcess,
  output: { err: string },
  startedAtMs: number,
): Broker {
  return {
    name,
    version,
    port,
    pid: child.pid!,
    readyMs: performance.now() - startedAtMs,
    startedAtMs,
    data: '',
    failure: () =>
      child.exitCode === null && child.signalCode === null
        ? undefined
        : `${name} ended (${child.signalCode ?? child.exitCode}): ${lastLines(output.err)}`,
    stop: () => stop(child),
    kill: () => kill(child),
  };
}

/** On the path, or where Debian puts it. */
function findMosquitto(): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return folders.map((folder) => join(folder, 'mosquitto')).find((file) => existsSync(file));
}

async function freePort(): Promise<number> {
  return (await freePorts(1))[0]!;
}

/** So many that are free now; they are held together, so that no two are the same. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  await Promise.all(
    servers.map((server) => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Waits for `found` to answer, looking again whenever the process prints. */
async function until<T>(
  child: ChildProcess,
  output: { out: string; err: string },
  found: () => T | null,
  timeoutMs: number,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const look = () => {
      const answer = found();
      if (answer === null) return;
      finish();
      resolve(answer);
    };
    const fail = () => {
      finish();
      reject(new Error(`${child.spawnfile} did not start: ${lastLines(output.err)}`));
    };
    const timer = setTimeout(fail, timeoutMs);
    const finish = () => {
      clearTimeout(timer);
      child.stdout?.off('data', look);
      child.off('exit', fail);
      child.off('error', fail);
    };
    child.stdout?.on('data', look);
    child.once('exit', fail);
    child.once('error', fail);
  });
}

export async function untilListening(
  child: ChildProcess,
  output: { err: string },
  port: number,
): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < deadline && child.exitCode === null) {
    const isOpen = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (isOpen) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${child.spawnfile} did not start: ${lastLines(output.err)}`);
}

export function lastLines(text: string): string {
  return text.trim().split('\n').slice(-5).join(' | ') || 'it said nothing';
}
