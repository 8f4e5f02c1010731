import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FrameSplitter } from '../../src/packet/frame-splitter.js';
import { bytes, frame } from '../vectors/bytes.js';
import { check, refuses } from './oracle.js';

const CONNECT = frame(0x10, '0004 "MQTT" 04 02 0000 0001 "c"');

class Collector {
  readonly frames: string[] = [];
  readonly splitter: FrameSplitter;
  chunkEnds = 0;
  /** Called within the frame with this index. */
  at: { index: number; act: (splitter: FrameSplitter) => void } | undefined;

  constructor(packetBytesMax = 100_000) {
    this.splitter = new FrameSplitter(
      {
        onFrame: (buffer, start, bodyStart, end) => {
          const whole = Buffer.from(buffer.subarray(start, end));
          let headerBytes = 2;
          while (whole[headerBytes - 1]! >= 0x80) headerBytes++;
          assert.equal(bodyStart - start, headerBytes, 'where the body starts');
          this.frames.push(whole.toString('hex'));
          if (this.at?.index === this.frames.length - 1) this.at.act(this.splitter);
        },
        onChunkEnd: () => {
          this.chunkEnds++;
        },
      },
      packetBytesMax,
    );
  }

  /** Feeds a copy that is overwritten afterwards, as a socket's buffer is. */
  push(chunk: Buffer): void {
    const copy = Buffer.from(chunk);
    this.splitter.push(copy);
    copy.fill(0xee);
  }
}

const hex = (packets: readonly Buffer[]): string[] => packets.map((packet) => packet.toString('hex'));

const PACKETS = [
  CONNECT,
  bytes('c000'),
  frame(0x30, Buffer.alloc(127, 1)),
  frame(0x30, Buffer.alloc(128, 2)),
  bytes('c000'),
  frame(0x32, Buffer.alloc(300, 3)),
  bytes('30 80 00'),
  bytes('e000'),
];

test('a stream cut in two at every byte boundary has the same packets', () => {
  const stream = Buffer.concat(PACKETS);
  for (let cut = 0; cut <= stream.length; cut++) {
    const collector = new Collector();
    collector.push(stream.subarray(0, cut));
    collector.push(stream.subarray(cut));
    assert.deepEqual(collector.frames, hex(PACKETS), `cut at ${cut}`);
    assert.equal(collector.splitter.hasPartial, false);
  }
});

test('a stream that arrives byte by byte has the same packets, each as soon as it is whole', () => {
  const collector = new Collector();
  let whole = 0;
  for (const packet of PACKETS) {
    for (let i = 0; i < packet.length; i++) {
      assert.equal(collector.frames.length, whole);
      collector.push(packet.subarray(i, i + 1));
    }
    whole++;
  }
  assert.deepEqual(collector.frames, hex(PACKETS));
});

const lengths = fc.oneof(
  fc.nat(5),
  fc.constantFrom(126, 127, 128, 129, 255, 256, 257),
  fc.constantFrom(16_383, 16_384, 40_000),
);
const streams = fc
  .array(fc.tuple(fc.constantFrom(0x30, 0x32, 0x40, 0x82, 0xc0), lengths), { maxLength: 12 })
  .map((packets) => [CONNECT, ...packets.map(([first, length], i) => frame(first, Buffer.alloc(length, i)))]);

/** Cuts a stream where the numbers say, 0 to 1. */
function cutAt(stream: Buffer, places: readonly number[]): Buffer[] {
  const at = [
    0,
    ...places.map((place) => Math.floor(place * stream.length)).sort((a, b) => a - b),
    stream.length,
  ];
  return at.slice(1).map((end, i) => stream.subarray(at[i]!, end));
}

const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 20 });

