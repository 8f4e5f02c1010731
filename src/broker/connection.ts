// One client connection, from its first byte to its last: cuts the bytes into packets, hands each to the handler of its family, keeps what holds
// only while the connection lasts, and ends it with the right words.
import { GomqError } from '../core/errors.js';
import type { Transport, TransportHandler } from '../core/transport.js';
import { encodeReasonedAck } from '../packet/acks.js';
import { encodeDisconnect } from '../packet/encode.js';
import { type FrameHandler, FrameSplitter } from '../packet/frame-splitter.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { malformed, PacketType, type ProtocolVersion, protocolError } from '../packet/types.js';
import type { Topic } from '../router/topic-table.js';
import type { Outbox } from '../session/outbox.js';
import type { Session } from '../session/session.js';
import type { Route } from '../session/subscription.js';
import { handleAck } from './acks.js';
import type { Broker } from './broker.js';
import { handleConnect } from './connect.js';
import { handleAuth, handleDisconnect } from './disconnect.js';
import { handlePublish, handleQos0 } from './publish.js';
import { handleSubscribe, handleUnsubscribe } from './subscribe.js';

/** QoS 0, not retained, not a duplicate: the packet that has a shorter way. */
const PLAIN_PUBLISH = 0x30;

/** As many publishers may have `log.uncommittedBytes` of messages uncommitted at once; beyond that all wait. */
const PUBLISHERS_MAX = 16;

const PINGRESP = Buffer.from([PacketType.Pingresp << 4, 0]);

export class Connection implements TransportHandler, FrameHandler {
  readonly broker: Broker;
  readonly transport: Transport;
  readonly splitter: FrameSplitter;

  version: ProtocolVersion = 4;
  clientId = '';
  userName: string | undefined = undefined;
  /** Both are set by an accepted CONNECT. */
  session: Session | undefined = undefined;
  outbox: Outbox | undefined = undefined;
  isClosed = false;

  /** The client must be heard of by then, milliseconds of the monotonic clock. */
  deadlineMs: number;
  /** 1.5 times the keep alive, or 0 for none. */
  silenceMs = 0;
  /** A packet arrived since the last sweep. */
  wasHeard = false;

  /** False: reason strings and user properties only on PUBLISH, CONNACK and DISCONNECT [MQTT-3.1.2-29]. */
  wantsProblemInformation = true;
  /** Whether the session was to outlive the connection at CONNECT; DISCONNECT may not change that [MQTT-3.14.2-2]. */
  hadSessionExpiry = false;
  /** Topics by alias, from the client. */
  topicAliases: (Topic<Route> | GomqError | undefined)[] | undefined = undefined;
  /** QoS 1 and 2 messages from the client that are not acknowledged yet. */
  unacknowledged = 0;
  /** The topic of the last publish, with the right to it checked. */
  lastTopic: Topic<Route> | undefined = undefined;
  lastTopicRights = -1;
  /** When the last refusal was logged, and how many were not since. */
  refusalLoggedMs = Number.NEGATIVE_INFINITY;
  refusalsUnlogged = 0;
  #isReadingPaused = false;
  /** Bytes of its messages that are in the log and may not be committed, and the offset behind the last of them. */
  #uncommittedBytes = 0;
  #uncommittedTo = 0;
  #waitsForCommit = false;

  constructor(broker: Broker, transport: Transport, deadlineMs: number) {
    this.broker = broker;
    this.transport = transport;
    this.deadlineMs = deadlineMs;
    const { connectBytes, packetBytes } = broker.config.limits;
    this.splitter = new FrameSplitter(this, Math.min(connectBytes, packetBytes));
  }

  get address(): string {
    return `${this.transport.remoteAddress}:${this.transport.remotePort}`;
  }

