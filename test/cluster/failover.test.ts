// Real brokers and a real etcd under load: whatever breaks, nothing that was acknowledged is lost, and nothing of QoS 2 comes twice. Each fault once,
// in an order that is drawn; `npm run test:long` goes on for longer.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { killAllBrokers } from '../crash/broker-process.js';
import { Random, seedOf } from '../crash/random.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { startEtcd } from './etcd-process.js';
import { Nodes } from './nodes.js';
import { ClusterRounds, FAULTS } from './rounds.js';

after(killAllBrokers);

test('nothing acknowledged is lost, whatever breaks', { timeout: 300_000 }, async (context) => {
  const seed = seedOf(process.env);
  context.diagnostic(`SEED=${seed}`);
  const random = new Random(seed);
  const rounds = Number(process.env.ROUNDS ?? FAULTS.length);
  const faults = Array.from({ length: Math.ceil(rounds / FAULTS.length) }, () =>
    random.shuffle(FAULTS),
  ).flat();
  const etcd = await startEtcd(context);
  const folder = temporaryFolder();
  const nodes = new Nodes({ etcd: etcd.endpoint, folder, names: ['a', 'b', 'c'] });
  const result = await new ClusterRounds({
    random,
    nodes,
    etcd,
    faults: faults.slice(0, rounds),
    onRound: (round, fault) => context.diagnostic(`${round + 1}: ${fault}`),
  }).run();
  context.diagnostic(JSON.stringify(result));
  assert.ok(result.acknowledged > 100, 'something was acknowledged');
});
