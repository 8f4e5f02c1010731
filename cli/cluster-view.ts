// Owns what a person reads of the state of a cluster: the table, and plainly what is wrong.
import type { ClusterMember, ClusterStatus } from './cluster-api.js';

/** Further behind than this is not what every busy cluster is for a moment. */
const LAG_RECORDS_MAX = 10_000;

export interface Problem {
  /** True where messages are not acknowledged now, or may soon be in danger; false where one more failure would do that. */
  isSevere: boolean;
  text: string;
}

/** What is wrong, the worst first; nothing where all is well. */
export function problemsOf(status: ClusterStatus): Problem[] {
  const { leader, inSync, members, minInSync, replicas } = status;
  const problems: Problem[] = [];
  const add = (isSevere: boolean, text: string) => problems.push({ isSevere, text });
  const there = new Map(members.filter(isThere).map((member) => [member.node, member]));
  if (members.length === 0 && inSync.length === 0) {
    add(
      true,
      `no cluster yet: it begins when ${replicas === 1 ? 'its node is' : `all ${replicas} nodes are`} there`,
    );
    return problems;
  }
  if (leader === null) {
    const gone = inSync.filter((node) => !there.has(node));
    const waiting =
      gone.length === 0
        ? 'one is elected as soon as etcd can be reached, unless the logs of the nodes say why not'
        : `only a node in sync may lead, and ${list(gone)} ${areNot(gone)} there`;
    add(true, `no leader: nothing is published or delivered; ${waiting}`);
  }
  if (inSync.length < minInSync) {
    add(
      true,
      `too few in sync: ${inSync.length} of the ${minInSync} that every message must be on; nothing is acknowledged`,
    );
  }
  if (leader === null) return problems;
  for (const node of inSync) {
    if (there.has(node) && members.some((member) => member.node === node && member.logEnd !== null)) continue;
    // A member that answers may know no more than who is in sync.
    if (members.every(({ logEnd }) => logEnd === null)) continue;
    const until =
      inSync.length > minInSync ? 'it is back or taken out' : 'it is back or another node is in sync';
    add(true, `${node} counts as in sync and does not follow: nothing is acknowledged until ${until}`);
  }
  const outside = members.filter(({ inSync: isInSync, node }) => !isInSync && !inSync.includes(node));
  for (const member of outside) add(false, `${member.node} is not in sync: ${howFar(member)}`);
  for (const { node, lagRecords } of members) {
    if (lagRecords === null || lagRecords <= LAG_RECORDS_MAX || !inSync.includes(node)) continue;
    add(false, `${node} lags ${grouped(lagRecords)} records behind the leader`);
  }
  const missing = replicas - members.length;
  if (missing < 0)
    add(
      false,
      `${members.length} nodes, where cluster.replicas is ${replicas}: messages wait for all that are in sync`,
    );
  if (missing > 0) add(false, `${missing} of ${replicas} nodes ${missing === 1 ? 'is' : 'are'} not there`);
  const isWorking = !problems.some(({ isSevere }) => isSevere);
  if (isWorking && inSync.length < replicas && inSync.length === minInSync) {
    add(
      false,
      `${inSync.length} of ${replicas} in sync: if one more fails, nothing is acknowledged until it is back`,
    );
  }
  return problems;
}

/** An address means that it has registered with etcd, a log end that it follows. */
function isThere({ mqtt, http, logEnd, role }: ClusterMember): boolean {
  return mqtt !== '' || http !== '' || logEnd !== null || role === 'leader';
}

function howFar({ lagRecords }: ClusterMember): string {
  if (lagRecords === null) return 'it does not follow the leader';
  if (lagRecords === 0) return 'it has caught up and is about to be taken in';
  return `it is ${grouped(lagRecords)} records behind`;
}

function areNot(nodes: readonly string[]): string {
  return nodes.length === 1 ? 'is not' : 'are not';
}

function list(nodes: readonly string[]): string {
  return nodes.length < 2 ? nodes.join('') : `${nodes.slice(0, -1).join(', ')} and ${nodes.at(-1)}`;
}

const HEADER = ['NODE', 'ROLE', 'EPOCH', 'LOG END', 'HIGH WATERMARK', 'LAG', 'IN SYNC', 'MQTT', 'HTTP'];
const RIGHT = new Set([2, 3, 4, 5]);

/** The lines of the table and of what is wrong. */
export function renderStatus(status: ClusterStatus): string[] {
  const { cluster, epoch, highWatermark, inSync, members } = status;
  const rows = members.map((member) => [
    member.node,
    member.role,
    `${epoch}`,
    count(member.logEnd),
    grouped(highWatermark),
    count(member.lagRecords),
    member.inSync || inSync.includes(member.node) ? 'yes' : 'no',
    member.mqtt || '-',
    member.http || '-',
  ]);
  const widths = HEADER.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]!.length)),
  );
  const lines = [HEADER, ...rows].map((row) =>
    row
      .map((cell, column) =>
        RIGHT.has(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!),
      )
      .join('  ')
      .trimEnd(),
  );
  return [...lines, summary(status, cluster)];
}

/** `gomq: b leads, 3 of 3 in sync`, or the same with what is wrong. */
function summary(status: ClusterStatus, cluster: string): string {
  const problems = problemsOf(status);
  const { leader, inSync, replicas } = status;
  if (problems.length === 0) return `${cluster}: ${leader} leads, ${inSync.length} of ${replicas} in sync`;
  return `${cluster}: ${problems.map(({ text }) => text).join('; ')}`;
}

function count(value: number | null): string {
  return value === null ? '-' : grouped(value);
}

export function grouped(value: number): string {
  return value.toLocaleString('en-US');
}
