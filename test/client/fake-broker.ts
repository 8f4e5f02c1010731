// A broker that does only what a test tells it to, packet by packet: for what a real broker would do too fast to be seen, or not at all.
import { once } from 'node:events';
import net from 'node:net';
import { generate, type IConnackPacket, type Packet, parser } from 'mqtt-packet';

type Of<C extends Packet['cmd']> = Extract<Packet, { cmd: C }>;

/** A list that can be awaited: `take` gives the oldest entry that fits, or waits for one. */
class Inbox<T> {
  readonly all: T[] = [];
  readonly #waiting: { fits: (item: T) => boolean; resolve: (item: T) => void }[] = [];
  readonly #fresh: T[] = [];

  put(item: T): void {
    this.all.push(item);
    const index = this.#waiting.findIndex(({ fits }) => fits(item));
    if (index >= 0) {
      this.#waiting.splice(index, 1)[0]!.resolve(item);
    } else {
      this.#fresh.push(item);
    }
  }

  take(fits: (item: T) => boolean = () => true): Promise<T> {
    const index = this.#fresh.findIndex(fits);
    if (index >= 0) {
      return Promise.resolve(this.#fresh.splice(index, 1)[0]!);
    }
    return new Promise((resolve) => this.#waiting.push({ fits, resolve }));
  }
}

export { Inbox };

export class FakeConnection {
  readonly #socket: net.Socket;
  readonly #inbox = new Inbox<Packet>();
  readonly closed: Promise<void>;
  version: 3 | 4 | 5 = 4;

  constructor(socket: net.Socket) {
    this.#socket = socket;
    const reader = parser();
    reader.on('packet', (packet: Packet) => {
      if (packet.cmd === 'connect') {
        this.version = (packet.protocolVersion ?? 4) as 3 | 4 | 5;
      }
      if (packet.cmd === 'pingreq') {
        this.send({ cmd: 'pingresp' });
      }
      this.#inbox.put(packet);
    });
    socket.on('data', (chunk) => reader.parse(chunk));
    socket.on('error', () => undefined);
    this.closed = once(socket, 'close').then(() => undefined);
  }

  /** Everything received so far. */
  get received(): readonly Packet[] {
    return this.#inbox.all;
  }

  /** The oldest packet of the kind that was not taken yet. */
  next<C extends Packet['cmd']>(cmd: C): Promise<Of<C>> {
    return this.#inbox.take((packet) => packet.cmd === cmd) as Promise<Of<C>>;
  }

  send(packet: Packet): void {
    this.#socket.write(generate(packet, { protocolVersion: this.version }));
  }

  /** Takes CONNECT and accepts it. */
  async accept(connack: Partial<IConnackPacket> = {}): Promise<Of<'connect'>> {
    const connect = await this.next('connect');
    const { reasonCode = 0, ...rest } = connack;
    this.send({ cmd: 'connack', sessionPresent: false, reasonCode, returnCode: reasonCode, ...rest });
    return connect;
  }

  /** Takes SUBSCRIBE and grants it. */
  async grant(qos: 0 | 1 | 2 = 2): Promise<Of<'subscribe'>> {
    const subscribe = await this.next('subscribe');
    const granted = subscribe.subscriptions.map(() => qos);
    this.send({ cmd: 'suback', messageId: subscribe.messageId!, granted });
    return subscribe;
  }

  publish(topic: string, payload: string, options: Partial<Of<'publish'>> = {}): void {
    this.send({ cmd: 'publish', topic, payload, qos: 0, dup: false, retain: false, ...options });
  }

  puback(messageId: number | undefined, reasonCode = 0): void {
    this.send({ cmd: 'puback', messageId: messageId!, reasonCode });
  }

  pause(): void {
    this.#socket.pause();
  }

  /** Ends the connection without a word. */
  cut(): void {
    this.#socket.destroy();
  }
}

export class FakeBroker {
  readonly #server: net.Server;
  readonly #connections = new Inbox<FakeConnection>();
  readonly port: number;

  private constructor(server: net.Server) {
    this.#server = server;
    this.port = (server.address() as net.AddressInfo).port;
    server.on('connection', (socket) => this.#connections.put(new FakeConnection(socket)));
  }

  static async start(port = 0): Promise<FakeBroker> {
    const server = net.createServer();
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return new FakeBroker(server);
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  get connections(): readonly FakeConnection[] {
    return this.#connections.all;
  }

  /** The next network connection. */
  connection(): Promise<FakeConnection> {
    return this.#connections.take();
  }

  /** The next connection, its CONNECT accepted. */
  async accept(connack: Partial<IConnackPacket> = {}): Promise<FakeConnection> {
    const connection = await this.connection();
    await connection.accept(connack);
    return connection;
  }

  async stop(): Promise<void> {
    for (const connection of this.#connections.all) {
      connection.cut();
    }
    if (this.#server.listening) {
      this.#server.close();
      await once(this.#server, 'close');
    }
  }
}
