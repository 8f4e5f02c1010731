// What leaves an outbox is compared with what mqtt-packet makes of the same packet, over a transport that reads bytes as late as it may.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import mqttPacket, { type Packet } from 'mqtt-packet';
import type { Transport } from '../../src/core/transport.js';
import { PacketType, type ProtocolVersion, type QoS } from '../../src/packet/types.js';
import { TopicTable } from '../../src/router/topic-table.js';
import { Message, NO_OFFSET } from '../../src/session/message.js';
import { Outbox, type OutboxOptions, PACKET_BYTES_MAX } from '../../src/session/outbox.js';
import type { Route } from '../../src/session/subscription.js';
import { check } from '../packet/oracle.js';

class LateTransport implements Transport {
  readonly remoteAddress = '127.0.0.1';
  readonly remotePort = 1;
  readonly isSecure = false;
  readonly clientCertificateName = undefined;
  readonly received: Buffer[] = [];
  pendingBytes = 0;
  isFull = false;
  #writes: { bytes: Buffer; onWritten: () => void }[] = [];

  start(): void {
    // Nothing arrives.
  }
  write(bytes: Buffer, onWritten: () => void): boolean {
    this.#writes.push({ bytes, onWritten });
    this.pendingBytes += bytes.length;
    return !this.isFull;
  }
  /** Lets the oldest writes go. */
  leave(count = Number.POSITIVE_INFINITY): void {
    for (let i = 0; i < count && this.#writes.length > 0; i++) {
      const { bytes, onWritten } = this.#writes.shift()!;
      this.received.push(Buffer.from(bytes));
      this.pendingBytes -= bytes.length;
      onWritten();
    }
  }
  get bytes(): Buffer {
    return Buffer.concat(this.received);
  }
  get writes(): number {
    return this.#writes.length;
  }
  cork(): void {}

  uncork(): void {}

  pause(): void {
    // Reading is not looked at.
  }
  resume(): void {
    // Reading is not looked at.
  }
  end(): void {
    // Closing is not looked at.
  }
  destroy(): void {
    // Closing is not looked at.
  }
}

function makeOutbox(options: Partial<OutboxOptions> = {}): {
  outbox: Outbox;
  transport: LateTransport;
  dirty: Outbox[];
} {
  const transport = new LateTransport();
  const dirty: Outbox[] = [];
  const all: OutboxOptions = {
    transport,
    version: 4,
    outboxBytes: 1_000_000,
    maximumPacketBytes: PACKET_BYTES_MAX,
    topicAliasMaximum: 0,
    onDirty: (one) => dirty.push(one),
    onRoom: () => undefined,
    ...options,
  };
  return { outbox: new Outbox(all), transport, dirty };
}

const topics = new TopicTable<Route>(1000);

interface MessageOptions {
  topic?: string;
  payload?: Buffer;
  properties?: Buffer;
  expirySeconds?: number;
  timestampMs?: number;
  /** The bytes lie as in a 3.1.1 packet, with a packet id between topic and payload where it says so. */
  layout?: 'apart' | 'qos0' | 'record';
  isStable?: boolean;
}

function makeMessage(options: MessageOptions = {}): Message {
  const message = new Message();
  const payload = options.payload ?? Buffer.from('payload');
  message.topic = topics.intern(options.topic ?? 'a/b');
  message.offset = NO_OFFSET;
  message.expirySeconds = options.expirySeconds ?? -1;
  message.timestampMs = options.timestampMs ?? 0;
  message.properties = options.properties ?? Buffer.alloc(0);
  message.propertiesEnd = message.properties.length;
  message.isBufferStable = options.isStable ?? false;
  const layout = options.layout ?? 'apart';
  if (layout === 'apart') {
    message.buffer = payload;
    message.payloadEnd = payload.length;
    return message;
  }
  const { bytes } = message.topic;
  const packetId = layout === 'record' ? [0xab, 0xcd] : [];
  const head = Buffer.from([0xee, bytes.length >> 8, bytes.length & 0xff, ...bytes, ...packetId]);
  message.buffer = Buffer.concat([head, payload]);
  message.topicStart = 3;
  message.topicEnd = 3 + bytes.length;
  message.payloadStart = head.length;
  message.payloadEnd = message.buffer.length;
  return message;
}

