// gomqctl with several brokers that do what a test tells them to.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { afterEach, test } from 'node:test';
import { gomqctl, openInput, start, words } from './harness.js';
import {
  answer,
  connack,
  is,
  publish,
  type Script,
  type ScriptedBroker,
  scriptedBroker,
} from './scripted-broker.js';

const cleanups: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function broker(script: Script = () => undefined): Promise<ScriptedBroker> {
  const made = await scriptedBroker(script);
  cleanups.push(() => made.stop());
  return made;
}

/** Takes connections and says nothing. */
async function frozen(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sockets = new Set<{ destroy(): void }>();
  server.on('connection', (socket) => sockets.add(socket));
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** An address that nobody listens at. */
async function nobody(): Promise<string> {
  const gone = await scriptedBroker();
  await gone.stop();
  return gone.address;
}

const closing: Script = (_packet, peer) => {
  peer.end();
  return true;
};

const refusing = (code: number, properties = {}): Script => {
  return (packet, peer) => {
    if (packet.cmd !== 'connect') return false;
    peer.send(connack(code, properties));
    return true;
  };
};

test('the first broker that takes the client is the one: closed, unavailable, moved and frozen ones are passed over', async () => {
  const last = await broker();
  const list = [
    await nobody(),
    (await broker(refusing(0x88))).address,
    (await broker(refusing(0x9d))).address,
    (await broker(closing)).address,
    await frozen(),
    last.address,
  ];
  const { code, stderr } = await gomqctl(['--connect', list.join(','), ...words('pub -t A -q 1 hello')]);
  assert.deepEqual([code, stderr], [0, '']);
  assert.equal(last.received.find(is('publish'))?.payload.toString(), 'hello');
});

test('GOMQ_URL may be a list as well', async () => {
  const last = await broker();
  const env = { GOMQ_URL: `${await nobody()},mqtt://${last.address}` };
  assert.equal((await gomqctl(words('pub -t A -q 1 hello'), { env })).code, 0);
});

test('nobody listens anywhere: told at once, with all that were tried', async () => {
  const list = [await nobody(), await nobody()];
  const { code, stderr } = await gomqctl(['--connect', list.join(','), ...words('pub -t A hello')]);
  assert.equal(code, 1);
  assert.ok(
    stderr.startsWith(`gomqctl: cannot connect to any of ${list.join(', ')}: connection refused`),
    stderr,
  );
});

test('refused for good: the others are not asked', async () => {
  const other = await broker();
  const first = await broker(refusing(0x87));
  const { code } = await gomqctl(['--connect', `${first.address},${other.address}`, ...words('pub -t A x')]);
  assert.deepEqual([code, other.connections], [0x87, 0]);
});

test('a reference is followed, with the credentials', async () => {
  const leader = await broker();
  const first = await broker(refusing(0x9c, { serverReference: leader.address }));
  const { code } = await gomqctl(['--connect', `mqtt://u:p@${first.address}`, ...words('pub -t A -q 1 x')]);
  assert.equal(code, 0);
  const { username, password } = leader.received.find(is('connect'))!;
  assert.deepEqual([username, password?.toString()], ['u', 'p']);
});

for (const qos of [1, 2]) {
  test(`pub, QoS ${qos}: what was in flight is sent again to the next broker, and the rest follows`, async () => {
    const second = await broker((packet, peer) => {
      if (packet.cmd !== 'connect') return false;
      peer.send(connack(0, {}, true));
      return true;
    });
    const first = await broker((packet, peer) => {
      if (packet.cmd !== 'publish' || Number(packet.payload) < 3) return false;
      if (Number(packet.payload) === 5) peer.destroy();
      return true;
    });
    const input = openInput();
    const argv = ['--connect', `${first.address},${second.address}`, ...words(`pub -t A -q ${qos} -l`)];
    const running = start(argv, { stdin: input });
    input.write('1\n2\n3\n4\n5\n');
    await running.noted('connected to ');
    input.end('6\n');
    const { code, stderr } = await running.done;
    assert.equal(code, 0);
    assert.match(
      stderr,
      new RegExp(
        `^gomqctl: lost the connection to ${first.address}: .*; reconnecting\ngomqctl: connected to ${second.address} after \\d+\\.\\d s\n$`,
      ),
    );
    const seen = second.received
      .filter(is('publish'))
      .map(({ payload, dup, messageId }) => `${payload} ${dup} ${messageId}`);
    const ids = first.received.filter(is('publish')).map(({ messageId }) => messageId!);
    const again = [3, 4, 5].map((number) => `${number} true ${ids[number - 1]}`);
    assert.deepEqual(seen.slice(0, 3), again);
    assert.match(seen.slice(3).join(), /^6 false \d+$/);
  });
}

test('a next broker that takes fewer at once gets them one after the other', async () => {
  let outstanding = 0;
  let most = 0;
  const second = await broker((packet, peer) => {
    if (packet.cmd === 'connect') {
      peer.send(connack(0, { receiveMaximum: 2 }));
      return true;
    }
    if (packet.cmd !== 'publish') return false;
    most = Math.max(most, ++outstanding);
    setImmediate(() => {
      outstanding--;
      answer(packet, peer);
    });
    return true;
  });
  const first = await broker((packet, peer) => {
    if (packet.cmd !== 'publish') return false;
    if (Number(packet.payload) === 5) peer.destroy();
    return true;
  });
  const argv = ['--connect', `${first.address},${second.address}`, ...words('pub -t A -q 1 -l')];
  const { code } = await gomqctl(argv, { stdin: '1\n2\n3\n4\n5\n' });
  assert.equal(code, 0);
  const payloads = second.received.filter(is('publish')).map(({ payload }) => payload.toString());
  assert.deepEqual([payloads, most], [['1', '2', '3', '4', '5'], 1]);
});

test('sub at QoS 1 and 2 keeps its session from one broker to the next, and ends it at the end', async () => {
  let isPresent = false;
  const second = await broker((packet, peer) => {
    if (packet.cmd !== 'connect') return false;
    peer.send(connack(0, {}, isPresent));
    peer.send(publish('A', 'second', { qos: 2, messageId: 1 }));
    return true;
  });
  const first = await broker((packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'subscribe') peer.send(publish('A', 'first', { qos: 2, messageId: 1 }));
    if (packet.cmd === 'pubcomp') {
      isPresent = true;
      peer.destroy();
    }
    return true;
  });
  const { code, stdout } = await gomqctl([
    '--connect',
    `${first.address},${second.address}`,
    ...words('sub -t A -q 2 -C 2'),
  ]);
  assert.deepEqual([code, stdout], [0, 'first\nsecond\n']);
  const connects = [first, second].map((one) => one.received.find(is('connect'))!);
  assert.deepEqual(
    connects.map(({ clean, properties }) => [clean, properties?.sessionExpiryInterval]),
    [
      [true, 120],
      [false, 120],
    ],
  );
  assert.equal(second.received.some(is('subscribe')), false);
  const goodbye = await second.until(is('disconnect'));
  assert.equal(goodbye.properties?.sessionExpiryInterval, 0);
});

