// Owns the frames between brokers: which there are, where each byte of them lies, and how large each may be. Shared by whatever sends one and
// whatever receives one. Nothing of a frame is believed before it was read to its end; what it means is for others.
//
//      0  length               u32   of what follows: 9 and more
//      4  type                 u8    see FRAME_NUMBER
//      5  epoch                u64   that the sender knows
//     13  body
//
// Numbers are little-endian; a u64 is never above 2^53 - 1. Text is UTF-8. `name` stands for a u8 length and that many bytes of text.
//
//     hello                          dialer to listener, before anything else
//         protocol             u16   PEER_PROTOCOL_VERSION
//         purpose              u8    0 replica, 1 tunnel, 2 http
//         nonce                32
//         cluster              name
//         cluster id           name  empty: has not been in one
//         node                 name
//         incarnation          name
//
//     challenge                      listener to dialer
//         nonce                32
//         node                 name
//
//     proof                          dialer to listener
//         MAC                  32    see handshake.ts
//         client flags         u8    0 without a client; 1 there is one, 2 it is secure, 4 it has a certificate
//         address              name  of the client; from here on only where there is one
//         port                 u16
//         certificate name     u16 length, text; only where it has one
//
//     welcome                        listener to dialer, the last of the handshake
//         MAC                  32
//         node                 name
//
//     refused                        listener to dialer, at any time; it closes then
//         code                 u8    see REFUSAL_NUMBER
//         message              u16 length, text
//
//     position                       member to leader
//         log start            u64
//         log end              u64
//         committed            u64
//         history              u16 count, then of each epoch its number u64 and the offset of its first record u64
//
//     resume                         leader to member
//         cut                  u64
//         high watermark       u64
//         log start            u64
//         history              as in position
//
//     snapshotBegin                  leader to member
//         end offset           u64
//         bytes                u64
//         history              as in position
//
//     snapshotChunk                  leader to member
//         bytes                      to the end of the frame
//
//     snapshotEnd                    leader to member; no body
//
//     append                         leader to member
//         high watermark       u64
//         log start            u64
//         batch count          u16
//         of each batch:
//             bytes            u32   as they follow
//             topic count      u16   0xffff: may be about any topic
//             of each topic:   u16 length, text
//         batches                    one after the other, to the end of the frame
//
//     heartbeat                      leader to member
//         high watermark       u64
//         log start            u64
//         sequence             u64
//         status                     JSON text, to the end of the frame; may be empty
//
//     ack                            member to leader
//         durable end          u64
//         applied              u64
//         sequence             u64   of the last heartbeat that was seen
//         full                 u8    1 where there is hardly room on the member's disk, else 0
//
//     stateHash                      member to leader
//         offset               u64
//         hash                 32
//
// The header, `protocol` where it is in hello, and refused stay as they are in every version, so that two versions can tell each other that
// they do not understand each other.
import { assert } from '../core/assert.js';
import { BATCH_HEADER_BYTES, PAYLOAD_BYTES_MAX } from '../log/batch-format.js';
import type { EpochStart } from '../log/epoch-history.js';
import type { BatchTopics } from '../log/stored-batches.js';
import {
  FieldReader,
  FieldWriter,
  FRAME_HEADER_BYTES,
  frameNumber,
  peerProtocolError,
} from './frame-fields.js';

export const PEER_PROTOCOL_VERSION = 1;
/** The longest frame, its length included. Also enough for the largest batch with its topics. */
export const FRAME_BYTES_MAX = PAYLOAD_BYTES_MAX + 1024 * 1024;
/** The longest frame from somebody who has proved nothing yet. */
export const HANDSHAKE_FRAME_BYTES_MAX = 4096;
/** Nonces, MACs (HMAC-SHA-256) and hashes of the state have this length. */
export const DIGEST_BYTES = 32;
/** A MAC is the first field of the body. */
export const MAC_AT = FRAME_HEADER_BYTES;
/** Cluster, node, incarnation and address have their length in one byte. */
export const NAME_BYTES_MAX = 255;
export const CERTIFICATE_NAME_BYTES_MAX = 1024;
export const HISTORY_EPOCHS_MAX = 4096;
export const APPEND_BATCHES_MAX = 4096;
/** The sum of the batches of one append. */
export const APPEND_BATCH_BYTES_MAX = BATCH_HEADER_BYTES + PAYLOAD_BYTES_MAX;
export const STATUS_BYTES_MAX = 64 * 1024;
const REFUSAL_BYTES_MAX = 512;
/** Topics of one batch beyond this are not told, nor those of any further batch once the table of an append has this length. */
const TOPIC_BYTES_MAX = 256 * 1024;
const ANY_TOPIC = 0xffff;

