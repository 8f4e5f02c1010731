// Properties in every packet a client sends: which belong, which may repeat, which values they may have (table 2-4 and the sections it refers
// to). Table-driven: the tables are written from the standard, not from the broker.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, prefixed, type RawClient, uint16 } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import {
  block,
  CLEAN_START,
  connectFrame,
  expectRefused,
  P,
  property,
  publishFrame,
  subscribeFrame,
  unsubscribeFrame,
  useBroker,
  WILL,
} from './support.js';

const broker = useBroker();

type Name = keyof typeof P;

/** A well-formed example of every property. */
const EXAMPLE: Record<Name, Buffer> = {
  payloadFormat: property(P.payloadFormat, 0),
  messageExpiry: property(P.messageExpiry, 60),
  contentType: property(P.contentType, 'text'),
  responseTopic: property(P.responseTopic, 'an/answer'),
  correlationData: property(P.correlationData, Buffer.from([1, 2])),
  subscriptionId: property(P.subscriptionId, 5),
  sessionExpiry: property(P.sessionExpiry, 0),
  assignedClientId: property(P.assignedClientId, 'name'),
  serverKeepAlive: property(P.serverKeepAlive, 60),
  authMethod: property(P.authMethod, 'method'),
  authData: property(P.authData, Buffer.from([1])),
  requestProblemInformation: property(P.requestProblemInformation, 1),
  willDelay: property(P.willDelay, 0),
  requestResponseInformation: property(P.requestResponseInformation, 0),
  responseInformation: property(P.responseInformation, 'info'),
  serverReference: property(P.serverReference, 'other:1883'),
  reasonString: property(P.reasonString, 'because'),
  receiveMaximum: property(P.receiveMaximum, 10),
  topicAliasMaximum: property(P.topicAliasMaximum, 10),
  topicAlias: property(P.topicAlias, 1),
  maximumQos: property(P.maximumQos, 1),
  retainAvailable: property(P.retainAvailable, 1),
  userProperty: property(P.userProperty, ['name', 'value']),
  maximumPacketSize: property(P.maximumPacketSize, 1000),
  wildcardAvailable: property(P.wildcardAvailable, 1),
  subscriptionIdAvailable: property(P.subscriptionIdAvailable, 1),
  sharedAvailable: property(P.sharedAvailable, 1),
};
const NAMES = Object.keys(EXAMPLE) as Name[];

interface Holder {
  /** The packet with these properties. */
  build(...properties: Buffer[]): Buffer;
  /** The properties that a client may put there. */
  allowed: Name[];
  /** The answer to a packet in order; none is a packet that is taken in silence. */
  accepted(client: RawClient): Promise<unknown>;
  /** True where the packet opens the connection, and is refused by CONNACK. */
  opens?: boolean;
}

const MESSAGE: Name[] = [
  'payloadFormat',
  'messageExpiry',
  'contentType',
  'responseTopic',
  'correlationData',
  'userProperty',
];

async function connected(client: RawClient): Promise<void> {
  assert.equal((await client.expect('connack')).reasonCode, 0);
}

function ack(firstByte: number): Pick<Holder, 'build' | 'allowed'> {
  return {
    build: (...properties) => frame(firstByte, uint16(1), [0x00], block(...properties)),
    allowed: ['reasonString', 'userProperty'],
  };
}

const HOLDERS: Record<string, Holder> = {
  CONNECT: {
    build: (...properties) => connectFrame({}, ...properties),
    // An authentication method belongs, but is refused for what it is: auth.test.ts.
    allowed: [
      'sessionExpiry',
      'receiveMaximum',
      'maximumPacketSize',
      'topicAliasMaximum',
      'requestResponseInformation',
      'requestProblemInformation',
      'userProperty',
    ],
    accepted: connected,
    opens: true,
  },
  'the will': {
    build: (...properties) =>
      connectFrame({
        flags: CLEAN_START | WILL,
        payload: [block(...properties), prefixed('a/will'), prefixed('gone')],
      }),
    allowed: [...MESSAGE, 'willDelay'],
    accepted: connected,
    opens: true,
  },
  PUBLISH: {
    build: (...properties) => publishFrame(uniqueTopic(), { properties, payload: 'x' }),
    allowed: [...MESSAGE, 'topicAlias'],
    accepted: (client) => client.expectQuiet(),
  },
  PUBACK: { ...ack(0x40), accepted: (client) => client.expectQuiet() },
  PUBREC: { ...ack(0x50), accepted: (client) => client.expect('pubrel') },
  PUBREL: { ...ack(0x62), accepted: (client) => client.expect('pubcomp') },
  PUBCOMP: { ...ack(0x70), accepted: (client) => client.expectQuiet() },
  SUBSCRIBE: {
    build: (...properties) => subscribeFrame(1, [[uniqueTopic(), 0]], properties),
    allowed: ['subscriptionId', 'userProperty'],
    accepted: (client) => client.expect('suback'),
  },
  UNSUBSCRIBE: {
    build: (...properties) => unsubscribeFrame(1, [uniqueTopic()], properties),
    allowed: ['userProperty'],
    accepted: (client) => client.expect('unsuback'),
  },
  DISCONNECT: {
    build: (...properties) => frame(0xe0, [0x00], block(...properties)),
    allowed: ['sessionExpiry', 'reasonString', 'userProperty'],
    accepted: (client) => client.expectClosed(),
  },
};

