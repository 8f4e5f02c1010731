// A TCP link to etcd that loses things: the answer to one request, or everything of the connections there are, without closing them.
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

export class LossyLink {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #lossy: { pattern: string; before: () => Promise<void> } | undefined;
  #lost: (() => void) | undefined;

  private constructor(target: URL) {
    this.#server = createServer((near) => {
      const far = connect(Number(target.port), target.hostname);
      const pair = [near, far] as const;
      this.#pairs.add(pair);
      let isAnswerLost = false;
      near.on('data', (chunk) => {
        if (this.#lossy !== undefined && chunk.includes(this.#lossy.pattern)) isAnswerLost = true;
        far.write(chunk);
      });
      far.on('data', (chunk) => {
        // What is shorter than an answer is HTTP/2 speaking of itself.
        if (isAnswerLost && chunk.length > 40) void this.#lose(near, far);
        else near.write(chunk);
      });
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        one.on('error', () => {});
        one.on('close', () => {
          other.destroy();
          this.#pairs.delete(pair);
        });
      }
    });
  }

  static async open(t: TestContext, target: string): Promise<LossyLink> {
    const link = new LossyLink(new URL(target));
    await new Promise<void>((resolve) => link.#server.listen(0, '127.0.0.1', resolve));
    t.after(() => link.#close());
    return link;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  /** The connection that sends bytes with `pattern` ends instead of bringing the answer, after `before` was done. Resolves when that has happened. */
  loseAnswerTo(pattern: string, before: () => Promise<void> = async () => {}): Promise<void> {
    this.#lossy = { pattern, before };
    return new Promise((resolve) => {
      this.#lost = resolve;
    });
  }

  /** Nothing comes through any more on the connections that there are; new ones are good. */
  silence(): void {
    for (const [near, far] of this.#pairs) {
      near.pause();
      far.pause();
    }
  }

  async #lose(near: Socket, far: Socket): Promise<void> {
    const lossy = this.#lossy;
    if (lossy === undefined) return;
    this.#lossy = undefined;
    far.pause();
    await lossy.before();
    near.destroy();
    this.#lost?.();
  }

  async #close(): Promise<void> {
    for (const [near, far] of this.#pairs) {
      near.destroy();
      far.destroy();
    }
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
