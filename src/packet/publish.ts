// PUBLISH (section 3.3), the hot packet, taken apart in place: positions into the bytes that arrived, no object per packet.

import { malformed, type ProtocolVersion, protocolError, type QoS } from './types.js';
import { readVarint, varintSize } from './varint.js';

/**
 * Where the parts of one PUBLISH are. Used again for the next packet.
 *
 *     start            bodyStart                                                              end
 *     | flags | length | topic length (2) | topic | packet id (2) | properties length | ... | payload |
 *                                          ^ topicStart  ^ topicEnd                           ^ payloadStart
 */
export class PublishFrame {
  buffer: Buffer = Buffer.alloc(0);
  qos: QoS = 0;
  isRetained = false;
  isDuplicate = false;
  topicStart = 0;
  topicEnd = 0;
  /** 0 for QoS 0. */
  packetId = 0;
  /** The property block without its length; empty for 3.x. */
  propertiesStart = 0;
  propertiesEnd = 0;
  payloadStart = 0;
  payloadEnd = 0;

  /** @throws {GomqError} PROTOCOL */
  parse(buffer: Buffer, start: number, bodyStart: number, end: number, version: ProtocolVersion): void {
    const flags = buffer[start]!;
    const qos = (flags >> 1) & 3;
    if (qos === 3) throw malformed('PUBLISH with QoS 3'); // [MQTT-3.3.1-4]
    this.buffer = buffer;
    this.qos = qos as QoS;
    this.isRetained = (flags & 1) !== 0;
    this.isDuplicate = (flags & 8) !== 0;
    if (qos === 0 && this.isDuplicate) throw malformed('PUBLISH with DUP and QoS 0'); // [MQTT-3.3.1-2]
    if (bodyStart + 2 > end) throw malformed('PUBLISH ends before its topic name');
    const topicStart = bodyStart + 2;
    const topicEnd = topicStart + ((buffer[bodyStart]! << 8) | buffer[bodyStart + 1]!);
    if (topicEnd > end) throw malformed('the topic name of a PUBLISH is longer than the packet');
    this.topicStart = topicStart;
    this.topicEnd = topicEnd;
    let at = topicEnd;
    if (qos > 0) {
      if (at + 2 > end) throw malformed('PUBLISH ends before its packet id');
      this.packetId = (buffer[at]! << 8) | buffer[at + 1]!;
      if (this.packetId === 0) throw protocolError('PUBLISH with packet id 0'); // [MQTT-2.2.1-3] v5, [MQTT-2.3.1-1] v3.1.1
      at += 2;
    } else {
      this.packetId = 0;
    }
    if (version === 5) {
      if (at < end && buffer[at] === 0) {
        at += 1;
        this.propertiesStart = at;
      } else {
        const length = readVarint(buffer, at, end);
        if (length === -1) throw malformed('PUBLISH ends before its properties');
        at += varintSize(length);
        this.propertiesStart = at;
        at += length;
        if (at > end) throw malformed('the properties of a PUBLISH are longer than the packet');
      }
    } else {
      this.propertiesStart = at;
    }
    this.propertiesEnd = at;
    this.payloadStart = at;
    this.payloadEnd = end;
  }
}
