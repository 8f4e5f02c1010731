// What the broker must survive from a client that has connected: each line of the "Bad input" list about packets, for 3.1.1 and 5.0, with
// the reports of other brokers it comes from. A 3.1.1 client is closed without a word, a 5.0 client is told why.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import {
  closeAllClients,
  frame,
  hex,
  prefixed,
  RawClient,
  uint16,
  uint32,
  uniqueClientId,
  variableByteInteger,
  wrongConnect,
} from '../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../support/suite.js';

const broker = useBroker({
  limits: { topicLevels: 8, packetBytes: 65_536, connectTimeoutSeconds: 2 },
  mqtt: { receiveMaximum: 10, topicAliasMaximum: 4 },
  listeners: { ws: ['127.0.0.1:0'] },
});

let bystander: RawClient;
before(async () => {
  bystander = await broker.open({ clientId: 'bystander' });
});
afterEach(async () => {
  const topic = uniqueTopic('bystander');
  await bystander.subscribe(topic, 1);
  await bystander.publish(topic, 'served', { qos: 1 });
  await bystander.expectMessage(topic, 'served');
});
after(() => closeAllClients());

const MALFORMED = 0x81;
const PROTOCOL_ERROR = 0x82;
const TOPIC_NAME_INVALID = 0x90;
const RECEIVE_MAXIMUM_EXCEEDED = 0x93;
const TOPIC_ALIAS_INVALID = 0x94;
const PACKET_TOO_LARGE = 0x95;

const WEBSOCKET_HANDSHAKE = [
  'GET /mqtt HTTP/1.1',
  'Host: localhost',
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: Z29tcS1nb21xLWdvbXEtZw==',
  'Sec-WebSocket-Protocol: mqtt',
  '',
  '',
].join('\r\n');

type Level = 4 | 5;

/** Sends bytes that end the connection, silently in 3.1.1 and with one of the reasons in 5.0. */
async function assertEnds(level: Level, bytes: Uint8Array, ...reasonCodes: number[]): Promise<void> {
  const client = await broker.open({ version: level });
  client.send(bytes);
  try {
    if (level === 4) await client.expectClosed();
    else await client.expectDisconnect(...reasonCodes);
  } finally {
    client.destroy();
  }
}

/** The bytes of a packet that differ between the versions only in its properties, which are empty. */
function noProperties(level: Level): number[] {
  return level === 5 ? [0x00] : [];
}

