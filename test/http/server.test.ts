import assert from 'node:assert/strict';
import { type IncomingHttpHeaders, type RequestOptions, request } from 'node:http';
import { connect } from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { assembleConfig } from '../../src/core/config.js';
import { GomqError } from '../../src/core/errors.js';
import { createLogger, silentLogger } from '../../src/core/logger.js';
import type { HttpMessage } from '../../src/http/publish-request.js';
import { createHttpServer, type HttpHistory, type HttpServer } from '../../src/http/server.js';
import { FakeCluster } from './fake-cluster.js';

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: unknown;
}

interface Ask {
  method?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
}

/** A broker that keeps what it was given, and can be told to fail. */
class FakeBroker {
  messages: HttpMessage[] = [];
  ready = true;
  failure: Error | undefined;
  /** Resolves the publish under way, where a test wants to see what happens before. */
  commit: Promise<void> = Promise.resolve();

  async publish(message: HttpMessage): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    this.messages.push(message);
    await this.commit;
  }

  async history(): Promise<HttpHistory> {
    return { payloads: [], nextOffset: undefined };
  }

  isReady(): boolean {
    return this.ready;
  }
}

const JSON_TYPE = { 'content-type': 'application/json' };

async function ask(
  address: string,
  path: string,
  { method = 'GET', headers = {}, body }: Ask = {},
): Promise<Answer> {
  const { promise, resolve, reject } = withResolvers<Answer>();
  const url = new URL(path, `http://${address}`);
  const options: RequestOptions = { method, headers, agent: false };
  const outgoing = request(url, options, (incoming) => {
    const chunks: Buffer[] = [];
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
    incoming.on('end', () => {
      const text = Buffer.concat(chunks).toString();
      resolve({
        status: incoming.statusCode ?? 0,
        headers: incoming.headers,
        body: text === '' ? '' : JSON.parse(text),
      });
    });
  });
  outgoing.on('error', reject);
  outgoing.end(body);
  return promise;
}

function withResolvers<T>(): { promise: Promise<T>; resolve(value: T): void; reject(error: unknown): void } {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

function publishing(message: unknown, headers: Record<string, string> = {}): Ask {
  const body = typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message);
  return { method: 'POST', headers: { ...JSON_TYPE, ...headers }, body };
}

function configWith(values: Record<string, unknown>) {
  return assembleConfig(new Map(Object.entries({ 'http.listen': '127.0.0.1:0', ...values })));
}

/** Checks the one shape of failures, and returns the message for closer looks. */
function assertProblem(answer: Answer, status: number, code: string): string {
  const { error } = answer.body as { error: Record<string, string> };
  assert.deepEqual([answer.status, error?.code], [status, code]);
  assert.deepEqual(Object.keys(error ?? {}), ['code', 'message', 'hint']);
  assert.equal(Object.keys(answer.body as object).length, 1);
  return error?.message ?? '';
}

