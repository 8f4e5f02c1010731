// Reading the log for somebody who is no subscriber; what HTTP makes of it is in test/http/messages.test.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type HistoryQuery, readHistory } from '../../src/broker/history.js';
import { publishBytes, TestBroker, tick, until } from './harness.js';
import { LateLog } from './late-log.js';

/** A broker whose log has to be waited for, with so many messages for `a`, each followed by one for `b`. */
async function brokerWith(count: number): Promise<TestBroker> {
  const behaviour = { seed: 3, commitTurnsMax: 2, isForgetful: true, readTurnsMax: 4, laterOneIn: 3 };
  const broker = new TestBroker({}, { createLog: (options) => new LateLog(options, behaviour) });
  const client = await broker.open({ version: 5 });
  for (let i = 1; i <= count; i++) {
    client.send(publishBytes(5, 'a', `${i}`, { qos: 1, messageId: 2 * i - 1 }));
    client.send(publishBytes(5, 'b', `${i}`, { qos: 1, messageId: 2 * i }));
  }
  await until(() => client.all('puback').length === 2 * count, 'PUBACK');
  return broker;
}

const QUERY: HistoryQuery = {
  topicName: 'a',
  from: { kind: 'earliest' },
  limit: 10_000,
  bytesMax: 1_000_000,
};
const never = new AbortController().signal;
const range = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);

test('what comes while it reads is not waited for', async () => {
  const broker = await brokerWith(200);
  try {
    const reading = readHistory(broker.broker, QUERY, never);
    const client = await broker.open({ version: 5 });
    client.send(publishBytes(5, 'a', 'late', { qos: 1, messageId: 1 }));
    const { payloads, nextOffset } = await reading;
    assert.deepEqual(payloads.map(String), range(1, 200));
    assert.equal(nextOffset, undefined);
  } finally {
    await broker.stop();
  }
});

test('by count or by bytes it goes on where it stopped, with nothing left out', async () => {
  const broker = await brokerWith(100);
  try {
    for (const limits of [{ limit: 7 }, { bytesMax: 11 }]) {
      const all: string[] = [];
      let offset: number | undefined = 0;
      while (offset !== undefined) {
        const from = { kind: 'offset', offset } as const;
        const { payloads, nextOffset } = await readHistory(
          broker.broker,
          { ...QUERY, ...limits, from },
          never,
        );
        assert.ok(payloads.length <= 11);
        all.push(...payloads.map(String));
        offset = nextOffset;
      }
      assert.deepEqual(all, range(1, 100));
    }
  } finally {
    await broker.stop();
  }
});

test('it ends when nobody wants it any more, also where it waits for a read', async () => {
  const broker = await brokerWith(300);
  try {
    for (let turns = 0; turns < 12; turns++) {
      const gone = new AbortController();
      const reading = readHistory(broker.broker, QUERY, gone.signal);
      for (let turn = 0; turn < turns; turn++) await tick();
      gone.abort();
      const { payloads, nextOffset } = await reading;
      assert.ok(payloads.length < 300);
      assert.deepEqual(payloads.map(String), range(1, payloads.length));
      assert.equal(nextOffset, undefined);
    }
  } finally {
    await broker.stop();
  }
});
