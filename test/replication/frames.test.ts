import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { GomqError } from '../../src/core/errors.js';
import { APPEND_BATCHES_MAX, decodeFrame, encodeFrame, type Frame } from '../../src/replication/frames.js';
import { check, record } from '../packet/oracle.js';
import { bytes } from '../vectors/bytes.js';

const DIGEST = '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f';
const EPOCH_7 = '0700000000000000';
const digest = bytes(DIGEST);
const history = [
  { epoch: 1, start: 0 },
  { epoch: 2, start: 256 },
];
const HISTORY = '0200 0100000000000000 0000000000000000 0200000000000000 0001000000000000';

/** Each frame, and its bytes. */
const VECTORS: readonly (readonly [Frame, string])[] = [
  [
    {
      type: 'hello',
      epoch: 7,
      protocol: 1,
      purpose: 'replica',
      nonce: digest,
      cluster: 'c',
      clusterId: '',
      node: 'a',
      incarnation: 'i1',
    },
    `34000000 01 ${EPOCH_7} 0100 00 ${DIGEST} 01 "c" 00 01 "a" 02 "i1"`,
  ],
  [
    {
      type: 'hello',
      epoch: 2 ** 53 - 1,
      protocol: 1,
      purpose: 'tunnel',
      nonce: digest,
      cluster: 'c',
      clusterId: 'id',
      node: 'a',
      incarnation: 'i1',
    },
    `36000000 01 ffffffffffff1f00 0100 01 ${DIGEST} 01 "c" 02 "id" 01 "a" 02 "i1"`,
  ],
  [{ type: 'challenge', epoch: 7, nonce: digest, node: 'b' }, `2b000000 02 ${EPOCH_7} ${DIGEST} 01 "b"`],
  [{ type: 'proof', epoch: 7, mac: digest, client: undefined }, `2a000000 03 ${EPOCH_7} ${DIGEST} 00`],
  [
    {
      type: 'proof',
      epoch: 7,
      mac: digest,
      client: { address: '::1', port: 1883, isSecure: true, certificateName: 'alice' },
    },
    `37000000 03 ${EPOCH_7} ${DIGEST} 07 03 "::1" 5b07 0500 "alice"`,
  ],
  [
    {
      type: 'proof',
      epoch: 7,
      mac: digest,
      client: { address: '10.0.0.1', port: 1, isSecure: false, certificateName: undefined },
    },
    `35000000 03 ${EPOCH_7} ${DIGEST} 01 08 "10.0.0.1" 0100`,
  ],
  [{ type: 'welcome', epoch: 7, mac: digest, node: 'b' }, `2b000000 04 ${EPOCH_7} ${DIGEST} 01 "b"`],
  [
    { type: 'refused', epoch: 7, code: 'not-leader', message: 'b leads' },
    `13000000 05 ${EPOCH_7} 06 0700 "b leads"`,
  ],
  [
    { type: 'position', epoch: 7, logStart: 1, logEnd: 0x0102030405, committed: 3, history },
    `43000000 10 ${EPOCH_7} 0100000000000000 0504030201000000 0300000000000000 ${HISTORY}`,
  ],
  [
    { type: 'resume', epoch: 7, cut: 4, highWatermark: 3, logStart: 2, history },
    `43000000 11 ${EPOCH_7} 0400000000000000 0300000000000000 0200000000000000 ${HISTORY}`,
  ],
  [
    { type: 'snapshotBegin', epoch: 7, endOffset: 4, bytes: 1000, history: [] },
    `1b000000 12 ${EPOCH_7} 0400000000000000 e803000000000000 0000`,
  ],
  [{ type: 'snapshotChunk', epoch: 7, bytes: Buffer.from('xyz') }, `0c000000 13 ${EPOCH_7} "xyz"`],
  [{ type: 'snapshotEnd', epoch: 7 }, `09000000 14 ${EPOCH_7}`],
  [
    {
      type: 'append',
      epoch: 7,
      highWatermark: 5,
      logStart: 1,
      batches: [
        { bytes: Buffer.alloc(64, 0xaa), topics: new Set(['A', 'b/c']) },
        { bytes: Buffer.alloc(65, 0xbb), topics: undefined },
      ],
    },
    `b0000000 15 ${EPOCH_7} 0500000000000000 0100000000000000 0200
     40000000 0200 0100 "A" 0300 "b/c" 41000000 ffff ${'aa'.repeat(64)} ${'bb'.repeat(65)}`,
  ],
  [
    { type: 'append', epoch: 7, highWatermark: 5, logStart: 1, batches: [] },
    `1b000000 15 ${EPOCH_7} 0500000000000000 0100000000000000 0000`,
  ],
  [
    {
      type: 'heartbeat',
      epoch: 7,
      highWatermark: 5,
      logStart: 1,
      sequence: 9,
      status: Buffer.from('{}'),
    },
    `23000000 16 ${EPOCH_7} 0500000000000000 0100000000000000 0900000000000000 "{}"`,
  ],
  [
    { type: 'ack', epoch: 7, durableEnd: 5, applied: 4, sequence: 9, isFull: true },
    `22000000 17 ${EPOCH_7} 0500000000000000 0400000000000000 0900000000000000 01`,
  ],
  [
    { type: 'stateHash', epoch: 7, offset: 5, hash: digest },
    `31000000 18 ${EPOCH_7} 0500000000000000 ${DIGEST}`,
  ],
];

