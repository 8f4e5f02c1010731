// Owns the command line of `gomqctl bench`: reads and checks the options, runs, prints, and sets the exit code.
import { Command, InvalidArgumentError, Option } from 'commander';
import { BenchError } from './errors.js';
import { PAYLOAD_HEADER_BYTES } from './frames.js';
import { findings, formatProgress, formatTable } from './report.js';
import { type BenchMode, type BenchOptions, runBench } from './run.js';

const MODES: readonly BenchMode[] = ['pair', 'fanout', 'fanin', 'share'];
const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024;
/** Flows (publisher to subscriber) cost a dozen bytes each. */
const FLOWS_MAX = 4_000_000;

/** Where the command writes, and how it ends; tests give their own. */
export interface BenchOutput {
  out(text: string): void;
  err(text: string): void;
  isTerminal: boolean;
  exit(code: number): void;
}

const PROCESS_OUTPUT: BenchOutput = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  isTerminal: process.stderr.isTTY,
  exit: (code) => {
    process.exitCode = code;
  },
};

/** `gomqctl bench`: exit code 0, 1 when the broker lost, repeated or refused something, or the CONNACK code when it let nobody in. */
export function benchCommand(output: BenchOutput = PROCESS_OUTPUT): Command {
  const command = new Command('bench');
  command
    .description(
      'measure throughput and latency of any MQTT broker, and check that it loses and repeats nothing',
    )
    .helpOption('--help', 'show this help')
    .option('--connect <host:port>', 'broker (127.0.0.1:9000)')
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
      output.exit(await execute(command, output));
    });
  return command;
}

async function execute(command: Command, output: BenchOutput): Promise<number> {
  const showsProgress = output.isTerminal && option(command, 'quiet') !== true;
  try {
    const options = readOptions(command);
    const result = await runBench(
      options,
      showsProgress ? (progress) => output.err(`\r${formatProgress(progress)}`) : undefined,
    );
    if (showsProgress) output.err(`\r${' '.repeat(79)}\r`);
    output.out(`${option(command, 'json') === true ? JSON.stringify(result) : formatTable(result)}\n`);
    const found = findings(result);
    for (const line of found) output.err(`gomqctl bench: ${line}\n`);
    return found.length === 0 ? 0 : 1;
  } catch (error) {
    if (!(error instanceof BenchError)) throw error;
    output.err(`gomqctl bench: ${error.message}\n`);
    return error.exitCode;
  }
}

/** The options of this command, or of a command above it: they may stand before or after the word `bench`. */
function option(command: Command, ...names: string[]): unknown {
  for (let level: Command | null = command; level !== null; level = level.parent) {
    for (const name of names) {
      const source = level.getOptionValueSource(name);
      if (source !== undefined && source !== 'default') return level.getOptionValue(name);
    }
  }
  return undefined;
}

/** Throws BenchError where options contradict one another. */
function readOptions(command: Command): BenchOptions {
  const text = (...names: string[]) => {
    const value = option(command, ...names);
    if (Array.isArray(value)) {
      if (value.length > 1) throw new BenchError(`--${names[0]} may be given once`);
      return value[0] === undefined ? undefined : String(value[0]);
    }
    return value === undefined ? undefined : String(value);
  };
  const number = (...names: string[]) => {
    const value = text(...names);
    return value === undefined ? undefined : Number(value);
  };

  const mode = (text('mode') ?? 'pair') as BenchMode;
  const pubs = number('pubs') ?? (mode === 'fanin' ? 50 : mode === 'pair' ? number('subs') || 1 : 1);
  const subs = number('subs') ?? (mode === 'fanout' ? 50 : mode === 'pair' ? pubs : 1);
  if (pubs < 1) throw new BenchError('there must be a publisher: --pubs is at least 1');
  if (mode === 'pair' && subs !== 0 && subs !== pubs) {
    throw new BenchError(`pair mode needs as many subscribers as publishers, or none: ${pubs} and ${subs}`);
  }
  if (pubs * subs > FLOWS_MAX && mode !== 'pair') {
    throw new BenchError(`${pubs} publishers times ${subs} subscribers is more than ${FLOWS_MAX}`);
  }
  const qos = number('qos') ?? 0;
  if (qos !== 0 && qos !== 1 && qos !== 2) throw new BenchError(`QoS is 0, 1 or 2, not ${qos}`);
  const count = number('count');
  const duration = number('duration');
  if (count !== undefined && duration !== undefined) {
    throw new BenchError('--count and --duration exclude one another');
  }
  const topic = text('topic') ?? 'bench';
  if (topic === '' || /[+#\0]/.test(topic) || topic.length > 1000) {
    throw new BenchError(`--topic is a topic name without wildcards: ${JSON.stringify(topic)}`);
  }
  const payloadBytes = number('size') ?? 64;
  const address = readAddress(text('connect'), text('host'), number('port'));
  return {
    ...address,
    protocol: protocolVersion(text('protocol', 'protocolVersion') ?? '4'),
    username: text('username', 'user'),
    password: text('password', 'pw'),
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
    literalFilters: option(command, 'literal') === true,
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

function readAddress(
  connect: string | undefined,
  host: string | undefined,
  port: number | undefined,
): { host: string; port: number } {
  if (connect === undefined) return { host: host ?? '127.0.0.1', port: port ?? 9000 };
  const match = /^(?:mqtt:\/\/)?(?:\[([^\]]+)\]|([^:/[\]]+)):(\d{1,5})\/?$/.exec(connect);
  const number = Number(match?.[3]);
  if (match === null || number < 1 || number > 65535) {
    throw new BenchError(
      `--connect is HOST:PORT, for example 127.0.0.1:9000, not ${JSON.stringify(connect)}`,
    );
  }
  return { host: match[1] ?? match[2]!, port: number };
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
