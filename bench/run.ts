// `npm run bench`: starts gomq, Mosquitto and Aedes, drives each with the same generator in turn, several rounds, then the cases of gomq
// alone, of its log on disk and of three as a cluster, and writes docs/BENCHMARKS.md. The numbers behind it go to bench/results as JSON.
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { removeAllEtcds } from '../scripts/etcd.js';
import {
  BROKER_NAMES,
  type Broker,
  type BrokerName,
  gomqVersion,
  NotInstalled,
  startBroker,
  useGomqFolder,
} from './brokers.js';
import { CASES, type Case } from './cases.js';
import { CLUSTER, measureCluster, noClusterReport } from './cluster-cases.js';
import { fileSystem, removeAllData, useDataFolder } from './disk.js';
import {
  measureAck,
  measureBacklog,
  measureOffline,
  measureSettings,
  measureTelemetry,
} from './log-cases.js';
import { type Measurement, measure } from './measure.js';
import { stopAll } from './processes.js';
import { type CaseReport, formatReport, type Report, ratioTo } from './report.js';
import { measureRestart } from './restart.js';
import { measureIdle, measureStalled, measureSubscriptions } from './special.js';
import { integer } from './table.js';

const SPECIAL = ['idle', 'subscriptions', 'stalled'] as const;
const LOG = ['ack', 'backlog', 'offline', 'restart', 'telemetry', 'settings'] as const;
const NAMES = [...CASES.map((one) => one.name), ...SPECIAL, ...LOG, ...CLUSTER];
/** For --brokers; `gomq before` comes with --before. */
const CHOICES = BROKER_NAMES.filter((name) => name !== 'gomq before');
const IDLE_CONNECTIONS = 10_000;
/** Cases of the log that take long, or differ little, are not repeated more often than this. */
const LOG_ROUNDS_MAX = 3;

/** How much there is of everything in the cases of the log and of the cluster. */
interface Amounts {
  backlogMessages: number;
  offlineMessages: number;
  restartLogBytes: number;
  restartMessages: number;
  telemetryMessages: number;
  rounds: number;
  kills: number;
  handovers: number;
  catchUpBytes: number;
}

const AMOUNTS: Amounts = {
  backlogMessages: 3_000_000,
  offlineMessages: 1_000_000,
  restartLogBytes: 10e9,
  restartMessages: 2_000_000,
  telemetryMessages: 400_000,
  rounds: LOG_ROUNDS_MAX,
  kills: 30,
  handovers: 10,
  catchUpBytes: 1e9,
};
const QUICK_AMOUNTS: Amounts = {
  backlogMessages: 1_000_000,
  offlineMessages: 1_000_000,
  restartLogBytes: 1e9,
  restartMessages: 400_000,
  telemetryMessages: 100_000,
  rounds: 1,
  kills: 10,
  handovers: 5,
  catchUpBytes: 200e6,
};

interface Options {
  rounds: number;
  quick?: true;
  only?: string[];
  brokers?: BrokerName[];
  seconds: number;
  warmup: number;
  out?: string;
  results: string;
  data: string;
  gomq: string;
  before?: string;
}

