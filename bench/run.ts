// `npm run bench`: starts gomq, Mosquitto and Aedes, drives each with the same generator in turn, several rounds, then the cases of gomq
// alone, and writes docs/BENCHMARKS.md. The numbers behind it go to bench/results as JSON.
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { BROKER_NAMES, type Broker, type BrokerName, NotInstalled, startBroker } from './brokers.js';
import { CASES, type Case } from './cases.js';
import { type Measurement, measure } from './measure.js';
import { stopAll } from './processes.js';
import { type CaseReport, formatReport, integer, type Report, ratioToMosquitto } from './report.js';
import { measureIdle, measureStalled, measureSubscriptions } from './special.js';

const SPECIAL = ['idle', 'subscriptions', 'stalled'] as const;
const NAMES = [...CASES.map((one) => one.name), ...SPECIAL];
const IDLE_CONNECTIONS = 10_000;

interface Options {
  rounds: number;
  quick?: true;
  only?: string[];
  brokers?: BrokerName[];
  seconds: number;
  warmup: number;
  out?: string;
  results: string;
}

async function main(): Promise<void> {
  const program = new Command('npm run bench --')
    .description('measure gomq beside Mosquitto and Aedes, and write docs/BENCHMARKS.md')
    .option('--rounds <n>', 'rounds of every case', whole, 5)
    .option('--quick', 'two rounds')
    .option('--only <case,case>', `some of ${NAMES.join(', ')}`, oneOf(NAMES))
    .option('--brokers <name,name>', `some of ${BROKER_NAMES.join(', ')}`, oneOf(BROKER_NAMES))
    .option('--seconds <n>', 'measured in each run', whole, 3)
    .option('--warmup <n>', 'seconds before that', whole, 1)
    .option('--out <file>', 'report (docs/BENCHMARKS.md where all cases and brokers are measured, else none)')
    .option('--results <folder>', 'where the numbers go as JSON', 'bench/results')
    .parse();
  const options = program.opts<Options>();
  const rounds = options.quick === true ? 2 : options.rounds;
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
    },
    versions: {},
    rounds,
    seconds: options.seconds,
    warmupSeconds: options.warmup,
    cases: [],
    idle: undefined,
    subscriptions: undefined,
    stalled: [],
    notes: [],
  };

  const cases = CASES.filter((one) => isChosen(one.name));
  if (cases.length > 0) await compare(report, cases, options, rounds, cores);

  const hasGomq = options.brokers?.includes('gomq') ?? true;
  if (hasGomq) {
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

/** All brokers stay up all the time, idle while another is measured, so that every one is as warm as it gets. */
async function compare(
  report: Report,
  cases: readonly Case[],
  options: Options,
  rounds: number,
  cores: number,
): Promise<void> {
  const brokers: Broker[] = [];
  for (const name of options.brokers ?? BROKER_NAMES) {
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
        const label = `round ${round + 1}/${rounds}  ${one.case.name.padEnd(13)} ${broker.name.padEnd(10)}`;
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
          if (broker.failure() !== undefined)
            brokers[brokers.indexOf(broker)] = await startBroker(broker.name);
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
  const ratio = ratioToMosquitto(one);
  if (ratio !== undefined) {
    console.log(
      `${one.case.name.padEnd(13)} gomq to Mosquitto ${ratio.toFixed(2)}x, target ${one.case.target}x`,
    );
  }
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
    void stopAll().then(() => process.exit(130));
  });
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${errorText(error)}`);
  process.exitCode = 1;
} finally {
  await stopAll();
}
