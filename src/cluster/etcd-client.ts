// The seam to etcd: one connection at a time to one of the endpoints, requests with a deadline, streams that say once how they ended. It is the only
// file that imports etcd3, and takes of it the protocol and the connections, not the policies: the retries, breakers, leases and watches of etcd3
// 1.1.2 answer late or twice, so that nothing here is tried again. After every failure the connection is thrown away and the next one goes to
// the next endpoint, at once: a connection that is kept waits longer and longer before it dials again.
import { rootCertificates } from 'node:tls';
import {
  AuthClient,
  Etcd3,
  EtcdAuthenticationFailedError,
  EtcdLeaseInvalidError,
  type ICallable,
  type IDuplexStream,
  type IOptions,
  type IRangeResponse,
  type ITxnRequest,
  type ITxnResponse,
  type IWatchResponse,
  KVClient,
  LeaseClient,
  WatchClient,
} from 'etcd3';

export type { IKeyValue, IRequestOp, ITxnRequest, ITxnResponse, IWatchResponse } from 'etcd3';
export { CompareResult, CompareTarget } from 'etcd3';

/** File contents, PEM. */
export interface EtcdTls {
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
}

export interface EtcdAccess {
  /** `http://HOST:PORT` or `https://HOST:PORT`. */
  readonly endpoints: readonly string[];
  /** '' for an etcd without users. */
  readonly user: string;
  readonly password: string;
  readonly tls: EtcdTls | undefined;
}

/** One way to etcd, with what its streams have to say. */
export interface EtcdStream<Request> {
  send(request: Request): void;
  /** Nothing is told of it afterwards. */
  close(): void;
}

export interface StreamEvents<Response> {
  onAnswer(answer: Response): void;
  /** Once; also when the server ended it. */
  onEnd(error: Error): void;
}

interface FallibleStream<Request> extends EtcdStream<Request> {
  /** Ends it with an error that was in an answer. */
  fail(error: Error): void;
}

const AUTHENTICATE_MS = 2000;
/** Checking a password costs etcd a tenth of a second of CPU on purpose, so that a wrong one is not tried in a loop. */
const AUTHENTICATE_AGAIN_MS = 1000;
const CHANNEL_OPTIONS: NonNullable<IOptions['grpcOptions']> = {
  // Otherwise a new channel gets the connection of the one that was thrown away because of it.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_retries': 0,
  // The broker does not talk to its judge through a proxy that was meant for web pages.
  'grpc.enable_http_proxy': 0,
  // No TXT record has a say in it.
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_channelz': 0,
};

type Policy = NonNullable<NonNullable<IOptions['faultHandling']>['global']>;
const noSubscription = () => ({ dispose() {} });
/** Calls, and that is all. */
const callOnce: Policy = {
  _altReturn: undefined as never,
  onSuccess: noSubscription,
  onFailure: noSubscription,
  execute: async (call, signal = new AbortController().signal) => call({ signal }),
};

type Pool = ICallable<unknown>;
type CallOptions = Parameters<Pool['exec']>[3];
type Metadata = Parameters<Parameters<Pool['withConnection']>[1]>[0]['metadata'];
type UnaryMethod = (
  payload: unknown,
  metadata: Metadata,
  options: CallOptions,
  done: (error: Error | null, answer: unknown) => void,
) => { cancel(): void };

/** The pool of an etcd3 client is for subclasses. */
class OpenEtcd3 extends Etcd3 {
  get calls(): Pool {
    return this.pool as Pool;
  }
}

/** Channels to one endpoint. Whatever still waits for an answer when it is closed is told so. */
class Connection {
  readonly kv: KVClient;
  readonly lease: LeaseClient;
  readonly watch: WatchClient;
  readonly auth: AuthClient;
  readonly #etcd: OpenEtcd3;
  readonly #running = new Set<{ cancel(): void }>();

