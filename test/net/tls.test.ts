import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import test, { after, before } from 'node:test';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { WebSocket } from 'ws';
import { defaultConfig } from '../../src/core/config.js';
import type { GomqError } from '../../src/core/errors.js';
import { Authority, type CertificateFiles } from './certificate-files.js';
import { bytesUntilClose, type LogLine, openEdge, recordingLogger } from './support.js';

const skip = Authority.isAvailable ? false : 'openssl is not installed';
let authority: Authority;
let server: CertificateFiles;
let alice: CertificateFiles;
let stranger: CertificateFiles;
let strangers: Authority;

before(() => {
  if (skip !== false) return;
  authority = new Authority();
  strangers = new Authority();
  server = authority.sign('server', '/CN=localhost');
  alice = authority.sign('alice', '/CN=alice');
  stranger = strangers.sign('alice', '/CN=alice');
});

after(() => {
  if (skip !== false) return;
  authority.remove();
  strangers.remove();
});

function secure(settings: { ca?: string; requireClientCert?: boolean } = {}) {
  const tls = { ...server, ca: '', requireClientCert: false, ...settings };
  return { mqtt: [], mqtts: ['127.0.0.1:0'], tls };
}

/** Connects and shakes hands; rejects where the server refuses. */
async function shakeHands(port: number, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const client = connect({ host: '127.0.0.1', port, ca: readFileSync(authority.ca), ...options });
  await once(client, 'secureConnect');
  client.on('error', () => {});
  return client;
}

function identity(files: CertificateFiles): ConnectionOptions {
  return { cert: readFileSync(files.cert), key: readFileSync(files.key) };
}

test('TLS: bytes pass in both directions, and a place is freed at the end', { skip }, async (context) => {
  const edge = await openEdge(context, { listeners: secure() });
  assert.equal(edge.listeners.addresses[0]?.kind, 'mqtts');
  const client = await shakeHands(edge.port);
  const accepted = await edge.connection(0);
  const big = Buffer.alloc(1024 * 1024, 'x');
  client.write(big);
  await accepted.until((it) => it.chunks.reduce((sum, chunk) => sum + chunk.length, 0) === big.length);
  const received = bytesUntilClose(client);
  accepted.transport.write(big, () => {});
  accepted.transport.end();
  assert.deepEqual(await received, big);
  await accepted.until((it) => it.closes === 1);
  assert.equal(accepted.error, undefined);
  assert.equal(accepted.transport.isSecure, true);
  assert.equal(accepted.transport.remoteAddress, '127.0.0.1');
  assert.equal(accepted.transport.clientCertificateName, undefined);
  await edge.untilNoConnections();
});

test('TLS: a reset connection closes once', { skip }, async (context) => {
  const edge = await openEdge(context, { listeners: secure() });
  const raw = connectTcp(edge.port, '127.0.0.1');
  const client = connect({ socket: raw, ca: readFileSync(authority.ca), host: 'localhost' });
  client.on('error', () => {});
  await once(client, 'secureConnect');
  const accepted = await edge.connection(0);
  raw.resetAndDestroy();
  await accepted.until((it) => it.closes === 1);
  assert.equal(accepted.closes, 1);
});

test('TLS 1.1 is refused, 1.2 is not', { skip }, async (context) => {
  const edge = await openEdge(context, { listeners: secure() });
  await assert.rejects(
    shakeHands(edge.port, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }),
  );
  const client = await shakeHands(edge.port, { maxVersion: 'TLSv1.2' });
  assert.equal(client.getProtocol(), 'TLSv1.2');
  client.destroy();
});

test('bytes that are not TLS end that connection only', { skip }, async (context) => {
  const edge = await openEdge(context, { listeners: secure() });
  const raw = connectTcp(edge.port, '127.0.0.1');
  raw.on('error', () => {});
  raw.write(Buffer.from('100c00044d5154540402003c0000', 'hex'));
  await bytesUntilClose(raw);
  await shakeHands(edge.port);
  const accepted = await edge.connection(0);
  assert.equal(accepted.transport.isSecure, true);
});

test('a TLS handshake that is not finished in time is closed', { skip }, async (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const edge = await openEdge(context, { listeners: secure() });
  const raw = connectTcp(edge.port, '127.0.0.1');
  await once(raw, 'connect');
  while (edge.listeners.connectionCount === 0) await new Promise((resolve) => setImmediate(resolve));
  context.mock.timers.tick(10_000);
  await bytesUntilClose(raw);
  assert.equal(edge.accepted.length, 0);
});

test('the common name of a verified client certificate is shown, of an unverified one it is not', {
  skip,
}, async (context) => {
  const edge = await openEdge(context, { listeners: secure({ ca: authority.ca }) });
  await shakeHands(edge.port, identity(alice));
  assert.equal((await edge.connection(0)).transport.clientCertificateName, 'alice');
  await shakeHands(edge.port, identity(stranger));
  assert.equal((await edge.connection(1)).transport.clientCertificateName, undefined);
  await shakeHands(edge.port);
  assert.equal((await edge.connection(2)).transport.clientCertificateName, undefined);
});

