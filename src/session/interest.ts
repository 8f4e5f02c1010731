// What somebody who is behind wants of the log, asked without touching the router: a walk over the log meets topics that nobody publishes to any
// more, and must not push those in use out of the table of interned topics.
import { SubscriptionTrie } from '../router/subscription-trie.js';
import type { Session } from './session.js';
import { SharedGroup } from './shared-group.js';

/** Whoever has a cursor. */
export type Reading = Session | SharedGroup;

/** True for topics that some record may have to be read for. */
export type Interest = (topicName: string) => boolean;

/** The interest of a session or a group, kept by it until its subscriptions change. */
export function interestOf(reading: Reading): Interest {
  reading.interest ??= makeInterest(reading);
  return reading.interest;
}

function makeInterest(reading: Reading): Interest {
  const trie = new SubscriptionTrie<true | string>();
  if (reading instanceof SharedGroup) {
    trie.add(reading.filter.split('/'), true);
  } else {
    for (const { group, qos, earlier, filter, text } of reading.subscriptions.values()) {
      // What is QoS 0 was delivered as it came, or never.
      if (group === undefined && (qos > 0 || (earlier?.qos ?? 0) > 0)) trie.add(filter.split('/'), text);
    }
  }
  return (topicName) => trie.matchesAny(topicName.split('/'));
}
