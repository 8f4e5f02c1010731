// A stuck subscriber with payloads by reference: each may hold a whole segment of the log, which no bound counts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { publishBytes, tick, withBroker } from '../broker/harness.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

test('a subscriber that stops reading keeps no more memory than its outbox', () =>
  withBroker({ log: { segmentBytes: 4_194_304, retentionBytes: 4_194_304 } }, async (broker) => {
    const publisher = await broker.open();
    const stuck = await broker.open();
    await broker.subscribe(stuck, 'rare', 0);
    stuck.transport.isStalled = true;
    let id = 0;
    const publish = async (topic: string, bytes: number): Promise<void> => {
      id = (id % 65_535) + 1;
      publisher.send(publishBytes(4, topic, Buffer.alloc(bytes), { qos: 1, messageId: id }));
      await tick();
    };
    collect();
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 30; i++) {
      await publish('rare', 17_000);
      for (let k = 0; k < 5; k++) await publish('often', 1_000_000);
    }
    collect();
    const grown = process.memoryUsage().arrayBuffers - before;
    const session = [...broker.broker.state.sessions()].find((one) => one.subscriptions.size === 1)!;
    const mib = (bytes: number): number => Math.round(bytes / 1_048_576);
    assert.ok(
      grown < 40_000_000,
      `${mib(grown)} MiB held, ${mib(broker.broker.log.storedBytes)} MiB in the log, ${session.outbox!.queuedBytes} bytes queued`,
    );
  }));
