import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Columns, formatJson, type ListedMessage } from '../../cli/list-format.js';

function message(payload: string | Buffer, more: Partial<ListedMessage> = {}): ListedMessage {
  return {
    offset: 7,
    time: '2026-01-31T12:00:00.000Z',
    topic: 'A',
    qos: 1,
    retain: false,
    payload: Buffer.from(payload),
    ...more,
  };
}

/** What stands in the last column. */
function shown(payload: string | Buffer, isFull = false): string {
  const columns = new Columns(10, 'A', isFull);
  columns.format(message(''));
  const line = columns.format(message(payload));
  assert.equal(line.indexOf('\n'), line.length - 1);
  return line.slice(line.indexOf('A    ') + 'TOPIC  '.length, -1);
}

test('the columns say what they are before the first line, and stay where they are', () => {
  const columns = new Columns(12_345_678, undefined, false);
  assert.equal(
    columns.format(message('hello')),
    '  OFFSET  TIME                      QOS  RETAIN  TOPIC  PAYLOAD\n' +
      '       7  2026-01-31T12:00:00.000Z  1    -       A      hello\n',
  );
  assert.equal(
    columns.format(message('x', { offset: 12_345_677, topic: 'long/topic', qos: 2, retain: true })),
    '12345677  2026-01-31T12:00:00.000Z  2    yes     long/topic  x\n',
  );
  // The topic's column has grown.
  assert.equal(
    columns.format(message('y')),
    '       7  2026-01-31T12:00:00.000Z  1    -       A           y\n',
  );
  columns.format(message('z', { topic: 't'.repeat(200) }));
  assert.match(columns.format(message('y')), / A {41}y\n$/);
});

test('text is shown as it is, on one line', () => {
  assert.equal(shown('grüß dich \u{1f44b}'), 'grüß dich \u{1f44b}');
  assert.equal(shown('a\tb\r\nc'), 'a\\tb\\r\\nc');
  assert.equal(shown(''), '(empty)');
});

test('anything else is shown as bytes', () => {
  assert.equal(shown(Buffer.from([0xff, 0])), '0xff00');
  assert.equal(shown('\x1b[31m'), '0x1b5b33316d');
  assert.equal(shown('\u0085'), '0xc285');
});

test('what is long is cut, unless all of it is asked for', () => {
  const long = 'x'.repeat(101);
  assert.equal(shown('x'.repeat(100)), 'x'.repeat(100));
  assert.equal(shown(long), `${'x'.repeat(100)}... (101 bytes)`);
  assert.equal(shown(long, true), long);
  // No half of a character.
  assert.equal(shown(`${'x'.repeat(99)}\u{1f44b}y`), `${'x'.repeat(99)}... (104 bytes)`);
  const bytes = Buffer.alloc(40, 0xff);
  assert.equal(shown(bytes), `0x${'ff'.repeat(32)}... (40 bytes)`);
  assert.equal(shown(bytes, true), `0x${'ff'.repeat(40)}`);
});

test('a topic obeys nothing to the terminal', () => {
  const columns = new Columns(10, undefined, false);
  assert.match(columns.format(message('', { topic: 'a\x1b[0m\u0085' })), / a\\x1b\[0m\\x85 /);
});

test('JSON, with the payload in Base64 where it is not UTF-8', () => {
  assert.equal(
    formatJson(message('grüß\n')),
    '{"offset":7,"time":"2026-01-31T12:00:00.000Z","topic":"A","qos":1,"retain":false,"payload":"grüß\\n"}\n',
  );
  const { payloadBase64, payload } = JSON.parse(formatJson(message(Buffer.from([0xff, 0])))) as Record<
    string,
    string
  >;
  assert.deepEqual([payloadBase64, payload], ['/wA=', undefined]);
});
