// The broker as MQTT.js sees it: the client that most Node and browser applications use.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import {
  connectAsync,
  type IClientOptions,
  type IConnackPacket,
  type IPublishPacket,
  type MqttClient,
  connect as mqttConnect,
} from 'mqtt';
import { type RunningGomq, startGomq } from '../support/start-gomq.js';

let gomq: RunningGomq;
let wsPort = 0;
before(async () => {
  gomq = await startGomq({ listeners: { ws: ['127.0.0.1:0'] } });
  wsPort = gomq.addresses.find(({ kind }) => kind === 'ws')!.port;
});
after(() => gomq.stop());

let names = 0;
const unique = (word: string): string => `${word}-${names++}`;

async function connect(options: IClientOptions, url = `mqtt://127.0.0.1:${gomq.port}`): Promise<MqttClient> {
  return connectAsync(url, { reconnectPeriod: 0, ...options });
}

/** The next `count` messages of a client, with the topic that a topic alias stands for. */
function collect(client: MqttClient, count: number): Promise<IPublishPacket[]> {
  return new Promise((resolve) => {
    const packets: IPublishPacket[] = [];
    client.on('message', (topic, _payload, packet) => {
      packets.push({ ...packet, topic });
      if (packets.length === count) resolve(packets);
    });
  });
}

for (const protocolVersion of [3, 4, 5] as const) {
  const base: IClientOptions = {
    protocolVersion,
    ...(protocolVersion === 3 ? { protocolId: 'MQIsdp' } : {}),
  };
  describe(`MQTT.js with protocol version ${protocolVersion}`, () => {
    for (const qos of [0, 1, 2] as const) {
      it(`publishes and receives at QoS ${qos}, in order`, async () => {
        const topic = unique('order');
        const subscriber = await connect({ ...base, clientId: unique('sub') });
        const publisher = await connect({ ...base, clientId: unique('pub') });
        const received = collect(subscriber, 200);
        await subscriber.subscribeAsync(topic, { qos });
        for (let i = 0; i < 200; i++) publisher.publish(topic, String(i), { qos });
        const packets = await received;
        assert.deepEqual(
          packets.map(({ payload }) => Number(payload.toString())),
          Array.from({ length: 200 }, (_, i) => i),
        );
        assert.ok(packets.every((packet) => packet.qos === qos && !packet.dup && !packet.retain));
        await Promise.all([subscriber.endAsync(), publisher.endAsync()]);
      });
    }

    it('keeps a retained message and removes it', async () => {
      const topic = unique('retained');
      const client = await connect({ ...base, clientId: unique('ret') });
      await client.publishAsync(topic, 'kept', { qos: 1, retain: true });
      const first = collect(client, 1);
      await client.subscribeAsync(topic, { qos: 1 });
      const [packet] = await first;
      assert.equal(packet!.payload.toString(), 'kept');
      assert.equal(packet!.retain, true);
      await client.publishAsync(topic, '', { qos: 1, retain: true });
      const other = await connect({ ...base, clientId: unique('ret') });
      const next = collect(other, 1);
      await other.subscribeAsync(topic, { qos: 1 });
      await client.publishAsync(topic, 'live', { qos: 1 });
      assert.equal((await next)[0]!.payload.toString(), 'live');
      await Promise.all([client.endAsync(), other.endAsync()]);
    });

    it('keeps a session with what was published meanwhile', async () => {
      const topic = unique('offline');
      const clientId = unique('durable');
      const durable: IClientOptions = {
        ...base,
        clientId,
        clean: false,
        ...(protocolVersion === 5 ? { properties: { sessionExpiryInterval: 600 } } : {}),
      };
      const first = await connect(durable);
      await first.subscribeAsync(topic, { qos: 2 });
      await first.endAsync();
      const publisher = await connect({ ...base, clientId: unique('pub') });
      // One QoS: MQTT.js hands QoS 2 messages out at their PUBREL, later than QoS 1 messages that came after them.
      for (let i = 0; i < 50; i++) await publisher.publishAsync(topic, String(i), { qos: 2 });
      // Listening before the connection is up: the backlog comes with CONNACK.
      const again = mqttConnect(`mqtt://127.0.0.1:${gomq.port}`, { reconnectPeriod: 0, ...durable });
      const received = collect(again, 50);
      const connack = await new Promise<IConnackPacket>((resolve) => again.once('connect', resolve));
      // MQTT 3.1 has no such flag.
      assert.equal(connack.sessionPresent, protocolVersion !== 3);
      assert.deepEqual(
        (await received).map(({ payload }) => Number(payload.toString())),
        Array.from({ length: 50 }, (_, i) => i),
      );
      await Promise.all([again.endAsync(), publisher.endAsync()]);
    });

    it('publishes the will of a client that is cut off', async () => {
      const topic = unique('will');
      const watcher = await connect({ ...base, clientId: unique('watch') });
      await watcher.subscribeAsync(topic, { qos: 1 });
      const received = collect(watcher, 1);
      const mortal = await connect({
        ...base,
        clientId: unique('mortal'),
        will: { topic, payload: Buffer.from('gone'), qos: 1, retain: false },
      });
      mortal.stream.destroy();
      assert.equal((await received)[0]!.payload.toString(), 'gone');
      await watcher.endAsync();
    });
  });
}

