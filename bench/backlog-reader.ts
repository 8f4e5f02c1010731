// A process that comes back to a durable session and reads what waits for it: `backlog-reader.ts PORT CLIENT_ID COUNT`. Prints `ready`, waits for
// a line on stdin, and ends with one JSON object when COUNT different messages have come; exits with 1 and one line when they do not.
import { once } from 'node:events';
import { BenchClient, type ClientOwner } from '../cli/bench/client.js';
import { Flows } from '../cli/bench/flows.js';
import { PUBLISHER_OFFSET, SEQUENCE_OFFSET } from '../cli/bench/frames.js';
import { ReadBuffer } from '../cli/bench/inbound.js';
import { durableClient } from './clients.js';

export interface BacklogRead {
  /** Milliseconds since the Unix epoch: CONNECT sent, last message received. */
  fromMs: number;
  toMs: number;
  duplicates: number;
  disordered: number;
}

const PUBLISHERS_MAX = 64;
const READ_BYTES = 1024 * 1024;
/** Nothing came for so long: nothing more will. */
const STALL_MS = 15_000;

const [port = '', clientId = '', countText = ''] = process.argv.slice(2);
const count = Number(countText);
const buffer = new ReadBuffer(READ_BYTES, READ_BYTES);
const flows = new Flows(PUBLISHERS_MAX);
let received = 0;
let receivedBefore = 0;
let isScheduled = false;

function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

function fail(message: string): never {
  console.error(`${message}, after ${received} of ${count} messages`);
  process.exit(1);
}

let finish: () => void;
const finished = new Promise<void>((resolve) => {
  finish = resolve;
});
const owner: ClientOwner = {
  onDelivery(_client, payloadStart) {
    const publisher = buffer.view.getUint32(payloadStart + PUBLISHER_OFFSET);
    flows.record(publisher, buffer.view.getUint32(payloadStart + SEQUENCE_OFFSET));
    // What comes twice counts once.
    if (++received - flows.duplicates === count) finish();
  },
  onPublished() {},
  onChunkStart() {},
  onTurn(client) {
    // One write for what all chunks of a turn of the event loop ask for.
    if (isScheduled) return;
    isScheduled = true;
    setImmediate(() => {
      isScheduled = false;
      client.flush(0);
    });
  },
  onFailure(_client, error) {
    fail(error.message);
  },
};

console.log('ready');
await once(process.stdin, 'data');
process.stdin.destroy();
const watch = setInterval(() => {
  if (received === receivedBefore) fail('nothing came any more');
  receivedBefore = received;
}, STALL_MS);
const client = new BenchClient(durableClient(Number(port), clientId), buffer, owner);
const fromMs = nowMs();
await client.connect();
client.start();
if (!client.isSessionPresent) fail('the broker does not know the session');
await finished;
const toMs = nowMs();
clearInterval(watch);
// The last acknowledgements leave, so that nothing waits for the next time.
await new Promise((resolve) => setImmediate(resolve));
client.flush(0);
await client.end();
const result: BacklogRead = { fromMs, toMs, duplicates: flows.duplicates, disordered: flows.late };
console.log(JSON.stringify(result));
