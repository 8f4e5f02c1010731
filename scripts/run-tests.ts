// Runs the test files under test/ with node's test runner. Arguments narrow the run: `npm test -- router cli` runs the files whose path
// contains one of the words. Written in TypeScript rather than a glob on the command line because Node 20 does not expand globs.
import { spawn, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const words = process.argv.slice(2);
const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
  .map((name) => join('test', name))
  .filter((name) => name.endsWith('.test.ts'))
  .filter((name) => words.length === 0 || words.some((word) => name.includes(word)))
  .sort();

if (files.length === 0) {
  console.error(`no test file matches ${words.join(' ')}`);
  process.exit(1);
}

// A process that does not end although its tests have is not bound by --test-timeout (Node 24), and the reporter, which prints the files
// in order, prints nothing more. A test has two minutes where it does not say otherwise, and the longest (test/cluster/failover.test.ts) says
// five, in which it may print nothing; what it cleans up comes on top. A silence longer than this is a process that hangs.
const LONGEST_SILENCE_MS = 7 * 60_000;

const runner = spawn(
  process.execPath,
  // The reporter is named because the one that Node takes where the output is no terminal does not repeat at the end what failed.
  [
    '--import',
    'tsx',
    '--test',
    '--test-reporter=spec',
    '--test-concurrency=2',
    '--test-timeout=120000',
    ...files,
  ],
  {
    stdio: ['inherit', 'pipe', 'inherit'],
    env: process.stdout.isTTY ? { FORCE_COLOR: '1', ...process.env } : process.env,
  },
);
runner.stdout.pipe(process.stdout);
const silence = setTimeout(endHanging, LONGEST_SILENCE_MS);
runner.stdout.on('data', () => silence.refresh());
runner.on('close', (code, signal) => {
  clearTimeout(silence);
  process.exitCode = signal === null ? (code ?? 1) : 1;
});

/**
 * Says where the test file that hangs stands, and ends it: it is reported as failed, and the files after it run. That is the oldest process, for the
 * reporter prints the files in the order in which they were started. The one beside it may be well, and only wait to be printed; if it hangs as well,
 * the next silence finds it.
 */
function endHanging(): void {
  silence.refresh();
  const oldest = oldestTestProcess();
  // One that was started late in this silence has its time, too.
  if (oldest === undefined || oldest.seconds * 1000 < LONGEST_SILENCE_MS) return;
  const { pid, seconds, command } = oldest;
  console.error(`hangs for ${seconds} s: ${command} (pid ${pid})`);
  // The process may be past its JavaScript, so it is looked at from outside; what is not installed prints nothing.
  spawnSync('ps', ['-L', '-o', 'lwp,stat,wchan:32,comm', '-p', pid], { stdio: ['ignore', 2, 2] });
  spawnSync('gdb', ['-p', pid, '-batch', '-ex', 'thread apply all bt 14'], {
    stdio: ['ignore', 2, 2],
    timeout: 60_000,
  });
  try {
    process.kill(Number(pid), 'SIGKILL');
  } catch (error) {
    // It may have ended while it was looked at.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function oldestTestProcess(): { pid: string; seconds: number; command: string } | undefined {
  // Of two that were started in the same second, the one with the lower process id is first.
  const options = ['-ww', '-o', 'pid=,etimes=,args=', '--sort=-etimes,pid', '--ppid', String(runner.pid)];
  const { stdout } = spawnSync('ps', options, { encoding: 'utf8' });
  const [, pid, seconds, command] = /^ *(\d+) +(\d+) +(.*\.test\.ts.*)$/m.exec(stdout ?? '') ?? [];
  if (pid === undefined || command === undefined) return undefined;
  return { pid, seconds: Number(seconds), command };
}
