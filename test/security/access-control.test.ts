import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { GomqError } from '../../src/core/errors.js';
import { silentLogger } from '../../src/core/logger.js';
import { type AccessControl, createAccessControl } from '../../src/security/access-control.js';
import { temporaryFile, warnings } from './support.js';

const nobody = { clientId: 'c1', userName: undefined };
const alice = { clientId: 'c2', userName: 'alice' };
const bob = { clientId: 'c3', userName: 'bob' };

function rules(context: TestContext, text: string): AccessControl {
  return createAccessControl(temporaryFile(context, 'acl', text), silentLogger)!;
}

test('without an ACL file there is no access control to ask', () => {
  assert.equal(createAccessControl('', silentLogger), undefined);
});

test('an empty ACL file denies everything (CVE-2018-12550)', (context) => {
  for (const text of ['', '\n\n', '# nothing but a comment\n   \n']) {
    const control = rules(context, text);
    for (const who of [nobody, alice]) {
      assert.equal(control.mayPublish(who, 'a'), false);
      assert.equal(control.mayRead(who, 'a'), false);
      assert.equal(control.maySubscribe(who, '#'), false);
    }
  }
});

test('lines before the first user are for anonymous clients, the others for their user, patterns for all', (context) => {
  const control = rules(
    context,
    'topic public\nuser alice\ntopic private/alice\nuser bob\ntopic private/bob\npattern all\nuser alice\ntopic more\n',
  );
  const may = (who: typeof alice | typeof nobody) =>
    ['public', 'private/alice', 'private/bob', 'all', 'more'].filter((topic) =>
      control.mayPublish(who, topic),
    );
  assert.deepEqual(may(nobody), ['public', 'all']);
  assert.deepEqual(may(alice), ['private/alice', 'all', 'more']);
  assert.deepEqual(may(bob), ['private/bob', 'all']);
  assert.deepEqual(may({ clientId: 'c', userName: 'carol' }), ['all']);
});

test('read, write, readwrite, and both where no word is given', (context) => {
  const control = rules(
    context,
    'topic read r\ntopic write w\ntopic readwrite rw\ntopic both\ntopic read\ntopic a b\n',
  );
  const rights = (topic: string) => [control.mayRead(nobody, topic), control.mayPublish(nobody, topic)];
  assert.deepEqual(rights('r'), [true, false]);
  assert.deepEqual(rights('w'), [false, true]);
  assert.deepEqual(rights('rw'), [true, true]);
  assert.deepEqual(rights('both'), [true, true]);
  assert.deepEqual(rights('read'), [true, true]);
  assert.deepEqual(rights('a b'), [true, true]);
  assert.deepEqual(rights('b'), [false, false]);
});

test('deny outweighs what allows, wherever it stands', (context) => {
  const control = rules(context, 'topic deny a/secret/#\ntopic a/#\npattern deny b/%c\npattern b/#\n');
  assert.equal(control.mayRead(nobody, 'a/open'), true);
  assert.equal(control.mayRead(nobody, 'a/secret'), false);
  assert.equal(control.mayRead(nobody, 'a/secret/deep'), false);
  assert.equal(control.mayRead(nobody, 'b/c1'), false);
  assert.equal(control.mayRead(nobody, 'b/c2'), true);
});

test('wildcards match as in subscriptions: + one level, # the parent and all below', (context) => {
  const control = rules(context, 'topic a/+/c\ntopic d/#\ntopic +/x\n');
  for (const topic of ['a/b/c', 'a//c', 'd', 'd/e', 'd/e/f', 'q/x', '/x']) {
    assert.equal(control.mayRead(nobody, topic), true, topic);
  }
  for (const topic of ['a/c', 'a/b/c/d', 'a', 'de', 'x', 'q/x/y']) {
    assert.equal(control.mayRead(nobody, topic), false, topic);
  }
});

test('[MQTT-4.7.2-1] wildcards do not reach $ topics, rules that name them do', (context) => {
  const control = rules(context, 'topic #\ntopic +/x\nuser alice\ntopic read $SYS/#\n');
  assert.equal(control.mayRead(nobody, '$SYS/broker'), false);
  assert.equal(control.mayRead(nobody, '$other/x'), false);
  assert.equal(control.mayRead(alice, '$SYS/broker'), true);
});

test('nobody publishes to $SYS, whatever the file says (CVE-2018-12543)', (context) => {
  const control = rules(context, 'topic $SYS/#\ntopic $SYSTEM/#\n');
  assert.equal(control.mayPublish(nobody, '$SYS/broker/uptime'), false);
  assert.equal(control.mayPublish(nobody, '$SYS'), false);
  assert.equal(control.mayPublish(nobody, '$SYSTEM/a'), true);
});

