import assert from 'node:assert/strict';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { defaultConfig } from '../../src/core/config.js';
import { silentLogger } from '../../src/core/logger.js';
import {
  type AuthenticationResult,
  type Authenticator,
  createAuthenticator,
} from '../../src/security/authenticator.js';
import { hashPassword } from '../../src/security/password-file.js';
import { credentials, temporaryFile, warnings } from './support.js';

const { auth } = defaultConfig();
const BAD = { accepted: false, reasonCode: 0x86 };
const NOT_AUTHORIZED = { accepted: false, reasonCode: 0x87 };
const BUSY = { accepted: false, reasonCode: 0x89 };
const aliceHash = await hashPassword('wonderland');

function withPasswords(
  context: TestContext,
  text = `alice:${aliceHash}\n`,
  anonymous = auth.anonymous,
): Authenticator {
  const passwordFile = temporaryFile(context, 'passwords', text);
  return createAuthenticator({ ...auth, anonymous, passwordFile }, silentLogger);
}

function login(userName: string, password: string | undefined) {
  return credentials({ userName, password: password === undefined ? undefined : Buffer.from(password) });
}

test('anonymous clients are answered at once, without a promise, as the configuration says', () => {
  const near = credentials();
  const nearSix = credentials({ remoteAddress: '::1' });
  const far = credentials({ remoteAddress: '203.0.113.7' });
  const ask = (anonymous: typeof auth.anonymous, who: typeof near) =>
    createAuthenticator({ ...auth, anonymous }, silentLogger).authenticate(who) as AuthenticationResult;
  assert.deepEqual(ask('loopback', near), { accepted: true, userName: undefined });
  assert.deepEqual(ask('loopback', nearSix), { accepted: true, userName: undefined });
  assert.deepEqual(ask('loopback', far), NOT_AUTHORIZED);
  assert.deepEqual(ask('always', far), { accepted: true, userName: undefined });
  assert.deepEqual(ask('never', near), NOT_AUTHORIZED);
});

test('a user name that nobody can verify is no user name', async () => {
  const authenticator = createAuthenticator({ ...auth, anonymous: 'always' }, silentLogger);
  assert.deepEqual(await authenticator.authenticate(login('admin', 'x')), {
    accepted: true,
    userName: undefined,
  });
  const closed = createAuthenticator({ ...auth, anonymous: 'never' }, silentLogger);
  assert.deepEqual(await closed.authenticate(login('admin', 'x')), NOT_AUTHORIZED);
});

test('a password without a user name is refused', async (context) => {
  const lonely = credentials({ password: Buffer.from('token') });
  assert.deepEqual(await createAuthenticator(auth, silentLogger).authenticate(lonely), BAD);
  assert.deepEqual(await withPasswords(context).authenticate(lonely), BAD);
});

test('the right password lets in, everything else is 0x86, on this machine too', async (context) => {
  const authenticator = withPasswords(context);
  assert.deepEqual(await authenticator.authenticate(login('alice', 'wonderland')), {
    accepted: true,
    userName: 'alice',
  });
  assert.deepEqual(await authenticator.authenticate(login('alice', 'Wonderland')), BAD);
  assert.deepEqual(await authenticator.authenticate(login('alice', '')), BAD);
  assert.deepEqual(await authenticator.authenticate(login('alice', undefined)), BAD);
  assert.deepEqual(await authenticator.authenticate(login('bob', 'wonderland')), BAD);
  assert.deepEqual(await authenticator.authenticate(login('', '')), BAD);
  assert.deepEqual(await authenticator.authenticate(login('__proto__', 'x')), BAD);
});

test('a user whose password was right is answered at once the next time, and only with that password', async (context) => {
  const authenticator = withPasswords(context);
  await authenticator.authenticate(login('alice', 'wonderland'));
  const again = authenticator.authenticate(login('alice', 'wonderland'));
  assert.ok(!(again instanceof Promise));
  assert.deepEqual(again, { accepted: true, userName: 'alice' });
  assert.deepEqual(await authenticator.authenticate(login('alice', 'wrong')), BAD);
  assert.deepEqual(await authenticator.authenticate(login('bob', 'wonderland')), BAD);
});

test('blank lines and comments in the password file authenticate nobody (CVE-2018-12551)', async (context) => {
  const authenticator = withPasswords(context, `\n   \n# comment:${aliceHash}\nalice:${aliceHash}\n\n`);
  for (const name of ['', '   ', '# comment', '#', '\n']) {
    for (const password of ['', undefined, 'wonderland']) {
      assert.deepEqual(await authenticator.authenticate(login(name, password)), BAD, JSON.stringify(name));
    }
  }
});

test('a password file without users authenticates nobody', async (context) => {
  const authenticator = withPasswords(context, '\n');
  assert.deepEqual(await authenticator.authenticate(login('alice', 'wonderland')), BAD);
});

test('a line that is no user with a hash is named by file and line, without what it holds', (context) => {
  const cases: [string, RegExp][] = [
    [`alice:${aliceHash}\nbob\n`, /passwords:2: /],
    [`:${aliceHash}\n`, /passwords:1: /],
    ['bob:sekret\n', /passwords:1: the hash is not an argon2 string/],
    ['bob:\n', /passwords:1: /],
    [`bob:$7$101$c2FsdA==$aGFzaA==\n`, /passwords:1: the hash is not an argon2 string/],
    [`alice:${aliceHash}\n# comment\nalice:${aliceHash}\n`, /passwords:3: this user has a line already/],
  ];
  for (const [text, expected] of cases) {
    assert.throws(
      () => withPasswords(context, text),
      (error: Error & { code: string }) => {
        assert.equal(error.code, 'CONFIG_INVALID');
        assert.match(error.message, expected);
        assert.doesNotMatch(error.message, /sekret/);
        return true;
      },
    );
  }
});

