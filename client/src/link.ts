// Owns the way to a broker: which of the list, when to try again, and when to stop trying.
// Invariant: at most one connection, or one pause before the next, or one search for the first brokers, at any time; none after stop().
import type { IClientOptions, IPublishPacket, MqttClient } from 'mqtt';
import { type BrokerLimits, Connection, type ConnectionOwner, type Packet } from './connection.js';
import { systemCode } from './connection-errors.js';
import { findBrokers } from './discovery.js';
import { GomqClientError } from './errors.js';
import { type BrokerAddress, parseBroker, type Qos, type ResolvedConnectionOptions } from './options.js';

/** A connection that lasted this long was a good one: pauses start from the shortest again. */
const STABLE_MS = 5_000;
/** How long one attempt may take in the first round through several brokers, twice as long in the next: a frozen one must not hold up the others. */
const ATTEMPT_MS_FIRST = 1_000;
const DISCOVERY_MS = 1_000;
/** So long after an attempt was given up, its CONNECT may still reach the broker, and take the session from the connection that came after it. */
const GHOST_MS = 10_000;
/** More redirects in a row than this are a circle. */
const REDIRECTS_MAX = 3;
/** How long a DISCONNECT may take to be answered by the end of the connection. */
export const GOODBYE_MS = 1_000;

export interface LinkOwner {
  /** The broker owes an answer. */
  awaitsAnswer(): boolean;
  onConnack(sessionPresent: boolean, limits: BrokerLimits): void;
  onUp(client: MqttClient): void;
  onPacket(packet: Packet): void;
  onPublish(packet: IPublishPacket, qos: Qos, done: () => void): void;
  /** The connection ended; another is on its way unless `onFailed` follows. */
  onDown(error: GomqClientError): void;
  /** No broker of the list will have this client. Nothing more happens until start(). */
  onFailed(error: GomqClientError): void;
}

interface Waiter {
  resolve: () => void;
  reject: (error: GomqClientError) => void;
}

export class Link {
  readonly options: ResolvedConnectionOptions;
  readonly #owner: LinkOwner;
  readonly #messageIdProvider: IClientOptions['messageIdProvider'];
  readonly #waiters = new Set<Waiter>();
  #state: 'idle' | 'active' | 'stopped' = 'idle';
  #connection: Connection | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  /** Those of the options, or those found last. */
  #brokers: readonly BrokerAddress[];
  readonly #searches = new AbortController();
  #isSearching = false;
  #next = 0;
  #redirect: BrokerAddress | undefined;
  #redirects = 0;
  #failures = 0;
  #round: GomqClientError[] = [];
  #upSinceMs = 0;
  #up = false;
  #everUp = false;
  /** What stands between this process and a session that holds nothing of another process's state; see `#cleanStart`. */
  #session: 'unknown' | 'foreign' | 'own';
  #lastError: GomqClientError | undefined;
  /** When an attempt ended that a broker may still carry out. */
  #givenUpMs = Number.NEGATIVE_INFINITY;
  #again = false;

  /**
   * With `freshSession` the first connection of this process takes over nothing from an earlier process with the same client
   * id: the state of outgoing messages died with that process, and a packet id that the broker remembers from it would make
   * the broker take a new QoS 2 message for an old one and drop it ([MQTT-3.2.2-4] v5). Later connections resume.
   */
  constructor(
    options: ResolvedConnectionOptions,
    freshSession: boolean,
    messageIdProvider: IClientOptions['messageIdProvider'],
    owner: LinkOwner,
  ) {
    this.options = options;
    this.#brokers = options.brokers;
    // MQTT 3.1 does not tell whether a session was present, so there it counts as foreign from the start.
    this.#session = freshSession ? (options.protocolVersion === 3 ? 'foreign' : 'unknown') : 'own';
    this.#messageIdProvider = messageIdProvider;
    this.#owner = owner;
  }

  /** The client of the connection, while MQTT.js takes publishes and subscriptions. */
  get client(): MqttClient | undefined {
    return this.#up ? this.#connection?.client : undefined;
  }

  /** What keeps the connection down, or brought it down last. */
  get lastError(): GomqClientError | undefined {
    return this.#lastError;
  }

  /** Begins to connect unless that is under way. */
  start(): void {
    if (this.#state === 'idle') {
      this.#state = 'active';
      this.#failures = 0;
      this.#round = [];
      this.#connect();
    }
  }