const name = fc.string({ maxLength: 60 });
const uint64 = fc.oneof(fc.maxSafeNat(), fc.nat(300));
const digests = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((array) => Buffer.from(array));
const histories = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 2 ** 32 }), fc.nat(2 ** 31)), { maxLength: 20 })
  .map((steps) => {
    let epoch = 0;
    let start = 0;
    return steps.map(([epochs, records]) => {
      epoch += epochs;
      start += records;
      return { epoch, start };
    });
  });
const topics = fc.option(
  fc.array(fc.string({ unit: 'grapheme', maxLength: 30 }), { maxLength: 5 }).map((all) => new Set(all)),
  { nil: undefined },
);
const batches = fc.array(
  record({
    bytes: fc.uint8Array({ minLength: 64, maxLength: 300 }).map((array) => Buffer.from(array)),
    topics,
  }),
  { maxLength: 6 },
);
const client = record({
  address: name,
  port: fc.integer({ min: 0, max: 65535 }),
  isSecure: fc.boolean(),
  certificateName: fc.option(fc.string({ unit: 'grapheme', maxLength: 60 }), { nil: undefined }),
});
const refusals = [
  'secret',
  'cluster',
  'cluster-id',
  'protocol',
  'epoch',
  'not-leader',
  'incarnation',
  'limit',
];
const blob = fc.uint8Array({ maxLength: 500 }).map((array) => Buffer.from(array));

const frames: Record<Frame['type'], fc.Arbitrary<object>> = {
  hello: record({
    protocol: fc.constant(1),
    purpose: fc.constantFrom('replica', 'tunnel', 'http'),
    nonce: digests,
    cluster: name,
    clusterId: name,
    node: name,
    incarnation: name,
  }),
  challenge: record({ nonce: digests, node: name }),
  proof: record({ mac: digests, client: fc.option(client, { nil: undefined }) }),
  welcome: record({ mac: digests, node: name }),
  refused: record({ code: fc.constantFrom(...refusals, 'stopping'), message: name }),
  position: record({ logStart: uint64, logEnd: uint64, committed: uint64, history: histories }),
  resume: record({ cut: uint64, highWatermark: uint64, logStart: uint64, history: histories }),
  snapshotBegin: record({ endOffset: uint64, bytes: uint64, history: histories }),
  snapshotChunk: record({ bytes: blob }),
  snapshotEnd: record({}),
  append: record({ highWatermark: uint64, logStart: uint64, batches }),
  heartbeat: record({ highWatermark: uint64, logStart: uint64, sequence: uint64, status: blob }),
  ack: record({ durableEnd: uint64, applied: uint64, sequence: uint64, isFull: fc.boolean() }),
  stateHash: record({ offset: uint64, hash: digests }),
};

