// Where the clients of a node of a cluster go: to the broker here while this node leads, through a tunnel to the leader while another does, and nowhere
// for a bounded time while nobody does. A node that stands alone has no need of it.
import type { Socket } from 'node:net';
import type { Clock } from '../core/clock.js';
import type { Logger } from '../core/logger.js';
import type { Transport } from '../core/transport.js';
import { HeldTransport } from './held-transport.js';
import { Tunnel } from './tunnel.js';

/** How long a client may wait for a leader. */
const WAIT_MS = 5000;
const SWEEP_MS = 50;
/** Tunnels that are being opened at once. */
const OPENING_MAX = 64;

export interface GatewayOptions {
  readonly clock: Clock;
  readonly logger: Logger;
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
  readonly untilMs: number;
  isOpening: boolean;
}

export class Gateway {
  readonly #options: GatewayOptions;
  readonly #waiting = new Map<HeldTransport, Waiting>();
  #serve: ((transport: Transport) => void) | undefined = undefined;
  #hasLeader = false;
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
    const held = new HeldTransport(transport, (gone) => this.#drop(gone));
    const untilMs = this.#options.clock.monotonicMs() + WAIT_MS;
    this.#waiting.set(held, { transport: held, untilMs, isOpening: false });
    this.#timer ??= setInterval(() => this.#settle(), SWEEP_MS);
    this.#settle();
  }

  /** @param serve the broker here; undefined while this node does not lead, and then whether another one does */
  route(serve: ((transport: Transport) => void) | undefined, hasLeader: boolean): void {
    this.#serve = serve;
    this.#hasLeader = hasLeader;
    this.#settle();
  }

  close(): void {
    clearInterval(this.#timer);
    for (const { transport } of this.#waiting.values()) transport.destroy();
    this.#waiting.clear();
  }

  #drop(held: HeldTransport): void {
    if (this.#waiting.delete(held)) held.destroy();
  }

  #settle(): void {
    const nowMs = this.#options.clock.monotonicMs();
    for (const waiting of this.#waiting.values()) {
      if (this.#serve !== undefined) {
        if (waiting.isOpening) continue;
        this.#waiting.delete(waiting.transport);
        this.#serve(waiting.transport);
      } else if (nowMs >= waiting.untilMs && !waiting.isOpening) this.#refuse(waiting.transport);
      else if (this.#hasLeader && !waiting.isOpening && this.#opening < OPENING_MAX) this.#open(waiting);
    }
    if (this.#waiting.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #open(waiting: Waiting): void {
    const { transport } = waiting;
    const { remoteAddress: address, remotePort: port, isSecure, clientCertificateName } = transport;
    waiting.isOpening = true;
    this.#opening++;
    this.#options.openTunnel({ address, port, isSecure, certificateName: clientCertificateName }).then(
      ({ socket, alreadyRead }) => {
        this.#opening--;
        if (!this.#waiting.delete(transport) || socket.destroyed) {
          socket.destroy();
          transport.destroy();
        } else new Tunnel(transport, socket, alreadyRead);
      },
      (error: unknown) => {
        this.#opening--;
        // The next sweep tries again: there may be another leader by then.
        waiting.isOpening = false;
        this.#options.logger.debug('no tunnel to the leader', { error });
      },
    );
  }

  /** CONNACK 3 or 0x88: the server is unavailable. Whoever has not even sent a CONNECT gets nothing. */
  #refuse(transport: HeldTransport): void {
    this.#waiting.delete(transport);
    const version = connectVersion(transport.heldBytes);
    if (version !== undefined) {
      transport.write(Buffer.from(version === 5 ? [0x20, 3, 0, 0x88, 0] : [0x20, 2, 0, 3]), () => undefined);
    }
    transport.end();
    this.#options.logger.warn('refused a client: there is no leader', {
      address: `${transport.remoteAddress}:${transport.remotePort}`,
    });
  }
}

/** The protocol level of the CONNECT that the bytes begin with. */
function connectVersion(bytes: Buffer): number | undefined {
  if (bytes[0] !== 0x10) return undefined;
  let at = 1;
  while (at < 5 && (bytes[at] ?? 0) >= 0x80) at++;
  const nameBytes = ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
  return bytes[at + 3 + nameBytes];
}