describe('MQTT.js over WebSocket', () => {
  it('publishes and receives, across the kinds of listener', async () => {
    const topic = unique('ws');
    const subscriber = await connect({ protocolVersion: 5 }, `ws://127.0.0.1:${wsPort}/mqtt`);
    await subscriber.subscribeAsync(topic, { qos: 1 });
    const received = collect(subscriber, 2);
    const publisher = await connect({ protocolVersion: 4 });
    const large = 'x'.repeat(300_000);
    await publisher.publishAsync(topic, large, { qos: 1 });
    await subscriber.publishAsync(topic, 'small', { qos: 1 });
    const packets = await received;
    assert.equal(packets[0]!.payload.toString(), large);
    assert.equal(packets[1]!.payload.toString(), 'small');
    await Promise.all([subscriber.endAsync(), publisher.endAsync()]);
  });
});

describe('MQTT.js with what only 5.0 has', () => {
  it('gets properties, subscription identifiers and topic aliases', async () => {
    const topic = unique('properties');
    const subscriber = await connect({
      protocolVersion: 5,
      properties: { topicAliasMaximum: 4 },
    });
    await subscriber.subscribeAsync(topic, { qos: 1, properties: { subscriptionIdentifier: 7 } });
    const received = collect(subscriber, 3);
    const publisher = await connect({ protocolVersion: 5, autoAssignTopicAlias: true });
    for (let i = 0; i < 3; i++) {
      await publisher.publishAsync(topic, `message ${i}`, {
        qos: 1,
        properties: {
          userProperties: { k: 'v' },
          contentType: 'text/plain',
          responseTopic: 'answers',
          correlationData: Buffer.from([1, 2, 3]),
          messageExpiryInterval: 60,
          payloadFormatIndicator: true,
        },
      });
    }
    for (const packet of await received) {
      assert.equal(packet.topic, topic);
      assert.equal(packet.properties?.subscriptionIdentifier, 7);
      assert.equal(packet.properties?.contentType, 'text/plain');
      assert.equal(packet.properties?.responseTopic, 'answers');
      assert.deepEqual(packet.properties?.correlationData, Buffer.from([1, 2, 3]));
      assert.equal({ ...packet.properties?.userProperties }.k, 'v');
      assert.ok(packet.properties!.messageExpiryInterval! <= 60);
    }
    await Promise.all([subscriber.endAsync(), publisher.endAsync()]);
  });

  it('shares a subscription among its members', async () => {
    const topic = unique('shared');
    const members = await Promise.all([1, 2, 3].map(() => connect({ protocolVersion: 5 })));
    const counts = [0, 0, 0];
    let total = 0;
    const all = new Promise<void>((resolve) => {
      members.forEach((member, i) => {
        member.on('message', () => {
          counts[i]!++;
          if (++total === 90) resolve();
        });
      });
    });
    for (const member of members) await member.subscribeAsync(`$share/group/${topic}`, { qos: 1 });
    const publisher = await connect({ protocolVersion: 4 });
    for (let i = 0; i < 90; i++) await publisher.publishAsync(topic, String(i), { qos: 1 });
    await all;
    assert.deepEqual(counts, [30, 30, 30]);
    await Promise.all([...members, publisher].map((client) => client.endAsync()));
  });
});
