// CONNECT: bytes beside the packets they are, for each version, and beside the refusals they deserve.
import type { ConnectPacket } from '../../src/packet/connect.js';
import { ReasonCode } from '../../src/packet/reason-codes.js';
import type { ProtocolVersion } from '../../src/packet/types.js';
import { bytes, frame, INVALID_UTF8 } from './bytes.js';

export interface ConnectVector {
  title: string;
  bytes: Buffer;
  packet: ConnectPacket;
}

const PLAIN: ConnectPacket = {
  version: 4,
  clientId: 'a',
  cleanStart: true,
  keepAliveSeconds: 60,
  userName: undefined,
  password: undefined,
  will: undefined,
  sessionExpirySeconds: 0,
  receiveMaximum: 65_535,
  maximumPacketBytes: 268_435_460,
  topicAliasMaximum: 0,
  requestResponseInformation: false,
  requestProblemInformation: true,
  authenticationMethod: undefined,
  authenticationData: undefined,
  userProperties: [],
};

const WILL_OF_OLDER_VERSIONS = {
  delaySeconds: 0,
  messageExpirySeconds: -1,
  payloadIsUtf8: false,
  properties: Buffer.alloc(0),
};

export const CONNECT_VECTORS: readonly ConnectVector[] = [
  {
    title: '3.1: the least there is',
    bytes: bytes('10 0f 0006 "MQIsdp" 03 02 003c 0001 "a"'),
    packet: { ...PLAIN, version: 3 },
  },
  {
    title: '3.1: clean session 0 is a session that never expires',
    bytes: bytes('10 0f 0006 "MQIsdp" 03 00 003c 0001 "a"'),
    packet: { ...PLAIN, version: 3, cleanStart: false, sessionExpirySeconds: 0xffff_ffff },
  },
  {
    title: '3.1: the remaining length takes precedence over the flags of user name and password',
    bytes: bytes('10 0f 0006 "MQIsdp" 03 c2 003c 0001 "a"'),
    packet: { ...PLAIN, version: 3 },
  },
  {
    title: '3.1: a user name without the password its flag announces',
    bytes: bytes('10 12 0006 "MQIsdp" 03 c2 003c 0001 "a" 0001 "u"'),
    packet: { ...PLAIN, version: 3, userName: 'u' },
  },
  {
    title: '3.1: will QoS and retain without a will, and the unused flag, are disregarded',
    bytes: bytes('10 0f 0006 "MQIsdp" 03 3b 003c 0001 "a"'),
    packet: { ...PLAIN, version: 3 },
  },
  {
    title: '3.1: more than 23 characters are taken',
    bytes: bytes('10 26 0006 "MQIsdp" 03 02 003c 0018 "abcdefghijklmnopqrstuvwx"'),
    packet: { ...PLAIN, version: 3, clientId: 'abcdefghijklmnopqrstuvwx' },
  },
  {
    title: '3.1.1: the least there is',
    bytes: bytes('10 0d 0004 "MQTT" 04 02 003c 0001 "a"'),
    packet: PLAIN,
  },
  {
    title: '3.1.1: an empty client identifier with clean session',
    bytes: bytes('10 0c 0004 "MQTT" 04 02 0000 0000'),
    packet: { ...PLAIN, clientId: '', keepAliveSeconds: 0 },
  },
  {
    title: '3.1.1: a remaining length in two bytes where one would do',
    bytes: bytes('10 8d00 0004 "MQTT" 04 02 003c 0001 "a"'),
    packet: PLAIN,
  },
  {
    title: '3.1.1: user name and password, the password any bytes',
    bytes: bytes('10 14 0004 "MQTT" 04 c2 003c 0001 "a" 0001 "u" 0002 00ff'),
    packet: { ...PLAIN, userName: 'u', password: bytes('00ff') },
  },
  {
    title: '3.1.1: a user name alone, and empty',
    bytes: bytes('10 0f 0004 "MQTT" 04 82 003c 0001 "a" 0000'),
    packet: { ...PLAIN, userName: '' },
  },
  {
    title: '3.1.1: a will of QoS 2, retained',
    bytes: bytes('10 14 0004 "MQTT" 04 36 003c 0001 "a" 0001 "w" 0002 00ff'),
    packet: {
      ...PLAIN,
      will: { topicName: 'w', payload: bytes('00ff'), qos: 2, retain: true, ...WILL_OF_OLDER_VERSIONS },
    },
  },
  {
    title: '3.1.1: everything, in order: client identifier, will, user name, password',
    bytes: bytes('10 1a 0004 "MQTT" 04 cc ffff 0001 "a" 0002 "w/" 0001 "p" 0001 "u" 0001 "s"'),
    packet: {
      ...PLAIN,
      cleanStart: false,
      sessionExpirySeconds: 0xffff_ffff,
      keepAliveSeconds: 65_535,
      will: { topicName: 'w/', payload: bytes('"p"'), qos: 1, retain: false, ...WILL_OF_OLDER_VERSIONS },
      userName: 'u',
      password: bytes('"s"'),
    },
  },
  {
    title: '3.1.1: U+FEFF at the start of a string is part of it',
    bytes: bytes('10 10 0004 "MQTT" 04 02 003c 0004 ef bb bf "a"'),
    packet: { ...PLAIN, clientId: '\ufeffa' },
  },
  {
    title: '5.0: the least there is',
    bytes: bytes('10 0d 0004 "MQTT" 05 00 003c 00 0000'),
    packet: { ...PLAIN, version: 5, clientId: '', cleanStart: false },
  },
  {
    title: '5.0: a password without a user name',
    bytes: bytes('10 11 0004 "MQTT" 05 42 003c 00 0001 "a" 0001 "s"'),
    packet: { ...PLAIN, version: 5, password: bytes('"s"') },
  },
  {
    title: '5.0: every property of CONNECT, a user property twice and in order',
    bytes: bytes(`10 43 0004 "MQTT" 05 02 003c
      35 11 0000000a  21 0005  27 00000100  22 0007  19 01  17 00
         26 0001 "b" 0001 "1"  26 0001 "a" 0001 "2"  26 0001 "b" 0001 "3"
         15 0004 "meth"  16 0002 00ff
      0001 "a"`),
    packet: {
      ...PLAIN,
      version: 5,
      sessionExpirySeconds: 10,
      receiveMaximum: 5,
      maximumPacketBytes: 256,
      topicAliasMaximum: 7,
      requestResponseInformation: true,
      requestProblemInformation: false,
      authenticationMethod: 'meth',
      authenticationData: bytes('00ff'),
      userProperties: [
        ['b', '1'],
        ['a', '2'],
        ['b', '3'],
      ],
    },
  },
  {
    title: '5.0: the largest numbers',
    bytes: bytes('10 1a 0004 "MQTT" 05 02 003c 0d 11 ffffffff 21 ffff 27 ffffffff 0000'),
    packet: {
      ...PLAIN,
      version: 5,
      clientId: '',
      sessionExpirySeconds: 0xffff_ffff,
      receiveMaximum: 65_535,
      maximumPacketBytes: 268_435_460,
    },
  },
  {
    title: '5.0: a will with every property; delay and expiry do not go on to subscribers',
    bytes: bytes(`10 3e 0004 "MQTT" 05 2e 003c 00 0001 "a"
      27 18 00000005  01 01  02 0000003c  03 0001 "t"  08 0003 "r/s"  09 0002 00ff
         26 0001 "k" 0001 "v"  26 0000 0000
      0001 "w" 0003 e2 82 ac`),
    packet: {
      ...PLAIN,
      version: 5,
      will: {
        topicName: 'w',
        payload: bytes('e2 82 ac'),
        qos: 1,
        retain: true,
        delaySeconds: 5,
        messageExpirySeconds: 60,
        payloadIsUtf8: true,
        properties: bytes(
          '01 01  03 0001 "t"  08 0003 "r/s"  09 0002 00ff  26 0001 "k" 0001 "v"  26 0000 0000',
        ),
      },
    },
  },
];

