// gomqctl with gomq itself, in this process: what a person does with both.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Authority } from '../net/certificate-files.js';
import { type RunningGomq, startGomq } from '../support/start-gomq.js';
import { gomqctl, start, words } from './harness.js';

const authority = Authority.isAvailable ? new Authority() : undefined;
const skip = authority === undefined ? 'the openssl command is not installed' : false;
let gomq: RunningGomq;
let sequence = 0;

before(async () => {
  const secure = authority === undefined ? {} : { tls: authority.sign('server', '/CN=localhost') };
  const one = ['127.0.0.1:0'];
  const listeners = {
    mqtt: one,
    ws: one,
    ...(authority === undefined ? {} : { mqtts: one, wss: one, ...secure }),
  };
  gomq = await startGomq({ listeners });
});
after(async () => {
  await gomq.stop();
  authority?.remove();
});

const port = (kind: string) => gomq.addresses.find((address) => address.kind === kind)?.port;
const connectTo = (line: string | string[]) => [
  '--connect',
  `127.0.0.1:${gomq.port}`,
  ...(typeof line === 'string' ? words(line) : line),
];
const ctl = (line: string | string[]) => gomqctl(connectTo(line));
/** A topic that no other test uses. */
const newTopic = () => `test/${++sequence}`;

/** Subscribes, waits until the broker has acknowledged that, and gives the running command. */
async function subscribed(line: string) {
  const running = start(connectTo(`-d ${line}`));
  await running.noted('received SUBACK');
  return running;
}

test('the two commands of the README', async () => {
  const subscriber = await subscribed('--topic A sub');
  assert.equal((await ctl('--topic A pub hello world everyone')).code, 0);
  await subscriber.printed('hello world everyone\n');
  subscriber.interrupt();
  assert.equal((await subscriber.done).code, 0);
});

for (const version of ['31', '311', '5']) {
  for (const qos of [0, 1, 2]) {
    test(`version ${version}, QoS ${qos}: everything arrives once and in order`, async () => {
      const topic = newTopic();
      const subscriber = await subscribed(`sub -t ${topic} -q ${qos} -V ${version} -C 2000`);
      const lines = Array.from({ length: 2000 }, (_, index) => `line ${index}\n`).join('');
      const published = await gomqctl(connectTo(`pub -t ${topic} -q ${qos} -V ${version} -l --json`), {
        stdin: lines,
      });
      assert.equal(published.stderr, '');
      assert.equal(JSON.parse(published.stdout).acknowledged, 2000);
      assert.equal((await subscriber.done).stdout, lines);
    });
  }
}

test('retained messages are kept, shown, and removed', async () => {
  const topic = newTopic();
  await ctl(['pub', '-t', `${topic}/a`, '-r', '-m', 'first', '-q', '1']);
  await ctl(['--retain', '1', 'pub', '-t', `${topic}/b`, '-m', 'second', '-q', '1']);
  const shown = await ctl(['sub', '-t', `${topic}/#`, '-C', '2', '-F', '%t %r %p']);
  assert.deepEqual(shown.stdout.trimEnd().split('\n').sort(), [`${topic}/a 1 first`, `${topic}/b 1 second`]);
  const removed = await ctl(`sub -t ${topic}/# --remove-retained --retained-only -T ${topic}/b`);
  assert.deepEqual([removed.code, removed.stdout], [0, 'first\n']);
  assert.equal((await ctl(`sub -t ${topic}/# -C 1`)).stdout, 'second\n');
  await ctl(`pub -t ${topic}/b -r -n -q 1`);
  assert.equal((await ctl(`sub -t ${topic}/# -C 1 -W 0.2`)).code, 27);
});

test('a durable session gets what it missed, exactly what -C did not take', async () => {
  const topic = newTopic();
  assert.equal((await ctl(`sub -t ${topic} -q 2 -c -i durable-${sequence} -E`)).code, 0);
  for (const [qos, message] of [
    [1, 'one'],
    [2, 'two'],
    [2, 'three'],
  ]) {
    await ctl(`pub -t ${topic} -q ${qos} -m ${message}`);
  }
  const got: string[] = [];
  for (let i = 0; i < 3; i++)
    got.push((await ctl(`sub -t ${topic} -q 2 -c -i durable-${sequence} -C 1 -W 5`)).stdout);
  assert.deepEqual(got, ['one\n', 'two\n', 'three\n']);
});

test('properties go all the way', async () => {
  const topic = newTopic();
  const subscriber = await subscribed(`sub -t ${topic} -C 1 --json -D subscribe subscription-identifier 7`);
  const properties = [
    'user-property k v',
    'content-type text/plain',
    'response-topic r',
    'correlation-data c',
    'payload-format-indicator 1',
    'message-expiry-interval 60',
  ];
  await ctl(`pub -t ${topic} ${properties.map((property) => `-D publish ${property}`).join(' ')} grüße`);
  const message = JSON.parse((await subscriber.done).stdout);
  assert.equal(message.payload, 'grüße');
  assert.deepEqual(message.properties, {
    userProperties: { k: 'v' },
    contentType: 'text/plain',
    responseTopic: 'r',
    correlationData: 'c',
    payloadFormatIndicator: 1,
    messageExpiryInterval: 60,
    subscriptionIdentifier: 7,
  });
});

