// Many seeds, one after the other, and what they add up to.
import { runSeed } from './cluster.js';
import type { FaultKind } from './faults.js';

export interface SeedsOptions {
  readonly first: number;
  readonly seeds: number;
  readonly seconds: number;
  readonly say?: (line: string) => void;
}

export interface SeedsTotal {
  readonly seeds: number;
  readonly acknowledged: number;
  readonly text: string;
}

const SEEDS_END = 4_294_967_296;
const SAY_EVERY_MS = 60_000;

/** Ends with the first seed that fails. @throws {Violation} with its history */
export function runSeeds({ first, seeds, seconds, say }: SeedsOptions): SeedsTotal {
  const beganMs = performance.now();
  const faults = new Map<FaultKind, number>();
  let toldMs = beganMs;
  let done = 0;
  let simulatedMs = 0;
  let acknowledged = 0;
  let epochs = 0;
  const text = (): string => {
    const counts = [...faults].sort(([one], [other]) => (one < other ? -1 : 1));
    return (
      `${done} seeds from ${first}: ${(simulatedMs / 3_600_000).toFixed(1)} hours in ${((performance.now() - beganMs) / 1000).toFixed(0)} s, ` +
      `${acknowledged} messages acknowledged, ${epochs} epochs, ${counts.map(([kind, count]) => `${count} ${kind}`).join(', ')}`
    );
  };
  for (; done < seeds; done++) {
    const nowMs = performance.now();
    if (nowMs - beganMs > seconds * 1000) break;
    if (nowMs - toldMs > SAY_EVERY_MS) {
      toldMs = nowMs;
      say?.(text());
    }
    const result = runSeed({ seed: (first + done) % SEEDS_END });
    simulatedMs += result.simulatedMs;
    acknowledged += result.acknowledged;
    epochs += result.epochs;
    for (const [kind, count] of result.faults) faults.set(kind, (faults.get(kind) ?? 0) + count);
  }
  return { seeds: done, acknowledged, text: text() };
}
