// Time behind an interface, so that tests can turn it. Nothing below net/ and http/ asks the system for the time.

export interface Clock {
  /** Wall clock, milliseconds since the Unix epoch. May jump. For timestamps that leave the process. */
  wallMs(): number;
  /** Monotonic, milliseconds since an arbitrary start. For intervals and deadlines. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
