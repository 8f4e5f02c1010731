// Owns one session at a cluster: a client id, and the connection it has at the moment to one of several brokers. Lost, silent or refused, the next broker is
// tried at once, in a circle. What is in flight is none of its business: whoever has the session is told when there is a connection again.
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import mqttPacket, { type IConnackPacket, type Packet } from 'mqtt-packet';
import { type Address, formatAddress } from './address.js';
import { Failure } from './failure.js';
import type { Tls } from './options.js';
import { describeNetworkError, describeReason } from './reasons.js';

/** From opening a socket to CONNACK. A broker that waits for a leader itself may take longer, but then the next one has no answer earlier. */
const CONNECT_MS = 2_000;
/** Nothing from the broker for so long, though it was asked: it is frozen, or cut off. */
const SILENCE_MS = 2_000;
const PING_MS = 500;
/** Between two rounds of all brokers. */
const ROUND_MS_FIRST = 25;
const ROUND_MS_MAX = 400;
const KEEP_ALIVE_SECONDS = 10;
const SESSION_EXPIRY_SECONDS = 3600;
const CLOSE_MS = 1_000;
/** CONNACK codes that no other broker and no later time will change: malformed, version, client id, credentials, rights, ban, method. */
const FINAL = new Set([0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8a, 0x8c]);

export interface LinkSettings {
  brokers: readonly Address[];
  tls: Tls;
  username: string | undefined;
  password: string | undefined;
  clientId: string;
  /** Which of the brokers is tried first. */
  first: number;
  receiveMaximum: number;
}

export interface LinkListener {
  /** A connection; what was in flight is to be sent again. */
  onUp(connack: IConnackPacket): void;
  onPacket(packet: Packet): void;
  onDown(why: string): void;
  /** No broker will ever let this client in. */
  onFailed(failure: Failure): void;
}

const PINGREQ = Buffer.from([0xc0, 0]);

export class VerifyLink {
  readonly #settings: LinkSettings;
  readonly #listener: LinkListener;
  #broker: number;
  #socket: Socket | undefined;
  #isUp = false;
  #isEnding = false;
  #attempts = 0;
  #timer: NodeJS.Timeout | undefined;
  #deadline: NodeJS.Timeout | undefined;
  #heardMs = 0;
  #why = '';

