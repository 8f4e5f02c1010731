// `gomqctl cluster` with brokers that answer as a test says, and at the end with three real ones and a real etcd, one of which is killed under verify.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type ClusterStatus, parseHttpUrls } from '../../cli/cluster-api.js';
import { problemsOf, renderStatus } from '../../cli/cluster-view.js';
import type { Input } from '../../cli/io.js';
import type { VerifyResult } from '../../cli/verify-run.js';
import { startEtcd } from '../cluster/etcd-process.js';
import { gomqctl, type Outcome, start, words } from './harness.js';

const NODES = ['a', 'b', 'c'];

/** Three nodes of which b leads, all well. */
function healthy(): ClusterStatus {
  return {
    cluster: 'gomq',
    leader: 'b',
    epoch: 4,
    highWatermark: 1234,
    inSync: [...NODES],
    members: NODES.map((node, index) => ({
      node,
      role: node === 'b' ? 'leader' : 'member',
      logEnd: 1234,
      lagRecords: 0,
      inSync: true,
      mqtt: `10.0.0.${index}:9000`,
      http: `10.0.0.${index}:8000`,
    })),
    replicas: 3,
    minInSync: 2,
  };
}

/** Where a node is not any more, whether it counts as in sync or not. */
function without(node: string, { counts }: { counts: boolean }): ClusterStatus {
  const status = healthy();
  status.members = status.members.filter((member) => member.node !== node);
  if (!counts) status.inSync = status.inSync.filter((one) => one !== node);
  return status;
}

const texts = (status: ClusterStatus) => problemsOf(status).map(({ text }) => text);
const isSevere = (status: ClusterStatus) => problemsOf(status).some((problem) => problem.isSevere);

describe('what is wrong with a cluster', () => {
  test('is nothing where all nodes are in sync', () => {
    assert.deepEqual(problemsOf(healthy()), []);
  });

  test('is nothing where one stands alone', () => {
    const status = healthy();
    const members = status.members.filter(({ node }) => node === 'b');
    assert.deepEqual(problemsOf({ ...status, members, inSync: ['b'], replicas: 1, minInSync: 1 }), []);
  });

  test('is no leader, and who could be one', () => {
    const electing = { ...healthy(), leader: null };
    assert.deepEqual(texts(electing), [
      'no leader: nothing is published or delivered; one is elected as soon as etcd can be reached, unless the logs of the nodes say why not',
    ]);
    const gone = { ...without('b', { counts: true }), leader: null };
    assert.match(texts(gone)[0]!, /only a node in sync may lead, and b is not there/);
    assert.ok(isSevere(electing) && isSevere(gone));
  });

  test('is a node that counts and does not follow', () => {
    const status = without('c', { counts: true });
    assert.deepEqual(texts(status), [
      'c counts as in sync and does not follow: nothing is acknowledged until it is back or taken out',
      '1 of 3 nodes is not there',
    ]);
    assert.ok(isSevere(status));
  });

  test('is, before it happens, that one more failure stops it', () => {
    const status = without('c', { counts: false });
    assert.deepEqual(texts(status), [
      '1 of 3 nodes is not there',
      '2 of 3 in sync: if one more fails, nothing is acknowledged until it is back',
    ]);
    assert.ok(!isSevere(status));
  });

  test('is too few in sync', () => {
    const status = { ...without('c', { counts: false }), inSync: ['b'] };
    assert.match(texts(status)[0]!, /too few in sync: 1 of the 2/);
    assert.ok(isSevere(status));
  });

  test('is a member that catches up, or lags', () => {
    const status = healthy();
    Object.assign(status.members[2]!, { inSync: false, lagRecords: 1_500_000 });
    status.inSync = ['a', 'b'];
    assert.equal(texts(status)[0], 'c is not in sync: it is 1,500,000 records behind');
    const lagging = healthy();
    Object.assign(lagging.members[2]!, { lagRecords: 20_000 });
    assert.deepEqual(texts(lagging), ['c lags 20,000 records behind the leader']);
    assert.ok(!isSevere(status) && !isSevere(lagging));
  });

  test('is that there is none yet', () => {
    const status = { ...healthy(), leader: null, inSync: [], members: [] };
    assert.deepEqual(texts(status), ['no cluster yet: it begins when all 3 nodes are there']);
  });
});

