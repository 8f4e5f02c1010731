#!/usr/bin/env node
// Builds the rooms, starts, drains, stops; the only file that wires them. Run as a program it is `gomq`.
import { readFileSync, realpathSync } from 'node:fs';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { v7 as uuid } from 'uuid';
import { Broker } from './broker/broker.js';
import { readHistory } from './broker/history.js';
import { EtcdCoordinator } from './cluster/etcd.js';
import { Gateway } from './cluster/gateway.js';
import { ClusterNode } from './cluster/node.js';
import { runCommandLine } from './command-line.js';
import { formatAddress, parseAddress } from './core/address.js';
import { type Clock, systemClock } from './core/clock.js';
import type { Config } from './core/config.js';
import { GomqError } from './core/errors.js';
import { createLogger, type Logger } from './core/logger.js';
import type { Transport } from './core/transport.js';
import { version } from './core/version.js';
import type { HttpCluster } from './http/cluster.js';
import { createHttpServer, type HttpServer } from './http/server.js';
import { openDataDirectory } from './log/data-directory.js';
import type { Log } from './log/log.js';
import { MEMBERSHIP_NAME, readMembership } from './log/membership.js';
import { MemoryLog, type MemoryLogOptions } from './log/memory-log.js';
import { type ListenerAddress, type Listeners, openListeners } from './net/listeners.js';
import { TcpTransport } from './net/tcp.js';
import { ReasonCode } from './packet/reason-codes.js';
import type { PeerTls } from './replication/peer-tls.js';
import { type AccessControl, createAccessControl } from './security/access-control.js';
import { type Authenticator, createAuthenticator } from './security/authenticator.js';
import { State, type StateOptions } from './state/state.js';
import { openStorage, type Storage } from './state/storage.js';

const MEBIBYTE = 1024 * 1024;

/** EX_IOERR of sysexits.h. */
const EXIT_FAILED = 1;
const EXIT_DISK_FAILED = 74;

/** Who publishes and reads over HTTP without a token. */
const ANONYMOUS = { clientId: '', userName: undefined };

export interface Gomq {
  /** The broker that serves clients here. @throws {GomqError} NOT_READY where another node does */
  broker(): Broker;
  readonly role: 'standalone' | 'node';
  /** What was bound, in the order of the configuration. */
  readonly addresses: readonly ListenerAddress[];
  /** HOST:PORT of the HTTP API, or undefined when it is turned off. */
  readonly http: string | undefined;
  /**
   * Reads the password, ACL and certificate files again; what was in force stays in force where that fails.
   * @returns what failed: CONFIG_UNREADABLE, CONFIG_INVALID
   */
  reload(): unknown[];
  /** Takes no more clients, says goodbye to those there are, and lets go of everything. */
  stop(): Promise<void>;
}

export interface StartOptions {
  logger: Logger;
  clock?: Clock;
  /** A broken invariant: whatever the process knows may be wrong from here on. */
  onDefect: (error: unknown) => void;
  /** The disk failed: nothing is committed any more, and the process should say so and end. A defect where absent. */
  onFailure?: (error: GomqError) => void;
}

/**
 * Starts a broker; resolves when clients can connect.
 * @throws {GomqError} ADDRESS_IN_USE, ADDRESS_INVALID, CONFIG_INVALID, CONFIG_UNREADABLE, DATA_DAMAGED, DATA_IN_USE, DATA_UNREADABLE, DATA_VERSION,
 * DISK_FAILED
 */
