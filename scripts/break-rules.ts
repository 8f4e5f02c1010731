// Breaks each rule of the cluster (docs/REPLICATION.md) on purpose, in a copy, and has the simulation find it: a rule whose absence nobody notices is
// not tested. `npx tsx scripts/break-rules.ts [rule]`; ends with 1 where a break is not found, or its patch does not fit any more.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

interface Break {
  readonly rule: string;
  /** What is not done any more. */
  readonly what: string;
  readonly patches: readonly { readonly file: string; readonly from: string; readonly to: string }[];
}

const ELECTION = 'src/cluster/election.ts';
const LEADER = 'src/replication/leader.ts';
const COMMIT_RULE = 'src/replication/commit-rule.ts';
const HISTORY = 'src/log/epoch-history.ts';
const KEYS = 'src/cluster/etcd-keys.ts';
/** The driver of the simulation, which does what src/cluster/node.ts does. */
const DRIVER = 'test/simulation/node.ts';
const SEEDS_MAX = 2000;

const BREAKS: readonly Break[] = [
  one('R2', 'whoever wants to campaigns, in sync or not', ELECTION, [
    'if (!state.inSync.some((one) => one.node === node && one.incarnation === incarnation)) return;\n    const later',
    'const later',
  ]),
  one('R2', 'another directory under the same name campaigns', ELECTION, [
    'if (!state.inSync.some((one) => one.node === node && one.incarnation === incarnation)) return;\n    const later',
    'if (!state.inSync.some((one) => one.node === node)) return;\n    const later',
  ]),
  one('R2', 'an election does not begin an epoch', ELECTION, [
    'Math.max(state.epoch, this.#standing.epoch) + 1',
    'Math.max(1, state.epoch, this.#standing.epoch)',
  ]),
  one('R3', 'a member follows before its epoch is on disk', ELECTION, [
    'this.#persist(this.#standing.clusterId, epoch);\n      return;',
    'this.#standing = { ...this.#standing, epoch };',
  ]),
  one('R3', 'a leader leads before its epoch is on disk', DRIVER, [
    '        this.#epoch = effect.epoch;\n',
    '        if (this.#following !== undefined) this.#epoch = effect.epoch;\n',
  ]),
  one('R4', 'a node that is added counts when that is confirmed', COMMIT_RULE, [
    'for (const node of proposed ?? []) lowest',
    'for (const node of proposed?.slice(0, 0) ?? []) lowest',
  ]),
  one('R4', 'a node that is removed does not count any more', COMMIT_RULE, [
    'for (const node of confirmed) lowest',
    'for (const node of proposed ?? confirmed) lowest',
  ]),
  one('R4', 'a node counts for its former self', LEADER, [
    'const nameOf = ({ node, incarnation }: Node)',
    "const nameOf = ({ node, none: incarnation = '' }: Node & { none?: string })",
  ]),
  one('R5', 'the in-sync set shrinks below minInSync, in a leadership', LEADER, [
    'if (confirmed.length <= minInSync) return undefined;',
    'if (confirmed.length <= 1) return undefined;',
  ]),
  {
    rule: 'R5',
    what: 'the in-sync set shrinks below minInSync, in an election, and commits go on',
    patches: [
      { file: ELECTION, from: 'Math.max(0, inSync.length - minInSync)', to: 'inSync.length + 0 * minInSync' },
      {
        file: COMMIT_RULE,
        from: 'if (smaller < minInSync) return 0;',
        to: 'if (smaller < 0 * minInSync) return 0;',
      },
    ],
  },
  one('R6', 'a member is in sync as soon as it is there', LEADER, [
    'return keptOffset >= this.#highWatermark && keptOffset >= this.#options.epochStart;',
    'return keptOffset >= 0;',
  ]),
  one('R6', 'a member is in sync before it has what the epoch began with', LEADER, [
    ' && keptOffset >= this.#options.epochStart;',
    ';',
  ]),
  one('R7', 'logs are compared by their ends', HISTORY, [
    'const theirs = new Map(other',
    'if (one.end >= 0) return Math.min(one.end, other.end);\n  const theirs = new Map(other',
  ]),
  one('R7', 'what a member has of an epoch that its leader does not know stays', HISTORY, [
    'return Math.min(endOf(one, i), endOf(other, j));',
    'return endOf(other, j);',
  ]),
  one('R7', 'a leader serves before its barrier is committed', DRIVER, [
    'if (!isServed && highWatermark > barrier.offset)',
    'if (!isServed && highWatermark >= 0)',
  ]),
  one('R8', 'a transaction whose answer was lost counts as refused', KEYS, [
    'if (nonceOf(there) === wanted.nonce) return',
    "if (nonceOf(there) === '') return",
  ]),
  one('R9', 'a leader whose process is gone keeps the lead until its lease is over', ELECTION, [
    'if (key === undefined || key.value.node !== leader) return;',
    'if (key === undefined || key.value.node !== leader || leader !== null) return;',
  ]),
  one('R10', 'a leader without a lease goes on', ELECTION, [
    'nowMs > this.#leaseUntilMs && !isFollowed',
    'nowMs > Number.POSITIVE_INFINITY && !isFollowed',
  ]),
  one('R10', 'a leader without a lease stands down, followed or not', ELECTION, [
    'nowMs > this.#leaseUntilMs && !isFollowed',
    'nowMs > this.#leaseUntilMs',
  ]),
  {
    rule: 'R11',
    what: 'whoever finds etcd empty begins a cluster',
    patches: [
      {
        file: ELECTION,
        from: "if (clusterId !== '') {\n      this.#warn(",
        to: "if (clusterId === 'none') {\n      this.#warn(",
      },
      { file: ELECTION, from: "(one) => one.clusterId !== ''", to: "(one) => one.clusterId === 'none'" },
      { file: ELECTION, from: 'if (withLog.length > 1 ||', to: 'if (withLog.length > 100 ||' },
    ],
  },
];

