// A broker over a late log (late-log.ts) that can die and be followed by another one, which knows what the log kept and nothing else.
import assert from 'node:assert/strict';
import type { RecordSlice } from '../../src/log/log.js';
import { applyRecord } from '../../src/state/apply.js';
import { writeSnapshot } from '../../src/state/snapshot.js';
import { State } from '../../src/state/state.js';
import {
  type ConnectOptions,
  type FakeClient,
  type Sections,
  TestBroker,
  type TestBrokerOptions,
  tick,
  type Version,
} from './harness.js';
import { type LateBehaviour, LateLog } from './late-log.js';

export class LateBroker extends TestBroker {
  readonly log: LateLog;
  readonly #sections: Sections;
  #successor: LateBroker | undefined = undefined;

  constructor(sections: Sections, behaviour: Partial<LateBehaviour>, options: TestBrokerOptions = {}) {
    super(sections, { createLog: (log) => new LateLog(log, behaviour), ...options });
    this.#sections = sections;
    this.log = this.broker.log as LateLog;
  }

  /** With what the log is busy with, so that nobody takes a wait for the end. */
  override get packetCount(): number {
    return super.packetCount + this.log.activity;
  }

  /** By hand: what the log has is committed, since the CONNACK of a session that is recorded waits for its record. */
  override async open(options: ConnectOptions = {}): Promise<FakeClient> {
    const opened = super.open(options);
    let isOpen = false;
    void opened.then(() => {
      isOpen = true;
    });
    for (let turns = 0; turns < 4; turns++) await tick();
    if (this.log.behaviour.isManual && !isOpen) await settle(this);
    return opened;
  }

  /** A client that has sent its CONNECT and has not been answered yet. */
  connecting(options: ConnectOptions & { version?: Version }): FakeClient {
    const client = this.client(options.version ?? 4);
    client.connect(options);
    return client;
  }

  /** By hand: what the log has is committed, since the SUBACK of a session that is recorded waits for its record. */
  override async subscribe(
    client: FakeClient,
    filter: string,
    qos: 0 | 1 | 2,
    options: object = {},
  ): Promise<void> {
    const granted = super.subscribe(client, filter, qos, options);
    if (this.log.behaviour.isManual) await settle(this);
    await granted;
  }

  /**
   * The process has died, and another one begins with the records before `end`. Nothing arrives of what this one still does: its transports
   * are dead, and its log is another one.
   * @param snapshotAt the state of this offset goes through a snapshot; undefined: all records are applied
   */
  restart(end: number, snapshotAt?: number): LateBroker {
    assert.equal(this.#successor, undefined, 'a process dies once');
    const state = snapshotAt === undefined ? stateOf(this.log, end) : restored(this.log, end, snapshotAt);
    this.#successor = new LateBroker(
      this.#sections,
      {},
      {
        state,
        createLog: (options) => this.log.successor(options, end),
        publishOffsets: this.publishOffsets.filter((offset) => offset < end),
      },
    );
    return this.#successor;
  }

  /** What its log and those of the ones that followed it counted. */
  get counted(): LateLog['counters'] {
    const { pending, later, inParts } = this.log.counters;
    const after = this.#successor?.counted ?? { pending: 0, later: 0, inParts: 0 };
    return {
      pending: pending + after.pending,
      later: later + after.later,
      inParts: inParts + after.inParts,
    };
  }

  /** Stops it and those that followed it. */
  async stopAll(): Promise<void> {
    this.log.behaviour.isManual = false;
    await this.stop();
    await this.#successor?.stopAll();
  }
}

/** The process dies; of what is not committed the first records may be kept all the same. Every other time the next one begins with a snapshot. */
export function crash(broker: TestBroker, draw: number): TestBroker {
  const { log } = broker as LateBroker;
  const end = log.highWatermark + (draw % (log.endOffset - log.highWatermark + 1));
  return (broker as LateBroker).restart(end, draw % 2 === 0 ? undefined : log.draw(end + 1) - 1);
}

/** By hand: commits everything, and what follows from that, until nothing is left. */
export async function settle(test: LateBroker): Promise<void> {
  const turns = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) await tick();
  };
  await turns(2);
  while (test.log.highWatermark < test.log.endOffset) {
    test.log.commit(1000);
    await turns(3);
  }
}

export function emptyState(): State {
  return new State({ internedTopics: 1000, mayRead: undefined });
}

function slicesOf(log: LateLog, from: number, end: number): RecordSlice[] {
  return Array.from({ length: end - from }, (_, i) => {
    const buffer = log.bytes(from + i);
    return { offset: from + i, buffer, start: 0, end: buffer.length };
  });
}

/** What the records before `end` make. */
export function stateOf(log: LateLog, end: number): State {
  const state = emptyState();
  for (const slice of slicesOf(log, 0, end)) applyRecord(state, slice);
  return state;
}

/** The records that a snapshot of the state is. */
export function snapshotOf(state: State): { offset: number; record: Buffer }[] {
  const records: { offset: number; record: Buffer }[] = [];
  writeSnapshot(state, 0, (offset, record) => records.push({ offset, record: Buffer.from(record) }));
  return records;
}

/** The state that a snapshot makes. */
export function stateFrom(records: readonly { offset: number; record: Buffer }[]): State {
  const state = emptyState();
  for (const { offset, record } of records) {
    applyRecord(state, { offset, buffer: record, start: 0, end: record.length });
  }
  return state;
}

/** The same as `stateOf(log, end)`, by way of a snapshot of the state at offset `at`. */
export function restored(log: LateLog, end: number, at: number): State {
  const state = stateFrom(snapshotOf(stateOf(log, at)));
  for (const slice of slicesOf(log, at, end)) applyRecord(state, slice);
  return state;
}
