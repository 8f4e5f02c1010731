// One node, with its real log and its real wire, beside a leader and an etcd that do as they are told.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { MemberKey } from '../../src/cluster/coordinator.js';
import { ClusterNode } from '../../src/cluster/node.js';
import { systemClock } from '../../src/core/clock.js';
import { loadConfig } from '../../src/core/config-load.js';
import { GomqError } from '../../src/core/errors.js';
import { encodeBatch } from '../../src/log/batch-codec.js';
import { BatchFlag, RECORD_LENGTH_BYTES } from '../../src/log/batch-format.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import type { EpochStart } from '../../src/log/epoch-history.js';
import { incomingName } from '../../src/log/install-snapshot.js';
import { readMembership, writeCommitted, writeMembership } from '../../src/log/membership.js';
import type { FrameToLeader, FrameToMember, Refusal, RefusalCode } from '../../src/replication/frames.js';
import type { PeerIdentity } from '../../src/replication/handshake.js';
import { dialReplica } from '../../src/replication/peer-dialer.js';
import type { LinkToLeader, LinkToMember } from '../../src/replication/peer-link.js';
import { openPeerListener, type PeerListener } from '../../src/replication/peer-listener.js';
import { Message, publishRecordBytes } from '../../src/session/message.js';
import { State } from '../../src/state/state.js';
import { openStorage, type Storage } from '../../src/state/storage.js';
import { type LogLine, listeningLogger } from '../log/disk-logs.js';
import { emptySnapshot } from '../log/snapshots.js';
import { appendEpochBegun } from '../state/epoch-begun.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { ManualCoordinator } from './manual-coordinator.js';

const SECRET = 'sixteen characters';
const RECORDS = 3;
const LEASE_SECONDS = 3;
const WAIT_MS_MAX = 10_000;
/** How long nobody has to lead before one is forced to. */
const FORCE_AFTER_MS = 3300;
/** Long enough for a node to campaign many times over. */
const QUIET_MS = 700;
/** Within this a leader is replaced whose process has ended: far less than the lease, which the bench never ends. */
const REPLACED_MS_MAX = 1000;
/** Within this a leader without a lease closes its clients once a member is silent. */
const STANDS_DOWN_MS_MAX = 1500;

/** What is different in a test. */
interface Setting {
  readonly isSuspect?: boolean;
  /** What the directory has noted, beyond what the log has. */
  readonly committed?: number;
  /** There is a leader, a. */
  readonly hasLeader?: boolean;
  /** Why the leader lets nobody in. */
  readonly refusal?: Refusal;
  /** Listed as such in etcd; true where absent. */
  readonly isInSync?: boolean;
  /** The cluster that the directory belongs to, '' for none; that in etcd where absent. */
  readonly clusterId?: string;
  /** 2 where absent. */
  readonly minInSync?: number;
  /** What the leader does about the node's position. */
  readonly onPosition?: (link: LinkToMember, logEnd: number, times: number) => void;
  /** Before the log is opened. */
  readonly onOpen?: (times: number) => void;
}

class Bench {
  readonly coordinator = new ManualCoordinator(systemClock);
  readonly lines: LogLine[] = [];
  readonly defects: unknown[] = [];
  readonly failures: Error[] = [];
  readonly folder = join(temporaryFolder(), 'b');
  readonly directory = openDataDirectory(this.folder, { nodeId: 'b' });
  readonly links: LinkToMember[] = [];
  /** Of the node's log, each time it has told its position. */
  readonly histories: (readonly EpochStart[])[] = [];
  served = 0;
  /** How often its clients were closed. */
  stoodDown = 0;
  dials = 0;
  #opened = 0;
  /** What was opened last. */
  storage: Storage | undefined = undefined;
  node: ClusterNode | undefined = undefined;
  leader: PeerListener | undefined = undefined;
  readonly #setting: Setting;
  readonly #logger = listeningLogger(this.lines);

  constructor(setting: Setting) {
    this.#setting = setting;
  }

  /** A log of three records of epoch 1, in a cluster whose last leader, of epoch 2, is a. */
  async start(): Promise<ClusterNode> {
    const { isSuspect = false, committed, hasLeader = true, isInSync = true } = this.#setting;
    const { clusterId = 'id' } = this.#setting;
    const storage = await this.#open(0, () => undefined);
    for (let i = 0; i < RECORDS; i++) {
      appendEpochBegun(storage.log);
    }
    await storage.log.settled();
    storage.log.advance(RECORDS);
    await storage.close();
    if (committed !== undefined) writeCommitted(this.folder, committed);
    if (clusterId !== '') {
      const starts = [{ epoch: 1, start: 0 }];
      writeMembership(this.folder, { clusterId, epoch: 2, starts, isSuspect });
    }
    this.leader = await this.#openLeader();
    const own = { node: 'b', incarnation: this.directory.incarnation };
    const inSync = [{ node: 'a', incarnation: 'a1' }, ...(isInSync ? [own] : [])];
    this.coordinator.put({ state: { clusterId: 'id', epoch: 2, leader: 'a', inSync, nonce: 'n' } });
    if (hasLeader) {
      const { port } = this.leader.address;
      this.coordinator.put({ member: memberKey('a', 'a1', `127.0.0.1:${port}`) });
      this.coordinator.put({ leader: { node: 'a', epoch: 2, nonce: 'n' } });
    }
    return this.begin();
  }

