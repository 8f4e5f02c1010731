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
// in order, prints nothing more. A test has two minutes, so a silence longer than this is a process that hangs.
const LONGEST_SILENCE_MS = 5 * 60_000;

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

/** Says where the test files that have hung stand, and ends them: they are reported as failed, and the files after them run. */
function endHanging(): void {
  silence.refresh();
  const list = spawnSync('ps', ['-o', 'pid=,etimes=,args=', '--ppid', String(runner.pid)], {
    encoding: 'utf8',
  });
  for (const line of (list.stdout ?? '').split('\n')) {
    const [, pid, seconds, command] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? [];
    if (pid === undefined || Number(seconds) * 1000 < LONGEST_SILENCE_MS) continue;
    console.error(`hangs for ${seconds} s: ${command} (pid ${pid})`);
    // The process may be past its JavaScript, so it is looked at from outside; what is not installed prints nothing.
    spawnSync('ps', ['-L', '-o', 'lwp,stat,wchan:32,comm', '-p', pid], { stdio: ['ignore', 2, 2] });
    spawnSync('gdb', ['-p', pid, '-batch', '-ex', 'thread apply all bt 14'], {
      stdio: ['ignore', 2, 2],
      timeout: 60_000,
    });
    process.kill(Number(pid), 'SIGKILL');
  }
}
