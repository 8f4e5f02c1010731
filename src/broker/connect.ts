// CONNECT: who is it, may they, and which session is theirs.
import { v7 as uuidv7 } from 'uuid';
import { assert } from '../core/assert.js';
import { ConnectError, type ConnectPacket, decodeConnect } from '../packet/connect.js';
import { encodeConnack } from '../packet/encode.js';
import { ReasonCode } from '../packet/reason-codes.js';
import type { ProtocolVersion } from '../packet/types.js';
import { isReservedTopic, validateTopicName } from '../router/topic-name.js';
import type { AuthenticationResult } from '../security/authenticator.js';
import { Outbox } from '../session/outbox.js';
import type { Broker } from './broker.js';
import type { Connection } from './connection.js';

/** Receive Maximum of a client that names none (section 3.1.2.11.3), and of one that names the largest. */
const RECEIVE_MAXIMUM_DEFAULT = 65_535;

export function handleConnect(connection: Connection, frame: Buffer): void {
  let packet: ConnectPacket | undefined;
  try {
    packet = decodeConnect(frame);
    checkOffered(connection, packet);
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    refuse(connection, error.version, error.reasonCode, error.message, packet?.maximumPacketBytes);
    return;
  }
  authenticate(connection, packet);
}

function authenticate(connection: Connection, packet: ConnectPacket): void {
  const { broker, transport } = connection;
  connection.version = packet.version;
  connection.splitter.requiresShortestLength = packet.version === 5;
  connection.splitter.packetBytesMax = broker.config.limits.packetBytes;
  connection.clientId = packet.clientId === '' ? `auto-${uuidv7()}` : packet.clientId; // [MQTT-3.1.3-6]
  const result = broker.authenticator.authenticate({
    clientId: connection.clientId,
    userName: packet.userName,
    password: packet.password,
    remoteAddress: transport.remoteAddress,
    clientCertificateName: transport.clientCertificateName,
  });
  if (!(result instanceof Promise)) {
    admit(connection, packet, result);
    return;
  }
  // What the client sends before it has its answer waits in the splitter and, beyond that, in the kernel.
  connection.splitter.pause();
  transport.pause();
  result
    .then((answer) => {
      if (connection.isClosed) return;
      admit(connection, packet, answer);
      if (connection.isClosed) return;
      transport.resume();
      try {
        connection.splitter.resume();
      } catch (error) {
        connection.fail(error);
      }
    })
    .catch(broker.onDefect);
}

/** @throws {ConnectError} for what is well-formed but not offered here */
function checkOffered(connection: Connection, packet: ConnectPacket): void {
  const { mqtt, limits } = connection.broker.config;
  const { will, version } = packet;
  if (packet.authenticationMethod !== undefined) {
    throw new ConnectError(
      `authentication method ${packet.authenticationMethod} is not known`,
      ReasonCode.BadAuthenticationMethod, // [MQTT-4.12.0-1]
      version,
    );
  }
  if (will === undefined) return;
  const why = validateTopicName(will.topicName, limits);
  if (why !== undefined) throw new ConnectError(`will: ${why}`, ReasonCode.TopicNameInvalid, version);
  if (isReservedTopic(will.topicName)) {
    throw new ConnectError(`will: ${will.topicName} is reserved`, ReasonCode.NotAuthorized, version);
  }
  if (will.qos > mqtt.maximumQos) {
    throw new ConnectError(
      `will with QoS ${will.qos}, the maximum is ${mqtt.maximumQos}`,
      ReasonCode.QosNotSupported, // [MQTT-3.2.2-12]
      version,
    );
  }
  if (will.retain && !mqtt.retain) {
    throw new ConnectError('will with RETAIN, which is turned off', ReasonCode.RetainNotSupported, version); // [MQTT-3.2.2-13]
  }
}

