// Interned topics: one object per topic name in use, found from the bytes of a PUBLISH without making a string, and carrying the cached
// route. The table is a cache with a bound: when it is full it starts over, which costs each topic still in use one look-up by name.
import { TopicTree } from './topic-tree.js';

/** A topic name with everything that is worth computing once. `R` is what the broker routes to. */
export class Topic<R> {
  readonly name: string;
  /** The name in UTF-8. */
  readonly bytes: Buffer;
  readonly levels: readonly string[];
  readonly hash: number;
  /** False once the table has dropped it: it still names its topic, but its route is no longer kept up to date. */
  isInterned = true;
  /** The cached route, valid while `routeVersion` is the router's version. */
  route: R | undefined = undefined;
  routeVersion = -1;

  constructor(name: string, bytes: Buffer, hash: number) {
    this.name = name;
    this.bytes = bytes;
    this.levels = name.split('/');
    this.hash = hash;
  }

  /** True when `buffer` from `start` to `end` spells this name. */
  equals(buffer: Buffer, start: number, end: number): boolean {
    const bytes = this.bytes;
    const length = bytes.length;
    if (end - start !== length) return false;
    for (let i = 0; i < length; i++) {
      if (buffer[start + i] !== bytes[i]) return false;
    }
    return true;
  }
}

/** FNV-1a, 32 bits: short, and good enough on text. Never 0, which stands for nothing. */
function hashBytes(buffer: Buffer, start: number, end: number): number {
  let hash = 0x811c9dc5;
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ buffer[i]!, 0x01000193);
  return hash === 0 ? 1 : hash | 0;
}

const INITIAL_SLOTS = 1024;

export class TopicTable<R> {
  readonly #topicsMax: number;
  /** Open addressing with linear probing; a power of two, at most half full. */
  #slots: (Topic<R> | undefined)[] = new Array(INITIAL_SLOTS).fill(undefined);
  /** The hash of the topic in each slot, 0 where there is none: a look-up touches no topic but the one it finds. */
  #hashes = new Int32Array(INITIAL_SLOTS);
  #size = 0;
  /** The same topics by level. */
  readonly tree = new TopicTree<Topic<R>>();

  /** @param topicsMax interned at most, before the table starts over */
  constructor(topicsMax: number) {
    this.#topicsMax = topicsMax;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * The topic spelled by the bytes, or undefined when it is not interned. Only names that passed validation are interned, so a hit
   * needs no further check.
   */
  find(buffer: Buffer, start: number, end: number): Topic<R> | undefined {
    const hashes = this.#hashes;
    const mask = hashes.length - 1;
    const hash = hashBytes(buffer, start, end);
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const candidate = hashes[at];
      if (candidate === 0) return undefined;
      if (candidate !== hash) continue;
      const topic = this.#slots[at]!;
      if (topic.equals(buffer, start, end)) return topic;
    }
  }

  /** The interned topic of a valid name. */
  intern(name: string): Topic<R> {
    const bytes = Buffer.from(name);
    const known = this.find(bytes, 0, bytes.length);
    if (known !== undefined) return known;
    if (this.#size >= this.#topicsMax) this.#startOver();
    const topic = new Topic<R>(name, bytes, hashBytes(bytes, 0, bytes.length));
    if ((this.#size + 1) * 2 > this.#slots.length) this.#grow();
    this.#insert(topic);
    this.tree.set(topic.levels, topic);
    this.#size++;
    return topic;
  }

  #insert(topic: Topic<R>): void {
    const mask = this.#slots.length - 1;
    let at = topic.hash & mask;
    while (this.#hashes[at] !== 0) at = (at + 1) & mask;
    this.#slots[at] = topic;
    this.#hashes[at] = topic.hash;
  }

  #grow(): void {
    const before = this.#slots;
    this.#slots = new Array(before.length * 2).fill(undefined);
    this.#hashes = new Int32Array(before.length * 2);
    for (const topic of before) if (topic !== undefined) this.#insert(topic);
  }

  #startOver(): void {
    for (const topic of this.#slots) {
      if (topic === undefined) continue;
      topic.isInterned = false;
      topic.route = undefined;
    }
    this.#slots = new Array(INITIAL_SLOTS).fill(undefined);
    this.#hashes = new Int32Array(INITIAL_SLOTS);
    this.#size = 0;
    this.tree.clear();
  }
}
