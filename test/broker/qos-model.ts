// What publishers and subscribers may see of a broker, worked out beside it. Because a fake transport hands bytes over within the call, the
// model knows at every moment what the broker knows: which records are in the log at which offset, which packet ids it has received, which
// acknowledgements reached it. Whatever arrives is held against that.
//
// When the broker dies, each session is again what it was where the log that is left ends, and what was not recorded about its progress may come
// once more at QoS 1, never at QoS 2.
import assert from 'node:assert/strict';
import {
  type FakeClient,
  publishBytes,
  type Received,
  type TestBroker,
  tick,
  type Version,
} from './harness.js';

type Qos = 0 | 1 | 2;

export interface ModelOptions {
  /** `limits.outboxBytes`. */
  outboxBytes: number;
  /** What a subscriber's transport takes before it says that it is full. */
  highWaterBytes: number;
  /** node's sockets say that they have drained before they say what was written. */
  drainsBeforeWritten: boolean;
  /** `mqtt.inflightMaximum`: the window of a client that names none. */
  inflightMaximum: number;
}

/** A message in the log. Other records lie between messages: the offset counts messages alone. */
interface Entry {
  readonly offset: number;
  readonly key: string;
  readonly topic: string;
  readonly qos: Qos;
  readonly isRetained?: boolean;
}

interface Subscription {
  readonly text: string;
  readonly filter: string;
  readonly qos: Qos;
  readonly id: number;
}

/** A record that a shared group is owed. */
interface GroupRecord {
  readonly entry: Entry;
  isOwed: boolean;
  isAcknowledged: boolean;
  holder: Subscriber | undefined;
  /** The broker died before its end was recorded, or cannot know of it: a member may be sent it once more. */
  mayComeAgain: boolean;
  /** The broker died with it in the log: at QoS 1 it may come to several members, as what each has is not in one record. */
  hasSeenCrash: boolean;
  /** The last delivery was one of QoS 2. */
  wasQos2: boolean;
}

const GROUPS: readonly { text: string; filter: string; prefix: string }[] = [
  { text: '$share/one/s/1/#', filter: 's/1/#', prefix: 's/1/' },
  { text: '$share/two/s/2/+', filter: 's/2/+', prefix: 's/2/' },
];
/** The QoS of a filter changes only between 1 and 2, so that it is always clear whether a message is owed. */
const FILTERS: readonly { filter: string; isQos0: boolean }[] = [
  { filter: 'a/#', isQos0: false },
  { filter: 'a/+', isQos0: false },
  { filter: 'a/1', isQos0: false },
  { filter: 'b/1', isQos0: false },
  { filter: '+/2', isQos0: false },
  { filter: 'b/#', isQos0: true },
  { filter: 'a/2', isQos0: true },
];
const TOPICS = ['a/1', 'a/2', 'b/1', 'b/2', 's/1/x', 's/1/y', 's/2/x', 'c/1', 'r/x', 'r/y'];
/** Turns that a step `turn` takes: so few that something is under way, or so many that nothing is. */
const TURNS = [1, 2, 5, 12, 30];
/** Published with RETAIN; nobody subscribes to them. */
const RETAINED_PREFIX = 'r/';

/** What was true of a session in the broker, by where the log ended then: a crash leaves the last of it that the log has kept. */
class History<T> {
  readonly #states: { end: number; state: T }[] = [];

  push(end: number, state: T): void {
    this.#states.push({ end, state });
  }

  /** Forgets what came behind `end`, and answers what was true there. */
  rewind(end: number): T | undefined {
    while (this.#states.length > 0 && this.#states.at(-1)!.end > end) this.#states.pop();
    return this.#states.at(-1)?.state;
  }
}

/** Section 4.7, for names and filters without $. */
function matches(filter: string, topic: string): boolean {
  const wanted = filter.split('/');
  const names = topic.split('/');
  for (const [i, level] of wanted.entries()) {
    if (level === '#') return true;
    if (i >= names.length || (level !== '+' && level !== names[i])) return false;
  }
  return wanted.length === names.length;
}

function topicOf(key: string): string {
  return key.split(':')[1]!;
}

function keyOf(payload: Buffer): string {
  return payload.toString('latin1', 0, payload.indexOf('|'));
}

// ---- publishers -----------------------------------------------------------------------------------------------------------------------

interface Outgoing {
  readonly packetId: number;
  /** With the key of the record that it made last: each time it makes another one, that has a key of its own. */
  entry: Omit<Entry, 'offset'>;
  readonly filler: string;
  /** PUBREC has arrived. */
  isReceived: boolean;
}

interface ExpectedAck {
  readonly cmd: 'puback' | 'pubrec' | 'pubcomp';
  readonly packetId: number;
  /** The broker may say this once its log is committed up to here, all records counted. */
  readonly end: number;
  readonly isUnknown: boolean;
}

export class Publisher {
  readonly #world: World;
  readonly #clientId: string;
  #version: Version = 4;
  #client: FakeClient | undefined = undefined;
  #isPersistent = false;
  /** What the broker holds of the session: packet ids that it has taken and not seen released. */
  #session: Set<number> | undefined = undefined;
  readonly #outgoing = new Map<number, Outgoing>();
  readonly #history = new History<{ session: ReadonlySet<number> | undefined; isPersistent: boolean }>();
  /** Its own state is a new one, and no CONNACK has told it that the broker's is. */
  #isCleanUnconfirmed = false;
  #mustBeClean = false;
  /** What the broker publishes when the connection breaks. */
  #will: Omit<Entry, 'offset'> | undefined = undefined;
  #expected: ExpectedAck[] = [];
  #lastPacketId = 0;
  #sequence = 0;

  constructor(world: World, clientId: string) {
    this.#world = world;
    this.#clientId = clientId;
  }

