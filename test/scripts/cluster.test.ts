// `npm run cluster` as a newcomer runs it: what it prints is what works, and nothing of it is left.
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { after, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { exitOf, GOMQCTL } from '../e2e/broker.js';
import { temporaryFolder } from '../support/temporary-folder.js';

const run = promisify(execFile);
const SCRIPT = ['--import', 'tsx', 'scripts/cluster.ts'];

interface RunningCluster {
  readonly process: ChildProcess;
  readonly exit: Promise<number | null>;
  /** HOST:PORT for MQTT, of each broker in turn. */
  readonly mqtt: readonly string[];
  /** Of the brokers, and of etcd. */
  readonly pids: readonly number[];
  readonly leaderPid: number;
  readonly output: () => string;
  /** Waits until it has said so. */
  said(pattern: RegExp): Promise<void>;
}

const running = new Set<ChildProcess>();

after(async () => {
  // It takes with it what it has started.
  const ends = [...running].map((child) => {
    child.kill('SIGTERM');
    return exitOf(child);
  });
  await Promise.all(ends);
});

async function startCluster(...args: string[]): Promise<RunningCluster> {
  const child = spawn(process.execPath, [...SCRIPT, '--port', '0', '--http', '0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let output = '';
  let hasEnded = false;
  let look: () => void = () => undefined;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk;
      look();
    });
  }
  const exit = exitOf(child).finally(() => {
    running.delete(child);
    hasEnded = true;
    look();
  });
  const said = async (pattern: RegExp): Promise<void> => {
    while (!pattern.test(output)) {
      assert.ok(!hasEnded, `it ended before it said ${pattern}:\n${output}`);
      await new Promise<void>((wake) => {
        look = wake;
      });
    }
  };
  await said(/^Ctrl-C stops all/m);
  const table = /^gomq cluster ready\n\n([\s\S]*?)\n\n/m.exec(output)![1]!;
  return {
    process: child,
    exit,
    mqtt: [...table.matchAll(/ mqtt (\S+)/g)].map((match) => match[1]!),
    pids: [...table.matchAll(/ pid (\d+)/g)].map((match) => Number(match[1])),
    leaderPid: Number(/ pid (\d+), leads$/m.exec(table)![1]),
    output: () => output,
    said,
  };
}

async function gomqctl(connect: string, ...args: string[]): Promise<string> {
  const command = [GOMQCTL, '--topic', 'A', '--connect', connect, '--qos', '1', ...args];
  return (await run(process.execPath, command)).stdout;
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('npm run cluster', () => {
  it('takes what is published at one broker to a subscriber at another, and leaves nothing behind after Ctrl-C', async () => {
    const cluster = await startCluster();
    const [first, second, third] = cluster.mqtt as [string, string, string];
    assert.equal(cluster.pids.length, 4, 'three brokers and etcd');
    // A retained message is there whether or not the subscriber was first.
    await gomqctl(first, '--retain', '1', 'pub', 'hello', 'world', 'everyone');
    for (const broker of [second, third])
      assert.equal(await gomqctl(broker, 'sub', '-C', '1', '-W', '20'), 'hello world everyone\n');
    const folder = / removes the data in (\S+)/.exec(cluster.output())![1]!;
    cluster.process.kill('SIGINT');
    // npm passes on what the terminal has given to everybody: it is still the first one.
    cluster.process.kill('SIGINT');
    assert.equal(await cluster.exit, 0, cluster.output());
    assert.deepEqual(cluster.pids.filter(isRunning), []);
    assert.ok(!existsSync(folder));
  });

  it('tells of a broker that dies and of who leads then, and goes on with --data where it stopped', async () => {
    const data = temporaryFolder();
    const cluster = await startCluster('--data', data, '--log-files');
    await gomqctl(cluster.mqtt[0]!, 'pub', 'before');
    process.kill(cluster.leaderPid, 'SIGKILL');
    await cluster.said(/^[abc] ended by SIGKILL; start it again with$/m);
    await cluster.said(/^[abc] leads now: kill -9 \d+$/m);
    const alive = cluster.mqtt[cluster.pids.indexOf(cluster.leaderPid) === 0 ? 1 : 0]!;
    await gomqctl(alive, 'pub', 'after');
    cluster.process.kill('SIGTERM');
    assert.equal(await cluster.exit, 0, cluster.output());
    const again = await startCluster('--data', data, '--log-files');
    const list = await gomqctl(again.mqtt[2]!, 'list', '--json');
    const payloads = list
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).payload);
    assert.deepEqual(payloads, ['before', 'after']);
    again.process.kill('SIGINT');
    assert.equal(await again.exit, 0, again.output());
    assert.deepEqual([...cluster.pids, ...again.pids].filter(isRunning), []);
  });

  it('says in one line which port is taken, and starts nothing', async () => {
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const { port } = server.address() as { port: number };
    const base = Math.min(port, 65_504);
    const args = [...SCRIPT, '--port', '0', '--http', String(base)];
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    server.close();
    assert.equal(status, 1);
    if (base === port) {
      assert.equal(
        stderr,
        `cluster: 127.0.0.1:${port} is in use; choose other ports with --port and --http, or 0 for free ones\n`,
      );
    }
  });

  for (const args of [['--port', 'many'], ['--nodes'], ['extra'], ['--port', '65505']]) {
    it(`says in one line what is wrong with ${args.join(' ')}`, () => {
      const { status, stderr, stdout } = spawnSync(process.execPath, [...SCRIPT, ...args], {
        encoding: 'utf8',
      });
      assert.equal(status, 2);
      assert.match(stderr, /^cluster: [^\n]+\n$/);
      assert.equal(stdout, '');
    });
  }
});