  // ---- TransportHandler -------------------------------------------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    if (this.isClosed) return;
    try {
      this.splitter.push(chunk);
    } catch (error) {
      this.fail(error);
    }
    this.checkReading();
  }

  onDrain(): void {
    if (!this.isClosed) this.outbox?.onDrain();
  }

  /** The outbox has room again. */
  onRoom(): void {
    if (this.isClosed) return;
    if (this.session !== undefined) this.broker.pump.onRoom(this.session);
    this.checkReading();
  }

  /** The client sends no more: whatever it has not said by now it will not say. */
  onEnd(): void {
    this.finish();
  }

  onClose(error: Error | undefined): void {
    this.broker.onConnectionClosed(this, error);
  }

  // ---- FrameHandler -----------------------------------------------------------------------------------------------------------------

  onFrame(buffer: Buffer, start: number, bodyStart: number, end: number): void {
    // A whole packet, not just bytes [MQTT-3.1.2-22] v5, [MQTT-3.1.2-24] v3.1.1.
    this.wasHeard = true;
    const first = buffer[start]!;
    if (first === PLAIN_PUBLISH && this.session !== undefined) {
      handleQos0(this, buffer, start, bodyStart, end);
      return;
    }
    this.broker.run.deliver();
    const type = first >> 4;
    if (this.session === undefined) {
      // The splitter lets nothing but CONNECT be first; later ones wait until the CONNECT is answered.
      handleConnect(this, buffer.subarray(start, end));
      return;
    }
    switch (type) {
      case PacketType.Publish:
        handlePublish(this, buffer, start, bodyStart, end);
        break;
      case PacketType.Puback:
      case PacketType.Pubrec:
      case PacketType.Pubrel:
      case PacketType.Pubcomp:
        handleAck(this, buffer, start, bodyStart, end);
        break;
      case PacketType.Subscribe:
        handleSubscribe(this, buffer.subarray(start, end));
        break;
      case PacketType.Unsubscribe:
        handleUnsubscribe(this, buffer.subarray(start, end));
        break;
      case PacketType.Pingreq:
        if (first !== PacketType.Pingreq << 4 || end !== bodyStart)
          throw malformed('PINGREQ with flags or a body');
        this.outbox!.bytes(PINGRESP, 0, PINGRESP.length); // [MQTT-3.12.4-1]
        break;
      case PacketType.Disconnect:
        handleDisconnect(this, buffer.subarray(start, end));
        break;
      case PacketType.Auth:
        handleAuth(this, buffer.subarray(start, end));
        break;
      case PacketType.Connect:
        throw protocolError('a second CONNECT'); // [MQTT-3.1.0-2]
      default:
        throw protocolError(`packet type ${type} from a client`);
    }
  }

  onChunkEnd(): void {
    this.broker.run.deliver();
  }

  // ---- for the handlers -------------------------------------------------------------------------------------------------------------

  /** PUBACK, PUBREC, PUBREL or PUBCOMP, now that it may leave. */
  sendAck(type: number, packetId: number, reasonCode: number, why?: string): void {
    if (this.isClosed) return;
    // [MQTT-4.9.0-2] The quota of the client grows with PUBACK, PUBCOMP, and a PUBREC that ends the exchange.
    const endsExchange = type === PacketType.Pubrec ? reasonCode >= 0x80 : type !== PacketType.Pubrel;
    if (endsExchange) this.unacknowledged = Math.max(0, this.unacknowledged - 1);
    if (why === undefined) this.outbox!.ack(type, packetId, reasonCode);
    else this.sendReasonedAck(type, packetId, reasonCode, why);
  }

  /** An acknowledgement that says why, where the client wants to know and takes a packet of that size. */
  sendReasonedAck(type: number, packetId: number, reasonCode: number, why: string): void {
    const outbox = this.outbox!;
    const reasoned =
      this.version === 5 && this.wantsProblemInformation // [MQTT-3.1.2-29]
        ? encodeReasonedAck(type, packetId, reasonCode, why)
        : undefined;
    // [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.6.2-2], [MQTT-3.7.2-2]
    if (reasoned !== undefined && reasoned.length <= outbox.maximumPacketBytes) {
      outbox.bytes(reasoned, 0, reasoned.length);
    } else {
      outbox.ack(type, packetId, reasonCode);
    }
  }

  /** Writes a whole packet, unless the client said that it takes none of that size. */
  sendPacket(bytes: Buffer): void {
    const outbox = this.outbox!;
    if (bytes.length <= outbox.maximumPacketBytes) outbox.bytes(bytes, 0, bytes.length);
  }

  /** Closes the connection when the client is at fault. Any other error is ours, and passes. */
  fail(error: unknown): void {
    if (!(error instanceof GomqError) || error.code === 'INTERNAL') throw error;
    this.close(error.reasonCode ?? ReasonCode.UnspecifiedError, error.message);
  }

  /**
   * Ends the connection from this side: a 5.0 client is told why, and whoever reads the diagnostics too.
   * @param reasonCode 0x80 and above
   */
  close(reasonCode: number, why: string): void {
    if (this.isClosed) return;
    this.broker.run.deliver();
    this.broker.logClosed(this, reasonCode, why);
    if (this.outbox !== undefined && this.version === 5) {
      const bytes = encodeDisconnect({
        reasonCode,
        reasonString: why,
        maximumPacketBytes: this.outbox.maximumPacketBytes,
      });
      this.sendPacket(bytes);
    }
    this.finish();
  }

  /** Sends what is written and ends the connection. */
  finish(): void {
    if (this.isClosed) return;
    const { broker, outbox, transport } = this;
    const held = outbox?.takeHeld();
    outbox?.flush();
    this.isClosed = true;
    this.splitter.stop();
    broker.detach(this);
    if (held === undefined) {
      transport.end();
      return;
    }
    // The answer to CONNECT still waits for its commit, and the end of the connection with it.
    broker.whenCommitted(broker.log.endOffset, () => {
      transport.write(held, () => undefined);
      transport.end();
    });
  }

  /**
   * Something of the client's waits for the log. A client whose packets come faster than the disk takes them is not read from for a while,
   * so that what is in memory keeps to its bound.
   */
  countUncommitted(bytes: number): void {
    const { log, config } = this.broker;
    if (log.highWatermark >= this.#uncommittedTo) this.#uncommittedBytes = 0;
    this.#uncommittedBytes += bytes;
    this.#uncommittedTo = log.endOffset;
    const { uncommittedBytes } = config.log;
    const isOver =
      this.#uncommittedBytes > uncommittedBytes || log.uncommittedBytes > uncommittedBytes * PUBLISHERS_MAX;
    if (!isOver || this.#waitsForCommit) return;
    this.#waitsForCommit = true;
    this.broker.whenCommitted(this.#uncommittedTo, () => {
      this.#waitsForCommit = false;
      this.checkReading();
    });
  }

  /** Something that it sent is in the log and not committed, or it has a message that is not acknowledged. */
  get waitsForLog(): boolean {
    return this.unacknowledged > 0 || this.#uncommittedTo > this.broker.log.highWatermark;
  }

  /** Reads nothing from a client that does not take its answers, or that is ahead of the disk. */
  checkReading(): void {
    // A broker that stops reads nobody any more.
    if (this.isClosed || this.outbox === undefined || !this.broker.isReady) return;
    const mustWait = this.outbox.isOverfull || this.#waitsForCommit;
    if (mustWait === this.#isReadingPaused) return;
    this.#isReadingPaused = mustWait;
    if (mustWait) this.transport.pause();
    else this.transport.resume();
  }
}