test('an unknown user takes as long as a known one', async (context) => {
  const authenticator = withPasswords(context);
  const known: number[] = [];
  const unknown: number[] = [];
  const missing: number[] = [];
  const time = async (into: number[], name: string, password: string | undefined) => {
    // Work, not time: a busy machine stretches the one and not the other.
    const start = process.cpuUsage();
    await authenticator.authenticate(login(name, password));
    const { user, system } = process.cpuUsage(start);
    into.push((user + system) / 1000);
  };
  for (let i = 0; i < 15; i++) {
    await time(known, 'alice', 'wrong');
    await time(unknown, 'nobody', 'wrong');
    await time(missing, 'alice', undefined);
  }
  const least = (list: number[]) => Math.min(...list);
  assert.ok(least(unknown) > least(known) / 2, `${least(unknown)} ms against ${least(known)} ms`);
  assert.ok(least(missing) > least(known) / 2, `${least(missing)} ms against ${least(known)} ms`);
});

test('too many passwords at once: those that cannot wait are told that the server is busy', async (context) => {
  // The cheapest hash there is, so that the test takes no time.
  const { hash } = await import('@node-rs/argon2');
  const cheap = await hash('x', { memoryCost: 8, timeCost: 1 });
  const authenticator = withPasswords(context, `cheap:${cheap}\n`);
  const all = await Promise.all(
    Array.from({ length: 400 }, () => authenticator.authenticate(login('cheap', 'wrong'))),
  );
  const busy = all.filter((result) => !result.accepted && result.reasonCode === BUSY.reasonCode);
  assert.equal(busy.length, 400 - 256 - 2);
  assert.deepEqual(await authenticator.authenticate(login('cheap', 'x')), {
    accepted: true,
    userName: 'cheap',
  });
});

test('a verified client certificate names the user; another name needs its password', async (context) => {
  const withCertificate = (userName: string | undefined, password?: string) => ({
    ...credentials({ userName, remoteAddress: '203.0.113.7', clientCertificateName: 'device-7' }),
    password: password === undefined ? undefined : Buffer.from(password),
  });
  const named = { accepted: true, userName: 'device-7' };
  const authenticator = withPasswords(context, undefined, 'never');
  assert.deepEqual(await authenticator.authenticate(withCertificate(undefined)), named);
  assert.deepEqual(await authenticator.authenticate(withCertificate('device-7')), named);
  assert.deepEqual(await authenticator.authenticate(withCertificate('device-7', 'wrong')), BAD);
  assert.deepEqual(await authenticator.authenticate(withCertificate('alice')), BAD);
  assert.deepEqual(await authenticator.authenticate(withCertificate('alice', 'wonderland')), {
    accepted: true,
    userName: 'alice',
  });
  const bare = createAuthenticator({ ...auth, anonymous: 'never' }, silentLogger);
  assert.deepEqual(await bare.authenticate(withCertificate('device-7')), named);
  assert.deepEqual(await bare.authenticate(withCertificate('alice')), NOT_AUTHORIZED);
});

test('reload: a removed user is out, and a wrong or missing file changes nothing', async (context) => {
  const passwordFile = temporaryFile(context, 'passwords', `alice:${aliceHash}\n`);
  const authenticator = createAuthenticator({ ...auth, passwordFile }, silentLogger);
  const alice = () => authenticator.authenticate(login('alice', 'wonderland'));
  assert.equal((await alice()).accepted, true);
  writeFileSync(passwordFile, 'half a li');
  assert.throws(() => authenticator.reload(), { code: 'CONFIG_INVALID' });
  assert.equal((await alice()).accepted, true);
  rmSync(passwordFile);
  assert.throws(() => authenticator.reload(), { code: 'CONFIG_UNREADABLE' });
  assert.equal((await alice()).accepted, true);
  writeFileSync(passwordFile, `bob:${aliceHash}\n`);
  authenticator.reload();
  assert.deepEqual(await alice(), BAD);
  assert.equal((await authenticator.authenticate(login('bob', 'wonderland'))).accepted, true);
});

test('a password that is being verified while its user is removed lets nobody in', async (context) => {
  const passwordFile = temporaryFile(context, 'passwords', `alice:${aliceHash}\n`);
  const authenticator = createAuthenticator({ ...auth, passwordFile }, silentLogger);
  const pending = authenticator.authenticate(login('alice', 'wonderland'));
  writeFileSync(passwordFile, '\n');
  authenticator.reload();
  assert.deepEqual(await pending, BAD);
});

test('a password file that others can read is warned of (CVE-2017-9868)', (context) => {
  const passwordFile = temporaryFile(context, 'passwords', `alice:${aliceHash}\n`);
  const lines: Parameters<typeof warnings>[0] = [];
  createAuthenticator({ ...auth, passwordFile }, warnings(lines));
  assert.equal(lines.length, 0);
  chmodSync(passwordFile, 0o604);
  createAuthenticator({ ...auth, passwordFile }, warnings(lines));
  assert.match(lines[0]!.message, /can be read by every user/);
});
