// What the API shows of the cluster and lets the operator do to it, as every broker answers it: one that stands alone is a cluster of one.
import type { Socket } from 'node:net';
import type { ClusterStatus } from '../cluster/status.js';

/** What `GET /api/v1/cluster` answers. */
export interface HttpClusterStatus extends ClusterStatus {
  /** How many nodes the cluster is to have. */
  replicas: number;
  /** On how many nodes a message must be before it is acknowledged. */
  minInSync: number;
}

/** What the API needs of the cluster; main.ts supplies it. */
export interface HttpCluster {
  /** The name of this node. */
  readonly node: string;
  status(): HttpClusterStatus;
  /** True while clients are served here, false while another node leads or nobody does. */
  isServing(): boolean;
  /** True while this node leads, also where it waits for others before it serves clients. */
  isLeading(): boolean;
  /** Another node that leads; undefined where nobody is known to. */
  leader(): string | undefined;
  /** A connection to the API of that node, which takes what comes over it as judged by this one. Rejects with a GomqError. */
  openLeader(): Promise<Socket>;
  /** Has another node in sync lead. Rejects with a GomqError where that cannot be done. */
  stepDown(): Promise<void>;
  /** Takes a node that is gone for good out of the cluster. Rejects with a GomqError where that cannot be done. */
  removeNode(node: string): Promise<void>;
  /** Has this node lead with what it has. Rejects with a GomqError where it may not. */
  forceLead(): Promise<void>;
}
