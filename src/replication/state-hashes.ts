// Compares what replicas make of the same log (DESIGN R12): each says what its state hashes to before an offset, whenever it has made a snapshot. Pure.

/** Offsets that are remembered, the newest: replicas make their snapshots at about the same time. */
const OFFSETS_MAX = 8;

/** Whose state is not what the others have; `undefined` where nobody's is, or too little is known. */
export type Verdict = { readonly node: string; readonly offset: number } | undefined;

export class StateHashes {
  readonly #self: string;
  /** By offset, then by node; hexadecimal. */
  readonly #hashes = new Map<number, Map<string, string>>();

  constructor(self: string) {
    this.#self = self;
  }

  /** A node has told its hash. */
  add(node: string, offset: number, hash: Buffer): Verdict {
    let told = this.#hashes.get(offset);
    if (told === undefined) {
      told = new Map();
      this.#hashes.set(offset, told);
      if (this.#hashes.size > OFFSETS_MAX) this.#hashes.delete(Math.min(...this.#hashes.keys()));
    }
    told.set(node, hash.toString('hex'));
    const own = told.get(this.#self);
    if (own === undefined) return undefined;
    const differing = [...told].filter(([, other]) => other !== own).map(([name]) => name);
    if (differing.length === 0) return undefined;
    // Two that agree with each other and not with this node are right.
    const others = new Set(differing.map((name) => told.get(name)));
    const isOdd = differing.length >= 2 && others.size === 1 && told.size === differing.length + 1;
    return { node: isOdd ? this.#self : differing.at(-1)!, offset };
  }
}
