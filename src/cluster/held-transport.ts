// A connection that nobody serves yet: takes what the client sends first, up to a bound, and hands it to whoever serves it in the end. To that one it is a
// transport like any other.
import type { OnWritten, Transport, TransportHandler } from '../core/transport.js';

/** A CONNECT and what a client may send right behind it; then it is not read from. */
const HELD_BYTES_MAX = 64 * 1024;
const NOTHING = Buffer.alloc(0);

export class HeldTransport implements Transport, TransportHandler {
  readonly #transport: Transport;
  readonly #onGone: (held: HeldTransport) => void;
  readonly #onBytes: (held: HeldTransport) => void;
  #handler: TransportHandler | undefined = undefined;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #isPaused = false;
  #hasEnded = false;
  #isClosed = false;

  /**
   * @param onBytes there are more `heldBytes`
   * @param onGone the client left before anybody served it
   */
  constructor(
    transport: Transport,
    onBytes: (held: HeldTransport) => void,
    onGone: (held: HeldTransport) => void,
  ) {
    this.#transport = transport;
    this.#onBytes = onBytes;
    this.#onGone = onGone;
    transport.start(this);
  }

  /** What the client has sent so far. */
  get heldBytes(): Buffer {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] ?? NOTHING;
  }

  /** There is no room for more. */
  get isFull(): boolean {
    return this.#bytes >= HELD_BYTES_MAX;
  }

  // ---- Transport --------------------------------------------------------------------------------------------------------------------

  get remoteAddress(): string {
    return this.#transport.remoteAddress;
  }

  get remotePort(): number {
    return this.#transport.remotePort;
  }

  get isSecure(): boolean {
    return this.#transport.isSecure;
  }

  get clientCertificateName(): string | undefined {
    return this.#transport.clientCertificateName;
  }

  start(handler: TransportHandler): void {
    this.#handler = handler;
    // Not from inside this call.
    setImmediate(() => this.#handOver(handler));
  }

  #handOver(handler: TransportHandler): void {
    const chunks = this.#chunks;
    this.#chunks = [];
    this.#bytes = 0;
    if (this.#isClosed) {
      handler.onClose(undefined);
      return;
    }
    for (const chunk of chunks) handler.onData(chunk);
    if (this.#hasEnded) handler.onEnd();
    else if (this.#isPaused) this.#transport.resume();
  }

  write(bytes: Buffer, onWritten: OnWritten): boolean {
    return this.#transport.write(bytes, onWritten);
  }

  get pendingBytes(): number {
    return this.#transport.pendingBytes;
  }

  cork(): void {
    this.#transport.cork();
  }

  uncork(): void {
    this.#transport.uncork();
  }

  pause(): void {
    this.#isPaused = false;
    this.#transport.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#transport.resume();
  }

  end(): void {
    this.#transport.end();
  }

  destroy(): void {
    this.#transport.destroy();
  }

  // ---- TransportHandler -------------------------------------------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    // What is held goes first.
    if (this.#handler !== undefined && this.#bytes === 0) {
      this.#handler.onData(chunk);
      return;
    }
    this.#chunks.push(Buffer.from(chunk));
    this.#bytes += chunk.length;
    if (this.#bytes >= HELD_BYTES_MAX) {
      this.#isPaused = true;
      this.#transport.pause();
    }
    if (this.#handler === undefined) this.#onBytes(this);
  }

  onDrain(): void {
    this.#handler?.onDrain();
  }

  onEnd(): void {
    if (this.#handler !== undefined && this.#bytes === 0) {
      this.#handler.onEnd();
      return;
    }
    this.#hasEnded = true;
    if (this.#handler === undefined) this.#onGone(this);
  }

  onClose(error: Error | undefined): void {
    this.#isClosed = true;
    if (this.#handler !== undefined) this.#handler.onClose(error);
    else this.#onGone(this);
  }
}
