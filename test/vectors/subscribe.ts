// SUBSCRIBE and UNSUBSCRIBE: bytes beside the packets they are, and beside the reason codes they deserve.
import { ReasonCode } from '../../src/packet/reason-codes.js';
import type { SubscribePacket, UnsubscribePacket } from '../../src/packet/subscribe.js';
import type { ProtocolVersion } from '../../src/packet/types.js';
import { bytes, frame, INVALID_UTF8 } from './bytes.js';

export interface Vector<P> {
  title: string;
  version: ProtocolVersion;
  bytes: Buffer;
  packet: P;
}

export interface Refusal {
  title: string;
  version: ProtocolVersion;
  bytes: Buffer;
  reasonCode: number;
}

const PLAIN = { noLocal: false, retainAsPublished: false, retainHandling: 0 } as const;

export const SUBSCRIBE_VECTORS: readonly Vector<SubscribePacket>[] = [
  {
    title: '3.1 and its DUP bit',
    version: 3,
    bytes: bytes('8a 06 0001 0001 "a" 02'),
    packet: {
      packetId: 1,
      subscriptionId: 0,
      userProperties: [],
      filters: [{ filter: 'a', qos: 2, ...PLAIN }],
    },
  },
  {
    title: '3.1.1, three filters in order',
    version: 4,
    bytes: bytes('82 11 ffff 0001 "#" 00 0003 "a/+" 01 0002 c3 a9 02'),
    packet: {
      packetId: 65_535,
      subscriptionId: 0,
      userProperties: [],
      filters: [
        { filter: '#', qos: 0, ...PLAIN },
        { filter: 'a/+', qos: 1, ...PLAIN },
        { filter: 'é', qos: 2, ...PLAIN },
      ],
    },
  },
  {
    title: '5.0 without properties, every option',
    version: 5,
    bytes: bytes('82 13 0010 00 0001 "a" 2e 0001 "b" 10 0001 "a" 04 0001 "/" 09'),
    packet: {
      packetId: 16,
      subscriptionId: 0,
      userProperties: [],
      filters: [
        { filter: 'a', qos: 2, noLocal: true, retainAsPublished: true, retainHandling: 2 },
        { filter: 'b', qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 1 },
        { filter: 'a', qos: 0, noLocal: true, retainAsPublished: false, retainHandling: 0 },
        { filter: '/', qos: 1, noLocal: false, retainAsPublished: true, retainHandling: 0 },
      ],
    },
  },
  {
    title: '5.0 with the largest subscription identifier and a user property',
    version: 5,
    bytes: bytes('82 13 0001 0c 0b ff ff ff 7f 26 0001 "k" 0001 "v" 0001 "a" 01'),
    packet: {
      packetId: 1,
      subscriptionId: 268_435_455,
      userProperties: [['k', 'v']],
      filters: [{ filter: 'a', qos: 1, ...PLAIN }],
    },
  },
  {
    title: '5.0, a shared subscription',
    version: 5,
    bytes: bytes('82 0f 0001 00 0009 "$share/g/" 01'),
    packet: {
      packetId: 1,
      subscriptionId: 0,
      userProperties: [],
      filters: [{ filter: '$share/g/', qos: 1, ...PLAIN }],
    },
  },
];

export const UNSUBSCRIBE_VECTORS: readonly Vector<UnsubscribePacket>[] = [
  {
    title: '3.1 and its DUP bit',
    version: 3,
    bytes: bytes('aa 05 0001 0001 "a"'),
    packet: { packetId: 1, filters: ['a'] },
  },
  {
    title: '3.1.1, two filters in order',
    version: 4,
    bytes: bytes('a2 0a 0102 0001 "#" 0003 "a/+"'),
    packet: { packetId: 258, filters: ['#', 'a/+'] },
  },
  {
    title: '5.0 without properties',
    version: 5,
    bytes: bytes('a2 06 0001 00 0001 "a"'),
    packet: { packetId: 1, filters: ['a'] },
  },
  {
    title: '5.0 with a user property',
    version: 5,
    bytes: bytes('a2 0d 0001 07 26 0001 "k" 0001 "v" 0001 "a"'),
    packet: { packetId: 1, filters: ['a'] },
  },
];

const { MalformedPacket, ProtocolError } = ReasonCode;

function refusals(
  version: ProtocolVersion,
  firstByte: number,
  cases: readonly (readonly [title: string, body: string, reasonCode: number])[],
): Refusal[] {
  return cases.map(([title, body, reasonCode]) => ({
    title: `${version === 5 ? '5.0' : version === 4 ? '3.1.1' : '3.1'}: ${title}`,
    version,
    bytes: frame(firstByte, body),
    reasonCode,
  }));
}

const counted = (invalid: { bytes: Buffer }) =>
  `${invalid.bytes.length.toString(16).padStart(4, '0')} ${invalid.bytes.toString('hex')}`;

