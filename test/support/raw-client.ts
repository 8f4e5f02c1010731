// A raw MQTT client for tests: bytes out, packets in. It owns one byte stream and the queue of packets that arrived on it, and it never
// answers, retries or corrects anything by itself, so a test can send whatever the standard forbids and see exactly what came back.
// Packets are decoded by mqtt-packet, which the broker does not use for its hot frames: an oracle of its own.
import assert from 'node:assert/strict';
import { connect as connectSocket } from 'node:net';
import type { Duplex } from 'node:stream';
import mqttPacket, {
  type IConnectPacket,
  type IPublishPacket,
  type ISubackPacket,
  type ISubscription,
  type Packet,
} from 'mqtt-packet';

export type Version = 3 | 4 | 5;
export type PacketName = Packet['cmd'];

/** What the parser really produces is narrower than what mqtt-packet's types say it takes. */
interface Narrowed {
  publish: Omit<IPublishPacket, 'payload'> & { payload: Buffer };
  suback: Omit<ISubackPacket, 'granted'> & { granted: number[] };
}

/** A packet as received, with the bytes it came in: `raw` is the whole packet, fixed header included. */
export type Received<K extends PacketName = PacketName> = (K extends keyof Narrowed
  ? Narrowed[K]
  : Extract<Packet, { cmd: K }>) & { raw: Buffer };

export interface ConnectOptions {
  version?: Version;
  clientId?: string;
  clean?: boolean;
  keepAliveSeconds?: number;
  username?: string;
  password?: string | Buffer;
  will?: NonNullable<IConnectPacket['will']>;
  properties?: NonNullable<IConnectPacket['properties']>;
}

export interface PublishOptions {
  qos?: 0 | 1 | 2;
  retain?: boolean;
  dup?: boolean;
  /** Chosen by the client where absent and needed. */
  messageId?: number;
  properties?: NonNullable<IPublishPacket['properties']>;
}

/** Long enough for a loaded machine, short enough that a hanging test says so before the runner gives up. */
const TIMEOUT_MS = 3000;
/** Packets in a failure message: enough to see how it came to this. */
const HISTORY_SHOWN = 12;

const open = new Set<RawClient>();
let lastClient = 0;

/** A client id that no other test of the process uses. */
export function uniqueClientId(prefix = 'raw'): string {
  lastClient += 1;
  return `${prefix}-${process.pid}-${lastClient}`;
}

/** Closes whatever tests left open; for the `after` hook of a file, so that a failed test cannot keep the process alive. */
export function closeAllClients(): void {
  for (const client of open) client.destroy();
}

export class RawClient {
  /** Decides how packets are encoded and decoded; set by `mqttConnect`, or up front for packets before CONNECT. */
  version: Version;
  /** The answer to the last `mqttConnect`. */
  connack: Received<'connack'> | undefined;
  /** Packets nobody has asked for yet, oldest first. */
  readonly queue: Received[] = [];

  readonly #stream: Duplex;
  #bytes: Buffer = Buffer.alloc(0);
  #closed = false;
  #closeError: Error | undefined;
  #broken: Error | undefined;
  #lastMessageId = 0;
  #bytesReceived = 0;
  /** What was sent and what was taken from the queue last, for failure messages. */
  readonly #history: (['sent', Buffer] | ['received', Received])[] = [];
  readonly #waiters = new Set<() => void>();

  constructor(stream: Duplex, version: Version = 4) {
    this.#stream = stream;
    this.version = version;
    open.add(this);
    stream.on('data', (chunk: Buffer) => this.#onData(chunk));
    stream.on('error', (error: Error) => {
      this.#closeError = error;
    });
    // A broker that shuts down its side is done with us, whether or not the rest of the stream is still open.
    stream.on('end', () => this.#onClose());
    stream.on('close', () => this.#onClose());
  }

  /** Opens a TCP connection and sends nothing. */
  static connect(port: number, options: { host?: string; version?: Version } = {}): Promise<RawClient> {
    return new Promise((resolve, reject) => {
      const socket = connectSocket({ port, host: options.host ?? '127.0.0.1', noDelay: true });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RawClient(socket, options.version));
      });
    });
  }

