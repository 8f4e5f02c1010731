// Owns the bytes a publisher sends: a buffer of identical PUBLISH packets laid end to end, made once. To send a hundred messages is to
// patch three numbers in each of a hundred slots and to write the range once; nothing is built or copied per message.
//
//     | head room (acknowledgements) | slot 0 | slot 1 | ... |
//
// A slot is one PUBLISH packet:
//
//     fixed header | topic length, topic | packet id (QoS > 0) | 0x00 (5.0: no properties) | payload
//
// The payload begins with 16 bytes, each field an unsigned 32-bit big-endian number; the rest is random, so that a broker that
// compresses gains nothing from it:
//
//     0       4           8          12                  16
//     | run   | publisher | sequence | send time (µs)    | random ...

/** The smallest payload: run, publisher, sequence and send time. */
export const PAYLOAD_HEADER_BYTES = 16;
export const RUN_OFFSET = 0;
export const PUBLISHER_OFFSET = 4;
export const SEQUENCE_OFFSET = 8;
export const TIME_OFFSET = 12;

export interface PublishFramesOptions {
  topic: string;
  qos: 0 | 1 | 2;
  protocol: 4 | 5;
  payloadBytes: number;
  run: number;
  publisher: number;
  /** Slots. */
  capacity: number;
  /** Bytes free for acknowledgements before the first slot. */
  headBytes: number;
}

export class PublishFrames {
  readonly bytes: Buffer;
  readonly frameBytes: number;
  readonly capacity: number;
  readonly headBytes: number;
  readonly #view: DataView;
  /** Where slot 0 keeps its packet id; 0 at QoS 0, where no packet has one. */
  readonly #packetIdAt: number;
  readonly #payloadAt: number;

  constructor(options: PublishFramesOptions) {
    const topic = Buffer.from(options.topic, 'utf8');
    const idBytes = options.qos > 0 ? 2 : 0;
    const propertyBytes = options.protocol === 5 ? 1 : 0;
    const remaining = 2 + topic.length + idBytes + propertyBytes + options.payloadBytes;
    const lengthBytes = encodeLength(remaining);
    const idInFrame = 1 + lengthBytes.length + 2 + topic.length;
    const payloadInFrame = idInFrame + idBytes + propertyBytes;

    this.capacity = options.capacity;
    this.headBytes = options.headBytes;
    this.frameBytes = 1 + lengthBytes.length + remaining;
    this.bytes = Buffer.alloc(this.headBytes + this.capacity * this.frameBytes);
    this.#view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    this.#packetIdAt = options.qos > 0 ? this.headBytes + idInFrame : 0;
    this.#payloadAt = this.headBytes + payloadInFrame;

    let random = (options.run ^ (options.publisher + 1)) | 1;
    for (let slot = 0; slot < this.capacity; slot++) {
      const start = this.headBytes + slot * this.frameBytes;
      this.bytes[start] = 0x30 | (options.qos << 1);
      this.bytes.set(lengthBytes, start + 1);
      this.bytes.writeUInt16BE(topic.length, start + 1 + lengthBytes.length);
      this.bytes.set(topic, start + 3 + lengthBytes.length);
      const payload = start + payloadInFrame;
      this.#view.setUint32(payload + RUN_OFFSET, options.run);
      this.#view.setUint32(payload + PUBLISHER_OFFSET, options.publisher);
      for (let at = payload + PAYLOAD_HEADER_BYTES; at < payload + options.payloadBytes; at++) {
        // Marsaglia's xorshift32: cheap, and the same bytes for the same run number.
        random ^= random << 13;
        random ^= random >>> 17;
        random ^= random << 5;
        this.bytes[at] = random;
      }
    }
  }

  patch(slot: number, packetId: number, sequence: number, timeMicros: number): void {
    const shift = slot * this.frameBytes;
    if (this.#packetIdAt !== 0) this.#view.setUint16(this.#packetIdAt + shift, packetId);
    const payload = this.#payloadAt + shift;
    this.#view.setUint32(payload + SEQUENCE_OFFSET, sequence);
    this.#view.setUint32(payload + TIME_OFFSET, timeMicros);
  }

  /** The acknowledgements copied in front of the first `slots` packets, ready for one write. */
  range(acks: Buffer, ackBytes: number, slots: number): Buffer {
    const start = this.headBytes - ackBytes;
    if (ackBytes > 0) acks.copy(this.bytes, start, 0, ackBytes);
    return this.bytes.subarray(start, this.headBytes + slots * this.frameBytes);
  }
}

/** A variable byte integer, 1.5.5 of MQTT 5.0. */
export function encodeLength(length: number): Buffer {
  const bytes: number[] = [];
  let rest = length;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low | 0x80 : low);
  } while (rest > 0);
  return Buffer.from(bytes);
}
