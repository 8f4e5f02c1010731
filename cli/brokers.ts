// Owns which brokers a command may connect to, and whose turn it is: those of its command line, or those that were found.
// Invariant: `current` is one of them, or the one that another of them referred to.
import { type Address, formatAddress, parseAddress } from './address.js';
import { type Discovery, findBrokers } from './discovery.js';
import { Failure } from './failure.js';

/** What --connect and GOMQ_URL say. */
export interface BrokerNames {
  /** Empty where they are to be found. */
  addresses: Address[];
  discovery?: Discovery;
}

const ETCD_PORT = 2379;
const HTTP_PORT = 8000;
/** More references in a row than this are a circle. */
const REFERENCES_MAX = 3;

/**
 * Reads `ADDRESS[,ADDRESS...]`, `http[s]://HOST:PORT[,...]` and `etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][/CLUSTER]`.
 * @throws {Failure}
 */
export function parseBrokers(text: string): BrokerNames {
  const [, scheme, rest] = /^(etcd|https?):\/\/(.*)$/i.exec(text) ?? [];
  if (scheme === undefined) {
    // A comma in a password ends nothing: what follows it has an @ before the next slash.
    return { addresses: text.split(/,(?![^/@]*@)/).map((part) => parseAddress(part.trim())) };
  }
  if (scheme.toLowerCase() !== 'etcd') return { addresses: [], discovery: parseHttp(text) };
  const match = /^(?:([^:@/]*):([^@/]*)@)?([^/@]+)(?:\/([^/]*))?$/.exec(rest!);
  if (match === null) throw new Failure(`"etcd://..." is written etcd://HOST:PORT[,HOST:PORT][/CLUSTER]`);
  const [, username, password, hosts, cluster] = match;
  const discovery: Discovery = {
    kind: 'etcd',
    urls: hosts!.split(',').map((host) => `http://${hostPort(host, ETCD_PORT)}`),
    cluster: cluster === undefined || cluster === '' ? 'gomq' : decodeURIComponent(cluster),
  };
  if (username !== undefined) {
    discovery.username = decodeURIComponent(username);
    discovery.password = decodeURIComponent(password!);
  }
  return { addresses: [], discovery };
}

function parseHttp(text: string): Discovery {
  let scheme = 'http';
  const urls = text.split(',').map((part) => {
    const match = /^(?:(https?):\/\/)?([^/@]+)\/?$/i.exec(part.trim());
    if (match === null) {
      throw new Failure(
        `"${part}" is not the HTTP address of a broker; write http://HOST:PORT, without a path`,
      );
    }
    // What follows a comma is like what came before it.
    scheme = match[1]?.toLowerCase() ?? scheme;
    return `${scheme}://${hostPort(match[2]!, HTTP_PORT)}`;
  });
  return { kind: 'http', urls, cluster: '' };
}

function hostPort(text: string, defaultPort: number): string {
  const { host, port } = parseAddress(/:\d+$/.test(text) ? text : `${text}:${defaultPort}`);
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

export class Brokers {
  readonly #discovery: Discovery | undefined;
  readonly #complete: (address: Address) => Address;
  readonly #searches = new AbortController();
  #addresses: readonly Address[];
  #index = 0;
  #isSearching = false;
  #referred: Address | undefined;
  /** `#referred` is still to be tried. */
  #isReferred = false;
  #references = 0;

  /** `complete` adds to the address of a broker that was found what the options say of all. */
  constructor({ addresses, discovery }: BrokerNames, complete: (address: Address) => Address) {
    this.#addresses = addresses;
    this.#discovery = discovery;
    this.#complete = complete;
  }

  /** @throws {Failure} where brokers are to be found and nobody knows any */
  async find(signal: AbortSignal): Promise<void> {
    if (this.#discovery !== undefined) this.#take(await findBrokers(this.#discovery, signal));
  }

  get count(): number {
    return this.#addresses.length;
  }

  get current(): Address {
    return this.#referred ?? this.#addresses[this.#index % this.count]!;
  }

  /** The next attempt goes to another broker because the last one said so. */
  get isReferred(): boolean {
    return this.#isReferred;
  }

  /** For messages. */
  get names(): string {
    return this.#addresses.map(formatAddress).join(', ');
  }

  /** Goes on to the next, or to the one that the current one referred to. */
  advance(): void {
    if (this.#isReferred) {
      this.#isReferred = false;
      return;
    }
    this.#referred = undefined;
    this.#index = (this.#index + 1) % this.count;
  }

  /** Connected: what comes begins anew. */
  settled(): void {
    this.#references = 0;
  }

  /** A broker says "use another server". @returns whether to go there */
  refer(reference: string | undefined): boolean {
    const from = this.current;
    // It may list several, separated by spaces; the first is the broker's choice.
    const text = reference?.trim().split(/\s+/)[0];
    if (!text || ++this.#references > REFERENCES_MAX) return false;
    try {
      const target = parseAddress(text.includes('://') ? text : `${from.scheme}://${text}`);
      const known = this.#addresses.find(({ host, port }) => host === target.host && port === target.port);
      const isSecure = ({ scheme }: Address) => scheme === 'mqtts' || scheme === 'wss';
      // Credentials go along, so never from TLS to plain.
      if (known === undefined && isSecure(from) && !isSecure(target)) return false;
      this.#referred = known ?? { ...from, scheme: target.scheme, host: target.host, port: target.port };
      this.#isReferred = true;
      return true;
    } catch {
      // As good as none.
      return false;
    }
  }

  /** Asks again, while the brokers known are tried. */
  refresh(): void {
    if (this.#discovery === undefined || this.#isSearching) return;
    this.#isSearching = true;
    findBrokers(this.#discovery, this.#searches.signal)
      // Whoever cannot be asked leaves the list as it is.
      .then(
        (found) => this.#take(found),
        () => undefined,
      )
      .finally(() => {
        this.#isSearching = false;
      });
  }

  stop(): void {
    this.#searches.abort();
  }

  #take(found: readonly string[]): void {
    const before = this.names;
    this.#addresses = found.map((text) => this.#complete(parseAddress(text)));
    // A list that has changed is begun with its first, which leads; `advance` comes before the next attempt.
    if (this.names !== before) this.#index = before === '' ? 0 : this.count - 1;
  }
}
