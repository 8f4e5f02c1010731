// The writer of frames grows while it writes: nothing of what it was given may be left behind in the buffer before.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FieldReader, FieldWriter } from '../../src/replication/frame-fields.js';

test('whatever is written while the buffer grows comes out again', () => {
  for (const kind of ['byte', 'text', 'shortText', 'uint16', 'uint32', 'uint64', 'bytes'] as const) {
    const writer = new FieldWriter();
    writer.begin(16, 1);
    for (let i = 0; i < 10_000; i++) {
      if (kind === 'text' || kind === 'shortText') writer[kind](`topic/${i}`);
      else if (kind === 'bytes') writer.bytes(Buffer.from([i & 0xff, i >> 8]));
      else writer[kind](kind === 'byte' ? i & 0xff : i);
    }
    const bytes = writer.end(0);
    const reader = new FieldReader(bytes, 0, bytes.length, 'test');
    reader.uint64('epoch');
    for (let i = 0; i < 10_000; i++) {
      if (kind === 'text') assert.equal(reader.text('one', 100), `topic/${i}`);
      else if (kind === 'shortText') assert.equal(reader.shortText('one'), `topic/${i}`);
      else if (kind === 'bytes') assert.deepEqual([...reader.bytes(2, 'one')], [i & 0xff, i >> 8]);
      else assert.equal(reader[kind]('one'), kind === 'byte' ? i & 0xff : i);
    }
    reader.end();
  }
});