  connect(version: Version, mayBeClean: boolean, mayPersist: boolean, hasWill: boolean): void {
    this.#leave(0);
    const isPersistent = mayPersist && !(this.#mustBeClean && version !== 5);
    const isClean = version === 5 ? mayBeClean || this.#mustBeClean : !isPersistent;
    this.#mustBeClean = false;
    if (isClean) this.#session = undefined;
    const sessionPresent = this.#session !== undefined;
    // Its own state is new too: until a CONNACK has told it that the broker's is, it must not go on with what the broker may have.
    if (!sessionPresent) this.#isCleanUnconfirmed = true;
    this.#session ??= new Set();
    this.#isPersistent = isPersistent;
    this.#version = version;
    this.#expected = [];
    const client = this.#world.broker.client(version);
    this.#client = client;
    client.onPacket = this.#world.guard((packet) => this.#onPacket(packet, sessionPresent));
    const key = `${this.#clientId}:b/1:${++this.#sequence}`;
    this.#will = hasWill ? { key, topic: 'b/1', qos: 1 } : undefined;
    client.connect({
      clientId: this.#clientId,
      clean: isClean,
      ...(version === 5 && isPersistent ? { expirySeconds: 1000 } : {}),
      ...(hasWill ? { will: { topic: 'b/1', payload: Buffer.from(`${key}|`), qos: 1, retain: false } } : {}),
    });
    const { endOffset } = this.#world.broker.broker.log;
    // The end of the session before and the beginning of this one are two records.
    if (isClean && (isPersistent || hasWill)) {
      this.#history.push(endOffset - 1, { session: undefined, isPersistent: false });
    }
    this.#note();
    if (!sessionPresent) this.#outgoing.clear();
    // [MQTT-4.4.0-1] The client sends again, in order, what was not acknowledged.
    for (const outgoing of this.#outgoing.values()) {
      if (outgoing.isReceived) this.#sendRelease(outgoing);
      else this.#sendPublish(outgoing, true);
    }
  }

  /** Breaks the connection; `bytes` of what is on its way still arrive. */
  cut(bytes: number): void {
    this.#leave(bytes);
  }

  disconnect(): void {
    if (this.#client === undefined) return;
    this.#client.send({ cmd: 'disconnect' });
    this.#will = undefined;
    this.#leave(0);
  }

  /** The broker dies; `bytes` of what is on its way still arrive. */
  die(bytes: number): void {
    this.#client?.transport.die(bytes);
    if (this.#client !== undefined) this.#client.onPacket = undefined;
    this.#client = undefined;
    this.#will = undefined;
    this.#mustBeClean ||= this.#isCleanUnconfirmed;
  }

  /** The log has kept the records before `end`. */
  rewind(end: number): void {
    const kept = this.#history.rewind(end);
    this.#isPersistent = kept?.isPersistent === true;
    this.#session = this.#isPersistent && kept?.session !== undefined ? new Set(kept.session) : undefined;
    this.#note();
  }

  /** What the broker holds has changed with the last record. */
  #note(): void {
    const session = this.#session === undefined ? undefined : new Set(this.#session);
    this.#history.push(this.#world.broker.broker.log.endOffset, {
      session,
      isPersistent: this.#isPersistent,
    });
  }