export const SUBSCRIBE_REFUSALS: readonly Refusal[] = [
  ...([4, 5] as const).flatMap((version) => {
    const p = version === 5 ? '00' : '';
    return [
      ...[0x80, 0x81, 0x83, 0x84, 0x86, 0x8a, 0x8f].flatMap((firstByte) =>
        refusals(version, firstByte, [
          [`[MQTT-3.8.1-1] first byte 0x${firstByte.toString(16)}`, `0001 ${p} 0001 "a" 00`, MalformedPacket],
        ]),
      ),
      ...refusals(version, 0x82, [
        ['no packet identifier', '00', MalformedPacket],
        [
          '[MQTT-2.2.1-3 v5] [MQTT-2.3.1-1 v3.1.1] packet identifier 0',
          `0000 ${p} 0001 "a" 00`,
          ProtocolError,
        ],
        ['[MQTT-3.8.3-2 v5] [MQTT-3.8.3-3 v3.1.1] no filter', `0001 ${p}`, ProtocolError],
        ['no options byte', `0001 ${p} 0001 "a"`, MalformedPacket],
        ['a second filter without an options byte', `0001 ${p} 0001 "a" 00 0001 "b"`, MalformedPacket],
        ['a filter longer than the packet', `0001 ${p} 0009 "a" 00`, MalformedPacket],
        ['half the length of a filter', `0001 ${p} 0001 "a" 00 00`, MalformedPacket],
        ['[MQTT-4.7.3-1] an empty filter', `0001 ${p} 0000 00`, MalformedPacket],
        ['[MQTT-3.8.3-4 v3.1.1] QoS 3', `0001 ${p} 0001 "a" 03`, ProtocolError],
        ['a reserved option bit, 0x40', `0001 ${p} 0001 "a" 40`, MalformedPacket],
        ['a reserved option bit, 0x80', `0001 ${p} 0001 "a" 81`, MalformedPacket],
        ...INVALID_UTF8.map(
          (invalid) =>
            [
              `[MQTT-3.8.3-1] a filter with ${invalid.title}`,
              `0001 ${p} ${counted(invalid)} 00`,
              MalformedPacket,
            ] as const,
        ),
      ]),
    ];
  }),
  ...refusals(3, 0x80, [['QoS 0 in the fixed header', '0001 0001 "a" 00', MalformedPacket]]),
  ...refusals(4, 0x82, [
    ['[MQTT-3.8.3-4 v3.1.1] an option of 5.0', '0001 0001 "a" 04', MalformedPacket],
    ['[MQTT-3.8.3-4 v3.1.1] reserved bit 0x10', '0001 0001 "a" 10', MalformedPacket],
  ]),
  ...refusals(5, 0x82, [
    ['retain handling 3', '0001 00 0001 "a" 30', ProtocolError],
    ['[MQTT-3.8.3-4 v5] no local on a shared subscription', '0001 00 0009 "$share/g/" 04', ProtocolError],
    ['subscription identifier 0', '0001 02 0b 00 0001 "a" 00', ProtocolError],
    ['two subscription identifiers', '0001 04 0b 01 0b 02 0001 "a" 00', ProtocolError],
    ['a subscription identifier of five bytes', '0001 06 0b ff ff ff ff 7f 0001 "a" 00', MalformedPacket],
    ['a subscription identifier that leaves the block', '0001 02 0b ff 0001 "a" 00', MalformedPacket],
    ['a subscription identifier longer than it has to be', '0001 03 0b 81 00 0001 "a" 00', MalformedPacket],
    ['a property of PUBLISH', '0001 02 01 01 0001 "a" 00', MalformedPacket],
    ['a reason string', '0001 04 1f 0001 "x" 0001 "a" 00', MalformedPacket],
    ['no property length', '0001', MalformedPacket],
    ['a block longer than the packet', '0001 7f 0001 "a" 00', MalformedPacket],
  ]),
  {
    title: 'remaining length 1024 and nothing behind it',
    version: 4,
    bytes: bytes('82 80 08'),
    reasonCode: MalformedPacket,
  },
  {
    title: '5.0: [MQTT-1.5.5-1] a remaining length in two bytes where one would do',
    version: 5,
    bytes: bytes('82 87 00 0001 00 0001 "a" 00'),
    reasonCode: MalformedPacket,
  },
  {
    title: 'another packet type',
    version: 4,
    bytes: bytes('a2 06 0001 0001 "a" 00'),
    reasonCode: ProtocolError,
  },
];

export const UNSUBSCRIBE_REFUSALS: readonly Refusal[] = [
  ...([4, 5] as const).flatMap((version) => {
    const p = version === 5 ? '00' : '';
    return [
      ...[0xa0, 0xa1, 0xa3, 0xa6, 0xaa].flatMap((firstByte) =>
        refusals(version, firstByte, [
          [`[MQTT-3.10.1-1] first byte 0x${firstByte.toString(16)}`, `0001 ${p} 0001 "a"`, MalformedPacket],
        ]),
      ),
      ...refusals(version, 0xa2, [
        ['packet identifier 0', `0000 ${p} 0001 "a"`, ProtocolError],
        ['[MQTT-3.10.3-2] no filter', `0001 ${p}`, ProtocolError],
        ['a filter longer than the packet', `0001 ${p} 0002 "a"`, MalformedPacket],
        ['[MQTT-4.7.3-1] an empty filter', `0001 ${p} 0000`, MalformedPacket],
        ...INVALID_UTF8.map(
          (invalid) =>
            [
              `[MQTT-3.10.3-1] a filter with ${invalid.title}`,
              `0001 ${p} ${counted(invalid)}`,
              MalformedPacket,
            ] as const,
        ),
      ]),
    ];
  }),
  ...refusals(5, 0xa2, [
    ['a subscription identifier', '0001 02 0b 01 0001 "a"', MalformedPacket],
    ['no property length', '0001', MalformedPacket],
  ]),
];
