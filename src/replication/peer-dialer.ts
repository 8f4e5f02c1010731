// Owns the way to another broker: connects, shakes hands, and answers a link or a tunnel, all within one deadline. Also knocks at a door only to
// see whether somebody is behind it.
import { connect as connectTcp, isIP, type Socket, type TcpNetConnectOpts } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { parseAddress } from '../core/address.js';
import { GomqError } from '../core/errors.js';
import type { Purpose, TunnelClient } from './frames.js';
import {
  converse,
  DialerHandshake,
  HANDSHAKE_TIMEOUT_MS,
  type PeerIdentity,
  type Welcome,
} from './handshake.js';
import { type LinkToLeader, linkToLeader } from './peer-link.js';
import { PEER_TLS_VERSION_MIN, type PeerTls } from './peer-tls.js';

export interface DialOptions {
  /** HOST:PORT of a peer listener. */
  readonly address: string;
  readonly identity: PeerIdentity;
  readonly secret: string;
  /** Absent: plain TCP. The certificate of the other broker must be for the host of `address`. */
  readonly tls?: PeerTls | undefined;
  /** Connecting, TLS and handshake together; HANDSHAKE_TIMEOUT_MS where absent. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** A connection that bytes of others pass over, as they are. */
export interface Tunnel {
  /** Paused. It may have closed already: whoever takes it looks at `destroyed`, listens to it and resumes it. Errors are not fatal. */
  readonly socket: Socket;
  /** Who answers at the other end. */
  readonly welcome: Welcome;
  /** What came behind the handshake; before what the socket reads. */
  readonly alreadyRead: Buffer;
}

/** What a knock at the door of a broker tells of its process: 'gone' ended, 'there' somebody listens, 'silent' there is no knowing. */
export type Probe = 'gone' | 'there' | 'silent';

const KEEP_ALIVE_PROBE_MS = 15_000;
/** The machine answers, and says that nobody listens. */
const GONE_CODES: ReadonlySet<string | undefined> = new Set(['ECONNREFUSED', 'ECONNRESET']);

/**
 * Dials the leader, to replicate from it.
 * @throws {GomqError} ADDRESS_INVALID; PEER_UNREACHABLE, with the cause where there is one; PEER_REFUSED (PeerRefusedError); PEER_PROTOCOL
 */
export function dialReplica(options: DialOptions): Promise<LinkToLeader> {
  return dial(options, 'replica', undefined, (socket, { node }, alreadyRead) =>
    linkToLeader(socket, node, alreadyRead),
  );
}

/**
 * Dials the leader, for a client of this broker.
 * @throws {GomqError} as dialReplica does
 */
export function dialTunnel(options: DialOptions & { readonly client: TunnelClient }): Promise<Tunnel> {
  return dial(options, 'tunnel', options.client, asTunnel);
}

/**
 * Dials the leader, for one request to its HTTP API that this broker has found to be allowed.
 * @throws {GomqError} as dialReplica does
 */
export function dialHttp(options: DialOptions): Promise<Tunnel> {
  return dial(options, 'http', undefined, asTunnel);
}

function asTunnel(socket: Socket, welcome: Welcome, alreadyRead: Buffer): Tunnel {
  return { socket, welcome, alreadyRead };
}

async function dial<Result>(
  options: DialOptions,
  purpose: Purpose,
  client: TunnelClient | undefined,
  take: (socket: Socket, welcome: Welcome, alreadyRead: Buffer) => Result,
): Promise<Result> {
  const { address, identity, secret, signal } = options;
  const timeoutMs = options.timeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  const handshake = new DialerHandshake({ identity, secret, purpose, client });
  if (signal?.aborted === true) throw unreachable(address, 'gave up on', signal.reason);
  const { socket, connected } = open(options);
  return await new Promise<Result>((resolve, reject) => {
    let doing = 'cannot connect to';
    let isSettled = false;
    const settle = () => {
      isSettled = true;
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.off('error', onError);
    };
    const fail = (error: unknown) => {
      if (isSettled) return;
      settle();
      socket.destroy();
      reject(error);
    };
    const onAbort = () => fail(unreachable(address, 'gave up on', signal?.reason));
    const onError = (error: Error) => fail(unreachable(address, doing, error));
    const timer = setTimeout(() => fail(unreachable(address, doing, timeoutError(timeoutMs))), timeoutMs);
    signal?.addEventListener('abort', onAbort);
    socket.on('error', onError);
    socket.on('error', ignore);
    socket.once(connected, () => {
      if (isSettled) return;
      doing = 'no handshake with';
      converse(socket, handshake, {
        onDone: (welcome, alreadyRead) => {
          settle();
          resolve(take(socket, welcome, alreadyRead));
        },
        onRefused: () => {},
        onFailed: (error) => {
          const isOurs = error instanceof GomqError;
          fail(isOurs ? error : unreachable(address, doing, error ?? closedError()));
        },
      });
      socket.write(handshake.hello);
    });
  });
}

function open({ address, tls }: DialOptions): { socket: Socket; connected: 'connect' | 'secureConnect' } {
  const { host, port } = parseAddress(address);
  const options: TcpNetConnectOpts = {
    host,
    port,
    noDelay: true,
    // For tunnels: replica links have heartbeats.
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_PROBE_MS,
  };
  if (tls === undefined) return { socket: connectTcp(options), connected: 'connect' };
  const name = isIP(host) === 0 ? { servername: host } : {};
  const secured = { ...options, ...tls, ...name, minVersion: PEER_TLS_VERSION_MIN };
  return { socket: connectTls(secured), connected: 'secureConnect' };
}

/**
 * Connects to a peer address and leaves at once. Never rejects.
 * @throws {GomqError} ADDRESS_INVALID
 */
export function probePeer(address: string, timeoutMs: number): Promise<Probe> {
  const { host, port } = parseAddress(address);
  return new Promise((resolve) => {
    const socket = connectTcp({ host, port });
    const answer = (probe: Probe) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(probe);
    };
    const timer = setTimeout(() => answer('silent'), timeoutMs);
    socket.once('connect', () => answer('there'));
    // Also after the answer, when it means nothing any more.
    socket.on('error', (error) => answer(isGone(error) ? 'gone' : 'silent'));
  });
}

/** Whether a failure to connect tells that the process ended. Where a name stands for several addresses, all of them have to say so. */
export function isGone(error: NodeJS.ErrnoException): boolean {
  return error instanceof AggregateError ? error.errors.every(isGone) : GONE_CODES.has(error.code);
}

function unreachable(address: string, doing: string, cause: unknown): GomqError {
  const reason =
    cause instanceof Error ? cause.message || (cause as NodeJS.ErrnoException).code : String(cause);
  return new GomqError('PEER_UNREACHABLE', `${doing} ${address}: ${reason}`, { retriable: true, cause });
}

function timeoutError(timeoutMs: number): Error {
  return Object.assign(new Error(`no answer within ${timeoutMs} ms`), { code: 'ETIMEDOUT' });
}

function closedError(): Error {
  return Object.assign(new Error('the connection was closed'), { code: 'ECONNRESET' });
}

function ignore(): void {}
