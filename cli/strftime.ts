// Owns the date codes of `-F`: `@Y` and its like are strftime(3) conversions in local time and the C locale, as in mosquitto_sub.

/** A moment with more resolution than a Date: whole seconds since 1970 and the nanoseconds within the second. */
export interface Moment {
  seconds: number;
  nanoseconds: number;
}

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];

/** The wall clock now. performance.now() gives it the microseconds that Date leaves out. */
export function now(): Moment {
  const milliseconds = performance.timeOrigin + performance.now();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanoseconds: Math.floor((milliseconds - seconds * 1000) * 1000) * 1000 };
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}

function spaced(value: number): string {
  return String(value).padStart(2, ' ');
}

/** Days since 1 January, from 0. Counted in UTC so that a change to summer time does not lose an hour. */
function dayOfYear(date: Date): number {
  const day = Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  return Math.round((day - Date.UTC(date.getFullYear(), 0, 1)) / 86_400_000);
}

/** The offset from UTC as +0100, or as +01:00 with a separator. */
function zone(date: Date, separator = ''): string {
  const minutes = -date.getTimezoneOffset();
  const sign = minutes < 0 ? '-' : '+';
  return `${sign}${two(Math.floor(Math.abs(minutes) / 60))}${separator}${two(Math.abs(minutes) % 60)}`;
}

function zoneName(date: Date): string {
  const parts = new Intl.DateTimeFormat('en-US', { timeZoneName: 'short' }).formatToParts(date);
  return parts.find((part) => part.type === 'timeZoneName')?.value ?? '';
}

/** The ISO 8601 year and week: the week belongs to the year that its Thursday is in. */
function isoWeek(date: Date): { year: number; week: number } {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate());
  thursday.setDate(thursday.getDate() + 3 - ((thursday.getDay() + 6) % 7));
  return { year: thursday.getFullYear(), week: Math.floor(dayOfYear(thursday) / 7) + 1 };
}

function hour12(date: Date): number {
  return date.getHours() % 12 === 0 ? 12 : date.getHours() % 12;
}

const CONVERSIONS: Record<string, (date: Date, moment: Moment) => string> = {
  a: (date) => DAYS[date.getDay()]!.slice(0, 3),
  A: (date) => DAYS[date.getDay()]!,
  b: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  B: (date) => MONTHS[date.getMonth()]!,
  c: (date, moment) => strftime('a b e T Y', date, moment),
  C: (date) => two(Math.floor(date.getFullYear() / 100)),
  d: (date) => two(date.getDate()),
  D: (date, moment) => strftime('m/d/y', date, moment),
  e: (date) => spaced(date.getDate()),
  F: (date, moment) => strftime('Y-m-d', date, moment),
  g: (date) => two(isoWeek(date).year % 100),
  G: (date) => String(isoWeek(date).year),
  h: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  H: (date) => two(date.getHours()),
  I: (date) => two(hour12(date)),
  j: (date) => String(dayOfYear(date) + 1).padStart(3, '0'),
  k: (date) => spaced(date.getHours()),
  l: (date) => spaced(hour12(date)),
  m: (date) => two(date.getMonth() + 1),
  M: (date) => two(date.getMinutes()),
  n: () => '\n',
  N: (_date, moment) => String(moment.nanoseconds).padStart(9, '0'),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  P: (date) => (date.getHours() < 12 ? 'am' : 'pm'),
  r: (date, moment) => strftime('I:M:S p', date, moment),
  R: (date, moment) => strftime('H:M', date, moment),
  s: (_date, moment) => String(moment.seconds),
  S: (date) => two(date.getSeconds()),
  t: () => '\t',
  T: (date, moment) => strftime('H:M:S', date, moment),
  u: (date) => String(((date.getDay() + 6) % 7) + 1),
  U: (date) => two(Math.floor((dayOfYear(date) + 7 - date.getDay()) / 7)),
  V: (date) => two(isoWeek(date).week),
  w: (date) => String(date.getDay()),
  W: (date) => two(Math.floor((dayOfYear(date) + 7 - ((date.getDay() + 6) % 7)) / 7)),
  x: (date, moment) => strftime('m/d/y', date, moment),
  X: (date, moment) => strftime('H:M:S', date, moment),
  y: (date) => two(date.getFullYear() % 100),
  Y: (date) => String(date.getFullYear()),
  z: (date) => zone(date),
  Z: (date) => zoneName(date),
  '+': (date, moment) => strftime('a b e H:M:S p Z Y', date, moment),
  '%': () => '%',
};

/** Expands a pattern in which every letter stands for its conversion and everything else for itself. */
function strftime(pattern: string, date: Date, moment: Moment): string {
  return pattern.replace(/[A-Za-z]/g, (letter) => CONVERSIONS[letter]!(date, moment));
}

/** True where `@` followed by this character is a conversion. */
export function isConversion(code: string): boolean {
  return Object.hasOwn(CONVERSIONS, code);
}

/** One conversion, `Y` for the year, of a moment in local time. */
export function convert(code: string, moment: Moment): string {
  return CONVERSIONS[code]!(new Date(moment.seconds * 1000), moment);
}

/** 2016-08-10T09:47:38+0100 */
export function isoSeconds(moment: Moment): string {
  const date = new Date(moment.seconds * 1000);
  return `${strftime('Y-m-d', date, moment)}T${strftime('H:M:S', date, moment)}${zone(date)}`;
}

/** 2016-08-10T09:47:38.786368+0100 */
export function isoMicroseconds(moment: Moment): string {
  const date = new Date(moment.seconds * 1000);
  const micros = String(Math.floor(moment.nanoseconds / 1000)).padStart(6, '0');
  return `${strftime('Y-m-d', date, moment)}T${strftime('H:M:S', date, moment)}.${micros}${zone(date)}`;
}

/** 1470818943.786368637 */
export function unixNanoseconds(moment: Moment): string {
  return `${moment.seconds}.${String(moment.nanoseconds).padStart(9, '0')}`;
}
