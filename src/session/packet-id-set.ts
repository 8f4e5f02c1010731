// A set of packet ids, 1 to 65,535, as bits: however a client behaves, it costs 8 KiB at most.

const WORDS = 65_536 / 32;
const INITIAL_WORDS = 32;

export class PacketIdSet {
  #words = new Uint32Array(INITIAL_WORDS);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(packetId: number): boolean {
    const word = packetId >>> 5;
    return word < this.#words.length && (this.#words[word]! & (1 << (packetId & 31))) !== 0;
  }

  /** In ascending order. */
  *values(): Generator<number> {
    for (let packetId = 1; packetId < this.#words.length * 32; packetId++)
      if (this.has(packetId)) yield packetId;
  }

  /** True when it was not there. */
  add(packetId: number): boolean {
    const word = packetId >>> 5;
    if (word >= this.#words.length) {
      const grown = new Uint32Array(Math.min(WORDS, 2 ** Math.ceil(Math.log2(word + 1))));
      grown.set(this.#words);
      this.#words = grown;
    }
    const bit = 1 << (packetId & 31);
    if ((this.#words[word]! & bit) !== 0) return false;
    this.#words[word]! |= bit;
    this.#size++;
    return true;
  }

  /** True when it was there. */
  delete(packetId: number): boolean {
    if (!this.has(packetId)) return false;
    this.#words[packetId >>> 5]! &= ~(1 << (packetId & 31));
    this.#size--;
    return true;
  }
}
