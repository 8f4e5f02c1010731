// Diagnostics, for people and their log collectors; not to be confused with the log (src/log/), which holds messages. pino stays behind
// the interface. Secrets never get this far: callers pass what they mean to show, and the names below are blanked as a second line.
import pino from 'pino';
import type { Config } from './config.js';
import { GomqError } from './errors.js';

/** What belongs to a message: values by name. An Error under any name is written with its code and cause. */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to everything it writes. */
  child(fields: LogFields): Logger;
}

/** Where lines go; each ends with a newline. */
export interface LogSink {
  write(line: string): void;
}

const SECRET_NAMES = ['password', 'token', 'secret', 'authorization', 'authenticationData'];
const STDERR = 2;
/** A reader of stderr that has stopped costs at most this much memory; further lines are dropped. */
const STDERR_BUFFER_BYTES_MAX = 1024 * 1024;

/** Writes nothing. */
export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLogger,
};

/**
 * Writes to stderr unless a sink is given. Lines leave in the background; what is left is flushed when the process exits. The write that
 * is on its way at that moment ends by itself, so its lines may come after the ones flushed: `time` has the order.
 */
export function createLogger(settings: Config['logger'], sink?: LogSink): Logger {
  const raw = sink ?? pino.destination({ fd: STDERR, sync: false, maxLength: STDERR_BUFFER_BYTES_MAX });
  const isPretty =
    settings.format === 'pretty' || (settings.format === 'auto' && process.stderr.isTTY === true);
  const target = isPretty ? { write: (line: string) => raw.write(prettyLine(line)) } : raw;
  const instance = pino(
    {
      level: settings.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      messageKey: 'message',
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRET_NAMES.flatMap((name) => [name, `*.${name}`]), censor: '(hidden)' },
    },
    target,
  );
  return wrap(instance);
}

function wrap(instance: pino.Logger): Logger {
  return {
    debug: (message, fields) => {
      if (instance.isLevelEnabled('debug')) instance.debug(plain(fields), message);
    },
    info: (message, fields) => instance.info(plain(fields), message),
    warn: (message, fields) => instance.warn(plain(fields), message),
    error: (message, fields) => instance.error(plain(fields), message),
    child: (fields) => wrap(instance.child(plain(fields))),
  };
}

/** Errors have no enumerable properties, so JSON would lose them. */
function plain(fields: LogFields | undefined): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const name in fields) {
    const value = fields[name];
    result[name] = value instanceof Error ? plainError(value) : value;
  }
  return result;
}

/** A stack only where the error is a defect: an expected failure is told by its message. */
function plainError(error: Error): Record<string, unknown> {
  const cause = error.cause instanceof Error ? { cause: plainError(error.cause) } : {};
  if (error instanceof GomqError && error.code !== 'INTERNAL') {
    return { code: error.code, message: error.message, hint: error.hint, ...cause };
  }
  const code = (error as NodeJS.ErrnoException).code;
  return { ...(code === undefined ? {} : { code }), message: error.message, stack: error.stack, ...cause };
}

/** `12:34:56.789 WARN  message name=value name=value`; values are JSON, so that no client can write a line of its own. */
function prettyLine(line: string): string {
  const { time, level, message, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const rest = Object.entries(fields).map(([name, value]) => ` ${name}=${JSON.stringify(value)}`);
  return `${escapeControls(`${clock} ${String(level).toUpperCase().padEnd(5)} ${message}${rest.join('')}`)}\n`;
}

/** A terminal also obeys the control characters above U+007F, which JSON leaves as they are. */
function escapeControls(text: string): string {
  return text.replace(
    /\p{Cc}/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
