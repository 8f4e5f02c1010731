// Owns `gomqctl cluster`: shows the state of a cluster, once or as it changes, and asks it for what only an operator does.
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { ClusterApi, type ClusterStatus, parseHttpUrls } from './cluster-api.js';
import { problemsOf, renderStatus } from './cluster-view.js';
import { type Diagnostics, diagnose } from './diagnostics.js';
import { EXIT, Failure } from './failure.js';
import type { Io, Terminal } from './io.js';

interface ClusterOptions {
  http?: string;
  token?: string;
  watch?: boolean;
  yes?: boolean;
  json?: boolean;
  quiet?: boolean;
  connect?: string;
}

const WATCH_MS = 500;
/** A planned change of the leader takes a tenth of a second; without a lease that is given back, a few. */
const NEW_LEADER_MS = 15_000;
const REMOVED_MS = 5_000;
const ASK_AGAIN_MS = 100;

const EXAMPLES = `
Examples:
  gomqctl cluster
  gomqctl cluster --http 10.0.0.1:8000,10.0.0.2:8000 --watch
  gomqctl cluster step-down                             another node in sync leads
  gomqctl cluster remove node-c --yes                   node-c is gone for good
  gomqctl cluster force-lead node-a                     after a disaster: node-a leads with what it has

Environment: GOMQ_HTTP, GOMQ_TOKEN; options win.
Exit status: 0; 1 for errors, and where there is no leader or too few nodes are in sync; 27 for no answer in time.`;

export function clusterCommand(io: Io, exit: (code: number) => void): Command {
  const command = new Command('cluster')
    .description('show the state of a cluster; have another node lead; take a node out')
    .argument('[action...]', 'nothing shows the state; step-down, remove NODE, or force-lead NODE')
    .option('--http <url>', 'HTTP API of a broker, several with commas (default: http://127.0.0.1:8000)')
    .option('--token <token>', 'the http.token of the brokers')
    .option('--watch', 'show it again whenever it changes, until Ctrl-C')
    .option('--yes', 'remove, force-lead: do not ask')
    .option('--json', 'one JSON object a line on stdout')
    .option('--quiet', 'no errors or notices on stderr')
    .addOption(new Option('--connect <address>').hideHelp())
    .addHelpText('after', EXAMPLES);
  command.action(async (words: string[], options: ClusterOptions) => {
    exit(await cluster(words, options, io));
  });
  return command;
}

async function cluster(words: readonly string[], options: ClusterOptions, io: Io): Promise<number> {
  if (options.connect !== undefined) {
    throw new Failure('cluster asks brokers over HTTP: use --http HOST:PORT instead of --connect');
  }
  const [action, ...rest] = words;
  if (options.watch && action !== undefined)
    throw new Failure('--watch shows the state; leave out the action');
  const urls = parseHttpUrls(options.http, io.env);
  const token = options.token ?? (io.env.GOMQ_TOKEN || undefined);
  const api = new ClusterApi(urls, token, io.signal);
  const diagnostics = diagnose(io, options);
  switch (action) {
    case undefined:
      return options.watch ? watch(api, options, io) : show(api, options, io, diagnostics);
    case 'step-down':
      if (rest.length > 0) throw new Failure(`step-down takes no word, not "${rest.join(' ')}"`);
      return stepDown(api, options, io);
    case 'remove': {
      const [node, ...more] = rest;
      if (node === undefined || more.length > 0) {
        throw new Failure('remove takes the name of one node: gomqctl cluster remove NODE');
      }
      return remove(api, node, options, io);
    }
    case 'force-lead': {
      const [node, ...more] = rest;
      if (node === undefined || more.length > 0) {
        throw new Failure('force-lead takes the name of one node: gomqctl cluster force-lead NODE');
      }
      return forceLead(api, node, options, io);
    }
    default:
      throw new Failure(
        `unknown action "${action}"; use step-down, remove NODE, force-lead NODE, or none to show the state`,
      );
  }
}

