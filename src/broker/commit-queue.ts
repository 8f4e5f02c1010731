// What waits for the high watermark: acknowledgements and, rarely, other work, in the order in which it arose. An ack is a few numbers in arrays,
// not an object or a promise. What may wait is bounded by what may be uncommitted: each entry belongs to a packet that is, or is counted as one
// (`Connection.countUncommitted`).
import type { Connection } from './connection.js';

const INITIAL_CAPACITY = 1024;

/** What waits takes in memory, about: an acknowledgement, and other work besides the packet that it is about. */
export const ACK_BYTES = 64;
export const WORK_BYTES = 512;

type Waiting = Connection | (() => void);

export class CommitQueue {
  #capacity = INITIAL_CAPACITY;
  #head = 0;
  #size = 0;
  /** Leaves once the high watermark is at least this. Never lower than the entry before. */
  #targets = new Float64Array(INITIAL_CAPACITY);
  #types = new Uint8Array(INITIAL_CAPACITY);
  #packetIds = new Uint16Array(INITIAL_CAPACITY);
  #reasonCodes = new Uint8Array(INITIAL_CAPACITY);
  #waiting: (Waiting | undefined)[] = new Array<Waiting | undefined>(INITIAL_CAPACITY).fill(undefined);

  get size(): number {
    return this.#size;
  }

  /** An acknowledgement for `connection`. */
  pushAck(target: number, connection: Connection, type: number, packetId: number, reasonCode: number): void {
    const at = this.#next();
    this.#targets[at] = target;
    this.#types[at] = type;
    this.#packetIds[at] = packetId;
    this.#reasonCodes[at] = reasonCode;
    this.#waiting[at] = connection;
  }

  pushWork(target: number, work: () => void): void {
    const at = this.#next();
    this.#targets[at] = target;
    this.#waiting[at] = work;
  }

  /** Lets everything go that waited for `highWatermark` or less, in order. */
  release(highWatermark: number): void {
    while (this.#size > 0 && this.#targets[this.#head]! <= highWatermark) {
      const at = this.#head;
      const waiting = this.#waiting[at]!;
      this.#waiting[at] = undefined;
      this.#head = (at + 1) & (this.#capacity - 1);
      this.#size--;
      if (typeof waiting === 'function') waiting();
      else waiting.sendAck(this.#types[at]!, this.#packetIds[at]!, this.#reasonCodes[at]!);
    }
  }

  #next(): number {
    if (this.#size === this.#capacity) this.#grow();
    return (this.#head + this.#size++) & (this.#capacity - 1);
  }

  #grow(): void {
    const capacity = this.#capacity;
    const order = Array.from({ length: capacity }, (_, i) => (this.#head + i) & (capacity - 1));
    const grown = capacity * 2;
    this.#targets = Float64Array.from({ length: grown }, (_, i) =>
      i < capacity ? this.#targets[order[i]!]! : 0,
    );
    this.#types = Uint8Array.from({ length: grown }, (_, i) => (i < capacity ? this.#types[order[i]!]! : 0));
    this.#packetIds = Uint16Array.from({ length: grown }, (_, i) =>
      i < capacity ? this.#packetIds[order[i]!]! : 0,
    );
    this.#reasonCodes = Uint8Array.from({ length: grown }, (_, i) =>
      i < capacity ? this.#reasonCodes[order[i]!]! : 0,
    );
    this.#waiting = Array.from({ length: grown }, (_, i) =>
      i < capacity ? this.#waiting[order[i]!] : undefined,
    );
    this.#head = 0;
    this.#capacity = grown;
  }
}
