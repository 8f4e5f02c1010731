import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noClusterReport } from '../../bench/cluster-cases.js';
import { clusterSection } from '../../bench/cluster-report.js';
import { medianRatio } from '../../bench/statistics.js';

test('a ratio is the median within the rounds that have both', () => {
  assert.equal(medianRatio([200, undefined, 90], [100, 10, 30]), 2.5);
  assert.equal(medianRatio([200], []), undefined);
});

test('there is no section where nothing was measured', () => {
  assert.deepEqual(clusterSection(noClusterReport()), []);
  assert.deepEqual(clusterSection({ ...noClusterReport(), loads: [1, 2] }), []);
});

test('the section tells what was measured beside its target, and lists what was missed', () => {
  const text = clusterSection({
    versions: { mosquitto: '2.0.11', nats: '2.9.10' },
    throughput: [
      {
        title: 'QoS 1, window 100',
        targets: { mosquitto: 1, nats: 20 },
        perSecond: { cluster: [90_000, 110_000], mosquitto: [100_000, 100_000], nats: [4500, 5500] },
      },
    ],
    ack: { ackMs: [0.6, 0.9], otherMs: [0.2, 0.3] },
    member: undefined,
    kill: {
      firstAckMs: [100, 250, 120],
      servesMs: [90, 240, 110],
      gapMs: [110, 270, 130],
      backMs: [900, 950, 1000],
    },
    handover: undefined,
    catchUp: { storedBytes: 200e6, megabytesPerSecond: [90, 130] },
    loads: [2.51, 4.2],
  }).join('\n\n');
  for (const part of [
    'Beside it: Mosquitto 2.0.11, NATS 2.9.10. The load average was 2.5 to 4.2',
    '| QoS 1, window 100, four to four: delivered, to Mosquitto, in memory | 100,000/s to 100,000/s: 1.00x | at least 1x | met |',
    '| QoS 1, window 100, four to four: delivered, to three NATS | 100,000/s to 5,000/s: 20.00x | at least 20x | met |',
    'the leader of three, to gomq alone | 0.750 ms to 0.250 ms: 3.00x | at most 2x | missed by 50 % |',
    '| median 120 ms, p99 250 ms, max 250 ms (it serves after 110 ms) | p99 at most 300 ms | met |',
    '| 110 MB/s | at least 100 MB/s | met |',
    '- One publisher, window 1: publish to PUBACK, median, the leader of three, to gomq alone: 0.750 ms to 0.250 ms: 3.00x; at most 2x.',
  ]) {
    assert.ok(text.includes(part), `${part}\n\nis not in\n\n${text}`);
  }
});