const encode = (frame: Frame): Buffer => Buffer.concat(encodeFrame(frame));

/** Asserts that the bytes are refused as what no broker sends, and answers what was said. */
function refusal(frame: Buffer): string {
  let caught: unknown;
  try {
    decodeFrame(frame);
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof GomqError, `refused by a GomqError, not ${String(caught)}`);
  assert.equal(caught.code, 'PEER_PROTOCOL');
  return caught.message;
}

/** The bytes with a length that agrees with them. */
function relabelled(frame: Buffer): Buffer {
  const copy = Buffer.from(frame);
  if (copy.length >= 4) copy.writeUInt32LE(copy.length - 4);
  return copy;
}

function changed(frame: Buffer, at: number, hex: string): Buffer {
  const copy = Buffer.from(frame);
  bytes(hex).copy(copy, at);
  return copy;
}

const vector = (type: Frame['type']): Buffer => bytes(VECTORS.find(([frame]) => frame.type === type)![1]);

test('there is a vector of each frame', () => {
  assert.deepEqual(new Set(VECTORS.map(([frame]) => frame.type)), new Set(Object.keys(frames)));
});

for (const [frame, notation] of VECTORS) {
  test(`${frame.type} of epoch ${frame.epoch}: ${notation.slice(0, 40)}`, () => {
    assert.equal(encode(frame).toString('hex'), bytes(notation).toString('hex'));
    assert.deepEqual(decodeFrame(bytes(notation)), frame);
  });
}

for (const [type, fields] of Object.entries(frames)) {
  test(`${type} comes back as it was sent, from anywhere in a buffer`, (context) => {
    check(
      context,
      fc.property(fields, uint64, fc.nat(9), (body, epoch, before) => {
        const frame = { type, epoch, ...body } as Frame;
        const encoded = encode(frame);
        const around = Buffer.concat([Buffer.alloc(before, 0xff), encoded, Buffer.alloc(3, 0xff)]);
        assert.deepEqual(decodeFrame(around, before, before + encoded.length), frame);
      }),
      200,
    );
  });
}

test('a frame that ends before its end is refused, with its old length and with one that agrees', () => {
  // The body of these is whatever follows, so every end of it is one.
  const isOpen = new Set(['snapshotChunk', 'heartbeat']);
  for (const [frame, notation] of VECTORS) {
    const whole = bytes(notation);
    for (let length = 0; length < whole.length; length++) {
      const cut = whole.subarray(0, length);
      refusal(cut);
      const fixed = frame.type === 'heartbeat' ? 13 + 24 : 13;
      if (!isOpen.has(frame.type) || length < fixed) refusal(relabelled(cut));
      else assert.equal(decodeFrame(relabelled(cut)).type, frame.type);
    }
  }
});

test('bytes behind the last field are refused', () => {
  for (const [frame, notation] of VECTORS) {
    if (frame.type === 'snapshotChunk' || frame.type === 'heartbeat') continue;
    assert.match(
      refusal(relabelled(Buffer.concat([bytes(notation), Buffer.alloc(1)]))),
      /after its last field/,
    );
  }
});

test('a message names frame and field', () => {
  assert.match(refusal(relabelled(vector('ack').subarray(0, 30))), /^ack ends within its sequence: 8 bytes/);
  assert.match(
    refusal(relabelled(vector('hello').subarray(0, 20))),
    /^hello ends within its nonce: 32 bytes/,
  );
});

