// The compiled programs in processes of their own, as a newcomer runs them.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { temporaryFolder } from '../support/temporary-folder.js';

export const GOMQ = 'dist/src/main.js';
export const GOMQCTL = 'dist/cli/main.js';

export interface Broker {
  process: ChildProcess;
  /** Listened for from the start, since it may come before anybody asks. */
  exit: Promise<number | null>;
  ready: string;
  port: number;
  httpPort: number;
  stderr: () => string;
}

const running = new Set<ChildProcess>();

/** Ends what failed tests have left running; for the `after` hook of a file, which would wait for them. */
export function killBrokers(): void {
  for (const child of running) child.kill('SIGKILL');
}

/** On free ports, with a data directory of its own unless `--data` names one. */
export async function startBroker(...args: string[]): Promise<Broker> {
  const data = args.includes('--data') ? [] : ['--data', temporaryFolder()];
  const child = spawn(
    process.execPath,
    [GOMQ, 'start', '--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0', ...data, ...args],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  running.add(child);
  const exit = exitOf(child);
  void exit.then(() => running.delete(child));
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk;
  });
  const line = once(createInterface(child.stdout), 'line') as Promise<[string]>;
  const ready = await Promise.race([
    line.then(([text]) => text),
    exit.then((code) => assert.fail(`the broker ended with ${code} before it was ready:\n${stderr}`)),
  ]);
  const ports = [...ready.matchAll(/127\.0\.0\.1:(\d+)/g)].map((match) => Number(match[1]));
  return { process: child, exit, ready, port: ports[0]!, httpPort: ports[1]!, stderr: () => stderr };
}

export function exitOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.once('exit', resolve));
}

export async function stopBroker(broker: Broker, signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
  broker.process.kill(signal);
  return broker.exit;
}
