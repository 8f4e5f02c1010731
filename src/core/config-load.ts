// Gathers the configuration from where people write it: flags over environment over file over defaults. Every value keeps its source, so
// that a wrong one is reported with the key, the value, what was expected, and the line, variable or flag it came from. All that is
// wrong is reported at once.
import { readFileSync } from 'node:fs';
import { isMap, isNode, isScalar, isSeq, LineCounter, type Pair, parseDocument } from 'yaml';
import type { ZodError } from 'zod';
import { parseAddress } from './address.js';
import { assembleConfig, type Config, type ConfigKey, configKeys } from './config.js';
import { GomqError } from './errors.js';

export interface ConfigSources {
  /** Path of a YAML file. */
  file?: string | undefined;
  /** Variables such as GOMQ_LOG__SEGMENT_BYTES; others are ignored. */
  env?: Readonly<Record<string, string | undefined>> | undefined;
  /** The flags that have a key of their own. */
  flags?:
    | {
        mqtt?: readonly string[] | undefined;
        http?: string | undefined;
        data?: string | undefined;
        nodeId?: string | undefined;
        cluster?: string | undefined;
        /** As they were written: `URL,URL`. */
        etcd?: readonly string[] | undefined;
        peer?: string | undefined;
      }
    | undefined;
  /** What followed each --set: `key.path=value`. */
  set?: readonly string[] | undefined;
}

interface Found {
  value: unknown;
  /** `gomq.yaml:12`, `GOMQ_HTTP__LISTEN` or `--mqtt`. */
  source: string;
}

/** One gathering: what was found so far, and what is wrong with it. */
interface Gathering {
  found: Map<string, Found>;
  problems: string[];
}

const keysByPath = new Map(configKeys.map((key) => [key.path, key]));
const keysByVariable = new Map(configKeys.map((key) => [variableOf(key.path), key]));
const sections = new Set(configKeys.flatMap(({ path }) => prefixesOf(path)));
/** What gomqctl reads from the environment; the broker may be started from the same shell. */
const CLIENT_VARIABLES = new Set(['GOMQ_URL', 'GOMQ_USER', 'GOMQ_PASSWORD']);
/** What turns a list or an address off where an empty value cannot be written. */
const OFF = 'off';
/** A longer name is no typing mistake, and comparing it would take time. */
const SUGGESTED_LENGTH_MAX = 100;

/**
 * @throws {GomqError} CONFIG_UNREADABLE: the file cannot be read. CONFIG_INVALID: the message has one line per problem.
 */
export function loadConfig(sources: ConfigSources): Config {
  const gathering: Gathering = { found: new Map(), problems: [] };
  if (sources.file !== undefined) gatherFile(gathering, sources.file);
  gatherEnvironment(gathering, sources.env ?? {});
  gatherSettings(gathering, sources.set ?? []);
  gatherFlags(gathering, sources.flags ?? {});

  const values = new Map<string, unknown>();
  for (const [path, found] of gathering.found) {
    const key = keysByPath.get(path) as ConfigKey;
    const checked = key.schema.safeParse(found.value);
    if (checked.success) values.set(path, checked.data);
    else gathering.problems.push(describeWrongValue(key, found, checked.error));
  }
  if (gathering.problems.length > 0) throw invalid(gathering.problems);

  const config = assembleConfig(values);
  const contradictions = findContradictions(config);
  if (contradictions.length > 0) throw invalid(contradictions);
  return config;
}

/** `log.segmentBytes` -> `GOMQ_LOG__SEGMENT_BYTES` */
export function variableOf(path: string): string {
  const levels = path
    .split('.')
    .map((name) => name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase());
  return `GOMQ_${levels.join('__')}`;
}

function gatherFile(gathering: Gathering, file: string): void {
  const lines = new LineCounter();
  const document = parseDocument(readText(file), { lineCounter: lines, prettyErrors: false });
  const place = (offset: number) => `${file}:${lines.linePos(offset).line}`;
  for (const error of document.errors) {
    gathering.problems.push(`${place(error.pos[0])}: not YAML: ${error.message}`);
  }
  if (document.errors.length > 0 || isEmpty(document.contents)) return;

  const visit = (node: unknown, prefix: string, source: string) => {
    if (!isMap(node)) {
      const what = prefix === '' ? 'the file' : prefix;
      const held = isSeq(node) ? 'a list' : 'a single value';
      gathering.problems.push(`${source}: ${what} holds ${held}; expected a section with keys`);
      return;
    }
    for (const pair of node.items as Pair[]) {
      const name = isScalar(pair.key) ? String(pair.key.value) : String(pair.key);
      const path = prefix === '' ? name : `${prefix}.${name}`;
      const offset = isScalar(pair.key) ? pair.key.range?.[0] : undefined;
      const from = place(offset ?? 0);
      if (keysByPath.has(path)) {
        const value = isNode(pair.value) ? (pair.value.toJS(document) as unknown) : null;
        // `key:` with nothing behind it is how people leave a key out in YAML.
        if (value !== null) gathering.found.set(path, { value, source: from });
      } else if (!sections.has(path)) {
        gathering.problems.push(`${from}: unknown key ${path}${suggestKey(path)}`);
      } else if (!isEmpty(pair.value)) {
        visit(pair.value, path, from);
      }
    }
  };
  visit(document.contents, '', `${file}:1`);
}

