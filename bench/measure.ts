// Owns one measurement: the generator as a process of its own against one broker, and what the broker used meanwhile.
import type { BenchResult } from '../cli/bench/run.js';
import { cpuSeconds, machineCpuSeconds, residentBytes, run } from './processes.js';
import { sum } from './statistics.js';

export interface Measurement {
  result: BenchResult;
  /** Processor time of the broker per message that came in or went out; undefined where /proc does not tell. */
  brokerMicrosPerMessage: number | undefined;
  /** Share of the machine's processors that neither the broker nor the generator used, 0 to 1. */
  othersShare: number | undefined;
  /** The largest resident memory of the broker seen during the run. */
  residentBytesMax: number | undefined;
}

/** A broker, or the one of a cluster that the generator talks to. */
export interface Measured {
  port: number;
  /** Whose memory is watched. */
  pid: number;
  /** Of all whose processor time counts, where there are more. */
  pids?: readonly number[];
  /** Why it is gone, or undefined while it runs. */
  failure(): string | undefined;
}

const SAMPLE_INTERVAL_MS = 100;

/** Throws when the generator could not do its work, or the broker is gone. */
export async function measure(
  broker: Measured,
  args: readonly string[],
  cores: number,
): Promise<Measurement> {
  const pids = broker.pids ?? [broker.pid];
  const brokerBefore = cpuSecondsOf(pids);
  const machineBefore = machineCpuSeconds();
  const startedAt = performance.now();
  let residentMax = residentBytes(broker.pid);
  const sampler = setInterval(() => {
    const now = residentBytes(broker.pid);
    if (now !== undefined && now > (residentMax ?? 0)) residentMax = now;
  }, SAMPLE_INTERVAL_MS);
  const own = process.cpuUsage();
  const { out, err } = await run(process.execPath, [
    ...[
      '--import',
      'tsx',
      'bench/generator.ts',
      '--json',
      '--quiet',
      '--connect',
      `127.0.0.1:${broker.port}`,
    ],
    ...args,
  ]).finally(() => clearInterval(sampler));
  const failure = broker.failure();
  if (failure !== undefined) throw new Error(failure);
  if (out === '') throw new Error(err.trim());

  const result = JSON.parse(out) as BenchResult;
  const brokerUsed = difference(cpuSecondsOf(pids), brokerBefore);
  const machineUsed = difference(machineCpuSeconds(), machineBefore);
  const seconds = (performance.now() - startedAt) / 1000;
  const ownUsage = process.cpuUsage(own);
  const ownUsed = (ownUsage.user + ownUsage.system) / 1e6;
  return {
    result,
    brokerMicrosPerMessage:
      brokerUsed === undefined
        ? undefined
        : (brokerUsed * 1e6) / Math.max(1, result.published + result.delivered),
    othersShare:
      brokerUsed === undefined || machineUsed === undefined
        ? undefined
        : Math.max(0, machineUsed - brokerUsed - ownUsed - result.processCpuSeconds) / (seconds * cores),
    residentBytesMax: residentMax,
  };
}

function cpuSecondsOf(pids: readonly number[]): number | undefined {
  const all = pids.map(cpuSeconds);
  return all.includes(undefined) ? undefined : sum(all.map((one) => one!));
}

function difference(after: number | undefined, before: number | undefined): number | undefined {
  return after === undefined || before === undefined ? undefined : after - before;
}
