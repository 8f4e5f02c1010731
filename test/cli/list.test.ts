// gomqctl list, with gomq itself and with brokers that are not gomq.
import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { type RunningGomq, startGomq } from '../support/start-gomq.js';
import { gomqctl, type Invocation, start, words } from './harness.js';
import { answer, connack, publish, scriptedBroker } from './scripted-broker.js';

let gomq: RunningGomq;
let sequence = 0;
const KEPT = 'only messages of QoS 1 and 2 and retained ones are kept';

before(async () => {
  gomq = await startGomq();
});
after(() => gomq.stop());

const connectTo = (line: string | readonly string[]): string[] => [
  '--connect',
  `127.0.0.1:${gomq.port}`,
  ...(typeof line === 'string' ? words(line) : line),
];
const ctl = (line: string | readonly string[], invocation?: Invocation) =>
  gomqctl(connectTo(line), invocation);
/** A topic that no other test uses. */
const newTopic = () => `list/${++sequence}`;

interface Line {
  offset: number;
  time: string;
  topic: string;
  qos: number;
  retain: boolean;
  payload: string;
}

async function list(line: string | readonly string[]): Promise<Line[]> {
  const outcome = await ctl(['--json', ...(typeof line === 'string' ? words(line) : line)]);
  assert.deepEqual([outcome.code, outcome.stdout === '' ? '' : outcome.stderr], [0, '']);
  return outcome.stdout
    .split('\n')
    .filter(Boolean)
    .map((text) => JSON.parse(text) as Line);
}

async function pub(topic: string, messages: readonly string[], options = '-q 1'): Promise<void> {
  const { code, stderr } = await ctl(`pub -t ${topic} -l ${options}`, {
    stdin: messages.map((message) => `${message}\n`).join(''),
  });
  assert.deepEqual([code, stderr], [0, '']);
}

test('the two spellings of the README', async () => {
  await pub('A', ['hello world everyone', 'and again']);
  for (const line of [
    '--topic A list',
    'list A',
    'list -t A',
    'list -t A A',
    '-q 1 --retain 0 list A --quiet',
  ]) {
    const { code, stdout, stderr } = await ctl(line);
    assert.deepEqual([code, line.includes('--quiet') || stderr === ''], [0, true], stderr);
    const lines = stdout.trimEnd().split('\n');
    assert.match(lines[0]!, /^OFFSET {2}TIME {22}QOS {2}RETAIN {2}TOPIC {2}PAYLOAD$/);
    assert.match(lines[1]!, /^ +\d+ {2}20\S+Z {2}1 {4}- {7}A {6}hello world everyone$/);
    assert.match(lines[2]!, / and again$/);
    assert.equal(lines.length, 3);
  }
});

test('oldest first, with the QoS and the retain flag of the publisher, however they alternate', async () => {
  const topic = newTopic();
  const started = Date.now();
  for (let i = 0; i < 4; i++) {
    await pub(`${topic}/one`, [`${i} at 1`], '-q 1');
    await pub(`${topic}/two`, [`${i} at 2`], '-q 2');
    await pub(`${topic}/zero`, [`${i} at 0`], '-q 0 -r');
  }
  const lines = await list(`list ${topic}/#`);
  const expected = [0, 1, 2, 3].flatMap((i) => [
    [`${topic}/one`, 1, false, `${i} at 1`],
    [`${topic}/two`, 2, false, `${i} at 2`],
    [`${topic}/zero`, 0, true, `${i} at 0`],
  ]);
  assert.deepEqual(
    lines.map((line) => [line.topic, line.qos, line.retain, line.payload]),
    expected,
  );
  for (let i = 1; i < lines.length; i++) assert.ok(lines[i]!.offset > lines[i - 1]!.offset);
  for (const { time } of lines) assert.ok(Math.abs(Date.parse(time) - started) < 60_000);
  assert.deepEqual(Object.keys(lines[0]!), ['offset', 'time', 'topic', 'qos', 'retain', 'payload']);
});

