// PUBLISH from a client. QoS 0 goes straight to the subscribers; QoS 1 and 2, and whatever is retained, goes to the log first.

import { GomqError } from '../core/errors.js';
import { type PublishProperties, scanPublishProperties } from '../packet/properties.js';
import { PublishFrame } from '../packet/publish.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { malformed, PacketType, protocolError, type QoS } from '../packet/types.js';
import { isValidUtf8String, isWellFormedUtf8 } from '../packet/utf8.js';
import { isReservedTopic, validateTopicName } from '../router/topic-name.js';
import type { Topic } from '../router/topic-table.js';
import { Message, NO_OFFSET } from '../session/message.js';
import type { Route } from '../session/subscription.js';
import { ACK_BYTES } from './commit-queue.js';
import type { Connection } from './connection.js';

const frame = new PublishFrame();
const message = new Message();

/** A publish that is well-formed and not allowed: answered with a negative acknowledgement where there is one. */
class Refusal extends GomqError {
  override readonly reasonCode: number;
  constructor(reasonCode: number, why: string) {
    super('REFUSED', why, { reasonCode });
    this.reasonCode = reasonCode;
  }
}

/** PUBLISH with QoS 0, no RETAIN, no DUP: joins the run of its predecessors where it can. */
export function handleQos0(
  connection: Connection,
  buffer: Buffer,
  start: number,
  bodyStart: number,
  end: number,
): void {
  const run = connection.broker.run;
  const topicStart = bodyStart + 2;
  const topicEnd = topicStart + ((buffer[bodyStart]! << 8) | buffer[bodyStart + 1]!);
  const isV5 = connection.version === 5;
  // Without properties a 5.0 packet has a zero where they would be. Whatever is out of the ordinary takes the long way.
  const isOrdinary =
    bodyStart + 2 <= end && topicEnd + (isV5 ? 1 : 0) <= end && !(isV5 && buffer[topicEnd] !== 0);
  // A large packet in memory of its own need not be copied at all.
  if (!isOrdinary || connection.splitter.isBufferStable) {
    run.deliver();
    handlePublish(connection, buffer, start, bodyStart, end);
    return;
  }
  if (
    run.count > 0 &&
    run.end === start &&
    run.buffer === buffer &&
    run.topic.equals(buffer, topicStart, topicEnd)
  ) {
    run.end = end;
    run.count++;
    connection.broker.counters.received++;
    return;
  }
  run.deliver();
  if (topicEnd === topicStart) {
    handlePublish(connection, buffer, start, bodyStart, end);
    return;
  }
  connection.broker.counters.received++;
  const topic = topicOf(connection, buffer, topicStart, topicEnd);
  checkRights(connection, topic);
  run.begin(connection, topic, buffer, start, end);
}

/** Any PUBLISH. */
export function handlePublish(
  connection: Connection,
  buffer: Buffer,
  start: number,
  bodyStart: number,
  end: number,
): void {
  const { broker } = connection;
  frame.parse(buffer, start, bodyStart, end, connection.version);
  broker.counters.received++;
  checkCapabilities(connection);
  const properties = scanPublishProperties(buffer, frame.propertiesStart, frame.propertiesEnd);
  if (frame.qos === 2 && connection.session!.received.has(frame.packetId)) {
    // Sent again before its PUBREL: the message is in the log already, whoever may publish what by now; only the answer is given again
    // [MQTT-4.3.3-10].
    if (properties.topicAlias > 0) resolveAlias(connection, properties.topicAlias);
    connection.countUncommitted(ACK_BYTES);
    acknowledge(connection, ReasonCode.Success);
    return;
  }
  if (frame.qos > 0) countUnacknowledged(connection);
  try {
    const topic = resolveTopic(connection, properties);
    checkRights(connection, topic);
    if (properties.payloadIsUtf8 && !isWellFormedUtf8(buffer, frame.payloadStart, frame.payloadEnd)) {
      throw new Refusal(
        ReasonCode.PayloadFormatInvalid,
        'the payload is not the UTF-8 that its format indicator says',
      );
    }
    fillMessage(connection, topic, properties);
    // QoS 0 does not wait for the log, retained or not: its messages stay in the order of their topic [MQTT-4.6.0-6].
    if (frame.qos === 0) broker.delivery.deliver(message);
    if (frame.qos > 0 || frame.isRetained) keep(connection, topic);
  } catch (error) {
    if (!(error instanceof Refusal) || frame.qos === 0 || connection.version !== 5) throw error;
    broker.logRefused(connection, error.reasonCode, error.message);
    refuse(connection, error.reasonCode, error.message);
  }
}