async function main(): Promise<void> {
  const program = new Command('npm run bench --')
    .description('measure gomq beside Mosquitto and Aedes, and write docs/BENCHMARKS.md')
    .option('--rounds <n>', 'rounds of every case', whole, 5)
    .option(
      '--quick',
      'two rounds of two seconds, and less in the cases of the log and of the cluster: a log of 1 GB, not 10',
    )
    .option('--only <case,case>', `some of ${NAMES.join(', ')}`, oneOf(NAMES))
    .option('--brokers <name,name>', `some of ${BROKER_NAMES.join(', ')}`, oneOf(CHOICES))
    .option('--seconds <n>', 'measured in each run', whole, 3)
    .option('--warmup <n>', 'seconds before that', whole, 1)
    .option('--out <file>', 'report (docs/BENCHMARKS.md where all cases and brokers are measured, else none)')
    .option('--results <folder>', 'where the numbers go as JSON', 'bench/results')
    .option('--data <folder>', 'where brokers keep their data meanwhile; on a real disk', '.cache/bench')
    .option('--gomq <folder>', 'the checkout of gomq to measure, which is built', '.')
    .option('--before <folder>', 'another checkout of gomq, built too, to compare with')
    .parse();
  const options = program.opts<Options>();
  const isQuick = options.quick === true;
  const chosen = <T>(name: keyof Options, given: T, quick: T): T =>
    isQuick && program.getOptionValueSource(name) === 'default' ? quick : given;
  const rounds = chosen('rounds', options.rounds, 2);
  options.seconds = chosen('seconds', options.seconds, 2);
  useDataFolder(options.data);
  useGomqFolder('gomq', options.gomq);
  if (options.before !== undefined) useGomqFolder('gomq before', options.before);
  const isChosen = (name: string) => options.only?.includes(name) ?? true;
  const cores = cpus().length;
  const report: Report = {
    date: new Date().toISOString().slice(0, 10),
    machine: {
      cpuModel: cpus()[0]?.model ?? 'unknown processors',
      cores,
      memoryGib: Math.round(totalmem() / 2 ** 30),
      kernel: release().replace(/-.*/, ''),
      node: process.versions.node,
      fileSystem: undefined,
    },
    versions: {},
    rounds,
    seconds: options.seconds,
    warmupSeconds: options.warmup,
    cases: [],
    idle: undefined,
    subscriptions: undefined,
    stalled: [],
    log: {
      ack: undefined,
      backlog: undefined,
      offline: undefined,
      restarts: [],
      telemetry: undefined,
      settings: [],
    },
    cluster: noClusterReport(),
    notes: [],
  };

  const cases = CASES.filter((one) => isChosen(one.name));
  if (cases.length > 0) await compare(report, cases, options, rounds, cores);

  const hasGomq = options.brokers?.includes('gomq') ?? true;
  if (hasGomq) {
    report.versions.gomq ??= gomqVersion();
    if (isChosen('subscriptions')) {
      await attempt(report, 'subscriptions', async () => {
        const result = await measureSubscriptions();
        report.subscriptions = result;
        return `new topic ${result.newTopicMicrosMedian.toFixed(1)} µs, known topic ${result.knownTopicMicrosMean.toFixed(2)} µs`;
      });
    }
    if (isChosen('idle')) {
      await attempt(report, 'idle', async () => {
        const result = await measureIdle('gomq', IDLE_CONNECTIONS);
        report.idle = result;
        return `${(result.bytesPerConnection / 1024).toFixed(1)} KiB a connection`;
      });
    }
    for (const qos of isChosen('stalled') ? ([0, 1] as const) : []) {
      await attempt(report, `stalled QoS ${qos}`, async () => {
        const result = await measureStalled('gomq', qos, options.seconds, rounds, cores);
        report.stalled.push(result);
        return `others ${integer(result.pacedWith)}/s with, ${integer(result.pacedWithout)}/s without; saturated ${result.saturatedRatio.toFixed(2)}x`;
      });
    }
    const amounts = isQuick ? QUICK_AMOUNTS : AMOUNTS;
    await measureLog(report, isChosen, amounts, options.seconds, Math.min(rounds, amounts.rounds), cores);
    await measureCluster(
      report.cluster,
      isChosen,
      {
        ...{ seconds: options.seconds, rounds, cores, kills: amounts.kills, handovers: amounts.handovers },
        ...{ catchUpBytes: amounts.catchUpBytes, catchUpRounds: Math.min(rounds, amounts.rounds) },
      },
      {
        attempt: (name, work) => attempt(report, name, work),
        note: (text) => note(report, text),
      },
    );
    report.machine.fileSystem = fileSystem();
  }

  mkdirSync(options.results, { recursive: true });
  const results = join(options.results, `${new Date().toISOString().replace(/[:.]/g, '-')}.json`);
  writeFileSync(results, `${JSON.stringify(report, null, 2)}\n`);
  console.log(`numbers: ${results}`);
  const isComplete = options.only === undefined && options.brokers === undefined;
  const out = options.out ?? (isComplete ? 'docs/BENCHMARKS.md' : undefined);
  if (out === undefined) {
    console.log(`\n${formatReport(report)}`);
  } else {
    writeFileSync(out, formatReport(report));
    console.log(`report: ${out}`);
  }
}

