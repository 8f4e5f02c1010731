// Who gets what is published: the trie of subscriptions behind a cache of routes, one per interned topic. A subscription change drops only
// the routes it changes, so that clients that come and go do not make every publisher match anew.
import { SubscriptionTrie } from './subscription-trie.js';
import { hasWildcard } from './topic-name.js';
import { type Topic, TopicTable } from './topic-table.js';
import { SCAN_BUDGET_SPENT, SCAN_DONE } from './topic-tree.js';

/** A wildcard change that touches more interned topics than this drops all routes at once instead: it is cheaper. */
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

  subscribe(filter: string, subscription: S): void {
    this.#trie.add(filter.split('/'), subscription);
    this.invalidate(filter);
  }

  /** True when the subscription was there. */
  unsubscribe(filter: string, subscription: S): boolean {
    const removed = this.#trie.remove(filter.split('/'), subscription);
    if (removed) this.invalidate(filter);
    return removed;
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

  /** Drops the cached routes of every topic that `filter` matches. */
  invalidate(filter: string): void {
    const levels = filter.split('/');
    if (!hasWildcard(filter)) {
      const topic = this.#topics.tree.get(levels);
      if (topic !== undefined) topic.route = undefined;
      return;
    }
    const scan = this.#topics.tree.scan(levels);
    for (let count = 0; count < PRECISE_INVALIDATIONS_MAX; count++) {
      const topic = scan.next(PRECISE_INVALIDATIONS_MAX);
      if (topic === SCAN_DONE) return;
      if (topic === SCAN_BUDGET_SPENT) break;
      topic.route = undefined;
    }
    this.invalidateAll();
  }

  /** Drops every cached route: rights changed, or too many topics to name. */
  invalidateAll(): void {
    this.#version++;
  }
}
