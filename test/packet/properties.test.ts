import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  checkProperties,
  decodeProperties,
  forwardableProperties,
  type PublishProperties,
  scanPublishProperties,
} from '../../src/packet/properties.js';
import { PropertyId, WILL } from '../../src/packet/property-table.js';
import { PacketType } from '../../src/packet/types.js';
import { bytes, INVALID_UTF8 } from '../vectors/bytes.js';
import { FROM_SERVER_ONLY, HOLDERS, SAMPLES, STRINGS } from '../vectors/properties.js';
import {
  binary,
  check,
  decodesOrRefuses,
  mqttString,
  positiveUint16,
  refuses,
  topicName,
  uint32,
} from './oracle.js';

const whole = (block: Buffer, holder: number) => checkProperties(block, 0, block.length, holder);
const scan = (block: Buffer) => scanPublishProperties(block, 0, block.length);

for (const { name, holder, ids } of HOLDERS) {
  test(`${name} has its properties and no other`, () => {
    for (let id = 0; id < 256; id++) {
      const block = SAMPLES.get(id) ?? Buffer.from([id, 0, 0, 0, 0]);
      const isServers = FROM_SERVER_ONLY.some(([where, which]) => where === holder && which === id);
      if (ids.includes(id)) whole(block, holder);
      else refuses(() => whole(block, holder), isServers ? 0x82 : 0x81);
    }
  });

  test(`${name} has no property twice but the user property`, () => {
    for (const id of ids) {
      const twice = Buffer.concat([SAMPLES.get(id)!, SAMPLES.get(0x26)!, SAMPLES.get(id)!]);
      if (id === 0x26) whole(twice, holder);
      else refuses(() => whole(twice, holder), 0x82);
    }
  });

  test(`${name}: a property cut at any byte is malformed`, () => {
    for (const id of ids) {
      const sample = SAMPLES.get(id)!;
      for (let end = 1; end < sample.length; end++) {
        refuses(() => checkProperties(sample, 0, end, holder), 0x81);
      }
    }
  });
}

test('a block of every property of a packet together, in any order', () => {
  for (const { holder, ids } of HOLDERS) {
    const blocks = ids.map((id) => SAMPLES.get(id)!);
    whole(Buffer.concat(blocks), holder);
    whole(Buffer.concat(blocks.reverse()), holder);
    whole(Buffer.alloc(0), holder);
  }
});

for (const [id, holder] of STRINGS) {
  test(`[MQTT-1.5.4-1] [MQTT-1.5.4-2] property 0x${id.toString(16)} is an MQTT string`, () => {
    for (const invalid of INVALID_UTF8) {
      const block = Buffer.concat([Buffer.from([id, 0, invalid.bytes.length]), invalid.bytes]);
      refuses(() => whole(block, holder), 0x81);
    }
  });
}

test('[MQTT-1.5.7-1] both halves of a user property are MQTT strings', () => {
  for (const invalid of INVALID_UTF8) {
    const counted = Buffer.concat([Buffer.from([0, invalid.bytes.length]), invalid.bytes]);
    refuses(() => whole(Buffer.concat([bytes('26'), counted, bytes('0001 "v"')]), PacketType.Publish), 0x81);
    refuses(() => whole(Buffer.concat([bytes('26 0001 "k"'), counted]), PacketType.Publish), 0x81);
  }
});

test('binary data may be any bytes', () => {
  for (const invalid of INVALID_UTF8) {
    whole(Buffer.concat([Buffer.from([0x09, 0, invalid.bytes.length]), invalid.bytes]), PacketType.Publish);
  }
});

const VALUES: readonly (readonly [title: string, holder: number, block: string, reasonCode: number])[] = [
  ['receive maximum 0', PacketType.Connect, '21 0000', 0x82],
  ['maximum packet size 0', PacketType.Connect, '27 00000000', 0x82],
  ['subscription identifier 0', PacketType.Subscribe, '0b 00', 0x82],
  ['[MQTT-3.3.2-8] topic alias 0', PacketType.Publish, '23 0000', 0x94],
  ['payload format indicator 2', PacketType.Publish, '01 02', 0x82],
  ['request problem information 255', PacketType.Connect, '17 ff', 0x82],
  ['[MQTT-3.3.2-14] response topic #', PacketType.Publish, '08 0001 "#"', 0x82],
  ['[MQTT-3.3.2-14] response topic a/+', PacketType.Publish, '08 0003 "a/+"', 0x82],
  ['[MQTT-4.7.3-1] an empty response topic', PacketType.Publish, '08 0000', 0x82],
];

