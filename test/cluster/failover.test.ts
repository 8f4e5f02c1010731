// Real brokers and a real etcd under load: whatever is killed, nothing that was acknowledged is lost, and nothing of QoS 2 comes twice.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { Random, seedOf } from '../crash/random.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { ClusterRounds, FAULTS, type Fault } from './rounds.js';

after(killAllBrokers);

for (const fault of FAULTS) {
  test(`nothing acknowledged is lost: ${fault}`, { timeout: 180_000 }, async (context) => {
    const seed = seedOf(process.env);
    context.diagnostic(`SEED=${seed}`);
    const random = new Random(seed);
    const etcd = await startEtcd(context);
    const folder = mkdtempSync(join(tmpdir(), 'gomq-cluster-'));
    context.after(() => rmSync(folder, { recursive: true, force: true }));
    const nodes = new Nodes({ etcd: etcd.endpoint, folder, names: ['a', 'b', 'c'] });
    const faults: Fault[] = [fault, fault];
    const result = await new ClusterRounds({ random, nodes, etcd, faults }).run();
    context.diagnostic(JSON.stringify(result));
    assert.ok(result.acknowledged > 100, 'something was acknowledged');
  });
}
