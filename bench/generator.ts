// The load generator as a process of its own: `gomqctl bench`, without the rest of gomqctl.
import { benchCommand } from '../cli/bench/command.js';
import { Failure } from '../cli/failure.js';

const { stdin, stdout, stderr, env } = process;
const io = { stdin, stdout, stderr, env, signal: new AbortController().signal };
try {
  await benchCommand(io, (code) => {
    process.exitCode = code;
  }).parseAsync();
} catch (error) {
  if (!(error instanceof Failure)) throw error;
  stderr.write(`${error.message}\n`);
  process.exitCode = error.exitCode;
}