export type Purpose = 'replica' | 'tunnel' | 'http';

/** Ascending, in both. */
export type EpochHistory = readonly EpochStart[];

/** The client whose bytes go through a tunnel. */
export interface TunnelClient {
  readonly address: string;
  readonly port: number;
  /** It reached its broker over TLS. */
  readonly isSecure: boolean;
  /** The common name of its verified certificate. */
  readonly certificateName: string | undefined;
}

export type RefusalCode = keyof typeof REFUSAL_NUMBER;

export interface Refusal {
  readonly code: RefusalCode;
  readonly message: string;
}

export interface HelloFrame {
  readonly type: 'hello';
  readonly epoch: number;
  readonly protocol: number;
  readonly purpose: Purpose;
  readonly nonce: Buffer;
  readonly cluster: string;
  /** '' where its directory has not been in a cluster. */
  readonly clusterId: string;
  readonly node: string;
  readonly incarnation: string;
}

export interface ChallengeFrame {
  readonly type: 'challenge';
  readonly epoch: number;
  readonly nonce: Buffer;
  readonly node: string;
}

export interface ProofFrame {
  readonly type: 'proof';
  readonly epoch: number;
  readonly mac: Buffer;
  /** For a tunnel. */
  readonly client: TunnelClient | undefined;
}

export interface WelcomeFrame {
  readonly type: 'welcome';
  readonly epoch: number;
  readonly mac: Buffer;
  readonly node: string;
}

export interface RefusedFrame extends Refusal {
  readonly type: 'refused';
  readonly epoch: number;
}

/** Where the log of a member is. */
export interface PositionFrame {
  readonly type: 'position';
  readonly epoch: number;
  readonly logStart: number;
  readonly logEnd: number;
  /** One past the last record that it knows to be committed. */
  readonly committed: number;
  readonly history: EpochHistory;
}

/** From `cut` on the member's log goes on with what the leader sends; what it has beyond goes away. */
export interface ResumeFrame {
  readonly type: 'resume';
  readonly epoch: number;
  readonly cut: number;
  readonly highWatermark: number;
  readonly logStart: number;
  readonly history: EpochHistory;
}

export interface SnapshotBeginFrame {
  readonly type: 'snapshotBegin';
  readonly epoch: number;
  /** The state is the one before this offset. */
  readonly endOffset: number;
  /** Of all chunks. */
  readonly bytes: number;
  readonly history: EpochHistory;
}

export interface SnapshotChunkFrame {
  readonly type: 'snapshotChunk';
  readonly epoch: number;
  readonly bytes: Buffer;
}

export interface SnapshotEndFrame {
  readonly type: 'snapshotEnd';
  readonly epoch: number;
}

/** One batch of the log, as it lies in the leader's. The EncodedBatch of a log is one. */
export interface AppendBatch {
  readonly bytes: Buffer;
  /** Undefined, as always true, where they take too many bytes to send. */
  readonly topics: BatchTopics;
}

export interface AppendFrame {
  readonly type: 'append';
  readonly epoch: number;
  readonly highWatermark: number;
  readonly logStart: number;
  readonly batches: readonly AppendBatch[];
}

export interface HeartbeatFrame {
  readonly type: 'heartbeat';
  readonly epoch: number;
  readonly highWatermark: number;
  readonly logStart: number;
  readonly sequence: number;
  /** JSON text, or empty. */
  readonly status: Buffer;
}

export interface AckFrame {
  readonly type: 'ack';
  readonly epoch: number;
  /** One past the last record that is on the member's disk. */
  readonly durableEnd: number;
  /** One past the last record that its state has seen. */
  readonly applied: number;
  /** Of the last heartbeat that it saw. */
  readonly sequence: number;
  /** There is hardly room on its disk: only the reserve is left. */
  readonly isFull: boolean;
}