for (const [title, holder, block, reasonCode] of VALUES) {
  test(`refused: ${title}`, () => {
    refuses(() => whole(bytes(block), holder), reasonCode);
    if (holder === PacketType.Publish) refuses(() => scan(bytes(block)), reasonCode);
  });
}

test('only its own range is looked at', () => {
  const buffer = bytes('7f 01 01 7f');
  checkProperties(buffer, 1, 3, PacketType.Publish);
  assert.equal(scanPublishProperties(buffer, 1, 3).payloadIsUtf8, true);
});

const SCANS: readonly (readonly [
  title: string,
  block: string,
  expected: Omit<PublishProperties, 'forward'>,
  forward: string,
])[] = [
  ['nothing', '', { topicAlias: 0, messageExpirySeconds: -1, payloadIsUtf8: false }, ''],
  ['a topic alias alone', '23 0007', { topicAlias: 7, messageExpirySeconds: -1, payloadIsUtf8: false }, ''],
  ['expiry 0', '02 00000000', { topicAlias: 0, messageExpirySeconds: 0, payloadIsUtf8: false }, ''],
  [
    'the longest expiry',
    '02 ffffffff',
    { topicAlias: 0, messageExpirySeconds: 0xffff_ffff, payloadIsUtf8: false },
    '',
  ],
  [
    '[MQTT-3.3.2-4] a payload that promises nothing says so to subscribers',
    '01 00',
    { topicAlias: 0, messageExpirySeconds: -1, payloadIsUtf8: false },
    '01 00',
  ],
  [
    '[MQTT-3.3.2-17] [MQTT-3.3.2-18] user properties, in order, with one name twice',
    '26 0001 "b" 0001 "1" 26 0001 "a" 0000 26 0001 "b" 0001 "2"',
    { topicAlias: 0, messageExpirySeconds: -1, payloadIsUtf8: false },
    '26 0001 "b" 0001 "1" 26 0001 "a" 0000 26 0001 "b" 0001 "2"',
  ],
  [
    'everything: [MQTT-3.3.2-15] response topic, [MQTT-3.3.2-16] correlation data, [MQTT-3.3.2-20] content type go on',
    '26 0001 "a" 0001 "1" 23 0001 03 0001 "t" 02 00000010 08 0001 "r" 01 01 09 0001 00 26 0001 "a" 0001 "2"',
    { topicAlias: 1, messageExpirySeconds: 16, payloadIsUtf8: true },
    '26 0001 "a" 0001 "1" 03 0001 "t" 08 0001 "r" 01 01 09 0001 00 26 0001 "a" 0001 "2"',
  ],
];

for (const [title, block, expected, forward] of SCANS) {
  test(`PUBLISH with ${title}`, () => {
    assert.deepEqual(scan(bytes(block)), { ...expected, forward: bytes(forward) });
  });
}

test('a block from which nothing is taken goes on without a copy; else the input is not kept', () => {
  const unaltered = bytes('01 01 26 0001 "k" 0001 "v"');
  assert.equal(scan(unaltered).forward.buffer, unaltered.buffer);
  const altered = bytes('23 0001 26 0001 "k" 0001 "v"');
  const { forward } = scan(altered);
  altered.fill(0xff);
  assert.deepEqual(forward, bytes('26 0001 "k" 0001 "v"'));
});

test('[MQTT-3.3.4-6] a subscription identifier from a client is a protocol error', () => {
  refuses(() => scan(bytes('0b 01')), 0x82);
});

test('a block is read in full, as copies', () => {
  const block = Buffer.concat([0x11, 0x16, 0x15, 0x26, 0x21, 0x26, 0x17].map((id) => SAMPLES.get(id)!));
  const values = decodeProperties(block, 0, block.length, PacketType.Connect);
  block.fill(0xff);
  assert.equal(values.number(PropertyId.SessionExpiryInterval), 0xffff_ffff);
  assert.equal(values.number(PropertyId.ReceiveMaximum), 1);
  assert.equal(values.number(PropertyId.RequestProblemInformation), 0);
  assert.equal(values.text(PropertyId.AuthenticationMethod), 'm');
  assert.deepEqual(values.bytes(PropertyId.AuthenticationData), bytes('00'));
  assert.deepEqual(values.userProperties, [
    ['k', 'é'],
    ['k', 'é'],
  ]);
  assert.equal(values.number(PropertyId.TopicAliasMaximum), undefined);
  assert.equal(values.text(PropertyId.ReceiveMaximum), undefined, 'a number is no text');
});

