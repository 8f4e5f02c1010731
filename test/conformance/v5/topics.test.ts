// Topic names, topic filters and strings: sections 4.7 and 1.5.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { frame, hex, prefixed, type RawClient, uint16 } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import {
  block,
  connectFrame,
  expectFilterRefused,
  expectRefused,
  nextPacket,
  P,
  property,
  propertyOf,
  publishFrame,
  reasonOf,
  subscribe,
  subscribeFrame,
  unsubscribeFrame,
  useBroker,
} from './support.js';

const broker = useBroker();

describe('matching', () => {
  // Under a prefix of the test: filter, names it matches, names it does not.
  const rows: [string, string[], string[]][] = [
    ['a/b', ['a/b'], ['a', 'a/b/c', 'A/b', 'a/b/', '/a/b', 'a//b']],
    ['a/#', ['a', 'a/', 'a/b', 'a/b/c'], ['ab', 'b/a']],
    ['#', ['', 'a', '/', 'a/b/c'], []],
    ['+', ['', 'a'], ['a/', '/', 'a/b']],
    ['+/+', ['/', 'a/', '/a', 'a/b'], ['a', 'a/b/c']],
    ['a/+', ['a/', 'a/b'], ['a', 'a/b/c']],
    ['a/+/c', ['a/b/c', 'a//c'], ['a/c', 'a/b/d', 'a/b/c/d']],
    ['+/b/#', ['a/b', '/b', 'a/b/c'], ['a/c', 'b']],
    ['a//b', ['a//b'], ['a/b', 'a/x/b']],
    ['/', ['/'], ['', 'a']],
    ['$x', ['$x'], ['x']],
    ['ä/€/😀', ['ä/€/😀'], ['a\u0308/€/😀']],
  ];
  for (const [filter, matching, others] of rows) {
    test(`[MQTT-4.7.3-4] [MQTT-4.7.1-1] [MQTT-4.7.1-2] ${JSON.stringify(filter)}`, async () => {
      const prefix = uniqueTopic();
      const client = await broker.open();
      await client.subscribe(`${prefix}/${filter}`);
      for (const name of others) await client.publish(`${prefix}/${name}`, 'x');
      await client.expectQuiet();
      for (const name of matching) {
        await client.publish(`${prefix}/${name}`, 'x');
        await client.expectMessage(`${prefix}/${name}`, 'x');
      }
    });
  }

  test('[MQTT-4.7.3-4] composed and decomposed characters are different ones', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe([`${topic}/\u00e9`, `${topic}/K`]);
    // e with a combining accent; the Kelvin sign, which normalisation turns into K.
    await client.publish(`${topic}/e\u0301`, 'x');
    await client.publish(`${topic}/\u212a`, 'x');
    await client.expectQuiet();
    await client.publish(`${topic}/\u00e9`, 'x');
    await client.expectMessage(`${topic}/\u00e9`, 'x');
  });

  test('[MQTT-4.7.2-1] filters that begin with a wildcard do not match $ topics', async () => {
    const name = `$${uniqueTopic()}`;
    const wild = await broker.open();
    await wild.subscribe(['#', '+/a', '+/#', '/#']);
    const exact = await broker.open();
    await exact.subscribe(`${name}/#`);
    await exact.publish(`${name}/a`, 'x');
    await exact.expectMessage(`${name}/a`, 'x');
    // Others publish to this broker too: what begins with $ is all that counts.
    await wild.barrier();
    for (const packet of wild.queue) assert.ok(packet.cmd !== 'publish' || !packet.topic.startsWith('$'));
  });

  test('[MQTT-4.7.2-1] a $ further inside is nothing special', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(`${topic}/+/#`);
    await client.publish(`${topic}/$a/b`, 'x');
    await client.expectMessage(`${topic}/$a/b`, 'x');
  });
});

