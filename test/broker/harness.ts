// A real broker with transports in memory: what a client sends is handled within the call, what the broker writes arrives when the test says
// so. Bytes are read at the moment they "leave", not at the moment they are written, so a buffer that is used again too early is noticed.
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import fc from 'fast-check';
import mqttPacket, { type Packet } from 'mqtt-packet';
import { Broker } from '../../src/broker/broker.js';
import type { Clock } from '../../src/core/clock.js';
import { type Config, defaultConfig } from '../../src/core/config.js';
import type { LogFields, Logger } from '../../src/core/logger.js';
import type { Transport, TransportHandler } from '../../src/core/transport.js';
import type { Log } from '../../src/log/log.js';
import { MemoryLog, type MemoryLogOptions } from '../../src/log/memory-log.js';
import type { State } from '../../src/state/state.js';

export type Version = 3 | 4 | 5;

/** Decoded by mqtt-packet, in the few fields that these tests look at. */
export interface Received {
  cmd: Packet['cmd'];
  topic: string;
  payload: Buffer;
  qos: 0 | 1 | 2;
  dup: boolean;
  retain: boolean;
  messageId: number;
  reasonCode: number | undefined;
  returnCode: number | undefined;
  sessionPresent: boolean;
  granted: number[];
  properties: Record<string, unknown> | undefined;
}

