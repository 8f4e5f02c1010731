// A broker that does what a test tells it to, right or wrong: for refusals, lost connections and limits that a real one seldom shows.
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import mqttPacket, { type IConnectPacket, type Packet } from 'mqtt-packet';
import { createWebSocketStream, WebSocketServer } from 'ws';

/** Any packet, however wrong. */
export interface Sendable {
  cmd: Packet['cmd'];
  [property: string]: unknown;
}

export interface Peer {
  /** The CONNECT of this connection. */
  connect: IConnectPacket;
  /** 1 for the first connection, and so on. */
  number: number;
  send(packet: Sendable): void;
  /** Closes the connection after what was sent. */
  end(): void;
  /** Resets the connection. */
  destroy(): void;
}

/** Handles a packet, or answers false to have it handled as a broker would. */
export type Script = (packet: Packet, peer: Peer) => boolean | undefined;

export interface ScriptedBroker {
  port: number;
  /** HOST:PORT for --connect. */
  address: string;
  /** Everything received, of all connections. */
  received: Packet[];
  /** Resolves with the first packet received that fits, past or future. */
  until<T extends Packet>(fits: (packet: Packet) => packet is T): Promise<T>;
  /** Resolves when so many PUBLISH packets have been received. */
  publishes(count: number): Promise<void>;
  connections: number;
  stop(): Promise<void>;
}

export async function scriptedBroker(
  script: Script = () => undefined,
  options: { tls?: TlsOptions; websocket?: boolean; port?: number } = {},
): Promise<ScriptedBroker> {
  const received: Packet[] = [];
  const waiting: (() => void)[] = [];
  const streams = new Set<Duplex>();
  const broker = { connections: 0 };
  const serve = (stream: Duplex) => {
    streams.add(stream);
    stream.on('close', () => streams.delete(stream));
    stream.on('error', () => undefined);
    broker.connections++;
    let version: 3 | 4 | 5 = 4;
    const peer: Peer = {
      connect: { cmd: 'connect', clientId: '' },
      number: broker.connections,
      send: (packet) =>
        stream.write(mqttPacket.generate(packet as unknown as Packet, { protocolVersion: version })),
      end: () => stream.end(),
      destroy: () => stream.destroy(),
    };
    const parser = mqttPacket.parser();
    parser.on('error', () => stream.destroy());
    parser.on('packet', (packet) => {
      if (packet.cmd === 'connect') {
        peer.connect = packet;
        version = packet.protocolVersion ?? 4;
      }
      received.push(packet);
      for (const wake of waiting.splice(0)) wake();
      if (script(packet, peer) !== true) answer(packet, peer);
    });
    stream.on('data', (chunk: Buffer) => parser.parse(chunk));
  };
  const server = listenWith(serve, options);
  await new Promise<void>((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    address: `127.0.0.1:${port}`,
    received,
    until: async <T extends Packet>(fits: (packet: Packet) => packet is T): Promise<T> => {
      for (;;) {
        const found = received.find(fits);
        if (found !== undefined) return found;
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
    publishes: async (count) => {
      while (received.filter(is('publish')).length < count) {
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
    get connections() {
      return broker.connections;
    },
    stop: async () => {
      for (const stream of streams) stream.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function listenWith(
  serve: (stream: Duplex) => void,
  options: { tls?: TlsOptions; websocket?: boolean },
): Server {
  if (options.websocket) {
    const http = createHttpServer();
    const sockets = new WebSocketServer({ server: http, path: '/mqtt', handleProtocols: () => 'mqtt' });
    sockets.on('connection', (socket) => serve(createWebSocketStream(socket)));
    return http;
  }
  if (options.tls !== undefined)
    return createTlsServer(options.tls, serve).on('tlsClientError', () => undefined);
  return createServer((socket: Socket) => serve(socket));
}

/** What a broker without any opinion answers. */
export function answer(packet: Packet, peer: Peer): void {
  const v5 = peer.connect.protocolVersion === 5;
  switch (packet.cmd) {
    case 'connect':
      peer.send(v5 ? connack(0) : { cmd: 'connack', returnCode: 0, sessionPresent: false });
      break;
    case 'publish':
      if (packet.qos === 1) peer.send({ cmd: 'puback', messageId: packet.messageId });
      if (packet.qos === 2) peer.send({ cmd: 'pubrec', messageId: packet.messageId });
      break;
    case 'pubrec':
      peer.send({ cmd: 'pubrel', messageId: packet.messageId });
      break;
    case 'pubrel':
      peer.send({ cmd: 'pubcomp', messageId: packet.messageId });
      break;
    case 'subscribe':
      peer.send({
        cmd: 'suback',
        messageId: packet.messageId,
        granted: packet.subscriptions.map((subscription) => subscription.qos),
      });
      break;
    case 'unsubscribe':
      peer.send({
        cmd: 'unsuback',
        messageId: packet.messageId,
        granted: packet.unsubscriptions.map(() => 0),
      });
      break;
    case 'pingreq':
      peer.send({ cmd: 'pingresp' });
      break;
    case 'disconnect':
      peer.end();
      break;
  }
}

export function connack(
  reasonCode: number,
  properties: Record<string, unknown> = {},
  sessionPresent = false,
): Sendable {
  return { cmd: 'connack', reasonCode, sessionPresent, properties };
}

/** A message to a subscriber, QoS 0 unless told otherwise. */
export function publish(
  topic: string,
  payload: string | Buffer,
  more: Record<string, unknown> = {},
): Sendable {
  return { cmd: 'publish', topic, payload, qos: 0, retain: false, dup: false, ...more };
}

export function is<C extends Packet['cmd']>(
  cmd: C,
): (packet: Packet) => packet is Extract<Packet, { cmd: C }> {
  return (packet): packet is Extract<Packet, { cmd: C }> => packet.cmd === cmd;
}
