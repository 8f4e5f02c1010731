// A broker in this process, on ports of its own, with the configuration a test asks for.

import { rmSync } from 'node:fs';
import type { Clock } from '../../src/core/clock.js';
import { type Config, defaultConfig } from '../../src/core/config.js';
import { type Logger, silentLogger } from '../../src/core/logger.js';
import { type Gomq, startGomq as start } from '../../src/main.js';
import { temporaryFolder } from './temporary-folder.js';

export type DeepPartial<T> = T extends readonly unknown[] ? T : { [K in keyof T]?: DeepPartial<T[K]> };

export interface RunningGomq extends Gomq {
  /** Of the first MQTT listener. */
  readonly port: number;
}

export interface StartGomqOptions {
  logger?: Logger;
  clock?: Clock;
}

/**
 * Starts a broker with one MQTT listener on a free port, no HTTP API, and a data directory of its own that goes with it, unless `config`
 * says otherwise.
 */
export async function startGomq(
  config: DeepPartial<Config> = {},
  options: StartGomqOptions = {},
): Promise<RunningGomq> {
  const base = defaultConfig();
  base.listeners.mqtt = ['127.0.0.1:0'];
  base.http.listen = '';
  const data = config.node?.data === undefined ? temporaryFolder() : undefined;
  if (data !== undefined) base.node.data = data;
  // Little is written: no need for much room.
  base.log.reserveBytes = 1_048_576;
  const gomq = await start(merge(base, config) as Config, {
    logger: options.logger ?? silentLogger,
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    onDefect: (error) => {
      // Out of every test's reach, so that no test can pass over it.
      queueMicrotask(() => {
        throw error;
      });
    },
  });
  const port = gomq.addresses.find(({ kind }) => kind === 'mqtt')?.port ?? 0;
  return {
    ...gomq,
    port,
    async stop() {
      await gomq.stop();
      if (data !== undefined) rmSync(data, { recursive: true, force: true });
    },
  };
}

/** Objects are merged key by key; anything else, lists included, is replaced. */
function merge(base: unknown, over: unknown): unknown {
  if (!isRecord(base) || !isRecord(over)) return over;
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    if (value !== undefined) merged[key] = merge(base[key], value);
  }
  return merged;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