export interface ConnectRefusal {
  title: string;
  bytes: Buffer;
  reasonCode: number;
  /** The version of the CONNACK; undefined: closed without one. */
  version: ProtocolVersion | undefined;
}

const { MalformedPacket, ProtocolError, UnsupportedProtocolVersion, ClientIdentifierNotValid } = ReasonCode;
const { TopicNameInvalid, PayloadFormatInvalid } = ReasonCode;

const REFUSED_OLD: readonly ConnectRefusal[] = [
  {
    title: '[MQTT-3.1.3-8 v3.1.1] empty client identifier with clean session 0 (CVE-2025-56352)',
    bytes: frame(0x10, '0004 "MQTT" 04 00 003c 0000'),
    reasonCode: ClientIdentifierNotValid,
    version: 4,
  },
  {
    title: 'an empty client identifier in 3.1',
    bytes: frame(0x10, '0006 "MQIsdp" 03 02 003c 0000'),
    reasonCode: ClientIdentifierNotValid,
    version: 3,
  },
  {
    title: '[MQTT-3.1.2-22 v3.1.1] a password without a user name',
    bytes: frame(0x10, '0004 "MQTT" 04 42 003c 0001 "a" 0001 "s"'),
    reasonCode: MalformedPacket,
    version: 4,
  },
  {
    title: 'a password without a user name in 3.1',
    bytes: frame(0x10, '0006 "MQIsdp" 03 42 003c 0001 "a" 0001 "s"'),
    reasonCode: MalformedPacket,
    version: 3,
  },
  {
    title: 'will QoS 3 in 3.1',
    bytes: frame(0x10, '0006 "MQIsdp" 03 1e 003c 0001 "a" 0001 "w" 0000'),
    reasonCode: MalformedPacket,
    version: 3,
  },
];

