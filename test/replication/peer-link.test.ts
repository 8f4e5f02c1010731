import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { test } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import {
  encodeFrame,
  FRAME_BYTES_MAX,
  type FrameToLeader,
  type FrameToMember,
} from '../../src/replication/frames.js';
import { DialerHandshake } from '../../src/replication/handshake.js';
import { dialReplica } from '../../src/replication/peer-dialer.js';
import { LINK_PENDING_BYTES_MAX } from '../../src/replication/peer-link.js';
import { dialing, identityOf, linkPair, openDoor, RawPeer, Recorder, SECRET } from './peers.js';

const MIB = 1024 * 1024;

function appendOf(bytes: Buffer, highWatermark = 0): FrameToMember {
  return { type: 'append', epoch: 7, highWatermark, logStart: 0, batches: [{ bytes, topics: undefined }] };
}

const ackOf = (applied: number): FrameToLeader => ({
  type: 'ack',
  epoch: 7,
  durableEnd: applied,
  applied,
  sequence: 0,
  isFull: false,
});

async function startedPair(...[context, settings]: Parameters<typeof linkPair>) {
  const pair = await linkPair(context, settings);
  const atMember = new Recorder<FrameToMember>();
  const atLeader = new Recorder<FrameToLeader>();
  pair.member.start(atMember);
  pair.leader.start(atLeader);
  return { ...pair, atMember, atLeader };
}

test('both ends know each other', async (context) => {
  const { leader, member, hello } = await linkPair(context);
  assert.equal(leader.node, 'member');
  assert.equal(member.node, 'leader');
  assert.equal(hello.incarnation, 'member1');
});

test('frames pass in both directions and in order, each with what was sent', async (context) => {
  const { leader, member, atLeader, atMember } = await startedPair(context);
  for (let i = 0; i < 1000; i++) {
    leader.send(appendOf(Buffer.alloc(64 + i * 3, i), i));
    member.send(ackOf(i));
  }
  for (let i = 0; i < 1000; i++) {
    const append = await atMember.frames.next();
    assert.ok(append.type === 'append');
    assert.equal(append.highWatermark, i);
    assert.deepEqual(append.batches[0]!.bytes, Buffer.alloc(64 + i * 3, i));
    assert.deepEqual(await atLeader.frames.next(), ackOf(i));
  }
});

test('what is kept of a frame stays as it is while others come', async (context) => {
  const { leader, atMember } = await startedPair(context);
  const kept: Buffer[] = [];
  atMember.onEach = (frame) => {
    assert.ok(frame.type === 'append');
    kept.push(frame.batches[0]!.bytes);
  };
  const sizes = [64, 1000, 70_000, 64, 300_000, 2 * MIB, 64, 100_000, 65_536, 64];
  const all = [...sizes, ...sizes, ...sizes];
  all.forEach((size, i) => {
    leader.send(appendOf(Buffer.alloc(size, i)));
  });
  for (const _ of all) await atMember.frames.next();
  all.forEach((size, i) => {
    assert.ok(kept[i]!.equals(Buffer.alloc(size, i)), `batch ${i} of ${size} bytes`);
  });
});

test('100 MiB in one frame', async (context) => {
  const { leader, atMember } = await startedPair(context);
  const bytes = Buffer.alloc(100 * MIB);
  for (let i = 0; i < bytes.length; i += 4096) bytes.writeUInt32LE(i, i);
  leader.send(appendOf(bytes));
  const frame = await atMember.frames.next();
  assert.ok(frame.type === 'append');
  const digest = (value: Buffer) => createHash('sha1').update(value).digest('hex');
  assert.equal(digest(frame.batches[0]!.bytes), digest(bytes));
});

test('bulk goes both ways at once, no more waiting than the sender lets', async (context) => {
  const { leader, member, atLeader, atMember } = await startedPair(context);
  const chunk = Buffer.alloc(256 * 1024, 1);
  const total = 64 * MIB;
  let got = 0;
  const arrived = new Promise<void>((resolve) => {
    atMember.onEach = (frame) => {
      assert.ok(frame.type === 'snapshotChunk');
      got += frame.bytes.length;
      member.send(ackOf(got));
      if (got === total) resolve();
    };
  });
  let largest = 0;
  for (let sent = 0; sent < total; sent += chunk.length) {
    const hasRoom = leader.send({ type: 'snapshotChunk', epoch: 7, bytes: chunk });
    largest = Math.max(largest, leader.pendingBytes);
    if (!hasRoom) await atLeader.drains.next();
  }
  await arrived;
  assert.ok(largest < 2 * chunk.length, `${largest} bytes waited`);
  for (;;) {
    const ack = await atLeader.frames.next();
    if (ack.type === 'ack' && ack.applied === total) break;
  }
});