describe('HTTP API', () => {
  const broker = new FakeBroker();
  let server: HttpServer;
  let address: string;

  before(async () => {
    const config = configWith({ 'limits.packetBytes': 4096, 'limits.topicLevels': 8 });
    server = createHttpServer({
      config,
      logger: silentLogger,
      version: '1.2.3',
      broker,
      cluster: new FakeCluster(),
    });
    address = await server.listen();
  });
  after(() => server.close());
  beforeEach(() => {
    broker.messages = [];
    broker.ready = true;
    broker.failure = undefined;
    broker.commit = Promise.resolve();
  });

  it('tells the version', async () => {
    const answer = await ask(address, '/version');
    assert.deepEqual([answer.status, answer.body], [200, { name: 'gomq', version: '1.2.3' }]);
  });

  it('is live, and ready when the broker is', async () => {
    assert.equal((await ask(address, '/health/live')).status, 200);
    assert.equal((await ask(address, '/health/ready')).status, 200);
    broker.ready = false;
    assert.equal((await ask(address, '/health/live')).status, 200);
    assertProblem(await ask(address, '/health/ready'), 503, 'NOT_READY');
    assertProblem(await ask(address, '/pub', publishing({ topic: 'A', body: '' })), 503, 'NOT_READY');
    assert.deepEqual(broker.messages, []);
  });

  it('publishes text as it is, with QoS 0 and not retained unless told', async () => {
    const answer = await ask(address, '/pub', publishing({ topic: 'A/b', body: 'grüß dich' }));
    assert.deepEqual([answer.status, answer.body], [200, { ok: true }]);
    const payload = Buffer.from('grüß dich');
    assert.deepEqual(broker.messages, [{ topicName: 'A/b', payload, qos: 0, retain: false }]);
  });

  it('publishes any other JSON as its text', async () => {
    const bodies = [{ a: [1, 'x'] }, 21.5, true, null, []];
    for (const body of bodies) await ask(address, '/pub', publishing({ topic: 'A', body }));
    const texts = broker.messages.map(({ payload }) => payload.toString());
    assert.deepEqual(texts, ['{"a":[1,"x"]}', '21.5', 'true', 'null', '[]']);
  });

  it('takes QoS and retain, the latter as 0 and 1 too', async () => {
    for (const retain of [true, false, 1, 0]) {
      await ask(address, '/pub', publishing({ topic: 'A', body: '', qos: 2, retain }));
    }
    const taken = broker.messages.map(({ qos, retain }) => [qos, retain]);
    assert.deepEqual(taken, [
      [2, true],
      [2, false],
      [2, true],
      [2, false],
    ]);
  });

  it('answers only after the commit', async () => {
    const commit = withResolvers<void>();
    broker.commit = commit.promise;
    let isAnswered = false;
    const answer = ask(address, '/pub', publishing({ topic: 'A', body: 'x', qos: 1 })).then((result) => {
      isAnswered = true;
      return result;
    });
    // Another request that goes all the way there and back in the meantime.
    await ask(address, '/version');
    assert.equal(isAnswered, false);
    commit.resolve();
    assert.equal((await answer).status, 200);
  });

  const wrongBodies: [string, unknown, RegExp][] = [
    ['no JSON', '{"topic": "A", }', /not JSON: /],
    ['an empty body', '', /not JSON/],
    ['bytes that are not UTF-8', Buffer.from([0x22, 0xff, 0x22]), /not UTF-8/],
    ['an array', [1], /body is an array; expected a JSON object/],
    ['text', '"A"', /body is "A"; expected a JSON object/],
    ['null', 'null', /body is null; expected a JSON object/],
    ['an unknown key', { topic: 'A', body: '', topics: 1 }, /unknown key "topics"/],
    ['__proto__ as a key', '{"topic": "A", "body": "", "__proto__": {"qos": 1}}', /unknown key "__proto__"/],
    ['no topic', { body: '' }, /topic is missing/],
    ['a number as topic', { topic: 7, body: '' }, /topic is 7; expected text/],
    ['no body', { topic: 'A' }, /body is missing/],
    ['half a surrogate pair', '{"topic": "A", "body": "\\ud800"}', /surrogate/],
    ['QoS 3', { topic: 'A', body: '', qos: 3 }, /qos is 3; expected 0, 1 or 2/],
    ['QoS as text', { topic: 'A', body: '', qos: '1' }, /qos is "1"/],
    ['QoS null', { topic: 'A', body: '', qos: null }, /qos is null/],
    ['retain as text', { topic: 'A', body: '', retain: 'yes' }, /retain is "yes"; expected true or false/],
  ];
  for (const [what, body, expected] of wrongBodies) {
    it(`refuses ${what}`, async () => {
      assert.match(
        assertProblem(await ask(address, '/pub', publishing(body)), 400, 'REQUEST_INVALID'),
        expected,
      );
      assert.deepEqual(broker.messages, []);
    });
  }

  const wrongTopics: [string, RegExp][] = [
    ['', /empty/],
    ['A/+', /wildcard/],
    ['#', /wildcard/],
    ['A\0', /U\+0000/],
    ['$SYS/broker', /begin with \$/],
    ['$share/g/A', /begin with \$/],
    ['1/2/3/4/5/6/7/8/9', /levels/],
    ['x'.repeat(1025), /bytes/],
  ];
  for (const [topic, expected] of wrongTopics) {
    it(`refuses the topic ${JSON.stringify(topic.slice(0, 20))}`, async () => {
      const answer = await ask(address, '/pub', publishing({ topic, body: '' }));
      assert.match(assertProblem(answer, 400, 'TOPIC_INVALID'), expected);
      assert.deepEqual(broker.messages, []);
    });
  }

  it('refuses other content types, and a body without one', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', '']) {
      const headers: Record<string, string> = type === '' ? {} : { 'content-type': type };
      const answer = await ask(address, '/pub', { method: 'POST', headers, body: '{"topic":"A","body":""}' });
      assertProblem(answer, 415, 'CONTENT_TYPE_INVALID');
    }
    const charset = { 'content-type': 'application/json; charset=utf-8' };
    assert.equal((await ask(address, '/pub', publishing({ topic: 'A', body: '' }, charset))).status, 200);
  });

  it('refuses what is larger than a packet may be', async () => {
    const large = await ask(address, '/pub', publishing({ topic: 'A', body: 'x'.repeat(5000) }));
    assert.match(assertProblem(large, 413, 'BODY_TOO_LARGE'), /4096/);
    // 4 bytes each in the request, 21 in the message.
    const grown = await ask(address, '/pub', publishing(`{"topic":"A","body":[${'1e20,'.repeat(500)}0]}`));
    assertProblem(grown, 413, 'BODY_TOO_LARGE');
  });

  it('knows a wrong route from a wrong method', async () => {
    assertProblem(await ask(address, '/nowhere?x=1'), 404, 'ROUTE_UNKNOWN');
    assertProblem(await ask(address, '/pub/'), 404, 'ROUTE_UNKNOWN');
    assertProblem(await ask(address, '/%zz'), 400, 'REQUEST_INVALID');
    const answer = await ask(address, '/pub?x=1');
    assertProblem(answer, 405, 'METHOD_INVALID');
    assert.equal(answer.headers.allow, 'POST');
  });

  it('passes on what the broker refuses, and hides what is a defect', async () => {
    broker.failure = new GomqError('REFUSED', 'retained messages are off');
    const refused = await ask(address, '/pub', publishing({ topic: 'A', body: '' }));
    assert.equal(assertProblem(refused, 403, 'REFUSED'), 'retained messages are off');
    broker.failure = new GomqError('REFUSED', 'full', { retriable: true });
    assertProblem(await ask(address, '/pub', publishing({ topic: 'A', body: '' })), 503, 'REFUSED');
    broker.failure = new TypeError('secret inside');
    const failed = await ask(address, '/pub', publishing({ topic: 'A', body: '' }));
    assert.doesNotMatch(assertProblem(failed, 500, 'INTERNAL'), /secret/);
  });

  it('answers bytes that are no HTTP in the same shape', async () => {
    const { promise, resolve, reject } = withResolvers<string>();
    const port = Number(address.split(':').at(-1));
    let text = '';
    const socket = connect(port, '127.0.0.1', () => socket.write('\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0'));
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(text));
    const answer = await promise;
    assert.match(answer, /^HTTP\/1\.1 400 Bad Request\r\n/);
    const { error } = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')));
    assert.equal(error.code, 'REQUEST_INVALID');
  });

  it('refuses a page of another site', async () => {
    const foreign = [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { origin: 'http://127.0.0.1:1' },
      { 'sec-fetch-site': 'cross-site' },
    ];
    for (const headers of foreign) {
      const answer = await ask(
        address,
        '/pub',
        publishing({ topic: 'A', body: '' }, headers as Record<string, string>),
      );
      assertProblem(answer, 403, 'ORIGIN_FOREIGN');
    }
    const own = { origin: `http://${address}`, 'sec-fetch-site': 'same-origin' };
    assert.equal((await ask(address, '/pub', publishing({ topic: 'A', body: '' }, own))).status, 200);
    assert.equal(broker.messages.length, 1);
  });

  it('refuses a host name that somebody pointed at this machine', async () => {
    assertProblem(
      await ask(address, '/version', { headers: { host: 'evil.example:8000' } }),
      403,
      'ORIGIN_FOREIGN',
    );
    assertProblem(
      await ask(address, '/version', { headers: { host: '127.evil.example' } }),
      403,
      'ORIGIN_FOREIGN',
    );
    for (const host of ['localhost', 'LOCALHOST:8000', '[::1]:8000', '127.0.0.1']) {
      assert.equal((await ask(address, '/version', { headers: { host } })).status, 200, host);
    }
  });
});

