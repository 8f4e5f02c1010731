// The part of zstd-codec that is used here: the package has no types of its own.
declare module 'zstd-codec' {
  export interface Simple {
    /** Null where it fails. Throws where its 16 MiB of memory do not suffice, and is of no use from then on. */
    compress(bytes: Uint8Array, level: number): Uint8Array | null;
    decompress(bytes: Uint8Array): Uint8Array | null;
  }
  export const ZstdCodec: { run(onReady: (zstd: { Simple: new () => Simple }) => void): void };
}
