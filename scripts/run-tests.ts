// Runs the test files under test/ with node's test runner. Arguments narrow the run: `npm test -- router cli` runs the files whose path
// contains one of the words. Written in TypeScript rather than a glob on the command line because Node 20 does not expand globs.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const words = process.argv.slice(2);
const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
  .map((name) => join('test', name))
  .filter((name) => name.endsWith('.test.ts'))
  .filter((name) => words.length === 0 || words.some((word) => name.includes(word)))
  .sort();

if (files.length === 0) {
  console.error(`no test file matches ${words.join(' ')}`);
  process.exit(1);
}

const runner = spawn(
  process.execPath,
  // The reporter is named because the one that Node takes where the output is no terminal does not repeat at the end what failed.
  [
    '--import',
    'tsx',
    '--test',
    '--test-reporter=spec',
    '--test-concurrency=2',
    '--test-timeout=120000',
    ...files,
  ],
  {
    stdio: 'inherit',
  },
);
runner.on('exit', (code, signal) => {
  process.exit(signal === null ? (code ?? 1) : 1);
});