function sent(transport: LateTransport, outbox: Outbox): Buffer {
  outbox.flush();
  transport.leave();
  const { bytes } = transport;
  transport.received.length = 0;
  return bytes;
}

const encode = (packet: object, protocolVersion: number): Buffer =>
  mqttPacket.generate(packet as Packet, { protocolVersion });

const payloads = fc
  .constantFrom(0, 1, 39, 40, 41, 100, 127, 128, 5000, 16_383, 16_384, 70_000)
  .map((length) => Buffer.alloc(length, 'p'));
const qosOf = fc.constantFrom<QoS>(0, 1, 2);
const layouts = fc.constantFrom('apart' as const, 'qos0' as const, 'record' as const);

test('a PUBLISH to a 3.1.1 client is the bytes mqtt-packet makes', (context) => {
  check(
    context,
    fc.property(
      payloads,
      qosOf,
      layouts,
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      (payload, qos, layout, isStable, retain, dup) => {
        const { outbox, transport } = makeOutbox();
        const message = makeMessage({
          payload,
          layout,
          isStable,
          expirySeconds: 10,
          properties: Buffer.from([1, 1]),
        });
        const isDuplicate = dup && qos > 0;
        assert.equal(outbox.publish(message, qos, 0x1234, retain, isDuplicate, [5], 0), true);
        const queued = outbox.queuedBytes;
        const bytes = sent(transport, outbox);
        assert.deepEqual(
          bytes,
          encode(
            { cmd: 'publish', topic: 'a/b', payload, qos, retain, dup: isDuplicate, messageId: 0x1234 },
            4,
          ),
        );
        assert.equal(queued, bytes.length);
        assert.equal(outbox.queuedBytes, 0);
      },
    ),
  );
});

test('a PUBLISH to a 5.0 client has its expiry, its identifiers and what the publisher said', (context) => {
  const ids = fc.option(fc.array(fc.constantFrom(1, 127, 128, 268_435_455), { minLength: 1, maxLength: 4 }), {
    nil: undefined,
  });
  check(
    context,
    fc.property(
      payloads,
      qosOf,
      layouts,
      fc.boolean(),
      ids,
      fc.option(fc.nat(100), { nil: undefined }),
      (payload, qos, layout, isStable, subscriptionIds, expiry) => {
        const { outbox, transport } = makeOutbox({ version: 5 });
        const contentType = Buffer.from([0x03, 0, 4, ...Buffer.from('text')]);
        const message = makeMessage({
          payload,
          layout,
          isStable,
          properties: contentType,
          ...(expiry === undefined ? {} : { expirySeconds: expiry, timestampMs: 1000 }),
        });
        outbox.publish(message, qos, 7, false, false, subscriptionIds, 31_500);
        const [packet] = parse(sent(transport, outbox), 5);
        assert.deepEqual(packet!.payload, payload);
        assert.equal(packet!.topic, 'a/b');
        assert.equal(packet!.qos, qos);
        assert.equal(packet!.messageId, qos === 0 ? undefined : 7);
        const { properties } = packet!;
        assert.equal(properties?.contentType, 'text');
        assert.deepEqual([properties?.subscriptionIdentifier ?? []].flat(), subscriptionIds ?? []);
        // [MQTT-3.3.2-6] It waited 30.5 seconds.
        assert.equal(
          properties?.messageExpiryInterval,
          expiry === undefined ? undefined : Math.max(0, expiry - 30),
        );
      },
    ),
  );
});

interface Parsed {
  cmd: string;
  topic: string;
  payload: Buffer;
  qos: number;
  messageId: number | undefined;
  properties: Record<string, unknown> | undefined;
}

function parse(bytes: Buffer, protocolVersion: number): Parsed[] {
  const packets: Parsed[] = [];
  const parser = mqttPacket.parser({ protocolVersion });
  parser.on('packet', (packet) => packets.push(packet as unknown as Parsed));
  parser.on('error', (error: Error) => assert.fail(error.message));
  parser.parse(bytes);
  return packets;
}