test('a packet without properties does not share what another one was given', () => {
  const none = decodeProperties(Buffer.alloc(0), 0, 0, PacketType.Connect);
  const some = decodeProperties(SAMPLES.get(0x26)!, 0, SAMPLES.get(0x26)!.length, PacketType.Connect);
  assert.equal(some.userProperties.length, 1);
  assert.deepEqual(none.userProperties, []);
});

test('random blocks are taken or refused, the same by each walk', (context) => {
  const random = fc.uint8Array({ maxLength: 30 }).map((block) => Buffer.from(block));
  const samples = fc
    .array(fc.constantFrom(...SAMPLES.values()), { maxLength: 5 })
    .map((blocks) => Buffer.concat(blocks));
  check(
    context,
    fc.property(fc.oneof(random, samples), (block) => {
      for (const { holder } of HOLDERS) decodesOrRefuses(() => whole(block, holder));
      const outcome = (walk: () => unknown) => {
        try {
          walk();
          return 'taken';
        } catch (error) {
          return (error as Error).message;
        }
      };
      const checked = outcome(() => whole(block, PacketType.Publish));
      assert.equal(
        outcome(() => scan(block)),
        checked,
      );
      assert.equal(
        outcome(() => decodeProperties(block, 0, block.length, PacketType.Publish)),
        checked,
      );
    }),
    1000,
  );
});

test('whatever the order, what goes on is what was sent without alias, expiry and delay', (context) => {
  const counted = (text: string | Buffer) => {
    const content = Buffer.from(text as string);
    const length = Buffer.alloc(2);
    length.writeUInt16BE(content.length);
    return Buffer.concat([length, content]);
  };
  const uint32Bytes = (value: number) => {
    const encoded = Buffer.alloc(4);
    encoded.writeUInt32BE(value);
    return encoded;
  };
  const property = (id: number, value: fc.Arbitrary<Buffer>) =>
    value.map((encoded) => ({ id, encoded: Buffer.concat([Buffer.from([id]), encoded]) }));
  const user = property(
    0x26,
    fc
      .tuple(mqttString(6), mqttString(6))
      .map(([name, value]) => Buffer.concat([counted(name), counted(value)])),
  );
  const message = fc.tuple(
    fc.uniqueArray(
      fc.oneof(
        property(0x01, fc.constant(bytes('01'))),
        property(0x02, uint32.map(uint32Bytes)),
        property(0x03, mqttString(6).map(counted)),
        property(0x08, topicName.map(counted)),
        property(0x09, binary.map(counted)),
        property(
          0x23,
          positiveUint16.map((alias) => Buffer.from([alias >> 8, alias & 0xff])),
        ),
      ),
      { selector: (one) => one.id },
    ),
    fc.array(user, { maxLength: 4 }),
  );
  const shuffled = message.chain(([once, users]) =>
    fc.shuffledSubarray([...once, ...users], { minLength: once.length + users.length }),
  );
  check(
    context,
    fc.property(shuffled, (properties) => {
      const block = Buffer.concat(properties.map((one) => one.encoded));
      const kept = properties.filter((one) => one.id !== 0x02 && one.id !== 0x23);
      const found = scan(block);
      assert.deepEqual(found.forward, Buffer.concat(kept.map((one) => one.encoded)));
      assert.deepEqual(forwardableProperties(block, 0, block.length), found.forward);
      const alias = properties.find((one) => one.id === 0x23)?.encoded.readUInt16BE(1) ?? 0;
      const expiry = properties.find((one) => one.id === 0x02)?.encoded.readUInt32BE(1) ?? -1;
      assert.equal(found.topicAlias, alias);
      assert.equal(found.messageExpirySeconds, expiry);
      assert.equal(
        found.payloadIsUtf8,
        properties.some((one) => one.id === 0x01),
      );
    }),
    500,
  );
});

test('of a will, the delay stays behind', () => {
  const block = bytes('18 00000001 03 0001 "t" 02 00000001');
  checkProperties(block, 0, block.length, WILL);
  assert.deepEqual(forwardableProperties(block, 0, block.length), bytes('03 0001 "t"'));
});
