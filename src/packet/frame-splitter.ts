// Cuts the bytes of one connection into MQTT control packets, in place: a packet that lies whole in a chunk is never copied. Holds at most one
// incomplete packet, in memory that grows with what arrived, not with what was announced.
import { POOLED_BYTES_MAX, releaseBuffer, takeBuffer } from '../core/buffer-pool.js';
import { ReasonCode } from './reason-codes.js';
import { malformed, PacketType, protocolError } from './types.js';

export interface FrameHandler {
  /**
   * One complete packet: its first byte at `start`, what follows the fixed header from `bodyStart` to `end`. Unless
   * `isBufferStable`, the bytes are overwritten once the handler has returned from `onChunkEnd`.
   * @throws {GomqError} PROTOCOL, which ends the splitting
   */
  onFrame(buffer: Buffer, start: number, bodyStart: number, end: number): void;
  /** Every packet that arrived together has been handed over; or the memory of the last one is about to be used again. */
  onChunkEnd(): void;
}

export class FrameSplitter {
  readonly #handler: FrameHandler;
  /** The longest packet that is taken, fixed header included. */
  packetBytesMax: number;
  /** The beginning of a packet whose rest has not arrived, or of the bytes that wait while paused. */
  #partial: Buffer | undefined = undefined;
  #partialLength = 0;
  #isPaused = false;
  #isStopped = false;
  #sawFirst = false;
  /** 5.0 wants lengths in as few bytes as possible [MQTT-1.5.5-1]; 3.1.1 has no such rule. */
  requiresShortestLength = false;
  /** True while the packet handed over lies in memory that is not used again, so that parts of it may be kept: large ones do. */
  isBufferStable = false;

  /** @param packetBytesMax the longest packet that is taken, fixed header included */
  constructor(handler: FrameHandler, packetBytesMax: number) {
    this.#handler = handler;
    this.packetBytesMax = packetBytesMax;
  }

  /** True while bytes wait for the rest of a packet, or for `resume`. */
  get hasPartial(): boolean {
    return this.#partialLength > 0;
  }

  /** Hands no more packets over until `resume`; the caller stops the socket, so that little arrives meanwhile. */
  pause(): void {
    this.#isPaused = true;
  }