test('any stream cut anywhere has the same packets, paused in between or not', (context) => {
  check(
    context,
    fc.property(streams, cuts, fc.array(fc.nat(30), { maxLength: 6 }), (packets, places, pauses) => {
      const collector = new Collector();
      const expected = hex(packets);
      const chunks = cutAt(Buffer.concat(packets), places);
      for (const [i, chunk] of chunks.entries()) {
        if (pauses.includes(i)) {
          const before = collector.frames.length;
          collector.splitter.pause();
          collector.push(chunk);
          assert.equal(collector.frames.length, before, 'nothing is handed over while paused');
          if (i % 2 === 0) collector.splitter.resume();
        } else {
          collector.splitter.resume();
          collector.push(chunk);
        }
      }
      collector.splitter.resume();
      assert.deepEqual(collector.frames, expected);
      assert.equal(collector.splitter.hasPartial, false);
    }),
    300,
  );
});

test('a handler that pauses gets the rest after resume, one that stops gets nothing more', (context) => {
  check(
    context,
    fc.property(streams, cuts, fc.nat(12), fc.boolean(), (packets, places, index, stops) => {
      const collector = new Collector();
      collector.at = { index, act: (splitter) => (stops ? splitter.stop() : splitter.pause()) };
      for (const chunk of cutAt(Buffer.concat(packets), places)) collector.push(chunk);
      const expected = hex(packets);
      assert.deepEqual(collector.frames, expected.slice(0, index + 1));
      collector.splitter.resume();
      assert.deepEqual(collector.frames, stops ? expected.slice(0, index + 1) : expected);
    }),
    200,
  );
});

test('the end of a chunk is told after its packets, and not to a handler that has stopped', () => {
  const collector = new Collector();
  collector.push(Buffer.concat([CONNECT, bytes('c000 c000')]));
  assert.equal(collector.chunkEnds, 1);
  collector.at = { index: 3, act: (splitter) => splitter.stop() };
  collector.push(bytes('c000 c000'));
  assert.deepEqual([collector.frames.length, collector.chunkEnds], [4, 1]);
});

for (const [title, stream, reasonCode] of [
  ['a first packet that is no CONNECT', '40 02 00 01', 0x82],
  ['its first byte alone', '30', 0x82],
  ['a first byte of no packet type', '00', 0x82],
  ['a CONNECT that announces too much', '10 ff ff ff 7f', 0x95],
  ['a CONNECT with a remaining length of five bytes', '10 ff ff ff ff', 0x81],
] as const) {
  test(`${title} is refused, however it arrives`, () => {
    refuses(() => new Collector().push(bytes(stream)), reasonCode);
    refuses(() => {
      const collector = new Collector();
      for (const byte of bytes(stream)) collector.push(Buffer.from([byte]));
    }, reasonCode);
  });
}

test('a packet of the largest size is taken, one byte more is refused at its header', () => {
  const collector = new Collector(1000);
  collector.push(CONNECT);
  const largest = frame(0x30, Buffer.alloc(997));
  collector.push(largest);
  assert.equal(collector.frames.length, 2);
  const header = frame(0x30, Buffer.alloc(998)).subarray(0, 3);
  refuses(() => collector.push(header), 0x95);
});

test('[MQTT-1.5.5-1] a length longer than necessary is malformed where the version says so', () => {
  for (const stream of ['30 80 00', '30 81 80 00', 'c0 80 80 80 00']) {
    const lenient = new Collector();
    lenient.push(CONNECT);
    lenient.push(Buffer.concat([bytes(stream), Buffer.alloc(1)]));
    const strict = new Collector();
    strict.push(CONNECT);
    strict.splitter.requiresShortestLength = true;
    refuses(() => strict.push(bytes(stream)), 0x81);
  }
});

test('an announced packet costs memory as it arrives, not as it announces itself', () => {
  const before = process.memoryUsage().arrayBuffers;
  const splitters = Array.from({ length: 200 }, () => {
    const collector = new Collector(268_435_460);
    collector.push(CONNECT);
    collector.push(bytes('30 ff ff ff 7f'));
    collector.push(Buffer.alloc(100));
    return collector;
  });
  const each = (process.memoryUsage().arrayBuffers - before) / splitters.length;
  assert.ok(each < 4096, `${each} bytes for 105 that arrived`);
});