test('acknowledgements are as short as they can be', () => {
  for (const version of [3, 4, 5] as const) {
    const { outbox, transport } = makeOutbox({ version });
    outbox.ack(PacketType.Puback, 0x0102, 0);
    outbox.ack(PacketType.Pubrec, 0x0102, 0x10);
    outbox.ack(PacketType.Pubrel, 0xffff, 0);
    outbox.ack(PacketType.Pubcomp, 1, 0x92);
    assert.equal(
      sent(transport, outbox).toString('hex'),
      version === 5
        ? '400201025003010210' + '6202ffff7003000192'
        : '40020102' + '50020102' + '6202ffff' + '70020001',
    );
  }
});

test('a topic gets an alias at its first message and goes by it from then on, up to the maximum', () => {
  const { outbox, transport } = makeOutbox({ version: 5, topicAliasMaximum: 2 });
  for (const topic of ['a', 'b', 'a', 'c', 'b', 'c'])
    outbox.publish(makeMessage({ topic }), 0, 0, false, false, undefined, 0);
  const packets = parse(sent(transport, outbox), 5).map(({ topic, properties }) => [
    topic,
    properties?.topicAlias,
  ]);
  assert.deepEqual(packets, [
    ['a', 1],
    ['b', 2],
    ['', 1],
    ['c', undefined],
    ['', 2],
    ['c', undefined],
  ]);
});

test('an alias counts only once its packet was written', () => {
  const { outbox, transport } = makeOutbox({ version: 5, topicAliasMaximum: 2, maximumPacketBytes: 30 });
  assert.equal(
    outbox.publish(makeMessage({ topic: 'a', payload: Buffer.alloc(100) }), 0, 0, false, false, undefined, 0),
    false,
  );
  outbox.publish(makeMessage({ topic: 'a' }), 0, 0, false, false, undefined, 0);
  assert.deepEqual(
    parse(sent(transport, outbox), 5).map(({ topic, properties }) => [topic, properties?.topicAlias]),
    [['a', 1]],
  );
});

test('a packet of just the maximum size is sent, and one byte more is not [MQTT-3.1.2-24]', () => {
  for (const version of [4, 5] as const) {
    const { outbox, transport } = makeOutbox({ version });
    outbox.publish(makeMessage(), 1, 1, false, false, [3], 0);
    const { length } = sent(transport, outbox);
    for (const [maximumPacketBytes, isSent] of [
      [length, true],
      [length - 1, false],
    ] as const) {
      const limited = makeOutbox({ version, maximumPacketBytes });
      assert.equal(limited.outbox.publish(makeMessage(), 1, 1, false, false, [3], 0), isSent);
      assert.equal(sent(limited.transport, limited.outbox).length, isSent ? length : 0);
      assert.equal(limited.outbox.queuedBytes, 0);
    }
  }
});

test('a large payload that stays is sent from where it is, a passing one is copied', () => {
  const payload = Buffer.alloc(20_000, 'x');
  const { outbox, transport } = makeOutbox();
  outbox.publish(makeMessage({ payload, isStable: true }), 0, 0, false, false, undefined, 0);
  outbox.publish(makeMessage({ payload: Buffer.from('tail') }), 0, 0, false, false, undefined, 0);
  assert.equal(outbox.queuedBytes, 20_000 + 9 + 11);
  outbox.flush();
  assert.equal(transport.writes, 3);
  payload.fill('y');
  transport.leave();
  assert.ok(
    transport.received[1]!.every((byte) => byte === 'y'.charCodeAt(0)),
    'no copy was made',
  );
  transport.received.length = 0;
  const passing = Buffer.alloc(20_000, 'x');
  outbox.publish(makeMessage({ payload: passing }), 0, 0, false, false, undefined, 0);
  passing.fill('y');
  assert.equal(sent(transport, outbox).indexOf('y'), -1);
});

test('it says once that there is something to flush', () => {
  const { outbox, transport, dirty } = makeOutbox();
  for (let i = 0; i < 5; i++) outbox.ack(PacketType.Puback, 1, 0);
  assert.equal(dirty.length, 1);
  sent(transport, outbox);
  outbox.ack(PacketType.Puback, 1, 0);
  assert.equal(dirty.length, 2);
});

