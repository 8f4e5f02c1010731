// What verify notices: each kind of breach in a flow by itself, and a whole run against brokers that keep and that break their word.
import assert from 'node:assert/strict';
import { type AddressInfo, createServer } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { Packet } from 'mqtt-packet';
import { Findings, Flow, type Published } from '../../cli/verify-flow.js';
import { Gap } from '../../cli/verify-gap.js';
import { formatProgress } from '../../cli/verify-report.js';
import type { VerifyResult } from '../../cli/verify-run.js';
import { BrokenBroker, type BrokenBrokerOptions } from '../bench/broken-broker.js';
import { type RunningGomq, startGomq } from '../support/start-gomq.js';
import { gomqctl, type Invocation, start, words } from './harness.js';
import { type Peer, scriptedBroker } from './scripted-broker.js';

function flowOf(qos: 1 | 2, published: Partial<Published> = {}): { flow: Flow; findings: Findings } {
  const findings = new Findings();
  const history = { wasRefused: () => false, wasResent: () => false, ...published };
  return { flow: new Flow('flow', qos, history, findings), findings };
}

function counts({ delivered, repeatedQos2, redelivered, resent, repeatedQos1, reordered }: Findings) {
  return { delivered, repeatedQos2, redelivered, resent, repeatedQos1, reordered };
}

const NONE = { delivered: 0, repeatedQos2: 0, redelivered: 0, resent: 0, repeatedQos1: 0, reordered: 0 };

describe('a flow', () => {
  test('in order leaves nothing to remember', () => {
    const { flow, findings } = flowOf(2);
    for (let number = 0; number < 1000; number++) flow.record(number, false);
    assert.deepEqual(counts(findings), { ...NONE, delivered: 1000 });
    assert.equal(flow.missingBelow(1000), 0);
    assert.equal(flow.missingBelow(1003), 3);
    assert.deepEqual(flow.firstMissing(1003, 2), [1000, 1001]);
  });

  test('with a gap misses what is in it', () => {
    const { flow, findings } = flowOf(1);
    for (const number of [0, 1, 5]) flow.record(number, false);
    assert.equal(flow.missingBelow(6), 3);
    assert.deepEqual(flow.firstMissing(7, 9), [2, 3, 4, 6]);
    assert.deepEqual([flow.has(1), flow.has(2), flow.has(6)], [true, false, false]);
    assert.equal(findings.reordered, 0);
  });

  test('is out of order when an earlier one comes later', () => {
    const { flow, findings } = flowOf(2);
    for (const number of [0, 2, 1]) flow.record(number, false);
    assert.deepEqual(counts(findings), { ...NONE, delivered: 3, reordered: 1 });
    assert.equal(flow.missingBelow(3), 0);
    assert.deepEqual(findings.examples, ['flow: 1 came after 2']);
  });

  test('of QoS 2 has nothing twice, whatever DUP and the publisher say', () => {
    const { flow, findings } = flowOf(2, { wasResent: () => true });
    for (const isDup of [false, false, true]) flow.record(0, isDup);
    assert.deepEqual(counts(findings), { ...NONE, delivered: 1, repeatedQos2: 2 });
  });

  test('of QoS 1 tells apart why something is there twice', () => {
    const { flow, findings } = flowOf(1, { wasResent: (number) => number === 1 });
    for (const number of [0, 1, 2]) flow.record(number, false);
    flow.record(0, true);
    flow.record(1, false);
    flow.record(2, false);
    assert.deepEqual(counts(findings), { ...NONE, delivered: 3, redelivered: 1, resent: 1, repeatedQos1: 1 });
  });

  test('takes what was refused and published again at any place', () => {
    const { flow, findings } = flowOf(2, { wasRefused: (number) => number === 0 });
    for (const number of [1, 0, 0]) flow.record(number, false);
    assert.deepEqual(counts(findings), { ...NONE, delivered: 2, resent: 1 });
  });

  test('counts what is too much to remember', () => {
    const { flow } = flowOf(2);
    flow.record(150_000, false);
    assert.equal(flow.missingBelow(150_001), 150_000);
  });
});

describe('the longest gap', () => {
  test('is counted while something is waited for, and not while nothing is', () => {
    const gap = new Gap();
    gap.wait(1000);
    gap.wait(1500);
    gap.came(1200, true);
    gap.came(1300, false);
    assert.equal(gap.longestMs(9000), 200);
    gap.wait(9000);
    assert.equal(gap.currentMs(9700), 700);
    assert.equal(gap.longestMs(9700), 700);
    gap.came(9800, false);
    assert.equal(gap.longestMs(20_000), 800);
  });
});