  /** Opens a TCP connection and an MQTT connection on it that the broker must accept. */
  static async open(port: number, options: ConnectOptions = {}): Promise<RawClient> {
    const client = await RawClient.connect(port);
    const connack = await client.mqttConnect(options);
    // The return code of 3.1 and 3.1.1, the reason code of 5.0.
    const code = connack.returnCode ?? connack.reasonCode;
    assert.equal(code, 0, `the broker refused CONNECT with ${code}: ${hex(connack.raw)}`);
    return client;
  }

  /** Sends CONNECT and waits for CONNACK, whatever it says. A client id is made up where none is given. */
  async mqttConnect(options: ConnectOptions = {}): Promise<Received<'connack'>> {
    this.sendConnect(options);
    this.connack = await this.expect('connack');
    return this.connack;
  }

  /** Sends CONNECT and waits for nothing. */
  sendConnect(options: ConnectOptions = {}): void {
    this.version = options.version ?? this.version;
    this.send(connectPacket({ ...options, version: this.version }));
  }

  /** Writes bytes as they are, or a packet as mqtt-packet encodes it for this client's version, in one write. */
  send(...items: (Uint8Array | readonly number[] | Packet)[]): void {
    const parts = items.map((item) => this.encode(item));
    const bytes = Buffer.concat(parts);
    this.#remember(['sent', bytes]);
    this.#stream.write(bytes);
  }

  encode(item: Uint8Array | readonly number[] | Packet): Buffer {
    if (item instanceof Uint8Array) return Buffer.from(item);
    if ('cmd' in item) return mqttPacket.generate(item, { protocolVersion: this.version });
    return Buffer.from(item);
  }

  /** The next packet, which must be a `name`. */
  async expect<K extends PacketName>(name: K, timeoutMs = TIMEOUT_MS): Promise<Received<K>> {
    return this.expectOneOf([name], timeoutMs);
  }

  /** The next packet, which must be one of these. */
  async expectOneOf<K extends PacketName>(names: readonly K[], timeoutMs = TIMEOUT_MS): Promise<Received<K>> {
    const wanted = `a ${names.join(' or ')}`;
    await this.#until(() => this.queue.length > 0, timeoutMs, wanted);
    const packet = this.queue.shift()!;
    this.#remember(['received', packet]);
    if (!names.some((name) => name === packet.cmd)) this.#fail(`expected ${wanted}, got ${describe(packet)}`);
    return packet as Received<K>;
  }

  /** The first `name` in the order of arrival; other packets stay queued. For answers whose order the standard leaves open. */
  async find<K extends PacketName>(name: K, timeoutMs = TIMEOUT_MS): Promise<Received<K>> {
    const index = () => this.queue.findIndex((packet) => packet.cmd === name);
    await this.#until(() => index() >= 0, timeoutMs, `a ${name}`);
    const [packet] = this.queue.splice(index(), 1);
    this.#remember(['received', packet!]);
    return packet as Received<K>;
  }

