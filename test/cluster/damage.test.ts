// Bits that flip on the disks of nodes that are down, and of a leader that runs. What others have is taken from them; what nobody has whole is refused,
// with file, position and offsets, rather than served.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readdirSync, readFileSync, readSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { BATCH_HEADER_BYTES, BATCH_MAGIC, BatchAt } from '../../src/log/batch-format.js';
import { readCommitted } from '../../src/log/membership.js';
import { GOMQ, killAllBrokers } from '../crash/broker-process.js';
import { attachSkip, failFromNowOn } from '../faults/failing-disks.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { hasKey, startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';
import { type OwnFault, runFaults } from './rounds.js';

after(killAllBrokers);

const verify = promisify(execFile);

const SEGMENT_BYTES = 262_144;
const SETTINGS = [
  'cluster.leaseSeconds=1',
  `log.segmentBytes=${SEGMENT_BYTES}`,
  'log.compression=none',
  'log.cacheBytes=1048576',
];
const CUT = /the log ends in a batch that is not whole, which is cut off/;
const INDEX_AGAIN = /the index of a segment cannot be used and is made again/;
const OTHER_SNAPSHOT = /\.snapshot.*an older snapshot or the log itself is used instead/;
const DAMAGED = /\d{20}\.log is damaged at position \d+, at offsets? \d+.*the log is damaged; it is replaced/;

// ---- where a bit flips ----------------------------------------------------------------------------------------------------------------

/** Flips a bit and says how to flip it back. */
function flip(path: string, position: number): () => void {
  const again = (): void => {
    const file = openSync(path, 'r+');
    const byte = Buffer.alloc(1);
    assert.equal(readSync(file, byte, 0, 1, position), 1);
    byte[0]! ^= 0x10;
    writeSync(file, byte, 0, 1, position);
    closeSync(file);
  };
  again();
  return again;
}

function files(data: string, ending: string): string[] {
  return readdirSync(data)
    .filter((name) => name.endsWith(ending))
    .sort()
    .map((name) => join(data, name));
}

/** Where the batches of a segment begin. */
function batchesOf(path: string): number[] {
  const bytes = readFileSync(path);
  const positions: number[] = [];
  for (let at = 0; at + BATCH_HEADER_BYTES <= bytes.length; ) {
    if (bytes.readUInt32LE(at + BatchAt.magic) !== BATCH_MAGIC) break;
    positions.push(at);
    at += BATCH_HEADER_BYTES + bytes.readUInt32LE(at + BatchAt.storedBytes);
  }
  return positions;
}

/** Whether the newest segment has some batches, and will not end in the next moment. */
function isAmidSegment(data: string): boolean {
  const batches = batchesOf(files(data, '.log').at(-1)!);
  return batches.length >= 10 && batches.at(-1)! < SEGMENT_BYTES / 2;
}

/** A file that is damaged, what has to be there before, and what a node says that starts with it. */
interface Kind {
  readonly what: string;
  isThere(data: string): boolean;
  flips(data: string): (() => void)[];
  readonly said: readonly RegExp[];
}

const LAST_BATCH: Kind = {
  what: 'the last batch',
  isThere: isAmidSegment,
  flips(data) {
    const path = files(data, '.log').at(-1)!;
    return [flip(path, batchesOf(path).at(-1)! + BATCH_HEADER_BYTES)];
  },
  said: [CUT],
};
const MIDDLE: Kind = {
  what: 'a batch with others behind it',
  isThere: isAmidSegment,
  flips(data) {
    const path = files(data, '.log').at(-1)!;
    return [flip(path, batchesOf(path)[2]! + BATCH_HEADER_BYTES)];
  },
  said: [DAMAGED],
};
const BESIDE: Kind = {
  what: 'an index and of the snapshots',
  // A snapshot that is known to be committed, so that a start looks at it.
  isThere: (data) =>
    files(data, '.snapshot').some((path) => Number(/(\d+)\.snapshot/.exec(path)![1]) <= readCommitted(data)),
  flips: (data) => [
    flip(files(data, '.index')[0]!, 20),
    ...files(data, '.snapshot').map((path) => flip(path, BATCH_HEADER_BYTES + 10)),
  ],
  said: [INDEX_AGAIN, OTHER_SNAPSHOT],
};

