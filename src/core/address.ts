// Reads listen and connect addresses, so that every room and the command line agree on how one is written.
import { GomqError } from './errors.js';

export interface Address {
  /** A name or an IP address without brackets; '' stands for every address of the machine. */
  host: string;
  port: number;
}

const HOST_NAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$/;
const BRACKETED = /^\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]$/;

/**
 * Reads `127.0.0.1:9000`, `[::1]:9000`, `localhost:9000` or `:9000` (every address of the machine).
 * @throws {GomqError} ADDRESS_INVALID
 */
export function parseAddress(text: string): Address {
  const colon = text.lastIndexOf(':');
  if (colon === -1) throw invalid(text, 'it has no port');
  const host = text.slice(0, colon);
  const digits = text.slice(colon + 1);
  if (!/^[0-9]{1,5}$/.test(digits)) throw invalid(text, `'${digits}' is not a port number`);
  const port = Number(digits);
  if (port > 65535) throw invalid(text, `port ${port} is above 65535`);
  if (host === '') return { host, port };
  const bracketed = BRACKETED.exec(host)?.[1];
  if (bracketed !== undefined) return { host: bracketed, port };
  if (host.includes(':')) throw invalid(text, 'an IPv6 address stands in brackets');
  if (!HOST_NAME.test(host)) throw invalid(text, `'${host}' is not a host name`);
  return { host, port };
}

/** The opposite of parseAddress: puts brackets around an IPv6 address. */
export function formatAddress(address: Address): string {
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

function invalid(text: string, why: string): GomqError {
  return new GomqError('ADDRESS_INVALID', `'${text}' is not HOST:PORT: ${why}`);
}

/** What a failure to listen on `text` means to the person who configured it. */
export function listenError(error: NodeJS.ErrnoException, text: string): GomqError {
  switch (error.code) {
    case 'EADDRINUSE':
      return new GomqError('ADDRESS_IN_USE', `cannot listen on ${text}: the address is in use`, {
        cause: error,
      });
    case 'EACCES':
      return new GomqError('ADDRESS_INVALID', `cannot listen on ${text}: not permitted`, {
        hint: 'Ports below 1024 need a privilege; choose a higher one.',
        cause: error,
      });
    default:
      return new GomqError('ADDRESS_INVALID', `cannot listen on ${text}: ${error.message}`, {
        hint: 'The host must be an address of this machine.',
        cause: error,
      });
  }
}