// ---- the state ---------------------------------------------------------------------------------------------------------------------------

async function show(
  api: ClusterApi,
  options: ClusterOptions,
  io: Io,
  diagnostics: Diagnostics,
): Promise<number> {
  const { status, failures } = await api.status();
  for (const { message } of failures) diagnostics.notice(message);
  print(io, options.json ? asJson(status) : renderStatus(status).join('\n'));
  return problemsOf(status).some(({ isSevere }) => isSevere) ? EXIT.error : EXIT.ok;
}

function asJson(status: ClusterStatus): string {
  return JSON.stringify({ ...status, problems: problemsOf(status).map(({ text }) => text) });
}

/** Until Ctrl-C, which is its ordinary end. */
async function watch(api: ClusterApi, options: ClusterOptions, io: Io): Promise<number> {
  const isTerminal = (io.stdout as Terminal).isTTY === true && !options.json;
  let last = '';
  while (!io.signal.aborted) {
    const text = await look(api, options).catch((error: unknown) => {
      if (io.signal.aborted) return '';
      throw error;
    });
    if (text !== '' && text !== last) {
      // From the upper left corner, each line to its end and all below gone: so nothing flickers.
      if (isTerminal) {
        const begin = last === '' ? '\x1b[2J\x1b[H' : '\x1b[H';
        io.stdout.write(`${begin}${text.replaceAll('\n', '\x1b[K\n')}\x1b[K\n\x1b[J`);
      } else print(io, last === '' || options.json ? text : `\n${text}`);
      last = text;
    }
    await delay(WATCH_MS, undefined, { signal: io.signal }).catch(() => undefined);
  }
  return EXIT.ok;
}

/** What there is to see now; that nobody answers is also something to see. */
async function look(api: ClusterApi, options: ClusterOptions): Promise<string> {
  try {
    const { status, failures } = await api.status();
    if (options.json) return asJson(status);
    return [...renderStatus(status), ...failures.map(({ message }) => message)].join('\n');
  } catch (error) {
    if (!(error instanceof Failure) || error.exitCode === EXIT.interrupted) throw error;
    return options.json ? JSON.stringify({ error: error.message }) : error.message;
  }
}

// ---- what an operator does ---------------------------------------------------------------------------------------------------------------

async function stepDown(api: ClusterApi, options: ClusterOptions, io: Io): Promise<number> {
  const { status: before } = await api.status();
  const { leader: from } = before;
  if (from === null) throw new Failure('there is no leader that could step down');
  const startMs = performance.now();
  await api.stepDown();
  const after = await until(
    api,
    NEW_LEADER_MS,
    ({ leader, epoch }) => leader !== null && epoch > before.epoch,
  );
  if (after === undefined) {
    throw new Failure(
      `${from} stepped down, and no other node leads after ${NEW_LEADER_MS / 1000} s`,
      EXIT.timeout,
    );
  }
  const { leader: to, epoch } = after;
  const seconds = Number(((performance.now() - startMs) / 1000).toFixed(3));
  const text = `${from} stepped down; ${to} leads in epoch ${epoch}, after ${seconds} s`;
  print(io, options.json ? JSON.stringify({ from, to, epoch, seconds }) : text);
  return EXIT.ok;
}

/** The status that is as wanted, or nothing where none is in time. */
async function until(
  api: ClusterApi,
  timeoutMs: number,
  isWanted: (status: ClusterStatus) => boolean,
): Promise<ClusterStatus | undefined> {
  const endMs = performance.now() + timeoutMs;
  while (performance.now() < endMs) {
    try {
      const { status } = await api.status();
      if (isWanted(status)) return status;
    } catch (error) {
      if (!(error instanceof Failure) || error.exitCode === EXIT.interrupted) throw error;
    }
    await delay(ASK_AGAIN_MS);
  }
  return undefined;
}

