// MQTT 3.1.1 over WebSocket.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { createWebSocketStream, WebSocket } from 'ws';
import { connectPacket, frame, prefixed, RawClient } from '../../support/raw-client.js';
import { uniqueTopic, useBroker } from '../../support/suite.js';

const sockets: WebSocket[] = [];
// A WebSocket that is not closed by its peer would keep the process for the half minute it waits for that.
after(() => {
  for (const socket of sockets) socket.terminate();
});

const broker = useBroker({ listeners: { ws: ['127.0.0.1:0'] } });

async function openSocket(protocols: string | string[] = 'mqtt'): Promise<WebSocket> {
  const socket = new WebSocket(`ws://127.0.0.1:${broker.wsPort}/mqtt`, protocols);
  sockets.push(socket);
  await once(socket, 'open');
  return socket;
}

/** A client whose every write is one binary frame. */
function clientOn(socket: WebSocket): RawClient {
  return new RawClient(createWebSocketStream(socket, { decodeStrings: false }));
}

test('[MQTT-6.0.0-1] a text frame ends the connection, before CONNECT and after it', async () => {
  const early = await openSocket();
  const earlyClosed = once(early, 'close');
  early.send('text');
  await earlyClosed;

  const socket = await openSocket();
  const client = clientOn(socket);
  await client.mqttConnect();
  const closed = once(socket, 'close');
  socket.send(client.encode({ cmd: 'pingreq' }).toString('latin1'));
  await closed;
});

test('[MQTT-6.0.0-1] the broker sends binary frames', async () => {
  const socket = await openSocket();
  const message = once(socket, 'message');
  const client = clientOn(socket);
  client.sendConnect();
  const [data, isBinary] = (await message) as [Buffer, boolean];
  assert.equal(isBinary, true);
  assert.deepEqual(data, Buffer.from([0x20, 0x02, 0x00, 0x00]));
});

test('[MQTT-6.0.0-2] a packet may be spread over frames, a byte in each', async () => {
  const topic = uniqueTopic();
  const socket = await openSocket();
  const client = clientOn(socket);
  for (const byte of client.encode(connectPacket())) client.send([byte]);
  await client.expect('connack');
  await client.subscribe(topic);
  for (const byte of frame(0x30, prefixed(topic), Buffer.from('in pieces'))) client.send([byte]);
  await client.expectMessage(topic, 'in pieces');
});

test('[MQTT-6.0.0-2] a frame may hold several packets and the beginning of another', async () => {
  const topic = uniqueTopic();
  const socket = await openSocket();
  const client = clientOn(socket);
  const publish = frame(0x30, prefixed(topic), Buffer.from('cut'));
  client.send(
    connectPacket(),
    { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 0 }] },
    { cmd: 'pingreq' },
    publish.subarray(0, 5),
  );
  await client.expect('connack');
  await client.find('suback');
  await client.find('pingresp');
  client.send(publish.subarray(5));
  await client.expectMessage(topic, 'cut');
});

test('[MQTT-6.0.0-2] a fragmented WebSocket message is one stretch of the stream', async () => {
  const socket = await openSocket();
  const client = clientOn(socket);
  const bytes = client.encode(connectPacket());
  socket.send(bytes.subarray(0, 7), { binary: true, fin: false });
  socket.send(bytes.subarray(7), { binary: true, fin: true });
  await client.expect('connack');
});

test('[MQTT-6.0.0-3] [MQTT-6.0.0-4] the broker selects mqtt, also among others', async () => {
  assert.equal((await openSocket('mqtt')).protocol, 'mqtt');
  assert.equal((await openSocket(['other', 'mqtt', 'mqttv3.1'])).protocol, 'mqtt');
});

test('[MQTT-6.0.0-4] the subprotocol is never one that the broker does not speak', async () => {
  const socket = new WebSocket(`ws://127.0.0.1:${broker.wsPort}/mqtt`, 'chat');
  const selected = await new Promise<string>((resolve) => {
    socket.on('open', () => resolve(socket.protocol));
    socket.on('error', () => resolve('refused'));
  });
  socket.terminate();
  assert.notEqual(selected, 'chat');
});

test('[MQTT-7.1.1-1] over WebSocket a large message arrives whole, on TCP and on WebSocket', async () => {
  const topic = uniqueTopic();
  const overTcp = await broker.open();
  const overWebSocket = clientOn(await openSocket());
  await overWebSocket.mqttConnect();
  await overTcp.subscribe(topic, 1);
  await overWebSocket.subscribe(topic, 1);
  const payload = Buffer.alloc(300_000, 'gomq');
  await overWebSocket.publish(topic, payload, { qos: 1 });
  for (const client of [overTcp, overWebSocket]) {
    const message = await client.find('publish');
    assert.ok(message.payload.equals(payload));
    await client.acknowledge(message);
  }
});

test('[MQTT-3.14.4-1] after DISCONNECT the broker closes the WebSocket', async () => {
  const socket = await openSocket();
  const client = clientOn(socket);
  await client.mqttConnect();
  const closed = once(socket, 'close');
  client.send([0xe0, 0x00]);
  await closed;
});
