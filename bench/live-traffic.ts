// A process that makes traffic until it is ended: `live-traffic.ts PORT [RATE]`, QoS 1, four to four, as fast as a window of 100 allows or so many
// messages a second. Prints a line of JSON with what was delivered every 200 ms, and the result as the last one after SIGTERM.
import { type BenchResult, runBench } from '../cli/bench/run.js';

export interface LiveSample {
  /** Milliseconds since the Unix epoch. */
  atMs: number;
  delivered: number;
}

export interface LiveEnd {
  result: BenchResult;
}

/** Longer than any case. */
const SECONDS_MAX = 3600;

const [port = 0, rate = 0] = process.argv.slice(2).map(Number);
const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());

const result = await runBench(
  {
    ...{ host: '127.0.0.1', port, protocol: 4, mode: 'pair', pubs: 4, subs: 4, qos: 1, payloadBytes: 64 },
    ...{ count: undefined, durationSeconds: SECONDS_MAX, warmupSeconds: 0, window: 100 },
    ...{ topic: 'live', literalFilters: false, durable: false, stallSeconds: 10 },
    username: undefined,
    password: undefined,
    rate: rate === 0 ? undefined : rate,
  },
  {
    signal: stopping.signal,
    onProgress: ({ delivered }) => {
      const sample: LiveSample = { atMs: performance.timeOrigin + performance.now(), delivered };
      console.log(JSON.stringify(sample));
    },
  },
);
console.log(JSON.stringify({ result } satisfies LiveEnd));
