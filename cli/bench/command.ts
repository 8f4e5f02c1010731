// Owns the command line of `gomqctl bench`: reads and checks the options, runs, prints, and sets the exit code.
import { Command, InvalidArgumentError, Option } from 'commander';
import { type Address, DEFAULT_HOST, DEFAULT_PORT, parseAddress } from '../address.js';
import { type BrokerNames, parseBrokers } from '../brokers.js';
import { findBrokers } from '../discovery.js';
import { EXIT, Failure } from '../failure.js';
import type { Io } from '../io.js';
import { PAYLOAD_HEADER_BYTES } from './frames.js';
import { findings, formatProgress, formatTable } from './report.js';
import { type BenchMode, type BenchOptions, runBench } from './run.js';

const MODES: readonly BenchMode[] = ['pair', 'fanout', 'fanin', 'share'];
const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024;
/** Flows (publisher to subscriber) cost a dozen bytes each. */
const FLOWS_MAX = 4_000_000;

/** `gomqctl bench`: exit status 0, 1 when the broker lost, repeated or refused something, or the CONNACK code when it let nobody in. */
export function benchCommand(io: Io, exit: (code: number) => void): Command {
  const command = new Command('bench');
  command
    .description(
      'measure throughput and latency of any MQTT broker, and check that it loses and repeats nothing',
    )
    .helpOption('--help', 'show this help')
    .option(
      '--connect <host:port>',
      'broker, or several of a cluster with commas, which the connections are spread over (127.0.0.1:9000)',
    )
    .option('-h, --host <host>', 'broker host')
    .option('-p, --port <port>', 'broker port', integer(1, 65535))
    .option('--pubs <n>', 'publishers (pair: 1, fanout: 1, fanin: 50, share: 1)', integer(1, 10_000))
    .option('--subs <n>', 'subscribers (pair: as many as publishers, fanout: 50, else 1)', integer(0, 10_000))
    .option('-q, --qos <0|1|2>', 'quality of service (0)', integer(0, 2))
    .option(
      '-s, --size <bytes>',
      'payload, at least 16 (64)',
      integer(PAYLOAD_HEADER_BYTES, PAYLOAD_BYTES_MAX),
    )
    .option('-n, --count <n>', 'messages per publisher', integer(1, 4_000_000_000))
    .option('--duration <seconds>', 'publish so long instead (5)', positive())
    .option('--warmup <seconds>', 'run so long before measuring (0)', positive())
    .option(
      '--window <n>',
      'QoS 1, 2: unacknowledged publishes per publisher (100); QoS 0: not yet received by all (1000, or fewer where they would exceed 512 KiB for one subscriber)',
      integer(1, 1_000_000),
    )
    .option(
      '--rate <n>',
      'messages per second in total; latency counts from when a message was due',
      positive(),
    )
    .addOption(new Option('--mode <mode>', 'pair, fanout, fanin or share (pair)').choices([...MODES]))
    .option('-t, --topic <prefix>', 'topic prefix (bench)')
    .option('--literal', 'fanin: subscribe to every topic by name instead of one wildcard')
    .option(
      '--durable',
      'subscribers have sessions that outlive their connections (clean session 0, in 5.0 an expiry), ended after the run',
    )
    .option('-V, --protocol <version>', '4 (3.1.1) or 5 (4)', protocolVersion)
    .option('-u, --username <name>', 'user name')
    .option('-P, --password <word>', 'password')
    .option(
      '--timeout <seconds>',
      'what did not come so long after the last movement is lost (5)',
      positive(),
    )
    .option('--json', 'print one JSON object')
    .option('--quiet', 'no progress bar')
    .action(async () => {
      exit(await execute(command, io));
    });
  return command;
}

/** Throws Failure where the run could not begin. */
async function execute(command: Command, io: Io): Promise<number> {
  const options = await readOptions(command, io);
  const showsProgress = io.stderr.isTTY === true && command.getOptionValue('quiet') !== true;
  const columns = io.stderr.columns ?? 80;
  const result = await runBench(options, {
    signal: io.signal,
    onProgress: showsProgress
      ? (progress) => io.stderr.write(`\r\x1b[K${formatProgress(progress, columns)}`)
      : undefined,
  }).finally(() => {
    if (showsProgress) io.stderr.write('\r\x1b[K');
  });
  const text = command.getOptionValue('json') === true ? JSON.stringify(result) : formatTable(result);
  // The process may end as soon as this command does, so what it prints must have left.
  await new Promise<void>((resolve) => io.stdout.write(`${text}\n`, () => resolve()));
  const found = findings(result);
  for (const line of found) io.stderr.write(`gomqctl bench: ${line}\n`);
  if (io.signal.aborted) return EXIT.interrupted;
  return found.length === 0 ? EXIT.ok : EXIT.error;
}