test('the line of progress says first what is wrong, and that nothing comes', () => {
  const progress = {
    seconds: 12.3,
    published: 2400,
    acknowledged: 2398,
    delivered: 4790,
    repeatedQos2: 0,
    reordered: 0,
    connectionsLost: 3,
    gapMs: 20,
    longestGapMs: 412,
  };
  const line =
    '12 s  2,400 published  2,398 acknowledged  4,790 delivered  3 connections lost  longest gap 0.41 s';
  assert.equal(formatProgress(progress, 200), line);
  assert.equal(formatProgress(progress, 21), line.slice(0, 20));
  assert.match(
    formatProgress({ ...progress, gapMs: 1500, reordered: 2 }, 200),
    /^2 WRONG .* no acknowledgement for 1\.50 s$/,
  );
});

describe('verify against gomq', () => {
  let gomq: RunningGomq;
  before(async () => {
    gomq = await startGomq();
  });
  after(() => gomq.stop());

  const verify = (line: string, invocation?: Invocation) =>
    start(['verify', '--connect', `127.0.0.1:${gomq.port}`, ...words(line)], invocation);

  test('finds nothing, and shows a table', async () => {
    const { code, stdout, stderr } = await verify('--seconds 0.5 --rate 500 --publishers 3 --subscribers 2')
      .done;
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(
      stdout,
      /^published {6}\d+ by 3 in 0\.\d s, half at QoS 1, half at QoS 2\nacknowledged {3}\d+\n/,
    );
    assert.match(stdout, /^lost {11}0\ntwice, QoS 2 {3}0\nout of order {3}0\n/m);
  });

  test('with --json prints objects, the last one with everything', async () => {
    const { code, stdout } = await verify('--seconds 0.5 --rate 300 --json').done;
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { type: string });
    const result = lines.at(-1) as unknown as VerifyResult & { ok: boolean };
    assert.deepEqual([code, lines[0]!.type, lines.at(-1)!.type, result.ok], [0, 'progress', 'result', true]);
    assert.ok(result.published > 10);
    assert.equal(result.acknowledged, result.published);
    assert.equal(result.delivered, 2 * result.published);
    assert.equal(result.publisherGapsMs.length, 4);
    assert.equal(result.sessionsLeft, 0);
  });

  test('leaves no session and no retained message behind', async () => {
    assert.equal((await verify('--seconds 0.2 -t left/behind').done).code, 0);
    const retained = await gomqctl(['list', '--retained', '#', '--connect', `127.0.0.1:${gomq.port}`]);
    assert.equal(retained.stdout, '');
    // What ended with its connection is gone when the log has that.
    const sessions = () => [...gomq.broker().state.sessions()].length;
    while (sessions() > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  });

  test('draws one line on a terminal, and takes it away', async () => {
    const { stderr } = await verify('--seconds 0.5', { columns: 120 }).done;
    assert.ok(stderr.startsWith('\r\x1b[K0 s  '));
    assert.ok(stderr.endsWith('\r\x1b[K'));
  });

  test('ends early on Ctrl-C, with the result so far', async () => {
    const running = verify('--seconds 600 --json');
    await running.printed('"type":"progress"');
    running.interrupt();
    const { code, stdout } = await running.done;
    assert.equal(code, 130);
    assert.match(stdout, /"type":"result","ok":true/);
    assert.match(stdout, /"interrupted":true/);
  });
});

