import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/core/clock.js';
import { GomqError } from '../../src/core/errors.js';
import type { FrameToLeader } from '../../src/replication/frames.js';
import { DialerHandshake, PeerRefusedError } from '../../src/replication/handshake.js';
import { dialHttp, dialReplica, dialTunnel, isGone, probePeer } from '../../src/replication/peer-dialer.js';
import { openPeerListener } from '../../src/replication/peer-listener.js';
import type { PeerTls } from '../../src/replication/peer-tls.js';
import { Authority, type CertificateFiles } from '../net/certificate-files.js';
import { type LogLine, recordingLogger } from '../net/support.js';
import { CLIENT, dialing, identityOf, openDoor, RawPeer, Recorder, SECRET } from './peers.js';

const skip = Authority.isAvailable ? false : 'openssl is not installed';
let authority: Authority;
let strangers: Authority;

before(() => {
  if (skip !== false) return;
  authority = new Authority();
  strangers = new Authority();
});

after(() => {
  if (skip !== false) return;
  authority.remove();
  strangers.remove();
});

function tlsOf(files: CertificateFiles, ca: string): PeerTls {
  return { cert: readFileSync(files.cert), key: readFileSync(files.key), ca: readFileSync(ca) };
}

/** A port where nobody listens. */
async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

test('a tunnel is handed over with its client, and bytes pass in both directions', async (context) => {
  const door = await openDoor(context);
  const tunnel = await dialTunnel({ ...dialing(door), client: CLIENT });
  context.after(() => tunnel.socket.destroy());
  assert.deepEqual(tunnel.welcome, { node: 'leader', epoch: 7 });
  assert.equal(tunnel.alreadyRead.length, 0);
  const { socket, client, hello, alreadyRead } = await door.tunnels.next();
  assert.deepEqual(client, CLIENT);
  assert.equal(hello.node, 'member');
  assert.equal(alreadyRead.length, 0);
  const big = Buffer.alloc(5 * 1024 * 1024, 'x');
  const received = collect(socket, big.length);
  const answered = collect(tunnel.socket, big.length);
  tunnel.socket.write(big);
  socket.write(big);
  assert.deepEqual(await received, big);
  assert.deepEqual(await answered, big);
  socket.end();
  await once(tunnel.socket, 'close');
});

test('a connection for requests is handed over as one, with no client', async (context) => {
  const door = await openDoor(context);
  const { socket: near, welcome } = await dialHttp(dialing(door));
  context.after(() => near.destroy());
  assert.deepEqual(welcome, { node: 'leader', epoch: 7 });
  const { socket: far, hello } = await door.https.next();
  assert.deepEqual([hello.purpose, hello.node, door.tunnels.all.length], ['http', 'member', 0]);
  const received = collect(far, 5);
  near.write('GET /');
  assert.equal((await received).toString(), 'GET /');
});

/** Resolves with the next `length` bytes. */
function collect(socket: NodeJS.ReadableStream, length: number): Promise<Buffer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let missing = length;
    socket.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      missing -= chunk.length;
      if (missing === 0) resolve(Buffer.concat(chunks));
    });
    socket.resume();
  });
}

test('bytes right behind the proof arrive, those that come while nobody reads too', async (context) => {
  const door = await openDoor(context);
  const peer = await RawPeer.connect(context, door.port);
  const dialer = new DialerHandshake({
    identity: identityOf('member'),
    secret: SECRET,
    purpose: 'tunnel',
    client: CLIENT,
  });
  peer.send(dialer.hello);
  await peer.frames.next();
  // Large enough to come in several pieces, of which the first has the proof before it.
  const mqtt = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251));
  peer.send(dialer.receive(peer.bytes[0]!).bytes!, mqtt);
  assert.equal((await peer.frames.next()).type, 'welcome');
  const { socket, alreadyRead } = await door.tunnels.next();
  assert.ok(alreadyRead.length > 0);
  const rest = await collect(socket, mqtt.length - alreadyRead.length);
  assert.deepEqual(Buffer.concat([alreadyRead, rest]), mqtt);
});

test('bytes right behind the welcome arrive at the dialer', async (context) => {
  const door = await openDoor(context, {
    onTunnel: (socket) => {
      socket.write('early');
      context.after(() => socket.destroy());
    },
  });
  const { socket, alreadyRead } = await dialTunnel({ ...dialing(door), client: CLIENT });
  context.after(() => socket.destroy());
  const rest = alreadyRead.length === 5 ? Buffer.alloc(0) : await collect(socket, 5 - alreadyRead.length);
  assert.equal(Buffer.concat([alreadyRead, rest]).toString(), 'early');
});

test('a tunnel whose other end is reset does not take the process with it', async (context) => {
  const door = await openDoor(context);
  const { socket } = await dialTunnel({ ...dialing(door), client: CLIENT });
  const arrival = await door.tunnels.next();
  socket.resetAndDestroy();
  arrival.socket.resume();
  await new Promise((resolve) => arrival.socket.once('close', resolve));
});