test('the state is a table and a sentence', () => {
  const status = without('c', { counts: false });
  status.members[0]!.lagRecords = null;
  status.members[0]!.logEnd = null;
  assert.deepEqual(renderStatus(status), [
    'NODE  ROLE    EPOCH  LOG END  HIGH WATERMARK  LAG  IN SYNC  MQTT           HTTP',
    'a     member      4        -           1,234    -  yes      10.0.0.0:9000  10.0.0.0:8000',
    'b     leader      4    1,234           1,234    0  yes      10.0.0.1:9000  10.0.0.1:8000',
    'gomq: a counts as in sync and does not follow: nothing is acknowledged until it is back or another node is in sync; 1 of 3 nodes is not there',
  ]);
  assert.equal(renderStatus(healthy()).at(-1), 'gomq: b leads, 3 of 3 in sync');
});

test('the addresses of HTTP are URLs or HOST:PORT', () => {
  assert.deepEqual(parseHttpUrls(undefined, {}), ['http://127.0.0.1:8000']);
  assert.deepEqual(parseHttpUrls(undefined, { GOMQ_HTTP: 'a:1, https://b' }), ['http://a:1', 'https://b']);
  assert.deepEqual(parseHttpUrls('[::1]:8000', { GOMQ_HTTP: 'a:1' }), ['http://[::1]:8000']);
  for (const text of ['mqtt://a', 'http://a/path', 'a:1,', 'http://u:p@a', 'a b', '']) {
    assert.throws(() => parseHttpUrls(text, {}), /--http/, text);
  }
});

