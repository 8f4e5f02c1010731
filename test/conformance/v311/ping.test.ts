// PINGREQ and PINGRESP of MQTT 3.1.1.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { useBroker } from '../../support/suite.js';

const broker = useBroker();

test('[MQTT-3.12.4-1] PINGREQ is answered by PINGRESP', async () => {
  const client = await broker.open();
  client.send([0xc0, 0x00]);
  assert.deepEqual([...(await client.expect('pingresp')).raw], [0xd0, 0x00]);
});

test('[MQTT-3.12.4-1] each of many PINGREQ in one segment is answered once', async () => {
  const client = await broker.open();
  client.send(...Array.from({ length: 50 }, () => [0xc0, 0x00]));
  for (let index = 0; index < 50; index++) await client.expect('pingresp');
  await client.expectQuiet();
});

test('[MQTT-3.12.4-1] a PINGREQ cut in two is answered when it is whole', async () => {
  const client = await broker.open();
  client.send([0xc0]);
  client.send([0x00]);
  await client.expect('pingresp');
});