const REFUSED_VERSIONS: readonly ConnectRefusal[] = [
  {
    title: '[MQTT-3.1.2-1] another protocol name',
    bytes: frame(0x10, '0004 "mqtt" 04 02 003c 0001 "a"'),
    reasonCode: UnsupportedProtocolVersion,
    version: undefined,
  },
  {
    title: 'the name of 3.1 with one letter more',
    bytes: frame(0x10, '0007 "MQIsdpX" 03 02 003c 0001 "a"'),
    reasonCode: UnsupportedProtocolVersion,
    version: undefined,
  },
  {
    title: 'an empty protocol name',
    bytes: frame(0x10, '0000 04 02 003c 0001 "a"'),
    reasonCode: UnsupportedProtocolVersion,
    version: undefined,
  },
  {
    title: 'a protocol name longer than the packet',
    bytes: frame(0x10, 'ffff "MQTT" 04 02 003c 0001 "a"'),
    reasonCode: MalformedPacket,
    version: undefined,
  },
  ...[0, 1, 2, 3, 0x83, 0x84].map((level) => ({
    title: `[MQTT-3.1.2-2] MQTT level 0x${level.toString(16)} gets the CONNACK of 3.1.1`,
    bytes: frame(
      0x10,
      Buffer.concat([bytes('0004 "MQTT"'), Buffer.from([level]), bytes('02 003c 0001 "a"')]),
    ),
    reasonCode: UnsupportedProtocolVersion,
    version: 4 as const,
  })),
  ...[6, 7, 0x7f, 0x85, 0xff].map((level) => ({
    title: `[MQTT-3.1.2-2] MQTT level 0x${level.toString(16)} gets the CONNACK of 5.0`,
    bytes: frame(
      0x10,
      Buffer.concat([bytes('0004 "MQTT"'), Buffer.from([level]), bytes('02 003c 0001 "a"')]),
    ),
    reasonCode: UnsupportedProtocolVersion,
    version: 5 as const,
  })),
  ...[2, 4, 5, 0x83].map((level) => ({
    title: `MQIsdp level 0x${level.toString(16)} gets the CONNACK of 3.1`,
    bytes: frame(
      0x10,
      Buffer.concat([bytes('0006 "MQIsdp"'), Buffer.from([level]), bytes('02 003c 0001 "a"')]),
    ),
    reasonCode: UnsupportedProtocolVersion,
    version: 3 as const,
  })),
  {
    title: 'another packet type: a CONNACK from a client (CVE-2021-28166)',
    bytes: bytes('20 02 00 00'),
    reasonCode: ProtocolError,
    version: undefined,
  },
  {
    title: 'PUBACK before CONNECT',
    bytes: bytes('40 02 00 01'),
    reasonCode: ProtocolError,
    version: undefined,
  },
];