/** A broker's API: what it answers, and what it was asked. */
class FakeApi {
  status: ClusterStatus = healthy();
  /** Instead of the status: code and problem. */
  refusal: [number, string] | undefined;
  asked: string[] = [];
  tokens: (string | undefined)[] = [];
  onAct: () => void = () => undefined;
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      const isStatus = request.method === 'GET';
      this.tokens.push(request.headers.authorization);
      if (!isStatus) this.asked.push(`${request.method} ${request.url}`);
      if (this.refusal !== undefined && (this.refusal[0] === 401 || !isStatus)) {
        const [code, message] = this.refusal;
        response.writeHead(code).end(JSON.stringify({ error: { code: 'X', message, hint: 'Do this.' } }));
        return;
      }
      if (!isStatus) this.onAct();
      response.end(JSON.stringify(isStatus ? this.status : { ok: true }));
    });
  }

  static async start(t: TestContext): Promise<FakeApi> {
    const api = new FakeApi();
    await new Promise<void>((resolve) => api.#server.listen(0, '127.0.0.1', resolve));
    t.after(() => {
      api.#server.closeAllConnections();
      return new Promise((resolve) => api.#server.close(resolve));
    });
    return api;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
}

/** Nobody listens there. */
async function closedAddress(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `127.0.0.1:${port}`;
}

describe('gomqctl cluster', () => {
  const cluster = (line: string, http: string, more = {}): Promise<Outcome> =>
    gomqctl(['cluster', '--http', http, ...words(line)], more);

  test('shows the state, and exits with 1 where it does not work', async (t) => {
    const api = await FakeApi.start(t);
    const well = await cluster('', api.address);
    assert.deepEqual([well.code, well.stderr], [0, '']);
    assert.match(well.stdout, /^NODE .*\n(.*\n){3}gomq: b leads, 3 of 3 in sync\n$/);
    api.status = without('c', { counts: true });
    assert.equal((await cluster('', api.address)).code, 1);
  });

  test('shows it as JSON, with what is wrong', async (t) => {
    const api = await FakeApi.start(t);
    api.status = without('c', { counts: false });
    const { code, stdout } = await cluster('--json', api.address);
    assert.equal(code, 0);
    assert.deepEqual(JSON.parse(stdout), { ...api.status, problems: texts(api.status) });
  });

  test('takes the newest state that any broker has, and tells of those that do not answer', async (t) => {
    const [old, latest] = [await FakeApi.start(t), await FakeApi.start(t)];
    latest.status = { ...healthy(), epoch: 5, leader: 'a' };
    const closed = await closedAddress();
    const { code, stdout, stderr } = await cluster('--json', `${old.address},${closed},${latest.address}`);
    assert.deepEqual([code, JSON.parse(stdout).epoch], [0, 5]);
    assert.match(stderr, new RegExp(`^gomqctl: http://${closed} refuses connections`));
  });

  test('waits so long for a broker that is frozen and no longer, whatever the garbage collector takes', async (t) => {
    const api = await FakeApi.start(t);
    const frozen = createTcpServer();
    await new Promise<void>((resolve) => frozen.listen(0, '127.0.0.1', resolve));
    t.after(() => frozen.close());
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const collecting = setInterval(collect, 200);
    t.after(() => clearInterval(collecting));
    const silent = `127.0.0.1:${(frozen.address() as AddressInfo).port}`;
    const { code, stdout, stderr } = await cluster('--json', `${silent},${api.address}`);
    assert.deepEqual([code, JSON.parse(stdout).leader], [0, 'b']);
    assert.match(stderr, new RegExp(`^gomqctl: http://${silent} gave no answer within 3 s`));
  });

  test('sends the token, and says where one is missing', async (t) => {
    const api = await FakeApi.start(t);
    await cluster('--token secret', api.address);
    await cluster('', api.address, { env: { GOMQ_TOKEN: 'other' } });
    assert.deepEqual(api.tokens, ['Bearer secret', 'Bearer other']);
    api.refusal = [401, 'the request carries no token'];
    const { code, stderr } = await cluster('', api.address);
    assert.equal(code, 1);
    assert.match(stderr, /asks for its token: add --token TOKEN, or set GOMQ_TOKEN/);
  });

  test('has the leader step down, and says who leads then', async (t) => {
    const api = await FakeApi.start(t);
    api.onAct = () => {
      api.status = { ...healthy(), leader: 'c', epoch: 5 };
    };
    const closed = await closedAddress();
    const { code, stdout } = await cluster('step-down', `${closed},${api.address}`);
    assert.equal(code, 0);
    assert.match(stdout, /^b stepped down; c leads in epoch 5, after \d+(\.\d+)? s\n$/);
    assert.deepEqual(api.asked, ['POST /api/v1/cluster/step-down']);
  });

  test('says why it cannot', async (t) => {
    const api = await FakeApi.start(t);
    api.refusal = [403, 'no other node is in sync: nobody could lead'];
    const refused = await cluster('step-down', api.address);
    assert.equal(refused.code, 1);
    assert.equal(
      refused.stderr,
      `gomqctl: http://${api.address}: no other node is in sync: nobody could lead; Do this.\n`,
    );
    api.status = { ...healthy(), leader: null };
    assert.match((await cluster('step-down', api.address)).stderr, /there is no leader/);
  });

  test('does not ask a second broker where the first may have done it', async (t) => {
    const [first, second] = [await FakeApi.start(t), await FakeApi.start(t)];
    first.refusal = [500, 'gomq failed to answer'];
    assert.equal((await cluster('step-down', `${first.address},${second.address}`)).code, 1);
    assert.deepEqual(second.asked, []);
    first.refusal = [503, 'the cluster has no leader'];
    second.onAct = () => {
      second.status = { ...healthy(), epoch: 5 };
    };
    assert.equal((await cluster('step-down', `${first.address},${second.address}`)).code, 0);
    assert.deepEqual(second.asked, ['POST /api/v1/cluster/step-down']);
  });

  test('takes a node out', async (t) => {
    const api = await FakeApi.start(t);
    api.onAct = () => {
      api.status = without('c', { counts: false });
    };
    const { code, stdout } = await cluster('remove c --yes', api.address);
    assert.deepEqual([code, stdout], [0, 'c is out of cluster gomq; in sync: a, b\n']);
    assert.deepEqual(api.asked, ['DELETE /api/v1/cluster/members/c']);
    assert.match((await cluster('remove c --yes', api.address)).stderr, /there is no node c/);
    api.status.members.push({ ...healthy().members[2]!, inSync: false });
    const again = await cluster('remove c --yes', api.address);
    assert.equal(again.code, 0);
    assert.match(again.stdout, /c is not in sync, so nothing waits for it/);
    assert.equal(api.asked.length, 1);
  });

  test('asks first on a terminal, and needs --yes elsewhere', async (t) => {
    const api = await FakeApi.start(t);
    assert.match((await cluster('remove c', api.address)).stderr, /there is no terminal: add --yes/);
    for (const [typed, isDone] of [
      ['no\n', false],
      ['yes\n', true],
    ] as const) {
      const stdin: PassThrough & Input = new PassThrough();
      stdin.isTTY = true;
      const running = start(['cluster', 'remove', 'c', '--http', api.address], { stdin, columns: 100 });
      api.onAct = () => {
        api.status = without('c', { counts: false });
      };
      await running.noted('Type yes: ');
      stdin.write(typed);
      const { code, stderr } = await running.done;
      assert.match(stderr, /^c will be out of cluster gomq; what was acknowledged stays on a, b\.\n/);
      assert.deepEqual([code, api.asked.length], isDone ? [0, 1] : [1, 0]);
    }
  });

  test('has a node lead after a disaster, and asks that node', async (t) => {
    const [other, api] = [await FakeApi.start(t), await FakeApi.start(t)];
    for (const one of [other, api]) one.status = { ...healthy(), leader: null };
    other.status.members[0]!.http = api.address;
    assert.match((await cluster('force-lead a', other.address)).stderr, /there is no terminal: add --yes/);
    assert.match((await cluster('force-lead x --yes', other.address)).stderr, /no node x .*only a, b, c/);
    api.onAct = () => {
      for (const one of [other, api]) one.status = { ...healthy(), leader: 'a', epoch: 9 };
    };
    const { code, stdout } = await cluster('force-lead a --yes', other.address);
    assert.deepEqual([code, stdout], [0, 'a leads in epoch 9; it serves clients once 2 nodes are in sync\n']);
    assert.deepEqual([other.asked, api.asked], [[], ['POST /api/v1/cluster/members/a/force-lead']]);
    const late = await cluster('force-lead a --yes', other.address);
    assert.deepEqual([late.code, /a leads: force-lead is for/.test(late.stderr)], [1, true]);
  });

  test('says why a node is not made the leader', async (t) => {
    const api = await FakeApi.start(t);
    api.status = { ...healthy(), leader: null };
    for (const member of api.status.members) member.http = '';
    api.refusal = [403, 'a is not made the leader: b has more'];
    const { code, stderr } = await cluster('force-lead a --yes', api.address);
    assert.equal(code, 1);
    assert.match(stderr, /a is not made the leader: b has more; Do this\.\n$/);
  });

  test('watches: a JSON line for each change, until Ctrl-C', async (t) => {
    const api = await FakeApi.start(t);
    const running = start(['cluster', '--watch', '--json', '--http', api.address]);
    await running.printed('"epoch":4');
    api.status = { ...healthy(), epoch: 5 };
    await running.printed('"epoch":5');
    running.interrupt();
    const { code, stdout } = await running.done;
    assert.deepEqual([code, stdout.trimEnd().split('\n').length], [0, 2]);
  });

  const wrong: [string, RegExp][] = [
    ['cluster status', /unknown action "status"/],
    ['cluster remove', /the name of one node/],
    ['cluster remove a b', /the name of one node/],
    ['cluster force-lead', /the name of one node/],
    ['cluster force-lead a b', /the name of one node/],
    ['cluster step-down now', /step-down takes no word/],
    ['cluster step-down --watch', /leave out the action/],
    ['--connect 127.0.0.1:9000 cluster', /use --http HOST:PORT instead of --connect/],
    ['--http mqtt://a cluster', /no address of an HTTP API/],
  ];
  for (const [line, message] of wrong) {
    test(`refuses ${line}`, async () => {
      const { code, stderr } = await gomqctl(words(line));
      assert.equal(code, 1);
      assert.match(stderr, message);
    });
  }

  test('says that nobody answers', async () => {
    const { code, stderr } = await cluster('', await closedAddress());
    assert.equal(code, 1);
    assert.match(stderr, /refuses connections; is a broker running there, and is this its HTTP address\?\n$/);
  });
});

// ---- real brokers ------------------------------------------------------------------------------------------------------------------------

class Broker {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  #output = '';

  constructor(node: string, etcd: string, folder: string) {
    const settings = [`node.id=${node}`, 'log.reserveBytes=1048576', 'logger.format=json'];
    this.#child = spawn(
      process.execPath,
      [
        ...['dist/src/main.js', 'start', '--etcd', etcd, '--data', join(folder, node)],
        ...['--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0', '--peer', '127.0.0.1:0'],
        ...settings.flatMap((setting) => ['--set', setting]),
      ],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    );
    this.#child.stdout!.on('data', (chunk: Buffer) => {
      this.#output += chunk;
    });
    this.#ended = new Promise((resolve) => this.#child.once('close', () => resolve()));
  }

  /** Where it serves, once it does. */
  async address(kind: 'mqtt' | 'http'): Promise<string> {
    for (;;) {
      const match = new RegExp(`ready:.* ${kind} (\\S+)`).exec(this.#output);
      if (match !== null) return match[1]!;
      if (this.#child.exitCode !== null) throw new Error(`a broker ended with ${this.#child.exitCode}`);
      await delay(20);
    }
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

test('three brokers: status, step-down, and nothing lost when the leader is killed', {
  timeout: 110_000,
}, async (t) => {
  const etcd = await startEtcd(t);
  const folder = mkdtempSync(join(tmpdir(), 'gomq-cluster-command-'));
  const brokers = new Map(NODES.map((node) => [node, new Broker(node, etcd.endpoint, folder)]));
  t.after(async () => {
    await Promise.all([...brokers.values()].map((broker) => broker.kill()));
    rmSync(folder, { recursive: true, force: true });
  });
  const all = (kind: 'mqtt' | 'http') =>
    Promise.all([...brokers.values()].map((broker) => broker.address(kind)));
  const https = await all('http');
  const http = https.join(',');
  const status = async () => {
    const { stdout } = await gomqctl(['cluster', '--json', '--http', http]);
    return stdout === '' ? undefined : (JSON.parse(stdout) as ClusterStatus & { problems: string[] });
  };
  const whenWell = async () => {
    for (;;) {
      const seen = await status();
      if (seen?.problems.length === 0) return seen;
      await delay(50);
    }
  };

  const before = await whenWell();
  assert.deepEqual(
    before.members.map(({ node }) => node),
    NODES,
  );

  // Every broker publishes and shows messages.
  for (const [index, address] of https.entries()) {
    const published = await fetch(`http://${address}/pub`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ topic: 'A', body: `${index}`, qos: 1 }),
    });
    assert.equal(published.status, 200, await published.text());
  }
  for (const address of https) {
    const shown = await fetch(`http://${address}/messages/A`);
    assert.deepEqual(await shown.json(), { topic_name: 'A', message_list: ['0', '1', '2'] });
  }

  const stepped = await gomqctl(['cluster', 'step-down', '--json', '--http', http]);
  assert.equal(stepped.code, 0, stepped.stderr);
  const { from, to } = JSON.parse(stepped.stdout) as { from: string; to: string };
  assert.equal(from, before.leader);
  assert.notEqual(to, from);
  const { leader } = await whenWell();

  const connect = (await all('mqtt')).join(',');
  const line = `verify --connect ${connect} --seconds 4 --rate 100 --publishers 3 --subscribers 2 --json`;
  const verifying = start(words(line));
  await verifying.printed('"type":"progress","seconds":1');
  await brokers.get(leader!)!.kill();
  const { code, stdout, stderr } = await verifying.done;
  const result = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as VerifyResult;
  assert.equal(code, 0, stderr);
  assert.ok(result.connectionsLost > 0, 'the killed broker had clients');
  assert.equal(result.acknowledged, result.published);
  assert.equal(result.delivered, 2 * result.published);

  const after = await status();
  assert.notEqual(after!.leader, leader);
  assert.ok(after!.epoch > before.epoch);
});

