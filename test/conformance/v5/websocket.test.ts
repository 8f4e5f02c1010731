// MQTT 5.0 over WebSocket: section 6. What is the same in 3.1.1 is tested once more with the longer handshake of 5.0.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { createWebSocketStream, WebSocket } from 'ws';
import { frame, RawClient } from '../../support/raw-client.js';
import { uniqueTopic } from '../../support/suite.js';
import { connectFrame, P, property, publishFrame, subscribeFrame, useBroker } from './support.js';

const sockets: WebSocket[] = [];
// A WebSocket that is not closed by its peer would keep the process for the half minute it waits for that.
after(() => {
  for (const socket of sockets) socket.terminate();
});

const broker = useBroker({ listeners: { ws: ['127.0.0.1:0'] } });

async function openSocket(protocols: string | string[] = 'mqtt'): Promise<WebSocket> {
  // The broker is up once a client has got through.
  (await broker.dial()).destroy();
  const socket = new WebSocket(`ws://127.0.0.1:${broker.wsPort}/mqtt`, protocols);
  sockets.push(socket);
  await once(socket, 'open');
  return socket;
}

/** A client whose every write is one binary frame. */
function clientOn(socket: WebSocket): RawClient {
  return new RawClient(createWebSocketStream(socket, { decodeStrings: false }), 5);
}

test('[MQTT-6.0.0-1] a text frame ends the connection, before CONNECT and after it', async () => {
  const early = await openSocket();
  const earlyClosed = once(early, 'close');
  early.send('text');
  await earlyClosed;

  const topic = uniqueTopic();
  const witness = await broker.open();
  await witness.subscribe(topic);
  const socket = await openSocket();
  const client = clientOn(socket);
  await client.mqttConnect({ version: 5 });
  const closed = once(socket, 'close');
  socket.send(publishFrame(topic, { payload: 'x' }).toString('latin1'));
  await closed;
  await witness.expectQuiet();
});

test('[MQTT-6.0.0-1] what the broker sends is binary', async () => {
  const socket = await openSocket();
  const kinds: boolean[] = [];
  socket.on('message', (_data, isBinary) => kinds.push(isBinary));
  const client = clientOn(socket);
  await client.mqttConnect({ version: 5 });
  await client.barrier();
  assert.ok(kinds.length > 0);
  assert.deepEqual(new Set(kinds), new Set([true]));
});

test('[MQTT-6.0.0-2] packets in pieces, a byte to a frame', async () => {
  const topic = uniqueTopic();
  const client = clientOn(await openSocket());
  const user = property(P.userProperty, ['name', 'value']);
  for (const byte of connectFrame({}, user)) client.send([byte]);
  assert.equal((await client.expect('connack')).reasonCode, 0);
  await client.subscribe(topic);
  for (const byte of publishFrame(topic, { properties: [user], payload: 'in pieces' })) client.send([byte]);
  await client.expectMessage(topic, 'in pieces');
});

test('[MQTT-6.0.0-2] several packets and the beginning of the next in one frame', async () => {
  const topic = uniqueTopic();
  const client = clientOn(await openSocket());
  const publish = publishFrame(topic, { payload: 'cut' });
  client.send(connectFrame({}), subscribeFrame(1, [[topic, 0]]), frame(0xc0), publish.subarray(0, 5));
  await client.expect('connack');
  await client.find('suback');
  await client.find('pingresp');
  client.send(publish.subarray(5));
  await client.expectMessage(topic, 'cut');
});

test('[MQTT-6.0.0-4] [MQTT-6.0.0-3] the broker chooses mqtt, also among others', async () => {
  assert.equal((await openSocket('mqtt')).protocol, 'mqtt');
  assert.equal((await openSocket(['other', 'mqtt'])).protocol, 'mqtt');
});

test('[MQTT-4.2.0-1] [MQTT-4.13.1-1] a DISCONNECT with its reason arrives before the WebSocket closes', async () => {
  const socket = await openSocket();
  const client = clientOn(socket);
  await client.mqttConnect({ version: 5 });
  const closed = once(socket, 'close');
  client.send(subscribeFrame(1, []));
  await client.expectDisconnect(0x82);
  await closed;
});