export interface StateHashFrame {
  readonly type: 'stateHash';
  readonly epoch: number;
  readonly offset: number;
  readonly hash: Buffer;
}

/** What passes before both sides know each other. */
export type HandshakeFrame = HelloFrame | ChallengeFrame | ProofFrame | WelcomeFrame | RefusedFrame;
/** What a member sends over a replica link. */
export type FrameToLeader = PositionFrame | AckFrame | StateHashFrame;
/** What a leader sends over a replica link. */
export type FrameToMember =
  | ResumeFrame
  | SnapshotBeginFrame
  | SnapshotChunkFrame
  | SnapshotEndFrame
  | AppendFrame
  | HeartbeatFrame
  | RefusedFrame;
export type Frame = HandshakeFrame | FrameToLeader | FrameToMember;
export type FrameType = Frame['type'];

const FRAME_NUMBER = {
  hello: 1,
  challenge: 2,
  proof: 3,
  welcome: 4,
  refused: 5,
  position: 16,
  resume: 17,
  snapshotBegin: 18,
  snapshotChunk: 19,
  snapshotEnd: 20,
  append: 21,
  heartbeat: 22,
  ack: 23,
  stateHash: 24,
} as const satisfies Record<FrameType, number>;

/** Why a broker is turned away. */
const REFUSAL_NUMBER = {
  /** It does not know the cluster secret. */
  secret: 1,
  /** It belongs to a cluster of another name. */
  cluster: 2,
  /** Its data is of another cluster of the same name. */
  'cluster-id': 3,
  /** It speaks another protocol. */
  protocol: 4,
  /** Its epoch is over, or not known here yet. */
  epoch: 5,
  'not-leader': 6,
  /** Its directory is not the one that the cluster knows under its name. */
  incarnation: 7,
  /** There are too many. */
  limit: 8,
  stopping: 9,
  /** Its state is another one than the leader's, although its log is the same. */
  state: 10,
} as const;

const FRAME_TYPES = new Map(
  Object.entries(FRAME_NUMBER).map(([type, number]) => [number as number, type as FrameType]),
);
const REFUSAL_CODES = new Map(
  Object.entries(REFUSAL_NUMBER).map(([code, number]) => [number as number, code as RefusalCode]),
);
const PURPOSES: readonly Purpose[] = ['replica', 'tunnel', 'http'];

const ClientFlag = { Present: 1, Secure: 2, Named: 4 } as const;
const CLIENT_FLAGS_KNOWN = ClientFlag.Present | ClientFlag.Secure | ClientFlag.Named;
const NO_BYTES = Buffer.alloc(0);

/** Nothing of a frame outlives the call that encodes it, so one serves all of them. */
const writer = new FieldWriter();

/** The bytes of a frame, in the pieces they are to be sent in: what is large is not copied, and must not change until it was sent. */
export function encodeFrame(frame: Frame): Buffer[] {
  switch (frame.type) {
    case 'append':
      return encodeAppend(frame);
    case 'snapshotChunk':
      return encodeWithTail(begin(frame), frame.bytes);
    case 'heartbeat':
      assert(frame.status.length <= STATUS_BYTES_MAX, `a status of ${frame.status.length} bytes`);
      return encodeWithTail(
        begin(frame).uint64(frame.highWatermark).uint64(frame.logStart).uint64(frame.sequence),
        frame.status,
      );
    default:
      return [encodeSmall(frame)];
  }
}

type SmallFrame = Exclude<Frame, AppendFrame | SnapshotChunkFrame | HeartbeatFrame>;

