// The acknowledgements of QoS 1 and 2 from a client: PUBACK, PUBREC and PUBCOMP for what it was sent, PUBREL for what it published.
import { AckFrame } from '../packet/acks.js';
import { ReasonCode } from '../packet/reason-codes.js';
import { PacketType, protocolError } from '../packet/types.js';
import { Phase } from '../session/inflight.js';
import type { Session } from '../session/session.js';
import { ACK_BYTES, WORK_BYTES } from './commit-queue.js';
import type { Connection } from './connection.js';

const ack = new AckFrame();

const NOT_FOUND = 'nothing is in flight under this packet id';

export function handleAck(
  connection: Connection,
  buffer: Buffer,
  start: number,
  bodyStart: number,
  end: number,
): void {
  ack.parse(buffer, start, bodyStart, end, connection.version);
  const type = buffer[start]! >> 4;
  if (type === PacketType.Pubrel) {
    handlePubrel(connection);
    return;
  }
  const session = connection.session!;
  const slot = session.inflight.slotOf(ack.packetId);
  if (type === PacketType.Puback) handlePuback(connection, session, slot);
  else if (type === PacketType.Pubrec) handlePubrec(connection, session, slot);
  else handlePubcomp(connection, session, slot);
}

function handlePuback(connection: Connection, session: Session, slot: number): void {
  // Acknowledged twice, or before a reconnect that made the session new: nothing to do.
  if (slot === -1) return;
  if (session.inflight.phaseAt(slot) !== Phase.Puback) {
    throw protocolError(`PUBACK for packet id ${ack.packetId}, which is a QoS 2 delivery`);
  }
  finishDelivery(connection, session, slot);
}

function handlePubrec(connection: Connection, session: Session, slot: number): void {
  if (slot === -1) {
    // The client holds what this side has finished or forgotten: PUBREL lets it finish too.
    connection.sendReasonedAck(
      PacketType.Pubrel,
      ack.packetId,
      ReasonCode.PacketIdentifierNotFound,
      NOT_FOUND,
    );
    return;
  }
  const { inflight } = session;
  if (inflight.phaseAt(slot) === Phase.Puback) {
    throw protocolError(`PUBREC for packet id ${ack.packetId}, which is a QoS 1 delivery`);
  }
  // [MQTT-4.3.3-4] The receiver will not have it: the exchange is over.
  if (ack.reasonCode >= 0x80) {
    finishDelivery(connection, session, slot);
    return;
  }
  const isNew = inflight.phaseAt(slot) !== Phase.Pubcomp;
  inflight.setPhaseAt(slot, Phase.Pubcomp);
  if (!inflight.isCountedAt(slot)) session.outstanding++;
  inflight.markSentAt(slot);
  if (!session.isRecorded) {
    connection.outbox!.ack(PacketType.Pubrel, ack.packetId, ReasonCode.Success); // [MQTT-4.3.3-3]
    return;
  }
  // A client that has PUBREL takes the same packet id for a new message: it must not be sent the old one again, whatever happens here.
  const { broker } = connection;
  if (isNew) broker.journal.pubrec(session, ack.packetId);
  else connection.countUncommitted(ACK_BYTES);
  broker.commits.pushAck(
    broker.log.endOffset,
    connection,
    PacketType.Pubrel,
    ack.packetId,
    ReasonCode.Success,
  );
  broker.scheduleTurn();
}

function handlePubcomp(connection: Connection, session: Session, slot: number): void {
  if (slot === -1) return;
  if (session.inflight.phaseAt(slot) !== Phase.Pubcomp) {
    throw protocolError(`PUBCOMP for packet id ${ack.packetId} before its PUBREC`);
  }
  finishDelivery(connection, session, slot);
}

function finishDelivery(connection: Connection, session: Session, slot: number): void {
  session.release(slot);
  connection.broker.pump.onRoom(session);
}

/** The publisher lets go of a packet id; PUBCOMP stays behind the PUBREC that may still wait to be sent. */
function handlePubrel(connection: Connection): void {
  const { broker } = connection;
  const session = connection.session!;
  const known = session.received.delete(ack.packetId);
  if (known && session.isRecorded) broker.journal.pubrel(session, ack.packetId);
  const target = broker.log.endOffset;
  if (known) {
    broker.commits.pushAck(target, connection, PacketType.Pubcomp, ack.packetId, ReasonCode.Success);
    broker.scheduleTurn();
    return;
  }
  const { packetId } = ack;
  connection.countUncommitted(WORK_BYTES);
  broker.whenCommitted(target, () => {
    if (connection.isClosed) return;
    connection.sendReasonedAck(PacketType.Pubcomp, packetId, ReasonCode.PacketIdentifierNotFound, NOT_FOUND);
  });
}
