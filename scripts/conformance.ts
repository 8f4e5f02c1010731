// Keeps docs/CONFORMANCE.md true: reads the lists of normative statements in test/conformance/statements and the titles of the conformance
// tests, and writes what is tested where. With --check it writes nothing, and fails where the page is out of date, where a statement that
// binds a server has neither a test nor a reason, or where a test names a statement that does not exist.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** One numbered statement of a standard, paraphrased. */
interface Statement {
  /** `MQTT-3.3.1-2`. */
  id: string;
  /** Whom it asks something of. A statement for clients needs no test; where there is one, it shows what the broker makes of a violation. */
  binds: 'server' | 'client' | 'both';
  text: string;
  /** Why a statement that binds a server has no test. */
  reason?: string;
}

interface StatementList {
  standard: string;
  statements: Statement[];
}

interface Standard extends StatementList {
  /** `v311`: the name of the list and of the folder with its tests. */
  name: string;
  /** The test files that name a statement, by its id. */
  tests: Map<string, string[]>;
  /** What is wrong with the titles themselves. */
  titleProblems: string[];
}

const NAMES = ['v311', 'v5'] as const;
const ROOT = resolve(fileURLToPath(import.meta.url), '../..');
export const PAGE = 'docs/CONFORMANCE.md';

/** A string literal that begins like the title of a conformance test. */
const TITLE = /(['"`])(\[MQTT-(?:\\.|(?!\1)[^\\])*)\1/gs;
const LEADING_IDS = /^(?:\[MQTT-[^\]]*\] ?)+/;

export function loadStandards(): Standard[] {
  return NAMES.filter((name) => existsSync(listPath(name))).map((name) => {
    const list = JSON.parse(readFileSync(listPath(name), 'utf8')) as StatementList;
    return { ...list, name, ...readTests(name, new Set(list.statements.map(({ id }) => id))) };
  });
}

function listPath(name: string): string {
  return join(ROOT, 'test/conformance/statements', `${name}.json`);
}

function readTests(name: string, known: ReadonlySet<string>): Pick<Standard, 'tests' | 'titleProblems'> {
  const tests = new Map<string, string[]>();
  const titleProblems: string[] = [];
  const folder = join(ROOT, 'test/conformance', name);
  const files = existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith('.test.ts')) : [];
  for (const file of files.sort()) {
    const path = `test/conformance/${name}/${file}`;
    // A test that is commented out does not run.
    const source = readFileSync(join(folder, file), 'utf8').replace(/^\s*\/\/.*$/gm, '');
    if (/\b(?:test|it|describe)\.(?:skip|todo|only)\(/.test(source))
      titleProblems.push(`${path} skips tests`);
    for (const [, , title] of source.matchAll(TITLE)) {
      for (const [, id] of LEADING_IDS.exec(title!)![0].matchAll(/\[([^\]]*)\]/g)) {
        if (!known.has(id!)) {
          titleProblems.push(`${path} names the unknown statement ${id}`);
          continue;
        }
        const paths = tests.get(id!) ?? [];
        if (!paths.includes(path)) paths.push(path);
        tests.set(id!, paths);
      }
    }
  }
  return { tests, titleProblems };
}

type Status = 'tested' | 'not a server statement' | 'gap';

function statusOf(standard: Standard, statement: Statement): Status {
  if (standard.tests.has(statement.id)) return 'tested';
  return statement.binds === 'client' ? 'not a server statement' : 'gap';
}

/** Everything that makes the lists or the tests wrong, in sentences. */
export function problemsOf(standards: readonly Standard[]): string[] {
  return standards.flatMap((standard) => {
    const { statements } = standard;
    const idsWhere = (wrong: (statement: Statement, index: number) => boolean) =>
      statements.filter(wrong).map(({ id }) => id);
    const listProblems = [
      [
        idsWhere(({ id }, index) => statements.findIndex((other) => other.id === id) !== index),
        'listed twice',
      ],
      [idsWhere(({ id }) => !/^MQTT-\d+\.\d+\.\d+-\d+$/.test(id)), 'not the id of a statement'],
      [idsWhere(({ binds }) => !['server', 'client', 'both'].includes(binds)), 'without a right `binds`'],
      [idsWhere(({ text }) => text.length === 0), 'without a text'],
      [
        idsWhere((statement) => statusOf(standard, statement) === 'gap' && statement.reason === undefined),
        'with neither a test nor a reason',
      ],
      [
        idsWhere((statement) => statusOf(standard, statement) !== 'gap' && statement.reason !== undefined),
        'with a reason for a gap that is not there',
      ],
    ] as const;
    return [
      ...standard.titleProblems,
      ...listProblems
        .filter(([ids]) => ids.length > 0)
        .map(([ids, what]) => `${standard.standard}: ${ids.length} ${what}: ${ids.join(', ')}`),
    ];
  });
}

/** The whole page. */
export function renderPage(standards: readonly Standard[]): string {
  return [
    '# Conformance',
    '',
    'Every normative statement of the MQTT standards (their Appendix B), in our own words, and where it is tested. A statement that asks',
    'something of clients only needs no test; where it has one, the test shows what the broker makes of a client that breaks it.',
    '',
    'Made by `npx tsx scripts/conformance.ts` from `test/conformance/statements` and the titles of the tests; do not edit.',
    '',
    '| standard | statements | bind a server | tested | not a server statement | gap |',
    '|---|---|---|---|---|---|',
    ...standards.map((standard) => {
      const count = (status: Status) =>
        standard.statements.filter((statement) => statusOf(standard, statement) === status).length;
      const binding = standard.statements.filter(({ binds }) => binds !== 'client').length;
      const counts = [count('tested'), count('not a server statement'), count('gap')];
      return `| ${standard.standard} | ${standard.statements.length} | ${binding} | ${counts.join(' | ')} |`;
    }),
    '',
    ...standards.flatMap((standard) => [
      `## ${standard.standard}`,
      '',
      '| statement | says | status |',
      '|---|---|---|',
      ...standard.statements.map((statement) => {
        const text = statement.text.replaceAll('|', '\\|');
        return `| ${statement.id} | ${text} | ${describeStatus(standard, statement)} |`;
      }),
      '',
    ]),
  ].join('\n');
}

function describeStatus(standard: Standard, statement: Statement): string {
  const status = statusOf(standard, statement);
  if (status === 'gap') return `gap: ${statement.reason ?? 'no reason given'}`;
  if (status !== 'tested') return status;
  const links = standard.tests.get(statement.id)!.map((path) => {
    const family = path.slice(path.lastIndexOf('/') + 1, -'.test.ts'.length);
    return `[${family}](../${path})`;
  });
  return `tested: ${links.join(', ')}`;
}

export function readPage(): string {
  const path = join(ROOT, PAGE);
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const standards = loadStandards();
  const page = renderPage(standards);
  const problems = problemsOf(standards);
  if (!process.argv.includes('--check')) {
    writeFileSync(join(ROOT, PAGE), page);
  } else if (page !== readPage()) {
    problems.push(`${PAGE} is out of date: npx tsx scripts/conformance.ts`);
  }
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