/** The bytes of a frame that is sent in one piece. */
export function encodeSmall(frame: SmallFrame): Buffer {
  const out = begin(frame);
  switch (frame.type) {
    case 'hello':
      out.uint16(frame.protocol).byte(PURPOSES.indexOf(frame.purpose)).bytes(digest(frame.nonce));
      out.shortText(frame.cluster).shortText(frame.clusterId);
      out.shortText(frame.node).shortText(frame.incarnation);
      break;
    case 'challenge':
      out.bytes(digest(frame.nonce)).shortText(frame.node);
      break;
    case 'proof':
      out.bytes(digest(frame.mac));
      writeClient(out, frame.client);
      break;
    case 'welcome':
      out.bytes(digest(frame.mac)).shortText(frame.node);
      break;
    case 'refused':
      out.byte(REFUSAL_NUMBER[frame.code]).text(shortened(frame.message));
      break;
    case 'position':
      out.uint64(frame.logStart).uint64(frame.logEnd).uint64(frame.committed);
      writeHistory(out, frame.history);
      break;
    case 'resume':
      out.uint64(frame.cut).uint64(frame.highWatermark).uint64(frame.logStart);
      writeHistory(out, frame.history);
      break;
    case 'snapshotBegin':
      out.uint64(frame.endOffset).uint64(frame.bytes);
      writeHistory(out, frame.history);
      break;
    case 'snapshotEnd':
      break;
    case 'ack':
      out
        .uint64(frame.durableEnd)
        .uint64(frame.applied)
        .uint64(frame.sequence)
        .byte(frame.isFull ? 1 : 0);
      break;
    case 'stateHash':
      out.uint64(frame.offset).bytes(digest(frame.hash));
      break;
  }
  return out.end(0);
}

/** The head of an append, and then its batches themselves. */
export function encodeAppend(frame: AppendFrame): Buffer[] {
  const { batches } = frame;
  assert(batches.length <= APPEND_BATCHES_MAX, `an append of ${batches.length} batches`);
  const out = begin(frame).uint64(frame.highWatermark).uint64(frame.logStart).uint16(batches.length);
  const pieces: Buffer[] = [NO_BYTES];
  let batchBytes = 0;
  for (const { bytes, topics } of batches) {
    assert(bytes.length >= BATCH_HEADER_BYTES, `a batch of ${bytes.length} bytes`);
    out.uint32(bytes.length);
    writeTopics(out, topics);
    batchBytes += bytes.length;
    pieces.push(bytes);
  }
  assert(batchBytes <= APPEND_BATCH_BYTES_MAX, `an append of ${batchBytes} bytes`);
  pieces[0] = out.end(batchBytes);
  return pieces;
}

/**
 * Reads the whole frame buffer[start, end). Bytes in it are parts of `buffer`, not copies.
 * @throws {GomqError} PEER_PROTOCOL, which names the frame and the field
 */
export function decodeFrame(buffer: Buffer, start = 0, end = buffer.length): Frame {
  const type = end - start < FRAME_HEADER_BYTES ? undefined : FRAME_TYPES.get(frameNumber(buffer, start));
  const reader = new FieldReader(buffer, start, end, type ?? 'a frame');
  if (type === undefined) throw peerProtocolError(`a frame of type ${frameNumber(buffer, start)}`);
  const epoch = reader.uint64('epoch');
  const frame = decodeBody(type, epoch, reader);
  reader.end();
  return frame;
}

/**
 * The protocol that a hello is of; undefined where the frame is none. To be asked before the rest is read, which another version has for itself.
 * @throws {GomqError} PEER_PROTOCOL
 */
export function helloProtocol(frame: Buffer): number | undefined {
  if (frame.length < FRAME_HEADER_BYTES || frameNumber(frame, 0) !== FRAME_NUMBER.hello) return undefined;
  const reader = new FieldReader(frame, 0, frame.length, 'hello');
  reader.uint64('epoch');
  return reader.uint16('protocol');
}

