// Owns how gomqctl asks brokers over HTTP: one after the other where something is to be done, all at once where the newest answer counts.
import { EXIT, Failure } from './failure.js';
import { oneLine } from './reasons.js';

/** What `GET /api/v1/cluster` answers. */
export interface ClusterStatus {
  cluster: string;
  leader: string | null;
  epoch: number;
  highWatermark: number;
  inSync: string[];
  members: ClusterMember[];
  /** How many nodes the cluster is to have, and on how many a message must be. */
  replicas: number;
  minInSync: number;
}

export interface ClusterMember {
  node: string;
  role: 'leader' | 'member';
  /** null: not known to whoever answered. */
  logEnd: number | null;
  lagRecords: number | null;
  inSync: boolean;
  /** HOST:PORT, or ''. */
  mqtt: string;
  http: string;
}

const DEFAULT_URL = 'http://127.0.0.1:8000';
/** A broker passes on to the leader what it cannot do itself, and bounds that. */
const ASK_MS = 3_000;
const ACT_MS = 20_000;
const ANSWER_BYTES_MAX = 1_048_576;
/** Another broker may be asked: nobody could do it, or this one is not the one to ask. */
const NOTHING_DONE: ReadonlySet<number> = new Set([421, 503]);

/** How one broker answered, or why it did not. */
type Answer<T> = { url: string; value: T } | { url: string; failure: Failure; isUndone: boolean };

/**
 * `http://a:8000,b:8000` -> base URLs without a slash at the end
 * @throws {Failure}
 */
export function parseHttpUrls(text: string | undefined, env: Record<string, string | undefined>): string[] {
  const given = text ?? (env.GOMQ_HTTP || undefined) ?? DEFAULT_URL;
  const from = text === undefined && given !== DEFAULT_URL ? 'GOMQ_HTTP' : '--http';
  return given.split(',').map((one) => parseHttpUrl(one.trim(), from));
}

function parseHttpUrl(text: string, from: string): string {
  const expected = 'expected HOST:PORT or http://HOST:PORT, several with commas';
  const written = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  let url: URL;
  try {
    url = new URL(written);
  } catch {
    throw new Failure(`${from} "${text}" is no address; ${expected}`);
  }
  const isPlain = url.pathname === '/' && url.search === '' && url.hash === '' && url.username === '';
  if ((url.protocol !== 'http:' && url.protocol !== 'https:') || !isPlain || /[\s,]/.test(text)) {
    throw new Failure(`${from} "${text}" is no address of an HTTP API; ${expected}`);
  }
  return url.origin;
}

export class ClusterApi {
  readonly #urls: readonly string[];
  readonly #token: string | undefined;
  readonly #signal: AbortSignal;
  /** Of members that brokers told of: where the given ones do not answer. */
  #learned: string[] = [];

  constructor(urls: readonly string[], token: string | undefined, signal: AbortSignal) {
    this.#urls = urls;
    this.#token = token;
    this.#signal = signal;
  }

  /**
   * The newest status that any of the brokers has.
   * @throws {Failure} where none has one
   */
  async status(): Promise<{ status: ClusterStatus; from: string; failures: Failure[] }> {
    const answers = await this.#askAll(this.#urls);
    let best = newest(answers);
    const learned = this.#learned.filter((url) => !this.#urls.includes(url));
    if (best === undefined && learned.length > 0) best = newest(await this.#askAll(learned));
    const failures = answers.flatMap((answer) => ('failure' in answer ? [answer.failure] : []));
    if (best === undefined) throw failures[0] ?? new Failure('no broker was asked');
    this.#learned = best.status.members.flatMap(({ http }) => (http === '' ? [] : [`http://${http}`]));
    return { ...best, failures };
  }

  /** @throws {Failure} */
  async stepDown(): Promise<void> {
    await this.#act('POST', '/api/v1/cluster/step-down');
  }

  /** Asks the node itself, at `http` where that is known. @throws {Failure} */
  async forceLead(node: string, http: string | undefined): Promise<void> {
    const path = `/api/v1/cluster/members/${encodeURIComponent(node)}/force-lead`;
    await this.#act('POST', path, http === undefined ? this.#urls : [`http://${http}`, ...this.#urls]);
  }

  /** @throws {Failure} */
  async remove(node: string): Promise<void> {
    await this.#act('DELETE', `/api/v1/cluster/members/${encodeURIComponent(node)}`);
  }

  async #askAll(urls: readonly string[]): Promise<Answer<ClusterStatus>[]> {
    return Promise.all(
      urls.map(async (url) => {
        const answer = await this.#ask(url, 'GET', '/api/v1/cluster', ASK_MS);
        if ('failure' in answer || isStatus(answer.value)) return answer as Answer<ClusterStatus>;
        return { url, failure: new Failure(`${url} is no broker of a gomq with clusters`), isUndone: true };
      }),
    );
  }

