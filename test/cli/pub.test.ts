import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import type { IPublishPacket } from 'mqtt-packet';
import { gomqctl, openInput, start, words } from './harness.js';
import {
  answer,
  connack,
  is,
  type Peer,
  type Script,
  type ScriptedBroker,
  scriptedBroker,
} from './scripted-broker.js';

let broker: ScriptedBroker;
let script: Script = () => undefined;
const directory = mkdtempSync(join(tmpdir(), 'gomqctl-pub-'));

before(async () => {
  broker = await scriptedBroker((packet, peer) => script(packet, peer));
});
beforeEach(() => {
  script = () => undefined;
  broker.received.length = 0;
});
after(async () => {
  await broker.stop();
  rmSync(directory, { recursive: true });
});

/** gomqctl with the address of the broker. */
const pub = (line: string | string[], stdin?: Buffer | string) => {
  const argv = typeof line === 'string' ? words(line) : line;
  return gomqctl(['--connect', broker.address, ...argv], stdin === undefined ? {} : { stdin });
};

/** Each distinct message the broker received. */
const messages = () => broker.received.filter((packet): packet is IPublishPacket => packet.cmd === 'publish');
const payloads = () => messages().map((packet) => packet.payload.toString());

test('the words joined by a space are the message, options before or after', async () => {
  for (const line of [
    ['--topic', 'A', '--connect', broker.address, 'pub', 'hello', 'world', 'everyone'],
    ['pub', '--topic', 'A', '--connect', broker.address, 'hello', 'world', 'everyone'],
    ['pub', 'hello', 'world', '-t', 'A', 'everyone', '--connect', broker.address],
  ]) {
    broker.received.length = 0;
    const outcome = await gomqctl(line);
    assert.deepEqual(outcome, { code: 0, stdout: '', bytes: Buffer.alloc(0), stderr: '' });
    const [message] = messages();
    assert.equal(message?.topic, 'A');
    assert.equal(message?.payload.toString(), 'hello world everyone');
    assert.equal(message?.qos, 0);
    assert.equal(message?.retain, false);
    assert.ok(broker.received.some(is('disconnect')));
  }
});

test('where the message comes from', async () => {
  const file = join(directory, 'message');
  writeFileSync(file, Buffer.from([0xff, 0, 10]));
  const cases: [string[], string | undefined, string[]][] = [
    [['-m', 'from -m'], undefined, ['from -m']],
    [['-m', ''], undefined, ['']],
    [['-n'], undefined, ['']],
    [[], 'stdin\n', ['stdin\n']],
    [['-'], 'a\nb', ['a\nb']],
    [['-s'], 'a\nb', ['a\nb']],
    [['-s', '-'], '', ['']],
    [['-l'], 'a\n\nb', ['a', '', 'b']],
    [['-l', '-'], 'a\n', ['a']],
    [['-l'], '', []],
    [['--', '-x', '--qos'], undefined, ['-x --qos']],
    [['-m', 'x', '--repeat', '3'], undefined, ['x', 'x', 'x']],
    [['x', '--repeat', '2', '--repeat-delay', '0.01'], undefined, ['x', 'x']],
  ];
  for (const [options, stdin, expected] of cases) {
    broker.received.length = 0;
    const outcome = await pub(['-t', 'A', 'pub', ...options], stdin);
    assert.equal(outcome.stderr, '');
    assert.equal(outcome.code, 0);
    assert.deepEqual(payloads(), expected, options.join(' '));
  }
  broker.received.length = 0;
  assert.equal((await pub(['pub', '-t', 'A', '-f', file])).code, 0);
  assert.deepEqual(messages()[0]?.payload, Buffer.from([0xff, 0, 10]));
  broker.received.length = 0;
  writeFileSync(file, 'one\ntwo\n');
  assert.equal((await pub(['pub', '-t', 'A', '-l', '-f', file])).code, 0);
  assert.deepEqual(payloads(), ['one', 'two']);
});

