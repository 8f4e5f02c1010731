// Owns one connection to a broker: the first connect, which fails with a reason once every broker was tried, and every reconnect after it, which goes
// from broker to broker with growing delays until it succeeds, is refused for good, or the caller's patience ends.
import { once } from 'node:events';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import type { IConnackPacket, IDisconnectPacket, Packet } from 'mqtt-packet';
import { type Address, formatAddress } from './address.js';
import { Brokers } from './brokers.js';
import { EXIT, Failure } from './failure.js';
import { InFlight } from './in-flight.js';
import type { ConnectionSettings } from './options.js';
import type { Output } from './output.js';
import { describeNetworkError, describeReason, oneLine } from './reasons.js';

/** For one attempt, and with several brokers for the whole of the first connect. */
const CONNECT_TIMEOUT_MS = 10_000;
/** For one attempt in the first round through several brokers, twice as long in the next: a frozen one must not hold up the others. */
const ATTEMPT_MS_FIRST = 1_000;
/** Between rounds through the brokers; within a round the next one is tried at once. */
const RECONNECT_MS_FIRST = 20;
const RECONNECT_MS_MAX = 1_000;
const AT_ONCE_MS = 1;
/** A connection that lasted this long was a good one: the next loss begins with short delays again. */
const STABLE_MS = 5_000;
/** How long the broker may take to close its side after our DISCONNECT. */
const CLOSE_TIMEOUT_MS = 1_000;
/** So many connections in a row without progress mean that what we send is the reason they end. */
const FRUITLESS_MAX = 5;
/** "Server busy", as where too few nodes are in sync: it takes a while, and each time the message is sent again it may be kept again. */
const BUSY = 0x89;
const BUSY_MS_FIRST = 1_000;
const BUSY_MS_MAX = 8_000;

/** Reasons that time heals: a reconnect may succeed. Anything else a broker says about a CONNECT or a connection is final. */
const PASSING = new Set([3, 0x80, 0x83, 0x88, 0x89, 0x8b, 0x8d, 0x96, 0x97, 0x9f, 0xa0]);
/** Use another server, server moved: final only where there is no other. */
const ELSEWHERE = new Set([0x9c, 0x9d]);

export interface ConnectionListener {
  /** Before anything has arrived. */
  onCreated?(client: MqttClient): void;
  /** Connected, for the first time or again; what was in flight has been sent again already. */
  onUp?(connack: IConnackPacket, first: boolean, name: string): void;
  /** Lost; a reconnect is under way. */
  onDown?(): void;
  /** Lost for good. */
  onFailed(failure: Failure): void;
  /** A line for a person: lost, connected again, and with --debug every packet. */
  onNotice(line: string): void;
}

/** What MQTT.js is told, and tells back as an error, where a message is deliberately not acknowledged. */
export class NotTaken extends Error {}

export interface ConnectionPolicy {
  /** Give up when a lost connection has not come back and made progress for so long; absent: never. */
  reconnectSecondsMax?: number;
  /** Ask the broker to resume the session on a reconnect, so that QoS 2 stays exactly once. */
  resume: boolean;
}

/** The MQTT.js client options for these settings. */
function clientOptions(settings: ConnectionSettings, address: Address): IClientOptions {
  const { tls, will, version } = settings;
  const options: IClientOptions = {
    clientId: settings.clientId,
    protocolVersion: version,
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    clean: settings.cleanStart,
    keepalive: settings.keepAliveSeconds,
    connectTimeout: CONNECT_TIMEOUT_MS,
    reconnectPeriod: RECONNECT_MS_FIRST,
    reconnectOnConnackError: true,
    // Subscriptions are renewed by the sub command, which reports what the broker answers.
    resubscribe: false,
    rejectUnauthorized: !tls.insecure,
  };
  pointAt(options, address);
  if (tls.ca !== undefined) options.ca = tls.ca;
  if (tls.cert !== undefined) options.cert = tls.cert;
  if (tls.key !== undefined) options.key = tls.key;
  if (version === 5) options.properties = { ...settings.properties.connect };
  if (will !== undefined) {
    options.will = { ...will };
    if (version === 5 && Object.keys(settings.properties.will).length > 0) {
      options.will.properties = { ...settings.properties.will };
    }
  }
  return options;
}

