import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Inflight, Phase } from '../../src/session/inflight.js';
import { SharedGroup } from '../../src/session/shared-group.js';
import { check } from '../packet/oracle.js';

interface Held {
  offset: number;
  phase: Phase;
  origin: SharedGroup | undefined;
  isSent: boolean;
}

test('an inflight window is what a map from packet id would be', (context) => {
  const step = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant('add' as const),
        times: fc.integer({ min: 1, max: 40 }),
        phase: fc.constantFrom(Phase.Puback, Phase.Pubrec),
        hasOrigin: fc.boolean(),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('remove' as const), which: fc.nat(), times: fc.nat(30) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('advance' as const), which: fc.nat() }) },
    { weight: 1, arbitrary: fc.constant({ kind: 'reconnect' as const }) },
  );
  check(
    context,
    fc.property(fc.array(step, { maxLength: 60, size: 'max' }), fc.nat(65_535), (steps, skipped) => {
      const inflight = new Inflight();
      // The sequence of ids begins anywhere, so that it wraps within the test.
      for (let i = 0; i < skipped; i++)
        inflight.removeAt(inflight.slotOf(inflight.add(0, Phase.Puback, undefined)));
      const model = new Map<number, Held>();
      const group = new SharedGroup('g', 'a', 0);
      let offset = 0;
      const pick = (which: number): number => [...model.keys()][which % model.size]!;
      for (const one of steps) {
        if (one.kind === 'add') {
          for (let i = 0; i < one.times; i++) {
            const origin = one.hasOrigin ? group : undefined;
            const id = inflight.add(++offset, one.phase, origin);
            assert.ok(id >= 1 && id <= 65_535 && !model.has(id), `packet id ${id} is free`);
            model.set(id, { offset, phase: one.phase, origin, isSent: true });
          }
        } else if (one.kind === 'reconnect') {
          inflight.markAllUnsent();
          for (const held of model.values()) held.isSent = false;
        } else if (model.size > 0 && one.kind === 'remove') {
          for (let i = 0; i < one.times && model.size > 0; i++) {
            const id = pick(one.which + i * 7);
            inflight.removeAt(inflight.slotOf(id));
            model.delete(id);
          }
        } else if (model.size > 0 && one.kind === 'advance') {
          const id = pick(one.which);
          inflight.setPhaseAt(inflight.slotOf(id), Phase.Pubcomp);
          inflight.markSentAt(inflight.slotOf(id));
          Object.assign(model.get(id)!, { phase: Phase.Pubcomp, isSent: true });
        }
        assert.equal(inflight.size, model.size);
        // Ids are given in one sequence, so the order of the map is the order of the deliveries.
        assert.deepEqual(inflight.idsInOrder(), [...model.keys()]);
        const unread = [...model.values()].filter(({ phase }) => phase !== Phase.Pubcomp);
        const lowest = Math.min(Number.POSITIVE_INFINITY, ...unread.map((held) => held.offset));
        assert.equal(inflight.lowestOffset(), lowest);
        for (const [id, held] of model) {
          const slot = inflight.slotOf(id);
          assert.deepEqual(
            [
              inflight.offsetAt(slot),
              inflight.phaseAt(slot),
              inflight.originAt(slot),
              inflight.wasSentAt(slot),
            ],
            [held.offset, held.phase, held.origin, held.isSent],
          );
        }
      }
      for (const id of [0, 1, 2, 17, 65_535, 65_536]) {
        if (!model.has(id)) assert.equal(inflight.slotOf(id), -1, `nothing under packet id ${id}`);
      }
    }),
    60,
  );
});

test('ids wrap from 65,535 to 1 and pass over those that are in flight', () => {
  const inflight = new Inflight();
  const held = [inflight.add(0, Phase.Puback, undefined), inflight.add(1, Phase.Puback, undefined)];
  assert.deepEqual(held, [1, 2]);
  let last = 2;
  for (let i = 0; i < 65_533; i++) {
    const id = inflight.add(i, Phase.Puback, undefined);
    assert.ok(id > last, `${id} after ${last}`);
    last = id;
    inflight.removeAt(inflight.slotOf(id));
    if (last >= 65_535 - 16) break;
  }
  while (last < 65_535 - 15) last++;
  const ids = new Set<number>();
  for (let i = 0; i < 30; i++) {
    const id = inflight.add(i, Phase.Puback, undefined);
    assert.ok(id !== 0 && !held.includes(id) && !ids.has(id));
    ids.add(id);
    inflight.removeAt(inflight.slotOf(id));
  }
});

test('all 65,535 ids can be in flight, and not one more', () => {
  const inflight = new Inflight();
  const ids = new Set<number>();
  for (let i = 0; i < 65_535; i++) ids.add(inflight.add(i, Phase.Puback, undefined));
  assert.equal(ids.size, 65_535);
  assert.equal(ids.has(0), false);
  assert.throws(() => inflight.add(0, Phase.Puback, undefined), { code: 'INTERNAL' });
  inflight.removeAt(inflight.slotOf(40_000));
  assert.equal(inflight.add(0, Phase.Puback, undefined), 40_000);
});

test('a message that is never acknowledged stays the oldest although the ids have gone round', () => {
  const inflight = new Inflight();
  const oldest = inflight.add(0, Phase.Puback, undefined);
  const pass = (count: number): void => {
    for (let i = 0; i < count; i++)
      inflight.removeAt(inflight.slotOf(inflight.add(i, Phase.Puback, undefined)));
  };
  pass(60_000);
  const middle = inflight.add(60_001, Phase.Puback, undefined);
  pass(6000);
  const newest = inflight.add(70_000, Phase.Puback, undefined);
  assert.deepEqual(inflight.idsInOrder(), [oldest, middle, newest]);
});
