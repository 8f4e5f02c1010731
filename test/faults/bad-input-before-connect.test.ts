// What the broker must survive before a client has said who it is, and in CONNECT itself: each line of the "Bad input" list, with the
// reports of other brokers it comes from. After every one of them a bystander is still served.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  closeAllClients,
  frame,
  hex,
  prefixed,
  RawClient,
  uint16,
  uint32,
  uniqueClientId,
  type Version,
  wrongConnect,
} from '../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../support/suite.js';

const broker = useBroker({ limits: { connectTimeoutSeconds: 1, packetBytes: 65_536 } });

let bystander: RawClient;
before(async () => {
  bystander = await broker.open({ clientId: 'bystander' });
});
afterEach(async () => {
  const topic = uniqueTopic('bystander');
  await bystander.subscribe(topic, 1);
  await bystander.publish(topic, 'served', { qos: 1 });
  await bystander.expectMessage(topic, 'served');
});
after(() => closeAllClients());

/** What a 5.0 client may be told in CONNACK before the close; a 3.1.1 client is told nothing. */
async function expectRefused(client: RawClient, ...reasonCodes: number[]): Promise<void> {
  await client.closed();
  for (const packet of client.queue) {
    assert.equal(packet.cmd, 'connack', hex(packet.raw));
    assert.ok(reasonCodes.includes(packet.raw[3]!), `CONNACK ${hex(packet.raw)}`);
  }
}

const MALFORMED = 0x81;
const PROTOCOL_ERROR = 0x82;

