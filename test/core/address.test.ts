import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { formatAddress, parseAddress } from '../../src/core/address.js';

describe('addresses', () => {
  const right: [string, string, number][] = [
    ['127.0.0.1:9000', '127.0.0.1', 9000],
    ['[::1]:9000', '::1', 9000],
    ['[fe80::1%eth0]:1', 'fe80::1%eth0', 1],
    ['localhost:0', 'localhost', 0],
    ['broker_1.example-a.org:65535', 'broker_1.example-a.org', 65535],
    [':9000', '', 9000],
  ];
  for (const [text, host, port] of right) {
    it(`reads ${text} and writes it back`, () => {
      assert.deepEqual(parseAddress(text), { host, port });
      assert.equal(formatAddress({ host, port }), text);
    });
  }

  const wrong: [string, RegExp][] = [
    ['', /no port/],
    ['localhost', /no port/],
    ['9000', /no port/],
    ['localhost:', /'' is not a port number/],
    ['localhost:http', /'http' is not a port number/],
    ['localhost:-1', /'-1' is not a port number/],
    ['localhost:65536', /above 65535/],
    ['localhost:123456', /not a port number/],
    ['::1:9000', /brackets/],
    ['[::1]', /'1\]' is not a port number/],
    ['[]:9000', /not a host name/],
    ['mqtt://localhost:9000', /brackets/],
    ['a b:9000', /'a b' is not a host name/],
    ['-a:9000', /not a host name/],
    ['a/b:9000', /not a host name/],
  ];
  for (const [text, reason] of wrong) {
    it(`refuses '${text}'`, () => {
      assert.throws(() => parseAddress(text), { code: 'ADDRESS_INVALID', message: reason });
    });
  }
});