  /** Resolves when connected; rejects when every broker of the list was tried without success. */
  connected(): Promise<void> {
    if (this.#up) {
      return Promise.resolve();
    }
    if (this.#state === 'stopped') {
      return Promise.reject(new GomqClientError('CLOSED', 'The client is closed.'));
    }
    this.start();
    return new Promise((resolve, reject) => this.#waiters.add({ resolve, reject }));
  }

  writeAck(kind: 'puback' | 'pubrec' | 'pubrel', packetId: number): void {
    this.#connection?.writeAck(kind, packetId);
  }

  async stop(timeoutMs: number): Promise<void> {
    this.#state = 'stopped';
    clearTimeout(this.#retryTimer);
    this.#searches.abort();
    this.#settleWaiters(new GomqClientError('CLOSED', 'The client was closed before it was connected.'));
    await this.#connection?.end(timeoutMs, this.options.clientIdGenerated);
  }

  #connect(): void {
    const brokers = this.#brokers;
    const broker = this.#redirect ?? brokers[this.#next % brokers.length];
    if (broker === undefined) {
      // #onSearched goes on.
      this.#search();
      return;
    }
    if (this.#redirect === undefined) {
      this.#next += 1;
    }
    this.#redirect = undefined;
    const owner: ConnectionOwner = {
      awaitsAnswer: () => this.#owner.awaitsAnswer(),
      onConnack: (sessionPresent, limits) => {
        this.#again = this.options.protocolVersion < 5 && this.#isForeign(sessionPresent);
        if (this.#again) {
          return;
        }
        this.#session = 'own';
        this.options.onEvent({ type: 'connected', broker: broker.label, sessionPresent });
        this.#owner.onConnack(sessionPresent, limits);
      },
      onUp: () => {
        if (this.#again) {
          // Never rejects: whatever happens to the connection, onClosed follows.
          void this.#connection?.end(GOODBYE_MS, false);
          return;
        }
        this.#up = true;
        this.#everUp = true;
        this.#upSinceMs = performance.now();
        this.#round = [];
        this.#redirects = 0;
        this.#lastError = undefined;
        this.#settleWaiters(undefined);
        if (this.#connection) {
          this.#owner.onUp(this.#connection.client);
        }
      },
      onPacket: (packet) => this.#owner.onPacket(packet),
      onPublish: (packet, qos, done) => this.#owner.onPublish(packet, qos, done),
      onClosed: (error, redirect) => {
        if (!this.#up && mayHaveArrived(error)) {
          this.#givenUpMs = performance.now();
        }
        this.#onClosed(broker, error, redirect);
      },
    };
    try {
      this.#connection = new Connection(
        broker,
        this.options,
        {
          cleanStart: this.#cleanStart(),
          timeoutMs: this.#attemptMs(),
          hasAlternatives: brokers.length > 1,
        },
        this.#messageIdProvider,
        owner,
      );
    } catch (error) {
      this.#onClosed(broker, error as GomqClientError, undefined);
    }
  }

  #attemptMs(): number {
    const { connectTimeoutMs } = this.options;
    if (this.#brokers.length === 1) {
      return connectTimeoutMs;
    }
    const round = Math.floor(this.#failures / this.#brokers.length);
    return Math.min(connectTimeoutMs, ATTEMPT_MS_FIRST * 2 ** Math.min(round, 20));
  }

