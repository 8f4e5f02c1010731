// Assertions stay on in production: a broken invariant stops the process before it can tell a client something untrue.
import { GomqError } from './errors.js';

/**
 * Throws when an invariant is broken. The caller must not catch it: main.ts logs it and exits.
 * @throws {GomqError} INTERNAL
 */
export function assert(condition: boolean, what: string): asserts condition {
  if (!condition) throw new GomqError('INTERNAL', `invariant broken: ${what}`);
}
