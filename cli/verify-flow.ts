// Owns what one subscriber has seen of one numbered flow (a publisher, a QoS), and what that says: missing, twice, out of order. It holds no more than the
// numbers that are not there yet while later ones are, so a flow that is in order costs nothing, however long it is.

/** Numbers that may be missing while later ones have come; what is beyond is only counted. */
const MISSING_MAX = 100_000;

/** What the publisher knows of its numbers. */
export interface Published {
  /** The broker refused it once, so it was published again later: its place in the order is anywhere. */
  wasRefused(number: number): boolean;
  /** It was sent more than once, because its acknowledgement was lost: at QoS 1 it may be there twice. */
  wasResent(number: number): boolean;
}

/** What was seen, summed up over flows. */
export class Findings {
  /** First arrivals. */
  delivered = 0;
  /** QoS 2: came again. */
  repeatedQos2 = 0;
  /** QoS 1: came again with DUP, as it may. */
  redelivered = 0;
  /** QoS 1: came again without DUP, after the publisher had sent it again, as it may. */
  resent = 0;
  /** QoS 1: came again without DUP, and was sent once. */
  repeatedQos1 = 0;
  /** Came for the first time after a later one. */
  reordered = 0;
  /** The first few of what should not be, in words. */
  readonly examples: string[] = [];

  note(example: string): void {
    if (this.examples.length < 10) this.examples.push(example);
  }
}

export class Flow {
  readonly name: string;
  readonly #qos: 1 | 2;
  readonly #published: Published;
  readonly #findings: Findings;
  /** One past the highest number that came. */
  #next = 0;
  readonly #missing = new Set<number>();
  #missingBeyond = 0;

  /** @param name for examples: `subscriber 1, publisher 0` */
  constructor(name: string, qos: 1 | 2, published: Published, findings: Findings) {
    this.name = name;
    this.#qos = qos;
    this.#published = published;
    this.#findings = findings;
  }

  /** A message came. @param isDup of its PUBLISH */
  record(number: number, isDup: boolean): void {
    const findings = this.#findings;
    if (number >= this.#next) {
      for (let skipped = this.#next; skipped < number; skipped++) {
        if (this.#missing.size < MISSING_MAX) this.#missing.add(skipped);
        else this.#missingBeyond++;
      }
      this.#next = number + 1;
      findings.delivered++;
      return;
    }
    if (this.#missing.delete(number)) {
      findings.delivered++;
      if (this.#published.wasRefused(number)) return;
      findings.reordered++;
      findings.note(`${this.name}: ${number} came after ${this.#next - 1}`);
      return;
    }
    if (this.#published.wasRefused(number)) {
      findings.resent++;
    } else if (this.#qos === 2) {
      findings.repeatedQos2++;
      findings.note(`${this.name}: ${number} came again at QoS 2${isDup ? ', with DUP' : ''}`);
    } else if (isDup) {
      findings.redelivered++;
    } else if (this.#published.wasResent(number)) {
      findings.resent++;
    } else {
      findings.repeatedQos1++;
      findings.note(`${this.name}: ${number} came again without DUP, and was sent once`);
    }
  }

  /** How many of the numbers below `end` have not come. */
  missingBelow(end: number): number {
    return this.#missing.size + this.#missingBeyond + Math.max(0, end - this.#next);
  }

  /** The first few of them. */
  firstMissing(end: number, count: number): number[] {
    const first = [...this.#missing].sort((a, b) => a - b).slice(0, count);
    for (let number = this.#next; number < end && first.length < count; number++) first.push(number);
    return first;
  }

  has(number: number): boolean {
    return number < this.#next && !this.#missing.has(number);
  }
}
