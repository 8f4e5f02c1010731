// A process that holds a million subscriptions in the router and times a publish to a new topic and to a known one. Prints one JSON object.
//
// The tree is `plant/P/line/L/sensor/N`, with 1,000 plants of 10 lines of 100 sensors. Of the 100,000 filters 60 % name one sensor, 30 %
// have `+` in one or two levels and 10 % end with `#`; each has ten subscriptions.
import { performance } from 'node:perf_hooks';
import { Router } from '../src/router/router.js';
import { validateTopicName } from '../src/router/topic-name.js';
import { median, sum } from './statistics.js';

export interface SubscriptionsResult {
  subscriptions: number;
  filters: number;
  newTopicMicrosMedian: number;
  newTopicMicrosMean: number;
  knownTopicMicrosMean: number;
  matchesMean: number;
  subscribeMicrosMean: number;
  heapBytesPerSubscription: number;
}

const FILTERS = 100_000;
const PER_FILTER = 10;
const TOPICS = 50_000;
const KNOWN_ROUNDS = 40;

let random = 0x2545f491;
function below(bound: number): number {
  random ^= random << 13;
  random ^= random >>> 17;
  random ^= random << 5;
  return (random >>> 0) % bound;
}

function topicName(): string {
  return `plant/${below(1000)}/line/${below(10)}/sensor/${below(100)}`;
}

function topicFilter(): string {
  const levels = topicName().split('/');
  const kind = below(10);
  if (kind < 6) return levels.join('/');
  if (kind < 9) {
    levels[1 + 2 * below(3)] = '+';
    if (below(2) === 0) levels[1 + 2 * below(3)] = '+';
    return levels.join('/');
  }
  return [...levels.slice(0, 2 + below(4)), '#'].join('/');
}

function main(): SubscriptionsResult {
  const filters = new Set<string>();
  while (filters.size < FILTERS) filters.add(topicFilter());
  const names = new Set<string>();
  while (names.size < 2 * TOPICS) names.add(topicName());
  const spelled = [...names].map((name) => Buffer.from(name));

  globalThis.gc?.();
  const heapBefore = process.memoryUsage().heapUsed;
  const router = new Router<{ id: number }, { id: number }[]>(4 * TOPICS, (_topic, matching) => matching);
  let id = 0;
  const subscribedAt = performance.now();
  for (const filter of filters) {
    for (let copy = 0; copy < PER_FILTER; copy++) router.subscribe(filter, { id: id++ });
  }
  const subscribeMs = performance.now() - subscribedAt;
  globalThis.gc?.();
  const heapBytes = process.memoryUsage().heapUsed - heapBefore;

  // What a PUBLISH does with its topic: look the bytes up, and where they are new read, check and intern the name.
  const publish = (bytes: Buffer): { id: number }[] => {
    let topic = router.findTopic(bytes, 0, bytes.length);
    if (topic === undefined) {
      const name = bytes.toString();
      const problem = validateTopicName(name);
      if (problem !== undefined) throw new Error(problem);
      topic = router.internTopic(name);
    }
    return router.route(topic);
  };

  // The first half lets the compiler settle; the second is measured.
  for (const bytes of spelled.slice(0, TOPICS)) publish(bytes);
  const micros: number[] = [];
  const matches: number[] = [];
  const fresh = spelled.slice(TOPICS);
  for (const bytes of fresh) {
    const from = performance.now();
    const route = publish(bytes);
    micros.push((performance.now() - from) * 1000);
    matches.push(route.length);
  }

  for (let at = fresh.length - 1; at > 0; at--) {
    const other = below(at + 1);
    [fresh[at], fresh[other]] = [fresh[other]!, fresh[at]!];
  }
  let found = 0;
  const knownFrom = performance.now();
  for (let round = 0; round < KNOWN_ROUNDS; round++) {
    for (const bytes of fresh) found += publish(bytes).length;
  }
  const knownMs = performance.now() - knownFrom;
  if (found !== KNOWN_ROUNDS * sum(matches))
    throw new Error('a known topic matched otherwise than when it was new');

  return {
    subscriptions: router.subscriptionCount,
    filters: FILTERS,
    newTopicMicrosMedian: median(micros),
    newTopicMicrosMean: sum(micros) / TOPICS,
    knownTopicMicrosMean: (knownMs * 1000) / (KNOWN_ROUNDS * TOPICS),
    matchesMean: sum(matches) / TOPICS,
    subscribeMicrosMean: (subscribeMs * 1000) / (FILTERS * PER_FILTER),
    heapBytesPerSubscription: heapBytes / (FILTERS * PER_FILTER),
  };
}

console.log(JSON.stringify(main()));