function decodeBody(type: FrameType, epoch: number, reader: FieldReader): Frame {
  switch (type) {
    case 'hello':
      return decodeHello(epoch, reader);
    case 'challenge':
      return { type, epoch, nonce: reader.bytes(DIGEST_BYTES, 'nonce'), node: reader.shortText('node') };
    case 'proof':
      return { type, epoch, mac: reader.bytes(DIGEST_BYTES, 'MAC'), client: readClient(reader) };
    case 'welcome':
      return { type, epoch, mac: reader.bytes(DIGEST_BYTES, 'MAC'), node: reader.shortText('node') };
    case 'refused':
      return {
        type,
        epoch,
        // Whoever refuses for a reason that is not known here is of a newer version.
        code: REFUSAL_CODES.get(reader.byte('code')) ?? 'protocol',
        message: reader.text('message', REFUSAL_BYTES_MAX),
      };
    case 'position':
      return {
        type,
        epoch,
        logStart: reader.uint64('log start'),
        logEnd: reader.uint64('log end'),
        committed: reader.uint64('committed'),
        history: readHistory(reader),
      };
    case 'resume':
      return {
        type,
        epoch,
        cut: reader.uint64('cut'),
        highWatermark: reader.uint64('high watermark'),
        logStart: reader.uint64('log start'),
        history: readHistory(reader),
      };
    case 'snapshotBegin':
      return {
        type,
        epoch,
        endOffset: reader.uint64('end offset'),
        bytes: reader.uint64('bytes'),
        history: readHistory(reader),
      };
    case 'snapshotChunk':
      return { type, epoch, bytes: reader.bytes(reader.remaining, 'bytes') };
    case 'snapshotEnd':
      return { type, epoch };
    case 'append':
      return decodeAppend(epoch, reader);
    case 'heartbeat':
      return {
        type,
        epoch,
        highWatermark: reader.uint64('high watermark'),
        logStart: reader.uint64('log start'),
        sequence: reader.uint64('sequence'),
        status: readStatus(reader),
      };
    case 'ack':
      return {
        type,
        epoch,
        durableEnd: reader.uint64('durable end'),
        applied: reader.uint64('applied'),
        sequence: reader.uint64('sequence'),
        isFull: readFlag(reader, 'full'),
      };
    case 'stateHash':
      return { type, epoch, offset: reader.uint64('offset'), hash: reader.bytes(DIGEST_BYTES, 'hash') };
  }
}

function readFlag(reader: FieldReader, field: string): boolean {
  const value = reader.byte(field);
  if (value > 1) throw reader.wrong(field, `is ${value}, and may be 0 or 1`);
  return value === 1;
}

function decodeHello(epoch: number, reader: FieldReader): HelloFrame {
  const protocol = reader.uint16('protocol');
  if (protocol !== PEER_PROTOCOL_VERSION) {
    throw reader.wrong('protocol', `is ${protocol}, and here ${PEER_PROTOCOL_VERSION}`);
  }
  const purposeNumber = reader.byte('purpose');
  const purpose = PURPOSES[purposeNumber];
  if (purpose === undefined) throw reader.wrong('purpose', `is ${purposeNumber}`);
  return {
    type: 'hello',
    epoch,
    protocol,
    purpose,
    nonce: reader.bytes(DIGEST_BYTES, 'nonce'),
    cluster: reader.shortText('cluster'),
    clusterId: reader.shortText('cluster id'),
    node: reader.shortText('node'),
    incarnation: reader.shortText('incarnation'),
  };
}

function decodeAppend(epoch: number, reader: FieldReader): AppendFrame {
  const highWatermark = reader.uint64('high watermark');
  const logStart = reader.uint64('log start');
  const count = reader.uint16('batch count');
  if (count > APPEND_BATCHES_MAX)
    throw reader.wrong('batch count', `${count} is above ${APPEND_BATCHES_MAX}`);
  const table: { length: number; topics: BatchTopics }[] = [];
  let batchBytes = 0;
  for (let i = 0; i < count; i++) {
    const length = reader.uint32('batch bytes');
    if (length < BATCH_HEADER_BYTES) throw reader.wrong('batch', `of ${length} bytes`);
    batchBytes += length;
    // Before the topics are read: what follows them cannot be shorter than the batches.
    if (batchBytes > reader.remaining) {
      throw reader.wrong('batches', `of ${batchBytes} bytes in the ${reader.remaining} that are left`);
    }
    table.push({ length, topics: readTopics(reader) });
  }
  const batches = table.map(({ length, topics }) => ({ bytes: reader.bytes(length, 'batch'), topics }));
  return { type: 'append', epoch, highWatermark, logStart, batches };
}

function begin(frame: Frame): FieldWriter {
  return writer.begin(FRAME_NUMBER[frame.type], frame.epoch);
}

