// Where the clients of a node of a cluster go: to the broker here while this node leads, through a tunnel to the leader while another does, and nowhere
// for a bounded time while nobody does. A node that stands alone has no need of it.
import type { Socket } from 'node:net';
import type { Clock } from '../core/clock.js';
import type { Logger } from '../core/logger.js';
import type { Transport } from '../core/transport.js';
import { ConnectError, type ConnectPacket, decodeConnect } from '../packet/connect.js';
import { encodeConnack } from '../packet/encode.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { HeldTransport } from './held-transport.js';
import { Tunnel } from './tunnel.js';

/** How long a client that has sent its CONNECT may wait for a leader, and again for a way to the one there is; twice that in all, whatever comes and goes. */
const WAIT_MS = 5000;
const SWEEP_MS = 50;
/** The first byte of a CONNECT. */
const CONNECT_BYTE = 0x10;
/** Tunnels that are being opened at once. */
const OPENING_MAX = 64;

export interface GatewayOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** From opening a connection to all of its CONNECT, as at the leader. */
  readonly connectTimeoutSeconds: number;
  /** A way to the leader; it is tried again while there is one and the client still waits. */
  openTunnel(client: TunnelledClient): Promise<{ socket: Socket; alreadyRead: Buffer }>;
}

export interface TunnelledClient {
  readonly address: string;
  readonly port: number;
  readonly isSecure: boolean;
  readonly certificateName: string | undefined;
}

interface Waiting {
  readonly transport: HeldTransport;
  /** By then its CONNECT has to be there. */
  readonly connectUntilMs: number;
  /** When it was; undefined before. */
  readyMs: number | undefined;
  isOpening: boolean;
  /** Why there is no tunnel. */
  failure: string | undefined;
}

export class Gateway {
  readonly #options: GatewayOptions;
  readonly #waiting = new Map<HeldTransport, Waiting>();
  readonly #tunnels = new Set<Tunnel>();
  /** Where the tunnels lead; '' while this node serves. */
  #leadership = '';
  #serve: ((transport: Transport) => void) | undefined = undefined;
  #hasLeader = false;
  /** When a leader came or went last. */
  #changedMs = Number.NEGATIVE_INFINITY;
  #reference = '';
  #opening = 0;
  #timer: NodeJS.Timeout | undefined = undefined;

  constructor(options: GatewayOptions) {
    this.#options = options;
  }

