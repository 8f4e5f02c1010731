// UTF-8 strings of MQTT 3.1.1, in every field of every packet that has one.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  frame,
  hex,
  prefixed,
  type RawClient,
  uint16,
  uniqueClientId,
  wrongConnect,
} from '../../support/raw-client.js';
import { uniqueTopic, useBroker } from '../../support/suite.js';

const broker = useBroker();

const ILL_FORMED: [string, readonly number[]][] = [
  ['a lone continuation byte', [0x80]],
  ['a sequence cut short', [0x61, 0xc3]],
  ['a sequence cut short in its middle', [0xe2, 0x82, 0x61]],
  ['a continuation that does not continue', [0xc3, 0x28]],
  ['an overlong slash of two bytes', [0xc0, 0xaf]],
  ['an overlong slash of three bytes', [0xe0, 0x80, 0xaf]],
  ['an overlong slash of four bytes', [0xf0, 0x80, 0x80, 0xaf]],
  ['an overlong U+0000', [0xc0, 0x80]],
  ['the first surrogate', [0xed, 0xa0, 0x80]],
  ['the last surrogate', [0xed, 0xbf, 0xbf]],
  ['a pair of surrogates', [0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]],
  ['a code point above U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
  ['a sequence of five bytes', [0xf8, 0x88, 0x80, 0x80, 0x80]],
  ['the byte FE', [0xfe]],
  ['the byte FF', [0xff]],
];

const WITH_NULL: [string, readonly number[]][] = [
  ['U+0000 alone', [0x00]],
  ['U+0000 between letters', [0x61, 0x00, 0x62]],
  ['U+0000 at the end', [0x61, 0x00]],
];

type PacketWith = (content: Uint8Array) => Buffer;

const publishTo: PacketWith = (content) => frame(0x30, prefixed(content), Buffer.from('x'));
const subscribeTo: PacketWith = (content) => frame(0x82, uint16(1), prefixed(content), [0]);
const unsubscribeFrom: PacketWith = (content) => frame(0xa2, uint16(1), prefixed(content));
const connectAs: PacketWith = (content) => wrongConnect({ payload: [prefixed(content)] });
const connectWithWillTo: PacketWith = (content) =>
  wrongConnect({
    flags: 0x06,
    payload: [prefixed(uniqueClientId()), prefixed(content), prefixed('message')],
  });
const connectAsUser: PacketWith = (content) =>
  wrongConnect({ flags: 0x82, payload: [prefixed(uniqueClientId()), prefixed(content)] });

async function assertAllClose(
  open: () => Promise<RawClient>,
  cases: [string, readonly number[]][],
  packet: (content: Uint8Array) => Buffer,
): Promise<void> {
  await Promise.all(
    cases.map(async ([what, content]) => {
      const client = await open();
      client.send(packet(Uint8Array.from(content)));
      await client
        .expectClosed()
        .catch((error: Error) => assert.fail(`${what} (${hex(Uint8Array.from(content))}): ${error.message}`));
    }),
  );
}

test('[MQTT-1.5.3-1] [MQTT-3.3.2-1] ill-formed UTF-8 in the topic of PUBLISH ends the connection', () =>
  assertAllClose(broker.open, ILL_FORMED, publishTo));

test('[MQTT-1.5.3-1] [MQTT-3.8.3-1] ill-formed UTF-8 in a filter of SUBSCRIBE ends the connection', () =>
  assertAllClose(broker.open, ILL_FORMED, subscribeTo));

test('[MQTT-1.5.3-1] [MQTT-3.10.3-1] ill-formed UTF-8 in a filter of UNSUBSCRIBE ends the connection', () =>
  assertAllClose(broker.open, ILL_FORMED, unsubscribeFrom));

test('[MQTT-1.5.3-1] [MQTT-3.1.3-4] ill-formed UTF-8 in the client identifier is refused', () =>
  assertAllClose(broker.connect, ILL_FORMED, connectAs));

test('[MQTT-1.5.3-1] [MQTT-3.1.3-10] ill-formed UTF-8 in the will topic is refused', () =>
  assertAllClose(broker.connect, ILL_FORMED, connectWithWillTo));

test('[MQTT-1.5.3-1] [MQTT-3.1.3-11] ill-formed UTF-8 in the user name is refused', () =>
  assertAllClose(broker.connect, ILL_FORMED, connectAsUser));

test('[MQTT-1.5.3-2] U+0000 in a topic or a filter ends the connection', async () => {
  for (const packet of [publishTo, subscribeTo, unsubscribeFrom])
    await assertAllClose(broker.open, WITH_NULL, packet);
});

test('[MQTT-1.5.3-2] U+0000 in the client identifier, the will topic or the user name is refused', async () => {
  for (const packet of [connectAs, connectWithWillTo, connectAsUser]) {
    await assertAllClose(broker.connect, WITH_NULL, packet);
  }
});

test('[MQTT-1.5.3-1] well-formed characters of every length are taken and delivered unchanged', async () => {
  const root = uniqueTopic();
  const client = await broker.open({ clientId: `${root}-é-日-🙂` });
  await client.subscribe(`${root}/#`);
  // One, two, three and four bytes, both sides of the surrogates, the last private use character. Control characters and noncharacters
  // are left out: a receiver is free to refuse them.
  for (const text of [
    '~',
    '\u00a0',
    '\u07ff',
    '\u0800',
    '\ud7ff',
    '\ue000',
    '\ufffd',
    '\u{10000}',
    '\u{10fffd}',
  ]) {
    client.sendPublish(`${root}/${text}`, text);
    await client.expectMessage(`${root}/${text}`, text);
  }
});

test('[MQTT-1.5.3-3] EF BB BF in a topic is a character that is neither skipped nor stripped', async () => {
  const root = uniqueTopic();
  const client = await broker.open();
  const marked = Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from(root)]);
  client.send(frame(0x82, uint16(1), prefixed(marked), [0]));
  await client.expect('suback');
  client.sendPublish(root, 'without');
  client.send(frame(0x30, prefixed(marked), Buffer.from('with')));
  assert.deepEqual((await client.expect('publish')).raw, frame(0x30, prefixed(marked), Buffer.from('with')));
});

test('[MQTT-1.5.3-3] EF BB BF at the beginning makes a different client identifier', async () => {
  const clientId = uniqueClientId();
  const plain = await broker.open({ clientId });
  const marked = await broker.connect();
  marked.send(connectAs(Buffer.from(`\ufeff${clientId}`)));
  await marked.expect('connack');
  await plain.barrier();
  await marked.barrier();
});

test('[MQTT-1.5.3-1] payloads, will messages and passwords are bytes, not strings', async () => {
  const topic = uniqueTopic();
  const bytes = Buffer.from([0x00, 0xff, 0xed, 0xa0, 0x80]);
  const watcher = await broker.open();
  await watcher.subscribe(topic);
  const client = await broker.open({ username: 'user', password: bytes, will: { topic, payload: bytes } });
  client.sendPublish(topic, bytes);
  assert.deepEqual((await watcher.expect('publish')).payload, bytes);
  client.end();
  assert.deepEqual((await watcher.expect('publish')).payload, bytes);
});
