// Who gets what is published: the trie of subscriptions behind a cache of routes, one per interned topic. A subscription change drops only
// the routes it changes, so that clients that come and go do not make every publisher match anew.
import { SubscriptionTrie } from './subscription-trie.js';
import { hasWildcard } from './topic-name.js';
import { type Topic, TopicTable } from './topic-table.js';
import { SCAN_BUDGET_SPENT, SCAN_DONE } from './topic-tree.js';

/** A change of more filters than this drops all routes: naming the topics costs more than it saves. */
const FILTERS_MAX = 64;
/** The same for a change that touches more interned topics. */
const PRECISE_INVALIDATIONS_MAX = 256;

/**
 * @template S a subscription
 * @template R a route: what the owner of the router makes of the subscriptions that match a topic
 */
export class Router<S, R> {
  readonly #trie = new SubscriptionTrie<S>();
  readonly #topics: TopicTable<R>;
  readonly #makeRoute: (topic: Topic<R>, matching: S[]) => R;
  /** A cached route counts only while it carries this number. */
  #version = 0;

  constructor(topicsMax: number, makeRoute: (topic: Topic<R>, matching: S[]) => R) {
    this.#topics = new TopicTable(topicsMax);
    this.#makeRoute = makeRoute;
  }

  get subscriptionCount(): number {
    return this.#trie.size;
  }

  get topicCount(): number {
    return this.#topics.size;
  }

  /** The interned topic spelled by the bytes, or undefined: then the name has to be validated and interned. */
  findTopic(buffer: Buffer, start: number, end: number): Topic<R> | undefined {
    return this.#topics.find(buffer, start, end);
  }

  /** The interned topic of a name that is known to be valid. */
  internTopic(name: string): Topic<R> {
    return this.#topics.intern(name);
  }

  /** Adds a subscription. Cached routes do not know of it until `invalidate`. */
  subscribe(filter: string, subscription: S): void {
    this.#trie.add(filter.split('/'), subscription);
  }

  /** True when the subscription was there. Cached routes still know of it until `invalidate`. */
  unsubscribe(filter: string, subscription: S): boolean {
    return this.#trie.remove(filter.split('/'), subscription);
  }

  /** The route of a topic, from the cache where it is still true. */
  route(topic: Topic<R>): R {
    if (topic.route !== undefined && topic.routeVersion === this.#version) return topic.route;
    const route = this.#makeRoute(topic, this.#trie.match(topic.levels));
    if (topic.isInterned) {
      topic.route = route;
      topic.routeVersion = this.#version;
    }
    return route;
  }

  /** Drops the cached routes of every topic that one of the filters matches. */
  invalidate(filters: ReadonlySet<string>): void {
    if (filters.size > FILTERS_MAX) {
      this.invalidateAll();
      return;
    }
    let budget = PRECISE_INVALIDATIONS_MAX;
    for (const filter of filters) {
      budget = this.#invalidateOne(filter, budget);
      if (budget > 0) continue;
      this.invalidateAll();
      return;
    }
  }

  /** Answers what is left of the budget; 0 when there was not enough of it. */
  #invalidateOne(filter: string, budget: number): number {
    const levels = filter.split('/');
    if (!hasWildcard(filter)) {
      const topic = this.#topics.tree.get(levels);
      if (topic !== undefined) topic.route = undefined;
      return budget;
    }
    const scan = this.#topics.tree.scan(levels);
    for (let left = budget; left > 0; left--) {
      const topic = scan.next(left);
      if (topic === SCAN_DONE) return left;
      if (topic === SCAN_BUDGET_SPENT) return 0;
      topic.route = undefined;
    }
    return 0;
  }

  /** Drops every cached route: rights changed, or too many topics to name. */
  invalidateAll(): void {
    this.#version++;
  }
}