test('--qos and --retain, in every spelling', async () => {
  const cases: [string, number, boolean][] = [
    ['--qos 2 --retain 1 pub x', 2, true],
    ['--qos=1 --retain 0 pub x', 1, false],
    ['--retain pub x', 0, true],
    ['-r pub x', 0, true],
    ['pub -q 1 -r x', 1, true],
    ['pub -rq2 x', 2, true],
    ['pub x -r', 0, true],
    ['pub --retain=1 x', 0, true],
  ];
  for (const [line, qos, retain] of cases) {
    broker.received.length = 0;
    assert.equal((await pub(`-t A ${line}`)).code, 0, line);
    const [message] = messages();
    assert.deepEqual([message?.qos, message?.retain, message?.payload.toString()], [qos, retain, 'x'], line);
  }
});

test('the options of the connection reach CONNECT', async () => {
  const line =
    '-i me -k 7 -u name -P secret --will-topic w --will-payload bye --will-qos 1 --will-retain -x 60';
  await pub(`${line} -D connect receive-maximum 9 -D will will-delay-interval 3 pub -t A x`);
  const connect = broker.received.find(is('connect'))!;
  assert.equal(connect.clientId, 'me');
  assert.equal(connect.protocolVersion, 5);
  assert.equal(connect.keepalive, 7);
  assert.equal(connect.clean, true);
  assert.equal(connect.username, 'name');
  assert.equal(connect.password?.toString(), 'secret');
  assert.deepEqual({ ...connect.properties }, { sessionExpiryInterval: 60, receiveMaximum: 9 });
  const will = connect.will!;
  assert.deepEqual([will.topic, will.payload.toString(), will.qos, will.retain], ['w', 'bye', 1, true]);
  assert.deepEqual({ ...will.properties }, { willDelayInterval: 3 });
});

test('protocol versions', async () => {
  const versions: [string, number, string][] = [
    ['31', 3, 'MQIsdp'],
    ['mqttv31', 3, 'MQIsdp'],
    ['311', 4, 'MQTT'],
    ['3.1.1', 4, 'MQTT'],
    ['mqttv311', 4, 'MQTT'],
    ['5', 5, 'MQTT'],
    ['mqttv5', 5, 'MQTT'],
  ];
  for (const [name, version, id] of versions) {
    broker.received.length = 0;
    assert.equal((await pub(`-V ${name} -t A -q 2 pub x`)).code, 0);
    const connect = broker.received.find(is('connect'))!;
    assert.deepEqual([connect.protocolVersion, connect.protocolId], [version, id]);
    assert.match(connect.clientId, /^gomqctl-[0-9a-f]{12}$/);
    assert.deepEqual(payloads(), ['x']);
  }
});

test('the environment fills in what no option says', async () => {
  const env = { GOMQ_URL: `mqtt://${broker.address}`, GOMQ_USER: 'env', GOMQ_PASSWORD: 'word' };
  await gomqctl(words('pub -t A x'), { env });
  await gomqctl(words('pub -t A -u option x'), { env });
  await gomqctl(words(`pub -t A --connect mqtt://url:pw@${broker.address} x`), {
    env: { ...env, GOMQ_URL: 'mqtt://127.0.0.1:1' },
  });
  const seen = broker.received
    .filter(is('connect'))
    .map((packet) => [packet.username, packet.password?.toString()]);
  assert.deepEqual(seen, [
    ['env', 'word'],
    ['option', 'word'],
    ['url', 'pw'],
  ]);
  const wrong = await gomqctl(words('pub -t A x'), { env: { GOMQ_URL: 'ftp://x' } });
  assert.match(wrong.stderr, /^gomqctl: in GOMQ_URL: unknown scheme/);
});

test('--url names the broker, the user and the topic', async () => {
  assert.equal((await gomqctl(['pub', '-L', `mqtt://u:p@${broker.address}/a/b`, 'x'])).code, 0);
  assert.equal(messages()[0]?.topic, 'a/b');
  assert.equal(broker.received.find(is('connect'))?.username, 'u');
});

test('-D properties of PUBLISH and DISCONNECT', async () => {
  await pub(
    '-t A -q 1 -D publish user-property k v -D publish content-type t -D disconnect user-property bye 1 pub x',
  );
  const properties = messages()[0]?.properties;
  assert.deepEqual({ ...properties?.userProperties }, { k: 'v' });
  assert.equal(properties?.contentType, 't');
  const disconnect = await broker.until(is('disconnect'));
  assert.deepEqual({ ...disconnect.properties?.userProperties }, { bye: '1' });
});

