// The generator against Aedes, which behaves, and against a broker that does not.
import assert from 'node:assert/strict';
import { type AddressInfo, createServer } from 'node:net';
import { Writable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { Aedes } from 'aedes';
import { commandFirst } from '../../cli/arguments.js';
import { benchCommand } from '../../cli/bench/command.js';
import type { BenchResult } from '../../cli/bench/run.js';
import { Failure } from '../../cli/failure.js';
import type { Io } from '../../cli/io.js';
import { BrokenBroker, type BrokenBrokerOptions } from '../bench/broken-broker.js';

class Collector extends Writable {
  text = '';
  readonly isTTY: boolean;
  readonly columns = 100;

  constructor(isTTY = false) {
    super();
    this.isTTY = isTTY;
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

interface Outcome {
  exitCode: number;
  out: string;
  err: string;
  /** The JSON object, where --json was given and something was printed. */
  result: BenchResult;
}

/** Runs `gomqctl ARGS` as program.ts does. */
async function gomqctl(
  args: readonly string[],
  given: Partial<Io> = {},
  isTerminal = false,
): Promise<Outcome> {
  const out = new Collector();
  const err = new Collector(isTerminal);
  let exitCode = -1;
  const io: Io = {
    stdin: process.stdin,
    stdout: out,
    stderr: err,
    env: {},
    signal: new AbortController().signal,
    ...given,
  };
  const bench = benchCommand(io, (code) => {
    exitCode = code;
  });
  try {
    await bench.exitOverride().parseAsync(commandFirst(args, [bench]).slice(1), { from: 'user' });
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    err.text += `gomqctl: ${error.message}\n`;
    exitCode = error.exitCode;
  }
  const isJson = args.includes('--json') && out.text !== '';
  const result = isJson ? (JSON.parse(out.text) as BenchResult) : ({} as BenchResult);
  return { exitCode, out: out.text, err: err.text, result };
}

/** Runs one bench against a broker with these faults. */
async function againstBroken(faults: BrokenBrokerOptions, ...args: string[]): Promise<Outcome> {
  const broker = new BrokenBroker(faults);
  const port = await broker.listen();
  try {
    return await gomqctl(['bench', '--connect', `127.0.0.1:${port}`, '--json', '--timeout', '0.3', ...args]);
  } finally {
    await broker.close();
  }
}

/** Mode, publishers, subscribers, deliveries of one message. */
const SHAPES = [
  ['pair', 3, 3, 1],
  ['fanout', 2, 5, 5],
  ['fanin', 5, 2, 2],
  ['share', 2, 3, 1],
] as const;

function assertFlawless({ exitCode, err, result }: Outcome, published: number, delivered: number): void {
  assert.equal(err, '');
  assert.equal(exitCode, 0);
  assert.equal(result.published, published);
  assert.equal(result.delivered, delivered);
  assert.equal(result.lost, 0);
  assert.equal(result.duplicates, 0);
  assert.equal(result.disordered, 0);
  assert.equal(result.unacknowledged, 0);
  assert.equal(result.foreign, 0);
  assert.equal(result.stalled, false);
  assert.ok(result.publishedPerSecond > 0 && result.deliveredPerSecond > 0);
  assert.ok(result.latencyMs.p50 > 0 && result.latencyMs.p50 <= result.latencyMs.max);
}

describe('against Aedes', () => {
  let aedes: Aedes;
  const server = createServer((socket) => aedes.handle(socket));
  let address = '';
  before(async () => {
    aedes = await Aedes.createBroker();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(async () => {
    await new Promise<void>((resolve) => aedes.close(() => resolve()));
    await new Promise((resolve) => server.close(resolve));
  });

  for (const qos of ['0', '1', '2']) {
    for (const [mode, pubs, subs, copies] of SHAPES) {
      // Aedes knows no shared subscriptions.
      if (mode === 'share') continue;
      test('several brokers: the connections are spread over them', async () => {
        const counts = [0, 0, 0];
        const doors = counts.map((_, index) =>
          createServer((socket) => {
            counts[index]! += 1;
            aedes.handle(socket);
          }),
        );
        await Promise.all(
          doors.map((door) => new Promise<void>((resolve) => door.listen(0, '127.0.0.1', resolve))),
        );
        const list = doors.map((door) => `127.0.0.1:${(door.address() as AddressInfo).port}`).join(',');
        const outcome = await gomqctl([
          ...['bench', '--connect', list, '--json'],
          ...['--pubs', '6', '--subs', '6', '-q', '1', '-n', '20'],
        ]);
        assertFlawless(outcome, 120, 120);
        assert.deepEqual(counts, [4, 4, 4]);
        await Promise.all(doors.map((door) => new Promise((resolve) => door.close(resolve))));
      });

      test(`${mode}, QoS ${qos}: all arrive once`, async () => {
        // Some options before the command, some after it.
        const outcome = await gomqctl([
          ...['--connect', address, '--qos', qos, 'bench', '--json', '--window', '20', '--count', '150'],
          ...['--mode', mode, '--pubs', `${pubs}`, '--subs', `${subs}`],
        ]);
        assertFlawless(outcome, pubs * 150, pubs * 150 * copies);
      });
    }
  }

  test('durable sessions get all, and none is left', async () => {
    const subscribed: string[] = [];
    const ended: string[] = [];
    const onSubscribe = (_: unknown, client: { id: string }) => subscribed.push(client.id);
    const onReady = (client: { id: string; clean: boolean }) => {
      if (client.clean && subscribed.includes(client.id)) ended.push(client.id);
    };
    aedes.on('subscribe', onSubscribe);
    aedes.on('clientReady', onReady);
    try {
      const outcome = await gomqctl([
        ...[
          'bench',
          '--connect',
          address,
          '--json',
          '--durable',
          '--qos',
          '1',
          '--count',
          '100',
          '--pubs',
          '2',
        ],
      ]);
      assertFlawless(outcome, 200, 200);
      assert.ok(outcome.result.ackMs.p50 > 0 && outcome.result.ackMs.p50 <= outcome.result.ackMs.max);
      assert.equal(subscribed.length, 2);
      assert.deepEqual(ended.sort(), subscribed.sort());
    } finally {
      aedes.off('subscribe', onSubscribe);
      aedes.off('clientReady', onReady);
    }
  });

  test('a rate is kept, and latency counts from when a message was due', async () => {
    const { exitCode, result } = await gomqctl([
      'bench',
      '--connect',
      address,
      '--json',
      '--rate',
      '1000',
      '--pubs',
      '2',
      '--qos',
      '1',
      '--count',
      '250',
    ]);
    assert.equal(exitCode, 0);
    assert.equal(result.lost, 0);
    assert.ok(result.publishedPerSecond < 1100, `${result.publishedPerSecond} a second`);
    assert.ok(result.seconds > 0.45);
  });

  test('a duration ends the run, a warm-up is not measured, publishers may be alone', async () => {
    const { exitCode, result } = await gomqctl([
      ...['bench', '--connect', address, '--json', '--duration', '0.3', '--warmup', '0.2'],
      ...['--window', '10', '--qos', '1', '--subs', '0'],
    ]);
    assert.equal(exitCode, 0);
    assert.equal(result.expected, 0);
    assert.ok(result.seconds > 0.25 && result.seconds < 0.45, `${result.seconds} s`);
    assert.ok(result.published > result.publishedPerSecond * result.seconds);
  });

  test('the table has a line for everything', async () => {
    const { exitCode, out } = await gomqctl([
      'bench',
      '--connect',
      address,
      '--count',
      '100',
      '--qos',
      '1',
      '--literal',
      '--mode',
      'fanin',
      '--pubs',
      '3',
    ]);
    assert.equal(exitCode, 0);
    assert.match(out, /^run +fanin, 3 to 1, QoS 1, 64 bytes, window 100$/m);
    assert.match(out, /^published +300 \([\d,]+\/s\)$/m);
    assert.match(out, /^delivered +300 \([\d,]+\/s\)$/m);
    assert.match(out, /^lost +0 of 300$/m);
    for (const name of ['duplicates', 'out of order', 'unacknowledged']) {
      assert.match(out, new RegExp(`^${name} +0$`, 'm'));
    }
    for (const name of ['p50', 'p90', 'p99', 'p99.9', 'max']) {
      assert.match(out, new RegExp(`^latency ${name} +\\d+\\.\\d{3} ms$`, 'm'));
    }
  });
});

describe('against a broken broker', () => {
  for (const protocol of ['4', '5']) {
    for (const qos of ['0', '1', '2']) {
      for (const [mode, pubs, subs, copies] of SHAPES) {
        test(`without faults all arrive once: ${mode}, QoS ${qos}, protocol ${protocol}`, async () => {
          const outcome = await againstBroken(
            {},
            ...['--protocol', protocol, '--qos', qos, '--count', '100', '--window', '30'],
            ...['--mode', mode, '--pubs', `${pubs}`, '--subs', `${subs}`],
          );
          assertFlawless(outcome, pubs * 100, pubs * 100 * copies);
        });
      }
    }
  }

  test('a durable session in 5.0 has an expiry', async () => {
    const outcome = await againstBroken({}, '--durable', '--protocol', '5', '--qos', '2', '--count', '100');
    assertFlawless(outcome, 100, 100);
  });

  test('losses at QoS 1 are counted and exit code is 1', async () => {
    const { exitCode, err, result } = await againstBroken(
      { fate: (message) => (message % 10 === 3 ? 'drop' : 'deliver') },
      ...['--count', '100', '--qos', '1'],
    );
    assert.equal(exitCode, 1);
    assert.equal(result.lost, 10);
    assert.equal(result.duplicates + result.disordered, 0);
    assert.equal(result.stalled, true);
    assert.equal(err, 'gomqctl bench: 10 messages lost at QoS 1\n');
  });

  test('losses at QoS 0 are counted, do not hang the run, and are no failure', async () => {
    const { exitCode, result } = await againstBroken(
      { fate: (message) => (message >= 40 && message < 60 ? 'drop' : 'deliver') },
      ...['--count', '100', '--window', '10'],
    );
    assert.equal(exitCode, 0);
    assert.equal(result.published, 100);
    assert.equal(result.lost, 20);
    assert.equal(result.stalled, true);
  });

  test('duplicates at QoS 2 are counted and exit code is 1', async () => {
    const { exitCode, result } = await againstBroken(
      { fate: (message) => (message % 20 === 0 ? 'repeat' : 'deliver') },
      ...['--count', '100', '--qos', '2'],
    );
    assert.equal(exitCode, 1);
    assert.equal(result.duplicates, 5);
    assert.equal(result.lost, 0);
  });

  test('a duplicate of the very last message is still noticed', async () => {
    const { exitCode, result } = await againstBroken(
      { fate: (message) => (message === 99 ? 'repeat' : 'deliver') },
      ...['--count', '100', '--qos', '2'],
    );
    assert.equal(exitCode, 1);
    assert.equal(result.duplicates, 1);
  });

  test('disorder is counted and exit code is 1', async () => {
    const { exitCode, result } = await againstBroken(
      { fate: (message) => (message % 25 === 7 ? 'swap with the next' : 'deliver') },
      ...['--count', '100', '--qos', '1'],
    );
    assert.equal(exitCode, 1);
    assert.equal(result.disordered, 4);
    assert.equal(result.lost + result.duplicates, 0);
  });

  test('missing acknowledgements end the run and are reported', async () => {
    const { exitCode, result } = await againstBroken(
      { forgetsAck: (message) => message % 10 === 0 },
      ...['--count', '100', '--qos', '1', '--window', '5'],
    );
    assert.equal(exitCode, 1);
    assert.equal(result.unacknowledged, 5, 'one window of them, then the publisher may not go on');
  });

  test('acknowledgements that come twice are reported', async () => {
    const { exitCode, err } = await againstBroken({ acksTwice: true }, '--count', '10', '--qos', '1');
    assert.equal(exitCode, 1);
    assert.match(err, /10 acknowledgements nobody waited for/);
  });

  test('refused publishes are reported with the reason code', async () => {
    for (const qos of ['1', '2']) {
      const { exitCode, err } = await againstBroken(
        { ackReason: 0x97, fate: () => 'drop' },
        ...['--count', '10', '--qos', qos, '--protocol', '5'],
      );
      assert.equal(exitCode, 1);
      assert.match(err, /10 publishes refused, first with 0x97/);
    }
  });

  test('the Receive Maximum of a 5.0 broker bounds the window', async () => {
    const { result } = await againstBroken(
      { receiveMaximum: 3, forgetsAck: () => true },
      ...['--count', '100', '--qos', '1', '--protocol', '5'],
    );
    assert.equal(result.published, 3);
  });

  test('a broker that hangs up is one clear line, with what was counted until then', async () => {
    const { exitCode, err, result } = await againstBroken({ hangsUpAt: 50 }, '--count', '100', '--qos', '1');
    assert.equal(exitCode, 1);
    assert.match(err, /closed the connection of publisher 0 after \d+ messages/);
    assert.ok(result.published > 0);
  });

  test('a refused CONNECT exits with the CONNACK code', async () => {
    const old = await againstBroken({ connackCode: 5 }, '--count', '1');
    assert.equal(old.exitCode, 5);
    assert.equal(old.err, 'gomqctl: the broker refused subscriber 0: not authorised (CONNACK code 5)\n');
    const five = await againstBroken({ connackCode: 0x87 }, '--count', '1', '--protocol', '5');
    assert.equal(five.exitCode, 0x87);
  });

  test('a refused or lowered subscription is one clear line', async () => {
    const refused = await againstBroken({ subackCode: 0x80 }, '--count', '1', '--qos', '1');
    assert.equal(refused.exitCode, 1);
    assert.match(refused.err, /^gomqctl: the broker refused to subscribe subscriber 0 at bench\/.*\n$/);
    const lowered = await againstBroken({ subackCode: 0 }, '--count', '1', '--qos', '1');
    assert.match(lowered.err, /granted only QoS 0 to subscriber 0/);
  });

  test('nobody listens', async () => {
    const broker = new BrokenBroker();
    const port = await broker.listen();
    await broker.close();
    const { exitCode, err } = await gomqctl(['bench', '--connect', `127.0.0.1:${port}`]);
    assert.equal(exitCode, 1);
    assert.equal(err, `gomqctl: connection refused: nothing listens at 127.0.0.1:${port}\n`);
  });

  for (const [args, message] of [
    [['--connect', 'mqtts://127.0.0.1:1'], /plain MQTT over TCP/],
    [['--connect', '127.0.0.1:99999'], /99999/],
    [['--connect', '127.0.0.1:1', '-p', '2'], /--connect excludes/],
    [['--pubs', '2', '--subs', '3'], /as many subscribers as publishers/],
    [['--topic', 'a/#'], /without wildcards/],
    [['--count', '1', '--duration', '1'], /exclude one another/],
  ] as const) {
    test(`wrong options are one line: ${args.join(' ')}`, async () => {
      const { exitCode, err } = await gomqctl(['bench', ...args]);
      assert.equal(exitCode, 1);
      assert.match(err, message);
      assert.match(err, /^gomqctl: [^\n]+\n$/);
    });
  }
});

describe('at a terminal', () => {
  let broker: BrokenBroker;
  let port = 0;
  before(async () => {
    broker = new BrokenBroker();
    port = await broker.listen();
  });
  after(() => broker.close());

  test('a progress line is kept up to date on stderr and wiped at the end', async () => {
    const args = ['bench', '-h', '127.0.0.1', '-p', `${port}`, '--duration', '0.5', '--window', '5'];
    const { out, err } = await gomqctl(args, {}, true);
    assert.match(err, /\[#+\.+\] +\d+ % {2}[\d,]+ published, [\d,]+ delivered/);
    assert.ok(err.endsWith('\r\x1b[K'));
    assert.ok(!out.includes('\r'));
  });

  test('an interrupted run tells what it has, and exits with 130', async () => {
    const interrupt = new AbortController();
    const timer = setTimeout(() => interrupt.abort(), 300);
    const { exitCode, result } = await gomqctl(['bench', '--json', '--qos', '1', '--duration', '60'], {
      signal: interrupt.signal,
      env: { GOMQ_URL: `mqtt://127.0.0.1:${port}` },
    });
    clearTimeout(timer);
    assert.equal(exitCode, 130);
    assert.ok(result.published > 0);
    assert.equal(result.lost, 0);
    assert.equal(result.unacknowledged, 0);
  });
});
