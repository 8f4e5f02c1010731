// The QoS machines of both directions against a model: random programs of publishers and subscribers that come, go, repeat themselves, withhold
// and reorder acknowledgements and stop reading.
import { test } from 'node:test';
import fc from 'fast-check';
import { checkAsync, withBroker } from './harness.js';
import { type Step, World } from './qos-model.js';

/** How often each step is drawn. */
const WEIGHTS: Record<Step['kind'], number> = {
  publish: 14,
  turn: 10,
  acknowledge: 10,
  acknowledgeEarly: 2,
  subscribe: 4,
  join: 3,
  release: 4,
  connect: 4,
  cut: 3,
  repeat: 2,
  unsubscribe: 1,
  disconnect: 1,
  stall: 2,
  unstall: 2,
  cutPublisher: 1,
  connectPublisher: 2,
  progress: 2,
  crash: 0,
};

const kinds = Object.entries(WEIGHTS).flatMap(([kind, weight]) =>
  Array<Step['kind']>(weight).fill(kind as Step['kind']),
);
const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(...kinds),
  who: fc.nat(5),
  a: fc.nat(60),
  b: fc.nat(20),
  c: fc.nat(20),
});

test('QoS 1 at least once, QoS 2 exactly once, in order, within Receive Maximum, whatever clients do', (context) =>
  checkAsync(
    context,
    fc.asyncProperty(
      fc.array(step, { minLength: 10, maxLength: 120, size: 'max' }),
      fc.record({
        outboxBytes: fc.constantFrom(4096, 50_000),
        highWaterBytes: fc.constantFrom(1000, 20_000, 65_536),
        drainsBeforeWritten: fc.boolean(),
        inflightMaximum: fc.integer({ min: 1, max: 4 }),
      }),
      async (steps, options) => {
        const { outboxBytes, inflightMaximum } = options;
        await withBroker({ limits: { outboxBytes }, mqtt: { inflightMaximum } }, (broker) =>
          new World(broker, options).run(steps),
        );
      },
    ),
    300,
  ));
