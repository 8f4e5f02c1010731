// What somebody who is behind wants of the log, asked without touching the router: a walk over the log meets topics that nobody publishes to any
// more, and must not push those in use out of the table of interned topics.
import { SubscriptionTrie } from '../router/subscription-trie.js';
import type { Reading } from './reading.js';
import { SharedGroup } from './shared-group.js';

/** True for topics that some record may have to be read for. */
export type Interest = (topicName: string) => boolean;

/** The interest of a session or a group, kept by it until its subscriptions change. */
export function interestOf(reading: Reading): Interest {
  reading.interest ??= makeInterest(reading);
  return reading.interest;
}

/** The interest in one filter. */
export function interestInFilter(filter: string): Interest {
  const trie = new SubscriptionTrie<true>();
  trie.add(filter.split('/'), true);
  return (topicName) => trie.matchesAny(topicName.split('/'));
}

function makeInterest(reading: Reading): Interest {
  if (reading instanceof SharedGroup) return interestInFilter(reading.filter);
  const trie = new SubscriptionTrie<string>();
  for (const { group, qos, earlier, filter, text, replayCursor } of reading.subscriptions.values()) {
    // A replay reads by itself until it has caught up.
    if (group !== undefined || replayCursor >= 0) continue;
    // What is QoS 0 was delivered as it came, or never.
    if (qos > 0 || (earlier?.qos ?? 0) > 0) trie.add(filter.split('/'), text);
  }
  return (topicName) => trie.matchesAny(topicName.split('/'));
}
