// A tiny broker for tests that loses, repeats, reorders, refuses and hangs up when told to. It knows literal filters, one trailing
// wildcard level and one shared group, and nothing of sessions.
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import mqttPacket, { type IPublishPacket, type Packet } from 'mqtt-packet';

/** What happens to the delivery of the message with this number, counted from 0 over all messages. */
export type Fate = 'deliver' | 'drop' | 'repeat' | 'swap with the next';

export interface BrokenBrokerOptions {
  fate?: (message: number) => Fate;
  connackCode?: number;
  subackCode?: number;
  /** PUBACK and PUBREC reason code, 5.0. */
  ackReason?: number;
  /** No acknowledgement at all for this message. */
  forgetsAck?: (message: number) => boolean;
  acksTwice?: boolean;
  /** Destroys the publisher's connection on this message. */
  hangsUpAt?: number;
  /** 5.0: Receive Maximum in CONNACK. */
  receiveMaximum?: number;
}

interface Peer {
  socket: Socket;
  version: 4 | 5;
  filters: { filter: string; qos: number }[];
  nextId: number;
}

export class BrokenBroker {
  readonly #server: Server;
  readonly #options: BrokenBrokerOptions;
  readonly #peers = new Set<Peer>();
  #messages = 0;
  /** Whose turn it is in the one shared group. */
  #turn = 0;
  #held: IPublishPacket | undefined;

  constructor(options: BrokenBrokerOptions = {}) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    for (const peer of this.#peers) peer.socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(socket: Socket): void {
    const peer: Peer = { socket, version: 4, filters: [], nextId: 0 };
    this.#peers.add(peer);
    socket.on('error', () => {});
    socket.on('close', () => this.#peers.delete(peer));
    const parser = mqttPacket.parser();
    parser.on('packet', (packet: Packet) => this.#handle(peer, packet));
    parser.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => parser.parse(chunk));
  }

  #send(peer: Peer, packet: Packet): void {
    peer.socket.write(mqttPacket.generate(packet, { protocolVersion: peer.version }));
  }

  #handle(peer: Peer, packet: Packet): void {
    const options = this.#options;
    switch (packet.cmd) {
      case 'connect': {
        peer.version = packet.protocolVersion === 5 ? 5 : 4;
        const code = options.connackCode ?? 0;
        const properties =
          options.receiveMaximum === undefined
            ? {}
            : { properties: { receiveMaximum: options.receiveMaximum } };
        this.#send(peer, {
          cmd: 'connack',
          sessionPresent: false,
          ...(peer.version === 5 ? { reasonCode: code, ...properties } : { returnCode: code }),
        });
        break;
      }
      case 'subscribe':
        for (const { topic, qos } of packet.subscriptions) peer.filters.push({ filter: topic, qos });
        this.#send(peer, {
          cmd: 'suback',
          messageId: packet.messageId ?? 0,
          granted: packet.subscriptions.map(({ qos }) => options.subackCode ?? qos),
        });
        break;
      case 'publish':
        this.#publish(peer, packet);
        break;
      case 'pubrel':
        this.#send(peer, { cmd: 'pubcomp', messageId: packet.messageId ?? 0 });
        break;
      case 'pubrec':
        this.#send(peer, { cmd: 'pubrel', messageId: packet.messageId ?? 0 });
        break;
      default:
        break;
    }
  }

  #publish(peer: Peer, packet: IPublishPacket): void {
    const options = this.#options;
    const message = this.#messages++;
    if (message === options.hangsUpAt) {
      peer.socket.destroy();
      return;
    }
    if (packet.qos > 0 && options.forgetsAck?.(message) !== true) {
      const ack: Packet = {
        cmd: packet.qos === 1 ? 'puback' : 'pubrec',
        messageId: packet.messageId ?? 0,
        reasonCode: options.ackReason ?? 0,
      };
      this.#send(peer, ack);
      if (options.acksTwice === true) this.#send(peer, ack);
    }
    const held = this.#held;
    this.#held = undefined;
    switch (options.fate?.(message) ?? 'deliver') {
      case 'deliver':
        this.#deliver(packet);
        break;
      case 'repeat':
        this.#deliver(packet);
        this.#deliver(packet);
        break;
      case 'swap with the next':
        this.#held = packet;
        break;
      case 'drop':
        break;
    }
    if (held !== undefined) this.#deliver(held);
  }

  #deliver(packet: IPublishPacket): void {
    const sharers = [...this.#peers].filter(({ filters }) =>
      filters.some(({ filter }) => filter.startsWith('$share/') && matches(filter, packet.topic)),
    );
    const chosen = sharers[this.#turn++ % sharers.length];
    for (const peer of this.#peers) {
      if (sharers.includes(peer) && peer !== chosen) continue;
      const match = peer.filters.find(({ filter }) => matches(filter, packet.topic));
      if (match === undefined) continue;
      peer.nextId = (peer.nextId % 65_535) + 1;
      const qos = Math.min(match.qos, packet.qos) as 0 | 1 | 2;
      this.#send(peer, {
        cmd: 'publish',
        topic: packet.topic,
        payload: packet.payload,
        qos,
        retain: false,
        dup: false,
        ...(qos > 0 ? { messageId: peer.nextId } : {}),
      });
    }
  }
}

function matches(written: string, topic: string): boolean {
  const filter = written.replace(/^\$share\/[^/]+\//, '');
  if (!filter.endsWith('/+')) return filter === topic;
  const parent = filter.slice(0, -1);
  return topic.startsWith(parent) && !topic.slice(parent.length).includes('/');
}
