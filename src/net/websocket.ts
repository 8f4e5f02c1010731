// Owns MQTT over WebSocket: the HTTP side of the door, and the Transport over a WebSocket. The frames of WebSocket mean nothing to MQTT: a
// packet may span several, and several packets may share one [MQTT-6.0.0-2], so what arrives is passed on as a stream of bytes.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { type RawData, type WebSocket, WebSocketServer } from 'ws';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { OnWritten, Transport, TransportHandler } from '../core/transport.js';
import { verifiedName } from './certificates.js';
import { closing, type Peer, SOCKET_HIGH_WATER_BYTES } from './tcp.js';

/** Served paths; a query after them is ignored. */
const PATHS: readonly string[] = ['/mqtt', '/'];
/** `mqttv3.1` is what clients of MQTT 3.1 ask for; `mqtt` comes first where both are offered. */
const SUBPROTOCOLS: readonly string[] = ['mqtt', 'mqttv3.1'];
/** A frame may hold the largest packet and the beginnings of others. */
const FRAME_SLACK_BYTES = 64 * 1024;
const HTTP_HEADER_BYTES_MAX = 8 * 1024;
/** Pieces of an unfinished frame that are kept at most: they cost memory each, however small they are. */
const bufferedChunksMax = (frameBytesMax: number): number => 1024 + Math.ceil(frameBytesMax / 128);

const STATUS_NORMAL = 1000;
const STATUS_UNSUPPORTED_DATA = 1003;

export interface WebSocketDoorOptions {
  packetBytesMax: number;
  logger: Logger;
  /**
   * Web pages that may connect, as `https://app.example.com`. Empty: every page, but to clients on this machine only pages of this
   * machine, because a broker that trusts local clients must not be open to every page that a local browser shows.
   */
  origins: readonly string[];
  /** Who is behind a socket whose handshake is complete; undefined where its time was over. */
  finish(socket: Socket): Peer | undefined;
  onConnection(transport: Transport): void;
}

/** Takes sockets, TLS or not, that have sent nothing yet, and hands over a Transport for each that becomes a WebSocket. */
export class WebSocketDoor {
  readonly #options: WebSocketDoorOptions;
  readonly #http: Server;
  readonly #upgrades: WebSocketServer;

