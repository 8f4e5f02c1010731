// Owns the splitting of a stream into lines, one message each, with memory for one line and one chunk.

/** The largest payload that fits an MQTT packet, whatever its topic: the remaining length minus the longest topic, bytes. */
export const PAYLOAD_BYTES_MAX = 268_435_455 - 65_535 - 4 - 1_024;

export class LineTooLong extends Error {}

/**
 * Cuts chunks at LF, which is not part of a line. A CR before it is: the bytes of a message are left as they are. The rest
 * after the last LF is a line as well, unless it is empty.
 * @throws {LineTooLong} where no LF comes within what fits a packet
 */
export class LineSplitter {
  readonly #bytesMax: number;
  #pieces: Buffer[] = [];
  #pieceBytes = 0;

  constructor(bytesMax = PAYLOAD_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  *push(chunk: Buffer): Generator<Buffer> {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      yield this.#complete(chunk.subarray(start, end));
      start = end + 1;
    }
    if (start < chunk.length) this.#keep(chunk.subarray(start));
  }

  *end(): Generator<Buffer> {
    if (this.#pieceBytes > 0) yield this.#complete(Buffer.alloc(0));
  }

  #complete(last: Buffer): Buffer {
    if (this.#pieceBytes === 0) return last;
    this.#keep(last);
    const line = Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#pieceBytes = 0;
    return line;
  }

  #keep(piece: Buffer): void {
    this.#pieceBytes += piece.length;
    if (this.#pieceBytes > this.#bytesMax)
      throw new LineTooLong(`a line is longer than ${this.#bytesMax} bytes`);
    this.#pieces.push(piece);
  }
}
