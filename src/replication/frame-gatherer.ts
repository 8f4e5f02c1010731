// Cuts the bytes of one connection between brokers into frames. A frame that lies whole in what arrived is not copied, another one is put
// together once. Memory grows with what has arrived, by doubling, and not with what a length announces.
//
// The frames stay valid for as long as somebody refers to them: Node reads each chunk of a socket into memory of its own, and what is put
// together here lies in memory that is given away with the frame. The price is that a small frame that is kept keeps the chunk around it, at
// most 64 KiB, which is little for batches of the log and no matter for frames that are read and dropped.
import { assert } from '../core/assert.js';
import { FRAME_HEADER_BYTES, FRAME_LENGTH_BYTES, peerProtocolError } from './frame-fields.js';

/** As much as this is taken at once for a frame that announces it: most batches then are copied once. */
const GATHERED_BYTES_MIN = 256 * 1024;
const NO_BYTES = Buffer.alloc(0);

export class FrameGatherer {
  readonly #frameBytesMax: number;
  /** What arrived last, from `#at` on. Used up while there is a partial frame, but for the time within `next`. */
  #chunk: Buffer = NO_BYTES;
  #at = 0;
  /** The beginning of a frame whose rest has not arrived. */
  #partial: Buffer = NO_BYTES;
  #partialLength = 0;

  /** @param frameBytesMax the longest frame that is taken, its length included */
  constructor(frameBytesMax: number) {
    this.#frameBytesMax = frameBytesMax;
  }

  /** Takes what arrived next, whose bytes must not change any more. All frames before must have been asked for. */
  push(chunk: Buffer): void {
    assert(this.#at === this.#chunk.length, 'frames are taken before more bytes come');
    this.#chunk = chunk;
    this.#at = 0;
  }

  /**
   * The next whole frame, its length included; undefined when it has not arrived.
   * @throws {GomqError} PEER_PROTOCOL for a frame that is longer than allowed, or shorter than a header
   */
  next(): Buffer | undefined {
    if (this.#partialLength > 0) return this.#complete();
    const available = this.#chunk.length - this.#at;
    if (available === 0) return undefined;
    const total = available < FRAME_LENGTH_BYTES ? 0 : this.#frameLength(this.#chunk, this.#at);
    if (total === 0 || total > available) {
      this.#keep(available, total);
      return undefined;
    }
    const frame = this.#chunk.subarray(this.#at, this.#at + total);
    this.#at += total;
    return frame;
  }

  /** What has arrived behind the last frame that was answered; it is forgotten here. */
  takeRest(): Buffer {
    const arrived = this.#chunk.subarray(this.#at);
    const rest =
      this.#partialLength === 0
        ? arrived
        : Buffer.concat([this.#partial.subarray(0, this.#partialLength), arrived]);
    this.#chunk = NO_BYTES;
    this.#at = 0;
    this.#partial = NO_BYTES;
    this.#partialLength = 0;
    return rest;
  }

  #complete(): Buffer | undefined {
    if (this.#partialLength < FRAME_LENGTH_BYTES) {
      this.#keep(Math.min(FRAME_LENGTH_BYTES - this.#partialLength, this.#chunk.length - this.#at), 0);
      if (this.#partialLength < FRAME_LENGTH_BYTES) return undefined;
    }
    const total = this.#frameLength(this.#partial, 0);
    this.#keep(Math.min(total - this.#partialLength, this.#chunk.length - this.#at), total);
    if (this.#partialLength < total) return undefined;
    const frame = this.#partial.subarray(0, total);
    this.#partial = NO_BYTES;
    this.#partialLength = 0;
    return frame;
  }

  #frameLength(buffer: Buffer, at: number): number {
    const total = buffer.readUInt32LE(at) + FRAME_LENGTH_BYTES;
    if (total < FRAME_HEADER_BYTES) throw peerProtocolError(`a frame of ${total} bytes`);
    if (total > this.#frameBytesMax) {
      throw peerProtocolError(`a frame of ${total} bytes is longer than ${this.#frameBytesMax}`);
    }
    return total;
  }

  /**
   * Moves the next `bytes` of the chunk to the partial frame.
   * @param total the length of the frame, or 0 while that is not known
   */
  #keep(bytes: number, total: number): void {
    const needed = this.#partialLength + bytes;
    if (this.#partial.length < needed) {
      const capacity = Math.max(needed, Math.min(total, Math.max(2 * needed, GATHERED_BYTES_MIN)));
      const grown = Buffer.allocUnsafeSlow(capacity);
      this.#partial.copy(grown, 0, 0, this.#partialLength);
      this.#partial = grown;
    }
    this.#chunk.copy(this.#partial, this.#partialLength, this.#at, this.#at + bytes);
    this.#at += bytes;
    this.#partialLength = needed;
    // The chunk is not needed any more; it would be kept until the next one comes.
    if (this.#at === this.#chunk.length) {
      this.#chunk = NO_BYTES;
      this.#at = 0;
    }
  }
}