function encodeWithTail(out: FieldWriter, tail: Buffer): Buffer[] {
  const bytes = out.length + tail.length;
  assert(bytes <= FRAME_BYTES_MAX, `a frame of ${bytes} bytes`);
  const head = out.end(tail.length);
  return tail.length === 0 ? [head] : [head, tail];
}

function digest(bytes: Buffer): Buffer {
  assert(bytes.length === DIGEST_BYTES, `${bytes.length} bytes as a digest`);
  return bytes;
}

/** What fits of a message, whole characters only. */
function shortened(message: string): string {
  const bytes = Buffer.from(message);
  if (bytes.length <= REFUSAL_BYTES_MAX) return message;
  let end = REFUSAL_BYTES_MAX;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

function writeClient(out: FieldWriter, client: TunnelClient | undefined): void {
  if (client === undefined) {
    out.byte(0);
    return;
  }
  const { address, port, isSecure, certificateName } = client;
  const isNamed = certificateName !== undefined;
  out.byte(ClientFlag.Present | (isSecure ? ClientFlag.Secure : 0) | (isNamed ? ClientFlag.Named : 0));
  out.shortText(address).uint16(port);
  if (isNamed) out.text(certificateName);
}

function readClient(reader: FieldReader): TunnelClient | undefined {
  const flags = reader.byte('client flags');
  if (flags === 0) return undefined;
  if ((flags & ~CLIENT_FLAGS_KNOWN) !== 0 || (flags & ClientFlag.Present) === 0) {
    throw reader.wrong('client flags', `are ${flags}`);
  }
  return {
    address: reader.shortText('client address'),
    port: reader.uint16('client port'),
    isSecure: (flags & ClientFlag.Secure) !== 0,
    certificateName:
      (flags & ClientFlag.Named) === 0
        ? undefined
        : reader.text('certificate name', CERTIFICATE_NAME_BYTES_MAX),
  };
}

function writeHistory(out: FieldWriter, history: EpochHistory): void {
  assert(history.length <= HISTORY_EPOCHS_MAX, `a history of ${history.length} epochs`);
  out.uint16(history.length);
  for (const { epoch, start } of history) out.uint64(epoch).uint64(start);
}

function readHistory(reader: FieldReader): EpochStart[] {
  const count = reader.uint16('history count');
  if (count > HISTORY_EPOCHS_MAX) throw reader.wrong('history', `of ${count} epochs`);
  const history: EpochStart[] = [];
  let before: EpochStart | undefined;
  for (let i = 0; i < count; i++) {
    const entry = { epoch: reader.uint64('history epoch'), start: reader.uint64('history start') };
    if (before !== undefined && (entry.epoch <= before.epoch || entry.start < before.start)) {
      throw reader.wrong(
        'history',
        `has epoch ${entry.epoch} at ${entry.start} behind epoch ${before.epoch} at ${before.start}`,
      );
    }
    history.push(entry);
    before = entry;
  }
  return history;
}

function writeTopics(out: FieldWriter, topics: BatchTopics): void {
  if (topics === undefined || !isWorthSending(topics, out.length)) {
    out.uint16(ANY_TOPIC);
    return;
  }
  out.uint16(topics.size);
  for (const topic of topics) out.text(topic);
}

/** Without them readers look into the batch in vain, which is a smaller harm than a frame without a bound. */
function isWorthSending(topics: ReadonlySet<string>, lengthBefore: number): boolean {
  if (topics.size >= ANY_TOPIC) return false;
  let bytes = lengthBefore;
  for (const topic of topics) {
    bytes += 2 + Buffer.byteLength(topic);
    if (bytes > TOPIC_BYTES_MAX) return false;
  }
  return true;
}

function readTopics(reader: FieldReader): BatchTopics {
  const count = reader.uint16('topic count');
  if (count === ANY_TOPIC) return undefined;
  const topics = new Set<string>();
  for (let i = 0; i < count; i++) topics.add(reader.text('topic', ANY_TOPIC));
  return topics;
}

function readStatus(reader: FieldReader): Buffer {
  const { remaining } = reader;
  if (remaining > STATUS_BYTES_MAX) throw reader.wrong('status', `of ${remaining} bytes`);
  return reader.bytes(remaining, 'status');
}