test('--json prints a summary', async () => {
  const { stdout, stderr, code } = await pub('-t A -q 1 -r pub -l --json', 'a\nbc\n');
  assert.deepEqual([code, stderr], [0, '']);
  const { seconds, ...summary } = JSON.parse(stdout);
  assert.equal(typeof seconds, 'number');
  assert.deepEqual(summary, { topic: 'A', qos: 1, retain: true, published: 2, acknowledged: 2, bytes: 3 });
  script = (packet, peer) => {
    if (packet.cmd !== 'publish') return false;
    peer.send({ cmd: 'puback', messageId: packet.messageId, reasonCode: 0x87 });
    return true;
  };
  const refused = await pub('-t A -q 1 pub x --json');
  assert.equal(refused.code, 1);
  assert.match(JSON.parse(refused.stdout).error, /refused a message to "A": not authorized/);
});

test('wrong command lines: one line each, exit status 1, nothing connected', async () => {
  const connections = broker.connections;
  const cases: [string, RegExp][] = [
    ['pub x', /no topic; add --topic NAME/],
    ['pub -t A -t B x', /pub takes one topic, not "A" and "B"/],
    ['pub -t a/# x', /cannot publish to "a\/#": the topic name contains a wildcard/],
    ['pub -t A -q 3 x', /'3' is invalid\. The QoS is 0, 1 or 2/],
    ['pub -t A --retain 2 x', /--retain is 0 or 1, not "2"/],
    ['pub -t A --foo x', /unknown option '--foo'/],
    ['--topc A pub x', /unknown option '--topc' \(Did you mean --topic\?\)/],
    ['pub -t', /option '-t, --topic <topic>' argument missing/],
    ['publish -t A x', /unknown command 'publish'|unknown option/],
    ['pub -t A x -m y', /only one kind of message at once, not -m and words/],
    ['pub -t A -n -l', /only one kind of message at once, not -l and -n/],
    ['pub -t A -l --repeat 2', /--repeat does not go with -l/],
    ['pub -t A x --repeat 0', /whole number from 1/],
    ['pub -t A x --repeat-delay 1', /--repeat-delay needs --repeat/],
    ['pub -t A -f /no/such/file', /-f: cannot read \/no\/such\/file: there is no such file/],
    ['pub -t A -f /', /-f: cannot read \/: it is a directory/],
    ['pub -t A -V 6 x', /protocol version is 31, 311 or 5/],
    ['pub -t A -V 311 -D publish topic-alias 1 x', /-D sets properties of MQTT 5/],
    ['pub -t A -V 311 -x 1 x', /-x needs MQTT 5/],
    ['pub -t A -D publish foo 1 x', /unknown property "foo"/],
    ['pub -t A -P secret x', /a password without a user name/],
    ['pub -t A -c x', /needs a client id/],
    ['pub -t A -x -1 x', /needs a client id/],
    ['pub -t A -k 65536 x', /from 0 to 65535/],
    ['pub -t A --will-payload x y', /a will needs --will-topic/],
    ['pub -t A --will-topic a/+ y', /--will-topic "a\/\+": .*wildcard/],
    ['pub -t A --cert c x', /--cert and --key belong together/],
    ['pub -t A --insecure x', /--insecure needs TLS/],
    ['pub -t A -h localhost x', /the address is given twice/],
    ['pub -t A -V 31 -i 123456789012345678901234 x', /1 to 23 bytes/],
    ['pub -t A -i a -I b x', /the client id is given twice/],
  ];
  for (const [line, message] of cases) {
    const outcome = await pub(line);
    assert.match(outcome.stderr, message, line);
    assert.match(outcome.stderr, /^gomqctl: [^\n]+\n$/, line);
    assert.equal(outcome.code, 1, line);
    assert.equal(outcome.stdout, '', line);
  }
  assert.equal(broker.connections, connections);
});

