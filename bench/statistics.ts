// Owns the arithmetic of the report.

export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The smallest value that so large a share (0 to 1) of all is not above. */
export function percentile(values: readonly number[], share: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
}

/** The median over the rounds of one to another in the same round; undefined where no round has both. */
export function medianRatio(
  ours: readonly (number | undefined)[],
  theirs: readonly (number | undefined)[],
): number | undefined {
  const ratios = ours.flatMap((one, round) => {
    const other = theirs[round];
    return one === undefined || other === undefined ? [] : [one / other];
  });
  return ratios.length === 0 ? undefined : median(ratios);
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
