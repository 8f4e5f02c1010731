// The network between brokers: connections that keep the order of what is sent and take their time, paths that are cut one way or both, connections
// that break with what is under way, or go silent without anybody being told. A path that is cut holds things up, as TCP does, and lets them go when
// it is whole again.

import type {
  Frame,
  FrameToLeader,
  FrameToMember,
  HelloFrame,
  Refusal,
} from '../../src/replication/frames.js';
import { isPeerError } from '../../src/replication/handshake.js';
import type { LinkToLeader, LinkToMember, PeerLinkHandler } from '../../src/replication/peer-link.js';
import type { Life, World } from './world.js';

/** A connection on which nothing arrives any more is found out by the member's keepalive after so long: 15 s, and ten probes. */
const SILENCE_MS = 25_000;

/** Who dials. */
export type Hello = Pick<HelloFrame, 'node' | 'incarnation' | 'epoch' | 'clusterId'>;

/** A process that listens for others. */
export interface Listener {
  readonly life: Life;
  mayAccept(hello: Hello): Refusal | undefined;
  onReplica(link: LinkToMember, hello: Hello): void;
}

export class Network {
  readonly world: World;
  /** Upper bound of what a frame takes. */
  slowMs = 3;
  readonly #cuts = new Map<string, number>();
  readonly #listeners = new Map<string, Listener>();
  readonly #isDown = new Set<string>();
  #connections: Connection[] = [];

  constructor(world: World) {
    this.world = world;
  }

  delay(): number {
    return this.world.delay(0.1, this.slowMs);
  }

  // ---- faults -----------------------------------------------------------------------------------------------------------------------

  /** Answers how to make the path whole again. */
  cut(from: string, to: string): () => void {
    const path = `${from}>${to}`;
    this.#cuts.set(path, (this.#cuts.get(path) ?? 0) + 1);
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      const left = this.#cuts.get(path)! - 1;
      if (left > 0) this.#cuts.set(path, left);
      else this.#cuts.delete(path);
      for (const connection of this.#connections) connection.release();
    };
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.size > 0 && this.#cuts.has(`${from}>${to}`);
  }

  /** Connections that are there, for a fault to choose from. */
  get open(): readonly Connection[] {
    this.#connections = this.#connections.filter(({ isOver }) => !isOver);
    return this.#connections;
  }

  // ---- machines and processes -------------------------------------------------------------------------------------------------------

  listen(node: string, listener: Listener): void {
    this.#listeners.set(node, listener);
  }

  /** The process is gone: the kernel closes what it had open. With the machine everything just stops. */
  onGone(life: Life, isMachine: boolean): void {
    this.#listeners.delete(life.node);
    if (isMachine) this.#isDown.add(life.node);
    for (const connection of this.open) connection.onGone(life, isMachine);
  }

