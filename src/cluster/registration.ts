// What others know of this node: its key in etcd. It is written once no other node has this name, again whenever what it says has changed, and goes with the
// lease of the node.
import type { Clock } from '../core/clock.js';
import { GomqError } from '../core/errors.js';
import { version } from '../core/version.js';
import type { ClusterView, Coordinator } from './coordinator.js';
import type { LocalLog, LogShape } from './local-log.js';

/** How much longer than its lease the key of a former self may be there. */
const NAMESAKE_MS = 3000;
/** A node that waits for a leader so long tells how far its log is. */
export const TELL_MS = 1000;

export interface RegistrationOptions {
  readonly nodeId: string;
  readonly leaseSeconds: number;
  readonly coordinator: Coordinator;
  readonly clock: Clock;
  readonly local: LocalLog;
  /** Addresses of this node for clients, HOST:PORT, '' where there is none. */
  addresses(): { mqtt: string; http: string };
  /** What is told of the log from now on. */
  onShape(shape: LogShape): void;
  /** Another node has this name. */
  onFailure(error: GomqError): void;
  onDefect(error: unknown): void;
}

export class Registration {
  /** Where other brokers reach this node; to be known before anything is told. */
  peerAddress = '';
  readonly #options: RegistrationOptions;
  #isRegistered = false;
  #isStopped = false;
  /** The end of the log that others were told of. */
  #toldEnd = 0;
  /** Since when there is nobody to follow. */
  #waitingSinceMs: number | undefined = undefined;
  /** Since when a key of another directory is under the name of this node. */
  #namesakeSinceMs: number | undefined = undefined;
  /** It is suspect, and its log grows: what was told says nothing about its end any more, so nobody may compare with it. */
  #isGrowing = false;

  constructor(options: RegistrationOptions) {
    this.#options = options;
  }

  /** Since when there is nobody to follow, on the monotonic clock; undefined where somebody leads. */
  get waitingSinceMs(): number | undefined {
    return this.#waitingSinceMs;
  }

  /** Registers, unless another node has this name: what etcd has from a former self of this one goes with its lease. Answers whether it is registered. */
  introduce({ members }: ClusterView): boolean {
    if (this.#isRegistered) return true;
    const { nodeId, local, clock, leaseSeconds, onFailure } = this.#options;
    const namesake = members.get(nodeId)?.value;
    if (namesake === undefined || namesake.incarnation === local.incarnation) {
      this.#isRegistered = true;
      this.tell();
      return true;
    }
    const nowMs = clock.monotonicMs();
    this.#namesakeSinceMs ??= nowMs;
    if (nowMs - this.#namesakeSinceMs < leaseSeconds * 1000 + NAMESAKE_MS || this.#isStopped) return false;
    const message = `another node called '${nodeId}' is in the cluster, at ${namesake.peer}`;
    const hint = 'Give each node a name of its own with --node-id.';
    onFailure(new GomqError('CLUSTER_MISMATCH', message, { hint }));
    return false;
  }

  /** Has everybody know where this node is, and with which directory. */
  tell(): void {
    // Whoever leaves says nothing any more: its key goes with its lease.
    if (this.#isStopped) return;
    const { coordinator, nodeId, local, addresses, onShape } = this.#options;
    const { shape, incarnation, clusterId, epoch } = local;
    this.#toldEnd = shape.logEnd;
    onShape(shape);
    coordinator.register({
      node: nodeId,
      incarnation,
      clusterId,
      ...shape,
      isSuspect: shape.isSuspect && !this.#isGrowing,
      epoch,
      peer: this.peerAddress,
      ...addresses(),
      version,
    });
  }

  /** Tells again, where it has told already. */
  renew(): void {
    if (this.#isRegistered) this.tell();
  }

  /** Where nobody leads for a while, a person may have to see who has most. */
  tellEnd(nowMs: number, isLed: boolean): void {
    const log = this.#options.local.storage?.log;
    if (isLed || log === undefined) {
      this.#waitingSinceMs = undefined;
      return;
    }
    this.#waitingSinceMs ??= nowMs;
    const isTold = log.endOffset === this.#toldEnd || log.keptOffset < log.endOffset;
    if (isTold || nowMs - this.#waitingSinceMs < TELL_MS) return;
    this.tell();
  }

  // ---- a suspect log ----------------------------------------------------------------------------------------------------------------

  /** Before a suspect log grows, everybody has to know that it is not to be compared with. */
  mayGrow(view: ClusterView | undefined): boolean {
    const { nodeId, local } = this.#options;
    if (!local.isSuspect) return true;
    if (!this.#isGrowing) {
      this.#isGrowing = true;
      this.tell();
    }
    const own = view?.members.get(nodeId)?.value;
    return own?.incarnation === local.incarnation && !own.isSuspect;
  }

  /** Whoever is suspect and gets nothing more can be compared with again, as it is now. */
  stopGrowing(): void {
    const { local, onDefect } = this.#options;
    if (!this.#isGrowing || local.storage === undefined) return;
    this.#isGrowing = false;
    local.storage.log.settled().then(() => this.tell(), onDefect);
  }

  /** It is suspect no more. */
  trusted(): void {
    this.#isGrowing = false;
    this.tell();
  }

  /** Says nothing any more. */
  stop(): void {
    this.#isStopped = true;
  }
}
