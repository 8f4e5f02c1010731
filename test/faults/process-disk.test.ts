// The whole broker, as users run it, on disks that fail: what it has acknowledged is there afterwards, what it cannot keep it does not acknowledge,
// and it says what happened.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { BrokerProcess, killAllBrokers, temporaryDirectory } from '../crash/broker-process.js';
import { Clients, makePublisher } from '../crash/clients.js';
import { Ledger } from '../crash/ledger.js';
import { Random, seedOf } from '../crash/random.js';
import { closeAllClients, RawClient } from '../support/raw-client.js';
import { mountSkip, mountSmall, straceSkip, Tracing } from './failing-disks.js';

const MEBIBYTE = 1024 * 1024;
const EXIT_DISK_FAILED = 74;
const QUOTA_EXCEEDED = 0x97;
/** Of CONNACK in 3.1.1. */
const SERVER_UNAVAILABLE = 3;
const DAY_SECONDS = 86_400;
/** CONNACK, PUBREC or PUBCOMP on its way to a client, as strace shows it. */
const PROMISE = / (?:write|writev)\(\d\d+<socket:.*"(?: |P|p)/;
after(() => {
  closeAllClients();
  return killAllBrokers();
});

/** What fails, from which call on (each thread counts for itself), and what is said. */
const FAULTS = [
  ['fdatasync fails with EIO', 'fdatasync:error=EIO:when=12+', /fdatasync of .*\.log failed: EIO/],
  ['fdatasync fails with EIO once', 'fdatasync:error=EIO:when=40', /fdatasync of .*\.log failed: EIO/],
  ['a write fails with EIO', 'pwrite64:error=EIO:when=30+', /write of .*\.log failed: EIO/],
  ['no write finds room', 'pwrite64:error=ENOSPC:when=30+', /write of .*\.log failed: ENOSPC/],
] as const;

describe('a disk that fails under the broker', { skip: straceSkip() }, () => {
  for (const [what, injection, message] of FAULTS) {
    it(`${what}: the broker says so, ends with ${EXIT_DISK_FAILED}, and starts with all that it acknowledged`, async (t) => {
      const { path, remove } = temporaryDirectory();
      const tracing = new Tracing();
      const seed = seedOf(process.env);
      t.diagnostic(`SEED=${seed}`);
      const clients = new Clients(new Random(seed));
      try {
        makeDirectory(path);
        const broker = await BrokerProcess.start({ data: path, under: tracing.command([injection]) });
        await Promise.all([clients.load(broker), broker.ended()]);
        await expectDiskFailed(broker, message);
        const next = await BrokerProcess.start({ data: path });
        await clients.settle(next);
        await next.stop();
        const errors = next.lines().filter(({ level }) => level === 'error');
        assert.deepEqual(errors, []);
      } finally {
        clients.drop();
        tracing.remove();
        remove();
      }
    });

    it(`${what}: nothing is acknowledged that was not written and synced first`, async () => {
      const { path, remove } = temporaryDirectory();
      const tracing = new Tracing();
      const ledger = new Ledger();
      // One packet at a time: whatever is written between it and its answer is it.
      const publisher = makePublisher(ledger, new Random(1), { version: 5, qos: 2, window: 1 });
      try {
        makeDirectory(path);
        const under = tracing.command([injection], ['read', 'write', 'writev', 'pwrite64', 'fdatasync']);
        const broker = await BrokerProcess.start({ data: path, under });
        publisher.allow(Number.MAX_SAFE_INTEGER);
        await publisher.connect(broker.port);
        await Promise.all([ledger.whileRight(publisher.closed()), broker.ended()]);
        await expectDiskFailed(broker, message);
        ledger.check();
        const promises = checkPromises(tracing.lines());
        // CONNACK, and a PUBREC for each; some have their PUBCOMP too.
        assert.ok(promises > 2 && promises > ledger.counters.acknowledged, `${promises} promises`);
      } finally {
        publisher.drop();
        tracing.remove();
        remove();
      }
    });
  }
});

/**
 * The calls of a broker with one client that waits for each answer: between a packet that it sent and the answer something is written to the log,
 * and then synced. Answers how many answers there were.
 */
function checkPromises(lines: readonly string[]): number {
  let progress: 'asked' | 'written' | 'synced' = 'asked';
  let promises = 0;
  for (const line of lines) {
    if (/ read\(\d\d+<socket:/.test(line)) progress = 'asked';
    else if (/pwrite64.* = \d+$/.test(line) && progress === 'asked') progress = 'written';
    else if (/fdatasync.* = 0$/.test(line) && progress === 'written') progress = 'synced';
    else if (PROMISE.test(line)) {
      promises++;
      assert.equal(progress, 'synced', `after ${promises} answers comes ${line}, in:\n${lines.join('\n')}`);
    }
  }
  return promises;
}

/** What a new directory gets is not meant by the faults. */
function makeDirectory(path: string): void {
  openDataDirectory(path, { nodeId: 'gomq' }).release();
}

async function expectDiskFailed(broker: BrokerProcess, message: RegExp): Promise<void> {
  assert.equal((await broker.ended()).code, EXIT_DISK_FAILED, broker.stderr);
  const errors = broker.lines().filter(({ level }) => level === 'error');
  assert.ok(
    errors.some((line) => message.test(line.message)),
    broker.stderr,
  );
  // Lines of JSON and nothing else: no stack of an error that nobody caught.
  assert.equal(broker.lines().length, broker.stderr.trim().split('\n').length, broker.stderr);
}

describe('a file system without room', { skip: mountSkip() }, () => {
  it('refuses new messages, serves everything else, and takes messages again when there is room', async () => {
    const fileSystem = await mountSmall(24);
    const filler = join(fileSystem.path, 'filler');
    const data = join(fileSystem.path, 'data');
    try {
      writeFileSync(filler, Buffer.alloc(16 * MEBIBYTE));
      let broker = await BrokerProcess.start({ data });
      let { port } = broker;
      const durable = {
        version: 5,
        clientId: 'durable',
        properties: { sessionExpiryInterval: DAY_SECONDS },
      } as const;
      let subscriber = await RawClient.open(port, { ...durable, clean: true });
      await subscriber.subscribe('backlog/#', 1);
      await subscriber.disconnect();
      const publisher = await RawClient.open(port, { version: 5 });
      await publisher.publish('kept', 'a value', { qos: 1, retain: true });

      const acknowledged = await fill(publisher);
      assert.ok(acknowledged.length > 10, `${acknowledged.length} messages were acknowledged`);
      await broker.said(/hardly room on the disk/);

      // QoS 2 is refused like QoS 1, and so is what would be retained; an older client has no reason codes.
      publisher.sendPublish('backlog/2', 'no', { qos: 2 });
      assert.equal((await publisher.find('pubrec')).reasonCode, QUOTA_EXCEEDED);
      publisher.sendPublish('kept', 'no', { qos: 1, retain: true });
      assert.equal((await publisher.find('puback')).reasonCode, QUOTA_EXCEEDED);
      const old = await RawClient.open(port, { version: 4 });
      old.sendPublish('backlog/3', 'no', { qos: 1 });
      await old.expectClosed();

      // A session or a subscription that would have to be kept is refused, and a will; who leaves nothing behind may connect.
      for (const [version, code] of [
        [5, QUOTA_EXCEEDED],
        [4, SERVER_UNAVAILABLE],
      ] as const) {
        const will = { topic: 'will', payload: Buffer.from('x'), qos: 0, retain: false } as const;
        for (const kept of [{ ...durable, clientId: 'new', clean: false }, { will }]) {
          const refused = await RawClient.connect(port);
          const connack = await refused.mqttConnect({ ...kept, version });
          assert.equal(version === 5 ? connack.reasonCode : connack.returnCode, code);
          await refused.expectClosed();
        }
        const clean = await RawClient.open(port, { version });
        await clean.disconnect();
      }

      // Whoever comes back gets the backlog, may acknowledge it and unsubscribe; QoS 0 goes on; what is retained can be taken away.
      subscriber = await RawClient.open(port, { ...durable, clean: false });
      assert.equal(subscriber.connack?.sessionPresent, true);
      for (const payload of acknowledged) {
        const publish = await subscriber.expect('publish');
        assert.equal(publish.payload.toString(), payload);
        await subscriber.acknowledge(publish);
      }
      assert.deepEqual(await subscriber.subscribe('live', 1), [QUOTA_EXCEEDED]);
      assert.deepEqual(await subscriber.subscribe('backlog/#', 1), [1]);
      await publisher.publish('backlog/live', 'qos 0', { qos: 0 });
      await subscriber.expectMessage('backlog/live', 'qos 0');
      await subscriber.unsubscribe('nothing');
      await publisher.publish('kept', '', { qos: 1, retain: true });
      publisher.sendPublish('backlog/4', 'still no', { qos: 1 });
      assert.equal((await publisher.find('puback')).reasonCode, QUOTA_EXCEEDED);

      rmSync(filler);
      await broker.said(/There is room on the disk again/);
      await publisher.publish('backlog/5', 'yes', { qos: 1 });
      await subscriber.expectMessage('backlog/5', 'yes');
      await publisher.publish('backlog/6', 'yes', { qos: 2 });
      await subscriber.expectMessage('backlog/6', 'yes');
      // By then the acknowledgement before it is committed.
      await publisher.publish('other', '', { qos: 1 });
      await broker.stop();

      // It starts where there is hardly room, too, and says so.
      const left = roomOf(fileSystem.path);
      writeFileSync(filler, Buffer.alloc(left - MEBIBYTE / 2));
      broker = await BrokerProcess.start({ data });
      port = broker.port;
      await broker.said(/hardly room on the disk/);
      subscriber = await RawClient.open(port, { ...durable, clean: false });
      assert.equal(subscriber.connack?.sessionPresent, true);
      const again = await RawClient.open(port, { version: 5 });
      again.sendPublish('backlog/7', 'no', { qos: 1 });
      assert.equal((await again.find('puback')).reasonCode, QUOTA_EXCEEDED);
      assert.deepEqual(await again.subscribe('kept', 1), [1]);
      await again.expectQuiet();
      rmSync(filler);
      await broker.said(/There is room on the disk again/);
      await again.publish('backlog/8', 'yes', { qos: 1 });
      await subscriber.expectMessage('backlog/8', 'yes');
      await broker.stop();
    } finally {
      closeAllClients();
      await killAllBrokers();
      await fileSystem.remove();
    }
  });

  it('lives on when sessions that come and go have nearly spent the reserve, and starts again with what is left', async () => {
    const fileSystem = await mountSmall(24);
    const data = join(fileSystem.path, 'data');
    try {
      writeFileSync(join(fileSystem.path, 'filler'), Buffer.alloc(16 * MEBIBYTE));
      let broker = await BrokerProcess.start({ data });
      const durable = {
        version: 5,
        clean: false,
        properties: { sessionExpiryInterval: DAY_SECONDS },
      } as const;
      const stays = await RawClient.open(broker.port, { ...durable, clientId: 'stays' });
      await stays.subscribe('backlog/#', 1);
      const first = await RawClient.open(broker.port, { ...durable, clientId: 'comes and goes' });
      await first.disconnect();
      const publisher = await RawClient.open(broker.port, { version: 5 });
      const acknowledged = await fill(publisher);
      await broker.said(/hardly room on the disk/);

      // What is recorded of a session holds its will, so that it takes fewer of them.
      const will = { topic: 'will', payload: randomBytes(60_000), qos: 0, retain: false } as const;
      let code: number | undefined = 0;
      for (let times = 0; code === 0; times++) {
        assert.ok(times < 1000, 'it is refused before the reserve is spent');
        const client = await RawClient.connect(broker.port);
        code = (await client.mqttConnect({ ...durable, clientId: 'comes and goes', will })).reasonCode;
        if (code === 0) await client.disconnect();
      }
      assert.equal(code, QUOTA_EXCEEDED);
      await broker.said(/nearly spent/);
      for (const payload of acknowledged) {
        const publish = await stays.expect('publish');
        assert.equal(publish.payload.toString(), payload);
        await stays.acknowledge(publish);
      }
      await broker.stop();

      broker = await BrokerProcess.start({ data });
      await broker.said(/nearly spent/);
      const refused = await RawClient.connect(broker.port);
      assert.equal((await refused.mqttConnect({ ...durable, clientId: 'stays' })).reasonCode, QUOTA_EXCEEDED);
      const clean = await RawClient.open(broker.port, { version: 5 });
      assert.deepEqual(await clean.subscribe('live'), [0]);
      await clean.publish('live', 'qos 0', { qos: 0 });
      await clean.expectMessage('live', 'qos 0');
      await broker.stop();
    } finally {
      closeAllClients();
      await killAllBrokers();
      await fileSystem.remove();
    }
  });
});

/** Publishes what does not compress until it is refused; answers what was acknowledged. */
async function fill(publisher: RawClient): Promise<string[]> {
  const acknowledged: string[] = [];
  for (;;) {
    const payload = randomBytes(48 * 1024).toString('base64');
    publisher.sendPublish('backlog/1', payload, { qos: 1 });
    const { reasonCode } = await publisher.find('puback');
    if (reasonCode === QUOTA_EXCEEDED) return acknowledged;
    assert.ok(reasonCode === undefined || reasonCode < 0x80, `PUBACK with reason ${reasonCode}`);
    acknowledged.push(payload);
  }
}

/** Bytes that can still be written to a file system. */
function roomOf(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}