test('requireClientCert refuses clients without a certificate of ours', { skip }, async (context) => {
  const edge = await openEdge(context, { listeners: secure({ ca: authority.ca, requireClientCert: true }) });
  const tryWith = async (options: ConnectionOptions) => {
    // TLS 1.3 lets the client finish before the server has judged its certificate, so what counts is that the connection closes.
    const client = connect({
      host: '127.0.0.1',
      port: edge.port,
      ca: readFileSync(authority.ca),
      ...options,
    });
    client.on('error', () => {});
    await bytesUntilClose(client);
  };
  await tryWith({});
  await tryWith(identity(stranger));
  assert.equal(edge.accepted.length, 0);
  await shakeHands(edge.port, identity(alice));
  assert.equal((await edge.connection(0)).transport.clientCertificateName, 'alice');
});

test('a missing certificate file is CONFIG_UNREADABLE and named', { skip }, async (context) => {
  const listeners = secure();
  const missing = authority.path('nowhere.pem');
  await assert.rejects(
    openEdge(context, { listeners: { ...listeners, tls: { ...listeners.tls, key: missing } } }),
    (error: GomqError) => error.code === 'CONFIG_UNREADABLE' && error.message.includes(missing),
  );
});

test('a file that is no certificate, or a key of another one, is CONFIG_UNREADABLE and named', {
  skip,
}, async (context) => {
  const garbage = authority.path('garbage.pem');
  writeFileSync(garbage, 'not a certificate\n');
  const { tls } = secure();
  const attempts = [
    { ...tls, cert: garbage },
    { ...tls, key: garbage },
    { ...tls, ca: garbage },
  ];
  for (const attempt of attempts) {
    await assert.rejects(
      openEdge(context, { listeners: { ...secure(), tls: attempt } }),
      (error: GomqError) => error.code === 'CONFIG_UNREADABLE' && error.message.includes(garbage),
    );
  }
  await assert.rejects(
    openEdge(context, { listeners: { ...secure(), tls: { ...tls, key: alice.key } } }),
    (error: GomqError) => error.code === 'CONFIG_UNREADABLE' && error.message.includes(alice.key),
  );
});

test('mqtts without a certificate, and requireClientCert without ca, are CONFIG_INVALID', {
  skip,
}, async (context) => {
  const { tls } = defaultConfig().listeners;
  await assert.rejects(openEdge(context, { listeners: { mqtts: ['127.0.0.1:0'], tls } }), {
    code: 'CONFIG_INVALID',
  });
  await assert.rejects(openEdge(context, { listeners: secure({ requireClientCert: true }) }), {
    code: 'CONFIG_INVALID',
  });
});

test('a private key that others can read is warned of (CVE-2017-9868)', { skip }, async (context) => {
  const key = authority.path('open.key');
  copyFileSync(server.key, key);
  chmodSync(key, 0o644);
  const lines: LogLine[] = [];
  const { tls } = secure();
  await openEdge(context, {
    listeners: { ...secure(), tls: { ...tls, key } },
    logger: recordingLogger(lines),
  });
  assert.equal(lines.filter((line) => line.fields.path === key).length, 1);
});

test('certificates are read again on request, and kept where that fails', { skip }, async (context) => {
  const cert = authority.path('current.pem');
  const key = authority.path('current.key');
  const use = (files: CertificateFiles) => {
    copyFileSync(files.cert, cert);
    copyFileSync(files.key, key);
  };
  use(server);
  const { tls } = secure();
  const edge = await openEdge(context, { listeners: { ...secure(), tls: { ...tls, cert, key } } });
  const shown = async () => {
    const client = await shakeHands(edge.port, { checkServerIdentity: () => undefined });
    const name = client.getPeerCertificate().subject.CN;
    client.destroy();
    return name;
  };
  assert.equal(await shown(), 'localhost');
  writeFileSync(cert, 'half written');
  assert.throws(() => edge.listeners.reloadCertificates(), { code: 'CONFIG_UNREADABLE' });
  assert.equal(await shown(), 'localhost');
  use(alice);
  edge.listeners.reloadCertificates();
  assert.equal(await shown(), 'alice');
});

test('wss: MQTT over WebSocket and TLS, with the name of the client certificate', {
  skip,
}, async (context) => {
  const listeners = { ...secure({ ca: authority.ca }), mqtts: [], wss: ['127.0.0.1:0'] };
  const edge = await openEdge(context, { listeners });
  const client = new WebSocket(`wss://127.0.0.1:${edge.port}/mqtt`, ['mqtt'], {
    ca: readFileSync(authority.ca),
    ...identity(alice),
  } as ConstructorParameters<typeof WebSocket>[2]);
  await once(client, 'open');
  const accepted = await edge.connection(0);
  assert.equal(accepted.transport.isSecure, true);
  assert.equal(accepted.transport.clientCertificateName, 'alice');
  client.send(Buffer.from('ping'));
  await accepted.until((it) => it.bytes.toString() === 'ping');
  accepted.transport.end();
  await once(client, 'close');
  await accepted.until((it) => it.closes === 1);
  await edge.untilNoConnections();
});