test('--from and --limit', async () => {
  const topic = newTopic();
  await pub(topic, ['1', '2', '3', '4']);
  const all = await list(`list ${topic}`);
  const at = (from: string, more = '') => list(`list ${topic} --from ${from} ${more}`);
  const payloads = async (from: string, more?: string) =>
    (await at(from, more)).map(({ payload }) => payload);
  assert.deepEqual(await payloads('earliest'), ['1', '2', '3', '4']);
  assert.deepEqual(await payloads(`${all[2]!.offset}`), ['3', '4']);
  assert.deepEqual(await payloads(`${all[2]!.offset}`, '--limit 1'), ['3']);
  assert.deepEqual(await payloads('earliest', '--limit 4'), ['1', '2', '3', '4']);
  assert.deepEqual(await payloads('-1h'), ['1', '2', '3', '4']);
  assert.deepEqual(await payloads('2020-01-01T00:00:00+01:00'), ['1', '2', '3', '4']);
  assert.deepEqual(await payloads('2099-01-01T00:00:00Z'), []);
  assert.deepEqual(await payloads('9000000000'), []);
});

test('--retained shows what is retained', async () => {
  const topic = newTopic();
  await pub(`${topic}/a`, ['old', 'new'], '-q 1 -r');
  await pub(`${topic}/b`, ['at 2'], '-q 2 -r');
  await pub(`${topic}/c`, ['at 0'], '-q 0 -r');
  await pub(`${topic}/d`, ['not retained']);
  const lines = await list(`list ${topic}/# --retained`);
  assert.deepEqual(lines.map((line) => [line.topic, line.qos, line.retain, line.payload]).sort(), [
    [`${topic}/a`, 1, true, 'new'],
    [`${topic}/b`, 2, true, 'at 2'],
    [`${topic}/c`, 0, true, 'at 0'],
  ]);
  const offsets = (await list(`list ${topic}/#`)).map(({ offset }) => offset);
  for (const { offset } of lines) assert.ok(offsets.includes(offset));
  assert.equal((await list(`list ${topic}/# --retained --limit 2`)).length, 2);
});

test('where there is nothing it says so, and ends well', async () => {
  const topic = newTopic();
  await pub(topic, ['nobody heard it'], '-q 0');
  for (const [line, said] of [
    [`list ${topic}`, `gomqctl: the log holds nothing for "${topic}"; ${KEPT}\n`],
    [`list ${topic} --from -1h`, `gomqctl: the log holds nothing for "${topic}" from -1h on; ${KEPT}\n`],
    [`list ${topic}/# --retained`, `gomqctl: there is no retained message for "${topic}/#"\n`],
    [`list ${topic} --quiet`, ''],
  ] as const) {
    const { code, stdout, stderr } = await ctl(line);
    assert.deepEqual([code, stdout, stderr], [0, '', said]);
  }
});

