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
  const untested = {
    ...first!,
    tests: new Map<string, string[]>(),
    titleProblems: ['names the unknown statement'],
  };
  const problems = problemsOf([untested]);
  assert.equal(problems.length, 2);
  assert.equal(problems[0], 'names the unknown statement');
  assert.match(problems[1]!, /neither a test nor a reason: MQTT-1\.5\.3-1, /);
});