  #cleanStart(): boolean {
    if (this.options.protocolVersion === 5) {
      return this.#session !== 'own';
    }
    // MQTT 3.1.1 has no session expiry: a session under a random id would stay at the broker for ever. And there a clean
    // session ends with its connection, so a foreign one is wiped by a connection made for that alone.
    return this.options.clientIdGenerated || this.#session === 'foreign';
  }

  /** Before MQTT 5: true where this connection only serves to get rid of a foreign session, and another follows at once. */
  #isForeign(sessionPresent: boolean): boolean {
    if (this.options.clientIdGenerated || this.#session === 'own') {
      return false;
    }
    const wiped = this.#session === 'foreign';
    if (!wiped && !sessionPresent) {
      return false;
    }
    this.#session = wiped ? 'own' : 'foreign';
    return true;
  }

  #onClosed(broker: BrokerAddress, error: GomqClientError, redirect: string | undefined): void {
    const wasUp = this.#up;
    this.#up = false;
    this.#connection = undefined;
    this.#lastError = error;
    if (wasUp) {
      if (performance.now() - this.#upSinceMs >= STABLE_MS) {
        this.#failures = 0;
      }
      if (this.#state === 'active') {
        this.options.onEvent({ type: 'disconnected', broker: broker.label, error });
      }
      this.#owner.onDown(error);
    } else {
      this.#round.push(error);
    }
    if (this.#state !== 'active') {
      return;
    }
    if (this.#again) {
      this.#again = false;
      this.#round.pop();
      this.#next += this.#brokers.length - 1;
      this.#connect();
      return;
    }
    if (error.code === 'SESSION_TAKEN_OVER') {
      if (performance.now() - this.#givenUpMs > GHOST_MS) {
        this.#fail(error);
        return;
      }
      // More likely than another client with this id: an attempt of this one that was given up, carried out late.
      this.#givenUpMs = Number.NEGATIVE_INFINITY;
    }
    // While the brokers known are tried, those who know more are asked.
    if (wasUp || this.#failures % this.#brokers.length === 0) {
      this.#search();
    }
    if (redirect !== undefined && this.#follow(broker, redirect)) {
      this.#connect();
      return;
    }
    if (this.#round.length >= this.#brokers.length) {
      const final = this.#round.find((failure) => !failure.retriable);
      const all = (test: (failure: GomqClientError) => boolean): boolean => this.#round.every(test);
      // A name that never resolved is taken for a misspelt one; a name that has worked before is not.
      if (
        all((failure) => !failure.retriable) ||
        (!this.#everUp && all((failure) => failure.code === 'UNKNOWN_HOST'))
      ) {
        this.#fail(final ?? error);
        return;
      }
      this.#settleWaiters(final ?? error);
      this.#round = [];
    }
    this.#retry(error);
  }

  /** The next broker of the list: at once for the first round, then with pauses between rounds that double, jittered. */
  #retry(error: GomqClientError): void {
    const { retryDelayMs, retryDelayMsMax } = this.options;
    const count = Math.max(1, this.#brokers.length);
    const round = Math.floor(this.#failures / count);
    const beginsRound = this.#failures % count === 0;
    this.#failures += 1;
    let delayMs = 0;
    if (round > 0 && beginsRound) {
      delayMs =
        (0.5 + Math.random() / 2) * Math.min(retryDelayMsMax, retryDelayMs * 2 ** Math.min(round - 1, 30));
    } else if (count === 1) {
      delayMs = (Math.random() * retryDelayMs) / 2;
    }
    const broker = this.#brokers[this.#next % count]?.label ?? 'brokers to be found';
    this.options.onEvent({ type: 'retrying', broker, delayMs, error });
    this.#retryTimer = setTimeout(() => this.#connect(), delayMs);
  }

  /** Asks which brokers there are, unless that is under way or they are fixed. Whoever is connected, or tries to be, goes on meanwhile. */
  #search(): void {
    const { discovery, tls } = this.options;
    if (discovery === undefined || this.#isSearching) {
      return;
    }
    this.#isSearching = true;
    findBrokers(discovery, tls, DISCOVERY_MS, this.#searches.signal)
      .then((addresses) =>
        addresses.map((address) => parseBroker(address, { tls: tls !== undefined, path: undefined })),
      )
      .then(
        (brokers) => this.#onSearched(brokers, undefined),
        (error: unknown) => this.#onSearched([], error as GomqClientError),
      );
  }

  #onSearched(found: readonly BrokerAddress[], error: GomqClientError | undefined): void {
    this.#isSearching = false;
    if (this.#state !== 'active') {
      return;
    }
    const isFirst = this.#brokers.length === 0;
    const labels = (brokers: readonly BrokerAddress[]): string => brokers.map(({ label }) => label).join(' ');
    if (found.length > 0 && labels(found) !== labels(this.#brokers)) {
      this.#brokers = found;
      this.#next = 0;
    }
    if (!isFirst) {
      return;
    }
    if (error === undefined) {
      this.#connect();
      return;
    }
    this.#lastError = error;
    this.#settleWaiters(error);
    this.#retry(error);
  }

  #follow(from: BrokerAddress, reference: string): boolean {
    const { followRedirects } = this.options;
    if (followRedirects === false || this.#redirects >= REDIRECTS_MAX) {
      return false;
    }
    // A server reference may list several servers, separated by spaces; the first is the broker's choice.
    const text = reference.trim().split(/\s+/)[0];
    try {
      const named = text?.includes('://') ? text : `${from.protocol}://${text}`;
      const target = parseBroker(named, { tls: false, path: from.path });
      const known = this.#brokers.find(({ host, port }) => host === target.host && port === target.port);
      if (known === undefined && followRedirects !== true) {
        return false;
      }
      const secure = (address: BrokerAddress): boolean =>
        address.protocol === 'mqtts' || address.protocol === 'wss';
      if (known === undefined && secure(from) && !secure(target)) {
        return false;
      }
      this.#redirect = known ?? { ...target, username: from.username, password: from.password };
    } catch {
      // A reference that cannot be read is as good as none: the next broker of the list is tried.
      return false;
    }
    this.#redirects += 1;
    return true;
  }

  #fail(error: GomqClientError): void {
    this.#state = 'idle';
    this.#round = [];
    this.#settleWaiters(error);
    this.#owner.onFailed(error);
  }

  #settleWaiters(error: GomqClientError | undefined): void {
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const waiter of waiters) {
      if (error === undefined) {
        waiter.resolve();
      } else {
        waiter.reject(error);
      }
    }
  }
}

/** An attempt failed in a way that leaves open whether the broker has the CONNECT. */
function mayHaveArrived({ code, cause }: GomqClientError): boolean {
  return code === 'TIMEOUT' || (code === 'CONNECT_FAILED' && systemCode(cause) !== 'ECONNREFUSED');
}
