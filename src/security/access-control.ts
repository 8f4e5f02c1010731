// Owns what a client may do, by the rules of an ACL file in the syntax of mosquitto. What no rule allows is denied, so a file without a rule
// denies everything (CVE-2018-12550); `deny` outweighs every rule that allows. Rules are replaced as a whole or not at all.
import type { Logger } from '../core/logger.js';
import { type Line, lineError, readLines, warnOfOpenFile } from './private-file.js';
import { DENY, READ, RuleTree, type Who, WRITE } from './rule-tree.js';

const RIGHTS: Readonly<Record<string, number>> = {
  read: READ,
  write: WRITE,
  readwrite: READ | WRITE,
  deny: DENY,
};
const KEYWORD = /^\s*(\S+)\s*(.*?)\s*$/;

interface Rules {
  /** Of clients without a user name: the lines before the first `user`. */
  anonymous: RuleTree;
  users: ReadonlyMap<string, RuleTree>;
  /** Of everyone. */
  patterns: RuleTree;
}

export class AccessControl {
  readonly #path: string;
  readonly #logger: Logger;
  readonly #listeners = new Set<() => void>();
  #rules: Rules;
  #version = 1;

  /** @throws {GomqError} CONFIG_UNREADABLE, CONFIG_INVALID with file and line */
  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
    warnOfOpenFile(path, logger);
    this.#rules = readRules(path);
  }

  /** Grows when the rules change: an answer that was given under another version must be asked for again (CVE-2021-34434). */
  get version(): number {
    return this.#version;
  }

  mayPublish(who: Who, topicName: string): boolean {
    // What the broker says about itself nobody else says, whatever the file allows (CVE-2018-12543).
    if (topicName === '$SYS' || topicName.startsWith('$SYS/')) return false;
    return this.#allows(who, topicName, WRITE);
  }

  /** Whether a message on this topic may be delivered; asked for each topic, because a subscription may reach further than the rights. */
  mayRead(who: Who, topicName: string): boolean {
    return this.#allows(who, topicName, READ);
  }

  /**
   * Whether a subscription can deliver anything: a rule that allows reading overlaps with the filter, and none denies all of it.
   * @param filter without the `$share/<group>/` or `$replay/<from>/` before it
   */
  maySubscribe(who: Who, filter: string): boolean {
    const levels = filter.split('/');
    const own = this.#treeOf(who);
    const { patterns } = this.#rules;
    if (own?.covers(levels, DENY, who) === true || patterns.covers(levels, DENY, who)) return false;
    return own?.overlaps(levels, READ, who) === true || patterns.overlaps(levels, READ, who);
  }

  /**
   * Reads the file again. Where that fails, for want of a file descriptor too (CVE-2017-7652), the old rules stay and the error says why.
   * @throws {GomqError} CONFIG_UNREADABLE, CONFIG_INVALID
   */
  reload(): void {
    this.#rules = readRules(this.#path);
    warnOfOpenFile(this.#path, this.#logger);
    this.#version += 1;
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` after the rules have changed; answers a function that ends it. */
  onReload(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #treeOf(who: Who): RuleTree | undefined {
    return who.userName === undefined ? this.#rules.anonymous : this.#rules.users.get(who.userName);
  }

  #allows(who: Who, topicName: string, right: number): boolean {
    const levels = topicName.split('/');
    const own = this.#treeOf(who)?.rightsOn(levels, who) ?? 0;
    const rights = own | this.#rules.patterns.rightsOn(levels, who);
    return (rights & DENY) === 0 && (rights & right) !== 0;
  }
}

/**
 * Undefined where there is no ACL file, which allows everything and costs nothing.
 * @throws {GomqError} CONFIG_UNREADABLE, CONFIG_INVALID with file and line
 */
export function createAccessControl(aclFile: string, logger: Logger): AccessControl | undefined {
  return aclFile === '' ? undefined : new AccessControl(aclFile, logger);
}

function readRules(path: string): Rules {
  const anonymous = new RuleTree();
  const users = new Map<string, RuleTree>();
  const patterns = new RuleTree();
  let current = anonymous;
  for (const line of readLines(path)) {
    const [, keyword, rest] = KEYWORD.exec(line.text)!;
    if (rest === '') throw lineError(path, line, `nothing follows '${keyword}'`);
    switch (keyword) {
      case 'user':
        current = users.get(rest!) ?? new RuleTree();
        users.set(rest!, current);
        break;
      case 'topic':
        addRule(current, path, line, rest!, false);
        break;
      case 'pattern':
        addRule(patterns, path, line, rest!, true);
        break;
      default:
        throw lineError(path, line, `'${keyword}' is not user, topic or pattern`);
    }
  }
  return { anonymous, users, patterns };
}

/** `[read|write|readwrite|deny] FILTER`; a filter may hold spaces, and without a word before it means both. */
function addRule(tree: RuleTree, path: string, line: Line, text: string, isPattern: boolean): void {
  const [, word, after] = /^(\S+)\s+(.*)$/.exec(text) ?? [];
  const named = word === undefined || !Object.hasOwn(RIGHTS, word) ? undefined : RIGHTS[word];
  const filter = named === undefined ? text : after!;
  const levels = filter.split('/');
  const isValid = levels.every(
    (level, index) =>
      level === '+' || (level === '#' && index === levels.length - 1) || !/[+#\0]/.test(level),
  );
  if (!isValid) throw lineError(path, line, `'${filter}' is not a valid topic filter`);
  tree.add(filter, named ?? READ | WRITE, isPattern);
}
