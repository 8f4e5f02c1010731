// Subscriptions, and the route: what a publish to one topic means for everybody, worked out once and kept until a subscription changes.
import type { QoS } from '../packet/types.js';
import { NO_OFFSET } from './message.js';
import type { Session } from './session.js';
import type { SharedGroup } from './shared-group.js';

export interface SubscriptionOptions {
  qos: QoS;
  noLocal: boolean;
  retainAsPublished: boolean;
  retainHandling: 0 | 1 | 2;
}

/** One session's subscription to one topic filter. */
export interface Subscription extends SubscriptionOptions {
  readonly session: Session;
  /** As the client wrote it, `$share/...` included: the key within the session. */
  readonly text: string;
  /** What is matched. */
  readonly filter: string;
  /** Subscription Identifier, 0 for none. */
  id: number;
  /** The offset it took effect at: earlier records are not for it. Of one that replays history, where that has come to. */
  since: number;
  /**
   * Of a subscription to history that has not caught up yet: the next offset it looks at. Meanwhile it is not in the router. -1 for any
   * other.
   */
  replayCursor: number;
  /** Its client is to be told when the replay has come to this offset; -1 when not, or when it was. */
  replayNoticeAt: number;
  /** It was made to replay history: what it is sent says where in the log it stands. */
  readonly isReplay: boolean;
  /**
   * The subscription that this one replaced, as far as its QoS counts: for records before offset `before`. They are not lost because of
   * the replacement [MQTT-3.8.4-4], nor sent twice.
   */
  earlier: { readonly qos: QoS; readonly before: number } | undefined;
  /** Retained messages are still on their way to it: after a restart they are sent anew. */
  isRetainedOwed: boolean;
  /** The group of a shared subscription: then the group is in the router, not the subscription. */
  readonly group: SharedGroup | undefined;
  /** Of a member: its UNSUBSCRIBE waits for the commit. What it has of the group stays with it, and the group gives it nothing more. */
  isLeaving: boolean;
}

/** How messages of one topic reach one session, all its matching subscriptions taken together. */
export interface RouteEntry {
  readonly session: Session;
  readonly subscriptions: readonly Subscription[];
  /** The highest of the matching subscriptions [MQTT-3.3.4-2]. */
  readonly qos: QoS;
  readonly retainAsPublished: boolean;
  /** Identifiers of all matching subscriptions that have one [MQTT-3.3.4-3], [MQTT-3.3.4-4]. */
  readonly subscriptionIds: readonly number[] | undefined;
  /** At least one of them replays history: messages say where in the log they stand. */
  readonly isReplay: boolean;
  /** At least one of them has No Local. */
  readonly hasNoLocal: boolean;
  /** From this offset on all of them are in effect as they are now. */
  readonly since: number;
  /** The same without the subscriptions that have No Local; made when it is first asked for. */
  withoutOwn: RouteEntry | undefined | 'unknown';
  /** Some of its messages are QoS 1 or 2 deliveries, so its session reads the log for them. */
  readonly isReadFromLog: boolean;
}

export class Route {
  readonly entries: readonly RouteEntry[];
  readonly groups: readonly SharedGroup[];
  #bySession: Map<Session, RouteEntry> | undefined = undefined;

  constructor(entries: readonly RouteEntry[], groups: readonly SharedGroup[]) {
    this.entries = entries;
    this.groups = groups;
  }

  /** Nobody is subscribed. */
  get isEmpty(): boolean {
    return this.entries.length === 0 && this.groups.length === 0;
  }

  entryOf(session: Session): RouteEntry | undefined {
    if (this.entries.length <= 8) {
      for (const entry of this.entries) if (entry.session === session) return entry;
      return undefined;
    }
    this.#bySession ??= new Map(this.entries.map((entry) => [entry.session, entry]));
    return this.#bySession.get(session);
  }
}

/**
 * Makes the route from what the trie found.
 * @param mayRead leaves out sessions without the right to the topic
 */
export function makeRoute(
  matching: readonly (Subscription | SharedGroup)[],
  mayRead: ((session: Session) => boolean) | undefined,
): Route {
  const groups: SharedGroup[] = [];
  const bySession = new Map<Session, Subscription[]>();
  for (const match of matching) {
    if (!('session' in match)) {
      groups.push(match);
      continue;
    }
    const others = bySession.get(match.session);
    if (others !== undefined) others.push(match);
    else if (mayRead === undefined || mayRead(match.session)) bySession.set(match.session, [match]);
  }
  const entries: RouteEntry[] = [];
  for (const [session, subscriptions] of bySession)
    entries.push(makeEntry(session, subscriptions, NO_OFFSET));
  return new Route(entries, groups);
}

function qosAt(subscription: Subscription, offset: number): QoS {
  const { earlier } = subscription;
  return earlier !== undefined && offset < earlier.before ? earlier.qos : subscription.qos;
}

/** @param offset the message that it is for: NO_OFFSET stands for those to come */
function makeEntry(session: Session, subscriptions: readonly Subscription[], offset: number): RouteEntry {
  let isReadFromLog = false;
  let qos: QoS = 0;
  let retainAsPublished = false;
  let hasNoLocal = false;
  let isReplay = false;
  let since = 0;
  let subscriptionIds: Set<number> | undefined;
  for (const subscription of subscriptions) {
    const now = qosAt(subscription, offset);
    if (now > qos) qos = now;
    isReadFromLog ||= subscription.qos > 0 || (subscription.earlier?.qos ?? 0) > 0;
    retainAsPublished ||= subscription.retainAsPublished;
    hasNoLocal ||= subscription.noLocal;
    isReplay ||= subscription.isReplay;
    since = Math.max(since, subscription.since, subscription.earlier?.before ?? 0);
    if (subscription.id > 0) {
      subscriptionIds ??= new Set();
      subscriptionIds.add(subscription.id);
    }
  }
  return {
    session,
    subscriptions,
    qos,
    retainAsPublished,
    subscriptionIds: subscriptionIds === undefined ? undefined : [...subscriptionIds],
    isReplay,
    hasNoLocal,
    since,
    withoutOwn: 'unknown',
    isReadFromLog,
  };
}

/**
 * What is left of an entry for one message: without the subscriptions that were made after it, and without those that do not want what
 * their own session published [MQTT-3.8.3-3].
 */
export function narrowEntry(entry: RouteEntry, offset: number, publisher: number): RouteEntry | undefined {
  const isOwn = publisher === entry.session.number;
  if (offset >= entry.since) {
    if (!entry.hasNoLocal || !isOwn) return entry;
    if (entry.withoutOwn === 'unknown') {
      entry.withoutOwn = entryOf(
        entry.session,
        entry.subscriptions.filter(({ noLocal }) => !noLocal),
        NO_OFFSET,
      );
    }
    return entry.withoutOwn;
  }
  const remaining = entry.subscriptions.filter(
    (subscription) => offset >= subscription.since && !(isOwn && subscription.noLocal),
  );
  return entryOf(entry.session, remaining, offset);
}

function entryOf(
  session: Session,
  subscriptions: readonly Subscription[],
  offset: number,
): RouteEntry | undefined {
  return subscriptions.length === 0 ? undefined : makeEntry(session, subscriptions, offset);
}
