// A gomq as users run it: the compiled program in a process of its own, on a data directory that outlives it. It can be killed at any moment, and
// says afterwards how it ended and what it wrote; a process that ends by itself is a failure of whoever waits for something else.
import assert from 'node:assert/strict';
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';

export const GOMQ = 'dist/src/main.js';
/** Long enough for a loaded machine that makes the state anew. */
const READY_MS_MAX = 30_000;
const EXIT_MS_MAX = 20_000;
/** What is kept of the diagnostics, for failure messages. */
const STDERR_CHARACTERS_MAX = 256 * 1024;
/** No test needs room for much. */
const RESERVE_BYTES = 1024 * 1024;

export interface BrokerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface BrokerOptions {
  readonly data: string;
  /** `key.path=value`, as after --set. */
  readonly settings?: readonly string[];
  /** A program, with its arguments, that runs the broker: strace, or a limit. */
  readonly under?: readonly string[];
}

/** One line of diagnostics. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  /** Of the line about the log that was opened. */
  readonly from?: number;
  readonly end?: number;
  readonly snapshot?: number;
  /** Of a leader, and of the in-sync set when it changes. */
  readonly epoch?: number;
  readonly inSync?: readonly string[];
}

const running = new Set<BrokerProcess>();

/** Ends what tests have left running; for the `after` hook of a file. */
export async function killAllBrokers(): Promise<void> {
  await Promise.all([...running].map((broker) => broker.kill()));
}

export class BrokerProcess {
  readonly exit: Promise<BrokerExit>;
  readonly data: string;
  /** When it was started, on the monotonic clock. */
  readonly startedMs = performance.now();
  readonly #child: ChildProcessByStdio<null, Readable, Readable>;
  /** Whoever runs the broker and the broker are a process group, and get signals as one. */
  readonly #isGroup: boolean;
  #ended: BrokerExit | undefined;
  #stdout = '';
  #stderr = '';
  readonly #watchers = new Set<() => void>();

  constructor(options: BrokerOptions) {
    const { data, settings = [], under = [] } = options;
    this.data = data;
    const command = [
      ...under,
      process.execPath,
      GOMQ,
      'start',
      ...['--mqtt', '127.0.0.1:0', '--http', 'off', '--data', data],
      ...[`log.reserveBytes=${RESERVE_BYTES}`, 'logger.format=json', ...settings].flatMap((setting) => [
        '--set',
        setting,
      ]),
    ];
    this.#isGroup = under.length > 0;
    this.#child = spawn(command[0]!, command.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: this.#isGroup,
    });
    running.add(this);
    this.#child.stdout.on('data', (chunk: Buffer) => {
      this.#stdout += chunk;
      this.#wake();
    });
    this.#child.stderr.on('data', (chunk: Buffer) => {
      this.#stderr = `${this.#stderr}${chunk}`.slice(-STDERR_CHARACTERS_MAX);
      this.#wake();
    });
    this.exit = new Promise((resolve, reject) => {
      this.#child.once('error', reject);
      // 'close' rather than 'exit': what it wrote has been read by then.
      this.#child.once('close', (code, signal) => {
        running.delete(this);
        this.#ended = { code, signal };
        this.#wake();
        resolve(this.#ended);
      });
    });
  }

  /** Starts a broker and waits until clients can connect. */
  static async start(options: BrokerOptions): Promise<BrokerProcess> {
    const broker = new BrokerProcess(options);
    await broker.ready();
    return broker;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  get stderr(): string {
    return this.#stderr;
  }

  get hasEnded(): boolean {
    return this.#ended !== undefined;
  }

  /** Of the MQTT listener, once it is ready. */
  get port(): number {
    const match = /mqtt 127\.0\.0\.1:(\d+)/.exec(this.#stdout);
    assert.ok(match !== null, 'the broker has said that it is ready');
    return Number(match[1]);
  }

  get isReady(): boolean {
    return this.#stdout.includes('\n');
  }

  async ready(): Promise<void> {
    await this.#until(() => this.#stdout.includes('\n'), READY_MS_MAX, 'to be ready');
  }

  /** The diagnostics so far, where they are JSON. */
  lines(): LogLine[] {
    return this.#stderr
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as LogLine);
  }

  /** Waits for a line of diagnostics. */
  async said(pattern: RegExp, timeoutMs = EXIT_MS_MAX): Promise<void> {
    await this.#until(() => pattern.test(this.#stderr), timeoutMs, `to say ${pattern}`);
  }

  /** Ends it as a power switch would, but for what the operating system has taken over already. */
  async kill(): Promise<void> {
    if (this.hasEnded) return;
    this.signal('SIGKILL');
    await this.exit;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#isGroup) process.kill(-this.pid, signal);
    else this.#child.kill(signal);
  }

  /** Asks it to stop, which must succeed. */
  async stop(): Promise<void> {
    this.signal('SIGTERM');
    const { code, signal } = await this.ended();
    assert.equal(code, 0, `the broker stops with 0, not ${code ?? signal}:\n${this.#stderr}`);
  }

  /** How it ended; fails where it does not end in time. */
  async ended(timeoutMs = EXIT_MS_MAX): Promise<BrokerExit> {
    await this.#until(() => this.#ended !== undefined, timeoutMs, 'to end');
    return this.#ended!;
  }

  #wake(): void {
    for (const watcher of this.#watchers) watcher();
  }

  async #until(isThere: () => boolean, timeoutMs: number, what: string): Promise<void> {
    if (isThere()) return;
    await new Promise<void>((resolve, reject) => {
      const finish = (error?: Error) => {
        clearTimeout(timer);
        this.#watchers.delete(watcher);
        if (error === undefined) resolve();
        else reject(error);
      };
      const fail = (why: string) =>
        finish(new Error(`waited for the broker ${what}: ${why}\n${this.#stderr}`));
      const timer = setTimeout(() => fail(`nothing in ${timeoutMs} ms`), timeoutMs);
      const watcher = () => {
        if (isThere()) finish();
        else if (this.#ended !== undefined) fail(`it ended with ${this.#ended.code ?? this.#ended.signal}`);
      };
      this.#watchers.add(watcher);
      // It may have ended before.
      watcher();
    });
  }
}

/** A directory for data; `remove` takes it away. */
export function temporaryDirectory(): { path: string; remove: () => void } {
  const root = mkdtempSync(join(tmpdir(), 'gomq-crash-'));
  return { path: join(root, 'data'), remove: () => rmSync(root, { recursive: true, force: true }) };
}