  constructor(
    readonly endpoint: string,
    tls: EtcdTls | undefined,
    readonly token: string | undefined,
  ) {
    const isSecure = tls !== undefined || endpoint.startsWith('https:');
    this.#etcd = new OpenEtcd3({
      hosts: [endpoint.replace(/\/+$/, '')],
      ...(isSecure ? { credentials: credentialsOf(tls) } : {}),
      grpcOptions: CHANNEL_OPTIONS,
      faultHandling: { global: callOnce, host: () => callOnce },
    });
    const pool = this.#etcd.calls;
    const calls: Pool = {
      callOptionsFactory: undefined,
      markFailed() {},
      // Not the pool's own exec: with a token that is no longer valid, it calls itself until it is.
      exec: <T>(...[service, method, payload, options]: Parameters<Pool['exec']>) =>
        pool.withConnection<T>(service, ({ client, metadata }) => {
          this.#sign(metadata);
          const unary = (client as unknown as Record<string, UnaryMethod>)[method]!;
          return new Promise<T>((resolve, reject) => {
            const call = unary.call(client, payload, metadata, options, (error, answer) => {
              this.#running.delete(call);
              if (error === null) resolve(answer as T);
              else reject(error);
            });
            this.#running.add(call);
          });
        }),
      withConnection: (service, use) =>
        pool.withConnection(service, (one) => {
          this.#sign(one.metadata);
          return use(one);
        }),
    };
    this.kv = new KVClient(calls);
    this.lease = new LeaseClient(calls);
    this.watch = new WatchClient(calls);
    this.auth = new AuthClient(calls);
  }

  /** `onEnd` once, unless it was closed before. */
  stream<Request, Response>(
    raw: IDuplexStream<Request, Response>,
    events: StreamEvents<Response>,
  ): FallibleStream<Request> {
    let isOver = false;
    const end = (error: Error | undefined) => {
      if (isOver) return;
      isOver = true;
      this.#running.delete(raw);
      raw.cancel();
      if (error !== undefined) events.onEnd(error);
    };
    this.#running.add(raw);
    raw.on('data', (answer) => {
      if (!isOver) events.onAnswer(answer);
    });
    raw.on('error', end);
    raw.on('end', () => end(new Error('etcd has ended the stream')));
    return {
      send: (request) => {
        if (!isOver) raw.write(request);
      },
      close: () => end(undefined),
      fail: end,
    };
  }

  close(): void {
    for (const call of [...this.#running]) call.cancel();
    this.#etcd.close();
  }

  #sign(metadata: Metadata): void {
    if (this.token !== undefined) metadata.set('token', this.token);
  }
}

function credentialsOf(tls: EtcdTls | undefined): NonNullable<IOptions['credentials']> {
  return {
    rootCertificate: Buffer.from(tls?.ca ?? rootCertificates.join('\n')),
    ...(tls?.key === undefined ? {} : { privateKey: Buffer.from(tls.key) }),
    ...(tls?.cert === undefined ? {} : { certChain: Buffer.from(tls.cert) }),
  };
}

/** The token that all lines of a coordinator share: they ask for one together. */
export class EtcdToken {
  readonly #access: EtcdAccess;
  #token: Promise<string> | undefined;
  /** What the promise resolved with. */
  #value: string | undefined;

  constructor(access: EtcdAccess) {
    this.#access = access;
  }

  /** Undefined for an etcd without users. */
  async get(endpoint: string): Promise<string | undefined> {
    if (this.#access.user === '') return undefined;
    if (this.#token === undefined) {
      const token = this.#authenticate(endpoint);
      this.#token = token;
      token.catch((error: unknown) => {
        if (error instanceof EtcdAuthenticationFailedError)
          setTimeout(() => this.#forget(token), AUTHENTICATE_AGAIN_MS).unref();
        else this.#forget(token);
      });
    }
    return this.#token;
  }

  /** Asks for another one than `token` the next time: etcd forgets them when it starts, and whenever its users change. */
  renew(token: string): void {
    if (this.#value === token) this.#token = undefined;
  }

  #forget(token: Promise<string>): void {
    if (this.#token === token) this.#token = undefined;
  }

  async #authenticate(endpoint: string): Promise<string> {
    const { user, password, tls } = this.#access;
    const connection = new Connection(endpoint, tls, undefined);
    try {
      const options = { deadline: Date.now() + AUTHENTICATE_MS };
      const { token } = await connection.auth.authenticate({ name: user, password }, options);
      this.#value = token;
      return token;
    } finally {
      connection.close();
    }
  }
}

/**
 * One connection after the other, for one purpose: what goes wrong on a line takes nothing else with it. Every method rejects with an Error that
 * names the endpoint, and has the line begin anew.
 */
export class EtcdLine {
  readonly #access: EtcdAccess;
  readonly #token: EtcdToken;
  #endpoint: number;
  #connection: Connection | undefined;
  #isClosed = false;

  constructor(access: EtcdAccess, token: EtcdToken) {
    this.#access = access;
    this.#token = token;
    // Not all brokers to the same one.
    this.#endpoint = Math.floor(Math.random() * access.endpoints.length);
  }

  /** Everything from `key` to before `end`, at one moment. */
  range(key: Buffer, end: Buffer, timeoutMs: number): Promise<IRangeResponse> {
    return this.#call(timeoutMs, ({ kv }, options) => kv.range({ key, range_end: end }, options));
  }

  /** 'lease-gone': it would have put a key with a lease that is over. */
  transact(request: ITxnRequest, timeoutMs: number): Promise<ITxnResponse | 'lease-gone'> {
    return this.#call(timeoutMs, ({ kv }, options) =>
      kv.txn(request, options).catch((error: unknown) => leaseGone(error)),
    );
  }

  async grant(seconds: number, timeoutMs: number): Promise<string> {
    const { ID } = await this.#call(timeoutMs, ({ lease }, options) =>
      lease.leaseGrant({ TTL: seconds }, options),
    );
    return ID;
  }

