// What restarts keep beside messages: nothing is lost by an orderly stop under load, and what has its time has it across restarts.
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { closeAllClients, RawClient } from '../support/raw-client.js';
import { BrokerProcess, killAllBrokers, temporaryDirectory } from './broker-process.js';
import { Clients } from './clients.js';
import { Random, seedOf } from './random.js';

const WILL_MS_MAX = 10_000;

after(() => {
  closeAllClients();
  return killAllBrokers();
});

describe('SIGTERM', () => {
  it('under load ends with 0, and nothing is lost or repeated', async (t) => {
    const seed = seedOf(process.env);
    t.diagnostic(`SEED=${seed}`);
    const random = new Random(seed);
    const { path, remove } = temporaryDirectory();
    const clients = new Clients(random);
    try {
      for (let stop = 1; stop <= 3; stop++) {
        const broker = await BrokerProcess.start({ data: path });
        const over = clients.load(broker);
        await clients.entries(random.integer(20, 1500));
        await broker.stop();
        await over;
        const errors = broker.lines().filter(({ level }) => level === 'error' || level === 'warn');
        assert.deepEqual(errors, []);
      }
      const broker = await BrokerProcess.start({ data: path });
      await clients.settle(broker);
      await broker.stop();
    } finally {
      clients.drop();
      remove();
    }
  });
});

describe('after kill -9', () => {
  it('messages and sessions expire as if nothing had happened', async () => {
    const { path, remove } = temporaryDirectory();
    const settings = ['mqtt.reconnectGraceSeconds=1'];
    try {
      const first = await BrokerProcess.start({ data: path, settings });
      const lasting = {
        version: 5,
        clientId: 'lasting',
        properties: { sessionExpiryInterval: 600 },
      } as const;
      const brief = { version: 5, clientId: 'brief', properties: { sessionExpiryInterval: 2 } } as const;
      const away = await RawClient.open(first.port, { ...lasting, clean: true });
      await away.subscribe('a', 1);
      await away.disconnect();
      // Its will tells when its session is over, which is long before the delay.
      const will = {
        topic: 'brief/is',
        payload: Buffer.from('over'),
        qos: 1,
        retain: true,
        properties: { willDelayInterval: 500 },
      } as const;
      const kept = await RawClient.open(first.port, { ...brief, clean: true, will });
      await kept.subscribe('a', 1);
      const publisher = await RawClient.open(first.port, { version: 5 });
      const publish = (payload: string, messageExpiryInterval: number | undefined) =>
        publisher.publish('a', payload, {
          qos: 1,
          ...(messageExpiryInterval === undefined ? {} : { properties: { messageExpiryInterval } }),
        });
      await publish('for ever', undefined);
      await publish('for a second', 1);
      await publish('for ten minutes', 600);
      await first.kill();

      const second = await BrokerProcess.start({ data: path, settings });
      const observer = await RawClient.open(second.port, { version: 5 });
      await observer.subscribe('brief/is', 1);
      // One second of grace, two of expiry: by then what was for a second is over as well.
      const over = await observer.find('publish', WILL_MS_MAX);
      assert.equal(over.payload.toString(), 'over');
      await second.kill();

      const third = await BrokerProcess.start({ data: path, settings });
      const back = await RawClient.open(third.port, { ...lasting, clean: false });
      assert.equal(back.connack?.sessionPresent, true);
      assert.equal((await back.expectMessage('a', 'for ever')).properties?.messageExpiryInterval, undefined);
      const { properties } = await back.expectMessage('a', 'for ten minutes');
      // [MQTT-3.3.2-6]: what is left of it.
      const left = properties?.messageExpiryInterval ?? 0;
      assert.ok(left <= 598 && left > 500, `${left} seconds are left`);
      await back.expectQuiet();
      const anew = await RawClient.open(third.port, { ...brief, clean: false });
      assert.equal(anew.connack?.sessionPresent, false);
      await third.stop();
    } finally {
      closeAllClients();
      await killAllBrokers();
      remove();
    }
  });
});
