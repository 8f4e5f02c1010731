// Owns compression: zstd by the runtime where it has it, else by WebAssembly; either reads the other's frames. A frame is never believed:
// what it declares is read and bounded before anything is inflated, and what comes out is measured.
import * as zlib from 'node:zlib';
import type { Simple } from 'zstd-codec';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';

export interface Zstd {
  /** One frame that declares its content size. `bytes` are at least one and at most CONTENT_BYTES_MAX. */
  compress(bytes: Uint8Array): Uint8Array;
  /**
   * The content of the one frame that `bytes` are.
   * @throws {GomqError} DATA_DAMAGED where they are anything else, or would give more than `bytesMax` bytes
   */
  decompress(bytes: Uint8Array, bytesMax: number): Uint8Array;
}

/** The most that one frame may hold. The WebAssembly has 16 MiB for everything, and input and output lie in it at once. */
export const CONTENT_BYTES_MAX = 2 * 1024 * 1024;

/** Level 3 takes half as long again and makes telemetry larger. */
const LEVEL = 1;
const FRAME_MAGIC = 0xfd2fb528;
/** What RFC 8878 asks of every decoder. Content that lies in one segment has a window of its own size, which has a bound already. */
const WINDOW_BYTES_MAX = 8 * 1024 * 1024;
const BLOCK_BYTES_MAX = 128 * 1024;
const CHECKSUM_BYTES = 4;
const BlockType = { Raw: 0, Rle: 1, Compressed: 2 } as const;

/** What node:zlib has from 22.15 and 23.8 on. */
interface NativeZstd {
  constants: { ZSTD_c_compressionLevel: number };
  zstdCompressSync(bytes: Uint8Array, options: NativeOptions): Buffer;
  zstdDecompressSync(bytes: Uint8Array, options: NativeOptions): Buffer;
}

interface NativeOptions {
  chunkSize: number;
  maxOutputLength?: number;
  params?: Record<number, number>;
}

/**
 * @param which for tests; the runtime's own where absent and where there is one
 * @throws {GomqError} INTERNAL where 'native' is asked for and the runtime has none
 */
export async function loadZstd(which?: 'native' | 'wasm'): Promise<Zstd> {
  const native = which === 'wasm' ? undefined : nativeZstd();
  if (native !== undefined) return native;
  assert(which !== 'native', `zstd in node:zlib of ${process.version}`);
  return wasmZstd();
}

function nativeZstd(): Zstd | undefined {
  if (!('zstdCompressSync' in zlib)) return undefined;
  const { constants, zstdCompressSync, zstdDecompressSync } = zlib as unknown as NativeZstd;
  const params = { [constants.ZSTD_c_compressionLevel]: LEVEL };
  return {
    compress(bytes) {
      checkContent(bytes);
      // One chunk takes all that can come out, so that nothing is put together from pieces.
      return zstdCompressSync(bytes, { params, chunkSize: bytes.length + (bytes.length >> 8) + 128 });
    },
    decompress(bytes, bytesMax) {
      const size = readFrame(bytes, bytesMax);
      try {
        return checkSize(
          zstdDecompressSync(bytes, { chunkSize: Math.max(size, 64), maxOutputLength: size }),
          size,
        );
      } catch (error) {
        if (error instanceof GomqError) throw error;
        throw damage(`the zstd frame cannot be decompressed: ${(error as Error).message}`, error);
      }
    },
  };
}

async function wasmZstd(): Promise<Zstd> {
  const { ZstdCodec } = await import('zstd-codec');
  const simple = await new Promise<Simple>((resolve) => {
    ZstdCodec.run((module) => resolve(new module.Simple()));
  });
  return {
    compress(bytes) {
      checkContent(bytes);
      const frame = simple.compress(bytes, LEVEL);
      assert(frame !== null, `zstd compresses ${bytes.length} bytes`);
      return frame;
    },
    decompress(bytes, bytesMax) {
      const size = readFrame(bytes, bytesMax);
      const content = simple.decompress(bytes);
      if (content === null) throw damage('the zstd frame cannot be decompressed');
      return checkSize(content, size);
    },
  };
}

function checkContent(bytes: Uint8Array): void {
  assert(bytes.length > 0 && bytes.length <= CONTENT_BYTES_MAX, `${bytes.length} bytes for a zstd frame`);
}

function checkSize(content: Uint8Array, size: number): Uint8Array {
  if (content.length !== size) {
    throw damage(`the zstd frame declares ${size} bytes and holds ${content.length}`);
  }
  return content;
}

/**
 * Reads what a frame says of itself, and where its blocks end: RFC 8878, 3.1.1.
 * @returns the content size that it declares
 * @throws {GomqError} DATA_DAMAGED
 */
function readFrame(bytes: Uint8Array, bytesMax: number): number {
  const max = Math.min(bytesMax, CONTENT_BYTES_MAX);
  if (bytes.length < 5 || readNumber(bytes, 0, 4) !== FRAME_MAGIC) throw damage('not a zstd frame');
  const descriptor = bytes[4]!;
  const isOneSegment = (descriptor & 0x20) !== 0;
  const sizeCode = descriptor >> 6;
  const sizeBytes = sizeCode === 0 ? Number(isOneSegment) : 1 << sizeCode;
  if ((descriptor & 0x08) !== 0) throw damage('the zstd frame sets a reserved bit');
  if ((descriptor & 0x03) !== 0) throw damage('the zstd frame wants a dictionary');
  let at = 5;
  if (bytes.length < at + Number(!isOneSegment) + sizeBytes) throw damage('the zstd frame is cut short');
  if (!isOneSegment) {
    const window = bytes[at]!;
    const base = 2 ** (10 + (window >> 3));
    const windowBytes = base + (base / 8) * (window & 7);
    if (windowBytes > WINDOW_BYTES_MAX) {
      throw damage(
        `the zstd frame wants a window of ${windowBytes} bytes, and ${WINDOW_BYTES_MAX} are allowed`,
      );
    }
    at++;
  }
  if (sizeBytes === 0) throw damage('the zstd frame does not declare its content size');
  const size = readNumber(bytes, at, sizeBytes) + (sizeBytes === 2 ? 256 : 0);
  if (size > max) throw damage(`the zstd frame declares ${size} bytes, and ${max} are allowed`);
  if (size === 0) throw damage('the zstd frame declares no content');
  const end = endOfBlocks(bytes, at + sizeBytes) + ((descriptor & 0x04) === 0 ? 0 : CHECKSUM_BYTES);
  if (end > bytes.length) throw damage('the zstd frame is cut short');
  if (end < bytes.length) throw damage(`${bytes.length - end} bytes follow the zstd frame`);
  return size;
}

function endOfBlocks(bytes: Uint8Array, start: number): number {
  for (let at = start; ; ) {
    if (at + 3 > bytes.length) throw damage('the zstd frame is cut short');
    const header = readNumber(bytes, at, 3);
    const type = (header >> 1) & 3;
    const size = header >> 3;
    if (type > BlockType.Compressed || size > BLOCK_BYTES_MAX) {
      throw damage('the zstd frame has a block that cannot be');
    }
    at += 3 + (type === BlockType.Rle ? 1 : size);
    if ((header & 1) !== 0) return at;
  }
}

/** Little-endian; beyond 2^53 only its size is right. */
function readNumber(bytes: Uint8Array, at: number, count: number): number {
  let value = 0;
  for (let i = count - 1; i >= 0; i--) value = value * 256 + bytes[at + i]!;
  return value;
}

function damage(message: string, cause?: unknown): GomqError {
  return new GomqError('DATA_DAMAGED', message, { cause });
}
