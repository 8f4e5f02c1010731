// Owns the command line of `gomqctl verify`: reads and checks the options, runs, prints, and sets the exit status.
import { Command, InvalidArgumentError, Option } from 'commander';
import { validateTopicName } from '../src/router/topic-name.js';
import { type Address, DEFAULT_HOST, DEFAULT_PORT, parseAddress } from './address.js';
import { parseBrokers } from './brokers.js';
import { findBrokers } from './discovery.js';
import { EXIT, Failure } from './failure.js';
import type { Io } from './io.js';
import { addTlsOptions, parseSeconds, readFile, type Tls } from './options.js';
import { findings, formatProgress, formatTable, notices } from './verify-report.js';
import { runVerify, type VerifyOptions, type VerifyProgress } from './verify-run.js';

interface CommandOptions {
  connect?: string;
  username?: string;
  password?: string;
  seconds: number;
  rate: number;
  publishers: number;
  subscribers: number;
  window: number;
  topic: string;
  timeout: number;
  cafile?: string;
  cert?: string;
  key?: string;
  insecure?: boolean;
  json?: boolean;
  quiet?: boolean;
}

const PROGRESS_TERMINAL_MS = 200;
const PROGRESS_JSON_MS = 1000;

const EXAMPLES = `
Examples:
  gomqctl verify --connect 127.0.0.1:9000
  gomqctl verify --connect a:9000,b:9000,c:9000 --seconds 60 --rate 1000
  gomqctl verify --connect a:9000,b:9000,c:9000 --json | tail -1

Kill, freeze and start brokers while it runs: what they acknowledged must arrive, QoS 2 once, and in order.
Exit status: 0; 1 when the brokers broke that, or for errors; 27 when messages were never acknowledged; 130 when interrupted.`;

export function verifyCommand(io: Io, exit: (code: number) => void): Command {
  const command = new Command('verify')
    .description('check that a cluster loses, repeats and reorders nothing while its brokers fail')
    .option('--connect <address>', `brokers, with commas between (default: ${DEFAULT_HOST}:${DEFAULT_PORT})`)
    .option('-u, --username <name>', 'user name')
    .option('-P, --password <password>', 'password')
    .addOption(new Option('--seconds <seconds>', 'publish so long').argParser(parseSeconds).default(30))
    .addOption(number('--rate <n>', 'messages per second in total', 1, 100_000).default(200))
    .addOption(number('--publishers <n>', 'publishers, each at QoS 1 and 2', 1, 1000).default(4))
    .addOption(number('--subscribers <n>', 'subscribers, each of everything', 1, 1000).default(2))
    .addOption(number('--window <n>', 'unacknowledged messages of one publisher', 1, 10_000).default(100))
    .option('-t, --topic <prefix>', 'topics begin with this and a random word', 'gomqctl-verify')
    .addOption(
      new Option('--timeout <seconds>', 'what did not come so long after the last movement is lost')
        .argParser(parseSeconds)
        .default(20),
    );
  addTlsOptions(command)
    .optionsGroup('Output:')
    .option('--json', 'one JSON object a second and one at the end, each on a line of stdout')
    .option('--quiet', 'no progress, errors or notices on stderr')
    .addHelpText('after', EXAMPLES);
  command.action(async (options: CommandOptions) => {
    exit(await verify(options, io));
  });
  return command;
}

async function verify(options: CommandOptions, io: Io): Promise<number> {
  const settings = await readOptions(options, io);
  const showsLine = io.stderr.isTTY === true && !options.quiet && !options.json;
  const columns = io.stderr.columns ?? 80;
  const onProgress = options.json
    ? (progress: VerifyProgress) => io.stdout.write(`${JSON.stringify({ type: 'progress', ...progress })}\n`)
    : (progress: VerifyProgress) => io.stderr.write(`\r\x1b[K${formatProgress(progress, columns)}`);
  const result = await runVerify(settings, {
    signal: io.signal,
    progressEveryMs: options.json ? PROGRESS_JSON_MS : PROGRESS_TERMINAL_MS,
    onProgress: showsLine || options.json ? onProgress : undefined,
  }).finally(() => {
    if (showsLine) io.stderr.write('\r\x1b[K');
  });
  const found = findings(result);
  const text = options.json
    ? JSON.stringify({ type: 'result', ok: found.length === 0, ...result })
    : formatTable(result);
  // The process may end as soon as this command does, so what it prints must have left.
  await new Promise<void>((resolve) => io.stdout.write(`${text}\n`, () => resolve()));
  if (!options.quiet) {
    const lines = [...found, ...result.examples, ...notices(result)];
    for (const line of lines) io.stderr.write(`gomqctl verify: ${line}\n`);
  }
  if (found.length > 0) return EXIT.error;
  if (result.interrupted) return EXIT.interrupted;
  return result.unacknowledged > 0 ? EXIT.timeout : EXIT.ok;
}

/** @throws {Failure} */
async function readOptions(options: CommandOptions, io: Io): Promise<VerifyOptions> {
  const { seconds, rate, publishers, subscribers, window, topic, timeout } = options;
  const reason = validateTopicName(topic);
  if (reason !== undefined) throw new Failure(`--topic "${topic}": ${reason}`);
  const tls = readTls(options);
  const brokers = await readBrokers(options, io);
  const username = options.username ?? brokers[0]!.username ?? (io.env.GOMQ_USER || undefined);
  const password = options.password ?? brokers[0]!.password ?? (io.env.GOMQ_PASSWORD || undefined);
  if (options.password !== undefined && username === undefined) {
    throw new Failure('a password without a user name; add --username NAME or set GOMQ_USER');
  }
  return {
    brokers,
    tls,
    username,
    password: username === undefined ? undefined : password,
    seconds,
    rate,
    publishers,
    subscribers,
    window,
    topic,
    patienceSeconds: timeout,
  };
}

function readTls({ cafile, cert, key, insecure }: CommandOptions): Tls {
  if ((cert === undefined) !== (key === undefined))
    throw new Failure('--cert and --key belong together; give both');
  const tls: Tls = { insecure: insecure === true };
  if (cafile !== undefined) tls.ca = readFile('--cafile', cafile);
  if (cert !== undefined) tls.cert = readFile('--cert', cert);
  if (key !== undefined) tls.key = readFile('--key', key);
  return tls;
}

/** @throws {Failure} where they are to be found, and nobody knows any */
async function readBrokers(options: CommandOptions, io: Io): Promise<Address[]> {
  const text = options.connect ?? (io.env.GOMQ_URL || `${DEFAULT_HOST}:${DEFAULT_PORT}`);
  const wantsTls = options.cafile !== undefined || options.cert !== undefined;
  const { addresses, discovery } = parseBrokers(text);
  if (discovery?.kind === 'http' && io.env.GOMQ_TOKEN) discovery.token = io.env.GOMQ_TOKEN;
  const found = discovery === undefined ? [] : await findBrokers(discovery, io.signal);
  return [...addresses, ...found.map((one) => parseAddress(one))].map((address) => {
    if (address.scheme === 'ws' || address.scheme === 'wss') {
      throw new Failure(`verify speaks MQTT over TCP and TLS, not ${address.scheme}://`);
    }
    return wantsTls ? { ...address, scheme: 'mqtts' as const } : address;
  });
}

function number(flags: string, description: string, min: number, max: number): Option {
  return new Option(flags, description).argParser((text: string) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  });
}
