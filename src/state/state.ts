// Everything the broker knows that outlives a connection: sessions, subscriptions, shared groups, retained messages. It changes only through the
// methods here, none of which asks a clock or draws a number, so that replaying what led to them rebuilds it.

import type { QoS } from '../packet/types.js';
import { Router } from '../router/router.js';
import type { ParsedFilter } from '../router/topic-name.js';
import { TopicTree } from '../router/topic-tree.js';
import { interestInFilter } from '../session/interest.js';
import type { Message } from '../session/message.js';
import { RetainedMessage } from '../session/message.js';
import { Session } from '../session/session.js';
import { SharedGroup } from '../session/shared-group.js';
import {
  makeRoute,
  type Route,
  type Subscription,
  type SubscriptionOptions,
} from '../session/subscription.js';

/** Session numbers from here on are of sessions that are not in the log. */
export const VOLATILE_NUMBERS = 0x8000_0000;
const UINT32_MAX = 0xffff_ffff;

export interface StateOptions {
  internedTopics: number;
  /** Whether a session may be sent messages of a topic; undefined where there are no rules. */
  mayRead: ((session: Session, topicName: string) => boolean) | undefined;
}

export class State {
  readonly router: Router<Subscription | SharedGroup, Route>;
  readonly retained = new TopicTree<RetainedMessage>();
  retainedBytes = 0;
  /** Those of them that expire, and how far the look at them has come. */
  readonly #expiring = new Set<RetainedMessage>();
  #expiryScan: IterableIterator<RetainedMessage> | undefined = undefined;
  readonly #sessions = new Map<string, Session>();
  readonly #byNumber = new Map<number, Session>();
  readonly #groups = new Map<string, SharedGroup>();
  /** Filters whose subscriptions have changed and whose routes have not. */
  readonly #changed = new Set<string>();
  /** Of sessions in the log: never given twice. */
  #lastSessionNumber = 0;
  /** Of sessions that the log does not know: they end with the process. */
  #lastVolatileNumber = VOLATILE_NUMBERS - 1;

  constructor(options: StateOptions) {
    const { mayRead } = options;
    this.router = new Router(options.internedTopics, (topic, matching) =>
      makeRoute(matching, mayRead === undefined ? undefined : (session) => mayRead(session, topic.name)),
    );
  }

  // ---- sessions ---------------------------------------------------------------------------------------------------------------------

  get sessionCount(): number {
    return this.#sessions.size;
  }

  sessions(): IterableIterator<Session> {
    return this.#sessions.values();
  }

  session(clientId: string): Session | undefined {
    return this.#sessions.get(clientId);
  }

  sessionByNumber(number: number): Session | undefined {
    return this.#byNumber.get(number);
  }

  get lastSessionNumber(): number {
    return this.#lastSessionNumber;
  }

  /** Numbers up to this one were given before. */
  skipSessionNumbers(last: number): void {
    this.#lastSessionNumber = Math.max(this.#lastSessionNumber, last);
  }

  nextSessionNumber(isRecorded: boolean): number {
    if (isRecorded) return this.#lastSessionNumber + 1;
    // Starts over after two thousand million: nobody of them is left by then, and none is in the log.
    this.#lastVolatileNumber =
      this.#lastVolatileNumber === UINT32_MAX ? VOLATILE_NUMBERS : this.#lastVolatileNumber + 1;
    return this.#lastVolatileNumber;
  }

  /** A new session with a number from `nextSessionNumber`, and its cursor at `offset`. There must be none with this client id. */
  createSession(number: number, clientId: string, offset: number): Session {
    const session = new Session(number, clientId);
    if (number < VOLATILE_NUMBERS) this.skipSessionNumbers(number);
    session.cursor = offset;
    this.#sessions.set(clientId, session);
    this.#byNumber.set(session.number, session);
    return session;
  }

  /** Ends the session with its subscriptions. The caller has detached it. */
  endSession(session: Session, onLeave: (session: Session, group: SharedGroup) => void): void {
    for (const subscription of [...session.subscriptions.values()]) this.#remove(subscription, onLeave);
    this.settleRoutes();
    this.#sessions.delete(session.clientId);
    this.#byNumber.delete(session.number);
  }

  groups(): IterableIterator<SharedGroup> {
    return this.#groups.values();
  }

  group(name: string, filter: string): SharedGroup | undefined {
    return this.#groups.get(groupKey(name, filter));
  }

  /** Everybody with a cursor. */
  *readings(): IterableIterator<Session | SharedGroup> {
    yield* this.#sessions.values();
    yield* this.#groups.values();
  }

  // ---- subscriptions ----------------------------------------------------------------------------------------------------------------

