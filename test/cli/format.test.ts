import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { createFormatter, type FormatOptions, type Message } from '../../cli/format.js';
import { convert } from '../../cli/strftime.js';

before(() => {
  process.env.TZ = 'Asia/Kolkata';
});

// 2016-08-10 07:47:38.123456789 UTC, a Wednesday.
const MOMENT = { seconds: 1470815258, nanoseconds: 123456789 };

const MESSAGE: Message = {
  topic: 'a/b',
  payload: Buffer.from('hello "x"'),
  qos: 1,
  retain: false,
  dup: false,
  packetId: 7,
};

const FULL: Message = {
  ...MESSAGE,
  properties: {
    contentType: 'text/plain',
    correlationData: Buffer.from('abc'),
    messageExpiryInterval: 60,
    payloadFormatIndicator: true,
    responseTopic: 'rt',
    subscriptionIdentifier: [3, 4],
    topicAlias: 2,
    userProperties: { k: ['v', 'w'], l: 'x' },
  },
};

function print(message: Message, options: Partial<FormatOptions> = {}): string {
  const chunks: Buffer[] = [];
  const formatter = createFormatter({
    newline: true,
    warn: (line) => chunks.push(Buffer.from(`WARN ${line}`)),
    clock: () => MOMENT,
    ...options,
  });
  formatter(message, {
    text: (text) => chunks.push(Buffer.from(text)),
    bytes: (bytes) => chunks.push(Buffer.from(bytes)),
  });
  return Buffer.concat(chunks).toString('latin1');
}

const format = (text: string, message = MESSAGE) => print(message, { format: text, newline: false });

test('without a format: the payload, with -v the topic before it, with -N no newline', () => {
  assert.equal(print(MESSAGE), 'hello "x"\n');
  assert.equal(print(MESSAGE, { newline: false }), 'hello "x"');
  assert.equal(print(MESSAGE, { verbose: true }), 'a/b hello "x"\n');
  const empty = { ...MESSAGE, payload: Buffer.alloc(0) };
  assert.equal(print(empty), '');
  assert.equal(print(empty, { verbose: true }), 'a/b (null)\n');
  assert.equal(print(empty, { verbose: true, newline: false }), '');
  assert.equal(print({ ...MESSAGE, payload: Buffer.from([0xff, 0, 10]) }), '\xff\0\n\n');
});

// What mosquitto_sub 2.0.11 prints for the same message and format, except where a comment says otherwise.
test('-F: the parameters of a message', () => {
  const cases: [string, string][] = [
    ['%t|%10t|%-10t|%3.2t|%.1t', 'a/b|       a/b|a/b       | a/|a'],
    ['%l|%5l|%05l|%-5l|%-05l', '9|    9|00009|9    |9    '],
    ['%p|%12p|%-12p|%3p', 'hello "x"|   hello "x"|hello "x"   |hel'],
    ['%x|%X', '68656c6c6f20227822|68656C6C6F20227822'],
    ['%20x|%-20x|%020x|%4X', '  68656c6c6f20227822|68656c6c6f20227822  |0068656c6c6f20227822|6865'],
    ['%q|%r|%m|%3m', '1|0|7|  7'],
    ['%%|%t%%', '%|a/b%'],
    ['plain', 'plain'],
    ['', ''],
  ];
  for (const [text, expected] of cases) assert.equal(format(text), expected, text);
});

test('-F: the properties of MQTT 5, and their absence', () => {
  const text = '%C|%12C|%.4C|%R|%5R|%D|%E|%4E|%F|%A|%03A|%S|%P';
  assert.equal(format(text, FULL), 'text/plain|  text/plain|text|rt|   rt|abc|60|  60|1|2|002|3|k:v k:w l:x');
  // mosquitto_sub pads all absent properties but %R; here the width holds for that as well.
  assert.equal(format(text), '|            |||     |||    |||000||');
});

test('-F: times, dates and escapes', () => {
  assert.equal(format('%I'), '2016-08-10T13:17:38+0530');
  assert.equal(format('%26I'), '  2016-08-10T13:17:38+0530');
  assert.equal(format('%U'), '1470815258.123456789');
  assert.equal(format('@Y-@m-@d @H:@M:@S.@N @z @@'), '2016-08-10 13:17:38.123456789 +0530 @');
  assert.equal(format('\\\\|\\0|\\a|\\e|\\n|\\r|\\t|\\v'), '\\|\0|\x07|\x1b|\n|\r|\t|\v');
});

