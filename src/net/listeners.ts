// Opens the client listeners and turns every accepted connection into a Transport. All four kinds share one front door (a node:net server),
// so the limits are checked before a byte of TLS or HTTP is worked on.
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls';
import { listenError, parseAddress } from '../core/address.js';
import type { Config } from '../core/config.js';
import type { Logger } from '../core/logger.js';
import type { Transport } from '../core/transport.js';
import { warnOfOpenFile } from '../security/private-file.js';
import { Admission, Repeated } from './admission.js';
import { readCertificates, verifiedName } from './certificates.js';
import { Handshakes } from './handshakes.js';
import { type Peer, readDirectly, SOCKET_HIGH_WATER_BYTES, TcpTransport } from './tcp.js';
import { WebSocketDoor } from './websocket.js';

export type ListenerKind = 'mqtt' | 'mqtts' | 'ws' | 'wss';

export interface ListenerOptions {
  listeners: Config['listeners'];
  limits: Pick<
    Config['limits'],
    'connections' | 'connectionsPerAddress' | 'connectTimeoutSeconds' | 'packetBytes'
  >;
  /** Web pages that may connect; see WebSocketDoorOptions. */
  webSocketOrigins?: readonly string[];
  logger: Logger;
  /** Must call `transport.start` before it returns. */
  onConnection(transport: Transport): void;
}

export interface ListenerAddress {
  kind: ListenerKind;
  host: string;
  port: number;
}

const KINDS: readonly ListenerKind[] = ['mqtt', 'mqtts', 'ws', 'wss'];
/** The kernel may lower it (net.core.somaxconn). */
const BACKLOG = 4096;
const KEEP_ALIVE_PROBE_MS = 60_000;
/** Descriptors that clients never get: the log, the configuration files and the HTTP API need some while the doors are stormed. */
const RESERVED_DESCRIPTORS_MAX = 256;
/** Under a low limit, this part of it. */
const RESERVED_PART = 1 / 4;

/**
 * Opens every configured listener, or none of them.
 * @throws {GomqError} ADDRESS_INVALID, ADDRESS_IN_USE, CONFIG_INVALID, CONFIG_UNREADABLE
 */
export async function openListeners(options: ListenerOptions): Promise<Listeners> {
  const listeners = new Listeners(options);
  try {
    for (const kind of KINDS) {
      for (const text of options.listeners[kind]) await listeners.open(kind, text);
    }
  } catch (error) {
    await listeners.close();
    throw error;
  }
  return listeners;
}

export class Listeners {
  readonly #options: ListenerOptions;
  readonly #admission: Admission;
  readonly #acceptFailures: Repeated;
  readonly #handshakes: Handshakes;
  readonly #servers: Server[] = [];
  readonly #addresses: ListenerAddress[] = [];
  readonly #tlsServers: TlsServer[] = [];

