// The lists of statements, the tests and docs/CONFORMANCE.md agree.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadStandards, PAGE, problemsOf, readPage, renderPage } from '../../scripts/conformance.js';

const standards = loadStandards();

test('every statement that binds a server has a test or a reason, and every test a statement', () => {
  assert.deepEqual(problemsOf(standards), []);
});

test(`${PAGE} is up to date`, () => {
  assert.ok(renderPage(standards) === readPage(), `${PAGE} is out of date: npx tsx scripts/conformance.ts`);
});

test('the list of MQTT 3.1.1 is complete', () => {
  // As counted in Appendix B of the OASIS standard of 29 October 2014.
  assert.equal(standards.find(({ name }) => name === 'v311')?.statements.length, 141);
});

test('a statement without a test is a problem, and so is a test without a statement', () => {
  const [first] = standards;
  const untested = { ...first!, tests: new Map<string, string[]>(), titleProblems: ['unknown'] };
  const problems = problemsOf([untested]);
  const expected = first!.statements.filter(
    ({ binds, reason }) => binds !== 'client' && reason === undefined,
  );
  assert.equal(problems.length, expected.length + 1);
});