/** [MQTT-3.2.2-11], [MQTT-3.2.2-14]: what CONNACK said is not served. */
function checkCapabilities(connection: Connection): void {
  const { maximumQos, retain } = connection.broker.config.mqtt;
  if (frame.qos > maximumQos) {
    throw protocolError(
      `PUBLISH with QoS ${frame.qos}, the maximum is ${maximumQos}`,
      ReasonCode.QosNotSupported,
    );
  }
  if (frame.isRetained && !retain) {
    throw protocolError('PUBLISH with RETAIN, which is turned off', ReasonCode.RetainNotSupported);
  }
}

/** [MQTT-3.3.4-7], [MQTT-3.3.4-8]: a 5.0 client keeps to the Receive Maximum of CONNACK. */
function countUnacknowledged(connection: Connection): void {
  connection.unacknowledged++;
  const { receiveMaximum } = connection.broker.config.mqtt;
  if (connection.version === 5 && connection.unacknowledged > receiveMaximum) {
    throw protocolError(
      `more than ${receiveMaximum} unacknowledged publishes`,
      ReasonCode.ReceiveMaximumExceeded,
    );
  }
}

function resolveTopic(connection: Connection, properties: PublishProperties): Topic<Route> {
  const { buffer, topicStart, topicEnd } = frame;
  if (properties.topicAlias > 0) {
    const topic = resolveAlias(connection, properties.topicAlias);
    if (topic instanceof Refusal) throw topic;
    return topic;
  }
  if (topicEnd === topicStart) throw protocolError('PUBLISH without topic name and without topic alias');
  return topicOf(connection, buffer, topicStart, topicEnd);
}

/** The topic that an alias stands for, set by this packet or by one before it; what was refused with it stays refused. */
function resolveAlias(connection: Connection, alias: number): Topic<Route> | Refusal {
  const { buffer, topicStart, topicEnd } = frame;
  // [MQTT-3.3.2-9] v5
  const { topicAliasMaximum } = connection.broker.config.mqtt;
  if (alias > topicAliasMaximum) {
    throw protocolError(
      `topic alias ${alias}, the maximum is ${topicAliasMaximum}`,
      ReasonCode.TopicAliasInvalid,
    );
  }
  connection.topicAliases ??= [];
  if (topicEnd > topicStart) {
    const topic = topicOrRefusal(connection, buffer, topicStart, topicEnd);
    connection.topicAliases[alias] = topic;
    return topic;
  }
  const topic = connection.topicAliases[alias];
  if (topic === undefined) throw protocolError(`topic alias ${alias} was never set`); // [MQTT-3.3.2-7]
  if (topic instanceof Refusal) return topic;
  if (topic instanceof GomqError) throw topic;
  if (topic.isInterned) return topic;
  // The table started over since: the alias follows, so that it sees what is subscribed from now on.
  const again = connection.broker.router.internTopic(topic.name);
  connection.topicAliases[alias] = again;
  return again;
}

