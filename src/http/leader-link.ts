// Passes a request on to the leader, so that the API answers on every broker. A request is passed on once: whoever gets one that has been
// passed on, and does not lead either, says that there is no leader. Nothing is tried again here, since a publish may have been taken before
// its answer was lost.
import { Agent, type IncomingHttpHeaders, type IncomingMessage, request as openRequest } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { GomqError } from '../core/errors.js';
import type { HttpCluster } from './cluster.js';
import { show } from './show.js';

export interface LeaderLinkTimeouts {
  /** Without a byte of the answer. */
  idleMs: number;
  /** Until all of it has been taken. */
  totalMs: number;
}

/** Names the node that passed a request on. */
const FORWARDED_BY = 'gomq-forwarded-by';
/** At a time; the leader has as many connections for all there are. */
const UNDER_WAY_MAX = 64;
const TO_LEADER = ['authorization', 'content-type'];
const TO_CALLER = [
  'allow',
  'content-length',
  'content-type',
  'gomq-next-offset',
  'retry-after',
  'www-authenticate',
];

export class LeaderLink {
  readonly #cluster: HttpCluster;
  readonly #timeouts: LeaderLinkTimeouts;
  /** A connection that is used again may be closed just then, and nobody would know what became of the request. */
  readonly #agent = new Agent({ keepAlive: false });
  #underWay = 0;

  constructor(cluster: HttpCluster, timeouts: LeaderLinkTimeouts) {
    this.#cluster = cluster;
    this.#timeouts = timeouts;
  }

  /**
   * Answers with what the leader answers.
   * @param body as it came
   * @throws {GomqError} NOT_READY, PEER_UNREACHABLE, REFUSED
   */
  async forward(
    request: FastifyRequest,
    reply: FastifyReply,
    body: Buffer | undefined,
  ): Promise<FastifyReply> {
    const leader = this.#leaderFor(request.headers);
    if (this.#underWay >= UNDER_WAY_MAX) {
      throw new GomqError('REFUSED', `${UNDER_WAY_MAX} requests are being passed on to the leader already`, {
        hint: 'Try again in a moment, or ask the leader itself.',
        retriable: true,
      });
    }
    this.#underWay++;
    let answer: IncomingMessage;
    try {
      answer = await this.#ask(leader, request, reply, body);
    } catch (error) {
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

  #leaderFor(headers: IncomingHttpHeaders): string {
    const by = headers[FORWARDED_BY];
    const leader = by === undefined ? this.#cluster.leaderHttp() : undefined;
    if (leader !== undefined) return leader;
    const { leader: known, members } = this.#cluster.status();
    if (by !== undefined) throw noLeader(`${show(by)} took this node for the leader, which it is not`);
    if (known === null || known === this.#cluster.node || members.length === 0) {
      throw noLeader('the cluster has no leader that serves clients at the moment');
    }
    throw noLeader(`${known} leads the cluster, and its HTTP API is not known here`);
  }

  /** Resolves with the beginning of the answer. */
  #ask(
    leader: string,
    request: FastifyRequest,
    reply: FastifyReply,
    body: Buffer | undefined,
  ): Promise<IncomingMessage> {
    const { idleMs, totalMs } = this.#timeouts;
    const headers: Record<string, string | number> = { [FORWARDED_BY]: this.#cluster.node };
    for (const name of TO_LEADER) {
      const value = request.headers[name];
      if (typeof value === 'string') headers[name] = value;
    }
    if (body !== undefined) headers['content-length'] = body.length;
    return new Promise((resolve, reject) => {
      const outgoing = openRequest(`http://${leader}${request.url}`, {
        method: request.method,
        headers,
        agent: this.#agent,
      });
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
      outgoing.on('error', (error: NodeJS.ErrnoException) =>
        reject(unreachable(leader, error, request.method)),
      );
      outgoing.end(body);
    });
  }
}

function noLeader(message: string): GomqError {
  return new GomqError('NOT_READY', message, { retriable: true });
}

function unreachable(leader: string, error: NodeJS.ErrnoException, method: string): GomqError {
  const isUnsent = error.syscall === 'connect' || error.syscall === 'getaddrinfo';
  const hint =
    isUnsent || method === 'GET' || method === 'HEAD'
      ? 'Try again in a moment: the cluster may be choosing another leader.'
      : 'It is not known whether the leader did what was asked: look before asking again.';
  return new GomqError('PEER_UNREACHABLE', `the leader at ${leader} did not answer: ${error.message}`, {
    hint,
    retriable: true,
    cause: error,
  });
}