test('%c and %u are the client id and the user name, as a level or in one', (context) => {
  const control = rules(context, 'pattern dev/%c/#\npattern home/%u\npattern mix/%c-of-%u/x\n');
  assert.equal(control.mayPublish(alice, 'dev/c2/state'), true);
  assert.equal(control.mayPublish(alice, 'dev/c3/state'), false);
  assert.equal(control.mayPublish(alice, 'home/alice'), true);
  assert.equal(control.mayPublish(alice, 'home/bob'), false);
  assert.equal(control.mayPublish(alice, 'mix/c2-of-alice/x'), true);
  assert.equal(control.mayPublish(alice, 'mix/c2-of-bob/x'), false);
  assert.equal(control.mayPublish(nobody, 'home/'), false);
  assert.equal(control.mayPublish(nobody, 'home/undefined'), false);
});

test('a client id or user name with #, + or / gets nothing from a pattern that holds it (CVE-2017-7650)', (context) => {
  const control = rules(context, 'pattern dev/%c/#\npattern home/%u/#\npattern mix-%c/x\n');
  for (const name of ['#', '+', '+/b', 'a/b', 'a#', 'a+']) {
    const byId = { clientId: name, userName: undefined };
    const byName = { clientId: 'c', userName: name };
    for (const last of [name, 'a', 'b', 'a/b']) {
      assert.equal(control.mayRead(byId, `dev/${last}`), false, `${name} on dev/${last}`);
      assert.equal(control.mayPublish(byName, `home/${last}`), false, `${name} on home/${last}`);
      assert.equal(control.mayRead(byId, `mix-${last}/x`), false);
    }
    assert.equal(control.maySubscribe(byId, 'dev/#'), false);
    assert.equal(control.maySubscribe(byName, 'home/+/x'), false);
  }
});

test('a name with #, + or / does not slip out of a pattern that denies', (context) => {
  const control = rules(context, 'topic #\npattern deny own/%c\n');
  assert.equal(control.mayPublish({ clientId: 'a/b', userName: undefined }, 'own/a'), false);
  assert.equal(control.mayPublish({ clientId: 'a', userName: undefined }, 'own/b'), true);
});

test('a client that names itself after a $ topic, or after the other mark, gains nothing', (context) => {
  const control = rules(context, 'pattern %c/#\npattern x/%c/%u\npattern y/%c%u\n');
  assert.equal(control.mayRead({ clientId: '$SYS', userName: undefined }, '$SYS/broker'), false);
  assert.equal(control.maySubscribe({ clientId: '$SYS', userName: undefined }, '$SYS/#'), false);
  assert.equal(control.mayRead({ clientId: '%u', userName: 'alice' }, 'y/alicealice'), false);
  assert.equal(control.mayRead({ clientId: '%u', userName: 'alice' }, 'y/%ualice'), true);
});

test('maySubscribe: where a right to read overlaps, and no rule denies all of it', (context) => {
  const control = rules(
    context,
    'topic read a/b/#\ntopic write w/#\ntopic deny a/b/secret/#\npattern read dev/%c/+\n',
  );
  for (const filter of [
    '#',
    'a/#',
    '+/+',
    '+/b',
    'a/+/c',
    'a/b',
    'a/b/c',
    'a/b/#',
    'dev/+/x',
    'dev/#',
    '+/c1/+',
  ]) {
    assert.equal(control.maySubscribe(nobody, filter), true, filter);
  }
  for (const filter of [
    'w/#',
    'w',
    'b/#',
    'a',
    'a/c',
    '+',
    'a/b/secret',
    'a/b/secret/+',
    'dev/c2/x',
    '$SYS/#',
    'dev/+',
  ]) {
    assert.equal(control.maySubscribe(nobody, filter), false, filter);
  }
});

test('a line that cannot be read is named by file and line', (context) => {
  const cases: [string, string][] = [
    ['topic a\ntopc b\n', "2: 'topc'"],
    ['# comment\n\ntopic\n', "3: nothing follows 'topic'"],
    ['user\n', "1: nothing follows 'user'"],
    ['topic read a/#/b\n', "1: 'a/#/b'"],
    ['topic a+\n', "1: 'a+'"],
    ['pattern %c#\n', "1: '%c#'"],
  ];
  for (const [text, expected] of cases) {
    const path = temporaryFile(context, 'acl', text);
    assert.throws(
      () => createAccessControl(path, silentLogger),
      (error: GomqError) => {
        assert.ok(error instanceof GomqError);
        assert.equal(error.code, 'CONFIG_INVALID');
        assert.ok(error.message.includes(`${path}:${expected}`), error.message);
        return true;
      },
    );
  }
});

