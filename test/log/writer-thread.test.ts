// How requests reach the thread that writes, and answers come back: by memory that is shared, or as messages.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { fileName } from '../../src/log/file-names.js';
import type { WriterAnswer, WriterRequest } from '../../src/log/log-writer.js';
import type { SealedBatch } from '../../src/log/segment-writer.js';
import {
  allocateStaging,
  Signal,
  STAGED_BATCHES_MAX,
  STAGING_BYTES,
  StagedInbox,
  Staging,
} from '../../src/log/staging.js';
import { WriterThread } from '../../src/log/writer-thread.js';
import { check } from '../packet/oracle.js';
import { temporaryFolder } from '../support/temporary-folder.js';

const SEGMENT_BASE = 0;

function batchOf(baseOffset: number, payload: Uint8Array): SealedBatch {
  return { baseOffset, recordCount: 1, flags: 0, epoch: 1, timestampMs: 1, payload, isEncoded: true };
}

/** A thread on an empty segment; `answers` resolves when there are so many, besides 'ready' and what is said of room. */
function startWriter(directory: string) {
  writeFileSync(join(directory, fileName(SEGMENT_BASE, 'log')), '');
  const got: WriterAnswer[] = [];
  let onAnswer: () => void = () => undefined;
  const thread = new WriterThread(
    {
      ...{ directory, isCompressed: false, fsync: 'never', fsyncIntervalMs: 0, reserveBytes: 0 },
      ...{ segmentBytes: 4 * STAGING_BYTES, segmentMs: 0 },
      active: { baseOffset: SEGMENT_BASE, bytes: 0, firstTimestampMs: 0 },
    },
    {
      onAnswer: (answer) => {
        if (answer.kind !== 'ready' && answer.kind !== 'space') got.push(answer);
        onAnswer();
      },
      onDeath: (error) => {
        throw error;
      },
    },
  );
  return {
    send: (request: WriterRequest) => thread.send(request),
    async answers(count: number): Promise<WriterAnswer[]> {
      while (got.length < count) await new Promise<void>((resolve) => (onAnswer = resolve));
      return got.splice(0);
    },
    async close(): Promise<void> {
      thread.send({ kind: 'close' });
      await thread.ended();
    },
  };
}

describe('the thread that writes', () => {
  it('is asked and answers in the order of the requests, whichever way they travel', async () => {
    const directory = temporaryFolder();
    const writer = startWriter(directory);
    // All are there before it has begun.
    const kinds = ['index', 'index', 'write', 'index', 'remove'] as const;
    for (const [at, kind] of kinds.entries()) {
      if (kind === 'index') writer.send({ kind, baseOffset: 1000 + at, bytes: Buffer.from('index') });
      else if (kind === 'remove') writer.send({ kind, baseOffsets: [1000 + at] });
      else writer.send({ kind, isMirrored: false, batches: [batchOf(7, Buffer.alloc(100, 'a'))] });
    }
    const answers = await writer.answers(kinds.length);
    assert.deepEqual(
      answers.map(({ kind }) => kind),
      ['indexed', 'indexed', 'written', 'indexed', 'removed'],
    );
    await writer.close();
  });

  it('writes many batches, one that is larger than all room there is, and mirrors both', async () => {
    const directory = temporaryFolder();
    const writer = startWriter(directory);
    const many = Array.from({ length: STAGED_BATCHES_MAX }, (_, at) =>
      batchOf(at, Buffer.alloc(90 + at, at)),
    );
    const large = batchOf(STAGED_BATCHES_MAX, Buffer.alloc(STAGING_BYTES + 1, 'b'));
    const last = batchOf(STAGED_BATCHES_MAX + 1, Buffer.alloc(90, 'c'));
    for (const batches of [many, [large], [last]]) {
      writer.send({ kind: 'write', isMirrored: true, batches });
      const [encoded, written] = await writer.answers(2);
      assert.ok(
        encoded?.kind === 'encoded' && written?.kind === 'written',
        JSON.stringify([encoded, written]),
      );
      const lengths = batches.map(({ payload }) => payload.length);
      assert.deepEqual(encoded.lengths, lengths);
      assert.deepEqual(
        written.kept.map(({ storedBytes }) => storedBytes),
        lengths,
      );
      const file = readFileSync(join(directory, fileName(SEGMENT_BASE, 'log')));
      const { position } = written.kept[0]!;
      assert.ok(file.subarray(position, position + encoded.bytes.length).equals(encoded.bytes));
    }
    await writer.close();
  });
});

