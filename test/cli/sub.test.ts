import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { after, before, beforeEach, test } from 'node:test';
import { setImmediate as tick } from 'node:timers/promises';
import { gomqctl, start, words } from './harness.js';
import {
  answer,
  connack,
  is,
  publish,
  type Script,
  type ScriptedBroker,
  type Sendable,
  scriptedBroker,
} from './scripted-broker.js';

let broker: ScriptedBroker;
let script: Script = () => undefined;

before(async () => {
  broker = await scriptedBroker((packet, peer) => script(packet, peer));
});
beforeEach(() => {
  script = () => undefined;
  broker.received.length = 0;
});
after(() => broker.stop());

const sub = (line: string | string[]) => gomqctl(withAddress(line));
const startSub = (line: string) => start(withAddress(line));
const withAddress = (line: string | string[]) => [
  '--connect',
  broker.address,
  ...(typeof line === 'string' ? words(line) : line),
];

/** Sends these messages after each SUBACK. */
function delivers(...packets: Sendable[]): Script {
  return (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'subscribe') for (const message of packets) peer.send(message);
    return true;
  };
}

test('prints the payload of each message on a line, options before or after', async () => {
  script = delivers(publish('A', 'one'), publish('A', 'two'));
  for (const line of [
    '--topic A sub -C 2',
    'sub -C 2 --topic A',
    '-C 2 sub -t A',
    '--qos 1 --retain 0 sub -t A -C 2 --quiet',
  ]) {
    const outcome = await sub(line);
    assert.deepEqual([outcome.code, outcome.stdout], [0, 'one\ntwo\n'], line);
  }
  const subscriptions = broker.received.filter(is('subscribe')).map((packet) => packet.subscriptions);
  assert.deepEqual(
    subscriptions.map(([first]) => [first?.topic, first?.qos]),
    [
      ['A', 0],
      ['A', 0],
      ['A', 0],
      ['A', 1],
    ],
  );
  await broker.until(is('disconnect'));
});

test('says on a terminal, and there alone, that it has subscribed', async () => {
  script = () => false;
  for (const terminal of [{ columns: 80 }, {}]) {
    const { code, stderr } = await gomqctl(withAddress('sub -t nothing/here -t $SYS/# -W 1'), terminal);
    assert.equal(code, 27);
    const says = stderr.includes('subscribed to nothing/here, $SYS/#\n');
    assert.equal(says, 'columns' in terminal, stderr);
  }
});

test('several filters, their options and properties', async () => {
  script = delivers(publish('a', 'x'));
  await sub(
    'sub -t a -t b/# -t a -q 2 -C 1 --no-local --retain-as-published --retain-handling never -D subscribe user-property k v',
  );
  const { subscriptions, properties } = broker.received.find(is('subscribe'))!;
  assert.deepEqual(
    subscriptions.map((subscription) => ({ ...subscription })),
    [
      { topic: 'a', qos: 2, nl: true, rap: true, rh: 2 },
      { topic: 'b/#', qos: 2, nl: true, rap: true, rh: 2 },
    ],
  );
  assert.deepEqual({ ...properties?.userProperties }, { k: 'v' });
});

test('-v, -N, -F, --json', async () => {
  script = delivers(publish('a/b', 'x'), publish('a/b', Buffer.from([0xff, 0])));
  assert.equal((await sub('sub -t # -C 1 -v')).stdout, 'a/b x\n');
  assert.deepEqual((await sub('sub -t # -C 2 -N')).bytes, Buffer.from([0x78, 0xff, 0]));
  assert.equal(
    (await sub(['sub', '-t', '#', '-C', '2', '-F', '%t %l %x\\t', '-v'])).stdout,
    'a/b 1 78\t\na/b 2 ff00\t\n',
  );
  const lines = (await sub('sub -t # -C 2 --json')).stdout.trimEnd().split('\n');
  const [first, second] = lines.map((line) => JSON.parse(line));
  assert.ok(Math.abs(Date.now() - Date.parse(first.time)) < 60_000);
  delete first.time;
  assert.deepEqual(first, { topic: 'a/b', payload: 'x', qos: 0, retain: false, dup: false });
  assert.equal(second.payloadBase64, '/wA=');
});

