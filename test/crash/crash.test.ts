// Kill -9 under load, a few rounds of it; `npm run test:long` runs hundreds. SEED brings a schedule back, as far as the timing allows.
import { after, describe, it } from 'node:test';
import { killAllBrokers, temporaryDirectory } from './broker-process.js';
import { Random, seedOf } from './random.js';
import { runRounds } from './rounds.js';

const ROUNDS = 4;
/** Segments end, snapshots are made and retention removes what nobody needs while the broker is killed. */
const SMALL_SEGMENTS = ['log.segmentBytes=65536', 'log.retentionBytes=262144'];

after(killAllBrokers);

describe('kill -9 at random moments', () => {
  const seed = seedOf(process.env);
  for (const [name, settings, payloadBytesMax] of [
    ['with one segment', [], 500],
    ['with segments that roll, snapshots and retention', SMALL_SEGMENTS, 4000],
  ] as const) {
    it(`loses nothing that was acknowledged, repeats nothing of QoS 2, keeps the order: ${name}`, async (t) => {
      t.diagnostic(`SEED=${seed}`);
      const directory = temporaryDirectory();
      try {
        const result = await runRounds({
          random: new Random(seed + settings.length),
          rounds: ROUNDS,
          data: directory.path,
          settings,
          payloadBytesMax,
        });
        t.diagnostic(JSON.stringify(result));
      } finally {
        directory.remove();
      }
    });
  }
});