/** Lets one turn of the event loop pass: the broker's turn and every callback that waits. */
export function tick(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Waits, turn by turn, until something has come true. */
export async function until(isTrue: () => boolean, what: string, turnsMax = 20_000): Promise<void> {
  for (let turns = 0; !isTrue(); turns++) {
    if (turns === turnsMax) assert.fail(`never came true: ${what}`);
    await tick();
  }
}

/**
 * Runs an asynchronous property with a seed that is printed whether it holds or not; `SEED=n` in the environment runs it again.
 * @param runs how many inputs
 * @param fixedSeed instead of one drawn at random
 */
export async function checkAsync<T>(
  context: TestContext,
  property: fc.IAsyncProperty<T>,
  runs: number,
  fixedSeed?: number,
): Promise<void> {
  const seed = Number(process.env.SEED ?? fixedSeed ?? Math.floor(Math.random() * 0x7fff_ffff));
  context.diagnostic(`seed ${seed}`);
  try {
    await fc.assert(property, { seed, numRuns: runs });
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : '';
    assert.fail(`${cause}\n${error instanceof Error ? error.message : error}`);
  }
}

interface Write {
  readonly bytes: Buffer;
  readonly onWritten: () => void;
}

export interface FakeTransportOptions {
  remoteAddress?: string;
  /** `write` answers false once this much waits, as a socket does. */
  highWaterBytes?: number;
  /** node's sockets say that they have drained before they say what was written. */
  drainsBeforeWritten?: boolean;
}

export class FakeTransport implements Transport {
  readonly remoteAddress: string;
  readonly remotePort = 40_000;
  readonly isSecure = false;
  readonly clientCertificateName = undefined;
  /** Bytes stay here while true, as with a client that does not read. */
  isStalled = false;
  isPaused = false;
  /** The broker has ended the connection. */
  isEnded = false;
  isClosed = false;
  pendingBytes = 0;
  readonly #highWaterBytes: number;
  readonly #drainsBeforeWritten: boolean;
  #onBytes: (bytes: Buffer) => void;
  #handler: TransportHandler | undefined = undefined;
  #writes: Write[] = [];
  #needsDrain = false;
  #isScheduled = false;

  constructor(onBytes: (bytes: Buffer) => void, options: FakeTransportOptions = {}) {
    this.#onBytes = onBytes;
    this.remoteAddress = options.remoteAddress ?? '127.0.0.1';
    this.#highWaterBytes = options.highWaterBytes ?? 65_536;
    this.#drainsBeforeWritten = options.drainsBeforeWritten ?? false;
  }

  start(handler: TransportHandler): void {
    this.#handler = handler;
  }

  write(bytes: Buffer, onWritten: () => void): boolean {
    if (this.isEnded || this.isClosed) {
      process.nextTick(onWritten);
      return false;
    }
    this.#writes.push({ bytes, onWritten });
    this.pendingBytes += bytes.length;
    this.#schedule();
    const hasRoom = this.pendingBytes < this.#highWaterBytes;
    if (!hasRoom) this.#needsDrain = true;
    return hasRoom;
  }

  cork(): void {}

  uncork(): void {}

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
  }

  end(): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.#schedule();
  }

  destroy(): void {
    this.isEnded = true;
    // Never from inside a method that the broker calls.
    setImmediate(() => this.cut(0));
  }

  /** What arrives from the client. Paused transports deliver nothing: the caller keeps the bytes. */
  receive(bytes: Buffer): void {
    if (!this.isEnded && !this.isClosed) this.#handler?.onData(bytes);
  }

  unstall(): void {
    this.isStalled = false;
    this.#schedule();
  }

  /** The connection breaks: of what is on its way only `bytes` arrive. */
  cut(bytes: number): void {
    if (this.isClosed) return;
    this.isClosed = true;
    const writes = this.#writes;
    this.#writes = [];
    let left = bytes;
    for (const write of writes) {
      const arriving = write.bytes.subarray(0, left);
      left -= arriving.length;
      if (arriving.length > 0) this.#onBytes(arriving);
      process.nextTick(write.onWritten);
    }
    this.pendingBytes = 0;
    this.#handler?.onClose(undefined);
  }

  /** The process at the other end dies: of what is on its way `bytes` arrive, and nothing that it does afterwards leaves it. */
  die(bytes: number): void {
    let left = bytes;
    for (const write of this.#writes) {
      const arriving = write.bytes.subarray(0, left);
      left -= arriving.length;
      if (arriving.length > 0 && !this.isClosed) this.#onBytes(arriving);
    }
    this.#onBytes = () => undefined;
    this.receive = () => undefined;
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#leave();
    });
  }

  #leave(): void {
    if (this.isClosed) return;
    if (!this.isStalled) {
      const writes = this.#writes;
      this.#writes = [];
      this.pendingBytes = 0;
      for (const { bytes } of writes) this.#onBytes(bytes);
      if (this.#drainsBeforeWritten) this.#drain();
      for (const { onWritten } of writes) onWritten();
      if (!this.#drainsBeforeWritten) this.#drain();
    }
    if (this.isEnded && this.#writes.length === 0) this.cut(0);
  }

  #drain(): void {
    if (!this.#needsDrain) return;
    this.#needsDrain = false;
    if (!this.isEnded) this.#handler?.onDrain();
  }
}

export interface ConnectOptions {
  clientId?: string;
  version?: Version;
  clean?: boolean;
  keepalive?: number;
  /** 5.0: session expiry, seconds. */
  expirySeconds?: number;
  receiveMaximum?: number;
  maximumPacketSize?: number;
  topicAliasMaximum?: number;
  will?: { topic: string; payload: Buffer; qos: 0 | 1 | 2; retain: boolean };
}

let lastClient = 0;

/** A client that does nothing by itself but take packets apart. */
export class FakeClient {
  readonly transport: FakeTransport;
  readonly version: Version;
  readonly packets: Received[] = [];
  /** Called for each packet as it arrives. */
  onPacket: ((packet: Received) => void) | undefined = undefined;
  bytesReceived = 0;
  readonly #parser: mqttPacket.Parser;

  constructor(broker: Broker, version: Version = 4, options: FakeTransportOptions = {}) {
    this.version = version;
    this.#parser = mqttPacket.parser({ protocolVersion: version });
    this.#parser.on('packet', (packet) => {
      const received = packet as unknown as Received;
      this.packets.push(received);
      this.onPacket?.(received);
    });
    this.#parser.on('error', (error: Error) => {
      throw error;
    });
    this.transport = new FakeTransport((bytes) => {
      this.bytesReceived += bytes.length;
      // A copy, because the broker may use its buffer again as soon as it has left.
      this.#parser.parse(Buffer.from(bytes));
    }, options);
    broker.accept(this.transport);
  }

  send(packet: object | Buffer): void {
    this.transport.receive(Buffer.isBuffer(packet) ? packet : encode(packet, this.version));
  }

  connect(options: ConnectOptions = {}): void {
    this.send(connectBytes({ version: this.version, ...options }));
  }

  /** The packets of one type, in the order of their arrival. */
  all(cmd: Packet['cmd']): Received[] {
    return this.packets.filter((packet) => packet.cmd === cmd);
  }

  /** The payloads of the messages that have arrived. */
  get payloads(): string[] {
    return this.all('publish').map((packet) => packet.payload.toString());
  }

  /** Acknowledges deliveries to the end as they arrive. */
  acknowledgeAll(): this {
    this.onPacket = (packet) => {
      const { cmd, messageId } = packet;
      if (cmd === 'publish' && packet.qos === 1) this.send({ cmd: 'puback', messageId });
      else if (cmd === 'publish' && packet.qos === 2) this.send({ cmd: 'pubrec', messageId });
      else if (cmd === 'pubrel') this.send({ cmd: 'pubcomp', messageId });
    };
    return this;
  }
}

