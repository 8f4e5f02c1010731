// Owns one measurement: the longest time that somebody waited for an acknowledgement and none came.

export class Gap {
  /** Since when one is waited for without any: undefined while nothing is waited for. */
  #sinceMs: number | undefined = undefined;
  #longestMs = 0;

  /** Something is waited for from now on, if nothing was before. */
  wait(nowMs: number): void {
    this.#sinceMs ??= nowMs;
  }

  /** One came. @param isMoreAwaited whether others are waited for still */
  came(nowMs: number, isMoreAwaited: boolean): void {
    this.#longestMs = this.longestMs(nowMs);
    this.#sinceMs = isMoreAwaited ? nowMs : undefined;
  }

  /** How long it is now. */
  currentMs(nowMs: number): number {
    return this.#sinceMs === undefined ? 0 : nowMs - this.#sinceMs;
  }

  /** One that is not over counts too. */
  longestMs(nowMs: number): number {
    return Math.max(this.#longestMs, this.currentMs(nowMs));
  }
}
