// Owns docs/BENCHMARKS.md: what was measured, in a table, with all that is needed to judge it and to repeat it.
import { BROKER_NAMES, type BrokerName, MOSQUITTO_SETTINGS } from './brokers.js';
import type { Case } from './cases.js';
import type { ClusterReport } from './cluster-cases.js';
import { clusterHowText, clusterSection } from './cluster-report.js';
import type {
  AckResult,
  BacklogResult,
  BesideLive,
  OfflineResult,
  SettingsResult,
  TelemetryResult,
} from './log-cases.js';
import type { Measurement } from './measure.js';
import type { RestartResult } from './restart.js';
import type { IdleResult, StalledResult } from './special.js';
import { median, sum } from './statistics.js';
import type { SubscriptionsResult } from './subscriptions.js';
import { integer, table, targetCells, verdict } from './table.js';

export interface Machine {
  cpuModel: string;
  cores: number;
  memoryGib: number;
  kernel: string;
  node: string;
  /** That the data of gomq lie on; undefined where it is not known, or nothing was put there. */
  fileSystem: string | undefined;
}

export interface Report {
  date: string;
  machine: Machine;
  versions: Partial<Record<BrokerName, string>>;
  rounds: number;
  seconds: number;
  warmupSeconds: number;
  cases: CaseReport[];
  idle: IdleResult | undefined;
  subscriptions: SubscriptionsResult | undefined;
  stalled: StalledResult[];
  log: LogReport;
  cluster: ClusterReport;
  /** Why something was left out, a sentence each. */
  notes: string[];
}

/** The cases of the log on disk. */
export interface LogReport {
  ack: AckResult | undefined;
  backlog: BacklogResult | undefined;
  offline: OfflineResult | undefined;
  restarts: RestartResult[];
  telemetry: TelemetryResult | undefined;
  settings: SettingsResult[];
}

export interface CaseReport {
  case: Case;
  /** By broker, one measurement a round. A round that failed is not among them; `failures` says why. */
  measurements: Partial<Record<BrokerName, (Measurement | undefined)[]>>;
  failures: string[];
}

/** What is told about one case on one broker. */
export interface Summary {
  /** Deliveries a second, or milliseconds. */
  value: number;
  lost: number;
  duplicates: number;
  disordered: number;
  brokerMicrosPerMessage: number | undefined;
}

export function metric(of: Case, measurement: Measurement): number {
  const { result } = measurement;
  return of.metric === 'median latency' ? result.latencyMs.p50 : result.deliveredPerSecond;
}

export function summarize(report: CaseReport, name: BrokerName): Summary | undefined {
  const all = (report.measurements[name] ?? []).filter((one) => one !== undefined);
  if (all.length === 0) return undefined;
  const micros = all.map((one) => one.brokerMicrosPerMessage).filter((one) => one !== undefined);
  return {
    value: median(all.map((one) => metric(report.case, one))),
    lost: sum(all.map((one) => one.result.lost)),
    duplicates: sum(all.map((one) => one.result.duplicates)),
    disordered: sum(all.map((one) => one.result.disordered)),
    brokerMicrosPerMessage: micros.length === 0 ? undefined : median(micros),
  };
}

/** The median over the rounds of gomq's value to that of another broker in the same round; undefined where no round has both. */
export function ratioTo(other: BrokerName, report: CaseReport): number | undefined {
  const ours = report.measurements.gomq ?? [];
  const theirs = report.measurements[other] ?? [];
  const ratios = ours.flatMap((one, round) => {
    const beside = theirs[round];
    return one === undefined || beside === undefined
      ? []
      : [metric(report.case, one) / metric(report.case, beside)];
  });
  return ratios.length === 0 ? undefined : median(ratios);
}

