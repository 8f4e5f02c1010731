// Topic names and topic filters of MQTT 3.1.1: which are valid, and which filter matches which name.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, prefixed, uint16 } from '../../support/raw-client.js';
import { messagesBefore, uniqueTopic, useBroker } from '../../support/suite.js';

// The broker's own limit on the length of topics is below that of the standard by default.
const broker = useBroker({ limits: { topicBytes: 65_535 } });

/** A filter that breaks the rules ends the connection; a broker may also refuse it in SUBACK, but never grant it. */
async function assertFilterRefused(filter: string): Promise<void> {
  const client = await broker.open();
  client.send(frame(0x82, uint16(3), prefixed(filter), [1]));
  const suback = await client.find('suback').catch(() => undefined);
  if (suback === undefined) await client.expectClosed();
  else assert.deepEqual(suback.granted, [0x80], filter);
}

/** Which of `names` reach a subscriber to `filter`, in the order published. */
async function matching(filter: string, names: readonly string[]): Promise<string[]> {
  const marker = uniqueTopic('marker');
  const subscriber = await broker.open();
  assert.deepEqual(await subscriber.subscribe([filter, marker]), [0, 0], filter);
  const publisher = await broker.open();
  for (const name of names) publisher.sendPublish(name, 'x');
  publisher.sendPublish(marker, 'last');
  return (await messagesBefore(subscriber, 'last')).map((message) => message.topic);
}

for (const filter of ['a#', '#/b', 'a/#/b', 'a/b#', '##', 'a/##', '#a', '/#/', '+#', '#+']) {
  test(`[MQTT-4.7.1-2] the filter ${filter} is refused: # is not alone at the end`, () =>
    assertFilterRefused(filter));
}

for (const filter of ['a+', '+a', 'a/b+', 'a+/b', '++', 'a/++/b', '+a/b']) {
  test(`[MQTT-4.7.1-3] the filter ${filter} is refused: + does not fill its level`, () =>
    assertFilterRefused(filter));
}

test('[MQTT-4.7.1-2] # matches the level it stands behind and everything below', async () => {
  const root = uniqueTopic();
  const names = [root, `${root}/`, `${root}/a`, `${root}/a/b/c`, `${root}//`];
  assert.deepEqual(await matching(`${root}/#`, [...names, `${root}x`, `x${root}`, `/${root}`]), names);
});

test('[MQTT-4.7.1-2] # alone matches every topic', async () => {
  const root = uniqueTopic();
  const names = [root, `/${root}`, `${root}/a/b`, `${root}/`, '/'];
  assert.deepEqual(await matching('#', names), names);
});

const wildcards: [string, readonly string[], readonly string[]][] = [
  ['R/+', ['R/a', 'R/'], ['R', 'R/a/b', 'R/a/']],
  ['R/+/c', ['R/a/c', 'R//c'], ['R/c', 'R/a/b/c', 'R/a/c/']],
  ['R/+/+', ['R/a/b', 'R//'], ['R/a', 'R/a/b/c']],
  ['+/R', ['a/R', '/R'], ['R', 'a/b/R', 'a/R/b']],
  ['/+/R', ['/a/R'], ['a/R', '//a/R']],
  ['+/+/R/#', ['a/b/R', 'a/b/R/c/d', '//R'], ['a/R', 'R']],
  ['R/+/#', ['R/a', 'R/a/b/c', 'R/'], ['R']],
  ['+/R/+', ['a/R/b', '/R/'], ['a/R', 'R/b']],
];
for (const [filter, yes, no] of wildcards) {
  test(`[MQTT-4.7.1-3] ${filter} matches ${yes.join(' ')} but not ${no.join(' ')}`, async () => {
    const root = uniqueTopic();
    const named = (pattern: string) => pattern.replace('R', root);
    const wanted = yes.map(named);
    assert.deepEqual(await matching(named(filter), [...no.map(named), ...wanted]), wanted);
  });
}

for (const filter of ['#', '+/T', '+/+', '+/#']) {
  test(`[MQTT-4.7.2-1] ${filter} does not match a topic that begins with $`, async () => {
    const tail = uniqueTopic();
    const names = [`$gomq-test/${tail}`, `$/${tail}`, `plain/${tail}`];
    const got = await matching(filter.replace('T', tail), names);
    assert.deepEqual(got, [`plain/${tail}`]);
  });
}

test('[MQTT-4.7.2-1] a filter that begins with the $ of the topic does match it', async () => {
  const tail = uniqueTopic();
  assert.deepEqual(await matching(`$gomq-test/+/${tail}`, [`$gomq-test/a/${tail}`]), [
    `$gomq-test/a/${tail}`,
  ]);
});

