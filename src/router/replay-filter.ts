// The grammar of `$replay/<from>/<filter>`: a subscription that begins in the past. What follows the second slash is an ordinary filter.

/** Where history begins: at the oldest record, at an offset, or at a time (wall clock, milliseconds since the Unix epoch). */
export type ReplayFrom =
  | { readonly kind: 'earliest' }
  /** Of history only what is retained. */
  | { readonly kind: 'retained' }
  | { readonly kind: 'offset'; readonly offset: number }
  /** So many milliseconds before the subscription. */
  | { readonly kind: 'ago'; readonly ms: number }
  | { readonly kind: 'time'; readonly timestampMs: number };

const UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

const DURATION = /^-((?:\d{1,9}(?:ms|[smhdw]))+)$/;
const DURATION_PART = /(\d+)(ms|[smhdw])/g;
/** RFC 3339, section 5.6. */
const TIME = /^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$/;

const EXPECTED = 'earliest, retained, an offset, a duration like -1h30m or a time like 2026-01-31T12:00:00Z';

/** @returns where it begins, or a few words that say what is wrong */
export function parseReplayFrom(text: string): ReplayFrom | string {
  if (text === 'earliest' || text === 'retained') return { kind: text };
  if (/^\d{1,16}$/.test(text)) {
    const offset = Number(text);
    return Number.isSafeInteger(offset) ? { kind: 'offset', offset } : `there is no offset ${text}`;
  }
  const duration = DURATION.exec(text);
  if (duration !== null) {
    let ms = 0;
    for (const [, count, unit] of duration[1]!.matchAll(DURATION_PART))
      ms += Number(count) * UNITS_MS[unit!]!;
    return { kind: 'ago', ms };
  }
  const timestampMs = TIME.test(text) ? Date.parse(text.replace(' ', 'T').toUpperCase()) : Number.NaN;
  if (!Number.isNaN(timestampMs)) return { kind: 'time', timestampMs };
  return `history begins at '${text.slice(0, 64)}': expected ${EXPECTED}`;
}