describe('HTTP API with a token', () => {
  const broker = new FakeBroker();
  let server: HttpServer;
  let address: string;
  const lines: string[] = [];

  before(async () => {
    const logger = createLogger({ level: 'debug', format: 'json' }, { write: (line) => lines.push(line) });
    const config = configWith({ 'http.token': 'correct-horse' });
    server = createHttpServer({ config, logger, version: '1.2.3', broker, cluster: new FakeCluster() });
    address = await server.listen();
  });
  after(() => server.close());

  it('asks for it on POST /pub only', async () => {
    const message = { topic: 'A', body: '' };
    const refused = await ask(address, '/pub', publishing(message));
    assertProblem(refused, 401, 'TOKEN_WRONG');
    assert.equal(refused.headers['www-authenticate'], 'Bearer');
    for (const authorization of ['Bearer wrong', 'Bearer', 'Basic correct-horse', 'Bearer correct-horse2']) {
      assertProblem(await ask(address, '/pub', publishing(message, { authorization })), 401, 'TOKEN_WRONG');
    }
    assert.deepEqual(broker.messages, []);
    const right = { authorization: 'Bearer correct-horse', origin: 'https://dashboard.example' };
    assert.equal((await ask(address, '/pub', publishing(message, right))).status, 200);
    assert.equal((await ask(address, '/version')).status, 200);
  });

  it('never writes it to the log', async () => {
    broker.failure = new Error('broken');
    const right = { authorization: 'Bearer correct-horse' };
    assert.equal((await ask(address, '/pub', publishing({ topic: 'A', body: '' }, right))).status, 500);
    assert.match(lines.join(''), /broken/);
    assert.doesNotMatch(lines.join(''), /correct-horse/);
  });
});

