import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { mock, test } from 'node:test';
import {
  formatBytes,
  ProgressBar,
  type ProgressState,
  renderProgress,
  renderSummary,
} from '../../cli/progress.js';

const STATE: ProgressState = { messages: 1_234_567, bytes: 5_000_000, elapsedMs: 2_000 };

test('from a file: the share of its bytes; from a pipe: what has been read', () => {
  assert.equal(
    renderProgress({ ...STATE, bytesTotal: 10_000_000 }, 80),
    ' 50% [###############---------------] 1,234,567 messages  617,284 msg/s',
  );
  assert.equal(renderProgress(STATE, 80), '1,234,567 messages  617,284 msg/s  5.0 MB');
  assert.equal(
    renderProgress({ ...STATE, messages: 3, messagesTotal: 4 }, 50),
    ' 75% [################------] 3 messages  2 msg/s',
  );
});

test('a line never wraps, and never shows more than everything', () => {
  for (let columns = 1; columns < 120; columns++) {
    for (const state of [
      STATE,
      { ...STATE, bytesTotal: 1 },
      { ...STATE, bytesTotal: 10_000_000, elapsedMs: 0 },
    ]) {
      assert.ok(renderProgress(state, columns).length < columns);
    }
  }
  assert.match(renderProgress({ ...STATE, bytesTotal: 1 }, 80), /^100% \[#+\]/);
});

test('the summary', () => {
  assert.equal(renderSummary(STATE), '1,234,567 messages in 2.0 s, 617,284 msg/s');
  assert.equal(renderSummary({ messages: 0, bytes: 0, elapsedMs: 0 }), '0 messages in 0.0 s, 0 msg/s');
  assert.deepEqual([0, 999, 1_500, 2_000_000, 3e9].map(formatBytes), [
    '0 B',
    '999 B',
    '1.5 kB',
    '2.0 MB',
    '3.0 GB',
  ]);
});

function terminal() {
  const written: string[] = [];
  const stream = new Writable({
    decodeStrings: false,
    write(chunk: string, _encoding, callback) {
      written.push(chunk);
      callback();
    },
  });
  return Object.assign(stream, { columns: 60, isTTY: true, written });
}

test('the bar appears after half a second and ends as one finished line', (context) => {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  context.after(() => mock.timers.reset());
  const screen = terminal();
  const bar = new ProgressBar(screen, () => STATE);
  mock.timers.tick(499);
  assert.deepEqual(screen.written, []);
  mock.timers.tick(1);
  assert.equal(screen.written.length, 1);
  mock.timers.tick(100);
  assert.equal(screen.written.length, 2);
  bar.clear();
  bar.finish();
  assert.equal(screen.written.at(-1), '\r\x1b[K1,234,567 messages in 2.0 s, 617,284 msg/s\n');
  mock.timers.tick(1_000);
  assert.equal(screen.written.length, 4);
});

test('short work shows nothing at all', (context) => {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  context.after(() => mock.timers.reset());
  const screen = terminal();
  const bar = new ProgressBar(screen, () => STATE);
  mock.timers.tick(400);
  bar.clear();
  bar.finish();
  mock.timers.tick(1_000);
  assert.deepEqual(screen.written, []);
});
