// Users, rights and certificates as an operator sets them up: `gomq password`, files, SIGHUP, and the clients that people have.
import assert from 'node:assert/strict';
import { type ChildProcessByStdio, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { closeAllClients, RawClient } from '../support/raw-client.js';
import { temporaryFolder } from '../support/temporary-folder.js';

const GOMQ = 'dist/src/main.js';
const GOMQCTL = 'dist/cli/main.js';
const NOT_AUTHORIZED = 0x87;
const BAD_USER_NAME_OR_PASSWORD = 0x86;

const folder = mkdtempSync(join(tmpdir(), 'gomq-security-e2e-'));
const passwordFile = join(folder, 'passwords');
const aclFile = join(folder, 'acl');
const RULES = 'user alice\ntopic readwrite home/#\nuser bob\ntopic read home/#\n';

let broker: ChildProcessByStdio<null, Readable, Readable>;
let port = 0;
let diagnostics: Interface;

before(async () => {
  setPassword('alice', 'wonderland');
  setPassword('bob', 'builder');
  writeFileSync(aclFile, RULES, { mode: 0o600 });
  const files = ['--set', `auth.passwordFile=${passwordFile}`, '--set', `auth.aclFile=${aclFile}`];
  const nowhere = ['--mqtt', '127.0.0.1:0', '--http', 'off', '--set', 'auth.anonymous=never'];
  broker = spawn(process.execPath, [GOMQ, 'start', '--data', temporaryFolder(), ...nowhere, ...files], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  diagnostics = createInterface(broker.stderr);
  const [ready] = (await once(createInterface(broker.stdout), 'line')) as [string];
  port = Number(/mqtt 127\.0\.0\.1:(\d+)/.exec(ready)?.[1]);
});

after(async () => {
  closeAllClients();
  broker.kill();
  await once(broker, 'exit');
  rmSync(folder, { recursive: true });
});

function setPassword(user: string, password: string): void {
  const outcome = spawnSync(process.execPath, [GOMQ, 'password', passwordFile, user], {
    input: `${password}\n`,
    encoding: 'utf8',
  });
  assert.deepEqual([outcome.status, outcome.stderr], [0, '']);
}

/** Sends SIGHUP, and resolves with the line that says how it went. */
async function reload(): Promise<string> {
  const told = new Promise<string>((resolve) => {
    const listen = (line: string): void => {
      if (!/read the password, ACL and certificate files again/.test(line)) return;
      diagnostics.off('line', listen);
      resolve(line);
    };
    diagnostics.on('line', listen);
  });
  broker.kill('SIGHUP');
  return told;
}

async function connackOf(username: string, password: string): Promise<number | undefined> {
  const client = await RawClient.connect(port);
  const connack = await client.mqttConnect({ version: 5, username, password });
  client.destroy();
  return connack.reasonCode;
}

function gomqctl(...args: string[]): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync(
    process.execPath,
    [GOMQCTL, '--connect', `127.0.0.1:${port}`, '-V', '5', ...args],
    { encoding: 'utf8', env: { ...process.env, GOMQ_URL: '', GOMQ_USER: '', GOMQ_PASSWORD: '' } },
  );
  return { status, stderr };
}

describe('users and rights', () => {
  it('let gomqctl in by name and password, and tell it in one line why not', () => {
    const alice = ['-u', 'alice', '-P', 'wonderland', '-q', '1'];
    assert.deepEqual(gomqctl(...alice, '-t', 'home/lamp', 'pub', 'on'), { status: 0, stderr: '' });
    const elsewhere = gomqctl(...alice, '-t', 'elsewhere', 'pub', 'on');
    assert.notEqual(elsewhere.status, 0);
    assert.match(elsewhere.stderr, /^[^\n]*not authorized[^\n]*\n$/i);
    const wrong = gomqctl('-u', 'alice', '-P', 'wrong', '-t', 'home/lamp', 'pub', 'on');
    assert.equal(wrong.status, BAD_USER_NAME_OR_PASSWORD);
    assert.match(wrong.stderr, /^[^\n]+\n$/);
    const nobody = gomqctl('-t', 'home/lamp', 'pub', 'on');
    assert.equal(nobody.status, NOT_AUTHORIZED);
    assert.match(nobody.stderr, /^[^\n]+\n$/);
  });

  const mosquitto = 'mosquitto_pub';
  const hasMosquitto = spawnSync(mosquitto, ['--help']).error === undefined;
  it('let mosquitto_pub in, in every version', {
    skip: hasMosquitto ? false : 'mosquitto-clients is not installed',
  }, () => {
    for (const version of ['mqttv31', 'mqttv311', 'mqttv5']) {
      const pub = (...args: string[]) =>
        spawnSync(mosquitto, ['-p', String(port), '-V', version, '-q', '1', '-m', 'x', ...args]).status;
      assert.equal(pub('-u', 'alice', '-P', 'wonderland', '-t', 'home/lamp'), 0, version);
      assert.notEqual(pub('-u', 'alice', '-P', 'wrong', '-t', 'home/lamp'), 0, version);
      assert.notEqual(pub('-t', 'home/lamp'), 0, version);
    }
  });
});

describe('SIGHUP', () => {
  it('brings new passwords, users and rights, for connections that there are too', async () => {
    const alice = await RawClient.open(port, { version: 5, username: 'alice', password: 'wonderland' });
    const bob = await RawClient.open(port, { version: 5, username: 'bob', password: 'builder' });
    assert.deepEqual(await bob.subscribe('home/#', 1), [1]);
    setPassword('erin', 'one');
    await reload();
    assert.equal(await connackOf('erin', 'one'), 0);
    setPassword('erin', 'two');
    setPassword('carol', 'christmas');
    writeFileSync(aclFile, 'user alice\ntopic readwrite home/#\nuser bob\ntopic read home/lamp\n');
    assert.match(await reload(), /"level":"info"/);
    assert.equal(await connackOf('erin', 'one'), BAD_USER_NAME_OR_PASSWORD);
    assert.equal(await connackOf('erin', 'two'), 0);
    assert.equal(await connackOf('carol', 'christmas'), 0);
    await alice.publish('home/safe', 'not for bob', { qos: 1 });
    await alice.publish('home/lamp', 'on', { qos: 1 });
    await bob.expectMessage('home/lamp', 'on');
    await bob.expectQuiet();
  });

  it('removes a user that gomq password --delete removed, and leaves a connection that there is', async () => {
    setPassword('dave', 'secret');
    await reload();
    const dave = await RawClient.open(port, { version: 5, username: 'dave', password: 'secret' });
    const removed = spawnSync(process.execPath, [GOMQ, 'password', '--delete', passwordFile, 'dave']);
    assert.equal(removed.status, 0);
    assert.equal(await connackOf('dave', 'secret'), 0);
    await reload();
    assert.equal(await connackOf('dave', 'secret'), BAD_USER_NAME_OR_PASSWORD);
    await dave.barrier();
  });

  it('with a mistake in a file changes nothing, and says where it is', async () => {
    writeFileSync(aclFile, 'topic readwrite #\ntopik\n');
    const line = await reload();
    assert.match(line, /"level":"error"/);
    assert.match(line, /acl:2: /);
    const bob = await RawClient.open(port, { version: 5, username: 'bob', password: 'builder' });
    assert.deepEqual(await bob.subscribe('elsewhere'), [NOT_AUTHORIZED]);
    writeFileSync(aclFile, RULES);
    assert.match(await reload(), /"level":"info"/);
  });

  const limit = 'prlimit';
  const hasLimit = process.platform === 'linux' && spawnSync(limit, ['--version']).status === 0;
  it('out of file descriptors changes nothing (CVE-2017-7652)', {
    skip: hasLimit ? false : 'prlimit is not installed',
  }, async () => {
    const setLimit = (files: number) => {
      const { status } = spawnSync(limit, ['--pid', String(broker.pid), `--nofile=${files}:`]);
      assert.equal(status, 0);
    };
    const bob = await RawClient.open(port, { version: 5, username: 'bob', password: 'builder' });
    writeFileSync(aclFile, 'user bob\ntopic readwrite #\n');
    const before = spawnSync(
      limit,
      ['--pid', String(broker.pid), '--nofile', '--noheadings', '--output', 'SOFT'],
      { encoding: 'utf8' },
    );
    // Standard input, output and error are open, so nothing else can be.
    setLimit(3);
    const line = await reload();
    setLimit(Number(before.stdout));
    assert.match(line, /"level":"error"/);
    assert.match(line, /EMFILE/);
    assert.deepEqual(await bob.subscribe('elsewhere'), [NOT_AUTHORIZED]);
    assert.equal(await connackOf('bob', 'builder'), 0);
    assert.match(await reload(), /"level":"info"/);
    assert.deepEqual(await bob.subscribe('elsewhere'), [0]);
    writeFileSync(aclFile, RULES);
    await reload();
  });
});