function gatherEnvironment(gathering: Gathering, env: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(env)) {
    // An empty variable counts as not set: that is what `VARIABLE=${OTHER:-}` makes in compose files.
    if (!name.startsWith('GOMQ_') || value === undefined || value === '') continue;
    const key = keysByVariable.get(name);
    if (key !== undefined) {
      gathering.found.set(key.path, { value: readValue(key, value), source: name });
      continue;
    }
    // Orchestrators add variables such as GOMQ_SERVICE_PORT for a service of this name. No key looks like them, as every key has two
    // levels; a name without `__` is taken for a mistake only where it nearly is a key.
    const isLevelled = name.includes('__');
    if (!isLevelled && CLIENT_VARIABLES.has(name)) continue;
    const nearest = nearestOf(name, keysByVariable.keys(), isLevelled ? undefined : 2);
    const isMeant = isLevelled || nearest !== undefined;
    if (isMeant) gathering.problems.push(`unknown environment variable ${name}${suggest(nearest)}`);
  }
}

function gatherSettings(gathering: Gathering, settings: readonly string[]): void {
  for (const setting of settings) {
    const equals = setting.indexOf('=');
    if (equals === -1) {
      gathering.problems.push(`--set ${setting}: expected key.path=value`);
      continue;
    }
    const path = setting.slice(0, equals);
    const key = keysByPath.get(path);
    if (key === undefined) {
      const what = sections.has(path)
        ? `${path} is a section, not a key`
        : `unknown key ${path}${suggestKey(path)}`;
      gathering.problems.push(`--set: ${what}`);
      continue;
    }
    gathering.found.set(path, { value: readValue(key, setting.slice(equals + 1)), source: '--set' });
  }
}

function gatherFlags(gathering: Gathering, flags: NonNullable<ConfigSources['flags']>): void {
  if (flags.mqtt !== undefined && flags.mqtt.length > 0) {
    const value = flags.mqtt.filter((address) => address !== OFF);
    gathering.found.set('listeners.mqtt', { value, source: '--mqtt' });
  }
  if (flags.data !== undefined) gathering.found.set('node.data', { value: flags.data, source: '--data' });
  if (flags.nodeId !== undefined)
    gathering.found.set('node.id', { value: flags.nodeId, source: '--node-id' });
  if (flags.cluster !== undefined)
    gathering.found.set('cluster.name', { value: flags.cluster, source: '--cluster' });
  if (flags.etcd !== undefined && flags.etcd.length > 0) {
    const value = flags.etcd.flatMap((urls) => urls.split(',').map((url) => url.trim()));
    gathering.found.set('cluster.etcd.endpoints', { value, source: '--etcd' });
  }
  if (flags.peer !== undefined) gathering.found.set('cluster.peer', { value: flags.peer, source: '--peer' });
  if (flags.http !== undefined) {
    gathering.found.set('http.listen', { value: flags.http === OFF ? '' : flags.http, source: '--http' });
  }
}

/** Text that cannot be read as the key's kind stays text, which the schema then refuses with the value as it was written. */
function readValue(key: ConfigKey, written: string): unknown {
  switch (key.kind) {
    case 'integer':
      return readInteger(written);
    case 'choice':
      return typeof key.byDefault === 'number' ? readInteger(written) : written;
    case 'boolean':
      if (written === 'true' || written === '1') return true;
      return written === 'false' || written === '0' ? false : written;
    case 'list':
      if (written === OFF || written === '') return [];
      return written.split(',').map((item) => item.trim());
    case 'text':
      return written === OFF && key.path === 'http.listen' ? '' : written;
  }
}

function readInteger(written: string): unknown {
  return /^-?[0-9]{1,16}$/.test(written) ? Number(written) : written;
}

