import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { describe, it } from 'node:test';
import { defaultConfig } from '../../src/core/config.js';
import { Guard } from '../../src/http/guard.js';

type Anonymous = ReturnType<typeof defaultConfig>['auth']['anonymous'];

function guardFor(anonymous: Anonymous, token = ''): Guard {
  const { http, auth } = defaultConfig();
  return new Guard({ http: { ...http, token }, auth: { ...auth, anonymous } });
}

describe('a caller without a token', () => {
  const callers: [Anonymous, string, 'may' | 'may not'][] = [
    ['loopback', '127.0.0.1', 'may'],
    ['loopback', '127.8.8.8', 'may'],
    ['loopback', '::1', 'may'],
    ['loopback', '::ffff:127.0.0.1', 'may'],
    ['loopback', '192.0.2.1', 'may not'],
    ['loopback', '::ffff:192.0.2.1', 'may not'],
    ['loopback', '2001:db8::1', 'may not'],
    ['loopback', '', 'may not'],
    ['never', '127.0.0.1', 'may not'],
    ['always', '192.0.2.1', 'may'],
  ];
  for (const [anonymous, address, may] of callers) {
    it(`${may} publish from '${address}' where auth.anonymous is ${anonymous}`, () => {
      const check = () => guardFor(anonymous).checkCaller({}, address);
      if (may === 'may') assert.doesNotThrow(check);
      else assert.throws(check, { code: 'REFUSED', hint: /http\.token/ });
    });
  }

  for (const host of ['localhost:8000', '127.0.0.1:8000', '[::1]:8000', `${hostname()}:8000`]) {
    it(`may be on this machine and call it ${host}`, () => {
      assert.doesNotThrow(() => guardFor('loopback').checkCaller({ host }, '127.0.0.1'));
    });
  }

  it('is no page of a name that points at this machine by now', () => {
    const host = 'rebound.example:8000';
    const headers = { host, origin: `http://${host}`, 'sec-fetch-site': 'same-origin' };
    assert.throws(() => guardFor('loopback').checkCaller(headers, '127.0.0.1'), { code: 'ORIGIN_FOREIGN' });
  });

  it('is refused as a page of another site before anything else', () => {
    const check = () => guardFor('always').checkCaller({ origin: 'https://evil.example' }, '127.0.0.1');
    assert.throws(check, { code: 'ORIGIN_FOREIGN' });
  });
});

describe('a caller with the token', () => {
  it('may publish from anywhere, whatever auth.anonymous is', () => {
    const headers = { authorization: 'Bearer correct-horse' };
    assert.doesNotThrow(() => guardFor('never', 'correct-horse').checkCaller(headers, '192.0.2.1'));
  });
});

describe('the operator without a token', () => {
  const callers: [Anonymous, string, string, 'may' | 'may not'][] = [
    ['loopback', '127.0.0.1', '127.0.0.1:8000', 'may'],
    ['loopback', '::1', '[::1]:8000', 'may'],
    ['loopback', '::ffff:127.0.0.1', 'localhost:8000', 'may'],
    ['always', '127.0.0.1', '127.0.0.1:8000', 'may'],
    ['always', '192.0.2.1', '192.0.2.2:8000', 'may not'],
    ['always', '127.0.0.1', 'rebound.example:8000', 'may not'],
    ['loopback', '192.0.2.1', '192.0.2.2:8000', 'may not'],
    ['never', '127.0.0.1', '127.0.0.1:8000', 'may not'],
  ];
  for (const [anonymous, address, host, may] of callers) {
    it(`${may} act from '${address}' at ${host} where auth.anonymous is ${anonymous}`, () => {
      const check = () => guardFor(anonymous).checkOperator({ host }, address);
      if (may === 'may') assert.doesNotThrow(check);
      else assert.throws(check, { code: host.startsWith('rebound') ? 'ORIGIN_FOREIGN' : 'REFUSED' });
    });
  }

  it('is not a page of another site', () => {
    const headers = { host: '127.0.0.1:8000', origin: 'https://evil.example' };
    assert.throws(() => guardFor('always').checkOperator(headers, '127.0.0.1'), { code: 'ORIGIN_FOREIGN' });
  });
});

describe('the operator with a token', () => {
  it('needs it, wherever it is', () => {
    const guard = guardFor('always', 'correct-horse');
    const headers = { host: 'gomq.example', authorization: 'Bearer correct-horse' };
    assert.doesNotThrow(() => guard.checkOperator(headers, '192.0.2.1'));
    assert.throws(() => guard.checkOperator({ host: '127.0.0.1:8000' }, '127.0.0.1'), {
      code: 'TOKEN_WRONG',
    });
  });
});
