// The API of a node that leads and of one that does not, side by side: what the second cannot answer itself, it has the first answer.
import assert from 'node:assert/strict';
import { createServer, type IncomingHttpHeaders, request } from 'node:http';
import { type AddressInfo, connect, createServer as createDoor, type Server } from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { assembleConfig } from '../../src/core/config.js';
import { GomqError } from '../../src/core/errors.js';
import { silentLogger } from '../../src/core/logger.js';
import type { Caller } from '../../src/http/guard.js';
import type { HttpMessage } from '../../src/http/publish-request.js';
import { createHttpServer, type HttpHistoryQuery, type HttpServer } from '../../src/http/server.js';
import { startGomq } from '../support/start-gomq.js';
import { FakeCluster } from './fake-cluster.js';

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

interface Ask {
  method?: string;
  headers?: Record<string, string>;
  body?: string;
  signal?: AbortSignal;
}

function ask(address: string, path: string, { method = 'GET', headers = {}, body, signal }: Ask = {}) {
  return new Promise<Answer>((resolve, reject) => {
    const outgoing = request(
      `http://${address}${path}`,
      { method, headers, agent: false, ...(signal === undefined ? {} : { signal }) },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
        incoming.on('error', reject);
        incoming.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, text });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

const publishing = (body: string, headers = {}): Ask => ({
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body,
});

function codeOf({ text }: Answer): string {
  return (JSON.parse(text) as { error: { code: string } }).error.code;
}

/** One broker with its API. */
class Node {
  readonly cluster = new FakeCluster();
  messages: HttpMessage[] = [];
  queries: HttpHistoryQuery[] = [];
  callers: Caller[] = [];
  isReady = true;
  address = '';
  server: HttpServer;
  /** Stands for the connections between brokers. */
  readonly door: Server = createDoor({ pauseOnConnect: true }, (socket) =>
    this.server.acceptPassedOn(socket, Buffer.alloc(0)),
  );

  constructor(name: string, settings: Record<string, unknown> = {}) {
    this.cluster.node = name;
    this.server = createHttpServer({
      config: assembleConfig(new Map(Object.entries({ 'http.listen': '127.0.0.1:0', ...settings }))),
      logger: silentLogger,
      version: '1.2.3',
      cluster: this.cluster,
      broker: {
        publish: async (message, caller) => {
          this.messages.push(message);
          this.callers.push(caller);
        },
        history: async (query) => {
          this.queries.push(query);
          const payloads = Array.from({ length: 1000 }, () => Buffer.alloc(1000, 'x'));
          return { payloads, nextOffset: 1234 };
        },
        isReady: () => this.isReady,
      },
    });
  }

  async listen(): Promise<void> {
    this.address = await this.server.listen();
    await this.openDoor();
  }

  openDoor(): Promise<void> {
    return new Promise((resolve) => this.door.listen(0, '127.0.0.1', resolve));
  }

  get doorPort(): number {
    return (this.door.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    await this.server.close();
    await new Promise((resolve) => this.door.close(resolve));
  }
}

describe('HTTP API of a cluster', () => {
  let leader: Node;
  let member: Node;

  before(async () => {
    leader = new Node('a');
    member = new Node('b');
    await leader.listen();
    await member.listen();
  });
  after(async () => {
    await member.close();
    await leader.close();
  });
  beforeEach(() => {
    leader.messages = [];
    leader.queries = [];
    leader.cluster.asked = [];
    leader.cluster.failure = undefined;
    leader.cluster.serving = true;
    member.cluster.serving = false;
    member.cluster.leaderPort = leader.doorPort;
  });

  it('shows the cluster on every node, as that node knows it', async () => {
    for (const node of [leader, member]) {
      const answer = await ask(node.address, '/api/v1/cluster');
      assert.equal(answer.status, 200);
      assert.deepEqual(JSON.parse(answer.text), node.cluster.status());
    }
  });

  it('publishes through the leader, byte for byte', async () => {
    for (const node of [leader, member]) {
      const answer = await ask(
        node.address,
        '/pub',
        publishing('{"topic": "A", "body": [1e20, "grüß"], "qos": 1}'),
      );
      assert.deepEqual([answer.status, answer.text], [200, '{"ok":true}']);
    }
    const payload = Buffer.from('[100000000000000000000,"grüß"]');
    const message = { topicName: 'A', payload, qos: 1, retain: false };
    assert.deepEqual(leader.messages, [message, message]);
    assert.deepEqual(member.messages, []);
  });

  it('shows messages of the leader, with where to go on', async () => {
    const wanted = await ask(leader.address, '/messages/A%2Fb?limit=2');
    const answer = await ask(member.address, '/messages/A%2Fb?limit=2');
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['gomq-next-offset'], '1234');
    assert.equal(answer.headers['content-type'], wanted.headers['content-type']);
    assert.equal(answer.text, wanted.text);
    assert.deepEqual(leader.queries[0], leader.queries[1]);
    assert.equal(member.queries.length, 0);
    const head = await ask(member.address, '/messages?topic=A', { method: 'HEAD' });
    assert.deepEqual([head.status, head.text], [200, '']);
  });

  it('tells what the leader says about a request that it does not take', async () => {
    const unknown = await ask(member.address, '/pub', publishing('{"topik": "A"}'));
    assert.deepEqual([unknown.status, codeOf(unknown)], [400, 'REQUEST_INVALID']);
    const broken = await ask(member.address, '/pub', publishing('{'));
    assert.deepEqual([broken.status, codeOf(broken)], [400, 'REQUEST_INVALID']);
    const wildcard = await ask(member.address, '/messages?topic=%23');
    assert.deepEqual([wildcard.status, codeOf(wildcard)], [400, 'TOPIC_INVALID']);
  });

  it('has a leader that serves nobody yet do what an operator asks, and nothing else', async () => {
    leader.cluster.serving = false;
    leader.cluster.isWaiting = true;
    for (const { address } of [leader, member]) {
      leader.cluster.asked = [];
      const removed = await ask(address, '/api/v1/cluster/members/c', { method: 'DELETE' });
      assert.deepEqual([removed.status, leader.cluster.asked], [200, ['remove c']]);
      const published = await ask(address, '/pub', publishing('{"topic_name":"a","payload":"x"}'));
      assert.deepEqual([published.status, codeOf(published)], [503, 'NOT_READY']);
    }
    leader.cluster.isWaiting = false;
    const late = await ask(leader.address, '/api/v1/cluster/members/c', { method: 'DELETE' });
    assert.deepEqual([late.status, codeOf(late)], [503, 'NOT_READY']);
  });

  it('steps down and removes a node, on whichever node that is asked', async () => {
    for (const { address } of [leader, member]) {
      const stepped = await ask(address, '/api/v1/cluster/step-down', { method: 'POST' });
      assert.deepEqual([stepped.status, stepped.text], [200, '{"ok":true}']);
      const removed = await ask(address, '/api/v1/cluster/members/node%20c', { method: 'DELETE' });
      assert.deepEqual([removed.status, removed.text], [200, '{"ok":true}']);
    }
    const both = ['step-down', 'remove node c'];
    assert.deepEqual(leader.cluster.asked, [...both, ...both]);
    assert.deepEqual(member.cluster.asked, []);
  });

  it('has a node lead only where that one is asked itself', async () => {
    const path = '/api/v1/cluster/members/b/force-lead';
    const wrong = await ask(leader.address, path, { method: 'POST' });
    assert.deepEqual([wrong.status, codeOf(wrong)], [421, 'MISDIRECTED']);
    assert.match(wrong.text, /this is a: ask .?.?b.?.? itself/);
    assert.equal((await ask(member.address, path, { method: 'POST' })).status, 200);
    assert.deepEqual([leader.cluster.asked, member.cluster.asked], [[], ['force-lead']]);
    member.cluster.asked = [];
  });

  it('says why that cannot be done', async () => {
    leader.cluster.failure = new GomqError('REFUSED', 'no other node is in sync: nobody could lead');
    for (const { address } of [leader, member]) {
      const answer = await ask(address, '/api/v1/cluster/step-down', { method: 'POST' });
      assert.deepEqual([answer.status, codeOf(answer)], [403, 'REFUSED']);
      assert.match(answer.text, /no other node is in sync/);
    }
    leader.cluster.failure = new GomqError('NOT_LEADER', 'a does not lead the cluster', { retriable: true });
    const late = await ask(leader.address, '/api/v1/cluster/step-down', { method: 'POST' });
    assert.deepEqual([late.status, codeOf(late), late.headers['retry-after']], [503, 'NOT_LEADER', '1']);
  });

  it('names the method of each route', async () => {
    const routes = [
      ['POST', '/api/v1/cluster', 'GET'],
      ['GET', '/api/v1/cluster/members/c/force-lead', 'POST'],
      ['GET', '/api/v1/cluster/step-down', 'POST'],
      ['POST', '/api/v1/cluster/members/c', 'DELETE'],
    ] as const;
    for (const [method, path, allowed] of routes) {
      const answer = await ask(leader.address, path, { method });
      assert.deepEqual([answer.status, answer.headers.allow], [405, allowed], path);
    }
    assert.equal((await ask(leader.address, '/api/v1/cluster/members/')).status, 404);
  });

  it('asks to come again where there is no leader', async () => {
    member.cluster.leaderPort = undefined;
    for (const path of ['/messages/A', '/messages?topic=A']) {
      const answer = await ask(member.address, path);
      assert.deepEqual(
        [answer.status, codeOf(answer), answer.headers['retry-after']],
        [503, 'NOT_READY', '1'],
      );
    }
    const answer = await ask(member.address, '/pub', publishing('{"topic":"A","body":""}'));
    assert.deepEqual([answer.status, answer.headers['retry-after']], [503, '1']);
    assert.match(answer.text, /no leader/);
  });

  it('does not pass on what was passed on, so nothing goes round in circles', async () => {
    leader.cluster.serving = false;
    leader.cluster.leaderPort = member.doorPort;
    const answer = await ask(member.address, '/pub', publishing('{"topic":"A","body":""}'));
    assert.deepEqual([answer.status, codeOf(answer)], [503, 'NOT_READY']);
    assert.match(answer.text, /a was taken for the leader, which it is not/);
    assert.deepEqual([leader.messages, member.messages], [[], []]);
  });

  it('says that a leader cannot be reached', async () => {
    const closed = createServer();
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
    member.cluster.leaderPort = (closed.address() as AddressInfo).port;
    await new Promise((resolve) => closed.close(resolve));
    const answer = await ask(member.address, '/pub', publishing('{"topic":"A","body":""}'));
    assert.deepEqual(
      [answer.status, codeOf(answer), answer.headers['retry-after']],
      [503, 'PEER_UNREACHABLE', '1'],
    );
  });

  it('gives no answer up to nobody where the connection to the leader is closed by then', async () => {
    const open = member.cluster.openLeader.bind(member.cluster);
    member.cluster.openLeader = async () => {
      const socket = await open();
      socket.destroy();
      return socket;
    };
    const answer = await ask(member.address, '/pub', publishing('{"topic":"A","body":""}'));
    member.cluster.openLeader = open;
    assert.deepEqual([answer.status, codeOf(answer)], [503, 'PEER_UNREACHABLE']);
    assert.match(answer.text, /may be choosing another leader/);
  });

  it('says that it is not known what became of a publish, where the leader went away before it answered', async () => {
    const rude = createServer((incoming) => incoming.socket.destroy());
    await new Promise<void>((resolve) => rude.listen(0, '127.0.0.1', resolve));
    member.cluster.leaderPort = (rude.address() as AddressInfo).port;
    const answer = await ask(member.address, '/pub', publishing('{"topic":"A","body":""}'));
    assert.deepEqual([answer.status, codeOf(answer)], [503, 'PEER_UNREACHABLE']);
    assert.match(answer.text, /not known whether/);
    await new Promise((resolve) => rude.close(resolve));
  });

  it('lets go of the leader when the caller is gone, before an answer and in the middle of one', async () => {
    for (const isAnswering of [false, true]) {
      const { promise: ended, resolve: end } = withResolvers();
      const { promise: arrived, resolve: arrive } = withResolvers();
      const slow = createServer((incoming, outgoing) => {
        outgoing.once('close', () => end());
        incoming.resume();
        if (isAnswering) outgoing.write('{"begun":');
        arrive();
      });
      await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve));
      member.cluster.leaderPort = (slow.address() as AddressInfo).port;
      const controller = new AbortController();
      const answer = ask(member.address, '/messages/A', { signal: controller.signal });
      await arrived;
      controller.abort();
      await assert.rejects(answer);
      await ended;
      await new Promise((resolve) => slow.close(resolve));
    }
  });

  it('is ready while it serves or follows, whoever leads', async () => {
    assert.equal((await ask(member.address, '/health/ready')).status, 200);
    member.isReady = false;
    const answer = await ask(member.address, '/health/ready');
    member.isReady = true;
    assert.equal(answer.status, 503);
  });
});

