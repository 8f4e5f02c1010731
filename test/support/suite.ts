// What every conformance file shares: one broker for the file, client ids and topics that no other test uses, and the way to show that a
// message was not delivered without waiting for it.
import { after, before } from 'node:test';
import type { Config } from '../../src/core/config.js';
import { type ConnectOptions, closeAllClients, RawClient, type Received } from './raw-client.js';

// The module is named by a variable so that this file compiles where the broker cannot be started yet.
const STARTER = './start-gomq.js';

type DeepPartial<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { [K in keyof T]?: DeepPartial<T[K]> }
    : T;
type PartialConfig = DeepPartial<Config>;

interface Broker {
  port: number;
  wsPort: number;
  stop(): Promise<void>;
}

async function startGomq(config?: PartialConfig): Promise<Broker> {
  const module = (await import(STARTER)) as { startGomq(config?: PartialConfig): Promise<Broker> };
  return module.startGomq(config);
}

export interface SuiteBroker {
  /** The port of the plain MQTT listener. */
  readonly port: number;
  /** Everything `startGomq` answered. */
  readonly running: Broker;
  /** An accepted MQTT connection. */
  open(options?: ConnectOptions): Promise<RawClient>;
  /** A TCP connection that has sent nothing. */
  connect(): Promise<RawClient>;
}

/** Starts a broker before the tests of the calling file, and stops it after them together with whatever they left open. */
export function useBroker(config?: PartialConfig): SuiteBroker {
  let broker: Broker | undefined;
  before(async () => {
    broker = await startGomq(config);
  });
  after(async () => {
    closeAllClients();
    await broker?.stop();
  });
  const running = (): Broker => {
    if (broker === undefined) throw new Error('the broker runs only while tests run');
    return broker;
  };
  return {
    get port() {
      return running().port;
    },
    get running() {
      return running();
    },
    open: (options) => RawClient.open(running().port, options),
    connect: () => RawClient.connect(running().port),
  };
}

/** A broker for one test, where its configuration is what the test is about. */
export async function withBroker(
  config: PartialConfig,
  run: (broker: Broker) => Promise<void>,
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
