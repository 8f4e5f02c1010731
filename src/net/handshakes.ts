// Owns the connections that are still in a TLS or HTTP handshake: each is handed over in time, or destroyed.
import type { Socket } from 'node:net';
import { Sweep } from './sweep.js';
import type { Peer } from './tcp.js';

class Handshake {
  readonly socket: Socket;
  readonly peer: Peer;

  constructor(socket: Socket, peer: Peer) {
    this.socket = socket;
    this.peer = peer;
  }

  expire(): void {
    this.socket.destroy();
  }
}

export class Handshakes {
  readonly #sweep: Sweep;
  /** By both ends of the connection, which is what a TLS socket and the plain socket under it have in common. */
  readonly #byConnection = new Map<string, Handshake>();

  constructor(timeoutMs: number) {
    // A sweep takes up to two intervals.
    this.#sweep = new Sweep(timeoutMs / 2);
  }

  begin(socket: Socket, peer: Peer): void {
    const key = connectionKey(socket);
    const handshake = new Handshake(socket, peer);
    this.#byConnection.set(key, handshake);
    this.#sweep.add(handshake);
    socket.on('error', ignore);
    socket.once('close', () => {
      // The same two ends may meet again before this event comes.
      if (this.#byConnection.get(key) === handshake) this.#byConnection.delete(key);
      this.#sweep.delete(handshake);
    });
  }

  /** Answers who shook hands over `socket`, or over the socket under it; undefined where its time was over. */
  finish(socket: Socket): Peer | undefined {
    const key = connectionKey(socket);
    const handshake = this.#byConnection.get(key);
    if (handshake === undefined) return undefined;
    this.#byConnection.delete(key);
    this.#sweep.delete(handshake);
    return handshake.peer;
  }

  endAll(): void {
    this.#sweep.expireAll();
  }
}

/** A broken socket reports its error and then closes; the close is what counts. */
function ignore(): void {}

function connectionKey(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;
}
