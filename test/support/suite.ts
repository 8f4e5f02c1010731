// What every conformance file shares: one broker for the file, client ids and topics that no other test uses, and the way to show that a
// message was not delivered without waiting for it.
import { after, before } from 'node:test';
import type { Config } from '../../src/core/config.js';
import { type ConnectOptions, closeAllClients, RawClient, type Received } from './raw-client.js';
import { type DeepPartial, type RunningGomq, startGomq } from './start-gomq.js';

export interface SuiteBroker {
  /** The port of the plain MQTT listener. */
  readonly port: number;
  /** The port of the first WebSocket listener; the configuration must ask for one. */
  readonly wsPort: number;
  /** Everything `startGomq` answered. */
  readonly running: RunningGomq;
  /** An accepted MQTT connection. */
  open(options?: ConnectOptions): Promise<RawClient>;
  /** A TCP connection that has sent nothing. */
  connect(): Promise<RawClient>;
}

/** Starts a broker for the calling file, and stops it after the file's tests together with whatever they left open. */
export function useBroker(config?: DeepPartial<Config>): SuiteBroker {
  let broker: RunningGomq | undefined;
  // Started at once rather than in the hook, so that other hooks of the file can already use it: Node 20 does not run them in turn.
  const starting = startGomq(config).then((started) => {
    broker = started;
    return started;
  });
  before(() => starting);
  after(async () => {
    closeAllClients();
    await (await starting).stop();
  });
  const running = (): RunningGomq => {
    if (broker === undefined) throw new Error('the broker has not been started yet');
    return broker;
  };
  return {
    get port() {
      return running().port;
    },
    get wsPort() {
      const listener = running().addresses.find(({ kind }) => kind === 'ws');
      if (listener === undefined) throw new Error('the configuration has no WebSocket listener');
      return listener.port;
    },
    get running() {
      return running();
    },
    open: async (options) => RawClient.open((await starting).port, options),
    connect: async () => RawClient.connect((await starting).port),
  };
}

/** A broker for one test, where its configuration is what the test is about. */
export async function withBroker(
  config: DeepPartial<Config>,
  run: (broker: RunningGomq) => Promise<void>,
): Promise<void> {
  const broker = await startGomq(config);
  try {
    await run(broker);
  } finally {
    closeAllClients();
    await broker.stop();
  }
}

let lastTopic = 0;

/** The beginning of topics that no other test of the process uses. */
export function uniqueTopic(name = 't'): string {
  lastTopic += 1;
  return `${name}-${process.pid}-${lastTopic}`;
}

/**
 * Reads and acknowledges deliveries up to the one whose payload is `last`, and answers those before it. A message published last, by the
 * same client at the same QoS, is how a test knows that it has seen everything: what is missing then was not sent.
 */
export async function messagesBefore(client: RawClient, last: string): Promise<Received<'publish'>[]> {
  const messages: Received<'publish'>[] = [];
  for (;;) {
    const message = await client.expect('publish');
    await client.acknowledge(message);
    if (message.payload.toString() === last) return messages;
    messages.push(message);
  }
}
