import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FrameGatherer } from '../../src/replication/frame-gatherer.js';
import { FRAME_BYTES_MAX } from '../../src/replication/frames.js';
import { check } from '../packet/oracle.js';

const MIB = 1024 * 1024;

/** Something with the length of a frame before it; what is in it is for others. */
function frameOf(bodyBytes: number, fill = 0): Buffer {
  const frame = Buffer.alloc(13 + bodyBytes, fill);
  frame.writeUInt32LE(9 + bodyBytes);
  return frame;
}

function announce(length: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(length);
  return bytes;
}

function take(gatherer: FrameGatherer, chunk: Buffer): Buffer[] {
  gatherer.push(chunk);
  const frames: Buffer[] = [];
  for (let frame = gatherer.next(); frame !== undefined; frame = gatherer.next()) frames.push(frame);
  return frames;
}

const hex = (frames: readonly Buffer[]): string[] => frames.map((frame) => frame.toString('hex'));

test('a stream cut in two at every byte has the same frames', () => {
  const frames = [frameOf(0, 1), frameOf(1, 2), frameOf(200, 3), frameOf(0, 4)];
  const stream = Buffer.concat(frames);
  for (let cut = 0; cut <= stream.length; cut++) {
    const gatherer = new FrameGatherer(1000);
    const got = [...take(gatherer, stream.subarray(0, cut)), ...take(gatherer, stream.subarray(cut))];
    assert.deepEqual(hex(got), hex(frames), `cut at ${cut}`);
  }
});

test('however a stream is cut, it has the same frames, which stay as they are', (context) => {
  check(
    context,
    fc.property(
      fc.array(fc.nat(400), { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 300 })),
      (bodies, cuts) => {
        const frames = bodies.map((body, i) => frameOf(body, i + 1));
        const stream = Buffer.concat(frames);
        const gatherer = new FrameGatherer(1000);
        const got: Buffer[] = [];
        let at = 0;
        for (const cut of [...cuts, stream.length]) {
          // Memory of its own for each chunk, as a socket has it.
          got.push(...take(gatherer, Buffer.from(stream.subarray(at, at + cut))));
          at = Math.min(at + cut, stream.length);
        }
        assert.deepEqual(hex(got), hex(frames));
      },
    ),
  );
});

test('a stream that arrives byte by byte has each frame as soon as it is whole', () => {
  const gatherer = new FrameGatherer(1000);
  const frame = frameOf(100, 5);
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < frame.length - 1; i++) {
      assert.deepEqual(take(gatherer, frame.subarray(i, i + 1)), []);
    }
    assert.deepEqual(hex(take(gatherer, frame.subarray(-1))), hex([frame]));
  }
});

test('a frame that lies whole in what arrived is not copied', () => {
  const chunk = Buffer.concat([frameOf(10), frameOf(20)]);
  for (const frame of take(new FrameGatherer(1000), chunk)) assert.equal(frame.buffer, chunk.buffer);
});

test('a length that is too large, or too small for a header, is refused when it is known', () => {
  for (const length of [0, 8, 997, 0xffff_ffff]) {
    const whole = new FrameGatherer(1000);
    assert.throws(() => take(whole, announce(length)), { code: 'PEER_PROTOCOL' });
    const cut = new FrameGatherer(1000);
    assert.deepEqual(take(cut, announce(length).subarray(0, 3)), []);
    assert.throws(() => take(cut, announce(length).subarray(3)), { code: 'PEER_PROTOCOL' });
  }
  assert.deepEqual(take(new FrameGatherer(1000), announce(996)), []);
});

test('an announced length takes no memory, what arrives takes at most four times as much as it is', () => {
  const gatherers: FrameGatherer[] = [];
  const before = process.memoryUsage().arrayBuffers;
  const used = () => process.memoryUsage().arrayBuffers - before;
  for (let i = 0; i < 10; i++) {
    const gatherer = new FrameGatherer(FRAME_BYTES_MAX);
    gatherers.push(gatherer);
    assert.deepEqual(take(gatherer, announce(FRAME_BYTES_MAX - 4)), []);
  }
  assert.ok(used() < 10 * 0.3 * MIB, `${used()} bytes for ten announcements`);
  const chunk = Buffer.alloc(64 * 1024);
  for (let i = 0; i < 16 * 5; i++) assert.deepEqual(take(gatherers[0]!, chunk), []);
  assert.ok(used() < 24 * MIB, `${used()} bytes for 5 MiB of a frame`);
});

test('what is behind a frame can be taken out', () => {
  const gatherer = new FrameGatherer(1000);
  const frame = frameOf(3, 1);
  gatherer.push(Buffer.concat([frame, Buffer.from('rest')]));
  assert.deepEqual(gatherer.next(), frame);
  assert.equal(gatherer.takeRest().toString(), 'rest');
  assert.equal(gatherer.takeRest().length, 0);
  assert.deepEqual(take(gatherer, frame.subarray(0, 5)), []);
  assert.deepEqual(gatherer.takeRest(), frame.subarray(0, 5));
});
