// The way of payloads to the thread that writes: one buffer that both threads see, used by one request at a time. Memory that is shared for
// good is not seen by the garbage collector of either side, so the batches themselves lie elsewhere and are copied through here.
import type { SealedBatch } from './segment-writer.js';

/** Bytes of payloads in one request, but for a batch that is larger by itself. */
export const STAGING_BYTES = 4 * 1024 * 1024;

/** A batch whose payload is [start, end) of the staging buffer, or comes along where it does not fit. */
export interface BatchAnnouncement extends Omit<SealedBatch, 'payload'> {
  readonly start: number;
  readonly end: number;
  readonly payload: Uint8Array | undefined;
}

/** Puts batches, which together do not exceed STAGING_BYTES unless there is but one, where the thread finds them. */
export function stageBatches(staging: Uint8Array, batches: readonly SealedBatch[]): BatchAnnouncement[] {
  let at = 0;
  return batches.map(({ payload, ...rest }) => {
    if (payload.length > staging.length) return { ...rest, start: 0, end: 0, payload };
    const start = at;
    staging.set(payload, start);
    at = start + payload.length;
    return { ...rest, start, end: at, payload: undefined };
  });
}

export function takeBatches(staging: Uint8Array, announced: readonly BatchAnnouncement[]): SealedBatch[] {
  return announced.map(({ start, end, payload, ...rest }) => ({
    ...rest,
    payload: payload ?? staging.subarray(start, end),
  }));
}
