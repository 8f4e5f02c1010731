import assert from 'node:assert/strict';
import { chmodSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import test from 'node:test';
import { hashPassword, readPasswordFile, setPasswordLine } from '../../src/security/password-file.js';
import { temporaryFile } from './support.js';

const first = await hashPassword('one');
const second = await hashPassword('one');

test('hashPassword is argon2id with a salt of its own', () => {
  assert.match(first, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  assert.notEqual(first, second);
});

test('setPasswordLine makes the file for its owner alone, and leaves no other file behind', (context) => {
  const path = temporaryFile(context, 'passwords');
  setPasswordLine(path, 'alice', first);
  assert.equal(readFileSync(path, 'utf8'), `alice:${first}\n`);
  if (process.platform !== 'win32') assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(dirname(path)), ['passwords']);
});

test('setPasswordLine replaces the line of the user, and keeps comments, other users and permissions', (context) => {
  const path = temporaryFile(context, 'passwords', `# people\nalice:${first}\n\nal:ice:${first}`);
  chmodSync(path, 0o640);
  setPasswordLine(path, 'alice', second);
  setPasswordLine(path, 'bob', second);
  assert.equal(readFileSync(path, 'utf8'), `# people\nalice:${second}\n\nal:ice:${first}\nbob:${second}\n`);
  assert.equal(statSync(path).mode & 0o777, 0o640);
  assert.deepEqual([...readPasswordFile(path).keys()], ['alice', 'al:ice', 'bob']);
});

test('a user name that would not come back from the file is refused', (context) => {
  const path = temporaryFile(context, 'passwords');
  for (const name of ['', '#alice', ' alice', 'alice ', 'a\nb', 'a\rb', 'a\0b']) {
    assert.throws(() => setPasswordLine(path, name, first), { code: 'CONFIG_INVALID' }, JSON.stringify(name));
  }
});

test('a directory that cannot be written to is an error that names the file', (context) => {
  const path = `${temporaryFile(context, 'nowhere')}/passwords`;
  assert.throws(() => setPasswordLine(path, 'alice', first), {
    code: 'CONFIG_UNREADABLE',
    message: /nowhere/,
  });
});