describe('HTTP API of a cluster with tokens', () => {
  it('is judged where the request comes in, and not once more at the leader', async () => {
    const leader = new Node('a', { 'http.token': 'correct-horse' });
    const member = new Node('b', { 'http.token': 'battery-staple' });
    for (const node of [leader, member]) await node.listen();
    member.cluster.serving = false;
    member.cluster.leaderPort = leader.doorPort;
    const stepDown = (address: string, token: string) =>
      ask(address, '/api/v1/cluster/step-down', {
        method: 'POST',
        headers: { authorization: `Bearer ${token}` },
      });
    assert.equal((await stepDown(member.address, 'battery-staple')).status, 200);
    for (const [address, token] of [
      [member.address, 'correct-horse'],
      [leader.address, 'battery-staple'],
    ] as const) {
      const refused = await stepDown(address, token);
      assert.deepEqual([refused.status, refused.headers['www-authenticate']], [401, 'Bearer']);
    }
    assert.equal((await ask(member.address, '/api/v1/cluster')).status, 401);
    assert.deepEqual(leader.cluster.asked, ['step-down']);
    for (const node of [leader, member]) await node.close();
  });

  it('is served with the rights that the caller has where it came in', async () => {
    const body = '{"topic":"A","body":""}';
    for (const [ofLeader, ofMember, caller] of [
      ['', 'correct-horse', 'operator'],
      ['correct-horse', '', 'anonymous'],
    ] as const) {
      const leader = new Node('a', { 'http.token': ofLeader });
      const member = new Node('b', { 'http.token': ofMember });
      for (const node of [leader, member]) await node.listen();
      member.cluster.serving = false;
      member.cluster.leaderPort = leader.doorPort;
      // What a caller says of itself says nothing.
      const headers = { authorization: `Bearer ${ofMember}`, 'gomq-caller': 'operator' };
      assert.equal((await ask(member.address, '/pub', publishing(body, headers))).status, 200);
      assert.equal(
        (
          await ask(
            leader.address,
            '/pub',
            publishing(body, { ...headers, authorization: `Bearer ${ofLeader}` }),
          )
        ).status,
        200,
      );
      assert.deepEqual(leader.callers, [caller, caller === 'operator' ? 'anonymous' : 'operator']);
      for (const node of [leader, member]) await node.close();
    }
  });
});