test('a reader that pauses keeps what comes out of the process, and gets all of it later', async (context) => {
  const { leader, member, atMember, atLeader } = await startedPair(context);
  const frames = 200;
  atMember.onEach = (frame) => {
    if (frame.type === 'append' && frame.highWatermark === 2) member.pause();
  };
  let isFull = false;
  for (let i = 0; i < frames; i++) isFull = !leader.send(appendOf(Buffer.alloc(100_000, i), i));
  assert.ok(isFull);
  assert.ok(leader.pendingBytes > 0);
  for (let i = 0; i < 3; i++) await atMember.frames.next();
  // Another turn for whatever would come in spite of the pause: the other direction still works.
  member.send(ackOf(3));
  await atLeader.frames.next();
  assert.equal(atMember.frames.all.length, 3);
  assert.ok(leader.pendingBytes > 0, 'it waits at the sender');
  member.resume();
  for (let i = 3; i < frames; i++) {
    const frame = await atMember.frames.next();
    assert.ok(frame.type === 'append' && frame.highWatermark === i);
  }
  await atLeader.drains.next();
  assert.equal(leader.pendingBytes, 0);
});

test('pause and resume within a frame, and again and again, lose nothing', async (context) => {
  const { leader, member, atMember } = await startedPair(context);
  const frames = 3000;
  atMember.onEach = (frame) => {
    assert.ok(frame.type === 'append');
    if (frame.highWatermark % 3 === 0) member.pause();
    if (frame.highWatermark % 6 === 0) member.resume();
    else if (frame.highWatermark % 3 === 0) setImmediate(() => member.resume());
  };
  for (let i = 0; i < frames; i++) leader.send(appendOf(Buffer.alloc(64), i));
  for (let i = 0; i < frames; i++) {
    const frame = await atMember.frames.next();
    assert.ok(frame.type === 'append' && frame.highWatermark === i);
  }
});

test('frames that were sent before start wait for it', async (context) => {
  const { leader, member } = await linkPair(context);
  leader.send(appendOf(Buffer.alloc(64), 1));
  member.send(ackOf(2));
  const atMember = new Recorder<FrameToMember>();
  const atLeader = new Recorder<FrameToLeader>();
  member.start(atMember);
  leader.start(atLeader);
  assert.equal(atMember.frames.all.length, 0, 'not within start');
  assert.equal((await atMember.frames.next()).type, 'append');
  assert.equal((await atLeader.frames.next()).type, 'ack');
});

test('a frame right behind the proof arrives', async (context) => {
  const door = await openDoor(context);
  const peer = await RawPeer.connect(context, door.port);
  const dialer = new DialerHandshake({ identity: identityOf('member'), secret: SECRET, purpose: 'replica' });
  peer.send(dialer.hello);
  await peer.frames.next();
  const proof = dialer.receive(peer.bytes[0]!);
  const [position] = encodeFrame(ackOf(5));
  peer.send(proof.bytes!, position!, position!.subarray(0, 7));
  const { link } = await door.replicas.next();
  const recorder = new Recorder<FrameToLeader>();
  link.start(recorder);
  assert.deepEqual(await recorder.frames.next(), ackOf(5));
  peer.send(position!.subarray(7));
  assert.deepEqual(await recorder.frames.next(), ackOf(5));
});

test('destroy closes both ends once; what the reason was is told on its own side', async (context) => {
  const { leader, atLeader, atMember } = await startedPair(context);
  const reason = new GomqError('PEER_UNREACHABLE', 'no heartbeat');
  leader.destroy(reason);
  assert.equal(atLeader.closes.all.length, 0, 'not within destroy');
  assert.equal(await atLeader.closes.next(), reason);
  await atMember.closes.next();
  assert.equal(leader.send(appendOf(Buffer.alloc(64))), false);
  leader.destroy();
  leader.end();
  assert.equal(atLeader.closes.all.length, 1);
  assert.equal(atMember.closes.all.length, 1);
});

test('a link that closes before start tells it after', async (context) => {
  const { leader, member } = await linkPair(context);
  const first = new Recorder<FrameToLeader>();
  leader.start(first);
  member.destroy(new Error('why'));
  await first.closes.next();
  const recorder = new Recorder<FrameToMember>();
  member.start(recorder);
  assert.equal((await recorder.closes.next())?.message, 'why');
});

test('end sends what waits before it closes', async (context) => {
  // The grace of `end` is real time, which a busy machine can use up over 20 MiB: here it never ends.
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const { leader, member, atLeader, atMember } = await startedPair(context);
  const bytes = Buffer.alloc(20 * MIB, 3);
  leader.send(appendOf(bytes));
  leader.send({ type: 'refused', epoch: 8, code: 'stopping', message: 'bye' });
  leader.end();
  // What comes meanwhile is not taken, and does not break the connection.
  for (let i = 0; i < 1000; i++) member.send(ackOf(i));
  const append = await atMember.frames.next();
  assert.ok(append.type === 'append' && append.batches[0]!.bytes.equals(bytes));
  assert.deepEqual(await atMember.frames.next(), {
    type: 'refused',
    epoch: 8,
    code: 'stopping',
    message: 'bye',
  });
  assert.equal(await atMember.closes.next(), undefined);
  assert.equal(await atLeader.closes.next(), undefined);
  assert.equal(atLeader.frames.all.length, 0);
});

