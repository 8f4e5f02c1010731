// A client with a will and a fate. What becomes of its will is certain: it is published once or never, whatever happens to the broker.
import type { Ledger, Message } from './ledger.js';
import { type Link, openLink, type Version } from './link.js';

/**
 * `lost`: connected when the broker is killed, and never seen again. `dropped`: its connection breaks before. `back`: connected when the broker is
 * killed, and back in time. `goodbye`: says DISCONNECT before.
 */
export type Fate = 'lost' | 'dropped' | 'back' | 'goodbye';

export interface WillClientOptions {
  readonly ledger: Ledger;
  readonly name: string;
  readonly version: Version;
  readonly isClean: boolean;
  readonly delaySeconds: number;
  readonly qos: 1 | 2;
  readonly fate: Fate;
}

/** It is certainly in time when it is connected so long after the broker is ready; the grace began a little before that. */
const CERTAINLY_BACK_MS = 500;

export class WillClient {
  readonly fate: Fate;
  readonly #options: WillClientOptions;
  readonly #will: Message;
  #hasLeft = false;
  #link: Link | undefined;

  constructor(options: WillClientOptions) {
    this.#options = options;
    this.fate = options.fate;
    const { ledger, name, qos } = options;
    this.#will = ledger.publish(name, `w/${options.fate}`, qos, false);
  }

  /** Connects, and sees the connection committed. False where the connection ended before. */
  async connect(port: number): Promise<boolean> {
    const { qos, version, delaySeconds } = this.#options;
    const will = {
      topic: this.#will.topic,
      payload: Buffer.from(`${this.#will.id} will`),
      qos,
      retain: false,
      ...(version === 5 ? { properties: { willDelayInterval: delaySeconds } } : {}),
    };
    return (await this.#connect(port, will)) !== undefined;
  }

  /** For those that come back. `readyMs` is when the broker was ready. */
  async comeBack(port: number, readyMs: number): Promise<void> {
    const { ledger, name } = this.#options;
    const connectedMs = await this.#connect(port, undefined);
    if (connectedMs === undefined) ledger.fail(`${name} could not come back`, this.#will.id);
    else if (connectedMs - readyMs <= CERTAINLY_BACK_MS) ledger.saw(name, this.#will.id, 'is back');
    else {
      // Too late to tell who was first: the will may be published, and need not be.
      ledger.saw(name, this.#will.id, 'is back, perhaps too late');
      this.#will.forbidden = undefined;
    }
    this.#link?.destroy();
  }

  /** Does what it does before the kill; resolves when the broker has noticed. */
  async leave(): Promise<void> {
    const { ledger, name, fate } = this.#options;
    if (this.#hasLeft || (fate !== 'dropped' && fate !== 'goodbye')) return;
    this.#hasLeft = true;
    if (fate === 'dropped') {
      ledger.acknowledged(this.#will, 'drops its connection: the will is due');
      this.#link?.destroy();
      return;
    }
    ledger.saw(name, this.#will.id, 'DISCONNECT');
    this.#link?.send({ cmd: 'disconnect' });
    await this.#link?.closed;
  }

  /** Something was acknowledged that somebody else sent after the DISCONNECT: that is committed too. */
  sealGoodbye(): void {
    this.#forbid('it had said DISCONNECT');
  }

  /** The broker is about to be killed. */
  beforeKill(): void {
    const { ledger, fate } = this.#options;
    if (fate === 'back') this.#forbid('it was back in time');
    else if (!this.#hasLeft)
      ledger.acknowledged(this.#will, 'is connected at the kill and gone: the will is due');
  }

  drop(): void {
    this.#link?.destroy();
  }

  async closed(): Promise<void> {
    await this.#link?.closed;
  }

  #forbid(why: string): void {
    const { ledger, name } = this.#options;
    ledger.saw(name, this.#will.id, `the will must not come: ${why}`);
    this.#will.forbidden = why;
  }

  /** When it was connected; undefined where the connection ended before the broker had committed it. */
  async #connect(
    port: number,
    will: NonNullable<Parameters<typeof openLink>[2]['will']> | undefined,
  ): Promise<number | undefined> {
    const { ledger, name, version, isClean } = this.#options;
    let settle: (isCommitted: boolean) => void = () => undefined;
    const committed = new Promise<boolean>((resolve) => {
      settle = resolve;
    });
    const { link, connack } = openLink(
      port,
      version,
      {
        clientId: name,
        clean: isClean,
        expirySeconds: isClean ? 0 : 86_400,
        ...(will === undefined ? {} : { will }),
      },
      {
        onPacket(packet) {
          if (packet.cmd === 'suback') settle(true);
          else if (packet.cmd !== 'disconnect') ledger.fail(`${name} got a ${packet.cmd}`);
        },
        onClose: () => settle(false),
      },
    );
    this.#link = link;
    if ((await connack) === undefined) return undefined;
    const connectedMs = performance.now();
    // SUBACK waits for everything that is in the log before it.
    link.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: `nothing/${name}`, qos: 1 }] });
    return (await committed) ? connectedMs : undefined;
  }
}