export function formatReport(report: Report): string {
  const { machine, versions } = report;
  const known = BROKER_NAMES.filter((name) => versions[name] !== undefined);
  const named = known.filter((name) => name !== 'gomq before');
  const disk = machine.fileSystem === undefined ? '' : `, data on ${machine.fileSystem}`;
  const versionText = named.map((name) => `${title(name)} ${versions[name]}`).join(', ');
  return `${[
    '# Benchmarks',
    '<!-- Written by `npm run bench`. Change bench/report.ts, not this file. -->',
    `Measured on ${report.date} with ${versionText}, Node ${machine.node}, on ${machine.cores} cores of ${machine.cpuModel} with ` +
      `${machine.memoryGib} GiB of memory, Linux ${machine.kernel}${disk}. Clients, broker and generator share the machine and talk over ` +
      'loopback. Payloads are 64 bytes and MQTT is 3.1.1.',
    '## Against other brokers',
    `Every number is the median of ${report.rounds} rounds of ${report.seconds} seconds after ${report.warmupSeconds} of warm-up. In a round ` +
      'each case runs on each broker in turn, the order changing from round to round, and a ratio is the median of the ratios ' +
      'within the rounds, so that what else the machine does meanwhile falls on all alike.',
    throughputTable(report, named),
    latencyTable(report, named),
    costTable(report, named),
    lossText(report, known),
    ...beforeTable(report),
    ...logSection(report),
    ...clusterSection(report.cluster),
    '## gomq alone',
    specialTable(report),
    ...(report.notes.length === 0 ? [] : [report.notes.map((note) => `- ${note}`).join('\n')]),
    '## How it is measured',
    howText(report),
  ]
    .filter((part) => part !== '')
    .join('\n\n')}\n`;
}

function throughputTable(report: Report, named: BrokerName[]): string {
  const cases = report.cases.filter((one) => one.case.metric !== 'median latency');
  if (cases.length === 0) return '';
  const rows = cases.map((one) => [
    one.case.title,
    ...named.map((name) => cell(one, name, (summary) => integer(summary.value))),
    ...ratioCells(one, 'at least'),
  ]);
  const head = ['messages delivered a second', ...named.map(title), 'gomq to Mosquitto', 'target', ''];
  return table(head, rows);
}

function latencyTable(report: Report, named: BrokerName[]): string {
  const cases = report.cases.filter((one) => one.case.metric === 'median latency');
  if (cases.length === 0) return '';
  const rows = cases.map((one) => [
    one.case.title,
    ...named.map((name) => cell(one, name, (summary) => `${summary.value.toFixed(3)} ms`)),
    ...ratioCells(one, 'at most'),
  ]);
  return table(['median latency', ...named.map(title), 'gomq to Mosquitto', 'target', ''], rows);
}

function costTable(report: Report, named: BrokerName[]): string {
  const cases = report.cases.filter((one) => one.case.metric !== 'median latency');
  const rows = cases.map((one) => [
    one.case.title,
    ...named.map((name) =>
      cell(one, name, ({ brokerMicrosPerMessage: micros }) =>
        micros === undefined ? '' : `${micros.toFixed(2)} µs`,
      ),
    ),
  ]);
  if (rows.length === 0) return '';
  return [
    'Processor time of the broker for each message that comes in or goes out:',
    table(['processor time a message', ...named.map(title)], rows),
  ].join('\n\n');
}

function lossText(report: Report, named: BrokerName[]): string {
  const lines: string[] = [];
  for (const one of report.cases) {
    for (const name of named) {
      const summary = summarize(one, name);
      if (summary === undefined || summary.lost + summary.duplicates + summary.disordered === 0) continue;
      lines.push(
        `- ${title(name)}, ${one.case.title}: ${integer(summary.lost)} lost, ${integer(summary.duplicates)} repeated, ` +
          `${integer(summary.disordered)} out of order.`,
      );
    }
    for (const failure of one.failures) lines.push(`- ${one.case.title}: ${failure}.`);
  }
  if (lines.length === 0) return 'Nothing was lost, repeated or out of order on any broker.';
  return lines.join('\n');
}

