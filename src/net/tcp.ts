// Owns one TCP or TLS socket and shows it as a Transport. It is on the hot path and there are many of it, so a connection holds no closure,
// no timer and no buffer of its own: the listeners below are shared and find their transport through the socket, and every plain socket
// reads into one buffer, which is free again before the next one reads.
import { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { OnWritten, Transport, TransportHandler } from '../core/transport.js';
import { Sweep } from './sweep.js';

/** Bytes that may wait in a socket before `write` answers false. */
export const SOCKET_HIGH_WATER_BYTES = 64 * 1024;

const READ_BUFFER_BYTES = 64 * 1024;
/** A socket that is closing has this long, up to twice, to take what was written and to say goodbye. */
const CLOSE_GRACE_MS = 5_000;

const readBuffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
/** Transports of every kind that are closing. */
export const closing = new Sweep(CLOSE_GRACE_MS);

/** A socket that belongs to a transport. */
type OwnedSocket = Socket & { owner?: TcpTransport };

/** Who is at the other end. */
export interface Peer {
  /** IP address without port, an IPv4 address never in its IPv6 form. */
  address: string;
  port: number;
}

export class TcpTransport implements Transport {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly isSecure: boolean;
  readonly clientCertificateName: string | undefined;
  readonly #socket: OwnedSocket;
  /** Made by `readDirectly`. */
  readonly #isDirect: boolean;
  #handler: TransportHandler | undefined = undefined;
  #error: Error | undefined = undefined;
  #isEnding = false;

  private constructor(
    socket: OwnedSocket,
    peer: Peer,
    isSecure: boolean,
    certificateName: string | undefined,
    isDirect: boolean,
  ) {
    this.#socket = socket;
    this.#isDirect = isDirect;
    this.remoteAddress = peer.address;
    this.remotePort = peer.port;
    this.isSecure = isSecure;
    this.clientCertificateName = certificateName;
    socket.owner = this;
    // Before the handler is known too: a socket that breaks without an error listener would take the process with it.
    socket.on('error', onError);
    socket.on('end', onEnd);
    socket.on('close', onClose);
    socket.on('drain', onDrain);
  }

  /** @param socket made by `readDirectly` */
  static overTcp(socket: Socket, peer: Peer): TcpTransport {
    return new TcpTransport(socket, peer, false, undefined, true);
  }

  static overTls(socket: TLSSocket, peer: Peer, certificateName: string | undefined): TcpTransport {
    return new TcpTransport(socket, peer, true, certificateName, false);
  }

  /** The connection of a client to another broker, as it comes from there; `client` is what that broker knows of it. */
  static overTunnel(
    socket: Socket,
    client: Peer & { isSecure: boolean; certificateName: string | undefined },
  ): TcpTransport {
    return new TcpTransport(socket, client, client.isSecure, client.certificateName, false);
  }

  start(handler: TransportHandler): void {
    this.#handler = handler;
    if (this.#isDirect) {
      this.#socket.read(0);
      return;
    }
    this.#socket.on('data', onData);
    // A tunnel was paused at its handshake.
    this.#socket.resume();
  }

  write(bytes: Buffer, onWritten: OnWritten): boolean {
    // Checked here because a socket whose peer has left would answer a write with an error of its own.
    if (!this.#socket.writable) {
      process.nextTick(onWritten);
      return false;
    }
    return this.#socket.write(bytes, onWritten);
  }

  get pendingBytes(): number {
    return this.#socket.writableLength;
  }

  cork(): void {
    this.#socket.cork();
  }

  uncork(): void {
    this.#socket.uncork();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    if (this.#isEnding) return;
    this.#socket.end();
    this.#await();
    // What the client still sends is read and dropped: closing with unread bytes would reset the connection, and the reset can overtake
    // the last packet on its way to the client.
    this.#socket.resume();
  }

  destroy(): void {
    if (this.#isEnding) closing.delete(this);
    this.#isEnding = true;
    this.#socket.destroy();
  }

  /** The time to close politely is over. */
  expire(): void {
    this.#socket.destroy();
  }

  received(chunk: Buffer): void {
    if (!this.#isEnding) this.#handler?.onData(chunk);
  }

  /** The peer sends no more. The socket now sends what was written and closes by itself, for which the peer has a bounded time. */
  peerEnded(): void {
    if (!this.#isEnding) this.#handler?.onEnd();
    this.#await();
  }

  drained(): void {
    if (!this.#isEnding) this.#handler?.onDrain();
  }

  failed(error: Error): void {
    this.#error = error;
  }

  closed(): void {
    if (this.#isEnding) closing.delete(this);
    this.#isEnding = true;
    this.#handler?.onClose(this.#error);
    this.#handler = undefined;
  }

  #await(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    closing.add(this);
  }
}

function onData(this: OwnedSocket, chunk: Buffer): void {
  this.owner?.received(chunk);
}

function onDrain(this: OwnedSocket): void {
  this.owner?.drained();
}

function onEnd(this: OwnedSocket): void {
  this.owner?.peerEnded();
}

function onError(this: OwnedSocket, error: Error): void {
  this.owner?.failed(error);
}

function onClose(this: OwnedSocket): void {
  this.owner?.closed();
}

/** What node:net understands and its types do not tell: a socket made around the handle of another. */
interface HandleOptions {
  handle: object;
  highWaterMark: number;
  onread: { buffer: Buffer; callback(this: OwnedSocket, length: number, buffer: Buffer): boolean };
}

const directRead: HandleOptions['onread'] = {
  buffer: readBuffer,
  // Node calls this as a method of the socket, which spares a closure per socket.
  callback(this: OwnedSocket, length: number, buffer: Buffer): boolean {
    // Not copied: the handler has taken what it keeps when it returns, and only then the next socket reads.
    this.owner?.received(buffer.subarray(0, length));
    return true;
  },
};

/**
 * Answers a socket over the same connection that reads into the shared buffer. Node offers that (`onread`) only for the sockets that one
 * makes, not for the ones a server accepts; the saving is half the time per byte and a quarter of the memory per connection, so the
 * handle moves from the accepted socket into a new one. `accepted` must not have read yet (`pauseOnConnect`) and is spent afterwards.
 */
export function readDirectly(accepted: Socket): Socket {
  const holder = accepted as unknown as { _handle: object | null };
  const handle = holder._handle;
  if (handle === null) return accepted;
  holder._handle = null;
  accepted.destroy();
  const options: HandleOptions = { handle, highWaterMark: SOCKET_HIGH_WATER_BYTES, onread: directRead };
  return new Socket(options as unknown as ConstructorParameters<typeof Socket>[0]);
}
