// Runs gomqctl inside the test's process: its words and input go in, its output, its lines for a person and its exit status come out.
import { PassThrough, Readable, Writable } from 'node:stream';
import type { Io } from '../../cli/io.js';
import { run } from '../../cli/program.js';

export interface Invocation {
  stdin?: Readable | Buffer | string;
  stdout?: Writable;
  env?: Record<string, string>;
  /** Makes stderr a terminal of that many columns. */
  columns?: number;
}

export interface Outcome {
  code: number;
  stdout: string;
  bytes: Buffer;
  stderr: string;
}

/** A command under way. */
export interface Running {
  readonly done: Promise<Outcome>;
  /** What stdout has got so far. */
  readonly stdout: string;
  readonly stderr: string;
  /** The signal a person sends with Ctrl-C. */
  interrupt(): void;
  /** Resolves when stdout, or stderr, contains the text; rejects when the command ends without it. */
  printed(text: string): Promise<void>;
  noted(text: string): Promise<void>;
}

class Collector extends Writable {
  chunks: Buffer[] = [];
  isTTY = false;
  columns: number | undefined;

  override _write(chunk: Buffer, _encoding: string, callback: () => void): void {
    this.chunks.push(chunk);
    this.emit('collected');
    callback();
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

export function start(argv: readonly string[], invocation: Invocation = {}): Running {
  const stdout = new Collector();
  const stderr = new Collector();
  if (invocation.columns !== undefined) {
    stderr.isTTY = true;
    stderr.columns = invocation.columns;
  }
  const interrupt = new AbortController();
  const io: Io = {
    stdin: toReadable(invocation.stdin),
    stdout: invocation.stdout ?? stdout,
    stderr: stderr as Io['stderr'],
    env: invocation.env ?? {},
    signal: interrupt.signal,
  };
  let ended = false;
  const done = run(argv, io).then((code) => {
    ended = true;
    stdout.emit('collected');
    stderr.emit('collected');
    return { code, stdout: stdout.text, bytes: Buffer.concat(stdout.chunks), stderr: stderr.text };
  });
  const contains = (stream: Collector, text: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (stream.text.includes(text)) resolve();
        else if (ended) reject(new Error(`ended without "${text}": ${stdout.text} ${stderr.text}`));
        else stream.once('collected', look);
      };
      look();
    });
  return {
    done,
    get stdout() {
      return stdout.text;
    },
    get stderr() {
      return stderr.text;
    },
    interrupt: () => interrupt.abort(),
    printed: (text) => contains(stdout, text),
    noted: (text) => contains(stderr, text),
  };
}

export function gomqctl(argv: readonly string[], invocation: Invocation = {}): Promise<Outcome> {
  return start(argv, invocation).done;
}

function toReadable(input: Invocation['stdin']): Readable {
  if (input instanceof Readable) return input;
  return Readable.from(input === undefined ? [] : [Buffer.from(input)]);
}

/** An input that the test writes to while the command runs. */
export function openInput(): PassThrough {
  return new PassThrough();
}

/** The words of a command line without quotes: `words('--topic A pub')`. */
export function words(line: string): string[] {
  return line.split(' ').filter((word) => word !== '');
}