function beforeTable(report: Report): string[] {
  const rows = report.cases.flatMap(({ case: of, ...rest }) => {
    const one = { case: of, ...rest };
    const ratio = ratioTo('gomq before', one);
    if (ratio === undefined) return [];
    const isLatency = of.metric === 'median latency';
    const text = ({ value }: Summary) => (isLatency ? `${value.toFixed(3)} ms` : integer(value));
    const cells = [cell(one, 'gomq', text), cell(one, 'gomq before', text), `${ratio.toFixed(2)}x`];
    return [[of.title, ...cells, ...targetCells(ratio, of.beforeTarget, isLatency ? 'at most' : 'at least')]];
  });
  if (rows.length === 0) return [];
  return [
    '## Against an earlier gomq',
    `gomq ${report.versions['gomq before']}, in the same rounds: messages delivered a second, or median latency.`,
    table(['', 'gomq', 'before', 'gomq to before', 'target', ''], rows),
  ];
}

function logSection({ log }: Report): string[] {
  const { ack, backlog, offline, restarts, telemetry, settings } = log;
  const rows = [
    ...(ack === undefined ? [] : ackRows(ack)),
    ...(backlog === undefined ? [] : backlogRows(backlog)),
    ...restarts.flatMap(restartRows),
    ...(offline === undefined ? [] : offlineRows(offline)),
  ];
  const parts: string[] = [];
  if (rows.length > 0) parts.push(table(['case', 'measured', 'target', ''], rows));
  if (telemetry !== undefined) parts.push(telemetryText(telemetry));
  if (settings.length > 0) {
    const head = ['QoS 1, four to four, messages delivered a second', 'window 500', 'window 100'];
    const cells = settings.map((one) => [
      one.title,
      integer(one.window500PerSecond),
      integer(one.window100PerSecond),
    ]);
    parts.push('What each setting of the log costs:', table(head, cells));
  }
  return parts.length === 0 ? [] : ['## The log on disk', ...parts];
}

function ackRows(ack: AckResult): string[][] {
  const name = 'One publisher, window 1: publish to PUBACK, median';
  const ms = `${ack.ackMs.toFixed(3)} ms`;
  return [
    [
      `${name}, to one write and fdatasync of the same ${ack.storedBytes} bytes`,
      `${ms} to ${ack.appendMs.toFixed(3)} ms: ${ack.appendRatio.toFixed(2)}x`,
      ...targetCells(ack.appendRatio, 1.5, 'at most'),
    ],
    [
      `${name}, where the write is over zeros that are on disk already, as gomq's own`,
      `${ms} to ${ack.overwriteMs.toFixed(3)} ms: ${ack.overwriteRatio.toFixed(2)}x`,
      ...targetCells(ack.overwriteRatio, undefined, 'at most'),
    ],
  ];
}

const BACKLOG_TARGET = 300_000;
const LIVE_TARGET = 0.8;

function backlogRows(backlog: BacklogResult): string[][] {
  const name = `A session returns to ${integer(backlog.messages)} messages`;
  const beside = (what: string, live: BesideLive) => [
    [
      `${name}: reads, beside ${what}`,
      `${integer(live.readPerSecond)}/s`,
      ...rateCells(live.readPerSecond, BACKLOG_TARGET),
    ],
    [
      `${name}: what ${what} keeps`,
      `${integer(live.livePerSecondWith)}/s of ${integer(live.livePerSecondWithout)}/s: ${(live.liveRatio * 100).toFixed(0)} %`,
      `at least ${LIVE_TARGET * 100} %`,
      verdict(live.liveRatio, LIVE_TARGET, 'at least'),
    ],
  ];
  return [
    [
      `${name}: reads, alone`,
      `${integer(backlog.alonePerSecond)}/s`,
      ...rateCells(backlog.alonePerSecond, BACKLOG_TARGET),
    ],
    ...beside('traffic as fast as it goes', backlog.saturated),
    ...beside('traffic at a fixed rate', backlog.paced),
  ];
}

