// `gomq password` and what `gomq check-config` says about the files it writes, as functions: a terminal is a stream that says it is one.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { after, describe, it } from 'node:test';
import { verify } from '@node-rs/argon2';
import { runCommandLine } from '../../src/command-line.js';
import { readPasswordFile } from '../../src/security/password-file.js';

const folder = mkdtempSync(join(tmpdir(), 'gomq-password-'));
after(() => rmSync(folder, { recursive: true }));

let lastFile = 0;
function newPath(text?: string): string {
  lastFile += 1;
  const path = join(folder, `passwords-${lastFile}`);
  if (text !== undefined) writeFileSync(path, text, { mode: 0o600 });
  return path;
}

interface Outcome {
  exitCode: number;
  stdout: string;
  stderr: string;
}

async function run(
  argv: string[],
  stdin: Readable & { isTTY?: boolean } = Readable.from([]),
): Promise<Outcome> {
  const outcome: Outcome = { exitCode: -1, stdout: '', stderr: '' };
  outcome.exitCode = await runCommandLine(argv, {
    env: {},
    stdin,
    stdout: (text) => {
      outcome.stdout += text;
    },
    stderr: (text) => {
      outcome.stderr += text;
    },
    start: () => assert.fail('nothing is started'),
  });
  return outcome;
}

/** A terminal at which `keys` are typed; raw mode is what turns echoing off. */
function terminal(
  keys: string,
): PassThrough & { isTTY: boolean; setRawMode: (on: boolean) => void; modes: boolean[] } {
  const modes: boolean[] = [];
  const setRawMode = (on: boolean) => {
    modes.push(on);
  };
  const stream = Object.assign(new PassThrough(), { isTTY: true, setRawMode, modes });
  stream.write(keys);
  return stream;
}

async function accepts(path: string, user: string, password: string): Promise<boolean> {
  return verify(readPasswordFile(path).get(user)!, password);
}

