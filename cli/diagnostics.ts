// Owns stderr: one line for each thing a person should know. Nothing here is ever on stdout, where messages go.
import type { Io } from './io.js';

export interface Diagnostics {
  /** Something failed. */
  error(line: string): void;
  /** Something a person may want to know; not an error. */
  notice(line: string): void;
}

export function diagnose(io: Io, options: { quiet?: boolean }): Diagnostics {
  const write = (line: string) => {
    if (!options.quiet) io.stderr.write(`gomqctl: ${line}\n`);
  };
  return { error: write, notice: write };
}