for (const level of [4, 5] as const) {
  const none = noProperties(level);
  const id = uint16(1);

  describe(`level ${level}`, () => {
    test('PUBLISH with an empty topic and no alias (CVE-2021-34432)', () =>
      assertEnds(
        level,
        frame(0x30, prefixed(''), none, Buffer.from('x')),
        PROTOCOL_ERROR,
        TOPIC_NAME_INVALID,
        MALFORMED,
      ));

    test('PUBLISH to $SYS (CVE-2018-12543) reaches nobody and is not retained', async () => {
      const topic = `$SYS/${uniqueTopic('forged')}`;
      const watcher = await broker.open();
      await watcher.subscribe(topic, 1);
      const client = await broker.open({ version: level });
      for (const retain of [true, false]) client.sendPublish(topic, 'forged', { retain });
      client.sendPublish('$SYS', 'forged', { retain: true });
      client.sendPublish('$SYS/', '', { retain: true });
      // Whether it ends the connection is the broker's choice.
      await client.barrier().catch(() => client.closed());
      await watcher.expectQuiet();
      const later = await broker.open();
      await later.subscribe(topic, 1);
      await later.expectQuiet();
    });

    test('PUBLISH with more levels than the limit', () =>
      assertEnds(level, frame(0x30, prefixed('1/2/3/4/5/6/7/8/9'), none), TOPIC_NAME_INVALID));

    test('PUBLISH with as many levels as the limit', async () => {
      const client = await broker.open({ version: level });
      await client.publish('1/2/3/4/5/6/7/8', 'x', { qos: 1 });
    });

    test('SUBSCRIBE with more levels than the limit, and 1,000 of them, is refused', async () => {
      for (const filter of ['1/2/3/4/5/6/7/8/9', '+/'.repeat(1000), '/'.repeat(60_000)]) {
        const client = await broker.open({ version: level });
        client.send(frame(0x82, id, none, prefixed(filter), [0]));
        const suback = await client.find('suback').catch(() => undefined);
        if (suback === undefined) await client.closed();
        else assert.ok(suback.granted[0]! >= 0x80, `${suback.granted}`);
      }
    });

    test('SUBSCRIBE without an options byte', () =>
      assertEnds(level, frame(0x82, id, none, prefixed('a')), MALFORMED, PROTOCOL_ERROR));

    test('SUBSCRIBE with remaining length 1024 and nothing behind it waits for the rest, and costs nobody else', async () => {
      const client = await broker.open({ version: level, keepAliveSeconds: 1 });
      client.send(Buffer.concat([Buffer.from([0x82]), variableByteInteger(1024)]));
      await client.closed(4000);
    });

    test('PUBLISH of QoS 1 without a packet id', () =>
      assertEnds(level, frame(0x32, prefixed('a')), MALFORMED, PROTOCOL_ERROR));

    test('a CONNACK from a client (CVE-2021-28166)', () =>
      assertEnds(level, frame(0x20, [0, 0], none), PROTOCOL_ERROR, MALFORMED));

    for (const [name, bytes] of [
      ['PUBLISH of QoS 1', frame(0x32, prefixed('a'), uint16(0), none)],
      ['PUBLISH of QoS 2', frame(0x34, prefixed('a'), uint16(0), none)],
      ['SUBSCRIBE', frame(0x82, uint16(0), none, prefixed('a'), [0])],
      ['UNSUBSCRIBE', frame(0xa2, uint16(0), none, prefixed('a'))],
    ] as const) {
      test(`packet id 0 in ${name}`, () => assertEnds(level, bytes, PROTOCOL_ERROR, MALFORMED));
    }

    for (const [what, content] of [
      ['NUL', [0x61, 0x00]],
      ['a lone surrogate, ed a0 80', [0xed, 0xa0, 0x80]],
      ['an overlong form, c0 af', [0xc0, 0xaf]],
      ['an overlong NUL, c0 80', [0xc0, 0x80]],
      ['a byte that never occurs, ff', [0xff]],
    ] as const) {
      test(`${what} in a topic name, a filter to subscribe and one to unsubscribe`, async () => {
        const invalid = [MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID, 0x8f];
        await assertEnds(level, frame(0x30, prefixed(content), none), ...invalid);
        await assertEnds(level, frame(0x82, id, none, prefixed(content), [0]), ...invalid);
        await assertEnds(level, frame(0xa2, id, none, prefixed(content)), ...invalid);
      });
    }

    for (const topic of ['#', 'a/#', '+', 'a/+/b']) {
      test(`PUBLISH to ${topic}`, () =>
        assertEnds(level, frame(0x30, prefixed(topic), none), TOPIC_NAME_INVALID, MALFORMED, PROTOCOL_ERROR));
    }

    for (const filter of [
      'a#',
      '#/b',
      '$share//x',
      '$share/g/',
      '$share/g',
      '$share/g+/x',
      '$share/g#/x',
      '$share/g/a#',
    ]) {
      test(`the filter ${filter} is refused`, async () => {
        const client = await broker.open({ version: level });
        client.send(frame(0x82, id, none, prefixed(filter), [0]));
        const suback = await client.find('suback').catch(() => undefined);
        if (suback === undefined) await client.closed();
        else assert.ok(suback.granted[0]! >= 0x80, `${filter}: ${suback.granted}`);
      });
    }

    test('PUBACK for a QoS 2 packet id does not complete it', async () => {
      const topic = uniqueTopic();
      const client = await broker.open({ version: level, clientId: uniqueClientId(), clean: false });
      await client.subscribe(topic, 2);
      await bystander.publish(topic, 'two', { qos: 2 });
      const message = await client.expect('publish');
      client.send({ cmd: 'puback', messageId: message.messageId! });
      // Ending the connection is as good; taking it for the end of the flow is not.
      const alive = await client.barrier().then(
        () => true,
        () => false,
      );
      if (!alive) return;
      client.send({ cmd: 'pubrec', messageId: message.messageId! });
      const pubrel = await client.find('pubrel');
      assert.equal(pubrel.reasonCode ?? 0, 0, hex(pubrel.raw));
      client.send({ cmd: 'pubcomp', messageId: message.messageId! });
      await client.barrier();
    });

    test('PUBCOMP before PUBREC does not complete the delivery', async () => {
      const topic = uniqueTopic();
      const client = await broker.open({ version: level });
      await client.subscribe(topic, 2);
      await bystander.publish(topic, 'two', { qos: 2 });
      const message = await client.expect('publish');
      client.send({ cmd: 'pubcomp', messageId: message.messageId! });
      const alive = await client.barrier().then(
        () => true,
        () => false,
      );
      if (!alive) return;
      client.send({ cmd: 'pubrec', messageId: message.messageId! });
      const pubrel = await client.find('pubrel');
      assert.equal(pubrel.reasonCode ?? 0, 0, hex(pubrel.raw));
      client.send({ cmd: 'pubcomp', messageId: message.messageId! });
      await client.barrier();
    });

    test('acks for packet ids that nobody used', async () => {
      const client = await broker.open({ version: level });
      for (const firstByte of [0x40, 0x50, 0x62, 0x70]) client.send(frame(firstByte, uint16(4711)));
      const topic = uniqueTopic();
      await client.subscribe(topic, 1);
      await client.publish(topic, 'still here', { qos: 1 });
      assert.equal((await client.find('publish')).payload.toString(), 'still here');
    });

    test('a remaining length of 256 MiB, then a trickle', async () => {
      const client = await broker.open({ version: level });
      client.send([0x30, 0xff, 0xff, 0xff, 0x7f]);
      await (level === 4 ? client.expectClosed() : client.expectDisconnect(PACKET_TOO_LARGE));
    });

    test('a remaining length of five bytes', () =>
      assertEnds(level, Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]), MALFORMED));

    // Masked binary frames, the mask is zero: one of 2^40 bytes, and one of 1,000 that stays unfinished.
    for (const [size, header] of [
      ['a tebibyte', [0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]],
      ['1,000 bytes', [0x82, 0xfe, 0x03, 0xe8, 0, 0, 0, 0]],
    ] as const)
      test(`a WebSocket frame that announces ${size} and holds a CONNECT (CVE-2026-25627)`, async () => {
        // By hand, because what follows the handshake is no frame that a WebSocket library would send.
        const socket = connect(broker.wsPort, '127.0.0.1');
        socket.on('error', () => undefined);
        const closed = once(socket, 'close', { signal: AbortSignal.timeout(6000) });
        socket.write(WEBSOCKET_HANDSHAKE);
        const [answer] = (await once(socket, 'data')) as [Buffer];
        assert.match(answer.toString(), /^HTTP\/1\.1 101 /);
        // A broker that says goodbye with a close frame is owed an answer; hanging up is one.
        socket.on('data', (chunk: Buffer) => {
          if (chunk[0] === 0x88) socket.end();
        });
        socket.write(Buffer.concat([Buffer.from(header), wrongConnect({ level })]));
        await closed;
      });
  });
}

