// docs/LOG_FORMAT.md is what others write readers from, so it is held to what the code does.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import {
  decodeHeader,
  decodePayload,
  encodeBatch,
  prefixBytes,
  recordPositions,
} from '../../src/log/batch-codec.js';
import { BATCH_HEADER_BYTES, BatchAt, BatchFlag, PAYLOAD_BYTES_MAX } from '../../src/log/batch-format.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import {
  decodeIndex,
  encodeIndex,
  INDEX_HEADER_BYTES,
  SegmentIndexBuilder,
} from '../../src/log/segment-index.js';
import { CONTENT_BYTES_MAX } from '../../src/log/zstd.js';
import { makeDirectory, payloadOf, without, zstd } from './batches.js';

const page = readFileSync(new URL('../../docs/LOG_FORMAT.md', import.meta.url), 'utf8');

/** The bytes of the block that begins with these words. */
function hexBlock(name: string): Buffer {
  const [, block] = page.split(`\`\`\`hex ${name}\n`);
  assert.ok(block !== undefined, name);
  const rows = block.slice(0, block.indexOf('```')).trimEnd().split('\n');
  for (const [i, row] of rows.entries()) assert.equal(Number.parseInt(row.slice(0, 8), 16), i * 16);
  return Buffer.from(rows.map((row) => row.slice(8).replaceAll(' ', '')).join(''), 'hex');
}

/** The section of this heading, up to the next one of its level. */
function section(heading: string): string {
  const [, text] = page.split(`\n## ${heading}\n`);
  assert.ok(text !== undefined, heading);
  return text.split('\n## ')[0]!;
}

describe('docs/LOG_FORMAT.md', () => {
  const batch = hexBlock('batch');

  it('shows a batch that is read as it says', () => {
    const header = without(decodeHeader(batch, 0));
    assert.deepEqual(header, {
      codec: 0,
      flags: BatchFlag.State | BatchFlag.AfterSync,
      epoch: 3,
      baseOffset: 1000,
      lastOffset: 1001,
      timestampMs: Date.parse('2025-11-25T03:06:40.000Z'),
      recordCount: 2,
      uncompressedBytes: 19,
      storedBytes: 19,
    });
    const payload = without(decodePayload(zstd, header, batch));
    const positions = recordPositions(header, payload);
    const records = [0, 1].map((i) =>
      payload.toString('utf8', positions[i]!, positions[i + 1]! - prefixBytes(header.flags)),
    );
    assert.deepEqual(records, ['hello', 'world!']);
    assert.deepEqual(encodeBatch(undefined, header, payloadOf(records)), batch);
    for (const [value, at] of [
      ['0x300D2ADB', BatchAt.headerCrc],
      ['0x7E86A800', BatchAt.crc],
    ] as const) {
      assert.ok(page.includes(value));
      assert.equal(batch.readUInt32LE(at), Number(value));
    }
  });

  it('shows an index that is read as it says', () => {
    const bytes = hexBlock('index');
    const index = without(decodeIndex(bytes));
    assert.deepEqual(
      [index.baseOffset, index.endOffset, index.storedBytes, index.lastEpoch],
      [1000, 1002, 83, 3],
    );
    assert.deepEqual(
      [index.dictionary, [...index.topicIds(0)!]],
      [
        ['a/b', 'c'],
        [0, 1],
      ],
    );
    const made = new SegmentIndexBuilder(1000);
    made.add({ position: 0, header: without(decodeHeader(batch, 0)), topics: ['a/b', 'c'] });
    assert.deepEqual(encodeIndex(made), bytes);
  });

  it('shows a node.json that is accepted', () => {
    const line = section('node.json').split('```json\n')[1]!.split('```')[0]!;
    const directory = makeDirectory({ 'node.json': Buffer.from(line) });
    assert.equal(openDataDirectory(directory, { nodeId: '', mode: 'read' }).nodeId, 'a');
  });

  it('has each field of a batch where it is', () => {
    const fields = [...section('Batches').matchAll(/^\| (\d+) \| ([^|]+) \|/gm)].map(([, at, name]) => [
      name!
        .replace(/-32/, '')
        .toLowerCase()
        .replace(/ (\w)/g, (_, letter: string) => letter.toUpperCase()),
      Number(at),
    ]);
    assert.deepEqual(Object.fromEntries(fields), { ...BatchAt, payload: BATCH_HEADER_BYTES });
    const flags = [
      ...section('Batches').matchAll(/^\| (State|Snapshot|SnapshotEnd|AfterSync) \| (\d+) \|/gm),
    ];
    assert.deepEqual(Object.fromEntries(flags.map(([, name, bit]) => [name, Number(bit)])), { ...BatchFlag });
  });

  it('names the bounds', () => {
    for (const bound of [PAYLOAD_BYTES_MAX, CONTENT_BYTES_MAX]) {
      assert.ok(section('Batches').includes(bound.toLocaleString('en-US')), String(bound));
    }
    assert.match(section('Indexes'), new RegExp(`^\\| ${INDEX_HEADER_BYTES} \\| timestamps`, 'm'));
  });
});
