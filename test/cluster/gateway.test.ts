// The gateway beside transports, a clock and leaders that do as they are told: whom it holds, for how long, and where they go.
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { type TestContext, test } from 'node:test';
import mqttPacket from 'mqtt-packet';
import { Gateway, type GatewayOptions } from '../../src/cluster/gateway.js';
import { silentLogger } from '../../src/core/logger.js';
import type { OnWritten, Transport, TransportHandler } from '../../src/core/transport.js';

/** More than one sweep of the gateway. */
const SWEPT_MS = 100;
const CONNECT_TIMEOUT_SECONDS = 10;
const WAIT_MS = 5000;

const CONNECT = mqttPacket.generate({ cmd: 'connect', clientId: 'c', protocolVersion: 4, clean: true });
/** Of version 3.1.1. */
const UNAVAILABLE = Buffer.from([0x20, 2, 0, 3]);

class FakeTransport implements Transport {
  readonly remoteAddress = '127.0.0.1';
  readonly remotePort = 1;
  readonly isSecure = false;
  readonly clientCertificateName = undefined;
  readonly pendingBytes = 0;
  readonly written: Buffer[] = [];
  /** How this side ended it. */
  ending: 'end' | 'destroy' | undefined = undefined;
  #handler: TransportHandler | undefined = undefined;

  start(handler: TransportHandler): void {
    this.#handler = handler;
  }

  write(bytes: Buffer, onWritten: OnWritten): boolean {
    this.written.push(bytes);
    setImmediate(onWritten);
    return true;
  }

  /** The client sends something. */
  receive(bytes: Buffer): void {
    this.#handler?.onData(bytes);
  }

  end(): void {
    this.ending ??= 'end';
  }

  destroy(): void {
    this.ending ??= 'destroy';
  }

  cork(): void {}
  uncork(): void {}
  pause(): void {}
  resume(): void {}
}

class Bench {
  readonly gateway: Gateway;
  readonly #context: TestContext;
  #nowMs = 0;

  constructor(context: TestContext, openTunnel: GatewayOptions['openTunnel'] = neverOpens) {
    context.mock.timers.enable({ apis: ['setInterval'] });
    this.#context = context;
    this.gateway = new Gateway({
      clock: { monotonicMs: () => this.#nowMs, wallMs: () => this.#nowMs },
      logger: silentLogger,
      connectTimeoutSeconds: CONNECT_TIMEOUT_SECONDS,
      openTunnel,
    });
    context.after(() => this.gateway.close());
  }

  client(): FakeTransport {
    const transport = new FakeTransport();
    this.gateway.accept(transport);
    return transport;
  }

  /** Another node leads, or none. */
  async follow(leadership: string | undefined): Promise<void> {
    this.gateway.route(undefined, leadership, '');
    await turn();
  }

  /** It is so late now, and the gateway has looked at all who wait. */
  async at(ms: number): Promise<void> {
    this.#nowMs = ms;
    this.#context.mock.timers.tick(SWEPT_MS);
    await turn();
  }
}

/** A tunnel that was asked for is there, or is not, by then. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Tunnels that are there when the test says so. */
class LateTunnels {
  readonly sockets: Socket[] = [];
  /** What has gone through any of them. */
  readonly passed: Buffer[] = [];
  readonly #resolves: (() => void)[] = [];

  readonly open: GatewayOptions['openTunnel'] = () =>
    new Promise((resolve) => {
      const socket = new Duplex({
        read: () => undefined,
        write: (chunk: Buffer, _encoding, done) => {
          this.passed.push(chunk);
          done();
        },
      }) as Socket;
      this.sockets.push(socket);
      this.#resolves.push(() => resolve({ socket, alreadyRead: Buffer.alloc(0) }));
    });