test('retained messages: -R, --retained-only, --remove-retained, and -T', async () => {
  const retained = { retain: true };
  const messages = [
    publish('a', 'old', retained),
    publish('b', 'kept', retained),
    publish('a', 'new'),
    publish('c', 'end'),
  ];
  script = delivers(...messages);
  assert.equal((await sub('sub -t # -R -C 2')).stdout, 'new\nend\n');
  assert.equal((await sub('sub -t # -T b -C 3')).stdout, 'old\nnew\nend\n');
  assert.equal((await sub('sub -t # -T a -T +/x -T b -C 1')).stdout, 'end\n');
  // The first message that is not retained ends it.
  assert.equal((await sub('sub -t # --retained-only')).stdout, 'old\nkept\n');
  broker.received.length = 0;
  assert.equal((await sub('sub -t # -T b --remove-retained --retained-only')).stdout, 'old\n');
  const cleared = broker.received
    .filter(is('publish'))
    .map((packet) => [packet.topic, packet.payload.length, packet.retain]);
  assert.deepEqual(cleared, [['a', 0, true]]);
  broker.received.length = 0;
  assert.equal((await sub('sub -t # -R --remove-retained -C 1')).stdout, 'new\n');
  assert.deepEqual(
    broker.received.filter(is('publish')).map((packet) => packet.topic),
    ['a', 'b'],
  );
});

test('-C acknowledges exactly what was printed', async () => {
  script = delivers(...[1, 2, 3].map((messageId) => publish('a', `m${messageId}`, { qos: 1, messageId })));
  assert.equal((await sub('sub -t a -q 1 -C 2')).stdout, 'm1\nm2\n');
  await broker.until(is('disconnect'));
  assert.deepEqual(
    broker.received.filter(is('puback')).map((packet) => packet.messageId),
    [1, 2],
  );
});

test('-C at QoS 2 takes over exactly what is printed, in every version', async () => {
  for (const version of ['5', '311']) {
    broker.received.length = 0;
    script = delivers(...[1, 2, 3].map((messageId) => publish('a', `m${messageId}`, { qos: 2, messageId })));
    assert.equal((await sub(`sub -t a -q 2 -C 2 -V ${version}`)).stdout, 'm1\nm2\n');
    await broker.until(is('disconnect'));
    const ids = (cmd: 'pubrec' | 'pubcomp') =>
      broker.received.filter(is(cmd)).map((packet) => packet.messageId);
    assert.deepEqual(
      [ids('pubrec'), ids('pubcomp')],
      [
        [1, 2],
        [1, 2],
      ],
    );
  }
});

test('-W: exit status 27', async () => {
  script = delivers(publish('a', 'x'));
  const { code, stdout, stderr } = await sub('sub -t a -C 2 -W 1');
  assert.deepEqual([code, stdout, stderr], [27, 'x\n', 'gomqctl: timed out after 1 s\n']);
  script = () => true;
  assert.equal((await sub('sub -t a -W 0.2')).code, 27);
});

test('-E ends when the subscriptions are acknowledged; -c keeps the session', async () => {
  const outcome = await sub('sub -t a -t b -q 1 -E -c -i worker');
  assert.deepEqual([outcome.code, outcome.stdout], [0, '']);
  const connect = broker.received.find(is('connect'))!;
  assert.deepEqual([connect.clean, connect.clientId], [false, 'worker']);
  assert.equal(connect.properties?.sessionExpiryInterval, 0xffff_ffff);
  broker.received.length = 0;
  await sub('sub -t a -E -c -i worker -V 311');
  assert.equal(broker.received.find(is('connect'))?.clean, false);
});

test('-U unsubscribes, with or without -t', async () => {
  assert.equal((await sub('sub -t a -U b -U c -E -D unsubscribe user-property k v')).code, 0);
  const { unsubscriptions, properties } = broker.received.find(is('unsubscribe'))!;
  assert.deepEqual(unsubscriptions, ['b', 'c']);
  assert.deepEqual({ ...properties?.userProperties }, { k: 'v' });
  broker.received.length = 0;
  assert.equal((await sub('sub -U b -E -c -i me')).code, 0);
  assert.ok(!broker.received.some(is('subscribe')));
});