  /** Also resolves where the lease was over already. */
  async revoke(id: string, timeoutMs: number): Promise<void> {
    await this.#call(timeoutMs, ({ lease }, options) =>
      lease.leaseRevoke({ ID: id }, options).catch((error: unknown) => leaseGone(error)),
    );
  }

  /** `onAnswer` is told how many seconds the lease lasts from then on, in the order of what was sent; 0: it is over. */
  async keepAlive(events: StreamEvents<number>): Promise<EtcdStream<string>> {
    const stream = await this.#stream(
      ({ lease }) => lease.leaseKeepAlive(),
      ({ TTL }) => events.onAnswer(Number(TTL)),
      events.onEnd,
    );
    return { send: (ID) => stream.send({ ID }), close: () => stream.close() };
  }

  /** Tells of everything from `key` to before `end` that changes after the answer that says `created`. */
  async watch(key: Buffer, end: Buffer, events: StreamEvents<IWatchResponse>): Promise<EtcdStream<never>> {
    const stream = await this.#stream(
      ({ watch }) => watch.watch(),
      (answer) => {
        // The stream goes on without the only watch that was on it.
        if (answer.canceled) stream.fail(new Error(answer.cancel_reason));
        else events.onAnswer(answer);
      },
      events.onEnd,
    );
    stream.send({ create_request: { key, range_end: end } });
    return stream;
  }

  /** Has it begin anew, where the caller has seen that it is stuck. */
  reset(): void {
    if (this.#connection !== undefined) this.#discard(this.#connection);
  }

  close(): void {
    this.#isClosed = true;
    this.reset();
  }

  async #call<T>(
    timeoutMs: number,
    run: (connection: Connection, options: { deadline: number }) => Promise<T>,
  ): Promise<T> {
    const connection = await this.#open();
    try {
      // gRPC turns it into a timeout before anything else happens, so that a jump of the wall clock does no harm.
      return await run(connection, { deadline: Date.now() + timeoutMs });
    } catch (error) {
      throw this.#failed(connection, error);
    }
  }

  async #stream<Request, Response>(
    open: (connection: Connection) => Promise<IDuplexStream<Request, Response>>,
    onAnswer: (answer: Response) => void,
    onEnd: (error: Error) => void,
  ): Promise<FallibleStream<Request>> {
    const connection = await this.#open();
    try {
      const raw = await open(connection);
      return connection.stream(raw, {
        onAnswer,
        onEnd: (error) => onEnd(this.#failed(connection, error)),
      });
    } catch (error) {
      throw this.#failed(connection, error);
    }
  }

  async #open(): Promise<Connection> {
    if (this.#connection !== undefined) return this.#connection;
    const { endpoints, tls } = this.#access;
    const endpoint = endpoints[this.#endpoint]!;
    try {
      const token = await this.#token.get(endpoint);
      if (this.#isClosed) throw new Error('the line was closed');
      // Another request may have been faster.
      this.#connection ??= new Connection(endpoint, tls, token);
      return this.#connection;
    } catch (error) {
      this.#next();
      throw described(endpoint, error);
    }
  }

  #failed(connection: Connection, error: unknown): Error {
    const failure = described(connection.endpoint, error);
    // There are half a dozen ways in which etcd says that a token is not what it was, and none comes without this word.
    const { token } = connection;
    if (token !== undefined && /auth|token/i.test(failure.message)) this.#token.renew(token);
    this.#discard(connection);
    return failure;
  }

  #discard(connection: Connection): void {
    if (this.#connection === connection) {
      this.#connection = undefined;
      this.#next();
    }
    connection.close();
  }

  #next(): void {
    this.#endpoint = (this.#endpoint + 1) % this.#access.endpoints.length;
  }
}

function leaseGone(error: unknown): 'lease-gone' {
  if (error instanceof EtcdLeaseInvalidError) return 'lease-gone';
  throw error;
}

/** For the operator, who knows nothing of gRPC. */
function described(endpoint: string, error: unknown): Error {
  const message = error instanceof Error ? error.message : String(error);
  return new Error(`etcd at ${endpoint}: ${message.replace(/^\d+ ([A-Z_]+): /, '')}`, { cause: error });
}