  onBoot(node: string): void {
    if (!this.#isDown.delete(node)) return;
    for (const connection of this.open) connection.onBoot(node);
  }

  // ---- what the dialer does ---------------------------------------------------------------------------------------------------------

  dial(
    life: Life,
    to: string,
    hello: Hello,
    timeoutMs: number,
    answer: (link: LinkToLeader | undefined, why: string) => void,
  ): void {
    const { world } = this;
    const from = life.node;
    let isAnswered = false;
    const tell = (link: LinkToLeader | undefined, why: string): void => {
      isAnswered = true;
      answer(link, why);
    };
    world.after(timeoutMs, life, () => {
      if (!isAnswered) tell(undefined, 'no answer in time');
    });
    // There, a challenge back, and there again: the hello is as old as all that.
    world.after(this.delay() + this.delay() + this.delay(), undefined, () => {
      if (this.isCut(from, to) || this.isCut(to, from) || this.#isDown.has(to)) return;
      const listener = this.#listeners.get(to);
      const back = (work: () => void): void =>
        world.after(this.delay(), undefined, () => {
          if (this.isCut(to, from)) return;
          world.reach(life, () => {
            if (!isAnswered) work();
          });
        });
      if (listener === undefined) {
        back(() => tell(undefined, 'refused'));
        return;
      }
      world.reach(listener.life, () => {
        const refusal = listener.mayAccept(hello);
        if (refusal !== undefined) {
          back(() => tell(undefined, refusal.code));
          return;
        }
        const connection = new Connection(this, life, listener.life);
        this.#connections.push(connection);
        listener.onReplica(connection.atListener as unknown as LinkToMember, hello);
        // The welcome is the first thing on the connection, and a dialer that has given up closes it.
        connection.transmit(connection.atListener, () => {
          world.reach(life, () => {
            if (isAnswered) connection.atDialer.destroy();
            else tell(connection.atDialer as unknown as LinkToLeader, '');
          });
        });
      });
    });
  }

  probe(
    life: Life,
    to: string,
    timeoutMs: number,
    answer: (found: 'there' | 'gone' | 'silent') => void,
  ): void {
    const { world } = this;
    const from = life.node;
    world.after(this.delay(), undefined, () => {
      const isLost = this.isCut(from, to) || this.isCut(to, from) || this.#isDown.has(to);
      const found = isLost ? 'silent' : this.#listeners.has(to) ? 'there' : 'gone';
      world.after(isLost ? timeoutMs : this.delay(), life, () => answer(found));
    });
  }
}

class Connection {
  readonly #network: Network;
  readonly atDialer: End;
  readonly atListener: End;
  #isBlackHole = false;

  constructor(network: Network, dialer: Life, listener: Life) {
    this.#network = network;
    this.atDialer = new End(this, network.world, dialer, listener.node);
    this.atListener = new End(this, network.world, listener, dialer.node);
  }

  get isOver(): boolean {
    return this.atDialer.isClosed && this.atListener.isClosed;
  }

  get name(): string {
    return `${this.atDialer.life.node}-${this.atListener.life.node}`;
  }

  /** Carries something to the other end, behind everything that was sent before. */
  transmit(from: End, arrive: () => void): void {
    if (this.#isBlackHole) return;
    const { world } = this.#network;
    from.arrivesMs = Math.max(from.arrivesMs, world.nowMs + this.#network.delay());
    world.after(from.arrivesMs - world.nowMs, undefined, () => this.#deliver(from, arrive));
  }

  /** The path may be whole again. */
  release(): void {
    for (const from of [this.atDialer, this.atListener]) {
      if (from.stalled.length === 0 || this.#network.isCut(from.life.node, from.node)) continue;
      for (const arrive of from.stalled.splice(0)) this.transmit(from, arrive);
    }
  }

  /** Breaks with what is under way. */
  reset(): void {
    for (const end of [this.atDialer, this.atListener]) end.onClosed('reset');
  }

  /** Nothing arrives any more, and nobody is told. */
  swallow(): void {
    this.#isBlackHole = true;
    const { world } = this.#network;
    world.after(SILENCE_MS, undefined, () => this.reset());
  }

  onGone(life: Life, isMachine: boolean): void {
    for (const end of [this.atDialer, this.atListener]) {
      if (end.life !== life || end.isClosed) continue;
      if (!isMachine) {
        end.isClosed = true;
        const other = this.otherThan(end);
        this.transmit(end, () => other.onClosed(undefined));
        continue;
      }
      end.isClosed = true;
      this.swallow();
    }
  }

  /** A machine that knows nothing of a connection resets it as soon as something comes: from a leader at once, from a member when it probes. */
  onBoot(node: string): void {
    const { world } = this.#network;
    if (this.atDialer.life.node === node && this.atDialer.isClosed)
      world.after(this.#network.delay() * 2, undefined, () => this.atListener.onClosed('reset'));
    if (this.atListener.life.node === node && this.atListener.isClosed)
      world.after(world.delay(1, 15_000), undefined, () => this.atDialer.onClosed('reset'));
  }

  otherThan(end: End): End {
    return end === this.atDialer ? this.atListener : this.atDialer;
  }

  #deliver(from: End, arrive: () => void): void {
    if (this.#isBlackHole) return;
    if (from.stalled.length > 0 || this.#network.isCut(from.life.node, from.node)) from.stalled.push(arrive);
    else arrive();
  }
}

/** One end of a connection, as PeerLink shows it. */
class End {
  /** The node at the other end. */
  readonly node: string;
  readonly life: Life;
  readonly #connection: Connection;
  readonly #world: World;
  #handler: PeerLinkHandler<Frame> | undefined = undefined;
  readonly #early: Frame[] = [];
  /** Told to the handler. */
  #hasEnded = false;
  isClosed = false;
  arrivesMs = 0;
  readonly stalled: (() => void)[] = [];

  constructor(connection: Connection, world: World, life: Life, node: string) {
    this.#connection = connection;
    this.#world = world;
    this.life = life;
    this.node = node;
  }

  start(handler: PeerLinkHandler<Frame>): void {
    this.#handler = handler;
    this.#world.after(0, this.life, () => {
      for (const frame of this.#early.splice(0)) this.#take(frame);
    });
    if (this.isClosed) this.#end(undefined);
  }

  send(frame: FrameToLeader | FrameToMember): boolean {
    if (this.isClosed) return false;
    const other = this.#connection.otherThan(this);
    this.#connection.transmit(this, () => this.#world.reach(other.life, () => other.#arrived(frame)));
    return true;
  }

  destroy(reason?: Error): void {
    if (this.isClosed) return;
    this.isClosed = true;
    const other = this.#connection.otherThan(this);
    this.#connection.transmit(this, () => other.onClosed(undefined));
    this.#end(reason);
  }

  /** After what was sent. */
  end(): void {
    this.destroy();
  }

  onClosed(why: string | undefined): void {
    this.#world.reach(this.life, () => {
      if (this.isClosed) return;
      this.isClosed = true;
      this.#end(why === undefined ? undefined : new Error(why));
    });
  }

  #arrived(frame: Frame): void {
    if (this.isClosed) return;
    if (this.#handler === undefined || this.#early.length > 0) this.#early.push(frame);
    else this.#take(frame);
  }

  #take(frame: Frame): void {
    if (this.isClosed) return;
    try {
      this.#handler!.onFrame(frame);
    } catch (error) {
      if (!isPeerError(error)) throw error;
      this.destroy(error);
    }
  }

  #end(error: Error | undefined): void {
    if (this.#handler === undefined || this.#hasEnded) return;
    this.#hasEnded = true;
    this.#world.after(0, this.life, () => this.#handler!.onClose(error));
  }
}
