// History as a newcomer asks for it: real processes, a broker that ends in the middle, the compiled gomqctl, plain HTTP.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { get } from 'node:http';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { closeAllClients, RawClient } from '../support/raw-client.js';
import { temporaryFolder } from '../support/temporary-folder.js';
import { type Broker, exitOf, GOMQ, GOMQCTL, killBrokers, startBroker, stopBroker } from './broker.js';

before(() => {
  assert.ok(existsSync(GOMQ) && existsSync(GOMQCTL), 'npm run build comes before the tests');
});
after(() => {
  closeAllClients();
  killBrokers();
});

interface Outcome {
  code: number | null;
  lines: string[];
  stderr: string;
}

/** Runs gomqctl; `onLine` sees its output as it comes and may send it a signal. */
async function gomqctl(
  { port }: Broker,
  words: readonly string[],
  stdin = '',
  onLine?: (lines: readonly string[], kill: (signal: NodeJS.Signals) => void) => void,
): Promise<Outcome> {
  const child = spawn(process.execPath, [GOMQCTL, '--connect', `127.0.0.1:${port}`, ...words]);
  const exit = exitOf(child);
  const lines: string[] = [];
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk;
  });
  child.stdin.end(stdin);
  for await (const line of createInterface(child.stdout)) {
    lines.push(line);
    onLine?.(lines, (signal) => child.kill(signal));
  }
  return { code: await exit, lines, stderr };
}

/** `from` to `to`, both included. */
function range(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);
}

async function publish(broker: Broker, topic: string, payloads: readonly string[], qos = 1): Promise<void> {
  const words = ['pub', '-t', topic, '-q', `${qos}`, '-l'];
  const { code, stderr } = await gomqctl(broker, words, payloads.map((payload) => `${payload}\n`).join(''));
  assert.deepEqual([code, stderr], [0, '']);
}

for (const [qos, signal] of [
  [1, 'SIGKILL'],
  [1, 'SIGTERM'],
  [2, 'SIGKILL'],
  [2, 'SIGTERM'],
] as const) {
  describe(`a durable subscription to history at QoS ${qos}`, () => {
    it(`goes on after ${signal} in the middle, again and again, and then with what is published`, async () => {
      const data = temporaryFolder();
      let total = 1000;
      let broker = await startBroker('--data', data);
      await publish(broker, 'a', range(1, total), 2);
      const seen: string[] = [];
      const repeated: string[] = [];
      for (let visit = 0; seen.length < total; visit++) {
        assert.ok(visit < 20, 'it comes to an end');
        const client = await RawClient.open(broker.port, {
          version: 5,
          clientId: 'durable',
          clean: visit === 0,
          properties: { sessionExpiryInterval: 3600, receiveMaximum: 20 },
        });
        assert.equal(client.connack!.sessionPresent, visit > 0);
        if (visit === 0) assert.deepEqual(await client.subscribe('$replay/earliest/a', qos), [qos]);
        const enough = seen.length + 300;
        while (seen.length < Math.min(enough, total)) {
          // A PUBREL may come between two messages, and at the start of a visit for a message of the one before.
          const packet = await client.expectOneOf(['publish', 'pubrel'], 20_000);
          if (packet.cmd === 'pubrel') {
            client.send({ cmd: 'pubcomp', messageId: packet.messageId! });
            continue;
          }
          const payload = `${packet.payload}`;
          const position = Number(payload);
          if (position === seen.length + 1) {
            seen.push(payload);
          } else {
            // Out of order is only what comes again, which says so.
            assert.ok(position <= seen.length, `${payload} comes behind ${seen.length}`);
            assert.equal(packet.dup, true, `${payload} comes again with DUP`);
            repeated.push(payload);
          }
          assert.ok(packet.properties?.userProperties?.['gomq-offset'] !== undefined);
          client.send({ cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId: packet.messageId! });
        }
        await stopBroker(broker, signal);
        client.destroy();
        broker = await startBroker('--data', data);
        if (visit === 1) {
          await publish(broker, 'a', range(total + 1, total + 50));
          total += 50;
        }
      }
      assert.deepEqual(seen, range(1, total));
      // What was on its way when it ended, no more than the client had let it send.
      if (signal === 'SIGTERM') assert.ok(repeated.length <= 20 * 6, `${repeated.length} came again`);
      assert.equal(await stopBroker(broker), 0);
    });
  });
}

