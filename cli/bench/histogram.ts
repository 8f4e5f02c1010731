// Owns latency percentiles in bounded memory: a log-linear histogram, so that recording is a shift and an increment and a run of any
// length costs the same 100 KiB.

/**
 * Values below 2^11 have a bucket each; above, every power of two is split into 2^10 buckets, so a reported value is at most 0.1 % above
 * the recorded one.
 */
const LINEAR_BITS = 11;
const LINEAR_COUNT = 1 << LINEAR_BITS;
const HALF_COUNT = LINEAR_COUNT >> 1;
const BUCKET_COUNT = LINEAR_COUNT + (32 - LINEAR_BITS) * HALF_COUNT;

/** Counts unsigned 32-bit values (microseconds here) and answers percentiles. */
export class Histogram {
  readonly #counts = new Float64Array(BUCKET_COUNT);
  #total = 0;
  #sum = 0;
  #max = 0;

  get total(): number {
    return this.#total;
  }

  get max(): number {
    return this.#max;
  }

  get mean(): number {
    return this.#total === 0 ? 0 : this.#sum / this.#total;
  }

  record(value: number): void {
    let bucket = value;
    if (value >= LINEAR_COUNT) {
      const shift = 32 - LINEAR_BITS - Math.clz32(value);
      bucket = shift * HALF_COUNT + (value >>> shift);
    }
    this.#counts[bucket]!++;
    this.#total++;
    this.#sum += value;
    if (value > this.#max) this.#max = value;
  }

  /** The smallest bucket bound that at least `fraction` (0 to 1) of the values do not exceed; 0 when nothing was recorded. */
  percentile(fraction: number): number {
    if (this.#total === 0) return 0;
    const rank = Math.max(1, Math.ceil(fraction * this.#total));
    let seen = 0;
    for (let bucket = 0; bucket < BUCKET_COUNT; bucket++) {
      seen += this.#counts[bucket]!;
      if (seen >= rank) return Math.min(upperBound(bucket), this.#max);
    }
    return this.#max;
  }

  reset(): void {
    this.#counts.fill(0);
    this.#total = 0;
    this.#sum = 0;
    this.#max = 0;
  }
}

function upperBound(bucket: number): number {
  if (bucket < LINEAR_COUNT) return bucket;
  const shift = Math.floor(bucket / HALF_COUNT) - 1;
  const mantissa = bucket - shift * HALF_COUNT;
  return (mantissa + 1) * 2 ** shift - 1;
}