test('what is wrong is said before anything is sent', async () => {
  for (const [line, said] of [
    ['list', /no topic; add --topic FILTER/],
    ['list A B', /list takes one topic filter, not "A" and "B"/],
    ['list -t A B', /list takes one topic filter/],
    ['list a#', /--topic "a#": # does not stand alone/],
    ['list $share/g/A', /takes a plain filter; --from says/],
    ['list $replay/earliest/A', /takes a plain filter; --from says/],
    ['list A --from yesterday', /--from "yesterday" is no beginning; use earliest/],
    ['list A --from 0/B', /--from "0\/B" is no beginning/],
    ['list A --from 2026-02-30T', /is no beginning/],
    ['list A --retained --from 0', /leave out --from/],
    ['list A --limit 0', /whole number from 1/],
    ['list A -V 311', /list needs MQTT 5/],
    ['list A -c', /unknown option '-c'/],
  ] as const) {
    const { code, stdout, stderr } = await ctl(line);
    assert.deepEqual([code, stdout], [1, ''], line);
    assert.match(stderr, said);
    assert.equal(stderr.trimEnd().split('\n').length, 1);
  }
});

test('--help has the grammar of FROM and examples', async () => {
  const { code, stdout } = await gomqctl(['list', '--help']);
  assert.equal(code, 0);
  for (const text of ['-1h, -90s', 'gomqctl list A', '--retained', '--full'])
    assert.ok(stdout.includes(text), text);
});

test('reads no more than its reader does, and ends quietly with it', { timeout: 60_000 }, async () => {
  const topic = newTopic();
  await pub(topic, Array<string>(3000).fill('x'.repeat(2000)));
  let bytes = 0;
  let resume: (() => void) | undefined;
  const slow = new Writable({
    highWaterMark: 1000,
    write(chunk: Buffer, _encoding, callback) {
      bytes += chunk.length;
      resume = callback;
    },
  });
  const running = start(connectTo(`list ${topic} --full`), { stdout: slow });
  // It is blocked, and stays alive: what is in the log stays there.
  while (slow.writableLength < 1_048_576) await new Promise((resolve) => setImmediate(resolve));
  const broker = gomq.broker();
  const delivered = broker.delivery.counters.delivered;
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(broker.delivery.counters.delivered - delivered < 3000);
  assert.ok(slow.writableLength < 3_000_000, `${slow.writableLength} bytes wait`);
  slow._write = (chunk: Buffer, _encoding, callback) => {
    bytes += chunk.length;
    callback();
  };
  resume?.();
  assert.equal((await running.done).code, 0);
  assert.ok(bytes > 6_000_000);

  const gone = new Writable({
    write(_chunk, _encoding, callback) {
      callback(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    },
  });
  const { code, stderr } = await ctl(`list ${topic}`, { stdout: gone });
  assert.deepEqual([code, stderr], [0, '']);
});

test('an interrupted list is not a whole one', async () => {
  const topic = newTopic();
  await pub(topic, ['1']);
  const blocked = new Writable({ write() {} });
  const running = start(connectTo(`list ${topic} --json`), { stdout: blocked });
  running.interrupt();
  const { code, stderr } = await running.done;
  assert.equal(code, 130);
  assert.match(stderr, /interrupted/);
});

describe('with a broker that', () => {
  test('is not gomq, it says so', async () => {
    const broker = await scriptedBroker();
    const { code, stdout, stderr } = await gomqctl(['--connect', broker.address, 'list', 'A']);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^gomqctl: the broker at 127\.0\.0\.1:\d+ is not gomq: it keeps no history/);
    await broker.stop();
  });

  test('refuses, it says why', async () => {
    const broker = await scriptedBroker((packet, peer) => {
      if (packet.cmd !== 'subscribe') return false;
      const properties = { reasonString: 'not yours' };
      peer.send({ cmd: 'suback', messageId: packet.messageId, granted: [0x87], properties });
      return true;
    });
    const { code, stderr } = await gomqctl(['--connect', broker.address, 'list', 'A']);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /the broker refused to list "A": not authorized \(0x87\), the broker says "not yours"/,
    );
    await broker.stop();
  });

  test('refuses the connection, it exits with the reason code', async () => {
    const broker = await scriptedBroker((packet, peer) => {
      if (packet.cmd !== 'connect') return false;
      peer.send(connack(0x87));
      peer.end();
      return true;
    });
    assert.equal((await gomqctl(['--connect', broker.address, 'list', 'A'])).code, 0x87);
    await broker.stop();
  });

  test('never comes to an end, -W ends it with 27', async () => {
    const broker = await scriptedBroker((packet, peer) => {
      if (packet.cmd !== 'subscribe') return false;
      const properties = { userProperties: { 'gomq-end-offset': '5' } };
      peer.send({ cmd: 'suback', messageId: packet.messageId, granted: [2], properties });
      return true;
    });
    const { code, stderr } = await gomqctl(['--connect', broker.address, 'list', 'A', '-W', '0.2']);
    assert.deepEqual([code, stderr], [27, 'gomqctl: timed out after 0.2 s\n']);
    await broker.stop();
  });

  test('goes, it says how to go on', async () => {
    const broker = await scriptedBroker((packet, peer) => {
      answer(packet, peer);
      if (packet.cmd !== 'subscribe') return true;
      const properties = { userProperties: { 'gomq-end-offset': '50' } };
      peer.send({ cmd: 'suback', messageId: packet.messageId, granted: [2], properties });
      return true;
    });
    broker.received.length = 0;
    const running = start(['--connect', broker.address, 'list', 'A']);
    await broker.stop();
    assert.equal((await running.done).code, 1);

    const other = await scriptedBroker((packet, peer) => {
      if (packet.cmd !== 'subscribe') return false;
      const userProperties = { 'gomq-end-offset': '50' };
      peer.send({ cmd: 'suback', messageId: packet.messageId, granted: [2], properties: { userProperties } });
      const position = { 'gomq-offset': ['1', '41'], 'gomq-timestamp': '2026-01-31T12:00:00.000Z' };
      peer.send(publish('A', 'one', { properties: { userProperties: position } }));
      peer.send(publish('A', 'later', { properties: { userProperties: { 'gomq-offset': '50' } } }));
      peer.send(publish('A', 'live'));
      peer.end();
      return true;
    });
    const { code, stdout, stderr } = await gomqctl(['--connect', other.address, 'list', 'A']);
    assert.equal(code, 1);
    assert.match(stdout, / 41 {2}2026-01-31T12:00:00\.000Z .* one\n$/);
    assert.match(stderr, /lost the connection; --from 42 goes on behind the last message/);
    await other.stop();
  });
});