for (const [what, bytes] of [
  ['40 02 00 01', [0x40, 0x02, 0x00, 0x01]],
  ['30 ff ff ff 7f (CVE-2017-7651, CVE-2023-0809)', [0x30, 0xff, 0xff, 0xff, 0x7f]],
  ['30 ff ff ff ff 7f', [0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]],
  ['10 ff ff ff 7f, a CONNECT of 256 MiB', [0x10, 0xff, 0xff, 0xff, 0x7f]],
  ['10 ff ff ff ff 7f', [0x10, 0xff, 0xff, 0xff, 0xff, 0x7f]],
  ['a TLS ClientHello', [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]],
  ['an HTTP request', [...Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')]],
  ['zeros', Array.from({ length: 64 }, () => 0)],
] as const) {
  test(`before CONNECT: ${what} is closed at once`, async () => {
    const client = await broker.connect();
    const start = performance.now();
    client.send(bytes);
    await client.expectClosed();
    // The time that a CONNECT is waited for is a second: this close did not wait for it.
    assert.ok(performance.now() - start < 900, 'closed only by the timeout');
  });
}

test('before CONNECT: 30 ff ff ff 7f, then a trickle, is not read any further', async () => {
  const client = await broker.connect();
  client.send([0x30, 0xff, 0xff, 0xff, 0x7f]);
  const trickle = setInterval(() => client.send([0x00]), 50);
  try {
    await client.expectClosed(900);
  } finally {
    clearInterval(trickle);
  }
});

test('before CONNECT: a property length of ff ff ff ff 7f (CVE-2026-21888)', async () => {
  const client = await broker.connect();
  client.send(wrongConnect({ level: 5, properties: [0xff, 0xff, 0xff, 0xff, 0x7f] }));
  await expectRefused(client, MALFORMED);
});

test('before CONNECT: a property length beyond the packet', async () => {
  const client = await broker.connect();
  client.send(wrongConnect({ level: 5, properties: [0xff, 0xff, 0xff, 0x7f] }));
  await expectRefused(client, MALFORMED);
});

test('before CONNECT: a will property length of ff ff ff ff 7f', async () => {
  const client = await broker.connect();
  client.send(
    wrongConnect({
      level: 5,
      flags: 0x06,
      payload: [prefixed(uniqueClientId()), [0xff, 0xff, 0xff, 0xff, 0x7f], prefixed('t'), prefixed('m')],
    }),
  );
  await expectRefused(client, MALFORMED);
});

test('before CONNECT: silence ends with the connect timeout', async () => {
  const client = await broker.connect();
  const start = performance.now();
  await client.expectClosed();
  assert.ok(performance.now() - start > 900, 'closed before its time');
});

test('before CONNECT: one byte every so often does not extend the connect timeout', async () => {
  const client = await broker.connect();
  const packet = wrongConnect();
  let sent = 0;
  const trickle = setInterval(() => {
    client.send(packet.subarray(sent, sent + 1));
    sent += 1;
  }, 250);
  try {
    await client.expectClosed(2200);
  } finally {
    clearInterval(trickle);
  }
  assert.ok(sent < packet.length);
});

test('before CONNECT: 1,000 idle sockets keep nobody out and are all closed in time', async () => {
  const idle = await Promise.all(Array.from({ length: 1000 }, () => broker.connect()));
  const client = await broker.open();
  await client.barrier();
  await Promise.all(idle.map((socket) => socket.expectClosed(5000)));
});

test('before CONNECT: a CONNECT cut at every byte, the rest never sent', async () => {
  const packet = wrongConnect({
    flags: 0xc6,
    payload: ['id', 'will', 'message', 'user', 'password'].map(prefixed),
  });
  await Promise.all(
    Array.from({ length: packet.length - 1 }, async (_, index) => {
      const client = await broker.connect();
      client.send(packet.subarray(0, index + 1));
      client.end();
      await client.expectClosed();
    }),
  );
});

test('CONNECT: empty client id with clean session 0 gets 0x02 and a close in 3.1.1 (CVE-2025-56352)', async () => {
  const client = await broker.connect();
  client.send(wrongConnect({ flags: 0x00, payload: [prefixed('')] }));
  assert.deepEqual([...(await client.expect('connack')).raw], [0x20, 0x02, 0x00, 0x02]);
  await client.expectClosed();
});

test('CONNECT: empty client id with clean start 0 is given an id in 5.0', async () => {
  const client = await RawClient.connect(broker.port, { version: 5 });
  client.send(wrongConnect({ level: 5, flags: 0x00, payload: [prefixed('')] }));
  const connack = await client.expect('connack');
  assert.equal(connack.reasonCode, 0);
  assert.ok((connack.properties?.assignedClientIdentifier ?? '').length > 0);
});

for (const level of [4, 5] as const) {
  test(`CONNECT: will QoS 3, level ${level}`, async () => {
    const client = await RawClient.connect(broker.port, { version: level });
    const will = [...(level === 5 ? [[0x00]] : []), prefixed('t'), prefixed('m')];
    client.send(wrongConnect({ level, flags: 0x1e, payload: [prefixed(uniqueClientId()), ...will] }));
    await (level === 5 ? expectRefused(client, MALFORMED, PROTOCOL_ERROR) : client.expectClosed());
  });

  test(`CONNECT: a second one, level ${level}`, async () => {
    const client = await broker.open({ version: level });
    client.sendConnect();
    await (level === 5 ? client.expectDisconnect(PROTOCOL_ERROR) : client.expectClosed());
  });

  test(`CONNECT: one client id from two sockets, racing, level ${level}`, async () => {
    for (let round = 0; round < 10; round++) {
      const clientId = uniqueClientId('race');
      const [one, two] = await Promise.all([broker.connect(), broker.connect()]);
      for (const racer of [one, two]) racer.sendConnect({ version: level, clientId });
      const loser = await Promise.race([one.closed().then(() => one), two.closed().then(() => two)]);
      const winner = loser === one ? two : one;
      await winner.find('connack');
      await winner.barrier();
      winner.destroy();
    }
  });
}

const badWillProperties: [string, Buffer][] = [
  ['a property that does not exist', Buffer.from([0x02, 0x7f, 0x00])],
  ['a topic alias, which belongs to PUBLISH', Buffer.concat([Buffer.from([0x03, 0x23]), uint16(1)])],
  ['a session expiry, which belongs to CONNECT', Buffer.concat([Buffer.from([0x05, 0x11]), uint32(1)])],
  [
    'a will delay twice',
    Buffer.concat([Buffer.from([0x0a, 0x18]), uint32(1), Buffer.from([0x18]), uint32(1)]),
  ],
  ['a payload format of 2', Buffer.from([0x02, 0x01, 0x02])],
  ['a value cut short', Buffer.from([0x03, 0x02, 0x00, 0x00])],
  ['a user property without its value', Buffer.concat([Buffer.from([0x04, 0x26]), prefixed('k')])],
];
for (const [what, properties] of badWillProperties) {
  test(`CONNECT: bad will properties: ${what} (CVE-2023-3592)`, async () => {
    const client = await RawClient.connect(broker.port, { version: 5 });
    client.send(
      wrongConnect({
        level: 5,
        flags: 0x06,
        payload: [prefixed(uniqueClientId()), properties, prefixed('t'), prefixed('m')],
      }),
    );
    await expectRefused(client, MALFORMED, PROTOCOL_ERROR);
  });
}

for (const version of [4, 5] as Version[]) {
  test(`CONNECT: client ids and user names with # + and / are names like any other without rules that use them, version ${version} (CVE-2017-7650)`, async () => {
    const topic = uniqueTopic();
    for (const name of ['#', '+', 'a/b', '+/#', '$SYS', '../..']) {
      const clientId = `${name}${uniqueClientId()}`;
      const client = await broker.open({ version, clientId, username: name, password: 'secret' });
      await client.subscribe(`${topic}/mine`, 1);
      await client.publish(`${topic}/other`, 'not for it', { qos: 1 });
      await client.publish(`${topic}/mine`, 'last', { qos: 1 });
      assert.deepEqual(await messagesBefore(client, 'last'), []);
      client.destroy();
    }
  });
}

test('CONNECT: everything at once, in a packet of the largest size allowed and one byte more', async () => {
  const fixed = wrongConnect({ flags: 0x82, payload: [prefixed('id'), prefixed('')] }).length;
  // 65,536 bytes with a remaining length of three bytes, of which the small packet has one.
  const fill = 65_536 - fixed - 2;
  const fits = await broker.connect();
  fits.send(wrongConnect({ flags: 0x82, payload: [prefixed('id'), prefixed('x'.repeat(fill))] }));
  await fits.find('connack');
  const tooLarge = await broker.connect();
  tooLarge.send(wrongConnect({ flags: 0x82, payload: [prefixed('id'), prefixed('x'.repeat(fill + 1))] }));
  await tooLarge.expectClosed();
});

test('CONNECT: a frame that ends inside the protocol name', async () => {
  const client = await broker.connect();
  client.send(frame(0x10, uint16(4), Buffer.from('MQ')));
  await client.expectClosed();
});