  /** @throws {GomqError} PROTOCOL */
  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    const waiting = this.#partial;
    if (waiting === undefined) return;
    const length = this.#partialLength;
    this.#partial = undefined;
    this.#partialLength = 0;
    this.push(waiting.subarray(0, length));
  }

  /** Hands nothing over any more: the connection is being closed. */
  stop(): void {
    this.#isStopped = true;
    this.#partial = undefined;
    this.#partialLength = 0;
  }

  /**
   * Takes the next bytes of the connection.
   * @throws {GomqError} PROTOCOL for a bad length, a packet over the limit, or a first packet that is not CONNECT
   */
  push(chunk: Buffer): void {
    if (this.#isStopped) return;
    let at = 0;
    if (this.#isPaused) {
      this.#keep(chunk, 0, chunk.length, 0);
      return;
    }
    if (this.#partialLength > 0) {
      at = this.#complete(chunk);
      if (at === -1) return;
    }
    this.#split(chunk, at);
    if (!this.#isStopped) this.#handler.onChunkEnd();
  }

  #split(chunk: Buffer, from: number): void {
    const length = chunk.length;
    const handler = this.#handler;
    let at = from;
    let total = 0;
    while (at < length) {
      if (this.#isStopped) return;
      total = 0;
      if (this.#isPaused) break;
      // Remaining length: one to four bytes of seven bits, least significant first (section 1.5.5).
      let bodyStart = at + 2;
      let remaining = at + 1 < length ? chunk[at + 1]! : 0x80;
      if (remaining > 0x7f) {
        const frame = this.#readLongHeader(chunk, at, length);
        if (frame === -1) break;
        bodyStart = this.#headerEnd;
        remaining = frame;
      }
      const end = bodyStart + remaining;
      this.#checkHeader(chunk[at]!, end - at);
      if (end > length) {
        total = end - at;
        break;
      }
      handler.onFrame(chunk, at, bodyStart, end);
      at = end;
    }
    if (at < length && !this.#isStopped) this.#keep(chunk, at, length, total);
  }

  #headerEnd = 0;

  /** The remaining length of a header longer than two bytes, with `#headerEnd` set; -1 while the header is incomplete. */
  #readLongHeader(chunk: Buffer, at: number, length: number): number {
    this.#checkHeader(chunk[at]!, 0);
    let value = 0;
    for (let i = 0; i < 4; i++) {
      const position = at + 1 + i;
      if (position >= length) return -1;
      const byte = chunk[position]!;
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) {
        if (byte === 0 && i > 0 && this.requiresShortestLength) {
          throw malformed('the remaining length has more bytes than it needs'); // [MQTT-1.5.5-1]
        }
        this.#headerEnd = position + 1;
        return value;
      }
    }
    throw malformed('the remaining length has more than four bytes');
  }

  #checkHeader(first: number, frameBytes: number): void {
    if (frameBytes > this.packetBytesMax) {
      throw protocolError(
        `a packet of ${frameBytes} bytes is larger than ${this.packetBytesMax}`,
        ReasonCode.PacketTooLarge,
      );
    }
    if (this.#sawFirst) return;
    // Refused at its first byte, so that nobody unknown makes the broker wait for, or hold, a packet it will not take. [MQTT-3.1.0-1]
    if (first >> 4 !== PacketType.Connect) throw protocolError('the first packet is not CONNECT');
    if (frameBytes > 0) this.#sawFirst = true;
  }

  /** Adds to the incomplete packet. Answers where the rest of the chunk begins, or -1 when all of it was needed and taken. */
  #complete(chunk: Buffer): number {
    let at = 0;
    for (;;) {
      const partial = this.#partial!;
      const headerLength = headerLengthOf(partial, this.#partialLength);
      let missing = 1;
      let total = 0;
      if (headerLength > 0) {
        const remaining = this.#readLongHeader(partial, 0, this.#partialLength);
        total = this.#headerEnd + remaining;
        this.#checkHeader(partial[0]!, total);
        missing = total - this.#partialLength;
        if (missing === 0) {
          const bodyStart = this.#headerEnd;
          this.#partial = undefined;
          this.#partialLength = 0;
          this.isBufferStable = partial.length > POOLED_BYTES_MAX;
          this.#handler.onFrame(partial, 0, bodyStart, total);
          this.isBufferStable = false;
          // Whatever still refers to the packet is finished before its memory is used for something else.
          if (!this.#isStopped) this.#handler.onChunkEnd();
          releaseBuffer(partial);
          return at;
        }
      } else if (this.#partialLength >= 5) {
        throw malformed('the remaining length has more than four bytes');
      }
      if (at === chunk.length) return -1;
      const taken = Math.min(missing, chunk.length - at);
      this.#keep(chunk, at, at + taken, total);
      at += taken;
    }
  }

  /** @param total the length of the packet, or 0 while its header is incomplete */
  #keep(chunk: Buffer, start: number, end: number, total: number): void {
    const needed = this.#partialLength + (end - start);
    if (this.#partial === undefined || this.#partial.length < needed) {
      // At once as much as the packet needs, if that is at most twice what has arrived: an announcement alone costs nothing.
      const grown = takeBuffer(Math.max(needed, Math.min(total, 2 * needed)));
      if (this.#partial !== undefined) {
        this.#partial.copy(grown, 0, 0, this.#partialLength);
        releaseBuffer(this.#partial);
      }
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#partialLength, start, end);
    this.#partialLength = needed;
  }
}

/** Bytes of the fixed header, or 0 while it is incomplete. */
function headerLengthOf(buffer: Buffer, length: number): number {
  for (let i = 1; i < 5 && i < length; i++) {
    if (buffer[i]! < 0x80) return i + 1;
  }
  return 0;
}