  /** Asks one broker after the other, as long as it is certain that nothing was done. */
  async #act(method: 'POST' | 'DELETE', path: string, urls = this.#urls): Promise<void> {
    const failures: Failure[] = [];
    for (const url of urls) {
      const answer = await this.#ask(url, method, path, ACT_MS);
      if (!('failure' in answer)) return;
      failures.push(answer.failure);
      if (!answer.isUndone) break;
    }
    // The last one is what a broker had to say, where one could be reached at all.
    throw failures.find((failure) => !(failure instanceof Unreachable)) ?? failures[0]!;
  }

  async #ask(url: string, method: string, path: string, timeoutMs: number): Promise<Answer<unknown>> {
    const headers: Record<string, string> = { accept: 'application/json' };
    if (this.#token !== undefined) headers.authorization = `Bearer ${this.#token}`;
    let response: Response;
    let text: string;
    // Not AbortSignal.timeout in AbortSignal.any: nothing holds on to that one, and once it is collected it never fires.
    const ending = new AbortController();
    const interrupt = (): void => ending.abort();
    let isTimeout = false;
    const timer = setTimeout(() => {
      isTimeout = true;
      ending.abort();
    }, timeoutMs);
    this.#signal.addEventListener('abort', interrupt);
    try {
      if (this.#signal.aborted) ending.abort();
      const { signal } = ending;
      response = await fetch(`${url}${path}`, { method, headers, signal, redirect: 'error' });
      text = await readText(response);
    } catch (error) {
      if (this.#signal.aborted) throw new Failure('interrupted', EXIT.interrupted);
      const failure = new Unreachable(
        `${url} ${isTimeout ? `gave no answer within ${timeoutMs / 1000} s` : reason(error)}`,
        isTimeout ? EXIT.timeout : EXIT.error,
      );
      return { url, failure, isUndone: isRefused(error) };
    } finally {
      clearTimeout(timer);
      this.#signal.removeEventListener('abort', interrupt);
    }
    const value = parse(text);
    if (response.ok) return { url, value };
    return {
      url,
      failure: refusal(url, response.status, value),
      isUndone: NOTHING_DONE.has(response.status),
    };
  }
}

/** A broker that did not answer at all. */
class Unreachable extends Failure {}

/** The highest epoch is the latest; in one epoch, the leader knows most, and who knows of a leader more than who does not. */
function newest(
  answers: readonly Answer<ClusterStatus>[],
): { status: ClusterStatus; from: string } | undefined {
  let best: { status: ClusterStatus; from: string } | undefined;
  for (const answer of answers) {
    if ('failure' in answer) continue;
    if (best === undefined || compare(answer.value, best.status) > 0)
      best = { status: answer.value, from: answer.url };
  }
  return best;
}

function compare(a: ClusterStatus, b: ClusterStatus): number {
  const knowsLeader = ({ leader }: ClusterStatus) => Number(leader !== null);
  const knowsLogs = ({ members }: ClusterStatus) => members.filter(({ logEnd }) => logEnd !== null).length;
  return (
    a.epoch - b.epoch ||
    knowsLeader(a) - knowsLeader(b) ||
    knowsLogs(a) - knowsLogs(b) ||
    a.highWatermark - b.highWatermark
  );
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > ANSWER_BYTES_MAX) throw new Error(`answered with more than ${ANSWER_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isStatus(value: unknown): value is ClusterStatus {
  const status = value as Partial<ClusterStatus> | null | undefined;
  return typeof status?.epoch === 'number' && Array.isArray(status.members) && Array.isArray(status.inSync);
}

function refusal(url: string, status: number, value: unknown): Failure {
  const error = (value as { error?: { message?: unknown; hint?: unknown } } | null | undefined)?.error;
  if (status === 401) {
    return new Failure(`${url} asks for its token: add --token TOKEN, or set GOMQ_TOKEN`);
  }
  if (typeof error?.message !== 'string')
    return new Failure(`${url} answered with status ${status}; is it gomq?`);
  const hint = typeof error.hint === 'string' ? `; ${oneLine(error.hint)}` : '';
  return new Failure(`${url}: ${oneLine(error.message)}${hint}`);
}

function codeOf(error: unknown): string | undefined {
  const cause = (error as { cause?: { code?: unknown } }).cause;
  return typeof cause?.code === 'string' ? cause.code : undefined;
}

/** The connection was never made, so nothing was asked. */
function isRefused(error: unknown): boolean {
  return [
    'ECONNREFUSED',
    'ENOTFOUND',
    'EAI_AGAIN',
    'EHOSTUNREACH',
    'ENETUNREACH',
    'UND_ERR_CONNECT_TIMEOUT',
  ].includes(codeOf(error) ?? '');
}

function reason(error: unknown): string {
  const code = codeOf(error);
  if (code === 'ECONNREFUSED')
    return 'refuses connections; is a broker running there, and is this its HTTP address?';
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return 'is an unknown host; check --http';
  if (code === 'UND_ERR_SOCKET' || code === 'ECONNRESET') return 'closed the connection without an answer';
  if (code?.startsWith('HPE_'))
    return 'does not speak HTTP; the MQTT address goes into --connect, this one is for --http';
  const { message, cause } = error as Error;
  const text = cause instanceof Error && cause.message !== '' ? cause.message : message;
  return `did not answer: ${oneLine(text)}`;
}
