// Breaks each rule of the cluster (docs/REPLICATION.md) on purpose, in a copy, and has the simulation find it, or a test where the simulation has nothing
// to do with it: a rule whose absence nobody notices is not tested. `npx tsx scripts/break-rules.ts [rule]`; ends with 1 where a break is not found, or its patch does not fit any more.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

interface Break {
  readonly rule: string;
  /** What is not done any more. */
  readonly what: string;
  readonly patches: readonly { readonly file: string; readonly from: string; readonly to: string }[];
  /** Files of tests that are to find it, in the place of the simulation. */
  readonly tests?: readonly string[];
}

const ELECTION = 'src/cluster/election.ts';
const LEADER = 'src/replication/leader.ts';
const COMMIT_RULE = 'src/replication/commit-rule.ts';
const HISTORY = 'src/log/epoch-history.ts';
const KEYS = 'src/cluster/etcd-keys.ts';
const RECEIVER = 'src/replication/replica-receiver.ts';
const SENDER = 'src/replication/replica-sender.ts';
const LEADERSHIP = 'src/replication/leadership.ts';
const APPLY = 'src/state/apply.ts';
const DISK_LOG = 'src/log/disk-log.ts';
const SEGMENT_WRITER = 'src/log/segment-writer.ts';
const CUT_TESTS = ['test/log/crash.test.ts', 'test/log/cluster-log.test.ts'];
const REPLICAS_TEST = ['test/state/replicas.test.ts'];
/** The driver of the simulation, which does what src/cluster/node.ts does. */
const DRIVER = 'test/simulation/node.ts';
const NODE_TEST = ['test/cluster/node.test.ts'];
const SEEDS_MAX = 2000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

