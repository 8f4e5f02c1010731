import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Address, formatAddress, parseAddress } from '../../cli/address.js';

const at = (more: Partial<Address>): Address => ({
  scheme: 'mqtt',
  host: '127.0.0.1',
  port: 9000,
  path: '/mqtt',
  ...more,
});

test('addresses without a scheme', () => {
  assert.deepEqual(parseAddress('127.0.0.1:9000'), at({}));
  assert.deepEqual(parseAddress('localhost'), at({ host: 'localhost' }));
  assert.deepEqual(parseAddress('[::1]:1883'), at({ host: '::1', port: 1883 }));
  assert.deepEqual(parseAddress('[fe80::1%eth0]'), at({ host: 'fe80::1%eth0' }));
  assert.deepEqual(parseAddress('broker_1.example:1'), at({ host: 'broker_1.example', port: 1 }));
});

test('URLs, with the registered port of the scheme where none is given', () => {
  assert.deepEqual(parseAddress('mqtt://broker'), at({ host: 'broker', port: 1883 }));
  assert.deepEqual(parseAddress('MQTTS://broker/'), at({ scheme: 'mqtts', host: 'broker', port: 8883 }));
  assert.deepEqual(parseAddress('ws://broker'), at({ scheme: 'ws', host: 'broker', port: 80 }));
  assert.deepEqual(
    parseAddress('wss://broker/a/b'),
    at({ scheme: 'wss', host: 'broker', port: 443, path: '/a/b' }),
  );
  assert.deepEqual(parseAddress('ws://[::1]:9002'), at({ scheme: 'ws', host: '::1', port: 9002 }));
});

test('user names and passwords in a URL may be percent-encoded', () => {
  assert.deepEqual(
    parseAddress('mqtt://u%40x:p%3Aw@broker:1'),
    at({ host: 'broker', port: 1, username: 'u@x', password: 'p:w' }),
  );
  assert.deepEqual(parseAddress('mqtt://user@broker'), at({ host: 'broker', port: 1883, username: 'user' }));
  assert.equal(parseAddress('mqtt://u:@broker').password, '');
});

test('the path of --url is the topic, wildcards and all', () => {
  assert.equal(parseAddress('mqtt://broker/a/+/#', true).topic, 'a/+/#');
  assert.equal(parseAddress('mqtt://broker/a%20b', true).topic, 'a b');
  assert.equal(parseAddress('mqtt://broker//a?b', true).topic, '/a?b');
  assert.equal(parseAddress('mqtt://broker/', true).topic, undefined);
  const websocket = parseAddress('ws://broker/a', true);
  assert.deepEqual([websocket.topic, websocket.path], ['a', '/mqtt']);
});

test('what is no address is refused with a reason, without the password', () => {
  const refused: [string, RegExp][] = [
    ['', /is not an address/],
    [':9000', /is not an address/],
    ['a:b:c', /no valid port/],
    ['::1', /is not an address/],
    ['127.0.0.1:', /no valid port/],
    ['127.0.0.1:0', /no valid port/],
    ['127.0.0.1:65536', /no valid port/],
    ['127.0.0.1:9000x', /no valid port/],
    ['http://broker', /unknown scheme "http:\/\/"/],
    ['mqtt://u:secret@broker:x', /mqtt:\/\/u:\*\*\*@broker:x/],
    ['mqtt://broker/topic', /a topic goes into --topic/],
    ['mqtt://%zz@broker', /write % as %25/],
  ];
  for (const [text, message] of refused) assert.throws(() => parseAddress(text), message, text);
  assert.throws(() => parseAddress('broker:9000', true), /is not a URL/);
});

test('addresses in messages', () => {
  assert.equal(formatAddress(at({})), '127.0.0.1:9000');
  assert.equal(formatAddress(at({ host: '::1' })), '[::1]:9000');
  assert.equal(formatAddress(at({ scheme: 'wss' })), 'wss://127.0.0.1:9000/mqtt');
});
