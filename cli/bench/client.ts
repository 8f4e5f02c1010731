// Owns one connection of the generator, publisher or subscriber: a raw socket, the acknowledgements it owes and, for a publisher, the
// packet ids in flight. The invariant: while a write has not wholly reached the kernel (`isBusy`) nothing touches the outgoing bytes;
// acknowledgements gather beside them and leave with the next write.
import { createConnection, type Socket } from 'node:net';
import mqttPacket, { type IConnackPacket, type ISubackPacket, type Packet } from 'mqtt-packet';
import { Failure } from '../failure.js';
import { PublishFrames, type PublishFramesOptions } from './frames.js';
import { InboundParser, type InboundSink, type ReadBuffer } from './inbound.js';

const KEEP_ALIVE_SECONDS = 60;
const CLOSE_TIMEOUT_MS = 200;
/** How long a broker may take to forget a durable session. */
const FORGET_TIMEOUT_MS = 2000;
/** Of durable sessions in 5.0; in 3.1.1 they have none. */
const SESSION_EXPIRY_SECONDS = 3600;
const PACKET_IDS = 65535;
/** Two acknowledgements of four bytes for every packet id: more can only come from a broker that reuses ids in flight. */
const ACK_BYTES_MAX = PACKET_IDS * 8;

const FREE = 0;
const PUBLISHED = 1;
const RELEASED = 2;

/** What the run learns from its connections. */
export interface ClientOwner {
  /** A message arrived; its payload lies in the read buffer between the offsets. */
  onDelivery(client: BenchClient, payloadStart: number, payloadEnd: number): void;
  /**
   * A publish was acknowledged to the end; `reasonCode` is 0x80 or above when the broker refused it. `timeMicros` is what it was patched
   * with, modulo 2^32.
   */
  onPublished(client: BenchClient, reasonCode: number, timeMicros: number): void;
  /** Called before a chunk is parsed, so that all its messages share one reading of the clock. */
  onChunkStart(): void;
  /** A chunk was parsed or a write finished: there may be something to send. */
  onTurn(client: BenchClient): void;
  onFailure(client: BenchClient, error: Failure): void;
}

export interface BenchClientOptions {
  host: string;
  port: number;
  protocol: 4 | 5;
  clientId: string;
  username: string | undefined;
  password: string | undefined;
  /** `publisher 3`, for error messages. */
  title: string;
  /** The number of this publisher among publishers, or subscriber among subscribers. */
  index: number;
  /** The session outlives the connection: clean session 0, or an expiry interval in 5.0. */
  isDurable: boolean;
}

export class BenchClient implements InboundSink {
  readonly index: number;
  readonly title: string;
  /** Publishes not acknowledged to the end. */
  inflight = 0;
  /** Messages published so far, which is the next sequence number. */
  sent = 0;
  /** How many unacknowledged publishes the broker allows (Receive Maximum of its CONNACK). */
  receiveMaximum = PACKET_IDS;
  /** The broker had the session already. */
  isSessionPresent = false;
  /** Acknowledgements of packet ids that were not in flight. */
  strayAcks = 0;
  /** The kernel has not taken all of the last write. */
  isBusy = false;

  readonly #owner: ClientOwner;
  readonly #options: BenchClientOptions;
  readonly #parser: InboundParser;
  readonly #buffer: ReadBuffer;
  readonly #onWritten: () => void;
  #socket: Socket | undefined;
  #isEnding = false;
  #acks = Buffer.allocUnsafeSlow(4096);
  #ackBytes = 0;
  #frames: PublishFrames | undefined;
  #outgoing = Buffer.allocUnsafeSlow(4096);
  #idStates: Uint8Array | undefined;
  /** By packet id: what `patch` was told. */
  #idTimes: Uint32Array | undefined;
  #lastId = 0;
  #expected: ((packet: Packet) => void) | undefined;
  #fail: ((error: Failure) => void) | undefined;

  constructor(options: BenchClientOptions, buffer: ReadBuffer, owner: ClientOwner) {
    this.index = options.index;
    this.title = options.title;
    this.#options = options;
    this.#owner = owner;
    this.#buffer = buffer;
    this.#parser = new InboundParser(buffer, options.protocol);
    this.#onWritten = () => {
      if (!this.isBusy || this.#socket?.writableLength !== 0) return;
      this.isBusy = false;
      this.#owner.onTurn(this);
    };
  }

  get frames(): PublishFrames | undefined {
    return this.#frames;
  }

  /** Makes this client a publisher. */
  prepare(options: PublishFramesOptions): void {
    this.#frames = new PublishFrames(options);
    if (options.qos === 0) return;
    this.#idStates = new Uint8Array(PACKET_IDS + 1);
    this.#idTimes = new Uint32Array(PACKET_IDS + 1);
  }

