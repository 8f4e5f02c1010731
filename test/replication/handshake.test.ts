import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import {
  decodeFrame,
  encodeSmall,
  type HelloFrame,
  type TunnelClient,
} from '../../src/replication/frames.js';
import {
  DialerHandshake,
  type HandshakeStep,
  ListenerHandshake,
  PeerRefusedError,
  type Welcomed,
} from '../../src/replication/handshake.js';
import { type DialOptions, dialReplica, dialTunnel } from '../../src/replication/peer-dialer.js';
import { type LogLine, recordingLogger } from '../net/support.js';
import { CLIENT, dialing, identityOf, openDoor, RawPeer, SECRET } from './peers.js';

type Dialing = Partial<ConstructorParameters<typeof DialerHandshake>[0]>;
type Listening = Partial<ConstructorParameters<typeof ListenerHandshake>[0]>;

function dialerOf(changes: Dialing = {}): DialerHandshake {
  return new DialerHandshake({
    identity: identityOf('member'),
    secret: SECRET,
    purpose: 'replica',
    ...changes,
  });
}

function listenerOf(changes: Listening = {}): ListenerHandshake {
  return new ListenerHandshake({
    identity: identityOf('leader', { epoch: 9 }),
    secret: SECRET,
    mayAccept: () => undefined,
    ...changes,
  });
}

/** Copies, as both sides have their own. */
function sent(step: HandshakeStep<unknown>): Buffer {
  assert.ok(step.bytes !== undefined, 'there is something to send');
  return Buffer.from(step.bytes);
}

/** All four frames of a conversation that goes well. */
function conversation(dialer: DialerHandshake, listener: ListenerHandshake) {
  const hello = Buffer.from(dialer.hello);
  const challenge = sent(listener.receive(hello));
  const proof = sent(dialer.receive(challenge));
  const last = listener.receive(proof);
  return { hello, challenge, proof, last, welcome: sent(last) };
}

function refusedWith(step: HandshakeStep<Welcomed>, code: string): void {
  assert.equal(step.kind, 'refuse');
  const frame = decodeFrame(sent(step));
  assert.ok(frame.type === 'refused');
  assert.equal(frame.code, code);
}

const protocolError = { code: 'PEER_PROTOCOL' };
const refused = (refusal: string) => (error: unknown) =>
  error instanceof PeerRefusedError && error.refusal === refusal;
/** Closed without a word by the other side. */
const unreachable = { code: 'PEER_UNREACHABLE', retriable: true };

test('both sides know each other at the end', () => {
  const dialer = dialerOf();
  const { last, welcome } = conversation(dialer, listenerOf());
  assert.ok(last.kind === 'done');
  assert.equal(last.result.hello.node, 'member');
  assert.equal(last.result.hello.incarnation, 'member1');
  assert.equal(last.result.client, undefined);
  const end = dialer.receive(welcome);
  assert.ok(end.kind === 'done');
  assert.deepEqual(end.result, { node: 'leader', epoch: 9 });
});

test('the MACs are over a label of each side and all frames so far', () => {
  const { hello, challenge, proof, welcome } = conversation(dialerOf(), listenerOf());
  const macOver = (label: string, before: Buffer[], own: Buffer) => {
    const zeroed = Buffer.from(own).fill(0, 13, 45);
    return createHmac('sha256', SECRET)
      .update(Buffer.concat([Buffer.from(label), ...before, zeroed]))
      .digest('hex');
  };
  const macOf = (frame: Buffer) => frame.toString('hex', 13, 45);
  assert.equal(macOf(proof), macOver('gomq peer proof\0', [hello, challenge], proof));
  assert.equal(macOf(welcome), macOver('gomq peer welcome\0', [hello, challenge, proof], welcome));
});

test('a tunnel tells its client, whatever its certificate says', () => {
  const clients: TunnelClient[] = [
    CLIENT,
    { address: '::1', port: 1, isSecure: false, certificateName: undefined },
    { ...CLIENT, certificateName: 'x'.repeat(1024) },
    { ...CLIENT, certificateName: '' },
  ];
  for (const client of clients) {
    const { last } = conversation(dialerOf({ purpose: 'tunnel', client }), listenerOf());
    assert.ok(last.kind === 'done');
    assert.deepEqual(last.result.client, client);
  }
  // Cut off it would be another name.
  const client = { ...CLIENT, certificateName: 'x'.repeat(1025) };
  assert.throws(() => dialerOf({ purpose: 'tunnel', client }), protocolError);
});

