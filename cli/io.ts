// Owns what a command may touch of the process it runs in, so that a test can run one without a process.
import type { Readable, Writable } from 'node:stream';

export interface Input extends Readable {
  isTTY?: boolean;
  fd?: number;
}

export interface Terminal extends Writable {
  isTTY?: boolean;
  columns?: number;
}

export interface Io {
  stdin: Input;
  stdout: Writable;
  stderr: Terminal;
  env: Record<string, string | undefined>;
  /** Aborted by the first SIGINT or SIGTERM: finish cleanly. */
  signal: AbortSignal;
}