describe('HTTP API of a leader that has no address for it', () => {
  it('answers what other nodes pass on, and what came before it was handed over', async () => {
    const leader = new Node('a', { 'http.listen': '', 'auth.anonymous': 'never' });
    const member = new Node('b');
    await leader.openDoor();
    await member.listen();
    member.cluster.serving = false;
    member.cluster.leaderPort = leader.doorPort;
    const answer = await ask(member.address, '/pub', publishing('{"topic":"A","body":""}'));
    assert.deepEqual([answer.status, leader.messages.length], [200, 1]);
    const door = createDoor((socket) =>
      socket.once('readable', () => leader.server.acceptPassedOn(socket, socket.read() as Buffer)),
    );
    await new Promise<void>((resolve) => door.listen(0, '127.0.0.1', resolve));
    const caller = connect((door.address() as AddressInfo).port, '127.0.0.1');
    caller.write('GET /version HTTP/1.1\r\nHost: leader\r\nConnection: close\r\n\r\n');
    const chunks: Buffer[] = [];
    for await (const chunk of caller) chunks.push(chunk as Buffer);
    const half = connect((door.address() as AddressInfo).port, '127.0.0.1');
    half.write('POST /pub HTTP/1.1\r\n');
    const halfClosed = new Promise((resolve) => half.once('close', resolve));
    assert.match(Buffer.concat(chunks).toString(), /^HTTP\/1.1 200 OK[\s\S]*"version":"1.2.3"/);
    // A connection that is never finished ends with the server.
    await leader.server.close();
    await halfClosed;
    await new Promise((resolve) => door.close(resolve));
    await new Promise((resolve) => leader.door.close(resolve));
    await member.close();
  });
});