test('the longest names and client fit into frames of a handshake', () => {
  const long = 'x'.repeat(255);
  const client = { ...CLIENT, address: long, certificateName: 'x'.repeat(1024) };
  const identity = identityOf(long, { cluster: long, clusterId: long, incarnation: long });
  const dialer = dialerOf({ purpose: 'tunnel', client, identity });
  const talk = conversation(dialer, listenerOf({ identity }));
  for (const frame of [talk.hello, talk.challenge, talk.proof, talk.welcome]) assert.ok(frame.length < 4096);
  assert.equal(dialer.receive(talk.welcome).kind, 'done');
});

test('no secret, or another one, is refused; which is true of both sides', () => {
  for (const secret of ['', 'open sesam', 'open sesame ']) {
    const listener = listenerOf();
    const dialer = dialerOf({ secret });
    refusedWith(listener.receive(sent(dialer.receive(sent(listener.receive(dialer.hello))))), 'secret');
    const open = listenerOf({ secret });
    const knowing = dialerOf();
    refusedWith(open.receive(sent(knowing.receive(sent(open.receive(knowing.hello))))), 'secret');
  }
  const { last } = conversation(dialerOf({ secret: '' }), listenerOf({ secret: '' }));
  assert.equal(last.kind, 'done', 'where TLS vouches for both');
});

test('a listener that does not know the secret is found out by the dialer', () => {
  const dialer = dialerOf();
  const { challenge, proof } = conversation(dialerOf(), listenerOf());
  dialer.receive(challenge);
  const mac = Buffer.alloc(32);
  const guess = encodeSmall({ type: 'welcome', epoch: 9, mac, node: 'leader' });
  assert.throws(() => dialer.receive(guess), refused('secret'));
  // Its own MAC, sent back to it.
  const own = decodeFrame(proof);
  assert.ok(own.type === 'proof');
  const reflected = encodeSmall({ type: 'welcome', epoch: 7, mac: own.mac, node: 'leader' });
  assert.throws(() => dialer.receive(reflected), refused('secret'));
});

test('the cluster name is looked at before the secret, the cluster id after it', () => {
  refusedWith(
    listenerOf().receive(dialerOf({ identity: identityOf('member', { cluster: 'd' }) }).hello),
    'cluster',
  );
  const stranger = dialerOf({ identity: identityOf('member', { clusterId: 'other' }) });
  const listener = listenerOf();
  refusedWith(listener.receive(sent(stranger.receive(sent(listener.receive(stranger.hello))))), 'cluster-id');
  const both = dialerOf({ secret: 'wrong', identity: identityOf('member', { clusterId: 'other' }) });
  const another = listenerOf();
  refusedWith(another.receive(sent(both.receive(sent(another.receive(both.hello))))), 'secret');
});

test('a broker without a cluster id may come, and be come to', () => {
  const fresh = dialerOf({ identity: identityOf('member', { clusterId: '' }) });
  assert.equal(conversation(fresh, listenerOf()).last.kind, 'done');
  const young = listenerOf({ identity: identityOf('leader', { clusterId: '' }) });
  assert.equal(conversation(dialerOf(), young).last.kind, 'done');
});

test('another protocol is refused whatever its hello looks like', () => {
  for (const rest of ['', 'ff', 'ff'.repeat(300)]) {
    const hello = Buffer.concat([Buffer.alloc(13), Buffer.from(`0200${rest}`, 'hex')]);
    hello.writeUInt32LE(hello.length - 4);
    hello[4] = 1;
    refusedWith(listenerOf().receive(hello), 'protocol');
  }
});

test('mayAccept is asked last, and its answer told', () => {
  const asked: HelloFrame[] = [];
  const mayAccept = (hello: HelloFrame) => {
    asked.push(hello);
    return { code: 'not-leader', message: 'b leads' } as const;
  };
  const wrong = dialerOf({ secret: 'wrong' });
  const first = listenerOf({ mayAccept });
  refusedWith(first.receive(sent(wrong.receive(sent(first.receive(wrong.hello))))), 'secret');
  assert.equal(asked.length, 0);
  const dialer = dialerOf();
  const second = listenerOf({ mayAccept });
  const step = second.receive(sent(dialer.receive(sent(second.receive(dialer.hello)))));
  refusedWith(step, 'not-leader');
  assert.equal(asked[0]?.node, 'member');
  assert.throws(
    () => dialer.receive(sent(step)),
    (error: unknown) =>
      error instanceof PeerRefusedError &&
      error.code === 'PEER_REFUSED' &&
      error.refusal === 'not-leader' &&
      error.epoch === 9 &&
      error.retriable &&
      error.message === 'b leads',
  );
});