export function encode(packet: object, version: Version): Buffer {
  return mqttPacket.generate(packet as Packet, { protocolVersion: version });
}

export function connectBytes(options: ConnectOptions & { version: Version }): Buffer {
  const { version, expirySeconds, receiveMaximum, maximumPacketSize, topicAliasMaximum } = options;
  const properties = {
    sessionExpiryInterval: expirySeconds,
    receiveMaximum,
    maximumPacketSize,
    topicAliasMaximum,
  };
  lastClient += 1;
  return encode(
    {
      cmd: 'connect',
      protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
      protocolVersion: version,
      clean: options.clean ?? true,
      clientId: options.clientId ?? `client-${lastClient}`,
      keepalive: options.keepalive ?? 0,
      ...(options.will === undefined ? {} : { will: options.will }),
      ...(version === 5
        ? {
            properties: Object.fromEntries(
              Object.entries(properties).filter(([, value]) => value !== undefined),
            ),
          }
        : {}),
    },
    version,
  );
}

export function publishBytes(
  version: Version,
  topic: string,
  payload: string | Buffer,
  options: { qos?: 0 | 1 | 2; messageId?: number; dup?: boolean; retain?: boolean } = {},
): Buffer {
  const { qos = 0, messageId, dup = false, retain = false } = options;
  return encode(
    { cmd: 'publish', topic, payload, qos, dup, retain, ...(qos === 0 ? {} : { messageId }) },
    version,
  );
}

/** A clock that stands still until it is turned. */
export class FakeClock implements Clock {
  now = 1_000_000;
  wallMs(): number {
    return 1_700_000_000_000 + this.now;
  }
  monotonicMs(): number {
    return this.now;
  }
}

export interface LogLine {
  level: 'debug' | 'info' | 'warn' | 'error';
  message: string;
  fields: LogFields | undefined;
}

export class LineLogger implements Logger {
  readonly lines: LogLine[] = [];
  debug(): void {
    // Diagnostics of every connection are of no interest here.
  }
  info(message: string, fields?: LogFields): void {
    this.lines.push({ level: 'info', message, fields });
  }
  warn(message: string, fields?: LogFields): void {
    this.lines.push({ level: 'warn', message, fields });
  }
  error(message: string, fields?: LogFields): void {
    this.lines.push({ level: 'error', message, fields });
  }
  child(): Logger {
    return this;
  }
}

