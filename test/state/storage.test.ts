// What a broker that stands alone says about a log that is shorter than it was.
import assert from 'node:assert/strict';
import { readdirSync, rmSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { systemClock } from '../../src/core/clock.js';
import { loadConfig } from '../../src/core/config-load.js';
import { openDataDirectory } from '../../src/log/data-directory.js';
import { openStorage, type Storage } from '../../src/state/storage.js';
import { type LogLine, listeningLogger } from '../log/disk-logs.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { appendEpochBegun } from './epoch-begun.js';

const RECORDS = 20;

interface Opened {
  readonly storage: Storage;
  readonly lines: readonly LogLine[];
  close(): Promise<void>;
}

async function open(context: TestContext, path: string): Promise<Opened> {
  const lines: LogLine[] = [];
  const directory = openDataDirectory(path, { nodeId: 'gomq' });
  context.after(() => directory.release());
  const storage = await openStorage({
    config: loadConfig({ set: ['log.reserveBytes=1048576'] }),
    directory,
    logger: listeningLogger(lines),
    clock: systemClock,
    state: { internedTopics: 100, mayRead: undefined },
    onFailure: (error) => assert.fail(error),
    onDefect: (error) => assert.fail(error as Error),
  });
  const close = async () => {
    await storage.close();
    directory.release();
  };
  return { storage, lines, close };
}

/** A log of records that were all kept, each a batch of the same size; answers where it is. */
async function makeLog(context: TestContext, path: string): Promise<string> {
  const { storage, lines, close } = await open(context, path);
  for (let i = 0; i < RECORDS; i++) {
    appendEpochBegun(storage.log);
    await storage.log.settled();
  }
  await close();
  assert.deepEqual(errorsOf(lines), []);
  return join(path, readdirSync(path).find((name) => name.endsWith('.log'))!);
}

function errorsOf(lines: readonly LogLine[]): unknown[] {
  return lines.filter(({ level }) => level === 'error').map(({ fields }) => fields);
}

test('a log that is as long as it was is opened without a word', async (context) => {
  const path = join(temporaryFolder(), 'a');
  await makeLog(context, path);
  const { storage, lines, close } = await open(context, path);
  assert.equal(storage.log.endOffset, RECORDS);
  assert.deepEqual(errorsOf(lines), []);
  await close();
});

for (const { what, change, end } of [
  { what: 'whose only segment was removed', change: (file: string) => rmSync(file), end: 0 },
  { what: 'whose only segment was emptied', change: (file: string) => truncateSync(file), end: 0 },
  {
    what: 'that was cut where a batch ends',
    change: (file: string) => truncateSync(file, statSync(file).size / 2),
    end: RECORDS / 2,
  },
]) {
  test(`a log ${what} is not taken for a whole one in silence`, async (context) => {
    const path = join(temporaryFolder(), 'a');
    change(await makeLog(context, path));
    const { storage, lines, close } = await open(context, path);
    assert.equal(storage.log.endOffset, end);
    assert.deepEqual(errorsOf(lines), [{ data: path, end, committed: RECORDS, missing: RECORDS - end }]);
    await close();
  });
}
