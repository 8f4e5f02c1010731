import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gomqctl, words } from './harness.js';

const VERSION = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version;

test('version, as a line and as JSON', async () => {
  assert.deepEqual((await gomqctl(['version'])).stdout, `gomqctl ${VERSION}\n`);
  assert.deepEqual((await gomqctl(['--version'])).stdout, `${VERSION}\n`);
  for (const line of ['version --json', '--json version']) {
    const printed = JSON.parse((await gomqctl(words(line))).stdout);
    assert.deepEqual(printed.version, VERSION);
    assert.equal(printed.node, process.versions.node);
    assert.match(printed.mqtt, /^5\./);
  }
  assert.equal((await gomqctl(words('--connect 127.0.0.1:9000 version'))).code, 0);
});

test('help: of gomqctl and of each command, with examples, on stdout', async () => {
  for (const line of ['help', '--help']) {
    const { code, stdout, stderr } = await gomqctl([line]);
    assert.deepEqual([code, stderr], [0, '']);
    for (const word of ['pub', 'sub', 'bench', 'version', 'GOMQ_URL', '--topic A', 'hello world everyone']) {
      assert.ok(stdout.includes(word), word);
    }
  }
  for (const [command, words] of [
    ['pub', ['-l', '--repeat-delay', '--will-topic', 'gomqctl --topic A pub', 'Exit status']],
    ['sub', ['-F, --format', '--retained-only', '$share/workers', 'Exit status']],
  ] as const) {
    for (const line of [
      ['help', command],
      [command, '--help'],
    ]) {
      const { code, stdout } = await gomqctl(line);
      assert.equal(code, 0);
      for (const word of words) assert.ok(stdout.includes(word), word);
      for (const row of stdout.split('\n')) assert.ok(row.length <= 112, row);
    }
  }
});

test('no command, and an unknown one', async () => {
  const none = await gomqctl([]);
  assert.equal(none.code, 1);
  assert.equal(none.stdout, '');
  assert.match(none.stderr, /^Usage: gomqctl/);
  const address = await gomqctl(words('--connect 127.0.0.1:9000'));
  assert.equal(address.code, 1);
  assert.equal(
    address.stderr,
    'gomqctl: no command given; use one of pub, sub, list, cluster, verify, bench, version, help\n',
  );
  const unknown = await gomqctl(['publish']);
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /^gomqctl: unknown command 'publish'[^\n]*\n$/);
});
