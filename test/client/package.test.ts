// The package as an application gets it: packed, installed into an empty project, and run with the programs of its README.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { startBroker, type TestBroker } from './support.js';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const tsc = join(root, 'node_modules', '.bin', 'tsc');

let directory: string;
let project: string;
let broker: TestBroker;
let unreachable: string | undefined;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'gomq-client-package-'));
  broker = await startBroker();
  // Built in a copy, so that the dist of the checkout is neither needed nor touched.
  const workspace = join(directory, 'workspace');
  await mkdir(workspace);
  await cp(join(root, 'tsconfig.json'), join(workspace, 'tsconfig.json'));
  await symlink(join(root, 'node_modules'), join(workspace, 'node_modules'), 'dir');
  const source = join(workspace, 'client');
  await cp(join(root, 'client'), source, {
    recursive: true,
    filter: (path) => !/[\\/](dist|node_modules)$/.test(path),
  });
  await run(tsc, ['-p', source]);
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', directory], { cwd: source });
  const tarball = (await readdir(directory)).find((name) => name.endsWith('.tgz'));
  assert.ok(tarball);
  project = join(directory, 'project');
  await mkdir(project);
  await writeFile(join(project, 'package.json'), '{"name":"project","private":true,"type":"module"}');
  const flags = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts', '--fetch-retries=1'];
  try {
    await run('npm', ['install', ...flags, join(directory, tarball)], { cwd: project });
  } catch (error) {
    const output = String((error as { stderr?: string }).stderr);
    unreachable = /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENOTCACHED|ENETUNREACH)\b/.exec(output)?.[0];
    if (unreachable === undefined) {
      throw error;
    }
  }
});

after(async () => {
  await broker.stop();
  await rm(directory, { recursive: true, force: true });
});

test('the tarball holds the code, its types, the README and the licence, and nothing else', async () => {
  const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: join(directory, 'workspace', 'client'),
  });
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  for (const expected of ['LICENSE', 'README.md', 'package.json', 'dist/index.js', 'dist/index.d.ts']) {
    assert.ok(paths.includes(expected), expected);
  }
  assert.deepEqual(
    paths.filter(
      (path) => !/^(dist\/[a-z-]+\.(js|js\.map|d\.ts)|LICENSE|README\.md|package\.json)$/.test(path),
    ),
    [],
  );
});

test('it brings MQTT.js and none of the dependencies of the broker', async (t) => {
  if (unreachable !== undefined) {
    t.skip(`the registry cannot be reached: ${unreachable}`);
    return;
  }
  const installed = await readdir(join(project, 'node_modules'));
  assert.ok(installed.includes('mqtt'));
  for (const name of ['fastify', 'pino', 'zod', 'yaml', '@node-rs', 'aedes', 'gomq']) {
    assert.ok(!installed.includes(name), name);
  }
});

test('the programs of the README run: a consumer, a producer, and the consumer again after a stop', async (t) => {
  if (unreachable !== undefined) {
    t.skip(`the registry cannot be reached: ${unreachable}`);
    return;
  }
  const readme = await readFile(join(root, 'client', 'README.md'), 'utf8');
  for (const [, name, code] of readme.matchAll(/<!-- example: (\S+) -->\n```js\n([\s\S]*?)```/g)) {
    await writeFile(join(project, name!), code!.replaceAll('127.0.0.1:9000', `127.0.0.1:${broker.port}`));
  }
  const consume = async (untilLine: string, meanwhile?: () => Promise<unknown>): Promise<string[]> => {
    const consumer = spawn(process.execPath, ['consumer.mjs'], {
      cwd: project,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exit = once(consumer, 'exit');
    const lines: string[] = [];
    for await (const line of createInterface(consumer.stdout)) {
      lines.push(line);
      if (line === 'subscribed') {
        await meanwhile?.();
      }
      if (line === untilLine) {
        consumer.kill('SIGINT');
      }
    }
    assert.deepEqual(await exit, [0, null]);
    return lines;
  };
  const produce = (): Promise<unknown> => run(process.execPath, ['producer.mjs'], { cwd: project });
  const expected = ['orders/new hello', 'orders/42 {"paid":true}'];
  assert.deepEqual(await consume(expected[1]!, produce), ['subscribed', ...expected]);
  await produce();
  const missed = await consume(expected[0]!);
  assert.deepEqual(
    missed.filter((line) => line === expected[0]),
    [expected[0]],
  );
});

test('the types hold in a strict project', async (t) => {
  if (unreachable !== undefined) {
    t.skip(`the registry cannot be reached: ${unreachable}`);
    return;
  }
  const sample = `
import { createConsumer, createProducer, GomqClientError, type ClientErrorCode, type PublishReceipt, type Qos } from '@gomq/client';

const qos: Qos = 2;
await using producer = createProducer({ brokers: ['a'], topic: 'A', tls: { ca: 'pem' }, will: { topic: 'W', payload: '' } });
await using consumer = createConsumer({ brokers: ['a'], onEvent: (event) => console.log(event.type) });
try {
  const receipt: PublishReceipt = await producer.publish('hello', { qos, signal: AbortSignal.timeout(1) });
  await producer.publish({ topic: 'B', payload: new Uint8Array(1), properties: { userProperties: { a: ['b'] } } });
  for await (const message of consumer.subscribe(['A'], { qos: 1, auto: false })) {
    const text: string = message.text();
    const bytes: Uint8Array = message.payload;
    console.log(text, bytes, receipt.reasonCode, message.properties.contentType?.length);
    message.ack();
  }
} catch (error) {
  if (error instanceof GomqClientError) {
    const code: ClientErrorCode = error.code;
    console.log(code, error.hint, error.retriable, error.reasonCode?.toFixed());
  }
}
// @ts-expect-error 3 is no QoS
await producer.publish('x', { qos: 3 });
// @ts-expect-error brokers are needed
createProducer({});
`;
  await writeFile(join(project, 'sample.ts'), sample);
  const options = {
    compilerOptions: {
      target: 'es2022',
      lib: ['es2023', 'esnext.disposable'],
      module: 'nodenext',
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      types: ['node'],
      typeRoots: [join(root, 'node_modules', '@types')],
    },
    files: ['sample.ts'],
  };
  await writeFile(join(project, 'tsconfig.json'), JSON.stringify(options));
  const { stdout } = await run(tsc, ['-p', project]).catch((error: { stdout: string }) => error);
  assert.equal(stdout, '');
});