async function remove(api: ClusterApi, node: string, options: ClusterOptions, io: Io): Promise<number> {
  const { status: before } = await api.status();
  const known = new Set([...before.inSync, ...before.members.map((member) => member.node)]);
  if (!known.has(node)) {
    throw new Failure(`there is no node ${node} in cluster ${before.cluster}, only ${[...known].join(', ')}`);
  }
  if (!before.inSync.includes(node)) {
    const text = `${node} is not in sync, so nothing waits for it: there is nothing to take out`;
    print(io, options.json ? JSON.stringify({ removed: node, inSync: before.inSync }) : text);
    return EXIT.ok;
  }
  if (!options.yes) {
    const rest = before.inSync.filter((one) => one !== node).join(', ') || 'no node';
    await confirm(
      'remove',
      `${node} will be out of cluster ${before.cluster}; what was acknowledged stays on ${rest}.`,
      `Take ${node} out`,
      io,
    );
  }
  await api.remove(node);
  const after = await until(api, REMOVED_MS, ({ inSync }) => !inSync.includes(node));
  if (after === undefined) {
    throw new Failure(
      `${node} still counts as in sync after ${REMOVED_MS / 1000} s: a node that runs is taken in again, stop it first`,
      EXIT.timeout,
    );
  }
  const text = `${node} is out of cluster ${after.cluster}; in sync: ${after.inSync.join(', ')}`;
  print(io, options.json ? JSON.stringify({ removed: node, inSync: after.inSync }) : text);
  return EXIT.ok;
}

async function forceLead(api: ClusterApi, node: string, options: ClusterOptions, io: Io): Promise<number> {
  const { status: before } = await api.status();
  if (before.leader !== null) {
    throw new Failure(`${before.leader} leads: force-lead is for a cluster in which nobody can`);
  }
  const member = before.members.find((one) => one.node === node);
  if (member === undefined) {
    const there = before.members.map((one) => one.node).join(', ');
    throw new Failure(`there is no node ${node} in cluster ${before.cluster}, only ${there || 'none'}`);
  }
  if (!options.yes) {
    await confirm(
      'force-lead',
      `${node} will lead cluster ${before.cluster} with what it has. What was acknowledged and only other nodes had is lost.`,
      `Have ${node} lead`,
      io,
    );
  }
  await api.forceLead(node, member.http === '' ? undefined : member.http);
  const after = await until(api, NEW_LEADER_MS, ({ leader }) => leader !== null);
  if (after === undefined) {
    throw new Failure(`${node} was elected, and does not lead after ${NEW_LEADER_MS / 1000} s`, EXIT.timeout);
  }
  const { leader, epoch } = after;
  const text = `${leader} leads in epoch ${epoch}; it serves clients once ${after.minInSync} nodes are in sync`;
  print(io, options.json ? JSON.stringify({ leader, epoch }) : text);
  return EXIT.ok;
}

/** @throws {Failure} where the answer is not yes, or nobody can be asked */
async function confirm(action: string, consequence: string, question: string, io: Io): Promise<void> {
  if (io.stdin.isTTY !== true || io.stderr.isTTY !== true) {
    throw new Failure(`${action} asks before it is done, and there is no terminal: add --yes`);
  }
  io.stderr.write(`${consequence}\n`);
  const reader = createInterface({ input: io.stdin, output: io.stderr });
  const answer = await new Promise<string>((resolve) => {
    reader.once('close', () => resolve(''));
    io.signal.addEventListener('abort', () => reader.close(), { once: true });
    reader.question(`${question}? Type yes: `, resolve);
  });
  reader.close();
  if (io.signal.aborted) throw new Failure('interrupted; nothing was done', EXIT.interrupted);
  if (answer.trim().toLowerCase() !== 'yes') throw new Failure('not confirmed; nothing was done');
}

function print(io: Io, text: string): void {
  io.stdout.write(`${text}\n`);
}
