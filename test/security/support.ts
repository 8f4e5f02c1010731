// What the tests of the security room share: files in a directory of their own, and clients.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Logger, silentLogger } from '../../src/core/logger.js';
import type { Credentials } from '../../src/security/authenticator.js';

/** A path in a directory that is removed when the test ends; holds `text` where given. */
export function temporaryFile(context: TestContext, name: string, text?: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'gomq-security-'));
  context.after(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, name);
  if (text !== undefined) writeFileSync(path, text, { mode: 0o600 });
  return path;
}

export function credentials(settings: Partial<Credentials> = {}): Credentials {
  return {
    clientId: 'client',
    userName: undefined,
    password: undefined,
    remoteAddress: '127.0.0.1',
    clientCertificateName: undefined,
    ...settings,
  };
}

/** A logger that keeps its warnings. */
export function warnings(lines: { message: string; fields: Record<string, unknown> }[]): Logger {
  return { ...silentLogger, warn: (message, fields) => lines.push({ message, fields: { ...fields } }) };
}