  /** The connection ends, and no packet arrives before it that the test has not asked for. */
  async expectClosed(timeoutMs = TIMEOUT_MS): Promise<void> {
    await this.#until(
      () => this.#closed || this.queue.length > 0,
      timeoutMs,
      'the connection to close',
      true,
    );
    const [packet] = this.queue;
    if (packet !== undefined) this.#fail(`expected the connection to close, got ${describe(packet)}`);
    this.destroy();
  }

  /** The connection ends; whatever arrived before it is in `queue`. */
  async closed(timeoutMs = TIMEOUT_MS): Promise<void> {
    await this.#until(() => this.#closed, timeoutMs, 'the connection to close', true);
    this.destroy();
  }

  /** MQTT 5: the broker says why in a DISCONNECT, then closes. Several codes where the standard leaves a choice. */
  async expectDisconnect(...reasonCodes: number[]): Promise<Received<'disconnect'>> {
    const packet = await this.find('disconnect');
    const code = packet.reasonCode ?? 0;
    const wanted = reasonCodes.map((wantedCode) => `0x${wantedCode.toString(16)}`).join(' or ');
    if (!reasonCodes.includes(code)) {
      this.#fail(`expected DISCONNECT ${wanted}, got 0x${code.toString(16)}: ${hex(packet.raw)}`);
    }
    await this.closed();
    return packet;
  }

  /**
   * The broker has read everything sent before: PINGREQ is answered in turn, so this is the way to wait for packets without an answer.
   * What was delivered meanwhile stays in `queue`. It is no promise about deliveries that the broker makes later on.
   */
  async barrier(): Promise<void> {
    this.send([0xc0, 0x00]);
    await this.find('pingresp');
  }

  /** Nothing is queued and, after a barrier, still nothing. */
  async expectQuiet(): Promise<void> {
    await this.barrier();
    const [packet] = this.queue;
    if (packet !== undefined) this.#fail(`expected nothing, got ${describe(packet)}`);
  }

  /** Nothing arrives for `ms`. Costs its time in every run: prefer `expectQuiet`, or a message that must come first. */
  async expectNothing(ms: number): Promise<void> {
    const deadline = Date.now() + ms;
    const bytesBefore = this.#bytesReceived;
    await new Promise<void>((resolve) => {
      setTimeout(resolve, deadline - Date.now());
    });
    if (this.#closed) this.#fail('expected nothing, the connection was closed');
    const [packet] = this.queue;
    if (packet !== undefined) this.#fail(`expected nothing for ${ms} ms, got ${describe(packet)}`);
    if (this.#bytesReceived !== bytesBefore) this.#fail(`expected nothing, got bytes ${hex(this.#bytes)}`);
  }

  /** Subscribes and waits for SUBACK; answers the granted codes. Deliveries that overtake SUBACK stay queued. */
  async subscribe(
    filters: string | (string | ISubscription)[],
    qos: 0 | 1 | 2 = 0,
    properties?: { subscriptionIdentifier?: number },
  ): Promise<number[]> {
    const list = typeof filters === 'string' ? [filters] : filters;
    const messageId = this.nextMessageId();
    this.send({
      cmd: 'subscribe',
      messageId,
      subscriptions: list.map((entry) => (typeof entry === 'string' ? { topic: entry, qos } : entry)),
      ...(properties === undefined ? {} : { properties }),
    });
    const suback = await this.find('suback');
    assert.equal(suback.messageId, messageId, `SUBACK for another packet id: ${hex(suback.raw)}`);
    return suback.granted;
  }

  async unsubscribe(...filters: string[]): Promise<Received<'unsuback'>> {
    const messageId = this.nextMessageId();
    this.send({ cmd: 'unsubscribe', messageId, unsubscriptions: filters });
    const unsuback = await this.find('unsuback');
    assert.equal(unsuback.messageId, messageId, `UNSUBACK for another packet id: ${hex(unsuback.raw)}`);
    return unsuback;
  }

  /** Publishes and sees the QoS flow through to its end; QoS 0 ends with a barrier, so the broker has taken the message. */
  async publish(topic: string, payload: string | Buffer, options: PublishOptions = {}): Promise<void> {
    const messageId = this.sendPublish(topic, payload, options);
    if (options.qos === 1) {
      const puback = await this.find('puback');
      assert.equal(puback.messageId, messageId, `PUBACK for another packet id: ${hex(puback.raw)}`);
    } else if (options.qos === 2) {
      const pubrec = await this.find('pubrec');
      assert.equal(pubrec.messageId, messageId, `PUBREC for another packet id: ${hex(pubrec.raw)}`);
      this.send({ cmd: 'pubrel', messageId });
      const pubcomp = await this.find('pubcomp');
      assert.equal(pubcomp.messageId, messageId, `PUBCOMP for another packet id: ${hex(pubcomp.raw)}`);
    } else {
      await this.barrier();
    }
  }

  /** Sends PUBLISH and waits for nothing. Answers the packet id, 0 for QoS 0. */
  sendPublish(topic: string, payload: string | Buffer, options: PublishOptions = {}): number {
    const qos = options.qos ?? 0;
    const messageId = qos === 0 ? 0 : (options.messageId ?? this.nextMessageId());
    this.send({
      cmd: 'publish',
      topic,
      payload,
      qos,
      retain: options.retain ?? false,
      dup: options.dup ?? false,
      ...(qos === 0 ? {} : { messageId }),
      ...(options.properties === undefined ? {} : { properties: options.properties }),
    });
    return messageId;
  }

  /**
   * The next packet is this PUBLISH, which is acknowledged to the end. With `payload` given it must be the one: a message that must come
   * first is how a test shows that another one was not delivered.
   */
  async expectMessage(topic: string, payload: string): Promise<Received<'publish'>> {
    const publish = await this.expect('publish');
    const got = `${publish.topic} ${JSON.stringify(publish.payload.toString())}`;
    const wanted = `${topic} ${JSON.stringify(payload)}`;
    if (got !== wanted) this.#fail(`expected the message ${wanted}, got ${got}: ${hex(publish.raw)}`);
    await this.acknowledge(publish);
    return publish;
  }

  /** Answers a delivery as its QoS asks for. */
  async acknowledge(publish: Received<'publish'>): Promise<void> {
    if (publish.qos === 0) return;
    const messageId = publish.messageId!;
    if (publish.qos === 1) {
      this.send({ cmd: 'puback', messageId });
      return;
    }
    this.send({ cmd: 'pubrec', messageId });
    const pubrel = await this.find('pubrel');
    assert.equal(pubrel.messageId, messageId, `PUBREL for another packet id: ${hex(pubrel.raw)}`);
    this.send({ cmd: 'pubcomp', messageId });
  }

  /** DISCONNECT, then waits for the broker to close. */
  async disconnect(): Promise<void> {
    this.send([0xe0, 0x00]);
    await this.closed();
  }

  nextMessageId(): number {
    this.#lastMessageId = (this.#lastMessageId % 65_535) + 1;
    return this.#lastMessageId;
  }

  /** Ends the stream properly, without DISCONNECT: to the broker a connection lost. */
  end(): void {
    this.#stream.end();
  }

  /** Drops the connection without a word. */
  destroy(): void {
    open.delete(this);
    this.#stream.destroy();
  }

  /** Stops and resumes reading from the socket, to play a subscriber that does not keep up. */
  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  #onData(chunk: Buffer): void {
    this.#bytesReceived += chunk.length;
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    for (let frame = takeFrame(this.#bytes); frame !== undefined; frame = takeFrame(this.#bytes)) {
      this.#bytes = this.#bytes.subarray(frame.length);
      try {
        this.queue.push(decode(frame, this.version));
      } catch (error) {
        this.#broken = new Error(`the broker sent what is no packet: ${hex(frame)}`, { cause: error });
        break;
      }
    }
    this.#wake();
  }

  #onClose(): void {
    this.#closed = true;
    this.#wake();
  }

  #wake(): void {
    for (const waiter of this.#waiters) waiter();
  }

  /** Waits until `ready`, and fails with everything known where that cannot or does not happen. */
  async #until(
    ready: () => boolean,
    timeoutMs: number,
    what: string,
    closeIsExpected = false,
  ): Promise<void> {
    let outcome: 'ready' | 'closed' | 'timeout' | undefined;
    const look = (): boolean => {
      if (this.#broken !== undefined) throw this.#broken;
      if (ready()) outcome = 'ready';
      else if (this.#closed && !closeIsExpected) outcome = 'closed';
      return outcome !== undefined;
    };
    if (!look()) {
      await new Promise<void>((resolve, reject) => {
        const finish = (settle: () => void) => {
          clearTimeout(timer);
          this.#waiters.delete(waiter);
          settle();
        };
        const timer = setTimeout(() => {
          outcome = 'timeout';
          finish(resolve);
        }, timeoutMs);
        const waiter = () => {
          try {
            if (look()) finish(resolve);
          } catch (error) {
            finish(() => reject(error));
          }
        };
        this.#waiters.add(waiter);
      });
    }
    if (outcome === 'closed') {
      const why = this.#closeError === undefined ? '' : ` (${this.#closeError.message})`;
      this.#fail(`expected ${what}, the connection was closed${why}`);
    }
    if (outcome === 'timeout') this.#fail(`expected ${what}, nothing like it came in ${timeoutMs} ms`);
  }

  #remember(event: ['sent', Buffer] | ['received', Received]): void {
    this.#history.push(event);
    if (this.#history.length > 2 * HISTORY_SHOWN) this.#history.splice(0, HISTORY_SHOWN);
  }

  #fail(what: string): never {
    const past = this.#history
      .slice(-HISTORY_SHOWN)
      .map(([kind, item]) => (kind === 'sent' ? `sent     ${hex(item)}` : `received ${describe(item)}`));
    const queued = this.queue.slice(0, 6).map((packet) => `queued   ${describe(packet)}`);
    const rest = this.#bytes.length === 0 ? [] : [`partial  ${hex(this.#bytes)}`];
    const history = [...past, ...queued, ...rest];
    assert.fail([what, ...history.map((line) => `    ${line}`)].join('\n'));
  }
}

