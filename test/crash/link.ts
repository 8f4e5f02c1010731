// One connection of a test client: packets out, packets in, and the news of its end. It answers nothing by itself and expects nothing: what is
// right is for the clients and the ledger to say. mqtt-packet decodes, which the broker does not use for its hot frames.
import { connect, type Socket } from 'node:net';
import mqttPacket, {
  type IConnackPacket,
  type IConnectPacket,
  type IPublishPacket,
  type Packet,
  type Parser,
} from 'mqtt-packet';

export type Version = 4 | 5;

export interface LinkEvents {
  onPacket(packet: Packet): void;
  /** Nothing comes any more, for whatever reason. */
  onClose(): void;
}

const CONNACK_MS_MAX = 20_000;

export class Link {
  readonly version: Version;
  /** Resolves when nothing comes any more. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #parser: Parser;

  constructor(port: number, version: Version, events: LinkEvents) {
    this.version = version;
    this.#parser = mqttPacket.parser({ protocolVersion: version });
    this.#parser.on('packet', (packet) => events.onPacket(packet));
    this.#parser.on('error', (error) => {
      throw new Error('the broker sent what is no packet', { cause: error });
    });
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.#socket.on('data', (chunk: Buffer) => this.#parser.parse(chunk));
    // Connections that break are what this is about; 'close' follows.
    this.#socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      this.#socket.once('close', () => {
        events.onClose();
        resolve();
      });
    });
  }

  get isOpen(): boolean {
    return this.#socket.writable;
  }

  send(packet: Packet): void {
    if (this.isOpen) this.#socket.write(mqttPacket.generate(packet, { protocolVersion: this.version }));
  }

  /** Ends it without a word. */
  destroy(): void {
    this.#socket.destroy();
  }
}

/** What a client says in CONNECT beside what all of them say. */
export interface ConnectFields {
  clientId: string;
  clean: boolean;
  /** 5.0: how long the session outlives its connection. */
  expirySeconds?: number;
  receiveMaximum?: number;
  will?: NonNullable<IConnectPacket['will']>;
}

export function connectPacket(version: Version, fields: ConnectFields): IConnectPacket {
  const { clientId, clean, expirySeconds, receiveMaximum, will } = fields;
  return {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: version,
    clientId,
    clean,
    keepalive: 0,
    ...(will === undefined ? {} : { will }),
    ...(version === 4
      ? {}
      : {
          properties: {
            ...(expirySeconds === undefined ? {} : { sessionExpiryInterval: expirySeconds }),
            ...(receiveMaximum === undefined ? {} : { receiveMaximum }),
          },
        }),
  };
}

/** A link with CONNECT sent, and its answer: undefined where the connection ended before. */
export interface Opening {
  readonly link: Link;
  readonly connack: Promise<IConnackPacket | undefined>;
}

/** Opens a connection; packets after CONNACK go to `events`. */
export function openLink(port: number, version: Version, fields: ConnectFields, events: LinkEvents): Opening {
  let settle: (connack: IConnackPacket | undefined) => void = () => undefined;
  const connack = new Promise<IConnackPacket | undefined>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`${fields.clientId}: no CONNACK in ${CONNACK_MS_MAX} ms`)),
      CONNACK_MS_MAX,
    );
    settle = (answer) => {
      clearTimeout(timer);
      const code = answer === undefined ? 0 : (answer.returnCode ?? answer.reasonCode);
      if (code === 0) resolve(answer);
      else reject(new Error(`${fields.clientId}: CONNECT was refused with ${code}`));
    };
  });
  const link = new Link(port, version, {
    onPacket(packet) {
      if (packet.cmd === 'connack') settle(packet);
      else events.onPacket(packet);
    },
    onClose() {
      settle(undefined);
      events.onClose();
    },
  });
  link.send(connectPacket(version, fields));
  return { link, connack };
}

/** Of the message in a PUBLISH: payloads begin with it. */
export function idOf(packet: IPublishPacket): number {
  return Number(packet.payload.toString().split(' ')[0]);
}
