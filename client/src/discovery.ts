// Owns finding brokers: asks brokers over HTTP, or etcd, which brokers there are. Everybody who may know is asked at once, and the first good answer
// counts, so that one who is frozen holds up nobody. It keeps nothing: the link knows what was found last.
//
//     GET  <broker>/api/v1/cluster  -> {leader, members: [{node, mqtt, ...}]}
//     POST <etcd>/v3/kv/range       -> {kvs: [{key, value}]}, both in base64: /gomq/<cluster>/leader, /gomq/<cluster>/members/<node>
//
// etcd is asked through its JSON gateway (etcd 3.4 and later), which needs no library.
import http from 'node:http';
import https from 'node:https';
import { onAbort } from './abort.js';
import { GomqClientError } from './errors.js';
import type { TlsOptions } from './options.js';

/** An answer that is longer is none. */
const ANSWER_BYTES_MAX = 1024 * 1024;

export interface DiscoverySource {
  readonly kind: 'http' | 'etcd';
  readonly urls: readonly URL[];
  /** Of brokers: `http.token`. */
  readonly token: string | undefined;
  /** In etcd. */
  readonly cluster: string;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

interface Member {
  node: string;
  mqtt: string;
}

/**
 * The brokers of the cluster as HOST:PORT, the leader first, each once. Rejects with DISCOVERY_FAILED where nobody answers within `timeoutMs`, or
 * with nothing.
 */
export async function findBrokers(
  source: DiscoverySource,
  tls: TlsOptions | undefined,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string[]> {
  // Aborted when the first has answered, when the time is over, and when nobody wants to know any more.
  const search = new AbortController();
  const unlisten = onAbort(signal, () => search.abort());
  const timer = setTimeout(() => search.abort(), timeoutMs);
  const asker: Asker = { tls, signal: search.signal };
  const ask = async (url: URL): Promise<string[]> => {
    try {
      const found = await (source.kind === 'http' ? askBroker : askEtcd)(url, source, asker);
      if (found.length === 0) {
        throw new Error('it knows no broker that takes MQTT clients');
      }
      return found;
    } catch (error) {
      const why = search.signal.aborted ? `no answer within ${timeoutMs} ms` : messageOf(error);
      throw new Error(`${url.host}: ${why}`, { cause: error });
    }
  };
  try {
    return await Promise.any(source.urls.map(ask));
  } catch (error) {
    const reasons = error instanceof AggregateError ? error.errors.map(messageOf) : [messageOf(error)];
    throw new GomqClientError('DISCOVERY_FAILED', `No brokers were found: ${reasons.join('; ')}.`, {
      retriable: true,
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    unlisten();
    search.abort();
  }
}

interface Asker {
  tls: TlsOptions | undefined;
  signal: AbortSignal;
}

async function askBroker(url: URL, source: DiscoverySource, asker: Asker): Promise<string[]> {
  const headers = source.token === undefined ? {} : { authorization: `Bearer ${source.token}` };
  const answer = await request(new URL('/api/v1/cluster', url), 'GET', headers, undefined, asker);
  const { leader, members } = objectOf(answer);
  if (!Array.isArray(members)) {
    throw new Error('the answer is not that of a gomq broker');
  }
  return inOrder(members.map(memberOf), leader);
}

async function askEtcd(url: URL, source: DiscoverySource, asker: Asker): Promise<string[]> {
  const { cluster, username, password } = source;
  let headers = {};
  if (username !== undefined) {
    const credentials = { name: username, password: password ?? '' };
    const { token } = objectOf(
      await request(new URL('/v3/auth/authenticate', url), 'POST', {}, credentials, asker),
    );
    if (typeof token !== 'string') {
      throw new Error('etcd gave no token');
    }
    headers = { authorization: token };
  }
  const prefix = `/gomq/${cluster}/`;
  // From `leader` to the last of `members/`: '0' comes after '/'.
  const range = { key: base64(`${prefix}leader`), range_end: base64(`${prefix}members0`) };
  const answer = objectOf(await request(new URL('/v3/kv/range', url), 'POST', headers, range, asker));
  let leader: unknown;
  const members: Member[] = [];
  for (const pair of Array.isArray(answer.kvs) ? answer.kvs : []) {
    const { key, value } = objectOf(pair);
    const name = Buffer.from(String(key), 'base64').toString();
    const content = JSON.parse(Buffer.from(String(value), 'base64').toString()) as unknown;
    if (name === `${prefix}leader`) {
      leader = objectOf(content).node;
    } else if (name.startsWith(`${prefix}members/`)) {
      members.push(memberOf(content));
    }
  }
  return inOrder(members, leader);
}

/** To the leader a connection needs no tunnel. */
function inOrder(members: Member[], leader: unknown): string[] {
  const first = members.filter(({ node }) => node === leader);
  return [...new Set([...first, ...members].map(({ mqtt }) => mqtt))].filter((mqtt) => mqtt !== '');
}

function memberOf(value: unknown): Member {
  const { node, mqtt } = objectOf(value);
  return { node: String(node), mqtt: typeof mqtt === 'string' ? mqtt : '' };
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null) {
    throw new Error('the answer is not what it should be');
  }
  return value as Record<string, unknown>;
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}

function messageOf(error: unknown): string {
  // Where a name has several addresses, Node.js gives an error without a message.
  return error instanceof Error ? error.message || String((error as { code?: unknown }).code) : String(error);
}

/** The answer as JSON. Rejects for every other status than 200. */
function request(
  url: URL,
  method: 'GET' | 'POST',
  headers: http.OutgoingHttpHeaders,
  body: object | undefined,
  { tls, signal }: Asker,
): Promise<unknown> {
  const { alpnProtocols: _, ...certificates } = tls ?? {};
  const options: https.RequestOptions = {
    // Not `fetch`: it takes no certificate authority of one's own.
    ...(url.protocol === 'https:' ? (certificates as object) : {}),
    method,
    // A pool would keep the connection, and with it the process.
    agent: false,
    signal,
    headers: { accept: 'application/json', 'content-type': 'application/json', ...headers },
  };
  return new Promise((resolve, reject) => {
    const onAnswer = (answer: http.IncomingMessage): void => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      answer.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > ANSWER_BYTES_MAX) {
          answer.destroy(new Error(`the answer is longer than ${ANSWER_BYTES_MAX} bytes`));
        } else {
          chunks.push(chunk);
        }
      });
      answer.on('error', reject);
      answer.on('end', () => {
        if (answer.statusCode !== 200) {
          reject(new Error(`it answers ${answer.statusCode} to ${url.pathname}`));
          return;
        }
        try {
          resolve(JSON.parse(Buffer.concat(chunks).toString()));
        } catch (error) {
          reject(error);
        }
      });
    };
    const sent = (url.protocol === 'https:' ? https : http).request(url, options, onAnswer);
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