/** Answers with a CONNACK that says no, where the client's version has one, and closes. */
function refuse(
  connection: Connection,
  version: ProtocolVersion | undefined,
  reasonCode: number,
  why: string,
  maximumPacketBytes?: number,
): void {
  connection.broker.logClosed(connection, reasonCode, why);
  if (version !== undefined) {
    const bytes = encodeConnack(version, {
      sessionPresent: false,
      reasonCode,
      properties: { reasonString: why, maximumPacketBytes }, // [MQTT-3.2.2-19]
    });
    const mayBe = maximumPacketBytes ?? Number.POSITIVE_INFINITY; // [MQTT-3.1.2-24]
    if (bytes !== undefined && bytes.length <= mayBe) connection.transport.write(bytes, () => undefined);
  }
  connection.finish();
}

function admit(connection: Connection, packet: ConnectPacket, result: AuthenticationResult): void {
  const { broker, version, clientId } = connection;
  const no = (reasonCode: number, why: string): void =>
    refuse(connection, version, reasonCode, why, packet.maximumPacketBytes);
  if (!result.accepted) {
    no(result.reasonCode, 'not authenticated'); // [MQTT-3.1.4-2]
    return;
  }
  connection.userName = result.userName;
  const { will } = packet;
  if (will !== undefined && broker.accessControl?.mayPublish(connection, will.topicName) === false) {
    no(ReasonCode.NotAuthorized, `will: no right to publish to ${will.topicName}`);
    return;
  }

  const { mqtt, limits } = broker.config;
  const holder = broker.state.session(clientId);
  // Its subscriptions, its backlog and its rights are those of whoever made it.
  if (holder?.userName !== undefined && holder.userName !== result.userName) {
    no(ReasonCode.NotAuthorized, 'the client id belongs to a session of another user');
    return;
  }
  // A session that ends with its connection is not there any more once that is taken over.
  const sessionPresent = holder !== undefined && !packet.cleanStart && holder.expirySeconds > 0;
  const expirySeconds = Math.min(packet.sessionExpirySeconds, mqtt.sessionExpirySecondsMax);
  const keepAliveSeconds = keepAliveOf(packet, mqtt.keepAliveSecondsMax);
  const connack = acceptance(connection, packet, sessionPresent, expirySeconds, keepAliveSeconds);
  if (connack.length > packet.maximumPacketBytes) {
    no(ReasonCode.PacketTooLarge, `Maximum Packet Size ${packet.maximumPacketBytes} has no room for CONNACK`);
    return;
  }
  const isRecorded = expirySeconds > 0 || will !== undefined;
  const { tooFew } = broker;
  if (isRecorded && tooFew !== undefined) {
    no(ReasonCode.ServerUnavailable, tooFew);
    return;
  }
  const full = fullRefusal(broker, sessionPresent, isRecorded);
  if (full !== undefined) {
    no(ReasonCode.QuotaExceeded, full);
    return;
  }

  const logEndBefore = broker.log.endOffset;
  // [MQTT-3.1.4-3] One live connection per client id.
  if (holder !== undefined) {
    broker.connectionOf(holder)?.close(ReasonCode.SessionTakenOver, `taken over from ${connection.address}`);
  }
  let session = broker.state.session(clientId);
  // Also one that would have ended with a connection of the process before.
  if (session !== undefined && !sessionPresent) {
    broker.endSession(session); // [MQTT-3.1.2-4] v5, [MQTT-3.1.2-6] v3.1.1
    session = undefined;
  }
  assert(sessionPresent === (session !== undefined), 'CONNACK tells the truth about the session');
  if (session === undefined) {
    // Those that end with their connection are bounded by the connections.
    if (expirySeconds > 0 && broker.state.sessionCount >= limits.sessions) {
      no(ReasonCode.QuotaExceeded, `there are ${limits.sessions} sessions already`);
      return;
    }
    session = broker.createSession(clientId, isRecorded);
    session.userName = result.userName;
  }
  broker.setUser(session, result.userName);
  session.expirySeconds = expirySeconds;
  session.window =
    packet.receiveMaximum === RECEIVE_MAXIMUM_DEFAULT ? mqtt.inflightMaximum : packet.receiveMaximum;
  connection.hadSessionExpiry = packet.sessionExpirySeconds > 0;
  connection.wantsProblemInformation = packet.requestProblemInformation;
  session.will = will;
  connection.session = session;
  connection.outbox = new Outbox({
    transport: connection.transport,
    version,
    outboxBytes: limits.outboxBytes,
    maximumPacketBytes: packet.maximumPacketBytes,
    topicAliasMaximum: Math.min(packet.topicAliasMaximum, mqtt.topicAliasMaximumOutgoing),
    onDirty: broker.onDirty,
    onRoom: () => connection.onRoom(),
  });
  connection.silenceMs = keepAliveSeconds * 1500; // [MQTT-3.1.2-22] v5, [MQTT-3.1.2-24] v3.1.1
  connection.outbox.bytes(connack, 0, connack.length);
  broker.attach(connection, session);
  const logEnd = broker.log.endOffset;
  if (logEnd === logEndBefore && !broker.isEnding(clientId)) return;
  // CONNACK says that a session is there or gone, and that a will is taken: true once the log has it. Nothing overtakes it.
  const { outbox } = connection;
  outbox.hold();
  broker.whenCommitted(logEnd, () => outbox.letGo());
}