/** Rules that 3.1.1 and 5.0 share, for both. */
const REFUSED_IN_BOTH: readonly ConnectRefusal[] = ([4, 5] as const).flatMap((version) => {
  const properties = version === 5 ? '00' : '';
  const connect = (flags: string, rest: string) =>
    frame(0x10, `0004 "MQTT" 0${version} ${flags} 003c ${properties} ${rest}`);
  const malformedOnes: [title: string, bytes: Buffer][] = [
    ['[MQTT-3.1.2-3] the reserved connect flag', connect('03', '0001 "a"')],
    [
      '[MQTT-3.1.2-12 v5] [MQTT-3.1.2-14 v3.1.1] will QoS 3',
      connect('1e', `0001 "a" ${properties} 0001 "w" 0000`),
    ],
    ['will QoS 3 without a will', connect('1a', '0001 "a"')],
    ['[MQTT-3.1.2-11 v5] [MQTT-3.1.2-13 v3.1.1] will QoS 1 without a will', connect('0a', '0001 "a"')],
    ['[MQTT-3.1.2-13 v5] [MQTT-3.1.2-15 v3.1.1] will retain without a will', connect('22', '0001 "a"')],
    ['[MQTT-3.1.2-9] a will flag and nothing of a will', connect('06', '0001 "a"')],
    ['a will without a payload', connect('06', `0001 "a" ${properties} 0001 "w"`)],
    ['a user name flag and no user name', connect('82', '0001 "a"')],
    ['a password flag and no password', connect('c2', '0001 "a" 0001 "u"')],
    [
      '[MQTT-3.1.2-16 v5] [MQTT-3.1.2-18 v3.1.1] a user name without its flag',
      connect('02', '0001 "a" 0001 "u"'),
    ],
    ['a byte after the last field', connect('02', '0001 "a" 00')],
    ['no client identifier', connect('02', '')],
    ['a client identifier longer than the packet', connect('02', '0002 "a"')],
    ...[0x11, 0x12, 0x14, 0x18].map((firstByte): [string, Buffer] => {
      const wrong = connect('02', '0001 "a"');
      wrong[0] = firstByte;
      return [`[MQTT-2.1.3-1 v5] [MQTT-2.2.2-2 v3.1.1] fixed header 0x${firstByte.toString(16)}`, wrong];
    }),
    ...INVALID_UTF8.flatMap((invalid): [string, Buffer][] => {
      const length = invalid.bytes.length.toString(16).padStart(4, '0');
      const text = `${length} ${invalid.bytes.toString('hex')}`;
      return [
        [`[MQTT-3.1.3-4] client identifier with ${invalid.title}`, connect('02', text)],
        [
          `[MQTT-3.1.3-11 v5] [MQTT-3.1.3-10 v3.1.1] will topic with ${invalid.title}`,
          connect('06', `0001 "a" ${properties} ${text} 0000`),
        ],
        [
          `[MQTT-3.1.3-12 v5] [MQTT-3.1.3-11 v3.1.1] user name with ${invalid.title}`,
          connect('82', `0001 "a" ${text}`),
        ],
      ];
    }),
  ];
  const topics: [title: string, bytes: Buffer][] = [
    ['an empty will topic', connect('06', `0001 "a" ${properties} 0000 0000`)],
    ['a will topic with #', connect('06', `0001 "a" ${properties} 0003 "w/#" 0000`)],
    ['a will topic with +', connect('06', `0001 "a" ${properties} 0003 "+/w" 0000`)],
  ];
  const name = version === 5 ? '5.0' : '3.1.1';
  return [
    ...malformedOnes.map(([title, wrong]) => ({
      title: `${name}: ${title}`,
      bytes: wrong,
      reasonCode: MalformedPacket as number,
      version,
    })),
    ...topics.map(([title, wrong]) => ({
      title: `${name}: ${title}`,
      bytes: wrong,
      reasonCode: TopicNameInvalid as number,
      version,
    })),
  ];
});

