import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Acknowledgements, type Delivery } from '../../client/src/delivery.js';

function delivery(packetId: number, qos: 1 | 2): Delivery {
  return {
    packetId,
    qos,
    topic: 'A',
    payload: Buffer.from(`${packetId}`),
    retained: false,
    duplicate: false,
    properties: {},
    holders: new Set(),
    processed: false,
    parked: false,
    attached: false,
  };
}

test('whatever the order of the application, what is written is the longest processed prefix, per QoS', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom<1 | 2>(1, 2), { minLength: 1, maxLength: 30 }),
      fc.infiniteStream(fc.nat()),
      (qualities, picks) => {
        const written: number[] = [];
        const acknowledgements = new Acknowledgements(100, {
          write: (_kind, packetId) => written.push(packetId),
          discarded: () => assert.fail('nothing is parked'),
        });
        acknowledgements.connected(false);
        const deliveries = qualities.map((qos, index) => delivery(index + 1, qos));
        for (const each of deliveries) {
          acknowledgements.add(each);
        }
        const left = [...deliveries];
        while (left.length > 0) {
          const [picked] = left.splice(picks.next().value % left.length, 1);
          acknowledgements.processed(picked!);
          for (const qos of [1, 2]) {
            const arrived = deliveries.filter((each) => each.qos === qos);
            const open = arrived.findIndex((each) => !each.processed);
            const prefix = arrived.slice(0, open === -1 ? arrived.length : open).map((each) => each.packetId);
            assert.deepEqual(
              written.filter((packetId) => qualities[packetId - 1] === qos),
              prefix,
            );
          }
        }
      },
    ),
  );
});

test('acknowledgements of QoS 1 do not wait for QoS 2, nor the other way round', () => {
  const written: string[] = [];
  const acknowledgements = new Acknowledgements(10, {
    write: (kind, packetId) => written.push(`${kind} ${packetId}`),
    discarded: () => undefined,
  });
  acknowledgements.connected(false);
  const [two, one] = [delivery(1, 2), delivery(2, 1)];
  acknowledgements.add(two);
  acknowledgements.add(one);
  acknowledgements.processed(one);
  acknowledgements.processed(two);
  assert.deepEqual(written, ['puback 2', 'pubrec 1']);
});

test('nothing is remembered of a session that is gone', () => {
  const written: number[] = [];
  const acknowledgements = new Acknowledgements(10, {
    write: (_kind, packetId) => written.push(packetId),
    discarded: () => undefined,
  });
  acknowledgements.connected(false);
  const [open, done] = [delivery(1, 1), delivery(2, 2)];
  acknowledgements.add(open);
  acknowledgements.add(done);
  acknowledgements.processed(done);
  acknowledgements.disconnected();
  acknowledgements.connected(false);
  assert.equal(acknowledgements.isKnown(1, 1, true, open.topic, open.payload), false);
  assert.equal(acknowledgements.isKnown(2, 2, true, done.topic, done.payload), false);
  // What the application does with messages of the old session concerns nobody any more.
  acknowledgements.processed(open);
  assert.deepEqual(written, [2]);
});

test('what is remembered of earlier connections is bounded by twice the window', () => {
  const acknowledgements = new Acknowledgements(5, { write: () => undefined, discarded: () => undefined });
  for (let packetId = 1; packetId <= 100; packetId += 1) {
    acknowledgements.connected(true);
    acknowledgements.add(delivery(packetId, 1));
    acknowledgements.disconnected();
  }
  acknowledgements.connected(true);
  const known = Array.from({ length: 100 }, (_, index) => index + 1).filter((packetId) =>
    acknowledgements.isKnown(packetId, 1, true, 'A', Buffer.from(`${packetId}`)),
  );
  assert.deepEqual(known, [91, 92, 93, 94, 95, 96, 97, 98, 99, 100]);
});