/**
 * Why the log has no room for what it would have to record, or undefined when it has. A session that is there may come back on a full disk, since
 * the records that it has not read cannot go before; that costs a few small records, so that it has an end as well.
 */
function fullRefusal(
  { isFull, log }: Broker,
  sessionPresent: boolean,
  isRecorded: boolean,
): string | undefined {
  if (sessionPresent) {
    return log.isReserveSpent ? 'the disk is full: no session can come back until there is room' : undefined;
  }
  return isFull && isRecorded ? 'the disk is full: no new session and no will can be kept' : undefined;
}

/** Only a 5.0 client can be told another keep alive than its own. */
function keepAliveOf(packet: ConnectPacket, secondsMax: number): number {
  const asked = packet.keepAliveSeconds;
  const hasLimit = packet.version === 5 && secondsMax < 65_535;
  if (!hasLimit) return asked;
  return asked === 0 ? secondsMax : Math.min(asked, secondsMax);
}

/** The CONNACK that says yes. What is absent has the standard's default, so only what differs is said. */
function acceptance(
  connection: Connection,
  packet: ConnectPacket,
  sessionPresent: boolean,
  expirySeconds: number,
  keepAliveSeconds: number,
): Buffer {
  const { mqtt, limits } = connection.broker.config;
  const bytes = encodeConnack(connection.version, {
    sessionPresent,
    reasonCode: ReasonCode.Success,
    properties: {
      sessionExpirySeconds: expirySeconds === packet.sessionExpirySeconds ? undefined : expirySeconds,
      receiveMaximum: mqtt.receiveMaximum === RECEIVE_MAXIMUM_DEFAULT ? undefined : mqtt.receiveMaximum,
      maximumQos: mqtt.maximumQos === 2 ? undefined : mqtt.maximumQos,
      retainAvailable: mqtt.retain ? undefined : false,
      maximumPacketSize: limits.packetBytes,
      assignedClientId: packet.clientId === '' ? connection.clientId : undefined,
      topicAliasMaximum: mqtt.topicAliasMaximum === 0 ? undefined : mqtt.topicAliasMaximum,
      wildcardSubscriptionAvailable: mqtt.wildcardSubscriptions ? undefined : false,
      sharedSubscriptionAvailable: mqtt.sharedSubscriptions ? undefined : false,
      serverKeepAliveSeconds: keepAliveSeconds === packet.keepAliveSeconds ? undefined : keepAliveSeconds,
      // [MQTT-3.1.2-28]
      responseInformation:
        packet.requestResponseInformation && mqtt.responseInformation !== ''
          ? mqtt.responseInformation
          : undefined,
      maximumPacketBytes: packet.maximumPacketBytes,
    },
  });
  assert(bytes !== undefined, 'every version has a CONNACK for success');
  return bytes;
}