/** Sends one packet on a connection of its own and expects it to be refused with one of the codes. */
async function expectRefusal(holder: Holder, bytes: Buffer, ...codes: number[]): Promise<void> {
  if (holder.opens) {
    const client = await broker.dial();
    client.send(bytes);
    await expectRefused(client, ...codes);
  } else {
    const client = await broker.open();
    client.send(bytes);
    await client.expectDisconnect(...codes);
  }
}

/** Names what was wrong with which property, as one packet after another is tried in a test. */
async function trying(what: string, run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    throw new Error(`${what}: ${(error as Error).message}`, { cause: error });
  }
}

for (const [name, holder] of Object.entries(HOLDERS)) {
  describe(`properties of ${name}`, () => {
    test('each that belongs is accepted, and all together', async () => {
      for (const properties of [...holder.allowed.map((one) => [one]), holder.allowed, []]) {
        await trying(properties.join(), async () => {
          const client = holder.opens ? await broker.dial() : await broker.open();
          client.send(holder.build(...properties.map((one) => EXAMPLE[one])));
          await holder.accepted(client);
          client.destroy();
        });
      }
    });

    test('[MQTT-4.13.1-1] each that does not belong is malformed', async () => {
      for (const one of NAMES) {
        if (holder.allowed.includes(one)) continue;
        if (name === 'CONNECT' && (one === 'authMethod' || one === 'authData')) continue;
        // What the standard forbids to clients only, by a rule and not by the table, is a protocol error.
        const isServers =
          (name === 'PUBLISH' && one === 'subscriptionId') ||
          (name === 'DISCONNECT' && one === 'serverReference');
        const codes = isServers ? [0x82, 0x81] : [0x81];
        await trying(one, () => expectRefusal(holder, holder.build(EXAMPLE[one]), ...codes));
      }
    });

    test('[MQTT-4.13.1-1] an identifier that no property has is malformed', async () => {
      for (const id of [0x00, 0x04, 0x0a, 0x0c, 0x14, 0x1b, 0x20, 0x2b, 0x7f]) {
        await trying(`0x${id.toString(16)}`, () =>
          expectRefusal(holder, holder.build(Buffer.from([id, 0x00])), 0x81),
        );
      }
    });

    test('[MQTT-4.13.1-1] each twice is a protocol error, user properties excepted', async () => {
      for (const one of holder.allowed) {
        if (one === 'userProperty') continue;
        const twice = holder.build(EXAMPLE[one], EXAMPLE.userProperty, EXAMPLE[one]);
        await trying(one, () => expectRefusal(holder, twice, 0x82));
      }
    });

    test('[MQTT-4.13.1-1] each that its block cuts off is malformed', async () => {
      for (const one of holder.allowed) {
        const whole = EXAMPLE[one];
        for (let length = 1; length < whole.length; length++) {
          await trying(`${one} cut to ${length} bytes`, () =>
            expectRefusal(holder, holder.build(whole.subarray(0, length)), 0x81),
          );
        }
      }
    });
  });
}

describe('values of properties', () => {
  const wrong: [string, string, Buffer, number[]][] = [
    ['CONNECT', 'receive maximum 0', property(P.receiveMaximum, 0), [0x82]],
    ['CONNECT', 'maximum packet size 0', property(P.maximumPacketSize, 0), [0x82]],
    ['CONNECT', 'request problem information 2', property(P.requestProblemInformation, 2), [0x82]],
    ['CONNECT', 'request response information 2', property(P.requestResponseInformation, 2), [0x82]],
    ['SUBSCRIBE', 'subscription identifier 0', property(P.subscriptionId, 0), [0x82]],
    ['PUBLISH', 'topic alias 0', property(P.topicAlias, 0), [0x94]],
    ['PUBLISH', 'payload format indicator 2', property(P.payloadFormat, 2), [0x81, 0x82]],
    ['the will', 'payload format indicator 2', property(P.payloadFormat, 2), [0x81, 0x82]],
  ];
  for (const [name, what, bytes, codes] of wrong) {
    test(`[MQTT-4.13.1-1] ${what} in ${name} is refused`, async () => {
      const holder = HOLDERS[name]!;
      await expectRefusal(holder, holder.build(bytes), ...codes);
    });
  }

  test('the largest values are accepted', async () => {
    const client = await broker.dial();
    client.send(
      connectFrame(
        {},
        property(P.receiveMaximum, 65_535),
        property(P.maximumPacketSize, 0xffff_ffff),
        property(P.topicAliasMaximum, 65_535),
        property(P.sessionExpiry, 0xffff_ffff),
      ),
    );
    await connected(client);
    const topic = uniqueTopic();
    await client.subscribe(topic, 1);
    await client.publish(topic, 'x', { qos: 1 });
    await client.expectMessage(topic, 'x');
  });

  test('a thousand user properties are accepted', async () => {
    const client = await broker.open();
    const users = Array.from({ length: 1000 }, (_, index) => property(P.userProperty, ['name', `${index}`]));
    client.send(publishFrame(uniqueTopic(), { qos: 1, properties: users }));
    await client.expect('puback');
  });
});