test('a proof is good for one connection', () => {
  const { hello, proof } = conversation(dialerOf(), listenerOf());
  const again = listenerOf();
  again.receive(hello);
  refusedWith(again.receive(proof), 'secret');
});

test('a frame that is changed anywhere on its way is noticed', () => {
  const dialerOptions: Dialing = { purpose: 'tunnel', client: CLIENT, nonce: Buffer.alloc(32, 1) };
  const whole = conversation(dialerOf(dialerOptions), listenerOf({ nonce: Buffer.alloc(32, 2) }));
  const outcome = (changedFrame: 'hello' | 'challenge' | 'proof' | 'welcome', at: number): string => {
    const change = (name: string, frame: Buffer): Buffer => {
      const copy = Buffer.from(frame);
      if (name === changedFrame) copy[at]! ^= 1;
      return copy;
    };
    const dialer = dialerOf(dialerOptions);
    const listener = listenerOf({ nonce: Buffer.alloc(32, 2) });
    try {
      const first = listener.receive(change('hello', dialer.hello));
      if (first.kind !== 'reply') return first.kind;
      const proof = sent(dialer.receive(change('challenge', first.bytes)));
      const last = listener.receive(change('proof', proof));
      if (last.kind !== 'done') return last.kind;
      return dialer.receive(change('welcome', sent(last))).kind;
    } catch (error) {
      assert.ok(error instanceof GomqError, String(error));
      return error.code;
    }
  };
  for (const frame of ['hello', 'challenge', 'proof', 'welcome'] as const) {
    for (let at = 0; at < whole[frame].length; at++) {
      assert.notEqual(outcome(frame, at), 'done', `${frame} with byte ${at} changed`);
    }
  }
});

test('frames in another order end it', () => {
  const { hello, challenge, proof, welcome } = conversation(dialerOf(), listenerOf());
  for (const frame of [challenge, proof, welcome])
    assert.throws(() => listenerOf().receive(frame), protocolError);
  const listener = listenerOf();
  listener.receive(hello);
  assert.throws(() => listener.receive(hello), protocolError);
  for (const frame of [hello, proof, welcome]) assert.throws(() => dialerOf().receive(frame), protocolError);
  const dialer = dialerOf();
  dialer.receive(challenge);
  assert.throws(() => dialer.receive(challenge), protocolError);
});

test('a replica with a client is no replica, a tunnel without one no tunnel', () => {
  const tunnel = dialerOf({ purpose: 'tunnel', client: CLIENT });
  const nonce = Buffer.alloc(32, 3);
  const listener = listenerOf({ nonce });
  const replica = dialerOf();
  const challenge = sent(listener.receive(replica.hello));
  tunnel.receive(challenge);
  refusedWith(
    listener.receive(sent(dialerOf({ purpose: 'tunnel', client: CLIENT }).receive(challenge))),
    'secret',
  );
});

// Over sockets.

test('dialReplica and dialTunnel reject with what the listener says', async (context) => {
  const door = await openDoor(context);
  const attempts: readonly (readonly [Partial<DialOptions>, string])[] = [
    [{ secret: '' }, 'secret'],
    [{ secret: 'wrong' }, 'secret'],
    [{ identity: identityOf('member', { cluster: 'd' }) }, 'cluster'],
    [{ identity: identityOf('member', { clusterId: 'other' }) }, 'cluster-id'],
  ];
  for (const [changes, refusal] of attempts) {
    await assert.rejects(dialReplica(dialing(door, changes)), refused(refusal));
    await assert.rejects(dialTunnel({ ...dialing(door, changes), client: CLIENT }), refused(refusal));
  }
  assert.equal(door.replicas.all.length + door.tunnels.all.length, 0);
});

test('an old protocol is told so, and closed', async (context) => {
  const door = await openDoor(context);
  const peer = await RawPeer.connect(context, door.port);
  peer.send(Buffer.from('0b000000010000000000000000 0000'.replace(' ', ''), 'hex'));
  const frame = await peer.frames.next();
  assert.ok(frame.type === 'refused' && frame.code === 'protocol');
  await peer.closed;
});

test('garbage is closed without a word', async (context) => {
  const door = await openDoor(context);
  for (const garbage of [
    'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
    '\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00',
    '\0'.repeat(100),
  ]) {
    const peer = await RawPeer.connect(context, door.port);
    peer.send(Buffer.from(garbage, 'latin1'));
    await peer.closed;
    assert.equal(peer.frames.all.length, 0);
  }
  assert.equal(door.listener.handshakeCount, 0);
});

