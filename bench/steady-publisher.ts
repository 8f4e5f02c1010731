// Owns a publisher that never pauses: one message of QoS 1 in flight, the next one as soon as it is acknowledged, and where its connection breaks it is
// back at once. It notes when each acknowledgement came, so that the time without any can be told.
import { createConnection, type Socket } from 'node:net';
import mqttPacket from 'mqtt-packet';

export interface Ack {
  atMs: number;
  /** When the connection it came on was begun. */
  openedMs: number;
}

/** After a connection that was refused or broke before anything came on it. */
const RETRY_MS = 5;
const PACKET_BYTES = 4;

export class SteadyPublisher {
  readonly acks: Ack[] = [];
  readonly #ports: readonly number[];
  readonly #connect: Buffer;
  readonly #publish: Buffer;
  #socket: Socket | undefined;
  #retry: NodeJS.Timeout | undefined;
  #isEnded = false;

  /** @param ports of the brokers that it goes to, the first one first, the next where that does not take it */
  constructor(clientId: string, ports: readonly number[]) {
    this.#ports = ports;
    this.#connect = mqttPacket.generate({
      ...{ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 4, clean: true, keepalive: 0 },
      clientId,
    });
    const payload = Buffer.alloc(64, 0x61);
    const fields = { topic: `steady/${clientId}`, payload, qos: 1, retain: false, dup: false } as const;
    this.#publish = mqttPacket.generate({ cmd: 'publish', ...fields, messageId: 1 });
    this.#open(0);
  }

  #open(attempt: number): void {
    if (this.#isEnded) return;
    const port = this.#ports[attempt % this.#ports.length]!;
    const openedMs = performance.now();
    const socket = createConnection({ port, host: '127.0.0.1', noDelay: true });
    this.#socket = socket;
    let received = Buffer.alloc(0);
    let hasAcks = false;
    socket.on('connect', () => socket.write(this.#connect));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      // What broke is back at once; what never worked is not tried without rest.
      if (hasAcks) this.#open(0);
      else this.#retry = setTimeout(() => this.#open(attempt + 1), RETRY_MS);
    });
    socket.on('data', (bytes) => {
      received = Buffer.concat([received, bytes]);
      for (; received.length >= PACKET_BYTES; received = received.subarray(PACKET_BYTES)) {
        // CONNACK that lets it in, or PUBACK.
        const isConnack = received[0] === 0x20 && received[3] === 0;
        if (!isConnack && received[0] !== 0x40) {
          socket.destroy();
          return;
        }
        if (!isConnack) {
          hasAcks = true;
          this.acks.push({ atMs: performance.now(), openedMs });
        }
        socket.write(this.#publish);
      }
    });
  }

  /** The longest time between two acknowledgements, the later of which came after a moment. */
  longestGapMs(sinceMs: number): number {
    let longest = 0;
    for (let at = 1; at < this.acks.length; at++) {
      const { atMs } = this.acks[at]!;
      if (atMs > sinceMs) longest = Math.max(longest, atMs - this.acks[at - 1]!.atMs);
    }
    return longest;
  }

  end(): void {
    this.#isEnded = true;
    clearTimeout(this.#retry);
    this.#socket?.destroy();
  }
}