/** Sets, in the options of an MQTT.js client that is not connected, where its next attempt goes. */
function pointAt(options: IClientOptions & { servername?: string }, address: Address): void {
  const { scheme, port, path, username, password } = address;
  const isWebSocket = scheme === 'ws' || scheme === 'wss';
  // MQTT.js pastes the host into the URL of a WebSocket, where an IPv6 address needs its brackets.
  const host = isWebSocket && address.host.includes(':') ? `[${address.host}]` : address.host;
  for (const kept of ['path', 'servername', 'username', 'password'] as const) delete options[kept];
  Object.assign(options, { protocol: scheme, host, hostname: host, port });
  if (isWebSocket) options.path = path;
  if (username !== undefined) options.username = username;
  if (password !== undefined) options.password = password;
}

export class Connection {
  readonly client: MqttClient;
  readonly #settings: ConnectionSettings;
  readonly #policy: ConnectionPolicy;
  readonly #listener: ConnectionListener;
  readonly #brokers: Brokers;
  readonly #inFlight = new InFlight();
  /** Attempts since the last connection. */
  #attempts = 1;
  /** Every failure since then was that nothing listens there, so that to wait is of no use. */
  #nobodyThere = true;
  readonly #startedMs = Date.now();
  #lostName = '';
  #state: 'connecting' | 'up' | 'down' | 'closed' = 'connecting';
  /** What the latest error or DISCONNECT said; explains the close that follows it. */
  #reason: string | undefined;
  #final: Failure | undefined;
  /** The refusal of a broker that referred to another. */
  #reference: Failure | undefined;
  #upSinceMs = 0;
  #downSinceMs = 0;
  /** The first loss since the last progress. */
  #lossMs: number | undefined;
  /** The broker has said so, and how often in a row. */
  #isBusy = false;
  #busyTimes = 0;
  #fruitless = 0;
  #resending = false;
  #isCorked = false;

  /**
   * Connects.
   * @throws {Failure} where no broker can be connected to, with the CONNACK code as exit status where the last one refused
   */
  static async open(
    settings: ConnectionSettings,
    policy: ConnectionPolicy,
    listener: ConnectionListener,
    signal: AbortSignal,
  ): Promise<Connection> {
    const brokers = new Brokers(settings.brokers, settings.complete);
    await brokers.find(signal);
    const connection = new Connection(settings, brokers, policy, listener);
    await connection.#first(signal);
    return connection;
  }

  private constructor(
    settings: ConnectionSettings,
    brokers: Brokers,
    policy: ConnectionPolicy,
    listener: ConnectionListener,
  ) {
    this.#settings = settings;
    this.#brokers = brokers;
    this.#policy = policy;
    this.#listener = listener;
    try {
      const options = clientOptions(settings, brokers.current);
      options.outgoingStore = this.#inFlight;
      if (brokers.count > 1) {
        options.connectTimeout = ATTEMPT_MS_FIRST;
        options.reconnectPeriod = AT_ONCE_MS;
      }
      this.client = mqtt.connect(options);
    } catch (error) {
      // Certificates and keys are parsed here.
      throw new Failure(`cannot connect to ${this.#name}: ${describeNetworkError(error)}`, EXIT.error, error);
    }
    this.#listenToStream();
    if (settings.debug) this.#showPackets();
    listener.onCreated?.(this.client);
  }

  get #name(): string {
    return formatAddress(this.#brokers.current);
  }

  /** WebSocket errors have no code, and MQTT.js keeps errors without a code to itself. */
  #listenToStream(): void {
    this.client.stream.on('error', (error: Error) => this.#onError(error));
  }

  /** True while publishes and subscriptions reach the broker. */
  get up(): boolean {
    return this.#state === 'up';
  }

  /** Something was acknowledged: the connection works, so patience with it is renewed. */
  progress(): void {
    this.#fruitless = 0;
    this.#busyTimes = 0;
    this.#lossMs = undefined;
  }

