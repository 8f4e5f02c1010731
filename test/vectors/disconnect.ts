// DISCONNECT and AUTH of a client: bytes beside the packets they are, and beside the reason codes they deserve.
import type { AuthPacket, DisconnectPacket } from '../../src/packet/disconnect.js';
import { ReasonCode } from '../../src/packet/reason-codes.js';
import { bytes, frame, INVALID_UTF8 } from './bytes.js';
import type { Refusal, Vector } from './subscribe.js';

const PLAIN: DisconnectPacket = {
  reasonCode: 0,
  sessionExpirySeconds: undefined,
  reasonString: undefined,
  userProperties: [],
};

/** Table 3-10 of 5.0, column "sent by". */
export const DISCONNECT_CODES_OF_CLIENT = [
  0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
];
export const DISCONNECT_CODES_OF_SERVER_ONLY = [
  0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];

export const DISCONNECT_VECTORS: readonly Vector<DisconnectPacket>[] = [
  { title: '3.1', version: 3, bytes: bytes('e0 00'), packet: PLAIN },
  { title: '3.1.1', version: 4, bytes: bytes('e0 00'), packet: PLAIN },
  { title: '5.0 without bytes', version: 5, bytes: bytes('e0 00'), packet: PLAIN },
  {
    title: '5.0, a reason code alone',
    version: 5,
    bytes: bytes('e0 01 04'),
    packet: { ...PLAIN, reasonCode: 0x04 },
  },
  {
    title: '5.0, a reason code and no properties',
    version: 5,
    bytes: bytes('e0 02 04 00'),
    packet: { ...PLAIN, reasonCode: 0x04 },
  },
  {
    title: '5.0 with every property a client has',
    version: 5,
    bytes: bytes('e0 1a 00 18 11 00000000 1f 0003 "bye" 26 0001 "k" 0001 "v" 26 0000 0001 "w"'),
    packet: {
      reasonCode: 0,
      sessionExpirySeconds: 0,
      reasonString: 'bye',
      userProperties: [
        ['k', 'v'],
        ['', 'w'],
      ],
    },
  },
];

export const AUTH_VECTORS: readonly Vector<AuthPacket>[] = [
  {
    title: 'continue',
    version: 5,
    bytes: bytes('f0 0b 18 09 15 0001 "m" 16 0002 00ff'),
    packet: { reasonCode: 0x18, authenticationMethod: 'm', authenticationData: bytes('00ff') },
  },
  {
    title: 'authenticate again, without data',
    version: 5,
    bytes: bytes('f0 10 19 0e 15 0001 "m" 1f 0001 "r" 26 0001 "k" 0000'),
    packet: { reasonCode: 0x19, authenticationMethod: 'm', authenticationData: undefined },
  },
];

const { MalformedPacket, ProtocolError } = ReasonCode;

const hex = (byte: number) => byte.toString(16).padStart(2, '0');

export const DISCONNECT_REFUSALS: readonly Refusal[] = [
  ...([4, 5] as const).flatMap((version) =>
    [0xe1, 0xe2, 0xe4, 0xe8].map((firstByte) => ({
      title: `[MQTT-3.14.1-1] first byte 0x${hex(firstByte)}, version ${version}`,
      version,
      bytes: Buffer.from([firstByte, 0]),
      reasonCode: MalformedPacket as number,
    })),
  ),
  ...([3, 4] as const).map((version) => ({
    title: `bytes after the header in version ${version}`,
    version,
    bytes: bytes('e0 01 00'),
    reasonCode: MalformedPacket as number,
  })),
  ...Array.from({ length: 256 }, (_, reasonCode) => reasonCode)
    .filter((reasonCode) => !DISCONNECT_CODES_OF_CLIENT.includes(reasonCode))
    .map((reasonCode) => ({
      title: `[MQTT-3.14.2-1] reason code 0x${hex(reasonCode)}`,
      version: 5 as const,
      bytes: bytes(`e0 01 ${hex(reasonCode)}`),
      reasonCode: DISCONNECT_CODES_OF_SERVER_ONLY.includes(reasonCode) ? ProtocolError : MalformedPacket,
    })),
  ...(
    [
      ['session expiry twice', '00 0a 11 00000001 11 00000001', ProtocolError],
      ['reason string twice', '00 08 1f 0001 "a" 1f 0001 "b"', ProtocolError],
      ["a server's reference", '00 04 1c 0001 "a"', ProtocolError],
      ['a property of CONNECT', '00 03 21 0001', MalformedPacket],
      ['a block shorter than what follows', '00 00 00', MalformedPacket],
      ['a block longer than the packet', '00 05 11 000000', MalformedPacket],
      ...INVALID_UTF8.map(
        (invalid) =>
          [
            `a reason string with ${invalid.title}`,
            `00 ${hex(invalid.bytes.length + 3)} 1f 00 ${hex(invalid.bytes.length)} ${invalid.bytes.toString('hex')}`,
            MalformedPacket,
          ] as const,
      ),
    ] as const
  ).map(([title, body, reasonCode]) => ({
    title,
    version: 5 as const,
    bytes: frame(0xe0, body),
    reasonCode,
  })),
];

export const AUTH_REFUSALS: readonly Refusal[] = [
  {
    title: '[MQTT-3.15.1-1] flags',
    version: 5,
    bytes: frame(0xf1, '18 04 15 0001 "m"'),
    reasonCode: MalformedPacket,
  },
  {
    title: "no bytes: success is the server's to say",
    version: 5,
    bytes: bytes('f0 00'),
    reasonCode: ProtocolError,
  },
  ...Array.from({ length: 256 }, (_, reasonCode) => reasonCode)
    .filter((reasonCode) => reasonCode !== 0x18 && reasonCode !== 0x19)
    .map((reasonCode) => ({
      title: `[MQTT-3.15.2-1] reason code 0x${hex(reasonCode)}`,
      version: 5 as const,
      bytes: frame(0xf0, `${hex(reasonCode)} 04 15 0001 "m"`),
      reasonCode: reasonCode === 0 ? ProtocolError : MalformedPacket,
    })),
  ...(
    [
      ['no method', '18 00', ProtocolError],
      ['data without a method', '18 04 16 0001 00', ProtocolError],
      ['two methods', '18 08 15 0001 "m" 15 0001 "m"', ProtocolError],
      ['no property length', '18', MalformedPacket],
      ['a session expiry', '18 09 15 0001 "m" 11 00000001', MalformedPacket],
      ['a byte after the properties', '18 04 15 0001 "m" 00', MalformedPacket],
    ] as const
  ).map(([title, body, reasonCode]) => ({
    title,
    version: 5 as const,
    bytes: frame(0xf0, body),
    reasonCode,
  })),
];