test('a large binary message arrives byte for byte', async () => {
  const topic = newTopic();
  const subscriber = await subscribed(`sub -t ${topic} -q 1 -C 1 -N`);
  const payload = Buffer.alloc(300_000, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
  const { code, stderr } = await gomqctl(connectTo(`pub -t ${topic} -q 1 -s`), { stdin: payload });
  assert.deepEqual([code, stderr], [0, '']);
  assert.ok((await subscriber.done).bytes.equals(payload));
});

test('members of a shared subscription share the messages', async () => {
  const topic = newTopic();
  const members = await Promise.all([1, 2].map(() => subscribed(`sub -t $share/g/${topic} -q 1`)));
  await gomqctl(connectTo(`pub -t ${topic} -q 1 -l`), { stdin: 'a\nb\nc\nd\n' });
  while (members.map((member) => member.stdout).join('').length < 8)
    await new Promise((resolve) => setImmediate(resolve));
  for (const member of members) member.interrupt();
  await Promise.all(members.map((member) => member.done));
  assert.deepEqual(
    members
      .flatMap((member) => member.stdout.split('\n'))
      .sort()
      .join(''),
    'abcd',
  );
});

test('a second client with the same id ends the first, which does not fight for it', async () => {
  const topic = newTopic();
  const first = await subscribed(`sub -t ${topic} -i same-${sequence}`);
  const second = await subscribed(`sub -t ${topic} -i same-${sequence}`);
  const outcome = await first.done;
  assert.equal(outcome.code, 1);
  assert.match(
    outcome.stderr,
    /session taken over \(0x8e\)[^\n]*; another client connected with the same --id\n$/,
  );
  second.interrupt();
  assert.equal((await second.done).code, 0);
});

test('WebSocket, TLS, and both', { skip }, async () => {
  const topic = newTopic();
  const ca = ['--cafile', authority!.ca];
  const routes: string[][] = [
    ['--connect', `ws://127.0.0.1:${port('ws')}`],
    ['--connect', `mqtts://127.0.0.1:${port('mqtts')}`, ...ca],
    ['--connect', `mqtts://localhost:${port('mqtts')}`, ...ca],
    ['-h', '127.0.0.1', '-p', String(port('mqtts')), ...ca],
    ['--connect', `wss://localhost:${port('wss')}/mqtt`, ...ca],
    ['--connect', `mqtts://localhost:${port('mqtts')}`, '--insecure'],
    ['--connect', `wss://localhost:${port('wss')}`, '--insecure'],
  ];
  const subscriber = await subscribed(`sub -t ${topic} -q 1 -C ${routes.length}`);
  for (const [index, route] of routes.entries()) {
    const outcome = await gomqctl([...route, 'pub', '-t', topic, '-q', '1', '-m', `route ${index}`]);
    assert.deepEqual([outcome.code, outcome.stderr], [0, ''], route.join(' '));
  }
  assert.equal((await subscriber.done).stdout, routes.map((_, index) => `route ${index}\n`).join(''));
});

test('TLS that fails: one line that says why', { skip }, async () => {
  const cases: [string[], RegExp][] = [
    [[`mqtts://localhost:${port('mqtts')}`], /not trusted; name its authority with --cafile/],
    [[`wss://localhost:${port('wss')}`], /not trusted; name its authority with --cafile/],
    [[`mqtts://127.0.0.1:${gomq.port}`, '--insecure'], /./],
    [
      [`mqtts://localhost:${port('mqtts')}`, '--cafile', '/no/such'],
      /--cafile: cannot read \/no\/such: there is no such file/,
    ],
    [[`mqtts://localhost:${port('mqtts')}`, '--cafile', import.meta.filename], /./],
    [
      [`ws://127.0.0.1:${port('ws')}/wrong`],
      /Unexpected server response: 4\d\d; is this the WebSocket address/,
    ],
    [[`mqtt://127.0.0.1:${port('mqtts')}`], /./],
  ];
  for (const [route, message] of cases) {
    const { code, stderr } = await gomqctl(['pub', '-t', 'A', 'x', '--connect', ...route]);
    assert.equal(code, 1, route.join(' '));
    assert.match(stderr, message);
    assert.match(stderr, /^gomqctl: [^\n]+\n$/);
  }
});

test('bench takes its options before or after the command, too', async () => {
  const { code, stdout, stderr } = await ctl('--qos 1 bench --count 50 --json');
  assert.deepEqual([code, stderr], [0, '']);
  assert.equal(typeof JSON.parse(stdout), 'object');
});