  async #first(signal: AbortSignal): Promise<void> {
    let resolve: () => void = () => undefined;
    let reject: (failure: Failure) => void = () => undefined;
    const promise = new Promise<void>((onUp, onFailure) => {
      resolve = onUp;
      reject = onFailure;
    });
    const onAbort = () =>
      reject(new Failure(`interrupted while connecting to ${this.#name}`, EXIT.interrupted));
    signal.addEventListener('abort', onAbort, { once: true });
    const { client } = this;
    client.on('error', (error) => {
      if (error instanceof NotTaken) return;
      this.#onError(error);
      if (this.#state === 'connecting') {
        if (this.#isHopeless()) reject(this.#final ?? this.#cannotConnect());
      } else if (this.#final !== undefined) this.#fail(this.#final);
    });
    client.on('disconnect', (packet) => this.#onDisconnect(packet));
    client.on('close', () => {
      if (this.#state === 'connecting') {
        if (this.#reason === undefined) this.#nobodyThere = false;
        if (this.#isHopeless()) reject(this.#final ?? this.#cannotConnect());
        else this.#brokers.refresh();
      } else this.#onClose();
    });
    client.on('packetreceive', (packet) => {
      if (packet.cmd === 'connack') this.#onConnack(packet);
      else if (packet.cmd === 'publish' || packet.cmd === 'pubrel') this.#writeTogether();
    });
    client.on('packetsend', (packet) => {
      // MQTT.js resends what is in flight with DUP 0, which [MQTT-3.3.1-1] forbids.
      if (this.#resending && packet.cmd === 'publish' && packet.qos > 0) packet.dup = true;
    });
    // Before MQTT.js, which begins to wait when it hears of the same.
    client.prependListener('close', () => {
      if (this.#state !== 'up' || this.#isBusy || Date.now() - this.#upSinceMs < STABLE_MS) return;
      this.#attempts = 0;
      client.options.reconnectPeriod = this.#brokers.count > 1 ? AT_ONCE_MS : RECONNECT_MS_FIRST;
    });
    client.on('reconnect', () => {
      if (this.#state === 'connecting') this.#reason = undefined;
      this.#aimAtNext();
      // The stream is made when those who listen have returned.
      queueMicrotask(() => this.#listenToStream());
    });
    client.on('connect', (connack) => {
      const first = this.#state === 'connecting';
      if (this.#state === 'closed') return;
      this.#onUp(connack, first);
      resolve();
    });
    try {
      await promise;
    } catch (error) {
      this.#state = 'closed';
      this.#brokers.stop();
      client.end(true);
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** MQTT.js is about to connect again: to whom, for how long, and when after that. */
  #aimAtNext(): void {
    const { options } = this.client;
    this.#brokers.advance();
    pointAt(options, this.#brokers.current);
    this.#attempts++;
    const { count } = this.#brokers;
    // The first attempt of the next round, counted from 0, is the one after the next.
    const round = Math.floor(this.#attempts / count);
    const pauseMs = Math.min(RECONNECT_MS_FIRST * 2 ** Math.max(0, round - 1), RECONNECT_MS_MAX);
    options.reconnectPeriod =
      this.#attempts % count === 0 ? Math.ceil(pauseMs * (0.5 + Math.random() / 2)) : AT_ONCE_MS;
    if (count === 1) return;
    const thisRound = Math.floor((this.#attempts - 1) / count);
    options.connectTimeout = Math.min(ATTEMPT_MS_FIRST * 2 ** thisRound, CONNECT_TIMEOUT_MS);
  }

  /** Whether the first connect is to be given up after an attempt that failed. */
  #isHopeless(): boolean {
    const { count } = this.#brokers;
    if (this.#final !== undefined) return true;
    if (this.#brokers.isReferred) return false;
    if (count === 1) return true;
    if (this.#attempts < count) return false;
    // A cluster that is about to elect a leader lets clients wait, or refuses them for the moment.
    return this.#nobodyThere || Date.now() - this.#startedMs > CONNECT_TIMEOUT_MS;
  }

  #cannotConnect(): Failure {
    const { count, names } = this.#brokers;
    if (this.#reference !== undefined && count === 1) {
      const { message, exitCode } = this.#reference;
      return new Failure(`${message}, but that fails: ${this.#reason ?? 'no answer'}`, exitCode);
    }
    if (count > 1) {
      const reason = this.#reason ?? 'they close the connection without an answer';
      return new Failure(`cannot connect to any of ${names}: ${reason}`);
    }
    const reason =
      this.#reason ??
      (this.#settings.version === 5
        ? 'the broker closed the connection without an answer; if it knows only MQTT 3.1.1, add -V 311'
        : 'the broker closed the connection without an answer; is this its MQTT port?');
    return new Failure(`cannot connect to ${this.#name}: ${reason}`);
  }

  #onConnack(connack: IConnackPacket): void {
    const code = this.#settings.version === 5 ? connack.reasonCode : connack.returnCode;
    if (code === undefined || code === 0) {
      this.#resending = this.#state === 'down';
      this.#inFlight.limit(connack.properties?.receiveMaximum);
      return;
    }
    this.#reason = `${this.#name} refused the connection: ${describeReason(code, connack.properties)}`;
    this.#nobodyThere = false;
    if (this.#isElsewhere(code, connack.properties?.serverReference)) {
      this.#reference = new Failure(this.#reason, code);
      return;
    }
    const { count } = this.#brokers;
    // A first connect does not wait for better times, unless others may take the client.
    const isOver =
      this.#state === 'connecting' &&
      (count === 1 || (this.#attempts >= count && Date.now() - this.#startedMs > CONNECT_TIMEOUT_MS));
    if (isOver || !PASSING.has(code)) this.#final = new Failure(this.#reason, code);
  }

  /** The broker names another, and there is one to go to. */
  #isElsewhere(code: number, reference: string | undefined): boolean {
    if (!ELSEWHERE.has(code)) return false;
    if (this.#brokers.refer(reference)) {
      // At once; MQTT.js has not begun to wait yet.
      this.client.options.reconnectPeriod = AT_ONCE_MS;
      return true;
    }
    return this.#brokers.count > 1;
  }

  #onError(error: Error & { code?: number | string }): void {
    // A refused CONNECT has been described by its CONNACK already.
    if (typeof error.code === 'number' && this.#reason !== undefined) return;
    if (error.code !== 'ECONNREFUSED' && error.code !== 'ENOTFOUND') this.#nobodyThere = false;
    this.#reason = describeNetworkError(error);
  }

  #onDisconnect(packet: IDisconnectPacket): void {
    const code = packet.reasonCode ?? 0;
    this.#reason = describeReason(code === 0 ? 0x80 : code, packet.properties);
    this.#isBusy = code === BUSY;
    if (this.#isBusy) {
      this.client.options.reconnectPeriod = Math.min(BUSY_MS_FIRST * 2 ** this.#busyTimes++, BUSY_MS_MAX);
    }
    if (this.#isElsewhere(code, packet.properties?.serverReference)) return;
    if (code !== 0 && !PASSING.has(code)) {
      this.#final = new Failure(`${this.#name} closed the connection: ${this.#reason}`);
    }
  }

  #onUp(connack: IConnackPacket, first: boolean): void {
    this.#state = 'up';
    this.#resending = false;
    this.#reason = undefined;
    this.#isBusy = false;
    this.#upSinceMs = Date.now();
    this.#brokers.settled();
    if (first) {
      // From now on the session is to be found again, not to be started anew.
      if (this.#policy.resume) this.client.options.clean = false;
    } else {
      const seconds = ((Date.now() - this.#downSinceMs) / 1000).toFixed(1);
      const again = this.#name === this.#lostName ? ' again' : '';
      this.#inFlight.sendAgain(this.client);
      this.#listener.onNotice(`connected to ${this.#name}${again} after ${seconds} s`);
    }
    this.#listener.onUp?.(connack, first, this.#name);
  }

  #onClose(): void {
    if (this.#state === 'closed') return;
    if (this.#final !== undefined) {
      this.#fail(this.#final);
      return;
    }
    const now = Date.now();
    const wasUp = this.#state === 'up';
    // A CONNACK was followed by a close before what was in flight could be sent again.
    const wasResending = this.#resending;
    this.#resending = false;
    if (wasUp) {
      if (now - this.#upSinceMs >= STABLE_MS) this.progress();
      this.#state = 'down';
      this.#lostName = this.#name;
      this.#downSinceMs = now;
      this.#listener.onNotice(
        `lost the connection to ${this.#name}: ${this.#reason ?? 'the broker closed it'}; reconnecting`,
      );
      this.#listener.onDown?.();
    }
    this.#brokers.refresh();
    if ((wasUp || wasResending) && !this.#isBusy) this.#fruitless++;
    this.#lossMs ??= now;
    const { reconnectSecondsMax } = this.#policy;
    if (reconnectSecondsMax !== undefined) {
      if (this.#fruitless >= FRUITLESS_MAX * this.#brokers.count) {
        const why = `${this.#name} closed ${this.#fruitless} connections in a row without acknowledging anything`;
        this.#fail(new Failure(`${why}; it may not allow this message, its log says why`));
        return;
      }
      if (now - this.#lossMs > reconnectSecondsMax * 1000) {
        const why = this.#reason ?? 'the broker closes the connection';
        this.#fail(new Failure(`gave up on ${this.#brokers.names} after ${reconnectSecondsMax} s: ${why}`));
        return;
      }
    }
    this.#reason = undefined;
  }

  /** Has the acknowledgements of one turn leave at once: MQTT.js writes each alone, which takes longer than everything else about it. */
  #writeTogether(): void {
    if (this.#isCorked) return;
    this.#isCorked = true;
    const { stream } = this.client;
    stream.cork();
    setImmediate(() => {
      this.#isCorked = false;
      stream.uncork();
    });
  }

  #fail(failure: Failure): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#brokers.stop();
    this.client.end(true);
    this.#listener.onFailed(failure);
  }

  /**
   * Says DISCONNECT and waits, for a bounded time, until the broker has closed its side, so that what was written before it
   * arrives. What is still in flight is given up.
   */
  async close(): Promise<void> {
    const wasUp = this.#state === 'up';
    const closedBefore = this.#state === 'closed';
    this.#state = 'closed';
    if (closedBefore) return;
    this.#brokers.stop();
    const { client } = this;
    if (!wasUp) {
      client.end(true);
      return;
    }
    // With something in flight, MQTT.js would wait for its acks without a limit.
    client.outgoing = {};
    const properties = this.#settings.properties.disconnect;
    const packet: Partial<IDisconnectPacket> =
      this.#settings.version === 5 && Object.keys(properties).length > 0 ? { reasonCode: 0, properties } : {};
    const closed = once(client.stream, 'close');
    const timer = setTimeout(() => client.stream.destroy(), CLOSE_TIMEOUT_MS);
    client.end(false, packet);
    // A reset instead of a close is as good at this point.
    await closed.catch(() => undefined);
    clearTimeout(timer);
  }

  #showPackets(): void {
    // MQTT.js sent the first CONNECT before anyone could listen.
    const { clientId, clean, protocolVersion, keepalive, username, properties } = this.client.options;
    const connect = { clientId, clean, protocolVersion, keepalive, username, properties };
    this.#listener.onNotice(`sent CONNECT ${JSON.stringify(connect)}`);
    const show = (direction: string) => (packet: Packet) =>
      this.#listener.onNotice(`${direction} ${describePacket(packet)}`);
    this.client.on('packetsend', show('sent'));
    this.client.on('packetreceive', show('received'));
  }
}

/**
 * Calls back once stdout has been read, so that the client reads nothing more until then, but goes on telling the broker that it is alive. The
 * error, where the connection is gone by then, has MQTT.js acknowledge nothing.
 */
export function onceReaderIsBack(
  output: Output,
  client: MqttClient,
  callback: (error?: Error) => void,
): void {
  const every = client.keepalive ?? 0;
  const pinging =
    every === 0
      ? undefined
      : setInterval(() => {
          if (!client.connected) return;
          client.sendPing();
          // The answer waits behind the messages, so its absence says nothing.
          client.reschedulePing(true);
        }, every * 500);
  output.onceDrained(() => {
    clearInterval(pinging);
    callback(client.connected ? undefined : new NotTaken());
  });
}

/** A packet on one line for --debug, without payloads and passwords. */
export function describePacket(packet: Packet): string {
  const shown: Record<string, unknown> = { ...packet };
  for (const key of ['cmd', 'length', 'password', 'protocolId']) delete shown[key];
  if (packet.cmd === 'publish') shown.payload = `${Buffer.byteLength(packet.payload)} bytes`;
  if (packet.cmd === 'connect' && packet.will) shown.will = packet.will.topic;
  const properties = Object.entries(shown).filter(([, value]) => value !== undefined && value !== null);
  return oneLine(`${packet.cmd.toUpperCase()} ${JSON.stringify(Object.fromEntries(properties))}`);
}
