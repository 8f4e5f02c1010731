import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import type { RunningGomq } from '../support/start-gomq.js';
import { uniqueTopic, useBroker } from '../support/suite.js';

interface Answer {
  status: number;
  next: string | null;
  body: { topic_name?: string; message_list?: string[]; error?: { code: string; message: string } };
}

async function get(gomq: RunningGomq, path: string, headers: Record<string, string> = {}): Promise<Answer> {
  const response = await fetch(`http://${gomq.http}${path}`, { headers });
  return {
    status: response.status,
    next: response.headers.get('gomq-next-offset'),
    body: (await response.json()) as Answer['body'],
  };
}

async function list(gomq: RunningGomq, path: string): Promise<string[]> {
  const { status, body } = await get(gomq, path);
  assert.equal(status, 200, JSON.stringify(body));
  return body.message_list!;
}

/** Publishes at QoS 1, and comes back when all is acknowledged. */
async function publish(
  broker: ReturnType<typeof useBroker>,
  topic: string,
  payloads: readonly (string | Buffer)[],
  properties?: object,
): Promise<void> {
  const client = await broker.open({ version: 5 });
  for (const payload of payloads) {
    client.send({
      cmd: 'publish',
      topic,
      payload,
      qos: 1,
      messageId: client.nextMessageId(),
      dup: false,
      retain: false,
      ...(properties === undefined ? {} : { properties }),
    });
    await client.expect('puback');
  }
  await client.disconnect();
}

