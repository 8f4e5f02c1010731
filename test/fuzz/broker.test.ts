// Random and mutated packets against a whole broker: nothing may come out of `onData`, a connection that ends says why in the diagnostics, and
// somebody else's messages go on as if nothing had happened.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  checkAsync,
  connectBytes,
  encode,
  type FakeClient,
  publishBytes,
  type TestBroker,
  tick,
  until,
  type Version,
  withBroker,
} from '../broker/harness.js';

/** Valid packets of every type that a client may send, and of those that it may not. */
function validPackets(version: Version): Buffer[] {
  const properties = version === 5 ? { userProperties: { a: 'b' } } : undefined;
  const subscription = { topic: 'f/+/#', qos: 2 };
  const packets: object[] = [
    { cmd: 'publish', topic: 'f/a', payload: 'zero', qos: 0, properties },
    { cmd: 'publish', topic: 'f/b', payload: 'one', qos: 1, messageId: 1, retain: true, properties },
    { cmd: 'publish', topic: 'f/c', payload: 'two', qos: 2, messageId: 2, dup: true },
    { cmd: 'puback', messageId: 1 },
    { cmd: 'pubrec', messageId: 1 },
    { cmd: 'pubrel', messageId: 2 },
    { cmd: 'pubcomp', messageId: 1 },
    { cmd: 'subscribe', messageId: 3, subscriptions: [subscription], properties },
    {
      cmd: 'subscribe',
      messageId: 4,
      subscriptions: [
        { topic: '$share/g/f/#', qos: 1 },
        { topic: '#', qos: 0 },
      ],
    },
    { cmd: 'unsubscribe', messageId: 5, unsubscriptions: ['f/+/#', 'x'], properties },
    { cmd: 'pingreq' },
    { cmd: 'disconnect' },
    { cmd: 'connack', returnCode: 0, reasonCode: 0, sessionPresent: false },
    { cmd: 'suback', messageId: 3, granted: [0] },
    { cmd: 'pingresp' },
  ];
  if (version === 5) {
    packets.push(
      {
        cmd: 'publish',
        topic: 'f/d',
        payload: 'all',
        qos: 1,
        messageId: 6,
        properties: {
          payloadFormatIndicator: true,
          messageExpiryInterval: 10,
          topicAlias: 1,
          responseTopic: 'r',
          correlationData: Buffer.from('c'),
          contentType: 'text',
        },
      },
      { cmd: 'disconnect', reasonCode: 4, properties: { reasonString: 'why' } },
      { cmd: 'auth', reasonCode: 0x18, properties: { authenticationMethod: 'm' } },
    );
  }
  return [...packets.map((packet) => encode(packet, version)), connectBytes({ version, clientId: 'second' })];
}

type Mutation = { kind: 'flip' | 'cut' | 'insert' | 'length'; at: number; value: number };

/** Changes that reach further than random bytes: most of the packet still makes sense. */
function mutate(packet: Buffer, mutations: readonly Mutation[]): Buffer {
  let bytes = Buffer.from(packet);
  for (const { kind, at, value } of mutations) {
    const where = at % bytes.length;
    if (kind === 'flip') bytes[where] = value;
    else if (kind === 'cut') bytes = bytes.subarray(0, Math.max(1, where));
    else if (kind === 'length') bytes[Math.min(1, bytes.length - 1)] = value;
    else bytes = Buffer.concat([bytes.subarray(0, where), Buffer.from([value]), bytes.subarray(where)]);
  }
  return bytes;
}

const mutation: fc.Arbitrary<Mutation> = fc.record({
  kind: fc.constantFrom(
    'flip' as const,
    'flip' as const,
    'cut' as const,
    'insert' as const,
    'length' as const,
  ),
  at: fc.nat(200),
  value: fc.nat(255),
});
const recipe = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      which: fc.nat(40),
      mutations: fc.array(mutation, { maxLength: 3 }),
      raw: fc.constant(undefined),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      which: fc.constant(0),
      mutations: fc.constant<Mutation[]>([]),
      raw: fc.uint8Array({ maxLength: 60 }),
    }),
  },
);
const streams = fc.array(recipe, { minLength: 1, maxLength: 25 });
const cuts = fc.array(fc.nat(400), { maxLength: 4 });

/** A client that behaves: it publishes to itself at every QoS and wants everything back, in order. */
class Bystander {
  readonly #client: FakeClient;
  #sent = 0;
  #expected: string[] = [];

