// The broker over a log that says it is full: what is refused, and what goes on.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GomqError } from '../../src/core/errors.js';
import { statusOf } from '../../src/http/problem.js';
import { type ConnectOptions, type FakeClient, publishBytes, type Received, until } from './harness.js';
import { LateBroker } from './late-broker.js';

async function withLate(body: (test: LateBroker) => Promise<void>): Promise<void> {
  const late = new LateBroker({}, {});
  try {
    await body(late);
  } finally {
    await late.stopAll();
  }
}

/** What CONNECT is answered. */
async function connack(late: LateBroker, options: ConnectOptions): Promise<Received> {
  const client = late.connecting({ version: 5, ...options });
  await until(() => client.packets.length > 0, 'CONNACK');
  return client.packets[0]!;
}

/** The codes of the SUBACK. */
async function suback(client: FakeClient, ...filters: string[]): Promise<number[]> {
  const before = client.all('suback').length;
  const subscriptions = filters.map((topic) => ({ topic, qos: 1 }));
  client.send({ cmd: 'subscribe', messageId: 1, subscriptions });
  await until(() => client.all('suback').length > before, 'SUBACK');
  return client.all('suback').at(-1)!.granted as number[];
}

const DURABLE = { version: 5, clean: false, expirySeconds: 3600 } as const;
const WILL = { topic: 'will', payload: Buffer.from('x'), qos: 0, retain: false } as const;

test('a full disk takes no new session and no new subscription; who comes back is let in until the reserve is nearly spent', () =>
  withLate(async (late) => {
    const { log } = late;
    const there = await late.open({ ...DURABLE, clientId: 'there' });
    await late.subscribe(there, 'a', 1);
    log.isFull = true;
    const refused: ConnectOptions[] = [
      { ...DURABLE, clientId: 'new' },
      { ...DURABLE, clientId: 'there', clean: true },
      { clientId: 'new', will: WILL },
      { version: 4, clientId: 'new', clean: false },
      { version: 4, clientId: 'new', will: WILL },
    ];
    const refuses = async (options: ConnectOptions): Promise<void> => {
      const end = log.endOffset;
      const answer = await connack(late, options);
      if (options.version === 4) assert.equal(answer.returnCode, 3);
      else {
        assert.equal(answer.reasonCode, 0x97);
        assert.match(answer.properties!.reasonString as string, /the disk is full/);
      }
      assert.equal(log.endOffset, end, 'nothing is appended');
    };
    for (const options of refused) await refuses(options);
    assert.ok(!there.transport.isEnded, 'whoever is connected stays');
    assert.deepEqual(await suback(there, 'a', 'b'), [1, 0x97]);
    // What needs no record goes on.
    const clean = await late.open({ version: 5 });
    assert.deepEqual(await suback(clean, 'b'), [1]);

    const back = await late.open({ ...DURABLE, clientId: 'there' });
    assert.deepEqual(await suback(back, 'a'), [1]);
    log.isReserveSpent = true;
    for (const options of refused) await refuses(options);
    await refuses({ ...DURABLE, clientId: 'there' });
    await refuses({ version: 4, clientId: 'there', clean: false });
    assert.ok(!back.transport.isEnded, 'whoever is connected stays');
    assert.deepEqual(await suback(back, 'a'), [0x97]);
    await late.open({ version: 5 });
    log.isFull = false;
    log.isReserveSpent = false;
    assert.deepEqual(await suback(back, 'a', 'b'), [1, 1]);
    await late.open({ ...DURABLE, clientId: 'new' });
  }));

test('a full disk takes an empty retained message where it lets go of another, and nowhere else', () =>
  withLate(async (late) => {
    const client = await late.open({ version: 5 });
    const codes: number[] = [];
    const publish = async (payload: string): Promise<void> => {
      const options = { qos: 1, retain: true, messageId: codes.length + 1 } as const;
      client.send(publishBytes(5, 'a', payload, options));
      await until(() => client.all('puback').length > codes.length, 'PUBACK');
      codes.push(client.all('puback').at(-1)!.reasonCode ?? 0);
    };
    await publish('x');
    late.log.isFull = true;
    const end = late.log.endOffset;
    for (const payload of ['y', '', '', '']) await publish(payload);
    assert.deepEqual(
      codes.map((code) => code >= 0x80),
      [false, true, false, true, true],
    );
    assert.equal(late.log.endOffset, end + 1);
  }));

test('POST /pub to a full disk is told to try again later; QoS 0 goes through', () =>
  withLate(async (late) => {
    late.log.isFull = true;
    const outside = { topicName: 'a', payload: Buffer.from('x'), qos: 0 as const, retain: false };
    await late.broker.publish(outside);
    for (const kept of [
      { ...outside, qos: 1 as const },
      { ...outside, retain: true },
    ]) {
      await assert.rejects(late.broker.publish(kept), (error) => {
        assert.ok(error instanceof GomqError);
        assert.deepEqual([error.code, statusOf(error)], ['DISK_FULL', 503]);
        assert.match(error.hint, /room/);
        return true;
      });
    }
    assert.equal(late.log.endOffset, 0);
  }));
