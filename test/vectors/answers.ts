// What the broker answers: arguments beside the bytes they become.
import type { Connack, ServerDisconnect } from '../../src/packet/encode.js';
import type { ProtocolVersion } from '../../src/packet/types.js';
import { bytes } from './bytes.js';

export const CONNACK_VECTORS: readonly {
  title: string;
  version: ProtocolVersion;
  connack: Connack;
  bytes: Buffer | undefined;
}[] = [
  {
    title: '3.1.1, accepted, session present',
    version: 4,
    connack: { sessionPresent: true, reasonCode: 0 },
    bytes: bytes('20 02 01 00'),
  },
  {
    title: '3.1 reserves the byte of session present',
    version: 3,
    connack: { sessionPresent: true, reasonCode: 0 },
    bytes: bytes('20 02 00 00'),
  },
  {
    title: 'properties are for 5.0',
    version: 4,
    connack: { sessionPresent: false, reasonCode: 0, properties: { receiveMaximum: 5 } },
    bytes: bytes('20 02 00 00'),
  },
  {
    title: '[MQTT-3.2.2-4 v3.1.1] a refusal has no session',
    version: 4,
    connack: { sessionPresent: true, reasonCode: 0x85 },
    bytes: bytes('20 02 00 02'),
  },
  {
    title: '3.1.1, unacceptable protocol version',
    version: 4,
    connack: { sessionPresent: false, reasonCode: 0x84 },
    bytes: bytes('20 02 00 01'),
  },
  {
    title: '3.1.1, bad user name or password',
    version: 4,
    connack: { sessionPresent: false, reasonCode: 0x86 },
    bytes: bytes('20 02 00 04'),
  },
  {
    title: '[MQTT-3.2.2-6 v3.1.1] no return code, no CONNACK',
    version: 4,
    connack: { sessionPresent: false, reasonCode: 0x81 },
    bytes: undefined,
  },
  {
    title: '3.1, no return code, no CONNACK',
    version: 3,
    connack: { sessionPresent: false, reasonCode: 0x82 },
    bytes: undefined,
  },
  {
    title: '5.0, accepted, without properties',
    version: 5,
    connack: { sessionPresent: true, reasonCode: 0 },
    bytes: bytes('20 03 01 00 00'),
  },
  {
    title: '[MQTT-3.2.2-6 v5] a refusal has no session',
    version: 5,
    connack: { sessionPresent: true, reasonCode: 0x81, properties: { reasonString: 'no' } },
    bytes: bytes('20 08 00 81 05 1f 0002 "no"'),
  },
  {
    title: '5.0, every property',
    version: 5,
    connack: {
      sessionPresent: false,
      reasonCode: 0,
      properties: {
        sessionExpirySeconds: 10,
        receiveMaximum: 20,
        maximumQos: 1,
        retainAvailable: false,
        maximumPacketSize: 1000,
        assignedClientId: 'id',
        topicAliasMaximum: 5,
        wildcardSubscriptionAvailable: true,
        subscriptionIdentifiersAvailable: false,
        sharedSubscriptionAvailable: true,
        serverKeepAliveSeconds: 30,
        responseInformation: 'r',
        serverReference: 's',
        authenticationMethod: 'm',
        authenticationData: bytes('00ff'),
        reasonString: 'why',
        userProperties: [
          ['b', '1'],
          ['a', '2'],
          ['b', '3'],
          ['__proto__', ''],
        ],
      },
    },
    bytes: bytes(`20 5f 00 00 5c
      11 0000000a 21 0014 24 01 25 00 27 000003e8 12 0002 "id" 22 0005 28 01 29 00 2a 01 13 001e
      1a 0001 "r" 1c 0001 "s" 15 0001 "m" 16 0002 00ff
      1f 0003 "why" 26 0001 "b" 0001 "1" 26 0001 "a" 0001 "2" 26 0001 "b" 0001 "3" 26 0009 "__proto__" 0000`),
  },
  {
    title: '5.0, an empty list of user properties',
    version: 5,
    connack: { sessionPresent: false, reasonCode: 0, properties: { userProperties: [] } },
    bytes: bytes('20 03 00 00 00'),
  },
];

export const DISCONNECT_ANSWERS: readonly { title: string; disconnect: ServerDisconnect; bytes: Buffer }[] = [
  {
    title: 'a reason code alone',
    disconnect: { reasonCode: 0x8e },
    bytes: bytes('e0 02 8e 00'),
  },
  {
    title: 'everything',
    disconnect: {
      reasonCode: 0x9c,
      serverReference: 'b:1',
      reasonString: 'go',
      userProperties: [['k', 'v']],
    },
    bytes: bytes('e0 14 9c 12 1c 0003 "b:1" 1f 0002 "go" 26 0001 "k" 0001 "v"'),
  },
];