/** What the keys, each right in itself, cannot be together. */
function findContradictions({ listeners, log, cluster, node }: Config): string[] {
  const problems: string[] = [];
  const { mqtt, mqtts, ws, wss, tls } = listeners;
  if (mqtt.length + mqtts.length + ws.length + wss.length === 0) {
    problems.push('listeners: at least one of mqtt, mqtts, ws and wss needs an address');
  }
  if (mqtts.length + wss.length > 0 && (tls.cert === '' || tls.key === '')) {
    problems.push('listeners.mqtts and listeners.wss need listeners.tls.cert and listeners.tls.key');
  }
  if (tls.requireClientCert && tls.ca === '') {
    problems.push('listeners.tls.requireClientCert needs listeners.tls.ca');
  }
  if (log.segmentBytes > log.retentionBytes) {
    problems.push(
      `log.segmentBytes = ${log.segmentBytes} is above log.retentionBytes = ${log.retentionBytes}`,
    );
  }
  if (log.retentionBytes > log.hardLimitBytes) {
    problems.push(
      `log.retentionBytes = ${log.retentionBytes} is above log.hardLimitBytes = ${log.hardLimitBytes}`,
    );
  }
  if (cluster.etcd.endpoints.length > 0) problems.push(...findClusterContradictions(cluster, node));
  return problems;
}

const SECRET_CHARACTERS_MIN = 16;

function findClusterContradictions(cluster: Config['cluster'], node: Config['node']): string[] {
  const problems: string[] = [];
  const { minInSync, replicas, peer, secret, tls } = cluster;
  if (minInSync > replicas) {
    problems.push(`cluster.minInSync = ${minInSync} is above cluster.replicas = ${replicas}`);
  }
  if (node.data === '') problems.push("node.data = '': a node of a cluster keeps its log on disk");
  const files = [tls.cert, tls.key, tls.ca].filter((file) => file !== '');
  if (files.length > 0 && files.length < 3) {
    problems.push('cluster.tls needs all of cert, key and ca');
  }
  if (secret !== '' && secret.length < SECRET_CHARACTERS_MIN) {
    problems.push(`cluster.secret needs at least ${SECRET_CHARACTERS_MIN} characters`);
  }
  if (secret === '' && files.length === 0 && !isLoopback(parseAddress(peer).host)) {
    problems.push(
      `cluster.peer = ${peer} can be reached from elsewhere: it needs cluster.secret or cluster.tls, the same on all brokers`,
    );
  }
  return problems;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

function describeWrongValue(key: ConfigKey, { value, source }: Found, error: ZodError): string {
  const index = error.issues[0]?.path[0];
  if (Array.isArray(value) && typeof index === 'number') {
    return `${source}: ${key.path}[${index}] = ${JSON.stringify(value[index])}: expected ${key.expected}`;
  }
  const shown = key.secret ? '(hidden)' : JSON.stringify(value);
  return `${source}: ${key.path} = ${shown}: expected ${key.kind === 'list' ? 'a list of ' : ''}${key.expected}`;
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new GomqError('CONFIG_UNREADABLE', `cannot read the configuration file ${file}: ${code}`, {
      cause: error,
    });
  }
}

function invalid(problems: readonly string[]): GomqError {
  return new GomqError('CONFIG_INVALID', problems.join('\n'));
}

function isEmpty(node: unknown): boolean {
  return node === null || node === undefined || (isScalar(node) && node.value === null);
}

function prefixesOf(path: string): string[] {
  const names = path.split('.');
  return names.slice(1).map((_, index) => names.slice(0, index + 1).join('.'));
}

/** A wrong level, as in `segmentBytes` for `log.segmentBytes`, is as common as a wrong letter. */
function suggestKey(path: string): string {
  const lastName = path.slice(path.lastIndexOf('.') + 1).toLowerCase();
  const sameName = configKeys.filter((key) => key.path.toLowerCase().endsWith(`.${lastName}`));
  if (sameName.length === 1) return suggest(sameName[0]?.path);
  return suggest(nearestOf(path, [...sections, ...keysByPath.keys()]));
}

function suggest(nearest: string | undefined): string {
  return nearest === undefined ? '' : `; did you mean ${nearest}?`;
}

/** The candidate that takes the fewest edits, case and `_` apart; none where all take more than `editsMax`. */
function nearestOf(
  name: string,
  candidates: Iterable<string>,
  editsMax = Number.POSITIVE_INFINITY,
): string | undefined {
  if (name.length > SUGGESTED_LENGTH_MAX) return undefined;
  const fold = (text: string) =>
    text
      .replace(/^GOMQ_/, '')
      .toLowerCase()
      .replaceAll('_', '');
  const folded = fold(name);
  let nearest: string | undefined;
  let fewest = editsMax + 1;
  for (const candidate of candidates) {
    const edits = editDistance(folded, fold(candidate));
    if (edits < fewest) {
      fewest = edits;
      nearest = candidate;
    }
  }
  return nearest;
}

/** Levenshtein's distance, one row at a time. */
function editDistance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const replaced = (row[j - 1] as number) + (left[i - 1] === right[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[right.length] as number;
}
