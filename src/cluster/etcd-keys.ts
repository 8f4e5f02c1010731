// The keys of a cluster in etcd: what they are called, what is in them, and how a transaction is put to etcd and its answer understood. Pure. What
// comes from etcd is not trusted to be what was written: whoever has rights there can write anything.
import { z } from 'zod';
import type {
  ClusterState,
  ClusterView,
  LeaderKey,
  MemberKey,
  Outcome,
  Transaction,
  Versioned,
} from './coordinator.js';
import {
  CompareResult,
  CompareTarget,
  type IKeyValue,
  type IRequestOp,
  type ITxnRequest,
  type ITxnResponse,
} from './etcd-client.js';

const stateSchema: z.ZodType<ClusterState> = z.object({
  clusterId: z.string(),
  epoch: z.int().min(0),
  leader: z.string(),
  inSync: z.array(z.object({ node: z.string(), incarnation: z.string() })),
  nonce: z.string(),
});
const leaderSchema: z.ZodType<LeaderKey> = z.object({
  node: z.string(),
  epoch: z.int().min(0),
  nonce: z.string(),
});
const memberSchema: z.ZodType<MemberKey> = z.object({
  node: z.string(),
  incarnation: z.string(),
  clusterId: z.string(),
  logEnd: z.int().min(0),
  logEpoch: z.int().min(0),
  epoch: z.int().min(0),
  isSuspect: z.boolean(),
  peer: z.string(),
  mqtt: z.string(),
  http: z.string(),
  version: z.string(),
});

/** A value that is not what belongs there. */
export interface Unreadable {
  readonly key: string;
  readonly revision: number;
  readonly problem: string;
}

export class EtcdKeys {
  /** All keys of the cluster are from `start` to before `end`. */
  readonly start: Buffer;
  readonly end: Buffer;
  readonly #prefix: string;
  readonly #membersPrefix: string;
  readonly #state: Buffer;
  readonly #leader: Buffer;

  constructor(cluster: string) {
    this.#prefix = `/gomq/${cluster}/`;
    this.#membersPrefix = `${this.#prefix}members/`;
    this.start = Buffer.from(this.#prefix);
    // '0' comes after '/'.
    this.end = Buffer.from(`/gomq/${cluster}0`);
    this.#state = Buffer.from(`${this.#prefix}state`);
    this.#leader = Buffer.from(`${this.#prefix}leader`);
  }

  /** Keys that are not gomq's are left alone. */
  view(revision: number, found: readonly IKeyValue[]): ClusterView | Unreadable {
    let state: Versioned<ClusterState> | undefined;
    let leader: Versioned<LeaderKey> | undefined;
    const members = new Map<string, Versioned<MemberKey>>();
    try {
      for (const pair of found) {
        if (pair.key.equals(this.#state)) state = readPair(pair, stateSchema);
        else if (pair.key.equals(this.#leader)) leader = readPair(pair, leaderSchema);
        else if (pair.key.toString().startsWith(this.#membersPrefix))
          members.set(pair.key.toString().slice(this.#membersPrefix.length), readPair(pair, memberSchema));
      }
    } catch (error) {
      if (error instanceof UnreadableValue) return error.unreadable;
      throw error;
    }
    return { revision, state, leader, members };
  }

  putMember(member: MemberKey, lease: string): ITxnRequest {
    return { success: [put(Buffer.from(`${this.#membersPrefix}${member.node}`), member, lease)] };
  }

  /** `lease` is that of the leader key. The answer tells what there is instead where it was not carried out. */
  transaction(transaction: Transaction, lease: string | undefined): ITxnRequest {
    const { stateRevision, leaderRevision, state, leader } = transaction;
    const success: IRequestOp[] = [];
    if (state !== undefined) success.push(put(this.#state, state, undefined));
    if (leader === 'delete') success.push({ request_delete_range: { key: this.#leader } });
    else if (leader !== undefined) success.push(put(this.#leader, leader, lease));
    return {
      compare: [unchanged(this.#state, stateRevision), unchanged(this.#leader, leaderRevision)],
      success,
      failure: [{ request_range: { key: this.#state } }, { request_range: { key: this.#leader } }],
    };
  }

  /**
   * What became of a transaction, by the answer to any one of its copies that were sent. A copy that comes second finds other revisions than the
   * transaction expects, and the nonce of the first.
   */
  outcome(transaction: Transaction, answer: ITxnResponse): Outcome {
    if (answer.succeeded) return { kind: 'done', revision: revisionOf(answer.header.revision) };
    const { state, leader, leaderRevision } = transaction;
    const [stateThere, leaderThere] = answer.responses.map(({ response_range: range }) => range?.kvs[0]);
    for (const [wanted, there] of [
      [state, stateThere],
      [leader, leaderThere],
    ] as const) {
      if (wanted === undefined || wanted === 'delete' || there === undefined) continue;
      if (nonceOf(there) === wanted.nonce) return { kind: 'done', revision: revisionOf(there.mod_revision) };
    }
    if (state === undefined && leader === 'delete') {
      const isGone = leaderThere === undefined || revisionOf(leaderThere.mod_revision) !== leaderRevision;
      if (isGone) return { kind: 'done', revision: revisionOf(answer.header.revision) };
    }
    return { kind: 'refused' };
  }
}

/** Revisions of etcd are 64 bits; after 285 years of a million changes each second they would no longer fit. */
export function revisionOf(text: string): number {
  return Number(text);
}

class UnreadableValue extends Error {
  constructor(readonly unreadable: Unreadable) {
    super(unreadable.problem);
  }
}

function readPair<T>(pair: IKeyValue, schema: z.ZodType<T>): Versioned<T> {
  const revision = revisionOf(pair.mod_revision);
  const fail = (problem: string) => {
    return new UnreadableValue({ key: pair.key.toString(), revision, problem });
  };
  const json = parseJson(pair.value);
  if (json === undefined) throw fail('it is not JSON');
  const result = schema.safeParse(json);
  if (!result.success) {
    const { path, message } = result.error.issues[0]!;
    throw fail(path.length === 0 ? message : `${path.join('.')}: ${message}`);
  }
  return { value: result.data, revision };
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString()) as unknown;
  } catch {
    return undefined;
  }
}

const nonceSchema = z.object({ nonce: z.string() });

function nonceOf(pair: IKeyValue): string | undefined {
  return nonceSchema.safeParse(parseJson(pair.value)).data?.nonce;
}

function put(key: Buffer, value: object, lease: string | undefined): IRequestOp {
  const request = { key, value: Buffer.from(JSON.stringify(value)) };
  return { request_put: lease === undefined ? request : { ...request, lease } };
}

/** A key that is not there has revision 0. */
function unchanged(key: Buffer, revision: number): NonNullable<ITxnRequest['compare']>[number] {
  return { key, target: CompareTarget.Mod, result: CompareResult.Equal, mod_revision: revision };
}