describe('gomqctl list and GET /messages', () => {
  const COUNT = 20_000;
  const data = temporaryFolder();
  let broker: Broker;
  before(async () => {
    broker = await startBroker('--data', data, '--set', 'log.segmentBytes=1048576');
    await publish(broker, 'many', range(1, COUNT));
    await publish(broker, 'few/one', ['1', '2'], 2);
    const retained = await gomqctl(broker, ['pub', '-t', 'few/kept', '--retain', '1', 'hello', 'you']);
    assert.equal(retained.code, 0);
  });
  after(() => stopBroker(broker));

  /** The answer to a plain GET, as curl shows it. */
  async function request(path: string): Promise<{ status: number; next: string | undefined; body: unknown }> {
    return new Promise((resolve, reject) => {
      get({ port: broker.httpPort, path, agent: false }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const body: unknown = JSON.parse(`${Buffer.concat(chunks)}`);
          const next = response.headers['gomq-next-offset'] as string | undefined;
          resolve({ status: response.statusCode!, next, body });
        });
      }).on('error', reject);
    });
  }

  for (const state of ['as it was published', 'after a restart', 'after kill -9'] as const) {
    describe(state, () => {
      before(async () => {
        if (state === 'as it was published') return;
        await stopBroker(broker, state === 'after kill -9' ? 'SIGKILL' : 'SIGTERM');
        broker = await startBroker('--data', data);
      });

      it('lists everything, oldest first', async () => {
        const { code, lines, stderr } = await gomqctl(broker, ['--topic', 'many', 'list', '--json']);
        assert.deepEqual([code, stderr], [0, '']);
        const messages = lines.map((line) => JSON.parse(line) as { offset: number; payload: string });
        assert.deepEqual(
          messages.map(({ payload }) => payload),
          range(1, COUNT),
        );
        for (let i = 1; i < COUNT; i++) assert.ok(messages[i]!.offset > messages[i - 1]!.offset);
        const from = messages.at(-2)!.offset;
        const end = await gomqctl(broker, ['list', 'many', '--from', `${from}`, '--limit', '1']);
        assert.equal(end.lines.length, 2);
        assert.match(end.lines[1]!, new RegExp(`^ *${from} .* many +${COUNT - 1}$`));
      });

      it('lists filters, and what is retained', async () => {
        const few = await gomqctl(broker, ['list', 'few/#', '--json']);
        const seen = few.lines.map((line) => JSON.parse(line) as Record<string, unknown>);
        assert.deepEqual(
          seen.map(({ topic, qos, retain, payload }) => [topic, qos, retain, payload]),
          [
            ['few/one', 2, false, '1'],
            ['few/one', 2, false, '2'],
            ['few/kept', 0, true, 'hello you'],
          ],
        );
        const kept = await gomqctl(broker, ['list', '#', '--retained', '--json']);
        assert.deepEqual([kept.code, kept.lines], [0, [few.lines[2]]]);
      });

      it('answers GET page by page', async () => {
        const payloads: string[] = [];
        let path = '/messages/many?limit=7000';
        let pages = 0;
        for (let next: string | undefined = ''; next !== undefined; pages++) {
          const answer = await request(`${path}${next === '' ? '' : `&from=${next}`}`);
          const body = answer.body as { topic_name: string; message_list: string[] };
          assert.deepEqual([answer.status, Object.keys(body)], [200, ['topic_name', 'message_list']]);
          payloads.push(...body.message_list);
          next = answer.next;
          path = '/messages?topic=many&limit=7000';
        }
        assert.deepEqual(payloads, range(1, COUNT));
        assert.ok(pages === 3 || pages === 4);
        assert.deepEqual((await request('/messages/few/one')).body, {
          topic_name: 'few/one',
          message_list: ['1', '2'],
        });
        assert.equal((await request('/messages/few/%23')).status, 400);
      });
    });
  }

  it('ends quietly when nobody reads on, and with 130 after Ctrl-C', async () => {
    const head = spawnSync(
      'sh',
      [
        '-c',
        '"$0" "$1" --connect "$2" list many --json | head -n 1',
        process.execPath,
        GOMQCTL,
        `127.0.0.1:${broker.port}`,
      ],
      { encoding: 'utf8', timeout: 30_000 },
    );
    assert.deepEqual([head.status, head.stderr], [0, '']);
    assert.equal((JSON.parse(head.stdout) as { payload: string }).payload, '1');
    let isSent = false;
    const interrupted = await gomqctl(broker, ['list', 'many', '--json'], '', (_lines, kill) => {
      if (!isSent) kill('SIGINT');
      isSent = true;
    });
    assert.equal(interrupted.code, 130);
    assert.match(interrupted.stderr, /^gomqctl: interrupted$/m);
  });

  it('says from where to go on when the broker goes', async () => {
    // The client reads what is there before it finds out.
    let isKilled = false;
    const { code, lines, stderr } = await gomqctl(broker, ['list', 'many', '--json'], '', () => {
      if (!isKilled) broker.process.kill('SIGKILL');
      isKilled = true;
    });
    await broker.exit;
    broker = await startBroker('--data', data);
    if (code === 0) {
      assert.equal(lines.length, COUNT);
      return;
    }
    assert.equal(code, 1);
    const [, from] = /--from (\d+) goes on/.exec(stderr) ?? assert.fail(stderr);
    const rest = await gomqctl(broker, ['list', 'many', '--json', '--from', from!]);
    assert.deepEqual(
      [...lines, ...rest.lines].map((line) => (JSON.parse(line) as { payload: string }).payload),
      range(1, COUNT),
    );
  });
});