  constructor(settings: LinkSettings, listener: LinkListener) {
    this.#settings = settings;
    this.#listener = listener;
    this.#broker = settings.first % settings.brokers.length;
    this.#timer = setInterval(() => this.#watch(), PING_MS);
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  /** Why the last connection, or the last attempt at one, ended. */
  get why(): string {
    return this.#why;
  }

  open(): void {
    const { brokers } = this.#settings;
    const address = brokers[this.#broker]!;
    const socket = this.#dial(address);
    const parser = mqttPacket.parser({ protocolVersion: 5 });
    this.#socket = socket;
    let hasEnded = false;
    const end = (why: string): void => {
      if (hasEnded) return;
      hasEnded = true;
      clearTimeout(this.#deadline);
      socket.destroy();
      this.#onEnd(`${formatAddress(address)}: ${why}`);
    };
    this.#deadline = setTimeout(() => end(`no CONNACK within ${CONNECT_MS / 1000} s`), CONNECT_MS);
    socket.once('connect', () => socket.write(this.#connectPacket(false)));
    socket.on('error', (error) => end(describeNetworkError(error)));
    socket.on('close', () => end('the broker closed the connection'));
    parser.on('error', (error) => end(`not MQTT: ${error.message}`));
    parser.on('packet', (packet: Packet) => {
      if (!hasEnded && !socket.destroyed) this.#onPacket(packet, end);
    });
    socket.on('data', (chunk: Buffer) => {
      this.#heardMs = performance.now();
      // The answers to all of a chunk leave together.
      socket.cork();
      parser.parse(chunk);
      socket.uncork();
    });
  }

  send(packet: Packet): void {
    this.#socket?.write(mqttPacket.generate(packet, { protocolVersion: 5 }));
  }

  /** Writes of this turn leave together. */
  cork(): void {
    const socket = this.#socket;
    if (socket === undefined || socket.writableCorked > 0) return;
    socket.cork();
    queueMicrotask(() => socket.uncork());
  }

  /** Ends the connection, and does not come back. */
  async close(): Promise<void> {
    this.#isEnding = true;
    clearInterval(this.#timer);
    clearTimeout(this.#deadline);
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket === undefined || socket.destroyed) return;
    await closed(
      socket,
      this.#isUp
        ? mqttPacket.generate({ cmd: 'disconnect', reasonCode: 0 }, { protocolVersion: 5 })
        : undefined,
    );
    this.#isUp = false;
  }

  /** Has a broker forget the session, after `close`: connects once more, with a clean start. False where none does in time. */
  async forget(timeoutMs: number): Promise<boolean> {
    const endMs = performance.now() + timeoutMs;
    const { brokers } = this.#settings;
    for (let attempt = 0; performance.now() < endMs; attempt++) {
      const address = brokers[(this.#broker + attempt) % brokers.length]!;
      if (await this.#connectClean(address, Math.min(CONNECT_MS, endMs - performance.now()))) return true;
      await new Promise((resolve) => setTimeout(resolve, ROUND_MS_FIRST));
    }
    return false;
  }

  async #connectClean(address: Address, timeoutMs: number): Promise<boolean> {
    const socket = this.#dial(address);
    const parser = mqttPacket.parser({ protocolVersion: 5 });
    const isIn = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), timeoutMs);
      const no = () => {
        clearTimeout(timer);
        resolve(false);
      };
      socket.once('connect', () => socket.write(this.#connectPacket(true)));
      socket.on('error', no);
      socket.on('close', no);
      socket.on('data', (chunk: Buffer) => parser.parse(chunk));
      parser.on('error', no);
      parser.on('packet', (packet: Packet) => {
        clearTimeout(timer);
        resolve(packet.cmd === 'connack' && packet.reasonCode === 0);
      });
    });
    if (isIn)
      await closed(socket, mqttPacket.generate({ cmd: 'disconnect', reasonCode: 0 }, { protocolVersion: 5 }));
    else socket.destroy();
    return isIn;
  }

  #dial({ scheme, host, port }: Address): Socket {
    if (scheme === 'mqtt') return connectTcp({ host, port, noDelay: true });
    const { ca, cert, key, insecure } = this.#settings.tls;
    return connectTls({ host, port, ca, cert, key, rejectUnauthorized: !insecure }).setNoDelay(true);
  }

  #connectPacket(isClean: boolean): Buffer {
    const { clientId, username, password, receiveMaximum } = this.#settings;
    const packet: Packet = {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clientId,
      clean: isClean,
      keepalive: KEEP_ALIVE_SECONDS,
      properties: { receiveMaximum, sessionExpiryInterval: isClean ? 0 : SESSION_EXPIRY_SECONDS },
    };
    if (username !== undefined) packet.username = username;
    if (password !== undefined) packet.password = Buffer.from(password);
    return mqttPacket.generate(packet, { protocolVersion: 5 });
  }

  #onPacket(packet: Packet, end: (why: string) => void): void {
    if (packet.cmd === 'pingresp') return;
    if (packet.cmd === 'disconnect') {
      end(describeReason(packet.reasonCode || 0x80, packet.properties));
      return;
    }
    if (this.#isUp) {
      this.#listener.onPacket(packet);
      return;
    }
    if (packet.cmd !== 'connack') {
      end(`${packet.cmd.toUpperCase()} instead of CONNACK`);
      return;
    }
    const code = packet.reasonCode ?? 0;
    if (code !== 0) {
      const why = describeReason(code, packet.properties);
      if (FINAL.has(code))
        this.#listener.onFailed(new Failure(`the broker refused the connection: ${why}`, code));
      end(why);
      return;
    }
    clearTimeout(this.#deadline);
    this.#isUp = true;
    this.#attempts = 0;
    this.#listener.onUp(packet);
  }

  #onEnd(why: string): void {
    if (this.#isEnding) return;
    const wasUp = this.#isUp;
    this.#isUp = false;
    this.#why = why;
    const { brokers } = this.#settings;
    this.#broker = (this.#broker + 1) % brokers.length;
    if (wasUp) this.#listener.onDown(why);
    else this.#attempts++;
    const rounds = Math.floor(this.#attempts / brokers.length);
    const delayMs = rounds === 0 ? 0 : Math.min(ROUND_MS_FIRST * 2 ** (rounds - 1), ROUND_MS_MAX);
    this.#deadline = setTimeout(() => {
      if (!this.#isEnding) this.open();
    }, delayMs);
  }

  /** Asks a broker that says nothing whether it is there. */
  #watch(): void {
    if (!this.#isUp) return;
    const silentMs = performance.now() - this.#heardMs;
    if (silentMs < PING_MS) return;
    if (silentMs < SILENCE_MS) this.#socket?.write(PINGREQ);
    else this.#socket?.destroy(new Error(`silent for ${SILENCE_MS / 1000} s`));
  }
}

/** Writes the last bytes, and waits a bounded time until the other side has closed. */
async function closed(socket: Socket, last: Buffer | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => socket.destroy(), CLOSE_MS);
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
    if (last === undefined) socket.destroy();
    else socket.end(last);
  });
}