  /** Connects and waits for CONNACK. Throws Failure. */
  async connect(): Promise<void> {
    const { host, port } = this.#options;
    const connack = await new Promise<IConnackPacket>((resolve, reject) => {
      this.#fail = reject;
      this.#expected = (packet) => {
        if (packet.cmd === 'connack') resolve(packet);
      };
      const socket = createConnection({
        host,
        port,
        noDelay: true,
        onread: { buffer: this.#buffer.area, callback: (readBytes) => this.#onRead(readBytes) },
      });
      this.#socket = socket;
      socket.once('connect', () => {
        socket.write(this.#connectPacket(!this.#options.isDurable));
      });
      socket.on('error', (error: NodeJS.ErrnoException) => {
        this.#onFailure(new Failure(socketErrorText(error, host, port)));
      });
      socket.on('close', () => {
        this.#onFailure(new Failure(`the broker closed the connection of ${this.title}`));
      });
    });
    const code = connack.reasonCode ?? connack.returnCode ?? 0;
    if (code !== 0) {
      const text = refusalText(this.#options.protocol, code);
      throw new Failure(`the broker refused ${this.title}: ${text}`, code);
    }
    this.isSessionPresent = connack.sessionPresent;
    this.receiveMaximum = connack.properties?.receiveMaximum ?? PACKET_IDS;
  }

  /** Subscribes and waits for SUBACK. Throws Failure when any filter is refused or granted at a lower QoS. */
  async subscribe(filters: string[], qos: 0 | 1 | 2): Promise<void> {
    const suback = await new Promise<ISubackPacket>((resolve, reject) => {
      this.#fail = reject;
      this.#expected = (packet) => {
        if (packet.cmd === 'suback') resolve(packet);
      };
      this.#socket?.write(
        mqttPacket.generate(
          { cmd: 'subscribe', messageId: 1, subscriptions: filters.map((topic) => ({ topic, qos })) },
          { protocolVersion: this.#options.protocol },
        ),
      );
    });
    filters.forEach((filter, position) => {
      const granted = suback.granted[position];
      if (granted === qos) return;
      const what =
        typeof granted === 'number' && granted < 0x80
          ? `granted only QoS ${granted} to`
          : 'refused to subscribe';
      throw new Failure(`the broker ${what} ${this.title} at ${filter}`);
    });
  }

  /** From now on a failure is the run's. */
  start(): void {
    this.#expected = undefined;
    this.#fail = (error) => this.#owner.onFailure(this, error);
  }

  /** Patches the next packet of this batch; `slot` counts from 0 in each batch. */
  patch(slot: number, timeMicros: number): void {
    let packetId = 0;
    const states = this.#idStates;
    if (states !== undefined) {
      packetId = this.#lastId;
      do {
        packetId = packetId === PACKET_IDS ? 1 : packetId + 1;
      } while (states[packetId] !== FREE);
      this.#lastId = packetId;
      states[packetId] = PUBLISHED;
      this.#idTimes![packetId] = timeMicros;
      this.inflight++;
    }
    this.#frames!.patch(slot, packetId, this.sent++, timeMicros);
  }

  /** Sends the acknowledgements that are due and the first `slots` patched packets, in one write. */
  flush(slots: number): void {
    const ackBytes = this.#ackBytes;
    if (this.isBusy || (ackBytes === 0 && slots === 0)) return;
    const socket = this.#socket;
    if (socket === undefined || !socket.writable) return;
    let bytes: Buffer;
    if (this.#frames !== undefined) {
      bytes = this.#frames.range(this.#acks, ackBytes, slots);
    } else {
      if (this.#outgoing.length < ackBytes) this.#outgoing = Buffer.allocUnsafeSlow(this.#acks.length);
      this.#acks.copy(this.#outgoing, 0, 0, ackBytes);
      bytes = this.#outgoing.subarray(0, ackBytes);
    }
    this.#ackBytes = 0;
    this.isBusy = true;
    socket.write(bytes, this.#onWritten);
    // Usually the kernel takes everything at once; then the bytes may be used again before the callback comes.
    this.isBusy = socket.writableLength !== 0;
  }

  ping(): void {
    if (this.#ackBytes + 2 > this.#ackLimit()) return;
    this.#reserve(2);
    this.#acks[this.#ackBytes++] = 0xc0;
    this.#acks[this.#ackBytes++] = 0;
    this.flush(0);
  }

  /** Says goodbye where the connection still stands, and resolves when it is closed. */
  async end(): Promise<void> {
    this.#isEnding = true;
    const socket = this.#socket;
    if (socket === undefined || socket.destroyed) return;
    const closed = new Promise((resolve) => socket.once('close', resolve));
    // A broker that never closes its side must not keep the process alive.
    const force = setTimeout(() => socket.destroy(), CLOSE_TIMEOUT_MS);
    if (socket.writable && !socket.connecting) socket.end(Buffer.from([0xe0, 0]));
    else socket.destroy();
    await closed;
    clearTimeout(force);
  }

  /** Makes the broker forget a durable session, on a connection of its own; resolves also where the broker is not there to be told. */
  async forget(): Promise<void> {
    const { host, port } = this.#options;
    const socket = createConnection({ host, port, noDelay: true });
    await new Promise<void>((resolve) => {
      socket.setTimeout(FORGET_TIMEOUT_MS, () => socket.destroy());
      socket.once('connect', () => socket.write(this.#connectPacket(true)));
      socket.once('data', () => socket.end(Buffer.from([0xe0, 0])));
      // 'close' follows.
      socket.once('error', () => socket.destroy());
      socket.once('close', () => resolve());
    });
  }

  #connectPacket(isClean: boolean): Buffer {
    const { protocol, clientId, username, password } = this.#options;
    return mqttPacket.generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: protocol,
      clean: isClean,
      keepalive: KEEP_ALIVE_SECONDS,
      clientId,
      ...(isClean || protocol === 4 ? {} : { properties: { sessionExpiryInterval: SESSION_EXPIRY_SECONDS } }),
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password: Buffer.from(password) }),
    });
  }

  onPublish(qos: number, packetId: number, payloadStart: number, payloadEnd: number): void {
    if (qos > 0) this.#queueAck(qos === 1 ? 0x40 : 0x50, packetId);
    this.#owner.onDelivery(this, payloadStart, payloadEnd);
  }

  onAck(type: number, packetId: number, reasonCode: number): void {
    if (type === 6) {
      this.#queueAck(0x70, packetId);
      return;
    }
    const states = this.#idStates;
    const state = states === undefined ? FREE : states[packetId];
    if (type === 5 && state === PUBLISHED && reasonCode < 0x80) {
      states![packetId] = RELEASED;
      this.#queueAck(0x62, packetId);
    } else if ((type === 7 && state === RELEASED) || (type !== 7 && state === PUBLISHED)) {
      states![packetId] = FREE;
      this.inflight--;
      this.#owner.onPublished(this, reasonCode, this.#idTimes![packetId]!);
    } else {
      this.strayAcks++;
    }
  }

  onOther(start: number, end: number): void {
    const parser = mqttPacket.parser({ protocolVersion: this.#options.protocol });
    parser.on('error', () => {
      this.#onFailure(new Failure(`the broker sent ${this.title} something that is not MQTT`));
    });
    parser.on('packet', (packet: Packet) => {
      if (packet.cmd === 'disconnect') {
        const code = packet.reasonCode ?? 0;
        this.#onFailure(new Failure(`the broker disconnected ${this.title}: reason 0x${code.toString(16)}`));
      } else {
        this.#expected?.(packet);
      }
    });
    // A copy, because the parser may keep what it is given and the read buffer is used again.
    parser.parse(Buffer.from(this.#buffer.bytes.subarray(start, end)));
  }

  #onRead(readBytes: number): boolean {
    this.#owner.onChunkStart();
    try {
      this.#parser.feed(readBytes, this);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#onFailure(error);
      return false;
    }
    this.#owner.onTurn(this);
    return true;
  }

  #queueAck(first: number, packetId: number): void {
    if (this.#ackBytes + 4 > this.#acks.length) this.#reserve(4);
    const acks = this.#acks;
    let at = this.#ackBytes;
    acks[at++] = first;
    acks[at++] = 2;
    acks[at++] = packetId >>> 8;
    acks[at++] = packetId & 0xff;
    this.#ackBytes = at;
  }

  #ackLimit(): number {
    return this.#frames?.headBytes ?? ACK_BYTES_MAX;
  }

  /** Makes room for more acknowledgements, up to what packet ids allow. */
  #reserve(moreBytes: number): void {
    const needed = this.#ackBytes + moreBytes;
    if (needed > this.#ackLimit()) {
      throw new Failure(`the broker sent ${this.title} more packets than there are packet ids in flight`);
    }
    if (needed <= this.#acks.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.min(this.#acks.length * 2, ACK_BYTES_MAX));
    this.#acks.copy(larger, 0, 0, this.#ackBytes);
    this.#acks = larger;
  }

  #onFailure(error: Failure): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#socket?.destroy();
    this.#fail?.(error);
  }
}

function socketErrorText(error: NodeJS.ErrnoException, host: string, port: number): string {
  switch (error.code) {
    case 'ECONNREFUSED':
      return `connection refused: nothing listens at ${host}:${port}`;
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `unknown host ${host}`;
    case 'ECONNRESET':
    case 'EPIPE':
      return `the broker at ${host}:${port} reset the connection`;
    case 'EMFILE':
      return 'too many open files: raise the limit with ulimit -n';
    default:
      return `cannot talk to ${host}:${port}: ${error.code ?? error.message}`;
  }
}

const REFUSALS_V311: Record<number, string> = {
  1: 'unacceptable protocol version',
  2: 'client id rejected',
  3: 'server unavailable',
  4: 'bad user name or password',
  5: 'not authorised',
};

function refusalText(protocol: 4 | 5, code: number): string {
  const known = protocol === 4 ? REFUSALS_V311[code] : undefined;
  return known === undefined ? `CONNACK code ${code}` : `${known} (CONNACK code ${code})`;
}
