// Owns what MQTT.js has sent and not seen acknowledged, and sends it again on a new connection: all of it at once, in its order, with DUP. MQTT.js would
// send one message, wait for its acknowledgement, and send the next, which after a failover takes as many round trips as messages were in flight.
import { type DoneCallback, type IStore, type MqttClient, type PacketCallback, Store } from 'mqtt';
import { type Packet, writeToStream } from 'mqtt-packet';

export class InFlight extends Store {
  /** By packet id. A PUBREL takes the place of its PUBLISH. */
  readonly #packets = new Map<number, Packet>();
  #isOwn = true;

  get size(): number {
    return this.#packets.size;
  }

  /** Before MQTT.js asks: whether more may be in flight than the broker takes at once, so that only one after the other is safe. */
  limit(receiveMaximum: number | undefined): void {
    this.#isOwn = this.size <= (receiveMaximum ?? 65_535);
  }

  override put(packet: Packet, callback: DoneCallback): this {
    this.#packets.set(packet.messageId ?? 0, packet);
    return super.put(packet, callback);
  }

  override del(packet: Pick<Packet, 'messageId'>, callback: PacketCallback): this {
    this.#packets.delete(packet.messageId ?? 0);
    return super.del(packet, callback);
  }

  /** What MQTT.js is to send again by itself. */
  override createStream(): ReturnType<IStore['createStream']> {
    return this.#isOwn ? new Store().createStream() : super.createStream();
  }

  /** To be called before anything new is sent. */
  sendAgain(client: MqttClient): void {
    if (!this.#isOwn) return;
    client.stream.cork();
    for (const packet of this.#packets.values()) {
      // [MQTT-3.3.1-1]
      if (packet.cmd === 'publish') packet.dup = true;
      client.emit('packetsend', packet);
      writeToStream(packet, client.stream, client.options);
    }
    client.stream.uncork();
  }
}