// ---- faults ---------------------------------------------------------------------------------------------------------------------------

function atMember(kind: Kind): OwnFault {
  return {
    what: `a bit of ${kind.what} of a member`,
    async breaks({ nodes, members: [name], leader, progress }) {
      await fill(nodes, leader);
      await nodes.until(`there is ${kind.what}`, () => kind.isThere(nodes.data(name)));
      await nodes.kill(name);
      kind.flips(nodes.data(name));
      const broker = await nodes.start(name);
      for (const line of kind.said) await broker.said(line);
      if (kind === MIDDLE) await copies(nodes, name);
      await progress();
    },
  };
}

/** All end at once, and it comes back before the others: whoever may lead does so at once. */
function atLeader(kind: Kind, mayLead: boolean): OwnFault {
  return {
    what: `a bit of ${kind.what} of the leader, and all are killed`,
    async breaks({ nodes, leader }) {
      await fill(nodes, leader);
      await nodes.until(`there is ${kind.what}`, () => kind.isThere(nodes.data(leader)));
      await Promise.all(nodes.names.map((name) => nodes.kill(name)));
      kind.flips(nodes.data(leader));
      await nodes.start(leader);
      await nodes.startAll();
      for (const line of kind.said) await nodes.broker(leader)!.said(line);
      const next = await nodes.waitForLeader();
      if (!mayLead) assert.notEqual(next, leader);
      if (kind === MIDDLE) await copies(nodes, leader);
    },
  };
}

const EVERYWHERE: OwnFault = {
  what: 'a bit on all disks: nobody leads until one of them is whole',
  async breaks({ nodes, etcd, standsStill }) {
    for (const name of nodes.names) {
      await nodes.until('there are batches', () => isAmidSegment(nodes.data(name)));
    }
    await Promise.all(nodes.names.map((name) => nodes.kill(name)));
    const back = nodes.names.map((name) => MIDDLE.flips(nodes.data(name)));
    await nodes.until('the lease of the former leader is over', async () => !(await hasKey(etcd, 'leader')));
    await nodes.startAll();
    await Promise.all(nodes.names.map((name) => nodes.broker(name)!.said(DAMAGED)));
    await standsStill();
    assert.equal(nodes.leader, undefined);
    const [first] = nodes.names as [string];
    await nodes.kill(first);
    for (const again of back[0]!) again();
    await nodes.start(first);
    assert.equal(await nodes.waitForLeader(), first);
    for (const name of nodes.names) if (name !== first) await copies(nodes, name);
  },
};

/** The node takes what it lacks from the leader. What it put aside is in the way of the next time. */
async function copies(nodes: Nodes, name: string): Promise<void> {
  await nodes.broker(name)!.said(/put the damaged log aside/);
  rmSync(join(nodes.data(name), 'damaged'), { recursive: true });
}

/** Some segments are full after it. */
async function fill(nodes: Nodes, leader: string): Promise<void> {
  const client = await PlainClient.connect(nodes.broker(leader)!.port, 'fills');
  for (let i = 0; i < 30; i++) assert.ok(await client.publish('filler', randomBytes(20_000)));
  client.close();
}

test('nothing acknowledged is lost when bits flip', { timeout: 120_000 }, (context) =>
  runFaults(
    context,
    [
      atMember(LAST_BATCH),
      atMember(MIDDLE),
      atMember(BESIDE),
      atLeader(LAST_BATCH, false),
      atLeader(MIDDLE, false),
      atLeader(BESIDE, true),
      EVERYWHERE,
    ],
    { settings: SETTINGS },
  ),
);

/** What a member lacks that was away is read from the disk by a leader that has not written it as one. */
const UNREADABLE: OwnFault = {
  what: 'a segment of the leader cannot be read',
  async breaks({ nodes, leader: former, members: [leader, member], progress }) {
    await nodes.kill(member);
    const path = files(nodes.data(leader), '.log').at(-1)!;
    await fill(nodes, former);
    await nodes.until('that segment is full', () => files(nodes.data(leader), '.log').at(-1) !== path);
    await nodes.stop(former);
    await nodes.start(former);
    await nodes.waitForInSync(2);
    assert.equal(nodes.leader, leader);
    const broker = nodes.broker(leader)!;
    const mend = await failFromNowOn(broker.pid, path, 'pread64:error=EIO');
    await nodes.start(member);
    await broker.said(/cannot read .*0\.log: EIO: .*what is on the disk is damaged; another node is to lead/);
    await mend();
    await copies(nodes, leader);
    await nodes.until('another node leads', () => nodes.leader !== leader);
    await progress();
  },
};

