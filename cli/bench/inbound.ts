// Owns the way in: every socket of the run reads into one buffer, and packets are understood where they lie. The end of a chunk that is
// not yet a whole packet is kept per connection and put back in front of the next chunk, in the head room before the read area, so that
// a packet is always contiguous and a chunk is never copied:
//
//     | head room ........ rest of the last chunk | read area: what the kernel gave now |

import { Failure } from '../failure.js';

/** What the parser found, as offsets into the read buffer that hold until the callback returns. */
export interface InboundSink {
  onPublish(qos: number, packetId: number, payloadStart: number, payloadEnd: number): void;
  /** PUBACK (4), PUBREC (5), PUBREL (6) or PUBCOMP (7). */
  onAck(type: number, packetId: number, reasonCode: number): void;
  /** Any other packet, rare enough to be parsed by a general parser. */
  onOther(start: number, end: number): void;
}

/** The one buffer that all connections of a process read into. */
export class ReadBuffer {
  readonly bytes: Buffer;
  readonly view: DataView;
  /** What sockets read into. */
  readonly area: Buffer;
  readonly headBytes: number;

  constructor(packetBytesMax: number, areaBytes: number) {
    this.headBytes = packetBytesMax;
    this.bytes = Buffer.alloc(packetBytesMax + areaBytes);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    this.area = this.bytes.subarray(packetBytesMax);
  }
}

/** Splits one connection's byte stream into packets. */
export class InboundParser {
  readonly #buffer: ReadBuffer;
  readonly #protocol: 4 | 5;
  #rest: Buffer = Buffer.alloc(0);
  #restBytes = 0;

  constructor(buffer: ReadBuffer, protocol: 4 | 5) {
    this.#buffer = buffer;
    this.#protocol = protocol;
  }

  /** Understands `readBytes` bytes at the start of the read area. Throws Failure when they are not MQTT. */
  feed(readBytes: number, sink: InboundSink): void {
    const bytes = this.#buffer.bytes;
    const end = this.#buffer.headBytes + readBytes;
    let at = this.#buffer.headBytes - this.#restBytes;
    if (this.#restBytes > 0) this.#rest.copy(bytes, at, 0, this.#restBytes);

    while (end - at >= 2) {
      let length = bytes[at + 1]!;
      let body = at + 2;
      if (length > 0x7f) {
        length &= 0x7f;
        let shift = 7;
        let byte = 0x80;
        while (byte > 0x7f && body < end && shift <= 21) {
          byte = bytes[body++]!;
          length |= (byte & 0x7f) << shift;
          shift += 7;
        }
        if (byte > 0x7f) {
          if (shift > 21) throw new Failure('the broker sent a packet whose length is malformed');
          break;
        }
      }
      const next = body + length;
      if (next > end) {
        if (next - at > this.#buffer.headBytes) {
          throw new Failure(`the broker sent a packet of ${next - at} bytes, more than any of this run`);
        }
        break;
      }
      const first = bytes[at]!;
      const type = first >> 4;
      if (type === 3) {
        const qos = (first >> 1) & 3;
        let payload = body + 2 + ((bytes[body]! << 8) | bytes[body + 1]!);
        let packetId = 0;
        if (qos > 0) {
          packetId = (bytes[payload]! << 8) | bytes[payload + 1]!;
          payload += 2;
        }
        if (this.#protocol === 5) payload = this.#afterProperties(payload);
        if (payload > next) throw new Failure('the broker sent a PUBLISH shorter than its own header');
        sink.onPublish(qos, packetId, payload, next);
      } else if (type >= 4 && type <= 7) {
        if (length < 2) throw new Failure('the broker sent an acknowledgement without a packet id');
        sink.onAck(type, (bytes[body]! << 8) | bytes[body + 1]!, length > 2 ? bytes[body + 2]! : 0);
      } else {
        sink.onOther(at, next);
      }
      at = next;
    }

    this.#restBytes = end - at;
    if (this.#restBytes > 0) {
      if (this.#rest.length < this.#restBytes) this.#rest = Buffer.allocUnsafeSlow(this.#restBytes * 2);
      bytes.copy(this.#rest, 0, at, end);
    }
  }

  #afterProperties(start: number): number {
    const bytes = this.#buffer.bytes;
    let at = start;
    let byte = bytes[at++]!;
    let length = byte & 0x7f;
    for (let shift = 7; byte > 0x7f && shift <= 21; shift += 7) {
      byte = bytes[at++]!;
      length |= (byte & 0x7f) << shift;
    }
    return at + length;
  }
}