export async function startGomq(config: Config, options: StartOptions): Promise<Gomq> {
  const { logger, onDefect, clock = systemClock } = options;
  const authenticator = createAuthenticator(config.auth, logger);
  const accessControl = createAccessControl(config.auth.aclFile, logger);
  const common: Common = {
    config,
    logger,
    clock,
    onDefect,
    onFailure: options.onFailure ?? onDefect,
    authenticator,
    accessControl,
  };
  const isClustered = config.cluster.etcd.endpoints.length > 0;
  let http: HttpServer | undefined;
  const core = isClustered
    ? await startNode(common, (socket, alreadyRead) => {
        if (http === undefined) socket.destroy();
        else http.acceptPassedOn(socket, alreadyRead);
      })
    : await startAlone(common);
  let httpAddress: string | undefined;
  let listeners: Listeners | undefined;
  let isOpen = true;
  try {
    // A node of a cluster answers what others pass on, whether it has an address for it or not.
    if (config.http.listen !== '' || isClustered) {
      const mayNot = (what: string, topicName: string): never => {
        throw new GomqError('REFUSED', `no right to ${what} ${topicName}`, {
          reasonCode: ReasonCode.NotAuthorized,
        });
      };
      http = createHttpServer({
        config,
        logger,
        version,
        broker: {
          publish: async (message, caller) => {
            const { topicName } = message;
            const isAllowed =
              caller === 'operator' || accessControl?.mayPublish(ANONYMOUS, topicName) !== false;
            if (!isAllowed) mayNot('publish to', topicName);
            await core.broker().publish(message);
          },
          history: async (query, caller, signal) => {
            const { topicName } = query;
            const isAllowed = caller === 'operator' || accessControl?.mayRead(ANONYMOUS, topicName) !== false;
            if (!isAllowed) mayNot('read', topicName);
            return readHistory(core.broker(), query, signal);
          },
          isReady: () => isOpen && core.isReady(),
        },
        cluster: core.cluster,
      });
      if (config.http.listen !== '') httpAddress = await http.listen();
    }
    listeners = await openListeners({
      listeners: config.listeners,
      limits: config.limits,
      logger,
      onConnection: (transport) => core.accept(transport),
    });
    const { addresses } = listeners;
    const reloadable = listeners;
    core.onListening(addresses, httpAddress);
    return {
      broker: () => core.broker(),
      role: core.role,
      addresses,
      http: httpAddress,
      reload() {
        const failures: unknown[] = [];
        // A mistake in one file does not keep what another takes away from being taken away.
        const reloads = [
          () => authenticator.reload(),
          () => accessControl?.reload(),
          () => reloadable.reloadCertificates(),
        ];
        for (const reload of reloads) {
          try {
            reload();
          } catch (error) {
            failures.push(error);
          }
        }
        return failures;
      },
      async stop() {
        isOpen = false;
        const closed = reloadable.close();
        await core.drain();
        await closed;
        await http?.close();
        await core.close();
      },
    };
  } catch (error) {
    await core.drain();
    await listeners?.close();
    await http?.close();
    await core.close();
    throw error;
  }
}

interface Common {
  readonly config: Config;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly onDefect: (error: unknown) => void;
  readonly onFailure: (error: GomqError) => void;
  readonly authenticator: Authenticator;
  readonly accessControl: AccessControl | undefined;
}

/** What serves clients, alone or with others. */
interface Core {
  readonly role: 'standalone' | 'node';
  /** The broker that serves clients here. @throws {GomqError} NOT_READY where another node does */
  broker(): Broker;
  isReady(): boolean;
  readonly cluster: HttpCluster;
  accept(transport: Transport): void;
  /** Clients can connect. */
  onListening(addresses: readonly ListenerAddress[], http: string | undefined): void;
  /** Takes no more clients and says goodbye to those there are. */
  drain(): Promise<void>;
  /** Lets go of everything. */
  close(): Promise<void>;
}

function stateOptionsOf({ config, accessControl }: Common): StateOptions {
  return {
    internedTopics: config.limits.internedTopics,
    mayRead:
      accessControl === undefined
        ? undefined
        : (session, topicName) => accessControl.mayRead(session, topicName),
  };
}

async function startAlone(common: Common): Promise<Core> {
  const { config, logger, clock, onFailure, onDefect } = common;
  const state = stateOptionsOf(common);
  const path = config.node.data;
  const directory = path === '' ? undefined : openDataDirectory(path, { nodeId: config.node.id });
  let storage: Storage | undefined;
  try {
    if (directory !== undefined) {
      // What it acknowledged alone would be of an epoch of the cluster, and nobody could tell the two apart.
      if (readMembership(path) !== undefined) {
        throw new GomqError('CLUSTER_MISMATCH', `the log in ${path} is that of a node of a cluster`, {
          hint: `Start the broker with --etcd. To look into a copy of the directory as a broker that stands alone, remove ${MEMBERSHIP_NAME} from the copy: it can never join the cluster again.`,
        });
      }
      storage = await openStorage({ config, directory, logger, clock, state, onFailure, onDefect });
    }
  } catch (error) {
    directory?.release();
    throw error;
  }
  let log: Log | undefined;
  const broker = new Broker({
    ...common,
    createLog: (retention) => {
      storage?.bind(retention);
      log = storage?.log ?? new MemoryLog({ ...memoryLimits(config), clock, ...retention });
      return log;
    },
    state: storage?.state ?? new State(state),
  });
  const node = directory?.nodeId ?? config.node.id;
  let addresses = { mqtt: '', http: '' };
  const alone = async (): Promise<never> => {
    throw new GomqError('REFUSED', `${node} stands alone: there is no other node`, {
      hint: 'A broker is a node of a cluster when it is started with --etcd.',
    });
  };
  return {
    role: 'standalone',
    broker: () => broker,
    isReady: () => broker.isReady,
    cluster: {
      node,
      isServing: () => true,
      isLeading: () => true,
      leader: () => undefined,
      openLeader: alone,
      stepDown: alone,
      removeNode: alone,
      forceLead: alone,
      status() {
        const { endOffset: logEnd, highWatermark } = log!;
        const member = { node, role: 'leader' as const, logEnd, lagRecords: 0, inSync: true, ...addresses };
        return {
          cluster: config.cluster.name,
          leader: node,
          epoch: 1,
          highWatermark,
          inSync: [node],
          members: [member],
          replicas: 1,
          minInSync: 1,
        };
      },
    },
    accept: (transport) => broker.accept(transport),
    onListening(bound, http) {
      const mqtt = bound.find(({ kind }) => kind === 'mqtt') ?? bound[0];
      addresses = { mqtt: mqtt === undefined ? '' : formatAddress(mqtt), http: http ?? '' };
    },
    drain: () => broker.stop(),
    async close() {
      await storage?.close();
      directory?.release();
    },
  };
}