  async begin(): Promise<ClusterNode> {
    let drawn = 0;
    this.node = await ClusterNode.start({
      cluster: 'c',
      nodeId: 'b',
      replicas: 2,
      minInSync: this.#setting.minInSync ?? 2,
      leaseSeconds: LEASE_SECONDS,
      lagSeconds: 10,
      peer: '127.0.0.1:0',
      advertise: '127.0.0.1',
      secret: SECRET,
      tls: undefined,
      directory: this.directory,
      coordinator: this.coordinator,
      clock: systemClock,
      logger: this.#logger,
      draw: () => `drawn ${++drawn}`,
      openStorage: (committed, beforeCut) => this.#open(committed, beforeCut),
      addresses: () => ({ mqtt: '', http: '' }),
      onServe: () => {
        this.served++;
      },
      onStandDown: () => {
        this.stoodDown++;
      },
      onChange: () => undefined,
      onTunnel: (socket) => socket.destroy(),
      onHttp: (socket) => socket.destroy(),
      hasRoom: () => true,
      onFailure: (error) => this.failures.push(error),
      onDefect: (error) => this.defects.push(error),
    });
    this.node.join();
    return this.node;
  }

  /** Its links break and nobody listens, as when its process was killed just now: its keys stay until their lease is over. */
  async endLeader(): Promise<void> {
    for (const link of this.links) link.destroy(undefined);
    await this.leader?.close();
  }

  /** As when its process was killed, and its lease is over. */
  async killLeader(): Promise<void> {
    await this.endLeader();
    this.coordinator.put({ leader: undefined, gone: 'a' });
  }

  /** Dials the node, which leads, as a of this incarnation does. */
  dial(identity: Partial<PeerIdentity> = {}): Promise<LinkToLeader> {
    const { peer } = this.coordinator.registered.at(-1)!;
    const own = { cluster: 'c', clusterId: 'id', node: 'a', incarnation: 'a1', epoch: 3 };
    return dialReplica({ address: peer, secret: SECRET, identity: { ...own, ...identity } });
  }

  async end(): Promise<void> {
    await this.node?.stop();
    for (const link of this.links) link.destroy(undefined);
    await this.leader?.close();
    this.directory.release();
    assert.deepEqual(this.defects, []);
  }

  said(pattern: RegExp): boolean {
    return this.lines.some(({ message }) => pattern.test(message));
  }

  async #open(committed: number, beforeCut: () => void): Promise<Storage> {
    this.#setting.onOpen?.(++this.#opened);
    this.storage = await openStorage({
      config: loadConfig({ set: ['log.reserveBytes=1048576'] }),
      directory: this.directory,
      committed,
      beforeCut,
      logger: this.#logger,
      clock: systemClock,
      state: { internedTopics: 100, mayRead: undefined },
      onFailure: (error) => this.failures.push(error),
      onDamaged: (why) => this.node?.onDamaged(why),
      onDefect: (error) => this.defects.push(error),
    });
    return this.storage;
  }

  #openLeader(): Promise<PeerListener> {
    return openPeerListener({
      address: '127.0.0.1:0',
      secret: SECRET,
      logger: this.#logger,
      identity: () => ({ cluster: 'c', clusterId: 'id', node: 'a', incarnation: 'a1', epoch: 2 }),
      mayAccept: () => {
        this.dials++;
        return this.#setting.refusal;
      },
      onTunnel: (socket) => socket.destroy(),
      onHttp: (socket) => socket.destroy(),
      onReplica: (link) => {
        this.links.push(link);
        link.start({
          onDrain: () => undefined,
          onClose: () => undefined,
          onFrame: (frame: FrameToLeader) => {
            if (frame.type !== 'position') return;
            this.histories.push(frame.history);
            this.#setting.onPosition?.(link, frame.logEnd, this.histories.length);
          },
        });
      },
    });
  }
}

const SNAPSHOT_END = 10;
const SNAPSHOT_BEGINS = {
  type: 'snapshotBegin',
  epoch: 2,
  endOffset: SNAPSHOT_END,
  bytes: 3,
  history: [{ epoch: 2, start: 0 }],
} as const;

/** One that ends before offset 10. */
function sendSnapshot(link: LinkToMember, bytes: Buffer): void {
  link.send({ ...SNAPSHOT_BEGINS, bytes: bytes.length });
  link.send({ type: 'snapshotChunk', epoch: 2, bytes });
  link.send({ type: 'snapshotEnd', epoch: 2 });
}

function memberKey(node: string, incarnation: string, peer: string): MemberKey {
  return {
    node,
    incarnation,
    clusterId: 'id',
    logEnd: RECORDS,
    logEpoch: 1,
    epoch: 2,
    isSuspect: false,
    peer,
    mqtt: '',
    http: '',
    version: '',
  };
}