const BREAKS: readonly Break[] = [
  one('R1', 'a transaction is not guarded by the revision of the state', KEYS, [
    'unchanged(this.#state, stateRevision), ',
    '',
  ]),
  one('R1', 'a transaction is not guarded by the leader key', KEYS, [
    ', unchanged(this.#leader, leaderRevision)',
    '',
  ]),
  one('R1', 'a leader does not wait for those in sync that do not answer', LEADER, [
    'kept.get(name) ?? 0',
    'kept.get(name) ?? this.#keptOffset',
  ]),
  one('R1', 'a member acknowledges in an epoch that is older than the one on its disk', RECEIVER, [
    '    this.#options.log.onKept(() => undefined);\n    this.#options.link.destroy(undefined);',
    '',
  ]),
  one('R1', 'a node that starts has forgotten which epoch it promised itself to', DRIVER, [
    'Math.max(membership?.epoch ?? 0, log?.epoch ?? 0)',
    '0',
  ]),
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
  {
    rule: 'R2',
    what: 'a node that begins with a snapshot is still the one that it was',
    patches: [
      {
        file: DRIVER,
        from: 'const directory = renewDirectory();\n      this.#directory = directory;\n      directory.takeOver(former);',
        to: 'const directory = former;',
      },
    ],
  },
  {
    rule: 'R2',
    what: 'a node that begins with a snapshot is still the one that it was, in the product',
    patches: [
      {
        file: 'src/cluster/local-log.ts',
        from: '    // Whatever was promised of what is here is over with it.\n    directory.renewIncarnation();\n',
        to: '',
      },
    ],
    tests: NODE_TEST,
  },
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
  {
    rule: 'R4',
    what: 'a change of the in-sync set that etcd refuses does not count any more',
    patches: [
      {
        file: ELECTION,
        from: "this.#role.kind === 'leading') this.#isUndecided = true;",
        to: "this.#role.kind === 'leading') this.#effects.push({ kind: 'abandoned' });",
      },
    ],
    tests: ['test/cluster/election.test.ts'],
  },
  one('R5', 'the in-sync set shrinks below minInSync, in a leadership', LEADER, [
    'if (confirmed.length <= minInSync) return undefined;',
    'if (confirmed.length <= 1) return undefined;',
  ]),
  one('R5', 'the in-sync set shrinks below minInSync, in an election', ELECTION, [
    'Math.max(0, inSync.length - minInSync)',
    'inSync.length + 0 * minInSync',
  ]),
  one('R5', 'fewer than minInSync are enough to commit', COMMIT_RULE, [
    'if (smaller < minInSync) return 0;',
    'if (smaller < 0 * minInSync) return 0;',
  ]),
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
  one('R7', 'a member that begins with a snapshot does not get its history', SENDER, [
    'history.starts.filter(({ start }) => start < endOffset)',
    'history.starts.slice(0, 0 * endOffset)',
  ]),
  {
    rule: 'R7',
    what: 'a snapshot of what is not committed is made and sent',
    patches: [
      { file: DRIVER, from: '          this.#makeSnapshot(to);\n', to: '' },
      {
        file: DRIVER,
        from: 'onAppended: (record, last) => checker.onAppended(directory, record, last),',
        to: 'onAppended: (record, last) => { checker.onAppended(directory, record, last); this.#makeSnapshot(record.offset); },',
      },
      {
        file: DRIVER,
        from: 'findLast(({ endOffset }) => endOffset <= log.highWatermark)',
        to: 'findLast(() => true)',
      },
    ],
  },
  one('R7', 'a member follows again before its log is cut', DRIVER, [
    '    world.after(world.delay(0.1, diskMs()), this.life, () => {\n      this.#cut(end, log.highWatermark);',
    '    done();\n    world.after(world.delay(0.1, diskMs()), this.life, () => {\n      this.#cut(end, log.highWatermark);',
  ]),
  {
    rule: 'R7',
    what: 'what a member takes off its log is back after a power cut',
    patches: [
      {
        file: SEGMENT_WRITER,
        from: '    this.#fileBytes = position;\n    this.#syncAll();\n',
        to: '    this.#fileBytes = position;\n',
      },
    ],
    tests: CUT_TESTS,
  },
  {
    rule: 'R7',
    what: 'a log that was cut says that it is cut before it is',
    patches: [
      {
        file: DISK_LOG,
        from: "this.#writer.send({ kind: 'cut', position: active.position(batch) });",
        to: "this.#writer.send({ kind: 'cut', position: active.position(batch) });\n      resolve();",
      },
    ],
    tests: CUT_TESTS,
  },
  {
    rule: 'R7',
    what: 'a log that was cut goes on in the epoch of what went',
    patches: [
      {
        file: DISK_LOG,
        from: '    this.#epoch = Math.max(this.#options.epoch, last?.lastEpoch ?? 0);\n    this.#run',
        to: '    void last;\n    this.#run',
      },
    ],
    tests: CUT_TESTS,
  },
  {
    rule: 'R7',
    what: 'the index of a log that was cut keeps what went',
    patches: [{ file: DISK_LOG, from: '    active.cut(batch);\n', to: '' }],
    tests: CUT_TESTS,
  },
  {
    rule: 'R7',
    what: 'a member tells of epochs of which it has no record',
    patches: [
      {
        file: RECEIVER,
        from: 'starts.filter(({ start }) => start < log.endOffset)',
        to: 'starts.slice()',
      },
    ],
    tests: NODE_TEST,
  },
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
  {
    rule: 'R9',
    what: 'nobody says that the process of a leader is gone, in the product',
    patches: [
      {
        file: 'src/cluster/follower.ts',
        from: "if (probe === 'gone' && !this.#isOver) this.#options.onGone();",
        to: 'void probe;',
      },
    ],
    tests: NODE_TEST,
  },
  {
    rule: 'R10',
    what: 'a member that was heard of long ago answers, in the product',
    patches: [
      { file: 'src/cluster/node.ts', from: 'const FOLLOWED_MS = 500;', to: 'const FOLLOWED_MS = 1e12;' },
    ],
    tests: NODE_TEST,
  },
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
  one('R11', 'nodes that have seen a later epoch than etcd are elected', ELECTION, [
    'if (later !== undefined) {',
    "if (later === '') {",
  ]),
  one('R12', 'the leader does not act on a hash that differs', LEADERSHIP, [
    'if (odd === undefined) return;',
    'if (odd === undefined || odd.offset >= 0) return;',
  ]),
  one('R12', 'a leader that differs from all others goes on', LEADERSHIP, [
    "if (odd.node === self.node) onDamaged(new GomqError('DATA_DAMAGED', why));",
    'if (odd.node === self.node) return void onDamaged;',
  ]),
  one('R12', 'a member whose state differs keeps it', RECEIVER, [
    "if (frame.code === 'state') this.#options.onDiverged(frame.message);",
    '',
  ]),
  {
    rule: 'R12',
    what: 'apply asks the clock',
    patches: [
      { file: APPLY, from: 'session.closedAtMs = closedAtMs;', to: 'session.closedAtMs = Date.now();' },
    ],
    tests: REPLICAS_TEST,
  },
  {
    rule: 'R12',
    what: 'apply draws a number',
    patches: [
      {
        file: APPLY,
        from: '  session.userName = userName;\n  session.expirySeconds = expirySeconds;',
        to: '  session.userName = userName;\n  session.expirySeconds = Math.floor(Math.random() * expirySeconds);',
      },
    ],
    tests: REPLICAS_TEST,
  },
  {
    rule: 'R12',
    what: 'a replica that began with a snapshot lacks what is not in it',
    patches: [
      {
        file: 'src/state/snapshot.ts',
        from: 'session.receivedCount === 0 ? [] : [...session.received.values()]',
        to: '[] as number[]',
      },
    ],
    tests: REPLICAS_TEST,
  },
  {
    rule: 'R12',
    what: 'apply refuses what is about a session that is gone',
    patches: [
      {
        file: APPLY,
        from: '  const session = state.sessionByNumber(progress.number);\n  if (session === undefined) return;',
        to: "  const session = state.sessionByNumber(progress.number);\n  if (session === undefined) throw new Error('no such session');",
      },
    ],
    tests: REPLICAS_TEST,
  },
];