const PROPERTY_CASES: readonly (readonly [title: string, block: string, reasonCode: number])[] = [
  ['receive maximum 0', '03 21 0000', ProtocolError],
  ['maximum packet size 0', '05 27 00000000', ProtocolError],
  ['request problem information 2', '02 17 02', ProtocolError],
  ['request response information 2', '02 19 02', ProtocolError],
  ['session expiry twice', '0a 11 00000001 11 00000001', ProtocolError],
  ['receive maximum twice', '06 21 0001 21 0001', ProtocolError],
  ['authentication data without a method', '04 16 0001 00', ProtocolError],
  ['authentication method twice', '08 15 0001 "m" 15 0001 "m"', ProtocolError],
  ['an unknown property', '02 7f 00', MalformedPacket],
  ['property 0', '02 00 00', MalformedPacket],
  ['an identifier of two bytes', '03 91 00 01', MalformedPacket],
  ['a will property (CVE-2023-3592)', '05 18 00000001', MalformedPacket],
  ["a server's property", '04 12 0001 "x"', MalformedPacket],
  ['a value that leaves the block', '03 11 0000', MalformedPacket],
  ['[MQTT-1.5.7-1] a user property that ends after its name', '04 26 0001 "k"', MalformedPacket],
  ['[MQTT-1.5.7-1] a user property with U+0000', '07 26 0001 00 0001 "v"', MalformedPacket],
  ['a block longer than the packet', '7f', MalformedPacket],
  ['[MQTT-1.5.5-1] a block length in two bytes where one would do', '80 00', MalformedPacket],
  ['a block length of five bytes (CVE-2026-21888)', 'ff ff ff ff 7f', MalformedPacket],
];

const WILL_PROPERTY_CASES: readonly (readonly [title: string, block: string, reasonCode: number])[] = [
  ['will delay twice', '0a 18 00000001 18 00000001', ProtocolError],
  ['payload format indicator 2', '02 01 02', ProtocolError],
  ['[MQTT-3.3.2-14] a response topic with a wildcard', '05 08 0002 "a#"', ProtocolError],
  ['an empty response topic', '03 08 0000', ProtocolError],
  ['a topic alias', '03 23 0001', MalformedPacket],
  ['a subscription identifier', '02 0b 01', MalformedPacket],
  ['a property of CONNECT', '03 21 0001', MalformedPacket],
  ['a block longer than the packet', '7f', MalformedPacket],
];

const REFUSED_V5: readonly ConnectRefusal[] = [
  ...PROPERTY_CASES.map(([title, block, reasonCode]) => ({
    title: `5.0: ${title}`,
    bytes: frame(0x10, `0004 "MQTT" 05 02 003c ${block} 0001 "a"`),
    reasonCode,
    version: 5 as const,
  })),
  ...WILL_PROPERTY_CASES.map(([title, block, reasonCode]) => ({
    title: `5.0 will: ${title}`,
    bytes: frame(0x10, `0004 "MQTT" 05 06 003c 00 0001 "a" ${block} 0001 "w" 0001 "p"`),
    reasonCode,
    version: 5 as const,
  })),
  {
    title: '5.0: a will payload that is not the UTF-8 it promises',
    bytes: frame(0x10, '0004 "MQTT" 05 06 003c 00 0001 "a" 02 01 01 0001 "w" 0001 ff'),
    reasonCode: PayloadFormatInvalid,
    version: 5,
  },
  {
    title: '[MQTT-1.5.5-1] 5.0: a remaining length in two bytes where one would do',
    bytes: bytes('10 8d00 0004 "MQTT" 05 00 003c 00 0000'),
    reasonCode: MalformedPacket,
    version: 5,
  },
];

export const CONNECT_REFUSALS: readonly ConnectRefusal[] = [
  ...REFUSED_OLD,
  ...REFUSED_VERSIONS,
  ...REFUSED_IN_BOTH,
  ...REFUSED_V5,
];
