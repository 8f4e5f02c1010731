// What the tests of the wire between brokers share: a listener on port 0 that records whom it lets in, and a peer that says whatever it is told.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { silentLogger } from '../../src/core/logger.js';
import { FrameGatherer } from '../../src/replication/frame-gatherer.js';
import {
  decodeFrame,
  encodeFrame,
  type Frame,
  type HelloFrame,
  type TunnelClient,
} from '../../src/replication/frames.js';
import type { PeerIdentity } from '../../src/replication/handshake.js';
import { type DialOptions, dialReplica } from '../../src/replication/peer-dialer.js';
import type { LinkToLeader, LinkToMember, PeerLinkHandler } from '../../src/replication/peer-link.js';
import {
  openPeerListener,
  type PeerListener,
  type PeerListenerOptions,
} from '../../src/replication/peer-listener.js';

export const SECRET = 'open sesame';
export const CLIENT: TunnelClient = {
  address: '192.0.2.7',
  port: 40_000,
  isSecure: true,
  certificateName: 'alice',
};

export function identityOf(node: string, changes: Partial<PeerIdentity> = {}): PeerIdentity {
  return { cluster: 'c', clusterId: 'id', node, incarnation: `${node}1`, epoch: 7, ...changes };
}

interface ReplicaArrival {
  readonly link: LinkToMember;
  readonly hello: HelloFrame;
}

interface TunnelArrival {
  readonly socket: Socket;
  readonly client: TunnelClient;
  readonly hello: HelloFrame;
  readonly alreadyRead: Buffer;
}

/** Values that come one by one, for somebody who waits for the next. */
export class Arrivals<T> {
  readonly all: T[] = [];
  #taken = 0;
  #wake: () => void = () => {};

  add(value: T): void {
    this.all.push(value);
    this.#wake();
  }

  async next(): Promise<T> {
    while (this.all.length <= this.#taken) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.all[this.#taken++]!;
  }
}

export interface Door {
  readonly listener: PeerListener;
  readonly address: string;
  readonly port: number;
  readonly replicas: Arrivals<ReplicaArrival>;
  readonly tunnels: Arrivals<TunnelArrival>;
  readonly https: Arrivals<Omit<TunnelArrival, 'client'>>;
}

/** Opens a listener of node 'leader' that is closed, with all it let in, when the test ends. */
export async function openDoor(
  context: TestContext,
  settings: Partial<PeerListenerOptions> = {},
): Promise<Door> {
  const replicas = new Arrivals<ReplicaArrival>();
  const tunnels = new Arrivals<TunnelArrival>();
  const https = new Arrivals<Omit<TunnelArrival, 'client'>>();
  const listener = await openPeerListener({
    address: '127.0.0.1:0',
    secret: SECRET,
    logger: silentLogger,
    identity: () => identityOf('leader'),
    mayAccept: () => undefined,
    onReplica: (link, hello) => replicas.add({ link, hello }),
    onTunnel: (socket, client, hello, alreadyRead) => tunnels.add({ socket, client, hello, alreadyRead }),
    onHttp: (socket, hello, alreadyRead) => https.add({ socket, hello, alreadyRead }),
    ...settings,
  });
  context.after(async () => {
    await listener.close();
    for (const { link } of replicas.all) link.destroy();
    for (const { socket } of [...tunnels.all, ...https.all]) socket.destroy();
  });
  const { port } = listener.address;
  return { listener, address: `127.0.0.1:${port}`, port, replicas, tunnels, https };
}

export function dialing(door: Door, changes: Partial<DialOptions> = {}): DialOptions {
  // A deadline that no test comes near unless it is about it.
  return {
    address: door.address,
    identity: identityOf('member'),
    secret: SECRET,
    timeoutMs: 60_000,
    ...changes,
  };
}

/** A peer that follows no rule but the one of frames. */
export class RawPeer {
  readonly socket: Socket;
  readonly frames = new Arrivals<Frame>();
  /** The bytes of each. */
  readonly bytes: Buffer[] = [];
  /** Resolves when the connection is over. */
  readonly closed: Promise<void>;
  readonly #gatherer = new FrameGatherer(4096);

  private constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.setNoDelay(true);
    this.socket.on('error', () => {});
    this.socket.on('data', (chunk) => {
      this.#gatherer.push(chunk);
      for (let frame = this.#gatherer.next(); frame !== undefined; frame = this.#gatherer.next()) {
        this.bytes.push(frame);
        this.frames.add(decodeFrame(frame));
      }
    });
    this.closed = new Promise((resolve) => this.socket.once('close', () => resolve()));
  }

  static async connect(context: TestContext, port: number): Promise<RawPeer> {
    const peer = new RawPeer(port);
    context.after(() => peer.socket.destroy());
    await once(peer.socket, 'connect');
    return peer;
  }

  send(...frames: readonly (Frame | Buffer)[]): void {
    const parts = frames.flatMap((frame) => (Buffer.isBuffer(frame) ? [frame] : encodeFrame(frame)));
    this.socket.write(Buffer.concat(parts));
  }
}

/** Keeps what a link tells. */
export class Recorder<F extends Frame> implements PeerLinkHandler<F> {
  readonly frames = new Arrivals<F>();
  readonly drains = new Arrivals<true>();
  readonly closes = new Arrivals<Error | undefined>();
  /** Called with each frame, before it is kept. */
  onEach: (frame: F) => void = () => {};

  onFrame(frame: F): void {
    this.onEach(frame);
    this.frames.add(frame);
  }

  onDrain(): void {
    this.drains.add(true);
  }

  onClose(error: Error | undefined): void {
    this.closes.add(error);
  }
}

export interface LinkPair {
  /** At the leader. */
  readonly leader: LinkToMember;
  /** At the member. */
  readonly member: LinkToLeader;
  readonly hello: HelloFrame;
}

/** Both ends of a link that has not been started. */
export async function linkPair(
  context: TestContext,
  settings: Partial<PeerListenerOptions> = {},
): Promise<LinkPair> {
  const door = await openDoor(context, settings);
  const member = await dialReplica(dialing(door));
  context.after(() => member.destroy());
  const { link, hello } = await door.replicas.next();
  return { leader: link, member, hello };
}