test('a refused connection: the CONNACK code is the exit status', async () => {
  script = (packet, peer) => {
    if (packet.cmd !== 'connect') return false;
    const v5 = peer.connect.protocolVersion === 5;
    peer.send(
      v5
        ? connack(0x87, { reasonString: 'go\naway' })
        : { cmd: 'connack', returnCode: 5, sessionPresent: false },
    );
    peer.end();
    return true;
  };
  const v5 = await pub('pub -t A x');
  assert.equal(v5.code, 0x87);
  assert.match(
    v5.stderr,
    /refused the connection: not authorized \(0x87\), the broker says "go away"; check --username[^\n]*\n$/,
  );
  const v4 = await pub('pub -t A x -V 311');
  assert.equal(v4.code, 5);
  assert.match(v4.stderr, /refused the connection: not authorized \(code 5\)/);
});

test('no broker, no host, no MQTT: one line, exit status 1', async () => {
  const closed = await scriptedBroker();
  await closed.stop();
  const refused = await gomqctl(words(`pub -t A x --connect ${closed.address}`));
  assert.match(
    refused.stderr,
    new RegExp(`^gomqctl: cannot connect to ${closed.address}: connection refused; is the broker running`),
  );
  const unknown = await gomqctl(words('pub -t A x -h no-such-host.invalid'));
  assert.match(unknown.stderr, /^gomqctl: cannot connect to no-such-host\.invalid:9000: unknown host/);
  script = (_packet, peer) => {
    peer.end();
    return true;
  };
  const silent = await pub('pub -t A x');
  assert.match(
    silent.stderr,
    /closed the connection without an answer; if it knows only MQTT 3\.1\.1, add -V 311/,
  );
  assert.deepEqual([refused.code, unknown.code, silent.code], [1, 1, 1]);
});

test('a refused publish ends the command with the reason', async () => {
  for (const [qos, cmd] of [
    [1, 'puback'],
    [2, 'pubrec'],
  ] as const) {
    script = (packet, peer) => {
      if (packet.cmd !== 'publish') return false;
      peer.send({ cmd, messageId: packet.messageId, reasonCode: 0x97, properties: { reasonString: 'full' } });
      return true;
    };
    const { code, stderr } = await pub(`pub -t A -q ${qos} x`);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^gomqctl: the broker refused a message to "A": quota exceeded \(0x97\), the broker says "full"; [^\n]*\n$/,
    );
  }
});

test('an ack that says nobody subscribes is a success', async () => {
  script = (packet, peer) => {
    if (packet.cmd !== 'publish') return false;
    peer.send({ cmd: 'puback', messageId: packet.messageId, reasonCode: 0x10 });
    return true;
  };
  assert.equal((await pub('pub -t A -q 1 x')).code, 0);
});

test('limits that the broker names in CONNACK are named before anything is sent', async () => {
  const cases: [Record<string, unknown>, string, RegExp][] = [
    [{ maximumQoS: 1 }, '-q 2 x', /takes QoS 1 at most, not 2/],
    [{ retainAvailable: false }, '-r x', /keeps no retained messages/],
    [
      { maximumPacketSize: 10 },
      'longer than that',
      /a message of 16 bytes is larger than the broker accepts \(10 bytes a packet\)/,
    ],
    [{ topicAliasMaximum: 2 }, '-D publish topic-alias 3 x', /takes topic aliases up to 2, not 3/],
  ];
  for (const [properties, line, message] of cases) {
    script = (packet, peer) => {
      if (packet.cmd !== 'connect') return false;
      peer.send(connack(0, properties));
      return true;
    };
    const outcome = await pub(`pub -t A ${line}`);
    assert.match(outcome.stderr, message);
    assert.equal(outcome.code, 1);
    assert.deepEqual(payloads(), []);
  }
});

test('no more messages are in flight than the broker asks for', async () => {
  const held: (number | undefined)[] = [];
  let most = 0;
  script = (packet, peer) => {
    if (packet.cmd === 'connect') {
      peer.send(connack(0, { receiveMaximum: 3 }));
      return true;
    }
    if (packet.cmd !== 'publish') return false;
    held.push(packet.messageId);
    most = Math.max(most, held.length);
    setImmediate(() => peer.send({ cmd: 'puback', messageId: held.shift() }));
    return true;
  };
  const lines = Array.from({ length: 50 }, (_, index) => String(index));
  assert.equal((await pub('pub -t A -q 1 -l', lines.join('\n'))).code, 0);
  assert.deepEqual(payloads(), lines);
  assert.equal(most, 3);
});