async function startNode(
  common: Common,
  onHttp: (socket: Socket, alreadyRead: Buffer) => void,
): Promise<Core> {
  const { config, logger, clock, onFailure, onDefect } = common;
  const { cluster } = config;
  const { name, etcd, replicas } = cluster;
  const state = stateOptionsOf(common);
  const directory = openDataDirectory(config.node.data, { nodeId: config.node.id });
  let broker: Broker | undefined;
  let addresses = { mqtt: '', http: '' };
  const advertise = cluster.advertise === '' ? parseAddress(cluster.peer).host : cluster.advertise;
  let node: ClusterNode | undefined;
  const gateway = new Gateway({
    clock,
    logger,
    connectTimeoutSeconds: config.limits.connectTimeoutSeconds,
    openTunnel: (client) => node!.openTunnel(client),
  });
  const route = (): void => {
    if (node === undefined) return;
    gateway.route(
      broker === undefined ? undefined : (transport) => broker?.accept(transport),
      node.leaderPeer === undefined ? undefined : node.leadershipName,
      node.leaderAddress('mqtt') ?? '',
    );
  };
  const coordinator = new EtcdCoordinator({
    endpoints: etcd.endpoints,
    user: etcd.user,
    password: etcd.password,
    tls: etcdTls(etcd.tls),
    cluster: name,
    leaseSeconds: cluster.leaseSeconds,
    clock,
    logger,
  });
  try {
    node = await ClusterNode.start({
      cluster: name,
      nodeId: directory.nodeId,
      replicas,
      minInSync: minInSyncOf(config),
      leaseSeconds: cluster.leaseSeconds,
      lagSeconds: cluster.lagSeconds,
      peer: cluster.peer,
      advertise,
      secret: cluster.secret,
      tls: peerTls(cluster.tls),
      directory,
      coordinator,
      clock,
      logger,
      draw: () => uuid(),
      openStorage: (committed, beforeCut) =>
        openStorage({
          config,
          directory,
          committed,
          beforeCut,
          logger,
          clock,
          state,
          onFailure,
          onDamaged: (why) => node?.onDamaged(why),
          onDefect,
        }),
      addresses: () => addresses,
      onServe: (storage) => {
        broker = new Broker({
          ...common,
          createLog: (retention) => {
            storage.bind(retention);
            return storage.log;
          },
          state: storage.state,
          hasEnough: () => node?.hasEnough ?? false,
          areOthersFull: () => node?.isFull ?? false,
        });
        route();
      },
      onStandDown: () => {
        broker?.abandon();
        broker = undefined;
        route();
      },
      hasRoom: () => (broker?.connectionCount ?? 0) < config.limits.connections,
      onChange: route,
      onTunnel: (socket, client, _hello, alreadyRead) => {
        if (broker === undefined) {
          socket.destroy();
          return;
        }
        if (alreadyRead.length > 0) socket.unshift(alreadyRead);
        broker.accept(TcpTransport.overTunnel(socket, client));
      },
      onHttp: (socket, _hello, alreadyRead) => onHttp(socket, alreadyRead),
      onFailure,
      onDefect,
    });
  } catch (error) {
    await coordinator.close(0);
    directory.release();
    throw error;
  }
  const started = node;
  logger.info('a node of a cluster', { cluster: name, node: directory.nodeId, replicas });
  return {
    role: 'node',
    broker() {
      if (broker === undefined) {
        throw new GomqError('NOT_READY', 'another node of the cluster leads', {
          hint: `Ask the leader: http://${started.leaderAddress('http') ?? 'unknown'}`,
          retriable: true,
        });
      }
      return broker;
    },
    isReady: () => broker?.isReady ?? started.role === 'member',
    cluster: {
      node: directory.nodeId,
      status: () => ({ ...started.status, replicas, minInSync: minInSyncOf(config) }),
      isServing: () => broker !== undefined,
      isLeading: () => started.isLeading,
      // Where this node leads, and does not serve yet, there is no other one to ask.
      leader: () => (started.leaderPeer === undefined ? undefined : started.leader),
      async openLeader() {
        const { socket, alreadyRead } = await started.openHttp();
        if (alreadyRead.length > 0) socket.unshift(alreadyRead);
        return socket;
      },
      stepDown: () => started.stepDown(),
      removeNode: (name) => started.removeNode(name),
      forceLead: () => started.forceLead(),
    },
    accept: (transport) => gateway.accept(transport),
    onListening(bound, http) {
      const mqtt = bound.find(({ kind }) => kind === 'mqtt') ?? bound[0];
      const at = (port: number): string => formatAddress({ host: advertise, port });
      addresses = {
        mqtt: mqtt === undefined ? '' : at(mqtt.port),
        http: http === undefined ? '' : at(parseAddress(http).port),
      };
      started.join();
    },
    async drain() {
      gateway.close();
      // A broker that drains closes whatever comes. Who comes through another node is better kept there.
      started.refuseTunnels();
      await broker?.drain();
    },
    async close() {
      await started.stop();
      directory.release();
    },
  };
}