test('numbers above 2^53 - 1 are refused in every place', () => {
  const over = '0000000000002000';
  for (const [, notation] of VECTORS) assert.match(refusal(changed(bytes(notation), 5, over)), /epoch/);
  for (const type of [
    'position',
    'resume',
    'snapshotBegin',
    'append',
    'heartbeat',
    'ack',
    'stateHash',
  ] as const) {
    assert.match(refusal(changed(vector(type), 13, 'ffffffffffffffff')), /2\^53 - 1/);
  }
  assert.match(refusal(changed(vector('position'), 39, over)), /history epoch/);
});

test('types, purposes and flags that do not exist are refused', () => {
  for (const type of ['00', '06', '0f', '19', 'ff']) {
    assert.match(refusal(changed(vector('ack'), 4, type)), /a frame of type/);
  }
  assert.match(refusal(changed(vector('hello'), 15, '03')), /purpose/);
  for (const flags of ['02', '08', '09', '80']) {
    assert.match(refusal(changed(vector('proof'), 45, flags)), /client flags/);
  }
});

test('a refusal for a reason of a later version is understood as one of the protocol', () => {
  const frame = decodeFrame(changed(vector('refused'), 13, 'c8'));
  assert.ok(frame.type === 'refused' && frame.code === 'protocol');
});

test('a hello of another version is refused without its fields being read', () => {
  assert.match(refusal(relabelled(changed(vector('hello'), 13, '0200').subarray(0, 16))), /protocol is 2/);
});

test('text that is not UTF-8 is refused', () => {
  for (const wrong of ['80', 'c0', 'ff'])
    assert.match(refusal(changed(vector('hello'), 49, wrong)), /cluster/);
});

test('lengths and counts that lie are refused, and nothing is made for them', () => {
  const before = process.memoryUsage().arrayBuffers;
  assert.match(refusal(changed(vector('hello'), 48, 'ff')), /cluster/);
  assert.match(refusal(changed(vector('refused'), 14, 'ffff')), /message/);
  assert.match(refusal(changed(vector('position'), 37, '0300')), /history/);
  assert.match(refusal(changed(vector('position'), 37, '0110')), /history of 4097/);
  assert.match(refusal(changed(vector('position'), 37, '0100')), /16 bytes after/);
  const append = vector('append');
  assert.match(refusal(changed(append, 29, 'ffff')), new RegExp(`above ${APPEND_BATCHES_MAX}`));
  assert.match(refusal(changed(append, 29, '0010')), /append/);
  assert.match(refusal(changed(append, 29, '0100')), /after its last field/);
  assert.match(refusal(changed(append, 31, 'ffffffff')), /4294967295 bytes/);
  assert.match(refusal(changed(append, 31, '3f000000')), /batch of 63 bytes/);
  assert.match(refusal(changed(append, 31, '41000000')), /append/);
  assert.match(refusal(changed(append, 35, 'feff')), /append/);
  assert.match(refusal(changed(append, 37, 'ffff')), /topic/);
  // A length over the whole frame.
  for (const length of ['00000000', '08000000', 'ffffffff', 'b1000000']) refusal(changed(append, 0, length));
  assert.ok(process.memoryUsage().arrayBuffers - before < 1024 * 1024);
});

test('a status above its limit is refused', () => {
  const huge = relabelled(Buffer.concat([vector('heartbeat'), Buffer.alloc(64 * 1024)]));
  assert.match(refusal(huge), /status/);
});

test('a history that does not ascend is refused', () => {
  const entries = (...numbers: number[]) => {
    const frame = vector('position').subarray(0, 37);
    const list = Buffer.alloc(2 + 8 * numbers.length);
    list.writeUInt16LE(numbers.length / 2);
    numbers.forEach((number, i) => {
      list.writeUInt32LE(number, 2 + 8 * i);
    });
    return relabelled(Buffer.concat([frame, list]));
  };
  assert.match(refusal(entries(2, 0, 2, 5)), /history has epoch 2/);
  assert.match(refusal(entries(3, 0, 2, 5)), /history/);
  assert.match(refusal(entries(1, 6, 2, 5)), /history/);
  assert.equal(decodeFrame(entries(1, 5, 2, 5)).type, 'position');
});