/** The cases of the log on disk. */
async function measureLog(
  report: Report,
  isChosen: (name: (typeof LOG)[number]) => boolean,
  amounts: Amounts,
  seconds: number,
  rounds: number,
  cores: number,
): Promise<void> {
  const { log } = report;
  const on = async (name: (typeof LOG)[number], work: () => Promise<string>) => {
    if (isChosen(name)) await attempt(report, name, work);
  };
  await on('ack', async () => {
    // Short, and the disk varies: as often as anything.
    log.ack = await measureAck(seconds, report.rounds, cores);
    const { ackMs, appendMs, appendRatio } = log.ack;
    return `${ackMs.toFixed(3)} ms, write and fdatasync ${appendMs.toFixed(3)} ms, ${appendRatio.toFixed(2)}x`;
  });
  await on('settings', async () => {
    log.settings = await measureSettings(seconds, rounds, cores);
    return log.settings.map((one) => `${one.title} ${integer(one.window500PerSecond)}/s`).join('; ');
  });
  await on('telemetry', async () => {
    log.telemetry = await measureTelemetry(amounts.telemetryMessages);
    const { byCodec, publishedBytes } = log.telemetry;
    return `${(publishedBytes / byCodec.zstd.storedBytes).toFixed(2)} to 1`;
  });
  await on('backlog', async () => {
    log.backlog = await measureBacklog(amounts.backlogMessages, rounds, cores);
    const { alonePerSecond, saturated, paced } = log.backlog;
    return [
      `alone ${integer(alonePerSecond)}/s`,
      `beside saturated traffic ${integer(saturated.readPerSecond)}/s, which keeps ${percent(saturated.liveRatio)}`,
      `beside paced traffic ${integer(paced.readPerSecond)}/s, which keeps ${percent(paced.liveRatio)}`,
    ].join('; ');
  });
  await on('offline', async () => {
    log.offline = await measureOffline(amounts.offlineMessages, rounds, cores);
    return `${(log.offline.growthBytes / 1e6).toFixed(1)} MB more for ${log.offline.sessions} sessions`;
  });
  for (const kind of ['plain', 'stateful'] as const) {
    await on('restart', async () => {
      const { restartLogBytes: logBytes, restartMessages: messages } = amounts;
      const result = await measureRestart({ kind, logBytes, messages, rounds, cores });
      log.restarts.push(result);
      return [
        `${kind}: ${(result.log.storedBytes / 1e9).toFixed(2)} GB, ${integer(result.log.records)} records`,
        `with a snapshot ready ${result.withSnapshot.readyMs.toFixed(0)} ms, first PUBACK ${result.withSnapshot.firstAckMs.toFixed(0)} ms`,
        `without ready ${result.withoutSnapshot.readyMs.toFixed(0)} ms, ${integer(result.replayedPerSecond)} records/s`,
      ].join('; ');
    });
  }
}

