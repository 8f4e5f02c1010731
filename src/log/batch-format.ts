// Where each byte of a batch lies: shared by whatever writes one and whatever reads one. docs/LOG_FORMAT.md explains it, with an example.
//
//      0  magic               u32   'GMQB'
//      4  version             u8    1
//      5  codec               u8    0 none, 1 zstd
//      6  flags               u16   see BatchFlag
//      8  epoch               u64
//     16  base offset         u64   of the first record
//     24  last offset         u64   of the last record: base + count - 1
//     32  timestamp           u64   milliseconds since the Unix epoch, when the batch was sealed
//     40  record count        u32   at least 1; 0 at the end of a snapshot
//     44  uncompressed bytes  u32   of the payload
//     48  stored bytes        u32   of the payload as it follows
//     52  reserved            u32   0
//     56  header CRC-32       u32   over bytes 0 to 55
//     60  CRC-32              u32   over bytes 0 to 59 and the stored payload
//     64  payload
//
// Numbers are little-endian; a u64 is never above 2^53 - 1. The payload, once decompressed, is the records one after the other:
//
//         length              u32
//         offset              u64   only in a snapshot: where the record stood in the log
//         record
//
// The CRC of the header makes its lengths and offsets trustworthy even where the payload is damaged.

export const BATCH_MAGIC = 0x42514d47;
export const BATCH_VERSION = 1;
export const BATCH_HEADER_BYTES = 64;
/** Before each record in the payload. */
export const RECORD_LENGTH_BYTES = 4;
/** Behind the length of each record of a snapshot. */
export const RECORD_OFFSET_BYTES = 8;

export const Codec = { None: 0, Zstd: 1 } as const;
export type Codec = (typeof Codec)[keyof typeof Codec];

export const BatchFlag = {
  /** At least one record changes state, so a replay has to read the batch. */
  State: 1,
  /** The batch is part of a snapshot. */
  Snapshot: 2,
  /** It is the last batch of one. */
  SnapshotEnd: 4,
  /**
   * All that lies before the batch in its file was on disk before the batch was written. Batches without it may reach the disk in any order:
   * invalid bytes before such a batch are what a crash leaves behind, invalid bytes before one with the flag are damage.
   */
  AfterSync: 8,
} as const;

/** Positions of the fields. */
export const BatchAt = {
  magic: 0,
  version: 4,
  codec: 5,
  flags: 6,
  epoch: 8,
  baseOffset: 16,
  lastOffset: 24,
  timestamp: 32,
  recordCount: 40,
  uncompressedBytes: 44,
  storedBytes: 48,
  reserved: 52,
  headerCrc: 56,
  crc: 60,
} as const;

/** The largest payload of a batch, compressed or not: one record of the largest packet, with what surrounds it. */
export const PAYLOAD_BYTES_MAX = 320 * 1024 * 1024;
