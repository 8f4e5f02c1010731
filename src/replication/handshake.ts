// Owns the question who is at the other end of a connection between brokers, as a conversation of whole frames: no socket, no clock.
//
//     dialer                          listener
//       hello     ------------------>            protocol, cluster
//                 <------------------  challenge
//       proof     ------------------>            secret, cluster id, and what the broker says: epoch, leader, limits
//                 <------------------  welcome
//
// Each MAC is an HMAC-SHA-256 with the cluster secret over a label and all frames so far, its own included with zeros in its place. Both nonces
// are in those frames, so a MAC is good for one connection; so are names, purpose and client, so none of them can be changed on the way; and
// the labels differ, so a proof cannot be sent back as a welcome. The dialer proves first: somebody who only knocks learns no MAC to guess the
// secret by. Where both sides show certificates the secret may be empty; the same frames then prove nothing, and do no harm.
//
// This keeps strangers out. It neither hides nor protects what follows: on a network that others have a hand in, that takes TLS.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Socket } from 'node:net';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import { peerProtocolError } from './frame-fields.js';
import { FrameGatherer } from './frame-gatherer.js';
import {
  CERTIFICATE_NAME_BYTES_MAX,
  DIGEST_BYTES,
  decodeFrame,
  encodeSmall,
  HANDSHAKE_FRAME_BYTES_MAX,
  type HelloFrame,
  helloProtocol,
  MAC_AT,
  NAME_BYTES_MAX,
  PEER_PROTOCOL_VERSION,
  type ProofFrame,
  type Purpose,
  type Refusal,
  type RefusalCode,
  type TunnelClient,
  type WelcomeFrame,
} from './frames.js';

/** Both sides give up after this long, TLS included. */
export const HANDSHAKE_TIMEOUT_MS = 3_000;

/** Who this broker is, at the moment. */
export interface PeerIdentity {
  /** The name of the cluster. */
  readonly cluster: string;
  /** '' where the directory has not been in one. */
  readonly clusterId: string;
  readonly node: string;
  readonly incarnation: string;
  readonly epoch: number;
}

/**
 * The broker at the other end does not let this one in. Nobody vouches for the reason, which may come from a stranger: it is something to tell
 * and to try again upon, and nothing to throw data away for.
 */
export class PeerRefusedError extends GomqError {
  readonly refusal: RefusalCode;
  /** That the other broker knows; 0 where it did not say. */
  readonly epoch: number;

  constructor(refusal: RefusalCode, message: string, epoch: number) {
    const retriable =
      refusal === 'epoch' || refusal === 'limit' || refusal === 'not-leader' || refusal === 'stopping';
    super('PEER_REFUSED', message, { retriable });
    this.refusal = refusal;
    this.epoch = epoch;
  }
}

/** What one side does upon a frame: bytes to send first, and whether that ends it. */
export type HandshakeStep<Result> =
  | { readonly kind: 'reply'; readonly bytes: Buffer }
  | { readonly kind: 'done'; readonly bytes: Buffer | undefined; readonly result: Result }
  | { readonly kind: 'refuse'; readonly bytes: Buffer; readonly refusal: Refusal };

/** One side of the conversation. */
export interface Handshake<Result> {
  /**
   * Takes a whole frame.
   * @throws {GomqError} PEER_PROTOCOL, or PEER_REFUSED (PeerRefusedError) at the dialer
   */
  receive(frame: Buffer): HandshakeStep<Result>;
}

/** What the dialer knows of the listener at the end. */
export interface Welcome {
  readonly node: string;
  readonly epoch: number;
}

/** What the listener knows of the dialer at the end. */
export interface Welcomed {
  readonly hello: HelloFrame;
  /** Where the purpose is a tunnel. */
  readonly client: TunnelClient | undefined;
}

const NO_MAC = Buffer.alloc(DIGEST_BYTES);
const PROOF_LABEL = 'gomq peer proof\0';
const WELCOME_LABEL = 'gomq peer welcome\0';

/**
 * The MAC of `last`, which is the last of the frames and has its own MAC in it.
 * @param frames whole frames: each begins with its length, so no two conversations are the same bytes
 */
function macOf(secret: string, label: string, frames: readonly Buffer[], last: Buffer): Buffer {
  const hmac = createHmac('sha256', secret).update(label);
  for (const frame of frames) hmac.update(frame);
  hmac
    .update(last.subarray(0, MAC_AT))
    .update(NO_MAC)
    .update(last.subarray(MAC_AT + DIGEST_BYTES));
  return hmac.digest();
}

/** Bytes of a frame that tells its own MAC. */
function seal(
  secret: string,
  label: string,
  frames: readonly Buffer[],
  frame: Omit<ProofFrame, 'mac'> | Omit<WelcomeFrame, 'mac'>,
): Buffer {
  const bytes = encodeSmall({ ...frame, mac: NO_MAC });
  macOf(secret, label, frames, bytes).copy(bytes, MAC_AT);
  return bytes;
}