test('whatever is changed in a frame, it is decoded or refused', (context) => {
  const vectors = VECTORS.map(([, notation]) => bytes(notation));
  const change = fc.tuple(fc.nat(), fc.nat(255));
  check(
    context,
    fc.property(
      fc.constantFrom(...vectors),
      fc.array(change, { minLength: 1, maxLength: 4 }),
      (whole, changes) => {
        const copy = Buffer.from(whole);
        for (const [at, value] of changes) copy[4 + (at % (copy.length - 4))] = value;
        try {
          const frame = decodeFrame(copy);
          assert.deepEqual(decodeFrame(encode(frame)), frame);
        } catch (error) {
          assert.ok(error instanceof GomqError, String(error));
          assert.equal(error.code, 'PEER_PROTOCOL');
        }
      },
    ),
    2000,
  );
});

test('batches and chunks are neither copied to be sent nor when they have come', () => {
  const batch = Buffer.alloc(1000, 1);
  const append = { type: 'append', epoch: 1, highWatermark: 0, logStart: 0 } as const;
  const pieces = encodeFrame({ ...append, batches: [{ bytes: batch, topics: undefined }] });
  assert.equal(pieces[1], batch);
  assert.equal(encodeFrame({ type: 'snapshotChunk', epoch: 1, bytes: batch })[1], batch);
  const arrived = Buffer.concat(pieces);
  const decoded = decodeFrame(arrived);
  assert.ok(decoded.type === 'append');
  assert.equal(decoded.batches[0]!.bytes.buffer, arrived.buffer);
});

test('topics that take much are not sent: the batch then may be about any', () => {
  const small = { bytes: Buffer.alloc(64), topics: new Set(['A']) };
  const large = { bytes: Buffer.alloc(64), topics: new Set(['B', 'C'.repeat(60_000), ...manyTopics()]) };
  const frame = { type: 'append', epoch: 1, highWatermark: 0, logStart: 0 } as const;
  const decoded = decodeFrame(encode({ ...frame, batches: [small, large, small] }));
  assert.ok(decoded.type === 'append');
  assert.deepEqual(
    decoded.batches.map(({ topics: told }) => told),
    [small.topics, undefined, small.topics],
  );
});

function manyTopics(): string[] {
  return Array.from({ length: 1000 }, (_, i) => `${i}/${'x'.repeat(250)}`);
}

test('the message of a refusal is cut to what fits, between characters', () => {
  const decoded = decodeFrame(encode({ type: 'refused', epoch: 1, code: 'limit', message: 'ä'.repeat(300) }));
  assert.ok(decoded.type === 'refused');
  assert.equal(decoded.message, 'ä'.repeat(256));
  const odd = decodeFrame(
    encode({ type: 'refused', epoch: 1, code: 'limit', message: `x${'ä'.repeat(300)}` }),
  );
  assert.ok(odd.type === 'refused');
  assert.equal(odd.message, `x${'ä'.repeat(255)}`);
});

test('a defect of the sender is stopped before it is sent', () => {
  const internal = { code: 'INTERNAL' };
  assert.throws(() => encode({ type: 'snapshotEnd', epoch: 2 ** 53 }), internal);
  assert.throws(() => encode({ type: 'challenge', epoch: 1, nonce: Buffer.alloc(31), node: 'a' }), internal);
  assert.throws(
    () => encode({ type: 'challenge', epoch: 1, nonce: digest, node: 'a'.repeat(256) }),
    internal,
  );
  const append = { type: 'append', epoch: 1, highWatermark: 0, logStart: 0 } as const;
  assert.throws(
    () => encode({ ...append, batches: [{ bytes: Buffer.alloc(63), topics: undefined }] }),
    internal,
  );
  const status = Buffer.alloc(64 * 1024 + 1);
  assert.throws(
    () => encode({ type: 'heartbeat', epoch: 1, highWatermark: 0, logStart: 0, sequence: 0, status }),
    internal,
  );
});