test('end closes in a bounded time where the peer takes nothing', async (context) => {
  const { leader, member, atLeader } = await startedPair(context);
  context.mock.timers.enable({ apis: ['setTimeout'] });
  member.pause();
  leader.send(appendOf(Buffer.alloc(50 * MIB)));
  leader.end();
  context.mock.timers.tick(999);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(atLeader.closes.all.length, 0);
  context.mock.timers.tick(1);
  await atLeader.closes.next();
});

test('a link on which too much waits is closed', async (context) => {
  const { leader, member, atLeader } = await startedPair(context);
  member.pause();
  // The same bytes again and again: what waits is not copied.
  const chunk = Buffer.alloc(64 * MIB);
  for (let i = 0; i < 100 && leader.pendingBytes <= LINK_PENDING_BYTES_MAX; i++) {
    leader.send({ type: 'snapshotChunk', epoch: 7, bytes: chunk });
  }
  assert.ok(leader.pendingBytes <= LINK_PENDING_BYTES_MAX + FRAME_BYTES_MAX);
  leader.send({ type: 'snapshotEnd', epoch: 7 });
  const error = await atLeader.closes.next();
  assert.ok(error instanceof GomqError && error.code === 'PEER_UNREACHABLE');
});

test('frames of the other direction, of the handshake and garbage close the link', async (context) => {
  const garbage = Buffer.from('09000000ff0000000000000000', 'hex');
  const wrong = [
    Buffer.concat(encodeFrame(appendOf(Buffer.alloc(64)))),
    Buffer.concat(encodeFrame({ type: 'refused', epoch: 1, code: 'limit', message: '' })),
    new DialerHandshake({ identity: identityOf('member'), secret: SECRET, purpose: 'replica' }).hello,
    garbage,
    Buffer.from('00000000', 'hex'),
    Buffer.from('ffffffff', 'hex'),
  ];
  const door = await openDoor(context);
  for (const bytes of wrong) {
    const peer = await RawPeer.connect(context, door.port);
    const dialer = new DialerHandshake({
      identity: identityOf('member'),
      secret: SECRET,
      purpose: 'replica',
    });
    peer.send(dialer.hello);
    await peer.frames.next();
    peer.send(dialer.receive(peer.bytes[0]!).bytes!);
    const { link } = await door.replicas.next();
    const recorder = new Recorder<FrameToLeader>();
    link.start(recorder);
    const [ack] = encodeFrame(ackOf(1));
    peer.send(ack!, bytes, ack!);
    const error = await recorder.closes.next();
    assert.ok(error instanceof GomqError && error.code === 'PEER_PROTOCOL', String(error));
    assert.equal(recorder.frames.all.length, 1, 'nothing behind it is taken');
    await peer.closed;
  }
});

test('a handler that finds a frame impossible closes the link by saying so', async (context) => {
  const { leader, member, atLeader } = await startedPair(context);
  const error = new GomqError('PEER_PROTOCOL', 'an ack of what was never sent');
  atLeader.onEach = () => {
    throw error;
  };
  member.send(ackOf(1));
  assert.equal(await atLeader.closes.next(), error);
  assert.equal(leader.pendingBytes, 0);
});

test('a length that lies takes no memory', async (context) => {
  const door = await openDoor(context);
  const before = process.memoryUsage().arrayBuffers;
  for (let i = 0; i < 10; i++) {
    const peer = await RawPeer.connect(context, door.port);
    const dialer = new DialerHandshake({
      identity: identityOf('member'),
      secret: SECRET,
      purpose: 'replica',
    });
    peer.send(dialer.hello);
    await peer.frames.next();
    peer.send(dialer.receive(peer.bytes[0]!).bytes!);
    const { link } = await door.replicas.next();
    const recorder = new Recorder<FrameToLeader>();
    link.start(recorder);
    const [ack] = encodeFrame(ackOf(1));
    const announced = Buffer.alloc(100);
    announced.writeUInt32LE(FRAME_BYTES_MAX - 4);
    peer.send(ack!, announced);
    // When the ack is here, so is most likely the rest; and certainly once the socket has read all that was sent.
    await recorder.frames.next();
    peer.socket.end();
    await once(peer.socket, 'close');
  }
  const used = process.memoryUsage().arrayBuffers - before;
  assert.ok(used < 10 * MIB, `${used} bytes for ten announcements of 321 MiB`);
});

test('a peer that is cut off in the middle of a frame closes the link', async (context) => {
  const door = await openDoor(context);
  const member = await dialReplica(dialing(door));
  const recorder = new Recorder<FrameToMember>();
  member.start(recorder);
  const { link } = await door.replicas.next();
  link.start(new Recorder<FrameToLeader>());
  link.send(appendOf(Buffer.alloc(30 * MIB)));
  setImmediate(() => link.destroy());
  await recorder.closes.next();
  assert.equal(recorder.frames.all.length, 0);
});
