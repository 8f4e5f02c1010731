import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Config } from '../../src/core/config.js';
import { uniqueTopic, useBroker } from '../support/suite.js';

async function post(
  address: string | undefined,
  message: unknown,
): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`http://${address}/pub`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(message),
  });
  return { status: response.status, body: await response.json() };
}

describe('POST /pub', () => {
  const broker = useBroker({ http: { listen: '127.0.0.1:0' } });

  it('reaches subscribers at its QoS', async () => {
    const topic = uniqueTopic();
    const client = await broker.open();
    await client.subscribe(topic, 2);
    for (const qos of [0, 1, 2]) {
      const answer = await post(broker.running.http, { topic, body: `at ${qos}`, qos });
      assert.deepEqual(answer, { status: 200, body: { ok: true } });
      const publish = await client.expectMessage(topic, `at ${qos}`);
      assert.equal(publish.qos, qos);
      await client.acknowledge(publish);
    }
  });

  it('has kept a retained message when it answers, and has cleared it with an empty one', async () => {
    const topic = uniqueTopic();
    await post(broker.running.http, { topic, body: { temperature: 21 }, retain: true });
    const first = await broker.open();
    await first.subscribe(topic);
    const publish = await first.expectMessage(topic, '{"temperature":21}');
    assert.equal(publish.retain, true);

    await post(broker.running.http, { topic, body: '', retain: true });
    const second = await broker.open();
    await second.subscribe(topic);
    await second.expectQuiet();
  });

  it('is ready while the broker is', async () => {
    const response = await fetch(`http://${broker.running.http}/health/ready`);
    assert.deepEqual([response.status, await response.json()], [200, { status: 'ready' }]);
  });
});

describe('POST /pub to a broker with less', () => {
  const less: Partial<Config['mqtt']> = { maximumQos: 1, retain: false };
  const broker = useBroker({ http: { listen: '127.0.0.1:0' }, mqtt: less });

  for (const [what, extra] of Object.entries({
    'QoS 2': { qos: 2 },
    'a retained message': { retain: true },
  })) {
    it(`says that ${what} is not allowed`, async () => {
      const { status, body } = await post(broker.running.http, { topic: uniqueTopic(), body: 'x', ...extra });
      assert.deepEqual([status, (body as { error: { code: string } }).error.code], [403, 'REFUSED']);
    });
  }
});
