// A pause that can be cut short: what every loop that talks to etcd rests on.

/** One waits at a time. A call of `ring` that nobody waits for ends the next wait before it begins, so that none gets lost. */
export class Alarm {
  #isRung = false;
  #timer: NodeJS.Timeout | undefined;
  #wake: (() => void) | undefined;

  ring(): void {
    if (this.#wake === undefined) this.#isRung = true;
    else this.#wake();
  }

  /** Answers whether it was cut short. */
  wait(ms: number): Promise<boolean> {
    if (this.#isRung) {
      this.#isRung = false;
      return Promise.resolve(true);
    }
    return new Promise((resolve) => {
      const end = (isRung: boolean) => {
        clearTimeout(this.#timer);
        this.#wake = undefined;
        resolve(isRung);
      };
      this.#wake = () => end(true);
      if (ms < Number.POSITIVE_INFINITY) this.#timer = setTimeout(() => end(false), ms);
    });
  }
}
