// Owns the compiled rules of an ACL file: a tree over topic levels, so that a check costs the depth of the topic and not the number of rules.
// It matches like MQTT does (section 4.7): `+` is one level, `#` any number and the parent, and neither begins to match a `$` topic.
// The router has a tree too, but it is above this room and answers another question: who, not whether.

/** What a rule gives; several may hold for one topic. */
export const READ = 1;
export const WRITE = 2;
/** Outweighs every right. */
export const DENY = 4;

/** Whom a pattern is filled in for. */
export interface Who {
  readonly clientId: string;
  readonly userName: string | undefined;
}

/** A level of a pattern that holds %c or %u. */
interface Blank {
  /** The level as written, which is its identity. */
  text: string;
  usesClientId: boolean;
  usesUserName: boolean;
  node: Node;
}

class Node {
  /** What rules that end here give. */
  rights = 0;
  /** What rules that end in `#` at this level give, to everything below and to the parent. */
  restRights = 0;
  literals: Map<string, Node> | undefined = undefined;
  plus: Node | undefined = undefined;
  blanks: Blank[] | undefined = undefined;
}

export class RuleTree {
  readonly #root = new Node();
  #isEmpty = true;

  get isEmpty(): boolean {
    return this.#isEmpty;
  }

  /** @param isPattern whether %c and %u are filled in */
  add(filter: string, rights: number, isPattern: boolean): void {
    this.#isEmpty = false;
    let node = this.#root;
    for (const level of filter.split('/')) {
      if (level === '#') {
        node.restRights |= rights;
        return;
      }
      node = child(node, level, isPattern);
    }
    node.rights |= rights;
  }

