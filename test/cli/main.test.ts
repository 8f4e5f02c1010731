// gomqctl as a process of its own: what only a process has, which is signals, pipes and the exit status.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type RunningGomq, startGomq } from '../support/start-gomq.js';
import { gomqctl, start, words } from './harness.js';

const MAIN = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'gomqctl-main-'));
let gomq: RunningGomq;
const children = new Set<ChildProcess>();

before(async () => {
  gomq = await startGomq();
});
after(async () => {
  for (const child of children) child.kill('SIGKILL');
  await gomq.stop();
  rmSync(directory, { recursive: true });
});

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

function spawnCtl(line: string, stdin: 'pipe' | number = 'pipe') {
  const argv = ['--import', 'tsx', MAIN, '--connect', `127.0.0.1:${gomq.port}`, ...words(line)];
  const child = spawn(process.execPath, argv, { stdio: [stdin, 'pipe', 'pipe'] });
  children.add(child);
  let stdout = '';
  let stderr = '';
  const watchers: (() => void)[] = [];
  child.stdout!.on('data', (chunk) => {
    stdout += chunk;
    for (const watch of watchers.splice(0)) watch();
  });
  child.stderr!.on('data', (chunk) => {
    stderr += chunk;
    for (const watch of watchers.splice(0)) watch();
  });
  const done = new Promise<Ended>((resolve) => {
    child.on('close', (code, signal) => {
      children.delete(child);
      resolve({ code, signal, stdout, stderr });
    });
  });
  const noted = async (text: string) => {
    while (!(stdout + stderr).includes(text)) await new Promise<void>((resolve) => watchers.push(resolve));
  };
  return { child, done, noted };
}

test('publishes from a file on stdin, reads through a pipe, and exits with 0', async () => {
  const file = join(directory, 'lines');
  writeFileSync(file, 'a\nb\nc\n');
  const subscriber = spawnCtl('sub -t main/1 -q 1 -C 3 -d');
  await subscriber.noted('received SUBACK');
  const publisher = await spawnCtl('pub -t main/1 -q 1 -l', openSync(file, 'r')).done;
  assert.deepEqual(publisher, { code: 0, signal: null, stdout: '', stderr: '' });
  const { code, stdout } = await subscriber.done;
  assert.deepEqual([code, stdout], [0, 'a\nb\nc\n']);
});

test('exit statuses reach the shell, and no failure shows a stack trace', async () => {
  const [wrong, timeout, refused, none] = await Promise.all([
    spawnCtl('pub -t a/# x').done,
    spawnCtl('sub -t a -W 0.1').done,
    spawnCtl('sub -t a -i', 'pipe').done,
    spawnCtl('').done,
  ]);
  assert.deepEqual([wrong.code, timeout.code, refused.code, none.code], [1, 27, 1, 1]);
  for (const { stdout, stderr } of [wrong, timeout, refused, none]) {
    assert.equal(stdout, '');
    assert.match(stderr, /^gomqctl: [^\n]+\n$/);
    assert.doesNotMatch(stderr, /\n {4}at /);
  }
});

test('SIGINT and SIGTERM end it cleanly', async () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    const subscriber = spawnCtl(`sub -t main/signal -d`);
    await subscriber.noted('received SUBACK');
    subscriber.child.kill(signal);
    const { code, stderr } = await subscriber.done;
    assert.equal(code, 0);
    assert.match(stderr, /sent DISCONNECT/);
  }
});

test('a reader that closes the pipe (| head) ends it quietly', async () => {
  const subscriber = spawnCtl('sub -t main/head -q 1 -v');
  const input = Array.from({ length: 1000 }, (_, index) => `${index}\n`).join('');
  const publish = () =>
    gomqctl(words(`pub -t main/head -q 1 -r -l --connect 127.0.0.1:${gomq.port}`), { stdin: input });
  await publish();
  await subscriber.noted('main/head');
  subscriber.child.stdout!.destroy();
  await publish();
  const { code, stderr } = await subscriber.done;
  assert.deepEqual([code, stderr], [0, '']);
});

test('the will of a killed client is published', async () => {
  const watcher = start(words(`sub -t main/will -C 1 -d --connect 127.0.0.1:${gomq.port}`));
  await watcher.noted('received SUBACK');
  const doomed = spawnCtl('sub -t x -d --will-topic main/will --will-payload gone --will-qos 1');
  await doomed.noted('received SUBACK');
  doomed.child.kill('SIGKILL');
  await doomed.done;
  assert.equal((await watcher.done).stdout, 'gone\n');
});
