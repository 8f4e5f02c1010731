// Owns the door for other brokers: accepts connections on the peer address, finds out who is there, and hands the welcomed ones over by what they
// are for. Strangers cost a bounded number of sockets, each for a bounded time and with a few KiB, and at most one log line a second.
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls';
import { type Address, listenError, parseAddress } from '../core/address.js';
import { assert } from '../core/assert.js';
import { type Clock, systemClock } from '../core/clock.js';
import type { Logger } from '../core/logger.js';
import type { HelloFrame, Refusal, TunnelClient } from './frames.js';
import {
  converse,
  HANDSHAKE_TIMEOUT_MS,
  ListenerHandshake,
  type PeerIdentity,
  type Welcomed,
} from './handshake.js';
import { type LinkToMember, linkToMember } from './peer-link.js';
import { PEER_TLS_VERSION_MIN, type PeerTls } from './peer-tls.js';

export interface PeerListenerOptions {
  /** HOST:PORT; port 0 takes a free one. */
  readonly address: string;
  readonly secret: string;
  /** Absent: plain TCP. */
  readonly tls?: PeerTls | undefined;
  readonly logger: Logger;
  readonly clock?: Clock;
  /** Connections that have not finished the handshake. */
  readonly handshakesMax?: number;
  readonly handshakeTimeoutMs?: number;
  /** Who this broker is when somebody comes. */
  identity(): PeerIdentity;
  /** Asked about a broker that has proved that it belongs to the cluster. */
  mayAccept(hello: HelloFrame): Refusal | undefined;
  /** Must call `link.start`, or destroy it. */
  onReplica(link: LinkToMember, hello: HelloFrame): void;
  /**
   * From here on the bytes of the client pass, first `alreadyRead` and then what the socket reads. It is paused and has no listener but one for
   * errors: whoever takes it listens to it before this returns, and resumes it. Nothing may read past the stream, which may hold bytes already.
   */
  onTunnel(socket: Socket, client: TunnelClient, hello: HelloFrame, alreadyRead: Buffer): void;
  /** The same, for requests to the HTTP API that the other broker has found to be allowed. */
  onHttp(socket: Socket, hello: HelloFrame, alreadyRead: Buffer): void;
}

/** Enough for the tunnels of many clients that come at once. One costs a descriptor and at most a few KiB. */
const HANDSHAKES_MAX = 512;
/** Where there are too many, one that has taken this long makes room. A shorter time would let a crowd keep out itself. */
const HANDSHAKE_PATIENCE_MS = 300;
const KEEP_ALIVE_PROBE_MS = 15_000;
const LOG_INTERVAL_MS = 1_000;
const LOG_INTERVAL_MS_MAX = 60_000;

/**
 * Opens the door.
 * @throws {GomqError} ADDRESS_INVALID, ADDRESS_IN_USE
 */
export async function openPeerListener(options: PeerListenerOptions): Promise<PeerListener> {
  const { host, port } = parseAddress(options.address);
  const server = createServer({
    noDelay: true,
    // For tunnels: replica links have heartbeats.
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_PROBE_MS,
  });
  const listener = new PeerListener(server, options);
  await new Promise<void>((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) => reject(listenError(error, options.address));
    server.once('error', onError);
    server.listen(host === '' ? { port } : { host, port }, () => {
      server.off('error', onError);
      resolve();
    });
  });
  server.on('error', (error) => options.logger.warn('cannot accept connections of brokers', { error }));
  return listener;
}

/** A connection whose handshake is under way, TLS included. */
interface Pending {
  /** The plain socket, below TLS where there is that. */
  readonly socket: Socket;
  readonly address: string;
  readonly key: string;
  readonly sinceMs: number;
  readonly timer: NodeJS.Timeout;
}

export class PeerListener {
  readonly #server: Server;
  readonly #options: PeerListenerOptions;
  readonly #clock: Clock;
  readonly #tls: TlsServer | undefined;
  /** By both ends, which is what a TLS socket and the plain one below it have in common. The oldest is first. */
  readonly #pending = new Map<string, Pending>();
  readonly #refusals: RefusalLog;