/** All brokers stay up all the time, idle while another is measured, so that every one is as warm as it gets. */
async function compare(
  report: Report,
  cases: readonly Case[],
  options: Options,
  rounds: number,
  cores: number,
): Promise<void> {
  const brokers: Broker[] = [];
  const names = new Set<BrokerName>(options.brokers ?? CHOICES);
  if (options.before !== undefined) names.add('gomq before');
  for (const name of BROKER_NAMES) {
    if (!names.has(name) || !cases.some((one) => one.brokers.includes(name))) continue;
    try {
      const broker = await startBroker(name);
      brokers.push(broker);
      report.versions[name] = broker.version;
    } catch (error) {
      if (!(error instanceof NotInstalled)) throw error;
      note(report, `${name} is left out: ${error.message}`);
    }
  }
  report.cases = cases.map((one) => ({ case: one, measurements: {}, failures: [] }));
  const bounds = ['--duration', `${options.seconds}`, '--warmup', `${options.warmup}`];
  for (let round = 0; round < rounds; round++) {
    for (const one of report.cases) {
      for (let turn = 0; turn < brokers.length; turn++) {
        const broker = brokers[(round + turn) % brokers.length]!;
        if (!one.case.brokers.includes(broker.name)) continue;
        const label = `round ${round + 1}/${rounds}  ${one.case.name.padEnd(17)} ${broker.name.padEnd(11)}`;
        const all = one.measurements[broker.name] ?? [];
        one.measurements[broker.name] = all;
        all[round] = undefined;
        try {
          const measurement = await measure(broker, [...one.case.args, ...bounds], cores);
          all[round] = measurement;
          console.log(`${label} ${line(measurement)}`);
          if (measurement.result.failure !== undefined) {
            one.failures.push(`${broker.name}: ${measurement.result.failure}`);
          }
        } catch (error) {
          const text = `${broker.name}: ${errorText(error)}`;
          one.failures.push(text);
          console.log(`${label} failed: ${text}`);
          if (broker.failure() !== undefined) {
            await broker.stop();
            brokers[brokers.indexOf(broker)] = await startBroker(broker.name);
          }
        }
      }
    }
  }
  for (const one of report.cases) printRatio(one);
  await Promise.all(brokers.map((broker) => broker.stop()));
}

function line({ result, brokerMicrosPerMessage, othersShare }: Measurement): string {
  const parts = [
    `${integer(result.deliveredPerSecond).padStart(10)}/s`,
    `p50 ${result.latencyMs.p50.toFixed(3)} ms`,
    `p99 ${result.latencyMs.p99.toFixed(3)} ms`,
    `lost ${result.lost}`,
  ];
  if (result.duplicates + result.disordered > 0) {
    parts.push(`repeated ${result.duplicates}, out of order ${result.disordered}`);
  }
  if (brokerMicrosPerMessage !== undefined)
    parts.push(`broker ${brokerMicrosPerMessage.toFixed(2)} µs/message`);
  if (othersShare !== undefined) parts.push(`others ${(othersShare * 100).toFixed(0)} % of the machine`);
  return parts.join('  ');
}

function printRatio(one: CaseReport): void {
  for (const [name, title, target] of [
    ['mosquitto', 'Mosquitto', one.case.target],
    ['gomq before', 'gomq before', one.case.beforeTarget],
  ] as const) {
    const ratio = ratioTo(name, one);
    if (ratio === undefined) continue;
    const wanted = target === undefined ? '' : `, target ${target}x`;
    console.log(`${one.case.name.padEnd(17)} gomq to ${title} ${ratio.toFixed(2)}x${wanted}`);
  }
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}

async function attempt(report: Report, name: string, work: () => Promise<string>): Promise<void> {
  try {
    console.log(`${name}: ${await work()}`);
  } catch (error) {
    note(report, `${name} was not measured: ${errorText(error)}`);
  }
}

function note(report: Report, text: string): void {
  report.notes.push(`${text}.`);
  console.log(text);
}

function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function whole(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1) throw new InvalidArgumentError('It must be a whole number above 0.');
  return value;
}

function oneOf<T extends string>(names: readonly T[]): (text: string) => T[] {
  return (text) =>
    text.split(',').map((word) => {
      const name = names.find((one) => one === word);
      if (name === undefined) throw new InvalidArgumentError(`${word} is none of ${names.join(', ')}.`);
      return name;
    });
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    console.error(`${signal}: stopping the brokers`);
    void Promise.all([stopAll(), removeAllEtcds()]).then(() => {
      removeAllData();
      process.exit(130);
    });
  });
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${errorText(error)}`);
  process.exitCode = 1;
} finally {
  await stopAll();
  await removeAllEtcds();
  removeAllData();
}
