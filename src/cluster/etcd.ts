// etcd as the judge of a cluster: hands out views of its keys, holds this node's lease, writes this node's key, and puts transactions until it is
// known what became of them. Four lines to etcd, so that none waits for another: reads, the watch, the lease, writes.
//
// What is handed out was read at one revision, and is newer than what was handed out before. The watch only says that there is something to read; a
// read once a second finds what it may have missed.
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '../core/assert.js';
import { GomqError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { Alarm } from './alarm.js';
import type {
  ClusterView,
  Coordinator,
  CoordinatorEvents,
  MemberKey,
  Outcome,
  Transaction,
} from './coordinator.js';
import { type EtcdAccess, EtcdLine, EtcdToken } from './etcd-client.js';
import { EtcdKeys, revisionOf, type Unreadable } from './etcd-keys.js';
import { EtcdLease } from './etcd-lease.js';

export interface EtcdCoordinatorOptions extends EtcdAccess {
  /** Of the cluster: brokers with another name do not see one another. */
  readonly cluster: string;
  readonly leaseSeconds: number;
  readonly clock: { monotonicMs(): number };
  readonly logger: Logger;
}

const POLL_MS = 1000;
const READ_MS = 1000;
/** A write waits for the disks of etcd. */
const WRITE_MS = 2000;
const RETRY_MS = 100;
/** Who decides elections decides one thing after the other: more is a defect. */
const COMMITS_MAX = 16;

type Line = 'read' | 'watch' | 'lease' | 'write';

export class EtcdCoordinator implements Coordinator {
  readonly #options: EtcdCoordinatorOptions;
  readonly #keys: EtcdKeys;
  readonly #lines: Record<Line, EtcdLine>;
  readonly #lease: EtcdLease;
  readonly #readAlarm = new Alarm();
  readonly #watchAlarm = new Alarm();
  readonly #memberAlarm = new Alarm();
  readonly #closing = new AbortController();
  readonly #loops: Promise<void>[] = [];
  #events: CoordinatorEvents | undefined;
  #commits = 0;

  /** What was handed out last. */
  #view: ClusterView | undefined;
  /** The highest revision that was read, and what it was before etcd went back, until that is certain. */
  #revision = 0;
  #wentBackTo: number | undefined;
  #unreadable: Unreadable | undefined;
  /** Polls that found what the watch had not told. */
  #watchMissed = 0;

  #member: MemberKey | undefined;
  /** When the key was written last; 0 where it has to be written. */
  #memberRevision = 0;

  /** Failures in a row. */
  readonly #failures: Record<Line, number> = { read: 0, watch: 0, lease: 0, write: 0 };
  #isReachable: boolean | undefined;

  constructor(options: EtcdCoordinatorOptions) {
    assert(options.endpoints.length > 0, 'there is an etcd to ask');
    this.#options = options;
    this.#keys = new EtcdKeys(options.cluster);
    const token = new EtcdToken(options);
    const line = () => new EtcdLine(options, token);
    this.#lines = { read: line(), watch: line(), lease: line(), write: line() };
    this.#lease = new EtcdLease({
      line: this.#lines.lease,
      seconds: options.leaseSeconds,
      monotonicMs: () => options.clock.monotonicMs(),
      retryMs: RETRY_MS,
      onGranted: () => this.#writeMember(),
      onHeld: (sentAtMs) => this.#events!.onLease(sentAtMs),
      onGone: () => this.#events!.onLeaseLost(),
      onProblem: (error) => this.#tell('lease', error),
    });
  }

  start(events: CoordinatorEvents): void {
    assert(this.#events === undefined, 'a coordinator is started once');
    this.#events = events;
    this.#loops.push(this.#readLoop(), this.#watchLoop(), this.#memberLoop(), this.#lease.run());
  }

  register(member: MemberKey): void {
    this.#member = member;
    this.#writeMember();
  }

  async commit(transaction: Transaction): Promise<Outcome> {
    const { state, leader } = transaction;
    assert(state !== undefined || leader !== undefined, 'a transaction changes something');
    assert(this.#commits < COMMITS_MAX, `there are no more than ${COMMITS_MAX} transactions at a time`);
    this.#commits += 1;
    try {
      const isLeased = leader !== undefined && leader !== 'delete';
      for (;;) {
        const lease = isLeased ? await this.#lease.held() : undefined;
        this.#refuseWhenClosed();
        const outcome = await this.#try(transaction, lease);
        if (outcome !== undefined) return outcome;
      }
    } finally {
      this.#commits -= 1;
    }
  }

  async close(graceMs: number): Promise<void> {
    if (this.#isClosed) return;
    const endMs = this.#options.clock.monotonicMs() + graceMs;
    this.#closing.abort();
    this.#lease.stop();
    for (const alarm of [this.#readAlarm, this.#watchAlarm, this.#memberAlarm]) alarm.ring();
    this.#lines.read.close();
    this.#lines.watch.close();
    // A member key or leader key that is still under way goes with the lease, or is refused because there is none.
    this.#lines.write.close();
    await this.#revoke(endMs);
    this.#lines.lease.close();
    await Promise.all(this.#loops);
  }

  get #isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Each copy of a transaction expects the same revisions, so that only one can be carried out, however many get there, and when. */
  async #try(transaction: Transaction, lease: string | undefined): Promise<Outcome | undefined> {
    let answer: Awaited<ReturnType<EtcdLine['transact']>>;
    try {
      answer = await this.#lines.write.transact(this.#keys.transaction(transaction, lease), WRITE_MS);
    } catch (error) {
      this.#tell('write', error as Error);
      await this.#rest();
      return undefined;
    }
    this.#tell('write', undefined);
    if (answer !== 'lease-gone') return this.#keys.outcome(transaction, answer);
    this.#lease.gone(lease!);
    return undefined;
  }

  /** @throws {GomqError} NOT_READY */
  #refuseWhenClosed(): void {
    if (!this.#isClosed) return;
    throw new GomqError(
      'NOT_READY',
      'The broker stops, and does not wait for etcd to say what became of a transaction.',
    );
  }

  async #rest(): Promise<void> {
    await delay(RETRY_MS, undefined, { signal: this.#closing.signal }).catch(() => {});
  }

  async #revoke(endMs: number): Promise<void> {
    const { clock, endpoints } = this.#options;
    const id = this.#lease.id;
    if (id === undefined) return;
    // The first connection may be one that etcd has closed meanwhile.
    for (let attempt = 0; attempt <= endpoints.length; attempt++) {
      const leftMs = endMs - clock.monotonicMs();
      if (leftMs <= 0) return;
      try {
        return await this.#lines.lease.revoke(id, leftMs);
      } catch (error) {
        this.#options.logger.debug('the lease could not be given back', { error });
      }
    }
  }

  async #readLoop(): Promise<void> {
    const { start, end } = this.#keys;
    let isPoll = false;
    while (!this.#isClosed) {
      let read: Awaited<ReturnType<EtcdLine['range']>> | undefined;
      try {
        read = await this.#lines.read.range(start, end, READ_MS);
      } catch (error) {
        this.#tell('read', error as Error);
      }
      if (this.#isClosed) break;
      if (read === undefined) {
        await this.#rest();
        continue;
      }
      this.#tell('read', undefined);
      const isCertain = this.#take(read, isPoll);
      if (isCertain) isPoll = !(await this.#readAlarm.wait(POLL_MS));
      else await this.#rest();
    }
  }

  /** Answers whether to rest on it; false where it is to be read again soon. */
  #take({ header, kvs }: Awaited<ReturnType<EtcdLine['range']>>, isPoll: boolean): boolean {
    const revision = revisionOf(header.revision);
    if (revision < this.#revision && !this.#isBackFor(revision)) return false;
    this.#wentBackTo = undefined;
    this.#revision = revision;

    const view = this.#keys.view(revision, kvs);
    if ('problem' in view) {
      this.#complain(view);
      return true;
    }
    if (this.#unreadable !== undefined)
      this.#options.logger.info('the keys in etcd can be read again', { revision });
    this.#unreadable = undefined;
    if (isPoll) this.#checkWatch(view);
    if (isPoll) this.#checkMember(view);
    if (this.#view?.revision === revision) return true;
    this.#view = view;
    this.#events!.onView(view);
    return true;
  }

  /** Whether etcd is certain to have lost what it had: it has said so twice. */
  #isBackFor(revision: number): boolean {
    if (this.#wentBackTo === undefined || revision < this.#wentBackTo) {
      this.#wentBackTo = revision;
      return false;
    }
    this.#options.logger.warn(
      `etcd has gone back from revision ${this.#revision} to ${revision}: it was wiped, or restored from a copy`,
    );
    this.#writeMember();
    return true;
  }

  #complain(unreadable: Unreadable): void {
    const { key, revision, problem } = unreadable;
    if (this.#unreadable?.key === key && this.#unreadable.revision === revision) return;
    this.#unreadable = unreadable;
    this.#options.logger.error(
      `the value of the key ${key} in etcd is not what belongs there; what was read before is kept until it is mended`,
      { key, revision, problem },
    );
  }

  /** A connection can be dead without anyone noticing, as long as nobody sends. */
  #checkWatch(view: ClusterView): void {
    this.#watchMissed = hasSameKeys(this.#view, view) ? 0 : this.#watchMissed + 1;
    // Once is chance: the poll was faster.
    if (this.#watchMissed < 2) return;
    this.#options.logger.warn('the watch of etcd has missed changes: it begins anew');
    this.#watchMissed = 0;
    this.#watchAlarm.ring();
  }

  /** The key can have been lost without the lease: by hand, or by going back. */
  #checkMember({ revision, members }: ClusterView): void {
    if (this.#member === undefined || this.#memberRevision === 0 || revision < this.#memberRevision) return;
    const there = members.get(this.#member.node);
    if (there?.revision === this.#memberRevision) return;
    if (there !== undefined && there.value.incarnation !== this.#member.incarnation)
      this.#options.logger.warn('another broker writes the key of this node: two have the same name', {
        node: this.#member.node,
      });
    this.#writeMember();
  }

  #writeMember(): void {
    this.#memberRevision = 0;
    this.#memberAlarm.ring();
  }

  async #memberLoop(): Promise<void> {
    while (!this.#isClosed) {
      await this.#memberAlarm.wait(Number.POSITIVE_INFINITY);
      if (this.#member === undefined) continue;
      // A lease that comes rings again.
      const lease = this.#lease.id;
      if (lease === undefined || this.#isClosed) continue;
      const written = this.#member;
      let answer: Awaited<ReturnType<EtcdLine['transact']>>;
      try {
        answer = await this.#lines.write.transact(this.#keys.putMember(written, lease), WRITE_MS);
      } catch (error) {
        if (this.#isClosed) break;
        this.#tell('write', error as Error);
        await this.#rest();
        this.#memberAlarm.ring();
        continue;
      }
      this.#tell('write', undefined);
      if (answer === 'lease-gone') this.#lease.gone(lease);
      else if (this.#member === written && this.#lease.id === lease)
        this.#memberRevision = revisionOf(answer.header.revision);
    }
  }

  /** Has the keys read whenever it says that one has changed, and when it begins, since it does not tell what was before. */
  async #watchLoop(): Promise<void> {
    const { start, end } = this.#keys;
    while (!this.#isClosed) {
      let hasBegun = false;
      try {
        const stream = await this.#lines.watch.watch(start, end, {
          onAnswer: ({ created }) => {
            if (created) {
              hasBegun = true;
              this.#tell('watch', undefined);
            }
            this.#watchMissed = 0;
            this.#readAlarm.ring();
          },
          onEnd: (error) => this.#watchEnded(error),
        });
        let isOver = await this.#watchAlarm.wait(READ_MS);
        if (!isOver && hasBegun) isOver = await this.#watchAlarm.wait(Number.POSITIVE_INFINITY);
        stream.close();
        if (!isOver) this.#tell('watch', new Error(`etcd did not begin the watch within ${READ_MS} ms`));
        this.#lines.watch.reset();
      } catch (error) {
        this.#tell('watch', error as Error);
      }
      await this.#rest();
    }
  }

  #watchEnded(error: Error): void {
    this.#tell('watch', error);
    this.#watchAlarm.ring();
  }

  /** A failure that the next endpoint makes good is none. */
  #tell(line: Line, error: Error | undefined): void {
    if (this.#isClosed) return;
    this.#failures[line] = error === undefined ? 0 : this.#failures[line] + 1;
    const failuresMax = Math.max(2, this.#options.endpoints.length);
    if (error !== undefined && this.#failures[line] >= failuresMax) this.#setReachable(false, error);
    else if (line === 'read' && Object.values(this.#failures).every((count) => count === 0))
      this.#setReachable(true, undefined);
  }

  #setReachable(isReachable: boolean, error: Error | undefined): void {
    if (this.#isReachable === isReachable) return;
    this.#isReachable = isReachable;
    this.#events!.onReachable(isReachable, error);
  }
}

/** Whether nothing was written in between. */
function hasSameKeys(before: ClusterView | undefined, after: ClusterView): boolean {
  if (before === undefined) return false;
  const revisions = ({ state, leader, members }: ClusterView) =>
    [
      state?.revision,
      leader?.revision,
      ...[...members].flatMap(([node, { revision }]) => [node, revision]),
    ].join();
  return revisions(before) === revisions(after);
}
