import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addProperty, emptyProperties } from '../../cli/properties.js';
import { words } from './harness.js';

function parse(...lines: string[]) {
  const all = emptyProperties();
  for (const line of lines) addProperty(all, words(line));
  return all;
}

test('each property lands in its packet with its type', () => {
  const all = parse(
    'connect session-expiry-interval 60',
    'connect receive-maximum 5',
    'connect maximum-packet-size 1000',
    'connect topic-alias-maximum 0',
    'connect request-problem-information 0',
    'connect request-response-information 1',
    'connect authentication-method m',
    'connect authentication-data d',
    'PUBLISH payload-format-indicator 1',
    'publish message-expiry-interval 4294967295',
    'publish topic-alias 65535',
    'publish response-topic r',
    'publish correlation-data c',
    'publish content-type t',
    'subscribe subscription-identifier 268435455',
    'will will-delay-interval 3',
    'disconnect session-expiry-interval 0',
  );
  assert.deepEqual(all, {
    connect: {
      sessionExpiryInterval: 60,
      receiveMaximum: 5,
      maximumPacketSize: 1000,
      topicAliasMaximum: 0,
      requestProblemInformation: false,
      requestResponseInformation: true,
      authenticationMethod: 'm',
      authenticationData: Buffer.from('d'),
    },
    publish: {
      payloadFormatIndicator: true,
      messageExpiryInterval: 4294967295,
      topicAlias: 65535,
      responseTopic: 'r',
      correlationData: Buffer.from('c'),
      contentType: 't',
    },
    subscribe: { subscriptionIdentifier: 268435455 },
    unsubscribe: {},
    disconnect: { sessionExpiryInterval: 0 },
    will: { willDelayInterval: 3 },
  });
});

test('user properties may be repeated, also with one name', () => {
  const { publish, unsubscribe } = parse(
    'publish user-property a 1',
    'publish user-property b 2',
    'publish user-property a 3',
    'unsubscribe user-property __proto__ x',
  );
  assert.deepEqual({ ...publish.userProperties }, { a: ['1', '3'], b: '2' });
  assert.deepEqual(Object.entries(unsubscribe.userProperties ?? {}), [['__proto__', 'x']]);
});

test('mistakes are named', () => {
  const refused: [string, RegExp][] = [
    ['pingreq user-property a b', /"pingreq" is not one of connect, publish/],
    ['publish foo bar', /unknown property "foo"; publish takes .*content-type/],
    ['publish constructor bar', /unknown property/],
    ['publish receive-maximum 3', /does not belong in publish/],
    ['publish topic-alias 0', /a number from 1 to 65535, not "0"/],
    ['publish topic-alias 65536', /a number from 1 to 65535/],
    ['publish message-expiry-interval -1', /a number from 0 to 4294967295/],
    ['publish payload-format-indicator 2', /is 0 or 1/],
    ['publish user-property a', /needs a name and a value/],
    ['publish content-type', /needs a value/],
  ];
  for (const [line, message] of refused) assert.throws(() => parse(line), message, line);
  assert.throws(() => parse('publish content-type a', 'publish content-type b'), /given twice/);
});
