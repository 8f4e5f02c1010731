// Owns what a person reads of a run of `gomqctl verify`: the line while it runs, the table at its end, and the sentences about what should not be.
import type { Latency, VerifyProgress, VerifyResult } from './verify-run.js';

const LABEL_WIDTH = 15;

/** One line of at most `columns` characters. */
export function formatProgress(progress: VerifyProgress, columns: number): string {
  const { seconds, published, acknowledged, delivered, connectionsLost, gapMs, longestGapMs } = progress;
  const parts = [
    `${seconds.toFixed(0)} s`,
    `${grouped(published)} published`,
    `${grouped(acknowledged)} acknowledged`,
    `${grouped(delivered)} delivered`,
    `${connectionsLost} connections lost`,
    gapMs >= 500 ? `no acknowledgement for ${inSeconds(gapMs)}` : `longest gap ${inSeconds(longestGapMs)}`,
  ];
  const wrong = progress.repeatedQos2 + progress.reordered;
  if (wrong > 0) parts.unshift(`${grouped(wrong)} WRONG`);
  return parts.join('  ').slice(0, Math.max(0, columns - 1));
}

export function formatTable(result: VerifyResult): string {
  const { publishers, subscribers, acknowledged, delivered } = result;
  const row = (label: string, value: string) => `${label.padEnd(LABEL_WIDTH)}${value}`;
  const rows = [
    row(
      'published',
      `${grouped(result.published)} by ${publishers} in ${result.seconds.toFixed(1)} s, half at QoS 1, half at QoS 2`,
    ),
    row('acknowledged', grouped(acknowledged)),
    row('delivered', `${grouped(delivered)} of ${grouped(acknowledged * subscribers)} to ${subscribers}`),
    row('lost', grouped(result.lost)),
    row('twice, QoS 2', grouped(result.repeatedQos2)),
    row('out of order', grouped(result.reordered)),
    row(
      'twice, QoS 1',
      `${grouped(result.redeliveredQos1)} with DUP, ${grouped(result.resentQos1)} published twice, ${grouped(result.repeatedQos1)} without a reason`,
    ),
    row('connections', `${grouped(result.connectionsLost)} lost`),
    row(
      'longest gap',
      `${inSeconds(result.longestGapMs)} without any acknowledgement; by publisher ${shown(result.publisherGapsMs)}`,
    ),
    row('acknowledged', `after ${formatLatency(result.ackMs)}`),
    row('delivered', `after ${formatLatency(result.deliveryMs)}`),
  ];
  if (result.refused > 0) {
    rows.push(row('refused', `${grouped(result.refused)} times, and published again: ${result.refusedWhy}`));
  }
  return rows.join('\n');
}

/** What should not be; nothing where all is well. */
export function findings(result: VerifyResult): string[] {
  const found: string[] = [];
  const add = (count: number, text: (count: string) => string) => {
    if (count > 0) found.push(text(grouped(count)));
  };
  add(result.lost, (count) => `${count} acknowledged messages did not arrive`);
  add(result.repeatedQos2, (count) => `${count} messages of QoS 2 came twice`);
  add(result.reordered, (count) => `${count} messages came out of order`);
  add(result.sessionsLost, (count) => `${count} sessions were forgotten by the broker`);
  return found;
}

/** What a person should know, and is no failure of the broker's promises. */
export function notices(result: VerifyResult): string[] {
  const told: string[] = [];
  const add = (count: number, text: (count: string) => string) => {
    if (count > 0) told.push(text(grouped(count)));
  };
  add(result.unacknowledged, (count) => `${count} messages were never acknowledged`);
  add(
    result.undelivered - result.lost,
    (count) => `${count} messages had not arrived when the run was interrupted`,
  );
  add(
    result.repeatedQos1,
    (count) => `${count} messages of QoS 1 came twice without DUP, and were published once`,
  );
  add(result.foreign, (count) => `${count} messages came that nobody of this run published`);
  add(result.sessionsLeft, (count) => `${count} sessions could not be ended; they expire in an hour`);
  return told;
}

function shown(gapsMs: readonly number[]): string {
  const most = gapsMs.slice(0, 8).map(inSeconds).join(', ');
  return gapsMs.length > 8 ? `${most}, ...` : most;
}

function formatLatency({ p50, p99, max }: Latency): string {
  return `${p50} ms (half), ${p99} ms (99 %), ${max} ms (all)`;
}

function inSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function grouped(value: number): string {
  return value.toLocaleString('en-US');
}