  /** All that the rules give on a topic name, given as its levels. */
  rightsOn(levels: readonly string[], who: Who): number {
    if (this.#isEmpty) return 0;
    return collect(this.#root, levels, 0, who);
  }

  /** Whether a rule with one of `rights` matches a topic that the filter matches too. */
  overlaps(levels: readonly string[], rights: number, who: Who): boolean {
    return overlaps(this.#root, levels, 0, rights, who);
  }

  /** Whether one rule with one of `rights` matches every topic that the filter matches. */
  covers(levels: readonly string[], rights: number, who: Who): boolean {
    return covers(this.#root, levels, 0, rights, who);
  }
}

function child(node: Node, level: string, isPattern: boolean): Node {
  if (level === '+') {
    node.plus ??= new Node();
    return node.plus;
  }
  const usesClientId = isPattern && level.includes('%c');
  const usesUserName = isPattern && level.includes('%u');
  if (usesClientId || usesUserName) {
    node.blanks ??= [];
    let blank = node.blanks.find((one) => one.text === level);
    if (blank === undefined) {
      blank = { text: level, usesClientId, usesUserName, node: new Node() };
      node.blanks.push(blank);
    }
    return blank.node;
  }
  node.literals ??= new Map();
  let next = node.literals.get(level);
  if (next === undefined) {
    next = new Node();
    node.literals.set(level, next);
  }
  return next;
}

function collect(node: Node, levels: readonly string[], at: number, who: Who): number {
  // Wildcards at the first level do not match topics that begin with $ [MQTT-4.7.2-1].
  const isHidden = at === 0 && levels[0]!.startsWith('$');
  let rights = isHidden ? 0 : node.restRights;
  if (at === levels.length) return rights | node.rights;
  const level = levels[at]!;
  const literal = node.literals?.get(level);
  if (literal !== undefined) rights |= collect(literal, levels, at + 1, who);
  if (node.plus !== undefined && !isHidden) rights |= collect(node.plus, levels, at + 1, who);
  if (node.blanks !== undefined) {
    for (const blank of node.blanks) {
      // Nor does a blank, whatever the client calls itself.
      if (isHidden && !blank.text.startsWith('$')) continue;
      if (fits(blank, level, who)) rights |= collect(blank.node, levels, at + 1, who);
      else if (!canFill(blank, who)) rights |= collect(blank.node, levels, at + 1, who) & DENY;
    }
  }
  return rights;
}

function overlaps(node: Node, levels: readonly string[], at: number, rights: number, who: Who): boolean {
  const level = levels[at];
  const isHidden = at === 0 && level!.startsWith('$');
  if ((node.restRights & rights) !== 0 && !isHidden) return true;
  if (level === undefined) return (node.rights & rights) !== 0;
  if (level === '#') return gives(node, rights, who, at === 0);
  const next = (one: Node) => overlaps(one, levels, at + 1, rights, who);
  if (level === '+') {
    for (const [name, one] of node.literals ?? []) {
      if (!(at === 0 && name.startsWith('$')) && next(one)) return true;
    }
    if (node.plus !== undefined && next(node.plus)) return true;
    return (node.blanks ?? []).some((blank) => canFill(blank, who) && next(blank.node));
  }
  const literal = node.literals?.get(level);
  if (literal !== undefined && next(literal)) return true;
  if (node.plus !== undefined && !isHidden && next(node.plus)) return true;
  return (node.blanks ?? []).some(
    (blank) => (!isHidden || blank.text.startsWith('$')) && fits(blank, level, who) && next(blank.node),
  );
}

/** Whether a rule at or below `node` has one of `rights`: what a filter that ends in `#` here overlaps with. */
function gives(node: Node, rights: number, who: Who, isRoot: boolean): boolean {
  if (((node.rights | node.restRights) & rights) !== 0) return true;
  for (const [name, one] of node.literals ?? []) {
    if (!(isRoot && name.startsWith('$')) && gives(one, rights, who, false)) return true;
  }
  if (node.plus !== undefined && gives(node.plus, rights, who, false)) return true;
  return (node.blanks ?? []).some((blank) => canFill(blank, who) && gives(blank.node, rights, who, false));
}

function covers(node: Node, levels: readonly string[], at: number, rights: number, who: Who): boolean {
  const level = levels[at];
  const isHidden = at === 0 && level!.startsWith('$');
  if ((node.restRights & rights) !== 0 && !isHidden) return true;
  if (level === undefined) return (node.rights & rights) !== 0;
  // `#` and `+/#` are the same at the beginning, where every topic has a level; elsewhere `#` matches the parent too.
  if (level === '#') return at === 0 && node.plus !== undefined && (node.plus.restRights & rights) !== 0;
  const next = (one: Node) => covers(one, levels, at + 1, rights, who);
  if (node.plus !== undefined && !isHidden && next(node.plus)) return true;
  if (level === '+') return false;
  const literal = node.literals?.get(level);
  if (literal !== undefined && next(literal)) return true;
  return (node.blanks ?? []).some(
    (blank) => (!isHidden || blank.text.startsWith('$')) && fits(blank, level, who) && next(blank.node),
  );
}

/**
 * Whether the client can stand in the blank at all. A name with `#`, `+` or `/` would become a wildcard or another level (CVE-2017-7650), so it
 * fits no blank: it gets nothing from a rule that allows, and what such a rule denies, it is denied for every name.
 */
function canFill(blank: Blank, who: Who): boolean {
  return (
    (!blank.usesClientId || isPlain(who.clientId)) &&
    (!blank.usesUserName || (who.userName !== undefined && isPlain(who.userName)))
  );
}

function fits(blank: Blank, level: string, who: Who): boolean {
  if (!canFill(blank, who)) return false;
  if (blank.text === '%c') return level === who.clientId;
  if (blank.text === '%u') return level === who.userName;
  // One pass, so that a client whose id is `%u` does not become its own user name.
  return (
    level === blank.text.replace(/%[cu]/g, (mark) => (mark === '%c' ? who.clientId : (who.userName ?? '')))
  );
}

function isPlain(name: string): boolean {
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code === 0x23 || code === 0x2b || code === 0x2f) return false;
  }
  return name !== '';
}