test('wrong command lines: one line each, exit status 1, nothing connected', async () => {
  const connections = broker.connections;
  const cases: [string, RegExp][] = [
    ['sub', /no topic; add --topic FILTER/],
    ['sub -t a#', /--topic "a#": # does not stand alone/],
    ['sub -t #/a', /# is not the last level/],
    ['sub -t $share//a', /the share name is empty/],
    ['sub -t a -U b+', /--unsubscribe "b\+"/],
    ['sub -t a -T #x', /--filter-out "#x"/],
    ['sub -t a word', /too many arguments/],
    ['sub -t a -F %z', /no format code "%z"/],
    ['sub -t a -F %t --json', /--json and -F are two formats/],
    ['sub -t a -R --retained-only', /leave nothing to print/],
    ['sub -t a -C 0', /whole number from 1/],
    ['sub -t a -W x', /number of seconds/],
    ['sub -t a -V 311 --no-local', /--no-local needs MQTT 5/],
    ['sub -t $share/g/a --no-local', /not allowed on the shared subscription/],
    ['sub -t a --retain-handling often', /'often' is invalid/],
  ];
  for (const [line, message] of cases) {
    const outcome = await sub(line);
    assert.match(outcome.stderr, message, line);
    assert.match(outcome.stderr, /^gomqctl: [^\n]+\n$/, line);
    assert.deepEqual([outcome.code, outcome.stdout], [1, ''], line);
  }
  assert.equal(broker.connections, connections);
  assert.match((await sub('sub -t a -r -E')).stderr, /--retain has no meaning for sub/);
});

test('refused subscriptions: all of them end the command, some of them are named', async () => {
  script = (packet, peer) => {
    if (packet.cmd !== 'subscribe') return false;
    const granted = packet.subscriptions.map(({ topic }) => (topic === 'secret' ? 0x87 : 0));
    const properties = { reasonString: 'not for you' };
    const v5 = peer.connect.protocolVersion === 5;
    peer.send({
      cmd: 'suback',
      messageId: packet.messageId,
      granted: v5 ? granted : granted.map((code) => code && 0x80),
      properties,
    });
    return true;
  };
  const all = await sub('sub -t secret');
  assert.equal(all.code, 1);
  assert.match(
    all.stderr,
    /^gomqctl: the broker refused the subscription to "secret": not authorized \(0x87\), the broker says "not for you"[^\n]*\n$/,
  );
  const v4 = await sub('sub -t secret -V 311');
  assert.match(v4.stderr, /refused the subscription to "secret": unspecified error \(0x80\)/);
  const some = await sub('sub -t open -t secret -E');
  assert.equal(some.code, 0);
  assert.match(some.stderr, /^gomqctl: the broker refused the subscription to "secret"[^\n]*\n$/);
});

test('a refused connection: the CONNACK code is the exit status', async () => {
  script = (packet, peer) => {
    if (packet.cmd !== 'connect') return false;
    peer.send(connack(0x9c, { serverReference: '127.0.0.1:1' }));
    return true;
  };
  const { code, stderr } = await sub('sub -t a');
  assert.equal(code, 0x9c);
  assert.match(
    stderr,
    /refused the connection: use another server \(0x9c\), server 127.0.0.1:1; connect to the server it names, but that fails: connection refused[^\n]*\n$/,
  );
});

test('a lost connection is made again and the subscriptions are renewed', async () => {
  const base = broker.connections;
  script = (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'subscribe') {
      peer.send(publish('a', `m${peer.number - base}`));
      if (peer.number < base + 3) setImmediate(() => peer.destroy());
    }
    return true;
  };
  const { code, stdout, stderr } = await sub('sub -t a -C 3');
  assert.deepEqual([code, stdout], [0, 'm1\nm2\nm3\n']);
  assert.match(
    stderr,
    /^(gomqctl: lost the connection to [^\n]*; reconnecting\ngomqctl: connected to [^\n]* again after [\d.]+ s\n){2}$/,
  );
});

test('a session that the broker kept is not subscribed again', async () => {
  const base = broker.connections;
  script = (packet, peer) => {
    const again = peer.number > base + 1;
    if (packet.cmd === 'connect') peer.send(connack(0, {}, again));
    else answer(packet, peer);
    if (packet.cmd === 'subscribe') peer.destroy();
    if (packet.cmd === 'connect' && again) peer.send(publish('a', 'queued', { qos: 1, messageId: 1 }));
    return true;
  };
  const { stdout } = await sub('sub -t a -q 1 -C 1 -x 60');
  assert.equal(stdout, 'queued\n');
  assert.equal(broker.received.filter(is('subscribe')).length, 1);
  assert.deepEqual(
    broker.received.filter(is('connect')).map((packet) => packet.clean),
    [true, false],
  );
});

test('a broker that is starting up is waited for on a reconnect; one that refuses for good is not', async () => {
  const base = broker.connections;
  script = (packet, peer) => {
    if (packet.cmd === 'connect' && peer.number === base + 2) peer.send(connack(0x88));
    else if (packet.cmd === 'connect' && peer.number === base + 4) peer.send(connack(0x87));
    else answer(packet, peer);
    if (packet.cmd === 'subscribe') peer.destroy();
    return true;
  };
  const { code, stderr } = await sub('sub -t a');
  assert.equal(code, 0x87);
  assert.equal(broker.connections, base + 4);
  assert.match(stderr, /refused the connection: not authorized/);
});

test('a DISCONNECT with a reason is shown, and a taken-over session is left to the other client', async () => {
  script = (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'subscribe') {
      peer.send({ cmd: 'disconnect', reasonCode: 0x8e });
      peer.end();
    }
    return true;
  };
  const { code, stderr } = await sub('sub -t a');
  assert.equal(code, 1);
  assert.match(
    stderr,
    /closed the connection: session taken over \(0x8e\); another client connected with the same --id\n$/,
  );
  const base = broker.connections;
  script = (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'subscribe' && peer.number === base + 1) {
      peer.send({ cmd: 'disconnect', reasonCode: 0x8b, properties: { reasonString: 'maintenance' } });
      peer.end();
    }
    return true;
  };
  const running = startSub('sub -t a');
  await running.noted('lost the connection');
  assert.match(running.stderr, /server shutting down \(0x8b\), the broker says "maintenance"/);
  await running.noted('connected to');
  running.interrupt();
  assert.equal((await running.done).code, 0);
});