test('QoS 2 publishes that never send PUBREL stop at Receive Maximum in 5.0 (CVE-2023-28366)', async () => {
  const client = await broker.open({ version: 5 });
  const topic = uniqueTopic();
  for (let index = 1; index <= 11; index++) client.sendPublish(topic, 'x', { qos: 2, messageId: index });
  await client.expectDisconnect(RECEIVE_MAXIMUM_EXCEEDED);
});

test('QoS 2 publishes that never send PUBREL: 3.1.1 knows no Receive Maximum, so 20,000 flows stay open, correct, and end with the session (CVE-2023-28366)', async () => {
  const topic = uniqueTopic();
  const clientId = uniqueClientId();
  const watcher = await broker.open();
  await watcher.subscribe(`${topic}/watched`, 0);
  const client = await broker.open({ clientId });
  const publish = (messageId: number, tail: string, dup: boolean) =>
    frame(dup ? 0x3c : 0x34, prefixed(`${topic}/${tail}`), uint16(messageId), Buffer.from('once'));
  client.send(...Array.from({ length: 20_000 }, (_, index) => publish(index + 1, 'flood', false)));
  client.send(
    publish(20_001, 'watched', false),
    publish(20_001, 'watched', true),
    publish(1, 'watched', true),
  );
  for (let index = 1; index <= 20_001; index++)
    assert.equal((await client.expect('pubrec')).messageId, index);
  assert.equal((await client.expect('pubrec')).messageId, 20_001);
  assert.equal((await client.expect('pubrec')).messageId, 1);
  await client.disconnect();
  const fresh = await broker.open({ clientId });
  await fresh.publish(`${topic}/watched`, 'last', { qos: 2, messageId: 20_001 });
  const got = await messagesBefore(watcher, 'last');
  // Delivered at PUBLISH or at PUBREL, the message is there once or not at all, and never as the one repeated under a used identifier.
  assert.ok(got.length <= 1, `${got.length} deliveries`);
});