  /**
   * Adds a subscription that takes effect at `offset`, or replaces the one with the same text: that one's messages go on without a
   * gap [MQTT-3.8.4-3]. Routes follow at `settleRoutes`.
   */
  subscribe(
    session: Session,
    text: string,
    parsed: ParsedFilter,
    options: SubscriptionOptions,
    id: number,
    offset: number,
    replayFrom = -1,
  ): { subscription: Subscription; isNew: boolean } {
    session.interest = undefined;
    const { filter } = parsed;
    this.#changed.add(filter);
    const before = session.subscriptions.get(text);
    if (before?.isReplay === true) {
      // Asking for history again begins again.
      this.#remove(before, () => undefined);
    } else if (before !== undefined) {
      before.earlier = earlierOf(before, offset);
      const { qos, noLocal, retainAsPublished, retainHandling } = options;
      Object.assign(before, { qos, noLocal, retainAsPublished, retainHandling, id });
      return { subscription: before, isNew: false };
    }
    const group = parsed.group === undefined ? undefined : this.#groupOf(parsed.group, filter, offset);
    const subscription: Subscription = {
      session,
      text,
      filter,
      qos: options.qos,
      noLocal: options.noLocal,
      retainAsPublished: options.retainAsPublished,
      retainHandling: options.retainHandling,
      id,
      since: offset,
      replayCursor: replayFrom,
      isReplay: replayFrom >= 0,
      replayNoticeAt: -1,
      earlier: undefined,
      isRetainedOwed: false,
      isLeaving: false,
      group,
    };
    session.subscriptions.set(text, subscription);
    if (replayFrom >= 0) {
      session.replays ??= new Map();
      session.replays.set(subscription, interestInFilter(filter));
      return { subscription, isNew: true };
    }
    if (group === undefined) {
      this.router.subscribe(filter, subscription);
    } else {
      group.members.push(subscription);
      session.groups ??= new Map();
      session.groups.set(group, subscription);
    }
    return { subscription, isNew: true };
  }

  /** History is behind it: from `offset` on the subscription is served like any other. Routes follow at once. */
  mergeReplay(subscription: Subscription, offset: number): void {
    const { session } = subscription;
    subscription.replayCursor = -1;
    subscription.since = offset;
    session.interest = undefined;
    forgetReplay(session, subscription);
    this.router.subscribe(subscription.filter, subscription);
    this.#changed.add(subscription.filter);
    this.settleRoutes();
  }

  /** Drops the cached routes that the changes since the last call have made untrue. Called before anything is delivered. */
  settleRoutes(): void {
    if (this.#changed.size === 0) return;
    this.router.invalidate(this.#changed);
    this.#changed.clear();
  }

  /** False when there was no such subscription. */
  unsubscribe(
    session: Session,
    text: string,
    onLeave: (session: Session, group: SharedGroup) => void,
  ): boolean {
    const subscription = session.subscriptions.get(text);
    if (subscription === undefined) return false;
    this.#remove(subscription, onLeave);
    return true;
  }

  #remove(subscription: Subscription, onLeave: (session: Session, group: SharedGroup) => void): void {
    const { session, group } = subscription;
    session.interest = undefined;
    this.#changed.add(subscription.filter);
    session.subscriptions.delete(subscription.text);
    if (subscription.replayCursor >= 0) {
      forgetReplay(session, subscription);
      return;
    }
    if (group === undefined) {
      this.router.unsubscribe(subscription.filter, subscription);
      return;
    }
    group.members.splice(group.members.indexOf(subscription), 1);
    session.groups?.delete(group);
    onLeave(session, group);
    if (group.members.length > 0) return;
    this.router.unsubscribe(group.filter, group);
    this.#groups.delete(groupKey(group.name, group.filter));
    group.reader?.close();
    group.isLive = true;
    group.returned = [];
  }

  #groupOf(name: string, filter: string, offset: number): SharedGroup {
    const key = groupKey(name, filter);
    let group = this.#groups.get(key);
    if (group === undefined) {
      group = new SharedGroup(name, filter, offset);
      this.#groups.set(key, group);
      this.router.subscribe(filter, group);
    }
    return group;
  }

  // ---- retained messages ------------------------------------------------------------------------------------------------------------

  /** Keeps a committed message as its topic's retained one, or removes that when the payload is empty [MQTT-3.3.1-6] v5. */
  applyRetained(message: Message): void {
    const levels = message.topic.levels;
    if (message.payloadBytes === 0) {
      this.removeRetained(levels);
      return;
    }
    const retained = new RetainedMessage(message);
    const before = this.retained.set(levels, retained);
    this.retainedBytes += retained.bytes - (before?.bytes ?? 0);
    if (before !== undefined) this.#expiring.delete(before);
    if (retained.hasExpiry) this.#expiring.add(retained);
  }

  /** Looks at up to `budget` retained messages that have an expiry, in turn, and removes those whose time is over. */
  dropExpiredRetained(nowMs: number, budget: number): void {
    if (this.#expiring.size === 0) return;
    for (let count = Math.min(budget, this.#expiring.size); count > 0; count--) {
      this.#expiryScan ??= this.#expiring.values();
      const next = this.#expiryScan.next();
      if (next.done === true) {
        this.#expiryScan = undefined;
        return;
      }
      if (next.value.isExpired(nowMs)) this.removeRetained(next.value.topic.levels);
    }
  }

  removeRetained(levels: readonly string[]): void {
    const before = this.retained.delete(levels);
    if (before === undefined) return;
    this.retainedBytes -= before.bytes;
    this.#expiring.delete(before);
  }
}

/**
 * What a replacement at `offset` remembers. Of several replacements in a row the highest QoS counts: a message too often rather than one
 * too few.
 */
function earlierOf(replaced: Subscription, offset: number): NonNullable<Subscription['earlier']> {
  const qos = Math.max(replaced.qos, replaced.earlier?.qos ?? 0);
  return { qos: qos as QoS, before: offset };
}

function forgetReplay(session: Session, subscription: Subscription): void {
  session.replays?.delete(subscription);
  if (session.replays?.size === 0) session.replays = undefined;
}

/** A share name has no slash, so the key is unambiguous. */
function groupKey(name: string, filter: string): string {
  return `${name}/${filter}`;
}
