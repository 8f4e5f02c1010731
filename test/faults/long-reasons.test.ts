// Reasons quote what a client sent. However long that is, the answer is a packet, and nobody else notices.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RawClient } from '../support/raw-client.js';
import { useBroker } from '../support/suite.js';

describe('a reason that quotes more than a string can hold', () => {
  const broker = useBroker();

  it('CONNECT with an authentication method of 65,535 bytes is refused with 0x8C', async () => {
    const client = await RawClient.connect(broker.port, { version: 5 });
    client.sendConnect({ version: 5, properties: { authenticationMethod: 'm'.repeat(65_535) } });
    const connack = await client.expect('connack');
    assert.equal(connack.reasonCode, 0x8c);
    await client.expectClosed();
  });

  it('SUBSCRIBE with an invalid filter of 60,000 bytes, and with 2,000 invalid filters, gets its SUBACK', async () => {
    const client = await RawClient.open(broker.port, { version: 5 });
    for (const filters of [
      [`a#${'b'.repeat(60_000)}`],
      Array.from({ length: 2000 }, () => `a#${'c'.repeat(50)}`),
    ]) {
      client.send({
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: filters.map((topic) => ({ topic, qos: 0 as const })),
      });
      const suback = await client.expect('suback');
      assert.deepEqual(
        suback.granted,
        filters.map(() => 0x8f),
      );
    }
    await client.barrier();
    client.end();
  });

  it('PUBLISH to a topic name of 60,000 bytes gets its PUBACK', async () => {
    const client = await RawClient.open(broker.port, { version: 5 });
    client.send({
      cmd: 'publish',
      topic: 't'.repeat(60_000),
      payload: 'x',
      qos: 1,
      messageId: 1,
      dup: false,
      retain: false,
    });
    const puback = await client.expect('puback');
    assert.equal(puback.reasonCode, 0x90);
    await client.barrier();
    client.end();
  });
});
