// What the tests of the client edge share: listeners on port 0 and a broker side that records what happens to a connection.
import { connect, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import type { Config } from '../../src/core/config.js';
import { defaultConfig } from '../../src/core/config.js';
import { type Logger, silentLogger } from '../../src/core/logger.js';
import type { Transport, TransportHandler } from '../../src/core/transport.js';
import { type ListenerOptions, type Listeners, openListeners } from '../../src/net/listeners.js';

export interface LogLine {
  message: string;
  fields: Record<string, unknown>;
}

/** A logger that keeps what it is told. */
export function recordingLogger(lines: LogLine[]): Logger {
  const record = (message: string, fields?: Readonly<Record<string, unknown>>) => {
    lines.push({ message, fields: { ...fields } });
  };
  const logger: Logger = { ...silentLogger, debug: record, info: record, warn: record, error: record };
  return { ...logger, child: () => logger };
}

/** One accepted connection as the broker sees it. */
export class Accepted implements TransportHandler {
  readonly transport: Transport;
  readonly chunks: Buffer[] = [];
  drains = 0;
  closes = 0;
  error: Error | undefined = undefined;
  onBytes: (chunk: Buffer) => void = () => {};
  #waiting: (() => void)[] = [];

  constructor(transport: Transport) {
    this.transport = transport;
  }

  onData(chunk: Buffer): void {
    // The transport uses the chunk again once this has returned.
    this.chunks.push(Buffer.from(chunk));
    this.onBytes(chunk);
    this.#wake();
  }

  onEnd(): void {}

  onDrain(): void {
    this.drains += 1;
    this.#wake();
  }

  onClose(error: Error | undefined): void {
    this.closes += 1;
    this.error = error;
    this.#wake();
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  /** Resolves when `condition` holds; it is looked at whenever something happened to the connection. */
  async until(condition: (accepted: Accepted) => boolean): Promise<void> {
    while (!condition(this)) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  write(bytes: Buffer): Promise<void> {
    return new Promise((resolve) => this.transport.write(bytes, () => resolve()));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }
}

export class Edge {
  readonly listeners: Listeners;
  readonly accepted: Accepted[];
  readonly #arrivals: Arrivals;

  constructor(listeners: Listeners, arrivals: Arrivals) {
    this.listeners = listeners;
    this.accepted = arrivals.accepted;
    this.#arrivals = arrivals;
  }

  get port(): number {
    return this.listeners.addresses[0]!.port;
  }

  /** The `index`th connection that was handed over. */
  async connection(index: number): Promise<Accepted> {
    while (this.accepted.length <= index) {
      await new Promise<void>((resolve) => this.#arrivals.waiting.push(resolve));
    }
    return this.accepted[index]!;
  }

  /** Resolves when no connection counts any more. */
  async untilNoConnections(): Promise<void> {
    while (this.listeners.connectionCount > 0) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Connects a plain TCP client to the first listener, and answers both ends. */
  async pair(): Promise<{ client: Socket; server: Accepted }> {
    const index = this.accepted.length;
    const client = connect({ host: '127.0.0.1', port: this.port });
    client.on('error', () => {});
    const server = await this.connection(index);
    return { client, server };
  }
}

interface Arrivals {
  accepted: Accepted[];
  waiting: (() => void)[];
}

export interface EdgeSettings {
  listeners?: Partial<Config['listeners']>;
  limits?: Partial<Config['limits']>;
  logger?: Logger;
  /** Pauses every connection before its first byte. */
  paused?: boolean;
  webSocketOrigins?: readonly string[];
}

/** Opens listeners that are closed, with every connection of theirs, when the test ends. */
export async function openEdge(context: TestContext, settings: EdgeSettings = {}): Promise<Edge> {
  const config = defaultConfig();
  const arrivals: Arrivals = { accepted: [], waiting: [] };
  const options: ListenerOptions = {
    listeners: { ...config.listeners, mqtt: ['127.0.0.1:0'], ...settings.listeners },
    limits: { ...config.limits, connections: 1_000, ...settings.limits },
    webSocketOrigins: settings.webSocketOrigins ?? [],
    logger: settings.logger ?? silentLogger,
    onConnection(transport) {
      const accepted = new Accepted(transport);
      arrivals.accepted.push(accepted);
      transport.start(accepted);
      if (settings.paused === true) transport.pause();
      const waiting = arrivals.waiting;
      arrivals.waiting = [];
      for (const wake of waiting) wake();
    },
  };
  const listeners = await openListeners(options);
  context.after(async () => {
    await listeners.close();
    for (const accepted of arrivals.accepted) accepted.transport.destroy();
  });
  return new Edge(listeners, arrivals);
}

/** Resolves when the peer has closed, with everything it sent before. */
export function bytesUntilClose(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  return new Promise((resolve) => socket.once('close', () => resolve(Buffer.concat(chunks))));
}