function topicOrRefusal(
  connection: Connection,
  buffer: Buffer,
  start: number,
  end: number,
): Topic<Route> | Refusal {
  try {
    return topicOf(connection, buffer, start, end);
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
}

function topicOf(connection: Connection, buffer: Buffer, start: number, end: number): Topic<Route> {
  const last = connection.lastTopic;
  if (last?.isInterned && last.equals(buffer, start, end)) return last;
  const { router, config } = connection.broker;
  let topic = router.findTopic(buffer, start, end);
  if (topic === undefined) {
    if (!isValidUtf8String(buffer, start, end)) throw malformed('the topic name is not valid UTF-8'); // [MQTT-1.5.4-1]
    const name = buffer.toString('utf8', start, end);
    if (name.includes('+') || name.includes('#')) {
      throw protocolError('the topic name contains a wildcard', ReasonCode.TopicNameInvalid); // [MQTT-3.3.2-2]
    }
    const why = validateTopicName(name, config.limits);
    if (why !== undefined) throw new Refusal(ReasonCode.TopicNameInvalid, why);
    topic = router.internTopic(name);
  }
  connection.lastTopic = topic;
  connection.lastTopicRights = -1;
  return topic;
}

function checkRights(connection: Connection, topic: Topic<Route>): void {
  const { accessControl } = connection.broker;
  const version = accessControl?.version ?? 0;
  if (connection.lastTopic === topic && connection.lastTopicRights === version) return;
  if (isReservedTopic(topic.name)) {
    throw new Refusal(ReasonCode.NotAuthorized, `${topic.name} is reserved`);
  }
  if (accessControl !== undefined && !accessControl.mayPublish(connection, topic.name)) {
    throw new Refusal(ReasonCode.NotAuthorized, `no right to publish to ${topic.name}`);
  }
  if (connection.lastTopic === topic) connection.lastTopicRights = version;
}

function fillMessage(connection: Connection, topic: Topic<Route>, properties: PublishProperties): void {
  message.topic = topic;
  message.qos = frame.qos;
  message.isRetained = frame.isRetained;
  message.isWill = false;
  message.noSource();
  message.publisher = connection.session!.number;
  message.offset = NO_OFFSET;
  message.timestampMs = connection.broker.clock.wallMs();
  message.expirySeconds = properties.messageExpirySeconds;
  message.buffer = frame.buffer;
  message.isBufferStable = connection.splitter.isBufferStable;
  message.topicStart = frame.topicStart;
  message.topicEnd = frame.topicEnd;
  message.payloadStart = frame.payloadStart;
  message.payloadEnd = frame.payloadEnd;
  message.packetId = frame.packetId;
  message.properties = properties.forward;
  message.propertiesStart = 0;
  message.propertiesEnd = properties.forward.length;
}

/** Appends the message to the log, and has it acknowledged once it is committed. */
function keep(connection: Connection, topic: Topic<Route>): void {
  const { broker } = connection;
  const session = connection.session!;
  const { tooFew } = broker;
  // Whoever sends it again and again would have it in the log as many times.
  if (tooFew !== undefined && connection.version === 5) throw protocolError(tooFew, ReasonCode.ServerBusy);
  const refusal = broker.keepRefusal(message);
  if (refusal !== undefined) throw new Refusal(ReasonCode.QuotaExceeded, refusal.message);
  connection.countUncommitted(broker.append(message));
  if (frame.qos === 0) return;
  if (frame.qos === 2) session.received.add(frame.packetId);
  // Only where it is certain: a SUBSCRIBE may wait for the log as well.
  const isUnheard =
    connection.version === 5 && broker.commits.size === 0 && broker.router.route(topic).isEmpty;
  acknowledge(connection, isUnheard ? ReasonCode.NoMatchingSubscribers : ReasonCode.Success);
}

/** PUBACK or PUBREC, behind everything that is in the log now [MQTT-4.6.0-2], [MQTT-4.6.0-3]. */
function acknowledge(connection: Connection, reasonCode: number): void {
  const { broker } = connection;
  const type = ackTypeOf(frame.qos);
  broker.commits.pushAck(broker.log.endOffset, connection, type, frame.packetId, reasonCode);
  broker.scheduleTurn();
}

/** The same with a reason that is not success, and why. */
function refuse(connection: Connection, reasonCode: number, why: string): void {
  const { broker } = connection;
  const { packetId, qos } = frame;
  broker.whenCommitted(broker.log.endOffset, () =>
    connection.sendAck(ackTypeOf(qos), packetId, reasonCode, why),
  );
}

function ackTypeOf(qos: QoS): number {
  return qos === 1 ? PacketType.Puback : PacketType.Pubrec;
}