test('a file that is missing or no UTF-8 is CONFIG_UNREADABLE', (context) => {
  const missing = temporaryFile(context, 'acl');
  assert.throws(() => createAccessControl(missing, silentLogger), { code: 'CONFIG_UNREADABLE' });
  writeFileSync(missing, Buffer.from('topic \xff\n', 'latin1'));
  assert.throws(() => createAccessControl(missing, silentLogger), { code: 'CONFIG_UNREADABLE' });
});

test('reload replaces the rules, raises the version and tells (CVE-2021-34434)', (context) => {
  const path = temporaryFile(context, 'acl', 'topic a\n');
  const control = createAccessControl(path, silentLogger)!;
  const { version } = control;
  let told = 0;
  const stop = control.onReload(() => {
    told += 1;
    assert.equal(control.mayRead(nobody, 'a'), false);
  });
  assert.equal(control.mayRead(nobody, 'a'), true);
  writeFileSync(path, 'topic b\r\n');
  control.reload();
  assert.equal(control.mayRead(nobody, 'b'), true);
  assert.ok(control.version > version);
  assert.equal(told, 1);
  stop();
  control.reload();
  assert.equal(told, 1);
});

test('reload keeps the old rules where the new ones are wrong or gone', (context) => {
  const path = temporaryFile(context, 'acl', 'topic a\n');
  const control = createAccessControl(path, silentLogger)!;
  const { version } = control;
  control.onReload(() => assert.fail('nothing changed'));
  writeFileSync(path, 'topic b\nnonsense\n');
  assert.throws(() => control.reload(), { code: 'CONFIG_INVALID' });
  rmSync(path);
  assert.throws(() => control.reload(), { code: 'CONFIG_UNREADABLE' });
  assert.equal(control.mayRead(nobody, 'a'), true);
  assert.equal(control.mayRead(nobody, 'b'), false);
  assert.equal(control.version, version);
});

test('reload while out of file descriptors keeps the old rules (CVE-2017-7652)', (context) => {
  const path = temporaryFile(context, 'acl', 'topic a\n');
  const module = fileURLToPath(new URL('../../src/security/access-control.ts', import.meta.url));
  const logger = fileURLToPath(new URL('../../src/core/logger.ts', import.meta.url));
  const script = `
    const { openSync, writeFileSync } = await import('node:fs');
    const { createAccessControl } = await import(${JSON.stringify(module)});
    const { silentLogger } = await import(${JSON.stringify(logger)});
    const path = ${JSON.stringify(path)};
    const control = createAccessControl(path, silentLogger);
    const who = { clientId: 'c', userName: undefined };
    // Asked once before, so that nothing more has to be loaded later.
    try { control.reload(); JSON.parse(''); } catch {}
    writeFileSync(path, 'topic b\\n');
    try { for (;;) openSync('/dev/null'); } catch (error) { if (error.code !== 'EMFILE') throw error; }
    let code = 'none';
    try { control.reload(); } catch (error) { code = error.code + ' ' + error.cause.code; }
    process._rawDebug(JSON.stringify([code, control.mayRead(who, 'a'), control.mayRead(who, 'b')]));`;
  const shell = 'ulimit -n 512 && exec "$0" --import tsx --input-type=module -e "$1" 2>&1';
  const output = execFileSync('sh', ['-c', shell, process.execPath, script], { encoding: 'utf8' });
  assert.deepEqual(JSON.parse(output.trim().split('\n').at(-1)!), ['CONFIG_UNREADABLE EMFILE', true, false]);
});

test('a file that others can read or change is warned of (CVE-2017-9868)', (context) => {
  const path = temporaryFile(context, 'acl', 'topic a\n');
  const lines: Parameters<typeof warnings>[0] = [];
  createAccessControl(path, warnings(lines));
  assert.equal(lines.length, 0);
  chmodSync(path, 0o644);
  createAccessControl(path, warnings(lines));
  assert.match(lines[0]!.message, /can be read by every user/);
  assert.equal(lines[0]!.fields.path, path);
  chmodSync(path, 0o666);
  createAccessControl(path, warnings(lines));
  assert.match(lines[1]!.message, /can be changed by every user/);
});
