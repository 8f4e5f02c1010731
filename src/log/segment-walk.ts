// Goes through one segment for those who look at a log without owning it: hands out every valid batch, says what is wrong in between, and
// goes on behind it. Somebody else may be writing to the segment at the same moment.
import { type BatchHeader, decodePayload } from './batch-codec.js';
import { BATCH_HEADER_BYTES, BatchFlag } from './batch-format.js';
import type { BatchReader } from './batch-reader.js';
import { misplaced } from './recovery.js';
import type { Zstd } from './zstd.js';

export type WalkStep =
  | {
      readonly kind: 'batch';
      readonly position: number;
      readonly header: BatchHeader;
      readonly payload: Buffer;
    }
  /** A batch before the offset that was asked for: its payload was not looked at. */
  | { readonly kind: 'passed'; readonly position: number; readonly header: BatchHeader }
  /** `toOffset` is the last one that is gone, where that is known. */
  | {
      readonly kind: 'damage';
      readonly position: number;
      readonly what: string;
      readonly fromOffset: number;
      readonly toOffset: number | undefined;
    }
  /** The end of the log, which is being written or was torn by a crash; or zeros at the end of any segment. */
  | { readonly kind: 'tail'; readonly position: number; readonly what: string; readonly isZeros: boolean };

export interface WalkOptions {
  readonly reader: BatchReader;
  readonly zstd: Zstd;
  readonly baseOffset: number;
  /** Where the next segment begins; undefined for the last one. */
  readonly nextOffset: number | undefined;
  /** Of the last batch before the segment. */
  readonly epochBefore: number;
  /** Batches that end before it are passed over. */
  readonly fromOffset?: number;
}

type Look =
  | { what: string; isIntended: boolean; header: BatchHeader | undefined }
  | Extract<WalkStep, { kind: 'batch' | 'passed' }>;

export function* walkSegment(options: WalkOptions): Generator<WalkStep, void, void> {
  const { reader, nextOffset } = options;
  const isLast = nextOffset === undefined;
  let expected = options.baseOffset;
  let epoch = options.epochBefore;
  let position = 0;
  while (position < reader.fileBytes) {
    let look = lookAt(options, position, epoch);
    const isFollowing = (header: BatchHeader): boolean =>
      header.baseOffset >= expected && misplaced(header, epoch) === undefined;
    const isProof = (header: BatchHeader): boolean =>
      isFollowing(header) && (header.flags & BatchFlag.AfterSync) !== 0;
    const isStillWrong = (): boolean => {
      reader.refresh();
      look = lookAt(options, position, epoch);
      return 'what' in look;
    };
    // What is being written while it is read looks torn for a moment: not in the next one, and surely not once it was on disk.
    if (
      isLast &&
      'what' in look &&
      isStillWrong() &&
      reader.find(behind(look, position), isProof) !== undefined
    ) {
      isStillWrong();
    }
    if (!('what' in look) && look.header.baseOffset >= expected) {
      const { header } = look;
      if (header.baseOffset > expected) {
        const toOffset = header.baseOffset - 1;
        yield { kind: 'damage', position, what: 'offsets are missing', fromOffset: expected, toOffset };
      }
      yield look;
      expected = header.lastOffset + 1;
      epoch = header.epoch;
      position += BATCH_HEADER_BYTES + header.storedBytes;
      continue;
    }
    const what = 'what' in look ? look.what : `a batch from offset ${look.header.baseOffset}`;
    const isZeros = reader.isZero(position);
    // Nothing that is written today or torn tomorrow has the right checksum and the wrong content.
    const isIntended = !('what' in look) || look.isIntended;
    const mayBeTail = isLast && !isIntended && reader.find(behind(look, position), isProof) === undefined;
    if (isZeros || mayBeTail) {
      yield { kind: 'tail', position, what: isZeros ? 'zeros' : what, isZeros };
      break;
    }
    const next = reader.find(behind(look, position), isFollowing);
    if (next === undefined) {
      const toOffset =
        nextOffset !== undefined && nextOffset > expected ? nextOffset - 1 : look.header?.lastOffset;
      yield { kind: 'damage', position, what, fromOffset: expected, toOffset };
      return;
    }
    const header = reader.header(next);
    const toOffset = 'damage' in header ? undefined : header.baseOffset - 1;
    yield { kind: 'damage', position, what, fromOffset: expected, toOffset };
    if (toOffset !== undefined) expected = toOffset + 1;
    position = next;
  }
  if (isLast || expected === nextOffset) return;
  const isShort = expected < nextOffset;
  yield {
    kind: 'damage',
    position,
    what: isShort ? 'the segment ends too early' : `the next segment begins at offset ${nextOffset} already`,
    fromOffset: isShort ? expected : nextOffset,
    toOffset: (isShort ? nextOffset : expected) - 1,
  };
}

/** Where to look for what follows: what looks like a batch inside the payload of one is none. */
function behind({ header }: Look, position: number): number {
  return position + (header === undefined ? 1 : BATCH_HEADER_BYTES + header.storedBytes);
}

function lookAt({ reader, zstd, fromOffset = 0 }: WalkOptions, position: number, epoch: number): Look {
  const header = reader.header(position);
  if ('damage' in header) return { what: header.damage, isIntended: header.isIntended, header: undefined };
  const what = misplaced(header, epoch);
  if (what !== undefined) return { what, isIntended: true, header };
  if (
    header.lastOffset < fromOffset &&
    position + BATCH_HEADER_BYTES + header.storedBytes <= reader.fileBytes
  ) {
    return { kind: 'passed', position, header };
  }
  const batch = reader.read(position);
  if ('damage' in batch) return { what: batch.damage, isIntended: batch.isIntended, header: batch.header };
  const payload = decodePayload(zstd, batch.header, batch.bytes);
  if ('damage' in payload) return { what: payload.damage, isIntended: false, header: batch.header };
  return { kind: 'batch', position, header: batch.header, payload };
}