describe('verify against a broker that breaks its word', () => {
  const verify = async (options: BrokenBrokerOptions, line = '') => {
    const broker = new BrokenBroker(options);
    const port = await broker.listen();
    const argv = words(
      `verify --connect 127.0.0.1:${port} --seconds 0.4 --rate 200 --timeout 0.5 --publishers 1 --subscribers 1`,
    );
    const outcome = await gomqctl([...argv, ...words(line)]);
    await broker.close();
    return outcome;
  };

  test('loses', async () => {
    const { code, stdout, stderr } = await verify({
      fate: (message) => (message === 5 ? 'drop' : 'deliver'),
    });
    assert.equal(code, 1);
    assert.match(stdout, /^lost {11}1$/m);
    assert.match(stderr, /^gomqctl verify: 1 acknowledged messages did not arrive$/m);
    assert.match(stderr, /subscriber 0, publisher 0, QoS [12]: \d+ did not arrive/);
  });

  test('repeats', async () => {
    // Of two in a row one is of QoS 2.
    const isRepeated = (message: number) => message === 4 || message === 5;
    const { code, stdout, stderr } = await verify({
      fate: (message) => (isRepeated(message) ? 'repeat' : 'deliver'),
    });
    assert.equal(code, 1);
    assert.match(stdout, /^twice, QoS 2 {3}1$/m);
    assert.match(stdout, /0 with DUP, 0 published twice, 1 without a reason/);
    assert.match(stderr, /^gomqctl verify: 1 messages of QoS 2 came twice$/m);
    assert.match(stderr, /came twice without DUP, and were published once/);
  });

  test('reorders', async () => {
    let subscriber: Peer | undefined;
    const held: Packet[] = [];
    let published = 0;
    const broker = await scriptedBroker((packet, peer) => {
      if (packet.cmd === 'subscribe') subscriber = peer;
      if (packet.cmd !== 'publish') return undefined;
      held.push({ ...packet, messageId: ++published });
      // The fifth goes behind the next of its flow, which takes turns with the other.
      if (published === 5 || published === 6) return undefined;
      const [first, second, ...rest] = held.splice(0);
      const sent = rest.length === 1 ? [...rest, second, first] : [first, second, ...rest];
      for (const one of sent) if (one !== undefined) subscriber?.send({ ...one });
      return undefined;
    });
    const line = `--connect ${broker.address} --seconds 0.4 --rate 200 --publishers 1 --subscribers 1`;
    const { code, stdout, stderr } = await gomqctl(['verify', ...words(line)]);
    await broker.stop();
    assert.equal(code, 1);
    assert.match(stdout, /^out of order {3}1$/m);
    assert.match(stderr, /^gomqctl verify: 1 messages came out of order$/m);
    assert.match(stderr, /QoS 1: 2 came after 3$/m);
  });

  test('refuses everything', async () => {
    const { code, stdout, stderr } = await verify({ ackReason: 0x97, fate: () => 'drop' });
    assert.equal(code, 27);
    assert.match(stdout, /^acknowledged {3}0$/m);
    assert.match(stdout, /^refused {8}\d+ times, and published again: 0x97$/m);
    assert.match(stderr, /were never acknowledged/);
  });

  test('lets nobody in', async () => {
    const { code, stderr } = await verify({ connackCode: 0x87 });
    assert.equal(code, 0x87);
    assert.match(stderr, /^gomqctl: the broker refused the connection: not authorized/);
  });

  test('grants less than was asked for', async () => {
    const { code, stderr } = await verify({ subackCode: 1 });
    assert.equal(code, 1);
    assert.match(stderr, /grants QoS 1; verify needs QoS 2/);
  });

  test('forgets sessions', async () => {
    // This broker hangs up on one publish, and never has a session.
    const { code, stderr } = await verify({ hangsUpAt: 20 });
    assert.equal(code, 1);
    assert.match(stderr, /1 sessions were forgotten by the broker/);
  });
});

describe('verify', () => {
  test('tries the next broker where one does not answer', async () => {
    const closed = createServer();
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
    const { port } = closed.address() as AddressInfo;
    await new Promise((resolve) => closed.close(resolve));
    const gomq = await startGomq();
    const connect = `127.0.0.1:${port},127.0.0.1:${gomq.port}`;
    const { code, stdout } = await gomqctl(words(`verify --connect ${connect} --seconds 0.3`));
    await gomq.stop();
    assert.equal(code, 0);
    assert.match(stdout, /^connections {4}0 lost$/m);
  });

  const wrong: [string, RegExp][] = [
    ['--rate 0', /whole number from 1 to 100000/],
    ['--publishers x', /whole number from 1 to 1000/],
    ['--topic a/#', /--topic "a\/#"/],
    ['--connect ws://a', /TCP and TLS, not ws/],
    ['--connect a:b', /valid port/],
    ['--password p', /password without a user name/],
    ['--cert c', /--cert and --key belong together/],
    ['--cafile /does/not/exist', /cannot read/],
  ];
  for (const [line, message] of wrong) {
    test(`refuses ${line}`, async () => {
      const { code, stderr } = await gomqctl(['verify', ...words(line)]);
      assert.equal(code, 1);
      assert.match(stderr, message);
    });
  }
});