export type Sections = { [K in keyof Config]?: Partial<Config[K]> };

export interface TestBrokerOptions {
  /** The log in memory where it is absent. */
  createLog?: (options: MemoryLogOptions) => Log;
  /** What the records of the log make, where it has any. */
  state?: State;
  /** The offsets of the publishes among them. */
  publishOffsets?: readonly number[];
}

/** Small enough that tests meet the limits. */
const MEMORY = { segmentBytes: 8_388_608, retentionBytes: 67_108_864, hardLimitBytes: 1_073_741_824 };

/** The same log, which notes the offsets of publishes: whatever has a topic. */
function noting(log: Log, publishOffsets: number[]): Log {
  const append = log.append.bind(log);
  log.append = (topicName, length, changesState) => {
    const slice = append(topicName, length, changesState);
    if (topicName !== '') publishOffsets.push(slice.offset);
    return slice;
  };
  return log;
}

export class TestBroker {
  readonly broker: Broker;
  /** Of the publishes among the records, in order. */
  readonly publishOffsets: number[];
  readonly clock = new FakeClock();
  readonly logger = new LineLogger();

  constructor(sections: Sections = {}, options: TestBrokerOptions = {}) {
    const createLog = options.createLog ?? ((log) => new MemoryLog(log));
    this.publishOffsets = [...(options.publishOffsets ?? [])];
    const config = defaultConfig();
    for (const [name, values] of Object.entries(sections)) {
      Object.assign(config[name as keyof Config], values);
    }
    this.broker = new Broker({
      config,
      createLog: (retention) => {
        const log = createLog({ ...MEMORY, ...sections.log, clock: this.clock, ...retention });
        return noting(log, this.publishOffsets);
      },
      ...(options.state === undefined ? {} : { state: options.state }),
      logger: this.logger,
      clock: this.clock,
      authenticator: { authenticate: ({ userName }) => ({ accepted: true, userName }), reload() {} },
      accessControl: undefined,
      onDefect: (error) => {
        // Out of every test's reach, so that no test can pass over it.
        queueMicrotask(() => {
          throw error;
        });
      },
    });
  }

  readonly #clients: FakeClient[] = [];

  /** Packets that have arrived at any client. */
  get packetCount(): number {
    return this.#clients.reduce((sum, { packets }) => sum + packets.length, 0);
  }

  client(version: Version = 4, options: FakeTransportOptions = {}): FakeClient {
    const client = new FakeClient(this.broker, version, options);
    this.#clients.push(client);
    return client;
  }

  /** A client whose CONNECT has been accepted. */
  async open(options: ConnectOptions = {}, transport: FakeTransportOptions = {}): Promise<FakeClient> {
    const client = this.client(options.version ?? 4, transport);
    client.connect(options);
    await until(() => client.packets.length > 0, 'CONNACK');
    const [connack] = client.packets.splice(0, 1);
    assert.equal(connack!.cmd, 'connack');
    assert.equal(connack!.returnCode ?? connack!.reasonCode, 0);
    return client;
  }

  async subscribe(client: FakeClient, filter: string, qos: 0 | 1 | 2, options: object = {}): Promise<void> {
    const before = client.all('suback').length;
    client.send({ cmd: 'subscribe', messageId: 60_000, subscriptions: [{ topic: filter, qos, ...options }] });
    await until(() => client.all('suback').length > before, `SUBACK for ${filter}`);
    assert.ok(client.all('suback').at(-1)!.granted[0]! < 0x80, `${filter} is granted`);
  }

  async stop(): Promise<void> {
    await this.broker.stop();
    await tick();
  }
}

/** Runs `body` with a broker that is stopped afterwards, whatever happens. */
export async function withBroker(
  sections: Sections,
  body: (test: TestBroker) => Promise<void>,
): Promise<void> {
  const test = new TestBroker(sections);
  try {
    await body(test);
  } finally {
    await test.stop();
  }
}
