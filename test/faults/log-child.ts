// A log that is written to by a process of its own, so that its system calls can be made to fail. It says what is committed as soon as it is, in
// lines: `kept END`, `full`, `room`, and `failed` or `closed` at its end.
//
//     log-child.ts DIRECTORY OPTIONS RECORDS
import { writeSync } from 'node:fs';
import type { Logger } from '../../src/core/logger.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { type DiskLogOptions, openDiskLog } from '../../src/log/disk-log.js';
import { append, logOptions } from '../log/disk-logs.js';

const [path = '', json = '{}', records = '0'] = process.argv.slice(2);
const TOPICS = ['a', 'b/c', 'd/e/f'];
/** After this many records it waits for all of them; so the disk sees batches of all sizes. */
const TURNS = [1, 1, 30, 7];
const RECORD_BYTES = [60, 1200, 300];
const ROOM_CHECK_MS = 20;

const say = (line: string): void => void writeSync(1, `${line}\n`);
const complain = (message: string): void => void writeSync(2, `${message}\n`);
const quiet = (): void => undefined;
const logger: Logger = { debug: quiet, info: quiet, warn: complain, error: complain, child: () => logger };

const options = JSON.parse(json) as Partial<DiskLogOptions>;
const directory = openDataDirectory(path, { nodeId: 'gomq' });
const log = await openDiskLog({
  ...logOptions(directory, undefined, options),
  // Where retention is not what is tested, nothing is to go, on a full disk either.
  ...(options.retentionBytes === undefined ? { neededFrom: () => 0 } : {}),
  logger,
  onFailure(error) {
    say(`failed ${error.message}`);
    process.exit(74);
  },
});
let wake: () => void = () => undefined;
log.onCommit((_from, to) => {
  say(`kept ${to}`);
  if (to === log.endOffset) wake();
});
let wasFull = false;
tellSpace();

function tellSpace(): void {
  if (log.isFull === wasFull) return;
  wasFull = log.isFull;
  say(wasFull ? 'full' : 'room');
}

for (let turn = 0; log.endOffset < Number(records); turn++) {
  for (let left = TURNS[turn % TURNS.length]!; left > 0; left--) {
    const offset = log.endOffset;
    append(
      log,
      TOPICS[offset % TOPICS.length]!,
      RECORD_BYTES[offset % RECORD_BYTES.length]!,
      offset % 2 === 0,
    );
  }
  await new Promise<void>((resolve) => {
    wake = resolve;
    log.flush();
  });
  tellSpace();
}
// Room that is there again is noticed before long.
while (log.isFull) await new Promise((resolve) => setTimeout(resolve, ROOM_CHECK_MS));
tellSpace();
await log.close();
directory.release();
say('closed');