test('-F: every conversion of strftime in the C locale', () => {
  const expected: Record<string, string> = {
    a: 'Wed',
    A: 'Wednesday',
    b: 'Aug',
    B: 'August',
    c: 'Wed Aug 10 13:17:38 2016',
    C: '20',
    d: '10',
    D: '08/10/16',
    e: '10',
    F: '2016-08-10',
    g: '16',
    G: '2016',
    h: 'Aug',
    H: '13',
    I: '01',
    j: '223',
    k: '13',
    l: ' 1',
    m: '08',
    M: '17',
    n: '\n',
    N: '123456789',
    p: 'PM',
    P: 'pm',
    r: '01:17:38 PM',
    R: '13:17',
    s: '1470815258',
    S: '38',
    t: '\t',
    T: '13:17:38',
    u: '3',
    U: '32',
    V: '32',
    w: '3',
    W: '32',
    x: '08/10/16',
    X: '13:17:38',
    y: '16',
    Y: '2016',
    z: '+0530',
    '%': '%',
  };
  for (const [code, text] of Object.entries(expected)) assert.equal(format(`@${code}`), text, code);
  // At the turn of the year, the ISO week belongs to another year than the day.
  const newYear = { seconds: Date.UTC(2021, 0, 1, 12) / 1000, nanoseconds: 0 };
  assert.equal(
    ['G', 'V', 'g', 'j', 'U', 'W', 'u', 'w'].map((code) => convert(code, newYear)).join(' '),
    '2020 53 20 001 00 00 5 5',
  );
  const sunday = { seconds: Date.UTC(2023, 0, 1, 12) / 1000, nanoseconds: 0 };
  assert.equal(
    ['G', 'V', 'U', 'W', 'u', 'w'].map((code) => convert(code, sunday)).join(' '),
    '2022 52 01 00 7 0',
  );
});

test('-F: %j is JSON with the names that mosquitto_sub gives', () => {
  assert.deepEqual(JSON.parse(format('%j', FULL)), {
    tst: '2016-08-10T13:17:38.123456+0530',
    topic: 'a/b',
    qos: 1,
    retain: 0,
    payloadlen: 9,
    mid: 7,
    properties: {
      'content-type': 'text/plain',
      'correlation-data': 'abc',
      'message-expiry-interval': 60,
      'payload-format-indicator': 1,
      'response-topic': 'rt',
      'subscription-identifier': [3, 4],
      'topic-alias': 2,
      'user-properties': { k: ['v', 'w'], l: 'x' },
    },
    payload: 'hello "x"',
  });
  const binary = { ...MESSAGE, qos: 0, payload: Buffer.from([0xff, 1]) };
  assert.match(format('%j', binary), /"payloadlen":2,"payload":\[255,1\]}$/);
  assert.match(format('%j', { ...binary, payload: Buffer.alloc(0) }), /"payload":null}$/);
  assert.match(print(MESSAGE, { format: '%j', pretty: true }), /^{\n {2}"tst": /);
});

test('-F: %J takes the payload as JSON, and says so where it is none', () => {
  const json = { ...MESSAGE, payload: Buffer.from('{"a": 1}') };
  assert.match(format('%J', json), /"payload":{"a":1}}$/);
  assert.match(format('[%J]'), /^\[WARN the message on "a\/b" is not valid JSON.*\]$/);
});

test('-F: mistakes are named before anything is connected', () => {
  const cases: [string, RegExp][] = [
    ['%z', /no format code "%z"/],
    ['a%', /"%" is incomplete/],
    ['%10', /"%10" is incomplete/],
    ['%.', /"%\." is incomplete/],
    ['@', /no date code "@"/],
    ['@!', /no date code "@!"/],
    ['a\\', /no escape "\\"/],
    ['\\q', /no escape "\\q"/],
  ];
  for (const [text, message] of cases) assert.throws(() => format(text), message, text);
});

test('--json: one object a line, the payload as text or as base64', () => {
  assert.equal(
    print(MESSAGE, { json: true }),
    '{"topic":"a/b","payload":"hello \\"x\\"","qos":1,"retain":false,"dup":false,"time":"2016-08-10T07:47:38.123Z"}\n',
  );
  assert.deepEqual(JSON.parse(print({ ...FULL, payload: Buffer.from([0xff]) }, { json: true })), {
    topic: 'a/b',
    payloadBase64: '/w==',
    qos: 1,
    retain: false,
    dup: false,
    time: '2016-08-10T07:47:38.123Z',
    properties: {
      contentType: 'text/plain',
      correlationData: 'abc',
      messageExpiryInterval: 60,
      payloadFormatIndicator: 1,
      responseTopic: 'rt',
      subscriptionIdentifier: [3, 4],
      topicAlias: 2,
      userProperties: { k: ['v', 'w'], l: 'x' },
    },
  });
});
