import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Session } from '../../src/session/session.js';
import { SharedGroup } from '../../src/session/shared-group.js';
import type { Subscription } from '../../src/session/subscription.js';

function groupOf(count: number): SharedGroup {
  const group = new SharedGroup('g', 'a', 0);
  for (let i = 0; i < count; i++) {
    // Of a member, the group asks for nothing but the session.
    const subscription = {
      session: new Session(i + 1, `${i}`),
      text: '$share/g/a',
      filter: 'a',
      qos: 1,
      noLocal: false,
      retainAsPublished: false,
      retainHandling: 0,
      id: 0,
      since: 0,
      group,
    } as unknown as Subscription;
    group.members.push(subscription);
  }
  return group;
}

const picked = (group: SharedGroup, accepts: (id: string) => boolean = () => true): string | undefined =>
  group.pick(({ session }) => accepts(session.clientId))?.session.clientId;

test('members take turns', () => {
  const group = groupOf(3);
  assert.deepEqual(
    [1, 2, 3, 4, 5].map(() => picked(group)),
    ['0', '1', '2', '0', '1'],
  );
});

test('a member that cannot take a message is passed over, and the turn goes on behind the one that can', () => {
  const group = groupOf(3);
  assert.equal(
    picked(group, (id) => id === '1'),
    '1',
  );
  assert.equal(picked(group), '2');
  assert.equal(
    picked(group, (id) => id !== '0'),
    '1',
  );
});

test('nobody is picked where nobody can, and from an empty group', () => {
  const group = groupOf(2);
  assert.equal(
    picked(group, () => false),
    undefined,
  );
  assert.equal(picked(group), '0', 'the turn has not moved');
  assert.equal(picked(groupOf(0)), undefined);
});

test('turns go on when a member leaves', () => {
  const group = groupOf(3);
  picked(group);
  picked(group);
  group.members.splice(2, 1);
  const turns = [1, 2, 3, 4].map(() => picked(group));
  assert.deepEqual(new Set(turns), new Set(['0', '1']));
  assert.equal(turns[0], turns[2]);
});
