// Carries the bytes of a client to the leader and back. Neither side gets ahead of the other by more than a socket holds: who does not take what was
// sent is not read from for.
import type { Socket } from 'node:net';
import type { Transport, TransportHandler } from '../core/transport.js';

export class Tunnel implements TransportHandler {
  readonly #transport: Transport;
  readonly #socket: Socket;

  /**
   * @param socket to the leader: paused, open
   * @param alreadyRead what has come from it
   * @param onClosed one of the two ends is gone
   */
  constructor(transport: Transport, socket: Socket, alreadyRead: Buffer, onClosed: (tunnel: Tunnel) => void) {
    this.#transport = transport;
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#toClient(chunk));
    socket.on('drain', () => transport.resume());
    socket.on('end', () => transport.end());
    socket.on('close', () => {
      transport.end();
      onClosed(this);
    });
    transport.start(this);
    if (alreadyRead.length > 0) this.#toClient(alreadyRead);
    socket.resume();
  }

  /** The leader at its other end leads no more. */
  close(): void {
    this.#socket.destroy();
    this.#transport.destroy();
  }

  onData(chunk: Buffer): void {
    // The chunk is overwritten when this returns, and the socket may keep it.
    if (!this.#socket.write(Buffer.from(chunk))) this.#transport.pause();
  }

  onDrain(): void {
    this.#socket.resume();
  }

  onEnd(): void {
    this.#socket.end();
  }

  onClose(): void {
    this.#socket.destroy();
  }

  #toClient(chunk: Buffer): void {
    if (!this.#transport.write(chunk, ignore)) this.#socket.pause();
  }
}

/** A client that is gone says so by `onClose`. */
function ignore(): void {}
