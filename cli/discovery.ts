// Owns finding brokers for gomqctl: asks brokers over HTTP, or etcd, which brokers there are. Everybody named is asked at once, and the first good
// answer counts, so that one who is frozen holds up nobody.
//
//     http://HOST:PORT          GET  /api/v1/cluster  -> {leader, members: [{node, mqtt, ...}]}
//     etcd://HOST:PORT/CLUSTER  POST /v3/kv/range     -> {kvs: [{key, value}]} in base64: /gomq/CLUSTER/leader, /gomq/CLUSTER/members/<node>
import { Failure } from './failure.js';
import { describeNetworkError } from './reasons.js';

const ANSWER_MS_MAX = 2_000;

/** Who is asked. */
export interface Discovery {
  kind: 'http' | 'etcd';
  /** `http://HOST:PORT` or `https://HOST:PORT` */
  urls: string[];
  /** In etcd. */
  cluster: string;
  username?: string;
  password?: string;
  /** Of the HTTP API. */
  token?: string;
}

interface Member {
  node?: unknown;
  mqtt?: unknown;
}

/**
 * The brokers as HOST:PORT, the leader first.
 * @throws {Failure} where nobody knows any
 */
export async function findBrokers(discovery: Discovery, signal: AbortSignal): Promise<string[]> {
  const answered = new AbortController();
  const stop = () => answered.abort();
  signal.addEventListener('abort', stop, { once: true });
  const timer = setTimeout(stop, ANSWER_MS_MAX);
  const ask = async (url: string): Promise<string[]> => {
    try {
      const found = await (discovery.kind === 'http' ? askBroker : askEtcd)(url, discovery, answered.signal);
      if (found.length === 0) throw new Error('it knows no broker that takes MQTT clients');
      return found;
    } catch (error) {
      throw new Error(`${url} ${answered.signal.aborted ? 'gave no answer in time' : reasonOf(error)}`);
    }
  };
  try {
    return await Promise.any(discovery.urls.map(ask));
  } catch (error) {
    const reasons = error instanceof AggregateError ? error.errors.map(reasonOf) : [reasonOf(error)];
    throw new Failure(`cannot find a broker: ${reasons.join('; ')}`);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
    answered.abort();
  }
}

function reasonOf(error: unknown): string {
  // fetch() says only that it failed, and keeps why as the cause.
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  return code === 'ECONNREFUSED' ? 'refuses the connection' : describeNetworkError(cause);
}

async function askBroker(url: string, { token }: Discovery, signal: AbortSignal): Promise<string[]> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const answer = await fetchJson(`${url}/api/v1/cluster`, { headers, signal });
  const { leader, members } = answer as { leader?: unknown; members?: Member[] };
  if (!Array.isArray(members)) throw new Error('is not the HTTP address of a gomq broker');
  return inOrder(members, leader);
}

async function askEtcd(url: string, discovery: Discovery, signal: AbortSignal): Promise<string[]> {
  const { cluster, username, password } = discovery;
  const post = (path: string, body: object, headers = {}) =>
    fetchJson(`${url}/v3/${path}`, { method: 'POST', body: JSON.stringify(body), headers, signal });
  const headers: Record<string, string> = {};
  if (username !== undefined) {
    const answer = await post('auth/authenticate', { name: username, password: password ?? '' });
    headers.authorization = String((answer as { token?: unknown }).token);
  }
  const prefix = `/gomq/${cluster}/`;
  // From `leader` to the last of `members/`: '0' comes after '/'.
  const range = { key: encode(`${prefix}leader`), range_end: encode(`${prefix}members0`) };
  const { kvs = [] } = (await post('kv/range', range, headers)) as { kvs?: { key: string; value: string }[] };
  let leader: unknown;
  const members: Member[] = [];
  for (const { key, value } of kvs) {
    const name = Buffer.from(key, 'base64').toString();
    const content = JSON.parse(Buffer.from(value, 'base64').toString()) as Member;
    if (name === `${prefix}leader`) leader = content.node;
    else if (name.startsWith(`${prefix}members/`)) members.push(content);
  }
  if (members.length === 0) throw new Error(`knows no cluster called "${cluster}"`);
  return inOrder(members, leader);
}

async function fetchJson(url: string, init: RequestInit): Promise<unknown> {
  const answer = await fetch(url, init);
  if (answer.status === 401) {
    throw new Error(
      'wants to know who is asking; set GOMQ_TOKEN, or for etcd a user and password in the URL',
    );
  }
  if (!answer.ok) throw new Error(`answers ${answer.status} to ${new URL(url).pathname}`);
  return answer.json();
}

/** To the leader a connection needs no tunnel. */
function inOrder(members: readonly Member[], leader: unknown): string[] {
  const first = members.filter(({ node }) => node === leader);
  const addresses = [...first, ...members].map(({ mqtt }) => mqtt);
  return [...new Set(addresses)].filter(
    (address): address is string => typeof address === 'string' && address !== '',
  );
}

function encode(text: string): string {
  return Buffer.from(text).toString('base64');
}
