// Reads the certificate files of the TLS listeners, and says which one is at fault.
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import type { Config } from '../core/config.js';
import { GomqError } from '../core/errors.js';

export type TlsSettings = Config['listeners']['tls'];

/**
 * Reads what `settings` names and checks that certificate and key belong together.
 * @throws {GomqError} CONFIG_INVALID, CONFIG_UNREADABLE
 */
export function readCertificates(settings: TlsSettings): SecureContextOptions {
  if (settings.cert === '' || settings.key === '') {
    const missing = settings.cert === '' ? 'listeners.tls.cert' : 'listeners.tls.key';
    throw new GomqError('CONFIG_INVALID', `${missing} is not set, and the mqtts and wss listeners need it`);
  }
  if (settings.requireClientCert && settings.ca === '') {
    // Without a list of our own, any certificate of a public authority would open the door.
    throw new GomqError('CONFIG_INVALID', 'listeners.tls.requireClientCert needs listeners.tls.ca');
  }
  const cert = readPem(settings.cert);
  const key = readPem(settings.key);
  const options: SecureContextOptions = { cert, key, minVersion: 'TLSv1.2' };
  if (settings.ca !== '') {
    const ca = readPem(settings.ca);
    // TLS itself would take a file without a single certificate, and then refuse every client.
    checkPem(() => new X509Certificate(ca), settings.ca);
    options.ca = ca;
  }
  checkPem(() => createSecureContext({ cert }), settings.cert);
  checkPem(() => createSecureContext({ key }), settings.key);
  checkPem(() => createSecureContext(options), `${settings.cert} and ${settings.key}`);
  return options;
}

/** The common name of a client certificate that was verified against `ca`; undefined where there is none, or more than one. */
export function verifiedName(socket: TLSSocket): string | undefined {
  if (!socket.authorized) return undefined;
  const name: unknown = socket.getPeerCertificate().subject?.CN;
  return typeof name === 'string' && name !== '' ? name : undefined;
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new GomqError('CONFIG_UNREADABLE', `cannot read ${path}: ${reason(error)}`, { cause: error });
  }
}

function checkPem(use: () => unknown, what: string): void {
  try {
    use();
  } catch (error) {
    throw new GomqError('CONFIG_UNREADABLE', `cannot use ${what} for TLS: ${reason(error)}`, {
      hint: 'The files must be PEM: a certificate chain, and the private key of its first certificate.',
      cause: error,
    });
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
