import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Address } from '../../cli/address.js';
import { Brokers, parseBrokers } from '../../cli/brokers.js';
import { Failure } from '../../cli/failure.js';

const hosts = (text: string) => parseBrokers(text).addresses.map(({ host, port }) => `${host}:${port}`);
const unchanged = (address: Address) => address;

test('a list of brokers, each written like one', () => {
  assert.deepEqual(hosts('a'), ['a:9000']);
  assert.deepEqual(hosts('a:1,b:2,c'), ['a:1', 'b:2', 'c:9000']);
  assert.deepEqual(hosts('a:1, b:2'), ['a:1', 'b:2']);
  assert.deepEqual(hosts('[::1]:1,[::1]:2'), ['::1:1', '::1:2']);
  assert.deepEqual(hosts('mqtts://a,ws://b/mqtt,c:3'), ['a:8883', 'b:80', 'c:3']);
  for (const text of ['', 'a,', ',a', 'a,,b', 'a b', 'ftp://a', 'a,ftp://b']) {
    assert.throws(() => parseBrokers(text), Failure, text);
  }
});

test('a comma in a password is part of it', () => {
  const { addresses } = parseBrokers('mqtt://u:p,w,x@a:1,mqtt://v@b:2,c:3');
  assert.deepEqual(
    addresses.map(({ host, username, password }) => [host, username, password]),
    [
      ['a', 'u', 'p,w,x'],
      ['b', 'v', undefined],
      ['c', undefined, undefined],
    ],
  );
});

test('where brokers are to be found: by the HTTP address of any', () => {
  const http = (text: string) => parseBrokers(text).discovery;
  assert.deepEqual(http('http://a:8000'), { kind: 'http', urls: ['http://a:8000'], cluster: '' });
  assert.deepEqual(http('http://a')?.urls, ['http://a:8000']);
  assert.deepEqual(http('http://a/,http://b:1')?.urls, ['http://a:8000', 'http://b:1']);
  assert.deepEqual(http('https://a,b:2')?.urls, ['https://a:8000', 'https://b:2']);
  assert.deepEqual(http('http://[::1]:8000')?.urls, ['http://[::1]:8000']);
  for (const text of ['http://', 'http://a/path', 'http://u:p@a', 'http://a,mqtt://b']) {
    assert.throws(() => http(text), Failure, text);
  }
});

test('where brokers are to be found: in etcd', () => {
  const etcd = (text: string) => parseBrokers(text).discovery;
  assert.deepEqual(etcd('etcd://e'), { kind: 'etcd', urls: ['http://e:2379'], cluster: 'gomq' });
  assert.deepEqual(etcd('etcd://e:1,f/shop'), {
    kind: 'etcd',
    urls: ['http://e:1', 'http://f:2379'],
    cluster: 'shop',
  });
  assert.deepEqual(etcd('etcd://root:p%40w@e/shop'), {
    kind: 'etcd',
    urls: ['http://e:2379'],
    cluster: 'shop',
    username: 'root',
    password: 'p@w',
  });
  for (const text of ['etcd://', 'etcd://e/a/b', 'etcd://:1', 'etcd://e:99999']) {
    assert.throws(() => etcd(text), Failure, text);
  }
});

test('turns: round and round, a reference in between, three in a row at most', () => {
  const brokers = new Brokers(parseBrokers('a:1,b:2,c:3'), unchanged);
  const turn = () => `${brokers.current.host}:${brokers.current.port}`;
  const next = () => {
    brokers.advance();
    return turn();
  };
  assert.deepEqual([turn(), next(), next(), next()], ['a:1', 'b:2', 'c:3', 'a:1']);
  assert.equal(brokers.refer('c:3 d:4'), true);
  assert.deepEqual([next(), next()], ['c:3', 'b:2']);
  assert.equal(brokers.refer('stranger:1'), true);
  assert.equal(next(), 'stranger:1');
  assert.equal(brokers.refer('a:1'), true);
  assert.equal(next(), 'a:1');
  assert.equal(brokers.refer('c:3'), false);
  assert.equal(next(), 'c:3');
  brokers.settled();
  for (const nothing of [undefined, '', ' ', ':1', 'a:b']) assert.equal(brokers.refer(nothing), false);
});

test('a reference does not lead from TLS to plain, unless it is to one of the list', () => {
  const brokers = new Brokers(parseBrokers('mqtts://a:1,mqtt://b:2'), unchanged);
  assert.equal(brokers.refer('mqtt://stranger:1'), false);
  assert.equal(brokers.refer('mqtt://b:2'), true);
  const credentials = new Brokers(parseBrokers('mqtts://u:p@a:1'), unchanged);
  assert.equal(credentials.refer('b:2'), true);
  credentials.advance();
  assert.deepEqual(credentials.current, {
    scheme: 'mqtts',
    host: 'b',
    port: 2,
    path: '/mqtt',
    username: 'u',
    password: 'p',
  });
});