  publish(topic: string, qos: Qos, fillerBytes: number): void {
    if (this.#client === undefined) this.connect(fillerBytes === 0 ? 5 : 4, false, true, false);
    if (this.#client === undefined || this.#outgoing.size >= 20) return;
    const key = `${this.#clientId}:${topic}:${++this.#sequence}`;
    const filler = 'x'.repeat(fillerBytes);
    if (qos === 0) {
      this.#client.send(publishBytes(this.#version, topic, `${key}|${filler}`));
      return;
    }
    do this.#lastPacketId = (this.#lastPacketId % 65_535) + 1;
    while (this.#outgoing.has(this.#lastPacketId));
    const packetId = this.#lastPacketId;
    const isRetained = topic.startsWith(RETAINED_PREFIX);
    const outgoing = { packetId, entry: { key, topic, qos, isRetained }, filler, isReceived: false };
    this.#outgoing.set(packetId, outgoing);
    this.#sendPublish(outgoing, false);
  }

  /** Sends one of the unacknowledged messages again, without a reason. */
  repeat(which: number): void {
    const outgoing = this.#pick(which, () => true);
    if (this.#client === undefined || outgoing === undefined) return;
    if (outgoing.isReceived) this.#sendRelease(outgoing);
    else this.#sendPublish(outgoing, true);
  }

  release(which: number): void {
    const outgoing = this.#pick(which, ({ isReceived }) => isReceived);
    if (this.#client === undefined || outgoing === undefined) return;
    this.#sendRelease(outgoing);
  }

  /** Comes back where it has to, and ends every exchange. */
  finish(): void {
    if (this.#client === undefined) this.connect(this.#version, false, true, false);
    for (const outgoing of this.#outgoing.values()) if (outgoing.isReceived) this.#sendRelease(outgoing);
    const client = this.#client!;
    const check = client.onPacket!;
    client.onPacket = (packet) => {
      check(packet);
      const outgoing = packet.cmd === 'pubrec' ? this.#outgoing.get(packet.messageId) : undefined;
      if (outgoing !== undefined) this.#sendRelease(outgoing);
    };
  }

  assertFinished(): void {
    assert.equal(this.#outgoing.size, 0, `${this.#clientId} has everything acknowledged`);
    assert.equal(this.#expected.length, 0, `${this.#clientId} has every answer`);
    const session = this.#world.broker.broker.state.session(this.#clientId);
    assert.equal(session?.receivedCount ?? 0, 0, `the broker holds no packet id of ${this.#clientId}`);
  }

  #pick(which: number, accepts: (outgoing: Outgoing) => boolean): Outgoing | undefined {
    const candidates = [...this.#outgoing.values()].filter(accepts);
    return candidates[which % Math.max(1, candidates.length)];
  }

  #leave(bytes: number): void {
    const client = this.#client;
    if (client === undefined) return;
    client.transport.cut(bytes);
    this.#client = undefined;
    client.onPacket = undefined;
    if (this.#will !== undefined) this.#world.append(this.#will);
    this.#will = undefined;
    if (!this.#isPersistent) this.#session = undefined;
    this.#note();
  }

  #sendPublish(outgoing: Outgoing, dup: boolean): void {
    const { packetId, filler } = outgoing;
    const { qos, topic, isRetained = false } = outgoing.entry;
    const session = this.#session!;
    const isNew = qos === 1 || !session.has(packetId);
    // A client would send the same bytes again. The broker never looks at them, and so it can be told which record arrives.
    if (dup && isNew) outgoing.entry = { ...outgoing.entry, key: `${outgoing.entry.key}+` };
    const payload = `${outgoing.entry.key}|${filler}`;
    if (isNew) this.#world.append(outgoing.entry);
    if (qos === 2) session.add(packetId);
    const retain = isRetained;
    this.#client!.send(
      publishBytes(this.#version, topic, payload, { qos, messageId: packetId, dup, retain }),
    );
    this.#note();
    this.#expect(qos === 1 ? 'puback' : 'pubrec', packetId, false);
  }

  #sendRelease({ packetId }: Outgoing): void {
    const isKnown = this.#session!.delete(packetId);
    this.#client!.send({ cmd: 'pubrel', messageId: packetId });
    this.#note();
    this.#expect('pubcomp', packetId, !isKnown);
  }

  /** Nothing arrives within the call that sends, so what the log has now is what the answer waits for. */
  #expect(cmd: ExpectedAck['cmd'], packetId: number, isUnknown: boolean): void {
    this.#expected.push({ cmd, packetId, end: this.#world.broker.broker.log.endOffset, isUnknown });
  }

  #onPacket(packet: Received, sessionPresent: boolean): void {
    const { cmd, messageId } = packet;
    if (cmd === 'connack') {
      assert.equal(packet.sessionPresent, sessionPresent, `${this.#clientId}: session present`);
      this.#isCleanUnconfirmed = false;
      return;
    }
    // [MQTT-4.6.0-2], [MQTT-4.6.0-3] Acknowledgements come in the order of the packets that they answer.
    const expected = this.#expected.shift();
    assert.ok(expected !== undefined, `${this.#clientId}: ${cmd} ${messageId} answers nothing`);
    assert.deepEqual([cmd, messageId], [expected.cmd, expected.packetId], 'acknowledgements are in order');
    assert.ok(
      this.#world.broker.broker.log.highWatermark >= expected.end,
      `${cmd} ${messageId} left before its record was committed`,
    );
    if (this.#version === 5 && cmd === 'pubcomp')
      assert.equal(packet.reasonCode, expected.isUnknown ? 0x92 : 0, 'reason of PUBCOMP');
    const outgoing = this.#outgoing.get(messageId);
    if (outgoing === undefined) return;
    if (cmd === 'pubrec') outgoing.isReceived = true;
    else this.#outgoing.delete(messageId);
  }
}

// ---- subscribers ----------------------------------------------------------------------------------------------------------------------

/** A delivery that the client has seen and not finished. */
interface Incoming {
  readonly packetId: number;
  /** Its message, where it is one of the session's own subscriptions. */
  readonly entry: Entry | undefined;
  readonly key: string;
  readonly qos: Qos;
  readonly record: GroupRecord | undefined;
  /** What the client owes next. */
  owes: 'puback' | 'pubrec' | 'nothing' | 'pubcomp';
  /** PUBREC has reached the broker. */
  isRecorded: boolean;
  /** Where the log ended then. */
  recordedEnd: number;
}

/** The subscriptions that a record is delivered for. */
interface Cover {
  readonly original: readonly Subscription[];
  /** Those of them that have not been given up since, by their text. */
  readonly current: Map<string, Subscription>;
}

/** What one session is owed, and what it has been given. */
class SessionModel {
  /** The log knows it: it began as one that outlives its connection. */
  readonly isRecorded: boolean;
  /** SUBSCRIBEs and, without a subscription, UNSUBSCRIBEs that the broker has taken, and where the log ended behind each. */
  events: { end: number; text: string; subscription: Subscription | undefined }[] = [];
  readonly subscriptions = new Map<string, Subscription>();
  /** By offset, for every record that may arrive at QoS 1 or 2, owed or not. */
  readonly covers = new Map<number, Cover>();
  readonly delivered = new Set<number>();
  lastOffset = -1;
  connections = 0;

  /** The broker has died since the session began. */
  hasCrashed = false;
  /** Delivered since the broker last died: if they come again after the next time, then with DUP. */
  fresh = new Set<number>();
  /** The same of its groups, on this connection: what it had not acknowledged at the end of one is for anybody, as if for the first time. */
  freshOfGroups = new Set<number>();
  mustBeDup = new Set<number>();
  /** Delivered at QoS 2, which happens once. */
  readonly givenAtQos2 = new Set<number>();
  /** Finished, as far as the broker knows it. */
  finished = new Set<number>();
  /** What of that was recorded when the broker died: never sent again. */
  settled = new Set<number>();
  readonly progress = new History<ReadonlySet<number>>();

  constructor(isRecorded: boolean) {
    this.isRecorded = isRecorded;
  }

  /** What a message is delivered for now. */
  coverOf(topic: string): Map<string, Subscription> {
    const cover = new Map<string, Subscription>();
    for (const subscription of this.subscriptions.values()) {
      const isOwn = !subscription.text.startsWith('$share/');
      if (isOwn && matches(subscription.filter, topic)) cover.set(subscription.text, subscription);
    }
    return cover;
  }

  cover(entry: Entry): void {
    const cover = this.coverOf(entry.topic);
    if (grantedBy(cover) > 0)
      this.covers.set(entry.offset, { original: [...cover.values()], current: cover });
  }

  apply({ text, subscription }: SessionModel['events'][number]): void {
    if (subscription !== undefined) {
      this.subscriptions.set(text, subscription);
      return;
    }
    this.subscriptions.delete(text);
    for (const { current } of this.covers.values()) current.delete(text);
  }

  /** A message is delivered, not under a packet id that the client knows. */
  give({ offset, key }: Entry, { dup, qos }: Received, clientId: string, from: 'own' | 'group'): void {
    // Where its subscription has become one of QoS 2 since, it is another exchange.
    assert.ok(dup || qos === 2 || !this.mustBeDup.has(offset), `${clientId}: ${key} again without DUP`);
    (from === 'own' ? this.fresh : this.freshOfGroups).add(offset);
  }

  /** The log has kept the records before `end`: `log` are the messages among them, and `offsets` where they stand. */
  rewind(end: number, log: readonly Entry[], offsets: readonly number[]): void {
    this.events = this.events.filter((event) => event.end <= end);
    this.subscriptions.clear();
    this.covers.clear();
    let applied = 0;
    for (const entry of log) {
      while (applied < this.events.length && this.events[applied]!.end <= offsets[entry.offset]!)
        this.apply(this.events[applied++]!);
      this.cover(entry);
    }
    for (const event of this.events.slice(applied)) this.apply(event);
    for (const offset of this.delivered) assert.ok(offset < log.length, 'what was delivered was committed');
    this.settled = new Set(this.progress.rewind(end));
    this.finished = new Set(this.settled);
    this.hasCrashed = true;
    this.lastOffset = -1;
    this.mustBeDup = new Set([...this.fresh, ...this.freshOfGroups]);
    this.fresh = new Set();
    this.freshOfGroups = new Set();
  }
}

/** The QoS that several subscriptions come to [MQTT-3.3.4-2]. */
function grantedBy(subscriptions: ReadonlyMap<string, Subscription>): number {
  return Math.max(0, ...[...subscriptions.values()].map(({ qos }) => qos));
}

export class Subscriber {
  readonly clientId: string;
  readonly #world: World;
  #version: Version = 4;
  #client: FakeClient | undefined = undefined;
  #isPersistent = false;
  #session: SessionModel | undefined = undefined;
  #window = 0;
  readonly #incoming = new Map<number, Incoming>();
  /** In the order in which they were first delivered: what the broker must send again. */
  #resends: Incoming[] = [];
  readonly #history = new History<{ session: SessionModel | undefined; isPersistent: boolean }>();
  /** A session that was to end with its connection; the broker died first, and the next one keeps it until the client is back. */
  #orphan: SessionModel | undefined = undefined;
  /** Its own state is a new one, and no CONNACK has told it that the broker's is. */
  #isCleanUnconfirmed = false;
  #mustBeClean = false;
  /** Where the log ended behind each SUBSCRIBE and UNSUBSCRIBE that is not answered. */
  #unanswered: number[] = [];
  /** Packet ids of QoS 2 messages that the client has finished: after a crash the broker may not know. */
  #finishedIds = new Set<number>();
  /** Those from before the last crash. */
  #maybeReleased = new Set<number>();
  /** Packet ids that were acknowledged on this connection before they were sent again. */
  #early = new Set<number>();
  /** PUBLISHes of QoS 1 and 2 on this connection that the client has not finished. */
  #unfinished = new Set<number>();
  /** Everything of QoS 0 that has arrived, by publisher and topic the last number. */
  readonly #lastQos0 = new Map<string, number>();
  readonly everSubscribed = new Set<string>();

  constructor(world: World, clientId: string) {
    this.#world = world;
    this.clientId = clientId;
  }

  get isConnected(): boolean {
    return this.#client !== undefined;
  }

  /** @param isTakeover the connection before is still open: the broker ends it */
  connect(
    version: Version,
    mayBeClean: boolean,
    mayPersist: boolean,
    receiveMaximum: number,
    isTakeover: boolean,
  ): void {
    this.#leave(isTakeover ? undefined : 0);
    const isPersistent = mayPersist && !(this.#mustBeClean && version !== 5);
    const isClean = version === 5 ? mayBeClean || this.#mustBeClean : !isPersistent;
    this.#mustBeClean = false;
    this.#unanswered = [];
    this.#orphan = undefined;
    if (isClean) this.#endSession();
    const sessionPresent = this.#session !== undefined;
    if (this.#session === undefined) {
      // Until a CONNACK has told it that the broker's is new too, it must not go on with what the broker may have.
      this.#isCleanUnconfirmed = true;
      this.#session = new SessionModel(isPersistent);
      this.#incoming.clear();
      this.#finishedIds.clear();
      this.#maybeReleased.clear();
    }
    this.#session.connections++;
    this.#isPersistent = isPersistent;
    this.#version = version;
    this.#window = version === 5 ? receiveMaximum : this.#world.options.inflightMaximum;
    this.#resends = [...this.#incoming.values()];
    this.#unfinished = new Set();
    this.#early = new Set();
    for (const incoming of this.#incoming.values()) incoming.owes = 'nothing';
    const client = this.#world.broker.client(version, this.#world.options);
    this.#client = client;
    client.onPacket = this.#world.guard((packet) => {
      if (packet.cmd === 'connack') {
        assert.equal(packet.sessionPresent, sessionPresent, `${this.clientId}: session present`);
        this.#isCleanUnconfirmed = false;
      } else {
        this.#onPacket(packet);
      }
    });
    client.connect({
      clientId: this.clientId,
      clean: isClean,
      ...(version === 5 ? { receiveMaximum, topicAliasMaximum: 3 } : {}),
      ...(version === 5 && isPersistent ? { expirySeconds: 1000 } : {}),
    });
    this.noteProgress();
    const { endOffset } = this.#world.broker.broker.log;
    // The end of the session before and the beginning of this one are two records.
    if (isClean && isPersistent)
      this.#history.push(endOffset - 1, { session: undefined, isPersistent: false });
    this.#note();
  }

  /** What the broker holds has changed with the last record. */
  #note(): void {
    const { endOffset } = this.#world.broker.broker.log;
    const session = this.#session ?? this.#orphan;
    this.#history.push(endOffset, { session, isPersistent: this.#isPersistent });
  }

  /** The broker dies; `bytes` of what is on its way still arrive. */
  die(bytes: number): void {
    this.#client?.transport.die(bytes);
    if (this.#client !== undefined) this.#client.onPacket = undefined;
    this.#client = undefined;
    this.#mustBeClean ||= this.#isCleanUnconfirmed;
  }

  /** The log has kept the records before `end`. */
  rewind(end: number): void {
    const { log, broker } = this.#world;
    const kept = this.#history.rewind(end);
    this.#isPersistent = kept?.isPersistent === true;
    this.#session = this.#isPersistent ? kept?.session : undefined;
    this.#orphan = !this.#isPersistent && kept?.session?.isRecorded === true ? kept.session : undefined;
    this.#note();
    this.#orphan?.rewind(end, log, broker.publishOffsets);
    const session = this.#session;
    if (session === undefined) {
      this.#incoming.clear();
      return;
    }
    session.rewind(end, log, broker.publishOffsets);
    for (const incoming of [...this.#incoming.values()]) {
      if (incoming.recordedEnd > end) incoming.isRecorded = false;
      if (incoming.qos === 2) continue;
      // A receiver of QoS 1 keeps nothing. What it has not acknowledged must come again, under whatever packet id.
      this.#incoming.delete(incoming.packetId);
      if (incoming.entry !== undefined) session.delivered.delete(incoming.entry.offset);
    }
    for (const packetId of this.#finishedIds) this.#maybeReleased.add(packetId);
    this.#finishedIds.clear();
  }

  /** Holds a message that it must be sent again, whatever happens to the broker. */
  holdsForGood(record: GroupRecord): boolean {
    return [...this.#incoming.values()].some((one) => one.record === record);
  }

  /** All progress up to now is in the log. */
  noteProgress(): void {
    const session = this.#session;
    session?.progress.push(this.#world.broker.broker.log.endOffset, new Set(session.finished));
  }

  /** Where the log ended when it joined a group with a session that outlives the broker. */
  joinedGroupAt(text: string): number {
    if (!this.#isPersistent) return Number.POSITIVE_INFINITY;
    return this.#session?.events.findLast((event) => event.text === text)?.end ?? Number.POSITIVE_INFINITY;
  }

  cut(bytes: number): void {
    this.#leave(bytes);
  }

  disconnect(): void {
    this.#client?.send({ cmd: 'disconnect' });
    this.#leave(0);
  }

  stall(): void {
    if (this.#client !== undefined) this.#client.transport.isStalled = true;
  }

  unstall(): void {
    this.#client?.transport.unstall();
  }

  subscribe(which: number, qos: Qos): void {
    this.#return();
    const { filter, isQos0 } = FILTERS[which % FILTERS.length]!;
    const granted = isQos0 ? 0 : qos === 0 ? 1 : qos;
    const id = this.#version === 5 ? (which % FILTERS.length) + 1 : 0;
    this.#sendSubscribe({ text: filter, filter, qos: granted, id });
  }

  join(which: number, qos: Qos): void {
    this.#return();
    const { text, filter } = GROUPS[which % GROUPS.length]!;
    this.#sendSubscribe({ text, filter, qos: qos === 0 ? 1 : qos, id: 0 });
  }

  /** Comes back where it has gone. */
  #return(): void {
    if (this.#client === undefined) this.connect(this.#version, false, true, 2, false);
  }

  #sendSubscribe(subscription: Subscription): void {
    const { text, qos, id } = subscription;
    if (this.#client === undefined) return;
    this.everSubscribed.add(subscription.filter);
    this.#client.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: text, qos }],
      ...(id > 0 ? { properties: { subscriptionIdentifier: id } } : {}),
    });
    this.#change(text, subscription);
  }

  /** A SUBSCRIBE or UNSUBSCRIBE has been sent, and takes effect where the log ends. */
  #change(text: string, subscription: Subscription | undefined): void {
    const end = this.#world.broker.broker.log.endOffset;
    const event = { end, text, subscription };
    this.#session!.events.push(event);
    this.#session!.apply(event);
    this.#unanswered.push(end);
  }

  unsubscribe(which: number): void {
    const texts = [...(this.#session?.subscriptions.keys() ?? [])];
    const text = texts[which % Math.max(1, texts.length)];
    if (this.#client === undefined || text === undefined) return;
    this.#client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [text] });
    this.#change(text, undefined);
    if (text.startsWith('$share/')) this.#world.onMemberLeft(this, text);
  }

  isMember(text: string): boolean {
    return this.#session?.subscriptions.has(text) === true;
  }

  /** The broker takes it for one, although its session is over. */
  isLateMember(text: string): boolean {
    return this.#orphan?.subscriptions.has(text) === true;
  }

  /** A record has been appended. */
  onAppend(entry: Entry): void {
    this.#session?.cover(entry);
  }

  /** Takes the next step for one of the deliveries that wait for the client. */
  acknowledge(which: number): void {
    const waiting = [...this.#incoming.values()].filter(({ owes }) => owes !== 'nothing');
    const incoming = waiting[which % Math.max(1, waiting.length)];
    if (incoming !== undefined) this.#step(incoming);
  }

  /** Acknowledges what an earlier connection brought before it is sent again; the broker may have sent it again already. */
  acknowledgeEarly(which: number): void {
    const waiting = this.#resends.filter(({ record, isRecorded }) => record === undefined && !isRecorded);
    const incoming = waiting[which % Math.max(1, waiting.length)];
    if (this.#client === undefined || incoming === undefined) return;
    this.#resends = this.#resends.filter((one) => one !== incoming);
    this.#early.add(incoming.packetId);
    incoming.owes = incoming.qos === 1 ? 'puback' : 'pubrec';
    this.#step(incoming);
  }

  finish(): void {
    if (this.#session === undefined) return;
    if (this.#client === undefined) this.connect(this.#version, false, true, 3, false);
    this.unstall();
    for (const incoming of this.#incoming.values()) this.#step(incoming);
    const client = this.#client!;
    const check = client.onPacket!;
    client.onPacket = (packet) => {
      check(packet);
      const incoming = this.#incoming.get(packet.messageId);
      if (incoming !== undefined) this.#step(incoming);
    };
  }

  assertFinished(): void {
    const session = this.#session;
    if (session === undefined) return;
    for (const [offset, { current }] of session.covers) {
      if (grantedBy(current) === 0) continue;
      const { key } = this.#world.log[offset]!;
      assert.ok(session.delivered.has(offset), `${this.clientId} was given ${key} at offset ${offset}`);
    }
    for (const skipped of this.#resends) this.#skip(skipped);
    assert.equal(this.#incoming.size, 0, `${this.clientId} has finished every delivery`);
    const own = this.#world.broker.broker.state.session(this.clientId)!;
    assert.equal(own.hasInflight, false, `nothing is in flight to ${this.clientId}`);
    assert.equal(own.outstanding, 0);
    assert.equal(own.isLive, true, `${this.clientId} has caught up`);
  }

  #step(incoming: Incoming): void {
    const { packetId, owes, entry, qos } = incoming;
    if (owes === 'nothing' || this.#client === undefined) return;
    incoming.owes = 'nothing';
    if (owes === 'pubrec') {
      incoming.isRecorded = true;
      if (incoming.record !== undefined) incoming.record.isAcknowledged = true;
    } else {
      this.#incoming.delete(packetId);
      this.#unfinished.delete(packetId);
      if (incoming.record !== undefined) incoming.record.isAcknowledged = true;
      if (qos === 2) this.#finishedIds.add(packetId);
      if (entry !== undefined) this.#session!.finished.add(entry.offset);
    }
    this.#client.send({ cmd: owes, messageId: packetId });
    if (owes === 'pubrec') incoming.recordedEnd = this.#world.broker.broker.log.endOffset;
  }

  /** @param bytes that still arrive, or undefined where the connection is left open and not looked at any more */
  #leave(bytes: number | undefined): void {
    const client = this.#client;
    if (client === undefined) return;
    if (bytes !== undefined) client.transport.cut(bytes);
    this.#client = undefined;
    client.onPacket = undefined;
    for (const incoming of this.#incoming.values()) {
      // Somebody else may be given what was not acknowledged at QoS 1.
      if (incoming.record !== undefined && incoming.qos === 1) incoming.record.holder = undefined;
    }
    this.#session?.freshOfGroups.clear();
    // A connection that is left open ends when the next one begins.
    if (bytes !== undefined) this.noteProgress();
    if (!this.#isPersistent) this.#endSession();
    this.#note();
  }

  #endSession(): void {
    const session = this.#session;
    if (session === undefined) return;
    this.#session = undefined;
    for (const { record } of this.#incoming.values()) {
      if (record?.holder === this) record.holder = undefined;
    }
    for (const text of session.subscriptions.keys()) {
      if (text.startsWith('$share/')) this.#world.onMemberLeft(this, text);
    }
  }

  #onPacket(packet: Received): void {
    if (packet.cmd === 'publish') {
      if (packet.qos === 0) this.#onQos0(packet);
      else this.#onPublish(packet);
    } else if (packet.cmd === 'pubrel') {
      this.#onPubrel(packet.messageId);
    } else {
      assert.ok(packet.cmd === 'suback' || packet.cmd === 'unsuback', `${this.clientId} got ${packet.cmd}`);
      const end = this.#unanswered.shift();
      assert.ok(end !== undefined, `${this.clientId}: ${packet.cmd} answers nothing`);
      assert.ok(this.#world.broker.broker.log.highWatermark >= end, `${packet.cmd} before its commit`);
    }
  }

  #onQos0(packet: Received): void {
    const key = keyOf(packet.payload);
    const [publisher, topic, number] = key.split(':') as [string, string, string];
    assert.ok(
      [...this.everSubscribed].some((filter) => matches(filter, topic)),
      `${this.clientId} never subscribed to ${topic}`,
    );
    if (this.#world.isInLog(key)) return;
    const flow = `${publisher}:${topic}`;
    assert.ok(Number(number) > (this.#lastQos0.get(flow) ?? 0), `QoS 0 of one flow in order, once: ${key}`);
    this.#lastQos0.set(flow, Number(number));
  }

  #onPublish(packet: Received): void {
    const { messageId, dup, qos } = packet;
    // It was on its way while the client acknowledged it.
    if (dup && this.#early.delete(messageId)) return;
    const key = keyOf(packet.payload);
    const known = this.#incoming.get(messageId);
    if (known !== undefined) {
      assert.ok(this.#resends.includes(known), `${this.clientId}: packet id ${messageId} is in use`);
      // [MQTT-3.3.1-1], [MQTT-2.2.1-4]: DUP, and the packet id of the first time.
      assert.equal(dup, true, `${this.clientId}: ${key} again under ${messageId} without DUP`);
      assert.equal(key, known.key, `${this.clientId}: packet id ${messageId} stands for another message`);
      assert.equal(qos, known.qos, `${this.clientId}: QoS of what is sent again`);
      assert.equal(known.isRecorded, false, `${this.clientId}: PUBLISH ${key} again after its PUBREC`);
      this.#takeResend(known);
      if (known.record !== undefined) known.record.holder = this;
      known.owes = qos === 1 ? 'puback' : 'pubrec';
    } else {
      assert.ok(
        !dup || this.#session!.connections > 1,
        `${this.clientId}: DUP on what was never sent: ${key}`,
      );
      const group = GROUPS.find(({ prefix }) => topicOf(key).startsWith(prefix));
      const record = group === undefined ? undefined : this.#takeGroupRecord(key, group.filter);
      if (record !== undefined) {
        record.wasQos2 = qos === 2;
        this.#session!.give(record.entry, packet, this.clientId, 'group');
      }
      const entry = group === undefined ? this.#takeOwn(packet, key) : undefined;
      const owes = qos === 1 ? 'puback' : 'pubrec';
      const state = { record, entry, owes, isRecorded: false, recordedEnd: 0 } as const;
      this.#incoming.set(messageId, { packetId: messageId, key, qos, ...state });
    }
    this.#unfinished.add(messageId);
    // [MQTT-3.3.4-9]
    assert.ok(
      this.#unfinished.size <= this.#window,
      `${this.clientId}: ${this.#unfinished.size} unacknowledged with a Receive Maximum of ${this.#window}`,
    );
  }

  /** What a group was owed at QoS 1 may have gone to another member while this one was away. */
  #mayBeReturned({ record, qos }: Incoming): boolean {
    return record !== undefined && qos === 1;
  }

  /** [MQTT-4.6.0-1] What is sent again keeps its order; only what went to another member is missing. */
  #takeResend(known: Incoming): void {
    if (this.#session!.hasCrashed) {
      this.#resends = this.#resends.filter((one) => one !== known);
      return;
    }
    const at = this.#resends.indexOf(known);
    for (const skipped of this.#resends.slice(0, at)) this.#skip(skipped);
    this.#resends = this.#resends.slice(at + 1);
  }

  #skip(skipped: Incoming): void {
    assert.ok(
      this.#mayBeReturned(skipped),
      `${this.clientId}: ${skipped.key} (packet id ${skipped.packetId}) was to be sent again first`,
    );
    this.#incoming.delete(skipped.packetId);
  }

  /** A message of the session's own subscriptions, seen for the first time: the next one in the order of the log. */
  #takeOwn(packet: Received, key: string): Entry {
    const session = this.#session!;
    const entry = this.#world.log.find((one) => one.key === key);
    assert.ok(entry !== undefined && session.covers.has(entry.offset), `${this.clientId}: ${key} unasked`);
    assert.ok(
      entry.offset > session.lastOffset,
      `${this.clientId}: ${key} twice, or behind offset ${session.lastOffset}`,
    );
    assert.ok(!session.settled.has(entry.offset), `${this.clientId}: ${key} after its end was recorded`);
    assert.ok(!session.givenAtQos2.has(entry.offset), `${this.clientId}: ${key} twice at QoS 2`);
    assert.equal(packet.topic === '' || packet.topic === entry.topic, true, 'topic');
    // What is sent again comes first. After a crash that may be more than the client still holds, and what the client has forgotten is new to
    // it; that all of it comes is looked at in the end.
    if (!session.hasCrashed) {
      for (const skipped of this.#resends) this.#skip(skipped);
      this.#resends = [];
    }
    session.give(entry, packet, this.clientId, 'own');
    session.lastOffset = entry.offset;
    session.delivered.add(entry.offset);
    if (packet.qos === 2) session.givenAtQos2.add(entry.offset);
    const { original, current } = session.covers.get(entry.offset)!;
    const isUnchanged = original.every(
      (one) => current.has(one.text) && session.subscriptions.get(one.text) === one,
    );
    // What was on its way when a subscription changed may show either state of it.
    if (!isUnchanged || packet.dup) return entry;
    assert.equal(packet.qos, Math.min(entry.qos, grantedBy(current)), `${this.clientId}: QoS of ${key}`);
    if (this.#version !== 5) return entry;
    const ids = [packet.properties?.subscriptionIdentifier ?? []].flat() as number[];
    const wanted = original.map(({ id }) => id).filter((id) => id > 0);
    assert.deepEqual(ids.sort(), wanted.sort(), `${this.clientId}: subscription identifiers of ${key}`);
    return entry;
  }

  #takeGroupRecord(key: string, filter: string): GroupRecord {
    const record = this.#world.groupRecords.find(({ entry }) => entry.key === key);
    assert.ok(record !== undefined, `${key} was never owed to a group`);
    assert.ok(this.everSubscribed.has(filter), `${this.clientId} never joined the group for ${key}`);
    const { isAcknowledged, mayComeAgain, holder, hasSeenCrash, wasQos2 } = record;
    const isOpen = (!isAcknowledged || mayComeAgain) && (holder === undefined || holder === this);
    assert.ok(
      isOpen || (hasSeenCrash && !wasQos2),
      `${this.clientId} got ${key}, which another member ${isAcknowledged ? 'has acknowledged' : 'holds'}`,
    );
    if (record.mayComeAgain && record.isAcknowledged) {
      // Once more from the beginning, although nobody is owed it.
      record.isAcknowledged = false;
      record.isOwed = false;
    }
    record.mayComeAgain = false;
    record.holder = this;
    return record;
  }

  #onPubrel(packetId: number): void {
    const incoming = this.#incoming.get(packetId);
    if (incoming === undefined && this.#maybeReleased.has(packetId)) {
      // It was finished before the crash, and the broker cannot know.
      this.#client!.send({ cmd: 'pubcomp', messageId: packetId });
      return;
    }
    assert.ok(incoming?.isRecorded, `${this.clientId}: PUBREL ${packetId} for what was not received`);
    assert.ok(
      !this.#isPersistent || this.#world.broker.broker.log.highWatermark >= incoming.recordedEnd,
      `${this.clientId}: PUBREL ${packetId} before the record of its PUBREC`,
    );
    if (this.#resends.includes(incoming)) this.#takeResend(incoming);
    incoming.owes = 'pubcomp';
  }
}

// ---- the world ------------------------------------------------------------------------------------------------------------------------

export interface Step {
  readonly kind:
    | 'publish'
    | 'repeat'
    | 'release'
    | 'cutPublisher'
    | 'connectPublisher'
    | 'connect'
    | 'cut'
    | 'disconnect'
    | 'subscribe'
    | 'join'
    | 'unsubscribe'
    | 'acknowledge'
    | 'acknowledgeEarly'
    | 'stall'
    | 'unstall'
    | 'progress'
    | 'crash'
    | 'turn';
  readonly who: number;
  readonly a: number;
  readonly b: number;
  readonly c: number;
}

export class World {
  broker: TestBroker;
  /** How often the broker has died. */
  crashes = 0;
  readonly options: ModelOptions;
  readonly log: Entry[] = [];
  readonly groupRecords: GroupRecord[] = [];
  readonly #keys = new Set<string>();
  readonly #publishers: Publisher[];
  readonly #subscribers: Subscriber[];

  readonly #crash: (broker: TestBroker, draw: number) => TestBroker;

  /** @param crash ends the broker as it is and answers the one that follows it */
  constructor(
    broker: TestBroker,
    options: ModelOptions,
    crash: (broker: TestBroker, draw: number) => TestBroker = (same) => same,
  ) {
    this.broker = broker;
    this.#crash = crash;
    this.options = options;
    this.#publishers = ['p0', 'p1'].map((clientId) => new Publisher(this, clientId));
    this.#subscribers = ['s0', 's1', 's2'].map((clientId) => new Subscriber(this, clientId));
    this.#watchProgress();
  }

  /** Whoever has progress recorded, the broker's timer or the program: from then on it counts. */
  #watchProgress(): void {
    const { journal } = this.broker.broker;
    const recordTouched = journal.recordTouched.bind(journal);
    journal.recordTouched = () => {
      recordTouched();
      for (const subscriber of this.#subscribers) subscriber.noteProgress();
    };
  }

  /** The broker dies, and another one follows it. */
  #die(bytes: number, draw: number): void {
    this.crashes++;
    for (const client of [...this.#publishers, ...this.#subscribers]) client.die(bytes);
    if (this.#failure !== undefined) return;
    this.broker = this.#crash(this.broker, draw);
    const { endOffset } = this.broker.broker.log;
    this.#watchProgress();
    this.log.length = this.broker.publishOffsets.length;
    this.#keys.clear();
    for (const { key } of this.log) this.#keys.add(key);
    for (const client of [...this.#publishers, ...this.#subscribers]) client.rewind(endOffset);
    this.#rewindGroups();
    this.#assertRetained();
  }

  /** Who is in a group with a session that is gone has left it, and what it holds at QoS 1 is not known. */
  #rewindGroups(): void {
    const kept = this.groupRecords.filter(({ entry }) => entry.offset < this.log.length);
    this.groupRecords.length = 0;
    this.groupRecords.push(...kept);
    for (const record of kept) {
      record.hasSeenCrash = true;
      if (record.holder?.holdsForGood(record) === true) continue;
      // [MQTT-4.8.2-5] A QoS 2 delivery ends with the session.
      if (record.holder !== undefined && record.wasQos2) record.isOwed = false;
      const { text } = GROUPS.find(({ prefix }) => record.entry.topic.startsWith(prefix))!;
      // The same where it had only got its packet id, for a session that nobody comes back to.
      const isQos2 = record.entry.qos === 2;
      if (isQos2 && this.#subscribers.some((one) => one.isLateMember(text))) record.isOwed = false;
      record.holder = undefined;
      record.mayComeAgain = true;
      const joinedAt = Math.min(
        ...this.#subscribers.filter((one) => one.isMember(text)).map((one) => one.joinedGroupAt(text)),
      );
      if (joinedAt > this.broker.publishOffsets[record.entry.offset]!) record.isOwed = false;
    }
  }

  /** The last message of each topic with RETAIN is there, and nothing else. */
  #assertRetained(): void {
    const expected = new Map<string, string>();
    for (const { topic, key, isRetained } of this.log) if (isRetained) expected.set(topic, key);
    const { retained } = this.broker.broker.state;
    assert.equal(retained.size, expected.size, 'retained messages');
    for (const [topic, key] of expected) {
      const { record } = retained.get(topic.split('/'))!;
      assert.ok(record.buffer.includes(`${key}|`), `${topic} retains ${key}`);
    }
  }

  #failure: unknown;
  #isOver = false;

  /** What goes wrong where packets arrive is told by the program, not by the broker's turn in which it happens. */
  guard(onPacket: (packet: Received) => void): (packet: Received) => void {
    return (packet) => {
      if (this.#isOver || this.#failure !== undefined) return;
      try {
        onPacket(packet);
      } catch (error) {
        this.#failure = error;
      }
    };
  }

  isInLog(key: string): boolean {
    return this.#keys.has(key);
  }

  append(entry: Omit<Entry, 'offset'>): void {
    const appended = { ...entry, offset: this.log.length };
    this.log.push(appended);
    this.#keys.add(entry.key);
    for (const subscriber of this.#subscribers) subscriber.onAppend(appended);
    for (const { text, filter } of GROUPS) {
      const isOwed = this.#subscribers.some((one) => one.isMember(text));
      const isTaken = isOwed || this.#subscribers.some((one) => one.isLateMember(text));
      if (!matches(filter, entry.topic) || !isTaken) continue;
      this.groupRecords.push({
        entry: appended,
        isOwed,
        isAcknowledged: false,
        holder: undefined,
        mayComeAgain: false,
        hasSeenCrash: false,
        wasQos2: false,
      });
    }
  }

  /** What a member that leaves had been sent ends with it, whether the client saw it or not; with the last member, all of it. */
  onMemberLeft(left: Subscriber, text: string): void {
    const { prefix } = GROUPS.find((group) => group.text === text)!;
    for (const record of this.groupRecords) {
      const isHeldByOther = record.holder !== undefined && record.holder !== left;
      const isOver = !this.#subscribers.some((one) => one !== left && one.isMember(text));
      if (record.entry.topic.startsWith(prefix) && (isOver || !isHeldByOther)) record.isOwed = false;
    }
  }

  async run(steps: readonly Step[]): Promise<void> {
    try {
      await this.#run(steps);
    } finally {
      this.#isOver = true;
    }
  }

  async #run(steps: readonly Step[]): Promise<void> {
    await this.take(steps);
    await this.finish();
  }

  /** Takes the steps, and leaves everything as it is then. */
  async take(steps: readonly Step[]): Promise<void> {
    for (const publisher of this.#publishers) publisher.connect(4, true, true, false);
    for (const [i, subscriber] of this.#subscribers.entries())
      subscriber.connect(i === 0 ? 4 : 5, true, true, 2, false);
    const [first, second, third] = this.#subscribers as [Subscriber, Subscriber, Subscriber];
    first.subscribe(0, 2);
    second.subscribe(4, 1);
    second.join(0, 2);
    third.join(0, 1);
    for (const step of steps) {
      if (step.kind === 'turn')
        for (let turns = TURNS[step.a % TURNS.length]!; turns > 0; turns--) await tick();
      else this.#take(step);
      if (this.#failure !== undefined) throw this.#failure;
      assert.equal(
        this.broker.publishOffsets.length,
        this.log.length,
        `messages in the log after ${step.kind}`,
      );
    }
    await tick();
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Everybody comes back and acknowledges everything. */
  async finish(): Promise<void> {
    for (const publisher of this.#publishers) publisher.finish();
    for (const subscriber of this.#subscribers) subscriber.finish();
    await this.#settle();
    if (this.#failure !== undefined) throw this.#failure;
    this.#isOver = true;
    assert.equal(this.broker.publishOffsets.length, this.log.length, 'messages in the log');
    assert.equal(this.broker.broker.commits.size, 0, 'no answer waits');
    this.#assertRetained();
    for (const publisher of this.#publishers) publisher.assertFinished();
    for (const subscriber of this.#subscribers) subscriber.assertFinished();
    for (const { entry, isOwed, isAcknowledged } of this.groupRecords) {
      assert.ok(!isOwed || isAcknowledged, `a member acknowledged ${entry.key}`);
    }
  }

  /** Until nothing has happened for a few turns. */
  async #settle(): Promise<void> {
    const { pump } = this.broker.broker;
    for (let quiet = 0, before = -1; quiet < 6; quiet++) {
      const now = this.broker.packetCount;
      if (now !== before || pump.hasPumps) quiet = 0;
      before = now;
      await tick();
    }
  }

  #take({ kind, who, a, b, c }: Step): void {
    const publisher = this.#publishers[who % this.#publishers.length]!;
    const subscriber = this.#subscribers[who % this.#subscribers.length]!;
    const qos = (b % 3) as Qos;
    switch (kind) {
      case 'publish':
        publisher.publish(TOPICS[a % TOPICS.length]!, qos, [0, 10, 700, 3000, 20_000][c % 5]!);
        break;
      case 'repeat':
        publisher.repeat(a);
        break;
      case 'release':
        publisher.release(a);
        break;
      case 'cutPublisher':
        publisher.cut(a);
        break;
      case 'connectPublisher':
        publisher.connect(a % 2 === 0 ? 4 : 5, b % 4 === 0, c % 4 !== 0, c % 3 === 0);
        break;
      case 'connect':
        subscriber.connect(a % 2 === 0 ? 4 : 5, b % 5 === 0, c % 5 !== 0, (b % 3) + 1, a % 3 === 0);
        if (c % 3 === 0) subscriber.acknowledgeEarly(b);
        break;
      case 'cut':
        subscriber.cut(a);
        break;
      case 'disconnect':
        if (a % 4 === 0) publisher.disconnect();
        else subscriber.disconnect();
        break;
      case 'subscribe':
        subscriber.subscribe(a, qos);
        break;
      case 'join':
        subscriber.join(a, qos);
        break;
      case 'unsubscribe':
        subscriber.unsubscribe(a);
        break;
      case 'acknowledge':
        subscriber.acknowledge(a);
        break;
      case 'acknowledgeEarly':
        subscriber.acknowledgeEarly(a);
        break;
      case 'stall':
        subscriber.stall();
        break;
      case 'unstall':
        subscriber.unstall();
        break;
      case 'progress':
        this.broker.broker.journal.recordTouched();
        break;
      case 'crash':
        this.#die(who === 0 ? a : a * 100, b * 21 + c);
        break;
    }
  }
}