for (const [what, aliasId] of [
  ['0', 0],
  ['beyond the maximum', 5],
  ['65535', 65_535],
] as const) {
  test(`topic alias ${what}`, () =>
    assertEnds(5, frame(0x30, prefixed('a'), [0x03, 0x23], uint16(aliasId)), TOPIC_ALIAS_INVALID));
}

test('a topic alias that was never set', () =>
  assertEnds(5, frame(0x30, prefixed(''), [0x03, 0x23], uint16(1)), PROTOCOL_ERROR, TOPIC_ALIAS_INVALID));

test('a topic alias of another connection', async () => {
  const first = await broker.open({ version: 5 });
  first.send(frame(0x30, prefixed('a'), [0x03, 0x23], uint16(1)));
  await first.barrier();
  await assertEnds(
    5,
    frame(0x30, prefixed(''), [0x03, 0x23], uint16(1)),
    PROTOCOL_ERROR,
    TOPIC_ALIAS_INVALID,
  );
});

// Every property of 5.0 with a value that would be right where it belongs.
const byte = [0x01];
const PROPERTIES: readonly (readonly [id: number, name: string, value: Uint8Array | readonly number[]])[] = [
  [0x01, 'Payload Format Indicator', byte],
  [0x02, 'Message Expiry Interval', uint32(60)],
  [0x03, 'Content Type', prefixed('text/plain')],
  [0x08, 'Response Topic', prefixed('reply')],
  [0x09, 'Correlation Data', prefixed([1, 2, 3])],
  [0x0b, 'Subscription Identifier', [0x05]],
  [0x11, 'Session Expiry Interval', uint32(0)],
  [0x12, 'Assigned Client Identifier', prefixed('id')],
  [0x13, 'Server Keep Alive', uint16(60)],
  [0x15, 'Authentication Method', prefixed('method')],
  [0x16, 'Authentication Data', prefixed([1])],
  [0x17, 'Request Problem Information', byte],
  [0x18, 'Will Delay Interval', uint32(0)],
  [0x19, 'Request Response Information', byte],
  [0x1a, 'Response Information', prefixed('info')],
  [0x1c, 'Server Reference', prefixed('other')],
  [0x1f, 'Reason String', prefixed('because')],
  [0x21, 'Receive Maximum', uint16(10)],
  [0x22, 'Topic Alias Maximum', uint16(10)],
  [0x23, 'Topic Alias', uint16(1)],
  [0x24, 'Maximum QoS', byte],
  [0x25, 'Retain Available', byte],
  [0x26, 'User Property', Buffer.concat([prefixed('key'), prefixed('value')])],
  [0x27, 'Maximum Packet Size', uint32(1000)],
  [0x28, 'Wildcard Subscription Available', byte],
  [0x29, 'Subscription Identifier Available', byte],
  [0x2a, 'Shared Subscription Available', byte],
];

const ACK_PROPERTIES = [0x1f, 0x26];
type WithProperties = (properties: Buffer) => Buffer;

const PACKETS: readonly (readonly [name: string, allowed: readonly number[], build: WithProperties])[] = [
  [
    'PUBLISH',
    [0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26],
    (properties) => frame(0x30, prefixed('a'), properties),
  ],
  ['PUBACK', ACK_PROPERTIES, (properties) => frame(0x40, uint16(1), [0x00], properties)],
  ['PUBREC', ACK_PROPERTIES, (properties) => frame(0x50, uint16(1), [0x00], properties)],
  ['PUBREL', ACK_PROPERTIES, (properties) => frame(0x62, uint16(1), [0x00], properties)],
  ['PUBCOMP', ACK_PROPERTIES, (properties) => frame(0x70, uint16(1), [0x00], properties)],
  ['SUBSCRIBE', [0x0b, 0x26], (properties) => frame(0x82, uint16(1), properties, prefixed('a'), [0])],
  ['UNSUBSCRIBE', [0x26], (properties) => frame(0xa2, uint16(1), properties, prefixed('a'))],
  // Server Reference is for DISCONNECT, but for the broker's: what it makes of a client's is not said.
  ['DISCONNECT', [0x11, 0x1c, 0x1f, 0x26], (properties) => frame(0xe0, [0x00], properties)],
];