describe('characters and lengths', () => {
  test('[MQTT-4.7.3-2] [MQTT-1.5.4-2] U+0000 in names and filters is malformed', async () => {
    const topic = Buffer.from('a\u0000b');
    for (const bytes of [
      publishFrame(topic),
      subscribeFrame(1, [[topic, 0]]),
      unsubscribeFrame(1, [topic]),
    ]) {
      const client = await broker.open();
      client.send(bytes);
      await client.expectDisconnect(0x81);
    }
  });

  test('[MQTT-4.7.3-1] an empty filter is refused', async () => {
    const client = await broker.open();
    client.send(subscribeFrame(1, [['', 0]]));
    await expectFilterRefused(client, 0x8f, 0x81, 0x82);
  });

  test('[MQTT-4.7.3-3] the longest name there is costs no more than the answer that it is too long', async () => {
    const topic = 'x'.repeat(65_535);
    const client = await broker.open();
    client.send(publishFrame(topic, { qos: 1, payload: 'x' }));
    // A limit below that of the standard is the server's own affair, and these are its ways to say so.
    const answer = await nextPacket(client);
    assert.ok(answer.cmd === 'puback' || answer.cmd === 'disconnect', `got a ${answer.cmd}`);
    assert.ok([0x00, 0x10, 0x90, 0x95, 0x97].includes(reasonOf(answer)), hex(answer.raw));
  });

  test('[MQTT-1.5.4-3] U+FEFF stays where it is, at the beginning too', async () => {
    const topic = `\ufeff${uniqueTopic()}\ufeff`;
    const client = await broker.open();
    await client.subscribe(topic);
    const properties = [property(P.contentType, '\ufeffx')];
    client.send(publishFrame(topic, { properties, payload: 'x' }));
    const message = await client.expectMessage(topic, 'x');
    assert.equal(propertyOf(message, P.contentType), '\ufeffx');
    await client.publish(topic.slice(1, -1), 'another topic');
    await client.expectQuiet();
  });

  test('[MQTT-1.5.4-1] all of Unicode but surrogates passes', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    for (const text of [
      '\u007f',
      'ä',
      '\u07ff',
      '\u0800',
      '\ud7ff',
      '\ue000',
      '\ufffd',
      '😀',
      '\u{10fffd}',
    ]) {
      await subscribe(client, `${topic}/${text}`);
      await client.publish(`${topic}/${text}`, 'x');
      await client.expectMessage(`${topic}/${text}`, 'x');
    }
  });

  const illFormed: [string, number[]][] = [
    ['a surrogate', [0xed, 0xa0, 0x80]],
    ['a pair of surrogates', [0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]],
    ['an overlong slash', [0xc0, 0xaf]],
    ['an overlong U+0000', [0xc0, 0x80]],
    ['an overlong of three bytes', [0xe0, 0x80, 0xaf]],
    ['beyond U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
    ['a continuation on its own', [0x80]],
    ['a cut character', [0xe2, 0x82]],
    ['0xFF', [0xff]],
    ['U+0000', [0x00]],
  ];
  for (const [what, bytes] of illFormed) {
    test(`[MQTT-1.5.4-1] [MQTT-1.5.4-2] ${what} is malformed wherever a string stands`, async () => {
      const text = Buffer.from([0x61, ...bytes, 0x62]);
      const user = property(P.userProperty, ['name', 'value']);
      const badName = Buffer.concat([Buffer.from([P.userProperty]), prefixed(text), prefixed('value')]);
      const badValue = Buffer.concat([Buffer.from([P.userProperty]), prefixed('name'), prefixed(text)]);
      const packets = [
        publishFrame(text),
        publishFrame('a', { properties: [property(P.contentType, text)] }),
        publishFrame('a', { properties: [property(P.responseTopic, text)] }),
        publishFrame('a', { properties: [user, badName] }),
        publishFrame('a', { properties: [user, badValue] }),
        subscribeFrame(1, [[text, 0]]),
        subscribeFrame(1, [['a', 0]], [badValue]),
        unsubscribeFrame(1, [text]),
        frame(0x40, uint16(1), [0x00], block(property(P.reasonString, text))),
        frame(0xe0, [0x00], block(property(P.reasonString, text))),
      ];
      for (const packet of packets) {
        const client = await broker.open();
        client.send(packet);
        await client.expectDisconnect(0x81);
      }
    });
  }

  test('[MQTT-1.5.7-1] both halves of a user property are strings, in every packet that has one', async () => {
    const bad = [
      Buffer.concat([Buffer.from([P.userProperty]), prefixed([0xff]), prefixed('value')]),
      Buffer.concat([Buffer.from([P.userProperty]), prefixed('name'), prefixed([0xff])]),
      Buffer.concat([Buffer.from([P.userProperty]), prefixed('name')]),
      Buffer.concat([Buffer.from([P.userProperty]), prefixed('name'), Buffer.from([0x00, 0x05, 0x61])]),
    ];
    for (const user of bad) {
      const connecting = await broker.dial();
      connecting.send(connectFrame({}, user));
      await expectRefused(connecting, 0x81);
      const packets = [
        publishFrame('a', { properties: [user] }),
        subscribeFrame(1, [['a', 0]], [user]),
        unsubscribeFrame(1, ['a'], [user]),
        ...[0x40, 0x50, 0x62, 0x70].map((first) => frame(first, uint16(1), [0x00], block(user))),
        frame(0xe0, [0x00], block(user)),
      ];
      for (const packet of packets) {
        const client: RawClient = await broker.open();
        client.send(packet);
        await client.expectDisconnect(0x81);
      }
    }
  });
});

describe('variable byte integers', () => {
  const topic = prefixed('a');
  const rows: [string, Uint8Array][] = [
    ['a remaining length of five bytes', Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x7f])],
    [
      'a remaining length of five bytes, four of them empty',
      Buffer.from([0x30, 0x80, 0x80, 0x80, 0x80, 0x01]),
    ],
    ['a property length of five bytes', frame(0x30, topic, [0xff, 0xff, 0xff, 0xff, 0x7f])],
    ['a property length beyond its packet', frame(0x30, topic, [0xff, 0xff, 0xff, 0x7f])],
    ['a property length that does not end', frame(0x30, topic, [0x80])],
  ];
  for (const [what, bytes] of rows) {
    test(`[MQTT-1.5.5-1] [MQTT-4.13.1-1] ${what} is malformed`, async () => {
      const client = await broker.open();
      client.send(bytes);
      await client.expectDisconnect(0x81);
    });
  }

  test('[MQTT-1.5.5-1] the broker uses the fewest bytes', async () => {
    const name = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(name);
    for (const total of [127, 128, 16_383, 16_384]) {
      const payload = 'x'.repeat(total - 2 - name.length - 1);
      await client.publish(name, payload);
      const message = await client.expectMessage(name, payload);
      const lengthBytes = total < 128 ? 1 : total < 16_384 ? 2 : 3;
      assert.equal(message.raw.length, 1 + lengthBytes + total);
    }
  });
});