export interface DialerOptions {
  readonly identity: PeerIdentity;
  readonly secret: string;
  readonly purpose: Purpose;
  /** For a tunnel. */
  readonly client?: TunnelClient | undefined;
  /** Random where absent. */
  readonly nonce?: Buffer;
}

export class DialerHandshake implements Handshake<Welcome> {
  /** To be sent before anything is received. */
  readonly hello: Buffer;
  readonly #options: DialerOptions;
  #challenge: Buffer | undefined = undefined;
  #listenerNode = '';
  #proof: Buffer | undefined = undefined;

  /** @throws {GomqError} PEER_PROTOCOL when the client cannot be described */
  constructor(options: DialerOptions) {
    this.#options = options;
    const { identity, purpose, client } = options;
    assert((purpose === 'tunnel') === (client !== undefined), 'a tunnel has a client');
    if (client !== undefined) checkClient(client);
    this.hello = encodeSmall({
      type: 'hello',
      epoch: identity.epoch,
      protocol: PEER_PROTOCOL_VERSION,
      purpose,
      nonce: options.nonce ?? randomBytes(DIGEST_BYTES),
      cluster: identity.cluster,
      clusterId: identity.clusterId,
      node: identity.node,
      incarnation: identity.incarnation,
    });
  }

  receive(bytes: Buffer): HandshakeStep<Welcome> {
    const frame = decodeFrame(bytes);
    const { identity, secret, client } = this.#options;
    if (frame.type === 'refused') throw new PeerRefusedError(frame.code, frame.message, frame.epoch);
    if (frame.type === 'challenge' && this.#challenge === undefined) {
      this.#challenge = bytes;
      this.#listenerNode = frame.node;
      const proof = { type: 'proof', epoch: identity.epoch, client } as const;
      this.#proof = seal(secret, PROOF_LABEL, [this.hello, bytes], proof);
      return { kind: 'reply', bytes: this.#proof };
    }
    if (frame.type === 'welcome' && this.#challenge !== undefined && this.#proof !== undefined) {
      const mac = macOf(secret, WELCOME_LABEL, [this.hello, this.#challenge, this.#proof], bytes);
      if (!timingSafeEqual(mac, frame.mac)) {
        const message = `the broker that calls itself ${this.#listenerNode} does not know the cluster secret`;
        throw new PeerRefusedError('secret', message, 0);
      }
      if (frame.node !== this.#listenerNode) {
        throw peerProtocolError(`welcome of ${frame.node} behind a challenge of ${this.#listenerNode}`);
      }
      return { kind: 'done', bytes: undefined, result: { node: frame.node, epoch: frame.epoch } };
    }
    throw peerProtocolError(`${frame.type} at the wrong time of the handshake`);
  }
}

/** What comes from a client's certificate may be anything, and a name that is cut off would be somebody else's. */
function checkClient({ address, certificateName }: TunnelClient): void {
  if (Buffer.byteLength(address) > NAME_BYTES_MAX)
    throw peerProtocolError('proof: the client address is too long');
  const bytes = certificateName === undefined ? 0 : Buffer.byteLength(certificateName);
  if (bytes > CERTIFICATE_NAME_BYTES_MAX) {
    throw peerProtocolError(
      `proof: a certificate name of ${bytes} bytes is longer than ${CERTIFICATE_NAME_BYTES_MAX}`,
    );
  }
}

export interface ListenerOptions {
  readonly identity: PeerIdentity;
  readonly secret: string;
  /** Asked when the peer has proved that it belongs here; what is answered is told to it. */
  mayAccept(hello: HelloFrame): Refusal | undefined;
  /** Random where absent. */
  readonly nonce?: Buffer;
}

export class ListenerHandshake implements Handshake<Welcomed> {
  readonly #options: ListenerOptions;
  #hello: HelloFrame | undefined = undefined;
  /** The bytes of hello and challenge. */
  #frames: readonly Buffer[] = [];

  constructor(options: ListenerOptions) {
    this.#options = options;
  }

  receive(bytes: Buffer): HandshakeStep<Welcomed> {
    if (this.#hello === undefined) return this.#receiveHello(bytes);
    return this.#receiveProof(this.#hello, bytes);
  }

  #receiveHello(bytes: Buffer): HandshakeStep<Welcomed> {
    const { identity } = this.#options;
    const protocol = helloProtocol(bytes);
    if (protocol !== undefined && protocol !== PEER_PROTOCOL_VERSION) {
      return this.#refuse('protocol', `protocol ${protocol} is not ${PEER_PROTOCOL_VERSION}`);
    }
    const hello = decodeFrame(bytes);
    if (hello.type !== 'hello') throw peerProtocolError(`${hello.type} before hello`);
    if (hello.cluster !== identity.cluster) {
      // Not which cluster this is: whoever asks has proved nothing.
      return this.#refuse('cluster', `this broker is of another cluster than ${hello.cluster}`);
    }
    const nonce = this.#options.nonce ?? randomBytes(DIGEST_BYTES);
    const challenge = encodeSmall({ type: 'challenge', epoch: identity.epoch, nonce, node: identity.node });
    this.#hello = hello;
    this.#frames = [bytes, challenge];
    return { kind: 'reply', bytes: challenge };
  }

  #receiveProof(hello: HelloFrame, bytes: Buffer): HandshakeStep<Welcomed> {
    const { identity, secret } = this.#options;
    const proof = decodeFrame(bytes);
    if (proof.type !== 'proof') throw peerProtocolError(`${proof.type} in place of proof`);
    if (!timingSafeEqual(macOf(secret, PROOF_LABEL, this.#frames, bytes), proof.mac)) {
      return this.#refuse('secret', 'the cluster secret is another one');
    }
    if ((hello.purpose === 'tunnel') !== (proof.client !== undefined)) {
      throw peerProtocolError(
        `proof: ${hello.purpose} ${proof.client === undefined ? 'without' : 'with'} a client`,
      );
    }
    if (hello.clusterId !== '' && identity.clusterId !== '' && hello.clusterId !== identity.clusterId) {
      const both = `the data of ${hello.node} is of cluster ${hello.clusterId}, that of ${identity.node}`;
      return this.#refuse('cluster-id', `${both} of ${identity.clusterId}`);
    }
    const refusal = this.#options.mayAccept(hello);
    if (refusal !== undefined) return this.#refuse(refusal.code, refusal.message);
    const welcome = { type: 'welcome', epoch: identity.epoch, node: identity.node } as const;
    return {
      kind: 'done',
      bytes: seal(secret, WELCOME_LABEL, [...this.#frames, bytes], welcome),
      result: { hello, client: proof.client },
    };
  }

  #refuse(code: RefusalCode, message: string): HandshakeStep<Welcomed> {
    const bytes = encodeSmall({ type: 'refused', epoch: this.#options.identity.epoch, code, message });
    return { kind: 'refuse', bytes, refusal: { code, message } };
  }
}

/** How a handshake over a socket ends: in one of these calls. */
export interface HandshakeEvents<Result> {
  /**
   * The socket is paused and nobody listens to it but for an ignored error: whoever takes it listens before this returns, and resumes it.
   * @param alreadyRead what came behind the last frame of the handshake
   */
  onDone(result: Result, alreadyRead: Buffer): void;
  /** The reason was sent; the socket takes what still comes, and closes when the peer does. The owner bounds the time of that. */
  onRefused(refusal: Refusal): void;
  /** The socket is destroyed. The error is undefined where the peer just left. */
  onFailed(error: Error | undefined): void;
}

/** Lets `handshake` talk over a connected socket. Bounds bytes, not time: the owner destroys the socket when that is over. */
export function converse<Result>(
  socket: Socket,
  handshake: Handshake<Result>,
  events: HandshakeEvents<Result>,
): void {
  const gatherer = new FrameGatherer(HANDSHAKE_FRAME_BYTES_MAX);
  let failure: Error | undefined;
  const leave = () => {
    socket.off('data', onData);
    socket.off('close', onClose);
    socket.off('error', onError);
  };
  const onClose = () => {
    leave();
    events.onFailed(failure);
  };
  const onError = (error: Error) => {
    failure ??= error;
  };
  const onData = (chunk: Buffer) => {
    let step: HandshakeStep<Result> | undefined;
    try {
      step = advance(socket, gatherer, handshake, chunk);
    } catch (error) {
      if (!isPeerError(error)) throw error;
      leave();
      socket.destroy();
      events.onFailed(error);
      return;
    }
    if (step === undefined) return;
    leave();
    if (step.kind === 'done') {
      socket.pause();
      events.onDone(step.result, gatherer.takeRest());
    } else if (step.kind === 'refuse') {
      socket.end();
      // Read and dropped: closing with unread bytes resets the connection, and the reset can overtake the reason.
      socket.resume();
      events.onRefused(step.refusal);
    }
  };
  socket.on('data', onData);
  socket.on('close', onClose);
  socket.on('error', onError);
  // Stays for good, so that a socket that breaks between two owners does not take the process with it.
  socket.on('error', ignore);
}

/** Answers what arrived; the last step, or undefined where more has to come. */
function advance<Result>(
  socket: Socket,
  gatherer: FrameGatherer,
  handshake: Handshake<Result>,
  chunk: Buffer,
): HandshakeStep<Result> | undefined {
  gatherer.push(chunk);
  for (;;) {
    const frame = gatherer.next();
    if (frame === undefined) return undefined;
    const step = handshake.receive(frame);
    if (step.bytes !== undefined) socket.write(step.bytes);
    if (step.kind !== 'reply') return step;
  }
}

/** The other side is at fault, or says that this one is. */
export function isPeerError(error: unknown): error is GomqError {
  return error instanceof GomqError && (error.code === 'PEER_PROTOCOL' || error.code === 'PEER_REFUSED');
}

function ignore(): void {}
