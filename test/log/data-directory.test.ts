import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { GomqError } from '../../src/core/errors.js';
import { type DataDirectory, openDataDirectory } from '../../src/log/data-directory.js';
import { logName, makeDirectory } from './batches.js';

const open = (path: string, nodeId = 'gomq'): DataDirectory => openDataDirectory(path, { nodeId });

/** What it says when it refuses. */
function refusal(path: string, code: string, nodeId = 'gomq', mode: 'own' | 'read' = 'own'): GomqError {
  try {
    openDataDirectory(path, { nodeId, mode }).release();
  } catch (error) {
    assert.ok(error instanceof GomqError, String((error as Error).stack));
    assert.equal(error.code, code, error.message);
    return error;
  }
  assert.fail('it was not refused');
}

function identity({ clusterId, nodeId, incarnation }: DataDirectory): string[] {
  return [clusterId, nodeId, incarnation];
}

/** Flips each bit of a file in turn, and puts it back. */
function forEachFlip(file: string, look: () => void): void {
  const good = readFileSync(file);
  for (let bit = 0; bit < good.length * 8; bit++) {
    const bytes = Buffer.from(good);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    writeFileSync(file, bytes);
    look();
  }
  writeFileSync(file, good);
}

describe('a data directory', () => {
  it('is made where there is none, for its owner alone, and known again', () => {
    const path = join(makeDirectory(), 'a', 'b');
    const first = open(path);
    first.release();
    first.release();
    assert.equal(statSync(path).mode & 0o777, 0o700);
    assert.equal(statSync(join(path, 'node.json')).mode & 0o777, 0o600);
    const second = open(path);
    assert.deepEqual(identity(second), identity(first));
    second.release();
    const fields = JSON.parse(readFileSync(join(path, 'node.json'), 'utf8')) as Record<string, unknown>;
    assert.deepEqual(Object.keys(fields), ['format', 'clusterId', 'nodeId', 'incarnation', 'checksum']);
  });

  it('has another incarnation after it was emptied', () => {
    const path = makeDirectory();
    const before = open(path);
    before.release();
    rmSync(path, { recursive: true });
    const after = open(path);
    assert.notEqual(after.incarnation, before.incarnation);
    after.release();
  });

  it('may be read by anybody beside its owner, who must have made it', () => {
    const path = makeDirectory();
    assert.match(
      refusal(path, 'DATA_UNREADABLE', '', 'read').message,
      /not a data directory: it has no node\.json/,
    );
    assert.match(
      refusal(join(path, 'x'), 'DATA_UNREADABLE', '', 'read').message,
      /there is no such directory/,
    );
    assert.ok(!existsSync(join(path, 'lock')) && !existsSync(join(path, 'x')));
    const owner = open(path, 'a');
    assert.deepEqual(identity(openDataDirectory(path, { nodeId: '', mode: 'read' })), identity(owner));
    owner.release();
  });

  it('is not shared: the second is told who holds it', () => {
    const path = makeDirectory();
    const owner = open(path);
    const { message } = refusal(path, 'DATA_IN_USE');
    assert.match(message, new RegExp(`^${path} is held by process ${process.pid} since 20\\d\\d-`));
    writeFileSync(join(path, 'lock'), '\u001b[2Jnonsense');
    assert.equal(refusal(path, 'DATA_IN_USE').message, `${path} is held by another process`);
    owner.release();
    open(path).release();
  });

  it('is free again when its owner was killed', async () => {
    const path = makeDirectory();
    const module = fileURLToPath(new URL('../../src/log/data-directory.ts', import.meta.url));
    const script = `import { openDataDirectory } from ${JSON.stringify(module)};
      openDataDirectory(${JSON.stringify(path)}, { nodeId: 'gomq' });
      process.stdout.write('held');
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    assert.match(refusal(path, 'DATA_IN_USE').message, new RegExp(`held by process ${child.pid} since`));
    child.kill('SIGKILL');
    await once(child, 'exit');
    open(path).release();
  });

  it('belongs to one node, and takes the name of the first that has one', () => {
    const path = makeDirectory();
    const unnamed = open(path);
    unnamed.release();
    const named = open(path, 'a');
    named.release();
    assert.deepEqual(identity(named), [unnamed.clusterId, 'a', unnamed.incarnation]);
    for (const other of ['b', 'gomq']) {
      const { message, hint } = refusal(path, 'DATA_UNREADABLE', other);
      assert.equal(message, `${path} belongs to node 'a', and this is node '${other}'`);
      assert.match(hint, /--node-id a/);
    }
    open(path, 'a').release();
  });

  it('is no file', () => {
    const path = join(makeDirectory({ file: Buffer.from('x') }), 'file');
    assert.match(refusal(path, 'DATA_UNREADABLE').message, /it is not a directory/);
    assert.match(refusal(join(path, 'below'), 'DATA_UNREADABLE').message, /it is not a directory/);
    assert.match(refusal(path, 'DATA_UNREADABLE', '', 'read').message, /it is not a directory/);
  });

  it('cannot be used without the right to', {
    skip: process.getuid?.() === 0 ? 'root may do everything' : false,
  }, () => {
    const path = makeDirectory();
    chmodSync(path, 0o500);
    assert.match(refusal(path, 'DATA_UNREADABLE').message, /permission denied/);
    chmodSync(path, 0o700);
  });

  it('of another format is left alone', () => {
    for (const format of [1, 3]) {
      const path = makeDirectory({ 'node.json': Buffer.from(`{"format":${format},"whatever":true}`) });
      const { message } = refusal(path, 'DATA_VERSION');
      assert.equal(message, `${path} has format ${format}, and this gomq knows format 2`);
      refusal(path, 'DATA_VERSION', '', 'read');
    }
  });
});

describe('damage to node.json', () => {
  it('is noticed whatever bit is flipped', () => {
    const path = makeDirectory();
    open(path, 'node-1').release();
    const file = join(path, 'node.json');
    forEachFlip(file, () => {
      try {
        openDataDirectory(path, { nodeId: 'node-1', mode: 'read' });
        assert.fail('it was believed');
      } catch (error) {
        assert.ok(error instanceof GomqError, String(error));
        assert.ok(['DATA_DAMAGED', 'DATA_VERSION'].includes(error.code), error.message);
        assert.ok(error.message.includes(path));
      }
    });
    open(path, 'node-1').release();
  });

  const contents: [string, string][] = [
    ['nothing', ''],
    ['no JSON', '{'],
    ['no object', '7'],
    ['null', 'null'],
    ['no fields', '{}'],
    ['the right checksum over too little', `{"checksum":"${crc32('{}').toString(16).padStart(8, '0')}"}`],
    ['far too much', ' '.repeat(5000)],
  ];
  for (const [what, content] of contents) {
    it(`is ${what}`, () => {
      const path = makeDirectory({ 'node.json': Buffer.from(content) });
      assert.match(refusal(path, 'DATA_DAMAGED').message, /node\.json is damaged/);
      assert.equal(readFileSync(join(path, 'node.json'), 'utf8'), content);
    });
  }

  it('is that it is missing where there are segments', () => {
    const path = makeDirectory({ [logName(0)]: Buffer.alloc(0) });
    assert.match(refusal(path, 'DATA_DAMAGED').message, /it is missing, and there are segments/);
    refusal(path, 'DATA_DAMAGED', '', 'read');
  });
});

describe('the suspect marker', () => {
  it('is kept until it is cleared', () => {
    const path = makeDirectory();
    const directory = open(path);
    assert.equal(directory.readSuspect(), undefined);
    assert.ok(directory.markSuspect({ segment: 2 ** 50, position: 12 }));
    directory.release();
    const again = open(path);
    assert.deepEqual(again.readSuspect(), { segment: 2 ** 50, position: 12 });
    again.clearSuspect();
    again.clearSuspect();
    assert.equal(again.readSuspect(), undefined);
    again.release();
  });

  it('is not there where the disk refuses it, and nobody throws', () => {
    const path = makeDirectory();
    const directory = open(path);
    mkdirSync(join(path, 'suspect.tmp'));
    assert.equal(directory.markSuspect({ segment: 0, position: 0 }), false);
    directory.release();
  });

  it('is refused when it is damaged, whatever bit is flipped', () => {
    const path = makeDirectory();
    const directory = open(path);
    directory.markSuspect({ segment: 20, position: 345 });
    forEachFlip(join(path, 'suspect'), () => {
      assert.throws(() => directory.readSuspect(), { code: 'DATA_DAMAGED' });
    });
    directory.release();
  });
});
