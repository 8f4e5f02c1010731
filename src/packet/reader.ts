// Owns the walk over the fields of one whole packet: a cursor that never leaves the packet, so a length that promises more than
// there is ends as a malformed packet in one place. Whatever it returns is a copy: the bytes it walks are reused by the socket.
import { malformed, type ProtocolVersion, protocolError } from './types.js';
import { isValidUtf8String } from './utf8.js';
import { readVarint, varintSize } from './varint.js';

export class PacketReader {
  readonly frame: Buffer;
  /** The packet's name, for messages. */
  readonly name: string;
  position: number;
  readonly #remainingLengthIsShortest: boolean;

  /**
   * Opens a complete packet, fixed header included, at the first byte after the remaining length.
   * @throws {GomqError} 0x82 for another packet type, 0x81 when the remaining length is not the number of bytes that follow
   */
  constructor(frame: Buffer, type: number, name: string) {
    this.frame = frame;
    this.name = name;
    if (frame.length < 2)
      throw malformed(`${name} has ${frame.length} bytes, the fixed header alone takes two`);
    if (frame[0] >> 4 !== type) {
      throw protocolError(`expected ${name} (packet type ${type}), got packet type ${frame[0] >> 4}`);
    }
    let remainingLength = 0;
    let position = 1;
    let byte: number;
    do {
      if (position > 4) throw malformed(`${name} has a remaining length of more than four bytes`);
      byte = position < frame.length ? frame[position] : 0;
      remainingLength |= (byte & 0x7f) << (7 * (position - 1));
      position++;
    } while (byte >= 0x80);
    if (remainingLength !== frame.length - position) {
      throw malformed(`${name} announces ${remainingLength} bytes and has ${frame.length - position}`);
    }
    this.position = position;
    this.#remainingLengthIsShortest = position - 1 === varintSize(remainingLength);
  }

  /**
   * Checks what of the fixed header depends on the version.
   * @param flags the low four bits the standard demands
   */
  checkFixedHeader(version: ProtocolVersion, flags: number): void {
    const found = this.frame[0] & 0x0f;
    // MQTT 3.1 gives DUP a meaning on SUBSCRIBE and UNSUBSCRIBE and calls the other bits unused; only its QoS bits bind.
    const binding = version === 3 ? 0x06 : 0x0f;
    // [MQTT-2.1.3-1 v5] [MQTT-2.2.2-1 v3.1.1] [MQTT-2.2.2-2 v3.1.1]
    if ((found & binding) !== flags) {
      throw malformed(
        `${this.name} has fixed header flags 0x${found.toString(16)}, not 0x${flags.toString(16)}`,
      );
    }
    // [MQTT-1.5.5-1]. The older versions do not ask for the shortest form, and small clients reserve two bytes for it.
    if (version === 5 && !this.#remainingLengthIsShortest) {
      throw malformed(`${this.name} has a remaining length with more bytes than it takes`);
    }
  }

  get remaining(): number {
    return this.frame.length - this.position;
  }

  byte(field: string): number {
    this.#need(1, field);
    return this.frame[this.position++];
  }

  uint16(field: string): number {
    this.#need(2, field);
    const value = this.frame.readUInt16BE(this.position);
    this.position += 2;
    return value;
  }

  /** A UTF-8 string with its two-byte length before it. */
  string(field: string): string {
    const start = this.#counted(field);
    // [MQTT-1.5.4-1 v5] [MQTT-1.5.4-2 v5] [MQTT-1.5.3-1 v3.1.1] [MQTT-1.5.3-2 v3.1.1]
    if (!isValidUtf8String(this.frame, start, this.position)) {
      throw malformed(`${this.name} ${field} is not a valid UTF-8 string`);
    }
    return this.frame.toString('utf8', start, this.position);
  }

  /** A copy of bytes with their two-byte length before them. */
  binary(field: string): Buffer {
    const start = this.#counted(field);
    return Buffer.from(this.frame.subarray(start, this.position));
  }

  /** Steps over a property block and returns where its content begins; it ends at the new position. */
  propertyBlock(field = 'properties'): number {
    const length = readVarint(this.frame, this.position, this.frame.length);
    if (length < 0) throw malformed(`${this.name} ends within the length of its ${field}`);
    this.position += varintSize(length);
    this.#need(length, field);
    const start = this.position;
    this.position += length;
    return start;
  }

  /** A packet identifier, which is never 0. */
  packetId(): number {
    const packetId = this.uint16('packet identifier');
    // [MQTT-2.2.1-3 v5] [MQTT-2.3.1-1 v3.1.1]
    if (packetId === 0) throw protocolError(`${this.name} has packet identifier 0`);
    return packetId;
  }

  /** Every byte of a packet has a meaning: what is left over means that both sides disagree about the rest. */
  end(): void {
    if (this.remaining > 0) throw malformed(`${this.name} has ${this.remaining} bytes after its last field`);
  }

  #counted(field: string): number {
    const length = this.uint16(`length of the ${field}`);
    this.#need(length, field);
    const start = this.position;
    this.position += length;
    return start;
  }

  #need(bytes: number, field: string): void {
    if (this.remaining < bytes) {
      throw malformed(`${this.name} ends within its ${field}: ${bytes} bytes needed, ${this.remaining} left`);
    }
  }
}
