// The names of the files in a data directory: twenty digits, so that names sort as their offsets do, and what the file is.
const OFFSET_DIGITS = 20;
const NAME = /^(\d{20})\.(log|index|snapshot)$/;

/** A segment, its index (both named by the segment's first offset), a snapshot (by the offset that it ends before). */
export type FileKind = 'log' | 'index' | 'snapshot';

/** What a file is called until it is complete. */
export const DRAFT_SUFFIX = '.tmp';

/** `00000000000000000042.log` */
export function fileName(offset: number, kind: FileKind): string {
  return `${String(offset).padStart(OFFSET_DIGITS, '0')}.${kind}`;
}

/** The offsets of all files of a kind, lowest first. */
export function offsetsOf(names: readonly string[], kind: FileKind): number[] {
  return names
    .map((name) => NAME.exec(name))
    .filter((match) => match?.[2] === kind)
    .map((match) => Number(match![1]))
    .filter(Number.isSafeInteger)
    .sort((a, b) => a - b);
}