test('what mayAccept answers is told to the dialer', async (context) => {
  const door = await openDoor(context, {
    identity: () => identityOf('leader', { epoch: 12 }),
    mayAccept: ({ purpose }) =>
      purpose === 'replica' ? { code: 'epoch', message: 'this is 12' } : undefined,
  });
  await assert.rejects(
    dialReplica(dialing(door)),
    (error: unknown) =>
      error instanceof PeerRefusedError &&
      error.refusal === 'epoch' &&
      error.epoch === 12 &&
      error.message === 'this is 12',
  );
  const { socket } = await dialTunnel({ ...dialing(door), client: CLIENT });
  socket.destroy();
});

test('who this broker is, is asked for each connection', async (context) => {
  let clusterId = '';
  const door = await openDoor(context, { identity: () => identityOf('leader', { clusterId }) });
  const link = await dialReplica(dialing(door, { identity: identityOf('member', { clusterId: 'x' }) }));
  link.destroy();
  clusterId = 'y';
  await assert.rejects(
    dialReplica(dialing(door, { identity: identityOf('member', { clusterId: 'x' }) })),
    PeerRefusedError,
  );
});

test('handshakes that are not finished have a limit; a slow one makes room, a new one does not', async (context) => {
  let nowMs = 0;
  const lines: LogLine[] = [];
  const door = await openDoor(context, {
    handshakesMax: 3,
    handshakeTimeoutMs: 60_000,
    clock: { ...systemClock, monotonicMs: () => nowMs },
    logger: recordingLogger(lines),
  });
  const count = async (wanted: number) => {
    while (door.listener.handshakeCount !== wanted) await new Promise((resolve) => setImmediate(resolve));
  };
  const slow: RawPeer[] = [];
  for (let i = 1; i <= 3; i++) {
    slow.push(await RawPeer.connect(context, door.port));
    await count(i);
  }
  const fourth = await RawPeer.connect(context, door.port);
  await fourth.closed;
  assert.equal(door.listener.handshakeCount, 3);
  nowMs = 1_000;
  const link = await dialReplica(dialing(door));
  context.after(() => link.destroy());
  await slow[0]!.closed;
  // The one that was let in does not count any more, and those that left neither.
  await count(2);
  slow[1]!.socket.destroy();
  slow[2]!.socket.destroy();
  await count(0);
  assert.deepEqual(
    lines.map(({ fields }) => fields?.reason),
    ['too many at once', 'slow, while others wait'],
    'each for its own reason at once',
  );
});

test('links that were let in do not count as handshakes', async (context) => {
  const door = await openDoor(context, { handshakesMax: 2 });
  for (let i = 0; i < 10; i++) {
    const link = await dialReplica(dialing(door));
    context.after(() => link.destroy());
  }
  assert.equal(door.replicas.all.length, 10);
  assert.equal(door.listener.handshakeCount, 0);
});

test('refusals are told once a second, with their number', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const lines: LogLine[] = [];
  const door = await openDoor(context, { logger: recordingLogger(lines) });
  for (let i = 0; i < 20; i++) {
    await assert.rejects(dialReplica(dialing(door, { secret: 'wrong' })), PeerRefusedError);
  }
  assert.equal(lines.length, 1);
  assert.equal(lines[0]?.fields.reason, 'secret');
  assert.equal(lines[0]?.fields.count, 1);
  context.mock.timers.tick(1_000);
  assert.equal(lines.length, 2);
  assert.equal(lines[1]?.fields.count, 19);
  assert.equal(JSON.stringify(lines).includes(SECRET), false);
});

test('close ends handshakes and lets links live', async (context) => {
  const door = await openDoor(context);
  const member = await dialReplica(dialing(door));
  context.after(() => member.destroy());
  const { link } = await door.replicas.next();
  const recorder = new Recorder<FrameToLeader>();
  link.start(recorder);
  const half = await RawPeer.connect(context, door.port);
  half.send(new DialerHandshake({ identity: identityOf('m'), secret: SECRET, purpose: 'replica' }).hello);
  await half.frames.next();
  await door.listener.close();
  await half.closed;
  member.send({ type: 'ack', epoch: 7, durableEnd: 1, applied: 1, sequence: 1, isFull: false });
  assert.equal((await recorder.frames.next()).type, 'ack');
  await assert.rejects(
    dialReplica(dialing(door)),
    (error: unknown) =>
      error instanceof GomqError &&
      error.code === 'PEER_UNREACHABLE' &&
      (error.cause as NodeJS.ErrnoException).code === 'ECONNREFUSED',
  );
});

test('an address that is in use, or none, is refused', async (context) => {
  const door = await openDoor(context);
  const options = {
    secret: SECRET,
    logger: recordingLogger([]),
    identity: () => identityOf('leader'),
    mayAccept: () => undefined,
    onReplica: () => {},
    onTunnel: () => {},
    onHttp: () => {},
  };
  await assert.rejects(openPeerListener({ ...options, address: door.address }), { code: 'ADDRESS_IN_USE' });
  await assert.rejects(openPeerListener({ ...options, address: 'nowhere' }), { code: 'ADDRESS_INVALID' });
});

