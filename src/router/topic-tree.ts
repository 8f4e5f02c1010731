// A tree of topic names, a level an edge, with a value at each name. The interned topics live in one (to find those a new wildcard
// subscription changes) and the retained messages in another. Wildcard look-ups visit what matches and the branches on the way to it.

class TreeNode<T> {
  children: Map<string, TreeNode<T>> | undefined = undefined;
  value: T | undefined = undefined;
}

/** Names by level. Not iterable as a whole: use a scan with `#`. */
export class TopicTree<T extends object> {
  #root = new TreeNode<T>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(levels: readonly string[]): T | undefined {
    let node: TreeNode<T> | undefined = this.#root;
    for (const level of levels) {
      node = node.children?.get(level);
      if (node === undefined) return undefined;
    }
    return node.value;
  }

  /** Puts `value` at the name and answers what was there before. */
  set(levels: readonly string[], value: T): T | undefined {
    let node = this.#root;
    for (const level of levels) {
      node.children ??= new Map();
      let child = node.children.get(level);
      if (child === undefined) {
        child = new TreeNode();
        node.children.set(level, child);
      }
      node = child;
    }
    const before = node.value;
    if (before === undefined) this.#size++;
    node.value = value;
    return before;
  }

  /** Removes the name, with every branch that leads nowhere then, and answers what was there. */
  delete(levels: readonly string[]): T | undefined {
    const path: TreeNode<T>[] = [this.#root];
    let node = this.#root;
    for (const level of levels) {
      const child = node.children?.get(level);
      if (child === undefined) return undefined;
      path.push(child);
      node = child;
    }
    const before = node.value;
    if (before === undefined) return undefined;
    this.#size--;
    node.value = undefined;
    for (let depth = levels.length; depth > 0; depth--) {
      const child = path[depth]!;
      if (child.value !== undefined || child.children !== undefined) break;
      const parent = path[depth - 1]!;
      parent.children!.delete(levels[depth - 1]!);
      if (parent.children!.size === 0) parent.children = undefined;
    }
    return before;
  }

  /** Every value, in the order in which the names came, level by level. The tree must not change meanwhile. */
  *values(): Generator<T> {
    const stack = [this.#root];
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      if (node.value !== undefined) yield node.value;
      if (node.children !== undefined) stack.push(...[...node.children.values()].reverse());
    }
  }

  clear(): void {
    this.#root = new TreeNode();
    this.#size = 0;
  }

  /** A scan over the names that match `filterLevels`. */
  scan(filterLevels: readonly string[]): TopicTreeScan<T> {
    return new TopicTreeScan(this.#root, filterLevels);
  }
}

interface Frame<T> {
  /** Where the next candidates come from. */
  readonly iterator: Iterator<[string, TreeNode<T>]>;
  /** The filter level that the candidates' names answer: always a wildcard. */
  readonly depth: number;
  /** The candidates are first levels, where names that begin with $ hide from wildcards. */
  readonly first: boolean;
}

/** What one step of a scan came to, where it was not a value. */
export const SCAN_DONE = Symbol('scan done');
export const SCAN_BUDGET_SPENT = Symbol('scan budget spent');

/**
 * A resumable walk. The tree may change between two steps: a name that stays is visited once, one that comes or goes meanwhile is
 * visited or not (JavaScript's Map iterators promise just that).
 */
export class TopicTreeScan<T extends object> {
  readonly #filter: readonly string[];
  readonly #stack: Frame<T>[] = [];
  /** Values found on the way down that are still to be given out. */
  readonly #found: T[] = [];
  /** Nodes looked at so far. */
  visited = 0;

  constructor(root: TreeNode<T>, filterLevels: readonly string[]) {
    this.#filter = filterLevels;
    this.#descend(root, 0);
  }

  /** The next value, SCAN_DONE, or SCAN_BUDGET_SPENT once `budget` nodes were visited without finding one. */
  next(budget: number): T | typeof SCAN_DONE | typeof SCAN_BUDGET_SPENT {
    for (;;) {
      const found = this.#found.pop();
      if (found !== undefined) return found;
      const frame = this.#stack.at(-1);
      if (frame === undefined) return SCAN_DONE;
      if (budget-- <= 0) return SCAN_BUDGET_SPENT;
      this.visited++;
      const step = frame.iterator.next();
      if (step.done === true) {
        this.#stack.pop();
        continue;
      }
      const [name, node] = step.value;
      if (frame.first && name.startsWith('$')) continue; // [MQTT-4.7.2-1]
      if (this.#filter[frame.depth] === '#') {
        if (node.value !== undefined) this.#found.push(node.value);
        this.#candidates(node, frame.depth, false);
      } else {
        this.#descend(node, frame.depth + 1);
      }
    }
  }

  /** Follows literal levels from `node` as far as they go, and stops at a wildcard (a frame) or at the end (a value). */
  #descend(from: TreeNode<T>, fromDepth: number): void {
    let node = from;
    for (let depth = fromDepth; depth < this.#filter.length; depth++) {
      const level = this.#filter[depth]!;
      if (level === '+' || level === '#') {
        // `a/#` matches `a` as well (section 4.7.1.2).
        if (level === '#' && depth > 0 && node.value !== undefined) this.#found.push(node.value);
        this.#candidates(node, depth, depth === 0);
        return;
      }
      const child = node.children?.get(level);
      if (child === undefined) return;
      node = child;
    }
    if (node.value !== undefined) this.#found.push(node.value);
  }

  #candidates(node: TreeNode<T>, depth: number, first: boolean): void {
    if (node.children === undefined) return;
    this.#stack.push({ iterator: node.children.entries(), depth, first });
  }
}