test('a huge input is read only as fast as it is acknowledged', async () => {
  let acknowledge = false;
  const peers: [Peer, number | undefined][] = [];
  script = (packet, peer) => {
    if (packet.cmd !== 'publish' || acknowledge) return false;
    peers.push([peer, packet.messageId]);
    return true;
  };
  const input = openInput();
  const running = start(['--connect', broker.address, ...words('pub -t A -q 1 -l')], { stdin: input });
  const line = `${'x'.repeat(99)}\n`;
  for (let i = 0; i < 100; i++) input.write(line.repeat(100));
  await broker.publishes(1_000);
  // The window is full: the rest stays in the input.
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(messages().length, 1_000);
  assert.ok(input.writableLength + input.readableLength > 800_000);
  acknowledge = true;
  for (const [peer, messageId] of peers) peer.send({ cmd: 'puback', messageId });
  input.end();
  assert.equal((await running.done).code, 0);
  assert.equal(messages().length, 10_000);
});

test('a connection lost before the ack is made again, and the message is sent again with DUP', async () => {
  for (const version of ['5', '311']) {
    broker.received.length = 0;
    const base = broker.connections;
    script = (packet, peer) => {
      if (packet.cmd !== 'publish' || peer.number !== base + 1) return false;
      peer.destroy();
      return true;
    };
    const { code, stderr } = await pub(`pub -t A -q 1 -l -V ${version}`, 'one\ntwo\n');
    assert.equal(code, 0);
    assert.match(
      stderr,
      /^gomqctl: lost the connection to [^\n]*; reconnecting\ngomqctl: connected to [^\n]* again after [\d.]+ s\n$/,
    );
    const seen = messages().map((packet) => [packet.payload.toString(), packet.dup]);
    assert.deepEqual(seen.slice(-2), [
      ['one', true],
      ['two', true],
    ]);
  }
});

test('QoS 2 goes on where it was: the session is resumed and no second PUBLISH follows a PUBREC', async () => {
  const base = broker.connections;
  script = (packet, peer) => {
    if (packet.cmd === 'connect' && peer.number > base + 1) {
      peer.send(connack(0, {}, true));
      return true;
    }
    if (packet.cmd !== 'pubrel' || peer.number !== base + 1) return false;
    peer.destroy();
    return true;
  };
  assert.equal((await pub('pub -t A -q 2 once')).code, 0);
  assert.equal(messages().length, 1);
  const [first, second] = broker.received.filter(is('connect'));
  assert.deepEqual([first?.clean, second?.clean], [true, false]);
  assert.equal(first?.clientId, second?.clientId);
  assert.ok(first?.properties?.sessionExpiryInterval);
  const disconnect = await broker.until(is('disconnect'));
  assert.equal(disconnect.properties?.sessionExpiryInterval, 0);
});

test('a broker that is busy is asked again after a while, and then again after a longer one', async () => {
  const base = broker.connections;
  script = (packet, peer) => {
    if (packet.cmd !== 'publish' || peer.number > base + 2) return false;
    const properties = { reasonString: 'too few nodes are in sync' };
    peer.send({ cmd: 'disconnect', reasonCode: 0x89, properties });
    peer.end();
    return true;
  };
  const startMs = performance.now();
  const { code, stderr } = await pub('pub -t A -q 1 x');
  assert.equal(code, 0);
  assert.ok(performance.now() - startMs > 2900, 'one second, then two');
  assert.equal(broker.connections, base + 3);
  assert.match(stderr, /lost the connection to .*too few nodes are in sync.*reconnecting/);
});

test('a message that ends every connection is given up', async () => {
  script = (packet, peer) => {
    if (packet.cmd !== 'publish') return false;
    peer.destroy();
    return true;
  };
  const { code, stderr } = await pub('pub -t A -q 1 x');
  assert.equal(code, 1);
  assert.match(
    stderr,
    /closed 5 connections in a row without acknowledging anything; it may not allow this message/,
  );
});