  accept(transport: Transport): void {
    if (this.#serve !== undefined) {
      this.#serve(transport);
      return;
    }
    const held = new HeldTransport(
      transport,
      (waiting) => this.#settleOne(this.#waiting.get(waiting)),
      (gone) => this.#drop(gone),
    );
    const { clock, connectTimeoutSeconds } = this.#options;
    this.#waiting.set(held, {
      transport: held,
      connectUntilMs: clock.monotonicMs() + connectTimeoutSeconds * 1000,
      readyMs: undefined,
      isOpening: false,
      failure: undefined,
    });
    this.#timer ??= setInterval(() => this.#settle(), SWEEP_MS);
  }

  /**
   * @param serve the broker here; undefined while this node does not lead
   * @param leadership names the leader in its epoch, where another node leads
   * @param reference where that one serves clients, HOST:PORT, or ''
   */
  route(
    serve: ((transport: Transport) => void) | undefined,
    leadership: string | undefined,
    reference: string,
  ): void {
    this.#serve = serve;
    // A leader that is frozen or cut off closes nothing. Its clients are to find the one that leads now.
    const isOther = leadership !== undefined && leadership !== this.#leadership;
    const hasLeader = leadership !== undefined;
    if (isOther || hasLeader !== this.#hasLeader) this.#changedMs = this.#options.clock.monotonicMs();
    this.#hasLeader = hasLeader;
    if (serve !== undefined || isOther) this.#closeTunnels();
    // Nor is one that is being opened to a former leader a way to anybody once this node serves.
    this.#leadership = serve === undefined ? (leadership ?? this.#leadership) : '';
    this.#reference = reference;
    this.#settle();
  }

  close(): void {
    clearInterval(this.#timer);
    for (const { transport } of this.#waiting.values()) transport.destroy();
    this.#waiting.clear();
    this.#closeTunnels();
  }

  #closeTunnels(): void {
    for (const tunnel of this.#tunnels) tunnel.close();
    this.#tunnels.clear();
  }

  #drop(held: HeldTransport): void {
    if (this.#waiting.delete(held)) held.destroy();
  }

  #settle(): void {
    for (const waiting of this.#waiting.values()) this.#settleOne(waiting);
    if (this.#waiting.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #settleOne(waiting: Waiting | undefined): void {
    if (waiting === undefined || waiting.isOpening) return;
    const { transport } = waiting;
    if (this.#serve !== undefined) {
      this.#waiting.delete(transport);
      this.#serve(transport);
      return;
    }
    const nowMs = this.#options.clock.monotonicMs();
    if (waiting.readyMs === undefined && isForLeader(transport)) waiting.readyMs = nowMs;
    if (nowMs >= this.#untilMs(waiting)) this.#refuse(waiting);
    else if (waiting.readyMs !== undefined && this.#hasLeader && this.#opening < OPENING_MAX)
      this.#forward(waiting);
  }

  /** A client that takes its time for the CONNECT does not wait for a leader yet, whether there is one or not. */
  #untilMs({ connectUntilMs, readyMs }: Waiting): number {
    if (readyMs === undefined) return connectUntilMs;
    // A leader that comes late has its time to take the client, too, but coming and going leaders do not make the client wait for ever.
    return Math.min(Math.max(readyMs, this.#changedMs), readyMs + WAIT_MS) + WAIT_MS;
  }

  /** Sends a client that has said who it is on its way to the leader. */
  #forward(waiting: Waiting): void {
    const { transport } = waiting;
    const connect = connectIn(transport.heldBytes);
    const reference = this.#reference;
    if (reference !== '' && connect !== undefined && wantsRedirect(connect))
      this.#redirect(transport, reference);
    else this.#open(waiting);
  }

  #open(waiting: Waiting): void {
    const { transport } = waiting;
    const { remoteAddress: address, remotePort: port, isSecure, clientCertificateName } = transport;
    const leadership = this.#leadership;
    waiting.isOpening = true;
    this.#opening++;
    this.#options.openTunnel({ address, port, isSecure, certificateName: clientCertificateName }).then(
      ({ socket, alreadyRead }) => {
        this.#opening--;
        if (!this.#waiting.has(transport)) {
          socket.destroy();
        } else if (socket.destroyed || leadership !== this.#leadership) {
          socket.destroy();
          this.#onNoTunnel(waiting, 'the leader is another one, or closed the tunnel');
        } else {
          this.#waiting.delete(transport);
          this.#tunnels.add(
            new Tunnel(transport, socket, alreadyRead, (tunnel) => this.#tunnels.delete(tunnel)),
          );
        }
      },
      (error: unknown) => {
        this.#opening--;
        this.#onNoTunnel(waiting, (error as Error).message);
        this.#options.logger.debug('no tunnel to the leader', { error });
      },
    );
  }

  /** Nothing of the client's has been passed on. The next sweep tries again: there may be another leader by then, or this node may serve. */
  #onNoTunnel(waiting: Waiting, failure: string): void {
    waiting.isOpening = false;
    waiting.failure = failure;
  }

  /** 0x9C, for those that ask for it: the leader serves them without a detour. */
  #redirect(transport: HeldTransport, serverReference: string): void {
    const bytes = encodeConnack(5, {
      sessionPresent: false,
      reasonCode: ReasonCode.UseAnotherServer,
      properties: { serverReference },
    });
    this.#answer(transport, bytes);
  }

  /** CONNACK 3 or 0x88: the server is unavailable. Whoever has not even sent a CONNECT gets nothing. */
  #refuse({ transport, readyMs, failure }: Waiting): void {
    const version = connectIn(transport.heldBytes)?.version;
    const reasonCode = ReasonCode.ServerUnavailable;
    this.#answer(
      transport,
      version === undefined ? undefined : encodeConnack(version, { sessionPresent: false, reasonCode }),
    );
    const noWay = this.#hasLeader ? (failure ?? 'too many wait for the leader') : 'there is no leader';
    const why = readyMs === undefined ? 'no CONNECT in time' : noWay;
    this.#options.logger.warn(`refused a client: ${why}`, {
      address: `${transport.remoteAddress}:${transport.remotePort}`,
    });
  }

  #answer(transport: HeldTransport, bytes: Buffer | undefined): void {
    this.#waiting.delete(transport);
    if (bytes !== undefined) transport.write(bytes, () => undefined);
    transport.end();
  }
}

/** Its CONNECT is all there, or what there is of it is enough for the leader to refuse. */
function isForLeader({ heldBytes, isFull }: HeldTransport): boolean {
  const isWhole = heldBytes.length >= (packetBytes(heldBytes) ?? Number.POSITIVE_INFINITY);
  // What is no CONNECT is for the leader to refuse, as soon as that shows.
  const isStrange = heldBytes.length > 0 && heldBytes[0] !== CONNECT_BYTE;
  return isWhole || isStrange || isFull;
}

/** The CONNECT that the bytes begin with, once it is all there; undefined too for what is none: that is for the leader to say. */
function connectIn(bytes: Buffer): ConnectPacket | undefined {
  const length = packetBytes(bytes);
  if (length === undefined || bytes.length < length) return undefined;
  try {
    return decodeConnect(bytes.subarray(0, length));
  } catch (error) {
    if (error instanceof ConnectError) return undefined;
    throw error;
  }
}

/** Length of the packet that the bytes begin with, its fixed header included. */
function packetBytes(bytes: Buffer): number | undefined {
  let length = 0;
  for (let at = 1; at <= 4; at++) {
    const byte = bytes[at];
    if (byte === undefined) return undefined;
    length += (byte & 0x7f) << (7 * (at - 1));
    if (byte < 0x80) return at + 1 + length;
  }
  return undefined;
}

function wantsRedirect({ version, userProperties }: ConnectPacket): boolean {
  return version === 5 && userProperties.some(([name, value]) => name === 'gomq-redirect' && value === '1');
}
