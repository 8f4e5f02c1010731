// Holds the order of the rooms (docs/ARCHITECTURE.md): a room imports only from rooms below it, rooms that share a floor do not import one
// another, files do not import in a circle, and nothing is called after having no place. Prints file:line and the rule for each breach.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/** From the top of the house to the ground; rooms in one line are on one floor. */
const FLOORS: readonly (readonly string[])[] = [
  ['http'],
  ['net', 'broker', 'cluster'],
  ['replication'],
  ['state'],
  ['session'],
  ['router', 'log', 'packet'],
  ['security'],
  ['core'],
];
/** The only files that may import every room. */
const ROOFS = new Set(['src/main.ts', 'src/command-line.ts']);
/** What the commands may use of the broker: what is true of both sides of a connection. */
const SHARED_WITH_CLI = ['src/core/', 'src/packet/', 'src/router/topic-name.ts'];
const HOMELESS = /^(utils?|helpers?|managers?|misc|common)$|-(utils?|helpers?|manager)$/;
const SOURCES = ['src', 'cli', 'client/src'];

/** `import ... from 'x'`, `export ... from 'x'`, `import 'x'`, `import('x')`. */
const IMPORT =
  /(?:^|[^\w.])(?:import|export)\b(\s+type\s+(?!from\b))?(?:[^'"`;]*?\bfrom)?\s*\(?\s*(['"])([^'"]+)\2/g;

interface Import {
  line: number;
  /** As written. */
  specifier: string;
  /** Path from the root of the project, for a file of the project. */
  target: string | undefined;
  /** `import type`, of which nothing is left when the program runs. */
  isType: boolean;
}

/** Every breach of the rules under `root`, as `file:line: rule`. */
export function checkRooms(root: string): string[] {
  const files = SOURCES.flatMap((folder) => listSources(root, folder));
  const imports = new Map(files.map((file) => [file, readImports(root, file)]));
  return [
    ...files.flatMap(checkNames),
    ...[...imports].flatMap(([file, list]) =>
      list.flatMap((one) => {
        const rule = ruleAgainst(file, one);
        return rule === undefined ? [] : [`${file}:${one.line}: ${rule}`];
      }),
    ),
    ...findCircles(imports),
  ];
}

function listSources(root: string, folder: string): string[] {
  const path = join(root, folder);
  if (!existsSync(path)) return [];
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name).split(sep).join('/'))
    .sort();
}

function readImports(root: string, file: string): Import[] {
  const source = readFileSync(join(root, file), 'utf8');
  return [...withoutComments(source).matchAll(IMPORT)].map((match) => {
    const specifier = match[3] as string;
    const line = source.slice(0, match.index + match[0].length).split('\n').length;
    const target = specifier.startsWith('.')
      ? normalize(join(dirname(file), specifier))
          .split(sep)
          .join('/')
          .replace(/\.js$/, '.ts')
      : undefined;
    return { line, specifier, target, isType: match[1] !== undefined };
  });
}

/** Blanks what stands in comments, and keeps every line where it was. */
function withoutComments(source: string): string {
  return source.replace(/(["'`])(?:\\.|(?!\1)[^\\\n])*\1|\/\/[^\n]*|\/\*[\s\S]*?\*\//g, (text) =>
    text.startsWith('/') ? text.replace(/[^\n]/g, ' ') : text,
  );
}

function ruleAgainst(file: string, { specifier, target }: Import): string | undefined {
  const house = houseOf(file);
  if (target === undefined) {
    if (house === 'client' && specifier.startsWith('gomq')) return `client/ does not import ${specifier}`;
    return undefined;
  }
  const targetHouse = houseOf(target);
  if (house === 'client' && targetHouse !== 'client')
    return `client/ imports only itself and npm packages, not ${target}`;
  if (house === 'cli' && targetHouse === 'src') {
    if (SHARED_WITH_CLI.some((shared) => target.startsWith(shared))) return undefined;
    return `cli/ imports only ${SHARED_WITH_CLI.join(', ')}, not ${target}`;
  }
  if (house === 'cli' && targetHouse !== 'cli') return `cli/ does not import ${target}`;
  if (house !== 'src' || ROOFS.has(file)) return undefined;
  if (targetHouse !== 'src') return `src/ does not import ${target}`;
  return ruleBetweenRooms(file, target);
}

function ruleBetweenRooms(file: string, target: string): string | undefined {
  const from = roomOf(file);
  const to = roomOf(target);
  if (from === undefined) return `only ${[...ROOFS].join(' and ')} stand outside the rooms`;
  if (to === undefined) return `${from}/ does not import ${target}, which wires the rooms`;
  if (from === to) return undefined;
  const fromFloor = floorOf(from);
  const toFloor = floorOf(to);
  if (fromFloor === -1) return `there is no room ${from}/ in the order of rooms`;
  if (toFloor === -1) return `there is no room ${to}/ in the order of rooms`;
  if (fromFloor === toFloor) return `${from}/ and ${to}/ are on one floor and do not import one another`;
  return toFloor < fromFloor ? `${from}/ does not import ${to}/, which is above it` : undefined;
}

/** `src`, `cli` or `client` */
function houseOf(file: string): string {
  return file.slice(0, file.indexOf('/'));
}

/** The room of `src/router/trie.ts` is `router`; a file right under src/ is in none. */
function roomOf(file: string): string | undefined {
  return /^src\/([^/]+)\//.exec(file)?.[1];
}

function floorOf(room: string): number {
  return FLOORS.findIndex((floor) => floor.includes(room));
}

function checkNames(file: string): string[] {
  const homeless = file
    .replace(/\.ts$/, '')
    .split('/')
    .find((name) => HOMELESS.test(name));
  return homeless === undefined ? [] : [`${file}:1: '${homeless}' says nothing about what is inside`];
}

/**
 * Depth first; each circle is told once, from the file where it was entered. Types alone make no circle: a connection and the handlers of
 * its packets may know each other's shape, as long as the files can be loaded in some order.
 */
function findCircles(imports: ReadonlyMap<string, readonly Import[]>): string[] {
  const circles: string[] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string) => {
    path.push(file);
    for (const { target, line, isType } of imports.get(file) ?? []) {
      if (isType || target === undefined || !imports.has(target)) continue;
      const start = path.indexOf(target);
      if (start !== -1)
        circles.push(`${file}:${line}: a circle of imports: ${[...path.slice(start), target].join(' -> ')}`);
      else if (!done.has(target)) visit(target);
    }
    path.pop();
    done.add(file);
  };
  for (const file of imports.keys()) if (!done.has(file)) visit(file);
  return circles;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = relative(process.cwd(), join(dirname(process.argv[1]), '..')) || '.';
  const breaches = checkRooms(root);
  for (const breach of breaches) console.error(breach);
  process.exitCode = breaches.length === 0 ? 0 : 1;
}