describe('what the threads share', () => {
  it('comes out as it went in', (context) => {
    const number = fc.maxSafeNat();
    const plain = { noNullPrototype: true };
    const batch = fc.record(
      {
        ...{
          baseOffset: number,
          recordCount: number,
          flags: fc.nat(255),
          epoch: number,
          timestampMs: number,
        },
        ...{ isEncoded: fc.boolean(), payload: fc.uint8Array({ maxLength: 50 }) },
      },
      plain,
    );
    const kept = fc.record(
      { segmentBase: number, position: number, storedBytes: number, flags: number },
      plain,
    );
    const memory = allocateStaging();
    const [one, other] = [new Staging(memory), new Staging(memory)];
    const property = fc.property(fc.array(fc.tuple(batch, kept)), (entries) => {
      const batches = entries.map(([first]) => first);
      assert.ok(one.putRequest(batches));
      assert.deepEqual(other.takeRequest(batches.length), batches);
      const answer = entries.map(([, second]) => second);
      other.putAnswer(answer);
      assert.deepEqual(one.takeAnswer(answer.length), answer);
    });
    check(context, property);
  });

  it('is taken in order, also where it is staged just before a message is received', () => {
    const memory = allocateStaging();
    const [sender, staging] = [new Staging(memory), new Staging(memory)];
    const messages: WriterRequest[] = [];
    let posted = 0;
    let staged = 0;
    const stage = () => {
      assert.ok(sender.putRequest([batchOf(++staged, Buffer.alloc(10))]));
      sender.signal[Signal.Posted] = posted;
      Atomics.store(sender.signal, Signal.Staged, 1);
    };
    const post = () => messages.push({ kind: 'remove', baseOffsets: [++posted] });
    /** What the sender does between the first look of the other and its looking for messages. */
    let meanwhile = (): void => undefined;
    const inbox = new StagedInbox(staging, () => {
      meanwhile();
      meanwhile = () => undefined;
      return messages.shift();
    });
    const next = () => {
      const request = inbox.next();
      if (request?.kind === 'write') return `staged ${request.batches[0]!.baseOffset} ${inbox.isStaged}`;
      return request?.kind === 'remove' ? `message ${request.baseOffsets[0]} ${inbox.isStaged}` : undefined;
    };
    assert.equal(next(), undefined);
    meanwhile = () => {
      stage();
      post();
      post();
    };
    assert.deepEqual(
      [next(), next(), next(), next()],
      ['staged 1 true', 'message 1 false', 'message 2 false', undefined],
    );
    meanwhile = () => {
      post();
      stage();
    };
    assert.deepEqual([next(), next(), next()], ['message 3 false', 'staged 2 true', undefined]);
    // As when it is staged while nothing but the message before it is there.
    post();
    meanwhile = stage;
    assert.deepEqual([next(), next()], ['message 4 false', 'staged 3 true']);
    stage();
    meanwhile = post;
    assert.deepEqual([next(), next(), next()], ['staged 4 true', 'message 5 false', undefined]);
  });

  it('has no room for more than its bytes', () => {
    const staging = new Staging(allocateStaging());
    const half = Buffer.alloc(STAGING_BYTES / 2);
    assert.ok(staging.putRequest([batchOf(0, half), batchOf(1, half)]));
    assert.ok(!staging.putRequest([batchOf(0, half), batchOf(1, half), batchOf(2, Buffer.alloc(1))]));
  });
});
