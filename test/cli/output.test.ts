import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as tick } from 'node:timers/promises';
import { Output } from '../../cli/output.js';

/** A reader of stdout that takes what it is given only when told to. */
function reader() {
  const writes: Buffer[] = [];
  let take: (() => void) | undefined;
  let held = false;
  const stream = new Writable({
    highWaterMark: 16_384,
    write(chunk: Buffer, _encoding, callback) {
      writes.push(chunk);
      if (held) take = callback;
      else callback();
    },
  });
  return {
    stream,
    writes,
    hold: () => {
      held = true;
    },
    resume: () => {
      held = false;
      take?.();
    },
    get text() {
      return Buffer.concat(writes).toString();
    },
  };
}

test('what one tick produces is one write', async () => {
  const to = reader();
  const output = new Output(to.stream, assert.fail);
  for (let i = 0; i < 1000; i++) {
    output.text('é');
    output.bytes(Buffer.from([10]));
  }
  assert.equal(to.writes.length, 0);
  await tick();
  assert.equal(to.writes.length, 1);
  assert.equal(to.text, 'é\n'.repeat(1000));
  await output.end();
});

test('order is kept when pieces are larger than the buffer', async () => {
  const to = reader();
  const output = new Output(to.stream, assert.fail);
  const big = Buffer.alloc(100_000, 'b');
  output.text('a');
  output.bytes(big);
  output.text('c');
  output.text('d'.repeat(100_000));
  output.text('e'.repeat(30_000));
  await output.end();
  assert.equal(to.text, `a${big}c${'d'.repeat(100_000)}${'e'.repeat(30_000)}`);
});

test('a reader that falls behind is noticed, and waited for', async () => {
  const to = reader();
  to.hold();
  const output = new Output(to.stream, assert.fail);
  while (!output.blocked) output.bytes(Buffer.alloc(60_000));
  assert.ok(to.stream.writableLength > 1_000_000 && to.stream.writableLength < 1_200_000);
  let drained = false;
  output.onceDrained(() => {
    drained = true;
  });
  await tick();
  assert.equal(drained, false);
  to.resume();
  await output.end();
  assert.equal(drained, true);
  assert.equal(output.blocked, false);
});

test('a reader that has gone away is told about once, and holds nothing up', async () => {
  const errors: Error[] = [];
  const to = reader();
  to.hold();
  const output = new Output(to.stream, (error) => errors.push(error));
  while (!output.blocked) output.bytes(Buffer.alloc(60_000));
  const drained = new Promise<void>((resolve) => output.onceDrained(resolve));
  to.stream.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
  await drained;
  output.text('more');
  await output.end();
  assert.equal(output.blocked, false);
  assert.deepEqual(
    errors.map((error) => error.message),
    ['write EPIPE'],
  );
});