test('nothing more is handed over while the transport is full, and nothing gets lost', () => {
  const { outbox, transport } = makeOutbox({ outboxBytes: 100 });
  transport.isFull = true;
  outbox.bytes(Buffer.alloc(60, 1), 0, 60);
  outbox.flush();
  outbox.bytes(Buffer.alloc(60, 2), 0, 60);
  outbox.flush();
  assert.equal(transport.writes, 1);
  assert.deepEqual([outbox.queuedBytes, outbox.hasRoom], [120, false]);
  transport.leave();
  assert.deepEqual([outbox.queuedBytes, outbox.hasRoom], [60, true]);
  transport.isFull = false;
  outbox.onDrain();
  transport.leave();
  assert.deepEqual(transport.bytes, Buffer.concat([Buffer.alloc(60, 1), Buffer.alloc(60, 2)]));
  assert.equal(outbox.queuedBytes, 0);
});

test('whoever was told that there is no room is told when there is, once, whatever the transport answered', () => {
  for (const isFull of [true, false]) {
    let rooms = 0;
    const { outbox, transport } = makeOutbox({ outboxBytes: 100, onRoom: () => rooms++ });
    transport.isFull = isFull;
    outbox.bytes(Buffer.alloc(80), 0, 80);
    assert.equal(outbox.hasRoom, true);
    outbox.bytes(Buffer.alloc(80), 0, 80);
    assert.equal(outbox.hasRoom, false);
    outbox.flush();
    assert.equal(rooms, 0);
    transport.leave();
    assert.equal(rooms, 1);
    outbox.bytes(Buffer.alloc(80), 0, 80);
    outbox.onDrain();
    transport.leave();
    assert.equal(rooms, 1, 'nobody was waiting');
  }
});

test('a closed outbox writes no more, and takes back its buffers', () => {
  const { outbox, transport } = makeOutbox();
  outbox.ack(PacketType.Puback, 1, 0);
  outbox.flush();
  outbox.ack(PacketType.Puback, 2, 0);
  outbox.close();
  outbox.flush();
  outbox.ack(PacketType.Puback, 3, 0);
  outbox.flush();
  transport.leave();
  assert.equal(transport.bytes.toString('hex'), '40020001');
});

test('what several outboxes with one pool of buffers send is what was written to each', (context) => {
  const step = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        kind: fc.constant('write' as const),
        who: fc.nat(3),
        length: fc.constantFrom(1, 3, 50, 900, 1024, 1025, 8000, 8193, 40_000, 65_536, 65_537, 100_000),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('publish' as const),
        who: fc.nat(3),
        length: fc.constantFrom(0, 10, 1000, 16_383, 16_384, 70_000),
      }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('flush' as const), who: fc.nat(3) }) },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('leave' as const),
        who: fc.nat(3),
        count: fc.integer({ min: 1, max: 4 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('fill' as const), who: fc.nat(3) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('drain' as const), who: fc.nat(3) }) },
  );
  check(
    context,
    fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
      const versions: ProtocolVersion[] = [4, 5, 4, 5];
      const boxes = versions.map((version) => ({ ...makeOutbox({ version }), written: [] as Buffer[] }));
      let seed = 0;
      for (const one of steps) {
        const { outbox, transport, written } = boxes[one.who]!;
        if (one.kind === 'write') {
          const bytes = Buffer.alloc(one.length, ++seed);
          const padded = Buffer.concat([Buffer.from('no'), bytes, Buffer.from('no')]);
          outbox.bytes(padded, 2, 2 + one.length);
          written.push(bytes);
        } else if (one.kind === 'publish') {
          const payload = Buffer.alloc(one.length, ++seed);
          outbox.publish(makeMessage({ payload, isStable: true }), 1, 9, false, false, undefined, 0);
          written.push(
            encode({ cmd: 'publish', topic: 'a/b', payload, qos: 1, messageId: 9 }, outbox.version),
          );
        } else if (one.kind === 'flush') {
          outbox.flush();
        } else if (one.kind === 'leave') {
          transport.leave(one.count);
        } else if (one.kind === 'fill') {
          transport.isFull = true;
        } else {
          transport.isFull = false;
          outbox.onDrain();
        }
        const total = written.reduce((sum, { length }) => sum + length, 0);
        const gone = transport.received.reduce((sum, { length }) => sum + length, 0);
        assert.equal(outbox.queuedBytes, total - gone);
      }
      for (const { outbox, transport, written } of boxes) {
        transport.isFull = false;
        outbox.onDrain();
        transport.leave();
        assert.equal(transport.bytes.equals(Buffer.concat(written)), true);
        assert.equal(outbox.queuedBytes, 0);
      }
    }),
    150,
  );
});
