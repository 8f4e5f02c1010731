// Owns one connection between a leader and a member, from the end of the handshake on: frames in and out. What is sent waits in the socket, and
// how much that is can be seen; whoever sends keeps it small, and a link on which it grows without end is closed. Silence is not noticed here:
// that takes heartbeats, which the layers above send.
import type { Socket } from 'node:net';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import { peerProtocolError } from './frame-fields.js';
import { FrameGatherer } from './frame-gatherer.js';
import {
  decodeFrame,
  encodeFrame,
  FRAME_BYTES_MAX,
  type Frame,
  type FrameToLeader,
  type FrameToMember,
  type FrameType,
} from './frames.js';
import { isPeerError } from './handshake.js';

/** A link on which more than this waits to be sent is closed: room for the largest frame, and for heartbeats behind it. */
export const LINK_PENDING_BYTES_MAX = FRAME_BYTES_MAX + 16 * 1024 * 1024;
/** After `end` the peer has this long to take what was sent; what it has not taken then is lost, even if it was about to. */
const END_GRACE_MS = 1_000;

export interface PeerLinkHandler<Received extends Frame> {
  /**
   * One frame. Its buffers are parts of what arrived, which nobody writes to again, so they may be kept without copying; see FrameGatherer
   * for what that keeps with them.
   * @throws {GomqError} PEER_PROTOCOL, PEER_REFUSED, which close the link
   */
  onFrame(frame: Received): void;
  /** `send` answered false before, and now nothing waits any more. */
  onDrain(): void;
  /** Once, and nothing comes after it. The error is the reason given to `destroy`, or what broke the link; undefined where the peer closed it. */
  onClose(error: Error | undefined): void;
}

/** At a member. */
export type LinkToLeader = PeerLink<FrameToLeader, FrameToMember>;
/** At the leader. */
export type LinkToMember = PeerLink<FrameToMember, FrameToLeader>;

const TO_LEADER: ReadonlySet<FrameType> = new Set<FrameToLeader['type']>(['position', 'ack', 'stateHash']);
const TO_MEMBER: ReadonlySet<FrameType> = new Set<FrameToMember['type']>([
  'resume',
  'snapshotBegin',
  'snapshotChunk',
  'snapshotEnd',
  'append',
  'heartbeat',
  'refused',
]);

/** @param alreadyRead what came behind the handshake */
export function linkToLeader(socket: Socket, node: string, alreadyRead: Buffer): LinkToLeader {
  return new PeerLink<FrameToLeader, FrameToMember>(socket, node, TO_MEMBER, alreadyRead);
}

/** @param alreadyRead what came behind the handshake */
export function linkToMember(socket: Socket, node: string, alreadyRead: Buffer): LinkToMember {
  return new PeerLink<FrameToMember, FrameToLeader>(socket, node, TO_LEADER, alreadyRead);
}

export class PeerLink<Sent extends Frame, Received extends Frame> {
  /** The node at the other end. */
  readonly node: string;
  readonly #socket: Socket;
  readonly #receives: ReadonlySet<FrameType>;
  readonly #gatherer = new FrameGatherer(FRAME_BYTES_MAX);
  #handler: PeerLinkHandler<Received> | undefined = undefined;
  /** True until `start`, too. */
  #isPaused = true;
  #isEnding = false;
  #isClosed = false;
  #isCorked = false;
  #error: Error | undefined = undefined;
  #endTimer: NodeJS.Timeout | undefined = undefined;

  /** @param socket paused, with nothing of what comes in this connection lost but `alreadyRead` */
  constructor(socket: Socket, node: string, receives: ReadonlySet<FrameType>, alreadyRead: Buffer) {
    this.#socket = socket;
    this.node = node;
    this.#receives = receives;
    this.#gatherer.push(alreadyRead);
    socket.on('data', (chunk) => this.#received(chunk));
    socket.on('drain', () => {
      if (!this.#isEnding) this.#handler?.onDrain();
    });
    // A peer that sends no more is a peer that is gone: links are never open on one side only.
    socket.on('end', () => socket.destroy());
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    socket.on('close', () => this.#closed());
  }

  /** From now on frames arrive, the first one after this has returned. */
  start(handler: PeerLinkHandler<Received>): void {
    assert(this.#handler === undefined, 'a link is started once');
    this.#handler = handler;
    if (this.#isClosed) process.nextTick(() => handler.onClose(this.#error));
    else this.resume();
  }

  /** Bytes that wait to be sent. */
  get pendingBytes(): number {
    return this.#socket.writableLength;
  }

  /**
   * Sends a frame, together with the others of this turn. Batches and chunks in it must not change any more.
   * @returns false where much waits: `onDrain` comes when all of it is gone. Nothing is refused because of that, but see LINK_PENDING_BYTES_MAX.
   */
  send(frame: Sent): boolean {
    const socket = this.#socket;
    if (this.#isEnding || !socket.writable) return false;
    if (socket.writableLength > LINK_PENDING_BYTES_MAX) {
      const waiting = `${socket.writableLength} bytes wait for ${this.node}`;
      this.destroy(new GomqError('PEER_UNREACHABLE', `${waiting}, which does not take them`));
      return false;
    }
    if (!this.#isCorked) {
      this.#isCorked = true;
      socket.cork();
      process.nextTick(() => this.#uncork());
    }
    let hasRoom = true;
    for (const piece of encodeFrame(frame)) hasRoom = socket.write(piece);
    return hasRoom;
  }

  /** No frame arrives until `resume`, and what the peer sends then waits with it; nor is it noticed when the peer closes. */
  pause(): void {
    this.#isPaused = true;
    this.#socket.pause();
  }

  /** The first frame arrives after this has returned. */
  resume(): void {
    if (!this.#isPaused || this.#isEnding) return;
    this.#isPaused = false;
    process.nextTick(() => {
      // What waited comes before anything new.
      this.#readFrames();
      if (!this.#isPaused) this.#socket.resume();
    });
  }

  /** Sends what waits, within a bounded time, and closes then. No frame arrives any more. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#uncork();
    this.#socket.end();
    // Read and dropped: closing with unread bytes resets the connection, and the reset can overtake the last frame.
    this.#gatherer.takeRest();
    this.#socket.resume();
    this.#endTimer = setTimeout(() => this.#socket.destroy(), END_GRACE_MS).unref();
  }

  /** Closes at once. No frame arrives any more; `onClose` comes after this has returned. */
  destroy(reason?: Error): void {
    this.#isEnding = true;
    this.#error ??= reason;
    this.#socket.destroy();
  }

  #received(chunk: Buffer): void {
    if (this.#isEnding) return;
    this.#gatherer.push(chunk);
    this.#readFrames();
  }

  #readFrames(): void {
    try {
      while (!this.#isPaused && !this.#isEnding) {
        const bytes = this.#gatherer.next();
        if (bytes === undefined) return;
        const frame = decodeFrame(bytes);
        if (!this.#receives.has(frame.type)) throw peerProtocolError(`${frame.type} at the wrong time`);
        this.#handler?.onFrame(frame as Received);
      }
    } catch (error) {
      if (!isPeerError(error)) throw error;
      this.destroy(error);
    }
  }

  #uncork(): void {
    if (!this.#isCorked) return;
    this.#isCorked = false;
    this.#socket.uncork();
  }

  #closed(): void {
    this.#isEnding = true;
    this.#isClosed = true;
    clearTimeout(this.#endTimer);
    this.#handler?.onClose(this.#error);
  }
}