  /** Use `openPeerListener`. */
  constructor(server: Server, options: PeerListenerOptions) {
    this.#server = server;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#refusals = new RefusalLog(options.logger);
    this.#tls = options.tls === undefined ? undefined : this.#createTls(options.tls);
    server.on('connection', (socket) => this.#accept(socket));
  }

  /** What was bound. */
  get address(): Address {
    const { address, port } = this.#server.address() as AddressInfo;
    return { host: address, port };
  }

  /** Connections that have not finished the handshake, those that are being refused included. */
  get handshakeCount(): number {
    return this.#pending.size;
  }

  /** Accepts nothing more and ends the handshakes that are under way. What was handed over goes on. */
  async close(): Promise<void> {
    this.#server.close();
    for (const pending of this.#pending.values()) this.#drop(pending);
    this.#refusals.close();
    // The listening socket is closed at once; this lets its close callback run.
    await new Promise((resolve) => setImmediate(resolve));
  }

  #accept(socket: Socket): void {
    socket.on('error', ignore);
    const { remoteAddress } = socket;
    if (remoteAddress === undefined || !this.#hasRoom(remoteAddress)) {
      socket.destroy();
      return;
    }
    const pending: Pending = {
      socket,
      address: remoteAddress,
      key: connectionKey(socket),
      sinceMs: this.#clock.monotonicMs(),
      timer: setTimeout(
        () => this.#expire(pending),
        this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
      ).unref(),
    };
    this.#pending.set(pending.key, pending);
    socket.once('close', () => this.#forget(pending));
    if (this.#tls === undefined) this.#begin(socket, pending);
    else this.#tls.emit('connection', socket);
  }

  #hasRoom(address: string): boolean {
    if (this.#pending.size < (this.#options.handshakesMax ?? HANDSHAKES_MAX)) return true;
    for (const oldest of this.#pending.values()) {
      if (this.#clock.monotonicMs() - oldest.sinceMs < HANDSHAKE_PATIENCE_MS) break;
      this.#refusals.report({ address: oldest.address, reason: 'slow, while others wait' });
      this.#drop(oldest);
      return true;
    }
    this.#refusals.report({ address, reason: 'too many at once' });
    return false;
  }

  #createTls(tls: PeerTls): TlsServer {
    const server = createTlsServer({
      ...tls,
      minVersion: PEER_TLS_VERSION_MIN,
      // Both sides show who they are: a certificate of the cluster's authority is what a member is known by.
      requestCert: true,
      rejectUnauthorized: true,
    });
    server.on('secureConnection', (socket) => {
      const pending = this.#pending.get(connectionKey(socket));
      if (pending === undefined) socket.destroy();
      else this.#begin(socket, pending);
    });
    server.on('tlsClientError', (error: NodeJS.ErrnoException, socket: TLSSocket) => {
      // Whoever only knocks leaves like this.
      if (error.code === 'ECONNRESET') return;
      this.#refusals.report({ address: socket.remoteAddress, reason: 'TLS', error });
    });
    return server;
  }

  /** @param socket that frames pass over: the one of `pending`, or the TLS one above it */
  #begin(socket: Socket, pending: Pending): void {
    const { address } = pending;
    const handshake = new ListenerHandshake({
      identity: this.#options.identity(),
      secret: this.#options.secret,
      mayAccept: (hello) => this.#options.mayAccept(hello),
    });
    converse(socket, handshake, {
      onDone: (welcomed, alreadyRead) => {
        this.#forget(pending);
        this.#handOver(socket, welcomed, alreadyRead);
      },
      // Stays pending until it is closed.
      onRefused: ({ code, message }) => this.#refusals.report({ address, reason: code, why: message }),
      onFailed: (error) => {
        if (error !== undefined) this.#refusals.report({ address, reason: 'handshake', error });
      },
    });
  }

  #handOver(socket: Socket, { hello, client }: Welcomed, alreadyRead: Buffer): void {
    if (hello.purpose === 'replica') {
      this.#options.onReplica(linkToMember(socket, hello.node, alreadyRead), hello);
      return;
    }
    if (hello.purpose === 'http') {
      this.#options.onHttp(socket, hello, alreadyRead);
      return;
    }
    assert(client !== undefined, 'a tunnel that was welcomed has a client');
    this.#options.onTunnel(socket, client, hello, alreadyRead);
  }

  #expire(pending: Pending): void {
    this.#refusals.report({ address: pending.address, reason: 'not finished in time' });
    this.#drop(pending);
  }

  #drop(pending: Pending): void {
    this.#forget(pending);
    pending.socket.destroy();
  }

  #forget(pending: Pending): void {
    clearTimeout(pending.timer);
    // The same two ends may meet again before the close of the first connection is told.
    if (this.#pending.get(pending.key) === pending) this.#pending.delete(pending.key);
  }
}

/** Tells of the first refusal for a reason at once, and of those that follow after a second, then less and less often, with their number. */
class RefusalLog {
  readonly #logger: Logger;
  #count = 0;
  #latest: Record<string, unknown> = {};
  /** Reasons that were told since the timer was set. */
  readonly #told = new Set<unknown>();
  #timer: NodeJS.Timeout | undefined = undefined;
  #intervalMs = LOG_INTERVAL_MS;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  report(fields: { readonly reason: string } & Record<string, unknown>): void {
    this.#count += 1;
    this.#latest = fields;
    if (!this.#told.has(fields.reason)) this.#tell();
  }

  close(): void {
    if (this.#count > 0) this.#tell();
    clearTimeout(this.#timer);
  }

  #tell(): void {
    this.#logger.warn('a connection on the peer address was refused', {
      count: this.#count,
      ...this.#latest,
    });
    this.#count = 0;
    this.#told.add(this.#latest.reason);
    this.#timer ??= setTimeout(() => this.#onTime(), this.#intervalMs).unref();
  }

  #onTime(): void {
    this.#timer = undefined;
    this.#told.clear();
    if (this.#count === 0) {
      this.#intervalMs = LOG_INTERVAL_MS;
      return;
    }
    this.#intervalMs = Math.min(2 * this.#intervalMs, LOG_INTERVAL_MS_MAX);
    this.#tell();
  }
}

function connectionKey(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;
}

function ignore(): void {}
