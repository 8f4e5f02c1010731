// Small disks that fill up, of members: where enough others have room nobody waits for them, where not new messages are refused; nobody ends.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { mountSkip, mountSmall, type SmallFileSystem } from '../faults/failing-disks.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { PlainClient } from './plain-client.js';

after(killAllBrokers);

const OPTIONS = { skip: mountSkip(), timeout: 120_000 };
const MEBIBYTES = 40;
const BALLAST_BYTES = 12 * 1024 * 1024;
const PAYLOAD_BYTES = 40_000;
/** More than there is room for. */
const PUBLISHES_MAX = 1500;
const QUOTA_EXCEEDED = 0x97;

/** a, b and c, of which c leads, and so many of the others have small disks. */
async function cluster(context: TestContext, small: number) {
  const etcd = await startEtcd(context);
  const folder = temporaryFolder();
  const settings = ['cluster.leaseSeconds=1', 'log.compression=none'];
  const nodes = new Nodes({ etcd: etcd.endpoint, folder, names: ['a', 'b', 'c'], settings });
  const disks: SmallFileSystem[] = [];
  context.after(async () => {
    await nodes.killAll();
    for (const disk of disks) await disk.remove();
  });
  for (const name of nodes.names.slice(0, small)) {
    const disk = await mountSmall(MEBIBYTES);
    disks.push(disk);
    writeFileSync(join(disk.path, 'ballast'), Buffer.alloc(BALLAST_BYTES));
    symlinkSync(disk.path, nodes.data(name));
  }
  await nodes.startAll();
  await nodes.waitForInSync(3);
  while (nodes.leader !== 'c') {
    const leader = nodes.leader!;
    await nodes.stop(leader);
    await nodes.until('another node leads', () => nodes.leader !== undefined && nodes.leader !== leader);
    await nodes.start(leader);
    await nodes.waitForInSync(3);
  }
  const { client } = await PlainClient.open(nodes.broker('c')!.port, 5, { clientId: 'fills', clean: true });
  /** Answers 0 where it is taken. */
  const publish = async (): Promise<number> => {
    client.send('full', randomBytes(PAYLOAD_BYTES));
    const ack = await client.next('puback');
    assert.ok(ack?.cmd === 'puback', `${JSON.stringify(ack)}\n${nodes.diagnostics()}`);
    const { reasonCode = 0 } = ack;
    return reasonCode < 0x80 ? 0 : reasonCode;
  };
  const makeRoom = () => {
    for (const disk of disks) rmSync(join(disk.path, 'ballast'));
  };
  const areUp = () => nodes.names.every((name) => !nodes.broker(name)!.hasEnded);
  return { nodes, client, publish, makeRoom, areUp };
}

test(
  'one member with a full disk is not waited for, and is in sync again when there is room',
  OPTIONS,
  async (context) => {
    const { nodes, publish, makeRoom, areUp } = await cluster(context, 1);
    for (let i = 0; i < PUBLISHES_MAX && nodes.inSync.length === 3; i++) assert.equal(await publish(), 0);
    assert.deepEqual([...nodes.inSync].sort(), ['b', 'c']);
    for (let i = 0; i < 200; i++) assert.equal(await publish(), 0);
    assert.ok(areUp(), nodes.diagnostics());
    makeRoom();
    await nodes.waitForInSync(3);
    assert.ok(areUp(), nodes.diagnostics());
  },
);

test(
  'two members with full disks: what is published is refused, and is taken again when there is room',
  OPTIONS,
  async (context) => {
    const { nodes, client, publish, makeRoom, areUp } = await cluster(context, 2);
    let reasonCode = 0;
    for (let i = 0; i < PUBLISHES_MAX && reasonCode === 0; i++) reasonCode = await publish();
    assert.equal(reasonCode, QUOTA_EXCEEDED);
    for (let i = 0; i < 200; i++) assert.equal(await publish(), QUOTA_EXCEEDED);
    await client.subscribe('full');
    assert.ok(areUp(), nodes.diagnostics());
    makeRoom();
    await nodes.until('there is room', async () => (await publish()) === 0);
    assert.ok(areUp(), nodes.diagnostics());
  },
);