describe('HTTP API of a broker that stands alone', () => {
  it('shows a cluster of one, in which there is nobody to step down for', async () => {
    const gomq = await startGomq({
      http: { listen: '127.0.0.1:0' },
      node: { id: 'lonely' },
      cluster: { name: 'home' },
    });
    const http = gomq.http!;
    const body = '{"topic":"A","body":"","qos":1}';
    assert.equal((await ask(http, '/pub', publishing(body))).status, 200);
    const status = JSON.parse((await ask(http, '/api/v1/cluster')).text);
    const logEnd = status.highWatermark as number;
    assert.ok(logEnd >= 1);
    const member = { node: 'lonely', role: 'leader', logEnd, lagRecords: 0, inSync: true };
    assert.deepEqual(status, {
      cluster: 'home',
      leader: 'lonely',
      epoch: 1,
      highWatermark: logEnd,
      inSync: ['lonely'],
      members: [{ ...member, mqtt: `127.0.0.1:${gomq.port}`, http }],
      replicas: 1,
      minInSync: 1,
    });
    const refused = await ask(http, '/api/v1/cluster/step-down', { method: 'POST' });
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'REFUSED']);
    await gomq.stop();
  });
});

function withResolvers(): { promise: Promise<void>; resolve(): void } {
  let resolve!: () => void;
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}