test('an etcd that is lost for good: nobody leads until an operator says who', {
  timeout: 110_000,
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'gomq-cluster-command-'));
  const brokers: Broker[] = [];
  t.after(async () => {
    await Promise.all(brokers.map((broker) => broker.kill()));
    rmSync(folder, { recursive: true, force: true });
  });
  const startAll = async (etcd: string): Promise<string[]> => {
    brokers.splice(0, brokers.length, ...NODES.map((node) => new Broker(node, etcd, folder)));
    return Promise.all(brokers.map((broker) => broker.address('http')));
  };
  const statusWhen = async (http: string[], isWanted: (status: ClusterStatus) => boolean) => {
    for (;;) {
      const { stdout } = await gomqctl(['cluster', '--json', '--http', http.join(',')]);
      const seen = stdout === '' ? undefined : (JSON.parse(stdout) as ClusterStatus);
      if (seen !== undefined && isWanted(seen)) return seen;
      await delay(50);
    }
  };
  const former = await startEtcd(t);
  const before = await startAll(former.endpoint);
  await statusWhen(before, ({ inSync }) => inSync.length === NODES.length);
  // A leader serves a moment after it leads.
  for (const address of before) {
    while ((await fetch(`http://${address}/health/ready`)).status !== 200) await delay(20);
  }
  const published = await fetch(`http://${before[0]}/pub`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ topic: 'A', body: 'kept', qos: 1 }),
  });
  assert.equal(published.status, 200, await published.text());
  await Promise.all(brokers.map((broker) => broker.kill()));

  const lost = await startEtcd(t);
  const http = await startAll(lost.endpoint);
  const { leader } = await statusWhen(http, ({ members }) => members.length === NODES.length);
  assert.equal(leader, null);
  const force = (node: string) => gomqctl(['cluster', 'force-lead', node, '--yes', '--http', http.join(',')]);
  let forced = await force('a');
  // Nodes wait for a leader a little before one may be forced; then the one that has more is named.
  while (forced.code !== 0) {
    const named = / (\w+) has more/.exec(forced.stderr)?.[1];
    assert.ok(named !== undefined || forced.stderr.includes('try again'), forced.stderr);
    await delay(100);
    forced = await force(named ?? 'a');
  }
  await statusWhen(http, ({ inSync }) => inSync.length === NODES.length);
  for (const address of http) {
    const shown = await fetch(`http://${address}/messages/A`);
    assert.deepEqual(await shown.json(), { topic_name: 'A', message_list: ['kept'] });
  }
});
