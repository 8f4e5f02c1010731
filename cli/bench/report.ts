// Owns what a run looks like: the table on stdout, the JSON object, the verdict and the progress line on stderr.
import type { BenchProgress, BenchResult } from './run.js';

/** Why the run counts as failed, one sentence each; empty when it is fine. */
export function findings(result: BenchResult): string[] {
  const found: string[] = [];
  if (result.failure !== undefined) found.push(result.failure);
  if (result.qos > 0) {
    if (result.lost > 0) found.push(`${result.lost} messages lost at QoS ${result.qos}`);
    if (result.qos === 2 && result.duplicates > 0)
      found.push(`${result.duplicates} messages repeated at QoS 2`);
    if (result.disordered > 0) found.push(`${result.disordered} messages out of order`);
    if (result.unacknowledged > 0) found.push(`${result.unacknowledged} publishes never acknowledged`);
    if (result.refused > 0) {
      found.push(`${result.refused} publishes refused, first with 0x${result.refusedReason?.toString(16)}`);
    }
    if (result.strayAcks > 0) found.push(`${result.strayAcks} acknowledgements nobody waited for`);
  }
  if (result.delivered === 0 && result.expected > 0) found.push('nothing was delivered');
  return found;
}

export function formatTable(result: BenchResult): string {
  const rows: [string, string][] = [
    [
      'run',
      `${result.mode}, ${result.pubs} to ${result.subs}, QoS ${result.qos}, ${result.payloadBytes} bytes, ` +
        (result.rate === undefined ? `window ${result.window}` : `${integer(result.rate)} messages/s`),
    ],
    ['measured', `${result.seconds.toFixed(2)} s`],
    ['published', `${integer(result.published)} (${integer(result.publishedPerSecond)}/s)`],
    ['delivered', `${integer(result.delivered)} (${integer(result.deliveredPerSecond)}/s)`],
    ['lost', `${integer(result.lost)} of ${integer(result.expected)}${result.stalled ? ' (stalled)' : ''}`],
    ['duplicates', integer(result.duplicates)],
    ['out of order', integer(result.disordered)],
  ];
  if (result.qos > 0) rows.push(['unacknowledged', integer(result.unacknowledged)]);
  if (result.refused > 0) rows.push(['refused', integer(result.refused)]);
  if (result.foreign > 0) rows.push(['not of this run', integer(result.foreign)]);
  if (result.delivered > 0) {
    const { p50, p90, p99, p999, max } = result.latencyMs;
    rows.push(['latency p50', milliseconds(p50)]);
    rows.push(['latency p90', milliseconds(p90)]);
    rows.push(['latency p99', milliseconds(p99)]);
    rows.push(['latency p99.9', milliseconds(p999)]);
    rows.push(['latency max', milliseconds(max)]);
  }
  if (result.ackMs.max > 0) {
    rows.push(['acknowledged p50', milliseconds(result.ackMs.p50)]);
    rows.push(['acknowledged p99', milliseconds(result.ackMs.p99)]);
  }
  if (result.rate !== undefined) rows.push(['send lag p99', milliseconds(result.sendLagMsP99)]);
  const share = Math.round((100 * result.generatorCpuSeconds) / result.seconds);
  rows.push([
    'generator',
    `${share} % of a core, ${result.generatorMicrosPerMessage.toFixed(2)} µs a message`,
  ]);
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}

/** One line shorter than the terminal is wide. */
export function formatProgress(progress: BenchProgress, columns: number): string {
  const width = 24;
  const filled = Math.round(progress.done * width);
  const bar = '#'.repeat(filled) + '.'.repeat(width - filled);
  const percent = String(Math.round(progress.done * 100)).padStart(3);
  const line = `[${bar}] ${percent} %  ${integer(progress.published)} published, ${integer(progress.delivered)} delivered`;
  return line.slice(0, Math.max(0, columns - 1));
}

function integer(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ',');
}

function milliseconds(value: number): string {
  return `${value.toFixed(3)} ms`;
}
