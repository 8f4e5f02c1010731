// How a cluster is, as `GET /api/v1/cluster` answers it: the leader knows, and tells its members with its heartbeats.
import { z } from 'zod';
import { GomqError } from '../core/errors.js';
import type { NodeProgress } from '../replication/leadership.js';
import type { MemberKey } from './coordinator.js';

const statusSchema = z.object({
  cluster: z.string(),
  leader: z.string().nullable(),
  epoch: z.number(),
  highWatermark: z.number(),
  inSync: z.array(z.string()),
  members: z.array(
    z.object({
      node: z.string(),
      role: z.enum(['leader', 'member']),
      /** One past what it has on disk; null where that is not known. */
      logEnd: z.number().nullable(),
      lagRecords: z.number().nullable(),
      inSync: z.boolean(),
      mqtt: z.string(),
      http: z.string(),
    }),
  ),
});

export type ClusterStatus = z.infer<typeof statusSchema>;
type MemberStatus = ClusterStatus['members'][number];

/**
 * What a leader has told.
 * @throws {GomqError} PEER_PROTOCOL
 */
export function readStatus(bytes: Buffer): ClusterStatus {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch {
    throw new GomqError('PEER_PROTOCOL', 'heartbeat: the status is not JSON');
  }
  const status = statusSchema.safeParse(value);
  if (!status.success) throw new GomqError('PEER_PROTOCOL', 'heartbeat: the status is not one');
  return status.data;
}

/**
 * @param progress of those that the leader knows; of others only what etcd knows is told
 * @param logEnd of the leader
 */
export function membersOf(
  leader: string | null,
  progress: readonly NodeProgress[],
  logEnd: number,
  keys: ReadonlyMap<string, { readonly value: MemberKey }>,
): MemberStatus[] {
  const known = new Map(progress.map((one) => [one.node, one]));
  const nodes = [...new Set([...known.keys(), ...keys.keys()])].sort();
  return nodes.map((node) => {
    const end = known.get(node)?.logEnd;
    const key = keys.get(node)?.value;
    return {
      node,
      role: node === leader ? 'leader' : 'member',
      logEnd: end ?? null,
      lagRecords: end === undefined ? null : Math.max(0, logEnd - end),
      inSync: known.get(node)?.isInSync ?? false,
      mqtt: key?.mqtt ?? '',
      http: key?.http ?? '',
    };
  });
}