const PROBE = `
import { runSeed } from './test/simulation/cluster.ts';
import { replaceKilledLeader, silenceLeader, takeEtcdAway } from './test/simulation/scenarios.ts';
const found = (by, seeds, error) => {
  console.log(JSON.stringify({ by, seeds, why: error.message.split('\\n')[0] }));
  process.exit(0);
};
for (const scenario of [replaceKilledLeader, silenceLeader, takeEtcdAway])
  for (let seed = 1; seed <= 3; seed++) try { scenario(seed); } catch (error) { found(scenario.name, seed, error); }
for (let seed = 1; seed <= ${SEEDS_MAX}; seed++) try { runSeed({ seed }); } catch (error) { found('a seed', seed, error); }
`;

function one(rule: string, what: string, file: string, [from, to]: readonly [string, string]): Break {
  return { rule, what, patches: [{ file, from, to }] };
}

function copyTo(folder: string): void {
  for (const path of ['src', 'test/simulation', 'test/crash/random.ts', 'package.json', 'tsconfig.json']) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    cpSync(path, join(folder, path), { recursive: true });
  }
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
}

interface Found {
  readonly by: string;
  readonly seeds: number;
  readonly why: string;
}

/** Undefined where nobody finds anything. */
function probe(folder: string): Found | undefined {
  writeFileSync(join(folder, 'probe.ts'), PROBE);
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'probe.ts'], {
    cwd: folder,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the probe itself failed: ${stderr}`);
  return stdout === '' ? undefined : (JSON.parse(stdout) as Found);
}

function breakIt({ patches }: Break): Found | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'gomq-break-'));
  try {
    copyTo(folder);
    for (const { file, from, to } of patches) {
      const source = readFileSync(join(folder, file), 'utf8');
      if (source.split(from).length !== 2) throw new Error(`${file} does not have once: ${from}`);
      writeFileSync(
        join(folder, file),
        source.replace(from, () => to),
      );
    }
    return probe(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const only = process.argv[2];
const lines: string[] = [];
for (const broken of BREAKS) {
  const { rule, what, patches } = broken;
  if (only !== undefined && rule !== only) continue;
  let cells: string;
  try {
    const found = breakIt(broken);
    if (found === undefined) process.exitCode = 1;
    const { by, seeds, why } = found ?? { by: 'NOBODY', seeds: SEEDS_MAX, why: '' };
    cells = `${by}: ${why.replace(/^SEED=\d+: /, '').slice(0, 120)} | ${seeds}`;
  } catch (error) {
    process.exitCode = 1;
    cells = `ERROR: ${(error as Error).message.slice(0, 400)} |`;
  }
  const files = [...new Set(patches.map(({ file }) => file))].join(', ');
  lines.push(`| ${rule} | ${what} (${files}) | ${cells} |`);
  console.error(lines.at(-1));
}
console.log(['| rule | broken | caught by | seeds |', '|---|---|---|---|', ...lines].join('\n'));
