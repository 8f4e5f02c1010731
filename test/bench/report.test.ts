import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CASES, type Case } from '../../bench/cases.js';
import { noClusterReport } from '../../bench/cluster-cases.js';
import type { Measurement } from '../../bench/measure.js';
import { type CaseReport, formatReport, type Report, ratioTo } from '../../bench/report.js';
import { median, percentile } from '../../bench/statistics.js';
import { verdict } from '../../bench/table.js';
import type { BenchResult } from '../../cli/bench/run.js';

function measured(deliveredPerSecond: number, p50: number, lost = 0): Measurement {
  const result = {
    deliveredPerSecond,
    lost,
    duplicates: 0,
    disordered: 0,
    latencyMs: { p50 },
  } as BenchResult;
  return { result, brokerMicrosPerMessage: 0.5, othersShare: 0.1, residentBytesMax: undefined };
}

function caseReport(of: Case, gomq: (Measurement | undefined)[], mosquitto: Measurement[]): CaseReport {
  return { case: of, measurements: { gomq, mosquitto }, failures: [] };
}

const throughput = CASES.find((one) => one.name === 'qos0-4-4')!;
const latency = CASES.find((one) => one.name === 'latency-qos1')!;

const report: Report = {
  date: '2026-01-02',
  machine: {
    cpuModel: 'a processor',
    cores: 2,
    memoryGib: 8,
    kernel: '6.1',
    node: '20.19.0',
    fileSystem: 'ext4',
  },
  versions: { gomq: '1.2.3', mosquitto: '2.0.11' },
  rounds: 3,
  seconds: 3,
  warmupSeconds: 1,
  cases: [
    caseReport(
      throughput,
      [measured(1_200_000, 1), undefined, measured(600_000, 1)],
      [measured(100_000, 1), measured(100_000, 1), measured(150_000, 1, 7)],
    ),
    caseReport(latency, [measured(2000, 0.2)], [measured(2000, 0.1)]),
  ],
  idle: { connections: 10_000, bytesBefore: 1e8, bytesAfter: 3e8, bytesPerConnection: 2e4 },
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
  notes: ['aedes is left out: aedes is not installed: npm ci.'],
};

test('the median of the rounds that have both brokers', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.ok(Number.isNaN(median([])));
  assert.equal(percentile([3, 1, 2], 0.99), 3);
  assert.equal(
    percentile(
      Array.from({ length: 200 }, (_, at) => at),
      0.99,
    ),
    197,
  );
  assert.equal(ratioTo('mosquitto', report.cases[0]!), 8, '12x and 4x; the failed round counts for nothing');
  assert.equal(ratioTo('mosquitto', caseReport(throughput, [], [measured(1, 1)])), undefined);
});

test('a verdict says by how much', () => {
  assert.equal(verdict(6, 6, 'at least'), 'met');
  assert.equal(verdict(5.4, 6, 'at least'), 'missed by 10 %');
  assert.equal(verdict(1.5, 1.5, 'at most'), 'met');
  assert.equal(verdict(1.501, 1.5, 'at most'), 'missed by 1 %');
});

test('the report names machine, versions, medians, ratios, targets, losses and notes', () => {
  const text = formatReport(report);
  for (const part of [
    'Measured on 2026-01-02 with gomq 1.2.3, Mosquitto 2.0.11, Node 20.19.0, on 2 cores of a processor',
    '| QoS 0, four to four | 900,000 | 100,000 | 8.00x | at least 6x | met |',
    '| QoS 1, 2,000 messages/s, one to one | 0.200 ms | 0.100 ms | 2.00x |  |  |',
    '- Mosquitto, QoS 0, four to four: 7 lost, 0 repeated, 0 out of order.',
    '| 19.5 KiB (95 MiB before, 286 MiB after) | 12 KiB | missed by 63 % |',
    '- aedes is left out: aedes is not installed: npm ci.',
    'npm run bench',
  ]) {
    assert.ok(text.includes(part), `${part}\n\nis not in\n\n${text}`);
  }
});
