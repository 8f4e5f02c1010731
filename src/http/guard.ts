// Decides who may use the API. With a token, whoever knows it. Without one a caller is what an MQTT client without a user name is, so
// auth.anonymous decides; and no web page that happens to be open in a browser on this machine may be that caller: not by a request to
// another site (Origin), and not by a name that its owner points at this machine after the page was loaded (DNS rebinding: Host).
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { isIP, isIPv4 } from 'node:net';
import { hostname } from 'node:os';
import { parseAddress } from '../core/address.js';
import type { Config } from '../core/config.js';
import { GomqError } from '../core/errors.js';

/** With whose rights a request is served. */
export type Caller = 'operator' | 'anonymous';

export class Guard {
  readonly #tokenHash: Buffer | undefined;
  /** The host that is listened on where that is this machine only, else undefined. */
  readonly #loopbackHost: string | undefined;

  readonly #anonymous: Config['auth']['anonymous'];

  constructor({ http, auth }: Pick<Config, 'http' | 'auth'>) {
    this.#anonymous = auth.anonymous;
    this.#tokenHash = http.token === '' ? undefined : sha256(http.token);
    const host = http.listen === '' ? '' : parseAddress(http.listen).host;
    this.#loopbackHost = isLoopback(host) ? host : undefined;
  }

  /**
   * Holds for every route.
   * @throws {GomqError} ORIGIN_FOREIGN
   */
  checkHost(headers: IncomingHttpHeaders): void {
    if (this.#loopbackHost === undefined) return;
    const host = hostOf(headers.host);
    if (isLoopback(host) || host === this.#loopbackHost) return;
    throw new GomqError(
      'ORIGIN_FOREIGN',
      `Host is ${JSON.stringify(headers.host)}, which is not this machine`,
    );
  }

  /**
   * Holds for routes that change something or show messages.
   * @returns who the caller is: whoever has the token is the operator, without one whoever reaches the API is an anonymous client
   * @throws {GomqError} TOKEN_WRONG, ORIGIN_FOREIGN, REFUSED
   */
  checkCaller(headers: IncomingHttpHeaders, remoteAddress: string | undefined): Caller {
    if (this.#tokenHash !== undefined) {
      checkToken(headers.authorization, this.#tokenHash);
      return 'operator';
    }
    checkOrigin(headers);
    if (this.#anonymous === 'always') return 'anonymous';
    if (this.#anonymous === 'loopback' && isLoopback(unmapped(remoteAddress ?? ''))) {
      checkName(headers);
      return 'anonymous';
    }
    throw new GomqError(
      'REFUSED',
      `auth.anonymous is ${this.#anonymous}, and there is no http.token to tell callers by`,
      {
        hint: 'Set http.token and send it as Authorization: Bearer TOKEN.',
      },
    );
  }

  /**
   * Holds for routes that are the operator's: the token, or a caller on this machine, whatever else anonymous callers may do.
   * @throws {GomqError} TOKEN_WRONG, ORIGIN_FOREIGN, REFUSED
   */
  checkOperator(headers: IncomingHttpHeaders, remoteAddress: string | undefined): void {
    this.checkCaller(headers, remoteAddress);
    if (this.#tokenHash !== undefined) return;
    checkName(headers);
    if (isLoopback(unmapped(remoteAddress ?? ''))) return;
    throw new GomqError(
      'REFUSED',
      'only the operator may do this, and there is no http.token to tell it by',
      {
        hint: 'Ask on the machine of the broker, or set http.token and send it as Authorization: Bearer TOKEN.',
      },
    );
  }
}

/** Hashes have one length, so the comparison takes the same time whatever was sent. */
function checkToken(authorization: string | undefined, tokenHash: Buffer): void {
  const sent = /^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1];
  if (sent === undefined) throw new GomqError('TOKEN_WRONG', 'the request carries no token');
  if (!timingSafeEqual(sha256(sent), tokenHash)) throw new GomqError('TOKEN_WRONG', 'the token is wrong');
}

/** Only browsers send these headers, and no page can forge them. */
function checkOrigin(headers: IncomingHttpHeaders): void {
  const { origin, host } = headers;
  const site = headers['sec-fetch-site'];
  const isSameOrigin = origin === undefined || (host !== undefined && origin === `http://${host}`);
  const isSameSite = site === undefined || site === 'same-origin' || site === 'none';
  if (isSameOrigin && isSameSite) return;
  throw new GomqError('ORIGIN_FOREIGN', `the request comes from a web page of ${origin ?? 'another site'}`);
}

/**
 * A page may have come from a name that points here by now; names that nobody else can own are `localhost`, addresses and that of this machine. Only
 * what is no browser names none.
 */
function checkName(headers: IncomingHttpHeaders): void {
  if (headers.host === undefined) return;
  const host = hostOf(headers.host);
  if (host === 'localhost' || isIP(host) !== 0 || host === hostname().toLowerCase()) return;
  throw new GomqError(
    'ORIGIN_FOREIGN',
    `Host is ${JSON.stringify(headers.host)}, which is neither an address nor this machine`,
  );
}

/** `localhost:8000` -> `localhost`, `[::1]:8000` -> `::1`, no port -> the whole. */
function hostOf(header: string | undefined): string {
  const host = (header ?? '').replace(/:[0-9]*$/, '').toLowerCase();
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
}

/** A socket that serves both IP versions shows IPv4 addresses as `::ffff:127.0.0.1`. */
function unmapped(address: string): string {
  return address.startsWith('::ffff:') ? address.slice(7) : address;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
