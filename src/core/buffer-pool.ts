// Buffers for what arrives and what leaves, in four sizes, used again as soon as they are free: large ones are what the garbage collector is
// slowest at. What the pool keeps is bounded; what is in use is bounded by those who use it.

const SMALL_BYTES = 1024;
const MIDDLE_BYTES = 8192;
export const LARGE_BYTES = 65_536;
/** Anything longer comes from, and goes back to, the garbage collector. */
export const POOLED_BYTES_MAX = 262_144;

/** Bytes of free buffers kept per size. */
const FREE_BYTES_MAX = 8 * 1024 * 1024;

const free: { bytes: number; buffers: Buffer[] }[] = [
  SMALL_BYTES,
  MIDDLE_BYTES,
  LARGE_BYTES,
  POOLED_BYTES_MAX,
].map((bytes) => ({
  bytes,
  buffers: [],
}));

/** A buffer of at least `bytes`, with anything in it. */
export function takeBuffer(bytes: number): Buffer {
  for (const size of free) {
    if (bytes <= size.bytes) return size.buffers.pop() ?? Buffer.allocUnsafeSlow(size.bytes);
  }
  return Buffer.allocUnsafeSlow(bytes);
}

/** Gives back a buffer that nobody refers to any more. */
export function releaseBuffer(buffer: Buffer): void {
  for (const size of free) {
    if (buffer.length !== size.bytes) continue;
    if (size.buffers.length * size.bytes < FREE_BYTES_MAX) size.buffers.push(buffer);
    return;
  }
}