  /** Those asked for so far are open. */
  async arrive(): Promise<void> {
    for (const resolve of this.#resolves.splice(0)) resolve();
    await turn();
  }
}

async function neverOpens(): Promise<never> {
  throw new Error('the leader does not answer');
}

for (const leadership of ['a 7', undefined]) {
  const where = leadership === undefined ? 'without a leader' : 'where there is a leader';
  test(`${where} a client has limits.connectTimeoutSeconds for its CONNECT`, async (context) => {
    const bench = new Bench(context);
    await bench.follow(leadership);
    const [silent, slow] = [bench.client(), bench.client()];
    slow.receive(CONNECT.subarray(0, -1));
    await bench.at(CONNECT_TIMEOUT_SECONDS * 1000 - 1);
    assert.deepEqual([silent.ending, slow.ending], [undefined, undefined]);
    await bench.at(CONNECT_TIMEOUT_SECONDS * 1000);
    assert.deepEqual([silent.ending, slow.ending], ['end', 'end']);
    assert.deepEqual([...silent.written, ...slow.written], [], 'nobody to answer');
  });
}

test('a client waits for a leader from its CONNECT on', async (context) => {
  const bench = new Bench(context);
  const client = bench.client();
  await bench.at(8000);
  client.receive(CONNECT);
  await bench.at(8000 + WAIT_MS - 1);
  assert.equal(client.ending, undefined);
  await bench.at(8000 + WAIT_MS);
  assert.deepEqual([client.ending, ...client.written], ['end', UNAVAILABLE]);
});

test('a leader that comes late has time to take a client, and does not keep it for ever', async (context) => {
  const bench = new Bench(context);
  const client = bench.client();
  client.receive(CONNECT);
  await bench.at(WAIT_MS - 1);
  await bench.follow('a 7');
  await bench.at(2 * WAIT_MS - 2);
  assert.equal(client.ending, undefined);
  // Another one makes it no longer than twice the time.
  await bench.follow('b 8');
  await bench.at(2 * WAIT_MS);
  assert.deepEqual([client.ending, ...client.written], ['end', UNAVAILABLE]);
});

test('a leader that takes no clients keeps them waiting as long as none does', async (context) => {
  const bench = new Bench(context);
  await bench.follow('a 7');
  await bench.at(1000);
  const client = bench.client();
  client.receive(CONNECT);
  await bench.at(1000 + WAIT_MS - 1);
  assert.equal(client.ending, undefined);
  await bench.at(1000 + WAIT_MS);
  assert.deepEqual([client.ending, ...client.written], ['end', UNAVAILABLE]);
});

test('a client whose tunnel is being opened is served here, if this node leads by then', async (context) => {
  const tunnels = new LateTunnels();
  const bench = new Bench(context, tunnels.open);
  await bench.follow('a 7');
  const client = bench.client();
  client.receive(CONNECT);
  assert.equal(tunnels.sockets.length, 1);
  const served: Transport[] = [];
  bench.gateway.route((transport) => served.push(transport), undefined, '');
  await tunnels.arrive();
  assert.equal(tunnels.sockets[0]?.destroyed, true);
  await bench.at(SWEPT_MS);
  assert.equal(served.length, 1);
  assert.equal(client.ending, undefined);
});

test('no tunnel to a leader of before is set up once this node has led', async (context) => {
  const tunnels = new LateTunnels();
  const bench = new Bench(context, tunnels.open);
  await bench.follow('a 7');
  const client = bench.client();
  client.receive(CONNECT);
  bench.gateway.route(() => assert.fail('it leads too short a time'), undefined, '');
  await bench.follow(undefined);
  await tunnels.arrive();
  assert.equal(tunnels.sockets[0]?.destroyed, true);
  await bench.follow('b 9');
  assert.equal(tunnels.sockets.length, 2);
  assert.deepEqual(tunnels.passed, []);
  await tunnels.arrive();
  await turn();
  assert.deepEqual(tunnels.passed, [CONNECT]);
  assert.deepEqual([tunnels.sockets[1]?.destroyed, client.ending], [false, undefined]);
});