test('a DISCONNECT with a reason that no retry heals ends the command', async () => {
  script = (packet, peer) => {
    if (packet.cmd !== 'publish') return false;
    peer.send({ cmd: 'disconnect', reasonCode: 0x95, properties: { reasonString: 'too big' } });
    peer.end();
    return true;
  };
  const { code, stderr } = await pub('pub -t A -q 1 x');
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^gomqctl: [^\n]* closed the connection: packet too large \(0x95\), the broker says "too big"; [^\n]*\n$/,
  );
});

test('-W: exit status 27 when the broker does not acknowledge, or does not answer, in time', async () => {
  script = (packet) => packet.cmd === 'publish';
  const unacknowledged = await pub('pub -t A -q 1 -W 0.2 x');
  assert.deepEqual(
    [unacknowledged.code, unacknowledged.stderr],
    [27, 'gomqctl: timed out after 0.2 s, 0 messages are published\n'],
  );
  script = () => true;
  const mute = await pub('pub -t A -W 0.2 x');
  assert.equal(mute.code, 27);
  const input = openInput();
  const waiting = await gomqctl(['--connect', broker.address, ...words('pub -t A -W 0.2')], { stdin: input });
  assert.equal(waiting.code, 27);
});

test('Ctrl-C: what is under way ends with DISCONNECT and exit status 130', async () => {
  const input = openInput();
  const running = start(['--connect', broker.address, ...words('pub -t A -q 1 -l')], { stdin: input });
  input.write('one\n');
  await broker.until(is('publish'));
  running.interrupt();
  const { code, stderr } = await running.done;
  assert.equal(code, 130);
  assert.match(stderr, /^gomqctl: interrupted, \d messages are published\n$/);
  await broker.until(is('disconnect'));
});

test('a connection that is lost for good ends the waiting for input', async () => {
  const input = openInput();
  script = (packet, peer) => {
    answer(packet, peer);
    if (packet.cmd === 'publish') {
      peer.send({ cmd: 'disconnect', reasonCode: 0x98 });
      peer.end();
    }
    return true;
  };
  const running = start(['--connect', broker.address, ...words('pub -t A -q 1 -l')], { stdin: input });
  input.write('one\n');
  const { code, stderr } = await running.done;
  assert.equal(code, 1);
  assert.match(stderr, /closed the connection: administrative action \(0x98\)/);
});

test('long publishing shows a bar where stderr is a terminal, and leaves one line', async () => {
  const file = join(directory, 'lines');
  writeFileSync(file, 'x\n'.repeat(20));
  script = (packet, peer) => {
    if (packet.cmd !== 'publish') return false;
    setTimeout(() => answer(packet, peer), messages().length === 20 ? 700 : 0);
    return true;
  };
  const { code, stderr } = await gomqctl(
    ['--connect', broker.address, ...words(`pub -t A -q 1 -l -f ${file}`)],
    {
      columns: 70,
    },
  );
  assert.equal(code, 0);
  const drawn = stderr.split('\r\x1b[K');
  assert.equal(drawn[0], '');
  assert.match(drawn[1] ?? '', /^100% \[#+\] 19 messages {2}\d+ msg\/s$/);
  assert.match(drawn.at(-1) ?? '', /^20 messages in \d\.\d s, \d+ msg\/s\n$/);
});

test('--quiet says nothing, --debug shows packets without secrets', async () => {
  const quiet = await gomqctl(words('pub -t A x --quiet --connect 127.0.0.1:1'));
  assert.deepEqual([quiet.code, quiet.stderr], [1, '']);
  const debug = await pub('pub -t A -q 1 -u name -P secret -d payload');
  assert.match(
    debug.stderr,
    /^gomqctl: sent CONNECT .*\ngomqctl: received CONNACK .*\ngomqctl: sent PUBLISH .*"7 bytes"/,
  );
  assert.match(debug.stderr, /received PUBACK .*\ngomqctl: sent DISCONNECT/);
  assert.doesNotMatch(debug.stderr, /secret|"payload":"payload/);
});
