import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LineSplitter, LineTooLong } from '../../cli/lines.js';

function split(chunks: Buffer[], bytesMax?: number): string[] {
  const splitter = new LineSplitter(bytesMax);
  const lines: string[] = [];
  for (const chunk of chunks) for (const line of splitter.push(chunk)) lines.push(line.toString('latin1'));
  for (const line of splitter.end()) lines.push(line.toString('latin1'));
  return lines;
}

test('lines end at LF; a blank line is an empty message and CR stays, as with mosquitto_pub', () => {
  assert.deepEqual(split([Buffer.from('a\n\nb\r\nc')]), ['a', '', 'b\r', 'c']);
  assert.deepEqual(split([Buffer.from('a\n')]), ['a']);
  assert.deepEqual(split([]), []);
});

test('lines do not depend on how the input is cut into chunks', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('a', '\n', 'bc', '\r\n', '\xff'), { maxLength: 40 }),
      fc.array(fc.nat(12), { maxLength: 20 }),
      (parts, cuts) => {
        const all = Buffer.from(parts.join(''), 'latin1');
        const chunks: Buffer[] = [];
        let at = 0;
        for (const size of cuts) {
          chunks.push(all.subarray(at, at + size));
          at = Math.min(all.length, at + size);
        }
        chunks.push(all.subarray(at));
        const expected = all.toString('latin1').split('\n');
        if (expected.at(-1) === '') expected.pop();
        assert.deepEqual(split(chunks), expected);
      },
    ),
  );
});

test('a line without an end is refused before it fills the memory', () => {
  assert.throws(() => split([Buffer.from('abc'), Buffer.from('def')], 5), LineTooLong);
  assert.deepEqual(split([Buffer.from('abc'), Buffer.from('de\nf')], 5), ['abcde', 'f']);
});