test('a leader that cannot read its log hands over', { skip: attachSkip(), timeout: 120_000 }, (context) =>
  runFaults(context, [UNREADABLE], { settings: SETTINGS }),
);

// ---- what nobody looks at when a node starts ----------------------------------------------------------------------------------------------

const MESSAGES = 120;
const FOUND = /\d{20}\.log","position":\d+,"offsets":"\d+ to \d+".*A batch of the log is damaged/;
const HANDS_OVER = /what is on the disk is damaged; another node is to lead, and this one copies it/;

for (const who of ['the leader', 'a member that leads later'] as const) {
  test(`a bit of a sealed segment of ${who}: whoever reads it gets all from another`, {
    timeout: 120_000,
  }, async (context) => {
    const etcd = await startEtcd(context);
    const nodes = new Nodes({
      etcd: etcd.endpoint,
      folder: temporaryFolder(),
      names: ['a', 'b', 'c'],
      settings: SETTINGS,
    });
    context.after(() => nodes.killAll());
    await nodes.startAll();
    const first = await nodes.waitForLeader();
    await nodes.waitForInSync(3);
    const payloads = Array.from(
      { length: MESSAGES },
      (_, i) => `${i} ${randomBytes(10_000).toString('hex')}`,
    );
    const client = await PlainClient.connect(nodes.broker(first)!.port, 'publishes');
    for (const payload of payloads) assert.ok(await client.publish('kept', payload));
    client.close();
    const damaged = who === 'the leader' ? first : nodes.names.find((name) => name !== first)!;
    const data = nodes.data(damaged);
    await nodes.until('a segment is sealed', () => files(data, '.index').length > 0);
    if (damaged === first) flipSealed(data);
    else {
      await nodes.kill(damaged);
      flipSealed(data);
      await nodes.start(damaged);
      await nodes.waitForInSync(3);
      await haveLead(nodes, damaged);
    }
    await readAll(nodes, payloads);
    for (const line of [FOUND, HANDS_OVER]) assert.match(nodes.broker(damaged)!.stderr, line);
    await copies(nodes, damaged);
    await nodes.waitForInSync(3);
    await Promise.all(nodes.names.map((name) => nodes.stop(name)));
    for (const name of nodes.names) await verify(process.execPath, [GOMQ, 'log', 'verify', nodes.data(name)]);
  });
}

function flipSealed(data: string): void {
  const path = files(data, '.log')[0]!;
  const batches = batchesOf(path);
  flip(path, batches[batches.length >> 1]! + BATCH_HEADER_BYTES + 1000);
}

/** Only that node and one that is down are in sync: it is elected, and serves when the other is back. */
async function haveLead(nodes: Nodes, name: string): Promise<void> {
  const leader = await nodes.waitForLeader();
  const third = nodes.names.find((one) => one !== name && one !== leader)!;
  await nodes.stop(third);
  await nodes.waitForInSync(2);
  await nodes.stop(leader);
  await nodes.start(leader);
  assert.equal(await nodes.waitForLeader(), name);
  await nodes.start(third);
  await nodes.waitForInSync(3);
}

/** From the beginning, and again on another connection where one ends: what comes is never with a gap. */
async function readAll(nodes: Nodes, payloads: readonly string[]): Promise<void> {
  for (let connection = 0; ; connection++) {
    const reader = await PlainClient.connect(nodes.broker(nodes.names[connection % 3]!)!.port, 'reads');
    await reader.subscribe('$replay/earliest/kept');
    let read = 0;
    while (read < payloads.length) {
      const message = await reader.message();
      if (message === undefined) break;
      assert.ok(
        message.payload === payloads[read],
        `${message.payload.slice(0, 10)} comes after ${read} messages`,
      );
      read++;
    }
    reader.close();
    if (read < payloads.length) continue;
    assert.ok(connection > 0, 'the first connection ends where the damage is');
    return;
  }
}
