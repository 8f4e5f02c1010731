// Owns stdout: what a tick produces is written at once, a reader that falls behind is told about, and one that has gone away
// (`| head`) ends the command quietly.
import type { Writable } from 'node:stream';
import { Failure } from './failure.js';

const CHUNK_BYTES = 65_536;
/** More than this waiting for the reader of stdout means: take no more messages until it has caught up. */
const WAITING_BYTES_MAX = 1_048_576;

export class Output {
  readonly #stream: Writable;
  readonly #onBroken: (error: Error) => void;
  #chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  #used = 0;
  #scheduled = false;
  #broken = false;
  #waiting: (() => void)[] = [];

  /** `onBroken` is called once, when nobody reads any more. */
  constructor(stream: Writable, onBroken: (error: Error) => void) {
    this.#stream = stream;
    this.#onBroken = onBroken;
    stream.on('drain', this.#onDrain);
    stream.on('error', this.#onError);
  }

  text(text: string): void {
    const bytesMax = text.length * 3;
    if (bytesMax > CHUNK_BYTES) {
      this.bytes(Buffer.from(text));
      return;
    }
    if (bytesMax > CHUNK_BYTES - this.#used) this.flush();
    this.#used += this.#chunk.write(text, this.#used, 'utf8');
    this.#schedule();
  }

  bytes(bytes: Uint8Array): void {
    if (bytes.length > CHUNK_BYTES - this.#used) this.flush();
    if (bytes.length > CHUNK_BYTES) {
      this.#write(bytes);
      return;
    }
    this.#chunk.set(bytes, this.#used);
    this.#used += bytes.length;
    this.#schedule();
  }

  /** True while the reader of stdout is so far behind that no more should be produced. */
  get blocked(): boolean {
    return !this.#broken && this.#stream.writableLength > WAITING_BYTES_MAX;
  }

  /** Calls back once the reader has caught up, or has gone away. */
  onceDrained(callback: () => void): void {
    if (this.#broken) callback();
    else this.#waiting.push(callback);
  }

  flush(): void {
    if (this.#used === 0) return;
    const full = this.#chunk.subarray(0, this.#used);
    this.#chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    this.#used = 0;
    this.#write(full);
  }

  /** Writes what is left, waits until it has been taken, and lets go of the stream. */
  async end(): Promise<void> {
    this.flush();
    if (!this.#broken && this.#stream.writableLength > 0) {
      await new Promise<void>((resolve) => this.onceDrained(resolve));
    }
    this.#stream.off('drain', this.#onDrain);
    // The listener for errors stays: an EPIPE may still come, and must not become a stack trace.
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  #write(bytes: Uint8Array): void {
    if (!this.#broken) this.#stream.write(bytes);
  }

  readonly #onDrain = (): void => {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const callback of waiting) callback();
  };

  readonly #onError = (error: Error): void => {
    if (this.#broken) return;
    this.#broken = true;
    this.#onBroken(error);
    this.#onDrain();
  };
}

/** A reader that has gone away has seen what it wanted: that is no failure. */
export function outputFailure(error: Error): Failure | undefined {
  if ('code' in error && (error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED')) return undefined;
  return new Failure(`cannot write to stdout: ${error.message}`);
}
