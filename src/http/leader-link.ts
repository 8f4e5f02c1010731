// Passes a request on to the leader, so that the API answers on every broker: over a connection between brokers, so that it takes no address of the API
// and no token of the leader's, which takes the request as judged here. A request is passed on once: whoever gets one that has been passed on, and does
// not lead either, says that there is no leader. Nothing is tried again here, since a publish may have been taken before its answer was lost.
import { type IncomingMessage, request as openRequest } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { GomqError } from '../core/errors.js';
import type { HttpCluster } from './cluster.js';
import type { Caller } from './guard.js';

export interface LeaderLinkTimeouts {
  /** Without a byte of the answer. */
  idleMs: number;
  /** Until all of it has been taken. */
  totalMs: number;
}

/** With whose rights the leader is to serve a request, between brokers. */
export const CALLER_HEADER = 'gomq-caller';
/** At a time. */
const UNDER_WAY_MAX = 64;
const TO_CALLER = ['allow', 'content-length', 'content-type', 'gomq-next-offset', 'retry-after'];

export class LeaderLink {
  readonly #cluster: HttpCluster;
  readonly #timeouts: LeaderLinkTimeouts;
  #underWay = 0;

  constructor(cluster: HttpCluster, timeouts: LeaderLinkTimeouts) {
    this.#cluster = cluster;
    this.#timeouts = timeouts;
  }

  /**
   * Answers with what the leader answers.
   * @param body as it came
   * @param wasPassedOn by another node, to this one
   * @throws {GomqError} NOT_READY, PEER_UNREACHABLE, REFUSED
   */
  async forward(
    request: FastifyRequest,
    reply: FastifyReply,
    body: Buffer | undefined,
    wasPassedOn: boolean,
    caller: Caller,
  ): Promise<FastifyReply> {
    const leader = this.#leaderFor(wasPassedOn);
    if (this.#underWay >= UNDER_WAY_MAX) {
      throw new GomqError('REFUSED', `${UNDER_WAY_MAX} requests are being passed on to the leader already`, {
        hint: 'Try again in a moment, or ask the leader itself.',
        retriable: true,
      });
    }
    this.#underWay++;
    let socket: Socket | undefined;
    let answer: IncomingMessage;
    try {
      socket = await this.#open(leader);
      // Whoever has left by now has not asked for anything.
      if (request.socket.destroyed) throw unreachable(leader, new Error('the caller is gone'), 'GET');
      answer = await this.#ask(leader, socket, caller, request, reply, body);
    } catch (error) {
      socket?.destroy();
      this.#underWay--;
      throw error;
    }
    answer.once('close', () => {
      this.#underWay--;
    });
    reply.code(answer.statusCode ?? 502);
    for (const name of TO_CALLER) {
      const value = answer.headers[name];
      if (value !== undefined) reply.header(name, value);
    }
    return reply.send(answer);
  }

  #leaderFor(wasPassedOn: boolean): string {
    if (wasPassedOn) throw noLeader(`${this.#cluster.node} was taken for the leader, which it is not`);
    const leader = this.#cluster.leader();
    if (leader === undefined) throw noLeader('the cluster has no leader that serves clients at the moment');
    return leader;
  }

  async #open(leader: string): Promise<Socket> {
    try {
      return await this.#cluster.openLeader();
    } catch (error) {
      // Nothing was sent, whatever it was for.
      throw unreachable(leader, error as Error, 'GET');
    }
  }

  /** Resolves with the beginning of the answer. */
  #ask(
    leader: string,
    socket: Socket,
    caller: Caller,
    request: FastifyRequest,
    reply: FastifyReply,
    body: Buffer | undefined,
  ): Promise<IncomingMessage> {
    const { idleMs, totalMs } = this.#timeouts;
    const headers: Record<string, string | number> = { host: 'leader', [CALLER_HEADER]: caller };
    const type = request.headers['content-type'];
    if (type !== undefined) headers['content-type'] = type;
    if (body !== undefined) headers['content-length'] = body.length;
    return new Promise((resolve, reject) => {
      // It says nothing about its end any more.
      if (socket.destroyed) {
        reject(unreachable(leader, new Error('the connection was closed'), 'GET'));
        return;
      }
      const outgoing = openRequest({
        createConnection: () => socket,
        method: request.method,
        path: request.url,
        headers,
      });
      // It has come paused.
      outgoing.once('socket', () => socket.resume());
      const deadline = setTimeout(() => outgoing.destroy(new Error(`no end after ${totalMs} ms`)), totalMs);
      outgoing.setTimeout(idleMs, () => outgoing.destroy(new Error(`no answer within ${idleMs} ms`)));
      const abandon = (): void => {
        outgoing.destroy(new Error('the caller is gone'));
      };
      // Of a response whose turn on its connection has not come only the connection knows the end.
      request.socket.once('close', abandon);
      outgoing.once('close', () => {
        clearTimeout(deadline);
        request.socket.off('close', abandon);
      });
      outgoing.once('response', (answer) => {
        reply.raw.once('close', () => answer.destroy());
        resolve(answer);
      });
      outgoing.on('error', (error) => reject(unreachable(leader, error, request.method)));
      outgoing.end(body);
    });
  }
}

function noLeader(message: string): GomqError {
  return new GomqError('NOT_READY', message, { retriable: true });
}

function unreachable(leader: string, error: Error, method: string): GomqError {
  const hint =
    method === 'GET' || method === 'HEAD'
      ? 'Try again in a moment: the cluster may be choosing another leader.'
      : 'It is not known whether the leader did what was asked: look before asking again.';
  return new GomqError('PEER_UNREACHABLE', `${leader}, which leads, did not answer: ${error.message}`, {
    hint,
    retriable: true,
    cause: error,
  });
}
