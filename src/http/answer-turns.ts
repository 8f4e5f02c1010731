// Bounds what answers with messages hold in memory, however many ask: a few are made and sent at a time, the others wait in the order they came.
// A turn ends when its answer has been taken, and when it is not taken.
import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { GomqError } from '../core/errors.js';

const UNDER_WAY_MAX = 8;
const WAITING_MAX = 256;

export interface AnswerTimeouts {
  /** Without a byte taken. */
  idleMs: number;
  /** Until all is taken. */
  totalMs: number;
}

export interface AnswerTurn {
  /** Nobody is there any more to take the answer. */
  readonly gone: AbortSignal;
  /** The answer is made: from here on it has to be taken. */
  send(): void;
}

export class AnswerTurns {
  readonly #timeouts: AnswerTimeouts;
  #underWay = 0;
  readonly #waiting: (() => void)[] = [];
  /** One for all requests of a connection, which may come without waiting for answers. */
  readonly #gone = new WeakMap<Socket, AbortSignal>();

  constructor(timeouts: AnswerTimeouts) {
    this.#timeouts = timeouts;
  }

  /**
   * Resolves when it is this answer's turn.
   * @throws {GomqError} REFUSED, where too many wait
   */
  async begin(response: ServerResponse, socket: Socket): Promise<AnswerTurn> {
    const gone = this.#goneOf(socket);
    if (this.#underWay < UNDER_WAY_MAX) {
      this.#underWay++;
    } else if (this.#waiting.length < WAITING_MAX) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else {
      throw new GomqError('REFUSED', `${WAITING_MAX} requests for messages are waiting already`, {
        hint: 'Try again in a moment.',
        retriable: true,
      });
    }
    let deadline: NodeJS.Timeout | undefined;
    let isOver = false;
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      clearTimeout(deadline);
      gone.removeEventListener('abort', end);
      response.off('close', end);
      this.#next();
    };
    // A response whose turn on its connection has not come knows nothing of that connection's end.
    gone.addEventListener('abort', end);
    response.on('close', end);
    if (gone.aborted) end();
    const { idleMs, totalMs } = this.#timeouts;
    return {
      gone,
      send: () => {
        if (isOver) return;
        response.setTimeout(idleMs, () => socket.destroy());
        deadline = setTimeout(() => socket.destroy(), totalMs);
      },
    };
  }

  #next(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#underWay--;
    else next();
  }

  #goneOf(socket: Socket): AbortSignal {
    const known = this.#gone.get(socket);
    if (known !== undefined) return known;
    const controller = new AbortController();
    if (socket.destroyed) controller.abort();
    else socket.once('close', () => controller.abort());
    this.#gone.set(socket, controller.signal);
    return controller.signal;
  }
}
