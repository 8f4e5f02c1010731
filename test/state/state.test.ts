import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LogReader } from '../../src/log/log.js';
import { CursorWalk } from '../../src/session/cursor-walk.js';
import { Phase } from '../../src/session/inflight.js';
import { Message } from '../../src/session/message.js';
import type { Pump } from '../../src/session/pump.js';
import { State } from '../../src/state/state.js';

const OPTIONS = { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const;
const nobody = (): void => undefined;
/** The walks here read nothing. */
const createReader = (): LogReader => ({ close: nobody }) as unknown as LogReader;

function makeState(): State {
  return new State({ internedTopics: 100, mayRead: undefined });
}

function retain(state: State, topic: string, payload: string, offset: number): void {
  const message = new Message();
  message.topic = state.router.internTopic(topic);
  message.isRetained = true;
  message.offset = offset;
  message.buffer = Buffer.from(payload);
  message.payloadEnd = message.buffer.length;
  state.applyRetained(message);
}

test('a session is known by its client id and its number, which is never given again', () => {
  const state = makeState();
  const first = state.createSession(state.nextSessionNumber(true), 'a', 0);
  assert.equal(state.session('a'), first);
  assert.equal(state.sessionByNumber(first.number), first);
  state.endSession(first, nobody);
  assert.equal(state.session('a'), undefined);
  assert.equal(state.sessionByNumber(first.number), undefined);
  assert.notEqual(state.createSession(state.nextSessionNumber(true), 'a', 0).number, first.number);
});

test('a session that ends takes its subscriptions and its place in groups with it', () => {
  const state = makeState();
  const session = state.createSession(state.nextSessionNumber(true), 'a', 0);
  const other = state.createSession(state.nextSessionNumber(true), 'b', 0);
  state.subscribe(session, 'x/#', { group: undefined, filter: 'x/#' }, OPTIONS, 0, 0);
  state.subscribe(session, '$share/g/x', { group: 'g', filter: 'x' }, OPTIONS, 0, 0);
  state.subscribe(other, '$share/g/x', { group: 'g', filter: 'x' }, OPTIONS, 0, 5);
  assert.equal(state.router.subscriptionCount, 2, 'the group is one subscription');
  const left: string[] = [];
  state.endSession(session, (one, group) => left.push(`${one.clientId} ${group.name}`));
  assert.deepEqual(left, ['a g'], 'whoever stays is told');
  assert.equal(state.router.subscriptionCount, 1);
  state.endSession(other, nobody);
  assert.equal(state.router.subscriptionCount, 0);
});

test('a subscription that is replaced is one, and is not new', () => {
  const state = makeState();
  const session = state.createSession(state.nextSessionNumber(true), 'a', 0);
  const parsed = { group: undefined, filter: 'x' };
  assert.equal(state.subscribe(session, 'x', parsed, OPTIONS, 0, 3).isNew, true);
  assert.equal(state.subscribe(session, 'x', parsed, { ...OPTIONS, qos: 2 }, 9, 8).isNew, false);
  assert.equal(state.router.subscriptionCount, 1);
  const route = state.router.route(state.router.internTopic('x'));
  assert.deepEqual(
    [route.entries.length, route.entries[0]!.qos, route.entries[0]!.subscriptionIds],
    [1, 2, [9]],
  );
  assert.equal(state.unsubscribe(session, 'x', nobody), true);
  assert.equal(state.unsubscribe(session, 'x', nobody), false);
});

test('retained messages are counted in bytes, replaced and removed', () => {
  const state = makeState();
  retain(state, 'a', 'one', 1);
  const one = state.retainedBytes;
  retain(state, 'a', 'longer', 2);
  assert.deepEqual([state.retained.size, state.retainedBytes], [1, one + 3]);
  retain(state, 'b', '', 3);
  assert.equal(state.retained.size, 1, 'an empty payload is kept by nobody');
  retain(state, 'a', '', 4);
  assert.deepEqual([state.retained.size, state.retainedBytes], [0, 0]);
});

test('what is needed is the lowest of cursors, messages in flight and what groups are owed', () => {
  const state = makeState();
  const limit = 1000;
  // Nothing is passed over, and nothing is spent: the walk is then a look at the cursors.
  const pump = { advance: (_reading: unknown, _before: number, budget: number) => budget } as unknown as Pump;
  const neededFrom = (): number | undefined =>
    new CursorWalk(pump, () => state.readings(), createReader).neededFrom(limit);
  assert.equal(neededFrom(), Number.POSITIVE_INFINITY, 'nobody needs anything');
  const live = state.createSession(state.nextSessionNumber(true), 'live', 50);
  live.isLive = true;
  assert.equal(neededFrom(), Number.POSITIVE_INFINITY);
  const behind = state.createSession(state.nextSessionNumber(true), 'behind', 40);
  assert.equal(neededFrom(), 40);
  const id = live.inflight.add(30, Phase.Puback, undefined);
  assert.equal(neededFrom(), 30);
  live.inflight.removeAt(live.inflight.slotOf(id));
  state.endSession(behind, nobody);
  const { subscription } = state.subscribe(live, '$share/g/x', { group: 'g', filter: 'x' }, OPTIONS, 0, 0);
  const group = subscription.group!;
  group.isLive = false;
  group.cursor = 20;
  assert.equal(neededFrom(), 20);
  group.returned.push(10);
  assert.equal(neededFrom(), 10);
});

test('a walk over many cursors is done in portions and comes to the same', () => {
  const state = makeState();
  for (let i = 0; i < 20_000; i++) state.createSession(state.nextSessionNumber(true), `s${i}`, 500 + i);
  const pump = { advance: (_reading: unknown, _before: number, budget: number) => budget } as unknown as Pump;
  const walk = new CursorWalk(pump, () => state.readings(), createReader);
  const answers = [walk.neededFrom(1000), walk.neededFrom(1000), walk.neededFrom(1000)];
  assert.deepEqual(answers, [undefined, undefined, 500]);
});