const CONNECT_PACKETS: typeof PACKETS = [
  [
    'CONNECT',
    [0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
    (properties) => wrongConnect({ level: 5, properties }),
  ],
  [
    'the will of CONNECT',
    [0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
    (properties) =>
      wrongConnect({
        level: 5,
        flags: 0x06,
        payload: [prefixed(uniqueClientId()), properties, prefixed('t'), prefixed('m')],
      }),
  ],
];

const UNKNOWN: typeof PROPERTIES = [
  [0x00, 'property 0', byte],
  [0x04, 'property 4', byte],
  [0x2b, 'property 43', byte],
  [0x7f, 'property 127', byte],
];

/** The same property `times` over, behind its length. */
function propertyBlock([id, , value]: (typeof PROPERTIES)[number], times: number): Buffer {
  const one = Buffer.concat([Buffer.from([id]), Buffer.from(value)]);
  const all = Buffer.concat(Array.from({ length: times }, () => one));
  return Buffer.concat([variableByteInteger(all.length), all]);
}

async function assertConnectRefused(bytes: Buffer, what: string): Promise<void> {
  const client = await RawClient.connect(broker.port, { version: 5 });
  client.send(bytes);
  await client.closed().catch((error: Error) => assert.fail(`${what}: ${error.message}`));
  for (const packet of client.queue) {
    assert.equal(packet.cmd, 'connack', `${what}: ${hex(packet.raw)}`);
    assert.ok([MALFORMED, PROTOCOL_ERROR].includes(packet.raw[3]!), `${what}: ${hex(packet.raw)}`);
  }
}

async function assertPacketRefused(bytes: Buffer, what: string): Promise<void> {
  await assertEnds(5, bytes, MALFORMED, PROTOCOL_ERROR).catch((error: Error) =>
    assert.fail(`${what}: ${error.message}`),
  );
}

for (const [packets, assertRefused] of [
  [PACKETS, assertPacketRefused],
  [CONNECT_PACKETS, assertConnectRefused],
] as const) {
  for (const [name, allowed, build] of packets) {
    test(`every property that does not belong to ${name}`, () =>
      Promise.all(
        [...PROPERTIES.filter(([id]) => !allowed.includes(id)), ...UNKNOWN].map((property) =>
          assertRefused(build(propertyBlock(property, 1)), property[1]),
        ),
      ).then(() => undefined));

    test(`every property of ${name} twice`, () =>
      Promise.all(
        PROPERTIES.filter(([id]) => allowed.includes(id) && id !== 0x26).map((property) =>
          assertRefused(build(propertyBlock(property, 2)), property[1]),
        ),
      ).then(() => undefined));

    test(`a property of ${name} cut at every byte`, () =>
      Promise.all(
        PROPERTIES.filter(([id]) => allowed.includes(id)).flatMap((property) => {
          const block = propertyBlock(property, 1);
          return Array.from({ length: block.length - 2 }, (_, index) => {
            const cut = block.subarray(1, 2 + index);
            const shorter = Buffer.concat([variableByteInteger(cut.length), cut]);
            return assertRefused(build(shorter), `${property[1]} cut to ${hex(cut)}`);
          });
        }),
      ).then(() => undefined));
  }
}

test('User Property may come twice', async () => {
  const topic = uniqueTopic();
  const client = await broker.open({ version: 5 });
  await client.subscribe(topic);
  client.send(
    frame(
      0x30,
      prefixed(topic),
      propertyBlock(PROPERTIES.find(([id]) => id === 0x26)!, 2),
      Buffer.from('last'),
    ),
  );
  assert.deepEqual(await messagesBefore(client, 'last'), []);
});
