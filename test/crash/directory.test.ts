// The data directory from outside: who holds it, who may not have it, and what a start does with files that are not as they were written.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { closeAllClients, RawClient } from '../support/raw-client.js';
import { BrokerProcess, GOMQ, killAllBrokers, temporaryDirectory } from './broker-process.js';

const DAY_SECONDS = 86_400;
const DURABLE = {
  version: 5,
  clientId: 'durable',
  properties: { sessionExpiryInterval: DAY_SECONDS },
} as const;
const LOG = '00000000000000000000.log';
const NOBODY = 65_534;
/** Ends a broker that finds nothing wrong. */
const START_MS_MAX = 20_000;

after(() => {
  closeAllClients();
  return killAllBrokers();
});

describe('a data directory', () => {
  it('belongs to one broker: the second says who holds it and ends with 1, and a killed one lets go at once', async () => {
    await inDirectory(async (data) => {
      const first = await BrokerProcess.start({ data });
      const second = await refused({ data });
      assert.match(second, new RegExp(`${data} is held by process ${first.pid} since \\d{4}-\\d\\d-\\d\\dT`));
      // The first one does not mind.
      const client = await RawClient.open(first.port);
      await client.publish('a', 'b', { qos: 1 });
      await first.kill();
      const third = await BrokerProcess.start({ data });
      await third.stop();
    });
  });

  it('of a newer version is refused with 1, and left as it is', async () => {
    await inDirectory(async (data) => {
      await (await BrokerProcess.start({ data })).stop();
      const file = join(data, 'node.json');
      const node = JSON.parse(readFileSync(file, 'utf8')) as { format: number };
      assert.equal(node.format, 2);
      writeFileSync(file, JSON.stringify({ ...node, format: 3, checksum: 'of another kind' }));
      const before = contentsOf(data);
      const why = await refused({ data });
      assert.match(why, /has format 3, and this gomq knows format 2/);
      assert.match(why, /Start it with the version that wrote it/);
      assert.deepEqual(contentsOf(data), before);
    });
  });

  it('that is a file is refused with 1', async () => {
    await inDirectory(async (data) => {
      writeFileSync(data, 'not a directory');
      assert.match(await refused({ data }), /cannot use the data directory .*: it is not a directory/);
      assert.match(await refused({ data: join(data, 'below') }), /it is not a directory/);
      assert.equal(readFileSync(data, 'utf8'), 'not a directory');
    });
  });

  it('without permission is refused with 1', { skip: nobodySkip() }, async () => {
    await inDirectory(async (data) => {
      mkdirSync(data);
      // For a user who owns it not, and one who does.
      chmodSync(data, 0o500);
      assert.match(
        await refused({ data, under: asNobody() }),
        /cannot use the data directory .*: permission denied/,
      );
    });
  });
});

describe('a log that is not as it was written', () => {
  it('with damage before the last batch is refused with 1, file, position and command, each time the same', async () => {
    await inDirectory(async (data) => {
      await fill(data, 50);
      const file = join(data, LOG);
      const bytes = readFileSync(file);
      const at = bytes.indexOf('message 20');
      assert.ok(at > 0, 'short batches are not compressed');
      bytes[at] = bytes[at]! ^ 0x10;
      writeFileSync(file, bytes);
      const before = contentsOf(data);
      const why = await refused({ data });
      const [, position] = new RegExp(`${file} is damaged at position (\\d+), at offset`).exec(why)!;
      assert.ok(Number(position) < at && at < Number(position) + 1000);
      assert.match(why, new RegExp(`gomq log verify ${data}`));
      assert.deepEqual(contentsOf(data), before);
      assert.equal(await refused({ data }), why);
      assert.deepEqual(contentsOf(data), before);
      const verify = spawnSync(process.execPath, [GOMQ, 'log', 'verify', data], { encoding: 'utf8' });
      assert.equal(verify.status, 1);
      assert.match(verify.stdout + verify.stderr, new RegExp(`${LOG}.*position ${position}`));
      // Brought back from a copy.
      bytes[at] = bytes[at]! ^ 0x10;
      writeFileSync(file, bytes);
      await expectBacklog(data, 50);
    });
  });

  it('cut in its last batch starts with a warning that names it, and has everything before', async () => {
    await inDirectory(async (data) => {
      await fill(data, 50);
      const file = join(data, LOG);
      const bytes = readFileSync(file);
      const last = bytes.lastIndexOf('message 49');
      truncateSync(file, last + 4);
      const broker = await BrokerProcess.start({ data });
      await broker.kill();
      const warnings = broker.lines().filter(({ level }) => level === 'warn');
      assert.equal(warnings.length, 1, broker.stderr);
      assert.match(broker.stderr, new RegExp(`"file":"${file}"`));
      assert.match(broker.stderr, /"position":\d+/);
      // It is gone from the disk, and so is told of once.
      assert.notEqual(readFileSync(file).toString('latin1', last, last + 4), 'mess');
      const next = await expectBacklog(data, 49);
      assert.deepEqual(
        next.lines().filter(({ level }) => level !== 'info'),
        [],
      );
    });
  });
});

async function inDirectory(test: (data: string) => Promise<void>): Promise<void> {
  const { path, remove } = temporaryDirectory();
  try {
    await test(path);
  } finally {
    closeAllClients();
    await killAllBrokers();
    remove();
  }
}

/** Starts a broker that must not start; answers what it says. */
async function refused(options: { data: string; under?: string[] }): Promise<string> {
  const broker = new BrokerProcess(options);
  const { code } = await broker.ended(START_MS_MAX);
  const { stderr } = broker;
  assert.equal(code, 1, stderr);
  assert.doesNotMatch(stderr, /^\s+at /m);
  return stderr;
}

/** Publishes messages one by one to a session that is away, and kills the broker. */
async function fill(data: string, count: number): Promise<void> {
  const broker = await BrokerProcess.start({ data });
  const subscriber = await RawClient.open(broker.port, { ...DURABLE, clean: true });
  await subscriber.subscribe('a/#', 1);
  await subscriber.disconnect();
  const publisher = await RawClient.open(broker.port);
  for (let i = 0; i < count; i++) await publisher.publish('a/b', `message ${i}`, { qos: 1 });
  await broker.kill();
}

/** The session gets these messages and no more. */
async function expectBacklog(data: string, count: number): Promise<BrokerProcess> {
  const broker = await BrokerProcess.start({ data });
  const subscriber = await RawClient.open(broker.port, { ...DURABLE, clean: false });
  assert.equal(subscriber.connack?.sessionPresent, true);
  for (let i = 0; i < count; i++) await subscriber.expectMessage('a/b', `message ${i}`);
  await subscriber.expectQuiet();
  await subscriber.disconnect();
  await broker.stop();
  return broker;
}

/** A hash of each file, but for the lock, which says who looked last. */
function contentsOf(data: string): Map<string, string> {
  const names = readdirSync(data).filter((name) => name !== 'lock');
  const hash = (name: string): string =>
    createHash('sha256')
      .update(readFileSync(join(data, name)))
      .digest('hex');
  return new Map(names.sort().map((name) => [name, hash(name)]));
}

/** Root may do everything, and so becomes somebody else. */
function asNobody(): string[] {
  if (process.getuid?.() !== 0) return ['env'];
  return ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
}

function nobodySkip(): string | false {
  const [program = '', ...args] = asNobody();
  const { status } = spawnSync(program, [...args, process.execPath, GOMQ, '--version']);
  return status === 0 ? false : 'root cannot become a user without rights who may run gomq';
}
