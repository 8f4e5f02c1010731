import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { checkRooms } from '../scripts/check-rooms.js';

const folder = mkdtempSync(join(tmpdir(), 'gomq-rooms-'));
after(() => rmSync(folder, { recursive: true }));
let projects = 0;

/** What the rules say about a project of these files. */
function check(files: Record<string, string>): string[] {
  const root = join(folder, String(projects++));
  for (const [path, source] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), source);
  }
  return checkRooms(root);
}

describe('rooms', () => {
  it('are kept by this project', () => {
    assert.deepEqual(checkRooms(fileURLToPath(new URL('..', import.meta.url))), []);
  });

  it('import from below, and the roof from everywhere', () => {
    const files = {
      'src/main.ts': "import './http/a.js';\nimport { b } from './net/b.js';\nimport './command-line.js';",
      'src/command-line.ts': "import './core/c.js';",
      'src/http/a.ts': "import '../net/b.js';\nimport { x } from 'fastify';",
      'src/net/b.ts': "export * from '../core/c.js';",
      'src/core/c.ts': "import { readFileSync } from 'node:fs';",
      'cli/main.ts': "import '../src/core/c.js';",
    };
    assert.deepEqual(check(files), []);
  });

  const breaches: [string, Record<string, string>, string][] = [
    [
      'a room above',
      { 'src/core/a.ts': "\nimport {\n  b,\n} from '../log/b.js';", 'src/log/b.ts': '' },
      'src/core/a.ts:4: core/ does not import log/, which is above it',
    ],
    [
      'a room above, for its types',
      { 'src/router/a.ts': "import type { B } from '../session/b.js';", 'src/session/b.ts': '' },
      'src/router/a.ts:1: router/ does not import session/, which is above it',
    ],
    [
      'a room above, by re-export',
      { 'src/router/a.ts': "export { b } from '../session/b.js';", 'src/session/b.ts': '' },
      'src/router/a.ts:1: router/ does not import session/, which is above it',
    ],
    [
      'a room above, while running',
      { 'src/router/a.ts': "const b = await import('../session/b.js');", 'src/session/b.ts': '' },
      'src/router/a.ts:1: router/ does not import session/, which is above it',
    ],
    [
      'a room on its floor',
      { 'src/router/a.ts': "import '../packet/b.js';", 'src/packet/b.ts': '' },
      'src/router/a.ts:1: router/ and packet/ are on one floor and do not import one another',
    ],
    [
      'what wires the rooms',
      { 'src/http/a.ts': "import '../main.js';", 'src/main.ts': '' },
      'src/http/a.ts:1: http/ does not import src/main.ts, which wires the rooms',
    ],
    [
      'anything, from outside the rooms',
      { 'src/setup.ts': "import './core/b.js';", 'src/core/b.ts': '' },
      'src/setup.ts:1: only src/main.ts and src/command-line.ts stand outside the rooms',
    ],
    [
      'a room that is in no order',
      { 'src/http/a.ts': "import '../attic/b.js';", 'src/attic/b.ts': '' },
      'src/http/a.ts:1: there is no room attic/ in the order of rooms',
    ],
    [
      'the commands, from the broker',
      { 'src/http/a.ts': "import '../../cli/b.js';", 'cli/b.ts': '' },
      'src/http/a.ts:1: src/ does not import cli/b.ts',
    ],
    [
      'the broker, from the commands',
      { 'cli/a.ts': "import '../src/broker/b.js';", 'src/broker/b.ts': '' },
      'cli/a.ts:1: cli/ imports only src/core/, src/packet/, src/router/topic-name.ts, not src/broker/b.ts',
    ],
    [
      'the broker, from the client',
      { 'client/src/a.ts': "import '../../src/core/b.js';", 'src/core/b.ts': '' },
      'client/src/a.ts:1: client/ imports only itself and npm packages, not src/core/b.ts',
    ],
    [
      'the package gomq, from the client',
      { 'client/src/a.ts': "import 'gomq/dist/src/core/b.js';" },
      'client/src/a.ts:1: client/ does not import gomq/dist/src/core/b.js',
    ],
    [
      'itself, by way of others',
      {
        'src/core/a.ts': "import './b.js';",
        'src/core/b.ts': "import type { A } from './a.js';\nimport './c.js';",
        'src/core/c.ts': "import { type A, a } from './a.js';",
      },
      'src/core/c.ts:1: a circle of imports: src/core/a.ts -> src/core/b.ts -> src/core/c.ts -> src/core/a.ts',
    ],
    [
      'a place for everything',
      { 'src/core/utils.ts': '' },
      "src/core/utils.ts:1: 'utils' says nothing about what is inside",
    ],
    [
      'a folder for everything',
      { 'src/core/session-manager/a.ts': '' },
      "src/core/session-manager/a.ts:1: 'session-manager' says nothing about what is inside",
    ],
  ];
  for (const [what, files, breach] of breaches) {
    it(`do not hold ${what}`, () => assert.deepEqual(check(files), [breach]));
  }

  it('are not misled by comments and text', () => {
    const source = `
// import '../http/x.js';
/* export * from '../http/x.js'; */
const text = "// not a comment"; const other = 'it is // text';
const address = import.meta.url;
`;
    assert.deepEqual(check({ 'src/core/a.ts': source }), []);
  });
});
