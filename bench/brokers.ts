// Owns how each broker is started and with which settings. Every broker is a process of its own on a loopback port.
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { collect, run, start, stop } from './processes.js';

export type BrokerName = 'gomq' | 'mosquitto' | 'aedes';
export const BROKER_NAMES: readonly BrokerName[] = ['gomq', 'mosquitto', 'aedes'];

export interface Broker {
  name: BrokerName;
  version: string;
  port: number;
  pid: number;
  /** Why it is gone, or undefined while it runs. */
  failure(): string | undefined;
  stop(): Promise<void>;
}

/** Why a broker cannot take part; told to the user, not an error. */
export class NotInstalled extends Error {}

const READY_TIMEOUT_MS = 20_000;
const GOMQ_MAIN = 'dist/src/main.js';

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

export async function startBroker(name: BrokerName, gomqSettings: readonly string[] = []): Promise<Broker> {
  switch (name) {
    case 'gomq':
      return startGomq(gomqSettings);
    case 'mosquitto':
      return startMosquitto();
    case 'aedes':
      return startAedes();
  }
}

async function startGomq(settings: readonly string[]): Promise<Broker> {
  if (!existsSync(GOMQ_MAIN)) throw new NotInstalled('gomq is not built: npm run build');
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  const args = [GOMQ_MAIN, 'start', '--mqtt', '127.0.0.1:0', '--http', '', '--set', 'logger.level=warn'];
  for (const setting of settings) args.push('--set', setting);
  const child = start(process.execPath, args);
  const output = collect(child);
  const ready = await until(child, output, () => /^gomq ready: mqtt \S+:(\d+)/m.exec(output.out));
  return broker('gomq', version, Number(ready[1]), child, output);
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
  const child = start(file, ['-c', config]);
  const output = collect(child);
  child.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  await untilListening(child, output, port);
  return broker('mosquitto', version, port, child, output);
}

async function startAedes(): Promise<Broker> {
  const manifest = 'node_modules/aedes/package.json';
  if (!existsSync(manifest)) throw new NotInstalled('aedes is not installed: npm ci');
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  const port = await freePort();
  const child = start(process.execPath, ['--import', 'tsx', 'bench/aedes-server.ts', String(port)]);
  const output = collect(child);
  await until(child, output, () => /^ready$/m.exec(output.out));
  return broker('aedes', version, port, child, output);
}

function broker(
  name: BrokerName,
  version: string,
  port: number,
  child: ChildProcess,
  output: { err: string },
): Broker {
  return {
    name,
    version,
    port,
    pid: child.pid!,
    failure: () =>
      child.exitCode === null && child.signalCode === null
        ? undefined
        : `${name} ended (${child.signalCode ?? child.exitCode}): ${lastLines(output.err)}`,
    stop: () => stop(child),
  };
}

/** On the path, or where Debian puts it. */
function findMosquitto(): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return folders.map((folder) => join(folder, 'mosquitto')).find((file) => existsSync(file));
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Waits for `found` to answer, looking again whenever the process prints. */
async function until<T>(
  child: ChildProcess,
  output: { out: string; err: string },
  found: () => T | null,
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
    const timer = setTimeout(fail, READY_TIMEOUT_MS);
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

async function untilListening(child: ChildProcess, output: { err: string }, port: number): Promise<void> {
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

function lastLines(text: string): string {
  return text.trim().split('\n').slice(-5).join(' | ') || 'it said nothing';
}