test('[MQTT-4.7.2-1] the retained messages of topics that begin with $ are hidden from wildcards too', async () => {
  const tail = uniqueTopic();
  const publisher = await broker.open();
  await publisher.publish(`$gomq-test/${tail}`, 'hidden', { qos: 1, retain: true });
  const subscriber = await broker.open();
  await subscriber.subscribe([`+/${tail}`], 1);
  await publisher.publish(`plain/${tail}`, 'last', { qos: 1 });
  assert.deepEqual(await messagesBefore(subscriber, 'last'), []);
});

test('[MQTT-4.7.2-1] $ elsewhere in a topic is a character like any other', async () => {
  const root = uniqueTopic();
  const names = [`${root}/$a`, `${root}/$SYS`, `${root}/a$`];
  assert.deepEqual(await matching(`${root}/+`, names), names);
});

test('[MQTT-4.7.3-1] PUBLISH to an empty topic ends the connection', async () => {
  const client = await broker.open();
  client.send(frame(0x30, prefixed(''), Buffer.from('x')));
  await client.expectClosed();
});

test('[MQTT-4.7.3-1] an empty filter is refused', () => assertFilterRefused(''));

test('[MQTT-4.7.3-1] an empty filter in UNSUBSCRIBE ends the connection, or is a filter nobody has', async () => {
  const client = await broker.open();
  client.send(frame(0xa2, uint16(3), prefixed('')));
  const unsuback = await client.find('unsuback').catch(() => undefined);
  if (unsuback === undefined) await client.expectClosed();
  else assert.equal(unsuback.messageId, 3);
});

test('[MQTT-4.7.3-1] one character is enough, a separator alone included', async () => {
  const names = ['a', '/', ' ', 'é'];
  for (const name of names) assert.deepEqual(await matching(name, names), [name]);
});

for (const topic of ['\u0000', 'a\u0000b', 'a/\u0000']) {
  const shown = JSON.stringify(topic);
  test(`[MQTT-4.7.3-2] PUBLISH to ${shown} ends the connection`, async () => {
    const client = await broker.open();
    client.send(frame(0x30, prefixed(topic), Buffer.from('x')));
    await client.expectClosed();
  });

  test(`[MQTT-4.7.3-2] SUBSCRIBE and UNSUBSCRIBE with ${shown} end the connection`, async () => {
    for (const packet of [
      frame(0x82, uint16(1), prefixed(topic), [0]),
      frame(0xa2, uint16(1), prefixed(topic)),
    ]) {
      const client = await broker.open();
      client.send(packet);
      await client.expectClosed();
    }
  });
}

test('[MQTT-4.7.3-3] a topic and a filter of 65,535 bytes work', async () => {
  const topic = `${uniqueTopic()}/é/`.padEnd(65_534, 'x');
  assert.equal(Buffer.byteLength(topic), 65_535);
  const client = await broker.open();
  client.send(frame(0x82, uint16(1), prefixed(topic), [1]));
  assert.deepEqual((await client.expect('suback')).granted, [1]);
  client.send(frame(0x30, prefixed(topic), Buffer.from('long')));
  await client.expectMessage(topic, 'long');
});

const different: [string, string, string][] = [
  ['case', 'Topic', 'topic'],
  ['composed and decomposed characters', 'caf\u00e9', 'cafe\u0301'],
  ['a character and its compatibility form', '\ufb01', 'fi'],
  ['empty levels', 'a/b', 'a//b'],
  ['a separator at the end', 'a/b', 'a/b/'],
  ['a space at the end', 'a', 'a '],
  ['a zero width no-break space', 'a', '\ufeffa'],
  ['a percent escape', 'a b', 'a%20b'],
  ['dots', 'a/b', 'a/./b'],
  ['a backslash', 'a/b', 'a\\b'],
  ['a zero width joiner', 'ab', 'a\u200db'],
];
for (const [what, one, other] of different) {
  test(`[MQTT-4.7.3-4] ${what} makes a different topic`, async () => {
    const root = uniqueTopic();
    const names = [`${root}/${one}`, `${root}/${other}`];
    for (const name of names) assert.deepEqual(await matching(name, names), [name]);
  });
}

test('[MQTT-4.7.3-4] a separator at the beginning makes a different topic', async () => {
  const root = uniqueTopic();
  const names = [root, `/${root}`, `//${root}`];
  for (const name of names) assert.deepEqual(await matching(name, names), [name]);
});

test('[MQTT-4.7.3-4] the characters of other wildcard and regular expression languages mean themselves', async () => {
  const root = uniqueTopic();
  const names = ['*', '.*', '?', '[a-z]', '%', '_', 'a|b', '{a,b}', '^a$', '(a)', '>', 'a.b'].map(
    (tail) => `${root}/${tail}`,
  );
  for (const name of names)
    assert.deepEqual(await matching(name, [...names, `${root}/a`, `${root}/b`]), [name]);
});
