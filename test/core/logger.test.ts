import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { createLogger, silentLogger } from '../../src/core/logger.js';

function collect(format: 'json' | 'pretty', level: 'debug' | 'info' | 'warn' | 'error' = 'debug') {
  const lines: string[] = [];
  const logger = createLogger({ level, format }, { write: (line) => lines.push(line) });
  return { logger, lines, records: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

describe('the logger', () => {
  it('writes one JSON object a line, fields of the child included', () => {
    const { logger, lines, records } = collect('json');
    logger.child({ clientId: 'c1' }).warn('too\nlarge', { bytes: 7 });
    assert.match(lines[0] ?? '', /^\{[^\n]*\}\n$/);
    const { time, ...rest } = records()[0] ?? {};
    assert.match(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.deepEqual(rest, { level: 'warn', clientId: 'c1', bytes: 7, message: 'too\nlarge' });
  });

  it('writes nothing below its level', () => {
    const { logger, records } = collect('json', 'warn');
    logger.debug('1');
    logger.info('2');
    logger.warn('3');
    logger.error('4');
    assert.deepEqual(
      records().map(({ level }) => level),
      ['warn', 'error'],
    );
  });

  it('tells an expected failure by its code, and a defect with its stack and cause', () => {
    const { logger, records } = collect('json');
    logger.error('a', {
      error: new GomqError('ADDRESS_IN_USE', 'taken', { cause: new Error('EADDRINUSE') }),
    });
    logger.error('b', { error: new GomqError('INTERNAL', 'broken') });
    const [expected, defect] = records().map(({ error }) => error as Record<string, unknown>);
    assert.deepEqual(
      [expected?.code, expected?.message, expected?.stack],
      ['ADDRESS_IN_USE', 'taken', undefined],
    );
    assert.match(JSON.stringify(expected?.cause), /"message":"EADDRINUSE"/);
    assert.match(String(defect?.stack), /broken\n +at /);
  });

  it('blanks fields that are called like a secret', () => {
    const { logger, lines } = collect('json');
    logger.info('a', {
      password: 'hunter2',
      user: { token: 'hunter2' },
      headers: { authorization: 'hunter2' },
    });
    assert.doesNotMatch(lines.join(''), /hunter2/);
  });

  it('writes for people, and lets no client write a line or a colour of its own', () => {
    const { logger, lines } = collect('pretty');
    logger.info('connected', { clientId: 'a\n12:00:00.000 ERROR \u001b[31m\u009b31m', bytes: 7 });
    const expected =
      /^\d\d:\d\d:\d\d\.\d{3} INFO {2}connected clientId="a\\n12:00:00\.000 ERROR \\u001b\[31m\\u009b31m" bytes=7\n$/;
    assert.match(lines[0] ?? '', expected);
  });

  it('has written everything to stderr when the process exits', () => {
    const script = `
      const { createLogger } = await import('${new URL('../../src/core/logger.ts', import.meta.url)}');
      const logger = createLogger({ level: 'info', format: 'json' });
      for (let i = 0; i < 100; i++) logger.info(String(i));
      process.exit(3);`;
    const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], {
      encoding: 'utf8',
    });
    assert.equal(child.status, 3, child.stderr);
    assert.equal(child.stdout, '');
    const messages = child.stderr
      .trimEnd()
      .split('\n')
      .map((line) => Number(JSON.parse(line).message));
    // The first line is being written by another thread while the rest is flushed, so it may come last.
    assert.deepEqual(
      messages.toSorted((a, b) => a - b),
      Array.from({ length: 100 }, (_, index) => index),
    );
  });

  it('can be silent', () => {
    assert.equal(silentLogger.child({ a: 1 }), silentLogger);
  });
});
