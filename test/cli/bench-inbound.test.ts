import assert from 'node:assert/strict';
import { test } from 'node:test';
import mqttPacket from 'mqtt-packet';
import { InboundParser, type InboundSink, ReadBuffer } from '../../cli/bench/inbound.js';
import { Failure } from '../../cli/failure.js';

/** Writes down what the parser found. */
class Recorder implements InboundSink {
  readonly found: string[] = [];
  readonly #buffer: ReadBuffer;

  constructor(buffer: ReadBuffer) {
    this.#buffer = buffer;
  }

  onPublish(qos: number, packetId: number, payloadStart: number, payloadEnd: number): void {
    const payload = this.#buffer.bytes.toString('latin1', payloadStart, payloadEnd);
    this.found.push(`publish ${qos} ${packetId} ${payload.length > 20 ? payload.length : payload}`);
  }

  onAck(type: number, packetId: number, reasonCode: number): void {
    this.found.push(`ack ${type} ${packetId} ${reasonCode}`);
  }

  onOther(start: number, end: number): void {
    this.found.push(`other ${this.#buffer.bytes[start]! >> 4} ${end - start}`);
  }
}

/** Feeds `bytes` in chunks that end at the given positions. */
function feed(bytes: Buffer, cuts: number[], protocol: 4 | 5): string[] {
  const buffer = new ReadBuffer(1024, 1024);
  const recorder = new Recorder(buffer);
  const parser = new InboundParser(buffer, protocol);
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    // What an earlier chunk left behind must not matter.
    buffer.area.fill(0xee);
    bytes.copy(buffer.area, 0, from, cut);
    parser.feed(cut - from, recorder);
    from = cut;
  }
  return recorder.found;
}

const stream311 = Buffer.concat([
  mqttPacket.generate({
    cmd: 'publish',
    topic: 'a/b',
    payload: 'zero',
    qos: 0,
    retain: false,
    dup: false,
  }),
  mqttPacket.generate({
    cmd: 'publish',
    topic: 'a',
    payload: 'x'.repeat(300),
    qos: 2,
    messageId: 513,
    retain: true,
    dup: true,
  }),
  mqttPacket.generate({ cmd: 'puback', messageId: 1 }),
  mqttPacket.generate({ cmd: 'pubrec', messageId: 258 }),
  mqttPacket.generate({ cmd: 'pubrel', messageId: 65_535 }),
  mqttPacket.generate({ cmd: 'pingresp' }),
  mqttPacket.generate({ cmd: 'pubcomp', messageId: 3 }),
  mqttPacket.generate({
    cmd: 'publish',
    topic: 't',
    payload: '',
    qos: 1,
    messageId: 7,
    retain: false,
    dup: false,
  }),
]);
const found311 = [
  'publish 0 0 zero',
  'publish 2 513 300',
  'ack 4 1 0',
  'ack 5 258 0',
  'ack 6 65535 0',
  'other 13 2',
  'ack 7 3 0',
  'publish 1 7 ',
];

const v5 = { protocolVersion: 5 };
const stream5 = Buffer.concat([
  mqttPacket.generate(
    {
      cmd: 'publish',
      topic: 'a/b',
      payload: 'five',
      qos: 1,
      messageId: 4,
      retain: false,
      dup: false,
      properties: { userProperties: { name: 'v'.repeat(200) }, messageExpiryInterval: 60 },
    },
    v5,
  ),
  mqttPacket.generate({ cmd: 'puback', messageId: 1, reasonCode: 0x97 }, v5),
  mqttPacket.generate({ cmd: 'disconnect', reasonCode: 0x8b }, v5),
  mqttPacket.generate(
    { cmd: 'publish', topic: 'a', payload: 'plain', qos: 0, retain: false, dup: false },
    v5,
  ),
]);
const found5 = ['publish 1 4 five', 'ack 4 1 151', 'other 14 4', 'publish 0 0 plain'];

for (const [name, protocol, stream, found] of [
  ['3.1.1', 4, stream311, found311],
  ['5.0', 5, stream5, found5],
] as const) {
  test(`a ${name} stream cut in two at every byte`, () => {
    for (let cut = 0; cut <= stream.length; cut++) assert.deepEqual(feed(stream, [cut], protocol), found);
  });

  test(`a ${name} stream byte by byte`, () => {
    assert.deepEqual(
      feed(
        stream,
        Array.from({ length: stream.length }, (_, at) => at),
        protocol,
      ),
      found,
    );
  });
}

test('a length of five bytes is refused, wherever it is cut', () => {
  const bytes = Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0]);
  for (let cut = 1; cut < bytes.length; cut++) assert.throws(() => feed(bytes, [cut], 4), Failure);
});

test('a packet larger than the head room is refused rather than kept', () => {
  assert.throws(() => feed(Buffer.from([0x30, 0xff, 0x7f, 0, 1]), [], 4), /a packet of 16386 bytes/);
});

test('a PUBLISH shorter than its topic and an acknowledgement without an id are refused', () => {
  assert.throws(() => feed(Buffer.from([0x30, 2, 0, 9]), [], 4), /shorter than its own header/);
  assert.throws(() => feed(Buffer.from([0x40, 0]), [], 4), /without a packet id/);
});
