// gomqctl with three broker processes and an etcd: the leader is killed in the midst of what is published and received.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { PassThrough } from 'node:stream';
import { after, before, test } from 'node:test';
import { ClusterProcess } from '../client/cluster-process.js';
import { gomqctl, openInput, start, words } from './harness.js';

/** Lines of each publisher. */
const LINES = 2_000;
/** Received by then, of LINES. */
const KILL_AFTER = 400;

let cluster: ClusterProcess;

before(async () => {
  cluster = await ClusterProcess.start();
});

after(async () => {
  await cluster.stop();
});

const lines = Array.from({ length: LINES }, (_, index) => `line ${index}`);

/** Writes all lines as fast as they are read, and holds back the second half until `released`. */
async function feed(input: PassThrough, released: Promise<void>): Promise<void> {
  for (const [index, line] of lines.entries()) {
    if (index === LINES / 2) await released;
    if (!input.write(`${line}\n`)) await once(input, 'drain');
  }
  input.end();
}

test('kill -9 of the leader: pub and sub go on at another broker; QoS 2 line by line, QoS 1 with nothing lost', async (t) => {
  try {
    const leader = await cluster.leader();
    const others = cluster.brokers.filter((broker) => broker !== leader).map(({ mqtt }) => mqtt);
    const list = [leader.mqtt, ...others].join(',');
    const throughMember = [...others, leader.mqtt].join(',');
    const http = cluster.brokers.map((broker) => broker.http).join(',');
    const etcd = cluster.etcdUrl.replace('http:', 'etcd:');
    const subscribers = [
      start(['--connect', http, ...words(`sub -t failover/1 -q 1 -d`)]),
      start(['--connect', throughMember, ...words(`sub -t failover/2 -q 2 -C ${LINES} -d`)]),
    ];
    await Promise.all(subscribers.map((subscriber) => subscriber.noted('received SUBACK')));
    const inputs = [openInput(), openInput()];
    const publishers = [
      start(['--connect', throughMember, ...words('pub -t failover/1 -q 1 -l --json')], {
        stdin: inputs[0]!,
      }),
      start(['--connect', etcd, ...words('pub -t failover/2 -q 2 -l --json')], { stdin: inputs[1]! }),
    ];
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const fed = inputs.map((input) => feed(input, released));
    await subscribers[1]!.printed(`line ${KILL_AFTER}\n`);
    await cluster.kill(leader);
    release();
    await Promise.all(fed);
    const published = await Promise.all(publishers.map(({ done }) => done));
    for (const { code, stdout, stderr } of published) {
      assert.equal(code, 0, stderr);
      assert.equal(JSON.parse(stdout).acknowledged, LINES);
      t.diagnostic(/connected to .* after .*/.exec(stderr)?.[0] ?? 'not disconnected');
    }
    const exactlyOnce = await subscribers[1]!.done;
    assert.equal(exactlyOnce.code, 0);
    assert.deepEqual(exactlyOnce.stdout.trimEnd().split('\n'), lines);
    await subscribers[0]!.printed(`${lines.at(-1)}\n`);
    subscribers[0]!.interrupt();
    const atLeastOnce = await subscribers[0]!.done;
    assert.deepEqual([...new Set(atLeastOnce.stdout.trimEnd().split('\n'))], lines);
    const listed = await gomqctl(['--connect', list, ...words('list failover/2 --json')]);
    assert.equal(listed.code, 0, listed.stderr);
    const payloads = listed.stdout.trimEnd().split('\n');
    assert.deepEqual(
      payloads.map((line) => JSON.parse(line).payload as string),
      lines,
    );
  } catch (error) {
    t.diagnostic(cluster.said);
    throw error;
  }
});

test('any broker of the cluster takes a client, whoever leads', async () => {
  const alive = await cluster.leader();
  for (const broker of cluster.brokers) {
    const argv = ['--connect', `${broker.mqtt},${alive.mqtt}`, ...words('pub -t failover/any -q 1 x')];
    const { code, stderr } = await gomqctl(argv);
    assert.deepEqual([code, stderr], [0, ''], broker.node);
  }
});