describe('HTTP listener', () => {
  const broker = new FakeBroker();
  const options = { logger: silentLogger, version: '1.2.3', broker, cluster: new FakeCluster() };

  it('says that an address is in use', async () => {
    const first = createHttpServer({ ...options, config: configWith({}) });
    const address = await first.listen();
    const second = createHttpServer({ ...options, config: configWith({ 'http.listen': address }) });
    await assert.rejects(second.listen(), {
      code: 'ADDRESS_IN_USE',
      message: `cannot listen on ${address}: the address is in use`,
    });
    await second.close();
    await first.close();
  });

  it('says that an address is not of this machine', async () => {
    const server = createHttpServer({ ...options, config: configWith({ 'http.listen': '192.0.2.1:0' }) });
    await assert.rejects(server.listen(), { code: 'ADDRESS_INVALID' });
    await server.close();
  });

  it('listens on every address, where any Host is fine', async () => {
    const server = createHttpServer({ ...options, config: configWith({ 'http.listen': ':0' }) });
    const address = await server.listen();
    const answer = await ask(`127.0.0.1${address}`, '/version', { headers: { host: 'gomq.example' } });
    assert.equal(answer.status, 200);
    await server.close();
  });

  it('answers what is under way before it closes', async () => {
    const slow = new FakeBroker();
    const arrived = withResolvers<void>();
    const commit = withResolvers<void>();
    slow.publish = async () => {
      arrived.resolve();
      await commit.promise;
    };
    const server = createHttpServer({ ...options, broker: slow, config: configWith({}) });
    const address = await server.listen();
    const answer = ask(address, '/pub', publishing({ topic: 'A', body: '' }));
    await arrived.promise;
    const closed = server.close();
    commit.resolve();
    assert.equal((await answer).status, 200);
    await closed;
    await assert.rejects(ask(address, '/version'), { code: 'ECONNREFUSED' });
  });

  it('closes in bounded time though a client never finishes its request', async () => {
    const server = createHttpServer({ ...options, config: configWith({}) });
    const address = await server.listen();
    const socket = connect(Number(address.split(':').at(-1)), '127.0.0.1');
    socket.on('error', () => {});
    socket.write(
      'POST /pub HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{',
    );
    const ended = withResolvers<void>();
    socket.on('close', () => ended.resolve());
    // The request has arrived when another one that was sent later is answered.
    await ask(address, '/version');
    await server.close();
    await ended.promise;
  });
});
