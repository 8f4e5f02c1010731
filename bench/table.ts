// Owns how a number, a target and a table of them are written in the report.

/** "met", or by how much it was missed. */
export function verdict(value: number, target: number, direction: 'at least' | 'at most'): string {
  const isMet = direction === 'at least' ? value >= target : value <= target;
  if (isMet) return 'met';
  return `missed by ${Math.max(1, Math.round(Math.abs(value / target - 1) * 100))} %`;
}

/** The target of a ratio, and whether it was met. */
export function targetCells(
  ratio: number | undefined,
  target: number | undefined,
  direction: 'at least' | 'at most',
): string[] {
  if (target === undefined) return ['', ''];
  return [`${direction} ${target}x`, ratio === undefined ? '' : verdict(ratio, target, direction)];
}

export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  return [
    line(head),
    `|${head.map((_, column) => (column === 0 ? '---' : '---:')).join('|')}|`,
    ...rows.map(line),
  ].join('\n');
}

export function integer(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ',');
}