  constructor(options: WebSocketDoorOptions) {
    this.#options = options;
    const frameBytesMax = options.packetBytesMax + FRAME_SLACK_BYTES;
    this.#upgrades = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      // A frame that announces more is refused by its header. One that announces less is kept as it arrives, so an announcement alone costs
      // nothing (CVE-2026-25627).
      maxPayload: frameBytesMax,
      maxBufferedChunks: bufferedChunksMax(frameBytesMax),
      // Text frames are refused whatever they hold.
      skipUTF8Validation: true,
      handleProtocols: (offered) => SUBPROTOCOLS.find((name) => offered.has(name)) ?? false,
    });
    this.#http = createServer({ maxHeaderSize: HTTP_HEADER_BYTES_MAX }, answerPlainHttp);
    this.#http.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      this.#upgrade(request, socket, head);
    });
  }

  accept(socket: Socket): void {
    this.#http.emit('connection', socket);
  }

  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const refusal = this.#refusal(request, socket);
    if (refusal !== undefined) {
      this.#options.logger.debug('WebSocket refused', { address: socket.remoteAddress, reason: refusal });
      socket.end(`HTTP/1.1 ${refusal}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    this.#upgrades.handleUpgrade(request, socket, head, (webSocket) => {
      const peer = this.#options.finish(socket);
      if (peer === undefined) socket.destroy();
      else this.#options.onConnection(new WebSocketTransport(webSocket, socket, peer));
    });
  }

  /** Answers the HTTP status line to refuse with, or undefined. */
  #refusal(request: IncomingMessage, socket: Socket): string | undefined {
    const path = (request.url ?? '').split('?', 1)[0]!;
    if (!PATHS.includes(path)) return '404 Not Found: MQTT is served at /mqtt';
    // [MQTT-6.0.0-3]
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    if (!SUBPROTOCOLS.some((name) => offered.includes(name)))
      return '400 Bad Request: the subprotocol must be mqtt';
    const origin = request.headers.origin;
    if (origin !== undefined && !this.#isAllowedOrigin(origin, request, socket)) {
      return '403 Forbidden: this web page may not connect';
    }
    return undefined;
  }

  #isAllowedOrigin(origin: string, request: IncomingMessage, socket: Socket): boolean {
    const { origins } = this.#options;
    if (origins.length > 0) return origins.includes(origin);
    if (!isLoopbackHost(socket.remoteAddress ?? '')) return true;
    const page = URL.canParse(origin) ? new URL(origin) : undefined;
    // A page of the same host came through a proxy on this machine, or from this machine.
    return page !== undefined && (isLoopbackHost(page.hostname) || page.host === request.headers.host);
  }
}

function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || host === '::1' || /^(::ffff:)?127\.[0-9.]+$/.test(host);
}

function answerPlainHttp(_request: IncomingMessage, response: ServerResponse): void {
  response.writeHead(426, {
    Upgrade: 'websocket',
    Connection: 'close, upgrade',
    'Content-Type': 'text/plain',
  });
  response.end('This port speaks MQTT over WebSocket.\n');
}

type OwnedWebSocket = WebSocket & { transport?: WebSocketTransport };
type OwnedSocket = Socket & { transport?: WebSocketTransport };

class WebSocketTransport implements Transport {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly isSecure: boolean;
  readonly clientCertificateName: string | undefined;
  readonly #webSocket: OwnedWebSocket;
  #handler: TransportHandler | undefined = undefined;
  #error: Error | undefined = undefined;
  #pendingBytes = 0;
  #needsDrain = false;
  #isEnding = false;
  /** Messages that arrived together with the one that the handler paused at. */
  #held: Buffer[] | undefined = undefined;
  #isPaused = false;

  constructor(webSocket: OwnedWebSocket, socket: OwnedSocket, peer: Peer) {
    this.#webSocket = webSocket;
    this.remoteAddress = peer.address;
    this.remotePort = peer.port;
    this.isSecure = socket instanceof TLSSocket;
    this.clientCertificateName = socket instanceof TLSSocket ? verifiedName(socket) : undefined;
    webSocket.transport = this;
    socket.transport = this;
    webSocket.on('message', onMessage);
    webSocket.on('error', onError);
    webSocket.on('close', onClose);
    // ws tells neither of a broken socket nor of a peer that is leaving.
    socket.prependListener('error', onSocketError);
    socket.on('end', onSocketEnd);
  }

  start(handler: TransportHandler): void {
    this.#handler = handler;
  }

  write(bytes: Buffer, onWritten: OnWritten): boolean {
    this.#pendingBytes += bytes.length;
    // ws hands the bytes to the socket as they are, because a server does not mask; the callback comes exactly once, also after an error.
    this.#webSocket.send(bytes, (error) => {
      this.#pendingBytes -= bytes.length;
      onWritten(error);
      if (this.#needsDrain && this.#pendingBytes === 0) {
        this.#needsDrain = false;
        if (!this.#isEnding) this.#handler?.onDrain();
      }
    });
    if (this.#pendingBytes < SOCKET_HIGH_WATER_BYTES) return true;
    this.#needsDrain = true;
    return false;
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  cork(): void {
    // Each write is a WebSocket frame of its own, whenever it leaves.
  }

  uncork(): void {}

  pause(): void {
    this.#isPaused = true;
    this.#webSocket.pause();
  }

  resume(): void {
    this.#isPaused = false;
    if (this.#held === undefined) this.#webSocket.resume();
    else setImmediate(() => this.#deliverHeld());
  }

  end(): void {
    this.#close(STATUS_NORMAL);
  }

  destroy(): void {
    if (this.#isEnding) closing.delete(this);
    this.#isEnding = true;
    this.#webSocket.terminate();
  }

  /** The time to close politely is over. */
  expire(): void {
    this.#webSocket.terminate();
  }

  received(data: RawData, isBinary: boolean): void {
    if (this.#isEnding) return;
    if (!isBinary) {
      // [MQTT-6.0.0-1]
      this.#error = new GomqError('PROTOCOL', 'a WebSocket text frame, where MQTT must be in binary frames');
      this.#close(STATUS_UNSUPPORTED_DATA);
      return;
    }
    // The binary type of ws is left at its default, which is one Buffer.
    const chunk = data as Buffer;
    if (chunk.length === 0) return;
    if (this.#isPaused || this.#held !== undefined) {
      this.#held ??= [];
      this.#held.push(chunk);
    } else {
      this.#handler?.onData(chunk);
    }
  }

  failed(error: Error): void {
    this.#error ??= error;
  }

  closed(): void {
    closing.delete(this);
    this.#isEnding = true;
    this.#held = undefined;
    const handler = this.#handler;
    this.#handler = undefined;
    handler?.onClose(this.#error);
  }

  /** The peer sends no more; what was written still leaves, for which it has a bounded time. */
  peerEnded(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    closing.add(this);
  }

  #close(status: number): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#held = undefined;
    closing.add(this);
    this.#webSocket.close(status);
    // The answer to the close frame can only be read by a socket that reads.
    this.#webSocket.resume();
  }

  #deliverHeld(): void {
    while (!this.#isPaused && this.#held !== undefined) {
      const chunk = this.#held.shift();
      if (chunk !== undefined) this.#handler?.onData(chunk);
      else this.#held = undefined;
    }
    if (!this.#isPaused) this.#webSocket.resume();
  }
}

function onMessage(this: OwnedWebSocket, data: RawData, isBinary: boolean): void {
  this.transport?.received(data, isBinary);
}

function onError(this: OwnedWebSocket, error: Error): void {
  this.transport?.failed(error);
}

function onClose(this: OwnedWebSocket): void {
  this.transport?.closed();
}

function onSocketError(this: OwnedSocket, error: Error): void {
  this.transport?.failed(error);
}

function onSocketEnd(this: OwnedSocket): void {
  this.transport?.peerEnded();
}
