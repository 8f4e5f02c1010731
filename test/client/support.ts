// What the tests of the client package share: the real broker they run against, a link that can be cut, and events to await.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClientEvent } from '../../client/src/index.js';
import { type ClientErrorCode, GomqClientError } from '../../client/src/index.js';
import { startGomq } from '../support/start-gomq.js';
import { Inbox } from './fake-broker.js';

export interface TestBroker {
  port: number;
  wsPort: number;
  stop(): Promise<void>;
}

/** The one place that decides which broker the tests run against: gomq, or Mosquitto where GOMQ_TEST_BROKER asks for it. */
export async function startBroker(): Promise<TestBroker> {
  if (process.env.GOMQ_TEST_BROKER === 'mosquitto') {
    return startMosquitto();
  }
  const gomq = await startGomq({ listeners: { ws: ['127.0.0.1:0'] } });
  const wsPort = gomq.addresses.find(({ kind }) => kind === 'ws')?.port ?? 0;
  return { port: gomq.port, wsPort, stop: () => gomq.stop() };
}

async function startMosquitto(): Promise<TestBroker> {
  const directory = await mkdtemp(join(tmpdir(), 'gomq-client-test-'));
  const [port, wsPort] = await Promise.all([freePort(), freePort()]);
  const file = join(directory, 'mosquitto.conf');
  const listeners = `listener ${port} 127.0.0.1\nlistener ${wsPort} 127.0.0.1\nprotocol websockets\n`;
  await writeFile(file, `${listeners}allow_anonymous true\nmax_queued_messages 0\n`);
  const child = spawn('mosquitto', ['-c', file], {
    stdio: 'ignore',
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
  });
  await Promise.all([reachable(port), reachable(wsPort)]);
  return {
    port,
    wsPort,
    stop: async () => {
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Mosquitto says nothing when it is ready, so the port is tried until it answers. */
async function reachable(port: number): Promise<void> {
  for (;;) {
    const socket = net.connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10));
    } finally {
      socket.destroy();
    }
  }
}

/** A TCP link to a broker that can be cut, and that can lose the answers first. */
export class CuttableLink {
  readonly #server: net.Server;
  readonly #targetPort: number;
  readonly #pairs = new Set<[net.Socket, net.Socket]>();
  readonly #connected = new Inbox<void>();
  #onAnswer: (() => void)[] = [];
  /** Bytes of the broker go nowhere: the requests arrive, the acknowledgements do not. */
  loseAnswers = false;
  #refuse = false;

  private constructor(server: net.Server, targetPort: number) {
    this.#server = server;
    this.#targetPort = targetPort;
    server.on('connection', (client) => this.#join(client));
  }

  static async start(targetPort: number): Promise<CuttableLink> {
    const server = net.createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new CuttableLink(server, targetPort);
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  /** Ends every connection, without a word to either side. */
  cut(): void {
    for (const [client, broker] of this.#pairs) {
      client.destroy();
      broker.destroy();
    }
    this.#pairs.clear();
  }

  /** Cuts, and ends new connections at once until `restore`. */
  goDown(): void {
    this.#refuse = true;
    this.cut();
  }

  restore(): void {
    this.#refuse = false;
    this.loseAnswers = false;
  }

  /** Resolves at the next connection. */
  async connection(): Promise<void> {
    await this.#connected.take();
  }

  /** Resolves when the broker says something, lost or not. */
  answer(): Promise<void> {
    return new Promise((resolve) => this.#onAnswer.push(resolve));
  }

  async stop(): Promise<void> {
    this.goDown();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #join(client: net.Socket): void {
    if (this.#refuse) {
      client.destroy();
      return;
    }
    const broker = net.connect(this.#targetPort, '127.0.0.1');
    const pair: [net.Socket, net.Socket] = [client, broker];
    this.#pairs.add(pair);
    this.#connected.put();
    client.on('data', (chunk) => broker.write(chunk));
    broker.on('data', (chunk) => {
      if (!this.loseAnswers) {
        client.write(chunk);
      }
      for (const resolve of this.#onAnswer.splice(0)) {
        resolve();
      }
    });
    for (const [one, other] of [pair, [broker, client]] as const) {
      one.on('error', () => undefined);
      one.on('close', () => {
        other.destroy();
        this.#pairs.delete(pair);
      });
    }
  }
}

/** Collects the events of a client: `onEvent: events.put`. */
export class Events {
  readonly #inbox = new Inbox<ClientEvent>();
  readonly put = (event: ClientEvent): void => this.#inbox.put(event);

  get all(): readonly ClientEvent[] {
    return this.#inbox.all;
  }

  next<T extends ClientEvent['type']>(type: T): Promise<Extract<ClientEvent, { type: T }>> {
    return this.#inbox.take((event) => event.type === type) as Promise<Extract<ClientEvent, { type: T }>>;
  }
}

/** For assert.rejects and assert.throws: the code, and that message and hint are there. */
export function withCode(
  code: ClientErrorCode,
  more: Partial<GomqClientError> = {},
): (error: unknown) => boolean {
  return (error) => {
    if (!(error instanceof GomqClientError)) {
      throw new Error(`not a GomqClientError: ${String(error)}`, { cause: error });
    }
    if (error.code !== code || error.message === '' || error.hint === '') {
      throw new Error(`expected ${code}, got ${error.code}: ${error.message}`, { cause: error });
    }
    for (const [key, value] of Object.entries(more)) {
      if (error[key as keyof GomqClientError] !== value) {
        throw new Error(
          `expected ${key} ${String(value)}, got ${String(error[key as keyof GomqClientError])}`,
        );
      }
    }
    return true;
  };
}

/** Lets everything that is ready to run, run: for showing that something does not happen. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

let names = 0;

/** A topic or client id that no other test uses. */
export function unique(stem: string): string {
  names += 1;
  return `${stem}-${process.pid}-${names}`;
}