test('Ctrl-C ends with DISCONNECT and exit status 0', async () => {
  script = delivers(publish('a', 'x'));
  const running = startSub('sub -t a');
  await running.printed('x\n');
  running.interrupt();
  assert.equal((await running.done).code, 0);
  await broker.until(is('disconnect'));
});

test('a will is not sent by a clean end, and has its properties', async () => {
  await sub('sub -t a -E --will-topic w --will-payload gone -D will content-type t');
  const { will } = broker.received.find(is('connect'))!;
  assert.deepEqual([will?.topic, will?.payload.toString(), will?.qos, will?.retain], ['w', 'gone', 0, false]);
  assert.equal(will?.properties?.contentType, 't');
  await broker.until(is('disconnect'));
});

test('a topic alias stands for its topic, at every QoS', async () => {
  for (const qos of [0, 1, 2]) {
    const id = (messageId: number) => ({ qos, messageId, properties: { topicAlias: 1 } });
    script = delivers(publish('aliased', 'one', id(1)), publish('', 'two', id(2)));
    const { stdout, stderr } = await sub(`sub -t # -q ${qos} -C 2 -v -D connect topic-alias-maximum 5`);
    assert.deepEqual([stdout, stderr], ['aliased one\naliased two\n', '']);
  }
});

/** A reader of stdout that takes nothing until told to. */
function slowReader() {
  let take: () => void = () => undefined;
  const chunks: Buffer[] = [];
  let held = true;
  const stream = new Writable({
    write(chunk: Buffer, _encoding, callback) {
      chunks.push(chunk);
      if (held) take = callback;
      else callback();
    },
  });
  return {
    stream,
    chunks,
    resume: () => {
      held = false;
      take();
    },
  };
}

test('a slow reader of stdout stops the reading from the broker, not the keep alive', async () => {
  const payload = Buffer.alloc(10_000, 'x');
  let acknowledged = 0;
  script = (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'puback') acknowledged++;
    if (packet.cmd === 'subscribe') {
      for (let messageId = 1; messageId <= 500; messageId++)
        peer.send(publish('a', payload, { qos: 1, messageId }));
    }
    return true;
  };
  const reader = slowReader();
  const running = start(withAddress('sub -t a -q 1 -C 500 -k 1 -N'), { stdout: reader.stream });
  await broker.until(is('pingreq'));
  await tick();
  // About a megabyte waits for the reader; the rest stays with the broker.
  assert.ok(acknowledged > 50 && acknowledged < 250, `${acknowledged} acknowledged`);
  broker.received.length = 0;
  await broker.until(is('pingreq'));
  reader.resume();
  const { code, stderr } = await running.done;
  assert.deepEqual([code, stderr], [0, '']);
  assert.equal(Buffer.concat(reader.chunks).length, 500 * payload.length);
});

test('a reader that went away (| head) ends the command quietly', async () => {
  script = (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'subscribe') peer.send(publish('a', 'x'));
    return true;
  };
  const stdout = new Writable({
    write(_chunk, _encoding, callback) {
      callback(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    },
  });
  const { code, stderr } = await start(withAddress('sub -t a'), { stdout }).done;
  assert.deepEqual([code, stderr], [0, '']);
  await broker.until(is('disconnect'));
  const full = new Writable({
    write(_chunk, _encoding, callback) {
      callback(Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' }));
    },
  });
  const failed = await start(withAddress('sub -t a'), { stdout: full }).done;
  assert.deepEqual(
    [failed.code, failed.stderr],
    [1, 'gomqctl: cannot write to stdout: ENOSPC: no space left on device\n'],
  );
});