/** Says that the log of the leader is the node's up to its end, and how far it is committed. */
function resume(
  highWatermark: number,
  starts: readonly EpochStart[] = [{ epoch: 1, start: 0 }],
): NonNullable<Setting['onPosition']> {
  return (link, logEnd) => {
    const frame: FrameToMember = {
      type: 'resume',
      epoch: 2,
      cut: logEnd,
      highWatermark,
      logStart: 0,
      history: starts,
    };
    link.send(frame);
  };
}

function append(highWatermark: number, ...batches: Buffer[]): FrameToMember {
  return {
    ...({ type: 'append', epoch: 2, highWatermark, logStart: 0 } as const),
    batches: batches.map((bytes) => ({ bytes, topics: undefined })),
  };
}

/** One record of epoch 2: a retained message of this topic. */
function retainedBatch(offset: number, topic: string): Buffer {
  const message = new Message();
  message.topic = new State({ internedTopics: 1, mayRead: undefined }).router.internTopic(topic);
  message.isRetained = true;
  message.qos = 1;
  message.buffer = Buffer.from('x');
  message.payloadEnd = 1;
  const length = publishRecordBytes(message);
  const payload = Buffer.alloc(RECORD_LENGTH_BYTES + length);
  payload.writeUInt32LE(length, 0);
  message.writeRecord({ offset, buffer: payload, start: RECORD_LENGTH_BYTES, end: payload.length });
  const header = { flags: BatchFlag.State, epoch: 2, baseOffset: offset, lastOffset: offset };
  return encodeBatch(undefined, { ...header, timestampMs: 1, recordCount: 1 }, payload);
}

/** What has come of snapshots. */
function incoming({ folder }: Bench): string[] {
  return readdirSync(folder).filter((name) => name.startsWith('incoming-'));
}

/** Member a of the node, which leads in epoch 3: it has on disk what it is sent, and answers until it is silent. */
class Member {
  readonly link: LinkToLeader;
  isSilent = false;
  #end = 0;

