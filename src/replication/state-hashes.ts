// Compares what replicas make of the same log (DESIGN R12): each says what its state hashes to before an offset, whenever it has made a snapshot. Pure.

/** Offsets that are remembered, the newest: replicas make their snapshots at about the same time. */
const OFFSETS_MAX = 8;

/**
 * `odd`: the state of `node` is not what most have. `split`: all have told, they do not agree, and there are no two to believe against the others.
 * Undefined where all agree, or too few have told to say.
 */
export type Verdict =
  | { readonly kind: 'odd'; readonly node: string; readonly offset: number }
  | { readonly kind: 'split'; readonly offset: number }
  | undefined;

export class StateHashes {
  /** By offset, then by node; hexadecimal. */
  readonly #hashes = new Map<number, Map<string, string>>();

  /**
   * A node has told its hash.
   * @param count of the nodes that can tell
   */
  add(node: string, offset: number, hash: Buffer, count: number): Verdict {
    let told = this.#hashes.get(offset);
    if (told === undefined) {
      told = new Map();
      this.#hashes.set(offset, told);
      if (this.#hashes.size > OFFSETS_MAX) this.#hashes.delete(Math.min(...this.#hashes.keys()));
    }
    told.set(node, hash.toString('hex'));
    const nodesOf = new Map<string, string[]>();
    for (const [name, one] of told) nodesOf.set(one, [...(nodesOf.get(one) ?? []), name]);
    if (nodesOf.size < 2) return undefined;
    const [most, next] = [...nodesOf.values()].sort((a, b) => b.length - a.length);
    // One against one proves nothing, whoever of them leads.
    if (most!.length === next!.length) return told.size < count ? undefined : { kind: 'split', offset };
    const odd = [...told.keys()].find((name) => !most!.includes(name))!;
    return { kind: 'odd', node: odd, offset };
  }

  /** The state of a node is made anew: what it has told before says nothing about it. */
  forget(node: string): void {
    for (const told of this.#hashes.values()) told.delete(node);
  }
}
