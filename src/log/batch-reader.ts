// Reads the batches of one file from front to back, in large pieces, and finds where valid ones go on behind damage. It judges nothing: what
// a damaged batch means is up to the caller. It keeps one piece in memory, and one batch where that is larger.
import { type BatchHeader, decodeHeader, type HeaderDamage } from './batch-codec.js';
import { BATCH_HEADER_BYTES, BATCH_MAGIC } from './batch-format.js';
import type { DiskFile } from './disk.js';

const PIECE_BYTES = 4 * 1024 * 1024;
const MAGIC_BYTES = Buffer.alloc(4);
MAGIC_BYTES.writeUInt32LE(BATCH_MAGIC);
const NOTHING = Buffer.alloc(0);

export interface ReadBatch {
  readonly header: BatchHeader;
  /** Header and stored payload, until the next call. */
  readonly bytes: Buffer;
}

/** `header` where only the payload is missing. */
export type BatchResult = ReadBatch | (HeaderDamage & { readonly header?: BatchHeader });

export class BatchReader {
  readonly #file: DiskFile;
  #fileBytes: number;
  #piece: Buffer = NOTHING;
  /** Where the piece begins in the file, and how much of it there is. */
  #pieceAt = 0;
  #pieceBytes = 0;

  /** @param fileBytes how much of the file to look at */
  constructor(file: DiskFile, fileBytes: number) {
    this.#file = file;
    this.#fileBytes = fileBytes;
  }

  /** Where the file ends, as far as is known: another process may have cut it meanwhile. */
  get fileBytes(): number {
    return this.#fileBytes;
  }

  /** The batch that begins at `position`; its payload is not checked. */
  read(position: number): BatchResult {
    const header = this.header(position);
    if ('damage' in header) return header;
    const bytesMax = BATCH_HEADER_BYTES + header.storedBytes;
    const bytes = this.#bytes(position, bytesMax);
    if (bytes.length < bytesMax) return { damage: 'payload cut short', isIntended: false, header };
    return { header, bytes };
  }

  /** Its header alone. */
  header(position: number): BatchHeader | HeaderDamage {
    return decodeHeader(this.#bytes(position, BATCH_HEADER_BYTES), 0);
  }

  /** Forgets what was read, for a file that somebody else writes to. */
  refresh(): void {
    this.#pieceBytes = 0;
  }

  /** The first position from `from` on where there is a valid header that is looked for. */
  find(from: number, isLookedFor: (header: BatchHeader) => boolean): number | undefined {
    for (let position = from; position + BATCH_HEADER_BYTES <= this.#fileBytes; ) {
      const bytes = this.#bytes(position, PIECE_BYTES);
      for (let at = bytes.indexOf(MAGIC_BYTES); at !== -1; at = bytes.indexOf(MAGIC_BYTES, at + 1)) {
        // One that this piece cuts off is looked at with the next piece.
        if (at + BATCH_HEADER_BYTES > bytes.length) break;
        const header = decodeHeader(bytes, at);
        if (!('damage' in header) && isLookedFor(header)) return position + at;
      }
      position += Math.max(1, bytes.length - BATCH_HEADER_BYTES + 1);
    }
    return undefined;
  }

  /** Whether there are only zeros from `from` on. */
  isZero(from: number): boolean {
    for (let position = from; position < this.#fileBytes; ) {
      const bytes = this.#bytes(position, PIECE_BYTES);
      if (bytes.some((byte) => byte !== 0)) return false;
      position += Math.max(1, bytes.length);
    }
    return true;
  }

  /** The position behind the last byte from `from` on that is not zero; `from` where all are. */
  endOfData(from: number): number {
    let end = from;
    for (let position = from; position < this.#fileBytes; ) {
      const bytes = this.#bytes(position, PIECE_BYTES);
      if (bytes.length === 0) break;
      let length = bytes.length;
      while (length > 0 && bytes[length - 1] === 0) length--;
      if (length > 0) end = position + length;
      position += bytes.length;
    }
    return end;
  }

  /** Fewer than `length` only at the end of the file. */
  #bytes(position: number, length: number): Buffer {
    const wanted = Math.min(length, this.#fileBytes - position);
    if (wanted <= 0) return NOTHING;
    if (position < this.#pieceAt || position + wanted > this.#pieceAt + this.#pieceBytes) {
      this.#fill(position, Math.min(Math.max(wanted, PIECE_BYTES), this.#fileBytes - position));
    }
    const start = position - this.#pieceAt;
    return this.#piece.subarray(start, Math.min(start + wanted, this.#pieceBytes));
  }

  #fill(position: number, length: number): void {
    // A buffer that one large batch needed is not kept for the small ones behind it.
    if (this.#piece.length < length || this.#piece.length > Math.max(length, PIECE_BYTES)) {
      this.#piece = Buffer.allocUnsafeSlow(length);
    }
    this.#pieceAt = position;
    this.#pieceBytes = this.#file.read(this.#piece.subarray(0, length), position);
    if (this.#pieceBytes < length) this.#fileBytes = position + this.#pieceBytes;
  }
}
