// A client that does one thing after the other and waits for each: for tests that look at a cluster, not at its load.
import type { IConnackPacket, IPubackPacket, IPublishPacket, Packet } from 'mqtt-packet';
import { type ConnectFields, connectPacket, Link, type Version } from '../crash/link.js';

const WAIT_MS_MAX = 30_000;
/** Reason codes from here on say that it was not done. */
const REFUSED_FROM = 0x80;

export class PlainClient {
  readonly #link: Link;
  readonly #packets: Packet[] = [];
  readonly #waiting = new Set<() => void>();
  #isClosed = false;
  #lastId = 0;

  private constructor(port: number, version: Version) {
    const wake = (): void => {
      for (const one of this.#waiting) one();
    };
    this.#link = new Link(port, version, {
      onPacket: (packet) => {
        this.#packets.push(packet);
        wake();
      },
      onClose: () => {
        this.#isClosed = true;
        wake();
      },
    });
  }

  /** With the answer to CONNECT; undefined where there is none. */
  static async open(
    port: number,
    version: Version,
    fields: ConnectFields & { userProperties?: Record<string, string> },
  ): Promise<{ client: PlainClient; connack: IConnackPacket | undefined }> {
    const client = new PlainClient(port, version);
    const packet = connectPacket(version, fields);
    const { userProperties } = fields;
    client.#link.send(
      userProperties === undefined
        ? packet
        : { ...packet, properties: { ...packet.properties, userProperties } },
    );
    const connack = (await client.next('connack')) as IConnackPacket | undefined;
    return { client, connack };
  }

  /** Connects, until a broker takes it. */
  static async connect(port: number, clientId: string, clean = true): Promise<PlainClient> {
    const endMs = performance.now() + WAIT_MS_MAX;
    while (performance.now() < endMs) {
      const { client, connack } = await PlainClient.open(port, 4, { clientId, clean });
      if (connack?.returnCode === 0) return client;
      client.close();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error(`${clientId}: no broker takes it within ${WAIT_MS_MAX} ms`);
  }

  /** The next packet of a kind; undefined where the connection ends first. */
  async next(cmd: Packet['cmd']): Promise<Packet | undefined> {
    for (;;) {
      const at = this.#packets.findIndex((packet) => packet.cmd === cmd);
      if (at >= 0) return this.#packets.splice(at, 1)[0];
      if (this.#isClosed) return undefined;
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${cmd} within ${WAIT_MS_MAX} ms`)), WAIT_MS_MAX);
        const wake = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        this.#waiting.add(wake);
      });
    }
  }

  /** At QoS 1; resolves with whether it was acknowledged: a PUBACK may also say that it was refused. */
  async publish(topic: string, payload: string | Buffer, retain = false): Promise<boolean> {
    this.send(topic, payload, retain);
    const puback = (await this.next('puback')) as IPubackPacket | undefined;
    return puback !== undefined && (puback.reasonCode ?? 0) < REFUSED_FROM;
  }

  /** Without waiting. */
  send(topic: string, payload: string | Buffer, retain = false): void {
    this.#lastId = (this.#lastId % 65_535) + 1;
    this.#link.send({ cmd: 'publish', topic, payload, qos: 1, retain, dup: false, messageId: this.#lastId });
  }

  /** Resolves when the broker has taken all that was sent. */
  async ping(): Promise<void> {
    this.#link.send({ cmd: 'pingreq' });
    await this.next('pingresp');
  }

  async subscribe(topic: string): Promise<void> {
    this.#lastId = (this.#lastId % 65_535) + 1;
    this.#link.send({ cmd: 'subscribe', messageId: this.#lastId, subscriptions: [{ topic, qos: 1 }] });
    await this.next('suback');
  }

  /** The next message, acknowledged. */
  async message(): Promise<{ topic: string; payload: string } | undefined> {
    const packet = (await this.next('publish')) as IPublishPacket | undefined;
    if (packet === undefined) return undefined;
    if (packet.qos > 0) this.#link.send({ cmd: 'puback', messageId: packet.messageId! });
    return { topic: packet.topic, payload: packet.payload.toString() };
  }

  close(): void {
    this.#link.destroy();
  }
}