test('list goes on at the next broker behind what it has printed, and ends where it was to end', async () => {
  const message = (offset: number) =>
    publish('A', `m${offset}`, {
      properties: { userProperties: { 'gomq-offset': String(offset), 'gomq-timestamp': 't' } },
    });
  const grant = (messageId: number | undefined, end: number) => ({
    cmd: 'suback' as const,
    messageId,
    granted: [0],
    properties: { userProperties: { 'gomq-end-offset': String(end) } },
  });
  const second = await broker((packet, peer) => {
    if (packet.cmd !== 'subscribe') return false;
    peer.send(grant(packet.messageId, 9));
    for (const offset of [2, 3, 8]) peer.send(message(offset));
    peer.send(publish(packet.subscriptions[0]!.topic, ''));
    return true;
  });
  const first = await broker((packet, peer) => {
    if (packet.cmd !== 'subscribe') return false;
    peer.send(grant(packet.messageId, 4));
    for (const offset of [0, 1]) peer.send(message(offset));
    peer.end();
    return true;
  });
  const { code, stdout } = await gomqctl([
    '--connect',
    `${first.address},${second.address}`,
    ...words('list A --json'),
  ]);
  assert.equal(code, 0);
  const offsets = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).offset as number);
  assert.deepEqual(offsets, [0, 1, 2, 3]);
  assert.equal(second.received.find(is('subscribe'))?.subscriptions[0]?.topic, '$replay/2/A');
});

interface Asked {
  path: string | undefined;
  authorization: string | undefined;
}

async function api(body: (path: string) => unknown): Promise<{ address: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  const server = createHttpServer((request, response) => {
    asked.push({ path: request.url, authorization: request.headers.authorization });
    const answered = body(request.url!);
    if (answered === undefined) response.statusCode = 404;
    response.end(JSON.stringify(answered ?? {}));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { address: `127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

test('--connect http://: the brokers that one of them names, the leader first; GOMQ_TOKEN goes along', async () => {
  const [leader, other] = [await broker(), await broker()];
  const members = [
    { node: 'a', mqtt: other.address },
    { node: 'b', mqtt: leader.address },
  ];
  const http = await api(() => ({ cluster: 'gomq', leader: 'b', members }));
  const env = { GOMQ_TOKEN: 'secret', GOMQ_USER: 'me' };
  const argv = ['--connect', `http://${await nobody()},http://${http.address}`, ...words('pub -t A -q 1 x')];
  const { code, stderr } = await gomqctl(argv, { env });
  assert.deepEqual([code, stderr], [0, '']);
  assert.deepEqual(http.asked, [{ path: '/api/v1/cluster', authorization: 'Bearer secret' }]);
  assert.equal(leader.received.find(is('connect'))?.username, 'me');
  assert.equal(other.connections, 0);
});

test('--connect etcd://: the members of the cluster it names', async () => {
  const leader = await broker();
  const encode = (text: string) => Buffer.from(text).toString('base64');
  const pair = (key: string, value: object) => ({ key: encode(key), value: encode(JSON.stringify(value)) });
  const etcd = await api((path) =>
    path === '/v3/kv/range'
      ? {
          kvs: [
            pair('/gomq/shop/leader', { node: 'b' }),
            pair('/gomq/shop/members/a', { node: 'a', mqtt: '127.0.0.1:1' }),
            pair('/gomq/shop/members/b', { node: 'b', mqtt: leader.address }),
          ],
        }
      : undefined,
  );
  const { code, stderr } = await gomqctl([
    '--connect',
    `etcd://${etcd.address}/shop`,
    ...words('pub -t A -q 1 x'),
  ]);
  assert.deepEqual([code, stderr], [0, '']);
});

test('nobody who knows: one line with what each of them said', async () => {
  const [wrong, empty] = [await api(() => undefined), await api(() => ({ members: [] }))];
  const gone = await nobody();
  const argv = ['--connect', `http://${gone},${wrong.address},${empty.address}`, ...words('pub -t A x')];
  const { code, stderr } = await gomqctl(argv);
  assert.equal(code, 1);
  assert.equal(
    stderr,
    `gomqctl: cannot find a broker: http://${gone} refuses the connection; http://${wrong.address} answers 404 to /api/v1/cluster; http://${empty.address} it knows no broker that takes MQTT clients\n`,
  );
});