/** The CONNECT packet `mqttConnect` sends. */
export function connectPacket(options: ConnectOptions = {}): IConnectPacket {
  const version = options.version ?? 4;
  const { username, password, will, properties } = options;
  return {
    cmd: 'connect',
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    protocolVersion: version,
    clientId: options.clientId ?? uniqueClientId(),
    clean: options.clean ?? true,
    keepalive: options.keepAliveSeconds ?? 60,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password: Buffer.from(password) }),
    ...(will === undefined ? {} : { will }),
    ...(properties === undefined ? {} : { properties }),
  };
}

// Builders for packets that mqtt-packet refuses to make.

/** A packet of any first byte and body, with the right remaining length. */
export function frame(firstByte: number, ...body: (Uint8Array | readonly number[])[]): Buffer {
  const bytes = Buffer.concat(body.map((part) => Uint8Array.from(part)));
  return Buffer.concat([Buffer.from([firstByte]), variableByteInteger(bytes.length), bytes]);
}

/** The shortest form of a variable byte integer. */
export function variableByteInteger(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low | 0x80 : low);
  } while (rest > 0);
  return Buffer.from(bytes);
}

export function uint16(value: number): Buffer {
  return Buffer.from([value >> 8, value & 0xff]);
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** Length-prefixed bytes: binary data, or a string that may be anything but well formed. */
export function prefixed(content: string | Uint8Array | readonly number[]): Buffer {
  const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : Buffer.from(content);
  return Buffer.concat([uint16(bytes.length), bytes]);
}

export interface WrongConnect {
  protocolName?: string | Uint8Array;
  level?: number;
  /** The connect flags byte as it goes out; clean session by default. */
  flags?: number;
  keepAliveSeconds?: number;
  /** The CONNECT properties with their length, for level 5: `00` by default there. */
  properties?: Uint8Array | readonly number[];
  /** Everything after the variable header, instead of just a client id. */
  payload?: (Uint8Array | readonly number[])[];
  /** The first byte, where the fixed header itself is to be wrong. */
  firstByte?: number;
}

/** A CONNECT in which every field can be wrong on its own. */
export function wrongConnect(wrong: WrongConnect = {}): Buffer {
  const level = wrong.level ?? 4;
  return frame(
    wrong.firstByte ?? 0x10,
    prefixed(wrong.protocolName ?? 'MQTT'),
    [level, wrong.flags ?? 0x02],
    uint16(wrong.keepAliveSeconds ?? 60),
    wrong.properties ?? (level === 5 ? [0x00] : []),
    ...(wrong.payload ?? [prefixed(uniqueClientId('wrong'))]),
  );
}

export function hex(bytes: Uint8Array): string {
  const shown = Buffer.from(bytes.subarray(0, 96))
    .toString('hex')
    .replace(/(..)(?=.)/g, '$1 ');
  return bytes.length > 96 ? `${shown} ... (${bytes.length} bytes)` : shown;
}

function describe(packet: Received): string {
  return `${packet.cmd} ${hex(packet.raw)}`;
}

/** The first whole packet of `bytes`, or undefined where more must arrive. */
function takeFrame(bytes: Buffer): Buffer | undefined {
  let length = 0;
  for (let index = 1; index < Math.min(bytes.length, 5); index++) {
    const byte = bytes[index]!;
    length += (byte & 0x7f) * 128 ** (index - 1);
    if ((byte & 0x80) === 0) {
      const total = index + 1 + length;
      return bytes.length < total ? undefined : bytes.subarray(0, total);
    }
    // A length that does not end is not a packet to wait for: the parser says so.
    if (index === 4) return bytes;
  }
  return undefined;
}

function decode(bytes: Buffer, version: Version): Received {
  const parser = mqttPacket.parser({ protocolVersion: version });
  let packet: Packet | undefined;
  let failure: unknown = new Error('the parser found no packet');
  parser.on('packet', (parsed) => {
    packet = parsed;
  });
  parser.on('error', (error) => {
    failure = error;
  });
  parser.parse(bytes);
  if (packet === undefined) throw failure;
  return Object.assign(packet, { raw: Buffer.from(bytes) }) as unknown as Received;
}
