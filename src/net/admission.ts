// Owns the count of client connections, in total and per IP address, and says who is turned away. Refusals are logged at most once a second,
// so that a storm of connections does not become a storm of log lines.
import type { Socket } from 'node:net';
import type { Logger } from '../core/logger.js';

export interface AdmissionLimits {
  connections: number;
  connectionsPerAddress: number;
}

const LOG_INTERVAL_MS = 1_000;

/** The connections of one address. Also the one copy of the address as text that they share. */
class Seat {
  readonly admission: Admission;
  readonly address: string;
  count = 0;

  constructor(admission: Admission, address: string) {
    this.admission = admission;
    this.address = address;
  }
}

type SeatedSocket = Socket & { seat?: Seat };

export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #seats = new Map<string, Seat>();
  readonly #refusals: Repeated;
  #count = 0;

  constructor(limits: AdmissionLimits, logger: Logger) {
    this.#limits = limits;
    this.#refusals = new Repeated((count, fields) => {
      logger.warn('connections refused: a limit is reached', { count, ...fields });
    });
  }

  get connectionCount(): number {
    return this.#count;
  }

  /**
   * Counts a socket until it closes. Answers its address as text, or undefined where a limit is reached and the socket must be closed.
   * The memory of the table is bounded by the number of connections.
   */
  admit(socket: Socket, remoteAddress: string): string | undefined {
    if (this.#count >= this.#limits.connections) {
      this.#refusals.report({ limit: 'limits.connections', address: remoteAddress });
      return undefined;
    }
    let seat = this.#seats.get(remoteAddress);
    if (seat === undefined) {
      seat = new Seat(this, remoteAddress);
      this.#seats.set(remoteAddress, seat);
    } else if (seat.count >= this.#limits.connectionsPerAddress) {
      this.#refusals.report({ limit: 'limits.connectionsPerAddress', address: remoteAddress });
      return undefined;
    }
    seat.count += 1;
    this.#count += 1;
    const seated: SeatedSocket = socket;
    seated.seat = seat;
    seated.on('close', leaveSeat);
    return seat.address;
  }

  leave(seat: Seat): void {
    seat.count -= 1;
    this.#count -= 1;
    if (seat.count === 0) this.#seats.delete(seat.address);
  }
}

function leaveSeat(this: SeatedSocket): void {
  this.seat?.admission.leave(this.seat);
}

/** Tells of the first of several like events at once, and of those that follow once a second, with their number. */
export class Repeated {
  readonly #tell: (count: number, latest: Record<string, unknown>) => void;
  #count = 0;
  #latest: Record<string, unknown> = {};
  #timer: NodeJS.Timeout | undefined = undefined;

  constructor(tell: (count: number, latest: Record<string, unknown>) => void) {
    this.#tell = tell;
  }

  report(fields: Record<string, unknown>): void {
    this.#count += 1;
    this.#latest = fields;
    if (this.#timer === undefined) this.#flush();
  }

  #flush(): void {
    this.#timer = undefined;
    if (this.#count === 0) return;
    const count = this.#count;
    this.#count = 0;
    this.#timer = setTimeout(() => this.#flush(), LOG_INTERVAL_MS).unref();
    this.#tell(count, this.#latest);
  }
}
