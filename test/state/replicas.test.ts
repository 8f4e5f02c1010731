// One log, many states made of it: by the broker that wrote it, by applying all of it, and by a snapshot from anywhere with what follows. They
// are the same, and so are the snapshots, byte for byte.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { RecordSlice } from '../../src/log/log.js';
import { checkAsync, tick } from '../broker/harness.js';
import { crash, LateBroker, restored, snapshotOf, stateFrom, stateOf } from '../broker/late-broker.js';
import type { LateLog } from '../broker/late-log.js';
import { type Step, World } from '../broker/qos-model.js';
import { describeState, liveOf } from './describe-state.js';

const WEIGHTS: Record<Step['kind'], number> = {
  publish: 14,
  turn: 10,
  acknowledge: 8,
  acknowledgeEarly: 2,
  subscribe: 6,
  join: 4,
  release: 3,
  connect: 6,
  cut: 4,
  repeat: 0,
  unsubscribe: 3,
  disconnect: 2,
  stall: 1,
  unstall: 1,
  cutPublisher: 0,
  connectPublisher: 0,
  progress: 2,
  crash: 1,
};
const kinds = Object.entries(WEIGHTS).flatMap(([kind, weight]) =>
  Array<Step['kind']>(weight).fill(kind as Step['kind']),
);

/** Everything is committed, all progress recorded, nothing under way. */
async function rest(broker: LateBroker): Promise<void> {
  const { log } = broker;
  for (let quiet = 0, before = -1; quiet < 4; quiet++) {
    broker.broker.journal.recordTouched();
    const now = log.activity + log.endOffset + log.highWatermark;
    if (now !== before || broker.broker.pump.hasPumps || log.highWatermark < log.endOffset) quiet = 0;
    before = now;
    await tick();
  }
}

function recordsOf(log: LateLog): RecordSlice[] {
  return Array.from({ length: log.endOffset }, (_, offset) => {
    const buffer = log.bytes(offset);
    return { offset, buffer, start: 0, end: buffer.length };
  });
}

test('the broker, a replay and every snapshot with what follows it are one state; replicas make the same snapshot', (context) =>
  checkAsync(
    context,
    fc.asyncProperty(
      fc.array(
        fc.record({
          kind: fc.constantFrom(...kinds),
          who: fc.nat(5),
          a: fc.nat(60),
          b: fc.nat(20),
          c: fc.nat(20),
        }),
        { minLength: 20, maxLength: 90, size: 'max' },
      ),
      fc.nat(),
      async (steps, seed) => {
        const options = {
          outboxBytes: 50_000,
          highWaterBytes: 20_000,
          drainsBeforeWritten: false,
          inflightMaximum: 3,
        };
        const first = new LateBroker({ mqtt: { inflightMaximum: 3 } }, { seed });
        try {
          const world = new World(first, options, crash);
          await world.take(steps);
          const last = world.broker as LateBroker;
          await rest(last);
          const { log } = last;
          const end = log.endOffset;
          const { state } = last.broker;
          const records = recordsOf(log);
          const replayed = stateOf(log, end);
          const live = liveOf(state);
          assert.deepEqual(
            describeState(replayed, { records, live }),
            describeState(state, { records, live }),
            'what the log makes is what the broker has',
          );
          const snapshot = snapshotOf(replayed);
          assert.deepEqual(snapshotOf(stateOf(log, end)), snapshot, 'two replicas');
          for (let at = 0; at <= end; at += 1 + Math.floor(end / 12)) {
            const other = restored(log, end, at);
            assert.deepEqual(
              describeState(other),
              describeState(replayed),
              `by way of a snapshot at ${at} of ${end}`,
            );
            assert.deepEqual(
              snapshotOf(other),
              snapshot,
              `a replica that began with a snapshot at ${at} of ${end}`,
            );
          }
          assert.deepEqual(describeState(stateFrom(snapshot)), describeState(replayed), 'the last snapshot');
        } finally {
          await first.stopAll();
        }
      },
    ),
    200,
  ));
