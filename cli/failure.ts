// Owns how a command of gomqctl fails: with a sentence for a person and an exit status for a script, never with a stack trace.

/** Exit statuses, as in mosquitto_pub and mosquitto_sub. A refused CONNECT exits with its return code or reason code instead. */
export const EXIT = { ok: 0, error: 1, timeout: 27, interrupted: 130 } as const;

/** An expected end of a command. The message is one line: what happened, with the values, and what to do about it. */
export class Failure extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.error, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'Failure';
    this.exitCode = exitCode;
  }
}
