/** An expected failure of a bench run, told to the user as one line. */
export class BenchError extends Error {
  /** What the process exits with: 1, or the CONNACK code where the broker refused, as mosquitto_pub does. */
  readonly exitCode: number;

  constructor(message: string, exitCode = 1) {
    super(message);
    this.name = 'BenchError';
    this.exitCode = exitCode;
  }
}
