import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  CLIENT_ERRORS,
  type ConsumerOptions,
  createConsumer,
  createProducer,
  type ProducerOptions,
} from '../../client/src/index.js';
import { parseBroker } from '../../client/src/options.js';
import { withCode } from './support.js';

const plain = { tls: false, path: undefined };

test('brokers are read from host:port and from URLs', () => {
  const cases: [string, string, string, number, string?][] = [
    ['127.0.0.1:9000', 'mqtt', '127.0.0.1', 9000],
    ['localhost', 'mqtt', 'localhost', 1883],
    ['[::1]:9000', 'mqtt', '::1', 9000],
    ['mqtt://example.org', 'mqtt', 'example.org', 1883],
    ['mqtts://example.org', 'mqtts', 'example.org', 8883],
    ['ws://example.org/mqtt?a=b', 'ws', 'example.org', 80, '/mqtt?a=b'],
    ['wss://example.org:1234', 'wss', 'example.org', 1234, '/'],
  ];
  for (const [text, protocol, host, port, path] of cases) {
    const broker = parseBroker(text, plain);
    assert.deepEqual(
      [broker.protocol, broker.host, broker.port, broker.path],
      [protocol, host, port, path],
      text,
    );
  }
  assert.equal(parseBroker('example.org', { tls: true, path: undefined }).port, 8883);
  assert.equal(parseBroker('ws://example.org', { tls: false, path: '/x' }).path, '/x');
});

test('credentials in a URL are used and never shown', () => {
  const broker = parseBroker('mqtt://me:se%40cret@example.org', plain);
  assert.deepEqual([broker.username, broker.password], ['me', 'se@cret']);
  assert.equal(broker.label, 'mqtt://example.org:1883');
  assert.throws(
    () => parseBroker('mqtt://me:secret@example.org:99999', plain),
    (error) => withCode('OPTIONS_INVALID')(error) && !(error as Error).message.includes('secret'),
  );
});

test('what is not a broker is told', () => {
  for (const text of [
    '',
    ' ',
    7,
    null,
    'http://a',
    'host:0',
    'host:99999',
    'mqtt://',
    'mqtt://host/path',
    'a b:1',
  ]) {
    assert.throws(() => parseBroker(text, plain), withCode('OPTIONS_INVALID'), String(text));
  }
});

test('options are checked when a client is made, unknown ones included', () => {
  const brokers = ['127.0.0.1:9000'];
  const wrong: object[] = [
    {},
    { brokers: [] },
    { brokers: '127.0.0.1:9000' },
    { brokers, broker: 'x' },
    { brokers, protocolVersion: 6 },
    { brokers, clientId: '' },
    { brokers, keepAliveSeconds: 0 },
    { brokers, keepAliveSeconds: 1.5 },
    { brokers, sessionExpirySeconds: -1 },
    { brokers, tls: { cacert: 'x' } },
    { brokers, webSocket: { url: 'x' } },
    { brokers, will: { topic: 'a', payload: 'x', qos: 3 } },
    { brokers, userProperties: { a: 1 } },
  ];
  for (const options of wrong) {
    assert.throws(
      () => createProducer(options as ProducerOptions),
      withCode('OPTIONS_INVALID'),
      JSON.stringify(options),
    );
    assert.throws(
      () => createConsumer(options as ConsumerOptions),
      withCode('OPTIONS_INVALID'),
      JSON.stringify(options),
    );
  }
  assert.throws(() => createProducer({ brokers, topic: 'a/#' }), withCode('TOPIC_INVALID'));
  assert.throws(() => createProducer({ brokers, qos: 3 as 2 }), withCode('OPTIONS_INVALID'));
  assert.throws(() => createProducer({ brokers, maxInflight: 0 }), withCode('OPTIONS_INVALID'));
  assert.throws(() => createConsumer({ brokers, receiveMaximum: 65_536 }), withCode('OPTIONS_INVALID'));
  assert.throws(() => createConsumer(undefined as unknown as ConsumerOptions), withCode('OPTIONS_INVALID'));
  const will = { topic: 'a', payload: 'x', delaySeconds: 1 };
  assert.throws(() => createProducer({ brokers, protocolVersion: 4, will }), withCode('UNSUPPORTED'));
  assert.throws(() => createProducer({ brokers, will: { ...will, topic: '+' } }), withCode('TOPIC_INVALID'));
});

test('a client id is made where none is given, short enough for MQTT 3.1', () => {
  const { clientId } = createProducer({ brokers: ['a'] });
  assert.match(clientId, /^gomq-[0-9a-f]{18}$/);
  assert.equal(createConsumer({ brokers: ['a'], clientId: 'mine' }).clientId, 'mine');
});

test('the README lists the error codes as the table has them', () => {
  const readme = readFileSync(new URL('../../client/README.md', import.meta.url), 'utf8');
  const rows = readme.split('\n').filter((line) => /^\| `[A-Z_]+` \|/.test(line));
  assert.deepEqual(
    rows,
    Object.entries(CLIENT_ERRORS).map(
      ([code, { meaning, hint }]) => `| \`${code}\` | ${meaning} | ${hint} |`,
    ),
  );
});
