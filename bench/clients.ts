// Owns the clients that prepare a broker for a case, and ask it for a first answer. They live in this process, since nothing is measured while
// they work; the load of a measurement comes from processes of its own.
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import mqttPacket from 'mqtt-packet';
import { BenchClient, type BenchClientOptions, type ClientOwner } from '../cli/bench/client.js';
import { ReadBuffer } from '../cli/bench/inbound.js';

const AT_ONCE = 50;
const READ_BYTES = 64 * 1024;
/** How long a broker may take for any answer. */
const ANSWER_TIMEOUT_MS = 60_000;
const PUBACK_BYTES = 4;

/** What a client needs to know to have a durable session with the broker on this port. */
export function durableClient(port: number, clientId: string): BenchClientOptions {
  return {
    ...{ host: '127.0.0.1', port, protocol: 4, clientId, title: clientId, index: 0, isDurable: true },
    username: undefined,
    password: undefined,
  };
}

const nobody: ClientOwner = {
  onDelivery() {},
  onPublished() {},
  onChunkStart() {},
  onTurn() {},
  onFailure() {},
};

/** Makes durable sessions that subscribe and go. */
export async function makeSessions(
  port: number,
  clientIds: readonly string[],
  filters: string[],
  qos: 1 | 2,
): Promise<void> {
  const buffer = new ReadBuffer(READ_BYTES, READ_BYTES);
  for (let at = 0; at < clientIds.length; at += AT_ONCE) {
    await Promise.all(
      clientIds.slice(at, at + AT_ONCE).map(async (clientId) => {
        const client = new BenchClient(durableClient(port, clientId), buffer, nobody);
        await client.connect();
        await client.subscribe(filters, qos);
        await client.end();
      }),
    );
  }
}

/** Packets of QoS 1 with the ids 1 to `count`, laid end to end, all of which may be unacknowledged at once. */
export interface Chunk {
  bytes: Buffer;
  count: number;
}

export function makeChunk(
  messages: readonly { topic: string; payload: string | Buffer; retain?: boolean }[],
): Chunk {
  const packets = messages.map(({ topic, payload, retain = false }, at) =>
    mqttPacket.generate({ cmd: 'publish', topic, payload, qos: 1, retain, dup: false, messageId: at + 1 }),
  );
  return { bytes: Buffer.concat(packets), count: messages.length };
}

/** A publisher of whole chunks: the next one when all of the last one is acknowledged. */
export class ChunkPublisher {
  readonly #socket: Socket;
  #awaitedBytes = 0;
  #received = 0;
  #settle: { resolve: () => void; reject: (error: Error) => void } | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => this.#fail('the broker did not acknowledge'));
    socket.on('error', (error) => this.#fail(error.message));
    socket.on('close', () => this.#fail('the broker closed the connection'));
    socket.on('data', (bytes) => this.#onData(bytes));
  }

  static async connect(port: number, clientId: string): Promise<ChunkPublisher> {
    const socket = createConnection({ port, host: '127.0.0.1', noDelay: true });
    socket.write(
      mqttPacket.generate({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 4,
        clean: true,
        keepalive: 0,
        clientId,
      }),
    );
    const closed = once(socket, 'close').then(() => [undefined]);
    const [connack] = (await Promise.race([once(socket, 'data'), closed])) as [Buffer | undefined];
    if (connack === undefined || connack[0] !== 0x20 || connack[3] !== 0) {
      socket.destroy();
      throw new Error(`the broker refused ${clientId}`);
    }
    return new ChunkPublisher(socket);
  }

  /** Resolves when all is acknowledged. */
  send({ bytes, count }: Chunk): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#awaitedBytes = count * PUBACK_BYTES;
      this.#received = 0;
      this.#settle = { resolve, reject };
      this.#socket.write(bytes);
    });
  }

  async end(): Promise<void> {
    if (this.#socket.destroyed) return;
    const closed = once(this.#socket, 'close');
    this.#socket.end(Buffer.from([0xe0, 0]));
    await closed;
  }

  #onData(bytes: Buffer): void {
    // A PUBACK of 3.1.1 has four bytes, the first of which says what it is.
    const first = (PUBACK_BYTES - (this.#received % PUBACK_BYTES)) % PUBACK_BYTES;
    for (let at = first; at < bytes.length; at += PUBACK_BYTES) {
      if (bytes[at] === 0x40) continue;
      this.#fail(`the broker sent a packet of type ${bytes[at]! >>> 4}`);
      return;
    }
    this.#received += bytes.length;
    if (this.#received < this.#awaitedBytes) return;
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.resolve();
  }

  #fail(message: string): void {
    this.#socket.destroy();
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.reject(new Error(message));
  }
}

/** Connects, publishes one message of QoS 1 and waits until it is acknowledged. */
export async function publishOne(port: number): Promise<void> {
  const publisher = await ChunkPublisher.connect(port, 'first');
  await publisher.send(makeChunk([{ topic: 'first', payload: 'hello' }]));
  await publisher.end();
}
