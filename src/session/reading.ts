// Whoever reads the log from a cursor of its own, and how a turn of it ends. It has a reader only within its turn and while a read is pending.
import type { Session } from './session.js';
import type { SharedGroup } from './shared-group.js';

/** Whoever has a cursor. */
export type Reading = Session | SharedGroup;

/** How far a step has come: to its end, to a bound that somebody else will lift, or to a read that has to be waited for. */
export type Progress = 'done' | 'blocked' | 'pending';

/** A reader is kept only while its read is pending: it holds on to memory of the log. */
export function closeReader(reading: Reading): void {
  reading.reader?.close();
  reading.reader = undefined;
}
