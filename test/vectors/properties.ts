// Properties: which packet of a client may carry which, read off table 2-4 of 5.0 packet by packet, so that it is a second opinion
// on the table in src, which is written property by property.
import { WILL } from '../../src/packet/property-table.js';
import { PacketType } from '../../src/packet/types.js';
import { bytes } from './bytes.js';

export const HOLDERS: readonly { name: string; holder: number; ids: readonly number[] }[] = [
  {
    name: 'CONNECT',
    holder: PacketType.Connect,
    ids: [0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
  },
  { name: 'will', holder: WILL, ids: [0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26] },
  { name: 'PUBLISH', holder: PacketType.Publish, ids: [0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26] },
  { name: 'PUBACK', holder: PacketType.Puback, ids: [0x1f, 0x26] },
  { name: 'PUBREC', holder: PacketType.Pubrec, ids: [0x1f, 0x26] },
  { name: 'PUBREL', holder: PacketType.Pubrel, ids: [0x1f, 0x26] },
  { name: 'PUBCOMP', holder: PacketType.Pubcomp, ids: [0x1f, 0x26] },
  { name: 'SUBSCRIBE', holder: PacketType.Subscribe, ids: [0x0b, 0x26] },
  { name: 'UNSUBSCRIBE', holder: PacketType.Unsubscribe, ids: [0x26] },
  { name: 'DISCONNECT', holder: PacketType.Disconnect, ids: [0x11, 0x1f, 0x26] },
  { name: 'AUTH', holder: PacketType.Auth, ids: [0x15, 0x16, 0x1f, 0x26] },
];

/** What a server alone may send on a packet that clients send too: a broken rule rather than broken structure. */
export const FROM_SERVER_ONLY: readonly (readonly [holder: number, id: number])[] = [
  [PacketType.Publish, 0x0b],
  [PacketType.Disconnect, 0x1c],
];

/** One valid occurrence of each property there is. */
export const SAMPLES: ReadonlyMap<number, Buffer> = new Map(
  [
    '01 01',
    '02 0000003c',
    '03 0004 "text"',
    '08 0003 "r/s"',
    '09 0002 00ff',
    '0b ff7f',
    '11 ffffffff',
    '12 0001 "x"',
    '13 003c',
    '15 0001 "m"',
    '16 0001 00',
    '17 00',
    '18 00000005',
    '19 01',
    '1a 0001 "i"',
    '1c 0001 "s"',
    '1f 0006 "reason"',
    '21 0001',
    '22 0000',
    '23 ffff',
    '24 01',
    '25 01',
    '26 0001 "k" 0002 c3 a9',
    '27 00000001',
    '28 01',
    '29 01',
    '2a 01',
  ].map((notation) => [bytes(notation)[0]!, bytes(notation)]),
);

/** Properties whose value is a UTF-8 string, with one packet each that may carry it. */
export const STRINGS: readonly (readonly [id: number, holder: number])[] = [
  [0x03, PacketType.Publish],
  [0x08, PacketType.Publish],
  [0x03, WILL],
  [0x08, WILL],
  [0x15, PacketType.Connect],
  [0x1f, PacketType.Disconnect],
];