for (const [log, node] of [
  ['on disk', {}],
  ['in memory', { data: '' }],
] as const) {
  describe(`GET /messages, with the log ${log}`, () => {
    const broker = useBroker({
      node,
      http: { listen: '127.0.0.1:0' },
      // What was read must come from the disk.
      log: { cacheBytes: 1_048_576, segmentBytes: 1_048_576 },
    });

    it('shows what a topic holds, oldest first, in the shape of the first gomq', async () => {
      const topic = uniqueTopic();
      await publish(broker, topic, ['one', 'zwei \u{1f44b}', '']);
      await publish(broker, `${topic}/below`, ['x']);
      for (const path of [`/messages?topic=${topic}`, `/messages/${topic}`]) {
        const { status, body, next } = await get(broker.running, path);
        const expected = { topic_name: topic, message_list: ['one', 'zwei \u{1f44b}', ''] };
        assert.deepEqual([status, body, next], [200, expected, null]);
      }
      assert.deepEqual(await list(broker.running, '/messages/nothing/here'), []);
    });

    it('takes any topic name, in the path and as a parameter', async () => {
      const base = uniqueTopic();
      for (const end of [
        '/b/c',
        '//',
        '/ä ö',
        '/100%',
        '/a?b=c&d',
        '/+x'.replace('+', ''),
        '/%2F',
        '/ü'.repeat(60),
      ]) {
        const topic = base + end;
        await publish(broker, topic, [end]);
        const encoded = encodeURIComponent(topic);
        for (const path of [
          `/messages?topic=${encoded}`,
          `/messages/${encoded}`,
          `/messages/${encoded.replaceAll('%2F', '/')}`,
        ]) {
          const { status, body } = await get(broker.running, path);
          assert.deepEqual([status, body], [200, { topic_name: topic, message_list: [end] }], path);
        }
      }
      const long = `${base}/${'x'.repeat(900)}`;
      await publish(broker, long, ['long']);
      assert.deepEqual(await list(broker.running, `/messages/${long}`), ['long']);
    });

    it('shows all QoS that the log has, and no message that has expired', async () => {
      const topic = uniqueTopic();
      const client = await broker.open({ version: 5 });
      client.send({ cmd: 'publish', topic, payload: 'lost', qos: 0, dup: false, retain: false });
      client.send({ cmd: 'publish', topic, payload: 'kept', qos: 0, dup: false, retain: true });
      client.send({
        cmd: 'publish',
        topic,
        payload: 'at 2',
        qos: 2,
        messageId: 7,
        dup: false,
        retain: false,
      });
      await client.expect('pubrec');
      await publish(broker, topic, ['gone'], { messageExpiryInterval: 0 });
      await publish(broker, topic, ['stays'], { messageExpiryInterval: 1000 });
      assert.deepEqual(await list(broker.running, `/messages/${topic}`), ['kept', 'at 2', 'stays']);
    });

    it('limits how many, and says where to go on', async () => {
      const topic = uniqueTopic();
      const numbers = Array.from({ length: 25 }, (_, i) => `${i}`);
      await publish(broker, topic, numbers);
      const seen: string[] = [];
      let from = 'earliest';
      let requests = 0;
      for (;;) {
        const { body, next } = await get(broker.running, `/messages/${topic}?limit=10&from=${from}`);
        seen.push(...body.message_list!);
        requests++;
        if (next === null) break;
        from = next;
      }
      assert.deepEqual([seen, requests], [numbers, 3]);
      assert.deepEqual(await list(broker.running, `/messages/${topic}?from=-1h&limit=1`), ['0']);
      assert.deepEqual(await list(broker.running, `/messages/${topic}?from=2020-01-01T00:00:00Z&limit=1`), [
        '0',
      ]);
      assert.deepEqual(await list(broker.running, `/messages/${topic}?from=2099-01-01T00:00:00Z`), []);
      assert.deepEqual(await list(broker.running, `/messages/${topic}?from=9007199254740991`), []);
    });

    it('stops when an answer has four megabytes', async () => {
      const topic = uniqueTopic();
      const large = Array.from({ length: 30 }, (_, i) => `${i % 10}`.repeat(200_000));
      await publish(broker, topic, large);
      await publish(broker, uniqueTopic(), ['the end']);
      const first = await get(broker.running, `/messages/${topic}`);
      assert.equal(first.body.message_list!.length, 21);
      assert.ok(first.next !== null);
      const rest = await get(broker.running, `/messages/${topic}?from=${first.next}`);
      assert.deepEqual([...first.body.message_list!, ...rest.body.message_list!], large);
      assert.equal(rest.next, null);
    });

    it('shows bytes that are no text as U+FFFD, or everything as Base64', async () => {
      const topic = uniqueTopic();
      const bytes = Buffer.from([0x61, 0xff, 0x00, 0x62]);
      await publish(broker, topic, [bytes, 'text']);
      assert.deepEqual(await list(broker.running, `/messages/${topic}`), ['a\ufffd\0b', 'text']);
      const expected = [bytes.toString('base64'), Buffer.from('text').toString('base64')];
      assert.deepEqual(await list(broker.running, `/messages/${topic}?encoding=base64`), expected);
    });

    it('answers many at once', async () => {
      const topic = uniqueTopic();
      const numbers = Array.from({ length: 200 }, (_, i) => `${i}`);
      await publish(broker, topic, numbers);
      const all = await Promise.all(
        Array.from({ length: 40 }, () => list(broker.running, `/messages/${topic}`)),
      );
      for (const one of all) assert.deepEqual(one, numbers);
    });
  });
}