const READY_TARGET_MS = 2000;
const REPLAY_TARGET = 300_000;

function restartRows(restart: RestartResult): string[][] {
  const { log, withSnapshot, withoutSnapshot } = restart;
  const gigabytes = (log.storedBytes / 1e9).toFixed(log.storedBytes < 1e9 ? 2 : 1);
  const what = restart.kind === 'plain' ? 'QoS 1' : 'half retained, half QoS 2 with its states';
  const name = `Restart on ${gigabytes} GB, ${integer(log.records)} records (${what})`;
  const readyTarget = restart.kind === 'plain' ? READY_TARGET_MS : undefined;
  return [
    [
      `${name} after kill -9, with a snapshot: first PUBACK`,
      `${seconds(withSnapshot.firstAckMs)} (ready ${seconds(withSnapshot.readyMs)}, with nothing to read ${seconds(restart.emptyReadyMs)})`,
      readyTarget === undefined ? '' : `at most ${seconds(readyTarget)}`,
      readyTarget === undefined ? '' : verdict(withSnapshot.firstAckMs, readyTarget, 'at most'),
    ],
    [
      `${name}, without a snapshot: records replayed`,
      `${integer(restart.replayedPerSecond)}/s (ready ${seconds(withoutSnapshot.readyMs)})`,
      ...rateCells(restart.replayedPerSecond, REPLAY_TARGET),
    ],
  ];
}

const OFFLINE_TARGET_BYTES = 100e6;

function offlineRows(offline: OfflineResult): string[][] {
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
  return [
    [
      `${integer(offline.messages)} messages wait for each of ${integer(offline.sessions)} offline sessions: resident memory`,
      `${mb(offline.bytesForAll)}, for one session ${mb(offline.bytesForOne)}: ${mb(offline.growthBytes)} more`,
      `below ${mb(OFFLINE_TARGET_BYTES)} more`,
      // Where it is less than for one there is nothing to compare.
      verdict(Math.max(0, offline.growthBytes), OFFLINE_TARGET_BYTES, 'at most'),
    ],
  ];
}

function telemetryText(telemetry: TelemetryResult): string {
  const { byCodec, publishedBytes, messages } = telemetry;
  const rows = (['zstd', 'none'] as const).map((codec) => {
    const run = byCodec[codec];
    return [
      codec,
      `${(run.storedBytes / 1e6).toFixed(1)} MB`,
      `${(publishedBytes / run.storedBytes).toFixed(2)} to 1`,
      `${(run.batchBytesMean / 1000).toFixed(0)} kB`,
      `${(publishedBytes / 1e6 / run.seconds).toFixed(0)} MB/s`,
      integer(messages / run.seconds),
    ];
  });
  const head = [
    'log.compression',
    'stored',
    'published to stored',
    'mean batch before it is compressed',
    'published',
    'messages a second',
  ];
  return [
    `JSON telemetry, ${integer(messages)} messages of QoS 1, ${(publishedBytes / 1e6).toFixed(1)} MB of topics and payloads such as ` +
      `\`${telemetry.exampleTopic}\` and \`${telemetry.examplePayload}\`:`,
    table(head, rows),
  ].join('\n\n');
}

