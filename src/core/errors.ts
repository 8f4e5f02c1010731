// Owns the one error class of the project and the table of its codes. docs/ERRORS.md is kept equal to the table by a test.

/** Every expected failure has one of these codes: what it means (one sentence) and what to do about it. */
export const ERRORS = {
  ADDRESS_IN_USE: {
    meaning: 'A listener could not be opened because another process holds the address.',
    hint: 'Stop the other process or choose another address (port 0 takes a free one).',
  },
  ADDRESS_INVALID: {
    meaning: 'A listen or connect address is not HOST:PORT.',
    hint: 'Write it as 127.0.0.1:9000, [::1]:9000 or localhost:9000.',
  },
  CONFIG_INVALID: {
    meaning: 'The configuration has an unknown key or a value of the wrong shape.',
    hint: 'The message names the key; `gomq print-config` shows every key with its value.',
  },
  CONFIG_UNREADABLE: {
    meaning: 'A configuration, certificate, password or ACL file could not be read.',
    hint: 'Check the path and the permissions of the file.',
  },
  INTERNAL: {
    meaning: 'A defect in gomq: something that cannot happen did.',
    hint: 'Report it with the log lines before it.',
  },
  PROTOCOL: {
    meaning: 'A client sent bytes that the MQTT standard forbids.',
    hint: 'The reason code and the message say which rule; the client needs mending.',
  },
  REFUSED: {
    meaning: 'A client asked for something that this broker does not allow.',
    hint: 'The reason code says what; limits and rights are in the configuration.',
  },
} as const satisfies Record<string, { meaning: string; hint: string }>;

export type ErrorCode = keyof typeof ERRORS;

export interface GomqErrorOptions {
  /** What to do about it; the table's hint where absent. */
  hint?: string;
  /** True where the same call may succeed later. */
  retriable?: boolean;
  /** The MQTT 5 reason code (0x80 and above) to tell the client. */
  reasonCode?: number;
  cause?: unknown;
}

/** An expected failure. The message says what happened, with the values. */
export class GomqError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  readonly retriable: boolean;
  readonly reasonCode: number | undefined;

  constructor(code: ErrorCode, message: string, options: GomqErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'GomqError';
    this.code = code;
    this.hint = options.hint ?? ERRORS[code].hint;
    this.retriable = options.retriable ?? false;
    this.reasonCode = options.reasonCode;
  }
}
