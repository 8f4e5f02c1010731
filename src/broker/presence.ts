// Sessions without a connection: how long they last, when their wills fire, and what a restart makes of those whose connection ended with the
// process before. Times are of the monotonic clock, but for what the log keeps.
import type { Clock } from '../core/clock.js';
import type { WillPacket } from '../packet/connect.js';
import { NEVER_EXPIRES, type Session } from '../session/session.js';

export interface PresenceOptions {
  clock: Clock;
  /** The longest delay of a will. */
  willDelaySecondsMax: number;
  /** How long clients of the process before may take to come back. */
  reconnectGraceSeconds: number;
  /** Publishes a will, which belongs to the session no more. */
  publishWill: (session: Session, will: WillPacket) => void;
  /** The session's time is over. */
  endSession: (session: Session) => void;
  /** The session goes on without a connection: what is recorded about that. */
  recordClosed: (session: Session, closedAtMs: number) => void;
}

export class Presence {
  readonly #options: PresenceOptions;
  /** To be ended when their time comes. */
  readonly #absent = new Set<Session>();
  /** When the will fires. */
  readonly #delayedWills = new Map<Session, number>();
  /** Their connections ended with the process before, and they may come back yet. */
  readonly #orphans = new Set<Session>();
  #graceEndsMs = 0;

  constructor(options: PresenceOptions) {
    this.#options = options;
  }

  /** Takes over what a log says about sessions, before any client has connected. */
  restore(sessions: Iterable<Session>): void {
    const { clock, reconnectGraceSeconds } = this.#options;
    const now = clock.monotonicMs();
    this.#graceEndsMs = now + reconnectGraceSeconds * 1000;
    for (const session of sessions) {
      if (session.isOpen) {
        this.#orphans.add(session);
        continue;
      }
      // How long ago by the wall clock, which may have been set meanwhile: not into the future.
      const awayMs = Math.max(0, clock.wallMs() - session.closedAtMs);
      if (session.will !== undefined) this.#delayWill(session, session.will, now - awayMs);
      this.#leave(session, now - awayMs);
    }
  }

  /** The session has a connection. */
  arrive(session: Session): void {
    session.expiresAtMs = Number.POSITIVE_INFINITY;
    this.#absent.delete(session);
    this.#orphans.delete(session);
    this.#delayedWills.delete(session); // [MQTT-3.1.3-9]
  }

  /** The session's connection is over: its will fires, and it ends or waits. */
  depart(session: Session): void {
    const { clock, publishWill, endSession, recordClosed } = this.#options;
    const now = clock.monotonicMs();
    const { will } = session;
    // [MQTT-3.1.2-8]: at once, or when the delay is over or the session ends, whichever is first.
    if (will !== undefined) {
      if (this.#delayOf(will) > 0) {
        this.#delayWill(session, will, now);
      } else {
        session.will = undefined;
        publishWill(session, will);
      }
    }
    if (session.expirySeconds === 0) {
      endSession(session);
      return;
    }
    recordClosed(session, clock.wallMs());
    this.#leave(session, now);
  }

  /** The session ends: a will that was waiting fires now. Whoever begins anew after a restart is not told to have been lost. */
  end(session: Session): void {
    this.#absent.delete(session);
    const { will } = session;
    session.will = undefined;
    const isOrphan = this.#orphans.delete(session);
    this.#delayedWills.delete(session);
    if (will !== undefined && !isOrphan) this.#options.publishWill(session, will);
  }

  /** Looks for what is due. */
  sweep(now: number): void {
    for (const [session, atMs] of this.#delayedWills) {
      if (now < atMs) continue;
      this.#delayedWills.delete(session);
      const { will } = session;
      session.will = undefined;
      if (will !== undefined) this.#options.publishWill(session, will);
    }
    if (this.#orphans.size > 0 && now >= this.#graceEndsMs) {
      for (const session of [...this.#orphans]) {
        this.#orphans.delete(session);
        this.depart(session);
      }
    }
    for (const session of this.#absent) {
      if (now >= session.expiresAtMs) this.#options.endSession(session); // [MQTT-3.1.2-23], [MQTT-4.1.0-2]
    }
  }

  #leave(session: Session, sinceMs: number): void {
    session.expiresAtMs =
      session.expirySeconds === NEVER_EXPIRES
        ? Number.POSITIVE_INFINITY
        : sinceMs + session.expirySeconds * 1000;
    this.#absent.add(session);
  }

  #delayWill(session: Session, will: WillPacket, sinceMs: number): void {
    this.#delayedWills.set(session, sinceMs + this.#delayOf(will) * 1000);
  }

  #delayOf(will: WillPacket): number {
    return Math.min(will.delaySeconds, this.#options.willDelaySecondsMax);
  }
}