function rateCells(value: number, target: number): string[] {
  return [`at least ${integer(target)}/s`, verdict(value, target, 'at least')];
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function specialTable(report: Report): string {
  const rows: string[][] = [];
  const { idle, subscriptions } = report;
  if (idle !== undefined) {
    const kib = idle.bytesPerConnection / 1024;
    rows.push([
      `${integer(idle.connections)} idle connections: resident memory each`,
      `${kib.toFixed(1)} KiB (${mib(idle.bytesBefore)} before, ${mib(idle.bytesAfter)} after)`,
      '12 KiB',
      verdict(kib, 12, 'at most'),
    ]);
  }
  if (subscriptions !== undefined) {
    const shape = `${integer(subscriptions.subscriptions)} subscriptions over ${integer(subscriptions.filters)} filters`;
    rows.push([
      `${shape}: publish to a new topic`,
      `${subscriptions.newTopicMicrosMedian.toFixed(1)} µs median, ${subscriptions.newTopicMicrosMean.toFixed(1)} µs mean ` +
        `(${subscriptions.matchesMean.toFixed(0)} subscriptions match)`,
      '20 µs',
      verdict(subscriptions.newTopicMicrosMedian, 20, 'at most'),
    ]);
    rows.push([
      `${shape}: publish to a known topic`,
      `${subscriptions.knownTopicMicrosMean.toFixed(2)} µs mean`,
      '1 µs',
      verdict(subscriptions.knownTopicMicrosMean, 1, 'at most'),
    ]);
  }
  for (const stalled of report.stalled) {
    const name = `QoS ${stalled.qos}, one of eleven subscribers stops reading`;
    const growth = stalled.residentBytesWith - stalled.residentBytesWithout;
    rows.push([
      `${name}: the others at 100,000 messages/s`,
      `${integer(stalled.pacedWith)}/s with, ${integer(stalled.pacedWithout)}/s without; p99 ` +
        `${stalled.latencyP99MsWith.toFixed(2)} ms with, ${stalled.latencyP99MsWithout.toFixed(2)} ms without; ${integer(stalled.lost)} lost`,
      'no slower',
      verdict(stalled.pacedWith / stalled.pacedWithout, 0.99, 'at least'),
    ]);
    rows.push([
      `${name}: the others as fast as it goes, with to without`,
      `${stalled.saturatedRatio.toFixed(2)}x`,
      '0.95x',
      verdict(stalled.saturatedRatio, 0.95, 'at least'),
    ]);
    rows.push([
      `${name}: resident memory`,
      `${mib(stalled.residentBytesWith)} with, ${mib(stalled.residentBytesWithout)} without; bound ${mib(stalled.boundBytes)}`,
      `growth within the bound`,
      // A heap's working size differs from run to run by more than a small bound.
      verdict(growth, stalled.boundBytes + RESIDENT_NOISE_BYTES, 'at most'),
    ]);
  }
  return rows.length === 0 ? 'Not measured in this run.' : table(['case', 'measured', 'target', ''], rows);
}

/** How much the resident memory of one Node process varies between two equal runs. */
const RESIDENT_NOISE_BYTES = 16 * 1024 * 1024;

function howText(report: Report): string {
  const others = report.cases.flatMap((one) =>
    Object.values(one.measurements).flatMap((all) => all.flatMap((each) => each?.othersShare ?? [])),
  );
  const othersText =
    others.length === 0
      ? ''
      : ` Meanwhile the median share of the machine that other processes used was ${(median(others) * 100).toFixed(0)} %.`;
  return [
    `    npm ci && npm run build\n    npm run bench                                   # all of it, ${report.rounds} rounds\n` +
      '    npm run bench -- --quick                        # two rounds, and a log of 1 GB\n' +
      '    npm run bench -- --only qos0-4-4,idle --brokers gomq,mosquitto\n' +
      '    npm run bench -- --before ../gomq-before        # beside another version, which is built',
    `- The generator is \`gomqctl bench\`: one process for publishers and subscribers, whose own cost is a small part of any broker's. It
  writes as many messages at once as its window has room for, at least a tenth of it, as a client under load does, and reads as many as there
  are; a broker that reads or writes them one by one pays for that. It counts every loss, repetition and disorder by sequence number. \`gomqctl bench --help\` repeats any case by hand against any broker.`,
    `- QoS 0 is flow-controlled by the generator: no subscriber is more than 512 KiB, and no publisher more than 1,000 messages, behind, so that
  throughput is of messages that arrive, not of messages that are dropped. QoS 1 and 2: at most as many unacknowledged publishes per
  publisher as the window says.`,
    `- Each publisher keeps to one topic, so its QoS 0 packets lie one behind the other, and gomq hands such a run on in one piece. A publisher that
  changes its topic with every message makes each run one packet long; that case is not measured here.`,
    `- Latency is counted from the moment a message was due, at 2,000 evenly spaced messages a second, to its arrival in the same process.`,
    `- gomq runs with its defaults, from \`npm run build\`: every acknowledgement of QoS 1 and 2 waits for an fdatasync. Its data lie in a folder of
  their own that is removed afterwards. Mosquitto runs with \`${MOSQUITTO_SETTINGS.join('`, `')}\`: with its default
  limits on messages in flight and queued it loses messages under this load. Aedes runs with its defaults. These two keep messages in memory only, so the
  comparison is of gomq on disk with them in memory. A durable session is one of clean session 0; its subscriber stays connected.`,
    `- One write and fdatasync is measured in the same rounds, by one process alone, on the same file system. The first is a plain append to a
  file; gomq itself writes over zeros it has put on disk before, so the second is what its own disk work takes.`,
    `- The session that returns is of clean session 0 and MQTT 3.1.1, so gomq has at most \`mqtt.inflightMaximum\` messages in flight to it. It reads
  in a process of its own; live traffic is QoS 1, four to four, other topics, and its throughput while the session reads is compared with that
  before and after in the same run. As fast as it goes, with a window of 100, live traffic takes all of both processors, so that the reader's
  own process takes from it too; at the fixed rate of 50,000 messages a second it does not.`,
    `- Restarts: the broker is filled by the generator, killed with SIGKILL once a snapshot is there, started, asked for one PUBACK and killed
  again. The time counts from starting the process, and the median of up to three is told; what was written last is still in the page cache. The
  rate of a replay is over all records of the log, and the time that the start of an empty broker takes is taken off (what is left counts as a
  tenth of a second at least). There are 1,000 sessions
  with two subscriptions each and 10,000 retained messages. QoS 1 publishes are of 4 KiB of random bytes, the others of 64.`,
    `- Offline sessions all subscribe to the same topics, so that every message waits for each of them; afterwards one of them reads all.`,
    `- Idle connections have sent CONNECT and nothing since. Memory is the resident set of the broker process before and after, each after
  five seconds of rest.`,
    `- The subscriptions are held by the router alone, in a process of its own. 60 % of the filters name one topic, 30 % have \`+\` in one or
  two levels, 10 % end with \`#\`; ten subscriptions each. A publish looks its topic up by its bytes, and where it is new reads, checks,
  interns and matches it.`,
    `- The subscriber that stops reading subscribes to everything the other ten do. Two bounds hold it: \`limits.outboxBytes\` (1 MiB) at QoS 0,
  and at QoS 1 \`log.cacheBytes\` too, 64 MiB: what it has not read waits on disk. Memory is the largest resident set seen; 16 MiB of difference
  are within what two equal runs show.${othersText}`,
    ...clusterHowText(),
  ].join('\n\n');
}

function ratioCells(one: CaseReport, direction: 'at least' | 'at most'): string[] {
  const ratio = ratioTo('mosquitto', one);
  const cells = targetCells(ratio, one.case.target, direction);
  return [ratio === undefined ? '' : `${ratio.toFixed(2)}x`, ...cells];
}

function cell(one: CaseReport, name: BrokerName, text: (summary: Summary) => string): string {
  if (!one.case.brokers.includes(name)) return '';
  const summary = summarize(one, name);
  return summary === undefined ? 'failed' : text(summary);
}

function title(name: BrokerName): string {
  return name === 'mosquitto' ? 'Mosquitto' : name === 'aedes' ? 'Aedes' : name;
}

function mib(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(0)} MiB`;
}