describe('gomq password', () => {
  it('takes the first line of stdin, and makes a file for its owner alone', async () => {
    const path = newPath();
    const { exitCode, stdout, stderr } = await run(
      ['password', path, 'alice'],
      Readable.from(['wonder', 'land\nrest\n']),
    );
    assert.deepEqual([exitCode, stderr], [0, '']);
    assert.equal(
      stdout,
      `wrote the password of alice in ${path}; a running gomq reads the file again on SIGHUP\n`,
    );
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.ok(await accepts(path, 'alice', 'wonderland'));
    assert.doesNotMatch(readFileSync(path, 'utf8'), /wonderland/);
  });

  const lines: [string, Buffer, string][] = [
    ['a line without an end', Buffer.from('secret'), 'secret'],
    ['the line end of Windows', Buffer.from('secret\r\n'), 'secret'],
    ['spaces', Buffer.from(' two words \n'), ' two words '],
    ['letters that are not ASCII', Buffer.from('schlüssel 鍵\n'), 'schlüssel 鍵'],
  ];
  for (const [what, bytes, password] of lines) {
    it(`takes ${what} as it is`, async () => {
      const path = newPath();
      assert.equal((await run(['password', path, 'alice'], Readable.from([bytes]))).exitCode, 0);
      assert.ok(await accepts(path, 'alice', password));
    });
  }

  it('replaces a password, and leaves comments and other users as they are', async () => {
    const path = newPath('# people\n\n');
    await run(['password', path, 'alice'], Readable.from(['one\n']));
    await run(['password', path, 'bob'], Readable.from(['two\n']));
    await run(['password', path, 'alice'], Readable.from(['three\n']));
    assert.ok(await accepts(path, 'alice', 'three'));
    assert.ok(await accepts(path, 'bob', 'two'));
    assert.match(readFileSync(path, 'utf8'), /^# people\n\nalice:.*\nbob:.*\n$/);
  });

  it('asks twice at a terminal, which echoes nothing', async () => {
    const path = newPath();
    const keyboard = terminal('wonderlamd\x7f\x7fnd\rwonderland\r');
    const { exitCode, stdout, stderr } = await run(['password', path, 'alice'], keyboard);
    assert.deepEqual([exitCode, stderr], [0, 'password for alice: \nonce more: \n']);
    assert.doesNotMatch(stdout, /wonder/);
    assert.deepEqual(keyboard.modes, [true, false]);
    assert.ok(await accepts(path, 'alice', 'wonderland'));
  });

  const refused: [string, string, string][] = [
    ['two that differ', 'one\rtwo\r', 'gomq: the two passwords differ; nothing is changed\n'],
    ['an empty one', '\r', 'gomq: no password was given; nothing is changed\n'],
    ['Ctrl-C', 'wonder\x03', 'gomq: no password was given; nothing is changed\n'],
    ['Ctrl-D', '\x04', 'gomq: no password was given; nothing is changed\n'],
  ];
  for (const [what, keys, message] of refused) {
    it(`changes nothing on ${what}`, async () => {
      const path = newPath();
      const keyboard = terminal(keys);
      const { exitCode, stdout, stderr } = await run(['password', path, 'alice'], keyboard);
      assert.deepEqual([exitCode, stdout], [2, '']);
      assert.ok(stderr.endsWith(message), stderr);
      assert.deepEqual(keyboard.modes, [true, false]);
      assert.equal(statSync(path, { throwIfNoEntry: false }), undefined);
    });
  }

  it('removes a user, and nothing but that user', async () => {
    const path = newPath();
    for (const user of ['alice', 'bob', 'a:b']) await run(['password', path, user], Readable.from(['x\n']));
    writeFileSync(path, `# alice:was here\n\n${readFileSync(path, 'utf8')}`);
    chmodSync(path, 0o640);
    const { exitCode, stdout, stderr } = await run(['password', '--delete', path, 'alice']);
    assert.deepEqual([exitCode, stderr], [0, '']);
    assert.equal(stdout, `removed alice in ${path}; a running gomq reads the file again on SIGHUP\n`);
    assert.deepEqual([...readPasswordFile(path).keys()], ['bob', 'a:b']);
    assert.match(readFileSync(path, 'utf8'), /^# alice:was here\n\nbob:.*\na:b:.*\n$/);
    assert.equal(statSync(path).mode & 0o777, 0o640);
    await run(['password', path, 'a:b', '--delete']);
    assert.deepEqual([...readPasswordFile(path).keys()], ['bob']);
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.endsWith('.new')),
      [],
    );
  });

  it('says in words what is wrong', async () => {
    const path = newPath('alice:$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g\n');
    const cases: [string[], number, RegExp][] = [
      [['password'], 2, /^gomq: missing required argument 'file'\n$/],
      [['password', path], 2, /^gomq: missing required argument 'user'\n$/],
      [['password', path, 'alice'], 2, /^gomq: no password was given; nothing is changed\n$/],
      [['password', path, 'alice', 'secret'], 2, /^gomq: too many arguments for 'password'.*\n$/],
      [['password', '--delete', path, 'bob'], 2, /^gomq: .* has no user 'bob'\n$/],
      [['password', '--delete', path, ''], 2, /^gomq: .* has no user ''\n$/],
      [
        ['password', '--delete', join(folder, 'none'), 'bob'],
        1,
        /^gomq: cannot change .*none: ENOENT.*\n {6}\S.*\n$/,
      ],
    ];
    for (const [argv, exitCode, line] of cases) {
      const outcome = await run(argv);
      assert.deepEqual([outcome.exitCode, outcome.stdout], [exitCode, ''], argv.join(' '));
      assert.match(outcome.stderr, line);
    }
    const long = await run(['password', path, 'alice'], Readable.from([Buffer.alloc(70_000, 'x')]));
    assert.deepEqual([long.exitCode, long.stderr], [2, 'gomq: the password is longer than 65535 bytes\n']);
    const binary = await run(['password', path, 'alice'], Readable.from([Buffer.from([0xff, 0xfe, 0x0a])]));
    assert.deepEqual([binary.exitCode, binary.stderr], [2, 'gomq: the password is not valid UTF-8\n']);
    const name = await run(['password', path, '#alice'], Readable.from(['x\n']));
    assert.deepEqual([name.exitCode, name.stdout], [2, '']);
    assert.match(name.stderr, /^gomq: the user name '#alice' cannot stand in a password file\n$/);
    const away = await run(['password', join(folder, 'no', 'file'), 'alice'], Readable.from(['x\n']));
    assert.equal(away.exitCode, 1);
    assert.match(away.stderr, /^gomq: cannot write .*ENOENT/);
  });

  it('tells of a line that gomq will refuse, after mending its own', async () => {
    const path = newPath('alice:plain\nbob:plain\n');
    const { exitCode, stderr } = await run(['password', path, 'alice'], Readable.from(['x\n']));
    assert.equal(exitCode, 2);
    assert.match(stderr, /passwords-\d+:2: the hash is not an argon2 string/);
    assert.equal((await run(['password', path, 'bob'], Readable.from(['y\n']))).exitCode, 0);
    assert.ok((await accepts(path, 'alice', 'x')) && (await accepts(path, 'bob', 'y')));
  });

  /** Runs a command at a terminal of its own. */
  const terminalCommand = 'script';
  const hasScript = spawnSync(terminalCommand, ['--version']).status === 0;
  it('shows nothing at a real terminal', {
    skip: hasScript ? false : 'script(1) is not installed',
  }, async () => {
    const path = newPath();
    const command = `${process.execPath} --import tsx src/main.ts password ${path} alice`;
    // A terminal echoes what is typed before the program turns that off; so the keys come once it has asked.
    const child = spawn(terminalCommand, ['-qec', command, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    let shown = '';
    child.stdout.on('data', (chunk: Buffer) => {
      const before = shown;
      shown += chunk;
      for (const prompt of ['password for alice: ', 'once more: ']) {
        if (shown.includes(prompt) && !before.includes(prompt)) child.stdin.write('wonderland\r');
      }
    });
    const code = await new Promise((resolve) => child.once('close', resolve));
    assert.equal(code, 0, shown);
    assert.match(shown, /password for alice: \r?\n?.*once more: [\s\S]*wrote the password of alice/);
    assert.doesNotMatch(shown, /wonderland/);
    assert.ok(await accepts(path, 'alice', 'wonderland'));
  });
});

describe('gomq check-config', () => {
  it('reads the password and the ACL file as gomq start would', async () => {
    const passwords = newPath('alice:plain\n');
    const wrong = await run(['check-config', '--set', `auth.passwordFile=${passwords}`]);
    assert.deepEqual([wrong.exitCode, wrong.stdout], [2, '']);
    assert.match(wrong.stderr, /^gomq: .*:1: the hash is not an argon2 string.*\n$/);
    const acl = newPath('topic read a\ntopik b\n');
    const rules = await run(['check-config', '--set', `auth.aclFile=${acl}`]);
    assert.deepEqual([rules.exitCode, rules.stdout], [2, '']);
    assert.match(rules.stderr, /^gomq: .*:2: 'topik' is not user, topic or pattern\n$/);
  });
});
