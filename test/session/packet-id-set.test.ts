import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PacketIdSet } from '../../src/session/packet-id-set.js';
import { check, positiveUint16 } from '../packet/oracle.js';

test('it is a set', (context) => {
  const packetId = fc.oneof(
    positiveUint16,
    fc.integer({ min: 1, max: 70 }),
    fc.constantFrom(1023, 1024, 1025, 65_535),
  );
  const step = fc.record({ kind: fc.constantFrom('add', 'delete', 'has'), packetId });
  check(
    context,
    fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
      const set = new PacketIdSet();
      const model = new Set<number>();
      for (const { kind, packetId: id } of steps) {
        if (kind === 'add') {
          assert.equal(set.add(id), !model.has(id));
          model.add(id);
        } else if (kind === 'delete') {
          assert.equal(set.delete(id), model.delete(id));
        } else {
          assert.equal(set.has(id), model.has(id));
        }
        assert.equal(set.size, model.size);
      }
      for (const id of model) assert.equal(set.has(id), true);
    }),
  );
});

test('every packet id fits', () => {
  const set = new PacketIdSet();
  for (let id = 65_535; id >= 1; id--) assert.equal(set.add(id), true);
  assert.equal(set.size, 65_535);
  for (let id = 1; id <= 65_535; id++) assert.equal(set.add(id), false);
});
