#!/usr/bin/env node
// gomqctl: publishes and subscribes. Connects the command line to the process it runs in; program.ts is the rest.
import { run } from './program.js';

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // The first asks for a clean end, the second does not wait for it.
    if (interrupt.signal.aborted) process.exit(signal === 'SIGINT' ? 130 : 143);
    interrupt.abort();
  });
}
// A reader of stdout that goes away is handled where stdout is written; without this it would be a stack trace elsewhere.
process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);

const { stdout, stderr, env } = process;
try {
  process.exitCode = await run(process.argv.slice(2), {
    get stdin() {
      // Touched only by commands that read it: opening stdin keeps a process alive.
      return process.stdin;
    },
    stdout,
    stderr,
    env,
    signal: interrupt.signal,
  });
} catch (error) {
  process.stderr.write(
    `gomqctl: a defect in gomqctl, please report it: ${error instanceof Error ? error.stack : error}\n`,
  );
  process.exitCode = 1;
}
// Nothing is left to do; a socket or an input that is still open must not hold the process.
process.exit();