/** Throws Failure where options contradict one another. */
async function readOptions(command: Command, { env, signal }: Io): Promise<BenchOptions> {
  const text = (name: string) => {
    const value: unknown = command.getOptionValue(name);
    return value === undefined ? undefined : String(value);
  };
  const number = (name: string) => {
    const value = text(name);
    return value === undefined ? undefined : Number(value);
  };

  const mode = (text('mode') ?? 'pair') as BenchMode;
  const pubs = number('pubs') ?? (mode === 'fanin' ? 50 : mode === 'pair' ? number('subs') || 1 : 1);
  const subs = number('subs') ?? (mode === 'fanout' ? 50 : mode === 'pair' ? pubs : 1);
  if (pubs < 1) throw new Failure('there must be a publisher: --pubs is at least 1');
  if (mode === 'pair' && subs !== 0 && subs !== pubs) {
    throw new Failure(`pair mode needs as many subscribers as publishers, or none: ${pubs} and ${subs}`);
  }
  if (pubs * subs > FLOWS_MAX && mode !== 'pair') {
    throw new Failure(`${pubs} publishers times ${subs} subscribers is more than ${FLOWS_MAX}`);
  }
  const qos = number('qos') ?? 0;
  if (qos !== 0 && qos !== 1 && qos !== 2) throw new Failure(`QoS is 0, 1 or 2, not ${qos}`);
  const count = number('count');
  const duration = number('duration');
  if (count !== undefined && duration !== undefined) {
    throw new Failure('--count and --duration exclude one another');
  }
  const topic = text('topic') ?? 'bench';
  if (topic === '' || /[+#\0]/.test(topic) || topic.length > 1000) {
    throw new Failure(`--topic is a topic name without wildcards: ${JSON.stringify(topic)}`);
  }
  const payloadBytes = number('size') ?? 64;
  const names = readBrokers(text('connect'), text('host'), number('port'), env.GOMQ_URL || undefined);
  const [address, ...others] = await addressesOf(names, env.GOMQ_TOKEN || undefined, signal);
  if (address === undefined) throw new Failure('there is no broker to connect to');
  const username = text('username') ?? address.username ?? (env.GOMQ_USER || undefined);
  const password = text('password') ?? address.password ?? (env.GOMQ_PASSWORD || undefined);
  if (password !== undefined && username === undefined) {
    throw new Failure('a password needs a user name: add --username, or set GOMQ_USER');
  }
  return {
    host: address.host,
    port: address.port,
    others,
    protocol: protocolVersion(text('protocol') ?? '4'),
    username,
    password,
    mode,
    pubs,
    subs,
    qos,
    payloadBytes,
    count,
    durationSeconds: count === undefined ? (duration ?? 5) : undefined,
    warmupSeconds: number('warmup') ?? 0,
    window: number('window') ?? (qos === 0 ? roomyWindow(payloadBytes, mode === 'pair' ? 1 : pubs) : 100),
    rate: number('rate'),
    topic,
    literalFilters: command.getOptionValue('literal') === true,
    durable: command.getOptionValue('durable') === true,
    stallSeconds: number('timeout') ?? 5,
  };
}

/**
 * The window for QoS 0 that keeps a broker busy and still fits what any broker queues for one subscriber, since beyond its queue a broker
 * may drop, and the run would measure that.
 */
function roomyWindow(payloadBytes: number, publishersPerSubscriber: number): number {
  const packetBytes = payloadBytes + 40;
  const messages = Math.floor((512 * 1024) / packetBytes / publishersPerSubscriber);
  return Math.min(1000, Math.max(1, messages));
}

function readBrokers(
  connect: string | undefined,
  host: string | undefined,
  port: number | undefined,
  fromEnvironment: string | undefined,
): BrokerNames {
  const isByParts = host !== undefined || port !== undefined;
  if (connect !== undefined && isByParts) throw new Failure('--connect excludes --host and --port');
  if (isByParts) {
    const byParts = parseAddress(`${DEFAULT_HOST}:${port ?? DEFAULT_PORT}`);
    return { addresses: [{ ...byParts, host: host ?? DEFAULT_HOST }] };
  }
  const names = parseBrokers(connect ?? fromEnvironment ?? `${DEFAULT_HOST}:${DEFAULT_PORT}`);
  const other = names.addresses.find(({ scheme }) => scheme !== 'mqtt');
  if (other !== undefined) {
    throw new Failure(`bench speaks plain MQTT over TCP: mqtt://HOST:PORT, not ${other.scheme}://`);
  }
  return names;
}

async function addressesOf(
  { addresses, discovery }: BrokerNames,
  token: string | undefined,
  signal: AbortSignal,
): Promise<Address[]> {
  if (discovery === undefined) return addresses;
  if (token !== undefined) discovery.token = token;
  return (await findBrokers(discovery, signal)).map((found) => parseAddress(found));
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

function positive(): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+(\.\d+)?$/.test(text) || !(value > 0) || value > 1e9) {
      throw new InvalidArgumentError('It must be a number above 0.');
    }
    return value;
  };
}

function protocolVersion(text: string): 4 | 5 {
  if (text === '4' || text === '311' || text === '3.1.1' || text === 'mqttv311') return 4;
  if (text === '5' || text === '5.0' || text === 'mqttv5') return 5;
  throw new InvalidArgumentError('It must be 4 (for 3.1.1) or 5.');
}
