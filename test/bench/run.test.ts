// The benchmark as it is started, against Aedes alone, which needs neither a build nor an installed Mosquitto.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

/** Starts the benchmark; everything it prints gathers in `text`. */
function bench(...args: string[]) {
  const child = spawn(process.execPath, ['--import', 'tsx', 'bench/run.ts', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const printed = { text: '' };
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      printed.text += text;
    });
  }
  return { child, printed };
}

/** The processes started by `pid`, from /proc; empty where there is none. */
function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return text.split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const SHORT = [
  '--brokers',
  'aedes',
  '--only',
  'qos1-4-4',
  '--rounds',
  '1',
  '--seconds',
  '1',
  '--warmup',
  '1',
];

test('a short run prints a line a case and writes the report', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'gomq-bench-test-'));
  try {
    const out = join(folder, 'report.md');
    const { child, printed } = bench(...SHORT, '--out', out, '--results', folder);
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(code, 0, printed.text);
    assert.match(printed.text, /^round 1\/1 {2}qos1-4-4 +aedes +[\d,]+\/s .*lost 0/m);
    const report = readFileSync(out, 'utf8');
    assert.match(report, /\| QoS 1, window 100, four to four \| [\d,]+ \|/);
    assert.match(report, /Nothing was lost/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('an interrupted run leaves no process behind', async () => {
  const { child, printed } = bench(...SHORT, '--seconds', '60');
  let started: number[] = [];
  while (started.length < 2) {
    // The broker and the generator; a process has no event that tells of its grandchildren.
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(child.exitCode, null, printed.text);
    started = childrenOf(child.pid!);
    if (process.platform !== 'linux') return void child.kill('SIGINT');
  }
  child.kill('SIGINT');
  const [code] = (await once(child, 'close')) as [number];
  assert.equal(code, 130);
  assert.deepEqual(started.filter(isAlive), []);
});

test('an unknown case is one clear line', async () => {
  const { child, printed } = bench('--only', 'qos3');
  const [code] = (await once(child, 'close')) as [number];
  assert.equal(code, 1);
  assert.match(printed.text, /qos3 is none of qos0-4-4, /);
});
