// Owns who a client is. Anonymous clients are answered at once; a password costs about 20 ms of argon2 on another thread, so the number of
// verifications under way and waiting is bounded, and the last password that was right is remembered by a keyed digest, which makes a
// reconnect cheap. How long an answer takes tells nobody whether a user exists.
import { isUtf8 } from 'node:buffer';
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { verify } from '@node-rs/argon2';
import type { Config } from '../core/config.js';
import type { Logger } from '../core/logger.js';
import { type PasswordTable, readPasswordFile } from './password-file.js';
import { warnOfOpenFile } from './private-file.js';

export interface Credentials {
  clientId: string;
  userName: string | undefined;
  password: Buffer | undefined;
  /** IP address without port. */
  remoteAddress: string;
  /** From a certificate that was verified; undefined where there is none. */
  clientCertificateName: string | undefined;
}

/** `userName` is undefined for a client whose name nobody has verified, whatever it calls itself. */
export type AuthenticationResult =
  | { accepted: true; userName: string | undefined }
  | { accepted: false; reasonCode: number };

export interface Authenticator {
  authenticate(credentials: Credentials): AuthenticationResult | Promise<AuthenticationResult>;
  /**
   * Reads the password file again; keeps the old users where that fails.
   * @throws {GomqError} CONFIG_UNREADABLE, CONFIG_INVALID
   */
  reload(): void;
}

// MQTT 5 reason codes; the packet room, which has their table, is above this one.
const BAD_USER_NAME_OR_PASSWORD = { accepted: false, reasonCode: 0x86 } as const;
const NOT_AUTHORIZED = { accepted: false, reasonCode: 0x87 } as const;
const SERVER_BUSY = { accepted: false, reasonCode: 0x89 } as const;
const ANONYMOUS = { accepted: true, userName: undefined } as const;

/** argon2 runs on the thread pool of libuv, which has four threads and is also needed for files. */
const VERIFICATIONS_MAX = 2;
/** With two at a time this is about three seconds of work: clients still wait for their CONNACK. */
const WAITING_MAX = 256;
const SALT_BYTES = 16;
const DIGEST_BYTES = 32;

/** @throws {GomqError} CONFIG_UNREADABLE, CONFIG_INVALID */
export function createAuthenticator(auth: Config['auth'], logger: Logger): Authenticator {
  if (auth.passwordFile === '') {
    return { authenticate: (credentials) => withoutPassword(credentials, auth.anonymous), reload() {} };
  }
  return new PasswordAuthenticator(auth, logger);
}

class PasswordAuthenticator implements Authenticator {
  readonly #path: string;
  readonly #anonymous: Config['auth']['anonymous'];
  readonly #logger: Logger;
  readonly #verifications = new Turns(VERIFICATIONS_MAX, WAITING_MAX);
  /** Of this process alone, so that the digests say nothing to anybody else. */
  readonly #digestKey = randomBytes(DIGEST_BYTES);
  #table: PasswordTable;
  #decoy: string;
  /** By user, the digest of the password that was right. Bounded by the number of users in the file. */
  #remembered = new Map<string, Buffer>();

  constructor(auth: Config['auth'], logger: Logger) {
    this.#path = auth.passwordFile;
    this.#anonymous = auth.anonymous;
    this.#logger = logger;
    warnOfOpenFile(this.#path, logger);
    this.#table = readPasswordFile(this.#path);
    this.#decoy = decoyFor(this.#table);
  }

  reload(): void {
    const table = readPasswordFile(this.#path);
    warnOfOpenFile(this.#path, this.#logger);
    this.#table = table;
    this.#decoy = decoyFor(table);
    this.#remembered = new Map();
  }

  authenticate(credentials: Credentials): AuthenticationResult | Promise<AuthenticationResult> {
    const { userName, password } = credentials;
    if (userName === undefined) return withoutPassword(credentials, this.#anonymous);
    if (isNamedByCertificate(credentials)) return { accepted: true, userName };
    const digest = createHmac('sha256', this.#digestKey)
      .update(password ?? '')
      .digest();
    const remembered = this.#remembered.get(userName);
    if (remembered !== undefined && password !== undefined && timingSafeEqual(remembered, digest)) {
      return { accepted: true, userName };
    }
    return this.#verify(userName, password, digest);
  }

  async #verify(
    userName: string,
    password: Buffer | undefined,
    digest: Buffer,
  ): Promise<AuthenticationResult> {
    const table = this.#table;
    const known = password === undefined ? undefined : table.get(userName);
    if (!(await this.#verifications.take())) return SERVER_BUSY;
    let isRight = false;
    try {
      // An unknown user, a missing password, and one that is not UTF-8 and so nobody's, cost the same work.
      const isText = password === undefined || isUtf8(password);
      isRight = (await verify(known ?? this.#decoy, isText ? (password ?? '') : '')) && isText;
    } catch (error) {
      this.#logger.error('a password could not be verified', { userName, error });
    } finally {
      this.#verifications.give();
    }
    // A reload meanwhile may have removed the user, or changed the password.
    if (known === undefined || !isRight || this.#table.get(userName) !== known)
      return BAD_USER_NAME_OR_PASSWORD;
    this.#remembered.set(userName, digest);
    return { accepted: true, userName };
  }
}

/** Who is let in on a certificate, or on being nobody. */
function withoutPassword(
  credentials: Credentials,
  anonymous: Config['auth']['anonymous'],
): AuthenticationResult {
  const { clientCertificateName } = credentials;
  if (
    clientCertificateName !== undefined &&
    (credentials.userName === undefined || isNamedByCertificate(credentials))
  ) {
    return { accepted: true, userName: clientCertificateName };
  }
  // 5.0 allows a password without a user name: credentials that we cannot check are not taken for none.
  if (credentials.userName === undefined && credentials.password !== undefined)
    return BAD_USER_NAME_OR_PASSWORD;
  if (anonymous === 'always') return ANONYMOUS;
  return anonymous === 'loopback' && isLoopback(credentials.remoteAddress) ? ANONYMOUS : NOT_AUTHORIZED;
}

/** A client that gives the user name of its certificate needs no password; one that gives another needs that one's. */
function isNamedByCertificate(credentials: Credentials): boolean {
  return credentials.password === undefined && credentials.userName === credentials.clientCertificateName;
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

/** A hash that no password has, with the cost of the first in the file, which is the cost of all that one `gomq password` wrote. */
function decoyFor(table: PasswordTable): string {
  const [first] = table.values();
  const cost = first?.split('$').slice(0, 4).join('$') ?? '$argon2id$v=19$m=19456,t=2,p=1';
  const unpadded = (bytes: Buffer) => bytes.toString('base64').replaceAll('=', '');
  return `${cost}$${unpadded(randomBytes(SALT_BYTES))}$${unpadded(randomBytes(DIGEST_BYTES))}`;
}

/** Lets a few in at a time, has a few more wait in order, and turns the others away. */
class Turns {
  #free: number;
  readonly #waitingMax: number;
  readonly #waiting: (() => void)[] = [];

  constructor(places: number, waitingMax: number) {
    this.#free = places;
    this.#waitingMax = waitingMax;
  }

  /** False: too many are waiting. Whoever gets true must `give`. */
  async take(): Promise<boolean> {
    if (this.#free > 0) {
      this.#free -= 1;
      return true;
    }
    if (this.#waiting.length >= this.#waitingMax) return false;
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return true;
  }

  give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}
