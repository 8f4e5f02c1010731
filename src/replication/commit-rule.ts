// The commit rule, whole (DESIGN R4, R5). A record is committed when it is on disk at every node of the maximal in-sync set, and that set, confirmed,
// has at least `minInSync` nodes.
//
// Maximal means: while a change of the set is on its way to the coordinator nobody knows which set holds, so both do. A node that is being removed
// counts until its removal is confirmed: until then it may be elected. A node that is being added counts from the moment the change is sent: from
// then on it may be elected.

/** @returns one past the last record that is committed, or 0 while there is no saying */
export function committedOffset(
  confirmed: readonly string[],
  proposed: readonly string[] | undefined,
  minInSync: number,
  keptOffset: (node: string) => number,
): number {
  const smaller = proposed === undefined ? confirmed.length : Math.min(confirmed.length, proposed.length);
  if (smaller < minInSync) return 0;
  let lowest = Number.POSITIVE_INFINITY;
  for (const node of confirmed) lowest = Math.min(lowest, keptOffset(node));
  for (const node of proposed ?? []) lowest = Math.min(lowest, keptOffset(node));
  return lowest;
}