  constructor(client: FakeClient) {
    this.#client = client.acknowledgeAll();
    const answer = client.onPacket!;
    client.onPacket = (packet) => {
      answer(packet);
      if (packet.cmd === 'pubrec') client.send({ cmd: 'pubrel', messageId: packet.messageId });
    };
  }

  async check(): Promise<void> {
    for (const qos of [0, 1, 2] as const) {
      const payload = `${++this.#sent}`;
      this.#client.send(publishBytes(4, 'by/stander', payload, { qos, messageId: this.#sent }));
      this.#expected.push(payload);
      await until(
        () => this.#client.payloads.length === this.#expected.length,
        'the message of the bystander',
        700,
      );
    }
    assert.deepEqual(this.#client.payloads, this.#expected);
    this.#client.packets.length = 0;
    this.#expected = [];
  }
}

async function attack(
  broker: TestBroker,
  version: Version,
  stream: Buffer,
  at: readonly number[],
): Promise<FakeClient> {
  const client = broker.client(version);
  client.connect({
    clientId: 'attacker',
    clean: false,
    ...(version === 5 ? { expirySeconds: 10, receiveMaximum: 5 } : {}),
  });
  const ends = [...at.map((one) => one % (stream.length + 1)).sort((a, b) => a - b), stream.length];
  let from = 0;
  for (const end of ends) {
    client.transport.receive(Buffer.from(stream.subarray(from, end)));
    from = end;
    if (end % 3 === 0) await tick();
  }
  await tick();
  await tick();
  return client;
}

for (const version of [3, 4, 5] as const) {
  const packets = validPackets(version);
  test(`random and mutated packets of version ${version} hurt nobody else`, (context) =>
    withBroker({ limits: { retainedMessages: 50, internedTopics: 50 } }, async (broker) => {
      const client = await broker.open();
      await broker.subscribe(client, 'by/#', 2);
      client.packets.length = 0;
      const bystander = new Bystander(client);
      await checkAsync(
        context,
        fc.asyncProperty(streams, cuts, async (recipes, at) => {
          const stream = Buffer.concat(
            recipes.map(({ which, mutations, raw }) =>
              raw === undefined ? mutate(packets[which % packets.length]!, mutations) : Buffer.from(raw),
            ),
          );
          const before = broker.logger.lines.length;
          const attacker = await attack(broker, version, stream, at);
          await bystander.check();
          const { transport } = attacker;
          const said = broker.logger.lines
            .slice(before)
            .filter(({ message }) => message.startsWith('closed a connection'));
          assert.ok(said.length <= 1, 'a connection is closed once');
          for (const { fields } of said) {
            assert.equal(fields?.clientId, 'attacker');
            assert.match(String(fields?.address), /^127\.0\.0\.1:/);
            assert.match(String(fields?.reason), /^0x[89a]/);
          }
          if (said.length > 0) assert.equal(transport.isEnded, true);
          const [disconnect] = attacker.all('disconnect');
          if (version === 5 && said.length > 0)
            assert.ok(disconnect!.reasonCode! >= 0x80, 'a 5.0 client is told why');
          if (version !== 5) assert.equal(disconnect, undefined);
          transport.cut(0);
        }),
        700,
      );
      assert.deepEqual(
        broker.logger.lines.filter(({ level }) => level === 'error'),
        [],
      );
    }));
}

test('random bytes from nobody in particular are refused', (context) =>
  withBroker({}, async (broker) => {
    const connects = [4, 5].map((version) =>
      connectBytes({
        version: version as Version,
        clientId: 'x',
        will: { topic: 'w', payload: Buffer.from('w'), qos: 1, retain: false },
      }),
    );
    const bytes = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 60 }).map((raw) => Buffer.from(raw)),
      fc
        .tuple(fc.constantFrom(...connects), fc.array(mutation, { minLength: 1, maxLength: 4 }))
        .map(([packet, mutations]) => mutate(packet, mutations)),
    );
    await checkAsync(
      context,
      fc.asyncProperty(bytes, async (stream) => {
        const client = broker.client(4);
        // What comes back may be of any version, or nothing: only that it does no harm is asked for.
        client.transport.isStalled = true;
        client.transport.receive(stream);
        await tick();
        client.transport.cut(0);
      }),
      1500,
    );
    assert.equal(broker.broker.connectionCount, 0);
    assert.deepEqual(
      broker.logger.lines.filter(({ level }) => level === 'error'),
      [],
    );
  }));
