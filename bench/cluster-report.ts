// Owns the section of the report about three replicas.
import type {
  CatchUpResult,
  ClusterReport,
  Contender,
  FailoverResult,
  LatencyPair,
  ThroughputResult,
} from './cluster-cases.js';
import { median, medianRatio, percentile } from './statistics.js';
import { integer, table, targetCells, verdict } from './table.js';

const NAMES: Record<Exclude<Contender, 'cluster'>, string> = {
  mosquitto: 'Mosquitto, in memory',
  nats: 'three NATS',
  alone: 'gomq alone',
};
const ACK_TARGET = 2;
const FIRST_ACK_TARGET_MS = { kill: 300, handover: 100 };
const GAP_TARGET_MS = 1000;
const CATCH_UP_TARGET = 100;

/** Nothing where no case of it was measured. */
export function clusterSection(cluster: ClusterReport): string[] {
  const { throughput, ack, member, kill, handover, catchUp, loads, versions } = cluster;
  const rows = [
    ...throughput.flatMap(throughputRows),
    ...(ack === undefined ? [] : pairRows('the leader of three, to gomq alone', ack)),
    ...(member === undefined ? [] : pairRows('through a member, to the leader', member)),
    ...(kill === undefined ? [] : failoverRows('The leader is killed', kill, FIRST_ACK_TARGET_MS.kill)),
    ...(handover === undefined
      ? []
      : failoverRows('The leader is stopped', handover, FIRST_ACK_TARGET_MS.handover)),
    ...(catchUp === undefined ? [] : catchUpRows(catchUp)),
  ];
  if (rows.length === 0) return [];
  const named = [
    ...(versions.mosquitto === undefined ? [] : [`Mosquitto ${versions.mosquitto}`]),
    ...(versions.nats === undefined ? [] : [`NATS ${versions.nats}`]),
  ];
  const beside = named.length === 0 ? '' : ` Beside it: ${named.join(', ')}.`;
  const load =
    loads.length === 0
      ? ''
      : ` The load average was ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}, what is measured included.`;
  const missed = rows.filter((cells) => cells[3]!.startsWith('missed'));
  return [
    '## The cluster',
    `Three gomq with an etcd, all on this one machine: three processes write what elsewhere one does, on the same disk and processors.${beside}${load}`,
    table(['case', 'measured', 'target', ''], rows),
    missed.length === 0
      ? ''
      : [
          'Missed:',
          missed.map(([name, measured, target]) => `- ${name}: ${measured}; ${target}.`).join('\n'),
        ].join('\n\n'),
  ];
}

function throughputRows({ title, targets, perSecond }: ThroughputResult): string[][] {
  const ours = perSecond.cluster ?? [];
  return (['mosquitto', 'nats', 'alone'] as const).flatMap((name) => {
    const theirs = perSecond[name] ?? [];
    const ratio = medianRatio(ours, theirs);
    if (ratio === undefined) return [];
    return [
      [
        `${title}, four to four: delivered, to ${NAMES[name]}`,
        `${rate(ours)} to ${rate(theirs)}: ${ratio.toFixed(2)}x`,
        ...targetCells(ratio, targets[name], 'at least'),
      ],
    ];
  });
}

function rate(rates: readonly (number | undefined)[]): string {
  return `${integer(median(rates.filter((one) => one !== undefined)))}/s`;
}

function pairRows(what: string, { ackMs, otherMs }: LatencyPair): string[][] {
  const ratio = medianRatio(ackMs, otherMs);
  if (ratio === undefined) return [];
  return [
    [
      `One publisher, window 1: publish to PUBACK, median, ${what}`,
      `${median(ackMs).toFixed(3)} ms to ${median(otherMs).toFixed(3)} ms: ${ratio.toFixed(2)}x`,
      ...targetCells(ratio, ACK_TARGET, 'at most'),
    ],
  ];
}

function failoverRows(what: string, result: FailoverResult, firstAckTargetMs: number): string[][] {
  const { firstAckMs, servesMs, gapMs, backMs } = result;
  const name = `${what}, ${firstAckMs.length} times`;
  return [
    [
      `${name}: to the first PUBACK of the next`,
      `${spread(firstAckMs)} (it serves after ${median(servesMs).toFixed(0)} ms)`,
      ...msCells(firstAckMs, firstAckTargetMs),
    ],
    [
      `${name}: the longest time that a client is not answered`,
      `${spread(gapMs)} (the node is back after ${median(backMs).toFixed(0)} ms)`,
      ...msCells(gapMs, GAP_TARGET_MS),
    ],
  ];
}

function spread(values: readonly number[]): string {
  const [p50, p99, max] = [median(values), percentile(values, 0.99), Math.max(...values)];
  return `median ${p50.toFixed(0)} ms, p99 ${p99.toFixed(0)} ms, max ${max.toFixed(0)} ms`;
}

function msCells(values: readonly number[], targetMs: number): string[] {
  return [`p99 at most ${integer(targetMs)} ms`, verdict(percentile(values, 0.99), targetMs, 'at most')];
}

function catchUpRows({ storedBytes, megabytesPerSecond }: CatchUpResult): string[][] {
  const rate = median(megabytesPerSecond);
  return [
    [
      `A node was away for ${(storedBytes / 1e6).toFixed(0)} MB of log: from following to in sync`,
      `${rate.toFixed(0)} MB/s`,
      `at least ${CATCH_UP_TARGET} MB/s`,
      verdict(rate, CATCH_UP_TARGET, 'at least'),
    ],
  ];
}

export function clusterHowText(): string[] {
  return [
    `- The cluster: every acknowledgement waits for an fdatasync on all three nodes that are in sync; a run in which one leaves is not counted.
  Clients connect to the leader unless a member is named. The NATS servers have JetStream with file storage and \`mqtt { stream_replicas: 3 }\`, with
  \`max_ack_pending\` at its largest, and are asked through the server that leads the stream of MQTT messages; they call fsync every two minutes, as
  is their default. gomq alone and Mosquitto are as above.`,
    `- The leader that goes: one publisher of QoS 1 at each of the other two nodes, one message in flight each, back at once where its connection breaks. It is killed
  with SIGKILL, or stopped with SIGTERM, at a random moment. The first PUBACK of the next leader is the first on any connection begun after the signal. The longest
  time without an answer is that between two PUBACKs of one publisher, until the node that went is started again and in sync. With 100 times or fewer the p99 is the maximum.`,
    `- The node that was away was stopped; meanwhile messages of 10 kB of random bytes were published, which no codec makes smaller. The time counts from its line
  "follows the leader" to the leader's that it is in sync. The leader has what it sends in the page cache.`,
  ];
}