  constructor(made: Bench, link: LinkToLeader) {
    this.link = link;
    link.start({
      onDrain: () => undefined,
      onClose: () => undefined,
      onFrame: (frame) => {
        if (frame.type === 'resume') this.#end = frame.cut;
        // One append has all of the log: nobody writes to it.
        if (frame.type === 'append') this.#end = made.storage!.log.endOffset;
        const sequence = frame.type === 'heartbeat' ? frame.sequence : 0;
        if (this.isSilent) return;
        link.send({ type: 'ack', epoch: 3, durableEnd: this.#end, applied: 0, sequence, isFull: false });
      },
    });
    const history = [{ epoch: 1, start: 0 }];
    link.send({ type: 'position', epoch: 3, logStart: 0, logEnd: RECORDS, committed: 0, history });
  }
}

async function bench(context: TestContext, setting: Setting): Promise<Bench> {
  const made = new Bench(setting);
  context.after(() => made.end());
  await made.start();
  return made;
}

async function until(isThere: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + WAIT_MS_MAX;
  while (!isThere()) {
    if (performance.now() > endMs) throw new Error(`waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, QUIET_MS));
}

test('a suspect node stays suspect, on disk and in etcd, until it has what was committed', async (context) => {
  const made = await bench(context, { isSuspect: true, onPosition: resume(RECORDS + 1) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  assert.equal(readMembership(made.folder)?.isSuspect, true);
  await made.killLeader();
  await quiet();
  assert.deepEqual(made.coordinator.campaigns, []);
  assert.equal(made.coordinator.registered.at(-1)?.isSuspect, true, 'it can be compared with again');
});

test('a suspect node that has what was committed is trusted, and elected', async (context) => {
  const made = await bench(context, { isSuspect: true, onPosition: resume(RECORDS) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  assert.equal(readMembership(made.folder)?.isSuspect, false);
  await made.killLeader();
  await until(() => made.coordinator.campaigns.length > 0, 'the node to campaign');
  assert.equal(made.coordinator.campaigns[0], 'b in epoch 3');
});

test('a leader whose process has ended is replaced at once, although its key is still there', async (context) => {
  const made = await bench(context, { onPosition: resume(RECORDS) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  await made.endLeader();
  const endedMs = performance.now();
  await until(() => made.coordinator.campaigns.length > 0, 'the node to campaign');
  const ms = performance.now() - endedMs;
  assert.ok(ms < REPLACED_MS_MAX, `${ms} ms`);
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  assert.equal(made.coordinator.transactions[0]?.state?.epoch, 3);
});

test('a leader whose process has ended before a node could follow it is replaced at once, too', async (context) => {
  const made = new Bench({ hasLeader: false });
  context.after(() => made.end());
  made.coordinator.put({ leader: { node: 'a', epoch: 2, nonce: 'n' } });
  made.coordinator.put({ member: memberKey('a', 'a1', '127.0.0.1:1') });
  await made.start();
  await until(() => made.coordinator.campaigns.length > 0, 'the node to campaign');
});

test('a leader whose process is there is not replaced because its link breaks', async (context) => {
  const made = await bench(context, { onPosition: resume(RECORDS) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  made.links[0]!.destroy(undefined);
  await until(() => made.links.length > 1, 'the node to dial again');
  await quiet();
  assert.deepEqual(made.coordinator.campaigns, []);
});

test('a log that ends before what was committed is not led with', async (context) => {
  const made = await bench(context, { committed: RECORDS + 2, hasLeader: false });
  await quiet();
  assert.deepEqual(made.coordinator.campaigns, []);
  assert.equal(readMembership(made.folder)?.isSuspect, true);
});

test('a whole log is led with, and the epoch is on disk by then', async (context) => {
  const made = await bench(context, { hasLeader: false });
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  assert.equal(readMembership(made.folder)?.epoch, 3);
  await quiet();
  assert.equal(made.served, 0, 'nobody else in sync has the first record of the epoch');
});

test('a node that is elected and cannot note it gives the lead back, and leads when it can', async (context) => {
  const made = await bench(context, { onPosition: resume(RECORDS) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  // A folder is where the draft is to be.
  const draft = join(made.folder, 'cluster.json.tmp');
  mkdirSync(draft);
  await made.killLeader();
  await until(() => made.coordinator.state?.leader === '', 'the lead to be given back');
  assert.equal(made.coordinator.transactions.at(-1)?.leader, 'delete');
  assert.ok(made.said(/cannot note the epoch on disk/));
  await quiet();
  assert.deepEqual([...new Set(made.coordinator.campaigns)], ['b in epoch 3']);
  rmdirSync(draft);
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  assert.equal(readMembership(made.folder)?.epoch, 4);
});

test('nobody is elected by an etcd that has forgotten epochs', async (context) => {
  const made = new Bench({ hasLeader: false });
  context.after(() => made.end());
  made.coordinator.put({ member: { ...memberKey('a', 'a1', ''), epoch: 9 } });
  await made.start();
  await until(() => made.said(/restored from an old copy/), 'the warning');
  await quiet();
  assert.deepEqual(made.coordinator.campaigns, []);
});

test('a node that is elected before it has copied all of the leader before leads with what it has', async (context) => {
  const starts = [
    { epoch: 1, start: 0 },
    { epoch: 2, start: RECORDS + 7 },
  ];
  const made = await bench(context, { onPosition: resume(RECORDS, starts) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  await made.killLeader();
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  assert.deepEqual(readMembership(made.folder)?.starts, [
    { epoch: 1, start: 0 },
    { epoch: 3, start: RECORDS },
  ]);
});

test('a leader that sends nonsense loses its link, and nothing else happens', async (context) => {
  const made = await bench(context, {
    onPosition: (link, _logEnd, times) => {
      const beat = { type: 'heartbeat', epoch: 2, highWatermark: 0, logStart: 0, sequence: times } as const;
      link.send({ ...beat, status: Buffer.from(times % 2 === 0 ? '{"members":1}' : 'not JSON') });
    },
  });
  await until(() => made.links.length > 2, 'the node to dial again');
  assert.ok(made.said(/lost the link/));
});

test('a node that its leader refuses says so once, and dials less and less often', async (context) => {
  const why = 'the cluster does not know this directory of b';
  const made = await bench(context, { refusal: { code: 'incarnation', message: why } });
  await new Promise((resolve) => setTimeout(resolve, 2500));
  const told = made.lines.filter(({ message }) => message === 'cannot follow the leader');
  assert.equal(told.length, 1);
  assert.match(String(told[0]!.fields?.why), new RegExp(why));
  assert.ok(made.dials >= 4 && made.dials <= 7, `${made.dials} times`);
  const refused = made.lines.filter(({ message }) => message.endsWith('was refused'));
  assert.ok(refused.length >= 2 && refused.length <= 3, `${refused.length} lines`);
  assert.deepEqual(Object.keys(refused[0]!.fields ?? {}), ['count', 'address', 'reason', 'why']);
});

test('what the leader lacks is taken off the end of the log, which goes on as it is, and never was in the state', async (context) => {
  const positions: number[] = [];
  const made = await bench(context, {
    committed: RECORDS,
    onPosition: (link, logEnd, times) => {
      positions.push(logEnd);
      if (times === 1) {
        resume(RECORDS)(link, logEnd, times);
        link.send(append(RECORDS, retainedBatch(RECORDS, 'stays'), retainedBatch(RECORDS + 1, 'goes')));
        link.send(append(RECORDS, retainedBatch(RECORDS + 2, 'goes too')));
        const { log } = made.storage!;
        void until(() => log.keptOffset === RECORDS + 3, 'all to be kept').then(() =>
          link.destroy(undefined),
        );
      } else {
        resume(RECORDS)(link, Math.min(logEnd, RECORDS + 1), times);
        if (times === 3) link.send(append(RECORDS + 2, retainedBatch(RECORDS + 1, 'comes')));
      }
    },
  });
  const before = made.storage;
  await until(() => made.storage!.replica!.applied === RECORDS + 2, 'all to be applied');
  assert.equal(made.storage, before, 'it was not opened anew');
  assert.deepEqual(positions, [RECORDS, RECORDS + 3, RECORDS + 1]);
  const { state, log } = before!;
  const isRetained = (topic: string) => state.retained.get([topic]) !== undefined;
  assert.deepEqual(['stays', 'goes', 'goes too', 'comes'].filter(isRetained), ['stays', 'comes']);
  assert.equal(log.endOffset, RECORDS + 2);
});

test('a node tells of no epoch whose records it has taken off', async (context) => {
  const first = { epoch: 1, start: 0 };
  const made = await bench(context, {
    onPosition: (link, logEnd, times) => {
      resume(RECORDS, [first, { epoch: 2, start: RECORDS }])(link, Math.min(logEnd, RECORDS), times);
      if (times > 1) return;
      link.send(append(RECORDS, retainedBatch(RECORDS, 'goes')));
      const { log } = made.storage!;
      void until(() => log.keptOffset === RECORDS + 1, 'all to be kept').then(() => link.destroy(undefined));
    },
  });
  await until(() => made.histories.length === 3, 'the node to dial again');
  assert.deepEqual(made.histories, [[first], [first, { epoch: 2, start: RECORDS }], [first]]);
});

test('a log that is found to be damaged while its end is taken off is put aside, and followed by nobody but the copy', async (context) => {
  const made = await bench(context, {
    committed: RECORDS,
    onPosition: (link, logEnd, times) => {
      // As a leader does: a node has one link.
      for (const former of made.links.slice(0, -1)) former.destroy(undefined);
      if (times > 1) {
        resume(RECORDS)(link, Math.min(logEnd, RECORDS + 1), times);
        return;
      }
      resume(RECORDS)(link, logEnd, times);
      link.send(append(RECORDS, retainedBatch(RECORDS, 'stays'), retainedBatch(RECORDS + 1, 'goes')));
      const { log } = made.storage!;
      const cut = log.cut.bind(log);
      log.cut = (end) => {
        made.node!.onDamaged('a replay has met it');
        return cut(end);
      };
      void until(() => log.keptOffset === RECORDS + 2, 'all to be kept').then(() => link.destroy(undefined));
    },
  });
  const before = made.directory.incarnation;
  await until(() => made.said(/put the damaged log aside/), 'the log to be put aside');
  assert.notEqual(made.directory.incarnation, before);
  const follows = () => made.lines.filter(({ message }) => message === 'follows the leader').length;
  await until(() => follows() > 1, 'the copy to follow');
  const [links, followed] = [made.links.length, follows()];
  await quiet();
  assert.deepEqual([made.links.length, follows()], [links, followed], 'there is one link, and it stays');
  assert.deepEqual(made.failures, []);
});

test('nobody is elected while the end of its log is taken off', async (context) => {
  let goOn = (): void => undefined;
  const held = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let isCutting = false;
  const made = await bench(context, {
    committed: RECORDS,
    onPosition: (link, logEnd, times) => {
      if (times > 1) {
        resume(RECORDS)(link, RECORDS, times);
        return;
      }
      resume(RECORDS)(link, logEnd, times);
      link.send(append(RECORDS, retainedBatch(RECORDS, 'goes')));
      const { log } = made.storage!;
      const cut = log.cut.bind(log);
      log.cut = async (end) => {
        isCutting = true;
        await held;
        return cut(end);
      };
      void until(() => log.keptOffset === RECORDS + 1, 'all to be kept').then(() => link.destroy(undefined));
    },
  });
  await until(() => isCutting, 'the cut');
  await made.killLeader();
  await quiet();
  const campaigns = [...made.coordinator.campaigns];
  goOn();
  assert.deepEqual(campaigns, []);
  await until(() => made.coordinator.campaigns.length > 0, 'the node to campaign');
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  assert.ok(
    made.lines.some(({ message, fields }) => message === 'leads the cluster' && fields?.logEnd === RECORDS),
  );
});

test('a snapshot that cannot be written is given up, and asked for again', async (context) => {
  const made = await bench(context, {
    isInSync: false,
    onPosition: (link) => {
      // A folder stands where the file is to be.
      for (let i = 1; i < 9; i++) mkdirSync(join(made.folder, incomingName(i)), { recursive: true });
      link.send(SNAPSHOT_BEGINS);
      link.send({ type: 'snapshotChunk', epoch: 2, bytes: Buffer.from('abc') });
    },
  });
  await until(() => made.links.length > 2, 'the node to dial again');
  // Less and less often: each time it may be the whole of it.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  assert.ok(made.links.length <= 6, `${made.links.length} times`);
});

test('a node gives what it has for a snapshot that is whole, under another incarnation', async (context) => {
  const positions: number[] = [];
  const made = new Bench({
    isInSync: false,
    onPosition: (link, logEnd, times) => {
      positions.push(logEnd);
      if (times === 1) sendSnapshot(link, emptySnapshot(SNAPSHOT_END));
      else resume(10)(link, logEnd, times);
    },
  });
  context.after(() => made.end());
  const before = made.directory.incarnation;
  await made.start();
  await until(() => made.said(/follows the leader/), 'the node to follow');
  assert.deepEqual(positions, [RECORDS, 10]);
  const { incarnation } = made.directory;
  assert.notEqual(incarnation, before);
  // What was promised by the one before must not be believed of this one (R2).
  assert.equal(made.coordinator.registered.at(-1)?.incarnation, incarnation);
});

test('a snapshot that is damaged costs the link, and nothing that the node has', async (context) => {
  const positions: number[] = [];
  const rotten = emptySnapshot(SNAPSHOT_END);
  rotten[rotten.length - 1]! ^= 1;
  const made = new Bench({
    isInSync: false,
    onPosition: (link, logEnd) => {
      positions.push(logEnd);
      sendSnapshot(link, rotten);
    },
  });
  context.after(() => made.end());
  const before = made.directory.incarnation;
  await made.start();
  const { storage } = made;
  await until(() => positions.length > 2, 'the node to dial again');
  const lost = made.lines.filter(({ message }) => /lost the link/.test(message));
  assert.match(String(lost[0]?.fields?.why), /the leader's snapshot is damaged at position 0: payload CRC/);
  assert.deepEqual([made.storage, made.directory.incarnation], [storage, before]);
  assert.deepEqual(positions.slice(0, 3), [RECORDS, RECORDS, RECORDS]);
  assert.deepEqual(made.failures, []);
  await made.node!.stop();
  await until(() => incoming(made).length === 0, 'all that has come to go');
});

test('a log that is found to be damaged when it begins with a snapshot is put aside, and copied again', async (context) => {
  const positions: number[] = [];
  const made = await bench(context, {
    isInSync: false,
    onOpen: (times) => {
      // By the bench, at the start, and with the snapshot.
      if (times === 3) throw new GomqError('DATA_DAMAGED', 'it has rotted at once');
    },
    onPosition: (link, logEnd, times) => {
      positions.push(logEnd);
      if (times === 1) sendSnapshot(link, emptySnapshot(SNAPSHOT_END));
      else resume(0)(link, logEnd, times);
    },
  });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  assert.ok(made.said(/put the damaged log aside/));
  assert.deepEqual(positions, [RECORDS, 0]);
  assert.deepEqual(made.failures, []);
});

test('a snapshot that breaks off leaves nothing behind, however often', async (context) => {
  const made = await bench(context, {
    isInSync: false,
    onPosition: (link) => {
      link.send({ ...SNAPSHOT_BEGINS, bytes: 1_000_000 });
      link.send({ type: 'snapshotChunk', epoch: 2, bytes: Buffer.alloc(1000) });
      void until(() => incoming(made).length > 0, 'the node to take it').then(
        () => link.destroy(undefined),
        // The test is over.
        () => undefined,
      );
    },
  });
  await until(() => made.links.length > 2, 'the node to dial again');
  await until(() => incoming(made).length <= 1, 'what came before to go');
  await made.node!.stop();
  await until(() => incoming(made).length === 0, 'all to go');
});

test('a snapshot that does not fit on the disk is refused, and the log says what is missing', async (context) => {
  const bytes = Number.MAX_SAFE_INTEGER;
  const made = await bench(context, {
    isInSync: false,
    onPosition: (link) => {
      link.send({ ...SNAPSHOT_BEGINS, bytes });
      link.send({ type: 'snapshotChunk', epoch: 2, bytes: Buffer.from('abc') });
    },
  });
  await until(() => made.links.length > 1, 'the node to dial again');
  const why = made.lines.find(({ message }) => /lost the link/.test(message))?.fields?.why;
  assert.match(String(why), new RegExp(`snapshot takes ${bytes} bytes, and in .* there is room for \\d+$`));
  assert.deepEqual(incoming(made), []);
});

test('a node whose state is another one than that of the leader puts what it has aside, and copies it', async (context) => {
  const made = await bench(context, {
    onPosition: (link, logEnd, times) => {
      resume(RECORDS)(link, logEnd, times);
      if (times === 1)
        link.send({ type: 'refused', epoch: 2, code: 'state', message: 'the state of b differs' });
    },
  });
  const before = made.directory.incarnation;
  await until(() => made.links.length > 1, 'the node to dial again');
  assert.ok(made.said(/put the damaged log aside/));
  assert.notEqual(made.directory.incarnation, before);
  assert.ok(readdirSync(join(made.folder, 'damaged')).length > 0);
});

test('a batch of the leader that cannot be decoded is damage, which does not end the node', async (context) => {
  const payload = Buffer.from([255, 255, 0, 0, 250]);
  const header = { flags: BatchFlag.State, epoch: 2, baseOffset: RECORDS, lastOffset: RECORDS };
  const bytes = encodeBatch(undefined, { ...header, timestampMs: 1, recordCount: 1 }, payload);
  const made = await bench(context, {
    onPosition: (link, logEnd, times) => {
      resume(RECORDS)(link, logEnd, times);
      if (times === 1) link.send(append(RECORDS + 1, bytes));
    },
  });
  await until(() => made.links.length > 1, 'the node to dial again');
  assert.ok(made.said(/put the damaged log aside/));
  const found = made.lines.find(({ message }) => /what is on the disk is damaged/.test(message));
  assert.match(String(found?.fields?.why), /^offsets 3 to 3 cannot be decoded/);
  assert.deepEqual(made.failures, []);
});

test('a node that has more than the leader has committed ends, says why, and keeps it', async (context) => {
  const made = await bench(context, {
    committed: RECORDS,
    onPosition: (link) => {
      link.send({ type: 'resume', epoch: 2, cut: 1, highWatermark: 1, logStart: 0, history: [] });
    },
  });
  await until(() => made.failures.length > 0, 'the node to give up');
  const { code, message } = made.failures[0] as GomqError;
  assert.equal(code, 'CLUSTER_MISMATCH');
  assert.match(message, /the leader has nothing from 1 on, and up to \d+ all is committed/);
  await quiet();
  assert.equal(made.links.length, 1);
});

test('a node that is in sync gives nothing up for a snapshot, until it sees that it is not any more', async (context) => {
  const made = await bench(context, {
    onPosition: (link) => {
      link.send(SNAPSHOT_BEGINS);
    },
  });
  await until(() => made.links.length > 2, 'the node to dial again');
  const isComing = () => incoming(made).length > 0;
  assert.equal(isComing(), false);
  made.coordinator.put({
    state: {
      clusterId: 'id',
      epoch: 2,
      leader: 'a',
      inSync: [{ node: 'a', incarnation: 'a1' }],
      nonce: 'n',
    },
  });
  await until(isComing, 'the node to take it');
});

test('a node that is elected while it stops leads nothing, and stops', async (context) => {
  const made = new Bench({ hasLeader: false });
  context.after(() => made.end());
  made.coordinator.isHolding = true;
  const node = await made.start();
  await until(() => made.coordinator.campaigns.length > 0, 'the node to campaign');
  made.coordinator.onClose = () => made.coordinator.release();
  await node.stop();
  await quiet();
  assert.equal(made.said(/leads the cluster/), false);
});

test('an operator has a node lead where etcd has forgotten, in an epoch that nobody has seen', async (context) => {
  const made = new Bench({ hasLeader: false });
  context.after(() => made.end());
  made.coordinator.put({ member: { ...memberKey('a', 'a1', ''), epoch: 9 } });
  const node = await made.start();
  await until(() => made.said(/restored from an old copy/), 'the warning');
  await assert.rejects(node.forceLead(), /there was a leader a moment ago; try again/);
  await new Promise((resolve) => setTimeout(resolve, FORCE_AFTER_MS));
  await node.forceLead();
  const { epoch } = made.coordinator.state!;
  // One who is not there may have led in epoch 10.
  assert.ok(epoch >= 1_000_009 && epoch < 2_000_009, `${epoch}`);
  assert.deepEqual(made.coordinator.campaigns, [`b in epoch ${epoch}`]);
  assert.deepEqual(made.coordinator.state?.inSync, [{ node: 'b', incarnation: made.directory.incarnation }]);
  assert.equal(readMembership(made.folder)?.epoch, epoch);
  assert.ok(made.said(/an operator has this node lead/));
  await quiet();
  assert.equal(made.served, 0, 'one disk is not enough');
  await assert.rejects(node.forceLead(), /b leads/);
});

test('no node is made the leader that has less than another, or where one leads', async (context) => {
  const made = new Bench({ hasLeader: false });
  context.after(() => made.end());
  const ahead = { ...memberKey('a', 'a1', ''), epoch: 9 };
  made.coordinator.put({ member: { ...ahead, logEnd: RECORDS + 1 } });
  const node = await made.start();
  await until(() => made.said(/restored from an old copy/), 'the warning');
  await new Promise((resolve) => setTimeout(resolve, FORCE_AFTER_MS));
  const refused = (why: RegExp) => assert.rejects(node.forceLead(), { code: 'REFUSED', message: why });
  await refused(/a has more, up to offset \d+ of epoch 1/);
  made.coordinator.put({ member: { ...ahead, logEpoch: 2, logEnd: 1 } });
  await quiet();
  await refused(/a has more, up to offset 1 of epoch 2/);
  made.coordinator.put({ member: { ...ahead, clusterId: 'another', logEnd: RECORDS + 1 } });
  made.coordinator.put({ leader: { node: 'a', epoch: 9, nonce: 'n' } });
  await quiet();
  await refused(/a leads/);
  assert.deepEqual(made.coordinator.campaigns, []);
});

test('a node that has seen a later epoch than that of the leader follows nobody, and says so', async (context) => {
  const made = await bench(context, { hasLeader: false });
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  await made.node!.stop();
  made.coordinator.put({ gone: 'b', leader: { node: 'a', epoch: 2, nonce: 'n' } });
  await made.begin();
  await until(() => made.said(/a leads in epoch 2, and this node has seen epoch 3/), 'the warning');
});

test('a leader without a lease goes on while its member answers, and once that is silent it says why, stands down and closes its clients', async (context) => {
  const made = await bench(context, { hasLeader: false });
  made.coordinator.put({ member: memberKey('a', 'a1', '') });
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  const member = new Member(made, await made.dial());
  await until(() => made.served === 1, 'the node to serve');
  made.coordinator.isAway = true;
  await new Promise((resolve) => setTimeout(resolve, 1000 * LEASE_SECONDS + QUIET_MS));
  assert.equal(made.said(/stands down/), false, 'all in sync answer');
  assert.equal(made.stoodDown, 0);
  member.isSilent = true;
  const silentMs = performance.now();
  await until(() => made.stoodDown === 1, 'the clients to be closed');
  const ms = performance.now() - silentMs;
  assert.ok(ms < STANDS_DOWN_MS_MAX, `${ms} ms`);
  assert.ok(made.said(/stands down as the leader: the lease was not renewed in time, and not all in sync/));
  assert.equal(made.node!.role, 'waiting');
  member.link.destroy(undefined);
});

test('the log of a broker that stood alone does not join a cluster that has its own, and stays as it is', async (context) => {
  const made = await bench(context, { isInSync: false, clusterId: '', onPosition: resume(RECORDS) });
  await until(() => made.failures.length > 0, 'the node to give up');
  const { code, message } = made.failures[0] as GomqError;
  assert.equal(code, 'CLUSTER_MISMATCH');
  assert.match(message, /has the messages of a broker that stood alone, and cluster 'c' has its own/);
  assert.equal(readMembership(made.folder), undefined);
  await assertUntouched(made);
});

test('the directory of another cluster does not join, and stays as it is', async (context) => {
  const made = await bench(context, { clusterId: 'another', onPosition: resume(RECORDS) });
  await until(() => made.failures.length > 0, 'the node to give up');
  const { code, message } = made.failures[0] as GomqError;
  assert.equal(code, 'CLUSTER_MISMATCH');
  assert.match(message, /this directory belongs to cluster another, and 'c' in etcd is cluster id/);
  assert.equal(readMembership(made.folder)?.clusterId, 'another');
  await assertUntouched(made);
});

/** The node neither dials nor campaigns, and has what it had. */
async function assertUntouched(made: Bench): Promise<void> {
  const { incarnation } = made.directory;
  await made.killLeader();
  await quiet();
  assert.equal(made.dials, 0);
  assert.deepEqual(made.coordinator.transactions, []);
  assert.equal(made.storage!.log.endOffset, RECORDS);
  assert.equal(made.directory.incarnation, incarnation);
}

test('a leader that nobody follows stays in sync when it stands down: it may be the last that has everything', async (context) => {
  const made = new Bench({ hasLeader: false, minInSync: 1 });
  context.after(() => made.end());
  // Its key is there, and it does not answer.
  made.coordinator.put({ member: memberKey('a', 'a1', '') });
  const node = await made.start();
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  await node.stop();
  const { leader, state } = made.coordinator.transactions.at(-1)!;
  assert.equal(leader, 'delete');
  assert.equal(state?.leader, '');
  assert.deepEqual(
    state?.inSync.map((one) => one.node),
    ['a', 'b'],
  );
});

test('a leader that is followed leaves the in-sync set when it stands down: nobody waits for it', async (context) => {
  const made = new Bench({ hasLeader: false, minInSync: 1 });
  context.after(() => made.end());
  made.coordinator.put({ member: memberKey('a', 'a1', '') });
  const node = await made.start();
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  const member = new Member(made, await made.dial());
  await until(() => made.served === 1, 'the node to serve');
  // It looks several times a second who answers.
  await quiet();
  await node.stop();
  const { leader, state } = made.coordinator.transactions.at(-1)!;
  assert.equal(leader, 'delete');
  assert.deepEqual(state?.inSync, [{ node: 'a', incarnation: 'a1' }]);
  member.link.destroy(undefined);
});

test('a leader lets in whom etcd knows by this incarnation, and in its epoch', async (context) => {
  const made = new Bench({ hasLeader: false });
  context.after(() => made.end());
  made.coordinator.put({ member: memberKey('a', 'a1', '') });
  await made.start();
  await until(() => made.said(/leads the cluster/), 'the node to lead');
  const refused = (identity: Partial<PeerIdentity>, refusal: RefusalCode, message: RegExp) =>
    assert.rejects(made.dial(identity), { code: 'PEER_REFUSED', refusal, message });
  await refused({ epoch: 2 }, 'epoch', /epoch 2 of a, and this is epoch 3/);
  await refused({ epoch: 4 }, 'epoch', /epoch 4 of a, and this is epoch 3/);
  await refused({ incarnation: 'a0' }, 'incarnation', /the cluster does not know this directory of a/);
  await refused({ node: 'x' }, 'incarnation', /the cluster does not know this directory of x/);
  // Nobody of those was taken for the member that is in sync.
  assert.equal(made.served, 0);
  const member = new Member(made, await made.dial());
  await until(() => made.served === 1, 'the node to serve');
  member.link.destroy(undefined);
});

test('a node that does not lead lets nobody in, and says so', async (context) => {
  const made = await bench(context, { onPosition: resume(RECORDS) });
  await until(() => made.said(/follows the leader/), 'the node to follow');
  await assert.rejects(made.dial({ epoch: 2 }), { code: 'PEER_REFUSED', refusal: 'not-leader' });
});
