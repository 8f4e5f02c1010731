#!/usr/bin/env node
// Builds the rooms, starts, drains, stops; the only file that wires them. Run as a program it is `gomq`.
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Broker } from './broker/broker.js';
import { readHistory } from './broker/history.js';
import { runCommandLine } from './command-line.js';
import { formatAddress } from './core/address.js';
import { type Clock, systemClock } from './core/clock.js';
import type { Config } from './core/config.js';
import { GomqError } from './core/errors.js';
import { createLogger, type Logger } from './core/logger.js';
import { version } from './core/version.js';
import { createHttpServer, type HttpServer } from './http/server.js';
import { MemoryLog, type MemoryLogOptions } from './log/memory-log.js';
import { type ListenerAddress, openListeners } from './net/listeners.js';
import { ReasonCode } from './packet/reason-codes.js';
import { createAccessControl } from './security/access-control.js';
import { createAuthenticator } from './security/authenticator.js';
import { State, type StateOptions } from './state/state.js';
import { openStorage } from './state/storage.js';

const MEBIBYTE = 1024 * 1024;

/** EX_IOERR of sysexits.h. */
const EXIT_DISK_FAILED = 74;

/** Who publishes and reads over HTTP without a token. */
const ANONYMOUS = { clientId: '', userName: undefined };

export interface Gomq {
  readonly broker: Broker;
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
  const stateOptions: StateOptions = {
    internedTopics: config.limits.internedTopics,
    mayRead:
      accessControl === undefined
        ? undefined
        : (session, topicName) => accessControl.mayRead(session, topicName),
  };
  const storage =
    config.node.data === ''
      ? undefined
      : await openStorage({
          config,
          logger,
          clock,
          state: stateOptions,
          onFailure: options.onFailure ?? onDefect,
        });
  const broker = new Broker({
    createLog: (retention) => {
      if (storage === undefined) return new MemoryLog({ ...memoryLimits(config), clock, ...retention });
      storage.bind(retention);
      return storage.log;
    },
    state: storage?.state ?? new State(stateOptions),
    config,
    logger,
    clock,
    authenticator,
    accessControl,
    onDefect,
  });
  let http: HttpServer | undefined;
  let httpAddress: string | undefined;
  let isOpen = true;
  try {
    if (config.http.listen !== '') {
      // Whoever has the token is the operator; without one, whoever can reach the API is an anonymous client.
      const rules = config.http.token === '' ? accessControl : undefined;
      http = createHttpServer({
        config,
        logger,
        version,
        broker: {
          publish: async (message) => {
            if (rules?.mayPublish(ANONYMOUS, message.topicName) === false) {
              throw new GomqError('REFUSED', `no right to publish to ${message.topicName}`, {
                reasonCode: ReasonCode.NotAuthorized,
              });
            }
            await broker.publish(message);
          },
          history: async (query, signal) => {
            if (rules?.mayRead(ANONYMOUS, query.topicName) === false) {
              throw new GomqError('REFUSED', `no right to read ${query.topicName}`, {
                reasonCode: ReasonCode.NotAuthorized,
              });
            }
            return readHistory(broker, query, signal);
          },
          isReady: () => isOpen && broker.isReady,
        },
      });
      httpAddress = await http.listen();
    }
    const listeners = await openListeners({
      listeners: config.listeners,
      limits: config.limits,
      logger,
      onConnection: (transport) => broker.accept(transport),
    });
    return {
      broker,
      addresses: listeners.addresses,
      http: httpAddress,
      reload() {
        const failures: unknown[] = [];
        // A mistake in one file does not keep what another takes away from being taken away.
        const reloads = [
          () => authenticator.reload(),
          () => accessControl?.reload(),
          () => listeners.reloadCertificates(),
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
        const closed = listeners.close();
        await broker.stop();
        await closed;
        await http?.close();
        await storage?.close();
      },
    };
  } catch (error) {
    await broker.stop();
    await http?.close();
    await storage?.close();
    throw error;
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
  return `gomq ready: ${bound.join(' ')} role standalone`;
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
    process.exit(EXIT_DISK_FAILED);
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