  constructor(options: ListenerOptions) {
    this.#options = options;
    const { logger, limits } = options;
    const connections = Math.min(limits.connections, descriptorsForClients());
    if (connections < limits.connections) {
      logger.info('limits.connections is lowered to what the limit of open files allows', { connections });
    }
    const admissionLimits = { connections, connectionsPerAddress: limits.connectionsPerAddress };
    this.#admission = new Admission(admissionLimits, logger);
    this.#acceptFailures = new Repeated((count, fields) =>
      logger.warn('cannot accept connections', { count, ...fields }),
    );
    this.#handshakes = new Handshakes(limits.connectTimeoutSeconds * 1000);
  }

  /** What was bound, in the order of the configuration; ports are real where 0 was asked for. */
  get addresses(): readonly ListenerAddress[] {
    return this.#addresses;
  }

  /** Connections that count against the limits, handshakes included. */
  get connectionCount(): number {
    return this.#admission.connectionCount;
  }

  async open(kind: ListenerKind, text: string): Promise<void> {
    const { host, port } = parseAddress(text);
    const accept = this.#acceptor(kind);
    const server = createServer({
      noDelay: true,
      // Finds peers that vanished although their clients asked for no MQTT keep alive.
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_PROBE_MS,
      highWaterMark: SOCKET_HIGH_WATER_BYTES,
      pauseOnConnect: kind === 'mqtt',
    });
    server.on('connection', accept);
    await listen(server, host, port, text);
    // From here on errors come from accept(2). Out of descriptors (EMFILE), libuv accepts and closes what waits by itself; the limit above
    // is there so that it does not come to that, because nobody is told.
    server.on('error', (error) => this.#acceptFailures.report({ error }));
    this.#servers.push(server);
    const bound = server.address() as AddressInfo;
    this.#addresses.push({ kind, host: bound.address, port: bound.port });
  }

  /** Accepts nothing more and ends the handshakes that are under way. Connections that were handed over go on. */
  async close(): Promise<void> {
    for (const server of this.#servers) server.close();
    this.#servers.length = 0;
    this.#handshakes.endAll();
    // libuv closes the listening sockets at once; this lets their close callbacks run.
    await new Promise((resolve) => setImmediate(resolve));
  }

  /**
   * Reads the certificate files again, for new connections; keeps the old ones where that fails.
   * @throws {GomqError} CONFIG_INVALID, CONFIG_UNREADABLE
   */
  reloadCertificates(): void {
    if (this.#tlsServers.length === 0) return;
    const certificates = readCertificates(this.#options.listeners.tls);
    for (const server of this.#tlsServers) server.setSecureContext(certificates);
  }

  #acceptor(kind: ListenerKind): (socket: Socket) => void {
    switch (kind) {
      case 'mqtt':
        return (socket) => this.#acceptTcp(socket);
      case 'mqtts': {
        const tls = this.#tlsServer((socket) => {
          const peer = this.#handshakes.finish(socket);
          if (peer === undefined) socket.destroy();
          else this.#options.onConnection(TcpTransport.overTls(socket, peer, verifiedName(socket)));
        });
        return (socket) => {
          if (this.#beginHandshake(socket)) tls.emit('connection', socket);
        };
      }
      case 'ws': {
        const door = this.#webSocketDoor();
        return (socket) => {
          if (this.#beginHandshake(socket)) door.accept(socket);
        };
      }
      case 'wss': {
        const door = this.#webSocketDoor();
        const tls = this.#tlsServer((socket) => door.accept(socket));
        return (socket) => {
          if (this.#beginHandshake(socket)) tls.emit('connection', socket);
        };
      }
    }
  }

  #acceptTcp(accepted: Socket): void {
    const socket = readDirectly(accepted);
    const peer = this.#admit(socket);
    if (peer !== undefined) this.#options.onConnection(TcpTransport.overTcp(socket, peer));
  }

  /** Counts the socket and gives it a bounded time until `finish`. */
  #beginHandshake(socket: Socket): boolean {
    const peer = this.#admit(socket);
    if (peer !== undefined) this.#handshakes.begin(socket, peer);
    return peer !== undefined;
  }

  #webSocketDoor(): WebSocketDoor {
    const { limits, logger } = this.#options;
    return new WebSocketDoor({
      packetBytesMax: limits.packetBytes,
      origins: this.#options.webSocketOrigins ?? [],
      logger,
      finish: (socket) => this.#handshakes.finish(socket),
      onConnection: (transport) => this.#options.onConnection(transport),
    });
  }

  #tlsServer(onSecure: (socket: TLSSocket) => void): TlsServer {
    const settings = this.#options.listeners.tls;
    const certificates = readCertificates(settings);
    if (this.#tlsServers.length === 0) warnOfOpenFile(settings.key, this.#options.logger);
    const server = createTlsServer({
      ...certificates,
      requestCert: settings.ca !== '',
      rejectUnauthorized: settings.requireClientCert,
      highWaterMark: SOCKET_HIGH_WATER_BYTES,
    });
    server.on('secureConnection', onSecure);
    server.on('tlsClientError', (error, socket) => {
      const address = socket.remoteAddress;
      this.#options.logger.debug('TLS handshake failed', { address, error });
    });
    this.#tlsServers.push(server);
    return server;
  }

  /** Answers who is there, or closes the socket where a limit is reached. */
  #admit(socket: Socket): Peer | undefined {
    const { remoteAddress, remotePort } = socket;
    if (remoteAddress !== undefined && remotePort !== undefined) {
      const address = this.#admission.admit(socket, plainAddress(remoteAddress));
      if (address !== undefined) return { address, port: remotePort };
    }
    // Over a limit, or gone again before it was accepted.
    socket.on('error', () => {});
    socket.destroy();
    return undefined;
  }
}

/** A dual-stack listener shows IPv4 clients as ::ffff:a.b.c.d; rules and limits are written for a.b.c.d. */
function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice('::ffff:'.length) : address;
}

function listen(server: Server, host: string, port: number, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) => reject(listenError(error, text));
    server.once('error', onError);
    server.listen(host === '' ? { port, backlog: BACKLOG } : { host, port, backlog: BACKLOG }, () => {
      server.off('error', onError);
      resolve();
    });
  });
}

function descriptorsForClients(): number {
  const limit = descriptorLimit();
  return limit - Math.min(RESERVED_DESCRIPTORS_MAX, Math.ceil(limit * RESERVED_PART));
}

/** How many files and sockets this process may have open; Infinity where the system does not say. */
function descriptorLimit(): number {
  try {
    const line = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
    return line === null ? Number.POSITIVE_INFINITY : Number(line[1]);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