describe('GET /messages', () => {
  const broker = useBroker({ http: { listen: '127.0.0.1:0' }, limits: { topicLevels: 5 } });

  const wrong: [path: string, code: string, message: RegExp][] = [
    ['/messages', 'REQUEST_INVALID', /topic is missing; expected \/messages\?topic=TOPIC/],
    ['/messages?topic=', 'TOPIC_INVALID', /the topic name is empty/],
    ['/messages/', 'TOPIC_INVALID', /the topic name is empty/],
    ['/messages?topic=a&topic=b', 'REQUEST_INVALID', /topic is an array/],
    ['/messages?topic=a%2F%23', 'TOPIC_INVALID', /topic is "a\/#": the topic name contains a wildcard/],
    ['/messages/a/+', 'TOPIC_INVALID', /contains a wildcard/],
    ['/messages/a%00', 'TOPIC_INVALID', /U\+0000/],
    ['/messages/1/2/3/4/5/6', 'TOPIC_INVALID', /has 6 levels, more than 5/],
    ['/messages/a?topic=b', 'REQUEST_INVALID', /unknown parameter "topic"; expected from, limit, encoding/],
    ['/messages/a?count=5', 'REQUEST_INVALID', /unknown parameter "count"/],
    ['/messages/a?limit=0', 'REQUEST_INVALID', /limit is "0"; expected a number from 1 to 10000/],
    ['/messages/a?limit=10001', 'REQUEST_INVALID', /limit is "10001"/],
    ['/messages/a?limit=ten', 'REQUEST_INVALID', /limit is "ten"/],
    ['/messages/a?limit=', 'REQUEST_INVALID', /limit is ""/],
    ['/messages/a?from=yesterday', 'REQUEST_INVALID', /from is "yesterday"; expected earliest, an offset/],
    ['/messages/a?from=retained', 'REQUEST_INVALID', /from is "retained"/],
    ['/messages/a?encoding=hex', 'REQUEST_INVALID', /encoding is "hex"; expected text or base64/],
    ['/messages/%zz', 'REQUEST_INVALID', /./],
  ];
  for (const [path, code, message] of wrong) {
    it(`refuses ${path}`, async () => {
      const { status, body } = await get(broker.running, path);
      assert.deepEqual([status, body.error?.code], [400, code]);
      assert.match(body.error!.message, message);
    });
  }

  it('is for GET', async () => {
    for (const path of ['/messages', '/messages/a/b']) {
      const response = await fetch(`http://${broker.running.http}${path}`, { method: 'DELETE' });
      assert.deepEqual([response.status, response.headers.get('allow')], [405, 'GET']);
    }
  });

  it('is not for web pages of other sites', async () => {
    const { status, body } = await get(broker.running, '/messages/a', { origin: 'http://evil.example' });
    assert.deepEqual([status, body.error?.code], [403, 'ORIGIN_FOREIGN']);
  });
});

describe('GET /messages where there are rights', () => {
  const folder = mkdtempSync(join(tmpdir(), 'gomq-acl-'));
  after(() => rmSync(folder, { recursive: true }));
  const aclFile = join(folder, 'acl');
  writeFileSync(aclFile, 'topic readwrite open/#\nuser alice\ntopic readwrite #\n', { mode: 0o600 });
  const http = { listen: '127.0.0.1:0' };

  describe('without a token', () => {
    const broker = useBroker({ http, auth: { aclFile } });
    it('a caller sees what a client without a user name may read', async () => {
      await publish(broker, 'open/a', ['x']);
      assert.deepEqual(await list(broker.running, '/messages/open/a'), ['x']);
      const { status, body } = await get(broker.running, '/messages/secret/a');
      assert.deepEqual([status, body.error?.code], [403, 'REFUSED']);
      assert.equal(body.error?.message, 'no right to read secret/a');
    });
  });

  describe('without a token, where nobody is anonymous', () => {
    const broker = useBroker({ http, auth: { anonymous: 'never' } });
    it('nobody sees anything', async () => {
      const { status, body } = await get(broker.running, '/messages/open/a');
      assert.deepEqual([status, body.error?.code], [403, 'REFUSED']);
    });
  });

  describe('with a token', () => {
    const broker = useBroker({ http: { ...http, token: 'tokentokentoken' }, auth: { aclFile } });
    it('whoever knows it sees everything', async () => {
      const { status, body } = await get(broker.running, '/messages/secret/a');
      assert.deepEqual([status, body.error?.code], [401, 'TOKEN_WRONG']);
      const headers = { authorization: 'Bearer tokentokentoken' };
      const answer = await get(broker.running, '/messages/secret/a', headers);
      assert.deepEqual([answer.status, answer.body.message_list], [200, []]);
    });
  });
});
