// Topic filters by level, with the subscriptions of each. Matching a topic name follows at most three edges a level: the name, `+`, `#`.

class TrieNode<S> {
  children: Map<string, TrieNode<S>> | undefined = undefined;
  plus: TrieNode<S> | undefined = undefined;
  /** Subscriptions to the filter that ends here. */
  own: Set<S> | undefined = undefined;
  /** Subscriptions to the filter that ends here with `/#`. */
  hash: Set<S> | undefined = undefined;

  get isEmpty(): boolean {
    return (
      this.children === undefined &&
      this.plus === undefined &&
      this.own === undefined &&
      this.hash === undefined
    );
  }
}

export class SubscriptionTrie<S> {
  readonly #root = new TrieNode<S>();
  #size = 0;

  /** Subscriptions held. */
  get size(): number {
    return this.#size;
  }

  add(filterLevels: readonly string[], subscription: S): void {
    let node = this.#root;
    for (const level of filterLevels) {
      if (level === '#') {
        node.hash ??= new Set();
        if (!node.hash.has(subscription)) this.#size++;
        node.hash.add(subscription);
        return;
      }
      node = this.#childOrNew(node, level);
    }
    node.own ??= new Set();
    if (!node.own.has(subscription)) this.#size++;
    node.own.add(subscription);
  }

  #childOrNew(node: TrieNode<S>, level: string): TrieNode<S> {
    if (level === '+') {
      node.plus ??= new TrieNode();
      return node.plus;
    }
    node.children ??= new Map();
    let child = node.children.get(level);
    if (child === undefined) {
      child = new TrieNode();
      node.children.set(level, child);
    }
    return child;
  }

  /** True when it was there. Branches that lead nowhere afterwards are removed. */
  remove(filterLevels: readonly string[], subscription: S): boolean {
    const path: TrieNode<S>[] = [this.#root];
    let node = this.#root;
    let isHash = false;
    for (const level of filterLevels) {
      if (level === '#') {
        isHash = true;
        break;
      }
      const child = level === '+' ? node.plus : node.children?.get(level);
      if (child === undefined) return false;
      path.push(child);
      node = child;
    }
    const set = isHash ? node.hash : node.own;
    if (set === undefined || !set.delete(subscription)) return false;
    this.#size--;
    if (set.size === 0) {
      if (isHash) node.hash = undefined;
      else node.own = undefined;
    }
    for (let depth = path.length - 1; depth > 0 && path[depth]!.isEmpty; depth--) {
      const parent = path[depth - 1]!;
      const level = filterLevels[depth - 1]!;
      if (level === '+') {
        parent.plus = undefined;
      } else {
        parent.children!.delete(level);
        if (parent.children!.size === 0) parent.children = undefined;
      }
    }
    return true;
  }

  /** Every subscription whose filter matches the topic name, in no particular order. */
  match(topicLevels: readonly string[]): S[] {
    const found: S[] = [];
    this.#match(this.#root, topicLevels, 0, found);
    return found;
  }

  /** True when some filter matches the topic name. */
  matchesAny(topicLevels: readonly string[]): boolean {
    return this.#matchesAny(this.#root, topicLevels, 0);
  }

  #matchesAny(node: TrieNode<S>, levels: readonly string[], depth: number): boolean {
    const wildcards = depth > 0 || !levels[0]!.startsWith('$'); // [MQTT-4.7.2-1]
    if (wildcards && node.hash !== undefined) return true;
    if (depth === levels.length) return node.own !== undefined;
    const child = node.children?.get(levels[depth]!);
    if (child !== undefined && this.#matchesAny(child, levels, depth + 1)) return true;
    return wildcards && node.plus !== undefined && this.#matchesAny(node.plus, levels, depth + 1);
  }

  #match(node: TrieNode<S>, levels: readonly string[], depth: number, found: S[]): void {
    // [MQTT-4.7.2-1] A filter that begins with a wildcard does not match a topic name that begins with $.
    const wildcards = depth > 0 || !levels[0]!.startsWith('$');
    // `a/#` matches `a` as well, so `#` counts also where the name ends (section 4.7.1.2).
    if (wildcards && node.hash !== undefined) for (const subscription of node.hash) found.push(subscription);
    if (depth === levels.length) {
      if (node.own !== undefined) for (const subscription of node.own) found.push(subscription);
      return;
    }
    const child = node.children?.get(levels[depth]!);
    if (child !== undefined) this.#match(child, levels, depth + 1, found);
    if (wildcards && node.plus !== undefined) this.#match(node.plus, levels, depth + 1, found);
  }
}
