// The operator's edge: publishes a message, shows those of a topic, tells of the cluster and what it is asked to do, the version and the
// health. What only the leader can answer, another node has the leader answer (leader-link.ts).
import type { AddressInfo, Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { formatAddress, listenError, parseAddress } from '../core/address.js';
import type { Config } from '../core/config.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { AnswerTurns } from './answer-turns.js';
import type { HttpCluster } from './cluster.js';
import { type Caller, Guard } from './guard.js';
import { CALLER_HEADER, LeaderLink } from './leader-link.js';
import { type MessagesQuery, readMessagesQuery } from './messages-request.js';
import { problemOf, refuseConnection, statusOf, toGomqError } from './problem.js';
import { type HttpMessage, parseJson, readMessage } from './publish-request.js';
import { show } from './show.js';

/** What the API needs of the broker; main.ts supplies it. */
export interface HttpBroker {
  /** Resolves when the message is committed; rejects with a GomqError when it was not taken. */
  publish(message: HttpMessage, caller: Caller): Promise<void>;
  /**
   * What the log holds for a topic, oldest first, with no further message once the payloads have `bytesMax` bytes together; and the offset
   * to go on from, where that or the limit ended it. Rejects with a GomqError where it may not be seen.
   */
  history(query: HttpHistoryQuery, caller: Caller, signal: AbortSignal): Promise<HttpHistory>;
  /** False while starting and stopping. */
  isReady(): boolean;
}

export interface HttpHistoryQuery extends Omit<MessagesQuery, 'encoding'> {
  bytesMax: number;
}

export interface HttpHistory {
  payloads: Buffer[];
  nextOffset: number | undefined;
}

export interface HttpServerOptions {
  config: Pick<Config, 'http' | 'auth' | 'mqtt' | 'limits'>;
  logger: Logger;
  /** `0.1.0` */
  version: string;
  broker: HttpBroker;
  cluster: HttpCluster;
}

export interface HttpServer {
  /**
   * Opens the listener.
   * @returns the address as configured, with the port that was bound
   * @throws {GomqError} ADDRESS_INVALID, ADDRESS_IN_USE
   */
  listen(): Promise<string>;
  /**
   * Serves requests that another node of the cluster passes on, and has found to be allowed; `listen` is not needed for them.
   * @param alreadyRead what came before what the socket reads
   */
  acceptPassedOn(socket: Socket, alreadyRead: Buffer): void;
  /** Takes no more requests and ends when those under way are answered, or after two seconds without them. */
  close(): Promise<void>;
}

const CONNECTIONS_MAX = 256;
const REQUEST_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;
/** Payloads in one answer, unless a single one is larger. */
const ANSWER_BYTES_MAX = 4_194_304;
/** An answer with messages that is not taken is given up. */
const ANSWER_IDLE_MS = 10_000;
const ANSWER_TOTAL_MS = 60_000;
/** Of the leader, where this node asks it; that may have others wait for their turn. */
const LEADER_IDLE_MS = 15_000;
/** Longer than another node waits for all of an answer. */
const PASSED_ON_MS = ANSWER_TOTAL_MS + 15_000;
/** When to ask again, where that may help. */
const RETRY_AFTER_SECONDS = 1;
/** Says where to go on when an answer is not all there is. */
const NEXT_OFFSET_HEADER = 'gomq-next-offset';
/** Which method each route has, to tell a wrong method from a wrong path. */
const METHODS: readonly (readonly [RegExp, string])[] = [
  [/^\/version$/, 'GET'],
  [/^\/pub$/, 'POST'],
  [/^\/messages($|\/)/, 'GET'],
  [/^\/health\/(live|ready)$/, 'GET'],
  [/^\/api\/v1\/cluster$/, 'GET'],
  [/^\/api\/v1\/cluster\/step-down$/, 'POST'],
  [/^\/api\/v1\/cluster\/members\/[^/]+$/, 'DELETE'],
  [/^\/api\/v1\/cluster\/members\/[^/]+\/force-lead$/, 'POST'],
];

/** Where `config.http.listen` is '' it must not be told to listen. */
export function createHttpServer(options: HttpServerOptions): HttpServer {
  const { http } = options.config;
  const passedOn = new Set<Socket>();
  let onNonePassedOn = (): void => undefined;
  const fastify = createRoutes(options, (socket) => passedOn.has(socket));
  fastify.server.maxConnections = CONNECTIONS_MAX;
  return {
    async listen() {
      const { host, port } = parseAddress(http.listen);
      try {
        await fastify.listen({ host: host === '' ? everyAddress() : host, port });
      } catch (error) {
        throw listenError(error as NodeJS.ErrnoException, http.listen);
      }
      const bound = fastify.server.address() as AddressInfo;
      return formatAddress({ host, port: bound.port });
    },
    acceptPassedOn(socket, alreadyRead) {
      if (passedOn.size >= CONNECTIONS_MAX) {
        socket.destroy();
        return;
      }
      passedOn.add(socket);
      // One request each; the server only looks after connections of its own listener.
      const deadline = setTimeout(() => socket.destroy(), PASSED_ON_MS);
      socket.once('close', () => {
        clearTimeout(deadline);
        passedOn.delete(socket);
        if (passedOn.size === 0) onNonePassedOn();
      });
      if (alreadyRead.length > 0) socket.unshift(alreadyRead);
      // Its routes are ready at once where nobody has listened.
      fastify.ready(() => {
        fastify.server.emit('connection', socket);
        // It may have come paused.
        socket.resume();
      });
    },
    async close() {
      const deadline = setTimeout(() => {
        fastify.server.closeAllConnections();
        for (const socket of passedOn) socket.destroy();
      }, CLOSE_TIMEOUT_MS);
      await fastify.close();
      if (passedOn.size > 0) {
        await new Promise<void>((resolve) => {
          onNonePassedOn = resolve;
        });
      }
      clearTimeout(deadline);
    },
  };
}

/** @param wasPassedOn whether another node of the cluster sends what comes over a connection */
function createRoutes(
  { config, logger, version, broker, cluster }: HttpServerOptions,
  wasPassedOn: (socket: Socket) => boolean,
): FastifyInstance {
  const { limits } = config;
  const messageLimits = { ...limits, maximumQos: config.mqtt.maximumQos, retain: config.mqtt.retain };
  const guard = new Guard(config);
  const turns = new AnswerTurns({ idleMs: ANSWER_IDLE_MS, totalMs: ANSWER_TOTAL_MS });
  const leaderLink = new LeaderLink(cluster, { idleMs: LEADER_IDLE_MS, totalMs: ANSWER_TOTAL_MS });

  const fail = (thrown: unknown, request: FastifyRequest, reply: FastifyReply) => {
    const error = toGomqError(thrown, limits.packetBytes);
    const status = statusOf(error);
    if (status === 500)
      logger.error('an HTTP request failed', { method: request.method, url: request.url, error });
    if (status === 503) reply.header('retry-after', `${RETRY_AFTER_SECONDS}`);
    if (status === 401) reply.header('www-authenticate', 'Bearer');
    return reply.code(status).send(problemOf(error));
  };

  const fastify = Fastify({
    bodyLimit: limits.packetBytes,
    requestTimeout: REQUEST_TIMEOUT_MS,
    clientErrorHandler: refuseConnection,
    frameworkErrors: fail,
    // Requests that arrive on open connections while closing are answered like any other.
    return503OnClosing: false,
    // A topic in the path, each of its bytes written as three.
    routerOptions: { maxParamLength: 3 * limits.topicBytes },
  });
  fastify.setErrorHandler(fail);
  fastify.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? '';
    const method = METHODS.find(([route]) => route.test(path))?.[1];
    if (method === undefined)
      throw new GomqError('ROUTE_UNKNOWN', `there is no ${request.method} ${request.url}`);
    reply.header('allow', method);
    throw new GomqError('METHOD_INVALID', `${request.method} is not for this route; use ${method}`);
  });

  fastify.removeAllContentTypeParsers();
  // Only whoever takes a message looks at what it is.
  fastify.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    async (_request: FastifyRequest, body: Buffer) => body,
  );
  // What a node passes on it has judged itself, with its own token.
  fastify.addHook('onRequest', async ({ headers, socket }) => {
    if (!wasPassedOn(socket)) guard.checkHost(headers);
  });

  fastify.get('/version', async () => ({ name: 'gomq', version }));
  fastify.get('/health/live', async () => ({ status: 'live' }));
  fastify.get('/health/ready', async () => {
    checkReady(broker);
    return { status: 'ready' };
  });
  // Before the body is read: a stranger's megabyte is not worth parsing.
  const callerOf = ({ headers, socket }: FastifyRequest): Caller => {
    if (!wasPassedOn(socket)) return guard.checkCaller(headers, socket.remoteAddress);
    return headers[CALLER_HEADER] === 'operator' ? 'operator' : 'anonymous';
  };
  const checkCaller = async (request: FastifyRequest) => {
    callerOf(request);
  };
  const checkOperator = async ({ headers, socket }: FastifyRequest) => {
    if (!wasPassedOn(socket)) guard.checkOperator(headers, socket.remoteAddress);
  };
  type Handler = (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;
  /** Has whoever leads answer: this node, where `isHere` says so, or another one. */
  const onLeader =
    (handle: Handler, isHere = () => cluster.isServing()): Handler =>
    async (request, reply) => {
      if (isHere()) return handle(request, reply);
      const body = request.body as Buffer | undefined;
      return leaderLink.forward(request, reply, body, wasPassedOn(request.socket), callerOf(request));
    };

  fastify.post('/pub', {
    onRequest: checkCaller,
    handler: onLeader(async (request) => {
      const { body } = request;
      const message = readMessage(body === undefined ? undefined : parseJson(body as Buffer), messageLimits);
      checkReady(broker);
      await broker.publish(message, callerOf(request));
      return { ok: true };
    }),
  });

  const showMessages = async (request: FastifyRequest, reply: FastifyReply) => {
    const { '*': pathTopic } = request.params as { '*'?: string };
    const query = request.query as Record<string, unknown>;
    const { encoding, ...wanted } = readMessagesQuery(pathTopic, query, limits);
    const turn = await turns.begin(reply.raw, request.socket);
    checkReady(broker);
    const { payloads, nextOffset } = await broker.history(
      { ...wanted, bytesMax: ANSWER_BYTES_MAX },
      callerOf(request),
      turn.gone,
    );
    turn.send();
    if (nextOffset !== undefined) reply.header(NEXT_OFFSET_HEADER, `${nextOffset}`);
    const message_list = payloads.map((payload) => payload.toString(encoding === 'text' ? 'utf8' : encoding));
    return { topic_name: wanted.topicName, message_list };
  };
  const messages = { onRequest: checkCaller, handler: onLeader(showMessages) };
  fastify.get('/messages', messages);
  fastify.get('/messages/*', messages);

  fastify.get('/api/v1/cluster', { onRequest: checkCaller, handler: async () => cluster.status() });
  fastify.post('/api/v1/cluster/step-down', {
    onRequest: checkOperator,
    handler: onLeader(
      async () => {
        await cluster.stepDown();
        return { ok: true };
      },
      () => cluster.isLeading(),
    ),
  });
  fastify.delete('/api/v1/cluster/members/:node', {
    onRequest: checkOperator,
    // A new leader may wait for the very node that is to be taken out, and serve nobody until then.
    handler: onLeader(
      async (request) => {
        const { node } = request.params as { node: string };
        await cluster.removeNode(node);
        return { ok: true };
      },
      () => cluster.isLeading(),
    ),
  });
  fastify.post('/api/v1/cluster/members/:node/force-lead', {
    onRequest: checkOperator,
    handler: async (request) => {
      const { node } = request.params as { node: string };
      // Not passed on: nobody leads, and it matters who is asked.
      if (node !== cluster.node)
        throw new GomqError('MISDIRECTED', `this is ${cluster.node}: ask ${show(node)} itself`);
      await cluster.forceLead();
      return { ok: true };
    },
  });
  return fastify;
}

function checkReady(broker: HttpBroker): void {
  if (!broker.isReady()) {
    throw new GomqError('NOT_READY', 'the broker is starting or stopping, or no node of its cluster leads');
  }
}

/** Both IP versions through one socket, where the machine has IPv6 at all. */
function everyAddress(): string {
  const hasIpv6 = Object.values(networkInterfaces()).some((all) =>
    all?.some(({ family }) => family === 'IPv6'),
  );
  return hasIpv6 ? '::' : '0.0.0.0';
}