test('a length above 4 KiB is closed at once, before and after hello', async (context) => {
  const door = await openDoor(context);
  const early = await RawPeer.connect(context, door.port);
  early.send(Buffer.from('fd0f0000', 'hex'));
  await early.closed;
  const late = await RawPeer.connect(context, door.port);
  late.send(Buffer.from(dialerOf().hello), Buffer.from('fd0f0000', 'hex'));
  await late.closed;
  assert.deepEqual(
    late.frames.all.map(({ type }) => type),
    ['challenge'],
  );
});

test('silence ends when its time is over, and so does one byte at a time', async (context) => {
  const lines: LogLine[] = [];
  const door = await openDoor(context, { handshakeTimeoutMs: 150, logger: recordingLogger(lines) });
  const silent = await RawPeer.connect(context, door.port);
  const slow = await RawPeer.connect(context, door.port);
  const hello = dialerOf().hello;
  let at = 0;
  const timer = setInterval(() => slow.send(hello.subarray(at, ++at)), 20);
  await Promise.all([silent.closed, slow.closed]);
  clearInterval(timer);
  assert.ok(at < hello.length);
  assert.equal(door.listener.handshakeCount, 0);
  assert.equal(lines.length, 1, 'more of them are told in a second');
});

test('a proof that comes again on another connection is refused', async (context) => {
  const door = await openDoor(context);
  const first = await RawPeer.connect(context, door.port);
  const dialer = dialerOf();
  first.send(dialer.hello);
  await first.frames.next();
  const proof = sent(dialer.receive(first.bytes[0]!));
  first.send(proof);
  assert.equal((await first.frames.next()).type, 'welcome');
  const second = await RawPeer.connect(context, door.port);
  second.send(dialer.hello, proof);
  assert.equal((await second.frames.next()).type, 'challenge');
  const frame = await second.frames.next();
  assert.ok(frame.type === 'refused' && frame.code === 'secret');
  await second.closed;
});

/** A listener that does what it is told with each connection. */
async function openFake(context: TestContext, onConnection: (socket: Socket) => void): Promise<DialOptions> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    context.after(() => socket.destroy());
    onConnection(socket);
  }).listen(0, '127.0.0.1');
  context.after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { address: `127.0.0.1:${port}`, identity: identityOf('member'), secret: SECRET, timeoutMs: 60_000 };
}

test('a dialer gives up on silence, on one byte at a time and when it is told to', async (context) => {
  const timedOut = (error: unknown) =>
    error instanceof GomqError &&
    error.code === 'PEER_UNREACHABLE' &&
    (error.cause as NodeJS.ErrnoException).code === 'ETIMEDOUT';
  const silent = await openFake(context, (socket) => socket.resume());
  await assert.rejects(dialReplica({ ...silent, timeoutMs: 100 }), timedOut);
  const slow = await openFake(context, (socket) => {
    const challenge = encodeSmall({ type: 'challenge', epoch: 1, nonce: Buffer.alloc(32), node: 'leader' });
    let at = 0;
    const timer = setInterval(() => socket.write(challenge.subarray(at, ++at)), 20);
    socket.on('close', () => clearInterval(timer));
  });
  await assert.rejects(dialReplica({ ...slow, timeoutMs: 150 }), timedOut);
  const controller = new AbortController();
  const given = dialReplica({ ...silent, signal: controller.signal });
  controller.abort();
  await assert.rejects(given, unreachable);
  await assert.rejects(dialReplica({ ...silent, signal: controller.signal }), unreachable);
});

test('a dialer closes upon garbage and huge lengths, and tells of a listener that just leaves', async (context) => {
  for (const answer of [
    'fd0f0000',
    '00000000',
    'ff'.repeat(20),
    '090000001400000000000000 00'.replace(' ', ''),
  ]) {
    const fake = await openFake(context, (socket) => socket.write(Buffer.from(answer, 'hex')));
    await assert.rejects(dialReplica(fake), protocolError);
  }
  await assert.rejects(dialReplica(await openFake(context, (socket) => socket.end())), unreachable);
  await assert.rejects(
    dialReplica(await openFake(context, (socket) => socket.resetAndDestroy())),
    unreachable,
  );
});

test('a dialer is not taken in by somebody who does not know the secret', async (context) => {
  const fake = await openFake(context, (socket) => {
    const listener = listenerOf({ secret: 'guessed' });
    const mac = Buffer.alloc(32, 9);
    socket.once('data', (hello) => {
      socket.write(sent(listener.receive(hello)));
      socket.once('data', () =>
        socket.write(encodeSmall({ type: 'welcome', epoch: 9, mac, node: 'leader' })),
      );
    });
  });
  await assert.rejects(dialReplica(fake), refused('secret'));
});