test('a probe tells whether a process listens', async (context) => {
  const lines: LogLine[] = [];
  const door = await openDoor(context, { logger: recordingLogger(lines) });
  assert.equal(await probePeer(door.address, 60_000), 'there');
  while (door.listener.handshakeCount > 0) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(lines, [], 'nobody was refused');
  const port = await closedPort();
  assert.equal(await probePeer(`127.0.0.1:${port}`, 60_000), 'gone');
  assert.equal(await probePeer(`localhost:${port}`, 60_000), 'gone', 'of all addresses of a name');
  // A name that is none (RFC 6761).
  assert.equal(await probePeer('nowhere.invalid:1', 60_000), 'silent');
});

test('a name with several addresses is gone when all of them say so', () => {
  const failure = (code: string) => Object.assign(new Error(code), { code });
  const several = (...codes: string[]) =>
    // Node gives the whole the code of its first part.
    Object.assign(new AggregateError(codes.map(failure)), { code: codes[0] });
  assert.equal(isGone(several('ECONNREFUSED', 'ECONNRESET')), true);
  assert.equal(isGone(several('ECONNREFUSED', 'ETIMEDOUT')), false);
  assert.equal(isGone(several('ENETUNREACH', 'ECONNREFUSED')), false);
  for (const code of ['ECONNREFUSED', 'ECONNRESET']) assert.equal(isGone(failure(code)), true);
  for (const code of ['ETIMEDOUT', 'EHOSTUNREACH', 'ENOTFOUND']) assert.equal(isGone(failure(code)), false);
});

test('a probe never takes a frozen process for one that is gone', async (context) => {
  const program =
    "net.createServer().listen(0, '127.0.0.1', 1, function () { console.log(this.address().port) })";
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  context.after(() => child.kill('SIGKILL'));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const address = `127.0.0.1:${line.toString().trim()}`;
  child.kill('SIGSTOP');
  // The system accepts for it until its backlog is full, and then answers nothing.
  const answers: string[] = [];
  while (answers.at(-1) !== 'silent') answers.push(await probePeer(address, 200));
  assert.equal(answers[0], 'there');
  assert.ok(!answers.includes('gone'));
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(await probePeer(address, 60_000), 'gone');
});

test('TLS: both show certificates, and the secret may be empty', { skip }, async (context) => {
  const leader = authority.sign('leader', '/CN=leader');
  const member = authority.sign('member', '/CN=member');
  const door = await openDoor(context, { secret: '', tls: tlsOf(leader, authority.ca) });
  const tls = tlsOf(member, authority.ca);
  for (const address of [door.address, `localhost:${door.port}`]) {
    const link = await dialReplica(dialing(door, { address, secret: '', tls }));
    const recorder = new Recorder<FrameToLeader>();
    const { link: atLeader } = await door.replicas.next();
    atLeader.start(recorder);
    link.send({ type: 'ack', epoch: 7, durableEnd: 1, applied: 1, sequence: 1, isFull: false });
    assert.equal((await recorder.frames.next()).type, 'ack');
    link.destroy();
    await recorder.closes.next();
  }
  const tunnel = await dialTunnel({ ...dialing(door, { secret: '', tls }), client: CLIENT });
  const { socket, client } = await door.tunnels.next();
  assert.deepEqual(client, CLIENT);
  const received = collect(socket, 200_000);
  tunnel.socket.write(Buffer.alloc(200_000, 'y'));
  assert.deepEqual(await received, Buffer.alloc(200_000, 'y'));
  tunnel.socket.destroy();
  assert.equal(door.listener.handshakeCount, 0);
  // With a secret as well, it has to be the right one.
  await assert.rejects(dialReplica(dialing(door, { secret: 'wrong', tls })), PeerRefusedError);
});

test('TLS: a certificate of another authority, or plain TCP, is not let in on either side', {
  skip,
}, async (context) => {
  const leader = authority.sign('leader', '/CN=leader');
  const stranger = strangers.sign('member', '/CN=member');
  const door = await openDoor(context, { tls: tlsOf(leader, authority.ca) });
  const unreachable = { code: 'PEER_UNREACHABLE' };
  // Who does not trust the listener, whom the listener does not trust, and who does not know of TLS.
  await assert.rejects(dialReplica(dialing(door, { tls: tlsOf(stranger, strangers.ca) })), unreachable);
  await assert.rejects(dialReplica(dialing(door, { tls: tlsOf(stranger, authority.ca) })), unreachable);
  await assert.rejects(dialReplica(dialing(door)), GomqError);
  const plain = await openDoor(context);
  const member = authority.sign('member', '/CN=member');
  await assert.rejects(dialReplica(dialing(plain, { tls: tlsOf(member, authority.ca) })), unreachable);
  assert.equal(door.replicas.all.length + plain.replicas.all.length, 0);
});

test('TLS: a handshake that is not finished is closed in time', { skip }, async (context) => {
  const leader = authority.sign('leader', '/CN=leader');
  const door = await openDoor(context, { tls: tlsOf(leader, authority.ca), handshakeTimeoutMs: 100 });
  const peer = await RawPeer.connect(context, door.port);
  await peer.closed;
  assert.equal(door.listener.handshakeCount, 0);
});