const PROBE = `
import { runSeed } from './test/simulation/cluster.ts';
import { bringOldEtcdBack, replaceKilledLeader, silenceLeader, takeEtcdAway } from './test/simulation/scenarios.ts';
const found = (by, seeds, error) => {
  console.log(JSON.stringify({ by, seeds, why: error.message.split('\\n')[0] }));
  process.exit(0);
};
for (const scenario of [replaceKilledLeader, silenceLeader, takeEtcdAway, bringOldEtcdBack])
  for (let seed = 1; seed <= 3; seed++) try { scenario(seed); } catch (error) { found(scenario.name, seed, error); }
for (let seed = 1; seed <= ${SEEDS_MAX}; seed++) try { runSeed({ seed }); } catch (error) { found('a seed', seed, error); }
`;

function one(rule: string, what: string, file: string, [from, to]: readonly [string, string]): Break {
  return { rule, what, patches: [{ file, from, to }] };
}

function copyTo(folder: string): void {
  for (const path of ['src', 'test', 'package.json', 'tsconfig.json']) {
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

/** The first test that fails; undefined where none does. */
function test(folder: string, files: readonly string[]): Found | undefined {
  const { status, stdout } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--test', '--test-reporter=tap', '--test-timeout=120000', ...files],
    { cwd: folder, encoding: 'utf8', maxBuffer: OUTPUT_BYTES_MAX },
  );
  if (status === 0) return undefined;
  const by = /^\s*not ok \d+ - (.*)$/m.exec(stdout)?.[1] ?? 'no test that says its name';
  const why = /^\s*error: (?:\|-\s*|'|")?(.*)$/m.exec(stdout)?.[1] ?? '';
  return { by: `${files.join(', ')} '${by}'`, seeds: 0, why };
}

const passed = new Set<string>();

/** What fails anyway finds nothing. */
function checkThatPass(files: readonly string[]): void {
  if (passed.has(files.join())) return;
  const found = test('.', files);
  if (found !== undefined) throw new Error(`${found.by} fails where nothing is broken: ${found.why}`);
  passed.add(files.join());
}

function breakIt({ patches, tests }: Break): Found | undefined {
  if (tests !== undefined) checkThatPass(tests);
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
    return tests === undefined ? probe(folder) : test(folder, tests);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const only = process.argv[2];
const lines: string[] = [];
for (const broken of BREAKS) {
  const { rule, what, patches, tests } = broken;
  if (only !== undefined && rule !== only) continue;
  let cells: string;
  try {
    const found = breakIt(broken);
    if (found === undefined) process.exitCode = 1;
    const { by, seeds, why } = found ?? { by: 'NOBODY', seeds: SEEDS_MAX, why: '' };
    cells = `${by}: ${why.replace(/^SEED=\d+: /, '').slice(0, 120)} | ${tests === undefined ? seeds : ''}`;
  } catch (error) {
    process.exitCode = 1;
    cells = `ERROR: ${(error as Error).message.slice(0, 400)} |`;
  }
  const files = [...new Set(patches.map(({ file }) => file))].join(', ');
  lines.push(`| ${rule} | ${what} (${files}) | ${cells} |`);
  console.error(lines.at(-1));
}
console.log(['| rule | broken | caught by | seeds |', '|---|---|---|---|', ...lines].join('\n'));