function minInSyncOf({ cluster }: Config): number {
  return cluster.minInSync === 0 ? Math.floor(cluster.replicas / 2) + 1 : cluster.minInSync;
}

function peerTls({ cert, key, ca }: Config['cluster']['tls']): PeerTls | undefined {
  if (cert === '') return undefined;
  return { cert: readText(cert), key: readText(key), ca: readText(ca) };
}

function etcdTls({ ca, cert, key }: Config['cluster']['etcd']['tls']) {
  if (ca + cert + key === '') return undefined;
  const read = (file: string): string | undefined => (file === '' ? undefined : readText(file));
  return { ca: read(ca), cert: read(cert), key: read(key) };
}

/** @throws {GomqError} CONFIG_UNREADABLE */
function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new GomqError(
      'CONFIG_UNREADABLE',
      `cannot read ${file}: ${(error as NodeJS.ErrnoException).code}`,
      {
        cause: error,
      },
    );
  }
}

/** The log in memory keeps to what a machine has of that, whatever the disk may hold. */
function memoryLimits({
  log,
}: Config): Pick<MemoryLogOptions, 'segmentBytes' | 'retentionBytes' | 'hardLimitBytes'> {
  return {
    segmentBytes: Math.min(log.segmentBytes, 8 * MEBIBYTE),
    retentionBytes: Math.min(log.retentionBytes, 64 * MEBIBYTE),
    hardLimitBytes: Math.min(log.hardLimitBytes, 1024 * MEBIBYTE),
  };
}

/** `gomq ready: mqtt 127.0.0.1:9000 http 127.0.0.1:8000 role standalone` */
function readyLine(gomq: Gomq): string {
  const bound = gomq.addresses.map((address) => `${address.kind} ${formatAddress(address)}`);
  if (gomq.http !== undefined) bound.push(`http ${gomq.http}`);
  return `gomq ready: ${bound.join(' ')} role ${gomq.role}`;
}

/** Starts as a process: one line when ready, an orderly end on SIGTERM and Ctrl-C, and no survival of a defect. */
async function startProcess(config: Config): Promise<void> {
  const logger = createLogger(config.logger);
  const onDefect = (error: unknown): void => {
    logger.error('a defect in gomq: stopping at once', { error });
    // The logger writes in the background, and flushes when the process exits.
    process.exit(70);
  };
  process.on('uncaughtException', onDefect);
  process.on('unhandledRejection', onDefect);
  const onFailure = (error: GomqError): void => {
    logger.error(`${error.message}; stopping at once`, { hint: error.hint });
    // A node that does not belong to the cluster may find that out when it runs already.
    process.exit(error.code === 'CLUSTER_MISMATCH' ? EXIT_FAILED : EXIT_DISK_FAILED);
  };
  const gomq = await startGomq(config, { logger, onDefect, onFailure });
  let isStopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    // The second one means it.
    if (isStopping) process.exit(1);
    isStopping = true;
    logger.info(`stopping on ${signal}`);
    gomq.stop().then(() => process.exit(0), onDefect);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.on('SIGHUP', () => {
    const failures = gomq.reload();
    if (failures.length === 0) {
      logger.info('read the password, ACL and certificate files again');
      return;
    }
    const errors = failures.map((error) => (error instanceof Error ? error.message : String(error)));
    logger.error(
      'could not read the password, ACL and certificate files again; what could not be read stays as it was',
      { errors },
    );
  });
  process.stdout.write(`${readyLine(gomq)}\n`);
}

const entry = process.argv[1];
if (entry !== undefined && realpathSync(entry) === fileURLToPath(import.meta.url)) {
  process.exitCode = await runCommandLine(process.argv.slice(2), { start: startProcess });
}
