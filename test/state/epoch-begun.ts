// A record for tests that need one, whatever it says.
import type { DiskLog } from '../../src/log/disk-log.js';
import { RecordWriter } from '../../src/state/record-codec.js';
import { writeEpochBegun } from '../../src/state/records.js';

/** Appends that epoch 1 of node a has begun. */
export function appendEpochBegun(log: DiskLog): void {
  const writer = new RecordWriter();
  writeEpochBegun(writer, { epoch: 1, node: 'a' });
  const slice = log.append('', writer.length, false);
  writer.copyTo(slice.buffer, slice.start);
}
